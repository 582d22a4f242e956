//! `shoal export`: a namespace's documents at one state, to standard output or a file.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;

use super::http::{Target, namespace};
use super::stream::{download, percent};
use crate::error::{Context, Result};
use crate::platform::new_file::NewFile;
use crate::platform::real_disk::RealDisk;

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
        let mut new = NewFile::create(Arc::new(RealDisk), file).context(|| format!("create {}", file.display()))?;
        download(&self.target, &path, &mut new).await?;
        new.keep().context(|| format!("write {}", file.display()))
    }
}
