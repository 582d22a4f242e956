//! What went in comes out: every type, deletions, tails, lineage, flattened, since an earlier commit.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use shoal::engine::Engine;
use shoal::error::Kind;
use shoal::model::as_of::AsOf;
use shoal::model::ids::CommitId;
use shoal::platform::clock::Clock as _;
use shoal::snapshot::take::{Extent, take};

use super::node::{Full, Node, contents, files, fill, name, plain, request, restored, row, rows, snapshot, write};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_brings_every_document_to_another_node_as_it_was() {
    let (here, there) = (Node::new(1), Node::new(2));
    let (engine, other) = (here.open().unwrap(), there.open().unwrap());
    fill(&engine, "docs").await;
    engine.set_labels(&name("docs"), [("shop".to_owned(), "17".to_owned())].into()).await.unwrap();
    let expected = contents(&engine, &name("docs")).await.unwrap();
    assert_eq!(expected.len(), 30);
    let bytes = snapshot(&engine, "docs", Extent::Full).await.unwrap();
    let done = restored(&other, "back", &bytes).await.unwrap();
    assert_eq!((done.documents, done.bytes), (30, bytes.len() as u64));
    assert_eq!(contents(&other, &name("back")).await.unwrap(), expected);
    let before = engine.moment_at(&name("docs"), None).await.unwrap();
    let after = other.moment_at(&name("back"), None).await.unwrap();
    assert_eq!(after.view.schema, before.view.schema);
    assert_eq!(after.manifest.labels, before.manifest.labels);
    assert!(after.vector.covers_all(&before.vector) && after.manifest.origin != before.manifest.origin);
    let ids = |moment: &shoal::engine::namespace::Moment| -> Vec<_> {
        moment.manifest.segments.iter().map(|segment| (segment.segment_id, segment.crc32c)).collect()
    };
    assert_eq!((ids(&after), ids(&after).len()), (ids(&before), 3));
    // It lives on by itself, through a crash.
    write(&other, "back", json!({"deletes": [row(0)["id"]]})).await;
    drop(other);
    there.cut_power();
    let other = there.open().unwrap();
    assert_eq!(contents(&other, &name("back")).await.unwrap().len(), 29);
    assert!(tokio::task::block_in_place(|| other.check(3)).unwrap().is_whole());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_namespace_has_a_snapshot_too() {
    let node = Node::new(3);
    let engine = node.open().unwrap();
    engine.create(&name("docs"), Default::default()).await.unwrap();
    for (extent, to) in [(Extent::Full, "a"), (Extent::Flattened, "b")] {
        let bytes = snapshot(&engine, "docs", extent).await.unwrap();
        assert_eq!(restored(&engine, to, &bytes).await.unwrap().documents, 0);
        write(&engine, to, rows(0, 1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restoring_twice_gives_two_that_know_nothing_of_each_other() {
    let node = Node::new(4);
    let engine = node.open().unwrap();
    fill(&engine, "docs").await;
    let bytes = snapshot(&engine, "docs", Extent::Full).await.unwrap();
    restored(&engine, "a", &bytes).await.unwrap();
    restored(&engine, "b", &bytes).await.unwrap();
    let (a, b) =
        (engine.moment_at(&name("a"), None).await.unwrap(), engine.moment_at(&name("b"), None).await.unwrap());
    assert!(a.nsid != b.nsid && a.manifest.origin != b.manifest.origin);
    let keys = |moment: &shoal::engine::namespace::Moment| -> Vec<String> {
        let segments = moment.manifest.segments.iter();
        segments.flat_map(|s| [Some(s.key.clone()), s.deletions.as_ref().map(|d| d.key.clone())]).flatten().collect()
    };
    assert!(keys(&a).iter().all(|key| !keys(&b).contains(key)));
    let expected = contents(&engine, &name("docs")).await.unwrap();
    write(&engine, "a", rows(0, 40)).await;
    engine.delete(&name("docs")).await.unwrap();
    engine.delete(&name("a")).await.unwrap();
    assert_eq!(contents(&engine, &name("b")).await.unwrap(), expected);
    assert_eq!(restored(&engine, "b", &bytes).await.unwrap_err().code(), "exists");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flattened_snapshot_is_one_segment_without_what_is_dead() {
    let node = Node::new(5);
    let engine = node.open().unwrap();
    fill(&engine, "docs").await;
    let expected = contents(&engine, &name("docs")).await.unwrap();
    let bytes = snapshot(&engine, "docs", Extent::Flattened).await.unwrap();
    restored(&engine, "flat", &bytes).await.unwrap();
    assert_eq!(plain(contents(&engine, &name("flat")).await.unwrap()), plain(expected));
    let moment = engine.moment_at(&name("flat"), None).await.unwrap();
    let [segment] = moment.manifest.segments.as_slice() else { panic!("expected one segment") };
    assert_eq!((segment.rows, segment.tombstones, &segment.deletions), (30, 0, &None));
    assert!(moment.manifest.lineage.is_none());
    assert!(moment.manifest.horizon >= engine.moment_at(&name("docs"), None).await.unwrap().manifest.hlc);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_of_increments_follows_its_source() {
    let (here, there) = (Node::new(6), Node::new(7));
    let (engine, other) = (here.open().unwrap(), there.open().unwrap());
    fill(&engine, "docs").await;
    let full = snapshot(&engine, "docs", Extent::Full).await.unwrap();
    let commit = engine.moment_at(&name("docs"), None).await.unwrap().manifest.commit_id;
    restored(&other, "docs", &full).await.unwrap();
    let same = async || {
        let (theirs, ours) = (contents(&other, &name("docs")).await.unwrap(), contents(&engine, &name("docs")).await);
        assert_eq!(theirs, ours.unwrap());
        let report = tokio::task::block_in_place(|| other.check(3)).unwrap();
        assert!(report.is_whole(), "{report:?}");
    };
    // Nothing new: nothing is carried.
    let nothing = snapshot(&engine, "docs", Extent::Since(AsOf::Commit(commit))).await.unwrap();
    assert!(nothing.len() < full.len() / 2, "{} bytes of {}", nothing.len(), full.len());
    let incarnation = other.moment_at(&name("docs"), None).await.unwrap().nsid;
    let mut last = restored(&other, "docs", &nothing).await.unwrap();
    assert_ne!(other.moment_at(&name("docs"), None).await.unwrap().nsid, incarnation);
    same().await;
    for step in 0..6 {
        write(&engine, "docs", rows(step * 7, step * 7 + 3)).await;
        write(&engine, "docs", json!({"deletes": [row(step)["id"]]})).await;
        if step == 3 {
            engine.compact(&name("docs")).await.unwrap();
        }
        engine.tag(&name("docs"), &format!("tag-{step}"), None).await.unwrap();
        let since = Extent::Since(AsOf::Commit(CommitId(last.commit_id.parse().unwrap())));
        let bundle = snapshot(&engine, "docs", since).await.unwrap();
        last = restored(&other, "docs", &bundle).await.unwrap();
        same().await;
        // The bundle before this one does not fit any more.
        assert_eq!(restored(&other, "docs", &nothing).await.unwrap_err().kind(), Kind::Conflict);
    }
    let error = snapshot(&engine, "docs", Extent::Since(AsOf::Tag("tag-5".into()))).await.unwrap_err();
    assert!(error.message().contains("records that were in no segment yet"), "{error}");
    drop(other);
    there.cut_power();
    let other = there.open().unwrap();
    assert_eq!(contents(&other, &name("docs")).await.unwrap(), contents(&engine, &name("docs")).await.unwrap());
    assert!(tokio::task::block_in_place(|| other.check(3)).unwrap().is_whole());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_increment_is_refused_where_its_base_is_not() {
    let node = Node::new(8);
    let engine = node.open().unwrap();
    fill(&engine, "docs").await;
    let full = snapshot(&engine, "docs", Extent::Full).await.unwrap();
    let commit = engine.moment_at(&name("docs"), None).await.unwrap().manifest.commit_id;
    let increment = snapshot(&engine, "docs", Extent::Since(AsOf::Commit(commit))).await.unwrap();
    let error = restored(&engine, "nowhere", &increment).await.unwrap_err();
    assert!(error.message().contains("namespace default/default/nowhere is not there"), "{error}");
    restored(&engine, "copy", &full).await.unwrap();
    write(&engine, "copy", rows(50, 51)).await;
    let error = restored(&engine, "copy", &increment).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert!(error.message().contains("it was written to"), "{error}");
    assert_eq!(contents(&engine, &name("copy")).await.unwrap().len(), 31);
    write(&engine, "other", rows(0, 3)).await;
    assert_eq!(restored(&engine, "other", &increment).await.unwrap_err().kind(), Kind::Conflict);
    // Onto another name: the base stays, and the two share nothing.
    restored(&engine, "base", &full).await.unwrap();
    let bundle = std::io::Cursor::new(increment);
    shoal::snapshot::restore::restore(&engine, &name("next"), Some(&name("base")), bundle).await.unwrap();
    engine.delete(&name("base")).await.unwrap();
    assert_eq!(contents(&engine, &name("next")).await.unwrap(), contents(&engine, &name("docs")).await.unwrap());
}

/// An increment for `docs`, which is at its base.
async fn one_behind(node: &Node) -> (Arc<Engine>, Vec<u8>) {
    let engine = node.open().unwrap();
    fill(&engine, "source").await;
    let full = snapshot(&engine, "source", Extent::Full).await.unwrap();
    let commit = engine.moment_at(&name("source"), None).await.unwrap().manifest.commit_id;
    restored(&engine, "docs", &full).await.unwrap();
    write(&engine, "source", rows(50, 52)).await;
    let labels = [("from".to_owned(), "source".to_owned())].into();
    engine.set_labels(&name("source"), labels).await.unwrap();
    let increment = snapshot(&engine, "source", Extent::Since(AsOf::Commit(commit))).await.unwrap();
    (engine, increment)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_increment_leaves_what_was_set_of_the_namespace_that_takes_it() {
    const HOUR_MS: u64 = 3_600_000;
    let node = Node::new(14);
    let (engine, increment) = one_behind(&node).await;
    let docs = name("docs");
    let labels: BTreeMap<String, String> = [("team".to_owned(), "x".to_owned())].into();
    engine.set_labels(&docs, labels.clone()).await.unwrap();
    let expires_ms = engine.set_ttl(&docs, Some(2 * HOUR_MS)).await.unwrap();
    restored(&engine, "docs", &increment).await.unwrap();
    let after = engine.moment_at(&docs, None).await.unwrap();
    assert_eq!(contents(&engine, &docs).await.unwrap(), contents(&engine, &name("source")).await.unwrap());
    assert_eq!((&after.manifest.labels, after.manifest.expires_ms), (&labels, expires_ms));
    // This node goes on counting what passes, whatever the clock shows.
    node.clock.set(node.clock.now_millis() + HOUR_MS / 2);
    node.clock.advance(HOUR_MS);
    engine.tend().await.unwrap();
    let known = engine.tree(&docs.project).unwrap();
    let shown = known.iter().find(|one| one.name == "docs").map(|one| one.expires_ms);
    assert_eq!(shown, Some(expires_ms.map(|ms| ms + HOUR_MS / 2)));
    node.clock.advance(HOUR_MS);
    engine.tend().await.unwrap();
    assert!(engine.view(&docs).is_err(), "its time is up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_increment_is_refused_where_nothing_is_to_be_written_or_tags_would_be_lost() {
    let node = Node::new(15);
    let (engine, increment) = one_behind(&node).await;
    let docs = name("docs");
    let before = contents(&engine, &docs).await.unwrap();
    engine.update_metadata(&docs, Some(true), None).await.unwrap();
    let refusal = engine.write(&docs, request(rows(60, 61))).await.unwrap_err();
    let error = restored(&engine, "docs", &increment).await.unwrap_err();
    assert_eq!((error.kind(), error.message()), (refusal.kind(), refusal.message()));
    engine.update_metadata(&docs, Some(false), None).await.unwrap();
    for tag in ["release-7", "gone"] {
        engine.tag(&docs, tag, None).await.unwrap();
    }
    engine.untag(&docs, "gone").await.unwrap();
    let error = restored(&engine, "docs", &increment).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (Kind::Conflict, "has_tags"), "{error}");
    assert!(error.message().contains("has 1 tag"), "{error}");
    assert_eq!(contents(&engine, &docs).await.unwrap(), before);
    assert_eq!(engine.view_at(&docs, Some(&AsOf::Tag("release-7".into()))).unwrap().documents(), 30);
    // As the hint says: onto another name, with this one as the base, or without the tags.
    let bundle = std::io::Cursor::new(increment.clone());
    shoal::snapshot::restore::restore(&engine, &name("next"), Some(&docs), bundle).await.unwrap();
    assert_eq!(engine.tags(&docs).unwrap().len(), 1);
    engine.untag(&docs, "release-7").await.unwrap();
    restored(&engine, "docs", &increment).await.unwrap();
    assert_eq!(contents(&engine, &docs).await.unwrap(), contents(&engine, &name("next")).await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_after_the_snapshot_began_are_not_in_it_and_do_not_disturb_it() {
    let node = Node::new(9);
    let engine = node.open().unwrap();
    fill(&engine, "docs").await;
    let expected = contents(&engine, &name("docs")).await.unwrap();
    let taken = take(&engine, &name("docs"), &Extent::Full).await.unwrap();
    write(&engine, "docs", rows(0, 60)).await;
    engine.compact(&name("docs")).await.unwrap();
    engine.delete(&name("docs")).await.unwrap();
    let mut bytes = Vec::new();
    taken.write(&mut bytes).unwrap();
    restored(&engine, "back", &bytes).await.unwrap();
    assert_eq!(contents(&engine, &name("back")).await.unwrap(), expected);
    // Who takes the bytes may go away.
    assert!(taken.write(&mut Full(bytes.len() / 2)).is_err());
    assert!(files(&node.disk, Path::new("/data/store")).iter().all(|path| !path.to_string_lossy().ends_with(".tmp")));
}
