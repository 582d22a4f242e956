//! Aggregates by groups, in ascending order of their keys.
//!
//! Only the groups with the smallest keys are answered, as many as the limit says. So each part keeps few more than that: a
//! group that was given up for smaller ones never comes back, because what is kept only gets smaller.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

use roaring::RoaringBitmap;

use super::aggregate::{Aggregates, Measure, Total};
use super::candidates::Candidates;
use super::columns::{Column, for_each_element};
use crate::engine::filter::matches::order_values;
use crate::engine::view::{TailRow, View};
use crate::engine::write::typing;
use crate::error::{Error, Result};
use crate::model::query::{Aggregate, Group, GroupKey};
use crate::model::schema::{ColumnUid, Schema};
use crate::model::value::Value;
use crate::platform::allowance::{Allowance, ROWS_PER_CHECK, Taken};
use crate::segment::Segment;

/// The most attributes to group by.
const KEYS_MAX: usize = 8;
/// What a group takes besides its key and its totals.
const GROUP_BYTES: usize = 96;

/// One part of a group's key.
pub(super) struct KeyColumn {
    label: String,
    column: ColumnUid,
    /// A document is in a group for each distinct element of its array.
    each: bool,
}

/// Binds the parts of a key. Each stands beside the aggregates in the answer, so all labels must differ.
pub(super) fn bind(schema: &Schema, keys: &[GroupKey], aggregates: &[(String, Aggregate)]) -> Result<Vec<KeyColumn>> {
    if keys.len() > KEYS_MAX {
        return Err(Error::invalid(format!("💔 group_by: at most {KEYS_MAX} attributes, got {}", keys.len())));
    }
    let keys = keys.iter().map(|key| bind_key(schema, key)).collect::<Result<Vec<_>>>()?;
    let mut labels: HashSet<&str> = aggregates.iter().map(|(label, _)| label.as_str()).collect();
    match keys.iter().find(|key| !labels.insert(&key.label)) {
        Some(KeyColumn { label, .. }) => Err(Error::invalid(format!(
            "💔 group_by: the label \"{label}\" stands for two things, expected another for each group and aggregate"
        ))),
        None => Ok(keys),
    }
}

fn bind_key(schema: &Schema, key: &GroupKey) -> Result<KeyColumn> {
    let (label, name, each) = match key {
        GroupKey::Attribute(name) => (name, name, false),
        GroupKey::ForEachUnique { label, attribute } => (label, attribute, true),
    };
    if name == "id" {
        return Err(Error::invalid("💔 group_by: documents cannot be grouped by id"));
    }
    let Some(column) = schema.column(name) else {
        return Err(Error::invalid(format!("💔 group_by: attribute \"{name}\" not found in schema")));
    };
    let kind = column.kind;
    let problem = match (each, kind.is_array(), typing::is_scalar(kind)) {
        (true, true, _) | (false, _, true) => {
            return Ok(KeyColumn { label: label.clone(), column: column.uid(), each });
        }
        (true, ..) => "ForEachUnique expects an array",
        (false, true, _) => "group by its elements with ForEachUnique",
        _ => "which cannot be grouped by",
    };
    Err(Error::invalid(format!("💔 group_by: attribute \"{name}\" has type {kind}, {problem}")))
}

/// What values take in memory.
pub(super) fn values_bytes(values: &[Option<Value>]) -> usize {
    size_of_val(values) + values.iter().flatten().map(|value| value.heap_bytes() as usize).sum::<usize>()
}

/// A key's values; absent ones sort first.
#[derive(Clone, PartialEq)]
pub(super) struct Key(pub(super) Vec<Option<Value>>);

impl Key {
    /// What it takes beside itself.
    pub(super) fn bytes(&self) -> usize {
        values_bytes(&self.0)
    }
}

