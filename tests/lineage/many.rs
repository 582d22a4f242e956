//! Nodes with many namespaces, and with many that were there: one costs the same whatever others there are, and what is gone leaves nothing.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use shoal::engine::merge::MergeRequest;
use shoal::engine::{Engine, EngineConfig};
use shoal::model::as_of::AsOf;
use shoal::platform::clock::SystemClock;
use shoal::platform::disk::Disk;
use shoal::platform::memory_disk::Fault;
use shoal::platform::random::SystemRandom;
use shoal::platform::real_disk::RealDisk;

use crate::node::{DAY_MS, HOUR_MS, Node, all, at, branch, name, objects, put, write};

/// Every directory of a node.
fn directories(node: &Node) -> Vec<String> {
    let mut found = Vec::new();
    let mut open = vec!["/data".to_owned()];
    while let Some(dir) = open.pop() {
        let entries = node.disk.list(Path::new(&dir)).unwrap();
        open.extend(entries.iter().filter(|entry| entry.is_dir).map(|entry| format!("{dir}/{}", entry.name)));
        found.push(dir);
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn branches_that_were_merged_and_deleted_leave_no_directory() {
    let node = Node::new(70);
    let mut engine = node.open();
    put(&engine, "main", 0..20, 1).await;
    engine.compact(&name("main")).await.unwrap();
    let round = async |engine: &Arc<Engine>, round: u64| {
        for n in 0..4 {
            let one = format!("branch-{round}-{n}");
            branch(engine, "main", &one).await;
            put(engine, &one, n..n + 2, round).await;
            engine.checkpoint(&name(&one)).await.unwrap();
            put(engine, &one, n..n + 1, round + 100).await;
            engine.merge(&name(&one), &name("main"), MergeRequest::default()).await.unwrap();
            engine.delete(&name(&one)).await.unwrap();
        }
        engine.compact(&name("main")).await.unwrap();
        for _ in 0..2 {
            node.clock.advance(8 * DAY_MS);
            engine.tend().await.unwrap();
        }
    };
    for n in 0..6 {
        round(&engine, n).await;
        if n == 3 {
            engine = node.cut_power(engine);
        }
    }
    // Every incarnation and every segment has something in it; the last merges' bases hold theirs until the next merge.
    let found = directories(&node);
    let objects = objects(&node);
    let is_own = |dir: &&String| {
        let kind = dir.rsplit('/').nth(1);
        kind == Some("namespaces") || kind == Some("segments")
    };
    for dir in found.iter().filter(is_own) {
        assert!(objects.iter().any(|object| object.starts_with(dir)), "{dir} is empty: {found:#?}");
    }
    let incarnations = found.iter().filter(|dir| dir.rsplit('/').nth(1) == Some("namespaces")).count();
    assert!(incarnations <= 1 + 4, "{found:#?}");
    assert!(!found.iter().any(|dir| dir.contains("branch-")), "{found:#?}");
    assert!(engine.check(4).unwrap().is_whole());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_forgotten_brings_nothing_back_and_can_be_used_again() {
    for at in 0..80 {
        let node = Node::new(100 + at);
        let engine = node.open();
        put(&engine, "main", 0..5, 1).await;
        engine.checkpoint(&name("main")).await.unwrap();
        put(&engine, "other", 0..2, 1).await;
        engine.delete(&name("main")).await.unwrap();
        node.clock.advance(8 * DAY_MS);
        let fault = Fault { at: node.disk.operations() + at, forever: at % 2 == 0, kind: std::io::ErrorKind::Other };
        node.disk.set_fault(Some(fault));
        let _ = engine.tend().await;
        node.disk.set_fault(None);
        let engine = if at % 3 == 0 {
            // The node goes on, and ends well.
            let _ = engine.tend().await;
            let _ = engine.rebuild_index();
            engine.shutdown().await.unwrap();
            drop(engine);
            node.open()
        } else {
            node.cut_power(engine)
        };
        assert!(engine.view(&name("main")).is_err(), "operation {at}");
        put(&engine, "main", 7..9, 2).await;
        let expected = all(&engine, "main");
        for _ in 0..2 {
            engine.tend().await.unwrap();
        }
        let engine = node.cut_power(engine);
        assert_eq!(all(&engine, "main"), expected, "operation {at}");
        assert_eq!(all(&engine, "other").len(), 2, "operation {at}");
        engine.delete(&name("main")).await.unwrap();
        node.clock.advance(8 * DAY_MS);
        engine.tend().await.unwrap();
        assert!(!directories(&node).iter().any(|dir| dir.ends_with("/main")), "operation {at}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opening_and_creating_a_namespace_looks_at_no_other() {
    const MANY: u64 = 200;
    let node = Node::new(71);
    let engine = node.open();
    for n in 0..MANY {
        put(&engine, &format!("n{n}"), 0..1, n).await;
    }
    let engine = node.cut_power(engine);
    let listed = node.disk.entries_listed();
    for n in 0..10 {
        assert_eq!(all(&engine, &format!("n{n}")).len(), 1);
    }
    let opened = node.disk.entries_listed() - listed;
    put(&engine, "new", 0..1, 1).await;
    let created = node.disk.entries_listed() - listed - opened;
    assert!(opened < 10 * 10 && created < 10, "{opened} entries listed to open ten, {created} to create one");
}

/// `SHOAL_MANY=10000 cargo test --release --test lineage a_node_of_many -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn a_node_of_many_namespaces() {
    let many: u64 = std::env::var("SHOAL_MANY").map_or(1_000, |many| many.parse().unwrap());
    let dir = tempfile::tempdir_in(".").unwrap();
    let open = || {
        let config = EngineConfig::new(dir.path());
        Engine::open(config, Arc::new(RealDisk), Arc::new(SystemClock), Arc::new(SystemRandom)).unwrap()
    };
    let descriptors = || std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let ms = |since: Instant, times: u64| since.elapsed().as_secs_f64() * 1_000.0 / times as f64;
    let engine = open();
    engine.rebuild_index().unwrap();
    for n in 0..many {
        put(&engine, &format!("n{n}"), 0..1, n).await;
    }
    let begun = Instant::now();
    for n in 0..20 {
        put(&engine, &format!("last{n}"), 0..1, n).await;
    }
    println!("{many} namespaces: creating one more {:.1} ms, {} descriptors", ms(begun, 20), descriptors());
    drop(engine);
    let begun = Instant::now();
    let engine = open();
    println!("an unclean start {:.0} ms", ms(begun, 1));
    let counting = engine.clone();
    let begun = Instant::now();
    let counted = std::thread::spawn(move || {
        counting.rebuild_index().unwrap();
        begun.elapsed()
    });
    // As the daemon does: it counts while requests come.
    std::thread::sleep(std::time::Duration::from_millis(20));
    let begun = Instant::now();
    let found = engine.view(&name("n7")).unwrap();
    println!("the first query after it {:.0} ms, of {} documents", ms(begun, 1), found.documents());
    println!(
        "all is counted after {:.0} ms",
        tokio::task::block_in_place(|| counted.join()).unwrap().as_secs_f64() * 1e3
    );
    let begun = Instant::now();
    for n in 100..200.min(many) {
        engine.view(&name(&format!("n{n}"))).unwrap();
    }
    println!("opening one {:.2} ms", ms(begun, 200.min(many) - 100));
    engine.shutdown().await.unwrap();
    println!("{}", json!({"namespaces": many}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_deleted_namespaces_count_for_the_share_of_the_past_and_are_given_back() {
    let mut node = Node::new(75);
    node.config.retention_disk_percent = 20;
    let engine = node.open();
    let mut states = Vec::new();
    for round in 0..8u64 {
        put(&engine, "small", 0..3_000, round).await;
        engine.compact(&name("small")).await.unwrap();
        node.clock.advance(HOUR_MS);
        states.push((engine.history(&name("small")).unwrap()[0].generation, all(&engine, "small")));
    }
    let schema = (0..1_000).map(|n| (format!("{n:0>120}"), json!("string"))).collect();
    let schema = serde_json::Value::Object(schema);
    write(&engine, "wide", json!({"schema": schema, "upsert_rows": [{"id": 1}]})).await;
    for _ in 0..60 {
        branch(&engine, "wide", "b").await;
        engine.delete(&name("b")).await.unwrap();
    }
    let index = || node.disk.size(Path::new("/data/meta.redb")).unwrap();
    let before = index();
    node.disk.leave_free(Some(1 << 20));
    for _ in 0..3 {
        engine.tend().await.unwrap();
    }
    for (generation, expected) in states {
        assert_eq!(at(&engine, "small", AsOf::Generation(generation)).unwrap(), expected, "generation {generation}");
    }
    let deleted = engine.deleted(&name("b").project).len();
    assert!((1..60).contains(&deleted), "{deleted} are kept of 60 that take more than their share");
    assert!(index() < before / 2, "the index has {} bytes, and had {before}", index());
}
