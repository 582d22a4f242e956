//! How much is in memory beside tails: what writes make, until it is in a tail, and what waits for the disk, until it is there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// The sum of it, and who waits for it to become less.
#[derive(Clone, Default)]
pub struct Made {
    pub bytes: Arc<AtomicU64>,
    pub room: Arc<Notify>,
}

impl Made {
    /// Counts nothing yet.
    pub fn counted(&self) -> Counted {
        Counted { made: self.clone(), bytes: 0 }
    }
}

/// What is counted until this is dropped.
pub struct Counted {
    made: Made,
    bytes: u64,
}

impl Counted {
    pub fn add(&mut self, bytes: u64) {
        self.made.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.made.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.made.room.notify_waiters();
    }
}
