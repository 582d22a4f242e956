//! Namespaces that a node follows: it has what the bucket has, and nothing of it goes there.

use shoal::model::name_patterns::NamePatterns;
use shoal::store::{Bucket, Patience};
use shoal::sync::{Selection, Sync};

use crate::fleet::{bucket, fresh, meet, names, options, sync};
use crate::node::{DAY_MS, Node, all, branch, name, put, write};

/// A node that follows what these patterns name.
pub fn follower(seed: u64, patterns: &[&str]) -> Node {
    let patterns: Vec<String> = patterns.iter().map(|text| (*text).to_owned()).collect();
    let mut node = Node::new(seed);
    node.config.followed = NamePatterns::parse("follow", &patterns).unwrap();
    node
}

async fn keys(bucket: &Bucket) -> Vec<String> {
    let listed = bucket.list_all("", None, 10_000, &Patience::ASKED).await.unwrap();
    listed.into_iter().map(|listed| listed.key).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_has_what_others_write_and_sends_nothing() {
    let (bucket, node, other) = (bucket(1), Node::new(1), follower(2, &["*/*/docs*"]));
    let (engine, there) = (node.open(), other.open());
    put(&there, "docs-here", 0..5, 1).await;
    for day in 0..12 {
        put(&engine, "docs", 10 * day..10 * day + 12, day).await;
        sync(&node, &engine, &bucket).await.unwrap();
        let before = keys(&bucket).await;
        sync(&other, &there, &bucket).await.unwrap();
        assert_eq!(all(&there, "docs"), all(&engine, "docs"));
        assert_eq!(keys(&bucket).await, before);
    }
    // It stands on its own, and its segments are those of the bucket: merging them is left to who writes.
    let there = other.cut_power(there);
    assert_eq!((all(&there, "docs"), names(&there)), (all(&engine, "docs"), vec!["docs".into(), "docs-here".into()]));
    let nsid = there.named()[0].1;
    let common = there.common(nsid).unwrap().unwrap();
    assert_eq!(there.status(&name("docs")).unwrap()["segments"].as_array().unwrap().len(), common.segments.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_is_deleted_and_created_again_is_followed() {
    let (bucket, node, other) = (bucket(2), Node::new(1), follower(2, &["*/*/*"]));
    let (engine, there) = (node.open(), other.open());
    put(&engine, "docs", 0..10, 1).await;
    for _ in 0..2 {
        meet(&[(&node, &engine), (&other, &there)], &bucket).await;
        assert_eq!(names(&there), ["docs"]);
        node.clock.advance(1_000);
        engine.delete(&name("docs")).await.unwrap();
        meet(&[(&node, &engine), (&other, &there)], &bucket).await;
        assert_eq!(names(&there), Vec::<String>::new());
        node.clock.advance(1_000);
        put(&engine, "docs", 20..25, 2).await;
        meet(&[(&node, &engine), (&other, &there)], &bucket).await;
        assert_eq!(all(&there, "docs"), all(&engine, "docs"));
        // And at once, without a meeting in between.
        engine.delete(&name("docs")).await.unwrap();
        put(&engine, "docs", 30..33, 3).await;
    }
    meet(&[(&node, &engine), (&other, &there)], &bucket).await;
    assert_eq!(all(&there, "docs").len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_expired_here_is_not_fetched_again() {
    let (bucket, node, other) = (bucket(3), Node::new(1), follower(2, &["*/*/*"]));
    let (engine, there) = (node.open(), other.open());
    put(&engine, "docs", 0..10, 1).await;
    engine.set_ttl(&name("docs"), Some(DAY_MS)).await.unwrap();
    meet(&[(&node, &engine), (&other, &there)], &bucket).await;
    other.clock.advance(2 * DAY_MS);
    there.tend().await.unwrap();
    assert_eq!(names(&there), Vec::<String>::new());
    let before = keys(&bucket).await;
    sync(&other, &there, &bucket).await.unwrap();
    assert_eq!((names(&there), keys(&bucket).await), (Vec::new(), before));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_of_what_is_followed_is_written_and_sent() {
    let (bucket, node, other) = (bucket(4), Node::new(1), follower(2, &["*/*/docs"]));
    let (engine, there) = (node.open(), other.open());
    put(&engine, "docs", 0..20, 1).await;
    meet(&[(&node, &engine), (&other, &there)], &bucket).await;
    branch(&there, "docs", "mine").await;
    put(&there, "mine", 20..25, 2).await;
    meet(&[(&other, &there), (&node, &engine)], &bucket).await;
    assert_eq!(all(&engine, "mine"), all(&there, "mine"));
    assert_eq!((all(&engine, "mine").len(), all(&engine, "docs").len()), (25, 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_before_it_was_followed_stays_and_is_sent_once_it_is_followed_no_more() {
    let (bucket, node, mut other) = (bucket(5), Node::new(1), Node::new(2));
    let (engine, there) = (node.open(), other.open());
    put(&engine, "docs", 0..10, 1).await;
    meet(&[(&node, &engine), (&other, &there)], &bucket).await;
    write(&there, "docs", serde_json::json!({"deletes": [3]})).await;
    put(&there, "docs", 10..13, 2).await;
    put(&engine, "docs", 20..22, 3).await;
    drop(there);
    other.config.followed = follower(0, &["*/*/docs"]).config.followed;
    let there = other.open();
    meet(&[(&node, &engine), (&other, &there)], &bucket).await;
    assert_eq!((all(&there, "docs").len(), all(&engine, "docs").len()), (10 - 1 + 3 + 2, 12));
    drop(there);
    other.config.followed = NamePatterns::default();
    let there = other.open();
    meet(&[(&other, &there), (&node, &engine)], &bucket).await;
    assert_eq!((all(&engine, "docs"), all(&engine, "docs").len()), (all(&there, "docs"), 14));
    assert_eq!(fresh(6, &bucket, "docs").await, all(&there, "docs"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_without_news_costs_one_request_a_namespace() {
    let (bucket, node, other) = (bucket(6), Node::new(1), follower(2, &["*/*/*"]));
    let (engine, there) = (node.open(), other.open());
    for n in 0..4 {
        put(&engine, &format!("docs{n}"), 0..10, 1).await;
    }
    sync(&node, &engine, &bucket).await.unwrap();
    let link = Sync::new(
        there.clone(),
        bucket.clone(),
        options(shoal::engine::merge::decide::Policy::Lww),
        other.clock.clone(),
    );
    link.run().await.unwrap();
    let requests = || bucket.traffic().snapshot().requests.iter().map(|(_, _, count)| count).sum::<u64>();
    let before = requests();
    for pass in 1..=5 {
        other.clock.advance(10_000);
        let two = Selection::default().only([name("docs1"), name("docs2")].into()).unasked();
        assert!(link.run_for(&two).await.failed.is_none());
        assert_eq!(requests() - before, 2 * pass);
    }
}
