//! Hits to rows: ids, distances, and the attributes asked for. Only the rows of an answer are ever read.

use std::collections::HashSet;

use super::Work;
use super::hits::{Hit, id_of};
use super::plan::Plan;
use crate::engine::analyzers::Analyzers;
use crate::engine::view::View;
use crate::error::{Error, Result};
use crate::model::document::Document;
use crate::model::query::{Projection, ResultRow};
use crate::model::schema::{ColumnUid, Schema};
use crate::model::value::Value;
use crate::segment::Ahead;

/// The most bytes of attributes that the answers to one request carry: they are held in memory.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

/// The columns that rows carry.
#[derive(Clone, Default)]
pub(super) struct Columns {
    /// Sorted.
    uids: Vec<ColumnUid>,
    /// In the order of the answer.
    names: Vec<(ColumnUid, String)>,
}

impl Columns {
    pub(super) fn bind(schema: &Schema, projection: &Projection) -> Result<Self> {
        let all = || schema.columns.iter().map(|column| (column.uid(), column.name.clone()));
        Ok(Columns::of(match projection {
            Projection::None => Vec::new(),
            Projection::All => all().collect(),
            Projection::Exclude(names) if names.iter().any(|name| name == "id") => {
                return Err(Error::invalid("💔 `id` cannot be part of `exclude_attributes`"));
            }
            Projection::Exclude(names) => all().filter(|(_, name)| !names.contains(name)).collect(),
            Projection::Include(names) => {
                let mut found = Vec::with_capacity(names.len());
                for name in names.iter().filter(|name| *name != "id") {
                    let Some(column) = schema.column(name) else {
                        return Err(Error::invalid(format!(
                            "💔 attribute \"{name}\" not found in schema, cannot be part of `include_attributes`. \
                             consider passing `include_attributes=True` to include all attributes"
                        )));
                    };
                    found.push((column.uid(), column.name.clone()));
                }
                found
            }
        }))
    }

    fn of(mut names: Vec<(ColumnUid, String)>) -> Self {
        let mut known = HashSet::new();
        names.retain(|(uid, _)| known.insert(*uid));
        let mut uids: Vec<ColumnUid> = known.into_iter().collect();
        uids.sort_unstable();
        Columns { uids, names }
    }

    fn fields(&self, document: &Document) -> Vec<(String, Value)> {
        let found = self.names.iter().filter_map(|(uid, name)| Some((name.clone(), document.get(*uid)?.clone())));
        found.collect()
    }
}

impl Plan {
    /// The columns that rows are made of, sorted; none where rows are ids and distances alone.
    pub(super) fn row_columns(&self) -> Option<Vec<ColumnUid>> {
        let mut uids: Vec<ColumnUid> = self.projection.uids.iter().chain(&self.compute.needs).copied().collect();
        uids.sort_unstable();
        uids.dedup();
        (!uids.is_empty() || !self.compute.is_empty()).then_some(uids)
    }
}

/// The rows of hits, in their order.
pub(super) fn rows(view: &View, hits: &[Hit], plan: &Plan, work: &mut Work) -> Result<Vec<ResultRow>> {
    let (columns, compute) = (&plan.projection, &plan.compute);
    let uids = plan.row_columns().unwrap_or_default();
    let mut analyzers = Analyzers::new();
    let mut rows: Vec<Option<ResultRow>> = vec![None; hits.len()];
    // In the order they are stored, so that each block is unpacked once.
    let mut order: Vec<usize> = (0..hits.len()).collect();
    order.sort_unstable_by_key(|at| (hits[*at].part, hits[*at].row));
    let reads = !uids.is_empty() || !compute.is_empty();
    let is_past = reads && bring(view, hits, &order, &uids)?;
    for part in order.chunk_by(|a, b| hits[*a].part == hits[*b].part) {
        let segment = part.first().and_then(|first| view.segments.get(hits[*first].part as usize));
        let mut scan = match segment.filter(|_| reads) {
            Some(segment) if is_past => {
                let rows = part.iter().map(|at| hits[*at].row).collect();
                Some(segment.segment.scan_of(&rows, Some(&uids))?)
            }
            Some(segment) => Some(segment.segment.scan()?),
            None => None,
        };
        for at in part {
            work.allowance.check()?;
            let hit = &hits[*at];
            if work.returned > ANSWER_BYTES_MAX {
                return Err(Error::invalid(format!(
                    "the rows of the answer have more than {ANSWER_BYTES_MAX} bytes of attributes"
                ))
                .with_hint("ask for fewer rows or fewer attributes at once"));
            }
            let mut read = |document: &Document| -> Result<_> {
                let computed = compute.of(&view.schema, document, &mut analyzers, work.allowance)?;
                Ok((columns.fields(document), computed))
            };
            let (fields, computed) = match (&mut scan, segment) {
                (Some(scan), _) => read(&scan.document(hit.row, Some(&uids))?)?,
                (None, None) => view.tail.at(hit.row).map(|row| read(&row.document)).transpose()?.unwrap_or_default(),
                (None, Some(_)) => Default::default(),
            };
            let bytes = fields.iter().map(|(_, value)| value.logical_bytes()).sum::<u64>();
            work.bytes += bytes;
            work.returned += bytes + computed.iter().map(|(_, value)| value.logical_bytes()).sum::<u64>();
            rows[*at] = Some(ResultRow { id: id_of(view, hit.part, hit.row)?, dist: hit.dist, fields, computed });
        }
    }
    Ok(rows.into_iter().flatten().collect())
}

/// Brings what the rows of an answer consist of, of segments that are not all here. Gives whether it is to be read past the disk
/// instead, which has no room for so much.
fn bring(view: &View, hits: &[Hit], order: &[usize], columns: &[ColumnUid]) -> Result<bool> {
    let mut ahead = Ahead::new();
    for part in order.chunk_by(|a, b| hits[*a].part == hits[*b].part) {
        let segment = part.first().and_then(|first| view.segments.get(hits[*first].part as usize));
        if let Some(segment) = segment {
            segment.segment.add_documents(part.iter().map(|at| hits[*at].row), Some(columns), &mut ahead)?;
        }
    }
    let is_wide = ahead.is_wide();
    if !is_wide {
        ahead.bring()?;
    }
    Ok(is_wide)
}
