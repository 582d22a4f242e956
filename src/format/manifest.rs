//! The manifest: one state of a namespace, and every object it consists of.
//!
//! Invariant: every object a manifest names was durable before the manifest was.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::envelope;
use super::reclaim::{Fence, check_fence};
use super::settings::SET_TIMES_MAX;
use crate::error::{Error, Result};
use crate::model::ids::{CommitId, Hlc, Nsid, Origin};
use crate::model::schema::Schema;
use crate::model::version_vector::VersionVector;

pub const VERSION: u32 = 2;
/// What a manifest with a fence is: releases that know of none must not commit on it.
pub const FENCED_VERSION: u32 = 3;
/// What a manifest is from the first tag in the bucket on: releases that know of none would delete what tags keep.
pub const TAGGED_VERSION: u32 = 4;
/// What a manifest is that says when something of it was set: releases that know of no such times would keep old ones.
pub const SET_VERSION: u32 = 5;
/// The most log objects one manifest names; back-pressure keeps a namespace below it.
pub const LOGS_MAX: usize = 1_024;
/// The most segments one manifest names; compaction keeps a namespace below it.
pub const SEGMENTS_MAX: usize = 4_096;
/// The most objects of unresolved conflicts one manifest names.
pub const CONFLICTS_MAX: usize = 1_024;
/// The most answers one manifest keeps for repeated writes.
pub const ANSWERS_MAX: usize = 1_024;

/// The most writers whose commits one manifest has seen.
pub const ORIGINS_MAX: usize = 65_536;

/// One commit. Its number is its place in this node's or the bucket's chain; its identity is `commit_id`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    pub format: u32,
    pub nsid: Nsid,
    /// `org/project/name` when this was written.
    pub name: String,
    pub generation: u64,
    /// The commit before this one in the chain, and the checksum of its manifest.
    pub parent: Option<Parent>,
    pub commit_id: CommitId,
    pub origin: Origin,
    pub hlc: Hlc,
    /// Counts logical changes only.
    pub data_seq: u64,
    /// The first sequence number of `origin` that no object named here holds.
    pub next_seq: u64,
    /// Recovery replays records of `origin` from this sequence number on; those below are in segments.
    pub replay_from: u64,
    /// What this state has seen, the writer's own commits included.
    pub version_vector: VersionVector,
    /// Tombstones with a clock below this were dropped.
    pub horizon: Hlc,
    pub schema: Schema,
    pub labels: BTreeMap<String, String>,
    pub read_only: bool,
    /// What this one was branched from.
    pub lineage: Option<Lineage>,
    /// When the namespace is deleted by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_ms: Option<u64>,
    /// When of labels, `read_only` and `expires_ms` what was set, see [`super::settings`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub set_ms: BTreeMap<String, u64>,
    /// Sealed logs whose records are not in segments yet.
    pub logs: Vec<LogRef>,
    pub segments: Vec<SegmentRef>,
    /// Keys of conflict objects that no user has resolved.
    pub conflicts: Vec<String>,
    /// The next integer id of this incarnation's newest block; none is left of it at a multiple of 2^32.
    pub ids_reserved: u64,
    /// Answers to repeat, oldest first, of commits whose log records are in segments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub idempotency: Vec<StoredAnswer>,
    pub created_ms: u64,
    pub updated_ms: u64,
    /// When documents last changed.
    pub written_ms: u64,
    /// When this manifest was committed.
    #[serde(default)]
    pub committed_ms: u64,
    /// In a bucket's chain, once something of it was reclaimed: the newest fence up to here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<Fence>,
    /// In a bucket's chain how often tags were changed there up to here; 0 on a node, which has its own.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tags: u64,
}

impl Manifest {
    /// The same with this fence, and of the version that can say so.
    pub fn fenced(self, fence: Option<Fence>) -> Self {
        let next = Manifest { fence, ..self };
        Manifest { format: version_of(&next), ..next }
    }

    /// The same without what is one node's own: its log, its ids, the answers it repeats.
    pub fn of_all(self) -> Self {
        Manifest { next_seq: 0, replay_from: 0, ids_reserved: 0, idempotency: Vec::new(), ..self }
    }

    /// Takes the version that can say all of it.
    pub(super) fn take_version(&mut self) {
        self.format = version_of(self);
    }

