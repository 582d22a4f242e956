//! Names of the files in the directory of open logs, which all namespaces share: listed once at the start, and kept since. So what
//! one namespace needs of that directory costs the same however many others there are.
//!
//! Invariants:
//! - Nobody but this process makes files there: the data directory is locked.
//! - A name is here before its file is, and until after that is gone. A name without a file is passed over.

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::model::ids::Nsid;
use crate::platform::disk::{Disk, if_there};

/// Cloning shares it. Until it is filled the directory is listed every time.
#[derive(Clone, Debug, Default)]
pub struct OpenLogs(Arc<Mutex<Option<BTreeSet<String>>>>);

impl OpenLogs {
    /// Takes what the directory has at the start.
    pub fn fill(&self, disk: &dyn Disk, dir: &Path) -> io::Result<()> {
        let names = disk.names(dir)?.into_iter().collect();
        *self.lock() = Some(names);
        Ok(())
    }

    /// Files of an incarnation, unfinished ones included, in order of name.
    pub fn of(&self, disk: &dyn Disk, dir: &Path, nsid: Nsid) -> io::Result<Vec<String>> {
        let prefix = open_name(nsid, "");
        if let Some(names) = &*self.lock() {
            let from = names.range(prefix.clone()..);
            return Ok(from.take_while(|name| name.starts_with(&prefix)).cloned().collect());
        }
        let names = if_there(disk.names(dir))?.unwrap_or_default();
        Ok(names.into_iter().filter(|name| name.starts_with(&prefix)).collect())
    }

    /// A file is about to be made.
    pub fn begin(&self, name: &str) {
        if let Some(names) = &mut *self.lock() {
            names.insert(name.to_owned());
        }
    }

    /// A file was removed, or moved elsewhere.
    pub fn end(&self, name: &str) {
        if let Some(names) = &mut *self.lock() {
            names.remove(name);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<BTreeSet<String>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The name of an incarnation's log in the directory of open logs.
pub fn open_name(nsid: Nsid, name: &str) -> String {
    format!("{nsid}-{name}")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use uuid::Uuid;

    use super::{OpenLogs, open_name};
    use crate::model::ids::Nsid;
    use crate::platform::disk::{Disk, create_dirs};
    use crate::platform::memory_disk::MemoryDisk;

    #[test]
    fn the_directory_is_listed_once_and_each_incarnation_finds_its_own_files() {
        let (disk, dir) = (MemoryDisk::default(), Path::new("/data/log"));
        create_dirs(&disk, dir).unwrap();
        let nsids: Vec<Nsid> = (1..=3).map(|n| Nsid(Uuid::from_u128(n << 64))).collect();
        for nsid in &nsids {
            disk.create(&dir.join(open_name(*nsid, "a.wal"))).unwrap();
        }
        let (listing, filled) = (OpenLogs::default(), OpenLogs::default());
        filled.fill(&disk, dir).unwrap();
        filled.begin(&open_name(nsids[0], "b.wal"));
        filled.end(&open_name(nsids[2], "a.wal"));
        let before = disk.operations();
        let of = |logs: &OpenLogs, at: usize| logs.of(&disk, dir, nsids[at]).unwrap();
        assert_eq!(of(&filled, 0), [open_name(nsids[0], "a.wal"), open_name(nsids[0], "b.wal")]);
        assert_eq!(of(&filled, 1), [open_name(nsids[1], "a.wal")]);
        assert_eq!(of(&filled, 2), [""; 0]);
        assert_eq!(disk.operations(), before);
        assert_eq!(of(&listing, 2), [open_name(nsids[2], "a.wal")]);
    }
}
