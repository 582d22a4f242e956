//! Copies in the background, and deep ones, which share no object with their source.
//!
//! A deep copy streams each segment's live rows into a segment of its own, one at a time, so memory is that of one merge; the
//! tail becomes one more, and unresolved conflicts come along. The source may be anything on this node, of any project: it is
//! one moment of it that is copied.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use super::namespace::{Moment, not_found};
use super::operations::exists;
use super::transfer::Newborn;
use super::view::SegmentView;
use super::{Engine, namespace};
use crate::error::{Error, Result};
use crate::format::manifest::{Manifest, SegmentRef};
use crate::model::ids::{Hlc, NamespaceName};
use crate::segment::MemoryLeft;
use crate::segment::merge::{Input, merge};

/// The most finished copies that are remembered for who asks for their outcome.
const COPIES_MAX: usize = 1_024;

/// An asynchronous copy.
#[derive(Clone, Debug)]
pub struct CopyStatus {
    pub started_ms: u64,
    /// Documents copied so far, and how many there are; `None` for copies that copy no documents.
    pub progress: Option<(u64, u64)>,
    /// When it ended, and how many documents it copied.
    pub finished: Option<(u64, std::result::Result<u64, Arc<Error>>)>,
}

pub(super) struct CopyState {
    to: NamespaceName,
    status: CopyStatus,
    progress: Option<Arc<Progress>>,
}

/// How far a deep copy has come, in documents.
#[derive(Debug, Default)]
struct Progress {
    done: AtomicU64,
    total: AtomicU64,
}

impl Engine {
    /// Begins a copy in the background and gives the token to ask for its outcome with.
    pub fn start_copy(self: &Arc<Self>, from: &NamespaceName, to: &NamespaceName, deep: bool) -> Result<String> {
        if from == to {
            return Err(Error::invalid("💔 Source and destination namespace can't be the same"));
        }
        if self.catalog.find(from).is_none() {
            return Err(not_found(from));
        }
        if self.catalog.find(to).is_some() {
            return Err(exists(to));
        }
        let now = self.context.clock.now_millis();
        let token = self.context.random.uuid_v7(now).to_string();
        let progress = deep.then(Arc::<Progress>::default);
        {
            let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
            while copies.len() >= COPIES_MAX {
                // Tokens are in the order of time: the oldest goes.
                copies.pop_first();
            }
            let status = CopyStatus { started_ms: now, progress: None, finished: None };
            copies.insert(token.clone(), CopyState { to: to.clone(), status, progress: progress.clone() });
        }
        let (engine, from, to, key) = (self.clone(), from.clone(), to.clone(), token.clone());
        tokio::spawn(async move {
            let done = match progress {
                Some(progress) => engine.copy_deep(&from, &to, &progress).await,
                None => engine.copy(&from, &to).await,
            }
            .inspect_err(|error| engine.note_damage(&from, error));
            let now = engine.context.clock.now_millis();
            let mut copies = engine.copies.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(copy) = copies.get_mut(&key) {
                copy.status.finished = Some((now, done.map_err(Arc::new)));
            }
        });
        Ok(token)
    }

    /// What became of a copy into `name`.
    pub fn poll_copy(&self, name: &NamespaceName, token: &str) -> Result<CopyStatus> {
        let copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        match copies.get(token) {
            Some(copy) if copy.to == *name => {
                let counted = |progress: &Arc<Progress>| {
                    (progress.done.load(Ordering::Relaxed), progress.total.load(Ordering::Relaxed))
                };
                Ok(CopyStatus { progress: copy.progress.as_ref().map(counted), ..copy.status.clone() })
            }
            _ => Err(Error::not_found(format!("operation {token} of namespace '{}' was not found", name.name))),
        }
    }

