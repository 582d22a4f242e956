//! Measures recall: what ANN finds of what comparing everything finds, for sampled or given vectors.

use std::collections::HashSet;

use roaring::RoaringBitmap;

use super::candidates::Candidates;
use super::hits::{Hit, id_of, merge, smallest_of_tail};
use super::plan::{Operand, Target};
use super::{Work, nearest};
use crate::engine::filter::bind::bind;
use crate::engine::view::View;
use crate::error::{Error, Result};
use crate::model::query::{Rank, Recall, RecallOutcome, RecallRequest, ResultRow};
use crate::model::schema::ColumnUid;
use crate::model::value::{Value, Vector};
use crate::platform::allowance::{Allowance, DOCUMENTS_PER_CHECK};
use crate::platform::random::Random;

/// The most vectors of one measurement.
const NUM_MAX: u32 = 1_000;
/// Of a document that stands for a query so many tokens, as ColBERT's queries have.
const SAMPLE_TOKENS: usize = 32;

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
        let truth = exhaustive(view, target, &candidates, top_k, allowance)?;
        let places: HashSet<(u32, u32)> = found.iter().map(|hit| (hit.part, hit.row)).collect();
        let hits = truth.iter().filter(|hit| places.contains(&(hit.part, hit.row))).count();
        outcome.avg_recall += if truth.is_empty() { 1.0 } else { hits as f64 / truth.len() as f64 };
        outcome.avg_exhaustive_count += truth.len() as f64;
        outcome.avg_ann_count += found.len() as f64;
        if request.include_ground_truth {
            // All queries together answer with these.
            allowance.keep(truth.len() * size_of::<ResultRow>())?;
            let row = |hit: Hit| -> Result<ResultRow> {
                Ok(ResultRow {
                    id: id_of(view, hit.part, hit.row)?,
                    dist: hit.dist,
                    fields: Vec::new(),
                    computed: Vec::new(),
                })
            };
            let rows = truth.into_iter().map(row).collect::<Result<Vec<ResultRow>>>()?;
            truths.push((target.operand.value(), rows));
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
    let mut vectors = view.schema.columns.iter().filter(|column| column.has_ann());
    let Some(column) = vectors.clone().find(|column| column.name == "vector").or_else(|| vectors.next()) else {
        return Err(Error::invalid("💔 recall: the namespace has no vector attribute"));
    };
    let uid = column.uid();
    let mut parts = Vec::with_capacity(candidates.segments.len() + 1);
    for (segment, rows) in view.segments.iter().zip(&candidates.segments) {
        let present = match (segment.segment.vectors(uid)?, segment.segment.tokens(uid)?) {
            (Some(vectors), _) => vectors.present()?,
            (None, Some(tokens)) => tokens.present(),
            (None, None) => RoaringBitmap::new(),
        };
        parts.push(present & rows);
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
                if let Some(value) = query_of(view, part as u32, row, uid)? {
                    targets.push(Target::new(&view.schema, column, value, recall)?);
                }
            }
            break;
        }
        left -= 1;
    }
    Ok(targets)
}

/// A row's value as a query: in full precision, and of several vectors as many as queries of tokens usually have. `None` without any.
fn query_of(view: &View, part: u32, row: u32, column: ColumnUid) -> Result<Option<Value>> {
    let stored = match view.segments.get(part as usize) {
        Some(segment) => segment.segment.document(row, Some(&[column]))?.get(column).cloned(),
        None => view.tail.at(row).and_then(|row| row.document.get(column)).cloned(),
    };
    Ok(match stored {
        Some(Value::Vector(vector)) => Some(Value::Vector(Vector::F32(vector.to_f32()))),
        Some(Value::Multivector(mut tokens)) if !tokens.elements.is_empty() => {
            tokens.elements.truncate(SAMPLE_TOKENS * tokens.dims as usize);
            Some(Value::Multivector(tokens))
        }
        _ => None,
    })
}

/// Compares every matching document, one by one and by no index.
fn exhaustive(
    view: &View,
    target: &Target,
    candidates: &Candidates,
    k: usize,
    allowance: &Allowance,
) -> Result<Vec<Hit>> {
    let mut parts = Vec::with_capacity(view.segments.len() + 1);
    for (segment, rows) in view.segments.iter().zip(&candidates.segments) {
        let vectors = segment.segment.vectors(target.column)?;
        let tokens = segment.segment.tokens(target.column)?;
        let mut all = Vec::new();
        for (count, row) in (0..).zip(rows) {
            allowance.check_at(count, DOCUMENTS_PER_CHECK)?;
            let distance = match (&target.operand, &vectors, &tokens) {
                (Operand::Vector(query), Some(vectors), _) => vectors.distance(row, query)?,
                (Operand::Tokens(query), _, Some(tokens)) => tokens.distance(row, query)?,
                _ => None,
            };
            all.extend(distance.map(|distance| (distance, row)));
        }
        all.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        all.truncate(k);
        parts.push(all);
    }
    let mut tail = Vec::new();
    for place in &candidates.tail {
        let value = view.tail.at(place).and_then(|row| row.document.get(target.column));
        tail.extend(value.and_then(|value| target.operand.distance(value)).map(|distance| (distance, place)));
    }
    parts.push(smallest_of_tail(view, tail, k));
    merge(view, parts, k, false)
}
