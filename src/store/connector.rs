//! Carries `object_store`'s requests over our own HTTP client: paced, counted, bounded, and with what it saw told.
//!
//! - A request is not bounded in time but in stillness: on a slow link an object may take an hour, but some of it moves.
//! - An answer is never longer than its attempt expects, whatever the other side sends.
//! - Facts of a refusal that `object_store` drops (how long to wait, the right region) are left in [`super::facts`].

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::{HeaderMap, Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioTimer;
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpRequestBody, HttpResponse,
    HttpResponseBody, HttpService,
};
use object_store::{ClientConfigKey, ClientOptions};
use tokio::time::{Instant, Sleep};

use super::dial::{DialError, Dialer};
use super::facts::{Broken, Facts, Seen, readable, seen};
use super::pace::Pace;
use super::patience::KERNEL_TIME_MAX;
use super::runtime::{self, Executor};
use super::traffic::Traffic;
use crate::platform::clock::Clock;

/// How long nothing may move before a request is given up, whatever its patience. Above what a store may take to answer a large
/// request, and what the kernel's send buffer takes on a slow link.
const STALL: Duration = KERNEL_TIME_MAX;
/// Bodies are handed on in pieces of at most this, so that pacing is smooth and progress is seen.
const PIECE_BYTES: usize = 16 << 10;
/// Idle connections are closed before the usual load balancer does (60 s), so that requests seldom meet a closed one.
const IDLE_TIMEOUT: Duration = Duration::from_secs(45);
/// The longest error document that is read.
const REFUSAL_BYTES_MAX: usize = 64 << 10;
/// The longest answer to a request that is no attempt on the bucket: credentials.
const OTHER_BYTES_MAX: u64 = 1 << 20;

/// The two directions' bounds, the counters and the clock that all connections share.
pub(super) struct Link {
    pub(super) up: Pace,
    pub(super) down: Pace,
    pub(super) traffic: Arc<Traffic>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) connections_idle_max: usize,
    pub(super) trust: Arc<rustls::ClientConfig>,
}

/// What `object_store` opens its clients by. All of one bucket share a [`Link`].
#[derive(Clone)]
pub(super) struct Connector(pub(super) Arc<Link>);

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connector")
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let plain = options.get_config_value(&ClientConfigKey::AllowHttp).is_some_and(|value| value == "true");
        let client = Client::builder(Executor(runtime::handle()))
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(self.0.connections_idle_max)
            .build(Dialer::new(Arc::clone(&self.0.trust)));
        Ok(HttpClient::new(Service { link: Arc::clone(&self.0), client, plain }))
    }
}

struct Service {
    link: Arc<Link>,
    client: Client<Dialer, Outgoing>,
    /// Whether hosts may be asked without TLS.
    plain: bool,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Service")
    }
}

/// `host:port` as it is shown.
pub(super) fn host_of(uri: &hyper::Uri) -> String {
    let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
    format!("{}:{port}", uri.host().unwrap_or_default())
}

fn fail(seen: Option<&Seen>, kind: HttpErrorKind, broken: Broken, text: String) -> HttpError {
    if let Some(seen) = seen {
        seen.set_broken(broken, text.clone());
    }
    HttpError::new(kind, DialError(broken, text))
}

