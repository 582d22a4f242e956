//! Where a log's bytes come from, and a small buffer over it.

use crate::error::{Error, Result};

/// A log's bytes, in memory or in a file.
pub trait LogSource {
    fn len(&self) -> u64;

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `out` from `at`, which lies within the length.
    fn read_at(&self, at: u64, out: &mut [u8]) -> Result<()>;
}

impl LogSource for [u8] {
    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }

    fn read_at(&self, at: u64, out: &mut [u8]) -> Result<()> {
        let bytes = usize::try_from(at).ok().and_then(|at| self.get(at..)?.get(..out.len()));
        out.copy_from_slice(bytes.ok_or_else(|| Error::internal(format!("read a log beyond its end at byte {at}")))?);
        Ok(())
    }
}

/// Reads a source mostly from the front to the back.
pub(super) struct Cursor<'a, S: LogSource + ?Sized> {
    source: &'a S,
    /// Where `bytes` begin.
    start: u64,
    bytes: Vec<u8>,
}

impl<'a, S: LogSource + ?Sized> Cursor<'a, S> {
    /// What is read at a time, unless more is asked for at once.
    pub(super) const PIECE_BYTES: usize = 256 << 10;

    pub(super) fn new(source: &'a S) -> Self {
        Cursor { source, start: 0, bytes: Vec::new() }
    }

    pub(super) fn len(&self) -> u64 {
        self.source.len()
    }

    /// `n` bytes from `at` on, or those that there are.
    pub(super) fn up_to(&mut self, at: u64, n: usize) -> Result<&[u8]> {
        let left = self.len().saturating_sub(at);
        let n = usize::try_from(left).map_or(n, |left| left.min(n));
        let is_here = at >= self.start && at + n as u64 <= self.start + self.bytes.len() as u64;
        if !is_here {
            let piece = n.max(Self::PIECE_BYTES);
            let piece = usize::try_from(left).map_or(piece, |left| left.min(piece));
            if self.bytes.capacity() > piece.max(Self::PIECE_BYTES) {
                // A long frame is over.
                self.bytes = Vec::new();
            }
            self.bytes.resize(piece, 0);
            self.start = at;
            if let Err(error) = self.source.read_at(at, &mut self.bytes) {
                self.bytes.clear();
                return Err(error);
            }
        }
        let first = usize::try_from(at - self.start).unwrap_or(usize::MAX);
        Ok(&self.bytes[first..first + n])
    }
}
