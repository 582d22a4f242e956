//! A term's rows and frequencies as one walk, wherever they come from.

use crate::error::Result;
use crate::format::text::PostingsBytes;
use crate::segment::text::reader::{Term, TextReader};

/// Rows and frequencies in ascending order of rows.
pub(super) struct Postings<'a> {
    source: Source<'a>,
    /// The block at hand.
    rows: Vec<u32>,
    tfs: Vec<u32>,
    next: usize,
}

enum Source<'a> {
    Index(PostingsBytes<'a>),
    Rows(&'a [(u32, u32)]),
}

impl<'a> Postings<'a> {
    pub(super) fn of_index(reader: &TextReader<'a>, term: &Term) -> Result<Self> {
        Ok(Self::new(Source::Index(reader.postings(term)?)))
    }

    pub(super) fn of_rows(rows: &'a [(u32, u32)]) -> Self {
        Self::new(Source::Rows(rows))
    }

    fn new(source: Source<'a>) -> Self {
        Postings { source, rows: Vec::new(), tfs: Vec::new(), next: 0 }
    }

    /// Calls `each` with the rows from `base` up to `end`, and goes on there the next time. Frequencies are at least 1.
    #[inline]
    pub(super) fn for_each_until(&mut self, base: u32, end: u32, mut each: impl FnMut(u32, u32)) -> Result<()> {
        loop {
            if self.rows.last().is_none_or(|last| *last < base) {
                self.next = self.rows.len();
            }
            while let (Some(row), Some(tf)) = (self.rows.get(self.next), self.tfs.get(self.next)) {
                if *row >= end {
                    return Ok(());
                }
                if *row >= base && *tf > 0 {
                    each(*row, *tf);
                }
                self.next += 1;
            }
            if !self.load()? {
                return Ok(());
            }
        }
    }

    /// Loads the next block; false when there is none.
    fn load(&mut self) -> Result<bool> {
        self.next = 0;
        match &mut self.source {
            Source::Index(bytes) => bytes.next_block(&mut self.rows, &mut self.tfs),
            Source::Rows(rest) => {
                let rows = std::mem::take(rest);
                self.rows.clear();
                self.tfs.clear();
                self.rows.extend(rows.iter().map(|(row, _)| *row));
                self.tfs.extend(rows.iter().map(|(_, tf)| *tf));
                Ok(!rows.is_empty())
            }
        }
    }
}

/// How many tokens rows have.
#[derive(Clone, Copy)]
pub(super) enum Lengths<'a> {
    /// A byte per row.
    Short(&'a [u8]),
    Index(TextReader<'a>),
    Known(&'a [u32]),
}

impl<'a> Lengths<'a> {
    pub(super) fn of_index(reader: TextReader<'a>) -> Self {
        reader.short_lengths().map_or(Lengths::Index(reader), Lengths::Short)
    }
}

impl Lengths<'_> {
    #[inline]
    pub(super) fn of(&self, row: u32) -> u32 {
        match self {
            Lengths::Short(lengths) => lengths.get(row as usize).map_or(0, |length| u32::from(*length)),
            Lengths::Index(reader) => reader.length(row),
            Lengths::Known(lengths) => lengths.get(row as usize).copied().unwrap_or(0),
        }
    }
}
