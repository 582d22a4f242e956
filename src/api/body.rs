//! Request bodies in, bounded in bytes, memory, ratio, time and rate; answers out, compressed where asked for.

use std::io::{self, Write};
use std::time::Duration;

use bytes::Bytes;
use flate2::write::{GzDecoder, GzEncoder};
use http_body_util::BodyExt;
use hyper::HeaderMap;
use hyper::body::Body;
use hyper::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH};
use tokio::time::Instant;

use super::gates::{Gates, Share};
use super::limits::{BODY_RATE_GRACE_MS, JSON_AMPLIFICATION_MAX, JSON_VALUE_BYTES, RATIO_FREE_BYTES, ServerConfig};
use crate::error::{Error, Result};

/// Answers up to this many bytes are never compressed.
pub const COMPRESS_BYTES_MIN: usize = 1_024;
/// Memory is asked for in steps of this many bytes where a body's length is not known.
const STEP_BYTES: u64 = 256 << 10;
/// The most that is set aside for a body before any of it is there.
const RESERVE_BYTES: u64 = 4 << 20;

/// A whole body, decoded, with the memory it may take.
pub struct Received {
    pub bytes: Vec<u8>,
    pub share: Share,
}

fn too_large(config: &ServerConfig) -> Error {
    Error::invalid(format!("request body is larger than {} bytes", config.body_bytes_max))
        .with_code("too_large")
        .with_hint("send smaller batches, or raise the daemon's body limit")
}

/// Whether a request comes with a body, by its head.
pub fn is_announced(headers: &HeaderMap) -> bool {
    match headers.get(CONTENT_LENGTH) {
        Some(length) => length.as_bytes() != b"0",
        None => headers.contains_key(hyper::header::TRANSFER_ENCODING),
    }
}

/// Reads and decodes a whole body.
pub async fn read<B>(headers: &HeaderMap, mut body: B, config: &ServerConfig, gates: &Gates) -> Result<Received>
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
    let declared =
        headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok()).unwrap_or(0);
    if declared > config.body_bytes_max {
        return Err(too_large(config));
    }
    let mut share = gates.share();
    gates.grow(&mut share, declared).await?;
    let mut decoder = Decoder::new(gzip, declared, config);
    let began = Instant::now();
    let deadline = began + Duration::from_millis(config.request_timeout_ms);
    let pause = Duration::from_millis(config.body_idle_timeout_ms);
    let mut received = 0_u64;
    loop {
        let until = deadline.min(Instant::now() + pause);
        let frame = tokio::time::timeout_at(until, body.frame()).await.map_err(|_| {
            let (what, limit) = if until == deadline {
                ("was not complete after", config.request_timeout_ms)
            } else {
                ("paused for more than", config.body_idle_timeout_ms)
            };
            Error::invalid(format!("request body {what} {limit} ms")).with_code("timeout")
        })?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|error| Error::invalid(format!("read the request body: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        received += data.len() as u64;
        if received > config.body_bytes_max {
            return Err(too_large(config));
        }
        check_rate(received, began.elapsed(), config)?;
        let mut rest: &[u8] = &data;
        while !rest.is_empty() {
            // What the decoder can unpack from one piece is bounded, so memory is asked for before it is taken.
            let (piece, behind) = rest.split_at(rest.len().min(decoder.piece_bytes()));
            gates.grow(&mut share, decoder.after(piece.len()).next_multiple_of(STEP_BYTES)).await?;
            decoder.push(piece, config)?;
            rest = behind;
        }
    }
    let bytes = decoder.finish(config)?;
    let values = json_values(&bytes).saturating_mul(JSON_VALUE_BYTES);
    if values > config.body_bytes_max.saturating_mul(JSON_AMPLIFICATION_MAX) {
        return Err(Error::invalid(format!(
            "request body has {} JSON values, at most {} are read at once",
            values / JSON_VALUE_BYTES,
            config.body_bytes_max.saturating_mul(JSON_AMPLIFICATION_MAX) / JSON_VALUE_BYTES
        ))
        .with_code("too_large")
        .with_hint("send smaller batches, or vectors as base64"));
    }
    gates.grow(&mut share, values.saturating_add(bytes.len() as u64)).await?;
    Ok(Received { bytes, share })
}

fn check_rate(received: u64, took: Duration, config: &ServerConfig) -> Result<()> {
    let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let least = millis.saturating_mul(config.body_bytes_per_second_min) / 1_000;
    if millis <= BODY_RATE_GRACE_MS || received >= least {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "request body came at {received} bytes in {millis} ms, expected {} bytes a second or more",
        config.body_bytes_per_second_min
    ))
    .with_code("timeout"))
}

