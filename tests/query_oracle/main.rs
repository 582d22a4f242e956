//! Queries against an oracle: random documents, split at random between the tail and segments with dead rows, give the
//! answers that the wire contract's definitions give, and the same answers whatever the split.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod allowance;
mod generate;
mod oracle;
mod pruning;
mod view;

use proptest::prelude::{ProptestConfig, any, proptest};
use serde_json::{Value as Json, json};
use shoal::api::wire::compute::ComputedAnswer;
use shoal::api::wire::query::parse_query;
use shoal::engine::query;
use shoal::engine::view::View;
use shoal::error::Result;
use shoal::model::query::{Answer, Number, RecallRequest, ResultRow};
use shoal::model::schema::ColumnUid;
use shoal::model::value_render::{id_json, to_json};
use shoal::platform::allowance::Allowance;
use shoal::platform::random::SeededRandom;

use generate::Generator;
use oracle::{Oracle, check_ranking};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn any_split_answers_as_the_oracle_does(seed in any::<u64>(), documents in 0usize..90, segments in 0usize..4) {
        let mut generator = Generator::new(seed);
        let documents = generator.documents(documents);
        let oracle = Oracle::new(&documents);
        let in_tail = view::build(&documents, 0, &mut generator);
        let split = view::build(&documents, segments, &mut generator);
        assert_eq!(split.documents(), documents.len() as u64);
        for _ in 0..12 {
            let body = generator.query();
            let answer = ask(&in_tail, &body);
            assert_eq!(ask(&split, &body).unwrap(), answer.as_ref().unwrap().clone(), "{body}");
            oracle.check(&body, &answer.unwrap());
        }
        for _ in 0..3 {
            let body = generator.fused();
            let answer = ask(&split, &body).unwrap();
            assert_eq!(ask(&in_tail, &body).unwrap(), answer, "{body}");
            check_fusion(&split, &body, &answer);
        }
    }
}

/// So many rows that the tail keeps their terms by term.
#[test]
fn a_long_tail_answers_as_segments_do() {
    let mut generator = Generator::new(11);
    let documents = generator.documents(900);
    let oracle = Oracle::new(&documents);
    let in_tail = view::build(&documents, 0, &mut generator);
    let split = view::build(&documents, 2, &mut generator);
    let text = schema_column("text");
    assert!(in_tail.tail.parts().filter_map(|part| part.terms()?.text(text)).count() >= 3);
    for n in 0..60 {
        let words = ["red fish", "blue", "swim swim fi", "deep water b"][n % 4];
        let body = match n {
            0..8 => json!({"rank_by": ["text", "BM25", words, {"last_as_prefix": n % 2 == 0}], "limit": 30}),
            _ => generator.query(),
        };
        let answer = ask(&in_tail, &body).unwrap();
        assert_eq!(ask(&split, &body).unwrap(), answer, "{body}");
        oracle.check(&body, &answer);
    }
}

fn schema_column(name: &str) -> ColumnUid {
    view::schema(view::Age::Current).column(name).unwrap().uid()
}

/// An answer as JSON: rows with id, `$dist` and fields; aggregates; groups.
fn ask(view: &View, body: &Json) -> Result<Json> {
    let parsed = parse_query(body.clone()).unwrap_or_else(|error| panic!("{body}: {error}"));
    let outcome = query::run(view, &parsed.request, &Allowance::unlimited())?;
    assert!(query::explain(view, &parsed.request.queries[0], &Allowance::unlimited()).unwrap().contains("return"));
    assert_eq!(outcome.stats.documents, view.documents());
    Ok(outcome.answers.iter().map(answer_json).collect())
}

fn row_json(row: &ResultRow) -> Json {
    let mut out = json!({"id": id_json(&row.id)});
    for (name, value) in &row.fields {
        out[name] = to_json(value, false);
    }
    for (name, value) in &row.computed {
        out[name] = serde_json::to_value(ComputedAnswer(value)).unwrap();
    }
    if let Some(dist) = row.dist {
        out["$dist"] = f64::from(dist).into();
    }
    out
}

