//! `shoal copy`: a namespace beside another, sharing its objects or, with `--deep`, nothing.

use std::io::IsTerminal;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use hyper::Method;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};

use super::http::{Client, Target, namespace};
use super::output;
use crate::error::{Error, Result};

/// How often a copy under way is asked after.
const POLL_PAUSE: Duration = Duration::from_millis(200);

#[derive(Args)]
pub struct Copy {
    /// The namespace to copy; org/project/name for one of another project, with --deep
    source: String,
    /// The copy's name, which must be free
    #[arg(value_parser = namespace)]
    copy: String,
    /// Share no object with the source: documents are copied
    #[arg(long)]
    deep: bool,
    #[command(flatten)]
    target: Target,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl Copy {
    pub(super) async fn run(self) -> Result<()> {
        let mut client = Client::new(&self.target)?;
        let path = format!("/v1/namespaces/{}", self.copy);
        let body = json!({"source": self.source, "deep": self.deep}).to_string();
        let begun = client.json(Method::POST, &format!("{path}/copy"), body.into(), None).await?;
        let done = match begun.get("token").and_then(Value::as_str) {
            None => begun,
            Some(token) => finished(&mut client, &format!("{path}/operations/{token}")).await?,
        };
        if self.json {
            return output::print_json(&done);
        }
        let documents = done.get("rows_affected").and_then(Value::as_u64).unwrap_or(0);
        output::print(&format!("{documents} documents copied to {}\n", self.copy))
    }
}

/// Waits for the end of a copy in the background.
async fn finished(client: &mut Client, path: &str) -> Result<Value> {
    let bar = if std::io::stderr().is_terminal() { ProgressBar::new(0) } else { ProgressBar::hidden() };
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {human_pos} of {human_len} documents, {elapsed}") {
        bar.set_style(style);
    }
    loop {
        let status = client.json(Method::GET, path, Bytes::new(), None).await?;
        if let Some(result) = status.get("result") {
            bar.finish_and_clear();
            if let Some(done) = result.get("success") {
                return Ok(done.clone());
            }
            let why = result.pointer("/error/detail/error").and_then(Value::as_str).unwrap_or("no explanation");
            return Err(Error::internal(format!("the copy failed: {why}")));
        }
        let number = |pointer| status.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
        bar.set_length(number("/progress/of"));
        bar.set_position(number("/progress/documents"));
        tokio::time::sleep(POLL_PAUSE).await;
    }
}
