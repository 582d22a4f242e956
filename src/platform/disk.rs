//! The file system as Shoal uses it: the one seam through which disk faults are injected.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::mmap::Mapping;

/// A file system. Nothing written is durable until it is synced; no name is durable until its directory is.
pub trait Disk: Send + Sync + fmt::Debug {
    /// Creates a file for appending. Fails with `AlreadyExists` when the name is taken.
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// Opens an existing file for appending at its end.
    fn append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>>;
    /// The whole file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>>;
    /// An existing file for reading at offsets; nothing is written to it.
    fn open(&self, path: &Path) -> io::Result<Box<dyn RandomFile>>;
    /// The whole file, mapped. Only for files that never change any more.
    fn map(&self, path: &Path) -> io::Result<Mapping>;
    /// The same of a file that has its full length and is filled while it is mapped: what is written to it at offsets is seen.
    fn map_live(&self, path: &Path) -> io::Result<Mapping>;
    /// The file's length in bytes; `NotFound` when there is none.
    fn size(&self, path: &Path) -> io::Result<u64>;
    /// Renames, replacing what is there.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Removes an empty directory.
    fn remove_dir(&self, path: &Path) -> io::Result<()>;
    fn create_dir(&self, path: &Path) -> io::Result<()>;
    /// Makes the directory's entries durable: creations, renames and removals in it.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// The directory's entries, sorted by name.
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>>;
    /// Names of the directory's entries, sorted: without a look at each.
    fn names(&self, path: &Path) -> io::Result<Vec<String>> {
        Ok(self.list(path)?.into_iter().map(|entry| entry.name).collect())
    }
    /// Whether there is a directory with anything in it, without reading all of it.
    fn is_filled(&self, path: &Path) -> bool;
    /// Takes the exclusive lock of a directory; `WouldBlock` when another holds it. Held until dropped.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>>;
    /// Bytes an unprivileged writer may still use on the file system of `path`.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
    /// How many bytes the file system of a path has in all; `None` where nobody knows.
    fn all_bytes(&self, _path: &Path) -> io::Result<Option<u64>> {
        Ok(None)
    }
    /// Files and directories that may still be made there; `None` where nothing but bytes bounds them.
    fn free_files(&self, _path: &Path) -> io::Result<Option<u64>> {
        Ok(None)
    }
    /// A file for reading and writing at any offset, created when absent: redb's, a file that is read again before it is put
    /// in place, and objects of the bucket that are here in parts.
    fn random_access(&self, path: &Path) -> io::Result<Box<dyn RandomFile>>;
}

/// A file that is appended to.
pub trait DiskFile: Send {
    /// Appends all of `bytes`, or fails; after a failure any part of them may be in the file.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Makes everything written so far durable, its length included. After a failure nothing written since the last
    /// success may be trusted, and the file must not be written again (fsyncgate: Rebello et al., ATC 2020).
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts the file to `len` bytes.
    fn truncate(&mut self, len: u64) -> io::Result<()>;
}

/// A file that is read and written at offsets.
pub trait RandomFile: Send + Sync + fmt::Debug {
    fn size(&self) -> io::Result<u64>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Fills `out` from `offset`, or fails.
    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()>;
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;
    fn sync(&self) -> io::Result<()>;
}

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub name: String,
    pub is_dir: bool,
    /// The file's length; 0 for directories.
    pub len: u64,
}

/// The suffix of files that are not in place yet; any that a crash left over may be removed at start.
pub const TEMPORARY_SUFFIX: &str = ".tmp";

/// What was done with a file or a directory; `None` when it is not there.
pub fn if_there<T>(done: io::Result<T>) -> io::Result<Option<T>> {
    match done {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        done => done.map(Some),
    }
}

/// Puts a whole file in place, durably: temporary file, sync, rename, sync of the directory. Afterwards a crash finds
/// all of it; a crash before finds nothing, or the file that was there before.
pub fn publish(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> io::Result<()> {
    try_publish(disk, path, bytes).map_err(|failed| failed.error)
}

/// Why a file was not published.
#[derive(Debug)]
pub struct Unpublished {
    pub error: io::Error,
    /// It may be in place all the same. Otherwise it failed before it came to that: nobody sees anything of it, after a crash neither.
    pub may_be_there: bool,
}

/// [`publish`], that says what is known of the file afterwards.
pub fn try_publish(disk: &dyn Disk, path: &Path, bytes: &[u8]) -> Result<(), Unpublished> {
    let Some(parent) = path.parent() else {
        let error = io::Error::new(io::ErrorKind::InvalidInput, format!("{} is not a file's path", path.display()));
        return Err(Unpublished { error, may_be_there: false });
    };
    let (temporary, mut may_be_there) = (temporary(path), false);
    let result = (|| {
        take_away(disk, &temporary)?;
        let mut file = disk.create(&temporary)?;
        file.write(bytes)?;
        file.sync()?;
        may_be_there = true;
        disk.rename(&temporary, path)?;
        disk.sync_dir(parent)
    })();
    result.map_err(|error| {
        // Best effort: a full disk needs the space back at once; what stays is removed at the next start.
        let _ = disk.remove(&temporary);
        Unpublished { error, may_be_there }
    })
}

/// Removes a file where there is one. What a removal that failed leaves is looked at: where no file is left that is no error.
pub fn take_away(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    match if_there(disk.remove(path)) {
        Err(error) if !matches!(if_there(disk.size(path)), Ok(None)) => Err(error),
        _ => Ok(()),
    }
}

/// The name of a file that is not in place yet.
pub fn temporary(path: &Path) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(TEMPORARY_SUFFIX);
    path.into()
}

/// Takes back a file whose publishing failed, which may be in place all the same: afterwards it is not there, and no crash
/// brings it back. After an error nobody knows.
pub fn unpublish(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    take_away(disk, path)?;
    // Where it is gone already, an earlier removal may not be durable.
    disk.sync_dir(path.parent().unwrap_or(Path::new("/")))
}

/// Creates a directory and its missing ancestors, each durable in its parent.
///
/// Needs no memory of what was synced: a directory that has something in it was made durable before that was put there. An
/// empty one may have been left by a crash, or by a sync that failed, and is synced once more.
pub fn create_dirs(disk: &dyn Disk, path: &Path) -> io::Result<()> {
    if disk.is_filled(path) {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_dirs(disk, parent)?;
    }
    let was_there = match disk.create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => true,
        made => made.map(|()| false)?,
    };
    match parent.map_or(Ok(()), |parent| disk.sync_dir(parent)) {
        // Somebody else made it, in a directory of theirs.
        Err(error) if was_there && error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
        synced => synced,
    }
}
