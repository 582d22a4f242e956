//! What an engine promises across crashes: no acknowledged write is lost, none is half there, no answer is wrong, whatever
//! operation of the disk fails and whenever the power goes, during recovery too.
//!
//! A mixed history of writes, flushes, merges, copies and deletions runs on a disk in memory. Each of its operations is
//! made to fail in turn; the power is cut then or later, and again in the middle of the recovery. A plain model says which
//! states may be found. `SHOAL_CRASH_SEEDS=n` runs n histories instead of the few that every run has.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use serde_json::{Value as Json, json};
use shoal::api::wire::query::parse_query;
use shoal::api::wire::write::{WriteBody, parse_write};
use shoal::engine::{Engine, EngineConfig};
use shoal::error::{Kind, Result};
use shoal::model::ids::{DocId, NamespaceName, Project};
use shoal::model::query::Answer;
use shoal::model::value_render::to_json;
use shoal::model::write::Idempotency;
use shoal::platform::clock::ManualClock;
use shoal::platform::disk::Disk;
use shoal::platform::memory_disk::{Fault, MemoryDisk};
use shoal::platform::random::{Random, SeededRandom};

type Documents = BTreeMap<u64, Json>;
type State = BTreeMap<&'static str, Documents>;

const NAMES: [&str; 2] = ["docs", "copy"];

