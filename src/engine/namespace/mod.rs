//! One namespace: a decider that orders writes, a state that follows what is durable, views that queries run on.
//!
//! - `state` is what is in memory, `open` makes it from the files as far as `intake` finds room, and `replay` applies logs,
//!   `head` commits manifests;
//! - `write` decides and logs, `frames` cuts commits, `answers` says what writes with a key did, `apply` lets the state follow
//!   what is durable, `places` says where that meets segments;
//! - `flush` turns the tail into a segment, `room` says when, `making` counts what writes make before, `compaction` merges segments, but for those that others
//!   need, too, as `standing` says;
//! - `share` gives the newest state to who references it;
//! - `stillness` keeps all of it as it is for a moment, `idle` closes it;
//! - `absorb` takes another namespace's documents in, `rebase` goes over to a state that another node made of this one, which
//!   keeps segments that `reuse` says;
//! - `renewal` takes a new origin.

pub mod absorb;
pub mod answers;
mod apply;
mod bring;
pub mod compaction;
mod conflict_room;
mod flush;
mod frames;
pub mod head;
mod idle;
mod intake;
mod making;
mod open;
mod places;
pub mod rebase;
mod renew;
mod renewal;
mod replay;
mod reuse;
mod room;
mod share;
mod standing;
mod state;
mod stillness;
mod tombstones;
mod write;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

pub(in crate::engine) use self::flush::{reference, write_deletions};
pub(in crate::engine) use self::intake::Intake;
pub(in crate::engine) use self::state::etag;
pub use self::write::moved;
pub(in crate::engine) use self::write::read_only;

use self::answers::Answers;
use self::head::Head;
use self::places::Places;
pub(in crate::engine) use self::replay::Lost;
use self::state::State;
use super::context::Context;
use super::group_commit::{GroupCommit, Ticket};
use super::journal::{Distrust, Journal, SealedLog};
use super::recovery::Unsettled;
use super::setbacks::Work;
use super::unsent::OldestUnsent;
use super::view::View;
use super::write::Change;
use crate::error::{Error, Result};
use crate::format::manifest::{Lineage, Manifest};
use crate::model::document::{Document, Tombstone};
use crate::model::ids::{DocId, Hlc, NamespaceName, Nsid, Origin, Version};
use crate::model::schema::Schema;
use crate::model::version_vector::VersionVector;

/// The index counts as up to date while no more rows than this are in no segment: comparing these one by one costs a query
/// less than a millisecond.
pub const UNINDEXED_ROWS_MAX: u64 = 1_000;
/// A larger tail becomes a segment once no write came for so long, so that the index gets up to date without more writes.
const QUIET_MS: u64 = 60_000;

/// An open namespace.
pub struct Namespace {
    context: Arc<Context>,
    pub name: NamespaceName,
    pub nsid: Nsid,
    /// Held by the one of its writes that looks by filters, or is the next to: the others wait and have no turn of its project. Taken
    /// before that turn, which is taken before the decider.
    looking: tokio::sync::Mutex<()>,
    /// Who holds it decides what the next commit is.
    decider: tokio::sync::Mutex<Decider>,
    shared: Mutex<Shared>,
    /// The newest snapshot; readers wait for nobody.
    view: RwLock<Arc<View>>,
    /// The newest manifest; who holds it commits the next one.
    head: tokio::sync::Mutex<Head>,
    /// What the newest manifest says, for readers.
    published: RwLock<Published>,
    flushing: AtomicBool,
    compacting: AtomicBool,
    /// Held to put a merged segment in the place of its inputs, and by who needs the segments to stay as they are. Taken after
    /// `flushing`, and before the decider and the head.
    replacing: tokio::sync::Mutex<()>,
    /// The tail's memory, as the engine's total knows it.
    tail_bytes: AtomicU64,
    /// The length of the logs that a flush would end.
    log_bytes: AtomicU64,
    /// The tail lies in so many logs that the next write is to begin a flush.
    many_logs: AtomicBool,
    deleted: AtomicBool,
    /// Since when what is in no segment waits for one.
    waits_since_ms: AtomicU64,
    /// Why what is in memory does not follow what is durable any more. Nothing is written then.
    apart: OnceLock<Arc<Error>>,
    /// When it was used last, among all uses.
    last_used: AtomicU64,
    /// States of conflicts that there was no room for.
    conflicts_let_go: AtomicU64,
    /// The oldest write that is here only, as it was last found.
    oldest_unsent: Mutex<Option<OldestUnsent>>,
}

