//! BM25 of one text clause, with statistics exact over the live documents of the snapshot.

use serde_json::Value as Json;

use crate::engine::view::{SegmentView, TailRow, View};
use crate::error::{Error, Result};
use crate::model::schema::{ColumnUid, FullText};
use crate::segment::Segment;
use crate::segment::text::reader::TextReader;
use crate::segment::text::score::{bm25, idf, qtf_factor};
use crate::segment::text::tokens::Analyzer;

/// The longest text of a query, in bytes.
pub const QUERY_BYTES_MAX: usize = 8_192;
/// The most terms that the last token stands for as a prefix.
const PREFIX_TERMS_MAX: usize = 65_536;

/// A text clause with the weights of its terms.
pub struct BoundText {
    column: ColumnUid,
    terms: Vec<Weighted>,
    /// Documents that have a token with this prefix score 1 more.
    prefix: Option<String>,
    average_length: f64,
    k1: f64,
    b: f64,
}

struct Weighted {
    text: String,
    idf: f64,
    factor: f64,
}

/// A clause's column and its query's tokens, before any statistics.
fn tokens(view: &View, attribute: &str, query: &Json) -> Result<(ColumnUid, FullText, Vec<String>)> {
    let Some(column) = view.schema.column(attribute) else {
        return Err(Error::invalid(format!("💔 attribute \"{attribute}\" not found in schema, cannot be ranked by")));
    };
    let Some(options) = &column.full_text else {
        return Err(Error::invalid(format!(
            "💔 attribute \"{attribute}\" is not configured for full-text search, cannot be ranked by BM25"
        ))
        .with_hint(format!("set full_text_search for {attribute} in the schema")));
    };
    let bytes: usize = match query {
        Json::String(text) => text.len(),
        Json::Array(items) => items.iter().filter_map(Json::as_str).map(str::len).sum(),
        _ => 0,
    };
    if bytes > QUERY_BYTES_MAX {
        return Err(Error::invalid(format!(
            "BM25 query for \"{attribute}\" has {bytes} bytes, expected at most {QUERY_BYTES_MAX}"
        )));
    }
    let mut analyzer = Analyzer::new(options);
    let expecting = if analyzer.takes_strings() { "string or []string" } else { "[]string" };
    let tokens = analyzer.query_tokens(query).map_err(|_| {
        let shown = match query {
            Json::String(text) => text.clone(),
            other => other.to_string(),
        };
        Error::invalid(format!("invalid input '{shown}' for rank_by field \"{attribute}\", expecting {expecting}"))
    })?;
    Ok((column.uid(), options.clone(), tokens))
}

impl BoundText {
    pub fn bind(view: &View, attribute: &str, query: &Json, last_as_prefix: bool) -> Result<Self> {
        let (column, options, mut tokens) = tokens(view, attribute, query)?;
        let prefix = if last_as_prefix { tokens.pop() } else { None };
        let mut counted: Vec<(String, u32)> = Vec::new();
        for token in tokens {
            match counted.iter_mut().find(|(known, _)| *known == token) {
                Some((_, count)) => *count += 1,
                None => counted.push((token, 1)),
            }
        }
        let mut lengths = Lengths::default();
        for segment in &view.segments {
            lengths.add_segment(column, segment)?;
        }
        for (_, row) in view.tail.iter() {
            if let Some((_, terms)) = row.terms.iter().find(|(uid, _)| *uid == column) {
                lengths.documents += 1;
                lengths.tokens += u64::from(terms.length());
            }
        }
        let documents = view.documents();
        let mut terms = Vec::with_capacity(counted.len());
        for (text, count) in counted {
            let mut df = 0;
            for segment in &view.segments {
                df += live_df(column, &text, segment)?;
            }
            df += view.tail.iter().filter(|(_, row)| tf(row, column, &text) > 0).count() as u64;
            let factor = qtf_factor(count, f64::from(options.k3));
            terms.push(Weighted { text, idf: idf(documents, df), factor });
        }
        Ok(BoundText {
            column,
            terms,
            prefix,
            average_length: lengths.average(),
            k1: f64::from(options.k1),
            b: f64::from(options.b),
        })
    }

