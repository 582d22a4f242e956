//! BM25 of one text clause, with statistics that are exact over the live documents of the view.

use std::collections::HashMap;

use roaring::RoaringBitmap;
use serde_json::Value as Json;

use super::plan::column_to_rank;
use super::postings::{DenseRows, Lengths, Postings};
use crate::engine::analyzers::Analyzers;
use crate::engine::filter::bitmap::{rows_with_prefix, text_index};
use crate::engine::view::{SegmentView, TailRow, View};
use crate::error::{Error, Result};
use crate::model::schema::{Column, ColumnUid, FullText};
use crate::segment::text::score::{bm25, idf, qtf_factor};
use crate::segment::text::terms::DocTerms;

/// The longest text of a query, in bytes.
pub(super) const QUERY_BYTES_MAX: usize = 8_192;
/// Scores of documents with fewer tokens than this and at most so many of one term are computed once a segment.
const KNOWN_LENGTHS: usize = 256;
const KNOWN_FREQUENCIES: usize = 4;

/// A text clause with the weights of its terms.
pub(super) struct TextScorer {
    column: Column,
    uid: ColumnUid,
    options: FullText,
    terms: Vec<QueryTerm>,
    /// Documents that have a token with this prefix score 1 more.
    prefix: Option<String>,
    /// Tokens of a live document that has the field.
    average_length: f64,
    /// Per segment whose index is not of the column as it is now.
    analysed: Vec<Option<Analysed>>,
}

struct QueryTerm {
    text: String,
    /// How often the query has it.
    count: u32,
    /// Live documents that have it.
    documents: u64,
    idf: f64,
    factor: f64,
}

/// What a segment's documents have of a query.
struct Analysed {
    /// Per term of the query its rows and frequencies.
    postings: Vec<Vec<(u32, u32)>>,
    with_prefix: RoaringBitmap,
    lengths: Vec<u32>,
}

impl TextScorer {
    pub(super) fn bind(view: &View, attribute: &str, query: &Json, last_as_prefix: bool) -> Result<Self> {
        let column = column_to_rank(&view.schema, attribute)?;
        let Some(options) = &column.full_text else {
            return Err(Error::invalid(format!(
                "💔 attribute \"{attribute}\" is not configured for full-text search, cannot be ranked by BM25"
            ))
            .with_hint(format!("set full_text_search for {attribute} in the schema")));
        };
        let mut tokens = tokens(column, options, query)?;
        let prefix = if last_as_prefix { tokens.pop() } else { None };
        let mut scorer = TextScorer {
            column: column.clone(),
            uid: column.uid(),
            options: options.clone(),
            terms: distinct(tokens),
            prefix,
            average_length: 0.0,
            analysed: Vec::with_capacity(view.segments.len()),
        };
        scorer.gather_statistics(view)?;
        Ok(scorer)
    }

    fn gather_statistics(&mut self, view: &View) -> Result<()> {
        let (mut documents, mut tokens) = (0, 0);
        for segment in &view.segments {
            let (more_documents, more_tokens) = self.add_segment(segment)?;
            documents += more_documents;
            tokens += more_tokens;
        }
        let mut analyzers = Analyzers::new();
        for (_, row) in view.tail.iter() {
            self.with_terms(row, &mut analyzers, |scorer, terms| {
                documents += 1;
                tokens += u64::from(terms.length());
                for term in &mut scorer.terms {
                    term.documents += u64::from(terms.tf(&term.text) > 0);
                }
            });
        }
        self.average_length = if documents == 0 { 0.0 } else { tokens as f64 / documents as f64 };
        let all = view.documents();
        for term in &mut self.terms {
            term.idf = idf(all, term.documents);
            term.factor = qtf_factor(term.count, f64::from(self.options.k3));
        }
        Ok(())
    }

