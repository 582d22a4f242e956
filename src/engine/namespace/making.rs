//! Room for what a write makes: counted with all tails before it is made, until it is in a tail or is not to be.
//!
//! Invariants:
//! - A write goes on while tails, what others make and what of it waits for the disk are no larger than tails may be. So all of it
//!   together is as large as that, or larger by what one write makes, and once more as it is encoded: what came with its request, and
//!   [`made_bytes_max`] of documents that are there.
//! - Who waits for room has none set aside, so none waits for another that waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::room::is_too_much;
use crate::engine::context::Context;
use crate::error::{Error, Result};

/// The most memory, in bytes, of what one write makes of documents that are there: as much as all tails may have.
pub(super) fn made_bytes_max(context: &Context) -> u64 {
    context.config.tails_bytes_max
}

/// What is set aside for one write.
pub(super) struct Making {
    context: Arc<Context>,
    bytes: AtomicU64,
    /// How much of it is made by now.
    made: AtomicU64,
    /// All that the write may make is set aside; what a single large document is beyond that is only counted.
    is_whole: bool,
    /// More was to be made than there was room for.
    is_short: AtomicBool,
}

impl Making {
    /// Sets aside what the request came with, or all that the write may make where it `is_whole`; `None` while tails, and what is set aside for
    /// others, are larger than they may be.
    pub fn begin(context: &Arc<Context>, given: u64, is_whole: bool) -> Option<Making> {
        let bytes = if is_whole { given.saturating_add(made_bytes_max(context)) } else { given };
        let is_begun = raise(context, bytes, 0);
        is_begun.then(|| Making {
            context: context.clone(),
            bytes: bytes.into(),
            made: given.into(),
            is_whole,
            is_short: false.into(),
        })
    }

    /// Sets so many bytes more aside than are made by now.
    pub fn set_aside(&self, more: u64) -> Result<()> {
        let made = self.made.load(Ordering::Relaxed).saturating_add(more);
        let missing = made.saturating_sub(self.bytes.load(Ordering::Relaxed));
        if missing > 0 {
            if self.is_whole {
                self.context.made.bytes.fetch_add(missing, Ordering::Relaxed);
            } else if !raise(&self.context, missing, missing) {
                self.is_short.store(true, Ordering::Relaxed);
                return Err(Error::busy("there is no room now for what the write makes"));
            }
            self.bytes.fetch_add(missing, Ordering::Relaxed);
        }
        self.made.store(made, Ordering::Relaxed);
        Ok(())
    }

    /// Whether more was to be made than there was room for: the write begins anew once all that it may make is set aside.
    pub fn is_short(&self) -> bool {
        self.is_short.load(Ordering::Relaxed)
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        self.context.made.bytes.fetch_sub(self.bytes.load(Ordering::Relaxed), Ordering::Relaxed);
        self.context.made.room.notify_waiters();
    }
}

/// Counts so many bytes as set aside, unless tails and all that is set aside are too much together with so many `of_it`.
fn raise(context: &Context, bytes: u64, of_it: u64) -> bool {
    let more = |set_aside: u64| {
        let all = context.tails_bytes.load(Ordering::Relaxed).saturating_add(set_aside).saturating_add(of_it);
        (!is_too_much(context, all)).then(|| set_aside.saturating_add(bytes))
    };
    context.made.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
}
