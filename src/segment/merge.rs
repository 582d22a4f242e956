//! Merges segments into one, streaming: documents are copied as bytes, indexes are merged index by index.
//!
//! Held in memory are 8 bytes per row of the result and 4 per row of the inputs, and one column's ordinals, postings or places
//! in clusters at a time.
//!
//! What is written here is right by its own checksums for ever, so nothing is believed for having been right when it was last
//! looked at: every chunk of an input is checked again.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use roaring::RoaringBitmap;
use uuid::Uuid;

use super::attribute_builder::{self, AttributeBuilder};
use super::builder::{
    VectorsWriter, columns_of, finish, fits_index, may_index, row_count, write_sizes, write_tombstones,
};
use super::documents::RowScan;
use super::merge_postings::{TextMerge, merge_sparse, merge_text};
use super::renewal::Renewal;
use super::vectors::carried::Carried;
use super::vectors::clustering::{self, Extent};
use super::vectors::{VectorReader, widen_into};
use super::{Segment, SegmentColumn, Summary, multivectors};
use crate::error::{Context, Error, Result};
use crate::format::rows::{PatchPlaces, RowsWriter, encode_record_of_bytes};
use crate::format::segment_writer::SegmentWriter;
use crate::format::{ids, values, versions};
use crate::model::document::Tombstone;
use crate::model::ids::{DocId, Hlc, IdType};
use crate::model::schema::{AttributeType, ColumnUid, Metric, Schema};
use crate::model::value::Value;

/// A segment to merge, and its rows that are dead.
pub struct Input<'a> {
    pub segment: &'a Segment,
    pub dead: &'a RoaringBitmap,
}

impl Input<'_> {
    /// What its live rows take in the file, about.
    pub fn live_bytes(&self) -> u64 {
        let rows = u128::from(self.segment.rows().max(1));
        let live = rows.saturating_sub(u128::from(self.dead.len()));
        u64::try_from(u128::from(self.segment.bytes()) * live / rows).unwrap_or(u64::MAX)
    }
}

/// Says that an input's row is not in the result.
pub(in crate::segment) const GONE: u32 = u32::MAX;

/// What becomes of the inputs' rows and tombstones.
pub(in crate::segment) struct Plan {
    /// Each row of the result: which input, which row of it.
    pub(in crate::segment) rows: Vec<(u32, u32)>,
    /// Per input and row of it the row of the result, or [`GONE`].
    pub(in crate::segment) new_rows: Vec<Vec<u32>>,
    tombstones: Vec<Tombstone>,
    /// The newest clock of those that were dropped for their age.
    forgotten: Hlc,
    id_type: Option<IdType>,
    renewal: Option<Renewal>,
}

/// Writes one segment of the inputs' live rows to `out`, as [`super::builder::build`] would of their documents. Of an id that
/// is there more than once the highest version stays. Tombstones older than `horizon` are dropped, and so are columns
/// that `schema` does not have; indexes are those that `schema` says.
pub fn merge(
    segment_id: Uuid,
    schema: &Schema,
    inputs: &[Input],
    horizon: Hlc,
    out: &mut dyn Write,
) -> Result<Summary> {
    merge_renewed(segment_id, schema, inputs, horizon, None, out)
}

/// The same, with what `renewal` is of under its new origin.
pub fn merge_renewed(
    segment_id: Uuid,
    schema: &Schema,
    inputs: &[Input],
    horizon: Hlc,
    renewal: Option<&Renewal>,
    out: &mut dyn Write,
) -> Result<Summary> {
    let unchecked: Vec<Segment> = inputs.iter().map(|input| input.segment.unchecked()).collect();
    let inputs: Vec<Input> =
        unchecked.iter().zip(inputs).map(|(segment, input)| Input { segment, dead: input.dead }).collect();
    let written = write_merged(segment_id, schema, &inputs, horizon, renewal, out);
    unchecked.iter().try_for_each(|segment| segment.believed(Ok(())))?;
    written
}

