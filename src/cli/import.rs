//! `shoal import`: rows from a file or standard input, several batches in flight, each written exactly once.
//!
//! - A batch's idempotency key is a hash of the import's random id, its place and its bytes: a batch that is sent again takes effect once,
//!   also by who resumes, and another import of the same rows writes them anew.
//! - Of one document's rows the last one wins: a batch has one of them at most, and goes when no batch that has another is on its way.
//! - The first batch goes alone: it creates the namespace and its schema.
//! - A state file beside an input file counts the rows known to be written without a gap, until all are; `--resume` goes on
//!   from there: see [`state`].

mod ids;
mod state;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use clap::Args;
use hyper::Method;
use indicatif::ProgressBar;
use serde_json::value::RawValue;
use tokio::task::JoinSet;

use self::ids::Ids;
use self::state::State;
use super::http::{Client, Target, namespace};
use super::stream::upload;
use super::{output, progress};
use crate::error::{Context, Error, Result};
use crate::snapshot::import::is_export;

/// Batches on their way at the same time.
const IN_FLIGHT_MAX: usize = 4;
/// How much of the first line is read to see whether it is that of an export.
const FIRST_LINE_BYTES_MAX: u64 = 64 << 20;
/// The largest batch, in bytes; a batch ends early when its rows are big.
const BATCH_BYTES_MAX: usize = 16 << 20;

#[derive(Args)]
pub struct Import {
    /// The namespace
    #[arg(value_parser = namespace)]
    namespace: String,
    /// Rows, one JSON object a line, or what `shoal export` wrote; - is standard input
    #[arg(long, default_value = "-")]
    file: PathBuf,
    #[command(flatten)]
    target: Target,
    /// Rows in one write
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batch_rows: u32,
    /// Distance metric; needed with the first vectors of a namespace
    #[arg(long, value_parser = ["cosine_distance", "euclidean_squared", "dot_product"])]
    metric: Option<String>,
    /// Schema as the API takes it
    #[arg(long, value_name = "JSON")]
    schema: Option<String>,
    /// Skip what an interrupted import of the same file has written
    #[arg(long)]
    resume: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// What an import has written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Imported {
    pub rows: u64,
    pub skipped: u64,
}

/// What stands in front of and behind the rows of every write.
#[derive(Clone, Default)]
pub(super) struct Settings {
    pub metric: Option<String>,
    pub schema: Option<Box<RawValue>>,
    pub batch_rows: u32,
}

impl Import {
    pub(super) async fn run(self) -> Result<()> {
        let schema = match &self.schema {
            None => None,
            Some(text) => Some(
                serde_json::from_str::<Box<RawValue>>(text)
                    .map_err(|error| Error::invalid(format!("--schema: expected JSON: {error}")))?,
            ),
        };
        let settings = Settings { metric: self.metric.clone(), schema, batch_rows: self.batch_rows };
        let standard_input = self.file == Path::new("-");
        if standard_input && self.resume {
            return Err(Error::invalid("--resume needs --file FILE: standard input cannot be read again"));
        }
        let mut input: Box<dyn BufRead + Send> = if standard_input {
            Box::new(BufReader::new(std::io::stdin()))
        } else {
            Box::new(BufReader::new(File::open(&self.file).context(|| format!("open {}", self.file.display()))?))
        };
        let mut first = Vec::new();
        let looked = input.by_ref().take(FIRST_LINE_BYTES_MAX).read_until(b'\n', &mut first);
        looked.context(|| "read the first line")?;
        let is_export = is_export(&first);
        let mut input = Cursor::new(first).chain(input);
        if is_export {
            return self.import_export(input).await;
        }
        let mut state = match standard_input {
            true => None,
            false => Some(State::open(&self.file, &self.target.url, &self.namespace, self.resume)?),
        };
        let progress = progress::rows("written");
        let imported =
            write_rows(&mut input, &self.namespace, &self.target, &settings, state.as_mut(), &progress).await;
        progress.finish_and_clear();
        let imported = imported.map_err(|error| self.explain(error, state.as_ref()))?;
        if let Some(state) = state {
            state.remove()?;
        }
        if self.json {
            let answer = serde_json::json!({ "namespace": self.namespace, "rows": imported.rows, "skipped": imported.skipped });
            return output::print_json(&answer);
        }
        let skipped = match imported.skipped {
            0 => String::new(),
            n => format!(", {n} were written before"),
        };
        output::print(&format!("{} rows written to {}{skipped}\n", imported.rows, self.namespace))
    }

    /// The error of an import that broke off, with how to go on.
    fn explain(&self, error: Error, state: Option<&State>) -> Error {
        let file = self.file.display();
        let how = match state {
            Some(state) if state.is_kept() => format!(
                "once the cause is gone `shoal import {} --file {file} --resume` goes on behind the {} rows that {} counts as written",
                self.namespace,
                state.rows(),
                state.path().display()
            ),
            _ => "once the cause is gone repeat the import: rows are written under their ids, so that is harmless"
                .to_owned(),
        };
        let hint = error.hint().map_or_else(|| how.clone(), |hint| format!("{hint}; {how}"));
        error.with_hint(hint)
    }

