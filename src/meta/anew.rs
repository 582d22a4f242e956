//! Makes the whole index of what the files say, and finds room for it on a disk that is full: what is let go of is found by the index
//! only, so without one a full disk would stay full.
//!
//! Steps: in the place of what it says, which stays until all of the new is durable. Where the disk has no room for both, the file goes
//! first, and the new one has its room. Where that is not enough, either, the index is in memory until it is made anew the next time.
//! A crash leaves an index that says of itself that it is to be made anew, or none.

use std::sync::atomic::Ordering;

use redb::{
    Database, Durability, Key, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, Value,
    WriteTransaction,
};

use super::access::{self, caught, give_back, make_tables};
use super::backend::{from_redb, open_database};
use super::references::write_objects;
use super::tables::{
    self, COPIES, DEADLINES, HISTORY, KIN, MANIFESTS, NAMES, OBJECTS, PINS, REFERENCES, SEALED, STATE,
};
use super::{CACHE_BYTES, Facts, Meta, remove, sealed};
use crate::error::{DISK_FULL, Error, Result};

/// What of the index no file has.
#[derive(Default)]
struct Kept {
    copies: Vec<(String, Vec<u8>)>,
    deadlines: Vec<([u8; 16], (u64, i64))>,
    sealed: Vec<(String, (u64, u64, u32))>,
    state: Vec<(String, u64)>,
}

impl Meta {
    /// Makes the whole index of what the files say and trusts it. Nothing may commit a manifest since `facts` were read. A full disk
    /// keeps nobody from it.
    pub fn rebuild(&self, facts: &Facts) -> Result<()> {
        let in_place = if self.is_in_memory() { None } else { Some(self.rebuild_in_place(facts)) };
        match in_place {
            Some(Err(error)) if error.code() == DISK_FULL => {
                tracing::warn!(%error, "the disk has no room for the index beside what it was until now, which goes first");
                self.rebuild_alone(facts)
            }
            Some(done) => done,
            None => self.rebuild_alone(facts),
        }
    }

    fn rebuild_in_place(&self, facts: &Facts) -> Result<()> {
        self.with(|database| {
            access::write(database, Durability::Immediate, |transaction| fill(transaction, facts))?;
            // Before anybody can give up what was written, and begin anew.
            self.made();
            Ok(())
        })
    }

    /// The same without the file that is there. Nobody reads meanwhile.
    fn rebuild_alone(&self, facts: &Facts) -> Result<()> {
        let mut held = self.alone();
        if self.closed.load(Ordering::SeqCst) {
            return Err(Error::unavailable("the index is closed, the daemon is stopping"));
        }
        self.trusted.store(false, Ordering::SeqCst);
        let before = held.take().or_else(|| open_database(&*self.disk, &self.path, false).ok());
        let kept = before.map(|database| {
            let kept = caught(|| Kept::read(&database)).unwrap_or_default();
            give_back(Some(database));
            kept
        });
        let kept = kept.unwrap_or_default();
        remove(&*self.disk, &self.path)?;
        let opened = open_database(&*self.disk, &self.path, false);
        let (database, is_in_memory) = match opened.and_then(|database| filled(database, facts, &kept)) {
            Ok(database) => (database, false),
            Err(error) => {
                // What stayed of the file must not be found at the next start.
                remove(&*self.disk, &self.path)?;
                tracing::warn!(%error, "the index is kept in memory until the disk has room for it");
                (filled(in_memory()?, facts, &kept)?, true)
            }
        };
        *held = Some(database);
        self.in_memory.store(is_in_memory, Ordering::SeqCst);
        self.made();
        Ok(())
    }

    /// Takes the index into memory as it is, and lets its file go: for who frees room on a disk that has none. Whether it did; not where it
    /// was in memory already.
    pub fn give_way(&self) -> Result<bool> {
        let mut held = self.alone();
        if self.is_in_memory() || self.closed.load(Ordering::SeqCst) {
            return Ok(false);
        }
        // One that failed is not looked at: it is opened anew by who needs it, and made anew.
        let Some(database) = held.as_ref() else { return Ok(false) };
        let copy = in_memory()?;
        caught(|| copy_all(database, &copy)).map_err(|error| error.context("take the index into memory"))?;
        // Where the file cannot be removed it is met again by the next start, which finds that its stop was not clean.
        let removed = remove(&*self.disk, &self.path);
        self.in_memory.store(true, Ordering::SeqCst);
        give_back(held.replace(copy));
        removed.map(|()| true)
    }

    fn made(&self) {
        self.trusted.store(true, Ordering::SeqCst);
        self.too_high.store(false, Ordering::SeqCst);
        self.reopened.store(false, Ordering::SeqCst);
        self.has_let_go.store(true, Ordering::Relaxed);
    }

