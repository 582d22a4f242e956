//! Writes and reads a full-text column's index.

use std::collections::HashMap;

use roaring::RoaringBitmap;

use super::terms::DocTerms;
use crate::error::{Error, Result};
pub use crate::format::dictionary::{Term, Terms};
use crate::format::text::{Parts, PostingsBytes, TextWriter, parts};

/// Gathers the terms of rows, in ascending order of rows.
#[derive(Default)]
pub struct TextBuilder {
    postings: HashMap<Box<str>, Vec<(u32, u32)>>,
    lengths: Vec<(u32, u32)>,
}

impl TextBuilder {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    pub fn add(&mut self, row: u32, terms: &DocTerms) {
        self.lengths.push((row, terms.length()));
        for (term, tf) in terms.iter() {
            match self.postings.get_mut(term) {
                Some(postings) => postings.push((row, tf)),
                None => {
                    self.postings.insert(term.into(), vec![(row, tf)]);
                }
            }
        }
    }

    /// The section of a segment of `rows` rows.
    pub fn finish(self, rows: u32) -> Result<Vec<u8>> {
        let (lengths, present) = spread(self.lengths, rows);
        let mut writer = TextWriter::new(lengths, present);
        let mut terms: Vec<&str> = self.postings.keys().map(AsRef::as_ref).collect();
        terms.sort_unstable();
        for term in terms {
            if let Some(postings) = self.postings.get(term) {
                writer.term(term, postings)?;
            }
        }
        writer.finish()
    }
}

/// The length of every row, and which rows have one.
pub fn spread(known: impl IntoIterator<Item = (u32, u32)>, rows: u32) -> (Vec<u32>, RoaringBitmap) {
    let mut lengths = vec![0; rows as usize];
    let mut present = RoaringBitmap::new();
    for (row, length) in known {
        if let Some(place) = lengths.get_mut(row as usize) {
            *place = length;
            present.insert(row);
        }
    }
    (lengths, present)
}

/// A full-text column's index in a segment.
#[derive(Clone, Copy)]
pub struct TextReader<'a> {
    parts: Parts<'a>,
    name: &'a str,
}

impl<'a> TextReader<'a> {
    /// Reads the header only.
    pub fn open(section: &'a [u8], rows: u32, name: &'a str) -> Result<Self> {
        Ok(TextReader { parts: parts(section, rows, name)?, name })
    }

    /// Rows that have a value.
    pub fn docs(&self) -> u64 {
        u64::from(self.parts.header.docs)
    }

    /// Tokens of all rows.
    pub fn total_length(&self) -> u64 {
        self.parts.header.total_length
    }

    /// Tokens of one row.
    pub fn length(&self, row: u32) -> u32 {
        self.parts.length(row)
    }

    /// The rows that have a value.
    pub fn present(&self) -> Result<RoaringBitmap> {
        let rows = self.parts.header.rows;
        if self.parts.present.is_empty() {
            return Ok((0..rows).collect());
        }
        let present = RoaringBitmap::deserialize_from(self.parts.present)
            .map_err(|error| Error::corrupt(format!("{}: bitmap of rows: {error}", self.name)))?;
        if present.max().is_some_and(|row| row >= rows) || present.len() != self.docs() {
            return Err(Error::corrupt(format!("{}: bitmap of rows does not fit {rows} rows", self.name)));
        }
        Ok(present)
    }

    /// A term's place; `None` when no row has it.
    pub fn term(&self, term: &str) -> Result<Option<Term>> {
        self.parts.dictionary.find(term)
    }

    /// Terms that begin with `prefix`, in order; at most `max`.
    pub fn prefix_terms(&self, prefix: &str, max: usize) -> Result<Vec<(String, Term)>> {
        self.parts.dictionary.with_prefix(prefix, max)
    }

