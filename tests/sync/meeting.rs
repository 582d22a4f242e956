//! Two nodes and a bucket: what one writes the other has, whatever happened in between.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::json;
use shoal::engine::Engine;
use shoal::engine::merge::decide::Policy;
use shoal::model::ids::DocId;
use shoal::store::{Bucket, FORMAT_KEY, Patience};
use shoal::sync::{MISSED_MAX, Sync};

use crate::fleet::{bucket, fresh, lost, meet, options, sync, sync_by};
use crate::node::{DAY_MS, Node, all, branch, name, put, write};
use crate::odd_store::OddStore;

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_writes_a_fresh_one_has_after_one_sync() {
    let (bucket, node) = (bucket(1), Node::new(1));
    let engine = node.open();
    put(&engine, "docs", 0..300, 1).await;
    put(&engine, "other", 0..5, 1).await;
    let status = sync(&node, &engine, &bucket).await.unwrap();
    assert_eq!(status.namespaces.len(), 2);
    assert!(status.error.is_none() && status.namespaces.values().all(|of| of.generation == Some(0)));
    let other = Node::new(2);
    let there = other.open();
    sync(&other, &there, &bucket).await.unwrap();
    assert_eq!(all(&there, "docs"), all(&engine, "docs"));
    assert_eq!(all(&there, "other").len(), 5);
    // It stands on its own: written to, cut off from power, opened again.
    put(&there, "docs", 300..310, 2).await;
    let there = other.cut_power(there);
    assert_eq!(all(&there, "docs").len(), 310);
    sync(&other, &there, &bucket).await.unwrap();
    sync(&node, &engine, &bucket).await.unwrap();
    assert_eq!(all(&engine, "docs"), all(&there, "docs"));
    assert_eq!(fresh(3, &bucket, "docs").await, all(&there, "docs"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sync_without_news_sends_and_commits_nothing() {
    let (bucket, node, other) = (bucket(2), Node::new(1), Node::new(2));
    let (engine, there) = (node.open(), other.open());
    put(&engine, "docs", 0..50, 1).await;
    meet(&[(&node, &engine), (&other, &there)], &bucket).await;
    // Both took something in since.
    put(&engine, "docs", 50..60, 1).await;
    put(&there, "docs", 60..70, 1).await;
    meet(&[(&node, &engine), (&other, &there)], &bucket).await;
    let objects = bucket.list_all("", None, 10_000, &Patience::ASKED).await.unwrap();
    for _ in 0..3 {
        meet(&[(&node, &engine), (&other, &there)], &bucket).await;
    }
    assert_eq!(bucket.list_all("", None, 10_000, &Patience::ASKED).await.unwrap(), objects);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_feed_that_one_node_imports_again_reverts_nothing_that_another_changed() {
    for importer in 0..2 {
        let (bucket, nodes) = (bucket(4), [Node::new(1), Node::new(2), Node::new(3)]);
        let engines = [nodes[0].open(), nodes[1].open(), nodes[2].open()];
        let pairs: Vec<_> = nodes.iter().zip(&engines).collect();
        put(&engines[0], "docs", 0..20, 1).await;
        meet(&pairs, &bucket).await;
        let editor = 1 - importer;
        put(&engines[editor], "docs", 0..5, 2).await;
        write(&engines[editor], "docs", json!({"deletes": [5, 6]})).await;
        // The third one imports it, too, and changes another document.
        nodes[importer].clock.advance(5_000);
        nodes[2].clock.advance(9_000);
        put(&engines[importer], "docs", 0..20, 1).await;
        put(&engines[2], "docs", 0..20, 1).await;
        put(&engines[2], "docs", [7], 3).await;
        meet(&pairs, &bucket).await;
        meet(&pairs, &bucket).await;
        let met = all(&engines[0], "docs");
        let n = |id: u64| met.get(&DocId::Uint(id)).map(|row| row["n"].as_u64().unwrap());
        let expected: Vec<Option<u64>> = (0..20)
            .map(|id| match id {
                0..5 => Some(2),
                5 | 6 => None,
                7 => Some(3),
                _ => Some(1),
            })
            .collect();
        assert_eq!((0..20).map(n).collect::<Vec<_>>(), expected, "node {importer} imports");
        for engine in &engines {
            assert_eq!(all(engine, "docs"), met);
            assert_eq!(lost(engine, "docs"), []);
        }
        assert_eq!(fresh(9, &bucket, "docs").await, met);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_wrote_apart_have_both_after_they_met() {
    let (bucket, node, other) = (bucket(3), Node::new(1), Node::new(2));
    let (engine, there) = (node.open(), other.open());
    put(&engine, "docs", 0..100, 1).await;
    meet(&[(&node, &engine), (&other, &there)], &bucket).await;
    // New, changed and deleted documents on both sides, and one that both change.
    put(&engine, "docs", 100..120, 2).await;
    put(&engine, "docs", 10..20, 2).await;
    write(&engine, "docs", json!({"deletes": [0, 1, 2]})).await;
    put(&there, "docs", 200..230, 3).await;
    put(&there, "docs", 30..40, 3).await;
    write(&there, "docs", json!({"deletes": [3, 4]})).await;
    node.clock.advance(1_000);
    other.clock.advance(5_000);
    put(&engine, "docs", [50], 4).await;
    put(&there, "docs", [50], 5).await;
    meet(&[(&node, &engine), (&other, &there)], &bucket).await;
    let met = all(&engine, "docs");
    assert_eq!(met, all(&there, "docs"));
    assert_eq!(met, fresh(9, &bucket, "docs").await);
    assert_eq!(met.len(), 100 + 20 + 30 - 5);
    let n = |id: u64| met[&shoal::model::ids::DocId::Uint(id)]["n"].clone();
    assert_eq!((n(15), n(35), n(105), n(215), n(60)), (json!(2), json!(3), json!(2), json!(3), json!(1)));
    // The newer clock wins, and what lost is kept on every node.
    assert_eq!(n(50), json!(5));
    for engine in [&engine, &there] {
        let losers = lost(engine, "docs");
        assert_eq!(losers.len(), 1, "{losers:?}");
        assert_eq!(losers[0].fields.as_ref().unwrap()["n"], json!(4));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_decides_nothing_leaves_both_sides_as_they_are_and_says_so() {
    let (bucket, node, other) = (bucket(4), Node::new(1), Node::new(2));
    let (engine, there) = (node.open(), other.open());
    put(&engine, "docs", 0..10, 1).await;
    meet(&[(&node, &engine), (&other, &there)], &bucket).await;
    put(&engine, "docs", [5], 2).await;
    put(&there, "docs", [5], 3).await;
    sync(&node, &engine, &bucket).await.unwrap();
    let before = all(&there, "docs");
    let error = sync_by(&other, &there, &bucket, Policy::Fail).await.unwrap_err();
    assert_eq!(error.code(), "diverged", "{error}");
    assert_eq!(all(&there, "docs"), before);
    sync(&other, &there, &bucket).await.unwrap();
    sync(&node, &engine, &bucket).await.unwrap();
    assert_eq!(all(&engine, "docs"), all(&there, "docs"));
}

#[tokio::test(flavor = "multi_thread")]
async fn branches_travel_with_what_they_share_and_can_be_merged_where_they_arrive() {
    let (bucket, node, other) = (bucket(5), Node::new(1), Node::new(2));
    let (engine, there) = (node.open(), other.open());
    put(&engine, "docs", 0..100, 1).await;
    branch(&engine, "docs", "try").await;
    put(&engine, "try", 100..110, 2).await;
    meet(&[(&node, &engine), (&other, &there)], &bucket).await;
    assert_eq!(all(&there, "try"), all(&engine, "try"));
    let request = shoal::engine::merge::MergeRequest::default();
    let report = there.merge(&name("try"), &name("docs"), request).await.unwrap();
    assert_eq!(report.inserted, 10);
    meet(&[(&node, &engine), (&other, &there)], &bucket).await;
    assert_eq!(all(&engine, "docs").len(), 110);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_month_of_writes_and_merges_of_segments_comes_back_in_one_sync() {
    let (bucket, node, other) = (bucket(6), Node::new(1), Node::new(2));
    let (engine, there) = (node.open(), other.open());
    put(&engine, "docs", 0..200, 1).await;
    meet(&[(&node, &engine), (&other, &there)], &bucket).await;
    for day in 0..30 {
        node.clock.advance(DAY_MS);
        put(&engine, "docs", 200 + 20 * day..220 + 20 * day, day).await;
        put(&engine, "docs", 3 * day..3 * day + 2, day).await;
        engine.checkpoint(&name("docs")).await.unwrap();
        engine.tend().await.unwrap();
    }
    put(&there, "docs", 5_000..5_010, 1).await;
    sync(&other, &there, &bucket).await.unwrap();
    meet(&[(&node, &engine), (&other, &there)], &bucket).await;
    assert_eq!(all(&engine, "docs"), all(&there, "docs"));
    assert_eq!(all(&engine, "docs").len(), 200 + 600 + 10);
    assert_eq!(fresh(7, &bucket, "docs").await, all(&engine, "docs"));
}

/// A node, its bucket, and that of another store.
async fn two_stores() -> (Node, Arc<Engine>, [Bucket; 2]) {
    let (first, second, node, other) = (bucket(7), bucket(8), Node::new(1), Node::new(2));
    let (engine, there) = (node.open(), other.open());
    put(&engine, "docs", 0..10, 1).await;
    put(&there, "docs", 0..10, 1).await;
    sync(&node, &engine, &first).await.unwrap();
    sync(&other, &there, &second).await.unwrap();
    (node, engine, [first, second])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_of_another_store_is_refused_and_nothing_is_sent() {
    let (node, engine, [first, second]) = two_stores().await;
    let before = second.list_all("", None, 10_000, &Patience::ASKED).await.unwrap();
    let error = sync(&node, &engine, &second).await.unwrap_err();
    assert_eq!(error.code(), "other_store", "{error}");
    assert_eq!(second.list_all("", None, 10_000, &Patience::ASKED).await.unwrap(), before);
    // All that is here counts as not sent, until the bucket is the node's own again.
    let unsent = engine.unsent(&name("docs")).await.unwrap();
    assert!(!unsent.is_durable && !unsent.is_nothing && unsent.objects > 0, "{unsent:?}");
    assert!(unsent.common.is_none() && unsent.since_ms.is_some(), "{unsent:?}");
    sync(&node, &engine, &first).await.unwrap();
    assert!(engine.unsent(&name("docs")).await.unwrap().is_durable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_no_pass_can_use_until_a_person_mends_it_is_told_as_misconfigured() {
    let (node, engine, [_, second]) = two_stores().await;
    let body = br#"{"format":99,"store":"00000000-0000-0000-0000-000000000001"}"#;
    let newer =
        [format!("{{\"crc32c\":\"{:08x}\",\"body\":", crc32c::crc32c(body)).as_bytes(), body, b"}\n"].concat();
    let (of_newer, of_damaged) = (bucket(9), bucket(10));
    of_newer.put(FORMAT_KEY, newer.into(), &Patience::ASKED).await.unwrap();
    of_damaged.put(FORMAT_KEY, b"{}".to_vec().into(), &Patience::ASKED).await.unwrap();
    let careless = Arc::new(OddStore::default());
    careless.ignores_conditions.store(true, Ordering::SeqCst);
    for (refused, said) in [
        (second, "is store"),
        (of_newer, "format version 99"),
        (of_damaged, "is not a sealed metadata file"),
        (careless.bucket(&node), "ignores conditions"),
    ] {
        let link = Sync::new(engine.clone(), refused, options(Policy::Lww), node.clock.clone());
        for _ in 0..MISSED_MAX {
            assert!(link.status().warnings().is_empty(), "{said}");
            link.run().await.unwrap_err();
        }
        let warnings = link.status().warnings();
        assert_eq!(warnings.len(), 1, "{said}: {warnings:?}");
        assert_eq!(warnings[0]["code"], "bucket_misconfigured");
        assert!(warnings[0]["message"].as_str().unwrap().contains(said), "{warnings:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nodes_that_sync_at_once_while_writes_go_on_lose_nothing() {
    let bucket = bucket(11);
    let nodes: Vec<Node> = (0..3).map(Node::new).collect();
    let engines: Vec<_> = nodes.iter().map(Node::open).collect();
    put(&engines[0], "docs", 0..10, 0).await;
    sync(&nodes[0], &engines[0], &bucket).await.unwrap();
    for at in [1, 2] {
        sync(&nodes[at], &engines[at], &bucket).await.unwrap();
    }
    let mut working = Vec::new();
    for at in 0..3_u64 {
        let (engine, link) = (engines[at as usize].clone(), bucket.clone());
        let clock = nodes[at as usize].clock.clone();
        working.push(tokio::spawn(async move {
            let writing = async {
                for n in 0..60 {
                    put(&engine, "docs", [1_000 * (at + 1) + n, n % 10], 100 * at + n).await;
                    clock.advance(3);
                    tokio::task::yield_now().await;
                }
            };
            let syncing = async {
                let options = crate::fleet::options(Policy::Lww);
                let link = shoal::sync::Sync::new(engine.clone(), link, options, clock.clone());
                for _ in 0..12 {
                    // Others may be quicker for as long as they like: then it goes on with the next.
                    let _ = link.run().await;
                    tokio::task::yield_now().await;
                }
            };
            tokio::join!(writing, syncing);
        }));
    }
    for task in working {
        task.await.unwrap();
    }
    let all_nodes: Vec<_> = nodes.iter().zip(&engines).collect();
    meet(&all_nodes, &bucket).await;
    let met = all(&engines[0], "docs");
    assert_eq!(met.len(), 10 + 3 * 60);
    for engine in &engines {
        assert_eq!(all(engine, "docs"), met);
        assert!(engine.check(3).unwrap().is_whole(), "{:?}", engine.check(3).unwrap());
    }
    assert_eq!(fresh(20, &bucket, "docs").await, met);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_news_costs_one_request_a_namespace() {
    let (bucket, node) = (bucket(13), Node::new(1));
    let engine = node.open();
    for n in 0..5 {
        put(&engine, &format!("docs{n}"), 0..10, 1).await;
    }
    let link = shoal::sync::Sync::new(
        engine.clone(),
        bucket.clone(),
        crate::fleet::options(Policy::Lww),
        node.clock.clone(),
    );
    link.run().await.unwrap();
    let requests = || bucket.traffic().snapshot().requests.iter().map(|(_, _, count)| count).sum::<u64>();
    let puts = || {
        let requests = bucket.traffic().snapshot().requests;
        let is_put = |kind: &str| !matches!(kind, "get" | "head" | "list" | "delete");
        requests.iter().filter(|(kind, ..)| is_put(kind.name())).map(|(_, _, count)| count).sum::<u64>()
    };
    let unasked = shoal::sync::Selection::default().unasked();
    let before = requests();
    for pass in 1..=5 {
        node.clock.advance(60_000);
        assert!(link.run_for(&unasked).await.failed.is_none());
        assert_eq!(requests() - before, 5 * pass);
    }
    // One write: a segment, a manifest, the hint.
    put(&engine, "docs0", [100], 2).await;
    let before = puts();
    assert!(link.run_for(&unasked).await.failed.is_none());
    assert_eq!(puts() - before, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_hour_of_writes_costs_at_most_three_puts_a_pass() {
    let (bucket, node) = (bucket(14), Node::new(1));
    let engine = node.open();
    put(&engine, "docs", 0..10, 1).await;
    let options = crate::fleet::options(Policy::Lww);
    let link = shoal::sync::Sync::new(engine.clone(), bucket.clone(), options, node.clock.clone());
    link.run().await.unwrap();
    let puts = || {
        let requests = bucket.traffic().snapshot().requests;
        let is_put = |kind: &str| !matches!(kind, "get" | "head" | "list" | "delete");
        requests.iter().filter(|(kind, ..)| is_put(kind.name())).map(|(_, _, count)| count).sum::<u64>()
    };
    let unasked = shoal::sync::Selection::default().unasked();
    let before = puts();
    let mut each = Vec::new();
    for minute in 0..60 {
        let so_far = puts();
        for second in 0..60 {
            node.clock.advance(1_000);
            put(&engine, "docs", [100 + 60 * minute + second], second).await;
        }
        assert!(link.run_for(&unasked).await.failed.is_none());
        each.push(puts() - so_far);
    }
    assert!(puts() - before <= 3 * 60, "{} puts, in each pass {each:?}", puts() - before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_was_replaced_is_noticed_and_one_that_was_emptied_is_filled_again_after_a_restart() {
    let (bucket, node) = (bucket(15), Node::new(1));
    let engine = node.open();
    put(&engine, "docs", 0..10, 1).await;
    let link = || {
        let options = crate::fleet::options(Policy::Lww);
        shoal::sync::Sync::new(engine.clone(), bucket.clone(), options, node.clock.clone())
    };
    let attached = link();
    attached.run().await.unwrap();
    for listed in bucket.list_all("", None, 10_000, &Patience::ASKED).await.unwrap() {
        bucket.delete(&listed.key, &Patience::ASKED).await.unwrap();
    }
    let error = attached.run().await.unwrap_err();
    assert_eq!(error.code(), "bucket_replaced", "{error}");
    assert!(bucket.list_all("", None, 10_000, &Patience::ASKED).await.unwrap().is_empty());
    link().run().await.unwrap();
    assert_eq!(fresh(2, &bucket, "docs").await, all(&engine, "docs"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_of_another_node_that_is_far_ahead_is_told_of() {
    let (bucket, nodes) = (bucket(1), [Node::new(1), Node::new(2)]);
    let engines = [nodes[0].open(), nodes[1].open()];
    let both = [(&nodes[0], &engines[0]), (&nodes[1], &engines[1])];
    put(&engines[0], "docs", 0..5, 1).await;
    meet(&both, &bucket).await;
    for (ahead_ms, is_told) in [(4 * 60_000, false), (63 * 60_000, true)] {
        nodes[0].clock.advance(ahead_ms);
        put(&engines[0], "docs", [1], 2).await;
        sync(&nodes[0], &engines[0], &bucket).await.unwrap();
        let link = Sync::new(engines[1].clone(), bucket.clone(), options(Policy::Lww), nodes[1].clock.clone());
        let notice = link.run().await.unwrap().namespaces[&name("docs")].notice.clone();
        assert_eq!(notice.is_some_and(|notice| notice.contains("67 minutes ahead")), is_told);
    }
}
