//! Passes that are cut off at any request between lives of a name: what was deleted stays deleted, and what has the name now keeps it.

use std::sync::Arc;

use shoal::engine::Engine;

use crate::fleet::{fresh, meet, names, sync};
use crate::node::{Node, all, name, put};
use crate::unlucky::{Place, put_and_lose_power};

/// Where a pass is cut off: after so many requests, and whether one more arrives.
fn cuts() -> impl Iterator<Item = (u64, bool)> {
    (0..48).flat_map(|requests| [(requests, true), (requests, false)])
}

/// A node that has `docs` in common with the bucket.
async fn one(place: &Place) -> (Node, Arc<Engine>) {
    let node = Node::new(1);
    let engine = node.open();
    put(&engine, "docs", 0..5, 1).await;
    sync(&node, &engine, &place.bucket(&node)).await.unwrap();
    node.clock.advance(1_000);
    (node, engine)
}

async fn delete(node: &Node, engine: &Arc<Engine>) {
    engine.delete(&name("docs")).await.unwrap();
    node.clock.advance(1_000);
}

/// A node writes `docs`, as its second life or to the first one, and a pass is cut off; then it deletes that, and perhaps makes another.
async fn is_deleted_after_a_cut(is_second_life: bool, is_created_again: bool) {
    let mut uncut = 0;
    for cut in cuts() {
        let what = format!("cut off at {cut:?}, created again: {is_created_again}");
        let place = Place::default();
        let (node, engine) = one(&place).await;
        if is_second_life {
            delete(&node, &engine).await;
        }
        let (engine, is_cut) = put_and_lose_power(&place, &node, engine, cut).await;
        uncut += u32::from(!is_cut);
        delete(&node, &engine).await;
        if is_created_again {
            put(&engine, "docs", 50..52, 3).await;
        }
        for _ in 0..2 {
            let done = sync(&node, &engine, &place.bucket(&node)).await;
            done.unwrap_or_else(|error| panic!("{what}: {error:?}"));
        }
        let other = Node::new(9);
        let there = other.open();
        sync(&other, &there, &place.bucket(&node)).await.unwrap();
        let expected = if is_created_again { vec!["docs"] } else { vec![] };
        assert_eq!((names(&engine), names(&there)), (owned(&expected), owned(&expected)), "{what}");
        if is_created_again {
            assert_eq!((all(&there, "docs").len(), all(&there, "docs")), (2, all(&engine, "docs")), "{what}");
        }
    }
    assert!(uncut > 0);
}

fn owned(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_sent_and_never_heard_of_is_deleted_with_the_rest_when_it_deletes_the_name() {
    is_deleted_after_a_cut(false, false).await;
    is_deleted_after_a_cut(false, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_life_that_the_bucket_has_in_part_hides_no_deletion_of_the_one_before() {
    is_deleted_after_a_cut(true, false).await;
    is_deleted_after_a_cut(true, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_life_that_somebody_has_brought_back_stays_whoever_had_the_name_since() {
    for passes in 0..8 {
        let place = Place::default();
        let (nodes, engines) = crate::unlucky::two(&place).await;
        let (node, engine) = (&nodes[0], &engines[0]);
        let first = engine.nsid_of(&name("docs")).unwrap();
        node.clock.advance(1_000);
        for (at, life) in [10..12, 20..23].into_iter().enumerate() {
            delete(node, engine).await;
            put(engine, "docs", life, 2).await;
            if passes >> at & 1 == 1 {
                sync(node, engine, &place.bucket(node)).await.unwrap();
            }
        }
        delete(node, engine).await;
        if passes >> 2 == 1 {
            sync(node, engine, &place.bucket(node)).await.unwrap();
        }
        engine.undelete(&name("docs"), Some(first)).await.unwrap();
        meet(&[(node, engine), (&nodes[1], &engines[1])], &place.bucket(node)).await;
        for engine in &engines {
            assert_eq!((names(engine), all(engine, "docs").len()), (owned(&["docs"]), 5), "passes {passes:03b}");
        }
        assert_eq!(fresh(9, &place.bucket(node), "docs").await.len(), 5);
        // And is deleted as any other, by whomever.
        nodes.iter().for_each(|node| node.clock.advance(10_000));
        engines[1].delete(&name("docs")).await.unwrap();
        meet(&[(&nodes[1], &engines[1]), (node, engine)], &place.bucket(node)).await;
        let left = [names(&engines[0]), names(&engines[1])].concat();
        assert!(left.is_empty(), "passes {passes:03b}: {left:?}");
    }
}