    /// The same with so many changes of tags, and of the version that can say so.
    pub fn tagged(self, tags: u64) -> Self {
        let next = Manifest { tags, ..self };
        Manifest { format: version_of(&next), ..next }
    }

    /// Whether its fence is its own.
    pub fn is_fence(&self) -> bool {
        self.fence.as_ref().is_some_and(|fence| fence.generation == self.generation)
    }

    /// Whether it says that nothing of the namespace is retained in the bucket any more.
    pub fn is_end(&self) -> bool {
        self.fence.as_ref().is_some_and(|fence| fence.retained > self.generation)
    }
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// The version that can say all of it, and no later one.
fn version_of(manifest: &Manifest) -> u32 {
    match (manifest.tags, &manifest.fence) {
        _ if !manifest.set_ms.is_empty() => SET_VERSION,
        (0, None) => VERSION,
        (0, Some(_)) => FENCED_VERSION,
        _ => TAGGED_VERSION,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parent {
    pub commit_id: CommitId,
    pub crc32c: u32,
}

/// Where a branch began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lineage {
    /// The incarnation it was branched from, and that one's newest manifest then.
    pub nsid: Nsid,
    pub commit_id: CommitId,
    /// The parent's name then.
    #[serde(default)]
    pub name: String,
    /// The clock of the newest commit that the branch has of its parent.
    #[serde(default)]
    pub hlc: Hlc,
    /// The incarnation at the root of the tree, and the clock at which the first branch on the way from there began:
    /// relatives need tombstones from then on.
    #[serde(default)]
    pub root: Option<Nsid>,
    #[serde(default)]
    pub since: Hlc,
}

/// The answer that a repeated write with the same key gets.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredAnswer {
    /// 32 hexadecimal digits each.
    pub key_hash: String,
    pub body_hash: String,
    pub at: Hlc,
    pub upserted: u64,
    pub patched: u64,
    pub deleted: u64,
    pub rows_remaining: bool,
    pub filter_matched: Option<u64>,
    pub bytes_written: u64,
}

/// A sealed log, by its key in the tier and the bucket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogRef {
    pub key: String,
    pub origin: Origin,
    pub first_seq: u64,
    pub last_seq: u64,
    pub bytes: u64,
    pub crc32c: u32,
}

/// A segment and the bitmap of its deleted rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentRef {
    pub key: String,
    pub segment_id: Uuid,
    pub level: u8,
    pub bytes: u64,
    pub crc32c: u32,
    pub rows: u32,
    pub tombstones: u32,
    /// What the rows count for in logical sizes.
    pub logical_bytes: u64,
    pub deletions: Option<DeletionsRef>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeletionsRef {
    pub key: String,
    pub bytes: u64,
    pub crc32c: u32,
    /// How many rows are deleted.
    pub rows: u32,
}

/// The manifest's bytes and the checksum of its body, which the next one names.
pub fn encode_manifest(manifest: &Manifest) -> Result<(Vec<u8>, u32)> {
    check(manifest).map_err(|what| Error::internal(format!("encode manifest of {}: {what}", manifest.name)))?;
    envelope::seal(manifest)
}

/// The manifest in `bytes`, and the checksum of its body.
pub fn decode_manifest(bytes: &[u8], name: &str) -> Result<(Manifest, u32)> {
    let (mut manifest, checksum) = envelope::open::<Manifest>(bytes, SET_VERSION, name)?;
    upgrade(&mut manifest, name)?;
    check(&manifest).map_err(|what| Error::corrupt(format!("{name}: {what}")))?;
    Ok((manifest, checksum))
}

/// Version 1 knew no branches, kept sequence numbers in its vector, and no time of commit.
pub(super) fn upgrade(manifest: &mut Manifest, name: &str) -> Result<()> {
    match manifest.format {
        VERSION | FENCED_VERSION | TAGGED_VERSION | SET_VERSION => return Ok(()),
        1 => {}
        other => {
            return Err(Error::unsupported(format!(
                "{name}: manifest format {other}, this release reads up to {SET_VERSION}"
            ))
            .with_hint("use a release of Shoal that knows this version"));
        }
    }
    manifest.format = VERSION;
    manifest.version_vector = VersionVector::of(manifest.origin, manifest.hlc);
    manifest.committed_ms = manifest.updated_ms;
    Ok(())
}

