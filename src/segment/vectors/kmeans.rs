//! Centroids of vectors by Lloyd's k-means (IEEE Transactions on Information Theory, 1982).

use super::products::products;
use super::rotation::split_mix;

/// Rounds of training; after these centroids hardly move.
const ROUNDS: usize = 8;
/// Vectors that are compared with all centroids at a time.
const BATCH: usize = 256;

/// Centroids one after the other, and what is computed from them once.
pub(super) struct Centroids {
    values: Vec<f32>,
    norms_squared: Vec<f32>,
    dims: usize,
}

impl Centroids {
    pub(super) fn new(values: Vec<f32>, dims: usize) -> Self {
        let norms_squared = values.chunks_exact(dims).map(|c| c.iter().map(|x| x * x).sum()).collect();
        Centroids { values, norms_squared, dims }
    }

    pub(super) fn len(&self) -> usize {
        self.norms_squared.len()
    }

    pub(super) fn get(&self, at: usize) -> &[f32] {
        &self.values[at * self.dims..(at + 1) * self.dims]
    }

    /// Writes to `nearest` for each of `vectors` which centroid is nearest.
    pub(super) fn assign(&self, vectors: &[f32], nearest: &mut [u32]) {
        let mut all = vec![0.0; BATCH * self.len()];
        for (vectors, nearest) in vectors.chunks(BATCH * self.dims).zip(nearest.chunks_mut(BATCH)) {
            let all = &mut all[..nearest.len() * self.len()];
            products(vectors, &self.values, self.dims, all);
            for (products, nearest) in all.chunks_exact(self.len()).zip(nearest) {
                let mut best = f32::MAX;
                for (at, (product, norm_squared)) in products.iter().zip(&self.norms_squared).enumerate() {
                    let distance = norm_squared - 2.0 * product;
                    if distance < best {
                        (best, *nearest) = (distance, at as u32);
                    }
                }
            }
        }
    }

    /// `count` centroids of a sample of at least as many vectors. Some may be nearest to none.
    pub(super) fn train(sample: &[f32], dims: usize, count: usize) -> Self {
        let vectors = sample.len() / dims;
        let mut picks = Picks { state: 0, vectors };
        let mut values = Vec::with_capacity(count * dims);
        (0..count).for_each(|_| values.extend_from_slice(picks.next(sample, dims)));
        let mut centroids = Centroids::new(values, dims);
        let mut nearest = vec![0; vectors];
        for _ in 0..ROUNDS {
            centroids.assign(sample, &mut nearest);
            centroids = centroids.moved(sample, &nearest, &mut picks);
        }
        centroids
    }

    /// Each centroid in the middle of the vectors that are nearest to it.
    fn moved(&self, sample: &[f32], nearest: &[u32], picks: &mut Picks) -> Self {
        let mut values = vec![0.0; self.values.len()];
        let mut counts = vec![0usize; self.len()];
        for (vector, at) in sample.chunks_exact(self.dims).zip(nearest) {
            let at = *at as usize;
            counts[at] += 1;
            let sum = &mut values[at * self.dims..(at + 1) * self.dims];
            sum.iter_mut().zip(vector).for_each(|(sum, x)| *sum += x);
        }
        for (centroid, count) in values.chunks_exact_mut(self.dims).zip(counts) {
            if count == 0 {
                // Another try elsewhere.
                centroid.copy_from_slice(picks.next(sample, self.dims));
            } else {
                centroid.iter_mut().for_each(|x| *x /= count as f32);
            }
        }
        Centroids::new(values, self.dims)
    }
}

/// Vectors of a sample to begin with, without a pattern that the sample may have too; the same in every run.
struct Picks {
    state: u64,
    vectors: usize,
}

impl Picks {
    fn next<'s>(&mut self, sample: &'s [f32], dims: usize) -> &'s [f32] {
        let at = (split_mix(&mut self.state) % self.vectors as u64) as usize;
        &sample[at * dims..(at + 1) * dims]
    }
}

#[cfg(test)]
mod tests {
    use super::Centroids;

    #[test]
    fn groups_that_lie_apart_are_found() {
        let sample: Vec<f32> =
            (0..400).flat_map(|n| [(n % 4) as f32 * 10.0 + (n % 7) as f32 * 0.1, (n % 3) as f32 * 0.1]).collect();
        let centroids = Centroids::train(&sample, 2, 16);
        let mut nearest = vec![0; 400];
        centroids.assign(&sample, &mut nearest);
        for (at, vector) in sample.chunks_exact(2).enumerate() {
            let centroid = centroids.get(nearest[at] as usize);
            assert!((centroid[0] - vector[0]).abs() < 1.0, "{vector:?} is beside {centroid:?}");
        }
    }

    #[test]
    fn vectors_that_are_all_alike_have_centroids_too() {
        let centroids = Centroids::train(&[1.0; 64], 2, 4);
        let mut nearest = [9; 32];
        centroids.assign(&[1.0; 64], &mut nearest);
        assert!(nearest.iter().all(|at| *at == nearest[0]));
        assert_eq!(centroids.get(nearest[0] as usize), [1.0, 1.0]);
    }
}
