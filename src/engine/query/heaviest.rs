//! The highest products of sparse vectors, as far as a wanted recall needs.
//!
//! 1. Dimensions are ordered by what they can add to a product at most, and only the first of them are added up: those that
//!    together can add a share of all that all can.
//! 2. The rows that are highest by those, a few times as many as are wanted, are scored exactly, and the best of them answer.
//!
//! The shares are from SPLADE vectors of scifact: on the half of its queries that they were not chosen by, ten of a hundred rows
//! that are scored exactly are 0.95, 0.98 and 0.99 of the true ten for shares of 0.4, 0.5 and 0.6.

use half::f16;

use super::hits::{Smallest, pack, unpack};
use super::lists::List;
use super::score::rounded;
use super::sparse::SparseScorer;
use super::window::{WINDOW, Window};
use crate::error::Result;
use crate::model::query::Recall;
use crate::platform::allowance::Allowance;
use crate::segment::Segment;
use crate::segment::sparse::WeightBlocks;

/// Wanted recalls up to the first take the second share of what dimensions can add; others take the last.
const SHARES: [(f32, f64); 4] = [(0.9, 0.4), (0.95, 0.5), (0.98, 0.6), (0.99, 0.7)];
const SHARE_MAX: f64 = 0.8;
/// Rows that are scored exactly, per wanted row and at least.
const SCORED_PER_ROW: usize = 5;
const SCORED_MIN: usize = 100;

/// The `k` best of a segment's candidates by the opposite of their scores, best first; `None` where adding up all dimensions is
/// as good. `load` gives the candidates of the rows from one up to another.
pub(super) fn run(
    sparse: &SparseScorer,
    segment: &Segment,
    recall: Recall,
    k: usize,
    mut load: impl FnMut(&mut Window, u32, u32),
    allowance: &Allowance,
) -> Result<Option<Vec<(f32, u32)>>> {
    let wanted = k.saturating_mul(SCORED_PER_ROW).max(SCORED_MIN);
    let rows = segment.rows();
    if wanted >= rows as usize {
        return Ok(None);
    }
    let mut dimensions = sparse.dimensions(segment)?;
    keep_heaviest(&mut dimensions, share(recall));
    let _taken = allowance.take(rows as usize * size_of::<f64>())?;
    let mut products = vec![0.0; rows as usize];
    for (weight, blocks) in &dimensions {
        allowance.check()?;
        SparseScorer::add(&mut products, *weight, blocks)?;
    }
    let (mut heaviest, mut window) = (Smallest::new(wanted), Window::default());
    for base in (0..rows).step_by(WINDOW) {
        allowance.check()?;
        let end = rows.min(base.saturating_add(WINDOW as u32));
        load(&mut window, base, end);
        window.for_each(|row, _| {
            let product = products[row as usize];
            if product != 0.0 {
                heaviest.offer(pack(0.0 - rounded(product), row));
            }
        });
    }
    let mut found: Vec<u32> = heaviest.into_sorted().into_iter().map(|packed| unpack(packed).1).collect();
    // What the other dimensions have may be all there is.
    if found.len() < wanted {
        return Ok(None);
    }
    found.sort_unstable();
    let mut lists = sparse.lists(segment)?;
    let _taken = allowance.take(lists.iter().map(List::bytes).sum())?;
    let mut best = Smallest::new(k);
    for (count, row) in (1..).zip(found) {
        allowance.check_at(count, SCORED_MIN as u32)?;
        let mut product = 0.0;
        for list in &mut lists {
            product += list.at(row)?;
        }
        let score = rounded(product);
        if score != 0.0 {
            best.offer(pack(0.0 - score, row));
        }
    }
    Ok(Some(best.into_sorted().into_iter().map(unpack).collect()))
}

fn share(recall: Recall) -> f64 {
    SHARES.iter().find(|(up_to, _)| recall.share() <= *up_to).map_or(SHARE_MAX, |(_, share)| *share)
}

/// Keeps the dimensions that together can add this share.
fn keep_heaviest(dimensions: &mut Vec<(f64, WeightBlocks<'_>)>, share: f64) {
    let most = |(weight, blocks): &(f64, WeightBlocks<'_>)| -> f64 {
        let largest = (0..blocks.count())
            .filter_map(|block| blocks.bounds(block))
            .map(|block| f64::from(block.max_weight))
            .fold(f64::from(f16::MIN), f64::max);
        // Of what is below nothing the least is not known.
        if *weight < 0.0 || largest < 0.0 { f64::from(f16::MAX) } else { weight * largest }
    };
    let mut ordered: Vec<(f64, (f64, WeightBlocks<'_>))> =
        dimensions.drain(..).map(|dimension| (most(&dimension), dimension)).collect();
    ordered.sort_by(|a, b| b.0.total_cmp(&a.0));
    let enough = share * ordered.iter().map(|(most, _)| most).sum::<f64>();
    let mut together = 0.0;
    for (most, dimension) in ordered {
        if together >= enough {
            break;
        }
        together += most;
        dimensions.push(dimension);
    }
}
