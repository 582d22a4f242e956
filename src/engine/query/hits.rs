//! Hits: rows by their place in a view, chosen by a key and then by id.

use std::cmp::Ordering;

use crate::engine::view::View;
use crate::error::{Error, Result};
use crate::model::ids::DocId;

/// One row of a view, and what it was chosen by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Hit {
    /// The segment's number in the view; the tail comes after the last.
    pub(super) part: u32,
    /// The segment's row, or the tail's place.
    pub(super) row: u32,
    /// Distance or score, where there is one.
    pub(super) dist: Option<f32>,
}

/// The id of a row of a part.
pub(super) fn id_of(view: &View, part: u32, row: u32) -> Result<DocId> {
    match view.segments.get(part as usize) {
        Some(segment) => segment.segment.id_of(row),
        None => match view.tail.at(row) {
            Some(row) => Ok(row.document.id.clone()),
            None => Err(Error::internal(format!("namespace {}: the tail has no row {row}", view.name))),
        },
    }
}

/// The part of the tail.
pub(super) fn tail_part(view: &View) -> u32 {
    view.segments.len() as u32
}

/// Keeps the `k` smallest of what it is offered. Holds at most twice as many.
pub(super) struct Smallest<T> {
    k: usize,
    items: Vec<T>,
    /// Nothing from here on can be among the smallest.
    bound: Option<T>,
}

impl<T: Ord + Clone> Smallest<T> {
    pub(super) fn new(k: usize) -> Self {
        Smallest { k, items: Vec::new(), bound: None }
    }

    /// What the next offer must be below to matter.
    #[inline]
    pub(super) fn bound(&self) -> Option<&T> {
        self.bound.as_ref()
    }

    #[inline]
    pub(super) fn offer(&mut self, item: T) {
        if self.bound.as_ref().is_some_and(|bound| item >= *bound) || self.k == 0 {
            return;
        }
        self.items.push(item);
        if self.items.len() >= 2 * self.k.max(32) {
            self.shrink();
        }
    }

    fn shrink(&mut self) {
        if self.items.len() > self.k {
            let (_, bound, _) = self.items.select_nth_unstable(self.k);
            self.bound = Some(bound.clone());
            self.items.truncate(self.k);
        }
    }

    /// The smallest, ascending.
    pub(super) fn into_sorted(mut self) -> Vec<T> {
        self.shrink();
        self.items.sort_unstable();
        self.items
    }
}

/// An f32 as a number that sorts as the f32 does.
pub(super) fn sortable(key: f32) -> u32 {
    let bits = key.to_bits();
    if bits >> 31 == 0 { bits | 1 << 31 } else { !bits }
}

/// The inverse of [`sortable`].
pub(super) fn from_sortable(bits: u32) -> f32 {
    f32::from_bits(if bits >> 31 == 1 { bits & !(1 << 31) } else { !bits })
}

/// A key and a row in one number that sorts by both.
pub(super) fn pack(key: f32, row: u32) -> u64 {
    u64::from(sortable(key)) << 32 | u64::from(row)
}

/// The inverse of [`pack`].
pub(super) fn unpack(packed: u64) -> (f32, u32) {
    (from_sortable((packed >> 32) as u32), packed as u32)
}

/// The `k` smallest of the tail's rows by key, then by id.
pub(super) fn smallest_of_tail(view: &View, mut rows: Vec<(f32, u32)>, k: usize) -> Vec<(f32, u32)> {
    let id = |place: u32| view.tail.at(place).map(|row| &row.document.id);
    let order = |a: &(f32, u32), b: &(f32, u32)| a.0.total_cmp(&b.0).then_with(|| id(a.1).cmp(&id(b.1)));
    if rows.len() > k {
        if k > 0 {
            rows.select_nth_unstable_by(k - 1, order);
        }
        rows.truncate(k);
    }
    rows.sort_unstable_by(order);
    rows
}

/// The `k` best of all parts' best rows, smallest key first, ties by id. The key is what hits carry, or its opposite.
pub(super) fn merge(view: &View, parts: Vec<Vec<(f32, u32)>>, k: usize, opposite: bool) -> Result<Vec<Hit>> {
    let mut all: Vec<(f32, u32, u32)> = Vec::new();
    for (part, rows) in parts.into_iter().enumerate() {
        all.extend(rows.into_iter().map(|(key, row)| (key, part as u32, row)));
    }
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut hits = Vec::with_capacity(k.min(all.len()));
    for run in all.chunk_by_mut(|a, b| a.0.total_cmp(&b.0) == Ordering::Equal) {
        if hits.len() >= k {
            break;
        }
        // Rows of one part are in the order of their ids already.
        if run.first().map(|first| first.1) != run.last().map(|last| last.1) {
            let mut by_id = Vec::with_capacity(run.len());
            for (_, part, row) in run.iter() {
                by_id.push((id_of(view, *part, *row)?, *part, *row));
            }
            by_id.sort_unstable();
            for (place, (_, part, row)) in run.iter_mut().zip(by_id) {
                (place.1, place.2) = (part, row);
            }
        }
        for (key, part, row) in run.iter().take(k - hits.len()) {
            // Adding 0 turns -0 into 0.
            let dist = if opposite { 0.0 - *key } else { *key + 0.0 };
            hits.push(Hit { part: *part, row: *row, dist: Some(dist) });
        }
    }
    Ok(hits)
}

#[cfg(test)]
mod tests {
    use super::{Smallest, from_sortable, pack, sortable, unpack};

    #[test]
    fn packed_keys_sort_as_their_numbers() {
        let keys = [f32::MIN, -1.5, -0.0, 0.0, 1e-40, 0.5, 7.0, f32::MAX];
        for pair in keys.windows(2) {
            assert!(sortable(pair[0]) < sortable(pair[1]));
        }
        for key in keys {
            assert_eq!(from_sortable(sortable(key)).to_bits(), key.to_bits());
            assert_eq!(unpack(pack(key, 9)), (key, 9));
        }
    }

    #[test]
    fn the_smallest_are_kept_in_order() {
        for k in [0, 1, 5, 100, 2_000] {
            let mut smallest = Smallest::new(k);
            let numbers: Vec<u64> = (0..1_000).map(|n| n * 7_919 % 1_009).collect();
            numbers.iter().for_each(|n| smallest.offer(*n));
            let mut expected = numbers.clone();
            expected.sort_unstable();
            expected.truncate(k);
            assert_eq!(smallest.into_sorted(), expected);
        }
    }
}
