//! How many manifests, tags and bases of merges name each object, and how large objects are.

use std::collections::BTreeMap;

use redb::{ReadableDatabase, ReadableTable, WriteTransaction};

use super::tables::{OBJECTS, REFERENCES, SEALED};
use super::{Meta, ObjectFact};
use crate::error::Result;

impl Meta {
    /// How many heads reference an object.
    pub fn references(&self, key: &str) -> Result<u64> {
        self.read(|transaction| Ok(transaction.open_table(REFERENCES)?.get(key)?.map_or(0, |count| count.value())))
    }

    /// Whether nobody references an object, as counts that are known to be right say.
    pub fn is_free(&self, key: &str) -> Result<bool> {
        self.with(|database| {
            let is_trusted = self.is_trusted();
            let transaction = database.begin_read()?;
            let references = transaction.open_table(REFERENCES)?;
            Ok(is_trusted && references.get(key)?.is_none_or(|count| count.value() == 0))
        })
    }

    /// Keys that begin with `prefix` and are referenced.
    pub fn references_below(&self, prefix: &str) -> Result<Vec<String>> {
        self.read(|transaction| {
            let mut keys = Vec::new();
            for row in transaction.open_table(REFERENCES)?.range(prefix..)? {
                let (key, count) = row?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                if count.value() > 0 {
                    keys.push(key.value().to_owned());
                }
            }
            Ok(keys)
        })
    }

    /// All counts, for `check`.
    pub fn all_references(&self) -> Result<BTreeMap<String, u64>> {
        self.read(|transaction| {
            let mut counts = BTreeMap::new();
            for row in transaction.open_table(REFERENCES)?.iter()? {
                let (key, count) = row?;
                counts.insert(key.value().to_owned(), count.value());
            }
            Ok(counts)
        })
    }
}

pub(super) fn hold(transaction: &WriteTransaction, objects: &[ObjectFact]) -> Result<(), redb::Error> {
    count(transaction, objects.iter().map(|object| &object.key))?;
    write_objects(transaction, objects)
}

pub(super) fn count<'a>(
    transaction: &WriteTransaction,
    keys: impl Iterator<Item = &'a String>,
) -> Result<(), redb::Error> {
    let mut references = transaction.open_table(REFERENCES)?;
    for key in keys {
        let count = references.get(key.as_str())?.map_or(0, |count| count.value());
        references.insert(key.as_str(), count + 1)?;
    }
    Ok(())
}

pub(super) fn release(transaction: &WriteTransaction, keys: &[String]) -> Result<Vec<String>, redb::Error> {
    let mut references = transaction.open_table(REFERENCES)?;
    let mut objects = transaction.open_table(OBJECTS)?;
    let mut sealed = transaction.open_table(SEALED)?;
    let mut free = Vec::new();
    for key in keys {
        let count = references.get(key.as_str())?.map_or(0, |count| count.value());
        if count > 1 {
            references.insert(key.as_str(), count - 1)?;
        } else {
            references.remove(key.as_str())?;
            objects.remove(key.as_str())?;
            sealed.remove(key.as_str())?;
            free.push(key.clone());
        }
    }
    Ok(free)
}

pub(super) fn write_objects(transaction: &WriteTransaction, facts: &[ObjectFact]) -> Result<(), redb::Error> {
    let mut objects = transaction.open_table(OBJECTS)?;
    for object in facts {
        objects.insert(object.key.as_str(), (object.bytes, object.crc32c))?;
    }
    Ok(())
}
