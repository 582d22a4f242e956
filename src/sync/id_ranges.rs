//! Claims ranges of integer ids in the bucket, so that no two nodes give the same one.

use bytes::Bytes;

use super::{Sync, keys};
use crate::error::Result;
use crate::format::claims::{ClaimFile, VERSION, decode_claim, encode_claim};
use crate::format::node::IdRange;
use crate::store::{Outcome, commit};

/// How often another range is tried after one that somebody else has.
const ATTEMPTS: usize = 16;

impl Sync {
    /// Makes sure of the ranges that this node has: the bucket may have been emptied since.
    pub(super) async fn assert_id_ranges(&self) -> Result<()> {
        for own in self.engine.id_ranges() {
            if !self.claim(own).await? {
                tracing::warn!(range = own.range, "a range of integer ids is another node's now, others are claimed");
                tokio::task::block_in_place(|| self.engine.give_up_id_range(own.range))?;
            }
        }
        Ok(())
    }

    /// Claims a range when there is need for one. Who writes nothing needs none.
    pub(super) async fn claim_id_ranges(&self) -> Result<()> {
        if self.engine.named().iter().all(|(name, _)| self.engine.follows(name)) {
            return Ok(());
        }
        for _ in 0..ATTEMPTS {
            let Some(wanted) = self.engine.wants_id_range() else { return Ok(()) };
            if self.claim(wanted).await? {
                return tokio::task::block_in_place(|| self.engine.keep_id_range(wanted));
            }
            tokio::task::block_in_place(|| self.engine.give_up_id_range(wanted.range))?;
        }
        // The next pass tries others; until then ids are of the ranges that are there, or refused.
        tracing::warn!("{ATTEMPTS} ranges of integer ids are all taken, others are tried later");
        Ok(())
    }

    /// Who makes no integers as ids needs no range, and who does is refused with a reason: nothing else waits for one.
    pub(super) fn note_id_ranges(&self, done: Result<()>) {
        if let Err(error) = done {
            tracing::warn!(%error, "no range of integer ids is claimed yet, the next pass tries again");
        }
    }

    /// Whether a range is this node's by this claim.
    async fn claim(&self, IdRange { range, claim }: IdRange) -> Result<bool> {
        let file = ClaimFile { format: VERSION, range, node: self.engine.node_id(), claim };
        let key = keys::id_range(range);
        let bytes = Bytes::from(encode_claim(&file)?);
        let is_mine = |found: &[u8]| Ok(decode_claim(found, &key)?.claim == claim);
        let key_of = |_| keys::id_range(range);
        let outcome = commit(&self.bucket, &key_of, 0, bytes, &is_mine, &self.options.patience).await?;
        Ok(outcome == Outcome::Won)
    }
}
