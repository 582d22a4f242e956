//! Lets go of what is kept for a time only: past states, deleted namespaces, branches that expire.
//!
//! A state may be asked for until it was replaced `retention_ms` ago, and while all past states together keep no more than a
//! share of the disk; `due` says which go, and `share` what they keep. The first state of a branch stays for as long as the branch
//! does: merges compare with it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::dates::{Deletions, date_replacements};
use super::due::{Budget, Kept, WHOLE, choose};
use super::holdings::{Holdings, generations, past, read_stored, released_between};
use super::share::{looks_without, resolve};
use crate::engine::Engine;
use crate::engine::context::Context;
use crate::engine::namespace::head::{Head, reclaim};
use crate::engine::setbacks::Work;
use crate::engine::sweep::{Left, remove_manifests};
use crate::error::{Context as _, Error, Result};
use crate::format::manifest::Manifest;
use crate::format::marks::encode_deleted;
use crate::format::names::parse_name;
use crate::meta::tables::Past;
use crate::model::ids::{Nsid, Project};
use crate::platform::clock::UNSET_BEFORE_MS;
use crate::platform::disk::{if_there, publish, take_away};
use crate::platform::wall::{JUMP_MS, StoreClock};

/// So many manifests of an incarnation that cannot be removed are passed over at a time: a directory may let go of none.
const STUCK_MAX: usize = 4;

impl Engine {
    /// Does everything that is due: tails flushed, and let go of what was kept for a time. For a task that runs now and then.
    pub async fn tend(self: &Arc<Self>) -> Result<()> {
        self.tend_at(Some(self.context.clock.now_millis())).await
    }

    /// The time for [`Engine::tend_at`]; `store`: what a store says of this machine's clock. None while that is doubted.
    pub fn believed_time(&self, store: Option<StoreClock>) -> Option<u64> {
        self.context.believed_time(store)
    }

    /// How long ago it was that this machine's clock showed `since_ms`, whatever it was set to since, as far as that is known.
    pub fn age_ms(&self, since_ms: u64) -> u64 {
        self.context.age_ms(since_ms)
    }

    /// How long ago at most it was that another clock, which was right, showed `since_ms`. `None` where this one does not tell: it is
    /// doubted, went back while the machine was off, or is not that late yet.
    pub fn age_at_most_ms(&self, since_ms: u64) -> Option<u64> {
        self.context.age_at_most_ms(since_ms)
    }

    /// [`Engine::tend`], by another clock for what is kept for a time: at `now` in milliseconds. Where nobody knows the time nothing
    /// goes for its age, and past states only where they take too much.
    pub async fn tend_at(self: &Arc<Self>, now: Option<u64>) -> Result<()> {
        let done = self.tend_now(now).await;
        self.make_reserve().await;
        done
    }

    async fn tend_now(self: &Arc<Self>, now: Option<u64>) -> Result<()> {
        self.try_again().await;
        self.flush_old(now.is_some()).await;
        self.close_all_idle().await;
        tokio::task::block_in_place(|| {
            self.remember_parts();
            self.look_again();
            self.clear_ended();
        });
        self.delete_expired(now).await?;
        let settled = tokio::task::block_in_place(|| self.settle_doubts());
        if !self.context.may_reclaim() {
            return settled;
        }
        tokio::task::block_in_place(|| {
            self.forget_bases_in_turn();
            self.drop_past(now)?;
            let meta = &self.context.meta;
            let has_room = |bytes| self.context.check_space(bytes, || "the index".to_owned()).is_ok();
            if meta.is_in_memory() && has_room(meta.file_bytes()?) {
                meta.distrust("the disk has room for the index again, which is in memory");
                return Ok(());
            }
            if let Some((before, after)) = meta.shrink()? {
                tracing::info!(before, after, "what the index does not need any more is given back");
            }
            settled
        })
    }

