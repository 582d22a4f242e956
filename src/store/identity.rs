//! The bucket's `_format.json`: which format it has, and which store it is.
//!
//! Created once by the node that attaches first. Nodes that attach at the same time agree: one file is created, all read it.
//! One that is damaged or newer is refused, and never written over. One that is missing although there are objects was lost: what a new node
//! would make of the bucket is another store, and lock out those that it belongs to.
//!
//! A directory is read for it at every write, and wherever something is missing: the mount point of a disk that is away is a directory,
//! too, and has nothing in it. A file costs next to nothing. Other stores are asked when names are listed, since each request is paid
//! for, and what is missing there is not on another disk.

use std::future;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use uuid::Uuid;

use super::bucket::Bucket;
use super::commit::{Outcome, commit};
use super::failure::MISCONFIGURED;
use super::patience::Patience;
use crate::error::{Context, Error, Result};
use crate::format::node::{FormatFile, VERSION, decode_format, encode_format};

/// The key of the file.
pub const FORMAT_KEY: &str = "_format.json";
/// The code of the error that says that another store, or none, is where the bucket was.
pub const REPLACED: &str = "bucket_replaced";
/// The code of the error that says that the bucket is of another store than what this node exchanged with one.
pub const OTHER_STORE: &str = "other_store";
/// A longer file in a directory is none of ours.
pub(super) const FORMAT_BYTES_MAX: u64 = 4 << 10;

/// What the bucket says it is; none when nothing is said yet.
pub async fn read_identity(bucket: &Bucket, patience: &Patience) -> Result<Option<FormatFile>> {
    bucket.get(FORMAT_KEY, patience).await?.map(|bytes| decode(bucket.name(), &bytes)).transpose()
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
        Outcome::Lost(found) => decode(bucket.name(), &found),
    }
}

/// Refuses a bucket that was taken away, or replaced by another: what is known of it is of no other.
pub async fn check_identity(bucket: &Bucket, expected: Uuid, patience: &Patience) -> Result<()> {
    match read_identity(bucket, patience).await? {
        Some(found) if found.store == expected => Ok(()),
        found => Err(replaced(bucket.name(), bucket.is_directory(), found.map(|found| found.store), expected)),
    }
}

impl Bucket {
    /// Says which store this bucket is. From now on a directory that is not is refused.
    pub fn expect(&self, store: Uuid) {
        if let Some(directory) = &self.inner.backend.directory {
            directory.expect(store);
        }
    }

    /// Whether it is a directory of this machine.
    pub fn is_directory(&self) -> bool {
        self.inner.backend.directory.is_some()
    }

    /// Fails when a directory's bucket is not there. Boxed, as it is part of every attempt.
    pub(super) fn standing(&self) -> BoxFuture<'_, object_store::Result<()>> {
        match &self.inner.backend.directory {
            Some(directory) => Box::pin(directory.stands()),
            None => Box::pin(future::ready(Ok(()))),
        }
    }
}

/// An error of ours, through the crate.
pub(super) fn ours(error: Error) -> object_store::Error {
    object_store::Error::Generic { store: "bucket", source: error.into() }
}

pub(super) fn replaced(bucket: &str, is_directory: bool, found: Option<Uuid>, expected: Uuid) -> Error {
    let what = found.map_or("is no store".to_owned(), |found| format!("is store {found}"));
    let hint = match (is_directory, found) {
        (true, None) => {
            "nothing was sent; mount the disk that the bucket is on, or, to begin a new bucket in this directory, copy store/_format.json \
             of the data directory into it"
        }
        (true, Some(_)) => {
            "nothing was sent; mount the disk that this node's bucket is on, or, where its _format.json was lost and another node made one \
             anew, stop that node and copy store/_format.json of this node's data directory over it"
        }
        (false, _) => "nothing was sent; put the bucket back, or start the daemon again to attach what is there",
    };
    Error::conflict(format!("{bucket} {what}, and was store {expected}")).with_code(REPLACED).with_hint(hint)
}

/// What a new node says of a bucket that belongs to a store, as `found` is in it, and does not say to which.
pub fn unclaimed(bucket: &str, found: &str) -> Error {
    Error::invalid(format!("{bucket} has no {FORMAT_KEY}, and has {found}: it belongs to a store, and the file was lost"))
        .with_code(MISCONFIGURED)
        .with_hint(
            "nothing was sent; copy store/_format.json of a node's data directory that belongs to this bucket into it as its \
             _format.json, or name an empty bucket",
        )
}

pub(super) fn decode(bucket: &str, bytes: &[u8]) -> Result<FormatFile> {
    let file = decode_format(bytes, FORMAT_KEY).context(|| bucket.to_owned());
    let file = file.and_then(|file| match file.format {
        0 => Err(Error::corrupt(format!("{bucket}: {FORMAT_KEY}: format version 0"))),
        _ => Ok(file),
    });
    // It stays so until a person mends it.
    file.map_err(|error| error.with_code(MISCONFIGURED))
}
