//! Turns text into terms: the tokenizer `word_v4` with its filters, or the array's strings as they are.

use std::collections::BTreeMap;

use alyze::analyze::{
    AnalysisOptions, Analyzer as Pipeline, LanguageWithStopwords, ReusableBuffer, StemmingLanguage, StopwordRemoval,
    TokenizerOptions,
};
use serde_json::Value as Json;

use crate::error::{Error, Result};
use crate::model::schema::{FullText, Language, Tokenizer};
use crate::model::value::Value;

/// Tokenizes values and queries of one column.
pub struct Analyzer {
    /// `None`: the strings are tokens already.
    pipeline: Option<Pipeline<'static>>,
}

/// A document's terms in one column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DocTerms {
    /// How many tokens the document has.
    pub length: u32,
    /// Each term once, in bytewise order, with its ascending positions.
    pub terms: Vec<(Box<str>, Vec<u32>)>,
}

impl Analyzer {
    pub fn new(options: &FullText) -> Self {
        if options.tokenizer == Tokenizer::PreTokenizedArray {
            return Analyzer { pipeline: None };
        }
        // Stop words and stems are lower case: where case counts, neither can apply.
        let folded = !options.case_sensitive;
        let stopwords = if options.remove_stopwords && folded { stopwords(options.language) } else { None };
        let pipeline = Pipeline::new(AnalysisOptions {
            tokenizer: TokenizerOptions::UAX29Word(Default::default()),
            maximum_token_length: Some(options.max_token_length as usize),
            case_sensitive: options.case_sensitive,
            stopword_removal: stopwords.map(StopwordRemoval::ForLanguage),
            stemming: (options.stemming && folded).then(|| stemming(options.language)),
            ascii_folding: options.ascii_folding,
        });
        Analyzer { pipeline: Some(pipeline) }
    }

    /// Calls `each` with every token of a string or string array and its position; other values have none.
    pub fn tokens(&self, value: &Value, each: impl FnMut(&str, u32)) {
        match value {
            Value::String(text) => self.run(std::iter::once(text.as_str()), each),
            Value::Strings(texts) => self.run(texts.iter().map(String::as_str), each),
            _ => {}
        }
    }

    /// The tokens of a query operand in order, repeats included: a string or an array of strings; an array only for
    /// `pre_tokenized_array`.
    pub fn query_tokens(&self, operand: &Json) -> Result<Vec<String>> {
        let mut out = Vec::new();
        match operand {
            Json::String(text) if self.pipeline.is_some() => {
                self.run(std::iter::once(text.as_str()), |token, _| out.push(token.to_owned()));
            }
            Json::Array(items) => {
                let texts: Option<Vec<&str>> = items.iter().map(Json::as_str).collect();
                let texts = texts.ok_or_else(|| self.wrong_operand(operand))?;
                self.run(texts.into_iter(), |token, _| out.push(token.to_owned()));
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

    fn run<'a>(&self, inputs: impl Iterator<Item = &'a str>, mut each: impl FnMut(&str, u32)) {
        match &self.pipeline {
            Some(pipeline) => pipeline.analyze_inputs(inputs, &mut ReusableBuffer::new(), |token| {
                each(token.text, token.position as u32);
                true
            }),
            None => inputs.zip(0..).for_each(|(token, position)| each(token, position)),
        }
    }
}

/// The terms of `value` under `options`.
pub fn analyze(options: &FullText, value: &Value) -> DocTerms {
    let mut terms: BTreeMap<Box<str>, Vec<u32>> = BTreeMap::new();
    let mut length = 0;
    Analyzer::new(options).tokens(value, |token, position| {
        length += 1;
        match terms.get_mut(token) {
            Some(positions) => positions.push(position),
            None => {
                terms.insert(token.into(), vec![position]);
            }
        }
    });
    DocTerms { length, terms: terms.into_iter().collect() }
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
    use super::{Analyzer, analyze};
    use crate::model::schema::{FullText, Tokenizer};
    use crate::model::value::Value;
    use serde_json::json;

    #[test]
    fn terms_are_sorted_and_keep_their_positions() {
        let terms = analyze(&FullText::default(), &Value::String("Swim, fish! swim".into()));
        assert_eq!(terms.length, 3);
        assert_eq!(terms.terms, vec![("fish".into(), vec![1]), ("swim".into(), vec![0, 2])]);
    }

    #[test]
    fn a_string_is_no_query_for_a_pre_tokenized_array() {
        let options = FullText { tokenizer: Tokenizer::PreTokenizedArray, ..FullText::default() };
        let analyzer = Analyzer::new(&options);
        assert!(analyzer.query_tokens(&json!("a b")).is_err());
        assert_eq!(analyzer.query_tokens(&json!(["a B", "c"])).unwrap(), vec!["a B", "c"]);
        assert!(Analyzer::new(&FullText::default()).query_tokens(&json!(1)).is_err());
    }

    #[test]
    fn stemming_with_case_kept_is_no_panic() {
        let options =
            FullText { case_sensitive: true, stemming: true, remove_stopwords: true, ..FullText::default() };
        assert_eq!(analyze(&options, &Value::String("The fishes".into())).length, 2);
    }
}
