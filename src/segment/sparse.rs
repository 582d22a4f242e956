//! Writes and reads a sparse vector column's index. Weights are exact.

use std::collections::HashMap;

use half::f16;

use crate::error::{Error, Result};
pub use crate::format::dictionary::{Term, Terms};
pub use crate::format::sparse::{BLOCK, BlockBounds, WeightBlocks};
use crate::format::sparse::{HEADER_BYTES, Parts, SparseWriter, for_each, parts, parts_of, postings_end};
use crate::model::value::SparseVector;
use crate::segment::sections::{Ahead, Part};

/// Gathers the vectors of rows, in ascending order of rows.
#[derive(Default)]
pub struct SparseBuilder {
    postings: HashMap<Box<str>, Vec<(u32, f16)>>,
}

impl SparseBuilder {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn is_empty(&self) -> bool {
        self.postings.is_empty()
    }

    pub fn add(&mut self, row: u32, vector: &SparseVector) {
        for (term, weight) in &vector.entries {
            match self.postings.get_mut(term.as_str()) {
                Some(postings) => postings.push((row, *weight)),
                None => {
                    self.postings.insert(term.as_str().into(), vec![(row, *weight)]);
                }
            }
        }
    }

    /// The section of a segment of `rows` rows.
    pub fn finish(self, rows: u32) -> Result<Vec<u8>> {
        let mut writer = SparseWriter::default();
        let mut terms: Vec<&str> = self.postings.keys().map(AsRef::as_ref).collect();
        terms.sort_unstable();
        for term in terms {
            if let Some(postings) = self.postings.get(term) {
                writer.dimension(term, postings)?;
            }
        }
        Ok(writer.finish(rows))
    }
}

/// A sparse vector column's index in a segment.
#[derive(Clone, Copy)]
pub struct SparseReader<'a> {
    parts: Parts<'a>,
    /// Where postings are that may not be here, of a segment that has no room for all of them.
    section: Option<Part<'a>>,
    name: &'a str,
}

impl<'a> SparseReader<'a> {
    /// Reads the header only.
    pub fn open(section: &'a [u8], rows: u32, name: &'a str) -> Result<Self> {
        Ok(SparseReader { parts: parts(section, rows, name)?, section: None, name })
    }

    /// Reads everything but the postings; those of a dimension are brought when they are read.
    pub(in crate::segment) fn open_part(section: Part<'a>, rows: u32, name: &'a str) -> Result<Self> {
        let (header, postings, tables) = section.around(HEADER_BYTES, |header| postings_end(header, name))?;
        Ok(SparseReader { parts: parts_of(header, postings, tables, rows, name)?, section: Some(section), name })
    }

    /// Adds a dimension's postings to what is brought.
    pub fn add_blocks(&self, term: &Term, ahead: &mut Ahead<'a>) {
        if let Some(section) = &self.section {
            ahead.add(section, term.place(HEADER_BYTES));
        }
    }

    /// A dimension's place; `None` when no row has it.
    pub fn dimension(&self, term: &str) -> Result<Option<Term>> {
        self.parts.dictionary.find(term)
    }

