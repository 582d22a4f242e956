//! Makes a namespace from its files: the newest manifest, its segments, and the logs that come after them.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};

use roaring::RoaringBitmap;
use tokio::time::Instant;

use super::answers::Answers;
use super::flush::are_many;
use super::head::Head;
use super::intake::Intake;
use super::replay::{How, Lost, replay, replay_named};
use super::state::{Part, State};
use super::{Decider, Moment, Namespace, Shared, published};
use crate::engine::analyzers::Analyzers;
use crate::engine::context::Context;
use crate::engine::journal::{Distrust, SealedLog, Writer};
use crate::engine::layout::{log_key, prefix};
use crate::engine::missing_logs::{is_gone, kept, look_for, missing_logs};
use crate::engine::recovery::{Unsettled, look, salvage, settle};
use crate::engine::write::Change;
use crate::error::{Context as _, Error, Kind, Result};
use crate::format::deletions;
use crate::format::manifest::{Manifest, SegmentRef};
use crate::meta::KeptLog;
use crate::model::document::Document;
use crate::model::ids::{Hlc, NamespaceName};
use crate::model::schema::Schema;
use crate::segment::Segment;

/// Segments that are opened side by side where that waits for the bucket.
const OPENED_AT_ONCE: usize = 16;

/// Everything that is read from files.
struct Loaded {
    state: State,
    next_seq: u64,
    sealed: Vec<SealedLog>,
    unsettled: Unsettled,
    answers: Answers,
}

impl Namespace {
    /// Opens an incarnation whose newest manifest is `head`. `Corrupt` says which object is damaged; `Busy` when there was no room until
    /// `until` for what its logs make in memory. Blocking.
    pub fn open(context: Arc<Context>, name: NamespaceName, head: Head, until: Instant) -> Result<Arc<Namespace>> {
        let mut intake = Intake::new(&context, until);
        let how = How { intake: Some(&mut intake), lost: None };
        let loaded = load(&context, &name, &head.manifest, None, how).context(|| format!("open namespace {name}"))?;
        // The next opening needs what this one read, when the bucket may have it no more.
        context.remember_parts_of(&head.manifest);
        let namespace = Self::of(context, name, head, loaded);
        intake.hand_over(namespace.unflushed().0);
        if tokio::runtime::Handle::try_current().is_ok() {
            namespace.flush_when_large();
        }
        Ok(namespace)
    }

    /// The same without what its logs do not have any more, or have of documents that are gone. As long as no manifest says so, the
    /// next opening finds the same.
    pub(in crate::engine) fn open_without(
        context: &Arc<Context>,
        name: &NamespaceName,
        head: Head,
    ) -> Result<(Arc<Namespace>, Lost)> {
        let mut lost = Lost::default();
        let how = How { lost: Some(&mut lost), intake: None };
        let loaded = load(context, name, &head.manifest, None, how);
        let loaded = loaded.context(|| format!("open what is left of namespace {name}"))?;
        let namespace = Self::of(context.clone(), name.clone(), head, loaded);
        context.tail_changed(0, namespace.unflushed().0);
        Ok((namespace, lost))
    }

    /// What that would be without.
    pub(in crate::engine) fn lost(context: &Context, name: &NamespaceName, manifest: &Manifest) -> Result<Lost> {
        let mut lost = Lost::default();
        load(context, name, manifest, None, How { lost: Some(&mut lost), intake: None })?;
        Ok(lost)
    }

    /// Whether the logs that a manifest needs are there and can be applied to its segments. Holds what an opening does, and changes
    /// nothing.
    pub(in crate::engine) fn check_logs(context: &Context, name: &NamespaceName, manifest: &Manifest) -> Result<()> {
        load(context, name, manifest, None, How::default()).map(drop)
    }

