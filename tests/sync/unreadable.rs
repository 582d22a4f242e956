//! A bucket in a directory of which some cannot be read: what is none of ours costs nothing, what is costs whom it belongs to.
//!
//! A link to itself stands for a directory of another user's, or on a bad block: going through it fails, for the superuser too.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use shoal::engine::Engine;
use shoal::engine::merge::decide::Policy;
use shoal::store::{Bucket, BucketConfig, Patience};
use shoal::sync::{Reclaim, Selection, Sync, SyncOptions};

use crate::node::{Node, all, name, put};

/// Asks once: the wait before a second attempt is longer than the whole call.
const ONCE: Patience =
    Patience { wait_first: Duration::from_secs(86_400), wait_max: Duration::from_secs(86_400), ..Patience::ASKED };

struct Place {
    root: PathBuf,
    _dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Place { root: dir.path().to_owned(), _dir: dir }
    }

    fn bucket(&self, node: &Node) -> Bucket {
        let config = BucketConfig { url: format!("file://{}", self.root.display()), ..BucketConfig::default() };
        Bucket::open(&config, node.clock.clone(), node.random.clone()).unwrap()
    }

    fn link(&self, node: &Node, engine: &Arc<Engine>) -> Sync {
        let options = SyncOptions { policy: Policy::Lww, patience: ONCE };
        Sync::new(engine.clone(), self.bucket(node), options, node.clock.clone())
    }

    fn dir(&self, engine: &Engine, namespace: &str) -> PathBuf {
        self.root.join(format!("default/default/namespaces/{}", engine.nsid_of(&name(namespace)).unwrap()))
    }
}

/// Makes a directory one that no listing can go through.
fn spoil(dir: &Path) -> PathBuf {
    fs::create_dir_all(dir).unwrap();
    let link = dir.join("loop");
    symlink("loop", &link).unwrap();
    link
}

const NOW: Reclaim = Reclaim { retention_ms: 0, forced: true, dry_run: false, rest_ms: 0 };

