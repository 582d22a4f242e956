//! Codes of vectors: one bit a dimension with a bound of the error, and eight bits a dimension.
//!
//! A vector x is coded by its residual r = x - c from its cluster's centroid c. The bits are the signs s of r. For any v
//! the product <r, v> is estimated as |r|^2 / <r, s> * <s, v>, without bias after a random rotation, and the error is bounded
//! by the angle between r and s: RaBitQ (Gao and Long, SIGMOD 2024). Eight bits are r divided by its largest element.
//!
//! Scores order as distances do: minus the product of query and vector, or for squared Euclidean distance
//! |x|^2 - 2 <x, q>.

use super::fastscan::{Kernels, TABLE_MAX};
use crate::format::clusters::{BLOCK, FACTORS_BYTES, block_bytes, residual_bytes};
use crate::model::schema::Metric;

/// The largest 8-bit code.
const CODE_MAX: f32 = 127.0;
/// The largest element of a query beside 8-bit codes.
const QUERY_MAX: f32 = 2_047.0;

/// What a score is of the product of query and vector.
pub(super) fn product_weight(metric: Metric) -> f32 {
    match metric {
        Metric::EuclideanSquared => -2.0,
        Metric::CosineDistance | Metric::DotProduct => -1.0,
    }
}

/// What a score is beside that product.
pub(super) fn score_base(metric: Metric, norm_squared: f32) -> f32 {
    match metric {
        Metric::EuclideanSquared => norm_squared,
        Metric::CosineDistance | Metric::DotProduct => 0.0,
    }
}

/// The codes of one cluster as they are put together: blocks, and the residuals' codes behind them.
pub(super) struct ListBuilder<'c> {
    metric: Metric,
    centroid: &'c [f32],
    blocks: Vec<u8>,
    residuals: Vec<u8>,
    vectors: usize,
}

impl<'c> ListBuilder<'c> {
    pub(super) fn new(metric: Metric, centroid: &'c [f32], vectors: usize) -> Self {
        let dims = centroid.len();
        let mut blocks = vec![0; vectors.div_ceil(BLOCK) * block_bytes(dims)];
        // Places that only fill a block are farther than everything.
        for block in blocks.chunks_exact_mut(block_bytes(dims)) {
            block[..BLOCK * 4].as_chunks_mut().0.iter_mut().for_each(|add| *add = f32::MAX.to_le_bytes());
        }
        let residuals = Vec::with_capacity(vectors * residual_bytes(dims));
        ListBuilder { metric, centroid, blocks, residuals, vectors: 0 }
    }

    /// Adds the next vector, rotated.
    pub(super) fn add(&mut self, vector: &[f32]) {
        self.add_with_base(vector, score_base(self.metric, vector.iter().map(|x| x * x).sum()));
    }

    /// Adds the next vector, rotated, whose score beside its products is `base`.
    pub(super) fn add_with_base(&mut self, vector: &[f32], base: f32) {
        let dims = self.centroid.len();
        let (at, lane) = (self.vectors / BLOCK, self.vectors % BLOCK);
        self.vectors += 1;
        let block = &mut self.blocks[at * block_bytes(dims)..(at + 1) * block_bytes(dims)];
        let (factors, codes) = block.split_at_mut(FACTORS_BYTES);
        let (mut squares, mut sum, mut signs_of_centroid) = (0f32, 0f32, 0f32);
        let (mut of_centroid, mut largest) = (0f32, 0f32);
        for (dim, (x, c)) in vector.iter().zip(self.centroid).enumerate() {
            let r = x - c;
            squares += r * r;
            sum += r.abs();
            of_centroid += r * c;
            largest = largest.max(r.abs());
            if r > 0.0 {
                signs_of_centroid += c;
                let shift = dim % 4 + if lane < BLOCK / 2 { 0 } else { 4 };
                codes[dim / 4 * (BLOCK / 2) + lane % (BLOCK / 2)] |= 1 << shift;
            } else {
                signs_of_centroid -= c;
            }
        }
        let weight = product_weight(self.metric);
        // <r, s> is the sum; what s says of v is multiplied by this.
        let estimate = if sum > 0.0 { squares / sum } else { 0.0 };
        let cosine_squared = if squares > 0.0 { sum * sum / (dims as f32 * squares) } else { 1.0 };
        let spread = (1.0 / cosine_squared - 1.0).max(0.0) / (dims as f32 - 1.0).max(1.0);
        let add = base + weight * (of_centroid - estimate * signs_of_centroid);
        let all = [add, weight * estimate, weight.abs() * (squares * spread).sqrt()];
        for (factor, value) in factors.chunks_exact_mut(BLOCK * 4).zip(all) {
            factor[lane * 4..lane * 4 + 4].copy_from_slice(&value.to_le_bytes());
        }
        let scale = largest / CODE_MAX;
        let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
        let code = |(x, c): (&f32, &f32)| ((x - c) * inverse).round().clamp(-CODE_MAX, CODE_MAX) as i8 as u8;
        self.residuals.extend(vector.iter().zip(self.centroid).map(code));
        self.residuals.extend_from_slice(&(weight * scale).to_le_bytes());
        self.residuals.extend_from_slice(&base.to_le_bytes());
    }

