//! Every table of `meta.redb`, and the values that are more than a number.

use bincode::{Decode, Encode};
use redb::TableDefinition;
use uuid::Uuid;

use crate::model::ids::Nsid;

/// Object key to the number of heads whose manifest names it.
pub const REFERENCES: TableDefinition<&str, u64> = TableDefinition::new("references");
/// `org/project/name` to its newest binding: [`Bound`].
pub const NAMES: TableDefinition<&str, &[u8]> = TableDefinition::new("names");
/// Incarnation to its newest manifest, byte for byte.
pub const MANIFESTS: TableDefinition<&[u8; 16], &[u8]> = TableDefinition::new("manifests");
/// Object key to its length and CRC-32C.
pub const OBJECTS: TableDefinition<&str, (u64, u32)> = TableDefinition::new("objects");
/// `org/project/name` to the millisecond since which it is pinned.
pub const PINS: TableDefinition<&str, u64> = TableDefinition::new("pins");
/// Incarnation and hash of an `Idempotency-Key` to what its write did: [`Answer`].
pub const ANSWERS: TableDefinition<(&[u8; 16], &[u8; 16]), &[u8]> = TableDefinition::new("answers");
/// Facts about the index itself.
pub const STATE: TableDefinition<&str, u64> = TableDefinition::new("state");

/// In [`STATE`]: 1 after a clean stop, 0 while open.
pub const CLEAN: &str = "clean";

/// What a name means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    pub rev: u64,
    /// `None`: deleted.
    pub target: Option<Nsid>,
}

/// What a write with an `Idempotency-Key` did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Answer {
    pub body_hash: [u8; 16],
    /// The clock of its commit.
    pub at: u64,
    pub upserted: u64,
    pub patched: u64,
    pub deleted: u64,
    pub rows_remaining: bool,
    pub filter_matched: Option<u64>,
    pub bytes_written: u64,
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

impl Answer {
    pub(super) fn encode(&self) -> Vec<u8> {
        bincode::encode_to_vec(self, bincode::config::standard()).unwrap_or_default()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        bincode::decode_from_slice(bytes, bincode::config::standard()).ok().map(|(answer, _)| answer)
    }
}
