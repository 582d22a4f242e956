//! Keeps tails within their bounds: flushes in the background, and writers that wait for room.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Namespace;
use crate::engine::context::Context;
use crate::engine::setbacks::Work;
use crate::error::{Error, Kind, Result};
use crate::model::write::WriteRequest;

/// A write that does not wait goes on up to so many times the bounds at which others wait: its tail and its log are to fit into
/// memory and onto the disk all the same, and what is opened at the next start as well.
const UNWAITED_TIMES: u64 = 2;
/// Tails whose flushes fail count for one in so many of `tails_bytes_max` at most, so that what cannot become a segment leaves room
/// for the writes of others; and such a tail takes no writes while it is larger than that itself.
const FAILING_SHARE: u64 = 16;

impl Namespace {
    /// Begins a flush in the background when the tail is large enough, or lies in long logs or many.
    pub(super) fn flush_when_due(self: &Arc<Self>) {
        let is_large = self.tail_bytes.load(Ordering::Relaxed) >= self.context.config.flush_bytes;
        let is_long = self.log_bytes.load(Ordering::Relaxed) >= self.context.config.log_bytes_max;
        if is_large || is_long || self.many_logs.swap(false, Ordering::Relaxed) {
            self.start_flush();
        }
    }

    /// Begins a flush in the background unless one is under way, or failed a moment ago; whether it did.
    pub fn start_flush(self: &Arc<Self>) -> bool {
        if self.context.is_stopping()
            || self.context.why_not_yet(self.nsid, Work::Flush).is_some()
            || self.flushing.swap(true, Ordering::SeqCst)
        {
            return false;
        }
        let namespace = self.clone();
        tokio::spawn(async move {
            let done = namespace.flush_now().await;
            namespace.flushing.store(false, Ordering::SeqCst);
            namespace.context.room.notify_waiters();
            if done.is_ok() {
                // What came meanwhile found a flush under way, and may be the last for long.
                namespace.flush_when_due();
                namespace.start_compaction();
            }
        });
        true
    }

    /// Whether a flush is under way.
    pub(in crate::engine) fn is_flushing(&self) -> bool {
        self.flushing.load(Ordering::SeqCst)
    }

    /// Flushes, and remembers what became of it. The caller has `flushing` for itself.
    pub(super) async fn flush_now(self: &Arc<Self>) -> Result<()> {
        let done = self.flush_once().await;
        self.note(Work::Flush, &done);
        done
    }

    /// Remembers what became of work in the background. One that is deleted or stops has no more to do.
    pub(super) fn note<T>(&self, work: Work, done: &Result<T>) {
        let is_over = self.deleted.load(Ordering::SeqCst) || self.context.is_stopping();
        let is_gone = done.as_ref().is_err_and(|error| error.kind() == Kind::NotFound);
        if is_over || is_gone {
            self.context.set_right(self.nsid, work);
        } else {
            self.context.note((self.nsid, work), &self.name.to_string(), done);
        }
    }

    /// Remembers what became of the log's part of a write, and gives it back.
    pub(super) fn note_write<T>(&self, request: &WriteRequest, done: Result<T>) -> Result<T> {
        self.context.note_write(&self.name.to_string(), request.body_bytes, done)
    }

    /// Back-pressure: a write waits while tails have no room, and is refused when that takes too long. When they get no smaller,
    /// since flushes fail, it is refused at once, and says why. One that is not to wait goes on while there is any room at all.
    pub(super) async fn wait_for_room(self: &Arc<Self>, request: &WriteRequest) -> Result<()> {
        if request.disable_backpressure {
            return self.check_room();
        }
        if !self.is_full(1) {
            return Ok(());
        }
        let patience = Duration::from_millis(self.context.config.backpressure_wait_ms);
        let room = async {
            loop {
                let changed = self.context.room.notified();
                if !self.is_full(1) {
                    return Ok(());
                }
                self.make_room()?;
                changed.await;
            }
        };
        tokio::time::timeout(patience, room).await.unwrap_or_else(|_| Err(self.full(1)))
    }

    /// Fails where there is no room even for a write that does not wait.
    pub(super) fn check_room(self: &Arc<Self>) -> Result<()> {
        if !self.is_full(UNWAITED_TIMES) {
            return Ok(());
        }
        self.make_room()?;
        Err(self.full(UNWAITED_TIMES))
    }

    /// Whether the tail, the log or all tails are larger than so many times what writes wait at.
    fn is_full(&self, times: u64) -> bool {
        self.is_own_full(times) || self.are_all_full(times)
    }

