//! Writes and reads a full-text column's index.

use std::collections::HashMap;

use roaring::RoaringBitmap;

use super::terms::DocTerms;
use crate::error::{Error, Result};
pub use crate::format::dictionary::{Term, Terms};
use crate::format::positions::{PositionsWriter, encode_row, take_numbers};
use crate::format::text::{HEADER_BYTES, Parts, PostingsBytes, TextWriter, parts, parts_of, postings_end};
use crate::format::vectors::decode_rows;
use crate::platform::mmap::lacks_room;
use crate::segment::past::{Batch, Past};
use crate::segment::sections::{Ahead, Part};

/// Gathers the terms of rows, in ascending order of rows.
#[derive(Default)]
pub struct TextBuilder {
    postings: HashMap<Box<str>, TermRows>,
    lengths: Vec<(u32, u32)>,
    positions: bool,
}

/// A term's rows and frequencies, and its positions in each row as they are written.
#[derive(Default)]
struct TermRows {
    rows: Vec<(u32, u32)>,
    positions: Vec<u8>,
}

impl TextBuilder {
    pub fn new() -> Self {
        Self::default()
    }

    /// Gathers positions too: all terms that are added must have them.
    pub fn with_positions() -> Self {
        TextBuilder { positions: true, ..Self::default() }
    }

    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    pub fn add(&mut self, row: u32, terms: &DocTerms) {
        self.lengths.push((row, terms.length()));
        if self.positions {
            for (term, positions) in terms.placed() {
                self.add_term(term, |found| {
                    found.rows.push((row, positions.len() as u32));
                    encode_row(positions, &mut found.positions);
                });
            }
        } else {
            for (term, tf) in terms.iter() {
                self.add_term(term, |found| found.rows.push((row, tf)));
            }
        }
    }

    fn add_term(&mut self, term: &str, add: impl FnOnce(&mut TermRows)) {
        match self.postings.get_mut(term) {
            Some(found) => add(found),
            None => add(self.postings.entry(term.into()).or_default()),
        }
    }

    /// The section of a segment of `rows` rows.
    pub fn finish(self, rows: u32) -> Result<Vec<u8>> {
        self.finish_with(rows, |_, _| Ok(()))
    }

    /// The section of a segment of `rows` rows; `write` is given the section of positions, piece by piece, before.
    pub fn finish_with_positions(self, rows: u32, write: impl FnMut(&[u8]) -> Result<()>) -> Result<Vec<u8>> {
        let total_length = self.lengths.iter().map(|(_, length)| u64::from(*length)).sum();
        let mut writer = PositionsWriter::new(write);
        let section = self.finish_with(rows, |with, mut bytes| {
            let of_row = |(_, tf): &(u32, u32)| take_numbers(&mut bytes, *tf).filter(|_| *tf > 0);
            let all: Option<Vec<&[u8]>> = with.iter().map(of_row).collect();
            let all = all.ok_or_else(|| Error::internal("write positions: a row's terms have none"))?;
            writer.term(all.into_iter())
        })?;
        writer.finish(rows, total_length)?;
        Ok(section)
    }

