//! One open segment: its documents, and a reader for each of its indexes.

use std::sync::Arc;

use roaring::RoaringBitmap;
use uuid::Uuid;

use super::attributes::AttributeReader;
use super::builder::columns_of;
use super::dead_counts::DeadCounts;
use super::memory::MemoryLeft;
use super::past::PAST_BYTES;
use super::sections::{Ahead, Part, Sections};
use super::sparse::SparseReader;
use super::text::positions::PositionsReader;
use super::text::reader::{Term, TextReader};
use super::vectors::{Kept, TokenReader, VectorReader};
use super::{POSITIONS_SECTION, SPARSE_SECTION, SegmentColumn, TEXT_SECTION};
use crate::error::{Error, Kind, Result};
use crate::format::attributes::{SECTION as ATTRIBUTE_SECTION, key_kind};
use crate::format::ids::{self, Bloom, Ids};
use crate::format::segment::{
    CHUNK_BYTES, FOOTER_BYTES, Footer, HEADER_BYTES, Meta, decode_footer, decode_header, decode_meta,
};
use crate::format::versions::{self, Versions, decode_tombstones};
use crate::model::document::Tombstone;
use crate::model::ids::{DocId, Hlc, IdType, Version};
use crate::model::schema::{AttributeType, ColumnUid, Schema};
use crate::platform::mmap::{Mapping, bring};

/// Of a segment that is not all here so much of its end is brought first: footer and meta, as a rule. Meta is a little for each
/// section, and 4 bytes for each chunk.
const SUFFIX_BYTES: u64 = 8 << 10;
const SUFFIX_BYTES_PER_CHUNK: u64 = 8;

/// An immutable, indexed set of documents and tombstones. Cheap to share; all methods take it by reference, and each chunk
/// of the file is checked against its checksum when it is first touched.
pub struct Segment {
    pub(in crate::segment) sections: Sections,
    segment_id: Uuid,
    footer: Footer,
    id_type: Option<IdType>,
    columns: Arc<Vec<SegmentColumn>>,
    /// What is kept of each column of vectors.
    vectors: Arc<Vec<Kept>>,
    dead_counts: Arc<DeadCounts>,
}

impl Segment {
    /// Opens a segment file; `name` is its name in errors. Reads and checks header, footer and meta only; of a file that is not all
    /// here it brings what any use of the segment needs.
    pub fn open(map: Mapping, name: &str) -> Result<Segment> {
        let opened = Self::read(map.clone(), name);
        map.check_readable(name)?;
        match (map.filling(), opened) {
            (Some(fill), Err(wrong)) if wrong.kind() == Kind::Corrupt => {
                tracing::warn!(error = %wrong, "the bytes here are wrong, they are read again from the bucket");
                fill.forget(0..map.len() as u64);
                Self::read(map, name)
            }
            (_, opened) => opened,
        }
    }

    fn read(map: Mapping, name: &str) -> Result<Segment> {
        let all = map.len() as u64;
        let footer = all.saturating_sub(FOOTER_BYTES as u64)..all;
        let suffix = SUFFIX_BYTES + all / CHUNK_BYTES as u64 * SUFFIX_BYTES_PER_CHUNK;
        let is_known = map.filling().is_none_or(|fill| fill.missing(&[0..HEADER_BYTES as u64, footer.clone()]) == 0);
        let end = if is_known { footer } else { all.saturating_sub(suffix)..all };
        map.filling().inspect(|fill| fill.keep(&[0..HEADER_BYTES as u64, end.clone()]));
        bring(&[(&map, vec![0..HEADER_BYTES as u64, end])])?;
        let segment_id = decode_header(&map, name)?;
        let footer = decode_footer(&map, name)?;
        map.bring(footer.meta_offset..all)?;
        map.filling().inspect(|fill| fill.keep(&[0..HEADER_BYTES as u64, footer.meta_offset..all]));
        let Meta { id_type, columns, sections } = decode_meta(&map, &footer, name)?;
        if id_type.is_none() && (footer.rows, footer.tombstones) != (0, 0) {
            return Err(Error::corrupt(format!("{name}: has rows or tombstones, but no type of ids")));
        }
        let columns: Vec<SegmentColumn> =
            columns.into_iter().map(|column| SegmentColumn { uid: column.uid(), column }).collect();
        let vectors: Vec<Kept> = columns.iter().map(|_| Kept::default()).collect();
        let sections = Sections::new(map, name, sections)?;
        sections.bring_needed()?;
        let (columns, vectors) = (Arc::new(columns), Arc::new(vectors));
        let segment =
            Segment { sections, segment_id, footer, id_type, columns, vectors, dead_counts: Arc::default() };
        segment.check_counts()?;
        Ok(segment)
    }

