//! Bounds on logs and memory that hold for whatever fills them: changes of the schema, ids that are given out, openings, branches.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use serde_json::json;
use shoal::engine::Engine;
use shoal::error::Kind;
use shoal::model::ids::Project;
use shoal::model::write::SchemaUpdate;

use crate::hook_disk::HookDisk;
use crate::node::{Node, all, branch, documents, name, put};
use crate::{logs_below, request, write};

/// A test that waits longer than this for what is under way has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// A gate: while it is locked no segment comes to be.
fn before_segments(disk: &HookDisk) -> Arc<Mutex<()>> {
    let gate = Arc::new(Mutex::new(()));
    let before = gate.clone();
    disk.each(move |_, path| {
        if path.to_string_lossy().contains("/segments/") && path.to_string_lossy().contains("tmp") {
            drop(before.lock());
        }
    });
    gate
}

fn column(n: usize) -> String {
    format!("{n:04}{}", "x".repeat(60))
}

/// The first of these columns is filterable or not; the others are made with it and stay as they are.
async fn change_schema(engine: &Arc<Engine>, namespace: &str, columns: usize, is_filterable: bool) {
    let of = |n: usize| (column(n), json!({"type": "string", "filterable": n > 0 || is_filterable}));
    let update = SchemaUpdate { attributes: (0..columns).map(of).collect() };
    engine.update_schema(&name(namespace), update).await.unwrap();
}

fn log_bytes(node: &Node) -> u64 {
    logs_below(&node.disk, Path::new("/data")).iter().map(|(_, bytes)| bytes).sum()
}

fn is_filterable(engine: &Engine, namespace: &str) -> bool {
    engine.view(&name(namespace)).unwrap().schema.column(&column(0)).unwrap().filterable
}

fn tails_bytes(engine: &Engine) -> u64 {
    engine.node_status()["tails_bytes"].as_u64().unwrap()
}

