//! Turns text into terms: the tokenizer `word_v4` with its filters, or the array's strings as they are.

use std::ops::Range;

use alyze::analyze::{
    AnalysisOptions, Analyzer as Pipeline, LanguageWithStopwords, ReusableBuffer, StemmingLanguage, StopwordRemoval,
    TokenizerOptions,
};
use serde_json::Value as Json;

use super::terms::DocTerms;
use crate::error::{Error, Result};
use crate::format::dictionary::TERM_BYTES_MAX;
use crate::model::schema::{FullText, Language, Tokenizer};
use crate::model::value::Value;

/// Tokenizes values and queries of one column. Keep it: it holds a cache of stems that is costly to fill.
///
/// - `word_v0` to `word_v3` run as `word_v4`.
/// - Tokens of a `pre_tokenized_array` are taken as they are, but those longer than an index can hold are dropped.
/// - Where case counts, stems and stop words do not apply: both are lower case.
pub struct Analyzer {
    /// `None`: the strings are tokens already.
    pipeline: Option<Pipeline<'static>>,
    buffer: ReusableBuffer,
    /// The longest token, in bytes; longer ones are dropped.
    bytes_max: usize,
    /// Whether terms are to say where they are.
    positions: bool,
}

impl Analyzer {
    pub fn new(options: &FullText) -> Self {
        let (bytes_max, positions) = (options.max_token_length as usize, options.positions);
        if options.tokenizer == Tokenizer::PreTokenizedArray {
            return Analyzer { pipeline: None, buffer: ReusableBuffer::new(), bytes_max: TERM_BYTES_MAX, positions };
        }
        let folded = !options.case_sensitive;
        let stopwords = if options.remove_stopwords && folded { stopwords(options.language) } else { None };
        let pipeline = Pipeline::new(AnalysisOptions {
            tokenizer: TokenizerOptions::UAX29Word(Default::default()),
            maximum_token_length: Some(bytes_max),
            case_sensitive: options.case_sensitive,
            stopword_removal: stopwords.map(StopwordRemoval::ForLanguage),
            stemming: (options.stemming && folded).then(|| stemming(options.language)),
            ascii_folding: options.ascii_folding,
        });
        Analyzer { pipeline: Some(pipeline), buffer: ReusableBuffer::new(), bytes_max, positions }
    }

    /// The terms of a string or string array, with positions if the column keeps them; other values have none.
    pub fn analyze(&mut self, value: &Value) -> DocTerms {
        let (mut text, mut ends) = (String::new(), Vec::new());
        self.tokens(value, |token| {
            text.push_str(token);
            ends.push(text.len());
            true
        });
        let mut begin = 0;
        let mut tokens: Vec<&str> = Vec::with_capacity(ends.len());
        for end in ends {
            tokens.push(text.get(begin..end).unwrap_or_default());
            begin = end;
        }
        if self.positions { DocTerms::with_positions(&tokens) } else { DocTerms::from_tokens(&mut tokens) }
    }

    /// Whether a string or string array has these tokens one after another; the last is a prefix where `last_as_prefix` says
    /// so. Reads no further than that is known. `step` is told how many tokens are compared next, and may end it.
    pub fn has_sequence<E>(
        &mut self,
        value: &Value,
        asked: &[String],
        last_as_prefix: bool,
        mut step: impl FnMut(usize) -> Result<(), E>,
    ) -> Result<bool, E> {
        let Some((last, init)) = asked.split_last() else { return Ok(true) };
        let is_last = |token: &str| if last_as_prefix { token.starts_with(last.as_str()) } else { token == last };
        // How many tokens each sequence that may go on has so far.
        let (mut begun, mut found, mut ended) = (Vec::new(), false, Ok(()));
        self.tokens(value, |token| {
            begun.push(0);
            ended = step(begun.len());
            if ended.is_err() {
                return false;
            }
            begun.retain_mut(|length| {
                *length += 1;
                match init.get(*length - 1) {
                    Some(expected) => token == expected,
                    None => {
                        found |= is_last(token);
                        false
                    }
                }
            });
            !found
        });
        ended.map(|()| found)
    }

