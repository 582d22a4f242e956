//! Late interaction by clusters: documents in the order of an estimate, compared until too few of the nearest can be missing.
//!
//! 1. The distance of a token to each of the query's is estimated by that of its cluster's centroid, in eight bits. The sum of the
//!    smallest is an estimate for the document that costs one look-up a token, whatever matches a filter (centroid interaction
//!    of PLAID: Santhanam, Khattab, Potts and Zaharia, CIKM 2022).
//! 2. Documents are compared exactly, those with the smallest estimates first. How far estimates are off is learned from those
//!    compared last; by a normal distribution of that it follows how many of the others are nearer than the last of the answer. Once
//!    those are fewer than the wanted recall allows to miss, the search ends.

use roaring::RoaringBitmap;

use super::clustering::prepare;
use super::products::products;
use super::rotation::Rotation;
use super::tokens::{Interaction, QueryTokens, TokenReader};
use super::top::Top;
use super::{Wanted, kernels};
use crate::error::Result;
use crate::format::clusters::Table;
use crate::model::schema::{Element, Metric};
use crate::platform::allowance::Allowance;
use crate::segment::past::Past;

/// Pairs of a centroid and a query's token that are estimated; where there are more the search is exact.
const PAIRS_MAX: usize = 4 << 20;
/// Centroids that are compared with a query's tokens at a time.
const BATCH: usize = 256;
/// Documents that are compared by their estimates: so many for each that is wanted, and at least so many. When they do not do, all
/// are compared.
const DEPTH: usize = 64;
const DEPTH_MIN: usize = 16_384;
/// Documents that are compared before the first question whether to end: so many for each that is wanted, and at least so many.
const FIRST: usize = 2;
const FIRST_MIN: usize = 48;
/// How many more there are at each question: one for so many.
const GROWTH: usize = 8;
/// How often a search asks whether it must end, by comparisons of eight bits.
const PAIRS_PER_CHECK: usize = 1 << 24;
/// Some estimates are off by more than a normal distribution of the others' errors says: so many times the deviation finds the wanted
/// recall, measured by `benches/tokens.rs`.
const CARE: f64 = 1.3;
/// Smaller shares of documents are none.
const SHARE_MIN: f64 = 1e-9;

/// What a search found, and what it took.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Compared {
    /// Distances and rows, nearest first.
    pub nearest: Vec<(f32, u32)>,
    /// Documents that were compared exactly, and the tokens that they have together.
    pub documents: u64,
    pub tokens: u64,
}

/// Estimates of the distances between a column's clusters and a query's tokens.
struct Estimates<'a> {
    table: Table<'a>,
    /// Per cluster those to each token of the query, in steps above the token's smallest.
    steps: Vec<u8>,
    /// Tokens of the query.
    width: usize,
    /// The distance of a step, and the sum of the smallest.
    step: f32,
    least: f32,
}

impl<'a> Estimates<'a> {
    /// `None` where they tell nothing apart, or are too many.
    fn new(table: Table<'a>, query: &QueryTokens, allowance: &Allowance) -> Result<Option<Self>> {
        let (dims, clusters, width) = (table.header().dims, table.header().clusters, query.tokens().len());
        if clusters * width > PAIRS_MAX || query.tokens().iter().any(|token| token.metric() != table.header().metric)
        {
            return Ok(None);
        }
        let mut tokens = Vec::with_capacity(width * dims);
        for token in query.tokens() {
            let from = tokens.len();
            tokens.extend_from_slice(token.values());
            tokens.resize(from + dims, 0.0);
            prepare(token.metric(), &mut tokens[from..]);
            Rotation::shared(dims).apply(&mut tokens[from..]);
        }
        let mut distances = vec![0.0; clusters * width];
        let mut centroids: Vec<f32> = Vec::with_capacity(BATCH * dims);
        for (bytes, out) in table.centroids().chunks(BATCH * dims * 4).zip(distances.chunks_mut(BATCH * width)) {
            allowance.check()?;
            centroids.clear();
            centroids.extend(bytes.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)));
            products(&centroids, &tokens, dims, out);
        }
        let dot = kernels::dot(Element::F32);
        let squares: Vec<f32> =
            tokens.chunks_exact(dims).map(|token| dot(token, bytemuck::cast_slice(token))).collect();
        for (entry, distances) in table.entries().zip(distances.chunks_exact_mut(width)) {
            for (distance, square) in distances.iter_mut().zip(&squares) {
                *distance = match table.header().metric {
                    Metric::CosineDistance => 1.0 - *distance,
                    Metric::EuclideanSquared => square + entry.norm_squared - 2.0 * *distance,
                    Metric::DotProduct => -*distance,
                };
            }
        }
        Ok(Self::in_steps(table, &distances, width))
    }

    fn in_steps(table: Table<'a>, distances: &[f32], width: usize) -> Option<Self> {
        let (mut smallest, mut means) = (vec![f32::MAX; width], vec![0.0; width]);
        for distances in distances.chunks_exact(width) {
            for ((distance, smallest), mean) in distances.iter().zip(&mut smallest).zip(&mut means) {
                *smallest = smallest.min(*distance);
                *mean += distance / table.header().clusters as f32;
            }
        }
        // What is farther than the mean is rarely the nearest token of a document.
        let widest = smallest.iter().zip(&means).map(|(smallest, mean)| mean - smallest).fold(0.0, f32::max);
        let step = widest / f32::from(u8::MAX);
        if !step.is_normal() || !distances.iter().all(|distance| distance.is_finite()) {
            return None;
        }
        let in_steps = |(distance, smallest): (&f32, &f32)| ((distance - smallest) / step) as u8;
        let steps = distances.chunks_exact(width).flat_map(|all| all.iter().zip(&smallest).map(in_steps)).collect();
        Some(Estimates { table, steps, width, step, least: smallest.iter().sum() })
    }

    /// The estimate for a document of these tokens, in steps; `nearest` is room for those of each token.
    fn of(&self, tokens: std::ops::Range<u32>, nearest: &mut [u8]) -> u32 {
        nearest.fill(u8::MAX);
        for token in tokens {
            let at = self.table.cluster_of(token).unwrap_or(0) * self.width;
            let steps = self.steps.get(at..at + self.width).unwrap_or_default();
            nearest.iter_mut().zip(steps).for_each(|(nearest, step)| *nearest = (*nearest).min(*step));
        }
        nearest.iter().map(|steps| u32::from(*steps)).sum()
    }
}