    /// Makes segments of tails, and ends logs, that have waited for long. Where a clock `is_believed`, it begins to write anew what is
    /// tombstones that nobody needs by it, and where it shows less than states say, or they were made before it was set, one more commit
    /// dates them.
    async fn flush_old(self: &Arc<Self>, is_believed: bool) {
        let (now, interval) = (self.context.clock.now_millis(), self.context.config.flush_interval_ms);
        for namespace in self.open_namespaces() {
            let says = namespace.published().committed_ms;
            let is_dated = (says >= UNSET_BEFORE_MS && says <= now.saturating_add(JUMP_MS)) || now < UNSET_BEFORE_MS;
            let is_due = now.saturating_sub(namespace.waits_since(now)) >= interval || namespace.is_quiet(now);
            let may_flush = || self.context.why_not_yet(namespace.nsid, Work::Flush).is_none();
            let done = match (namespace.has_unflushed(), is_dated || !is_believed) {
                (true, true) if !is_due => Ok(()),
                (true, _) => {
                    if may_flush() {
                        // What became of it is remembered.
                        let _ = namespace.flush().await;
                    }
                    Ok(())
                }
                (false, false) => namespace.edit_head(|_| {}).await,
                (false, true) => Ok(()),
            };
            if let Err(error) = done {
                tracing::warn!(namespace = %namespace.name, %error, "no commit says the right time, it is tried again");
            }
            if is_believed {
                namespace.compact_outlived();
            }
            if let Err(error) = tokio::task::block_in_place(|| namespace.tend_answers()) {
                tracing::warn!(namespace = %namespace.name, %error, "old answers are not removed, it is tried again");
            }
        }
    }

    pub(in crate::engine) fn discard_deleted(&self, nsid: Nsid) {
        if self.context.is_stopping() {
            return;
        }
        let name = self.context.kin().get(&nsid).map(|kin| kin.name.clone());
        let Some(name) = name.and_then(|name| parse_name(&name)) else { return };
        let door = self.door(&name);
        // Who is in the door may be deleting it just now, or bringing it back: it is due the next time, too.
        if let Ok(_door) = door.try_lock() {
            self.end(&name.project, nsid);
            if let Err(error) = self.forget_name(&name) {
                tracing::warn!(%name, %error, "a name that is bound to nothing is kept");
            }
        }
    }

