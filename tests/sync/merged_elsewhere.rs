//! What one node merged is what both namespaces have in common on every other node, too, that met it by the bucket.

use std::sync::Arc;

use serde_json::json;
use shoal::engine::Engine;
use shoal::engine::merge::decide::Policy;
use shoal::engine::merge::{MergeReport, MergeRequest};
use shoal::model::ids::DocId;
use shoal::platform::disk::Disk as _;
use shoal::store::Bucket;

use crate::fleet::{bucket, meet};
use crate::node::{Node, all, branch, name, put, write};

/// Two nodes with `main` of six documents and its branch `try`, and their bucket.
async fn two(seed: u64) -> ([Node; 2], [Arc<Engine>; 2], Bucket) {
    let nodes = [Node::new(seed), Node::new(seed + 1)];
    let engines = [nodes[0].open(), nodes[1].open()];
    let bucket = bucket(seed);
    put(&engines[0], "main", 0..6, 1).await;
    branch(&engines[0], "main", "try").await;
    together(&nodes, &engines, &bucket).await;
    (nodes, engines, bucket)
}

async fn together(nodes: &[Node; 2], engines: &[Arc<Engine>; 2], bucket: &Bucket) {
    meet(&[(&nodes[0], &engines[0]), (&nodes[1], &engines[1])], bucket).await;
    nodes.iter().for_each(|node| node.clock.advance(1_000));
}

async fn merge(engine: &Arc<Engine>, from: &str, into: &str, policy: Policy) -> MergeReport {
    let request = MergeRequest { policy, ..MergeRequest::default() };
    engine.merge(&name(from), &name(into), request).await.unwrap()
}

fn values(engine: &Engine, namespace: &str, id: u64) -> [Option<u64>; 2] {
    let document = &all(engine, namespace)[&DocId::Uint(id)];
    ["n", "m"].map(|attribute| document.get(attribute).and_then(|value| value.as_u64()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_merged_on_another_node_is_no_conflict_here() {
    for by in [0, 1] {
        for (from, into) in [("try", "main"), ("main", "try")] {
            let (nodes, mut engines, bucket) = two(700).await;
            put(&engines[by], "main", [2], 5).await;
            put(&engines[by], "try", [1], 2).await;
            for engine in &engines {
                // States of which only some are what is looked for.
                put(engine, "main", [4], 7).await;
                put(engine, "try", [5], 8).await;
                together(&nodes, &engines, &bucket).await;
            }
            let merged = merge(&engines[by], from, into, Policy::Fail).await;
            assert!(!merged.refused && merged.commit.is_some(), "{merged:?}");
            together(&nodes, &engines, &bucket).await;
            // Here both go on: one from what was merged, the other beside it.
            let [here, _] = &engines;
            put(here, into, [1], 3).await;
            write(here, from, json!({"patch_rows": [{"id": 1, "m": 9}]})).await;
            for policy in [Policy::FieldsOrFail, Policy::Fields] {
                let dry = MergeRequest { policy, dry_run: true, ..MergeRequest::default() };
                let report = here.merge(&name(from), &name(into), dry).await.unwrap();
                assert_eq!(report.clashing, 0, "merged by {by}, {from} into {into}, {policy}: {report:?}");
            }
            engines[0] = nodes[0].cut_power(engines[0].clone());
            merge(&engines[0], from, into, Policy::Fields).await;
            assert_eq!(values(&engines[0], into, 1), [Some(3), Some(9)], "merged by {by}, {from} into {into}");
            assert!(engines[0].check(4).unwrap().is_whole());
        }
    }
}

/// The source went on before the bucket had what was merged of it: no state that came here is what both had in common, but of each
/// document that it left alone what it has is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_went_on_before_it_was_sent_tells_of_what_it_left_alone() {
    let (nodes, engines, bucket) = two(710).await;
    put(&engines[1], "try", [1, 2], 2).await;
    merge(&engines[1], "try", "main", Policy::Fail).await;
    put(&engines[1], "try", [2], 4).await;
    together(&nodes, &engines, &bucket).await;
    put(&engines[0], "main", [1], 3).await;
    write(&engines[0], "try", json!({"patch_rows": [{"id": 1, "m": 9}]})).await;
    let report = merge(&engines[0], "try", "main", Policy::Fields).await;
    assert_eq!((report.clashing, values(&engines[0], "main", 1)), (0, [Some(3), Some(9)]), "{report:?}");
    // What it changed since is unknown to the other side, whose it is.
    assert_eq!(values(&engines[0], "main", 2)[0], Some(4));
}

/// A past state that is damaged is unknown: a merge shows more conflicts then, and goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_past_state_ends_no_merge() {
    let (nodes, engines, bucket) = two(720).await;
    put(&engines[1], "try", [1], 2).await;
    merge(&engines[1], "try", "main", Policy::Fail).await;
    together(&nodes, &engines, &bucket).await;
    let mut damaged = 0;
    for namespace in ["main", "try"] {
        put(&engines[0], namespace, [1], 3).await;
        engines[0].checkpoint(&name(namespace)).await.unwrap();
        let nsid = engines[0].status(&name(namespace)).unwrap()["nsid"].as_str().unwrap().to_owned();
        let dir = std::path::Path::new("/data/local").join(nsid);
        let newest = engines[0].history(&name(namespace)).unwrap()[0].generation;
        for generation in 1..newest {
            let path = dir.join(format!("{generation:020}.json"));
            if let Ok(bytes) = nodes[0].disk.read(&path) {
                damaged += 1;
                nodes[0].disk.remove(&path).unwrap();
                nodes[0].disk.create(&path).unwrap().write(&bytes[..bytes.len() / 2]).unwrap();
            }
        }
    }
    assert!(damaged > 1, "{damaged}");
    put(&engines[0], "try", [3], 3).await;
    let report = merge(&engines[0], "try", "main", Policy::Lww).await;
    assert_eq!((report.updated, values(&engines[0], "main", 3)[0]), (1, Some(3)), "{report:?}");
}