/// The facts of the newest manifest that answers need.
#[derive(Clone, Debug, Default)]
pub struct Published {
    pub generation: u64,
    pub commit_id: String,
    pub committed_ms: u64,
    pub data_seq: u64,
    pub lineage: Option<Lineage>,
    pub expires_ms: Option<u64>,
    pub labels: std::collections::BTreeMap<String, String>,
    pub read_only: bool,
    pub created_ms: u64,
    pub updated_ms: u64,
    pub written_ms: u64,
    pub rows: u64,
    pub logical_bytes: u64,
    pub segments: Vec<(u8, u64, u32)>,
    pub logs: usize,
    /// Keys of the objects with unresolved conflicts.
    pub conflicts: Arc<Vec<String>>,
}

/// A namespace at one moment: what queries see, and what comparing, merging and copying need beside it.
#[derive(Clone)]
pub struct Moment {
    pub nsid: Nsid,
    pub view: Arc<View>,
    /// Documents deleted by records that are in no segment yet, in the order of their ids. Older tombstones are in segments.
    pub tombstones: Vec<Tombstone>,
    pub vector: VersionVector,
    /// The newest manifest then. Documents and schema are as in `view`, which may be ahead of it.
    pub manifest: Manifest,
}

impl Moment {
    /// The same, for who writes down what it reads: nothing counts as checked.
    pub fn unchecked(&self) -> Moment {
        Moment { view: Arc::new(self.view.unchecked()), ..self.clone() }
    }
}

/// How far a namespace has come: the counter of commits that changed documents or schema, and the clock of the newest commit.
pub type Progress = (u64, Hlc);

/// What the next commit is decided on: everything durable, and everything on its way.
struct Decider {
    origin: Origin,
    journal: Option<Journal>,
    /// Logs whose records are not in segments, oldest first; all of them are sealed once nothing is unsettled.
    sealed: Vec<SealedLog>,
    /// What opening left to the first write, which settles it.
    unsettled: Unsettled,
    next_seq: u64,
    schema: Arc<Schema>,
    data_seq: u64,
    hlc: Hlc,
    ids_reserved: u64,
    read_only: bool,
    /// Numbers commits on their way.
    number: u64,
    /// Answers of commits with an `Idempotency-Key`.
    answers: Answers,
    /// A commit is on its way that is not in the overlay: it has to be done before anything else is decided.
    is_blind: bool,
    /// The log failed: everything is opened anew before the next commit.
    distrust: Option<Distrust>,
    broken: bool,
}

impl Decider {
    /// The length of the logs that a flush would end.
    fn log_bytes(&self) -> u64 {
        let sealed = self.sealed.iter().map(|log| log.bytes).sum::<u64>();
        sealed + self.journal.as_ref().map_or(0, Journal::bytes)
    }
}

/// What writers and readers share; held for moments.
struct Shared {
    state: State,
    pending: VecDeque<Pending>,
    /// What commits on their way make of documents: the commit's number and the new state.
    overlay: HashMap<DocId, (u64, Option<Arc<Document>>)>,
    /// What the changes in `pending` take.
    pending_bytes: u64,
    /// The first of `pending` is durable, and could not be applied when that was tried last.
    is_stuck: bool,
}

/// A commit that waits for its barrier.
struct Pending {
    number: u64,
    group: Arc<GroupCommit>,
    ticket: Ticket,
    changes: Vec<Change>,
    places: Places,
    /// What the changes take.
    bytes: u64,
    version: Version,
    schema: Option<Arc<Schema>>,
    ids_reserved: Option<u64>,
    counts: bool,
    /// Its answer is kept.
    is_keyed: bool,
}