/// Documents by their estimates.
struct Ranked {
    /// Those with the smallest, in order, with their rows.
    first: Vec<(u32, u32)>,
    /// How many documents have each estimate.
    counts: Vec<u32>,
    all: usize,
}

impl Ranked {
    fn new(
        reader: &TokenReader,
        estimates: &Estimates,
        (rows, dead, depth): (Option<&RoaringBitmap>, &RoaringBitmap, usize),
        allowance: &Allowance,
    ) -> Result<Self> {
        let mut ranked = Ranked { first: Vec::new(), counts: Vec::new(), all: 0 };
        let bins = estimates.width * usize::from(u8::MAX) + 1;
        ranked.counts = vec![0; bins];
        let mut nearest = vec![0; estimates.width];
        let (mut pairs, mut bound) = (0, u32::MAX);
        let mut add = |row: u32| -> Result<()> {
            let tokens = reader.tokens_of(row)?;
            if tokens.is_empty() || dead.contains(row) {
                return Ok(());
            }
            pairs += tokens.len() * estimates.width;
            if pairs > PAIRS_PER_CHECK {
                allowance.check()?;
                pairs = 0;
            }
            let estimate = estimates.of(tokens, &mut nearest);
            ranked.counts[estimate as usize] += 1;
            ranked.all += 1;
            if estimate <= bound {
                ranked.first.push((estimate, row));
                if ranked.first.len() >= 2 * depth {
                    let (_, last, _) = ranked.first.select_nth_unstable(depth);
                    bound = last.0;
                    ranked.first.truncate(depth);
                }
            }
            Ok(())
        };
        match rows {
            Some(rows) => rows.iter().try_for_each(&mut add)?,
            None => (0..reader.rows()).try_for_each(&mut add)?,
        }
        ranked.first.sort_unstable();
        ranked.first.truncate(depth);
        Ok(ranked)
    }

    /// How many documents from `estimate` on, `passed` of which were compared, are expected to be nearer than `last`, when estimates
    /// are off as `errors` say.
    fn missing(&self, estimate: u32, passed: u32, last: f32, errors: &Errors, estimates: &Estimates) -> f64 {
        let deviation = errors.deviation.max(f64::from(estimates.step));
        let mut missing = 0.0;
        for (at, count) in (estimate..).zip(self.counts.iter().skip(estimate as usize)) {
            let distance = f64::from(estimates.least) + f64::from(estimates.step) * f64::from(at) + errors.mean;
            let share = normal((f64::from(last) - distance) / deviation);
            if share < SHARE_MIN {
                break;
            }
            let count = if at == estimate { count.saturating_sub(passed) } else { *count };
            missing += share * f64::from(count);
        }
        missing
    }
}

/// How far estimates are off: the mean, and the standard deviation from it.
struct Errors {
    mean: f64,
    deviation: f64,
}