    /// Calls `each` with the tokens of a string or string array in order until it says false; other values have none.
    fn tokens(&mut self, value: &Value, each: impl FnMut(&str) -> bool) {
        match value {
            Value::String(text) => self.run(std::iter::once(text.as_str()), each),
            Value::Strings(texts) => self.run(texts.iter().map(String::as_str), each),
            _ => {}
        }
    }

    /// Calls `each` with every token of a text and the place that it was made of. Tokens that are given have no place.
    pub fn places(&mut self, text: &str, mut each: impl FnMut(&str, Range<usize>)) {
        let bytes_max = self.bytes_max;
        let Some(pipeline) = &self.pipeline else { return };
        pipeline.analyze(text, &mut self.buffer, |token| {
            if token.text.len() <= bytes_max {
                each(token.text, token.byte_range);
            }
            true
        });
    }

    /// Whether a query operand may be a string; a column of tokens takes arrays only.
    pub fn takes_strings(&self) -> bool {
        self.pipeline.is_some()
    }

    /// The tokens of a query operand in order, repeats included: a string or an array of strings; an array only for
    /// `pre_tokenized_array`.
    pub fn query_tokens(&mut self, operand: &Json) -> Result<Vec<String>> {
        let mut out = Vec::new();
        match operand {
            Json::String(text) if self.pipeline.is_some() => {
                self.run(std::iter::once(text.as_str()), |token| {
                    out.push(token.to_owned());
                    true
                });
            }
            Json::Array(items) => {
                let texts: Option<Vec<&str>> = items.iter().map(Json::as_str).collect();
                let texts = texts.ok_or_else(|| self.wrong_operand(operand))?;
                self.run(texts.into_iter(), |token| {
                    out.push(token.to_owned());
                    true
                });
            }
            _ => return Err(self.wrong_operand(operand)),
        }
        Ok(out)
    }

    fn wrong_operand(&self, operand: &Json) -> Error {
        let expected = match self.pipeline {
            Some(_) => "a string or an array of strings",
            None => "an array of strings for tokenizer pre_tokenized_array",
        };
        let got = match operand {
            Json::Null => "null",
            Json::Bool(_) => "a bool",
            Json::Number(_) => "a number",
            Json::String(_) => "a string",
            Json::Array(_) => "an array with other values",
            Json::Object(_) => "an object",
        };
        Error::invalid(format!("full-text query: expected {expected}, got {got}"))
    }

    fn run<'a>(&mut self, mut inputs: impl Iterator<Item = &'a str>, mut each: impl FnMut(&str) -> bool) {
        let bytes_max = self.bytes_max;
        match &self.pipeline {
            Some(pipeline) => pipeline.analyze_inputs(inputs, &mut self.buffer, |token| {
                // The tokenizer counts characters, the contract bytes.
                token.text.len() > bytes_max || each(token.text)
            }),
            None => {
                inputs.all(|token| token.len() > bytes_max || each(token));
            }
        }
    }
}

fn stopwords(language: Language) -> Option<LanguageWithStopwords> {
    Some(match language {
        Language::Danish => LanguageWithStopwords::Danish,
        Language::Dutch => LanguageWithStopwords::Dutch,
        Language::English => LanguageWithStopwords::English,
        Language::Finnish => LanguageWithStopwords::Finnish,
        Language::French => LanguageWithStopwords::French,
        Language::German => LanguageWithStopwords::German,
        Language::Hungarian => LanguageWithStopwords::Hungarian,
        Language::Italian => LanguageWithStopwords::Italian,
        Language::Norwegian => LanguageWithStopwords::Norwegian,
        Language::Portuguese => LanguageWithStopwords::Portuguese,
        Language::Russian => LanguageWithStopwords::Russian,
        Language::Spanish => LanguageWithStopwords::Spanish,
        Language::Swedish => LanguageWithStopwords::Swedish,
        Language::Arabic | Language::Greek | Language::Romanian | Language::Tamil | Language::Turkish => return None,
    })
}

