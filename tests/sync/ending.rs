//! Namespaces whose time is up: they end on all nodes, whatever was written meanwhile, unless somebody set another time.

use std::sync::Arc;

use shoal::engine::Engine;
use shoal::store::Bucket;

use crate::fleet::{bucket, fresh, meet, names, sync};
use crate::node::{DAY_MS, Node, all, name, put};

const HOUR_MS: u64 = 3_600_000;

type Two = (Bucket, [Node; 2], [Arc<Engine>; 2]);

/// Two nodes that have `docs` in common; the first one said that it is to live for an hour.
async fn two(clocks: [u64; 2]) -> Two {
    let (bucket, nodes) = (bucket(1), [Node::new(1), Node::new(2)]);
    (0..2).for_each(|at| nodes[at].clock.set(clocks[at]));
    let engines = [nodes[0].open(), nodes[1].open()];
    put(&engines[0], "docs", 0..5, 1).await;
    engines[0].set_ttl(&name("docs"), Some(HOUR_MS)).await.unwrap();
    meet(&pairs(&nodes, &engines, 0), &bucket).await;
    (bucket, nodes, engines)
}

fn pairs<'a>(nodes: &'a [Node; 2], engines: &'a [Arc<Engine>; 2], first: usize) -> [(&'a Node, &'a Arc<Engine>); 2] {
    [first, 1 - first].map(|at| (&nodes[at], &engines[at]))
}

fn pass(nodes: &[Node; 2], ms: u64) {
    nodes.iter().for_each(|node| node.clock.advance(ms));
}

/// Both look at what is due and sync, again and again.
async fn settle((bucket, nodes, engines): &Two, first: usize) {
    for _ in 0..3 {
        for engine in engines {
            engine.tend().await.unwrap();
        }
        meet(&pairs(nodes, engines, first), bucket).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_or_set_elsewhere_before_the_time_was_up_ends_with_it_on_all_nodes() {
    for first in [0, 1] {
        for what in ["write", "label", "write that is not sent"] {
            let two = two([1_700_000_000_000; 2]).await;
            let (bucket, nodes, engines) = &two;
            pass(nodes, HOUR_MS / 2);
            match what {
                "label" => {
                    let labels = [("v".to_owned(), "new".to_owned())].into();
                    engines[1].set_labels(&name("docs"), labels).await.unwrap();
                }
                _ => put(&engines[1], "docs", 10..12, 2).await,
            }
            if what != "write that is not sent" {
                sync(&nodes[1], &engines[1], bucket).await.unwrap();
            }
            pass(nodes, HOUR_MS);
            settle(&two, first).await;
            let left = [names(&engines[0]), names(&engines[1])];
            assert!(left.iter().all(Vec::is_empty), "{what}, first {first}: {left:?}");
            let node = Node::new(9);
            let late = node.open();
            sync(&node, &late, bucket).await.unwrap();
            assert_eq!(names(&late), Vec::<String>::new());
            if what != "write" {
                continue;
            }
            // Who wants it back has what the bucket has of it, and its time is over.
            pass(nodes, HOUR_MS);
            engines[0].undelete(&name("docs"), None).await.unwrap();
            settle(&two, first).await;
            for engine in engines {
                assert_eq!(all(engine, "docs").len(), 7, "first {first}");
                assert!(engine.status(&name("docs")).unwrap()["expires_ms"].is_null());
            }
            assert_eq!(fresh(8, bucket, "docs").await.len(), 7);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_not_looked_yet_follows_an_end_without_keeping_what_ended() {
    let two = two([1_700_000_000_000; 2]).await;
    let (bucket, nodes, engines) = &two;
    put(&engines[1], "docs", 10..12, 2).await;
    pass(nodes, 2 * HOUR_MS);
    engines[0].tend().await.unwrap();
    sync(&nodes[0], &engines[0], bucket).await.unwrap();
    sync(&nodes[1], &engines[1], bucket).await.unwrap();
    assert_eq!(names(&engines[1]), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_does_not_hold_leaves_the_time_to_live_as_it_was() {
    for first in [0, 1] {
        let two = two([1_700_000_000_000; 2]).await;
        let (bucket, nodes, engines) = &two;
        let expires = engines[1].status(&name("docs")).unwrap()["expires_ms"].clone();
        put(&engines[1], "docs", 10..12, 2).await;
        sync(&nodes[1], &engines[1], bucket).await.unwrap();
        engines[0].delete(&name("docs")).await.unwrap();
        settle(&two, first).await;
        for engine in engines {
            assert_eq!(all(engine, "docs").len(), 7);
            assert_eq!(engine.status(&name("docs")).unwrap()["expires_ms"], expires, "first {first}");
        }
        pass(nodes, HOUR_MS);
        settle(&two, first).await;
        assert_eq!(names(&engines[0]).len() + names(&engines[1]).len(), 0, "first {first}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_that_was_counted_by_a_clock_that_is_wrong_ends_what_others_wrote_as_well() {
    // Never set, and set back in between: what the first node shows says nothing to the second one.
    for (at_ms, then_ms) in [(1_000, None), (1_700_000_000_000, Some(1_700_000_000_000 - 30 * DAY_MS))] {
        for first in [0, 1] {
            let two = two([at_ms, 1_700_000_000_000]).await;
            let (bucket, nodes, engines) = &two;
            if let Some(then_ms) = then_ms {
                nodes[0].clock.set(then_ms);
                engines[0].tend().await.unwrap();
            }
            put(&engines[1], "docs", 10..12, 2).await;
            sync(&nodes[1], &engines[1], bucket).await.unwrap();
            nodes[0].clock.advance(2 * HOUR_MS);
            engines[0].tend().await.unwrap();
            assert_eq!(names(&engines[0]), Vec::<String>::new(), "{at_ms}");
            settle(&two, first).await;
            let left = [names(&engines[0]), names(&engines[1])];
            assert!(left.iter().all(Vec::is_empty), "{at_ms}, first {first}: {left:?}");
        }
    }
}
