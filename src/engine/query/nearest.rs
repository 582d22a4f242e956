//! The rows nearest to a vector, or to the vectors of a query's tokens: by clusters where a segment has them and the query allows
//! what they miss, else exactly.
//!
//! The tail and what is compared exactly come first: what they find narrows the search of clusters.

use roaring::RoaringBitmap;

use super::candidates::Candidates;
use super::hits::{Hit, merge, smallest_of_tail};
use super::plan::{Operand, Target};
use super::{Work, late};
use crate::engine::view::{SegmentView, View};
use crate::error::{Error, Result};
use crate::model::query::Recall;
use crate::model::value::Value;
use crate::platform::allowance::{Allowance, ROWS_PER_CHECK};
use crate::platform::reads;
use crate::segment::Ahead;
use crate::segment::vectors::{ClusterQuery, QueryVector, VectorReader, Wanted, prefetch};

/// Segments with more bytes of vectors to compare than this are searched side by side.
const PARALLEL_BYTES_MIN: u64 = 16 << 20;
/// Segments that are searched at a time.
const PARALLEL_MAX: usize = 4;
/// Vectors of no more bytes than these are compared one by one as fast as clusters are searched.
const EXACT_BYTES: u64 = 3 << 20;
/// Of segments that are not all here, so many clusters are brought at once before they are searched: as a rule all that a search
/// looks at.
const AHEAD_CLUSTERS: usize = 48;
/// One more than are wanted for so many, and at least so many, are compared exactly where only codes told what is near.
const SPARE_SHARE: usize = 8;
const SPARE_MIN: usize = 2;
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
    // First where their values are, which the processor finds for many rows at a time, then how far.
    let rows = view.tail.iter().filter(|(place, _)| !candidates.filtered || candidates.tail.contains(*place));
    let values: Vec<(u32, &Value)> =
        rows.filter_map(|(place, row)| Some((place, row.document.get(target.column)?))).collect();
    let mut tail = Vec::with_capacity(values.len());
    // A document of many tokens takes long.
    let per_check = if let Operand::Tokens(_) = target.operand { 1 } else { ROWS_PER_CHECK };
    for (at, (place, value)) in values.iter().enumerate() {
        work.allowance.check_at(at as u32, per_check)?;
        if let Some((_, Value::Vector(following))) = values.get(at + 1) {
            prefetch(following);
        }
        if let Some(distance) = target.operand.distance(value) {
            work.bytes += value.logical_bytes();
            tail.push((distance, *place));
        }
    }
    let mut parts: Vec<Vec<(f32, u32)>> = vec![Vec::new(); view.segments.len()];
    parts.push(smallest_of_tail(view, tail, k));
    match &target.operand {
        Operand::Vector(query) => vectors(view, target, query, candidates, k, &mut parts, work)?,
        Operand::Tokens(query) => late::search(view, target, query, candidates, k, &mut parts, work)?,
    }
    merge(view, parts, k, false)
}

