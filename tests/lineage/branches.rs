//! Branches cost nothing, see nothing of each other, and outlive their parents.

use shoal::api::wire::write::parse_schema;
use shoal::engine::Engine;
use shoal::engine::lineage::BranchRequest;
use shoal::error::Kind;
use shoal::model::as_of::AsOf;

use crate::node::{DAY_MS, HOUR_MS, Node, all, at, branch, name, objects, put, write};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_has_its_parents_documents_and_neither_sees_the_others_writes() {
    let node = Node::new(1);
    let engine = node.open();
    put(&engine, "main", 0..20, 1).await;
    engine.checkpoint(&name("main")).await.unwrap();
    put(&engine, "main", 10..30, 2).await;
    let expected = all(&engine, "main");
    branch(&engine, "main", "try").await;
    assert_eq!(all(&engine, "try"), expected);
    put(&engine, "try", 0..3, 9).await;
    write(&engine, "main", json!({"deletes": [5]})).await;
    let (main, tried) = (all(&engine, "main"), all(&engine, "try"));
    assert_eq!((main.len(), tried.len()), (29, 30));
    for namespace in ["main", "try"] {
        engine.compact(&name(namespace)).await.unwrap();
        assert_eq!((all(&engine, "main"), all(&engine, "try")), (main.clone(), tried.clone()));
    }
    let engine = node.cut_power(engine);
    assert_eq!((all(&engine, "main"), all(&engine, "try")), (main, tried));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_of_a_branch_outlives_its_deleted_parents_and_their_names() {
    for retention_ms in [0, 7 * DAY_MS] {
        let mut node = Node::new(2);
        node.config.retention_ms = retention_ms;
        let mut engine = node.open();
        put(&engine, "main", 0..10, 0).await;
        for depth in 0..50u64 {
            let from = if depth == 0 { "main".to_owned() } else { format!("b{}", depth - 1) };
            branch(&engine, &from, &format!("b{depth}")).await;
            put(&engine, &format!("b{depth}"), [depth, 1_000 + depth], depth).await;
            if depth % 7 == 3 {
                engine.checkpoint(&name(&format!("b{depth}"))).await.unwrap();
            }
        }
        let expected = all(&engine, "b49");
        assert_eq!(expected.len(), 100);
        for depth in 0..49 {
            engine.delete(&name(&format!("b{depth}"))).await.unwrap();
        }
        engine.delete(&name("main")).await.unwrap();
        put(&engine, "main", 0..3, 7).await;
        assert_eq!(all(&engine, "b49"), expected);
        engine = node.cut_power(engine);
        assert_eq!(all(&engine, "b49"), expected);
        engine.compact(&name("b49")).await.unwrap();
        assert_eq!(all(&engine, "b49"), expected);
        assert_eq!(all(&engine, "main").len(), 3);
        let report = engine.check(3).unwrap();
        assert!(report.is_whole(), "{:?}", report.problems);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_last_holder_is_gone_nothing_stays() {
    let mut node = Node::new(3);
    node.config.retention_ms = 0;
    let engine = node.open();
    put(&engine, "main", 0..20, 1).await;
    engine.checkpoint(&name("main")).await.unwrap();
    put(&engine, "main", 10..30, 2).await;
    branch(&engine, "main", "a").await;
    put(&engine, "a", 0..3, 3).await;
    branch(&engine, "a", "b").await;
    engine.compact(&name("main")).await.unwrap();
    engine.compact(&name("b")).await.unwrap();
    for namespace in ["a", "main", "b"] {
        assert!(!objects(&node).is_empty());
        engine.delete(&name(namespace)).await.unwrap();
    }
    assert_eq!(objects(&node), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_branch_with_a_time_to_live_goes_by_itself() {
    let node = Node::new(4);
    let engine = node.open();
    put(&engine, "main", 0..5, 1).await;
    let request = BranchRequest { ttl_ms: Some(2 * HOUR_MS), ..BranchRequest::default() };
    engine.branch(&name("main"), &name("short"), request).await.unwrap();
    node.clock.advance(HOUR_MS);
    engine.tend().await.unwrap();
    assert_eq!(all(&engine, "short").len(), 5);
    let engine = node.cut_power(engine);
    node.clock.advance(HOUR_MS);
    engine.tend().await.unwrap();
    assert_eq!(engine.view(&name("short")).err().map(|error| error.kind()), Some(Kind::NotFound));
    assert_eq!(all(&engine, "main").len(), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_branched_is_refused_and_leaves_nothing() {
    let node = Node::new(5);
    let engine = node.open();
    put(&engine, "main", 0..5, 1).await;
    put(&engine, "other", 0..5, 1).await;
    let code = |from: &str, to: &str| {
        let (engine, from, to) = (engine.clone(), name(from), name(to));
        async move { engine.branch(&from, &to, BranchRequest::default()).await.unwrap_err() }
    };
    assert_eq!(code("main", "main").await.kind(), Kind::Invalid);
    assert_eq!(code("main", "other").await.code(), "exists");
    assert_eq!(code("gone", "x").await.kind(), Kind::NotFound);
    assert!(engine.branches(&name("main")).unwrap().is_empty());
    branch(&engine, "main", "b").await;
    branch(&engine, "main", "a").await;
    branch(&engine, "a", "c").await;
    assert_eq!(engine.branches(&name("main")).unwrap(), ["default/default/a", "default/default/b"]);
}

/// Each branch seals the log that it shares. What it costs is to be the same every time, so the writer clears up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_after_very_many_branches_makes_a_segment_of_their_logs() {
    let node = Node::new(11);
    let mut engine = node.open();
    for round in 0..16 {
        put(&engine, "main", [round], round).await;
        branch(&engine, "main", &format!("b{round}")).await;
    }
    let segments = |engine: &shoal::engine::Engine| {
        let status = engine.status(&name("main")).unwrap();
        status["segments"].as_array().map_or(0, Vec::len)
    };
    assert_eq!(segments(&engine), 0, "no branch begins a flush");
    engine = node.cut_power(engine);
    assert_eq!(segments(&engine), 0);
    put(&engine, "main", [1_000], 0).await;
    while segments(&engine) == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(all(&engine, "main").len(), 17);
    assert_eq!(all(&engine, "b10").len(), 11);
}

/// However the log before the change came to its end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_the_schema_that_no_write_follows_is_in_what_is_branched_copied_and_tagged() {
    for ended_by in ["branch", "tag", "stop", "power cut", "nothing", "parent"] {
        let node = Node::new(13);
        let mut engine = node.open();
        let of = if ended_by == "parent" { "child" } else { "main" };
        write(&engine, "main", json!({"upsert_rows": [{"id": 1, "secret": "x", "n": 1}]})).await;
        match ended_by {
            "branch" => branch(&engine, "main", "before").await,
            "tag" => drop(engine.tag(&name("main"), "before", None).await.unwrap()),
            "stop" => {
                engine.shutdown().await.unwrap();
                drop(engine);
                engine = node.open();
            }
            "power cut" => engine = node.cut_power(engine),
            "parent" => branch(&engine, "main", "child").await,
            _ => {}
        }
        let change = json!({"secret": {"drop": true}, "q": "int"});
        engine.update_schema(&name(of), parse_schema("", change).unwrap()).await.unwrap();
        if ended_by == "parent" {
            // A commit that says nothing of the schema.
            engine.set_labels(&name(of), [("a".to_owned(), "b".to_owned())].into()).await.unwrap();
        }
        let expected = all(&engine, of);
        let columns = |engine: &Engine, of: &str| -> Vec<String> {
            engine.view(&name(of)).unwrap().schema.columns.iter().map(|column| column.name.to_string()).collect()
        };
        let has = columns(&engine, of);
        assert!(!format!("{expected:?}").contains("secret"), "{expected:?}");
        branch(&engine, of, "branch").await;
        engine.copy(&name(of), &name("copy")).await.unwrap();
        engine.tag(&name(of), "after", None).await.unwrap();
        for again in [false, true] {
            for to in ["branch", "copy", of] {
                assert_eq!(
                    (all(&engine, to), columns(&engine, to)),
                    (expected.clone(), has.clone()),
                    "{ended_by} {to}"
                );
            }
            assert_eq!(at(&engine, of, AsOf::Tag("after".to_owned())).unwrap(), expected, "{ended_by}");
            engine = if again { engine } else { node.cut_power(engine) };
        }
        assert!(engine.check(4).unwrap().is_whole());
    }
}
