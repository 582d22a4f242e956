//! What nodes are promised over links that are slow or break off, and on disks that have little room.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use object_store::ObjectStore;
use object_store::memory::InMemory;
use object_store::multipart::MultipartStore;
use serde_json::json;
use shoal::engine::Engine;
use shoal::engine::merge::decide::Policy;
use shoal::platform::random::{Random, SeededRandom};
use shoal::store::{Backend, Bucket, Ledger, PART_BYTES, Patience, UNREACHABLE};
use shoal::sync::{MISSED_MAX, Status, Sync, SyncOptions};
use tokio::sync::Notify;

use crate::faulty_store::{Fault, FaultyStore, Lie};
use crate::fleet::{lost, meet, sync};
use crate::node::{Node, all, name, put, write};

/// Short, since these tests run on the real clock.
const PATIENCE: Patience = Patience {
    whole: Duration::from_secs(1),
    attempt: Duration::from_secs(1),
    wait_first: Duration::from_millis(5),
    wait_max: Duration::from_millis(20),
};
const MIB: u64 = 1 << 20;
/// What is left free of a disk.
const RESERVE: u64 = 64 * MIB;

/// Text that no compression makes small.
fn text(bytes: u64, seed: u64) -> String {
    let random = SeededRandom::new(seed);
    let letter = |bits: u64| char::from(b'0' + (bits & 63) as u8);
    (0..bytes / 8).flat_map(|_| random.next_u64().to_le_bytes()).map(|byte| letter(byte.into())).collect()
}

/// A store, and a bucket over it by way of a link with faults.
#[derive(Default)]
struct Place(Arc<InMemory>);

impl Place {
    fn bucket(&self, plan: impl Fn(u64) -> Option<Fault> + Send + std::marker::Sync + 'static) -> Bucket {
        let node = Node::new(5);
        let store: Arc<dyn ObjectStore> = Arc::new(FaultyStore::new(self.0.clone(), plan));
        Bucket::over(Backend::direct(store, None, "faulty"), node.clock, node.random)
    }

    /// Whose uploads in parts have faults.
    fn with_parts(&self, plan: impl Fn(u64) -> Option<Fault> + Send + std::marker::Sync + 'static) -> Bucket {
        let node = Node::new(5);
        let parts = Arc::new(FaultyStore::new(self.0.clone(), plan));
        Bucket::over(Backend::direct(self.0.clone(), Some(parts), "faulty"), node.clock, node.random)
    }

    fn clear(&self) -> Bucket {
        self.bucket(|_| None)
    }

    /// With a namespace of so many bytes, in one object.
    async fn with(mebibytes: u64) -> (Place, Arc<Engine>) {
        let (place, node) = (Place::default(), Node::new(1));
        let engine = node.open();
        fill(&engine, mebibytes).await;
        sync(&node, &engine, &place.clear()).await.unwrap();
        (place, engine)
    }
}

/// Writes so many bytes, in one object.
async fn fill(engine: &Arc<Engine>, mebibytes: u64) {
    for id in 0..mebibytes {
        let schema = json!({"text": {"type": "string", "filterable": false}});
        let rows = json!([{"id": id, "text": text(MIB * 4 / 3, id)}]);
        write(engine, "docs", json!({"upsert_rows": rows, "schema": schema})).await;
    }
    engine.compact(&name("docs")).await.unwrap();
}

async fn asked(node: &Node, engine: &Arc<Engine>, bucket: &Bucket) -> shoal::error::Result<Status> {
    let options = SyncOptions { policy: Policy::Lww, patience: PATIENCE };
    Sync::new(engine.clone(), bucket.clone(), options, node.clock.clone()).run().await
}

fn bytes_down(bucket: &Bucket) -> u64 {
    bucket.traffic().snapshot().bytes_down
}

