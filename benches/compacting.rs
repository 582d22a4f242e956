//! What searches cost while a namespace is compacted, against before it: `SHOAL_DATA=DIR cargo bench --bench compacting`.
//!
//! All of debpkg is written in batches as an import does, which leaves segments of several sizes. One thread asks, in turn by vector,
//! by text and by both, first with nothing else going on and the newest rows in no segment, then with all in segments, then while another merges all of it into one segment, then of that segment.
//! The data directory is made in the current directory's file system (`TMPDIR` elsewhere).

#![expect(clippy::unwrap_used, reason = "a measurement that cannot go on fails")]

#[expect(dead_code, reason = "the other readers are for tests")]
#[path = "../tests/real_data/data.rs"]
mod data;
#[expect(dead_code, reason = "the rest is for branches")]
mod namespaces;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use shoal::api::wire::query::parse_query;
use shoal::engine::Engine;
use shoal::model::query::QueryRequest;
use shoal::platform::real_disk::RealDisk;

use self::namespaces::{directory, name, open};

const BATCH: usize = 1_000;
const ROUNDS: usize = 3;
const BEFORE: Duration = Duration::from_secs(4);
const QUIET: Duration = Duration::from_secs(8);
const KINDS: [&str; 3] = ["by vector", "by text", "by both"];

/// Times of each kind of query, until it is told to stop.
fn ask(engine: &Engine, requests: &[[QueryRequest; 3]], is_over: impl Fn() -> bool) -> [Vec<Duration>; 3] {
    let mut times = [const { Vec::new() }; 3];
    for requests in requests.iter().cycle() {
        for (request, times) in requests.iter().zip(&mut times) {
            let began = Instant::now();
            engine.query(&name("main"), request).unwrap();
            times.push(began.elapsed());
        }
        if is_over() {
            break;
        }
    }
    times
}

fn requests(folder: &std::path::Path) -> Vec<[QueryRequest; 3]> {
    let vectors = data::Vectors::read(&folder.join("queries.f16.npy"));
    let texts = data::json_lines(&folder.join("queries.jsonl"));
    let request = |body: Json| parse_query(body).unwrap().request;
    let of = |at: usize| {
        let near = |limit| json!({"rank_by": ["vector", "ANN", vectors.base64(at)], "limit": limit});
        let words = |limit| json!({"rank_by": ["text", "BM25", texts[at]["text"]], "limit": limit});
        let both = json!({"queries": [words(50), near(50)], "rerank_by": ["RRF"], "limit": 10});
        [request(near(10)), request(words(10)), request(both)]
    };
    (0..vectors.len()).map(of).collect()
}

fn row(documents: &[Json], vectors: &data::Vectors, at: usize) -> Json {
    let mut row = documents[at].clone();
    row["vector"] = vectors.base64(at).into();
    row
}

/// Waits until nothing is merged in the background any longer, as far as the number of segments tells.
fn settle(segments: &impl Fn() -> usize) {
    let (mut count, mut since) = (segments(), Instant::now());
    while since.elapsed() < QUIET {
        std::thread::sleep(Duration::from_millis(100));
        if segments() != count {
            (count, since) = (segments(), Instant::now());
        }
    }
    println!("{count} segments are left");
}

/// The median and the 99th percentile, in microseconds.
fn percentiles(mut times: Vec<Duration>) -> (f64, f64) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)].as_secs_f64() * 1e6;
    (at(50), at(99))
}

fn report(state: &str, times: [Vec<Duration>; 3], before: Option<[(f64, f64); 3]>) -> [(f64, f64); 3] {
    let found = times.map(percentiles);
    for (kind, (name, (p50, p99))) in KINDS.iter().zip(found).enumerate() {
        let ratio = before.map_or(String::new(), |before| {
            format!(", {:.2} and {:.2} times before", p50 / before[kind].0, p99 / before[kind].1)
        });
        println!("{state:14} {name:10} {p50:7.0} us p50, {p99:7.0} us p99{ratio}");
    }
    found
}

fn main() {
    let Some(folder) = data::folder("compacting") else { return };
    let folder = folder.join("debpkg");
    let documents = data::json_lines(&folder.join("docs.jsonl.zst"));
    let vectors = data::Vectors::read(&folder.join("base.f16.npy"));
    let requests = requests(&folder);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for _ in 0..ROUNDS {
        let directory = directory();
        let _in_runtime = runtime.enter();
        let engine = open(directory.path(), Arc::new(RealDisk));
        engine.rebuild_index().unwrap();
        let began = Instant::now();
        let text = json!({"type": "string", "full_text_search": {"stemming": true, "remove_stopwords": true}});
        for from in (0..documents.len()).step_by(BATCH) {
            let rows = (from..(from + BATCH).min(documents.len())).map(|at| row(&documents, &vectors, at));
            let rows: Vec<Json> = rows.collect();
            let body = json!({"upsert_rows": rows, "distance_metric": "cosine_distance", "schema": {"title": text, "text": text}});
            runtime.block_on(namespaces::write(&engine, "main", body));
        }
        let segments = || engine.view(&name("main")).unwrap().segments.len();
        println!(
            "{} rows written in {:.1} s, {} segments",
            documents.len(),
            began.elapsed().as_secs_f64(),
            segments()
        );
        settle(&segments);
        // What is in no segment yet is compared and scored row by row: more of it, more time.
        let until = Instant::now() + BEFORE;
        report("with a tail", ask(&engine, &requests, || Instant::now() >= until), None);
        runtime.block_on(engine.checkpoint(&name("main"))).unwrap();
        let until = Instant::now() + BEFORE;
        let before = report("before", ask(&engine, &requests, || Instant::now() >= until), None);
        let (is_done, began) = (Arc::new(AtomicBool::new(false)), Instant::now());
        let (compacted, done) = (engine.clone(), is_done.clone());
        let compaction = runtime.spawn(async move {
            compacted.compact(&name("main")).await.unwrap();
            done.store(true, Ordering::Relaxed);
        });
        let during = ask(&engine, &requests, || is_done.load(Ordering::Relaxed));
        runtime.block_on(compaction).unwrap();
        println!("compacted in {:.1} s", began.elapsed().as_secs_f64());
        report("compacting", during, Some(before));
        let until = Instant::now() + BEFORE;
        report("compacted", ask(&engine, &requests, || Instant::now() >= until), Some(before));
        runtime.block_on(engine.shutdown()).unwrap();
    }
}
