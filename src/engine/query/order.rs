//! Rows in the order of attribute values: absent values first ascending and last descending, ties by id.
//!
//! In a segment, rows are compared by ordinals, which sort as values do. To put the parts together, values are looked up of one row of each
//! part at a time, so that it does not matter how many rows are asked for.

use std::cmp::Ordering;

use roaring::RoaringBitmap;

use super::candidates::Candidates;
use super::columns::Column;
use super::group::values_bytes;
use super::hits::{Hit, Smallest, id_of, tail_part};
use super::plan::column_to_rank;
use crate::engine::filter::matches::order_values;
use crate::engine::view::{TailRow, View};
use crate::engine::write::typing;
use crate::error::{Error, Result};
use crate::model::ids::DocId;
use crate::model::query::Direction;
use crate::model::schema::{ColumnUid, Schema};
use crate::model::value::Value;
use crate::platform::allowance::{Allowance, ROWS_PER_CHECK, Taken};
use crate::segment::Segment;

/// The most parts that an order has; the wire's limit.
const KEYS_MAX: usize = 8;

/// One part of the order.
pub(super) struct OrderKey {
    /// `None`: the id.
    column: Option<ColumnUid>,
    descending: bool,
}

/// A row's ordinals, smallest first.
type Ordinals = [u32; KEYS_MAX];

/// The best rows of a part that are still to come, in order, and where their values are.
struct Ranked<'a> {
    part: u32,
    rows: std::vec::IntoIter<u32>,
    values: Values<'a>,
}

enum Values<'a> {
    Indexed(Vec<Option<Column<'a>>>),
    /// Of the rows to come, where a column has no index: what was gathered of it is no longer there.
    Held(std::vec::IntoIter<Vec<Option<Value>>>),
    Tail,
}

/// The first row of a part that is still to come.
struct Head {
    hit: Hit,
    id: DocId,
    values: Vec<Option<Value>>,
    /// Its part's place among those that are put together.
    from: usize,
}

pub(super) fn bind(schema: &Schema, attributes: &[(String, Direction)]) -> Result<Vec<OrderKey>> {
    if attributes.len() > KEYS_MAX {
        return Err(Error::invalid(format!(
            "rank_by: at most {KEYS_MAX} attributes to order by, got {}",
            attributes.len()
        )));
    }
    let mut keys = Vec::with_capacity(attributes.len());
    for (name, direction) in attributes {
        let descending = *direction == Direction::Desc;
        if name == "id" {
            // Ids are unique: nothing after them matters.
            keys.push(OrderKey { column: None, descending });
            break;
        }
        let column = column_to_rank(schema, name)?;
        if !typing::is_scalar(column.kind) {
            return Err(Error::invalid(format!(
                "💔 attribute \"{name}\" has type {}, only scalars can be ordered by",
                column.kind
            )));
        }
        keys.push(OrderKey { column: Some(column.uid()), descending });
    }
    Ok(keys)
}

/// The first `k` rows.
pub(super) fn run(
    view: &View,
    keys: &[OrderKey],
    candidates: &Candidates,
    k: usize,
    allowance: &Allowance,
) -> Result<Vec<Hit>> {
    let (mut parts, mut taken) = (Vec::with_capacity(view.segments.len() + 1), allowance.take(0)?);
    for (part, (segment, rows)) in (0..).zip(view.segments.iter().zip(&candidates.segments)) {
        parts.push(in_segment(&segment.segment, part, keys, rows, k, (allowance, &mut taken))?);
    }
    parts.push(in_tail(view, keys, &candidates.tail, k));
    // The best one last.
    let mut heads: Vec<Head> = Vec::with_capacity(parts.len());
    let place_in = |heads: &[Head], head: &Head| heads.partition_point(|other| order(keys, other, head).is_gt());
    for from in 0..parts.len() {
        if let Some(head) = next_of(view, keys, &mut parts, from)? {
            heads.insert(place_in(&heads, &head), head);
        }
    }
    let mut hits = Vec::new();
    while hits.len() < k
        && let Some(best) = heads.pop()
    {
        allowance.check_at(hits.len() as u32, ROWS_PER_CHECK)?;
        hits.push(best.hit);
        if let Some(head) = next_of(view, keys, &mut parts, best.from)? {
            heads.insert(place_in(&heads, &head), head);
        }
    }
    Ok(hits)
}

fn order(keys: &[OrderKey], a: &Head, b: &Head) -> Ordering {
    compare(keys, |at| (a.values[at].as_ref(), b.values[at].as_ref()), || a.id.cmp(&b.id))
}

