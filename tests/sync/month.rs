//! A month without a network, with branches and merges of segments, comes back in one pass that sends little more than what
//! changed. `cargo test --release --test sync a_whole_month -- --ignored --nocapture` measures 100,000 writes.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Value as Json, json};
use shoal::engine::namespace::compaction::SEGMENTS_APART_MAX;
use shoal::engine::remote::objects_of;
use shoal::engine::{Engine, EngineConfig};
use shoal::format::manifest::{Manifest, decode_manifest};
use shoal::platform::disk::Disk;
use shoal::platform::random::{Random, SeededRandom};
use shoal::store::{Bucket, Patience};

use crate::fleet::{bucket, fresh, meet, sync};
use crate::node::{DAY_MS, Node, all, branch, name, write};

/// What happens in it.
struct Month {
    /// Documents that are in the bucket before.
    before: u64,
    writes: u64,
    branches: u64,
    /// Writes to each branch, beside.
    branch_writes: u64,
    /// Segments are made so often, and every eighth time some are merged.
    flushes: u64,
    /// What another node wrote meanwhile, and sent.
    elsewhere: u64,
}

/// What one pass sent, beside what it had to.
#[derive(Debug)]
struct Sent {
    /// Objects, without manifests, hints and names; and those of them that the new heads name.
    objects: usize,
    needed: usize,
    bytes: u64,
    /// What the documents that changed take in segments of their own.
    changed_bytes: u64,
    manifests: usize,
    /// Merges of segments that there were here.
    merged: u64,
    /// Segments of the namespace that has most of them.
    segments: usize,
}

fn row(id: u64, n: u64) -> Json {
    let random = SeededRandom::new(n << 20 | id);
    let words: Vec<String> = (0..30).map(|_| format!("w{}", random.next_u64() % 5_000)).collect();
    json!({"id": id, "n": n, "text": words.join(" ")})
}

async fn rows(engine: &Arc<Engine>, namespace: &str, rows: Vec<Json>) {
    let schema = json!({"text": {"type": "string", "full_text_search": true}});
    write(engine, namespace, json!({"upsert_rows": rows, "schema": schema})).await;
}

/// Many of them, in segments of a size.
async fn load(engine: &Arc<Engine>, namespace: &str, all: impl Iterator<Item = Json>) {
    let all: Vec<Json> = all.collect();
    for some in all.chunks(500 * 10) {
        for some in some.chunks(500) {
            rows(engine, namespace, some.to_vec()).await;
        }
        engine.checkpoint(&name(namespace)).await.unwrap();
    }
}

async fn keys(bucket: &Bucket) -> BTreeMap<String, u64> {
    let listed = bucket.list_all("", None, 1_000_000, &Patience::ASKED).await.unwrap();
    listed.into_iter().map(|listed| (listed.key, listed.bytes)).collect()
}

/// The newest manifest of every chain among these.
async fn heads(bucket: &Bucket, keys: &BTreeMap<String, u64>) -> Vec<Manifest> {
    let mut newest: BTreeMap<&str, &String> = BTreeMap::new();
    for key in keys.keys() {
        if let Some((chain, _)) = key.split_once("/manifests/") {
            newest.insert(chain, key);
        }
    }
    let mut found = Vec::new();
    for key in newest.into_values() {
        let bytes = bucket.get(key, &Patience::ASKED).await.unwrap().unwrap();
        found.push(decode_manifest(&bytes, key).unwrap().0);
    }
    found
}

fn is_object(key: &str) -> bool {
    ["/segments/", "/deletions/", "/conflicts/", "/wal/"].iter().any(|kind| key.contains(kind))
}

