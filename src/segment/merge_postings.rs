//! Merges the full-text and sparse indexes of segments: terms in order, each one's rows renumbered and sorted.

use half::f16;

use super::merge::{GONE, Input, Plan};
use super::sparse::SparseReader;
use super::text::positions::PositionsReader;
use super::text::reader::{TextBuilder, TextReader, spread};
use super::text::tokens::Analyzer;
use super::{POSITIONS_SECTION, SPARSE_SECTION, Segment, SegmentColumn, TEXT_SECTION};
use crate::error::{Error, Result};
use crate::format::dictionary::{Term, Terms};
use crate::format::positions::PositionsWriter;
use crate::format::segment::{Codec, column_section};
use crate::format::segment_writer::SegmentWriter;
use crate::format::sparse::SparseWriter;
use crate::format::text::TextWriter;
use crate::model::schema::{ColumnUid, FullText};
use crate::model::value::Value;

/// Which inputs' text of a column must be analysed anew, for other terms or for lack of positions, and the terms of those.
pub(in crate::segment) struct TextMerge {
    /// Per input.
    analysed: Vec<bool>,
    analyzer: Analyzer,
    builder: TextBuilder,
    positions: bool,
}

impl TextMerge {
    pub(in crate::segment) fn new(inputs: &[Input], uid: ColumnUid, options: &FullText) -> Self {
        let lacks = |input: &Input| input.segment.column(uid).is_some_and(|had| !had.has_text_of(options));
        let analysed = inputs.iter().map(lacks).collect();
        let positions = options.positions;
        let builder = if positions { TextBuilder::with_positions() } else { TextBuilder::new() };
        TextMerge { analysed, analyzer: Analyzer::new(options), builder, positions }
    }

    pub(in crate::segment) fn analyses_any(&self) -> bool {
        self.analysed.contains(&true)
    }

    pub(in crate::segment) fn analyses(&self, input: usize) -> bool {
        self.analysed[input]
    }

    /// Adds a row of the result; rows ascend.
    pub(in crate::segment) fn add(&mut self, row: u32, value: &Value) {
        self.builder.add(row, &self.analyzer.analyze(value));
    }

    fn sections(self, rows: u32) -> Result<Sections> {
        if !self.positions {
            return Ok(Sections { text: self.builder.finish(rows)?, positions: None });
        }
        let mut positions = Vec::new();
        let text = self.builder.finish_with_positions(rows, |bytes| {
            positions.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(Sections { text, positions: Some(positions) })
    }
}

/// One index to merge: its terms in order, and how its rows are renumbered.
struct Source<'a, R> {
    reader: R,
    terms: Terms<'a>,
    /// `None`: the rows are those of the result already.
    new_rows: Option<&'a [u32]>,
    next: Option<(String, Term)>,
}

impl<'a, R> Source<'a, R> {
    fn new(reader: R, mut terms: Terms<'a>, new_rows: Option<&'a [u32]>) -> Result<Self> {
        let next = terms.next_term()?;
        Ok(Source { reader, terms, new_rows, next })
    }

