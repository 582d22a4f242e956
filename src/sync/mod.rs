//! Brings this node and a bucket together, one namespace after another; interrupted anywhere, it goes on where it was.
//!
//! - `namespace` is one of them: take in what the bucket has, send what is here, commit, until both have everything;
//! - `follow` takes in and sends nothing, `polls` says when namespaces of that kind are looked at;
//! - `tags` carries tags, both ways; `tag_waits` says when those are tried again that could not be read;
//! - `reclaiming` is a run of reclaim, `collect` that of one namespace, `collect_tags` what tags keep in it, `gone` of a deleted one; `fences` and `holds` are what who
//!   commits and who branches owes to it;
//! - `attach` makes sure whose the bucket is;
//! - `binding` decides what becomes of a name, `collision` settles what two nodes made of one, `waited` what somebody waits for, `names` are those in the bucket, `objects` what is carried, `keys` where things lie there;
//! - `clones` notices that another disk writes by this one's origin, `set_back` that the bucket does not have what it had;
//! - `status` is what a person is told, `report` how it is shown, `plan` what would be done;
//! - `id_ranges` claims integers to make ids of;
//! - `budget` counts the bytes of a month;
//! - `worker` runs passes unattended and on request, `schedule` says when, `selection` of which namespaces.
//!
//! Invariants:
//! - The bucket's manifest names only objects that are in the bucket.
//! - Which of two states is newer is decided by what they have seen, never by when they were made or by a number.
//! - Every answer about a commit that is not "done" is a question, and reading answers it; see [`crate::store::commit`].

mod attach;
mod binding;
pub mod budget;
mod clones;
mod collect;
mod collect_tags;
mod collision;
mod fences;
mod follow;
mod gone;
mod holds;
mod id_ranges;
mod keys;
mod names;
mod namespace;
mod objects;
mod pass;
mod plan;
mod polls;
mod reclaiming;
mod report;
mod schedule;
mod selection;
mod set_back;
pub mod status;
mod tag_waits;
mod tags;
mod waited;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::engine::Engine;
use crate::engine::merge::decide::Policy;
use crate::error::{Context as _, Error, Result};
use crate::meta::ObjectFact;
use crate::model::ids::{Hlc, NamespaceName, Nsid};
use crate::platform::clock::Clock;
use crate::store::{Bucket, Patience, UNREACHABLE, check_identity};
use crate::tier::Remote;

use self::binding::Choice;
pub use self::budget::Budget;
pub use self::collect::{CLOCK_DOUBTED, RECLAIM_REFUSED, RETAINED_MAX, Reclaim, Reclaimed};
pub use self::namespace::Done;
use self::namespace::Seen;
pub use self::objects::Carried;
pub use self::pass::Pass;
pub use self::plan::Plan;
pub use self::polls::PollWaits;
pub use self::reclaiming::{LastReclaim, Reclaiming};
pub use self::report::{show_done, show_pass, show_plan};
pub use self::schedule::Schedule;
pub use self::selection::Selection;
pub use self::status::{MISSED_MAX, NamespaceStatus, Status, WARNINGS};
pub use self::waited::Awaited;
pub use self::worker::{TIMEOUT, Worker, WorkerConfig};
pub use crate::tier::GONE as OBJECT_GONE;

/// A pass ends when the bucket was not reached for this many namespaces one after another: the others would wait in vain.
const UNREACHED_MAX: u32 = 3;

/// How often the names in the bucket are listed by passes that nobody asked for.
const LISTED_EVERY_MS: u64 = 10 * 60 * 1_000;

/// How a node takes part.
#[derive(Clone, Debug)]
pub struct SyncOptions {
    /// What becomes of a document that two nodes changed apart.
    pub policy: Policy,
    pub patience: Patience,
}

/// One node's side of a bucket.
pub struct Sync {
    engine: Arc<Engine>,
    bucket: Bucket,
    options: SyncOptions,
    /// How long carrying an object may take in a pass that nobody asked for.
    background: Patience,
    budget: Option<Arc<Budget>>,
    is_unasked: AtomicBool,
    clock: Arc<dyn Clock>,
    /// One pass at a time.
    turn: tokio::sync::Mutex<Attached>,
    status: Mutex<Status>,
    /// Of each incarnation the newest manifest in the bucket that this node has seen.
    seen: Mutex<BTreeMap<Nsid, Seen>>,
    /// Whether a manifest was found to be gone.
    is_set_back: AtomicBool,
    /// Whether this pass made sure whose the bucket is, and whether it carried anything since.
    is_sure: AtomicBool,
    has_carried: AtomicBool,
    tag_waits: tag_waits::TagWaits,
}

