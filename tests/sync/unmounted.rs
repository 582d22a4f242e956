//! A bucket in a directory whose disk is away: its mount point is a directory, too, and empty.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use shoal::engine::Engine;
use shoal::engine::merge::decide::Policy;
use shoal::error::Error;
use shoal::platform::disk::Disk;
use shoal::store::{Bucket, BucketConfig, Patience};
use shoal::sync::{Selection, Sync, Worker};

use crate::fleet::{fresh, options, worker};
use crate::node::{Node, all, name, put};

struct Place {
    bucket: PathBuf,
    disk: PathBuf,
    _dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (bucket, disk) = (dir.path().join("bucket"), dir.path().join("disk"));
        fs::create_dir(&bucket).unwrap();
        Place { bucket, disk, _dir: dir }
    }

    fn unmount(&self) {
        fs::rename(&self.bucket, &self.disk).unwrap();
        fs::create_dir(&self.bucket).unwrap();
    }

    /// Fails when anything is under the mount point.
    fn mount(&self) {
        fs::remove_dir(&self.bucket).unwrap();
        fs::rename(&self.disk, &self.bucket).unwrap();
    }

    fn config(&self) -> BucketConfig {
        BucketConfig { url: format!("file://{}", self.bucket.display()), ..BucketConfig::default() }
    }

    fn open(&self, node: &Node) -> Bucket {
        Bucket::open(&self.config(), node.clock.clone(), node.random.clone()).unwrap()
    }

    fn link(&self, node: &Node, engine: &Arc<Engine>) -> Sync {
        Sync::new(engine.clone(), self.open(node), options(Policy::Lww), node.clock.clone())
    }
}