    fn new_row(&self, row: u32) -> Option<u32> {
        match self.new_rows {
            None => Some(row),
            Some(new_rows) => new_rows.get(row as usize).copied().filter(|row| *row != GONE),
        }
    }
}

/// Calls `each` with every term that a row of the result has, in order, and its rows with what is known of them, in order.
/// `read` calls back with a source's rows.
fn merge_terms<R, W: Copy>(
    sources: &mut [Source<R>],
    read: impl Fn(&R, &Term, &mut dyn FnMut(u32, W)) -> Result<()>,
    mut each: impl FnMut(&str, &[(u32, W)]) -> Result<()>,
) -> Result<()> {
    let mut postings: Vec<(u32, W)> = Vec::new();
    let mut current = String::new();
    loop {
        let Some(least) = sources.iter().filter_map(|source| source.next.as_ref()).map(|(text, _)| text).min() else {
            return Ok(());
        };
        current.clone_from(least);
        postings.clear();
        for source in sources.iter_mut() {
            let Some((_, term)) = source.next.take_if(|(text, _)| *text == current) else { continue };
            read(&source.reader, &term, &mut |row, what| {
                postings.extend(source.new_row(row).map(|row| (row, what)));
            })?;
            source.next = source.terms.next_term()?;
        }
        if !postings.is_empty() {
            postings.sort_unstable_by_key(|(row, _)| *row);
            each(&current, &postings)?;
        }
    }
}

/// Writes a full-text column's sections. `analysed` has the rows whose terms were made anew, and says of which inputs.
pub(in crate::segment) fn merge_text(
    inputs: &[Input],
    column: &SegmentColumn,
    analysed: Option<TextMerge>,
    plan: &Plan,
    rows: u32,
    out: &mut SegmentWriter,
) -> Result<()> {
    let uid = column.uid;
    let mut readers = Vec::with_capacity(inputs.len());
    for (at, input) in inputs.iter().enumerate() {
        let anew = analysed.as_ref().is_some_and(|merge| merge.analyses(at));
        readers.push(if anew { None } else { TextIndex::of(input.segment, column)? });
    }
    let sections = analysed.map(|merge| merge.sections(rows)).transpose()?;
    let anew = sections.as_ref().map(|sections| sections.open(rows)).transpose()?;
    let mut lengths = Vec::new();
    for (reader, new_rows) in readers.iter().zip(&plan.new_rows) {
        let Some(TextIndex { text, .. }) = reader else { continue };
        for row in &text.present()? {
            let new_row = new_rows.get(row as usize).copied().filter(|row| *row != GONE);
            lengths.extend(new_row.map(|new_row| (new_row, text.length(row))));
        }
    }
    if let Some(TextIndex { text, .. }) = &anew {
        lengths.extend(text.present()?.iter().map(|row| (row, text.length(row))));
    }
    let (lengths, present) = spread(lengths, rows);
    let total_length = lengths.iter().map(|length| u64::from(*length)).sum();
    let mut writer = TextWriter::new(lengths, present);
    let mut sources = Vec::with_capacity(readers.len() + 1);
    for (reader, new_rows) in readers.into_iter().zip(&plan.new_rows) {
        if let Some(reader) = reader {
            sources.push(Source::new(reader, reader.text.terms()?, Some(new_rows))?);
        }
    }
    if let Some(anew) = anew {
        sources.push(Source::new(anew, anew.text.terms()?, None)?);
    }
    if !column.keeps_positions() {
        merge_terms(
            &mut sources,
            |reader: &TextIndex, term, each| reader.text.for_each(term, each),
            |term, postings: &[(u32, u32)]| writer.term(term, postings),
        )?;
        return out.section(column_section(TEXT_SECTION, uid), &writer.finish()?);
    }
    // The text section is written after them, so only that one is held in memory.
    out.begin(column_section(POSITIONS_SECTION, uid), Codec::Plain)?;
    let mut positions = PositionsWriter::new(|bytes: &[u8]| out.write(bytes));
    let mut frequencies = Vec::new();
    merge_terms(&mut sources, TextIndex::for_each_placed, |term, postings: &[(u32, (u32, &[u8]))]| {
        frequencies.clear();
        frequencies.extend(postings.iter().map(|(row, (tf, _))| (*row, *tf)));
        writer.term(term, &frequencies)?;
        positions.term(postings.iter().map(|(_, (_, positions))| *positions))
    })?;
    positions.finish(rows, total_length)?;
    out.section(column_section(TEXT_SECTION, uid), &writer.finish()?)
}

/// A full-text column's sections in one input.
#[derive(Clone, Copy)]
struct TextIndex<'a> {
    text: TextReader<'a>,
    /// Where the result is to have them.
    positions: Option<PositionsReader<'a>>,
}

impl<'a> TextIndex<'a> {
    fn of(segment: &'a Segment, column: &SegmentColumn) -> Result<Option<Self>> {
        let Some(text) = segment.text(column.uid)? else { return Ok(None) };
        let positions = if column.keeps_positions() { segment.positions(column.uid)? } else { None };
        Ok(Some(TextIndex { text, positions }))
    }

    /// Calls `each` with every row of a term, its frequency, and its positions as they are written.
    fn for_each_placed(&self, term: &Term, each: &mut dyn FnMut(u32, (u32, &'a [u8]))) -> Result<()> {
        let positions = self.positions.ok_or_else(|| Error::internal("merge segments: one has no positions"))?;
        positions.for_each(term, |row, tf, positions| each(row, (tf, positions)))
    }
}

/// The sections of the rows that were analysed anew.
struct Sections {
    text: Vec<u8>,
    positions: Option<Vec<u8>>,
}

impl Sections {
    fn open(&self, rows: u32) -> Result<TextIndex<'_>> {
        let name = "text analysed anew";
        let text = TextReader::open(&self.text, rows, name)?;
        let open = |positions| PositionsReader::open(positions, text, name);
        Ok(TextIndex { text, positions: self.positions.as_deref().map(open).transpose()? })
    }
}

/// Writes a sparse column's section.
pub(in crate::segment) fn merge_sparse(
    inputs: &[Input],
    uid: ColumnUid,
    plan: &Plan,
    rows: u32,
    out: &mut SegmentWriter,
) -> Result<()> {
    let mut sources = Vec::with_capacity(inputs.len());
    for (input, new_rows) in inputs.iter().zip(&plan.new_rows) {
        if let Some(reader) = input.segment.sparse(uid)? {
            sources.push(Source::new(reader, reader.dimensions()?, Some(new_rows))?);
        }
    }
    let mut writer = SparseWriter::default();
    merge_terms(
        &mut sources,
        |reader: &SparseReader, term, each| reader.for_each(term, each),
        |term, postings: &[(u32, f16)]| writer.dimension(term, postings),
    )?;
    out.section(column_section(SPARSE_SECTION, uid), &writer.finish(rows))
}
