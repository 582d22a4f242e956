//! What belongs to this node and to no bucket, as `node.json` has it: identity, pins, and the blocks of integer ids that
//! its namespaces hand out.
//!
//! Invariants:
//! - A change counts only once `node.json` has it durably. So no block of ids is given twice, not after a crash either: at
//!   worst a block is lost that nobody has an id of.
//! - The copy in redb is written first and is never older than the file, so that a damaged file can be put back from it
//!   without giving a block again.

use std::cmp;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::layout::Layout;
use crate::error::{Context as _, Error, Kind, Result};
use crate::format::claims::{RANGE_BLOCKS, RANGES_MAX, first_of, range_of};
use crate::format::node::{BLOCKS, IdBlocks, IdRange, NODE_VERSION, NodeFile, encode_node};
use crate::meta::Meta;
use crate::platform::disk::{Disk, publish};
use crate::platform::random::Random;

/// How many ranges are claimed before blocks are taken of them.
const CLAIMED_AHEAD: usize = 1;

/// `node.json`, and its copy in the index.
pub struct Node {
    file: Mutex<NodeFile>,
    /// Whether the bucket was told of claims since this process began: until then a copy of the disk may have them, too.
    shown: AtomicBool,
}

impl Node {
    pub fn new(file: NodeFile) -> Self {
        Node { file: Mutex::new(file), shown: AtomicBool::new(false) }
    }

    pub fn file(&self) -> NodeFile {
        self.lock().clone()
    }

    /// Changes the file, durably; `edit` says whether there is anything to change.
    pub fn edit(
        &self,
        (disk, layout, meta): (&dyn Disk, &Layout, &Meta),
        edit: impl FnOnce(&mut NodeFile) -> bool,
    ) -> Result<()> {
        let mut file = self.lock();
        let mut next = file.clone();
        if edit(&mut next) {
            write(disk, layout, meta, &mut next)?;
            *file = next;
        }
        Ok(())
    }

    /// A block of integer ids that nobody on this node was ever given.
    pub fn take_block(&self, (disk, layout, meta): (&dyn Disk, &Layout, &Meta), random: &dyn Random) -> Result<u32> {
        let mut file = self.lock();
        let mut next = file.clone();
        let Some((blocks, block)) = next_block(&next, random) else {
            let used_up = |what| {
                Error::new(Kind::Invalid, format!("all {what} blocks of integer ids of this node are given out"))
                    .with_code("ids_used_up")
                    .with_hint("choose ids of your own, or use a namespace with UUIDs")
            };
            return Err(match next.id_ranges.len() {
                0 if next.id_blocks != Some(IdBlocks::NONE) => used_up(BLOCKS),
                RANGES_MAX.. => used_up(RANGES_MAX as u32 * RANGE_BLOCKS),
                _ => Error::unavailable("all integer ids that this node has claimed in the bucket are given out")
                    .with_code("ids_unclaimed")
                    .with_hint("the next sync claims others; ids of your own, and UUIDs, need no claim"),
            });
        };
        next.id_blocks = Some(blocks);
        write(disk, layout, meta, &mut next)?;
        *file = next;
        Ok(block)
    }

    /// Keeps a copy in an index that may have been begun anew.
    pub fn keep(&self, meta: &Meta) -> Result<()> {
        meta.keep_node(&encode_node(&self.lock())?)
    }

    /// Whether ids of a block may be given: the node claimed it, or has never claimed any.
    pub fn owns_block(&self, block: u32) -> bool {
        owns(&self.lock(), block)
    }

    /// Whether the bucket is to be told of the node's claims, though no block was given since.
    pub fn is_to_show(&self) -> bool {
        !self.shown.load(Ordering::SeqCst)
    }

