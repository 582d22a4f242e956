//! Work on one document that has so many parts, each over a long value, that all of them together take longer than there is time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value as Json, json};
use shoal::api::wire::query::{parse_query, parse_recall};
use shoal::engine::{Engine, query};
use shoal::error::Result;
use shoal::model::query::Answer;
use shoal::platform::allowance::{Allowance, End};
use shoal::platform::disk::Disk;

use crate::long_texts::Hurried;
use crate::node::{Node, all, name};
use crate::write;

/// How often a search may look at its time; a write may as often, as a second passes each time.
const LOOKS: u64 = 30;
/// So many parts are more than that, and few more: each of them has to look.
const PARTS: usize = 40;

/// One document, in the newest writes or in a segment.
async fn open(node: &Node, schema: Json, document: Json, is_in_segment: bool) -> Arc<Engine> {
    let disk: Arc<dyn Disk> = Arc::new(node.disk.mounted());
    let clock = Arc::new(Hurried(AtomicU64::new(0)));
    let engine = Engine::open(node.config.clone(), disk, clock, node.random.clone()).unwrap();
    engine.rebuild_index().unwrap();
    write(&engine, "docs", json!({"upsert_rows": [document], "schema": schema})).await.unwrap();
    if is_in_segment {
        engine.checkpoint(&name("docs")).await.unwrap();
    }
    engine
}

/// What becomes of a query that may look so often, and how often it did.
fn ask(engine: &Engine, body: Json, looks_max: u64) -> (Result<String>, u64) {
    let view = engine.view(&name("docs")).unwrap();
    let looks = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&looks);
    let end = move || (counted.fetch_add(1, Ordering::Relaxed) >= looks_max).then_some(End::TimeIsUp);
    let found = query::run(&view, &parse_query(body).unwrap().request, &Allowance::new(u64::MAX, end));
    (found.map(|outcome| format!("{:?}", outcome.answers)), looks.load(Ordering::Relaxed))
}

fn check_query_ends(engine: &Engine, body: Json) {
    let (found, looks) = ask(engine, body.clone(), LOOKS);
    assert_eq!(found.map(drop).map_err(|error| error.code().to_owned()), Err("query_timeout".to_owned()), "{body}");
    assert_eq!(looks, LOOKS + 1, "it ends when it is told to");
    assert!(ask(engine, body, u64::MAX).0.is_ok());
}

/// Every kind of write that has a condition, of document 1.
async fn check_writes_end(engine: &Arc<Engine>, condition: &Json) {
    let before = (all(engine, "docs"), engine.etag(&name("docs")).unwrap());
    for body in [
        json!({"upsert_condition": condition, "upsert_rows": [{"id": 1, "n": 2}]}),
        json!({"patch_condition": condition, "patch_rows": [{"id": 1, "n": 2}]}),
        json!({"delete_condition": condition, "deletes": [1]}),
    ] {
        let ended = write(engine, "docs", body).await.map(|_| "written".to_owned());
        let code = ended.unwrap_or_else(|error| error.code().to_owned());
        assert!(code == "query_timeout", "{code}: {:.200}", condition.to_string());
        assert!((all(engine, "docs"), engine.etag(&name("docs")).unwrap()) == before);
    }
}

