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
use super::dictionary::{Dictionary, DictionaryWriter, Term, postings_of};
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
        let bytes = (self.postings.len() - start) as u64;
        self.dictionary.add(term, &Term { df: postings.len() as u32, offset: start as u64, bytes })
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

/// Splits a section into its parts.
pub fn parts<'a>(bytes: &'a [u8], rows: u32, name: &'a str) -> Result<Parts<'a>> {
    let mut reader = Reader::new(bytes, name);
    let version = reader.u32()?;
    if version != VERSION {
        return Err(Error::unsupported(format!("{name}: sparse version {version}, this release reads {VERSION}")));
    }
    let (found, dimensions, reserved) = (reader.u32()?, reader.u32()?, reader.u32()?);
    if found != rows {
        return Err(Error::corrupt(format!("{name}: {found} rows, expected {rows}")));
    }
    let (postings, terms) = (reader.u64()?, reader.u64()?);
    if reserved != 0 || reader.u64()? != 0 {
        return Err(Error::corrupt(format!("{name}: reserved bytes of the header are not 0")));
    }
    let size = |n: u64| usize::try_from(n).map_err(|_| Error::corrupt(format!("{name}: a part of {n} bytes")));
    let postings = reader.take(size(postings)?)?;
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

/// Splits a dimension's postings into the table of blocks and the blocks.
fn table_and_data<'a>(parts: &Parts<'a>, term: &Term, name: &str) -> Result<(&'a [u8], &'a [u8])> {
    let bytes = postings_of(parts.postings, term, name)?;
    let blocks = (term.df as usize).div_ceil(BLOCK);
    bytes
        .split_at_checked(blocks * TABLE_ENTRY_BYTES)
        .ok_or_else(|| Error::corrupt(format!("{name}: {} bytes for {blocks} blocks", bytes.len())))
}

fn read_bounds(table: &mut Reader) -> Result<BlockBounds> {
    Ok(BlockBounds { last_row: table.u32()?, end: table.u32()?, max_weight: f32::from_bits(table.u32()?) })
}

/// What is known of a dimension's blocks.
pub fn bounds(parts: &Parts<'_>, term: &Term, name: &str) -> Result<Vec<BlockBounds>> {
    let (table, _) = table_and_data(parts, term, name)?;
    let mut table = Reader::new(table, name);
    let mut found = Vec::with_capacity(table.remaining() / TABLE_ENTRY_BYTES);
    while table.remaining() > 0 {
        found.push(read_bounds(&mut table)?);
    }
    Ok(found)
}

/// Calls `each` with every row of a dimension and its weight, ascending.
pub fn for_each(parts: &Parts<'_>, term: &Term, name: &str, mut each: impl FnMut(u32, f16)) -> Result<()> {
    let (table, data) = table_and_data(parts, term, name)?;
    let (mut table, mut reader) = (Reader::new(table, name), Reader::new(data, name));
    let mut rows = Vec::with_capacity(BLOCK);
    let (mut left, mut last, mut first) = (term.df as usize, 0u64, true);
    while left > 0 {
        let count = left.min(BLOCK);
        rows.clear();
        for _ in 0..count {
            let delta = varint::read(&mut reader, name)?;
            last = last.saturating_add(delta);
            if (delta == 0 && !first) || last >= u64::from(parts.rows) {
                return Err(Error::corrupt(format!("{name}: postings are not ascending rows")));
            }
            first = false;
            rows.push(last as u32);
        }
        let (weights, _) = reader.take(2 * count)?.as_chunks::<2>();
        let bounds = read_bounds(&mut table)?;
        if u64::from(bounds.last_row) != last || bounds.end as usize != reader.position() {
            return Err(Error::corrupt(format!("{name}: a block ends with row {last}, not as its table says")));
        }
        for (row, weight) in rows.iter().zip(weights) {
            let weight = f16::from_le_bytes(*weight);
            if !weight.is_finite() {
                return Err(Error::corrupt(format!("{name}: a weight of row {row} is not finite")));
            }
            each(*row, weight);
        }
        left -= count;
    }
    reader.finish()
}
