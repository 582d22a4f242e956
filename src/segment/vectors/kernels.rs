//! Sums over a query and one stored vector: the products of their elements, or the squares of their differences.
//!
//! Invariant: the result is the same to the bit on every processor. Element `i` is added to lane `i % 32`; each product and
//! each sum is rounded by itself, never fused; the lanes are added in one fixed order. The kernels for AVX2, AVX-512 and NEON follow
//! the scalar ones step by step, and the tests compare them.

use half::f16;

#[cfg(target_arch = "x86_64")]
use super::avx512;
#[cfg(target_arch = "aarch64")]
use super::neon;
use crate::model::schema::Element;

/// Partial sums kept side by side: four AVX2 registers, so that one addition need not wait for the one before.
pub(super) const LANES: usize = 32;

/// A sum over a query and the little-endian bytes of one vector of as many elements. Where lengths differ the shorter
/// counts.
pub type Kernel = fn(&[f32], &[u8]) -> f32;

/// The kernel that sums products, for this processor.
pub fn dot(element: Element) -> Kernel {
    #[cfg(target_arch = "x86_64")]
    if avx512::available() {
        return avx512::dot(element);
    } else if avx2::available() {
        return avx2::dot(element);
    }
    #[cfg(target_arch = "aarch64")]
    use on_arm as sum;
    #[cfg(not(target_arch = "aarch64"))]
    use scalar as sum;
    match element {
        Element::F32 => sum::<F32, Dot>,
        Element::F16 => sum::<F16, Dot>,
        Element::I8 => sum::<I8, Dot>,
    }
}

/// The kernel that sums squared differences, for this processor.
pub fn squared_difference(element: Element) -> Kernel {
    #[cfg(target_arch = "x86_64")]
    if avx512::available() {
        return avx512::squared_difference(element);
    } else if avx2::available() {
        return avx2::squared_difference(element);
    }
    #[cfg(target_arch = "aarch64")]
    use on_arm as sum;
    #[cfg(not(target_arch = "aarch64"))]
    use scalar as sum;
    match element {
        Element::F32 => sum::<F32, SquaredDifference>,
        Element::F16 => sum::<F16, SquaredDifference>,
        Element::I8 => sum::<I8, SquaredDifference>,
    }
}

/// An element type: how its bytes become f32. All of these are exact.
pub(super) trait Stored {
    const BYTES: usize;
    fn at(bytes: &[u8]) -> f32;
}

pub(super) struct F32;
pub(super) struct F16;
pub(super) struct I8;

impl Stored for F32 {
    const BYTES: usize = 4;

    #[inline(always)]
    fn at(bytes: &[u8]) -> f32 {
        f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
    }
}

impl Stored for F16 {
    const BYTES: usize = 2;

    #[inline(always)]
    fn at(bytes: &[u8]) -> f32 {
        f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
    }
}

impl Stored for I8 {
    const BYTES: usize = 1;

    #[inline(always)]
    fn at(bytes: &[u8]) -> f32 {
        f32::from(bytes[0] as i8)
    }
}

/// What is summed.
pub(super) trait Term {
    fn of(query: f32, stored: f32) -> f32;
}

pub(super) struct Dot;
pub(super) struct SquaredDifference;

impl Term for Dot {
    #[inline(always)]
    fn of(query: f32, stored: f32) -> f32 {
        query * stored
    }
}

impl Term for SquaredDifference {
    #[inline(always)]
    fn of(query: f32, stored: f32) -> f32 {
        let difference = query - stored;
        difference * difference
    }
}

#[cfg(target_arch = "aarch64")]
fn on_arm<S: neon::Load, T: neon::Step>(query: &[f32], stored: &[u8]) -> f32 {
    // SAFETY: every processor of this architecture has NEON.
    unsafe { neon::sum::<S, T>(query, stored) }
}

#[cfg(any(not(target_arch = "aarch64"), test))]
fn scalar<S: Stored, T: Term>(query: &[f32], stored: &[u8]) -> f32 {
    let mut lanes = [0.0; LANES];
    let (blocks, _) = query.as_chunks::<LANES>();
    let mut done = 0;
    for (query, stored) in blocks.iter().zip(stored.chunks_exact(LANES * S::BYTES)) {
        for (lane, (query, stored)) in lanes.iter_mut().zip(query.iter().zip(stored.chunks_exact(S::BYTES))) {
            *lane += T::of(*query, S::at(stored));
        }
        done += LANES;
    }
    finish::<S, T>(lanes, &query[done..], &stored[done * S::BYTES..])
}

