//! What is not whole is refused with a reason, and changes nothing.

use std::path::Path;
use std::sync::Arc;

use shoal::engine::Engine;
use shoal::error::Kind;
use shoal::model::as_of::AsOf;
use shoal::platform::disk::Disk;
use shoal::snapshot::restore::DAMAGED;
use shoal::snapshot::take::Extent;

use super::conflicts::disagree;
use super::node::{Node, files, fill, name, restored, rewritten, rows, snapshot, swept, write};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_is_cut_or_altered_anywhere_is_refused_and_nothing_is_changed() {
    let node = Node::new(11);
    let engine = node.open().unwrap();
    fill(&engine, "docs").await;
    let whole = snapshot(&engine, "docs", Extent::Full).await.unwrap();
    refused_wherever_it_is_cut_or_altered(&node, &engine, &whole).await;
    // The same with conflicts in it.
    disagree(&engine, "docs", 5).await;
    let whole = snapshot(&engine, "docs", Extent::Full).await.unwrap();
    refused_wherever_it_is_cut_or_altered(&node, &engine, &whole).await;
}

async fn refused_wherever_it_is_cut_or_altered(node: &Node, engine: &Arc<Engine>, whole: &[u8]) {
    let before = files(&node.disk, Path::new("/data"));
    let places: Vec<usize> = (0..=100).map(|percent| (whole.len() - 1) * percent / 100).collect();
    for at in places.into_iter().chain([8, 20, 30, whole.len() - 60, whole.len() - 100]) {
        let cut = restored(engine, "back", &whole[..at]).await.unwrap_err();
        assert_eq!((cut.kind(), cut.code()), (Kind::Invalid, DAMAGED), "cut at {at}: {cut}");
        assert!(cut.message().contains("cut short"), "cut at {at}: {cut}");
        let mut altered = whole.to_vec();
        altered[at] ^= 1 << (at % 8);
        let error = restored(engine, "back", &altered).await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (Kind::Invalid, DAMAGED), "altered at {at}: {error}");
        assert!(error.hint().is_some_and(|hint| hint.contains("nothing was changed")));
    }
    let longer = [whole, b"x"].concat();
    let error = restored(engine, "back", &longer).await.unwrap_err();
    assert!(error.message().contains("goes on after its end"), "{error}");
    assert_eq!(files(&node.disk, Path::new("/data")), before);
    restored(engine, "back", whole).await.unwrap();
    engine.delete(&name("back")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_in_which_a_document_is_live_twice_is_refused_and_nothing_is_changed() {
    let node = Node::new(14);
    let engine = node.open().unwrap();
    fill(&engine, "docs").await;
    let full = snapshot(&engine, "docs", Extent::Full).await.unwrap();
    let commit = engine.moment_at(&name("docs"), None).await.unwrap().manifest.commit_id;
    write(&engine, "docs", rows(5, 8)).await;
    let increment = snapshot(&engine, "docs", Extent::Since(AsOf::Commit(commit))).await.unwrap();
    restored(&engine, "base", &full).await.unwrap();
    let before = files(&node.disk, Path::new("/data"));
    // Every checksum is right, and rows that were replaced are not dead.
    for (to, whole) in [("back", &full), ("base", &increment)] {
        let twice = rewritten(whole, |_, manifest| manifest.segments.iter_mut().for_each(|s| s.deletions = None));
        let error = restored(&engine, to, &twice).await.unwrap_err();
        assert_eq!((error.kind(), error.code()), (Kind::Invalid, DAMAGED), "{error}");
        assert!(error.message().contains("is live in segment"), "{error}");
        assert_eq!(files(&node.disk, Path::new("/data")), before);
    }
    restored(&engine, "base", &increment).await.unwrap();
    restored(&engine, "back", &full).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_format_is_refused_by_its_number() {
    let node = Node::new(12);
    let engine = node.open().unwrap();
    fill(&engine, "docs").await;
    let mut newer = snapshot(&engine, "docs", Extent::Full).await.unwrap();
    newer[8] = 3;
    let checksum = crc32c::crc32c(&newer[..60]);
    newer[60..64].copy_from_slice(&checksum.to_le_bytes());
    let error = restored(&engine, "back", &newer).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Unsupported);
    assert_eq!(error.message(), "snapshot: snapshot of format version 3, this release reads up to 2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_snapshot_is_told_so() {
    let node = Node::new(13);
    let engine = node.open().unwrap();
    let error = restored(&engine, "back", &[b'x'; 200]).await.unwrap_err();
    assert!(error.message().contains("it is no snapshot"), "{error}");
    assert!(restored(&engine, "back", b"").await.unwrap_err().message().contains("cut short"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_that_came_to_nothing_leaves_no_directory() {
    let node = Node::new(14);
    let engine = node.open().unwrap();
    fill(&engine, "docs").await;
    let whole = snapshot(&engine, "docs", Extent::Full).await.unwrap();
    let namespaces = Path::new("/data/store/default/default/namespaces");
    let before = node.disk.list(namespaces).unwrap();
    for percent in (5..100).step_by(5) {
        restored(&engine, "back", &whole[..whole.len() * percent / 100]).await.unwrap_err();
        assert_eq!(node.disk.list(namespaces).unwrap(), before, "cut at {percent} in a hundred");
    }
    restored(&engine, "back", &whole).await.unwrap();
    assert!(swept(&engine).await.is_whole());
}
