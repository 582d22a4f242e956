//! The local directory that holds objects under the keys they have in a bucket, too.
//!
//! - This file has the objects that are here whole;
//! - `cache` has those of the bucket that are here in part, within a bound: `partial` is one of them, `remote` where its bytes
//!   come from, `room` the bound;
//! - `placed` has new ones that are to be durable together;
//! - `coming` has those that are on their way here whole, `going` what the bucket has of those on their way there.
//!
//! Invariants:
//! - An object appears under its key whole and durable, or not at all, or nobody names it; it is never changed and its key never
//!   used again.
//! - Objects leave by unlink, so whoever has one mapped keeps reading it.
//! - What is only here is here whole. Only what the bucket has may be here in part.

mod cache;
mod coming;
mod going;
mod partial;
mod placed;
mod remote;
mod room;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::{Context, Error, Result};
use crate::platform::disk::{self, Disk, DiskFile, RandomFile, create_dirs, if_there};
use crate::platform::mmap::Mapping;

use self::coming::Coming;
use self::remote::no_bucket;

pub use self::cache::{Cache, Held};
pub use self::coming::Incoming;
pub use self::going::Going;
pub use self::placed::{Barriers, Placed};
pub use self::remote::{GONE, Remote, gone};

/// How much an object's writer gathers before it writes.
const BUFFER_BYTES: usize = 256 << 10;

/// Bytes of a whole object that are asked for at once.
const AGAIN_BYTES: u64 = 4 << 20;

/// The objects on this node.
#[derive(Debug)]
pub struct Tier {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    written: AtomicU64,
    cache: Cache,
    coming: Coming,
    going: PathBuf,
    barriers: Barriers,
}

impl Tier {
    /// Objects that are here whole lie below `root`, those that are here in part below `cache` and take at most `bytes_max`;
    /// 0 for no bound. What is on its way lies below the last two, `coming` and `going`.
    pub fn new(
        disk: Arc<dyn Disk>,
        root: PathBuf,
        cache: PathBuf,
        [coming, going]: [PathBuf; 2],
        bytes_max: u64,
    ) -> Self {
        let (cache, coming) = (Cache::new(disk.clone(), cache, bytes_max), Coming::new(disk.clone(), coming));
        Tier { disk, root, written: AtomicU64::new(0), cache, coming, going, barriers: Barriers::default() }
    }

    /// How long barriers of this disk take.
    pub fn barriers(&self) -> &Barriers {
        &self.barriers
    }

    /// The objects that are here in part.
    pub fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Whether objects of the bucket are read in parts, when they are wanted.
    pub fn reads_in_parts(&self) -> bool {
        self.cache.bytes_max() > 0 && self.cache.is_attached()
    }

