//! A damaged file costs its own namespace only: the others' past goes when it is due, their garbage is reclaimed, and what the
//! damaged file may name is there when it is back.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use shoal::engine::Engine;
use shoal::error::Kind;
use shoal::model::as_of::AsOf;
use shoal::platform::disk::{Disk as _, publish};

use crate::node::{DAY_MS, HOUR_MS, Node, all, at, branch, name, objects, put, write};

/// What becomes of a file.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Harm {
    Torn,
    /// Reading it is an error of the device.
    Unreadable,
}

fn harm(node: &Node, file: &Path, how: Harm) -> Vec<u8> {
    let whole = node.disk.read(file).unwrap();
    node.disk.remove(file).unwrap();
    match how {
        Harm::Torn => publish(&node.disk, file, &whole[..whole.len() / 2]).unwrap(),
        Harm::Unreadable => node.disk.create_dir(file).unwrap(),
    }
    whole
}

fn heal(node: &Node, file: &Path, whole: &[u8]) {
    if node.disk.remove(file).is_err() {
        node.disk.remove_dir(file).unwrap();
    }
    publish(&node.disk, file, whole).unwrap();
}

/// The manifests of a namespace, oldest first.
fn manifests(node: &Node, engine: &Engine, of: &str) -> Vec<PathBuf> {
    let dir = PathBuf::from(format!("/data/local/{}", engine.status(&name(of)).unwrap()["nsid"].as_str().unwrap()));
    let mut found: Vec<PathBuf> = node.disk.list(&dir).unwrap().iter().map(|entry| dir.join(&entry.name)).collect();
    found.retain(|path| path.extension().is_some_and(|end| end == "json"));
    found.sort();
    found
}

fn store_bytes(node: &Node) -> u64 {
    objects(node).iter().map(|path| node.disk.size(Path::new(path)).unwrap()).sum()
}

/// A node that keeps no past, with a namespace, a branch of it and one of neither.
async fn node(seed: u64) -> (Node, Arc<Engine>) {
    let mut node = Node::new(seed);
    node.config.retention_ms = 0;
    (node.config.compaction_fan_in, node.config.compaction_dead_percent) = (1_000, 1_000);
    let engine = node.open();
    put(&engine, "main", 0..200, 1).await;
    engine.checkpoint(&name("main")).await.unwrap();
    put(&engine, "other", 0..200, 1).await;
    engine.checkpoint(&name("other")).await.unwrap();
    branch(&engine, "main", "child").await;
    put(&engine, "child", 100..120, 2).await;
    // The last step: what the index has of it is not durable yet.
    engine.checkpoint(&name("child")).await.unwrap();
    (node, engine)
}

