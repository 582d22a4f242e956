//! What a merge makes of changes on one side, and of conflicts under every policy.

use std::sync::Arc;

use serde_json::{Value as Json, json};
use shoal::engine::Engine;
use shoal::engine::merge::decide::Policy;
use shoal::engine::merge::{MergeReport, MergeRequest};
use shoal::error::Result;
use shoal::model::ids::DocId;

use crate::differences::differences;
use crate::node::{DAY_MS, Node, all, branch, name, put, write};

pub async fn merge(engine: &Arc<Engine>, from: &str, into: &str, policy: Policy) -> Result<MergeReport> {
    let request = MergeRequest { policy, ..MergeRequest::default() };
    engine.merge(&name(from), &name(into), request).await
}

async fn merged(engine: &Arc<Engine>, from: &str, into: &str, policy: Policy) -> MergeReport {
    let report = merge(engine, from, into, policy).await.unwrap();
    assert!(!report.refused, "{report:?}");
    report
}

fn counts(report: &MergeReport) -> (u64, u64, u64, u64) {
    (report.inserted, report.updated, report.deleted, report.conflicts)
}

/// A document's attribute; `None` when there is no such document.
fn n(engine: &Engine, namespace: &str, id: u64) -> Option<Json> {
    all(engine, namespace).remove(&DocId::Uint(id)).map(|mut row| row.remove("n").unwrap_or_default())
}

async fn patch(engine: &Arc<Engine>, namespace: &str, row: Json) {
    write(engine, namespace, json!({"patch_rows": [row]})).await;
}

async fn delete(engine: &Arc<Engine>, namespace: &str, id: u64) {
    write(engine, namespace, json!({"deletes": [id]})).await;
}

