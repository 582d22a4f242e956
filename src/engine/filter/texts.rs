//! The texts of one document, each analysed once at most, however many tests and scores look for tokens in it.

use crate::engine::analyzers::Analyzers;
use crate::error::Result;
use crate::model::filter::{TokenMode, TokenTest};
use crate::model::schema::{ColumnUid, FullText};
use crate::model::value::Value;
use crate::platform::allowance::Allowance;
use crate::segment::text::terms::DocTerms;

/// The terms of one document: those that came with it, and those that were wanted since.
#[derive(Default)]
pub struct Texts<'a> {
    given: &'a [(ColumnUid, DocTerms)],
    made: Vec<(ColumnUid, DocTerms)>,
}

impl<'a> Texts<'a> {
    pub fn of(given: &'a [(ColumnUid, DocTerms)]) -> Self {
        Texts { given, made: Vec::new() }
    }

    /// The terms of a column, whose value and options these are.
    pub fn terms(
        &mut self,
        column: ColumnUid,
        options: &FullText,
        value: &Value,
        analyzers: &mut Analyzers,
    ) -> &DocTerms {
        if let Some(at) = place(self.given, column) {
            return &self.given[at].1;
        }
        let at = place(&self.made, column).unwrap_or_else(|| {
            self.made.push((column, analyzers.terms(options, value)));
            self.made.len() - 1
        });
        &self.made[at].1
    }

    fn are_known(&self, column: ColumnUid) -> bool {
        place(self.given, column).or_else(|| place(&self.made, column)).is_some()
    }

    /// Whether a column passes a test of tokens. The allowance is asked within sequences only.
    pub(super) fn pass(
        &mut self,
        test: &TokenTest,
        column: ColumnUid,
        options: &FullText,
        value: &Value,
        analyzers: &mut Analyzers,
        allowance: &Allowance,
    ) -> Result<bool> {
        let Some((last, init)) = test.tokens.split_last() else { return Ok(test.mode != TokenMode::Any) };
        let step = |tokens| allowance.look_at(tokens);
        if test.is_sequence() && !self.are_known(column) {
            // The text itself ends the search where the sequence is.
            return analyzers.get(options).has_sequence(value, &test.tokens, test.last_as_prefix, step);
        }
        let terms = self.terms(column, options, value, analyzers);
        let mut init = init.iter();
        let passes = match test.mode {
            TokenMode::Any => init.any(|token| has(terms, token)) || has_last(terms, last, test.last_as_prefix),
            TokenMode::All | TokenMode::Sequence => {
                init.all(|token| has(terms, token)) && has_last(terms, last, test.last_as_prefix)
            }
        };
        if !passes || !test.is_sequence() {
            return Ok(passes);
        }
        match terms.has_sequence(&test.tokens, test.last_as_prefix, step)? {
            Some(passes) => Ok(passes),
            // Without positions a sequence needs the text, but only where all its tokens are there.
            None => analyzers.get(options).has_sequence(value, &test.tokens, test.last_as_prefix, step),
        }
    }
}

fn place(known: &[(ColumnUid, DocTerms)], column: ColumnUid) -> Option<usize> {
    known.iter().position(|(uid, _)| *uid == column)
}

fn has_last(terms: &DocTerms, last: &str, as_prefix: bool) -> bool {
    if as_prefix { terms.any_with_prefix(last) } else { has(terms, last) }
}

fn has(terms: &DocTerms, token: &str) -> bool {
    terms.tf(token) > 0
}

#[cfg(test)]
mod tests {
    use super::Texts;
    use crate::engine::analyzers::Analyzers;
    use crate::model::schema::{ColumnUid, FullText};
    use crate::model::value::Value;

    #[test]
    fn a_text_is_analysed_once() {
        let (mut analyzers, options) = (Analyzers::new(), FullText::default());
        let value = |text: &str| Value::String(text.to_owned());
        let given = [(ColumnUid(1), analyzers.terms(&options, &value("walrus")))];
        let mut texts = Texts::of(&given);
        let mut count = |column, text| texts.terms(column, &options, &value(text), &mut analyzers).count();
        assert_eq!(count(ColumnUid(1), "never looked at"), 1);
        assert_eq!(count(ColumnUid(2), "walrus narwhal"), 2);
        assert_eq!(count(ColumnUid(2), "never looked at"), 2);
        assert_eq!(count(ColumnUid(3), "seal"), 1);
    }
}
