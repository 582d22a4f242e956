//! Objects of the bucket that are here in part, within a bound on bytes.
//!
//! What is here of an object goes as a whole, by unlink, and only while nobody has it open. One that is always open is begun
//! anew: a fresh file takes the blocks over that are worth it, and who opens the object from then on uses that.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use roaring::RoaringBitmap;

use super::partial::Partial;
use super::remote::Remote;
use super::room::{Room, Wanted};
use super::{keys_below, remove_dir_of, remove_empty_below};
use crate::error::{Context as _, DISK_FULL, Error, Result};
use crate::format::ranges::{self, BLOCK_BYTES};
use crate::platform::disk::{Disk, create_dirs, if_there};
use crate::platform::mmap::{FULL, Mapping, TOO_SMALL};

/// The suffix of the file that says which blocks of the file beside it are here.
const MAP_SUFFIX: &str = ".here";

/// The file of an open object is begun anew if that frees one in so many of its bytes.
const WORTH_SHARE: u64 = 8;

/// When so many times of what may be here was read past it, files are begun anew: what queries want now is written then, and what
/// earlier ones wanted goes. Less often would miss more, more often would wear the disk out.
const STALE_TIMES: u64 = 8;

/// How long who needs room waits for others to give it back, each time.
const ROOM_WAIT: Duration = Duration::from_millis(250);

/// What all objects that are here in part have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) disk: Arc<dyn Disk>,
    root: PathBuf,
    pub(super) room: Room,
    remote: RwLock<Option<Remote>>,
    objects: Mutex<BTreeMap<String, Arc<Partial>>>,
    clock: AtomicU64,
    brought: AtomicU64,
    /// Of those, the ones for which there was no room since files were begun anew.
    past: AtomicU64,
    /// Bytes written again into files begun anew.
    carried: AtomicU64,
    /// Begun anew so often.
    renewals: AtomicU64,
}

impl Shared {
    pub(super) fn path(&self, key: &str) -> PathBuf {
        self.root.join(key)
    }

    pub(super) fn map_path(&self, key: &str) -> PathBuf {
        self.root.join(format!("{key}{MAP_SUFFIX}"))
    }

