//! `traffic.json`: what this node exchanged with its bucket in a month. It counts for a budget, and for nothing else.

use serde::{Deserialize, Serialize};

use super::envelope;
use crate::error::{Error, Result};

pub const VERSION: u32 = 1;

/// The bytes of bodies in one month, UTC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrafficFile {
    pub format: u32,
    /// `YYYY-MM`.
    pub month: String,
    pub bytes_up: u64,
    pub bytes_down: u64,
}

pub fn encode_traffic(file: &TrafficFile) -> Result<Vec<u8>> {
    check(file).map_err(|what| Error::internal(format!("encode traffic.json: {what}")))?;
    envelope::seal(file).map(|(bytes, _)| bytes)
}

pub fn decode_traffic(bytes: &[u8], file: &str) -> Result<TrafficFile> {
    let (traffic, _) = envelope::open::<TrafficFile>(bytes, VERSION, file)?;
    check(&traffic).map_err(|what| Error::corrupt(format!("{file}: {what}")))?;
    Ok(traffic)
}

fn check(file: &TrafficFile) -> std::result::Result<(), String> {
    match parse_month(&file.month) {
        Some(_) => Ok(()),
        None => Err(format!("month is {:?}, expected YYYY-MM", file.month)),
    }
}

/// Year and month, 1 to 12.
pub fn parse_month(text: &str) -> Option<(u32, u32)> {
    let (year, month) = text.split_once('-')?;
    let digits = |text: &str, count: usize| {
        (text.len() == count && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()
    };
    let (year, month) = (digits(year, 4)?, digits(month, 2)?);
    (1..=12).contains(&month).then_some((year, month))
}

#[cfg(test)]
mod tests {
    use super::{TrafficFile, VERSION, decode_traffic, encode_traffic};
    use crate::error::Kind;

    fn file(month: &str) -> TrafficFile {
        TrafficFile { format: VERSION, month: month.into(), bytes_up: 5, bytes_down: u64::MAX }
    }

    #[test]
    fn it_comes_back_as_it_was_written() {
        let bytes = encode_traffic(&file("2026-11")).unwrap();
        assert_eq!(decode_traffic(&bytes, "file").unwrap(), file("2026-11"));
    }

    #[test]
    fn what_is_no_month_is_corrupt() {
        for month in ["", "2026", "2026-13", "2026-00", "2026-1", "26-11", "2026-11-01", "+026-11"] {
            assert_eq!(encode_traffic(&file(month)).unwrap_err().kind(), Kind::Internal, "{month}");
            let (bytes, _) = crate::format::envelope::seal(&file(month)).unwrap();
            assert_eq!(decode_traffic(&bytes, "file").unwrap_err().kind(), Kind::Corrupt, "{month}");
        }
    }
}