fn many(part: impl Fn(usize) -> Json) -> Vec<Json> {
    (0..PARTS).map(part).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tests_of_a_long_array_look_at_the_time_before_each() {
    let schema = json!({"a": "[]int", "s": "[]string"});
    let document = json!({"id": 1, "n": 1, "a": (0..2_000).collect::<Vec<i64>>(), "s": vec!["word"; 200]});
    let filters = [
        json!(["Or", many(|at| json!(["a", "AnyGt", 9_000 + at]))]),
        json!(["Or", many(|at| json!(["a", "Contains", 9_000 + at]))]),
        json!(["And", many(|at| json!(["a", "NotContainsAny", [9_000 + at]]))]),
        json!(["Or", many(|at| json!(["a", "In", [9_000 + at, 9_999]]))]),
        json!(["Or", many(|at| json!(["a", "Eq", [9_000 + at]]))]),
        json!(["And", many(|at| json!(["Not", ["s", "Contains", format!("word {at}")]]))]),
    ];
    let node = Node::new(93);
    let engine = open(&node, schema, document, false).await;
    for filter in filters {
        check_query_ends(&engine, json!({"filters": filter, "rank_by": ["id", "asc"], "limit": 1}));
        check_writes_end(&engine, &filter).await;
    }
    // What is asked most often has enough time.
    let newer = json!(["n", "Lt", {"$ref_new": "n"}]);
    let body = json!({"upsert_condition": newer, "upsert_rows": [{"id": 1, "n": 2}]});
    assert_eq!(write(&engine, "docs", body).await.unwrap().upserted, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tests_of_a_long_array_against_the_incoming_one_look_at_the_time_before_each() {
    let array: Vec<i64> = (0..2_000).collect();
    let node = Node::new(94);
    let engine = open(&node, json!({"a": "[]int"}), json!({"id": 1, "a": [7]}), false).await;
    let condition = json!(["Or", many(|_| json!(["a", "NotContainsAny", {"$ref_new": "a"}]))]);
    let body = json!({"upsert_condition": condition, "upsert_rows": [{"id": 1, "a": array}]});
    assert_eq!(write(&engine, "docs", body).await.map(drop).unwrap_err().code(), "query_timeout");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tests_of_tokens_look_at_the_time_before_each() {
    let text = "walrus narwhal ".repeat(400);
    for positions in [false, true] {
        for is_in_segment in [false, true] {
            let node = Node::new(95);
            let full_text = json!({"positions": positions});
            let schema = json!({"text": {"type": "string", "full_text_search": full_text, "filterable": false}});
            let engine = open(&node, schema, json!({"id": 1, "n": 1, "text": text}), is_in_segment).await;
            for op in ["ContainsAllTokens", "ContainsAnyToken", "ContainsTokenSequence"] {
                let filter = json!(["Or", many(|at| json!(["text", op, format!("seal w{at}")]))]);
                check_query_ends(&engine, json!({"filters": filter, "rank_by": ["id", "asc"], "limit": 1}));
                check_query_ends(
                    &engine,
                    json!({"rank_by": ["id", "asc"], "limit": 1, "compute_attributes": {"c": ["Sum", [filter]]}}),
                );
                check_writes_end(&engine, &filter).await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_sequence_of_a_word_that_a_text_repeats_looks_at_the_time() {
    for positions in [false, true] {
        for is_in_segment in [false, true] {
            let node = Node::new(96);
            let full_text = json!({"positions": positions});
            let schema = json!({"text": {"type": "string", "full_text_search": full_text, "filterable": false}});
            let text = "seal ".repeat(600) + "whale";
            let engine = open(&node, schema, json!({"id": 1, "n": 1, "text": text}), is_in_segment).await;
            let filter = json!(["text", "ContainsTokenSequence", "seal ".repeat(200) + "whale seal"]);
            check_query_ends(&engine, json!({"filters": filter, "rank_by": ["id", "asc"], "limit": 1}));
            check_writes_end(&engine, &filter).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scores_of_a_long_text_look_at_the_time_before_each() {
    let node = Node::new(97);
    let schema = json!({"text": {"type": "string", "full_text_search": true, "filterable": false}});
    let document = json!({"id": 1, "n": 1, "text": "walrus narwhal ".repeat(400)});
    let engine = open(&node, schema, document, false).await;
    for clause in [
        json!(["Sum", many(|at| json!(["text", "BM25", format!("walrus w{at}")]))]),
        json!(["Max", many(|at| json!(["text", "ContainsAnyToken", format!("w{at}")]))]),
    ] {
        let compute = json!({"c": clause});
        check_query_ends(&engine, json!({"rank_by": ["id", "asc"], "limit": 1, "compute_attributes": compute}));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fragments_are_ranked_by_their_document_s_text_scored_once() {
    const WORDS: u64 = 200;
    let node = Node::new(98);
    let schema = json!({"text": {"type": "string", "full_text_search": true, "filterable": false}});
    let document = json!({"id": 1, "n": 1, "text": "walrus narwhal ".repeat(WORDS as usize / 2)});
    let engine = open(&node, schema, document, false).await;
    let highlight = |rank_by: Json| {
        let highlight = json!(["Highlight", "text", {"fragment_by": "word", "rank_fragments_by": rank_by}]);
        json!({"rank_by": ["id", "asc"], "limit": 1, "compute_attributes": {"h": highlight}})
    };
    let own = json!(["text", "BM25", "walrus"]);
    let filter = json!(["text", "ContainsAnyToken", "walrus"]);
    for rank_by in [own.clone(), json!(["Sum", [own, filter, ["$fragment", "BM25", "walrus"]]])] {
        check_query_ends(&engine, highlight(rank_by.clone()));
        let (found, looks) = ask(&engine, highlight(rank_by), u64::MAX);
        let rows = found.unwrap();
        assert!(rows.contains("walrus"), "{rows}");
        // Once or twice for each fragment, and not for each score of its document.
        assert!((WORDS..3 * WORDS).contains(&looks), "{looks}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_s_patterns_look_at_the_time_before_each_is_compiled() {
    let node = Node::new(99);
    let schema = json!({"s": {"type": "string", "regex": true, "glob": true}});
    let engine = open(&node, schema, json!({"id": 1, "n": 1, "s": "abc"}), false).await;
    for op in ["Regex", "Glob"] {
        let patterns = many(|at| json!(["s", op, format!("q{at}")]));
        check_writes_end(&engine, &json!(["Or", patterns])).await;
        // Bound for every row.
        let mut with_new = patterns.clone();
        with_new.push(json!(["n", "Eq", {"$ref_new": "n"}]));
        check_writes_end(&engine, &json!(["Or", with_new])).await;
        // Nothing is looked for, once it is bound.
        let mut of_none = patterns;
        of_none.push(json!(["n", "In", []]));
        let filter = json!(["And", of_none]);
        for body in
            [json!({"delete_by_filter": filter}), json!({"patch_by_filter": {"filters": filter, "patch": {"n": 2}}})]
        {
            assert_eq!(write(&engine, "docs", body).await.map(drop).unwrap_err().code(), "query_timeout");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_of_one_document_look_at_the_time() {
    let document = json!({"id": 1, "n": 1, "a": (0..30).collect::<Vec<i64>>()});
    for is_in_segment in [false, true] {
        let engine = open(&Node::new(100), json!({"a": "[]int"}), document.clone(), is_in_segment).await;
        let keys = ["x", "y", "z"].map(|label| json!({label: ["ForEachUnique", "a"]}));
        let body = json!({"aggregate_by": {"n": ["Count"]}, "group_by": keys, "limit": 3});
        check_query_ends(&engine, body.clone());
        let (found, _) = ask(&engine, body, u64::MAX);
        let groups = found.unwrap();
        assert_eq!(groups.matches("Uint(1)").count(), 3, "{groups}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_query_orders_groups_thins_and_ranks_by_counts_as_its_memory() {
    let schema = json!({
        "s": {"type": "string", "filterable": false},
        "t": {"type": "string", "full_text_search": true},
    });
    for is_in_segment in [false, true] {
        let node = Node::new(101);
        let engine = open(&node, schema.clone(), json!({"id": 0, "s": "s", "t": "walrus"}), false).await;
        for part in 0..8 {
            let rows = (part * 50..part * 50 + 50)
                .map(|n| json!({"id": n, "s": format!("{n:05}{}", "s".repeat(4_000)), "t": "walrus"}));
            write(&engine, "docs", json!({"upsert_rows": rows.collect::<Vec<Json>>()})).await.unwrap();
        }
        if is_in_segment {
            engine.checkpoint(&name("docs")).await.unwrap();
        }
        let per = json!({"total": 400, "per": {"attributes": ["s"], "limit": 1}});
        for (body, least) in [
            (json!({"rank_by": ["s", "desc"], "limit": 300}), 300 * 4_000),
            (json!({"aggregate_by": {"n": ["Count"]}, "group_by": ["s"], "limit": 300}), 300 * 4_000),
            (json!({"rank_by": ["id", "asc"], "limit": per}), 400 * 4_000),
        ] {
            let ends = |bytes_max| {
                let request = parse_query(body.clone()).unwrap().request;
                let view = engine.view(&name("docs")).unwrap();
                query::run(&view, &request, &Allowance::new(bytes_max, || None)).map(drop)
            };
            // Rows are put in order by values where they are, as far as they are indexed or in memory already.
            if body["rank_by"] == json!(["s", "desc"]) && !is_in_segment {
                ends(1 << 10).unwrap();
                continue;
            }
            assert_eq!(ends(least).unwrap_err().code(), "query_too_large", "{body}, in a segment: {is_in_segment}");
            ends(4 * least).unwrap();
        }
        if !is_in_segment {
            let clauses: Vec<Json> = (0..100).map(|_| json!(["t", "BM25", "walrus"])).collect();
            let request = parse_query(json!({"rank_by": ["Sum", clauses], "limit": 1})).unwrap().request;
            let view = engine.view(&name("docs")).unwrap();
            let ends = |bytes_max| query::run(&view, &request, &Allowance::new(bytes_max, || None)).map(drop);
            assert_eq!(ends(100 * 400 * 12).unwrap_err().code(), "query_too_large");
            ends(u64::MAX).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ground_truth_of_all_sampled_queries_counts_as_memory() {
    const ROWS: usize = 200;
    let node = Node::new(102);
    let schema = json!({"vector": {"type": "[2]f32", "ann": {"distance_metric": "euclidean_squared"}}});
    let engine = open(&node, schema, json!({"id": 0, "n": 1}), false).await;
    let rows: Vec<Json> = (0..ROWS).map(|id| json!({"id": id, "vector": [id as f64, 1.0]})).collect();
    write(&engine, "docs", json!({"upsert_rows": rows})).await.unwrap();
    let request = parse_recall(json!({"num": 20, "top_k": ROWS, "include_ground_truth": true})).unwrap();
    let ends = |bytes_max| {
        let view = engine.view(&name("docs")).unwrap();
        query::recall(&view, &request, &*node.random, &Allowance::new(bytes_max, || None))
    };
    assert_eq!(ends((20 * ROWS * 32) as u64).map(drop).unwrap_err().code(), "query_too_large");
    let found = ends(u64::MAX).unwrap();
    assert!((found.avg_recall - 1.0).abs() < 1e-9, "{}", found.avg_recall);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_put_in_order_from_any_number_of_parts_in_little_memory() {
    const ROWS: i64 = 600;
    let mut node = Node::new(103);
    node.config.compaction_fan_in = 1_000;
    let engine = open(&node, json!({"n": "int"}), json!({"id": 0, "n": 0}), false).await;
    let title = |n: i64| format!("{:05}{}", n * 7_919 % ROWS, "t".repeat(200));
    // Segments of few rows each, and the newest writes.
    for part in 0..6 {
        let rows: Vec<Json> = (part * 100..part * 100 + 100)
            .map(|n| json!({"id": n, "title": title(n), "n": n % 3, "category": n % 5}))
            .collect();
        write(&engine, "docs", json!({"upsert_rows": rows})).await.unwrap();
        if part < 5 {
            engine.checkpoint(&name("docs")).await.unwrap();
        }
    }
    let ids = |body: &Json| {
        let request = parse_query(body.clone()).unwrap().request;
        let view = engine.view(&name("docs")).unwrap();
        let outcome = query::run(&view, &request, &Allowance::new(4 << 10, || None)).unwrap();
        let Answer::Rows(rows) = &outcome.answers[0] else { panic!("expected rows") };
        rows.iter().map(|row| row.id.to_string().parse::<i64>().unwrap()).collect::<Vec<i64>>()
    };
    let mut by_title: Vec<i64> = (0..ROWS).collect();
    by_title.sort_by_key(|n| title(*n));
    assert_eq!(ids(&json!({"rank_by": ["title", "asc"], "limit": ROWS})), by_title);
    let mut by_both: Vec<i64> = (0..ROWS).collect();
    by_both.sort_by_key(|n| (-(n % 3), title(*n)));
    assert_eq!(ids(&json!({"rank_by": [["n", "desc"], ["title", "asc"]], "limit": ROWS})), by_both);
    // Five categories have fewer rows than are asked for, so all rows are looked through.
    let per = json!({"total": 100, "per": {"attributes": ["category"], "limit": 10}});
    let mut left = [10; 5];
    let first_of_each: Vec<i64> = by_title
        .into_iter()
        .filter(|n| {
            let left = &mut left[(n % 5) as usize];
            *left -= 1;
            *left >= 0
        })
        .collect();
    assert_eq!(ids(&json!({"rank_by": ["title", "asc"], "limit": per})), first_of_each);
}
