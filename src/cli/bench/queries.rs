//! The queries of a benchmark: lines of a file, or vectors of the namespace itself, and the bodies that ask them.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use bytes::Bytes;
use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::cli::http::Client;
use crate::cli::query::{by_words, fused};
use crate::error::{Context, Error, Result};
use crate::model::query::Recall;

/// How much of a file of queries is read.
const FILE_BYTES_MAX: u64 = 256 << 20;
/// Vectors that are asked for at once: the daemon compares each with all others, and ends what takes too long.
const SAMPLE_AT_ONCE: usize = 10;
/// How often in a row a sample may bring nothing new before the namespace has no more.
const SAMPLES_IN_VAIN_MAX: u32 = 3;

/// Where the queries are from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    File,
    Namespace,
}

/// One query.
#[derive(Clone, Debug, Default, Deserialize, PartialEq)]
pub struct Query {
    pub vector: Option<Value>,
    pub text: Option<String>,
    pub filters: Option<Value>,
    /// The row that the vector was taken from, which is no answer.
    #[serde(skip)]
    pub own: Option<Value>,
}

/// How queries are asked.
pub struct Asking<'a> {
    pub namespace: &'a str,
    pub attribute: &'a str,
    pub words_in: &'a [String],
    pub limit: u32,
    pub hybrid: bool,
}

impl Asking<'_> {
    /// The path of a search.
    pub fn path(&self) -> String {
        format!("/v2/namespaces/{}/query", self.namespace)
    }

    /// Whether a query's answer is the nearest rows and nothing else, so that equal distances make equal answers.
    pub fn is_nearest(&self, query: &Query) -> bool {
        query.vector.is_some() && !(self.hybrid && query.text.is_some())
    }

    /// The body that asks `query`. Its answer has ids and scores only: what an application shows costs the same at any recall.
    pub fn body(&self, query: &Query, recall: Recall) -> Result<Bytes> {
        // The row that the vector is from is found as well, and left out of the answer.
        let limit = self.limit + u32::from(query.own.is_some());
        let one = |rank_by: Value, limit: u32| {
            let mut body = json!({ "rank_by": rank_by, "limit": limit });
            if let Some(filter) = &query.filters {
                body["filters"] = filter.clone();
            }
            body
        };
        let near = |vector: &Value, limit| {
            let mut body = one(json!([self.attribute, "ANN", vector]), limit);
            body["recall"] = json!(recall);
            body
        };
        let words = |text: &str| by_words(self.words_in, text);
        let body = match (&query.vector, &query.text) {
            (Some(vector), Some(text)) if self.hybrid => {
                fused(limit, |depth| [one(words(text), depth), near(vector, depth)])
            }
            (Some(vector), _) => near(vector, limit),
            (None, Some(text)) => one(words(text), limit),
            (None, None) => return Err(Error::internal("a query with neither a vector nor words")),
        };
        Ok(body.to_string().into())
    }

    /// Vectors of matching rows, each with the same chance and at most once, as the recall endpoint draws them. Fewer than
    /// `count` where the namespace has no more.
    pub async fn sample(&self, client: &mut Client, count: usize, filter: Option<&Value>) -> Result<Vec<Query>> {
        let path = format!("/v1/namespaces/{}/_debug/recall", self.namespace);
        let (mut queries, mut drawn, mut in_vain) = (Vec::new(), HashSet::new(), 0);
        while queries.len() < count && in_vain < SAMPLES_IN_VAIN_MAX {
            let mut body = json!({"num": SAMPLE_AT_ONCE, "top_k": 1, "include_ground_truth": true, "recall": 0.5});
            if let Some(filter) = filter {
                body["filters"] = filter.clone();
            }
            let mut answer = client.json(Method::POST, &path, body.to_string().into(), None).await?;
            in_vain += 1;
            for truth in answer["ground_truth"].as_array_mut().into_iter().flatten() {
                let own = truth["nearest_neighbors"][0]["id"].take();
                if queries.len() < count && drawn.insert(own.to_string()) {
                    in_vain = 0;
                    let vector = Some(truth["query_vector"].take());
                    queries.push(Query { vector, text: None, filters: filter.cloned(), own: Some(own) });
                }
            }
        }
        if queries.is_empty() {
            return Err(Error::invalid(format!("namespace {}: no row has a vector to search with", self.namespace))
                .with_hint("--queries FILE names queries; see `shoal bench --help`"));
        }
        Ok(queries)
    }
}

