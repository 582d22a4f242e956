//! A sparse vector column's index: per dimension its rows and exact weights, in blocks of 128 with their largest weight.
//!
//! ```text
//! header    40 bytes
//! postings  per dimension a table of blocks (last row, end, largest weight), then the blocks: row deltas as integers, then
//!           weights as f16
//! terms     the dictionary, see `dictionary`
//! groups    its groups
//! ```

use half::f16;

use super::bytes::Reader;
use super::dictionary::{self, Dictionary, DictionaryWriter, Term, postings_of};
use super::varint;
use crate::error::{Error, Result};

pub const VERSION: u32 = 1;
pub const HEADER_BYTES: usize = 40;
/// Postings of one block; the last one of a dimension may have fewer.
pub const BLOCK: usize = 128;
const TABLE_ENTRY_BYTES: usize = 12;

/// Writes a section, dimensions in ascending order.
#[derive(Default)]
pub struct SparseWriter {
    postings: Vec<u8>,
    dictionary: DictionaryWriter,
}

impl SparseWriter {
    /// Adds a dimension, above all before it, with its rows ascending.
    pub fn dimension(&mut self, term: &str, postings: &[(u32, f16)]) -> Result<()> {
        let start = self.postings.len();
        let mut data = Vec::new();
        let mut last = 0;
        for block in postings.chunks(BLOCK) {
            for (row, _) in block {
                varint::write(&mut data, u64::from(row.wrapping_sub(last)));
                last = *row;
            }
            for (_, weight) in block {
                data.extend_from_slice(&weight.to_le_bytes());
            }
            let largest = block.iter().map(|(_, weight)| weight.to_f32()).fold(f32::MIN, f32::max);
            self.postings.extend_from_slice(&last.to_le_bytes());
            self.postings.extend_from_slice(&(data.len() as u32).to_le_bytes());
            self.postings.extend_from_slice(&largest.to_le_bytes());
        }
        self.postings.extend_from_slice(&data);
        self.dictionary.add(term, postings.len(), start, self.postings.len() - start)
    }

    /// The section of a segment of `rows` rows.
    pub fn finish(self, rows: u32) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES + self.postings.len());
        for field in [VERSION, rows, self.dictionary.count, 0] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        for field in [self.postings.len() as u64, self.dictionary.terms.len() as u64, 0] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out.extend_from_slice(&self.postings);
        out.extend_from_slice(&self.dictionary.terms);
        out.extend_from_slice(&self.dictionary.groups);
        out
    }
}

/// The parts of a section, lengths checked.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    pub rows: u32,
    pub dimensions: u32,
    pub postings: &'a [u8],
    pub dictionary: Dictionary<'a>,
}

/// Where the postings end, from the section's header.
pub fn postings_end(header: &[u8], name: &str) -> Result<usize> {
    dictionary::postings_end(header, 16, HEADER_BYTES, name)
}

/// Splits a section into its parts.
pub fn parts<'a>(bytes: &'a [u8], rows: u32, name: &'a str) -> Result<Parts<'a>> {
    let (header, postings, tables) = dictionary::split(bytes, HEADER_BYTES, |header| postings_end(header, name))?;
    parts_of(header, postings, tables, rows, name)
}

/// The parts of a section: its header, its postings, and what comes behind.
pub fn parts_of<'a>(
    header: &[u8],
    postings: &'a [u8],
    tables: &'a [u8],
    rows: u32,
    name: &'a str,
) -> Result<Parts<'a>> {
    let mut reader = Reader::new(header, name);
    let version = reader.u32()?;
    if version != VERSION {
        return Err(Error::unsupported(format!("{name}: sparse version {version}, this release reads {VERSION}")));
    }
    let (found, dimensions, reserved) = (reader.u32()?, reader.u32()?, reader.u32()?);
    if found != rows {
        return Err(Error::corrupt(format!("{name}: {found} rows, expected {rows}")));
    }
    let (bytes, terms) = (reader.u64()?, reader.u64()?);
    if reserved != 0 || reader.u64()? != 0 {
        return Err(Error::corrupt(format!("{name}: reserved bytes of the header are not 0")));
    }
    let size = |n: u64| usize::try_from(n).map_err(|_| Error::corrupt(format!("{name}: a part of {n} bytes")));
    if postings.len() != size(bytes)? {
        return Err(Error::corrupt(format!("{name}: {} bytes of postings, expected {bytes}", postings.len())));
    }
    let mut reader = Reader::new(tables, name);
    let terms = reader.take(size(terms)?)?;
    let groups = reader.take(Dictionary::groups_bytes(dimensions))?;
    reader.finish()?;
    Ok(Parts { rows, dimensions, postings, dictionary: Dictionary { terms, groups, name } })
}

/// What is known of a block without reading it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BlockBounds {
    pub last_row: u32,
    pub end: u32,
    pub max_weight: f32,
}

