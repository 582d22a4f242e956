//! The node that lives: what it does in an hour, what is expected of it, and what it takes.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use serde_json::{Value as Json, json};
use shoal::api::wire::query::parse_query;
use shoal::api::wire::write::{WriteBody, parse_write};
use shoal::engine::lineage::BranchRequest;
use shoal::engine::merge::MergeRequest;
use shoal::engine::merge::decide::Policy;
use shoal::engine::{CreateRequest, Engine, EngineConfig};
use shoal::error::{Error, Result};
use shoal::model::as_of::AsOf;
use shoal::model::ids::{NamespaceName, Project};
use shoal::model::query::Answer;
use shoal::model::value_render::to_json;
use shoal::model::write::Idempotency;
use shoal::platform::allowance::Allowance;
use shoal::platform::clock::{Clock, ManualClock};
use shoal::platform::random::{Random, SeededRandom};
use shoal::snapshot::restore::restore;
use shoal::snapshot::take::{Extent, take};

use crate::worn_disk::{Wear, WornDisk};

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
const DOCUMENTS: u64 = 250;
const TEXT_BYTES: usize = 2_000;
/// The disk's size, as the node is told.
const DISK_BYTES: u64 = 96 << 20;
const RETENTION_PERCENT: u32 = 20;
/// Logs, tails on their way, a segment beside those it is merged from, the index.
pub const WORKING_BYTES: u64 = 16 << 20;
pub const ANONYMOUS_BYTES_MAX: u64 = 128 << 20;

/// What may not grow: its name, and what may come and go besides a tenth.
pub type Flat = (&'static str, fn(&Figures) -> u64, u64);
pub const FLAT: [Flat; 6] = [
    ("bytes on the disk", |f| f.disk_bytes, 1 << 20),
    ("bytes of anonymous memory", |f| f.anonymous_bytes, 8 << 20),
    ("manifests", |f| f.manifests, 16),
    ("directories", |f| f.directories, 8),
    ("descriptors", |f| f.descriptors, 4),
    ("maps", |f| f.maps, 40),
];

/// What the node takes at the end of a day.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    pub live_bytes: u64,
    /// What retention may keep beside.
    pub promised_bytes: u64,
    pub disk_bytes: u64,
    pub written_bytes: u64,
    pub anonymous_bytes: u64,
    pub manifests: u64,
    pub directories: u64,
    pub descriptors: u64,
    pub maps: u64,
}

pub struct Life {
    dir: tempfile::TempDir,
    wear: Arc<Wear>,
    clock: Arc<ManualClock>,
    random: Arc<SeededRandom>,
    config: EngineConfig,
    engine: Option<Arc<Engine>>,
    /// Whoever has it may still write.
    disk: Weak<WornDisk>,
    /// What each document may be: one value, or several after an error that left it open.
    expected: BTreeMap<u64, BTreeSet<u64>>,
    /// Counts writes: their keys, and what they write.
    writes: u64,
}

impl Life {
    pub fn begin(days: u64) -> Life {
        let dir = tempfile::tempdir().unwrap();
        // A short life must see everything go that is kept for a time.
        let scale = |most: u64| most.min(days.max(8) / 8);
        let config = EngineConfig {
            flush_bytes: 1 << 20,
            tail_bytes_max: 4 << 20,
            tails_bytes_max: 8 << 20,
            retention_ms: scale(7) * DAY_MS,
            tombstone_ms: scale(30) * DAY_MS,
            retention_disk_percent: RETENTION_PERCENT,
            ..EngineConfig::new(dir.path().join("data"))
        };
        let wear = Arc::new(Wear::default());
        wear.free_bytes.store(DISK_BYTES, Ordering::Relaxed);
        let random = Arc::new(SeededRandom::new(1));
        let clock = Arc::new(ManualClock::at(1_700_000_000_000));
        Life {
            dir,
            wear,
            clock,
            random,
            config,
            engine: None,
            disk: Weak::new(),
            expected: BTreeMap::new(),
            writes: 0,
        }
    }

    fn engine(&mut self) -> Arc<Engine> {
        if let Some(engine) = &self.engine {
            return engine.clone();
        }
        let disk = Arc::new(WornDisk(self.wear.clone()));
        self.disk = Arc::downgrade(&disk);
        let engine = Engine::open(self.config.clone(), disk, self.clock.clone(), self.random.clone()).unwrap();
        engine.rebuild_index().unwrap();
        self.engine = Some(engine.clone());
        engine
    }

    fn pick(&self, n: u64) -> u64 {
        self.random.next_u64() % n
    }

