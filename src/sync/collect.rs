//! Reclaims one namespace in the bucket, by the steps of [`crate::engine::reclaim`].
//!
//! - What is condemned is what a listing shows and no retained manifest names. Only that is ever deleted, whatever a list says
//!   that somebody wrote.
//! - No object goes before a fence that condemned it is the newest manifest but for later ones, and the holds were listed after
//!   that. What a fence condemned already and nobody deleted needs no other.
//! - Manifests go last, the oldest first: as long as one of them is there, it says what is still to be done.
//! - Anything that cannot be read ends the run for this namespace.

use std::collections::BTreeSet;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::collect_tags::{DELETIONS_MAX, Tagged};
use super::gone::nameless;
use super::namespace::{Found, KNOWN_MS};
use super::{Sync, keys};
use crate::engine::layout::{number_of, prefix};
use crate::engine::remote::keys_of;
use crate::error::{Error, Result};
use crate::format::manifest::{Manifest, Parent};
use crate::format::reclaim::{CONDEMNED_MAX, Fence, SweepFile, VERSION, decode_sweep, encode_sweep};
use crate::model::ids::{NamespaceName, Nsid, Project};
use crate::store::{Bucket, Listed, PAGE_KEYS_MAX, Patience, write_hint};

/// The code of a run that would have deleted most of a namespace's objects.
pub const RECLAIM_REFUSED: &str = "reclaim_refused";

/// The code of a run that would have gone by a clock that is not believed.
pub const CLOCK_DOUBTED: &str = "clock_doubted";

/// The most past states of one namespace that are retained, each of which a run reads; the oldest go first.
pub const RETAINED_MAX: usize = 256;
/// Beside those that were replaced so lately that who knows them looks for the next one only; of these, too, a run reads each.
const LATE_MAX: usize = 16_384;
/// How often one run begins anew because others commit.
const ATTEMPTS: usize = 8;
/// Requests under way at once.
const AT_ONCE: usize = 4;
/// The most keys of one namespace that one run looks at.
const LISTED_MAX: usize = 1_000_000;
/// Whatever share of a namespace it is, so much may go.
const FREE_BYTES: u64 = 64 << 20;
/// Of every four bytes at most so many may go unless forced: one merge of all segments leaves a half.
const QUARTERS_MAX: u64 = 3;

/// What is asked of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reclaim {
    /// For how long states that were replaced, and deleted namespaces, are kept.
    pub retention_ms: u64,
    /// Whatever share of the store it is, and what was begun as long ago and never came to be, too.
    pub forced: bool,
    /// Nothing is written or deleted.
    pub dry_run: bool,
    /// Leaves out what somebody reclaimed in so many milliseconds before.
    pub rest_ms: u64,
}

/// What a run did for a namespace, or would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reclaimed {
    pub objects: u64,
    pub bytes: u64,
    pub manifests: u64,
    /// Objects that are there because others hold them.
    pub held: u64,
    /// Whether a next run finds more.
    pub is_partial: bool,
}

impl Reclaimed {
    pub(super) fn add(&mut self, other: Reclaimed) {
        self.objects += other.objects;
        self.bytes += other.bytes;
        self.manifests += other.manifests;
        (self.held, self.is_partial) = (other.held, other.is_partial);
    }
}

/// Whose objects they are, and whether the namespace was deleted for good.
pub(super) struct Of<'a> {
    pub name: &'a NamespaceName,
    pub nsid: Nsid,
    pub is_dead: bool,
}

impl Of<'_> {
    pub(super) fn project(&self) -> &Project {
        &self.name.project
    }
}

/// What there is of a namespace.
struct Survey {
    /// The oldest generation that a fence on the newest retains, and all that is named from there on or tagged.
    retained: u64,
    named: BTreeSet<String>,
    /// Lists of a deleted namespace's fences: who finds its end needs none of them.
    lists: Option<Vec<String>>,
    /// Generations that are there, ascending.
    generations: Vec<u64>,
    condemned: Vec<Listed>,
    condemned_bytes: u64,
    listed_bytes: u64,
    is_partial: bool,
}

