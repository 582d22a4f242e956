//! What a node that holds little of a large bucket answers, and how soon: `SHOAL_DATA=DIR cargo bench --bench cold`.
//!
//! One node writes all of debpkg into a bucket. Others that hold nothing of it yet ask with nothing, 20 ms and 100 ms added to every
//! request: the first queries, by vector and by text, what they waited for and read; then queries whose data is here, beside those of the
//! node that has everything; then random queries of a node that may hold a tenth, and answers of 1,000 rows (`-- tenth` for that alone, `-- warm` for what is here).
//! The bucket is in memory, the nodes on the disk.

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]

#[expect(dead_code, reason = "the other readers are for tests")]
#[path = "../tests/real_data/data.rs"]
mod data;
#[expect(dead_code, reason = "only the delay is needed")]
#[path = "../tests/support/faulty_store.rs"]
mod faulty_store;
#[expect(dead_code, reason = "the rest is for branches")]
mod namespaces;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use object_store::memory::InMemory;
use serde_json::{Value as Json, json};
use shoal::api::wire::query::parse_query;
use shoal::engine::merge::decide::Policy;
use shoal::engine::query::run;
use shoal::engine::{Engine, EngineConfig};
use shoal::error::Result;
use shoal::model::query::{Answer, QueryOutcome, QueryRequest};
use shoal::platform::allowance::Allowance;
use shoal::platform::clock::SystemClock;
use shoal::platform::random::SystemRandom;
use shoal::platform::real_disk::RealDisk;
use shoal::store::{Backend, Bucket, Patience};
use shoal::sync::{Sync, SyncOptions};

use self::faulty_store::{Fault, FaultyStore};
use self::namespaces::{directory, name};

const BATCH: usize = 1_000;
const WARM: usize = 200;
/// Answers of 1,000 rows each.
const WIDE: usize = 50;
/// Rows of one patch, all over the namespace.
const PATCHED: usize = 200;

/// Which merges segments only when it is asked to, so that all nodes have the same.
fn open(dir: &Path, tier_bytes_max: u64) -> Arc<Engine> {
    let config = EngineConfig { tier_bytes_max, compaction_fan_in: 1_000, ..EngineConfig::new(dir.join("data")) };
    let engine = Engine::open(config, Arc::new(RealDisk), Arc::new(SystemClock), Arc::new(SystemRandom)).unwrap();
    engine.rebuild_index().unwrap();
    engine
}

async fn sync(engine: &Arc<Engine>, bucket: &Bucket) {
    let options = SyncOptions { policy: Policy::Lww, patience: Patience::ASKED };
    Sync::new(engine.clone(), bucket.clone(), options, Arc::new(SystemClock)).run().await.unwrap();
}

fn ask(engine: &Engine, request: &QueryRequest) -> (QueryOutcome, Duration) {
    try_to_ask(engine, request).unwrap()
}

fn try_to_ask(engine: &Engine, request: &QueryRequest) -> Result<(QueryOutcome, Duration)> {
    let began = Instant::now();
    let found = engine.on_view(&name("main"), None, |view| run(view, request, &Allowance::unlimited()))?;
    Ok((found, began.elapsed()))
}

fn ids(outcome: &QueryOutcome) -> Vec<String> {
    let Answer::Rows(rows) = &outcome.answers[0] else { panic!("rows") };
    rows.iter().map(|row| row.id.to_string()).collect()
}

fn percentiles(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
    (at(50), at(99))
}

