//! Nodes with few threads: all of them may wait for the bucket at once, and what they wait for comes all the same.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use serde_json::{Value as Json, json};
use shoal::api::wire::query::parse_query;
use shoal::engine::Engine;
use shoal::engine::merge::decide::Policy;
use shoal::engine::query::run;
use shoal::error::Result;
use shoal::model::query::QueryOutcome;
use shoal::platform::allowance::{Allowance, End};
use shoal::platform::random::{Random, SeededRandom};
use shoal::store::{Backend, Bucket};
use shoal::sync::Sync;

use crate::fleet::{bucket, options, sync};
use crate::node::{Node, name, write};
use crate::unlucky::Place;

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
    let outcome = asked(engine, namespace, &Allowance::unlimited());
    format!("{:?}", outcome.unwrap().answers).matches("seal").count().min(1)
}

fn asked(engine: &Engine, namespace: &str, allowance: &Allowance) -> Result<QueryOutcome> {
    let query = json!({"rank_by": ["id", "desc"], "limit": 150, "include_attributes": ["text"]});
    let request = parse_query(query).unwrap().request;
    engine.on_view(&name(namespace), None, |view| run(view, &request, allowance))
}

/// Namespaces that are in the bucket.
async fn sent(bucket: &Bucket) {
    let writer = Node::new(2);
    let whole = writer.open();
    for n in 0..NAMESPACES {
        let schema = json!({"text": {"type": "string", "filterable": false}});
        write(&whole, &named(n), json!({"upsert_rows": rows(n), "schema": schema})).await;
        whole.checkpoint(&name(&named(n))).await.unwrap();
    }
    sync(&writer, &whole, bucket).await.unwrap();
}

/// A node that has most of their rows in the bucket only, and none of them open.
async fn cold(bucket: &Bucket) -> (Node, Arc<Engine>) {
    let mut node = Node::new(3);
    node.config.tier_bytes_max = 64 << 20;
    let engine = node.open();
    sync(&node, &engine, bucket).await.unwrap();
    engine.shutdown().await.unwrap();
    drop(engine);
    let engine = node.open();
    (node, engine)
}

async fn reads_of_cold_namespaces() -> usize {
    let bucket = bucket(1);
    sent(&bucket).await;
    let (node, engine) = cold(&bucket).await;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_query_ends_in_its_time_though_the_bucket_says_nothing() {
    let place = Place::default();
    sent(&place.bucket(&Node::new(2))).await;
    let (node, engine) = cold(&place.bucket(&Node::new(3))).await;
    let wire = place.wire();
    let silent = Bucket::over(Backend::direct(wire.clone(), None, "memory"), node.clock.clone(), node.random.clone());
    let _link = Sync::new(engine.clone(), silent, options(Policy::Lww), node.clock.clone());
    engine.open_for(&name(&named(0))).await;
    wire.cut_after(0, false);
    // Its time is up once it waits for the bucket.
    let waits = wire.clone();
    let allowance = Allowance::new(u64::MAX, move || waits.was_cut().then_some(End::TimeIsUp));
    let error = tokio::task::block_in_place(|| asked(&engine, &named(0), &allowance)).unwrap_err();
    assert_eq!(error.code(), "query_timeout", "{error}");
}
