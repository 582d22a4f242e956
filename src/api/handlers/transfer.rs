//! Namespaces out and in: exports, snapshots, copies from other projects. Nothing of them is held whole in memory.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::header::CONTENT_ENCODING;
use serde_json::{Value as Json, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use super::documents::copy_json;
use super::{Call, json as body_json};
use crate::api::answer::Answer;
use crate::api::auth::Scope;
use crate::api::body::Received;
use crate::api::door::{check_scope, only};
use crate::api::router::{Transfer, decode};
use crate::api::server::TRANSFERS_MAX;
use crate::api::wire::as_of::parse_as_of_text;
use crate::api::wire::shape::{boolean, map, refuse_unknown, string, take, wrong};
use crate::error::{Error, Result};
use crate::model::ids::{NamespaceName, reason};
use crate::snapshot::export::export;
use crate::snapshot::import::import;
use crate::snapshot::restore::restore;
use crate::snapshot::take::{self, Extent};

/// How many pieces of a body may wait to be taken.
const PIECES_WAITING: usize = 4;
/// The header with the commit that a snapshot is of, for the next increment.
const COMMIT_HEADER: &str = "shoal-commit";

/// Carries out what has no body, or a small one.
pub async fn carry_out(call: Call<'_>, name: &NamespaceName, transfer: Transfer, body: &Received) -> Result<Answer> {
    match transfer {
        Transfer::Export => out(call, name).await,
        Transfer::Snapshot => snapshot(call, name).await,
        Transfer::Copy => copy(call, name, body).await,
        Transfer::Import | Transfer::Restore => Err(Error::internal("a stream was read as a whole")),
    }
}

/// The parameters of a request, each known and given once.
fn parameters(call: Call<'_>, known: &[&str]) -> Result<Vec<(String, String)>> {
    let mut found: Vec<(String, String)> = Vec::new();
    for pair in call.head.uri.query().unwrap_or("").split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if !known.contains(&key) {
            return Err(Error::invalid(format!("unknown parameter {key:?}, expected one of {}", known.join(", "))));
        }
        if found.iter().any(|(other, _)| other == key) {
            return Err(Error::invalid(format!("parameter {key} is there more than once")));
        }
        let value = decode(value).map_err(|_| Error::invalid(format!("{key}: percent-encoding is malformed")))?;
        found.push((key.to_owned(), value));
    }
    Ok(found)
}

/// A place among the transfers at work: each holds a thread and, for its length, what it reads.
fn place(call: Call<'_>) -> Result<OwnedSemaphorePermit> {
    Arc::clone(&call.server.transfers).try_acquire_owned().map_err(|_| {
        Error::busy(format!("{TRANSFERS_MAX} exports, imports and snapshots are under way, no more are begun"))
            .with_hint("try again when one of them is done")
    })
}

async fn out(call: Call<'_>, name: &NamespaceName) -> Result<Answer> {
    let as_of = match parameters(call, &["as_of"])?.first() {
        Some((key, value)) => Some(parse_as_of_text(key, value)?),
        None => None,
    };
    let place = place(call)?;
    let moment = call.server.engine.moment_at(name, as_of.as_ref()).await?;
    let (engine, name) = (call.server.engine.clone(), name.clone());
    Answer::lines(move |pipe| {
        let _place = place;
        // The head of the answer may be away, so nobody else hears of it.
        export(&moment, pipe).map(drop).inspect_err(|error| engine.note_damage(&name, error))
    })
    .await
}

async fn snapshot(call: Call<'_>, name: &NamespaceName) -> Result<Answer> {
    let mut extent = Extent::Full;
    for (key, value) in parameters(call, &["since", "flatten"])? {
        let asked = match (key.as_str(), value.as_str()) {
            ("since", since) => Extent::Since(parse_as_of_text("since", since)?),
            (_, "" | "true" | "1") => Extent::Flattened,
            (_, "false" | "0") => continue,
            _ => return Err(Error::invalid(format!("flatten: expected true or false, got {value:?}"))),
        };
        if extent != Extent::Full {
            return Err(Error::invalid(
                "a flattened snapshot holds everything: since and flatten exclude each other",
            ));
        }
        extent = asked;
    }
    let place = place(call)?;
    let taken = take::take(&call.server.engine, name, &extent).await?;
    let commit = taken.manifest().commit_id.to_string();
    let (engine, name) = (call.server.engine.clone(), name.clone());
    let answer = Answer::octets(move |pipe| {
        let _place = place;
        taken.write(pipe).map(drop).inspect_err(|error| engine.note_damage(&name, error))
    })
    .await?;
    Ok(answer.with(COMMIT_HEADER, &commit))
}

