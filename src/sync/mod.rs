//! Brings this node and a bucket together, one namespace after another; interrupted anywhere, it goes on where it was.
//!
//! - `namespace` is one of them: take in what the bucket has, send what is here, commit, until both have everything;
//! - `names` are those in the bucket, `objects` what is carried, `keys` where things lie there;
//! - `status` is what a person is told, `report` how it is shown, `plan` what would be done;
//! - `worker` runs passes unattended and on request, `schedule` says when, `selection` of which namespaces.
//!
//! Invariants:
//! - The bucket's manifest names only objects that are in the bucket.
//! - Which of two states is newer is decided by what they have seen, never by when they were made or by a number.
//! - Every answer about a commit that is not "done" is a question, and reading answers it; see [`crate::store::commit`].

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
use crate::model::ids::{NamespaceName, Nsid};
use crate::platform::clock::Clock;
use crate::store::{Bucket, Patience, UNREACHABLE, claim_identity, probe};

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
}

/// Whether the bucket was found to be the one that this node belongs to.
#[derive(Default)]
struct Attached {
    is_known: bool,
}

impl Sync {
    pub fn new(engine: Arc<Engine>, bucket: Bucket, options: SyncOptions, clock: Arc<dyn Clock>) -> Self {
        let status = Status { bucket: bucket.name().to_owned(), ..Status::default() };
        Sync { engine, bucket, options, clock, turn: tokio::sync::Mutex::default(), status: Mutex::new(status) }
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
        let in_bucket = names::all(&self.bucket, patience).await.context(|| "list the names in the bucket")?;
        let here: BTreeMap<NamespaceName, Nsid> = self.engine.named().into_iter().collect();
        let all: BTreeSet<&NamespaceName> = in_bucket.keys().chain(here.keys()).collect();
        let mut failed = None;
        let mut unreached = 0;
        for name in all.into_iter().filter(|name| selection.takes(name)) {
            let done = self.bring_together(name, here.get(name).copied(), in_bucket.get(name).copied()).await;
            let now = self.clock.now_millis();
            pass.namespaces.insert(name.clone(), done.as_ref().cloned().map_err(Error::duplicate));
            let error = self.note(name, now, done).err();
            unreached = if error.as_ref().is_some_and(|e| e.code() == UNREACHABLE) { unreached + 1 } else { 0 };
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
        name: &NamespaceName,
        here: Option<Nsid>,
        rev: Option<u64>,
    ) -> Result<namespace::Done> {
        let patience = &self.options.patience;
        let bound = match rev {
            Some(rev) => names::read(&self.bucket, name, rev, patience).await?,
            None => None,
        };
        match (here, bound.map(|bound| (bound.rev, bound.target))) {
            (None, None | Some((_, None))) => Ok(namespace::Done::default()),
            (None, Some((_, Some(nsid)))) => self.fetch(name, nsid).await,
            (Some(nsid), Some((_, Some(target)))) if nsid == target => self.exchange(name, nsid).await,
            (Some(nsid), Some((_, Some(target)))) => Err(Error::conflict(format!(
                "{name} is incarnation {nsid} here and {target} in the bucket: two nodes created it apart"
            ))
            .with_code("name_taken")
            .with_hint("copy the namespace here to another name and delete this one; the next sync brings the bucket's, and `shoal merge` joins the two")),
            (Some(nsid), found) => {
                let rev = found.map_or(0, |(rev, _)| rev + 1);
                if rev > 0 && tokio::task::block_in_place(|| self.engine.common(nsid))?.is_some() {
                    return Err(Error::conflict(format!("{name} was deleted by another node"))
                        .with_code("deleted_elsewhere")
                        .with_hint("delete it here, too; what is still wanted of it can be copied to another name before"));
                }
                let done = self.exchange(name, nsid).await?;
                let hlc = crate::model::ids::Hlc::from_millis(self.clock.now_millis());
                let bound = names::bind(&self.bucket, name, rev, Some(nsid), hlc, patience).await?;
                match bound.target == Some(nsid) {
                    true => Ok(done),
                    false => Err(Error::conflict(format!("{name} was bound to another incarnation by another node"))
                        .with_hint("the next sync says what to do")),
                }
            }
        }
    }

    fn note(&self, name: &NamespaceName, now: u64, done: Result<namespace::Done>) -> Result<()> {
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
