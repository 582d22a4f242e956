//! Asks a store, when it is attached, whether it keeps what commits rely on.
//!
//! 1. A fresh key is created twice. If the second create succeeds, or changes the object, the store ignores conditions: nodes
//!    that share it would overwrite each other's commits, so writing to it together is refused.
//! 2. Two keys are listed whose order differs between stores; see [`super::list`].
//!
//! What this cannot find is a store that keeps conditions one after another, but not at the same time.

use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::bucket::{Bucket, Created};
use super::patience::Patience;
use crate::error::{Error, Kind, Result};

/// The code of the error that says that a store ignores conditions.
pub const UNCONDITIONAL: &str = "bucket_without_conditions";
/// Below which the probe's keys are, until they are removed.
const PREFIX: &str = "_probe";
/// How often an ambiguous probe is repeated, with another key each time.
const PROBES_MAX: u32 = 8;

/// Fails when nodes cannot share the store. Leaves nothing behind, unless it cannot remove its keys.
pub async fn probe(bucket: &Bucket, patience: &Patience) -> Result<()> {
    let bucket = &bucket.for_room();
    let mut turns = patience.begin();
    let mut last = Error::unavailable("nothing was asked");
    while turns.attempts() < PROBES_MAX {
        let token = bucket.inner.random.uuid_v7(bucket.inner.clock.now_millis());
        // The second key sorts before the first by bytes, and behind it in a walk of directories.
        let (key, beside) = (format!("{PREFIX}/{token}/a/b"), format!("{PREFIX}/{token}/a-b"));
        let probed = probe_with(bucket, &key, &beside, patience).await;
        for key in [&key, &beside] {
            if let Err(error) = bucket.delete(key, patience).await {
                tracing::warn!(%error, key, "a key of the bucket's probe could not be removed");
            }
        }
        match probed {
            Ok(Answer::Keeps) => return Ok(()),
            Ok(Answer::Unclear(error)) => last = error,
            Err(error) => return Err(error.context(format_args!("probe {}", bucket.name()))),
        }
        match turns.next_wait(&*bucket.inner.random, None) {
            Some(wait) => tokio::time::sleep(wait).await,
            None => break,
        }
    }
    let attempts = turns.attempts();
    Err(last.context(format_args!("probe {}: no clear answer in {attempts} attempts", bucket.name())))
}

enum Answer {
    Keeps,
    Unclear(Error),
}

async fn probe_with(bucket: &Bucket, key: &str, beside: &str, patience: &Patience) -> Result<Answer> {
    let (first, second) = (Bytes::from_static(b"first"), Bytes::from_static(b"second"));
    match bucket.create(key, first.clone(), patience).await.map_err(refused)? {
        Created::Done => {}
        Created::Exists => return Ok(Answer::Unclear(Error::unavailable("a fresh key was said to be taken"))),
        Created::Unknown(error) => return Ok(Answer::Unclear(error)),
    }
    match bucket.create(key, second, patience).await.map_err(refused)? {
        Created::Done => return Err(unconditional("it created the same key twice")),
        Created::Exists => {}
        Created::Unknown(error) => return Ok(Answer::Unclear(error)),
    }
    match bucket.get(key, patience).await? {
        Some(found) if found == first => {}
        Some(_) => return Err(unconditional("it said that a key was taken, and replaced it")),
        None => return Err(unconditional("a key that it created is not there")),
    }
    bucket.put(beside, first, patience).await?;
    let Some((prefix, _)) = beside.rsplit_once('/') else {
        return Err(Error::internal("a probe's key has no prefix"));
    };
    // Read as if in order: an item that is not gives up on that, and is put right.
    let was = bucket.inner.in_order.swap(true, Ordering::Relaxed);
    let listed = bucket.list(prefix, None, 10, patience).await;
    let behind = bucket.list(prefix, Some(beside), 10, patience).await;
    let keys = |page: &super::list::Page| page.objects.iter().map(|listed| listed.key.clone()).collect::<Vec<_>>();
    let in_order = match (&listed, &behind) {
        (Ok(all), Ok(behind)) => {
            bucket.inner.in_order.load(Ordering::Relaxed) && keys(all) == [beside, key] && keys(behind) == [key]
        }
        _ => was,
    };
    bucket.inner.in_order.store(in_order, Ordering::Relaxed);
    let all = listed?;
    behind?;
    match keys(&all) == [beside, key] {
        true => Ok(Answer::Keeps),
        false => {
            Ok(Answer::Unclear(Error::unavailable(format!("a listing showed {} of 2 new keys", all.objects.len()))))
        }
    }
}

fn refused(error: Error) -> Error {
    match error.kind() {
        Kind::Unsupported => unconditional(error.message()),
        _ => error,
    }
}

fn unconditional(why: &str) -> Error {
    Error::unsupported(format!(
        "the store ignores conditions ({why}): shared writing is refused, since nodes would overwrite each other's commits"
    ))
    .with_code(UNCONDITIONAL)
    .with_hint("use a store that honours If-None-Match on PUT, such as S3, R2, MinIO, SeaweedFS, Google Cloud Storage, Azure Blob Storage, or a directory with hard links")
}
