//! Segments that were made apart from the bucket go there as they are, also when it moved on meanwhile.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::json;
use shoal::engine::Engine;
use shoal::model::ids::DocId;

use crate::fleet::{bucket, fresh, meet, sync};
use crate::node::{Node, all, branch, name, put, write};

/// Keys of the segments that a namespace's newest state names.
async fn segments(engine: &Arc<Engine>, namespace: &str) -> BTreeSet<String> {
    let newest = engine.newest(&name(namespace)).await.unwrap();
    newest.segments.into_iter().map(|segment| segment.key).collect()
}

async fn flush(engine: &Arc<Engine>, namespace: &str) {
    engine.checkpoint(&name(namespace)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_stay_as_they_are_after_the_bucket_moved_on_but_for_rows_that_lost() {
    let (bucket, node, other) = (bucket(1), Node::new(1), Node::new(2));
    let (engine, there) = (node.open(), other.open());
    put(&engine, "docs", 0..200, 0).await;
    meet(&[(&node, &engine), (&other, &there)], &bucket).await;
    let common = segments(&engine, "docs").await;
    put(&engine, "docs", 10..30, 1).await;
    write(&engine, "docs", json!({"deletes": [0, 1, 10]})).await;
    flush(&engine, "docs").await;
    put(&engine, "docs", (30..35).chain(300..320), 2).await;
    write(&engine, "docs", json!({"deletes": [2, 29]})).await;
    flush(&engine, "docs").await;
    let made = &segments(&engine, "docs").await - &common;
    assert_eq!(made.len(), 2);
    // Newer there: a document that was changed here, one that was deleted here, and deletions of both kinds.
    other.clock.advance(1_000);
    put(&there, "docs", [11, 1, 400], 3).await;
    write(&there, "docs", json!({"deletes": [12, 2, 30]})).await;
    sync(&other, &there, &bucket).await.unwrap();
    sync(&node, &engine, &bucket).await.unwrap();
    assert!(segments(&engine, "docs").await.is_superset(&made), "rows were written anew");
    meet(&[(&node, &engine), (&other, &there)], &bucket).await;
    let found = all(&engine, "docs");
    assert_eq!(all(&there, "docs"), found);
    assert_eq!(fresh(9, &bucket, "docs").await, found);
    let n = |id: u64| found.get(&DocId::Uint(id)).map(|fields| fields["n"].as_u64().unwrap());
    for (id, expected) in [(0, None), (1, Some(3)), (2, None), (3, Some(0)), (10, None), (11, Some(3)), (12, None)] {
        assert_eq!(n(id), expected, "document {id}");
    }
    for (id, expected) in [(13, Some(1)), (29, None), (30, None), (31, Some(2)), (35, Some(0)), (319, Some(2))] {
        assert_eq!(n(id), expected, "document {id}");
    }
    assert_eq!((n(400), found.len()), (Some(3), 200 + 20 + 1 - 6));
    // What died is dead for merges of segments, too.
    for engine in [&engine, &there] {
        engine.compact(&name("docs")).await.unwrap();
        assert_eq!(all(engine, "docs"), found);
    }
    let engine = node.cut_power(engine);
    meet(&[(&node, &engine), (&other, &there)], &bucket).await;
    assert_eq!((all(&engine, "docs"), all(&there, "docs")), (found.clone(), found));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_dropped_here_does_not_come_back_with_segments() {
    let (bucket, node, other) = (bucket(2), Node::new(1), Node::new(2));
    let (engine, there) = (node.open(), other.open());
    write(&engine, "docs", json!({"upsert_rows": [{"id": 1, "a": 1, "b": 1}]})).await;
    meet(&[(&node, &engine), (&other, &there)], &bucket).await;
    write(&engine, "docs", json!({"upsert_rows": [{"id": 2, "a": 2, "b": 2}, {"id": 3, "a": 3}]})).await;
    flush(&engine, "docs").await;
    write(&engine, "docs", json!({"schema": {"b": {"drop": true}}})).await;
    write(&there, "docs", json!({"upsert_rows": [{"id": 4, "a": 4, "b": 4}]})).await;
    sync(&other, &there, &bucket).await.unwrap();
    meet(&[(&node, &engine), (&other, &there)], &bucket).await;
    let found = all(&engine, "docs");
    // Nor with what the other wrote before it heard of that.
    assert!(found.len() == 4 && found.values().all(|row| row.get("b").is_none()), "{found:?}");
    assert_eq!((all(&there, "docs"), fresh(9, &bucket, "docs").await), (found.clone(), found));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_branches_need_is_sent_once_though_the_parent_went_over_to_another_state() {
    let (bucket, node, other) = (bucket(3), Node::new(1), Node::new(2));
    let (engine, there) = (node.open(), other.open());
    for from in [0, 100, 200] {
        put(&engine, "docs", from..from + 100, 0).await;
        flush(&engine, "docs").await;
    }
    meet(&[(&node, &engine), (&other, &there)], &bucket).await;
    // What was sent is merged, and branches are made of that.
    engine.compact(&name("docs")).await.unwrap();
    let merged = segments(&engine, "docs").await;
    node.clock.advance(1_000);
    let branches = ["try0", "try1", "try2"];
    for (n, to) in (1..).zip(branches) {
        branch(&engine, "docs", to).await;
        put(&engine, to, [n], n).await;
    }
    put(&there, "docs", [500], 1).await;
    sync(&other, &there, &bucket).await.unwrap();
    sync(&node, &engine, &bucket).await.unwrap();
    for to in branches {
        assert!(segments(&engine, to).await.is_superset(&merged), "{to} sent its own copy");
        assert_eq!(fresh(9, &bucket, to).await, all(&engine, to));
    }
    // The parent needs none of it, and lets go.
    put(&engine, "docs", [501], 1).await;
    engine.compact(&name("docs")).await.unwrap();
    meet(&[(&node, &engine), (&other, &there)], &bucket).await;
    assert!(segments(&there, "docs").await.is_disjoint(&merged));
    assert_eq!(all(&there, "docs"), all(&engine, "docs"));
    for to in branches {
        assert_eq!((all(&there, to), fresh(9, &bucket, to).await), (all(&engine, to), all(&engine, to)));
    }
}
