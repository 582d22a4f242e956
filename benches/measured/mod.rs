//! The real disk with its barriers counted, and slower ones put in.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use shoal::platform::disk::{Disk, DiskFile, Entry, RandomFile};
use shoal::platform::mmap::Mapping;
use shoal::platform::real_disk::RealDisk;

/// The real disk, its barriers counted and made slower.
#[derive(Debug)]
pub struct MeasuredDisk {
    pub barrier: Duration,
    pub barriers: Arc<AtomicU64>,
}

struct MeasuredFile {
    file: Box<dyn DiskFile>,
    barrier: Duration,
    barriers: Arc<AtomicU64>,
}

impl DiskFile for MeasuredFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.barriers.fetch_add(1, Ordering::Relaxed);
        self.file.sync()?;
        std::thread::sleep(self.barrier);
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.file.truncate(len)
    }
}

#[derive(Debug)]
struct MeasuredRandomFile {
    file: Box<dyn RandomFile>,
    barriers: Arc<AtomicU64>,
}

impl RandomFile for MeasuredRandomFile {
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, out)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.barriers.fetch_add(1, Ordering::Relaxed);
        self.file.sync()
    }
}

impl MeasuredDisk {
    fn measure(&self, file: Box<dyn DiskFile>) -> Box<dyn DiskFile> {
        Box::new(MeasuredFile { file, barrier: self.barrier, barriers: self.barriers.clone() })
    }
}

impl Disk for MeasuredDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        RealDisk.create(path).map(|file| self.measure(file))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        RealDisk.append(path).map(|file| self.measure(file))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        RealDisk.read(path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn RandomFile>> {
        RealDisk.open(path)
    }

    fn map(&self, path: &Path) -> io::Result<Mapping> {
        RealDisk.map(path)
    }

    fn map_live(&self, path: &Path) -> io::Result<Mapping> {
        RealDisk.map_live(path)
    }

    fn size(&self, path: &Path) -> io::Result<u64> {
        RealDisk.size(path)
    }

    fn is_filled(&self, path: &Path) -> bool {
        RealDisk.is_filled(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_dir(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.barriers.fetch_add(1, Ordering::Relaxed);
        RealDisk.sync_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        RealDisk.list(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        RealDisk.lock(path)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        RealDisk.free_bytes(path)
    }

    fn random_access(&self, path: &Path) -> io::Result<Box<dyn RandomFile>> {
        let file = RealDisk.random_access(path)?;
        Ok(Box::new(MeasuredRandomFile { file, barriers: self.barriers.clone() }))
    }
}
