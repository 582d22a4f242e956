//! A memory disk on which something happens right before an operation.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use shoal::platform::disk::{Disk, DiskFile, Entry, RandomFile};
use shoal::platform::memory_disk::MemoryDisk;
use shoal::platform::mmap::Mapping;

/// Is told the operation and its path, and says whether it is done for good.
type Hook = Box<dyn FnMut(&str, &Path) -> bool + Send>;
/// Is told every operation and its path, of several threads at a time.
type Watch = Arc<dyn Fn(&str, &Path) + Send + Sync>;

#[derive(Clone)]
pub struct HookDisk {
    pub disk: MemoryDisk,
    hook: Arc<Mutex<Option<Hook>>>,
    watch: Arc<Mutex<Option<Watch>>>,
    stuck: Arc<Mutex<Option<String>>>,
    unsynced: Arc<Mutex<Option<String>>>,
}

impl HookDisk {
    pub fn new(disk: MemoryDisk) -> Self {
        HookDisk {
            disk,
            hook: Arc::default(),
            watch: Arc::default(),
            stuck: Arc::default(),
            unsynced: Arc::default(),
        }
    }

    pub fn before(&self, hook: impl FnMut(&str, &Path) -> bool + Send + 'static) {
        *self.hook.lock().unwrap() = Some(Box::new(hook));
    }

    /// Whoever waits in it holds up its own thread only.
    pub fn each(&self, watch: impl Fn(&str, &Path) + Send + Sync + 'static) {
        *self.watch.lock().unwrap() = Some(Arc::new(watch));
    }

    /// Whatever has this in its path cannot be removed, for good.
    pub fn let_stick(&self, within: Option<String>) {
        *self.stuck.lock().unwrap() = within;
    }

    /// Directories that have this in their path cannot be synced, for good.
    pub fn let_sync_fail(&self, within: Option<String>) {
        *self.unsynced.lock().unwrap() = within;
    }

    fn on(&self, operation: &str, path: &Path) -> &MemoryDisk {
        let watch = self.watch.lock().unwrap().clone();
        if let Some(watch) = watch {
            watch(operation, path);
        }
        // Away while it runs: it may use the disk, too.
        let hook = self.hook.lock().unwrap().take();
        if let Some(mut hook) = hook
            && !hook(operation, path)
        {
            *self.hook.lock().unwrap() = Some(hook);
        }
        &self.disk
    }
}

impl fmt::Debug for HookDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HookDisk")
    }
}

/// What is written to it and its barriers come to the hook, too.
struct HookFile {
    file: Box<dyn DiskFile>,
    disk: HookDisk,
    path: PathBuf,
}

impl DiskFile for HookFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.disk.on("write", &self.path);
        self.file.write(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.disk.on("barrier", &self.path);
        self.file.sync()
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.file.truncate(len)
    }
}

impl Disk for HookDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = self.on("create", path).create(path)?;
        Ok(Box::new(HookFile { file, disk: self.clone(), path: path.to_owned() }))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let file = self.on("append", path).append(path)?;
        Ok(Box::new(HookFile { file, disk: self.clone(), path: path.to_owned() }))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.on("read", path).read(path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn RandomFile>> {
        self.on("read", path).open(path)
    }

    fn map(&self, path: &Path) -> io::Result<Mapping> {
        self.on("map", path).map(path)
    }

    fn map_live(&self, path: &Path) -> io::Result<Mapping> {
        self.on("map", path).map_live(path)
    }

    fn size(&self, path: &Path) -> io::Result<u64> {
        self.on("size", path).size(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.on("rename", to).rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        if self.stuck.lock().unwrap().as_ref().is_some_and(|within| path.to_string_lossy().contains(within)) {
            return Err(io::Error::other("injected: it cannot be removed"));
        }
        self.on("remove", path).remove(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.on("remove", path).remove_dir(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.on("create", path).create_dir(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        if self.unsynced.lock().unwrap().as_ref().is_some_and(|within| path.to_string_lossy().contains(within)) {
            return Err(io::Error::other("injected: it cannot be synced"));
        }
        self.on("sync", path).sync_dir(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.on("list", path).list(path)
    }

    fn is_filled(&self, path: &Path) -> bool {
        self.on("list", path).is_filled(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        self.on("lock", path).lock(path)
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        self.on("free", path).free_bytes(path)
    }

    fn free_files(&self, path: &Path) -> io::Result<Option<u64>> {
        self.on("free", path).free_files(path)
    }

    fn random_access(&self, path: &Path) -> io::Result<Box<dyn RandomFile>> {
        self.on("open", path).random_access(path)
    }
}
