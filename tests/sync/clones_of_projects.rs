//! Disks that were cloned, and projects: what shows in one costs it, and those it has given something to, new origins, and no others.

use std::sync::Arc;

use serde_json::json;
use shoal::engine::Engine;
use shoal::model::ids::{NamespaceName, Project};
use shoal::store::Bucket;

use crate::fleet::{bucket, meet, sync};
use crate::node::{Node, all, documents, name, put, try_write};

pub fn elsewhere(text: &str) -> NamespaceName {
    Project::new("acme", "other").unwrap().namespace(text).unwrap()
}

async fn put_elsewhere(engine: &Arc<Engine>, text: &str, id: u64) {
    try_write(engine, &elsewhere(text), json!({"upsert_rows": [{"id": id, "n": id}]})).await.unwrap();
}

/// A disk with namespaces of two projects, and its clone, which writes to the first one's only.
async fn clones_of_two_projects(seed: u64) -> (Bucket, [Node; 2], [Arc<Engine>; 2]) {
    let (bucket, node) = (bucket(seed), Node::new(1));
    let engine = node.open();
    put(&engine, "docs", 0..10, 1).await;
    put_elsewhere(&engine, "theirs", 1).await;
    sync(&node, &engine, &bucket).await.unwrap();
    engine.shutdown().await.unwrap();
    drop(engine);
    let nodes = [Node { disk: node.disk.duplicate(), ..Node::new(2) }, node];
    let engines = [nodes[0].open(), nodes[1].open()];
    put(&engines[1], "docs", 20..22, 2).await;
    sync(&nodes[1], &engines[1], &bucket).await.unwrap();
    (bucket, nodes, engines)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_looks_cloned_in_one_project_costs_no_other_project_anything() {
    let (bucket, nodes, engines) = clones_of_two_projects(31).await;
    put_elsewhere(&engines[0], "theirs", 2).await;
    let origin = |name: &NamespaceName| engines[0].origin(name).unwrap();
    let before = (origin(&name("docs")), origin(&elsewhere("theirs")));
    let status = sync(&nodes[0], &engines[0], &bucket).await.unwrap();
    assert!(status.namespaces[&name("docs")].notice.is_some());
    assert_ne!(origin(&name("docs")), before.0);
    assert_eq!(origin(&elsewhere("theirs")), before.1);
    // Where the clone wrote there, too, that shows there, and nothing is lost.
    put_elsewhere(&engines[1], "theirs", 3).await;
    meet(&[(&nodes[0], &engines[0]), (&nodes[1], &engines[1])], &bucket).await;
    for engine in &engines {
        assert_eq!(documents(&engine.view(&elsewhere("theirs")).unwrap()).len(), 3);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_project_with_a_deep_copy_of_what_looks_cloned_parts_with_it() {
    let (bucket, nodes, engines) = clones_of_two_projects(32).await;
    put(&engines[0], "docs", 30..32, 3).await;
    let token = engines[0].start_copy(&name("docs"), &elsewhere("copy"), true).unwrap();
    while engines[0].poll_copy(&elsewhere("copy"), &token).unwrap().finished.is_none() {
        tokio::task::yield_now().await;
    }
    let before = engines[0].origin(&elsewhere("theirs")).unwrap();
    sync(&nodes[0], &engines[0], &bucket).await.unwrap();
    assert_ne!(engines[0].origin(&elsewhere("theirs")).unwrap(), before);
    meet(&[(&nodes[0], &engines[0]), (&nodes[1], &engines[1])], &bucket).await;
    for engine in &engines {
        assert_eq!((all(engine, "docs").len(), documents(&engine.view(&elsewhere("copy")).unwrap()).len()), (14, 12));
    }
}
