//! The same meeting in every kind of bucket: a directory, and the servers that are there.

use std::sync::Arc;

use serde_json::json;
use shoal::platform::clock::SystemClock;
use shoal::platform::random::SeededRandom;
use shoal::store::{Bucket, BucketConfig};

use crate::fleet::{fresh, lost, meet, sync};
use crate::node::{Node, all, branch, name, put, write};
use crate::started::{moto, seaweedfs};

/// Two nodes write apart, branch, delete, merge and meet; a third comes later; a namespace is deleted everywhere.
async fn everybody_has_everything(bucket: &Bucket) {
    let (node, other) = (Node::new(1), Node::new(2));
    let (engine, there) = (node.open(), other.open());
    put(&engine, "docs", 0..100, 1).await;
    branch(&engine, "docs", "try").await;
    let both = [(&node, &engine), (&other, &there)];
    meet(&both, bucket).await;
    for day in 0..3 {
        for (node, _) in &both {
            node.clock.advance(1_000);
        }
        put(&engine, "docs", 100 + 10 * day..110 + 10 * day, 2).await;
        write(&engine, "docs", json!({"deletes": [day]})).await;
        put(&there, "docs", 200 + 10 * day..210 + 10 * day, 3).await;
        put(&there, "try", 300..305, 3).await;
        put(&engine, "docs", [50], 10 + day).await;
        put(&there, "docs", [50], 20 + day).await;
        meet(&both, bucket).await;
        assert_eq!(all(&engine, "docs"), all(&there, "docs"));
    }
    let met = all(&engine, "docs");
    assert_eq!((met.len(), lost(&engine, "docs").len()), (100 + 30 + 30 - 3, 3));
    assert_eq!(lost(&there, "docs").len(), 3);
    assert_eq!(fresh(9, bucket, "docs").await, met);
    assert_eq!(all(&engine, "try"), all(&there, "try"));
    node.clock.advance(60_000);
    engine.delete(&name("docs")).await.unwrap();
    let engine = node.cut_power(engine);
    sync(&node, &engine, bucket).await.unwrap();
    sync(&other, &there, bucket).await.unwrap();
    assert_eq!(there.named().len(), 1);
    for engine in [&engine, &there] {
        assert!(engine.check(3).unwrap().is_whole());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_meet_in_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let config = BucketConfig { url: format!("file://{}", dir.path().display()), ..BucketConfig::default() };
    let bucket = Bucket::open(&config, Arc::new(SystemClock), Arc::new(SeededRandom::new(5))).unwrap();
    everybody_has_everything(&bucket).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_meet_in_seaweedfs() {
    if let Some((_server, bucket)) = seaweedfs().await {
        everybody_has_everything(&bucket).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_meet_in_moto() {
    if let Some((_server, bucket)) = moto().await {
        everybody_has_everything(&bucket).await;
    }
}
