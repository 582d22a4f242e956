//! An upload in parts that broke off: what the bucket has of it, so that the next try goes on from there.

use serde::{Deserialize, Serialize};

use super::envelope;
use crate::error::{Error, Result};

pub const VERSION: u32 = 1;
/// The most parts of one object that stores take.
pub const PARTS_MAX: u64 = 10_000;

/// What is known of an upload under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UploadFile {
    pub format: u32,
    /// The object's length.
    pub bytes: u64,
    /// The length of every part but the last.
    pub part_bytes: u64,
    /// The store's name for the upload; empty where it has none.
    pub upload: String,
    /// The store's names for the parts that it has, from the first on without a gap.
    pub parts: Vec<String>,
    /// How many tries in a row sent nothing more.
    pub idle_tries: u32,
}

pub fn encode_upload(file: &UploadFile) -> Result<Vec<u8>> {
    check(file).map_err(|what| Error::internal(format!("encode an upload: {what}")))?;
    envelope::seal(file).map(|(bytes, _)| bytes)
}

pub fn decode_upload(bytes: &[u8], name: &str) -> Result<UploadFile> {
    let (file, _) = envelope::open::<UploadFile>(bytes, VERSION, name)?;
    check(&file).map_err(|what| Error::corrupt(format!("{name}: {what}")))?;
    Ok(file)
}

fn check(file: &UploadFile) -> std::result::Result<(), String> {
    let UploadFile { bytes, part_bytes, parts, .. } = file;
    let count = match part_bytes {
        0 => return Err("parts of no bytes".to_owned()),
        part_bytes => bytes.div_ceil(*part_bytes),
    };
    if count > PARTS_MAX || parts.len() as u64 > count {
        return Err(format!(
            "{} parts of {part_bytes} bytes for {bytes}, expected at most {}",
            parts.len(),
            count.min(PARTS_MAX)
        ));
    }
    Ok(())
}
