//! The parts of a document's text that fit a query best.
//!
//! 1. Each string is taken apart: by sentences (UAX #29), lines, words, or not at all.
//! 2. Every fragment is scored; its text among the fragments of the same document.
//! 3. The best are kept, ties in their order, and the places of the query's terms in them are noted.

use std::ops::Range;

use unicode_segmentation::UnicodeSegmentation;

use super::alone::{Alone, Binder, Scored, Statistics, Words};
use crate::engine::analyzers::Analyzers;
use crate::engine::filter::texts::Texts;
use crate::error::{Error, Result};
use crate::model::compute::{Computed, FRAGMENT, Fragment, FragmentBy, Highlight, OffsetUnit, Span};
use crate::model::document::Document;
use crate::model::query::{Clause, Query, Rank};
use crate::model::schema::{ColumnUid, FullText, Schema, Tokenizer};
use crate::model::value::Value;
use crate::platform::allowance::Allowance;
use crate::segment::text::terms::DocTerms;

/// Text of one document that is looked at, in bytes; what comes behind is not highlighted.
const TEXT_BYTES_MAX: usize = 256 << 10;

/// A bound highlight.
pub(super) struct Highlighter {
    column: ColumnUid,
    options: FullText,
    fragment_by: FragmentBy,
    limit: usize,
    offsets: Option<OffsetUnit>,
    rank: Alone,
    words: Vec<Words>,
}

/// A token of a document's text.
struct Token {
    text: String,
    place: Range<usize>,
}

/// A piece of one of a document's strings.
struct Piece {
    string: usize,
    place: Range<usize>,
    score: f64,
}

impl Highlighter {
    pub(super) fn bind(
        schema: &Schema,
        query: &Query,
        name: &str,
        highlight: &Highlight,
        needs: &mut Vec<ColumnUid>,
        allowance: &Allowance,
    ) -> Result<Self> {
        let attribute = &highlight.attribute;
        let Some(column) = schema.column(attribute) else {
            return Err(Error::invalid(format!(
                "💔 attribute \"{attribute}\" not found in schema, cannot be part of `compute_attributes`"
            )));
        };
        let about = format!("computed attribute `{name}` references `{attribute}`, which");
        let Some(options) = &column.full_text else {
            return Err(Error::invalid(format!(
                "{about} is not enabled for full-text search; this requires a schema update"
            )));
        };
        if options.tokenizer == Tokenizer::PreTokenizedArray {
            return Err(Error::invalid(format!(
                "{about} uses a pre-tokenized tokenizer that does not support highlighting"
            )));
        }
        let Some(clause) = highlight.rank_by.clone().or_else(|| own_clauses(query, attribute)) else {
            return Err(Error::invalid(format!(
                "computed attribute `{name}`: cannot infer `rank_fragments_by` because the query `rank_by` has no BM25 \
                 clause over `{attribute}`; provide `rank_fragments_by` explicitly"
            )));
        };
        needs.push(column.uid());
        let mut binder = Binder { schema, fragments: Some((column, Vec::new())), needs, allowance };
        let rank = binder.bind(&clause, false)?;
        let words = binder.fragments.map_or_else(Vec::new, |(_, words)| words);
        Ok(Highlighter {
            column: column.uid(),
            options: options.clone(),
            fragment_by: highlight.fragment_by,
            limit: highlight.limit as usize,
            offsets: highlight.offsets,
            rank,
            words,
        })
    }

