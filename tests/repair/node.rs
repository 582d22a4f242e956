//! A data directory with every kind of file in it, and copies of it to damage.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value as Json, json};
use shoal::api::wire::query::parse_query;
use shoal::api::wire::write::{WriteBody, parse_write};
use shoal::engine::lineage::BranchRequest;
use shoal::engine::merge::MergeRequest;
use shoal::engine::{Engine, EngineConfig};
use shoal::error::Result;
use shoal::model::ids::{DocId, NamespaceName, Project};
use shoal::model::query::Answer;
use shoal::model::value_render::to_json;
use shoal::platform::clock::ManualClock;
use shoal::platform::disk::{Disk, create_dirs, publish};
use shoal::platform::memory_disk::MemoryDisk;
use shoal::platform::random::SeededRandom;

pub type Documents = BTreeMap<DocId, BTreeMap<String, Json>>;

pub const NAMES: [&str; 3] = ["docs", "child", "other"];

pub fn name(text: &str) -> NamespaceName {
    Project::default_project().namespace(text).unwrap()
}

pub fn open(disk: &MemoryDisk) -> Result<Arc<Engine>> {
    open_with(disk, 7)
}

/// With other random numbers, for who goes on writing what another opened.
pub fn open_with(disk: &MemoryDisk, seed: u64) -> Result<Arc<Engine>> {
    let config = EngineConfig {
        flush_bytes: 1 << 30,
        compaction_fan_in: 1_000,
        compaction_dead_percent: 1_000,
        ..EngineConfig::new("/data")
    };
    let clock = Arc::new(ManualClock::at(1_700_000_000_000));
    let disk: Arc<dyn Disk> = Arc::new(disk.mounted());
    Engine::open(config, disk, clock, Arc::new(SeededRandom::new(seed)))
}

pub async fn write(engine: &Arc<Engine>, to: &str, body: Json) -> Result<()> {
    let WriteBody::Write(request) = parse_write(body).unwrap() else { panic!("expected a write") };
    engine.write(&name(to), *request).await.map(drop)
}

pub async fn put(engine: &Arc<Engine>, to: &str, ids: std::ops::Range<u64>, n: u64) -> Result<()> {
    let rows: Vec<Json> = ids.map(|id| json!({"id": id, "n": n, "text": format!("fish {id}")})).collect();
    write(engine, to, json!({"upsert_rows": rows})).await
}

pub fn all(engine: &Engine, namespace: &str) -> Result<Documents> {
    let body = json!({"rank_by": ["id", "asc"], "limit": 10_000, "include_attributes": true});
    let mut outcome = engine.query(&name(namespace), &parse_query(body).unwrap().request)?;
    let Answer::Rows(rows) = outcome.answers.remove(0) else { panic!("expected rows") };
    let fields = |fields: &[(String, shoal::model::value::Value)]| {
        fields.iter().map(|(name, value)| (name.clone(), to_json(value, false))).collect()
    };
    Ok(rows.into_iter().map(|row| (row.id, fields(&row.fields))).collect())
}

/// Segments with deletions, past states, a tag, sealed logs, a branch that shares them and was merged, a deleted namespace, a pin. `cut`: the
/// power goes in the end, so that logs are open and the index is not trusted.
pub async fn full(cut: bool) -> MemoryDisk {
    let disk = MemoryDisk::default();
    let engine = open(&disk).unwrap();
    engine.rebuild_index().unwrap();
    put(&engine, "docs", 0..20, 1).await.unwrap();
    engine.checkpoint(&name("docs")).await.unwrap();
    put(&engine, "docs", 5..8, 2).await.unwrap();
    write(&engine, "docs", json!({"deletes": [1, 2]})).await.unwrap();
    engine.checkpoint(&name("docs")).await.unwrap();
    engine.tag(&name("docs"), "monday", None).await.unwrap();
    put(&engine, "docs", 30..33, 3).await.unwrap();
    engine.branch(&name("docs"), &name("child"), BranchRequest::default()).await.unwrap();
    put(&engine, "child", 40..42, 4).await.unwrap();
    engine.merge(&name("child"), &name("docs"), MergeRequest::default()).await.unwrap();
    put(&engine, "docs", 50..52, 5).await.unwrap();
    put(&engine, "other", 0..5, 1).await.unwrap();
    engine.checkpoint(&name("other")).await.unwrap();
    put(&engine, "other", 3..9, 2).await.unwrap();
    engine.allocate_ids(&name("other"), 1).await.unwrap();
    put(&engine, "gone", 0..3, 1).await.unwrap();
    engine.delete(&name("gone")).await.unwrap();
    engine.update_metadata(&name("other"), None, Some(true)).await.unwrap();
    if cut {
        drop(engine);
        disk.power_cut(&SeededRandom::new(3));
    } else {
        engine.shutdown().await.unwrap();
    }
    disk
}

pub fn files(disk: &MemoryDisk) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![PathBuf::from("/data")];
    while let Some(dir) = dirs.pop() {
        for entry in disk.list(&dir).unwrap() {
            let path = dir.join(&entry.name);
            if entry.is_dir { dirs.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

/// The same files on another disk.
pub fn copy(disk: &MemoryDisk) -> MemoryDisk {
    let to = MemoryDisk::default();
    for file in files(disk) {
        create_dirs(&to, file.parent().unwrap()).unwrap();
        publish(&to, &file, &disk.read(&file).unwrap()).unwrap();
    }
    to
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Damage {
    Deleted,
    Truncated,
    Flipped,
}

pub fn damage(disk: &MemoryDisk, file: &Path, damage: Damage) {
    let mut bytes = disk.read(file).unwrap();
    match damage {
        Damage::Deleted => return disk.remove(file).unwrap(),
        Damage::Truncated => bytes.truncate(bytes.len() / 2),
        Damage::Flipped => {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 0x10;
        }
    }
    publish(disk, file, &bytes).unwrap();
}