    /// The section; `each` is given every term's rows and the positions of these, in the order of terms.
    fn finish_with(self, rows: u32, mut each: impl FnMut(&[(u32, u32)], &[u8]) -> Result<()>) -> Result<Vec<u8>> {
        let (lengths, present) = spread(self.lengths, rows);
        let mut writer = TextWriter::new(lengths, present);
        let mut terms: Vec<(Box<str>, TermRows)> = self.postings.into_iter().collect();
        terms.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        for (term, TermRows { rows, positions }) in terms {
            writer.term(&term, &rows)?;
            each(&rows, &positions)?;
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
    /// Where the postings are that may not be here, of a segment that is not all here.
    section: Option<Part<'a>>,
    name: &'a str,
}

impl<'a> TextReader<'a> {
    /// Reads the header only.
    pub fn open(section: &'a [u8], rows: u32, name: &'a str) -> Result<Self> {
        Ok(TextReader { parts: parts(section, rows, name)?, section: None, name })
    }

    /// Reads everything but the postings, of a segment that is not all here; those of a term are brought when they are read.
    pub(in crate::segment) fn open_part(section: Part<'a>, rows: u32, name: &'a str) -> Result<Self> {
        let (header, postings, tables) = section.around(HEADER_BYTES, |header| postings_end(header, name))?;
        Ok(TextReader { parts: parts_of(header, postings, tables, rows, name)?, section: Some(section), name })
    }

    /// Adds everything but the postings to what is brought.
    pub(in crate::segment) fn add_tables(section: &Part<'a>, name: &str, ahead: &mut Ahead<'a>) -> Result<()> {
        let all = section.bytes();
        let end = postings_end(section.range(0..HEADER_BYTES.min(all))?, name)?;
        ahead.add(section, end.min(all)..all);
        Ok(())
    }

    /// Adds a term's postings to what is brought.
    pub fn add_postings(&self, term: &Term, ahead: &mut Ahead<'a>) {
        if let Some(section) = &self.section {
            ahead.add(section, term.place(HEADER_BYTES));
        }
    }

    /// Rows that have a value.
    pub fn docs(&self) -> u64 {
        u64::from(self.parts.header.docs)
    }

    /// Rows of the segment.
    pub fn rows(&self) -> u32 {
        self.parts.header.rows
    }

    /// Different terms.
    pub fn term_count(&self) -> u32 {
        self.parts.header.terms
    }

    /// Tokens of all rows.
    pub fn total_length(&self) -> u64 {
        self.parts.header.total_length
    }

    /// Tokens of one row.
    pub fn length(&self, row: u32) -> u32 {
        self.parts.length(row)
    }

    /// Tokens of every row, where a byte is enough for each.
    pub fn short_lengths(&self) -> Option<&'a [u8]> {
        (self.parts.header.length_width == 1).then_some(self.parts.lengths)
    }

    /// The rows that have a value.
    pub fn present(&self) -> Result<RoaringBitmap> {
        let rows = self.parts.header.rows;
        if self.parts.present.is_empty() {
            if self.parts.header.docs != rows {
                return Err(Error::corrupt(format!("{}: no bitmap of its {} rows", self.name, self.docs())));
            }
            let mut all = RoaringBitmap::new();
            all.insert_range(0..rows);
            return Ok(all);
        }
        let present = decode_rows(self.parts.present, rows, self.name)?;
        if present.len() != self.docs() {
            let (found, expected) = (present.len(), self.docs());
            return Err(Error::corrupt(format!("{}: {found} rows have a value, expected {expected}", self.name)));
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

    /// Calls `each` with the terms that begin with `prefix`, in order.
    pub fn for_each_with_prefix(&self, prefix: &str, mut each: impl FnMut(&Term) -> Result<()>) -> Result<()> {
        self.parts.dictionary.for_each_with_prefix(prefix, |_, term| each(&term).map(|()| true))
    }

    /// All terms in order.
    pub fn terms(&self) -> Result<Terms<'a>> {
        self.parts.dictionary.all()
    }

    /// A term's rows and frequencies, block by block.
    pub fn postings(&self, term: &Term) -> Result<PostingsBytes<'a>> {
        match &self.section {
            Some(section) => {
                PostingsBytes::of(section.range(term.place(HEADER_BYTES))?, term, self.rows(), self.name)
            }
            None => PostingsBytes::new(&self.parts, term, self.name),
        }
    }

    /// Calls `each` with the rows and frequencies of terms, in the order of terms. Where the disk has no room for them they are read
    /// past it, some of them at a time.
    pub fn for_each_of(&self, terms: &[Term], mut each: impl FnMut(PostingsBytes<'_>) -> Result<()>) -> Result<()> {
        let Some(section) = &self.section else {
            return terms.iter().try_for_each(|term| each(self.postings(term)?));
        };
        let (mut past, mut at) = (Past::default(), 0);
        while let Some(first) = terms.get(at) {
            let mut batch = Batch::default();
            let from = at;
            at += 1;
            match section.range_here(first.place(HEADER_BYTES)) {
                Err(full) if lacks_room(&full) => {
                    batch.add(section, first.place(HEADER_BYTES));
                    while let Some(term) = terms.get(at).filter(|_| !batch.is_full()) {
                        batch.add(section, term.place(HEADER_BYTES));
                        at += 1;
                    }
                    past = batch.read()?;
                }
                here => drop(here?),
            }
            for term in &terms[from..at] {
                let bytes = past.bytes_of(section, term.place(HEADER_BYTES))?;
                each(PostingsBytes::of(bytes, term, self.rows(), self.name)?)?;
            }
        }
        Ok(())
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

    /// How many rows of a set hold a term; `contains` says what is in the set. Reads the blocks that may have some.
    pub fn count_in(&self, term: &Term, set: &RoaringBitmap, contains: impl Fn(u32) -> bool) -> Result<u64> {
        let postings = self.postings(term)?;
        let (mut rows, mut tfs, mut first, mut count) = (Vec::new(), Vec::new(), 0, 0);
        for block in 0..=postings.block_count() {
            let last = postings.bounds(block).map_or(u32::MAX, |bounds| bounds.last_row);
            if first <= last && set.range_cardinality(first..=last) > 0 {
                rows.clear();
                tfs.clear();
                postings.read(block, &mut rows, &mut tfs)?;
                count += rows.iter().filter(|row| contains(**row)).count() as u64;
            }
            first = last.saturating_add(1);
        }
        Ok(count)
    }

    /// The rows that hold a term.
    pub fn rows_with(&self, term: &Term) -> Result<RoaringBitmap> {
        let mut found = RoaringBitmap::new();
        self.for_each_of(std::slice::from_ref(term), |postings| {
            found = self.rows_of(postings)?;
            Ok(())
        })?;
        Ok(found)
    }

    /// The rows of postings.
    pub fn rows_of(&self, mut postings: PostingsBytes<'_>) -> Result<RoaringBitmap> {
        let (mut rows, mut tfs, mut found) = (Vec::new(), Vec::new(), RoaringBitmap::new());
        while postings.next_block(&mut rows, &mut tfs)? {
            // A block at once: the set looks for its highest row before each call.
            let added = found.append(rows.iter().copied());
            added.map_err(|_| Error::corrupt(format!("{}: postings are not ascending rows", self.name)))?;
        }
        Ok(found)
    }

    /// Reads everything; the first thing that does not make sense is the error.
    pub fn verify(&self) -> Result<()> {
        let wrong = |problem: String| Err(Error::corrupt(format!("{}: {problem}", self.name)));
        let Parts { header, postings, dictionary, .. } = self.parts;
        let present = self.present()?;
        let mut missing: Vec<u32> = (0..header.rows).map(|row| self.length(row)).collect();
        let (mut rows, mut tfs) = (Vec::new(), Vec::new());
        dictionary.verify(header.terms, postings.len(), |term| {
            let mut blocks = self.postings(term)?;
            let mut at = 0;
            while blocks.next_block(&mut rows, &mut tfs)? {
                let (mut max_tf, mut min_length) = (0, u32::MAX);
                for (row, tf) in rows.iter().zip(&tfs) {
                    let left = missing.get_mut(*row as usize);
                    let Some(left) = left.filter(|left| **left >= *tf) else {
                        return wrong(format!("row {row} has more tokens than its length {}", self.length(*row)));
                    };
                    *left -= *tf;
                    (max_tf, min_length) = (max_tf.max(*tf), min_length.min(self.length(*row)));
                }
                if let Some(bounds) = blocks.bounds(at)
                    && (bounds.max_tf, bounds.min_length) != (max_tf, min_length)
                {
                    return wrong(format!("block {at} of a term has other bounds than its table says"));
                }
                at += 1;
            }
            Ok(())
        })?;
        let total: u64 = (0..header.rows).map(|row| u64::from(self.length(row))).sum();
        if missing.iter().any(|left| *left > 0) || total != self.total_length() {
            return wrong(format!("{total} tokens, not all with a term, expected {}", self.total_length()));
        }
        if (0..header.rows).any(|row| self.length(row) > 0 && !present.contains(row)) {
            return wrong("a row without a value has tokens".into());
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
    fn damaged_sections_never_panic_and_structure_is_verified() {
        let (section, _) = build(1_500);
        let parts = super::parts(&section, 1_500, "text").unwrap();
        // The groups say nothing that the terms do not say, so damage to them is always seen.
        let end = section.len() - parts.lengths.len() - parts.present.len();
        let structure = end - parts.dictionary.groups.len()..end;
        for at in 0..section.len() {
            let mut damaged = section.clone();
            damaged[at] ^= 1 << (at % 8);
            let opened = TextReader::open(&damaged, 1_500, "text");
            if let Ok(reader) = &opened {
                let _ = reader.term("w8").map(|term| term.map(|term| reader.rows_with(&term)));
                let _ = reader.prefix_terms("w", 100);
            }
            // Verifying reads it all, so only some.
            if structure.contains(&at) || at % 64 < 3 {
                let verified = opened.and_then(|reader| reader.verify());
                assert!(verified.is_err() || !structure.contains(&at), "byte {at} of {structure:?}");
            }
        }
        for end in (0..section.len()).step_by(7) {
            assert!(TextReader::open(&section[..end], 1_500, "text").is_err());
        }
    }

    #[test]
    fn a_table_that_promises_too_little_is_found() {
        let mut builder = TextBuilder::new();
        for row in 0..300 {
            builder.add(row, &DocTerms::from_tokens(&mut vec!["a"; 2 + row as usize % 3]));
        }
        let section = builder.finish(300).unwrap();
        TextReader::open(&section, 300, "text").unwrap().verify().unwrap();
        // The first entry of the only term's table: last row, end, largest frequency, smallest length.
        for field in 0..4 {
            let mut damaged = section.clone();
            damaged[64 + 4 * field] -= 1;
            assert!(TextReader::open(&damaged, 300, "text").unwrap().verify().is_err(), "field {field}");
        }
    }

    #[test]
    fn many_terms_with_one_long_prefix_are_walked_without_keeping_them() {
        let texts: Vec<String> = (0..500).map(|n| format!("{}{n:03}", "p".repeat(60_000))).collect();
        let mut builder = TextBuilder::new();
        builder.add(0, &DocTerms::from_tokens(&mut texts.iter().map(String::as_str).collect::<Vec<_>>()));
        let section = builder.finish(1).unwrap();
        let reader = TextReader::open(&section, 1, "text").unwrap();
        let mut count = 0;
        let counted = reader.for_each_with_prefix("pp", |_| {
            count += 1;
            Ok(())
        });
        counted.unwrap();
        assert_eq!(count, 500);
        assert_eq!(reader.prefix_terms("pp", 2).unwrap().len(), 2);
        assert_eq!(reader.prefix_terms("pp", 0).unwrap().len(), 0);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

        #[test]
        fn any_documents_are_answered_as_by_looking_at_each(
            documents in proptest::collection::vec(
                proptest::option::of(proptest::collection::vec("[ab\u{e9}\u{1F600}]{0,3}", 0..9)),
                0..200,
            ),
            asked in "[ab\u{e9}\u{1F600}]{0,3}",
        ) {
            let rows = documents.len() as u32;
            let mut builder = TextBuilder::new();
            for (row, tokens) in documents.iter().enumerate() {
                if let Some(tokens) = tokens {
                    let mut tokens: Vec<&str> = tokens.iter().map(String::as_str).collect();
                    builder.add(row as u32, &DocTerms::from_tokens(&mut tokens));
                }
            }
            let section = builder.finish(rows).unwrap();
            let reader = TextReader::open(&section, rows, "text").unwrap();
            reader.verify().unwrap();
            let with = |wanted: &dyn Fn(&str) -> bool| -> Vec<(u32, u32)> {
                let count = |tokens: &Vec<String>| tokens.iter().filter(|token| wanted(token)).count() as u32;
                let counts = documents.iter().map(|tokens| tokens.as_ref().map_or(0, count));
                (0..).zip(counts).filter(|(_, tf)| *tf > 0).collect()
            };
            let mut found = Vec::new();
            if let Some(term) = reader.term(&asked).unwrap() {
                reader.for_each(&term, |row, tf| found.push((row, tf))).unwrap();
            }
            proptest::prop_assert_eq!(found, with(&|token| token == asked));
            let mut found = roaring::RoaringBitmap::new();
            for (text, term) in reader.prefix_terms(&asked, usize::MAX).unwrap() {
                proptest::prop_assert!(text.starts_with(&asked));
                found |= reader.rows_with(&term).unwrap();
            }
            let expected = with(&|token| token.starts_with(&asked));
            proptest::prop_assert_eq!(found, expected.iter().map(|(row, _)| *row).collect());
            let present = documents.iter().flatten();
            proptest::prop_assert_eq!(reader.docs(), present.clone().count() as u64);
            proptest::prop_assert_eq!(reader.total_length(), present.map(|tokens| tokens.len() as u64).sum::<u64>());
        }
    }
}
