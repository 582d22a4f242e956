//! Holds: what a branch or a copy needs of others' objects, said below the prefix of each of these.
//!
//! A hold is written, and only then looked for: where a retained state of who it came from names the object, no fence so far has
//! condemned it, and every later one is followed by a look at the holds. Only a first state may need a hold. What it cannot get one
//! for, and what later states name of others beyond the state before, is sent as the namespace's own.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::collect::Of;
use super::{Sync, keys};
use crate::engine::layout::number_of;
use crate::engine::remote::{keys_of, owner_of};
use crate::error::{Error, Result};
use crate::format::manifest::Manifest;
use crate::format::names::parse_name;
use crate::format::reclaim::{Fence, HoldFile, VERSION, decode_hold, encode_hold};
use crate::model::ids::{NamespaceName, Nsid, Project};
use crate::store::{Outcome, commit};

/// Past states that are looked at for what a branch needs and the newest does not name any more.
const WALK_MAX: usize = 16;
/// The most holds on one namespace's objects.
const HOLDS_MAX: usize = 100_000;
/// How often holds are read anew because they change under the reader.
const ATTEMPTS: usize = 8;

/// The objects of others that some keys are, by their owners.
pub(super) fn foreign<'a>(
    nsid: Nsid,
    keys: impl IntoIterator<Item = &'a String>,
) -> BTreeMap<Nsid, BTreeSet<String>> {
    let mut found: BTreeMap<Nsid, BTreeSet<String>> = BTreeMap::new();
    for key in keys {
        if let Some(owner) = owner_of(key).filter(|owner| *owner != nsid) {
            found.entry(owner).or_default().insert(key.clone());
        }
    }
    found
}

impl Sync {
    /// Holds what the first state `ours` names of others. Gives what cannot be held, since nobody can promise that it is there. Adds to
    /// `wider` of whom more is held, for a first state that did not come to be.
    pub(super) async fn hold(
        &self,
        name: &NamespaceName,
        ours: &Manifest,
        wider: &mut BTreeSet<Nsid>,
    ) -> Result<BTreeSet<String>> {
        let needed = foreign(ours.nsid, &keys_of(ours));
        if needed.is_empty() {
            return Ok(BTreeSet::new());
        }
        for (owner, objects) in &needed {
            if self.write_hold(name, ours.nsid, *owner, objects).await? {
                wider.insert(*owner);
            }
        }
        // Only now: a fence that comes later finds the holds.
        let mut lacking: BTreeSet<String> = needed.values().flatten().cloned().collect();
        let parent = ours.lineage.as_ref().map(|lineage| lineage.nsid);
        let sources: BTreeSet<Nsid> = needed.keys().copied().chain(parent).collect();
        for source in sources {
            self.confirm(&name.project, source, &mut lacking).await?;
        }
        Ok(lacking)
    }

    /// Takes out what a retained state of `source` names.
    async fn confirm(&self, project: &Project, source: Nsid, lacking: &mut BTreeSet<String>) -> Result<()> {
        let known = tokio::task::block_in_place(|| self.engine.common(source))?;
        let newest = self.newest(project, source, known.map(|known| known.generation)).await?;
        let Some(mut manifest) = newest.map(|found| found.manifest).filter(|newest| !newest.is_end()) else {
            return Ok(());
        };
        let retained = manifest.fence.as_ref().map_or(0, |fence| fence.retained);
        for _ in 0..WALK_MAX {
            let named = keys_of(&manifest);
            lacking.retain(|key| !named.contains(key));
            if lacking.is_empty() || manifest.generation <= retained {
                break;
            }
            match self.read_generation(project, source, manifest.generation - 1).await? {
                Some(before) => manifest = before,
                None => break,
            }
        }
        Ok(())
    }

    /// Lets go of what cannot be held. Nobody can have forked from a namespace that has no state in the bucket.
    pub(super) async fn withdraw_holds(
        &self,
        name: &NamespaceName,
        ours: &Manifest,
        lacking: &BTreeSet<String>,
    ) -> Result<()> {
        for (owner, mut objects) in foreign(ours.nsid, &keys_of(ours)) {
            objects.retain(|key| !lacking.contains(key));
            self.narrow_hold(&name.project, &name.to_string(), ours.nsid, owner, &objects).await?;
        }
        Ok(())
    }

