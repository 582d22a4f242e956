//! The ids of a segment's rows in row order, which is ascending order of id, and the Bloom filter in front of them.
//!
//! Integers take 8 bytes each and UUIDs 16; strings follow each other, each after one byte of length, and an index has
//! the offset of every [`STRIDE`]th.

use std::cmp::Ordering;

use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use super::bytes::Reader;
use super::segment::Codec;
use super::segment_writer::SegmentWriter;
use crate::error::{Error, Result};
use crate::model::ids::{DocId, IdType, STRING_ID_BYTES_MAX};

/// The section with the ids, the one with the offsets of string ids, and the one with the filter.
pub const SECTION: &str = "ids";
pub const INDEX_SECTION: &str = "ids.index";
pub const BLOOM_SECTION: &str = "ids.bloom";
/// String ids per entry of the index.
pub const STRIDE: usize = 64;

/// One id as bytes: integers as 8, UUIDs as 16, strings after their length.
pub fn encode_id(id: &DocId, out: &mut Vec<u8>) -> Result<()> {
    match id {
        DocId::Uint(n) => out.extend_from_slice(&n.to_le_bytes()),
        DocId::Uuid(u) => out.extend_from_slice(u.as_bytes()),
        DocId::String(s) => {
            let bytes = u8::try_from(s.len()).ok().filter(|n| usize::from(*n) <= STRING_ID_BYTES_MAX);
            let bytes = bytes.ok_or_else(|| Error::internal(format!("string id of {} bytes", s.len())))?;
            out.push(bytes);
            out.extend_from_slice(s.as_bytes());
        }
    }
    Ok(())
}

/// The id at the reader's place.
pub fn decode_id(kind: IdType, reader: &mut Reader, what: &str) -> Result<DocId> {
    Ok(match kind {
        IdType::Uint => DocId::Uint(reader.u64()?),
        IdType::Uuid => DocId::Uuid(Uuid::from_bytes(reader.bytes16()?)),
        IdType::String => {
            let bytes = usize::from(reader.u8()?);
            if bytes > STRING_ID_BYTES_MAX {
                return Err(Error::corrupt(format!(
                    "{what}: string id of {bytes} bytes, expected at most {STRING_ID_BYTES_MAX}"
                )));
            }
            let text = std::str::from_utf8(reader.take(bytes)?);
            DocId::String(text.map_err(|_| Error::corrupt(format!("{what}: a string id is not UTF-8")))?.into())
        }
    })
}

/// Writes the sections of ids and filter. `ids` are strictly ascending and of one type.
pub fn write<'d>(out: &mut SegmentWriter, rows: u32, ids: impl Iterator<Item = Result<DocId>> + 'd) -> Result<()> {
    let mut bloom = BloomBuilder::new(rows);
    let (mut index, mut strings) = (Vec::new(), false);
    let mut bytes = Vec::with_capacity(STRING_ID_BYTES_MAX + 1);
    out.begin(SECTION, Codec::Plain)?;
    for (row, id) in ids.enumerate() {
        let id = id?;
        if row % STRIDE == 0 {
            index.extend_from_slice(&out.section_bytes().to_le_bytes());
        }
        strings = id.id_type() == IdType::String;
        bytes.clear();
        encode_id(&id, &mut bytes)?;
        out.write(&bytes)?;
        bloom.insert(&id);
    }
    if strings {
        out.section(INDEX_SECTION, &index)?;
    }
    out.section(BLOOM_SECTION, &bloom.bits)
}

/// The ids of a segment, read in place.
#[derive(Clone, Copy)]
pub struct Ids<'a> {
    kind: IdType,
    rows: u32,
    data: &'a [u8],
    index: &'a [u8],
    name: &'a str,
}

