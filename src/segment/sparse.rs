//! Writes and reads a sparse vector column's index. Weights are exact.

use std::collections::HashMap;

use half::f16;

use crate::error::{Error, Result};
pub use crate::format::dictionary::{Term, Terms};
use crate::format::sparse::{Parts, SparseWriter, for_each, parts};
use crate::model::value::SparseVector;

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
    name: &'a str,
}

impl<'a> SparseReader<'a> {
    /// Reads the header only.
    pub fn open(section: &'a [u8], rows: u32, name: &'a str) -> Result<Self> {
        Ok(SparseReader { parts: parts(section, rows, name)?, name })
    }

    /// A dimension's place; `None` when no row has it.
    pub fn dimension(&self, term: &str) -> Result<Option<Term>> {
        self.parts.dictionary.find(term)
    }

    /// All dimensions in order.
    pub fn dimensions(&self) -> Result<Terms<'a>> {
        self.parts.dictionary.all()
    }

    /// Calls `each` with every row of a dimension and its weight, ascending.
    pub fn for_each(&self, term: &Term, each: impl FnMut(u32, f16)) -> Result<()> {
        for_each(&self.parts, term, self.name, each)
    }

    /// Reads everything; the first thing that does not make sense is the error.
    pub fn verify(&self) -> Result<()> {
        let (mut terms, mut count) = (self.dimensions()?, 0);
        let mut last: Option<String> = None;
        while let Some((text, term)) = terms.next_term()? {
            if last.as_ref().is_some_and(|last| *last >= text) {
                return Err(Error::corrupt(format!("{}: dimensions are not ascending", self.name)));
            }
            last = Some(text);
            count += 1;
            self.for_each(&term, |_, _| {})?;
        }
        if count != self.parts.dimensions {
            return Err(Error::corrupt(format!(
                "{}: {count} dimensions, expected {}",
                self.name, self.parts.dimensions
            )));
        }
        Ok(())
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
    fn damaged_sections_never_panic() {
        let section = build(140);
        for at in 0..section.len() {
            let mut damaged = section.clone();
            damaged[at] ^= 1 << (at % 8);
            for bytes in [&damaged[..], &section[..at]] {
                if let Ok(reader) = SparseReader::open(bytes, 140, "sparse") {
                    let _ = reader.verify();
                    let _ = reader.dimension("fugu");
                }
            }
        }
    }
}
