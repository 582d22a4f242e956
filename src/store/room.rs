//! Room in the bucket: what found none is not sent over and over.
//!
//! - A directory's file system is asked first how much is free, and nothing is written for which there is no room.
//! - [`SPARED_BYTES`] of it are left to what makes room again, such as a reclaim's lists: nothing that is full to the last byte could
//!   be reclaimed.
//! - What a store refused all the same, such as beyond a quota, waits from [`WAIT_MIN_MS`] up to [`WAIT_MAX_MS`], twice as long after
//!   each time, and so does what is as large; unless as much became free since.

use std::future::Future;
use std::sync::{MutexGuard, PoisonError};

use super::bucket::Bucket;
use super::failure::{full, is_full};
use super::identity::ours;
use crate::error::Error;
use crate::platform::disk::Disk;
use crate::platform::real_disk::RealDisk;

/// Two tries in five minutes, and a third after ten.
const WAIT_MIN_MS: u64 = 160_000;
const WAIT_MAX_MS: u64 = 600_000;

/// So many bytes of a directory's file system are written by what makes room only.
pub const SPARED_BYTES: u64 = 1 << 20;

/// The smallest object for which there was no room.
pub(super) struct Refused {
    bytes: u64,
    failures: u32,
    failed_ms: u64,
    /// What was free before it was tried.
    free: Option<u64>,
    error: Error,
}

impl Refused {
    /// Whether an object of so many bytes waits still. A clock that was set back does not make it wait longer.
    fn holds(&self, bytes: u64, now_ms: u64, free: Option<u64>) -> bool {
        let wait = WAIT_MIN_MS.saturating_mul(1 << self.failures.min(16).saturating_sub(1)).min(WAIT_MAX_MS);
        let has_waited = now_ms < self.failed_ms || now_ms - self.failed_ms >= wait;
        let has_room = free.zip(self.free).is_some_and(|(free, before)| free >= before.saturating_add(self.bytes));
        bytes >= self.bytes && !has_waited && !has_room
    }
}

impl Bucket {
    /// The same bucket for what makes room, or is gone again in a moment.
    pub fn for_room(&self) -> Bucket {
        Bucket { frees: true, ..self.clone() }
    }

    /// Sends an object of so many bytes, if the bucket is there and may have room for it; counts what is sent in one piece.
    pub(super) async fn with_room<T>(
        &self,
        bytes: u64,
        work: impl Future<Output = object_store::Result<T>>,
    ) -> object_store::Result<T> {
        self.standing().await?;
        let free = self.free_bytes().await;
        let spared = if self.frees { 0 } else { SPARED_BYTES };
        if let Some(free) = free.filter(|free| *free < bytes.saturating_add(spared)) {
            let beside = match spared >> 20 {
                0 => String::new(),
                mib => format!(", of which {mib} MiB is left for what makes room"),
            };
            let what = format!("{bytes} bytes are to be written, and {free} are free{beside}");
            return Err(ours(full(self.name(), what)));
        }
        if let Some(refused) = self.refused().as_ref().filter(|refused| refused.holds(bytes, self.now_ms(), free)) {
            return Err(ours(refused.error.duplicate()));
        }
        let done = work.await;
        let mut refused = self.refused();
        match &done {
            Ok(_) if refused.as_ref().is_some_and(|refused| bytes >= refused.bytes) => *refused = None,
            Err(error) if is_full(error) => {
                let before = refused.take();
                *refused = Some(Refused {
                    bytes: before.as_ref().map_or(bytes, |before| before.bytes.min(bytes)),
                    failures: before.map_or(0, |before| before.failures).saturating_add(1),
                    failed_ms: self.now_ms(),
                    free,
                    error: full(self.name(), error),
                });
            }
            _ => {}
        }
        done
    }

    /// What is free on a directory's file system, as far as it says so.
    async fn free_bytes(&self) -> Option<u64> {
        let path = self.inner.backend.directory.as_ref()?.path().to_owned();
        tokio::task::spawn_blocking(move || RealDisk.free_bytes(&path)).await.ok()?.ok()
    }

    fn refused(&self) -> MutexGuard<'_, Option<Refused>> {
        self.inner.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        self.inner.clock.now_millis()
    }
}
