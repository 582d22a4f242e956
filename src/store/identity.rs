//! The bucket's `_format.json`: which format it has, and which store it is.
//!
//! Created once by the node that attaches first. Nodes that attach at the same time agree: one file is created, all read it.
//! One that is damaged or newer is refused, and never written over.

use bytes::Bytes;
use uuid::Uuid;

use super::bucket::Bucket;
use super::commit::{Outcome, commit};
use super::patience::Patience;
use crate::error::{Context, Error, Result};
use crate::format::node::{FormatFile, VERSION, decode_format, encode_format};

/// The key of the file.
pub const FORMAT_KEY: &str = "_format.json";

/// What the bucket says it is; none when nothing is said yet.
pub async fn read_identity(bucket: &Bucket, patience: &Patience) -> Result<Option<FormatFile>> {
    bucket.get(FORMAT_KEY, patience).await?.map(|bytes| decode(bucket, &bytes)).transpose()
}

/// What the bucket says it is. Where nothing is said, it is the store `proposed` from now on.
pub async fn claim_identity(bucket: &Bucket, proposed: Uuid, patience: &Patience) -> Result<FormatFile> {
    if let Some(found) = read_identity(bucket, patience).await? {
        return Ok(found);
    }
    let file = FormatFile { format: VERSION, store: proposed };
    let bytes = Bytes::from(encode_format(&file)?);
    // Nodes with the same proposal agree whoever wins.
    let is_mine = |found: &[u8]| Ok(found == bytes);
    match commit(bucket, &|_| FORMAT_KEY.to_owned(), 0, bytes.clone(), &is_mine, patience).await? {
        Outcome::Won => Ok(file),
        Outcome::Lost(found) => decode(bucket, &found),
    }
}

fn decode(bucket: &Bucket, bytes: &[u8]) -> Result<FormatFile> {
    let file = decode_format(bytes, FORMAT_KEY).context(|| bucket.name().to_owned())?;
    match file.format {
        0 => Err(Error::corrupt(format!("{}: {FORMAT_KEY}: format version 0", bucket.name()))),
        _ => Ok(file),
    }
}
