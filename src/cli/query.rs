//! `shoal query`: a search by words, by a vector, by both, or a query body as the API takes it.

use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use super::http::{Client, Target, namespace};
use super::output;
use crate::error::{Error, Result};

#[derive(Args)]
pub struct Query {
    /// The namespace
    #[arg(value_parser = namespace)]
    namespace: String,
    /// Words to look for
    #[arg(long, value_name = "WORDS")]
    text: Option<String>,
    /// Attributes to look for the words in
    #[arg(long = "in", value_name = "ATTRIBUTE", value_delimiter = ',', default_value = "text")]
    attributes: Vec<String>,
    /// Vector to look near, a JSON array; together with --text the two rankings are fused
    #[arg(long, value_name = "JSON")]
    vector: Option<String>,
    /// Filter as the API takes it, such as '["section","Eq","games"]'
    #[arg(long, value_name = "JSON")]
    filter: Option<String>,
    /// How many rows
    #[arg(long, default_value_t = 10)]
    limit: u32,
    /// Attributes to show; all but vectors when not given
    #[arg(long, value_name = "ATTRIBUTE", value_delimiter = ',')]
    show: Vec<String>,
    /// The whole query body as JSON
    #[arg(long, value_name = "JSON", conflicts_with_all = ["text", "vector", "filter"])]
    raw: Option<String>,
    #[command(flatten)]
    target: Target,
    /// Print the answer's JSON
    #[arg(long)]
    json: bool,
}

impl Query {
    pub(super) async fn run(self) -> Result<()> {
        let body = match &self.raw {
            Some(raw) => parse("--raw", raw)?,
            None => {
                let vector = self.vector.as_deref().map(|vector| parse("--vector", vector)).transpose()?;
                let filter = self.filter.as_deref().map(|filter| parse("--filter", filter)).transpose()?;
                search(self.text.as_deref(), &self.attributes, vector, filter, self.limit, &self.show)?
            }
        };
        let path = format!("/v2/namespaces/{}/query", self.namespace);
        let answer = Client::new(&self.target)?.json(Method::POST, &path, body.to_string().into(), None).await?;
        if self.json { output::print_json(&answer) } else { print_answer(&answer) }
    }
}

/// What a flag says in JSON.
pub(super) fn parse(flag: &str, text: &str) -> Result<Value> {
    serde_json::from_str(text).map_err(|error| Error::invalid(format!("{flag}: expected JSON: {error}")))
}

/// The body of a search by words, a vector, or both (fused by reciprocal rank), or of a listing by id.
pub(super) fn search(
    text: Option<&str>,
    attributes: &[String],
    vector: Option<Value>,
    filter: Option<Value>,
    limit: u32,
    show: &[String],
) -> Result<Value> {
    let words = text.map(|text| by_words(attributes, text));
    let near = vector.map(|vector| json!(["vector", "ANN", vector]));
    let one = |rank_by: Value, limit: u32| {
        let mut query = json!({ "rank_by": rank_by, "limit": limit });
        if show.is_empty() {
            query["exclude_attributes"] = json!(["vector"]);
        } else {
            query["include_attributes"] = json!(show);
        }
        if let Some(filter) = &filter {
            query["filters"] = filter.clone();
        }
        query
    };
    Ok(match (words, near) {
        (Some(words), Some(near)) => fused(limit, |depth| [one(words, depth), one(near, depth)]),
        (Some(rank_by), None) | (None, Some(rank_by)) => one(rank_by, limit),
        (None, None) => one(json!(["id", "asc"]), limit),
    })
}

/// The ranking by words, of one attribute or of several together.
pub(super) fn by_words(attributes: &[String], text: &str) -> Value {
    match attributes {
        [one] => json!([one, "BM25", text]),
        many => json!(["Sum", many.iter().map(|attribute| json!([attribute, "BM25", text])).collect::<Vec<_>>()]),
    }
}

/// Two rankings fused by reciprocal rank; `rankings` makes them as deep as it is told.
pub(super) fn fused(limit: u32, rankings: impl FnOnce(u32) -> [Value; 2]) -> Value {
    // Each ranking goes deeper than the result, so that a row middling in both can come out ahead.
    let depth = limit.saturating_mul(5).clamp(50, 10_000);
    json!({ "queries": rankings(depth), "rerank_by": ["RRF"], "limit": limit })
}

fn print_answer(answer: &Value) -> Result<()> {
    let rows = rows_of(answer);
    match rows {
        Some(rows) if rows.is_empty() => output::print("no rows\n"),
        Some(rows) => output::print(&format!("{}\n", output::rows_table(rows))),
        // Aggregations and several results have no one table.
        None => output::print_json(answer),
    }
}

/// The rows of an answer with one result.
pub(super) fn rows_of(answer: &Value) -> Option<&Vec<Value>> {
    let one = match answer.get("results").and_then(Value::as_array) {
        Some(results) => match results.as_slice() {
            [one] => one,
            _ => return None,
        },
        None => answer,
    };
    one.get("rows").and_then(Value::as_array)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_a_vector_are_fused() {
        let body = search(Some("chess"), &["text".into()], Some(json!([1, 2])), None, 3, &[]).unwrap();
        assert_eq!(body["rerank_by"], json!(["RRF"]));
        assert_eq!(body["queries"][0]["rank_by"], json!(["text", "BM25", "chess"]));
        assert_eq!(body["queries"][1]["rank_by"], json!(["vector", "ANN", [1, 2]]));
    }

    #[test]
    fn several_attributes_are_summed() {
        let body = search(Some("a"), &["t".into(), "u".into()], None, None, 3, &["t".into()]).unwrap();
        assert_eq!(body["rank_by"], json!(["Sum", [["t", "BM25", "a"], ["u", "BM25", "a"]]]));
        assert_eq!(body["include_attributes"], json!(["t"]));
    }
}
