//! A namespace that a node let go of comes back from the bucket: nothing of its life before counts in the new one.

use std::sync::Arc;

use serde_json::json;
use shoal::engine::Engine;
use shoal::platform::random::SeededRandom;

use crate::fleet::{bucket, meet, sync};
use crate::node::{DAY_MS, Node, all, branch, name, put, write};

/// Deletes `docs` on a node that keeps a branch of it, for longer than deleted namespaces are kept, and lets it come back from the
/// bucket after a power cut. The branch reads the segments, or the log of what was in none yet, too.
async fn come_back(seed: u64, with_log: bool) -> (Node, Arc<Engine>) {
    let (bucket, nodes) = (bucket(1), [Node::new(1), Node::new(2)]);
    let [engine, other] = [nodes[0].open(), nodes[1].open()];
    put(&engine, "docs", 0..5, 1).await;
    write(&engine, "docs", json!({"deletes": [1]})).await;
    meet(&[(&nodes[0], &engine), (&nodes[1], &other)], &bucket).await;
    if with_log {
        put(&engine, "docs", [10], 2).await;
    }
    branch(&engine, "docs", "try").await;
    put(&other, "docs", [20], 3).await;
    other.compact(&name("docs")).await.unwrap();
    sync(&nodes[1], &other, &bucket).await.unwrap();
    engine.delete(&name("docs")).await.unwrap();
    nodes[0].clock.advance(8 * DAY_MS);
    engine.tend().await.unwrap();
    drop(engine);
    nodes[0].disk.power_cut(&SeededRandom::new(seed));
    let engine = nodes[0].open();
    sync(&nodes[0], &engine, &bucket).await.unwrap();
    assert_eq!(all(&engine, "docs").len(), 5);
    let [node, _] = nodes;
    (node, engine)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_comes_back_after_it_was_let_go_of_takes_nothing_from_its_branches() {
    for (seed, with_log) in (0..20).flat_map(|seed| [(seed, true), (seed, false)]) {
        let (node, engine) = come_back(seed, with_log).await;
        let report = engine.check(3).unwrap();
        assert!(report.is_whole(), "seed {seed}: {report:?}");
        let engine = node.cut_power(engine);
        assert_eq!(all(&engine, "try").len(), if with_log { 5 } else { 4 }, "seed {seed}");
    }
}
