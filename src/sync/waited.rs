//! What somebody waits for: when the pass is over, all that was acknowledged before is in the bucket, under whatever name, and what is
//! here is of who has the name there.
//!
//! - Who deletes a namespace looks at what was committed after that, who commits looks at its name after that: one of the two always
//!   sees the other.
//! - What had to give way was part of the namespace, and is sent with it; by a later pass if this one does not come to it.
//! - That a pass went well is not enough to say that a write is in the bucket: a manifest there has to cover its version.

use tokio::time::Instant;

use super::names::Newest;
use super::namespace::Done;
use super::worker::{TIMEOUT, Worker};
use super::{Attached, Pass, Selection, Sync, binding, names};
use crate::error::{Error, Result};
use crate::model::ids::{NamespaceName, Nsid, Version};
use crate::model::version_vector::VersionVector;

/// How often one pass goes on with a name that others bind meanwhile.
const ATTEMPTS: usize = 16;
/// How many passes that go well may leave a write behind before its writer is told that it is not in the bucket.
const PASSES_MAX: usize = 4;

/// Something that was acknowledged in an incarnation, which the bucket is to have.
#[derive(Clone, Debug, PartialEq)]
pub struct Awaited {
    nsid: Nsid,
    seen: VersionVector,
}

impl Awaited {
    /// One commit.
    pub fn commit(nsid: Nsid, version: Version) -> Self {
        Awaited { nsid, seen: VersionVector::of(version.origin, version.hlc) }
    }

    /// Everything that a state has seen.
    pub fn all(nsid: Nsid, seen: VersionVector) -> Self {
        Awaited { nsid, seen }
    }
}

impl Worker {
    /// [`Worker::together`], until a manifest in the bucket covers what is awaited.
    pub async fn in_bucket(&self, name: &NamespaceName, mut awaited: Awaited, end: Instant) -> Result<Done> {
        let mut done = Done::default();
        for _ in 0..PASSES_MAX {
            done.add(self.together(name, end).await?);
            if self.sync()?.has_in_bucket(name, &mut awaited).await? {
                return Ok(done);
            }
        }
        let what = format!("{name}: {PASSES_MAX} passes of sync went well, and the bucket does not have this write");
        tracing::error!("{what}");
        Err(Error::unavailable(what).with_code(TIMEOUT))
    }
}

impl Sync {
    /// Whether the bucket has what is awaited, as this node knows the bucket since its last pass: under the name, or under another by
    /// which it is kept. True also for what is not here any more: who deleted it had seen it.
    pub async fn has_in_bucket(&self, name: &NamespaceName, awaited: &mut Awaited) -> Result<bool> {
        let engine = &self.engine;
        let mut names = vec![name.clone()];
        names.extend(self.kept_of(name)?);
        names.extend(engine.named().into_iter().filter(|(_, nsid)| *nsid == awaited.nsid).map(|(name, _)| name));
        let mut is_here = false;
        for name in &names {
            let Some(nsid) = engine.nsid_of(name) else { continue };
            let (_, seen) = engine.acknowledged(name)?;
            if nsid == awaited.nsid && !seen.covers_all(&awaited.seen) {
                // It took a new origin since: what was acknowledged is that one's now.
                awaited.seen = seen.clone();
            }
            let common = tokio::task::block_in_place(|| engine.common(nsid))?;
            if common.is_some_and(|common| common.version_vector.covers_all(&awaited.seen)) {
                return Ok(true);
            }
            is_here |= seen.covers_all(&awaited.seen);
        }
        Ok(!is_here)
    }

    /// Brings a name together, and where somebody waits what is kept of it under other names; the error is that of any of them.
    pub(super) async fn bring(
        &self,
        attached: &mut Attached,
        name: &NamespaceName,
        in_bucket: &Newest,
        selection: &Selection,
        pass: &mut Pass,
    ) -> Result<()> {
        let mut all = vec![name.clone()];
        let mut at = 0;
        while let Some(next) = all.get(at).cloned() {
            let began = self.clock.steady_millis();
            let listed = match in_bucket.of(&next) {
                Ok(listed) => self.as_it_is(attached, &next, listed).await,
                unread => unread,
            };
            let done = match listed {
                Err(error) => Err(error),
                Ok(rev) if selection.is_unasked() => self.bring_together(attached, &next, rev).await,
                Ok(rev) => self.settle(attached, &next, rev, selection).await,
            };
            let done = done.inspect_err(|error| self.engine.note_damage(&next, error));
            pass.namespaces.insert(next.clone(), done.as_ref().cloned().map_err(Error::duplicate));
            if let Err(error) = self.note(&next, began, done) {
                if next != *name {
                    let error = error.duplicate().context(format_args!("send what is kept of {name} as {next}"));
                    pass.namespaces.insert(name.clone(), Err(error));
                }
                return Err(error);
            }
            self.engine.has_name(&next);
            if !selection.is_unasked() {
                let kept = self.kept_of(&next)?.into_iter();
                all.extend(kept.filter(|kept| !selection.excludes(kept) && !all.contains(kept)).collect::<Vec<_>>());
            }
            at += 1;
        }
        Ok(())
    }

    /// Brings a name together, `rev` being what was listed of it, until it means in the bucket what it was settled by.
    async fn settle(
        &self,
        attached: &mut Attached,
        name: &NamespaceName,
        mut rev: Option<u64>,
        selection: &Selection,
    ) -> Result<Done> {
        if !selection.is_whole() {
            // Names were listed some time ago.
            rev = self.newest_rev(attached, name, rev).await?;
        }
        let mut done = Done::default();
        for _ in 0..ATTEMPTS {
            done.add(self.bring_together(attached, name, rev).await?);
            let newest = self.newest_rev(attached, name, rev).await?;
            if newest == rev {
                return Ok(done);
            }
            rev = newest;
        }
        Err(binding::overtaken(name))
    }

    /// The newest revision of a name, after one that is known.
    async fn newest_rev(
        &self,
        attached: &mut Attached,
        name: &NamespaceName,
        known: Option<u64>,
    ) -> Result<Option<u64>> {
        let newest = names::newest_after(&self.bucket, name, known, &self.options.patience).await?;
        if let (Some((names, _)), Some(newest)) = (&mut attached.names, newest) {
            names.known.insert(name.clone(), newest);
        }
        Ok(newest)
    }
}