    /// One day, hour by hour.
    pub async fn live(&mut self, day: u64) {
        let is_bad_day = day % 5 == 4;
        for hour in 0..24 {
            let is_failing = is_bad_day && (6..10).contains(&hour);
            self.wear.is_full.store(day.is_multiple_of(2), Ordering::Relaxed);
            self.wear.one_in.store(if is_failing { 6 } else { 0 }, Ordering::Relaxed);
            self.hour(day, hour, is_failing).await;
            self.wear.one_in.store(0, Ordering::Relaxed);
            if is_failing {
                // What failed is tried again within a minute.
                self.clock.advance(61_000);
                let _ = self.engine().tend().await;
            }
        }
        self.verify(day).await;
        match day % 11 {
            3 => {
                let engine = self.engine();
                engine.shutdown().await.unwrap();
                drop(engine);
                self.leave().await;
            }
            // As a kill leaves it: what is not in the files is gone.
            7 => self.leave().await,
            _ => {}
        }
    }

    /// Lets go of the engine, once everything has ended that still runs in it and has its disk: two would write one index.
    async fn leave(&mut self) {
        self.engine = None;
        while self.disk.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    }

    async fn hour(&mut self, day: u64, hour: u64, is_failing: bool) {
        let tolerate = |what: &str, done: Result<()>| {
            if let Err(error) = done {
                assert!(is_failing, "day {day}, hour {hour}: {what}: {error}");
            }
        };
        for _ in 0..4 {
            let done = self.overwrite().await;
            tolerate("overwrite", done);
        }
        let engine = self.engine();
        let feed = name("feed");
        if hour.is_multiple_of(2) {
            // A keyed write that changes nothing.
            self.writes += 1;
            let body = json!({"patch_rows": [{"id": 1_000_000, "n": 1}]});
            tolerate("a write of nothing", write(&engine, "feed", body, Some(self.writes)).await);
        }
        if hour.is_multiple_of(3) {
            let labels = [("hour".to_owned(), format!("{day}/{hour}"))].into();
            tolerate("label", engine.set_labels(&feed, labels).await);
        }
        if hour % 4 == 1 {
            tolerate("checkpoint", engine.checkpoint(&feed).await);
            let instant = self.clock.now_millis() - self.pick(self.config.retention_ms / 2);
            // A state that retention has let go of is no error of the node.
            if let Ok(view) = engine.view_at(&feed, Some(&AsOf::Instant(instant))) {
                assert!(view.documents() <= DOCUMENTS);
            }
        }
        match hour {
            5 | 8 | 17 => tolerate("branch", self.branch_and_merge(&engine, day, hour).await),
            12 => {
                let tag = format!("t{}", day % 4);
                // It is there from the fourth day on, unless a fault kept it from being made.
                let _ = engine.untag(&feed, &tag).await;
                tolerate("tag", engine.tag(&feed, &tag, None).await.map(drop));
            }
            14 => tolerate("expiring", expiring(&engine, day).await),
            20 if day.is_multiple_of(3) => tolerate("snapshot", snapshot(&engine).await),
            22 if day.is_multiple_of(6) => tolerate("compact", engine.compact(&feed).await),
            _ => {}
        }
        for _ in 0..2 {
            self.clock.advance(HOUR_MS / 2);
            if !engine.is_index_trusted() {
                tolerate("rebuild", engine.rebuild_index());
            }
            tolerate("tend", engine.tend().await);
        }
    }

    /// Writes some documents anew, twice with the same key: the second time must change nothing.
    async fn overwrite(&mut self) -> Result<()> {
        let engine = self.engine();
        self.writes += 1;
        let (key, n) = (self.writes, self.writes);
        let ids: BTreeSet<u64> = (0..5).map(|_| self.pick(DOCUMENTS)).collect();
        let rows: Vec<Json> = ids.iter().map(|id| row(*id, n, &self.random)).collect();
        let schema = json!({"text": {"type": "string", "full_text_search": true}});
        let done = write(&engine, "feed", json!({"upsert_rows": rows, "schema": schema}), Some(key)).await;
        ids.into_iter().for_each(|id| self.expect(id, n, done.is_ok()));
        done
    }

    /// A document is this now, or may be.
    fn expect(&mut self, id: u64, n: u64, is_certain: bool) {
        let possible = self.expected.entry(id).or_default();
        if is_certain {
            possible.clear();
        } else if possible.is_empty() {
            possible.insert(0);
        }
        possible.insert(n);
    }

    async fn branch_and_merge(&mut self, engine: &Arc<Engine>, day: u64, hour: u64) -> Result<()> {
        let (feed, branch) = (name("feed"), name(&format!("branch-{day}-{hour}")));
        engine.branch(&feed, &branch, BranchRequest::default()).await?;
        self.writes += 1;
        let (id, n) = (self.pick(DOCUMENTS), self.writes);
        let body = json!({"upsert_rows": [row(id, n, &self.random)]});
        let done = async {
            write(engine, &branch.name, body, None).await?;
            let request = MergeRequest { policy: Policy::Theirs, ..MergeRequest::default() };
            engine.merge(&branch, &feed, request).await.map(drop)
        };
        let done = done.await;
        self.expect(id, n, done.is_ok());
        let deleted = engine.delete(&branch).await;
        done.and(deleted)
    }

