//! The rows nearest to a vector: by clusters where a segment has them and the query allows what they miss, else exactly.
//!
//! The tail and what is compared exactly come first: what they find narrows the search of clusters.

use roaring::RoaringBitmap;

use super::Work;
use super::candidates::Candidates;
use super::hits::{Hit, merge, smallest_of_tail};
use super::plan::Target;
use crate::engine::view::{SegmentView, View};
use crate::error::{Error, Result};
use crate::model::value::Value;
use crate::platform::allowance::Allowance;
use crate::segment::vectors::{ClusterQuery, VectorReader, Wanted, distance};

/// Segments with more bytes of vectors to compare than this are searched side by side.
const PARALLEL_BYTES_MIN: u64 = 16 << 20;
/// Segments that are searched at a time.
const PARALLEL_MAX: usize = 4;
/// Vectors of no more bytes than these are compared one by one as fast as clusters are searched.
const EXACT_BYTES: u64 = 3 << 20;
/// An answer of more than one in so many of the candidates is found by comparing them all.
const EXACT_SHARE: u64 = 16;

/// How a segment's vectors are searched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Method {
    Exact,
    Clusters,
}

/// How `candidates` of a segment's vectors are searched for the `k` nearest.
pub(super) fn method(vectors: &VectorReader, target: &Target, candidates: u64, k: usize) -> Result<Method> {
    let bytes = candidates * vectors.vector_bytes();
    let is_worth = bytes > EXACT_BYTES && candidates / EXACT_SHARE >= k as u64;
    if target.recall.is_exact() || !is_worth || vectors.clusters()?.is_none() {
        return Ok(Method::Exact);
    }
    Ok(Method::Clusters)
}

/// The `k` nearest, nearest first.
pub(super) fn run(
    view: &View,
    target: &Target,
    candidates: &Candidates,
    k: usize,
    work: &mut Work,
) -> Result<Vec<Hit>> {
    let mut parts: Vec<Vec<(f32, u32)>> = vec![Vec::new(); view.segments.len()];
    let (mut exact, mut by_clusters) = (Vec::new(), Vec::new());
    let mut bytes = 0;
    for (part, (segment, rows)) in view.segments.iter().zip(&candidates.segments).enumerate() {
        work.allowance.check()?;
        let Some(vectors) = segment.segment.vectors(target.column)? else { continue };
        let compared = vectors.count().min(rows.len());
        let method = method(&vectors, target, compared, k)?;
        let rows = candidates.filtered.then_some(rows);
        let job = Job { part, segment, vectors, rows, target, k, allowance: work.allowance };
        match method {
            Method::Clusters => by_clusters.push(job),
            Method::Exact => {
                work.exhaustive += compared;
                bytes += compared * job.vectors.vector_bytes();
                exact.push(job);
            }
        }
    }
    work.bytes += bytes;
    let found = if bytes < PARALLEL_BYTES_MIN || exact.len() < 2 {
        exact.iter().map(Job::run).collect::<Result<Vec<_>>>()?
    } else {
        side_by_side(&exact)?
    };
    exact.iter().zip(found).for_each(|(job, found)| parts[job.part] = found);
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
    search_clusters(by_clusters, target, &mut parts, k, work)?;
    merge(view, parts, k, false)
}

/// Searches clusters segment by segment, the largest first, each with what was found before.
fn search_clusters(
    mut jobs: Vec<Job>,
    target: &Target,
    parts: &mut [Vec<(f32, u32)>],
    k: usize,
    work: &mut Work,
) -> Result<()> {
    if jobs.is_empty() {
        return Ok(());
    }
    let by_codes = ClusterQuery::new(&target.query);
    jobs.sort_by_key(|job| std::cmp::Reverse(job.vectors.count()));
    let mut known: Vec<f32> = parts.iter().flatten().map(|(distance, _)| *distance).collect();
    for job in jobs {
        work.allowance.check()?;
        known.sort_unstable_by(f32::total_cmp);
        known.truncate(k);
        let wanted = Wanted { k, recall: target.recall.share(), known: &known };
        let dead = &job.segment.dead;
        let found = match job.vectors.nearest_in_clusters(
            &target.query,
            &by_codes,
            &wanted,
            job.rows,
            dead,
            work.allowance,
        )? {
            Some(probed) => {
                work.exhaustive += probed.refined;
                work.bytes += probed.refined * job.vectors.vector_bytes();
                probed.nearest
            }
            None => job.run()?,
        };
        known.extend(found.iter().map(|(distance, _)| *distance));
        parts[job.part] = found;
    }
    Ok(())
}

/// The search of one segment.
struct Job<'a> {
    part: usize,
    segment: &'a SegmentView,
    vectors: VectorReader<'a>,
    rows: Option<&'a RoaringBitmap>,
    target: &'a Target,
    k: usize,
    allowance: &'a Allowance,
}

impl Job<'_> {
    /// Compares everything.
    fn run(&self) -> Result<Vec<(f32, u32)>> {
        self.vectors.nearest(&self.target.query, self.rows, &self.segment.dead, self.k, self.allowance)
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
