//! Reads where the rows of a full-text column hold their terms.

use xxhash_rust::xxh3::xxh3_64;

use super::reader::{Term, TextReader};
use crate::error::{Error, Result};
use crate::format::positions::{
    Parts, TRAILER_BYTES, TermPositions, decode_row, parts, parts_of, positions_end, take_numbers,
};
use crate::format::text::PostingsBytes;
use crate::segment::sections::Part;

/// A full-text column's positions in a segment, beside its index.
#[derive(Clone, Copy)]
pub struct PositionsReader<'a> {
    text: TextReader<'a>,
    parts: Parts<'a>,
    /// Where positions are that may not be here, of a segment that has no room for all of them.
    section: Option<Part<'a>>,
    name: &'a str,
}

impl<'a> PositionsReader<'a> {
    /// Reads the trailer only.
    pub fn open(section: &'a [u8], text: TextReader<'a>, name: &'a str) -> Result<Self> {
        Self::of_parts(parts(section, name)?, None, text, name)
    }

    /// Reads everything but the positions; those of a term are brought when they are read.
    pub(in crate::segment) fn open_part(section: Part<'a>, text: TextReader<'a>, name: &'a str) -> Result<Self> {
        let all = section.bytes();
        let end = positions_end(section.range(all.saturating_sub(TRAILER_BYTES)..all)?, name)?.min(all);
        let (positions, tables) = (section.raw(0..end)?, section.range(end..all)?);
        Self::of_parts(parts_of(positions, tables, name)?, Some(section), text, name)
    }

    fn of_parts(parts: Parts<'a>, section: Option<Part<'a>>, text: TextReader<'a>, name: &'a str) -> Result<Self> {
        let (found, expected) =
            ((parts.rows, parts.terms, parts.total_length), (text.rows(), text.term_count(), text.total_length()));
        if found != expected {
            return Err(Error::corrupt(format!(
                "{name}: positions of (rows, terms, tokens) {found:?}, the text section has {expected:?}"
            )));
        }
        Ok(PositionsReader { text, parts, section, name })
    }

    fn positions_of(&self, term: &Term) -> Result<TermPositions<'a>> {
        match &self.section {
            Some(section) => TermPositions::of(section.range(self.parts.place_of(term)?)?, term, self.name),
            None => self.parts.of(term),
        }
    }

    /// The index beside which these positions are.
    pub fn text(&self) -> &TextReader<'a> {
        &self.text
    }

    /// Calls `each` with every row of a term, ascending, its frequency, and its positions as they are written.
    pub fn for_each(&self, term: &Term, mut each: impl FnMut(u32, u32, &'a [u8])) -> Result<()> {
        let (mut postings, positions) = (self.text.postings(term)?, self.positions_of(term)?);
        let (mut rows, mut tfs, mut block) = (Vec::new(), Vec::new(), 0);
        while postings.next_block(&mut rows, &mut tfs)? {
            let mut bytes = positions.block(block)?;
            for (row, tf) in rows.iter().zip(&tfs) {
                each(*row, *tf, take_numbers(&mut bytes, *tf).ok_or_else(|| positions.wrong_count())?);
            }
            if !bytes.is_empty() {
                return Err(positions.wrong_count());
            }
            block += 1;
        }
        Ok(())
    }

    /// A walk over the rows of a term.
    pub fn places(&self, term: &Term) -> Result<Places<'a>> {
        Ok(Places {
            postings: self.text.postings(term)?,
            positions: self.positions_of(term)?,
            rows: Vec::new(),
            tfs: Vec::new(),
            next_block: 0,
            at: 0,
            bytes: None,
            passed: 0,
            found: Vec::new(),
            name: self.name,
        })
    }

    /// Reads everything; the first thing that does not make sense is the error. The index itself must have been verified.
    pub fn verify(&self) -> Result<()> {
        self.parts.verify()?;
        // A row of n tokens has each of the positions below n once: what is left of the sum of their hashes is 0.
        let mut left: Vec<u64> = Vec::with_capacity(self.text.rows() as usize);
        let (mut sum, mut sums) = (0u64, vec![0]);
        for row in 0..self.text.rows() {
            let length = self.text.length(row) as usize;
            if length as u64 > self.parts.total_length {
                return Err(Error::corrupt(format!("{}: row {row} has more tokens than all rows", self.name)));
            }
            while sums.len() <= length {
                sum = sum.wrapping_add(hash(sums.len() as u32 - 1));
                sums.push(sum);
            }
            left.push(sums[length]);
        }
        let (mut terms, mut positions) = (self.text.terms()?, Vec::new());
        while let Some((_, term)) = terms.next_term()? {
            let mut wrong = Ok(());
            self.for_each(&term, |row, _, bytes| {
                if wrong.is_ok() {
                    wrong = decode_row(bytes, &mut positions, self.name);
                }
                if let Some(left) = left.get_mut(row as usize) {
                    let hashes = positions.iter().map(|position| hash(*position));
                    *left = hashes.fold(*left, u64::wrapping_sub);
                }
            })?;
            wrong?;
        }
        match left.iter().position(|left| *left != 0) {
            None => Ok(()),
            Some(row) => Err(Error::corrupt(format!("{}: row {row} does not have every position once", self.name))),
        }
    }
}

fn hash(position: u32) -> u64 {
    xxh3_64(&position.to_le_bytes())
}

/// A walk over the rows of a term, ascending, that reads the positions of those that are asked for.
pub struct Places<'a> {
    postings: PostingsBytes<'a>,
    positions: TermPositions<'a>,
    /// Of the current block.
    rows: Vec<u32>,
    tfs: Vec<u32>,
    next_block: usize,
    /// The current row's place in the block.
    at: usize,
    /// The block's positions without those of the first `passed` rows; none where they were not needed yet.
    bytes: Option<&'a [u8]>,
    passed: usize,
    found: Vec<u32>,
    name: &'a str,
}

impl Places<'_> {
    /// Goes on to the first row that is not below `row`, and gives it; `None` when there is none. Rows ascend from call to
    /// call.
    pub fn seek(&mut self, row: u32) -> Result<Option<u32>> {
        if self.rows.last().is_none_or(|last| *last < row) {
            while self.postings.bounds(self.next_block).is_some_and(|bounds| bounds.last_row < row) {
                self.next_block += 1;
            }
            self.rows.clear();
            self.tfs.clear();
            self.postings.read(self.next_block, &mut self.rows, &mut self.tfs)?;
            (self.at, self.bytes, self.passed) = (0, None, 0);
            self.next_block += 1;
        }
        while self.rows.get(self.at).is_some_and(|found| *found < row) {
            self.at += 1;
        }
        Ok(self.rows.get(self.at).copied())
    }

    /// The current row's positions, ascending.
    pub fn positions(&mut self) -> Result<&[u32]> {
        let mut bytes = match self.bytes {
            Some(bytes) => bytes,
            None => self.positions.block(self.next_block - 1)?,
        };
        let wrong = || self.positions.wrong_count();
        let passed: u64 =
            self.tfs.get(self.passed..self.at).unwrap_or_default().iter().map(|tf| u64::from(*tf)).sum();
        take_numbers(&mut bytes, u32::try_from(passed).map_err(|_| wrong())?).ok_or_else(wrong)?;
        self.bytes = Some(bytes);
        self.passed = self.at;
        let tf = self.tfs.get(self.at).copied().unwrap_or(0);
        let own = take_numbers(&mut bytes, tf).ok_or_else(wrong)?;
        decode_row(own, &mut self.found, self.name)?;
        Ok(&self.found)
    }
}
