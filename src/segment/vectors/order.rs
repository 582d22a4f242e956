//! The clusters of several segments in one order: by the distance of their centroids to a query.

use super::centroids::Ranked;

/// A cluster of one of the sources.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Next {
    /// Squared, to its centroid.
    pub(super) distance: f32,
    pub(super) source: usize,
    pub(super) cluster: u32,
}

/// All clusters, the nearest first.
#[derive(Clone)]
pub(super) struct Order<'a> {
    /// Those of each source behind its next one.
    sources: Vec<(Option<(f32, u32)>, Ranked<'a>)>,
}

impl<'a> Order<'a> {
    pub(super) fn new(sources: impl Iterator<Item = Ranked<'a>>) -> Self {
        Order { sources: sources.map(|mut ranked| (ranked.next(), ranked)).collect() }
    }

    /// The one that comes next.
    pub(super) fn peek(&self) -> Option<Next> {
        let nexts = self
            .sources
            .iter()
            .enumerate()
            .filter_map(|(source, (next, _))| next.map(|(distance, cluster)| Next { distance, source, cluster }));
        nexts.min_by(|a, b| a.distance.total_cmp(&b.distance))
    }
}

impl Iterator for Order<'_> {
    type Item = Next;

    fn next(&mut self) -> Option<Next> {
        let next = self.peek()?;
        let (waiting, ranked) = &mut self.sources[next.source];
        *waiting = ranked.next();
        Some(next)
    }
}
