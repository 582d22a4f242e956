//! What callers are told about a namespace and the node.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value as Json, json};

use super::damage::Damage;
use super::{Engine, Slot};
use crate::error::{Error, Result};
use crate::model::ids::NamespaceName;
use crate::model::schema::Schema;

/// What the contract's metadata route tells. Sizes are as of the last index build.
#[derive(Clone, Debug)]
pub struct Metadata {
    pub schema: Arc<Schema>,
    pub approx_logical_bytes: u64,
    pub approx_row_count: u64,
    pub created_ms: u64,
    pub updated_ms: u64,
    pub written_ms: u64,
    pub read_only: bool,
    /// Since when it is pinned.
    pub pinned_ms: Option<u64>,
    /// Memory and rows that are in no segment; 0 and 0 when the index is up to date, as it is while the tail is small: see
    /// [`super::namespace::UNINDEXED_ROWS_MAX`].
    pub unindexed_bytes: u64,
    pub unindexed_rows: u64,
}

impl Engine {
    pub fn metadata(&self, name: &NamespaceName) -> Result<Metadata> {
        let namespace = self.namespace(name)?;
        let published = namespace.published();
        let (_, hlc) = namespace.progress();
        let (bytes, rows) = if namespace.is_indexing() { namespace.unflushed() } else { (0, 0) };
        let written_ms = hlc.millis().max(published.written_ms);
        Ok(Metadata {
            schema: namespace.view().schema.clone(),
            approx_logical_bytes: published.logical_bytes,
            approx_row_count: published.rows,
            created_ms: published.created_ms,
            updated_ms: published.updated_ms.max(written_ms),
            written_ms,
            read_only: published.read_only,
            pinned_ms: self.pinned_since(name),
            unindexed_bytes: bytes,
            unindexed_rows: rows,
        })
    }

    /// Everything this node knows of a namespace.
    pub fn status(&self, name: &NamespaceName) -> Result<Json> {
        let namespace = self.namespace(name)?;
        let published = namespace.published();
        let view = namespace.view();
        let (data_seq, hlc) = namespace.progress();
        let (tail_bytes, tail_rows) = namespace.unflushed();
        let segments: Vec<Json> = published
            .segments
            .iter()
            .map(|(level, bytes, rows)| json!({"level": level, "bytes": bytes, "rows": rows}))
            .collect();
        let lineage = published.lineage.as_ref().map(|lineage| {
            json!({
                "parent": lineage.name,
                "parent_nsid": lineage.nsid.to_string(),
                "commit": lineage.commit_id.to_string(),
                "forked_at_ms": lineage.hlc.millis(),
            })
        });
        let kept = self.kept(&namespace)?;
        let dead: u64 = view.segments.iter().map(|segment| segment.dead.len()).sum();
        Ok(json!({
            "name": name.to_string(),
            "nsid": namespace.nsid.to_string(),
            "generation": published.generation,
            "commit": published.commit_id,
            "data_seq": data_seq,
            "etag": view.etag,
            "documents": view.documents(),
            "dead_rows": dead,
            "logical_bytes": published.logical_bytes,
            "index": {
                "status": if namespace.is_indexing() { "updating" } else { "up-to-date" },
                "unindexed_rows": tail_rows,
                "compacting": namespace.is_compacting(),
            },
            "tail": {"rows": tail_rows, "bytes": tail_bytes},
            "segments": segments,
            "bytes": published.segments.iter().map(|(_, bytes, _)| bytes).sum::<u64>(),
            "log_objects": published.logs,
            "own_bytes": kept.own_bytes,
            "shared_bytes": kept.shared_bytes,
            "reclaimable_bytes": kept.past_bytes,
            "history": {"states": kept.states, "oldest_generation": kept.oldest_generation, "reaches_back_to_ms": kept.oldest_ms},
            "lineage": lineage,
            "branches": self.branches(name)?,
            "expires_ms": published.expires_ms,
            "labels": published.labels,
            "read_only": published.read_only,
            "pinned_since_ms": self.pinned_since(name),
            "created_ms": published.created_ms,
            "updated_ms": published.updated_ms.max(hlc.millis()),
            "written_ms": hlc.millis().max(published.written_ms),
            "conflicts_let_go": namespace.conflicts_let_go(),
            "durability": "local",
            "damaged": listed(&self.context.damages.of(&name.to_string())),
        }))
    }

    /// How the node is.
    pub fn node_status(&self) -> Json {
        let node = self.context.node.file();
        self.slots().follow_all();
        let quarantined: Vec<Json> = self
            .slots()
            .all()
            .filter_map(|(name, slot)| match slot {
                Slot::Quarantined(error) => Some(json!({"name": name.to_string(), "error": error.message()})),
                Slot::Open(_) => None,
            })
            .collect();
        let open = self.open_count();
        let (objects, bytes) = self.context.meta.object_totals().unwrap_or_default();
        let root = self.context.layout.root();
        let held = self.held_in_parts();
        let (past_states, past_tails_bytes) = self.past_open();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "node": node.node.to_string(),
            "store": node.store.to_string(),
            "data_dir": root.display().to_string(),
            "namespaces": {"total": self.catalog.all().len(), "open": open, "quarantined": quarantined},
            "damaged": listed(&self.context.damages.list()),
            "objects": {"total": objects, "bytes": bytes},
            "tier": {
                "objects_in_part": held.objects,
                "bytes": held.bytes,
                "bytes_max": held.bytes_max,
                "bytes_read": held.bytes_brought,
                "renewals": held.renewals,
            },
            "conflicts_let_go": self.context.conflicts_let_go.load(Ordering::Relaxed),
            "tails_bytes": self.context.tails_bytes.load(Ordering::Relaxed),
            "past_open": {"states": past_states, "tails_bytes": past_tails_bytes},
            "index_trusted": self.context.meta.is_trusted(),
            "disk_free_bytes": self.context.disk.free_bytes(root).ok(),
            "ready": self.is_ready(),
            "warnings": self.context.warnings(),
        })
    }

    /// An error about stored bytes that a namespace met is listed with the file that it names.
    pub fn note_damage(&self, name: &NamespaceName, error: &Error) {
        self.context.report_error(&name.to_string(), error);
    }

    /// How many files are damaged.
    pub fn damaged_files(&self) -> usize {
        self.context.damages.len()
    }

    /// Whether the disk answers, for the watchdog: touches what could hang.
    pub fn is_alive(&self) -> bool {
        self.context.disk.list(self.context.layout.root()).is_ok()
    }
}

fn listed(damages: &[Damage]) -> Json {
    let one = |damage: &Damage| {
        json!({
            "file": damage.file,
            "kind": damage.kind.as_str(),
            "namespaces": damage.namespaces,
            "error": damage.what,
            "since_ms": damage.since_ms,
        })
    };
    damages.iter().map(one).collect()
}