/// A copy whose source is named by the body; a deep one goes on in the background.
async fn copy(call: Call<'_>, name: &NamespaceName, body: &Received) -> Result<Answer> {
    let mut fields = map("", body_json(body, false)?, "struct CopyRequest")?;
    let source = take(&mut fields, "source").ok_or_else(|| wrong("", "missing field `source`"))?;
    let source = named(name, "source", &string("source", source)?)?;
    let deep = take(&mut fields, "deep").map(|json| boolean("deep", &json)).transpose()?.unwrap_or(false);
    refuse_unknown(&fields, "`source`, `deep`")?;
    check_scope(call.head, &call.server.config, Scope::Read, &source.project)?;
    if deep {
        let token = call.server.engine.start_copy(&source, name, true)?;
        return Ok(Answer::ok(&json!({"status": "running", "token": token})));
    }
    let copied = call.server.engine.copy(&source, name).await?;
    Ok(Answer::ok(&copy_json(copied, Some(call.micros()))))
}

/// A namespace beside this one: `name`, or `org/project/name`.
pub(super) fn named(beside: &NamespaceName, what: &str, text: &str) -> Result<NamespaceName> {
    beside.project.find(text).map_err(|error| Error::invalid(format!("{what}: {}", reason(&error))))
}

/// Carries out what comes with a body of any length: it goes to the disk as it arrives.
pub async fn receive(
    call: Call<'_>,
    name: &NamespaceName,
    transfer: Transfer,
    body: &mut Incoming,
    body_bytes: &mut u64,
) -> Result<Answer> {
    if let Some(coding) = only(&call.head.headers, &CONTENT_ENCODING)?
        && !matches!(coding, "" | "identity")
    {
        return Err(Error::invalid(format!("content-encoding {coding:?} is not supported here, send it as it is"))
            .with_code("unsupported_media_type"));
    }
    let known: &[&str] = if transfer == Transfer::Restore { &["base"] } else { &[] };
    let base = match parameters(call, known)?.first() {
        Some((key, value)) => Some(named(name, key, value)?),
        None => None,
    };
    if let Some(base) = &base {
        check_scope(call.head, &call.server.config, Scope::Read, &base.project)?;
    }
    let place = place(call)?;
    let (sender, receiver) = channel(PIECES_WAITING);
    let (engine, to) = (call.server.engine.clone(), name.clone());
    let work = tokio::spawn(async move {
        let _place = place;
        let input = BodyReader { pieces: receiver, piece: Bytes::new() };
        Ok::<Json, Error>(match transfer {
            Transfer::Restore => {
                let done = restore(&engine, &to, base.as_ref(), input).await?;
                json!({"status": "OK", "documents": done.documents, "bytes": done.bytes, "kind": done.kind,
                       "commit": done.commit_id})
            }
            _ => json!({"status": "OK", "documents": import(&engine, &to, input).await?}),
        })
    });
    let pause = Duration::from_millis(call.server.config.body_idle_timeout_ms);
    let fed = feed(body, sender, pause, body_bytes).await;
    let done = work.await.map_err(|error| Error::internal(format!("receive {name}: {error}")))?;
    // What the reader saw of a body that broke off is less than what is known here.
    fed?;
    done.map(|done| Answer::ok(&done))
}

/// Passes a body on; ends early, without an error, when nobody takes it any more.
async fn feed(
    body: &mut Incoming,
    pieces: Sender<io::Result<Bytes>>,
    pause: Duration,
    body_bytes: &mut u64,
) -> Result<()> {
    loop {
        let frame = match tokio::time::timeout(pause, body.frame()).await {
            Ok(None) => return Ok(()),
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => {
                let _ = pieces.send(Err(io::ErrorKind::ConnectionAborted.into())).await;
                return Err(Error::invalid(format!("read the request body: {error}")));
            }
            Err(_) => {
                let _ = pieces.send(Err(io::ErrorKind::TimedOut.into())).await;
                let waited = pause.as_millis();
                return Err(
                    Error::invalid(format!("request body paused for more than {waited} ms")).with_code("timeout")
                );
            }
        };
        let Ok(data) = frame.into_data() else { continue };
        *body_bytes += data.len() as u64;
        if pieces.send(Ok(data)).await.is_err() {
            return Ok(());
        }
    }
}

/// A body as it arrives, for a thread that waits for it.
struct BodyReader {
    pieces: Receiver<io::Result<Bytes>>,
    piece: Bytes,
}

impl Read for BodyReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.pieces.blocking_recv() {
                None => return Ok(0),
                Some(piece) => self.piece = piece?,
            }
        }
        let taken = self.piece.split_to(out.len().min(self.piece.len()));
        out[..taken.len()].copy_from_slice(&taken);
        Ok(taken.len())
    }
}
