//! A term, a dimension or a set as a list of rows that add to scores: what rows add, and what they add at most.
//!
//! - A list is asked about windows of rows in ascending order, and within a window about rows in ascending order. It holds
//!   the blocks of the window that were read, no more.
//! - What the rows of a block add at most is known before it is read, under the statistics of the query.

use half::f16;
use half::slice::HalfFloatSliceExt;
use roaring::RoaringBitmap;

use super::postings::Lengths;
use super::window::WINDOW;
use crate::error::Result;
use crate::format::sparse::WeightBlocks;
use crate::format::text::{BLOCK, PostingsBytes};
use crate::segment::text::score::{Norms, part, part_at_most};

/// Rows, and what each adds.
pub(super) enum List<'a> {
    Blocks(Box<Blocks<'a>>),
    /// Each adds 1.
    Set(RoaringBitmap),
}

impl List<'_> {
    /// Goes on to the window from `base` up to `end`: what a row of it adds at most, and about how many rows it has.
    pub(super) fn enter(&mut self, base: u32, end: u32) -> Result<(f64, usize)> {
        match self {
            List::Blocks(blocks) => blocks.enter(base, end),
            List::Set(rows) => {
                let count = rows.range_cardinality(base..end) as usize;
                Ok((if count > 0 { 1.0 } else { 0.0 }, count))
            }
        }
    }

    /// Calls `each` with every row of the window and what it adds.
    pub(super) fn for_each(&mut self, base: u32, end: u32, mut each: impl FnMut(u32, f64)) -> Result<()> {
        match self {
            List::Blocks(blocks) => blocks.for_each(base, end, each),
            List::Set(rows) => {
                rows.range(base..end).for_each(|row| each(row, 1.0));
                Ok(())
            }
        }
    }

    /// What a row of the window adds at most; costs no reading.
    pub(super) fn at_most(&mut self, row: u32) -> f64 {
        match self {
            List::Blocks(blocks) => blocks.at_most(row),
            List::Set(_) => 1.0,
        }
    }

    /// What a row of the window adds; 0 when it is not in the list.
    pub(super) fn at(&mut self, row: u32) -> Result<f64> {
        match self {
            List::Blocks(blocks) => blocks.at(row),
            List::Set(rows) => Ok(f64::from(u8::from(rows.contains(row)))),
        }
    }

    /// Starts over with the rows of the window, of which only those are asked for that were before.
    pub(super) fn rewind(&mut self) {
        if let List::Blocks(blocks) = self {
            blocks.next = blocks.begin;
        }
    }

    /// What it holds in memory, at most.
    pub(super) fn bytes(&self) -> usize {
        match self {
            List::Blocks(blocks) => {
                let read = (blocks.bounds.len() * BLOCK).min(WINDOW + 2 * BLOCK);
                size_of_val(blocks.bounds.as_slice()) + read * 2 * size_of::<u32>()
            }
            List::Set(rows) => rows.serialized_size(),
        }
    }

    /// Whether one of the rows that were read adds less than nothing.
    pub(super) fn is_signed(&self) -> bool {
        matches!(self, List::Blocks(blocks) if blocks.signed)
    }
}

/// What is known of a block without reading it.
#[derive(Clone, Copy)]
struct Bound {
    last_row: u32,
    /// What a row adds at most; not below 0.
    most: f64,
}

/// Rows in blocks.
pub(super) struct Blocks<'a> {
    source: Source<'a>,
    bounds: Vec<Bound>,
    /// The first block that may have rows of the window.
    first: usize,
    /// Blocks before this one were read, or have no row that will be asked for.
    passed: usize,
    /// The rows that were read, and with each its frequency or the bits of its weight as f32.
    rows: Vec<u32>,
    data: Vec<u32>,
    /// Room for weights as they are stored.
    stored: Vec<f16>,
    /// The first row of the window among them, and the first that may still be asked for.
    begin: usize,
    next: usize,
    signed: bool,
}

enum Source<'a> {
    Term(PostingsBytes<'a>, Bm25<'a>),
    Rows(&'a [(u32, u32)], Bm25<'a>),
    Dimension(WeightBlocks<'a>, f64),
}

