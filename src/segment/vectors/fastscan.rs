//! Kernels over codes: 32 vectors of one bit a dimension at a time, and one vector of eight bits a dimension.
//!
//! One-bit codes are summed by table: each half byte selects one of 16 sums, for 16 vectors with one instruction (fast
//! scan: André, Kermarrec and Le Scouarnec, VLDB 2015). Sums of the table have six bits: what that rounds is a twentieth of
//! what one-bit codes leave open, and four are added as bytes. Scalar and vector kernels give the same to the bit, which the
//! tests compare.

#[cfg(target_arch = "x86_64")]
use super::avx512;
use super::codes::Estimate;
use crate::format::clusters::{BLOCK, FACTORS_BYTES};

/// The largest number of a query's table: four of them fit into a byte together.
pub(super) const TABLE_MAX: u8 = 63;
/// Half bytes whose sums fit into 16 bits together.
pub(super) const GROUPS_MAX: usize = 1_024;
/// Bytes of codes and of a query's table for four dimensions.
pub(super) const GROUP_BYTES: usize = BLOCK / 2;

/// Scores the vectors of a block: gives a lower bound of each, and bit by bit whether it is below `threshold`.
pub(super) type Scan =
    fn(block: &[u8], table: &[u8], estimate: &Estimate, threshold: f32, lower: &mut [f32; BLOCK]) -> u32;
/// Sums the products of 8-bit codes and a query.
pub(super) type Product = fn(codes: &[u8], query: &[i16]) -> i32;

/// Bit by bit which of a block's rows, little-endian, are set in `words`: row `r` is bit `r % 32` of word `r / 32`. Rows behind
/// the last word are not.
pub(super) type Members = fn(rows: &[[u8; 4]], words: &[u32]) -> u32;

/// The kernels for this processor.
#[derive(Clone, Copy)]
pub(super) struct Kernels {
    pub(super) scan: Scan,
    pub(super) product: Product,
    pub(super) members: Members,
}

impl Kernels {
    pub(super) fn new() -> Self {
        #[cfg(target_arch = "x86_64")]
        if avx512::available() {
            return Kernels {
                // SAFETY: the processor has what they need.
                scan: |block, table, estimate, threshold, lower| unsafe {
                    avx512::scan(block, table, estimate, threshold, lower)
                },
                // SAFETY: see above.
                product: |codes, query| unsafe { avx512::product(codes, query) },
                // SAFETY: see above.
                members: |rows, words| unsafe { avx512::members(rows, words) },
            };
        } else if std::is_x86_feature_detected!("avx2") {
            // SAFETY of the closures: they are handed out only where the processor has AVX2.
            return Kernels {
                // SAFETY: see above.
                scan: |block, table, estimate, threshold, lower| unsafe {
                    avx2::scan(block, table, estimate, threshold, lower)
                },
                // SAFETY: see above.
                product: |codes, query| unsafe { avx2::product(codes, query) },
                // SAFETY: see above.
                members: |rows, words| unsafe { avx2::members(rows, words) },
            };
        }
        #[cfg(target_arch = "aarch64")]
        return Kernels {
            // SAFETY: every processor of this architecture has NEON.
            scan: |block, table, estimate, threshold, lower| unsafe {
                super::neon::scan(block, table, estimate, threshold, lower)
            },
            // SAFETY: see above.
            product: |codes, query| unsafe { super::neon::product(codes, query) },
            members: members_scalar,
        };
        #[cfg(not(target_arch = "aarch64"))]
        Kernels { scan: scan_scalar, product: product_scalar, members: members_scalar }
    }
}