    pub(super) fn remote(&self) -> Option<Remote> {
        self.remote.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn tick(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn brought(&self, bytes: u64) {
        self.brought.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes came that are not kept.
    pub(super) fn read_past(&self, bytes: u64) {
        self.brought(bytes);
        self.past.fetch_add(bytes, Ordering::Relaxed);
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Partial>>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many bytes the disk lacks for so many more, those counted that are left alone.
    fn lacking_on_disk(&self, bytes: u64, wanted: Wanted) -> u64 {
        let (free, most) = (self.free_on_disk(), wanted.reserve());
        // Only where that is not there it depends on how large the disk is.
        let left_alone = if free >= bytes.saturating_add(most) { most } else { self.left_alone(wanted) };
        bytes.saturating_add(left_alone).saturating_sub(free)
    }

    fn left_alone(&self, wanted: Wanted) -> u64 {
        let all = self.of_disk(|disk, dir| disk.all_bytes(dir)).flatten();
        all.map_or(wanted.reserve(), |all| wanted.reserve_of(all))
    }

    fn free_on_disk(&self) -> u64 {
        self.of_disk(|disk, dir| disk.free_bytes(dir)).unwrap_or(u64::MAX)
    }

    fn of_disk<T>(&self, ask: impl Fn(&dyn Disk, &Path) -> io::Result<T>) -> Option<T> {
        // The directory is made with the first object in it.
        let said = ask(&*self.disk, &self.root);
        said.or_else(|_| ask(&*self.disk, self.root.parent().unwrap_or(&self.root))).ok()
    }

    /// Whether there is room for bytes that are wanted once. Objects that nobody has open go for it.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        let lacks = || {
            let excess = self.room.taken().saturating_add(bytes).saturating_sub(self.room.for_once());
            excess.max(self.lacking_on_disk(bytes, Wanted::Now))
        };
        let lacking = lacks();
        lacking == 0 || self.evict(lacking) > 0 && lacks() == 0
    }

    /// Fails where bytes of an object that are about to come would take what the disk is to have free. Objects that nobody has open
    /// go first.
    fn keep_reserve(&self, bytes: u64, key: &str, wanted: Wanted) -> Result<()> {
        if self.lacking_on_disk(bytes, wanted) > 0 {
            self.evict(bytes);
        }
        if self.lacking_on_disk(bytes, wanted) == 0 {
            return Ok(());
        }
        let free = self.free_on_disk();
        Err(Error::unavailable(format!(
            "no room for {bytes} bytes of {key}: the disk has {free} bytes free, and {} are left alone",
            self.left_alone(wanted)
        ))
        .with_code(DISK_FULL)
        .with_hint(
            "free some space: until then nothing more is fetched, and what was written here to namespaces of which something is to be fetched \
             is not sent; a bucket that is larger than the disk needs storage.tier_bytes_max",
        ))
    }

    /// Takes room for bytes of an object that are about to come. Objects that nobody has open go first.
    pub(super) fn make_room(&self, bytes: u64, key: &str, wanted: Wanted) -> Result<()> {
        let limit = self.room.limit();
        let bound = self.room.bound(wanted);
        self.keep_reserve(bytes, key, wanted)?;
        while !self.room.take_below(bytes, bound) {
            if bytes <= bound && self.evict(bytes) > 0 {
                continue;
            }
            let taken = self.room.taken();
            if bytes > bound || wanted == Wanted::Now && self.room.is_wide(bytes) {
                return Err(Error::unavailable(format!(
                    "{bytes} bytes of {key} are needed at once, and {taken} of the at most {limit} bytes here are taken"
                ))
                .with_code(TOO_SMALL)
                .with_hint("raise storage.tier_bytes_max, or ask for less at once"));
            }
            return Err(Error::unavailable(format!(
                "no room for {bytes} bytes of {key}: {taken} of at most {limit} bytes are taken by what is open"
            ))
            .with_code(FULL)
            .with_hint("ask again; if it stays, raise storage.tier_bytes_max"));
        }
        Ok(())
    }

    /// Lets go of objects that nobody has open, those used longest ago first, until so many bytes are free; gives how many went.
    fn evict(&self, bytes: u64) -> u64 {
        let mut objects = self.objects();
        let mut idle: Vec<Arc<Partial>> =
            objects.values().filter(|object| Arc::strong_count(object) == 1).cloned().collect();
        idle.sort_by_key(|object| object.last_used());
        let mut gone = 0;
        for object in idle {
            if gone >= bytes {
                break;
            }
            let here = object.bytes_here();
            match object.unlink() {
                Ok(()) => {
                    objects.remove(object.key());
                    gone += here;
                }
                Err(error) => tracing::warn!(%error, "what is here of an object stays"),
            }
        }
        gone
    }
}

/// The objects that are here in part.
#[derive(Debug)]
pub struct Cache {
    shared: Arc<Shared>,
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.shared.objects().clear();
    }
}

/// What is here in part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    pub objects: u64,
    /// What they take of the disk.
    pub bytes: u64,
    /// What they may take; 0 for no bound.
    pub bytes_max: u64,
    /// What was read from the bucket since the start.
    pub bytes_brought: u64,
    /// What was written again since the start, into files begun anew.
    pub bytes_carried: u64,
    /// How often the file of an open object was begun anew since the start.
    pub renewals: u64,
}

/// Objects whose files were begun anew.
#[derive(Default)]
pub struct Renewed {
    fresh: Vec<Arc<Partial>>,
}

impl Renewed {
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.fresh.iter().map(|object| object.key())
    }
}

impl Cache {
    /// Nothing is read yet; see [`Cache::reconcile`].
    pub fn new(disk: Arc<dyn Disk>, root: PathBuf, bytes_max: u64) -> Self {
        let shared = Shared {
            disk,
            root,
            room: Room::new(bytes_max),
            remote: RwLock::new(None),
            objects: Mutex::default(),
            clock: AtomicU64::new(0),
            brought: AtomicU64::new(0),
            past: AtomicU64::new(0),
            carried: AtomicU64::new(0),
            renewals: AtomicU64::new(0),
        };
        Cache { shared: Arc::new(shared) }
    }

    /// Says where missing bytes come from.
    pub fn attach(&self, remote: Remote) {
        *self.shared.remote.write().unwrap_or_else(PoisonError::into_inner) = Some(remote);
    }

    /// Whether there is a bucket to read from.
    pub fn is_attached(&self) -> bool {
        self.shared.remote().is_some()
    }

    pub(super) fn remote(&self) -> Option<Remote> {
        self.shared.remote()
    }

    /// What objects may take here; 0 when nothing bounds them.
    pub fn bytes_max(&self) -> u64 {
        self.shared.room.limit()
    }

    pub fn held(&self) -> Held {
        Held {
            objects: self.shared.objects().len() as u64,
            bytes: self.shared.room.taken(),
            bytes_max: self.shared.room.limit(),
            bytes_brought: self.shared.brought.load(Ordering::Relaxed),
            bytes_carried: self.shared.carried.load(Ordering::Relaxed),
            renewals: self.shared.renewals.load(Ordering::Relaxed),
        }
    }