/// What makes a score of a frequency.
pub(super) struct Bm25<'a> {
    pub(super) weight: f32,
    pub(super) norms: &'a Norms,
    pub(super) lengths: Lengths<'a>,
}

impl Bm25<'_> {
    #[inline]
    pub(super) fn score(&self, row: u32, tf: u32) -> f64 {
        part(self.weight, tf, self.norms.of(self.lengths.of(row)))
    }
}

impl<'a> Blocks<'a> {
    /// A term's postings.
    pub(super) fn of_term(postings: PostingsBytes<'a>, bm25: Bm25<'a>) -> Result<Self> {
        let mut bounds = Vec::with_capacity(postings.block_count() + 1);
        while let Some(block) = postings.bounds(bounds.len()) {
            let most = part_at_most(bm25.weight, block.max_tf, bm25.norms.of(block.min_length));
            bounds.push(Bound { last_row: block.last_row, most });
        }
        // Nothing is stored of what is behind the full blocks, and it is short.
        let (mut rows, mut data) = (Vec::new(), Vec::new());
        postings.read(bounds.len(), &mut rows, &mut data)?;
        let is_only = bounds.is_empty();
        if let Some(last_row) = rows.last().copied() {
            let most = rows.iter().zip(&data).map(|(row, tf)| bm25.score(*row, *tf)).fold(0.0, f64::max);
            bounds.push(Bound { last_row, most });
        }
        let mut blocks = Self::new(Source::Term(postings, bm25), bounds);
        if is_only {
            (blocks.rows, blocks.data, blocks.passed) = (rows, data, blocks.bounds.len());
        }
        Ok(blocks)
    }

    /// Rows with their frequencies.
    pub(super) fn of_rows(rows: &'a [(u32, u32)], bm25: Bm25<'a>) -> Self {
        let bound = |block: &[(u32, u32)]| Bound {
            last_row: block.last().map_or(0, |(row, _)| *row),
            most: block.iter().map(|(row, tf)| bm25.score(*row, *tf)).fold(0.0, f64::max),
        };
        let bounds = rows.chunks(BLOCK).map(bound).collect();
        Self::new(Source::Rows(rows, bm25), bounds)
    }

    /// A dimension's rows, each adding `weight` times its own.
    pub(super) fn of_dimension(dimension: WeightBlocks<'a>, weight: f64) -> Self {
        // Only the largest of the stored weights is known.
        let extreme = |largest: f32| if weight < 0.0 { f64::from(f16::MIN) } else { f64::from(largest) };
        let bounds = (0..dimension.count())
            .filter_map(|block| dimension.bounds(block))
            .map(|block| Bound { last_row: block.last_row, most: (weight * extreme(block.max_weight)).max(0.0) })
            .collect();
        Self::new(Source::Dimension(dimension, weight), bounds)
    }

    fn new(source: Source<'a>, bounds: Vec<Bound>) -> Self {
        let (rows, data, stored) = (Vec::new(), Vec::new(), Vec::new());
        Blocks { source, bounds, first: 0, passed: 0, rows, data, stored, begin: 0, next: 0, signed: false }
    }

    fn enter(&mut self, base: u32, end: u32) -> Result<(f64, usize)> {
        while self.bounds.get(self.first).is_some_and(|block| block.last_row < base) {
            self.first += 1;
        }
        self.passed = self.passed.max(self.first);
        self.begin += self.rows[self.begin..].partition_point(|row| *row < base);
        if self.begin >= BLOCK || self.begin == self.rows.len() {
            self.rows.drain(..self.begin);
            self.data.drain(..self.begin);
            self.begin = 0;
        }
        self.next = self.begin;
        let Some(block) = self.bounds.get(self.first).copied() else { return Ok((0.0, 0)) };
        if block.last_row >= end {
            // Few rows over a long stretch: one reading tells of many windows whether they have any.
            if self.passed == self.first {
                self.read_next()?;
                self.begin += self.rows[self.begin..].partition_point(|row| *row < base);
                self.next = self.begin;
            }
            let count = self.rows[self.begin..].partition_point(|row| *row < end);
            return Ok((if count == 0 { 0.0 } else { block.most }, count));
        }
        let (mut most, mut count) = (0.0, 0);
        for block in &self.bounds[self.first..] {
            most = f64::max(most, block.most);
            count += BLOCK;
            if block.last_row >= end {
                break;
            }
        }
        Ok((most, count))
    }