    fn of(context: Arc<Context>, name: NamespaceName, head: Head, mut loaded: Loaded) -> Arc<Namespace> {
        let (nsid, committed_ms) = (head.manifest.nsid, head.manifest.committed_ms);
        let view = Arc::new(loaded.state.view(&name.to_string(), context.config.recall));
        let bytes = loaded.state.unflushed_bytes();
        let decider = decider(&mut loaded, &head);
        let (many_logs, log_bytes) = (are_many(&decider.sealed), decider.log_bytes());
        let shared = Shared::new(loaded.state);
        let namespace = Arc::new(Namespace {
            context,
            name,
            nsid,
            looking: tokio::sync::Mutex::new(()),
            decider: tokio::sync::Mutex::new(decider),
            shared: Mutex::new(shared),
            view: RwLock::new(view),
            published: RwLock::new(published(&head)),
            head: tokio::sync::Mutex::new(head),
            flushing: AtomicBool::new(false),
            compacting: AtomicBool::new(false),
            replacing: tokio::sync::Mutex::new(()),
            tail_bytes: AtomicU64::new(bytes),
            log_bytes: AtomicU64::new(log_bytes),
            many_logs: AtomicBool::new(many_logs),
            deleted: AtomicBool::new(false),
            waits_since_ms: AtomicU64::new(committed_ms),
            apart: OnceLock::new(),
            last_used: AtomicU64::new(0),
            conflicts_let_go: AtomicU64::new(0),
            oldest_unsent: Mutex::default(),
        });
        namespace.context.has_opened(&namespace);
        namespace
    }

    /// Makes everything in memory anew from the files, after the log failed. Readers keep the last view until it is done.
    pub(super) async fn reopen(&self, decider: &mut Decider) -> Result<()> {
        let (origin, own) = {
            let shared = self.shared();
            (shared.state.origin, shared.state.own)
        };
        let mut head = self.head.lock().await;
        let distrust = decider.distrust.clone();
        let mut loaded = tokio::task::block_in_place(|| {
            // A manifest whose commit failed may be there all the same; whether it is must not change any more.
            let dir = self.context.layout.manifests(self.nsid);
            self.context.disk.sync_dir(&dir).context(|| format!("sync {}", dir.display()))?;
            self.context.has_made_sure(self.nsid);
            let found = Head::load(&self.context, self.nsid)?;
            *head = found.ok_or_else(|| Error::corrupt(format!("incarnation {} has no manifest", self.nsid)))?;
            // It takes the place of what is counted already.
            load(&self.context, &self.name, &head.manifest, distrust.as_ref(), How::default())
        })
        .context(|| format!("reopen namespace {}", self.name))?;
        if loaded.state.origin == origin && loaded.state.own < own {
            drop(head);
            return Err(tokio::task::block_in_place(|| self.miss_logs(decider)));
        }
        self.publish_head(&head);
        // How much of a log that failed may be trusted is known to nobody else until it is settled.
        *decider = Decider { distrust, ..self::decider(&mut loaded, &head) };
        self.log_bytes.store(decider.log_bytes(), Ordering::Relaxed);
        let mut shared = self.shared();
        let before = shared.bytes();
        *shared = Shared::new(loaded.state);
        self.publish_view(&shared.state);
        self.follow_tail(&shared, before);
        Ok(())
    }

    /// Sets the namespace apart because writes that it showed are in no file any more, and has the next opening ask for the logs that are gone.
    fn miss_logs(&self, decider: &Decider) -> Error {
        let context = &self.context;
        let names = decider.sealed.iter().map(|log| &log.name).chain(decider.distrust.as_ref().map(|log| &log.name));
        let keys = names.map(|name| log_key(&self.name.project, self.nsid, name));
        // One that was opened again after it failed is both.
        let gone: BTreeSet<String> = keys.filter(|key| is_gone(context, key)).collect();
        let _commits = context.commits.of(self.nsid);
        let kept = gone.iter().map(|key| KeptLog { key: key.clone(), writer: Some(decider.origin) });
        context.miss(&kept.collect::<Vec<_>>());
        gone.iter().for_each(|key| look_for(context, key));
        self.set_apart(match gone.first() {
            Some(key) => Error::corrupt(format!("log {key} is missing; it holds writes that were acknowledged"))
                .with_hint("put the file back where it was, or give up what it holds: `shoal check` says how"),
            None => Error::corrupt(format!("the files of {} lack writes that were acknowledged", self.name)),
        })
    }

