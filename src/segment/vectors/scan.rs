//! Looks at the codes of one cluster's vectors after another, and keeps the best.

use super::allowed::Allowed;
use super::best::{Best, Near};
use super::codes::{Estimate, product_weight};
use super::fastscan::prefetch;
use super::lists::List;
use super::order::Next;
use super::search::{ClusterQuery, Probed, Source};
use crate::format::clusters::{BLOCK, block_bytes};

/// Half the width, in standard deviations, of what the 1-bit codes leave open.
const MARGIN: f32 = 1.75;
/// So many matches of a block are compared by their 8-bit codes at once, which is less than to look at the block's 1-bit codes.
const REFINED_MATCHES: u32 = 1;

/// One search, and what it has found so far.
pub(super) struct Scan<'q> {
    pub(super) query: &'q ClusterQuery,
    pub(super) best: Best,
    pub(super) probed: Probed,
    /// Of one cluster, the vectors that may be among the best: lower bounds and places.
    promising: Vec<(f32, u32)>,
    /// Of one cluster, per block and bit by bit which vectors match a filter that few match.
    lanes: Vec<u32>,
}

impl<'q> Scan<'q> {
    pub(super) fn new(query: &'q ClusterQuery, best: Best) -> Self {
        Scan { query, best, probed: Probed::default(), promising: Vec::new(), lanes: Vec::new() }
    }

    pub(super) fn finish(self) -> (Best, Probed) {
        (self.best, self.probed)
    }

    /// Looks at a cluster of a source.
    pub(super) fn probe(&mut self, at: Next, source: &Source, list: &List) {
        let sought = &self.query.sought;
        let product = (sought.norm_squared + list.norm_squared - at.distance) / 2.0;
        let centroid = product_weight(self.query.metric) * product;
        let estimate = sought.estimate(centroid, MARGIN * at.distance.sqrt());
        let vectors = list.vectors();
        self.probed.clusters += 1;
        let matching = match &source.allowed {
            Some(allowed) => self.matching(allowed, list),
            None => vectors as f32,
        };
        // The codes of clusters without matches are not read.
        if matching == 0.0 {
            return;
        }
        let seen = (self.probed.scanned as f32 + matching / 2.0).max(1.0).ln();
        self.scan(source, list, &estimate);
        // While few are known, all are promising: the most promising first, and what they leave of the others.
        let mut promising = std::mem::take(&mut self.promising);
        if promising.len() > self.best.depth() {
            promising.select_nth_unstable_by(self.best.depth(), |a, b| a.0.total_cmp(&b.0));
        }
        for (lower, place) in &promising {
            if *lower < self.best.threshold()
                && let Some((codes, tail)) =
                    list.residual(*place as usize).and_then(|all| all.split_at_checked(list.dims))
            {
                self.probed.refined += 1;
                let score = sought.score(codes, tail, centroid, self.query.kernels);
                let row = || list.row(*place as usize);
                self.best.offer(score, || Near { score, source: at.source as u32, row: row(), seen });
            }
        }
        self.promising = promising;
        self.probed.scanned += matching as u64;
    }

    /// How many vectors of a list match, about; 0 if none does.
    fn matching(&mut self, allowed: &Allowed, list: &List) -> f32 {
        let members = |rows| (self.query.kernels.members)(rows, allowed.rows.words());
        let mut blocks = list.rows.chunks_exact(BLOCK).map(members);
        if allowed.is_rare {
            self.lanes.clear();
            self.lanes.extend(blocks);
            self.lanes.iter().map(|lanes| lanes.count_ones()).sum::<u32>() as f32
        } else if blocks.any(|lanes| lanes != 0) {
            list.vectors() as f32 * allowed.share
        } else {
            0.0
        }
    }

    /// Finds the vectors of a list whose 1-bit codes say that they may be among the best.
    fn scan(&mut self, source: &Source, list: &List, estimate: &Estimate) {
        self.promising.clear();
        let threshold = self.best.threshold();
        let mut lower = [0.0; BLOCK];
        let blocks = list.blocks.chunks_exact(block_bytes(list.dims)).zip(list.rows.chunks_exact(BLOCK));
        for (at, (block, rows)) in blocks.enumerate() {
            let lanes = match &source.allowed {
                Some(allowed) if allowed.is_rare => self.lanes.get(at).copied().unwrap_or_default(),
                _ => u32::MAX,
            };
            if lanes == 0 {
                continue;
            }
            let mut left = lanes;
            if lanes.count_ones() <= REFINED_MATCHES {
                lower.fill(f32::MIN);
            } else {
                left &= (self.query.kernels.scan)(block, &self.query.sought.table, estimate, threshold, &mut lower);
            }
            while left != 0 {
                let lane = left.trailing_zeros() as usize;
                left &= left - 1;
                let is_live = match &source.allowed {
                    Some(allowed) => allowed.is_rare || allowed.rows.contains(u32::from_le_bytes(rows[lane])),
                    None => source.dead.is_empty() || !source.dead.contains(u32::from_le_bytes(rows[lane])),
                };
                let place = at * BLOCK + lane;
                if is_live && let Some(residual) = list.residual(place) {
                    if threshold < f32::MAX {
                        prefetch(residual);
                    }
                    self.promising.push((lower[lane], place as u32));
                }
            }
        }
    }
}