impl<'a> Ids<'a> {
    /// `index` is empty but for string ids. `name` is the file's.
    pub fn new(kind: IdType, rows: u32, data: &'a [u8], index: &'a [u8], name: &'a str) -> Result<Self> {
        let wrong = |what: &str, got: usize, expected: usize| {
            Err(Error::corrupt(format!("{name}: section {what} has {got} bytes, expected {expected}")))
        };
        let count = rows as usize;
        match kind {
            IdType::Uint if data.len() != count * 8 => return wrong(SECTION, data.len(), count * 8),
            IdType::Uuid if data.len() != count * 16 => return wrong(SECTION, data.len(), count * 16),
            IdType::String if index.len() != count.div_ceil(STRIDE) * 8 => {
                return wrong(INDEX_SECTION, index.len(), count.div_ceil(STRIDE) * 8);
            }
            _ => {}
        }
        Ok(Ids { kind, rows, data, index, name })
    }

    pub fn get(&self, row: u32) -> Result<DocId> {
        if row >= self.rows {
            return Err(Error::internal(format!("{}: row {row} of {}", self.name, self.rows)));
        }
        let at = row as usize;
        let mut reader = match self.kind {
            IdType::Uint => Reader::new(self.data.get(at * 8..).unwrap_or_default(), self.name),
            IdType::Uuid => Reader::new(self.data.get(at * 16..).unwrap_or_default(), self.name),
            IdType::String => {
                let mut reader = self.block(at / STRIDE)?;
                for _ in 0..at % STRIDE {
                    let bytes = usize::from(reader.u8()?);
                    reader.take(bytes)?;
                }
                reader
            }
        };
        decode_id(self.kind, &mut reader, self.name)
    }

    /// The row of `id`, if a row has it.
    pub fn find(&self, id: &DocId) -> Result<Option<u32>> {
        match (self.kind, id) {
            (IdType::Uint, DocId::Uint(n)) => {
                let (ids, _) = self.data.as_chunks::<8>();
                Ok(ids.binary_search_by(|id| u64::from_le_bytes(*id).cmp(n)).ok().map(|row| row as u32))
            }
            (IdType::Uuid, DocId::Uuid(u)) => {
                let (ids, _) = self.data.as_chunks::<16>();
                Ok(ids.binary_search(u.as_bytes()).ok().map(|row| row as u32))
            }
            (IdType::String, DocId::String(s)) => self.find_string(s.as_bytes()),
            _ => Ok(None),
        }
    }

    fn find_string(&self, wanted: &[u8]) -> Result<Option<u32>> {
        // The last block that begins at or before `wanted`.
        let (mut low, mut high) = (0, self.index.len() / 8);
        while low < high {
            let middle = low + (high - low) / 2;
            let mut block = self.block(middle)?;
            let bytes = usize::from(block.u8()?);
            if block.take(bytes)? <= wanted { low = middle + 1 } else { high = middle }
        }
        let Some(found) = low.checked_sub(1) else { return Ok(None) };
        let mut block = self.block(found)?;
        for row in (found * STRIDE..self.rows as usize).take(STRIDE) {
            let bytes = usize::from(block.u8()?);
            match block.take(bytes)?.cmp(wanted) {
                Ordering::Less => {}
                Ordering::Equal => return Ok(Some(row as u32)),
                Ordering::Greater => return Ok(None),
            }
        }
        Ok(None)
    }