    /// Counts a segment's live documents with each term; gives how many have the field, and their tokens.
    fn add_segment(&mut self, view: &SegmentView) -> Result<(u64, u64)> {
        let segment = &view.segment;
        let Some(reader) = text_index(segment, &self.column)? else {
            let has_column = segment.column(self.uid).is_some();
            let analysed = has_column.then(|| self.analyse(view)).transpose()?;
            let counts = analysed.as_ref().map_or((0, 0), |(_, counts)| *counts);
            if let Some((analysed, _)) = &analysed {
                for (term, rows) in self.terms.iter_mut().zip(&analysed.postings) {
                    term.documents += rows.len() as u64;
                }
            }
            self.analysed.push(analysed.map(|(analysed, _)| analysed));
            return Ok(counts);
        };
        self.analysed.push(None);
        let dead = (!view.dead.is_empty()).then(|| DenseRows::new(&view.dead, segment.rows()));
        for term in &mut self.terms {
            let Some(found) = reader.term(&term.text)? else { continue };
            match &dead {
                None => term.documents += u64::from(found.df),
                Some(dead) => {
                    reader.for_each(&found, |row, _| term.documents += u64::from(!dead.contains(row)))?;
                }
            }
        }
        let (mut documents, mut tokens) = (reader.docs(), reader.total_length());
        if dead.is_some() {
            documents = documents.saturating_sub(reader.present()?.intersection_len(&view.dead));
            // Rows without the field have no tokens.
            let gone: u64 = view.dead.iter().map(|row| u64::from(reader.length(row))).sum();
            tokens = tokens.saturating_sub(gone);
        }
        Ok((documents, tokens))
    }

    /// Analyses a segment's live documents; gives with it how many have the field, and their tokens.
    fn analyse(&self, view: &SegmentView) -> Result<(Analysed, (u64, u64))> {
        let mut found = Analysed {
            postings: self.terms.iter().map(|_| Vec::new()).collect(),
            with_prefix: RoaringBitmap::new(),
            lengths: vec![0; view.segment.rows() as usize],
        };
        let (mut documents, mut tokens) = (0, 0);
        let mut analyzers = Analyzers::new();
        let mut scan = view.segment.scan()?;
        for row in view.live_rows() {
            let document = scan.document(row, Some(&[self.uid]))?;
            let Some(value) = document.get(self.uid) else { continue };
            let terms = analyzers.terms(&self.options, value);
            documents += 1;
            tokens += u64::from(terms.length());
            found.lengths[row as usize] = terms.length();
            for (term, postings) in self.terms.iter().zip(&mut found.postings) {
                match terms.tf(&term.text) {
                    0 => {}
                    tf => postings.push((row, tf)),
                }
            }
            if self.prefix.as_ref().is_some_and(|prefix| terms.any_with_prefix(prefix)) {
                found.with_prefix.insert(row);
            }
        }
        Ok((found, (documents, tokens)))
    }

    /// Calls `then` with the terms of a row of the tail, if it has the field.
    fn with_terms(&mut self, row: &TailRow, analyzers: &mut Analyzers, then: impl FnOnce(&mut Self, &DocTerms)) {
        match (row.terms_of(self.uid), row.document.get(self.uid)) {
            (Some(terms), _) => then(self, terms),
            // The column became searchable after the row was written.
            (None, Some(value)) => {
                let terms = analyzers.terms(&self.options, value);
                then(self, &terms);
            }
            (None, None) => {}
        }
    }

    /// The score of a row of the tail.
    pub(super) fn of_tail(&self, row: &TailRow, analyzers: &mut Analyzers) -> f64 {
        match (row.terms_of(self.uid), row.document.get(self.uid)) {
            (Some(terms), _) => self.of_terms(terms),
            (None, Some(value)) => self.of_terms(&analyzers.terms(&self.options, value)),
            (None, None) => 0.0,
        }
    }

    fn of_terms(&self, terms: &DocTerms) -> f64 {
        let mut score = 0.0;
        for term in &self.terms {
            score += self.part(term, terms.tf(&term.text), terms.length());
        }
        if self.prefix.as_ref().is_some_and(|prefix| terms.any_with_prefix(prefix)) {
            score += 1.0;
        }
        score
    }

    /// One term's part of a score.
    fn part(&self, term: &QueryTerm, tf: u32, length: u32) -> f64 {
        let (k1, b) = (f64::from(self.options.k1), f64::from(self.options.b));
        bm25(tf, length, self.average_length, term.idf, term.factor, k1, b)
    }

