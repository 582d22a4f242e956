//! Sums of floats that do not depend on the order of their parts.
//!
//! The running sum is kept as parts that do not overlap, so nothing is lost before the one rounding at the end (J. R. Shewchuk,
//! "Adaptive Precision Floating-Point Arithmetic and Fast Robust Geometric Predicates", Discrete & Computational Geometry 18, 1997).
//! That holds as long as no part leaves the range of floats, so numbers near its end are summed apart from all others, made smaller by a
//! power of two: neither of both sums can overflow, whatever order their numbers come in. An accumulator as wide as the range of floats
//! (R. M. Neal, "Fast exact summation using small and large superaccumulators", arXiv:1505.05571, 2015) would do as well, and take half a
//! kilobyte for each group.

/// Numbers from here on are summed apart. Of those below it takes 2^124 to leave the range of floats.
const LARGE: f64 = power(900);
/// What these are multiplied by, which loses nothing: of them it takes 2^128.
const DOWN: f64 = power(-128);
const UP: f64 = power(128);
/// Sums from here on are rounded with [`DOWN`] applied: they are far larger than all numbers below [`LARGE`] together.
const FAR: f64 = power(1_000);

/// A sum without rounding errors.
#[derive(Clone, Debug, Default)]
pub(super) struct ExactSum {
    /// Of numbers below [`LARGE`].
    small: Parts,
    /// Of others, times [`DOWN`].
    large: Parts,
}

/// Floats that do not overlap, ascending by size: together they are their sum.
#[derive(Clone, Debug, Default)]
struct Parts(Vec<f64>);

/// Two to the power of an exponent of normal floats.
const fn power(exponent: i64) -> f64 {
    f64::from_bits(((exponent + 1_023) as u64) << 52)
}

impl ExactSum {
    /// Adds a finite number.
    pub(super) fn add(&mut self, number: f64) {
        if number.abs() < LARGE { self.small.add(number) } else { self.large.add(number * DOWN) }
    }

    /// Adds another sum, as if its numbers had been added.
    pub(super) fn add_sum(&mut self, other: &ExactSum) {
        other.small.0.iter().for_each(|part| self.small.add(*part));
        other.large.0.iter().for_each(|part| self.large.add(*part));
    }

    /// The sum, rounded once; where it is beyond the range of floats, the end of that.
    pub(super) fn value(&self) -> f64 {
        let large = self.large.value();
        if large == 0.0 {
            // Of zeros alone it has no sign.
            return self.small.value() + 0.0;
        }
        if large.abs() < FAR * DOWN {
            // What is left of the large ones is in range.
            let mut all = self.small.clone();
            self.large.0.iter().for_each(|part| all.add(part * UP));
            return all.value();
        }
        let mut all = self.large.clone();
        for part in self.small.0.iter().rev() {
            let scaled = part * DOWN;
            if scaled != 0.0 && scaled.abs() >= f64::MIN_POSITIVE {
                all.add(scaled);
            } else if *part != 0.0 {
                // Too small for that. All that matters of it, and of those below it, is its sign, half way between two floats.
                all.add(f64::MIN_POSITIVE.copysign(*part));
                break;
            }
        }
        (all.value() * UP).clamp(f64::MIN, f64::MAX)
    }
}

impl Parts {
    /// Adds a number; the sum stays within the range of floats.
    fn add(&mut self, number: f64) {
        let parts = &mut self.0;
        let mut high = number;
        let mut kept = 0;
        for at in 0..parts.len() {
            let part = parts[at];
            let (large, small) = if high.abs() < part.abs() { (part, high) } else { (high, part) };
            let sum = large + small;
            let low = small - (sum - large);
            if low != 0.0 {
                parts[kept] = low;
                kept += 1;
            }
            high = sum;
        }
        parts.truncate(kept);
        parts.push(high);
    }

