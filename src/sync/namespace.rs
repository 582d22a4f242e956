//! One namespace: take in what the bucket has and is not here, send what is here and not there, commit; until both have all of it.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{MutexGuard, PoisonError};

use bytes::Bytes;

use super::holds::foreign;
use super::objects::{Carried, check_objects};
use super::tags::Uploads;
use super::{Sync, binding, keys};
use crate::engine::merge::schemas::SCHEMA_CLASH;
use crate::engine::remote::{TakenIn, keys_of, objects_of, owner_of};
use crate::error::{Error, Result};
use crate::format::manifest::{Manifest, Parent, decode_manifest, encode_manifest};
use crate::model::ids::{CommitId, NamespaceName, Nsid, Project};
use crate::store::{Outcome, commit, follows, newest, write_hint};
use crate::tier::GONE;

/// How often one pass tries again after another node was quicker.
const ATTEMPTS: usize = 16;

/// A clock of another node that is ahead by more is told of.
const AHEAD_MS: u64 = 5 * 60_000;

/// For how long a pass that nobody asked for takes the newest manifest for the newest while none follows it. The next one may have
/// been reclaimed like this one since, but hardly any that was committed so lately; a commit on it would be found not to follow anything.
pub(super) const KNOWN_MS: u64 = 3_600_000;

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

impl Done {
    /// Adds what was done after that.
    pub(super) fn add(&mut self, next: Done) {
        self.sent += next.sent;
        self.fetched += next.fetched;
        self.generation = next.generation.or(self.generation);
        self.conflicts += next.conflicts;
        if let Some(notice) = next.notice {
            self.notice = Some(self.notice.take().map_or(notice.clone(), |before| format!("{before}; {notice}")));
        }
    }

    /// Adds to what a person should know.
    pub(super) fn tell(&mut self, what: String) {
        tracing::warn!("{what}");
        self.add(Done { notice: Some(what), ..Done::default() });
    }
}

/// A manifest of the bucket, and its checksum.
pub(super) struct Found {
    pub manifest: Manifest,
    pub crc32c: u32,
}

/// The newest manifest of the bucket that this node has seen, by its commit, its checksum, and when.
#[derive(Clone, Copy)]
pub(super) struct Seen {
    commit_id: CommitId,
    crc32c: u32,
    at_ms: u64,
}

impl Sync {
    /// Makes this node's own copy of a namespace that only the bucket has.
    pub(super) async fn fetch(&self, name: &NamespaceName, nsid: Nsid) -> Result<Done> {
        let Some(found) = self.newest(&name.project, nsid, None).await? else {
            self.check_name(name, nsid).await?;
            return Err(binding::no_manifest(name, nsid));
        };
        self.settle_own(&name.project, nsid, &found.manifest).await?;
        let mut notice = None;
        if self.engine.revive(name, &found.manifest).await? {
            self.engine.forget_end(name, nsid).await?;
            match self.meet(name, nsid).await {
                Err(error) if error.code() == SCHEMA_CLASH => {
                    notice = Some(self.set_aside(name, nsid, &error).await?)
                }
                met => return met,
            }
        }
        let _expected = self.engine.expect_newest(&name.project, &found.manifest);
        let fetched = self.fetch_objects(name, &found.manifest).await?;
        let generation = Some(found.manifest.generation);
        self.engine.adopt(name, found.manifest.clone()).await?;
        // A second deletion, by anybody, is not to be taken for one that did not hold.
        self.engine.forget_end(name, nsid).await?;
        let mut done = Done { fetched, generation, notice, ..Done::default() };
        self.take_in_tags(name, (None, &found.manifest), &mut done).await?;
        Ok(done)
    }

    /// Fetches what a state consists of, but for what is read when it is wanted.
    pub(super) async fn fetch_objects(&self, name: &NamespaceName, state: &Manifest) -> Result<Carried> {
        let mut objects = objects_of(state);
        let in_parts = state.segments.iter().filter(|segment| self.engine.is_in_parts(name, segment));
        let in_parts: BTreeSet<&str> = in_parts.map(|segment| segment.key.as_str()).collect();
        objects.retain(|object| !in_parts.contains(object.key.as_str()));
        self.pull(objects).await
    }

