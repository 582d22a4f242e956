//! A bucket that has the most names of one namespace's tags: what finds no room is refused or told, and goes once there is room.

use std::sync::Arc;

use shoal::engine::Engine;
use shoal::engine::lineage::UNTOLD_MAX;
use shoal::format::marks::{TAGS_SHARED_MAX, TagFile, VERSION, encode_tag};
use shoal::store::{Bucket, Patience};
use shoal::sync::Status;

use crate::fleet::{meet, sync};
use crate::node::{DAY_MS, Node, name};
use crate::reclaiming::two;
use crate::tags::tag;
use crate::tags_untold::leave_deleted;
use crate::upkeep::reclaim;

const P: &Patience = &Patience::ASKED;
/// When the tags were deleted that crowd a bucket.
const GONE_MS: u64 = 1_000;

fn tags(engine: &Engine) -> Vec<String> {
    engine.tags(&name("docs")).unwrap().into_iter().map(|tag| tag.name).collect()
}

/// Leaves deleted tags in the bucket until it has the most names, and has a node know of them.
async fn crowd(bucket: &Bucket, engine: &Engine) {
    let nsid = engine.nsid_of(&name("docs")).unwrap();
    let mut known = engine.known_tags(nsid).unwrap();
    assert!(known.changes > 0, "a bucket of which nobody announced tags is not asked for them");
    for n in 0..TAGS_SHARED_MAX - known.revisions.len() {
        let tag = format!("gone-{n:04}");
        let file = TagFile { format: VERSION, tag: tag.clone(), rev: GONE_MS, at_ms: GONE_MS, manifest: None };
        let key = format!("default/default/namespaces/{nsid}/tags/{tag}/{GONE_MS:020}.json");
        bucket.put(&key, encode_tag(&file).unwrap().into(), P).await.unwrap();
        known.revisions.insert(tag, GONE_MS);
    }
    engine.note_tags(nsid, &known).unwrap();
}

/// Removes from the bucket what says of tags that they were deleted.
async fn make_room(node: &Node, engine: &Arc<Engine>, bucket: &Bucket) {
    node.clock.advance(DAY_MS);
    let run = reclaim(node, engine, bucket, DAY_MS / 2).await;
    assert!(run.failed.is_none(), "{:?}", run.failed);
}

