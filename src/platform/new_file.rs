//! A file of any length that appears under its name when all of it is there; [`super::disk::publish`] is for short ones.

use std::fmt;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::disk::{Disk, DiskFile, RandomFile, TEMPORARY_SUFFIX, if_there};

/// A file on its way; dropped without [`NewFile::keep`] it leaves what was there before.
pub struct NewFile {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    temporary: PathBuf,
    file: Box<dyn DiskFile>,
    bytes: u64,
    kept: bool,
}

impl NewFile {
    /// Begins a file beside `path`; what an earlier attempt left there goes.
    pub fn create(disk: Arc<dyn Disk>, path: &Path) -> io::Result<Self> {
        let mut name = path.as_os_str().to_owned();
        name.push(TEMPORARY_SUFFIX);
        let temporary = PathBuf::from(name);
        if_there(disk.remove(&temporary))?;
        let file = disk.create(&temporary)?;
        Ok(NewFile { disk, path: path.to_owned(), temporary, file, bytes: 0, kept: false })
    }

    /// Reads what was written so far, from its start.
    pub fn read(&self) -> io::Result<impl Read + use<>> {
        let file = self.disk.random_access(&self.temporary)?;
        Ok(Again { file, at: 0, end: self.bytes })
    }

    /// Puts it in place, durably. After an error it is in place whole, or what was there before is.
    pub fn keep(mut self) -> io::Result<()> {
        let parent = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        self.file.sync()?;
        self.disk.rename(&self.temporary, &self.path)?;
        self.kept = true;
        self.disk.sync_dir(parent.unwrap_or(Path::new(".")))
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)?;
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.kept {
            // Best effort: what is not whole is of no use, and the next attempt removes it.
            let _ = self.disk.remove(&self.temporary);
        }
    }
}

impl fmt::Debug for NewFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewFile").field("path", &self.path).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// A file read from its start to where its writer is.
struct Again {
    file: Box<dyn RandomFile>,
    at: u64,
    end: u64,
}

impl Read for Again {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let size = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(out.len());
        self.file.read_at(self.at, &mut out[..size])?;
        self.at += size as u64;
        Ok(size)
    }
}