impl Sync {
    /// Condemns what nobody needs, and deletes what nobody holds of it.
    /// `is_going_on`: a round before had more to condemn than one list names.
    pub(super) async fn collect(&self, of: &Of<'_>, ask: &Reclaim, is_going_on: bool) -> Result<Reclaimed> {
        for _ in 0..ATTEMPTS {
            let Some(found) = self.newest(of.project(), of.nsid, None).await? else {
                return Ok(Reclaimed::default());
            };
            if of.is_dead && is_named_since(of, &found.manifest)? {
                return Ok(Reclaimed::default());
            }
            if found.manifest.is_end() && !of.is_dead {
                // Deleted, reclaimed and given its name again: who has it sends it anew.
                return Ok(Reclaimed::default());
            }
            let now = self.bucket_now();
            let last_ms = found.manifest.fence.as_ref().map(|fence| fence.at_ms);
            let is_within = |ms: u64| last_ms.is_some_and(|last| (last..last.saturating_add(ms)).contains(&now));
            if is_within(ask.rest_ms) && !is_going_on {
                return Ok(Reclaimed::default());
            }
            let until_ms = now.saturating_sub(ask.retention_ms);
            let tagged = self.tagged(of, &found.manifest, until_ms).await?;
            if !ask.dry_run {
                self.take_lost_tags(of, &tagged)?;
            }
            let mut survey = self.survey(of, &found.manifest, ask, &tagged).await?;
            if found.manifest.is_end() && is_within(ask.retention_ms) && !is_going_on {
                // What is new may be from who is bringing it back: another end would have it all sent once more.
                let list = self.list(&found.manifest).await?;
                survey.condemned.retain(|object| list.contains(&object.key));
            }
            let released = survey.generations.partition_point(|generation| *generation < survey.retained) as u64;
            let is_ended = of.is_dead && found.manifest.is_end();
            let is_bare = is_ended && survey.generations.len() == 1 && survey.lists.iter().flatten().count() <= 1;
            if survey.condemned.is_empty() && tagged.deleted.is_empty() && (released == 0 || is_bare) {
                if !ask.dry_run {
                    self.drop_tags(of, &tagged, &survey.named).await?;
                }
                return Ok(Reclaimed::default());
            }
            if !ask.forced && !of.is_dead {
                survey.check_share(of.name)?;
            }
            if ask.dry_run {
                let holds = self.holds(of.project(), of.nsid).await?;
                let held = holds.into_iter().flat_map(|hold| hold.objects).collect();
                let mut done = survey.without(&held);
                done.manifests = released.saturating_sub(u64::from(is_ended));
                return Ok(done);
            }
            let fence = match self.is_condemned(&found.manifest, &survey, &tagged).await? {
                true => found.manifest,
                false => match self.fence(of, &found, &survey, &tagged).await? {
                    Some(fence) => fence,
                    None => continue,
                },
            };
            return self.delete(of, &fence, (&survey, &tagged), until_ms).await;
        }
        Err(Error::busy(format!("other nodes committed {} {ATTEMPTS} times while it was to be reclaimed", of.name))
            .with_hint("nothing is lost, the next run goes on"))
    }

    async fn survey(&self, of: &Of<'_>, newest: &Manifest, ask: &Reclaim, tagged: &Tagged) -> Result<Survey> {
        let (retained, mut named) = match of.is_dead {
            // The fence that is to come retains nothing, not even its own generation's objects.
            true => (newest.generation + 2, BTreeSet::new()),
            false => self.retained(of, newest, ask.retention_ms).await?,
        };
        named.extend(tagged.named.iter().cloned());
        let mut survey = Survey {
            retained,
            named,
            lists: of.is_dead.then(Vec::new),
            generations: Vec::new(),
            condemned: Vec::new(),
            condemned_bytes: 0,
            listed_bytes: 0,
            is_partial: false,
        };
        let below = prefix(of.project(), of.nsid);
        let mut after: Option<String> = None;
        let mut listed = 0;
        loop {
            let page = self.bucket.list(&below, after.as_deref(), PAGE_KEYS_MAX, &self.options.patience).await?;
            listed += page.objects.len();
            after = page.objects.last().map(|last| last.key.clone());
            for object in page.objects {
                survey.take(&below, object);
            }
            if !page.more {
                return Ok(survey);
            }
            if listed >= LISTED_MAX {
                survey.is_partial = true;
                return Ok(survey);
            }
        }
    }

    /// The time in milliseconds by the bucket's clock, where it has one: an own clock that is ahead must not release what is new.
    pub(super) fn bucket_now(&self) -> u64 {
        let now = self.clock.now_millis();
        self.bucket.traffic().clock().map_or(now, |clock| clock.at(now))
    }

    /// Refuses what goes for its age where nobody knows the time: neither the bucket says it nor is this machine's clock believed.
    pub(super) fn check_clock(&self, ask: &Reclaim) -> Result<()> {
        let store = self.bucket.traffic().clock();
        let is_believed = || tokio::task::block_in_place(|| self.engine.believed_time(None)).is_some();
        if ask.retention_ms == 0 || store.is_some() || is_believed() {
            return Ok(());
        }
        Err(Error::conflict(
            "this machine's clock jumped, or what it showed before is lost, and the bucket does not tell the time: nobody knows how old anything \
             in it is",
        )
        .with_code(CLOCK_DOUBTED)
        .with_hint("nothing was deleted; see that the clock is right: a day after it jumped it is believed again"))
    }

