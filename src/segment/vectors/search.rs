//! Searches a segment's clusters of vectors, the nearest ones first, until enough of the nearest vectors are found.
//!
//! A vector whose 1-bit codes say that it may be among the best is compared by its 8-bit codes; the caller compares the best
//! of those exactly.

use std::borrow::Cow;
use std::collections::BinaryHeap;
use std::ops::Range;

use roaring::RoaringBitmap;

use super::QueryVector;
use super::centroids::{CodedCentroids, Ranked};
use super::clustering::prepare;
use super::codes::{Estimate, Sought, product_weight};
use super::fastscan::{Kernels, prefetch};
use super::reader::Candidate;
use super::rotation::Rotation;
use super::stop::{Progress, Stop};
use crate::error::{Error, Result};
use crate::format::clusters::{BLOCK, DIMS_MULTIPLE, Entry, ListLayout, NO_ROW, Table, block_bytes, residual_bytes};
use crate::model::schema::Metric;
use crate::platform::allowance::Allowance;
use crate::segment::row_bits::RowBits;
use crate::segment::sections::{Ahead, Part};

/// Half the width, in standard deviations, of what the 1-bit codes leave open.
const MARGIN: f32 = 1.75;
/// More than are wanted are compared exactly, for the errors of 8-bit codes: one for so many, and at least so many.
const SPARE_SHARE: usize = 8;
const SPARE_MIN: usize = 2;
/// Where one row in so many matches, or fewer, rows are looked at before their codes, and blocks without any are not read.
const RARE_MATCHES: u64 = 8;
/// Where so many matches or fewer are there for each cluster, they are counted first, and clusters without any are left out.
const COUNTED_MATCHES: u64 = 8;
/// So many matches of a block are compared by their 8-bit codes at once, which is less than to look at the block's 1-bit codes.
const REFINED_MATCHES: u32 = 1;
/// How often a search asks whether it must end.
const CLUSTERS_PER_CHECK: u32 = 64;
/// Of a segment that is not all here the lists of so many clusters are brought at once, when those brought before were not enough.
const MORE_CLUSTERS: usize = 16;
/// Of the list that is searched next, so many bytes are asked for beforehand; the processor asks for those behind them.
const AHEAD_BYTES: usize = 1_024;

/// A query made ready for the clusters of a column, whatever the segment.
pub struct ClusterQuery {
    metric: Metric,
    sought: Sought,
    kernels: Kernels,
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

/// Rows that are near by their codes, with distances by these.
pub type NearByCodes = Vec<(f32, u32)>;

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
        Rotation::shared(dims).apply(&mut rotated);
        let sought = Sought::new(rotated);
        ClusterQuery { metric: query.metric(), sought, kernels: Kernels::new() }
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