fn notice(status: &Status) -> String {
    status.namespaces[&name("docs")].notice.clone().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_of_a_new_name_is_refused_in_words_while_the_bucket_has_the_most() {
    let (bucket, nodes, engines) = two(1).await;
    let both = [(&nodes[0], &engines[0]), (&nodes[1], &engines[1])];
    tag(&engines[0], "docs", "v1").await;
    meet(&both, &bucket).await;
    crowd(&bucket, &engines[0]).await;
    let refused = engines[0].tag(&name("docs"), "new", None).await.unwrap_err();
    assert!(refused.message().contains("4096 names of tags"), "{refused}");
    assert!(refused.hint().is_some_and(|hint| hint.contains("retention_days")), "{refused}");
    // A name that the bucket has needs no room, be it of a deleted tag or of one that is deleted now.
    tag(&engines[0], "docs", "gone-0007").await;
    engines[0].untag(&name("docs"), "v1").await.unwrap();
    meet(&both, &bucket).await;
    tag(&engines[0], "docs", "v1").await;
    meet(&both, &bucket).await;
    assert_eq!(tags(&engines[1]), ["gone-0007", "v1"]);
    assert!(engines[0].unsent(&name("docs")).await.unwrap().is_nothing);
    // Whoever reclaims: a pass finds the room, although no tag was changed since.
    make_room(&nodes[1], &engines[1], &bucket).await;
    sync(&nodes[0], &engines[0], &bucket).await.unwrap();
    tag(&engines[0], "docs", "new").await;
    meet(&both, &bucket).await;
    assert_eq!(tags(&engines[1]), ["gone-0007", "new", "v1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_sent_yet_takes_the_room_that_is_left() {
    let (bucket, nodes, engines) = two(2).await;
    tag(&engines[0], "docs", "v1").await;
    sync(&nodes[0], &engines[0], &bucket).await.unwrap();
    crowd(&bucket, &engines[0]).await;
    let nsid = engines[0].nsid_of(&name("docs")).unwrap();
    let mut known = engines[0].known_tags(nsid).unwrap();
    known.revisions.remove("gone-0000");
    engines[0].note_tags(nsid, &known).unwrap();
    tag(&engines[0], "docs", "last").await;
    let refused = engines[0].tag(&name("docs"), "one-more", None).await.unwrap_err();
    assert!(refused.message().contains("4096 names of tags"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_was_set_before_and_finds_no_room_is_told_and_goes_once_there_is_room() {
    let (bucket, nodes, engines) = two(3).await;
    let both = [(&nodes[0], &engines[0]), (&nodes[1], &engines[1])];
    tag(&engines[0], "docs", "v1").await;
    meet(&both, &bucket).await;
    // Set apart from those that crowd the bucket.
    tag(&engines[0], "docs", "apart").await;
    tag(&engines[0], "docs", "beside").await;
    crowd(&bucket, &engines[0]).await;
    engines[0].untag(&name("docs"), "v1").await.unwrap();
    for pass in 0..2 {
        let told = notice(&sync(&nodes[0], &engines[0], &bucket).await.unwrap());
        assert!(told.contains("'apart', 'beside'") && told.contains("no room"), "pass {pass}: {told}");
        let unsent = engines[0].unsent(&name("docs")).await.unwrap();
        assert!(!unsent.is_durable && !unsent.is_nothing && unsent.objects == 2, "pass {pass}: {unsent:?}");
        assert!(unsent.since_ms.is_some(), "pass {pass}: {unsent:?}");
    }
    // The deletion of one that the bucket has went all the same.
    sync(&nodes[1], &engines[1], &bucket).await.unwrap();
    assert_eq!(tags(&engines[1]), Vec::<String>::new());
    make_room(&nodes[1], &engines[1], &bucket).await;
    let told = notice(&sync(&nodes[0], &engines[0], &bucket).await.unwrap());
    assert!(!told.contains("no room"), "{told}");
    let unsent = engines[0].unsent(&name("docs")).await.unwrap();
    assert!(unsent.is_durable && unsent.is_nothing, "{unsent:?}");
    sync(&nodes[1], &engines[1], &bucket).await.unwrap();
    assert_eq!(tags(&engines[1]), ["apart", "beside"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn deletions_of_tags_that_the_bucket_never_had_need_no_room() {
    let (bucket, nodes, engines) = two(4).await;
    tag(&engines[0], "docs", "v1").await;
    sync(&nodes[0], &engines[0], &bucket).await.unwrap();
    (0..UNTOLD_MAX).for_each(|n| leave_deleted(&nodes[0], &engines[0], &format!("left-{n}")));
    crowd(&bucket, &engines[0]).await;
    let refused = engines[0].tag(&name("docs"), "gone-0007", None).await.unwrap_err();
    assert!(refused.hint().is_some_and(|hint| hint.contains("let a pass tell the bucket")), "{refused}");
    sync(&nodes[0], &engines[0], &bucket).await.unwrap();
    let unsent = engines[0].unsent(&name("docs")).await.unwrap();
    assert!(unsent.is_durable && unsent.is_nothing, "{unsent:?}");
    tag(&engines[0], "docs", "gone-0007").await;
    assert_eq!(tags(&engines[0]), ["gone-0007", "v1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_of_a_tag_that_the_bucket_has_unknown_to_its_node_is_not_lost() {
    let (bucket, nodes, engines) = two(5).await;
    let both = [(&nodes[0], &engines[0]), (&nodes[1], &engines[1])];
    tag(&engines[0], "docs", "v1").await;
    tag(&engines[0], "docs", "zz").await;
    meet(&both, &bucket).await;
    // As by a pass that was interrupted before the commit, while others took the room.
    let nsid = engines[0].nsid_of(&name("docs")).unwrap();
    let mut known = engines[0].known_tags(nsid).unwrap();
    known.revisions.remove("zz");
    engines[0].note_tags(nsid, &known).unwrap();
    crowd(&bucket, &engines[0]).await;
    nodes[0].clock.advance(1_000);
    engines[0].untag(&name("docs"), "zz").await.unwrap();
    meet(&both, &bucket).await;
    assert_eq!((tags(&engines[0]), tags(&engines[1])), (vec!["v1".to_owned()], vec!["v1".to_owned()]));
}