    /// The oldest generation that is retained, and all that is named from there to the newest.
    async fn retained(&self, of: &Of<'_>, newest: &Manifest, retention_ms: u64) -> Result<(u64, BTreeSet<String>)> {
        let floor = newest.fence.as_ref().map_or(0, |fence| fence.retained);
        let now = self.bucket_now();
        let mut named = named(newest);
        let mut oldest = newest.clone();
        let mut next_ms = now;
        for count in 1..LATE_MAX {
            if oldest.generation <= floor || retention_ms == 0 && !oldest.is_fence() {
                break;
            }
            let Some(before) = self.read_generation(of.project(), of.nsid, oldest.generation - 1).await? else {
                break;
            };
            // The one before was replaced when this one was committed. Of that a clock that was behind tells only that it was before the next.
            let is_behind = oldest.committed_ms < before.committed_ms;
            let replaced_ms = if is_behind { next_ms } else { oldest.committed_ms.min(next_ms) };
            // One that a fence follows, and nothing else, is no past state.
            let is_old = replaced_ms <= now.saturating_sub(retention_ms);
            let is_late = replaced_ms > now.saturating_sub(KNOWN_MS);
            let is_too_many = count >= RETAINED_MAX && !is_late;
            if is_too_many || is_old && !oldest.is_fence() {
                break;
            }
            named.extend(self::named(&before));
            (oldest, next_ms) = (before, replaced_ms);
        }
        Ok((oldest.generation, named))
    }

    /// Whether the newest fence has released and condemned all of it already, and only deleting is left to do.
    async fn is_condemned(&self, newest: &Manifest, survey: &Survey, tagged: &Tagged) -> Result<bool> {
        let Some(fence) = &newest.fence else { return Ok(false) };
        let is_released = |generation: &u64| *generation < fence.retained || *generation >= survey.retained;
        if !survey.generations.iter().all(is_released) {
            return Ok(false);
        }
        let list = self.list(newest).await?;
        let mut all = survey.condemned.iter().map(|object| &object.key).chain(&tagged.deleted);
        Ok(all.all(|key| list.contains(key)))
    }

    /// What the newest fence condemned, as far as that is still said.
    async fn list(&self, newest: &Manifest) -> Result<BTreeSet<String>> {
        // Nothing of what never came to be was ever listed.
        let Some(fence) = newest.fence.as_ref().filter(|fence| fence.generation > 0) else {
            return Ok(BTreeSet::new());
        };
        let Some(bytes) = self.bucket.get(&fence.sweep, &self.options.patience).await? else {
            return Ok(BTreeSet::new());
        };
        Ok(decode_sweep(&bytes, &fence.sweep)?.condemned.into_iter().collect())
    }

    /// Writes the list, and commits a fence that names it. `None` when another node committed first: the list is stale then.
    async fn fence(&self, of: &Of<'_>, found: &Found, survey: &Survey, tagged: &Tagged) -> Result<Option<Manifest>> {
        let (newest, patience) = (&found.manifest, &self.options.patience);
        let (generation, at_ms) = (newest.generation + 1, self.bucket_now());
        let sweep = keys::sweep(of.project(), of.nsid, self.engine.new_token());
        let list = SweepFile {
            format: VERSION,
            nsid: of.nsid,
            generation,
            before: newest.fence.clone(),
            condemned: survey.condemned.iter().map(|object| &object.key).chain(&tagged.deleted).cloned().collect(),
        };
        self.bucket.for_room().put(&sweep, Bytes::from(encode_sweep(&list)?), patience).await?;
        let fence = Manifest {
            generation,
            parent: Some(Parent { commit_id: newest.commit_id, crc32c: found.crc32c }),
            commit_id: self.engine.new_commit_id(),
            committed_ms: at_ms,
            ..newest.clone()
        };
        let fence = fence.fenced(Some(Fence { generation, sweep, retained: survey.retained, at_ms }));
        if !self.commit(of.project(), &fence).await? {
            return Ok(None);
        }
        // Best effort, as after any commit.
        let current = keys::current(of.project(), of.nsid);
        if let Err(error) = write_hint(&self.bucket.for_room(), &current, generation, patience).await {
            tracing::debug!(namespace = %of.name, %error, "the hint at the newest generation is not written");
        }
        Ok(Some(fence))
    }