    /// Lets go of past states and deleted namespaces that are due. What one namespace does not let go of is no concern of the others:
    /// the first error is given when all had their turn.
    pub(in crate::engine) fn drop_past(&self, now: Option<u64>) -> Result<()> {
        let context = &self.context;
        let (mut all, mut deleted) = (BTreeMap::<Nsid, Vec<Kept>>::new(), BTreeMap::new());
        let mut history = context.meta.whole_history()?;
        let shown_ms = now.unwrap_or_else(|| context.clock.now_millis());
        date_replacements(&mut history, shown_ms);
        let (deletions, mut undated) = (Deletions::read(context), Vec::new());
        let deleted_ones = context.deleted();
        {
            let kin = context.kin();
            // The first state of a branch is what merges compare with.
            let is_fork =
                |nsid: &Nsid| kin.get(nsid).is_some_and(|kin| kin.lineage.is_some() && kin.deleted_ms.is_none());
            for (replaced_ms, nsid, generation, past) in history {
                all.entry(nsid).or_default().push(Kept {
                    generation,
                    replaced_ms,
                    data_seq: past.data_seq,
                    object_bytes: past.bytes,
                    manifest_bytes: past.manifest_bytes,
                    is_fork: generation == 0 && is_fork(&nsid),
                });
            }
            for (nsid, kin) in &deleted_ones {
                let Some(deleted_ms) = kin.deleted_ms else { continue };
                let (replaced_ms, from_now_on) = deletions.deleted_ms(*nsid, deleted_ms, shown_ms);
                undated.extend(from_now_on.map(|date| (*nsid, date)));
                let (object_bytes, manifest_bytes) = (kin.bytes, kin.files_bytes);
                let whole = Kept { generation: WHOLE, replaced_ms, object_bytes, manifest_bytes, ..Kept::default() };
                all.entry(*nsid).or_default().push(whole);
                deleted.extend(parse_name(&kin.name).map(|name| (*nsid, name.project)));
            }
        }
        // What the disk did not let go of a moment ago frees nothing: the others keep to their share without it.
        all.retain(|nsid, _| context.why_not_yet(*nsid, Work::Removal).is_none());
        // While nobody knows the time, nobody knows which of them is wrong.
        for (nsid, date) in undated.into_iter().filter(|_| now.is_some()) {
            context.meta.set_deadline(nsid, Some(date))?;
        }
        let old = now.and_then(|now| now.checked_sub(context.config.retention_ms));
        let mut failed = None;
        let manifests = all.values().flatten().map(|state| state.manifest_bytes).sum();
        let files = all.values().flatten().map(Kept::files).sum();
        let mut budget =
            Budget { bytes: self.retention_bytes_max(manifests), files: self.retention_files_max(files) };
        let next = |looks: u32| looks.checked_sub(1);
        if self.looks_without.fetch_update(Ordering::SeqCst, Ordering::SeqCst, next).is_ok() {
            budget.bytes = u64::MAX;
        }
        let mut resolved = 0;
        let due = choose(&all, &deleted, old, budget, |states| {
            resolved = states.len();
            let projects: BTreeSet<&Project> = deleted.values().collect();
            let targets = self.catalog.all().into_iter().filter(|(name, _)| projects.contains(&name.project));
            resolve(context, &targets.map(|(_, nsid)| nsid).collect::<Vec<Nsid>>(), states)
        });
        if resolved > 0 {
            self.looks_without.store(looks_without(resolved), Ordering::SeqCst);
        }
        for (nsid, generations) in due {
            if generations.contains(&WHOLE) {
                // Asked of those only that would go: it reads files.
                if !self.waits_for_sync(nsid) {
                    self.discard_deleted(nsid);
                }
                continue;
            }
            if let Err(error) = drop_generations(context, nsid, &generations) {
                failed.get_or_insert(error.context(format!("let go of past states of {nsid}")));
            }
        }
        self.drop_deleted_for_room();
        failed.map_or(Ok(()), Err)
    }

    /// How many bytes past states may keep: a share of what the store has, `manifests` bytes of their own included, and could have.
    fn retention_bytes_max(&self, manifests: u64) -> u64 {
        let context = &self.context;
        let (_, stored) = context.meta.object_totals().unwrap_or_default();
        let free = context.disk.free_bytes(context.layout.root()).unwrap_or_default();
        let free = free.saturating_add(context.reserve.bytes());
        (stored.saturating_add(manifests).saturating_add(free) / 100)
            .saturating_mul(u64::from(context.config.retention_disk_percent))
    }

    /// How many files past states may keep: the same share of their own `files` and of those that may still be made.
    fn retention_files_max(&self, files: u64) -> u64 {
        let context = &self.context;
        context.free_files().map_or(u64::MAX, |free| {
            free.saturating_add(files).saturating_mul(u64::from(context.config.retention_disk_percent)) / 100
        })
    }

    /// Removes everything of an incarnation that has no name: what it held is released, what nobody holds is reclaimed.
    /// What fails is found by a later sweep; a deleted one of which nothing could be removed stays what it is, and is tried again.
    pub(in crate::engine) fn discard(&self, project: &Project, nsid: Nsid) {
        let context = &self.context;
        let commits = context.commits.alone();
        context.commits.touch(nsid);
        // The index may be closed by now: the next start finds what is left.
        if self.catalog.is_bound(nsid) || context.is_stopping() {
            return;
        }
        let read = Holdings::read(context, nsid).inspect(|held| held.iter().for_each(|held| held.report(context)));
        let free = match (read, remove_manifests(context, nsid)) {
            (read, Err(left)) => match stays_deleted(context, nsid, &left, read.ok().flatten()) {
                Some(name) => return context.set_back((nsid, Work::Removal), &name, &left.error),
                None => Err(left.error),
            },
            (Ok(Some(held)), Ok(())) => {
                let past: Vec<u64> = held.past.iter().map(|(generation, _)| *generation).collect();
                let free = context.meta.forget(nsid, &past, &held.released());
                free.and_then(|free| context.meta.settle(nsid, None, &[]).map(|_| free))
            }
            (Ok(None), Ok(())) => Ok(Vec::new()),
            (Err(error), Ok(())) => Err(error),
        };
        context.doubted.forget(nsid);
        context.set_right(nsid, Work::Removal);
        if context.unreadable().contains_key(&nsid) {
            context.meta.distrust("a namespace with files that could not be read is gone");
        }
        match free {
            Ok(free) => reclaim(context, &free),
            Err(error) => {
                tracing::warn!(%error, "what a namespace held is not released yet");
                context.meta.distrust("what a namespace held could not be released");
            }
        }
        context.forget_kin(nsid);
        drop(commits);
        self.remove_files(project, nsid);
    }
}

