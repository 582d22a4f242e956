//! Turns the tail into a segment, and commits manifests for everything that is not a document write.
//!
//! Steps of a flush: wait until nothing is on its way; seal the log; freeze the tail; build and publish the segment; write the
//! answers to repeat to a file; commit a manifest whose `replay_from` lies behind the frozen records; remove the logs it made superfluous.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use roaring::RoaringBitmap;

use super::head::{Head, reclaim};
use super::open::open_part;
use super::state::Part;
use super::{Decider, Moment, Namespace};
use crate::engine::context::Context;
use crate::engine::journal::SealedLog;
use crate::engine::layout::{deletions_key, log_key, segment_key};
use crate::error::{Error, Kind, Result};
use crate::format::deletions;
use crate::format::manifest::{DeletionsRef, LogRef, Manifest, SegmentRef};
use crate::model::ids::{Hlc, Origin, Project};
use crate::model::schema::Schema;
use crate::segment::Summary;
use crate::segment::builder::{Entry, build};

/// So many sealed logs are reason enough for a flush.
const SEALED_LOGS: usize = 16;

/// Whether the tail lies in so many logs that the next write begins a flush. What seals them, such as a branch, does not: it is
/// to cost the same every time.
pub(super) fn are_many(sealed: &[SealedLog]) -> bool {
    sealed.len() >= SEALED_LOGS
}

/// A namespace's newest state as another incarnation may reference it.
pub struct Share<'a> {
    pub manifest: Manifest,
    /// Nothing is committed, and so nothing let go of, while this is held.
    _head: tokio::sync::MutexGuard<'a, Head>,
}

/// A raised flag.
pub(super) struct Turn<'a> {
    flag: &'a AtomicBool,
    context: &'a Context,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.flag.store(false, Ordering::SeqCst);
        self.context.room.notify_waiters();
    }
}

/// What a flush has to carry out.
struct Job {
    entries: Vec<Entry>,
    schema: Arc<Schema>,
    replay_from: u64,
    data_seq: u64,
    hlc: Hlc,
    own: Hlc,
    ids_reserved: u64,
}

impl Namespace {
    /// Begins a flush in the background when the tail is large enough, or lies in many logs.
    pub(super) fn flush_when_due(self: &Arc<Self>) {
        let is_large = self.tail_bytes.load(Ordering::Relaxed) >= self.context.config.flush_bytes;
        if is_large || self.many_logs.swap(false, Ordering::Relaxed) {
            self.start_flush();
        }
    }

    /// Begins a flush in the background unless one is under way.
    pub fn start_flush(self: &Arc<Self>) {
        if self.context.is_stopping() || self.flushing.swap(true, Ordering::SeqCst) {
            return;
        }
        let namespace = self.clone();
        tokio::spawn(async move {
            let done = namespace.flush_now().await;
            namespace.flushing.store(false, Ordering::SeqCst);
            namespace.context.room.notify_waiters();
            match done {
                Ok(()) => {
                    // What came meanwhile found a flush under way, and may be the last for long.
                    namespace.flush_when_due();
                    namespace.start_compaction();
                }
                Err(error) if error.kind() == Kind::NotFound => {}
                Err(error) => tracing::warn!(namespace = %namespace.name, %error, "flush failed, it is tried again"),
            }
        });
    }

    /// Makes a segment of everything in the tail; afterwards the next opening replays nothing.
    pub async fn flush(self: &Arc<Self>) -> Result<()> {
        let turn = self.turn(&self.flushing).await;
        self.flush_now().await?;
        drop(turn);
        self.start_compaction();
        Ok(())
    }

    /// Waits until nobody else does what a flag stands for, and raises it until the result is dropped.
    pub(super) async fn turn<'a>(&'a self, flag: &'a AtomicBool) -> Turn<'a> {
        loop {
            // Made before the look, so that no end is missed.
            let ended = self.context.room.notified();
            if !flag.swap(true, Ordering::SeqCst) {
                return Turn { flag, context: &self.context };
            }
            ended.await;
        }
    }

    async fn flush_now(self: &Arc<Self>) -> Result<()> {
        let _turn = self.context.flushing.acquire().await.map_err(|_| stopping())?;
        let job = {
            let mut decider = self.decider.lock().await;
            self.make_ready(&mut decider).await?;
            self.drain(&mut decider).await?;
            if self.shared().state.frozen.is_none() {
                self.freeze(&mut decider)?;
            }
            self.job()
        };
        let Some(job) = job else { return Ok(()) };
        let namespace = self.clone();
        let built = tokio::task::spawn_blocking(move || {
            let part = namespace.build(&job)?;
            // The rows are in the file now; the namespace lets go of them with the frozen tail.
            Ok::<_, Error>((Job { entries: Vec::new(), ..job }, part))
        })
        .await;
        let (job, part) = built.map_err(|error| Error::internal(format!("build a segment: {error}")))??;
        self.install(job, part).await
    }

