//! The machine's file system behind [`Disk`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::Path;

use super::disk::{Disk, DiskFile, Entry, RandomFile};
use super::mmap::Mapping;

/// Documents are for the daemon's user only, whatever the umask of who starts it.
const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;

#[derive(Debug, Default)]
pub struct RealDisk;

impl Disk for RealDisk {
    fn create(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(OpenOptions::new().append(true).create_new(true).mode(FILE_MODE).open(path)?))
    }

    fn append(&self, path: &Path) -> io::Result<Box<dyn DiskFile>> {
        Ok(Box::new(OpenOptions::new().append(true).open(path)?))
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        fs::read(path)
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn RandomFile>> {
        Ok(Box::new(File::open(path)?))
    }

    fn map(&self, path: &Path) -> io::Result<Mapping> {
        Mapping::of_file(&File::open(path)?)
    }

    fn map_live(&self, path: &Path) -> io::Result<Mapping> {
        // Maps are shared, and see what is written to their files.
        self.map(path)
    }

    fn size(&self, path: &Path) -> io::Result<u64> {
        Ok(fs::metadata(path)?.len())
    }

    #[cfg(target_os = "linux")]
    fn is_filled(&self, path: &Path) -> bool {
        File::open(path).is_ok_and(|dir| has_entry(&dir))
    }

    #[cfg(not(target_os = "linux"))]
    fn is_filled(&self, path: &Path) -> bool {
        fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_some())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        fs::remove_dir(path)
    }

    fn create_dir(&self, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().mode(DIR_MODE).create(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                // Its length would cost a look at it.
                entries.push(Entry { name: entry.file_name().to_string_lossy().into_owned(), is_dir: true, len: 0 });
                continue;
            }
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                // Removed between the listing and the look at it.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let is_dir = metadata.is_dir();
            entries.push(Entry {
                name: entry.file_name().to_string_lossy().into_owned(),
                is_dir,
                len: if is_dir { 0 } else { metadata.len() },
            });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn names(&self, path: &Path) -> io::Result<Vec<String>> {
        let names = fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let mut names = names.collect::<io::Result<Vec<String>>>()?;
        names.sort_unstable();
        Ok(names)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Send + Sync>> {
        let file = File::open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(file)),
            Err(fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let stat = stat_fs(path)?;
        Ok(stat.f_bavail * stat.f_frsize)
    }

    fn all_bytes(&self, path: &Path) -> io::Result<Option<u64>> {
        let stat = stat_fs(path)?;
        Ok(Some(stat.f_blocks * stat.f_frsize))
    }

    fn free_files(&self, path: &Path) -> io::Result<Option<u64>> {
        let stat = stat_fs(path)?;
        // File systems that make inodes as they need them say that they have none at all.
        Ok((stat.f_files > 0).then_some(stat.f_favail))
    }

    fn random_access(&self, path: &Path) -> io::Result<Box<dyn RandomFile>> {
        Ok(Box::new(
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(FILE_MODE).open(path)?,
        ))
    }
}

fn stat_fs(path: &Path) -> io::Result<libc::statvfs> {
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: all-zero bytes are a valid `statvfs`.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `path` is NUL-terminated and `stat` is writable; both outlive the call.
    match unsafe { libc::statvfs(path.as_ptr(), &mut stat) } {
        0 => Ok(stat),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Whether a directory has an entry. The standard library's listing fetches 32 KiB of entries for its first one; in a directory
/// of a thousand namespaces that costs as much as everything else in making another.
#[cfg(target_os = "linux")]
fn has_entry(dir: &File) -> bool {
    /// Room for "." and ".." and one name of any length, aligned as `linux_dirent64` is.
    #[repr(align(8))]
    struct Buffer([u8; 512]);
    let mut buffer = Buffer([0; 512]);
    loop {
        // SAFETY: `dir` is open, and `buffer` is writable for as many bytes as are said.
        let filled =
            unsafe { libc::syscall(libc::SYS_getdents64, dir.as_raw_fd(), buffer.0.as_mut_ptr(), buffer.0.len()) };
        let Some(filled) = usize::try_from(filled).ok().filter(|filled| *filled > 0) else { return false };
        if any_name(&buffer.0[..filled], |name| name != b"." && name != b"..") {
            return true;
        }
    }
}

/// Whether any of the entries that `getdents64` gave has such a name.
#[cfg(target_os = "linux")]
fn any_name(mut entries: &[u8], is_wanted: impl Fn(&[u8]) -> bool) -> bool {
    // The inode and the offset, 8 bytes each, the entry's length, its type, and its name up to a zero.
    while let Some(entry) = entries.get(16..18).and_then(|length| {
        let length = usize::from(u16::from_ne_bytes([length[0], length[1]]));
        entries.split_at_checked(length).filter(|_| length > 19)
    }) {
        let name = entry.0[19..].split(|byte| *byte == 0).next().unwrap_or_default();
        if is_wanted(name) {
            return true;
        }
        entries = entry.1;
    }
    false
}

impl DiskFile for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_data()
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.set_len(len)
    }
}

impl RandomFile for File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        File::set_len(self, len)
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(out, offset)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::RealDisk;
    use crate::platform::disk::Disk;

    #[test]
    fn what_is_made_is_for_its_user_only() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &std::path::Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let (below, file, index) = (dir.path().join("d"), dir.path().join("d/f"), dir.path().join("d/i"));
        RealDisk.create_dir(&below).unwrap();
        RealDisk.create(&file).unwrap();
        RealDisk.random_access(&index).unwrap();
        assert_eq!((mode(&below), mode(&file), mode(&index)), (0o700, 0o600, 0o600));
    }

    #[test]
    fn a_directory_is_filled_by_anything_in_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made");
        assert!(!RealDisk.is_filled(&path), "it is not there");
        fs::create_dir(&path).unwrap();
        assert!(!RealDisk.is_filled(&path));
        for name in ["a".to_owned(), "..a".to_owned(), "n".repeat(255)] {
            fs::write(path.join(&name), b"").unwrap();
            assert!(RealDisk.is_filled(&path), "{name}");
            fs::remove_file(path.join(&name)).unwrap();
            assert!(!RealDisk.is_filled(&path), "{name} is gone");
        }
        fs::create_dir(path.join("below")).unwrap();
        assert!(RealDisk.is_filled(&path));
        assert!(!RealDisk.is_filled(&dir.path().join("made/below/no")));
        fs::write(dir.path().join("file"), b"").unwrap();
        assert!(!RealDisk.is_filled(&dir.path().join("file")));
    }
}
