//! Conflicts that nobody resolved travel with their namespace, and are resolved there like here.

use std::io::Cursor;
use std::sync::Arc;

use serde_json::json;
use shoal::engine::Engine;
use shoal::engine::lineage::BranchRequest;
use shoal::engine::merge::decide::Policy;
use shoal::engine::merge::{LostState, MergeRequest};
use shoal::error::Kind;
use shoal::format::snapshot::ObjectKind;
use shoal::model::as_of::AsOf;
use shoal::model::ids::{NamespaceName, Project};
use shoal::model::value_render::id_json;
use shoal::platform::disk::Disk;
use shoal::snapshot::restore::restore;
use shoal::snapshot::take::Extent;

use super::copies::copied;
use super::node::{Node, contents, fill, fill_few, name, restored, rewritten, row, rows, snapshot, write};

/// Makes a namespace keep three states that lost: of document `n` a change, of the next one a change against a deletion, and
/// of the one after it a deletion against a change.
pub async fn disagree(engine: &Arc<Engine>, of: &str, n: u64) {
    let side = format!("{of}-side");
    engine.branch(&name(of), &name(&side), BranchRequest::default()).await.unwrap();
    let patch = |n: u64, int: i64| json!({"patch_rows": [{"id": row(n)["id"], "int": int}]});
    write(engine, &side, patch(n, 500)).await;
    write(engine, &side, patch(n + 1, 600)).await;
    write(engine, &side, json!({"deletes": [row(n + 2)["id"]]})).await;
    write(engine, of, patch(n, 50)).await;
    write(engine, of, json!({"deletes": [row(n + 1)["id"]]})).await;
    write(engine, of, patch(n + 2, 70)).await;
    let request = MergeRequest { policy: Policy::Ours, ..MergeRequest::default() };
    let report = engine.merge(&name(&side), &name(of), request).await.unwrap();
    assert_eq!(report.conflicts, 3);
    engine.delete(&name(&side)).await.unwrap();
}

pub fn lost(engine: &Engine, namespace: &NamespaceName) -> Vec<LostState> {
    let mut found = Vec::new();
    let each = |state| {
        found.push(state);
        Ok(())
    };
    engine.conflicts(namespace, each).unwrap();
    found
}

