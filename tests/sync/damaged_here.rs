//! Files on a node that the disk damaged while the bucket has them: they are read again, and nobody loses a document.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use shoal::engine::Engine;
use shoal::engine::check::{Remedy, RepairReport, RepairRequest, Scope};
use shoal::engine::merge::decide::Policy;
use shoal::model::as_of::AsOf;
use shoal::platform::disk::{Disk, publish};
use shoal::platform::memory_disk::{Mishap, MishapKind};
use shoal::store::Bucket;
use shoal::sync::{Reclaim, Selection, Sync};

use crate::fleet::{bucket, meet, options, sync};
use crate::node::{DAY_MS, Node, all, name, put, write};
use crate::tags::{at, tag};
use crate::upkeep::reclaim;

/// Two nodes that are together, with a segment and a deletion bitmap.
async fn together() -> (Bucket, [Node; 2], [Arc<Engine>; 2]) {
    let (bucket, nodes) = (bucket(1), [Node::new(1), Node::new(2)]);
    let engines = [nodes[0].open(), nodes[1].open()];
    let both = [(&nodes[0], &engines[0]), (&nodes[1], &engines[1])];
    put(&engines[0], "docs", 0..20, 1).await;
    meet(&both, &bucket).await;
    write(&engines[0], "docs", json!({"deletes": [3]})).await;
    put(&engines[0], "docs", [30], 2).await;
    meet(&both, &bucket).await;
    (bucket, nodes, engines)
}

