//! Brings this node and a bucket together, one namespace after another; interrupted anywhere, it goes on where it was.
//!
//! - `namespace` is one of them: take in what the bucket has, send what is here, commit, until both have everything;
//! - `binding` decides what becomes of a name, `names` are those in the bucket, `objects` what is carried, `keys` where things lie there;
//! - `status` is what a person is told, `report` how it is shown, `plan` what would be done;
//! - `worker` runs passes unattended and on request, `schedule` says when, `selection` of which namespaces.
//!
//! Invariants:
//! - The bucket's manifest names only objects that are in the bucket.
//! - Which of two states is newer is decided by what they have seen, never by when they were made or by a number.
//! - Every answer about a commit that is not "done" is a question, and reading answers it; see [`crate::store::commit`].

mod binding;
mod keys;
mod names;
mod namespace;
mod objects;
mod plan;
mod report;
mod schedule;
mod selection;
pub mod status;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use crate::engine::Engine;
use crate::engine::merge::decide::Policy;
use crate::error::{Context as _, Error, Result};
use crate::format::names::Ended;
use crate::model::ids::{CommitId, Hlc, NamespaceName, Nsid};
use crate::model::version_vector::VersionVector;
use crate::platform::clock::Clock;
use crate::store::{Bucket, Patience, UNREACHABLE, claim_identity, probe, read_identity};

use self::binding::Choice;
pub use self::namespace::Done;
pub use self::objects::Carried;
pub use self::plan::Plan;
pub use self::report::{show_pass, show_plan};
pub use self::schedule::Schedule;
pub use self::selection::Selection;
pub use self::status::{NamespaceStatus, Status};
pub use self::worker::{Pass, TIMEOUT, Worker, WorkerConfig};

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
    clock: Arc<dyn Clock>,
    /// One pass at a time.
    turn: tokio::sync::Mutex<Attached>,
    status: Mutex<Status>,
    /// Of each incarnation the newest manifest in the bucket that this node has seen: its commit, and its checksum.
    seen: Mutex<BTreeMap<Nsid, (CommitId, u32)>>,
}

/// What is known of the bucket, so that it need not be asked again.
#[derive(Default)]
struct Attached {
    /// Whether it was found to be the one that this node belongs to.
    is_known: bool,
    /// The names there, and when they were listed.
    names: Option<(BTreeMap<NamespaceName, u64>, u64)>,
    /// What revisions of names say, which never change.
    bound: BTreeMap<(NamespaceName, u64), names::Bound>,
}

impl Sync {
    pub fn new(engine: Arc<Engine>, bucket: Bucket, options: SyncOptions, clock: Arc<dyn Clock>) -> Self {
        let status = Status { bucket: bucket.name().to_owned(), ..Status::default() };
        let (turn, seen) = (tokio::sync::Mutex::default(), Mutex::default());
        Sync { engine, bucket, options, clock, turn, status: Mutex::new(status), seen }
    }

    /// What a person is told.
    pub fn status(&self) -> Status {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
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
        self.edit(|status| status.started_ms = Some(began));
        let mut pass = Pass::default();
        pass.failed = self.pass(&mut attached, selection, &mut pass).await.err();
        let now = self.clock.now_millis();
        self.edit(|status| {
            status.finished_ms = Some(now);
            match &pass.failed {
                // What went well for some says nothing of the others.
                None if !selection.is_whole() => {}
                None => {
                    status.succeeded_ms = Some(now);
                    status.error = None;
                }
                Some(error) => status.error = Some(status::told(error)),
            }
        });
        pass
    }

    async fn pass(&self, attached: &mut Attached, selection: &Selection, pass: &mut Pass) -> Result<()> {
        let patience = &self.options.patience;
        if !attached.is_known {
            probe(&self.bucket, patience).await?;
            let format = claim_identity(&self.bucket, self.engine.store_id(), patience).await?;
            tokio::task::block_in_place(|| self.engine.attach(format.store, self.bucket.name()))?;
            attached.is_known = true;
        }
        let in_bucket = self.names(attached, selection).await?;
        let here: BTreeMap<NamespaceName, Nsid> = self.engine.named().into_iter().collect();
        let all: BTreeSet<&NamespaceName> = in_bucket.keys().chain(here.keys()).collect();
        let mut failed = None;
        let mut unreached = 0;
        for name in all.into_iter().filter(|name| selection.takes(name)) {
            let (own, rev) = (here.get(name).copied(), in_bucket.get(name).copied());
            let done = self.bring_together(attached, name, own, rev).await;
            let now = self.clock.now_millis();
            pass.namespaces.insert(name.clone(), done.as_ref().cloned().map_err(Error::duplicate));
            let error = self.note(name, now, done).err();
            unreached = if error.as_ref().is_some_and(|e| e.code() == UNREACHABLE) { unreached + 1 } else { 0 };
            if error.is_some() {
                // Perhaps the name means something else by now.
                attached.names = None;
            }
            failed = failed.or(error.map(|error| error.context(format_args!("sync {name}"))));
            if unreached == UNREACHED_MAX {
                break;
            }
        }
        let known: BTreeSet<NamespaceName> =
            in_bucket.into_keys().chain(self.engine.named().into_iter().map(|(name, _)| name)).collect();
        self.edit(|status| status.namespaces.retain(|name, _| known.contains(name)));
        failed.map_or(Ok(()), Err)
    }

