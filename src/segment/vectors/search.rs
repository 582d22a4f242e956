//! Searches a segment's clusters of vectors, the nearest ones first, until enough of the nearest vectors are found.
//!
//! A vector whose 1-bit codes say that it may be among the best is compared by its 8-bit codes; the caller compares the best
//! of those exactly.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use roaring::RoaringBitmap;

use super::QueryVector;
use super::clustering::prepare;
use super::codes::{Sought, product_weight};
use super::fastscan::Kernels;
use super::kernels::{self, Kernel};
use super::reader::Candidate;
use super::rotation::Rotation;
use super::stop::{Progress, Stop};
use crate::error::{Error, Result};
use crate::format::clusters::{BLOCK, DIMS_MULTIPLE, Entry, ListLayout, NO_ROW, Table, block_bytes, residual_bytes};
use crate::model::schema::{Element, Metric};
use crate::segment::sections::Part;

/// Half the width, in standard deviations, of what the 1-bit codes leave open.
const MARGIN: f32 = 1.5;
/// How many are compared exactly: so many for each that is wanted, and at least so many.
const DEPTH: usize = 2;
const DEPTH_MIN: usize = 20;
/// Where one row in so many matches, or fewer, matches are counted per cluster first, and clusters without any are not read.
const COUNTED_MATCHES: u64 = 8;

/// A query made ready for the clusters of a column, whatever the segment.
pub struct ClusterQuery {
    metric: Metric,
    sought: Sought,
    scans: Kernels,
    dot: Kernel,
}

/// What a search is to find.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub k: usize,
    /// The share of the `k` nearest that is to be found on average, above 0 and below 1.
    pub recall: f32,
    /// Distances of vectors that were found elsewhere and compete with those of this segment.
    pub known: &'a [f32],
}

/// What a search found, and what it took.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Probed {
    /// Distances and rows, nearest first.
    pub nearest: Vec<(f32, u32)>,
    /// Clusters searched.
    pub clusters: u64,
    /// Matching vectors whose 1-bit codes were looked at, and of those the ones whose 8-bit codes were.
    pub scanned: u64,
    pub refined: u64,
}

impl ClusterQuery {
    pub fn new(query: &QueryVector) -> Self {
        let dims = query.values().len().next_multiple_of(DIMS_MULTIPLE);
        let mut rotated = query.values().to_vec();
        rotated.resize(dims, 0.0);
        prepare(query.metric(), &mut rotated);
        Rotation::new(dims).apply(&mut rotated);
        let sought = Sought::new(rotated);
        ClusterQuery { metric: query.metric(), sought, scans: Kernels::new(), dot: kernels::dot(Element::F32) }
    }

    /// Whether its distances tell vectors apart.
    pub(super) fn is_telling(&self) -> bool {
        self.sought.norm_squared.is_normal()
    }

    /// The score of a vector at a distance.
    fn score_of(&self, distance: f32) -> f32 {
        match self.metric {
            Metric::CosineDistance => distance - 1.0,
            Metric::EuclideanSquared => distance - self.sought.norm_squared,
            Metric::DotProduct => distance,
        }
    }

    /// The squared distance behind a score, where all vectors are as long as the largest.
    fn squared_distance(&self, score: f32, largest_norm: f32) -> f32 {
        let own = self.sought.norm_squared;
        match self.metric {
            Metric::CosineDistance => own + 1.0 + 2.0 * score,
            Metric::EuclideanSquared => own + score,
            Metric::DotProduct => own + largest_norm * largest_norm + 2.0 * score,
        }
    }
}

/// The clusters of one segment's column.
#[derive(Clone, Copy)]
pub(super) struct Clusters<'a> {
    pub(super) table: Table<'a>,
    pub(super) lists: Part<'a>,
    pub(super) name: &'a str,
}

/// One of the best so far.
#[derive(Clone, Copy, PartialEq)]
struct Near {
    score: Candidate,
    /// The logarithm of how many vectors had been seen.
    seen: f32,
}

impl Eq for Near {}

impl PartialOrd for Near {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Near {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.score.cmp(&other.score)
    }
}

/// The best of a search.
struct Best {
    near: BinaryHeap<Near>,
    k: usize,
    depth: usize,
    scores: Vec<f32>,
}

impl Best {
    fn new(query: &ClusterQuery, wanted: &Wanted) -> Self {
        let depth = (wanted.k * DEPTH).max(DEPTH_MIN);
        let mut best = Best { near: BinaryHeap::new(), k: wanted.k, depth, scores: Vec::new() };
        for distance in wanted.known {
            best.offer(query.score_of(*distance), NO_ROW, 0.0);
        }
        best
    }

