//! The best of a search of clusters, by their codes: as many as are wanted, and some more for the errors of codes.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// More than are wanted are compared exactly, for the errors of 8-bit codes: one for so many, and at least so many.
const SPARE_SHARE: usize = 8;
const SPARE_MIN: usize = 2;

/// A vector that is near by its codes: one row of one of the sources searched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Near {
    pub(super) score: f32,
    pub(super) source: u32,
    pub(super) row: u32,
    /// The logarithm of how many vectors had been seen.
    pub(super) seen: f32,
}

impl Eq for Near {}

impl PartialOrd for Near {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Near {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then_with(|| (self.source, self.row).cmp(&(other.source, other.row)))
    }
}

/// The best of a search.
pub(super) struct Best {
    near: BinaryHeap<Near>,
    k: usize,
    depth: usize,
    scores: Vec<f32>,
    /// What `last` gave, until the best change.
    last: Option<(f32, f32)>,
}

impl Best {
    /// For an answer of `k`.
    pub(super) fn new(k: usize) -> Self {
        let depth = k + (k / SPARE_SHARE).max(SPARE_MIN);
        Best { near: BinaryHeap::new(), k, depth, scores: Vec::new(), last: None }
    }

    /// How many are kept.
    pub(super) fn depth(&self) -> usize {
        self.depth
    }

    /// Takes one in, if its score is among the best; only then asks for the rest.
    pub(super) fn offer(&mut self, score: f32, near: impl FnOnce() -> Near) {
        if self.near.len() < self.depth {
            self.near.push(near());
            self.last = None;
        } else if let Some(mut worst) = self.near.peek_mut()
            && score < worst.score
        {
            *worst = near();
            self.last = None;
        }
    }

    /// What is not below it is not among the best.
    pub(super) fn threshold(&self) -> f32 {
        if self.near.len() < self.depth { f32::MAX } else { self.near.peek().map_or(f32::MAX, |near| near.score) }
    }

    /// The score of the last one of the answer, and the mean of `seen`; `None` while there are too few.
    pub(super) fn last(&mut self) -> Option<(f32, f32)> {
        if self.near.len() < self.k || self.k == 0 {
            return None;
        }
        if self.last.is_none() {
            self.scores.clear();
            self.scores.extend(self.near.iter().map(|near| near.score));
            let (_, last, _) = self.scores.select_nth_unstable_by(self.k - 1, f32::total_cmp);
            let seen: f32 = self.near.iter().map(|near| near.seen).sum();
            self.last = Some((*last, seen / self.near.len() as f32));
        }
        self.last
    }

    pub(super) fn into_unsorted(self) -> Vec<Near> {
        self.near.into_vec()
    }
}