fn write_merged(
    segment_id: Uuid,
    schema: &Schema,
    inputs: &[Input],
    horizon: Hlc,
    renewal: Option<&Renewal>,
    out: &mut dyn Write,
) -> Result<Summary> {
    let columns = columns_of(schema);
    let mut plan = Plan::new(inputs, horizon)?;
    plan.renewal = renewal.cloned();
    if let Some(renewal) = renewal {
        renewal.of_tombstones(&mut plan.tombstones);
    }
    let rows = row_count(plan.rows.len())?;
    let mut out = SegmentWriter::new(&segment_id, out)?;
    let mut collected = Collected::new(inputs, &columns)?;
    let sizes = merge_rows(inputs, &columns, &plan, &mut collected, &mut out)?;
    let all_ids = inputs.iter().map(|input| input.segment.ids()).collect::<Result<Vec<_>>>()?;
    ids::write(&mut out, rows, plan.rows.iter().map(|(input, row)| all_ids[*input as usize].get(*row)))?;
    let all_versions = inputs.iter().map(|input| input.segment.versions()).collect::<Result<Vec<_>>>()?;
    let version = |(input, row): &(u32, u32)| {
        let version = all_versions[*input as usize].get(*row)?;
        Ok(renewal.map_or(version, |renewal| renewal.of(version)))
    };
    versions::write(&mut out, || plan.rows.iter().map(version))?;
    let logical_bytes = write_sizes(&sizes, &mut out)?;
    drop(sizes);
    write_tombstones(&plan.tombstones, &mut out)?;
    for column in &columns {
        match column.column.kind {
            AttributeType::Vector { .. } => merge_vectors(inputs, column, schema.metric, &plan, rows, &mut out)?,
            AttributeType::Multivector { .. } => multivectors::merge(inputs, column, schema.metric, &plan, &mut out)?,
            _ => {}
        }
        if may_index(&column.column) && !collected.too_long.contains(&column.uid) {
            merge_attribute(inputs, column, &plan, collected.values.remove(&column.uid), rows, &mut out)?;
        }
        if column.column.full_text.is_some() {
            merge_text(inputs, column, collected.text.remove(&column.uid), &plan, rows, &mut out)?;
        }
        if column.column.kind == AttributeType::Sparse {
            merge_sparse(inputs, column.uid, &plan, rows, &mut out)?;
        }
    }
    let summary = finish(out, plan.id_type, columns, rows, row_count(plan.tombstones.len())?, logical_bytes)?;
    Ok(Summary { forgotten: plan.forgotten, ..summary })
}

impl Plan {
    fn new(inputs: &[Input], horizon: Hlc) -> Result<Plan> {
        let mut id_type = None;
        for found in inputs.iter().filter_map(|input| input.segment.id_type()) {
            if id_type.is_some_and(|id_type| id_type != found) {
                return Err(Error::internal("merge segments: their ids are of different types"));
            }
            id_type = Some(found);
        }
        let mut tombstones = newest_tombstones(inputs)?;
        let mut new_rows: Vec<Vec<u32>> =
            inputs.iter().map(|input| vec![GONE; input.segment.rows() as usize]).collect();
        let mut heads = Vec::with_capacity(inputs.len());
        for input in 0..inputs.len() {
            heads.extend(Head::next_live(input, inputs, 0)?);
        }
        let mut rows = Vec::new();
        let mut tombstone = 0;
        let mut outlived = Vec::new();
        while let Some(least) = heads.iter().map(|head| &head.id).min().cloned() {
            let (mut newest, mut at) = (None, 0);
            while let Some(Head { input, row, id }) = heads.get(at) {
                if *id != least {
                    at += 1;
                    continue;
                }
                newest = newest.max(Some((inputs[*input].segment.version_of(*row)?, *input, *row)));
                match Head::next_live(*input, inputs, *row + 1)? {
                    Some(next) => {
                        heads[at] = next;
                        at += 1;
                    }
                    None => drop(heads.swap_remove(at)),
                }
            }
            while tombstones.get(tombstone).is_some_and(|known| known.id < least) {
                tombstone += 1;
            }
            let Some((version, input, row)) = newest else { continue };
            match tombstones.get(tombstone).filter(|known| known.id == least) {
                Some(known) if known.version > version => continue,
                Some(_) => outlived.push(tombstone),
                None => {}
            }
            new_rows[input][row as usize] = row_count(rows.len())?;
            rows.push((input as u32, row));
        }
        let (mut at, mut outlived) = (0, outlived.into_iter().peekable());
        let mut forgotten = Hlc(0);
        tombstones.retain(|tombstone| {
            at += 1;
            if outlived.next_if_eq(&(at - 1)).is_some() {
                return false;
            }
            let is_kept = tombstone.version.hlc >= horizon;
            if !is_kept {
                forgotten = forgotten.max(tombstone.version.hlc);
            }
            is_kept
        });
        let id_type = if rows.is_empty() && tombstones.is_empty() { None } else { id_type };
        Ok(Plan { rows, new_rows, tombstones, forgotten, id_type, renewal: None })
    }
}

