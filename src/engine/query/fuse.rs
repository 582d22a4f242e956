//! Joins the rankings of several queries by reciprocal rank (Cormack, Clarke and Büttcher, SIGIR 2009).

use std::collections::HashMap;

use super::candidates::Candidates;
use super::hits::{Hit, id_of};
use super::plan::{Output, Plan};
use super::{Work, page, project};
use crate::engine::view::View;
use crate::error::{Error, Result};
use crate::model::query::{Fusion, ResultRow};

/// A row of the answer, and who found it first: that query's projection applies.
struct Fused {
    score: f64,
    plan: usize,
}

/// One ranking of all queries, highest score first, ties by id.
pub(super) fn run(view: &View, plans: &[Plan], fusion: &Fusion, work: &mut Work) -> Result<Vec<ResultRow>> {
    if let Some(at) = plans.iter().position(|plan| !matches!(plan.output, Output::Rows { .. })) {
        return Err(Error::invalid(format!("rerank_by: queries[{at}] has no rank_by, aggregates cannot be fused")));
    }
    let mut found: HashMap<(u32, u32), Fused> = HashMap::new();
    for (at, plan) in plans.iter().enumerate() {
        let candidates = Candidates::new(view, plan.filter.as_ref(), work.allowance)?;
        work.exhaustive += view.tail.len();
        let weight = fusion.weights.get(at).copied().unwrap_or(1.0);
        for (rank, hit) in (1u32..).zip(page(view, plan, &candidates, work)?) {
            let part = weight / (fusion.rank_constant + f64::from(rank));
            found.entry((hit.part, hit.row)).or_insert(Fused { score: 0.0, plan: at }).score += part;
        }
    }
    let mut all = Vec::with_capacity(found.len());
    for ((part, row), fused) in found {
        let hit = Hit { part, row, dist: Some(fused.score as f32) };
        all.push((fused.score as f32, id_of(view, part, row)?, hit, fused.plan));
    }
    all.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let limit = fusion.limit.map_or(usize::MAX, |limit| limit as usize);
    let chosen: Vec<(Hit, usize)> =
        all.into_iter().skip(fusion.offset as usize).take(limit).map(|(_, _, hit, plan)| (hit, plan)).collect();
    let mut rows: Vec<Option<ResultRow>> = vec![None; chosen.len()];
    for (at, plan) in plans.iter().enumerate() {
        let own: Vec<usize> = (0..chosen.len()).filter(|place| chosen[*place].1 == at).collect();
        let hits: Vec<Hit> = own.iter().map(|place| chosen[*place].0).collect();
        for (place, row) in own.into_iter().zip(project::rows(view, &hits, plan, work)?) {
            rows[place] = Some(row);
        }
    }
    Ok(rows.into_iter().flatten().collect())
}