    /// Whether nothing of the index is on the disk, which had no room for it.
    pub fn is_in_memory(&self) -> bool {
        self.in_memory.load(Ordering::SeqCst)
    }
}

/// An empty database that is in no file.
pub(super) fn in_memory() -> Result<Database> {
    redb::Builder::new()
        .set_cache_size(CACHE_BYTES)
        .create_with_backend(redb::backends::InMemoryBackend::new())
        .map_err(|error| from_redb(error.into()).context("keep the index in memory"))
}

/// An empty database with all of it.
fn filled(database: Database, facts: &Facts, kept: &Kept) -> Result<Database> {
    let done = caught(|| {
        access::write(&database, Durability::Immediate, |transaction| {
            kept.write(transaction)?;
            transaction.open_table(STATE)?.insert(tables::CLEAN, 0)?;
            fill(transaction, facts)
        })
    });
    match done {
        Ok(()) => Ok(database),
        Err(error) => {
            give_back(Some(database));
            Err(error.context("make the index anew"))
        }
    }
}

/// Copies every table.
fn copy_all(from: &Database, to: &Database) -> Result<(), redb::Error> {
    let from = from.begin_read()?;
    access::write(to, Durability::Immediate, |to| {
        copy_table(&from, to, COPIES)?;
        copy_table(&from, to, DEADLINES)?;
        copy_table(&from, to, SEALED)?;
        copy_table(&from, to, STATE)?;
        copy_table(&from, to, REFERENCES)?;
        copy_table(&from, to, NAMES)?;
        copy_table(&from, to, MANIFESTS)?;
        copy_table(&from, to, OBJECTS)?;
        copy_table(&from, to, PINS)?;
        copy_table(&from, to, HISTORY)?;
        copy_table(&from, to, KIN)
    })
}

fn copy_table<K: Key + 'static, V: Value + 'static>(
    from: &ReadTransaction,
    to: &WriteTransaction,
    table: TableDefinition<K, V>,
) -> Result<(), redb::Error> {
    let mut copy = to.open_table(table)?;
    for row in from.open_table(table)?.iter()? {
        let (key, value) = row?;
        copy.insert(key.value(), value.value())?;
    }
    Ok(())
}

fn fill(transaction: &WriteTransaction, facts: &Facts) -> Result<(), redb::Error> {
    transaction.delete_table(REFERENCES)?;
    transaction.delete_table(NAMES)?;
    transaction.delete_table(MANIFESTS)?;
    transaction.delete_table(OBJECTS)?;
    transaction.delete_table(PINS)?;
    transaction.delete_table(HISTORY)?;
    transaction.delete_table(KIN)?;
    make_tables(transaction)?;
    {
        let mut names = transaction.open_table(NAMES)?;
        for (name, bound) in &facts.names {
            names.insert(name.as_str(), bound.encode().as_slice())?;
        }
        let mut pins = transaction.open_table(PINS)?;
        for (name, since) in &facts.pins {
            pins.insert(name.as_str(), since)?;
        }
        let mut manifests = transaction.open_table(MANIFESTS)?;
        for (nsid, head) in &facts.heads {
            manifests.insert(nsid.0.as_bytes(), head.manifest.as_slice())?;
        }
        let mut references = transaction.open_table(REFERENCES)?;
        for (key, count) in &facts.references {
            references.insert(key.as_str(), count)?;
        }
        let mut history = transaction.open_table(HISTORY)?;
        for (nsid, generation, past) in &facts.history {
            history.insert((nsid.0.as_bytes(), *generation), past.encode().as_slice())?;
        }
        let mut kin = transaction.open_table(KIN)?;
        for (nsid, known) in &facts.kin {
            kin.insert(nsid.0.as_bytes(), known.encode().as_slice())?;
        }
    }
    sealed::retain(transaction, |key| facts.references.contains_key(key))?;
    transaction.open_table(STATE)?.insert(tables::COUNTED, 1)?;
    write_objects(transaction, &facts.beside_heads)?;
    facts.heads.iter().try_for_each(|(_, head)| write_objects(transaction, &head.objects))
}

impl Kept {
    fn read(database: &Database) -> Result<Kept, redb::Error> {
        let transaction = database.begin_read()?;
        let mut kept = Kept::default();
        for row in transaction.open_table(COPIES)?.iter()? {
            let (name, bytes) = row?;
            kept.copies.push((name.value().to_owned(), bytes.value().to_vec()));
        }
        for row in transaction.open_table(DEADLINES)?.iter()? {
            let (id, deadline) = row?;
            kept.deadlines.push((*id.value(), deadline.value()));
        }
        for row in transaction.open_table(SEALED)?.iter()? {
            let (key, row) = row?;
            kept.sealed.push((key.value().to_owned(), row.value()));
        }
        for row in transaction.open_table(STATE)?.iter()? {
            let (key, value) = row?;
            kept.state.push((key.value().to_owned(), value.value()));
        }
        Ok(kept)
    }