    fn block(&self, block: usize) -> Result<Reader<'a>> {
        let (offsets, _) = self.index.as_chunks::<8>();
        let offset = offsets.get(block).map(|offset| u64::from_le_bytes(*offset));
        let rest = offset.and_then(|offset| self.data.get(usize::try_from(offset).ok()?..));
        let rest = rest.ok_or_else(|| Error::corrupt(format!("{}: block {block} of ids is not there", self.name)))?;
        Ok(Reader::new(rest, self.name))
    }

    /// Checks that the ids are whole and strictly ascending, that the index has the place of each block, and that the
    /// filter lets each id through.
    pub fn verify(&self, bloom: &Bloom) -> Result<()> {
        let mut reader = Reader::new(self.data, self.name);
        let mut last: Option<DocId> = None;
        for row in 0..self.rows {
            if self.kind == IdType::String && (row as usize).is_multiple_of(STRIDE) {
                let offset = self.index.as_chunks::<8>().0.get(row as usize / STRIDE);
                if offset.map(|offset| u64::from_le_bytes(*offset)) != Some(reader.position() as u64) {
                    return Err(Error::corrupt(format!("{}: the index of ids misses row {row}", self.name)));
                }
            }
            let id = decode_id(self.kind, &mut reader, self.name)?;
            if last.as_ref() >= Some(&id) {
                return Err(Error::corrupt(format!("{}: id of row {row} is not above the one before", self.name)));
            }
            if !bloom.may_contain(&id) {
                return Err(Error::corrupt(format!("{}: the filter denies the id of row {row}", self.name)));
            }
            last = Some(id);
        }
        reader.finish()
    }
}

/// Bytes of one block of the filter: a cache line.
const BLOCK_BYTES: usize = 64;
/// Bits set per id.
const PROBES: u32 = 6;
/// Filter bits per id: about one absent id in a hundred gets through.
const BITS_PER_ID: u64 = 10;

/// A blocked Bloom filter: an id's bits are in one block.
#[derive(Clone, Copy)]
pub struct Bloom<'a>(&'a [u8]);

struct BloomBuilder {
    bits: Vec<u8>,
}

impl<'a> Bloom<'a> {
    pub fn new(bits: &'a [u8], rows: u32, name: &str) -> Result<Self> {
        let expected = bloom_bytes(rows);
        if bits.len() != expected {
            return Err(Error::corrupt(format!(
                "{name}: section {BLOOM_SECTION} has {} bytes, expected {expected}",
                bits.len()
            )));
        }
        Ok(Bloom(bits))
    }

    /// False only when no row has `id`.
    pub fn may_contain(&self, id: &DocId) -> bool {
        let (block, probes) = probes(id, self.0.len() / BLOCK_BYTES);
        let Some(block) = self.0.get(block * BLOCK_BYTES..(block + 1) * BLOCK_BYTES) else { return false };
        probes.into_iter().all(|bit| block[bit / 8] & 1 << (bit % 8) != 0)
    }
}

impl BloomBuilder {
    fn new(rows: u32) -> Self {
        BloomBuilder { bits: vec![0; bloom_bytes(rows)] }
    }

    fn insert(&mut self, id: &DocId) {
        let (block, probes) = probes(id, self.bits.len() / BLOCK_BYTES);
        if let Some(block) = self.bits.get_mut(block * BLOCK_BYTES..(block + 1) * BLOCK_BYTES) {
            for bit in probes {
                block[bit / 8] |= 1 << (bit % 8);
            }
        }
    }
}

fn bloom_bytes(rows: u32) -> usize {
    (u64::from(rows) * BITS_PER_ID).div_ceil(8 * BLOCK_BYTES as u64) as usize * BLOCK_BYTES
}

/// The block of an id and its bits there. The hash's high half picks the block; each bit is nine bits of the hash times a
/// constant, so that bits and block do not depend on each other.
fn probes(id: &DocId, blocks: usize) -> (usize, [usize; PROBES as usize]) {
    let hash = match id {
        DocId::Uint(n) => xxh3_64(&n.to_le_bytes()),
        DocId::Uuid(u) => xxh3_64(u.as_bytes()),
        DocId::String(s) => xxh3_64(s.as_bytes()),
    };
    let block = (((hash >> 32) * blocks as u64) >> 32) as usize;
    let mixed = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 10;
    let mut bits = [0; PROBES as usize];
    for (n, bit) in bits.iter_mut().enumerate() {
        *bit = (mixed >> (9 * n) & 511) as usize;
    }
    (block, bits)
}
