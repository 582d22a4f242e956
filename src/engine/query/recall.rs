//! Measures recall: what ANN finds of what comparing everything finds, for sampled or given vectors.

use roaring::RoaringBitmap;

use super::candidates::Candidates;
use super::hits::{Hit, id_of, merge, smallest_of_tail};
use super::plan::Target;
use super::{Work, nearest};
use crate::engine::filter::bind::bind;
use crate::engine::view::View;
use crate::error::{Error, Result};
use crate::model::query::{Rank, Recall, RecallOutcome, RecallRequest, ResultRow};
use crate::model::schema::ColumnUid;
use crate::model::value::Value;
use crate::platform::allowance::Allowance;
use crate::platform::random::Random;
use crate::segment::vectors::distance;

/// The most vectors of one measurement.
const NUM_MAX: u32 = 1_000;

/// Runs every query both ways.
pub fn recall(
    view: &View,
    request: &RecallRequest,
    random: &dyn Random,
    allowance: &Allowance,
) -> Result<RecallOutcome> {
    let filter = request.filter.as_ref().map(|expr| bind(expr, &view.schema, allowance)).transpose()?;
    let candidates = Candidates::new(view, filter.as_ref(), allowance)?;
    let recall = request.recall.unwrap_or(view.recall);
    let targets = match &request.rank_by {
        Some(Rank::Ann { attribute, vector } | Rank::Knn { attribute, vector }) => {
            vec![Target::bind(&view.schema, attribute, vector, recall)?]
        }
        Some(_) => return Err(Error::invalid("💔 recall: rank_by must be ANN or kNN")),
        None => sample(view, &candidates, request.num.min(NUM_MAX), recall, random)?,
    };
    let top_k = request.top_k as usize;
    let mut outcome = RecallOutcome::default();
    let mut truths = Vec::new();
    for target in &targets {
        allowance.check()?;
        let found = nearest::run(view, target, &candidates, top_k, &mut Work::new(allowance))?;
        let truth = exhaustive(view, target, &candidates, top_k)?;
        let same = |hit: &&Hit| found.iter().any(|other| (other.part, other.row) == (hit.part, hit.row));
        let hits = truth.iter().filter(same).count();
        outcome.avg_recall += if truth.is_empty() { 1.0 } else { hits as f64 / truth.len() as f64 };
        outcome.avg_exhaustive_count += truth.len() as f64;
        outcome.avg_ann_count += found.len() as f64;
        if request.include_ground_truth {
            let row = |hit: Hit| -> Result<ResultRow> {
                Ok(ResultRow {
                    id: id_of(view, hit.part, hit.row)?,
                    dist: hit.dist,
                    fields: Vec::new(),
                    computed: Vec::new(),
                })
            };
            let rows = truth.into_iter().map(row).collect::<Result<Vec<ResultRow>>>()?;
            truths.push((target.query.values().to_vec(), rows));
        }
    }
    let count = targets.len().max(1) as f64;
    outcome.avg_recall = if targets.is_empty() { 1.0 } else { outcome.avg_recall / count };
    outcome.avg_exhaustive_count /= count;
    outcome.avg_ann_count /= count;
    outcome.ground_truth = request.include_ground_truth.then_some(truths);
    Ok(outcome)
}

/// Vectors of matching documents of `vector`, or of the first vector attribute where none is named so, each document with the same chance and at most once.
fn sample(
    view: &View,
    candidates: &Candidates,
    num: u32,
    recall: Recall,
    random: &dyn Random,
) -> Result<Vec<Target>> {
    let mut vectors = view.schema.columns.iter().filter(|column| column.kind.is_vector());
    let Some(column) = vectors.clone().find(|column| column.name == "vector").or_else(|| vectors.next()) else {
        return Err(Error::invalid("💔 recall: the namespace has no vector attribute"));
    };
    let uid = column.uid();
    let mut parts = Vec::with_capacity(candidates.segments.len() + 1);
    for (segment, rows) in view.segments.iter().zip(&candidates.segments) {
        parts.push(match segment.segment.vectors(uid)? {
            Some(vectors) => vectors.present()? & rows,
            None => RoaringBitmap::new(),
        });
    }
    parts.push(
        candidates
            .tail
            .iter()
            .filter(|place| view.tail.at(*place).is_some_and(|r| r.document.get(uid).is_some()))
            .collect(),
    );
    let mut left: u64 = parts.iter().map(RoaringBitmap::len).sum();
    let mut targets = Vec::new();
    while left > 0 && targets.len() < num as usize {
        let mut at = random.next_u64() % left;
        for (part, rows) in parts.iter_mut().enumerate() {
            if at >= rows.len() {
                at -= rows.len();
                continue;
            }
            if let Some(row) = rows.select(at as u32) {
                rows.remove(row);
                let vector = vector_of(view, part as u32, row, uid)?;
                targets.extend(vector.map(|values| Target::new(&view.schema, uid, values, recall)).transpose()?);
            }
            break;
        }
        left -= 1;
    }
    Ok(targets)
}

fn vector_of(view: &View, part: u32, row: u32, column: ColumnUid) -> Result<Option<Vec<f32>>> {
    if let Some(segment) = view.segments.get(part as usize) {
        let vector = segment.segment.vectors(column)?.map(|vectors| vectors.vector(row)).transpose()?.flatten();
        return Ok(vector.map(|vector| vector.to_f32()));
    }
    Ok(match view.tail.at(row).and_then(|row| row.document.get(column)) {
        Some(Value::Vector(vector)) => Some(vector.to_f32()),
        _ => None,
    })
}

/// Compares every matching document, one by one and by no index.
fn exhaustive(view: &View, target: &Target, candidates: &Candidates, k: usize) -> Result<Vec<Hit>> {
    let mut parts = Vec::with_capacity(view.segments.len() + 1);
    for (segment, rows) in view.segments.iter().zip(&candidates.segments) {
        let mut all = Vec::new();
        if let Some(vectors) = segment.segment.vectors(target.column)? {
            for row in rows {
                all.extend(vectors.distance(row, &target.query)?.map(|distance| (distance, row)));
            }
        }
        all.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        all.truncate(k);
        parts.push(all);
    }
    let mut tail = Vec::new();
    for place in &candidates.tail {
        if let Some(Value::Vector(vector)) = view.tail.at(place).and_then(|row| row.document.get(target.column)) {
            tail.push((distance(&target.query, vector), place));
        }
    }
    parts.push(smallest_of_tail(view, tail, k));
    merge(view, parts, k, false)
}
