//! A disk in memory that knows what is durable: it can lose power, and fail any operation.
//!
//! What a power cut leaves:
//! - of a file's bytes, what was synced; each 512-byte sector written since is there, or not, at random, and so is its
//!   new length;
//! - of names, what was synced with their directory; each creation, rename and removal since is there, or not, at
//!   random. A rename happens whole or not at all, as on a journalling file system.

mod file;
mod mishap;
mod room;

use std::collections::BTreeMap;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use self::file::OpenFile;
use self::mishap::{Act, Harm, On};
pub use self::mishap::{Mishap, MishapKind};
use super::disk::{Disk, DiskFile, Entry, RandomFile};
use super::mmap::{LiveBytes, Mapping};
use super::random::Random;

const SECTOR_BYTES: usize = 512;

/// Cloning shares the disk.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk {
    state: Arc<Mutex<State>>,
    /// The life it was mounted in, when it was.
    life: Option<u64>,
}

#[derive(Debug, Default)]
struct State {
    names: BTreeMap<PathBuf, Node>,
    durable_names: BTreeMap<PathBuf, Node>,
    /// Changes of names since their directory was synced, oldest first.
    unsynced: Vec<Change>,
    files: Vec<Content>,
    locked: Vec<PathBuf>,
    /// What all files together may have.
    capacity: Option<u64>,
    /// How many files and directories there may be.
    names_max: Option<u64>,
    operations: u64,
    written_bytes: u64,
    barriers: u64,
    entries_listed: u64,
    fault: Option<Fault>,
    mishap: Option<Mishap>,
    /// What happened, of what was planned.
    happened: Vec<String>,
    unreadable: Option<PathBuf>,
    /// Raised by every power cut: files opened before are dead.
    life: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Node {
    Dir,
    File(usize),
}

#[derive(Clone, Debug)]
enum Change {
    Insert(PathBuf, Node),
    Remove(PathBuf),
    Rename(PathBuf, PathBuf, Node),
}

#[derive(Clone, Debug, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Where the two may differ: from the first byte on, and before the second.
    changed: Option<(usize, usize)>,
    /// What those see who mapped it while it is filled.
    live: Weak<LiveBytes>,
}

impl Content {
    fn change(&mut self, from: usize, to: usize) {
        let (first, last) = self.changed.unwrap_or((from, to));
        self.changed = Some((first.min(from), last.max(to)));
    }

    fn resize(&mut self, len: usize) {
        self.change(len.min(self.now.len()), len.max(self.now.len()));
        self.now.resize(len, 0);
    }

    fn make_durable(&mut self) {
        let Some((from, to)) = self.changed.take() else { return };
        let to = to.min(self.now.len());
        self.durable.resize(self.now.len(), 0);
        if from < to {
            self.durable[from..to].copy_from_slice(&self.now[from..to]);
        }
        debug_assert!(self.durable == self.now, "a change was not marked");
    }
}

/// Which operations fail, and how.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    /// The operation's number, from 0 since the disk was made.
    pub at: u64,
    /// All operations from there on fail, not only this one.
    pub forever: bool,
    pub kind: io::ErrorKind,
}

impl MemoryDisk {
    /// How many operations were asked for so far.
    pub fn operations(&self) -> u64 {
        self.state().operations
    }

    /// How many bytes were written into files so far.
    pub fn written_bytes(&self) -> u64 {
        self.state().written_bytes
    }

    /// How many of them were syncs of a file or a directory.
    pub fn barriers(&self) -> u64 {
        self.state().barriers
    }

    /// How many entries of directories were listed so far.
    pub fn entries_listed(&self) -> u64 {
        self.state().entries_listed
    }

    pub fn set_fault(&self, fault: Option<Fault>) {
        self.state().fault = fault;
    }

    /// Lets one operation go wrong, once; nothing is planned any more with `None`.
    pub fn set_mishap(&self, mishap: Option<Mishap>) {
        self.state().mishap = mishap;
    }

    /// What is still to go wrong.
    pub fn planned(&self) -> Option<Mishap> {
        self.state().mishap.clone()
    }

    /// What went wrong since this was asked last, of what was planned.
    pub fn take_happened(&self) -> Vec<String> {
        std::mem::take(&mut self.state().happened)
    }