    /// Makes segments of everything while the caller holds the decider and has `flushing` for itself: afterwards no record is
    /// replayed, and no log is named.
    pub(super) async fn flush_held(self: &Arc<Self>, decider: &mut Decider) -> Result<()> {
        let _turn = self.context.flushing.acquire().await.map_err(|_| stopping())?;
        loop {
            let is_last = self.shared().state.frozen.is_none();
            if is_last {
                self.seal(decider)?;
                let inherits = !self.head.lock().await.manifest.logs.is_empty();
                let mut shared = self.shared();
                if shared.state.tail.is_empty() && decider.sealed.is_empty() && !inherits {
                    return Ok(());
                }
                shared.state.freeze(decider.next_seq);
                self.publish_view(&shared.state);
            }
            let Some(job) = self.job() else { return Ok(()) };
            let part = tokio::task::block_in_place(|| self.build(&job))?;
            self.install_held(decider, job, part).await?;
            // A log without records stays until the one after it is flushed, so there may always be one.
            if is_last {
                return Ok(());
            }
        }
    }

    /// Seals the log and ends the tail there.
    fn freeze(&self, decider: &mut Decider) -> Result<()> {
        self.seal(decider)?;
        let mut shared = self.shared();
        if !shared.state.tail.is_empty() || !decider.sealed.is_empty() {
            shared.state.freeze(decider.next_seq);
            self.publish_view(&shared.state);
        }
        Ok(())
    }

    /// Closes the open log and moves it into the tier. Nothing may be on its way.
    pub(super) fn seal(&self, decider: &mut Decider) -> Result<()> {
        let Some(journal) = decider.journal.take() else { return Ok(()) };
        let distrust = journal.distrust();
        let _commits = self.context.commits.read().unwrap_or_else(PoisonError::into_inner);
        match tokio::task::block_in_place(|| journal.seal()) {
            Ok(sealed) => {
                self.context.keep(&[log_key(&self.name.project, self.nsid, &sealed.name)]);
                decider.sealed.push(sealed);
                self.many_logs.store(are_many(&decider.sealed), Ordering::Relaxed);
                Ok(())
            }
            Err(error) => {
                // It may be in the tier already, and is not counted there.
                self.context.meta.distrust("a log could not be sealed");
                decider.distrust = Some(distrust);
                decider.broken = true;
                Err(error)
            }
        }
    }

    fn job(&self) -> Option<Job> {
        let shared = self.shared();
        let frozen = shared.state.frozen.as_ref()?;
        Some(Job {
            entries: frozen.entries(),
            schema: frozen.schema.clone(),
            replay_from: frozen.replay_from,
            data_seq: frozen.data_seq,
            hlc: frozen.hlc,
            own: frozen.own,
            ids_reserved: frozen.ids_reserved,
        })
    }

    fn build(&self, job: &Job) -> Result<Option<Part>> {
        if job.entries.is_empty() {
            return Ok(None);
        }
        let context = &self.context;
        let segment_id = context.random.uuid_v7(context.clock.now_millis());
        let key = segment_key(&self.name.project, self.nsid, segment_id);
        let mut writer = context.tier.create(&key)?;
        let summary = build(segment_id, &job.schema, &job.entries, &mut writer)?;
        writer.publish()?;
        open_part(context, &reference(key, segment_id, 0, &summary)).map(Some)
    }

    /// Commits an edit of the manifest that leaves documents as they are.
    pub async fn edit_head(&self, edit: impl FnOnce(&mut Manifest)) -> Result<()> {
        self.check_alive()?;
        let mut head = self.head.lock().await;
        let now = self.context.clock.now_millis();
        let next = tokio::task::block_in_place(|| {
            head.commit(&self.context, |manifest| {
                edit(manifest);
                manifest.updated_ms = now;
            })
        })?;
        *head = next;
        self.publish_head(&head);
        Ok(())
    }

    /// Refuses or allows writes from now on.
    pub async fn set_read_only(&self, read_only: bool) -> Result<()> {
        let mut decider = self.decider.lock().await;
        self.edit_head(|manifest| manifest.read_only = read_only).await?;
        decider.read_only = read_only;
        Ok(())
    }

