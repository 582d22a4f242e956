//! Nodes that write far more than their disk may hold of it.

use std::sync::Arc;

use serde_json::json;
use shoal::api::wire::query::parse_query;
use shoal::engine::Engine;
use shoal::engine::query::run;
use shoal::platform::allowance::Allowance;

use crate::fleet::{bucket, sync};
use crate::node::{Node, name, write};

const DIMS: u64 = 192;
const BATCH: u64 = 1_000;

async fn put(engine: &Arc<Engine>, from: u64) {
    let number = |id: u64, at: u64| (id * 31 + at * 17 + id * at % 23) % 101;
    let rows: Vec<_> = (from..from + BATCH)
        .map(|id| {
            let vector: Vec<u64> = (0..DIMS).map(|at| number(id, at)).collect();
            json!({"id": id, "text": format!("w{} w{}", id % 300, id % 7), "vector": vector})
        })
        .collect();
    let schema = json!({"text": {"type": "string", "full_text_search": true}});
    write(engine, "docs", json!({"upsert_rows": rows, "distance_metric": "euclidean_squared", "schema": schema}))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_writes_much_more_than_it_may_hold_opens_it_again_and_goes_on() {
    let (bucket, mut node) = (bucket(1), Node::new(1));
    node.config.tier_bytes_max = 1_000_000;
    // Each segment is most of that.
    node.config.compaction_fan_in = 1_000;
    let mut engine = node.open();
    let mut bytes = 0;
    for batch in 0..12 {
        put(&engine, batch * BATCH).await;
        sync(&node, &engine, &bucket).await.unwrap();
        bytes = engine.status(&name("docs")).unwrap()["bytes"].as_u64().unwrap();
        // Every way to stop.
        match batch % 3 {
            0 => {}
            1 => {
                engine.shutdown().await.unwrap();
                drop(engine);
                engine = node.open();
            }
            _ => engine = node.cut_power(engine),
        }
        sync(&node, &engine, &bucket).await.unwrap();
        let held = engine.held_in_parts();
        assert!(held.bytes <= held.bytes_max, "{held:?}");
    }
    assert!(bytes > 4 * node.config.tier_bytes_max, "{bytes}");
    let counted = parse_query(json!({"aggregate_by": {"n": ["Count"]}})).unwrap().request;
    let outcome = engine.on_view(&name("docs"), None, |view| run(view, &counted, &Allowance::unlimited())).unwrap();
    assert_eq!(format!("{:?}", outcome.answers), format!("[Aggregations([(\"n\", Uint({}))])]", 12 * BATCH));
}
