//! Shoal in one process, for `benches/peers/run.py`: the engine on a real directory, without HTTP.
//!
//! `in_process STORE DATA LIMIT COUNT` reads a request a line from standard input and writes an answer a line, as
//! `benches/peers/worker.py` does for the peers: `{"do": "build"}`, `{"do": "open"}`, `{"do": "ask", ...}`, `{"do": "close"}`.
//! Only the engine's own call is timed. LIMIT is 0 for all rows; COUNT is how many queries there are.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]

#[expect(dead_code, reason = "the other readers are for tests")]
#[path = "../tests/real_data/data.rs"]
mod data;

use std::collections::HashMap;
use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use shoal::api::wire::query::parse_query;
use shoal::api::wire::write::{WriteBody, parse_write_bytes};
use shoal::engine::{Engine, EngineConfig};
use shoal::model::ids::{DocId, NamespaceName, Project};
use shoal::model::query::{Answer, QueryOutcome, QueryRequest};
use shoal::platform::clock::SystemClock;
use shoal::platform::random::SystemRandom;
use shoal::platform::real_disk::RealDisk;

/// The daemon's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const K: usize = 10;
const BATCH_ROWS: usize = 1_000;
/// Rows of each ranking that are fused.
const DEPTH: usize = 50;
/// What filters may ask for; `benches/peers/data.py` has the same.
const ATTRIBUTES: [&str; 8] =
    ["section", "priority", "arch", "multi_arch", "component", "maintainer_domain", "installed_size", "n_depends"];
const SETTINGS: [f64; 6] = [0.8, 0.9, 0.92, 0.95, 0.97, 0.99];

struct Worker {
    store: PathBuf,
    data: PathBuf,
    limit: usize,
    runtime: tokio::runtime::Runtime,
    vectors: data::Vectors,
    texts: Vec<String>,
    filters: HashMap<String, Json>,
    engine: Option<Arc<Engine>>,
    /// Made before the clock runs, and kept for the next time.
    requests: HashMap<String, Arc<QueryRequest>>,
}

impl Worker {
    fn new(store: PathBuf, data: PathBuf, limit: usize, count: usize) -> Self {
        let texts = data::json_lines(&data.join("queries.jsonl")).into_iter().take(count);
        let filters = std::fs::read(data.join("filters.json")).unwrap_or_else(|_| b"[]".to_vec());
        let filters: Vec<Json> = serde_json::from_slice(&filters).unwrap();
        let condition = |c: &Json| json!([c[0], if c[1] == "eq" { "Eq" } else { "Gte" }, c[2]]);
        let filter = |filter: &Json| {
            let conditions: Vec<Json> = filter["where"].as_array().unwrap().iter().map(condition).collect();
            (filter["name"].as_str().unwrap().to_owned(), json!(["And", conditions]))
        };
        Worker {
            vectors: data::Vectors::read(&data.join("queries.f16.npy")),
            texts: texts.map(|line| line["text"].as_str().unwrap().to_owned()).collect(),
            filters: filters.iter().map(filter).collect(),
            runtime: tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap(),
            engine: None,
            requests: HashMap::new(),
            store,
            data,
            limit,
        }
    }

    fn start(&mut self) -> Arc<Engine> {
        // No past states are kept: the peers keep none either.
        let config = EngineConfig { retention_ms: 0, ..EngineConfig::new(self.store.join("data")) };
        let _in_runtime = self.runtime.enter();
        let engine = Engine::open(config, Arc::new(RealDisk), Arc::new(SystemClock), Arc::new(SystemRandom)).unwrap();
        self.engine = Some(engine.clone());
        engine
    }

    fn build(&mut self) -> Json {
        let packed = self.data.join("docs.jsonl.zst");
        let documents = data::json_lines(&if packed.exists() { packed } else { self.data.join("docs.jsonl") });
        let vectors = data::Vectors::read(&self.data.join("base.f16.npy"));
        let rows = if self.limit == 0 { vectors.len() } else { self.limit.min(vectors.len()) };
        let engine = self.start();
        // As the daemon does after its start; until then nothing is reclaimed.
        engine.rebuild_index().unwrap();
        let (began, cpu) = (Instant::now(), processor_time());
        for first in (0..rows).step_by(BATCH_ROWS) {
            let batch: Vec<Json> = (first..(first + BATCH_ROWS).min(rows))
                .map(|row| {
                    let document = &documents[row];
                    let word = |name: &str| document[name].as_str().unwrap();
                    let mut out: serde_json::Map<String, Json> =
                        ATTRIBUTES.iter().map(|name| ((*name).to_owned(), document[*name].clone())).collect();
                    out.insert("id".into(), row.into());
                    out.insert("vector".into(), vectors.base64(row).into());
                    out.insert("body".into(), format!("{} {}", word("title"), word("text")).into());
                    out.into()
                })
                .collect();
            let body = json!({
                "upsert_rows": batch,
                "distance_metric": "cosine_distance",
                "schema": {"body": {"type": "string", "full_text_search": {"stemming": true, "remove_stopwords": true}}},
            });
            let WriteBody::Write(request) = parse_write_bytes(body.to_string().as_bytes()).unwrap() else {
                panic!("expected a write");
            };
            self.runtime.block_on(engine.write(&name(), *request)).unwrap();
        }
        // One segment, as the peers are told to make one index.
        self.runtime.block_on(engine.compact(&name())).unwrap();
        let took = (began.elapsed(), processor_time() - cpu);
        self.runtime.block_on(engine.shutdown()).unwrap();
        json!({"rows": rows, "seconds": took.0.as_secs_f64(), "cpu_seconds": took.1.as_secs_f64()})
    }

