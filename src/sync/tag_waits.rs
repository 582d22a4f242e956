//! Tags that could not be read or sent: when each is tried again. What was read wrong once may be right the next time, and what is
//! damaged for good is not to cost every pass as much as news.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::ids::Nsid;

/// How long one waits after its first failure, and what that doubles up to.
const WAIT_FIRST_MS: u64 = 30_000;
const WAIT_MAX_MS: u64 = 3_600_000;

/// Of a tag here, or of all that changed in the bucket.
type Key = (Nsid, Option<String>);

#[derive(Default)]
pub(super) struct TagWaits(Mutex<BTreeMap<Key, Wait>>);

struct Wait {
    /// What failed: a revision, or how often tags were changed. Anything newer waits for nothing.
    of: u64,
    failures: u32,
    failed_ms: u64,
}

impl TagWaits {
    pub(super) fn is_due(&self, key: &Key, of: u64, now_ms: u64) -> bool {
        self.lock().get(key).is_none_or(|wait| {
            let doubled = WAIT_FIRST_MS.saturating_mul(1 << wait.failures.min(16).saturating_sub(1));
            // A clock that was set back makes nobody wait longer.
            wait.of != of || now_ms < wait.failed_ms || now_ms - wait.failed_ms >= doubled.min(WAIT_MAX_MS)
        })
    }

    pub(super) fn failed(&self, key: Key, of: u64, now_ms: u64) {
        let mut waits = self.lock();
        let before = waits.get(&key).filter(|wait| wait.of == of).map_or(0, |wait| wait.failures);
        waits.insert(key, Wait { of, failures: before.saturating_add(1), failed_ms: now_ms });
    }

    /// Whether it had failed before.
    pub(super) fn succeeded(&self, key: &Key) -> bool {
        self.lock().remove(key).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Key, Wait>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
