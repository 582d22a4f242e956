//! The highest products of sparse vectors: all of them, or as many as a wanted recall needs.
//!
//! Without a recall every dimension is added up for every row: most matter for most rows, so that passing over rows by bounds
//! takes longer. With one, after the idea of MaxScore (Turtle and Flood, 1995) without its safety:
//!
//! 1. Dimensions of many rows that can add little are left out; the others are added up for every row.
//! 2. The rows that are highest by those, a few times as many as are wanted, are scored with all dimensions.
//!
//! The shares were chosen with SPLADE vectors of scifact, mixed to 103,660 rows, by half of its queries; `benches/text` says
//! what the others find.

use half::f16;

use super::hits::{Smallest, pack, unpack};
use super::score::rounded;
use super::sparse::{DIMENSION_BYTES, Dimension, SparseScorer};
use super::window::{WINDOW, Window, for_each_bit};
use crate::error::Result;
use crate::model::query::Recall;
use crate::platform::allowance::Allowance;
use crate::segment::Segment;
use crate::segment::sparse::{BLOCK, WeightBlocks};

/// Wanted recalls up to the first leave out dimensions that together can add the second share of what all can.
const SHARES: [(f32, f64); 4] = [(0.8, 0.4), (0.9, 0.3), (0.95, 0.25), (0.99, 0.15)];
const SHARE_LEAST: f64 = 0.1;
/// Rows that are scored with all dimensions, per wanted row and at least.
const COMPLETED_PER_ROW: usize = 5;
const COMPLETED_MIN: usize = 50;
/// Looking one row up in a dimension takes as long as adding up so many of its rows.
const ROWS_PER_LOOK_UP: usize = 40;

/// The `k` best of a segment's candidates by the opposite of their scores, best first. `load` gives the candidates of the rows
/// from one up to another.
pub(super) fn run(
    sparse: &SparseScorer,
    segment: &Segment,
    recall: Option<Recall>,
    k: usize,
    mut load: impl FnMut(&mut Window, u32, u32),
    allowance: &Allowance,
) -> Result<Vec<(f32, u32)>> {
    let dimensions = sparse.dimensions(segment)?;
    let completed = k.saturating_mul(COMPLETED_PER_ROW).max(COMPLETED_MIN);
    let left_out = recall.and_then(|recall| left_out(&dimensions, share(recall), completed));
    let cursors = |kept: &dyn Fn(usize) -> bool| -> Vec<Dimension<'_>> {
        let dimensions = dimensions.iter().enumerate().filter(|(at, _)| kept(*at));
        dimensions.map(|(_, (weight, blocks))| Dimension::new(*weight, blocks.clone())).collect()
    };
    let _taken = allowance.take(dimensions.len() * DIMENSION_BYTES + WINDOW * size_of::<f64>())?;
    if let Some(left_out) = left_out {
        let mut found = highest(cursors(&|at| !left_out[at]), segment.rows(), completed, &mut load, allowance)?;
        // What was left out may be all that others have.
        if found.len() == completed {
            found.sort_unstable_by_key(|(_, row)| *row);
            let mut dimensions = cursors(&|_| true);
            let mut best = Smallest::new(k);
            for (count, (_, row)) in (1..).zip(found) {
                allowance.check_at(count, COMPLETED_MIN as u32)?;
                let mut product = 0.0;
                for dimension in &mut dimensions {
                    product += dimension.at(row)?;
                }
                let score = rounded(product);
                if score != 0.0 {
                    best.offer(pack(0.0 - score, row));
                }
            }
            return Ok(best.into_sorted().into_iter().map(unpack).collect());
        }
    }
    highest(cursors(&|_| true), segment.rows(), k, &mut load, allowance)
}

/// The `k` best by what these dimensions add up to, 0 left out.
fn highest(
    mut dimensions: Vec<Dimension<'_>>,
    rows: u32,
    k: usize,
    load: &mut impl FnMut(&mut Window, u32, u32),
    allowance: &Allowance,
) -> Result<Vec<(f32, u32)>> {
    let (mut best, mut window, mut sums) = (Smallest::new(k), Window::default(), vec![0.0; WINDOW]);
    for base in (0..rows).step_by(WINDOW) {
        allowance.check()?;
        load(&mut window, base, rows.min(base.saturating_add(WINDOW as u32)));
        if window.is_empty() {
            continue;
        }
        sums.fill(0.0);
        dimensions.iter_mut().try_for_each(|dimension| dimension.add(base, &mut sums))?;
        for (word, (sums, bits)) in sums.as_chunks::<64>().0.iter().zip(&window.bits).enumerate() {
            // Rows come in ascending order, so another with the worst one's score loses.
            let floor = best.bound().map_or(f64::NEG_INFINITY, |worst| f64::from(0.0 - unpack(*worst).0));
            if !sums.iter().fold(false, |any, sum| any | (*sum > floor)) {
                continue;
            }
            for_each_bit(&[*bits], |place| {
                let score = rounded(sums[place]);
                if score != 0.0 {
                    best.offer(pack(0.0 - score, base + (word * 64 + place) as u32));
                }
            });
        }
    }
    Ok(best.into_sorted().into_iter().map(unpack).collect())
}

fn share(recall: Recall) -> f64 {
    SHARES.iter().find(|(up_to, _)| recall.share() <= *up_to).map_or(SHARE_LEAST, |(_, share)| *share)
}

/// Which dimensions are left out: those that save most for what they can add, together at most this share of all. `None` where
/// looking up `completed` rows would take longer than adding those dimensions up.
fn left_out(dimensions: &[(f64, WeightBlocks<'_>)], share: f64, completed: usize) -> Option<Vec<bool>> {
    let most: Vec<f64> = dimensions.iter().map(|(weight, blocks)| most(*weight, blocks)).collect();
    let rows = |at: usize| dimensions[at].1.count() * BLOCK;
    let looks = completed.saturating_mul(ROWS_PER_LOOK_UP);
    let mut order: Vec<usize> = (0..dimensions.len()).filter(|at| rows(*at) > looks).collect();
    let cost = |at: usize| most[at] / (rows(at) - looks) as f64;
    order.sort_by(|a, b| cost(*a).total_cmp(&cost(*b)));
    let (mut out, mut room) = (vec![false; dimensions.len()], share * most.iter().sum::<f64>());
    let mut saved = 0;
    for at in order {
        if most[at] <= room {
            room -= most[at];
            out[at] = true;
            saved += rows(at);
        }
    }
    (saved > looks.saturating_mul(dimensions.len())).then_some(out)
}

/// What a dimension adds to a row at most.
fn most(weight: f64, blocks: &WeightBlocks<'_>) -> f64 {
    let largest = (0..blocks.count())
        .filter_map(|block| blocks.bounds(block))
        .map(|block| f64::from(block.max_weight))
        .fold(f64::from(f16::MIN), f64::max);
    // Of what is below nothing the least is not known.
    if weight < 0.0 || largest < 0.0 { f64::from(f16::MAX) } else { weight * largest }
}
