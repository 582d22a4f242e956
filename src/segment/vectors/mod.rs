//! Dense vectors: distances, and a segment's vectors searched exactly or by clusters.
//!
//! | file | what it does |
//! | --- | --- |
//! | `kernels` | sums over a query and one stored vector |
//! | `avx512`, `neon` | those and the scan of codes for the processors that have it |
//! | `reader`, `apart`, `top` | a column's vectors by row, and exact search; of segments that are not all here |
//! | `clustering`, `carried`, `kmeans`, `products` | put vectors into clusters when a segment is written |
//! | `rotation`, `codes` | vectors as 1-bit and 8-bit codes |
//! | `centroids` | centroids by their distance to a query, coded like vectors |
//! | `tokens`, `late` | multivectors by row, and late interaction with a query's: exact, and by clusters |
//! | `lists`, `order` | the lists of clusters, and clusters in the order in which they are searched |
//! | `search`, `stop` | search the nearest clusters of one or several segments until enough is found |
//! | `scan`, `fastscan`, `best`, `allowed` | look at a cluster's codes: of rows that may be found, for the best so far |

mod allowed;
mod apart;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod best;
pub mod carried;
mod centroids;
pub mod clustering;
mod codes;
mod fastscan;
pub mod kernels;
mod kmeans;
mod late;
mod lists;
#[cfg(target_arch = "aarch64")]
mod neon;
mod order;
mod products;
mod reader;
mod rotation;
mod scan;
mod search;
mod stop;
mod tokens;
mod top;

pub use late::Compared;
pub(in crate::segment) use reader::Kept;
pub use reader::VectorReader;
pub use search::{ClusterQuery, ClusterSearch, NearByCodes, Probed, Source, Wanted};
pub use tokens::{QueryTokens, TokenReader};

use crate::format::vectors::bytes_of;
use crate::model::schema::{Element, Metric};
use crate::model::value::Vector;

/// A query's vector, with what is computed from it once.
#[derive(Clone, Debug)]
pub struct QueryVector {
    metric: Metric,
    values: Vec<f32>,
    norm: f32,
}

impl QueryVector {
    /// `values` are finite.
    pub fn new(metric: Metric, values: Vec<f32>) -> Self {
        let norm = norm_of(Element::F32, bytemuck::cast_slice(&values), &values);
        QueryVector { metric, values, norm }
    }

    pub fn metric(&self) -> Metric {
        self.metric
    }

    pub fn values(&self) -> &[f32] {
        &self.values
    }

    pub fn dims(&self) -> u32 {
        self.values.len() as u32
    }
}

/// How far a vector is from the query, the same to the bit as a segment says. Smaller is nearer; never NaN or infinite.
/// The vector has as many dimensions as the query.
pub fn distance(query: &QueryVector, vector: &Vector) -> f32 {
    Measure::new(query, element_of(vector)).distance(bytes_of(vector), || norm(vector))
}

/// Asks for the elements of a vector that will be compared soon.
pub fn prefetch(vector: &Vector) {
    fastscan::prefetch(bytes_of(vector));
}

/// The Euclidean norm of a vector, as segments store it.
pub fn norm(vector: &Vector) -> f32 {
    match vector {
        Vector::F32(values) => norm_of(Element::F32, bytes_of(vector), values),
        narrow => norm_of(element_of(narrow), bytes_of(narrow), &narrow.to_f32()),
    }
}

pub(in crate::segment) fn element_of(vector: &Vector) -> Element {
    match vector {
        Vector::F32(_) => Element::F32,
        Vector::F16(_) => Element::F16,
        Vector::I8(_) => Element::I8,
    }
}

/// Sums of squares outside these bounds lost digits or overflowed, and are computed again in double precision.
const SQUARES_MIN: f32 = 1e-30;
const SQUARES_MAX: f32 = 1e37;

/// The norm of the vector in `bytes`, whose elements are `wide`.
fn norm_of(element: Element, bytes: &[u8], wide: &[f32]) -> f32 {
    let squares = kernels::dot(element)(wide, bytes);
    if (SQUARES_MIN..=SQUARES_MAX).contains(&squares) {
        return squares.sqrt();
    }
    clamp(wide.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt())
}

/// A number as the nearest finite f32.
fn clamp(value: f64) -> f32 {
    value.clamp(f64::from(f32::MIN), f64::from(f32::MAX)) as f32
}

/// A query made ready for stored vectors of one element type.
struct Measure<'q> {
    query: &'q QueryVector,
    element: Element,
    kernel: kernels::Kernel,
}

impl<'q> Measure<'q> {
    fn new(query: &'q QueryVector, element: Element) -> Self {
        let kernel = match query.metric {
            Metric::EuclideanSquared => kernels::squared_difference(element),
            Metric::CosineDistance | Metric::DotProduct => kernels::dot(element),
        };
        Measure { query, element, kernel }
    }

