//! Documents: writes, copies, queries.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::{HeaderName, IF_MATCH};
use hyper::http::request::Parts;
use serde_json::{Value as Json, json};
use tokio::time::Instant;

use super::{Call, micros_since, parse};
use crate::api::answer::Answer;
use crate::api::body::Received;
use crate::api::door::only;
use crate::api::error::{body_of, status_of};
use crate::api::following;
use crate::api::prefer::Prefer;
use crate::api::request::if_match_refused;
use crate::api::search;
use crate::api::wire::answers::{QueryAnswer, RecallAnswer};
use crate::api::wire::query::{QueryBody, parse_query, parse_recall};
use crate::api::wire::response::{millis, time, write_json};
use crate::api::wire::shape;
use crate::api::wire::unknown::warning;
use crate::api::wire::write::{WriteBody, parse_write_bytes};
use crate::engine;
use crate::error::{Error, Result};
use crate::model::ids::{NamespaceName, Nsid, Version, reason};
use crate::model::write::Idempotency;
use crate::sync::OBJECT_GONE;

/// The longest `Idempotency-Key`, in bytes.
const IDEMPOTENCY_KEY_BYTES_MAX: usize = 256;
/// How often a query begins anew on a newer state, when the bucket has no more what it reads.
const RESTARTS_MAX: u32 = 2;
/// How long it waits for that state each time.
const RESTART_WAIT: Duration = Duration::from_secs(10);

pub async fn write(call: Call<'_>, name: &NamespaceName, body: Received) -> Result<Answer> {
    let prefer = Prefer::of(call, name)?;
    let written = write_here(call, name, body).await?;
    prefer.written(call, name, written).await
}

/// The answer, and what was committed, where that is one commit.
async fn write_here(
    call: Call<'_>,
    name: &NamespaceName,
    body: Received,
) -> Result<(Answer, Option<(Nsid, Version)>)> {
    let Received { bytes, share } = body;
    let mut request = match parse(&bytes, parse_write_bytes)? {
        WriteBody::Write(request) => request,
        WriteBody::Copy(..) if call.head.headers.contains_key(IF_MATCH) => return Err(if_match_refused("copies")),
        WriteBody::Copy(source, ignored) => {
            let source = source_of(name, "copy_from_namespace", &source)?;
            let copied = call.server.engine.copy(&source, name).await?;
            let answer = Answer::ok(&copy_json(copied, Some(call.micros())));
            return Ok((warned(call, name, answer, warning(&ignored)), None));
        }
        WriteBody::Branch(source, request, ignored) => {
            let source = source_of(name, "branch_from_namespace", &source)?;
            let answer = super::lineage::branch(call, name, &source, request).await?;
            return Ok((warned(call, name, answer, warning(&ignored)), None));
        }
    };
    let ignored = warning(&request.ignored);
    request.if_match = if_match(call.head)?;
    request.idempotency = idempotency(call.head, &bytes)?;
    request.body_bytes = bytes.len() as u64;
    drop(bytes);
    let outcome = call.server.engine.write(name, *request).await?;
    drop(share);
    let answer = Answer::ok(&write_json(&outcome, call.micros())).with_etag(&outcome.etag);
    let answer = warned(call, name, answer, ignored);
    let answer = if outcome.replayed { answer.with("idempotency-replayed", "true") } else { answer };
    Ok((answer, outcome.commit))
}

/// The states that a write is conditional on, as the engine compares them: quoted tags, or `*` for any.
fn if_match(head: &Parts) -> Result<Option<String>> {
    let Some(text) = only(&head.headers, &IF_MATCH)? else { return Ok(None) };
    let is_tag = |tag: &str| {
        let tag = tag.trim();
        let tag = tag.strip_prefix("W/").unwrap_or(tag);
        tag.len() > 2 && tag.starts_with('"') && tag.ends_with('"') && !tag[1..tag.len() - 1].contains('"')
    };
    if text.trim() == "*" || text.split(',').all(is_tag) {
        return Ok(Some(text.trim().to_owned()));
    }
    Err(Error::invalid(format!("header if-match is {text:?}, expected quoted entity tags or *")))
}

fn idempotency(head: &Parts, body: &[u8]) -> Result<Option<Idempotency>> {
    let Some(key) = only(&head.headers, &HeaderName::from_static("idempotency-key"))? else { return Ok(None) };
    if key.is_empty() || key.len() > IDEMPOTENCY_KEY_BYTES_MAX {
        return Err(Error::invalid(format!(
            "header idempotency-key has {} bytes, expected 1 to {IDEMPOTENCY_KEY_BYTES_MAX}",
            key.len()
        )));
    }
    let half = |bytes: &[u8]| {
        let mut half = [0; 16];
        half.copy_from_slice(&blake3::hash(bytes).as_bytes()[..16]);
        half
    };
    Ok(Some(Idempotency { key_hash: half(key.as_bytes()), body_hash: half(body) }))
}

/// The namespace that a copy's or branch's body names; it is in the same project.
fn source_of(name: &NamespaceName, field: &str, source: &str) -> Result<NamespaceName> {
    name.project.namespace(source).map_err(|error| Error::invalid(format!("{field}: {}", reason(&error))))
}

