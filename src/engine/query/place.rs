//! Where a row of a snapshot is, and what it ranks by.

use std::cmp::Ordering;

use crate::model::ids::DocId;

/// A row of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    Segment {
        segment: usize,
        row: u32,
    },
    /// The place in the scope's list of rows of the tail.
    Tail(usize),
}

/// A row of a ranking.
#[derive(Clone, Debug)]
pub struct Ranked {
    pub id: DocId,
    pub place: Place,
    /// Distance or score; `None` when ordered by attributes.
    pub dist: Option<f32>,
}

/// The best of many candidates by value, then by row: a heap whose top is the worst one kept.
pub struct Best {
    heap: std::collections::BinaryHeap<Candidate>,
    count: usize,
    highest_first: bool,
}

#[derive(Clone, Copy, PartialEq)]
struct Candidate {
    /// Lower is better.
    cost: f32,
    row: u32,
}

impl Eq for Candidate {}

impl Ord for Candidate {
    fn cmp(&self, other: &Self) -> Ordering {
        self.cost.total_cmp(&other.cost).then(self.row.cmp(&other.row))
    }
}

impl PartialOrd for Candidate {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Best {
    /// Keeps the `count` best, the highest values first.
    pub fn highest(count: usize) -> Self {
        Best { heap: std::collections::BinaryHeap::new(), count, highest_first: true }
    }

    pub fn push(&mut self, value: f32, row: u32) {
        let cost = if self.highest_first { -value } else { value };
        let candidate = Candidate { cost, row };
        if self.heap.len() < self.count {
            self.heap.push(candidate);
        } else if let Some(mut worst) = self.heap.peek_mut()
            && candidate < *worst
        {
            *worst = candidate;
        }
    }

    /// Values and rows, best first.
    pub fn into_sorted(self) -> Vec<(f32, u32)> {
        let sign = if self.highest_first { -1.0 } else { 1.0 };
        self.heap.into_sorted_vec().into_iter().map(|c| (c.cost * sign, c.row)).collect()
    }
}

/// Joins rankings of parts: by value, lowest or highest first, then by id.
pub fn merge(mut all: Vec<Ranked>, highest_first: bool, count: usize) -> Vec<Ranked> {
    all.sort_unstable_by(|a, b| {
        let (x, y) = (a.dist.unwrap_or(0.0), b.dist.unwrap_or(0.0));
        let by_value = if highest_first { y.total_cmp(&x) } else { x.total_cmp(&y) };
        by_value.then_with(|| a.id.cmp(&b.id))
    });
    all.truncate(count);
    all
}
