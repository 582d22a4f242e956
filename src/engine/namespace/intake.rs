//! Room for what opening a namespace puts into memory: counted among all tails as it is replayed, and waited for where there is none.
//!
//! Invariants:
//! - What logs make in memory is not known before they are replayed. So it is counted frame by frame, and the next frame waits while all
//!   tails are as large as they may be; the largest of them become segments meanwhile.
//! - A flush needs no opening, and the first of the openings that wait goes on as soon as the others' tails are small. So none waits for
//!   another that waits for it, and a namespace opens even if its tail alone is larger than all may be.
//! - All tails, those of openings included, are as large as they may be, or that of one opening beside a share of it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::room::{Room, are_all_full, failing_bytes, make_room, no_room};
use super::stopping;
use crate::engine::context::Context;
use crate::error::{Error, Result};

/// The first opening goes on while all other tails take no more than one in so many of what all may.
const OTHERS_SHARE: u64 = 2;

/// What one opening has put into memory.
pub(in crate::engine) struct Intake {
    context: Arc<Context>,
    /// Its place among the openings that replay; the first has the least.
    number: Option<u64>,
    /// How much of the total is its.
    bytes: u64,
    /// It is refused when it waited until then.
    until: Instant,
}

impl Intake {
    pub(super) fn new(context: &Arc<Context>, until: Instant) -> Self {
        Intake { context: context.clone(), number: None, bytes: 0, until }
    }

    /// When an opening that begins now has waited for long enough.
    pub(in crate::engine) fn patience(context: &Context) -> Instant {
        Instant::now() + Duration::from_millis(context.config.backpressure_wait_ms)
    }

    /// Waits until one frame more has room. Where no runtime is, nothing becomes a segment, and nothing is waited for. Blocking.
    pub(super) fn wait_for_room(&mut self) -> Result<()> {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return Ok(()) };
        let context = self.context.clone();
        self.begin();
        loop {
            // Made before the look, so that no end of a flush is missed.
            let changed = context.made.room.notified();
            if !are_all_full(&context) || (self.is_first() && self.are_others_small()) {
                return Ok(());
            }
            if context.is_stopping() {
                return Err(stopping());
            }
            match make_room(&context) {
                Room::Comes => {}
                Room::None(None) if self.is_first() => return Ok(()),
                Room::None(Some(error)) if self.is_first() => {
                    // What cannot become a segment leaves room for one, unless it takes all of it.
                    let failing = failing_bytes(&context);
                    if failing < context.config.tails_bytes_max {
                        return Ok(());
                    }
                    return Err(no_room(&format!("{failing} bytes of all namespaces"), &error));
                }
                // An opening before this one ends, and what it opened can become a segment.
                Room::None(_) => {}
            }
            let until = self.until;
            let waited = tokio::task::block_in_place(|| runtime.block_on(async { timeout_at(until, changed).await }));
            if waited.is_err() {
                return Err(self.full());
            }
        }
    }

    /// Counts what is in memory by now.
    pub(super) fn follow(&mut self, bytes: u64) {
        self.context.tail_changed(self.bytes, bytes);
        self.bytes = bytes;
    }

    /// What was opened is listed, and `bytes` of the total are its from now on.
    pub(super) fn hand_over(mut self, bytes: u64) {
        self.follow(bytes);
        self.bytes = 0;
    }

    fn begin(&mut self) {
        if self.number.is_none() {
            let mut openings = self.context.openings.lock().unwrap_or_else(PoisonError::into_inner);
            let number = openings.last().map_or(0, |last| last + 1);
            openings.insert(number);
            self.number = Some(number);
        }
    }

    fn is_first(&self) -> bool {
        self.context.openings.lock().unwrap_or_else(PoisonError::into_inner).first().copied() == self.number
    }

    fn are_others_small(&self) -> bool {
        let all = self.context.tails_bytes.load(Ordering::Relaxed);
        all.saturating_sub(self.bytes) <= self.context.config.tails_bytes_max / OTHERS_SHARE
    }

    fn full(&self) -> Error {
        let all = self.context.tails_bytes.load(Ordering::Relaxed);
        Error::busy(format!(
            "its log has no room in memory: {all} bytes of all namespaces wait to be indexed, at most {} may",
            self.context.config.tails_bytes_max
        ))
        .with_hint("send the same again later; POST .../checkpoint of namespaces that were written makes room sooner")
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.context.openings.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        }
        self.context.tail_changed(self.bytes, 0);
        // Who waits may be the first now, and what was opened may become a segment.
        self.context.made.room.notify_waiters();
    }
}
