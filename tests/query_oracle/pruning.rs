//! Passing over rows changes no answer: many documents with skewed words and weights, any split, scored with and without.

use std::collections::BTreeMap;

use serde_json::{Map, Value as Json, json};
use shoal::api::wire::query::parse_query;
use shoal::engine::query;
use shoal::engine::view::View;
use shoal::model::query::{Answer, QueryOutcome};
use shoal::platform::allowance::Allowance;

use crate::generate::Generator;
use crate::view;

/// A number below `bound`, small ones more often.
fn skewed(generator: &mut Generator, bound: usize) -> usize {
    let within = generator.below(bound) + 1;
    generator.below(within)
}

fn words(generator: &mut Generator, most: usize) -> String {
    let words: Vec<String> = (0..generator.below(most + 1)).map(|_| format!("w{}", skewed(generator, 300))).collect();
    words.join(" ")
}

/// Weights that are never negative, unless they may be.
fn weights(generator: &mut Generator, most: usize, signed: bool) -> Json {
    let entries = (0..generator.below(most + 1)).map(|_| {
        let weight = skewed(generator, 4_000) as f64 / 1_000.0 - if signed { 1.5 } else { 0.0 };
        (format!("d{}", skewed(generator, 60)), json!(weight))
    });
    Json::Object(entries.collect::<Map<_, _>>())
}

fn documents(generator: &mut Generator, count: usize, signed: bool) -> Vec<Json> {
    (0..count as u64)
        .map(|n| {
            let s = ["a", "ab", "b"][skewed(generator, 3)];
            let mut out = json!({"id": 100_000 + 3 * n, "u": generator.below(5), "s": s});
            // Some much longer than others, some much alike, so that both bounds and ties matter.
            match generator.below(12) {
                0 => {}
                1 => out["text"] = words(generator, 90).into(),
                2..5 => out["text"] = "w0 w1 w7".into(),
                _ => out["text"] = words(generator, 9).into(),
            }
            if generator.below(4) > 0 {
                out["weights"] = weights(generator, 6, signed);
            }
            out
        })
        .collect()
}

fn filter(generator: &mut Generator) -> Json {
    match generator.below(4) {
        0 => json!(["s", "Eq", "b"]),
        1 => json!(["id", "Lt", 100_000 + generator.below(30_000)]),
        2 => json!(["text", "ContainsAllTokens", format!("w{}", skewed(generator, 40))]),
        _ => json!(["Not", ["u", "In", [generator.below(5), generator.below(5)]]]),
    }
}

fn clause(generator: &mut Generator, depth: usize, signed: bool) -> Json {
    match generator.below(if depth == 0 { 5 } else { 9 }) {
        0 => json!(["text", "BM25", words(generator, 5), {"last_as_prefix": true}]),
        1 => json!(["weights", "SparseKNN", weights(generator, 8, signed)]),
        2 => filter(generator),
        3 | 4 => json!(["text", "BM25", words(generator, 12)]),
        5 | 6 => {
            let parts = (0..=generator.below(3)).map(|_| clause(generator, depth - 1, signed));
            json!(["Sum", parts.collect::<Vec<_>>()])
        }
        7 => {
            let least = [0.0, 0.25][skewed(generator, 2)];
            json!(["Max", [least, clause(generator, depth - 1, signed)]])
        }
        _ => {
            let weight = [0.3, 2.0, 0.0, 1e-30][skewed(generator, 4)];
            json!(["Product", weight, clause(generator, depth - 1, signed)])
        }
    }
}

fn rows(outcome: QueryOutcome) -> Vec<(String, u32)> {
    let Answer::Rows(rows) = &outcome.answers[0] else { panic!("expected rows") };
    rows.iter().map(|row| (format!("{:?}", row.id), row.dist.unwrap().to_bits())).collect()
}

fn check(view: &View, body: &Json) -> usize {
    let request = parse_query(body.clone()).unwrap().request;
    let expected = rows(query::run_scoring_all(view, &request, &Allowance::unlimited()).unwrap());
    assert_eq!(rows(query::run(view, &request, &Allowance::unlimited()).unwrap()), expected, "{body}");
    expected.len()
}

/// `SHOAL_PRUNED=1000` runs more rounds than every change does, of other documents each.
#[test]
fn passing_over_rows_changes_no_answer() {
    let number = |name: &str, default| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    let (seed, rounds) = (number("SHOAL_SEED", 20), number("SHOAL_PRUNED", 1));
    let mut found = BTreeMap::new();
    for seed in (seed..).step_by(4).take(rounds as usize) {
        println!("SHOAL_SEED={seed}");
        for (number, (count, segments)) in [(5_000, 1), (5_000, 3), (300, 2), (6_000, 1)].into_iter().enumerate() {
            let generator = &mut Generator::new(seed + number as u64);
            let signed = number % 2 == 1;
            let view = view::build(&documents(generator, count, signed), segments, generator);
            for _ in 0..30 {
                let depth = generator.below(3);
                let limit = [1, 3, 10, 50, 700][generator.below(5)];
                let mut body = json!({"rank_by": clause(generator, depth, signed), "limit": limit});
                if generator.below(3) == 0 {
                    body["filters"] = filter(generator);
                }
                *found.entry(check(&view, &body) == limit).or_insert(0) += 1;
            }
        }
    }
    // Most queries must have more answers than they want, or nothing was passed over.
    assert!(found[&true] > found[&false], "{found:?}");
}

/// A sparse vector of a few dimensions that tell much and of many that tell little and that most rows have.
fn common_weights(generator: &mut Generator, most: usize) -> Json {
    let mut entries = Map::new();
    for n in 0..20 {
        if generator.below(10) > 0 {
            entries.insert(format!("c{n}"), json!(generator.below(300) as f64 / 1_000.0));
        }
    }
    if let Json::Object(telling) = weights(generator, most, false) {
        entries.extend(telling);
    }
    entries.into()
}

#[test]
fn sparse_vectors_are_found_as_far_as_is_wanted_with_exact_scores() {
    let generator = &mut Generator::new(31);
    let rows_with = |(id, weights): (u64, Json)| json!({"id": id, "weights": weights});
    let documents: Vec<Json> = (0..9_000).map(|id| rows_with((id, common_weights(generator, 6)))).collect();
    let view = view::build(&documents, 1, generator);
    let mut missed = 0;
    for recall in [0.8, 0.9, 0.95, 0.99] {
        let (mut found, mut all) = (0, 0);
        for _ in 0..20 {
            let rank = json!(["weights", "SparseKNN", common_weights(generator, 12)]);
            let ask = |limit: usize, recall: Json| {
                let body = json!({"rank_by": rank, "limit": limit, "recall": recall, "filters": ["id", "Gte", 500]});
                let request = parse_query(body).unwrap().request;
                rows(query::run(&view, &request, &Allowance::unlimited()).unwrap())
            };
            let (exact, scores) = (ask(10, json!("exact")), ask(10_000, json!("exact")));
            let about = ask(10, json!(recall));
            assert_eq!(about.len(), exact.len());
            assert!(about.iter().all(|row| scores.contains(row)), "{rank}");
            found += about.iter().filter(|row| exact.contains(row)).count();
            all += exact.len();
        }
        let share = found as f64 / all as f64;
        assert!(share >= recall && all == 200, "{share} of {all} found, {recall} wanted");
        missed += all - found;
        println!("{share} of {all} found, {recall} wanted");
    }
    // Or nothing was left out.
    assert!(missed > 0);
}
