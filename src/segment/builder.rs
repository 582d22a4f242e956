//! Builds a segment from documents in memory, streaming its bytes.

use std::io::Write;
use std::sync::Arc;

use roaring::RoaringBitmap;
use uuid::Uuid;

use super::attribute_builder::AttributeBuilder;
use super::sparse::SparseBuilder;
use super::text::reader::TextBuilder;
use super::text::terms::DocTerms;
use super::text::tokens::Analyzer;
use super::vectors::clustering::{self, Extent};
use super::vectors::{element_of, norm, widen_into};
use super::{POSITIONS_SECTION, SPARSE_SECTION, SegmentColumn, Summary, TEXT_SECTION, multivectors};
use crate::error::{Error, Result};
use crate::format::attributes::key_kind;
use crate::format::rows::{PatchPlaces, RowsWriter, encode_record};
use crate::format::segment::{Codec, column_section};
use crate::format::segment_writer::SegmentWriter;
use crate::format::{ids, values, vectors, versions};
use crate::model::document::{Document, PatchIntent, Tombstone};
use crate::model::ids::{DocId, Hlc, IdType};
use crate::model::schema::{AttributeType, Column, ColumnUid, FILTERABLE_BYTES_MAX, Metric, Schema};
use crate::model::value::{Value, Vector};

/// What a segment is built from, in strictly ascending order of id.
pub enum Entry {
    /// A document, with its terms in each full-text column. Columns that are missing among the terms, or whose terms lack the
    /// positions that the column keeps, are analysed.
    Row {
        document: Arc<Document>,
        terms: Vec<(ColumnUid, DocTerms)>,
    },
    Tombstone(Tombstone),
}

impl Entry {
    pub fn id(&self) -> &DocId {
        match self {
            Entry::Row { document, .. } => &document.id,
            Entry::Tombstone(tombstone) => &tombstone.id,
        }
    }

    /// What its values count for.
    pub fn logical_bytes(&self) -> u64 {
        match self {
            Entry::Row { document, .. } => document.logical_bytes(),
            Entry::Tombstone(tombstone) => tombstone.id.logical_bytes(),
        }
    }
}

/// Writes a segment of `entries` to `out`. Values of columns that `schema` does not have are left out.
pub fn build(segment_id: Uuid, schema: &Schema, entries: &[Entry], out: &mut dyn Write) -> Result<Summary> {
    let columns = columns_of(schema);
    let id_type = check_order(entries)?;
    let documents: Vec<&Document> = entries
        .iter()
        .filter_map(|entry| match entry {
            Entry::Row { document, .. } => Some(document.as_ref()),
            Entry::Tombstone(_) => None,
        })
        .collect();
    let tombstones = entries.iter().filter_map(|entry| match entry {
        Entry::Row { .. } => None,
        Entry::Tombstone(tombstone) => Some(tombstone),
    });
    let deleted = row_count(entries.len() - documents.len())?;
    let rows = row_count(documents.len())?;
    let mut out = SegmentWriter::new(&segment_id, out)?;
    let sizes = write_rows(&columns, &documents, &mut out)?;
    ids::write(&mut out, rows, documents.iter().map(|document| Ok(document.id.clone())))?;
    versions::write(&mut out, || documents.iter().map(|document| Ok(document.version)))?;
    let logical_bytes = write_sizes(&sizes, &mut out)?;
    write_tombstones(tombstones, &mut out)?;
    for column in &columns {
        match column.column.kind {
            AttributeType::Vector { .. } => write_vectors(column, schema.metric, &documents, &mut out)?,
            AttributeType::Multivector { .. } => multivectors::write(column, schema.metric, &documents, &mut out)?,
            _ => {}
        }
        let values = || documents.iter().filter_map(|document| document.get(column.uid));
        if may_index(&column.column) && values().all(|value| fits_index(column.column.filterable, value)) {
            let mut builder = AttributeBuilder::new(column.uid, column.column.kind.is_array());
            for (row, document) in (0..).zip(&documents) {
                if let Some(value) = document.get(column.uid) {
                    builder.add(row, value);
                }
            }
            builder.finish(rows, &mut out)?;
        }
        write_text(column, entries, rows, &mut out)?;
        if column.column.kind == AttributeType::Sparse {
            let mut builder = SparseBuilder::new();
            for (row, document) in (0..).zip(&documents) {
                if let Some(Value::Sparse(vector)) = document.get(column.uid) {
                    builder.add(row, vector);
                }
            }
            out.section(column_section(SPARSE_SECTION, column.uid), &builder.finish(rows)?)?;
        }
    }
    finish(out, id_type, columns, rows, deleted, logical_bytes)
}

