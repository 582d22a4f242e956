//! Carries objects between the tier and the bucket: a few at a time, what is there already left alone, every byte checked.

use std::collections::BTreeSet;
use std::io::Write;
use std::ops::AddAssign;
use std::sync::Arc;

use futures_util::{StreamExt, TryStreamExt, stream};

use crate::engine::Engine;
use crate::engine::layout::conflicts_token;
use crate::error::{Context as _, Error, Result};
use crate::format::conflicts::decode_conflicts;
use crate::meta::ObjectFact;
use crate::store::{Bucket, Patience};
use crate::tier::gone;

/// Objects on their way at once, in one direction.
const AT_ONCE: usize = 4;
/// What is fetched at once of a large object, and held in memory.
const PIECE_BYTES: u64 = 4 << 20;

/// What went over the link.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    pub objects: u64,
    pub bytes: u64,
}

impl Carried {
    fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes += bytes;
    }
}

impl AddAssign for Carried {
    fn add_assign(&mut self, other: Carried) {
        self.objects += other.objects;
        self.bytes += other.bytes;
    }
}

/// Puts objects into the bucket that are not among `there`; afterwards all of them are durable there.
pub async fn push(
    engine: &Arc<Engine>,
    bucket: &Bucket,
    objects: Vec<ObjectFact>,
    there: &BTreeSet<String>,
    patience: &Patience,
) -> Result<Carried> {
    let missing = objects.into_iter().filter(|object| !there.contains(&object.key));
    let sent =
        stream::iter(missing).map(|object| push_one(engine, bucket, object, patience)).buffer_unordered(AT_ONCE);
    let mut carried = Carried::default();
    let sizes: Vec<Option<u64>> = sent.try_collect().await?;
    sizes.into_iter().flatten().for_each(|bytes| carried.add(bytes));
    Ok(carried)
}

/// Gives its length when it had to be sent.
async fn push_one(
    engine: &Arc<Engine>,
    bucket: &Bucket,
    object: ObjectFact,
    patience: &Patience,
) -> Result<Option<u64>> {
    // An interrupted sync left it there, or another namespace's: names are never used twice, and an object appears whole.
    let there = bucket.size(&object.key, patience).await?;
    if there.is_some() && there == Some(object.bytes) {
        return Ok(None);
    }
    let mapping = tokio::task::block_in_place(|| engine.object(&object))?;
    let bytes = mapping.len() as u64;
    if there == Some(bytes) {
        return Ok(None);
    }
    bucket.upload(&object.key, Arc::new(mapping), patience).await?;
    Ok(Some(bytes))
}

/// Fetches objects that are not here. The caller keeps them from being swept.
pub async fn pull(
    engine: &Arc<Engine>,
    bucket: &Bucket,
    objects: Vec<ObjectFact>,
    patience: &Patience,
) -> Result<Carried> {
    let missing = objects.into_iter().filter(|object| !engine.has_object(&object.key, object.bytes));
    let fetched =
        stream::iter(missing).map(|object| pull_one(engine, bucket, object, patience)).buffer_unordered(AT_ONCE);
    let mut carried = Carried::default();
    let sizes: Vec<u64> = fetched.try_collect().await?;
    sizes.into_iter().for_each(|bytes| carried.add(bytes));
    Ok(carried)
}

async fn pull_one(engine: &Arc<Engine>, bucket: &Bucket, object: ObjectFact, patience: &Patience) -> Result<u64> {
    let key = &object.key;
    if conflicts_token(key).is_some() {
        return pull_conflicts(engine, bucket, key, patience).await;
    }
    let mut writer = engine.receive(key)?;
    let (mut at, mut crc32c) = (0, 0);
    while at < object.bytes {
        let end = object.bytes.min(at + PIECE_BYTES);
        let piece = bucket.get_range(key, at..end, patience).await?.ok_or_else(|| gone(key))?;
        if piece.len() as u64 != end - at {
            return Err(differs(&object, format!("{} bytes from byte {at} on, expected {}", piece.len(), end - at)));
        }
        crc32c = crc32c::crc32c_append(crc32c, &piece);
        tokio::task::block_in_place(|| writer.write_all(&piece)).context(|| format!("write object {key}"))?;
        at = end;
    }
    if crc32c != object.crc32c {
        return Err(differs(&object, format!("checksum {crc32c:08x}, expected {:08x}", object.crc32c)));
    }
    tokio::task::block_in_place(|| writer.publish())?;
    Ok(object.bytes)
}

/// Small, and with a checksum of their own.
async fn pull_conflicts(engine: &Arc<Engine>, bucket: &Bucket, key: &str, patience: &Patience) -> Result<u64> {
    let bytes = bucket.get(key, patience).await?.ok_or_else(|| gone(key))?;
    decode_conflicts(&bytes, key)?;
    let mut writer = engine.receive(key)?;
    tokio::task::block_in_place(|| {
        writer.write_all(&bytes).context(|| format!("write object {key}"))?;
        writer.publish()
    })?;
    Ok(bytes.len() as u64)
}

fn differs(object: &ObjectFact, what: String) -> Error {
    Error::corrupt(format!("object {} in the bucket: {what}", object.key))
        .with_hint("somebody changed it there; a node that still has it can put it back")
}