    /// Lets go of what only first states that did not come to be held of `owners`, now that `ours` has taken their place. What is not
    /// let go of here costs space, and nothing else.
    pub(super) async fn narrow_to_first(&self, name: &NamespaceName, ours: &Manifest, owners: &BTreeSet<Nsid>) {
        let needed = foreign(ours.nsid, &keys_of(ours));
        let nothing = BTreeSet::new();
        for owner in owners {
            let objects = needed.get(owner).unwrap_or(&nothing);
            if let Err(error) = self.narrow_hold(&name.project, &name.to_string(), ours.nsid, *owner, objects).await {
                tracing::debug!(namespace = %name, %owner, %error, "more is held in the bucket than is needed");
            }
        }
    }

    /// Makes sure that a hold names these objects. Whether it names more.
    async fn write_hold(
        &self,
        name: &NamespaceName,
        holder: Nsid,
        owner: Nsid,
        objects: &BTreeSet<String>,
    ) -> Result<bool> {
        for _ in 0..ATTEMPTS {
            let revs = self.revisions(&name.project, holder, owner).await?;
            let known = match revs.last() {
                Some(rev) => self.read_hold(&keys::hold(&name.project, owner, holder, *rev), owner).await?,
                None => None,
            };
            let known: BTreeSet<String> = known.into_iter().flat_map(|known| known.objects).collect();
            if known.is_superset(objects) {
                return Ok(known.len() > objects.len());
            }
            // A commit that nobody knows the outcome of may need what was held before.
            let all: BTreeSet<String> = known.union(objects).cloned().collect();
            if self.next_hold(&name.project, &name.to_string(), holder, owner, &revs, &all).await? {
                return Ok(all.len() > objects.len());
            }
        }
        Err(Error::busy(format!("another node holds objects for {name}, too, and changes that all the time")))
    }

    /// Says that the holder needs these objects only, or none at all. Only after its own fence has passed every state that named more.
    pub(super) async fn narrow_hold(
        &self,
        project: &Project,
        name: &str,
        holder: Nsid,
        owner: Nsid,
        objects: &BTreeSet<String>,
    ) -> Result<()> {
        let revs = self.revisions(project, holder, owner).await?;
        let Some(last) = revs.last() else { return Ok(()) };
        if objects.is_empty() {
            return self.remove_holds(project, holder, owner, &revs).await;
        }
        let key = keys::hold(project, owner, holder, *last);
        let Some(known) = self.read_hold(&key, owner).await? else { return Ok(()) };
        match known.objects.iter().eq(objects) {
            true => self.remove_holds(project, holder, owner, &revs[..revs.len() - 1]).await,
            // Where another node was quicker it has said the same.
            false => self.next_hold(project, name, holder, owner, &revs, objects).await.map(|_| ()),
        }
    }

    /// Writes the next revision, then removes those before it. Whether it is this one's.
    async fn next_hold(
        &self,
        project: &Project,
        name: &str,
        holder: Nsid,
        owner: Nsid,
        revs: &[u64],
        objects: &BTreeSet<String>,
    ) -> Result<bool> {
        let at_ms = self.bucket_now();
        // Above every number that was ever used, of revisions that are gone, too: a late request to remove one must not meet it.
        let rev = revs.last().map_or(0, |last| last + 1).max(at_ms);
        let objects = objects.iter().cloned().collect();
        let file = HoldFile { format: VERSION, holder, name: name.to_owned(), owner, rev, at_ms, objects };
        let bytes = Bytes::from(encode_hold(&file)?);
        let key_of = |rev| keys::hold(project, owner, holder, rev);
        let is_mine = |found: &[u8]| Ok(found == bytes);
        let outcome = commit(&self.bucket, &key_of, rev, bytes.clone(), &is_mine, &self.options.patience).await?;
        if outcome != Outcome::Won {
            return Ok(false);
        }
        self.remove_holds(project, holder, owner, revs).await?;
        Ok(true)
    }

    async fn remove_holds(&self, project: &Project, holder: Nsid, owner: Nsid, revs: &[u64]) -> Result<()> {
        for rev in revs {
            self.bucket.delete(&keys::hold(project, owner, holder, *rev), &self.options.patience).await?;
        }
        Ok(())
    }

