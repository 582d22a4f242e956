//! What a merge waits for.

use shoal::engine::merge::decide::Policy;

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
