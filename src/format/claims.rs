//! Claims of ranges of integer ids' blocks, `_ids/{range:020}.json` in a bucket, and what nodes told of the blocks they gave,
//! `_ids/{range:020}/{number:020}.json`: created once, never changed.
//!
//! Invariant: a range has one claim, and only the node whose `node.json` names that claim gives ids of its blocks.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::envelope;
use super::node::BLOCKS;
use crate::error::{Error, Result};

pub const VERSION: u32 = 1;
/// Blocks of one range: as many namespaces can be given ids of their own before a node claims again.
pub const RANGE_BLOCKS: u32 = 64;
/// Ranges are numbered from 0 to this.
pub const RANGE_MAX: u32 = BLOCKS / RANGE_BLOCKS;
/// The most ranges of one node.
pub const RANGES_MAX: usize = 1_024;

/// A claim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimFile {
    pub format: u32,
    pub range: u32,
    /// Whose it is, for a person.
    pub node: Uuid,
    /// Tells this claim from any other.
    pub claim: Uuid,
}

/// What a node told of the blocks that it gave: no more than that it gave some. Entries are numbered from 0, below the first range of
/// the node, and each has a token that one node knows. Of two disks with the same claims the one that comes second finds another's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToldFile {
    pub format: u32,
    pub range: u32,
    pub number: u64,
    /// Whose it is, for a person.
    pub node: Uuid,
    /// Tells this entry from any other.
    pub token: Uuid,
}

/// The range that a block is in.
pub fn range_of(block: u32) -> u32 {
    block / RANGE_BLOCKS
}

/// The first block of a range; block 0 is never given.
pub fn first_of(range: u32) -> u32 {
    (range * RANGE_BLOCKS).max(1)
}

pub fn encode_claim(claim: &ClaimFile) -> Result<Vec<u8>> {
    check(claim.range).map_err(|what| Error::internal(format!("encode a claim: {what}")))?;
    envelope::seal(claim).map(|(bytes, _)| bytes)
}

pub fn decode_claim(bytes: &[u8], file: &str) -> Result<ClaimFile> {
    let (claim, _) = envelope::open::<ClaimFile>(bytes, VERSION, file)?;
    check(claim.range).map_err(|what| Error::corrupt(format!("{file}: {what}")))?;
    Ok(claim)
}

pub fn encode_told(told: &ToldFile) -> Result<Vec<u8>> {
    check(told.range).map_err(|what| Error::internal(format!("encode what was told of ids: {what}")))?;
    envelope::seal(told).map(|(bytes, _)| bytes)
}

pub fn decode_told(bytes: &[u8], file: &str) -> Result<ToldFile> {
    let (told, _) = envelope::open::<ToldFile>(bytes, VERSION, file)?;
    check(told.range).map_err(|what| Error::corrupt(format!("{file}: {what}")))?;
    Ok(told)
}

fn check(range: u32) -> std::result::Result<(), String> {
    if range > RANGE_MAX {
        return Err(format!("range {range}, expected at most {RANGE_MAX}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{ClaimFile, RANGE_MAX, VERSION, decode_claim, encode_claim, first_of, range_of};
    use crate::error::Kind;
    use crate::format::node::BLOCKS;
    use uuid::Uuid;

    fn claim(range: u32) -> ClaimFile {
        ClaimFile { format: VERSION, range, node: Uuid::from_u128(1), claim: Uuid::from_u128(2) }
    }

    #[test]
    fn every_block_is_in_one_range() {
        assert_eq!((first_of(0), range_of(1), range_of(63), range_of(64), first_of(1)), (1, 0, 0, 1, 64));
        assert_eq!((range_of(BLOCKS), range_of(first_of(RANGE_MAX))), (RANGE_MAX, RANGE_MAX));
    }

    #[test]
    fn a_claim_comes_back_as_it_was_written_and_one_of_no_range_is_corrupt() {
        assert_eq!(decode_claim(&encode_claim(&claim(7)).unwrap(), "file").unwrap(), claim(7));
        assert_eq!(encode_claim(&claim(RANGE_MAX + 1)).unwrap_err().kind(), Kind::Internal);
        let (bytes, _) = crate::format::envelope::seal(&claim(RANGE_MAX + 1)).unwrap();
        assert_eq!(decode_claim(&bytes, "file").unwrap_err().kind(), Kind::Corrupt);
    }
}
