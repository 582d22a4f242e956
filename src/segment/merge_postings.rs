//! Merges the full-text and sparse indexes of segments: terms in order, each one's rows renumbered and sorted.

use half::f16;

use super::merge::{GONE, Input, Plan};
use super::sparse::SparseReader;
use super::text::reader::{TextBuilder, TextReader, spread};
use super::text::tokens::Analyzer;
use super::{SPARSE_SECTION, TEXT_SECTION};
use crate::error::Result;
use crate::format::dictionary::{Term, Terms};
use crate::format::segment::column_section;
use crate::format::segment_writer::SegmentWriter;
use crate::format::sparse::SparseWriter;
use crate::format::text::TextWriter;
use crate::model::schema::{ColumnUid, FullText};
use crate::model::value::Value;

/// Which inputs' text of a column must be analysed anew, and the terms of those.
pub(in crate::segment) struct TextMerge {
    /// Per input.
    analysed: Vec<bool>,
    analyzer: Analyzer,
    builder: TextBuilder,
}

impl TextMerge {
    pub(in crate::segment) fn new(inputs: &[Input], uid: ColumnUid, options: &FullText) -> Self {
        let differs = |input: &Input| {
            let had = input.segment.column(uid);
            had.is_some_and(|had| had.column.full_text.as_ref().is_none_or(|had| !same_terms(had, options)))
        };
        let analysed = inputs.iter().map(differs).collect();
        TextMerge { analysed, analyzer: Analyzer::new(options), builder: TextBuilder::new() }
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
}

/// Whether two configurations give the same terms; the weights of scores may differ.
fn same_terms(a: &FullText, b: &FullText) -> bool {
    FullText { k1: b.k1, k3: b.k3, b: b.b, ..a.clone() } == *b
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

/// Writes a full-text column's section. `analysed` has the rows whose terms were made anew, and says of which inputs.
pub(in crate::segment) fn merge_text(
    inputs: &[Input],
    uid: ColumnUid,
    analysed: Option<TextMerge>,
    plan: &Plan,
    rows: u32,
    out: &mut SegmentWriter,
) -> Result<()> {
    let mut readers = Vec::with_capacity(inputs.len());
    for (at, input) in inputs.iter().enumerate() {
        let anew = analysed.as_ref().is_some_and(|merge| merge.analyses(at));
        readers.push(if anew { None } else { input.segment.text(uid)? });
    }
    let section = analysed.map(|merge| merge.builder.finish(rows)).transpose()?;
    let anew = section.as_ref().map(|section| TextReader::open(section, rows, "text analysed anew")).transpose()?;
    let mut lengths = Vec::new();
    for (reader, new_rows) in readers.iter().zip(&plan.new_rows) {
        let Some(reader) = reader else { continue };
        for row in &reader.present()? {
            let new_row = new_rows.get(row as usize).copied().filter(|row| *row != GONE);
            lengths.extend(new_row.map(|new_row| (new_row, reader.length(row))));
        }
    }
    if let Some(anew) = &anew {
        lengths.extend(anew.present()?.iter().map(|row| (row, anew.length(row))));
    }
    let (lengths, present) = spread(lengths, rows);
    let mut writer = TextWriter::new(lengths, present);
    let mut sources = Vec::with_capacity(readers.len() + 1);
    for (reader, new_rows) in readers.into_iter().zip(&plan.new_rows) {
        if let Some(reader) = reader {
            sources.push(Source::new(reader, reader.terms()?, Some(new_rows))?);
        }
    }
    if let Some(anew) = anew {
        sources.push(Source::new(anew, anew.terms()?, None)?);
    }
    merge_terms(
        &mut sources,
        |reader: &TextReader, term, each| reader.for_each(term, each),
        |term, postings: &[(u32, u32)]| writer.term(term, postings),
    )?;
    out.section(column_section(TEXT_SECTION, uid), &writer.finish()?)
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