    /// The scores of a segment's rows, from the first on.
    pub(super) fn cursor<'a>(&'a self, view: &'a SegmentView, at: usize) -> Result<TextCursor<'a>> {
        let mut cursor = TextCursor { scorer: self, lengths: Lengths::None, terms: Vec::new(), with_prefix: None };
        if let Some(Some(analysed)) = self.analysed.get(at) {
            cursor.lengths = Lengths::Known(&analysed.lengths);
            cursor.with_prefix = Some(analysed.with_prefix.clone());
            let known = self.terms.iter().zip(&analysed.postings);
            cursor.terms = known.map(|(term, rows)| TermCursor::new(term, Postings::of_rows(rows))).collect();
        } else if let Some(reader) = text_index(&view.segment, &self.column)? {
            for term in &self.terms {
                if let Some(found) = reader.term(&term.text)? {
                    cursor.terms.push(TermCursor::new(term, Postings::of_index(&reader, &found)?));
                }
            }
            if let Some(prefix) = &self.prefix {
                cursor.with_prefix = Some(rows_with_prefix(&reader, prefix)?);
            }
            cursor.lengths = Lengths::Index(reader);
        }
        Ok(cursor)
    }
}

/// The tokens of a query.
fn tokens(column: &Column, options: &FullText, query: &Json) -> Result<Vec<String>> {
    let name = &column.name;
    let bytes: usize = match query {
        Json::String(text) => text.len(),
        Json::Array(items) => items.iter().filter_map(Json::as_str).map(str::len).sum(),
        _ => 0,
    };
    if bytes > QUERY_BYTES_MAX {
        return Err(Error::invalid(format!(
            "BM25 query for \"{name}\" has {bytes} bytes, expected at most {QUERY_BYTES_MAX}"
        )));
    }
    let mut analyzers = Analyzers::new();
    let analyzer = analyzers.get(options);
    let expecting = if analyzer.takes_strings() { "string or []string" } else { "[]string" };
    analyzer.query_tokens(query).map_err(|_| {
        let shown = query.as_str().map_or_else(|| query.to_string(), str::to_owned);
        Error::invalid(format!("invalid input '{shown}' for rank_by field \"{name}\", expecting {expecting}"))
    })
}

/// Each token once, in the order of the query, with how often it is there.
fn distinct(tokens: Vec<String>) -> Vec<QueryTerm> {
    let mut terms: Vec<QueryTerm> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    for text in tokens {
        match known.get(&text) {
            Some(at) => terms[*at].count += 1,
            None => {
                known.insert(text.clone(), terms.len());
                terms.push(QueryTerm { text, count: 1, documents: 0, idf: 0.0, factor: 0.0 });
            }
        }
    }
    terms
}

/// The scores of one segment's rows, window by window.
pub(super) struct TextCursor<'a> {
    scorer: &'a TextScorer,
    lengths: Lengths<'a>,
    terms: Vec<TermCursor<'a>>,
    with_prefix: Option<RoaringBitmap>,
}

struct TermCursor<'a> {
    term: &'a QueryTerm,
    postings: Postings<'a>,
    /// Scores by length and frequency, NaN where not computed yet; empty for rare terms.
    known: Vec<f64>,
}

impl<'a> TermCursor<'a> {
    fn new(term: &'a QueryTerm, postings: Postings<'a>) -> Self {
        let is_common = postings.count() > KNOWN_LENGTHS * KNOWN_FREQUENCIES / 4;
        let known = if is_common { vec![f64::NAN; KNOWN_LENGTHS * KNOWN_FREQUENCIES] } else { Vec::new() };
        TermCursor { term, postings, known }
    }
}

impl TextCursor<'_> {
    /// Adds the scores of the rows from `base` on. Windows come in ascending order and may be left out.
    pub(super) fn add(&mut self, base: u32, out: &mut [f64]) -> Result<()> {
        let (scorer, lengths) = (self.scorer, &self.lengths);
        let end = base.saturating_add(out.len() as u32);
        // Term by term in the order of the query, as the tail adds them.
        for TermCursor { term, postings, known } in &mut self.terms {
            postings.for_each_until(base, end, |row, tf| {
                let length = lengths.of(row);
                let (by_length, by_tf) = (length as usize, tf as usize - 1);
                let score = if by_length < KNOWN_LENGTHS && by_tf < KNOWN_FREQUENCIES && !known.is_empty() {
                    let known = &mut known[by_tf * KNOWN_LENGTHS + by_length];
                    if known.is_nan() {
                        *known = scorer.part(term, tf, length);
                    }
                    *known
                } else {
                    scorer.part(term, tf, length)
                };
                out[(row - base) as usize] += score;
            })?;
        }
        if let Some(rows) = &self.with_prefix {
            rows.range(base..end).for_each(|row| out[(row - base) as usize] += 1.0);
        }
        Ok(())
    }
}
