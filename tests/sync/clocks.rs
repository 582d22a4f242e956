//! Clocks that were set: what nobody knows the age of stays in a bucket that does not tell the time.

use shoal::platform::wall::StoreClock;
use shoal::sync::CLOCK_DOUBTED;

use crate::fleet::{bucket, sync};
use crate::node::{DAY_MS, Node, all, name, put};
use crate::reclaiming::{churn, keys, two};
use crate::upkeep::reclaim;

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
    const HOUR_MS: u64 = 3_600_000;
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
