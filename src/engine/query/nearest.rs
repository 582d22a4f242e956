//! The rows nearest to a vector, or to the vectors of a query's tokens: by clusters where a segment has them and the query allows
//! what they miss, else exactly.
//!
//! The tail and what is compared exactly come first: what they find narrows the search of clusters.

use std::cell::OnceCell;

use roaring::RoaringBitmap;

use super::candidates::Candidates;
use super::hits::{Hit, merge, smallest_of_tail};
use super::plan::{Operand, Target};
use super::{Work, late};
use crate::engine::view::{SegmentView, View};
use crate::error::{Error, Result};
use crate::model::value::Value;
use crate::platform::allowance::{Allowance, Limit, ROWS_PER_CHECK};
use crate::platform::reads;
use crate::segment::Ahead;
use crate::segment::vectors::{
    ClusterQuery, ClusterSearch, NearByCodes, QueryVector, VectorReader, Wanted, prefetch,
};

/// Segments with more bytes of vectors to compare than this are searched side by side.
const PARALLEL_BYTES_MIN: u64 = 16 << 20;
/// Segments that are searched at a time.
const PARALLEL_MAX: usize = 4;
/// Vectors for which no more bytes than these are read are compared one by one as fast as clusters are searched.
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
    let bytes = vectors.bytes_to_read(candidates);
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

/// Searches the vectors of segments, whose nearest rows go to their `parts`: all clusters in one order, as if they were one segment's.
fn vectors(
    view: &View,
    target: &Target,
    query: &QueryVector,
    candidates: &Candidates,
    k: usize,
    parts: &mut [Vec<(f32, u32)>],
    work: &mut Work,
) -> Result<()> {
    let (mut exact, mut by_clusters, mut sources) = (Vec::new(), Vec::new(), Vec::new());
    let by_codes = OnceCell::new();
    let mut bytes = 0;
    for (part, (segment, rows)) in view.segments.iter().zip(&candidates.segments).enumerate() {
        work.allowance.check()?;
        let Some(vectors) = segment.segment.vectors(target.column)? else { continue };
        let compared = vectors.count().min(rows.len());
        let method = method(&vectors, target, compared, k)?;
        let rows = candidates.filtered.then_some(rows);
        let job = Job { part, segment, vectors, rows, query, k, allowance: work.allowance };
        if method == Method::Clusters {
            let by_codes = by_codes.get_or_init(|| ClusterQuery::new(query));
            let source = job.vectors.source(query, by_codes, rows, &segment.dead)?;
            if let Some(source) = source.filter(|_| by_codes.is_telling()) {
                sources.push(source);
                by_clusters.push(job);
                continue;
            }
        }
        work.exhaustive += compared;
        bytes += compared * job.vectors.vector_bytes();
        exact.push(job);
    }
    work.bytes += bytes;
    let search = by_codes.get().map(|by_codes| ClusterSearch::new(by_codes, sources));
    let mut ahead = Ahead::new();
    exact.iter().for_each(|job| job.vectors.add(job.rows, &mut ahead));
    search.iter().for_each(|search| search.add_first(&mut ahead));
    ahead.bring()?;
    for (job, found) in exact.iter().zip(side_by_side(&exact, bytes, Job::run)?) {
        parts[job.part] = found;
    }
    let Some(search) = search else { return Ok(()) };
    let known: Vec<f32> = parts.iter().flatten().map(|(distance, _)| *distance).collect();
    let (near, probed) = search.run(&Wanted { k, recall: target.recall.share(), known: &known }, work.allowance)?;
    work.exhaustive += probed.refined;
    work.bytes += probed.refined * by_clusters.iter().map(|job| job.vectors.vector_bytes()).max().unwrap_or_default();
    compare(&by_clusters, &near, parts, work)
}

/// Compares the rows that are near by their codes. What that takes, and what the answer's rows consist of, is brought at once.
fn compare(jobs: &[Job], near: &[NearByCodes], parts: &mut [Vec<(f32, u32)>], work: &mut Work) -> Result<()> {
    let rows: Vec<Vec<u32>> = (0..jobs.len())
        .map(|source| near.iter().filter(|near| near.source == source).map(|near| near.row).collect())
        .collect();
    let are_here: Vec<bool> = jobs.iter().zip(&rows).map(|(job, rows)| job.vectors.are_here(rows)).collect();
    if are_here.contains(&false) {
        let (mut ahead, mut documents) = (Ahead::new(), Ahead::new());
        for (job, rows) in jobs.iter().zip(&rows).filter(|(job, _)| !job.segment.segment.is_full()) {
            job.vectors.add(Some(&rows.iter().copied().collect()), &mut ahead);
            if let Some(columns) = &work.columns {
                job.segment.segment.add_documents(rows.iter().copied(), Some(columns), &mut documents)?;
            }
        }
        if !documents.is_wide() {
            ahead.append(documents);
        }
        ahead.bring()?;
    }
    for ((job, rows), is_here) in jobs.iter().zip(rows).zip(are_here) {
        parts[job.part] = match is_here {
            true => job.vectors.nearest_of(job.query, &rows, job.k)?,
            false => {
                let rows = rows.into_iter().collect();
                job.vectors.nearest(job.query, Some(&rows), &RoaringBitmap::new(), job.k, job.allowance)?
            }
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
    let (run, limit) = (&run, &Limit::of_this_thread());
    let parts = std::thread::scope(|scope| {
        let running: Vec<_> = jobs
            .chunks(each)
            .map(|jobs| {
                let part = move || jobs.iter().map(run).collect::<Result<Vec<_>>>();
                scope.spawn(move || reads::measured(|| limit.doing(part)))
            })
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