/// The name of a deleted incarnation that could not be removed, where all that it holds is there yet: it stays counted and can be had
/// back, with its mark.
fn stays_deleted(context: &Context, nsid: Nsid, left: &Left, held: Option<Holdings>) -> Option<String> {
    let name = context.kin().get(&nsid).filter(|kin| kin.deleted_ms.is_some()).map(|kin| kin.name.clone());
    let name = name.filter(|_| left.is_whole)?;
    let mark = context.layout.deleted_mark(nsid);
    if let Some(deleted) = held.and_then(|held| held.deleted)
        && matches!(if_there(context.disk.size(&mark)), Ok(None))
    {
        let restored = encode_deleted(&deleted).and_then(|bytes| Ok(publish(&*context.disk, &mark, &bytes)?));
        if let Err(error) = restored {
            // Whoever counts anew takes it from the index.
            tracing::debug!(%nsid, %error, "the mark of a namespace that is not removed is not put back");
        }
    }
    Some(name)
}

/// One past generation that goes, where all before it in the list do.
struct Step {
    generation: u64,
    /// What is released with it; unknown where it is, or is next to, one that cannot be read.
    released: Option<Vec<String>>,
    is_read: bool,
    /// What is known from then on of the last one before it that stays.
    followed: Option<(u64, Past)>,
}

/// Lets go of some past generations of one incarnation, oldest first. The manifests go durably before anything they held. One that
/// cannot be removed stays with what it holds, and the error is given when the others are gone.
///
/// What a manifest that cannot be read held is unknown: nothing is released where one of them is next to what goes, so counts are
/// too high then, until it is back or gone itself and all is counted anew.
pub fn drop_generations(context: &Context, nsid: Nsid, due: &BTreeSet<u64>) -> Result<()> {
    let _commits = context.commits.alone();
    if context.is_stopping() {
        return Ok(());
    }
    context.commits.touch(nsid);
    // The newest of the files may be one that the namespace does not go by.
    context.settle_manifest(nsid)?;
    let Some(head) = Head::load(context, nsid)? else { return Ok(()) };
    let (mut due, mut failed) = (due.clone(), None);
    for _ in 0..STUCK_MAX {
        let mut steps = steps(context, &head.manifest, &due)?;
        let stuck = remove(context, nsid, &mut steps).inspect_err(|_| {
            // Some are gone, or may be: what they named is counted anew.
            context.meta.overcount("past states could not be let go of, or only some of them");
        })?;
        follow(context, &head.manifest, steps)?;
        let Some((generation, error)) = stuck else { break };
        due.remove(&generation);
        failed.get_or_insert(error);
    }
    failed.map_or(Ok(()), Err)
}

