//! A small HTTP client for one daemon: one kept-alive connection, retries with the same key.

use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt, Full};
use hyper::body::Body;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::http::request::Builder;
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

use crate::error::{Context, Error, Kind, Result};
use crate::model::ids::{Project, reason};

/// How often a write is sent before the client gives up.
const WRITE_ATTEMPTS_MAX: u32 = 6;
/// How often any other request is sent: a person is waiting, and nothing is lost.
const READ_ATTEMPTS_MAX: u32 = 2;
/// The wait before the second attempt; it doubles each time.
const RETRY_WAIT: Duration = Duration::from_millis(200);
/// How long one attempt may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(120);

/// Which daemon to ask
#[derive(Args, Clone)]
pub struct Target {
    /// The daemon, with /ORG/PROJECT behind it for another project than the default one
    #[arg(long, env = "SHOAL_URL", default_value = "http://127.0.0.1:7345", value_name = "URL", value_parser = url)]
    pub url: String,
    /// File that holds the bearer token
    #[arg(long, env = "SHOAL_TOKEN_FILE", value_name = "FILE")]
    pub token_file: Option<std::path::PathBuf>,
}

/// Reads a namespace's name: what a URL could take for something else is refused before a request is made of it.
pub fn namespace(name: &str) -> std::result::Result<String, String> {
    match Project::default_project().namespace(name) {
        Ok(_) => Ok(name.to_owned()),
        Err(error) => Err(reason(&error).to_owned()),
    }
}

/// Checks a daemon's address, so that a wrong one is wrong usage rather than a failure.
fn url(text: &str) -> std::result::Result<String, String> {
    let expected = || "expected http://ADDRESS:PORT, with /ORG/PROJECT behind it for another project".to_owned();
    let uri: Uri = text.parse().map_err(|_| expected())?;
    match (uri.scheme_str(), uri.authority()) {
        (Some("http"), Some(_)) => Ok(text.to_owned()),
        _ => Err(expected()),
    }
}

/// A client of one daemon. Cheap to create; each has a connection of its own, opened when first needed.
pub struct Client {
    authority: String,
    prefix: String,
    token: Option<String>,
    connection: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    /// Checks the URL and reads the token; connects later.
    pub fn new(target: &Target) -> Result<Self> {
        let url = &target.url;
        let uri: Uri = url.parse().map_err(|error| Error::invalid(format!("url {url:?}: {error}")))?;
        if uri.scheme_str() != Some("http") {
            return Err(Error::invalid(format!("url {url:?}: expected http://ADDRESS:PORT")));
        }
        let Some(authority) = uri.authority() else {
            return Err(Error::invalid(format!("url {url:?}: expected http://ADDRESS:PORT")));
        };
        let token = match &target.token_file {
            None => None,
            Some(path) => {
                let text =
                    std::fs::read_to_string(path).context(|| format!("read the token file {}", path.display()))?;
                let token = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
                Some(
                    token
                        .ok_or_else(|| Error::invalid(format!("token file {} is empty", path.display())))?
                        .to_owned(),
                )
            }
        };
        Ok(Client {
            authority: authority.to_string(),
            prefix: uri.path().trim_end_matches('/').to_owned(),
            token,
            connection: None,
        })
    }

    /// Sends a request and returns the answer's JSON. Attempts that fail on the way, or that the daemon asks to repeat
    /// (429, 503), are repeated; a write repeated with the same `key` takes effect once. Errors of the daemon keep
    /// their kind and text.
    pub async fn json(&mut self, method: Method, path: &str, body: Bytes, key: Option<&str>) -> Result<Value> {
        let attempts = if key.is_some() { WRITE_ATTEMPTS_MAX } else { READ_ATTEMPTS_MAX };
        let mut wait = RETRY_WAIT;
        for attempt in 1.. {
            let answer = tokio::time::timeout(ATTEMPT_TIMEOUT, self.attempt(&method, path, body.clone(), key))
                .await
                .unwrap_or_else(|_| Err(Error::unavailable(format!("no answer within {ATTEMPT_TIMEOUT:?}"))));
            let error = match answer {
                Ok((status, bytes)) if status.is_success() => return parsed(&method, path, &bytes),
                Ok((status, bytes)) => refusal(status, &bytes),
                Err(error) => {
                    self.connection = None;
                    error
                }
            };
            let retryable = matches!(error.kind(), Kind::Unavailable | Kind::Busy);
            if !retryable || attempt >= attempts {
                return Err(error);
            }
            tokio::time::sleep(wait).await;
            wait *= 2;
        }
        Err(Error::internal("no attempt was made"))
    }

    /// Sends a request once and returns the answer whatever its status; waits for as long as it takes.
    pub async fn answer(&mut self, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes)> {
        self.attempt(&method, path, body, None).await
    }

