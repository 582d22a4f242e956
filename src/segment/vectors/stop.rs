//! When a search of clusters has found enough: an estimate of what share of the nearest it still lacks.
//!
//! After each cluster the share is predicted from how near the best vectors are, measured by the distances to the next and the
//! nearest centroid, and from how early in the search they were found; the search ends when it is below what the wanted recall
//! allows. The features have no units and no dimensions. Their weights are a logistic regression over the even ones of 1,000 held-out
//! queries against 121,864 real embeddings, which `benches/stop_rule.py` makes. Predicting recall while searching: DARTH (Chatzakis,
//! Papakonstantinou and Palpanas, 2025).
//!
//! The rule was made for the ten nearest of all vectors. Of more, or of those that match a filter, a larger share is found by the
//! time it ends: measured on the same queries for 1, 10 and 100 nearest, under filters by chance and by attributes.

use crate::model::schema::Metric;

/// The clusters that are always searched.
const CLUSTERS_MIN: usize = 4;
/// Weights of the features, and the constant.
const NEXT: f32 = 19.92;
const NEAREST: f32 = -7.68;
const EARLY: f32 = 0.3;
const CONSTANT: f32 = -12.26;
/// A query may lie in the middle of a cluster; nearness to it says no more than this.
const NEAREST_MAX: f32 = 1.25;

/// The number of vectors that are as near as the answer, matching or not, from which on the rule is too careful; and how much it
/// is for each time that they are e times as many.
const DEEP: f32 = 40.0;
const DEEP_EASE: f32 = 0.3;
/// The same for answers of fewer than the rule was made for, for which it is not careful enough.
const SHALLOW: f32 = 10.0;
const SHALLOW_EASE: f32 = 0.15;
/// More than so many were not measured.
const DEEP_MAX: f32 = 600.0;

/// The rule was made with one segment. The clusters of several lie among each other, and it lacks care: so much for each time that they
/// are e times as many, measured with eleven.
const SEVERAL_CARE: f32 = 0.08;

/// The rule was made with vectors of one length. Where lengths differ it lacks care: measured with lengths from a half to two, near the
/// queries and far from them.
const LENGTHS_CARE: f32 = 0.5;

/// When to stop, for one wanted recall.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stop {
    /// The largest sum of weighted features at which the search ends.
    limit: f32,
}

/// What a search knows before it looks at the next cluster. Distances are squared.
pub(super) struct Progress {
    /// Clusters searched.
    pub(super) clusters: usize,
    /// To the nearest centroid of all, and to that of the next cluster.
    pub(super) nearest: f32,
    pub(super) next: f32,
    /// To the last vector of the answer as it is now.
    pub(super) farthest: f32,
    /// The mean logarithm of how many vectors had been seen when the best were found, less that of all seen.
    pub(super) early: f32,
}

impl Stop {
    /// `recall` is the wanted share of the nearest, above 0 and below 1; `depth` of how many vectors, matching or not, the answer
    /// is expected to be taken from; `segments` of how many clusters are searched.
    pub(super) fn new(recall: f32, depth: f32, metric: Metric, segments: usize) -> Self {
        let lacking = (1.0 - recall).clamp(1e-6, 0.999);
        let depth = depth.clamp(1.0, DEEP_MAX);
        let ease = DEEP_EASE * (depth / DEEP).ln().max(0.0) + SHALLOW_EASE * (depth / SHALLOW).ln().min(0.0);
        let care = if metric == Metric::CosineDistance { 0.0 } else { LENGTHS_CARE };
        let care = care + SEVERAL_CARE * (segments.max(1) as f32).ln();
        Stop { limit: (lacking / (1.0 - lacking)).ln() + ease - care }
    }

    pub(super) fn is_reached(&self, progress: &Progress) -> bool {
        let to = |distance: f32| (progress.farthest.max(0.0) / distance.max(f32::MIN_POSITIVE)).sqrt();
        let sum = NEXT * to(progress.next)
            + NEAREST * to(progress.nearest).min(NEAREST_MAX)
            + EARLY * progress.early
            + CONSTANT;
        progress.clusters >= CLUSTERS_MIN && sum <= self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::{Progress, Stop};
    use crate::model::schema::Metric;

    #[test]
    fn a_search_ends_when_the_next_cluster_is_far() {
        let progress = |next, clusters| Progress { clusters, nearest: 0.75, next, farthest: 0.9, early: -1.0 };
        assert!(!Stop::new(0.95, 10.0, Metric::CosineDistance, 1).is_reached(&progress(0.8, 10)));
        assert!(Stop::new(0.95, 10.0, Metric::CosineDistance, 1).is_reached(&progress(1.6, 10)));
        assert!(!Stop::new(0.95, 10.0, Metric::CosineDistance, 1).is_reached(&progress(1.6, 3)));
        let ends = |recall: f32| {
            (0..).find(|n| {
                Stop::new(recall, 10.0, Metric::CosineDistance, 1).is_reached(&progress(0.8 + 0.01 * *n as f32, 10))
            })
        };
        assert!(ends(0.99) > ends(0.95) && ends(0.95) > ends(0.8), "{:?}", [0.8, 0.95, 0.99].map(ends));
    }
}