pub(super) fn copy_json(documents: u64, micros: Option<u64>) -> Json {
    let mut body = json!({
        "status": "OK",
        "message": "namespace cloned successfully",
        "rows_affected": documents,
        "billing": {"billable_logical_bytes_written": 0},
    });
    if let Some(micros) = micros {
        body["performance"] = json!({"server_total_ms": millis(micros)});
    }
    body
}

pub fn start_copy(call: Call<'_>, name: &NamespaceName, body: &Received) -> Result<Answer> {
    let WriteBody::Copy(source, ignored) = parse(&body.bytes, parse_write_bytes)? else {
        return Err(Error::invalid("only copy_from_namespace can be started asynchronously")
            .with_hint("send other writes without `/async`; they are answered when they are durable"));
    };
    let token = call.server.engine.start_copy(&source_of(name, "copy_from_namespace", &source)?, name, false)?;
    Ok(warned(call, name, Answer::ok(&json!({ "token": token })), warning(&ignored)))
}

pub fn poll_copy(call: Call<'_>, name: &NamespaceName, token: &str) -> Result<Answer> {
    let status = call.server.engine.poll_copy(name, token)?;
    let Some((ended_ms, result)) = status.finished else {
        let mut running = json!({"status": "running", "start_time": time(status.started_ms)});
        if let Some((documents, of)) = status.progress {
            running["progress"] = json!({"documents": documents, "of": of});
        }
        return Ok(Answer::ok(&running));
    };
    let result = match result {
        Ok(documents) => json!({"success": copy_json(documents, None)}),
        Err(error) => {
            let detail: Json = serde_json::from_slice(&body_of(&error, token)).unwrap_or(Json::Null);
            json!({"error": {"status_code": status_of(&error), "detail": detail}})
        }
    };
    Ok(Answer::ok(&json!({
        "status": "finished",
        "start_time": time(status.started_ms),
        "finish_time": time(ended_ms),
        "result": result,
    })))
}

pub async fn query(call: Call<'_>, name: &NamespaceName, body: Received) -> Result<Answer> {
    let parsed = parse(&body.bytes, |bytes| parse_query(shape::parse(bytes)?))?;
    drop(body);
    let was_read = Prefer::of(call, name)?.read(call, name).await?;
    let staleness =
        if parsed.is_eventual && parsed.as_of.is_none() { following::staleness_ms(call, name) } else { None };
    let parsed = Arc::new(parsed);
    let mut found = find(call, name, &parsed).await;
    for _ in 0..RESTARTS_MAX {
        let is_gone = found.as_ref().is_err_and(|error| error.code() == OBJECT_GONE) && parsed.as_of.is_none();
        let Some(worker) = call.server.config.sync.as_ref().filter(|_| is_gone) else { break };
        // What is read from the bucket was reclaimed there, as there is a newer state by now.
        if worker.together(name, Instant::now() + RESTART_WAIT).await.is_err() {
            break;
        }
        found = find(call, name, &parsed).await;
    }
    let answer = warned(call, name, found?, warning(&parsed.ignored));
    let answer = match staleness {
        Some(ms) => answer.with("shoal-staleness-ms", &ms.to_string()),
        None => answer,
    };
    Ok(if was_read { answer.with("preference-applied", "read=bucket") } else { answer })
}

/// Tells the caller of keys that were ignored, and the log once for each text.
fn warned(call: Call<'_>, name: &NamespaceName, answer: Answer, warning: Option<String>) -> Answer {
    let Some(warning) = warning else { return answer };
    if call.server.is_first_warning(&warning) {
        tracing::warn!(namespace = %name, warning, "a request has keys that mean nothing");
    }
    answer.with("shoal-warning", &warning)
}

/// Runs a query once.
async fn find(call: Call<'_>, name: &NamespaceName, parsed: &Arc<QueryBody>) -> Result<Answer> {
    let (name, began, parsed) = (name.clone(), call.began, Arc::clone(parsed));
    search::run(call.server, &name.clone(), move |server, allowance| {
        server.engine.on_view(&name, parsed.as_of.as_ref(), |view| {
            let outcome = engine::query::run(view, &parsed.request, allowance)?;
            let micros = micros_since(began);
            let answer = QueryAnswer { outcome: &outcome, encoding: parsed.encoding, multi: parsed.multi, micros };
            Ok(Answer::json(200, &answer)?.with_etag(&view.etag))
        })
    })
    .await
}

pub async fn explain(call: Call<'_>, name: &NamespaceName, body: &Received) -> Result<Answer> {
    let parsed = parse(&body.bytes, |bytes| parse_query(shape::parse(bytes)?))?;
    let ignored = warning(&parsed.ignored);
    let (asked, name) = (name, name.clone());
    let plans = search::run(call.server, &name.clone(), move |server, allowance| {
        server.engine.on_view(&name, parsed.as_of.as_ref(), |view| {
            let explain = |query| engine::query::explain(view, query, allowance);
            parsed.request.queries.iter().map(explain).collect::<Result<Vec<_>>>()
        })
    })
    .await?;
    Ok(warned(call, asked, Answer::ok(&json!({"plan_text": plans.join("\n")})), ignored))
}

pub async fn recall(call: Call<'_>, name: &NamespaceName, body: &Received) -> Result<Answer> {
    let request = parse_recall(super::json(body, true)?)?;
    let name = name.clone();
    let outcome = search::run(call.server, &name.clone(), move |server, allowance| {
        server.engine.recall(&name, &request, allowance)
    })
    .await?;
    Answer::json(200, &RecallAnswer(&outcome))
}
