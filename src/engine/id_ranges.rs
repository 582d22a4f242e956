//! Ranges of blocks of integer ids that are this node's alone in a bucket: what it claims, and what it has.
//!
//! A disk that was cloned, or put back from a copy, has the same claims as another. So the bucket is told when blocks were given, and by the
//! first pass of each process, in numbered entries: who finds an entry of another disk in place of its own next gives all its ranges up, and claims others.
//!
//! While it has none, the node takes blocks from a random one on, as it does without a bucket. With its first claim the blocks
//! that it took before and that are in no range of its own are given up: their namespaces go on with others.

use super::Engine;
use super::node::{begin, current_range, next_block, next_claimed};
use crate::error::Result;
use crate::format::claims::{RANGE_MAX, RANGES_MAX, range_of};
use crate::format::node::{IdBlocks, IdRange, IdTold};

/// Another range is claimed while fewer blocks than this are left.
const BLOCKS_LEFT_MIN: usize = 8;

impl Engine {
    /// The ranges that this node has claimed.
    pub fn id_ranges(&self) -> Vec<IdRange> {
        self.context.node.file().id_ranges
    }

    /// A range to claim, when one is needed: the one that blocks were taken of before, or any.
    pub fn wants_id_range(&self) -> Option<IdRange> {
        let file = self.context.node.file();
        // Blocks of the ranges that are there, as far as it matters; without any they are anybody's.
        let mut ahead = file.clone();
        let mut left = 0;
        while !file.id_ranges.is_empty()
            && left < BLOCKS_LEFT_MIN
            && let Some((next, _)) = next_block(&ahead, &*self.context.random)
        {
            ahead.id_blocks = Some(next);
            left += 1;
        }
        if left == BLOCKS_LEFT_MIN || file.id_ranges.len() >= RANGES_MAX {
            return None;
        }
        let taken = file.id_blocks.filter(|_| file.id_ranges.is_empty()).and_then(IdBlocks::take);
        let random = &self.context.random;
        let is_own = |range: u32| file.id_ranges.iter().any(|own| own.range == range);
        // There are more ranges than one node may have.
        let any = || loop {
            let range = (random.next_u64() % (u64::from(RANGE_MAX) + 1)) as u32;
            if !is_own(range) {
                break range;
            }
        };
        let range = taken.map_or_else(any, |(_, block)| range_of(block));
        Some(IdRange { range, claim: random.uuid_v7(self.now_millis()) })
    }

    /// A claim is in the bucket: from now on blocks are taken of it, once none is left of the one before.
    pub fn keep_id_range(&self, range: IdRange) -> Result<()> {
        if self.id_ranges().is_empty() {
            self.context.node.note_shown();
        }
        self.context.edit_node(|node| {
            let going_on = match node.id_ranges.is_empty() {
                // What was given before there were claims is not given again.
                true => node.id_blocks.and_then(IdBlocks::take).map(|(_, first)| IdBlocks { first, taken: 0 }),
                false => node.id_blocks.filter(|_| next_claimed(node).is_some()),
            };
            let is_claimed = |blocks: &IdBlocks| !node.id_ranges.is_empty() || current_range(*blocks) == range.range;
            node.id_blocks = Some(going_on.filter(is_claimed).unwrap_or(begin(&range)));
            node.id_ranges.push(range);
            true
        })
    }

    /// A range is another node's: nothing more is taken of it.
    pub fn give_up_id_range(&self, range: u32) -> Result<()> {
        self.context.edit_node(|node| {
            let next = match node.id_ranges.is_empty() {
                true => node.id_blocks.and_then(IdBlocks::take).map(|(_, block)| range_of(block)),
                false => node.id_blocks.map(current_range),
            };
            let after = node.id_ranges.iter().skip_while(|own| own.range != range).nth(1).map(begin);
            let first = node.id_ranges.first().copied();
            node.id_ranges.retain(|own| own.range != range);
            if node.id_ranges.first() != first.as_ref() {
                node.id_told = None;
            }
            match (node.id_ranges.is_empty(), next == Some(range)) {
                (true, _) if first.is_some() => node.id_blocks = Some(IdBlocks::NONE),
                (true, true) => node.id_blocks = None,
                // Where none comes after it, all of the others are used up, and it stays where it was.
                (false, true) => node.id_blocks = after.or(node.id_blocks),
                (_, false) => {}
            }
            true
        })
    }

    /// Below which range the bucket is told of the blocks that were given, and what it was told last; `None` while there is nothing to
    /// tell.
    pub fn told_of_ids(&self) -> Option<(u32, Option<IdTold>)> {
        let file = self.context.node.file();
        file.id_ranges.first().map(|first| (first.range, file.id_told))
    }

    /// What is to be told of the blocks that were given since, or of claims of before this process, kept here before it is. `None`: nothing.
    pub fn tell_of_ids(&self) -> Result<Option<IdTold>> {
        let is_due = self.context.node.is_to_show();
        let token = self.context.random.uuid_v7(self.now_millis());
        let mut told = None;
        self.context.edit_node(|node| {
            let before = node.id_told.map(|told| told.blocks);
            let blocks = node.id_blocks.filter(|blocks| is_due || blocks.taken > 0);
            let news = blocks.filter(|blocks| is_due || Some(*blocks) != before);
            told =
                news.map(|blocks| IdTold { number: node.id_told.map_or(0, |told| told.number + 1), token, blocks });
            node.id_told = told.or(node.id_told);
            told.is_some()
        })?;
        self.context.node.note_shown();
        Ok(told)
    }

    /// Gives all ranges up, as another disk gives ids of them, too.
    pub fn leave_id_ranges(&self) -> Result<()> {
        self.context.edit_node(|node| {
            if !node.id_ranges.is_empty() {
                node.id_blocks = Some(IdBlocks::NONE);
            } else if node.id_blocks != Some(IdBlocks::NONE) {
                // Who has claimed nothing begins somewhere else.
                node.id_blocks = None;
            }
            node.id_ranges.clear();
            node.id_told = None;
            true
        })
    }
}