    /// Makes an equal namespace of what `shoal export` wrote. It appears when the last line was right.
    async fn import_export(&self, input: impl Read + Send + 'static) -> Result<()> {
        if self.resume || self.metric.is_some() || self.schema.is_some() {
            return Err(Error::invalid(
                "an export is imported whole and as it was: --resume, --metric and --schema do not apply",
            ));
        }
        let path = format!("/v1/namespaces/{}/import", self.namespace);
        let progress = progress::bytes("sent");
        let input = progress.wrap_read(input);
        let done = upload(&self.target, (Method::POST, &path), "application/x-ndjson", input).await;
        progress.finish_and_clear();
        let done = done?;
        if self.json {
            return output::print_json(&done);
        }
        let documents = done.get("documents").and_then(serde_json::Value::as_u64).unwrap_or(0);
        output::print(&format!("{documents} documents imported into {}\n", self.namespace))
    }
}

/// Writes every row of `input`. On an error the batches before it may be written; repeating the import is harmless.
pub(super) async fn write_rows(
    input: &mut dyn BufRead,
    namespace: &str,
    target: &Target,
    settings: &Settings,
    state: Option<&mut State>,
    progress: &ProgressBar,
) -> Result<Imported> {
    let mut written = 0;
    let sent = send_rows(input, namespace, target, settings, (state, &mut written), progress).await;
    sent.map_err(|error| match written {
        0 => error.context("no row is known to be written"),
        rows => error.context(format!("the first {rows} rows are written")),
    })
}

/// [`write_rows`]; tells `written` how many rows from the first on are written without a gap, also when it fails.
async fn send_rows(
    input: &mut dyn BufRead,
    namespace: &str,
    target: &Target,
    settings: &Settings,
    (mut state, written): (Option<&mut State>, &mut u64),
    progress: &ProgressBar,
) -> Result<Imported> {
    let path = format!("/v2/namespaces/{namespace}");
    let skipped = state.as_deref().map_or(0, State::rows);
    let id = state.as_deref().map_or_else(state::random_id, |state| state.id().to_owned());
    let mut lines = Lines::new(input);
    for _ in 0..skipped {
        let Some(row) = lines.next()? else { break };
        lines.count(&row);
    }
    if let Some(state) = state.as_deref() {
        state.check(lines.hash())?;
    }
    let mut done = Done::new(skipped, lines.hash());
    *written = skipped;
    let mut clients = Vec::new();
    for _ in 0..IN_FLIGHT_MAX {
        clients.push(Client::new(target)?);
    }
    let mut flying: JoinSet<(Client, Batch, Result<()>)> = JoinSet::new();
    let mut flying_ids: Vec<Arc<Ids>> = Vec::new();
    let mut next_row = skipped;
    let mut rows = 0;
    let mut limit = 1;
    loop {
        // A bad line ends the input; what is on its way still lands and is remembered for `--resume`.
        let (batch, broken) = match lines.batch(settings) {
            Ok(batch) => (batch, None),
            Err(error) => (None, Some(error)),
        };
        let ended = batch.is_none();
        let meets =
            |flying: &[Arc<Ids>]| batch.as_ref().is_some_and(|(.., ids)| flying.iter().any(|other| other.meet(ids)));
        while flying.len() >= limit || (ended && !flying.is_empty()) || meets(&flying_ids) {
            let Some(landed) = flying.join_next().await else { break };
            let (client, sent, result) =
                landed.map_err(|error| Error::internal(format!("write a batch: {error}")))?;
            let (first, last) = (sent.first + 1, sent.first + sent.count);
            result.map_err(|error| error.context(format!("write rows {first} to {last}")))?;
            clients.push(client);
            flying_ids.retain(|ids| !Arc::ptr_eq(ids, &sent.ids));
            limit = IN_FLIGHT_MAX;
            rows += sent.count;
            progress.inc(sent.count);
            done.add(sent);
            *written = done.written;
            if let Some(state) = state.as_deref_mut() {
                state.save(done.written, done.hash)?;
            }
        }
        if let Some((body, count, ids)) = batch {
            let mut client = clients.pop().ok_or_else(|| Error::internal("no client is free"))?;
            let path = path.clone();
            let sent = Batch { first: next_row, count, hash: lines.hash(), ids: Arc::new(ids) };
            flying_ids.push(sent.ids.clone());
            if next_row == skipped
                && let Some(state) = state.as_deref_mut()
            {
                // Who resumes knows the id also when no answer came to the first batch.
                state.keep()?;
            }
            next_row += count;
            let key = key(&id, &path, sent.first, &body);
            flying.spawn(async move {
                let result = client.json(Method::POST, &path, body, Some(&key)).await.map(drop);
                (client, sent, result)
            });
        }
        if ended {
            return broken.map_or(Ok(Imported { rows, skipped }), Err);
        }
    }
}

/// The idempotency key of the batch that begins behind `first` rows.
fn key(import: &str, path: &str, first: u64, body: &[u8]) -> String {
    let mut hash = blake3::Hasher::new();
    for part in [import.as_bytes(), path.as_bytes(), &first.to_le_bytes()] {
        hash.update(part);
    }
    format!("import-{}", hash.update(body).finalize().to_hex())
}

