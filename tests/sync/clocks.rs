//! Clocks that were set: what nobody knows the age of stays in a bucket that does not tell the time.

use std::sync::Arc;
use std::time::Duration;

use shoal::platform::clock::{Clock as _, ManualClock};
use shoal::platform::wall::StoreClock;
use shoal::store::Bucket;
use shoal::sync::CLOCK_DOUBTED;

use crate::fleet::{bucket, directory, sync, worker};
use crate::following::follower;
use crate::node::{DAY_MS, Node, all, name, put};
use crate::reclaiming::{churn, keys, two};
use crate::upkeep::reclaim;

const HOUR_MS: u64 = 3_600_000;
const HOUR: Duration = Duration::from_millis(HOUR_MS);

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_for_its_age_from_a_bucket_by_a_clock_that_jumped() {
    let (bucket, nodes, engines) = two(1).await;
    let (node, engine) = (&nodes[0], &engines[0]);
    churn(node, engine, &bucket, 4).await;
    node.clock.set(1_700_000_000_000 + 40 * DAY_MS);
    let before = keys(&bucket).await;
    for _ in 0..2 {
        let refused = reclaim(node, engine, &bucket, 7 * DAY_MS).await.failed.unwrap();
        assert_eq!(refused.code(), CLOCK_DOUBTED, "{refused}");
        assert!(refused.message().contains("clock jumped") && refused.hint().is_some(), "{refused}");
        assert_eq!(keys(&bucket).await, before);
    }
    put(engine, "docs", [7], 9).await;
    sync(node, engine, &bucket).await.unwrap();
    // What is not kept for its age may go at any time, and the rest once the clock is believed.
    assert!(reclaim(node, engine, &bucket, 0).await.failed.is_none());
    node.clock.advance(DAY_MS + 1);
    assert!(reclaim(node, engine, &bucket, 7 * DAY_MS).await.failed.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_to_live_that_another_node_set_ends_by_the_clock_of_a_bucket_that_tells_the_time() {
    let (bucket, nodes) = (bucket(1), [Node::new(1), Node::new(2)]);
    let engines = [nodes[0].open(), nodes[1].open()];
    let said = |ahead_seconds| Some(StoreClock { ahead_seconds, said: 1 });
    nodes[1].clock.advance(3 * HOUR_MS);
    put(&engines[0], "docs", 0..3, 1).await;
    engines[0].set_ttl(&name("docs"), Some(2 * HOUR_MS)).await.unwrap();
    for at in 0..2 {
        sync(&nodes[at], &engines[at], &bucket).await.unwrap();
    }
    // The second node's clock was three hours ahead from its first start on, which no jump tells.
    for passed in [0, 1, 2 * HOUR_MS - 2] {
        nodes[1].clock.advance(passed);
        engines[1].tend_at(engines[1].believed_time(said(3 * 3_600))).await.unwrap();
        assert_eq!(all(&engines[1], "docs").len(), 3, "after {passed}");
    }
    nodes[1].clock.advance(1);
    engines[1].tend_at(engines[1].believed_time(said(3 * 3_600))).await.unwrap();
    assert!(engines[1].view(&name("docs")).is_err(), "its time is up");
}

/// For how long at most it may be behind, as its namespace and its metric say.
async fn behind(worker: &shoal::sync::Worker) -> Option<u64> {
    let behind = worker.staleness_ms(&name("docs"));
    assert_eq!(worker.figures().await.unwrap().staleness_seconds, behind.map(|ms| ms / 1_000));
    behind
}

#[tokio::test(flavor = "multi_thread")]
async fn for_how_long_a_node_was_cut_off_is_not_told_by_a_clock_that_went_back() {
    let (_dir, config) = directory();
    let (node, mut other) = (Node::new(1), follower(2, &["*/*/docs"]));
    let bucket = Bucket::open(&config, node.clock.clone(), node.random.clone()).unwrap();
    let engine = node.open();
    put(&engine, "docs", 0..3, 1).await;
    sync(&node, &engine, &bucket).await.unwrap();
    let mut there = other.open();
    sync(&other, &there, &bucket).await.unwrap();
    // From here on it meets nobody, and each time it starts anew.
    let mut passed = 5 * HOUR_MS;
    other.clock.advance(passed);
    assert_eq!(behind(&worker(&other, &there, &config, HOUR)).await, Some(passed));
    for back in [HOUR_MS / 60, HOUR_MS, 2 * HOUR_MS, 6 * HOUR_MS, 29 * DAY_MS] {
        other.clock.advance(HOUR_MS);
        passed += HOUR_MS;
        other.clock.set(1_700_000_000_000 + passed - HOUR_MS - back);
        there = other.cut_power(there);
        let cut_off = worker(&other, &there, &config, HOUR);
        assert_eq!(behind(&cut_off).await, None, "{back} ms back");
        assert_eq!(
            cut_off.show_namespace(&name("docs")).await.unwrap()["staleness_seconds"],
            serde_json::Value::Null
        );
        other.clock.set(1_700_000_000_000 + passed);
        there = other.cut_power(there);
        assert_eq!(
            behind(&worker(&other, &there, &config, HOUR)).await,
            Some(passed),
            "{back} ms back, and right again"
        );
    }
    // Nor by one that was never set, nor by one of which nobody knows whether it is right again.
    for set in [60_000, 1_600_000_000_000, 1_700_000_000_000 + passed] {
        other.clock = Arc::new(ManualClock::at(set));
        there = other.cut_power(there);
        assert_eq!(behind(&worker(&other, &there, &config, HOUR)).await, None, "set to {set}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn for_how_long_a_node_is_cut_off_is_told_by_time_that_passed() {
    let (_dir, config) = directory();
    let node = Node::new(1);
    let engine = node.open();
    put(&engine, "docs", 0..3, 1).await;
    let worker = Arc::new(worker(&node, &engine, &config, HOUR));
    let running = tokio::spawn(Arc::clone(&worker).run());
    let pass = worker.answer(worker.ask(None).unwrap()).await.unwrap();
    assert!(pass.failed.is_none(), "{:?}", pass.failed);
    worker.stop();
    running.await.unwrap();
    // The same time of day comes twice.
    let mut passed = 0;
    for (minutes, back) in [(30, 60), (40, 0), (1, 90), (120, 0)] {
        node.clock.advance(minutes * HOUR_MS / 60);
        passed += minutes * HOUR_MS / 60;
        assert_eq!(worker.staleness_ms(&name("docs")), Some(passed));
        node.clock.set(node.clock.now_millis() - back * HOUR_MS / 60);
        assert_eq!(worker.staleness_ms(&name("docs")), Some(passed));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_clock_is_behind_makes_no_state_old_that_it_replaces() {
    let (bucket, nodes, engines) = two(1).await;
    let (behind, right) = (Node::new(3), (&nodes[0], &engines[0]));
    right.0.clock.advance(40 * DAY_MS);
    churn(right.0, right.1, &bucket, 2).await;
    // Since its first start: no jump tells it.
    let engine = behind.open();
    sync(&behind, &engine, &bucket).await.unwrap();
    put(&engine, "docs", [7], 9).await;
    engine.compact(&name("docs")).await.unwrap();
    sync(&behind, &engine, &bucket).await.unwrap();
    let before = keys(&bucket).await;
    let manifests = |keys: &[String]| keys.iter().filter(|key| key.contains("/manifests/")).count();
    assert!(manifests(&before) > 2);
    right.0.clock.advance(1_000);
    let run = reclaim(right.0, right.1, &bucket, 7 * DAY_MS).await;
    assert!(run.failed.is_none(), "{:?}", run.failed);
    // All was replaced on the same day.
    assert_eq!(keys(&bucket).await, before);
    // Whoever comes next by a clock that is right says by when it was.
    put(right.1, "docs", [8], 10).await;
    sync(right.0, right.1, &bucket).await.unwrap();
    right.0.clock.advance(8 * DAY_MS);
    assert!(reclaim(right.0, right.1, &bucket, 7 * DAY_MS).await.failed.is_none());
    assert!(manifests(&keys(&bucket).await) < manifests(&before));
}
