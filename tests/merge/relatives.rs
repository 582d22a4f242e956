//! What was merged into a namespace before a branch of it began is common to the branch, too: what only one side changed since is no
//! conflict, between whichever two of a family.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use shoal::engine::Engine;
use shoal::engine::merge::decide::Policy;
use shoal::error::Kind;
use shoal::model::ids::DocId;
use shoal::platform::disk::Disk as _;

use crate::node::{Node, all, branch, name, put, write};
use crate::policies::merge;

/// A parent `p` and its branch `b`, which both changed document 3; then `b` was merged into `p`, and each has a branch (`q` of `p`, `c`
/// of `b`), and a branch of that (`r`, `d`).
async fn family(node: &Node, policy: Policy) -> Arc<Engine> {
    let engine = node.open();
    put(&engine, "p", 0..6, 1).await;
    branch(&engine, "p", "b").await;
    put(&engine, "p", [3], 10).await;
    node.clock.advance(1);
    put(&engine, "b", [3], 20).await;
    node.clock.advance(1);
    merge(&engine, "b", "p", policy).await.unwrap();
    for (from, to) in [("p", "q"), ("q", "r"), ("b", "c"), ("c", "d")] {
        branch(&engine, from, to).await;
    }
    node.clock.advance(1);
    engine
}

/// Deletes document 3, or writes it anew.
async fn change(engine: &Arc<Engine>, of: &str, is_deleted: bool) {
    match is_deleted {
        true => write(engine, of, json!({"deletes": [3]})).await,
        false => put(engine, of, [3], 6).await,
    }
}

fn third(engine: &Engine, namespace: &str) -> u64 {
    all(engine, namespace)[&DocId::Uint(3)]["n"].as_u64().unwrap()
}

/// Merges, and expects no conflict, and that document 3 is this then.
async fn is_plain(engine: &Arc<Engine>, (from, into): (&str, &str), policy: Policy, expected: u64) {
    let what = format!("{from} into {into} by {policy}");
    let report = merge(engine, from, into, policy).await.unwrap();
    assert_eq!((report.refused, report.conflicts, third(engine, into)), (false, 0, expected), "{what}: {report:?}");
}