    /// [`Client::answer`]'s JSON, for what may take long and is not to be begun a second time.
    pub async fn patient(&mut self, method: Method, path: &str, body: Bytes) -> Result<Value> {
        let (status, bytes) = self.answer(method.clone(), path, body).await?;
        if status.is_success() { parsed(&method, path, &bytes) } else { Err(refusal(status, &bytes)) }
    }

    async fn attempt(
        &mut self,
        method: &Method,
        path: &str,
        body: Bytes,
        key: Option<&str>,
    ) -> Result<(StatusCode, Bytes)> {
        let mut request = self.request(method, path);
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let request = request
            .body(Full::new(body))
            .map_err(|error| Error::invalid(format!("request {method} {path}: {error}")))?;
        let mut connection = match self.connection.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        connection.ready().await.map_err(|error| away(&error, &self.authority))?;
        let answer = connection.send_request(request).await.map_err(|error| away(&error, &self.authority))?;
        let status = answer.status();
        let bytes = answer.into_body().collect().await.map_err(|error| away(&error, &self.authority))?.to_bytes();
        self.connection = Some(connection);
        Ok((status, bytes))
    }

    /// The head of a request, without what is said of its body.
    pub(super) fn request(&self, method: &Method, path: &str) -> Builder {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.prefix))
            .header("host", &self.authority)
            .header("user-agent", concat!("shoal/", env!("CARGO_PKG_VERSION")));
        match &self.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    /// A new connection, for bodies of any kind.
    pub(super) async fn connect<B>(&self) -> Result<SendRequest<B>>
    where
        B: Body<Data: Send, Error: Into<Box<dyn std::error::Error + Send + Sync>>> + Send + 'static,
    {
        let has_port = self.authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let address = if has_port { self.authority.clone() } else { format!("{}:80", self.authority) };
        let stream = TcpStream::connect(&address).await.map_err(|error| away(&error, &self.authority))?;
        // Requests are small and wait for their answers; Nagle's algorithm would only delay them.
        stream.set_nodelay(true)?;
        let (sender, connection) =
            handshake(TokioIo::new(stream)).await.map_err(|error| away(&error, &self.authority))?;
        tokio::spawn(connection);
        Ok(sender)
    }

    pub(super) fn authority(&self) -> &str {
        &self.authority
    }
}

fn parsed(method: &Method, path: &str, bytes: &[u8]) -> Result<Value> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(bytes)
        .map_err(|error| Error::internal(format!("{method} {path}: the answer is not JSON: {error}")))
}

pub(super) fn away(error: &dyn std::fmt::Display, authority: &str) -> Error {
    Error::unavailable(format!("daemon at {authority}: {error}"))
        .with_hint("is it running? `shoal serve` starts it; --url names another address")
}

/// The daemon's refusal as an error of the kind it had there.
pub(super) fn refusal(status: StatusCode, body: &[u8]) -> Error {
    let body: Value = serde_json::from_slice(body).unwrap_or(Value::Null);
    let text = body.get("error").and_then(Value::as_str).unwrap_or("no explanation");
    let kind = match status.as_u16() {
        // Both are 500; the exit code tells them apart.
        500 if body.get("code").and_then(Value::as_str) == Some("corrupt") => Kind::Corrupt,
        404 => Kind::NotFound,
        409 | 412 => Kind::Conflict,
        408 | 429 => Kind::Busy,
        502..=504 => Kind::Unavailable,
        400..500 => Kind::Invalid,
        _ => Kind::Internal,
    };
    let error = Error::new(kind, format!("{text} (HTTP {})", status.as_u16()));
    match body.get("hint").and_then(Value::as_str) {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::{ATTEMPT_TIMEOUT, Client, Method, Target};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// A daemon that takes longer than one attempt may; counts what it was asked.
    async fn slow() -> (Target, Arc<AtomicU32>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target { url: format!("http://{}", listener.local_addr().unwrap()), token_file: None };
        let asked = Arc::new(AtomicU32::new(0));
        let count = asked.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let count = count.clone();
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(stream.read_u8().await.unwrap());
                    }
                    count.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(ATTEMPT_TIMEOUT * 3).await;
                    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await;
                });
            }
        });
        (target, asked)
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_take_long_is_asked_for_once_and_waited_for() {
        let (target, asked) = slow().await;
        let mut client = Client::new(&target).unwrap();
        let answer = client.patient(Method::POST, "/v1/check", Default::default()).await;
        assert_eq!((answer.unwrap(), asked.load(Ordering::SeqCst)), (serde_json::json!({}), 1));
        let mut client = Client::new(&target).unwrap();
        assert!(client.json(Method::GET, "/v1/status", Default::default(), None).await.is_err());
        assert_eq!(asked.load(Ordering::SeqCst), 3);
    }
}
