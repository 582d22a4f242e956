//! A document: id, version, and values by column.

use super::ids::{DocId, Version};
use super::schema::ColumnUid;
use super::value::Value;

/// One state of a document. `fields` is sorted by column and has each column once.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    pub id: DocId,
    pub version: Version,
    pub fields: Vec<(ColumnUid, Value)>,
    /// The columns changed relative to `base` when this state came from a patch and has not been merged away; `None`
    /// for whole documents. Kept through flush and compaction so that a later merge can join field by field.
    pub patch: Option<PatchIntent>,
}

/// What a patch meant: which columns it set or cleared, on top of which version.
#[derive(Clone, Debug, PartialEq)]
pub struct PatchIntent {
    pub base: Version,
    /// Sorted.
    pub changed: Vec<ColumnUid>,
}

/// A deleted document: it stays deleted against any older version that turns up.
#[derive(Clone, Debug, PartialEq)]
pub struct Tombstone {
    pub id: DocId,
    pub version: Version,
}

impl Document {
    pub fn get(&self, column: ColumnUid) -> Option<&Value> {
        self.fields.binary_search_by_key(&column, |(uid, _)| *uid).ok().map(|at| &self.fields[at].1)
    }

    /// Sets a column, or clears it with `None`.
    pub fn set(&mut self, column: ColumnUid, value: Option<Value>) {
        match (self.fields.binary_search_by_key(&column, |(uid, _)| *uid), value) {
            (Ok(at), Some(value)) => self.fields[at].1 = value,
            (Ok(at), None) => {
                self.fields.remove(at);
            }
            (Err(at), Some(value)) => self.fields.insert(at, (column, value)),
            (Err(_), None) => {}
        }
    }

    pub fn logical_bytes(&self) -> u64 {
        self.id.logical_bytes() + self.fields.iter().map(|(_, value)| value.logical_bytes()).sum::<u64>()
    }
}