    /// Every document is what it may be, and from now on only that.
    async fn verify(&mut self, day: u64) {
        let engine = self.engine();
        engine.checkpoint(&name("feed")).await.unwrap();
        assert_eq!(engine.status(&name("feed")).unwrap()["tail"]["rows"], 0, "day {day}: a checkpoint leaves no row");
        let found = documents(&engine);
        for (id, possible) in &mut self.expected {
            let n = found.get(id).copied().unwrap_or(0);
            assert!(possible.contains(&n), "day {day}: document {id} is {n}, expected one of {possible:?}");
            *possible = [n].into();
        }
        assert!(found.keys().all(|id| self.expected.contains_key(id)), "day {day}: a document that nobody wrote");
    }

    pub fn measure(&mut self) -> Figures {
        let engine = self.engine();
        let names: Vec<NamespaceName> = engine.named().into_iter().map(|(name, _)| name).collect();
        let live = names.iter().map(|name| engine.status(name).unwrap()["bytes"].as_u64().unwrap()).sum();
        let mut figures = Figures { live_bytes: live, ..Figures::default() };
        walk(self.dir.path(), &mut figures);
        figures.written_bytes = self.wear.written.load(Ordering::Relaxed);
        let free = DISK_BYTES.saturating_sub(figures.disk_bytes);
        self.wear.free_bytes.store(free, Ordering::Relaxed);
        figures.promised_bytes = DISK_BYTES / 100 * u64::from(RETENTION_PERCENT);
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let anonymous = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kilobytes = anonymous.and_then(|text| text.trim().trim_end_matches(" kB").trim().parse::<u64>().ok());
        figures.anonymous_bytes = kilobytes.unwrap_or(0) << 10;
        figures.descriptors = std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
        figures.maps = std::fs::read_to_string("/proc/self/maps").map_or(0, |text| text.lines().count() as u64);
        figures
    }
}

fn name(text: &str) -> NamespaceName {
    Project::default_project().namespace(text).unwrap()
}

fn row(id: u64, n: u64, random: &SeededRandom) -> Json {
    let mut text = String::new();
    while text.len() < TEXT_BYTES {
        text.push_str(&format!("w{:x} ", random.next_u64() % 40_000));
    }
    json!({"id": id, "n": n, "text": text})
}

async fn write(engine: &Arc<Engine>, to: &str, body: Json, key: Option<u64>) -> Result<()> {
    let WriteBody::Write(mut request) = parse_write(body)? else { return Err(Error::internal("expected a write")) };
    request.idempotency = key
        .map(|key| Idempotency { key_hash: u128::from(key).to_le_bytes(), body_hash: u128::from(key).to_be_bytes() });
    let first = engine.write(&name(to), (*request).clone()).await?;
    if key.is_some() {
        let again = engine.write(&name(to), *request).await?;
        assert!(again.replayed && again.upserted == first.upserted, "key {key:?} took effect twice");
    }
    Ok(())
}

/// A namespace that is deleted by itself after half a day.
async fn expiring(engine: &Arc<Engine>, day: u64) -> Result<()> {
    let short = name(&format!("short-{day}"));
    let request = CreateRequest { ttl_ms: Some(DAY_MS / 2), ..CreateRequest::default() };
    engine.create(&short, request).await?;
    write(engine, &short.name, json!({"upsert_rows": [{"id": 1, "n": 1}]}), None).await
}

/// A snapshot, restored beside, equal, and deleted.
async fn snapshot(engine: &Arc<Engine>) -> Result<()> {
    let mut bytes = Vec::new();
    let taken = take(engine, &name("feed"), &Extent::Full).await?;
    tokio::task::block_in_place(|| taken.write(&mut bytes))?;
    drop(taken);
    let beside = name("restored");
    let restored = restore(engine, &beside, None, Cursor::new(bytes)).await?;
    let expected = engine.view(&name("feed"))?.documents();
    assert_eq!(restored.documents, expected);
    engine.delete(&beside).await
}

fn documents(engine: &Engine) -> BTreeMap<u64, u64> {
    let query = json!({"rank_by": ["id", "asc"], "limit": 10_000, "include_attributes": ["n"]});
    let query = parse_query(query).unwrap().request;
    let view = engine.view(&name("feed")).unwrap();
    let mut outcome = shoal::engine::query::run(&view, &query, &Allowance::unlimited()).unwrap();
    let Answer::Rows(rows) = outcome.answers.remove(0) else { panic!("expected rows") };
    let number = |json: Json| json.as_u64().unwrap();
    let id = |id: &shoal::model::ids::DocId| id.to_string().parse::<u64>().unwrap();
    rows.iter().map(|row| (id(&row.id), number(to_json(&row.fields[0].1, false)))).collect()
}

fn walk(dir: &Path, figures: &mut Figures) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            figures.directories += 1;
            walk(&path, figures);
        } else {
            figures.disk_bytes += path.metadata().map_or(0, |found| found.len());
            let is_manifest = path.parent().and_then(Path::parent).is_some_and(|above| above.ends_with("local"));
            figures.manifests += u64::from(is_manifest);
        }
    }
}
