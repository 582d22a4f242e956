//! A node whose disk and bucket fail once, and other nodes that see what it left in the bucket and in snapshots.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use object_store::memory::InMemory;
use serde_json::{Value as Json, json};
use shoal::api::wire::query::parse_query;
use shoal::api::wire::write::{WriteBody, parse_write};
use shoal::engine::merge::decide::Policy;
use shoal::engine::view::View;
use shoal::engine::{Engine, EngineConfig};
use shoal::error::Result;
use shoal::model::ids::{DocId, NamespaceName, Project};
use shoal::model::query::Answer;
use shoal::model::value_render::to_json;
use shoal::model::write::{Idempotency, WriteOutcome, WriteRequest};
use shoal::platform::allowance::Allowance;
use shoal::platform::clock::ManualClock;
use shoal::platform::disk::Disk;
use shoal::platform::memory_disk::MemoryDisk;
use shoal::platform::random::SeededRandom;
use shoal::snapshot::restore::restore;
use shoal::store::{Backend, Bucket, Patience};
use shoal::sync::{Sync, SyncOptions};

use crate::faulty_store::{Fault, FaultyStore};
use crate::model::{CLASS_IDS, Documents, Edit, Fields, What};
use crate::steps::HOUR_MS;

pub const RETENTION_MS: u64 = 7 * 24 * HOUR_MS;

/// Nothing is waited for: what fails is told at once.
const PATIENCE: Patience = Patience {
    whole: Duration::from_millis(20),
    attempt: Duration::from_secs(2),
    wait_first: Duration::from_micros(10),
    wait_max: Duration::from_micros(100),
};

/// What goes wrong with requests, by their numbers.
type Planned = Arc<Mutex<Option<(u64, u64, Fault)>>>;

/// A store, and a way to it on which requests fail.
pub struct Place {
    store: Arc<InMemory>,
    wire: Arc<FaultyStore<InMemory>>,
    planned: Planned,
}

impl Place {
    pub fn new() -> Self {
        let store = Arc::new(InMemory::new());
        let planned = Planned::default();
        let plan = planned.clone();
        let wire = FaultyStore::new(store.clone(), move |step| {
            let planned = *plan.lock().unwrap();
            planned.filter(|(from, to, _)| (*from..*to).contains(&step)).map(|(.., fault)| fault)
        });
        Place { store, wire: Arc::new(wire), planned }
    }

    /// How many requests there were.
    pub fn requests(&self) -> u64 {
        self.wire.steps()
    }

    pub fn plan(&self, planned: Option<(u64, u64, Fault)>) {
        *self.planned.lock().unwrap() = planned;
    }

    fn link(&self, engine: &Arc<Engine>, node: &Node, is_sound: bool) -> Arc<Sync> {
        let backend = match is_sound {
            true => Backend::direct(self.store.clone(), None, "memory"),
            false => Backend::direct(self.wire.clone(), None, "memory"),
        };
        let bucket = Bucket::over(backend, node.clock.clone(), node.random.clone());
        let options = SyncOptions { policy: Policy::Lww, patience: PATIENCE };
        Arc::new(Sync::new(engine.clone(), bucket, options, node.clock.clone()))
    }
}

pub struct Node {
    pub disk: MemoryDisk,
    pub clock: Arc<ManualClock>,
    pub random: Arc<SeededRandom>,
}

impl Node {
    pub fn new(seed: u64, clock: Arc<ManualClock>) -> Self {
        Node { disk: MemoryDisk::default(), clock, random: Arc::new(SeededRandom::new(seed)) }
    }

    /// Opens the directory. What is wrong with its index is a matter of the background.
    pub fn open(&self) -> Result<Arc<Engine>> {
        // No merges of segments of their own accord, so that a seed has one course.
        let config = EngineConfig {
            flush_bytes: 1 << 30,
            compaction_fan_in: 1_000,
            compaction_dead_percent: 1_000,
            retention_ms: RETENTION_MS,
            retention_disk_percent: 100,
            tail_bytes_max: 1 << 30,
            tails_bytes_max: 4 << 30,
            backpressure_wait_ms: 100,
            ..EngineConfig::new("/data")
        };
        let disk: Arc<dyn Disk> = Arc::new(self.disk.mounted());
        Engine::open(config, disk, self.clock.clone(), self.random.clone())
    }

    /// A link to the bucket; faults of the way are for those that are not sound.
    pub fn link(&self, engine: &Arc<Engine>, place: &Place, is_sound: bool) -> Arc<Sync> {
        place.link(engine, self, is_sound)
    }
}

