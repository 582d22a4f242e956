//! A sealed log that is missing after a clean stop: its namespace is set apart until the file is back or is given up by name.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use shoal::api::wire::write::{WriteBody, parse_write};
use shoal::engine::Engine;
use shoal::engine::check::{Remedy, RepairRequest, Scope};
use shoal::error::Kind;
use shoal::model::write::{Idempotency, WriteRequest};
use shoal::platform::disk::{Disk, create_dirs, publish};
use shoal::platform::memory_disk::MemoryDisk;

use crate::node::{Documents, all, files, name, open, open_with, put};

/// A namespace with a segment and a sealed log that no manifest names, and another; the log is taken away after a clean stop.
async fn without_its_log() -> (MemoryDisk, PathBuf, Vec<u8>, Documents) {
    let disk = MemoryDisk::default();
    let engine = open(&disk).unwrap();
    engine.rebuild_index().unwrap();
    put(&engine, "docs", 0..20, 1).await.unwrap();
    engine.checkpoint(&name("docs")).await.unwrap();
    engine.shutdown().await.unwrap();
    drop(engine);
    let before = files(&disk);
    let engine = open_with(&disk, 8).unwrap();
    put(&engine, "docs", 100..101, 2).await.unwrap();
    put(&engine, "other", 0..5, 1).await.unwrap();
    engine.checkpoint(&name("other")).await.unwrap();
    let expected = all(&engine, "docs").unwrap();
    engine.shutdown().await.unwrap();
    drop(engine);
    let is_new = |file: &PathBuf| file.extension().is_some_and(|end| end == "wal") && !before.contains(file);
    let logs: Vec<PathBuf> = files(&disk).into_iter().filter(is_new).collect();
    assert_eq!(logs.len(), 1, "{logs:?}");
    let bytes = disk.read(&logs[0]).unwrap();
    disk.remove(&logs[0]).unwrap();
    (disk, logs[0].clone(), bytes, expected)
}

/// It is neither served nor written to, and is named; the other is served.
async fn is_set_apart(engine: &Arc<Engine>, log: &Path, what: &str) {
    let error = all(engine, "docs").unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{what}: {error}");
    let key = log.strip_prefix("/data/store").unwrap().display().to_string();
    assert!(error.message().contains(&key), "{what}: {error}");
    assert_eq!(put(engine, "docs", 200..201, 3).await.unwrap_err().kind(), Kind::Corrupt, "{what}");
    let damaged = engine.node_status()["damaged"].clone();
    assert_eq!((&damaged[0]["kind"], damaged.as_array().unwrap().len()), (&"log".into(), 1), "{what}: {damaged}");
    assert!(log.ends_with(damaged[0]["file"].as_str().unwrap()), "{what}: {damaged}");
    assert_eq!(all(engine, "other").unwrap().len(), 5, "{what}");
}