    /// Finds what an earlier process left: objects whose maps say what is here are used, everything else goes.
    pub fn reconcile(&self) -> Result<()> {
        for (key, _) in keys_below(&*self.shared.disk, &self.shared.root, "")? {
            let path = self.shared.path(&key);
            let found = match key.strip_suffix(MAP_SUFFIX) {
                // It goes with the file that it is about.
                Some(object) if self.shared.disk.size(&self.shared.path(object)).is_ok() => continue,
                Some(_) => None,
                None => self.left(&key),
            };
            match found {
                Some(object) => {
                    self.shared.room.add(object.bytes_here());
                    self.shared.objects().insert(key, object);
                }
                None => {
                    if_there(self.shared.disk.remove(&path)).context(|| format!("remove {}", path.display()))?;
                }
            }
        }
        remove_empty_below(&*self.shared.disk, &self.shared.root);
        let (limit, taken) = (self.shared.room.limit(), self.shared.room.taken());
        if limit > 0 && taken > limit {
            self.shared.evict(taken - limit);
        }
        Ok(())
    }

    /// An object that an earlier process left, if its map can be read.
    fn left(&self, key: &str) -> Option<Arc<Partial>> {
        let path = self.shared.map_path(key);
        let bytes = self.shared.disk.read(&path).ok()?;
        let (bytes, here) = ranges::decode(&bytes, &path.display().to_string())
            .inspect_err(|error| tracing::warn!(%error, "what is here of an object is not known, it goes"))
            .ok()?;
        let size = self.shared.disk.size(&self.shared.path(key)).ok()?;
        (size == bytes).then(|| Partial::new(&self.shared, key, bytes, here).ok()).flatten()
    }

    /// How long an object is of which something is here.
    pub fn bytes_of(&self, key: &str) -> Option<u64> {
        self.shared.objects().get(key).map(|object| object.bytes())
    }

    /// The bytes of an object, mapped; those that are not here are read when they are wanted.
    pub fn open(&self, key: &str, bytes: u64) -> Result<Mapping> {
        let mut objects = self.shared.objects();
        let object = match objects.get(key) {
            Some(object) if object.bytes() == bytes => object.clone(),
            Some(object) => {
                return Err(Error::corrupt(format!("object {key}: {} bytes, expected {bytes}", object.bytes())));
            }
            None => {
                let object = Partial::new(&self.shared, key, bytes, RoaringBitmap::new())?;
                objects.insert(key.to_owned(), object.clone());
                object
            }
        };
        object.touch();
        self.map(object)
    }

    fn map(&self, object: Arc<Partial>) -> Result<Mapping> {
        let path = self.shared.path(object.key());
        let map = self.shared.disk.map_live(&path).context(|| format!("map {}", path.display()))?;
        Ok(map.filled_by(object))
    }

    /// Takes a whole file as an object of the bucket, which has it: from now on it may go at any time.
    pub fn take(&self, key: &str, whole: &Path) -> Result<()> {
        let mut objects = self.shared.objects();
        if objects.contains_key(key) {
            return if_there(self.shared.disk.remove(whole))
                .context(|| format!("remove {}", whole.display()))
                .map(drop);
        }
        let path = self.shared.path(key);
        let parent = path.parent().unwrap_or(&self.shared.root);
        let bytes = self.shared.disk.size(whole).context(|| format!("read {}", whole.display()))?;
        let mut here = RoaringBitmap::new();
        here.insert_range(0..ranges::blocks_of(bytes).unwrap_or(u32::MAX));
        let moved = create_dirs(&*self.shared.disk, parent)
            .and_then(|()| self.shared.disk.rename(whole, &path))
            .and_then(|()| self.shared.disk.sync_dir(parent))
            .and_then(|()| self.shared.disk.sync_dir(whole.parent().unwrap_or(Path::new("/"))));
        moved.context(|| format!("move {} to {}", whole.display(), path.display()))?;
        remove_dir_of(&*self.shared.disk, whole);
        self.shared.room.add(here.len() * BLOCK_BYTES);
        objects.insert(key.to_owned(), Partial::new(&self.shared, key, bytes, here)?);
        Ok(())
    }

    /// Whether the disk has so many bytes beside those that are left alone.
    pub fn has_reserve(&self, bytes: u64) -> bool {
        self.shared.lacking_on_disk(bytes, Wanted::Now) == 0
    }

