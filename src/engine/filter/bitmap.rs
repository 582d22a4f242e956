//! Filters as sets of rows: attribute and text indexes where there are, the rows themselves where there are none.

use std::ops::Bound;

use roaring::RoaringBitmap;

use super::matches::{matches_id, matches_value, matches_with};
use crate::engine::analyzers::Analyzers;
use crate::engine::view::{SegmentView, View};
use crate::error::Result;
use crate::model::filter::{Filter, IdTest, Order, Pattern, Test, TokenMode, TokenTest};
use crate::model::ids::DocId;
use crate::model::schema::{ColumnUid, Schema};
use crate::model::value::Value;
use crate::segment::Segment;
use crate::segment::attributes::AttributeReader;
use crate::segment::text::reader::TextReader;

/// The most terms that one prefix stands for in one segment.
const PREFIX_TERMS_MAX: usize = 65_536;

/// The live rows of a segment that match.
pub fn rows(filter: &Filter, schema: &Schema, view: &SegmentView) -> Result<RoaringBitmap> {
    let mut found = Rows { schema, segment: &view.segment, analyzers: Analyzers::new() }.of(filter)?;
    found -= &*view.dead;
    Ok(found)
}

/// Ids of live documents that match, at most `limit`, ascending, and whether there are more.
pub fn matching(view: &View, filter: &Filter, limit: usize) -> Result<(Vec<DocId>, bool)> {
    let mut ids = Vec::new();
    let mut analyzers = Analyzers::new();
    for (_, row) in view.tail.iter() {
        if matches_with(filter, &view.schema, &row.document, &row.terms, &mut analyzers) {
            ids.push(row.document.id.clone());
        }
    }
    for segment in &view.segments {
        // The lowest `limit` of all are among the lowest of each, and rows ascend by id.
        for row in rows(filter, &view.schema, segment)?.iter().take(limit.saturating_add(1)) {
            ids.push(segment.segment.id_of(row)?);
        }
    }
    ids.sort_unstable();
    let more = ids.len() > limit;
    ids.truncate(limit);
    Ok((ids, more))
}

struct Rows<'a> {
    schema: &'a Schema,
    segment: &'a Segment,
    analyzers: Analyzers,
}

impl Rows<'_> {
    fn of(&mut self, filter: &Filter) -> Result<RoaringBitmap> {
        match filter {
            Filter::All => Ok(self.all()),
            Filter::None => Ok(RoaringBitmap::new()),
            Filter::And(parts) => {
                let mut found: Option<RoaringBitmap> = None;
                for part in parts {
                    let next = self.of(part)?;
                    let both = match found {
                        None => next,
                        Some(found) => found & next,
                    };
                    if both.is_empty() {
                        return Ok(both);
                    }
                    found = Some(both);
                }
                Ok(found.unwrap_or_else(|| self.all()))
            }
            Filter::Or(parts) => {
                let mut found = RoaringBitmap::new();
                for part in parts {
                    found |= self.of(part)?;
                }
                Ok(found)
            }
            Filter::Not(inner) => Ok(self.all() - self.of(inner)?),
            Filter::Id(test) => self.ids(test),
            Filter::Column(column, Test::Tokens(test)) => self.tokens(*column, test, filter),
            Filter::Column(column, test) => self.column(*column, test),
        }
    }

    fn all(&self) -> RoaringBitmap {
        let mut all = RoaringBitmap::new();
        all.insert_range(0..self.segment.rows());
        all
    }

    fn ids(&self, test: &IdTest) -> Result<RoaringBitmap> {
        let mut found = RoaringBitmap::new();
        match test {
            IdTest::In(ids) => {
                for id in ids {
                    if let Some(row) = self.segment.row_of(id)? {
                        found.insert(row);
                    }
                }
            }
            IdTest::Compare(order, _) => {
                // Rows ascend by id, so all that pass lie on one side of one row.
                let (mut low, mut high) = (0, self.segment.rows());
                let begins = |row| -> Result<bool> { Ok(matches_id(test, &self.segment.id_of(row)?)) };
                let passes_low = matches!(order, Order::Lt | Order::Lte);
                while low < high {
                    let middle = low.midpoint(high);
                    if begins(middle)? == passes_low {
                        low = middle + 1;
                    } else {
                        high = middle;
                    }
                }
                if passes_low {
                    found.insert_range(0..low);
                } else {
                    found.insert_range(low..self.segment.rows());
                }
            }
        }
        Ok(found)
    }

    fn column(&self, column: ColumnUid, test: &Test) -> Result<RoaringBitmap> {
        match self.segment.attribute(column)? {
            Some(reader) => self.indexed(&reader, column, test),
            None if self.segment.column(column).is_none() => {
                Ok(if matches_value(test, None) { self.all() } else { RoaringBitmap::new() })
            }
            None => self.read(self.all(), column, |value| matches_value(test, value)),
        }
    }

    fn indexed(&self, reader: &AttributeReader<'_>, column: ColumnUid, test: &Test) -> Result<RoaringBitmap> {
        match test {
            Test::Null => Ok(self.all() - reader.present()?),
            Test::AnyOf(values) => {
                let mut found = RoaringBitmap::new();
                for value in values {
                    if let Some(ordinal) = reader.ordinal_of(value)? {
                        found |= reader.rows_of(ordinal)?;
                    }
                }
                Ok(found)
            }
            Test::Compare(order, value) => {
                let mut found = compared(reader, *order, value)?;
                if matches!(order, Order::Lt | Order::Lte) {
                    found |= self.all() - reader.present()?;
                }
                Ok(found)
            }
            Test::AnyCompare(order, value) => compared(reader, *order, value),
            Test::Pattern(pattern) => patterned(reader, pattern),
            Test::Equals(value) => {
                let mut candidates = reader.present()?;
                for element in elements(value) {
                    candidates &= match reader.ordinal_of(&element)? {
                        Some(ordinal) => reader.rows_of(ordinal)?,
                        None => return Ok(RoaringBitmap::new()),
                    };
                }
                // The index knows which elements there are, not in which order and how often. An empty array may count as
                // absent there.
                if elements(value).is_empty() {
                    candidates = self.all();
                }
                self.read(candidates, column, |found| found == Some(value))
            }
            Test::Tokens(_) => Ok(RoaringBitmap::new()),
        }
    }

    fn tokens(&mut self, column: ColumnUid, test: &TokenTest, filter: &Filter) -> Result<RoaringBitmap> {
        let candidates = match self.segment.text(column)? {
            Some(reader) => with_tokens(&reader, test)?,
            None if self.segment.column(column).is_none() => return Ok(RoaringBitmap::new()),
            // The column became searchable after this segment was written.
            None => self.all(),
        };
        let exact = self.segment.text(column)?.is_some() && test.mode != TokenMode::Sequence;
        if exact {
            return Ok(candidates);
        }
        let mut found = RoaringBitmap::new();
        for row in candidates {
            let document = self.segment.document(row, Some(&[column]))?;
            if matches_with(filter, self.schema, &document, &[], &mut self.analyzers) {
                found.insert(row);
            }
        }
        Ok(found)
    }

    /// Tests the rows themselves.
    fn read(
        &self,
        candidates: RoaringBitmap,
        column: ColumnUid,
        test: impl Fn(Option<&Value>) -> bool,
    ) -> Result<RoaringBitmap> {
        let mut found = RoaringBitmap::new();
        for row in candidates {
            if test(self.segment.document(row, Some(&[column]))?.get(column)) {
                found.insert(row);
            }
        }
        Ok(found)
    }
}