impl Namespace {
    /// The newest snapshot of what is durable.
    pub fn view(&self) -> Arc<View> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The newest durable state, with what comparing and merging need.
    pub async fn moment(&self) -> Result<Moment> {
        self.check_alive()?;
        let head = self.head.lock().await;
        let shared = self.shared();
        Ok(Moment {
            nsid: self.nsid,
            view: Arc::new(shared.state.view(&self.name.to_string(), self.context.config.recall)),
            tombstones: shared.state.tombstones(),
            vector: shared.state.vector(),
            manifest: head.manifest.clone(),
        })
    }

    /// Keeps everybody from writing until the guard is dropped. Commits on their way are done on return.
    pub(in crate::engine) async fn hold_writes(&self) -> Result<impl Drop + '_> {
        let mut decider = self.decider.lock().await;
        self.make_ready(&mut decider).await?;
        self.drain(&mut decider).await?;
        Ok(decider)
    }

    pub(in crate::engine) async fn newest_manifest(&self) -> Manifest {
        self.head.lock().await.manifest.clone()
    }

    /// Whether the newest manifest says all that was acknowledged, and is as `wanted`.
    pub(in crate::engine) async fn is_at_rest_as(&self, wanted: impl FnOnce(&Manifest) -> bool) -> bool {
        let head = self.head.lock().await;
        let is_behind = self.progress().0 != head.manifest.data_seq || self.unflushed().1 > 0;
        !is_behind && head.manifest.logs.is_empty() && wanted(&head.manifest)
    }

    pub fn published(&self) -> Published {
        self.published.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The incarnation at the root of the tree of branches.
    pub fn root(&self) -> Nsid {
        self.published().lineage.map_or(self.nsid, |lineage| lineage.root.unwrap_or(lineage.nsid))
    }

    pub fn origin(&self) -> Origin {
        self.shared().state.origin
    }

    /// Memory and rows of everything that is not in a segment.
    pub fn unflushed(&self) -> (u64, u64) {
        let shared = self.shared();
        (shared.bytes(), shared.state.unflushed_rows())
    }

    /// Whether anything waits for a flush: documents, deletions, answers, or commits in the log that have none of these.
    pub(in crate::engine) fn has_unflushed(&self) -> bool {
        self.unflushed().0 > 0 || self.log_bytes.load(Ordering::Relaxed) > 0
    }

    /// Since when what is in no segment waits for one, at `now` of the same clock; anew where that went back.
    pub(in crate::engine) fn waits_since(&self, now: u64) -> u64 {
        self.waits_since_ms.fetch_min(now, Ordering::Relaxed).min(now)
    }

    /// Whether rows wait for an index: a tail is on its way into a segment, or has more rows than are searched one by one.
    pub fn is_indexing(&self) -> bool {
        let shared = self.shared();
        shared.state.frozen.is_some()
            || shared.state.tail.bytes() >= self.context.config.flush_bytes
            || shared.state.unflushed_rows() > UNINDEXED_ROWS_MAX
    }

    /// Whether a tail that is too large to be searched row by row has had no write for a while.
    pub(super) fn is_quiet(&self, now_ms: u64) -> bool {
        let shared = self.shared();
        shared.state.unflushed_rows() > UNINDEXED_ROWS_MAX
            && now_ms.saturating_sub(shared.state.hlc.millis()) >= QUIET_MS
    }

    /// Whether objects are being written that no manifest names yet.
    pub fn is_building(&self) -> bool {
        self.flushing.load(Ordering::SeqCst) || self.compacting.load(Ordering::SeqCst)
    }

    /// Makes everything durable and closes the log, for the end of the process.
    pub async fn stop(&self) -> Result<()> {
        let mut decider = self.decider.lock().await;
        let has_failed = decider.broken || decider.journal.as_ref().is_some_and(Journal::is_failed);
        if self.deleted.load(Ordering::SeqCst) || has_failed || self.apart().is_some() {
            // What was acknowledged is durable, and who was not told so was told of the failure.
            return Ok(());
        }
        self.drain(&mut decider).await?;
        self.seal(&mut decider)
    }

    /// Ends this life: nothing is read or written here any more, and its files stay as they are. The name must be unbound
    /// already.
    pub async fn retire(&self) {
        self.deleted.store(true, Ordering::SeqCst);
        let mut decider = self.decider.lock().await;
        // A log is not sealed while a barrier is under way: that would leave open what is counted.
        let drained = self.drain(&mut decider).await;
        let _head = self.head.lock().await;
        if let Err(error) = drained.and_then(|()| self.seal(&mut decider)) {
            // What was acknowledged is in the file; who brings the namespace back recovers it.
            tracing::debug!(namespace = %self.name, %error, "the log is not sealed");
        }
        let mut shared = self.shared();
        self.context.tail_changed(shared.bytes(), 0);
        shared.pending.clear();
        drop(shared);
        self.context.set_right(self.nsid, Work::Flush);
        self.context.set_right(self.nsid, Work::Compaction);
    }

    pub fn is_compacting(&self) -> bool {
        self.compacting.load(Ordering::SeqCst)
    }

    /// The counter of commits and the clock of the newest durable one.
    pub fn progress(&self) -> Progress {
        let shared = self.shared();
        (shared.state.data_seq, shared.state.hlc)
    }

    /// What the newest durable state has seen.
    pub(in crate::engine) fn acknowledged(&self) -> VersionVector {
        self.shared().state.vector()
    }

    /// Counts the tail's memory, which was `before` bytes when the caller locked what is shared.
    fn follow_tail(&self, shared: &Shared, before: u64) {
        let after = shared.bytes();
        self.tail_bytes.store(after, Ordering::Relaxed);
        self.context.tail_changed(before, after);
    }

    fn publish_view(&self, state: &State) {
        let view = Arc::new(state.view(&self.name.to_string(), self.context.config.recall));
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = view;
    }

    fn publish_head(&self, head: &Head) {
        self.waits_since_ms.store(head.manifest.committed_ms, Ordering::Relaxed);
        *self.published.write().unwrap_or_else(PoisonError::into_inner) = published(head);
    }

    pub(in crate::engine) fn oldest_unsent_known(&self) -> MutexGuard<'_, Option<OldestUnsent>> {
        self.oldest_unsent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_alive(&self) -> Result<()> {
        if self.deleted.load(Ordering::SeqCst) {
            return Err(not_found(&self.name));
        }
        self.apart().map_or(Ok(()), |error| Err(error.duplicate()))
    }
}