/// One step of a history.
#[derive(Clone, Debug)]
enum Step {
    Upsert(&'static str, Vec<(u64, Json)>),
    Patch(&'static str, u64, i64),
    Delete(&'static str, Vec<u64>),
    DeleteByFilter(&'static str, i64),
    Checkpoint(&'static str),
    Compact(&'static str),
    Label(&'static str),
    Copy,
    Drop(&'static str),
    Stop,
}

fn history(random: &SeededRandom) -> Vec<Step> {
    let pick = |n: u64| random.next_u64() % n;
    let mut steps = Vec::new();
    for at in 0..14 {
        let name = if pick(4) == 0 { "copy" } else { "docs" };
        steps.push(match if at == 0 { 0 } else { pick(14) } {
            0..5 => {
                let rows = (0..1 + pick(4)).map(|_| {
                    let n = pick(50);
                    // Now and then a row of several sectors.
                    let text = "fish ".repeat(if pick(5) == 0 { 300 } else { 2 });
                    (pick(12), json!({"n": n, "text": format!("{text}{n}"), "vector": [n as f64 + 1.0, 0.5]}))
                });
                let rows: BTreeMap<u64, Json> = rows.collect();
                Step::Upsert(name, rows.into_iter().collect())
            }
            5 => Step::Patch(name, pick(12), -1 - pick(9) as i64),
            6 => Step::Delete(name, vec![pick(6), 6 + pick(6)]),
            7 => Step::DeleteByFilter(name, 40),
            8 | 9 => Step::Checkpoint(name),
            10 => Step::Compact(name),
            11 => Step::Copy,
            12 if pick(2) == 0 => Step::Drop("copy"),
            12 => Step::Label(name),
            _ => Step::Stop,
        });
    }
    steps
}

/// What a step makes of a state, when it takes effect.
fn apply(state: &State, step: &Step) -> State {
    let mut next = state.clone();
    match step {
        Step::Upsert(name, rows) => next.entry(name).or_default().extend(rows.iter().cloned()),
        Step::Patch(name, id, n) => {
            if let Some(document) = next.get_mut(name).and_then(|documents| documents.get_mut(id)) {
                document["n"] = json!(n);
            }
        }
        Step::Delete(name, ids) => {
            if let Some(documents) = next.get_mut(name) {
                documents.retain(|id, _| !ids.contains(id));
            }
        }
        Step::DeleteByFilter(name, least) => {
            if let Some(documents) = next.get_mut(name) {
                documents.retain(|_, document| document["n"].as_i64().unwrap() < *least);
            }
        }
        Step::Copy => {
            if let (Some(documents), None) = (state.get("docs"), state.get("copy")) {
                next.insert("copy", documents.clone());
            }
        }
        Step::Drop(name) => {
            next.remove(name);
        }
        Step::Checkpoint(_) | Step::Compact(_) | Step::Label(_) | Step::Stop => {}
    }
    next
}

fn name(text: &str) -> NamespaceName {
    Project::default_project().namespace(text).unwrap()
}

struct Node {
    disk: MemoryDisk,
    random: Arc<SeededRandom>,
    engine: Option<Arc<Engine>>,
    /// Every state that may be found.
    possible: Vec<State>,
    what: String,
}

impl Node {
    fn new(seed: u64, what: String) -> Self {
        Node {
            disk: MemoryDisk::default(),
            random: Arc::new(SeededRandom::new(seed)),
            engine: None,
            possible: vec![State::new()],
            what,
        }
    }

    fn open(&mut self) -> Result<Arc<Engine>> {
        if let Some(engine) = &self.engine {
            return Ok(engine.clone());
        }
        // No merges of their own accord: every run has the same operations in the same order.
        let config = EngineConfig {
            flush_bytes: 1 << 30,
            compaction_fan_in: 1_000,
            compaction_dead_percent: 1_000,
            ..EngineConfig::new("/data")
        };
        let disk: Arc<dyn Disk> = Arc::new(self.disk.mounted());
        let engine = Engine::open(config, disk, Arc::new(ManualClock::at(1_700_000_000_000)), self.random.clone())?;
        engine.rebuild_index()?;
        self.engine = Some(engine.clone());
        Ok(engine)
    }

    async fn run(&mut self, step: &Step) -> Result<()> {
        let engine = self.open()?;
        let write = async |namespace: &str, body: Json| {
            let WriteBody::Write(request) = parse_write(body).unwrap() else { panic!("expected a write") };
            engine.write(&name(namespace), *request).await.map(drop)
        };
        match step {
            Step::Upsert(to, rows) => {
                let rows = rows.iter().map(|(id, document)| {
                    let mut row = document.clone();
                    row["id"] = json!(id);
                    row
                });
                let schema = json!({"text": {"type": "string", "full_text_search": true}});
                let rows: Vec<Json> = rows.collect();
                write(to, json!({"upsert_rows": rows, "schema": schema, "distance_metric": "cosine_distance"})).await
            }
            Step::Patch(to, id, n) => write(to, json!({"patch_rows": [{"id": id, "n": n}]})).await,
            Step::Delete(to, ids) => write(to, json!({"deletes": ids})).await,
            Step::DeleteByFilter(to, least) => write(to, json!({"delete_by_filter": ["n", "Gte", least]})).await,
            Step::Checkpoint(at) => engine.checkpoint(&name(at)).await,
            Step::Compact(at) => engine.compact(&name(at)).await,
            Step::Label(at) => engine.set_labels(&name(at), [("a".to_owned(), "b".to_owned())].into()).await,
            Step::Copy => engine.copy(&name("docs"), &name("copy")).await.map(drop),
            Step::Drop(at) => engine.delete(&name(at)).await,
            Step::Stop => {
                let done = engine.shutdown().await;
                self.engine = None;
                done
            }
        }
    }

    /// Carries out a step and follows it in the model.
    async fn step(&mut self, step: &Step) {
        let before = self.disk.operations();
        let done = self.run(step).await;
        if std::env::var_os("SHOAL_CRASH_AT").is_some() {
            eprintln!("{step:?}: operations {before} to {}: {done:?}", self.disk.operations());
        }
        let after: Vec<State> = self.possible.iter().map(|state| apply(state, step)).collect();
        match done {
            Ok(()) => self.possible = after,
            Err(error) => {
                assert!(!matches!(error.kind(), Kind::Corrupt), "{}: {step:?}: {error}", self.what);
                self.possible.extend(after);
            }
        }
        self.possible.dedup();
    }

    /// What is there is one of the states that may be, and nothing else may be from then on.
    fn check(&mut self, when: &str) {
        // The look itself may meet the fault; then it is over.
        let found = self.look().or_else(|_| {
            self.disk.set_fault(None);
            self.look()
        });
        let found = found.unwrap_or_else(|error| panic!("{}, {when}: {error}", self.what));
        assert!(
            self.possible.contains(&found),
            "{}, {when}: found {found:?}, expected one of {:?}",
            self.what,
            self.possible
        );
    }

    fn settle(&mut self, when: &str) {
        self.check(when);
        self.possible = vec![self.look().unwrap()];
    }

    fn look(&mut self) -> Result<State> {
        let engine = self.open()?;
        let mut state = State::new();
        for namespace in NAMES {
            let body = json!({"rank_by": ["id", "asc"], "limit": 10_000, "include_attributes": true});
            let request = parse_query(body).unwrap().request;
            let rows = match engine.query(&name(namespace), &request) {
                Err(error) if error.kind() == Kind::NotFound => continue,
                answer => answer?.answers.remove(0),
            };
            let Answer::Rows(rows) = rows else { panic!("expected rows") };
            let mut documents = Documents::new();
            for row in rows {
                let DocId::Uint(id) = row.id else { panic!("expected an integer") };
                let fields = row.fields.iter().map(|(name, value)| (name.clone(), to_json(value, false)));
                documents.insert(id, Json::Object(fields.collect()));
            }
            // Indexes and documents must say the same.
            let text = json!({"rank_by": ["text", "BM25", "fish"], "limit": 10_000});
            if !documents.is_empty() {
                let answer = engine.query(&name(namespace), &parse_query(text).unwrap().request)?.answers.remove(0);
                let Answer::Rows(rows) = answer else { panic!("expected rows") };
                assert_eq!(rows.len(), documents.len(), "{}: {namespace}", self.what);
            }
            state.insert(namespace, documents);
        }
        Ok(state)
    }

    fn cut_power(&mut self) {
        self.engine = None;
        self.disk.power_cut(&*self.random);
    }
}

/// Runs a history with one failing operation, and crashes in one of several ways.
async fn crash(seed: u64, steps: &[Step], at: u64) {
    let mut node = Node::new(seed, format!("seed {seed}, operation {at}"));
    let kind = if at.is_multiple_of(2) { io::ErrorKind::Other } else { io::ErrorKind::StorageFull };
    node.disk.set_fault(Some(Fault { at, forever: at % 5 == 3, kind }));
    for (number, step) in steps.iter().enumerate() {
        let hit = node.disk.operations() > at;
        node.step(step).await;
        // Power goes at once, or the process lives on for a while.
        if !hit && node.disk.operations() > at && !at.is_multiple_of(3) {
            crash_and_recover(&mut node, at);
        } else if number % 6 == 5 && node.disk.operations() <= at {
            node.check("while running");
        }
    }
    node.disk.set_fault(None);
    node.check("at the end");
    crash_and_recover(&mut node, at);
    // What recovered can be written to, flushed and merged.
    node.step(&Step::Upsert("docs", vec![(3, json!({"n": 1, "text": "fish", "vector": [1.0, 1.0]}))])).await;
    node.step(&Step::Checkpoint("docs")).await;
    node.step(&Step::Compact("docs")).await;
    assert_eq!(node.possible.len(), 1, "{}: a step failed without a fault", node.what);
    node.check("after more writes");
    node.cut_power();
    node.check("after the last power cut");
    node.disk.set_fault(None);
}

/// Cuts the power, cuts it again somewhere in the recovery, and looks at what is there.
fn crash_and_recover(node: &mut Node, at: u64) {
    node.cut_power();
    let first = node.disk.operations();
    let kind = io::ErrorKind::Other;
    node.disk.set_fault(Some(Fault { at: first + at * 7 % 60, forever: true, kind }));
    let _ = node.look();
    node.cut_power();
    node.settle("after power cuts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_acknowledged_write_is_lost_whatever_operation_fails_and_whenever_the_power_goes() {
    let seeds = std::env::var("SHOAL_CRASH_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(2);
    let mut points = 0;
    for seed in 1..=seeds {
        let steps = history(&SeededRandom::new(seed));
        let mut node = Node::new(seed, format!("seed {seed}, no fault"));
        for step in &steps {
            node.step(step).await;
        }
        node.check("at the end");
        let operations = node.disk.operations();
        let only: Option<u64> = std::env::var("SHOAL_CRASH_AT").ok().and_then(|n| n.parse().ok());
        for at in (0..operations).filter(|at| only.is_none_or(|only| only == *at)) {
            crash(seed, &steps, at).await;
            points += 1;
        }
    }
    println!("{points} crash points");
    assert!(points > 200, "only {points} crash points");
}

/// One step of a history of writes with an `Idempotency-Key`.
#[derive(Clone, Copy, Debug)]
enum KeyedStep {
    /// Adds a document whose id is the key's.
    Add(u8),
    /// A write that changes nothing.
    Nothing(u8),
    /// Removes all documents, so that a write which takes effect a second time shows.
    Clear,
    Checkpoint,
    Label,
    Restart,
}

const KEYED_HISTORY: [KeyedStep; 15] = [
    KeyedStep::Add(1),
    KeyedStep::Checkpoint,
    KeyedStep::Nothing(2),
    KeyedStep::Checkpoint,
    KeyedStep::Add(3),
    KeyedStep::Clear,
    KeyedStep::Label,
    KeyedStep::Checkpoint,
    KeyedStep::Restart,
    KeyedStep::Nothing(4),
    KeyedStep::Checkpoint,
    KeyedStep::Add(5),
    KeyedStep::Clear,
    KeyedStep::Nothing(6),
    KeyedStep::Checkpoint,
];

async fn keyed(engine: &Arc<Engine>, key: u8, body: Json) -> Result<bool> {
    let WriteBody::Write(mut request) = parse_write(body).unwrap() else { panic!("expected a write") };
    request.idempotency = Some(Idempotency { key_hash: [key; 16], body_hash: [1; 16] });
    engine.write(&name("docs"), *request).await.map(|outcome| outcome.replayed)
}

async fn run_keyed(node: &mut Node, step: KeyedStep) -> Result<bool> {
    let engine = node.open()?;
    let docs = name("docs");
    let done = match step {
        KeyedStep::Add(n) => return keyed(&engine, n, json!({"upsert_rows": [{"id": n, "text": "fish"}]})).await,
        KeyedStep::Nothing(n) => return keyed(&engine, n, json!({"delete_by_filter": ["id", "Gt", 999]})).await,
        KeyedStep::Clear => node.run(&Step::Delete("docs", (0..10).collect())).await,
        KeyedStep::Checkpoint => engine.checkpoint(&docs).await,
        KeyedStep::Label => engine.set_labels(&docs, [("a".to_owned(), "b".to_owned())].into()).await,
        KeyedStep::Restart => node.run(&Step::Stop).await,
    };
    done.map(|()| false)
}

/// Runs the history of writes with a key with one failing operation; how many operations that were.
async fn crash_keyed(at: u64, is_cut: bool) -> u64 {
    let what = format!("operation {at}, power cut {is_cut}");
    let mut node = Node::new(at, what.clone());
    let kind = if at.is_multiple_of(2) { io::ErrorKind::Other } else { io::ErrorKind::StorageFull };
    node.disk.set_fault(Some(Fault { at, forever: false, kind }));
    // Writes whose key is to be known, and that took effect before all documents were removed.
    let mut known = Vec::new();
    for step in KEYED_HISTORY {
        let before = node.disk.operations();
        for _ in 0..2 {
            let done = run_keyed(&mut node, step).await;
            if let (Ok(_), KeyedStep::Add(n) | KeyedStep::Nothing(n)) = (&done, step) {
                known.push((n, matches!(step, KeyedStep::Add(_))));
            }
            // Nothing is left half done: the same again is right, whatever became of it.
            if done.is_ok() {
                break;
            }
        }
        if is_cut && (before..node.disk.operations()).contains(&at) {
            node.cut_power();
        }
    }
    node.disk.set_fault(None);
    let operations = node.disk.operations();
    assert_eq!(known.len(), 6, "{what}: a write failed twice");
    for round in ["running", "flushed", "after a power cut"] {
        for (n, is_add) in &known {
            let step = if *is_add { KeyedStep::Add(*n) } else { KeyedStep::Nothing(*n) };
            assert!(run_keyed(&mut node, step).await.unwrap(), "{what}, {round}: key {n} is not known");
        }
        assert!(node.look().unwrap()["docs"].is_empty(), "{what}, {round}: a write took effect twice");
        if round == "running" {
            run_keyed(&mut node, KeyedStep::Checkpoint).await.unwrap();
        } else {
            node.cut_power();
        }
    }
    operations
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_with_a_key_takes_effect_once_whatever_operation_fails_and_whenever_the_power_goes() {
    let operations = crash_keyed(u64::MAX, false).await;
    assert!(operations > 100, "only {operations} operations");
    for at in 0..operations {
        for is_cut in [false, true] {
            crash_keyed(at, is_cut).await;
        }
    }
}
