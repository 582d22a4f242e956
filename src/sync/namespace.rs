//! One namespace: take in what the bucket has and is not here, send what is here and not there, commit; until both have all of it.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::PoisonError;

use bytes::Bytes;

use super::objects::{Carried, pull, push};
use super::{Sync, keys};
use crate::engine::remote::{TakenIn, objects_of};
use crate::error::{Error, Result};
use crate::format::manifest::{Manifest, decode_manifest, encode_manifest};
use crate::model::ids::{CommitId, Hlc, NamespaceName, Nsid, Project};
use crate::store::{Outcome, commit, newest, write_hint};

/// How often one pass tries again after another node was quicker.
const ATTEMPTS: usize = 16;

/// What one pass did for a namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Done {
    pub sent: Carried,
    pub fetched: Carried,
    /// The bucket's newest generation, which both sides have now.
    pub generation: Option<u64>,
    /// Documents that two nodes changed apart.
    pub conflicts: u64,
}

/// A manifest of the bucket, and its checksum.
pub(super) struct Found {
    pub manifest: Manifest,
    crc32c: u32,
}

impl Sync {
    /// Makes this node's own copy of a namespace that only the bucket has.
    pub(super) async fn fetch(&self, name: &NamespaceName, nsid: Nsid) -> Result<Done> {
        let Some(found) = self.newest(&name.project, nsid, None).await? else {
            return Err(Error::corrupt(format!("{name} is incarnation {nsid}, which has no manifest in the bucket")));
        };
        self.settle_own(name, nsid, &found.manifest).await?;
        if self.engine.revive(name, &found.manifest).await? {
            return self.exchange(name, nsid).await;
        }
        let _expected = self.engine.expect(&found.manifest);
        let fetched = pull(&self.engine, &self.bucket, objects_of(&found.manifest), &self.options.patience).await?;
        let generation = Some(found.manifest.generation);
        self.engine.adopt(name, found.manifest).await?;
        Ok(Done { fetched, generation, ..Done::default() })
    }

    /// Brings the incarnation that a name is bound to here together with the bucket's.
    pub(super) async fn exchange(&self, name: &NamespaceName, nsid: Nsid) -> Result<Done> {
        let (engine, patience) = (&self.engine, &self.options.patience);
        let mut done = Done::default();
        for _ in 0..ATTEMPTS {
            let common = tokio::task::block_in_place(|| engine.common(nsid))?;
            let found = self.newest_after(&name.project, nsid, common.as_ref()).await?;
            if let Some(found) = &found
                && common.as_ref().is_none_or(|common| common.commit_id != found.manifest.commit_id)
            {
                self.settle_own(name, nsid, &found.manifest).await?;
                self.take_in(name, nsid, &found.manifest, &mut done).await?;
            }
            if self.finish_staged(name, nsid, found.as_ref(), &mut done).await? {
                continue;
            }
            let after = found.as_ref().map(|found| (&found.manifest, found.crc32c));
            let Some(ours) = engine.stage_outgoing(name, after).await? else {
                done.generation = found.map(|found| found.manifest.generation);
                return Ok(done);
            };
            self.send(&ours, found.as_ref(), &mut done).await?;
            if self.commit(name, &ours).await? {
                tokio::task::block_in_place(|| engine.settle_common(nsid))?;
                done.generation = Some(ours.generation);
                // Best effort: a hint for who never was here.
                let current = keys::current(&name.project, nsid);
                if let Err(error) = write_hint(&self.bucket, &current, ours.generation, patience).await {
                    tracing::debug!(namespace = %name, %error, "the hint at the newest generation is not written");
                }
                return Ok(done);
            }
        }
        Err(Error::busy(format!("other nodes committed {name} {ATTEMPTS} times while this one tried to"))
            .with_hint("nothing is lost, the next sync goes on"))
    }

    /// Uploads what a state consists of and the one before it does not.
    async fn send(&self, ours: &Manifest, before: Option<&Found>, done: &mut Done) -> Result<()> {
        let there: BTreeSet<String> =
            before.iter().flat_map(|found| objects_of(&found.manifest)).map(|object| object.key).collect();
        let sent = push(&self.engine, &self.bucket, objects_of(ours), &there, &self.options.patience).await?;
        done.sent.objects += sent.objects;
        done.sent.bytes += sent.bytes;
        Ok(())
    }

    /// Ends a commit that was interrupted, by the same bytes again: as long as nobody knows what became of it, it may become the
    /// next state at any time. Whether there was one that could still be.
    async fn finish_staged(
        &self,
        name: &NamespaceName,
        nsid: Nsid,
        newest: Option<&Found>,
        done: &mut Done,
    ) -> Result<bool> {
        let Some(staged) = tokio::task::block_in_place(|| self.engine.unsettled(nsid))? else { return Ok(false) };
        let follows = match (newest, staged.parent) {
            (None, None) => staged.generation == 0,
            (Some(newest), Some(parent)) => {
                staged.generation == newest.manifest.generation + 1 && parent.commit_id == newest.manifest.commit_id
            }
            _ => false,
        };
        if !follows {
            return Ok(false);
        }
        self.send(&staged, newest, done).await?;
        if self.commit(name, &staged).await? {
            tokio::task::block_in_place(|| self.engine.settle_common(nsid))?;
        }
        Ok(true)
    }