fn main() {
    let Some(folder) = data::folder("cold") else { return };
    let folder = folder.join("debpkg");
    let documents = data::json_lines(&folder.join("docs.jsonl.zst"));
    let vectors = data::Vectors::read(&folder.join("base.f16.npy"));
    let asked = data::Vectors::read(&folder.join("queries.f16.npy"));
    let texts = data::json_lines(&folder.join("queries.jsonl"));
    let request = |body: Json| parse_query(body).unwrap().request;
    let by_vector: Vec<QueryRequest> = (0..asked.len())
        .map(|at| {
            let rank = json!(["vector", "ANN", asked.base64(at)]);
            request(json!({"rank_by": rank, "limit": 10, "include_attributes": ["title"]}))
        })
        .collect();
    let by_text: Vec<QueryRequest> = texts
        .iter()
        .map(|text| {
            let rank = json!(["text", "BM25", text["text"]]);
            request(json!({"rank_by": rank, "limit": 10, "include_attributes": ["title"]}))
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let _in_runtime = runtime.enter();
    let delay = Arc::new(AtomicU64::new(0));
    let slow = delay.clone();
    let store = Arc::new(FaultyStore::new(Arc::new(InMemory::new()), move |_| {
        let millis = slow.load(Ordering::Relaxed);
        (millis > 0).then(|| Fault::Slow(Duration::from_millis(millis)))
    }));
    let backend = Backend::direct(store.clone(), Some(store), "memory");
    let bucket = Bucket::over(backend, Arc::new(SystemClock), Arc::new(SystemRandom));
    let directories = directory();
    let at = |text: &str| {
        let path = directories.path().join(text);
        std::fs::create_dir(&path).unwrap();
        path
    };
    let whole = open(&at("whole"), 0);
    let text = json!({"type": "string", "full_text_search": {"stemming": true, "remove_stopwords": true}});
    for from in (0..documents.len()).step_by(BATCH) {
        let rows: Vec<Json> = (from..(from + BATCH).min(documents.len()))
            .map(|at| {
                let mut row = documents[at].clone();
                row["vector"] = vectors.base64(at).into();
                row
            })
            .collect();
        let body = json!({"upsert_rows": rows, "distance_metric": "cosine_distance", "schema": {"title": text, "text": text}});
        runtime.block_on(namespaces::write(&whole, "main", body));
    }
    for compacted in [false, true] {
        if compacted {
            runtime.block_on(whole.compact(&name("main"))).unwrap();
        }
        runtime.block_on(sync(&whole, &bucket));
        let status = whole.status(&name("main")).unwrap();
        let bytes = status["bytes"].as_u64().unwrap();
        println!(
            "{} rows in {bytes} bytes, {} segments",
            documents.len(),
            status["segments"].as_array().unwrap().len()
        );
        let (mut found, mut wanted) = (0, 0);
        for (at, query) in by_vector[..WARM].iter().enumerate() {
            let rank = json!(["vector", "ANN", asked.base64(at)]);
            let exact = request(json!({"rank_by": rank, "limit": 10, "recall": "exact"}));
            let (found_here, truth) = (ids(&ask(&whole, query).0), ids(&ask(&whole, &exact).0));
            found += truth.iter().filter(|id| found_here.contains(id)).count();
            wanted += truth.len();
        }
        println!("recall {:.4} of the first {WARM} queries", found as f64 / wanted as f64);
        let only_tenth = std::env::args().any(|arg| arg == "tenth");
        let only_warm = std::env::args().any(|arg| arg == "warm");
        for millis in [0, 20, 100].into_iter().filter(|millis| !only_tenth && (!only_warm || *millis == 0)) {
            delay.store(millis, Ordering::Relaxed);
            for (kind, requests) in [("by vector", &by_vector), ("by text", &by_text)] {
                let node = open(&at(&format!("{compacted}-{millis}-{kind}")), 4 * bytes);
                let began = Instant::now();
                runtime.block_on(sync(&node, &bucket));
                let (attached, before) = (began.elapsed(), node.held_in_parts().bytes_brought);
                let (found, took) = ask(&node, &requests[0]);
                assert_eq!(ids(&found), ids(&ask(&whole, &requests[0]).0));
                let share = |part: u64| part as f64 / bytes as f64 * 100.0;
                println!(
                    "{millis:3} ms added, {kind:9}: attached in {attached:.0?} with {:.2} % of the bytes; the first answer in {took:.0?}, {} rounds, {:.2} %, together {:.2} %",
                    share(before),
                    found.stats.rounds,
                    share(found.stats.bytes_brought),
                    share(before + found.stats.bytes_brought),
                );
                let cold: Vec<(QueryOutcome, Duration)> =
                    requests[1..50].iter().map(|request| ask(&node, request)).collect();
                let mut rounds: Vec<u32> = cold.iter().map(|(found, _)| found.stats.rounds).collect();
                rounds.sort_unstable();
                let (p50, p99) = percentiles(cold.iter().map(|(_, took)| *took).collect());
                let (median, most) = (rounds[rounds.len() / 2], rounds[rounds.len() - 1]);
                let read = node.held_in_parts().bytes_brought - before;
                println!(
                    "    49 more: {p50:.1} ms p50, {p99:.1} ms p99, {median} rounds p50, {most} at most; all 50 read {:.2} %",
                    share(read)
                );
                if millis == 0 {
                    requests[..WARM].iter().for_each(|request| drop(ask(&node, request)));
                    let (mut here, mut there) = (Vec::new(), Vec::new());
                    let rounds = if only_warm { 20 } else { 2 };
                    for (round, request) in
                        (0..rounds).flat_map(|round| requests[..WARM].iter().map(move |r| (round, r)))
                    {
                        // Who asks second finds the query's own work in the processor's caches.
                        if round % 2 == 0 {
                            here.push(ask(&node, request).1);
                            there.push(ask(&whole, request).1);
                        } else {
                            there.push(ask(&whole, request).1);
                            here.push(ask(&node, request).1);
                        }
                    }
                    let ((own, own99), (other, other99)) = (percentiles(here), percentiles(there));
                    println!(
                        "    all of it here: {own:.3} ms p50, {own99:.3} p99; the node that has everything {other:.3} and {other99:.3}"
                    );
                }
                if kind == "by vector" {
                    let ids = (0..PATCHED).map(|at| &documents[at * documents.len() / PATCHED]["id"]);
                    let rows: Vec<Json> = ids.map(|id| json!({"id": id, "seen": 1})).collect();
                    let before = node.held_in_parts().bytes_brought;
                    let began = Instant::now();
                    runtime.block_on(namespaces::write(&node, "main", json!({"patch_rows": rows})));
                    let read = node.held_in_parts().bytes_brought - before;
                    println!("    {PATCHED} rows patched in {:.0?}, {:.2} % read", began.elapsed(), share(read));
                }
            }
        }
        if only_warm {
            continue;
        }
        delay.store(0, Ordering::Relaxed);
        let bound = bytes / 10;
        let node = open(&at(&format!("tenth-{compacted}")), bound);
        runtime.block_on(sync(&node, &bucket));
        let (mut most, mut hits, mut times, mut failed, mut last) = (0, 0.0, Vec::new(), 0, None);
        let both = by_vector.iter().zip(&by_text).take(300).flat_map(|(first, second)| [first, second]);
        for request in both {
            match try_to_ask(&node, request) {
                Ok((found, took)) => {
                    hits += found.stats.cache_hit_ratio;
                    times.push(took);
                }
                Err(error) => {
                    failed += 1;
                    last = Some(error);
                }
            }
            most = most.max(node.held_in_parts().bytes);
        }
        let (count, held) = (times.len(), node.held_in_parts());
        let (p50, p99) = percentiles(times);
        println!(
            "a tenth, {bound} bytes: {count} queries, {most} bytes at most, hit ratio {:.3}, {p50:.1} ms p50, {p99:.1} p99, {} bytes read, {} written again, begun anew {} times",
            hits / count as f64,
            held.bytes_brought,
            held.bytes_carried,
            held.renewals
        );
        if let Some(error) = last {
            println!("    {failed} found no room: {error}");
        }
        let wide = |at: usize| json!({"rank_by": ["vector", "ANN", asked.base64(at)], "limit": 1_000, "include_attributes": true});
        let times = (0..WIDE).map(|at| {
            let (found, took) = ask(&node, &request(wide(at)));
            most = most.max(node.held_in_parts().bytes);
            assert_eq!(ids(&found).len(), 1_000);
            took
        });
        let (p50, p99) = percentiles(times.collect());
        println!("    {WIDE} answers of 1,000 whole rows: {p50:.1} ms p50, {p99:.1} p99, {most} bytes at most");
        assert!(most <= bound);
    }
}