    /// The distance of a vector with a score.
    fn distance_of(&self, score: f32) -> f32 {
        match self.metric {
            Metric::CosineDistance => score + 1.0,
            Metric::EuclideanSquared => score + self.sought.norm_squared,
            Metric::DotProduct => score,
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
    pub(super) centroids: &'a CodedCentroids,
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
    /// What `last` gave, until the best change.
    last: Option<(f32, f32)>,
}

impl Best {
    fn new(query: &ClusterQuery, wanted: &Wanted) -> Self {
        let depth = wanted.k + (wanted.k / SPARE_SHARE).max(SPARE_MIN);
        let mut best = Best { near: BinaryHeap::new(), k: wanted.k, depth, scores: Vec::new(), last: None };
        for distance in wanted.known {
            best.offer(query.score_of(*distance), || NO_ROW, 0.0);
        }
        best
    }

    /// Takes a score in, if it is among the best; only then asks for the row.
    fn offer(&mut self, score: f32, row: impl FnOnce() -> u32, seen: f32) {
        if self.near.len() < self.depth {
            self.near.push(Near { score: Candidate(score, row()), seen });
            self.last = None;
        } else if let Some(mut worst) = self.near.peek_mut()
            && score < worst.score.0
        {
            *worst = Near { score: Candidate(score, row()), seen };
            self.last = None;
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
        if self.last.is_none() {
            self.scores.clear();
            self.scores.extend(self.near.iter().map(|near| near.score.0));
            let (_, last, _) = self.scores.select_nth_unstable_by(self.k - 1, f32::total_cmp);
            let seen: f32 = self.near.iter().map(|near| near.seen).sum();
            self.last = Some((*last, seen / self.near.len() as f32));
        }
        self.last
    }
}

impl<'a> Clusters<'a> {
    /// Finds the rows among `rows`, or among all that are not `dead`, that are nearest by their codes, with distances by these. Which
    /// of them are nearest is for the caller to say.
    pub(super) fn search(
        &self,
        query: &ClusterQuery,
        wanted: &Wanted,
        rows: Option<&RoaringBitmap>,
        dead: &RoaringBitmap,
        allowance: &Allowance,
    ) -> Result<(NearByCodes, Probed)> {
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
        let counts = allowed.as_ref().and_then(|allowed| allowed.counts.as_ref());
        let has_matches =
            |cluster: u32| counts.is_none_or(|counts| counts.get(cluster as usize).is_some_and(|count| *count > 0));
        let mut clusters = Ranked::new(self.centroids, &query.sought, query.kernels, has_matches);
        let mut nearest = f32::MAX;
        let share = allowed.as_ref().map_or(1.0, |allowed| allowed.share);
        let stop = Stop::new(wanted.recall, wanted.k as f32 / share, query.metric);
        let best = Best::new(query, wanted);
        let (probed, promising, lanes) = (Probed::default(), Vec::new(), Vec::new());
        let mut search = Search { query, allowed: allowed.as_ref(), dead, best, probed, promising, lanes };
        // What a look at all of the best costs is spread over several clusters.
        let interval = (search.best.depth / 64).max(1) as u64;
        let is_full = self.lists.is_full();
        while let Some((distance, cluster)) = clusters.next() {
            nearest = nearest.min(distance);
            if search.probed.clusters.is_multiple_of(interval)
                && let Some((last, seen)) = search.best.last()
            {
                let progress = Progress {
                    clusters: search.probed.clusters as usize,
                    nearest,
                    next: distance,
                    farthest: query.squared_distance(last, header.largest_norm),
                    early: seen - (search.probed.scanned.max(1) as f32).ln(),
                };
                if stop.is_reached(&progress) {
                    break;
                }
            }
            allowance.check_at(search.probed.clusters as u32, CLUSTERS_PER_CHECK)?;
            if !is_full && self.lists.is_missing(&self.place(cluster)) {
                let mut lists = Ahead::new();
                self.add_list(cluster, &mut lists);
                clusters.clone().take(MORE_CLUSTERS - 1).for_each(|(_, next)| self.add_list(next, &mut lists));
                lists.bring()?;
            }
            let list = self.list(cluster as usize)?;
            if let Some(ahead) = clusters.peek() {
                self.prefetch_list(ahead as usize);
            }
            search.probe(distance, &list);
        }
        let Search { best, probed, .. } = search;
        let near = best.near.into_iter().map(|near| (query.distance_of(near.score.0), near.score.1));
        Ok((near.filter(|(_, row)| *row != NO_ROW).collect(), probed))
    }

    /// The clusters that a search looks at first, with the squared distances of their centroids.
    pub(super) fn first(
        &self,
        query: &ClusterQuery,
        rows: Option<&RoaringBitmap>,
        dead: &RoaringBitmap,
        count: usize,
    ) -> Vec<(f32, u32)> {
        if self.table.header().dims != query.sought.rotated.len() {
            return Vec::new();
        }
        let allowed = rows.map(|rows| Allowed::new(rows, dead, &self.table));
        let counts = allowed.as_ref().and_then(|allowed| allowed.counts.as_ref());
        let has_matches =
            |cluster: u32| counts.is_none_or(|counts| counts.get(cluster as usize).is_some_and(|count| *count > 0));
        Ranked::new(self.centroids, &query.sought, query.kernels, has_matches).take(count).collect()
    }

    /// Where a cluster's list is in its section.
    fn place(&self, cluster: u32) -> Range<usize> {
        self.table.entry(cluster as usize).map_or(0..0, |Entry { offset, vectors, .. }| {
            offset..offset.saturating_add(ListLayout::new(vectors, self.table.header().dims).residuals.end)
        })
    }

    /// Adds a cluster's list to what is brought.
    pub(super) fn add_list(&self, cluster: u32, ahead: &mut Ahead<'a>) {
        ahead.add(&self.lists, self.place(cluster));
    }

    /// Asks for the first blocks of a list. They are not read, so not checked.
    fn prefetch_list(&self, cluster: usize) {
        if let Some(Entry { offset, vectors, .. }) = self.table.entry(cluster) {
            let from = offset.saturating_add(ListLayout::new(vectors, self.table.header().dims).blocks.start);
            self.lists.raw(from..from.saturating_add(AHEAD_BYTES)).into_iter().for_each(prefetch);
        }
    }

    /// The list of a cluster.
    pub(super) fn list(&self, cluster: usize) -> Result<List<'a>> {
        let outside =
            || Error::corrupt(format!("{}: the list of cluster {cluster} is outside its section", self.name));
        let dims = self.table.header().dims;
        let Entry { offset, vectors, norm_squared } = self.table.entry(cluster).ok_or_else(outside)?;
        let layout = ListLayout::new(vectors, dims);
        let end = offset.checked_add(layout.residuals.end).ok_or_else(outside)?;
        let list = self.lists.range(offset..end)?;
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
    rows: &'a [[u8; 4]],
    blocks: &'a [u8],
    residuals: &'a [u8],
    dims: usize,
    norm_squared: f32,
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
    fn residual(&self, place: usize) -> Option<&'a [u8]> {
        let bytes = residual_bytes(self.dims);
        self.residuals.get(place * bytes..(place + 1) * bytes)
    }
}

/// One search of one segment's clusters.
struct Search<'s> {
    query: &'s ClusterQuery,
    allowed: Option<&'s Allowed>,
    dead: &'s RoaringBitmap,
    best: Best,
    probed: Probed,
    /// Of one cluster, the vectors that may be among the best: lower bounds and places.
    promising: Vec<(f32, u32)>,
    /// Of one cluster, per block and bit by bit which vectors match a filter that few match.
    lanes: Vec<u32>,
}

impl Search<'_> {
    /// Looks at a cluster whose centroid is at a squared distance.
    fn probe(&mut self, distance: f32, list: &List) {
        let sought = &self.query.sought;
        let product = (sought.norm_squared + list.norm_squared - distance) / 2.0;
        let centroid = product_weight(self.query.metric) * product;
        let estimate = sought.estimate(centroid, MARGIN * distance.sqrt());
        let vectors = list.vectors();
        self.probed.clusters += 1;
        let matching = match self.allowed {
            Some(allowed) => {
                let members = |rows| (self.query.kernels.members)(rows, allowed.rows.words());
                let mut blocks = list.rows.chunks_exact(BLOCK).map(members);
                if allowed.is_rare {
                    self.lanes.clear();
                    self.lanes.extend(blocks);
                    self.lanes.iter().map(|lanes| lanes.count_ones()).sum::<u32>() as f32
                } else if blocks.any(|lanes| lanes != 0) {
                    vectors as f32 * allowed.share
                } else {
                    0.0
                }
            }
            None => vectors as f32,
        };
        // The codes of clusters without matches are not read.
        if matching == 0.0 {
            return;
        }
        let seen = (self.probed.scanned as f32 + matching / 2.0).max(1.0).ln();
        self.scan(list, &estimate);
        // While few are known, all are promising: the most promising first, and what they leave of the others.
        let mut promising = std::mem::take(&mut self.promising);
        if promising.len() > self.best.depth {
            promising.select_nth_unstable_by(self.best.depth, |a, b| a.0.total_cmp(&b.0));
        }
        for (lower, place) in &promising {
            if *lower < self.best.threshold()
                && let Some((codes, tail)) =
                    list.residual(*place as usize).and_then(|all| all.split_at_checked(list.dims))
            {
                self.probed.refined += 1;
                let score = sought.score(codes, tail, centroid, self.query.kernels);
                self.best.offer(score, || list.row(*place as usize), seen);
            }
        }
        self.promising = promising;
        self.probed.scanned += matching as u64;
    }