    /// Where the object of `key` lies.
    pub fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    /// Begins an object. Nothing is visible under its key before [`ObjectWriter::publish`].
    pub fn create(&self, key: &str) -> Result<ObjectWriter<'_>> {
        let path = self.path(key);
        let temporary = disk::temporary(&path);
        let parent = path.parent().unwrap_or(&self.root);
        let make = || {
            create_dirs(&*self.disk, parent)?;
            self.disk.create(&temporary)
        };
        let file = unless_removed(make).context(|| format!("create {}", temporary.display()))?;
        Ok(ObjectWriter {
            tier: self,
            file: Some(file),
            path,
            temporary,
            buffer: Vec::with_capacity(BUFFER_BYTES),
            bytes: 0,
            crc32c: 0,
            shown: false,
            published: false,
            pace: None,
        })
    }

    /// [`Tier::create`], for work that may take its time: at most so many bytes a second are written; 0 is no bound.
    pub fn create_paced(&self, key: &str, bytes_per_second: u64) -> Result<ObjectWriter<'_>> {
        let mut writer = self.create(key)?;
        writer.pace = (bytes_per_second > 0).then(|| Pace { bytes_per_second, began: Instant::now() });
        Ok(writer)
    }

    /// Puts a small object in place; gives its length and CRC-32C.
    pub fn put(&self, key: &str, bytes: &[u8]) -> Result<(u64, u32)> {
        let mut writer = self.create(key)?;
        writer.write_all(bytes).context(|| format!("write {key}"))?;
        writer.publish()
    }

    /// The object's bytes, mapped: all of them, brought from the bucket where they are not here. `Corrupt` when there is none, or
    /// not of this length: a manifest names it.
    pub fn map(&self, key: &str, bytes: u64) -> Result<Mapping> {
        let mapping = self.open(key, bytes)?;
        mapping.bring(0..bytes)?;
        Ok(mapping)
    }

    /// The object's bytes, mapped, as [`Tier::map`] gives them; but those that are not here are brought when they are wanted.
    pub fn open(&self, key: &str, bytes: u64) -> Result<Mapping> {
        let mapping = match self.disk.map(&self.path(key)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let may_be_in_bucket = self.cache.bytes_max() > 0 || self.cache.is_attached();
                if self.cache.bytes_of(key).is_none() && !may_be_in_bucket {
                    return Err(missing(key, error));
                }
                return self.cache.open(key, bytes);
            }
            mapped => mapped.map_err(|error| missing(key, error))?,
        };
        if mapping.len() as u64 != bytes {
            return Err(Error::corrupt(format!("object {key}: {} bytes, expected {bytes}", mapping.len())));
        }
        Ok(mapping)
    }

    /// [`Tier::map`] of an object that is here, whole or in part, whose length nobody wrote down.
    pub fn map_all(&self, key: &str) -> Result<Mapping> {
        match (self.disk.map(&self.path(key)), self.cache.bytes_of(key)) {
            (Err(error), Some(bytes)) if error.kind() == io::ErrorKind::NotFound => self.map(key, bytes),
            (mapped, _) => mapped.map_err(|error| missing(key, error)),
        }
    }

    /// Reads an object from the bucket and puts it in the place of what is here, unless it is not what was written down: then nothing
    /// is replaced. Blocking.
    pub fn read_again(&self, key: &str, bytes: u64, crc32c: u32) -> Result<()> {
        let remote = self.cache.remote().ok_or_else(|| no_bucket(key))?;
        let mut writer = self.create(key)?;
        let mut at = 0;
        while at < bytes {
            let end = bytes.min(at + AGAIN_BYTES);
            writer.write_all(&remote.wait_for(key, at..end)?).context(|| format!("write {key}"))?;
            at = end;
        }
        if writer.crc32c != crc32c {
            let found = writer.crc32c;
            return Err(Error::corrupt(format!(
                "object {key} in the bucket: checksum is {found:08x}, expected {crc32c:08x}"
            ))
            .with_hint("somebody changed it there; put it back from a copy"));
        }
        writer.publish().map(drop)
    }

    /// Whether the object is here whole, with this length; any length when `bytes` is 0.
    pub fn has(&self, key: &str, bytes: u64) -> bool {
        self.disk.size(&self.path(key)).is_ok_and(|size| bytes == 0 || size == bytes)
    }

    /// Whether an object that is not here is brought when it is wanted: the bucket has it. Asks for its last byte. Blocking.
    pub fn is_elsewhere(&self, key: &str, bytes: u64) -> Result<bool> {
        if self.reads_in_parts() && !self.has(key, 0) { self.is_in_bucket(key, bytes) } else { Ok(false) }
    }

    /// Whether the bucket has so long an object, whatever is here of it. Asks for its last byte. Blocking.
    pub fn is_in_bucket(&self, key: &str, bytes: u64) -> Result<bool> {
        let Some(remote) = self.cache.remote().filter(|_| bytes > 0) else { return Ok(false) };
        match remote.wait_for(key, bytes - 1..bytes) {
            Ok(_) => Ok(true),
            Err(error) if error.code() == GONE => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Says that the bucket has an object that is here whole: it may go whenever room is needed.
    pub fn let_go(&self, key: &str) -> Result<()> {
        self.cache.take(key, &self.path(key))
    }

    /// The object's bytes, read.
    pub fn read(&self, key: &str) -> Result<Vec<u8>> {
        self.disk.read(&self.path(key)).map_err(|error| missing(key, error))
    }

    /// The length and CRC-32C of an object that is here whole, read piece by piece.
    pub fn checksum(&self, key: &str) -> Result<(u64, u32)> {
        let read = |file: Box<dyn RandomFile>| -> io::Result<(u64, u32)> {
            let (bytes, mut crc32c, mut piece) = (file.size()?, 0, vec![0; BUFFER_BYTES]);
            for at in (0..bytes).step_by(BUFFER_BYTES) {
                let length = usize::try_from(bytes - at).unwrap_or(BUFFER_BYTES).min(BUFFER_BYTES);
                file.read_at(at, &mut piece[..length])?;
                crc32c = crc32c::crc32c_append(crc32c, &piece[..length]);
            }
            Ok((bytes, crc32c))
        };
        self.disk.open(&self.path(key)).and_then(read).map_err(|error| missing(key, error))
    }

    /// Removes an object; one that is not there is removed already.
    pub fn remove(&self, key: &str) -> Result<()> {
        self.cache.remove(key)?;
        let path = self.path(key);
        if_there(self.disk.remove(&path)).context(|| format!("remove object {key}"))?;
        remove_dir_of(&*self.disk, &path);
        Ok(())
    }

    /// Keys and lengths of everything below a prefix of whole components, unfinished objects included.
    pub fn list(&self, prefix: &str) -> Result<Vec<(String, u64)>> {
        keys_below(&*self.disk, &self.root, prefix)
    }

    /// Everything there is in directories that can be listed, and why the others cannot.
    pub fn list_readable(&self) -> (Vec<(String, u64)>, Vec<Error>) {
        walk(&*self.disk, &self.root, "")
    }

    /// Bytes written into objects since the start.
    pub fn bytes_written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}

/// All files below a directory's folder, by their paths in the directory, and their lengths.
fn keys_below(disk: &dyn Disk, root: &Path, folder: &str) -> Result<Vec<(String, u64)>> {
    let (found, errors) = walk(disk, root, folder);
    errors.into_iter().next().map_or(Ok(found), Err)
}

/// Makes a directory and puts something into it, with which it is not empty: who removes empty ones may come between the two.
fn unless_removed<T>(put: impl Fn() -> io::Result<T>) -> io::Result<T> {
    match put() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => put(),
        done => done,
    }
}