/// Overwrites a namespace and merges its segments, again and again.
async fn churn(engine: &Arc<Engine>, of: &str) {
    for round in 0..20 {
        put(engine, of, 0..200, round).await;
        engine.compact(&name(of)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_newest_manifest_keeps_what_it_names_and_nothing_that_is_made_later() {
    for (how, with_index) in
        [(Harm::Torn, true), (Harm::Torn, false), (Harm::Unreadable, true), (Harm::Unreadable, false)]
    {
        let what = format!("{how:?}, the index is kept: {with_index}");
        let (node, engine) = node(20).await;
        let expected = all(&engine, "child");
        let newest = manifests(&node, &engine, "child").pop().unwrap();
        // After a power cut the index knows the namespace, and not its newest manifest, so that nobody can put that back.
        node.disk.power_cut(&*node.random);
        drop(engine);
        if !with_index {
            node.disk.remove(Path::new("/data/meta.redb")).unwrap();
        }
        let whole = harm(&node, &newest, how);
        let engine = node.open();
        assert!(engine.is_index_trusted(), "{what}: the index is rebuilt");
        assert!(engine.view(&name("child")).is_err(), "{what}");
        assert_eq!(engine.node_status()["damaged"].as_array().unwrap().len(), 1, "{what}");
        let before = store_bytes(&node);
        churn(&engine, "other").await;
        churn(&engine, "main").await;
        let after = store_bytes(&node);
        assert!(after < before * 3, "{what}: {before} bytes grew to {after}");
        // Counted once more, by an index that knows of the damage, nothing is added.
        let engine = node.cut_power(engine);
        churn(&engine, "main").await;
        assert!(store_bytes(&node) < after + before, "{what}: {after} bytes grew to {}", store_bytes(&node));
        heal(&node, &newest, &whole);
        for _ in 0..4 {
            engine.tend().await.unwrap();
        }
        engine.rebuild_index().unwrap();
        assert_eq!(engine.node_status()["damaged"], json!([]), "{what}");
        assert_eq!(all(&engine, "child"), expected, "{what}");
        assert!(engine.check(4).unwrap().is_whole(), "{what}");
        put(&engine, "child", 500..501, 1).await;
        // What was kept for it alone is gone again.
        engine.delete(&name("child")).await.unwrap();
        churn(&engine, "main").await;
        engine.repair().unwrap();
        assert!(store_bytes(&node) < before, "{what}: {before} {}", store_bytes(&node));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_past_state_or_tag_keeps_what_it_names_until_it_is_back() {
    for at_tag in [false, true] {
        for how in [Harm::Torn, Harm::Unreadable] {
            let what = format!("{how:?}, a tag: {at_tag}");
            let mut node = Node::new(21);
            (node.config.compaction_fan_in, node.config.compaction_dead_percent) = (1_000, 1_000);
            let engine = node.open();
            put(&engine, "main", 0..100, 1).await;
            engine.checkpoint(&name("main")).await.unwrap();
            let expected = all(&engine, "main");
            engine.tag(&name("main"), "v1", None).await.unwrap();
            let generation = engine.history(&name("main")).unwrap()[0].generation;
            node.clock.advance(HOUR_MS);
            let while_newest = shoal::platform::clock::Clock::now_millis(&*node.clock);
            node.clock.advance(HOUR_MS);
            put(&engine, "main", 0..100, 2).await;
            engine.compact(&name("main")).await.unwrap();
            let as_of = if at_tag { AsOf::Tag("v1".into()) } else { AsOf::Generation(generation) };
            let file = if at_tag {
                let dir = manifests(&node, &engine, "main")[0].parent().unwrap().join("tags/v1");
                dir.join(&node.disk.list(&dir).unwrap()[0].name)
            } else {
                engine.untag(&name("main"), "v1").await.unwrap();
                let suffix = format!("{generation:020}.json");
                manifests(&node, &engine, "main").into_iter().find(|path| path.ends_with(&suffix)).unwrap()
            };
            if at_tag {
                // The tag alone keeps it.
                node.clock.advance(8 * DAY_MS);
                engine.tend().await.unwrap();
            }
            drop(engine);
            node.disk.remove(Path::new("/data/meta.redb")).unwrap();
            let whole = harm(&node, &file, how);
            let engine = node.open();
            assert!(engine.is_index_trusted(), "{what}");
            assert_eq!(engine.node_status()["damaged"].as_array().unwrap().len(), 1, "{what}");
            assert!(at(&engine, "main", as_of.clone()).is_err(), "{what}");
            if !at_tag {
                // Nobody is given another state for it.
                assert!(at(&engine, "main", AsOf::Instant(while_newest)).is_err(), "{what}");
            }
            assert_eq!(all(&engine, "main").len(), 100);
            engine.sweep().unwrap();
            heal(&node, &file, &whole);
            for _ in 0..4 {
                engine.tend().await.unwrap();
            }
            engine.rebuild_index().unwrap();
            assert_eq!(engine.node_status()["damaged"], json!([]), "{what}");
            assert_eq!(at(&engine, "main", as_of).unwrap(), expected, "{what}");
            assert!(engine.check(4).unwrap().is_whole(), "{what}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_past_state_does_not_end_the_retention_of_others_nor_of_its_own_namespace() {
    let names = ["a", "b", "c", "d"];
    let node = Node::new(22);
    let engine = node.open();
    for of in names {
        for round in 0..4 {
            put(&engine, of, 0..20, round).await;
            engine.compact(&name(of)).await.unwrap();
            node.clock.advance(HOUR_MS);
        }
    }
    for (of, which) in [("a", 2), ("c", 0)] {
        let file = manifests(&node, &engine, of)[which].clone();
        harm(&node, &file, Harm::Torn);
    }
    let engine = node.cut_power(engine);
    node.clock.advance(30 * DAY_MS);
    for _ in 0..3 {
        engine.tend().await.unwrap();
        engine.rebuild_index().unwrap();
    }
    for of in names {
        assert_eq!(engine.history(&name(of)).unwrap().len(), 1, "{of}");
        assert_eq!(manifests(&node, &engine, of).len(), 1, "{of}");
        assert_eq!(all(&engine, of).len(), 20, "{of}");
    }
    assert_eq!(engine.node_status()["damaged"], json!([]), "what was damaged is gone");
    assert_eq!(objects(&node).len(), names.len(), "{:?}", objects(&node));
    assert!(engine.check(4).unwrap().is_whole());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_past_state_that_is_found_while_the_index_is_trusted_stops_nothing() {
    let node = Node::new(23);
    let engine = node.open();
    for of in ["a", "b"] {
        for round in 0..4 {
            put(&engine, of, 0..20, round).await;
            engine.compact(&name(of)).await.unwrap();
            node.clock.advance(HOUR_MS);
        }
    }
    let files = manifests(&node, &engine, "a");
    harm(&node, &files[2], Harm::Unreadable);
    node.clock.advance(30 * DAY_MS);
    // A directory in the place of a file cannot be removed like one: the others go on.
    let _ = engine.tend().await;
    assert_eq!(engine.history(&name("b")).unwrap().len(), 1);
    node.disk.remove_dir(&files[2]).unwrap();
    publish(&node.disk, &files[2], b"{}").unwrap();
    for _ in 0..3 {
        engine.tend().await.unwrap();
        engine.rebuild_index().unwrap();
    }
    assert_eq!(engine.history(&name("a")).unwrap().len(), 1);
    assert_eq!(engine.repair().unwrap(), (0, 0));
    assert_eq!(objects(&node).len(), 2, "{:?}", objects(&node));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_name_keeps_what_it_may_mean_and_others_are_reclaimed() {
    let (node, engine) = node(24).await;
    let expected = all(&engine, "main");
    let dir = PathBuf::from("/data/local/names/default/default/main");
    let binding = dir.join(&node.disk.list(&dir).unwrap()[0].name);
    drop(engine);
    node.disk.remove(Path::new("/data/meta.redb")).unwrap();
    let whole = harm(&node, &binding, Harm::Torn);
    let engine = node.open();
    assert_eq!(engine.view(&name("main")).err().unwrap().kind(), Kind::Corrupt);
    let damaged = engine.node_status()["damaged"].clone();
    assert_eq!((damaged[0]["kind"].as_str(), damaged.as_array().unwrap().len()), (Some("name"), 1), "{damaged}");
    let before = store_bytes(&node);
    churn(&engine, "other").await;
    engine.sweep().unwrap();
    let after = store_bytes(&node);
    assert!(after < before * 2, "{before} bytes grew to {after}");
    // The stop is no clean one: the next start looks at the names again.
    engine.shutdown().await.unwrap();
    drop(engine);
    let engine = node.open();
    assert_eq!(engine.view(&name("main")).err().unwrap().kind(), Kind::Corrupt);
    heal(&node, &binding, &whole);
    for _ in 0..3 {
        engine.tend().await.unwrap();
    }
    engine.rebuild_index().unwrap();
    assert_eq!(engine.node_status()["damaged"], json!([]));
    assert_eq!(all(&engine, "main"), expected);
    assert!(engine.check(4).unwrap().is_whole());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tombstones_of_others_go_although_a_file_is_unreadable() {
    let (node, engine) = node(25).await;
    let elsewhere = shoal::model::ids::Project::new("acme", "search").unwrap().namespace("docs").unwrap();
    let body = json!({"upsert_rows": [{"id": 1}, {"id": 2}]});
    let shoal::api::wire::write::WriteBody::Write(request) = shoal::api::wire::write::parse_write(body).unwrap()
    else {
        panic!("expected a write")
    };
    engine.write(&elsewhere, *request).await.unwrap();
    engine.checkpoint(&elsewhere).await.unwrap();
    let newest = manifests(&node, &engine, "child").pop().unwrap();
    drop(engine);
    node.disk.remove(Path::new("/data/meta.redb")).unwrap();
    harm(&node, &newest, Harm::Unreadable);
    let engine = node.open();
    let body = json!({"deletes": [1]});
    let shoal::api::wire::write::WriteBody::Write(request) = shoal::api::wire::write::parse_write(body).unwrap()
    else {
        panic!("expected a write")
    };
    engine.write(&elsewhere, *request).await.unwrap();
    write(&engine, "main", json!({"deletes": [1]})).await;
    engine.compact(&elsewhere).await.unwrap();
    engine.compact(&name("main")).await.unwrap();
    node.clock.advance(31 * DAY_MS);
    let dropped = |of: &shoal::model::ids::NamespaceName| {
        let view = engine.view(of).unwrap();
        view.segments.iter().map(|part| part.segment.tombstone_count()).sum::<u32>()
    };
    // Another merge of segments drops those that nobody needs: the unreadable branch may need those of its own project.
    write(&engine, "main", json!({"deletes": [2]})).await;
    let body = json!({"upsert_rows": [{"id": 7}]});
    let shoal::api::wire::write::WriteBody::Write(request) = shoal::api::wire::write::parse_write(body).unwrap()
    else {
        panic!("expected a write")
    };
    engine.write(&elsewhere, *request).await.unwrap();
    engine.compact(&elsewhere).await.unwrap();
    engine.compact(&name("main")).await.unwrap();
    assert_eq!(dropped(&elsewhere), 0);
    assert_eq!(dropped(&name("main")), 2);
}
