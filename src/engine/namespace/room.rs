//! Keeps tails and logs within their bounds: flushes in the background, and writers that wait for room.
//!
//! Whatever is appended to a log, documents or not, waits for room before it is decided and begins a flush afterwards where one is due.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::Namespace;
use super::apply::{Unfinished, Wait};
use super::making::Making;
use crate::engine::context::Context;
use crate::engine::setbacks::Work;
use crate::error::{Error, Kind, Result};

/// A write that does not wait goes on up to so many times the bounds of its namespace at which others wait: its tail and its log are to
/// fit into memory and onto the disk all the same, and what is opened at the next start as well. The bound of all tails is the same for
/// it: what it took beyond that would be taken from those who wait.
const UNWAITED_TIMES: u64 = 2;
/// All tails are never more than so many times as large as they may be, however many of them cannot become segments.
const FAILING_TIMES: u64 = 2;
/// Tails whose flushes fail count for one in so many of `tails_bytes_max` at most, so that what cannot become a segment leaves room
/// for the writes of others; and such a tail takes no writes while it is larger than that itself.
const FAILING_SHARE: u64 = 16;

impl Namespace {
    /// Begins a flush in the background when the tail is large enough, or lies in long logs or many.
    pub(super) fn flush_when_due(self: &Arc<Self>) {
        if self.many_logs.swap(false, Ordering::Relaxed) {
            self.start_flush();
        } else {
            self.flush_when_large();
        }
    }

    /// The same whether its logs are many or not. What was opened is flushed by that, too: it takes the room of what was written.
    pub(super) fn flush_when_large(self: &Arc<Self>) {
        let is_large = self.tail_bytes.load(Ordering::Relaxed) >= self.context.config.flush_bytes;
        let is_long = self.log_bytes.load(Ordering::Relaxed) >= self.context.config.log_bytes_max;
        if is_large || is_long {
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
            namespace.context.made.room.notify_waiters();
            if done.is_ok() {
                // What came meanwhile found a flush under way, and may be the last for long.
                namespace.flush_when_due();
                namespace.start_compaction();
            }
            namespace.let_go();
        });
        true
    }

    /// Ends work in the background: who wants to close the namespace waits until nobody has it.
    pub(super) fn let_go(self: Arc<Self>) {
        let context = self.context.clone();
        drop(self);
        context.made.room.notify_waiters();
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
    pub(super) fn note_write<T>(&self, bytes: u64, done: Result<T>) -> Result<T> {
        self.context.note_write(&self.name.to_string(), bytes, done)
    }

    /// Waits until what was appended is durable and visible, and begins a flush where that is due now. `bytes` as for
    /// [`Namespace::wait_for_room`].
    pub(super) async fn carry_through(self: &Arc<Self>, bytes: u64, wait: Option<Wait>) -> Result<()> {
        if let Some(wait) = wait {
            // A client that goes away must not leave a commit that nobody makes durable and visible.
            let unfinished = Unfinished::new(self, &wait);
            let done = self.finish(&wait.0, wait.1).await;
            unfinished.end();
            self.note_write(bytes, done)?;
        }
        self.flush_when_due();
        Ok(())
    }

    /// Back-pressure: a commit of about so many bytes waits while tails or the log have no room, and is refused when that takes too long.
    /// When they get no smaller, since flushes fail, it is refused at once, and says why. One that is not to wait (`is_unwaited`) goes on,
    /// or is refused, at once.
    pub(super) async fn wait_for_room(self: &Arc<Self>, bytes: u64, is_unwaited: bool) -> Result<()> {
        self.wait_for_room_until(self.patience_ends(), bytes, is_unwaited).await
    }

    /// Until when a commit that comes now waits for room.
    pub(super) fn patience_ends(&self) -> Instant {
        Instant::now() + Duration::from_millis(self.context.config.backpressure_wait_ms)
    }

    /// The same for one that has waited before.
    pub(super) async fn wait_for_room_until(
        self: &Arc<Self>,
        until: Instant,
        bytes: u64,
        is_unwaited: bool,
    ) -> Result<()> {
        self.context.check_room_for_write(bytes)?;
        if is_unwaited {
            return self.check_room();
        }
        if !self.is_full(1) {
            return Ok(());
        }
        let room = async {
            loop {
                let changed = self.context.made.room.notified();
                if !self.is_full(1) {
                    return Ok(());
                }
                self.make_room()?;
                changed.await;
            }
        };
        timeout_at(until, room).await.unwrap_or_else(|_| Err(self.full(1)))
    }

    /// Fails where there is no room even for a write that does not wait.
    pub(super) fn check_room(self: &Arc<Self>) -> Result<()> {
        if !self.is_full(UNWAITED_TIMES) {
            return Ok(());
        }
        self.make_room()?;
        Err(self.full(UNWAITED_TIMES))
    }

    /// Whether a write goes on without a wait, or without being refused where it `is_unwaited`.
    pub(super) fn has_room(&self, is_unwaited: bool) -> bool {
        !self.is_full(if is_unwaited { UNWAITED_TIMES } else { 1 })
    }

    /// Whether the tail or the log are larger than so many times what writes wait at, or all tails are than that.
    fn is_full(&self, times: u64) -> bool {
        self.is_own_full(times) || are_all_full(&self.context)
    }

    /// Sets room aside for what a write makes of so many bytes that are `given`, and for all that it may make where it `is_short`
    /// otherwise; `None` where it is to wait for room again.
    pub(super) fn begin_to_make(&self, given: u64, is_short: bool) -> Option<Making> {
        Making::begin(&self.context, given, is_short)
    }

    fn is_own_full(&self, times: u64) -> bool {
        let (config, own) = (&self.context.config, self.tail_bytes.load(Ordering::Relaxed));
        own > config.tail_bytes_max.saturating_mul(times)
            || self.log_bytes.load(Ordering::Relaxed) > config.log_bytes_max.saturating_mul(2 * times)
            || (own > failing_max(&self.context) && self.context.is_failing(self.nsid))
    }

    pub(super) fn full(&self, times: u64) -> Error {
        let config = &self.context.config;
        Error::busy(format!(
            "{} bytes of namespace {} and {} of all namespaces wait to be indexed, with {} that are being written, at most {} \
             and {} may; its log has {} bytes, at most {} may be in it",
            self.tail_bytes.load(Ordering::Relaxed),
            self.name,
            self.context.tails_bytes.load(Ordering::Relaxed),
            self.context.made.bytes.load(Ordering::Relaxed),
            config.tail_bytes_max.saturating_mul(times),
            config.tails_bytes_max,
            self.log_bytes.load(Ordering::Relaxed),
            config.log_bytes_max.saturating_mul(2 * times)
        ))
        .with_hint("send the same write again later, or in smaller batches")
    }

    /// Lets tails become segments: the own one where it or its log is too large, else the largest of the node where all are. Fails where
    /// none can. What others make has room again when they are through.
    fn make_room(self: &Arc<Self>) -> Result<()> {
        if self.is_own_full(1) {
            if let Some(error) = self.context.why_not_yet(self.nsid, Work::Flush) {
                let own = self.tail_bytes.load(Ordering::Relaxed);
                return Err(no_room(&format!("{own} bytes of namespace {}", self.name), &error));
            }
            self.start_flush();
            return Ok(());
        }
        if !is_too_much(&self.context, self.context.tails_bytes.load(Ordering::Relaxed)) {
            return Ok(());
        }
        match make_room(&self.context) {
            Room::None(Some(error)) => {
                let all = self.context.tails_bytes.load(Ordering::Relaxed);
                Err(no_room(&format!("{all} bytes of all namespaces"), &error))
            }
            Room::Comes | Room::None(None) => Ok(()),
        }
    }
}