    /// Does what opening left to the first write: seals open logs, and removes what a crash left.
    pub(super) fn settle_logs(&self, decider: &mut Decider) -> Result<()> {
        let unsettled = std::mem::take(&mut decider.unsettled);
        if unsettled.is_empty() {
            decider.distrust = None;
            return Ok(());
        }
        let context = &self.context;
        let paths = context.layout.logs(&self.name.project, self.nsid);
        let settled = tokio::task::block_in_place(|| {
            // What moves into the tier is counted.
            let _commits = context.commits.of(self.nsid);
            let settled = settle(&*context.disk, &paths, self.nsid, &unsettled)?;
            let of = |name: &String| {
                let log = decider.sealed.iter().find(|log| log.name == *name);
                let key = || KeptLog { key: log_key(&self.name.project, self.nsid, name), writer: None };
                log.map_or_else(key, |log| kept(&self.name.project, (self.nsid, decider.origin), log))
            };
            context.keep(&settled.moved.iter().map(of).collect::<Vec<KeptLog>>());
            Ok(settled)
        });
        let settled = settled.inspect_err(|_: &Error| {
            decider.broken = true;
            if !unsettled.is_in_place(&*context.disk, &paths, self.nsid) {
                // Some of them may be in the tier already, and are not counted there.
                context.meta.distrust("logs could not be sealed");
            }
        });
        let settled = settled.context(|| format!("settle the logs of namespace {}", self.name))?;
        decider.distrust = None;
        if settled.torn_bytes > 0 {
            tracing::info!(namespace = %self.name, bytes = settled.torn_bytes, "cut commits that were never acknowledged");
        }
        Ok(())
    }
}

impl Namespace {
    /// Reads segments by files opened anew, these and those whose files were replaced, so that those used so far can be let go of.
    /// Blocking.
    pub(in crate::engine) fn open_parts_anew(&self, keys: &BTreeSet<String>) -> Result<()> {
        let old: Vec<SegmentRef> = {
            let shared = self.shared();
            let parts = shared
                .state
                .parts
                .iter()
                .filter(|part| keys.contains(&part.reference.key) || part.segment.is_replaced());
            parts.map(|part| part.reference.clone()).collect()
        };
        if old.is_empty() {
            return Ok(());
        }
        let mut opened = HashMap::new();
        for reference in &old {
            opened.insert(reference.key.clone(), Arc::new(open_segment(&self.context, reference)?));
        }
        let mut shared = self.shared();
        for part in &mut shared.state.parts {
            if let Some(segment) = opened.get(&part.reference.key) {
                part.segment = segment.clone();
            }
        }
        self.publish_view(&shared.state);
        Ok(())
    }

    /// The state that a manifest of this incarnation's past, or one that shares its objects, describes. Blocking.
    pub(in crate::engine) fn past(&self, manifest: Manifest) -> Result<Moment> {
        self.past_and_tail(manifest).map(|(moment, _)| moment)
    }

    /// The same, and the bytes of its tail in memory.
    pub(in crate::engine) fn past_and_tail(&self, manifest: Manifest) -> Result<(Moment, u64)> {
        let step = || format!("read {} as of generation {}", self.name, manifest.generation);
        let mut state = segments_of(&self.context, &manifest).context(step)?;
        let mut analysis = Analyzers::new();
        for log in &manifest.logs {
            replay_named(&self.context, &mut state, &mut analysis, log, &mut How::default()).context(step)?;
        }
        state.data_seq = manifest.data_seq;
        let bytes = state.unflushed_bytes();
        let moment = Moment {
            nsid: manifest.nsid,
            view: Arc::new(state.view(&self.name.to_string(), self.context.config.recall)),
            tombstones: state.tombstones(),
            vector: manifest.version_vector.clone(),
            manifest,
        };
        Ok((moment, bytes))
    }
}

