//! A node on a disk in memory, and what it holds.

use std::collections::BTreeMap;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value as Json, json};
use shoal::api::wire::write::{WriteBody, parse_write};
use shoal::engine::check::Report;
use shoal::engine::{Engine, EngineConfig};
use shoal::error::Result;
use shoal::format::manifest::Manifest;
use shoal::format::snapshot::{Description, SnapshotReader};
use shoal::format::snapshot_writer::SnapshotWriter;
use shoal::model::document::Document;
use shoal::model::ids::{DocId, NamespaceName, Project};
use shoal::model::write::WriteRequest;
use shoal::platform::clock::ManualClock;
use shoal::platform::disk::Disk;
use shoal::platform::memory_disk::MemoryDisk;
use shoal::platform::random::SeededRandom;
use shoal::snapshot::export::export;
use shoal::snapshot::import::import;
use shoal::snapshot::restore::{Restored, restore};
use shoal::snapshot::take::{Extent, take};

pub struct Node {
    pub disk: MemoryDisk,
    pub clock: Arc<ManualClock>,
    random: Arc<SeededRandom>,
}

impl Node {
    pub fn new(seed: u64) -> Self {
        Node {
            disk: MemoryDisk::default(),
            clock: Arc::new(ManualClock::at(1_700_000_000_000)),
            random: Arc::new(SeededRandom::new(seed)),
        }
    }

    pub fn open(&self) -> Result<Arc<Engine>> {
        self.open_on(Arc::new(self.disk.mounted()))
    }

    pub fn open_on(&self, disk: Arc<dyn Disk>) -> Result<Arc<Engine>> {
        // No merges of their own accord: tests say which segments there are.
        let config = EngineConfig {
            flush_bytes: 1 << 30,
            compaction_fan_in: 1_000,
            compaction_dead_percent: 1_000,
            ..EngineConfig::new("/data")
        };
        let engine = Engine::open(config, disk, self.clock.clone(), self.random.clone())?;
        engine.rebuild_index()?;
        Ok(engine)
    }

    pub fn cut_power(&self) {
        self.disk.power_cut(&*self.random);
    }
}

pub fn name(text: &str) -> NamespaceName {
    Project::default_project().namespace(text).unwrap()
}

pub fn request(body: Json) -> WriteRequest {
    let WriteBody::Write(request) = parse_write(body).unwrap() else { panic!("expected a write") };
    *request
}

pub async fn write(engine: &Arc<Engine>, to: &str, body: Json) {
    engine.write(&name(to), request(body)).await.unwrap();
}

/// Columns of every type.
pub fn schema() -> Json {
    json!({
        "id": "uuid",
        "bool": "bool", "int": "int", "uint": "uint", "float": "float", "string": "string", "uuid": "uuid",
        "datetime": "datetime", "bytes": "bytes", "bools": "[]bool", "ints": "[]int", "uints": "[]uint",
        "floats": "[]float", "strings": "[]string", "uuids": "[]uuid", "datetimes": "[]datetime",
        "text": {"type": "string", "full_text_search": {"stemming": true, "k1": 1.7}},
        "path": {"type": "string", "glob": true, "filterable": false},
        "f32": {"type": "[3]f32", "ann": true}, "f16": {"type": "[2]f16", "ann": true},
        "i8": {"type": "[2]i8", "ann": true}, "sparse": "{}f16",
    })
}

pub fn row(n: u64) -> Json {
    let uuid = |n: u64| format!("00000000-0000-4000-8000-{n:012}");
    let third = 1.0 / (n as f64 + 3.0);
    let mut row = json!({
        "id": uuid(n), "bool": n.is_multiple_of(2), "int": -(n as i64), "uint": u64::MAX - n, "float": third * 1e-7,
        "string": "quote \" and \u{1f41f}\n\u{0}", "uuid": uuid(n + 7), "datetime": "2024-02-29T23:59:59.123Z",
        "bytes": "AP8=", "bools": [true, false], "ints": [i64::MIN, 0], "uints": [], "floats": [0.1, -0.0, 5e-324],
        "strings": ["", "a"], "uuids": [uuid(1)], "datetimes": ["0001-01-01", "9999-12-31T23:59:59.999Z"],
        "text": format!("fish swimming number {n}"), "path": format!("a/b/{n}"),
        "f32": [third, -0.0, 3.4e38], "f16": [0.1, 65504.0], "i8": [-128, 127], "sparse": {"fugu": third, "": 0.5},
    });
    // Every row lacks some columns.
    let names: Vec<String> = row.as_object().unwrap().keys().filter(|key| *key != "id").cloned().collect();
    for (at, name) in names.iter().enumerate() {
        if (n + at as u64) % 5 == 4 {
            row.as_object_mut().unwrap().remove(name);
        }
    }
    row
}

pub fn rows(from: u64, to: u64) -> Json {
    json!({
        "upsert_rows": (from..to).map(row).collect::<Vec<_>>(), "schema": schema(), "distance_metric": "cosine_distance",
    })
}