impl Eq for Key {}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        let pairs = self.0.iter().zip(&other.0).map(|pair| match pair {
            (Some(a), Some(b)) => order_values(a, b),
            (a, b) => a.is_some().cmp(&b.is_some()),
        });
        pairs.fold(Ordering::Equal, Ordering::then)
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The first `limit` groups.
pub(super) fn run(
    view: &View,
    keys: &[KeyColumn],
    aggregates: &Aggregates,
    limit: usize,
    candidates: &Candidates,
    allowance: &Allowance,
) -> Result<Vec<Group>> {
    let mut groups = Groups { limit, found: BTreeMap::new(), taken: allowance.take(0)? };
    for (segment, rows) in view.segments.iter().zip(&candidates.segments) {
        in_segment(&segment.segment, keys, aggregates, rows, &mut groups, allowance)?;
    }
    for row in candidates.tail.iter().filter_map(|place| view.tail.at(place)) {
        in_tail(row, keys, aggregates, &mut groups, allowance)?;
    }
    let group = |(key, totals): (Key, Vec<Total>)| Group {
        key: keys.iter().map(|key| key.label.clone()).zip(key.0).collect(),
        aggregates: aggregates.label(&totals),
    };
    Ok(groups.found.into_iter().map(group).collect())
}

/// The groups with the smallest keys.
struct Groups<'a> {
    limit: usize,
    found: BTreeMap<Key, Vec<Total>>,
    taken: Taken<'a>,
}

impl Groups<'_> {
    fn merge(&mut self, key: Key, totals: &[Total]) -> Result<()> {
        if let Some(known) = self.found.get_mut(&key) {
            known.iter_mut().zip(totals).for_each(|(a, b)| a.merge(b));
            return Ok(());
        }
        if self.found.len() >= self.limit {
            let Some(last) = self.found.last_entry().filter(|last| key < *last.key()) else { return Ok(()) };
            self.taken.give_back(last.key().bytes() + totals_bytes(totals.len()));
            last.remove();
        }
        self.taken.grow(key.bytes() + totals_bytes(totals.len()))?;
        self.found.insert(key, totals.to_vec());
        Ok(())
    }
}

/// About what the totals of one group take.
fn totals_bytes(count: usize) -> usize {
    GROUP_BYTES + count * size_of::<Total>()
}

fn in_tail(
    row: &TailRow,
    keys: &[KeyColumn],
    aggregates: &Aggregates,
    groups: &mut Groups<'_>,
    allowance: &Allowance,
) -> Result<()> {
    let choices: Vec<Vec<Option<Value>>> = keys
        .iter()
        .map(|key| {
            let mut choices = Vec::new();
            if let Some(value) = row.document.get(key.column) {
                for_each_element(value, |element| choices.push(element));
                choices.sort_unstable_by(order_values);
                choices.dedup_by(|a, b| order_values(a, b).is_eq());
            }
            if choices.is_empty() && !key.each { vec![None] } else { choices.into_iter().map(Some).collect() }
        })
        .collect();
    let mut totals = aggregates.zero();
    for (measure, total) in aggregates.measures.iter().zip(&mut totals) {
        match measure {
            Measure::Count => total.count(),
            Measure::Sum(uid, _) => row.document.get(*uid).into_iter().for_each(|value| total.add(value)),
        }
    }
    combinations(&choices, allowance, &mut |key| groups.merge(Key(key.to_vec()), &totals))
}

/// Calls `each` with one choice of every list, in all combinations. Of one document there may be more of them than anybody can wait for.
fn combinations<T: Clone>(
    choices: &[Vec<T>],
    allowance: &Allowance,
    each: &mut impl FnMut(&[T]) -> Result<()>,
) -> Result<()> {
    if choices.iter().any(Vec::is_empty) {
        return Ok(());
    }
    let mut chosen: Vec<T> = choices.iter().map(|list| list[0].clone()).collect();
    let mut at = vec![0; choices.len()];
    loop {
        allowance.look_at(choices.len())?;
        each(&chosen)?;
        // Counts on: the last list turns fastest.
        let Some(turned) = (0..at.len()).rev().find(|list| at[*list] + 1 < choices[*list].len()) else {
            return Ok(());
        };
        at[turned] += 1;
        at[turned + 1..].fill(0);
        for list in turned..at.len() {
            chosen[list] = choices[list][at[list]].clone();
        }
    }
}

