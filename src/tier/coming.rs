//! Objects on their way from the bucket: what came of one is kept when its way breaks off, and the next try goes on from there.
//!
//! Invariants:
//! - What came is the beginning of the object, in a file of its own; it moves under the object's key once it is whole.
//! - A crash may leave anything in that file, so who puts an object in place checks all of its bytes first.
//! - An object is begun only where all that is on its way fits, and the disk's reserve stays free beside it.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{BUFFER_BYTES, Tier, keys_below, remove_dir_of, remove_empty_below, unless_removed};
use crate::error::{Context as _, Error, Result};
use crate::platform::disk::{Disk, DiskFile, create_dirs, if_there};
use crate::platform::mmap::Mapping;

/// Of so many objects what came is kept; it is more only when states that are never fetched whole follow each other.
const KEPT_MAX: usize = 64;

/// What is on its way.
#[derive(Debug)]
pub(super) struct Coming {
    disk: Arc<dyn Disk>,
    root: PathBuf,
    /// Of each object that is being fetched how much is still to come.
    under_way: Mutex<BTreeMap<String, u64>>,
}

impl Coming {
    pub(super) fn new(disk: Arc<dyn Disk>, root: PathBuf) -> Self {
        Coming { disk, root, under_way: Mutex::default() }
    }

    fn under_way(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims an object for one fetch.
    fn claim(&self, key: &str, to_come: u64) -> Result<()> {
        match self.under_way().entry(key.to_owned()) {
            std::collections::btree_map::Entry::Occupied(_) => {
                Err(Error::busy(format!("object {key} is being fetched already")))
            }
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(to_come);
                Ok(())
            }
        }
    }

    fn bytes_to_come(&self) -> u64 {
        self.under_way().values().sum()
    }

    /// Lets go of what came of objects that are not being fetched now.
    fn forget(&self) -> Result<()> {
        for (key, _) in keys_below(&*self.disk, &self.root, "")? {
            if !self.under_way().contains_key(&key) {
                let path = self.root.join(&key);
                if_there(self.disk.remove(&path)).context(|| format!("remove {}", path.display()))?;
            }
        }
        remove_empty_below(&*self.disk, &self.root);
        Ok(())
    }
}

impl Tier {
    /// Begins an object of the bucket, or goes on with what is here of it. Unavailable with code `disk_full` where it does not fit.
    pub fn receive(&self, key: &str, bytes: u64) -> Result<Incoming<'_>> {
        let coming = &self.coming;
        let path = coming.root.join(key);
        let step = || format!("begin {}", path.display());
        let here = match if_there(coming.disk.size(&path)).context(step)? {
            Some(here) if here > bytes => {
                coming.disk.remove(&path).context(step)?;
                None
            }
            here => here,
        };
        coming.claim(key, bytes - here.unwrap_or(0))?;
        let claim = Claim { coming, key: key.to_owned() };
        if here.is_none() && keys_below(&*coming.disk, &coming.root, "")?.len() >= KEPT_MAX {
            coming.forget()?;
        }
        if !self.cache.has_reserve(coming.bytes_to_come()) {
            coming.forget()?;
        }
        self.cache.keep_reserve(coming.bytes_to_come(), key)?;
        let (file, crc32c) = match here {
            Some(_) => {
                let left = coming.disk.map(&path).context(step)?;
                (coming.disk.append(&path).context(step)?, crc32c::crc32c(&left))
            }
            None => {
                let create = || {
                    create_dirs(&*coming.disk, path.parent().unwrap_or(&coming.root))?;
                    coming.disk.create(&path)
                };
                (unless_removed(create).context(step)?, 0)
            }
        };
        let here = here.unwrap_or(0);
        Ok(Incoming { tier: self, claim, path, file, buffer: Vec::new(), here, crc32c, is_sound: true })
    }

    /// Forgets what came of objects that are not being fetched: nobody wants them any more.
    pub fn forget_coming(&self) -> Result<()> {
        self.coming.forget()
    }
}

/// An object that one fetch has for itself.
struct Claim<'a> {
    coming: &'a Coming,
    key: String,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        self.coming.under_way().remove(&self.key);
    }
}

/// An object on its way from the bucket; dropped without [`Incoming::publish`] it leaves what came of it.
pub struct Incoming<'a> {
    tier: &'a Tier,
    claim: Claim<'a>,
    path: PathBuf,
    file: Box<dyn DiskFile>,
    buffer: Vec<u8>,
    here: u64,
    crc32c: u32,
    /// Whether every write succeeded.
    is_sound: bool,
}