/// What goes with each generation that is due and still there.
fn steps(context: &Context, newest: &Manifest, due: &BTreeSet<u64>) -> Result<Vec<Step>> {
    let nsid = newest.nsid;
    let mut all = generations(context, nsid)?;
    all.retain(|generation| *generation <= newest.generation);
    all.sort_unstable();
    let goes = |generation: u64| {
        let is_fork = generation == 0 && newest.lineage.is_some();
        due.contains(&generation) && generation < newest.generation && !is_fork
    };
    let read = |generation| match read_stored(context, nsid, generation) {
        Ok(stored) => Some(stored),
        Err(error) => {
            context.report_unreadable(&newest.name, nsid, &error);
            None
        }
    };
    let mut steps = Vec::new();
    // The last one that stays and the next one, read where what goes is between them or beside.
    let mut before: Option<(u64, Option<(Manifest, u64)>)> = None;
    let mut ahead: Option<Option<(Manifest, u64)>> = None;
    for (at, generation) in all.iter().copied().enumerate() {
        let next = all.get(at + 1).copied();
        let was_run = ahead.is_some();
        if goes(generation)
            && let Some(next) = next
        {
            let stored = ahead.take().unwrap_or_else(|| read(generation));
            let after = read(next);
            let released = match (&before, &stored, &after) {
                (None, Some((gone, _)), Some((after, _))) => Some(released_between(None, gone, after)),
                (Some((_, Some((before, _)))), Some((gone, _)), Some((after, _))) => {
                    Some(released_between(Some(before), gone, after))
                }
                _ => None,
            };
            let followed = match (&before, &after) {
                (Some((known, Some((before, bytes)))), Some((after, _))) => {
                    Some((*known, past(before, *bytes, after)))
                }
                _ => None,
            };
            steps.push(Step { generation, released, is_read: stored.is_some(), followed });
            ahead = Some(after);
        } else if was_run || next.is_some_and(goes) {
            before = Some((generation, ahead.take().unwrap_or_else(|| read(generation))));
        } else {
            before = None;
        }
    }
    Ok(steps)
}

/// Removes manifests, durably, up to the first that stays where it is: gives that one and why, and keeps the steps that were done. An
/// error where it is not known which are gone.
fn remove(context: &Context, nsid: Nsid, steps: &mut Vec<Step>) -> Result<Option<(u64, Error)>> {
    let mut stuck = None;
    for (at, step) in steps.iter().enumerate() {
        let path = context.layout.manifest(nsid, step.generation);
        if let Err(error) = take_away(&*context.disk, &path) {
            let error = Error::from(error).context(format!("remove {}", path.display()));
            if context.disk.size(&path).is_err() {
                return Err(error);
            }
            stuck = Some((at, (step.generation, error)));
            break;
        }
    }
    let stuck = stuck.map(|(at, stuck)| {
        steps.truncate(at);
        stuck
    });
    if !steps.is_empty() {
        let dir = context.layout.manifests(nsid);
        context.disk.sync_dir(&dir).context(|| format!("sync {}", dir.display()))?;
    }
    Ok(stuck)
}

/// Lets the index follow what is gone durably.
fn follow(context: &Context, newest: &Manifest, steps: Vec<Step>) -> Result<()> {
    if steps.is_empty() {
        return Ok(());
    }
    let nsid = newest.nsid;
    let gone: Vec<u64> = steps.iter().map(|step| step.generation).collect();
    let is_unread_gone = steps.iter().any(|step| !step.is_read);
    let is_unread_beside = steps.iter().any(|step| step.released.is_none());
    let (mut released, mut followed) = (Vec::new(), BTreeMap::new());
    for step in steps {
        released.extend(step.released.into_iter().flatten());
        followed.extend(step.followed);
    }
    let free = context.meta.forget(nsid, &gone, &released)?;
    reclaim(context, &free);
    for (generation, past) in followed {
        context.meta.remember(nsid, generation, &past)?;
    }
    for generation in gone.iter().filter(|_| is_unread_gone) {
        let path = context.layout.manifest(nsid, *generation);
        context.healed(&path.strip_prefix(context.layout.root()).unwrap_or(&path).display().to_string());
    }
    if is_unread_gone {
        context.meta.distrust("a past state that could not be read is let go of");
    } else if is_unread_beside {
        context.note_unreadable(nsid, parse_name(&newest.name).map(|name| name.project).as_ref());
    }
    Ok(())
}
