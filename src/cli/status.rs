//! `shoal status`: how the daemon is, or one namespace.

use bytes::Bytes;
use clap::Args;
use hyper::Method;

use super::http::{Client, Target, namespace};
use super::output;
use crate::error::Result;

#[derive(Args)]
pub struct Status {
    /// The namespace; without it, the daemon
    #[arg(value_parser = namespace)]
    namespace: Option<String>,
    #[command(flatten)]
    target: Target,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Status {
    pub(super) async fn run(self) -> Result<()> {
        let path = match &self.namespace {
            None => "/v1/status".to_owned(),
            Some(namespace) => format!("/v1/namespaces/{namespace}/status"),
        };
        let status = Client::new(&self.target)?.json(Method::GET, &path, Bytes::new(), None).await?;
        if self.json { output::print_json(&status) } else { output::print_pairs(&status) }
    }
}
