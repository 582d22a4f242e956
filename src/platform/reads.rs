//! What reading took of files that are not all here: how much was looked at, and how much had to be brought for it.
//!
//! Counted for each thread, so that a query can say what it took; who spreads work over threads adds theirs.

use std::cell::Cell;

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// Bytes looked at of files that are here in part, each as often as it was asked for.
    pub looked_at: u64,
    /// Bytes that had to be brought.
    pub brought: u64,
    /// How often there was something to wait for.
    pub rounds: u32,
}

impl Reads {
    /// The share of what was looked at that was here, from 0 to 1.
    pub fn hit_ratio(&self) -> f64 {
        if self.brought == 0 {
            return 1.0;
        }
        let looked_at = self.looked_at.max(self.brought);
        (looked_at - self.brought) as f64 / looked_at as f64
    }
}

thread_local! {
    static READS: Cell<Reads> = const { Cell::new(Reads { looked_at: 0, brought: 0, rounds: 0 }) };
}

/// What this thread has read since it began.
fn so_far() -> Reads {
    READS.get()
}

/// Does some work, and says what this thread read for it.
pub fn measured<T>(work: impl FnOnce() -> T) -> (T, Reads) {
    let before = so_far();
    let done = work();
    let after = so_far();
    let reads = Reads {
        looked_at: after.looked_at - before.looked_at,
        brought: after.brought - before.brought,
        rounds: after.rounds - before.rounds,
    };
    (done, reads)
}

/// Adds what others read for this thread's work.
pub fn add(reads: Reads) {
    let now = so_far();
    READS.set(Reads {
        looked_at: now.looked_at + reads.looked_at,
        brought: now.brought + reads.brought,
        rounds: now.rounds + reads.rounds,
    });
}

/// Notes that bytes are waited for.
pub fn brought(bytes: u64) {
    add(Reads { looked_at: 0, brought: bytes, rounds: 1 });
}

/// Notes that bytes of a file that is here in part are looked at.
pub fn looked_at(bytes: u64) {
    add(Reads { looked_at: bytes, ..Reads::default() });
}

#[cfg(test)]
mod tests {
    use super::{Reads, add, looked_at, measured};

    #[test]
    fn work_is_charged_what_was_read_during_it() {
        looked_at(5);
        let ((), reads) = measured(|| {
            looked_at(100);
            add(Reads { looked_at: 0, brought: 25, rounds: 1 });
        });
        assert_eq!(reads, Reads { looked_at: 100, brought: 25, rounds: 1 });
        assert_eq!(reads.hit_ratio(), 0.75);
        assert_eq!(Reads::default().hit_ratio(), 1.0);
    }
}