    /// The distance to the vector in `bytes`; `norm` is asked for only when vectors are compared by their angle.
    #[inline]
    fn distance(&self, bytes: &[u8], norm: impl FnOnce() -> f32) -> f32 {
        let sum = (self.kernel)(&self.query.values, bytes);
        match self.query.metric {
            Metric::EuclideanSquared if sum.is_finite() => sum,
            Metric::DotProduct if sum.is_finite() => -sum,
            Metric::CosineDistance => {
                let norm = norm();
                let norms = self.query.norm * norm;
                if sum.is_finite() && (SQUARES_MIN..=SQUARES_MAX).contains(&norms) {
                    // In single precision throughout: this is what reproduces the wire contract's distances.
                    return (1.0 - sum / norms).clamp(0.0, 2.0);
                }
                self.cosine_of_extremes(bytes, norm)
            }
            Metric::EuclideanSquared => clamp(self.sum_in_double(bytes, |q, x| (q - x) * (q - x))),
            Metric::DotProduct => clamp(-self.sum_in_double(bytes, |q, x| q * x)),
        }
    }

    /// Vectors whose squares leave the range of f32; a zero vector is at distance 1 from everything.
    #[cold]
    fn cosine_of_extremes(&self, bytes: &[u8], norm: f32) -> f32 {
        let norms = f64::from(self.query.norm) * f64::from(norm);
        if norms == 0.0 {
            return 1.0;
        }
        (1.0 - self.sum_in_double(bytes, |q, x| q * x) / norms).clamp(0.0, 2.0) as f32
    }

    #[cold]
    fn sum_in_double(&self, bytes: &[u8], term: impl Fn(f64, f64) -> f64) -> f64 {
        let stored = widen(self.element, bytes);
        self.query.values.iter().zip(stored).map(|(q, x)| term(f64::from(*q), f64::from(x))).sum()
    }
}

/// The elements of the vector in `bytes`.
fn widen(element: Element, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; bytes.len() / element.bytes()];
    widen_into(element, bytes, &mut out);
    out
}

/// Writes the elements of the vector in `bytes` to the front of `out`.
pub(in crate::segment) fn widen_into(element: Element, bytes: &[u8], out: &mut [f32]) {
    match element {
        Element::F32 => out.iter_mut().zip(bytes.as_chunks().0).for_each(|(out, x)| *out = f32::from_le_bytes(*x)),
        Element::F16 => {
            out.iter_mut().zip(bytes.as_chunks().0).for_each(|(out, x)| *out = half::f16::from_le_bytes(*x).to_f32());
        }
        Element::I8 => out.iter_mut().zip(bytes).for_each(|(out, x)| *out = f32::from(*x as i8)),
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::{QueryVector, distance};
    use crate::model::schema::Metric;
    use crate::model::value::Vector;

    fn between(metric: Metric, query: &[f32], vector: &[f32]) -> f32 {
        distance(&QueryVector::new(metric, query.to_vec()), &Vector::F32(vector.to_vec()))
    }

    #[test]
    fn the_contract_s_distance_is_reproduced_to_its_last_digit() {
        let found = between(Metric::CosineDistance, &[0.2, 0.7], &[0.1, 0.6]);
        assert_eq!(found.to_string(), "0.0063946843");
    }

    #[test]
    fn each_metric_has_its_formula() {
        assert_eq!(between(Metric::EuclideanSquared, &[1.0, 2.0], &[4.0, 6.0]), 25.0);
        assert_eq!(between(Metric::DotProduct, &[1.0, 2.0], &[4.0, 6.0]), -16.0);
        assert_eq!(between(Metric::CosineDistance, &[1.0, 0.0], &[0.0, 3.0]), 1.0);
        assert_eq!(between(Metric::CosineDistance, &[1.0, 0.0], &[-2.0, 0.0]), 2.0);
    }

    #[test]
    fn a_zero_vector_is_at_distance_one() {
        assert_eq!(between(Metric::CosineDistance, &[0.0, 0.0], &[1.0, 0.0]), 1.0);
        assert_eq!(between(Metric::CosineDistance, &[1.0, 0.0], &[0.0, 0.0]), 1.0);
    }

    #[test]
    fn very_large_and_very_small_numbers_have_distances_too() {
        assert_eq!(between(Metric::CosineDistance, &[1e30, 0.0], &[1e30, 0.0]), 0.0);
        assert_eq!(between(Metric::CosineDistance, &[1e-30, 0.0], &[1e-30, 0.0]), 0.0);
        assert_eq!(between(Metric::CosineDistance, &[1e-30, 0.0], &[0.0, 1e30]), 1.0);
        assert_eq!(between(Metric::EuclideanSquared, &[3e38], &[-3e38]), f32::MAX);
        assert_eq!(between(Metric::DotProduct, &[3e38, 3e38], &[3e38, -3e38]), 0.0);
    }

    #[test]
    fn narrow_elements_are_compared_as_the_numbers_they_are() {
        let query = QueryVector::new(Metric::EuclideanSquared, vec![1.0, -3.0]);
        assert_eq!(distance(&query, &Vector::I8(vec![4, 1])), 25.0);
        assert_eq!(distance(&query, &Vector::F16(vec![f16::from_f32(4.0), f16::from_f32(1.0)])), 25.0);
    }
}
