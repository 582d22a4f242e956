//! Sections of a segment that have no room on the disk, held in memory for as long as one reading of the segment lasts.
//!
//! For what is read in any order: an attribute's index, the postings of a term, tables. What is read once, from one end to the
//! other, is read in pieces instead; see `past`.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::platform::mmap::TOO_SMALL;

/// What one reading of all segments of a namespace may hold in memory.
const MEMORY_BYTES_MAX: u64 = 64 << 20;
/// So many pieces of each.
const PIECES_MAX: usize = 1_024;

/// How much more may be held, by readings that are bounded together.
#[derive(Clone)]
pub struct MemoryLeft(Arc<AtomicU64>);

impl Default for MemoryLeft {
    fn default() -> Self {
        MemoryLeft(Arc::new(AtomicU64::new(MEMORY_BYTES_MAX)))
    }
}

/// Some bytes, and where they begin in the file.
type Piece = OnceLock<(u64, Bytes)>;

/// Pieces of one file, each by its place there. They stay until all of it goes.
pub(in crate::segment) struct Memory {
    /// Made with the first of them: hardly any reading has one.
    pieces: OnceLock<Box<[Piece]>>,
    used: AtomicUsize,
    left: MemoryLeft,
}

impl Memory {
    pub(in crate::segment) fn new(left: &MemoryLeft) -> Self {
        Memory { pieces: OnceLock::new(), used: AtomicUsize::new(0), left: left.clone() }
    }

    /// An empty one that is bounded together with this one.
    pub(in crate::segment) fn beside(&self) -> Self {
        Self::new(&self.left)
    }

    /// Some bytes of the file, if one piece has all of them.
    pub(in crate::segment) fn get(&self, range: &Range<u64>) -> Option<&[u8]> {
        let used = self.used.load(Ordering::Acquire).min(PIECES_MAX);
        self.pieces.get()?[..used].iter().filter_map(OnceLock::get).find_map(|(start, bytes)| {
            let from = usize::try_from(range.start.checked_sub(*start)?).ok()?;
            bytes.get(from..from.checked_add(usize::try_from(range.end - range.start).ok()?)?)
        })
    }

    /// Takes memory for bytes of `what` that are about to be read.
    pub(in crate::segment) fn take(&self, bytes: usize, what: &str) -> Result<()> {
        let less = |left: u64| left.checked_sub(bytes as u64);
        if self.left.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok() {
            return Ok(());
        }
        Err(Error::unavailable(format!(
            "{bytes} bytes of {what} are needed at once: the tier has no room for them, nor have the {MEMORY_BYTES_MAX} bytes of memory for what has none"
        ))
        .with_code(TOO_SMALL)
        .with_hint(format!("raise storage.tier_bytes_max to more than {} bytes", bytes.saturating_mul(4))))
    }

    /// Holds bytes of the file from `start` on.
    pub(in crate::segment) fn hold(&self, start: u64, bytes: Bytes, what: &str) -> Result<&[u8]> {
        let pieces = self.pieces.get_or_init(|| (0..PIECES_MAX).map(|_| OnceLock::new()).collect());
        let place = pieces.get(self.used.fetch_add(1, Ordering::AcqRel)).ok_or_else(|| {
            Error::unavailable(format!(
                "more than {PIECES_MAX} pieces of {what} are needed at once, and the tier has no room"
            ))
            .with_code(TOO_SMALL)
            .with_hint("raise storage.tier_bytes_max, or ask for less at once")
        })?;
        Ok(&place.get_or_init(|| (start, bytes)).1)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::{MEMORY_BYTES_MAX, Memory, MemoryLeft, PIECES_MAX};

    #[test]
    fn pieces_are_found_by_their_place() {
        let memory = Memory::new(&MemoryLeft::default());
        assert_eq!(memory.hold(100, Bytes::from_static(b"abcdef"), "it").unwrap(), b"abcdef");
        assert_eq!(memory.get(&(102..104)), Some(&b"cd"[..]));
        for range in [99..101, 105..107, 0..1, 106..107] {
            assert_eq!(memory.get(&range), None, "{range:?}");
        }
    }

    #[test]
    fn all_readings_together_hold_no_more_than_their_bound() {
        let left = MemoryLeft::default();
        let (one, other) = (Memory::new(&left), Memory::new(&left));
        one.take(MEMORY_BYTES_MAX as usize - 10, "it").unwrap();
        other.take(10, "it").unwrap();
        let error = one.take(1, "column 3 of a segment").unwrap_err();
        assert_eq!(error.code(), "tier_too_small");
        assert!(error.message().contains("1 bytes of column 3 of a segment") && error.hint().is_some(), "{error}");
        for at in 0..PIECES_MAX {
            other.hold(at as u64, Bytes::new(), "it").unwrap();
        }
        assert_eq!(other.hold(0, Bytes::new(), "it").unwrap_err().code(), "tier_too_small");
    }
}
