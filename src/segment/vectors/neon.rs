//! The kernels for NEON, which every 64-bit Arm processor has. Each does what its scalar twin does, step by step.

use std::arch::aarch64::{
    float32x4_t, uint8x16_t, uint16x4_t, uint16x8_t, uint32x4_t, vaddq_f32, vaddq_s32, vaddq_u8, vaddvq_s32,
    vaddvq_u32, vaddw_high_u8, vaddw_high_u16, vaddw_u8, vaddw_u16, vandq_u8, vandq_u32, vcltq_f32, vcvtq_f32_s32,
    vcvtq_f32_u32, vdupq_n_f32, vdupq_n_s32, vdupq_n_u8, vdupq_n_u16, vdupq_n_u32, vget_low_s16, vget_low_u8,
    vget_low_u16, vld1_s8, vld1_u16, vld1q_f32, vld1q_s16, vld1q_u8, vld1q_u32, vmlal_high_s16, vmlal_s16, vmovl_s8,
    vmovl_s16, vmulq_f32, vqtbl1q_u8, vshrq_n_u8, vst1q_f32, vsubq_f32,
};

use super::codes::Estimate;
use super::fastscan::{GROUP_BYTES, GROUPS_MAX, product_scalar, scan_scalar};
use super::kernels::{Dot, F16, F32, I8, LANES, SquaredDifference, Stored, Term, finish};
use crate::format::clusters::{BLOCK, FACTORS_BYTES};

/// Groups that are added as bytes.
const STEP: usize = 4;
/// Elements in one register of f32.
const WIDTH: usize = 4;

/// See [`super::fastscan::Scan`].
///
/// # Safety
/// The processor has NEON, here and below.
#[target_feature(enable = "neon")]
pub(super) unsafe fn scan(
    block: &[u8],
    table: &[u8],
    estimate: &Estimate,
    threshold: f32,
    lower: &mut [f32; BLOCK],
) -> u32 {
    // Four groups at a time; what does not fit goes the slow way.
    if block.len() != FACTORS_BYTES + table.len() || !table.len().is_multiple_of(STEP * GROUP_BYTES) {
        return scan_scalar(block, table, estimate, threshold, lower);
    }
    let (factors, codes) = block.split_at(FACTORS_BYTES);
    let mut sums = [vdupq_n_u32(0); BLOCK / WIDTH];
    for (codes, table) in codes.chunks(GROUPS_MAX * GROUP_BYTES).zip(table.chunks(GROUPS_MAX * GROUP_BYTES)) {
        for (sums, part) in sums.as_chunks_mut::<2>().0.iter_mut().zip(sum_groups(codes, table)) {
            sums[0] = vaddw_u16(sums[0], vget_low_u16(part));
            sums[1] = vaddw_high_u16(sums[1], part);
        }
    }
    let (step, offset) = (vdupq_n_f32(estimate.step), vdupq_n_f32(estimate.offset));
    let (centroid, margin) = (vdupq_n_f32(estimate.centroid), vdupq_n_f32(estimate.margin));
    let mut mask = 0;
    for (at, sum) in sums.into_iter().enumerate() {
        // SAFETY: factors are three times `BLOCK` f32, and `at * WIDTH + WIDTH` is at most `BLOCK`.
        let [add, factor, error] =
            [0, 1, 2].map(|of| unsafe { vld1q_f32(factors.as_ptr().add((of * BLOCK + at * WIDTH) * 4).cast()) });
        let product = vaddq_f32(vmulq_f32(vcvtq_f32_u32(sum), step), offset);
        let score = vaddq_f32(vaddq_f32(add, centroid), vmulq_f32(factor, product));
        let bound = vsubq_f32(score, vmulq_f32(error, margin));
        // SAFETY: `lower` has `BLOCK` elements.
        unsafe { vst1q_f32(lower.as_mut_ptr().add(at * WIDTH), bound) };
        mask |= bits(vcltq_f32(bound, vdupq_n_f32(threshold))) << (at * WIDTH);
    }
    mask
}

/// One bit for each of four lanes that are all ones or all zeros.
#[inline]
#[target_feature(enable = "neon")]
fn bits(lanes: uint32x4_t) -> u32 {
    // SAFETY: four numbers are there.
    vaddvq_u32(vandq_u32(lanes, unsafe { vld1q_u32([1, 2, 4, 8].as_ptr()) }))
}

/// The sums of at most [`GROUPS_MAX`] groups, 16 bits each, eight vectors a part. Both slices have one length, a multiple of
/// `STEP * GROUP_BYTES`.
#[inline]
#[target_feature(enable = "neon")]
fn sum_groups(codes: &[u8], table: &[u8]) -> [uint16x8_t; BLOCK / 8] {
    let mut sums = [vdupq_n_u16(0); BLOCK / 8];
    let steps =
        codes.as_chunks::<{ STEP * GROUP_BYTES }>().0.iter().zip(table.as_chunks::<{ STEP * GROUP_BYTES }>().0);
    for (codes, table) in steps {
        let (mut low, mut high) = (vdupq_n_u8(0), vdupq_n_u8(0));
        let groups = codes.as_chunks::<GROUP_BYTES>().0.iter().zip(table.as_chunks::<GROUP_BYTES>().0);
        for (codes, table) in groups {
            let (codes, table) = (load(codes), load(table));
            low = vaddq_u8(low, vqtbl1q_u8(table, vandq_u8(codes, vdupq_n_u8(15))));
            high = vaddq_u8(high, vqtbl1q_u8(table, vshrq_n_u8::<4>(codes)));
        }
        sums = [
            vaddw_u8(sums[0], vget_low_u8(low)),
            vaddw_high_u8(sums[1], low),
            vaddw_u8(sums[2], vget_low_u8(high)),
            vaddw_high_u8(sums[3], high),
        ];
    }
    sums
}

