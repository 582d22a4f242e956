//! A tag that is read wrong, once or a few times, here or in the bucket, while its file is sound: nodes do not differ for long, and
//! nobody is told meanwhile that they are together.

use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;

use shoal::engine::Engine;
use shoal::engine::merge::decide::Policy;
use shoal::platform::memory_disk::{Mishap, MishapKind};
use shoal::store::Bucket;
use shoal::sync::Sync;

use crate::fleet::{meet, options, sync};
use crate::node::{Node, name, put};
use crate::odd_store::OddStore;
use crate::tags::tag;

const HOUR_MS: u64 = 3_600_000;

fn tags(engine: &Engine) -> Vec<String> {
    engine.tags(&name("docs")).unwrap().into_iter().map(|tag| tag.name).collect()
}

async fn is_together(engine: &Engine) -> bool {
    engine.unsent(&name("docs")).await.unwrap().is_durable
}

/// Two nodes that are together and have a tag, which the other one deleted since.
async fn deleted_elsewhere() -> (Arc<OddStore>, Bucket, [Node; 2], [Arc<Engine>; 2]) {
    let (store, nodes) = (Arc::new(OddStore::default()), [Node::new(1), Node::new(2)]);
    let (bucket, engines) = (store.bucket(&nodes[0]), [nodes[0].open(), nodes[1].open()]);
    put(&engines[0], "docs", 0..10, 1).await;
    tag(&engines[0], "docs", "v1").await;
    meet(&[(&nodes[0], &engines[0]), (&nodes[1], &engines[1])], &bucket).await;
    assert_eq!(tags(&engines[1]), ["v1"]);
    nodes[1].clock.advance(1_000);
    engines[1].untag(&name("docs"), "v1").await.unwrap();
    sync(&nodes[1], &engines[1], &bucket).await.unwrap();
    (store, bucket, nodes, engines)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_is_read_wrong_in_the_bucket_is_taken_in_by_the_same_pass_or_a_later_one() {
    for (misreads, restarts) in [(1, false), (2, false), (2, true), (5, false)] {
        let (store, bucket, nodes, engines) = deleted_elsewhere().await;
        let mut engine = engines[0].clone();
        let mut link = Sync::new(engine.clone(), bucket.clone(), options(Policy::Lww), nodes[0].clock.clone());
        store.misreads.store(misreads, SeqCst);
        for _ in 0..2 {
            // Something else may be sent meanwhile.
            put(&engine, "docs", [7], misreads).await;
            link.run().await.unwrap();
            assert_eq!(tags(&engine).is_empty(), misreads == 1);
            assert_eq!(is_together(&engine).await, misreads == 1);
            let notice = link.status().namespaces[&name("docs")].notice.clone().unwrap_or_default();
            assert_eq!(notice.contains("tag 'v1' is not taken from the bucket"), misreads > 1, "{notice}");
        }
        if restarts {
            drop((link, engines));
            engine = nodes[0].cut_power(engine);
            assert!(!is_together(&engine).await);
            link = Sync::new(engine.clone(), bucket.clone(), options(Policy::Lww), nodes[0].clock.clone());
            link.run().await.unwrap();
        } else {
            for _ in 0..3 {
                nodes[0].clock.advance(HOUR_MS);
                link.run().await.unwrap();
            }
        }
        assert!(tags(&engine).is_empty() && is_together(&engine).await, "{misreads} {restarts}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_is_read_wrong_here_is_sent_by_the_same_pass_or_a_later_one() {
    misread_here(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_is_taken_in_though_what_is_here_of_the_tag_is_read_wrong() {
    misread_here(true).await;
}

/// Every read of a tag here is wrong once, in the pass that sends it, or takes in its deletion.
async fn misread_here(is_deletion: bool) {
    for after in 0.. {
        let (store, nodes) = (Arc::new(OddStore::default()), [Node::new(1), Node::new(2)]);
        let (bucket, engines) = (store.bucket(&nodes[0]), [nodes[0].open(), nodes[1].open()]);
        let both = [(&nodes[0], &engines[0]), (&nodes[1], &engines[1])];
        put(&engines[0], "docs", 0..10, 1).await;
        if is_deletion {
            tag(&engines[0], "docs", "v1").await;
        }
        meet(&both, &bucket).await;
        nodes[1].clock.advance(1_000);
        if is_deletion {
            engines[1].untag(&name("docs"), "v1").await.unwrap();
        } else {
            tag(&engines[0], "docs", "v1").await;
        }
        sync(&nodes[1], &engines[1], &bucket).await.unwrap();
        let link = Sync::new(engines[0].clone(), bucket.clone(), options(Policy::Lww), nodes[0].clock.clone());
        let kind = MishapKind::ReadsWrong(301);
        nodes[0].disk.set_mishap(Some(Mishap { after, within: Some("/tags/v1/".to_owned()), kind }));
        let done = link.run().await;
        let is_over = nodes[0].disk.planned().is_some();
        nodes[0].disk.set_mishap(None);
        sync(&nodes[1], &engines[1], &bucket).await.unwrap();
        let revisions = || {
            engines.each_ref().map(|engine| {
                let nsid = engine.nsid_of(&name("docs")).unwrap();
                (tags(engine), engine.tag_revisions(nsid).unwrap())
            })
        };
        let [here, there] = revisions();
        assert!(here == there || done.is_err() || !is_together(&engines[0]).await, "{after}: {here:?} {there:?}");
        nodes[0].clock.advance(HOUR_MS);
        link.run().await.unwrap();
        sync(&nodes[1], &engines[1], &bucket).await.unwrap();
        let [here, there] = revisions();
        assert_eq!(here, there, "{after}");
        assert!(is_together(&engines[0]).await, "{after}");
        if is_over {
            assert!(after > 0, "nothing was read wrong");
            assert_eq!(here.0.is_empty(), is_deletion);
            return;
        }
    }
}