async fn come_back(month: &Month) -> Sent {
    let (bucket, mut node, mut other) = (bucket(1), Node::new(1), Node::new(2));
    // As nodes have it, but for the size of a tail: what flushes is said here.
    let compaction_fan_in = EngineConfig::new("/data").compaction_fan_in;
    (node.config.compaction_fan_in, other.config.compaction_fan_in) = (compaction_fan_in, compaction_fan_in);
    let (engine, there) = (node.open(), other.open());
    load(&engine, "docs", (0..month.before).map(|id| row(id, 0))).await;
    engine.compact(&name("docs")).await.unwrap();
    meet(&[(&node, &engine), (&other, &there)], &bucket).await;
    let nsid = engine.named()[0].1;
    let own = PathBuf::from(format!("/data/store/default/default/namespaces/{nsid}/segments"));
    let (random, had) = (SeededRandom::new(7), node.disk.list(&own).unwrap().len() as u64);
    let mut changed: BTreeMap<u64, Option<u64>> = BTreeMap::new();
    let mut branched = Vec::new();
    let mut segments: BTreeSet<String> = BTreeSet::new();
    for n in 1..=month.writes {
        // Half of it new, most of the rest documents that were there before, and a few deletions.
        let id = if n % 2 == 0 { 1_000_000 + n } else { random.next_u64() % (month.before + n) };
        if n % 20 == 1 {
            write(&engine, "docs", json!({"deletes": [id]})).await;
            changed.insert(id, None);
        } else {
            rows(&engine, "docs", vec![row(id, n)]).await;
            changed.insert(id, Some(n));
        }
        if n % (month.writes / month.flushes) == 0 {
            node.clock.advance(30 * DAY_MS / month.flushes);
            engine.checkpoint(&name("docs")).await.unwrap();
            engine.tend().await.unwrap();
            segments.extend(node.disk.list(&own).unwrap().into_iter().map(|entry| entry.name));
        }
        if month.branches > 0 && n % (month.writes / month.branches) == month.writes / month.branches / 2 {
            let to = format!("try{}", branched.len());
            branch(&engine, "docs", &to).await;
            let ids = (0..month.branch_writes).map(|at| row(5_000_000 + at, n)).collect();
            rows(&engine, &to, ids).await;
            branched.push(to);
        }
    }
    if month.elsewhere > 0 {
        rows(&there, "docs", (0..month.elsewhere).map(|id| row(2_000_000 + id, 1)).collect()).await;
        sync(&other, &there, &bucket).await.unwrap();
    }
    let before = keys(&bucket).await;
    sync(&node, &engine, &bucket).await.unwrap();
    let after = keys(&bucket).await;
    let new: BTreeMap<&String, u64> =
        after.iter().filter(|(key, _)| !before.contains_key(*key)).map(|(key, bytes)| (key, *bytes)).collect();
    let heads = heads(&bucket, &after).await;
    let named: BTreeSet<String> = heads.iter().flat_map(objects_of).map(|object| object.key).collect();
    // The same changes by themselves.
    let alone = Node::new(3);
    let plain = alone.open();
    load(&plain, "docs", changed.iter().filter_map(|(id, n)| n.map(|n| row(*id, n)))).await;
    for at in 0..month.branches {
        rows(&plain, &format!("try{at}"), (0..month.branch_writes).map(|id| row(5_000_000 + id, at)).collect()).await;
    }
    let apart = crate::fleet::bucket(2);
    sync(&alone, &plain, &apart).await.unwrap();
    let plain = keys(&apart).await;
    // Whoever comes new has all of it.
    assert_eq!(fresh(9, &bucket, "docs").await, all(&engine, "docs"));
    for to in &branched {
        assert_eq!(fresh(9, &bucket, to).await, all(&engine, to));
    }
    Sent {
        objects: new.keys().filter(|key| is_object(key)).count(),
        needed: named.iter().filter(|key| !before.contains_key(*key)).count(),
        bytes: new.iter().filter(|(key, _)| is_object(key)).map(|(_, bytes)| bytes).sum(),
        changed_bytes: plain.iter().filter(|(key, _)| is_object(key)).map(|(_, bytes)| bytes).sum(),
        manifests: new.keys().filter(|key| key.contains("/manifests/")).count(),
        merged: (segments.len() as u64).saturating_sub(month.flushes + had),
        segments: heads.iter().map(|head| head.segments.len()).max().unwrap_or_default(),
    }
}

/// `namespaces`: how many there are.
fn check(sent: &Sent, namespaces: usize) {
    println!("{:.2} times what changed: {sent:?}", sent.bytes as f64 / sent.changed_bytes as f64);
    assert_eq!(sent.manifests, namespaces, "one manifest of each namespace: {sent:?}");
    assert!(sent.merged > 0, "segments were merged: {sent:?}");
    assert!(sent.objects * 100 <= sent.needed * 105, "no objects but those that are needed: {sent:?}");
    assert!(sent.bytes <= 2 * sent.changed_bytes, "not much more than what changed: {sent:?}");
    assert!(sent.segments <= SEGMENTS_APART_MAX, "no more segments than queries may have to look into: {sent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_month_offline_comes_back_in_one_pass_that_sends_what_changed() {
    for (branches, elsewhere) in [(0, 0), (0, 50), (4, 0), (4, 50)] {
        let month = Month { before: 500, writes: 1_200, branches, branch_writes: 5, flushes: 40, elsewhere };
        check(&come_back(&month).await, 1 + branches as usize);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement of minutes; see the head of this file"]
async fn a_whole_month_offline_comes_back_in_one_pass_that_sends_what_changed() {
    for (branches, elsewhere) in [(10, 0), (10, 2_000), (0, 0), (0, 2_000)] {
        let month = Month { before: 50_000, writes: 100_000, branches, branch_writes: 100, flushes: 240, elsewhere };
        check(&come_back(&month).await, 1 + branches as usize);
    }
}
