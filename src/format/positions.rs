//! Where in a full-text column's rows each term is: a section beside the text section, in the order of its terms and rows.
//!
//! ```text
//! positions  per term: where its blocks of 128 rows end, but for the last one; then the positions of each row
//! sizes      per term its bytes of positions
//! groups     per 16 terms: where their sizes and where their positions begin
//! trailer    48 bytes
//! ```
//!
//! A row has as many positions of a term as the text section says its frequency is: ascending, as differences. Since these do
//! not depend on other rows, a merge of segments copies them, and a reader passes over rows without decoding them.

use std::ops::Range;

use super::bytes::Reader;
use super::dictionary::{GROUP, GROUP_ENTRY_BYTES, Term};
use super::text::BLOCK;
use super::varint;
use crate::error::{Error, Result};

pub const VERSION: u32 = 1;
pub const TRAILER_BYTES: usize = 48;
/// Bytes are passed on when there are so many.
const PENDING_BYTES: usize = 32 << 10;
const TABLE_ENTRY_BYTES: usize = 8;

/// Appends a row's positions, which ascend.
pub fn encode_row(positions: &[u32], out: &mut Vec<u8>) {
    let mut last = 0;
    for position in positions {
        varint::write(out, u64::from(position.wrapping_sub(last)));
        last = *position;
    }
}

/// Replaces `positions` by those of a row, checked to ascend.
pub fn decode_row(bytes: &[u8], positions: &mut Vec<u32>, name: &str) -> Result<()> {
    positions.clear();
    positions.reserve(bytes.len());
    let mut reader = Reader::new(bytes, name);
    let mut last = 0u32;
    while reader.remaining() > 0 {
        let delta = varint::read_u32(&mut reader, name)?;
        let next = last.checked_add(delta).filter(|next| positions.is_empty() || *next > last);
        last = next.ok_or_else(|| Error::corrupt(format!("{name}: the positions of a row do not ascend")))?;
        positions.push(last);
    }
    Ok(())
}

/// Takes the bytes of so many numbers off the front; `None` where there are fewer.
pub fn take_numbers<'a>(bytes: &mut &'a [u8], count: u32) -> Option<&'a [u8]> {
    let (mut left, mut at) = (count as usize, 0);
    // Every number has one byte with a clear high bit, its last.
    while left >= 8 {
        let word = u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?);
        left -= (!word & 0x8080_8080_8080_8080).count_ones() as usize;
        at += 8;
    }
    while left > 0 {
        left -= usize::from(bytes.get(at)? & 0x80 == 0);
        at += 1;
    }
    bytes.split_off(..at)
}

/// Writes a section front to back, terms in the order of the text section; `write` is given its bytes.
pub struct PositionsWriter<W> {
    write: W,
    pending: Vec<u8>,
    sizes: Vec<u8>,
    groups: Vec<u8>,
    terms: u32,
    bytes: u64,
}

impl<W: FnMut(&[u8]) -> Result<()>> PositionsWriter<W> {
    pub fn new(write: W) -> Self {
        PositionsWriter { write, pending: Vec::new(), sizes: Vec::new(), groups: Vec::new(), terms: 0, bytes: 0 }
    }

    /// Adds a term: the positions of each of its rows, as [`encode_row`] makes them.
    pub fn term<'p>(&mut self, rows: impl Iterator<Item = &'p [u8]> + Clone) -> Result<()> {
        if (self.terms as usize).is_multiple_of(GROUP) {
            self.groups.extend_from_slice(&(self.sizes.len() as u64).to_le_bytes());
            self.groups.extend_from_slice(&self.bytes.to_le_bytes());
        }
        let (mut size, mut end) = (0, 0);
        for (at, row) in rows.clone().enumerate() {
            if at > 0 && at.is_multiple_of(BLOCK) {
                self.pending.extend_from_slice(&u64::to_le_bytes(end));
                size += TABLE_ENTRY_BYTES as u64;
            }
            end += row.len() as u64;
        }
        for row in rows {
            self.pending.extend_from_slice(row);
            if self.pending.len() >= PENDING_BYTES {
                self.flush()?;
            }
        }
        size += end;
        varint::write(&mut self.sizes, size);
        self.bytes += size;
        self.terms += 1;
        Ok(())
    }

    /// Ends the section of a segment of `rows` rows, which have `total_length` tokens.
    pub fn finish(mut self, rows: u32, total_length: u64) -> Result<()> {
        self.flush()?;
        (self.write)(&self.sizes)?;
        (self.write)(&self.groups)?;
        let mut trailer = Vec::with_capacity(TRAILER_BYTES);
        for field in [self.bytes, self.sizes.len() as u64, total_length] {
            trailer.extend_from_slice(&field.to_le_bytes());
        }
        for field in [rows, self.terms, 0, 0, 0, VERSION] {
            trailer.extend_from_slice(&field.to_le_bytes());
        }
        (self.write)(&trailer)
    }

    fn flush(&mut self) -> Result<()> {
        (self.write)(&self.pending)?;
        self.pending.clear();
        Ok(())
    }
}