/// Asks for bytes that will be read soon.
#[inline]
pub(super) fn prefetch(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    for line in bytes.chunks(64) {
        // SAFETY: every processor of this architecture has the instruction, and it reads nothing.
        unsafe { std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(line.as_ptr().cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = bytes;
}

pub(super) fn scan_scalar(
    block: &[u8],
    table: &[u8],
    estimate: &Estimate,
    threshold: f32,
    lower: &mut [f32; BLOCK],
) -> u32 {
    let (factors, codes) = block.split_at(FACTORS_BYTES.min(block.len()));
    let mut sums = [0u32; BLOCK];
    for (codes, table) in codes.chunks_exact(GROUP_BYTES).zip(table.chunks_exact(GROUP_BYTES)) {
        for (lane, code) in codes.iter().enumerate() {
            sums[lane] += u32::from(table[usize::from(code & 15)]);
            sums[lane + BLOCK / 2] += u32::from(table[usize::from(code >> 4)]);
        }
    }
    let (factors, _) = factors.as_chunks::<4>();
    let factor =
        |of: usize, lane: usize| factors.get(of * BLOCK + lane).map_or(0.0, |bytes| f32::from_le_bytes(*bytes));
    let mut mask = 0;
    for (lane, (sum, lower)) in sums.into_iter().zip(lower.iter_mut()).enumerate() {
        let product = sum as f32 * estimate.step + estimate.offset;
        let score = factor(0, lane) + estimate.centroid + factor(1, lane) * product;
        *lower = score - factor(2, lane) * estimate.margin;
        mask |= u32::from(*lower < threshold) << lane;
    }
    mask
}

pub(super) fn product_scalar(codes: &[u8], query: &[i16]) -> i32 {
    codes.iter().zip(query).map(|(code, q)| i32::from(*code as i8) * i32::from(*q)).sum()
}

pub(super) fn members_scalar(rows: &[[u8; 4]], words: &[u32]) -> u32 {
    rows.iter().take(BLOCK).enumerate().fold(0, |members, (lane, row)| {
        let row = u32::from_le_bytes(*row);
        members | words.get(row as usize / 32).map_or(0, |word| word >> (row % 32) & 1) << lane
    })
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        __m128i, __m256i, _CMP_LT_OQ, _mm_add_epi16, _mm_add_epi32, _mm_cvtsi128_si32, _mm_loadu_si128,
        _mm_shuffle_epi32, _mm_unpackhi_epi16, _mm_unpacklo_epi16, _mm256_add_epi8, _mm256_add_epi16,
        _mm256_add_epi32, _mm256_add_ps, _mm256_and_si256, _mm256_andnot_si256, _mm256_castsi256_ps,
        _mm256_castsi256_si128, _mm256_cmp_ps, _mm256_cmpgt_epi32, _mm256_cvtepi8_epi16, _mm256_cvtepi32_ps,
        _mm256_cvtepu16_epi32, _mm256_extracti128_si256, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16,
        _mm256_mask_i32gather_epi32, _mm256_movemask_ps, _mm256_mul_ps, _mm256_set1_epi8, _mm256_set1_epi32,
        _mm256_set1_ps, _mm256_setzero_si256, _mm256_shuffle_epi8, _mm256_slli_epi16, _mm256_sllv_epi32,
        _mm256_srli_epi16, _mm256_srli_epi32, _mm256_storeu_ps, _mm256_sub_epi16, _mm256_sub_ps,
    };

    use super::{
        BLOCK, Estimate, FACTORS_BYTES, GROUP_BYTES, GROUPS_MAX, members_scalar, product_scalar, scan_scalar,
    };

    /// Bytes of one register, and of as many as are added as bytes.
    const WIDTH: usize = 32;
    const STEP: usize = 4 * WIDTH;

    /// # Safety
    /// The processor has AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn scan(
        block: &[u8],
        table: &[u8],
        estimate: &Estimate,
        threshold: f32,
        lower: &mut [f32; BLOCK],
    ) -> u32 {
        // Eight groups at a time; what does not fit goes the slow way.
        if block.len() != FACTORS_BYTES + table.len() || !table.len().is_multiple_of(STEP) {
            return scan_scalar(block, table, estimate, threshold, lower);
        }
        let (factors, codes) = block.split_at(FACTORS_BYTES);
        let mut sums = [_mm256_setzero_si256(); BLOCK / 8];
        for (codes, table) in codes.chunks(GROUPS_MAX * GROUP_BYTES).zip(table.chunks(GROUPS_MAX * GROUP_BYTES)) {
            // SAFETY: the caller says that the processor has AVX2; both are of one length, a multiple of `STEP`.
            let parts = unsafe { sum(codes, table) };
            for (sum, part) in sums.iter_mut().zip(parts) {
                *sum = _mm256_add_epi32(*sum, _mm256_cvtepu16_epi32(part));
            }
        }
        let (step, offset) = (_mm256_set1_ps(estimate.step), _mm256_set1_ps(estimate.offset));
        let (centroid, margin) = (_mm256_set1_ps(estimate.centroid), _mm256_set1_ps(estimate.margin));
        let mut mask = 0;
        for (at, sum) in sums.into_iter().enumerate() {
            // SAFETY: factors are three times `BLOCK` f32, and `at * 8 + 8` is at most `BLOCK`.
            let [add, factor, error] = [0, 1, 2]
                .map(|of| unsafe { _mm256_loadu_ps(factors.as_ptr().add((of * BLOCK + at * 8) * 4).cast()) });
            let product = _mm256_add_ps(_mm256_mul_ps(_mm256_cvtepi32_ps(sum), step), offset);
            let score = _mm256_add_ps(_mm256_add_ps(add, centroid), _mm256_mul_ps(factor, product));
            let bound = _mm256_sub_ps(score, _mm256_mul_ps(error, margin));
            // SAFETY: as above.
            unsafe { _mm256_storeu_ps(lower.as_mut_ptr().add(at * 8), bound) };
            let below = _mm256_cmp_ps::<_CMP_LT_OQ>(bound, _mm256_set1_ps(threshold));
            mask |= (_mm256_movemask_ps(below) as u32) << (at * 8);
        }
        mask
    }

    /// The sums of at most `GROUPS_MAX` groups, 16 bits each, eight vectors a part.
    ///
    /// # Safety
    /// The processor has AVX2; both slices have one length, a multiple of `STEP`, and the table's
    /// elements are at most `TABLE_MAX`.
    #[inline]
    #[target_feature(enable = "avx2")]
    unsafe fn sum(codes: &[u8], table: &[u8]) -> [__m128i; BLOCK / 8] {
        let low_half = _mm256_set1_epi8(15);
        let zero = _mm256_setzero_si256();
        // Of each pair of bytes the sum of both, the high one times 256; and the sum of the high ones.
        let (mut first, mut first_high, mut second, mut second_high) = (zero, zero, zero, zero);
        for from in (0..codes.len()).step_by(STEP) {
            let (mut low, mut high) = (zero, zero);
            for at in (from..from + STEP).step_by(WIDTH) {
                // SAFETY: `at + WIDTH` is at most the length of both.
                let (codes, table) = unsafe {
                    (
                        _mm256_loadu_si256(codes.as_ptr().add(at).cast()),
                        _mm256_loadu_si256(table.as_ptr().add(at).cast()),
                    )
                };
                low = _mm256_add_epi8(low, _mm256_shuffle_epi8(table, _mm256_and_si256(codes, low_half)));
                let codes = _mm256_and_si256(_mm256_srli_epi16::<4>(codes), low_half);
                high = _mm256_add_epi8(high, _mm256_shuffle_epi8(table, codes));
            }
            first = _mm256_add_epi16(first, low);
            first_high = _mm256_add_epi16(first_high, _mm256_srli_epi16::<8>(low));
            second = _mm256_add_epi16(second, high);
            second_high = _mm256_add_epi16(second_high, _mm256_srli_epi16::<8>(high));
        }
        first = _mm256_sub_epi16(first, _mm256_slli_epi16::<8>(first_high));
        second = _mm256_sub_epi16(second, _mm256_slli_epi16::<8>(second_high));
        let both = |x: __m256i| _mm_add_epi16(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
        let (first, first_high) = (both(first), both(first_high));
        let (second, second_high) = (both(second), both(second_high));
        [
            _mm_unpacklo_epi16(first, first_high),
            _mm_unpackhi_epi16(first, first_high),
            _mm_unpacklo_epi16(second, second_high),
            _mm_unpackhi_epi16(second, second_high),
        ]
    }

    /// # Safety
    /// The processor has AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn product(codes: &[u8], query: &[i16]) -> i32 {
        let done = codes.len().min(query.len()) / WIDTH * WIDTH;
        let mut sums = [_mm256_setzero_si256(); 2];
        for at in (0..done).step_by(WIDTH) {
            for (half, sum) in sums.iter_mut().enumerate() {
                let at = at + half * WIDTH / 2;
                // SAFETY: `at + WIDTH / 2` is at most `done`, which both slices have.
                let (codes, query) = unsafe {
                    (
                        _mm_loadu_si128(codes.as_ptr().add(at).cast()),
                        _mm256_loadu_si256(query.as_ptr().add(at).cast()),
                    )
                };
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(_mm256_cvtepi8_epi16(codes), query));
            }
        }
        let both = _mm256_add_epi32(sums[0], sums[1]);
        let four = _mm_add_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256::<1>(both));
        let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b1110>(four));
        let one = _mm_add_epi32(two, _mm_shuffle_epi32::<0b01>(two));
        _mm_cvtsi128_si32(one) + product_scalar(&codes[done..], &query[done..])
    }

    /// # Safety
    /// The processor has AVX2.
    #[target_feature(enable = "avx2")]
    pub(super) unsafe fn members(rows: &[[u8; 4]], words: &[u32]) -> u32 {
        let (Some(rows), Ok(count)) = (rows.first_chunk::<BLOCK>(), i32::try_from(words.len())) else {
            return members_scalar(rows, words);
        };
        let (count, zero) = (_mm256_set1_epi32(count), _mm256_setzero_si256());
        let mut members = 0;
        for at in 0..BLOCK / 8 {
            // SAFETY: eight rows from `at * 8` on are within the block.
            let row = unsafe { _mm256_loadu_si256(rows.as_ptr().add(at * 8).cast()) };
            let word = _mm256_srli_epi32::<5>(row);
            // Both are not negative as signed numbers.
            let is_inside = _mm256_cmpgt_epi32(count, word);
            // SAFETY: only those lanes are read whose word is below the number of words.
            let word = unsafe { _mm256_mask_i32gather_epi32::<4>(zero, words.as_ptr().cast(), word, is_inside) };
            // The row's bit as the sign.
            let bit = _mm256_andnot_si256(row, _mm256_set1_epi32(31));
            let signs = _mm256_sllv_epi32(word, bit);
            members |= (_mm256_movemask_ps(_mm256_castsi256_ps(signs)) as u32) << (at * 8);
        }
        members
    }
}