fn is_whole(engine: &Arc<Engine>) {
    let report = tokio::task::block_in_place(|| engine.check(4)).unwrap();
    assert!(report.is_whole() && report.orphans == 0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_restored_or_copied_lists_and_resolves_the_conflicts_of_the_original() {
    let (here, there) = (Node::new(61), Node::new(62));
    let (engine, other) = (here.open().unwrap(), there.open().unwrap());
    fill_few(&engine, "docs").await;
    disagree(&engine, "docs", 5).await;
    let expected = lost(&engine, &name("docs"));
    assert_eq!(expected.len(), 3);
    for (extent, to) in [(Extent::Full, "full"), (Extent::Flattened, "flat")] {
        let bytes = snapshot(&engine, "docs", extent).await.unwrap();
        restored(&other, to, &bytes).await.unwrap();
    }
    restored(&other, "docs", &snapshot(&engine, "docs", Extent::Full).await.unwrap()).await.unwrap();
    let elsewhere = Project::new("acme", "search").unwrap().namespace("docs").unwrap();
    for to in [name("copy"), elsewhere.clone()] {
        copied(&other, &name("docs"), &to).await.unwrap();
    }
    other.delete(&name("docs")).await.unwrap();
    tokio::task::block_in_place(|| other.sweep()).unwrap();
    drop(other);
    there.cut_power();
    let other = there.open().unwrap();
    for namespace in [name("full"), name("flat"), name("copy"), elsewhere] {
        let found = lost(&other, &namespace);
        assert_eq!(found, expected, "{namespace}");
        let documents = contents(&other, &namespace).await.unwrap().len();
        for state in &found {
            let before = contents(&other, &namespace).await.unwrap().len() as i64;
            other.replay(&namespace, state.token, None).await.unwrap();
            let change = contents(&other, &namespace).await.unwrap().len() as i64 - before;
            // One replaces the state that won, one comes back after a deletion, one is a deletion.
            let at = [5, 6, 7].into_iter().position(|n| id_json(&state.id) == row(n)["id"]).unwrap();
            assert_eq!(change, [0, 1, -1][at], "{namespace}: {state:?}");
        }
        assert_eq!(contents(&other, &namespace).await.unwrap().len(), documents);
        assert_eq!(lost(&other, &namespace), []);
        assert_eq!(other.acknowledge(&namespace, None).await.unwrap(), 0);
        let again = other.replay(&namespace, found[0].token, None).await.unwrap_err();
        assert_eq!(again.kind(), Kind::NotFound);
        tokio::task::block_in_place(|| other.sweep()).unwrap();
        is_whole(&other);
    }
    // The original has them still.
    assert_eq!(lost(&engine, &name("docs")), expected);
    assert_eq!(engine.acknowledge(&name("docs"), Some(expected[1].token)).await.unwrap(), 1);
    is_whole(&engine);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn increments_follow_the_conflicts_of_their_source() {
    let (here, there) = (Node::new(63), Node::new(64));
    let (engine, other) = (here.open().unwrap(), there.open().unwrap());
    fill(&engine, "docs").await;
    let full = snapshot(&engine, "docs", Extent::Full).await.unwrap();
    restored(&other, "docs", &full).await.unwrap();
    let commit = async || engine.moment_at(&name("docs"), None).await.unwrap().manifest.commit_id;
    let mut since = commit().await;
    for step in 0..5_u64 {
        match step {
            // Some come, stay, are resolved one by one, come again, and go.
            0 | 3 => disagree(&engine, "docs", 5 + 3 * step).await,
            1 => write(&engine, "docs", rows(60, 62)).await,
            2 => {
                let first = lost(&engine, &name("docs"))[0].token;
                assert_eq!(engine.acknowledge(&name("docs"), Some(first)).await.unwrap(), 1);
            }
            _ => assert!(engine.acknowledge(&name("docs"), None).await.unwrap() > 0),
        }
        let bundle = snapshot(&engine, "docs", Extent::Since(AsOf::Commit(since))).await.unwrap();
        if step == 1 {
            let with_all = snapshot(&engine, "docs", Extent::Full).await.unwrap();
            assert!(with_all.len() > bundle.len() + 1_000, "what the base has is carried again");
        }
        since = commit().await;
        let (to, base, input) = (format!("docs-{step}"), name("docs"), Cursor::new(bundle.clone()));
        restore(&other, &name(&to), Some(&base), input).await.unwrap();
        restored(&other, "docs", &bundle).await.unwrap();
        for to in [name(&to), name("docs")] {
            assert_eq!(lost(&other, &to), lost(&engine, &name("docs")), "step {step}, {to}");
            assert_eq!(contents(&other, &to).await.unwrap(), contents(&engine, &name("docs")).await.unwrap());
        }
        is_whole(&other);
    }
    drop(other);
    there.cut_power();
    let other = there.open().unwrap();
    assert_eq!(lost(&other, &name("docs-1")).len(), 3);
    is_whole(&other);
}

/// Fills a namespace that has conflicts and is written to after its snapshot was taken. Gives that, and what an increment goes on
/// from.
async fn taken_and_written_on(engine: &Arc<Engine>) -> (Vec<u8>, Extent) {
    fill(engine, "docs").await;
    disagree(engine, "docs", 5).await;
    let full = snapshot(engine, "docs", Extent::Full).await.unwrap();
    let commit = engine.moment_at(&name("docs"), None).await.unwrap().manifest.commit_id;
    write(engine, "docs", rows(60, 62)).await;
    (full, Extent::Since(AsOf::Commit(commit)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_increment_is_refused_where_conflicts_were_resolved_that_it_goes_on_from() {
    let (here, there) = (Node::new(65), Node::new(66));
    let (engine, other) = (here.open().unwrap(), there.open().unwrap());
    let (full, since) = taken_and_written_on(&engine).await;
    let increment = snapshot(&engine, "docs", since).await.unwrap();
    restored(&other, "docs", &full).await.unwrap();
    let token = lost(&other, &name("docs"))[0].token;
    other.acknowledge(&name("docs"), Some(token)).await.unwrap();
    let error = restored(&other, "docs", &increment).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Conflict);
    assert!(error.message().contains("its unresolved conflicts are others"), "{error}");
    assert_eq!(lost(&other, &name("docs")).len(), 2);
    is_whole(&other);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_object_of_conflicts_is_named_before_anything_is_written() {
    let node = Node::new(67);
    let engine = node.open().unwrap();
    fill(&engine, "docs").await;
    disagree(&engine, "docs", 5).await;
    let key = engine.moment_at(&name("docs"), None).await.unwrap().manifest.conflicts[0].clone();
    let path = std::path::Path::new("/data/store").join(&key);
    node.disk.random_access(&path).unwrap().write_at(40, b"x").unwrap();
    let error = snapshot(&engine, "docs", Extent::Full).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt);
    assert!(error.message().contains(&key), "{error}");
    let error = copied(&engine, &name("docs"), &name("copy")).await.unwrap_err();
    assert!(error.message().contains(&key), "{error}");
    assert!(contents(&engine, &name("copy")).await.is_err());
}

/// A snapshot as it was written before conflicts travelled.
fn of_version_1(bytes: &[u8]) -> Vec<u8> {
    rewritten(bytes, |description, manifest| {
        (description.format, description.conflicts) = (1, Vec::new());
        let base = description.base.iter_mut();
        base.for_each(|base| base.objects.retain(|member| member.kind != ObjectKind::Conflicts));
        manifest.conflicts.clear();
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_of_version_1_has_no_conflicts_and_leaves_those_of_its_base() {
    let (here, there) = (Node::new(68), Node::new(69));
    let (engine, other) = (here.open().unwrap(), there.open().unwrap());
    let (full, since) = taken_and_written_on(&engine).await;
    disagree(&engine, "docs", 8).await;
    let increment = snapshot(&engine, "docs", since).await.unwrap();
    assert_eq!((full[8], increment[8]), (2, 2));
    let older = of_version_1(&increment);
    assert_eq!(older[8], 1);
    restored(&other, "plain", &of_version_1(&full)).await.unwrap();
    assert_eq!(lost(&other, &name("plain")), []);
    restored(&other, "docs", &full).await.unwrap();
    let kept = lost(&other, &name("docs"));
    assert_eq!(kept.len(), 3);
    restore(&other, &name("next"), Some(&name("docs")), Cursor::new(older.clone())).await.unwrap();
    restored(&other, "docs", &older).await.unwrap();
    for (to, expected) in [("next", kept.as_slice()), ("docs", &kept), ("plain", &[])] {
        if to == "plain" {
            restored(&other, to, &older).await.unwrap();
        }
        assert_eq!(lost(&other, &name(to)), expected, "{to}");
        assert_eq!(contents(&other, &name(to)).await.unwrap(), contents(&engine, &name("docs")).await.unwrap());
    }
    is_whole(&other);
}
