//! Rows in the order of attribute values: absent values first ascending and last descending, ties by id.
//!
//! In a segment, rows are compared by ordinals, which sort as values do; values are looked up only for the best rows of each
//! part, to put the parts together.

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

/// A row among the best of its part.
struct Contender {
    hit: Hit,
    id: DocId,
    values: Vec<Option<Value>>,
}

/// The best rows of the parts so far, each with the values that it is compared by, and the memory for these.
struct Contenders<'a> {
    found: Vec<Contender>,
    taken: Taken<'a>,
}

impl Contender {
    fn bytes(&self) -> usize {
        size_of::<Contender>() + self.id.heap_bytes() as usize + values_bytes(&self.values)
    }
}

impl Contenders<'_> {
    fn push(&mut self, contender: Contender) -> Result<()> {
        self.taken.grow(contender.bytes())?;
        self.found.push(contender);
        Ok(())
    }

    /// Sorts, and gives up all but the first `k`.
    fn keep_first(&mut self, keys: &[OrderKey], k: usize) {
        self.found.sort_by(|a, b| {
            let values = |column: usize| (a.values[column].as_ref(), b.values[column].as_ref());
            compare(keys, values, || a.id.cmp(&b.id))
        });
        let given_up: usize = self.found.drain(k.min(self.found.len())..).map(|contender| contender.bytes()).sum();
        self.taken.give_back(given_up);
    }
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
    let mut all = Contenders { found: Vec::new(), taken: allowance.take(0)? };
    for (part, (segment, rows)) in view.segments.iter().zip(&candidates.segments).enumerate() {
        in_segment(&segment.segment, part as u32, keys, rows, k, &mut all, allowance)?;
        all.keep_first(keys, k);
    }
    in_tail(view, keys, &candidates.tail, k, &mut all)?;
    all.keep_first(keys, k);
    Ok(all.found.into_iter().map(|contender| contender.hit).collect())
}

fn in_segment(
    segment: &Segment,
    part: u32,
    keys: &[OrderKey],
    rows: &RoaringBitmap,
    k: usize,
    out: &mut Contenders<'_>,
    allowance: &Allowance,
) -> Result<()> {
    let columns = keys
        .iter()
        .map(|key| key.column.map(|uid| Column::open(segment, uid, rows, allowance)).transpose())
        .collect::<Result<Vec<_>>>()?;
    for row in best_rows(keys, &columns, rows, k, allowance)? {
        let mut values = Vec::with_capacity(keys.len());
        for column in &columns {
            let ordinal = column.as_ref().map(|column| column.scalar(row)).transpose()?.flatten();
            values.push(match (column, ordinal) {
                (Some(column), Some(ordinal)) => column.value(ordinal)?,
                _ => None,
            });
        }
        out.push(Contender { hit: Hit { part, row, dist: None }, id: segment.id_of(row)?, values })?;
    }
    Ok(())
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

fn in_tail(view: &View, keys: &[OrderKey], places: &RoaringBitmap, k: usize, out: &mut Contenders<'_>) -> Result<()> {
    fn value<'r>(row: &'r TailRow, key: &OrderKey) -> Option<&'r Value> {
        key.column.and_then(|uid| row.document.get(uid))
    }
    let part = tail_part(view);
    let mut rows: Vec<(u32, &TailRow)> = places.iter().filter_map(|at| Some((at, &**view.tail.at(at)?))).collect();
    let order = |a: &(u32, &TailRow), b: &(u32, &TailRow)| {
        let values = |at: usize| (value(a.1, &keys[at]), value(b.1, &keys[at]));
        compare(keys, values, || a.1.document.id.cmp(&b.1.document.id))
    };
    if rows.len() > k && k > 0 {
        rows.select_nth_unstable_by(k - 1, order);
    }
    rows.truncate(k);
    for (place, row) in rows {
        let values = keys.iter().map(|key| value(row, key).cloned()).collect();
        out.push(Contender { hit: Hit { part, row: place, dist: None }, id: id_of(view, part, place)?, values })?;
    }
    Ok(())
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
