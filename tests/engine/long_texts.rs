//! Filters over texts so long that one of them alone takes longer than there is time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value as Json, json};
use shoal::api::wire::query::parse_query;
use shoal::engine::{Engine, query};
use shoal::platform::allowance::{Allowance, End};
use shoal::platform::clock::Clock;
use shoal::platform::disk::Disk;

use crate::node::{Node, all, name};
use crate::write;

/// A clock on which a second passes whenever it is looked at.
pub(crate) struct Hurried(pub(crate) AtomicU64);

impl Clock for Hurried {
    fn now_millis(&self) -> u64 {
        1_700_000_000_000
    }

    fn steady_millis(&self) -> u64 {
        self.0.fetch_add(1_000, Ordering::Relaxed)
    }
}

/// How often a search may look at its time.
const LOOKS: u64 = 30;

/// Filters that are looked for in all of the text, and are not in it.
fn filters() -> [Json; 5] {
    let edits = json!({"max_edit_distance": [{"min_query_chars": 6, "distance": 1}]});
    [
        json!(["text", "Regex", "[ab]+[0-9]"]),
        // Threads go through it, as states cannot.
        json!(["text", "Regex", r"\b[aé]+[0-9]"]),
        json!(["text", "Glob", "*[0-9]"]),
        json!(["text", "IGlob", "*[0-9]"]),
        json!(["text", "Fuzzy", "a".repeat(1_000) + "bcdefgh", edits]),
    ]
}

/// One document, in the newest writes or in a segment.
async fn open(node: &Node, is_in_segment: bool) -> Arc<Engine> {
    let disk: Arc<dyn Disk> = Arc::new(node.disk.mounted());
    let clock = Arc::new(Hurried(AtomicU64::new(0)));
    let engine = Engine::open(node.config.clone(), disk, clock, node.random.clone()).unwrap();
    engine.rebuild_index().unwrap();
    let schema = json!({"text": {"type": "string", "filterable": false, "regex": true, "glob": true, "fuzzy": true}});
    let text = format!("é{}", "a".repeat(64 << 10));
    let rows = json!([{"id": 1, "text": text, "n": 1}]);
    write(&engine, "docs", json!({"upsert_rows": rows, "schema": schema})).await.unwrap();
    if is_in_segment {
        engine.checkpoint(&name("docs")).await.unwrap();
    }
    engine
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_ends_within_a_text() {
    for is_in_segment in [false, true] {
        let node = Node::new(91);
        let engine = open(&node, is_in_segment).await;
        let view = engine.view(&name("docs")).unwrap();
        for filter in filters() {
            for body in [
                json!({"filters": filter, "rank_by": ["id", "asc"], "limit": 1}),
                json!({"rank_by": ["Sum", [filter, ["Product", 2, filter]]], "limit": 1}),
            ] {
                let request = parse_query(body).unwrap().request;
                let looks = AtomicU64::new(0);
                let end = move || (looks.fetch_add(1, Ordering::Relaxed) >= LOOKS).then_some(End::TimeIsUp);
                let error = query::run(&view, &request, &Allowance::new(u64::MAX, end)).unwrap_err();
                assert_eq!(error.code(), "query_timeout", "{filter}");
                assert!(query::run(&view, &request, &Allowance::unlimited()).is_ok(), "{filter}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_is_refused_as_a_whole_when_its_filters_take_too_long() {
    for is_in_segment in [false, true] {
        let node = Node::new(92);
        let engine = open(&node, is_in_segment).await;
        let before = (all(&engine, "docs"), engine.etag(&name("docs")).unwrap());
        for filter in filters() {
            let has_new = json!({"id": 2, "text": "new"});
            for body in [
                json!({"patch_by_filter": {"filters": filter, "patch": {"n": 2}}, "upsert_rows": [has_new]}),
                json!({"delete_by_filter": filter, "upsert_rows": [has_new]}),
                json!({"upsert_condition": filter, "upsert_rows": [has_new, {"id": 1, "n": 2}]}),
                json!({"patch_condition": filter, "patch_rows": [{"id": 1, "n": 2}], "upsert_rows": [has_new]}),
                json!({"delete_condition": ["Not", filter], "deletes": [1], "upsert_rows": [has_new]}),
            ] {
                let error = write(&engine, "docs", body).await.unwrap_err();
                assert_eq!(error.code(), "query_timeout", "{filter}");
                assert!(error.to_string().contains("nothing is written"), "{error}");
                assert!((all(&engine, "docs"), engine.etag(&name("docs")).unwrap()) == before, "{filter}");
            }
        }
        // What has enough time goes on.
        let patch = json!({"patch_by_filter": {"filters": ["n", "Eq", 1], "patch": {"n": 2}}});
        assert_eq!(write(&engine, "docs", patch).await.unwrap().patched, 1);
    }
}
