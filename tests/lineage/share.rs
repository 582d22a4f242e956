//! The past's share of the disk counts bytes that come free when a state goes, not what the state names.

use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value as Json, json};
use shoal::engine::Engine;
use shoal::model::as_of::AsOf;
use shoal::platform::random::{Random, SeededRandom};

use crate::node::{Documents, HOUR_MS, Node, all, at, branch, name, objects, write};

const ROW_BYTES: usize = 10_000;
const PERCENT: u32 = 20;

pub fn a_node(seed: u64) -> Node {
    let mut node = Node::new(seed);
    node.config.retention_disk_percent = PERCENT;
    // No merges of their own accord.
    (node.config.compaction_fan_in, node.config.compaction_dead_percent) = (1_000, 1_000);
    node
}

/// Overwrites a namespace with so many rows, of about [`ROW_BYTES`] each, that are like no others.
async fn fill(engine: &Arc<Engine>, namespace: &str, rows: u64, seed: u64) {
    let random = SeededRandom::new(seed);
    let text = || (0..ROW_BYTES / 16).map(|_| format!("{:016x}", random.next_u64())).collect::<String>();
    let rows: Vec<Json> = (0..rows).map(|id| json!({"id": id, "s": text()})).collect();
    let schema = json!({"s": {"type": "string", "filterable": false}});
    write(engine, namespace, json!({"upsert_rows": rows, "schema": schema})).await;
    engine.compact(&name(namespace)).await.unwrap();
}

/// Bytes of all objects.
pub fn stored(engine: &Engine) -> u64 {
    engine.node_status()["objects"]["bytes"].as_u64().unwrap()
}

/// What past states of a namespace name that the state after each does not.
fn named(engine: &Engine, namespace: &str) -> u64 {
    engine.history(&name(namespace)).unwrap().iter().map(|state| state.kept_bytes).sum()
}

/// Gives the past a share of so many bytes.
fn share(node: &Node, engine: &Engine, bytes: u64) {
    let disk = bytes * 100 / u64::from(PERCENT);
    node.disk.leave_free(Some(disk.checked_sub(stored(engine)).unwrap()));
}

pub fn deleted(engine: &Engine) -> Vec<String> {
    let mut found: Vec<_> =
        engine.deleted(&name("x").project).into_iter().map(|deleted| deleted.name.to_string()).collect();
    found.sort();
    found
}