fn published(head: &Head) -> Published {
    let manifest = &head.manifest;
    let dead = |s: &crate::format::manifest::SegmentRef| s.deletions.as_ref().map_or(0, |d| u64::from(d.rows));
    let share = |s: &crate::format::manifest::SegmentRef| match u64::from(s.rows) {
        0 => 0,
        rows => (u128::from(s.logical_bytes) * u128::from(rows - dead(s).min(rows)) / u128::from(rows)) as u64,
    };
    Published {
        generation: manifest.generation,
        commit_id: manifest.commit_id.to_string(),
        committed_ms: manifest.committed_ms,
        data_seq: manifest.data_seq,
        lineage: manifest.lineage.clone(),
        expires_ms: manifest.expires_ms,
        labels: manifest.labels.clone(),
        read_only: manifest.read_only,
        created_ms: manifest.created_ms,
        updated_ms: manifest.updated_ms,
        written_ms: manifest.written_ms,
        rows: manifest.segments.iter().map(|s| u64::from(s.rows).saturating_sub(dead(s))).sum(),
        logical_bytes: manifest.segments.iter().map(share).sum(),
        segments: manifest.segments.iter().map(|s| (s.level, s.bytes, s.rows)).collect(),
        logs: manifest.logs.len(),
        conflicts: Arc::new(manifest.conflicts.clone()),
    }
}

/// The contract's answer for a name that is not bound.
pub fn not_found(name: &NamespaceName) -> Error {
    Error::not_found(format!("🤷 namespace '{}' was not found", name.name))
}

/// What is refused as the daemon stops.
pub fn stopping() -> Error {
    Error::unavailable("the daemon is stopping")
}