fn decider(loaded: &mut Loaded, head: &Head) -> Decider {
    Decider {
        origin: loaded.state.origin,
        journal: None,
        sealed: std::mem::take(&mut loaded.sealed),
        unsettled: std::mem::take(&mut loaded.unsettled),
        next_seq: loaded.next_seq,
        schema: loaded.state.schema.clone(),
        data_seq: loaded.state.data_seq,
        hlc: loaded.state.hlc,
        ids_reserved: loaded.state.ids_reserved,
        read_only: head.manifest.read_only,
        number: 0,
        answers: std::mem::take(&mut loaded.answers),
        distrust: None,
        broken: false,
        is_blind: false,
    }
}

/// The state that a manifest's segments make, before any log.
fn segments_of(context: &Context, manifest: &Manifest) -> Result<State> {
    let parts = open_parts(context, &manifest.segments)?;
    Ok(State {
        origin: manifest.origin,
        schema: Arc::new(manifest.schema.clone()),
        tail: Default::default(),
        frozen: None,
        parts,
        data_seq: manifest.data_seq,
        hlc: manifest.hlc,
        own: manifest.version_vector.seen(manifest.origin),
        ids_reserved: manifest.ids_reserved,
        vector: manifest.version_vector.clone(),
    })
}

/// What the files make of an incarnation. Where what its logs lack is noted, and they lack anything, nothing is to be settled.
fn load(
    context: &Context,
    name: &NamespaceName,
    manifest: &Manifest,
    distrust: Option<&Distrust>,
    mut how: How<'_>,
) -> Result<Loaded> {
    let mut state = segments_of(context, manifest)?;
    let mut answers = Answers::default();
    // A log says when its answers were given by a clock that may have jumped since; they are repeated for a little longer.
    let now = context.passed_ms();
    state.tail.answers += answers.take_in(manifest) as u64;
    let mut analysis = Analyzers::new();
    let own = prefix(&name.project, manifest.nsid);
    for log in manifest.logs.iter().filter(|log| !log.key.starts_with(&format!("{own}/"))) {
        replay_named(context, &mut state, &mut analysis, log, &mut how)?;
    }
    // Inherited logs are counted in the manifest's own counter, and the ids they hand out are another incarnation's.
    state.data_seq = manifest.data_seq;
    state.ids_reserved = manifest.ids_reserved;
    let writer = Writer { nsid: manifest.nsid, origin: manifest.origin };
    let paths = context.layout.logs(&name.project, manifest.nsid);
    let found = look(&*context.disk, &paths, writer, (manifest.replay_from, manifest.hlc), distrust);
    let mut recovered = match (found, &mut how.lost) {
        (Err(error), Some(lost)) if error.kind() == Kind::Corrupt => {
            let (recovered, records) = salvage(&*context.disk, &paths, writer, manifest.replay_from)?;
            lost.records = records;
            recovered
        }
        (found, _) => found?,
    };
    let missing = missing_logs(context, (name, manifest), recovered.next_seq);
    if let Some((key, first)) = missing.first() {
        let Some(lost) = &mut how.lost else {
            return Err(Error::corrupt(format!("log {key} is missing; it holds records from {first} on")));
        };
        let lines =
            missing.iter().map(|(key, first)| format!("records from {first} on of log {key} (it is missing)"));
        lost.records.extend(lines);
    }
    recovered.replay(&*context.disk, &mut |frame| {
        // A commit without records has no place in the sequence: the clock tells that the manifest has it.
        if frame.batch.records() == 0 && frame.hlc <= manifest.hlc {
            return Ok(());
        }
        replay(&mut state, &mut analysis, frame, manifest.origin, Some((&mut answers, now)), &mut how)
    })?;
    match (check_sequence(manifest, recovered.next_seq), how.lost) {
        (checked, None) => checked?,
        (checked, Some(lost)) => {
            if let Err(error) = checked {
                lost.records.push(error.message().to_owned());
                recovered.next_seq = manifest.next_seq;
            }
            if !lost.records.is_empty() {
                // None of them is whole enough to go on from.
                recovered.logs.clear();
            }
        }
    }
    // What is written next is above all of the logs that are given up.
    recovered.next_seq = missing.iter().map(|(_, first)| first + 1).fold(recovered.next_seq, u64::max);
    Ok(Loaded {
        state,
        next_seq: recovered.next_seq,
        sealed: recovered.logs,
        unsettled: recovered.unsettled,
        answers,
    })
}