/// What is known of the bucket, so that it need not be asked again.
#[derive(Default)]
struct Attached {
    /// Whether it was found to be the one that this node belongs to.
    is_known: bool,
    /// Whether it was found to be another's, or none, since.
    is_doubted: bool,
    /// Whether it was begun anew, or may have been another's: states may name what is not there.
    has_holes: bool,
    /// Whether it was begun anew.
    was_emptied: bool,
    /// Whether it was put back since a pass that read it.
    is_to_be_read: bool,
    /// The names there, and when they were listed.
    names: Option<(names::Newest, u64)>,
    /// What revisions of names say, which never change while the bucket is not put back from an older copy.
    bound: BTreeMap<(NamespaceName, u64), names::Bound>,
    /// The newest revisions of names here and there that know of each other: it takes files to say so.
    met: BTreeMap<NamespaceName, (u64, u64)>,
    /// What it has of the blocks of ids that this node gave.
    told: id_ranges::Told,
}

impl Sync {
    /// Called within the runtime that carries requests out.
    pub fn new(engine: Arc<Engine>, bucket: Bucket, options: SyncOptions, clock: Arc<dyn Clock>) -> Self {
        let status = Status { bucket: bucket.name().to_owned(), ..Status::default() };
        let (turn, seen) = (tokio::sync::Mutex::default(), Mutex::default());
        if engine.has_met_bucket() {
            // What is not this store is refused, an empty directory too: the disk that belongs there may be away.
            bucket.expect(engine.store_id());
        }
        engine.read_from(Remote::new(bucket.clone(), options.patience));
        let (background, is_unasked) = (options.patience, AtomicBool::new(false));
        Sync {
            engine,
            bucket,
            options,
            background,
            budget: None,
            is_unasked,
            clock,
            turn,
            status: Mutex::new(status),
            seen,
            is_set_back: AtomicBool::new(false),
            is_sure: AtomicBool::new(false),
            has_carried: AtomicBool::new(false),
            tag_waits: tag_waits::TagWaits::default(),
        }
    }

    /// The same, where objects that nobody waits for may take longer: whether the bucket is there is still told soon.
    pub fn patient_in_background(self, background: Patience) -> Self {
        Sync { background, ..self }
    }

    /// The same, counted, and within a budget where nobody asked.
    pub fn within(self, budget: Arc<Budget>) -> Self {
        Sync { budget: Some(budget), ..self }
    }

    /// Counts what went over the link. An error when nothing more may that nobody asked for.
    fn count(&self) -> Result<()> {
        let Some(budget) = &self.budget else { return Ok(()) };
        let (traffic, now) = (self.bucket.traffic().snapshot(), self.clock.now_millis());
        tokio::task::block_in_place(|| budget.follow((traffic.bytes_up, traffic.bytes_down), now));
        self.may_carry()
    }

    /// An error when nothing more may go over the link that nobody asked for; looked at before every object.
    fn may_carry(&self) -> Result<()> {
        let Some(budget) = self.budget.as_ref().filter(|_| self.is_unasked.load(Ordering::SeqCst)) else {
            return Ok(());
        };
        let traffic = self.bucket.traffic().snapshot();
        budget.check_with((traffic.bytes_up, traffic.bytes_down), self.clock.now_millis())
    }

    /// Puts objects into the bucket that are not among `there`.
    async fn push(&self, objects: Vec<ObjectFact>, there: &BTreeSet<String>) -> Result<Carried> {
        self.before_carrying().await?;
        objects::push(&self.engine, &self.bucket, objects, there, &|| self.may_carry(), &self.carrying()).await
    }

    /// Fetches objects that are not here.
    async fn pull(&self, objects: Vec<ObjectFact>) -> Result<Carried> {
        self.before_carrying().await?;
        objects::pull(&self.engine, &self.bucket, objects, &|| self.may_carry(), &self.carrying()).await
    }

