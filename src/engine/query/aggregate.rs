//! Counts and sums of everything that matches.

use super::candidates::Candidates;
use super::columns::Column;
use super::exact_sum::ExactSum;
use crate::engine::view::View;
use crate::error::{Error, Result};
use crate::model::query::{Aggregate, Number};
use crate::model::schema::{AttributeType, ColumnUid, Schema};
use crate::model::value::Value;
use crate::platform::allowance::{Allowance, ROWS_PER_CHECK};

/// Bound aggregates, in the request's order.
pub(super) struct Aggregates {
    pub(super) labels: Vec<String>,
    pub(super) measures: Vec<Measure>,
}

/// What is counted or summed.
pub(super) enum Measure {
    Count,
    Sum(ColumnUid, AttributeType),
}

/// A count or sum so far; the same whatever order its parts are added in.
#[derive(Clone, Debug)]
pub(super) enum Total {
    Count(u64),
    Int(i128),
    Uint(i128),
    Float(ExactSum),
}

impl Aggregates {
    pub(super) fn bind(schema: &Schema, aggregates: &[(String, Aggregate)]) -> Result<Self> {
        let measures = aggregates.iter().map(|(_, aggregate)| measure(schema, aggregate));
        Ok(Aggregates {
            measures: measures.collect::<Result<_>>()?,
            labels: aggregates.iter().map(|(label, _)| label.clone()).collect(),
        })
    }

    /// The totals of nothing.
    pub(super) fn zero(&self) -> Vec<Total> {
        let zero = |measure: &Measure| match measure {
            Measure::Count => Total::Count(0),
            Measure::Sum(_, AttributeType::Float) => Total::Float(ExactSum::default()),
            Measure::Sum(_, AttributeType::Uint) => Total::Uint(0),
            Measure::Sum(..) => Total::Int(0),
        };
        self.measures.iter().map(zero).collect()
    }

    /// Totals with their labels.
    pub(super) fn label(&self, totals: &[Total]) -> Vec<(String, Number)> {
        self.labels.iter().cloned().zip(totals.iter().map(Total::number)).collect()
    }
}

fn measure(schema: &Schema, aggregate: &Aggregate) -> Result<Measure> {
    let Aggregate::Sum(name) = aggregate else { return Ok(Measure::Count) };
    let Some(column) = schema.column(name) else {
        return Err(Error::invalid(format!("💔 aggregate_by: attribute \"{name}\" not found in schema")));
    };
    match column.kind {
        AttributeType::Int | AttributeType::Uint | AttributeType::Float => {
            Ok(Measure::Sum(column.uid(), column.kind))
        }
        other => Err(Error::invalid(format!("💔 attribute \"{name}\" has type {other}, only numbers can be summed"))),
    }
}

impl Total {
    /// Counts one more document.
    pub(super) fn count(&mut self) {
        if let Total::Count(count) = self {
            *count += 1;
        }
    }

    /// Adds a document's value.
    pub(super) fn add(&mut self, value: &Value) {
        match (self, value) {
            (Total::Int(sum), Value::Int(n)) => *sum += i128::from(*n),
            (Total::Uint(sum), Value::Uint(n)) => *sum += i128::from(*n),
            (Total::Float(sum), Value::Float(x)) => sum.add(*x),
            _ => {}
        }
    }

    /// Adds another part's total of the same measure.
    pub(super) fn merge(&mut self, other: &Total) {
        match (self, other) {
            (Total::Count(a), Total::Count(b)) => *a += b,
            (Total::Int(a), Total::Int(b)) | (Total::Uint(a), Total::Uint(b)) => *a += b,
            (Total::Float(a), Total::Float(b)) => a.add_sum(b),
            _ => {}
        }
    }

    fn number(&self) -> Number {
        match self {
            Total::Count(count) => Number::Uint(*count),
            Total::Int(sum) => i64::try_from(*sum).map_or(Number::Float(*sum as f64), Number::Int),
            Total::Uint(sum) => u64::try_from(*sum).map_or(Number::Float(*sum as f64), Number::Uint),
            Total::Float(sum) => Number::Float(sum.value()),
        }
    }
}

/// The aggregates of all candidates.
pub(super) fn run(
    view: &View,
    aggregates: &Aggregates,
    candidates: &Candidates,
    allowance: &Allowance,
) -> Result<Vec<(String, Number)>> {
    let mut totals = aggregates.zero();
    for (measure, total) in aggregates.measures.iter().zip(&mut totals) {
        let Measure::Sum(uid, _) = measure else {
            *total = Total::Count(candidates.count());
            continue;
        };
        for (segment, rows) in view.segments.iter().zip(&candidates.segments) {
            let column = Column::open(&segment.segment, *uid, rows, allowance)?;
            for (count, row) in (0..).zip(rows) {
                allowance.check_at(count, ROWS_PER_CHECK)?;
                if let Some(ordinal) = column.scalar(row)?
                    && let Some(value) = column.value(ordinal)?
                {
                    total.add(&value);
                }
            }
        }
        for row in candidates.tail.iter().filter_map(|place| view.tail.at(place)) {
            row.document.get(*uid).into_iter().for_each(|value| total.add(value));
        }
    }
    Ok(aggregates.label(&totals))
}