    /// All terms in order.
    pub fn terms(&self) -> Result<Terms<'a>> {
        self.parts.dictionary.all()
    }

    /// A term's rows and frequencies, block by block.
    pub fn postings(&self, term: &Term) -> Result<PostingsBytes<'a>> {
        PostingsBytes::new(&self.parts, term, self.name)
    }

    /// Calls `each` with every row of a term and its frequency, ascending.
    pub fn for_each(&self, term: &Term, mut each: impl FnMut(u32, u32)) -> Result<()> {
        let mut postings = self.postings(term)?;
        let (mut rows, mut tfs) = (Vec::new(), Vec::new());
        while postings.next_block(&mut rows, &mut tfs)? {
            for (row, tf) in rows.iter().zip(&tfs) {
                each(*row, *tf);
            }
        }
        Ok(())
    }

    /// The rows that hold a term.
    pub fn rows_with(&self, term: &Term) -> Result<RoaringBitmap> {
        let mut found = RoaringBitmap::new();
        self.for_each(term, |row, _| {
            // Rows ascend, so this only appends.
            let _ = found.try_push(row);
        })?;
        Ok(found)
    }

    /// Reads everything; the first thing that does not make sense is the error.
    pub fn verify(&self) -> Result<()> {
        self.present()?;
        let (mut terms, mut count, mut total) = (self.terms()?, 0, 0u64);
        let mut last: Option<String> = None;
        while let Some((text, term)) = terms.next_term()? {
            if last.as_ref().is_some_and(|last| *last >= text) {
                return Err(Error::corrupt(format!("{}: terms are not ascending", self.name)));
            }
            last = Some(text);
            count += 1;
            self.for_each(&term, |_, tf| total += u64::from(tf))?;
        }
        if count != self.parts.header.terms || total != self.total_length() {
            return Err(Error::corrupt(format!(
                "{}: {count} terms with {total} tokens, expected {} with {}",
                self.name,
                self.parts.header.terms,
                self.total_length()
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{TextBuilder, TextReader};
    use crate::platform::random::{Random, SeededRandom};
    use crate::segment::text::terms::DocTerms;

    /// Postings by term, and lengths by row.
    type Expected = (BTreeMap<String, Vec<(u32, u32)>>, BTreeMap<u32, u32>);

    /// Rows with words of a skewed distribution, a third of them without a value.
    fn build(rows: u32) -> (Vec<u8>, Expected) {
        let random = SeededRandom::new(3);
        let mut builder = TextBuilder::new();
        let (mut expected, mut lengths) = (BTreeMap::<String, Vec<(u32, u32)>>::new(), BTreeMap::new());
        for row in 0..rows {
            if random.next_u64().is_multiple_of(3) {
                continue;
            }
            let words: Vec<String> = (0..random.next_u64() % 12)
                .map(|_| format!("w{}", (random.next_u64() % 40) * (random.next_u64() % 40)))
                .collect();
            let mut tokens: Vec<&str> = words.iter().map(String::as_str).collect();
            let terms = DocTerms::from_tokens(&mut tokens);
            for (term, tf) in terms.iter() {
                expected.entry(term.to_owned()).or_default().push((row, tf));
            }
            lengths.insert(row, terms.length());
            builder.add(row, &terms);
        }
        (builder.finish(rows).unwrap(), (expected, lengths))
    }

    #[test]
    fn every_posting_and_length_is_found_again() {
        for rows in [1, 130, 3_000] {
            let (section, (expected, lengths)) = build(rows);
            let reader = TextReader::open(&section, rows, "text").unwrap();
            reader.verify().unwrap();
            assert_eq!(reader.docs(), lengths.len() as u64);
            assert_eq!(
                reader.present().unwrap().iter().collect::<Vec<_>>(),
                lengths.keys().copied().collect::<Vec<_>>()
            );
            for (row, length) in &lengths {
                assert_eq!(reader.length(*row), *length);
            }
            for (text, postings) in &expected {
                let term = reader.term(text).unwrap().unwrap();
                assert_eq!(term.df as usize, postings.len());
                let mut found = Vec::new();
                reader.for_each(&term, |row, tf| found.push((row, tf))).unwrap();
                assert_eq!(&found, postings, "{text}");
            }
            for missing in ["", "a", "w", "w0x", "zzz"] {
                assert_eq!(reader.term(missing).unwrap(), None);
            }
            let with: Vec<String> =
                reader.prefix_terms("w1", 10_000).unwrap().into_iter().map(|(term, _)| term).collect();
            let expected: Vec<String> = expected.keys().filter(|term| term.starts_with("w1")).cloned().collect();
            assert_eq!(with, expected);
        }
    }

    #[test]
    fn damaged_sections_never_panic() {
        let (section, _) = build(200);
        for at in 0..section.len() {
            let mut damaged = section.clone();
            damaged[at] ^= 1 << (at % 8);
            if let Ok(reader) = TextReader::open(&damaged, 200, "text") {
                let _ = reader.verify();
                let _ = reader.term("w8");
                let _ = reader.prefix_terms("w", 100);
            }
            if let Ok(reader) = TextReader::open(&section[..at], 200, "text") {
                let _ = reader.verify();
            }
        }
    }
}
