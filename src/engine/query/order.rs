//! Rows in the order of attribute values: absent values first ascending, last descending; ties by id.

use std::cmp::Ordering;

use super::place::{Place, Ranked};
use super::scope::Scope;
use crate::engine::filter::matches::order_values;
use crate::error::{Error, Result};
use crate::model::ids::DocId;
use crate::model::query::{Direction, QueryStats};
use crate::model::schema::{AttributeType, ColumnUid};
use crate::model::value::Value;
use crate::segment::attributes::AttributeReader;

/// One part of the order.
struct Key {
    /// `None`: the id.
    column: Option<ColumnUid>,
    direction: Direction,
}

/// What one part of the order is for one row of a segment: a place in its dictionary, 0 for absent.
type Ordinals = Vec<u64>;

struct Candidate {
    id: DocId,
    place: Place,
    values: Vec<Option<Value>>,
}

/// The first `count` rows.
pub fn best(
    scope: &Scope<'_>,
    attributes: &[(String, Direction)],
    count: usize,
    stats: &mut QueryStats,
) -> Result<Vec<Ranked>> {
    let keys = bind(scope, attributes)?;
    let mut all: Vec<Candidate> = Vec::new();
    for at in 0..scope.segments.len() {
        for row in segment_best(scope, at, &keys, count)? {
            let place = Place::Segment { segment: at, row };
            all.push(Candidate { id: scope.id(&place)?, place, values: values(scope, &place, &keys)? });
        }
    }
    for at in 0..scope.tail.len() {
        let place = Place::Tail(at);
        all.push(Candidate { id: scope.id(&place)?, place, values: values(scope, &place, &keys)? });
    }
    stats.exhaustive += scope.tail.len() as u64;
    stats.bytes_queried += scope.count() * 8 * keys.len() as u64;
    all.sort_unstable_by(|a, b| compare(a, b, &keys));
    all.truncate(count);
    Ok(all.into_iter().map(|c| Ranked { id: c.id, place: c.place, dist: None }).collect())
}

fn bind(scope: &Scope<'_>, attributes: &[(String, Direction)]) -> Result<Vec<Key>> {
    let mut keys = Vec::with_capacity(attributes.len());
    for (name, direction) in attributes {
        if name == "id" {
            keys.push(Key { column: None, direction: *direction });
            continue;
        }
        let Some(column) = scope.view.schema.column(name) else {
            return Err(Error::invalid(format!("💔 attribute \"{name}\" not found in schema, cannot be ordered by")));
        };
        if column.kind.is_array()
            || matches!(column.kind, AttributeType::Vector { .. } | AttributeType::Sparse | AttributeType::Bytes)
        {
            return Err(Error::invalid(format!(
                "💔 attribute \"{name}\" has type {}, only scalars can be ordered by",
                column.kind
            )));
        }
        keys.push(Key { column: Some(column.uid()), direction: *direction });
    }
    Ok(keys)
}

/// The first rows of one segment. Its dictionaries are sorted, so places in them order rows as values would.
fn segment_best(scope: &Scope<'_>, at: usize, keys: &[Key], count: usize) -> Result<Vec<u32>> {
    let segment = &scope.segments[at].0.segment;
    let rows = scope.rows(at);
    if let [Key { column: None, direction }] = keys {
        return Ok(match direction {
            Direction::Asc => rows.iter().take(count).collect(),
            Direction::Desc => rows.iter().rev().take(count).collect(),
        });
    }
    let mut readers: Vec<Option<AttributeReader<'_>>> = Vec::with_capacity(keys.len());
    for key in keys {
        let reader = match key.column {
            None => None,
            Some(column) => {
                let reader = segment.attribute(column)?;
                if reader.is_none() && segment.column(column).is_some() {
                    return unindexed(scope, at, keys, count);
                }
                reader
            }
        };
        readers.push(reader);
    }
    let mut heap: std::collections::BinaryHeap<(Ordinals, u32)> = std::collections::BinaryHeap::new();
    let mut ordinals = vec![0; keys.len()];
    for row in rows {
        for ((key, reader), ordinal) in keys.iter().zip(&readers).zip(&mut ordinals) {
            let place = match (key.column, reader) {
                (None, _) => u64::from(row),
                (Some(_), None) => 0,
                (Some(_), Some(reader)) => reader.scalar_ordinal(row)?.map_or(0, |ordinal| u64::from(ordinal) + 1),
            };
            *ordinal = if key.direction == Direction::Desc { u64::MAX - place } else { place };
        }
        if heap.len() < count {
            heap.push((ordinals.clone(), row));
        } else if let Some(mut worst) = heap.peek_mut()
            && (ordinals.as_slice(), row) < (worst.0.as_slice(), worst.1)
        {
            worst.0.copy_from_slice(&ordinals);
            worst.1 = row;
        }
    }
    Ok(heap.into_iter().map(|(_, row)| row).collect())
}

/// The same where a column has no index: the rows themselves are read.
fn unindexed(scope: &Scope<'_>, at: usize, keys: &[Key], count: usize) -> Result<Vec<u32>> {
    let mut all = Vec::new();
    for row in scope.rows(at) {
        let place = Place::Segment { segment: at, row };
        all.push((row, Candidate { id: scope.id(&place)?, place, values: values(scope, &place, keys)? }));
    }
    all.sort_unstable_by(|(_, a), (_, b)| compare(a, b, keys));
    Ok(all.into_iter().take(count).map(|(row, _)| row).collect())
}

fn values(scope: &Scope<'_>, place: &Place, keys: &[Key]) -> Result<Vec<Option<Value>>> {
    let mut columns: Vec<ColumnUid> = keys.iter().filter_map(|key| key.column).collect();
    if columns.is_empty() {
        return Ok(vec![None; keys.len()]);
    }
    columns.sort_unstable();
    columns.dedup();
    let document = scope.document(place, Some(&columns))?;
    Ok(keys.iter().map(|key| key.column.and_then(|column| document.get(column).cloned())).collect())
}

fn compare(a: &Candidate, b: &Candidate, keys: &[Key]) -> Ordering {
    for (at, key) in keys.iter().enumerate() {
        let ascending = match key.column {
            None => a.id.cmp(&b.id),
            Some(_) => match (&a.values[at], &b.values[at]) {
                (None, None) => Ordering::Equal,
                (None, Some(_)) => Ordering::Less,
                (Some(_), None) => Ordering::Greater,
                (Some(a), Some(b)) => order_values(a, b),
            },
        };
        let ordered = if key.direction == Direction::Desc { ascending.reverse() } else { ascending };
        if ordered != Ordering::Equal {
            return ordered;
        }
    }
    a.id.cmp(&b.id)
}
