//! Writes decided: what a request changes, given what there is.
//!
//! Deciding has two steps. [`prepare`] is pure and needs no lock: it brings the schema up to date, gives every row the types
//! of its columns and analyses its text. [`decide`] runs under the namespace's lock: it reads current documents where
//! patches, conditions and filters need them, and gives one [`Change`] per document. Neither changes anything.

pub mod decide;
pub mod infer;
pub mod possible;
pub mod prepare;
pub mod schema_update;
pub mod typing;

use std::sync::Arc;

pub use decide::{DOCUMENTS_AT_ONCE, decide};
pub use possible::check_schema;
pub use prepare::{Prepared, prepare};
pub use schema_update::apply_schema_update;

use crate::error::Result;
use crate::format::record::Record;
use crate::model::document::{Document, PatchIntent};
use crate::model::filter::Filter;
use crate::model::ids::{DocId, Version};
use crate::model::memory::{allocated, of_vec};
use crate::model::schema::{ColumnUid, Schema};
use crate::model::value::Value;
use crate::model::write::WriteOutcome;
use crate::platform::allowance::Allowance;
use crate::segment::text::terms::DocTerms;

/// The most documents of one `delete_by_filter`.
pub const DELETE_BY_FILTER_MAX: usize = 5_000_000;
/// The most documents of one that may be partial: what is repeated anyway need not take so much memory at once.
pub const DELETE_PARTIAL_MAX: usize = 250_000;
/// The most documents of one `patch_by_filter`.
pub const PATCH_BY_FILTER_MAX: usize = 50_000;
/// What a search remembers of a term of a row in the tail.
const LISTED_TERM_BYTES: u64 = 5;
/// The largest value, in logical bytes.
pub const VALUE_BYTES_MAX: u64 = 8 << 20;
/// The largest document, in logical bytes.
pub const DOCUMENT_BYTES_MAX: u64 = 64 << 20;

/// The state that a write is decided against.
pub trait Current {
    /// The live states of documents, in the order of `ids`: read at once, as they may have to come from elsewhere.
    fn documents(&self, ids: &[&DocId]) -> Result<Vec<Option<Arc<Document>>>>;

    fn has_documents(&self) -> bool;

    /// Ids of live documents that match, at most `limit`, ascending, and whether there are more.
    fn matching(&self, filter: &Filter, limit: usize) -> Result<(Vec<DocId>, bool)>;

    /// What the filters and conditions of the write may use.
    fn allowance(&self) -> &Allowance;

    /// The most memory, in bytes, of what one write makes of documents that are there, unless that is one document.
    fn made_bytes_max(&self) -> u64;

    /// Sets memory aside for so many bytes more of that, before they are made. `Busy` where there is none.
    fn set_aside(&self, bytes: u64) -> Result<()>;
}

/// What a write does.
#[derive(Debug)]
pub struct Decision {
    /// One per id.
    pub changes: Vec<Change>,
    /// The new schema, when the write changes it.
    pub schema: Option<Arc<Schema>>,
    /// Without its `etag`, which only a commit has.
    pub outcome: WriteOutcome,
}

/// What becomes of one document.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    Put {
        document: Arc<Document>,
        /// The terms of every full-text column that the document has a value of.
        terms: Vec<(ColumnUid, DocTerms)>,
        /// How the document came about, when a patch made it; `None` for a whole document.
        patch: Option<Box<Patch>>,
    },
    Delete {
        id: DocId,
    },
}

/// The columns that a patch set, or cleared with `None`, on top of the version `base`.
#[derive(Clone, Debug, PartialEq)]
pub struct Patch {
    pub base: Version,
    /// Sorted by column, each once.
    pub changed: Vec<(ColumnUid, Option<Value>)>,
}

impl Change {
    pub fn id(&self) -> &DocId {
        match self {
            Change::Put { document, .. } => &document.id,
            Change::Delete { id } => id,
        }
    }

    /// What the change takes in memory on its way into the tail, its key there included.
    pub fn memory_bytes(&self) -> u64 {
        let id = self.id().heap_bytes();
        let state = match self {
            Change::Put { document, terms, patch } => {
                let patch =
                    patch.as_ref().map_or(0, |patch| allocated(size_of::<Patch>()) + of_changed(&patch.changed));
                document.memory_bytes() + of_terms(terms) + patch
            }
            Change::Delete { .. } => id,
        };
        size_of::<Change>() as u64 + state + id
    }

    /// The record that makes this change durable. What only the record needs is moved out, so take it once.
    pub fn take_record(&mut self) -> Record {
        match self {
            Change::Put { document, patch: Some(patch), .. } => {
                let changed = std::mem::take(&mut patch.changed);
                Record::Patch { id: document.id.clone(), base: patch.base, changed }
            }
            Change::Put { document, patch: None, .. } => {
                Record::Upsert { id: document.id.clone(), fields: document.fields.clone() }
            }
            Change::Delete { id } => Record::Delete { id: id.clone() },
        }
    }
}

/// What the values that a patch sets take.
fn of_changed(changed: &Vec<(ColumnUid, Option<Value>)>) -> u64 {
    of_vec(changed) + changed.iter().filter_map(|(_, value)| value.as_ref()).map(Value::heap_bytes).sum::<u64>()
}

/// What the terms of a document take, and what a search remembers of them.
pub(in crate::engine) fn of_terms(terms: &Vec<(ColumnUid, DocTerms)>) -> u64 {
    let of_each = terms.iter().map(|(_, terms)| terms.heap_bytes() + LISTED_TERM_BYTES * terms.count() as u64);
    of_vec(terms) + of_each.sum::<u64>()
}

/// The state that a patch makes of a document. What it meant is kept since the last whole state: earlier patches that are
/// not merged away yet stay part of it.
pub fn apply_patch(document: &Document, changed: &[(ColumnUid, Option<Value>)], version: Version) -> Document {
    let mut patched = Document {
        id: document.id.clone(),
        version,
        fields: document.fields.clone(),
        patch: Some(match &document.patch {
            Some(intent) => intent.clone(),
            None => PatchIntent { base: document.version, changed: Vec::new() },
        }),
    };
    for (column, value) in changed {
        patched.set(*column, value.clone());
        if let Some(intent) = &mut patched.patch
            && let Err(at) = intent.changed.binary_search(column)
        {
            intent.changed.insert(at, *column);
        }
    }
    patched
}