    /// The scores of a segment's rows, ascending by row.
    pub fn scores(&self, segment: &Segment) -> Result<Vec<(u32, f64)>> {
        let Some(reader) = segment.text(self.column)? else {
            return self.unindexed(segment);
        };
        let mut lists: Vec<Vec<(u32, f64)>> = Vec::new();
        for weighted in &self.terms {
            if let Some(term) = reader.term(&weighted.text)? {
                let mut list = Vec::with_capacity(term.df as usize);
                reader.for_each(&term, |row, tf| list.push((row, self.part(weighted, tf, reader.length(row)))))?;
                lists.push(list);
            }
        }
        if let Some(prefix) = &self.prefix {
            let mut rows = roaring::RoaringBitmap::new();
            for (_, term) in reader.prefix_terms(prefix, PREFIX_TERMS_MAX)? {
                rows |= reader.rows_with(&term)?;
            }
            lists.push(rows.iter().map(|row| (row, 1.0)).collect());
        }
        Ok(add_up(lists, segment.rows()))
    }

    /// The score of a row of the tail.
    pub fn score(&self, row: &TailRow) -> f64 {
        match row.terms.iter().find(|(uid, _)| *uid == self.column) {
            Some((_, terms)) => self.of(terms),
            None => 0.0,
        }
    }

    fn of(&self, terms: &crate::segment::text::terms::DocTerms) -> f64 {
        let parts = self.terms.iter().map(|weighted| self.part(weighted, terms.tf(&weighted.text), terms.length()));
        let prefix = self.prefix.as_ref().is_some_and(|prefix| terms.any_with_prefix(prefix));
        parts.sum::<f64>() + f64::from(u8::from(prefix))
    }

    fn part(&self, weighted: &Weighted, tf: u32, length: u32) -> f64 {
        bm25(tf, length, self.average_length, weighted.idf, weighted.factor, self.k1, self.b)
    }

    /// A segment from before the column was searchable has no index of it: nothing there is found until it is merged.
    fn unindexed(&self, _segment: &Segment) -> Result<Vec<(u32, f64)>> {
        Ok(Vec::new())
    }
}

#[derive(Default)]
struct Lengths {
    documents: u64,
    tokens: u64,
}

impl Lengths {
    fn add_segment(&mut self, column: ColumnUid, view: &SegmentView) -> Result<()> {
        let Some(reader) = view.segment.text(column)? else { return Ok(()) };
        self.documents += reader.docs();
        self.tokens += reader.total_length();
        if !view.dead.is_empty() {
            let gone = reader.present()? & &*view.dead;
            self.documents -= gone.len().min(self.documents);
            self.tokens -= gone.iter().map(|row| u64::from(reader.length(row))).sum::<u64>().min(self.tokens);
        }
        Ok(())
    }

    fn average(&self) -> f64 {
        if self.documents == 0 { 0.0 } else { self.tokens as f64 / self.documents as f64 }
    }
}

/// In how many live rows of a segment a term is.
fn live_df(column: ColumnUid, text: &str, view: &SegmentView) -> Result<u64> {
    let Some(reader) = view.segment.text(column)? else { return Ok(0) };
    let Some(term) = reader.term(text)? else { return Ok(0) };
    if view.dead.is_empty() {
        return Ok(u64::from(term.df));
    }
    count_live(&reader, &term, view)
}

fn count_live(reader: &TextReader<'_>, term: &crate::segment::text::reader::Term, view: &SegmentView) -> Result<u64> {
    let mut live = 0;
    reader.for_each(term, |row, _| live += u64::from(!view.dead.contains(row)))?;
    Ok(live)
}

fn tf(row: &TailRow, column: ColumnUid, text: &str) -> u32 {
    row.terms.iter().find(|(uid, _)| *uid == column).map_or(0, |(_, terms)| terms.tf(text))
}

/// Adds lists that ascend by row. Long ones are added in an array of all rows, short ones by sorting.
pub(super) fn add_up(mut lists: Vec<Vec<(u32, f64)>>, rows: u32) -> Vec<(u32, f64)> {
    if lists.len() <= 1 {
        return lists.pop().unwrap_or_default();
    }
    let total: usize = lists.iter().map(Vec::len).sum();
    if total * 8 >= rows as usize {
        let mut dense = vec![0.0; rows as usize];
        for (row, score) in lists.into_iter().flatten() {
            if let Some(sum) = dense.get_mut(row as usize) {
                *sum += score;
            }
        }
        return dense.into_iter().zip(0..).filter(|(sum, _)| *sum != 0.0).map(|(sum, row)| (row, sum)).collect();
    }
    // Stable: a row's parts are added in the order of the query's terms, as in the tail.
    let mut all: Vec<(u32, f64)> = lists.into_iter().flatten().collect();
    all.sort_by_key(|(row, _)| *row);
    let mut out: Vec<(u32, f64)> = Vec::with_capacity(all.len());
    for (row, score) in all {
        match out.last_mut() {
            Some((last, sum)) if *last == row => *sum += score,
            _ => out.push((row, score)),
        }
    }
    out
}