/// A segment has a directory of its own, which goes with it where that is the last in it.
fn remove_dir_of(disk: &dyn Disk, path: &Path) {
    if let Some(dir) = path.parent().filter(|dir| dir.parent().is_some_and(|kind| kind.ends_with("segments"))) {
        let _ = disk.remove_dir(dir);
    }
}

/// Removes directories below one that have nothing in them, nor in those below them. Best effort.
fn remove_empty_below(disk: &dyn Disk, root: &Path) {
    for entry in disk.list(root).unwrap_or_default().into_iter().filter(|entry| entry.is_dir) {
        let dir = root.join(entry.name);
        remove_empty_below(disk, &dir);
        let _ = disk.remove_dir(&dir);
    }
}

/// The same of directories that can be listed, and why the others cannot.
fn walk(disk: &dyn Disk, root: &Path, folder: &str) -> (Vec<(String, u64)>, Vec<Error>) {
    let (mut found, mut errors) = (Vec::new(), Vec::new());
    let mut open = vec![folder.trim_end_matches('/').to_owned()];
    while let Some(key) = open.pop() {
        let path = if key.is_empty() { root.to_owned() } else { root.join(&key) };
        let entries = match if_there(disk.list(&path)) {
            Ok(entries) => entries.unwrap_or_default(),
            Err(error) => {
                errors.push(Error::reading(error).context(format!("list {}", path.display())));
                continue;
            }
        };
        for entry in entries {
            let below = if key.is_empty() { entry.name } else { format!("{key}/{}", entry.name) };
            if entry.is_dir { open.push(below) } else { found.push((below, entry.len)) }
        }
    }
    found.sort();
    (found, errors)
}