    fn open(&mut self) -> Json {
        let began = Instant::now();
        let engine = self.start();
        let request = self.request(0, &json!({"kind": "near", "filter": null, "setting": 0.95}));
        engine.query(&name(), &request).unwrap();
        let opened = began.elapsed();
        engine.rebuild_index().unwrap();
        json!({
            "import_ms": 0,
            "open_ms": opened.as_secs_f64() * 1e3,
            "version": "shoal, this repository",
            "settings": SETTINGS,
            "can": ["near", "filters", "words", "hybrid"],
            "threads": true,
            "pids": [],
            "memory_before": {},
        })
    }

    fn request(&mut self, at: usize, what: &Json) -> Arc<QueryRequest> {
        let (kind, setting) = (what["kind"].as_str().unwrap(), &what["setting"]);
        let key = format!("{at} {kind} {} {setting}", what["filter"]);
        let (vectors, texts, filters) = (&self.vectors, &self.texts, &self.filters);
        let made = self.requests.entry(key).or_insert_with(|| {
            let near = |limit: usize| {
                let vector = vectors.base64(at);
                let mut body = json!({"rank_by": ["vector", "ANN", vector], "limit": limit, "recall": setting});
                if let Some(filter) = what["filter"].as_str() {
                    body["filters"] = filters[filter].clone();
                }
                body
            };
            let words = |limit: usize| json!({"rank_by": ["body", "BM25", texts[at]], "limit": limit});
            let body = match kind {
                "near" => near(K),
                "words" => words(K),
                _ => json!({"queries": [words(DEPTH), near(DEPTH)], "rerank_by": ["RRF"], "limit": K}),
            };
            Arc::new(parse_query(body).unwrap().request)
        });
        made.clone()
    }

    fn ask(&mut self, what: &Json) -> Json {
        let number = |key: &str| what[key].as_u64().unwrap() as usize;
        let (first, count, threads) = (number("from"), number("count"), number("threads"));
        let requests: Vec<_> = (first..first + count).map(|at| self.request(at, what)).collect();
        let (engine, name) = (self.engine.clone().unwrap(), name());
        let work = |first: usize| -> Vec<(usize, QueryOutcome, Duration)> {
            let one = |at: usize| {
                let began = Instant::now();
                let outcome = engine.query(&name, &requests[at]).unwrap();
                (at, outcome, began.elapsed())
            };
            (first..requests.len()).step_by(threads).map(one).collect()
        };
        let (began, cpu) = (Instant::now(), processor_time());
        let mut done = if threads == 1 {
            work(0)
        } else {
            std::thread::scope(|scope| {
                let several: Vec<_> = (0..threads).map(|first| scope.spawn(move || work(first))).collect();
                several.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
            })
        };
        let (wall, cpu) = (began.elapsed(), processor_time() - cpu);
        done.sort_by_key(|(at, ..)| *at);
        json!({
            "ids": done.iter().map(|(_, outcome, _)| ids(outcome)).collect::<Vec<_>>(),
            "ns": done.iter().map(|(.., took)| took.as_nanos() as u64).collect::<Vec<_>>(),
            "wall_ns": wall.as_nanos() as u64,
            "cpu_ns": cpu.as_nanos() as u64,
        })
    }

    fn close(&mut self) -> Json {
        if let Some(engine) = self.engine.take() {
            self.runtime.block_on(engine.shutdown()).unwrap();
        }
        json!({})
    }
}

fn name() -> NamespaceName {
    Project::default_project().namespace("rows").unwrap()
}

fn ids(outcome: &QueryOutcome) -> Vec<u64> {
    let Answer::Rows(rows) = &outcome.answers[0] else { panic!("expected rows") };
    let id = |id: &DocId| if let DocId::Uint(id) = id { *id } else { panic!("expected a number, got {id:?}") };
    rows.iter().map(|row| id(&row.id)).collect()
}

/// What this process has had of the processors.
fn processor_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a timespec of this frame.
    let got = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &mut time) };
    assert_eq!(got, 0, "the processor's clock cannot be read");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let [store, data, limit, count] = arguments.as_slice() else {
        println!("SKIPPED in_process: benches/peers/run.py runs it");
        return;
    };
    let mut worker =
        Worker::new(store.into(), Path::new(data).into(), limit.parse().unwrap(), count.parse().unwrap());
    println!("{{\"ready\":true}}");
    for line in std::io::stdin().lock().lines() {
        let what: Json = serde_json::from_str(&line.unwrap()).unwrap();
        let answer = match what["do"].as_str().unwrap() {
            "build" => worker.build(),
            "open" => worker.open(),
            "ask" => worker.ask(&what),
            _ => worker.close(),
        };
        println!("{answer}");
        std::io::stdout().flush().unwrap();
        if what["do"] == "close" {
            return;
        }
    }
}
