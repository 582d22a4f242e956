//! The centroids of a column in order of their distance to a query: coded as the vectors of one cluster around their mean, since every
//! search has to look at all of them.
//!
//! Codes are made once for each open segment. Few centroids are all compared by their 8-bit codes, which are off by less than a
//! thousandth of the distance. Where there are many, 1-bit codes give a bound for each, and only those that come first are compared.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::clustering::centroid_of;
use super::codes::{Estimate, ListBuilder, Sought, product_weight};
use super::fastscan::Kernels;
use super::kernels;
use super::top::Candidate;
use crate::format::clusters::{BLOCK, Table, block_bytes, residual_bytes};
use crate::model::schema::{Element, Metric};

/// So many centroids or fewer are all compared: with bounds, a search that looks at most clusters handles each twice.
const FEW: usize = 1_024;
/// Half the width, in standard deviations, of what the 1-bit codes leave open.
const MARGIN: f32 = 1.5;
/// Marks a cluster whose distance is a bound only.
const BOUND: u32 = 1 << 31;

/// One segment's column.
pub(in crate::segment) struct CodedCentroids {
    blocks: Vec<u8>,
    residuals: Vec<u8>,
    mean: Vec<f32>,
    count: usize,
}

impl CodedCentroids {
    pub(super) fn new(table: &Table) -> Self {
        let (dims, count) = (table.header().dims, table.header().clusters);
        let mut mean = vec![0f32; dims];
        for cluster in 0..count {
            mean.iter_mut().zip(centroid_of(table, cluster)).for_each(|(mean, x)| *mean += x / count as f32);
        }
        let mut list = ListBuilder::new(Metric::EuclideanSquared, &mean, count);
        for (cluster, entry) in table.entries().enumerate() {
            list.add_with_base(&centroid_of(table, cluster), entry.norm_squared);
        }
        let (blocks, residuals) = list.finish();
        CodedCentroids { blocks, residuals, mean, count }
    }
}

/// Clusters in order of the distance of their centroids to a query, found as they are asked for.
#[derive(Clone)]
pub(super) struct Ranked<'a> {
    centroids: &'a CodedCentroids,
    sought: &'a Sought,
    kernels: Kernels,
    /// What the mean adds to scores.
    mean: f32,
    next: BinaryHeap<Reverse<Candidate>>,
}

impl<'a> Ranked<'a> {
    /// Those that `wanted` says yes to.
    pub(super) fn new(
        centroids: &'a CodedCentroids,
        sought: &'a Sought,
        kernels: Kernels,
        wanted: impl Fn(u32) -> bool,
    ) -> Self {
        Self::with_few(centroids, sought, kernels, wanted, FEW)
    }

    fn with_few(
        centroids: &'a CodedCentroids,
        sought: &'a Sought,
        kernels: Kernels,
        wanted: impl Fn(u32) -> bool,
        few: usize,
    ) -> Self {
        let dot = kernels::dot(Element::F32);
        let product = dot(&sought.rotated, bytemuck::cast_slice(&centroids.mean));
        let mean = product_weight(Metric::EuclideanSquared) * product;
        let mut ranked = Ranked { centroids, sought, kernels, mean, next: BinaryHeap::new() };
        let next = if centroids.count <= few {
            let clusters = (0..centroids.count as u32).filter(|cluster| wanted(*cluster));
            clusters.map(|cluster| Reverse(Candidate(ranked.distance(cluster), cluster))).collect()
        } else {
            let mean_squared = dot(&centroids.mean, bytemuck::cast_slice(&centroids.mean));
            let distance = (sought.norm_squared + mean_squared - 2.0 * product).max(0.0);
            ranked.bounds(&sought.estimate(mean, MARGIN * distance.sqrt()), wanted)
        };
        ranked.next = BinaryHeap::from(next);
        ranked
    }

    /// A bound of the distance of each centroid.
    fn bounds(&self, estimate: &Estimate, wanted: impl Fn(u32) -> bool) -> Vec<Reverse<Candidate>> {
        let Ranked { centroids, sought, .. } = self;
        let mut bounds = Vec::with_capacity(centroids.count);
        let mut lower = [0.0; BLOCK];
        for (at, block) in centroids.blocks.chunks_exact(block_bytes(centroids.mean.len())).enumerate() {
            (self.kernels.scan)(block, &sought.table, estimate, f32::MAX, &mut lower);
            let clusters = (at * BLOCK..centroids.count).map(|cluster| cluster as u32).zip(&lower);
            let clusters = clusters.filter(|(cluster, _)| wanted(*cluster));
            bounds.extend(
                clusters.map(|(cluster, score)| {
                    Reverse(Candidate((sought.norm_squared + score).max(0.0), cluster | BOUND))
                }),
            );
        }
        bounds
    }