    /// The same segment, for one reading that holds in memory what has no room on the disk: no more than is `left`.
    pub fn past(&self, left: &MemoryLeft) -> Segment {
        let Segment { ref sections, segment_id, footer, id_type, .. } = *self;
        let (columns, vectors, dead_counts) = (self.columns.clone(), self.vectors.clone(), self.dead_counts.clone());
        Segment { sections: sections.past(left), segment_id, footer, id_type, columns, vectors, dead_counts }
    }

    /// The same segment, for who writes down what it reads: each chunk is checked again when it is first touched, since its bytes may
    /// have changed after they were checked here. Costs no look at the file.
    pub fn unchecked(&self) -> Segment {
        let Segment { segment_id, footer, id_type, .. } = *self;
        let vectors = Arc::new(self.columns.iter().map(|_| Kept::default()).collect());
        let (sections, columns) = (self.sections.unchecked(), self.columns.clone());
        Segment { sections, segment_id, footer, id_type, columns, vectors, dead_counts: Arc::default() }
    }

    /// Checks the numbers of rows and tombstones against what is there, since memory is taken by them.
    fn check_counts(&self) -> Result<()> {
        let Footer { rows, tombstones, .. } = self.footer;
        let sizes = self.sections.required(versions::SIZES_SECTION)?.bytes();
        let tombstone_bytes = self.sections.find(versions::TOMBSTONES_SECTION).map_or(0, |part| part.bytes());
        if rows == u32::MAX || sizes as u64 != u64::from(rows) * 4 || (tombstones as usize) > tombstone_bytes {
            return Err(Error::corrupt(format!(
                "{}: {rows} rows with {sizes} bytes of sizes, {tombstones} tombstones in {tombstone_bytes} bytes",
                self.name()
            )));
        }
        Ok(())
    }

    /// What came of reading the segment, unless a part of its file could not be read: what was read of that is zeros.
    pub fn believed<T>(&self, read: Result<T>) -> Result<T> {
        self.sections.check_readable().and(read)
    }

    pub fn segment_id(&self) -> Uuid {
        self.segment_id
    }

    /// The whole file, brought here as far as it is not. It stays readable while this segment is held, whatever becomes of its
    /// name.
    pub fn file(&self) -> Result<&Mapping> {
        let map = self.sections.map();
        map.bring(0..map.len() as u64)?;
        Ok(map)
    }

    /// The length of the file.
    pub fn bytes(&self) -> u64 {
        self.sections.map().len() as u64
    }

    /// Gives the whole file piece by piece to `each`. What is not here and has no room is read past the disk. It stays readable while
    /// this segment is held, whatever becomes of its name.
    pub fn for_each_piece(&self, mut each: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let map = self.sections.map();
        let mut rest = 0..self.bytes();
        while !rest.is_empty() {
            let piece = rest.start..rest.end.min(rest.start + PAST_BYTES as u64);
            let fill = map.filling().filter(|fill| {
                let missing = fill.missing(std::slice::from_ref(&piece));
                missing > 0 && !fill.has_room(missing)
            });
            match fill {
                Some(fill) => fill.read(vec![piece.clone()])?()?.iter().try_for_each(|bytes| each(bytes))?,
                None => {
                    map.bring(piece.clone())?;
                    self.believed(each(map.part(piece.start as usize..piece.end as usize).unwrap_or_default()))?;
                }
            }
            rest.start = piece.end;
        }
        Ok(())
    }

