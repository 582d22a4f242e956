//! The nearest vectors of those compared so far.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// The nearest seen so far, the farthest of them on top.
pub(super) struct Top {
    heap: BinaryHeap<Candidate>,
    k: usize,
}

/// A distance or score, never NaN, and what it is of. Ordered by both.
#[derive(Clone, Copy, PartialEq)]
pub(super) struct Candidate(pub(super) f32, pub(super) u32);

impl Eq for Candidate {}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.total_cmp(&other.0).then(self.1.cmp(&other.1))
    }
}

impl Top {
    pub(super) fn new(k: usize) -> Self {
        Top { heap: BinaryHeap::new(), k }
    }

    #[inline]
    pub(super) fn offer(&mut self, distance: f32, row: u32) {
        let candidate = Candidate(distance, row);
        if self.heap.len() < self.k {
            self.heap.push(candidate);
        } else if let Some(mut worst) = self.heap.peek_mut()
            && candidate < *worst
        {
            *worst = candidate;
        }
    }

    pub(super) fn into_sorted(self) -> Vec<(f32, u32)> {
        self.heap.into_sorted_vec().into_iter().map(|Candidate(distance, row)| (distance, row)).collect()
    }
}
