//! How much of the disk parts of the bucket's objects may take.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// What is left free of the file system for the operating system and for writes.
pub const DISK_RESERVE_BYTES: u64 = 64 << 20;

/// What is left of that free by what every use of a namespace needs: it cannot be opened without, nor sent what is here only.
const DISK_RESERVE_LEAST_BYTES: u64 = 16 << 20;

/// What bytes are wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// By whoever opens the object.
    Always,
    /// By what is asked just now.
    Now,
}

impl Wanted {
    /// What is left free of the file system.
    pub fn reserve(self) -> u64 {
        match self {
            Wanted::Always => DISK_RESERVE_LEAST_BYTES,
            Wanted::Now => DISK_RESERVE_BYTES,
        }
    }

    /// What is left free of one that has so many bytes in all: on a small one that is a part of it.
    pub fn reserve_of(self, all_bytes: u64) -> u64 {
        let part = match self {
            Wanted::Always => all_bytes / 32,
            Wanted::Now => all_bytes / 8,
        };
        part.min(self.reserve())
    }
}

/// In four parts of the bound: what may be taken by reading. The rest is for files that are begun anew.
const READING_QUARTERS: u64 = 3;

/// A bound on bytes, and how many are taken. Bytes are taken before they are written.
#[derive(Debug)]
pub struct Room {
    limit: u64,
    taken: AtomicU64,
    /// Raised when bytes are given back.
    given_back: Condvar,
    waiting: Mutex<()>,
}

impl Room {
    pub fn new(limit: u64) -> Self {
        Room { limit, taken: AtomicU64::new(0), given_back: Condvar::new(), waiting: Mutex::new(()) }
    }

    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// What may be taken by reading.
    pub fn for_reading(&self) -> u64 {
        if self.limit == 0 { u64::MAX } else { self.limit / 4 * READING_QUARTERS }
    }

    /// What may be taken by bytes that are wanted for this.
    pub fn bound(&self, wanted: Wanted) -> u64 {
        match wanted {
            Wanted::Always if self.limit > 0 => self.limit,
            _ => self.for_reading(),
        }
    }

    /// What may be taken by what is wanted once; the rest is for what every query needs.
    pub fn for_once(&self) -> u64 {
        if self.limit == 0 { u64::MAX } else { self.limit / 2 }
    }

    /// Whether so many bytes are more than the room that is made where there is none.
    pub fn is_wide(&self, bytes: u64) -> bool {
        bytes > self.for_reading() - self.for_once()
    }

    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::SeqCst)
    }

    /// Takes bytes if they fit below `bound`.
    pub fn take_below(&self, bytes: u64, bound: u64) -> bool {
        let fits = |taken: u64| taken.checked_add(bytes).filter(|sum| *sum <= bound);
        self.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, fits).is_ok()
    }

    /// Takes bytes that are on the disk already.
    pub fn add(&self, bytes: u64) {
        self.taken.fetch_add(bytes, Ordering::SeqCst);
    }

    pub fn give_back(&self, bytes: u64) {
        let less = |taken: u64| Some(taken.saturating_sub(bytes));
        let _ = self.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less);
        drop(self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        self.given_back.notify_all();
    }

    /// Waits until bytes are given back or the time is over.
    pub fn wait(&self, at_most: Duration) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.given_back.wait_timeout(waiting, at_most).unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests {
    use super::{DISK_RESERVE_BYTES, DISK_RESERVE_LEAST_BYTES, Room, Wanted};

    #[test]
    fn a_small_disk_has_a_part_of_it_left_alone() {
        for (all, now, always) in [
            (64 << 20, 8 << 20, 2 << 20),
            (512 << 20, DISK_RESERVE_BYTES, DISK_RESERVE_LEAST_BYTES),
            (u64::MAX, DISK_RESERVE_BYTES, DISK_RESERVE_LEAST_BYTES),
        ] {
            assert_eq!((Wanted::Now.reserve_of(all), Wanted::Always.reserve_of(all)), (now, always));
        }
    }

    #[test]
    fn room_is_made_for_a_quarter_at_once() {
        assert!(!Room::new(100).is_wide(25) && Room::new(100).is_wide(26));
        assert!(!Room::new(0).is_wide(0) && Room::new(0).is_wide(1), "nothing has to be made");
    }

    #[test]
    fn no_more_is_taken_than_fits() {
        let room = Room::new(100);
        assert!(room.take_below(60, 75));
        assert!(!room.take_below(16, 75));
        assert!(room.take_below(15, 75));
        assert!(!room.take_below(u64::MAX, 100), "no overflow");
        room.give_back(200);
        assert_eq!(room.taken(), 0);
    }
}
