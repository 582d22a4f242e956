//! A deep copy has everything of its source and shares nothing with it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use shoal::engine::{CopyStatus, Engine};
use shoal::error::Result;
use shoal::model::ids::{NamespaceName, Project};

use super::node::{Node, contents, fill, name, row, rows, write};

async fn finished(engine: &Arc<Engine>, to: &NamespaceName, token: &str) -> CopyStatus {
    for _ in 0..2_000 {
        let status = engine.poll_copy(to, token).unwrap();
        if status.finished.is_some() {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("the copy does not end");
}

/// Makes a deep copy, and waits for it.
pub async fn copied(engine: &Arc<Engine>, from: &NamespaceName, to: &NamespaceName) -> Result<()> {
    let token = engine.start_copy(from, to, true)?;
    loop {
        if let Some((_, done)) = engine.poll_copy(to, &token)?.finished {
            return done.map(drop).map_err(|error| error.duplicate());
        }
        tokio::task::yield_now().await;
    }
}

fn keys(moment: &shoal::engine::namespace::Moment) -> Vec<String> {
    let segments = moment.manifest.segments.iter();
    segments.flat_map(|s| [Some(s.key.clone()), s.deletions.as_ref().map(|d| d.key.clone())]).flatten().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deep_copy_survives_its_source_and_shares_no_object_with_it_in_any_project() {
    let node = Node::new(41);
    let engine = node.open().unwrap();
    fill(&engine, "docs").await;
    let expected = contents(&engine, &name("docs")).await.unwrap();
    let elsewhere = Project::new("acme", "search").unwrap().namespace("docs").unwrap();
    for to in [name("copy"), elsewhere.clone()] {
        let token = engine.start_copy(&name("docs"), &to, true).unwrap();
        let status = finished(&engine, &to, &token).await;
        assert_eq!(status.finished.unwrap().1.unwrap(), 30);
        assert_eq!(status.progress, Some((30, 30)));
        assert_eq!(contents(&engine, &to).await.unwrap(), expected);
        let source = engine.moment_at(&name("docs"), None).await.unwrap();
        let copy = engine.moment_at(&to, None).await.unwrap();
        assert!(keys(&copy).iter().all(|key| key.contains(&copy.nsid.to_string())), "{:?}", keys(&copy));
        assert!(keys(&copy).iter().all(|key| key.starts_with(&format!("{}/", to.project))));
        assert!(copy.manifest.logs.is_empty() && copy.manifest.lineage.is_none());
        assert_eq!(copy.view.schema, source.view.schema);
        // What was deleted at the source stays deleted against older states that turn up.
        let deleted = |moment: &shoal::engine::namespace::Moment| -> usize {
            let in_segments = moment.view.segments.iter().map(|part| part.segment.tombstones().unwrap().len());
            in_segments.sum::<usize>() + moment.tombstones.len()
        };
        assert_eq!(deleted(&copy), deleted(&source));
    }
    write(&engine, "docs", rows(0, 10)).await;
    engine.delete(&name("docs")).await.unwrap();
    tokio::task::block_in_place(|| engine.sweep()).unwrap();
    write(&engine, "copy", json!({"deletes": [row(0)["id"]]})).await;
    drop(engine);
    node.cut_power();
    let engine = node.open().unwrap();
    assert_eq!(contents(&engine, &elsewhere).await.unwrap(), expected);
    assert_eq!(contents(&engine, &name("copy")).await.unwrap().len(), 29);
    assert!(tokio::task::block_in_place(|| engine.check(3)).unwrap().is_whole());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deep_copy_that_fails_leaves_nothing() {
    let node = Node::new(42);
    let engine = node.open().unwrap();
    fill(&engine, "docs").await;
    let first = node.disk.operations();
    let before = super::node::files(&node.disk, std::path::Path::new("/data/store"));
    for at in (0..40).step_by(3) {
        let kind = std::io::ErrorKind::StorageFull;
        let at = node.disk.operations().max(first) + at;
        node.disk.set_fault(Some(shoal::platform::memory_disk::Fault { at, forever: true, kind }));
        let token = engine.start_copy(&name("docs"), &name("copy"), true).unwrap();
        let done = finished(&engine, &name("copy"), &token).await;
        node.disk.set_fault(None);
        if done.finished.unwrap().1.is_ok() {
            engine.delete(&name("copy")).await.unwrap();
            continue;
        }
        assert!(contents(&engine, &name("copy")).await.is_err());
    }
    tokio::task::block_in_place(|| engine.rebuild_index()).unwrap();
    tokio::task::block_in_place(|| engine.sweep()).unwrap();
    let kept = super::node::files(&node.disk, std::path::Path::new("/data/store"));
    let here = engine.moment_at(&name("docs"), None).await.unwrap().nsid.to_string();
    let of_source = |path: &&std::path::PathBuf| path.to_string_lossy().contains(&here);
    assert_eq!(kept.iter().filter(of_source).count(), before.iter().filter(of_source).count());
}