    /// The sum, rounded once.
    fn value(&self) -> f64 {
        let mut parts = self.0.iter().rev().copied();
        let Some(mut high) = parts.next() else { return 0.0 };
        while let Some(part) = parts.next() {
            let sum = high + part;
            let low = part - (sum - high);
            high = sum;
            if low != 0.0 {
                // Half way between two floats the parts below decide, which adding one by one has ignored.
                if parts.next().is_some_and(|below| (below > 0.0) == (low > 0.0) && below != 0.0) {
                    let doubled = high + low * 2.0;
                    if doubled - high == low * 2.0 {
                        high = doubled;
                    }
                }
                break;
            }
        }
        high
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{ExactSum, power};

    fn sum(numbers: &[f64]) -> f64 {
        let mut sum = ExactSum::default();
        numbers.iter().for_each(|n| sum.add(*n));
        sum.value()
    }

    #[test]
    fn nothing_is_lost() {
        assert_eq!(sum(&[]), 0.0);
        assert_eq!(sum(&[1e100, 1.0, -1e100]), 1.0);
        assert_eq!(sum(&[0.1; 10]), 1.0);
        assert_eq!(sum(&[1e16, 1.0, 1e-16]), 1e16 + 2.0);
        assert_eq!(sum(&[f64::MAX, f64::MAX]), f64::MAX);
    }

    #[test]
    fn neither_order_nor_grouping_matters() {
        let numbers: Vec<f64> = (0..999).map(|n| ((n * 7_919 % 1_009) as f64 - 500.0) * 10f64.powi(n % 40)).collect();
        let mut reversed = numbers.clone();
        reversed.reverse();
        assert_eq!(sum(&numbers).to_bits(), sum(&reversed).to_bits());
        let mut whole = ExactSum::default();
        for part in numbers.chunks(77).rev() {
            let mut sum = ExactSum::default();
            part.iter().for_each(|n| sum.add(*n));
            whole.add_sum(&sum);
        }
        assert_eq!(whole.value().to_bits(), sum(&numbers).to_bits());
    }

    #[test]
    fn a_sum_that_leaves_the_range_of_floats_on_its_way_is_exact() {
        let (max, half) = (f64::MAX, power(1_023));
        for [a, b, c, d] in
            [[max, max, -max, 1.0], [max, -max, max, 1.0], [1.0, -max, max, max], [max, 1.0, max, -max]]
        {
            assert_eq!(sum(&[a, b, c, d]), max);
        }
        assert_eq!(sum(&[max, max, -max, -max, 0.1]), 0.1);
        assert_eq!(sum(&[half, half, -half, 3.0, -half]), 3.0);
        assert_eq!(sum(&[half, half, -1.0]), max, "below it by less than half of what lies between two floats");
        assert_eq!(sum(&[-max, -max, max]), -max);
        // Half way between two floats what is far below decides.
        let (one, tie) = (power(1_010), power(1_010 - 53));
        assert_eq!(sum(&[one, tie]), one);
        for tiny in [power(0), power(-1_000), f64::from_bits(1)] {
            assert_eq!(sum(&[one, tie, tiny]), one + 2.0 * tie, "{tiny:e}");
            assert_eq!(sum(&[one, tie, -tiny]), one, "{tiny:e}");
        }
    }

    /// Any finite number; those at the ends of their range as often as others.
    fn number() -> impl Strategy<Value = f64> {
        let finite = |bits: u64| Some(f64::from_bits(bits)).filter(|number| number.is_finite());
        let near_end = (0_u64..1 << 52, 0_u64..130, any::<bool>()).prop_map(|(mantissa, below, is_negative)| {
            f64::from_bits(u64::from(is_negative) << 63 | (2_046 - below) << 52 | mantissa)
        });
        prop_oneof![
            near_end,
            any::<u64>().prop_filter_map("finite", finite),
            Just(f64::MAX),
            Just(f64::MIN),
            -10.0..10.0
        ]
    }

    proptest! {
        #[test]
        fn any_order_and_any_grouping_give_the_same(
            numbers in prop::collection::vec(number(), 0..24).prop_flat_map(|numbers| {
                (Just(numbers.clone()), Just(numbers).prop_shuffle())
            }),
            pieces in 1_usize..8,
        ) {
            let (numbers, shuffled) = numbers;
            let expected = sum(&numbers);
            prop_assert!(expected.is_finite());
            prop_assert_eq!(sum(&shuffled).to_bits(), expected.to_bits());
            let mut whole = ExactSum::default();
            for piece in shuffled.chunks(pieces) {
                let mut sum = ExactSum::default();
                piece.iter().for_each(|number| sum.add(*number));
                whole.add_sum(&sum);
            }
            prop_assert_eq!(whole.value().to_bits(), expected.to_bits());
            // What is added and taken away again was never there.
            let both: Vec<f64> = numbers.iter().chain(&shuffled).copied().chain(numbers.iter().map(|n| -n)).collect();
            prop_assert_eq!(sum(&both) + 0.0, expected + 0.0);
        }
    }
}