#[inline]
#[target_feature(enable = "neon")]
fn load(bytes: &[u8; GROUP_BYTES]) -> uint8x16_t {
    // SAFETY: sixteen bytes are there; the load needs no alignment.
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

/// See [`super::fastscan::Product`].
///
/// # Safety
/// See [`scan`].
#[target_feature(enable = "neon")]
pub(super) unsafe fn product(codes: &[u8], query: &[i16]) -> i32 {
    let (all_codes, all_query) = (codes.as_chunks::<8>().0, query.as_chunks::<8>().0);
    let mut sums = [vdupq_n_s32(0); 2];
    for (codes, query) in all_codes.iter().zip(all_query) {
        // SAFETY: eight elements of each are there.
        let (codes, query) = unsafe { (vmovl_s8(vld1_s8(codes.as_ptr().cast())), vld1q_s16(query.as_ptr())) };
        sums[0] = vmlal_s16(sums[0], vget_low_s16(codes), vget_low_s16(query));
        sums[1] = vmlal_high_s16(sums[1], codes, query);
    }
    let done = all_codes.len().min(all_query.len()) * 8;
    vaddvq_s32(vaddq_s32(sums[0], sums[1])) + product_scalar(&codes[done..], &query[done..])
}

/// An element type: four of it at a time.
pub(super) trait Load: Stored {
    /// Four elements as f32.
    ///
    /// # Safety
    /// `from` is the first of `4 * BYTES` readable bytes.
    unsafe fn load(from: *const u8) -> float32x4_t;
}

impl Load for F32 {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(from: *const u8) -> float32x4_t {
        // SAFETY: 16 bytes are readable, the caller says; the load needs no alignment.
        unsafe { vld1q_f32(from.cast()) }
    }
}

impl Load for F16 {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(from: *const u8) -> float32x4_t {
        // SAFETY: 8 bytes are readable, the caller says; the load needs no alignment.
        let halves: uint16x4_t = unsafe { vld1_u16(from.cast()) };
        let wide: float32x4_t;
        // SAFETY: converts registers, exactly, and touches nothing else.
        unsafe {
            std::arch::asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) wide, in(vreg) halves,
                options(pure, nomem, nostack, preserves_flags));
        }
        wide
    }
}

impl Load for I8 {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn load(from: *const u8) -> float32x4_t {
        // SAFETY: 4 bytes are readable, the caller says.
        let four = i64::from(unsafe { from.cast::<i32>().read_unaligned() });
        // SAFETY: the eight bytes of a number; those behind the four are not used.
        let wide = vmovl_s8(unsafe { vld1_s8((&raw const four).cast()) });
        vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)))
    }
}

/// What is summed, four at a time.
pub(super) trait Step: Term {
    /// Four terms.
    ///
    /// # Safety
    /// See [`scan`].
    unsafe fn step(query: float32x4_t, stored: float32x4_t) -> float32x4_t;
}

impl Step for Dot {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn step(query: float32x4_t, stored: float32x4_t) -> float32x4_t {
        vmulq_f32(query, stored)
    }
}

impl Step for SquaredDifference {
    #[inline]
    #[target_feature(enable = "neon")]
    unsafe fn step(query: float32x4_t, stored: float32x4_t) -> float32x4_t {
        let difference = vsubq_f32(query, stored);
        vmulq_f32(difference, difference)
    }
}

/// See [`super::kernels::Kernel`].
///
/// # Safety
/// See [`scan`].
#[target_feature(enable = "neon")]
pub(super) unsafe fn sum<S: Load, T: Step>(query: &[f32], stored: &[u8]) -> f32 {
    let blocks = (query.len() / LANES).min(stored.len() / (LANES * S::BYTES));
    let mut sums = [vdupq_n_f32(0.0); LANES / WIDTH];
    for block in 0..blocks {
        for (at, sum) in sums.iter_mut().enumerate() {
            let first = block * LANES + at * WIDTH;
            // SAFETY: `first + WIDTH` is at most `blocks * LANES`, which both slices have.
            let (query, stored) =
                unsafe { (vld1q_f32(query.as_ptr().add(first)), S::load(stored.as_ptr().add(first * S::BYTES))) };
            // SAFETY: the caller says that the processor has NEON.
            *sum = vaddq_f32(*sum, unsafe { T::step(query, stored) });
        }
    }
    let mut lanes = [0.0; LANES];
    for (at, sum) in sums.into_iter().enumerate() {
        // SAFETY: `at` is below `LANES / WIDTH`, so four lanes from `at * WIDTH` are there.
        unsafe { vst1q_f32(lanes.as_mut_ptr().add(at * WIDTH), sum) };
    }
    let done = blocks * LANES;
    finish::<S, T>(lanes, &query[done..], &stored[done * S::BYTES..])
}