#[tokio::test(flavor = "multi_thread")]
async fn what_a_file_system_or_another_user_keeps_beside_the_projects_is_never_entered() {
    let (place, node) = (Place::new(), Node::new(1));
    symlink("lost+found", place.root.join("lost+found")).unwrap();
    for other in [".Trash-1000", ".snapshots", "lost and found", "_probe/x", "_ids/x"] {
        spoil(&place.root.join(other));
    }
    fs::write(place.root.join("notes"), b"a file").unwrap();
    let engine = node.open();
    put(&engine, "docs", 0..10, 1).await;
    let link = place.link(&node, &engine);
    link.run().await.unwrap();
    assert!(engine.unsent(&name("docs")).await.unwrap().is_durable);
    put(&engine, "new", 0..10, 1).await;
    link.run_for(&Selection::default().only([name("new")].into())).await.of(&name("new")).unwrap();
    let run = link.reclaim(&Selection::default(), &NOW).await;
    assert!(run.failed.is_none(), "{:?}", run.failed);
    let other = Node::new(2);
    let there = other.open();
    place.link(&other, &there).run().await.unwrap();
    assert_eq!([all(&there, "docs"), all(&there, "new")], [all(&engine, "docs"), all(&engine, "new")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_one_namespace_that_cannot_be_listed_hold_up_no_name_and_no_other_namespace() {
    let (place, node) = (Place::new(), Node::new(1));
    let engine = node.open();
    put(&engine, "bad", 0..10, 1).await;
    put(&engine, "good", 0..10, 1).await;
    let link = place.link(&node, &engine);
    link.run().await.unwrap();
    let spoiled = spoil(&place.dir(&engine, "bad").join("segments"));
    put(&engine, "bad", 20..30, 2).await;
    put(&engine, "new", 0..10, 1).await;
    link.run().await.unwrap();
    let other = Node::new(2);
    let there = other.open();
    place.link(&other, &there).run().await.unwrap();
    for namespace in ["bad", "good", "new"] {
        assert_eq!(all(&there, namespace), all(&engine, namespace), "{namespace}");
    }
    node.clock.advance(1_000);
    let run = link.reclaim(&Selection::default(), &NOW).await;
    let failed: Vec<&str> =
        run.namespaces.iter().filter(|(_, done)| done.is_err()).map(|((name, _), _)| &*name.name).collect();
    assert_eq!((failed, run.namespaces.len()), (vec!["bad"], 3), "{:?}", run.failed);
    // A namespace whose manifests cannot be listed costs no other, either.
    fs::remove_file(spoiled).unwrap();
    let spoiled = spoil(&place.dir(&engine, "bad").join("manifests"));
    engine.delete(&name("good")).await.unwrap();
    node.clock.advance(1_000);
    link.run_for(&Selection::default().only([name("good")].into())).await;
    node.clock.advance(1_000);
    let run = link.reclaim(&Selection::default(), &NOW).await;
    assert!(run.failed.is_some());
    assert!(run.namespaces.iter().any(|((name, _), done)| &*name.name == "good" && done.is_ok()), "{run:?}");
    fs::remove_file(spoiled).unwrap();
    assert!(link.reclaim(&Selection::default(), &NOW).await.failed.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_cannot_be_listed_fails_alone_and_nothing_of_its_project_is_taken_for_dead() {
    let (place, node) = (Place::new(), Node::new(1));
    let engine = node.open();
    for namespace in ["bad", "good"] {
        put(&engine, namespace, 0..10, 1).await;
    }
    let link = place.link(&node, &engine);
    link.run().await.unwrap();
    let spoiled =
        [spoil(&place.root.join("default/default/names/bad")), spoil(&place.root.join("acme/search/names"))];
    for namespace in ["bad", "good", "new"] {
        put(&engine, namespace, 20..30, 2).await;
    }
    let pass = link.run_for(&Selection::default()).await;
    assert!(pass.failed.is_some());
    assert!(["good", "new"].iter().all(|well| pass.of(&name(well)).is_ok()), "{pass:?}");
    let error = pass.of(&name("bad")).unwrap_err();
    assert!(error.to_string().contains("list the names in the bucket"), "{error}");
    assert!(link.known(&name("bad")).unwrap().error.is_some() && link.known(&name("good")).unwrap().error.is_none());
    link.run_for(&Selection::default().only([name("good")].into())).await.of(&name("good")).unwrap();
    let before = fs::read_dir(place.dir(&engine, "bad").join("segments")).unwrap().count();
    node.clock.advance(1_000);
    assert!(link.reclaim(&Selection::default(), &NOW).await.failed.is_some());
    assert_eq!(fs::read_dir(place.dir(&engine, "bad").join("segments")).unwrap().count(), before);
    for spoiled in spoiled {
        fs::remove_file(spoiled).unwrap();
    }
    link.run().await.unwrap();
    assert!(link.reclaim(&Selection::default(), &NOW).await.failed.is_none());
    let other = Node::new(2);
    let there = other.open();
    place.link(&other, &there).run().await.unwrap();
    for namespace in ["bad", "good", "new"] {
        assert_eq!(all(&there, namespace), all(&engine, namespace), "{namespace}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_can_be_read_again_takes_part_in_the_next_pass_that_nobody_asked_for() {
    let (place, node) = (Place::new(), Node::new(1));
    let engine = node.open();
    put(&engine, "docs", 0..10, 1).await;
    let link = place.link(&node, &engine);
    link.run().await.unwrap();
    let spoiled = spoil(&place.root.join("default/default/names/docs"));
    put(&engine, "docs", 20..30, 2).await;
    // What is in the bucket is listed now and then by such passes.
    node.clock.advance(3_600_000);
    let unasked = Selection::default().unasked();
    assert!(link.run_for(&unasked).await.failed.is_some());
    fs::remove_file(spoiled).unwrap();
    assert!(link.run_for(&unasked).await.failed.is_none());
    assert!(engine.unsent(&name("docs")).await.unwrap().is_durable);
    assert!(link.known(&name("docs")).unwrap().error.is_none());
}