/// A parent with documents 0 to 9, and a child of it.
async fn family(node: &Node) -> Arc<Engine> {
    let engine = node.open();
    put(&engine, "main", 0..10, 1).await;
    branch(&engine, "main", "child").await;
    engine
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merge_brings_inserts_updates_and_deletions_and_a_second_one_nothing() {
    let node = Node::new(1);
    let mut engine = family(&node).await;
    put(&engine, "child", [3, 20], 2).await;
    delete(&engine, "child", 4).await;
    put(&engine, "main", [30], 3).await;
    let report = merged(&engine, "child", "main", Policy::Fail).await;
    assert_eq!(counts(&report), (1, 1, 1, 0));
    assert!(report.commit.is_some());
    for _ in 0..2 {
        assert_eq!((n(&engine, "main", 3), n(&engine, "main", 20)), (Some(json!(2)), Some(json!(2))));
        assert_eq!((n(&engine, "main", 4), n(&engine, "main", 30)), (None, Some(json!(3))));
        let etag = engine.etag(&name("main")).unwrap();
        let again = merged(&engine, "child", "main", Policy::Fail).await;
        assert_eq!((counts(&again), again.commit), ((0, 0, 0, 0), None));
        assert_eq!(engine.etag(&name("main")).unwrap(), etag);
        engine = node.cut_power(engine);
    }
    // And the other way: afterwards both are the same.
    assert_eq!(counts(&merged(&engine, "main", "child", Policy::Fail).await), (1, 0, 0, 0));
    assert_eq!(differences(&engine, "main", "child").await, []);
    assert_eq!(counts(&merged(&engine, "child", "main", Policy::Fail).await), (0, 0, 0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_merged_is_searched_patched_and_found_after_a_restart() {
    let node = Node::new(2);
    let engine = family(&node).await;
    put(&engine, "child", 5..400, 2).await;
    merged(&engine, "child", "main", Policy::Fail).await;
    patch(&engine, "main", json!({"id": 7, "n": 70})).await;
    put(&engine, "main", [8], 80).await;
    let before = all(&engine, "main");
    let engine = node.cut_power(engine);
    assert_eq!(all(&engine, "main"), before);
    engine.compact(&name("main")).await.unwrap();
    assert_eq!(all(&engine, "main"), before);
    assert_eq!(before.len(), 400);
    assert!(engine.check(3).unwrap().is_whole(), "{:?}", engine.check(3).unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_was_deleted_comes_back_after_further_edits() {
    let node = Node::new(3);
    let engine = family(&node).await;
    put(&engine, "child", [1, 2], 2).await;
    merged(&engine, "child", "main", Policy::Fail).await;
    delete(&engine, "main", 1).await;
    put(&engine, "child", [2], 3).await;
    let report = merged(&engine, "child", "main", Policy::Fail).await;
    assert_eq!(counts(&report), (0, 1, 0, 0));
    assert_eq!((n(&engine, "main", 1), n(&engine, "main", 2)), (None, Some(json!(3))));
    // Edited on the other side after it was deleted here: the policy decides.
    put(&engine, "child", [1], 4).await;
    assert!(merge(&engine, "child", "main", Policy::Fail).await.unwrap().refused);
    assert_eq!(n(&engine, "main", 1), None);
    merged(&engine, "child", "main", Policy::Ours).await;
    assert_eq!(n(&engine, "main", 1), None);
    assert_eq!(counts(&merged(&engine, "child", "main", Policy::Fail).await), (0, 0, 0, 0));
    // What won is above both: the child takes it without a conflict.
    merged(&engine, "main", "child", Policy::Fail).await;
    assert_eq!(n(&engine, "child", 1), None);
}

/// Documents changed on both sides: both updated (the child last, and first), deleted here, deleted there, inserted by both.
async fn conflicts(node: &Node) -> Arc<Engine> {
    let engine = family(node).await;
    put(&engine, "main", [0], 10).await;
    node.clock.advance(1);
    put(&engine, "child", [0, 1], 20).await;
    node.clock.advance(1);
    put(&engine, "main", [1], 10).await;
    delete(&engine, "main", 2).await;
    put(&engine, "main", [3], 10).await;
    node.clock.advance(1);
    put(&engine, "child", [2], 20).await;
    delete(&engine, "child", 3).await;
    put(&engine, "child", [50], 20).await;
    node.clock.advance(1);
    put(&engine, "main", [50], 10).await;
    // Both deleted it, both made the same change: no conflicts.
    for side in ["main", "child"] {
        delete(&engine, side, 4).await;
        put(&engine, side, [5], 7).await;
    }
    engine
}

const CONFLICTS: [u64; 5] = [0, 1, 2, 3, 50];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_policy_conflicts_are_listed_and_nothing_changes() {
    let node = Node::new(4);
    let engine = conflicts(&node).await;
    let before = (all(&engine, "main"), engine.etag(&name("main")).unwrap());
    let report = merge(&engine, "child", "main", Policy::Fail).await.unwrap();
    assert!(report.refused && report.commit.is_none());
    let row = |id: u64, n: u64| json!({"id": id, "n": n, "text": format!("fish {id}")});
    let rows: Vec<_> = report.listed.iter().map(|c| (c.base.clone(), c.ours.clone(), c.theirs.clone())).collect();
    let wanted = [
        (Some(row(0, 1)), Some(row(0, 10)), Some(row(0, 20))),
        (Some(row(1, 1)), Some(row(1, 10)), Some(row(1, 20))),
        (Some(row(2, 1)), None, Some(row(2, 20))),
        (Some(row(3, 1)), Some(row(3, 10)), None),
        (None, Some(row(50, 10)), Some(row(50, 20))),
    ];
    assert_eq!(rows, wanted);
    assert_eq!((all(&engine, "main"), engine.etag(&name("main")).unwrap()), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_policy_ends_conflicts_as_it_says_and_both_sides_come_to_agree() {
    let table = [
        (Policy::Lww, [Some(20), Some(10), Some(20), None, Some(10)]),
        (Policy::Ours, [Some(10), Some(10), None, Some(10), Some(10)]),
        (Policy::Theirs, [Some(20), Some(20), Some(20), None, Some(20)]),
        (Policy::Fields, [Some(20), Some(10), Some(20), Some(10), Some(10)]),
        (Policy::KeepBoth, [Some(20), Some(10), Some(20), Some(10), Some(10)]),
    ];
    for compacted in [false, true] {
        for (policy, expected) in &table {
            let policy = *policy;
            let node = Node::new(5);
            let mut engine = conflicts(&node).await;
            if compacted {
                engine.compact(&name("main")).await.unwrap();
                engine.compact(&name("child")).await.unwrap();
            }
            let request = MergeRequest { policy, dry_run: true, ..MergeRequest::default() };
            let dry = engine.merge(&name("child"), &name("main"), request).await.unwrap();
            let report = merged(&engine, "child", "main", policy).await;
            assert_eq!((counts(&dry), &dry.resolutions), (counts(&report), &report.resolutions), "{policy}");
            assert_eq!(report.conflicts, 5, "{policy}");
            for _ in 0..2 {
                let found = CONFLICTS.map(|id| n(&engine, "main", id));
                assert_eq!(found, expected.map(|n: Option<u64>| n.map(|n| json!(n))), "{policy}");
                engine = node.cut_power(engine);
            }
            let kept: Vec<_> = report.listed.iter().filter_map(|conflict| conflict.kept_as.clone()).collect();
            let tokens = report.listed.iter().filter(|conflict| conflict.token.is_some()).count();
            if policy == Policy::KeepBoth {
                let losers: Vec<_> = kept.iter().map(|id| all(&engine, "main")[id]["n"].clone()).collect();
                assert_eq!((losers, tokens), (vec![json!(10), json!(20), json!(20)], 2));
            } else {
                assert_eq!((kept.len(), tokens), (0, 5), "{policy}");
            }
            assert_eq!(counts(&merged(&engine, "child", "main", Policy::Fail).await), (0, 0, 0, 0));
            merged(&engine, "main", "child", Policy::Fail).await;
            assert_eq!(differences(&engine, "main", "child").await, [], "{policy}");
            assert!(engine.check(3).unwrap().is_whole(), "{:?}", engine.check(3).unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_keep_what_each_side_changed_of_one_document() {
    let node = Node::new(6);
    let engine = node.open();
    let schema = json!({
        "text": {"type": "string", "full_text_search": true},
        "vector": {"type": "[2]f32", "ann": true, "derived_from": "text"},
    });
    let row = json!({"id": 1, "text": "old", "vector": [1.0, 0.0], "a": 1, "b": 1});
    let rows = json!([row, {"id": 2, "text": "old", "vector": [1.0, 0.0], "a": 1, "b": 1}]);
    write(&engine, "main", json!({"upsert_rows": rows, "schema": schema, "distance_metric": "cosine_distance"}))
        .await;
    branch(&engine, "main", "child").await;
    // Ours: the text with its vector, and b. Theirs, later: the vector alone, and a.
    write(&engine, "main", json!({"upsert_rows": [{"id": 1, "text": "new", "vector": [0.0, 1.0], "a": 1, "b": 2}]}))
        .await;
    patch(&engine, "main", json!({"id": 2, "b": 2})).await;
    node.clock.advance(1);
    let theirs = json!({"id": 1, "text": "old", "vector": [0.5, 0.5], "a": 3, "b": 1});
    write(&engine, "child", json!({"upsert_rows": [theirs]})).await;
    patch(&engine, "child", json!({"id": 2, "a": 3, "b": 4})).await;
    let report = merged(&engine, "child", "main", Policy::Fields).await;
    let found = all(&engine, "main");
    let one = &found[&DocId::Uint(1)];
    assert_eq!((&one["text"], &one["vector"]), (&json!("new"), &json!([0.0, 1.0])));
    assert_eq!((&one["a"], &one["b"]), (&json!(3), &json!(2)));
    let two = &found[&DocId::Uint(2)];
    assert_eq!((&two["a"], &two["b"], &two["text"]), (&json!(3), &json!(4), &json!("old")));
    // Only the second has lost anything.
    let tokens: Vec<bool> = report.listed.iter().map(|conflict| conflict.token.is_some()).collect();
    assert_eq!(tokens, [false, true]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patches_are_joined_without_a_base() {
    let mut node = Node::new(7);
    node.config.retention_ms = 0;
    let engine = node.open();
    write(&engine, "main", json!({"upsert_rows": [{"id": 1, "a": 1, "b": 1}]})).await;
    // A copy has no lineage, so nobody keeps the state that both began with, once it is past.
    engine.copy(&name("main"), &name("copy")).await.unwrap();
    patch(&engine, "main", json!({"id": 1, "a": 2})).await;
    patch(&engine, "copy", json!({"id": 1, "b": 2})).await;
    for namespace in ["main", "copy"] {
        engine.checkpoint(&name(namespace)).await.unwrap();
    }
    let report = merged(&engine, "copy", "main", Policy::Fields).await;
    assert_eq!((report.conflicts, report.listed[0].token, &report.listed[0].base), (1, None, &None));
    let found = all(&engine, "main").remove(&DocId::Uint(1)).unwrap();
    assert_eq!((&found["a"], &found["b"]), (&json!(2), &json!(2)));
    // The second time there is a base: their state at the first merge.
    patch(&engine, "main", json!({"id": 1, "a": 3})).await;
    merged(&engine, "main", "copy", Policy::Fail).await;
    patch(&engine, "main", json!({"id": 1, "a": 4})).await;
    patch(&engine, "copy", json!({"id": 1, "b": 5})).await;
    let report = merge(&engine, "copy", "main", Policy::Fail).await.unwrap();
    assert_eq!(report.listed[0].base, Some(json!({"id": 1, "a": 3, "b": 2})));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn siblings_and_grandchildren_merge_after_what_was_between_them_is_gone() {
    let node = Node::new(8);
    let engine = family(&node).await;
    branch(&engine, "child", "grandchild").await;
    branch(&engine, "main", "sibling").await;
    put(&engine, "child", [1], 2).await;
    put(&engine, "grandchild", [2], 3).await;
    put(&engine, "sibling", [2, 3], 4).await;
    engine.delete(&name("child")).await.unwrap();
    assert_eq!(counts(&merged(&engine, "grandchild", "main", Policy::Fail).await), (0, 1, 0, 0));
    assert_eq!((n(&engine, "main", 1), n(&engine, "main", 2)), (Some(json!(1)), Some(json!(3))));
    let report = merge(&engine, "grandchild", "sibling", Policy::Fail).await.unwrap();
    assert_eq!((report.conflicts, report.refused), (1, true));
    assert_eq!(report.listed[0].base.as_ref().unwrap()["n"], json!(1));
    engine.delete(&name("main")).await.unwrap();
    assert_eq!(counts(&merged(&engine, "grandchild", "sibling", Policy::Theirs).await), (0, 1, 0, 1));
    assert_eq!((n(&engine, "sibling", 2), n(&engine, "sibling", 3)), (Some(json!(3)), Some(json!(4))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_is_forgotten_is_a_conflict_with_an_edit_and_none_with_an_insert() {
    let node = Node::new(9);
    let engine = node.open();
    put(&engine, "main", 0..10, 1).await;
    engine.copy(&name("main"), &name("copy")).await.unwrap();
    merged(&engine, "copy", "main", Policy::Fail).await;
    put(&engine, "copy", [0], 1).await;
    merged(&engine, "copy", "main", Policy::Fail).await;
    delete(&engine, "main", 1).await;
    delete(&engine, "main", 2).await;
    engine.checkpoint(&name("main")).await.unwrap();
    node.clock.advance(40 * DAY_MS);
    put(&engine, "main", [3], 5).await;
    engine.compact(&name("main")).await.unwrap();
    put(&engine, "copy", [1, 77], 2).await;
    let report = merge(&engine, "copy", "main", Policy::Fail).await.unwrap();
    assert_eq!((report.conflicts, report.inserted), (1, 1), "{report:?}");
    assert_eq!(report.listed[0].id, DocId::Uint(1));
    merged(&engine, "copy", "main", Policy::Ours).await;
    assert_eq!((n(&engine, "main", 1), n(&engine, "main", 77)), (None, Some(json!(2))));
    // The other way round the forgotten deletions are taken.
    assert_eq!(merged(&engine, "main", "copy", Policy::Fail).await.deleted, 2);
    assert_eq!(differences(&engine, "main", "copy").await, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_side_dropped_does_not_come_back_with_rows() {
    let node = Node::new(10);
    let engine = node.open();
    write(&engine, "main", json!({"upsert_rows": [{"id": 1, "a": 1, "b": 1}, {"id": 2, "a": 1, "b": 1}]})).await;
    branch(&engine, "main", "child").await;
    write(&engine, "child", json!({"schema": {"b": {"drop": true}}})).await;
    write(&engine, "child", json!({"upsert_rows": [{"id": 3, "c": "new"}], "patch_rows": [{"id": 1, "a": 2}]})).await;
    for checkpoint in [false, true] {
        if checkpoint {
            engine.checkpoint(&name("child")).await.unwrap();
        }
        let into = format!("into{checkpoint}");
        branch(&engine, "main", &into).await;
        merged(&engine, "child", &into, Policy::Fail).await;
        let found = all(&engine, &into);
        assert_eq!(found[&DocId::Uint(1)].get("b"), None);
        assert_eq!(found[&DocId::Uint(2)]["b"], json!(1));
        assert_eq!(found[&DocId::Uint(3)]["c"], json!("new"));
    }
    // Dropped here: it stays so, and is said.
    let report = merged(&engine, "main", "child", Policy::Fail).await;
    assert_eq!(report.left_out, ["b"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_merged_is_refused_and_nothing_changes() {
    let node = Node::new(11);
    let engine = family(&node).await;
    put(&engine, "other", 0..3, 9).await;
    write(&engine, "words", json!({"upsert_rows": [{"id": "a", "n": 1}]})).await;
    write(&engine, "texts", json!({"upsert_rows": [{"id": 1, "n": "one"}]})).await;
    for (namespace, vector, metric) in [
        ("short", json!([1.0, 2.0]), "cosine_distance"),
        ("long", json!([1.0, 2.0, 3.0]), "cosine_distance"),
        ("squared", json!([1.0, 2.0]), "euclidean_squared"),
    ] {
        let rows = json!([{"id": 1, "vector": vector}]);
        write(&engine, namespace, json!({"upsert_rows": rows, "distance_metric": metric})).await;
    }
    let before = all(&engine, "main");
    let error = |policy, allow_unrelated, from: &'static str, into: &'static str| {
        let engine = engine.clone();
        async move {
            let request = MergeRequest { policy, allow_unrelated, ..MergeRequest::default() };
            engine.merge(&name(from), &name(into), request).await.unwrap_err()
        }
    };
    assert!(error(Policy::Fail, false, "main", "main").await.message().contains("into itself"));
    assert_eq!(error(Policy::Lww, false, "other", "main").await.code(), "unrelated");
    assert_eq!(error(Policy::Fail, true, "other", "main").await.code(), "unrelated");
    assert_eq!(error(Policy::Fields, true, "other", "main").await.code(), "unrelated");
    assert_eq!(error(Policy::Lww, true, "words", "main").await.attribute(), Some("id"));
    assert_eq!(error(Policy::Lww, true, "texts", "main").await.attribute(), Some("n"));
    assert_eq!(error(Policy::Lww, true, "short", "long").await.attribute(), Some("vector"));
    assert!(error(Policy::Lww, true, "squared", "short").await.message().contains("euclidean_squared"));
    assert_eq!(error(Policy::Lww, true, "nobody", "main").await.kind(), shoal::error::Kind::NotFound);
    put(&engine, "child", [1], 5).await;
    engine.update_metadata(&name("main"), Some(true), None).await.unwrap();
    assert!(error(Policy::Lww, false, "child", "main").await.message().contains("read-only"));
    engine.update_metadata(&name("main"), Some(false), None).await.unwrap();
    assert_eq!(all(&engine, "main"), before);
    let request = MergeRequest { policy: Policy::Theirs, allow_unrelated: true, ..MergeRequest::default() };
    let report = engine.merge(&name("other"), &name("main"), request).await.unwrap();
    assert_eq!(counts(&report), (0, 3, 0, 3));
    assert_eq!(n(&engine, "main", 2), Some(json!(9)));
}

/// Base, then an edit on both sides: what becomes of a document depends on what was changed, not on what was written.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_is_written_again_as_it_was_is_no_change() {
    for policy in Policy::ALL {
        for child_is_later in [false, true] {
            let node = Node::new(22);
            let engine = family(&node).await;
            // The child imports all of it again; only 5 is new in it. The parent changed 1, deleted 2, and wrote 3 as it was.
            let import = async || {
                put(&engine, "child", (0..10).filter(|id| *id != 5), 1).await;
                put(&engine, "child", [5], 7).await;
            };
            if !child_is_later {
                import().await;
                node.clock.advance(1);
            }
            put(&engine, "main", [1], 6).await;
            delete(&engine, "main", 2).await;
            put(&engine, "main", [3, 5], 1).await;
            if child_is_later {
                node.clock.advance(1);
                import().await;
            }
            let what = format!("{policy}, the child is later: {child_is_later}");
            let report = merged(&engine, "child", "main", policy).await;
            assert_eq!(counts(&report), (0, 1, 0, 0), "{what}: {report:?}");
            let found = [1, 2, 3, 5].map(|id| n(&engine, "main", id));
            assert_eq!(found, [Some(json!(6)), None, Some(json!(1)), Some(json!(7))], "{what}");
            // The other way the child takes what the parent did, and nothing is left to say.
            merged(&engine, "main", "child", policy).await;
            assert_eq!(differences(&engine, "main", "child").await, [], "{what}");
            let again = merged(&engine, "child", "main", Policy::Fail).await;
            assert_eq!((counts(&again), again.conflicts), ((0, 0, 0, 0), 0), "{what}");
            assert!(engine.check(3).unwrap().is_whole(), "{what}: {:?}", engine.check(3).unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_that_was_undone_is_no_edit() {
    let node = Node::new(23);
    let engine = family(&node).await;
    put(&engine, "main", [1, 2], 5).await;
    put(&engine, "main", [60], 5).await;
    delete(&engine, "main", 60).await;
    node.clock.advance(1);
    // There and back, deleted and written again; and an insert that was taken back on the other side, whose deletion is heard.
    put(&engine, "child", [1], 9).await;
    put(&engine, "child", [1], 1).await;
    delete(&engine, "child", 2).await;
    put(&engine, "child", [2], 1).await;
    put(&engine, "child", [60], 9).await;
    let report = merged(&engine, "child", "main", Policy::Lww).await;
    assert_eq!((counts(&report), report.conflicts), ((1, 0, 0, 1), 1), "{report:?}");
    assert_eq!([1, 2, 60].map(|id| n(&engine, "main", id)), [Some(json!(5)), Some(json!(5)), Some(json!(9))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_after_both_made_the_same_change_is_taken() {
    for parent_is_later in [false, true] {
        let node = Node::new(24);
        let engine = family(&node).await;
        let sides = if parent_is_later { ["child", "main"] } else { ["main", "child"] };
        for side in sides {
            put(&engine, side, [1], 2).await;
            node.clock.advance(1);
        }
        merged(&engine, "child", "main", Policy::Fail).await;
        put(&engine, "child", [1], 3).await;
        let report = merge(&engine, "child", "main", Policy::Fail).await.unwrap();
        assert_eq!((report.refused, counts(&report)), (false, (0, 1, 0, 0)), "{parent_is_later}: {report:?}");
        assert_eq!(n(&engine, "main", 1), Some(json!(3)));
    }
}

/// A row that is older than a tombstone beside it goes when segments are merged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_both_made_alike_outlives_a_deletion_that_one_of_them_had_seen() {
    let node = Node::new(27);
    let engine = family(&node).await;
    branch(&engine, "main", "third").await;
    put(&engine, "main", [1], 2).await;
    node.clock.advance(1);
    delete(&engine, "third", 1).await;
    node.clock.advance(1);
    merged(&engine, "third", "child", Policy::Fail).await;
    put(&engine, "child", [1], 2).await;
    let report = merged(&engine, "child", "main", Policy::Fail).await;
    assert_eq!((counts(&report), report.skipped), ((0, 0, 0, 0), 1), "{report:?}");
    merged(&engine, "main", "third", Policy::Fail).await;
    for namespace in ["main", "child", "third"] {
        assert_eq!(n(&engine, namespace, 1), Some(json!(2)), "{namespace}");
        engine.compact(&name(namespace)).await.unwrap();
        assert_eq!(n(&engine, namespace, 1), Some(json!(2)), "{namespace}, compacted");
    }
}

/// What was decided with the help of a base prevails over who decided by versions alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_knows_what_both_began_with_and_who_does_not_come_to_agree() {
    let node = Node::new(25);
    let engine = family(&node).await;
    put(&engine, "main", [1], 5).await;
    node.clock.advance(1);
    put(&engine, "child", [1], 1).await;
    // Copies know of no state that they had in common: the last write wins there.
    engine.copy(&name("main"), &name("copy")).await.unwrap();
    engine.copy(&name("child"), &name("children")).await.unwrap();
    merged(&engine, "children", "copy", Policy::Lww).await;
    merged(&engine, "child", "main", Policy::Lww).await;
    assert_eq!((n(&engine, "main", 1), n(&engine, "copy", 1)), (Some(json!(5)), Some(json!(1))));
    merged(&engine, "main", "copy", Policy::Fail).await;
    merged(&engine, "copy", "main", Policy::Fail).await;
    assert_eq!((n(&engine, "main", 1), n(&engine, "copy", 1)), (Some(json!(5)), Some(json!(5))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fields_or_fail_joins_what_is_disjoint_and_refuses_what_clashes() {
    let node = Node::new(26);
    let engine = node.open();
    let rows: Vec<Json> = (1..6).map(|id| json!({"id": id, "a": 1, "b": 1})).collect();
    write(&engine, "main", json!({ "upsert_rows": rows })).await;
    branch(&engine, "main", "child").await;
    patch(&engine, "main", json!({"id": 1, "a": 2})).await;
    patch(&engine, "child", json!({"id": 1, "b": 3})).await;
    patch(&engine, "main", json!({"id": 2, "a": 2})).await;
    patch(&engine, "child", json!({"id": 2, "a": 3, "b": 3})).await;
    delete(&engine, "main", 3).await;
    patch(&engine, "child", json!({"id": 3, "b": 3})).await;
    let before = all(&engine, "main");
    for dry_run in [true, false] {
        let request = MergeRequest { policy: Policy::FieldsOrFail, dry_run, ..MergeRequest::default() };
        let report = engine.merge(&name("child"), &name("main"), request).await.unwrap();
        assert!(report.refused && report.commit.is_none(), "{report:?}");
        assert_eq!((report.conflicts, report.disjoint, report.clashing), (3, 1, 2));
        assert_eq!(report.clashes, [("a".to_owned(), 1)].into());
    }
    assert_eq!(all(&engine, "main"), before);
    patch(&engine, "main", json!({"id": 2, "a": 1})).await;
    delete(&engine, "child", 3).await;
    let report = merged(&engine, "child", "main", Policy::FieldsOrFail).await;
    assert_eq!((report.conflicts, report.disjoint, report.clashing), (1, 1, 0), "{report:?}");
    let found = all(&engine, "main");
    let row = |id: u64| ["a", "b"].map(|name| found[&DocId::Uint(id)][name].as_u64().unwrap());
    assert_eq!((row(1), row(2)), ([2, 3], [3, 3]));
    // Without a state that both had, nobody knows what was taken away.
    engine.copy(&name("main"), &name("copied")).await.unwrap();
    write(&engine, "main", json!({"upsert_rows": [{"id": 1, "a": 2}]})).await;
    write(&engine, "copied", json!({"upsert_rows": [{"id": 1, "a": 2, "b": 4}]})).await;
    let report = merge(&engine, "copied", "main", Policy::FieldsOrFail).await.unwrap();
    assert_eq!((report.refused, report.clashes), (true, [("b".to_owned(), 1)].into()));
}

/// A copy has no lineage that says what its relatives have seen; only deletions that were really forgotten count against it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_new_is_taken_by_a_copy_that_was_merged_into_one_segment_and_forgot_nothing() {
    for days in [1, 31] {
        let node = Node::new(21);
        let engine = node.open();
        put(&engine, "main", 0..5, 1).await;
        branch(&engine, "main", "child").await;
        put(&engine, "child", 4..8, 2).await;
        engine.copy(&name("child"), &name("copy")).await.unwrap();
        write(&engine, "copy", json!({"deletes": [3]})).await;
        engine.checkpoint(&name("copy")).await.unwrap();
        node.clock.advance(days * DAY_MS);
        put(&engine, "copy", 6..9, 3).await;
        engine.checkpoint(&name("copy")).await.unwrap();
        engine.compact(&name("copy")).await.unwrap();
        put(&engine, "main", 100..103, 4).await;
        let report = merge(&engine, "main", "copy", Policy::Fail).await.unwrap();
        // Tombstones are kept for 30 days; then nobody knows whether these were deleted.
        let expected = if days < 30 { ((3, 0, 0, 0), false) } else { ((0, 0, 0, 3), true) };
        assert_eq!((counts(&report), report.refused), expected, "{days} days: {report:?}");
    }
}

/// Nobody knows whether it was deleted on the side that has no such row: the policies that choose a side do not choose that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_may_be_new_is_kept_by_every_policy_that_decides() {
    for policy in Policy::ALL {
        for into_who_forgot in [false, true] {
            let mut node = Node::new(24);
            node.config.retention_ms = 0;
            let engine = node.open();
            put(&engine, "main", 0..5, 1).await;
            engine.copy(&name("main"), &name("copy")).await.unwrap();
            delete(&engine, "copy", 3).await;
            engine.checkpoint(&name("copy")).await.unwrap();
            node.clock.advance(31 * DAY_MS);
            put(&engine, "copy", [4], 3).await;
            engine.checkpoint(&name("copy")).await.unwrap();
            engine.compact(&name("copy")).await.unwrap();
            put(&engine, "main", 100..103, 4).await;
            engine.checkpoint(&name("main")).await.unwrap();
            let (from, into) = if into_who_forgot { ("main", "copy") } else { ("copy", "main") };
            let report = merge(&engine, from, into, policy).await.unwrap();
            let what = format!("{policy} into {into}: {report:?}");
            let refuses = matches!(policy, Policy::Fail | Policy::FieldsOrFail);
            assert_eq!((report.conflicts, report.refused), (3, refuses), "{what}");
            if !refuses {
                // What the copy had seen and deleted is gone all the same.
                let found = [3, 100, 101, 102].map(|id| n(&engine, into, id));
                assert_eq!(found, [None, Some(json!(4)), Some(json!(4)), Some(json!(4))], "{what}");
                merged(&engine, into, from, Policy::Fail).await;
                assert_eq!(differences(&engine, into, from).await, [], "{what}");
            }
        }
    }
}

/// Relatives keep deletions that were made since the first of them was branched off. One that comes from elsewhere may be older.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strangers_deletion_that_is_older_than_a_branch_is_not_lost_with_its_tombstone() {
    let node = Node::new(25);
    let engine = node.open();
    put(&engine, "main", 0..5, 1).await;
    engine.copy(&name("main"), &name("copy")).await.unwrap();
    node.clock.advance(1_000);
    delete(&engine, "copy", 3).await;
    node.clock.advance(1_000);
    put(&engine, "main", [2], 1).await;
    branch(&engine, "main", "child").await;
    assert_eq!(merged(&engine, "copy", "main", Policy::Fail).await.deleted, 1);
    node.clock.advance(40 * DAY_MS);
    put(&engine, "main", [4], 2).await;
    engine.checkpoint(&name("main")).await.unwrap();
    engine.compact(&name("main")).await.unwrap();
    put(&engine, "child", [3, 77], 5).await;
    let report = merge(&engine, "child", "main", Policy::Fail).await.unwrap();
    assert_eq!((report.conflicts, report.inserted, report.refused), (1, 1, true), "{report:?}");
    assert_eq!(report.listed[0].id, DocId::Uint(3));
    // Nor where the child did not touch it.
    put(&engine, "child", [3], 1).await;
    let report = merged(&engine, "main", "child", Policy::Fail).await;
    assert_eq!((report.deleted, n(&engine, "child", 3)), (1, None), "{report:?}");
}