    /// Makes the disk have them, for an object that is to be here whole; `disk_full` where it does not.
    pub fn keep_reserve(&self, bytes: u64, key: &str) -> Result<()> {
        self.shared.keep_reserve(bytes, key, Wanted::Now)
    }

    /// Lets go of objects that nobody has open until there is room for reading, or until none of them are left. Gives whether there
    /// is room.
    pub fn shrink(&self) -> bool {
        let excess = || self.shared.room.taken().saturating_sub(self.shared.room.for_reading());
        if excess() > 0 {
            self.shared.evict(excess());
        }
        excess() == 0
    }

    /// Lets go of all objects that nobody has open.
    pub fn clear(&self) {
        self.shared.evict(u64::MAX);
    }

    /// Whether so much was wanted for which there was no room that something else should be here.
    pub fn is_stale(&self) -> bool {
        let limit = self.shared.room.limit();
        limit > 0 && self.shared.past.load(Ordering::Relaxed) / STALE_TIMES >= limit
    }

    /// What may be taken when there is to be room for what queries want.
    pub fn relieved(&self) -> u64 {
        self.shared.room.for_once()
    }

    /// Waits a moment for others to give room back.
    pub fn wait_for_room(&self) {
        self.shared.room.wait(ROOM_WAIT);
    }

    /// Forgets an object that no state names any more.
    pub fn remove(&self, key: &str) -> Result<()> {
        let mut objects = self.shared.objects();
        if let Some(object) = objects.get(key) {
            object.unlink()?;
            objects.remove(key);
        }
        Ok(())
    }

    /// Begins the files of open objects anew but for `done`, each with the blocks that are worth it, those first of which most goes,
    /// until no more is taken than `target`. Whoever has one open opens it anew to let go of the old file. Fresh files stay while the
    /// result is held.
    pub fn renew(&self, target: u64, done: &BTreeSet<String>) -> Result<Renewed> {
        let mut objects = self.shared.objects();
        self.shared.past.store(0, Ordering::Relaxed);
        let limit = self.shared.room.limit();
        let is_due = |object: &&Arc<Partial>| Arc::strong_count(object) > 1 && !done.contains(object.key());
        let open = objects.values().filter(is_due);
        let mut open: Vec<(u64, RoaringBitmap, Arc<Partial>)> = open
            .map(|object| {
                let blocks = object.worth_keeping(u64::MAX);
                (object.bytes_here().saturating_sub(blocks.len() * BLOCK_BYTES), blocks, object.clone())
            })
            .collect();
        open.sort_by_key(|(goes, ..)| std::cmp::Reverse(*goes));
        let mut excess = self.shared.room.taken().saturating_sub(target);
        let mut renewed = Renewed::default();
        for (goes, mut blocks, old) in open {
            if excess == 0 || goes < old.bytes_here() / WORTH_SHARE {
                break;
            }
            let taken = self.shared.room.taken();
            let spare = limit.saturating_sub(taken);
            if blocks.len() * BLOCK_BYTES > spare {
                blocks = old.worth_keeping(spare);
            }
            let carried = blocks.len() * BLOCK_BYTES;
            // What was written here may take more than the bound until it is begun anew.
            let bound = if taken > limit { taken.saturating_add(carried) } else { limit };
            if !self.shared.room.take_below(carried, bound) {
                continue;
            }
            old.unlink()?;
            objects.remove(old.key());
            let made = Partial::new(&self.shared, old.key(), old.bytes(), RoaringBitmap::new());
            let made = made.and_then(|fresh| fresh.copy_from(&old, &blocks).map(|()| fresh));
            match made {
                Ok(fresh) => {
                    objects.insert(old.key().to_owned(), fresh.clone());
                    renewed.fresh.push(fresh);
                }
                Err(error) => {
                    self.shared.room.give_back(carried);
                    return Err(error);
                }
            }
            excess = excess.saturating_sub(goes);
            self.shared.renewals.fetch_add(1, Ordering::Relaxed);
            self.shared.carried.fetch_add(carried, Ordering::Relaxed);
        }
        Ok(renewed)
    }

    /// Writes down which blocks are here, so that the next process need not read them again.
    pub fn save(&self) -> Result<()> {
        let objects: Vec<Arc<Partial>> = self.shared.objects().values().cloned().collect();
        objects.iter().try_for_each(|object| object.save())
    }

    /// The same of these objects only.
    pub fn save_some<'a>(&self, keys: impl Iterator<Item = &'a String>) -> Result<()> {
        let objects: Vec<Arc<Partial>> = {
            let all = self.shared.objects();
            keys.filter_map(|key| all.get(key).cloned()).collect()
        };
        objects.iter().try_for_each(|object| object.save())
    }
}
