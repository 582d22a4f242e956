//! BM25 of one text clause, with statistics that are exact over the live documents of the view.

use std::collections::HashMap;

use roaring::RoaringBitmap;
use serde_json::{Value as Json, json};

use super::lists::{Blocks, Bm25, List};
use super::plan::column_to_rank;
use super::postings::{Lengths, Postings};
use crate::engine::analyzers::Analyzers;
use crate::engine::filter::bitmap::{rows_with_prefix, text_index};
use crate::engine::tail_terms::TextTerms;
use crate::engine::view::{SegmentView, TailPart, View};
use crate::error::{Error, Result};
use crate::model::schema::{AttributeType, Column, ColumnUid, FullText};
use crate::platform::allowance::{Allowance, DOCUMENTS_PER_CHECK};
use crate::segment::Ahead;
use crate::segment::row_bits::RowBits;
use crate::segment::text::reader::Term;
use crate::segment::text::score::{Norms, idf, qtf_factor, weight};
use crate::segment::text::terms::DocTerms;

/// The longest text of a query, in bytes.
pub(super) const QUERY_BYTES_MAX: usize = 8_192;

/// A text clause with the weights of its terms.
pub(super) struct TextScorer {
    column: Column,
    uid: ColumnUid,
    options: FullText,
    terms: Vec<QueryTerm>,
    /// Documents that have a token with this prefix score 1 more.
    prefix: Option<String>,
    /// By the average of the live documents that have the field.
    norms: Norms,
    /// Per segment whose index is not of the column as it is now, and last the tail.
    analysed: Vec<Option<Analysed>>,
    /// Per segment the terms that its index has, by their place in the query.
    found: Vec<Vec<(usize, Term)>>,
}

struct QueryTerm {
    text: String,
    /// How often the query has it.
    count: u32,
    /// Live documents that have it.
    documents: u64,
    weight: f32,
}

/// What the documents of a part without an index have of a query.
struct Analysed {
    /// Per term of the query its rows and frequencies.
    postings: Vec<Vec<(u32, u32)>>,
    with_prefix: RoaringBitmap,
    lengths: Vec<u32>,
    /// Documents that have the field, and their tokens.
    documents: u64,
    tokens: u64,
    /// What the allowance has been told that it takes.
    counted: usize,
}

impl TextScorer {
    pub(super) fn bind(
        view: &View,
        attribute: &str,
        query: &Json,
        last_as_prefix: bool,
        allowance: &Allowance,
    ) -> Result<Self> {
        let column = column_to_rank(&view.schema, attribute)?;
        let Some(options) = &column.full_text else {
            let kind = column.kind;
            let error = Error::invalid(format!(
                "💔 attribute \"{attribute}\" is not configured for full-text search, cannot be ranked by BM25"
            ));
            return Err(match kind {
                AttributeType::String | AttributeType::Strings => error.with_hint(format!(
                    "POST {} to /v1/namespaces/NAMESPACE/schema",
                    json!({attribute: {"type": kind.to_string(), "full_text_search": true}})
                )),
                _ => error.with_hint(format!("its type is {kind}; string and []string have full-text search")),
            });
        };
        let mut tokens = tokens(column, options, query)?;
        let prefix = if last_as_prefix { tokens.pop() } else { None };
        let mut scorer = TextScorer {
            column: column.clone(),
            uid: column.uid(),
            options: options.clone(),
            terms: distinct(tokens),
            prefix,
            norms: Norms::new(0.0, 0.0, 0.0),
            analysed: Vec::with_capacity(view.segments.len()),
            found: Vec::with_capacity(view.segments.len()),
        };
        scorer.gather_statistics(view, allowance)?;
        Ok(scorer)
    }

