//! Deleted tags that a bucket was not told of yet: none of them is forgotten, and they are bounded in number.

use std::path::Path;

use shoal::engine::Engine;
use shoal::engine::lineage::UNTOLD_MAX;
use shoal::format::marks::{TagFile, VERSION, encode_tag};
use shoal::platform::clock::Clock as _;
use shoal::platform::disk::{create_dirs, publish};

use crate::fleet::{meet, sync};
use crate::node::{DAY_MS, Node, name};
use crate::reclaiming::two;
use crate::tags::tag;

/// Leaves what says that a tag was deleted now.
pub fn leave_deleted(node: &Node, engine: &Engine, tag: &str) {
    let nsid = engine.nsid_of(&name("docs")).unwrap().to_string();
    let (dir, at_ms) = (Path::new("/data/local").join(nsid).join("tags").join(tag), node.clock.now_millis());
    create_dirs(&node.disk, &dir).unwrap();
    let file = TagFile { format: VERSION, tag: tag.to_owned(), rev: at_ms, at_ms, manifest: None };
    publish(&node.disk, &dir.join(format!("{at_ms:020}.json")), &encode_tag(&file).unwrap()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_deletion_that_the_bucket_was_not_told_of_is_forgotten_for_want_of_room() {
    let (bucket, nodes, engines) = two(1).await;
    let both = [(&nodes[0], &engines[0]), (&nodes[1], &engines[1])];
    tag(&engines[0], "docs", "v1").await;
    meet(&both, &bucket).await;
    assert_eq!(engines[1].tags(&name("docs")).unwrap().len(), 1);
    // Away from the bucket for longer than past states are kept, and the deletion of one that it has is the oldest.
    engines[0].untag(&name("docs"), "v1").await.unwrap();
    nodes[0].clock.advance(30 * DAY_MS);
    (0..UNTOLD_MAX - 3).for_each(|n| leave_deleted(&nodes[0], &engines[0], &format!("left-{n}")));
    for last in ["a", "b"] {
        tag(&engines[0], "docs", last).await;
        engines[0].untag(&name("docs"), last).await.unwrap();
    }
    let refused = engines[0].tag(&name("docs"), "c", None).await.unwrap_err();
    assert!(refused.message().contains("was not told of"), "{refused}");
    assert!(refused.hint().is_some_and(|hint| hint.contains("pass")), "{refused}");
    // One whose deletion is kept takes its place.
    tag(&engines[0], "docs", "a").await;
    sync(&nodes[0], &engines[0], &bucket).await.unwrap();
    tag(&engines[0], "docs", "c").await;
    meet(&both, &bucket).await;
    for engine in &engines {
        let tags: Vec<String> = engine.tags(&name("docs")).unwrap().into_iter().map(|tag| tag.name).collect();
        assert_eq!(tags, ["a", "c"]);
    }
}
