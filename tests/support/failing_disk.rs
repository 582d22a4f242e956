//! A disk whose operations on some files fail for as long as a test says.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use shoal::platform::disk::{Disk, DiskFile, Entry, RandomFile};
use shoal::platform::memory_disk::MemoryDisk;
use shoal::platform::mmap::Mapping;

/// The operation that fails, a part of the paths it fails for, and how.
pub type Failing = (&'static str, &'static str, io::ErrorKind);

/// Cloning shares the disk.
#[derive(Clone, Debug)]
pub struct FailingDisk {
    pub disk: MemoryDisk,
    failing: Arc<Mutex<Option<Failing>>>,
    failed: Arc<AtomicU64>,
}

impl FailingDisk {
    pub fn new(disk: MemoryDisk) -> Self {
        FailingDisk { disk, failing: Arc::default(), failed: Arc::default() }
    }

    pub fn fail(&self, failing: Option<Failing>) {
        *self.failing.lock().unwrap() = failing;
    }

    /// How many operations failed so far.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::SeqCst)
    }

    fn check(&self, operation: &str, path: &Path) -> io::Result<()> {
        match *self.failing.lock().unwrap() {
            Some((of, part, kind)) if of == operation && path.to_string_lossy().contains(part) => {
                self.failed.fetch_add(1, Ordering::SeqCst);
                Err(io::Error::new(kind, format!("{operation} of {} is made to fail", path.display())))
            }
            _ => Ok(()),
        }
    }
}

impl Disk for FailingDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.check("create", path)?;
        self.disk.create(path)
    }
    fn append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.check("append", path)?;
        self.disk.append(path)
    }
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.check("read", path)?;
        self.disk.read(path)
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn RandomFile>> {
        self.check("open", path)?;
        self.disk.open(path)
    }
    fn map(&self, path: &Path) -> io::Result<Mapping> {
        self.check("map", path)?;
        self.disk.map(path)
    }
    fn map_live(&self, path: &Path) -> io::Result<Mapping> {
        self.disk.map_live(path)
    }
    fn size(&self, path: &Path) -> io::Result<u64> {
        self.disk.size(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.check("rename", to)?;
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
