//! A crash at any operation of the disk during a merge leaves all of it or nothing, and nothing in its way.

use std::io;

use serde_json::json;
use shoal::engine::merge::MergeRequest;
use shoal::engine::merge::decide::Policy;
use shoal::error::Kind;
use shoal::platform::memory_disk::Fault;

use crate::node::{Documents, Node, all, branch, name, put, write};
use crate::policies::merge;

/// A parent with a tail and a segment, a child with both, a conflict, a deletion.
async fn family(node: &Node) -> std::sync::Arc<shoal::engine::Engine> {
    let engine = node.open();
    put(&engine, "main", 0..30, 1).await;
    engine.checkpoint(&crate::node::name("main")).await.unwrap();
    branch(&engine, "main", "child").await;
    put(&engine, "child", [1, 2, 40], 2).await;
    engine.checkpoint(&crate::node::name("child")).await.unwrap();
    put(&engine, "child", [3, 41], 3).await;
    write(&engine, "child", json!({"deletes": [4]})).await;
    put(&engine, "main", [2, 50], 9).await;
    engine
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_operation_fails_a_merge_is_whole_or_not_there() {
    let clean = Node::new(1);
    let engine = family(&clean).await;
    let before = all(&engine, "main");
    let first = clean.disk.operations();
    merge(&engine, "child", "main", Policy::KeepBoth).await.unwrap();
    let last = clean.disk.operations();
    assert!(last - first > 40, "{} operations", last - first);
    // Ids of documents that are kept beside others differ from run to run: compared by their content.
    let content = |documents: &Documents| {
        let mut rows: Vec<String> = documents.values().map(|row| format!("{row:?}")).collect();
        rows.sort();
        rows
    };
    let (before, after) = (content(&before), content(&all(&engine, "main")));
    assert_ne!(before, after);
    let mut merged = 0;
    for (at, lives_on) in (first..last).flat_map(|at| [(at, false), (at, true)]) {
        let what = format!("operation {}, {}", at - first, if lives_on { "lives on" } else { "dies" });
        let node = Node::new(1);
        let mut engine = family(&node).await;
        let kind = if at.is_multiple_of(2) { io::ErrorKind::Other } else { io::ErrorKind::StorageFull };
        node.disk.set_fault(Some(Fault { at, forever: at % 3 == 0, kind }));
        let done = merge(&engine, "child", "main", Policy::KeepBoth).await;
        if let Err(error) = &done {
            assert!(!matches!(error.kind(), Kind::Corrupt), "{what}: {error}");
        }
        node.disk.set_fault(None);
        if lives_on {
            // The process lives on: what is written now is on top of what a restart finds.
            write(&engine, "main", json!({"patch_rows": [{"id": 3, "n": 70}, {"id": 2, "n": 71}]})).await;
            put(&engine, "main", [60], 60).await;
        }
        let alive = content(&all(&engine, "main"));
        engine = node.cut_power(engine);
        let found = content(&all(&engine, "main"));
        if lives_on {
            assert_eq!(found, alive, "{what}");
            assert!([before.len() + 1, after.len() + 1].contains(&found.len()), "{what}: {found:?}");
        } else {
            assert!(found == before || found == after, "{what}: {found:?}");
            assert!(done.is_err() || found == after, "{what}: reported and gone");
            merged += u32::from(found == after);
            // What a crash left is in nobody's way: again, and the other way.
            let again = merge(&engine, "child", "main", Policy::KeepBoth).await.unwrap();
            assert_eq!(again.commit.is_some(), found == before, "{what}");
            assert_eq!(content(&all(&engine, "main")), after, "{what}");
        }
        merge(&engine, "child", "main", Policy::Ours).await.unwrap();
        merge(&engine, "main", "child", Policy::Theirs).await.unwrap();
        assert_eq!(all(&engine, "main"), all(&engine, "child"), "{what}");
        let report = engine.check(3).unwrap();
        assert!(report.is_whole(), "{what}: {report:?}");
    }
    assert!(merged > 0, "no fault came after the commit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_merges_of_one_pair_at_a_time_both_end_well() {
    let node = Node::new(90);
    let engine = node.open();
    put(&engine, "main", 0..20, 1).await;
    branch(&engine, "main", "b").await;
    for round in 0..40 {
        put(&engine, "b", round..round + 3, round).await;
        let merges = (0..4).map(|_| {
            let engine = engine.clone();
            tokio::spawn(
                async move { engine.merge(&name("b"), &name("main"), MergeRequest::default()).await.map(drop) },
            )
        });
        for merge in merges.collect::<Vec<_>>() {
            merge.await.unwrap().unwrap_or_else(|error| panic!("round {round}: {error}"));
        }
        assert_eq!(all(&engine, "b"), all(&engine, "main"), "round {round}");
    }
    assert!(engine.check(4).unwrap().is_whole());
}
