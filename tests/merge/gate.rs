//! A disk on which the next file of a kind that is created waits until it is let through, and on which barriers wait for each other.

use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use super::meanwhile::FOREVER;
use shoal::platform::disk::{Disk, DiskFile, Entry, RandomFile};
use shoal::platform::memory_disk::MemoryDisk;
use shoal::platform::mmap::Mapping;
use tokio::sync::Notify;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gate {
    Open,
    /// The next one waits.
    Closed,
    /// One waits.
    Waiting,
}

/// A memory disk with a gate before the creation of segments.
#[derive(Clone, Debug)]
pub struct GateDisk {
    disk: MemoryDisk,
    gate: Arc<(Mutex<Gate>, Condvar, Notify)>,
    meeting: Arc<(Mutex<Meeting>, Condvar)>,
}

/// Barriers that are expected to wait at the same time.
#[derive(Debug, Default)]
struct Meeting {
    expected: usize,
    here: usize,
    has_failed: bool,
}

impl GateDisk {
    pub fn new(disk: MemoryDisk) -> Self {
        GateDisk {
            disk,
            gate: Arc::new((Mutex::new(Gate::Open), Condvar::new(), Notify::new())),
            meeting: Arc::default(),
        }
    }

    /// From now on no name of a new segment, bitmap or base is durable before so many of them are asked to be.
    pub fn expect(&self, together: usize) {
        *self.meeting.0.lock().unwrap() = Meeting { expected: together, ..Meeting::default() };
    }

    /// Whether so many were.
    pub fn have_met(&self) -> bool {
        let meeting = self.meeting.0.lock().unwrap();
        meeting.here >= meeting.expected && !meeting.has_failed
    }

    fn meet(&self, path: &Path) {
        let path = path.to_string_lossy();
        if !path.contains("/segments/") && !path.ends_with("/deletions") && !path.ends_with("/bases") {
            return;
        }
        let (meeting, comes) = &*self.meeting;
        let mut now = meeting.lock().unwrap();
        now.here += 1;
        comes.notify_all();
        while now.here < now.expected && !now.has_failed {
            let (found, waited) = comes.wait_timeout(now, FOREVER).unwrap();
            now = found;
            now.has_failed |= waited.timed_out();
        }
    }

    /// The next segment that somebody begins waits.
    pub fn close(&self) {
        *self.gate.0.lock().unwrap() = Gate::Closed;
    }

    /// Returns once a segment waits.
    pub async fn waits(&self) {
        self.gate.2.notified().await;
    }

    /// Lets it through.
    pub fn open(&self) {
        *self.gate.0.lock().unwrap() = Gate::Open;
        self.gate.1.notify_all();
    }

    fn pass(&self, path: &Path) {
        let (gate, opened, waits) = &*self.gate;
        let mut now = gate.lock().unwrap();
        if *now != Gate::Closed || !path.to_string_lossy().contains("/segments/") {
            return;
        }
        *now = Gate::Waiting;
        waits.notify_one();
        while *now == Gate::Waiting {
            now = opened.wait(now).unwrap();
        }
    }
}

impl Disk for GateDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.pass(path);
        self.disk.create(path)
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.disk.append(path)
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.disk.read(path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn RandomFile>> {
        self.disk.open(path)
    }

    fn map(&self, path: &Path) -> io::Result<Mapping> {
        self.disk.map(path)
    }

    fn map_live(&self, path: &Path) -> io::Result<Mapping> {
        self.disk.map_live(path)
    }

    fn size(&self, path: &Path) -> io::Result<u64> {
        self.disk.size(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.remove_dir(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.create_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.meet(path);
        self.disk.sync_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.disk.list(path)
    }

    fn is_filled(&self, path: &Path) -> bool {
        self.disk.is_filled(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.disk.lock(path)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.disk.free_bytes(path)
    }

    fn free_files(&self, path: &Path) -> io::Result<Option<u64>> {
        self.disk.free_files(path)
    }

    fn random_access(&self, path: &Path) -> io::Result<Box<dyn RandomFile>> {
        self.disk.random_access(path)
    }
}
