//! What is damaged is named in the status, with the namespaces that met it, and heals when the file is back.

use std::path::{Path, PathBuf};

use serde_json::Value as Json;
use shoal::engine::Engine;
use shoal::engine::check::RepairRequest;
use shoal::engine::check::Scope;
use shoal::error::Kind;
use shoal::platform::disk::{Disk as _, publish};
use shoal::platform::memory_disk::MemoryDisk;

use crate::node::{Damage, all, copy, damage, files, full, name, open, put};

/// The damaged files of a node's status: file, kind, and names of namespaces.
fn listed(engine: &Engine) -> Vec<(String, String, Vec<String>)> {
    let status = engine.node_status();
    let text = |json: &Json| json.as_str().unwrap().to_owned();
    let of = |damage: &Json| {
        let namespaces = damage["namespaces"].as_array().unwrap().iter().map(text).collect();
        (text(&damage["file"]), text(&damage["kind"]), namespaces)
    };
    status["damaged"].as_array().unwrap().iter().map(of).collect()
}

fn below(file: &Path) -> String {
    file.strip_prefix("/data").unwrap().display().to_string()
}

fn segment_of(disk: &MemoryDisk, engine: &Engine, of: &str) -> PathBuf {
    let nsid = engine.status(&name(of)).unwrap()["nsid"].as_str().unwrap().to_owned();
    let found = files(disk).into_iter().find(|file| file.ends_with("data.seg") && below(file).contains(&nsid));
    found.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_that_a_query_finds_damaged_is_named_until_it_is_back() {
    let disk = full(false).await;
    let engine = open(&disk).unwrap();
    let before = all(&engine, "other").unwrap();
    let segment = segment_of(&disk, &engine, "other");
    drop(engine);
    let whole = disk.read(&segment).unwrap();
    // Somewhere in the documents, so that the namespace opens.
    let opens_only = |at: usize| {
        let mut torn = whole.clone();
        torn[at] ^= 1;
        publish(&disk, &segment, &torn).unwrap();
        let engine = open(&disk).unwrap();
        engine.view(&name("other")).is_ok() && all(&engine, "other").is_err()
    };
    assert!((0..whole.len()).step_by(8).any(opens_only));
    let engine = open(&disk).unwrap();
    assert_eq!(listed(&engine), []);
    assert!(engine.view(&name("other")).is_ok());
    for _ in 0..2 {
        assert_eq!(all(&engine, "other").unwrap_err().kind(), Kind::Corrupt);
    }
    let expected = [(below(&segment), "segment".to_owned(), vec!["default/default/other".to_owned()])];
    assert_eq!(listed(&engine), expected);
    assert_eq!(engine.status(&name("other")).unwrap()["damaged"][0]["file"], below(&segment));
    assert_eq!(engine.status(&name("docs")).unwrap()["damaged"], serde_json::json!([]));
    engine.tend().await.unwrap();
    assert_eq!(listed(&engine), expected, "it is still damaged");
    publish(&disk, &segment, &whole).unwrap();
    engine.tend().await.unwrap();
    engine.tend().await.unwrap();
    assert_eq!(listed(&engine), []);
    assert_eq!(all(&engine, "other").unwrap(), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_was_set_apart_is_served_again_once_its_file_is_back() {
    let disk = full(false).await;
    let engine = open(&disk).unwrap();
    let before = all(&engine, "other").unwrap();
    let segment = segment_of(&disk, &engine, "other");
    drop(engine);
    let whole = disk.read(&segment).unwrap();
    damage(&disk, &segment, Damage::Truncated);
    let engine = open(&disk).unwrap();
    assert_eq!(all(&engine, "other").unwrap_err().kind(), Kind::Corrupt);
    assert_eq!(engine.node_status()["namespaces"]["quarantined"].as_array().unwrap().len(), 1);
    assert_eq!(listed(&engine)[0].0, below(&segment));
    engine.tend().await.unwrap();
    assert_eq!(all(&engine, "other").unwrap_err().kind(), Kind::Corrupt);
    publish(&disk, &segment, &whole).unwrap();
    engine.tend().await.unwrap();
    engine.tend().await.unwrap();
    assert_eq!(engine.node_status()["namespaces"]["quarantined"], serde_json::json!([]));
    assert_eq!(listed(&engine), []);
    assert_eq!(all(&engine, "other").unwrap(), before);
    put(&engine, "other", 90..92, 9).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_file_that_a_check_finds_damaged_is_named_until_it_is_back() {
    let whole = full(false).await;
    let mut kinds = std::collections::BTreeSet::new();
    for file in files(&whole) {
        let disk = copy(&whole);
        damage(&disk, &file, Damage::Truncated);
        let engine = open(&disk).unwrap();
        engine.rebuild_index().unwrap();
        let report = engine.check(4).unwrap();
        let found: Vec<String> = listed(&engine).into_iter().map(|(file, ..)| file).collect();
        for problem in &report.problems {
            assert!(found.contains(&problem.file), "{}: {found:?}", problem.file);
        }
        kinds.extend(listed(&engine).into_iter().map(|(_, kind, _)| kind));
        publish(&disk, &file, &whole.read(&file).unwrap()).unwrap();
        for _ in 0..20 {
            engine.tend().await.unwrap();
        }
        assert_eq!(listed(&engine), [], "{} is back", file.display());
    }
    for kind in ["name", "manifest", "tag", "base", "segment", "deletions", "log"] {
        assert!(kinds.contains(kind), "{kind}: {kinds:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_heals_at_once_what_is_as_it_should_be() {
    let disk = full(false).await;
    let engine = open(&disk).unwrap();
    let segment = segment_of(&disk, &engine, "docs");
    let whole = disk.read(&segment).unwrap();
    damage(&disk, &segment, Damage::Flipped);
    assert!(!engine.check(3).unwrap().is_whole());
    let (_, _, namespaces) = listed(&engine).remove(0);
    assert_eq!(namespaces, ["default/default/child", "default/default/docs"], "both need it");
    publish(&disk, &segment, &whole).unwrap();
    assert!(engine.check(3).unwrap().is_whole());
    assert_eq!(listed(&engine), []);
    let request = RepairRequest { scope: Scope::Store, dry_run: false, drop_damaged: None, force: false };
    assert_eq!(engine.repair_in(&request).unwrap().remaining, []);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_of_the_past_whose_manifest_is_missing_is_reported_until_a_repair_forgets_it() {
    let disk = full(false).await;
    let engine = open(&disk).unwrap();
    engine.rebuild_index().unwrap();
    assert!(engine.check(1).unwrap().is_whole());
    let nsid = engine.status(&name("docs")).unwrap()["nsid"].as_str().unwrap().to_owned();
    let generation = engine.history(&name("docs")).unwrap()[1].generation;
    let missing = format!("local/{nsid}/{generation:020}.json");
    disk.remove(&Path::new("/data").join(&missing)).unwrap();
    let found = engine.check(1).unwrap().problems;
    assert_eq!(found.iter().map(|problem| problem.file.as_str()).collect::<Vec<_>>(), [missing]);
    engine
        .repair_in(&RepairRequest { scope: Scope::Store, dry_run: false, drop_damaged: None, force: false })
        .unwrap();
    assert!(engine.check(1).unwrap().is_whole());
}
