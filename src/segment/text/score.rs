//! Scores by BM25: one set of formulas for the tail and for segments, so a document scores the same wherever it lies.

/// How much a term tells: `ln(1 + (n - df + 0.5) / (df + 0.5))` for `df` of `n` documents holding it.
pub fn idf(n: u64, df: u64) -> f64 {
    let rest = n.saturating_sub(df) as f64;
    (1.0 + (rest + 0.5) / (df as f64 + 0.5)).ln()
}

/// The weight of a term that the query names `qtf` times: `qtf (k3 + 1) / (qtf + k3)`.
pub fn qtf_factor(qtf: u32, k3: f64) -> f64 {
    let qtf = f64::from(qtf);
    if qtf == 0.0 { 0.0 } else { qtf * (k3 + 1.0) / (qtf + k3) }
}

/// One term's part of a document's score; 0 when the document does not hold it.
pub fn bm25(tf: u32, len: u32, avgdl: f64, idf: f64, qtf_factor: f64, k1: f64, b: f64) -> f64 {
    if tf == 0 {
        return 0.0;
    }
    let tf = f64::from(tf);
    let relative = if avgdl > 0.0 { f64::from(len) / avgdl } else { 1.0 };
    qtf_factor * idf * tf * (k1 + 1.0) / (tf + k1 * (1.0 - b + b * relative))
}

#[cfg(test)]
mod tests {
    use super::{bm25, idf, qtf_factor};

    fn score(qtf: u32, df: u64, tf: u32, len: u32) -> f64 {
        bm25(tf, len, 11.0 / 3.0, idf(3, df), qtf_factor(qtf, 8.0), 1.2, 0.75)
    }

    fn near(got: f64, expected: f64) {
        assert!((got - expected).abs() < 2e-7, "got {got}, expected {expected}");
    }

    #[test]
    fn scores_equal_the_golden_values_of_the_contract() {
        near(score(1, 3, 2, 3), 0.19350067);
        near(score(1, 3, 1, 3), 0.14426166);
        near(score(1, 3, 1, 5), 0.11623961);
        near(score(2, 3, 2, 3), 0.34830117);
        near(score(2, 3, 1, 3), 0.25967097);
        near(score(2, 3, 1, 5), 0.20923129);
        near(score(2, 3, 1, 3) + score(1, 2, 2, 3), 0.9407541);
        near(score(2, 3, 2, 3) + score(1, 2, 1, 3), 0.85607296);
    }
}
