//! One request, from its head to its answer: checked, routed, read, carried out, counted, logged.
//!
//! The order is what keeps strangers out: where a request comes from, then its token, then its path, then its body.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use hyper::header::{EXPECT, HeaderName};
use hyper::http::request::Parts;
use hyper::{Request, Response};

use super::answer::Answer;
use super::body::accepts_gzip;
use super::handlers::{self, Call};
use super::router::{Merging, Operation, Route, Transfer, route};
use super::server::Server;
use super::stream::Outgoing;
use super::{body, door, following};
use crate::error::{Error, Result};

/// The longest request id that is taken from a client.
const REQUEST_ID_BYTES_MAX: usize = 128;
/// What is left of a refused body is read and dropped up to these bounds, so that the client gets to read the answer.
const DRAIN_BYTES_MAX: usize = 8 << 20;
const DRAIN_TIME_MAX: Duration = Duration::from_secs(1);
/// Requests that take longer are worth a line in the log.
const SLOW: Duration = Duration::from_secs(1);

/// Answers one request, whatever it is.
pub async fn answer(server: Arc<Server>, request: Request<Incoming>) -> Response<Outgoing> {
    let began = Instant::now();
    let under_way = server.metrics.begin();
    let (head, mut body) = request.into_parts();
    let id = request_id(&server, &head);
    let route = route(head.method.as_str(), head.uri.path());
    let name = route.as_ref().map_or("unknown", Route::name);
    let mut body_bytes = 0;
    let answered = handle(&server, &head, &mut body, route, began, &mut body_bytes).await;
    let (mut answer, error) = match answered {
        Ok(answer) => (answer, None),
        Err(error) => (Answer::error(&error, &id), Some(error)),
    };
    // Who was too slow with its body is not waited for any longer.
    let too_slow = error.as_ref().is_some_and(|error| error.code() == "timeout");
    if !body.is_end_stream() && (too_slow || !drain(&head, &mut body).await) {
        answer = answer.closing();
    }
    let took = began.elapsed();
    server.metrics.observe(name, answer.status, took);
    server.metrics.observe_bytes(body_bytes, answer.body_bytes() as u64);
    log(&server, &head, &id, name, answer.status, took, error.as_ref());
    let response = answer.into_response(&id, accepts_gzip(&head.headers));
    drop(under_way);
    response
}

async fn handle(
    server: &Arc<Server>,
    head: &Parts,
    body: &mut Incoming,
    route: Result<Route>,
    began: Instant,
    body_bytes: &mut u64,
) -> Result<Answer> {
    door::check_source(head, &server.config)?;
    door::check_token(head, &route, &server.config)?;
    let route = route?;
    door::check_content_type(head, content_type(&route))?;
    refuse_precondition(head, &route)?;
    if let Route::Namespace(name, operation) = &route
        && following::writes(operation)
    {
        following::check(Call { server, head, began }, name)?;
    }
    if let Route::Namespace(name, Operation::Transfer(transfer @ (Transfer::Import | Transfer::Restore))) = &route {
        // Of any length, and for as long as it goes on coming.
        let call = Call { server, head, began };
        return handlers::transfer::receive(call, name, *transfer, body, body_bytes).await;
    }
    let received = if takes_body(&route) {
        Some(body::read(&head.headers, body, &server.config, &server.gates).await?)
    } else {
        None
    };
    *body_bytes = received.as_ref().map_or(0, |received| received.bytes.len() as u64);
    let is_long = matches!(
        route,
        Route::Sync(_)
            | Route::Namespace(
                _,
                Operation::Checkpoint
                    | Operation::Compact
                    | Operation::WarmCache
                    | Operation::Recall
                    | Operation::Revert
                    | Operation::Merging(Merging::Diff | Merging::Merge)
                    | Operation::Transfer(_)
                    | Operation::Sync
            )
    );
    let name = route.name();
    let carried_out = handlers::carry_out(Call { server, head, began }, route, received);
    if is_long {
        return carried_out.await;
    }
    let limit = server.config.request_timeout_ms;
    tokio::time::timeout(Duration::from_millis(limit), carried_out).await.unwrap_or_else(|_| {
        Err(Error::unavailable(format!("{name} was not done after {limit} ms"))
            .with_hint("a write may still take effect; sending it again is safe"))
    })
}