    /// The next cluster, and the squared distance to its centroid.
    fn find_next(&mut self) -> Option<(f32, u32)> {
        loop {
            let Reverse(Candidate(distance, cluster)) = self.next.pop()?;
            if cluster & BOUND == 0 {
                return Some((distance, cluster));
            }
            let cluster = cluster & !BOUND;
            let found = Reverse(Candidate(self.distance(cluster), cluster));
            if self.next.peek().is_none_or(|next| found >= *next) {
                return Some((found.0.0, cluster));
            }
            self.next.push(found);
        }
    }

    fn distance(&self, cluster: u32) -> f32 {
        let dims = self.centroids.mean.len();
        let bytes = residual_bytes(dims);
        let residual = &self.centroids.residuals[cluster as usize * bytes..(cluster as usize + 1) * bytes];
        let (codes, tail) = residual.split_at(dims);
        (self.sought.norm_squared + self.sought.score(codes, tail, self.mean, self.kernels)).max(0.0)
    }
}

impl Iterator for Ranked<'_> {
    type Item = (f32, u32);

    fn next(&mut self) -> Option<(f32, u32)> {
        self.find_next()
    }
}

#[cfg(test)]
mod tests {
    use super::{CodedCentroids, Ranked};
    use crate::format::clusters::{Entry, Header, NO_CLUSTER, Table};
    use crate::model::schema::Metric;
    use crate::segment::vectors::codes::Sought;
    use crate::segment::vectors::fastscan::Kernels;

    const DIMS: usize = 64;
    const CLUSTERS: usize = 300;

    fn centroid(cluster: usize) -> Vec<f32> {
        (0..DIMS).map(|dim| 1.0 + ((cluster * 37 + dim * dim * 11 + cluster * dim) as f32).sin()).collect()
    }

    fn table() -> Vec<u8> {
        let (metric, rows) = (Metric::EuclideanSquared, CLUSTERS);
        let header = Header { dims: DIMS, clusters: CLUSTERS, rows, vectors: 0, metric, largest_norm: 0.0 };
        let mut bytes = header.encode().to_vec();
        for cluster in 0..CLUSTERS {
            let norm_squared = centroid(cluster).iter().map(|x| x * x).sum();
            bytes.extend(Entry { offset: 0, vectors: 1, norm_squared }.encode());
        }
        (0..CLUSTERS).flat_map(centroid).for_each(|x| bytes.extend(x.to_le_bytes()));
        bytes.extend(NO_CLUSTER.to_le_bytes().repeat(rows));
        bytes
    }

    #[test]
    fn clusters_come_in_order_of_their_distance_with_bounds_and_without() {
        let bytes = table();
        let centroids = CodedCentroids::new(&Table::decode(&bytes, "table").unwrap());
        let query: Vec<f32> = centroid(1_000).iter().zip(centroid(17)).map(|(a, b)| (a + b) / 2.0).collect();
        let exact = |cluster: u32| -> f32 {
            query.iter().zip(centroid(cluster as usize)).map(|(q, c)| (q - c) * (q - c)).sum()
        };
        let sought = Sought::new(query.clone());
        for few in [0, CLUSTERS] {
            let is_wanted = |cluster: u32| !cluster.is_multiple_of(5);
            let mut ranked = Ranked::with_few(&centroids, &sought, Kernels::new(), is_wanted, few);
            let found: Vec<(f32, u32)> = std::iter::from_fn(|| ranked.next()).collect();
            let mut expected: Vec<u32> = (0..CLUSTERS as u32).filter(|cluster| is_wanted(*cluster)).collect();
            expected.sort_by(|a, b| exact(*a).total_cmp(&exact(*b)));
            assert_eq!(found.len(), expected.len());
            for (distance, cluster) in &found {
                assert!((distance - exact(*cluster)).abs() < 0.02 * exact(*cluster), "{cluster}: {distance}");
            }
            let first: Vec<u32> = found[..20].iter().map(|(_, cluster)| *cluster).collect();
            let missed = expected[..20].iter().filter(|cluster| !first.contains(cluster)).count();
            assert!(missed <= 2, "{few}: {first:?} instead of {:?}", &expected[..20]);
        }
    }
}