/// Whether a column's values are indexed, if all of them fit.
pub(in crate::segment) fn may_index(column: &Column) -> bool {
    column.is_indexed() && key_kind(column.kind).is_some()
}

/// Whether a value is short enough for its column's index. Those of filterable columns were when they were written.
pub(in crate::segment) fn fits_index(filterable: bool, value: &Value) -> bool {
    let fits = |text: &String| filterable || text.len() <= FILTERABLE_BYTES_MAX;
    match value {
        Value::String(text) => fits(text),
        Value::Strings(texts) => texts.iter().all(fits),
        _ => true,
    }
}

/// The columns of a schema as a segment has them: in ascending order of identity.
pub(in crate::segment) fn columns_of(schema: &Schema) -> Vec<SegmentColumn> {
    let mut columns: Vec<SegmentColumn> =
        schema.columns.iter().map(|column| SegmentColumn { uid: column.uid(), column: column.clone() }).collect();
    columns.sort_unstable_by_key(|column| column.uid);
    columns
}

/// A number of rows or tombstones, checked. The largest u32 is kept free: it says "none" in places.
pub(in crate::segment) fn row_count(count: usize) -> Result<u32> {
    u32::try_from(count)
        .ok()
        .filter(|count| *count < u32::MAX)
        .ok_or_else(|| Error::invalid(format!("{count} rows are too many for one segment")))
}

/// Checks that ids are of one type and ascend, and gives the type.
fn check_order(entries: &[Entry]) -> Result<Option<IdType>> {
    let id_type = entries.first().map(|entry| entry.id().id_type());
    for two in entries.windows(2) {
        let (id, next) = (two[0].id(), two[1].id());
        if next.id_type() != id.id_type() || next <= id {
            return Err(Error::internal(format!("build segment: id {next} after {id}")));
        }
    }
    Ok(id_type)
}

/// Writes the rows, and gives the logical size of each.
fn write_rows(columns: &[SegmentColumn], documents: &[&Document], out: &mut SegmentWriter) -> Result<Vec<u32>> {
    let mut sizes = Vec::with_capacity(documents.len());
    let mut fields: Vec<(u16, &Value)> = Vec::new();
    let mut rows = RowsWriter::begin(out)?;
    for document in documents {
        fields.clear();
        let mut size = document.id.logical_bytes();
        // Both lists are sorted by identity: one walk finds the places.
        let mut places = (0u16..).zip(columns).peekable();
        for (uid, value) in &document.fields {
            while places.next_if(|(_, column)| column.uid < *uid).is_some() {}
            let Some((place, column)) = places.next_if(|(_, column)| column.uid == *uid) else { continue };
            if !values::is_of(value, column.column.kind) {
                return Err(Error::internal(format!(
                    "build segment: attribute {:?} of {} is no {}",
                    column.column.name, document.id, column.column.kind
                )));
            }
            size += value.logical_bytes();
            if !column.column.kind.has_vectors() {
                fields.push((place, value));
            }
        }
        let patch = document.patch.as_ref().map(|patch| patch_places(patch, columns));
        rows.add(out, |record| encode_record(&fields, patch.as_ref(), record))?;
        sizes.push(u32::try_from(size).unwrap_or(u32::MAX));
    }
    rows.finish(out)?;
    Ok(sizes)
}

fn patch_places(patch: &PatchIntent, columns: &[SegmentColumn]) -> PatchPlaces {
    let place = |uid: &ColumnUid| columns.binary_search_by_key(uid, |column| column.uid).ok().map(|at| at as u16);
    PatchPlaces { base: patch.base, changed: patch.changed.iter().filter_map(place).collect() }
}

/// Writes the logical sizes of rows, and gives their sum.
pub(in crate::segment) fn write_sizes(sizes: &[u32], out: &mut SegmentWriter) -> Result<u64> {
    out.begin(versions::SIZES_SECTION, Codec::Plain)?;
    for size in sizes {
        out.write(&size.to_le_bytes())?;
    }
    Ok(sizes.iter().map(|size| u64::from(*size)).sum())
}

/// Writes the section of tombstones, as they come; none where there are none.
pub(in crate::segment) fn write_tombstones<'t>(
    tombstones: impl IntoIterator<Item = &'t Tombstone>,
    out: &mut SegmentWriter,
) -> Result<()> {
    let mut bytes = Vec::new();
    let mut tombstones = tombstones.into_iter().peekable();
    if tombstones.peek().is_some() {
        out.begin(versions::TOMBSTONES_SECTION, Codec::Plain)?;
    }
    for tombstone in tombstones {
        bytes.clear();
        versions::encode_tombstone(tombstone, &mut bytes)?;
        out.write(&bytes)?;
    }
    Ok(())
}

