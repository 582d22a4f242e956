//! Claims ranges of integer ids in the bucket, so that no two nodes give the same one, and finds out whether another disk has the same claims.

use bytes::Bytes;

use super::{Sync, keys};
use crate::error::Result;
use crate::format::claims::{ClaimFile, ToldFile, VERSION, decode_claim, decode_told, encode_claim, encode_told};
use crate::format::node::{IdRange, IdTold};
use crate::store::{Outcome, commit};

/// How often another range is tried after one that somebody else has.
const ATTEMPTS: usize = 16;

/// What the bucket has of the blocks of ids that this node gave, as far as this process knows.
#[derive(Default)]
pub(super) struct Told {
    told: Option<(u32, Option<IdTold>)>,
    /// Somebody else may have told it something since.
    pub is_old: bool,
}

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

    /// What a pass does for ids.
    pub(super) async fn settle_ids(&self, known: &mut Told) -> Result<()> {
        // Told before: a claim begins a new sequence, of which nothing is given.
        let told = self.tell_of_ids(known).await;
        let had_any = self.engine.told_of_ids().is_some();
        self.claim_id_ranges().await?;
        if !had_any {
            // Nobody else can have told anything below what was claimed just now.
            known.told = self.engine.told_of_ids();
        }
        told
    }

    /// Tells the bucket that blocks were given, where some were or this process tells it for the first time, and finds out whether a disk
    /// with the same claims told it something: then others are claimed. `known`: what the bucket is known to have.
    pub(super) async fn tell_of_ids(&self, known: &mut Told) -> Result<()> {
        let Some((range, told)) = self.engine.told_of_ids() else { return Ok(()) };
        let mut is_mine = true;
        if known.told != Some((range, told)) || std::mem::take(&mut known.is_old) {
            // It may not have reached the bucket, and somebody else may have gone on.
            if let Some(told) = told {
                is_mine = self.tell(range, told).await?;
            }
            let next = keys::id_told(range, told.map_or(0, |told| told.number + 1));
            is_mine = is_mine && self.bucket.get(&next, &self.options.patience).await?.is_none();
        }
        let news = if is_mine { tokio::task::block_in_place(|| self.engine.tell_of_ids())? } else { None };
        if let Some(news) = news {
            is_mine = self.tell(range, news).await?;
        }
        if is_mine {
            *known = Told { told: Some((range, news.or(told))), is_old: false };
            return Ok(());
        }
        tracing::warn!(
            range,
            "another disk makes integer ids of what this node claimed: it was cloned, or put back from a copy; others are claimed, and \
             what both gave is the same on both"
        );
        *known = Told::default();
        tokio::task::block_in_place(|| self.engine.leave_id_ranges())?;
        self.claim_id_ranges().await
    }

    /// Whether an entry is this node's.
    async fn tell(&self, range: u32, IdTold { number, token, .. }: IdTold) -> Result<bool> {
        self.before_carrying().await?;
        let file = ToldFile { format: VERSION, range, number, node: self.engine.node_id(), token };
        let key_of = |number| keys::id_told(range, number);
        let is_mine = |found: &[u8]| Ok(decode_told(found, &key_of(number))?.token == token);
        let bytes = Bytes::from(encode_told(&file)?);
        let outcome = commit(&self.bucket, &key_of, number, bytes, &is_mine, &self.options.patience).await?;
        Ok(outcome == Outcome::Won)
    }

    /// Who makes no integers as ids needs no range, and who does is refused with a reason: nothing else waits for one.
    pub(super) fn note_id_ranges(&self, done: Result<()>) {
        if let Err(error) = done {
            tracing::warn!(%error, "the claims of integer ids are not settled with the bucket yet, the next pass tries again");
        }
    }

    /// Whether a range is this node's by this claim.
    async fn claim(&self, IdRange { range, claim }: IdRange) -> Result<bool> {
        self.before_carrying().await?;
        let file = ClaimFile { format: VERSION, range, node: self.engine.node_id(), claim };
        let key = keys::id_range(range);
        let bytes = Bytes::from(encode_claim(&file)?);
        let is_mine = |found: &[u8]| Ok(decode_claim(found, &key)?.claim == claim);
        let key_of = |_| keys::id_range(range);
        let outcome = commit(&self.bucket, &key_of, 0, bytes, &is_mine, &self.options.patience).await?;
        Ok(outcome == Outcome::Won)
    }
}
