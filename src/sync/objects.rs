//! Carries objects between the tier and the bucket: a few at a time, what is there already left alone, every byte checked.

use std::collections::BTreeSet;
use std::ops::AddAssign;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::keys;
use crate::engine::Engine;
use crate::engine::layout::conflicts_token;
use crate::engine::remote::{keys_of, owner_of};
use crate::error::{Error, Result};
use crate::format::conflicts::{BYTES_MAX as CONFLICTS_BYTES_MAX, decode_conflicts};
use crate::format::manifest::Manifest;
use crate::meta::ObjectFact;
use crate::model::ids::Project;
use crate::store::{Bucket, Ledger, Patience};
use crate::tier::{Incoming, gone};

/// Objects on their way at once, in one direction.
const AT_ONCE: usize = 4;

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

/// Corrupt when a state of the bucket, which `key` has, names what is no object of a namespace of its own project: through such
/// a name what others have here would be read, or replaced.
pub fn check_objects(project: &Project, state: &Manifest, key: &str) -> Result<()> {
    let below = format!("{}/", keys::namespaces(project));
    match keys_of(state).into_iter().find(|object| !object.starts_with(&below) || owner_of(object).is_none()) {
        Some(object) => Err(Error::corrupt(format!("{key}: names {object}, expected objects below {below} only"))),
        None => Ok(()),
    }
}

/// Says before every object whether it may go over the link.
pub type MayCarry<'a> = &'a (dyn Fn() -> Result<()> + Sync);

/// Puts objects into the bucket that are not among `there`; afterwards all of them are durable there.
pub async fn push(
    engine: &Arc<Engine>,
    bucket: &Bucket,
    objects: Vec<ObjectFact>,
    there: &BTreeSet<String>,
    may_carry: MayCarry<'_>,
    patience: &Patience,
) -> Result<Carried> {
    let missing = objects.into_iter().filter(|object| !there.contains(&object.key));
    let sent = stream::iter(missing)
        .map(|object| async move {
            may_carry()?;
            push_one(engine, bucket, object, patience).await
        })
        .buffer_unordered(AT_ONCE);
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
    let checked = tokio::task::block_in_place(|| check_here(&object, &mapping));
    mapping.check_readable(&object.key).and(checked)?;
    let going = Arc::new(engine.going(&object.key));
    bucket.upload(&object.key, Arc::new(mapping), Some(going), patience).await?;
    Ok(Some(bytes))
}

/// Has the bucket let go of uploads that broke off and that nobody goes on with: everything that is wanted there is there.
pub async fn give_up(engine: &Arc<Engine>, bucket: &Bucket, patience: &Patience) -> Result<()> {
    for key in tokio::task::block_in_place(|| engine.all_going())? {
        let going = engine.going(&key);
        if let Some(upload) = tokio::task::block_in_place(|| going.read()) {
            bucket.give_up(&key, &upload, patience).await?;
        }
        tokio::task::block_in_place(|| going.forget())?;
    }
    Ok(())
}

/// Fetches objects that are not here, from where the last try broke off. The caller keeps them from being swept.
pub async fn pull(
    engine: &Arc<Engine>,
    bucket: &Bucket,
    objects: Vec<ObjectFact>,
    may_carry: MayCarry<'_>,
    patience: &Patience,
) -> Result<Carried> {
    let missing = objects.into_iter().filter(|object| !engine.has_object(&object.key, object.bytes));
    let fetched = stream::iter(missing)
        .map(|object| async move {
            may_carry()?;
            pull_one(engine, bucket, object, patience).await
        })
        .buffer_unordered(AT_ONCE);
    let mut carried = Carried::default();
    let sizes: Vec<u64> = fetched.try_collect().await?;
    sizes.into_iter().for_each(|bytes| carried.add(bytes));
    Ok(carried)
}

/// Gives how many bytes came over the link.
async fn pull_one(engine: &Arc<Engine>, bucket: &Bucket, object: ObjectFact, patience: &Patience) -> Result<u64> {
    let key = &object.key;
    let bytes = match conflicts_token(key) {
        Some(_) => size_of_conflicts(bucket, key, patience).await?,
        None => object.bytes,
    };
    let mut incoming = tokio::task::block_in_place(|| engine.receive(key, bytes))?;
    let mut came = 0;
    loop {
        let here = incoming.here();
        let take = |piece: Bytes| {
            came += piece.len() as u64;
            tokio::task::block_in_place(|| incoming.take(&piece))
        };
        if !bucket.read(key, here..bytes, patience, take).await? {
            return Err(gone(key));
        }
        let Err(error) = tokio::task::block_in_place(|| check(&object, &mut incoming)) else { break };
        incoming.begin_anew()?;
        // A crash may have left anything of an earlier try.
        if here == 0 {
            return Err(error);
        }
    }
    tokio::task::block_in_place(|| incoming.publish())?;
    engine.came(key);
    Ok(came)
}

/// Nobody wrote down how long they are.
async fn size_of_conflicts(bucket: &Bucket, key: &str, patience: &Patience) -> Result<u64> {
    match bucket.size(key, patience).await?.ok_or_else(|| gone(key))? {
        bytes if bytes <= CONFLICTS_BYTES_MAX => Ok(bytes),
        bytes => Err(Error::corrupt(format!(
            "object {key} in the bucket: {bytes} bytes, expected at most {CONFLICTS_BYTES_MAX}"
        ))),
    }
}

/// Conflicts have a checksum of their own, of other objects the state gives it.
fn check(object: &ObjectFact, incoming: &mut Incoming) -> Result<()> {
    if conflicts_token(&object.key).is_some() {
        return decode_conflicts(&incoming.map()?, &object.key).map(drop);
    }
    match (incoming.crc32c(), object.crc32c) {
        (found, expected) if found == expected => Ok(()),
        (found, expected) => Err(differs(object, format!("checksum {found:08x}, expected {expected:08x}"))),
    }
}

/// What is sent is what the state says: a page that is damaged here, or was read wrong, must not take the place of what others need.
fn check_here(object: &ObjectFact, bytes: &[u8]) -> Result<()> {
    if conflicts_token(&object.key).is_some() {
        return decode_conflicts(bytes, &object.key).map(drop);
    }
    match (crc32c::crc32c(bytes), object.crc32c) {
        (found, expected) if found == expected => Ok(()),
        (found, expected) => {
            Err(Error::corrupt(format!("object {} here: checksum {found:08x}, expected {expected:08x}", object.key))
                .with_hint(
                    "it is not sent; `shoal check` says what is damaged, and a later pass sends it once it is right",
                ))
        }
    }
}

fn differs(object: &ObjectFact, what: String) -> Error {
    Error::corrupt(format!("object {} in the bucket: {what}", object.key))
        .with_hint("somebody changed it there; a node that still has it can put it back")
}