#[async_trait]
impl HttpService for Service {
    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let seen = seen();
        let mut facts = Facts { host: host_of(request.uri()), ..Facts::default() };
        if let Some(seen) = &seen {
            seen.set(facts.clone());
        }
        let seen_by = seen.as_deref();
        if !self.plain && request.uri().scheme_str() != Some("https") {
            let text = "plain http is not allowed".to_owned();
            return Err(fail(seen_by, HttpErrorKind::Unknown, Broken::Forbidden, text));
        }
        let alive = Arc::new(Alive::new());
        let (parts, body) = request.into_parts();
        let body = Outgoing {
            body,
            rest: Bytes::new(),
            wait: None,
            link: Arc::clone(&self.link),
            alive: Arc::clone(&alive),
            seen: seen.clone(),
        };
        let answer = self.client.request(Request::from_parts(parts, body));
        let answer = tokio::select! {
            answer = answer => answer,
            () = alive.stalled() => {
                let text = format!("nothing moved for {STALL:?}");
                return Err(fail(seen_by, HttpErrorKind::Timeout, Broken::Stalled, text));
            }
        };
        let answer = answer.map_err(|error| {
            let (broken, text) = of_client(&error);
            let kind = match broken {
                Broken::Name | Broken::Connect | Broken::Tls => HttpErrorKind::Connect,
                _ => HttpErrorKind::Interrupted,
            };
            fail(seen_by, kind, broken, text)
        })?;
        let (parts, body) = answer.into_parts();
        facts.status = Some(parts.status.as_u16());
        facts.retry_after = self.read_headers(&parts.headers, &mut facts);
        let bytes_max = seen.as_ref().map_or(OTHER_BYTES_MAX, |seen| seen.answer_bytes_max);
        let body = Arriving {
            body,
            left: bytes_max,
            wait: None,
            stall: Box::pin(tokio::time::sleep(STALL)),
            link: Arc::clone(&self.link),
            seen: seen.clone(),
        };
        if parts.status.is_success() {
            if let Some(seen) = &seen {
                seen.set(facts);
            }
            return Ok(Response::from_parts(parts, HttpResponseBody::new(body)));
        }
        // Read here, since its code and region decide what a person is told. One that cannot be read says nothing.
        let body = match Limited::new(body, REFUSAL_BYTES_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(_) => Bytes::new(),
        };
        facts.read_body(&body);
        if let Some(seen) = &seen {
            seen.set(facts);
        }
        Ok(Response::from_parts(parts, HttpResponseBody::from(String::from_utf8_lossy(&body).into_owned())))
    }
}

impl Service {
    /// Notes the clock, the region and the error code that the headers tell, and returns how long to wait.
    fn read_headers(&self, headers: &HeaderMap, facts: &mut Facts) -> Option<Duration> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let now_ms = self.link.clock.now_millis();
        if let Some(since) = text("date")
            .and_then(|date| httpdate::parse_http_date(date).ok())
            .and_then(|date| date.duration_since(UNIX_EPOCH).ok())
        {
            let here = i64::try_from(now_ms / 1_000).unwrap_or(i64::MAX);
            let there = i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
            self.link.traffic.set_skew_seconds(here.saturating_sub(there));
        }
        if let Some(named) = text("x-amz-bucket-region") {
            facts.region = readable(named);
        }
        // Answers to HEAD have no body that could say it.
        if let Some(code) = text("x-ms-error-code") {
            facts.code = readable(code);
        }
        retry_after(text("retry-after")?, now_ms)
    }
}

/// `Retry-After`: seconds, or a date.
fn retry_after(text: &str, now_ms: u64) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(date.saturating_sub(Duration::from_millis(now_ms)))
}

/// Why the client has no answer: the first thing that we said ourselves, or its own words.
fn of_client(error: &hyper_util::client::legacy::Error) -> (Broken, String) {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let mut words = Vec::new();
    while let Some(error) = next {
        if let Some(DialError(broken, text)) = error.downcast_ref() {
            return (*broken, text.clone());
        }
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) {
            return (Broken::Answer, error.to_string());
        }
        words.push(error.to_string());
        next = error.source();
    }
    (Broken::Cut, words.pop().unwrap_or_default())
}

/// When something moved last.
struct Alive(Mutex<Instant>);

impl Alive {
    fn new() -> Self {
        Alive(Mutex::new(Instant::now()))
    }

    /// Nothing needs to move before `from`.
    fn moved(&self, from: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = from;
    }

