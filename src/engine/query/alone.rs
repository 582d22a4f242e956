//! Scores of documents by themselves: for the rows of an answer, which were found by something else, and for fragments of
//! their text.
//!
//! Text of a document is scored as the wire contract has it: as if no other document had its terms, and all were one token
//! long. Text of a fragment is scored among the fragments of its document.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::columns::number;
use super::plan::column_to_rank;
use super::score::{add, bind_attribute, times};
use super::sparse::SparseScorer;
use super::{curve, text};
use crate::engine::analyzers::Analyzers;
use crate::engine::filter::bind::bind;
use crate::engine::filter::matches::matches_with;
use crate::engine::filter::texts::Texts;
use crate::error::{Error, Result};
use crate::model::compute::FRAGMENT;
use crate::model::document::Document;
use crate::model::filter::Filter;
use crate::model::query::{Clause, Curve};
use crate::model::schema::{Column, ColumnUid, FullText, Schema};
use crate::model::value::Value;
use crate::platform::allowance::Allowance;
use crate::segment::text::score::{bm25, idf, qtf_factor};
use crate::segment::text::terms::DocTerms;

/// A score bound to a schema.
pub(super) enum Alone {
    Text(ColumnUid, Words),
    /// Text of a fragment, by its place among the clauses over fragments.
    Fragment(usize),
    Sparse(SparseScorer),
    Sum(Vec<Alone>),
    Max(Vec<Alone>),
    Product(f64, Box<Alone>),
    Filter(Filter),
    Attribute(ColumnUid),
    Dist(ColumnUid, Value),
    Saturate(Curve, Box<Alone>),
    Decay(Curve, Box<Alone>),
    Constant(f64),
}

/// The terms of a text clause.
pub(super) struct Words {
    options: FullText,
    /// Each once, with the weight of how often the query has it.
    pub(super) terms: Vec<(String, f64)>,
    pub(super) prefix: Option<String>,
}

/// What text is scored among: how many texts, their average length, and how many have each term.
pub(super) struct Statistics {
    pub(super) texts: u64,
    pub(super) average_length: f64,
    pub(super) having: Vec<u64>,
}

/// What is scored.
pub(super) struct Scored<'a> {
    pub(super) schema: &'a Schema,
    pub(super) document: &'a Document,
    /// The scores of a fragment's text, clause by clause.
    pub(super) fragment: &'a [f64],
    pub(super) allowance: &'a Allowance,
}

/// Binds scores, and notes which columns of a document they need.
pub(super) struct Binder<'s> {
    pub(super) schema: &'s Schema,
    /// The column that fragments are from, and the clauses over them.
    pub(super) fragments: Option<(&'s Column, Vec<Words>)>,
    pub(super) needs: &'s mut Vec<ColumnUid>,
    pub(super) allowance: &'s Allowance,
}

impl Binder<'_> {
    /// `clamped`: what is negative never shows.
    pub(super) fn bind(&mut self, clause: &Clause, clamped: bool) -> Result<Alone> {
        let schema = self.schema;
        Ok(match clause {
            Clause::Bm25 { attribute, query, last_as_prefix } => {
                if let Some((column, words)) = self.fragments.as_mut().filter(|_| attribute == FRAGMENT) {
                    words.push(Words::bind(column, query, *last_as_prefix)?);
                    return Ok(Alone::Fragment(words.len() - 1));
                }
                let column = column_to_rank(schema, attribute)?;
                self.needs.push(column.uid());
                Alone::Text(column.uid(), Words::bind(column, query, *last_as_prefix)?)
            }
            Clause::SparseKnn { attribute, vector } => {
                let sparse = SparseScorer::bind(schema, attribute, vector)?;
                self.needs.push(column_to_rank(schema, attribute)?.uid());
                Alone::Sparse(sparse)
            }
            Clause::Sum(parts) => Alone::Sum(self.bind_all(parts, clamped)?),
            Clause::Max(parts) => {
                let clamps = parts.iter().any(|part| matches!(part, Clause::Constant(_)));
                Alone::Max(self.bind_all(parts, clamped || clamps)?)
            }
            Clause::Product(weight, part) => Alone::Product(*weight, Box::new(self.bind(part, clamped)?)),
            Clause::Filter(expr) => {
                let filter = bind(expr, schema, self.allowance)?;
                filter.for_each_column(&mut |uid| self.needs.push(uid));
                Alone::Filter(filter)
            }
            Clause::Attribute(name) => {
                let uid = bind_attribute(schema, name, clamped)?;
                self.needs.push(uid);
                Alone::Attribute(uid)
            }
            Clause::Dist { attribute, origin } => {
                let (uid, origin) = curve::bind_origin(schema, attribute, origin)?;
                self.needs.push(uid);
                Alone::Dist(uid, origin)
            }
            Clause::Saturate(part, curve) => {
                curve::check(schema, curve, part)?;
                Alone::Saturate(*curve, Box::new(self.bind(part, true)?))
            }
            Clause::Decay(part, curve) => {
                curve::check(schema, curve, part)?;
                Alone::Decay(*curve, Box::new(self.bind(part, true)?))
            }
            Clause::Constant(value) => Alone::Constant(*value),
        })
    }

    fn bind_all(&mut self, parts: &[Clause], clamped: bool) -> Result<Vec<Alone>> {
        parts.iter().map(|part| self.bind(part, clamped)).collect()
    }
}