    /// Adds the next vector as it is coded beside the same centroid: its block, its lane there, and its 8-bit codes. Without them
    /// says no.
    pub(super) fn copy(&mut self, coded: Option<(&[u8], usize, &[u8])>) -> bool {
        let dims = self.centroid.len();
        let Some((coded, from, residual)) = coded else { return false };
        if coded.len() != block_bytes(dims) || residual.len() != residual_bytes(dims) {
            return false;
        }
        let (at, lane) = (self.vectors / BLOCK, self.vectors % BLOCK);
        self.vectors += 1;
        let block = &mut self.blocks[at * block_bytes(dims)..(at + 1) * block_bytes(dims)];
        let (factors, codes) = block.split_at_mut(FACTORS_BYTES);
        let (coded_factors, coded) = coded.split_at(FACTORS_BYTES);
        for (factor, coded) in factors.chunks_exact_mut(BLOCK * 4).zip(coded_factors.chunks_exact(BLOCK * 4)) {
            factor[lane * 4..lane * 4 + 4].copy_from_slice(&coded[from * 4..from * 4 + 4]);
        }
        let half = |lane: usize| if lane < BLOCK / 2 { 0 } else { 4 };
        for (codes, coded) in codes.chunks_exact_mut(BLOCK / 2).zip(coded.chunks_exact(BLOCK / 2)) {
            codes[lane % (BLOCK / 2)] |= (coded[from % (BLOCK / 2)] >> half(from) & 15) << half(lane);
        }
        self.residuals.extend_from_slice(residual);
        true
    }

    /// The bytes of blocks, and those of residuals.
    pub(super) fn finish(self) -> (Vec<u8>, Vec<u8>) {
        (self.blocks, self.residuals)
    }
}

/// A query beside codes: rotated, and in the forms that the kernels read.
pub(super) struct Sought {
    pub(super) rotated: Vec<f32>,
    pub(super) norm_squared: f32,
    /// Per four dimensions the sum of each of their 16 subsets, in steps above the least.
    pub(super) table: Vec<u8>,
    step: f32,
    /// Twice the least sums' sum, minus that of all elements.
    offset: f32,
    pub(super) narrow: Vec<i16>,
    narrow_scale: f32,
}

/// The integer nearest to a number of at most `QUERY_MAX`. The sum has no bits below one, so those of the integer are its last;
/// unlike a conversion it is done for many numbers at a time.
#[inline]
fn nearest_integer(x: f32) -> i32 {
    const ONE_AND_A_HALF: f32 = 12_582_912.0;
    (x + ONE_AND_A_HALF).to_bits().wrapping_sub(ONE_AND_A_HALF.to_bits()) as i32
}

/// What a block's sums become under one centroid: score = add + `centroid` + factor * (sum * `step` + `offset`), less
/// error * `margin`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Estimate {
    pub(super) centroid: f32,
    pub(super) step: f32,
    pub(super) offset: f32,
    pub(super) margin: f32,
}

impl Sought {
    /// `rotated` has a multiple of eight elements.
    pub(super) fn new(rotated: Vec<f32>) -> Self {
        let mut sums = Vec::with_capacity(rotated.len() / 4);
        let (mut widest, mut least) = (0f32, 0f32);
        for four in rotated.as_chunks::<4>().0 {
            let low: f32 = four.iter().map(|x| x.min(0.0)).sum();
            let high: f32 = four.iter().map(|x| x.max(0.0)).sum();
            least += low;
            widest = widest.max(high - low);
            // Above the least one, which keeps rounding from below 0.
            let mut of_subset = [-low; 16];
            for (bit, x) in four.iter().enumerate() {
                for subset in 0..1 << bit {
                    of_subset[subset | 1 << bit] = of_subset[subset] + x;
                }
            }
            sums.push(of_subset);
        }
        let step = if widest > 0.0 { widest / f32::from(TABLE_MAX) } else { 1.0 };
        let inverse = 1.0 / step;
        let table = sums.as_flattened().iter().map(|sum| nearest_integer(sum * inverse) as u8).collect();
        let largest = rotated.iter().fold(0f32, |largest, x| largest.max(x.abs()));
        // The sum of products with 8-bit codes stays within an i32.
        let narrow_max = QUERY_MAX.min((i32::MAX / 128) as f32 / rotated.len() as f32);
        let narrow_scale = if largest > 0.0 { largest / narrow_max.floor() } else { 1.0 };
        let inverse = 1.0 / narrow_scale;
        let narrow = rotated.iter().map(|x| nearest_integer(x * inverse) as i16).collect();
        let (total, norm_squared) = (rotated.iter().sum::<f32>(), rotated.iter().map(|x| x * x).sum());
        Sought { norm_squared, table, step, offset: 2.0 * least - total, narrow, narrow_scale, rotated }
    }

    /// How sums become scores in a cluster whose centroid adds `centroid` to them.
    pub(super) fn estimate(&self, centroid: f32, margin: f32) -> Estimate {
        Estimate { centroid, step: 2.0 * self.step, offset: self.offset, margin }
    }

    /// A score from a vector's 8-bit codes, and the scale and base behind them.
    #[inline]
    pub(super) fn score(&self, codes: &[u8], tail: &[u8], centroid: f32, kernels: Kernels) -> f32 {
        let [scale, base] = [0, 4].map(|at| tail[at..].first_chunk().map_or(0.0, |x| f32::from_le_bytes(*x)));
        let sum = (kernels.product)(codes, &self.narrow);
        base + centroid + scale * self.narrow_scale * sum as f32
    }
}