    /// How long carrying an object may take in this pass.
    fn carrying(&self) -> Patience {
        if self.is_unasked.load(Ordering::SeqCst) { self.background } else { self.options.patience }
    }

    /// What a person is told; of a pass under way also why the bucket is being asked again.
    pub fn status(&self) -> Status {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if status.error.is_none() && self.turn.try_lock().is_err() {
            status.error = self.bucket.trouble().as_ref().map(status::told);
        }
        status
    }

    /// What a person is told of one namespace.
    pub fn known(&self, name: &NamespaceName) -> Option<NamespaceStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).namespaces.get(name).cloned()
    }

    /// Brings everything together once. What fails for one namespace is told in the status, and the others go on; the error
    /// is one that stops all of them, or the first of those.
    pub async fn run(&self) -> Result<Status> {
        match self.run_for(&Selection::default()).await.failed {
            None => Ok(self.status()),
            Some(error) => Err(error),
        }
    }

    /// [`Sync::run`] for some of the namespaces.
    pub async fn run_for(&self, selection: &Selection) -> Pass {
        let mut attached = self.turn.lock().await;
        let began = self.clock.now_millis();
        self.is_unasked.store(selection.is_unasked(), Ordering::SeqCst);
        self.edit(|status| status.started_ms = Some(began));
        let mut pass = Pass::default();
        let done = self.pass(&mut attached, selection, &mut pass).await;
        pass.failed = self.after_carrying(&mut attached, done).await.err();
        pass.failed = pass.failed.or(self.count().err());
        pass.is_another_due = std::mem::take(&mut attached.is_to_be_read);
        // What rests after a failure has what came of it for its next turn.
        if pass.failed.is_none()
            && selection.is_whole()
            && self.status().namespaces.values().all(|known| known.error.is_none())
            && let Err(error) = self.forget_the_way().await
        {
            tracing::warn!(%error, "what is left of objects on their way that nobody wants any more stays");
        }
        let now = self.clock.now_millis();
        if pass.failed.as_ref().is_some_and(status::is_foreign) {
            self.engine.note_bucket(true);
        }
        self.edit(|status| status.ended(pass.failed.as_ref(), selection.is_whole(), now));
        pass
    }

    /// Everything that is wanted is here and there: what came or went of other objects is let go of.
    async fn forget_the_way(&self) -> Result<()> {
        tokio::task::block_in_place(|| self.engine.has_received_all())?;
        objects::give_up(&self.engine, &self.bucket, &self.options.patience).await
    }

    async fn pass(&self, attached: &mut Attached, selection: &Selection, pass: &mut Pass) -> Result<()> {
        Box::pin(self.attach(attached)).await?;
        self.note_id_ranges(self.settle_ids(&mut attached.told).await);
        // Before it is known what the bucket has: what is deleted from now on is told by the next pass.
        let untold = tokio::task::block_in_place(|| self.engine.untold());
        let in_bucket = self.names(attached, selection).await?;
        self.engine.note_bucket(false);
        let here: BTreeMap<NamespaceName, Nsid> = self.engine.named().into_iter().collect();
        let mut all: Vec<&NamespaceName> = in_bucket.known.keys().chain(here.keys()).chain(&untold).collect();
        // What a branch came from first, which is older: it finds there what it shares. Last what was not reached the last time: whatever
        // that lies in, the others are come to before.
        let unreached = self.status().unreached();
        all.sort_by_key(|name| (unreached.contains(*name), here.get(*name), *name));
        all.dedup();
        let mut all: Vec<NamespaceName> = all.into_iter().filter(|name| selection.takes(name)).cloned().collect();
        let (mut failed, mut unreached) = (None, 0);
        for _ in 0..2 {
            for name in std::mem::take(&mut all) {
                self.count()?;
                if pass.namespaces.contains_key(&name) {
                    continue;
                }
                let brought = async {
                    self.forget_tags_there(attached, &name)?;
                    self.bring(attached, &name, &in_bucket, selection, pass).await?;
                    self.look_for_holes(attached, &name).await
                };
                let error = brought.await.err();
                // What cannot be listed says nothing of the bucket as a whole.
                if in_bucket.of(&name).is_ok() {
                    unreached =
                        if error.as_ref().is_some_and(|e| e.code() == UNREACHABLE) { unreached + 1 } else { 0 };
                    if error.is_some() {
                        // Perhaps the name means something else by now.
                        attached.names = None;
                    }
                }
                failed = failed.or(error.map(|error| error.context(format_args!("sync {name}"))));
                if unreached == UNREACHED_MAX {
                    return failed.map_or(Ok(()), Err);
                }
            }
            // What had to give way was acknowledged before this pass, and has a name of its own since.
            let named = self.engine.named().into_iter().map(|(name, _)| name);
            let is_new = |name: &NamespaceName| !here.contains_key(name) && !pass.namespaces.contains_key(name);
            all.extend(named.filter(|name| selection.is_whole() && selection.takes(name) && is_new(name)));
        }
        // What there is below may be in the bucket only.
        let unlisted = names::failed(&in_bucket.unread, selection);
        let are_all_listed = unlisted.is_none();
        failed = failed.or(unlisted);
        let known: BTreeSet<NamespaceName> =
            in_bucket.known.into_keys().chain(self.engine.named().into_iter().map(|(name, _)| name)).collect();
        self.edit(|status| status.namespaces.retain(|name, _| known.contains(name)));
        let is_through = |name: &NamespaceName| match pass.namespaces.get(name) {
            Some(done) => done.is_ok(),
            // Nobody has it, or it takes no part.
            None => are_all_listed && selection.is_whole() && !selection.rests(name),
        };
        tokio::task::block_in_place(|| self.engine.looked_at(is_through));
        attached.has_holes &= failed.is_some() || !selection.is_whole();
        attached.was_emptied &= attached.has_holes;
        failed.map_or(Ok(()), Err)
    }

    /// One name, which is bound here, in the bucket, or in both.
    async fn bring_together(&self, attached: &mut Attached, name: &NamespaceName, rev: Option<u64>) -> Result<Done> {
        let here = self.engine.nsid_of(name);
        // Boxed, since what a namespace may need is much, and all of it lies on the stack otherwise.
        let done = Box::pin(self.bring_as(attached, name, rev)).await;
        // It was deleted meanwhile, here or elsewhere.
        let has_moved = |error: &Error| error.code() == binding::NAME_MOVED || self.engine.nsid_of(name) != here;
        let is_moved = done.as_ref().is_err_and(has_moved);
        let was_set_back = self.was_set_back(attached).await;
        let mut before = match done {
            Err(_) if is_moved => Done::default(),
            // The name may be gone with the manifests.
            Ok(done) if was_set_back => done,
            done => return done,
        };
        attached.names = None;
        let rev = names::newest(&self.bucket, name, &self.options.patience).await?;
        before.add(Box::pin(self.bring_as(attached, name, rev)).await?);
        Ok(before)
    }

    /// That, while the revision is the name's newest.
    async fn bring_as(&self, attached: &mut Attached, name: &NamespaceName, rev: Option<u64>) -> Result<Done> {
        let here = self.engine.nsid_of(name);
        let bound = match rev {
            Some(rev) => self.bound(attached, name, rev).await?,
            None => None,
        };
        let mut own = tokio::task::block_in_place(|| self.engine.binding(name))?;
        if let (Some(here), Some(there)) = (&own, &bound)
            && attached.met.get(name) != Some(&(here.rev, there.rev))
        {
            own = self.engine.binding_beside(name, &there.as_met()).await?;
            attached.met.extend(own.as_ref().map(|own| (name.clone(), (own.rev, there.rev))));
        }
        let own = own.map(names::Bound::from);
        let next = binding::next(own.as_ref(), bound.as_ref());
        let choice = binding::choose(here, own.as_ref(), bound.as_ref());
        let choice = if self.engine.follows(name) { follow::without_sending(choice) } else { choice };
        self.note_choice(name, &choice, own.as_ref());
        match choice {
            Choice::Nothing => Ok(Done::default()),
            Choice::Fetch(nsid) => self.fetch(name, nsid).await,
            Choice::Exchange(nsid) => self.meet(name, nsid).await,
            Choice::Bind(nsid) => {
                if let Some(rev) = rev
                    && let Some(ended) = self.was_deleted(name, nsid, rev).await?
                {
                    return self.follow_deletion(name, &ended).await;
                }
                let done = self.exchange(name, nsid).await?;
                // That takes as long as it takes.
                if self.engine.nsid_of(name) != Some(nsid) {
                    return Err(binding::moved_here(name));
                }
                let bound = self.bind(attached, name, next, Some(nsid)).await?;
                self.engine.binding_beside(name, &bound.as_met()).await?;
                // Somebody may have ended what had no name, or none any more, who looks at the name after that.
                self.exchange(name, nsid).await?;
                Ok(done)
            }
            Choice::Delete(nsid, ended) => self.tell_deletion(attached, name, (nsid, ended), (next, here)).await,
            Choice::Follow(ended) => self.make_way(name, &ended, bound.and_then(|bound| bound.target)).await,
            Choice::Collision(own, other) => self.settle_collision(attached, name, (own, other), next).await,
        }
    }

    /// The newest revision of every name in the bucket. A pass that nobody asked for, or for names that are known, lists them now
    /// and then only: listing costs as much as writing.
    async fn names(&self, attached: &mut Attached, selection: &Selection) -> Result<names::Newest> {
        let now = self.clock.now_millis();
        if let Some((known, listed_ms)) = &attached.names
            && (selection.is_unasked() || selection.is_among(&known.known))
            && (*listed_ms..listed_ms.saturating_add(LISTED_EVERY_MS)).contains(&now)
        {
            return Ok(known.clone());
        }
        check_identity(&self.bucket, self.engine.store_id(), &self.options.patience).await?;
        self.is_sure.store(true, Ordering::SeqCst);
        attached.told.is_old = true;
        self.note_id_ranges(self.tell_of_ids(&mut attached.told).await);
        let found = names::all(&self.bucket, &self.options.patience).await;
        let found = found.context(|| "list the names in the bucket")?;
        if attached.is_ahead_of(&found) {
            self.forget_bucket(attached).await;
        }
        attached.bound.retain(|(name, rev), _| found.known.get(name) == Some(rev));
        attached.met.retain(|name, (_, rev)| found.known.get(name) == Some(rev));
        // What could not be read may be by the next pass.
        attached.names = found.unread.is_empty().then(|| (found.clone(), now));
        Ok(found)
    }

    async fn bound(&self, attached: &mut Attached, name: &NamespaceName, rev: u64) -> Result<Option<names::Bound>> {
        let key = (name.clone(), rev);
        if let Some(known) = attached.bound.get(&key) {
            return Ok(Some(known.clone()));
        }
        let found = names::read(&self.bucket, name, rev, &self.options.patience).await?;
        attached.bound.extend(found.clone().map(|found| (key, found)));
        Ok(found)
    }

    async fn bind(
        &self,
        attached: &mut Attached,
        name: &NamespaceName,
        next: names::Bound,
        target: Option<Nsid>,
    ) -> Result<names::Bound> {
        self.before_carrying().await?;
        // A namespace that came back after it was deleted is not deleted any more.
        let ended = next.ended.filter(|ended| Some(ended.nsid) != target);
        let seen = match target {
            Some(_) => self.engine.seen(name).await?.newest(),
            None => Hlc::default(),
        };
        let (hlc, patience) = (next.hlc.max(seen), &self.options.patience);
        let bound = names::bind(&self.bucket, name, next.rev, (target, ended), hlc, patience).await?;
        if bound.target != target {
            return Err(binding::overtaken(name));
        }
        if let Some((names, _)) = &mut attached.names {
            names.known.insert(name.clone(), bound.rev);
        }
        attached.bound.insert((name.clone(), bound.rev), bound.clone());
        Ok(bound)
    }

    /// `began`: when the bucket was asked, by time that passes.
    fn note(&self, name: &NamespaceName, began: u64, done: Result<Done>) -> Result<()> {
        let now = self.clock.now_millis();
        self.edit(|status| {
            let known = status.namespaces.entry(name.clone()).or_default();
            known.tried_ms = Some(now);
            match done {
                Ok(done) => {
                    known.follow(done, began, now);
                    Ok(())
                }
                Err(error) => {
                    known.error = Some(status::told(&error));
                    Err(error)
                }
            }
        })
    }

    fn edit<T>(&self, edit: impl FnOnce(&mut Status) -> T) -> T {
        edit(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
