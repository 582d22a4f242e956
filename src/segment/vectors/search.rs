//! Searches the clusters of vectors of one or several segments, the nearest ones first, until enough of the nearest vectors are
//! found.
//!
//! A vector whose 1-bit codes say that it may be among the best is compared by its 8-bit codes; the caller compares the best
//! of those exactly. Of segments that are not all here, what will probably be looked at is brought at once.

use roaring::RoaringBitmap;

use super::QueryVector;
use super::allowed::Allowed;
use super::best::{Best, Near};
use super::centroids::Ranked;
use super::clustering::prepare;
use super::codes::Sought;
use super::fastscan::Kernels;
use super::lists::Clusters;
use super::order::{Next, Order};
use super::rotation::Rotation;
use super::scan::Scan;
use super::stop::{Progress, Stop};
use crate::error::{Error, Result};
use crate::format::clusters::{DIMS_MULTIPLE, NO_ROW};
use crate::model::schema::Metric;
use crate::platform::allowance::{Allowance, Taken};
use crate::segment::past::Past;
use crate::segment::sections::Ahead;

/// How often a search asks whether it must end.
const CLUSTERS_PER_CHECK: u32 = 64;
/// Of segments that are not all here, so many clusters are brought at once before they are searched: as a rule all that a search
/// looks at.
const FIRST_CLUSTERS: usize = 48;
/// When those were not enough, those that will be searched if nothing nearer is found are brought at once, but at least so many,
const MORE_CLUSTERS: usize = 16;
/// and one more for so many: what is found late makes searches go on.
const SPARE_CLUSTERS: usize = 4;
/// Lists for which there is no room on the disk are held in memory, so many bytes of them at a time.
const PAST_BYTES: u64 = 8 << 20;

/// A query made ready for the clusters of a column, whatever the segment.
pub struct ClusterQuery {
    pub(super) metric: Metric,
    pub(super) sought: Sought,
    pub(super) kernels: Kernels,
}

/// What a search is to find.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub k: usize,
    /// The share of the `k` nearest that is to be found on average, above 0 and below 1.
    pub recall: f32,
    /// Distances of vectors that were found elsewhere and compete with those of this search.
    pub known: &'a [f32],
}

/// A row that is near by its codes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct NearByCodes {
    /// The place of its source among those searched.
    pub source: usize,
    pub row: u32,
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
        Rotation::shared(dims).apply(&mut rotated);
        let sought = Sought::new(rotated);
        ClusterQuery { metric: query.metric(), sought, kernels: Kernels::new() }
    }

    /// Whether its distances tell vectors apart: else clusters are of no use.
    pub fn is_telling(&self) -> bool {
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

/// The clusters of one segment's column, and which of its rows a search may find.
pub struct Source<'a> {
    pub(super) clusters: Clusters<'a>,
    pub(super) allowed: Option<Allowed>,
    pub(super) dead: &'a RoaringBitmap,
}

impl<'a> Source<'a> {
    /// Of `rows`, or of all that are not `dead`.
    pub(super) fn new(
        clusters: Clusters<'a>,
        query: &ClusterQuery,
        rows: Option<&RoaringBitmap>,
        dead: &'a RoaringBitmap,
    ) -> Result<Self> {
        let header = clusters.table.header();
        if header.metric != query.metric || header.dims != query.sought.rotated.len() {
            return Err(Error::corrupt(format!(
                "{}: clusters of {} dimensions under {}, expected {} under {}",
                clusters.name,
                header.dims,
                header.metric.name(),
                query.sought.rotated.len(),
                query.metric.name()
            )));
        }
        let allowed = rows.map(|rows| Allowed::new(rows, dead, &clusters.table));
        Ok(Source { clusters, allowed, dead })
    }

    fn ranked<'q>(&self, query: &'q ClusterQuery) -> Ranked<'q>
    where
        'a: 'q,
    {
        let counts = self.allowed.as_ref().and_then(|allowed| allowed.counts.as_ref());
        let has_matches =
            |cluster: u32| counts.is_none_or(|counts| counts.get(cluster as usize).is_some_and(|count| *count > 0));
        Ranked::new(self.clusters.centroids, &query.sought, query.kernels, has_matches)
    }

    /// How many of its rows match, and how many there are.
    fn share(&self) -> (f32, f32) {
        let rows = self.clusters.table.header().rows as f32;
        (self.allowed.as_ref().map_or(rows, |allowed| allowed.share * rows), rows)
    }
}

/// One search, of all clusters of its sources in one order.
pub struct ClusterSearch<'q, 'a> {
    query: &'q ClusterQuery,
    sources: Vec<Source<'a>>,
    order: Order<'q>,
    /// Whether every list is here.
    is_full: bool,
}

