//! `shoal demo`: a daemon with a small real data set in it, and a few searches that show what it can do.

use std::io::Cursor;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args;
use hyper::Method;
use indicatif::ProgressBar;
use serde_json::{Value, json};

use super::http::{Client, Target};
use super::import::{Settings, write_rows};
use super::output;
use super::query::{rows_of, search};
use crate::config::{self, Overrides, PORT_DEFAULT};
use crate::daemon;
use crate::error::{Error, Result};
use crate::ops::signals::Stop;

const ROWS: &str = include_str!("../../examples/packages.ndjson");
const QUERIES: &str = include_str!("../../examples/queries.ndjson");
const SCHEMA: &str = include_str!("../../examples/schema.json");
const NAMESPACE: &str = "packages";

#[derive(Args)]
pub struct Demo {
    /// Directory for the demo's data; kept, so that the next start finds it
    #[arg(long, value_name = "DIR", default_value = "shoal-demo")]
    data_dir: PathBuf,
    /// Address and port to listen on
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = SocketAddr::from((Ipv4Addr::LOCALHOST, PORT_DEFAULT)))]
    listen: SocketAddr,
    /// Stop after the searches instead of serving on
    #[arg(long)]
    once: bool,
}

impl Demo {
    pub(super) fn run(self) -> Result<()> {
        let flags = Overrides {
            listen: Some(self.listen),
            data_dir: Some(self.data_dir.clone()),
            log_level: Some("warn".into()),
            ..Overrides::default()
        };
        let config = config::load(None, [], flags)?;
        daemon::start_log(&config)?;
        super::serve::runtime()?.block_on(async move {
            let mut signals = Stop::install_with_hangup()?;
            let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
            let (ready, address) = tokio::sync::oneshot::channel();
            let served = tokio::spawn(daemon::run(
                config,
                None,
                async {
                    let _ = stopped.await;
                },
                move |address| {
                    let _ = ready.send(address);
                },
            ));
            let Ok(address) = address.await else {
                // The daemon ended before it answered requests, and says why.
                served.await.map_err(|e| Error::internal(format!("run the daemon: {e}")))??;
                return Err(Error::internal("the daemon ended before it answered requests, and said no reason"));
            };
            let shown = show(address).await;
            if shown.is_ok() && !self.once {
                output::print(&format!(
                    "\nServing on http://{address} until Ctrl-C. Ask it yourself:\n\n  \
                     curl http://{address}/v2/namespaces/{NAMESPACE}/query -H 'content-type: application/json' \\\n    \
                     -d '{{\"rank_by\": [\"text\", \"BM25\", \"chess\"], \"limit\": 3, \"include_attributes\": [\"title\"]}}'\n\n\
                     The data is in {}.\n",
                    self.data_dir.display()
                ))?;
                signals.requested().await;
            }
            let _ = stop.send(());
            served.await.map_err(|e| Error::internal(format!("run the daemon: {e}")))??;
            shown
        })
    }
}

/// Writes the rows unless they are there, and shows every search.
async fn show(address: SocketAddr) -> Result<()> {
    let target = Target { url: format!("http://{address}"), token_file: None };
    let mut client = Client::new(&target)?;
    let status = client.json(Method::GET, &format!("/v1/namespaces/{NAMESPACE}/status"), "".into(), None).await;
    let documents = status.ok().and_then(|status| status["documents"].as_u64()).unwrap_or(0);
    let rows = ROWS.lines().count() as u64;
    if documents < rows {
        let schema =
            serde_json::from_str(SCHEMA).map_err(|error| Error::internal(format!("the bundled schema: {error}")))?;
        let settings = Settings { metric: Some("cosine_distance".into()), schema: Some(schema), batch_rows: 200 };
        write_rows(&mut Cursor::new(ROWS), NAMESPACE, &target, &settings, None, &ProgressBar::hidden()).await?;
        output::print(&format!("{rows} Debian package descriptions written to {NAMESPACE}, durably.\n"))?;
    }
    for line in QUERIES.lines() {
        let query: Value =
            serde_json::from_str(line).map_err(|error| Error::internal(format!("a bundled query: {error}")))?;
        let text = query["text"].as_str().unwrap_or_default();
        let near = query["vector"].clone();
        search_and_print(&mut client, &format!("{text:?}, by meaning and words together"), text, near, None).await?;
        if line == QUERIES.lines().next().unwrap_or_default() {
            let filter = json!(["section", "Eq", "graphics"]);
            let near = query["vector"].clone();
            let what = format!("{text:?}, among graphics packages only");
            search_and_print(&mut client, &what, text, near, Some(filter)).await?;
        }
    }
    Ok(())
}

async fn search_and_print(
    client: &mut Client,
    what: &str,
    text: &str,
    near: Value,
    filter: Option<Value>,
) -> Result<()> {
    let attributes = ["title".to_owned(), "text".to_owned()];
    let show = ["title".to_owned(), "section".to_owned()];
    let body = search(Some(text), &attributes, Some(near), filter, 3, &show)?;
    let path = format!("/v2/namespaces/{NAMESPACE}/query");
    let answer = client.json(Method::POST, &path, body.to_string().into(), None).await?;
    let rows = rows_of(&answer).cloned().unwrap_or_default();
    let millis = &answer["performance"]["server_total_ms"];
    output::print(&format!("\n{what} ({millis} ms)\n{}\n", output::rows_table(&rows)))
}
