//! Every table of `meta.redb`, and the values that are more than a number.

use bincode::{Decode, Encode};
use redb::TableDefinition;
use uuid::Uuid;

use crate::model::ids::Nsid;

/// Object key to the number of its holders: retained manifests, where consecutive ones of an incarnation count once, tags,
/// bases of merges, and the writer of a log whose records are in no segment yet.
pub const REFERENCES: TableDefinition<&str, u64> = TableDefinition::new("references");
/// `org/project/name` to its newest binding: [`Bound`].
pub const NAMES: TableDefinition<&str, &[u8]> = TableDefinition::new("names");
/// Incarnation to its newest manifest, byte for byte.
pub const MANIFESTS: TableDefinition<&[u8; 16], &[u8]> = TableDefinition::new("manifests");
/// Object key to its length and CRC-32C.
pub const OBJECTS: TableDefinition<&str, (u64, u32)> = TableDefinition::new("objects");
/// `org/project/name` to the millisecond since which it is pinned.
pub const PINS: TableDefinition<&str, u64> = TableDefinition::new("pins");
/// Of earlier releases, and removed: answers to repeat are in files of their own.
pub const ANSWERS: TableDefinition<(&[u8; 16], &[u8; 16]), &[u8]> = TableDefinition::new("answers");
/// Incarnation and generation to what is known of a manifest that a newer one replaced: [`Past`].
pub const HISTORY: TableDefinition<(&[u8; 16], u64), &[u8]> = TableDefinition::new("history");
/// Incarnations that are more than a bound name: branches, deleted ones that can be had back, ones that expire: [`Kin`].
pub const KIN: TableDefinition<&[u8; 16], &[u8]> = TableDefinition::new("kin");
/// Small files that nothing else at rest could replace, byte for byte: [`NODE`].
pub const COPIES: TableDefinition<&str, &[u8]> = TableDefinition::new("copies");
/// Incarnation to when it is deleted by itself, where this node set that: [`Deadline`]. Not made of any file.
pub const DEADLINES: TableDefinition<&[u8; 16], (u64, i64)> = TableDefinition::new("deadlines");
/// Key of a sealed log with records to the origin that wrote it, how many clean stops there were before, and a checksum of all three. Not
/// made of any file.
pub const SEALED: TableDefinition<&str, (u64, u64, u32)> = TableDefinition::new("sealed");
/// Facts about the index itself, and what the wall clock showed last.
pub const STATE: TableDefinition<&str, u64> = TableDefinition::new("state");

/// In [`COPIES`]: `node.json`.
pub const NODE: &str = "node.json";
/// In [`STATE`]: 1 after a clean stop, 0 while open.
pub const CLEAN: &str = "clean";
/// In [`STATE`]: what the wall clock showed last, and the sum of its jumps, as 64 bits in two's complement.
pub const WALL: &str = "wall";
pub const JUMPS: &str = "jumps";
/// In [`STATE`]: while the wall clock is doubted, for how many milliseconds processes have.
pub const DOUBTED: &str = "doubted";
/// In [`STATE`]: while it is doubted because it went back, what it showed before.
pub const WENT_BACK_FROM: &str = "went back from";
/// In [`STATE`]: how many clean stops there were.
pub const STOPS: &str = "stops";
/// In [`STATE`]: 1 once references were counted from the files: no count is below the truth since.
pub const COUNTED: &str = "counted";

/// What a name means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    pub rev: u64,
    /// `None`: deleted.
    pub target: Option<Nsid>,
}

/// When a namespace is deleted by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// As its manifest says.
    pub expires_ms: u64,
    /// What this node's wall clock had jumped by when that was set.
    pub jumps_ms: i64,
}

/// A manifest that a newer one replaced, and that can still be asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Past {
    pub commit_id: [u8; 16],
    pub committed_ms: u64,
    /// When the manifest after it was committed.
    pub replaced_ms: u64,
    pub data_seq: u64,
    pub documents: u64,
    /// Bytes of the objects that it names and the manifest after it does not.
    pub bytes: u64,
    /// Of its file.
    pub manifest_bytes: u64,
}

/// What is known of an incarnation beside its newest manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Kin {
    /// `org/project/name`, now or when it was deleted.
    pub name: String,
    pub lineage: Option<KinLineage>,
    pub expires_ms: Option<u64>,
    pub deleted_ms: Option<u64>,
    /// Of a deleted one, the bytes of what its newest manifest names.
    pub bytes: u64,
    /// Of a deleted one, what its own small files take, and its manifest in this index.
    pub files_bytes: u64,
}

/// Where a branch belongs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct KinLineage {
    pub parent: [u8; 16],
    pub root: [u8; 16],
    /// The clock of the newest commit it has of its parent.
    pub hlc: u64,
    /// The clock at which the first branch on the way from the root began.
    pub since: u64,
}

impl Bound {
    pub(super) fn encode(&self) -> Vec<u8> {
        let target = self.target.map(|nsid| nsid.0.into_bytes());
        bincode::encode_to_vec((self.rev, target), bincode::config::standard()).unwrap_or_default()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let ((rev, target), _): ((u64, Option<[u8; 16]>), _) =
            bincode::decode_from_slice(bytes, bincode::config::standard()).ok()?;
        Some(Bound { rev, target: target.map(|bytes| Nsid(Uuid::from_bytes(bytes))) })
    }
}

impl Past {
    pub(super) fn encode(&self) -> Vec<u8> {
        bincode::encode_to_vec(self, bincode::config::standard()).unwrap_or_default()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        decode_longer(bytes)
    }
}

impl Kin {
    /// Whether there is anything to remember.
    pub fn is_plain(&self) -> bool {
        self.lineage.is_none() && self.expires_ms.is_none() && self.deleted_ms.is_none()
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        bincode::encode_to_vec(self, bincode::config::standard()).unwrap_or_default()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        decode_longer(bytes)
    }
}

/// A row whose last number an index of before does not have.
fn decode_longer<T: Decode<()>>(bytes: &[u8]) -> Option<T> {
    let decoded = bincode::decode_from_slice(bytes, bincode::config::standard());
    let decoded = decoded.or_else(|_| {
        let bytes = [bytes, &[0]].concat();
        bincode::decode_from_slice(&bytes, bincode::config::standard())
    });
    decoded.ok().map(|(row, _)| row)
}