    async fn copy_deep(
        self: &Arc<Self>,
        from: &NamespaceName,
        to: &NamespaceName,
        progress: &Arc<Progress>,
    ) -> Result<u64> {
        let (moment, conflicts) = self.moment_with_conflicts(from).await?;
        progress.total.store(moment.view.documents(), Ordering::Relaxed);
        let mut newborn = self.newborn(to)?;
        let mut segments = Vec::new();
        for part in moment.view.segments.clone() {
            // As a merge: one at a time, so that memory stays bounded.
            let _turn = self.context.compacting.acquire().await.map_err(|_| Error::unavailable("stopping"))?;
            if self.context.is_stopping() {
                return Err(Error::unavailable("the daemon is stopping"));
            }
            let (of, counted) = (moment.clone(), progress.clone());
            let copied = tokio::task::spawn_blocking(move || {
                copy_segment(&mut newborn, &of, &part, &counted).map(|s| (newborn, s))
            });
            let (back, segment) =
                copied.await.map_err(|error| Error::internal(format!("copy a segment: {error}")))??;
            newborn = back;
            segments.extend(segment);
        }
        let (tail, conflicts) = tokio::task::block_in_place(|| {
            let tail = newborn.build(&moment.view.schema, &moment.tail_entries())?;
            Ok::<_, Error>((tail, newborn.copy_conflicts(&conflicts)?))
        })?;
        segments.extend(tail);
        let first = Manifest { conflicts, ..first_manifest(&newborn, &moment, segments) };
        let documents = newborn.bind(first).await?;
        progress.done.store(documents, Ordering::Relaxed);
        Ok(documents)
    }
}

/// Writes one segment's live rows into a new one; `None` when nothing of it is left.
fn copy_segment(
    newborn: &mut Newborn,
    moment: &Moment,
    part: &SegmentView,
    progress: &Progress,
) -> Result<Option<SegmentRef>> {
    let (rows, before) = (part.live(), progress.done.load(Ordering::Relaxed));
    let segment_id = newborn.new_id();
    let key = newborn.segment_key(segment_id);
    let segment = part.segment.past(&MemoryLeft::default());
    let input = Input { segment: &segment, dead: &part.dead };
    newborn.check_space(input.live_bytes())?;
    let mut writer = newborn.create(&key)?;
    let mut counted = Counted { out: &mut writer, progress, rows, before, bytes: 0, expected: part.segment.bytes() };
    let summary = merge(segment_id, &moment.view.schema, &[input], moment.manifest.horizon, &mut counted)?;
    progress.done.store(before + rows, Ordering::Relaxed);
    if summary.rows == 0 && summary.tombstones == 0 {
        return Ok(None);
    }
    let staged = writer.stage()?;
    newborn.publish(&key, staged)?;
    let known = moment.manifest.segments.iter().find(|s| s.segment_id == part.segment.segment_id());
    Ok(Some(namespace::reference(key, segment_id, known.map_or(0, |s| s.level), &summary)))
}

fn first_manifest(newborn: &Newborn, moment: &Moment, segments: Vec<SegmentRef>) -> Manifest {
    let source = Manifest {
        schema: (*moment.view.schema).clone(),
        version_vector: moment.vector.clone(),
        lineage: None,
        segments,
        ..moment.manifest.clone()
    };
    let written = moment.vector.newest().max(Hlc::from_millis(source.written_ms));
    Manifest { written_ms: written.millis(), ..newborn.manifest_after(source) }
}

/// Says how far a merge has come, by the bytes it has written of those it read.
struct Counted<'a, 'w> {
    out: &'a mut crate::tier::ObjectWriter<'w>,
    progress: &'a Progress,
    rows: u64,
    before: u64,
    bytes: u64,
    expected: u64,
}

impl Write for Counted<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write_all(bytes)?;
        self.bytes += bytes.len() as u64;
        let share = u128::from(self.rows) * u128::from(self.bytes) / u128::from(self.expected.max(1));
        let share = u64::try_from(share).unwrap_or(self.rows).min(self.rows);
        self.progress.done.store(self.before + share, Ordering::Relaxed);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