impl Incoming<'_> {
    /// How many bytes are here, from the object's first on.
    pub fn here(&self) -> u64 {
        self.here
    }

    /// Of what is here.
    pub fn crc32c(&self) -> u32 {
        self.crc32c
    }

    /// Takes the next bytes.
    pub fn take(&mut self, bytes: &[u8]) -> Result<()> {
        self.crc32c = crc32c::crc32c_append(self.crc32c, bytes);
        self.here += bytes.len() as u64;
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= BUFFER_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let written = self.file.write(&self.buffer);
        self.count(self.buffer.len() as u64);
        self.buffer.clear();
        self.note(written)
    }

    /// Counts bytes as written, and as not to come any more.
    fn count(&self, bytes: u64) {
        self.tier.written.fetch_add(bytes, Ordering::Relaxed);
        if let Some(left) = self.claim.coming.under_way().get_mut(&self.claim.key) {
            *left = left.saturating_sub(bytes);
        }
    }

    fn note<T>(&mut self, done: io::Result<T>) -> Result<T> {
        self.is_sound &= done.is_ok();
        done.context(|| format!("write object {}", self.claim.key))
    }

    /// Forgets what came: it is not the object's.
    pub fn begin_anew(&mut self) -> Result<()> {
        self.buffer.clear();
        (self.here, self.crc32c) = (0, 0);
        let cut = self.file.truncate(0);
        self.note(cut)
    }

    /// What is here, mapped.
    pub fn map(&mut self) -> Result<Mapping> {
        self.flush()?;
        let mapped = self.claim.coming.disk.map(&self.path);
        self.note(mapped)
    }

    /// Makes the object durable under its key.
    pub fn publish(mut self) -> Result<()> {
        self.flush()?;
        let done = self.put_in_place();
        self.note(done)
    }

    fn put_in_place(&mut self) -> io::Result<()> {
        let disk = &*self.claim.coming.disk;
        let path = self.tier.path(&self.claim.key);
        let parent = |path: &Path| path.parent().unwrap_or(Path::new("/")).to_owned();
        self.file.sync()?;
        // A name that is not durable cannot be moved durably.
        disk.sync_dir(&parent(&self.path))?;
        let place = || {
            create_dirs(disk, &parent(&path))?;
            disk.rename(&self.path, &path)
        };
        unless_removed(place)?;
        disk.sync_dir(&parent(&path))?;
        if_there(disk.sync_dir(&parent(&self.path)))?;
        remove_dir_of(disk, &self.path);
        Ok(())
    }
}

impl Drop for Incoming<'_> {
    fn drop(&mut self) {
        if self.is_sound && !self.buffer.is_empty() {
            // What cannot be written now is fetched again.
            let _ = self.flush();
        }
        if !self.is_sound {
            // Best effort: a full disk needs the space back at once, and nothing is written to a file after it failed.
            let _ = self.claim.coming.disk.remove(&self.path);
            remove_dir_of(&*self.claim.coming.disk, &self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::tests::tier;
    use super::KEPT_MAX;
    use crate::platform::disk::{Disk, create_dirs};
    use crate::platform::memory_disk::MemoryDisk;
    use crate::platform::random::SeededRandom;

    #[test]
    fn what_came_of_an_object_is_gone_on_with_and_is_under_its_key_once_it_is_whole() {
        let disk = MemoryDisk::default();
        let bytes = vec![7; 700_000];
        for (from, to) in [(0, 300_000), (300_000, 300_001), (300_001, 700_000)] {
            let tier = tier(&disk);
            let mut incoming = tier.receive("a/b", 700_000).unwrap();
            assert_eq!((incoming.here() as usize, incoming.crc32c()), (from, crc32c::crc32c(&bytes[..from])));
            bytes[from..to].chunks(1_000).for_each(|piece| incoming.take(piece).unwrap());
            assert!(!tier.has("a/b", 0));
            if to == bytes.len() {
                incoming.publish().unwrap();
            }
        }
        disk.power_cut(&SeededRandom::new(1));
        assert_eq!(tier(&disk).map("a/b", 700_000).unwrap()[..], bytes);
        assert_eq!(tier(&disk).receive("a/b", 700_000).unwrap().here(), 0, "nothing is left on its way");
    }

    #[test]
    fn an_object_is_fetched_by_one_at_a_time_and_what_failed_to_be_written_is_not_kept() {
        let disk = MemoryDisk::default();
        let tier = tier(&disk);
        let mut incoming = tier.receive("a/b", 1 << 20).unwrap();
        assert!(tier.receive("a/b", 1 << 20).is_err());
        incoming.take(&[7; 1_000]).unwrap();
        disk.leave_free(Some(0));
        assert!(incoming.take(&[7; 900_000]).is_err());
        drop(incoming);
        disk.leave_free(None);
        assert_eq!(tier.receive("a/b", 1 << 20).unwrap().here(), 0);
    }

    #[test]
    fn what_nobody_wants_any_more_goes() {
        let disk = MemoryDisk::default();
        let tier = tier(&disk);
        let mut wanted = tier.receive("wanted", 9).unwrap();
        for n in 0..KEPT_MAX {
            tier.receive(&format!("a/{n}"), 9).unwrap().take(b"came").unwrap();
        }
        assert!(disk.list(Path::new("/data/coming/a")).unwrap().len() < KEPT_MAX);
        tier.forget_coming().unwrap();
        assert_eq!(disk.names(Path::new("/data/coming")).unwrap(), ["wanted"]);
        wanted.take(b"whatever!").unwrap();
        wanted.publish().unwrap();
        assert!(tier.has("wanted", 9));
    }

    #[test]
    fn no_directory_stays_of_what_came_or_did_not() {
        let disk = MemoryDisk::default();
        let tier = tier(&disk);
        let key = |n: usize| format!("a/p/namespaces/x/segments/{n}/data.seg");
        for n in 0..3 {
            let mut incoming = tier.receive(&key(n), 9).unwrap();
            incoming.take(b"whatever!").unwrap();
            incoming.publish().unwrap();
            // One whose file is begun and not wanted in the end.
            drop(tier.create(&key(n + 10)).unwrap());
            tier.create(&key(n + 20)).unwrap().stage().map(drop).unwrap();
        }
        let segments = |root: &str| disk.list(&Path::new(root).join("a/p/namespaces/x/segments")).unwrap_or_default();
        assert_eq!((segments("/data/coming").len(), segments("/data/store").len()), (0, 3));
        // What an earlier release left.
        create_dirs(&disk, Path::new("/data/coming/b/p/namespaces/y/segments/1")).unwrap();
        tier.forget_coming().unwrap();
        assert_eq!(disk.list(Path::new("/data/coming")).unwrap(), []);
    }
}