/// The parts of a section, lengths checked.
#[derive(Clone, Copy)]
pub struct Parts<'a> {
    pub rows: u32,
    pub terms: u32,
    /// Positions of all rows.
    pub total_length: u64,
    positions: &'a [u8],
    sizes: &'a [u8],
    groups: &'a [u8],
    name: &'a str,
}

/// Where the positions end, from the section's last [`TRAILER_BYTES`].
pub fn positions_end(trailer: &[u8], name: &str) -> Result<usize> {
    let end = Reader::new(trailer, name).u64()?;
    usize::try_from(end).map_err(|_| Error::corrupt(format!("{name}: positions of {end} bytes")))
}

/// Splits a section into its parts.
pub fn parts<'a>(bytes: &'a [u8], name: &'a str) -> Result<Parts<'a>> {
    let short = || Error::corrupt(format!("{name}: positions of {} bytes", bytes.len()));
    let trailer = bytes.last_chunk::<TRAILER_BYTES>().ok_or_else(short)?;
    let (positions, tables) = bytes.split_at(positions_end(trailer, name)?.min(bytes.len() - TRAILER_BYTES));
    parts_of(positions, tables, name)
}

/// The parts of a section: its positions, and what comes behind.
pub fn parts_of<'a>(positions: &'a [u8], tables: &'a [u8], name: &'a str) -> Result<Parts<'a>> {
    let short = || Error::corrupt(format!("{name}: {} bytes behind positions", tables.len()));
    let (rest, trailer) = tables.split_last_chunk::<TRAILER_BYTES>().ok_or_else(short)?;
    let mut fields = Reader::new(trailer, name);
    let (bytes, sizes, total_length) = (fields.u64()?, fields.u64()?, fields.u64()?);
    let (rows, terms) = (fields.u32()?, fields.u32()?);
    let reserved = [fields.u32()?, fields.u32()?, fields.u32()?];
    let version = fields.u32()?;
    if version != VERSION {
        return Err(Error::unsupported(format!("{name}: positions version {version}, this release reads {VERSION}")));
    }
    if reserved != [0; 3] {
        return Err(Error::corrupt(format!("{name}: reserved bytes of the positions' trailer are not 0")));
    }
    let size = |n: u64| usize::try_from(n).map_err(|_| Error::corrupt(format!("{name}: a part of {n} bytes")));
    if positions.len() != size(bytes)? {
        return Err(Error::corrupt(format!("{name}: {} bytes of positions, expected {bytes}", positions.len())));
    }
    let mut reader = Reader::new(rest, name);
    let sizes = reader.take(size(sizes)?)?;
    let groups = reader.take((terms as usize).div_ceil(GROUP) * GROUP_ENTRY_BYTES)?;
    reader.finish()?;
    if total_length > positions.len() as u64 {
        let bytes = positions.len();
        return Err(Error::corrupt(format!("{name}: {total_length} positions in {bytes} bytes")));
    }
    Ok(Parts { rows, terms, total_length, positions, sizes, groups, name })
}

impl<'a> Parts<'a> {
    /// The positions of a term of the text section.
    pub fn of(&self, term: &Term) -> Result<TermPositions<'a>> {
        let bytes = self.positions.get(self.place_of(term)?).unwrap_or_default();
        TermPositions::of(bytes, term, self.name)
    }

    /// Where the positions of a term are in the section.
    pub fn place_of(&self, term: &Term) -> Result<Range<usize>> {
        let ordinal = term.ordinal as usize;
        let wrong = || not_there(term, self.name);
        let entry = self.groups.get(ordinal / GROUP * GROUP_ENTRY_BYTES..).ok_or_else(wrong)?;
        let mut entry = Reader::new(entry, self.name);
        let (sizes, mut begin) = (entry.u64()?, entry.u64()?);
        let sizes = usize::try_from(sizes).ok().and_then(|at| self.sizes.get(at..)).ok_or_else(wrong)?;
        let mut sizes = Reader::new(sizes, self.name);
        for _ in 0..ordinal % GROUP {
            begin = begin.saturating_add(varint::read(&mut sizes, self.name)?);
        }
        let size = usize::try_from(varint::read(&mut sizes, self.name)?).ok();
        let begin = usize::try_from(begin).ok();
        let place = begin.zip(size).and_then(|(begin, size)| Some(begin..begin.checked_add(size)?));
        place.filter(|place| place.end <= self.positions.len()).ok_or_else(wrong)
    }

    /// Checks that sizes and groups say where the positions of all terms are, one behind the other.
    pub fn verify(&self) -> Result<()> {
        let wrong = |what: String| Err(Error::corrupt(format!("{}: {what}", self.name)));
        let mut sizes = Reader::new(self.sizes, self.name);
        let mut groups = Reader::new(self.groups, self.name);
        let mut end = 0u64;
        for term in 0..self.terms {
            let begin = (sizes.position() as u64, end);
            if (term as usize).is_multiple_of(GROUP) && (groups.u64()?, groups.u64()?) != begin {
                return wrong(format!("the positions of term {term} do not begin where they are said to"));
            }
            end = end.saturating_add(varint::read(&mut sizes, self.name)?);
        }
        if end != self.positions.len() as u64 {
            return wrong(format!("{end} bytes of positions, expected {}", self.positions.len()));
        }
        sizes.finish()
    }
}

