//! Past states answer as they were, for as long as retention or a tag keeps them.

use std::io::ErrorKind;

use serde_json::json;
use shoal::api::wire::write::parse_schema;
use shoal::api::wire::write::{WriteBody, parse_write};
use shoal::engine::lineage::BranchRequest;
use shoal::engine::merge::MergeRequest;
use shoal::error::Kind;
use shoal::model::as_of::AsOf;
use shoal::platform::disk::Disk as _;
use shoal::platform::memory_disk::{Mishap, MishapKind};

use crate::node::{DAY_MS, Documents, HOUR_MS, Node, all, at, branch, name, objects, put, write};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_generation_answers_as_it_was() {
    let node = Node::new(1);
    let mut engine = node.open();
    put(&engine, "main", 0..40, 0).await;
    let mut states: Vec<(u64, u64, Documents)> = Vec::new();
    for round in 1..12u64 {
        put(&engine, "main", (round * 3)..(round * 3 + 5), round).await;
        write(&engine, "main", json!({"deletes": [round], "patch_rows": [{"id": 39 - round, "n": 100 + round}]}))
            .await;
        if round % 4 == 0 {
            engine.compact(&name("main")).await.unwrap();
        } else {
            engine.checkpoint(&name("main")).await.unwrap();
        }
        let generation = engine.history(&name("main")).unwrap()[0].generation;
        node.clock.advance(HOUR_MS);
        states.push((generation, shoal::platform::clock::Clock::now_millis(&*node.clock) - 1, all(&engine, "main")));
        if round % 5 == 0 {
            engine = node.cut_power(engine);
        }
    }
    write(&engine, "main", json!({"deletes": [30, 31, 32]})).await;
    for (generation, instant, expected) in &states {
        assert_eq!(at(&engine, "main", AsOf::Generation(*generation)).unwrap(), *expected, "generation {generation}");
        assert_eq!(at(&engine, "main", AsOf::Instant(*instant)).unwrap(), *expected, "generation {generation}");
    }
    let commits = engine.history(&name("main")).unwrap();
    let third = commits.iter().find(|state| state.generation == states[3].0).unwrap();
    assert_eq!(at(&engine, "main", AsOf::Commit(third.commit_id)).unwrap(), states[3].2);
    assert_eq!(at(&engine, "main", AsOf::Instant(u64::MAX)).unwrap(), all(&engine, "main"));
    let future = at(&engine, "main", AsOf::Generation(10_000)).unwrap_err();
    assert_eq!(future.kind(), Kind::Invalid, "{future}");
    // A branch can begin at any of them.
    let request = BranchRequest { as_of: Some(AsOf::Generation(states[2].0)), ..BranchRequest::default() };
    engine.branch(&name("main"), &name("then"), request).await.unwrap();
    assert_eq!(all(&engine, "then"), states[2].2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_lets_go_of_the_oldest_and_of_what_only_they_kept() {
    let node = Node::new(2);
    let engine = node.open();
    for day in 0..10u64 {
        put(&engine, "main", 0..20, day).await;
        engine.compact(&name("main")).await.unwrap();
        node.clock.advance(DAY_MS);
        engine.tend().await.unwrap();
    }
    let history = engine.history(&name("main")).unwrap();
    let oldest = history.last().unwrap().generation;
    assert!(oldest > 0 && history.len() < 20, "{history:?}");
    let error = at(&engine, "main", AsOf::Generation(oldest - 1)).unwrap_err();
    assert_eq!(error.code(), "gone");
    assert_eq!(at(&engine, "main", AsOf::Instant(1)).unwrap_err().code(), "gone");
    for state in &history {
        at(&engine, "main", AsOf::Generation(state.generation)).unwrap();
    }
    // What is kept is what they name: a later look finds nothing to remove, and after a week one segment is left.
    assert_eq!(engine.repair().unwrap(), (0, 0));
    node.clock.advance(8 * DAY_MS);
    engine.tend().await.unwrap();
    assert_eq!(engine.history(&name("main")).unwrap().len(), 1);
    assert_eq!(objects(&node).len(), 1, "{:?}", objects(&node));
    assert!(engine.check(3).unwrap().is_whole());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_of_the_disk_bounds_what_past_states_keep() {
    let mut node = Node::new(3);
    node.config.retention_disk_percent = 0;
    let engine = node.open();
    put(&engine, "main", 0..20, 1).await;
    branch(&engine, "main", "kept").await;
    for round in 0..5 {
        put(&engine, "main", 0..20, round).await;
        engine.compact(&name("main")).await.unwrap();
    }
    put(&engine, "gone", 0..20, 1).await;
    engine.delete(&name("gone")).await.unwrap();
    assert_eq!(engine.deleted(&name("gone").project).len(), 1);
    engine.tend().await.unwrap();
    assert!(engine.deleted(&name("gone").project).is_empty());
    assert_eq!(engine.history(&name("main")).unwrap().iter().map(|state| state.kept_bytes).sum::<u64>(), 0);
    assert_eq!((all(&engine, "main").len(), all(&engine, "kept").len()), (20, 20));
    assert_eq!(engine.repair().unwrap(), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_keeps_its_state_until_it_is_deleted() {
    let node = Node::new(4);
    let engine = node.open();
    put(&engine, "main", 0..20, 1).await;
    engine.checkpoint(&name("main")).await.unwrap();
    put(&engine, "main", 5..10, 2).await;
    let expected = all(&engine, "main");
    engine.tag(&name("main"), "v1", None).await.unwrap();
    assert_eq!(engine.tag(&name("main"), "v1", None).await.unwrap_err().code(), "exists");
    assert_eq!(engine.tag(&name("main"), "../x", None).await.unwrap_err().kind(), Kind::Invalid);
    write(&engine, "main", json!({"delete_by_filter": ["n", "Gte", 1]})).await;
    engine.compact(&name("main")).await.unwrap();
    node.clock.advance(30 * DAY_MS);
    let engine = node.cut_power(engine);
    engine.tend().await.unwrap();
    assert_eq!(at(&engine, "main", AsOf::Tag("v1".into())).unwrap(), expected);
    assert_eq!(engine.tags(&name("main")).unwrap().len(), 1);
    assert!(engine.check(3).unwrap().is_whole());
    engine.untag(&name("main"), "v1").await.unwrap();
    assert_eq!(engine.untag(&name("main"), "v1").await.unwrap_err().kind(), Kind::NotFound);
    assert_eq!(at(&engine, "main", AsOf::Tag("v1".into())).unwrap_err().kind(), Kind::NotFound);
    assert_eq!(engine.repair().unwrap(), (0, 0));
    put(&engine, "main", 0..2, 3).await;
    engine.tag(&name("main"), "v1", None).await.unwrap();
    assert_eq!(at(&engine, "main", AsOf::Tag("v1".into())).unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_tag_lets_go_of_stays_for_as_long_as_a_state_on_its_way_needs_it() {
    let node = Node::new(5);
    let engine = node.open();
    put(&engine, "main", 0..20, 1).await;
    engine.checkpoint(&name("main")).await.unwrap();
    engine.tag(&name("main"), "v1", None).await.unwrap();
    write(&engine, "main", json!({"delete_by_filter": ["n", "Gte", 1]})).await;
    engine.compact(&name("main")).await.unwrap();
    node.clock.advance(30 * DAY_MS);
    engine.tend().await.unwrap();
    let nsid = engine.nsid_of(&name("main")).unwrap();
    let state = engine.tag_file(nsid, "v1").unwrap().unwrap().manifest.unwrap();
    let is_here = || state.segments.iter().all(|segment| engine.has_object(&segment.key, segment.bytes));
    assert!(!state.segments.is_empty() && is_here());
    // Two passes that take in what needs it overlap.
    let (one, other) = (engine.expect(&state), engine.expect(&state));
    engine.untag(&name("main"), "v1").await.unwrap();
    assert!(is_here());
    drop(one);
    assert!(is_here());
    drop(other);
    assert!(!is_here());
    assert_eq!(engine.repair().unwrap(), (0, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_that_could_not_be_written_keeps_nothing() {
    for after in 0..6 {
        let node = Node::new(1);
        let engine = node.open();
        put(&engine, "main", 0..10, 0).await;
        let mishap =
            Mishap { after, within: Some("/tags/v1/".to_owned()), kind: MishapKind::Fails(ErrorKind::StorageFull) };
        node.disk.set_mishap(Some(mishap));
        let tagged = engine.tag(&name("main"), "v1", None).await;
        let happened = node.disk.take_happened();
        node.disk.set_mishap(None);
        assert_eq!(tagged.is_err(), engine.tags(&name("main")).unwrap().is_empty(), "{happened:?}");
        engine.shutdown().await.unwrap();
        drop(engine);
        // After a clean stop counts are believed.
        let engine = node.open();
        engine.delete(&name("main")).await.unwrap();
        node.clock.advance(30 * DAY_MS);
        engine.tend().await.unwrap();
        assert_eq!(objects(&node), Vec::<String>::new(), "{happened:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_namespace_can_be_had_back_whole_within_retention() {
    let mut node = Node::new(5);
    // No merges of their own accord, which may still be under way in the end.
    (node.config.compaction_fan_in, node.config.compaction_dead_percent) = (1_000, 1_000);
    let engine = node.open();
    put(&engine, "main", 0..20, 1).await;
    engine.checkpoint(&name("main")).await.unwrap();
    put(&engine, "main", 5..30, 2).await;
    let expected = all(&engine, "main");
    engine.delete(&name("main")).await.unwrap();
    // Incarnations are in the order of their time.
    node.clock.advance(1);
    put(&engine, "main", 0..2, 9).await;
    let engine = node.cut_power(engine);
    assert_eq!(engine.undelete(&name("main"), None).await.unwrap_err().code(), "exists");
    engine.delete(&name("main")).await.unwrap();
    let deleted = engine.deleted(&name("main").project);
    assert_eq!(deleted.len(), 2);
    let first = deleted.iter().map(|deleted| deleted.nsid).min().unwrap();
    engine.undelete(&name("main"), Some(first)).await.unwrap();
    assert_eq!(all(&engine, "main"), expected);
    write(&engine, "main", json!({"deletes": [0]})).await;
    let engine = node.cut_power(engine);
    assert_eq!(all(&engine, "main").len(), expected.len() - 1);
    node.clock.advance(8 * DAY_MS);
    engine.tend().await.unwrap();
    assert!(engine.deleted(&name("main").project).is_empty());
    assert_eq!(all(&engine, "main").len(), expected.len() - 1);
    engine.delete(&name("main")).await.unwrap();
    node.clock.advance(8 * DAY_MS);
    engine.tend().await.unwrap();
    assert_eq!(engine.undelete(&name("main"), None).await.unwrap_err().code(), "gone");
    assert_eq!(objects(&node), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_become_a_past_state_of_their_own_accord() {
    let mut node = Node::new(6);
    // A merge of segments is a commit, too, and comes when it likes.
    (node.config.compaction_fan_in, node.config.compaction_dead_percent) = (1_000, 1_000);
    let engine = node.open();
    put(&engine, "main", 0..5, 1).await;
    let first = all(&engine, "main");
    engine.tend().await.unwrap();
    assert_eq!(engine.history(&name("main")).unwrap().len(), 1);
    node.clock.advance(HOUR_MS);
    engine.tend().await.unwrap();
    let state = engine.history(&name("main")).unwrap()[0].clone();
    put(&engine, "main", 0..9, 2).await;
    assert_eq!(at(&engine, "main", AsOf::Generation(state.generation)).unwrap(), first);
    // Nothing new, nothing to do.
    node.clock.advance(HOUR_MS);
    engine.tend().await.unwrap();
    let states = engine.history(&name("main")).unwrap().len();
    node.clock.advance(HOUR_MS);
    engine.tend().await.unwrap();
    assert_eq!(engine.history(&name("main")).unwrap().len(), states);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revert_makes_the_documents_what_they_were_by_one_more_commit() {
    let node = Node::new(7);
    let engine = node.open();
    put(&engine, "main", 0..20, 1).await;
    engine.tag(&name("main"), "good", None).await.unwrap();
    let good = all(&engine, "main");
    branch(&engine, "main", "try").await;
    put(&engine, "main", 10..30, 2).await;
    write(&engine, "main", json!({"deletes": [3, 4]})).await;
    let bad = all(&engine, "main");
    engine.tag(&name("main"), "bad", None).await.unwrap();
    let done = engine.revert(&name("main"), &AsOf::Tag("good".into())).await.unwrap();
    assert_eq!((done.written, done.deleted), (12, 10));
    assert_eq!(all(&engine, "main"), good);
    let again = engine.revert(&name("main"), &AsOf::Tag("good".into())).await.unwrap();
    assert_eq!((again.written, again.deleted), (0, 0));
    let engine = node.cut_power(engine);
    assert_eq!(all(&engine, "main"), good);
    // It is a change like any other: what was reverted can be had back, and a branch takes it by merging.
    engine.revert(&name("main"), &AsOf::Tag("bad".into())).await.unwrap();
    assert_eq!(all(&engine, "main"), bad);
    engine.merge(&name("main"), &name("try"), Default::default()).await.unwrap();
    assert_eq!(all(&engine, "try"), bad);
    assert_eq!(engine.revert(&name("main"), &AsOf::Tag("no".into())).await.unwrap_err().kind(), Kind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revert_is_done_once_though_an_attribute_was_dropped_since() {
    for anew in [false, true] {
        let node = Node::new(31);
        let engine = node.open();
        write(&engine, "main", json!({"upsert_rows": [{"id": 1, "x": 1, "y": "k"}, {"id": 2, "x": 2}]})).await;
        engine.tag(&name("main"), "before", None).await.unwrap();
        engine.update_schema(&name("main"), parse_schema("", json!({"x": {"drop": true}})).unwrap()).await.unwrap();
        if anew {
            write(&engine, "main", json!({"schema": {"x": "string"}, "patch_rows": [{"id": 1, "x": "text"}]})).await;
        }
        write(&engine, "main", json!({"patch_rows": [{"id": 1, "y": "l"}]})).await;
        let before = AsOf::Tag("before".into());
        let done = engine.revert(&name("main"), &before).await.unwrap();
        assert_eq!((done.written, done.deleted), (1, 0));
        let reverted = all(&engine, "main");
        assert_eq!(reverted.values().next().unwrap().get("y"), Some(&json!("k")));
        assert!(reverted.values().all(|row| !row.contains_key("x")), "{reverted:?}");
        let again = engine.revert(&name("main"), &before).await.unwrap();
        assert_eq!((again.written, again.deleted), (0, 0));
        assert_eq!(all(&engine, "main"), reverted);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merge_of_segments_whose_namespace_is_deleted_meanwhile_leaves_nothing() {
    let mut node = Node::new(8);
    node.config.retention_ms = 0;
    node.config.compaction_bytes_per_second = 8 << 10;
    (node.config.compaction_fan_in, node.config.compaction_dead_percent) = (1_000, 1_000);
    let engine = node.open();
    for round in 0..3 {
        put(&engine, "main", 0..20, round).await;
        engine.checkpoint(&name("main")).await.unwrap();
    }
    let name = name("main");
    let (merged, deleted) = tokio::join!(engine.compact(&name), engine.delete(&name));
    deleted.unwrap();
    assert!(merged.is_ok() || merged.is_err_and(|error| error.kind() == Kind::NotFound));
    assert_eq!(objects(&node), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn past_states_that_are_kept_open_take_a_share_of_what_tails_may_take() {
    let mut node = Node::new(9);
    node.config.tails_bytes_max = 4 << 20;
    node.config.tail_bytes_max = 4 << 20;
    let engine = node.open();
    let mut expected = Vec::new();
    for tag in 0..8 {
        put(&engine, "main", 0..600, tag).await;
        engine.tag(&name("main"), &format!("t{tag}"), None).await.unwrap();
        expected.push(all(&engine, "main"));
        engine.checkpoint(&name("main")).await.unwrap();
    }
    let open = || {
        let status = engine.node_status();
        let figure = |key: &str| status["past_open"][key].as_u64().unwrap();
        (figure("states"), figure("tails_bytes"))
    };
    let mut most = 0;
    for (tag, expected) in expected.iter().enumerate() {
        assert_eq!(at(&engine, "main", AsOf::Tag(format!("t{tag}"))).unwrap(), *expected);
        let (states, bytes) = open();
        assert!(states >= 1 && bytes <= (1 << 20) || states == 1, "{states} states take {bytes} bytes");
        most = most.max(states);
    }
    assert!(most > 1 && open().0 < 8, "{most} {:?}", open());
    // One that takes more by itself is kept for who asks again.
    put(&engine, "main", 0..9_000, 9).await;
    engine.tag(&name("main"), "large", None).await.unwrap();
    engine.checkpoint(&name("main")).await.unwrap();
    at(&engine, "main", AsOf::Tag("large".into())).unwrap();
    assert!(open().0 == 1 && open().1 > 1 << 20, "{:?}", open());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_of_one_namespace_does_not_take_the_past_of_another() {
    let mut node = Node::new(10);
    node.disk.leave_free(Some(4 << 20));
    node.config.retention_disk_percent = 2;
    let engine = node.open();
    let mut states = Vec::new();
    for round in 0..11u64 {
        put(&engine, "small", [round], round).await;
        engine.checkpoint(&name("small")).await.unwrap();
        node.clock.advance(HOUR_MS);
        states.push((engine.history(&name("small")).unwrap()[0].generation, all(&engine, "small")));
    }
    for round in 0..20 {
        put(&engine, "large", 0..1_000, round).await;
        engine.compact(&name("large")).await.unwrap();
        node.clock.advance(HOUR_MS);
        engine.tend().await.unwrap();
    }
    for (generation, expected) in states {
        assert_eq!(at(&engine, "small", AsOf::Generation(generation)).unwrap(), expected, "generation {generation}");
    }
    let large = engine.history(&name("large")).unwrap();
    let kept: u64 = large.iter().map(|state| state.kept_bytes).sum();
    assert!(large.last().unwrap().generation > 0 && kept < 100 << 10, "{kept} {large:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_branch_holds_costs_no_past_state_for_the_share_of_the_disk() {
    let mut node = Node::new(14);
    node.disk.leave_free(Some(4 << 20));
    node.config.retention_disk_percent = 2;
    (node.config.compaction_fan_in, node.config.compaction_dead_percent) = (1_000, 1_000);
    let engine = node.open();
    // Much that the past state alone names of `main`, and that the branch has as its own.
    let mut states = Vec::new();
    for round in 0..4u64 {
        put(&engine, "main", round * 1_000..(round + 1) * 1_000, round).await;
        engine.checkpoint(&name("main")).await.unwrap();
        states.push((engine.history(&name("main")).unwrap()[0].generation, all(&engine, "main")));
        node.clock.advance(HOUR_MS);
    }
    branch(&engine, "main", "b").await;
    put(&engine, "main", 0..1, 9).await;
    engine.compact(&name("main")).await.unwrap();
    let kept: u64 = engine.history(&name("main")).unwrap().iter().map(|state| state.kept_bytes).sum();
    assert!(kept > (4 << 20) / 50, "{kept}");
    for _ in 0..3 {
        engine.tend().await.unwrap();
    }
    for (generation, expected) in &states {
        assert_eq!(at(&engine, "main", AsOf::Generation(*generation)).unwrap(), *expected, "generation {generation}");
    }
    // Nobody else holds them any more.
    engine.delete(&name("b")).await.unwrap();
    node.clock.advance(8 * DAY_MS);
    engine.tend().await.unwrap();
    assert!(states.iter().all(|(generation, _)| at(&engine, "main", AsOf::Generation(*generation)).is_err()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edits_of_labels_leave_few_states_and_as_of_answers_in_between() {
    let node = Node::new(11);
    let engine = node.open();
    put(&engine, "main", 0..5, 1).await;
    engine.checkpoint(&name("main")).await.unwrap();
    let first = all(&engine, "main");
    node.clock.advance(HOUR_MS);
    let between = shoal::platform::clock::Clock::now_millis(&*node.clock);
    for n in 0..100 {
        engine.set_labels(&name("main"), [("n".to_owned(), n.to_string())].into()).await.unwrap();
        node.clock.advance(1_000);
    }
    put(&engine, "main", 5..9, 2).await;
    engine.checkpoint(&name("main")).await.unwrap();
    assert!(engine.history(&name("main")).unwrap().len() > 100);
    engine.tend().await.unwrap();
    let history = engine.history(&name("main")).unwrap();
    // The empty namespace, the first documents, the youngest ones, and the newest state.
    assert!(history.len() <= 64 + 3, "{history:?}");
    for at_ms in [between, between + 7_500, between + 99_500] {
        assert_eq!(at(&engine, "main", AsOf::Instant(at_ms)).unwrap(), first, "{}", at_ms - between);
    }
    assert_eq!(engine.status(&name("main")).unwrap()["labels"]["n"], "99");
    // It is due for its age only when what it says was replaced long ago.
    node.clock.advance(7 * DAY_MS - HOUR_MS / 2);
    engine.tend().await.unwrap();
    assert_eq!(at(&engine, "main", AsOf::Instant(between + 99_500)).unwrap(), first);
    assert!(engine.check(4).unwrap().is_whole());
    assert_eq!(engine.repair().unwrap(), (0, 0));
    let engine = node.cut_power(engine);
    assert_eq!(at(&engine, "main", AsOf::Instant(between + 99_500)).unwrap(), first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn manifests_of_past_states_count_and_a_status_does_not_read_them() {
    let mut node = Node::new(12);
    node.disk.leave_free(Some(8 << 20));
    (node.config.compaction_fan_in, node.config.compaction_dead_percent) = (1_000, 1_000);
    let engine = node.open();
    let reads = |engine: &shoal::engine::Engine| {
        let before = node.disk.operations();
        let status = engine.status(&name("main")).unwrap();
        (node.disk.operations() - before, status)
    };
    put(&engine, "main", 0..5, 1).await;
    engine.checkpoint(&name("main")).await.unwrap();
    let (few, _) = reads(&engine);
    for n in 0..60u64 {
        put(&engine, "main", [n], n).await;
        engine.checkpoint(&name("main")).await.unwrap();
    }
    let (many, status) = reads(&engine);
    assert_eq!(few, many, "operations of a status with 2 and with 61 past states");
    let of_manifests: u64 = {
        let nsid = status["nsid"].as_str().unwrap();
        let entries = node.disk.list(std::path::Path::new(&format!("/data/local/{nsid}"))).unwrap();
        entries.iter().filter(|entry| entry.name.ends_with(".json")).map(|entry| entry.len).sum()
    };
    let kept = status["reclaimable_bytes"].as_u64().unwrap() + status["own_bytes"].as_u64().unwrap();
    assert!(kept >= of_manifests, "{kept} of {of_manifests}");
    // They are bounded by the share of the disk like everything of the past.
    engine.shutdown().await.unwrap();
    drop(engine);
    node.config.retention_disk_percent = 1;
    let engine = node.open();
    engine.tend().await.unwrap();
    let left = engine.status(&name("main")).unwrap()["reclaimable_bytes"].as_u64().unwrap();
    assert!(left <= (8 << 20) / 100, "{left}");
    assert!(engine.history(&name("main")).unwrap().len() < 60);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_namespace_that_is_deleted_while_it_is_written_leaves_the_index_as_it_is() {
    let node = Node::new(13);
    let engine = node.open();
    for round in 0..40u64 {
        put(&engine, "main", 0..2, 0).await;
        let writers: Vec<_> = (0..4u64)
            .map(|writer| {
                let engine = engine.clone();
                tokio::spawn(async move {
                    for n in 0..50u64 {
                        let body =
                            json!({"upsert_rows": [{"id": writer * 100 + n, "n": n}], "create_namespace": false});
                        let WriteBody::Write(request) = parse_write(body).unwrap() else {
                            panic!("expected a write")
                        };
                        if engine.write(&name("main"), *request).await.is_err() {
                            return;
                        }
                    }
                })
            })
            .collect();
        tokio::task::yield_now().await;
        engine.delete(&name("main")).await.unwrap();
        for writer in writers {
            writer.await.unwrap();
        }
        assert!(engine.is_index_trusted(), "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_the_past_has_counts_after_a_power_cut_as_it_did_before() {
    let node = Node::new(21);
    let mut engine = node.open();
    for round in 0..3u64 {
        put(&engine, "main", 0..300, round).await;
        engine.checkpoint(&name("main")).await.unwrap();
        engine.tag(&name("main"), &format!("round-{round}"), None).await.unwrap();
        engine.compact(&name("main")).await.unwrap();
        node.clock.advance(HOUR_MS);
    }
    branch(&engine, "main", "b").await;
    put(&engine, "b", 7..8, 9).await;
    engine.merge(&name("b"), &name("main"), MergeRequest::default()).await.unwrap();
    engine.compact(&name("main")).await.unwrap();
    let before = engine.node_status()["objects"].clone();
    engine.rebuild_index().unwrap();
    assert_eq!(engine.node_status()["objects"], before);
    engine = node.cut_power(engine);
    engine.rebuild_index().unwrap();
    assert_eq!(engine.node_status()["objects"], before);
    let past: u64 = engine.history(&name("main")).unwrap().iter().map(|state| state.kept_bytes).sum();
    assert!(past > 0 && before["bytes"].as_u64() > Some(past), "{past} {before}");
}
