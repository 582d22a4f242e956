//! The kernels for processors with AVX-512 (F and BW). Each does what its scalar twin does, step by step.

use std::arch::x86_64::{
    __m128i, __m256i, __m512, __m512i, _CMP_LT_OQ, _mm_add_epi16, _mm_loadu_si128, _mm_unpackhi_epi16,
    _mm_unpacklo_epi16, _mm256_loadu_si256, _mm256_set_m128i, _mm512_add_epi8, _mm512_add_epi16, _mm512_add_epi32,
    _mm512_add_ps, _mm512_and_si512, _mm512_andnot_si512, _mm512_cmp_ps_mask, _mm512_cmplt_epu32_mask,
    _mm512_cvtepi8_epi16, _mm512_cvtepi8_epi32, _mm512_cvtepi32_ps, _mm512_cvtepu16_epi32, _mm512_cvtph_ps,
    _mm512_extracti32x4_epi32, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_madd_epi16, _mm512_mask_i32gather_epi32,
    _mm512_mul_ps, _mm512_reduce_add_epi32, _mm512_set1_epi8, _mm512_set1_epi32, _mm512_set1_ps, _mm512_setzero_ps,
    _mm512_setzero_si512, _mm512_shuffle_epi8, _mm512_slli_epi16, _mm512_sllv_epi32, _mm512_srli_epi16,
    _mm512_srli_epi32, _mm512_storeu_ps, _mm512_sub_epi16, _mm512_sub_ps, _mm512_test_epi32_mask,
};

use super::codes::Estimate;
use super::fastscan::{GROUP_BYTES, GROUPS_MAX, members_scalar, product_scalar, scan_scalar};
use super::kernels::{Dot, F16, F32, I8, Kernel, LANES, SquaredDifference, Stored, Term, finish};
use crate::format::clusters::{BLOCK, FACTORS_BYTES};
use crate::model::schema::Element;

/// Bytes of one register.
const BYTES: usize = 64;
/// Elements of f32 in one register.
const WIDTH: usize = 16;
/// Bytes of a table that are added as bytes: four groups to a byte.
const STEP: usize = 4 * BYTES;

pub(super) fn available() -> bool {
    std::is_x86_feature_detected!("avx512f") && std::is_x86_feature_detected!("avx512bw")
}

/// See [`super::fastscan::Scan`].
///
/// # Safety
/// [`available`] says yes, here and below.
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn scan(
    block: &[u8],
    table: &[u8],
    estimate: &Estimate,
    threshold: f32,
    lower: &mut [f32; BLOCK],
) -> u32 {
    // Four groups at a time; what does not fit goes the slow way.
    if block.len() != FACTORS_BYTES + table.len() || !table.len().is_multiple_of(BYTES) {
        return scan_scalar(block, table, estimate, threshold, lower);
    }
    let (factors, codes) = block.split_at(FACTORS_BYTES);
    let mut sums = [_mm512_setzero_si512(); BLOCK / WIDTH];
    for (codes, table) in codes.chunks(GROUPS_MAX * GROUP_BYTES).zip(table.chunks(GROUPS_MAX * GROUP_BYTES)) {
        for (sum, part) in sums.iter_mut().zip(sum_groups(codes, table)) {
            *sum = _mm512_add_epi32(*sum, _mm512_cvtepu16_epi32(part));
        }
    }
    let (step, offset) = (_mm512_set1_ps(estimate.step), _mm512_set1_ps(estimate.offset));
    let (centroid, margin) = (_mm512_set1_ps(estimate.centroid), _mm512_set1_ps(estimate.margin));
    let mut mask = 0;
    for (at, sum) in sums.into_iter().enumerate() {
        // SAFETY: factors are three times `BLOCK` f32, and `at * WIDTH + WIDTH` is at most `BLOCK`.
        let [add, factor, error] = [0, 1, 2]
            .map(|of| unsafe { _mm512_loadu_ps(factors.as_ptr().add((of * BLOCK + at * WIDTH) * 4).cast()) });
        let product = _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sum), step), offset);
        let score = _mm512_add_ps(_mm512_add_ps(add, centroid), _mm512_mul_ps(factor, product));
        let bound = _mm512_sub_ps(score, _mm512_mul_ps(error, margin));
        // SAFETY: `lower` has `BLOCK` elements.
        unsafe { _mm512_storeu_ps(lower.as_mut_ptr().add(at * WIDTH), bound) };
        let below = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(bound, _mm512_set1_ps(threshold));
        mask |= u32::from(below) << (at * WIDTH);
    }
    mask
}