fn compared(reader: &AttributeReader<'_>, order: Order, value: &Value) -> Result<RoaringBitmap> {
    let (lower, upper) = match order {
        Order::Lt => (Bound::Unbounded, Bound::Excluded(value)),
        Order::Lte => (Bound::Unbounded, Bound::Included(value)),
        Order::Gt => (Bound::Excluded(value), Bound::Unbounded),
        Order::Gte => (Bound::Included(value), Bound::Unbounded),
    };
    reader.rows_in(reader.ordinals(lower, upper)?)
}

fn patterned(reader: &AttributeReader<'_>, pattern: &Pattern) -> Result<RoaringBitmap> {
    let mut ordinals = 0..reader.values();
    if let Pattern::Glob(_, prefix) = pattern
        && !prefix.is_empty()
    {
        ordinals = reader.ordinals(Bound::Included(&Value::String(prefix.clone())), Bound::Unbounded)?;
    }
    let mut found = RoaringBitmap::new();
    for ordinal in ordinals {
        let Value::String(text) = reader.value(ordinal)? else { break };
        let passes = match pattern {
            Pattern::Glob(_, prefix) if !prefix.is_empty() && !text.starts_with(prefix.as_str()) => break,
            Pattern::Glob(glob, _) => glob.is_match(&text),
            Pattern::Regex(regex) => regex.is_match(&text),
        };
        if passes {
            found |= reader.rows_of(ordinal)?;
        }
    }
    Ok(found)
}

/// Rows that hold the tokens, in any order.
fn with_tokens(reader: &TextReader<'_>, test: &TokenTest) -> Result<RoaringBitmap> {
    let mut found: Option<RoaringBitmap> = None;
    for (at, token) in test.tokens.iter().enumerate() {
        let mut with = RoaringBitmap::new();
        if test.last_as_prefix && at + 1 == test.tokens.len() {
            for (_, term) in reader.prefix_terms(token, PREFIX_TERMS_MAX)? {
                with |= reader.rows_with(&term)?;
            }
        } else if let Some(term) = reader.term(token)? {
            with = reader.rows_with(&term)?;
        }
        found = Some(match (found, test.mode) {
            (None, _) => with,
            (Some(found), TokenMode::Any) => found | with,
            (Some(found), TokenMode::All | TokenMode::Sequence) => found & with,
        });
    }
    match found {
        Some(found) => Ok(found),
        None if test.mode == TokenMode::Any => Ok(RoaringBitmap::new()),
        // No tokens at all: every row that has a value.
        None => reader.present(),
    }
}

/// The distinct elements of an array.
fn elements(value: &Value) -> Vec<Value> {
    match value {
        Value::Bools(v) => v.iter().map(|x| Value::Bool(*x)).collect(),
        Value::Ints(v) => v.iter().map(|x| Value::Int(*x)).collect(),
        Value::Uints(v) => v.iter().map(|x| Value::Uint(*x)).collect(),
        Value::Floats(v) => v.iter().map(|x| Value::Float(*x)).collect(),
        Value::Strings(v) => v.iter().map(|x| Value::String(x.clone())).collect(),
        Value::Uuids(v) => v.iter().map(|x| Value::Uuid(*x)).collect(),
        Value::DateTimes(v) => v.iter().map(|x| Value::DateTime(*x)).collect(),
        other => vec![other.clone()],
    }
}
