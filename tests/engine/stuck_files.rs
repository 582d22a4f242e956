//! Files that cannot be removed, synced or written for good: what is known of them is enough, and nobody else waits for them.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use serde_json::json;
use shoal::engine::layout::Layout;
use shoal::engine::lineage::BranchRequest;
use shoal::engine::setbacks::WAIT_MAX_MS;
use shoal::engine::{CreateRequest, Engine};
use shoal::error::Kind;
use shoal::model::ids::Project;
use shoal::platform::disk::Disk as _;
use shoal::platform::memory_disk::Fault;

use crate::after_faults::hooked;
use crate::node::{Node, all, documents, name, put};

const HOUR_MS: u64 = 3_600_000;
/// What takes longer than this does not come to an end.
const PATIENCE: Duration = Duration::from_secs(20);

fn manifest(engine: &Engine, namespace: &str, generation: u64) -> String {
    let nsid = engine.status(&name(namespace)).unwrap()["nsid"].as_str().unwrap().to_owned();
    format!("/local/{nsid}/{generation:020}.json")
}

fn directory(engine: &Engine, namespace: &str) -> String {
    format!("/local/{}", engine.status(&name(namespace)).unwrap()["nsid"].as_str().unwrap())
}

fn deleted(engine: &Engine) -> Vec<String> {
    engine.deleted(&Project::default_project()).into_iter().map(|deleted| deleted.name).collect()
}