    /// One name, which is bound here, in the bucket, or in both.
    async fn bring_together(
        &self,
        attached: &mut Attached,
        name: &NamespaceName,
        here: Option<Nsid>,
        rev: Option<u64>,
    ) -> Result<Done> {
        let bound = match rev {
            Some(rev) => self.bound(attached, name, rev).await?,
            None => None,
        };
        let own = tokio::task::block_in_place(|| self.engine.binding(name))?.map(names::Bound::from);
        let next = binding::next(own.as_ref(), bound.as_ref());
        match binding::choose(here, own.as_ref(), bound.as_ref()) {
            Choice::Nothing => Ok(Done::default()),
            Choice::Fetch(nsid) => self.fetch(name, nsid).await,
            Choice::Exchange(nsid) => self.exchange(name, nsid).await,
            Choice::Bind(nsid) => {
                let done = self.exchange(name, nsid).await?;
                self.bind(attached, name, next, Some(nsid)).await?;
                Ok(done)
            }
            Choice::Delete(nsid, ended) => match self.has_seen_all(name, nsid, &ended).await? {
                true => {
                    let done = match here {
                        Some(nsid) => self.exchange(name, nsid).await?,
                        None => Done::default(),
                    };
                    self.bind(attached, name, next, here).await?;
                    Ok(done)
                }
                // What others wrote meanwhile was not meant.
                false if here.is_none() => {
                    tracing::warn!(%name, "deleted here, and written to by other nodes since: it is back");
                    self.fetch(name, nsid).await
                }
                false => Err(binding::written_elsewhere(name)),
            },
            Choice::Follow(ended) => self.follow_deletion(attached, name, &ended).await,
            Choice::Collision(own, other) => Err(binding::collision(name, own, other)),
        }
    }

    /// The newest revision of every name in the bucket. A pass that nobody asked for, or for names that are known, lists them now
    /// and then only: listing costs as much as writing.
    async fn names(&self, attached: &mut Attached, selection: &Selection) -> Result<BTreeMap<NamespaceName, u64>> {
        let now = self.clock.now_millis();
        if let Some((known, listed_ms)) = &attached.names
            && (selection.is_unasked() || selection.is_among(known))
            && (*listed_ms..listed_ms.saturating_add(LISTED_EVERY_MS)).contains(&now)
        {
            return Ok(known.clone());
        }
        self.check_identity().await?;
        let found = names::all(&self.bucket, &self.options.patience).await;
        let found = found.context(|| "list the names in the bucket")?;
        attached.bound.retain(|(name, rev), _| found.get(name) == Some(rev));
        attached.names = Some((found.clone(), now));
        Ok(found)
    }

    /// Refuses a bucket that was taken away, or replaced by another, since it was attached: what is known of it is of no other.
    async fn check_identity(&self) -> Result<()> {
        let (expected, name) = (self.engine.store_id(), self.bucket.name());
        match read_identity(&self.bucket, &self.options.patience).await? {
            Some(found) if found.store == expected => Ok(()),
            found => {
                let what = found.map_or("is no store".to_owned(), |found| format!("is store {}", found.store));
                Err(Error::conflict(format!("{name} {what}, and was store {expected} when it was attached"))
                    .with_code("bucket_replaced")
                    .with_hint(
                        "nothing was sent; put the bucket back, or start the daemon again to attach what is there",
                    ))
            }
        }
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
    ) -> Result<()> {
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
            names.insert(name.clone(), bound.rev);
        }
        attached.bound.insert((name.clone(), bound.rev), bound);
        Ok(())
    }

    /// Whether a deletion knew of everything that the bucket has of the incarnation.
    async fn has_seen_all(&self, name: &NamespaceName, nsid: Nsid, ended: &Ended) -> Result<bool> {
        let newest = self.newest(&name.project, nsid, None).await?;
        Ok(newest.is_none_or(|found| ended.seen.covers_all(&found.manifest.version_vector)))
    }

    /// Deletes what another node deleted. What it had not seen stays, under another name, and is in the bucket before it goes
    /// here: it was acknowledged before this pass.
    async fn follow_deletion(&self, attached: &mut Attached, name: &NamespaceName, ended: &Ended) -> Result<Done> {
        let seen = self.engine.seen(name).await?;
        let mut done = Done::default();
        if !ended.seen.covers_all(&seen) {
            let kept = self.keep_recovered(name, &seen).await?;
            let here = tokio::task::block_in_place(|| self.engine.binding(&kept))?.and_then(|bound| bound.target);
            let rev = attached.names.as_ref().and_then(|(names, _)| names.get(&kept).copied());
            let sent = Box::pin(self.bring_together(attached, &kept, here, rev)).await;
            done = sent.context(|| format!("send what is kept as {kept}"))?;
        }
        self.engine.delete(name).await?;
        Ok(done)
    }

    /// Copies what is here of a namespace to a name of this node's own.
    async fn keep_recovered(&self, name: &NamespaceName, seen: &VersionVector) -> Result<NamespaceName> {
        for kept in binding::recovered(name, self.engine.node_id()) {
            let kept = kept?;
            match self.engine.copy(name, &kept).await {
                Ok(_) => {
                    tracing::warn!(%name, %kept, "deleted by another node, which had not seen what was written here: that is kept");
                    return Ok(kept);
                }
                // An interrupted pass made it, if it has everything that goes now.
                Err(error) if error.code() == "exists" => {
                    if self.engine.seen(&kept).await?.covers_all(seen) {
                        return Ok(kept);
                    }
                }
                Err(error) => return Err(error.context(format_args!("keep what is here of {name} as {kept}"))),
            }
        }
        Err(Error::conflict(format!("{name} was deleted by another node, and kept here too often under other names"))
            .with_hint("delete those that are not needed any more; nothing is lost until then"))
    }

    fn note(&self, name: &NamespaceName, now: u64, done: Result<Done>) -> Result<()> {
        self.edit(|status| {
            let known = status.namespaces.entry(name.clone()).or_default();
            known.tried_ms = Some(now);
            match done {
                Ok(done) => {
                    known.follow(done, now);
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
