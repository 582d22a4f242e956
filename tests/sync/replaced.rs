//! Buckets that become another's, or are emptied, while a node runs: nothing goes there, and nothing is said to be there that is not.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use shoal::engine::Engine;
use shoal::engine::merge::decide::Policy;
use shoal::store::{Bucket, Patience};
use shoal::sync::{Selection, Sync};

use crate::fleet::{bucket, fresh, options, sync};
use crate::node::{Node, all, branch, name, put};
use crate::odd_store::OddStore;
use crate::tags::{self, tag};

fn link(node: &Node, engine: &Arc<Engine>, bucket: &Bucket) -> Sync {
    Sync::new(engine.clone(), bucket.clone(), options(Policy::Lww), node.clock.clone())
}

async fn keys(bucket: &Bucket) -> Vec<String> {
    let listed = bucket.list_all("", None, 10_000, &Patience::ASKED).await.unwrap();
    listed.into_iter().map(|listed| listed.key).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_became_another_stores_since_names_were_listed_gives_and_gets_nothing() {
    let (bucket, node, other) = (bucket(31), Node::new(1), Node::new(2));
    let engine = node.open();
    put(&engine, "docs", 0..10, 1).await;
    let attached = link(&node, &engine, &bucket);
    attached.run().await.unwrap();
    let own: Vec<(String, _)> = {
        let mut own = Vec::new();
        for key in keys(&bucket).await {
            own.push((key.clone(), bucket.get(&key, &Patience::ASKED).await.unwrap().unwrap()));
            bucket.delete(&key, &Patience::ASKED).await.unwrap();
        }
        own
    };
    let there = other.open();
    put(&there, "docs", 50..55, 7).await;
    sync(&other, &there, &bucket).await.unwrap();
    let before = keys(&bucket).await;
    put(&engine, "docs", 10..12, 2).await;
    let (here, unasked) = (all(&engine, "docs"), Selection::default().unasked());
    let named = Selection::default().only([name("docs")].into());
    for selection in [&unasked, &named, &Selection::default(), &unasked, &named] {
        let failed = attached.run_for(selection).await.failed.unwrap();
        assert_eq!(failed.code(), "bucket_replaced", "{failed}");
        assert_eq!((keys(&bucket).await, all(&engine, "docs")), (before.clone(), here.clone()));
        assert!(!engine.unsent(&name("docs")).await.unwrap().is_durable);
    }
    assert_eq!(fresh(3, &bucket, "docs").await, all(&there, "docs"));
    // It is back, and no restart is needed.
    for key in keys(&bucket).await {
        bucket.delete(&key, &Patience::ASKED).await.unwrap();
    }
    for (key, bytes) in own {
        bucket.put(&key, bytes, &Patience::ASKED).await.unwrap();
    }
    attached.run().await.unwrap();
    assert_eq!(fresh(4, &bucket, "docs").await, here);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_emptied_in_the_midst_of_a_pass_is_filled_after_a_restart() {
    let mut uncut = 0;
    for at in 1..40 {
        let (store, node) = (Arc::new(OddStore::default()), Node::new(1));
        let engine = node.open();
        for n in 0..3 {
            put(&engine, "docs", n * 10..n * 10 + 10, 1).await;
            engine.checkpoint(&name("docs")).await.unwrap();
        }
        tag(&engine, "docs", "then").await;
        let then = all(&engine, "docs");
        put(&engine, "docs", 0..30, 3).await;
        engine.compact(&name("docs")).await.unwrap();
        branch(&engine, "docs", "fork").await;
        put(&engine, "fork", 3..5, 2).await;
        let bucket = store.bucket(&node);
        let attached = link(&node, &engine, &bucket);
        attached.run().await.unwrap();
        put(&engine, "docs", 30..32, 2).await;
        branch(&engine, "docs", "late").await;
        put(&engine, "late", 3..5, 3).await;
        store.empties_at.store(at, Ordering::SeqCst);
        let done = attached.run().await;
        uncut += u64::from(store.empties_at.swap(0, Ordering::SeqCst) > 0);
        if uncut == 0 {
            let code = done.err().map(|error| error.code());
            assert_eq!(code, Some("bucket_replaced"), "emptied before write {at}");
        }
        let attached = link(&node, &engine, &bucket);
        for _ in 0..2 {
            attached.run().await.unwrap();
        }
        assert_eq!(tags::fresh(3, &bucket, "docs", "then").await, then, "write {at}");
        for namespace in ["docs", "fork", "late"] {
            assert_eq!(fresh(2, &bucket, namespace).await, all(&engine, namespace), "{namespace}, write {at}");
        }
    }
    assert!(uncut > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_pass_is_not_told_that_it_went_well_where_the_bucket_went_away_meanwhile() {
    let mut uncut = 0;
    for at in 1..40 {
        let (store, node) = (Arc::new(OddStore::default()), Node::new(1));
        let engine = node.open();
        put(&engine, "docs", 0..10, 1).await;
        let attached = link(&node, &engine, &store.bucket(&node));
        attached.run().await.unwrap();
        put(&engine, "docs", 5..15, 2).await;
        store.empties_at.store(at, Ordering::SeqCst);
        let pass = attached.run_for(&Selection::default().only([name("docs")].into())).await;
        uncut += u64::from(store.empties_at.swap(0, Ordering::SeqCst) > 0);
        assert_eq!(pass.of(&name("docs")).is_ok(), uncut > 0, "emptied before write {at}");
    }
    assert!(uncut > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_for_a_state_that_was_never_taken_in_goes_before_the_next_comes() {
    let (store, nodes) = (Arc::new(OddStore::default()), [Node::new(1), Node::new(2)]);
    let engines = [nodes[0].open(), nodes[1].open()];
    let [one, other] = [0, 1].map(|at| store.bucket(&nodes[at]));
    put(&engines[0], "docs", 0..10, 1).await;
    sync(&nodes[0], &engines[0], &one).await.unwrap();
    sync(&nodes[1], &engines[1], &other).await.unwrap();
    let left_over = || engines[1].check(3).unwrap().orphans;
    for round in 0..4 {
        for n in 0..2 {
            put(&engines[0], "docs", 100 * round + 10 * n..100 * round + 10 * n + 10, 1).await;
            engines[0].checkpoint(&name("docs")).await.unwrap();
        }
        sync(&nodes[0], &engines[0], &one).await.unwrap();
        // One segment comes, the other does not.
        let nsid = engines[0].nsid_of(&name("docs")).unwrap();
        let newest = engines[0].common(nsid).unwrap().unwrap().segments.pop().unwrap();
        one.put(&newest.key, vec![7; newest.bytes as usize].into(), &Patience::ASKED).await.unwrap();
        assert!(sync(&nodes[1], &engines[1], &other).await.is_err());
        assert!((1..=2).contains(&left_over()), "round {round}: {}", left_over());
        engines[0].compact(&name("docs")).await.unwrap();
        sync(&nodes[0], &engines[0], &one).await.unwrap();
    }
    sync(&nodes[1], &engines[1], &other).await.unwrap();
    assert_eq!(all(&engines[1], "docs"), all(&engines[0], "docs"));
    assert_eq!(left_over(), 0);
}