impl<'q, 'a: 'q> ClusterSearch<'q, 'a> {
    pub fn new(query: &'q ClusterQuery, sources: Vec<Source<'a>>) -> Self {
        let order = Order::new(sources.iter().map(|source| source.ranked(query)));
        let is_full = sources.iter().all(|source| source.clusters.lists.is_full());
        ClusterSearch { query, sources, order, is_full }
    }

    /// Adds to what is brought the lists that a search looks at first, as far as they are not here, if the disk has room for them.
    pub fn add_first(&self, ahead: &mut Ahead<'a>) {
        if self.is_full {
            return;
        }
        let first = self.order.clone().take(FIRST_CLUSTERS).map(|next| (&self.sources[next.source].clusters, next));
        let missing: Vec<_> = first.filter(|(clusters, next)| clusters.is_missing(next.cluster)).collect();
        let bytes = missing.iter().map(|(clusters, next)| clusters.bytes_of(next.cluster)).sum();
        if missing.first().is_some_and(|(clusters, _)| clusters.lists.has_room(bytes)) {
            missing.iter().for_each(|(clusters, next)| clusters.add_list(next.cluster, ahead));
        }
    }

    /// Finds the rows that are nearest by their codes, some more than are wanted; which of them are nearest is for the caller to
    /// say.
    pub fn run(mut self, wanted: &Wanted, allowance: &Allowance) -> Result<(Vec<NearByCodes>, Probed)> {
        let (matching, rows) =
            self.sources.iter().map(Source::share).fold((0.0, 0.0), |sum, of| (sum.0 + of.0, sum.1 + of.1));
        let share = if rows > 0.0 { matching / rows } else { 1.0 };
        let stop = Stop::new(wanted.recall, wanted.k as f32 / share, self.query.metric, self.sources.len());
        let mut best = Best::new(wanted.k);
        for distance in wanted.known {
            let score = self.query.score_of(*distance);
            best.offer(score, || Near { score, source: 0, row: NO_ROW, seen: 0.0 });
        }
        // What a look at all of the best costs is spread over several clusters.
        let interval = (best.depth() / 64).max(1) as u64;
        let mut state = State {
            scan: Scan::new(self.query, best),
            stop,
            nearest: f32::MAX,
            largest_norm: self
                .sources
                .iter()
                .map(|source| source.clusters.table.header().largest_norm)
                .fold(0.0, f32::max),
        };
        let mut past = (Past::default(), None);
        while let Some(next) = self.order.next() {
            state.nearest = state.nearest.min(next.distance);
            let searched = state.scan.probed.clusters;
            if searched.is_multiple_of(interval) && state.is_enough(next.distance) {
                break;
            }
            allowance.check_at(searched as u32, CLUSTERS_PER_CHECK)?;
            let clusters = self.sources[next.source].clusters;
            if !self.is_full && clusters.is_missing(next.cluster) && !clusters.is_in(next.cluster, &past.0) {
                drop(std::mem::take(&mut past));
                past = self.bring(next, &mut state, allowance)?;
            }
            let list = clusters.list_past(next.cluster, &past.0)?;
            if let Some(ahead) = self.order.peek() {
                self.sources[ahead.source].clusters.prefetch_list(ahead.cluster);
            }
            state.scan.probe(next, &self.sources[next.source], &list);
        }
        let (best, probed) = state.scan.finish();
        let near = best
            .into_unsorted()
            .into_iter()
            .filter(|near| near.row != NO_ROW)
            .map(|near| NearByCodes { source: near.source as usize, row: near.row });
        Ok((near.collect(), probed))
    }

    /// Brings the list of a cluster, and with it those that will be searched if nothing nearer is found. What the disk has no room
    /// for is held in memory, until it was searched.
    fn bring<'t>(
        &self,
        next: Next,
        state: &mut State,
        allowance: &'t Allowance,
    ) -> Result<(Past<'a>, Option<Taken<'t>>)> {
        let lists = self.sources[next.source].clusters.lists;
        let searched = state.scan.probed.clusters;
        let at_least = if searched == 0 { FIRST_CLUSTERS } else { MORE_CLUSTERS };
        let mut wanted = Vec::new();
        let (mut bytes, mut end) = (0, None);
        for (at, next) in std::iter::once(next).chain(self.order.clone()).enumerate() {
            if end.is_none() && at >= at_least && (searched == 0 || state.is_enough_after(at, next.distance)) {
                end = Some(at + at / SPARE_CLUSTERS);
            }
            if end.is_some_and(|end| at >= end) {
                break;
            }
            let clusters = &self.sources[next.source].clusters;
            if clusters.is_missing(next.cluster) {
                bytes += clusters.bytes_of(next.cluster);
                wanted.push((clusters, next.cluster));
            }
        }
        if lists.has_room(bytes) {
            let mut ahead = Ahead::new();
            wanted.iter().for_each(|(clusters, cluster)| clusters.add_list(*cluster, &mut ahead));
            ahead.bring()?;
            return Ok((Past::default(), None));
        }
        let mut bytes = 0;
        let fits = wanted.iter().take_while(|(clusters, cluster)| {
            bytes += clusters.bytes_of(*cluster);
            bytes <= PAST_BYTES
        });
        let count = fits.count().max(1);
        let taken = allowance.take(bytes.min(PAST_BYTES) as usize)?;
        let parts = wanted[..count].iter().map(|(clusters, cluster)| (clusters.lists, clusters.place(*cluster)));
        Ok((Past::read(parts.collect())?, Some(taken)))
    }
}

/// How far a search is.
struct State<'q> {
    scan: Scan<'q>,
    stop: Stop,
    /// To the nearest centroid, squared.
    nearest: f32,
    largest_norm: f32,
}

impl State<'_> {
    /// Whether enough was found, when the next cluster is so far.
    fn is_enough(&mut self, next: f32) -> bool {
        self.is_enough_after(0, next)
    }

    /// Whether it will be after so many clusters more, if nothing nearer is found in them.
    fn is_enough_after(&mut self, more: usize, next: f32) -> bool {
        let Some((last, seen)) = self.scan.best.last() else { return false };
        let (clusters, scanned) = (self.scan.probed.clusters as usize, self.scan.probed.scanned as f32);
        let scanned = scanned + scanned / clusters.max(1) as f32 * more as f32;
        self.stop.is_reached(&Progress {
            clusters: clusters + more,
            nearest: self.nearest,
            next,
            farthest: self.scan.query.squared_distance(last, self.largest_norm),
            early: seen - scanned.max(1.0).ln(),
        })
    }
}