    /// Fetches what is to be here whole and is here in part, as the namespace was pinned since, or the bound taken away.
    async fn bring_home(&self, name: &NamespaceName, state: &Manifest, done: &mut Done) -> Result<()> {
        let missing = tokio::task::block_in_place(|| self.engine.to_bring_home(name, state));
        if missing.is_empty() {
            return Ok(());
        }
        done.fetched += self.fetch_objects(name, state).await?;
        tokio::task::block_in_place(|| self.engine.brought_home(&missing))
    }

    /// Brings the incarnation that a name is bound to here as far together with the bucket's as this node's part in it goes.
    pub(super) async fn meet(&self, name: &NamespaceName, nsid: Nsid) -> Result<Done> {
        let mut done = match self.engine.follows(name) {
            true => self.follow(name, nsid).await?,
            false => self.exchange(name, nsid).await?,
        };
        if self.engine.has_parts()
            && let Some(common) = tokio::task::block_in_place(|| self.engine.common(nsid))?
        {
            self.bring_home(name, &common, &mut done).await?;
            tokio::task::block_in_place(|| self.engine.let_go(name, &common))?;
            tokio::task::block_in_place(|| self.engine.remember_parts_of(&common));
        }
        Ok(done)
    }

    /// Brings the incarnation that a name is bound to here together with the bucket's.
    pub(super) async fn exchange(&self, name: &NamespaceName, nsid: Nsid) -> Result<Done> {
        let (engine, patience) = (&self.engine, &self.options.patience);
        let (mut done, mut uploads, mut wider) = (Done::default(), Uploads::default(), BTreeSet::new());
        for _ in 0..ATTEMPTS {
            let common = tokio::task::block_in_place(|| engine.common(nsid))?;
            let found = self.newest_after(&name.project, nsid, common.as_ref()).await?;
            if let Some(found) = &found
                && self.settle_own(&name.project, nsid, &found.manifest).await?
            {
                continue;
            }
            // Everything of it was reclaimed, or is going to be: it was deleted, and has its name again.
            let is_over = found.as_ref().map_or(common.is_some(), |found| found.manifest.is_end());
            if is_over {
                self.check_name(name, nsid).await?;
            }
            let mut is_compared = true;
            if let Some(found) = found.as_ref().filter(|_| !is_over) {
                is_compared = self.take_in_tags(name, (common.as_ref(), &found.manifest), &mut done).await?;
            }
            if let Some(found) = &found
                && !is_over
                && common.as_ref().is_none_or(|common| common.commit_id != found.manifest.commit_id)
            {
                self.heed_fences(name, nsid, common.as_ref(), Some(found)).await?;
                let taken = self.take_in(name, common.as_ref(), &found.manifest, &mut done).await;
                if let Err(error) = taken {
                    if error.code() == GONE && self.has_moved_on(&name.project, found).await? {
                        continue;
                    }
                    return Err(error);
                }
            }
            if self.finish_staged(name, nsid, found.as_ref(), &mut done).await? {
                continue;
            }
            if is_over {
                self.heed_fences(name, nsid, common.as_ref(), None).await?;
                tokio::task::block_in_place(|| engine.forget_sent_tags(nsid))?;
                self.withdraw_unborn(name, nsid).await?;
            }
            done.add(Done { notice: self.part_from_lenders(name, nsid).await?, ..Done::default() });
            let due = tokio::task::block_in_place(|| self.tags_due(nsid, &mut done))?;
            let tags = found.as_ref().map_or(0, |found| found.manifest.tags) + u64::from(!due.is_empty());
            let after = found.as_ref().map(|found| (&found.manifest, found.crc32c));
            let Some(ours) = engine.stage_outgoing(name, nsid, after, tags, self.bucket_now()).await? else {
                done.generation = found.map(|found| found.manifest.generation);
                return Ok(done);
            };
            if found.is_none() {
                let lacking = self.hold(name, &ours, &mut wider).await?;
                if !lacking.is_empty() {
                    wider.extend(foreign(nsid, &keys_of(&ours)).into_keys());
                    self.withdraw_holds(name, &ours, &lacking).await?;
                    tokio::task::block_in_place(|| engine.withdraw_staged(nsid));
                    self.renew(name, &lacking).await?;
                    continue;
                }
            }
            self.send(&ours, found.as_ref(), &mut done).await?;
            let sent = self.send_tags(name, (&ours, found.as_ref()), due, &mut uploads, &mut done).await?;
            if self.commit(&name.project, &ours).await? {
                tokio::task::block_in_place(|| engine.settle_common(nsid))?;
                self.tags_sent(nsid, is_compared.then_some(tags), sent)?;
                self.narrow_to_first(name, &ours, &wider).await;
                if found.is_none() {
                    done.sent += self.look_behind(name, &ours).await?;
                }
                let slept_ms = self.bucket_now().abs_diff(ours.committed_ms);
                if found.is_none() && slept_ms > KNOWN_MS {
                    // What it holds may have been given up for that of a node that is lost.
                    let lacking = self.hold(name, &ours, &mut wider).await?;
                    if !lacking.is_empty() {
                        self.renew(name, &lacking).await?;
                        continue;
                    }
                }
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

    /// Uploads what a state consists of and the one before it does not. What others own is there.
    async fn send(&self, ours: &Manifest, before: Option<&Found>, done: &mut Done) -> Result<()> {
        let mut there = before.map(|found| keys_of(&found.manifest)).unwrap_or_default();
        let of_others = |key: &String| owner_of(key) != Some(ours.nsid);
        there.extend(keys_of(ours).into_iter().filter(of_others));
        done.sent += self.push(objects_of(ours), &there).await?;
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
            // A number says nothing: those of a chain that ended are free again.
            (Some(newest), Some(parent)) => parent.commit_id == newest.manifest.commit_id,
            _ => false,
        };
        if !follows {
            return Ok(false);
        }
        let mut wider = BTreeSet::new();
        if newest.is_none() {
            let lacking = self.hold(name, &staged, &mut wider).await?;
            if !lacking.is_empty() {
                // The commit may happen yet, unless another takes its place.
                if self.end_unborn(&name.project, &staged, (nsid, &staged.name)).await? {
                    self.withdraw_holds(name, &staged, &keys_of(&staged)).await?;
                    tokio::task::block_in_place(|| self.engine.withdraw_staged(nsid));
                }
                return Ok(true);
            }
        }
        self.send(&staged, newest, done).await?;
        if self.commit(&name.project, &staged).await? {
            tokio::task::block_in_place(|| self.engine.settle_common(nsid))?;
            self.narrow_to_first(name, &staged, &wider).await;
        }
        Ok(true)
    }

    /// Lets go of what a first state was to hold that its end was quicker than: no state comes to name it, so no fence would.
    async fn withdraw_unborn(&self, name: &NamespaceName, nsid: Nsid) -> Result<()> {
        let staged = tokio::task::block_in_place(|| self.engine.unsettled(nsid))?;
        match staged.filter(|staged| staged.generation == 0) {
            Some(staged) => self.withdraw_holds(name, &staged, &keys_of(&staged)).await,
            None => Ok(()),
        }
    }

    /// Finds out what became of a commit whose answer this node never heard, now that `newest` is there: others may have gone on
    /// from it. Whether it was there.
    pub(super) async fn settle_own(&self, project: &Project, nsid: Nsid, newest: &Manifest) -> Result<bool> {
        let Some(staged) = tokio::task::block_in_place(|| self.engine.unsettled(nsid))? else { return Ok(false) };
        let is_there = match staged.generation.cmp(&newest.generation) {
            Ordering::Less => {
                let there = self.read_generation(project, nsid, staged.generation).await?;
                there.is_some_and(|there| there.commit_id == staged.commit_id)
            }
            Ordering::Equal => newest.commit_id == staged.commit_id,
            Ordering::Greater => false,
        };
        if is_there {
            tokio::task::block_in_place(|| self.engine.settle_common(nsid))?;
        }
        Ok(is_there)
    }

    /// Takes in the bucket's newest state; `common` is the one that was last brought together.
    pub(super) async fn take_in(
        &self,
        name: &NamespaceName,
        common: Option<&Manifest>,
        theirs: &Manifest,
        done: &mut Done,
    ) -> Result<()> {
        let engine = &self.engine;
        let notice = self.part_from_clone(name, common, &theirs.version_vector).await?;
        done.notice = notice.or(done.notice.take());
        let ahead_ms = theirs.version_vector.newest().millis().saturating_sub(self.bucket_now());
        if ahead_ms > AHEAD_MS {
            let minutes = ahead_ms / 60_000;
            done.tell(format!(
                "{name} has writes by a clock that is {minutes} minutes ahead, and until then they prevail over later ones: \
                 look at the clocks of the nodes that write it"
            ));
        }
        let _expected = engine.expect_newest(&name.project, theirs);
        done.fetched += self.fetch_objects(name, theirs).await?;
        let apart = engine.set_apart(name, theirs, common).await?;
        let taken = engine.take_in(name, theirs.clone(), self.options.policy).await;
        let taken = taken.map_err(|error| self.with_way_out(name, error))?;
        if !apart.is_empty() {
            let what = apart.into_iter().collect::<Vec<_>>().join(", ");
            done.tell(format!("{what} of {name} were set here and by another node apart: what was set later holds"));
        }
        match taken {
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

    /// Whether another commit is the newest by now.
    async fn has_moved_on(&self, project: &Project, from: &Found) -> Result<bool> {
        let newest = self.newest(project, from.manifest.nsid, None).await?;
        Ok(newest.is_none_or(|newest| newest.manifest.commit_id != from.manifest.commit_id))
    }

    /// Whether the bucket's next state is this one now.
    pub(super) async fn commit(&self, project: &Project, ours: &Manifest) -> Result<bool> {
        self.before_carrying().await?;
        let key = keys::manifest(project, ours.nsid, ours.generation);
        let (bytes, crc32c) = encode_manifest(ours)?;
        let is_mine = |found: &[u8]| Ok(decode_manifest(found, &key)?.0.commit_id == ours.commit_id);
        let key_of = |generation| keys::manifest(project, ours.nsid, generation);
        // After a fence, or the end, objects go.
        let bucket = if ours.is_fence() || ours.is_end() { self.bucket.for_room() } else { self.bucket.clone() };
        let (bucket, patience) = (&bucket, &self.options.patience);
        let outcome = commit(bucket, &key_of, ours.generation, Bytes::from(bytes), &is_mine, patience).await?;
        if outcome != Outcome::Won {
            return Ok(false);
        }
        let below = keys::manifests(project, ours.nsid);
        let is_next = match ours.parent {
            Some(Parent { commit_id, .. }) => {
                self.has(project, (ours.nsid, ours.generation.saturating_sub(1), commit_id)).await?
            }
            None => follows(bucket, &key_of, ours.generation, &below, patience).await?,
        };
        if !is_next {
            return self.is_of_the_chain(project, ours, &key).await;
        }
        self.saw(ours.nsid, ours.commit_id, crc32c);
        Ok(true)
    }

    /// Whether a commit happened that follows nothing. Numbers of manifests that were reclaimed are free again, to who slept
    /// meanwhile; or others have gone on from it, and reclaimed what it followed.
    async fn is_of_the_chain(&self, project: &Project, ours: &Manifest, key: &str) -> Result<bool> {
        self.forget_head(ours.nsid);
        let next = self.read_generation(project, ours.nsid, ours.generation + 1).await?;
        if next.and_then(|next| next.parent).is_some_and(|parent| parent.commit_id == ours.commit_id) {
            return Ok(true);
        }
        let Some(newest) = self.newest(project, ours.nsid, None).await? else { return Ok(false) };
        if newest.manifest.commit_id == ours.commit_id {
            // Nothing else is left, and it would be taken for the chain; else it is reclaimed with what is as old.
            self.bucket.delete(key, &self.options.patience).await?;
            self.forget_head(ours.nsid);
            return Ok(false);
        }
        // Nobody knows of an object that only this commit named, but from this commit.
        let common = tokio::task::block_in_place(|| self.engine.common(ours.nsid))?;
        let before = common.as_ref().map(keys_of).unwrap_or_default();
        let there = keys_of(&newest.manifest);
        let is_taken_in = !ours.is_fence() && keys_of(ours).difference(&before).any(|key| there.contains(key));
        if !is_taken_in {
            tracing::warn!(key, "the chain went on long ago, this commit is none of it");
        }
        Ok(is_taken_in)
    }

    /// The newest manifest, which is not older than the one known. While that is the newest it costs one request, and where somebody
    /// waits another: manifests go in the order of their numbers, so none that comes after one that is there is gone.
    pub(super) async fn newest_after(
        &self,
        project: &Project,
        nsid: Nsid,
        known: Option<&Manifest>,
    ) -> Result<Option<Found>> {
        let Some(known) = known else { return self.newest(project, nsid, None).await };
        let found = self.newest_from(project, nsid, known).await?;
        self.compare(project, known, found.as_ref()).await?;
        Ok(found)
    }

    async fn newest_from(&self, project: &Project, nsid: Nsid, known: &Manifest) -> Result<Option<Found>> {
        let (seen, now) = (self.known_heads().get(&nsid).copied(), self.clock.now_millis());
        let is_known = |seen: &Seen| {
            seen.commit_id == known.commit_id && (seen.at_ms..seen.at_ms.saturating_add(KNOWN_MS)).contains(&now)
        };
        let Some(Seen { crc32c, .. }) = seen.filter(is_known) else {
            return self.newest(project, nsid, Some(known.generation)).await;
        };
        let next = keys::manifest(project, nsid, known.generation + 1);
        if self.bucket.size(&next, &self.options.patience).await?.is_some() {
            return self.newest(project, nsid, Some(known.generation + 1)).await;
        }
        if self.looks_again() && !self.has(project, (nsid, known.generation, known.commit_id)).await? {
            return self.newest(project, nsid, None).await;
        }
        Ok(Some(Found { manifest: known.clone(), crc32c }))
    }

    pub(super) async fn newest(&self, project: &Project, nsid: Nsid, from: Option<u64>) -> Result<Option<Found>> {
        let key = |generation| keys::manifest(project, nsid, generation);
        let below = keys::manifests(project, nsid);
        let Some((generation, bytes)) = newest(&self.bucket, &key, from, &below, &self.options.patience).await?
        else {
            return Ok(None);
        };
        let (manifest, crc32c) = decode_manifest(&bytes, &key(generation))?;
        let manifest = check(manifest, project, (nsid, generation), &key(generation))?;
        self.saw(nsid, manifest.commit_id, crc32c);
        Ok(Some(Found { manifest, crc32c }))
    }

    /// A manifest of the chain that is not the newest; none when it is there no more.
    pub(super) async fn read_generation(
        &self,
        project: &Project,
        nsid: Nsid,
        generation: u64,
    ) -> Result<Option<Manifest>> {
        let key = keys::manifest(project, nsid, generation);
        let Some(bytes) = self.bucket.get(&key, &self.options.patience).await? else { return Ok(None) };
        check(decode_manifest(&bytes, &key)?.0, project, (nsid, generation), &key).map(Some)
    }

    fn saw(&self, nsid: Nsid, commit_id: CommitId, crc32c: u32) {
        let seen = Seen { commit_id, crc32c, at_ms: self.clock.now_millis() };
        self.known_heads().insert(nsid, seen);
    }

    /// What is the newest of an incarnation is read before it is believed again.
    pub(super) fn forget_head(&self, nsid: Nsid) {
        self.known_heads().remove(&nsid);
    }

    pub(super) fn forget_heads(&self) {
        self.known_heads().clear();
    }

    fn known_heads(&self) -> MutexGuard<'_, BTreeMap<Nsid, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check(manifest: Manifest, project: &Project, (nsid, generation): (Nsid, u64), key: &str) -> Result<Manifest> {
    check_objects(project, &manifest, key)?;
    match manifest.nsid == nsid && manifest.generation == generation {
        true => Ok(manifest),
        false => Err(Error::corrupt(format!(
            "{key}: is generation {} of {}, expected generation {generation} of {nsid}",
            manifest.generation, manifest.nsid
        ))),
    }
}
