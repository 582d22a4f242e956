//! Scores from expressions: sums, maxima and products of text, sparse, filter and attribute clauses, highest first.
//!
//! Every part of the snapshot is scored with statistics of the whole, so a row scores the same wherever it lies. Scores are
//! added in f64 and rounded to f32 once, before rows are sorted.

use roaring::RoaringBitmap;

use super::place::{Best, Place, Ranked, merge};
use super::scope::Scope;
use super::sparse::BoundSparse;
use super::text::BoundText;
use crate::engine::analyzers::Analyzers;
use crate::engine::filter::bind::bind;
use crate::engine::filter::bitmap;
use crate::engine::filter::matches::matches_with;
use crate::engine::view::TailRow;
use crate::error::{Error, Result};
use crate::model::filter::Filter;
use crate::model::query::{Clause, QueryStats};
use crate::model::schema::{AttributeType, ColumnUid, Schema};
use crate::model::value::Value;

/// A clause bound to the schema and the snapshot's statistics.
enum Bound {
    Text(BoundText),
    Sparse(BoundSparse),
    Sum(Vec<Bound>),
    Max(Vec<Bound>),
    Product(f64, Box<Bound>),
    Filter(Filter),
    Attribute(ColumnUid),
    Constant(f64),
}

/// Rows with their scores, ascending by row; rows that are not there score 0.
type Scores = Vec<(u32, f64)>;

/// The `count` rows with the highest scores.
pub fn best(scope: &Scope<'_>, clause: &Clause, count: usize, stats: &mut QueryStats) -> Result<Vec<Ranked>> {
    let bound = bind_clause(scope, clause, false)?;
    // A row that no text, filter or sparse clause finds is no answer; attributes rank every row.
    let keeps_zero = has_attribute(clause);
    let mut all = Vec::new();
    for (at, (view, allowed)) in scope.segments.iter().enumerate() {
        let part = Part { scope, at };
        let scores = part.scores(&bound)?;
        stats.bytes_queried += 8 * scores.len() as u64;
        let mut best = Best::highest(count);
        if keeps_zero {
            let mut scores = scores.into_iter().peekable();
            for row in scope.rows(at) {
                while scores.peek().is_some_and(|(scored, _)| *scored < row) {
                    scores.next();
                }
                let score = scores.next_if(|(scored, _)| *scored == row).map_or(0.0, |(_, score)| score);
                best.push(score as f32, row);
            }
        } else {
            for (row, score) in scores {
                let live = allowed.as_ref().map_or_else(|| !view.dead.contains(row), |rows| rows.contains(row));
                if live && score as f32 > 0.0 {
                    best.push(score as f32, row);
                }
            }
        }
        for (score, row) in best.into_sorted() {
            let place = Place::Segment { segment: at, row };
            all.push(Ranked { id: scope.id(&place)?, place, dist: Some(score) });
        }
    }
    let mut analyzers = Analyzers::new();
    for (at, row) in scope.tail.iter().enumerate() {
        let score = tail_score(&bound, &scope.view.schema, row, &mut analyzers) as f32;
        if keeps_zero || score > 0.0 {
            all.push(Ranked { id: row.document.id.clone(), place: Place::Tail(at), dist: Some(score) });
        }
    }
    stats.exhaustive += scope.tail.len() as u64;
    Ok(merge(all, true, count))
}

fn has_attribute(clause: &Clause) -> bool {
    match clause {
        Clause::Attribute(_) => true,
        Clause::Sum(parts) | Clause::Max(parts) => parts.iter().any(has_attribute),
        Clause::Product(_, part) => has_attribute(part),
        Clause::Constant(value) => *value > 0.0,
        Clause::Bm25 { .. } | Clause::SparseKnn { .. } | Clause::Filter(_) => false,
    }
}

/// `clamped`: a `Max` with a constant is around the clause, so it cannot make the score negative.
fn bind_clause(scope: &Scope<'_>, clause: &Clause, clamped: bool) -> Result<Bound> {
    let schema = &scope.view.schema;
    Ok(match clause {
        Clause::Bm25 { attribute, query, last_as_prefix } => {
            Bound::Text(BoundText::bind(scope.view, attribute, query, *last_as_prefix)?)
        }
        Clause::SparseKnn { attribute, vector } => Bound::Sparse(BoundSparse::bind(schema, attribute, vector)?),
        Clause::Sum(parts) => {
            Bound::Sum(parts.iter().map(|part| bind_clause(scope, part, false)).collect::<Result<_>>()?)
        }
        Clause::Max(parts) => {
            let clamps = parts.iter().any(|part| matches!(part, Clause::Constant(_)));
            Bound::Max(parts.iter().map(|part| bind_clause(scope, part, clamps)).collect::<Result<_>>()?)
        }
        Clause::Product(weight, part) => Bound::Product(*weight, Box::new(bind_clause(scope, part, clamped)?)),
        Clause::Filter(expr) => Bound::Filter(bind(expr, schema)?),
        Clause::Attribute(name) => Bound::Attribute(bind_attribute(schema, name, clamped)?),
        Clause::Constant(value) => Bound::Constant(*value),
    })
}

