//! Joins the rankings of several queries by reciprocal rank (Cormack, Clarke and Büttcher, SIGIR 2009).

use std::collections::HashMap;

use super::place::Place;
use super::scope::Scope;
use super::{check_metric, project, ranking};
use crate::engine::view::View;
use crate::error::{Error, Result};
use crate::model::ids::DocId;
use crate::model::query::{Answer, Fusion, Query, QueryStats, ResultRow};

/// Rows of a fused answer when the request does not say.
const LIMIT_DEFAULT: usize = 10_000;

/// A row of the answer, and who found it first: that query's projection applies.
struct Fused {
    score: f64,
    query: usize,
    place: Place,
}

/// One ranking of all queries.
pub fn run(view: &View, queries: &[Query], fusion: &Fusion, stats: &mut QueryStats) -> Result<Answer> {
    let mut scopes = Vec::with_capacity(queries.len());
    let mut fused: HashMap<DocId, Fused> = HashMap::new();
    for (at, query) in queries.iter().enumerate() {
        let Some(rank) = &query.rank_by else {
            return Err(Error::invalid(format!(
                "rerank_by: queries[{at}] has no rank_by, aggregates cannot be fused"
            )));
        };
        check_metric(&view.schema, query)?;
        let scope = Scope::new(view, query.filter.as_ref())?;
        let weight = fusion.weights.get(at).copied().unwrap_or(1.0);
        for (rank, row) in ranking(&scope, query, rank, stats)?.into_iter().enumerate() {
            let part = weight / (fusion.rank_constant + rank as f64 + 1.0);
            let place = row.place;
            fused.entry(row.id).or_insert(Fused { score: 0.0, query: at, place }).score += part;
        }
        scopes.push(scope);
    }
    let mut all: Vec<(DocId, Fused)> = fused.into_iter().collect();
    all.sort_unstable_by(|(a, x), (b, y)| (y.score as f32).total_cmp(&(x.score as f32)).then_with(|| a.cmp(b)));
    let limit = fusion.limit.map_or(LIMIT_DEFAULT, |limit| limit as usize);
    let mut rows: Vec<ResultRow> = Vec::new();
    for (id, found) in all.into_iter().skip(fusion.offset as usize).take(limit) {
        let columns = project::bind(&view.schema, &queries[found.query].projection)?;
        let ranked = super::Ranked { id, place: found.place, dist: Some(found.score as f32) };
        rows.extend(project::rows(&scopes[found.query], &[ranked], &columns, stats)?);
    }
    Ok(Answer::Rows(rows))
}
