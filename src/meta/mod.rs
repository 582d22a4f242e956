//! Local facts in redb: an index over the files, rebuilt from them when it is lost, never on the path of a document write.
//!
//! Invariants:
//! - A reference is counted durably before the manifest that names the object; everything else follows it lazily. So a
//!   count is never below the truth, and a crash can only leave counts that are too high.
//! - After an unclean stop, after any error of the database, and after an error of the disk that leaves open what there is to
//!   count, counts are not trusted: nothing may be reclaimed until [`Meta::rebuild`] has recounted them from the manifests.

mod access;
mod anew;
mod backend;
mod clock;
mod past;
mod references;
mod seal;
mod sealed;
mod shrink;
pub mod tables;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};

use redb::{Database, Durability, ReadableDatabase, ReadableTable, WriteTransaction};

use self::access::give_back;
use self::backend::open_database;
use self::references::{hold, release};
pub use self::sealed::KeptLog;
use self::tables::{Bound, COPIES, Kin, MANIFESTS, NAMES, OBJECTS, PINS, Past, STATE};
use crate::error::{Context, DISK_FULL, DISK_READ_ONLY, Error, Kind, Result};
use crate::model::ids::Nsid;
use crate::platform::disk::{Disk, unpublish};

/// What redb may keep of its file in memory.
const CACHE_BYTES: usize = 2 << 20;

/// The open index.
#[derive(Debug)]
pub struct Meta {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    /// Reads go on beside a write; alone is who opens or closes it.
    database: RwLock<Option<Database>>,
    trusted: AtomicBool,
    /// Some count may be too high: what it counts stays until all is counted anew.
    too_high: AtomicBool,
    /// It was opened anew since it was last rebuilt, and may have been begun anew.
    reopened: AtomicBool,
    /// It is in no file: the disk had no room for one.
    in_memory: AtomicBool,
    /// Something went since it was looked how much of the file is needed.
    has_let_go: AtomicBool,
    /// Nothing may change any more: what is left of the background must not follow a stop that counts as clean.
    closed: AtomicBool,
}

/// One object of the tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectFact {
    pub key: String,
    pub bytes: u64,
    pub crc32c: u32,
}

/// What a namespace's newest manifest says, as the index keeps it.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// The manifest's bytes as they are in its file.
    pub manifest: Vec<u8>,
    /// Every object that the manifest names.
    pub objects: Vec<ObjectFact>,
}

/// Everything the index is made from.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub names: BTreeMap<String, Bound>,
    pub heads: Vec<(Nsid, Head)>,
    /// What past states, tags and bases of merges name and no head of theirs does.
    pub beside_heads: Vec<ObjectFact>,
    pub pins: BTreeMap<String, u64>,
    /// How many holders each object has.
    pub references: BTreeMap<String, u64>,
    pub history: Vec<(Nsid, u64, Past)>,
    pub kin: Vec<(Nsid, Kin)>,
}

impl Meta {
    /// Opens the index, or begins an empty one where it is missing or damaged. The second value says why everything has to
    /// be rebuilt; `None` after a clean stop. On a full disk the file gives way, and the index is kept in memory if even that
    /// is not room enough: reads must be served, and everything in it can be had from the files.
    pub fn open(disk: Arc<dyn Disk>, path: PathBuf) -> Result<(Meta, Option<String>)> {
        let full = |error: &Error| [DISK_FULL, DISK_READ_ONLY].contains(&error.code());
        match Self::open_file(disk.clone(), &path) {
            Err(error) if full(&error) => {}
            opened => return opened,
        }
        remove(&*disk, &path)?;
        match Self::open_file(disk.clone(), &path) {
            Err(error) if full(&error) => {}
            opened => return opened,
        }
        // What stayed of the file must not be found at the next start.
        remove(&*disk, &path)?;
        let why = Some("the disk is full, it is kept in memory".to_owned());
        let begun = Self::begin(disk, path, anew::in_memory()?, why, (false, false))?;
        begun.0.in_memory.store(true, Ordering::SeqCst);
        Ok(begun)
    }

