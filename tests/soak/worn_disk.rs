//! The machine's disk with a size of its own, whose operations fail while it is told so.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use shoal::platform::disk::{Disk, DiskFile, Entry, RandomFile};
use shoal::platform::mmap::Mapping;
use shoal::platform::real_disk::RealDisk;

/// What it is told, and what it says of its size.
#[derive(Debug, Default)]
pub struct Wear {
    /// While not 0, one of so many operations that change the disk fails.
    pub one_in: AtomicU64,
    /// Failures are those of a full disk, instead of broken sectors.
    pub is_full: std::sync::atomic::AtomicBool,
    pub free_bytes: AtomicU64,
    /// Bytes written since the start.
    pub written: AtomicU64,
    state: AtomicU64,
}

#[derive(Clone, Debug)]
pub struct WornDisk(pub Arc<Wear>);

impl Wear {
    /// Whether this operation is to be carried out. The same operations fail in every run.
    fn check(&self) -> io::Result<()> {
        let one_in = self.one_in.load(Ordering::Relaxed);
        // A linear congruential generator (Knuth, MMIX); its upper bits decide.
        let next = |state: u64| state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if one_in == 0 {
            return Ok(());
        }
        let state = self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |state| Some(next(state)));
        if !(state.unwrap_or_default() >> 33).is_multiple_of(one_in) {
            return Ok(());
        }
        Err(if self.is_full.load(Ordering::Relaxed) {
            io::Error::new(io::ErrorKind::StorageFull, "no space left on device (injected)")
        } else {
            io::Error::other("input/output error (injected)")
        })
    }
}

impl Disk for WornDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.0.check()?;
        Ok(Box::new(WornFile { file: RealDisk.create(path)?, wear: self.0.clone() }))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        self.0.check()?;
        Ok(Box::new(WornFile { file: RealDisk.append(path)?, wear: self.0.clone() }))
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

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.check()?;
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        RealDisk.remove_dir(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.0.check()?;
        RealDisk.create_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.0.check()?;
        RealDisk.sync_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        RealDisk.list(path)
    }

    fn is_filled(&self, path: &Path) -> bool {
        RealDisk.is_filled(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        RealDisk.lock(path)
    }

    fn free_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(self.0.free_bytes.load(Ordering::Relaxed))
    }

    fn random_access(&self, path: &Path) -> io::Result<Box<dyn RandomFile>> {
        Ok(Box::new(WornRandomFile { file: RealDisk.random_access(path)?, wear: self.0.clone() }))
    }
}

struct WornFile {
    file: Box<dyn DiskFile>,
    wear: Arc<Wear>,
}

impl DiskFile for WornFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        if let Err(error) = self.wear.check() {
            // As a full disk does it: a part is in the file.
            let _ = self.file.write(&bytes[..bytes.len() / 2]);
            return Err(error);
        }
        self.wear.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.file.write(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.wear.check()?;
        self.file.sync()
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.file.truncate(len)
    }
}

#[derive(Debug)]
struct WornRandomFile {
    file: Box<dyn RandomFile>,
    wear: Arc<Wear>,
}

impl RandomFile for WornRandomFile {
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.wear.check()?;
        self.file.set_len(len)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_at(offset, out)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.wear.check()?;
        self.wear.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        self.file.write_at(offset, bytes)
    }

    fn sync(&self) -> io::Result<()> {
        self.wear.check()?;
        self.file.sync()
    }
}