    /// Finds the vectors of a list whose 1-bit codes say that they may be among the best.
    fn scan(&mut self, list: &List, estimate: &Estimate) {
        self.promising.clear();
        let threshold = self.best.threshold();
        let mut lower = [0.0; BLOCK];
        let blocks = list.blocks.chunks_exact(block_bytes(list.dims)).zip(list.rows.chunks_exact(BLOCK));
        for (at, (block, rows)) in blocks.enumerate() {
            let lanes = match self.allowed {
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
                let is_live = match self.allowed {
                    Some(allowed) => allowed.is_rare || allowed.rows.contains(u32::from_le_bytes(rows[lane])),
                    None => self.dead.is_empty() || !self.dead.contains(u32::from_le_bytes(rows[lane])),
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

/// The rows that match a filter and are live.
struct Allowed {
    rows: RowBits,
    /// How many of all rows match.
    share: f32,
    /// Whether rows are looked at before their codes.
    is_rare: bool,
    /// Per cluster how many match, where so few match that counting them is worth it.
    counts: Option<Vec<u32>>,
}

impl Allowed {
    fn new(rows: &RoaringBitmap, dead: &RoaringBitmap, table: &Table) -> Self {
        let (all, clusters) = (table.header().rows, table.header().clusters);
        let live = if dead.is_empty() { Cow::Borrowed(rows) } else { Cow::Owned(rows - dead) };
        let count = live.len();
        let counts = (count <= COUNTED_MATCHES * clusters as u64).then(|| {
            let mut counts = vec![0; clusters];
            for cluster in live.iter().filter_map(|row| table.cluster_of(row)) {
                counts.get_mut(cluster).into_iter().for_each(|count| *count += 1);
            }
            counts
        });
        Allowed {
            rows: RowBits::new(&live, all as u32),
            share: count as f32 / all.max(1) as f32,
            is_rare: count * RARE_MATCHES <= all as u64,
            counts,
        }
    }
}