/// Adds the elements after the last whole block, and then the lanes: 32 to 16, 8, 4, 2, 1, each the sum of two halves.
#[inline(always)]
pub(super) fn finish<S: Stored, T: Term>(mut lanes: [f32; LANES], query: &[f32], stored: &[u8]) -> f32 {
    for (lane, (query, stored)) in lanes.iter_mut().zip(query.iter().zip(stored.chunks_exact(S::BYTES))) {
        *lane += T::of(*query, S::at(stored));
    }
    let mut half = LANES / 2;
    while half > 0 {
        let (low, high) = lanes.split_at_mut(half);
        for (low, high) in low.iter_mut().zip(high) {
            *low += *high;
        }
        half /= 2;
    }
    lanes[0]
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m256, _mm_loadl_epi64, _mm_loadu_si128, _mm256_add_ps, _mm256_cvtepi8_epi32, _mm256_cvtepi32_ps,
        _mm256_cvtph_ps, _mm256_loadu_ps, _mm256_mul_ps, _mm256_setzero_ps, _mm256_storeu_ps, _mm256_sub_ps,
    };

    use super::{Dot, F16, F32, I8, Kernel, LANES, SquaredDifference, Stored, Term, finish};
    use crate::model::schema::Element;

    /// Elements in one register.
    const WIDTH: usize = 8;

    pub(super) fn available() -> bool {
        std::is_x86_feature_detected!("avx2") && std::is_x86_feature_detected!("f16c")
    }

    // SAFETY of the six closures: they are handed out only by the functions above, which ask `available` first.
    pub(super) fn dot(element: Element) -> Kernel {
        match element {
            // SAFETY: see above.
            Element::F32 => |query, stored| unsafe { sum::<F32, Dot>(query, stored) },
            // SAFETY: see above.
            Element::F16 => |query, stored| unsafe { sum::<F16, Dot>(query, stored) },
            // SAFETY: see above.
            Element::I8 => |query, stored| unsafe { sum::<I8, Dot>(query, stored) },
        }
    }

    pub(super) fn squared_difference(element: Element) -> Kernel {
        match element {
            // SAFETY: see `dot`.
            Element::F32 => |query, stored| unsafe { sum::<F32, SquaredDifference>(query, stored) },
            // SAFETY: see `dot`.
            Element::F16 => |query, stored| unsafe { sum::<F16, SquaredDifference>(query, stored) },
            // SAFETY: see `dot`.
            Element::I8 => |query, stored| unsafe { sum::<I8, SquaredDifference>(query, stored) },
        }
    }

    trait Load: Stored {
        /// Eight elements as f32.
        ///
        /// # Safety
        /// The processor has AVX2 and F16C, and `from` is the first of `8 * BYTES` readable bytes.
        unsafe fn load(from: *const u8) -> __m256;
    }

    impl Load for F32 {
        #[inline]
        #[target_feature(enable = "avx2,f16c")]
        unsafe fn load(from: *const u8) -> __m256 {
            // SAFETY: 32 bytes are readable, the caller says; the load needs no alignment.
            unsafe { _mm256_loadu_ps(from.cast()) }
        }
    }

    impl Load for F16 {
        #[inline]
        #[target_feature(enable = "avx2,f16c")]
        unsafe fn load(from: *const u8) -> __m256 {
            // SAFETY: 16 bytes are readable, the caller says; the load needs no alignment.
            _mm256_cvtph_ps(unsafe { _mm_loadu_si128(from.cast()) })
        }
    }

    impl Load for I8 {
        #[inline]
        #[target_feature(enable = "avx2,f16c")]
        unsafe fn load(from: *const u8) -> __m256 {
            // SAFETY: 8 bytes are readable, the caller says; the load needs no alignment.
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(unsafe { _mm_loadl_epi64(from.cast()) }))
        }
    }

    trait Step: Term {
        /// Eight terms.
        ///
        /// # Safety
        /// The processor has AVX2.
        unsafe fn step(query: __m256, stored: __m256) -> __m256;
    }

    impl Step for Dot {
        #[inline]
        #[target_feature(enable = "avx2,f16c")]
        unsafe fn step(query: __m256, stored: __m256) -> __m256 {
            _mm256_mul_ps(query, stored)
        }
    }

    impl Step for SquaredDifference {
        #[inline]
        #[target_feature(enable = "avx2,f16c")]
        unsafe fn step(query: __m256, stored: __m256) -> __m256 {
            let difference = _mm256_sub_ps(query, stored);
            _mm256_mul_ps(difference, difference)
        }
    }

    /// # Safety
    /// The processor has AVX2 and F16C.
    #[target_feature(enable = "avx2,f16c")]
    unsafe fn sum<S: Load, T: Step>(query: &[f32], stored: &[u8]) -> f32 {
        let blocks = (query.len() / LANES).min(stored.len() / (LANES * S::BYTES));
        let mut sums = [_mm256_setzero_ps(); LANES / WIDTH];
        for block in 0..blocks {
            for (at, sum) in sums.iter_mut().enumerate() {
                let first = block * LANES + at * WIDTH;
                // SAFETY: `first + WIDTH` is at most `blocks * LANES`, which both slices have.
                let (query, stored) = unsafe {
                    (_mm256_loadu_ps(query.as_ptr().add(first)), S::load(stored.as_ptr().add(first * S::BYTES)))
                };
                // SAFETY: the caller says that the processor has AVX2.
                *sum = _mm256_add_ps(*sum, unsafe { T::step(query, stored) });
            }
        }
        let mut lanes = [0.0; LANES];
        for (at, sum) in sums.into_iter().enumerate() {
            // SAFETY: `at` is below `LANES / WIDTH`, so eight lanes from `at * WIDTH` are there.
            unsafe { _mm256_storeu_ps(lanes.as_mut_ptr().add(at * WIDTH), sum) };
        }
        let done = blocks * LANES;
        finish::<S, T>(lanes, &query[done..], &stored[done * S::BYTES..])
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::{Dot, F16, F32, I8, SquaredDifference, dot, scalar, squared_difference};
    use crate::model::schema::Element;

    /// Numbers with no pattern, the same in every run.
    fn noise(count: usize, seed: u64) -> Vec<f32> {
        let mut state = seed;
        let next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        std::iter::repeat_with(next).take(count).collect()
    }

    #[test]
    fn kernels_equal_their_scalar_twins_to_the_bit() {
        for dims in (0..100).chain([384, 768, 1_000, 1_536]) {
            let (query, stored) = (noise(dims, 1), noise(dims, 2));
            let f32s: Vec<u8> = stored.iter().flat_map(|x| x.to_le_bytes()).collect();
            let f16s: Vec<u8> = stored.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect();
            let i8s: Vec<u8> = stored.iter().map(|x| (x * 127.0) as i8 as u8).collect();
            let cases = [
                (
                    Element::F32,
                    &f32s,
                    scalar::<F32, Dot>(&query, &f32s),
                    scalar::<F32, SquaredDifference>(&query, &f32s),
                ),
                (
                    Element::F16,
                    &f16s,
                    scalar::<F16, Dot>(&query, &f16s),
                    scalar::<F16, SquaredDifference>(&query, &f16s),
                ),
                (Element::I8, &i8s, scalar::<I8, Dot>(&query, &i8s), scalar::<I8, SquaredDifference>(&query, &i8s)),
            ];
            for (element, bytes, product, difference) in cases {
                assert_eq!(dot(element)(&query, bytes).to_bits(), product.to_bits(), "{element:?} {dims}");
                let found = squared_difference(element)(&query, bytes);
                assert_eq!(found.to_bits(), difference.to_bits(), "{element:?} {dims}");
            }
        }
    }

    #[test]
    fn sums_are_near_those_of_double_precision() {
        let (query, stored) = (noise(1_000, 3), noise(1_000, 4));
        let bytes: Vec<u8> = stored.iter().flat_map(|x| x.to_le_bytes()).collect();
        let exact: f64 = query.iter().zip(&stored).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        assert!((f64::from(dot(Element::F32)(&query, &bytes)) - exact).abs() < 1e-4);
    }

    #[test]
    fn a_short_vector_is_no_read_beyond_its_end() {
        assert_eq!(dot(Element::F32)(&[1.0; 64], &[0; 5]), 0.0);
        assert_eq!(dot(Element::I8)(&[1.0; 3], &[1; 100]), 3.0);
    }
}
