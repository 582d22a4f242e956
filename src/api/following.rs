//! Namespaces that this node follows: writing them is refused, and reads are told how far behind the bucket they may be.

use super::handlers::Call;
use super::router::{Merging, Operation, Transfer};
use crate::error::{Error, Result};
use crate::model::ids::NamespaceName;

/// The code of the refusal.
pub const FOLLOWED: &str = "followed";

/// Whether an operation changes what others see of a namespace. Pins, tags, checkpoints and merges of segments are this node's own.
pub fn writes(operation: &Operation) -> bool {
    match operation {
        Operation::Create
        | Operation::Write
        | Operation::StartCopy
        | Operation::UpdateSchema
        | Operation::Delete
        | Operation::Labels
        | Operation::Ids
        | Operation::Ttl
        | Operation::Undelete
        | Operation::Revert
        | Operation::Merging(Merging::Merge | Merging::Acknowledge(_) | Merging::Replay(_))
        | Operation::Transfer(Transfer::Import | Transfer::Restore | Transfer::Copy) => true,
        // What it does depends on its body; see there.
        Operation::UpdateMetadata => false,
        Operation::PollCopy(_)
        | Operation::Query
        | Operation::Explain
        | Operation::Metadata(_)
        | Operation::Schema
        | Operation::HintCacheWarm
        | Operation::Recall
        | Operation::WarmCache
        | Operation::PurgeCache
        | Operation::Status
        | Operation::Pin
        | Operation::Unpin
        | Operation::Sync
        | Operation::Checkpoint
        | Operation::Compact
        | Operation::History
        | Operation::Tags
        | Operation::Tag(_)
        | Operation::PutTag(_)
        | Operation::DeleteTag(_)
        | Operation::Merging(Merging::Diff | Merging::Conflicts)
        | Operation::Transfer(Transfer::Export | Transfer::Snapshot) => false,
    }
}

/// Refuses to write a namespace that this node follows.
pub fn check(call: Call<'_>, name: &NamespaceName) -> Result<()> {
    if !call.server.engine.follows(name) {
        return Ok(());
    }
    Err(Error::invalid(format!("this node follows {name} (sync.follow in its configuration) and never writes it"))
        .with_code(FOLLOWED)
        .with_hint(
            "write it on a node that does not follow it, or branch it here under a name that no pattern of sync.follow matches: \
             a branch is written like any other namespace",
        ))
}

/// For how long at most what is here of a namespace may have been behind the bucket, in milliseconds. `None` without a bucket, for
/// what the bucket never had, and where the clock does not tell.
pub fn staleness_ms(call: Call<'_>, name: &NamespaceName) -> Option<u64> {
    let worker = call.server.config.sync.as_ref()?;
    if worker.takes(name) { worker.staleness_ms(name) } else { None }
}
