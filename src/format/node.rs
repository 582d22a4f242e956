//! The two files that say what a data directory is: `_format.json` and `node.json`.
//!
//! Invariant: blocks of integer ids are taken from the node's sequence one after another, and `node.json` counts a block
//! before anybody has an id of it. So no block is given twice, whatever becomes of the namespace that took it.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::claims::{RANGE_MAX, RANGES_MAX};
use super::envelope;
use crate::error::{Error, Result};

/// The version of `_format.json`.
pub const VERSION: u32 = 1;
/// The version of `node.json`; version 1 has no blocks, version 2 no ranges, version 3 nothing that the bucket was told of them.
pub const NODE_VERSION: u32 = 4;
/// Blocks are numbered from 1 to this: 21 bits of block above 32 bits of counter stay below 2^53, which readers of JSON
/// need. Block 0 is left to the ids that callers count themselves.
pub const BLOCKS: u32 = (1 << 21) - 1;

/// `_format.json`, at the root of the tier as of a bucket: created once, never changed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FormatFile {
    pub format: u32,
    pub store: Uuid,
}

/// `node.json`: what belongs to this node and to no bucket.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeFile {
    pub format: u32,
    pub node: Uuid,
    /// The store this node belongs to; its own invention until a bucket is attached.
    pub store: Uuid,
    /// Pinned namespaces, `org/project/name`, in order.
    pub pins: Vec<Pin>,
    /// Absent until the first block is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_blocks: Option<IdBlocks>,
    /// Ranges of blocks that this node has claimed in the bucket, in that order; with any, blocks are taken of these only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub id_ranges: Vec<IdRange>,
    /// What the bucket was told last of the blocks that were given, or is about to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_told: Option<IdTold>,
}

/// A range of blocks, see [`super::claims`], and the claim by which it is this node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdRange {
    pub range: u32,
    pub claim: Uuid,
}

/// An entry of [`super::claims::ToldFile`], and how far the sequence of blocks was then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdTold {
    pub number: u64,
    pub token: Uuid,
    pub blocks: IdBlocks,
}

/// The node's own sequence of blocks of integer ids: from a random first one upwards, and round.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IdBlocks {
    /// The first block, 1 to [`BLOCKS`]; random, so that nodes that never heard of each other seldom meet.
    pub first: u32,
    /// How many blocks were taken, at most [`BLOCKS`].
    pub taken: u32,
}

impl IdBlocks {
    /// Without ranges: another disk has those that the node had, too, and no block is given until it has claimed one.
    pub const NONE: IdBlocks = IdBlocks { first: BLOCKS, taken: BLOCKS };

    /// The sequence with one more block taken, and that block; `None` when none is left.
    pub fn take(self) -> Option<(IdBlocks, u32)> {
        let block = 1 + ((u64::from(self.first) - 1 + u64::from(self.taken)) % u64::from(BLOCKS)) as u32;
        (self.taken < BLOCKS).then_some((IdBlocks { taken: self.taken + 1, ..self }, block))
    }
}

/// A namespace whose objects are kept and kept warm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    pub name: String,
    pub since_ms: u64,
}

pub fn encode_format(file: &FormatFile) -> Result<Vec<u8>> {
    envelope::seal(file).map(|(bytes, _)| bytes)
}

pub fn decode_format(bytes: &[u8], file: &str) -> Result<FormatFile> {
    envelope::open(bytes, VERSION, file).map(|(body, _)| body)
}

pub fn encode_node(node: &NodeFile) -> Result<Vec<u8>> {
    check(node).map_err(|what| Error::internal(format!("encode node.json: {what}")))?;
    envelope::seal(node).map(|(bytes, _)| bytes)
}

pub fn decode_node(bytes: &[u8], file: &str) -> Result<NodeFile> {
    let (node, _) = envelope::open::<NodeFile>(bytes, NODE_VERSION, file)?;
    check(&node).map_err(|what| Error::corrupt(format!("{file}: {what}")))?;
    Ok(node)
}

