//! Writes: what a request asks for, and what became of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value as Json;

use super::filter::Expr;
use super::ids::{DocId, Nsid, Version};
use super::schema::Metric;

/// One write request: one atomic batch. Rows are as the request has them; the engine gives them types when it decides.
#[derive(Clone, Debug, Default)]
pub struct WriteRequest {
    pub upserts: Vec<Row>,
    pub patches: Vec<Row>,
    pub deletes: Vec<Json>,
    pub upsert_condition: Option<Expr>,
    pub patch_condition: Option<Expr>,
    pub delete_condition: Option<Expr>,
    pub delete_by_filter: Option<ByFilter>,
    pub patch_by_filter: Option<PatchByFilter>,
    pub return_affected_ids: bool,
    pub schema: Option<SchemaUpdate>,
    pub metric: Option<Metric>,
    /// `Some(true)`: create even when empty; `Some(false)`: 404 when absent.
    pub create_namespace: Option<bool>,
    pub disable_backpressure: bool,
    pub if_match: Option<String>,
    pub idempotency: Option<Idempotency>,
    /// The decoded body's length, which bounds what this write may hold in memory.
    pub body_bytes: u64,
    /// What is said of keys of the body that mean nothing.
    pub ignored: Vec<String>,
}

impl WriteRequest {
    /// Whether it deletes documents, and does nothing else.
    pub fn only_deletes(&self) -> bool {
        let deletes = !self.deletes.is_empty() || self.delete_by_filter.is_some();
        let makes = !self.upserts.is_empty() || !self.patches.is_empty() || self.patch_by_filter.is_some();
        deletes && !makes && self.schema.is_none()
    }
}

/// One row of an upsert or patch. A missing `id` in an upsert is refused, unless ids are generated for it.
#[derive(Clone, Debug)]
pub struct Row {
    pub id: Json,
    /// In the request's order; names may share their text across rows.
    pub fields: Vec<(Arc<str>, Json)>,
}

/// The same new values for every document that matches.
#[derive(Clone, Debug)]
pub struct PatchByFilter {
    pub by: ByFilter,
    pub fields: Vec<(Arc<str>, Json)>,
}

#[derive(Clone, Debug)]
pub struct ByFilter {
    pub filter: Expr,
    pub allow_partial: bool,
}

/// The `Idempotency-Key` of a write and what its body was, both hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Idempotency {
    pub key_hash: [u8; 16],
    pub body_hash: [u8; 16],
}

/// A schema update as the request has it: attribute name to type string, configuration object or `{"drop": true}`.
/// `id` sets the id type.
#[derive(Clone, Debug, Default)]
pub struct SchemaUpdate {
    pub attributes: BTreeMap<String, Json>,
}

/// What a write did. Skipped rows are not counted.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WriteOutcome {
    pub upserted: u64,
    pub patched: u64,
    pub deleted: u64,
    /// A by-filter write reached its limit and may be sent again.
    pub rows_remaining: bool,
    /// Only with `return_affected_ids`.
    pub upserted_ids: Vec<DocId>,
    pub patched_ids: Vec<DocId>,
    pub deleted_ids: Vec<DocId>,
    /// A by-filter phase was asked for; it matched this many documents.
    pub filter_matched: Option<u64>,
    pub schema_updated: bool,
    /// Logical bytes of the documents written.
    pub bytes_written: u64,
    /// Logical bytes read for conditions and filters; `None` when there were none.
    pub bytes_queried: Option<u64>,
    /// The state after this write, for the `ETag` header. Empty where it is `replayed`, as are the ids.
    pub etag: String,
    /// This is the stored answer of an earlier request with the same `Idempotency-Key`.
    pub replayed: bool,
    /// The incarnation that was written to and the version of this commit; `None` where nothing was committed.
    pub commit: Option<(Nsid, Version)>,
}