    /// Brings all of the file here, so many bytes at a time, from its end on: what finds documents comes before documents.
    pub fn bring_all(&self, at_a_time: u64) -> Result<()> {
        let map = self.sections.map();
        let mut end = map.len() as u64;
        while end > 0 && map.filling().is_some() {
            let start = end.saturating_sub(at_a_time.max(1));
            map.bring(start..end)?;
            end = start;
        }
        Ok(())
    }

    /// Whether who opens the file anew gets another one.
    pub fn is_replaced(&self) -> bool {
        self.sections.map().filling().is_some_and(|fill| fill.is_replaced())
    }

    /// Whether all of the file is here.
    pub fn is_full(&self) -> bool {
        self.sections.map().is_full()
    }

    /// The file's name, for errors.
    pub fn name(&self) -> &str {
        self.sections.name()
    }

    /// How many rows there are, dead ones included.
    /// The name of every section and its size in bytes, in order of name.
    pub fn sections(&self) -> impl Iterator<Item = (&str, u64)> {
        self.sections.sizes()
    }

    pub fn rows(&self) -> u32 {
        self.footer.rows
    }

    pub fn tombstone_count(&self) -> u32 {
        self.footer.tombstones
    }

    /// Logical bytes of all rows.
    pub fn logical_bytes(&self) -> u64 {
        self.footer.logical_bytes
    }

    pub fn id_type(&self) -> Option<IdType> {
        self.id_type
    }

    /// The columns of the schema that this segment was built with, in ascending order of identity.
    pub fn columns(&self) -> &[SegmentColumn] {
        &self.columns
    }

    pub fn column(&self, uid: ColumnUid) -> Option<&SegmentColumn> {
        self.place(uid).map(|place| &self.columns[place])
    }

    /// Whether a merge by `schema` would make indexes of columns here that this segment does not have.
    pub fn lacks_indexes(&self, schema: &Schema) -> bool {
        columns_of(schema).iter().any(|SegmentColumn { uid, column }| {
            self.column(*uid).is_some_and(|had| {
                column.is_indexed() && !had.column.is_indexed()
                    || column.full_text.as_ref().is_some_and(|options| !had.has_text_of(options))
            })
        })
    }

    pub(in crate::segment) fn place(&self, uid: ColumnUid) -> Option<usize> {
        self.columns.binary_search_by_key(&uid, |column| column.uid).ok()
    }

    /// The row that has `id`.
    pub fn row_of(&self, id: &DocId) -> Result<Option<u32>> {
        self.believed(self.find_row(id))
    }

    fn find_row(&self, id: &DocId) -> Result<Option<u32>> {
        if self.id_type != Some(id.id_type()) || self.rows() == 0 || !self.bloom()?.may_contain(id) {
            return Ok(None);
        }
        self.ids()?.find(id)
    }

    /// Checks what finding a row by its id reads, so that it cannot be found damaged later.
    pub fn check_ids(&self) -> Result<()> {
        if self.rows() == 0 {
            return Ok(());
        }
        self.believed(self.bloom().and_then(|_| self.ids()).map(drop))
    }

    pub fn id_of(&self, row: u32) -> Result<DocId> {
        self.believed(self.ids().and_then(|ids| ids.get(row)))
    }

    pub(in crate::segment) fn footer(&self) -> &Footer {
        &self.footer
    }

