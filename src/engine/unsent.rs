//! What of a namespace is not in the bucket yet, as far as can be said without asking it.

use std::collections::BTreeSet;

use super::Engine;
use super::namespace::head::objects;
use super::remote::is_same;
use crate::error::Result;
use crate::format::manifest::Manifest;
use crate::model::ids::NamespaceName;

/// What the next sync has to send of a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unsent {
    /// The bucket's generation that this node last had in common with it, and when that was committed.
    pub common: Option<(u64, u64)>,
    /// Whether everything that was acknowledged is in the bucket, whatever the segments that it is in.
    pub is_durable: bool,
    /// Whether there is nothing to send: a merge of segments is sent, too.
    pub is_nothing: bool,
    /// Objects that the newest state names and the common one does not, with one for what is in no segment yet.
    pub objects: u64,
    /// Their bytes; of what is in no segment yet, the memory that it takes.
    pub bytes: u64,
    /// Rows that are in no segment yet.
    pub rows: u64,
    pub created_ms: u64,
}

impl Engine {
    /// What the bucket does not have of a namespace. Reads one small file.
    pub async fn unsent(&self, name: &NamespaceName) -> Result<Unsent> {
        let namespace = tokio::task::block_in_place(|| self.namespace(name))?;
        let ours = namespace.newest_manifest().await;
        // After the manifest: what becomes a segment in between is counted twice, and not left out.
        let (bytes, rows) = namespace.unflushed();
        // A change of the schema is no row.
        let is_ahead = rows > 0 || namespace.progress().0 != ours.data_seq;
        let common = tokio::task::block_in_place(|| self.common(namespace.nsid))?;
        Ok(compare(common.as_ref(), &ours, is_ahead.then_some((bytes, rows))))
    }
}

/// `tail` is the memory and the rows of what is in no segment yet, if anything is.
fn compare(common: Option<&Manifest>, ours: &Manifest, tail: Option<(u64, u64)>) -> Unsent {
    let there: BTreeSet<String> = common.iter().flat_map(|common| objects(common)).map(|object| object.key).collect();
    // Logs are not sent: what they hold is sent as segments.
    let travels = Manifest { logs: Vec::new(), ..ours.clone() };
    let missing: Vec<u64> = objects(&travels)
        .into_iter()
        .filter(|object| !there.contains(&object.key))
        .map(|object| object.bytes)
        .collect();
    let (tail_bytes, rows) = tail.unwrap_or_default();
    let says_the_same = |common: &Manifest| {
        is_same(common, &Manifest { segments: common.segments.clone(), ..ours.clone() }) && tail.is_none()
    };
    Unsent {
        common: common.map(|common| (common.generation, common.committed_ms)),
        is_durable: common.is_some_and(says_the_same),
        is_nothing: tail.is_none() && common.is_some_and(|common| is_same(common, ours)),
        objects: missing.len() as u64 + u64::from(tail.is_some()),
        bytes: missing.iter().sum::<u64>() + tail_bytes,
        rows,
        created_ms: ours.created_ms,
    }
}
