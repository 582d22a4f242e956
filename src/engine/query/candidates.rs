//! The rows of every part of a view that a query may answer with: live, and passing its filter.

use roaring::RoaringBitmap;

use crate::engine::filter::bitmap;
use crate::engine::view::View;
use crate::error::Result;
use crate::model::filter::Filter;
use crate::platform::allowance::Allowance;

/// Rows by part.
pub(super) struct Candidates {
    /// Whether there was a filter; without one, all live rows are candidates.
    pub(super) filtered: bool,
    /// Per segment.
    pub(super) segments: Vec<RoaringBitmap>,
    /// Places of the tail.
    pub(super) tail: RoaringBitmap,
}

impl Candidates {
    pub(super) fn new(view: &View, filter: Option<&Filter>, allowance: &Allowance) -> Result<Self> {
        let filter = filter.unwrap_or(&Filter::All);
        let segments = view
            .segments
            .iter()
            .map(|segment| bitmap::rows(filter, &view.schema, segment, allowance))
            .collect::<Result<Vec<RoaringBitmap>>>()?;
        let tail = match filter {
            Filter::All => view.tail.all(),
            filter => bitmap::tail_rows(filter, &view.schema, &view.tail, allowance)?,
        };
        Ok(Candidates { filtered: !matches!(filter, Filter::All), segments, tail })
    }

    /// How many rows there are.
    pub(super) fn count(&self) -> u64 {
        self.segments.iter().map(RoaringBitmap::len).sum::<u64>() + self.tail.len()
    }
}
