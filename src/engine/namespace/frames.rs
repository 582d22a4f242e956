//! Cuts a commit into the frames of the log.

use std::sync::Arc;

use crate::engine::write::Change;
use crate::format::record::{Batch, IdempotencyEntry, Record};
use crate::model::schema::Schema;

/// The records of one frame take at most so many bytes of its payload, unless a single one takes more; a larger commit takes
/// several frames. Recovery holds a frame in memory.
const FRAME_BYTES: usize = 4 << 20;
/// The most records of one frame.
const FRAME_RECORDS: usize = 65_536;

/// What a commit puts into the log besides its documents.
#[derive(Default)]
pub(super) struct Extras {
    pub(super) schema: Option<Arc<Schema>>,
    pub(super) idempotency: Option<IdempotencyEntry>,
    pub(super) ids_reserved: Option<u64>,
}

/// Cuts a commit into the batches of its frames, one at a time.
pub(super) struct Batches<'a> {
    /// The first one, before its records.
    first: Option<Batch>,
    changes: std::slice::IterMut<'a, Change>,
    /// What had no room in the batch before.
    next: Option<Record>,
}

impl<'a> Batches<'a> {
    pub(super) fn new(changes: &'a mut [Change], extras: &Extras) -> Self {
        let first = Batch {
            idempotency: extras.idempotency.clone(),
            schema: extras.schema.as_deref().cloned(),
            ids_reserved: extras.ids_reserved,
            records: Vec::new(),
        };
        Batches { first: Some(first), changes: changes.iter_mut(), next: None }
    }
}

impl Iterator for Batches<'_> {
    type Item = Batch;

    fn next(&mut self) -> Option<Batch> {
        let first = self.first.take();
        let is_first = first.is_some();
        let mut batch = first.unwrap_or_default();
        let mut bytes = 0;
        while let Some(record) = self.next.take().or_else(|| self.changes.next().map(Change::take_record)) {
            let size = record.encoded_bytes();
            let is_empty = batch.records.is_empty() && batch.schema.is_none();
            if !is_empty && (bytes + size > FRAME_BYTES || batch.records.len() >= FRAME_RECORDS) {
                self.next = Some(record);
                break;
            }
            bytes += size;
            batch.records.push(record);
        }
        (is_first || !batch.records.is_empty()).then_some(batch)
    }
}
