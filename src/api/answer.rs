//! An answer on its way out: status, body and headers, the same for every route.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, ETAG, HeaderName, HeaderValue, RETRY_AFTER,
    VARY, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Response, StatusCode};
use serde::Serialize;
use serde_json::Value as Json;

use super::body::{COMPRESS_BYTES_MIN, compress};
use super::error::{body_of, retry_after_ms, status_of};
use super::router::BAD_NAME;
use super::stream::{Outgoing, Pieces, Pipe};
use crate::error::{Error, Kind, Result};

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson");
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
/// Larger answers are packed away from the threads that wait for sockets.
const PACK_BESIDE_BYTES: usize = 64 << 10;

/// What a request is answered with.
pub struct Answer {
    pub status: u16,
    kind: HeaderValue,
    body: Body,
    headers: Vec<(HeaderName, HeaderValue)>,
}

enum Body {
    Whole(Vec<u8>),
    Stream(Pieces),
}

impl Answer {
    /// A body that is written as JSON.
    pub fn json(status: u16, body: &impl Serialize) -> Result<Self> {
        let body = serde_json::to_vec(body).map_err(|error| Error::internal(format!("write the answer: {error}")))?;
        Ok(Answer { status, kind: JSON, body: Body::Whole(body), headers: Vec::new() })
    }

    /// 200 with a JSON value.
    pub fn ok(body: &Json) -> Self {
        Answer { status: 200, kind: JSON, body: Body::Whole(body.to_string().into_bytes()), headers: Vec::new() }
    }

    /// The text of `/metrics`.
    pub fn metrics(text: String) -> Self {
        Answer { status: 200, kind: OPEN_METRICS, body: Body::Whole(text.into_bytes()), headers: Vec::new() }
    }

    /// Lines of JSON that `work` writes while they are sent.
    pub async fn lines(work: impl FnOnce(&mut Pipe) -> Result<()> + Send + 'static) -> Result<Self> {
        Ok(Answer { status: 200, kind: NDJSON, body: Body::Stream(Pieces::of(work).await?), headers: Vec::new() })
    }

    /// Bytes that `work` writes while they are sent.
    pub async fn octets(work: impl FnOnce(&mut Pipe) -> Result<()> + Send + 'static) -> Result<Self> {
        Ok(Answer { status: 200, kind: OCTETS, body: Body::Stream(Pieces::of(work).await?), headers: Vec::new() })
    }

    /// An error in the contract's shape; names in URLs are refused in plain text.
    pub fn error(error: &Error, request_id: &str) -> Self {
        let status = status_of(error);
        let (kind, body) = match error.code() {
            BAD_NAME => (TEXT, error.message().as_bytes().to_vec()),
            _ => (JSON, body_of(error, request_id)),
        };
        let mut answer = Answer { status, kind, body: Body::Whole(body), headers: Vec::new() };
        if let Some(millis) = retry_after_ms(error) {
            answer.set(HeaderName::from_static("retry-after-ms"), &millis.to_string());
            answer.set(RETRY_AFTER, &millis.div_ceil(1_000).to_string());
        }
        if matches!(error.kind(), Kind::Corrupt | Kind::Internal) {
            // The same request meets the same damage; clients of the contract would otherwise repeat it.
            answer.set(HeaderName::from_static("x-should-retry"), "false");
        }
        match status {
            401 => answer.set(WWW_AUTHENTICATE, "Bearer"),
            405 => {
                let methods = error.message().rsplit_once("expected ").map_or("", |(_, methods)| methods);
                answer.set(ALLOW, &methods.replace(" or ", ", "));
            }
            _ => {}
        }
        answer
    }

    /// Adds the state that this answer shows or made; the engine makes it quoted, as it goes into the header.
    pub fn with_etag(mut self, etag: &str) -> Self {
        if !etag.is_empty() {
            self.set(ETAG, etag);
        }
        self
    }

    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.set(HeaderName::from_static(name), value);
        self
    }

    /// The connection ends with this answer.
    pub fn closing(mut self) -> Self {
        self.set(CONNECTION, "close");
        self
    }

    /// 0 for a body that is still being written.
    pub fn body_bytes(&self) -> usize {
        match &self.body {
            Body::Whole(body) => body.len(),
            Body::Stream(_) => 0,
        }
    }

    /// A value that no header can have is left out.
    fn set(&mut self, name: HeaderName, value: &str) {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.push((name, value));
        }
    }

    /// The response, packed when the client takes gzip and it pays.
    pub fn into_response(self, request_id: &str, gzip: bool) -> Response<Outgoing> {
        let bytes = self.body_bytes();
        let (is_packed, may_be_packed, body) = match self.body {
            Body::Stream(pieces) => (false, false, Outgoing::Stream(pieces)),
            Body::Whole(body) => {
                let packed = if bytes > PACK_BESIDE_BYTES && gzip {
                    tokio::task::block_in_place(|| compress(gzip, &body))
                } else {
                    compress(gzip, &body)
                };
                let is_packed = packed.is_some();
                let body = Full::new(Bytes::from(packed.unwrap_or(body)));
                (is_packed, bytes > COMPRESS_BYTES_MIN, Outgoing::Whole(body))
            }
        };
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, self.kind);
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if is_packed {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        if may_be_packed {
            headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
        }
        if let Ok(id) = HeaderValue::from_str(request_id) {
            headers.insert("x-request-id", id);
        }
        for (name, value) in self.headers {
            headers.insert(name, value);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::{Answer, Error};
    use crate::api::router::route;

    #[test]
    fn answers_say_when_to_come_back() {
        let busy = Answer::error(&Error::busy("full"), "r1").into_response("r1", false);
        assert_eq!(busy.status(), 429);
        assert_eq!(busy.headers()["retry-after-ms"], "500");
        assert_eq!(busy.headers()["retry-after"], "1");
        assert_eq!(busy.headers()["x-request-id"], "r1");
        let damaged = Answer::error(&Error::corrupt("bad sum"), "r1").into_response("r1", false);
        assert_eq!(
            (damaged.status().as_u16(), &damaged.headers()["x-should-retry"]),
            (500, &"false".parse().unwrap())
        );
    }

    #[test]
    fn a_wrong_method_is_told_in_a_header_and_a_bad_name_in_plain_text() {
        let error = route("DELETE", "/v1/namespaces/a/schema").unwrap_err();
        let response = Answer::error(&error, "r1").into_response("r1", true);
        assert_eq!((response.status().as_u16(), &response.headers()["allow"]), (405, &"GET, POST".parse().unwrap()));
        let error = route("GET", "/v1/namespaces/../schema").unwrap_err();
        let response = Answer::error(&error, "r1").into_response("r1", true);
        assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
    }
}