impl Errors {
    /// As those of the documents compared last are: what comes next is most like them.
    fn of_last(errors: &[f32]) -> Self {
        let last = &errors[errors.len() / 2..];
        let count = last.len().max(1) as f64;
        let mean = last.iter().map(|error| f64::from(*error)).sum::<f64>() / count;
        let variance = last.iter().map(|error| (f64::from(*error) - mean).powi(2)).sum::<f64>() / count;
        Errors { mean, deviation: CARE * variance.sqrt() }
    }
}

/// The share of a normal distribution below `x` deviations, to 1.4e-4 (Bowling, Khasawneh, Kaewkuekool and Cho, 2009).
fn normal(x: f64) -> f64 {
    1.0 / (1.0 + (-x * (1.5976 + 0.070_565 * x * x)).exp())
}

impl TokenReader<'_> {
    /// The `k` nearest as [`nearest`](Self::nearest) gives them, but for what the wanted recall allows to be missed. `None` where
    /// clusters cannot tell: there are none, or their estimates are no good.
    pub fn nearest_by_clusters(
        &self,
        query: &QueryTokens,
        wanted: &Wanted,
        rows: Option<&RoaringBitmap>,
        dead: &RoaringBitmap,
        allowance: &Allowance,
    ) -> Result<Option<Compared>> {
        self.check(query)?;
        let Some(table) = self.table()? else { return Ok(None) };
        let Some(estimates) = Estimates::new(table, query, allowance)? else { return Ok(None) };
        let (width, depth) = (query.tokens().len(), (wanted.k * DEPTH).max(DEPTH_MIN));
        let pairs = (table.header().clusters * width).min(PAIRS_MAX);
        let ranked_bytes = width * usize::from(u8::MAX) * size_of::<u32>() + 2 * depth * size_of::<(u32, u32)>();
        let _taken = allowance.take(pairs * (size_of::<f32>() + 1) + ranked_bytes)?;
        let ranked = Ranked::new(self, &estimates, (rows, dead, depth), allowance)?;
        let mut interaction = Interaction::new(query);
        let mut best = Top::new(wanted.k);
        let mut known: Vec<f32> = wanted.known.to_vec();
        let mut errors = Vec::with_capacity(ranked.first.len());
        let mut compared = Compared::default();
        let (mut passed, mut last_estimate) = (0, u32::MAX);
        let mut question = (wanted.k * FIRST).max(FIRST_MIN);
        let mut is_enough = ranked.first.len() == ranked.all;
        let (mut past, mut read) = (Past::default(), 0);
        for (at, (estimate, row)) in ranked.first.iter().enumerate() {
            if at == question {
                let farthest = farthest(&mut known, wanted.k);
                let errors = Errors::of_last(&errors);
                let missing = farthest.map(|last| ranked.missing(last_estimate, passed, last, &errors, &estimates));
                let allowed = f64::from(1.0 - wanted.recall) * wanted.k as f64;
                if missing.is_some_and(|missing| missing <= allowed) {
                    is_enough = true;
                    break;
                }
                question += at / GROWTH;
            }
            // A document of many tokens takes long.
            allowance.check()?;
            if at == read {
                // As many as are compared before the next question.
                let next = ranked.first[at..question.min(ranked.first.len())].iter().map(|(_, row)| *row);
                let (some, count) = self.read_some(next)?;
                (past, read) = (some, at + count);
            }
            let Some(bytes) = self.stored_past(*row, &mut past)? else { continue };
            let Some(distance) = interaction.distance(bytes) else { continue };
            compared.documents += 1;
            compared.tokens += self.tokens_of(*row)?.len() as u64;
            best.offer(distance, *row);
            known.push(distance);
            errors.push(distance - estimates.least - estimates.step * *estimate as f32);
            passed = if *estimate == last_estimate { passed + 1 } else { 1 };
            last_estimate = *estimate;
        }
        compared.nearest = best.into_sorted();
        Ok(is_enough.then_some(compared))
    }
}

/// The distance of the last one of the answer as it is now; `None` while there are too few.
fn farthest(known: &mut Vec<f32>, k: usize) -> Option<f32> {
    if known.len() < k || k == 0 {
        return None;
    }
    let (_, last, _) = known.select_nth_unstable_by(k - 1, f32::total_cmp);
    let last = *last;
    known.truncate(k);
    Some(last)
}

#[cfg(test)]
mod tests {
    use super::normal;

    #[test]
    fn shares_of_a_normal_distribution_are_close() {
        for (x, share) in [(0.0, 0.5), (1.0, 0.841_345), (-1.0, 0.158_655), (-2.0, 0.022_750), (-4.0, 0.000_032)] {
            assert!((normal(x) - share).abs() < 1.5e-4, "{x}");
        }
    }
}
