//! `shoal export`: a namespace's documents at one state, to standard output or a file.

use std::io::Write;
use std::path::PathBuf;

use clap::Args;

use super::http::{Target, namespace};
use super::stream::{NewFile, download, percent};
use crate::error::Result;

#[derive(Args)]
pub struct Export {
    /// The namespace
    #[arg(value_parser = namespace)]
    namespace: String,
    /// Where to, a file that appears when all is in it; standard output when not given
    #[arg(long)]
    file: Option<PathBuf>,
    /// A past state: generation, commit, tag or instant
    #[arg(long, value_name = "STATE")]
    as_of: Option<String>,
    #[command(flatten)]
    target: Target,
}

impl Export {
    pub(super) async fn run(self) -> Result<()> {
        let mut path = format!("/v1/namespaces/{}/export", self.namespace);
        if let Some(state) = &self.as_of {
            path.push_str(&format!("?as_of={}", percent(state)));
        }
        let Some(file) = &self.file else {
            let mut out = std::io::stdout().lock();
            download(&self.target, &path, &mut out).await?;
            return Ok(out.flush()?);
        };
        let mut new = NewFile::create(file)?;
        download(&self.target, &path, &mut new.file).await?;
        new.keep()
    }
}
