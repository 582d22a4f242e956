//! Measures of a ranking against judgements.

use std::collections::HashMap;

/// Mean nDCG at 10 and recall at 100 over the judged queries.
#[derive(Clone, Copy, Debug)]
pub struct Quality {
    pub ndcg_at_10: f64,
    pub recall_at_100: f64,
}

impl std::fmt::Display for Quality {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "nDCG@10 {:.4}, recall@100 {:.4}", self.ndcg_at_10, self.recall_at_100)
    }
}

/// Measures rankings of document ids, one per judged query.
pub fn quality<'a>(rankings: impl IntoIterator<Item = (&'a [String], &'a HashMap<String, f64>)>) -> Quality {
    let (mut ndcg, mut recall, mut queries) = (0.0, 0.0, 0.0);
    for (ranking, grades) in rankings {
        let grade = |id: &String| grades.get(id).copied().unwrap_or(0.0);
        let mut best: Vec<f64> = grades.values().copied().collect();
        best.sort_by(|a, b| b.total_cmp(a));
        ndcg += gain(ranking.iter().map(grade)) / gain(best.into_iter());
        recall += ranking.iter().take(100).filter(|id| grade(id) > 0.0).count() as f64 / grades.len() as f64;
        queries += 1.0;
    }
    Quality { ndcg_at_10: ndcg / queries, recall_at_100: recall / queries }
}

/// Discounted cumulative gain of the first ten.
fn gain(grades: impl Iterator<Item = f64>) -> f64 {
    grades.take(10).zip(2_u32..).map(|(grade, place)| grade / f64::from(place).log2()).sum()
}

#[test]
fn a_ranking_is_worth_what_its_judged_documents_gain() {
    let grades = HashMap::from([("a".to_owned(), 1.0), ("b".to_owned(), 1.0)]);
    let ranking = ["a", "x", "b"].map(str::to_owned);
    let got = quality([(ranking.as_slice(), &grades)]);
    assert!((got.ndcg_at_10 - 1.5 / (1.0 + 1.0 / 3_f64.log2())).abs() < 1e-12, "{got}");
    assert_eq!(got.recall_at_100, 1.0);
}