fn in_segment(
    segment: &Segment,
    keys: &[KeyColumn],
    aggregates: &Aggregates,
    rows: &RoaringBitmap,
    groups: &mut Groups<'_>,
    allowance: &Allowance,
) -> Result<()> {
    let columns =
        keys.iter().map(|key| Column::open(segment, key.column, rows, allowance)).collect::<Result<Vec<_>>>()?;
    let sums = aggregates
        .measures
        .iter()
        .map(|measure| match measure {
            Measure::Count => Ok(None),
            Measure::Sum(uid, _) => Column::open(segment, *uid, rows, allowance).map(Some),
        })
        .collect::<Result<Vec<Option<Column<'_>>>>>()?;
    let mut found = ByOrdinals {
        limit: groups.limit,
        places: HashMap::default(),
        totals: Vec::new(),
        bound: None,
        most: 0,
        taken: allowance.take(0)?,
    };
    let mut choices: Vec<Vec<u32>> = vec![Vec::new(); keys.len()];
    let mut values: Vec<Option<Value>> = vec![None; sums.len()];
    for (count, row) in (0..).zip(rows) {
        allowance.check_at(count, ROWS_PER_CHECK)?;
        for ((key, column), choices) in keys.iter().zip(&columns).zip(&mut choices) {
            column.elements(row, choices)?;
            // 0 is an absent value.
            choices.iter_mut().for_each(|ordinal| *ordinal = ordinal.saturating_add(1));
            if choices.is_empty() && !key.each {
                choices.push(0);
            }
        }
        for (column, value) in sums.iter().zip(&mut values) {
            let ordinal = column.as_ref().map(|column| column.scalar(row)).transpose()?.flatten();
            *value = match (column, ordinal) {
                (Some(column), Some(ordinal)) => column.value(ordinal)?,
                _ => None,
            };
        }
        combinations(&choices, allowance, &mut |key| {
            let Some(totals) = found.totals_of(key, aggregates)? else { return Ok(()) };
            for (total, value) in totals.iter_mut().zip(&values) {
                total.count();
                value.iter().for_each(|value| total.add(value));
            }
            Ok(())
        })?;
    }
    found.shrink();
    for (ordinals, place) in &found.places {
        let mut key = Vec::with_capacity(columns.len());
        for (column, ordinal) in columns.iter().zip(ordinals) {
            key.push(ordinal.checked_sub(1).map(|ordinal| column.value(ordinal)).transpose()?.flatten());
        }
        groups.merge(Key(key), &found.totals[*place])?;
    }
    Ok(())
}

/// The groups of one segment by the ordinals of their keys, which sort as the keys do.
struct ByOrdinals<'a> {
    limit: usize,
    places: HashMap<Vec<u32>, usize, BuildHasherDefault<OrdinalHasher>>,
    totals: Vec<Vec<Total>>,
    /// Groups from here on were given up.
    bound: Option<Vec<u32>>,
    /// So many there were at once, which is what was taken for.
    most: usize,
    taken: Taken<'a>,
}

impl ByOrdinals<'_> {
    /// The totals of a group; `None` when enough groups come before it.
    fn totals_of(&mut self, key: &[u32], aggregates: &Aggregates) -> Result<Option<&mut Vec<Total>>> {
        if self.bound.as_deref().is_some_and(|bound| key >= bound) {
            return Ok(None);
        }
        let place = match self.places.get(key) {
            Some(place) => *place,
            None => {
                if self.places.len() >= 4 * self.limit.max(256) {
                    self.shrink();
                    return self.totals_of(key, aggregates);
                }
                if self.totals.len() == self.most {
                    self.taken.grow(size_of_val(key) + totals_bytes(aggregates.measures.len()))?;
                    self.most += 1;
                }
                self.places.insert(key.to_vec(), self.totals.len());
                self.totals.push(aggregates.zero());
                self.totals.len() - 1
            }
        };
        Ok(self.totals.get_mut(place))
    }

    /// Gives up all but the first groups.
    fn shrink(&mut self) {
        if self.places.len() <= self.limit {
            return;
        }
        let mut all: Vec<(Vec<u32>, usize)> = self.places.drain().collect();
        all.sort_unstable();
        self.bound = all.get(self.limit).map(|(key, _)| key.clone());
        all.truncate(self.limit);
        let mut totals = Vec::with_capacity(all.len());
        for (key, place) in all {
            self.places.insert(key, totals.len());
            totals.push(std::mem::take(&mut self.totals[place]));
        }
        self.totals = totals;
    }
}

/// Mixes a few small numbers; nobody outside chooses ordinals, so nothing need resist crafted ones.
#[derive(Default)]
struct OrdinalHasher(u64);

impl Hasher for OrdinalHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = (self.0.rotate_left(5) ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn write_usize(&mut self, number: usize) {
        self.write_u64(number as u64);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
}
