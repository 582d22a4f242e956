//! One namespace: take in what the bucket has and is not here, send what is here and not there, commit; until both have all of it.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use bytes::Bytes;

use super::objects::{Carried, pull, push};
use super::{Sync, keys};
use crate::engine::remote::{TakenIn, objects_of};
use crate::error::{Error, Result};
use crate::format::manifest::{Manifest, decode_manifest, encode_manifest};
use crate::model::ids::{CommitId, NamespaceName, Nsid, Project};
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
    /// What a person should know.
    pub notice: Option<String>,
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
        if self.engine.revive(name, &found.manifest).await? {
            return self.meet(name, nsid).await;
        }
        let _expected = self.engine.expect(&found.manifest);
        let fetched = self.fetch_objects(name, &found.manifest).await?;
        let generation = Some(found.manifest.generation);
        self.engine.adopt(name, found.manifest).await?;
        tokio::task::block_in_place(|| self.engine.let_go(name, nsid))?;
        Ok(Done { fetched, generation, ..Done::default() })
    }

    /// Fetches what a state consists of, but for what is read when it is wanted.
    pub(super) async fn fetch_objects(&self, name: &NamespaceName, state: &Manifest) -> Result<Carried> {
        let mut objects = objects_of(state);
        let in_parts = state.segments.iter().filter(|segment| self.engine.is_in_parts(name, segment));
        let in_parts: BTreeSet<&str> = in_parts.map(|segment| segment.key.as_str()).collect();
        objects.retain(|object| !in_parts.contains(object.key.as_str()));
        pull(&self.engine, &self.bucket, objects, &self.carrying()).await
    }

    /// Fetches what is to be here whole and is here in part, as the namespace was pinned since, or the bound taken away.
    async fn bring_home(&self, name: &NamespaceName, state: &Manifest, done: &mut Done) -> Result<()> {
        let missing = tokio::task::block_in_place(|| self.engine.to_bring_home(name, state));
        if missing.is_empty() {
            return Ok(());
        }
        done.fetched += self.fetch_objects(name, state).await?;
        let keys = missing.into_iter().map(|segment| segment.key).collect();
        tokio::task::block_in_place(|| self.engine.brought_home(&keys))
    }

    /// Brings the incarnation that a name is bound to here as far together with the bucket's as this node's part in it goes.
    pub(super) async fn meet(&self, name: &NamespaceName, nsid: Nsid) -> Result<Done> {
        let mut done = match self.engine.follows(name) {
            true => self.follow(name, nsid).await?,
            false => self.exchange(name, nsid).await?,
        };
        if let Some(common) = tokio::task::block_in_place(|| self.engine.common(nsid))? {
            self.bring_home(name, &common, &mut done).await?;
        }
        tokio::task::block_in_place(|| self.engine.let_go(name, nsid))?;
        Ok(done)
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
                self.take_in(name, nsid, common.as_ref(), &found.manifest, &mut done).await?;
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
        done.sent += push(&self.engine, &self.bucket, objects_of(ours), &there, &self.carrying()).await?;
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
        let Some(staged) = tokio::task::block_in_place(|| self.engine.staged(nsid))? else { return Ok(false) };
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

    pub(super) async fn take_in(
        &self,
        name: &NamespaceName,
        nsid: Nsid,
        common: Option<&Manifest>,
        theirs: &Manifest,
        done: &mut Done,
    ) -> Result<()> {
        let engine = &self.engine;
        // This node's own commit, whose answer was lost or came when nobody waited for it any more.
        let staged = tokio::task::block_in_place(|| engine.staged(nsid))?;
        if staged.is_some_and(|staged| staged.commit_id == theirs.commit_id) {
            return tokio::task::block_in_place(|| engine.settle_common(nsid));
        }
        let notice = self.part_from_clone(name, common, &theirs.version_vector).await?;
        done.notice = notice.or(done.notice.take());
        let _expected = engine.expect(theirs);
        done.fetched += self.fetch_objects(name, theirs).await?;
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
    pub(super) async fn newest_after(
        &self,
        project: &Project,
        nsid: Nsid,
        known: Option<&Manifest>,
    ) -> Result<Option<Found>> {
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