    async fn revisions(&self, project: &Project, holder: Nsid, owner: Nsid) -> Result<Vec<u64>> {
        let below = keys::holds_of(project, owner, holder);
        let listed = self.bucket.list_all(&below, None, HOLDS_MAX, &self.options.patience).await?;
        let number = |key: &str| key.rsplit('/').next().and_then(number_of);
        Ok(listed.iter().filter_map(|listed| number(&listed.key)).collect())
    }

    async fn read_hold(&self, key: &str, owner: Nsid) -> Result<Option<HoldFile>> {
        let Some(bytes) = self.bucket.get(key, &self.options.patience).await? else { return Ok(None) };
        let hold = decode_hold(&bytes, key)?;
        match hold.owner == owner {
            true => Ok(Some(hold)),
            false => Err(Error::corrupt(format!("{key}: holds objects of {}, expected {owner}", hold.owner))),
        }
    }

    /// All that others hold of a namespace's objects, without what nobody is going to need: holds from before `until_ms` of who has
    /// no state in the bucket are given up.
    pub(super) async fn held(&self, of: &Of<'_>, newest: &Manifest, until_ms: u64) -> Result<BTreeSet<String>> {
        let mut held = BTreeSet::new();
        for hold in self.holds(of.project(), of.nsid).await? {
            let is_idle = hold.at_ms <= until_ms && self.is_idle(of.project(), newest, &hold).await?;
            match is_idle {
                true => {
                    self.narrow_hold(of.project(), &hold.name, hold.holder, of.nsid, &BTreeSet::new()).await?;
                }
                false => held.extend(hold.objects),
            }
        }
        Ok(held)
    }

    /// Whether the holder has ended, and has no name. Who has no state yet may be about to commit one, so the place of its first one is taken by
    /// its end: it finds that when it commits, and sends everything as its own.
    async fn is_idle(&self, project: &Project, owner: &Manifest, hold: &HoldFile) -> Result<bool> {
        if let Some(found) = self.newest(project, hold.holder, None).await? {
            // One that was ended while it got its name again is whole, and is sent anew by who has it.
            return match parse_name(&hold.name).filter(|_| found.manifest.is_end()) {
                Some(name) => self.is_dead(&name, hold.holder).await,
                None => Ok(false),
            };
        }
        self.end_unborn(project, owner, (hold.holder, &hold.name)).await
    }

    /// Makes the end of a namespace its first state in the bucket, so that nothing else can be. Whether that is so. `template` gives
    /// what means nothing there.
    pub(super) async fn end_unborn(
        &self,
        project: &Project,
        template: &Manifest,
        (nsid, name): (Nsid, &str),
    ) -> Result<bool> {
        let at_ms = self.bucket_now();
        let fence = Fence { generation: 0, sweep: keys::sweep(project, nsid, 0), retained: 1, at_ms };
        let end = Manifest {
            nsid,
            name: name.to_owned(),
            generation: 0,
            parent: None,
            commit_id: self.engine.new_commit_id(),
            lineage: None,
            segments: Vec::new(),
            conflicts: Vec::new(),
            tags: 0,
            committed_ms: at_ms,
            ..template.clone()
        };
        self.commit(project, &end.fenced(Some(fence))).await
    }

    /// All holds on a namespace's objects. Every revision counts, and all that are listed are read.
    pub(super) async fn holds(&self, project: &Project, owner: Nsid) -> Result<Vec<HoldFile>> {
        'attempt: for _ in 0..ATTEMPTS {
            let listed =
                self.bucket.list_all(&keys::holds(project, owner), None, HOLDS_MAX, &self.options.patience).await?;
            let mut holds = Vec::new();
            for hold in &listed {
                match self.read_hold(&hold.key, owner).await? {
                    Some(hold) => holds.push(hold),
                    // The one that took its place may not be among these.
                    None => continue 'attempt,
                }
            }
            return Ok(holds);
        }
        Err(Error::busy(format!("holds on objects of {owner} change all the time"))
            .with_hint("nothing was deleted; the next run of reclaim goes on"))
    }
}
