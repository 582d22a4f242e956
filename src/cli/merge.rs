//! `shoal merge`, `shoal diff`, `shoal conflicts`: changes between namespaces.

use std::io::Write;

use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use super::http::{Client, Target, namespace, refusal};
use super::output;
use super::stream::{download_by, percent};
use crate::error::{Error, Kind, Result};

#[derive(Args)]
pub struct Merge {
    /// The namespace whose changes are taken: NAME, or ORG/PROJECT/NAME
    source: String,
    /// The namespace that takes them
    #[arg(value_parser = namespace)]
    into: String,
    /// What becomes of documents that both changed: fail, lww, fields, fields-or-fail, ours, theirs, keep-both
    #[arg(long, default_value = "fail")]
    policy: String,
    /// Show what would happen
    #[arg(long)]
    dry_run: bool,
    /// Merge namespaces that have nothing in common
    #[arg(long)]
    allow_unrelated: bool,
    /// A past state of the source: generation, commit, tag or instant
    #[arg(long, value_name = "STATE")]
    as_of: Option<String>,
    #[command(flatten)]
    target: Target,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Merge {
    pub(super) async fn run(self) -> Result<()> {
        let path = format!("/v1/namespaces/{}/merge", self.into);
        let mut body = json!({
            "source": self.source,
            "policy": self.policy,
            "dry_run": self.dry_run,
            "allow_unrelated": self.allow_unrelated,
        });
        if let Some(state) = self.as_of {
            body["as_of"] = state.into();
        }
        let (status, bytes) = Client::new(&self.target)?.answer(Method::POST, &path, body.to_string().into()).await?;
        let answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        if answer.get("conflicts").is_none() {
            return Err(refusal(status, &bytes));
        }
        if self.json {
            output::print_json(&answer)?
        } else {
            print_report(&answer)?
        }
        if status.is_success() {
            return Ok(());
        }
        let text = answer["error"].as_str().unwrap_or("conflicts").to_owned();
        Err(Error::new(Kind::Conflict, text).with_hint(answer["hint"].as_str().unwrap_or_default()))
    }
}

fn print_report(answer: &Value) -> Result<()> {
    let listed = answer["conflicts"]["listed"].as_array().cloned().unwrap_or_default();
    let mut counts = answer.clone();
    if let Some(conflicts) = counts["conflicts"].as_object_mut() {
        conflicts.remove("listed");
    }
    for key in ["status", "error", "hint", "code", "retryable", "performance"] {
        counts.as_object_mut().and_then(|counts| counts.remove(key));
    }
    output::print_pairs(&counts)?;
    if listed.is_empty() { Ok(()) } else { output::print(&format!("\n{}\n", output::rows_table(&listed))) }
}

#[derive(Args)]
pub struct Diff {
    /// The old state: NAME, or ORG/PROJECT/NAME
    from: String,
    /// The new state
    #[arg(value_parser = namespace)]
    to: String,
    /// A past state of the old one: generation, commit, tag or instant
    #[arg(long, value_name = "STATE")]
    from_as_of: Option<String>,
    /// A past state of the new one
    #[arg(long, value_name = "STATE")]
    to_as_of: Option<String>,
    /// Attributes to show; all when not given
    #[arg(long, value_name = "ATTRIBUTE", value_delimiter = ',', conflicts_with = "hide")]
    show: Vec<String>,
    /// Attributes to leave out, such as vectors
    #[arg(long, value_name = "ATTRIBUTE", value_delimiter = ',')]
    hide: Vec<String>,
    #[command(flatten)]
    target: Target,
}

impl Diff {
    /// Prints a line of JSON for each document that differs.
    pub(super) async fn run(self) -> Result<()> {
        let mut body = json!({"against": self.from});
        if let Some(state) = self.from_as_of {
            body["against_as_of"] = state.into();
        }
        if let Some(state) = self.to_as_of {
            body["as_of"] = state.into();
        }
        if !self.show.is_empty() {
            body["include_attributes"] = self.show.into();
        } else if !self.hide.is_empty() {
            body["exclude_attributes"] = self.hide.into();
        }
        let path = format!("/v1/namespaces/{}/diff", self.to);
        let mut out = std::io::stdout().lock();
        download_by(&self.target, (Method::POST, &path, body.to_string().into()), &mut out).await?;
        Ok(out.flush()?)
    }
}

#[derive(Args)]
pub struct Conflicts {
    /// The namespace
    #[arg(value_parser = namespace)]
    namespace: String,
    /// Write a state that lost again, and acknowledge it
    #[arg(long, value_name = "TOKEN", conflicts_with = "ack")]
    replay: Option<String>,
    /// With --replay: write it as a document of its own under this id
    #[arg(long, requires = "replay")]
    id: Option<String>,
    /// Let go of a state that lost, or of `all`
    #[arg(long, value_name = "TOKEN")]
    ack: Option<String>,
    #[command(flatten)]
    target: Target,
}

impl Conflicts {
    /// Lists the states that lost, a line of JSON each, or settles one.
    pub(super) async fn run(self) -> Result<()> {
        let path = format!("/v1/namespaces/{}/conflicts", self.namespace);
        let mut client = Client::new(&self.target)?;
        if let Some(token) = self.replay {
            // An id that reads as a number is one.
            let id = self.id.map(|id| id.parse::<u64>().map_or_else(|_| Value::from(id), Value::from));
            let body = id.map_or(json!({}), |id| json!({ "id": id })).to_string();
            let answer =
                client.json(Method::POST, &format!("{path}/{}/replay", percent(&token)), body.into(), None).await?;
            return output::print_json(&answer);
        }
        if let Some(token) = self.ack {
            let path = if token == "all" { path } else { format!("{path}/{}", percent(&token)) };
            let answer = client.json(Method::DELETE, &path, Default::default(), None).await?;
            return output::print_pairs(&answer);
        }
        let mut out = std::io::stdout().lock();
        download_by(&self.target, (Method::GET, &path, Default::default()), &mut out).await?;
        Ok(out.flush()?)
    }
}