/// A namespace with several segments, dead rows in them, tombstones and a tail.
pub async fn fill(engine: &Arc<Engine>, to: &str) {
    write(engine, to, rows(0, 20)).await;
    engine.checkpoint(&name(to)).await.unwrap();
    let id = |n: u64| row(n)["id"].clone();
    write(engine, to, rows(15, 30)).await;
    write(engine, to, json!({"deletes": [id(2), id(17)]})).await;
    engine.checkpoint(&name(to)).await.unwrap();
    write(engine, to, json!({"patch_rows": [{"id": id(3), "int": 77, "string": null}]})).await;
    write(engine, to, rows(40, 43)).await;
    write(engine, to, json!({"deletes": [id(4)]})).await;
}

/// Documents of one column, for who goes through the same many times.
pub fn few(from: u64, to: u64) -> Json {
    let row = |n: u64| json!({"id": row(n)["id"], "int": n});
    json!({"upsert_rows": (from..to).map(row).collect::<Vec<_>>(), "schema": {"id": "uuid", "int": "int"}})
}

/// [`fill`] with a few of those.
pub async fn fill_few(engine: &Arc<Engine>, to: &str) {
    let id = |n: u64| row(n)["id"].clone();
    write(engine, to, few(0, 8)).await;
    engine.checkpoint(&name(to)).await.unwrap();
    write(engine, to, few(7, 14)).await;
    write(engine, to, json!({"deletes": [id(2), id(13)]})).await;
    engine.checkpoint(&name(to)).await.unwrap();
    write(engine, to, few(20, 22)).await;
    write(engine, to, json!({"deletes": [id(4)]})).await;
}

/// Every document, with its version.
pub async fn contents(engine: &Arc<Engine>, of: &NamespaceName) -> Result<BTreeMap<DocId, Document>> {
    let moment = engine.moment_at(of, None).await?;
    let mut found = BTreeMap::new();
    for part in &moment.view.segments {
        let mut scan = part.segment.scan()?;
        for row in part.live_rows() {
            let document = scan.document(row, None)?;
            assert!(found.insert(document.id.clone(), document).is_none(), "a document is live twice");
        }
    }
    for (_, row) in moment.view.tail.iter() {
        assert!(found.insert(row.document.id.clone(), (*row.document).clone()).is_none());
    }
    Ok(found)
}

/// The same without what patches leave behind, which only merges need.
pub fn plain(documents: BTreeMap<DocId, Document>) -> BTreeMap<DocId, Document> {
    documents.into_iter().map(|(id, document)| (id, Document { patch: None, ..document })).collect()
}

pub async fn snapshot(engine: &Arc<Engine>, of: &str, extent: Extent) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    take(engine, &name(of), &extent).await?.write(&mut bytes)?;
    Ok(bytes)
}

pub async fn restored(engine: &Arc<Engine>, to: &str, bytes: &[u8]) -> Result<Restored> {
    restore(engine, &name(to), None, Cursor::new(bytes.to_vec())).await
}

/// A snapshot that says something else of its objects, with those of them that are still in it.
pub fn rewritten(bytes: &[u8], edit: impl FnOnce(&mut Description, &mut Manifest)) -> Vec<u8> {
    let mut reader = SnapshotReader::open(bytes, "snapshot").unwrap();
    let (mut description, mut manifest) = (reader.description().clone(), reader.manifest().clone());
    edit(&mut description, &mut manifest);
    let mut out = Vec::new();
    let mut writer = SnapshotWriter::begin(&mut out, &description, &manifest).unwrap();
    while let Some(member) = reader.next_member() {
        let mut object = Vec::new();
        reader.copy_object(&mut object).unwrap();
        if writer.next_member() == Some(member) {
            writer.object(|out| Ok(out.write_all(&object)?)).unwrap();
        }
    }
    writer.finish().unwrap();
    out
}

/// Every file below a directory.
pub fn files(disk: &MemoryDisk, dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in disk.list(dir).unwrap() {
        let path = dir.join(&entry.name);
        if entry.is_dir { found.extend(files(disk, &path)) } else { found.push(path) }
    }
    found
}

/// A writer that does not take more than so many bytes.
pub struct Full(pub usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0 = self.0.checked_sub(bytes.len()).ok_or(std::io::ErrorKind::BrokenPipe)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

pub async fn exported(engine: &Arc<Engine>, of: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    export(&engine.moment_at(&name(of), None).await?, &mut bytes)?;
    Ok(bytes)
}

pub async fn imported(engine: &Arc<Engine>, to: &str, bytes: &[u8]) -> Result<u64> {
    import(engine, &name(to), Cursor::new(bytes.to_vec())).await
}

/// Sweeps until nothing is left over: what belongs to somebody who is still at work is passed over, and found the next time.
pub async fn swept(engine: &Arc<Engine>) -> Report {
    let sweep = || {
        engine.rebuild_index().unwrap();
        engine.check(4).unwrap()
    };
    for _ in 0..1_000 {
        let report = tokio::task::block_in_place(sweep);
        if report.orphans == 0 {
            return report;
        }
        tokio::task::yield_now().await;
    }
    tokio::task::block_in_place(sweep)
}