impl Alone {
    /// The same score for all fragments of a document: what they do not change is found out once.
    pub(super) fn among_fragments(
        &self,
        scored: &Scored<'_>,
        texts: &mut Texts<'_>,
        analyzers: &mut Analyzers,
    ) -> Result<Alone> {
        let mut each = |part: &Alone| part.among_fragments(scored, texts, analyzers);
        Ok(match self {
            Alone::Fragment(at) => Alone::Fragment(*at),
            Alone::Sum(parts) => Alone::Sum(parts.iter().map(each).collect::<Result<_>>()?),
            Alone::Max(parts) => Alone::Max(parts.iter().map(each).collect::<Result<_>>()?),
            Alone::Product(weight, part) => Alone::Product(*weight, Box::new(each(part)?)),
            Alone::Saturate(curve, part) => Alone::Saturate(*curve, Box::new(each(part)?)),
            Alone::Decay(curve, part) => Alone::Decay(*curve, Box::new(each(part)?)),
            Alone::Text(..)
            | Alone::Sparse(_)
            | Alone::Filter(_)
            | Alone::Attribute(_)
            | Alone::Dist(..)
            | Alone::Constant(_) => Alone::Constant(self.score(scored, texts, analyzers)?),
        })
    }

    /// A document's score; NaN for none.
    pub(super) fn score(&self, scored: &Scored<'_>, texts: &mut Texts<'_>, analyzers: &mut Analyzers) -> Result<f64> {
        let document = scored.document;
        if matches!(self, Alone::Text(..) | Alone::Filter(_) | Alone::Sparse(_)) {
            // Each may go through all of a text.
            scored.allowance.check()?;
        }
        let mut join = |parts: &[Alone], join: fn(f64, f64) -> f64| -> Result<f64> {
            let mut joined = None;
            for part in parts {
                let score = part.score(scored, texts, analyzers)?;
                joined = Some(joined.map_or(score, |joined| join(joined, score)));
            }
            Ok(joined.unwrap_or(0.0))
        };
        Ok(match self {
            Alone::Text(uid, words) => match document.get(*uid) {
                Some(value) => words.score(texts.terms(*uid, &words.options, value, analyzers), &words.no_others()),
                None => 0.0,
            },
            Alone::Fragment(at) => scored.fragment.get(*at).copied().unwrap_or(0.0),
            Alone::Sparse(sparse) => sparse.of_document(document),
            Alone::Sum(parts) => join(parts, add)?,
            Alone::Max(parts) => join(parts, f64::max)?,
            Alone::Product(weight, part) => times(*weight, part.score(scored, texts, analyzers)?),
            Alone::Filter(filter) => {
                let passes = matches_with(filter, scored.schema, document, texts, analyzers, scored.allowance)?;
                f64::from(u8::from(passes))
            }
            Alone::Attribute(uid) => document.get(*uid).map_or(0.0, number),
            Alone::Dist(uid, origin) => document.get(*uid).map_or(f64::NAN, |value| curve::distance(value, origin)),
            Alone::Saturate(curve, part) => curve::saturate(curve, part.score(scored, texts, analyzers)?),
            Alone::Decay(curve, part) => curve::decay(curve, part.score(scored, texts, analyzers)?),
            Alone::Constant(value) => *value,
        })
    }
}

impl Words {
    fn bind(column: &Column, query: &Json, last_as_prefix: bool) -> Result<Self> {
        let Some(options) = &column.full_text else {
            return Err(Error::invalid(format!(
                "💔 attribute \"{}\" is not configured for full-text search, cannot be ranked by BM25",
                column.name
            )));
        };
        let mut tokens = text::tokens(column, options, query)?;
        let prefix = if last_as_prefix { tokens.pop() } else { None };
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        tokens.into_iter().for_each(|token| *counts.entry(token).or_default() += 1);
        let weighted = |(term, count)| (term, qtf_factor(count, f64::from(options.k3)));
        Ok(Words { options: options.clone(), terms: counts.into_iter().map(weighted).collect(), prefix })
    }

    fn no_others(&self) -> Statistics {
        Statistics { texts: 0, average_length: 1.0, having: Vec::new() }
    }

    /// The score of a text among others.
    pub(super) fn score(&self, text: &DocTerms, among: &Statistics) -> f64 {
        let (k1, b) = (f64::from(self.options.k1), f64::from(self.options.b));
        let mut score = 0.0;
        self.for_each_in(text, |at, tf| {
            let idf = idf(among.texts, among.having.get(at).copied().unwrap_or(0));
            score += bm25(tf, text.length(), among.average_length, idf, self.terms[at].1, k1, b);
        });
        let has_prefix = self.prefix.as_ref().is_some_and(|prefix| text.any_with_prefix(prefix));
        score + f64::from(u8::from(has_prefix))
    }

    /// Calls `each` with the place of every term that a text has, in order, and how often it has it.
    pub(super) fn for_each_in(&self, text: &DocTerms, mut each: impl FnMut(usize, u32)) {
        if text.count() < self.terms.len() {
            for (term, tf) in text.iter() {
                if let Ok(at) = self.terms.binary_search_by(|(known, _)| known.as_str().cmp(term)) {
                    each(at, tf);
                }
            }
            return;
        }
        for (at, (term, _)) in self.terms.iter().enumerate() {
            match text.tf(term) {
                0 => {}
                tf => each(at, tf),
            }
        }
    }

    /// Whether a token is one of the terms.
    pub(super) fn has(&self, token: &str) -> bool {
        self.terms.binary_search_by(|(term, _)| term.as_str().cmp(token)).is_ok()
            || self.prefix.as_ref().is_some_and(|prefix| token.starts_with(prefix.as_str()))
    }
}
