//! Sums of floats that do not depend on the order of their parts.
//!
//! The running sum is kept as parts that do not overlap, so nothing is lost before the one rounding at the end (Shewchuk,
//! "Adaptive Precision Floating-Point Arithmetic", 1997).

/// A sum without rounding errors.
#[derive(Clone, Debug, Default)]
pub(super) struct ExactSum {
    /// Not overlapping, ascending by size.
    parts: Vec<f64>,
    /// The sum in plain arithmetic, once a part left the range of floats.
    overflowed: Option<f64>,
}

impl ExactSum {
    /// Adds a finite number.
    pub(super) fn add(&mut self, number: f64) {
        if let Some(sum) = &mut self.overflowed {
            *sum = (*sum + number).clamp(f64::MIN, f64::MAX);
            return;
        }
        let mut high = number;
        let mut kept = 0;
        for at in 0..self.parts.len() {
            let part = self.parts[at];
            let (large, small) = if high.abs() < part.abs() { (part, high) } else { (high, part) };
            let sum = large + small;
            let low = small - (sum - large);
            if low != 0.0 {
                self.parts[kept] = low;
                kept += 1;
            }
            high = sum;
        }
        self.parts.truncate(kept);
        self.parts.push(high);
        if !high.is_finite() {
            self.overflowed = Some(high.clamp(f64::MIN, f64::MAX));
            self.parts.clear();
        }
    }

    /// Adds another sum, as if its numbers had been added.
    pub(super) fn add_sum(&mut self, other: &ExactSum) {
        other.parts.iter().chain(&other.overflowed).for_each(|part| self.add(*part));
    }

    /// The sum, rounded once; finite.
    pub(super) fn value(&self) -> f64 {
        if let Some(sum) = self.overflowed {
            return sum;
        }
        let mut parts = self.parts.iter().rev().copied();
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
    use super::ExactSum;

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
}
