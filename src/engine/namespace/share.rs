//! The newest state as others may reference it: with its logs named, or without a log where everything is in segments.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::head::Head;
use super::{Moment, Namespace, Progress};
use crate::engine::journal::SealedLog;
use crate::engine::layout::log_key;
use crate::engine::setbacks::Work;
use crate::error::{Error, Result};
use crate::format::manifest::{LOGS_MAX, LogRef, Manifest};
use crate::model::as_of::AsOf;
use crate::model::ids::{Hlc, Origin, Project};

/// A state is flushed before it is shared when more bytes of logs, or more logs, are to be named: whoever references it replays them into
/// a tail of its own. What a branch of a branch began with counts, too, so a chain of branches names no more.
const SHARED_LOG_BYTES_MAX: u64 = 1 << 20;
const SHARED_LOGS_MAX: usize = 16;

/// How often a state is flushed for a change of its schema that came after the one before.
const SHARE_TRIES: u32 = 8;

/// A namespace's newest state as another incarnation may reference it.
pub struct Share<'a> {
    pub manifest: Manifest,
    /// Nothing is committed, and so nothing let go of, while this is held.
    _head: tokio::sync::MutexGuard<'a, Head>,
}

impl Namespace {
    /// The whole newest state as a manifest, its logs sealed and named, so that another incarnation may reference the same
    /// objects. They stay for as long as the result is held, and nothing is committed here meanwhile. Where its logs are long, or many, it
    /// is flushed once before: who references them replays them, every one of those anew.
    pub(in crate::engine) async fn share(self: &Arc<Self>) -> Result<Share<'_>> {
        let (mut is_flushed, mut tries) = (false, 0);
        // A frozen tail has no logs of its own boundary in a manifest until it is a segment.
        loop {
            let mut decider = self.decider.lock().await;
            self.make_ready(&mut decider).await?;
            self.drain(&mut decider).await?;
            let ended = self.context.made.room.notified();
            if self.flushing.load(Ordering::SeqCst) {
                drop(decider);
                ended.await;
                continue;
            }
            self.seal(&mut decider)?;
            let head = self.head.lock().await;
            let mut logs = log_refs(&head.manifest, &self.name.project, decider.origin, &decider.sealed);
            if !logs.is_empty() && decider.sealed.iter().any(|log| says_without_records(log, &head.manifest)) {
                if self.has_tail() {
                    drop((head, decider));
                    if tries == SHARE_TRIES {
                        return Err(Error::busy(format!("the schema of {} changes all the time", self.name)));
                    }
                    tries += 1;
                    self.flush().await?;
                    continue;
                }
                // Their records came to nothing.
                logs.clear();
            }
            let bytes = logs.iter().map(|log| log.bytes).sum::<u64>();
            let is_much = logs.len() > SHARED_LOGS_MAX || bytes > SHARED_LOG_BYTES_MAX;
            let may_flush = !is_flushed && self.context.why_not_yet(self.nsid, Work::Flush).is_none();
            if logs.len() > LOGS_MAX || (is_much && may_flush) {
                drop((head, decider));
                let done = self.flush().await;
                // Where no segment can be written, those who reference this replay more.
                if logs.len() > LOGS_MAX {
                    done?;
                }
                // Only once: who writes all the while keeps nobody from sharing.
                is_flushed = true;
                continue;
            }
            let shared = self.shared();
            let manifest = Manifest {
                logs,
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
    /// as the result is held, and nothing is committed here meanwhile. `Busy` unless everything up to `acknowledged` is in its
    /// segments.
    pub(in crate::engine) async fn committed(&self, acknowledged: Progress) -> Result<Share<'_>> {
        let head = self.head.lock().await;
        self.check_alive()?;
        self.check_committed(&head.manifest, acknowledged)?;
        let mut manifest = head.manifest.clone();
        if !manifest.logs.is_empty() {
            if self.has_tail() {
                return Err(Error::busy(format!("namespace {} has records that are in no segment yet", self.name)));
            }
            // Inherited logs without a document: all they may have changed is the schema.
            manifest.logs.clear();
            manifest.schema = (*self.shared().state.schema).clone();
        }
        Ok(Share { manifest, _head: head })
    }

    /// The newest manifest as it is, whatever is in no segment yet. Nothing is committed while the result is held.
    pub(in crate::engine) async fn hold_head(&self) -> Result<Share<'_>> {
        let head = self.head.lock().await;
        self.check_alive()?;
        Ok(Share { manifest: head.manifest.clone(), _head: head })
    }

    /// `Busy` unless a manifest has everything that was acknowledged up to a moment.
    pub(in crate::engine) fn check_committed(&self, manifest: &Manifest, acknowledged: Progress) -> Result<()> {
        let committed = (manifest.data_seq, manifest.hlc);
        if committed.0 >= acknowledged.0 && committed.1 >= acknowledged.1 {
            return Ok(());
        }
        Err(Error::busy(format!(
            "namespace {}: generation {} has commits up to {} at {}, expected {} at {}; the others are in the log only",
            self.name, manifest.generation, committed.0, committed.1.0, acknowledged.0, acknowledged.1.0
        ))
        .with_hint("nothing is lost; try again a little later"))
    }

    fn has_tail(&self) -> bool {
        let shared = self.shared();
        !shared.state.tail.is_empty() || shared.state.frozen.is_some()
    }

    /// The newest state, or where a past one is asked for what holds that: nothing is committed while the result is.
    pub(in crate::engine) async fn share_at(self: &Arc<Self>, as_of: Option<&AsOf>) -> Result<Share<'_>> {
        match as_of {
            None => self.share().await,
            Some(_) => self.hold_head().await,
        }
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
}

/// Whether a log has a change of the schema that the newest manifest has not, and no record: no manifest can name it, and who replays the
/// records before it goes by the schema that these were written with. What a manifest inherited is replayed, too.
fn says_without_records(log: &SealedLog, newest: &Manifest) -> bool {
    log.next_seq == log.first_seq
        && log.newest > Hlc::default()
        && (log.newest > newest.hlc || !newest.logs.is_empty())
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