async fn tend(engine: &Arc<Engine>) {
    for _ in 0..3 {
        engine.tend().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn past_states_that_free_nothing_cost_another_namespace_none_of_its_own() {
    let node = a_node(110);
    let engine = node.open();
    let mut states: Vec<(u64, Documents)> = Vec::new();
    for round in 0..8 {
        fill(&engine, "main", 20, round).await;
        states.push((engine.history(&name("main")).unwrap()[0].generation, all(&engine, "main")));
        node.clock.advance(HOUR_MS);
    }
    fill(&engine, "parent", 20, 100).await;
    let mut phantoms = 0;
    for n in 0..30 {
        let one = format!("b{n}");
        branch(&engine, "parent", &one).await;
        engine.set_labels(&name(&one), [("a".to_owned(), "b".to_owned())].into()).await.unwrap();
        write(&engine, &one, json!({"delete_by_filter": ["id", "Gte", 0]})).await;
        engine.compact(&name(&one)).await.unwrap();
        phantoms += named(&engine, &one);
    }
    let real = named(&engine, "main");
    assert!(phantoms > 2 * real, "{phantoms} and {real}");
    share(&node, &engine, 2 * real);
    tend(&engine).await;
    for (generation, expected) in &states {
        assert_eq!(at(&engine, "main", AsOf::Generation(*generation)).unwrap(), *expected, "generation {generation}");
    }
    // What it really keeps is bounded.
    share(&node, &engine, real * 3 / 4);
    tend(&engine).await;
    let left = named(&engine, "main");
    assert!((real / 4..real * 3 / 4).contains(&left), "{left} of {real}");
    assert!(at(&engine, "main", AsOf::Generation(states[0].0)).is_err());
    assert!(engine.check(4).unwrap().is_whole());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_branches_of_what_lives_cost_no_deleted_namespace() {
    let node = a_node(111);
    let engine = node.open();
    fill(&engine, "small", 10, 1).await;
    let small = all(&engine, "small");
    fill(&engine, "big", 200, 2).await;
    let big = all(&engine, "big");
    engine.delete(&name("small")).await.unwrap();
    for n in 0..6 {
        node.clock.advance(1_000);
        branch(&engine, "big", &format!("b{n}")).await;
        engine.delete(&name(&format!("b{n}"))).await.unwrap();
    }
    // Two more are held by a past state and by a tag only.
    for (n, to) in ["past", "tagged"].into_iter().enumerate() {
        node.clock.advance(1_000);
        fill(&engine, "other", 50, 10 + n as u64).await;
        branch(&engine, "other", to).await;
        engine.delete(&name(to)).await.unwrap();
    }
    engine.tag(&name("other"), "t", None).await.unwrap();
    fill(&engine, "other", 50, 12).await;
    let before = deleted(&engine);
    assert_eq!(before.len(), 9);
    // Less than any one of the large ones names.
    share(&node, &engine, 1_500_000);
    tend(&engine).await;
    assert_eq!(deleted(&engine), before);
    engine.undelete(&name("small"), None).await.unwrap();
    assert_eq!(all(&engine, "small"), small);
    engine.undelete(&name("b0"), None).await.unwrap();
    assert_eq!(all(&engine, "b0"), big);
    assert!(engine.check(4).unwrap().is_whole());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_deleted_namespaces_share_counts_once_and_comes_free_with_the_last() {
    let node = a_node(112);
    let engine = node.open();
    fill(&engine, "main", 100, 1).await;
    let expected = all(&engine, "main");
    engine.tag(&name("main"), "t", None).await.unwrap();
    let names: Vec<String> = (0..5).map(|n| format!("b{n}")).collect();
    for one in &names {
        branch(&engine, "main", one).await;
    }
    let one = stored(&engine);
    for gone in ["main"].into_iter().chain(names.iter().map(String::as_str)) {
        node.clock.advance(1_000);
        engine.delete(&name(gone)).await.unwrap();
    }
    share(&node, &engine, one * 2);
    tend(&engine).await;
    assert_eq!(deleted(&engine).len(), 6);
    engine.undelete(&name("b4"), None).await.unwrap();
    assert_eq!(all(&engine, "b4"), expected);
    node.clock.advance(1_000);
    engine.delete(&name("b4")).await.unwrap();
    share(&node, &engine, one * 3 / 4);
    tend(&engine).await;
    assert_eq!((deleted(&engine), objects(&node)), (Vec::new(), Vec::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn past_states_of_deleted_namespaces_count_with_them() {
    let node = a_node(113);
    let engine = node.open();
    fill(&engine, "main", 50, 1).await;
    let one = stored(&engine);
    let (first, expected) = (engine.history(&name("main")).unwrap()[0].generation, all(&engine, "main"));
    branch(&engine, "main", "b").await;
    node.clock.advance(1_000);
    fill(&engine, "main", 50, 2).await;
    for gone in ["main", "b"] {
        node.clock.advance(1_000);
        engine.delete(&name(gone)).await.unwrap();
    }
    // What the past of the one has beside its newest is two segments, and the older of them is the newest of the other.
    share(&node, &engine, one * 7 / 2);
    tend(&engine).await;
    engine.undelete(&name("main"), None).await.unwrap();
    assert_eq!(at(&engine, "main", AsOf::Generation(first)).unwrap(), expected);
    node.clock.advance(1_000);
    engine.delete(&name("main")).await.unwrap();
    // Now the past state is younger than the other, and nothing of it is left for the past.
    share(&node, &engine, one * 3 / 2);
    tend(&engine).await;
    let left = stored(&engine);
    assert!(left <= one * 3 / 2, "{left} bytes are left, of {one} each");
    assert_eq!(deleted(&engine).len(), 1);
    assert!(engine.check(4).unwrap().is_whole());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_many_states_keep_is_not_asked_at_every_look_and_bounded_all_the_same() {
    const MANY: u64 = 300;
    let node = a_node(114);
    let engine = node.open();
    fill(&engine, "main", 400, 1).await;
    for n in 0..MANY {
        branch(&engine, "main", &format!("b{n}")).await;
        engine.delete(&name(&format!("b{n}"))).await.unwrap();
        node.clock.advance(1);
    }
    // Their files take a part of it, and what they name would take much more.
    share(&node, &engine, 50 << 20);
    let mut operations = Vec::new();
    for _ in 0..3 {
        let before = node.disk.operations();
        engine.tend().await.unwrap();
        operations.push(node.disk.operations() - before);
    }
    assert_eq!(deleted(&engine).len() as u64, MANY);
    assert!(operations[0] > MANY && operations[1] < MANY && operations[2] > MANY, "{operations:?}");
    share(&node, &engine, 1 << 20);
    engine.tend().await.unwrap();
    assert_eq!(deleted(&engine).len() as u64, MANY);
    engine.tend().await.unwrap();
    // Their files are a part of the disk, too, so the share is more than that.
    let left = deleted(&engine).len() as u64;
    assert!(left * (16 << 10) <= 3 << 20, "{left} are left");
}

/// `SHOAL_MANY=1000 cargo test --release --test lineage the_cost_of_asking -- --ignored --nocapture`
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures"]
async fn the_cost_of_asking_what_many_past_states_keep() {
    let many: u64 = std::env::var("SHOAL_MANY").map_or(1_000, |many| many.parse().unwrap());
    for is_deleted in [false, true] {
        let node = a_node(115);
        let engine = node.open();
        let schema: serde_json::Map<String, Json> =
            (0..60).map(|n| (format!("column{n}"), json!("string"))).collect();
        write(&engine, "main", json!({"schema": schema, "upsert_rows": [{"id": 1}]})).await;
        fill(&engine, "main", if is_deleted { 100 } else { 10 }, 1).await;
        // What is overwritten and compacted leaves two states.
        for n in 0..if is_deleted { many } else { many / 2 } {
            let one = format!("b{n}");
            branch(&engine, "main", &one).await;
            if is_deleted {
                engine.delete(&name(&one)).await.unwrap();
            } else {
                // Of two segments that each round leaves to the past of `main` a branch holds the one.
                fill(&engine, "main", 10, n).await;
            }
        }
        let what = if is_deleted { "deleted namespaces" } else { "past states" };
        for (named, bytes) in [("fits", 1 << 40), ("does not fit, and what comes free does", 80 * 1024 * many)] {
            share(&node, &engine, bytes);
            let begun = Instant::now();
            engine.tend().await.unwrap();
            let (ms, states) = (begun.elapsed().as_secs_f64() * 1e3, engine.history(&name("main")).unwrap().len());
            println!("{many} {what}: what is named {named}: a look takes {ms:.0} ms");
            println!("{states} states and {} deleted ones are there", deleted(&engine).len());
        }
    }
}
