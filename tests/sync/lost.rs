//! A node that never comes back: whatever it was at, nothing in the bucket waits for it.

use std::sync::Arc;

use object_store::memory::InMemory;
use shoal::engine::Engine;
use shoal::engine::merge::decide::Policy;
use shoal::store::Bucket;
use shoal::sync::{Reclaim, Selection, Sync};

use crate::fleet::{fresh, meet, options, sync};
use crate::meetings::{over, silent_from};
use crate::node::{DAY_MS, Node, all, branch, name, put};
use crate::reclaiming::keys;
use crate::upkeep::{contents, delete_late, reclaim_to_the_end};

/// What a person asks for who knows that nobody else is at work.
async fn reclaim_by_force(node: &Node, engine: &Arc<Engine>, bucket: &Bucket) {
    let link = Sync::new(engine.clone(), bucket.clone(), options(Policy::Lww), node.clock.clone());
    let ask = Reclaim { forced: true, ..Reclaim::default() };
    assert!(link.reclaim(&Selection::default(), &ask).await.failed.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_node_was_at_when_it_was_lost_goes_without_it() {
    lost_at_any_request(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_given_up_for_lost_and_comes_back_sends_what_it_has() {
    lost_at_any_request(true).await;
}

async fn lost_at_any_request(comes_back: bool) {
    for step in 0.. {
        let store = Arc::new(InMemory::new());
        let direct = over(store.clone(), 1);
        let nodes = [Node::new(1), Node::new(2)];
        let engines = [nodes[0].open(), nodes[1].open()];
        put(&engines[0], "docs", 0..50, 1).await;
        put(&engines[0], "logs", 0..5, 1).await;
        engines[0].checkpoint(&name("docs")).await.unwrap();
        meet(&[(&nodes[0], &engines[0]), (&nodes[1], &engines[1])], &direct).await;
        // All that a node can hold there: a branch of what is shared, tags of both, a deletion.
        nodes[0].clock.advance(1_000);
        branch(&engines[0], "docs", "try").await;
        put(&engines[0], "try", 100..110, 2).await;
        for namespace in ["docs", "try"] {
            engines[0].tag(&name(namespace), "v1", None).await.unwrap();
            put(&engines[0], namespace, 10..20, 3).await;
            engines[0].compact(&name(namespace)).await.unwrap();
        }
        engines[0].delete(&name("logs")).await.unwrap();
        let (link, cut) = silent_from(&store, step);
        let is_through = tokio::select! {
            done = sync(&nodes[0], &engines[0], &link) => { done.unwrap(); true }
            () = cut.notified() => false,
        };
        let (node, engine) = (&nodes[1], &engines[1]);
        node.clock.advance(8 * DAY_MS);
        for _ in 0..2 {
            sync(node, engine, &direct).await.unwrap();
        }
        assert!(all(engine, "docs").len() >= 50, "{step}");
        // What of it never came to be goes while the rest is in use.
        reclaim_by_force(node, engine, &direct).await;
        reclaim_to_the_end(node, engine, &direct).await;
        if comes_back {
            let back = nodes[0].cut_power(engines[0].clone());
            meet(&[(&nodes[0], &back), (node, engine)], &direct).await;
            for namespace in ["docs", "try"] {
                assert_eq!(all(engine, namespace), all(&back, namespace), "{step}");
                assert_eq!(fresh(9, &direct, namespace).await, all(&back, namespace), "{step}");
                assert_eq!(engine.tags(&name(namespace)).unwrap().len(), 1, "{step}");
            }
            delete_late(&direct).await;
            contents(&direct).await.assert_whole();
            reclaim_to_the_end(node, engine, &direct).await;
            if is_through {
                return;
            }
            continue;
        }
        let is_named = engine.nsid_of(&name("try")).is_some();
        assert!(contents(&direct).await.holds.is_empty() || is_named, "{step}");
        for (name, _) in engine.named() {
            node.clock.advance(1_000);
            engine.delete(&name).await.unwrap();
        }
        for _ in 0..2 {
            sync(node, engine, &direct).await.unwrap();
            reclaim_to_the_end(node, engine, &direct).await;
        }
        let left = keys(&direct).await;
        // What a probe left means nothing.
        let is_kept = |key: &String| key == "_format.json" || key.contains("/names/") || key.starts_with("_probe/");
        assert!(left.iter().all(is_kept), "{step}: {left:#?}");
        if is_through {
            assert!(step > 30, "{step} requests");
            return;
        }
    }
}