/// The newest tombstone of each id, in ascending order of id.
fn newest_tombstones(inputs: &[Input]) -> Result<Vec<Tombstone>> {
    let mut all = Vec::new();
    for input in inputs {
        all.extend(input.segment.tombstones()?);
    }
    all.sort_unstable_by(|a, b| a.id.cmp(&b.id).then(b.version.cmp(&a.version)));
    all.dedup_by(|later, first| later.id == first.id);
    Ok(all)
}

/// The next live row of one input.
struct Head {
    input: usize,
    row: u32,
    id: DocId,
}

impl Head {
    /// An input's first live row from `row` on; `None` after the last.
    fn next_live(input: usize, inputs: &[Input], row: u32) -> Result<Option<Head>> {
        let Input { segment, dead } = &inputs[input];
        let Some(row) = (row..segment.rows()).find(|row| !dead.contains(*row)) else { return Ok(None) };
        Ok(Some(Head { input, row, id: segment.id_of(row)? }))
    }
}

/// What is gathered from documents, because an input has no index of it that could be merged.
struct Collected {
    /// Of columns that some input has no index of: their values, with the rows of the result.
    values: BTreeMap<ColumnUid, Values>,
    /// Columns with a value that does not fit their index: they get none.
    too_long: BTreeSet<ColumnUid>,
    /// Of columns that were not analysed in some input, or otherwise: the terms of that input's rows.
    text: BTreeMap<ColumnUid, TextMerge>,
}

impl Collected {
    fn new(inputs: &[Input], columns: &[SegmentColumn]) -> Result<Self> {
        let (values, text) = (BTreeMap::new(), BTreeMap::new());
        let mut collected = Collected { values, too_long: BTreeSet::new(), text };
        for SegmentColumn { uid, column } in columns {
            for Input { segment, .. } in inputs.iter().filter(|_| may_index(column)) {
                if segment.column(*uid).is_some() && segment.attribute(*uid)?.is_none() {
                    collected.values.insert(*uid, Values { filterable: column.filterable, of_rows: Vec::new() });
                }
            }
            if let Some(options) = &column.full_text {
                let merge = TextMerge::new(inputs, *uid, options);
                if merge.analyses_any() {
                    collected.text.insert(*uid, merge);
                }
            }
        }
        Ok(collected)
    }

    /// Whether a column of an input is gathered.
    fn wants(&self, uid: ColumnUid, input: usize) -> bool {
        self.values.contains_key(&uid) || self.text.get(&uid).is_some_and(|merge| merge.analyses(input))
    }

    fn add(&mut self, uid: ColumnUid, input: usize, row: u32, value: Value) {
        if let Some(merge) = self.text.get_mut(&uid).filter(|merge| merge.analyses(input)) {
            merge.add(row, &value);
        }
        let Some(values) = self.values.get_mut(&uid) else { return };
        if fits_index(values.filterable, &value) {
            values.of_rows.push((row, value));
        } else {
            self.values.remove(&uid);
            self.too_long.insert(uid);
        }
    }
}

/// A column's values by the rows of the result.
struct Values {
    filterable: bool,
    of_rows: Vec<(u32, Value)>,
}

