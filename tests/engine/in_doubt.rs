//! What may be in place though its writing failed, and what is done with it before anybody knows.

use serde_json::json;
use shoal::engine::layout::Layout;
use shoal::engine::lineage::BranchRequest;
use shoal::engine::merge::MergeRequest;
use shoal::model::as_of::AsOf;
use shoal::model::ids::Project;
use shoal::platform::disk::Disk as _;

use crate::after_faults::hooked;
use crate::node::{Node, all, documents, name, put};

const HOUR_MS: u64 = 3_600_000;
/// A power cut takes or leaves each name that is not durable.
const CUTS: u64 = 6;

/// A node with four segments of ten documents each.
async fn node(seed: u64) -> (Node, crate::hook_disk::HookDisk, std::sync::Arc<shoal::engine::Engine>) {
    let mut node = Node::new(seed);
    node.config.retention_ms = HOUR_MS;
    (node.config.compaction_fan_in, node.config.compaction_dead_percent) = (1_000, 1_000);
    let (disk, engine) = hooked(&node);
    for n in 0..4 {
        put(&engine, "docs", n * 10..n * 10 + 10, n).await;
        engine.checkpoint(&name("docs")).await.unwrap();
    }
    (node, disk, engine)
}

fn nsid(engine: &shoal::engine::Engine) -> String {
    engine.nsid_of(&name("docs")).unwrap().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_stop_vouches_for_no_manifest_in_doubt() {
    for seed in 0..CUTS {
        let (node, disk, engine) = node(seed).await;
        let dir = format!("/local/{}", nsid(&engine));
        disk.let_stick(Some(dir.clone()));
        disk.let_sync_fail(Some(dir));
        engine.compact(&name("docs")).await.unwrap_err();
        let _ = engine.rebuild_index();
        engine.shutdown().await.unwrap();
        let engine = node.cut_power(engine);
        assert_eq!(all(&engine, "docs").len(), 40);
        assert!(engine.check(4).unwrap().is_whole());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_namespace_whose_manifest_cannot_be_read_just_then_is_kept() {
    let (node, _, engine) = node(1).await;
    let dir = Layout::new("/data").local().join(nsid(&engine));
    let newest = node.disk.names(&dir).unwrap().into_iter().max().unwrap();
    node.disk.set_unreadable(Some(dir.join(newest)));
    engine.delete(&name("docs")).await.unwrap();
    node.disk.set_unreadable(None);
    engine.rebuild_index().unwrap();
    assert_eq!(engine.deleted(&Project::default_project()).len(), 1);
    engine.undelete(&name("docs"), None).await.unwrap();
    assert_eq!(all(&engine, "docs").len(), 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_in_doubt_keeps_what_either_of_its_revisions_needs() {
    for seed in 0..CUTS {
        let (node, disk, engine) = node(seed).await;
        engine.tag(&name("docs"), "prod", None).await.unwrap();
        engine.compact(&name("docs")).await.unwrap();
        disk.let_stick(Some("/prod".to_owned()));
        disk.let_sync_fail(Some("/prod".to_owned()));
        engine.untag(&name("docs"), "prod").await.unwrap_err();
        for _ in 0..3 {
            node.clock.advance(2 * HOUR_MS);
            let _ = engine.tend().await;
            let _ = engine.rebuild_index();
        }
        let engine = node.cut_power(engine);
        engine.rebuild_index().unwrap();
        if let Ok(view) = engine.view_at(&name("docs"), Some(&AsOf::Tag("prod".into()))) {
            assert_eq!(documents(&view).len(), 40);
        }
        assert!(engine.check(4).unwrap().is_whole());
        assert_eq!(all(&engine, "docs").len(), 40);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_undeleted_goes_by_no_manifest_that_is_taken_back_then() {
    let (node, disk, engine) = node(3).await;
    engine.set_ttl(&name("docs"), Some(100 * HOUR_MS)).await.unwrap();
    put(&engine, "docs", 40..45, 5).await;
    let dir = format!("/local/{}", nsid(&engine));
    disk.let_stick(Some(dir.clone()));
    disk.let_sync_fail(Some(dir));
    engine.checkpoint(&name("docs")).await.unwrap_err();
    disk.let_stick(None);
    disk.let_sync_fail(None);
    engine.delete(&name("docs")).await.unwrap();
    engine.undelete(&name("docs"), None).await.unwrap();
    let history = engine.history(&name("docs")).unwrap();
    for state in &history {
        let as_of = AsOf::Generation(state.generation);
        assert!(
            engine.view_at(&name("docs"), Some(&as_of)).is_ok(),
            "generation {} of {history:?}",
            state.generation
        );
    }
    let engine = node.cut_power(engine);
    assert_eq!(all(&engine, "docs").len(), 45);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_that_cannot_be_made_leave_nothing() {
    let (node, disk, engine) = node(4).await;
    let log = Layout::new("/data").log();
    disk.let_sync_fail(Some(log.display().to_string()));
    for _ in 0..20 {
        crate::write(&engine, "docs", json!({"upsert_rows": [{"id": 99}]})).await.unwrap_err();
    }
    assert!(node.disk.names(&log).unwrap().len() <= 1, "{:?}", node.disk.names(&log));
    disk.let_sync_fail(None);
    put(&engine, "docs", 40..45, 5).await;
    let engine = node.cut_power(engine);
    assert_eq!(all(&engine, "docs").len(), 45);
}

/// What changes a namespace besides writes, and was told done.
async fn change(engine: &std::sync::Arc<shoal::engine::Engine>, how: &str) {
    let docs = name("docs");
    match how {
        "checkpoint" => engine.checkpoint(&docs).await.unwrap(),
        "labels" => engine.set_labels(&docs, [("site".to_owned(), "berlin".to_owned())].into()).await.unwrap(),
        "time to live" => drop(engine.set_ttl(&docs, Some(HOUR_MS)).await.unwrap()),
        "tag" => drop(engine.tag(&docs, "prod", None).await.unwrap()),
        "compact" => engine.compact(&docs).await.unwrap(),
        "ids" => drop(engine.allocate_ids(&docs, 3).await.unwrap()),
        "read only" => engine.update_metadata(&docs, Some(true), None).await.unwrap(),
        "merge" => drop(engine.merge(&name("side"), &docs, MergeRequest::default()).await.unwrap()),
        "revert" => drop(engine.revert(&docs, &AsOf::Generation(1)).await.unwrap()),
        _ => crate::write(engine, "docs", json!({"upsert_rows": [{"id": 99}]})).await.map(drop).unwrap(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_done_after_a_deletion_in_doubt_is_there_at_the_next_start() {
    let ways =
        ["write", "checkpoint", "labels", "time to live", "tag", "compact", "ids", "read only", "merge", "revert"];
    for (seed, how) in ways.into_iter().enumerate() {
        let (node, disk, engine) = node(seed as u64).await;
        engine.branch(&name("docs"), &name("side"), BranchRequest::default()).await.unwrap();
        put(&engine, "side", 40..45, 5).await;
        let names = Some(Layout::new("/data").bindings(&name("docs")).display().to_string());
        // The file is durable, and neither that nor its removal is told.
        disk.let_stick(names.clone());
        disk.let_sync_fail(names);
        assert_eq!(engine.delete(&name("docs")).await.unwrap_err().code(), "binding_unknown");
        disk.let_stick(None);
        disk.let_sync_fail(None);
        change(&engine, how).await;
        node.disk.sync_dir(&Layout::new("/data").bindings(&name("docs"))).unwrap();
        let engine = node.cut_power(engine);
        assert!(engine.view(&name("docs")).is_ok(), "{how}: it was done, and the namespace is gone");
    }
}
