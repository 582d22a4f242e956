//! Nodes with few threads: all of them may wait for the bucket at once, and what they wait for comes all the same.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use serde_json::{Value as Json, json};
use shoal::api::wire::query::parse_query;
use shoal::engine::Engine;
use shoal::engine::merge::decide::Policy;
use shoal::engine::query::run;
use shoal::platform::allowance::Allowance;
use shoal::platform::random::{Random, SeededRandom};
use shoal::sync::Sync;

use crate::fleet::{bucket, options, sync};
use crate::node::{Node, name, write};

const NAMESPACES: usize = 8;
const QUERIES_EACH: usize = 3;
/// No node takes as long: something waits for ever.
const LONGEST: Duration = Duration::from_secs(120);

fn named(n: usize) -> String {
    format!("docs{n}")
}

/// Rows that make a segment which is read in parts.
fn rows(seed: usize) -> Vec<Json> {
    let random = SeededRandom::new(seed as u64);
    let text = || (0..200).map(|_| format!("{:016x}", random.next_u64())).collect::<String>();
    (0..400).map(|id| json!({"id": id, "text": format!("seal {}", text())})).collect()
}

fn ask(engine: &Engine, namespace: &str) -> usize {
    let query = json!({"rank_by": ["id", "desc"], "limit": 150, "include_attributes": ["text"]});
    let request = parse_query(query).unwrap().request;
    let outcome = engine.on_view(&name(namespace), None, |view| run(view, &request, &Allowance::unlimited()));
    format!("{:?}", outcome.unwrap().answers).matches("seal").count().min(1)
}

async fn reads_of_cold_namespaces() -> usize {
    let (bucket, writer) = (bucket(1), Node::new(2));
    let whole = writer.open();
    for n in 0..NAMESPACES {
        let schema = json!({"text": {"type": "string", "filterable": false}});
        write(&whole, &named(n), json!({"upsert_rows": rows(n), "schema": schema})).await;
        whole.checkpoint(&name(&named(n))).await.unwrap();
    }
    sync(&writer, &whole, &bucket).await.unwrap();
    let mut node = Node::new(3);
    node.config.tier_bytes_max = 64 << 20;
    let engine = node.open();
    sync(&node, &engine, &bucket).await.unwrap();
    engine.shutdown().await.unwrap();
    drop(engine);
    // None is open, and most rows are in the bucket only.
    let engine = node.open();
    let _link = Sync::new(engine.clone(), bucket.clone(), options(Policy::Lww), node.clock.clone());
    let mut asked = Vec::new();
    for n in (0..NAMESPACES).cycle().take(NAMESPACES * QUERIES_EACH) {
        let engine: Arc<Engine> = engine.clone();
        asked.push(tokio::spawn(async move {
            engine.open_for(&name(&named(n))).await;
            tokio::task::block_in_place(|| ask(&engine, &named(n)))
        }));
    }
    let mut answered = 0;
    for one in asked {
        answered += one.await.unwrap();
    }
    answered
}

#[test]
fn cold_namespaces_are_read_though_every_thread_waits_for_the_bucket() {
    let (done, ended) = mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let answered = runtime.block_on(async { tokio::spawn(reads_of_cold_namespaces()).await.unwrap() });
        done.send(answered).unwrap();
    });
    assert_eq!(ended.recv_timeout(LONGEST), Ok(NAMESPACES * QUERIES_EACH), "a node with three threads");
}
