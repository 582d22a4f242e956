//! The documents of a segment, without their dense vectors: records in compressed blocks, and an index of the blocks.
//!
//! A block, before compression, is the end of each of its records (u32, from the end of this table), then the records. A
//! record is a number of fields, each a column's place in the segment's table, a length and that many bytes of value;
//! then 0, or 1 and what a patch meant: its base version, and the number and the places of the columns it changed.
//! Numbers without a size are varints.

use super::bytes::Reader;
use super::segment::Codec;
use super::segment_writer::SegmentWriter;
use super::{values, varint};
use crate::error::{Error, Result};
use crate::model::ids::{Hlc, Origin, Version};
use crate::model::value::Value;

pub const SECTION: &str = "rows";
pub const INDEX_SECTION: &str = "rows.index";
/// A block is closed when its records reach this many bytes.
pub const BLOCK_BYTES: usize = 16 << 10;
/// The largest block: one document at its limit of 64 MiB, on top of a block that was almost full, and their tables.
const BLOCK_BYTES_MAX: usize = 80 << 20;
/// One entry of the index: first row (u32), bytes before compression (u32), offset in the section (u64).
const ENTRY_BYTES: usize = 16;
/// LZ4 cannot make less than a byte of this many; bounds what a damaged length can allocate.
const LZ4_RATIO_MAX: usize = 255;

/// What a patch meant, with columns as places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatchPlaces {
    pub base: Version,
    /// Ascending.
    pub changed: Vec<u16>,
}

/// Adds a record to `out`. `fields` are in ascending order of place.
pub fn encode_record(fields: &[(u16, &Value)], patch: Option<&PatchPlaces>, out: &mut Vec<u8>) {
    let mut value_bytes = Vec::new();
    varint::write(out, fields.len() as u64);
    for (place, value) in fields {
        varint::write(out, u64::from(*place));
        value_bytes.clear();
        values::encode(value, &mut value_bytes);
        varint::write(out, value_bytes.len() as u64);
        out.extend_from_slice(&value_bytes);
    }
    encode_patch(patch, out);
}

/// Adds a record whose values are bytes already, as [`Record`] gave them.
pub fn encode_record_of_bytes(fields: &[(u16, &[u8])], patch: Option<&PatchPlaces>, out: &mut Vec<u8>) {
    varint::write(out, fields.len() as u64);
    for (place, value) in fields {
        varint::write(out, u64::from(*place));
        varint::write(out, value.len() as u64);
        out.extend_from_slice(value);
    }
    encode_patch(patch, out);
}

fn encode_patch(patch: Option<&PatchPlaces>, out: &mut Vec<u8>) {
    let Some(patch) = patch else { return out.push(0) };
    out.push(1);
    out.extend_from_slice(&patch.base.hlc.0.to_le_bytes());
    out.extend_from_slice(&patch.base.origin.0.to_le_bytes());
    varint::write(out, patch.changed.len() as u64);
    for place in &patch.changed {
        varint::write(out, u64::from(*place));
    }
}

/// A record taken apart; values are still bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Ascending by place.
    pub fields: Vec<(u16, &'a [u8])>,
    pub patch: Option<PatchPlaces>,
}

/// Takes a record apart. Places are ascending and below `columns`.
pub fn decode_record<'a>(bytes: &'a [u8], columns: usize, what: &'a str) -> Result<Record<'a>> {
    let mut reader = Reader::new(bytes, what);
    let mut places = Places { last: None, columns };
    let count = varint::read_length(&mut reader, what)?;
    let mut fields = Vec::with_capacity(count.min(columns));
    for _ in 0..count {
        let place = places.next(&mut reader, what)?;
        let length = varint::read_length(&mut reader, what)?;
        fields.push((place, reader.take(length)?));
    }
    let patch = match reader.u8()? {
        0 => None,
        1 => {
            let base = Version { hlc: Hlc(reader.u64()?), origin: Origin(reader.u64()?) };
            let count = varint::read_length(&mut reader, what)?;
            let mut places = Places { last: None, columns };
            let changed = (0..count).map(|_| places.next(&mut reader, what)).collect::<Result<_>>()?;
            Some(PatchPlaces { base, changed })
        }
        other => return Err(Error::corrupt(format!("{what}: a record goes on with {other}, expected 0 or 1"))),
    };
    reader.finish()?;
    Ok(Record { fields, patch })
}

