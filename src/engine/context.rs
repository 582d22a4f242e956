//! What all namespaces of one engine share: disk, clock, index, bounds.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tokio::sync::{Notify, Semaphore};

use super::layout::Layout;
use crate::meta::Meta;
use crate::model::ids::Nsid;
use crate::platform::clock::Clock;
use crate::platform::disk::Disk;
use crate::platform::random::Random;
use crate::tier::Tier;

/// How an engine works; the defaults suit a node of 512 MB.
#[derive(Clone, Debug)]
pub struct EngineConfig {
    pub data_dir: PathBuf,
    /// A tail of this many bytes in memory becomes a segment.
    pub flush_bytes: u64,
    /// Writes to a namespace wait, and then fail, while its tail is larger.
    pub tail_bytes_max: u64,
    /// The same for all tails together.
    pub tails_bytes_max: u64,
    /// How long a write waits for room in the tail before it fails.
    pub backpressure_wait_ms: u64,
    /// How many segments of one size class are merged into one.
    pub compaction_fan_in: usize,
    /// A segment with more dead rows in a hundred is rewritten.
    pub compaction_dead_percent: u32,
    /// Bytes a second that compaction may write; 0 for no bound.
    pub compaction_bytes_per_second: u64,
    /// How long the answer to a write with an `Idempotency-Key` is kept.
    pub idempotency_ms: u64,
    /// How long tombstones are kept.
    pub tombstone_ms: u64,
}

impl EngineConfig {
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        EngineConfig {
            data_dir: data_dir.into(),
            flush_bytes: 16 << 20,
            tail_bytes_max: 32 << 20,
            tails_bytes_max: 48 << 20,
            backpressure_wait_ms: 10_000,
            compaction_fan_in: 8,
            compaction_dead_percent: 30,
            compaction_bytes_per_second: 0,
            idempotency_ms: 24 * 3_600 * 1_000,
            tombstone_ms: 30 * 24 * 3_600 * 1_000,
        }
    }
}

/// Shared by all namespaces.
pub struct Context {
    pub config: EngineConfig,
    pub disk: Arc<dyn Disk>,
    pub clock: Arc<dyn Clock>,
    pub random: Arc<dyn Random>,
    pub layout: Layout,
    pub tier: Tier,
    pub meta: Meta,
    /// Incarnations that have files and no name yet. They are listed here before their first file is made, and until
    /// after their name is bound.
    pub unborn: Mutex<BTreeSet<Nsid>>,
    /// Read by who commits a manifest, written by who recounts all of them.
    pub commits: RwLock<()>,
    /// Memory of all tails.
    pub tails_bytes: AtomicU64,
    /// Raised when a tail got smaller.
    pub room: Notify,
    /// One segment is built from a tail at a time, so that memory stays bounded.
    pub flushing: Semaphore,
    /// One compaction at a time.
    pub compacting: Semaphore,
    /// No new work is begun.
    pub stopping: AtomicBool,
}

impl Context {
    /// Follows a tail's memory from `before` to `after` bytes.
    pub fn tail_changed(&self, before: u64, after: u64) {
        if after >= before {
            self.tails_bytes.fetch_add(after - before, Ordering::Relaxed);
        } else {
            let less = before - after;
            let _ = self
                .tails_bytes
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |bytes| Some(bytes.saturating_sub(less)));
            self.room.notify_waiters();
        }
    }

    /// Lists an incarnation as unborn until the guard is dropped.
    pub fn birth(self: &Arc<Self>, nsid: Nsid) -> Birth {
        self.unborn.lock().unwrap_or_else(PoisonError::into_inner).insert(nsid);
        Birth { context: self.clone(), nsid }
    }

    /// Incarnations that have files and no name yet.
    pub fn unborn(&self) -> BTreeSet<Nsid> {
        self.unborn.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }
}

/// An incarnation on its way to a name.
pub struct Birth {
    context: Arc<Context>,
    nsid: Nsid,
}

impl Drop for Birth {
    fn drop(&mut self) {
        self.context.unborn.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.nsid);
    }
}