    /// Looks the terms up in every segment. What of the index is looked at is brought where it is not here: first where terms are
    /// looked up, then postings.
    fn find_terms(&mut self, view: &View) -> Result<()> {
        let mut tables = Ahead::new();
        view.segments.iter().try_for_each(|view| view.segment.add_text_tables(self.uid, &mut tables))?;
        tables.bring()?;
        let mut postings = Ahead::new();
        for view in &view.segments {
            let mut found = Vec::new();
            if let Some(reader) = text_index(&view.segment, &self.column)? {
                for (at, term) in self.terms.iter().enumerate() {
                    let Some(term) = reader.term(&term.text)? else { continue };
                    reader.add_postings(&term, &mut postings);
                    found.push((at, term));
                }
            }
            self.found.push(found);
        }
        postings.bring()
    }

    fn gather_statistics(&mut self, view: &View, allowance: &Allowance) -> Result<()> {
        self.find_terms(view)?;
        let (mut documents, mut tokens) = (0, 0);
        for (part, segment) in view.segments.iter().enumerate() {
            let (more_documents, more_tokens) = self.add_segment(part, segment, allowance)?;
            documents += more_documents;
            tokens += more_tokens;
        }
        let mut tail = Analysed::new(&self.terms, view.tail.places(), allowance)?;
        let mut analyzers = Analyzers::new();
        for part in view.tail.parts() {
            allowance.check()?;
            tail.count(allowance)?;
            if let Some(terms) = part.terms().and_then(|terms| terms.text(self.uid)) {
                tail.add_part(self, &part, terms);
                continue;
            }
            for (place, row) in part.rows() {
                match (row.terms_of(self.uid), row.document.get(self.uid)) {
                    (Some(terms), _) => tail.add(self, place, terms),
                    // The column became searchable after the row was written.
                    (None, Some(value)) => tail.add(self, place, &analyzers.terms(&self.options, value)),
                    (None, None) => {}
                }
            }
        }
        tail.count(allowance)?;
        documents += tail.documents;
        tokens += tail.tokens;
        self.keep(tail);
        let average = if documents == 0 { 0.0 } else { tokens as f64 / documents as f64 };
        let [k1, k3, b] = [self.options.k1, self.options.k3, self.options.b].map(f64::from);
        self.norms = Norms::new(average, k1, b);
        let all = view.documents();
        for term in &mut self.terms {
            term.weight = weight(idf(all, term.documents), qtf_factor(term.count, k3), k1);
        }
        Ok(())
    }

    /// Counts a segment's live documents with each term; gives how many have the field, and their tokens.
    fn add_segment(&mut self, part: usize, view: &SegmentView, allowance: &Allowance) -> Result<(u64, u64)> {
        let segment = &view.segment;
        let Some(reader) = text_index(segment, &self.column)? else {
            let analysed = match segment.column(self.uid) {
                Some(_) => self.analyse(view, allowance)?,
                None => Analysed::new(&self.terms, 0, allowance)?,
            };
            let counts = (analysed.documents, analysed.tokens);
            self.keep(analysed);
            return Ok(counts);
        };
        self.analysed.push(None);
        let mut bits = None;
        for (at, found) in &self.found[part] {
            let term = &mut self.terms[*at];
            term.documents += u64::from(found.df);
            if !view.dead.is_empty() {
                let gone = segment.dead_with(&view.dead, self.uid, found, || {
                    let bits = bits.get_or_insert_with(|| RowBits::new(&view.dead, segment.rows()));
                    reader.count_in(found, &view.dead, |row| bits.contains(row))
                })?;
                term.documents = term.documents.saturating_sub(gone);
            }
        }
        let (documents, tokens) = (reader.docs(), reader.total_length());
        if view.dead.is_empty() {
            return Ok((documents, tokens));
        }
        let (gone, tokens_gone) = segment.dead_in(&view.dead, self.uid, || {
            // Rows without the field have no tokens.
            let tokens = view.dead.iter().map(|row| u64::from(reader.length(row))).sum();
            Ok((reader.present()?.intersection_len(&view.dead), tokens))
        })?;
        Ok((documents.saturating_sub(gone), tokens.saturating_sub(tokens_gone)))
    }

