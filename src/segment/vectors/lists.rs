//! The lists of one segment's clusters: where they are, and what is in them.

use std::ops::Range;

use super::centroids::CodedCentroids;
use super::fastscan::prefetch;
use crate::error::{Error, Result};
use crate::format::clusters::{BLOCK, Entry, ListLayout, NO_ROW, Table, block_bytes, residual_bytes};
use crate::segment::past::Past;
use crate::segment::sections::{Ahead, Part};

/// Of the list that is searched next, so many bytes are asked for beforehand; the processor asks for those behind them.
const AHEAD_BYTES: usize = 1_024;

/// The clusters of one segment's column.
#[derive(Clone, Copy)]
pub(super) struct Clusters<'a> {
    pub(super) table: Table<'a>,
    pub(super) centroids: &'a CodedCentroids,
    pub(super) lists: Part<'a>,
    pub(super) name: &'a str,
}

impl<'a> Clusters<'a> {
    /// Where a cluster's list is in its section.
    pub(super) fn place(&self, cluster: u32) -> Range<usize> {
        self.table.entry(cluster as usize).map_or(0..0, |Entry { offset, vectors, .. }| {
            offset..offset.saturating_add(ListLayout::new(vectors, self.table.header().dims).residuals.end)
        })
    }

    /// The bytes of a cluster's list.
    pub(super) fn bytes_of(&self, cluster: u32) -> u64 {
        self.place(cluster).len() as u64
    }

    /// Whether some of a cluster's list is not here.
    pub(super) fn is_missing(&self, cluster: u32) -> bool {
        self.lists.is_missing(&self.place(cluster))
    }

    /// Adds a cluster's list to what is brought.
    pub(super) fn add_list(&self, cluster: u32, ahead: &mut Ahead<'a>) {
        ahead.add(&self.lists, self.place(cluster));
    }

    /// Asks for the first blocks of a list. They are not read, so not checked.
    pub(super) fn prefetch_list(&self, cluster: u32) {
        if let Some(Entry { offset, vectors, .. }) = self.table.entry(cluster as usize) {
            let from = offset.saturating_add(ListLayout::new(vectors, self.table.header().dims).blocks.start);
            self.lists.raw(from..from.saturating_add(AHEAD_BYTES)).into_iter().for_each(prefetch);
        }
    }

    /// The list of a cluster.
    pub(super) fn list(&self, cluster: u32) -> Result<List<'a>> {
        self.list_in(cluster, |range| self.lists.range(range))
    }

    /// Whether `past` has a cluster's list.
    pub(super) fn is_in(&self, cluster: u32, past: &Past) -> bool {
        past.get(&self.lists, self.place(cluster)).is_some()
    }

    /// The list of a cluster, from `past` where that has it.
    pub(super) fn list_past<'l>(&self, cluster: u32, past: &'l Past) -> Result<List<'l>>
    where
        'a: 'l,
    {
        self.list_in(cluster, |range| {
            past.get(&self.lists, range.clone()).map_or_else(|| self.lists.range(range), Ok)
        })
    }

    fn list_in<'l>(&self, cluster: u32, bytes: impl FnOnce(Range<usize>) -> Result<&'l [u8]>) -> Result<List<'l>> {
        let outside =
            || Error::corrupt(format!("{}: the list of cluster {cluster} is outside its section", self.name));
        let dims = self.table.header().dims;
        let Entry { offset, vectors, norm_squared } = self.table.entry(cluster as usize).ok_or_else(outside)?;
        let layout = ListLayout::new(vectors, dims);
        let end = offset.checked_add(layout.residuals.end).ok_or_else(outside)?;
        let list = bytes(offset..end)?;
        Ok(List {
            rows: list[layout.rows].as_chunks().0,
            blocks: &list[layout.blocks],
            residuals: &list[layout.residuals],
            dims,
            norm_squared,
        })
    }
}

/// One cluster's list.
pub(super) struct List<'a> {
    pub(super) rows: &'a [[u8; 4]],
    pub(super) blocks: &'a [u8],
    residuals: &'a [u8],
    pub(super) dims: usize,
    pub(super) norm_squared: f32,
}

impl<'a> List<'a> {
    pub(super) fn vectors(&self) -> usize {
        self.residuals.len() / residual_bytes(self.dims)
    }

    pub(super) fn row(&self, place: usize) -> u32 {
        self.rows.get(place).map_or(NO_ROW, |row| u32::from_le_bytes(*row))
    }

    /// The block that a vector is in, its lane there, and its 8-bit codes.
    pub(super) fn vector(&self, place: usize) -> Option<(&'a [u8], usize, &'a [u8])> {
        let block = self.blocks.chunks_exact(block_bytes(self.dims)).nth(place / BLOCK)?;
        Some((block, place % BLOCK, self.residual(place)?))
    }

    /// The 8-bit codes, scale and base of a vector; `None` for a place that only fills a block.
    pub(super) fn residual(&self, place: usize) -> Option<&'a [u8]> {
        let bytes = residual_bytes(self.dims);
        self.residuals.get(place * bytes..(place + 1) * bytes)
    }
}