    fn open_file(disk: Arc<dyn Disk>, path: &Path) -> Result<(Meta, Option<String>)> {
        let (existed, is_sealed) = (disk.size(path).is_ok_and(|bytes| bytes > 0), seal::break_seal(&*disk, path));
        let anew = |error: Error| -> Result<(Database, Option<String>)> {
            remove(&*disk, path)?;
            let database = open_database(&*disk, path, false).context(|| format!("create {}", path.display()));
            Ok((database?, Some(format!("it is damaged ({})", error.message()))))
        };
        let (database, why) =
            open_database(&*disk, path, is_sealed).map_or_else(anew, |opened| Ok((opened, None)))?;
        match Self::begin(disk.clone(), path.to_owned(), database, why, (existed, is_sealed)) {
            // Every page of it was as it should be, and what is in them is not.
            Err(error) if existed && [Kind::Corrupt, Kind::Internal].contains(&error.kind()) => {
                let (database, why) = anew(error)?;
                Self::begin(disk.clone(), path.to_owned(), database, why, (false, false))
            }
            begun => begun,
        }
    }

    fn begin(
        disk: Arc<dyn Disk>,
        path: PathBuf,
        database: Database,
        why: Option<String>,
        (existed, is_sealed): (bool, bool),
    ) -> Result<(Meta, Option<String>)> {
        let meta = Meta {
            disk,
            path,
            database: RwLock::new(Some(database)),
            trusted: AtomicBool::new(false),
            too_high: AtomicBool::new(false),
            reopened: AtomicBool::new(false),
            in_memory: AtomicBool::new(false),
            has_let_go: AtomicBool::new(true),
            closed: AtomicBool::new(false),
        };
        let clean = meta.read(|transaction| match transaction.open_table(STATE) {
            Ok(table) => Ok(table.get(tables::CLEAN)?.is_some_and(|clean| clean.value() == 1)),
            Err(redb::TableError::TableDoesNotExist(_)) => Ok(false),
            Err(error) => Err(error.into()),
        })?;
        let why = match (why, existed, clean && is_sealed) {
            (Some(why), ..) => Some(why),
            (None, false, _) => Some("it is missing".to_owned()),
            (None, true, false) => Some("the last stop was not clean".to_owned()),
            (None, true, true) => None,
        };
        meta.with(access::begin)?;
        meta.trusted.store(why.is_none(), Ordering::SeqCst);
        Ok((meta, why))
    }

    /// Whether counts may decide that an object goes.
    pub fn is_trusted(&self) -> bool {
        self.trusted.load(Ordering::SeqCst)
    }

    /// Whether they are right. Otherwise they are to be made anew.
    pub fn is_exact(&self) -> bool {
        self.is_trusted() && !self.too_high.load(Ordering::SeqCst)
    }

    /// Some count may be too high. What is free by the others may go meanwhile.
    pub fn overcount(&self, why: &str) {
        if !self.too_high.swap(true, Ordering::SeqCst) {
            tracing::warn!(why, "references are counted anew, what these are of stays until then");
        }
    }

    /// Nobody knows whether counts are right: what was counted may not have come to be, or more has.
    pub fn distrust(&self, why: &str) {
        if self.trusted.swap(false, Ordering::SeqCst) {
            tracing::warn!(why, "references are counted anew, nothing is reclaimed until then");
        }
    }

    /// Counts one more reference to each object, durably. To be called before the manifest that names them is written.
    pub fn hold(&self, objects: &[ObjectFact]) -> Result<()> {
        self.unless_empty(objects, Durability::Immediate, |transaction| hold(transaction, objects))
    }

    /// Counts one more reference to each object that a manifest names. Lazy: lost by a crash, and then recounted.
    pub fn keep(&self, objects: &[ObjectFact]) -> Result<()> {
        self.unless_empty(objects, Durability::None, |transaction| hold(transaction, objects))
    }

