//! The rows of segments whose tokens are nearest to those of a query: late interaction.

use roaring::RoaringBitmap;

use super::Work;
use super::candidates::Candidates;
use super::nearest::side_by_side;
use super::plan::Target;
use crate::engine::view::{SegmentView, View};
use crate::error::Result;
use crate::platform::allowance::Allowance;
use crate::segment::vectors::{QueryTokens, TokenReader};

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
    let mut jobs = Vec::new();
    let mut bytes = 0;
    for (part, (segment, rows)) in view.segments.iter().zip(&candidates.segments).enumerate() {
        work.allowance.check()?;
        let Some(tokens) = segment.segment.tokens(target.column)? else { continue };
        work.exhaustive += tokens.count().min(rows.len());
        bytes += tokens.tokens_in(rows)? * tokens.token_bytes();
        let rows = candidates.filtered.then_some(rows);
        jobs.push(Job { part, segment, tokens, rows, query, k, allowance: work.allowance });
    }
    work.bytes += bytes;
    for (job, found) in jobs.iter().zip(side_by_side(&jobs, bytes, Job::run)?) {
        parts[job.part] = found;
    }
    Ok(())
}

/// The search of one segment.
struct Job<'a> {
    part: usize,
    segment: &'a SegmentView,
    tokens: TokenReader<'a>,
    rows: Option<&'a RoaringBitmap>,
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