fn stemming(language: Language) -> StemmingLanguage {
    match language {
        Language::Arabic => StemmingLanguage::Arabic,
        Language::Danish => StemmingLanguage::Danish,
        Language::Dutch => StemmingLanguage::Dutch,
        Language::English => StemmingLanguage::English,
        Language::Finnish => StemmingLanguage::Finnish,
        Language::French => StemmingLanguage::French,
        Language::German => StemmingLanguage::German,
        Language::Greek => StemmingLanguage::Greek,
        Language::Hungarian => StemmingLanguage::Hungarian,
        Language::Italian => StemmingLanguage::Italian,
        Language::Norwegian => StemmingLanguage::Norwegian,
        Language::Portuguese => StemmingLanguage::Portuguese,
        Language::Romanian => StemmingLanguage::Romanian,
        Language::Russian => StemmingLanguage::Russian,
        Language::Spanish => StemmingLanguage::Spanish,
        Language::Swedish => StemmingLanguage::Swedish,
        Language::Tamil => StemmingLanguage::Tamil,
        Language::Turkish => StemmingLanguage::Turkish,
    }
}

#[cfg(test)]
mod tests {
    use super::Analyzer;
    use crate::model::schema::{FullText, Tokenizer};
    use crate::model::value::Value;
    use serde_json::json;

    #[test]
    fn text_becomes_counted_terms() {
        let terms = Analyzer::new(&FullText::default()).analyze(&Value::String("Swim, fish! swim".into()));
        assert_eq!(terms.length(), 3);
        assert_eq!(terms.iter().collect::<Vec<_>>(), [("fish", 1), ("swim", 2)]);
    }

    #[test]
    fn a_string_is_no_query_for_a_pre_tokenized_array() {
        let options = FullText { tokenizer: Tokenizer::PreTokenizedArray, ..FullText::default() };
        let mut analyzer = Analyzer::new(&options);
        assert!(analyzer.query_tokens(&json!("a b")).is_err());
        assert_eq!(analyzer.query_tokens(&json!(["a B", "c"])).unwrap(), vec!["a B", "c"]);
        assert!(Analyzer::new(&FullText::default()).query_tokens(&json!(1)).is_err());
    }

    #[test]
    fn stemming_with_case_kept_is_no_panic() {
        let options =
            FullText { case_sensitive: true, stemming: true, remove_stopwords: true, ..FullText::default() };
        assert_eq!(Analyzer::new(&options).analyze(&Value::String("The fishes".into())).length(), 2);
    }

    #[test]
    fn tokens_longer_than_the_bound_in_bytes_are_dropped() {
        let options = FullText { max_token_length: 5, ..FullText::default() };
        let terms = Analyzer::new(&options).analyze(&Value::String("ab éééé abcdef abcde".into()));
        assert_eq!(terms.iter().map(|(term, _)| term).collect::<Vec<_>>(), ["ab", "abcde"]);
    }

    #[test]
    fn given_tokens_that_no_index_can_hold_are_dropped() {
        let options = FullText { tokenizer: Tokenizer::PreTokenizedArray, ..FullText::default() };
        let tokens = vec!["a".repeat(super::TERM_BYTES_MAX), "a".repeat(super::TERM_BYTES_MAX + 1), "b".into()];
        let terms = Analyzer::new(&options).analyze(&Value::Strings(tokens));
        assert_eq!((terms.length(), terms.count()), (2, 2));
        let mut builder = crate::segment::text::reader::TextBuilder::new();
        builder.add(0, &terms);
        assert!(builder.finish(1).is_ok());
    }
}