fn missing(key: &str, error: io::Error) -> Error {
    if error.kind() == io::ErrorKind::NotFound {
        return Error::corrupt(format!("object {key} is missing"))
            .with_hint("run `shoal check`; restore the data directory if the file was removed by hand");
    }
    Error::reading(error).context(format!("read object {key}"))
}

/// An object on its way; dropped without [`ObjectWriter::publish`] it leaves nothing.
pub struct ObjectWriter<'a> {
    tier: &'a Tier,
    /// Until it is placed.
    file: Option<Box<dyn DiskFile>>,
    path: PathBuf,
    temporary: PathBuf,
    buffer: Vec<u8>,
    bytes: u64,
    crc32c: u32,
    /// It is under its key, durably or not.
    shown: bool,
    published: bool,
    pace: Option<Pace>,
}

/// A bound on how quickly an object is written.
struct Pace {
    bytes_per_second: u64,
    began: Instant,
}

impl Pace {
    /// Waits until so many bytes are due.
    fn keep(&self, bytes: u64) {
        let due = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        if let Some(early) = due.checked_sub(self.began.elapsed()) {
            std::thread::sleep(early);
        }
    }
}

impl ObjectWriter<'_> {
    /// Bytes that were given to it so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes the object durable, but does not show it under its key yet: it can be looked at first.
    pub fn stage(mut self) -> Result<Staged> {
        let synced = self.flush().and_then(|()| self.file()?.sync());
        synced.context(|| format!("write object {}", self.path.display()))?;
        self.published = true;
        Ok(Staged {
            disk: self.tier.disk.clone(),
            path: self.path.clone(),
            temporary: self.temporary.clone(),
            bytes: self.bytes,
            crc32c: self.crc32c,
            shown: false,
            published: false,
        })
    }

    /// Makes the object durable under its key; gives its length and CRC-32C.
    pub fn publish(mut self) -> Result<(u64, u32)> {
        let done = self.put_in_place();
        done.context(|| format!("write object {}", self.path.display()))?;
        self.published = true;
        Ok((self.bytes, self.crc32c))
    }

    /// Shows the object under its key, not durably; gives its length and CRC-32C, and what makes it durable.
    pub fn place(mut self) -> Result<(u64, u32, Placed)> {
        let shown = self.flush().and_then(|()| self.tier.disk.rename(&self.temporary, &self.path));
        self.shown = shown.is_ok();
        let file = shown.and_then(|()| self.file.take().ok_or_else(placed_before));
        let file = file.context(|| format!("write object {}", self.path.display()))?;
        self.published = true;
        Ok((self.bytes, self.crc32c, Placed { file, path: self.path.clone() }))
    }

    fn file(&mut self) -> io::Result<&mut dyn DiskFile> {
        self.file.as_deref_mut().map_or_else(|| Err(placed_before()), |file| Ok(file as &mut dyn DiskFile))
    }

    fn put_in_place(&mut self) -> io::Result<()> {
        self.flush()?;
        self.file()?.sync()?;
        self.tier.disk.rename(&self.temporary, &self.path)?;
        self.shown = true;
        self.tier.disk.sync_dir(self.path.parent().unwrap_or(Path::new("/")))
    }
}

/// An object that is durable and not in its place; dropped without [`Staged::publish`] it leaves nothing.
pub struct Staged {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    temporary: PathBuf,
    bytes: u64,
    crc32c: u32,
    /// It is under its key, durably or not.
    shown: bool,
    published: bool,
}

impl Staged {
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub fn crc32c(&self) -> u32 {
        self.crc32c
    }

    /// Its bytes, mapped; the map stays good when the object is published.
    pub fn map(&self) -> Result<Mapping> {
        self.disk.map(&self.temporary).context(|| format!("map {}", self.temporary.display()))
    }

