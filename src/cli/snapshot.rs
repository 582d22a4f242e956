//! `shoal snapshot`: a namespace in one file, from a daemon or from a data directory.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::http::Target;
use super::offline::offline;
use super::stream::{at_daemon, download, namespace, percent};
use super::{client_runtime, output, progress};
use crate::api::wire::as_of::parse_as_of_text;
use crate::error::Result;
use crate::platform::real_disk::RealDisk;
use crate::snapshot::file::{Kept, keep};
use crate::snapshot::take::{Extent, take};

#[derive(Args)]
pub struct Snapshot {
    /// The namespace; with --data-dir also org/project/name
    namespace: String,
    /// The file, which appears when all of it is there and verified; - is standard output
    file: PathBuf,
    /// Only what is new since a commit (an earlier snapshot's), generation or tag
    #[arg(long, value_name = "STATE", conflicts_with = "flatten")]
    since: Option<String>,
    /// Every document in one segment, without lineage
    #[arg(long)]
    flatten: bool,
    /// Read this data directory instead of asking a daemon; no daemon may be using it
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl Snapshot {
    pub(super) fn run(self) -> Result<()> {
        let progress = progress::bytes("written");
        if self.file == Path::new("-") {
            let done = self.write(&mut progress.wrap_write(std::io::stdout().lock()));
            progress.finish_and_clear();
            return done;
        }
        let done = keep(Arc::new(RealDisk), &self.file, |out| self.write(&mut progress.wrap_write(out)));
        progress.finish_and_clear();
        let Kept { commit_id: commit, bytes } = done?;
        if self.json {
            return output::print_json(&json!({"file": self.file, "bytes": bytes, "commit": commit}));
        }
        output::print(&format!(
            "{bytes} bytes of commit {commit} written to {}\n`shoal snapshot {} FILE --since {commit}` goes on from here\n",
            self.file.display(),
            self.namespace
        ))
    }

    fn write(&self, out: &mut dyn Write) -> Result<()> {
        if let Some(dir) = &self.data_dir {
            let name = namespace(&self.namespace)?;
            let extent = match (&self.since, self.flatten) {
                (Some(since), _) => Extent::Since(parse_as_of_text("--since", since)?),
                (None, true) => Extent::Flattened,
                (None, false) => Extent::Full,
            };
            return offline(dir, async |engine| {
                let written = match take(engine, &name, &extent).await {
                    Ok(taken) => tokio::task::block_in_place(|| taken.write(out)).map(drop),
                    Err(error) => Err(error),
                };
                engine.shutdown().await?;
                written
            });
        }
        let mut path = at_daemon(&self.namespace, "snapshot")?;
        if let Some(since) = &self.since {
            path.push_str(&format!("?since={}", percent(since)));
        } else if self.flatten {
            path.push_str("?flatten=true");
        }
        client_runtime()?.block_on(download(&self.target, &path, out))
    }
}
