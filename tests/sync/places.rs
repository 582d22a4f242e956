//! The same meeting in every kind of bucket: memory, a directory, and the servers that are there.

use std::sync::Arc;

use serde_json::json;
use shoal::engine::merge::MergeRequest;
use shoal::platform::clock::SystemClock;
use shoal::platform::random::SeededRandom;
use shoal::store::{Bucket, BucketConfig};

use crate::fleet::{self, fresh, lost, meet, sync};
use crate::node::{DAY_MS, Node, all, branch, name, put, write};
use crate::reclaiming::churn;
use crate::started::{azurite, moto, seaweedfs};
use crate::tags::{self, at, tag};
use crate::upkeep::{contents, reclaim_to_the_end};

/// Two nodes write apart, branch, delete, merge and meet; what one of them tags outlives reclaim until the other deletes the tag; a third
/// comes later; a namespace is deleted everywhere, and what nobody needs any more is gone from the bucket.
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
    let merged = there.merge(&name("try"), &name("docs"), MergeRequest::default()).await.unwrap();
    assert_eq!(merged.inserted, 5);
    meet(&both, bucket).await;
    let tagged = all(&engine, "docs");
    assert_eq!(tagged.len(), met.len() + 5);
    tag(&engine, "docs", "v1").await;
    churn(&node, &engine, bucket, 3).await;
    meet(&both, bucket).await;
    reclaim_to_the_end(&other, &there, bucket).await;
    assert_eq!([at(&engine, "docs", "v1"), at(&there, "docs", "v1")], [tagged.clone(), tagged.clone()]);
    assert_eq!(tags::fresh(8, bucket, "docs", "v1").await, tagged);
    other.clock.advance(DAY_MS);
    there.untag(&name("docs"), "v1").await.unwrap();
    meet(&both, bucket).await;
    assert!(engine.tags(&name("docs")).unwrap().is_empty());
    node.clock.advance(5 * DAY_MS);
    reclaim_to_the_end(&node, &engine, bucket).await;
    assert!(contents(bucket).await.tags.is_empty());
    node.clock.advance(60_000);
    engine.delete(&name("docs")).await.unwrap();
    let engine = node.cut_power(engine);
    sync(&node, &engine, bucket).await.unwrap();
    sync(&other, &there, bucket).await.unwrap();
    assert_eq!(there.named().len(), 1);
    other.clock.advance(10 * DAY_MS);
    reclaim_to_the_end(&other, &there, bucket).await;
    assert_eq!(fresh(7, bucket, "try").await, all(&engine, "try"));
    for engine in [&engine, &there] {
        assert!(engine.check(3).unwrap().is_whole());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_meet_in_memory() {
    everybody_has_everything(&fleet::bucket(1)).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn nodes_meet_in_azurite() {
    if let Some((_server, bucket)) = azurite().await {
        everybody_has_everything(&bucket).await;
    }
}