fn assert_says_so(error: &Error) {
    assert_eq!(error.code(), "bucket_replaced", "{error}");
    assert!(error.message().contains("is no store, and was store"), "{error}");
    let hint = error.hint().unwrap();
    assert!(hint.contains("mount the disk") && hint.contains("store/_format.json"), "{hint}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_while_the_disk_is_away_is_not_said_to_be_in_the_bucket_and_is_there_once_it_is_back() {
    let (place, node) = (Place::new(), Node::new(1));
    let engine = node.open();
    put(&engine, "docs", 0..10, 1).await;
    let link = place.link(&node, &engine);
    link.run().await.unwrap();
    place.unmount();
    // Of what was sent before nothing is in an empty directory, either.
    assert_says_so(&link.run().await.unwrap_err());
    let unsent = engine.unsent(&name("docs")).await.unwrap();
    assert!(!unsent.is_durable && unsent.common.is_none(), "{unsent:?}");
    for (id, selection) in
        [(20, Selection::default().unasked()), (21, Selection::default().only([name("docs")].into()))]
    {
        put(&engine, "docs", [id], 2).await;
        assert_says_so(&link.run_for(&selection).await.failed.unwrap());
        let status = link.status();
        assert_eq!(status.error.as_ref().unwrap().code, "bucket_replaced");
        assert_eq!(status.warnings()[0]["code"], "bucket_replaced");
        assert!(!engine.unsent(&name("docs")).await.unwrap().is_durable);
    }
    place.mount();
    link.run().await.unwrap();
    assert!(engine.unsent(&name("docs")).await.unwrap().is_durable && link.status().warnings().is_empty());
    assert_eq!(fresh(2, &place.open(&node), "docs").await, all(&engine, "docs"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_goes_away_in_the_middle_of_a_pass_is_missed_by_the_next_write() {
    let (place, node) = (Place::new(), Node::new(1));
    let engine = node.open();
    put(&engine, "docs", 0..10, 1).await;
    let bucket = place.open(&node);
    Sync::new(engine.clone(), bucket.clone(), options(Policy::Lww), node.clock.clone()).run().await.unwrap();
    let patience = Patience::ASKED;
    bucket.put("default/x", Bytes::from_static(b"1"), &patience).await.unwrap();
    place.unmount();
    assert_says_so(&bucket.put("default/y", Bytes::from_static(b"1"), &patience).await.unwrap_err());
    assert_says_so(&bucket.create("default/z", Bytes::from_static(b"1"), &patience).await.unwrap_err());
    // What is missing may be on the disk that is away.
    assert_says_so(&bucket.get("default/x", &patience).await.unwrap_err());
    assert_says_so(&bucket.size("default/x", &patience).await.unwrap_err());
    assert_says_so(&bucket.list("", None, 10, &patience).await.unwrap_err());
    place.mount();
    assert_eq!(bucket.size("default/x", &patience).await.unwrap(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_full_and_lost_its_format_file_is_not_made_a_store_of_its_own() {
    let (place, node, new) = (Place::new(), Node::new(1), Node::new(2));
    let engine = node.open();
    put(&engine, "docs", 0..10, 1).await;
    place.link(&node, &engine).run().await.unwrap();
    let bucket = place.open(&node);
    let files = async || bucket.list_all("default", None, 10_000, &Patience::ASKED).await.unwrap();
    let before = files().await;
    let lost = fs::read(place.bucket.join("_format.json")).unwrap();
    fs::remove_file(place.bucket.join("_format.json")).unwrap();
    let joining = new.open();
    put(&joining, "more", 0..10, 1).await;
    let link = place.link(&new, &joining);
    for _ in 0..2 {
        let error = link.run().await.unwrap_err();
        assert_eq!(error.code(), "bucket_misconfigured", "{error}");
        assert!(error.message().contains("has no _format.json, and has default/default"), "{error}");
        assert!(error.hint().unwrap().contains("copy store/_format.json of a node's data directory"), "{error}");
    }
    assert_eq!((files().await, place.bucket.join("_format.json").exists()), (before, false));
    // It is the old store again for all, once its file is back.
    let kept = node.disk.read(std::path::Path::new("/data/store/_format.json")).unwrap();
    assert_eq!(kept, lost);
    fs::write(place.bucket.join("_format.json"), kept).unwrap();
    link.run().await.unwrap();
    place.link(&node, &engine).run().await.unwrap();
    assert_eq!(all(&joining, "docs"), all(&engine, "docs"));
    assert_eq!(joining.store_id(), engine.store_id());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_the_disk_begins_no_new_bucket_until_a_person_says_so() {
    let (place, node) = (Place::new(), Node::new(1));
    let engine = node.open();
    put(&engine, "docs", 0..10, 1).await;
    place.link(&node, &engine).run().await.unwrap();
    let engine = node.cut_power(engine);
    put(&engine, "docs", [20], 2).await;
    place.unmount();
    let link = place.link(&node, &engine);
    for _ in 0..2 {
        assert_says_so(&link.run().await.unwrap_err());
    }
    place.mount();
    link.run().await.unwrap();
    assert_eq!(fresh(2, &place.open(&node), "docs").await, all(&engine, "docs"));
    // The directory is to be the bucket from now on.
    place.unmount();
    let format = node.disk.read(std::path::Path::new("/data/store/_format.json")).unwrap();
    fs::write(place.bucket.join("_format.json"), format).unwrap();
    place.link(&node, &engine).run().await.unwrap();
    assert_eq!(fresh(3, &place.open(&node), "docs").await, all(&engine, "docs"));
}

/// While it runs, and at a start.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_said_to_be_in_a_bucket_whose_mount_point_is_gone() {
    let (place, node) = (Place::new(), Node::new(1));
    let config = place.config();
    let worker = |engine: &Arc<Engine>| {
        let worker = Arc::new(worker(&node, engine, &config, Duration::from_secs(3_600)));
        tokio::spawn(worker.clone().run());
        worker
    };
    let is_there = async |engine: &Arc<Engine>| engine.unsent(&name("docs")).await.unwrap().is_durable;
    let pass = async |worker: &Worker| worker.answer(worker.ask(None).unwrap()).await.unwrap();
    let engine = node.open();
    put(&engine, "docs", 0..10, 1).await;
    let running = worker(&engine);
    assert!(pass(&running).await.failed.is_none() && is_there(&engine).await);
    fs::rename(&place.bucket, &place.disk).unwrap();
    assert_eq!(pass(&running).await.failed.as_ref().unwrap().code(), "bucket_unreachable");
    assert!(!is_there(&engine).await);
    running.stop();
    let engine = node.cut_power(engine);
    let started = worker(&engine);
    assert!(!is_there(&engine).await);
    fs::rename(&place.disk, &place.bucket).unwrap();
    assert!(pass(&started).await.failed.is_none() && is_there(&engine).await);
    started.stop();
}

/// Whoever waits for it waits for the next pass over everything, as a person has to mend it.
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_a_person_is_not_tried_over_and_over_for_who_waits_for_it() {
    let (place, nodes) = (Place::new(), [Node::new(1), Node::new(2)]);
    let engines = [nodes[0].open(), nodes[1].open()];
    put(&engines[0], "docs", 0..10, 1).await;
    for n in [0, 1] {
        place.link(&nodes[n], &engines[n]).run().await.unwrap();
    }
    nodes[0].clock.advance(1_000);
    engines[0].delete(&name("docs")).await.unwrap();
    put(&engines[0], "docs", [1], 2).await;
    put(&engines[1], "docs", [2], 3).await;
    place.link(&nodes[1], &engines[1]).run().await.unwrap();
    let worker = Arc::new(worker(&nodes[0], &engines[0], &place.config(), Duration::from_secs(3_600)));
    let running = tokio::spawn(worker.clone().run());
    // Passes begin by themselves within five seconds of the start.
    let end = tokio::time::Instant::now() + Duration::from_secs(7);
    let error = worker.together(&name("docs"), end).await.unwrap_err();
    assert!(error.message().contains("not together"), "{error}");
    // That one, one that was due meanwhile, and one that was asked for after that.
    assert!((1..=3).contains(&worker.failures()), "{} passes", worker.failures());
    worker.stop();
    running.await.unwrap();
}
