//! A tag goes by a deletion only: not with a bucket that was put back from an older copy, and not with a file that was lost there.

use std::collections::BTreeMap;

use bytes::Bytes;
use shoal::engine::Engine;
use shoal::store::{Bucket, Patience};

use crate::fleet::{meet, sync};
use crate::node::{DAY_MS, all, name, put};
use crate::reclaiming::{churn, two};
use crate::tags::{at, fresh, tag};
use crate::upkeep::{reclaim, reclaim_to_the_end};

const P: &Patience = &Patience::ASKED;

fn tags(engine: &Engine) -> Vec<String> {
    engine.tags(&name("docs")).unwrap().into_iter().map(|tag| tag.name).collect()
}

async fn copy(bucket: &Bucket) -> BTreeMap<String, Bytes> {
    let mut found = BTreeMap::new();
    for listed in bucket.list_all("", None, 100_000, P).await.unwrap() {
        found.insert(listed.key.clone(), bucket.get(&listed.key, P).await.unwrap().unwrap());
    }
    found
}

async fn put_back(bucket: &Bucket, copy: &BTreeMap<String, Bytes>) {
    for listed in bucket.list_all("", None, 100_000, P).await.unwrap() {
        bucket.delete(&listed.key, P).await.unwrap();
    }
    for (key, bytes) in copy {
        bucket.put(key, bytes.clone(), P).await.unwrap();
    }
}

async fn lose(bucket: &Bucket, tag: &str) {
    let mut lost = 0;
    for listed in bucket.list_all("", None, 100_000, P).await.unwrap() {
        if listed.key.contains(&format!("/tags/{tag}/")) {
            bucket.delete(&listed.key, P).await.unwrap();
            lost += 1;
        }
    }
    assert!(lost > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_was_set_since_a_copy_outlives_the_bucket_that_is_put_back_from_it() {
    let (bucket, nodes, engines) = two(1).await;
    let both = [(&nodes[0], &engines[0]), (&nodes[1], &engines[1])];
    tag(&engines[0], "docs", "monday").await;
    meet(&both, &bucket).await;
    let monday = copy(&bucket).await;
    put(&engines[0], "docs", 0..60, 2).await;
    let tagged = all(&engines[0], "docs");
    tag(&engines[0], "docs", "tuesday").await;
    sync(&nodes[0], &engines[0], &bucket).await.unwrap();
    churn(&nodes[0], &engines[0], &bucket, 3).await;
    reclaim_to_the_end(&nodes[0], &engines[0], &bucket).await;
    put_back(&bucket, &monday).await;
    for _ in 0..2 {
        sync(&nodes[0], &engines[0], &bucket).await.unwrap();
        assert_eq!(tags(&engines[0]), ["monday", "tuesday"]);
        assert_eq!(at(&engines[0], "docs", "tuesday"), tagged);
    }
    meet(&both, &bucket).await;
    assert_eq!(at(&engines[1], "docs", "tuesday"), tagged);
    assert_eq!(fresh(3, &bucket, "docs", "tuesday").await, tagged);
    let unsent = engines[0].unsent(&name("docs")).await.unwrap();
    assert!(unsent.is_durable, "{unsent:?}");
    // A deletion that is seen counts as ever.
    nodes[1].clock.advance(3 * DAY_MS);
    engines[1].untag(&name("docs"), "tuesday").await.unwrap();
    meet(&[both[1], both[0]], &bucket).await;
    assert_eq!((tags(&engines[0]), tags(&engines[1])), (vec!["monday".into()], vec!["monday".to_owned()]));
    reclaim_to_the_end(&nodes[1], &engines[1], &bucket).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_agree_although_each_changed_tags_as_often_on_its_own_copy_of_the_bucket() {
    let (bucket, nodes, engines) = two(2).await;
    let both = [(&nodes[0], &engines[0]), (&nodes[1], &engines[1])];
    tag(&engines[0], "docs", "v1").await;
    meet(&both, &bucket).await;
    let older = copy(&bucket).await;
    tag(&engines[0], "docs", "of-one").await;
    sync(&nodes[0], &engines[0], &bucket).await.unwrap();
    put_back(&bucket, &older).await;
    tag(&engines[1], "docs", "of-other").await;
    sync(&nodes[1], &engines[1], &bucket).await.unwrap();
    meet(&both, &bucket).await;
    assert_eq!(tags(&engines[0]), ["of-one", "of-other", "v1"]);
    assert_eq!(tags(&engines[1]), tags(&engines[0]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_whose_file_the_bucket_lost_is_sent_again() {
    let (bucket, nodes, engines) = two(3).await;
    let both = [(&nodes[0], &engines[0]), (&nodes[1], &engines[1])];
    let tagged = all(&engines[0], "docs");
    tag(&engines[0], "docs", "keep").await;
    meet(&both, &bucket).await;
    lose(&bucket, "keep").await;
    tag(&engines[1], "docs", "other").await;
    sync(&nodes[1], &engines[1], &bucket).await.unwrap();
    let status = sync(&nodes[0], &engines[0], &bucket).await.unwrap();
    let told = status.namespaces[&name("docs")].notice.clone().unwrap();
    assert!(told.contains("tag 'keep' is not in the bucket any more"), "{told}");
    meet(&both, &bucket).await;
    assert_eq!((tags(&engines[0]), tags(&engines[1])), (tags(&engines[1]), vec!["keep".into(), "other".into()]));
    assert_eq!(fresh(4, &bucket, "docs", "keep").await, tagged);
    // And where nobody changes another one: who reclaims finds it.
    lose(&bucket, "keep").await;
    assert!(reclaim(&nodes[0], &engines[0], &bucket, DAY_MS).await.failed.is_none());
    assert!(!engines[0].unsent(&name("docs")).await.unwrap().is_durable);
    meet(&both, &bucket).await;
    assert_eq!(fresh(5, &bucket, "docs", "keep").await, tagged);
    assert!(engines[0].unsent(&name("docs")).await.unwrap().is_durable);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_is_reclaimed_is_told_by_its_fence() {
    let (bucket, nodes, engines) = two(4).await;
    let both = [(&nodes[0], &engines[0]), (&nodes[1], &engines[1])];
    tag(&engines[0], "docs", "old").await;
    meet(&both, &bucket).await;
    nodes[0].clock.advance(1_000);
    engines[0].untag(&name("docs"), "old").await.unwrap();
    sync(&nodes[0], &engines[0], &bucket).await.unwrap();
    // By a run that ends with a fence, and removes no list.
    nodes[0].clock.advance(DAY_MS / 2);
    assert!(reclaim(&nodes[0], &engines[0], &bucket, DAY_MS / 4).await.failed.is_none());
    let left = bucket.list_all("", None, 100_000, P).await.unwrap();
    assert!(!left.iter().any(|listed| listed.key.contains("/tags/")), "{left:?}");
    assert!(left.iter().any(|listed| listed.key.contains("/sweeps/")), "{left:?}");
    sync(&nodes[1], &engines[1], &bucket).await.unwrap();
    assert_eq!(tags(&engines[1]), Vec::<String>::new());
    meet(&both, &bucket).await;
    assert_eq!(tags(&engines[0]), Vec::<String>::new());
    reclaim_to_the_end(&nodes[0], &engines[0], &bucket).await;
}