fn bind_attribute(schema: &Schema, name: &str, clamped: bool) -> Result<ColumnUid> {
    let Some(column) = schema.column(name) else {
        return Err(Error::invalid(format!("💔 attribute \"{name}\" not found in schema, cannot be ranked by")));
    };
    match column.kind {
        AttributeType::Uint => {}
        AttributeType::Int | AttributeType::Float if clamped => {}
        AttributeType::Int | AttributeType::Float => {
            return Err(Error::invalid(format!(
                "rank_by clauses must produce non-negative scores, but an attribute clause on signed numeric attribute \
                 '{name}' was used. Wrap this clause under a [\"Max\", [0, <clause>]] to fix this."
            )));
        }
        other => {
            return Err(Error::invalid(format!(
                "💔 attribute \"{name}\" has type {other}, only numbers can be a score"
            )));
        }
    }
    Ok(column.uid())
}

/// One segment being scored.
struct Part<'a> {
    scope: &'a Scope<'a>,
    at: usize,
}

impl Part<'_> {
    fn scores(&self, bound: &Bound) -> Result<Scores> {
        let (view, _) = &self.scope.segments[self.at];
        match bound {
            Bound::Text(text) => text.scores(&view.segment),
            Bound::Sparse(sparse) => sparse.scores(&view.segment),
            Bound::Sum(parts) => self.fold(parts, |a, b| a + b),
            Bound::Max(parts) => {
                let floor = parts.iter().filter_map(constant).fold(0.0, f64::max);
                let others: Vec<&Bound> = parts.iter().filter(|part| constant(part).is_none()).collect();
                let mut scores = Scores::new();
                for part in others {
                    scores = join(scores, self.scores(part)?, f64::max);
                }
                if floor > 0.0 {
                    scores = join(scores, self.everywhere(floor), f64::max);
                }
                // A row that is not there scores 0, which is above anything negative.
                scores.retain(|(_, score)| *score > 0.0);
                Ok(scores)
            }
            Bound::Product(weight, part) => {
                let mut scores = self.scores(part)?;
                for (_, score) in &mut scores {
                    *score *= weight;
                }
                Ok(scores)
            }
            Bound::Filter(filter) => {
                let rows: RoaringBitmap = bitmap::rows(filter, &self.scope.view.schema, view)?;
                Ok(rows.iter().map(|row| (row, 1.0)).collect())
            }
            Bound::Attribute(column) => self.attribute(*column),
            Bound::Constant(value) => Ok(self.everywhere(*value)),
        }
    }

    fn fold(&self, parts: &[Bound], joined: impl Fn(f64, f64) -> f64 + Copy) -> Result<Scores> {
        let mut scores = Scores::new();
        for part in parts {
            scores = join(scores, self.scores(part)?, joined);
        }
        Ok(scores)
    }

    fn everywhere(&self, score: f64) -> Scores {
        self.scope.rows(self.at).iter().map(|row| (row, score)).collect()
    }

    fn attribute(&self, column: ColumnUid) -> Result<Scores> {
        let segment = &self.scope.segments[self.at].0.segment;
        let rows = self.scope.rows(self.at);
        let mut scores = Scores::new();
        match segment.attribute(column)? {
            Some(reader) => {
                let numbers =
                    (0..reader.values()).map(|n| reader.value(n).map(|v| number(&v))).collect::<Result<Vec<_>>>()?;
                for row in rows {
                    if let Some(ordinal) = reader.scalar_ordinal(row)? {
                        scores.push((row, numbers.get(ordinal as usize).copied().unwrap_or(0.0)));
                    }
                }
            }
            None if segment.column(column).is_none() => {}
            None => {
                for row in rows {
                    if let Some(value) = segment.document(row, Some(&[column]))?.get(column) {
                        scores.push((row, number(value)));
                    }
                }
            }
        }
        Ok(scores)
    }
}

fn constant(bound: &Bound) -> Option<f64> {
    match bound {
        Bound::Constant(value) => Some(*value),
        _ => None,
    }
}

fn number(value: &Value) -> f64 {
    match value {
        Value::Int(n) => *n as f64,
        Value::Uint(n) => *n as f64,
        Value::Float(x) => *x,
        _ => 0.0,
    }
}

/// Two lists as one; where a row is in both, its scores are joined.
fn join(a: Scores, b: Scores, joined: impl Fn(f64, f64) -> f64) -> Scores {
    if a.is_empty() {
        return b;
    }
    let mut out = Scores::with_capacity(a.len().max(b.len()));
    let (mut a, mut b) = (a.into_iter().peekable(), b.into_iter().peekable());
    loop {
        match (a.peek(), b.peek()) {
            (Some((x, left)), Some((y, right))) if x == y => {
                out.push((*x, joined(*left, *right)));
                a.next();
                b.next();
            }
            (Some((x, _)), Some((y, _))) if x < y => out.extend(a.next()),
            (_, Some(_)) => out.extend(b.next()),
            (Some(_), None) => out.extend(a.next()),
            (None, None) => return out,
        }
    }
}

fn tail_score(bound: &Bound, schema: &Schema, row: &TailRow, analyzers: &mut Analyzers) -> f64 {
    match bound {
        Bound::Text(text) => text.score(row),
        Bound::Sparse(sparse) => sparse.score(row),
        Bound::Sum(parts) => parts.iter().map(|part| tail_score(part, schema, row, analyzers)).sum(),
        Bound::Max(parts) => parts.iter().map(|part| tail_score(part, schema, row, analyzers)).fold(0.0, f64::max),
        Bound::Product(weight, part) => weight * tail_score(part, schema, row, analyzers),
        Bound::Filter(filter) => {
            f64::from(u8::from(matches_with(filter, schema, &row.document, &row.terms, analyzers)))
        }
        Bound::Attribute(column) => row.document.get(*column).map_or(0.0, number),
        Bound::Constant(value) => *value,
    }
}
