//! Files to and from a daemon, piece by piece.

use std::io::{Read, Write};

use http_body_util::{BodyExt, Full};
use hyper::Method;
use hyper::body::{Bytes, Incoming};
use hyper::header::CONTENT_TYPE;
use serde_json::Value;

use super::http::{self, Client, Target, away, refusal};
use crate::api::stream::{Outgoing, Pieces};
use crate::error::{Context, Error, Result};
use crate::model::ids::{NamespaceName, Project, reason};

const PIECE_BYTES: usize = 64 << 10;

/// Sends everything that `input` gives, and returns the answer's JSON.
pub(super) async fn upload(
    target: &Target,
    (method, path): (Method, &str),
    content_type: &str,
    mut input: impl Read + Send + 'static,
) -> Result<Value> {
    let client = Client::new(target)?;
    let pieces = Pieces::of(move |pipe| {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            match input.read(&mut piece).context(|| "read the input")? {
                0 => return Ok(()),
                n => pipe.write_all(&piece[..n])?,
            }
        }
    });
    let request = client
        .request(&method, path)
        .header(CONTENT_TYPE, content_type)
        .body(Outgoing::Stream(pieces.await?))
        .map_err(|error| Error::invalid(format!("request {method} {path}: {error}")))?;
    let mut connection = client.connect().await?;
    let away = |error: &dyn std::fmt::Display| away(error, client.authority());
    let answer = connection.send_request(request).await.map_err(|error| away(&error))?;
    let status = answer.status();
    let bytes = answer.into_body().collect().await.map_err(|error| away(&error))?.to_bytes();
    if !status.is_success() {
        return Err(refusal(status, &bytes));
    }
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::internal(format!("{path}: the answer is not JSON: {error}")))
}

/// Writes what the daemon sends to `out`. An answer that breaks off is an error.
pub(super) async fn download(target: &Target, path: &str, out: &mut dyn Write) -> Result<()> {
    download_by(target, (Method::GET, path, Bytes::new()), out).await
}

/// [`download`] of what a request with a body is answered with.
pub(super) async fn download_by(
    target: &Target,
    (method, path, body): (Method, &str, Bytes),
    out: &mut dyn Write,
) -> Result<()> {
    let client = Client::new(target)?;
    let mut request = client.request(&method, path);
    if !body.is_empty() {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    let request =
        request.body(Full::new(body)).map_err(|error| Error::invalid(format!("request {method} {path}: {error}")))?;
    let away = |error: &dyn std::fmt::Display| away(error, client.authority());
    let mut connection = client.connect().await?;
    let answer = connection.send_request(request).await.map_err(|error| away(&error))?;
    let (head, mut body): (_, Incoming) = answer.into_parts();
    if !head.status.is_success() {
        let bytes = body.collect().await.map_err(|error| away(&error))?.to_bytes();
        return Err(refusal(head.status, &bytes));
    }
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            Error::unavailable(format!("daemon at {}: the answer broke off: {error}", client.authority()))
        })?;
        if let Ok(data) = frame.into_data() {
            out.write_all(&data).context(|| "write the answer")?;
        }
    }
    Ok(())
}

/// A namespace as commands take it: `name` in the default project, or `org/project/name`.
pub(super) fn namespace(text: &str) -> Result<NamespaceName> {
    Project::default_project().find(text).map_err(|error| Error::invalid(reason(&error)))
}

/// The path of something of a namespace; the daemon's project is in its address, so the name stands alone.
pub(super) fn at_daemon(namespace: &str, what: &str) -> Result<String> {
    let name = http::namespace(namespace)
        .map_err(|why| Error::invalid(why).with_hint("another project is part of --url: http://HOST/ORG/PROJECT"))?;
    Ok(format!("/v1/namespaces/{name}/{what}"))
}

/// A value in a URL's path or query.
pub(super) fn percent(text: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':' | b'/');
    let encode = |byte: u8| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    text.bytes().map(encode).collect()
}
