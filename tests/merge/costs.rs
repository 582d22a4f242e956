//! What a merge waits for.

use std::sync::Arc;

use shoal::engine::Engine;
use shoal::engine::merge::decide::Policy;

use crate::gate::GateDisk;
use crate::node::{Node, branch, name, put};
use crate::policies::merge;

/// Of a few rows from a tail into a segment: the log of the source is sealed (1 barrier), its state kept as a base (2), the
/// rows become a segment (3), those they replace are marked (2), and the commit is counted (1) and written (2). Putting a base in
/// the place of another takes one more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merge_of_a_few_rows_waits_for_few_barriers() {
    let mut node = Node::new(41);
    node.config.compaction_fan_in = 100;
    let engine = node.open();
    put(&engine, "main", 0..200, 1).await;
    engine.compact(&name("main")).await.unwrap();
    let mut found = Vec::new();
    for round in 0..3 {
        let child = if round == 0 { "first" } else { "second" };
        if round < 2 {
            branch(&engine, "main", child).await;
        }
        put(&engine, child, [round, 100 + round], 2 + round).await;
        let before = node.disk.barriers();
        let report = merge(&engine, child, "main", Policy::Fail).await.unwrap();
        assert_eq!(report.updated, 2);
        found.push(node.disk.barriers() - before);
    }
    // The first merge into a namespace makes two directories.
    assert_eq!(found, [13, 11, 12]);
}

/// Of these the slowest is waited for, not one after another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_merge_puts_in_place_becomes_durable_together() {
    let node = Node::new(42);
    let disk = GateDisk::new(node.disk.mounted());
    let engine: Arc<Engine> =
        Engine::open(node.config.clone(), Arc::new(disk.clone()), node.clock.clone(), node.random.clone()).unwrap();
    engine.rebuild_index().unwrap();
    put(&engine, "main", 0..20, 1).await;
    engine.checkpoint(&name("main")).await.unwrap();
    branch(&engine, "main", "child").await;
    put(&engine, "child", [3, 4], 2).await;
    disk.expect(3);
    let report = merge(&engine, "child", "main", Policy::Fail).await.unwrap();
    assert_eq!(report.updated, 2);
    assert!(disk.have_met(), "a segment, a bitmap and a base");
}