/// How one input's columns are found in the result.
struct Columns {
    /// Per column of the input its place in the result.
    places: Vec<Option<u16>>,
    /// Columns of the input whose values are gathered.
    wanted: Vec<bool>,
    /// Whether records can be copied as they are.
    same: bool,
    /// Columns that are dropped and whose values are not among the fields of records.
    dropped_vectors: Vec<ColumnUid>,
}

impl Columns {
    fn new(input: usize, segment: &Segment, columns: &[SegmentColumn], collected: &Collected) -> Self {
        let place = |uid: ColumnUid| columns.binary_search_by_key(&uid, |c| c.uid).ok().map(|at| at as u16);
        let places: Vec<Option<u16>> = segment.columns().iter().map(|column| place(column.uid)).collect();
        let wanted: Vec<bool> = segment.columns().iter().map(|c| collected.wants(c.uid, input)).collect();
        let same = (0..).zip(&places).all(|(at, place)| *place == Some(at)) && !wanted.contains(&true);
        let dropped_vectors = segment
            .columns()
            .iter()
            .zip(&places)
            .filter(|(column, place)| column.column.kind.has_vectors() && place.is_none())
            .map(|(column, _)| column.uid)
            .collect();
        Columns { places, wanted, same, dropped_vectors }
    }
}

/// Writes the rows, gathers what must be gathered, and gives the logical size of each row.
fn merge_rows(
    inputs: &[Input],
    columns: &[SegmentColumn],
    plan: &Plan,
    collected: &mut Collected,
    out: &mut SegmentWriter,
) -> Result<Vec<u32>> {
    let mut sources = Vec::with_capacity(inputs.len());
    for (at, Input { segment, .. }) in inputs.iter().enumerate() {
        sources.push((segment.scan()?, Columns::new(at, segment, columns, collected)));
    }
    let mut writer = RowsWriter::begin(out)?;
    let mut sizes = Vec::with_capacity(plan.rows.len());
    for (new_row, (input, row)) in (0..).zip(&plan.rows) {
        let at = *input as usize;
        let segment = inputs[at].segment;
        let (scan, map) = &mut sources[at];
        let mut size = segment.logical_bytes_of(*row)?;
        if map.same && plan.renewal.is_none() {
            let bytes = scan.record_bytes(*row)?;
            writer.add(out, |record| record.extend_from_slice(bytes))?;
        } else {
            for uid in &map.dropped_vectors {
                size = size.saturating_sub(segment.vector_bytes_of(*uid, *row)?);
            }
            let dropped = copy_record(segment, scan, map, at, (*row, new_row), plan, collected, &mut writer, out)
                .context(|| format!("merge row {row} of {}", segment.name()))?;
            size = size.saturating_sub(dropped);
        }
        sizes.push(u32::try_from(size).unwrap_or(u32::MAX));
    }
    writer.finish(out)?;
    Ok(sizes)
}

/// Copies one record with its columns' new places, and gives the logical bytes of the fields that were dropped.
#[expect(clippy::too_many_arguments, reason = "a step of `merge_rows`, which owns them all")]
fn copy_record(
    segment: &Segment,
    scan: &mut RowScan,
    map: &Columns,
    input: usize,
    (row, new_row): (u32, u32),
    plan: &Plan,
    collected: &mut Collected,
    writer: &mut RowsWriter,
    out: &mut SegmentWriter,
) -> Result<u64> {
    let record = scan.record(row)?;
    let mut dropped = 0;
    let mut fields = Vec::with_capacity(record.fields.len());
    for (place, bytes) in &record.fields {
        let at = usize::from(*place);
        let SegmentColumn { uid, column } = &segment.columns()[at];
        match map.places[at] {
            None => dropped += values::decode(column.kind, bytes, segment.name())?.logical_bytes(),
            Some(new_place) => {
                fields.push((new_place, *bytes));
                if map.wanted[at] {
                    collected.add(*uid, input, new_row, values::decode(column.kind, bytes, segment.name())?);
                }
            }
        }
    }
    let patch = record.patch.map(|patch| PatchPlaces {
        base: patch.base,
        changed: patch.changed.iter().filter_map(|place| map.places[usize::from(*place)]).collect(),
    });
    let patch = match (patch, &plan.renewal) {
        (Some(patch), Some(renewal)) => Some(renewal.of_patch(patch)),
        (patch, _) => patch,
    };
    writer.add(out, |bytes| encode_record_of_bytes(&fields, patch.as_ref(), bytes))?;
    Ok(dropped)
}