    pub(in crate::segment) fn bloom(&self) -> Result<Bloom<'_>> {
        Bloom::new(self.sections.required(ids::BLOOM_SECTION)?.whole()?, self.rows(), self.name())
    }

    pub(in crate::segment) fn ids(&self) -> Result<Ids<'_>> {
        let kind = self.id_type.unwrap_or(IdType::Uint);
        let index = match self.sections.find(ids::INDEX_SECTION) {
            Some(index) => index.whole()?,
            None => &[],
        };
        Ids::new(kind, self.rows(), self.sections.required(ids::SECTION)?.whole()?, index, self.name())
    }

    pub(in crate::segment) fn versions(&self) -> Result<Versions<'_>> {
        Versions::new(self.sections.required(versions::SECTION)?.whole()?, self.rows(), self.name())
    }

    pub fn version_of(&self, row: u32) -> Result<Version> {
        self.believed(self.versions().and_then(|versions| versions.get(row)))
    }

    /// The rows whose version is `wanted`. Reads versions only.
    pub fn rows_by_version(&self, wanted: impl Fn(Version) -> bool) -> Result<RoaringBitmap> {
        let versions = self.believed(self.versions())?;
        let mut rows = RoaringBitmap::new();
        for row in 0..self.rows() {
            if wanted(versions.get(row)?) {
                rows.insert(row);
            }
        }
        self.believed(Ok(rows))
    }

    /// The oldest clock of the rows whose version is `wanted`. Reads versions only.
    pub fn oldest(&self, wanted: impl Fn(Version) -> bool) -> Result<Option<Hlc>> {
        let versions = self.believed(self.versions())?;
        let mut oldest: Option<Hlc> = None;
        for row in 0..self.rows() {
            let version = versions.get(row)?;
            if wanted(version) && oldest.is_none_or(|oldest| version.hlc < oldest) {
                oldest = Some(version.hlc);
            }
        }
        self.believed(Ok(oldest))
    }

    /// Logical bytes of one row's document; costs a look-up.
    pub fn logical_bytes_of(&self, row: u32) -> Result<u64> {
        let sizes = self.sections.required(versions::SIZES_SECTION)?.whole()?;
        match sizes.as_chunks().0.get(row as usize) {
            Some(size) => self.believed(Ok(u64::from(u32::from_le_bytes(*size)))),
            None => Err(Error::corrupt(format!("{}: row {row} has no size", self.name()))),
        }
    }

    /// How many bytes of the segment its tombstones are.
    pub fn tombstone_bytes(&self) -> u64 {
        self.sections.find(versions::TOMBSTONES_SECTION).map_or(0, |part| part.bytes() as u64)
    }

    /// All tombstones, in ascending order of id.
    pub fn tombstones(&self) -> Result<Vec<Tombstone>> {
        let (Some(kind), 1..) = (self.id_type, self.tombstone_count()) else { return Ok(Vec::new()) };
        let bytes = self.sections.required(versions::TOMBSTONES_SECTION)?.whole()?;
        self.believed(decode_tombstones(bytes, kind, self.tombstone_count(), self.name()))
    }

    /// The index of a column; `None` when the segment has none, for lack of the column, because it was not indexed when the
    /// segment was built, or because it was for patterns only and a text is too long.
    pub fn attribute(&self, uid: ColumnUid) -> Result<Option<AttributeReader<'_>>> {
        let Some(SegmentColumn { column, .. }) = self.column(uid) else { return Ok(None) };
        let is_absent = || self.sections.of_column(ATTRIBUTE_SECTION, uid).is_none();
        if !column.is_indexed() || key_kind(column.kind).is_none() || !column.filterable && is_absent() {
            return Ok(None);
        }
        let bytes = self.index_of(ATTRIBUTE_SECTION, uid, &column.name)?;
        AttributeReader::open(bytes, self.rows(), column.kind, self.name()).map(Some)
    }

    /// The dense vectors of a column; `None` when the segment has no such column.
    pub fn vectors(&self, uid: ColumnUid) -> Result<Option<VectorReader<'_>>> {
        let Some(place) = self.place(uid) else { return Ok(None) };
        let AttributeType::Vector { dims, element } = self.columns[place].column.kind else { return Ok(None) };
        VectorReader::open(&self.sections, &self.vectors[place], uid, (dims, element), self.rows()).map(Some)
    }

    /// The multivectors of a column; `None` when the segment has no such column.
    pub fn tokens(&self, uid: ColumnUid) -> Result<Option<TokenReader<'_>>> {
        let Some(place) = self.place(uid) else { return Ok(None) };
        let AttributeType::Multivector { dims } = self.columns[place].column.kind else { return Ok(None) };
        TokenReader::open(&self.sections, &self.vectors[place], uid, dims, self.rows()).map(Some)
    }

    /// The full-text index of a column; `None` when the segment has none, for lack of the column or because it was not
    /// searched by text when the segment was built.
    pub fn text(&self, uid: ColumnUid) -> Result<Option<TextReader<'_>>> {
        let Some(SegmentColumn { column, .. }) = self.column(uid) else { return Ok(None) };
        if column.full_text.is_none() {
            return Ok(None);
        }
        let part = self.section_of(TEXT_SECTION, uid, &column.name)?;
        if part.is_full() {
            return TextReader::open(part.whole()?, self.rows(), self.name()).map(Some);
        }
        TextReader::open_part(part, self.rows(), self.name()).map(Some)
    }

    /// Adds what a query looks terms of a full-text column up in to what is brought.
    pub fn add_text_tables<'a>(&'a self, uid: ColumnUid, ahead: &mut Ahead<'a>) -> Result<()> {
        match self.sections.of_column(TEXT_SECTION, uid) {
            Some(part) if !part.is_full() => TextReader::add_tables(&part, self.name(), ahead),
            _ => Ok(()),
        }
    }

    /// Where the rows hold the terms of a full-text column; `None` when the segment does not say.
    pub fn positions(&self, uid: ColumnUid) -> Result<Option<PositionsReader<'_>>> {
        let Some(column) = self.column(uid).filter(|column| column.keeps_positions()) else { return Ok(None) };
        let Some(text) = self.text(uid)? else { return Ok(None) };
        let part = self.section_of(POSITIONS_SECTION, uid, &column.column.name)?;
        match part.whole_if_room()? {
            Some(all) => PositionsReader::open(all, text, self.name()).map(Some),
            None => PositionsReader::open_part(part, text, self.name()).map(Some),
        }
    }

    /// How many of the rows `dead` hold a term of a full-text column; `count` counts them where it is not known.
    pub fn dead_with(
        &self,
        dead: &Arc<RoaringBitmap>,
        uid: ColumnUid,
        term: &Term,
        count: impl FnOnce() -> Result<u64>,
    ) -> Result<u64> {
        self.dead_counts.of(dead, (uid, term.offset), count)
    }

    /// How many of the rows `dead` have a full-text column, and how many tokens; `count` counts them where it is not known.
    pub fn dead_in(
        &self,
        dead: &Arc<RoaringBitmap>,
        uid: ColumnUid,
        count: impl FnOnce() -> Result<(u64, u64)>,
    ) -> Result<(u64, u64)> {
        self.dead_counts.of_column(dead, uid, count)
    }

    /// The index of a column of sparse vectors; `None` when the segment has no such column.
    pub fn sparse(&self, uid: ColumnUid) -> Result<Option<SparseReader<'_>>> {
        let Some(SegmentColumn { column, .. }) = self.column(uid) else { return Ok(None) };
        if column.kind != AttributeType::Sparse {
            return Ok(None);
        }
        let part = self.section_of(SPARSE_SECTION, uid, &column.name)?;
        match part.whole_if_room()? {
            Some(all) => SparseReader::open(all, self.rows(), self.name()).map(Some),
            None => SparseReader::open_part(part, self.rows(), self.name()).map(Some),
        }
    }

    /// A column's section that must be there.
    fn index_of(&self, what: &str, uid: ColumnUid, column: &str) -> Result<&[u8]> {
        self.section_of(what, uid, column)?.whole()
    }

    fn section_of(&self, what: &str, uid: ColumnUid, column: &str) -> Result<Part<'_>> {
        match self.sections.of_column(what, uid) {
            Some(part) => Ok(part),
            None => Err(Error::corrupt(format!("{}: has no section {what} for attribute {column:?}", self.name()))),
        }
    }
}