fn write_vectors(
    SegmentColumn { uid, column }: &SegmentColumn,
    metric: Option<Metric>,
    documents: &[&Document],
    out: &mut SegmentWriter,
) -> Result<()> {
    let found: Vec<(u32, &Vector)> = (0u32..)
        .zip(documents)
        .filter_map(|(row, document)| match document.get(*uid) {
            Some(Value::Vector(vector)) => Some((row, vector)),
            _ => None,
        })
        .collect();
    let mut writer = VectorsWriter::default();
    for (row, vector) in &found {
        let norm = (metric == Some(Metric::CosineDistance)).then(|| norm(vector));
        writer.add(*uid, *row, vectors::bytes_of(vector), norm, out)?;
    }
    let rows = documents.len() as u32;
    writer.finish(*uid, rows, out)?;
    match (column.kind, metric) {
        (AttributeType::Vector { dims, .. }, Some(metric)) => {
            clustering::write(*uid, (metric, dims, Extent::Lists), (&found, rows), None, out)
        }
        _ => Ok(()),
    }
}

impl clustering::Vectors for Vec<(u32, &Vector)> {
    fn count(&self) -> usize {
        self.len()
    }

    fn row(&self, place: usize) -> u32 {
        self[place].0
    }

    fn read(&self, place: usize, out: &mut [f32]) -> Result<()> {
        let (_, vector) = self[place];
        widen_into(element_of(vector), vectors::bytes_of(vector), out);
        Ok(())
    }
}

/// Writes a full-text column's sections; nothing for other columns.
fn write_text(column: &SegmentColumn, entries: &[Entry], rows: u32, out: &mut SegmentWriter) -> Result<()> {
    let Some(options) = &column.column.full_text else { return Ok(()) };
    let mut analyzer = None;
    let mut builder = if options.positions { TextBuilder::with_positions() } else { TextBuilder::new() };
    let documents = entries.iter().filter_map(|entry| match entry {
        Entry::Row { document, terms } => Some((document, terms)),
        Entry::Tombstone(_) => None,
    });
    for (row, (document, terms)) in (0..).zip(documents) {
        let Some(value) = document.get(column.uid) else { continue };
        let given = terms.iter().find(|(uid, _)| *uid == column.uid).map(|(_, terms)| terms);
        match given.filter(|terms| terms.has_positions() || !options.positions) {
            Some(terms) => builder.add(row, terms),
            None => {
                let analyzer = analyzer.get_or_insert_with(|| Analyzer::new(options));
                builder.add(row, &analyzer.analyze(value));
            }
        }
    }
    let section = if options.positions {
        out.begin(column_section(POSITIONS_SECTION, column.uid), Codec::Plain)?;
        builder.finish_with_positions(rows, |bytes| out.write(bytes))?
    } else {
        builder.finish(rows)?
    };
    out.section(column_section(TEXT_SECTION, column.uid), &section)
}

/// Writes a column's vectors as they come; holds their norms.
#[derive(Default)]
pub(in crate::segment) struct VectorsWriter {
    present: RoaringBitmap,
    norms: Vec<u8>,
}

impl VectorsWriter {
    pub(in crate::segment) fn add(
        &mut self,
        uid: ColumnUid,
        row: u32,
        bytes: &[u8],
        norm: Option<f32>,
        out: &mut SegmentWriter,
    ) -> Result<()> {
        if self.present.is_empty() {
            out.begin(column_section(vectors::SECTION, uid), Codec::Plain)?;
        }
        self.present.insert(row);
        if let Some(norm) = norm {
            self.norms.extend_from_slice(&norm.to_le_bytes());
        }
        out.write(bytes)
    }

    pub(in crate::segment) fn finish(self, uid: ColumnUid, rows: u32, out: &mut SegmentWriter) -> Result<()> {
        if !self.norms.is_empty() {
            out.section(column_section(vectors::NORMS_SECTION, uid), &self.norms)?;
        }
        if !self.present.is_empty() && self.present.len() < u64::from(rows) {
            let mut present = self.present;
            present.optimize();
            out.section(column_section(vectors::PRESENT_SECTION, uid), &vectors::encode_rows(&present)?)?;
        }
        Ok(())
    }
}

/// Ends the file and says what it is.
pub(in crate::segment) fn finish(
    out: SegmentWriter,
    id_type: Option<IdType>,
    columns: Vec<SegmentColumn>,
    rows: u32,
    tombstones: u32,
    logical_bytes: u64,
) -> Result<Summary> {
    let columns = columns.into_iter().map(|column| column.column).collect();
    let written = out.finish(id_type, columns, rows, tombstones, logical_bytes)?;
    Ok(Summary { bytes: written.bytes, crc32c: written.checksum, rows, tombstones, logical_bytes, forgotten: Hlc(0) })
}