/// What must hold in every manifest, checked before it is written and after it is read.
pub(super) fn check(manifest: &Manifest) -> std::result::Result<(), String> {
    if manifest.logs.len() > LOGS_MAX {
        return Err(format!("{} log objects, expected at most {LOGS_MAX}", manifest.logs.len()));
    }
    if manifest.segments.len() > SEGMENTS_MAX {
        return Err(format!("{} segments, expected at most {SEGMENTS_MAX}", manifest.segments.len()));
    }
    if manifest.conflicts.len() > CONFLICTS_MAX {
        return Err(format!("{} objects of conflicts, expected at most {CONFLICTS_MAX}", manifest.conflicts.len()));
    }
    if manifest.idempotency.len() > ANSWERS_MAX {
        return Err(format!("{} stored answers, expected at most {ANSWERS_MAX}", manifest.idempotency.len()));
    }
    if manifest.replay_from > manifest.next_seq {
        return Err(format!(
            "replay_from is {}, expected at most next_seq, {}",
            manifest.replay_from, manifest.next_seq
        ));
    }
    if manifest.version_vector.len() > ORIGINS_MAX {
        return Err(format!("{} origins, expected at most {ORIGINS_MAX}", manifest.version_vector.len()));
    }
    if manifest.set_ms.len() > SET_TIMES_MAX {
        return Err(format!("{} times of settings, expected at most {SET_TIMES_MAX}", manifest.set_ms.len()));
    }
    if manifest.format != version_of(manifest) {
        return Err(format!(
            "format {}, expected {} by its fence, its tags and what was set",
            manifest.format,
            version_of(manifest)
        ));
    }
    if let Some(fence) = &manifest.fence {
        check_fence(fence)?;
        if fence.generation > manifest.generation {
            return Err(format!("generation {} names a later fence, {}", manifest.generation, fence.generation));
        }
    }
    if (manifest.generation == 0) != manifest.parent.is_none() {
        return Err(format!("generation {} must have a parent exactly when it is not 0", manifest.generation));
    }
    for log in &manifest.logs {
        if log.first_seq > log.last_seq {
            return Err(format!("log {} holds {} to {}", log.key, log.first_seq, log.last_seq));
        }
    }
    for segment in &manifest.segments {
        if let Some(deletions) = &segment.deletions
            && deletions.rows > segment.rows
        {
            return Err(format!(
                "segment {} has {} rows, and {} deleted ones",
                segment.key, segment.rows, deletions.rows
            ));
        }
    }
    let keys = manifest.logs.iter().map(|log| &log.key).chain(manifest.segments.iter().map(|s| &s.key));
    let keys = keys.chain(&manifest.conflicts);
    for key in keys.chain(manifest.segments.iter().filter_map(|s| s.deletions.as_ref().map(|d| &d.key))) {
        if !is_key(key) {
            return Err(format!("object key {key:?} is not a relative path of A-Za-z0-9._=-"));
        }
    }
    Ok(())
}

