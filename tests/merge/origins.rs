//! Branches that were merged and are gone leave nothing in what a namespace has seen, and who goes on with the origin of one is no
//! other than who has its own.

use std::sync::Arc;

use serde_json::json;
use shoal::engine::Engine;
use shoal::engine::merge::decide::Policy;

use crate::node::{DAY_MS, Node, branch, documents, name, put, write};
use crate::policies::merge;

async fn origins(engine: &Arc<Engine>, namespace: &str) -> usize {
    engine.seen(&name(namespace)).await.unwrap().len()
}

/// A day in which a branch is made, written, merged and deleted, and everything that is due for its age goes.
async fn day(node: &Node, engine: &Arc<Engine>, at: u64) {
    let child = format!("b{at}");
    branch(engine, "main", &child).await;
    put(engine, &child, [at % 20, 100 + at], 2 + at).await;
    let report = merge(engine, &child, "main", Policy::Fail).await.unwrap();
    assert_eq!(
        (report.refused, report.conflicts, report.updated + report.inserted),
        (false, 0, 2),
        "{at}: {report:?}"
    );
    engine.delete(&name(&child)).await.unwrap();
    node.clock.advance(DAY_MS);
    engine.tend().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn branches_that_were_merged_and_are_gone_leave_nothing_in_what_was_seen() {
    let mut node = Node::new(61);
    node.config.retention_ms = 3 * DAY_MS;
    let engine = node.open();
    put(&engine, "main", 0..20, 1).await;
    let mut found = Vec::new();
    for at in 0..60 {
        day(&node, &engine, at).await;
        found.push(origins(&engine, "main").await);
    }
    // Its own, and those of the branches that could be had back.
    assert_eq!(found[10..], [found[10]; 50], "{found:?}");
    assert!(found[10] <= 6, "{found:?}");
    let rows = documents(&engine.view(&name("main")).unwrap());
    assert_eq!(rows.len(), 80);
    assert!(engine.check(3).unwrap().is_whole());

    // After a restart nobody knows which origins are free: one more for each that waited, and then none.
    let engine = node.cut_power(engine);
    let mut again = Vec::new();
    for at in 60..90 {
        day(&node, &engine, at).await;
        again.push(origins(&engine, "main").await);
    }
    assert_eq!(again[10..], [again[10]; 20], "{again:?}");
    assert!(again[10] <= found[10] + 4, "{found:?} {again:?}");
}

/// What was written after the merge nobody has seen: who went on by its origin would have seen it by name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_origin_of_a_branch_that_wrote_on_after_it_was_merged_is_not_used_again() {
    for is_flushed in [false, true] {
        let mut node = Node::new(62);
        node.config.retention_ms = 0;
        let engine = node.open();
        put(&engine, "main", 0..5, 1).await;
        branch(&engine, "main", "old").await;
        put(&engine, "old", [1], 2).await;
        merge(&engine, "old", "main", Policy::Fail).await.unwrap();
        node.clock.advance(1);
        put(&engine, "old", [2], 3).await;
        if is_flushed {
            engine.checkpoint(&name("old")).await.unwrap();
        }
        // It has what the branch wrote last.
        branch(&engine, "old", "heir").await;
        engine.delete(&name("old")).await.unwrap();
        node.clock.advance(1);
        branch(&engine, "main", "new").await;
        assert_eq!(origins(&engine, "new").await, 2);
        put(&engine, "new", [3], 4).await;
        assert_eq!(origins(&engine, "new").await, 3);
        merge(&engine, "new", "main", Policy::Fail).await.unwrap();
        let report = merge(&engine, "heir", "main", Policy::Fail).await.unwrap();
        assert_eq!((report.refused, report.updated), (false, 1), "{report:?}");
        let rows = documents(&engine.view(&name("main")).unwrap());
        let n: Vec<_> = rows.values().map(|row| row["n"].as_u64().unwrap()).collect();
        assert_eq!(n, [1, 2, 3, 4, 1]);
    }
}

/// One of two that lived before sees what the other wrote, by whichever origin, when that is merged, and not before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_branch_takes_what_both_owners_of_an_origin_wrote() {
    let mut node = Node::new(63);
    node.config.retention_ms = 0;
    let engine = node.open();
    put(&engine, "main", 0..5, 1).await;
    branch(&engine, "main", "older").await;
    branch(&engine, "main", "first").await;
    put(&engine, "first", [1], 2).await;
    write(&engine, "first", json!({"deletes": [4]})).await;
    merge(&engine, "first", "main", Policy::Fail).await.unwrap();
    // The older one has the first part of the line, and changes a row of it.
    merge(&engine, "main", "older", Policy::Fail).await.unwrap();
    put(&engine, "older", [1], 9).await;
    engine.delete(&name("first")).await.unwrap();
    node.clock.advance(1);
    branch(&engine, "main", "second").await;
    put(&engine, "second", [2, 4], 3).await;
    assert_eq!(origins(&engine, "second").await, 2, "it goes on by the origin of the first");
    let engine = node.cut_power(engine);
    // A third one, while the second lives, has an origin of its own.
    branch(&engine, "main", "third").await;
    put(&engine, "third", [3], 5).await;
    assert_eq!(origins(&engine, "third").await, 3);
    for (from, updated, inserted) in [("second", 1, 1), ("third", 1, 0)] {
        let report = merge(&engine, from, "older", Policy::Fail).await.unwrap();
        let counts = (report.refused, report.updated, report.inserted, report.conflicts);
        assert_eq!(counts, (false, updated, inserted, 0), "{from}: {report:?}");
    }
    let rows = documents(&engine.view(&name("older")).unwrap());
    let n: Vec<_> = rows.values().map(|row| row["n"].as_u64().unwrap()).collect();
    assert_eq!(n, [1, 9, 3, 5, 3]);
}