    /// Comes back once nothing has moved for too long.
    async fn stalled(&self) {
        loop {
            let end = *self.0.lock().unwrap_or_else(PoisonError::into_inner) + STALL;
            if end <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }
}

/// Whether the wait of a paced body is still on.
fn waits(wait: &mut Option<Pin<Box<Sleep>>>, cx: &mut Context<'_>) -> bool {
    if wait.as_mut().is_some_and(|wait| wait.as_mut().poll(cx).is_pending()) {
        return true;
    }
    *wait = None;
    false
}

/// A request's body on its way.
struct Outgoing {
    body: HttpRequestBody,
    rest: Bytes,
    wait: Option<Pin<Box<Sleep>>>,
    link: Arc<Link>,
    alive: Arc<Alive>,
    seen: Option<Arc<Seen>>,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = self.get_mut();
        if waits(&mut this.wait, cx) {
            return Poll::Pending;
        }
        while this.rest.is_empty() {
            match std::task::ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => this.rest = frame.into_data().unwrap_or_default(),
                end => return Poll::Ready(end),
            }
        }
        let piece = this.rest.split_to(this.rest.len().min(PIECE_BYTES));
        this.link.traffic.sent(piece.len() as u64);
        let until = this.link.up.take(piece.len() as u64);
        let from = until.unwrap_or_else(Instant::now);
        this.alive.moved(from);
        if let Some(seen) = &this.seen {
            seen.moves.note(piece.len() as u64, from);
        }
        this.wait = until.map(|until| Box::pin(tokio::time::sleep_until(until)));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // The crate makes bodies of known length only.
        SizeHint::with_exact(self.rest.len() as u64 + self.body.size_hint().lower())
    }
}

/// An answer's body on its way.
struct Arriving {
    body: Incoming,
    /// How many more bytes are expected at most.
    left: u64,
    wait: Option<Pin<Box<Sleep>>>,
    stall: Pin<Box<Sleep>>,
    link: Arc<Link>,
    seen: Option<Arc<Seen>>,
}

impl Arriving {
    fn fail(&self, kind: HttpErrorKind, broken: Broken, text: String) -> HttpError {
        fail(self.seen.as_deref(), kind, broken, text)
    }
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = HttpError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, HttpError>>> {
        let this = self.get_mut();
        if waits(&mut this.wait, cx) {
            return Poll::Pending;
        }
        let frame = match Pin::new(&mut this.body).poll_frame(cx) {
            Poll::Pending => {
                std::task::ready!(this.stall.as_mut().poll(cx));
                let text = format!("nothing came for {STALL:?}");
                return Poll::Ready(Some(Err(this.fail(HttpErrorKind::Timeout, Broken::Stalled, text))));
            }
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Ready(Some(Err(error))) => {
                let text = error.to_string();
                return Poll::Ready(Some(Err(this.fail(HttpErrorKind::Interrupted, Broken::Cut, text))));
            }
            Poll::Ready(Some(Ok(frame))) => frame,
        };
        let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
        this.link.traffic.received(bytes);
        let Some(left) = this.left.checked_sub(bytes) else {
            let text = "its answer is longer than asked for".to_owned();
            return Poll::Ready(Some(Err(this.fail(HttpErrorKind::Decode, Broken::Answer, text))));
        };
        this.left = left;
        let until = this.link.down.take(bytes);
        let from = until.unwrap_or_else(Instant::now);
        this.stall.as_mut().reset(from + STALL);
        if let Some(seen) = &this.seen {
            seen.moves.note(bytes, from);
        }
        this.wait = until.map(|until| Box::pin(tokio::time::sleep_until(until)));
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{host_of, retry_after};

    #[test]
    fn a_wait_is_given_in_seconds_or_by_a_date() {
        assert_eq!(retry_after("120", 0), Some(Duration::from_secs(120)));
        assert_eq!(retry_after("Thu, 01 Jan 1970 00:01:00 GMT", 20_000), Some(Duration::from_secs(40)));
        assert_eq!(retry_after("Thu, 01 Jan 1970 00:01:00 GMT", 90_000), Some(Duration::ZERO));
        assert_eq!(retry_after("soon", 0), None);
    }

    #[test]
    fn hosts_are_shown_with_their_port() {
        let shown = ["https://a.b/c", "http://a.b/c", "http://[::1]:9/c"].map(|uri| host_of(&uri.parse().unwrap()));
        assert_eq!(shown, ["a.b:443", "a.b:80", "[::1]:9"]);
    }
}
