//! Scores by BM25: one set of formulas for the tail and for segments, so a document scores the same wherever it lies.
//!
//! Every step is rounded to f32, in this order: then the scores that the wire contract records come out to the last bit,
//! which f64 cannot do. Results are widened to f64, so that adding up the parts of a score loses nothing.

/// Below this share the f32 sum `1 + x` would lose most of `x`.
const SMALL: f32 = 1.0 / 4_096.0;

/// How much a term tells: `ln(1 + (n - df + 0.5) / (df + 0.5))` for `df` of `n` documents holding it. Never 0.
pub fn idf(n: u64, df: u64) -> f64 {
    let x = (n.saturating_sub(df) as f32 + 0.5) / (df as f32 + 0.5);
    // A term of nearly all of very many documents still scores more than no term at all.
    f64::from(if x < SMALL { x.ln_1p() } else { (1.0 + x).ln() })
}

/// The weight of a term that the query names `qtf` times: `qtf (k3 + 1) / (qtf + k3)`.
pub fn qtf_factor(qtf: u32, k3: f64) -> f64 {
    let (qtf, k3) = (qtf as f32, k3 as f32);
    f64::from(if qtf == 0.0 { 0.0 } else { qtf * (k3 + 1.0) / (qtf + k3) })
}

/// One term's part of a document's score; 0 when the document does not hold it.
pub fn bm25(tf: u32, len: u32, avgdl: f64, idf: f64, qtf_factor: f64, k1: f64, b: f64) -> f64 {
    if tf == 0 {
        return 0.0;
    }
    part(weight(idf, qtf_factor, k1), tf, norm(len, avgdl as f32, k1 as f32, b as f32))
}

/// What a term weighs in every document.
pub fn weight(idf: f64, qtf_factor: f64, k1: f64) -> f32 {
    idf as f32 * (k1 as f32 + 1.0) * qtf_factor as f32
}

/// One term's part of the score of a document that holds it.
#[inline]
pub fn part(weight: f32, tf: u32, norm: f32) -> f64 {
    let tf = tf as f32;
    f64::from(weight * (tf / (tf + norm)))
}

/// Not below the part of any document that holds a term at most `tf` times and whose norm is at least `norm`. Parts grow with
/// the frequency only up to their rounding, hence the margin.
pub fn part_at_most(weight: f32, tf: u32, norm: f32) -> f64 {
    const MARGIN: f64 = 1.0 + 1.0 / 1_048_576.0;
    part(weight, tf, norm) * MARGIN
}

fn norm(len: u32, avgdl: f32, k1: f32, b: f32) -> f32 {
    let relative = if avgdl > 0.0 { len as f32 / avgdl } else { 1.0 };
    k1 * (1.0 - b + b * relative)
}

/// What a document's length does to its scores: `k1 (1 - b + b len / avgdl)`, never less for a longer one.
pub struct Norms {
    short: [f32; 256],
    avgdl: f32,
    k1: f32,
    b: f32,
}

impl Norms {
    pub fn new(avgdl: f64, k1: f64, b: f64) -> Self {
        let (avgdl, k1, b) = (avgdl as f32, k1 as f32, b as f32);
        let mut short = [0.0; 256];
        for (len, known) in short.iter_mut().enumerate() {
            *known = norm(len as u32, avgdl, k1, b);
        }
        Norms { short, avgdl, k1, b }
    }

    #[inline]
    pub fn of(&self, len: u32) -> f32 {
        match self.short.get(len as usize) {
            Some(known) => *known,
            None => norm(len, self.avgdl, self.k1, self.b),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Norms, bm25, idf, part, part_at_most, qtf_factor, weight};

    fn score(qtf: u32, df: u64, tf: u32, len: u32) -> f64 {
        bm25(tf, len, 11.0 / 3.0, idf(3, df), qtf_factor(qtf, 8.0), f64::from(1.2f32), 0.75)
    }

    #[test]
    fn scores_equal_the_golden_values_of_the_contract_to_the_last_bit() {
        for (found, expected) in [
            (score(1, 3, 2, 3), 0.19350067f32),
            (score(1, 3, 1, 3), 0.14426166),
            (score(1, 3, 1, 5), 0.11623961),
            (score(2, 3, 2, 3), 0.34830117),
            (score(2, 3, 1, 3), 0.25967097),
            (score(2, 3, 1, 5), 0.20923129),
            (score(2, 3, 1, 3) + score(1, 2, 2, 3), 0.9407541),
            (score(2, 3, 2, 3) + score(1, 2, 1, 3), 0.85607296),
        ] {
            assert_eq!((found as f32).to_bits(), expected.to_bits(), "{found} is not {expected}");
        }
    }

    #[test]
    fn a_rarer_term_tells_more_and_every_term_something() {
        for n in [1u64, 3, 4_096, 100_000_000, u64::from(u32::MAX)] {
            let mut last = 0.0;
            for df in [n, n - n / 10_000, n - n / 100, n / 2, n / 100, n / 10_000, 1] {
                assert!(idf(n, df) > 0.0, "{df} of {n}");
                assert!(idf(n, df) >= last, "{df} of {n}");
                last = if df > 0 { idf(n, df) } else { last };
            }
        }
    }

    #[test]
    fn scores_stay_within_a_millionth_of_the_formula() {
        for (n, df, tf, len, avgdl) in
            [(3u64, 1u64, 1u32, 1u32, 9.5), (121_864, 977, 7, 31, 24.25), (60, 59, 2, 400, 1.5)]
        {
            let formula = (1.0 + ((n - df) as f64 + 0.5) / (df as f64 + 0.5)).ln() * f64::from(tf) * 2.2
                / (f64::from(tf) + 1.2 * (0.25 + 0.75 * f64::from(len) / avgdl));
            let found = bm25(tf, len, avgdl, idf(n, df), qtf_factor(1, 8.0), f64::from(1.2f32), 0.75);
            assert!((found - formula).abs() <= 1e-6 * formula.max(1.0), "{found}, by the formula {formula}");
        }
    }

    #[test]
    fn what_is_known_of_a_length_gives_the_same_bits_and_bounds_hold() {
        for (k1, b, avgdl) in
            [(1.2, 0.75, 24.25), (0.0, 0.75, 3.0), (1000.0, 1.0, 0.01), (2.0, 0.0, 7.0), (1.2, 0.5, 0.0)]
        {
            let norms = Norms::new(avgdl, k1, b);
            let weight = weight(idf(1_000, 77), qtf_factor(2, 8.0), k1);
            for len in (0..300).chain([65_535, u32::MAX]) {
                let mut most = 0.0;
                for tf in (1..100).chain([1_000, 16_777_217, u32::MAX]) {
                    let found = part(weight, tf, norms.of(len));
                    assert_eq!(
                        found.to_bits(),
                        bm25(tf, len, avgdl, idf(1_000, 77), qtf_factor(2, 8.0), k1, b).to_bits()
                    );
                    most = f64::max(most, found);
                    assert!(most <= part_at_most(weight, tf, norms.of(len)), "{tf} of {len}");
                    assert!(found <= part_at_most(weight, tf, norms.of(len.saturating_sub(9))), "{tf} of {len}");
                }
            }
        }
    }
}
