//! The vectors of a segment that is not all here: brought before they are compared, or read past the disk where it has no room.

use std::ops::Range;

use roaring::RoaringBitmap;

use super::reader::VectorReader;
use super::top::Top;
use super::{Measure, QueryVector};
use crate::error::Result;
use crate::format::segment::CHUNK_BYTES;
use crate::platform::allowance::Allowance;
use crate::segment::past::{Batch, Past, join};
use crate::segment::sections::Ahead;

/// Vectors that the disk has no room for are held in memory, so many bytes of them at a time.
const PAST_BYTES: usize = 4 << 20;

impl<'a> VectorReader<'a> {
    /// Whether all of them are here.
    pub fn is_full(&self) -> bool {
        self.matrix.is_none_or(|matrix| matrix.is_full())
    }

    /// What has to be read for so many vectors, or fewer, that lie anywhere: at least so many bytes are read at a time of what is
    /// not here.
    pub fn bytes_to_read(&self, vectors: u64) -> u64 {
        let all = self.count() * self.vector_bytes();
        let each = if self.is_full() { self.vector_bytes() } else { self.vector_bytes().max(CHUNK_BYTES as u64) };
        all.min(vectors * each)
    }

    /// Adds a row's vector to what is brought.
    pub fn add_vector(&self, row: u32, ahead: &mut Ahead<'a>) {
        if let Some((matrix, bytes)) = self.in_matrix(row) {
            ahead.add(matrix, bytes);
        }
    }

    /// Adds a row's vector to what is read past the disk.
    pub(in crate::segment) fn add_past(&self, row: u32, batch: &mut Batch<'a>) {
        if let Some((matrix, bytes)) = self.in_matrix(row) {
            batch.add(matrix, bytes);
        }
    }

    /// Whether the vectors of some rows are here, so that [`VectorReader::nearest_of`] waits for nothing.
    pub fn are_here(&self, rows: &[u32]) -> bool {
        rows.iter().all(|row| self.in_matrix(*row).is_none_or(|(matrix, bytes)| !matrix.is_missing(&bytes)))
    }

    /// Adds the vectors of some rows, or all, to what is brought, if there is room for them: else they are compared past the disk.
    pub fn add(&self, rows: Option<&RoaringBitmap>, ahead: &mut Ahead<'a>) {
        if let Some(matrix) = self.matrix.filter(|matrix| !matrix.is_full()) {
            let places = self.chunks_of(rows);
            if self.has_room(&places) {
                places.into_iter().for_each(|place| ahead.add(&matrix, place));
            }
        }
    }

    /// Whether vectors have to be read past the disk to compare them.
    pub(super) fn is_past(&self, rows: Option<&RoaringBitmap>) -> bool {
        !self.is_full() && !self.has_room(&self.chunks_of(rows))
    }

    /// Whether the disk has room for what is not here of some places.
    fn has_room(&self, places: &[Range<usize>]) -> bool {
        let Some(matrix) = &self.matrix else { return true };
        let missing = places.iter().filter(|place| matrix.is_missing(place)).map(|place| place.len() as u64).sum();
        missing == 0 || matrix.has_room(missing)
    }

    /// The chunks that the vectors of some rows, or of all, are in.
    fn chunks_of(&self, rows: Option<&RoaringBitmap>) -> Vec<Range<usize>> {
        let Some(matrix) = &self.matrix else { return Vec::new() };
        let Some(rows) = rows else { return std::iter::once(0..matrix.bytes()).collect() };
        let mut places: Vec<Range<usize>> =
            rows.iter().filter_map(|row| Some(matrix.chunks_of(&self.place_bytes(self.place(row)?)))).collect();
        join(&mut places);
        places
    }

    /// The `k` nearest of some rows that have a vector: distance and row, nearest first, ties by row. Read past the disk.
    pub(super) fn nearest_past(
        &self,
        query: &QueryVector,
        rows: impl Iterator<Item = u32>,
        k: usize,
        allowance: &Allowance,
    ) -> Result<Vec<(f32, u32)>> {
        let Some(matrix) = self.matrix else { return Ok(Vec::new()) };
        let (mut best, measure) = (Top::new(k), Measure::new(query, self.element()));
        let _taken = allowance.take(PAST_BYTES.min(matrix.bytes()))?;
        let mut rows = rows.filter_map(|row| Some((row, self.place(row)?))).peekable();
        while rows.peek().is_some() {
            allowance.check()?;
            let (mut some, mut bytes, mut end) = (Vec::new(), 0, 0);
            while let Some((row, place)) = rows.next_if(|_| bytes < PAST_BYTES) {
                // Rows that follow each other share chunks.
                let chunks = matrix.chunks_of(&self.place_bytes(place));
                bytes += chunks.end - chunks.start.max(end);
                end = chunks.end;
                some.push((row, place));
            }
            let past = Past::read(some.iter().map(|(_, place)| (matrix, self.place_bytes(*place))).collect())?;
            for (row, place) in some {
                let norm = self.norm(place)?;
                if let Some(bytes) = past.get(&matrix, self.place_bytes(place)) {
                    best.offer(measure.distance(bytes, || self.norm_or(norm, bytes)), row);
                }
            }
        }
        Ok(best.into_sorted())
    }
}