    fn is_own_full(&self, times: u64) -> bool {
        let (config, own) = (&self.context.config, self.tail_bytes.load(Ordering::Relaxed));
        own > config.tail_bytes_max.saturating_mul(times)
            || self.log_bytes.load(Ordering::Relaxed) > config.log_bytes_max.saturating_mul(2 * times)
            || (own > self.failing_max() && self.context.is_failing(self.nsid))
    }

    fn are_all_full(&self, times: u64) -> bool {
        let (config, all) = (&self.context.config, self.context.tails_bytes.load(Ordering::Relaxed));
        if all <= config.tails_bytes_max.saturating_mul(times) {
            return false;
        }
        let failing = self.failing_bytes();
        all.saturating_sub(failing.saturating_sub(self.failing_max())) > config.tails_bytes_max.saturating_mul(times)
            || all > config.tails_bytes_max.saturating_mul(UNWAITED_TIMES)
    }

    /// The tails whose flushes fail.
    fn failing_bytes(&self) -> u64 {
        let failing = self.context.failing();
        if failing.is_empty() {
            return 0;
        }
        let all = self.context.open_namespaces().into_iter().filter(|namespace| failing.contains(&namespace.nsid));
        all.map(|namespace| namespace.tail_bytes.load(Ordering::Relaxed)).sum()
    }

    fn failing_max(&self) -> u64 {
        self.context.config.tails_bytes_max / FAILING_SHARE
    }

    fn full(&self, times: u64) -> Error {
        let config = &self.context.config;
        Error::busy(format!(
            "{} bytes of namespace {} and {} of all namespaces wait to be indexed, at most {} and {} may; its log has \
             {} bytes, at most {} may be in it",
            self.tail_bytes.load(Ordering::Relaxed),
            self.name,
            self.context.tails_bytes.load(Ordering::Relaxed),
            config.tail_bytes_max.saturating_mul(times),
            config.tails_bytes_max.saturating_mul(times),
            self.log_bytes.load(Ordering::Relaxed),
            config.log_bytes_max.saturating_mul(2 * times)
        ))
        .with_hint("send the same write again later, or in smaller batches")
    }

    /// Lets tails become segments: the own one where it or its log is too large, else the largest of the node. Fails where none can.
    fn make_room(self: &Arc<Self>) -> Result<()> {
        if self.is_own_full(1) {
            if let Some(error) = self.context.why_not_yet(self.nsid, Work::Flush) {
                let own = self.tail_bytes.load(Ordering::Relaxed);
                return Err(no_room(&format!("{own} bytes of namespace {}", self.name), &error));
            }
            self.start_flush();
            return Ok(());
        }
        let mut refused = None;
        for (_, namespace) in by_tail(&self.context) {
            if namespace.flushing.load(Ordering::SeqCst) {
                // Its end is waited for, and then it is looked again.
                return Ok(());
            }
            match self.context.why_not_yet(namespace.nsid, Work::Flush) {
                None => {
                    namespace.start_flush();
                    return Ok(());
                }
                Some(error) => refused = refused.or(Some(error)),
            }
        }
        let all = self.context.tails_bytes.load(Ordering::Relaxed);
        refused.map_or(Ok(()), |error| Err(no_room(&format!("{all} bytes of all namespaces"), &error)))
    }
}

/// The refusal of a write where what waits cannot become a segment.
fn no_room(what: &str, error: &Error) -> Error {
    let code = if error.code().is_empty() { "flush_failed" } else { error.code() };
    let why = error.message();
    let refusal = Error::unavailable(format!("{what} wait for a place in a segment, and none can be written: {why}"));
    let hint = error.hint().unwrap_or("the daemon tries again by itself; see warnings in /v1/status");
    refusal.with_code(code).with_hint(hint)
}

/// The namespaces with anything in their tails, the largest first.
fn by_tail(context: &Context) -> Vec<(u64, Arc<Namespace>)> {
    let all = context.open_namespaces().into_iter();
    let mut found: Vec<(u64, Arc<Namespace>)> = all
        .filter(|namespace| !namespace.deleted.load(Ordering::SeqCst))
        .map(|namespace| (namespace.tail_bytes.load(Ordering::Relaxed), namespace))
        .filter(|(bytes, _)| *bytes > 0)
        .collect();
    found.sort_unstable_by_key(|(bytes, namespace)| (std::cmp::Reverse(*bytes), namespace.nsid));
    found
}
