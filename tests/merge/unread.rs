//! A state that both sides had in common and that cannot be read: the merge says so, and is right once it can.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value as Json, json};
use shoal::engine::Engine;
use shoal::engine::check::{Remedy, RepairRequest, Scope};
use shoal::engine::merge::decide::Policy;
use shoal::error::Kind;
use shoal::platform::disk::Disk as _;

use crate::node::{Documents, Node, all, branch, name, put, write};
use crate::policies::merge;

/// A child that wrote document 0 again as it was, which the parent changed, and a document 2 that the parent deleted.
async fn apart(node: &Node, merged_before: bool) -> Arc<Engine> {
    let engine = node.open();
    put(&engine, "main", 0..4, 1).await;
    branch(&engine, "main", "child").await;
    if merged_before {
        put(&engine, "child", [9], 1).await;
        merge(&engine, "child", "main", Policy::Fail).await.unwrap();
    }
    put(&engine, "main", [0], 5).await;
    write(&engine, "main", json!({"deletes": [2]})).await;
    put(&engine, "child", [0, 7], 1).await;
    engine
}

fn dir_of(engine: &Engine, namespace: &str) -> PathBuf {
    Path::new("/data/local").join(engine.status(&name(namespace)).unwrap()["nsid"].as_str().unwrap())
}

fn is_right(found: &Documents, merged_before: bool) {
    let n = |(id, row): (&shoal::model::ids::DocId, &std::collections::BTreeMap<String, Json>)| {
        (id.to_string(), row["n"].clone())
    };
    let mut expected = vec![("0", 5), ("1", 1), ("3", 1), ("7", 1)];
    if merged_before {
        expected.push(("9", 1));
    }
    let expected: Vec<(String, Json)> = expected.into_iter().map(|(id, n)| (id.to_owned(), json!(n))).collect();
    assert_eq!(found.iter().map(n).collect::<Vec<_>>(), expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merge_whose_common_state_cannot_be_read_is_refused_and_right_afterwards() {
    for merged_before in [false, true] {
        let node = Node::new(80);
        let engine = apart(&node, merged_before).await;
        let base = if merged_before {
            let dir = dir_of(&engine, "main").join("bases");
            dir.join(&node.disk.list(&dir).unwrap()[0].name)
        } else {
            dir_of(&engine, "child").join(format!("{:020}.json", 0))
        };
        assert!(node.disk.size(&base).is_ok(), "{}", base.display());
        let before = all(&engine, "main");
        node.disk.set_unreadable(Some(base));
        for policy in [Policy::Lww, Policy::Theirs, Policy::Fields] {
            let error = merge(&engine, "child", "main", policy).await.unwrap_err();
            assert!(error.message().contains("had in common"), "{error}");
            assert_eq!(all(&engine, "main"), before);
        }
        node.disk.set_unreadable(None);
        merge(&engine, "child", "main", Policy::Lww).await.unwrap();
        is_right(&all(&engine, "main"), merged_before);
        assert!(engine.check(4).unwrap().is_whole());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_base_that_is_damaged_for_good_is_given_up_by_name_and_merges_go_on() {
    let mut node = Node::new(81);
    node.config.retention_ms = 0;
    let mut engine = apart(&node, true).await;
    for namespace in ["main", "child"] {
        engine.checkpoint(&name(namespace)).await.unwrap();
    }
    let dir = dir_of(&engine, "main").join("bases");
    let base = dir.join(&node.disk.list(&dir).unwrap()[0].name);
    node.disk.rot(&base, |bytes| bytes.truncate(20)).unwrap();
    let error = merge(&engine, "child", "main", Policy::Lww).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    assert!(error.hint().unwrap().contains("--drop-damaged default/default/main"), "{error:?}");
    let found = engine.check(3).unwrap();
    let [problem] = &found.problems[..] else { panic!("{found:?}") };
    assert_eq!(
        (problem.remedy, problem.file.as_str()),
        (Remedy::DropDamaged, &base.display().to_string()["/data/".len()..])
    );
    engine = node.cut_power(engine);
    let request =
        RepairRequest { scope: Scope::Store, dry_run: false, drop_damaged: Some(name("main")), force: false };
    let done = engine.repair_in(&request).unwrap();
    assert!(done.actions.iter().any(|action| action.what.contains("an older state")), "{done:?}");
    assert!(engine.check(4).unwrap().is_whole());
    // What an older state says of document 0 may not be the newest that both had: the later write wins, and it is a conflict.
    let report = merge(&engine, "child", "main", Policy::Lww).await.unwrap();
    assert_eq!(report.conflicts, 1, "{report:?}");
    assert_eq!(all(&engine, "main").len(), 5);
    assert!(engine.check(4).unwrap().is_whole());
}
