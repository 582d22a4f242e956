//! What goes on while segments of the target are being compacted.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use shoal::engine::Engine;
use shoal::engine::merge::decide::Policy;

use crate::gate::GateDisk;
use crate::node::{Node, all, branch, name, put, write};
use crate::policies::merge;

/// After so long something waits that must not, and the test ends.
pub const FOREVER: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merge_and_writes_are_done_while_a_compaction_is_held() {
    let mut node = Node::new(31);
    node.config.compaction_fan_in = 100;
    let gate = GateDisk::new(node.disk.mounted());
    let engine: Arc<Engine> =
        Engine::open(node.config.clone(), Arc::new(gate.clone()), node.clock.clone(), node.random.clone()).unwrap();
    engine.rebuild_index().unwrap();
    for from in [0, 10, 20] {
        put(&engine, "main", from..from + 10, 1).await;
        engine.checkpoint(&name("main")).await.unwrap();
    }
    branch(&engine, "main", "child").await;
    put(&engine, "child", [3, 13, 40], 2).await;
    write(&engine, "child", json!({"deletes": [4]})).await;

    gate.close();
    let compaction = tokio::spawn({
        let engine = engine.clone();
        async move { engine.compact(&name("main")).await }
    });
    gate.waits().await;
    let meanwhile = async {
        let report = merge(&engine, "child", "main", Policy::Fail).await.unwrap();
        assert_eq!((report.updated, report.inserted, report.deleted), (2, 1, 1));
        put(&engine, "main", [5, 13, 50], 3).await;
        engine.checkpoint(&name("main")).await.unwrap();
        write(&engine, "main", json!({"deletes": [6]})).await;
        put(&engine, "child", [7], 4).await;
        merge(&engine, "child", "main", Policy::Fail).await.unwrap();
    };
    let done = tokio::time::timeout(FOREVER, meanwhile).await;
    let was_held = !compaction.is_finished();
    let before = all(&engine, "main");
    gate.open();
    compaction.await.unwrap().unwrap();
    done.expect("a merge waits for a compaction");
    assert!(was_held, "the compaction was done before");

    // What came meanwhile holds in the merged segment.
    let segments = engine.status(&name("main")).unwrap()["segments"].clone();
    assert_eq!(all(&engine, "main"), before, "{segments}");
    let n = |id: u64| before.get(&shoal::model::ids::DocId::Uint(id)).map(|row| row["n"].as_u64().unwrap());
    let expected =
        [(3, Some(2)), (4, None), (5, Some(3)), (6, None), (7, Some(4)), (13, Some(3)), (40, Some(2)), (50, Some(3))];
    assert_eq!(expected.map(|(id, _)| (id, n(id))), expected);
    assert!(engine.check(3).unwrap().is_whole(), "{:?}", engine.check(3).unwrap());
    drop(engine);
    drop(gate);
    node.disk.power_cut(&*node.random);
    let engine = node.open();
    assert_eq!(all(&engine, "main"), before);
    assert!(engine.check(3).unwrap().is_whole(), "{:?}", engine.check(3).unwrap());
}
