//! A full-text column's index: a dictionary of terms, each one's rows and frequencies in blocks of 128, exact lengths.
//!
//! ```text
//! header   64 bytes
//! postings per term in the dictionary's order: full blocks behind a table of them, the rest as integers
//! terms    the dictionary, see `dictionary`
//! groups   its groups
//! lengths  per row its number of tokens, 1, 2 or 4 bytes wide
//! present  roaring bitmap of the rows that have a value; none when all have
//! ```
//!
//! The block table holds each block's last row, end, largest frequency and smallest length, so that a reader can skip
//! blocks that cannot matter (Ding and Suel, "Faster top-k document retrieval using block-max indexes", SIGIR 2011).

use bitpacking::{BitPacker, BitPacker4x};
use roaring::RoaringBitmap;

use super::bytes::Reader;
use super::dictionary::{self, Dictionary, DictionaryWriter, Term, postings_of};
use super::varint;
use crate::error::{Error, Result};

pub const VERSION: u32 = 1;
pub const HEADER_BYTES: usize = 64;
/// Postings of one block.
pub const BLOCK: usize = BitPacker4x::BLOCK_LEN;
const TABLE_ENTRY_BYTES: usize = 16;

/// Where everything in the section is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    pub rows: u32,
    /// Rows that have a value.
    pub docs: u32,
    pub terms: u32,
    pub length_width: u32,
    pub total_length: u64,
    pub postings_bytes: u64,
    pub dictionary_bytes: u64,
    pub present_bytes: u64,
}

/// What is known of a block without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockBounds {
    pub last_row: u32,
    pub end: u32,
    pub max_tf: u32,
    pub min_length: u32,
}

/// Writes a section, terms in ascending order.
pub struct TextWriter {
    lengths: Vec<u32>,
    present: RoaringBitmap,
    postings: Vec<u8>,
    dictionary: DictionaryWriter,
    packer: BitPacker4x,
}

impl TextWriter {
    /// `lengths`: each row's number of tokens; `present`: the rows that have a value at all.
    pub fn new(lengths: Vec<u32>, present: RoaringBitmap) -> Self {
        TextWriter {
            lengths,
            present,
            postings: Vec::new(),
            dictionary: DictionaryWriter::default(),
            packer: BitPacker4x::new(),
        }
    }

    /// Adds a term, above all before it, with its rows ascending and frequencies of at least 1.
    pub fn term(&mut self, term: &str, postings: &[(u32, u32)]) -> Result<()> {
        let start = self.postings.len();
        self.put_postings(postings);
        self.dictionary.add(term, postings.len(), start, self.postings.len() - start)
    }

    fn put_postings(&mut self, postings: &[(u32, u32)]) {
        let (full, rest) = postings.as_chunks::<BLOCK>();
        let mut data = Vec::new();
        let mut last = 0;
        for block in full {
            let (mut deltas, mut tfs) = ([0u32; BLOCK], [0u32; BLOCK]);
            let mut bounds = BlockBounds { last_row: block[BLOCK - 1].0, end: 0, max_tf: 0, min_length: u32::MAX };
            for (at, (row, tf)) in block.iter().enumerate() {
                deltas[at] = row.wrapping_sub(last);
                tfs[at] = *tf;
                last = *row;
                bounds.max_tf = bounds.max_tf.max(*tf);
                let length = self.lengths.get(*row as usize).copied().unwrap_or(0);
                bounds.min_length = bounds.min_length.min(length);
            }
            for numbers in [&deltas, &tfs] {
                let bits = self.packer.num_bits(numbers);
                let mut packed = [0u8; 4 * BLOCK];
                let bytes = self.packer.compress(numbers, &mut packed, bits);
                data.push(bits);
                data.extend_from_slice(&packed[..bytes]);
            }
            for field in [bounds.last_row, data.len() as u32, bounds.max_tf, bounds.min_length] {
                self.postings.extend_from_slice(&field.to_le_bytes());
            }
        }
        self.postings.extend_from_slice(&data);
        for (row, tf) in rest {
            varint::write(&mut self.postings, u64::from(row.wrapping_sub(last)));
            varint::write(&mut self.postings, u64::from(*tf));
            last = *row;
        }
    }