    /// Shows the object under its key, durably.
    pub fn publish(mut self) -> Result<()> {
        let parent = self.path.parent().unwrap_or(Path::new("/"));
        let done = self.disk.rename(&self.temporary, &self.path);
        self.shown = done.is_ok();
        done.and_then(|()| self.disk.sync_dir(parent)).context(|| format!("write object {}", self.path.display()))?;
        self.published = true;
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.published {
            // Best effort, as for an object on its way.
            let _ = self.disk.remove(&self.temporary);
            if self.shown {
                let _ = self.disk.remove(&self.path);
            }
            remove_dir_of(&*self.disk, &self.path);
        }
    }
}

fn placed_before() -> io::Error {
    io::Error::other("the object is under its key already")
}

impl Write for ObjectWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.crc32c = crc32c::crc32c_append(self.crc32c, bytes);
        self.bytes += bytes.len() as u64;
        self.tier.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if self.buffer.len() + bytes.len() > BUFFER_BYTES {
            self.flush()?;
        }
        if bytes.len() >= BUFFER_BYTES {
            self.file()?.write(bytes)?;
        } else {
            self.buffer.extend_from_slice(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if !self.buffer.is_empty() {
            let buffer = std::mem::take(&mut self.buffer);
            self.file()?.write(&buffer)?;
            self.buffer = buffer;
            self.buffer.clear();
            if let Some(pace) = &self.pace {
                pace.keep(self.bytes);
            }
        }
        Ok(())
    }
}

impl Drop for ObjectWriter<'_> {
    fn drop(&mut self) {
        if !self.published {
            // Best effort: a full disk needs the space back at once; leftovers are removed at the next start.
            let _ = self.tier.disk.remove(&self.temporary);
            if self.shown {
                let _ = self.tier.disk.remove(&self.path);
            }
            remove_dir_of(&*self.tier.disk, &self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::Path;
    use std::sync::Arc;

    use super::Tier;
    use crate::platform::disk::create_dirs;
    use crate::platform::memory_disk::MemoryDisk;
    use crate::platform::random::SeededRandom;

    pub(super) fn tier(disk: &MemoryDisk) -> Tier {
        create_dirs(disk, Path::new("/data")).unwrap();
        let [store, cache, coming, going] =
            ["store", "cache", "coming", "going"].map(|name| Path::new("/data").join(name));
        Tier::new(Arc::new(disk.clone()), store, cache, [coming, going], 0)
    }

    #[test]
    fn a_published_object_survives_a_power_cut_and_an_unpublished_one_leaves_nothing() {
        for seed in 0..20 {
            let disk = MemoryDisk::default();
            let tier = tier(&disk);
            let bytes = vec![7; 700_000];
            assert_eq!(tier.put("a/b/c", &bytes).unwrap(), (700_000, crc32c::crc32c(&bytes)));
            let mut unfinished = tier.create("a/b/d").unwrap();
            unfinished.write_all(b"half").unwrap();
            drop(unfinished);
            assert_eq!(tier.list("a").unwrap(), [("a/b/c".to_owned(), 700_000)]);
            disk.power_cut(&SeededRandom::new(seed));
            assert_eq!(tier.map("a/b/c", 700_000).unwrap()[..], bytes);
        }
    }

    #[test]
    fn a_paced_object_takes_its_time() {
        let tier = tier(&MemoryDisk::default());
        let began = std::time::Instant::now();
        let mut writer = tier.create_paced("a/b", 4 << 20).unwrap();
        for _ in 0..8 {
            writer.write_all(&[7; 100_000]).unwrap();
        }
        writer.publish().unwrap();
        assert!(began.elapsed().as_millis() >= 180, "800,000 bytes at 4 MiB a second in {:?}", began.elapsed());
    }

    #[test]
    fn an_object_that_is_not_there_is_named() {
        let tier = tier(&MemoryDisk::default());
        assert_eq!(tier.map("a/b", 3).unwrap_err().message(), "object a/b is missing");
        tier.put("a/b", b"four").unwrap();
        assert_eq!(tier.map("a/b", 3).unwrap_err().message(), "object a/b: 4 bytes, expected 3");
        tier.remove("a/b").unwrap();
        tier.remove("a/b").unwrap();
    }
}