    /// Finds out what became of a commit whose answer this node never heard, now that `newest` is there: it may have been
    /// taken in by others, who went on from it.
    async fn settle_own(&self, name: &NamespaceName, nsid: Nsid, newest: &Manifest) -> Result<()> {
        let Some(staged) = tokio::task::block_in_place(|| self.engine.unsettled(nsid))? else { return Ok(()) };
        let key = keys::manifest(&name.project, nsid, staged.generation);
        let is_there = match staged.generation.cmp(&newest.generation) {
            Ordering::Less => match self.bucket.get(&key, &self.options.patience).await? {
                Some(bytes) => decode_manifest(&bytes, &key)?.0.commit_id == staged.commit_id,
                None => false,
            },
            Ordering::Equal => newest.commit_id == staged.commit_id,
            Ordering::Greater => false,
        };
        match is_there {
            true => tokio::task::block_in_place(|| self.engine.settle_common(nsid)),
            false => Ok(()),
        }
    }

    /// Takes in the bucket's newest state, unless this node has it in common with the bucket.
    async fn take_in(&self, name: &NamespaceName, nsid: Nsid, theirs: &Manifest, done: &mut Done) -> Result<()> {
        let engine = &self.engine;
        let common = tokio::task::block_in_place(|| engine.common(nsid))?;
        if common.as_ref().is_some_and(|common| common.commit_id == theirs.commit_id) {
            return Ok(());
        }
        self.check_writer(name, common.as_ref(), theirs).await?;
        let _expected = engine.expect(theirs);
        let fetched = pull(engine, &self.bucket, objects_of(theirs), &self.options.patience).await?;
        done.fetched.objects += fetched.objects;
        done.fetched.bytes += fetched.bytes;
        match engine.take_in(name, theirs.clone(), self.options.policy).await? {
            TakenIn::Known => {}
            TakenIn::Committed(report) => done.conflicts += report.conflicts,
            TakenIn::Refused(report) => {
                return Err(Error::conflict(format!(
                    "{} documents of {name} were changed here and by another node, and the policy `{}` decides nothing",
                    report.conflicts, report.policy
                ))
                .with_code("diverged")
                .with_hint("choose another policy for sync; until then both sides keep what they have"));
            }
        }
        Ok(())
    }

    /// Refuses a commit of this node's own origin that this node did not make, while something here was never sent: another disk
    /// writes as this one, so clocks say nothing of what the other has seen, and one of both would be lost.
    async fn check_writer(&self, name: &NamespaceName, common: Option<&Manifest>, theirs: &Manifest) -> Result<()> {
        let own = self.engine.origin(name)?;
        let newest = self.engine.seen(name).await?.seen(own);
        let sent = common.map_or(Hlc::default(), |common| common.version_vector.seen(own));
        if theirs.version_vector.seen(own) <= sent || newest <= sent {
            return Ok(());
        }
        Err(Error::conflict(format!(
            "{name}: the bucket has commits of origin {own}, which is this node's, and this node did not make them: its disk was \
             cloned, or restored from a copy, and written to since"
        ))
        .with_code("cloned")
        .with_hint(
            "nothing is lost: copy the namespace to another name and delete it under this one; the next sync brings the bucket's, \
             and `shoal merge` joins the two",
        ))
    }

    /// Whether the bucket's next state is this one now.
    async fn commit(&self, name: &NamespaceName, ours: &Manifest) -> Result<bool> {
        let key = keys::manifest(&name.project, ours.nsid, ours.generation);
        let (bytes, crc32c) = encode_manifest(ours)?;
        let is_mine = |found: &[u8]| Ok(decode_manifest(found, &key)?.0.commit_id == ours.commit_id);
        let key_of = |generation| keys::manifest(&name.project, ours.nsid, generation);
        let (bucket, patience) = (&self.bucket, &self.options.patience);
        let outcome = commit(bucket, &key_of, ours.generation, Bytes::from(bytes), &is_mine, patience).await?;
        if outcome == Outcome::Won {
            self.saw(ours.nsid, ours.commit_id, crc32c);
        }
        Ok(outcome == Outcome::Won)
    }

    /// The newest manifest, which is not older than the one known. While that is the newest it costs one request.
    async fn newest_after(&self, project: &Project, nsid: Nsid, known: Option<&Manifest>) -> Result<Option<Found>> {
        let Some(known) = known else { return self.newest(project, nsid, None).await };
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).get(&nsid).copied();
        let Some((_, crc32c)) = seen.filter(|(commit_id, _)| *commit_id == known.commit_id) else {
            return self.newest(project, nsid, Some(known.generation)).await;
        };
        let next = keys::manifest(project, nsid, known.generation + 1);
        match self.bucket.size(&next, &self.options.patience).await? {
            None => Ok(Some(Found { manifest: known.clone(), crc32c })),
            Some(_) => self.newest(project, nsid, Some(known.generation + 1)).await,
        }
    }

    pub(super) async fn newest(&self, project: &Project, nsid: Nsid, from: Option<u64>) -> Result<Option<Found>> {
        let key = |generation| keys::manifest(project, nsid, generation);
        let below = keys::manifests(project, nsid);
        let Some((generation, bytes)) = newest(&self.bucket, &key, from, &below, &self.options.patience).await?
        else {
            return Ok(None);
        };
        let (manifest, crc32c) = decode_manifest(&bytes, &key(generation))?;
        if manifest.nsid != nsid || manifest.generation != generation {
            return Err(Error::corrupt(format!(
                "{}: is generation {} of {}, expected generation {generation} of {nsid}",
                key(generation),
                manifest.generation,
                manifest.nsid
            )));
        }
        self.saw(nsid, manifest.commit_id, crc32c);
        Ok(Some(Found { manifest, crc32c }))
    }

    fn saw(&self, nsid: Nsid, commit_id: CommitId, crc32c: u32) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(nsid, (commit_id, crc32c));
    }
}