/// The first `count` queries of a file. `filter` is that of queries without their own.
pub fn read(path: &Path, count: usize, filter: Option<&Value>) -> Result<Vec<Query>> {
    let name = path.display();
    let input: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(File::open(path).context(|| format!("open {name}"))?)
    };
    let queries = parse(BufReader::new(input.take(FILE_BYTES_MAX)), count, filter)
        .map_err(|error| error.context(format!("queries of {name}")))?;
    if queries.is_empty() {
        return Err(Error::invalid(format!("{name} has no queries, expected one JSON object a line")));
    }
    Ok(queries)
}

fn parse(input: impl BufRead, count: usize, filter: Option<&Value>) -> Result<Vec<Query>> {
    let mut queries = Vec::new();
    for (number, line) in input.lines().enumerate() {
        let line = line.context(|| format!("read line {}", number + 1))?;
        if line.trim().is_empty() {
            continue;
        }
        let wrong = |why: &dyn std::fmt::Display| Error::invalid(format!("line {}: {why}", number + 1));
        let mut query: Query = serde_json::from_str(&line)
            .map_err(|error| wrong(&format!("expected an object with \"vector\" or \"text\": {error}")))?;
        if query.vector.is_none() && query.text.is_none() {
            return Err(wrong(&"expected an object with \"vector\" or \"text\", it has neither"));
        }
        if query.filters.is_none() {
            query.filters = filter.cloned();
        }
        queries.push(query);
        if queries.len() == count {
            break;
        }
    }
    Ok(queries)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asking(words_in: &[String], hybrid: bool) -> Asking<'_> {
        Asking { namespace: "docs", attribute: "vector", words_in, limit: 3, hybrid }
    }

    fn body(query: &str, hybrid: bool) -> Value {
        let words_in = ["text".to_owned()];
        let query = parse(query.as_bytes(), 1, None).unwrap().remove(0);
        let body = asking(&words_in, hybrid).body(&query, Recall::of(0.9).unwrap()).unwrap();
        serde_json::from_slice(&body).unwrap()
    }

    #[test]
    fn a_vector_is_asked_with_the_recall_and_words_as_they_are() {
        let query = r#"{"vector": [1, 2], "text": "chess", "filters": ["a", "Eq", 1]}"#;
        assert_eq!(
            body(query, false),
            json!({"rank_by": ["vector", "ANN", [1, 2]], "limit": 3, "recall": 0.9, "filters": ["a", "Eq", 1]})
        );
        let both = body(query, true);
        assert_eq!(both["queries"][0]["rank_by"], json!(["text", "BM25", "chess"]));
        assert_eq!((&both["queries"][1]["recall"], &both["queries"][1]["limit"]), (&json!(0.9), &json!(50)));
        assert_eq!(body(r#"{"text": "chess"}"#, true), json!({"rank_by": ["text", "BM25", "chess"], "limit": 3}));
    }

    #[test]
    fn a_row_that_is_left_out_is_asked_for_besides() {
        let query = Query { vector: Some(json!([1])), own: Some(json!(7)), ..Query::default() };
        let body = asking(&[], false).body(&query, Recall::EXACT).unwrap();
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&body["limit"], &body["recall"]), (&json!(4), &json!("exact")));
    }

    #[test]
    fn a_line_that_is_no_query_is_named() {
        let error = |text: &str| parse(text.as_bytes(), 9, None).unwrap_err().message().to_owned();
        assert!(error("{\"text\": \"a\"}\n\n[1]").starts_with("line 3: expected an object"), "{}", error("[1]"));
        assert!(error("{\"txt\": \"a\"}").ends_with("it has neither"));
    }

    #[test]
    fn the_filter_of_all_is_that_of_queries_without_one() {
        let lines = "{\"text\": \"a\"}\n{\"text\": \"b\", \"filters\": 1}\n{\"text\": \"c\"}";
        let queries = parse(lines.as_bytes(), 2, Some(&json!(2))).unwrap();
        let filters: Vec<_> = queries.iter().map(|query| query.filters.clone().unwrap()).collect();
        assert_eq!(filters, [json!(2), json!(1)]);
    }
}
