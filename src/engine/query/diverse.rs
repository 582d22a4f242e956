//! `limit.per`: at most so many rows of each combination of attribute values.

use std::collections::BTreeMap;

use super::Work;
use super::group::Key;
use super::hits::Hit;
use super::plan::column_to_rank;
use crate::engine::view::View;
use crate::engine::write::typing;
use crate::error::{Error, Result};
use crate::model::query::Per;
use crate::model::schema::{ColumnUid, Schema};
use crate::model::value::Value;
use crate::platform::allowance::{Allowance, DOCUMENTS_PER_CHECK};

/// What a combination takes besides its values.
const KEY_BYTES: usize = 64;

/// A bound limit per combination.
pub(super) struct PerValue {
    columns: Vec<ColumnUid>,
    limit: usize,
}

impl PerValue {
    pub(super) fn bind(schema: &Schema, per: &Per, total: usize) -> Result<Self> {
        if per.limit == 0 || per.limit as usize > total || per.attributes.is_empty() {
            return Err(Error::invalid(format!(
                "💔 limit.per: expected attributes and a limit between 1 and {total}, got {} attributes and {}",
                per.attributes.len(),
                per.limit
            )));
        }
        let mut columns = Vec::with_capacity(per.attributes.len());
        for name in &per.attributes {
            if name == "id" {
                return Err(Error::invalid(
                    "💔 limit.per: every document has an id of its own, expected an attribute",
                ));
            }
            let column = column_to_rank(schema, name)?;
            if !typing::is_scalar(column.kind) {
                return Err(Error::invalid(format!(
                    "💔 limit.per: attribute \"{name}\" has type {}, expected a scalar",
                    column.kind
                )));
            }
            columns.push(column.uid());
        }
        columns.sort_unstable();
        columns.dedup();
        Ok(PerValue { columns, limit: per.limit as usize })
    }
}

/// The first `wanted` hits of a ranking of which none is one too many of its combination. `ranked` gives the best so many.
pub(super) fn run(
    view: &View,
    per: &PerValue,
    wanted: usize,
    work: &mut Work,
    mut ranked: impl FnMut(usize, &mut Work) -> Result<Vec<Hit>>,
) -> Result<Vec<Hit>> {
    // How deep to go is known only by looking: four times deeper until it is enough.
    let mut depth = wanted.saturating_mul(4).max(64);
    loop {
        let mut attempt = Work::new(work.allowance);
        let hits = ranked(depth, &mut attempt)?;
        let exhausted = hits.len() < depth;
        let kept = thin(view, per, hits, wanted, work.allowance)?;
        if kept.len() == wanted || exhausted {
            work.exhaustive += attempt.exhaustive;
            work.bytes += attempt.bytes;
            return Ok(kept);
        }
        depth = depth.saturating_mul(4);
    }
}

fn thin(view: &View, per: &PerValue, hits: Vec<Hit>, wanted: usize, allowance: &Allowance) -> Result<Vec<Hit>> {
    let mut seen: BTreeMap<Key, usize> = BTreeMap::new();
    let mut taken = allowance.take(0)?;
    let mut kept = Vec::new();
    for (at, hit) in (0..).zip(hits) {
        allowance.check_at(at, DOCUMENTS_PER_CHECK)?;
        if kept.len() == wanted {
            break;
        }
        let key = Key(values(view, per, &hit)?);
        if !seen.contains_key(&key) {
            taken.grow(key.bytes() + KEY_BYTES)?;
        }
        let count = seen.entry(key).or_default();
        if *count < per.limit {
            *count += 1;
            kept.push(hit);
        }
    }
    Ok(kept)
}

fn values(view: &View, per: &PerValue, hit: &Hit) -> Result<Vec<Option<Value>>> {
    let Some(segment) = view.segments.get(hit.part as usize) else {
        let row = view.tail.at(hit.row);
        return Ok(per.columns.iter().map(|uid| row.and_then(|row| row.document.get(*uid)).cloned()).collect());
    };
    let segment = &segment.segment;
    let mut values = Vec::with_capacity(per.columns.len());
    for uid in &per.columns {
        values.push(match segment.attribute(*uid)? {
            Some(reader) => reader.scalar_ordinal(hit.row)?.map(|ordinal| reader.value(ordinal)).transpose()?,
            None if segment.column(*uid).is_none() => None,
            None => segment.document(hit.row, Some(&[*uid]))?.get(*uid).cloned(),
        });
    }
    Ok(values)
}