    /// The whole newest state as a manifest, its logs sealed and named, so that another incarnation may reference the same
    /// objects. They stay for as long as the result is held, and nothing is committed here meanwhile.
    pub(in crate::engine) async fn share(self: &Arc<Self>) -> Result<Share<'_>> {
        // A frozen tail has no logs of its own boundary in a manifest until it is a segment.
        loop {
            let mut decider = self.decider.lock().await;
            self.make_ready(&mut decider).await?;
            self.drain(&mut decider).await?;
            let ended = self.context.room.notified();
            if self.flushing.load(Ordering::SeqCst) {
                drop(decider);
                ended.await;
                continue;
            }
            self.seal(&mut decider)?;
            let head = self.head.lock().await;
            let shared = self.shared();
            let manifest = Manifest {
                logs: log_refs(&head.manifest, &self.name.project, decider.origin, &decider.sealed),
                next_seq: decider.next_seq,
                data_seq: shared.state.data_seq,
                hlc: shared.state.hlc,
                version_vector: shared.state.vector(),
                schema: (*decider.schema).clone(),
                ids_reserved: decider.ids_reserved,
                ..head.manifest.clone()
            };
            drop(shared);
            return Ok(Share { manifest, _head: head });
        }
    }

    /// The state of the newest manifest, which names no log: what was written since is not in it. Its objects stay for as long
    /// as the result is held, and nothing is committed here meanwhile. `Busy` while there are records that no segment has.
    pub(in crate::engine) async fn committed(&self) -> Result<Share<'_>> {
        self.check_alive()?;
        let head = self.head.lock().await;
        let mut manifest = head.manifest.clone();
        if !manifest.logs.is_empty() {
            let shared = self.shared();
            if !shared.state.tail.is_empty() || shared.state.frozen.is_some() {
                return Err(Error::busy(format!("namespace {} has records that are in no segment yet", self.name)));
            }
            // Inherited logs without a document: all they may have changed is the schema.
            manifest.logs.clear();
            manifest.schema = (*shared.state.schema).clone();
        }
        Ok(Share { manifest, _head: head })
    }

    /// The newest state, which is not older than what was shared.
    pub(in crate::engine) fn moment_beside(&self, share: &Share<'_>) -> Moment {
        let shared = self.shared();
        Moment {
            nsid: self.nsid,
            view: Arc::new(shared.state.view(&self.name.to_string(), self.context.config.recall)),
            tombstones: shared.state.tombstones(),
            vector: shared.state.vector(),
            manifest: share.manifest.clone(),
        }
    }

    /// Writes a deletion bitmap for every segment that had more dead rows than its manifest says when the tail was frozen.
    /// Rows that died later stay: the records that did it are replayed after a crash, and may be patches of them.
    fn save_deletions(&self) -> Result<BTreeMap<uuid::Uuid, DeletionsRef>> {
        let changed: Vec<(SegmentRef, Arc<RoaringBitmap>)> = {
            let shared = self.shared();
            let frozen = shared.state.frozen.as_ref();
            let dead = |part: &Part| frozen?.dead.get(&part.reference.segment_id).cloned();
            let parts = shared.state.parts.iter();
            parts
                .filter_map(|part| Some((part, dead(part)?)))
                .filter(|(part, dead)| dead.len() != part.settled.len())
                .map(|(part, dead)| (part.reference.clone(), dead))
                .collect()
        };
        let mut saved = BTreeMap::new();
        for (reference, dead) in changed {
            let object = write_deletions(&self.context, &self.name.project, self.nsid, &reference, &dead)?;
            saved.insert(reference.segment_id, object);
        }
        Ok(saved)
    }
}

impl Namespace {
    async fn install(self: &Arc<Self>, job: Job, part: Option<Part>) -> Result<()> {
        self.check_alive()?;
        // The decider waits: a log may not be sealed between the manifest and what is forgotten after it.
        let mut decider = self.decider.lock().await;
        self.install_held(&mut decider, job, part).await
    }