fn request(dry_run: bool, is_given_up: bool) -> RepairRequest {
    let drop_damaged = is_given_up.then(|| name("docs"));
    RepairRequest { scope: Scope::Store, dry_run, drop_damaged, force: false }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_without_a_log_that_the_index_names_is_set_apart_and_heals_when_the_file_is_back() {
    let (disk, log, bytes, expected) = without_its_log().await;
    let engine = open(&disk).unwrap();
    is_set_apart(&engine, &log, "at the first start").await;
    let report = engine.check(4).unwrap();
    let problems: Vec<_> = report.problems.iter().map(|problem| (problem.remedy, problem.file.clone())).collect();
    let file = log.strip_prefix("/data").unwrap().display().to_string();
    assert_eq!(problems, [(Remedy::DropDamaged, file)], "{report:?}");
    // Nothing is given up unless it is asked for by name, also not by an index that is made anew, nor at the next start.
    engine.repair_in(&request(false, false)).unwrap();
    is_set_apart(&engine, &log, "after a repair").await;
    engine.repair().unwrap();
    for _ in 0..3 {
        engine.tend().await.unwrap();
    }
    is_set_apart(&engine, &log, "after the index was made anew").await;
    engine.shutdown().await.unwrap();
    drop(engine);
    let engine = open(&disk).unwrap();
    is_set_apart(&engine, &log, "at the next start").await;
    create_dirs(&disk, log.parent().unwrap()).unwrap();
    publish(&disk, &log, &bytes).unwrap();
    for _ in 0..4 {
        engine.tend().await.unwrap();
    }
    assert_eq!(engine.node_status()["damaged"], serde_json::json!([]));
    assert_eq!(all(&engine, "docs").unwrap(), expected);
    put(&engine, "docs", 200..201, 3).await.unwrap();
    engine.checkpoint(&name("docs")).await.unwrap();
    assert!(engine.check(4).unwrap().is_whole());
    // Nobody counts it any more.
    engine.repair().unwrap();
    assert!(disk.read(&log).is_err());
    engine.shutdown().await.unwrap();
    drop(engine);
    assert_eq!(all(&open(&disk).unwrap(), "docs").unwrap().len(), 22);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_the_index_names_and_is_missing_is_given_up_by_name() {
    let (disk, log, bytes, expected) = without_its_log().await;
    let engine = open(&disk).unwrap();
    is_set_apart(&engine, &log, "at the first start").await;
    let [dry, done] = [true, false].map(|dry_run| {
        let done = engine.repair_in(&request(dry_run, true)).unwrap();
        let said = done.actions.into_iter().map(|action| action.what);
        said.filter(|what| what.starts_with("give up")).collect::<Vec<_>>()
    });
    assert!(dry.len() == 1 && dry[0].contains("it is missing"), "{dry:?}");
    assert_eq!(dry, done);
    let left = all(&engine, "docs").unwrap();
    assert_eq!(left.len() + 1, expected.len());
    assert!(engine.check(4).unwrap().is_whole());
    assert_eq!(engine.node_status()["damaged"], serde_json::json!([]));
    put(&engine, "docs", 200..201, 3).await.unwrap();
    engine.shutdown().await.unwrap();
    drop(engine);
    // What was given up stays so.
    create_dirs(&disk, log.parent().unwrap()).unwrap();
    publish(&disk, &log, &bytes).unwrap();
    let engine = open_with(&disk, 9).unwrap();
    assert_eq!(all(&engine, "docs").unwrap().len(), left.len() + 1);
    put(&engine, "docs", 300..301, 4).await.unwrap();
    engine.shutdown().await.unwrap();
    drop(engine);
    let engine = open(&disk).unwrap();
    assert_eq!(all(&engine, "docs").unwrap().len(), left.len() + 2);
    assert!(engine.check(3).unwrap().is_whole());
}

/// An answer that was flushed leaves its log superfluous, and that begins where the manifest's next one would: an index that counts it
/// still, as one of before a power cut does while a file cannot be read, says nothing of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_rightly_let_go_of_sets_nobody_apart_whatever_the_index_counts() {
    let disk = MemoryDisk::default();
    let engine = open(&disk).unwrap();
    engine.rebuild_index().unwrap();
    for of in ["docs", "other"] {
        put(&engine, of, 0..20, 1).await.unwrap();
        engine.checkpoint(&name(of)).await.unwrap();
    }
    let is_log = |file: &PathBuf| file.extension().is_some_and(|end| end == "wal");
    let logs = || files(&disk).into_iter().filter(is_log).collect::<Vec<PathBuf>>();
    assert_eq!(logs(), Vec::<PathBuf>::new());
    // No document changes.
    let body = json!({"patch_rows": [{"id": 99, "n": 1}]});
    let WriteBody::Write(request) = parse_write(body).unwrap() else { panic!("expected a write") };
    let idempotency = Some(Idempotency { key_hash: [1; 16], body_hash: [2; 16] });
    engine.write(&name("docs"), WriteRequest { idempotency, ..*request }).await.unwrap();
    engine.shutdown().await.unwrap();
    drop(engine);
    let log = logs().remove(0);
    let index = PathBuf::from("/data/meta.redb");
    let before = disk.read(&index).unwrap();
    let engine = open_with(&disk, 8).unwrap();
    put(&engine, "other", 20..21, 1).await.unwrap();
    engine.checkpoint(&name("docs")).await.unwrap();
    engine.checkpoint(&name("other")).await.unwrap();
    let expected = all(&engine, "docs").unwrap();
    let nsid = engine.status(&name("other")).unwrap()["nsid"].as_str().unwrap().to_owned();
    engine.shutdown().await.unwrap();
    drop(engine);
    assert!(!logs().contains(&log));
    disk.remove(&PathBuf::from("/data/meta.sum")).unwrap();
    publish(&disk, &index, &before).unwrap();
    let manifests = files(&disk).into_iter().filter(|file| file.starts_with(format!("/data/local/{nsid}")));
    disk.set_unreadable(manifests.filter(|file| file.extension().is_some_and(|end| end == "json")).max());
    let engine = open_with(&disk, 9).unwrap();
    engine.rebuild_index().unwrap();
    assert_eq!(all(&engine, "other").unwrap_err().kind(), Kind::Internal);
    let file = log.strip_prefix("/data").unwrap().display().to_string();
    let report = engine.check(2).unwrap();
    assert!(
        report.problems.iter().any(|problem| problem.file == file && problem.remedy == Remedy::Forget),
        "{report:?}"
    );
    assert_eq!(all(&engine, "docs").unwrap(), expected);
    put(&engine, "docs", 20..21, 2).await.unwrap();
}

/// What is copied while it is written to may have an index that is younger than its logs. Nobody stopped it, and what it has is whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_whose_index_is_younger_than_its_logs_is_served() {
    let disk = MemoryDisk::default();
    let engine = open(&disk).unwrap();
    engine.rebuild_index().unwrap();
    put(&engine, "docs", 0..20, 1).await.unwrap();
    engine.checkpoint(&name("docs")).await.unwrap();
    let expected = all(&engine, "docs").unwrap();
    engine.shutdown().await.unwrap();
    drop(engine);
    let engine = open_with(&disk, 8).unwrap();
    put(&engine, "docs", 100..101, 2).await.unwrap();
    drop(engine);
    let engine = open_with(&disk, 9).unwrap();
    engine.rebuild_index().unwrap();
    // The first of two logs is sealed, and the index is made durable with what it says of it.
    put(&engine, "docs", 200..201, 3).await.unwrap();
    put(&engine, "other", 0..5, 1).await.unwrap();
    engine.checkpoint(&name("other")).await.unwrap();
    drop(engine);
    let logs: Vec<PathBuf> =
        files(&disk).into_iter().filter(|file| file.extension().is_some_and(|end| end == "wal")).collect();
    assert_eq!(logs.iter().filter(|log| log.starts_with("/data/store")).count(), 1, "{logs:?}");
    logs.iter().for_each(|log| disk.remove(log).unwrap());
    let engine = open_with(&disk, 10).unwrap();
    assert_eq!(all(&engine, "docs").unwrap(), expected);
    engine.rebuild_index().unwrap();
    put(&engine, "docs", 300..301, 4).await.unwrap();
    assert_eq!(engine.node_status()["damaged"], json!([]));
}
