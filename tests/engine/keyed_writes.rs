//! A write with an `Idempotency-Key` takes effect once in 24 hours, and its answer takes room for that long only.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value as Json, json};
use shoal::engine::check::{Remedy, RepairRequest, Scope};
use shoal::engine::{CreateRequest, Engine};
use shoal::error::{Kind, Result};
use shoal::format::manifest::{StoredAnswer, decode_manifest, encode_manifest};
use shoal::model::ids::{DocId, Hlc};
use shoal::model::write::{Idempotency, WriteOutcome, WriteRequest};
use shoal::platform::clock::{Clock as _, ManualClock};
use shoal::platform::disk::{Disk, create_dirs, publish};
use shoal::platform::memory_disk::{Fault, MemoryDisk};

use super::node::{DAY_MS, Node, all, branch, name};
use super::{files, request, write};

const HOUR_MS: u64 = DAY_MS / 24;

fn key(n: u64) -> Idempotency {
    let mut key_hash = [7; 16];
    // Spread as hashes are.
    key_hash[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    Idempotency { key_hash, body_hash: [1; 16] }
}

async fn keyed(engine: &Arc<Engine>, to: &str, n: u64, body: Json) -> Result<WriteOutcome> {
    engine.write(&name(to), WriteRequest { idempotency: Some(key(n)), ..request(body) }).await
}

/// Adds a document whose id is the key's number.
async fn add(engine: &Arc<Engine>, n: u64) -> Result<WriteOutcome> {
    keyed(engine, "docs", n, json!({"upsert_rows": [{"id": n, "n": n}]})).await
}

/// A write that changes nothing.
async fn nothing(engine: &Arc<Engine>, n: u64) -> Result<WriteOutcome> {
    keyed(engine, "docs", n, json!({"delete_by_filter": ["n", "Gte", 1_u64 << 40]})).await
}

fn is_repeated(outcome: Result<WriteOutcome>) -> bool {
    outcome.unwrap().replayed
}

/// A number that the namespace's status has there.
fn told(engine: &Engine, pointer: &str) -> u64 {
    engine.status(&name("docs")).unwrap().pointer(pointer).and_then(Json::as_u64).unwrap()
}

/// Files of this kind, wherever they are.
fn with_suffix(disk: &MemoryDisk, suffix: &str) -> Vec<PathBuf> {
    files(disk, Path::new("/data")).into_iter().filter(|file| file.ends_with(suffix)).map(PathBuf::from).collect()
}

fn replace(disk: &MemoryDisk, path: &Path, bytes: &[u8]) {
    disk.remove(path).unwrap();
    let mut file = disk.create(path).unwrap();
    file.write(bytes).unwrap();
    file.sync().unwrap();
    disk.sync_dir(path.parent().unwrap()).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_of_a_thousand_and_thirty_keys_is_known_after_flushes_and_restarts() {
    let node = Node::new(301);
    let mut engine = node.open();
    for n in 0..1_030 {
        assert!(!is_repeated(add(&engine, n).await));
    }
    for round in 0..3 {
        engine.checkpoint(&name("docs")).await.unwrap();
        write(&engine, "docs", json!({"deletes": [0]})).await.unwrap();
        for n in [0, 1, 515, 1_029] {
            let again = add(&engine, n).await.unwrap();
            assert_eq!((again.replayed, again.upserted), (true, 1), "key {n}, round {round}");
        }
        assert_eq!(all(&engine, "docs").len(), 1_029, "round {round}");
        add(&engine, 2_000 + round).await.unwrap();
        write(&engine, "docs", json!({"deletes": [2_000 + round]})).await.unwrap();
        engine = node.cut_power(engine);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_repeated_whatever_became_of_the_namespace_since() {
    let node = Node::new(317);
    let mut engine = node.open();
    let body = || json!({"upsert_rows": [{"id": 1, "n": 1, "word": "fish"}]});
    keyed(&engine, "docs", 1, body()).await.unwrap();
    engine.update_metadata(&name("docs"), Some(true), None).await.unwrap();
    for _ in 0..2 {
        assert!(is_repeated(keyed(&engine, "docs", 1, body()).await));
        assert!(add(&engine, 3).await.unwrap_err().message().contains("Writes not permitted"));
        engine = node.cut_power(engine);
    }
    engine.update_metadata(&name("docs"), Some(false), None).await.unwrap();
    assert!(!is_repeated(add(&engine, 3).await));
    // Another type: the first request would be refused by now.
    write(&engine, "docs", json!({"schema": {"word": {"drop": true}}, "upsert_rows": []})).await.unwrap();
    write(&engine, "docs", json!({"upsert_rows": [{"id": 2, "word": 7}]})).await.unwrap();
    assert!(is_repeated(keyed(&engine, "docs", 1, body()).await));
    assert!(keyed(&engine, "docs", 2, body()).await.unwrap_err().message().contains("word"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_known_while_the_index_is_not_rebuilt() {
    let node = Node::new(302);
    let engine = node.open();
    add(&engine, 1).await.unwrap();
    engine.checkpoint(&name("docs")).await.unwrap();
    write(&engine, "docs", json!({"deletes": [1]})).await.unwrap();
    drop(engine);
    node.disk.power_cut(&*node.random);
    let disk: Arc<dyn Disk> = Arc::new(node.disk.mounted());
    let engine = Engine::open(node.config.clone(), disk, node.clock.clone(), node.random.clone()).unwrap();
    assert!(!engine.is_index_trusted());
    assert!(is_repeated(add(&engine, 1).await));
    assert!(all(&engine, "docs").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_known_after_a_flush_on_a_full_disk_wherever_that_fails() {
    for at in 0..60 {
        let node = Node::new(303 + at);
        let engine = node.open();
        add(&engine, 1).await.unwrap();
        engine.checkpoint(&name("docs")).await.unwrap();
        add(&engine, 2).await.unwrap();
        nothing(&engine, 3).await.unwrap();
        let first = node.disk.operations();
        node.disk.set_fault(Some(Fault { at: first + at, forever: at % 2 == 1, kind: ErrorKind::StorageFull }));
        let _ = engine.checkpoint(&name("docs")).await;
        let _ = engine.set_labels(&name("docs"), [("a".to_owned(), "b".to_owned())].into()).await;
        node.disk.set_fault(None);
        write(&engine, "docs", json!({"deletes": [1, 2]})).await.unwrap();
        for round in ["running", "flushed"] {
            for n in [1, 2] {
                assert!(is_repeated(add(&engine, n).await), "operation {at}, {round}, key {n}");
            }
            assert!(is_repeated(nothing(&engine, 3).await), "operation {at}, {round}");
            assert!(all(&engine, "docs").is_empty(), "operation {at}, {round}");
            if round == "running" {
                engine.checkpoint(&name("docs")).await.unwrap();
            }
        }
        let engine = node.cut_power(engine);
        for n in [1, 2] {
            assert!(is_repeated(add(&engine, n).await), "operation {at}, after a power cut, key {n}");
        }
        assert!(is_repeated(nothing(&engine, 3).await), "operation {at}, after a power cut");
        assert!(all(&engine, "docs").is_empty(), "operation {at}, after a power cut");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keyed_writes_that_change_nothing_leave_no_log_behind() {
    let mut node = Node::new(304);
    node.config.flush_bytes = 64 << 10;
    let engine = node.open();
    add(&engine, 0).await.unwrap();
    for n in 1..4_000 {
        nothing(&engine, n).await.unwrap();
        // What is in no file yet is as much as a flush takes, and what came while one was under way.
        assert!(told(&engine, "/tail/bytes") < 4 * node.config.flush_bytes, "write {n}");
    }
    engine.checkpoint(&name("docs")).await.unwrap();
    assert_eq!(with_suffix(&node.disk, ".wal"), Vec::<PathBuf>::new());
    assert_eq!(told(&engine, "/tail/bytes"), 0);
    let generation = told(&engine, "/generation");
    engine.checkpoint(&name("docs")).await.unwrap();
    assert_eq!(told(&engine, "/generation"), generation, "there was nothing to flush");
    let engine = node.cut_power(engine);
    for n in [1, 2_000, 3_999] {
        assert!(is_repeated(nothing(&engine, n).await), "key {n}");
    }
    // A few of them are flushed when their time has come.
    nothing(&engine, 5_000).await.unwrap();
    assert_ne!(with_suffix(&node.disk, ".wal"), Vec::<PathBuf>::new());
    node.clock.advance(2 * HOUR_MS);
    engine.tend().await.unwrap();
    assert_eq!(with_suffix(&node.disk, ".wal"), Vec::<PathBuf>::new());
    assert!(is_repeated(nothing(&engine, 5_000).await));
    assert!(is_repeated(nothing(&node.cut_power(engine), 5_000).await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_without_documents_go_with_a_flush() {
    let node = Node::new(305);
    let engine = node.open();
    add(&engine, 0).await.unwrap();
    engine.checkpoint(&name("docs")).await.unwrap();
    for round in 0..3_u64 {
        engine.allocate_ids(&name("docs"), 5).await.unwrap();
        write(&engine, "docs", json!({"schema": {format!("a{round}"): "string"}})).await.unwrap();
        nothing(&engine, 10 + round).await.unwrap();
        engine.checkpoint(&name("docs")).await.unwrap();
        assert_eq!(with_suffix(&node.disk, ".wal"), Vec::<PathBuf>::new(), "round {round}");
    }
    let engine = node.cut_power(engine);
    assert!(is_repeated(nothing(&engine, 10).await));
    assert_eq!(engine.view(&name("docs")).unwrap().schema.columns.len(), 4);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_keys_are_kept_as_were_promised_and_a_further_one_is_refused() {
    let mut node = Node::new(306);
    node.config.idempotency_keys_max = 20;
    let mut engine = node.open();
    for n in 0..20 {
        add(&engine, n).await.unwrap();
        if n == 9 {
            engine.checkpoint(&name("docs")).await.unwrap();
        }
    }
    for round in 0..3 {
        let refused = add(&engine, 100).await.unwrap_err();
        assert_eq!((refused.kind(), refused.code()), (Kind::Busy, "idempotency_keys_full"), "round {round}");
        assert!(refused.message().contains("20 writes") && refused.message().contains("24 hours"), "{refused}");
        assert!(is_repeated(add(&engine, 3).await) && is_repeated(add(&engine, 19).await), "round {round}");
        write(&engine, "docs", json!({"upsert_rows": [{"id": 1_000 + round}]})).await.unwrap();
        if round == 0 {
            engine.checkpoint(&name("docs")).await.unwrap();
        } else {
            engine = node.cut_power(engine);
        }
    }
    node.clock.advance(DAY_MS + 1);
    assert!(!is_repeated(add(&engine, 100).await));
    assert!(!is_repeated(add(&engine, 3).await), "it is a day old");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_answers_are_few_and_go_after_a_day() {
    let node = Node::new(307);
    let engine = node.open();
    for n in 0..300 {
        add(&engine, n).await.unwrap();
        engine.checkpoint(&name("docs")).await.unwrap();
        node.clock.advance(10 * 60_000);
        let found = with_suffix(&node.disk, ".ans").len();
        assert!(found <= 80, "{found} files after {n} flushes");
    }
    let engine = node.cut_power(engine);
    for n in [0, 100, 155, 156, 157, 200, 299] {
        // Two days and two hours have passed since the first.
        assert_eq!(is_repeated(add(&engine, n).await), n >= 156, "key {n}");
    }
    node.clock.advance(DAY_MS + 1);
    engine.tend().await.unwrap();
    engine.tend().await.unwrap();
    node.clock.advance(DAY_MS + 1);
    engine.tend().await.unwrap();
    assert_eq!(with_suffix(&node.disk, ".ans"), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn labels_are_edited_without_writing_answers_anew() {
    let node = Node::new(308);
    let engine = node.open();
    for n in 0..200 {
        add(&engine, n).await.unwrap();
    }
    engine.checkpoint(&name("docs")).await.unwrap();
    engine.set_labels(&name("docs"), [("a".to_owned(), "b".to_owned())].into()).await.unwrap();
    for file in with_suffix(&node.disk, ".json").iter().filter(|file| file.to_string_lossy().contains("/local/")) {
        assert!(node.disk.size(file).unwrap() < 4_096, "{}", file.display());
    }
    assert!(is_repeated(add(&engine, 0).await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_belong_to_one_incarnation() {
    let mut node = Node::new(309);
    let engine = node.open();
    add(&engine, 1).await.unwrap();
    engine.checkpoint(&name("docs")).await.unwrap();
    add(&engine, 2).await.unwrap();
    // A branch has none of its parent's, a restored past none either.
    branch(&engine, "docs", "branch").await;
    for n in [1, 2] {
        let body = json!({"upsert_rows": [{"id": n, "n": n}]});
        assert!(!is_repeated(keyed(&engine, "branch", n, body).await), "key {n}");
    }
    engine.delete(&name("docs")).await.unwrap();
    // Nor has another namespace of the same name.
    engine.create(&name("docs"), CreateRequest::default()).await.unwrap();
    assert!(!is_repeated(add(&engine, 1).await));
    engine.delete(&name("docs")).await.unwrap();
    let deleted = engine.deleted(&name("docs").project);
    engine.undelete(&name("docs"), Some(deleted.iter().map(|found| found.nsid).min().unwrap())).await.unwrap();
    for n in [1, 2] {
        assert!(is_repeated(add(&engine, n).await), "key {n}");
    }
    drop(engine);
    node.config.retention_ms = 0;
    let engine = node.open();
    for namespace in ["docs", "branch"] {
        engine.delete(&name(namespace)).await.unwrap();
    }
    engine.tend().await.unwrap();
    assert_eq!(with_suffix(&node.disk, ".ans"), Vec::<PathBuf>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_an_earlier_release_put_into_a_manifest_are_repeated_and_move_to_a_file() {
    let node = Node::new(310);
    let engine = node.open();
    write(&engine, "docs", json!({"upsert_rows": [{"id": 1}]})).await.unwrap();
    engine.checkpoint(&name("docs")).await.unwrap();
    drop(engine);
    let hex = |bytes: [u8; 16]| bytes.map(|byte| format!("{byte:02x}")).concat();
    let path = with_suffix(&node.disk, "00000000000000000001.json").remove(0);
    let (mut manifest, _) = decode_manifest(&node.disk.read(&path).unwrap(), "manifest").unwrap();
    manifest.idempotency = vec![StoredAnswer {
        key_hash: hex(key(1).key_hash),
        body_hash: hex(key(1).body_hash),
        at: Hlc::from_millis(1_700_000_000_000),
        upserted: 17,
        patched: 0,
        deleted: 0,
        rows_remaining: false,
        filter_matched: None,
        bytes_written: 3,
    }];
    replace(&node.disk, &path, &encode_manifest(&manifest).unwrap().0);
    node.disk.power_cut(&*node.random);
    let mut engine = node.open();
    for round in 0..3 {
        let again = add(&engine, 1).await.unwrap();
        assert_eq!((again.replayed, again.upserted), (true, 17), "round {round}");
        if round == 0 {
            engine.checkpoint(&name("docs")).await.unwrap();
        } else {
            engine = node.cut_power(engine);
        }
    }
    let path = with_suffix(&node.disk, "00000000000000000002.json").remove(0);
    let (manifest, _) = decode_manifest(&node.disk.read(&path).unwrap(), "manifest").unwrap();
    assert!(manifest.idempotency.is_empty());
    assert_eq!(with_suffix(&node.disk, ".ans").len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_a_file_of_answers_is_damaged_writes_with_a_key_are_refused_and_others_go_on() {
    let node = Node::new(311);
    let engine = node.open();
    add(&engine, 1).await.unwrap();
    engine.checkpoint(&name("docs")).await.unwrap();
    drop(engine);
    let file = with_suffix(&node.disk, ".ans").remove(0);
    let whole = node.disk.read(&file).unwrap();
    let mut bytes = whole.clone();
    bytes[40] ^= 1;
    replace(&node.disk, &file, &bytes);
    let engine = node.cut_power(node.open());
    for n in [1, 2] {
        let refused = add(&engine, n).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Corrupt, "key {n}");
        assert!(refused.message().contains(&*file.to_string_lossy()), "{refused}");
    }
    write(&engine, "docs", json!({"upsert_rows": [{"id": 2}]})).await.unwrap();
    engine.checkpoint(&name("docs")).await.unwrap();
    let listed = engine.status(&name("docs")).unwrap()["damaged"].to_string();
    assert!(listed.contains(".ans"), "{listed}");
    let found = engine.check(3).unwrap().problems;
    assert_eq!(found.iter().map(|problem| problem.remedy).collect::<Vec<_>>(), [Remedy::DropDamaged]);
    assert!(found[0].file.ends_with(".ans") && found[0].what.contains("checksum"), "{found:?}");
    // It heals when the file is back, without a restart.
    replace(&node.disk, &file, &whole);
    assert!(is_repeated(add(&engine, 1).await));
    assert!(engine.check(4).unwrap().is_whole());
    assert!(!engine.status(&name("docs")).unwrap()["damaged"].to_string().contains(".ans"));
    replace(&node.disk, &file, &bytes);
    let engine = node.cut_power(engine);
    let drop_damaged = Some(name("docs"));
    let request = RepairRequest { scope: Scope::Store, dry_run: false, drop_damaged, force: false };
    let done = engine.repair_in(&request).unwrap();
    assert!(done.actions.iter().any(|action| action.what.contains("may take effect a second time")), "{done:?}");
    assert!(engine.check(4).unwrap().is_whole());
    assert!(!is_repeated(add(&engine, 1).await));
    assert_eq!(all(&engine, "docs").keys().cloned().collect::<Vec<_>>(), [DocId::Uint(1), DocId::Uint(2)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_answers_whose_removal_failed_keeps_nothing_from_being_read() {
    let node = Node::new(314);
    let mut engine = node.open();
    add(&engine, 1).await.unwrap();
    engine.checkpoint(&name("docs")).await.unwrap();
    nothing(&engine, 2).await.unwrap();
    branch(&engine, "docs", "sealed").await;
    let [log] = &with_suffix(&node.disk, ".wal")[..] else { panic!("expected one log") };
    let bytes = node.disk.read(log).unwrap();
    engine.checkpoint(&name("docs")).await.unwrap();
    // As a removal leaves it that failed: the logs after it do not name it.
    create_dirs(&node.disk, log.parent().unwrap()).unwrap();
    publish(&node.disk, log, &bytes).unwrap();
    for n in 3..6 {
        add(&engine, n).await.unwrap();
        branch(&engine, "docs", &format!("sealed-{n}")).await;
    }
    for _ in 0..2 {
        drop(engine);
        node.disk.power_cut(&*node.random);
        let disk: Arc<dyn Disk> = Arc::new(node.disk.mounted());
        // No sweep has removed it yet.
        engine = Engine::open(node.config.clone(), disk, node.clock.clone(), node.random.clone()).unwrap();
        assert_eq!(all(&engine, "docs").len(), 4);
        assert!(is_repeated(nothing(&engine, 2).await) && is_repeated(add(&engine, 4).await));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn setting_the_clock_makes_no_key_older_or_younger() {
    const AT: u64 = 1_700_000_000_000;
    // A box that starts in 1970, one that was two days behind or ahead, and one whose clock was twenty years ahead.
    for (first, later) in [(60_000, AT), (AT, AT + 2 * DAY_MS), (AT, AT - 2 * DAY_MS), (AT + 7_300 * DAY_MS, AT)] {
        for flushed in [false, true] {
            let what = format!("from {first} to {later}, flushed: {flushed}");
            let mut node = Node::new(313);
            node.config.idempotency_keys_max = 4;
            node.clock = Arc::new(ManualClock::at(first));
            let mut engine = node.open();
            add(&engine, 1).await.unwrap();
            if flushed {
                engine.checkpoint(&name("docs")).await.unwrap();
            }
            node.clock.set(later);
            engine.tend().await.unwrap();
            add(&engine, 2).await.unwrap();
            engine.checkpoint(&name("docs")).await.unwrap();
            assert!(is_repeated(add(&engine, 1).await), "{what}");
            engine = node.cut_power(engine);
            assert!(is_repeated(add(&engine, 1).await) && is_repeated(add(&engine, 2).await), "{what}");
            node.clock.advance(DAY_MS + HOUR_MS);
            for n in 10..14 {
                assert!(!is_repeated(add(&engine, n).await), "{what}: key {n}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_set_shortly_before_a_clean_stop_makes_no_key_older() {
    for by in [25 * HOUR_MS, 20 * DAY_MS] {
        let node = Node::new(1);
        let engine = node.open();
        add(&engine, 1).await.unwrap();
        engine.checkpoint(&name("docs")).await.unwrap();
        node.clock.advance(3_000);
        node.clock.set(node.clock.now_millis() + by);
        engine.shutdown().await.unwrap();
        let engine = node.cut_power(engine);
        assert!(is_repeated(add(&engine, 1).await), "set on by {by} ms");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_was_ahead_keeps_answers_for_a_day_only() {
    let mut node = Node::new(312);
    node.config.idempotency_keys_max = 5;
    let at = 1_700_000_000_000;
    node.clock = Arc::new(ManualClock::at(at + 9_000 * DAY_MS));
    let engine = node.open();
    add(&engine, 1).await.unwrap();
    node.clock = Arc::new(ManualClock::at(at));
    let engine = node.cut_power(engine);
    for day in 1..4 {
        for n in 0..4 {
            assert!(!is_repeated(add(&engine, 10 * day + n).await), "day {day}, key {n}");
        }
        engine.checkpoint(&name("docs")).await.unwrap();
        assert!(is_repeated(add(&engine, 10 * day).await), "day {day}");
        node.clock.advance(DAY_MS + HOUR_MS);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_answers_alone_goes_though_nothing_could_be_removed_when_it_was_flushed() {
    let node = Node::new(41);
    let engine = node.open();
    write(&engine, "docs", json!({"upsert_rows": [{"id": 1, "n": 1}]})).await.unwrap();
    engine.checkpoint(&name("docs")).await.unwrap();
    nothing(&engine, 1).await.unwrap();
    drop(engine);
    node.disk.power_cut(&*node.random);
    // Counts are not trusted after that, until they are made anew.
    let disk: Arc<dyn Disk> = Arc::new(node.disk.mounted());
    let engine = Engine::open(node.config.clone(), disk, node.clock.clone(), node.random.clone()).unwrap();
    engine.checkpoint(&name("docs")).await.unwrap();
    assert_eq!(with_suffix(&node.disk, ".wal").len(), 1, "nothing is removed meanwhile");
    engine.rebuild_index().unwrap();
    engine.sweep().unwrap();
    for _ in 0..10_000 {
        // A look for what to merge, after the flush, keeps a sweep from it while it lasts.
        if with_suffix(&node.disk, ".wal").is_empty() {
            break;
        }
        tokio::task::yield_now().await;
        engine.sweep().unwrap();
    }
    assert!(with_suffix(&node.disk, ".wal").is_empty(), "{:?}", with_suffix(&node.disk, ".wal"));
    assert!(is_repeated(nothing(&engine, 1).await));
    write(&engine, "docs", json!({"upsert_rows": [{"id": 2, "n": 1}]})).await.unwrap();
    engine.checkpoint(&name("docs")).await.unwrap();
    assert_eq!(engine.repair().unwrap(), (0, 0));
}
