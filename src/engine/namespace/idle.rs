//! Whether a namespace may be closed, and its end as one that is open: whoever opens it next finds the same in its files.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Namespace;
use crate::error::{Error, Result};

impl Namespace {
    /// Remembers that it was used just now.
    pub(in crate::engine) fn touch(&self) {
        self.last_used.store(self.context.uses.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }

    /// When it was used last, among all uses.
    pub(in crate::engine) fn last_used(&self) -> u64 {
        self.last_used.load(Ordering::Relaxed)
    }

    /// Whether nothing is in memory or in the log that no manifest has, nothing is on its way, and nothing is being built.
    pub(in crate::engine) fn is_idle(&self) -> bool {
        let shared = self.shared();
        let is_flushed = shared.state.unflushed_bytes() == 0 && shared.state.frozen.is_none();
        is_flushed
            && self.log_bytes.load(Ordering::Relaxed) == 0
            && self.apart.get().is_none()
            && shared.pending.is_empty()
            && shared.overlay.is_empty()
            && !self.is_building()
    }

    /// Seals the log of a namespace that nobody else has. What failed must stay open: how much of its log may be trusted is known
    /// to it alone.
    pub(in crate::engine) fn close(self: &Arc<Self>) -> Result<()> {
        let Ok(mut decider) = self.decider.try_lock() else {
            return Err(Error::busy(format!("namespace {} is in use", self.name)));
        };
        if decider.broken || decider.distrust.is_some() {
            return Err(Error::unavailable(format!("the log of namespace {} failed", self.name)));
        }
        self.seal(&mut decider)?;
        self.context.tail_changed(self.shared().state.unflushed_bytes(), 0);
        Ok(())
    }
}