    fn for_each(&mut self, base: u32, end: u32, mut each: impl FnMut(u32, f64)) -> Result<()> {
        while self.passed < self.bounds.len()
            && (self.passed == self.first || self.bounds[self.passed - 1].last_row < end)
        {
            self.read_next()?;
        }
        self.begin += self.rows[self.begin..].partition_point(|row| *row < base);
        self.next = self.begin;
        let count = self.rows[self.begin..].partition_point(|row| *row < end);
        let of_window = self.begin..self.begin + count;
        let pairs = self.rows[of_window.clone()].iter().zip(&self.data[of_window]);
        match &self.source {
            Source::Term(_, bm25) | Source::Rows(_, bm25) => {
                pairs.for_each(|(row, tf)| each(*row, bm25.score(*row, *tf)));
            }
            Source::Dimension(_, weight) => pairs.for_each(|(row, bits)| each(*row, product(*weight, *bits))),
        }
        Ok(())
    }

    fn at_most(&mut self, row: u32) -> f64 {
        if self.rows.last().is_some_and(|last| *last >= row) {
            return self.read_at(row);
        }
        self.pass(row);
        self.bounds.get(self.passed).map_or(0.0, |block| block.most)
    }

    fn at(&mut self, row: u32) -> Result<f64> {
        if self.rows.last().is_none_or(|last| *last < row) {
            self.pass(row);
            self.read_next()?;
        }
        Ok(self.read_at(row))
    }

    /// Goes on to the block that has a row, if any has.
    fn pass(&mut self, row: u32) {
        while self.bounds.get(self.passed).is_some_and(|block| block.last_row < row) {
            self.passed += 1;
        }
    }

    /// What a row adds that is not behind what was read.
    fn read_at(&mut self, row: u32) -> f64 {
        self.next += self.rows[self.next..].partition_point(|known| *known < row);
        match (self.rows.get(self.next), self.data.get(self.next)) {
            (Some(known), Some(data)) if *known == row => match &self.source {
                Source::Term(_, bm25) | Source::Rows(_, bm25) => bm25.score(row, *data),
                Source::Dimension(_, weight) => product(*weight, *data),
            },
            _ => 0.0,
        }
    }

    /// Reads the block that comes next, if there is one.
    fn read_next(&mut self) -> Result<()> {
        if self.passed >= self.bounds.len() {
            return Ok(());
        }
        if self.rows.capacity() == 0 {
            let most = ((self.bounds.len() - self.passed) * BLOCK).min(WINDOW + 2 * BLOCK);
            self.rows.reserve(most);
            self.data.reserve(most);
        }
        match &self.source {
            Source::Term(postings, _) => postings.read(self.passed, &mut self.rows, &mut self.data)?,
            Source::Rows(rows, _) => {
                let block = rows.chunks(BLOCK).nth(self.passed).unwrap_or_default();
                self.rows.extend(block.iter().map(|(row, _)| *row));
                self.data.extend(block.iter().map(|(_, tf)| *tf));
            }
            Source::Dimension(dimension, weight) => {
                self.stored.clear();
                dimension.read(self.passed, &mut self.rows, &mut self.stored)?;
                let mut weights = [0.0; BLOCK];
                let weights = &mut weights[..self.stored.len()];
                self.stored.convert_to_f32_slice(weights);
                self.data.extend(weights.iter().map(|weight| weight.to_bits()));
                self.signed |= *weight < 0.0 || weights.iter().fold(false, |any, weight| any | (*weight < 0.0));
            }
        }
        self.passed += 1;
        Ok(())
    }
}

fn product(weight: f64, bits: u32) -> f64 {
    weight * f64::from(f32::from_bits(bits))
}
