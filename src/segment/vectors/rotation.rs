//! The rotation before codes are made: it spreads what a vector says evenly over its dimensions.
//!
//! Four rounds, each flips signs and applies a Walsh-Hadamard transform to as many dimensions as the largest power of two
//! has, alternately the first and the last ones. Signs are constants of the format, so codes of all segments can be
//! compared and copied. The idea is that of fast Johnson-Lindenstrauss transforms (Ailon and Chazelle, STOC 2006).

use std::sync::{Arc, PoisonError, RwLock};

const ROUNDS: usize = 4;
/// Where the sequence of signs begins.
const SEED: u64 = 0x5368_6f61_6c31;

/// Rotations that are kept.
const KEPT_MAX: usize = 16;

static KEPT: RwLock<Vec<Arc<Rotation>>> = RwLock::new(Vec::new());

/// The rotation of vectors of one number of dimensions.
pub(super) struct Rotation {
    /// Per round and dimension 1 or -1.
    signs: Vec<f32>,
    dims: usize,
    /// Dimensions of one transform.
    width: usize,
}

impl Rotation {
    /// `dims` is at least 1.
    pub(super) fn new(dims: usize) -> Self {
        let mut state = SEED;
        let mut bits =
            std::iter::repeat_with(|| split_mix(&mut state)).flat_map(|word| (0..64).map(move |bit| word >> bit & 1));
        let signs = (&mut bits).take(ROUNDS * dims).map(|bit| if bit == 1 { 1.0 } else { -1.0 }).collect();
        Rotation { signs, dims, width: 1 << dims.ilog2() }
    }

    /// The rotation of vectors of `dims` dimensions, made once for most.
    pub(super) fn shared(dims: usize) -> Arc<Self> {
        let find = |kept: &[Arc<Self>]| kept.iter().find(|rotation| rotation.dims == dims).map(Arc::clone);
        let known = find(&KEPT.read().unwrap_or_else(PoisonError::into_inner));
        known.unwrap_or_else(|| {
            let made = Arc::new(Self::new(dims));
            let mut kept = KEPT.write().unwrap_or_else(PoisonError::into_inner);
            if kept.len() < KEPT_MAX && find(&kept).is_none() {
                kept.push(Arc::clone(&made));
            }
            made
        })
    }

    /// Rotates a vector of `dims` elements in place.
    pub(super) fn apply(&self, vector: &mut [f32]) {
        for (round, signs) in self.signs.chunks_exact(self.dims).enumerate() {
            vector.iter_mut().zip(signs).for_each(|(x, sign)| *x *= sign);
            let from = if round % 2 == 0 { 0 } else { self.dims - self.width };
            transform(&mut vector[from..from + self.width]);
        }
    }
}

/// The next number of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
pub(super) fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*state ^ *state >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ mixed >> 31
}

/// The Walsh-Hadamard transform, scaled so that lengths stay.
fn transform(vector: &mut [f32]) {
    let mut half = 1;
    // The first two steps at once.
    if vector.len() >= 4 {
        for four in vector.as_chunks_mut::<4>().0 {
            let [a, b, c, d] = *four;
            let (a, b, c, d) = (a + b, a - b, c + d, c - d);
            *four = [a + c, b + d, a - c, b - d];
        }
        half = 4;
    }
    while half < vector.len() {
        for both in vector.chunks_exact_mut(2 * half) {
            let (low, high) = both.split_at_mut(half);
            for (low, high) in low.iter_mut().zip(high) {
                (*low, *high) = (*low + *high, *low - *high);
            }
        }
        half *= 2;
    }
    let scale = 1.0 / (vector.len() as f32).sqrt();
    vector.iter_mut().for_each(|x| *x *= scale);
}

#[cfg(test)]
mod tests {
    use super::Rotation;

    #[test]
    fn lengths_and_angles_stay() {
        for dims in [1, 32, 96, 384, 1_536] {
            let rotation = Rotation::new(dims);
            let mut a: Vec<f32> = (0..dims).map(|n| (n as f32).sin()).collect();
            let mut b: Vec<f32> = (0..dims).map(|n| (n as f32 * 0.7).cos()).collect();
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(x, y)| x * y).sum::<f32>();
            let before = [dot(&a, &a), dot(&a, &b), dot(&b, &b)];
            rotation.apply(&mut a);
            rotation.apply(&mut b);
            for (before, after) in before.into_iter().zip([dot(&a, &a), dot(&a, &b), dot(&b, &b)]) {
                assert!((before - after).abs() <= 1e-3 * (1.0 + before.abs()), "{dims}: {before} became {after}");
            }
        }
    }

    #[test]
    fn one_dimension_alone_is_spread_over_all() {
        let mut vector = vec![0.0; 384];
        vector[7] = 1.0;
        Rotation::new(384).apply(&mut vector);
        let largest = vector.iter().fold(0.0f32, |largest, x| largest.max(x.abs()));
        assert!(largest < 0.25, "{largest}");
    }

    #[test]
    fn the_signs_are_those_of_the_format() {
        let signs = [[-1.0, 1.0, 1.0, -1.0], [-1.0, 1.0, -1.0, -1.0], [1.0, 1.0, 1.0, 1.0], [1.0, -1.0, 1.0, -1.0]];
        assert_eq!(Rotation::new(4).signs, signs.concat());
    }
}