/// Logs that a manifest names must be there.
fn check_sequence(manifest: &Manifest, next_seq: u64) -> Result<()> {
    let named = manifest.logs.iter().filter(|log| log.origin == manifest.origin).map(|log| log.last_seq + 1).max();
    match named {
        Some(expected) if next_seq < expected => Err(Error::corrupt(format!(
            "records {next_seq} to {} of the log are missing",
            expected.saturating_sub(1)
        ))
        .with_hint(format!("expected in {}", log_key_hint(manifest)))),
        _ => Ok(()),
    }
}

fn log_key_hint(manifest: &Manifest) -> String {
    manifest.logs.last().map_or_else(|| "wal/".to_owned(), |log| log.key.clone())
}

/// Maps a segment; what of it is not here is read when it is wanted.
fn open_segment(context: &Context, reference: &SegmentRef) -> Result<Segment> {
    Segment::open(context.tier.open(&reference.key, reference.bytes)?, &reference.key)
}

/// Opens segments. Those that are not all here wait for the bucket, so they are opened side by side.
fn open_parts(context: &Context, references: &[SegmentRef]) -> Result<Vec<Part>> {
    let open = |reference: &SegmentRef| open_part(context, reference);
    let is_away = |reference: &&SegmentRef| !context.tier.has(&reference.key, reference.bytes);
    if !context.tier.reads_in_parts() || references.iter().filter(is_away).count() < 2 {
        return references.iter().map(open).collect();
    }
    let stopped = || Error::internal("a segment was not opened, and nobody says why");
    let share = references.len().div_ceil(OPENED_AT_ONCE);
    let parts = std::thread::scope(|scope| {
        let open = &open;
        let shares = references
            .chunks(share)
            .map(|some| scope.spawn(move || some.iter().map(open).collect::<Result<Vec<Part>>>()));
        let opening: Vec<_> = shares.collect();
        opening.into_iter().map(|thread| thread.join().map_err(|_| stopped())?).collect::<Result<Vec<_>>>()
    })?;
    Ok(parts.into_iter().flatten().collect())
}

/// Maps a segment and reads its deletion bitmap.
pub(super) fn open_part(context: &Context, reference: &SegmentRef) -> Result<Part> {
    let segment = open_segment(context, reference)?;
    if segment.segment_id() != reference.segment_id || segment.rows() != reference.rows {
        return Err(Error::corrupt(format!(
            "segment {}: is {} with {} rows, expected {} with {}",
            reference.key,
            segment.segment_id(),
            segment.rows(),
            reference.segment_id,
            reference.rows
        )));
    }
    let dead = match &reference.deletions {
        None => RoaringBitmap::new(),
        Some(object) => {
            let bytes = context.tier.read(&object.key)?;
            let (segment_id, rows, dead) = deletions::decode(&bytes, &object.key)?;
            if segment_id != reference.segment_id || rows != reference.rows {
                return Err(Error::corrupt(format!(
                    "deletions {}: are of segment {segment_id} with {rows} rows, expected {} with {}",
                    object.key, reference.segment_id, reference.rows
                )));
            }
            dead
        }
    };
    let dead = Arc::new(dead);
    Ok(Part { reference: reference.clone(), segment: Arc::new(segment), settled: dead.clone(), dead })
}

/// The change that a whole document is, its text analysed.
pub(super) fn whole(schema: &Schema, analysis: &mut Analyzers, document: Document) -> Change {
    let mut terms = Vec::new();
    for column in &schema.columns {
        if let Some(options) = &column.full_text
            && let Some(value) = document.get(column.uid())
        {
            terms.push((column.uid(), analysis.terms(options, value)));
        }
    }
    Change::Put { document: Arc::new(document), terms, patch: None }
}

/// The clock may not run behind what was already written.
pub(super) fn next_clock(last: Hlc, wall_millis: u64) -> Hlc {
    last.next(wall_millis)
}
