//! `shoal bench`: recall against latency on a namespace's own data, so that `search.recall` can be chosen.
//!
//! 1. Queries are read from a file, or are vectors of the namespace, each of which is left out of what it finds.
//! 2. Each is asked at every wanted recall in turn, over one kept-alive connection, so that whatever else the machine does
//!    hits all settings alike. What the exact search finds is the truth for the others.
//! 3. All are asked again by several clients at once.

mod measure;
mod queries;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use hyper::Method;
use serde_json::Value;

use self::measure::{Measurement, Several};
use self::queries::Source;
use super::http::{Client, Target, namespace};
use super::output;
use super::query::parse;
use crate::error::{Error, Result};
use crate::model::query::Recall;

/// What is measured unless the user says otherwise; exact search is always measured.
const RECALLS: &str = "0.8,0.9,0.95,0.97,0.99";
/// How many recalls one run compares.
const RECALLS_MAX: usize = 16;

#[derive(Args)]
pub struct Bench {
    /// The namespace
    #[arg(value_parser = namespace)]
    namespace: String,
    /// Queries, one JSON object a line: "vector" or "text" (or both), and "filters" where wanted; - is standard input.
    /// Without it, vectors of the namespace are the queries
    #[arg(long, value_name = "FILE")]
    queries: Option<PathBuf>,
    /// How many queries: the first ones of the file, or so many vectors
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    count: u32,
    /// How many rows a query asks for
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    limit: u32,
    /// The attribute of the queries' vectors
    #[arg(long, value_name = "ATTRIBUTE", default_value = "vector")]
    attribute: String,
    /// Attributes to look for words in
    #[arg(long = "in", value_name = "ATTRIBUTE", value_delimiter = ',', default_value = "text")]
    attributes: Vec<String>,
    /// Fuse the two rankings of queries that have a vector and words; without it the vector alone is searched
    #[arg(long)]
    hybrid: bool,
    /// Filter of queries without their own, as the API takes it
    #[arg(long, value_name = "JSON")]
    filter: Option<String>,
    /// The recalls to compare, each from 0.5 to 1
    #[arg(long, value_name = "RECALL", value_delimiter = ',', default_value = RECALLS, value_parser = recall)]
    recalls: Vec<Recall>,
    /// Clients that ask at once in the last part
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=16))]
    clients: u16,
    /// How long they ask at each recall
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=600))]
    seconds: u16,
    #[command(flatten)]
    target: Target,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What was measured, and on what.
struct Report {
    namespace: String,
    status: Value,
    source: Source,
    queries: usize,
    limit: u32,
    filter: Option<Value>,
    clients: u16,
    measured: Vec<Measurement>,
}

impl Bench {
    pub(super) async fn run(self) -> Result<()> {
        let filter = self.filter.as_deref().map(|filter| parse("--filter", filter)).transpose()?;
        let mut client = Client::new(&self.target)?;
        let path = format!("/v1/namespaces/{}/status", self.namespace);
        let status = client.json(Method::GET, &path, Bytes::new(), None).await?;
        let asking = queries::Asking {
            namespace: &self.namespace,
            attribute: &self.attribute,
            words_in: &self.attributes,
            limit: self.limit,
            hybrid: self.hybrid,
        };
        let (queries, source) = match &self.queries {
            Some(file) => (queries::read(file, self.count as usize, filter.as_ref())?, Source::File),
            None if self.hybrid => {
                return Err(Error::invalid(
                    "--hybrid needs --queries FILE: a namespace's vectors come without words",
                ));
            }
            None => (asking.sample(&mut client, self.count as usize, filter.as_ref()).await?, Source::Namespace),
        };
        let settings = self.settings(queries.iter().any(|query| query.vector.is_some()))?;
        let several = Several { clients: self.clients, time: Duration::from_secs(self.seconds.into()) };
        let measured = measure::measure(&self.target, &asking, &queries, &settings, &several).await?;
        let report = Report {
            namespace: self.namespace,
            status,
            source,
            queries: queries.len(),
            limit: self.limit,
            filter,
            clients: self.clients,
            measured,
        };
        if self.json { output::print_json(&report.json()) } else { output::print(&report.text()) }
    }

    /// The recalls to measure, lowest first; exact search is always among them. It is alone where no query has a vector.
    fn settings(&self, by_vector: bool) -> Result<Vec<Recall>> {
        if self.recalls.len() > RECALLS_MAX {
            let got = self.recalls.len();
            return Err(Error::invalid(format!("--recalls: expected at most {RECALLS_MAX} recalls, got {got}")));
        }
        let mut settings = if by_vector { self.recalls.clone() } else { Vec::new() };
        settings.push(Recall::EXACT);
        settings.sort_by(|a, b| a.share().total_cmp(&b.share()));
        settings.dedup();
        Ok(settings)
    }
}

fn recall(text: &str) -> std::result::Result<Recall, String> {
    let recall = if text == "exact" { Some(Recall::EXACT) } else { text.parse().ok().and_then(Recall::of) };
    recall.ok_or_else(|| "expected a number from 0.5 to 1, or exact".to_owned())
}