/// The files of the objects of a node, in the order of their names.
pub fn objects(node: &Node) -> Vec<PathBuf> {
    let (mut found, mut dirs) = (Vec::new(), vec![PathBuf::from("/data/store/default")]);
    while let Some(dir) = dirs.pop() {
        for entry in node.disk.list(&dir).unwrap() {
            let path = dir.join(&entry.name);
            if entry.is_dir { dirs.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}

fn damage(node: &Node, file: &Path) {
    let mut bytes = node.disk.read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    publish(&node.disk, file, &bytes).unwrap();
}

pub fn repair(engine: &Engine, drop_damaged: Option<&str>) -> shoal::error::Result<RepairReport> {
    let drop_damaged = drop_damaged.map(name);
    engine.repair_in(&RepairRequest { scope: Scope::Store, dry_run: false, drop_damaged, force: false })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_bucket_has_of_a_damaged_file_is_read_again_also_under_an_open_namespace() {
    let (bucket, nodes, engines) = together().await;
    let expected = all(&engines[1], "docs");
    let mut mended = Vec::new();
    for file in objects(&nodes[0]) {
        damage(&nodes[0], &file);
        let found = engines[0].check(3).unwrap();
        assert!(!found.problems.is_empty(), "{}", file.display());
        // Each pass has the engine know the bucket.
        let _attached = Sync::new(engines[0].clone(), bucket.clone(), options(Policy::Lww), nodes[0].clock.clone());
        let done = repair(&engines[0], None).unwrap();
        assert_eq!(done.remaining, [], "{}", file.display());
        assert!(engines[0].check(4).unwrap().is_whole());
        assert_eq!(all(&engines[0], "docs"), expected);
        mended.extend(found.problems.into_iter().filter(|p| p.remedy == Remedy::ReadAgain).map(|p| p.file));
    }
    // The deletions are made anew from what is here.
    assert_eq!(mended.len(), 2, "{mended:?}");
    assert_eq!(all(&nodes[0].cut_power(engines[0].clone()), "docs"), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_bucket_has_is_not_given_up_and_no_node_loses_a_document() {
    let (bucket, nodes, [engine, other]) = together().await;
    let expected = all(&other, "docs");
    drop(engine);
    let segments = objects(&nodes[0]).into_iter().filter(|file| file.ends_with("data.seg"));
    segments.for_each(|file| damage(&nodes[0], &file));
    // The daemon is stopped, and so nobody can ask the bucket.
    let engine = nodes[0].open();
    let refused = repair(&engine, Some("docs")).unwrap_err();
    assert!(refused.message().contains("the bucket has it"), "{refused}");
    assert!(refused.hint().unwrap().contains("while the daemon serves"), "{refused}");
    let failed = repair(&engine, None).unwrap();
    assert!(failed.actions.iter().any(|action| action.failed.as_ref().is_some_and(|why| why.contains("no bucket"))));
    let _attached = Sync::new(engine.clone(), bucket.clone(), options(Policy::Lww), nodes[0].clock.clone());
    assert_eq!(repair(&engine, None).unwrap().remaining, []);
    sync(&nodes[0], &engine, &bucket).await.unwrap();
    sync(&nodes[1], &other, &bucket).await.unwrap();
    assert_eq!((all(&engine, "docs"), all(&other, "docs")), (expected.clone(), expected));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_wrong_in_the_bucket_too_replaces_nothing() {
    let (bucket, nodes, [engine, _other]) = together().await;
    let segment = objects(&nodes[0]).into_iter().find(|file| file.ends_with("data.seg")).unwrap();
    damage(&nodes[0], &segment);
    let key = segment.strip_prefix("/data/store").unwrap().display().to_string();
    let damaged = nodes[0].disk.read(&segment).unwrap();
    let mut theirs = damaged.clone();
    theirs[0] ^= 1;
    bucket.put(&key, theirs.into(), &shoal::store::Patience::ASKED).await.unwrap();
    let _attached = Sync::new(engine.clone(), bucket.clone(), options(Policy::Lww), nodes[0].clock.clone());
    let done = repair(&engine, None).unwrap();
    assert!(
        done.actions
            .iter()
            .any(|action| action.failed.as_ref().is_some_and(|why| why.contains("in the bucket: checksum")))
    );
    assert_eq!(nodes[0].disk.read(&segment).unwrap(), damaged);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_wrong_is_not_sent_and_a_later_pass_sends_what_is_there() {
    let mut refused = 0;
    for after in 0..4 {
        let (bucket, node) = (bucket(1), Node::new(1));
        let engine = node.open();
        put(&engine, "docs", 0..20, 1).await;
        engine.checkpoint(&name("docs")).await.unwrap();
        put(&engine, "docs", [3, 30], 2).await;
        engine.checkpoint(&name("docs")).await.unwrap();
        let mishap =
            Mishap { after, within: Some("/store/default/".to_owned()), kind: MishapKind::ReadsWrong(9_000) };
        node.disk.set_mishap(Some(mishap));
        let first = sync(&node, &engine, &bucket).await;
        node.disk.set_mishap(None);
        if !node.disk.take_happened().is_empty() {
            refused += u32::from(first.is_err());
        }
        sync(&node, &engine, &bucket).await.unwrap();
        assert_eq!(crate::fleet::fresh(9, &bucket, "docs").await, all(&engine, "docs"), "{after}: {first:?}");
    }
    assert!(refused > 0, "nothing was read wrong");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_tag_needs_is_read_again_and_a_lost_tag_is_taken_from_the_bucket_again() {
    let (bucket, nodes, engines) = together().await;
    let both = [(&nodes[0], &engines[0]), (&nodes[1], &engines[1])];
    let (node, engine) = both[0];
    tag(engine, "docs", "t").await;
    let tagged = all(engine, "docs");
    meet(&both, &bucket).await;
    put(engine, "docs", 0..40, 3).await;
    engine.compact(&name("docs")).await.unwrap();
    meet(&both, &bucket).await;
    let newest = all(engine, "docs");
    let in_tag: Vec<PathBuf> = {
        let nsid = engine.status(&name("docs")).unwrap()["nsid"].as_str().unwrap().to_owned();
        let dir = PathBuf::from(format!("/data/local/{nsid}/tags/t"));
        node.disk.list(&dir).unwrap().into_iter().map(|entry| dir.join(entry.name)).collect()
    };
    let has_tag = |engine: &Engine| engine.view_at(&name("docs"), Some(&AsOf::Tag("t".into()))).is_ok();
    let mut mended = 0;
    for file in objects(node) {
        let whole = node.disk.read(&file).unwrap();
        damage(node, &file);
        let is_found = !engine.check(3).unwrap().is_whole();
        let _attached = Sync::new(engine.clone(), bucket.clone(), options(Policy::Lww), node.clock.clone());
        let done = repair(engine, None).unwrap();
        if is_found && done.remaining.is_empty() {
            mended += 1;
            assert!(node.disk.read(&file).unwrap() == whole, "{}", file.display());
        }
        publish(&node.disk, &file, &whole).unwrap();
        assert_eq!((at(engine, "docs", "t"), all(engine, "docs")), (tagged.clone(), newest.clone()));
    }
    assert!(mended >= 3, "{mended}");
    for is_damaged in [true, false] {
        for file in &in_tag {
            if is_damaged { damage(node, file) } else { node.disk.remove(file).unwrap() }
        }
        assert!(!has_tag(engine));
        // A pass that finds no news asks for nothing.
        sync(node, engine, &bucket).await.unwrap();
        assert!(!has_tag(engine));
        let before: Vec<_> = in_tag.iter().map(|file| node.disk.read(file).ok()).collect();
        let would = Sync::new(engine.clone(), bucket.clone(), options(Policy::Lww), node.clock.clone());
        let ask = Reclaim { retention_ms: DAY_MS, dry_run: true, ..Reclaim::default() };
        assert!(would.reclaim(&Selection::default(), &ask).await.failed.is_none());
        let request = RepairRequest { scope: Scope::Store, dry_run: true, drop_damaged: None, force: false };
        engine.repair_in(&request).unwrap();
        sync(node, engine, &bucket).await.unwrap();
        let after: Vec<_> = in_tag.iter().map(|file| node.disk.read(file).ok()).collect();
        assert_eq!((after, has_tag(engine)), (before, false), "dry runs change nothing");
        if is_damaged {
            let done = repair(engine, None).unwrap();
            assert!(done.actions[0].what.ends_with("in the next pass: t"), "{done:?}");
        } else {
            assert!(reclaim(node, engine, &bucket, DAY_MS).await.failed.is_none());
        }
        sync(node, engine, &bucket).await.unwrap();
        assert_eq!(at(engine, "docs", "t"), tagged, "damaged: {is_damaged}");
        engine.rebuild_index().unwrap();
        assert_eq!(engine.check(4).unwrap().problems, []);
    }
    let engine = node.cut_power(engine.clone());
    assert_eq!(at(&engine, "docs", "t"), tagged);
    engine.untag(&name("docs"), "t").await.unwrap();
    sync(node, &engine, &bucket).await.unwrap();
    repair(&engine, None).unwrap();
    meet(&[(node, &engine), both[1]], &bucket).await;
    assert!(!has_tag(&engine) && !has_tag(both[1].1), "a deleted one stays so");
}