fn takes_body(route: &Route) -> bool {
    use Operation::{
        Create, Explain, Ids, Labels, PutTag, Query, Recall, Revert, StartCopy, Ttl, Undelete, UpdateMetadata,
        UpdateSchema, Write,
    };
    matches!(
        route,
        Route::Check
            | Route::Repair
            | Route::Sync(_)
            | Route::Namespace(
                _,
                Create
                    | Write
                    | StartCopy
                    | Query
                    | Explain
                    | UpdateMetadata
                    | UpdateSchema
                    | Recall
                    | Labels
                    | Ids
                    | PutTag(_)
                    | Ttl
                    | Undelete
                    | Revert
                    | Operation::Merging(Merging::Diff | Merging::Merge | Merging::Replay(_))
                    | Operation::Transfer(Transfer::Copy)
                    | Operation::Sync
            )
    )
}

/// What a request's body must say that it is.
fn content_type(route: &Route) -> &'static str {
    match route {
        Route::Namespace(_, Operation::Transfer(Transfer::Restore)) => "application/octet-stream",
        Route::Namespace(_, Operation::Transfer(Transfer::Import)) => "application/x-ndjson",
        _ => "application/json",
    }
}

/// A condition that would not be looked at must not look as if it held.
fn refuse_precondition(head: &Parts, route: &Route) -> Result<()> {
    let is_change = route.scope() > super::auth::Scope::Read;
    let is_write = matches!(route, Route::Namespace(_, Operation::Write));
    if is_change && !is_write && head.headers.contains_key(hyper::header::IF_MATCH) {
        return Err(if_match_refused(route.name()));
    }
    if is_change && head.headers.contains_key(hyper::header::IF_NONE_MATCH) {
        return Err(Error::unsupported("If-None-Match is not offered for changes").with_hint(
            "PUT /v1/namespaces/NS creates only what is absent, and so does upsert_condition [\"id\", \"Eq\", null]",
        ));
    }
    Ok(())
}

/// The answer to `If-Match` where no state is compared.
pub(super) fn if_match_refused(what: &str) -> Error {
    Error::unsupported(format!("If-Match is not offered for {what}, only for writes of documents"))
        .with_hint("leave the header out")
}

/// The client's name for a request where it is plain, else one of ours.
fn request_id(server: &Server, head: &Parts) -> String {
    let given = head.headers.get(HeaderName::from_static("x-request-id")).and_then(|id| id.to_str().ok());
    let is_plain = |id: &&str| {
        (1..=REQUEST_ID_BYTES_MAX).contains(&id.len())
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b':'))
    };
    given.filter(is_plain).map_or_else(|| server.request_id(), str::to_owned)
}

/// Reads what is left of a body, within bounds; whether that was all of it.
async fn drain(head: &Parts, body: &mut Incoming) -> bool {
    // A client that asks first has not sent it.
    if head.headers.contains_key(EXPECT) {
        return false;
    }
    let rest = async {
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            bytes += frame.ok().and_then(|frame| frame.into_data().ok()).map_or(0, |data| data.len());
            if bytes > DRAIN_BYTES_MAX {
                return false;
            }
        }
        true
    };
    tokio::time::timeout(DRAIN_TIME_MAX, rest).await.unwrap_or(false)
}

/// One line for what an operator should see, of what is refused over and over one a minute; the rest is there at level `debug`.
fn log(
    server: &Server,
    head: &Parts,
    id: &str,
    route: &'static str,
    status: u16,
    took: Duration,
    error: Option<&Error>,
) {
    let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let (method, path) = (&head.method, head.uri.path());
    let is_worth_a_line = status >= 500 || matches!(status, 401 | 403);
    let not_said = match error.filter(|_| is_worth_a_line) {
        Some(error) => server.refusals.to_say(route, error.code(), Instant::now()),
        None => Some(0),
    };
    match (error, not_said) {
        (Some(error), None) => {
            tracing::debug!(request_id = id, route, %method, path, status, millis, %error, "request refused again");
        }
        (Some(error), Some(not_said)) if status >= 500 && status != 503 => {
            tracing::error!(request_id = id, route, %method, path, status, millis, not_said, %error, "request failed");
        }
        (Some(error), Some(not_said)) if is_worth_a_line => {
            tracing::warn!(request_id = id, route, %method, path, status, millis, not_said, %error, "request refused");
        }
        (Some(error), _) => {
            tracing::debug!(request_id = id, route, %method, path, status, millis, %error, "request refused");
        }
        (None, _) if took >= SLOW => {
            tracing::info!(request_id = id, route, %method, path, status, millis, "slow request");
        }
        (None, _) => tracing::debug!(request_id = id, route, %method, path, status, millis, "request"),
    }
}