fn base_of(node: &Node, engine: &Engine, keeper: &str) -> PathBuf {
    let nsid = engine.status(&name(keeper)).unwrap()["nsid"].as_str().unwrap().to_owned();
    let dir = Path::new("/data/local").join(nsid).join("bases");
    dir.join(&node.disk.list(&dir).unwrap()[0].name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_the_source_changed_since_it_was_merged_into_an_ancestor_is_taken() {
    for before in [Policy::Theirs, Policy::KeepBoth, Policy::Lww] {
        for from in ["b", "c", "d"] {
            for policy in [Policy::Fail, Policy::Ours, Policy::FieldsOrFail] {
                let node = Node::new(90);
                let mut engine = family(&node, before).await;
                put(&engine, from, [3], 30).await;
                for into in ["r", "q", "p"] {
                    is_plain(&engine, (from, into), policy, 30).await;
                    engine = node.cut_power(engine);
                }
                assert!(engine.check(4).unwrap().is_whole());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_only_the_target_changed_since_it_was_merged_into_an_ancestor_stays() {
    for (from, into) in [("q", "b"), ("r", "c"), ("q", "d")] {
        for policy in [Policy::Fail, Policy::Theirs] {
            let node = Node::new(91);
            let engine = family(&node, Policy::Theirs).await;
            put(&engine, into, [3], 30).await;
            is_plain(&engine, (from, into), policy, 30).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_both_changed_since_it_was_merged_into_an_ancestor_is_a_conflict() {
    let node = Node::new(92);
    let engine = family(&node, Policy::Theirs).await;
    put(&engine, "c", [3], 30).await;
    put(&engine, "q", [3], 40).await;
    let report = merge(&engine, "c", "q", Policy::Fail).await.unwrap();
    assert_eq!((report.refused, report.conflicts), (true, 1), "{report:?}");
    // What both began with is shown.
    assert_eq!(report.listed[0].base.as_ref().unwrap()["n"], json!(20), "{report:?}");
}

/// The bases are kept by a branch here, and by the parent of siblings.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn siblings_have_in_common_what_was_merged_before_one_of_them_began() {
    for policy in [Policy::Fail, Policy::Ours] {
        let node = Node::new(93);
        let engine = node.open();
        put(&engine, "p", 0..6, 1).await;
        branch(&engine, "p", "older").await;
        put(&engine, "older", [3], 20).await;
        put(&engine, "p", [3], 10).await;
        merge(&engine, "older", "p", Policy::Theirs).await.unwrap();
        branch(&engine, "p", "younger").await;
        put(&engine, "older", [3], 30).await;
        is_plain(&engine, ("older", "younger"), policy, 30).await;

        put(&engine, "p", [3], 11).await;
        merge(&engine, "p", "older", Policy::Theirs).await.unwrap();
        branch(&engine, "older", "child").await;
        put(&engine, "p", [3], 12).await;
        is_plain(&engine, ("p", "child"), policy, 12).await;
    }
}

/// Nothing was merged yet: what a grandchild and its grandparent began with is what the one between them began with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grandchild_has_in_common_with_its_grandparent_what_its_parent_began_with() {
    let node = Node::new(94);
    let engine = node.open();
    put(&engine, "p", 0..6, 1).await;
    branch(&engine, "p", "b").await;
    put(&engine, "b", [3], 20).await;
    branch(&engine, "b", "c").await;
    for n in [10, 1] {
        put(&engine, "p", [3], n).await;
    }
    // The parent changed it back.
    is_plain(&engine, ("c", "p"), Policy::Fail, 20).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_ancestor_that_is_gone_knew_is_unknown() {
    for retention_ms in [0, 1_000] {
        let mut node = Node::new(95);
        node.config.retention_ms = retention_ms;
        let engine = family(&node, Policy::Theirs).await;
        engine.delete(&name("p")).await.unwrap();
        put(&engine, "b", [3], 30).await;
        if retention_ms > 0 {
            // It can be had back, and keeps what it knows.
            is_plain(&engine, ("b", "q"), Policy::Fail, 30).await;
            node.clock.advance(2_000);
            engine.tend().await.unwrap();
        }
        let report = merge(&engine, "b", "r", Policy::Fail).await.unwrap();
        assert_eq!((report.refused, report.conflicts), (true, 1), "{report:?}");
        assert!(engine.check(4).unwrap().is_whole());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merge_for_which_the_base_of_an_ancestor_cannot_be_read_is_refused_and_right_afterwards() {
    let node = Node::new(96);
    let engine = family(&node, Policy::Theirs).await;
    put(&engine, "b", [3], 30).await;
    let base = base_of(&node, &engine, "p");
    node.disk.set_unreadable(Some(base.clone()));
    for policy in [Policy::Fail, Policy::Ours] {
        let error = merge(&engine, "b", "q", policy).await.unwrap_err();
        assert!(error.message().contains("had in common, kept by default/default/p"), "{error}");
        assert_eq!(third(&engine, "q"), 20);
    }
    node.disk.set_unreadable(None);
    is_plain(&engine, ("b", "q"), Policy::Ours, 30).await;

    // Damaged for good it is given up by the name of who keeps it.
    node.disk.rot(&base, |bytes| bytes.truncate(20)).unwrap();
    let error = merge(&engine, "b", "r", Policy::Ours).await.unwrap_err();
    assert_eq!(error.kind(), Kind::Corrupt, "{error}");
    assert!(error.hint().unwrap().contains("--drop-damaged default/default/p`"), "{error:?}");
    // Of a deleted one it cannot be given up.
    engine.delete(&name("p")).await.unwrap();
    assert!(merge(&engine, "b", "r", Policy::Fail).await.unwrap().refused);
}

/// No command gives up what a branch began with: where it is damaged, the merge does not compare with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merge_goes_on_where_what_an_ancestor_began_with_is_damaged() {
    let node = Node::new(97);
    let mut engine = node.open();
    put(&engine, "p", 0..6, 1).await;
    branch(&engine, "p", "b").await;
    put(&engine, "b", [3], 20).await;
    engine.checkpoint(&name("b")).await.unwrap();
    branch(&engine, "b", "c").await;
    let nsid = engine.status(&name("b")).unwrap()["nsid"].as_str().unwrap().to_owned();
    let first = Path::new("/data/local").join(nsid).join(format!("{:020}.json", 0));
    node.disk.rot(&first, |bytes| bytes.truncate(20)).unwrap();
    engine = node.cut_power(engine);
    for n in [10, 1] {
        put(&engine, "p", [3], n).await;
    }
    let report = merge(&engine, "c", "p", Policy::Fail).await.unwrap();
    assert_eq!((report.refused, report.conflicts), (true, 1), "{report:?}");
    merge(&engine, "c", "p", Policy::Theirs).await.unwrap();
    assert_eq!(third(&engine, "p"), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_side_took_from_a_branch_of_the_other_is_what_both_had() {
    for first in [Policy::Theirs, Policy::KeepBoth, Policy::Fields, Policy::Lww] {
        for second in
            [Policy::Fail, Policy::Lww, Policy::Fields, Policy::Ours, Policy::KeepBoth, Policy::FieldsOrFail]
        {
            for is_deleted in [true, false] {
                let node = Node::new(93);
                let engine = node.open();
                put(&engine, "m", 0..6, 1).await;
                branch(&engine, "m", "b").await;
                node.clock.advance(1);
                put(&engine, "b", [3], 7).await;
                node.clock.advance(1);
                put(&engine, "m", [3], 5).await;
                branch(&engine, "m", "of-m").await;
                node.clock.advance(1);
                change(&engine, "m", is_deleted).await;
                node.clock.advance(1);
                merge(&engine, "of-m", "b", first).await.unwrap();
                assert_eq!(third(&engine, "b"), 5, "{first}");
                let expected = all(&engine, "m").get(&DocId::Uint(3)).cloned();
                let report = merge(&engine, "b", "m", second).await.unwrap();
                let what = format!("{first}, then {second}, deleted: {is_deleted}");
                assert_eq!((report.refused, report.conflicts), (false, 0), "{what}: {report:?}");
                // What lost in the first merge may have come as a document of its own.
                assert_eq!(all(&engine, "m").get(&DocId::Uint(3)), expected.as_ref(), "{what}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_branch_of_the_source_began_with_is_what_both_had_where_it_was_merged_first() {
    for policy in [Policy::Fail, Policy::Lww, Policy::Fields, Policy::Theirs, Policy::FieldsOrFail] {
        for is_deleted in [true, false] {
            let node = Node::new(94);
            let engine = node.open();
            put(&engine, "m", 0..6, 1).await;
            branch(&engine, "m", "b").await;
            put(&engine, "b", [5], 2).await;
            branch(&engine, "b", "of-b").await;
            node.clock.advance(1);
            change(&engine, "of-b", is_deleted).await;
            node.clock.advance(1);
            // As it was.
            put(&engine, "b", [3], 1).await;
            node.clock.advance(1);
            merge(&engine, "of-b", "m", policy).await.unwrap();
            let expected = all(&engine, "m");
            let report = merge(&engine, "b", "m", policy).await.unwrap();
            let what = format!("{policy}, deleted: {is_deleted}");
            assert_eq!((report.refused, report.conflicts), (false, 0), "{what}: {report:?}");
            assert_eq!(all(&engine, "m"), expected, "{what}");
        }
    }
}
