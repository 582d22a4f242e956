//! What things take in memory, counted by the allocator. What is said to be bounded is tried under that bound: an allocation
//! beyond it ends the test.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::alloc::System;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value as Json, json};
use shoal::api::wire::write::{WriteBody, parse_write};
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