#[cfg(test)]
mod tests {
    use super::{Kernels, TABLE_MAX, members_scalar, product_scalar, scan_scalar};
    use crate::format::clusters::{BLOCK, FACTORS_BYTES};
    use crate::segment::vectors::codes::Estimate;

    /// Bytes with no pattern, the same in every run.
    fn noise(count: usize, mut state: u64) -> Vec<u8> {
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as u8
        };
        std::iter::repeat_with(&mut next).take(count).collect()
    }

    #[test]
    fn blocks_are_scored_as_their_scalar_twin_does_to_the_bit() {
        let estimate = Estimate { centroid: -0.25, step: 0.003, offset: -1.5, margin: 0.7 };
        for dims in [8, 32, 96, 384, 1_024, 1_056, 4_096, 10_752] {
            let factors: Vec<u8> =
                noise(3 * BLOCK, 1).iter().flat_map(|x| (f32::from(*x) / 100.0 - 1.0).to_le_bytes()).collect();
            let block = [factors, noise(dims * BLOCK / 8, 2)].concat();
            let table: Vec<u8> = noise(dims * 4, 3).iter().map(|x| x % (TABLE_MAX + 1)).collect();
            let (mut expected, mut found) = ([0.0; BLOCK], [0.0; BLOCK]);
            let mask = scan_scalar(&block, &table, &estimate, 0.5, &mut expected);
            assert_eq!((Kernels::new().scan)(&block, &table, &estimate, 0.5, &mut found), mask, "{dims}");
            assert_eq!(found.map(f32::to_bits), expected.map(f32::to_bits), "{dims}");
            assert_ne!((mask.count_ones(), dims > 32), (0, true));
        }
    }

    #[test]
    fn products_are_those_of_the_scalar_twin() {
        for dims in [0, 5, 16, 32, 40, 384, 10_752] {
            let codes = noise(dims, 4);
            let query: Vec<i16> = noise(dims, 5).iter().map(|x| i16::from(*x) * 12 - 1_500).collect();
            assert_eq!((Kernels::new().product)(&codes, &query), product_scalar(&codes, &query), "{dims}");
        }
    }

    #[test]
    fn members_are_those_of_the_scalar_twin() {
        let words: Vec<u32> = noise(400, 6).as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
        for (count, seed) in [(100, 7), (3, 8), (0, 9), (100, 10)] {
            let mut rows = noise(BLOCK * 4, seed);
            rows.as_chunks_mut::<4>().0.iter_mut().skip(1).for_each(|row| (row[2], row[3]) = (0, 0));
            rows.as_chunks_mut::<4>().0.iter_mut().step_by(2).for_each(|row| row[1] &= 15);
            let rows = rows.as_chunks().0;
            let expected = members_scalar(rows, &words[..count]);
            assert_eq!((Kernels::new().members)(rows, &words[..count]), expected);
            assert_eq!(expected != 0, count == 100);
            assert_eq!((Kernels::new().members)(&rows[..5], &words), members_scalar(&rows[..5], &words));
            assert_eq!((Kernels::new().members)(&[[255; 4]; BLOCK], &words), 0);
        }
    }

    #[test]
    fn a_block_that_is_cut_short_is_no_read_beyond_its_end() {
        let estimate = Estimate { centroid: 0.0, step: 1.0, offset: 0.0, margin: 0.0 };
        let mut lower = [0.0; BLOCK];
        for bytes in [0, 10, FACTORS_BYTES, FACTORS_BYTES + 17] {
            (Kernels::new().scan)(&vec![1; bytes], &[1; 64], &estimate, 0.0, &mut lower);
        }
        assert_eq!((Kernels::new().product)(&[1; 3], &[1; 100]), 3);
    }
}