    /// Analyses a segment's live documents.
    fn analyse(&self, view: &SegmentView, allowance: &Allowance) -> Result<Analysed> {
        let mut found = Analysed::new(&self.terms, view.segment.rows(), allowance)?;
        let mut analyzers = Analyzers::new();
        let rows = view.live_rows();
        let mut scan = view.segment.scan_of(&rows, Some(&[self.uid]))?;
        for (count, row) in (0..).zip(rows) {
            allowance.check_at(count, DOCUMENTS_PER_CHECK)?;
            if let Some(value) = scan.document(row, Some(&[self.uid]))?.get(self.uid) {
                found.add(self, row, &analyzers.terms(&self.options, value));
            }
            if count.is_multiple_of(DOCUMENTS_PER_CHECK) {
                found.count(allowance)?;
            }
        }
        found.count(allowance)?;
        Ok(found)
    }

    /// Counts what was analysed of the next part, and keeps it to score it.
    fn keep(&mut self, analysed: Analysed) {
        for (term, rows) in self.terms.iter_mut().zip(&analysed.postings) {
            term.documents += rows.len() as u64;
        }
        self.analysed.push(Some(analysed));
    }

    /// The scores of a part's rows, from the first on.
    pub(super) fn cursor<'a>(&'a self, view: &'a View, part: usize) -> Result<TextCursor<'a>> {
        let mut cursor = TextCursor { terms: Vec::new(), with_prefix: None };
        if let Some(Some(analysed)) = self.analysed.get(part) {
            cursor.with_prefix = Some(analysed.with_prefix.clone());
            for (term, rows) in self.terms.iter().zip(&analysed.postings) {
                let lengths = Lengths::Known(&analysed.lengths);
                cursor.terms.push((Postings::of_rows(rows), self.bm25(term, lengths)));
            }
        } else if let Some(segment) = view.segments.get(part)
            && let Some(reader) = text_index(&segment.segment, &self.column)?
        {
            for (at, found) in self.found.get(part).into_iter().flatten() {
                let bm25 = self.bm25(&self.terms[*at], Lengths::of_index(reader));
                cursor.terms.push((Postings::of_index(&reader, found)?, bm25));
            }
            if let Some(prefix) = &self.prefix {
                cursor.with_prefix = Some(rows_with_prefix(&reader, prefix)?);
            }
        }
        Ok(cursor)
    }

    pub(super) fn lists_at_most(&self) -> usize {
        self.terms.len() + usize::from(self.prefix.is_some())
    }

    /// What a part's rows add to their scores, in the order in which it is added.
    pub(super) fn lists<'a>(&'a self, view: &'a View, part: usize) -> Result<Vec<List<'a>>> {
        let mut lists = Vec::with_capacity(self.terms.len() + 1);
        if let Some(Some(analysed)) = self.analysed.get(part) {
            for (term, rows) in self.terms.iter().zip(&analysed.postings) {
                let bm25 = self.bm25(term, Lengths::Known(&analysed.lengths));
                lists.push(List::Blocks(Box::new(Blocks::of_rows(rows, bm25))));
            }
            if self.prefix.is_some() {
                lists.push(List::Set(analysed.with_prefix.clone()));
            }
        } else if let Some(segment) = view.segments.get(part)
            && let Some(reader) = text_index(&segment.segment, &self.column)?
        {
            for (at, found) in self.found.get(part).into_iter().flatten() {
                let bm25 = self.bm25(&self.terms[*at], Lengths::of_index(reader));
                lists.push(List::Blocks(Box::new(Blocks::of_term(reader.postings(found)?, bm25)?)));
            }
            if let Some(prefix) = &self.prefix {
                lists.push(List::Set(rows_with_prefix(&reader, prefix)?));
            }
        }
        Ok(lists)
    }

    fn bm25<'a>(&'a self, term: &QueryTerm, lengths: Lengths<'a>) -> Bm25<'a> {
        Bm25 { weight: term.weight, norms: &self.norms, lengths }
    }
}

