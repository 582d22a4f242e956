//! Clocks that were set: what nobody knows the age of stays in a bucket that does not tell the time.

use shoal::sync::CLOCK_DOUBTED;

use crate::fleet::sync;
use crate::node::{DAY_MS, put};
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