    /// The section.
    pub fn finish(self) -> Result<Vec<u8>> {
        let longest = self.lengths.iter().copied().max().unwrap_or(0);
        let width = if longest <= 0xff {
            1
        } else if longest <= 0xffff {
            2
        } else {
            4
        };
        let mut present = Vec::new();
        if self.present.len() < self.lengths.len() as u64 {
            self.present
                .serialize_into(&mut present)
                .map_err(|error| Error::internal(format!("encode a bitmap: {error}")))?;
        }
        let header = Header {
            rows: self.lengths.len() as u32,
            docs: self.present.len() as u32,
            terms: self.dictionary.count,
            length_width: width,
            total_length: self.lengths.iter().map(|length| u64::from(*length)).sum(),
            postings_bytes: self.postings.len() as u64,
            dictionary_bytes: self.dictionary.terms.len() as u64,
            present_bytes: present.len() as u64,
        };
        let mut out = header.encode();
        out.extend_from_slice(&self.postings);
        out.extend_from_slice(&self.dictionary.terms);
        out.extend_from_slice(&self.dictionary.groups);
        for length in &self.lengths {
            out.extend_from_slice(&length.to_le_bytes()[..width as usize]);
        }
        out.extend_from_slice(&present);
        Ok(out)
    }
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        for field in [VERSION, self.rows, self.docs, self.terms, self.length_width, 0] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        for field in [self.total_length, self.postings_bytes, self.dictionary_bytes, self.present_bytes, 0] {
            out.extend_from_slice(&field.to_le_bytes());
        }
        out
    }
}

/// The parts of a section, lengths checked.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    pub header: Header,
    pub postings: &'a [u8],
    pub dictionary: Dictionary<'a>,
    pub lengths: &'a [u8],
    pub present: &'a [u8],
}

/// Where the postings end, from the section's header.
pub fn postings_end(header: &[u8], name: &str) -> Result<usize> {
    dictionary::postings_end(header, 32, HEADER_BYTES, name)
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
        return Err(Error::unsupported(format!("{name}: text version {version}, this release reads {VERSION}")));
    }
    let (found, docs, terms, length_width) = (reader.u32()?, reader.u32()?, reader.u32()?, reader.u32()?);
    let reserved = reader.u32()?;
    let header = Header {
        rows: found,
        docs,
        terms,
        length_width,
        total_length: reader.u64()?,
        postings_bytes: reader.u64()?,
        dictionary_bytes: reader.u64()?,
        present_bytes: reader.u64()?,
    };
    if reserved != 0 || reader.u64()? != 0 {
        return Err(Error::corrupt(format!("{name}: reserved bytes of the header are not 0")));
    }
    if found != rows || docs > rows || !matches!(length_width, 1 | 2 | 4) {
        return Err(Error::corrupt(format!(
            "{name}: {docs} of {found} rows with lengths of {length_width} bytes, expected {rows} rows"
        )));
    }
    let size = |n: u64| usize::try_from(n).map_err(|_| Error::corrupt(format!("{name}: a part of {n} bytes")));
    if postings.len() as u64 != header.postings_bytes {
        let (found, expected) = (postings.len(), header.postings_bytes);
        return Err(Error::corrupt(format!("{name}: {found} bytes of postings, expected {expected}")));
    }
    let mut reader = Reader::new(tables, name);
    let terms_bytes = reader.take(size(header.dictionary_bytes)?)?;
    let groups = reader.take(Dictionary::groups_bytes(terms))?;
    let dictionary = Dictionary { terms: terms_bytes, groups, name };
    let lengths = reader.take(rows as usize * length_width as usize)?;
    let present = reader.take(size(header.present_bytes)?)?;
    reader.finish()?;
    Ok(Parts { header, postings, dictionary, lengths, present })
}

impl Parts<'_> {
    /// A row's number of tokens.
    pub fn length(&self, row: u32) -> u32 {
        let width = self.header.length_width as usize;
        let at = row as usize * width;
        let mut bytes = [0; 4];
        match self.lengths.get(at..at + width) {
            Some(found) => bytes[..width].copy_from_slice(found),
            None => return 0,
        }
        u32::from_le_bytes(bytes)
    }
}

/// A term's postings in blocks: full ones, which may be read in any order, and a last one of what is left.
#[derive(Clone)]
pub struct PostingsBytes<'a> {
    table: &'a [[u8; TABLE_ENTRY_BYTES]],
    data: &'a [u8],
    /// Where the last, shorter block begins.
    rest: usize,
    rest_len: usize,
    next: usize,
    rows: u32,
    name: &'a str,
    packer: BitPacker4x,
}

impl<'a> PostingsBytes<'a> {
    pub fn new(parts: &Parts<'a>, term: &Term, name: &'a str) -> Result<Self> {
        Self::of(postings_of(parts.postings, term, name)?, term, parts.header.rows, name)
    }

    /// The postings of a term, from its own bytes, in a segment of `rows` rows.
    pub fn of(bytes: &'a [u8], term: &Term, rows: u32, name: &'a str) -> Result<Self> {
        let malformed = || Error::corrupt(format!("{name}: postings at {} of {} bytes", term.offset, term.bytes));
        let (blocks, rest_len) = (term.df as usize / BLOCK, term.df as usize % BLOCK);
        let (table, data) = bytes.split_at_checked(blocks * TABLE_ENTRY_BYTES).ok_or_else(malformed)?;
        let packer = BitPacker4x::new();
        let table = table.as_chunks().0;
        let mut postings = PostingsBytes { table, data, rest: 0, rest_len, next: 0, rows, name, packer };
        postings.rest = postings.end_before(blocks);
        if postings.rest > data.len() {
            return Err(malformed());
        }
        Ok(postings)
    }