#[tokio::test(flavor = "multi_thread")]
async fn an_asked_pass_over_a_slow_link_ends_well_however_long_an_object_takes() {
    let (place, writer) = Place::with(3).await;
    let (node, bucket) = (Node::new(2), place.bucket(|_| Some(Fault::Slowly(MIB))));
    let engine = node.open();
    let began = std::time::Instant::now();
    asked(&node, &engine, &bucket).await.unwrap();
    assert!(began.elapsed() > 2 * PATIENCE.whole, "{:?}", began.elapsed());
    assert_eq!(all(&engine, "docs"), all(&writer, "docs"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_before_a_link_fell_silent_is_not_fetched_again_not_even_after_a_power_cut() {
    let (place, writer) = Place::with(3).await;
    let whole = place.clear();
    let fresh = Node::new(3);
    asked(&fresh, &fresh.open(), &whole).await.unwrap();
    for is_cut in [false, true] {
        let (node, bucket) = (Node::new(2), place.bucket(|_| Some(Fault::Stops(2 * MIB))));
        let engine = node.open();
        assert_eq!(asked(&node, &engine, &bucket).await.unwrap_err().code(), UNREACHABLE);
        assert!(bytes_down(&bucket) >= 2 * MIB);
        let engine = match is_cut {
            true => node.cut_power(engine),
            false => {
                drop(engine);
                node.open()
            }
        };
        let bucket = place.clear();
        asked(&node, &engine, &bucket).await.unwrap();
        assert_eq!(all(&engine, "docs"), all(&writer, "docs"));
        if !is_cut {
            // The small objects are asked for again.
            let down = bytes_down(&bucket);
            assert!(down < bytes_down(&whole) - 2 * MIB + 20_000, "{down} bytes, of {}", bytes_down(&whole));
        }
    }
}

fn bytes_up(bucket: &Bucket) -> u64 {
    bucket.traffic().snapshot().bytes_up
}

/// A node of which the bucket has parts of a large object, whose upload broke off, and the object's key.
async fn broken_off(place: &Place) -> (Node, Arc<Engine>, String) {
    let node = Node::new(1);
    let engine = node.open();
    fill(&engine, 20).await;
    let is_cut = Arc::new(Notify::new());
    let (cut, notify) = (is_cut.notified(), is_cut.clone());
    // The upload begins, and two parts arrive.
    let bucket = place.with_parts(move |at| {
        (at > 2).then(|| {
            notify.notify_waiters();
            Fault::Silence
        })
    });
    tokio::select! {
        done = asked(&node, &engine, &bucket) => panic!("{done:?}"),
        () = cut => {}
    }
    let mut going = engine.all_going().unwrap();
    assert_eq!(going.len(), 1);
    (node, engine, going.remove(0))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_went_before_a_link_broke_off_is_not_sent_again_not_even_after_a_power_cut() {
    for is_cut in [false, true] {
        let place = Place::default();
        let (node, engine, key) = broken_off(&place).await;
        let engine = if is_cut { node.cut_power(engine) } else { engine };
        let begun = engine.going(&key).read().unwrap();
        let there = begun.parts.len() as u64 * PART_BYTES;
        assert!(there > 0);
        let bucket = place.with_parts(|_| None);
        asked(&node, &engine, &bucket).await.unwrap();
        let up = bytes_up(&bucket);
        assert!((begun.bytes..begun.bytes + MIB).contains(&(up + there)), "{up} bytes, and {there} before");
        assert_eq!(engine.all_going().unwrap(), Vec::<String>::new());
        let other = Node::new(2);
        let elsewhere = other.open();
        asked(&other, &elsewhere, &place.clear()).await.unwrap();
        assert_eq!(all(&elsewhere, "docs"), all(&engine, "docs"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_nobody_wants_any_more_is_given_up() {
    let place = Place::default();
    let (node, engine, key) = broken_off(&place).await;
    let upload = engine.going(&key).read().unwrap().upload;
    engine.delete(&name("docs")).await.unwrap();
    // A bucket that cannot be asked just then is asked by the next pass.
    asked(&node, &engine, &place.with_parts(|_| Some(Fault::Before(Lie::Failed)))).await.unwrap();
    assert_eq!(engine.all_going().unwrap(), std::slice::from_ref(&key));
    asked(&node, &engine, &place.with_parts(|_| None)).await.unwrap();
    assert_eq!(engine.all_going().unwrap(), Vec::<String>::new());
    let part = place.0.put_part(&key.as_str().into(), &upload, 2, "x".into()).await;
    assert!(part.is_err(), "the bucket still has its parts");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_may_leave_anything_of_what_came() {
    let (place, writer) = Place::with(1).await;
    for seed in 0..10 {
        let (node, bucket) = (Node::new(seed + 10), place.bucket(|_| Some(Fault::Stops(MIB / 2))));
        let engine = node.open();
        let patience = Patience { whole: Duration::from_millis(100), ..PATIENCE };
        let options = SyncOptions { policy: Policy::Lww, patience };
        let link = Sync::new(engine.clone(), bucket, options, node.clock.clone());
        assert_eq!(link.run().await.unwrap_err().code(), UNREACHABLE);
        drop(link);
        let engine = node.cut_power(engine);
        asked(&node, &engine, &place.clear()).await.unwrap();
        assert_eq!(all(&engine, "docs"), all(&writer, "docs"), "seed {seed}");
        assert!(engine.check(3).unwrap().is_whole());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_breaks_all_the_time_carries_everything_once() {
    let (place, writer) = Place::with(3).await;
    let broken = Arc::new(AtomicU64::new(0));
    let count = broken.clone();
    let bucket = place.bucket(move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        Some(Fault::Breaks(MIB / 2))
    });
    let (node, fresh, clear) = (Node::new(2), Node::new(3), place.clear());
    let engine = node.open();
    asked(&node, &engine, &bucket).await.unwrap();
    asked(&fresh, &fresh.open(), &clear).await.unwrap();
    assert_eq!(all(&engine, "docs"), all(&writer, "docs"));
    let (down, whole) = (bytes_down(&bucket), bytes_down(&clear));
    assert!(down < whole + 20_000, "{down} bytes, of {whole}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_does_not_answer_any_more_is_told_while_a_pass_still_waits_for_it() {
    let (place, _) = Place::with(1).await;
    let node = Node::new(2);
    let patience = Patience { whole: Duration::from_secs(600), attempt: Duration::from_millis(50), ..PATIENCE };
    let options = SyncOptions { policy: Policy::Lww, patience };
    // After the small objects.
    let bucket = place.bucket(|at| (at > 15).then_some(Fault::Silence));
    let link = Arc::new(Sync::new(node.open(), bucket, options, node.clock.clone()));
    let pass = tokio::spawn({
        let link = link.clone();
        async move { link.run().await.map(|_| ()) }
    });
    while link.status().error.is_none() {
        assert!(!pass.is_finished(), "{:?}", pass.await);
        tokio::task::yield_now().await;
    }
    assert!(!pass.is_finished());
    let status = link.status();
    assert!(status.finished_ms.is_none() && status.error.unwrap().code == UNREACHABLE);
    pass.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_are_told_of_a_bucket_that_does_not_answer_pass_after_pass_until_it_does() {
    let (place, _) = Place::with(1).await;
    let is_away = Arc::new(AtomicBool::new(true));
    let away = is_away.clone();
    let bucket = place.bucket(move |_| away.load(Ordering::SeqCst).then_some(Fault::Before(Lie::Failed)));
    let node = Node::new(2);
    let patience = Patience { whole: Duration::from_millis(50), ..PATIENCE };
    let link = Sync::new(node.open(), bucket, SyncOptions { policy: Policy::Lww, patience }, node.clock.clone());
    for pass in 1..=MISSED_MAX + 1 {
        assert_eq!(link.run().await.unwrap_err().code(), UNREACHABLE);
        let warnings = link.status().warnings();
        assert_eq!(warnings.len(), usize::from(pass >= MISSED_MAX), "pass {pass}");
        assert!(warnings.iter().all(|warning| warning["code"] == UNREACHABLE));
    }
    is_away.store(false, Ordering::SeqCst);
    link.run().await.unwrap();
    assert!(link.status().warnings().is_empty() && link.status().missed == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicts_of_any_size_reach_every_node() {
    let place = Place::default();
    let nodes = [Node::new(1), Node::new(2)];
    let engines = [nodes[0].open(), nodes[1].open()];
    let both = [(&nodes[0], &engines[0]), (&nodes[1], &engines[1])];
    put(&engines[0], "docs", [9], 1).await;
    meet(&both, &place.clear()).await;
    for (at, engine) in engines.iter().enumerate() {
        // Base64 of it is more than is fetched at once.
        let value = text(7 * MIB, at as u64);
        let fields: Vec<String> = (0..7).map(|n| format!("t{n}")).collect();
        let mut row = json!({"id": 1, "n": at});
        fields.iter().for_each(|field| row[field] = json!(value));
        let schema: serde_json::Map<String, serde_json::Value> =
            fields.iter().map(|field| (field.clone(), json!({"type": "string", "filterable": false}))).collect();
        write(engine, "docs", json!({"upsert_rows": [row], "schema": schema})).await;
    }
    meet(&both, &place.clear()).await;
    let listed = place.clear().list_all("", None, 1_000, &PATIENCE).await.unwrap();
    let largest = listed.iter().filter(|listed| listed.key.contains("/conflicts/")).map(|listed| listed.bytes).max();
    assert!(largest.unwrap() > shoal::store::GET_BYTES_MAX, "{largest:?}");
    let third = Node::new(3);
    let fresh = third.open();
    sync(&third, &fresh, &place.clear()).await.unwrap();
    for engine in [&engines[0], &engines[1], &fresh] {
        assert_eq!(lost(engine, "docs").len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_on_the_disk_is_not_begun_and_writes_go_on() {
    let (place, writer) = Place::with(3).await;
    let node = Node::new(2);
    let engine = node.open();
    node.disk.leave_free(Some(RESERVE + 2 * MIB));
    let bucket = place.clear();
    let options = SyncOptions { policy: Policy::Lww, patience: PATIENCE };
    let link = Sync::new(engine.clone(), bucket.clone(), options, node.clock.clone());
    let error = link.run().await.unwrap_err();
    assert_eq!(error.code(), "disk_full", "{error}");
    assert!(error.hint().unwrap().contains("storage.tier_bytes_max"));
    assert!(bytes_down(&bucket) < MIB && free(&node) > RESERVE, "nothing of it was fetched");
    let warnings = link.status().warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert_eq!((&warnings[0]["code"], &warnings[0]["namespaces_total"]), (&"disk_full".into(), &1.into()));
    put(&engine, "own", 0..10, 1).await;
    assert_eq!(all(&engine, "own").len(), 10);
    node.disk.leave_free(Some(RESERVE + 5 * MIB));
    link.run().await.unwrap();
    assert!(link.status().warnings().is_empty());
    assert_eq!(all(&engine, "docs"), all(&writer, "docs"));
    assert!(free(&node) >= RESERVE - MIB, "{} bytes free", free(&node));
}

fn free(node: &Node) -> u64 {
    use shoal::platform::disk::Disk;
    node.disk.free_bytes(&node.config.data_dir).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_in_parts_leaves_the_disks_reserve_free() {
    let (place, writer) = Place::with(3).await;
    let mut node = Node::new(2);
    node.config.tier_bytes_max = 100 * MIB;
    let engine = node.open();
    asked(&node, &engine, &place.clear()).await.unwrap();
    node.disk.leave_free(Some(RESERVE));
    assert_eq!(read_all(&engine).unwrap(), all(&writer, "docs").len(), "it is read past the disk");
    assert!(free(&node) > RESERVE - MIB, "{} bytes free", free(&node));
}

/// How many documents there are, all of them read.
fn read_all(engine: &Engine) -> shoal::error::Result<usize> {
    use shoal::api::wire::query::parse_query;
    use shoal::model::query::Answer;
    use shoal::platform::allowance::Allowance;
    let query = json!({"rank_by": ["id", "asc"], "limit": 100, "include_attributes": true});
    let request = parse_query(query).unwrap().request;
    let run = |view: &_| shoal::engine::query::run(view, &request, &Allowance::unlimited());
    match engine.on_view(&name("docs"), None, run)?.answers.remove(0) {
        Answer::Rows(rows) => Ok(rows.len()),
        _ => panic!("expected rows"),
    }
}
