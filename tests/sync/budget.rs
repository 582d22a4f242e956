//! A monthly budget for the link: what nobody asked for stops at it, and what was counted lasts.

use std::sync::Arc;

use object_store::memory::InMemory;
use shoal::engine::Engine;
use shoal::engine::merge::decide::Policy;
use shoal::store::{Backend, Bucket};
use shoal::sync::budget::USED_UP;
use shoal::sync::{Budget, Selection, Sync};

use crate::fleet::options;
use crate::node::{DAY_MS, Node, put};

/// A link of its own to the same bucket, as after a restart, with a budget.
fn link(node: &Node, engine: &Arc<Engine>, store: &Arc<InMemory>, bytes_max: u64) -> (Sync, Arc<Budget>) {
    let bucket =
        Bucket::over(Backend::direct(store.clone(), None, "memory"), node.clock.clone(), node.random.clone());
    let budget = Arc::new(Budget::new(engine.clone(), bytes_max, engine.now_millis()));
    (Sync::new(engine.clone(), bucket, options(Policy::Lww), node.clock.clone()).within(budget.clone()), budget)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_asked_for_stops_at_the_budget_until_the_month_is_over() {
    let (node, store) = (Node::new(1), Arc::new(InMemory::new()));
    let engine = node.open();
    let unasked = Selection::default().unasked();
    let is_behind = async |name: &str| !engine.unsent(&crate::node::name(name)).await.unwrap().is_durable;
    for name in ["a", "b", "c"] {
        put(&engine, name, 0..1_000, 1).await;
    }
    let (sync, budget) = link(&node, &engine, &store, 15_000);
    // The first namespace takes all of it, and the others wait.
    let pass = sync.run_for(&unasked).await;
    let error = pass.failed.unwrap();
    assert_eq!(error.code(), USED_UP, "{error}");
    assert!(
        error.message().contains("sync.monthly_bytes is 15000") && error.message().contains("on 2023-12-01"),
        "{error}"
    );
    assert!(!is_behind("a").await && is_behind("b").await && is_behind("c").await);
    let used = budget.bytes(engine.now_millis()).1;
    assert!(used >= 15_000);
    // A restart forgets nothing, and who asks is served and counted.
    let (sync, budget) = link(&node, &engine, &store, 15_000);
    assert_eq!(budget.bytes(engine.now_millis()), (Some(15_000), used));
    assert_eq!(sync.run_for(&unasked).await.failed.unwrap().code(), USED_UP);
    assert!(is_behind("b").await);
    sync.run().await.unwrap();
    assert!(!is_behind("b").await && !is_behind("c").await);
    assert!(budget.bytes(engine.now_millis()).1 > used);
    // Another month; and no bound is none.
    put(&engine, "a", [2_000], 2).await;
    node.clock.advance(31 * DAY_MS);
    assert_eq!(budget.bytes(engine.now_millis()).1, 0);
    assert!(sync.run_for(&unasked).await.failed.is_none());
    assert!(!is_behind("a").await);
    let (sync, budget) = link(&node, &engine, &store, 0);
    put(&engine, "a", 0..100, 3).await;
    assert!(sync.run_for(&unasked).await.failed.is_none());
    assert_eq!(budget.bytes(engine.now_millis()).0, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_asked_for_stops_at_the_budget_in_the_middle_of_a_namespace_and_goes_on_there() {
    let (node, other, store) = (Node::new(1), Node::new(2), Arc::new(InMemory::new()));
    let (engine, there) = (node.open(), other.open());
    for part in 0..12 {
        put(&engine, "a", part * 1_000..(part + 1) * 1_000, part).await;
        engine.checkpoint(&crate::node::name("a")).await.unwrap();
    }
    link(&node, &engine, &store, 0).0.run().await.unwrap();
    let all = engine.status(&crate::node::name("a")).unwrap()["bytes"].as_u64().unwrap();
    let unasked = Selection::default().unasked();
    let mut spent = 0;
    for month in 0.. {
        let (sync, budget) = link(&other, &there, &store, all / 4);
        let failed = sync.run_for(&unasked).await.failed;
        let used = budget.bytes(there.now_millis()).1;
        // Those that were on their way when it was reached, and the small ones that come before any object.
        assert!(used < all * 3 / 4, "month {month}: {used} of {all}");
        spent += used;
        match failed {
            Some(error) => assert_eq!(error.code(), USED_UP, "{error}"),
            None => break,
        }
        other.clock.advance(31 * DAY_MS);
    }
    assert_eq!(crate::node::all(&there, "a"), crate::node::all(&engine, "a"));
    assert!(spent < all * 2, "{spent} of {all}: what came is not fetched again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_that_is_damaged_begins_anew() {
    let (node, store) = (Node::new(1), Arc::new(InMemory::new()));
    let engine = node.open();
    put(&engine, "a", 0..100, 1).await;
    let (sync, budget) = link(&node, &engine, &store, 0);
    sync.run().await.unwrap();
    assert!(budget.bytes(engine.now_millis()).1 > 0);
    let path = std::path::Path::new("/data/traffic.json");
    shoal::platform::disk::publish(&node.disk, path, b"{}").unwrap();
    let (_, budget) = link(&node, &engine, &store, 0);
    assert_eq!(budget.bytes(engine.now_millis()).1, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_counted_for_a_month_outlives_clocks_that_are_not_set_or_ahead() {
    let node = Node::new(1);
    let engine = node.open();
    let right = engine.now_millis();
    let begin = || Budget::new(engine.clone(), 1_000, engine.now_millis());
    begin().follow((900, 0), right);
    node.clock.set(5_000);
    let budget = begin();
    assert_eq!(budget.bytes(engine.now_millis()), (Some(1_000), 900), "in 1970");
    budget.follow((200, 0), engine.now_millis());
    budget.believe(engine.now_millis());
    let error = budget.check(engine.now_millis()).unwrap_err();
    assert!(error.message().contains("on 2023-12-01"), "{error}");
    node.clock.set(right);
    let budget = begin();
    assert_eq!(budget.bytes(right).1, 1_100);
    // Ahead by 20 years: another month, of which what was counted goes on once the time is known.
    let ahead = right + 20 * 365 * DAY_MS;
    budget.follow((700, 0), ahead);
    assert_eq!((budget.bytes(ahead).1, budget.bytes(right).1), (700, 700));
    budget.believe(right);
    assert_eq!(begin().bytes(right).1, 700);
    assert_eq!(begin().bytes(right + 31 * DAY_MS).1, 0);
}