    fn offer(&mut self, score: f32, row: u32, seen: f32) {
        let near = Near { score: Candidate(score, row), seen };
        if self.near.len() < self.depth {
            self.near.push(near);
        } else if let Some(mut worst) = self.near.peek_mut()
            && near < *worst
        {
            *worst = near;
        }
    }

    /// What is not below it is not among the best.
    fn threshold(&self) -> f32 {
        if self.near.len() < self.depth { f32::MAX } else { self.near.peek().map_or(f32::MAX, |near| near.score.0) }
    }

    /// The score of the last one of the answer, and the mean of `seen`; `None` while there are too few.
    fn last(&mut self) -> Option<(f32, f32)> {
        if self.near.len() < self.k || self.k == 0 {
            return None;
        }
        self.scores.clear();
        self.scores.extend(self.near.iter().map(|near| near.score.0));
        let (_, last, _) = self.scores.select_nth_unstable_by(self.k - 1, f32::total_cmp);
        let seen: f32 = self.near.iter().map(|near| near.seen).sum();
        Some((*last, seen / self.near.len() as f32))
    }
}

/// A cluster to search, nearer ones greater.
type Next = Reverse<Candidate>;

impl<'a> Clusters<'a> {
    /// Finds the rows among `rows`, or among all that are not `dead`, that are nearest by their codes. Which of them are nearest
    /// is for the caller to say.
    pub(super) fn search(
        &self,
        query: &ClusterQuery,
        wanted: &Wanted,
        rows: Option<&RoaringBitmap>,
        dead: &RoaringBitmap,
    ) -> Result<(Vec<u32>, Probed)> {
        let header = *self.table.header();
        if header.metric != query.metric || header.dims != query.sought.rotated.len() {
            return Err(Error::corrupt(format!(
                "{}: clusters of {} dimensions under {}, expected {} under {}",
                self.name,
                header.dims,
                header.metric.name(),
                query.sought.rotated.len(),
                query.metric.name()
            )));
        }
        let allowed = rows.map(|rows| Allowed::new(rows, dead, &self.table));
        let mut next = self.clusters_by_distance(query, allowed.as_ref());
        let nearest = next.peek().map_or(0.0, |Reverse(Candidate(distance, _))| *distance);
        let stop = Stop::new(wanted.recall);
        let mut best = Best::new(query, wanted);
        let mut probed = Probed::default();
        // What a look at all of the best costs is spread over several clusters.
        let interval = (best.depth / 64).max(1) as u64;
        while let Some(Reverse(Candidate(distance, cluster))) = next.pop() {
            if probed.clusters.is_multiple_of(interval)
                && let Some((last, seen)) = best.last()
            {
                let progress = Progress {
                    clusters: probed.clusters as usize,
                    nearest,
                    next: distance,
                    farthest: query.squared_distance(last, header.largest_norm),
                    early: seen - (probed.scanned.max(1) as f32).ln(),
                };
                if stop.is_reached(&progress) {
                    break;
                }
            }
            self.probe(cluster as usize, distance, query, allowed.as_ref(), dead, &mut best, &mut probed)?;
        }
        let rows = best.near.into_iter().map(|near| near.score.1).filter(|row| *row != NO_ROW);
        Ok((rows.collect(), probed))
    }

    /// All clusters that may have matches, with the squared distance to their centroids.
    fn clusters_by_distance(&self, query: &ClusterQuery, allowed: Option<&Allowed>) -> BinaryHeap<Next> {
        let sought = &query.sought;
        let centroids = self.table.centroids().chunks_exact(sought.rotated.len() * 4);
        let clusters = (0u32..).zip(self.table.entries().zip(centroids));
        let has_matches = |cluster: u32| {
            let few = allowed.and_then(|allowed| allowed.few.as_ref());
            few.is_none_or(|few| few.counts.get(cluster as usize).is_some_and(|count| *count > 0))
        };
        clusters
            .filter(|(cluster, _)| has_matches(*cluster))
            .map(|(cluster, (entry, centroid))| {
                let product = (query.dot)(&sought.rotated, centroid);
                let distance = sought.norm_squared + entry.norm_squared - 2.0 * product;
                Reverse(Candidate(distance.max(0.0), cluster))
            })
            .collect()
    }

