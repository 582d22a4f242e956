//! Bytes of segments that are not all here, read past what is kept of them: for what is looked at once, and has no room.

use std::ops::Range;

use bytes::Bytes;

use super::sections::{Ahead, Part};
use crate::error::{Error, Result};
use crate::platform::mmap::lacks_room;
use crate::platform::reads;

/// What is looked at once and has no room is held in memory, so many bytes of it at a time.
pub(in crate::segment) const PAST_BYTES: usize = 8 << 20;

/// Pieces of sections, in memory.
#[derive(Default)]
pub(in crate::segment) struct Past<'a> {
    pieces: Vec<(Part<'a>, usize, Bytes)>,
}

impl<'a> Past<'a> {
    /// Reads ranges of sections, all side by side, and checks them.
    pub(in crate::segment) fn read(wanted: Vec<(Part<'a>, Range<usize>)>) -> Result<Self> {
        let mut files: Vec<(Part<'a>, Vec<Range<usize>>)> = Vec::new();
        for (part, range) in wanted {
            let chunks = part.chunks_of(&range);
            match files.iter_mut().find(|(other, _)| other.is_same(&part)) {
                Some((_, ranges)) => ranges.push(chunks),
                None => files.push((part, vec![chunks])),
            }
        }
        files.iter_mut().for_each(|(_, ranges)| join(ranges));
        reads::brought(files.iter().flat_map(|(_, ranges)| ranges).map(|range| range.len() as u64).sum());
        let coming = files.iter().map(|(part, ranges)| part.read_past(ranges)).collect::<Result<Vec<_>>>()?;
        let mut pieces = Vec::new();
        for ((part, ranges), coming) in files.into_iter().zip(coming) {
            for (range, mut bytes) in ranges.into_iter().zip(coming()?) {
                if let Err(wrong) = part.check_past(&range, &bytes) {
                    tracing::warn!(error = %wrong, "the bytes that came are wrong, they are read again");
                    let again = part.read_past(std::slice::from_ref(&range))?()?;
                    bytes = again.into_iter().next().ok_or_else(|| Error::internal("a read without an answer"))?;
                    part.check_past(&range, &bytes)?;
                }
                pieces.push((part, range.start, bytes));
            }
        }
        Ok(Past { pieces })
    }

    /// Some bytes of a section that are here or were read, or else are read instead of all that was where they have no room.
    pub(in crate::segment) fn bytes_of(&mut self, part: &Part<'a>, range: Range<usize>) -> Result<&[u8]> {
        if self.get(part, range.clone()).is_none() {
            match part.range_here(range.clone()) {
                Err(full) if lacks_room(&full) => *self = Past::read(vec![(*part, range.clone())])?,
                here => return here,
            }
        }
        self.get(part, range).ok_or_else(|| Error::internal("bytes that were read past the disk are not there"))
    }

    /// The pieces: each with its section, and its place there.
    pub(in crate::segment) fn into_pieces(self) -> Vec<(Part<'a>, usize, Bytes)> {
        self.pieces
    }

    /// Some bytes of a section, if all of them were read.
    pub(in crate::segment) fn get(&self, part: &Part, range: Range<usize>) -> Option<&[u8]> {
        let of_part = self.pieces.iter().filter(|(other, ..)| other.is_same(part));
        of_part
            .filter(|(_, start, _)| *start <= range.start)
            .find_map(|(_, start, bytes)| bytes.get(range.start - start..range.end.checked_sub(*start)?))
    }
}

/// What of sections is read past the disk next, up to [`PAST_BYTES`].
#[derive(Default)]
pub(in crate::segment) struct Batch<'a> {
    wanted: Vec<(Part<'a>, Range<usize>)>,
    /// Of each section the end of the chunk that was added last.
    ends: Vec<(Part<'a>, usize)>,
    bytes: usize,
}

impl<'a> Batch<'a> {
    /// Adds some bytes of a section, unless they are here. Those of each section are best added in their order.
    pub(in crate::segment) fn add(&mut self, part: &Part<'a>, range: Range<usize>) {
        if !part.is_missing(&range) {
            return;
        }
        let chunks = part.chunks_of(&range);
        let at = self.ends.iter().position(|(other, _)| other.is_same(part)).unwrap_or_else(|| {
            self.ends.push((*part, 0));
            self.ends.len() - 1
        });
        let end = &mut self.ends[at].1;
        self.bytes += chunks.end.saturating_sub(chunks.start.max(*end));
        *end = chunks.end.max(*end);
        self.wanted.push((*part, range));
    }

    pub(in crate::segment) fn is_full(&self) -> bool {
        self.bytes >= PAST_BYTES
    }

    pub(in crate::segment) fn read(self) -> Result<Past<'a>> {
        Past::read(self.wanted)
    }

    /// Brings it, or reads it past the disk where that has no room.
    pub(in crate::segment) fn bring_or_read(self) -> Result<Past<'a>> {
        if self.wanted.first().is_some_and(|(part, _)| !part.has_room(self.bytes as u64)) {
            return self.read();
        }
        let mut ahead = Ahead::new();
        self.wanted.iter().for_each(|(part, range)| ahead.add(part, range.clone()));
        ahead.bring().map(|()| Past::default())
    }
}

/// Makes ranges that touch each other one.
pub(in crate::segment) fn join(ranges: &mut Vec<Range<usize>>) {
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup_by(|next, range| {
        let touches = next.start <= range.end;
        if touches {
            range.end = range.end.max(next.end);
        }
        touches
    });
}

#[cfg(test)]
mod tests {
    #[test]
    fn ranges_that_touch_are_read_as_one() {
        let mut ranges = vec![8..12, 0..4, 20..30, 4..8, 22..24];
        super::join(&mut ranges);
        assert_eq!(ranges, [0..12, 20..30]);
    }
}