/// The rows of an input, checked to be JSON objects.
struct Lines<'a> {
    input: &'a mut dyn BufRead,
    line: u64,
    hasher: blake3::Hasher,
    /// A row that was read and is not given out yet.
    held: Option<String>,
}

impl<'a> Lines<'a> {
    fn new(input: &'a mut dyn BufRead) -> Self {
        Lines { input, line: 0, hasher: blake3::Hasher::new(), held: None }
    }

    /// A hash of all rows counted so far.
    fn hash(&self) -> blake3::Hash {
        self.hasher.finalize()
    }

    /// Takes a row that was given out into the hash.
    fn count(&mut self, row: &str) {
        self.hasher.update(row.as_bytes()).update(b"\n");
    }

    /// The next line that is not blank.
    fn next(&mut self) -> Result<Option<String>> {
        if let Some(held) = self.held.take() {
            return Ok(Some(held));
        }
        loop {
            let mut text = String::new();
            self.line += 1;
            if self.input.read_line(&mut text).context(|| format!("read line {}", self.line))? == 0 {
                return Ok(None);
            }
            let trimmed = text.trim();
            if trimmed.is_empty() {
                continue;
            }
            let row: &RawValue = serde_json::from_str(trimmed)
                .map_err(|error| Error::invalid(format!("line {}: expected a JSON object: {error}", self.line)))?;
            if !row.get().starts_with('{') {
                return Err(Error::invalid(format!("line {}: expected a JSON object, got another value", self.line)));
            }
            return Ok(Some(trimmed.to_owned()));
        }
    }

    /// The body of the next write, how many rows it has, and of which documents: each of another one.
    fn batch(&mut self, settings: &Settings) -> Result<Option<(Bytes, u64, Ids)>> {
        let mut body = String::from("{\"upsert_rows\":[");
        let (mut count, mut ids) = (0, Ids::default());
        while count < u64::from(settings.batch_rows) && body.len() < BATCH_BYTES_MAX {
            let Some(row) = self.next()? else { break };
            if !ids.add(&row) {
                self.held = Some(row);
                break;
            }
            self.count(&row);
            if count > 0 {
                body.push(',');
            }
            body.push_str(&row);
            count += 1;
        }
        if count == 0 {
            return Ok(None);
        }
        body.push(']');
        if let Some(metric) = &settings.metric {
            body.push_str(&format!(",\"distance_metric\":\"{metric}\""));
        }
        if let Some(schema) = &settings.schema {
            body.push_str(",\"schema\":");
            body.push_str(schema.get());
        }
        body.push('}');
        Ok(Some((body.into(), count, ids)))
    }
}

/// Some rows of the input, one write.
struct Batch {
    first: u64,
    count: u64,
    /// Of all rows from the input's first to this batch's last.
    hash: blake3::Hash,
    ids: Arc<Ids>,
}

/// Which rows are written, when batches finish in any order.
struct Done {
    /// How many rows from the first on are written without a gap.
    written: u64,
    /// Of these rows.
    hash: blake3::Hash,
    ahead: BTreeMap<u64, Batch>,
}

impl Done {
    fn new(written: u64, hash: blake3::Hash) -> Self {
        Done { written, hash, ahead: BTreeMap::new() }
    }

    fn add(&mut self, batch: Batch) {
        self.ahead.insert(batch.first, batch);
        while let Some(batch) = self.ahead.remove(&self.written) {
            self.written += batch.count;
            self.hash = batch.hash;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rows_without_a_gap_count_as_written() {
        let batch = |first, count| Batch { first, count, hash: blake3::hash(&[count as u8]), ids: Arc::default() };
        let mut done = Done::new(5, blake3::hash(b""));
        done.add(batch(7, 3));
        assert_eq!((done.written, done.hash), (5, blake3::hash(b"")));
        done.add(batch(5, 2));
        assert_eq!((done.written, done.hash), (10, blake3::hash(&[3])));
    }

    #[test]
    fn a_batch_holds_the_rows_as_they_were_given() {
        let mut input = "{\"id\": 1}\n\n{\"id\":2}\n{\"id\":3}\n".as_bytes();
        let mut lines = Lines::new(&mut input);
        let settings = Settings { batch_rows: 2, metric: Some("cosine_distance".into()), schema: None };
        let (body, count, _) = lines.batch(&settings).unwrap().unwrap();
        assert_eq!(count, 2);
        assert_eq!(body, "{\"upsert_rows\":[{\"id\": 1},{\"id\":2}],\"distance_metric\":\"cosine_distance\"}");
        assert_eq!(lines.batch(&settings).unwrap().unwrap().1, 1);
        assert!(lines.batch(&settings).unwrap().is_none());
    }

    #[test]
    fn a_line_that_is_no_object_is_named() {
        let mut input = "{}\n[1]\n".as_bytes();
        let mut lines = Lines::new(&mut input);
        let error = lines.batch(&Settings { batch_rows: 9, ..Settings::default() }).unwrap_err();
        assert!(error.message().starts_with("line 2:"), "{error}");
    }
}
