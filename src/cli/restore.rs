//! `shoal restore`: a namespace made of a snapshot, on a daemon or in a data directory.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use hyper::Method;
use serde_json::{Value, json};

use super::http::Target;
use super::offline::offline;
use super::stream::{at_daemon, namespace, percent, upload};
use super::{client_runtime, output, progress};
use crate::error::{Context, Result};
use crate::snapshot::restore::restore;

#[derive(Args)]
pub struct Restore {
    /// The snapshot; - is standard input
    file: PathBuf,
    /// The namespace to make, whose name must be free; an incremental snapshot goes on from the namespace of this name
    namespace: String,
    /// The namespace that an incremental snapshot goes on from, when it is to stay
    #[arg(long, value_name = "NAMESPACE")]
    base: Option<String>,
    /// Restore into this data directory instead of asking a daemon; no daemon may be using it
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl Restore {
    pub(super) fn run(self) -> Result<()> {
        let input: Box<dyn Read + Send> = if self.file == Path::new("-") {
            Box::new(std::io::stdin())
        } else {
            Box::new(File::open(&self.file).context(|| format!("open {}", self.file.display()))?)
        };
        let progress = progress::bytes("read");
        let input = Box::new(progress.wrap_read(input));
        let done = match &self.data_dir {
            Some(dir) => self.locally(dir, input),
            None => {
                let mut path = at_daemon(&self.namespace, "restore")?;
                if let Some(base) = &self.base {
                    path.push_str(&format!("?base={}", percent(base)));
                }
                let sent = upload(&self.target, (Method::PUT, &path), "application/octet-stream", input);
                client_runtime().and_then(|runtime| runtime.block_on(sent))
            }
        };
        progress.finish_and_clear();
        let done = done?;
        if self.json {
            return output::print_json(&done);
        }
        let documents = done.get("documents").and_then(Value::as_u64).unwrap_or(0);
        output::print(&format!("{documents} documents restored to {}\n", self.namespace))
    }

    fn locally(&self, dir: &Path, input: Box<dyn Read + Send>) -> Result<Value> {
        let name = namespace(&self.namespace)?;
        let base = self.base.as_deref().map(namespace).transpose()?;
        offline(dir, async |engine| {
            let done = restore(engine, &name, base.as_ref(), input).await;
            engine.shutdown().await?;
            let done = done?;
            Ok(json!({"documents": done.documents, "bytes": done.bytes, "kind": done.kind, "commit": done.commit_id}))
        })
    }
}
