//! What things take in memory, counted by the allocator. What is said to be bounded is tried under that bound: an allocation
//! beyond it ends the test.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::alloc::System;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value as Json, json};
use shoal::api::wire::write::{WriteBody, parse_write, parse_write_bytes};
use shoal::engine::{Engine, EngineConfig};
use shoal::model::ids::{DocId, NamespaceName, Project};
use shoal::platform::clock::ManualClock;
use shoal::platform::random::SeededRandom;
use shoal::platform::real_disk::RealDisk;

#[global_allocator]
static ALLOCATOR: cap::Cap<System> = cap::Cap::new(System, usize::MAX);

/// What is allocated is counted for the whole process, so one test runs at a time.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// An engine whose tails stay in memory and whose logs grow.
fn open(dir: &Path) -> Arc<Engine> {
    let config = EngineConfig {
        flush_bytes: 1 << 40,
        tail_bytes_max: 1 << 40,
        tails_bytes_max: 1 << 40,
        log_bytes_max: 1 << 40,
        ..EngineConfig::new(dir)
    };
    let clock = Arc::new(ManualClock::at(1_700_000_000_000));
    let engine = Engine::open(config, Arc::new(RealDisk), clock, Arc::new(SeededRandom::new(1))).unwrap();
    engine.rebuild_index().unwrap();
    engine
}

fn docs() -> NamespaceName {
    Project::default_project().namespace("docs").unwrap()
}

async fn write(engine: &Arc<Engine>, body: Json) {
    let WriteBody::Write(request) = parse_write(body).unwrap() else { panic!("expected a write") };
    engine.write(&docs(), *request).await.unwrap();
}

#[test]
fn a_log_much_longer_than_the_tail_is_replayed_in_little_memory() {
    let _turn = turn();
    let runtime = runtime();
    let dir = tempfile::tempdir().unwrap();
    runtime.block_on(async {
        let engine = open(dir.path());
        let text = "x".repeat(20_000);
        let schema = json!({"text": {"type": "string", "filterable": false}});
        for round in 0..80 {
            let rows: Vec<Json> = (0..50).map(|id| json!({"id": id, "n": round, "text": text})).collect();
            write(&engine, json!({"upsert_rows": rows, "schema": schema})).await;
        }
        // The end of the process without its last words: the log stays open, 80 MB long.
    });
    let before = ALLOCATOR.allocated();
    // 1 MB of documents, what an engine takes at rest, a frame.
    ALLOCATOR.set_limit(before + (16 << 20)).unwrap();
    let engine = open(dir.path());
    let document = engine.view(&docs()).unwrap().document(&DocId::Uint(49)).unwrap().unwrap();
    ALLOCATOR.set_limit(usize::MAX).unwrap();
    assert!(document.logical_bytes() > 20_000);
    drop(engine);
}