fn merge_vectors(
    inputs: &[Input],
    SegmentColumn { uid, column }: &SegmentColumn,
    metric: Option<Metric>,
    plan: &Plan,
    rows: u32,
    out: &mut SegmentWriter,
) -> Result<()> {
    let readers = inputs.iter().map(|input| input.segment.vectors(*uid)).collect::<Result<Vec<_>>>()?;
    let mut writer = VectorsWriter::default();
    let mut found = Vec::new();
    for (new_row, (input, row)) in (0..).zip(&plan.rows) {
        let Some(reader) = &readers[*input as usize] else { continue };
        let Some((bytes, norm)) = reader.stored(*row)? else { continue };
        let norm = (metric == Some(Metric::CosineDistance)).then(|| reader.norm_or(norm, bytes));
        writer.add(*uid, new_row, bytes, norm, out)?;
        found.push(new_row);
    }
    writer.finish(*uid, rows, out)?;
    match (column.kind, metric) {
        (AttributeType::Vector { dims, .. }, Some(metric)) => {
            let carried = carried(&readers, plan, &found)?;
            let vectors = MergedVectors { readers: &readers, plan, found };
            clustering::write(*uid, (metric, dims, Extent::Lists), (&vectors, rows), carried.as_ref(), out)
        }
        _ => Ok(()),
    }
}

/// The clusters of the input that has most of the result's vectors, which are in the rows `found`.
fn carried<'a>(readers: &[Option<VectorReader<'a>>], plan: &Plan, found: &[u32]) -> Result<Option<Carried<'a>>> {
    let mut counts = vec![0usize; readers.len()];
    found.iter().for_each(|row| counts[plan.rows[*row as usize].0 as usize] += 1);
    let Some((input, _)) = (0..).zip(counts).max_by_key(|(_, count)| *count) else { return Ok(None) };
    let Some(reader) = &readers[input] else { return Ok(None) };
    let mut places = vec![GONE; plan.new_rows[input].len()];
    for (place, row) in (0..).zip(found) {
        let (from, row) = plan.rows[*row as usize];
        if from as usize == input {
            places[row as usize] = place;
        }
    }
    reader.carried(places)
}

/// The vectors of a merge's result, read from its inputs.
struct MergedVectors<'a> {
    readers: &'a [Option<VectorReader<'a>>],
    plan: &'a Plan,
    /// The rows of the result that have one.
    found: Vec<u32>,
}

impl clustering::Vectors for MergedVectors<'_> {
    fn count(&self) -> usize {
        self.found.len()
    }

    fn row(&self, place: usize) -> u32 {
        self.found[place]
    }

    fn read(&self, place: usize, out: &mut [f32]) -> Result<()> {
        let (input, row) = self.plan.rows[self.found[place] as usize];
        let reader = self.readers[input as usize].as_ref();
        let gone = || Error::internal("a vector that was merged is gone");
        let reader = reader.ok_or_else(gone)?;
        let (bytes, _) = reader.stored(row)?.ok_or_else(gone)?;
        widen_into(reader.element(), bytes, out);
        Ok(())
    }
}

fn merge_attribute(
    inputs: &[Input],
    SegmentColumn { uid, column }: &SegmentColumn,
    plan: &Plan,
    collected: Option<Values>,
    rows: u32,
    out: &mut SegmentWriter,
) -> Result<()> {
    let array = column.kind.is_array();
    let Some(values) = collected else {
        let sources = inputs.iter().map(|input| input.segment.attribute(*uid)).collect::<Result<Vec<_>>>()?;
        return attribute_builder::merge(*uid, array, &sources, &plan.rows, out);
    };
    let mut builder = AttributeBuilder::new(*uid, array);
    for (row, value) in &values.of_rows {
        builder.add(*row, value);
    }
    builder.finish(rows, out)
}