    /// Where there is nothing to count there is no transaction to wait for.
    fn unless_empty<T>(
        &self,
        counted: &[T],
        durability: Durability,
        run: impl FnOnce(&WriteTransaction) -> Result<(), redb::Error>,
    ) -> Result<()> {
        if counted.is_empty() { Ok(()) } else { self.write(durability, run) }
    }

    /// Follows a manifest that is durable: its head, and the objects that it names no more. Gives those that
    /// nobody references now. Lazy: lost by a crash, and then recounted.
    pub fn settle(&self, nsid: Nsid, head: Option<&Head>, released: &[String]) -> Result<Vec<String>> {
        self.has_let_go.fetch_or(head.is_none(), Ordering::Relaxed);
        self.write(Durability::None, |transaction| {
            {
                let mut manifests = transaction.open_table(MANIFESTS)?;
                match head {
                    Some(head) => manifests.insert(nsid.0.as_bytes(), head.manifest.as_slice())?,
                    None => manifests.remove(nsid.0.as_bytes())?,
                };
            }
            release(transaction, released)
        })
    }

    /// Counts one reference less to each object; gives those that nobody references now. Lazy.
    pub fn release(&self, keys: &[String]) -> Result<Vec<String>> {
        self.write(Durability::None, |transaction| release(transaction, keys))
    }

    /// Follows a name binding that is durable, and what is known of an incarnation with it; `None` forgets that. Lazy.
    pub fn bind(&self, name: &str, bound: &Bound, known: Option<(Nsid, Option<Kin>)>) -> Result<()> {
        self.write(Durability::None, |transaction| {
            transaction.open_table(NAMES)?.insert(name, bound.encode().as_slice())?;
            known.map_or(Ok(()), |(nsid, kin)| past::put_kin(transaction, nsid, kin.as_ref()))
        })
    }

    /// Forgets a name, durably.
    pub fn unname(&self, name: &str) -> Result<()> {
        self.write(Durability::Immediate, |transaction| {
            transaction.open_table(NAMES)?.remove(name)?;
            Ok(())
        })
    }

    /// Follows a pin that is durable in `node.json`; `None` removes it.
    pub fn pin(&self, name: &str, since_ms: Option<u64>) -> Result<()> {
        self.write(Durability::None, |transaction| {
            let mut table = transaction.open_table(PINS)?;
            match since_ms {
                Some(since) => table.insert(name, since)?,
                None => table.remove(name)?,
            };
            Ok(())
        })
    }

    /// Keeps a copy of `node.json`, durably; a rebuild leaves it as it is. To be called before the file is written.
    pub fn keep_node(&self, bytes: &[u8]) -> Result<()> {
        if self.node()?.as_deref() == Some(bytes) {
            return Ok(());
        }
        self.write(Durability::Immediate, |transaction| {
            transaction.open_table(COPIES)?.insert(tables::NODE, bytes)?;
            Ok(())
        })
    }

    /// [`Meta::node`] of an index that nobody has open; `None` where it cannot be read.
    pub fn read_node(disk: &dyn Disk, path: &Path) -> Option<Vec<u8>> {
        // Opening creates what is missing.
        disk.size(path).ok().filter(|bytes| *bytes > 0)?;
        let database = open_database(disk, path, false).ok()?;
        let transaction = database.begin_read().ok()?;
        let table = transaction.open_table(COPIES).ok()?;
        table.get(tables::NODE).ok()?.map(|bytes| bytes.value().to_vec())
    }

    /// The copy of `node.json`, never older than the file.
    pub fn node(&self) -> Result<Option<Vec<u8>>> {
        self.read(|transaction| {
            Ok(transaction.open_table(COPIES)?.get(tables::NODE)?.map(|bytes| bytes.value().to_vec()))
        })
    }