    /// It was told of them.
    pub fn note_shown(&self) {
        self.shown.store(true, Ordering::SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, NodeFile> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The next block that nobody was given, and the sequence from then on: of the ranges that were claimed, or from a random one on
/// while there are none.
pub fn next_block(file: &NodeFile, random: &dyn Random) -> Option<(IdBlocks, u32)> {
    let any = || IdBlocks { first: 1 + (random.next_u64() % u64::from(BLOCKS)) as u32, taken: 0 };
    match file.id_ranges.is_empty() {
        true => file.id_blocks.unwrap_or_else(any).take(),
        false => next_claimed(file),
    }
}

/// The next block of the ranges that were claimed: one range after another, in the order of the claims. The range that a block is
/// followed by may have been used up long ago, when it was claimed before.
pub fn next_claimed(file: &NodeFile) -> Option<(IdBlocks, u32)> {
    let blocks = file.id_blocks?;
    let at = place_of(file, current_range(blocks))?;
    // Only the last is not begun, but where a node once went from the end of a range on into one that was claimed before.
    if at + CLAIMED_AHEAD < file.id_ranges.len().saturating_sub(1) {
        return None;
    }
    let next = blocks.take().filter(|(_, block)| range_of(*block) == current_range(blocks));
    next.or_else(|| begin(file.id_ranges.get(at + 1)?).take())
}

/// The blocks of a range of which none is taken.
pub fn begin(own: &IdRange) -> IdBlocks {
    IdBlocks { first: first_of(own.range), taken: 0 }
}

/// The range that blocks are taken of.
pub fn current_range(blocks: IdBlocks) -> u32 {
    let last = IdBlocks { taken: blocks.taken.saturating_sub(1), ..blocks };
    range_of(last.take().map_or(blocks.first, |(_, block)| block))
}

/// Which of the ranges that were claimed a range is.
fn place_of(file: &NodeFile, range: u32) -> Option<usize> {
    file.id_ranges.iter().position(|own| own.range == range)
}

fn owns(file: &NodeFile, block: u32) -> bool {
    match file.id_ranges.is_empty() {
        true => file.id_blocks != Some(IdBlocks::NONE),
        false => place_of(file, range_of(block)).is_some(),
    }
}

/// Whether a block of a range that the node has claimed is one that it has given. Of blocks of others nothing is known, and they
/// count as given; so does what a node that once gave blocks again may have.
fn is_given(file: &NodeFile, block: u32) -> bool {
    let Some(blocks) = file.id_blocks else { return true };
    let place = |range| place_of(file, range);
    let (Some(at), Some(now)) = (place(range_of(block)), place(current_range(blocks))) else { return true };
    let next = blocks.take().map(|(_, next)| next).filter(|next| range_of(*next) == range_of(block));
    match at.cmp(&now) {
        cmp::Ordering::Less => true,
        cmp::Ordering::Equal => next.is_none_or(|next| block < next),
        cmp::Ordering::Greater => now + CLAIMED_AHEAD < file.id_ranges.len() - 1,
    }
}

/// Of the file and its copy, the one that knows of all blocks that were given; where neither does, all ranges are given up. The copy
/// is never older than the file, unless one of the two was put back from somewhere else.
pub fn latest(file: NodeFile, copy: NodeFile) -> NodeFile {
    if file.node != copy.node || covers(&file, &copy) {
        return file;
    }
    if covers(&copy, &file) {
        return copy;
    }
    NodeFile { id_ranges: Vec::new(), id_blocks: Some(IdBlocks::NONE), id_told: None, ..file }
}

/// Whether `a` may be what became of `b`.
fn covers(a: &NodeFile, b: &NodeFile) -> bool {
    let Some(blocks) = b.id_blocks else { return true };
    if b.id_ranges.is_empty() {
        return match a.id_blocks {
            Some(known) if a.id_ranges.is_empty() => known.first == blocks.first && known.taken >= blocks.taken,
            // With its first claim a node gives up what it took before.
            known => known.is_some(),
        };
    }
    let last = blocks.taken.checked_sub(1).and_then(|taken| IdBlocks { taken, ..blocks }.take());
    a.id_ranges.starts_with(&b.id_ranges) && last.is_none_or(|(_, block)| is_given(a, block))
}

fn write(disk: &dyn Disk, layout: &Layout, meta: &Meta, next: &mut NodeFile) -> Result<()> {
    next.format = NODE_VERSION;
    let bytes = encode_node(next)?;
    meta.keep_node(&bytes)?;
    let path = layout.node_file();
    publish(disk, &path, &bytes).context(|| format!("write {}", path.display()))
}
