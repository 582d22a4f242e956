//! Reads a segment's documents: one, or many in the order of their rows, past the disk where it has no room for what they take.

use std::iter::Peekable;

use roaring::RoaringBitmap;
use roaring::bitmap::IntoIter;

use super::past::{Batch, Past};
use super::sections::Ahead;
use super::{Segment, SegmentColumn};
use crate::error::{Error, Result};
use crate::format::rows::{self, Block, BlockPlace, Record, RowsIndex, decode_record};
use crate::format::segment::Codec;
use crate::format::values;
use crate::model::document::{Document, PatchIntent};
use crate::model::schema::ColumnUid;
use crate::model::value::Value;

/// Whether a column is wanted: all are, or those of a sorted list.
fn is_wanted(columns: Option<&[ColumnUid]>, uid: ColumnUid) -> bool {
    columns.is_none_or(|list| list.binary_search(&uid).is_ok())
}

impl Segment {
    /// A row's document: all columns, or those of a sorted list. For many rows, [`Segment::scan`] is faster.
    pub fn document(&self, row: u32, columns: Option<&[ColumnUid]>) -> Result<Document> {
        self.scan()?.document(row, columns)
    }

    /// Adds what documents of some rows consist of to what is brought: all columns, or those of a sorted list.
    pub fn add_documents<'a>(
        &'a self,
        rows: impl IntoIterator<Item = u32> + Clone,
        columns: Option<&[ColumnUid]>,
        ahead: &mut Ahead<'a>,
    ) -> Result<()> {
        if self.is_full() {
            return Ok(());
        }
        let (scan, blocks) = (self.scan()?, self.sections.required(rows::SECTION)?);
        for row in rows.clone() {
            ahead.add(&blocks, scan.index.block_of(row)?.bytes);
        }
        for SegmentColumn { uid, .. } in self.columns().iter().filter(|column| is_wanted(columns, column.uid)) {
            if let Some(vectors) = self.vectors(*uid)? {
                rows.clone().into_iter().for_each(|row| vectors.add_vector(row, ahead));
            }
            if let Some(tokens) = self.tokens(*uid)? {
                rows.clone().into_iter().try_for_each(|row| tokens.add(row, ahead))?;
            }
        }
        Ok(())
    }

    /// Reads documents in any order, and cheapest in row order: neighbours lie in one block, which is kept.
    pub fn scan(&self) -> Result<RowScan<'_>> {
        let part = self.sections.required(rows::SECTION)?;
        if part.codec() != Codec::Lz4Blocks {
            return Err(Error::corrupt(format!("{}: rows are not stored in blocks", self.name())));
        }
        let index = self.sections.required(rows::INDEX_SECTION)?.whole()?;
        let index = self.believed(RowsIndex::new(index, self.rows(), part.bytes() as u64, self.name()))?;
        Ok(RowScan { segment: self, index, block: Block::default(), coming: None, past: Past::default() })
    }

    /// Reads the documents of some rows, in row order: all columns, or those of a sorted list. What of them is not here is brought some
    /// at a time, or read past the disk where that has no room.
    pub fn scan_of(&self, rows: &RoaringBitmap, columns: Option<&[ColumnUid]>) -> Result<RowScan<'_>> {
        if self.is_full() {
            return self.scan();
        }
        let uids = self.columns().iter().map(|column| column.uid).filter(|uid| is_wanted(columns, *uid)).collect();
        let coming = Coming { rows: rows.clone().into_iter().peekable(), columns: uids };
        Ok(RowScan { coming: Some(coming), ..self.scan()? })
    }

    /// A row's value of a column of vectors or multivectors.
    fn vectors_of<'a>(&'a self, uid: ColumnUid, row: u32, past: &mut Past<'a>) -> Result<Option<Value>> {
        if let Some(reader) = self.vectors(uid)? {
            return Ok(reader.vector_past(row, past)?.map(Value::Vector));
        }
        Ok(self
            .tokens(uid)?
            .map(|reader| reader.value_past(row, past))
            .transpose()?
            .flatten()
            .map(Value::Multivector))
    }

    /// The logical bytes of that value; 0 where there is none.
    pub(in crate::segment) fn vector_bytes_of(&self, uid: ColumnUid, row: u32) -> Result<u64> {
        if let Some(reader) = self.vectors(uid)? {
            return Ok(reader.stored(row)?.map_or(0, |(bytes, _)| bytes.len() as u64));
        }
        let stored = self.tokens(uid)?.map(|reader| reader.stored(row)).transpose()?.flatten();
        Ok(stored.map_or(0, |bytes| bytes.len() as u64))
    }
}

