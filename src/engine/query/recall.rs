//! Measures recall: what ANN finds of what comparing everything finds, for sampled or given vectors.

use super::place::{Place, Ranked, merge};
use super::scope::Scope;
use super::vectors::{Target, bind, nearest_to};
use crate::engine::view::View;
use crate::error::{Error, Result};
use crate::model::query::{QueryStats, Rank, RecallOutcome, RecallRequest, ResultRow};
use crate::model::schema::{AttributeType, ColumnUid};
use crate::model::value::{Value, Vector};
use crate::platform::random::Random;
use crate::segment::vectors::{QueryVector, distance};

/// The most vectors of one measurement.
const NUM_MAX: u32 = 1_000;

/// Runs every query both ways.
pub fn recall(view: &View, request: &RecallRequest, random: &dyn Random) -> Result<RecallOutcome> {
    let scope = Scope::new(view, request.filter.as_ref())?;
    let targets = match &request.rank_by {
        Some(Rank::Ann { attribute, vector } | Rank::Knn { attribute, vector }) => {
            vec![bind(&view.schema, attribute, vector)?]
        }
        Some(_) => return Err(Error::invalid("💔 recall: rank_by must be ANN or kNN")),
        None => sample(&scope, request.num.min(NUM_MAX), random)?,
    };
    let top_k = request.top_k as usize;
    let mut outcome = RecallOutcome::default();
    let mut truths = Vec::new();
    for target in &targets {
        let found = nearest_to(&scope, target, top_k, &mut QueryStats::default())?;
        let truth = exhaustive(&scope, target, top_k)?;
        let hits = truth.iter().filter(|row| found.iter().any(|other| other.id == row.id)).count();
        outcome.avg_recall += if truth.is_empty() { 1.0 } else { hits as f64 / truth.len() as f64 };
        outcome.avg_exhaustive_count += truth.len() as f64;
        outcome.avg_ann_count += found.len() as f64;
        if request.include_ground_truth {
            let row = |r: Ranked| ResultRow { id: r.id, dist: r.dist, fields: Vec::new() };
            truths.push((target.query.values().to_vec(), truth.into_iter().map(row).collect()));
        }
    }
    let count = targets.len().max(1) as f64;
    outcome.avg_recall = if targets.is_empty() { 1.0 } else { outcome.avg_recall / count };
    outcome.avg_exhaustive_count /= count;
    outcome.avg_ann_count /= count;
    outcome.ground_truth = request.include_ground_truth.then_some(truths);
    Ok(outcome)
}

/// Vectors of matching documents, each with the same chance.
fn sample(scope: &Scope<'_>, num: u32, random: &dyn Random) -> Result<Vec<Target>> {
    let schema = &scope.view.schema;
    let column = schema.columns.iter().find_map(|column| match column.kind {
        AttributeType::Vector { element, .. } => Some((column.uid(), element)),
        _ => None,
    });
    let Some((column, element)) = column else {
        return Err(Error::invalid("💔 recall: the namespace has no vector attribute"));
    };
    let metric = schema.metric.ok_or_else(|| Error::internal("a schema with vectors has no distance metric"))?;
    let mut places: Vec<Place> = (0..scope.tail.len()).map(Place::Tail).collect();
    for at in 0..scope.segments.len() {
        places.extend(scope.rows(at).iter().map(|row| Place::Segment { segment: at, row }));
    }
    let mut targets = Vec::new();
    while !places.is_empty() && targets.len() < num as usize {
        let at = (random.next_u64() % places.len() as u64) as usize;
        let place = places.swap_remove(at);
        if let Some(vector) = vector_of(scope, &place, column)? {
            targets.push(Target { column, element, query: QueryVector::new(metric, vector.to_f32()) });
        }
    }
    Ok(targets)
}

fn vector_of(scope: &Scope<'_>, place: &Place, column: ColumnUid) -> Result<Option<Vector>> {
    match place {
        Place::Segment { segment, row } => match scope.segments[*segment].0.segment.vectors(column)? {
            Some(reader) => reader.vector(*row),
            None => Ok(None),
        },
        Place::Tail(at) => match scope.tail[*at].document.get(column) {
            Some(Value::Vector(vector)) => Ok(Some(vector.clone())),
            _ => Ok(None),
        },
    }
}

/// Compares every matching document, one by one.
fn exhaustive(scope: &Scope<'_>, target: &Target, count: usize) -> Result<Vec<Ranked>> {
    let mut all = Vec::new();
    let mut add = |place: Place| -> Result<()> {
        if let Some(vector) = vector_of(scope, &place, target.column)? {
            let dist = Some(distance(&target.query, &vector));
            all.push(Ranked { id: scope.id(&place)?, place, dist });
        }
        Ok(())
    };
    for at in 0..scope.segments.len() {
        for row in scope.rows(at) {
            add(Place::Segment { segment: at, row })?;
        }
    }
    (0..scope.tail.len()).try_for_each(|at| add(Place::Tail(at)))?;
    Ok(merge(all, false, count))
}