    async fn install_held(&self, decider: &mut Decider, job: Job, part: Option<Part>) -> Result<()> {
        let mut head = self.head.lock().await;
        if self.shared().state.frozen.as_ref().is_none_or(|frozen| frozen.replay_from != job.replay_from) {
            // The log failed meanwhile, and what was frozen is in the tail again.
            if let Some(part) = part {
                let _ = self.context.tier.remove(&part.reference.key);
            }
            return Err(Error::unavailable("the log failed while the tail became a segment; the tail is kept"));
        }
        let (next, staged) = tokio::task::block_in_place(|| {
            let staged = self.stage_answers(decider, head.manifest.generation + 1, job.hlc)?;
            match self.commit_flush(&head, &job, part) {
                Ok(next) => Ok((next, staged)),
                Err(error) => {
                    self.withdraw_answers(staged);
                    Err(error)
                }
            }
        })?;
        *head = next;
        self.publish_head(&head);
        self.settle_answers(decider, staged, job.hlc);
        let is_over = |log: &mut SealedLog| log.next_seq <= job.replay_from && log.newest <= job.hlc;
        let superfluous: Vec<_> = decider.sealed.extract_if(.., is_over).collect();
        drop(head);
        tokio::task::block_in_place(|| {
            let keys: Vec<String> =
                superfluous.iter().map(|log| log_key(&self.name.project, self.nsid, &log.name)).collect();
            match self.context.meta.release(&keys) {
                Ok(free) => reclaim(&self.context, &free),
                Err(error) => tracing::warn!(%error, "logs are not released, a later sweep finds them"),
            }
        });
        Ok(())
    }

    fn commit_flush(&self, head: &Head, job: &Job, part: Option<Part>) -> Result<Head> {
        let deletions = self.save_deletions()?;
        let now = self.context.clock.now_millis();
        let origin = self.origin();
        let next = head.commit(&self.context, |manifest| {
            set_deletions(manifest, &deletions);
            manifest.segments.extend(part.as_ref().map(|part| part.reference.clone()));
            manifest.logs.clear();
            manifest.replay_from = job.replay_from;
            manifest.next_seq = manifest.next_seq.max(job.replay_from);
            manifest.data_seq = job.data_seq;
            manifest.hlc = job.hlc;
            manifest.schema = (*job.schema).clone();
            manifest.ids_reserved = job.ids_reserved;
            manifest.version_vector.see(origin, job.own);
            // Earlier releases kept answers here; they are in a file now.
            manifest.idempotency.clear();
            manifest.updated_ms = now;
            manifest.written_ms = job.hlc.millis().min(now);
        })?;
        let before = self.unflushed().0;
        let mut shared = self.shared();
        for part in &mut shared.state.parts {
            let id = part.reference.segment_id;
            if let Some(saved) = next.manifest.segments.iter().find(|reference| reference.segment_id == id) {
                part.reference = saved.clone();
            }
        }
        shared.state.thaw(part)?;
        self.publish_view(&shared.state);
        let after = shared.state.unflushed_bytes();
        drop(shared);
        self.tail_bytes.store(after, Ordering::Relaxed);
        self.context.tail_changed(before, after);
        Ok(next)
    }
}

pub(in crate::engine) fn reference(key: String, segment_id: uuid::Uuid, level: u8, summary: &Summary) -> SegmentRef {
    SegmentRef {
        key,
        segment_id,
        level,
        bytes: summary.bytes,
        crc32c: summary.crc32c,
        rows: summary.rows,
        tombstones: summary.tombstones,
        logical_bytes: summary.logical_bytes,
        deletions: None,
    }
}

pub(in crate::engine) fn write_deletions(
    context: &Context,
    project: &Project,
    nsid: crate::model::ids::Nsid,
    reference: &SegmentRef,
    dead: &RoaringBitmap,
) -> Result<DeletionsRef> {
    let bytes = deletions::encode(&reference.segment_id, reference.rows, dead);
    let key = deletions_key(project, nsid, reference.segment_id, context.random.next_u64());
    let (bytes, crc32c) = context.tier.put(&key, &bytes)?;
    Ok(DeletionsRef { key, bytes, crc32c, rows: u32::try_from(dead.len()).unwrap_or(reference.rows) })
}

fn set_deletions(manifest: &mut Manifest, saved: &BTreeMap<uuid::Uuid, DeletionsRef>) {
    for segment in &mut manifest.segments {
        if let Some(object) = saved.get(&segment.segment_id) {
            segment.deletions = Some(object.clone());
        }
    }
}

/// The logs a manifest names already from others, and this writer's own.
fn log_refs(manifest: &Manifest, project: &Project, origin: Origin, sealed: &[SealedLog]) -> Vec<LogRef> {
    let inherited = manifest.logs.iter().filter(|log| log.origin != origin).cloned();
    let own = sealed.iter().filter(|log| log.next_seq > log.first_seq).map(|log| LogRef {
        key: log_key(project, manifest.nsid, &log.name),
        origin,
        first_seq: log.first_seq,
        last_seq: log.next_seq - 1,
        bytes: log.bytes,
        crc32c: log.crc32c,
    });
    inherited.chain(own).collect()
}

fn stopping() -> Error {
    Error::unavailable("the daemon is stopping")
}