fn numbers(aggregates: &[(String, Number)], out: &mut Json) {
    for (label, number) in aggregates {
        out[label] = match number {
            Number::Int(n) => (*n).into(),
            Number::Uint(n) => (*n).into(),
            Number::Float(x) => (*x).into(),
        };
    }
}

fn answer_json(answer: &Answer) -> Json {
    match answer {
        Answer::Rows(rows) => rows.iter().map(row_json).collect(),
        Answer::Aggregations(aggregates) => {
            let mut out = json!({});
            numbers(aggregates, &mut out);
            out
        }
        Answer::Groups(groups) => groups
            .iter()
            .map(|group| {
                let mut out = json!({});
                for (label, value) in &group.key {
                    if let Some(value) = value {
                        out[label] = to_json(value, false);
                    }
                }
                numbers(&group.aggregates, &mut out);
                out
            })
            .collect(),
    }
}

/// Fuses what the queries answer one by one.
fn check_fusion(view: &View, body: &Json, answer: &Json) {
    let queries = body["queries"].as_array().unwrap();
    let constant = body["rerank_by"][1]["rank_constant"].as_f64().unwrap_or(60.0);
    let mut scores: Vec<(Json, f64)> = Vec::new();
    for (at, query) in queries.iter().enumerate() {
        let weight = body["rerank_by"][1]["weights"][at].as_f64().unwrap_or(1.0);
        let alone = ask(view, query).unwrap();
        for (rank, row) in alone[0].as_array().unwrap().iter().enumerate() {
            let part = weight / (constant + rank as f64 + 1.0);
            match scores.iter_mut().find(|(id, _)| *id == row["id"]) {
                Some((_, score)) => *score += part,
                None => scores.push((row["id"].clone(), part)),
            }
        }
    }
    let scores = scores.into_iter().map(|(id, score)| (id.as_u64().unwrap(), -score)).collect();
    let limit = body["limit"].as_u64().unwrap_or(10_000) as usize;
    check_ranking(body, answer[0].as_array().unwrap(), &scores, 0, limit, true);
}

#[test]
fn recall_of_exact_search_is_one() {
    let mut generator = Generator::new(7);
    let documents = generator.documents(60);
    for segments in [0, 3] {
        let view = view::build(&documents, segments, &mut generator);
        let request =
            RecallRequest { num: 9, top_k: 4, filter: None, include_ground_truth: true, rank_by: None, recall: None };
        let outcome = query::recall(&view, &request, &SeededRandom::new(3), &Allowance::unlimited()).unwrap();
        assert_eq!((outcome.avg_recall, outcome.avg_exhaustive_count, outcome.avg_ann_count), (1.0, 4.0, 4.0));
        let truth = outcome.ground_truth.unwrap();
        assert_eq!((truth.len(), truth[0].1.len()), (9, 4));
    }
}