    /// The best fragments of a document.
    pub(super) fn of(
        &self,
        schema: &Schema,
        document: &Document,
        texts: &mut Texts<'_>,
        analyzers: &mut Analyzers,
        allowance: &Allowance,
    ) -> Result<Computed> {
        let (strings, is_array): (Vec<&str>, bool) = match document.get(self.column) {
            Some(Value::String(text)) => (vec![text], false),
            Some(Value::Strings(texts)) => (texts.iter().map(String::as_str).collect(), true),
            _ => (Vec::new(), false),
        };
        let mut left = TEXT_BYTES_MAX;
        let strings: Vec<&str> = strings.into_iter().map(|text| beginning(text, &mut left)).collect();
        let tokens: Vec<Vec<Token>> = strings.iter().map(|text| self.tokens(text, analyzers)).collect();
        let mut pieces = Vec::new();
        for (string, (text, tokens)) in strings.iter().zip(&tokens).enumerate() {
            let places = self.take_apart(text, tokens);
            pieces.extend(places.into_iter().map(|place| Piece { string, place, score: 0.0 }));
        }
        if pieces.is_empty() {
            return Ok(Computed::Fragments(Vec::new()));
        }
        let scored = Scored { schema, document, fragment: &[], allowance };
        let rank = self.rank.among_fragments(&scored, texts, analyzers)?;
        self.score(&rank, &scored, &tokens, &mut pieces, analyzers)?;
        pieces.retain(|piece| piece.score > 0.0);
        pieces.sort_by(|a, b| b.score.total_cmp(&a.score));
        pieces.truncate(self.limit);
        let mut fragments = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let (text, tokens) = (strings[piece.string], &tokens[piece.string]);
            let places = self.offsets.map(|unit| self.places(text, tokens, &piece, unit, allowance)).transpose()?;
            let text = text.get(piece.place).unwrap_or_default().to_owned();
            fragments.push(Fragment { text, places, array_index: is_array.then_some(piece.string as u32) });
        }
        Ok(Computed::Fragments(fragments))
    }

    fn tokens(&self, text: &str, analyzers: &mut Analyzers) -> Vec<Token> {
        let mut tokens = Vec::new();
        analyzers.get(&self.options).places(text, |text, place| tokens.push(Token { text: text.to_owned(), place }));
        tokens
    }

    fn take_apart(&self, text: &str, tokens: &[Token]) -> Vec<Range<usize>> {
        let mut places: Vec<Range<usize>> = match self.fragment_by {
            FragmentBy::None => std::iter::once(0..text.len()).filter(|all| !all.is_empty()).collect(),
            FragmentBy::Sentence => {
                text.split_sentence_bound_indices().filter_map(|(at, part)| trimmed(at, part)).collect()
            }
            FragmentBy::Paragraph => {
                let lines = text.split_inclusive('\n').scan(0, |next, line| {
                    let at = *next;
                    *next += line.len();
                    Some((at, line))
                });
                lines.filter_map(|(at, line)| trimmed(at, line)).collect()
            }
            FragmentBy::Word => tokens.iter().map(|token| token.place.clone()).collect(),
        };
        // One word may give several tokens.
        places.dedup();
        places
    }

    /// Scores the pieces by `rank`, which asks for nothing of their document that is not known.
    fn score(
        &self,
        rank: &Alone,
        scored: &Scored<'_>,
        tokens: &[Vec<Token>],
        pieces: &mut [Piece],
        analyzers: &mut Analyzers,
    ) -> Result<()> {
        let texts: Vec<DocTerms> = pieces
            .iter()
            .map(|piece| {
                let mut own: Vec<&str> =
                    within(&tokens[piece.string], &piece.place).iter().map(|token| token.text.as_str()).collect();
                DocTerms::from_tokens(&mut own)
            })
            .collect();
        let length: u64 = texts.iter().map(|text| u64::from(text.length())).sum();
        let average_length = length as f64 / texts.len().max(1) as f64;
        let mut among: Vec<Statistics> = Vec::with_capacity(self.words.len());
        for words in &self.words {
            scored.allowance.check()?;
            let mut having = vec![0; words.terms.len()];
            texts.iter().for_each(|text| words.for_each_in(text, |at, _| having[at] += 1));
            among.push(Statistics { texts: texts.len() as u64, average_length, having });
        }
        for (piece, text) in pieces.iter_mut().zip(&texts) {
            // Thousands of clauses may score each of a hundred thousand.
            scored.allowance.check()?;
            let fragment: Vec<f64> =
                self.words.iter().zip(&among).map(|(words, among)| words.score(text, among)).collect();
            let scored = Scored { fragment: &fragment, ..*scored };
            piece.score = rank.score(&scored, &mut Texts::default(), analyzers)?;
        }
        Ok(())
    }

    /// Where a piece is, and where the query's terms are in it.
    fn places(
        &self,
        text: &str,
        tokens: &[Token],
        piece: &Piece,
        unit: OffsetUnit,
        allowance: &Allowance,
    ) -> Result<(Span, Vec<Span>)> {
        allowance.check()?;
        let mut counted = Counted { text, unit, bytes: 0, units: 0 };
        let (begin, mut matches) = (counted.at(piece.place.start), Vec::new());
        for token in within(tokens, &piece.place) {
            allowance.look_at(self.words.len())?;
            if self.words.iter().any(|words| words.has(&token.text)) {
                matches.push((counted.at(token.place.start), counted.at(token.place.end)));
            }
        }
        matches.dedup();
        Ok(((begin, counted.at(piece.place.end)), matches))
    }
}

/// The query's own clauses over an attribute, over its fragments.
fn own_clauses(query: &Query, attribute: &str) -> Option<Clause> {
    fn collect(clause: &Clause, wanted: &str, found: &mut Vec<Clause>) {
        match clause {
            Clause::Bm25 { attribute, query, last_as_prefix } if attribute == wanted => found.push(Clause::Bm25 {
                attribute: FRAGMENT.to_owned(),
                query: query.clone(),
                last_as_prefix: *last_as_prefix,
            }),
            Clause::Sum(parts) | Clause::Max(parts) => parts.iter().for_each(|part| collect(part, wanted, found)),
            Clause::Product(_, part) | Clause::Saturate(part, _) | Clause::Decay(part, _) => {
                collect(part, wanted, found);
            }
            _ => {}
        }
    }
    let Some(Rank::Score(clause)) = &query.rank_by else { return None };
    let mut found = Vec::new();
    collect(clause, attribute, &mut found);
    (!found.is_empty()).then_some(Clause::Sum(found))
}

/// As much of a text as is left to be looked at.
fn beginning<'t>(text: &'t str, left: &mut usize) -> &'t str {
    let text = &text[..text.floor_char_boundary(*left)];
    *left -= text.len();
    text
}

/// Where a part is without the white space around it; `None` when nothing is left.
fn trimmed(at: usize, part: &str) -> Option<Range<usize>> {
    let start = at + (part.len() - part.trim_start().len());
    let length = part.trim().len();
    (length > 0).then_some(start..start + length)
}

/// The tokens within a piece of a text; both are in its order.
fn within<'t>(tokens: &'t [Token], place: &Range<usize>) -> &'t [Token] {
    let first = tokens.partition_point(|token| token.place.start < place.start);
    let rest = &tokens[first..];
    &rest[..rest.partition_point(|token| token.place.end <= place.end)]
}

/// Counts positions of a text in a unit, going forward through it.
struct Counted<'t> {
    text: &'t str,
    unit: OffsetUnit,
    bytes: usize,
    units: usize,
}

impl Counted<'_> {
    fn at(&mut self, bytes: usize) -> u32 {
        if bytes < self.bytes {
            (self.bytes, self.units) = (0, 0);
        }
        let more = self.text.get(self.bytes..bytes).unwrap_or_default();
        self.units += match self.unit {
            OffsetUnit::Utf8 => more.len(),
            OffsetUnit::Utf16 => more.encode_utf16().count(),
            OffsetUnit::Codepoints => more.chars().count(),
        };
        self.bytes = bytes;
        self.units as u32
    }
}