/// A term's positions in blocks, which are those of its postings.
#[derive(Clone, Copy)]
pub struct TermPositions<'a> {
    table: &'a [[u8; TABLE_ENTRY_BYTES]],
    data: &'a [u8],
    name: &'a str,
}

fn not_there(term: &Term, name: &str) -> Error {
    Error::corrupt(format!("{name}: the positions of term {} are not there", term.ordinal))
}

impl<'a> TermPositions<'a> {
    /// The positions of a term, from their own bytes.
    pub fn of(bytes: &'a [u8], term: &Term, name: &'a str) -> Result<Self> {
        let blocks = (term.df as usize).div_ceil(BLOCK).max(1);
        let split = bytes.split_at_checked((blocks - 1) * TABLE_ENTRY_BYTES);
        let (table, data) = split.ok_or_else(|| not_there(term, name))?;
        Ok(TermPositions { table: table.as_chunks().0, data, name })
    }

    /// The positions of a block's rows, one row behind the other.
    pub fn block(&self, block: usize) -> Result<&'a [u8]> {
        let end_of = |block: usize| self.table.get(block).map(|end| u64::from_le_bytes(*end));
        let begin = block.checked_sub(1).map_or(Some(0), end_of);
        let end = if block == self.table.len() { Some(self.data.len() as u64) } else { end_of(block) };
        let range = begin.zip(end).and_then(|(begin, end)| Some(usize::try_from(begin).ok()?..end.try_into().ok()?));
        range
            .and_then(|range| self.data.get(range))
            .ok_or_else(|| Error::corrupt(format!("{}: block {block} of a term's positions is not there", self.name)))
    }

    /// The error where a block has fewer positions than its rows, or more.
    pub fn wrong_count(&self) -> Error {
        Error::corrupt(format!("{}: a block has other positions than its rows have of the term", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::{decode_row, encode_row, take_numbers};

    #[test]
    fn rows_are_taken_off_and_read_back() {
        let rows: Vec<Vec<u32>> = (0..60u32)
            .map(|row| (0..row % 23).map(|n| n * (1 + row * row * 40) + row % 2).collect())
            .chain([vec![u32::MAX], vec![0, u32::MAX]])
            .collect();
        let mut bytes = Vec::new();
        rows.iter().for_each(|row| encode_row(row, &mut bytes));
        let (mut rest, mut found) = (bytes.as_slice(), Vec::new());
        for row in &rows {
            let own = take_numbers(&mut rest, row.len() as u32).unwrap();
            decode_row(own, &mut found, "row").unwrap();
            assert_eq!(&found, row);
        }
        assert!(rest.is_empty() && take_numbers(&mut rest, 1).is_none());
        for count in [1, 7, 8, 9, 1_000] {
            let mut all = bytes.as_slice();
            let taken = take_numbers(&mut all, count).map(<[u8]>::len);
            let ends = (1..).zip(&bytes).filter(|(_, byte)| **byte < 0x80).map(|(at, _)| at);
            assert_eq!(taken, ends.clone().nth(count as usize - 1), "{count}");
        }
    }

    #[test]
    fn positions_that_do_not_ascend_are_refused() {
        let mut found = Vec::new();
        for bytes in [&[1, 0][..], &[0, 0], &[0xff, 0xff, 0xff, 0xff, 0x0f, 1], &[0x80], &[0xff; 11]] {
            assert!(decode_row(bytes, &mut found, "row").is_err(), "{bytes:?}");
        }
    }
}
