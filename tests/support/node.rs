//! A node whose power can be cut, and short ways to write and read.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value as Json, json};
use shoal::api::wire::query::parse_query;
use shoal::api::wire::write::{WriteBody, parse_write};
use shoal::engine::lineage::BranchRequest;
use shoal::engine::view::View;
use shoal::engine::{Engine, EngineConfig};
use shoal::error::Result;
use shoal::model::ids::{DocId, NamespaceName, Project};
use shoal::model::query::Answer;
use shoal::model::value_render::to_json;
use shoal::model::write::WriteOutcome;
use shoal::platform::allowance::Allowance;
use shoal::platform::clock::ManualClock;
use shoal::platform::disk::Disk;
use shoal::platform::memory_disk::MemoryDisk;
use shoal::platform::random::SeededRandom;

#[path = "through_bucket.rs"]
pub mod through_bucket;

pub const DAY_MS: u64 = 24 * 3_600_000;

pub struct Node {
    pub disk: MemoryDisk,
    pub clock: Arc<ManualClock>,
    pub random: Arc<SeededRandom>,
    pub config: EngineConfig,
}

/// Documents as JSON by id.
pub type Documents = BTreeMap<DocId, BTreeMap<String, Json>>;

impl Node {
    pub fn new(seed: u64) -> Self {
        Node {
            disk: MemoryDisk::default(),
            clock: Arc::new(ManualClock::at(1_700_000_000_000)),
            random: Arc::new(SeededRandom::new(seed)),
            config: EngineConfig { flush_bytes: 1 << 30, compaction_fan_in: 4, ..EngineConfig::new("/data") },
        }
    }

    pub fn open(&self) -> Arc<Engine> {
        self.try_open().unwrap()
    }

    pub fn try_open(&self) -> Result<Arc<Engine>> {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.mounted());
        let engine = Engine::open(self.config.clone(), disk, self.clock.clone(), self.random.clone())?;
        engine.rebuild_index()?;
        through_bucket::opened(&engine, &self.clock);
        Ok(engine)
    }

    /// Ends the engine by a power cut and opens it again.
    pub fn cut_power(&self, engine: Arc<Engine>) -> Arc<Engine> {
        drop(engine);
        self.disk.power_cut(&*self.random);
        self.open()
    }
}

pub fn name(text: &str) -> NamespaceName {
    Project::default_project().namespace(text).unwrap()
}

pub async fn try_write(engine: &Arc<Engine>, to: &NamespaceName, body: Json) -> Result<WriteOutcome> {
    let WriteBody::Write(request) = parse_write(body).unwrap() else { panic!("expected a write") };
    engine.write(to, *request).await
}

pub async fn write(engine: &Arc<Engine>, namespace: &str, body: Json) {
    try_write(engine, &name(namespace), body).await.unwrap();
}

/// Upserts documents with these ids, all with the same `n`.
pub async fn put(engine: &Arc<Engine>, namespace: &str, ids: impl IntoIterator<Item = u64>, n: u64) {
    let rows: Vec<Json> = ids.into_iter().map(|id| json!({"id": id, "n": n, "text": format!("fish {id}")})).collect();
    write(
        engine,
        namespace,
        json!({"upsert_rows": rows, "schema": {"text": {"type": "string", "full_text_search": true}}}),
    )
    .await;
}

pub async fn branch(engine: &Arc<Engine>, from: &str, to: &str) {
    engine.branch(&name(from), &name(to), BranchRequest::default()).await.unwrap();
}

pub fn documents(view: &View) -> Documents {
    let parsed = parse_query(json!({"rank_by": ["id", "asc"], "limit": 10_000, "include_attributes": true})).unwrap();
    let mut outcome = shoal::engine::query::run(view, &parsed.request, &Allowance::unlimited()).unwrap();
    let Answer::Rows(rows) = outcome.answers.remove(0) else { panic!("expected rows") };
    rows.into_iter()
        .map(|row| (row.id, row.fields.iter().map(|(name, value)| (name.clone(), to_json(value, false))).collect()))
        .collect()
}

pub fn all(engine: &Engine, namespace: &str) -> Documents {
    let found = documents(&engine.view(&name(namespace)).unwrap());
    through_bucket::check(engine, namespace, &found, |engine| documents(&engine.view(&name(namespace)).unwrap()));
    found
}
