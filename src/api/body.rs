//! Request bodies in, bounded in bytes, ratio and time; answers out, compressed where asked for.

use std::io::{Read, Write};
use std::time::Duration;

use bytes::Bytes;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::Body;
use hyper::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH};

use super::limits::ServerConfig;
use crate::error::{Error, Result};

/// Answers up to this many bytes are never compressed.
pub const COMPRESS_BYTES_MIN: usize = 1_024;

fn too_large(config: &ServerConfig) -> Error {
    Error::invalid(format!("request body is larger than {} bytes", config.body_bytes_max))
        .with_code("too_large")
        .with_hint("send smaller batches, or raise the daemon's body limit")
}

/// Reads and decodes a whole body.
pub async fn read<B>(headers: &HeaderMap, mut body: B, config: &ServerConfig) -> Result<Bytes>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    let gzip = match headers.get(CONTENT_ENCODING).map(|value| value.to_str().unwrap_or("?").trim()) {
        None | Some("" | "identity") => false,
        Some("gzip") => true,
        Some(other) => {
            return Err(Error::invalid(format!("content-encoding {other:?} is not supported, expected gzip"))
                .with_code("unsupported_media_type"));
        }
    };
    let declared = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|bytes| bytes > config.body_bytes_max) {
        return Err(too_large(config));
    }
    let mut raw = Vec::new();
    let pause = Duration::from_millis(config.body_idle_timeout_ms);
    loop {
        let frame = tokio::time::timeout(pause, body.frame()).await.map_err(|_| {
            Error::invalid(format!("request body paused for more than {} ms", config.body_idle_timeout_ms))
                .with_code("timeout")
        })?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| Error::invalid(format!("read the request body: {error}")))?;
        if let Ok(data) = frame.into_data() {
            if (raw.len() + data.len()) as u64 > config.body_bytes_max {
                return Err(too_large(config));
            }
            raw.extend_from_slice(&data);
        }
    }
    if gzip { gunzip(&raw, config).map(Bytes::from) } else { Ok(raw.into()) }
}

/// Unpacks a gzip body within the bounds on size and ratio.
pub fn gunzip(raw: &[u8], config: &ServerConfig) -> Result<Vec<u8>> {
    let by_ratio = (raw.len() as u64).saturating_mul(config.decompressed_ratio_max);
    let bound = config.body_bytes_max.min(by_ratio);
    let mut decoded = Vec::new();
    GzDecoder::new(raw)
        .take(bound.saturating_add(1))
        .read_to_end(&mut decoded)
        .map_err(|error| Error::invalid(format!("decode the gzip request body: {error}")))?;
    if decoded.len() as u64 <= bound {
        return Ok(decoded);
    }
    if bound == by_ratio {
        return Err(Error::invalid(format!(
            "gzip request body unpacks to more than {} times its size",
            config.decompressed_ratio_max
        ))
        .with_code("too_large"));
    }
    Err(too_large(config))
}

/// Packs an answer where the request allows it and it pays.
pub fn compress(headers: &HeaderMap, answer: &[u8]) -> Option<Vec<u8>> {
    if answer.len() <= COMPRESS_BYTES_MIN || !accepts_gzip(headers) {
        return None;
    }
    let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(answer).ok()?;
    encoder.finish().ok()
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok()).flat_map(|v| v.split(',')).any(
        |part| {
            let (coding, params) = part.split_once(';').unwrap_or((part, ""));
            let refused = params.trim().strip_prefix("q=").is_some_and(|q| q.parse::<f32>().unwrap_or(0.0) <= 0.0);
            coding.trim().eq_ignore_ascii_case("gzip") && !refused
        },
    )
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::write::GzEncoder;

    use super::{ServerConfig, gunzip};

    #[test]
    fn a_gzip_bomb_is_refused() {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(&vec![0; 4 << 20]).unwrap();
        let packed = encoder.finish().unwrap();
        let error = gunzip(&packed, &ServerConfig::default()).unwrap_err();
        assert_eq!(error.code(), "too_large");
    }
}