/// Reads ascending places of columns.
struct Places {
    last: Option<u16>,
    columns: usize,
}

impl Places {
    fn next(&mut self, reader: &mut Reader, what: &str) -> Result<u16> {
        let place = varint::read(reader, what)?;
        let checked = u16::try_from(place).ok().filter(|at| usize::from(*at) < self.columns && self.last < Some(*at));
        self.last = Some(checked.ok_or_else(|| {
            Error::corrupt(format!("{what}: column {place} of {} after {:?}", self.columns, self.last))
        })?);
        Ok(self.last.unwrap_or_default())
    }
}

/// Writes the sections of rows and their index.
pub struct RowsWriter {
    ends: Vec<u8>,
    records: Vec<u8>,
    block: Vec<u8>,
    compressed: Vec<u8>,
    index: Vec<u8>,
    first_row: u32,
    rows: u32,
}

impl RowsWriter {
    pub fn begin(out: &mut SegmentWriter) -> Result<Self> {
        out.begin(SECTION, Codec::Lz4Blocks)?;
        Ok(RowsWriter {
            ends: Vec::new(),
            records: Vec::with_capacity(2 * BLOCK_BYTES),
            block: Vec::new(),
            compressed: Vec::new(),
            index: Vec::new(),
            first_row: 0,
            rows: 0,
        })
    }

    /// Adds the record that `encode` appends.
    pub fn add(&mut self, out: &mut SegmentWriter, encode: impl FnOnce(&mut Vec<u8>)) -> Result<()> {
        encode(&mut self.records);
        self.ends.extend_from_slice(&(self.records.len() as u32).to_le_bytes());
        self.rows += 1;
        if self.records.len() >= BLOCK_BYTES { self.close(out) } else { Ok(()) }
    }

    fn close(&mut self, out: &mut SegmentWriter) -> Result<()> {
        if self.ends.is_empty() {
            return Ok(());
        }
        self.block.clear();
        self.block.extend_from_slice(&self.ends);
        self.block.extend_from_slice(&self.records);
        if self.block.len() > BLOCK_BYTES_MAX {
            return Err(Error::invalid(format!(
                "documents of {} bytes, at most {BLOCK_BYTES_MAX} fit in a block of rows",
                self.block.len()
            )));
        }
        self.index.extend_from_slice(&self.first_row.to_le_bytes());
        self.index.extend_from_slice(&(self.block.len() as u32).to_le_bytes());
        self.index.extend_from_slice(&out.section_bytes().to_le_bytes());
        self.compressed.resize(lz4_flex::block::get_maximum_output_size(self.block.len()), 0);
        let bytes = lz4_flex::block::compress_into(&self.block, &mut self.compressed)
            .map_err(|e| Error::internal(format!("compress rows: {e}")))?;
        let smaller = bytes < self.block.len();
        out.write(if smaller { &self.compressed[..bytes] } else { &self.block })?;
        self.ends.clear();
        self.records.clear();
        self.first_row = self.rows;
        Ok(())
    }

    pub fn finish(mut self, out: &mut SegmentWriter) -> Result<()> {
        self.close(out)?;
        out.section(INDEX_SECTION, &self.index)
    }
}

/// The index of blocks, read in place.
#[derive(Clone, Copy)]
pub struct RowsIndex<'a> {
    entries: &'a [[u8; ENTRY_BYTES]],
    rows: u32,
    /// Bytes of the section of rows.
    bytes: u64,
    name: &'a str,
}

/// Where one block is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockPlace {
    pub number: usize,
    pub rows: std::ops::Range<u32>,
    /// In the section of rows.
    pub bytes: std::ops::Range<usize>,
    /// Bytes before compression.
    pub plain_bytes: usize,
}

impl<'a> RowsIndex<'a> {
    pub fn new(index: &'a [u8], rows: u32, bytes: u64, name: &'a str) -> Result<Self> {
        let (entries, rest) = index.as_chunks();
        if !rest.is_empty() || entries.is_empty() != (rows == 0) {
            return Err(Error::corrupt(format!(
                "{name}: section {INDEX_SECTION} of {} bytes for {rows} rows",
                index.len()
            )));
        }
        Ok(RowsIndex { entries, rows, bytes, name })
    }