    /// All bindings, tombstones included.
    pub fn names(&self) -> Result<BTreeMap<String, Bound>> {
        self.read(|transaction| {
            let mut names = BTreeMap::new();
            for row in transaction.open_table(NAMES)?.iter()? {
                let (name, bound) = row?;
                if let Some(bound) = Bound::decode(bound.value()) {
                    names.insert(name.value().to_owned(), bound);
                }
            }
            Ok(names)
        })
    }

    /// The manifest last seen of an incarnation; the newest one after a clean stop.
    pub fn manifest(&self, nsid: Nsid) -> Result<Option<Vec<u8>>> {
        self.read(|transaction| {
            Ok(transaction.open_table(MANIFESTS)?.get(nsid.0.as_bytes())?.map(|bytes| bytes.value().to_vec()))
        })
    }

    /// Whether references were ever counted from the files into this index: then no count is below the truth, trusted or not.
    pub fn was_counted(&self) -> Result<bool> {
        self.read(|transaction| {
            Ok(transaction.open_table(STATE)?.get(tables::COUNTED)?.is_some_and(|counted| counted.value() == 1))
        })
    }

    /// How many objects of how many bytes the catalogue has.
    pub fn object_totals(&self) -> Result<(u64, u64)> {
        self.read(|transaction| {
            let (mut objects, mut bytes) = (0, 0);
            for row in transaction.open_table(OBJECTS)?.iter()? {
                objects += 1;
                bytes += row?.1.value().0;
            }
            Ok((objects, bytes))
        })
    }

    /// Nothing may be written afterwards. Where that is not `clean`, the next start makes everything anew.
    pub fn close(&self, clean: bool) -> Result<()> {
        let mut is_marked = false;
        if clean {
            self.with(|database| {
                // Who decided that it is clean may not have seen what was begun anew just then.
                is_marked = !self.reopened.load(Ordering::SeqCst);
                access::write(database, Durability::Immediate, |transaction| {
                    transaction.open_table(STATE)?.insert(tables::CLEAN, u64::from(is_marked))?;
                    if is_marked { sealed::vouch(transaction) } else { Ok(()) }
                })
            })?;
        }
        self.closed.store(true, Ordering::SeqCst);
        let is_whole = give_back(self.alone().take());
        if is_marked && is_whole {
            seal::seal(&*self.disk, &self.path);
        }
        Ok(())
    }
}

impl Drop for Meta {
    fn drop(&mut self) {
        give_back(self.alone().take());
    }
}