pub fn name(text: &str) -> NamespaceName {
    Project::default_project().namespace(text).unwrap()
}

/// What is sent for a write.
pub fn request(edit: &Edit, key: Option<u64>) -> WriteRequest {
    let value = edit.value;
    let body = match &edit.what {
        What::Put { ids, empties } => {
            let row = |id: &u64| {
                let mut row = json!({"id": id, "n": value, "o": id / CLASS_IDS, "text": format!("fish {id}")});
                if *empties > 0 {
                    row["empties"] = json!(vec![""; *empties]);
                }
                row
            };
            let schema = json!({
                "n": "int", "m": "int", "o": "int", "empties": "[]string",
                "text": {"type": "string", "full_text_search": true},
            });
            json!({"upsert_rows": ids.iter().map(row).collect::<Vec<Json>>(), "schema": schema})
        }
        What::Patch { id } => json!({"patch_rows": [{"id": id, "m": value}]}),
        What::PatchAll { class } => {
            json!({"patch_by_filter": {"filters": ["o", "Eq", class], "patch": {"m": value}}})
        }
        What::Delete { ids } => json!({ "deletes": ids }),
        What::DeleteSince { class, since } => {
            json!({"delete_by_filter": ["And", [["o", "Eq", class], ["n", "Gte", since]]]})
        }
    };
    let WriteBody::Write(request) = parse_write(body).unwrap() else { panic!("expected a write") };
    let hash = |key: u64| u128::from(key).to_be_bytes();
    let idempotency = key.map(|key| Idempotency { key_hash: hash(key), body_hash: hash(key + 1) });
    WriteRequest { idempotency, ..*request }
}

pub async fn write(engine: &Arc<Engine>, to: &str, edit: &Edit, key: Option<u64>) -> Result<WriteOutcome> {
    engine.write(&name(to), request(edit, key)).await
}

/// All documents of a view, which its index of words has, too.
pub fn documents(view: &View) -> Result<Documents> {
    let ask = |body: Json| {
        let request = parse_query(body).unwrap().request;
        let mut outcome = shoal::engine::query::run(view, &request, &Allowance::unlimited())?;
        let Answer::Rows(rows) = outcome.answers.remove(0) else { panic!("expected rows") };
        Ok::<_, shoal::error::Error>(rows)
    };
    let rows = ask(json!({"rank_by": ["id", "asc"], "limit": 10_000, "include_attributes": true}))?;
    let mut found = Documents::new();
    for row in rows {
        let DocId::Uint(id) = row.id else { panic!("expected an integer") };
        let fields: BTreeMap<&str, Json> =
            row.fields.iter().map(|(name, value)| (&**name, to_json(value, false))).collect();
        let number = |name: &str| fields.get(name).and_then(Json::as_i64);
        let empties = fields.get("empties").and_then(Json::as_array).map(Vec::len);
        found.insert(id, Fields { n: number("n").unwrap(), m: number("m"), empties });
    }
    if !found.is_empty() {
        let by_text = ask(json!({"rank_by": ["text", "BM25", "fish"], "limit": 10_000}))?;
        assert_eq!(by_text.len(), found.len(), "the index of words has other documents");
    }
    Ok(found)
}

/// What a node that never was there before finds in the bucket, by name.
pub async fn in_bucket(seed: u64, clock: &Arc<ManualClock>, place: &Place) -> Result<BTreeMap<String, Documents>> {
    let node = Node::new(seed ^ 0xf2e5, clock.clone());
    let engine = node.open()?;
    // A machine that is busy may take longer than the patience of these tests.
    let mut tries = 0;
    loop {
        let done = node.link(&engine, place, true).run().await;
        tries += 1;
        if done.is_ok() || tries == 20 {
            done?;
            break;
        }
    }
    let named = engine.named().into_iter();
    named.map(|(name, _)| Ok((name.name.to_string(), documents(&*engine.view(&name)?)?))).collect()
}

/// What a snapshot restores to on a node of its own.
pub async fn in_snapshot(seed: u64, clock: &Arc<ManualClock>, bytes: &[u8]) -> Result<Documents> {
    let node = Node::new(seed ^ 0x5a9, clock.clone());
    let engine = node.open()?;
    restore(&engine, &name("restored"), None, Cursor::new(bytes.to_vec())).await?;
    documents(&*engine.view(&name("restored"))?)
}