    pub fn blocks(&self) -> usize {
        self.entries.len()
    }

    /// The block that holds `row`.
    pub fn block_of(&self, row: u32) -> Result<BlockPlace> {
        if row >= self.rows {
            return Err(Error::internal(format!("{}: row {row} of {}", self.name, self.rows)));
        }
        let after = self.entries.partition_point(|entry| first_row(entry) <= row);
        let place = self.block(after.saturating_sub(1))?;
        if !place.rows.contains(&row) {
            return Err(Error::corrupt(format!("{}: row {row} is in no block", self.name)));
        }
        Ok(place)
    }

    pub fn block(&self, number: usize) -> Result<BlockPlace> {
        let wrong = || Error::corrupt(format!("{}: block {number} of rows is not in its place", self.name));
        let entry = self.entries.get(number).ok_or_else(wrong)?;
        let next = self.entries.get(number + 1);
        let rows = first_row(entry)..next.map_or(self.rows, first_row);
        let (start, end) = (offset(entry), next.map_or(self.bytes, offset));
        let plain_bytes = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]) as usize;
        if rows.is_empty() || start >= end || end > self.bytes || (number == 0 && (rows.start, start) != (0, 0)) {
            return Err(wrong());
        }
        let stored = usize::try_from(end - start).map_err(|_| wrong())?;
        if plain_bytes > BLOCK_BYTES_MAX || plain_bytes / LZ4_RATIO_MAX > stored || stored > plain_bytes {
            return Err(Error::corrupt(format!(
                "{}: block {number} of rows has {stored} bytes for {plain_bytes}",
                self.name
            )));
        }
        Ok(BlockPlace { number, rows, bytes: start as usize..end as usize, plain_bytes })
    }
}

fn first_row(entry: &[u8; ENTRY_BYTES]) -> u32 {
    u32::from_le_bytes([entry[0], entry[1], entry[2], entry[3]])
}

fn offset(entry: &[u8; ENTRY_BYTES]) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&entry[8..]);
    u64::from_le_bytes(bytes)
}

/// A block of rows, not compressed.
#[derive(Debug, Default)]
pub struct Block {
    plain: Vec<u8>,
    rows: std::ops::Range<u32>,
}

impl Block {
    /// Replaces what this holds by the block at `place`, whose stored bytes are given.
    pub fn load(&mut self, place: &BlockPlace, stored: &[u8], name: &str) -> Result<()> {
        self.rows = 0..0;
        self.plain.resize(place.plain_bytes, 0);
        if stored.len() == place.plain_bytes {
            self.plain.copy_from_slice(stored);
        } else {
            let got = lz4_flex::block::decompress_into(stored, &mut self.plain).map_err(|e| {
                Error::corrupt(format!("{name}: block {} of rows does not decompress: {e}", place.number))
            })?;
            if got != place.plain_bytes {
                return Err(Error::corrupt(format!(
                    "{name}: block {} of rows has {got} bytes, expected {}",
                    place.number, place.plain_bytes
                )));
            }
        }
        self.rows = place.rows.clone();
        Ok(())
    }

    pub fn rows(&self) -> std::ops::Range<u32> {
        self.rows.clone()
    }

    /// The record of a row of this block.
    pub fn record(&self, row: u32, name: &str) -> Result<&[u8]> {
        let wrong = || Error::corrupt(format!("{name}: the record of row {row} is not in its block"));
        let at = row.checked_sub(self.rows.start).filter(|_| self.rows.contains(&row)).ok_or_else(wrong)? as usize;
        let (ends, records) = self.plain.split_at_checked(self.rows.len() * 4).ok_or_else(wrong)?;
        let (ends, _) = ends.as_chunks::<4>();
        let end = |at: usize| ends.get(at).map(|end| u32::from_le_bytes(*end) as usize);
        let start = at.checked_sub(1).map_or(Some(0), end);
        start.zip(end(at)).and_then(|(start, end)| records.get(start..end)).ok_or_else(wrong)
    }

    /// Whether the last record ends where the block ends.
    pub fn is_whole(&self) -> bool {
        let ends = self.rows.len() * 4;
        let last = self.plain.get(..ends).and_then(|ends| ends.last_chunk::<4>());
        last.is_some_and(|last| u32::from_le_bytes(*last) as usize + ends == self.plain.len())
    }
}
