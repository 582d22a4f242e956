//! The rows of segments whose tokens are nearest to those of a query: late interaction, by clusters where that is worth it.

use roaring::RoaringBitmap;

use super::Work;
use super::candidates::Candidates;
use super::nearest::{Method, side_by_side};
use super::plan::Target;
use crate::engine::view::{SegmentView, View};
use crate::error::Result;
use crate::platform::allowance::Allowance;
use crate::segment::vectors::{QueryTokens, TokenReader, Wanted};

/// Tokens of so many bytes or fewer, those for each of the query's counted, are compared one by one as fast as clusters tell.
const EXACT_BYTES: u64 = 32 << 20;
/// An answer of more than one in so many of the candidates is found by comparing them all.
const EXACT_SHARE: u64 = 16;

/// How the tokens of some of a segment's rows are searched for the `k` nearest, and their bytes.
pub(super) fn method(
    tokens: &TokenReader,
    target: &Target,
    query: &QueryTokens,
    rows: &RoaringBitmap,
    k: usize,
) -> Result<(Method, u64)> {
    let bytes = tokens.tokens_in(rows)? * tokens.token_bytes();
    let is_worth = bytes.saturating_mul(query.tokens().len() as u64) > EXACT_BYTES
        && tokens.count().min(rows.len()) / EXACT_SHARE >= k as u64;
    if target.recall.is_exact() || !is_worth || tokens.clusters()?.is_none() {
        return Ok((Method::Exact, bytes));
    }
    Ok((Method::Clusters, bytes))
}

/// Searches the multivectors of segments, whose nearest rows go to their `parts`.
pub(super) fn search(
    view: &View,
    target: &Target,
    query: &QueryTokens,
    candidates: &Candidates,
    k: usize,
    parts: &mut [Vec<(f32, u32)>],
    work: &mut Work,
) -> Result<()> {
    let (mut exact, mut by_clusters) = (Vec::new(), Vec::new());
    let mut bytes = 0;
    for (part, (segment, rows)) in view.segments.iter().zip(&candidates.segments).enumerate() {
        work.allowance.check()?;
        let Some(tokens) = segment.segment.tokens(target.column)? else { continue };
        let documents = tokens.count().min(rows.len());
        let (method, own_bytes) = method(&tokens, target, query, rows, k)?;
        let rows = candidates.filtered.then_some(rows);
        let job = Job { part, segment, tokens, rows, documents, query, k, allowance: work.allowance };
        match method {
            Method::Clusters => by_clusters.push(job),
            Method::Exact => {
                work.exhaustive += documents;
                bytes += own_bytes;
                exact.push(job);
            }
        }
    }
    work.bytes += bytes;
    for (job, found) in exact.iter().zip(side_by_side(&exact, bytes, Job::run)?) {
        parts[job.part] = found;
    }
    let lacking = f64::from(1.0 - target.recall.share()) / candidates.count().max(1) as f64;
    by_clusters.sort_by_key(|job| std::cmp::Reverse(job.documents));
    for job in by_clusters {
        let known: Vec<f32> = parts.iter().flatten().map(|(distance, _)| *distance).collect();
        // Segments share what may be missed.
        let recall = (1.0 - lacking * job.documents as f64) as f32;
        let wanted = Wanted { k, recall, known: &known };
        let found = job.tokens.nearest_by_clusters(query, &wanted, job.rows, &job.segment.dead, work.allowance)?;
        parts[job.part] = match found {
            Some(found) => {
                work.exhaustive += found.documents;
                work.bytes += found.tokens * job.tokens.token_bytes();
                found.nearest
            }
            None => {
                work.exhaustive += job.documents;
                job.run()?
            }
        };
    }
    Ok(())
}

/// The search of one segment.
struct Job<'a> {
    part: usize,
    segment: &'a SegmentView,
    tokens: TokenReader<'a>,
    rows: Option<&'a RoaringBitmap>,
    /// How many may be compared.
    documents: u64,
    query: &'a QueryTokens,
    k: usize,
    allowance: &'a Allowance,
}

impl Job<'_> {
    /// Compares everything.
    fn run(&self) -> Result<Vec<(f32, u32)>> {
        self.tokens.nearest(self.query, self.rows, &self.segment.dead, self.k, self.allowance)
    }
}