fn tail(engine: &Engine, namespace: &str) -> (u64, u64) {
    let status = engine.status(&name(namespace)).unwrap();
    (status["tail"]["rows"].as_u64().unwrap(), status["tail"]["bytes"].as_u64().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schema_updates_keep_the_log_within_its_bound() {
    const BOUND: u64 = 16 << 10;
    let mut node = Node::new(61);
    node.config.log_bytes_max = BOUND;
    node.config.retention_ms = 0;
    let engine = node.open();
    put(&engine, "docs", 0..1, 1).await;
    for round in 0..150 {
        change_schema(&engine, "docs", 20, round % 2 == 0).await;
        // Those that a flush made superfluous may be there still.
        let bytes = log_bytes(&node);
        assert!(bytes <= 5 * BOUND, "{bytes} bytes of logs after {round} updates");
    }
    assert!(!is_filterable(&engine, "docs"));
    let engine = node.cut_power(engine);
    assert!(!is_filterable(&engine, "docs"));
    assert_eq!(all(&engine, "docs").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_without_documents_ends_at_the_interval_and_at_a_checkpoint() {
    let node = Node::new(62);
    let engine = node.open();
    put(&engine, "docs", 0..1, 1).await;
    let mut is_on = false;
    for round in 0..4 {
        engine.checkpoint(&name("docs")).await.unwrap();
        assert_eq!(log_bytes(&node), 0, "round {round}");
        if round % 2 == 0 {
            is_on = !is_on;
            change_schema(&engine, "docs", 1, is_on).await;
        } else {
            engine.allocate_ids(&name("docs"), 10).await.unwrap();
        }
        assert!(log_bytes(&node) > 0, "round {round}");
        node.clock.advance(node.config.flush_interval_ms);
        engine.tend().await.unwrap();
        assert_eq!(log_bytes(&node), 0, "round {round}");
    }
    // What was given out is not given out again.
    let given = engine.allocate_ids(&name("docs"), 10).await.unwrap();
    engine.checkpoint(&name("docs")).await.unwrap();
    let engine = node.cut_power(engine);
    assert_eq!(log_bytes(&node), 0);
    let more = engine.allocate_ids(&name("docs"), 10).await.unwrap();
    assert!(!more.iter().any(|id| given.contains(id)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_is_closed_leaves_no_log_of_schema_updates() {
    let mut node = Node::new(63);
    let engine = node.open();
    for namespace in ["a", "b"] {
        put(&engine, namespace, 0..1, 1).await;
        engine.checkpoint(&name(namespace)).await.unwrap();
    }
    drop(engine);
    node.config.open_namespaces_max = 1;
    let engine = node.open();
    change_schema(&engine, "a", 1, false).await;
    assert_eq!(all(&engine, "b").len(), 1);
    let closed = async {
        while engine.open_count() > 1 {
            engine.tend().await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.unwrap();
    assert_eq!(log_bytes(&node), 0);
    let columns = engine.view(&name("a")).unwrap().schema.columns.len();
    assert!(columns >= 2, "{columns} columns");
}

/// How long the opening of a namespace takes whose log has so many schemas of so many columns; the least of a few.
async fn replay_takes(seed: u64, columns: usize, frames: usize) -> Duration {
    let node = Node::new(seed);
    let engine = node.open();
    put(&engine, "docs", 0..1, 1).await;
    engine.checkpoint(&name("docs")).await.unwrap();
    for round in 0..frames {
        change_schema(&engine, "docs", columns, round % 2 == 0).await;
    }
    drop(engine);
    let opening = || {
        let engine = node.open();
        let began = Instant::now();
        engine.view(&name("docs")).unwrap();
        began.elapsed()
    };
    (0..3).map(|_| opening()).min().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn schemas_in_a_log_are_replayed_in_a_time_that_their_length_says() {
    // As many bytes, in ten times fewer schemas: what costs a schema's length squared takes ten times as long.
    let narrow = replay_takes(64, 50, 60).await;
    let wide = replay_takes(64, 500, 6).await;
    assert!(wide < narrow * 4, "{wide:?} for six schemas of 500 columns, {narrow:?} for sixty of 50");
}

/// A node with so many namespaces of the same few documents in their logs only, that opens with these bounds in the next process.
async fn node_with_logs(seed: u64, namespaces: u64) -> (Node, u64) {
    let mut node = Node::new(seed);
    let engine = node.open();
    for n in 0..namespaces {
        let text = "x".repeat(2_000);
        let rows = |from: u64| (from..from + 10).map(|id| json!({"id": id, "text": text})).collect::<Vec<_>>();
        // Several frames.
        for from in 0..10 {
            write(&engine, &format!("n{n}"), json!({"upsert_rows": rows(from * 10)})).await.unwrap();
        }
    }
    let (_, bytes) = tail(&engine, "n0");
    node.config.backpressure_wait_ms = PATIENCE.as_millis() as u64;
    (node, bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_opened_keeps_the_bound_on_all_tails() {
    let (mut node, each) = node_with_logs(65, 12).await;
    node.config.tails_bytes_max = 2 * each + each / 2;
    let engine = node.open();
    for n in 0..12 {
        assert_eq!(all(&engine, &format!("n{n}")).len(), 100);
        let bytes = tails_bytes(&engine);
        // A frame more than the bound.
        assert!(bytes <= 3 * each, "{bytes} bytes with {} open, a tail takes {each}", n + 1);
    }
    // Who writes has room.
    write(&engine, "other", json!({"upsert_rows": [{"id": 1}]})).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn namespaces_that_are_opened_at_once_wait_for_each_others_tails() {
    let (mut node, each) = node_with_logs(70, 12).await;
    node.config.tails_bytes_max = 2 * each + each / 2;
    let engine = node.open();
    let readers = (0..12).map(|n| {
        let engine = engine.clone();
        tokio::task::spawn_blocking(move || documents(&engine.view(&name(&format!("n{n}"))).unwrap()).len())
    });
    for reader in readers.collect::<Vec<_>>() {
        assert_eq!(reader.await.unwrap(), 100);
        let bytes = tails_bytes(&engine);
        assert!(bytes <= 4 * each, "{bytes} bytes, a tail takes {each}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_that_alone_is_larger_than_all_may_be_is_opened_and_flushed() {
    let (mut node, each) = node_with_logs(66, 3).await;
    (node.config.tails_bytes_max, node.config.flush_bytes) = (each / 3, each / 3);
    let engine = node.open();
    for n in 0..3 {
        assert_eq!(all(&engine, &format!("n{n}")).len(), 100);
        assert!(tails_bytes(&engine) <= 2 * each);
    }
    let flushed = async {
        while tails_bytes(&engine) > 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, flushed).await.unwrap();
    assert_eq!(all(&engine, "n1").len(), 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_opening_that_finds_no_room_is_refused_and_made_later() {
    let (mut node, each) = node_with_logs(67, 3).await;
    node.config.tails_bytes_max = each + each / 2;
    node.config.backpressure_wait_ms = 1;
    let disk = HookDisk::new(node.disk.mounted());
    let engine =
        Engine::open(node.config.clone(), Arc::new(disk.clone()), node.clock.clone(), node.random.clone()).unwrap();
    engine.rebuild_index().unwrap();
    let first = engine.view(&name("n0")).unwrap();
    // No segment comes to be meanwhile.
    let gate = Arc::new(Mutex::new(()));
    let closed = gate.lock().unwrap();
    let before = gate.clone();
    disk.each(move |_, path| {
        if path.to_string_lossy().contains("/segments/") {
            drop(before.lock());
        }
    });
    let refused = engine.view(&name("n1")).map(drop).unwrap_err();
    assert_eq!(refused.kind(), Kind::Busy, "{refused}");
    assert!(refused.message().contains("n1") && refused.hint().is_some(), "{refused}");
    assert!(tails_bytes(&engine) <= each, "what was read of the other is still counted");
    drop(closed);
    let opened = async {
        while engine.view(&name("n1")).is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, opened).await.unwrap();
    assert_eq!((documents(&first).len(), all(&engine, "n1").len()), (100, 100));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn branches_of_a_namespace_with_a_long_log_replay_none_of_it() {
    let node = Node::new(68);
    let engine = node.open();
    let text = "x".repeat(20_000);
    let rows: Vec<_> = (0..80).map(|id| json!({"id": id, "text": text})).collect();
    let schema = json!({"text": {"type": "string", "filterable": false}});
    write(&engine, "main", json!({"upsert_rows": rows, "schema": schema})).await.unwrap();
    // The first one pays for all.
    branch(&engine, "main", "b0").await;
    for n in 1..6 {
        let before = node.disk.written_bytes();
        branch(&engine, "main", &format!("b{n}")).await;
        let written = node.disk.written_bytes() - before;
        assert!(written < 512 << 10, "{written} bytes for a branch");
    }
    for n in 0..6 {
        assert_eq!(all(&engine, &format!("b{n}")).len(), 80);
    }
    assert_eq!(tails_bytes(&engine), 0);
    // A short one is inherited as it is: a branch writes no segment then.
    put(&engine, "main", 100..101, 1).await;
    branch(&engine, "main", "short").await;
    assert_eq!((tail(&engine, "main").0, tail(&engine, "short").0), (1, 1));
    assert_eq!(all(&engine, "short").len(), 81);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_a_chain_of_branches_replays_a_few_logs_only() {
    const DEPTH: u64 = 60;
    let node = Node::new(69);
    let engine = node.open();
    put(&engine, "b0", 0..1, 1).await;
    let mut most = 0;
    for n in 1..=DEPTH {
        branch(&engine, &format!("b{}", n - 1), &format!("b{n}")).await;
        put(&engine, &format!("b{n}"), n..n + 1, 1).await;
        most = most.max(tail(&engine, &format!("b{n}")).0);
    }
    assert!(most <= 20, "{most} rows are replayed");
    assert_eq!(all(&engine, &format!("b{DEPTH}")).len() as u64, DEPTH + 1);
    let engine = node.cut_power(engine);
    assert_eq!(all(&engine, &format!("b{DEPTH}")).len() as u64, DEPTH + 1);
}

/// Bytes of a namespace's segments.
fn segment_bytes(engine: &Engine, namespace: &str) -> u64 {
    let status = engine.status(&name(namespace)).unwrap();
    status["segments"].as_array().unwrap().iter().map(|segment| segment["bytes"].as_u64().unwrap()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tombstones_that_nobody_needs_any_more_go_without_another_reason() {
    let node = Node::new(71);
    let engine = node.open();
    for namespace in ["asked", "left"] {
        put(&engine, namespace, 0..3, 1).await;
        write(&engine, namespace, json!({"deletes": (100..3_100).collect::<Vec<_>>()})).await.unwrap();
        engine.compact(&name(namespace)).await.unwrap();
        assert!(segment_bytes(&engine, namespace) > 20_000);
    }
    let before = segment_bytes(&engine, "asked");
    engine.compact(&name("asked")).await.unwrap();
    assert_eq!(segment_bytes(&engine, "asked"), before, "a relative may come to need them");
    node.clock.advance(node.config.tombstone_ms + 60_000);
    engine.compact(&name("asked")).await.unwrap();
    let after = segment_bytes(&engine, "asked");
    assert!(after < before / 4, "{after} bytes, {before} before");
    // In the background, where no write comes.
    let rewritten = async {
        while segment_bytes(&engine, "left") > after * 2 {
            engine.tend().await.unwrap();
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, rewritten).await.unwrap();
    for namespace in ["asked", "left"] {
        assert_eq!(all(&engine, namespace).len(), 3);
    }
    // What is written anew once is left alone.
    let generation = engine.status(&name("left")).unwrap()["generation"].clone();
    engine.tend().await.unwrap();
    engine.compact(&name("left")).await.unwrap();
    assert_eq!(engine.status(&name("left")).unwrap()["generation"], generation);
}

/// A node that has so many namespaces of as many documents in segments, with this bound on all tails.
async fn node_with_segments(seed: u64, namespaces: u64, documents: u64, tails_bytes_max: u64) -> (Node, Arc<Engine>) {
    let mut node = Node::new(seed);
    node.config.tails_bytes_max = tails_bytes_max;
    let engine = node.open();
    for n in 0..namespaces {
        let rows: Vec<_> = (0..documents).map(|id| json!({"id": id, "n": 1})).collect();
        let of = format!("n{n}");
        let schema = json!({"n": "int", "wide": "[]int"});
        write(&engine, &of, json!({"upsert_rows": rows, "schema": schema})).await.unwrap();
        engine.checkpoint(&name(&of)).await.unwrap();
    }
    (node, engine)
}

fn widened(is_partial: bool) -> serde_json::Value {
    let patch = json!({"filters": ["n", "Eq", 1], "patch": {"n": 2, "wide": (0..1_000).collect::<Vec<u64>>()}});
    json!({"patch_by_filter": patch, "patch_by_filter_allow_partial": is_partial})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_patch_that_makes_more_than_all_tails_may_be_is_refused_and_goes_in_parts() {
    const BOUND: u64 = 4 << 20;
    let (_node, engine) = node_with_segments(72, 1, 1_000, BOUND).await;
    let refused = write(&engine, "n0", widened(false)).await.unwrap_err();
    assert_eq!((refused.kind(), refused.code()), (Kind::Invalid, "too_large"), "{refused}");
    assert!(refused.message().contains("4194304") && refused.hint().unwrap().contains("allow_partial"), "{refused}");
    assert_eq!(tails_bytes(&engine), 0);
    let (mut patched, mut parts) = (0, 0);
    loop {
        let outcome = write(&engine, "n0", widened(true)).await.unwrap();
        assert_eq!(outcome.filter_matched, Some(outcome.patched));
        let bytes = tails_bytes(&engine);
        assert!(bytes <= 2 * BOUND, "{bytes} bytes after {patched} documents");
        (patched, parts) = (patched + outcome.patched, parts + 1);
        if !outcome.rows_remaining {
            break;
        }
    }
    assert_eq!(patched, 1_000);
    assert!((2..20).contains(&parts), "{parts} parts");
    // The same by their ids: what the documents hold already counts, too.
    let rows: Vec<_> = (0..1_000).map(|id| json!({"id": id, "n": 3})).collect();
    let refused = write(&engine, "n0", json!({"patch_rows": rows})).await.unwrap_err();
    assert_eq!((refused.kind(), refused.code()), (Kind::Invalid, "too_large"), "{refused}");
    assert!(refused.hint().unwrap().contains("smaller batches"), "{refused}");
    write(&engine, "n0", json!({"patch_rows": rows[..50]})).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::await_holding_lock, reason = "a gate that other threads wait at")]
async fn what_many_writes_make_at_once_keeps_the_bound_on_all_tails() {
    const NAMESPACES: u64 = 12;
    const BOUND: u64 = 5 << 19;
    let (mut node, engine) = node_with_segments(73, NAMESPACES, 60, BOUND).await;
    drop(engine);
    node.config.backpressure_wait_ms = 100;
    let disk = HookDisk::new(node.disk.mounted());
    let engine =
        Engine::open(node.config.clone(), Arc::new(disk.clone()), node.clock.clone(), node.random.clone()).unwrap();
    engine.rebuild_index().unwrap();
    // No segment comes to be meanwhile, so what is written stays where it is counted.
    let gate = before_segments(&disk);
    let closed = gate.lock().unwrap();
    let write_all = || {
        let writers: Vec<_> = (0..NAMESPACES)
            .map(|n| {
                let engine = engine.clone();
                tokio::spawn(async move {
                    write(&engine, &format!("n{n}"), widened(false)).await.map(|done| done.patched)
                })
            })
            .collect();
        writers
    };
    let (mut written, mut refused) = (0, 0);
    for writer in write_all() {
        match writer.await.unwrap() {
            Ok(patched) => written += patched / 60,
            Err(error) => {
                assert_eq!(error.kind(), Kind::Busy, "{error}");
                refused += 1;
            }
        }
    }
    let bytes = tails_bytes(&engine);
    assert!(bytes <= 2 * BOUND, "{bytes} bytes of tails after {written} writes");
    assert!(written > 1 && refused > 1, "{written} written, {refused} refused");
    drop(closed);
    // The others are written once there is room.
    let all_written = async {
        while written < NAMESPACES {
            for writer in write_all() {
                written += writer.await.unwrap().map_or(0, |patched| patched / 60);
            }
        }
    };
    tokio::time::timeout(PATIENCE, all_written).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_waits_for_the_disk_counts_where_others_wait_for_room() {
    let mut node = Node::new(74);
    (node.config.tails_bytes_max, node.config.backpressure_wait_ms) = (1 << 20, 50);
    let disk = HookDisk::new(node.disk.mounted());
    let engine =
        Engine::open(node.config.clone(), Arc::new(disk.clone()), node.clock.clone(), node.random.clone()).unwrap();
    engine.rebuild_index().unwrap();
    for namespace in ["slow", "other"] {
        put(&engine, namespace, 0..1, 1).await;
    }
    // The disk takes long to take a commit.
    let (end, ends) = mpsc::channel::<()>();
    let (ends, is_at_it) = (Mutex::new(ends), Arc::new(AtomicBool::new(false)));
    let at_it = is_at_it.clone();
    disk.each(move |operation, _| {
        if operation == "write" {
            at_it.store(true, Ordering::SeqCst);
            let _ = ends.lock().unwrap().recv();
        }
    });
    let row = |bytes: usize| {
        let schema = json!({"filling": {"type": "string", "filterable": false}});
        json!({"upsert_rows": [{"id": 1, "filling": "x".repeat(bytes)}], "schema": schema})
    };
    let (behind, large) = (engine.clone(), row(600 << 10));
    let slow = tokio::spawn(async move { write(&behind, "slow", large).await });
    let begun = async {
        while !is_at_it.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, begun).await.unwrap();
    assert!(tails_bytes(&engine) < 1 << 20, "its documents alone leave room");
    let (beside, small) = (engine.clone(), row(1_000));
    let other = tokio::spawn(async move { write(&beside, "other", small).await });
    let refused = tokio::time::timeout(PATIENCE / 3, other).await.expect("it is let in, and waits for the disk");
    let refused = refused.unwrap().unwrap_err();
    assert_eq!(refused.kind(), Kind::Busy, "{refused}");
    drop(end);
    slow.await.unwrap().unwrap();
    // What was written is in memory once.
    write(&engine, "other", row(1_000)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[expect(clippy::await_holding_lock, reason = "a gate that other threads wait at")]
async fn a_project_that_fills_all_tails_leaves_room_for_the_small_write_of_another() {
    const BOUND: u64 = 1 << 20;
    let mut node = Node::new(74);
    node.config.tails_bytes_max = BOUND;
    node.config.backpressure_wait_ms = PATIENCE.as_millis() as u64;
    let disk = HookDisk::new(node.disk.mounted());
    let engine =
        Engine::open(node.config.clone(), Arc::new(disk.clone()), node.clock.clone(), node.random.clone()).unwrap();
    engine.rebuild_index().unwrap();
    let other = Project::new("org", "other").unwrap().namespace("docs").unwrap();
    engine.write(&other, request(json!({"upsert_rows": [{"id": 1}]}))).await.unwrap();
    // No segment comes to be before the tails are full.
    let gate = before_segments(&disk);
    let closed = gate.lock().unwrap();
    let greedy = |n: u64, id: u64| {
        let rows = json!([{"id": id, "text": "x".repeat(20_000)}]);
        let schema = json!({"text": {"type": "string", "filterable": false}});
        let body = json!({"upsert_rows": rows, "schema": schema, "disable_backpressure": true});
        let (engine, of) = (engine.clone(), format!("n{n}"));
        async move { write(&engine, &of, body).await }
    };
    let mut id = 0;
    let refused = loop {
        id += 1;
        match greedy(id % 8, id).await {
            Err(error) => break error,
            Ok(_) => assert!(id < 1_000, "nothing is refused"),
        }
    };
    assert_eq!(refused.kind(), Kind::Busy, "{refused}");
    let full = tails_bytes(&engine);
    assert!(full <= BOUND + BOUND / 8, "{full} bytes");
    // One segment later there is room for who waits, whatever the others go on to ask for.
    let small = engine.write(&other, request(json!({"upsert_rows": [{"id": 2}]})));
    let asking = async {
        let mut closed = Some(closed);
        loop {
            id += 1;
            let _ = greedy(id % 8, id).await;
            closed.take();
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        written = tokio::time::timeout(PATIENCE, small) => assert_eq!(written.unwrap().unwrap().upserted, 1),
        () = asking => {}
    }
}
