//! Queries within an allowance of time and memory: they look whether it is over, and end there.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use proptest::prelude::{ProptestConfig, any, proptest};
use serde_json::{Value as Json, json};
use shoal::api::wire::query::parse_query;
use shoal::engine::query;
use shoal::platform::allowance::{ABANDONED, Allowance, DOCUMENTS_PER_CHECK, End, ROWS_PER_CHECK};

use crate::generate::Generator;
use crate::view;

/// An allowance that ends when it is asked for the `last` time, and how often it was asked.
fn counted(last: u64, end: End) -> (Arc<AtomicU64>, Allowance) {
    let asked = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&asked);
    let allowance =
        Allowance::new(u64::MAX, move || (counter.fetch_add(1, Ordering::Relaxed) + 1 >= last).then_some(end));
    (asked, allowance)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever a query does, it looks whether anybody waits, and ends at once when nobody does.
    #[test]
    fn a_query_that_nobody_waits_for_ends_where_it_looks(seed in any::<u64>()) {
        let mut generator = Generator::new(seed);
        let documents = generator.documents(60);
        let view = view::build(&documents, 2, &mut generator);
        for _ in 0..8 {
            let body = generator.query();
            let request = parse_query(body.clone()).unwrap().request;
            let (asked, allowance) = counted(u64::MAX, End::Abandoned);
            query::run(&view, &request, &allowance).unwrap();
            let looks = asked.load(Ordering::Relaxed);
            assert!(looks > 0, "{body}");
            for (last, end, code) in [(1, End::TimeIsUp, "query_timeout"), (1 + seed % looks, End::Abandoned, ABANDONED)] {
                let (asked, allowance) = counted(last, end);
                let error = query::run(&view, &request, &allowance).unwrap_err();
                assert_eq!((error.code(), asked.load(Ordering::Relaxed)), (code, last), "{body}");
            }
        }
    }
}

/// The loops over rows look, too, not only the steps before them.
#[test]
fn loops_over_many_rows_look_every_few_thousand() {
    let mut generator = Generator::new(6);
    let rows = 3 * ROWS_PER_CHECK;
    let documents: Vec<Json> =
        (0..rows).map(|id| json!({"id": id, "u": id % 7, "n": 1, "text": "fish tank"})).collect();
    let view = view::build(&documents, 1, &mut generator);
    let by_rows = u64::from(rows / ROWS_PER_CHECK) / 2;
    let by_documents = u64::from(rows / DOCUMENTS_PER_CHECK) / 2;
    for (body, least) in [
        (json!({"rank_by": ["u", "desc"], "limit": 1}), by_rows),
        (json!({"rank_by": [["u", "desc"], ["n", "asc"]], "limit": 1}), by_rows),
        (json!({"rank_by": ["text", "BM25", "fish"], "limit": 1}), by_rows),
        (json!({"rank_by": ["Attribute", "u"], "limit": 1}), by_rows),
        (json!({"aggregate_by": {"u": ["Sum", "u"]}}), by_rows),
        (json!({"aggregate_by": {"c": ["Count"]}, "group_by": ["u"]}), by_rows),
        (json!({"rank_by": ["text", "asc"], "limit": 1}), by_documents),
        (
            json!({"rank_by": ["id", "asc"], "limit": 1, "filters": ["text", "ContainsTokenSequence", "fish tank"]}),
            by_documents,
        ),
        (json!({"rank_by": ["id", "asc"], "limit": 9_000, "include_attributes": true}), 9_000 / 16),
    ] {
        let (asked, allowance) = counted(u64::MAX, End::Abandoned);
        query::run(&view, &parse_query(body.clone()).unwrap().request, &allowance).unwrap();
        assert!(asked.load(Ordering::Relaxed) >= least, "{body} looked {asked:?} times, expected {least}");
    }
}

#[test]
fn a_query_has_so_much_memory() {
    let mut generator = Generator::new(4);
    let documents: Vec<Json> =
        (0..2_000).map(|id| json!({"id": id, "text": "abc", "weights": {"fish": 1.0}})).collect();
    let view = view::build(&documents, 3, &mut generator);
    let sparse = json!(["weights", "SparseKNN", {"fish": 1.0}]);
    let both = json!(["Sum", [sparse, sparse, ["Max", [0, ["text", "ContainsAllTokens", "abc"]]]]]);
    for rank_by in [json!(["text", "asc"]), both] {
        let request = parse_query(json!({"rank_by": rank_by, "limit": 1})).unwrap().request;
        let ask = |bytes| query::run(&view, &request, &Allowance::new(bytes, || None));
        assert_eq!(ask(10_000).unwrap_err().code(), "query_too_large", "{rank_by}");
        assert!(ask(1 << 20).is_ok(), "{rank_by}");
    }
}

#[test]
fn the_patterns_of_a_query_share_its_memory_and_its_time() {
    let mut generator = Generator::new(5);
    let view = view::build(&generator.documents(3), 1, &mut generator);
    let patterns: Vec<Json> =
        (0..500).map(|at| json!(["note", "Glob", format!("a{at}{}", "?".repeat(200))])).collect();
    let request = |of: Json| parse_query(of).unwrap().request;
    let filtered = request(json!({"rank_by": ["id", "asc"], "limit": 1, "filters": ["Or", patterns]}));
    let scored = request(json!({"rank_by": ["Sum", patterns], "limit": 1}));
    let computed =
        request(json!({"rank_by": ["id", "asc"], "limit": 1, "compute_attributes": {"c": ["Sum", patterns]}}));
    for request in [filtered, scored, computed] {
        let error = query::run(&view, &request, &Allowance::new(64 << 20, || None)).unwrap_err();
        assert_eq!(error.code(), "query_too_large");
        let (asked, allowance) = counted(20, End::TimeIsUp);
        assert_eq!(query::run(&view, &request, &allowance).unwrap_err().code(), "query_timeout");
        assert_eq!(asked.load(Ordering::Relaxed), 20);
    }
}