/// What must hold, checked before it is written and after it is read.
fn check(node: &NodeFile) -> std::result::Result<(), String> {
    for IdBlocks { first, taken } in node.id_blocks.into_iter().chain(node.id_told.map(|told| told.blocks)) {
        if !((1..=BLOCKS).contains(&first) && taken <= BLOCKS) {
            return Err(format!(
                "{taken} blocks of ids are taken from block {first} on, expected at most {BLOCKS} from one of 1 to {BLOCKS} on"
            ));
        }
    }
    if node.id_ranges.len() > RANGES_MAX || node.id_ranges.iter().any(|own| own.range > RANGE_MAX) {
        return Err(format!(
            "{} ranges of ids, expected at most {RANGES_MAX}, each of 0 to {RANGE_MAX}",
            node.id_ranges.len()
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{
        BLOCKS, FormatFile, IdBlocks, IdRange, IdTold, NODE_VERSION, NodeFile, Pin, VERSION, decode_format,
        decode_node, encode_format, encode_node,
    };
    use crate::error::Kind;
    use crate::format::envelope;
    use uuid::Uuid;

    fn node(id_blocks: Option<IdBlocks>) -> NodeFile {
        NodeFile {
            format: NODE_VERSION,
            node: Uuid::from_u128(2),
            store: Uuid::from_u128(1),
            pins: vec![Pin { name: "a/b/c".into(), since_ms: 5 }],
            id_blocks,
            id_ranges: vec![IdRange { range: 7, claim: Uuid::from_u128(9) }],
            id_told: None,
        }
    }

    #[test]
    fn both_files_come_back_as_they_were_written() {
        let format = FormatFile { format: VERSION, store: Uuid::from_u128(1) };
        assert_eq!(decode_format(&encode_format(&format).unwrap(), "file").unwrap(), format);
        for blocks in [None, Some(IdBlocks { first: 7, taken: BLOCKS })] {
            assert_eq!(decode_node(&encode_node(&node(blocks)).unwrap(), "file").unwrap(), node(blocks));
        }
    }

    #[test]
    fn a_sequence_gives_every_block_once_and_never_block_0() {
        let mut blocks = IdBlocks { first: BLOCKS - 1, taken: 0 };
        let mut seen = vec![false; BLOCKS as usize + 1];
        while let Some((next, block)) = blocks.take() {
            assert!(!std::mem::replace(&mut seen[block as usize], true), "block {block}");
            blocks = next;
        }
        assert_eq!((blocks.taken, seen[0], seen[1..].iter().all(|given| *given)), (BLOCKS, false, true));
    }

    #[test]
    fn a_sequence_that_cannot_be_is_corrupt() {
        for blocks in [(0, 0), (BLOCKS + 1, 0), (1, BLOCKS + 1)] {
            let wrong = node(Some(IdBlocks { first: blocks.0, taken: blocks.1 }));
            assert_eq!(encode_node(&wrong).unwrap_err().kind(), Kind::Internal, "{blocks:?}");
            let (bytes, _) = envelope::seal(&wrong).unwrap();
            assert_eq!(decode_node(&bytes, "file").unwrap_err().kind(), Kind::Corrupt, "{blocks:?}");
        }
        let mut of_no_range = node(None);
        of_no_range.id_ranges[0].range = 1 << 20;
        let blocks = IdBlocks { first: 0, taken: 0 };
        let told = NodeFile { id_told: Some(IdTold { number: 0, token: Uuid::from_u128(3), blocks }), ..node(None) };
        for wrong in [of_no_range, told] {
            assert_eq!(encode_node(&wrong).unwrap_err().kind(), Kind::Internal);
            let (bytes, _) = envelope::seal(&wrong).unwrap();
            assert_eq!(decode_node(&bytes, "file").unwrap_err().kind(), Kind::Corrupt);
        }
    }
}