/// Searches the vectors of segments, whose nearest rows go to their `parts`.
fn vectors(
    view: &View,
    target: &Target,
    query: &QueryVector,
    candidates: &Candidates,
    k: usize,
    parts: &mut [Vec<(f32, u32)>],
    work: &mut Work,
) -> Result<()> {
    let (mut exact, mut by_clusters) = (Vec::new(), Vec::new());
    let mut bytes = 0;
    for (part, (segment, rows)) in view.segments.iter().zip(&candidates.segments).enumerate() {
        work.allowance.check()?;
        let Some(vectors) = segment.segment.vectors(target.column)? else { continue };
        let compared = vectors.count().min(rows.len());
        let method = method(&vectors, target, compared, k)?;
        let rows = candidates.filtered.then_some(rows);
        let job = Job { part, segment, vectors, rows, query, k, allowance: work.allowance };
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
    let by_codes = (!by_clusters.is_empty()).then(|| ClusterQuery::new(query));
    let mut ahead = Ahead::new();
    // Few of many are compared by what their own rows bring.
    exact.iter().filter(|job| job.rows.is_none()).for_each(|job| job.vectors.add_all(&mut ahead));
    if let Some(by_codes) = &by_codes {
        add_first_clusters(&by_clusters, by_codes, &mut ahead)?;
    }
    ahead.bring()?;
    for (job, found) in exact.iter().zip(side_by_side(&exact, bytes, Job::run)?) {
        parts[job.part] = found;
    }
    let Some(by_codes) = by_codes else { return Ok(()) };
    search_clusters(by_clusters, query, &by_codes, target.recall, parts, k, work)
}

/// Searches clusters segment by segment, the largest first, each with what was found before.
fn search_clusters(
    mut jobs: Vec<Job>,
    query: &QueryVector,
    by_codes: &ClusterQuery,
    recall: Recall,
    parts: &mut [Vec<(f32, u32)>],
    k: usize,
    work: &mut Work,
) -> Result<()> {
    jobs.sort_by_key(|job| std::cmp::Reverse(job.vectors.count()));
    let (in_parts, jobs): (Vec<Job>, Vec<Job>) = jobs.into_iter().partition(|job| !job.segment.segment.is_full());
    let mut known: Vec<f32> = parts.iter().flatten().map(|(distance, _)| *distance).collect();
    for job in jobs {
        work.allowance.check()?;
        known.sort_unstable_by(f32::total_cmp);
        known.truncate(k);
        let wanted = Wanted { k, recall: recall.share(), known: &known };
        let dead = &job.segment.dead;
        let found = match job.vectors.nearest_in_clusters(query, by_codes, &wanted, job.rows, dead, work.allowance)? {
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
    search_in_parts(&in_parts, query, by_codes, (recall, k), known, parts, work)
}

/// Adds the clusters that the searches of segments which are not all here look at first: the nearest ones of all.
fn add_first_clusters<'a>(jobs: &[Job<'a>], by_codes: &ClusterQuery, ahead: &mut Ahead<'a>) -> Result<()> {
    let mut first: Vec<(f32, usize, u32)> = Vec::new();
    for (at, job) in jobs.iter().enumerate().filter(|(_, job)| !job.segment.segment.is_full()) {
        let found = job.vectors.first_clusters(by_codes, job.rows, &job.segment.dead, AHEAD_CLUSTERS)?;
        first.extend(found.into_iter().map(|(distance, cluster)| (distance, at, cluster)));
    }
    first.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    first.iter().take(AHEAD_CLUSTERS).try_for_each(|(_, at, cluster)| jobs[*at].vectors.add_cluster(*cluster, ahead))
}

/// Searches clusters of segments that are not all here: all of them by their codes first, so that the vectors to compare, and what
/// the answer's rows consist of, are brought at once. What one finds narrows the next, by its codes.
fn search_in_parts(
    jobs: &[Job],
    query: &QueryVector,
    by_codes: &ClusterQuery,
    (wanted, k): (Recall, usize),
    mut known: Vec<f32>,
    parts: &mut [Vec<(f32, u32)>],
    work: &mut Work,
) -> Result<()> {
    let mut found = Vec::with_capacity(jobs.len());
    for job in jobs {
        known.sort_unstable_by(f32::total_cmp);
        let nearest = &known[..known.len().min(k)];
        let (dead, wanted) = (&job.segment.dead, Wanted { k, recall: wanted.share(), known: nearest });
        let near = job.vectors.near_by_codes(query, by_codes, &wanted, job.rows, dead, work.allowance)?;
        if let Some((near, probed)) = &near {
            work.exhaustive += probed.refined;
            work.bytes += probed.refined * job.vectors.vector_bytes();
            known.extend(near.iter().map(|(distance, _)| *distance));
        }
        found.push(near.map(|(near, _)| near));
    }
    known.sort_unstable_by(f32::total_cmp);
    // Codes are not exact: some more than are wanted are compared.
    let last = known.get(k + (k / SPARE_SHARE).max(SPARE_MIN)).copied().unwrap_or(f32::INFINITY);
    let mut ahead = Ahead::new();
    for (job, near) in jobs.iter().zip(&mut found) {
        let Some(near) = near else {
            job.vectors.add_all(&mut ahead);
            continue;
        };
        near.retain(|(distance, _)| *distance <= last);
        near.iter().for_each(|(_, row)| job.vectors.add_vector(*row, &mut ahead));
        if let Some(columns) = &work.columns {
            job.segment.segment.add_documents(near.iter().map(|(_, row)| *row), Some(columns), &mut ahead)?;
        }
    }
    ahead.bring()?;
    for (job, near) in jobs.iter().zip(found) {
        parts[job.part] = match near {
            Some(near) => {
                let rows: Vec<u32> = near.into_iter().map(|(_, row)| row).collect();
                job.vectors.nearest_of(query, &rows, k)?
            }
            None => job.run()?,
        };
    }
    Ok(())
}

/// The search of one segment.
struct Job<'a> {
    part: usize,
    segment: &'a SegmentView,
    vectors: VectorReader<'a>,
    rows: Option<&'a RoaringBitmap>,
    query: &'a QueryVector,
    k: usize,
    allowance: &'a Allowance,
}

impl Job<'_> {
    /// Compares everything.
    fn run(&self) -> Result<Vec<(f32, u32)>> {
        self.vectors.nearest(self.query, self.rows, &self.segment.dead, self.k, self.allowance)
    }
}

/// Runs searches that compare so many bytes: where those are many on threads of their own, since one alone does not use all of the
/// memory's bandwidth.
pub(super) fn side_by_side<J: Sync>(
    jobs: &[J],
    bytes: u64,
    run: impl Fn(&J) -> Result<Vec<(f32, u32)>> + Sync,
) -> Result<Vec<Vec<(f32, u32)>>> {
    if bytes < PARALLEL_BYTES_MIN || jobs.len() < 2 {
        return jobs.iter().map(run).collect();
    }
    let threads = std::thread::available_parallelism().map_or(1, usize::from).clamp(1, PARALLEL_MAX);
    let each = jobs.len().div_ceil(threads);
    let run = &run;
    let parts = std::thread::scope(|scope| {
        let running: Vec<_> = jobs
            .chunks(each)
            .map(|jobs| scope.spawn(move || reads::measured(|| jobs.iter().map(run).collect::<Result<Vec<_>>>())))
            .collect();
        let stopped = || Error::internal("a search of a segment stopped without an answer");
        let ended = |(found, reads)| {
            reads::add(reads);
            found
        };
        running.into_iter().map(|thread| ended(thread.join().map_err(|_| stopped())?)).collect::<Result<Vec<_>>>()
    })?;
    Ok(parts.into_iter().flatten().collect())
}