    fn write(&self, transaction: &WriteTransaction) -> Result<(), redb::Error> {
        let mut copies = transaction.open_table(COPIES)?;
        for (name, bytes) in &self.copies {
            copies.insert(name.as_str(), bytes.as_slice())?;
        }
        let mut deadlines = transaction.open_table(DEADLINES)?;
        for (id, deadline) in &self.deadlines {
            deadlines.insert(id, deadline)?;
        }
        let mut sealed = transaction.open_table(SEALED)?;
        for (key, row) in &self.sealed {
            sealed.insert(key.as_str(), row)?;
        }
        let mut state = transaction.open_table(STATE)?;
        for (key, value) in &self.state {
            state.insert(key.as_str(), value)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    use uuid::Uuid;

    use crate::meta::{Facts, Head, Meta, ObjectFact};
    use crate::model::ids::Nsid;
    use crate::platform::disk::{Disk, create_dirs};
    use crate::platform::memory_disk::{Fault, MemoryDisk};

    const PATH: &str = "/data/meta.redb";
    const NSID: Nsid = Nsid(Uuid::from_u128(5));

    /// Much, so that there is no room for it twice.
    fn facts() -> Facts {
        let object = ObjectFact { key: "a".into(), bytes: 10, crc32c: 1 };
        let head = Head { manifest: vec![7; 4 << 20], objects: vec![object] };
        Facts { heads: vec![(NSID, head)], references: [("a".to_owned(), 1)].into(), ..Facts::default() }
    }

    fn made(memory: &MemoryDisk) -> Meta {
        let disk: Arc<dyn Disk> = Arc::new(memory.clone());
        create_dirs(&*disk, Path::new("/data")).unwrap();
        let (meta, _) = Meta::open(disk, PathBuf::from(PATH)).unwrap();
        meta.rebuild(&facts()).unwrap();
        meta.keep_node(b"node").unwrap();
        meta
    }

    fn is_whole(meta: &Meta) -> bool {
        let counts = (meta.references("a").unwrap(), meta.object_totals().unwrap());
        let node = meta.node().unwrap();
        meta.is_trusted() && counts == (1, (1, 10)) && node.as_deref() == Some(b"node")
    }

    #[test]
    fn a_disk_that_is_full_has_the_room_of_the_file_that_was_there() {
        let memory = MemoryDisk::default();
        let meta = made(&memory);
        memory.leave_free(Some(0));
        meta.distrust("of the test");
        meta.rebuild(&facts()).unwrap();
        assert!(is_whole(&meta) && !meta.is_in_memory());
        assert_eq!(meta.manifest(NSID).unwrap().unwrap().len(), 4 << 20);
    }

    #[test]
    fn an_index_that_the_disk_has_no_room_for_is_in_memory_until_it_has() {
        let memory = MemoryDisk::default();
        let meta = made(&memory);
        let index = memory.size(Path::new(PATH)).unwrap();
        // What others took meanwhile.
        memory.create(Path::new("/data/other")).unwrap().write(&vec![1; 8 << 20]).unwrap();
        memory.leave_free(Some(0));
        memory.remove(Path::new("/data/other")).unwrap();
        let more = vec![1; usize::try_from(index + (8 << 20)).unwrap()];
        memory.leave_free(Some(0));
        meta.distrust("of the test");
        let larger = Facts {
            heads: vec![(NSID, Head { manifest: more, objects: facts().heads[0].1.objects.clone() })],
            ..facts()
        };
        meta.rebuild(&larger).unwrap();
        assert!(is_whole(&meta) && meta.is_in_memory());
        assert!(memory.size(Path::new(PATH)).is_err());
        memory.leave_free(None);
        meta.rebuild(&larger).unwrap();
        assert!(is_whole(&meta) && !meta.is_in_memory());
        drop(meta);
        let (meta, why) = Meta::open(Arc::new(memory), PathBuf::from(PATH)).unwrap();
        assert_eq!((why.as_deref(), meta.references("a").unwrap()), (Some("the last stop was not clean"), 1));
    }

    #[test]
    fn a_disk_that_is_full_at_any_moment_keeps_nobody_from_making_it_anew() {
        for at in 0..60 {
            let memory = MemoryDisk::default();
            let meta = made(&memory);
            meta.distrust("of the test");
            let fault = Fault { at: memory.operations() + at, forever: false, kind: std::io::ErrorKind::StorageFull };
            memory.set_fault(Some(fault));
            let done = meta.rebuild(&facts());
            memory.set_fault(None);
            assert!(done.is_ok() && is_whole(&meta), "operation {at}: {done:?}");
        }
    }
}