/// What is done for room among all tails.
pub(super) enum Room {
    /// A tail is on its way into a segment; `room` of the context is raised when it is there.
    Comes,
    /// There is no tail that could go; why, where there are some.
    None(Option<Error>),
}

/// Lets the largest tail of the node that can become a segment.
pub(super) fn make_room(context: &Context) -> Room {
    let mut refused = None;
    for (_, namespace) in by_tail(context) {
        if namespace.flushing.load(Ordering::SeqCst) {
            // Its end is waited for, and then it is looked again.
            return Room::Comes;
        }
        match context.why_not_yet(namespace.nsid, Work::Flush) {
            None => {
                namespace.start_flush();
                return Room::Comes;
            }
            Some(error) => refused = refused.or(Some(error)),
        }
    }
    Room::None(refused)
}

/// Whether all tails, and what writes under way make, are larger than what writes wait at.
pub(super) fn are_all_full(context: &Context) -> bool {
    let tails = context.tails_bytes.load(Ordering::Relaxed);
    is_too_much(context, tails.saturating_add(context.made.bytes.load(Ordering::Relaxed)))
}

/// Whether so many bytes of all tails are more than what writes wait at.
pub(super) fn is_too_much(context: &Context, all: u64) -> bool {
    let max = context.config.tails_bytes_max;
    if all <= max {
        return false;
    }
    let failing = failing_bytes(context);
    all.saturating_sub(failing.saturating_sub(failing_max(context))) > max || all > max.saturating_mul(FAILING_TIMES)
}

/// The tails whose flushes fail.
pub(super) fn failing_bytes(context: &Context) -> u64 {
    let failing = context.failing();
    if failing.is_empty() {
        return 0;
    }
    let all = context.open_namespaces().into_iter().filter(|namespace| failing.contains(&namespace.nsid));
    all.map(|namespace| namespace.tail_bytes.load(Ordering::Relaxed)).sum()
}

fn failing_max(context: &Context) -> u64 {
    context.config.tails_bytes_max / FAILING_SHARE
}

/// The refusal where what waits cannot become a segment.
pub(super) fn no_room(what: &str, error: &Error) -> Error {
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
