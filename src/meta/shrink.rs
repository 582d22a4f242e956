//! Gives back what the index's file has and does not need any more. redb gives back only what is free at the file's end, and what is
//! live there may stay for years.

use std::sync::atomic::Ordering;

use redb::Durability;

use super::Meta;
use super::access::caught;
use crate::error::Result;
use crate::platform::disk::if_there;

/// A file that is no longer is left as it is.
const SHRINK_ABOVE_BYTES: u64 = 8 << 20;
/// So much longer than what is in it a file may be.
const SLACK: u64 = 2;

impl Meta {
    /// Makes the file as long as what is in it needs, where something went and it is more than twice as long. Nothing else uses the
    /// index meanwhile. Gives the length before and after where it was made shorter.
    pub fn shrink(&self) -> Result<Option<(u64, u64)>> {
        if self.is_in_memory() {
            return Ok(None);
        }
        let length = || if_there(self.disk.size(&self.path)).map(Option::unwrap_or_default);
        let before = length()?;
        if before <= SHRINK_ABOVE_BYTES || !self.has_let_go.swap(false, Ordering::Relaxed) {
            return Ok(None);
        }
        if self.used_bytes()?.saturating_mul(SLACK) >= before {
            return Ok(None);
        }
        drop(self.opened()?);
        let mut held = self.alone();
        let Some(database) = held.as_mut().filter(|_| !self.closed.load(Ordering::SeqCst)) else { return Ok(None) };
        let compacted = caught(|| match database.compact() {
            Ok(_) => Ok(true),
            Err(redb::CompactionError::Storage(error)) => Err(error.into()),
            // Somebody holds a part of it, which nobody of ours does: there will be another time.
            Err(_) => Ok(false),
        });
        drop(held);
        match compacted.map_err(|error| self.give_up("shrink", error))? {
            true => Ok(Some((before, length()?))),
            false => Ok(None),
        }
    }

    /// What a file of all of it may take.
    pub fn file_bytes(&self) -> Result<u64> {
        Ok(self.used_bytes()?.saturating_mul(SLACK))
    }

    /// The bytes of all pages that are in use. What was let go of lazily counts until a commit after that is durable.
    fn used_bytes(&self) -> Result<u64> {
        self.write(Durability::Immediate, |_| Ok(()))?;
        self.with(|database| {
            let transaction = database.begin_write()?;
            let stats = transaction.stats()?;
            transaction.abort()?;
            Ok(stats.allocated_pages().saturating_mul(stats.page_size() as u64))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    use super::{Meta, SHRINK_ABOVE_BYTES};
    use crate::meta::{Facts, Head, ObjectFact};
    use crate::model::ids::Nsid;
    use crate::platform::disk::{Disk, create_dirs};
    use crate::platform::memory_disk::{Fault, MemoryDisk};
    use uuid::Uuid;

    const PATH: &str = "/data/meta.redb";

    fn nsid(n: u64) -> Nsid {
        Nsid(Uuid::from_u128(u128::from(n)))
    }

    /// An index that had much, and has little at the end of its file.
    fn emptied(disk: &Arc<dyn Disk>) -> Meta {
        create_dirs(&**disk, Path::new("/data")).unwrap();
        let (meta, _) = Meta::open(disk.clone(), PathBuf::from(PATH)).unwrap();
        meta.rebuild(&Facts::default()).unwrap();
        let head = Head { manifest: vec![7; 150_000], objects: Vec::new() };
        for n in 0..100 {
            meta.settle(nsid(n), Some(&head), &[]).unwrap();
        }
        meta.hold(&[ObjectFact { key: "a".into(), bytes: 10, crc32c: 1 }]).unwrap();
        // All of it in one go, and lazily, as retention does.
        for n in 0..99 {
            meta.settle(nsid(n), None, &[]).unwrap();
        }
        meta.keep(&[ObjectFact { key: "b".into(), bytes: 10, crc32c: 1 }]).unwrap();
        meta
    }

    #[test]
    fn a_file_that_is_mostly_empty_gets_short_and_says_what_it_said() {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
        let meta = emptied(&disk);
        let (before, after) = meta.shrink().unwrap().unwrap();
        assert!(before > 2 * SHRINK_ABOVE_BYTES && after < before / 4, "{before} {after}");
        assert_eq!(disk.size(Path::new(PATH)).unwrap(), after);
        assert_eq!(meta.shrink().unwrap(), None);
        assert_eq!(meta.manifest(nsid(99)).unwrap().unwrap().len(), 150_000);
        assert_eq!((meta.manifest(nsid(5)).unwrap(), meta.object_totals().unwrap()), (None, (2, 20)));
        meta.close(meta.is_trusted()).unwrap();
        let (meta, why) = Meta::open(disk, PathBuf::from(PATH)).unwrap();
        assert_eq!((why, meta.references("a").unwrap()), (None, 1));
    }

    #[test]
    fn a_disk_that_fails_meanwhile_costs_a_count_and_nothing_else() {
        for at in [0, 1, 2, 5, 20, 60] {
            let memory = MemoryDisk::default();
            let disk: Arc<dyn Disk> = Arc::new(memory.clone());
            let meta = emptied(&disk);
            let fault = Fault { at: memory.operations() + at, forever: false, kind: std::io::ErrorKind::StorageFull };
            memory.set_fault(Some(fault));
            let shrunk = meta.shrink();
            memory.set_fault(None);
            assert!(meta.is_trusted() || shrunk.is_err(), "operation {at}");
            assert_eq!(meta.manifest(nsid(99)).unwrap().unwrap().len(), 150_000, "operation {at}");
            assert_eq!(meta.references("a").unwrap(), 1, "operation {at}");
        }
    }
}