    #[expect(clippy::too_many_arguments, reason = "a step of `search`, which owns them all")]
    fn probe(
        &self,
        cluster: usize,
        distance: f32,
        query: &ClusterQuery,
        allowed: Option<&Allowed>,
        dead: &RoaringBitmap,
        best: &mut Best,
        probed: &mut Probed,
    ) -> Result<()> {
        let sought = &query.sought;
        let dims = sought.rotated.len();
        let outside =
            || Error::corrupt(format!("{}: the list of cluster {cluster} is outside its section", self.name));
        let Entry { offset, vectors, norm_squared } = self.table.entry(cluster).ok_or_else(outside)?;
        let layout = ListLayout::new(vectors, dims);
        let end = offset.checked_add(layout.residuals.end).ok_or_else(outside)?;
        let list = self.lists.range(offset..end)?;
        let (rows, _) = list[layout.rows.clone()].as_chunks::<{ BLOCK * 4 }>();
        let blocks = list[layout.blocks.clone()].chunks_exact(block_bytes(dims));
        let residuals = &list[layout.residuals.clone()];
        let product = (sought.norm_squared + norm_squared - distance) / 2.0;
        let centroid = product_weight(query.metric) * product;
        let estimate = sought.estimate(centroid, MARGIN * distance.sqrt());
        let few = allowed.and_then(|allowed| allowed.few.as_ref());
        let matching = match (allowed, few) {
            (_, Some(few)) => few.counts.get(cluster).map_or(0.0, |count| *count as f32),
            (Some(allowed), None) => vectors as f32 * allowed.share,
            (None, None) => vectors as f32,
        };
        let seen = (probed.scanned as f32 + matching / 2.0).max(1.0).ln();
        let mut lower = [0.0; BLOCK];
        for (at, (rows, block)) in rows.iter().zip(blocks).enumerate() {
            let (rows, _) = rows.as_chunks::<4>();
            let row = |lane: usize| u32::from_le_bytes(rows[lane]);
            let lanes = few.map_or(u32::MAX, |few| few.lanes(rows));
            if lanes == 0 {
                continue;
            }
            let below = (query.scans.scan)(block, &sought.table, &estimate, best.threshold(), &mut lower);
            let mut left = below & lanes;
            while left != 0 {
                let lane = left.trailing_zeros() as usize;
                left &= left - 1;
                let row = row(lane);
                if lower[lane] >= best.threshold() || row == NO_ROW {
                    continue;
                }
                let is_live = few.is_some() || !dead.contains(row) && allowed.is_none_or(|a| a.rows.contains(row));
                if !is_live {
                    continue;
                }
                let from = (at * BLOCK + lane) * residual_bytes(dims);
                let Some((codes, tail)) = residuals.get(from..).and_then(|rest| rest.split_at_checked(dims)) else {
                    return Err(outside());
                };
                let [scale, base] = [0, 4].map(|at| tail[at..].first_chunk().map_or(0.0, |x| f32::from_le_bytes(*x)));
                let sum = (query.scans.product)(codes, &sought.narrow);
                probed.refined += 1;
                best.offer(sought.refined(sum, scale, base, centroid), row, seen);
            }
        }
        probed.clusters += 1;
        probed.scanned += matching as u64;
        Ok(())
    }
}

/// The rows that match a filter.
struct Allowed<'r> {
    rows: &'r RoaringBitmap,
    /// How many of all rows match.
    share: f32,
    /// Where few match.
    few: Option<Few>,
}

/// What makes it cheap to pass over what does not match.
struct Few {
    /// The matching rows, bit by bit.
    bits: Vec<u64>,
    /// Per cluster how many match.
    counts: Vec<u32>,
}

impl<'r> Allowed<'r> {
    fn new(rows: &'r RoaringBitmap, dead: &RoaringBitmap, table: &Table) -> Self {
        let all = table.header().rows;
        let few = (rows.len() * COUNTED_MATCHES <= all as u64).then(|| Few::new(rows, dead, table));
        Allowed { rows, share: rows.len() as f32 / all.max(1) as f32, few }
    }
}

impl Few {
    fn new(rows: &RoaringBitmap, dead: &RoaringBitmap, table: &Table) -> Self {
        let mut bits = vec![0u64; table.header().rows.div_ceil(64)];
        let mut counts = vec![0; table.header().clusters];
        for row in rows.iter().filter(|row| dead.is_empty() || !dead.contains(*row)) {
            if let Some(word) = bits.get_mut(row as usize / 64) {
                *word |= 1 << (row % 64);
            }
            if let Some(count) = table.cluster_of(row).and_then(|cluster| counts.get_mut(cluster)) {
                *count += 1;
            }
        }
        Few { bits, counts }
    }

    /// Bit by bit which of a block's rows match. [`NO_ROW`] does not.
    #[inline]
    fn lanes(&self, rows: &[[u8; 4]]) -> u32 {
        rows.iter().enumerate().fold(0, |lanes, (lane, row)| {
            let row = u32::from_le_bytes(*row);
            let has = self.bits.get(row as usize / 64).is_some_and(|word| word >> (row % 64) & 1 == 1);
            lanes | u32::from(has) << lane
        })
    }
}
