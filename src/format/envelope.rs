//! Small metadata files: JSON that a person can read, in an envelope with its checksum.
//!
//! A file is `{"crc32c":"HHHHHHHH","body":BODY}` and a newline, with exactly these bytes around BODY, so that the checksum
//! covers bytes and not one of many spellings of the same JSON.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};

const BEFORE_CHECKSUM: &[u8] = b"{\"crc32c\":\"";
const AFTER_CHECKSUM: &[u8] = b"\",\"body\":";
const END: &[u8] = b"}\n";
const CHECKSUM_BYTES: usize = 8;

/// The file's bytes, and the checksum of its body.
pub fn seal<T: Serialize>(body: &T) -> Result<(Vec<u8>, u32)> {
    let body = serde_json::to_vec(body).map_err(|e| Error::internal(format!("encode metadata: {e}")))?;
    let checksum = crc32c::crc32c(&body);
    let mut out = Vec::with_capacity(body.len() + 32);
    out.extend_from_slice(BEFORE_CHECKSUM);
    out.extend_from_slice(format!("{checksum:08x}").as_bytes());
    out.extend_from_slice(AFTER_CHECKSUM);
    out.extend_from_slice(&body);
    out.extend_from_slice(END);
    Ok((out, checksum))
}

/// The body of a file, and its checksum. `Corrupt` when any byte is not as it was written; `Unsupported` when the body's
/// `format` is newer than `version`.
pub fn open<T: DeserializeOwned>(bytes: &[u8], version: u32, name: &str) -> Result<(T, u32)> {
    let not_sealed = || Error::corrupt(format!("{name}: is not a sealed metadata file of {} bytes", bytes.len()));
    let rest = bytes.strip_prefix(BEFORE_CHECKSUM).ok_or_else(not_sealed)?;
    let (stored, rest) = rest.split_at_checked(CHECKSUM_BYTES).ok_or_else(not_sealed)?;
    let body = rest.strip_prefix(AFTER_CHECKSUM).and_then(|rest| rest.strip_suffix(END)).ok_or_else(not_sealed)?;
    let checksum = crc32c::crc32c(body);
    if format!("{checksum:08x}").as_bytes() != stored {
        let stored = String::from_utf8_lossy(stored);
        return Err(Error::corrupt(format!("{name}: checksum is {checksum:08x}, expected {stored}")));
    }
    #[derive(serde::Deserialize)]
    struct Format {
        format: u32,
    }
    let found: Format =
        serde_json::from_slice(body).map_err(|e| Error::corrupt(format!("{name}: has no format version: {e}")))?;
    if found.format > version {
        return Err(Error::unsupported(format!(
            "{name}: format version {}, this release reads up to {version}",
            found.format
        ))
        .with_hint("use a release of Shoal that knows this version"));
    }
    let body = serde_json::from_slice(body).map_err(|e| Error::corrupt(format!("{name}: {e}")))?;
    Ok((body, checksum))
}

#[cfg(test)]
mod tests {
    use super::{open, seal};
    use crate::error::Kind;

    #[derive(serde::Serialize, serde::Deserialize, PartialEq, Debug)]
    struct Body {
        format: u32,
        name: String,
    }

    fn body(format: u32) -> Body {
        Body { format, name: "acme/search/docs".into() }
    }

    #[test]
    fn a_sealed_body_opens_with_the_same_checksum() {
        let (bytes, checksum) = seal(&body(1)).unwrap();
        assert_eq!(open::<Body>(&bytes, 1, "file").unwrap(), (body(1), checksum));
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_an_error() {
        let (bytes, _) = seal(&body(1)).unwrap();
        for end in 0..bytes.len() {
            assert_eq!(open::<Body>(&bytes[..end], 1, "file").unwrap_err().kind(), Kind::Corrupt);
        }
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert!(open::<Body>(&damaged, 1, "file").is_err(), "byte {at} bit {bit}");
            }
        }
    }

    #[test]
    fn a_newer_format_is_refused_by_its_number() {
        let (bytes, _) = seal(&body(2)).unwrap();
        let error = open::<Body>(&bytes, 1, "file").unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert_eq!(error.message(), "file: format version 2, this release reads up to 1");
    }
}