    /// Another disk that holds the same.
    pub fn duplicate(&self) -> MemoryDisk {
        let state = self.state();
        let copy = State {
            names: state.names.clone(),
            durable_names: state.durable_names.clone(),
            unsynced: state.unsynced.clone(),
            files: state.files.clone(),
            ..State::default()
        };
        MemoryDisk { state: Arc::new(Mutex::new(copy)), life: None }
    }

    /// Cuts the power: afterwards the disk holds what a machine might find at its next start. Open files and locks are
    /// gone; so is any fault.
    pub fn power_cut(&self, random: &dyn Random) {
        let mut state = self.state();
        let coin = || random.next_u64() & 1 == 0;
        let mut names = std::mem::take(&mut state.durable_names);
        for change in std::mem::take(&mut state.unsynced) {
            if coin() {
                apply(&mut names, &change);
            }
        }
        for content in &mut state.files {
            if content.changed.take().is_none() {
                continue;
            }
            let mut found = content.durable.clone();
            if content.now != content.durable {
                let (short, long) = (content.durable.len().min(content.now.len()), content.now.len());
                let len = match random.next_u64() % 3 {
                    0 => content.durable.len(),
                    1 => long,
                    _ => short + usize::try_from(random.next_u64()).unwrap_or(0) % (long.max(short) - short + 1),
                };
                found.resize(len, 0);
                for start in (0..len).step_by(SECTOR_BYTES) {
                    let end = (start + SECTOR_BYTES).min(len).min(content.now.len());
                    if start < end && coin() {
                        found[start..end].copy_from_slice(&content.now[start..end]);
                    }
                }
            }
            content.now.clone_from(&found);
            content.durable = found;
            content.live = Weak::new();
        }
        state.names = names.clone();
        state.durable_names = names;
        state.locked.clear();
        state.fault = None;
        state.mishap = None;
        state.life += 1;
    }