/// Reads documents one by one, keeping the block that the last one was in.
pub struct RowScan<'a> {
    segment: &'a Segment,
    index: RowsIndex<'a>,
    block: Block,
    /// What will be read, and what was read last past the disk.
    coming: Option<Coming>,
    past: Past<'a>,
}

/// Rows whose documents will be read, ascending.
struct Coming {
    rows: Peekable<IntoIter>,
    /// Of which columns, sorted.
    columns: Vec<ColumnUid>,
}

impl<'a> RowScan<'a> {
    /// A row's document, as [`Segment::document`] gives it.
    pub fn document(&mut self, row: u32, columns: Option<&[ColumnUid]>) -> Result<Document> {
        let read = self.read(row, columns);
        self.segment.believed(read)
    }

    fn read(&mut self, row: u32, columns: Option<&[ColumnUid]>) -> Result<Document> {
        self.read_ahead(row)?;
        let segment = self.segment;
        let wanted = |uid| is_wanted(columns, uid);
        let id = segment.id_of(row)?;
        let version = segment.version_of(row)?;
        let mut fields = Vec::new();
        let vectors =
            segment.columns().iter().filter(|column| column.column.kind.has_vectors() && wanted(column.uid));
        for SegmentColumn { uid, .. } in vectors {
            fields.extend(segment.vectors_of(*uid, row, &mut self.past)?.map(|value| (*uid, value)));
        }
        let record = self.record(row)?;
        for (place, bytes) in &record.fields {
            let SegmentColumn { uid, column } = &segment.columns()[usize::from(*place)];
            if wanted(*uid) {
                fields.push((*uid, values::decode(column.kind, bytes, segment.name())?));
            }
        }
        fields.sort_unstable_by_key(|(uid, _)| *uid);
        let patch = record.patch.map(|patch| PatchIntent {
            base: patch.base,
            changed: patch.changed.iter().map(|place| segment.columns()[usize::from(*place)].uid).collect(),
        });
        Ok(Document { id, version, fields, patch })
    }

    /// A row's record; places are those of the segment's columns.
    pub(in crate::segment) fn record(&mut self, row: u32) -> Result<Record<'_>> {
        let segment = self.segment;
        let name = segment.name();
        let record = decode_record(self.record_bytes(row)?, segment.columns().len(), name)?;
        for (place, _) in &record.fields {
            if segment.columns()[usize::from(*place)].column.kind.has_vectors() {
                return Err(Error::corrupt(format!("{name}: row {row} has vectors among its fields")));
            }
        }
        Ok(record)
    }

    /// A row's record as it is stored.
    pub(in crate::segment) fn record_bytes(&mut self, row: u32) -> Result<&[u8]> {
        if !self.block.rows().contains(&row) {
            let place = self.index.block_of(row)?;
            self.load(&place)?;
        }
        self.block.record(row, self.segment.name())
    }

    /// Whether the block of the last row read has nothing after its last record.
    pub(in crate::segment) fn block_is_whole(&self) -> bool {
        self.block.is_whole()
    }

    /// Brings what the documents from a row on consist of, or reads it past the disk, if they are known and it was not done yet.
    fn read_ahead(&mut self, row: u32) -> Result<()> {
        let Some(coming) = &mut self.coming else { return Ok(()) };
        if coming.rows.peek().is_none_or(|next| *next > row) {
            return Ok(());
        }
        let segment = self.segment;
        let (part, mut batch) = (segment.sections.required(rows::SECTION)?, Batch::default());
        let vectors = coming.columns.iter().map(|uid| segment.vectors(*uid)).collect::<Result<Vec<_>>>()?;
        let tokens = coming.columns.iter().map(|uid| segment.tokens(*uid)).collect::<Result<Vec<_>>>()?;
        self.past = Past::default();
        while !batch.is_full()
            && let Some(next) = coming.rows.next()
        {
            if next < row {
                continue;
            }
            batch.add(&part, self.index.block_of(next)?.bytes);
            vectors.iter().flatten().for_each(|vectors| vectors.add_past(next, &mut batch));
            tokens.iter().flatten().try_for_each(|tokens| tokens.add_past(next, &mut batch))?;
        }
        self.past = batch.bring_or_read()?;
        Ok(())
    }

    fn load(&mut self, place: &BlockPlace) -> Result<()> {
        let part = self.segment.sections.required(rows::SECTION)?;
        let stored = self.past.bytes_of(&part, place.bytes.clone())?;
        self.block.load(place, stored, self.segment.name())
    }
}
