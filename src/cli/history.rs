//! `shoal history`, `shoal tag`, `shoal undelete`: the past of a namespace.

use bytes::Bytes;
use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use super::http::{Client, Target, namespace};
use super::output;
use super::stream::percent;
use crate::error::Result;

#[derive(Args)]
pub struct History {
    /// The namespace
    #[arg(value_parser = namespace)]
    namespace: String,
    #[command(flatten)]
    target: Target,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl History {
    pub(super) async fn run(self) -> Result<()> {
        let mut client = Client::new(&self.target)?;
        let path = |what: &str| format!("/v1/namespaces/{}/{what}", self.namespace);
        let mut answer = client.json(Method::GET, &path("history"), Bytes::new(), None).await?;
        let tags = client.json(Method::GET, &path("tags"), Bytes::new(), None).await?;
        answer["tags"] = tags["tags"].clone();
        if self.json {
            return output::print_json(&answer);
        }
        let rows = |key: &str| answer[key].as_array().cloned().unwrap_or_default();
        output::print(&output::rows_table(&rows("history")))?;
        let tags: Vec<Value> = rows("tags");
        if tags.is_empty() { Ok(()) } else { output::print(&format!("\n{}", output::rows_table(&tags))) }
    }
}

#[derive(Args)]
pub struct Tag {
    /// The namespace
    #[arg(value_parser = namespace)]
    namespace: String,
    /// The tag
    tag: String,
    /// The state to tag; the newest one when not given
    #[arg(long, value_name = "STATE")]
    as_of: Option<String>,
    /// Delete the tag
    #[arg(long, conflicts_with = "as_of")]
    delete: bool,
    #[command(flatten)]
    target: Target,
}

impl Tag {
    pub(super) async fn run(self) -> Result<()> {
        let path = format!("/v1/namespaces/{}/tags/{}", self.namespace, percent(&self.tag));
        let mut client = Client::new(&self.target)?;
        if self.delete {
            client.json(Method::DELETE, &path, Bytes::new(), None).await?;
            return output::print(&format!("tag {} is deleted\n", self.tag));
        }
        let body = self.as_of.map_or_else(|| json!({}), |as_of| json!({ "as_of": as_of }));
        let tag = client.json(Method::PUT, &path, body.to_string().into(), None).await?;
        output::print(&format!("{} is generation {}, commit {}\n", self.tag, tag["generation"], tag["commit"]))
    }
}

#[derive(Args)]
pub struct Revert {
    /// The namespace
    #[arg(value_parser = namespace)]
    namespace: String,
    /// The state to go back to: a generation, a commit, a tag, or a time such as 2026-01-31T12:00:00Z
    state: String,
    #[command(flatten)]
    target: Target,
}

impl Revert {
    pub(super) async fn run(self) -> Result<()> {
        let path = format!("/v1/namespaces/{}/revert", self.namespace);
        let body = json!({ "as_of": self.state }).to_string();
        let done = Client::new(&self.target)?.patient(Method::POST, &path, body.into()).await?;
        let (written, deleted) = (&done["documents_written"], &done["documents_deleted"]);
        output::print(&format!("{written} documents are written again, {deleted} are deleted\n"))
    }
}

#[derive(Args)]
pub struct Undelete {
    /// The deleted namespace; without it, what can be had back is listed
    #[arg(value_parser = namespace)]
    namespace: Option<String>,
    /// Which of several of that name; the one deleted last when not given
    #[arg(long, value_name = "UUID")]
    nsid: Option<String>,
    #[command(flatten)]
    target: Target,
}

impl Undelete {
    pub(super) async fn run(self) -> Result<()> {
        let mut client = Client::new(&self.target)?;
        let Some(namespace) = self.namespace else {
            let answer = client.json(Method::GET, "/v1/deleted", Bytes::new(), None).await?;
            let rows = answer["deleted"].as_array().cloned().unwrap_or_default();
            return output::print(&output::rows_table(&rows));
        };
        let body = self.nsid.map_or_else(|| json!({}), |nsid| json!({ "nsid": nsid }));
        let path = format!("/v1/namespaces/{namespace}/undelete");
        client.json(Method::POST, &path, body.to_string().into(), None).await?;
        output::print(&format!("{namespace} is back\n"))
    }
}
