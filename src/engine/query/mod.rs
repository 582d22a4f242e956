//! Queries over one snapshot: names bound to the schema, rows chosen, ranked and projected.
//!
//! - `scope` is which rows match; `place` says where a row is;
//! - `vectors`, `score` (with `text` and `sparse`) and `order` rank them; `aggregate` counts them;
//! - `project` makes the rows of an answer; `fuse` joins rankings; `explain` says what would be done; `recall` measures.

mod aggregate;
mod explain;
mod fuse;
mod order;
mod place;
mod project;
mod recall;
mod scope;
mod score;
mod sparse;
mod text;
mod vectors;

use std::time::Instant;

pub use self::explain::explain;
pub use self::recall::recall;

use self::place::Ranked;
use self::scope::Scope;
use super::view::View;
use crate::error::{Error, Result};
use crate::model::query::{Answer, Per, Query, QueryOutcome, QueryRequest, QueryStats, Rank};
use crate::model::schema::Schema;
use crate::model::value::Value;

/// Rows or groups of an answer when the query does not say.
const LIMIT_DEFAULT: u32 = 10_000;

/// Answers one or several queries from one snapshot.
pub fn run(view: &View, request: &QueryRequest) -> Result<QueryOutcome> {
    let started = Instant::now();
    let mut stats = QueryStats { documents: view.documents(), cache_hit_ratio: 1.0, ..QueryStats::default() };
    let mut answers = Vec::with_capacity(request.queries.len());
    if let Some(fusion) = &request.fusion {
        answers.push(fuse::run(view, &request.queries, fusion, &mut stats)?);
    } else {
        for query in &request.queries {
            answers.push(one(view, query, &mut stats)?);
        }
    }
    stats.execution_micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
    Ok(QueryOutcome { answers, stats })
}

fn one(view: &View, query: &Query, stats: &mut QueryStats) -> Result<Answer> {
    check_metric(&view.schema, query)?;
    let scope = Scope::new(view, query.filter.as_ref())?;
    match &query.rank_by {
        None => aggregate::run(&scope, query, stats),
        Some(rank) => {
            let projection = project::bind(&view.schema, &query.projection)?;
            let ranked = ranking(&scope, query, rank, stats)?;
            project::rows(&scope, &ranked, &projection, stats).map(Answer::Rows)
        }
    }
}

/// The rows that the query asks for, in order.
fn ranking(scope: &Scope<'_>, query: &Query, rank: &Rank, stats: &mut QueryStats) -> Result<Vec<Ranked>> {
    let (offset, limit) = (query.offset as usize, query.limit.unwrap_or(LIMIT_DEFAULT) as usize);
    let wanted = offset + limit;
    let Some(per) = &query.per else {
        let mut ranked = best(scope, rank, wanted, stats)?;
        ranked.drain(..offset.min(ranked.len()));
        return Ok(ranked);
    };
    // How deep the limit per combination reaches is known only by looking: go four times deeper until it is enough.
    let keys = PerKeys::bind(&scope.view.schema, per)?;
    let mut depth = wanted.saturating_mul(4).max(64);
    loop {
        let ranked = best(scope, rank, depth, stats)?;
        let exhausted = ranked.len() < depth;
        let mut kept = keys.thin(scope, ranked, wanted)?;
        if kept.len() == wanted || exhausted {
            kept.drain(..offset.min(kept.len()));
            return Ok(kept);
        }
        depth = depth.saturating_mul(4);
    }
}

/// The best `count` rows.
fn best(scope: &Scope<'_>, rank: &Rank, count: usize, stats: &mut QueryStats) -> Result<Vec<Ranked>> {
    match rank {
        Rank::Ann { attribute, vector } => vectors::nearest(scope, attribute, vector, count, stats),
        Rank::Knn { attribute, vector } => {
            if !scope.is_filtered() {
                return Err(Error::invalid("💔 rank_by kNN requires filters, use ANN to search the whole namespace"));
            }
            vectors::nearest(scope, attribute, vector, count, stats)
        }
        Rank::Score(clause) => score::best(scope, clause, count, stats),
        Rank::Attributes(attributes) => order::best(scope, attributes, count, stats),
    }
}

fn check_metric(schema: &Schema, query: &Query) -> Result<()> {
    match (query.metric, schema.metric) {
        (Some(asked), Some(has)) if asked != has => {
            Err(Error::invalid(format!("💔 distance metric mismatch, expected {}, got {}", has.name(), asked.name())))
        }
        _ => Ok(()),
    }
}

/// `limit.per`: at most so many rows of each combination of values.
struct PerKeys {
    columns: Vec<crate::model::schema::ColumnUid>,
    limit: usize,
}

impl PerKeys {
    fn bind(schema: &Schema, per: &Per) -> Result<PerKeys> {
        let mut columns = Vec::with_capacity(per.attributes.len());
        for name in &per.attributes {
            let column = schema
                .column(name)
                .ok_or_else(|| Error::invalid(format!("limit.per: attribute \"{name}\" not found in schema")))?;
            columns.push(column.uid());
        }
        columns.sort_unstable();
        Ok(PerKeys { columns, limit: per.limit as usize })
    }

    fn thin(&self, scope: &Scope<'_>, ranked: Vec<Ranked>, wanted: usize) -> Result<Vec<Ranked>> {
        let mut seen: std::collections::HashMap<String, usize> = std::collections::HashMap::new();
        let mut kept = Vec::new();
        for row in ranked {
            if kept.len() == wanted {
                break;
            }
            let document = scope.document(&row.place, Some(&self.columns))?;
            let key: Vec<Option<&Value>> = self.columns.iter().map(|column| document.get(*column)).collect();
            let count = seen.entry(format!("{key:?}")).or_default();
            if *count < self.limit {
                *count += 1;
                kept.push(row);
            }
        }
        Ok(kept)
    }
}