/// Documents of one shape: what the schema has to say, and a row of a number.
type Shape = (&'static str, Json, fn(usize) -> Json);

fn words(n: usize) -> String {
    (0..60).map(|at| format!("word{} ", (n * 31 + at * 17) % 5_000)).collect()
}

fn shapes() -> Vec<Shape> {
    let text = json!({"text": {"type": "string", "full_text_search": true, "filterable": false}});
    let sparse = json!({"sparse": {"type": "{}f16"}});
    vec![
        ("100 integers", json!({}), |_| (0..100).map(|at| (format!("n{at:02}"), json!(at))).collect()),
        ("30 empty texts", json!({}), |_| (0..30).map(|at| (format!("t{at:02}"), json!(""))).collect()),
        ("arrays of empty texts", json!({}), |_| json!({"tags": vec![""; 300]})),
        (
            "arrays of short texts",
            json!({}),
            |n| json!({"tags": (0..50).map(|at| format!("{at}-{n}")).collect::<Vec<_>>()}),
        ),
        ("full text", text, |n| json!({"text": words(n)})),
        ("vectors", json!({}), |n| json!({"vector": (0..128).map(|at| (at * n % 97) as f64).collect::<Vec<_>>()})),
        ("sparse vectors", sparse, |n| {
            let of_each = (0..40).map(|at| (format!("{}", n * 7 + at), json!(0.5)));
            json!({"sparse": of_each.collect::<serde_json::Map<String, Json>>()})
        }),
        ("nothing but an id", json!({}), |_| json!({})),
    ]
}

fn tails_bytes(engine: &Engine) -> u64 {
    engine.node_status()["tails_bytes"].as_u64().unwrap()
}

/// Writes rows and says what was counted for them and what was allocated.
async fn grown(engine: &Arc<Engine>, bodies: impl Iterator<Item = Json>) -> (u64, u64) {
    let (counted, allocated) = (tails_bytes(engine), ALLOCATOR.allocated());
    for body in bodies {
        write(engine, body).await;
    }
    (tails_bytes(engine) - counted, ALLOCATOR.allocated().saturating_sub(allocated) as u64)
}

#[test]
fn what_a_tail_takes_is_counted_as_the_allocator_has_it() {
    let _turn = turn();
    let mut wrong = Vec::new();
    let mut check = |what: &str, (counted, allocated): (u64, u64)| {
        let share = counted as f64 / allocated as f64;
        println!("{what}: {counted} counted, {allocated} allocated, {share:.2}");
        if !(0.8..1.5).contains(&share) {
            wrong.push(format!("{what}: {counted} counted, {allocated} allocated, {share:.2}"));
        }
    };
    for (what, schema, row) in shapes() {
        for long_ids in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let body = |part: usize, count: usize| {
                let rows = (part * count..(part + 1) * count).map(|n| {
                    let mut row = row(n);
                    row["id"] = if long_ids { json!(format!("{n:064}")) } else { json!(n) };
                    row
                });
                json!({
                    "distance_metric": "euclidean_squared",
                    "schema": schema,
                    "upsert_rows": rows.collect::<Vec<Json>>(),
                })
            };
            let count = if what == "nothing but an id" { 4_000 } else { 250 };
            runtime().block_on(async {
                let engine = open(dir.path());
                write(&engine, body(0, count)).await;
                let found = grown(&engine, (1..8).map(|part| body(part, count))).await;
                check(&format!("{what}, long ids {long_ids}"), found);
                let id = |n: usize| if long_ids { json!(format!("{n:064}")) } else { json!(n) };
                if what == "nothing but an id" {
                    let absent = (0..8).map(|part| {
                        let ids = (part * 4_000..(part + 1) * 4_000).map(|n| id(1_000_000 + n));
                        json!({"deletes": ids.collect::<Vec<Json>>()})
                    });
                    let found = grown(&engine, absent).await;
                    check(&format!("tombstones, long ids {long_ids}"), found);
                }
            });
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn an_old_row_keeps_no_places_of_rows_that_are_gone() {
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let engine = open(dir.path());
        write(&engine, json!({"upsert_rows": [{"id": 0, "n": 0}]})).await;
        for round in 0..200 {
            let rows: Vec<Json> = (1..500).map(|id| json!({"id": id, "n": round})).collect();
            write(&engine, json!({"upsert_rows": rows})).await;
        }
        let view = engine.view(&docs()).unwrap();
        assert_eq!(view.tail.len(), 500);
        assert!(view.tail.places() <= 5 * 512, "{} places for 500 rows", view.tail.places());
        let order: Vec<DocId> = view.tail.iter().map(|(_, row)| row.document.id.clone()).collect();
        assert_eq!(order, (0..500).map(DocId::Uint).collect::<Vec<_>>());
    });
}

#[test]
fn a_large_commit_is_in_memory_once_beside_its_documents_until_it_is_in_the_log() {
    const DOCUMENTS: usize = 64;
    const BYTES: usize = 512 << 10;
    /// The records of one frame, its payload, and the frame; and what else there is.
    const FRAME_BYTES: usize = 16 << 20;
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let engine = open(dir.path());
        let schema = json!({"text": {"type": "string", "filterable": false}});
        let ids: Vec<usize> = (0..DOCUMENTS).collect();
        write(&engine, json!({"upsert_columns": {"id": ids}, "schema": schema})).await;
        let patch = json!({"filters": ["id", "Gte", 0], "patch": {"text": "x".repeat(BYTES)}});
        ALLOCATOR.set_limit(ALLOCATOR.allocated() + 2 * DOCUMENTS * BYTES + FRAME_BYTES).unwrap();
        write(&engine, json!({"patch_by_filter": patch})).await;
        ALLOCATOR.set_limit(usize::MAX).unwrap();
        assert!(tails_bytes(&engine) >= (DOCUMENTS * BYTES) as u64);
    });
}

#[test]
fn deleting_by_filter_takes_little_memory_a_document() {
    const DOCUMENTS: u64 = 300_000;
    const BYTES_A_DOCUMENT: usize = 100;
    /// The records of one frame, and the frame.
    const FRAME_BYTES: usize = 8 << 20;
    let _turn = turn();
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let engine = open(dir.path());
        let ids: Vec<u64> = (0..DOCUMENTS).collect();
        write(&engine, json!({"upsert_columns": {"id": ids}})).await;
        engine.checkpoint(&docs()).await.unwrap();
        ALLOCATOR.set_limit(ALLOCATOR.allocated() + FRAME_BYTES + BYTES_A_DOCUMENT * DOCUMENTS as usize).unwrap();
        write(&engine, json!({"delete_by_filter": ["id", "Gte", 0]})).await;
        engine.checkpoint(&docs()).await.unwrap();
        ALLOCATOR.set_limit(usize::MAX).unwrap();
        assert!(!engine.view(&docs()).unwrap().has_documents());
    });
}

/// What taking a body apart took at most besides what was there.
fn taking(body: &[u8]) -> usize {
    let before = ALLOCATOR.allocated();
    // Beyond it an allocation ends the process.
    ALLOCATOR.set_limit(before + (256 << 20)).unwrap();
    let taken = parse_write_bytes(body);
    let held = ALLOCATOR.allocated() - before;
    drop(taken);
    ALLOCATOR.set_limit(usize::MAX).unwrap();
    held
}

#[test]
fn narrow_rows_after_a_wide_one_and_ids_of_many_empty_columns_take_little() {
    let _turn = turn();
    let wide: Vec<String> = (0..1_000).map(|n| format!("\"a{n}\":1")).collect();
    let narrow: Vec<String> = (0..100_000).map(|id| format!("{{\"id\":{id},\"a0\":1}}")).collect();
    let rows = format!("{{\"upsert_rows\":[{{\"id\":0,{}}},{}]}}", wide.join(","), narrow.join(","));
    assert!(taking(rows.as_bytes()) < 64 << 20);
    let ids: Vec<String> = (0..20_000).map(|id| id.to_string()).collect();
    let columns: Vec<String> = (0..20_000).map(|n| format!("\"{n}\":[]")).collect();
    let body = format!("{{\"upsert_columns\":{{\"id\":[{}],{}}}}}", ids.join(","), columns.join(","));
    taking(body.as_bytes());
}