    /// All dimensions in order.
    pub fn dimensions(&self) -> Result<Terms<'a>> {
        self.parts.dictionary.all()
    }

    /// A dimension's blocks of [`BLOCK`] rows.
    pub fn blocks(&self, term: &Term) -> Result<WeightBlocks<'a>> {
        match &self.section {
            Some(section) => {
                WeightBlocks::of(section.range(term.place(HEADER_BYTES))?, term, self.parts.rows, self.name)
            }
            None => WeightBlocks::new(&self.parts, term, self.name),
        }
    }

    /// Calls `each` with every row of a dimension and its weight, ascending.
    pub fn for_each(&self, term: &Term, each: impl FnMut(u32, f16)) -> Result<()> {
        for_each(&self.blocks(term)?, each)
    }

    /// Reads everything; the first thing that does not make sense is the error.
    pub fn verify(&self) -> Result<()> {
        let Parts { dimensions, postings, dictionary, .. } = self.parts;
        dictionary.verify(dimensions, postings.len(), |term| {
            let mut weights = Vec::new();
            self.for_each(term, |_, weight| weights.push(weight.to_f32()))?;
            let blocks = self.blocks(term)?;
            for (at, block) in weights.chunks(BLOCK).enumerate() {
                let largest = block.iter().copied().fold(f32::MIN, f32::max);
                let said = blocks.bounds(at).map_or(0.0, |bounds| bounds.max_weight);
                if largest != said {
                    return Err(Error::corrupt(format!(
                        "{}: the largest weight of a block is {largest}, its table says {said}",
                        self.name
                    )));
                }
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{SparseBuilder, SparseReader};
    use crate::model::value::SparseVector;
    use half::f16;

    fn build(rows: u32) -> Vec<u8> {
        let mut builder = SparseBuilder::new();
        for row in 0..rows {
            let mut entries = vec![("fugu".to_owned(), f16::from_f32(row as f32 / 8.0))];
            if row % 3 == 0 {
                entries.push((format!("t{}", row % 50), f16::from_f32(-1.5)));
            }
            builder.add(row, &SparseVector { entries });
        }
        builder.finish(rows).unwrap()
    }

    #[test]
    fn weights_are_exact() {
        let section = build(300);
        let reader = SparseReader::open(&section, 300, "sparse").unwrap();
        reader.verify().unwrap();
        let term = reader.dimension("fugu").unwrap().unwrap();
        let mut found = Vec::new();
        reader.for_each(&term, |row, weight| found.push((row, weight))).unwrap();
        assert_eq!(found, (0..300).map(|row| (row, f16::from_f32(row as f32 / 8.0))).collect::<Vec<_>>());
        assert_eq!(reader.dimension("t3").unwrap().unwrap().df, 2);
        assert_eq!(reader.dimension("whale").unwrap(), None);
    }

    #[test]
    fn the_table_of_blocks_says_what_is_in_them() {
        let section = build(300);
        let reader = SparseReader::open(&section, 300, "sparse").unwrap();
        let term = reader.dimension("fugu").unwrap().unwrap();
        let blocks = reader.blocks(&term).unwrap();
        let said: Vec<(u32, f32)> = (0..blocks.count())
            .filter_map(|block| blocks.bounds(block))
            .map(|block| (block.last_row, block.max_weight))
            .collect();
        assert_eq!(said, [(127, 15.875), (255, 31.875), (299, 37.375)]);
        // The only table before the data of "fugu", the first dimension: last row, end, largest weight.
        for field in 0..3 {
            let mut damaged = section.clone();
            damaged[40 + 4 * field + 2] ^= 1;
            assert!(SparseReader::open(&damaged, 300, "sparse").unwrap().verify().is_err(), "field {field}");
        }
    }

    #[test]
    fn damaged_sections_never_panic_and_structure_is_verified() {
        let section = build(400);
        // The groups say nothing that the terms do not say, so damage to them is always seen.
        let groups = super::parts(&section, 400, "sparse").unwrap().dictionary.groups.len();
        for at in 0..section.len() {
            let mut damaged = section.clone();
            damaged[at] ^= 1 << (at % 8);
            let opened = SparseReader::open(&damaged, 400, "sparse");
            if let Ok(reader) = &opened {
                let _ = reader.dimension("fugu").map(|term| {
                    let blocks = reader.blocks(&term?).ok()?;
                    (0..=blocks.count()).find(|at| blocks.read(*at, &mut Vec::new(), &mut Vec::new()).is_err())
                });
            }
            let verified = opened.and_then(|reader| reader.verify());
            assert!(verified.is_err() || at < section.len() - groups, "byte {at}");
        }
        for end in 0..section.len() {
            assert!(SparseReader::open(&section[..end], 400, "sparse").is_err());
        }
    }
}