    /// The disk as one process has it: the next power cut takes it away, whatever the process has still under way.
    pub fn mounted(&self) -> MemoryDisk {
        MemoryDisk { state: self.state.clone(), life: Some(self.state().life) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one operation, which fails when a fault says so, or does harm.
    fn operation(&self, act: Act, on: On<'_>) -> io::Result<(MutexGuard<'_, State>, Harm)> {
        let mut state = self.state();
        if self.life.is_some_and(|life| life != state.life) {
            return Err(io::Error::other("the power was cut"));
        }
        let number = state.operations;
        state.operations += 1;
        match state.fault {
            Some(fault) if number == fault.at || (fault.forever && number > fault.at) => {
                Err(io::Error::new(fault.kind, format!("injected at operation {number}")))
            }
            _ => {
                let harm = state.harm(act, on, number)?;
                Ok((state, harm))
            }
        }
    }

    fn open(&self, state: &State, file: usize) -> OpenFile {
        OpenFile { disk: self.clone(), file, life: state.life }
    }
}

impl State {
    /// What is in a directory, in the order of names.
    fn inside<'a>(&'a self, path: &'a Path) -> io::Result<impl Iterator<Item = (&'a PathBuf, &'a Node)>> {
        if !is_root(path) && self.names.get(path) != Some(&Node::Dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let below = self
            .names
            .range::<Path, _>((Bound::Included(path), Bound::Unbounded))
            .take_while(move |(name, _)| name.starts_with(path));
        Ok(below.filter(move |(name, _)| name.parent() == Some(path)))
    }

    fn file(&self, path: &Path) -> io::Result<usize> {
        match self.names.get(path) {
            Some(Node::File(file)) => Ok(*file),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.names, &change);
        self.unsynced.push(change);
    }

    fn check_parent(&self, path: &Path) -> io::Result<()> {
        match path.parent() {
            Some(parent) if !is_root(parent) && self.names.get(parent) != Some(&Node::Dir) => {
                Err(io::ErrorKind::NotFound.into())
            }
            _ => Ok(()),
        }
    }

    fn create(&mut self, path: &Path) -> io::Result<usize> {
        self.check_parent(path)?;
        self.check_names()?;
        self.files.push(Content::default());
        let file = self.files.len() - 1;
        self.change(Change::Insert(path.to_owned(), Node::File(file)));
        Ok(file)
    }
}

fn is_root(path: &Path) -> bool {
    path.as_os_str().is_empty() || path == Path::new("/")
}

/// Applies a change where it still makes sense: a rename moves the file it was about, or nothing where that is not there.
fn apply(names: &mut BTreeMap<PathBuf, Node>, change: &Change) {
    match change {
        Change::Insert(path, node) => {
            names.insert(path.clone(), *node);
        }
        Change::Remove(path) => {
            names.remove(path);
        }
        Change::Rename(from, to, node) => {
            if names.get(from) == Some(node) {
                names.remove(from);
                names.insert(to.clone(), *node);
            }
        }
    }
}

fn touches(change: &Change, dir: &Path) -> bool {
    let within = |path: &Path| path.parent() == Some(dir);
    match change {
        Change::Insert(path, _) | Change::Remove(path) => within(path),
        Change::Rename(from, to, _) => within(from) || within(to),
    }
}

impl Disk for MemoryDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let (mut state, harm) = self.operation(Act::Change, On::Path(path))?;
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let file = state.create(path)?;
        harm.told(())?;
        Ok(Box::new(self.open(&state, file)))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        let (state, _) = self.operation(Act::Look, On::Path(path))?;
        Ok(Box::new(self.open(&state, state.file(path)?)))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let (state, harm) = self.operation(Act::Read, On::Path(path))?;
        let mut bytes = state.files[state.file(path)?].now.clone();
        harm.spoil(&mut bytes);
        Ok(bytes)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn RandomFile>> {
        let (state, _) = self.operation(Act::Look, On::Path(path))?;
        let file = state.file(path)?;
        Ok(Box::new(OpenFile { disk: self.clone(), file, life: state.life }))
    }

    fn map(&self, path: &Path) -> io::Result<Mapping> {
        Ok(Mapping::of_bytes(self.read(path)?))
    }

    fn map_live(&self, path: &Path) -> io::Result<Mapping> {
        let (mut state, _) = self.operation(Act::Look, On::Path(path))?;
        let file = state.file(path)?;
        let Content { live: known, now, .. } = &mut state.files[file];
        let live = known.upgrade().unwrap_or_else(|| Arc::new(LiveBytes::new(now)));
        *known = Arc::downgrade(&live);
        Ok(Mapping::of_live(live))
    }

    fn size(&self, path: &Path) -> io::Result<u64> {
        let (state, _) = self.operation(Act::Look, On::Path(path))?;
        Ok(state.files[state.file(path)?].now.len() as u64)
    }

    fn is_filled(&self, path: &Path) -> bool {
        let begun = self.operation(Act::Look, On::Path(path));
        begun.is_ok_and(|(state, _)| state.inside(path).is_ok_and(|mut inside| inside.next().is_some()))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (mut state, harm) = self.operation(Act::Change, On::Path(from))?;
        let node = Node::File(state.file(from)?);
        state.check_parent(to)?;
        state.change(Change::Rename(from.to_owned(), to.to_owned(), node));
        harm.told(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let (mut state, harm) = self.operation(Act::Change, On::Path(path))?;
        state.file(path)?;
        state.change(Change::Remove(path.to_owned()));
        harm.told(())
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        let (mut state, harm) = self.operation(Act::Change, On::Path(path))?;
        if state.names.get(path) != Some(&Node::Dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        if state.names.keys().any(|name| name.parent() == Some(path)) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        state.change(Change::Remove(path.to_owned()));
        harm.told(())
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        let (mut state, harm) = self.operation(Act::Change, On::Path(path))?;
        if state.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        state.check_parent(path)?;
        state.check_names()?;
        state.change(Change::Insert(path.to_owned(), Node::Dir));
        harm.told(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let (mut state, harm) = self.operation(Act::Change, On::Path(path))?;
        state.barriers += 1;
        if !is_root(path) && state.names.get(path) != Some(&Node::Dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let (synced, unsynced) = std::mem::take(&mut state.unsynced).into_iter().partition(|c| touches(c, path));
        state.unsynced = unsynced;
        let synced: Vec<Change> = synced;
        for change in &synced {
            apply(&mut state.durable_names, change);
        }
        harm.told(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let (mut state, _) = self.operation(Act::Look, On::Path(path))?;
        let found: Vec<Entry> = state
            .inside(path)?
            .filter_map(|(name, node)| {
                let name = name.file_name()?.to_string_lossy().into_owned();
                Some(match node {
                    Node::Dir => Entry { name, is_dir: true, len: 0 },
                    Node::File(file) => Entry { name, is_dir: false, len: state.files[*file].now.len() as u64 },
                })
            })
            .collect();
        state.entries_listed += found.len() as u64;
        Ok(found)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let (mut state, _) = self.operation(Act::Look, On::Path(path))?;
        if state.locked.iter().any(|locked| locked == path) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        state.locked.push(path.to_owned());
        Ok(Box::new(Lock { disk: self.clone(), path: path.to_owned(), life: state.life }))
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let (state, _) = self.operation(Act::Look, On::Path(path))?;
        drop(state.inside(path)?);
        Ok(state.free_bytes())
    }

    fn free_files(&self, _: &Path) -> io::Result<Option<u64>> {
        Ok(self.state().free_names())
    }

    fn random_access(&self, path: &Path) -> io::Result<Box<dyn RandomFile>> {
        let (mut state, _) = self.operation(Act::Look, On::Path(path))?;
        let file = match state.file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => state.create(path)?,
            found => found?,
        };
        Ok(Box::new(self.open(&state, file)))
    }
}

struct Lock {
    disk: MemoryDisk,
    path: PathBuf,
    life: u64,
}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut state = self.disk.state();
        if state.life == self.life {
            state.locked.retain(|locked| *locked != self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use super::{Fault, MemoryDisk};
    use crate::platform::disk::{Disk, create_dirs, publish};
    use crate::platform::random::SeededRandom;

    #[test]
    fn what_was_published_survives_every_power_cut() {
        for seed in 0..100 {
            let disk = MemoryDisk::default();
            create_dirs(&disk, Path::new("/data/a")).unwrap();
            publish(&disk, Path::new("/data/a/file"), b"first").unwrap();
            publish(&disk, Path::new("/data/a/file"), b"second").unwrap();
            disk.power_cut(&SeededRandom::new(seed));
            assert_eq!(disk.read(Path::new("/data/a/file")).unwrap(), b"second");
        }
    }

    #[test]
    fn a_crash_at_any_operation_leaves_the_old_file_or_the_new_one() {
        let path = Path::new("/data/file");
        for at in 0.. {
            let disk = MemoryDisk::default();
            create_dirs(&disk, Path::new("/data")).unwrap();
            publish(&disk, path, b"old").unwrap();
            disk.set_fault(Some(Fault { at: disk.operations() + at, forever: true, kind: io::ErrorKind::Other }));
            let result = publish(&disk, path, b"new");
            disk.power_cut(&SeededRandom::new(at));
            let found = disk.read(path).unwrap();
            assert!(found == b"old" || found == b"new", "operation {at}: {found:?}");
            if result.is_ok() {
                assert_eq!(found, b"new");
                return;
            }
        }
    }

    #[test]
    fn a_directory_whose_sync_failed_is_synced_before_anything_is_put_into_it() {
        let dir = Path::new("/data/a/b");
        for (at, seed) in (0..12).flat_map(|at| (0..20).map(move |seed| (at, seed))) {
            let disk = MemoryDisk::default();
            create_dirs(&disk, Path::new("/data")).unwrap();
            publish(&disk, Path::new("/data/here"), b"").unwrap();
            disk.set_fault(Some(Fault { at: disk.operations() + at, forever: true, kind: io::ErrorKind::Other }));
            let _ = create_dirs(&disk, dir);
            // The process ends, the next one finds what is there.
            disk.set_fault(None);
            create_dirs(&disk, dir).unwrap();
            publish(&disk, &dir.join("file"), b"kept").unwrap();
            disk.power_cut(&SeededRandom::new(seed));
            assert_eq!(disk.read(&dir.join("file")).unwrap(), b"kept", "operation {at}");
        }
    }

    #[test]
    fn unsynced_bytes_and_names_are_lost_in_some_power_cuts_and_kept_in_others() {
        let (mut lost_name, mut lost_bytes, mut kept) = (0, 0, 0);
        for seed in 0..200 {
            let disk = MemoryDisk::default();
            let mut file = disk.create(Path::new("/file")).unwrap();
            file.write(b"bytes").unwrap();
            disk.power_cut(&SeededRandom::new(seed));
            match disk.read(Path::new("/file")) {
                Err(_) => lost_name += 1,
                Ok(bytes) if bytes == b"bytes" => kept += 1,
                Ok(_) => lost_bytes += 1,
            }
            assert!(file.write(b"more").is_err(), "a file outlived the power cut");
        }
        assert!(lost_name > 20 && lost_bytes > 20 && kept > 5, "{lost_name} {lost_bytes} {kept}");
    }
}