/// The sums of at most [`GROUPS_MAX`] groups, 16 bits each, sixteen vectors a part. Both slices have one length, a multiple of
/// `BYTES`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn sum_groups(codes: &[u8], table: &[u8]) -> [__m256i; BLOCK / WIDTH] {
    let low_half = _mm512_set1_epi8(15);
    let zero = _mm512_setzero_si512();
    // Of each pair of bytes the sum of both, the high one times 256; and the sum of the high ones.
    let (mut first, mut first_high, mut second, mut second_high) = (zero, zero, zero, zero);
    for (codes, table) in codes.chunks(STEP).zip(table.chunks(STEP)) {
        let (mut low, mut high) = (zero, zero);
        for (codes, table) in codes.as_chunks().0.iter().zip(table.as_chunks().0) {
            let (codes, table) = (load(codes), load(table));
            low = _mm512_add_epi8(low, _mm512_shuffle_epi8(table, _mm512_and_si512(codes, low_half)));
            let codes = _mm512_and_si512(_mm512_srli_epi16::<4>(codes), low_half);
            high = _mm512_add_epi8(high, _mm512_shuffle_epi8(table, codes));
        }
        first = _mm512_add_epi16(first, low);
        first_high = _mm512_add_epi16(first_high, _mm512_srli_epi16::<8>(low));
        second = _mm512_add_epi16(second, high);
        second_high = _mm512_add_epi16(second_high, _mm512_srli_epi16::<8>(high));
    }
    first = _mm512_sub_epi16(first, _mm512_slli_epi16::<8>(first_high));
    second = _mm512_sub_epi16(second, _mm512_slli_epi16::<8>(second_high));
    let part = |sum, sum_high| {
        let (sum, sum_high) = (added(sum), added(sum_high));
        _mm256_set_m128i(_mm_unpackhi_epi16(sum, sum_high), _mm_unpacklo_epi16(sum, sum_high))
    };
    [part(first, first_high), part(second, second_high)]
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn load(bytes: &[u8; BYTES]) -> __m512i {
    // SAFETY: a register's bytes are there; the load needs no alignment.
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

/// The four quarters of a register added up.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn added(x: __m512i) -> __m128i {
    let low = _mm_add_epi16(_mm512_extracti32x4_epi32::<0>(x), _mm512_extracti32x4_epi32::<1>(x));
    let high = _mm_add_epi16(_mm512_extracti32x4_epi32::<2>(x), _mm512_extracti32x4_epi32::<3>(x));
    _mm_add_epi16(low, high)
}

/// See [`super::fastscan::Product`].
///
/// # Safety
/// See [`scan`].
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn product(codes: &[u8], query: &[i16]) -> i32 {
    let (all_codes, all_query) = (codes.as_chunks::<{ BYTES / 2 }>().0, query.as_chunks::<{ BYTES / 2 }>().0);
    let mut sum = _mm512_setzero_si512();
    for (codes, query) in all_codes.iter().zip(all_query) {
        // SAFETY: half a register's codes and a register's numbers are there.
        let (codes, query) = unsafe {
            (
                _mm512_cvtepi8_epi16(_mm256_loadu_si256(codes.as_ptr().cast())),
                _mm512_loadu_si512(query.as_ptr().cast()),
            )
        };
        sum = _mm512_add_epi32(sum, _mm512_madd_epi16(codes, query));
    }
    let done = all_codes.len().min(all_query.len()) * (BYTES / 2);
    _mm512_reduce_add_epi32(sum) + product_scalar(&codes[done..], &query[done..])
}