/// About how many values a JSON text has: what separates or opens them, outside of strings. Never too few by more than
/// one, whatever the text.
fn json_values(text: &[u8]) -> u64 {
    let mut values = 1_u64;
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'"' => {
                at += 1;
                // Long strings, such as base64 vectors, are most of a large body.
                while let Some(&byte) = text.get(at) {
                    match byte {
                        b'"' => break,
                        b'\\' => at += 2,
                        _ => at += 1,
                    }
                }
            }
            b',' | b'[' | b'{' | b':' => values += 1,
            _ => {}
        }
        at += 1;
    }
    values
}

/// Takes a body in pieces, unpacking it on the way.
enum Decoder {
    Plain(Vec<u8>),
    Gzip { unpacker: Box<GzDecoder<Bounded>>, packed: u64 },
}

/// Takes bytes up to a bound.
struct Bounded {
    bytes: Vec<u8>,
    bound: u64,
}

impl Write for Bounded {
    fn write(&mut self, piece: &[u8]) -> io::Result<usize> {
        if self.bytes.len() as u64 + piece.len() as u64 > self.bound {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.bytes.extend_from_slice(piece);
        Ok(piece.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Decoder {
    /// The most that one byte of a gzip stream can unpack to.
    const RATIO_POSSIBLE: u64 = 1_032;
    const GZIP_PIECE_BYTES: usize = 1 << 10;

    fn new(gzip: bool, declared: u64, config: &ServerConfig) -> Self {
        if gzip {
            let bounded = Bounded { bytes: Vec::new(), bound: config.body_bytes_max };
            return Decoder::Gzip { unpacker: Box::new(GzDecoder::new(bounded)), packed: 0 };
        }
        let reserve = usize::try_from(declared.min(RESERVE_BYTES)).unwrap_or(0);
        Decoder::Plain(Vec::with_capacity(reserve))
    }

    /// The largest piece to push at once.
    fn piece_bytes(&self) -> usize {
        match self {
            Decoder::Plain(_) => usize::MAX,
            Decoder::Gzip { .. } => Self::GZIP_PIECE_BYTES,
        }
    }

    /// The most bytes there can be after a piece of this length.
    fn after(&self, piece: usize) -> u64 {
        match self {
            Decoder::Plain(bytes) => (bytes.len() + piece) as u64,
            Decoder::Gzip { unpacker, .. } => {
                let now = unpacker.get_ref();
                (now.bytes.len() as u64 + piece as u64 * Self::RATIO_POSSIBLE).min(now.bound)
            }
        }
    }

    fn push(&mut self, piece: &[u8], config: &ServerConfig) -> Result<()> {
        match self {
            Decoder::Plain(bytes) => {
                bytes.extend_from_slice(piece);
                Ok(())
            }
            Decoder::Gzip { unpacker, packed } => {
                *packed += piece.len() as u64;
                let allowed = packed.saturating_mul(config.decompressed_ratio_max).max(RATIO_FREE_BYTES);
                unpacker.get_mut().bound = allowed.min(config.body_bytes_max);
                let pushed = unpacker.write_all(piece);
                pushed.map_err(|error| Self::refusal(&error, unpacker.get_ref().bound, config))
            }
        }
    }

    fn finish(self, config: &ServerConfig) -> Result<Vec<u8>> {
        match self {
            Decoder::Plain(bytes) => Ok(bytes),
            Decoder::Gzip { unpacker, .. } => {
                let bound = unpacker.get_ref().bound;
                unpacker.finish().map(|bounded| bounded.bytes).map_err(|error| Self::refusal(&error, bound, config))
            }
        }
    }

    fn refusal(error: &io::Error, bound: u64, config: &ServerConfig) -> Error {
        match error.kind() {
            io::ErrorKind::FileTooLarge if bound < config.body_bytes_max => Error::invalid(format!(
                "gzip request body unpacks to more than {} times its size",
                config.decompressed_ratio_max
            ))
            .with_code("too_large"),
            io::ErrorKind::FileTooLarge => too_large(config),
            io::ErrorKind::WriteZero => Error::invalid("gzip request body goes on after its end"),
            _ => Error::invalid(format!("decode the gzip request body: {error}")),
        }
    }
}

/// Packs an answer where the request allows it and it pays.
pub fn compress(accepts: bool, answer: &[u8]) -> Option<Vec<u8>> {
    if answer.len() <= COMPRESS_BYTES_MIN || !accepts {
        return None;
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(answer.len() / 4), flate2::Compression::fast());
    encoder.write_all(answer).ok()?;
    encoder.finish().ok()
}

/// Whether the client takes gzip.
pub fn accepts_gzip(headers: &HeaderMap) -> bool {
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
    use std::convert::Infallible;
    use std::io::Write;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use bytes::Bytes;
    use flate2::write::GzEncoder;
    use http_body_util::Full;
    use hyper::HeaderMap;
    use hyper::body::{Body, Frame};

    use super::{Gates, Result, ServerConfig, json_values, read};

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    async fn unpack(packed: Vec<u8>) -> Result<Vec<u8>> {
        let headers = HeaderMap::from_iter([("content-encoding".parse().unwrap(), "gzip".parse().unwrap())]);
        let config = ServerConfig::default();
        let body = Full::new(Bytes::from(packed));
        read(&headers, body, &config, &Gates::new(&config)).await.map(|received| received.bytes)
    }

    #[tokio::test]
    async fn gzip_is_unpacked_to_what_was_packed() {
        let text: Vec<u8> = (0..200_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        assert_eq!(unpack(packed(&text)).await.unwrap(), text);
        // A short body of one repeated vector compresses a thousandfold and is no attack.
        assert_eq!(unpack(packed(&[b'0'; 500_000])).await.unwrap().len(), 500_000);
    }

    #[tokio::test]
    async fn a_gzip_bomb_is_refused() {
        assert_eq!(unpack(packed(&vec![0; 4 << 20])).await.unwrap_err().code(), "too_large");
    }

    #[tokio::test]
    async fn gzip_that_is_cut_or_goes_on_is_refused() {
        let mut whole = packed(b"{\"deletes\":[1]}");
        let cut = whole[..whole.len() - 3].to_vec();
        assert!(unpack(cut).await.unwrap_err().message().contains("gzip"));
        whole.extend_from_slice(b"more");
        assert!(unpack(whole).await.unwrap_err().message().contains("goes on"));
        assert!(unpack(b"not gzip at all".to_vec()).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_pauses_or_drips_is_refused() {
        let config = ServerConfig::default();
        let gates = Gates::new(&config);
        let drip = |pause: u64| {
            let (sender, receiver) = tokio::sync::mpsc::channel::<Piece>(1);
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(std::time::Duration::from_millis(pause)).await;
                    if sender.send(Ok(Frame::data(Bytes::from_static(b"[")))).await.is_err() {
                        break;
                    }
                }
            });
            Drip(receiver)
        };
        let error = read(&HeaderMap::new(), drip(40_000), &config, &gates).await.map(drop).unwrap_err();
        assert!(error.message().contains("paused for more than 30000 ms"), "{error}");
        let error = read(&HeaderMap::new(), drip(1_000), &config, &gates).await.map(drop).unwrap_err();
        assert!(error.message().contains("bytes a second"), "{error}");
        assert_eq!(error.code(), "timeout");
    }

    /// A body that comes as a channel gives it.
    struct Drip(tokio::sync::mpsc::Receiver<Piece>);

    type Piece = std::result::Result<Frame<Bytes>, Infallible>;

    impl Body for Drip {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Piece>> {
            self.0.poll_recv(context)
        }
    }

    #[tokio::test]
    async fn a_body_of_too_many_values_is_refused_before_they_are_made() {
        let config = ServerConfig { body_bytes_max: 1_000, ..ServerConfig::default() };
        let gates = Gates::new(&config);
        let body = Full::new(Bytes::from(format!("[{}1]", "1,".repeat(400))));
        let error = read(&HeaderMap::new(), body, &config, &gates).await.map(drop).unwrap_err();
        assert_eq!(error.code(), "too_large");
        assert!(error.message().contains("JSON values"), "{error}");
    }

    #[test]
    fn values_are_counted_outside_of_strings() {
        assert_eq!(json_values(br#"{"a":[1,2],"b":"x,y:[\",{"}"#), 7);
        assert_eq!(json_values(b"\"cut \\"), 1);
    }
}
