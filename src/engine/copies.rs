//! Copies in the background, and deep ones, which share no object with their source.
//!
//! A deep copy streams each segment's live rows into a segment of its own, one at a time, so memory is that of one merge; the
//! tail becomes one more, and unresolved conflicts come along. The source may be anything on this node, of any project: it is
//! one moment of it that is copied.
//!
//! Invariants:
//! - One deep copy at a time is at work on a node, and those that wait hold nothing: the moment that is copied is that of the turn.
//! - Whatever it builds has the turn of merges, one piece at a time: who waits for that waits for one piece at most.
//! - No piece is begun for a name that is taken meanwhile, nor of a source that is gone.

use std::io::{self, Write};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use super::copy_tokens::{Begun, CopyStatus, CopyTokens, Progress};
use super::namespace::{Moment, not_found, stopping};
use super::operations::exists;
use super::transfer::Newborn;
use super::view::SegmentView;
use super::{Engine, namespace};
use crate::error::{Error, Result};
use crate::format::manifest::{Manifest, SegmentRef};
use crate::model::ids::{Hlc, NamespaceName, Nsid};
use crate::segment::MemoryLeft;
use crate::segment::merge::{Input, merge};

impl Engine {
    /// Begins a copy in the background and gives the token to ask for its outcome with. Conflict with code `copy_under_way` where
    /// another goes to that name already, Busy where as many as may be are under way.
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
        self.copies().begin(&token, Begun { to: to.clone(), started_ms: now, progress: progress.clone() })?;
        let (engine, from, to, key) = (self.clone(), from.clone(), to.clone(), token.clone());
        tokio::spawn(async move {
            let (copying, of, into) = (engine.clone(), from.clone(), to.clone());
            // A task of its own: whatever becomes of it, its token says that it ended, and its place is free again.
            let work = tokio::spawn(async move {
                match progress {
                    Some(progress) => copying.copy_deep(&of, &into, &progress).await,
                    None => copying.copy(&of, &into).await,
                }
            });
            let done = work
                .await
                .unwrap_or_else(|error| Err(Error::internal(format!("copy {from} to {to}: {error}"))))
                .inspect_err(|error| engine.note_damage(&from, error));
            let now = engine.context.clock.now_millis();
            engine.copies().end(&key, now, done);
        });
        Ok(token)
    }

    fn copies(&self) -> MutexGuard<'_, CopyTokens> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What became of a copy into `name`.
    pub fn poll_copy(&self, name: &NamespaceName, token: &str) -> Result<CopyStatus> {
        let missing = || Error::not_found(format!("operation {token} of namespace '{}' was not found", name.name));
        self.copies().status(name, token).ok_or_else(missing)
    }

    async fn copy_deep(
        self: &Arc<Self>,
        from: &NamespaceName,
        to: &NamespaceName,
        progress: &Arc<Progress>,
    ) -> Result<u64> {
        let _turn = self.context.copying.acquire().await.map_err(|_| stopping())?;
        if self.context.is_stopping() {
            return Err(stopping());
        }
        let mut newborn = self.newborn(to)?;
        let (moment, conflicts) = self.moment_with_conflicts(from).await?;
        progress.total.store(moment.view.documents(), Ordering::Relaxed);
        let mut segments = Vec::new();
        for part in moment.view.segments.clone() {
            let (of, counted) = (moment.clone(), progress.clone());
            let work = move |newborn: &mut Newborn| copy_segment(newborn, &of, &part, &counted);
            let (back, segment) = self.piece((from, moment.nsid), newborn, work).await?;
            newborn = back;
            segments.extend(segment);
        }
        let of = moment.clone();
        let rest = move |newborn: &mut Newborn| {
            let tail = newborn.build(&of.view.schema, &of.tail_entries())?;
            Ok((tail, newborn.copy_conflicts(&conflicts)?))
        };
        let (newborn, (tail, conflicts)) = self.piece((from, moment.nsid), newborn, rest).await?;
        segments.extend(tail);
        let first = Manifest { conflicts, ..first_manifest(&newborn, &moment, segments) };
        let documents = newborn.bind(first).await?;
        progress.done.store(documents, Ordering::Relaxed);
        Ok(documents)
    }

    /// Carries out one piece of a copy as if it were a merge, so that memory stays bounded and merges have their turns between
    /// pieces. Ends the copy where nobody can have it, or its source is gone.
    async fn piece<T: Send + 'static>(
        &self,
        (from, source): (&NamespaceName, Nsid),
        mut newborn: Newborn,
        work: impl FnOnce(&mut Newborn) -> Result<T> + Send + 'static,
    ) -> Result<(Newborn, T)> {
        let _turn = self.context.compacting.acquire().await.map_err(|_| stopping())?;
        if self.context.is_stopping() {
            return Err(stopping());
        }
        if self.catalog.find(newborn.name()).is_some() {
            return Err(exists(newborn.name()));
        }
        match self.catalog.find(from) {
            Some(nsid) if nsid == source => {}
            None => return Err(not_found(from)),
            Some(_) => {
                return Err(Error::conflict(format!("namespace {from} is another one than when its copy began"))
                    .with_hint("copy it anew"));
            }
        }
        let done = tokio::task::spawn_blocking(move || work(&mut newborn).map(|made| (newborn, made)));
        done.await.map_err(|error| Error::internal(format!("copy a piece of {from}: {error}")))?
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