/// See [`super::fastscan::Members`].
///
/// # Safety
/// See [`scan`].
#[target_feature(enable = "avx512f,avx512bw")]
pub(super) unsafe fn members(rows: &[[u8; 4]], words: &[u32]) -> u32 {
    let (Some(rows), Ok(count)) = (rows.first_chunk::<BLOCK>(), i32::try_from(words.len())) else {
        return members_scalar(rows, words);
    };
    let mut members = 0;
    for (at, rows) in rows.as_chunks::<WIDTH>().0.iter().enumerate() {
        // SAFETY: a register's rows are there.
        let row = unsafe { _mm512_loadu_si512(rows.as_ptr().cast()) };
        let word = _mm512_srli_epi32::<5>(row);
        let is_inside = _mm512_cmplt_epu32_mask(word, _mm512_set1_epi32(count));
        // SAFETY: only those lanes are read whose word is below the number of words.
        let word = unsafe {
            _mm512_mask_i32gather_epi32::<4>(_mm512_setzero_si512(), is_inside, word, words.as_ptr().cast())
        };
        // The row's bit as the sign.
        let bit = _mm512_andnot_si512(row, _mm512_set1_epi32(31));
        let signs = _mm512_test_epi32_mask(_mm512_sllv_epi32(word, bit), _mm512_set1_epi32(i32::MIN));
        members |= u32::from(signs) << (at * WIDTH);
    }
    members
}

// SAFETY of the six closures: they are handed out only by `kernels`, which asks `available` first.
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

/// An element type: sixteen of it at a time.
trait Load: Stored {
    /// Sixteen elements as f32.
    ///
    /// # Safety
    /// `from` is the first of `16 * BYTES` readable bytes.
    unsafe fn load(from: *const u8) -> __m512;
}

impl Load for F32 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn load(from: *const u8) -> __m512 {
        // SAFETY: 64 bytes are readable, the caller says; the load needs no alignment.
        unsafe { _mm512_loadu_ps(from.cast()) }
    }
}

impl Load for F16 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn load(from: *const u8) -> __m512 {
        // SAFETY: 32 bytes are readable, the caller says; the load needs no alignment.
        _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(from.cast()) })
    }
}

impl Load for I8 {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn load(from: *const u8) -> __m512 {
        // SAFETY: 16 bytes are readable, the caller says; the load needs no alignment.
        _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(unsafe { _mm_loadu_si128(from.cast()) }))
    }
}

/// What is summed, sixteen at a time.
trait Step: Term {
    /// Sixteen terms.
    ///
    /// # Safety
    /// See [`scan`].
    unsafe fn step(query: __m512, stored: __m512) -> __m512;
}

impl Step for Dot {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn step(query: __m512, stored: __m512) -> __m512 {
        _mm512_mul_ps(query, stored)
    }
}

impl Step for SquaredDifference {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    unsafe fn step(query: __m512, stored: __m512) -> __m512 {
        let difference = _mm512_sub_ps(query, stored);
        _mm512_mul_ps(difference, difference)
    }
}

/// See [`super::kernels::Kernel`].
///
/// # Safety
/// See [`scan`].
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn sum<S: Load, T: Step>(query: &[f32], stored: &[u8]) -> f32 {
    let blocks = (query.len() / LANES).min(stored.len() / (LANES * S::BYTES));
    let mut sums = [_mm512_setzero_ps(); LANES / WIDTH];
    for block in 0..blocks {
        for (at, sum) in sums.iter_mut().enumerate() {
            let first = block * LANES + at * WIDTH;
            // SAFETY: `first + WIDTH` is at most `blocks * LANES`, which both slices have.
            let (query, stored) = unsafe {
                (_mm512_loadu_ps(query.as_ptr().add(first)), S::load(stored.as_ptr().add(first * S::BYTES)))
            };
            // SAFETY: the caller says that the processor has AVX-512.
            *sum = _mm512_add_ps(*sum, unsafe { T::step(query, stored) });
        }
    }
    let mut lanes = [0.0; LANES];
    for (at, sum) in sums.into_iter().enumerate() {
        // SAFETY: `at` is below `LANES / WIDTH`, so sixteen lanes from `at * WIDTH` are there.
        unsafe { _mm512_storeu_ps(lanes.as_mut_ptr().add(at * WIDTH), sum) };
    }
    let done = blocks * LANES;
    finish::<S, T>(lanes, &query[done..], &stored[done * S::BYTES..])
}
