//! Turns the tail into a segment, and commits manifests for everything that is not a document write.
//!
//! Steps of a flush: wait until nothing is on its way; seal the log; freeze the tail; build and publish the segment; write the
//! answers to repeat to a file; commit a manifest whose `replay_from` lies behind the frozen records; remove the logs it made superfluous.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use roaring::RoaringBitmap;

use super::head::{Head, reclaim};
use super::open::open_part;
use super::state::Part;
use super::{Decider, Namespace, Progress, stopping};
use crate::engine::context::Context;
use crate::engine::journal::SealedLog;
use crate::engine::layout::{deletions_key, log_key, segment_key};
use crate::engine::missing_logs::kept;
use crate::engine::setbacks::Work;
use crate::engine::unnamed::Unnamed;
use crate::error::{Context as _, Error, Result};
use crate::format::deletions;
use crate::format::manifest::{DeletionsRef, Manifest, SegmentRef};
use crate::model::ids::{Hlc, Nsid, Project};
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

/// A raised flag.
pub(super) struct Turn<'a> {
    flag: &'a AtomicBool,
    context: &'a Context,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.flag.store(false, Ordering::SeqCst);
        self.context.made.room.notify_waiters();
    }
}

/// A segment, where there is anything in it, and the new objects.
type Built = (Option<Part>, Unnamed);

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
    /// Makes segments of everything in the tail. Ok means that the newest manifest has every write that was acknowledged before the
    /// call, whatever became of earlier flushes; gives how far those came, for [`Namespace::committed`].
    pub async fn flush(self: &Arc<Self>) -> Result<Progress> {
        let acknowledged = self.progress();
        let turn = self.turn(&self.flushing).await;
        self.flush_now().await?;
        drop(turn);
        self.check_committed(&self.head.lock().await.manifest, acknowledged)?;
        self.start_compaction();
        Ok(acknowledged)
    }

    /// Waits until nobody else does what a flag stands for, and raises it until the result is dropped.
    pub(super) async fn turn<'a>(&'a self, flag: &'a AtomicBool) -> Turn<'a> {
        loop {
            // Made before the look, so that no end is missed.
            let ended = self.context.made.room.notified();
            if !flag.swap(true, Ordering::SeqCst) {
                return Turn { flag, context: &self.context };
            }
            ended.await;
        }
    }

    /// The caller has `flushing` for itself. What an earlier flush froze and could not install comes first, and what was written
    /// since after that: each is at most a tail, and only one is built at a time.
    pub(super) async fn flush_once(self: &Arc<Self>) -> Result<()> {
        let _turn = self.context.flushing.acquire().await.map_err(|_| stopping())?;
        loop {
            let (job, is_last) = {
                let mut decider = self.decider.lock().await;
                self.make_ready(&mut decider).await?;
                self.drain(&mut decider).await?;
                let is_last = self.shared().state.frozen.is_none();
                if is_last {
                    self.freeze(&mut decider)?;
                }
                (self.job(&decider), is_last)
            };
            let Some(job) = job else { return Ok(()) };
            self.carry_out(job).await?;
            if is_last {
                return Ok(());
            }
        }
    }

    /// Builds a segment of the frozen tail and installs it.
    async fn carry_out(self: &Arc<Self>, job: Job) -> Result<()> {
        let namespace = self.clone();
        let built = tokio::task::spawn_blocking(move || {
            let built = namespace.build(&job)?;
            // The rows are in the file now; the namespace lets go of them with the frozen tail.
            Ok::<_, Error>((Job { entries: Vec::new(), ..job }, built))
        })
        .await;
        let (job, built) = built.map_err(|error| Error::internal(format!("build a segment: {error}")))??;
        self.install(job, built).await
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
            let Some(job) = self.job(decider) else { return Ok(()) };
            let built = tokio::task::block_in_place(|| self.build(&job))?;
            self.install_held(decider, job, built).await?;
            // A log without records stays until the one after it is flushed, so there may always be one.
            if is_last {
                return Ok(());
            }
        }
    }

    /// Seals the log and ends the tail there.
    fn freeze(&self, decider: &mut Decider) -> Result<()> {
        self.seal(decider)?;
        let inherits = self.published().logs > 0;
        let mut shared = self.shared();
        if !shared.state.tail.is_empty() || !decider.sealed.is_empty() || inherits {
            shared.state.freeze(decider.next_seq);
            self.publish_view(&shared.state);
        }
        Ok(())
    }

    /// Closes the open log and moves it into the tier. Nothing may be on its way.
    pub(super) fn seal(&self, decider: &mut Decider) -> Result<()> {
        let Some(journal) = decider.journal.take() else { return Ok(()) };
        let distrust = journal.distrust();
        let _commits = self.context.commits.of(self.nsid);
        match tokio::task::block_in_place(|| journal.seal()) {
            Ok(sealed) => {
                self.context.keep(&[kept(&self.name.project, (self.nsid, decider.origin), &sealed)]);
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

    fn job(&self, decider: &Decider) -> Option<Job> {
        self.log_bytes.store(decider.log_bytes(), Ordering::Relaxed);
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

    /// The segment of a frozen tail, where there is anything in it. Nothing is written where the disk has no room for it.
    fn build(&self, job: &Job) -> Result<Built> {
        let (context, key_of_work) = (&self.context, (self.nsid, Work::Flush));
        let mut new = Unnamed::new(context);
        if job.entries.is_empty() {
            return Ok((None, new));
        }
        let bytes = job.entries.iter().map(Entry::logical_bytes).sum();
        context.check_space_for(key_of_work, bytes, || format!("a segment of the tail of {}", self.name))?;
        let segment_id = context.random.uuid_v7(context.clock.now_millis());
        let key = segment_key(&self.name.project, self.nsid, segment_id);
        new.add(&key);
        let mut writer = context.tier.create(&key)?;
        let summary = build(segment_id, &job.schema, &job.entries, &mut writer)
            .inspect_err(|_| context.takes(key_of_work, bytes.max(writer.bytes())))?;
        writer.publish()?;
        Ok((Some(open_part(context, &reference(key, segment_id, 0, &summary))?), new))
    }

    /// Commits an edit of the manifest that leaves documents as they are.
    pub async fn edit_head(&self, edit: impl FnOnce(&mut Manifest)) -> Result<()> {
        let mut head = self.head.lock().await;
        // After the wait: who ends this life holds the head, and another may commit once it is let go of.
        self.check_alive()?;
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
        let now = self.context.clock.now_millis();
        self.edit_head(|manifest| manifest.set_read_only(read_only, now)).await?;
        decider.read_only = read_only;
        Ok(())
    }

    /// Writes a deletion bitmap for every segment that had more dead rows than its manifest says when the tail was frozen.
    /// Rows that died later stay: the records that did it are replayed after a crash, and may be patches of them.
    fn save_deletions(&self, new: &mut Unnamed) -> Result<BTreeMap<uuid::Uuid, DeletionsRef>> {
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
            new.add(&object.key);
            saved.insert(reference.segment_id, object);
        }
        Ok(saved)
    }
}

impl Namespace {
    async fn install(self: &Arc<Self>, job: Job, built: Built) -> Result<()> {
        // The decider waits: a log may not be sealed between the manifest and what is forgotten after it.
        let mut decider = self.decider.lock().await;
        self.install_held(&mut decider, job, built).await
    }

    async fn install_held(&self, decider: &mut Decider, job: Job, built: Built) -> Result<()> {
        // Commits on their way may replace rows of the frozen tail, which has no place for that once it is a segment.
        self.drain(decider).await?;
        let mut head = self.head.lock().await;
        self.check_alive()?;
        if self.shared().state.frozen.as_ref().is_none_or(|frozen| frozen.replay_from != job.replay_from) {
            // The log failed meanwhile, and what was frozen is in the tail again.
            return Err(Error::unavailable("the log failed while the tail became a segment; the tail is kept"));
        }
        let (next, staged) = tokio::task::block_in_place(|| {
            let staged = self.stage_answers(decider, head.manifest.generation + 1, job.hlc)?;
            match self.commit_flush(&head, &job, built) {
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
        // While nothing is reclaimed, a log stays that who counts anew cannot know to be over, as nothing is in it: a later flush lets go of it.
        let is_kept = |log: &SealedLog| log.newest == Hlc::default() && !self.context.may_reclaim();
        let is_over = |log: &mut SealedLog| log.next_seq <= job.replay_from && log.newest <= job.hlc && !is_kept(log);
        let superfluous: Vec<_> = decider.sealed.extract_if(.., is_over).collect();
        self.log_bytes.store(decider.log_bytes(), Ordering::Relaxed);
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

    fn commit_flush(&self, head: &Head, job: &Job, (part, mut new): Built) -> Result<Head> {
        // Everything that can fail comes before the commit.
        let superseded = self.superseded_in(part.as_ref())?;
        let deletions = self.save_deletions(&mut new)?;
        let now = self.context.clock.now_millis();
        let origin = self.origin();
        let next = head.commit_new(&self.context, new, |manifest| {
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
        let mut shared = self.shared();
        let before = shared.bytes();
        for part in &mut shared.state.parts {
            let id = part.reference.segment_id;
            if let Some(saved) = next.manifest.segments.iter().find(|reference| reference.segment_id == id) {
                part.reference = saved.clone();
            }
        }
        shared.state.thaw(part, &superseded);
        self.publish_view(&shared.state);
        self.follow_tail(&shared, before);
        Ok(next)
    }

    /// The rows of the new segment that were replaced while it was built.
    fn superseded_in(&self, part: Option<&Part>) -> Result<RoaringBitmap> {
        let shared = self.shared();
        let (Some(part), Some(frozen)) = (part, &shared.state.frozen) else { return Ok(RoaringBitmap::new()) };
        let rows = frozen.superseded.keys().map(|id| part.segment.row_of(id));
        Ok(rows.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
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
    nsid: Nsid,
    reference: &SegmentRef,
    dead: &RoaringBitmap,
) -> Result<DeletionsRef> {
    let bytes = deletions::encode(&reference.segment_id, reference.rows, dead);
    let key = deletions_key(project, nsid, reference.segment_id, context.random.next_u64());
    let (bytes, crc32c) = context.tier.put(&key, &bytes)?;
    Ok(DeletionsRef { key, bytes, crc32c, rows: u32::try_from(dead.len()).unwrap_or(reference.rows) })
}

/// The same with the manifest that will name it to wait for: `begun` has it.
pub(super) fn place_deletions(
    context: &Context,
    (project, nsid): (&Project, Nsid),
    reference: &SegmentRef,
    dead: &RoaringBitmap,
    begun: &mut Unnamed,
) -> Result<DeletionsRef> {
    let key = deletions_key(project, nsid, reference.segment_id, context.random.next_u64());
    begun.add(&key);
    let mut writer = context.tier.create(&key)?;
    let bytes = deletions::encode(&reference.segment_id, reference.rows, dead);
    writer.write_all(&bytes).context(|| format!("write {key}"))?;
    let (bytes, crc32c, object) = writer.place()?;
    begun.place(object);
    Ok(DeletionsRef { key, bytes, crc32c, rows: u32::try_from(dead.len()).unwrap_or(reference.rows) })
}

fn set_deletions(manifest: &mut Manifest, saved: &BTreeMap<uuid::Uuid, DeletionsRef>) {
    for segment in &mut manifest.segments {
        if let Some(object) = saved.get(&segment.segment_id) {
            segment.deletions = Some(object.clone());
        }
    }
}