    /// Deletes what the fence `newest` condemned, or one before it.
    async fn delete(
        &self,
        of: &Of<'_>,
        newest: &Manifest,
        (survey, tagged): (&Survey, &Tagged),
        until_ms: u64,
    ) -> Result<Reclaimed> {
        // Who gives a deleted namespace its name again looks for the end of it afterwards; this is the other look.
        if of.is_dead && !self.is_dead(of.name, of.nsid).await? {
            return Ok(Reclaimed::default());
        }
        let held = self.held(of, newest, until_ms).await?;
        let condemned = survey.condemned.iter().map(|object| &object.key).filter(|key| !held.contains(*key));
        let last = newest.fence.as_ref().map(|fence| &fence.sweep);
        let lists = survey.lists.iter().flatten().filter(|list| Some(*list) != last);
        let due: Vec<String> = condemned.chain(lists).cloned().collect();
        let deleting = stream::iter(due).map(|key| delete_one(&self.bucket, key, &self.options.patience));
        let () = deleting.buffer_unordered(AT_ONCE).try_collect().await?;
        let mut done = survey.without(&held);
        let oldest = match survey.generations.first() {
            Some(oldest) => self.read_generation(of.project(), of.nsid, *oldest).await?,
            None => None,
        };
        // What past states named of others' objects, and none does any more that is retained.
        let past: BTreeSet<String> = oldest.iter().flat_map(named).collect();
        self.narrow_holds(of, &past, &survey.named).await?;
        self.drop_tags(of, tagged, &survey.named).await?;
        if !survey.is_partial {
            // The end of a deleted namespace is told to who was away.
            let retained = newest.fence.as_ref().map_or(0, |fence| fence.retained.min(newest.generation));
            done.manifests = self.drop_generations(of, &survey.generations, retained).await?;
        }
        Ok(done)
    }

    /// Removes manifests below `retained`, the oldest first: one that is there says that all after it are.
    pub(super) async fn drop_generations(&self, of: &Of<'_>, generations: &[u64], retained: u64) -> Result<u64> {
        let mut gone = 0;
        for generation in generations.iter().filter(|generation| **generation < retained) {
            let key = keys::manifest(of.project(), of.nsid, *generation);
            self.bucket.delete(&key, &self.options.patience).await?;
            gone += 1;
        }
        Ok(gone)
    }
}

/// Whether a namespace that had no name came to be since it was looked for.
fn is_named_since(of: &Of<'_>, newest: &Manifest) -> Result<bool> {
    Ok(*of.name == nameless(of.project(), of.nsid)? && newest.name != of.name.to_string())
}

async fn delete_one(bucket: &Bucket, key: String, patience: &Patience) -> Result<()> {
    bucket.delete(&key, patience).await
}

/// The objects that a manifest names, and the list of its fence.
fn named(manifest: &Manifest) -> BTreeSet<String> {
    let mut named = keys_of(manifest);
    named.extend(manifest.fence.as_ref().map(|fence| fence.sweep.clone()));
    named
}

impl Survey {
    /// Takes an object of the listing.
    fn take(&mut self, below: &str, object: Listed) {
        let rest = object.key.strip_prefix(below).and_then(|rest| rest.strip_prefix('/'));
        let Some((kind, file)) = rest.and_then(|rest| rest.split_once('/')) else { return };
        match kind {
            "manifests" => self.generations.extend(number_of(file)),
            "sweeps" if let Some(lists) = &mut self.lists => lists.push(object.key),
            "conflicts" | "deletions" | "segments" | "sweeps" | "wal" => {
                self.listed_bytes += object.bytes;
                if self.named.contains(&object.key) {
                    return;
                }
                if self.condemned.len() + DELETIONS_MAX == CONDEMNED_MAX {
                    self.is_partial = true;
                    return;
                }
                self.condemned_bytes += object.bytes;
                self.condemned.push(object);
            }
            // Holds are their holders', tags are looked at by themselves, and what nobody knows may be of a later release.
            _ => {}
        }
    }

    fn without(&self, held: &BTreeSet<String>) -> Reclaimed {
        let mut done = Reclaimed { is_partial: self.is_partial, ..Reclaimed::default() };
        for object in &self.condemned {
            match held.contains(&object.key) {
                true => done.held += 1,
                false => {
                    done.objects += 1;
                    done.bytes += object.bytes;
                }
            }
        }
        done
    }

    fn check_share(&self, name: &NamespaceName) -> Result<()> {
        let (condemned, listed) = (self.condemned_bytes, self.listed_bytes);
        if condemned <= FREE_BYTES || condemned / QUARTERS_MAX <= listed / 4 {
            return Ok(());
        }
        let what = format!(
            "{} objects of {condemned} bytes, of {listed} that the bucket has of {name}, are needed by no state that is kept",
            self.condemned.len()
        );
        Err(Error::conflict(what)
            .with_code(RECLAIM_REFUSED)
            .with_hint("nothing was deleted; look at the namespace, and if it is as it should be: `shoal sync --reclaim --force`"))
    }
}