fn generations(engine: &Engine) -> Vec<u64> {
    engine.history(&name("docs")).unwrap().iter().map(|state| state.generation).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_past_state_that_cannot_be_removed_stays_with_what_it_holds_and_the_others_go() {
    for retention_ms in [0, HOUR_MS] {
        for stuck in [0, 2, 3] {
            let what = format!("retention {retention_ms}, generation {stuck}");
            let mut node = Node::new(5);
            node.config.retention_ms = retention_ms;
            (node.config.compaction_fan_in, node.config.compaction_dead_percent) = (1_000, 1_000);
            let (disk, engine) = hooked(&node);
            put(&engine, "docs", 0..20, 0).await;
            disk.let_stick(Some(manifest(&engine, "docs", stuck)));
            for n in 1..7 {
                put(&engine, "docs", n..n + 9, n).await;
                engine.checkpoint(&name("docs")).await.unwrap();
                node.clock.advance(1_000);
                assert!(engine.is_index_trusted(), "{what}");
            }
            node.clock.advance(2 * HOUR_MS);
            for _ in 0..3 {
                let error = engine.tend().await.unwrap_err();
                assert!(error.message().contains(&format!("{stuck:020}.json")), "{what}: {error}");
                engine.note_upkeep(&Err(error));
                assert!(engine.is_index_trusted(), "{what}");
                assert_eq!(generations(&engine)[1..], [stuck], "{what}");
                assert_eq!(engine.warning_codes(), ["index_failed"], "{what}");
            }
            // What it holds is counted, no more and no less.
            let expected = all(&engine, "docs");
            assert!(engine.check(4).unwrap().is_whole(), "{what}");
            assert_eq!(engine.sweep().unwrap().0, 0, "{what}");
            let held = node.disk.duplicate();
            disk.let_stick(None);
            engine.tend().await.unwrap();
            // Only the newest one, whichever that is by now.
            assert_eq!(generations(&engine).len(), 1, "{what}");
            assert_eq!(engine.sweep().unwrap().0, 0, "{what}: what it held went with it");
            assert_eq!((engine.check(4).unwrap().is_whole(), all(&engine, "docs")), (true, expected), "{what}");
            // The next process finds the same in what was left while it was stuck.
            drop(engine);
            let again = Node { disk: held, ..node };
            let engine = again.open();
            engine.tend().await.unwrap();
            assert_eq!(generations(&engine).len(), 1, "{what}");
            assert_eq!(engine.node_status()["damaged"], json!([]), "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_does_not_mind_that_a_file_which_is_not_there_cannot_be_removed() {
    let node = Node::new(6);
    let (disk, engine) = hooked(&node);
    put(&engine, "docs", 0..20, 0).await;
    disk.let_stick(Some(manifest(&engine, "docs", 1)));
    for n in 1..4 {
        put(&engine, "docs", 0..9, n).await;
        engine.checkpoint(&name("docs")).await.unwrap();
        assert!(engine.is_index_trusted());
    }
    assert!(generations(&engine).contains(&1));
    assert!(engine.check(4).unwrap().is_whole());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_namespace_that_cannot_be_removed_stays_what_it_is_and_the_others_go_on() {
    for stuck in ["/deleted.json", "/0", "/"] {
        let mut node = Node::new(7);
        node.config.retention_ms = HOUR_MS;
        (node.config.compaction_fan_in, node.config.compaction_dead_percent) = (1_000, 1_000);
        let (disk, engine) = hooked(&node);
        for namespace in ["gone", "small", "docs", "short"] {
            put(&engine, namespace, 0..20, 0).await;
            engine.checkpoint(&name(namespace)).await.unwrap();
        }
        engine.set_ttl(&name("short"), Some(HOUR_MS)).await.unwrap();
        let (expected, dir) = (all(&engine, "gone"), directory(&engine, "gone"));
        disk.let_stick(Some(format!("{dir}{stuck}")));
        for namespace in ["gone", "small"] {
            engine.delete(&name(namespace)).await.unwrap();
        }
        for n in 1..4 {
            put(&engine, "docs", 0..9, n).await;
            engine.checkpoint(&name("docs")).await.unwrap();
            node.clock.advance(2 * HOUR_MS);
            engine.tend().await.unwrap();
            assert!(engine.is_index_trusted(), "{stuck}");
            assert_eq!(generations(&engine).len(), 1, "{stuck}: what docs kept goes");
            assert!(engine.view(&name("short")).is_err(), "{stuck}: its time was up");
            assert!(deleted(&engine).contains(&name("gone").to_string()), "{stuck}");
            assert!(!deleted(&engine).contains(&name("small").to_string()), "{stuck}");
            let warning = &engine.node_status()["warnings"][0];
            assert_eq!(warning["namespaces"], json!([name("gone").to_string()]), "{stuck}");
            assert_eq!(warning["failures"], json!(n), "{stuck}");
        }
        // It is not asked of the disk every time.
        engine.tend().await.unwrap();
        assert_eq!(engine.node_status()["warnings"][0]["failures"], json!(3), "{stuck}");
        assert!(engine.check(4).unwrap().is_whole(), "{stuck}");
        assert_eq!(engine.sweep().unwrap().0, 0, "{stuck}");
        // The next process has it, too, and nothing of it is lost until it goes.
        let held = Node { disk: node.disk.duplicate(), clock: node.clock.clone(), ..Node::new(8) };
        let again = held.open();
        again.undelete(&name("gone"), None).await.unwrap();
        assert_eq!(all(&again, "gone"), expected, "{stuck}");
        disk.let_stick(None);
        node.clock.advance(WAIT_MAX_MS);
        engine.tend().await.unwrap();
        assert_eq!((deleted(&engine).contains(&name("gone").to_string()), engine.warning_codes()), (false, vec![]));
        assert_eq!(engine.sweep().unwrap().0, 0, "{stuck}: what it held went with it");
        assert!(engine.is_index_trusted() && engine.check(4).unwrap().is_whole(), "{stuck}");
        let engine = node.cut_power(engine);
        assert!(!deleted(&engine).contains(&name("gone").to_string()), "{stuck}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_to_live_ends_while_counts_of_references_are_not_known_to_be_right() {
    let node = Node::new(9);
    let (disk, engine) = hooked(&node);
    for namespace in ["docs", "short", "long"] {
        put(&engine, namespace, 0..20, 0).await;
    }
    engine.set_ttl(&name("short"), Some(HOUR_MS)).await.unwrap();
    engine.set_ttl(&name("long"), Some(3 * HOUR_MS)).await.unwrap();
    disk.let_sync_fail(Some(directory(&engine, "docs")));
    engine.checkpoint(&name("docs")).await.unwrap_err();
    assert!(!engine.is_index_trusted());
    node.clock.advance(2 * HOUR_MS);
    let error = engine.tend().await.unwrap_err();
    assert!(error.message().contains("whose writing failed"), "{error}");
    assert!(!engine.is_index_trusted());
    assert!(engine.view(&name("short")).is_err() && engine.view(&name("long")).is_ok());
    disk.let_sync_fail(None);
    engine.rebuild_index().unwrap();
    engine.checkpoint(&name("docs")).await.unwrap();
    engine.rebuild_index().unwrap();
    engine.tend().await.unwrap();
    assert!(engine.is_index_trusted() && engine.check(4).unwrap().is_whole());
    let engine = node.cut_power(engine);
    assert!(engine.view(&name("short")).is_err());
    assert_eq!(all(&engine, "docs").len(), 20);
    engine.undelete(&name("short"), None).await.unwrap();
    assert_eq!(all(&engine, "short").len(), 20);
}

/// Everything that makes or ends a name, while the disk neither syncs the directory of its bindings nor lets go of what is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_may_be_bound_or_not_stops_nothing_of_the_others() {
    for how in ["created", "branched", "deleted", "brought back"] {
        let mut node = Node::new(9);
        node.config.retention_ms = HOUR_MS;
        (node.config.compaction_fan_in, node.config.compaction_dead_percent) = (1_000, 1_000);
        let (disk, engine) = hooked(&node);
        for namespace in ["docs", "gone"] {
            put(&engine, namespace, 0..20, 0).await;
            engine.checkpoint(&name(namespace)).await.unwrap();
        }
        let doubted = name("doubted");
        if ["deleted", "brought back"].contains(&how) {
            put(&engine, "doubted", 0..20, 0).await;
        }
        if how == "brought back" {
            engine.delete(&doubted).await.unwrap();
        }
        let stuck = Some(Layout::new("/data").bindings(&doubted).display().to_string());
        disk.let_stick(stuck.clone());
        disk.let_sync_fail(stuck);
        let done = match how {
            "created" => engine.create(&doubted, CreateRequest::default()).await.map(drop),
            "branched" => engine.branch(&name("docs"), &doubted, BranchRequest::default()).await.map(drop),
            "deleted" => engine.delete(&doubted).await,
            _ => engine.undelete(&doubted, None).await.map(drop),
        };
        assert_eq!(done.unwrap_err().code(), "binding_unknown", "{how}");
        engine.delete(&name("gone")).await.unwrap();
        for n in 1..4 {
            put(&engine, "docs", 0..9, n).await;
            engine.checkpoint(&name("docs")).await.unwrap();
            node.clock.advance(2 * HOUR_MS);
            let error = engine.tend().await.unwrap_err();
            assert!(error.message().contains("doubted"), "{how}: {error}");
            engine.note_upkeep(&Err(error));
            assert_eq!((engine.warning_codes(), engine.is_index_trusted()), (vec!["index_failed".to_owned()], true));
            assert_eq!(generations(&engine).len(), 1, "{how}: what docs kept goes");
            assert!(!deleted(&engine).contains(&name("gone").to_string()), "{how}");
            // Counting anew and sweeping leave what the next start may need.
            engine.rebuild_index().unwrap_err();
            assert_eq!(engine.sweep().unwrap().0, 0, "{how}");
        }
        let held = Node { disk: node.disk.duplicate(), clock: node.clock.clone(), ..Node::new(10) };
        let again = held.open();
        let found = again.view(&doubted).ok().map(|view| documents(&view).len());
        let expected = [("created", Some(0)), ("branched", Some(20)), ("deleted", None), ("brought back", Some(20))];
        assert!(expected.contains(&(how, found)), "{how}: {found:?}");
        assert!(again.check(4).unwrap().is_whole(), "{how}");
        disk.let_stick(None);
        disk.let_sync_fail(None);
        engine.tend().await.unwrap();
        engine.rebuild_index().unwrap();
        engine.tend().await.unwrap();
        assert_eq!((engine.is_index_trusted(), engine.sweep().unwrap().0), (true, 0), "{how}");
        let local = Layout::new("/data").local();
        let found = node.disk.list(&local).unwrap();
        let is_one = |name: &str| name != "names" && node.disk.is_filled(&local.join(name));
        let incarnations = found.iter().filter(|entry| is_one(&entry.name)).count();
        assert_eq!(incarnations, if how == "deleted" { 2 } else { 1 }, "{how}");
        put(&engine, "doubted", 0..9, 3).await;
        let (expected, engine) = (all(&engine, "doubted"), node.cut_power(engine));
        assert_eq!((all(&engine, "doubted"), all(&engine, "docs").len()), (expected, 20), "{how}");
    }
}

/// What a flush was to commit may be in place or not, each time that it is tried: nothing of the others waits for that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_that_may_be_there_or_not_stops_nothing_of_the_others() {
    for is_stuck in [true, false] {
        let mut node = Node::new(11);
        node.config.retention_ms = HOUR_MS;
        (node.config.compaction_fan_in, node.config.compaction_dead_percent) = (1_000, 1_000);
        let (disk, engine) = hooked(&node);
        for namespace in ["docs", "gone", "doubted"] {
            put(&engine, namespace, 0..20, 0).await;
            engine.checkpoint(&name(namespace)).await.unwrap();
        }
        engine.delete(&name("gone")).await.unwrap();
        put(&engine, "doubted", 0..9, 1).await;
        let dir = directory(&engine, "doubted");
        disk.let_stick(is_stuck.then(|| dir.clone()));
        disk.let_sync_fail(Some(dir));
        for n in 1..4 {
            put(&engine, "docs", 0..9, n).await;
            engine.checkpoint(&name("docs")).await.unwrap();
            node.clock.advance(2 * HOUR_MS);
            engine.checkpoint(&name("doubted")).await.unwrap_err();
            let _ = engine.tend().await;
            assert_eq!(generations(&engine).len(), 1, "what docs kept goes");
            assert!(deleted(&engine).is_empty());
        }
        assert!(!engine.is_index_trusted(), "what it may name is to be counted anew");
        let expected = all(&engine, "doubted");
        let held = Node { disk: node.disk.duplicate(), clock: node.clock.clone(), ..Node::new(12) };
        let again = held.open();
        assert_eq!((all(&again, "doubted"), again.check(4).unwrap().is_whole()), (expected.clone(), true));
        disk.let_stick(None);
        disk.let_sync_fail(None);
        engine.checkpoint(&name("doubted")).await.unwrap();
        engine.rebuild_index().unwrap();
        assert!(engine.is_index_trusted() && engine.check(4).unwrap().is_whole());
        // The background may still be building what a sweep leaves alone.
        let until = Instant::now() + PATIENCE;
        while engine.repair().unwrap() != (0, 0) {
            assert!(Instant::now() < until, "there is something to repair again and again");
        }
        let engine = node.cut_power(engine);
        assert_eq!(all(&engine, "doubted"), expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_daemon_may_not_write_is_refused_and_warned_of_until_it_may() {
    let node = Node::new(44);
    let engine = node.open();
    put(&engine, "docs", 0..5, 1).await;
    node.disk.set_fault(Some(Fault { at: node.disk.operations(), forever: true, kind: ErrorKind::PermissionDenied }));
    let error = engine.create(&name("other"), CreateRequest::default()).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (Kind::Unavailable, "disk_forbidden"), "{error}");
    assert!(error.hint().unwrap().contains("owner"), "{error}");
    assert_eq!(engine.warning_codes(), ["disk_forbidden"]);
    node.disk.set_fault(None);
    put(&engine, "docs", 0..9, 2).await;
    put(&engine, "other", 0..9, 2).await;
    node.clock.advance(WAIT_MAX_MS);
    engine.tend().await.unwrap();
    assert_eq!(engine.warning_codes(), Vec::<String>::new());
    assert_eq!((all(&engine, "docs").len(), all(&engine, "other").len()), (9, 9));
}

/// The manifest of a merge of segments is in place and its commit failed: what the namespace goes by until that is known stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_in_doubt_costs_nothing_of_what_either_it_or_the_one_before_needs() {
    for retention_ms in [0, HOUR_MS] {
        for (is_stuck, heals) in [(true, true), (true, false), (false, true), (false, false)] {
            let what = format!("retention {retention_ms}, stuck {is_stuck}, heals at once {heals}");
            let until = Instant::now() + PATIENCE;
            let mut node = Node::new(13);
            node.config.retention_ms = retention_ms;
            (node.config.compaction_fan_in, node.config.compaction_dead_percent) = (1_000, 1_000);
            let (disk, engine) = hooked(&node);
            for n in 0..4 {
                put(&engine, "docs", n * 10..n * 10 + 10, n).await;
                engine.checkpoint(&name("docs")).await.unwrap();
            }
            let dir = directory(&engine, "docs");
            let fail = |fails: bool| {
                disk.let_stick((fails && is_stuck).then(|| dir.clone()));
                disk.let_sync_fail(fails.then(|| dir.clone()));
            };
            fail(true);
            engine.compact(&name("docs")).await.unwrap_err();
            fail(!heals);
            for _ in 0..3 {
                node.clock.advance(2 * HOUR_MS);
                let _ = engine.tend().await;
                let _ = engine.rebuild_index();
            }
            assert_eq!(all(&engine, "docs").len(), 40, "{what}");
            // Whichever the next start finds.
            for loses_power in [false, true] {
                let held = Node { disk: node.disk.duplicate(), clock: node.clock.clone(), ..Node::new(14) };
                if loses_power {
                    held.disk.power_cut(&*held.random);
                }
                let again = held.open();
                assert_eq!(all(&again, "docs").len(), 40, "{what}, power lost {loses_power}");
                assert!(again.check(4).unwrap().is_whole(), "{what}, power lost {loses_power}");
            }
            fail(false);
            engine.tend().await.unwrap();
            assert_eq!((engine.check(4).unwrap().problems, engine.history(&name("docs")).is_ok()), (vec![], true));
            put(&engine, "docs", 50..55, 5).await;
            engine.checkpoint(&name("docs")).await.unwrap();
            node.clock.advance(2 * HOUR_MS);
            engine.tend().await.unwrap();
            // The upkeep has begun to merge them again.
            engine.compact(&name("docs")).await.unwrap();
            node.clock.advance(2 * HOUR_MS);
            engine.tend().await.unwrap();
            engine.rebuild_index().unwrap();
            assert!(engine.is_index_trusted() && engine.check(4).unwrap().is_whole(), "{what}");
            while engine.repair().unwrap() != (0, 0) {
                assert!(Instant::now() < until, "{what}: there is something to repair again and again");
            }
            let engine = node.cut_power(engine);
            assert_eq!(all(&engine, "docs").len(), 45, "{what}");
        }
    }
}