/// The next row of one of the parts.
fn next_of(view: &View, keys: &[OrderKey], parts: &mut [Ranked<'_>], from: usize) -> Result<Option<Head>> {
    let ranked = &mut parts[from];
    let Some(row) = ranked.rows.next() else { return Ok(None) };
    let values = match &mut ranked.values {
        Values::Indexed(columns) => values_of(columns, row)?,
        Values::Held(values) => values.next().unwrap_or_default(),
        Values::Tail => {
            let row = view.tail.at(row);
            keys.iter().map(|key| row.and_then(|row| tail_value(row, key)).cloned()).collect()
        }
    };
    let hit = Hit { part: ranked.part, row, dist: None };
    Ok(Some(Head { hit, id: id_of(view, hit.part, row)?, values, from }))
}

fn values_of(columns: &[Option<Column<'_>>], row: u32) -> Result<Vec<Option<Value>>> {
    let mut values = Vec::with_capacity(columns.len());
    for column in columns {
        let ordinal = column.as_ref().map(|column| column.scalar(row)).transpose()?.flatten();
        values.push(match (column, ordinal) {
            (Some(column), Some(ordinal)) => column.value(ordinal)?,
            _ => None,
        });
    }
    Ok(values)
}

fn in_segment<'a>(
    segment: &'a Segment,
    part: u32,
    keys: &[OrderKey],
    rows: &RoaringBitmap,
    k: usize,
    (allowance, taken): (&'a Allowance, &mut Taken<'_>),
) -> Result<Ranked<'a>> {
    let columns = keys
        .iter()
        .map(|key| key.column.map(|uid| Column::open(segment, uid, rows, allowance)).transpose())
        .collect::<Result<Vec<_>>>()?;
    let best = best_rows(keys, &columns, rows, k, allowance)?;
    let values = if columns.iter().flatten().any(|column| matches!(column, Column::Gathered(_))) {
        let mut held = Vec::with_capacity(best.len());
        for row in &best {
            let values = values_of(&columns, *row)?;
            taken.grow(values_bytes(&values))?;
            held.push(values);
        }
        Values::Held(held.into_iter())
    } else {
        Values::Indexed(columns)
    };
    Ok(Ranked { part, rows: best.into_iter(), values })
}

/// The first `k` rows of a segment, whose rows are in the order of their ids.
fn best_rows(
    keys: &[OrderKey],
    columns: &[Option<Column<'_>>],
    rows: &RoaringBitmap,
    k: usize,
    allowance: &Allowance,
) -> Result<Vec<u32>> {
    let place = |key: &OrderKey, column: &Option<Column<'_>>, row: u32| -> Result<u32> {
        let place = match column {
            None => row,
            // 0 is an absent value.
            Some(column) => column.scalar(row)?.map_or(0, |ordinal| ordinal.saturating_add(1)),
        };
        Ok(if key.descending { !place } else { place })
    };
    match (keys, columns) {
        ([], _) | ([OrderKey { column: None, descending: false }], _) => Ok(rows.iter().take(k).collect()),
        ([OrderKey { column: None, descending: true }], _) => Ok(rows.iter().rev().take(k).collect()),
        ([key], [column]) => {
            let mut best = Smallest::new(k);
            for (count, row) in (0..).zip(rows) {
                allowance.check_at(count, ROWS_PER_CHECK)?;
                best.offer(u64::from(place(key, column, row)?) << 32 | u64::from(row));
            }
            Ok(best.into_sorted().into_iter().map(|packed| packed as u32).collect())
        }
        _ => {
            let mut best: Smallest<(Ordinals, u32)> = Smallest::new(k);
            for (count, row) in (0..).zip(rows) {
                allowance.check_at(count, ROWS_PER_CHECK)?;
                let mut ordinals = Ordinals::default();
                ordinals[0] = place(&keys[0], &columns[0], row)?;
                // Most rows fall behind by the first part already.
                if best.bound().is_some_and(|(bound, _)| ordinals[0] > bound[0]) {
                    continue;
                }
                for (at, (key, column)) in keys.iter().zip(columns).enumerate().skip(1) {
                    ordinals[at] = place(key, column, row)?;
                }
                best.offer((ordinals, row));
            }
            Ok(best.into_sorted().into_iter().map(|(_, row)| row).collect())
        }
    }
}

fn tail_value<'r>(row: &'r TailRow, key: &OrderKey) -> Option<&'r Value> {
    key.column.and_then(|uid| row.document.get(uid))
}

fn in_tail(view: &View, keys: &[OrderKey], places: &RoaringBitmap, k: usize) -> Ranked<'static> {
    let mut rows: Vec<(u32, &TailRow)> = places.iter().filter_map(|at| Some((at, &**view.tail.at(at)?))).collect();
    let order = |a: &(u32, &TailRow), b: &(u32, &TailRow)| {
        let values = |at: usize| (tail_value(a.1, &keys[at]), tail_value(b.1, &keys[at]));
        compare(keys, values, || a.1.document.id.cmp(&b.1.document.id))
    };
    if rows.len() > k && k > 0 {
        rows.select_nth_unstable_by(k - 1, order);
    }
    rows.truncate(k);
    rows.sort_unstable_by(order);
    let rows: Vec<u32> = rows.into_iter().map(|(place, _)| place).collect();
    Ranked { part: tail_part(view), rows: rows.into_iter(), values: Values::Tail }
}

/// Compares two rows by each part of the order; `ids` compares their ids, ascending.
fn compare<'v>(
    keys: &[OrderKey],
    values: impl Fn(usize) -> (Option<&'v Value>, Option<&'v Value>),
    ids: impl Fn() -> Ordering,
) -> Ordering {
    for (at, key) in keys.iter().enumerate() {
        let ascending = match (key.column, values(at)) {
            (None, _) => ids(),
            (Some(_), (Some(a), Some(b))) => order_values(a, b),
            (Some(_), (a, b)) => a.is_some().cmp(&b.is_some()),
        };
        if ascending.is_ne() {
            return if key.descending { ascending.reverse() } else { ascending };
        }
    }
    ids()
}