#[test]
fn what_cannot_be_answered_is_refused() {
    let mut generator = Generator::new(8);
    let documents = generator.documents(5);
    let view = view::build(&documents, 1, &mut generator);
    let computed = |of: Json| json!({"rank_by": ["id", "asc"], "limit": 1, "compute_attributes": {"c": of}});
    for (body, expected) in [
        (json!({"rank_by": ["nothing", "asc"], "limit": 1}), "not found in schema"),
        (json!({"rank_by": ["tags", "asc"], "limit": 1}), "only scalars can be ordered by"),
        (json!({"rank_by": ["vector", "ANN", [1.0]], "limit": 1}), "vector"),
        (json!({"rank_by": ["n", "ANN", [1.0]], "limit": 1}), "expected a vector"),
        (
            json!({"rank_by": ["tokens", "ANN", [1.0, 0.0]], "limit": 1}),
            "vector 0 of [][2]f32: expected [2]f32, got float",
        ),
        (
            json!({"rank_by": ["tokens", "ANN", [[1.0, 0.0], [1.0]]], "limit": 1}),
            "vector 1 of [][2]f32: expected [2]f32",
        ),
        (
            json!({"rank_by": ["tokens", "ANN", []], "limit": 1}),
            "field \"tokens\": expected 1 to 1024 vectors, got 0",
        ),
        (
            json!({"rank_by": ["tokens", "ANN", vec![[1, 0]; 1_025]], "limit": 1}),
            "expected 1 to 1024 vectors, got 1025",
        ),
        (json!({"rank_by": ["tokens", "kNN", [[1.0, 0.0]]], "limit": 1}), "requires filters"),
        (
            json!({"rank_by": ["stored", "ANN", [[1.0, 0.0]]], "limit": 1}),
            "multivector ANN needs late_interaction:true",
        ),
        (json!({"rank_by": ["vector", "kNN", [1.0, 0.0, 0.0, 0.0]], "limit": 1}), "requires filters"),
        (json!({"rank_by": ["s", "BM25", "a"], "limit": 1}), "not configured for full-text search"),
        (json!({"rank_by": ["text", "BM25", 7], "limit": 1}), "invalid input '7' for rank_by field \"text\""),
        (json!({"rank_by": ["Attribute", "n"], "limit": 1}), "Wrap this clause under a [\"Max\", [0, <clause>]]"),
        (json!({"rank_by": ["Attribute", "s"], "limit": 1}), "only numbers can be a score"),
        (json!({"rank_by": ["id", "asc"], "limit": 1, "distance_metric": "dot_product"}), "distance metric mismatch"),
        (json!({"rank_by": ["id", "asc"], "limit": 1, "include_attributes": ["no"]}), "include_attributes=True"),
        (json!({"rank_by": ["id", "asc"], "limit": 1, "filters": ["note", "Eq", "a"]}), "not filterable"),
        (json!({"aggregate_by": {"a": ["Sum", "s"]}}), "only numbers can be summed"),
        (computed(json!(["text", "BM25", 7])), "computed attribute `c`: invalid input '7'"),
        (computed(json!(["vector", "VectorDist", [1.0]])), "computed attribute `c`: invalid vector"),
        (computed(json!(["Attribute", "n"])), "non-negative scores"),
        (computed(json!(["Highlight", "nothing"])), "not found in schema"),
        (computed(json!(["Highlight", "s"])), "`c` references `s`, which is not enabled for full-text search"),
        (computed(json!(["Highlight", "text"])), "cannot infer `rank_fragments_by`"),
        (json!({"aggregate_by": {"a": ["Count"]}, "group_by": ["tags"]}), "ForEachUnique"),
        (json!({"aggregate_by": {"a": ["Count"]}, "group_by": ["id"]}), "cannot be grouped by id"),
        (
            json!({"rank_by": ["id", "asc"], "limit": {"total": 3, "per": {"attributes": ["tags"], "limit": 1}}}),
            "expected a scalar",
        ),
    ] {
        let error = ask(&view, &body).unwrap_err().to_string();
        assert!(error.contains(expected), "{body}: {error}");
    }
}

#[test]
fn the_contract_s_golden_scores_are_reproduced() {
    let texts = [(1, "fish fish swim"), (2, "fish tank water deep blue"), (3, "swim swim fish")];
    let documents: Vec<Json> = texts.iter().map(|(id, text)| json!({"id": id, "text": text})).collect();
    let mut generator = Generator::new(1);
    for segments in [0, 1, 2, 3] {
        let view = view::build(&documents, segments, &mut generator);
        for (query, expected) in [
            ("fish", [(1, 0.193_500_67), (3, 0.144_261_66), (2, 0.116_239_61)]),
            ("fish fish", [(1, 0.348_301_17), (3, 0.259_670_97), (2, 0.209_231_29)]),
            ("fish fish swim", [(3, 0.940_754_1), (1, 0.856_072_96), (2, 0.209_231_29)]),
        ] {
            let rows = ask(&view, &json!({"rank_by": ["text", "BM25", query], "limit": 9})).unwrap();
            for (row, (id, score)) in rows[0].as_array().unwrap().iter().zip(expected) {
                assert_eq!(row["id"], id);
                let found: f64 = row["$dist"].as_f64().unwrap();
                assert!((found - score).abs() < 2e-7, "{query}: {found} of {id}, expected {score}");
            }
        }
    }
}
