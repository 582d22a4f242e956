//! Which sealed logs there are beside what manifests name: a directory does not say of its newest log that it was there.
//!
//! Invariants:
//! - A row is written once its log has records and is in the tier for good, and never changes. It decides nothing alone: the newest
//!   manifest says whether the log is needed. So a row that stayed, or that a power cut brought back, does no harm.
//! - Rows are believed once a clean stop came after them: a directory that was copied while it was written to may have an index that is
//!   younger than its logs, and is whole without them.
//! - Rows of logs that this process had read, and finds gone, are believed at once.
//! - A row has a checksum of its own: redb does not look at those of its pages when it reads them.

use redb::{Durability, ReadableTable, WriteTransaction};

use super::Meta;
use super::references::count;
use super::tables::{SEALED, STATE, STOPS};
use crate::error::Result;
use crate::model::ids::Origin;

/// What a row says in place of clean stops where it waits for none.
const CERTAIN: u64 = u64::MAX;

/// A sealed log that its writer still needs, and that no manifest names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptLog {
    pub key: String,
    /// By whom it was written, where it has records.
    pub writer: Option<Origin>,
}

impl Meta {
    /// Counts one more reference to each log, and remembers that those with records are there. Lazy.
    pub fn keep_logs(&self, logs: &[KeptLog]) -> Result<()> {
        self.keep_since(logs, Durability::None, |transaction| stops(&transaction.open_table(STATE)?))
    }

    /// The same for logs that are gone though what they hold was acknowledged. Durable.
    pub fn miss_logs(&self, logs: &[KeptLog]) -> Result<()> {
        self.keep_since(logs, Durability::Immediate, |_| Ok(CERTAIN))
    }

    fn keep_since(
        &self,
        logs: &[KeptLog],
        durability: Durability,
        since: impl Fn(&WriteTransaction) -> Result<u64, redb::Error>,
    ) -> Result<()> {
        self.unless_empty(logs, durability, |transaction| {
            count(transaction, logs.iter().map(|log| &log.key))?;
            let stops = since(transaction)?;
            let mut sealed = transaction.open_table(SEALED)?;
            for KeptLog { key, writer } in logs {
                if let Some(writer) = writer {
                    sealed.insert(key.as_str(), (writer.0, stops, sum(key, *writer, stops)))?;
                }
            }
            Ok(())
        })
    }

    /// Keys that begin with `prefix` of logs that were there at a clean stop or before one, each with its log's writer.
    pub fn sealed_below(&self, prefix: &str) -> Result<Vec<(String, Origin)>> {
        self.read(|transaction| {
            let mut found = Vec::new();
            let now = stops(&transaction.open_table(STATE)?)?;
            for row in transaction.open_table(SEALED)?.range(prefix..)? {
                let (key, row) = row?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                let (writer, stops, known) = row.value();
                let writer = Origin(writer);
                if (stops < now || stops == CERTAIN) && sum(key.value(), writer, stops) == known {
                    found.push((key.value().to_owned(), writer));
                }
            }
            Ok(found)
        })
    }
}

fn sum(key: &str, writer: Origin, stops: u64) -> u32 {
    let sum = crc32c::crc32c_append(crc32c::crc32c(key.as_bytes()), &writer.0.to_le_bytes());
    crc32c::crc32c_append(sum, &stops.to_le_bytes())
}

fn stops(state: &impl ReadableTable<&'static str, u64>) -> Result<u64, redb::Error> {
    Ok(state.get(STOPS)?.map_or(0, |stops| stops.value()))
}

/// Counts a clean stop: the rows that are there are believed from now on.
pub(super) fn vouch(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    let mut state = transaction.open_table(STATE)?;
    let next = stops(&state)? + 1;
    state.insert(STOPS, next)?;
    Ok(())
}

/// Forgets logs that nobody holds.
pub(super) fn retain(transaction: &WriteTransaction, is_held: impl Fn(&str) -> bool) -> Result<(), redb::Error> {
    transaction.open_table(SEALED)?.retain(|key, _| is_held(key))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    use super::KeptLog;
    use crate::meta::tables::SEALED;
    use crate::meta::{Facts, Meta};
    use crate::model::ids::Origin;
    use crate::platform::disk::{Disk, create_dirs};
    use crate::platform::memory_disk::MemoryDisk;
    use redb::{Durability, ReadableTable};

    fn keys(meta: &Meta) -> Vec<String> {
        meta.sealed_below("a/").unwrap().into_iter().map(|(key, _)| key).collect()
    }

    #[test]
    fn a_log_is_known_until_nobody_holds_it_and_a_row_that_is_not_as_it_was_says_nothing() {
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
        create_dirs(&*disk, Path::new("/data")).unwrap();
        let path = PathBuf::from("/data/meta.redb");
        let (meta, _) = Meta::open(disk.clone(), path.clone()).unwrap();
        let log = |key: &str, writer| KeptLog { key: key.to_owned(), writer };
        let logs =
            [log("a/1", Some(Origin(7))), log("a/2", None), log("a/3", Some(Origin(8))), log("b/1", Some(Origin(7)))];
        meta.keep_logs(&logs).unwrap();
        // No clean stop came after it yet.
        assert_eq!(keys(&meta), [""; 0]);
        meta.close(true).unwrap();
        let (meta, _) = Meta::open(disk, path).unwrap();
        assert_eq!(meta.sealed_below("a/").unwrap(), [("a/1".to_owned(), Origin(7)), ("a/3".to_owned(), Origin(8))]);
        let references = [("a/1".to_owned(), 1), ("a/3".to_owned(), 2)].into();
        meta.rebuild(&Facts { references, ..Facts::default() }).unwrap();
        assert_eq!((keys(&meta).len(), meta.sealed_below("b/").unwrap()), (2, Vec::new()));
        assert_eq!(meta.release(&["a/1".to_owned(), "a/3".to_owned()]).unwrap(), ["a/1"]);
        assert_eq!(keys(&meta), ["a/3"]);
        let of_another = |transaction: &redb::WriteTransaction| {
            let row = transaction.open_table(SEALED)?.get("a/3")?.unwrap().value();
            transaction.open_table(SEALED)?.insert("a/4", row)?;
            Ok(())
        };
        meta.write(Durability::None, of_another).unwrap();
        assert_eq!(keys(&meta), ["a/3"]);
    }
}