    /// Full blocks.
    pub fn block_count(&self) -> usize {
        self.table.len()
    }

    /// Postings behind the last full block.
    pub fn rest_len(&self) -> usize {
        self.rest_len
    }

    /// What is known of a full block without reading it.
    pub fn bounds(&self, block: usize) -> Option<BlockBounds> {
        let (fields, _) = self.table.get(block)?.as_chunks::<4>();
        let field = |at: usize| u32::from_le_bytes(fields[at]);
        Some(BlockBounds { last_row: field(0), end: field(1), max_tf: field(2), min_length: field(3) })
    }

    fn end_before(&self, block: usize) -> usize {
        block.checked_sub(1).and_then(|before| self.bounds(before)).map_or(0, |bounds| bounds.end as usize)
    }

    /// Replaces the two buffers by the next block; false when there is none.
    pub fn next_block(&mut self, rows: &mut Vec<u32>, tfs: &mut Vec<u32>) -> Result<bool> {
        rows.clear();
        tfs.clear();
        self.read(self.next, rows, tfs)?;
        self.next += 1;
        Ok(!rows.is_empty())
    }

    /// Appends a block to the two buffers; that behind the full ones is the rest. Its rows ascend, from above the last row of the
    /// block before on, and frequencies are at least 1.
    pub fn read(&self, block: usize, rows: &mut Vec<u32>, tfs: &mut Vec<u32>) -> Result<()> {
        let from = (rows.len(), tfs.len());
        let before = block.checked_sub(1).and_then(|before| self.bounds(before)).map(|bounds| bounds.last_row);
        match self.bounds(block) {
            Some(bounds) => self.read_packed(block, bounds, before, rows, tfs)?,
            None if block == self.table.len() => self.read_rest(before, rows, tfs)?,
            None => return Ok(()),
        }
        let (rows, tfs) = (&rows[from.0..], &tfs[from.1..]);
        // One pass without a branch for each: what ascends to a row of the segment did not overflow on its way.
        let ascending = rows.iter().zip(rows.iter().skip(1)).fold(true, |all, (a, b)| all & (a < b));
        let is_first_above = before.is_none_or(|before| rows.first().is_none_or(|first| before < *first));
        if !ascending || !is_first_above || rows.last().is_some_and(|last| *last >= self.rows) {
            return Err(Error::corrupt(format!("{}: postings are not ascending rows", self.name)));
        }
        if tfs.iter().fold(false, |any, tf| any | (*tf == 0)) {
            return Err(Error::corrupt(format!("{}: a frequency is 0", self.name)));
        }
        Ok(())
    }

    fn read_packed(
        &self,
        block: usize,
        bounds: BlockBounds,
        before: Option<u32>,
        rows: &mut Vec<u32>,
        tfs: &mut Vec<u32>,
    ) -> Result<()> {
        let begin = self.end_before(block);
        let (first_row, first_tf) = (rows.len(), tfs.len());
        rows.resize(first_row + BLOCK, 0);
        tfs.resize(first_tf + BLOCK, 0);
        let mut reader = Reader::new(self.data.get(begin..).unwrap_or_default(), self.name);
        let (bits, packed) = self.packed(&mut reader)?;
        self.packer.decompress_sorted(before.unwrap_or(0), packed, &mut rows[first_row..], bits);
        let (bits, packed) = self.packed(&mut reader)?;
        self.packer.decompress(packed, &mut tfs[first_tf..], bits);
        let end = begin + reader.position();
        if end != bounds.end as usize {
            return Err(Error::corrupt(format!("{}: a block ends at {end}, expected {}", self.name, bounds.end)));
        }
        match rows.last() {
            Some(last) if *last != bounds.last_row => {
                let expected = bounds.last_row;
                Err(Error::corrupt(format!("{}: a block ends with row {last}, expected {expected}", self.name)))
            }
            _ => Ok(()),
        }
    }

    /// The next packed numbers, and how many bits each has.
    fn packed(&self, reader: &mut Reader<'a>) -> Result<(u8, &'a [u8])> {
        let bits = reader.u8()?;
        if bits > 32 {
            return Err(Error::corrupt(format!("{}: a block of {bits} bits", self.name)));
        }
        Ok((bits, reader.take(BLOCK * usize::from(bits) / 8)?))
    }

    fn read_rest(&self, before: Option<u32>, rows: &mut Vec<u32>, tfs: &mut Vec<u32>) -> Result<()> {
        let mut reader = Reader::new(self.data.get(self.rest..).unwrap_or_default(), self.name);
        let mut last = before.unwrap_or(0);
        for _ in 0..self.rest_len {
            last = last.wrapping_add(varint::read_u32(&mut reader, self.name)?);
            rows.push(last);
            tfs.push(varint::read_u32(&mut reader, self.name)?);
        }
        reader.finish()
    }
}