/// Durably: what the index forgot must not be in what a power cut brings back.
fn remove(disk: &dyn Disk, path: &Path) -> Result<()> {
    unpublish(disk, path).context(|| format!("remove {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    use super::tables::Bound;
    use super::{Facts, Head, Meta, ObjectFact};
    use crate::model::ids::Nsid;
    use crate::platform::disk::{Disk, create_dirs};
    use crate::platform::memory_disk::{Fault, MemoryDisk};
    use crate::platform::random::SeededRandom;
    use uuid::Uuid;

    const NSID: Nsid = Nsid(Uuid::from_u128(5));

    fn disk() -> Arc<dyn Disk> {
        let disk = MemoryDisk::default();
        create_dirs(&disk, Path::new("/data")).unwrap();
        Arc::new(disk)
    }

    fn open(disk: &Arc<dyn Disk>) -> (Meta, Option<String>) {
        Meta::open(disk.clone(), PathBuf::from("/data/meta.redb")).unwrap()
    }

    fn object(key: &str) -> ObjectFact {
        ObjectFact { key: key.into(), bytes: 10, crc32c: 1 }
    }

    #[test]
    fn an_object_is_free_when_its_last_reference_goes() {
        let disk = disk();
        let (meta, _) = open(&disk);
        let keys = ["a".to_owned(), "b".to_owned()];
        meta.hold(&[object("a"), object("b")]).unwrap();
        meta.hold(&[object("a")]).unwrap();
        let head = Head { manifest: vec![1], objects: vec![object("a")] };
        assert_eq!(meta.settle(NSID, Some(&head), &keys).unwrap(), ["b"]);
        assert_eq!(meta.references("a").unwrap(), 1);
        assert_eq!(meta.settle(NSID, None, &keys[..1]).unwrap(), ["a"]);
    }

    #[test]
    fn everything_is_there_again_after_a_clean_stop_and_not_trusted_after_another() {
        let disk = disk();
        let (meta, why) = open(&disk);
        assert_eq!(why.as_deref(), Some("it is missing"));
        let head = Head { manifest: vec![7; 9], objects: vec![object("a")] };
        let bound = Bound { rev: 3, target: Some(NSID) };
        let facts = Facts {
            names: [("a/b/c".to_owned(), bound.clone())].into(),
            heads: vec![(NSID, head)],
            pins: [("a/b/c".to_owned(), 4)].into(),
            references: [("a".to_owned(), 1)].into(),
            ..Facts::default()
        };
        meta.rebuild(&facts).unwrap();
        assert!(meta.is_trusted());
        meta.close(meta.is_trusted()).unwrap();
        let (meta, why) = open(&disk);
        assert_eq!((why, meta.is_trusted()), (None, true));
        assert_eq!(meta.names().unwrap(), [("a/b/c".to_owned(), bound)].into());
        assert_eq!(meta.manifest(NSID).unwrap(), Some(vec![7; 9]));
        assert_eq!(meta.references("a").unwrap(), 1);
        drop(meta);
        let (meta, why) = open(&disk);
        assert_eq!((why.as_deref(), meta.is_trusted()), (Some("the last stop was not clean"), false));
    }

    #[test]
    fn a_disk_that_is_full_at_any_moment_of_the_opening_keeps_nobody_from_reading() {
        let mut in_memory = 0;
        for at in 0..200 {
            let memory = MemoryDisk::default();
            create_dirs(&memory, Path::new("/data")).unwrap();
            let disk: Arc<dyn Disk> = Arc::new(memory.clone());
            let (meta, _) = open(&disk);
            let bound = Bound { rev: 3, target: Some(NSID) };
            let names = [("a/b/c".to_owned(), bound)].into();
            meta.rebuild(&Facts { names, ..Facts::default() }).unwrap();
            meta.close(meta.is_trusted()).unwrap();
            let fault = Fault { at: memory.operations() + at, forever: false, kind: std::io::ErrorKind::StorageFull };
            memory.set_fault(Some(fault));
            let (meta, why) = open(&disk);
            memory.set_fault(None);
            assert_eq!(meta.is_trusted(), why.is_none(), "operation {at}");
            assert!(why.is_some() || meta.names().unwrap().len() == 1, "operation {at}");
            in_memory += usize::from(why.is_some_and(|why| why.contains("memory")));
            meta.hold(&[object("a")]).unwrap();
            drop(meta);
            assert!(!open(&disk).0.is_trusted(), "operation {at}: the stop was not clean");
        }
        assert_eq!(in_memory, 0, "there was room for a new file");
    }

    #[test]
    fn an_index_of_nothing_can_be_read() {
        let disk = disk();
        let (meta, _) = open(&disk);
        meta.rebuild(&Facts::default()).unwrap();
        assert_eq!(meta.object_totals().unwrap(), (0, 0));
        assert!(meta.names().unwrap().is_empty() && meta.manifest(NSID).unwrap().is_none());
        assert!(meta.history(NSID).unwrap().is_empty() && meta.all_kin().unwrap().is_empty());
        assert!(meta.all_references().unwrap().is_empty() && meta.is_trusted());
    }

    #[test]
    fn a_sum_that_is_not_right_costs_a_look_at_every_page_and_a_count() {
        let memory = MemoryDisk::default();
        create_dirs(&memory, Path::new("/data")).unwrap();
        let disk: Arc<dyn Disk> = Arc::new(memory.clone());
        let (meta, _) = open(&disk);
        let objects: Vec<ObjectFact> = (0..2_000).map(|n| object(&format!("{n:0100}"))).collect();
        meta.rebuild(&Facts::default()).unwrap();
        meta.hold(&objects).unwrap();
        meta.close(true).unwrap();
        let sum = Path::new("/data/meta.sum");
        let sealed = disk.read(sum).unwrap();
        assert_eq!(sealed.len(), 12);
        let mut looked_at = Vec::new();
        for bytes in [Some(sealed.clone()), None, Some(Vec::new()), Some(vec![0; 12])] {
            let _ = disk.remove(sum);
            if let Some(bytes) = bytes {
                disk.create(sum).unwrap().write(&bytes).unwrap();
            }
            let before = memory.operations();
            let (meta, why) = open(&disk);
            looked_at.push(memory.operations() - before);
            let expected = (looked_at.len() > 1).then(|| "the last stop was not clean".to_owned());
            assert_eq!((why, meta.references(&objects[7].key).unwrap()), (expected, 1));
            meta.close(true).unwrap();
            assert_eq!(disk.read(sum).unwrap()[..8], disk.size(Path::new("/data/meta.redb")).unwrap().to_le_bytes());
        }
        let most = looked_at[1..].iter().min().unwrap();
        assert!(looked_at[0] + 50 < *most, "operations of each opening: {looked_at:?}");
    }

    #[test]
    fn what_was_begun_anew_is_not_what_it_was_after_a_power_cut() {
        for seed in 0..20 {
            let memory = MemoryDisk::default();
            create_dirs(&memory, Path::new("/data")).unwrap();
            let disk: Arc<dyn Disk> = Arc::new(memory.clone());
            let (meta, _) = open(&disk);
            let bound = Bound { rev: 3, target: None };
            meta.rebuild(&Facts { names: [("a/b/c".to_owned(), bound)].into(), ..Facts::default() }).unwrap();
            drop(meta);
            // It cannot be read once.
            let path = Path::new("/data/meta.redb");
            disk.random_access(path).unwrap().write_at(0, &[0; 4_096]).unwrap();
            let (meta, why) = open(&disk);
            assert!(why.is_some());
            meta.unname("a/b/c").unwrap();
            drop((meta, disk));
            memory.power_cut(&SeededRandom::new(seed));
            let disk: Arc<dyn Disk> = Arc::new(memory.mounted());
            let (meta, _) = open(&disk);
            assert_eq!(meta.names().unwrap(), BTreeMap::new(), "seed {seed}");
        }
    }

    #[test]
    fn a_damaged_file_is_begun_anew() {
        let disk = disk();
        let (meta, _) = open(&disk);
        meta.hold(&[object("a")]).unwrap();
        meta.close(meta.is_trusted()).unwrap();
        let path = Path::new("/data/meta.redb");
        let bytes = disk.read(path).unwrap();
        for (from, to, fill) in [(0, 64, 0xff), (0, bytes.len(), 0), (4_096, 16_384, 0xa5)] {
            let file = disk.random_access(path).unwrap();
            file.write_at(0, &bytes).unwrap();
            file.write_at(from as u64, &vec![fill; to.min(bytes.len()) - from]).unwrap();
            drop(file);
            let (meta, why) = open(&disk);
            assert!(why.is_some());
            meta.hold(&[object("b")]).unwrap();
            meta.close(meta.is_trusted()).unwrap();
        }
        for len in [0, 1, 100, 4_096, bytes.len() as u64 / 2] {
            let file = disk.random_access(path).unwrap();
            file.set_len(0).unwrap();
            file.set_len(bytes.len() as u64).unwrap();
            file.write_at(0, &bytes).unwrap();
            file.set_len(len).unwrap();
            drop(file);
            let (meta, why) = open(&disk);
            assert!(why.is_some(), "{len}");
            meta.close(meta.is_trusted()).unwrap();
        }
    }
}