/// Whether `key` names an object inside the store and nothing else: a hostile manifest must not reach other files.
pub(super) fn is_key(key: &str) -> bool {
    key.split('/').all(|part| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'=' | b'-'))
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{LogRef, Manifest, Parent, VERSION, decode_manifest, encode_manifest};
    use crate::error::Kind;
    use crate::format::envelope;
    use crate::format::reclaim::Fence;
    use crate::model::ids::{CommitId, Hlc, Nsid, Origin};
    use crate::model::schema::Schema;
    use uuid::Uuid;

    pub(crate) fn a_manifest() -> Manifest {
        Manifest {
            format: VERSION,
            nsid: Nsid(Uuid::from_u128(1)),
            name: "acme/search/docs".into(),
            generation: 1,
            parent: Some(Parent { commit_id: CommitId(Uuid::from_u128(2)), crc32c: 7 }),
            commit_id: CommitId(Uuid::from_u128(3)),
            origin: Origin(u64::MAX),
            hlc: Hlc(9),
            data_seq: 4,
            next_seq: 20,
            replay_from: 10,
            version_vector: crate::model::version_vector::VersionVector::of(Origin(1), Hlc(19)),
            horizon: Hlc(0),
            schema: Schema::default(),
            labels: Default::default(),
            read_only: false,
            lineage: None,
            expires_ms: None,
            set_ms: Default::default(),
            logs: vec![LogRef {
                key: "acme/search/namespaces/x/wal/00000000000000000010-a.wal".into(),
                origin: Origin(5),
                first_seq: 10,
                last_seq: 19,
                bytes: 400,
                crc32c: 1,
            }],
            segments: Vec::new(),
            conflicts: Vec::new(),
            ids_reserved: 0,
            idempotency: Vec::new(),
            created_ms: 1,
            updated_ms: 2,
            written_ms: 2,
            committed_ms: 2,
            fence: None,
            tags: 0,
        }
    }

    #[test]
    fn a_manifest_comes_back_as_it_was_written() {
        let (bytes, checksum) = encode_manifest(&a_manifest()).unwrap();
        assert_eq!(decode_manifest(&bytes, "manifest").unwrap(), (a_manifest(), checksum));
    }

    #[test]
    fn a_fence_takes_its_version_and_is_not_of_the_future() {
        let fence = |generation, retained| Fence { generation, sweep: "a/sweeps/1.json".into(), retained, at_ms: 1 };
        let fenced = a_manifest().fenced(Some(fence(1, 0)));
        let (bytes, checksum) = encode_manifest(&fenced).unwrap();
        assert_eq!(decode_manifest(&bytes, "manifest").unwrap(), (fenced.clone(), checksum));
        assert!(fenced.is_fence() && !fenced.is_end() && a_manifest().fenced(Some(fence(1, 2))).is_end());
        for wrong in [
            Manifest { format: VERSION, ..fenced.clone() },
            Manifest { fence: None, ..fenced },
            a_manifest().fenced(Some(fence(2, 1))),
            a_manifest().fenced(Some(fence(1, 3))),
            a_manifest().fenced(Some(Fence { sweep: "../x".into(), ..fence(1, 0) })),
        ] {
            assert!(encode_manifest(&wrong).is_err());
            assert!(decode_manifest(&envelope::seal(&wrong).unwrap().0, "manifest").is_err());
        }
    }

    #[test]
    fn changes_of_tags_take_their_version_with_a_fence_and_without() {
        let fence = Fence { generation: 1, sweep: "a/sweeps/1.json".into(), retained: 0, at_ms: 1 };
        for fence in [None, Some(fence)] {
            let tagged = a_manifest().tagged(3).fenced(fence.clone());
            assert_eq!(tagged.format, super::TAGGED_VERSION);
            let (bytes, checksum) = encode_manifest(&tagged).unwrap();
            assert_eq!(decode_manifest(&bytes, "manifest").unwrap(), (tagged.clone(), checksum));
            assert_eq!(tagged.clone().tagged(0), a_manifest().fenced(fence));
            for wrong in [Manifest { tags: 0, ..tagged.clone() }, Manifest { format: VERSION, ..tagged }] {
                assert!(encode_manifest(&wrong).is_err());
                assert!(decode_manifest(&envelope::seal(&wrong).unwrap().0, "manifest").is_err());
            }
        }
    }

    #[test]
    fn a_manifest_cannot_name_files_outside_the_store() {
        for key in ["../../etc/passwd", "/etc/passwd", "a//b", "a/./b", "", "a/b\0c", "a/..wal"] {
            let mut manifest = a_manifest();
            manifest.logs[0].key = key.into();
            let (bytes, _) = envelope::seal(&manifest).unwrap();
            assert_eq!(decode_manifest(&bytes, "manifest").unwrap_err().kind(), Kind::Corrupt, "{key:?}");
        }
    }

    #[test]
    fn a_manifest_that_contradicts_itself_is_neither_written_nor_read() {
        let mut manifest = a_manifest();
        manifest.replay_from = 21;
        assert_eq!(encode_manifest(&manifest).unwrap_err().kind(), Kind::Internal);
        let (bytes, _) = envelope::seal(&manifest).unwrap();
        let error = decode_manifest(&bytes, "manifest").unwrap_err();
        assert_eq!(error.message(), "manifest: replay_from is 21, expected at most next_seq, 20");
    }
}