/// A dimension's postings in blocks, which may be read in any order.
#[derive(Clone)]
pub struct WeightBlocks<'a> {
    table: &'a [[u8; TABLE_ENTRY_BYTES]],
    data: &'a [u8],
    postings: usize,
    rows: u32,
    name: &'a str,
}

impl<'a> WeightBlocks<'a> {
    pub fn new(parts: &Parts<'a>, term: &Term, name: &'a str) -> Result<Self> {
        Self::of(postings_of(parts.postings, term, name)?, term, parts.rows, name)
    }

    /// The postings of a dimension, from its own bytes, in a segment of `rows` rows.
    pub fn of(bytes: &'a [u8], term: &Term, rows: u32, name: &'a str) -> Result<Self> {
        let postings = term.df as usize;
        let blocks = postings.div_ceil(BLOCK);
        let (table, data) = bytes
            .split_at_checked(blocks * TABLE_ENTRY_BYTES)
            .ok_or_else(|| Error::corrupt(format!("{name}: {} bytes for {blocks} blocks", bytes.len())))?;
        Ok(WeightBlocks { table: table.as_chunks().0, data, postings, rows, name })
    }

    /// How many blocks there are.
    pub fn count(&self) -> usize {
        self.table.len()
    }

    /// What is known of a block without reading it.
    pub fn bounds(&self, block: usize) -> Option<BlockBounds> {
        let (fields, _) = self.table.get(block)?.as_chunks::<4>();
        let field = |at: usize| u32::from_le_bytes(fields[at]);
        Some(BlockBounds { last_row: field(0), end: field(1), max_weight: f32::from_bits(field(2)) })
    }

    /// Appends a block's rows and weights. Rows ascend, from above the last row of the block before on; weights are finite.
    pub fn read(&self, block: usize, rows: &mut Vec<u32>, weights: &mut Vec<f16>) -> Result<()> {
        let Some(bounds) = self.bounds(block) else { return Ok(()) };
        let before = block.checked_sub(1).and_then(|before| self.bounds(before));
        let begin = before.map_or(0, |before| before.end as usize);
        let data = self.data.get(begin..).unwrap_or_default();
        let mut reader = Reader::new(data, self.name);
        let (mut last, first) = (before.map_or(0, |before| u64::from(before.last_row)), before.is_none());
        let count = BLOCK.min(self.postings - block * BLOCK);
        let from = rows.len();
        let mut ascend = true;
        match data.get(..count) {
            // All in one byte each, as mostly: no number depends on where the one before it ends.
            Some(deltas) if deltas.iter().fold(0, |all, delta| all | delta) < 0x80 => {
                reader.take(count)?;
                ascend = deltas.iter().skip(usize::from(first)).fold(true, |ascend, delta| ascend & (*delta != 0));
                let mut row = last as u32;
                rows.extend(deltas.iter().map(|delta| {
                    row = row.wrapping_add(u32::from(*delta));
                    row
                }));
                last += deltas.iter().map(|delta| u64::from(*delta)).sum::<u64>();
            }
            _ => {
                for at in 0..count {
                    let delta = varint::read(&mut reader, self.name)?;
                    last = last.saturating_add(delta);
                    ascend &= delta != 0 || (first && at == 0);
                    rows.push(last as u32);
                }
            }
        }
        // What is below the end now was all along.
        if !ascend || last >= u64::from(self.rows) {
            rows.truncate(from);
            return Err(Error::corrupt(format!("{}: postings are not ascending rows", self.name)));
        }
        let (found, _) = reader.take(2 * count)?.as_chunks::<2>();
        if u64::from(bounds.last_row) != last || bounds.end as usize != begin + reader.position() {
            return Err(Error::corrupt(format!(
                "{}: a block ends with row {last}, not as its table says",
                self.name
            )));
        }
        let from = weights.len();
        weights.extend(found.iter().map(|bytes| f16::from_le_bytes(*bytes)));
        let all_finite = weights[from..].iter().fold(true, |all, weight| all & weight.is_finite());
        if !all_finite {
            return Err(Error::corrupt(format!("{}: a weight of block {block} is not finite", self.name)));
        }
        Ok(())
    }

    /// Checks that nothing follows the last block.
    fn check_end(&self) -> Result<()> {
        let end =
            self.table.len().checked_sub(1).and_then(|last| self.bounds(last)).map_or(0, |last| last.end as usize);
        if end == self.data.len() {
            return Ok(());
        }
        Err(Error::corrupt(format!("{}: blocks of {end} bytes, expected {}", self.name, self.data.len())))
    }
}

/// Calls `each` with every row of a dimension and its weight, ascending.
pub fn for_each(blocks: &WeightBlocks<'_>, mut each: impl FnMut(u32, f16)) -> Result<()> {
    let (mut rows, mut weights) = (Vec::with_capacity(BLOCK), Vec::with_capacity(BLOCK));
    for block in 0..blocks.count() {
        rows.clear();
        weights.clear();
        blocks.read(block, &mut rows, &mut weights)?;
        rows.iter().zip(&weights).for_each(|(row, weight)| each(*row, *weight));
    }
    blocks.check_end()
}