impl Analysed {
    fn new(terms: &[QueryTerm], rows: u32, allowance: &Allowance) -> Result<Self> {
        let mut analysed = Analysed {
            postings: terms.iter().map(|_| Vec::new()).collect(),
            with_prefix: RoaringBitmap::new(),
            lengths: vec![0; rows as usize],
            documents: 0,
            tokens: 0,
            counted: 0,
        };
        analysed.count(allowance)?;
        Ok(analysed)
    }

    /// Tells the allowance what it takes by now.
    fn count(&mut self, allowance: &Allowance) -> Result<()> {
        let lists = self.postings.iter().map(|list| size_of_val(list) + list.capacity() * size_of::<(u32, u32)>());
        let bytes = self.lengths.len() * size_of::<u32>() + lists.sum::<usize>();
        allowance.keep(bytes.saturating_sub(self.counted))?;
        self.counted = self.counted.max(bytes);
        Ok(())
    }

    /// Adds a document that has the field, above all before it.
    fn add(&mut self, scorer: &TextScorer, row: u32, terms: &DocTerms) {
        self.documents += 1;
        self.tokens += u64::from(terms.length());
        if let Some(length) = self.lengths.get_mut(row as usize) {
            *length = terms.length();
        }
        for (term, postings) in scorer.terms.iter().zip(&mut self.postings) {
            match terms.tf(&term.text) {
                0 => {}
                tf => postings.push((row, tf)),
            }
        }
        if scorer.prefix.as_ref().is_some_and(|prefix| terms.any_with_prefix(prefix)) {
            self.with_prefix.insert(row);
        }
    }

    /// Adds a part of the tail, behind all before it.
    fn add_part(&mut self, scorer: &TextScorer, part: &TailPart, terms: &TextTerms) {
        let row = |place: u8| part.first + u32::from(place);
        for (place, length) in terms.lengths().filter(|(place, _)| part.has(*place)) {
            self.documents += 1;
            self.tokens += u64::from(length);
            if let Some(known) = self.lengths.get_mut(row(place) as usize) {
                *known = length;
            }
        }
        for (term, postings) in scorer.terms.iter().zip(&mut self.postings) {
            let rows = terms.lists.rows_of(&term.text).filter(|(place, _)| part.has(*place));
            postings.extend(rows.map(|(place, tf)| (row(place), tf)));
        }
        if let Some(prefix) = &scorer.prefix {
            let places = terms.lists.rows_with_prefix(prefix).into_iter().filter(|place| part.has(*place));
            self.with_prefix.extend(places.map(row));
        }
    }
}

/// The tokens of a query.
pub(super) fn tokens(column: &Column, options: &FullText, query: &Json) -> Result<Vec<String>> {
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
                terms.push(QueryTerm { text, count: 1, documents: 0, weight: 0.0 });
            }
        }
    }
    terms
}

/// The scores of one part's rows, window by window.
pub(super) struct TextCursor<'a> {
    terms: Vec<(Postings<'a>, Bm25<'a>)>,
    with_prefix: Option<RoaringBitmap>,
}

impl TextCursor<'_> {
    /// Adds the scores of the rows from `base` on; false when there are none. Windows come in ascending order and may be
    /// left out.
    pub(super) fn add(&mut self, base: u32, out: &mut [f64]) -> Result<bool> {
        let end = base.saturating_add(out.len() as u32);
        let mut any = false;
        // Term by term in the order of the query, which is the same in all parts.
        for (postings, bm25) in &mut self.terms {
            postings.for_each_until(base, end, |row, tf| {
                out[(row - base) as usize] += bm25.score(row, tf);
                any = true;
            })?;
        }
        if let Some(rows) = &self.with_prefix {
            for row in rows.range(base..end) {
                out[(row - base) as usize] += 1.0;
                any = true;
            }
        }
        Ok(any)
    }
}
