//! The rows nearest to a vector, exactly: the filter first, then every vector that is left is compared.

use roaring::RoaringBitmap;

use super::Work;
use super::candidates::Candidates;
use super::hits::{Hit, merge, smallest_of_tail};
use super::plan::Target;
use crate::engine::view::{SegmentView, View};
use crate::error::{Error, Result};
use crate::model::value::Value;
use crate::segment::vectors::distance;

/// Segments with more bytes of vectors to compare than this are searched side by side.
const PARALLEL_BYTES_MIN: u64 = 16 << 20;
/// Segments that are searched at a time.
const PARALLEL_MAX: usize = 4;

/// The `k` nearest, nearest first.
pub(super) fn run(
    view: &View,
    target: &Target,
    candidates: &Candidates,
    k: usize,
    work: &mut Work,
) -> Result<Vec<Hit>> {
    let mut jobs = Vec::with_capacity(view.segments.len());
    let mut bytes = 0;
    for (segment, rows) in view.segments.iter().zip(&candidates.segments) {
        work.allowance.check()?;
        if let Some(vectors) = segment.segment.vectors(target.column)? {
            let compared = vectors.count().min(rows.len());
            work.exhaustive += compared;
            bytes += compared * u64::from(vectors.dims()) * vectors.element().bytes() as u64;
        }
        jobs.push(Job { segment, rows: candidates.filtered.then_some(rows), target, k });
    }
    work.bytes += bytes;
    let mut parts = if bytes < PARALLEL_BYTES_MIN || jobs.len() < 2 {
        jobs.iter().map(Job::run).collect::<Result<Vec<_>>>()?
    } else {
        side_by_side(&jobs)?
    };
    let mut tail = Vec::new();
    for (place, row) in view.tail.iter().filter(|(place, _)| candidates.tail.contains(*place)) {
        if let Some(value @ Value::Vector(vector)) = row.document.get(target.column)
            && vector.dims() == target.query.values().len()
        {
            work.bytes += value.logical_bytes();
            tail.push((distance(&target.query, vector), place));
        }
    }
    parts.push(smallest_of_tail(view, tail, k));
    merge(view, parts, k, false)
}

/// The search of one segment.
struct Job<'a> {
    segment: &'a SegmentView,
    rows: Option<&'a RoaringBitmap>,
    target: &'a Target,
    k: usize,
}

impl Job<'_> {
    fn run(&self) -> Result<Vec<(f32, u32)>> {
        match self.segment.segment.vectors(self.target.column)? {
            Some(vectors) => vectors.nearest(&self.target.query, self.rows, &self.segment.dead, self.k),
            None => Ok(Vec::new()),
        }
    }
}

/// Runs searches on threads of their own: one alone does not use all of the memory's bandwidth.
fn side_by_side(jobs: &[Job<'_>]) -> Result<Vec<Vec<(f32, u32)>>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).clamp(1, PARALLEL_MAX);
    let each = jobs.len().div_ceil(threads);
    let parts = std::thread::scope(|scope| {
        let running: Vec<_> = jobs
            .chunks(each)
            .map(|jobs| scope.spawn(move || jobs.iter().map(Job::run).collect::<Result<Vec<_>>>()))
            .collect();
        let stopped = || Error::internal("a search of a segment stopped without an answer");
        running.into_iter().map(|thread| thread.join().map_err(|_| stopped())?).collect::<Result<Vec<_>>>()
    })?;
    Ok(parts.into_iter().flatten().collect())
}
