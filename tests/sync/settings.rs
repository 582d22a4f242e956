//! What two nodes set of one namespace apart: labels, whether it is read-only, its time to live. Of two that set the same the later one counts.

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal::engine::Engine;
use shoal::store::Bucket;

use crate::fleet::{bucket, fresh, sync};
use crate::node::{DAY_MS, Node, all, name, put};

const MINUTE_MS: u64 = 60_000;

type Settings = (BTreeMap<String, String>, bool, Option<u64>);

fn settings(engine: &Engine) -> Settings {
    let known = engine.status(&name("docs")).unwrap();
    let labels = serde_json::from_value(known["labels"].clone()).unwrap();
    (labels, known["read_only"].as_bool().unwrap(), known["expires_ms"].as_u64())
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

async fn label(engine: &Arc<Engine>, pairs: &[(&str, &str)]) {
    engine.set_labels(&name("docs"), labels(pairs)).await.unwrap();
}

/// Two nodes that have `docs` in common, with these labels.
async fn two(seed: u64, pairs: &[(&str, &str)]) -> (Bucket, [Node; 2], [Arc<Engine>; 2]) {
    let (bucket, nodes) = (bucket(seed), [Node::new(1), Node::new(2)]);
    let engines = [nodes[0].open(), nodes[1].open()];
    put(&engines[0], "docs", 0..5, 1).await;
    label(&engines[0], pairs).await;
    for at in 0..2 {
        sync(&nodes[at], &engines[at], &bucket).await.unwrap();
    }
    (bucket, nodes, engines)
}

/// Syncs in turn, and gives what was said of `docs`.
async fn meet(nodes: &[Node; 2], engines: &[Arc<Engine>; 2], bucket: &Bucket, is_first: bool) -> Vec<String> {
    let mut told = Vec::new();
    for at in if is_first { [1, 0, 1, 0] } else { [0, 1, 0, 1] } {
        let status = sync(&nodes[at], &engines[at], bucket).await.unwrap();
        told.extend(status.namespaces[&name("docs")].notice.clone());
    }
    assert_eq!(settings(&engines[0]), settings(&engines[1]), "{told:?}");
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_were_set_apart_the_later_holds_whoever_wrote_since() {
    for is_first in [true, false] {
        for writer in [None, Some(0), Some(1)] {
            let what = format!("first {is_first}, writer {writer:?}");
            let (bucket, nodes, engines) = two(1, &[("v", "both")]).await;
            if let Some(at) = writer {
                put(&engines[at], "docs", 10..12, 2).await;
            }
            for (at, value, ttl_ms) in [(1, "older", DAY_MS), (0, "newer", 2 * DAY_MS)] {
                nodes.iter().for_each(|node| node.clock.advance(MINUTE_MS));
                label(&engines[at], &[("v", value)]).await;
                engines[at].set_ttl(&name("docs"), Some(ttl_ms)).await.unwrap();
                engines[at].update_metadata(&name("docs"), Some(true), None).await.unwrap();
                if at == 0 {
                    nodes.iter().for_each(|node| node.clock.advance(MINUTE_MS));
                    engines[at].update_metadata(&name("docs"), Some(false), None).await.unwrap();
                }
            }
            let expected = settings(&engines[0]);
            nodes.iter().for_each(|node| node.clock.advance(MINUTE_MS));
            if let Some(at) = writer {
                engines[at].checkpoint(&name("docs")).await.unwrap();
                engines[at].compact(&name("docs")).await.unwrap();
            }
            let told = meet(&nodes, &engines, &bucket, is_first).await;
            assert_eq!(settings(&engines[0]), expected, "{what}");
            let said = told.iter().filter(|told| told.contains("labels, read-only, time to live of")).count();
            assert_eq!(said, 1, "{what}: {told:?}");
            assert_eq!(fresh(9, &bucket, "docs").await, all(&engines[0], "docs"), "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_one_of_them_set_holds_label_by_label() {
    for is_first in [true, false] {
        let (bucket, nodes, engines) = two(2, &[("a", "1"), ("b", "1"), ("c", "1")]).await;
        nodes[0].clock.advance(MINUTE_MS);
        label(&engines[0], &[("a", "2"), ("b", "1"), ("new", "0")]).await;
        nodes[0].clock.advance(MINUTE_MS);
        engines[0].set_ttl(&name("docs"), Some(DAY_MS)).await.unwrap();
        label(&engines[1], &[("a", "1"), ("c", "1"), ("other", "1")]).await;
        engines[1].update_metadata(&name("docs"), Some(true), None).await.unwrap();
        let told = meet(&nodes, &engines, &bucket, is_first).await;
        let expected = labels(&[("a", "2"), ("new", "0"), ("other", "1")]);
        let (found, read_only, expires_ms) = settings(&engines[0]);
        assert_eq!((found, read_only, expires_ms.is_some()), (expected, true, true), "first {is_first}");
        assert_eq!(told, Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_one_and_the_same_time_the_same_one_holds_whoever_synced_first() {
    let mut ends = Vec::new();
    for is_first in [true, false] {
        for (one, two_) in [("x", "y"), ("y", "x")] {
            let (bucket, nodes, engines) = two(3, &[("v", "both")]).await;
            label(&engines[0], &[("v", one)]).await;
            label(&engines[1], &[("v", two_)]).await;
            meet(&nodes, &engines, &bucket, is_first).await;
            ends.push(settings(&engines[0]));
        }
    }
    ends.dedup();
    assert_eq!(ends.len(), 1, "{ends:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_saw_what_was_set_before_sets_it_later_whatever_the_clock_shows() {
    for is_first in [true, false] {
        let (bucket, nodes, engines) = two(4, &[("v", "both")]).await;
        let third = Node::new(3);
        let late = third.open();
        sync(&third, &late, &bucket).await.unwrap();
        nodes[0].clock.advance(90 * MINUTE_MS);
        label(&engines[0], &[("v", "ahead")]).await;
        nodes[1].clock.advance(MINUTE_MS);
        meet(&nodes, &engines, &bucket, true).await;
        // The second node's clock is behind what the first one's was, and so is that of the third, which saw nothing of it.
        label(&engines[1], &[("v", "seen")]).await;
        third.clock.advance(30 * MINUTE_MS);
        label(&late, &[("v", "unseen")]).await;
        if is_first {
            sync(&third, &late, &bucket).await.unwrap();
        }
        meet(&nodes, &engines, &bucket, is_first).await;
        sync(&third, &late, &bucket).await.unwrap();
        meet(&nodes, &engines, &bucket, is_first).await;
        for engine in [&engines[0], &engines[1], &late] {
            assert_eq!(settings(engine).0, labels(&[("v", "seen")]), "first {is_first}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_labels_than_one_namespace_may_have_are_those_of_one_node() {
    for is_first in [true, false] {
        let (bucket, nodes, engines) = two(5, &[]).await;
        for (at, engine) in engines.iter().enumerate() {
            nodes[at].clock.advance(at as u64 * MINUTE_MS);
            let own = (0..40).map(|n| (format!("{at}-{n}"), "1".to_owned())).collect();
            engine.set_labels(&name("docs"), own).await.unwrap();
        }
        meet(&nodes, &engines, &bucket, is_first).await;
        let (found, ..) = settings(&engines[0]);
        assert!(found.len() == 40 && found.keys().all(|name| name.starts_with("1-")), "{is_first}: {found:?}");
    }
}

/// `docs` was to end an hour after the first node said so; the second one sets another time, which the first one hears of after it let the namespace
/// end, and perhaps the bucket, too.
async fn ends_unheard(seed: u64, ttl_ms: Option<u64>, is_sent: bool) -> (Bucket, [Node; 2], [Arc<Engine>; 2]) {
    let (bucket, nodes, engines) = two(seed, &[]).await;
    engines[0].set_ttl(&name("docs"), Some(60 * MINUTE_MS)).await.unwrap();
    for at in [0, 1] {
        sync(&nodes[at], &engines[at], &bucket).await.unwrap();
    }
    nodes.iter().for_each(|node| node.clock.advance(MINUTE_MS));
    engines[1].set_ttl(&name("docs"), ttl_ms).await.unwrap();
    if is_sent {
        sync(&nodes[1], &engines[1], &bucket).await.unwrap();
    }
    nodes.iter().for_each(|node| node.clock.advance(2 * 60 * MINUTE_MS));
    engines[0].tend().await.unwrap();
    assert!(engines[0].status(&name("docs")).is_err(), "the first node knows the first time only");
    (bucket, nodes, engines)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_to_live_that_the_bucket_knows_is_lifted_or_longer_ends_nothing_anywhere() {
    for ttl_ms in [None, Some(30 * DAY_MS)] {
        let (bucket, nodes, engines) = ends_unheard(7, ttl_ms, true).await;
        let expires_ms = settings(&engines[1]).2;
        assert_eq!(expires_ms.is_some(), ttl_ms.is_some());
        meet(&nodes, &engines, &bucket, true).await;
        engines[0].tend().await.unwrap();
        engines[1].tend().await.unwrap();
        meet(&nodes, &engines, &bucket, true).await;
        for engine in &engines {
            assert_eq!((all(engine, "docs").len(), settings(engine).2), (5, expires_ms), "{ttl_ms:?}");
        }
        assert_eq!(fresh(9, &bucket, "docs").await.len(), 5);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_keeps_beside_what_was_set_and_that_nobody_heard_of() {
    let (bucket, nodes, engines) = ends_unheard(8, None, false).await;
    sync(&nodes[0], &engines[0], &bucket).await.unwrap();
    let status = sync(&nodes[1], &engines[1], &bucket).await.unwrap();
    let notice = status.namespaces[&name("docs")].notice.clone().unwrap();
    assert!(notice.contains("written or set here: that is kept as default/default/docs.recovered-"), "{notice}");
    let kept = engines[1].named().into_iter().find(|(name, _)| name.name.to_string().starts_with("docs.recovered-"));
    assert_eq!(all(&engines[1], kept.unwrap().0.name.as_ref()).len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_did_not_know_of_labels_in_the_bucket_does_not_hold() {
    let (bucket, nodes, engines) = two(9, &[("v", "both")]).await;
    label(&engines[1], &[("v", "both"), ("w", "new")]).await;
    sync(&nodes[1], &engines[1], &bucket).await.unwrap();
    engines[0].delete(&name("docs")).await.unwrap();
    meet(&nodes, &engines, &bucket, true).await;
    assert_eq!(settings(&engines[0]).0, labels(&[("v", "both"), ("w", "new")]));
    // Now it is known.
    engines[0].delete(&name("docs")).await.unwrap();
    sync(&nodes[0], &engines[0], &bucket).await.unwrap();
    sync(&nodes[1], &engines[1], &bucket).await.unwrap();
    assert!(engines[1].status(&name("docs")).is_err());
}
