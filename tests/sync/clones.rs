//! Disks that were cloned, and backups that were put back: two nodes write by one origin, and nothing of either is lost.

use std::sync::Arc;

use serde_json::json;
use shoal::engine::Engine;
use shoal::engine::merge::MergeRequest;
use shoal::engine::merge::decide::Policy;
use shoal::model::ids::DocId;
use shoal::platform::disk::publish;
use shoal::platform::memory_disk::Fault;
use shoal::store::Bucket;
use shoal::sync::{Selection, Sync};

use crate::fleet::{bucket, fresh, lost, meet, options, sync};
use crate::node::{Documents, Node, all, branch, name, put, write};

/// A node that synced ten documents, and what an exact copy of its disk is.
pub async fn cloned(seed: u64) -> (Bucket, [Node; 2], [Arc<Engine>; 2]) {
    let (bucket, node) = (bucket(seed), Node::new(1));
    let engine = node.open();
    put(&engine, "docs", 0..10, 1).await;
    sync(&node, &engine, &bucket).await.unwrap();
    engine.shutdown().await.unwrap();
    drop(engine);
    let other = Node { disk: node.disk.duplicate(), ..Node::new(2) };
    let engines = [node.open(), other.open()];
    (bucket, [node, other], engines)
}

fn n(documents: &Documents, id: u64) -> serde_json::Value {
    documents[&DocId::Uint(id)]["n"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cloned_disk_takes_a_new_origin_and_both_have_everything() {
    let (bucket, nodes, engines) = cloned(1).await;
    let origins = || [0, 1].map(|at: usize| engines[at].origin(&name("docs")).unwrap());
    assert_eq!(origins()[0], origins()[1]);
    put(&engines[0], "docs", 8..15, 2).await;
    write(&engines[0], "docs", json!({"deletes": [0]})).await;
    nodes[1].clock.advance(60_000);
    put(&engines[1], "docs", 20..26, 3).await;
    put(&engines[1], "docs", [9], 4).await;
    write(&engines[1], "docs", json!({"deletes": [1]})).await;
    write(&engines[1], "docs", json!({"patch_rows": [{"id": 2, "n": 9}]})).await;
    sync(&nodes[0], &engines[0], &bucket).await.unwrap();
    let status = sync(&nodes[1], &engines[1], &bucket).await.unwrap();
    let notice = status.namespaces[&name("docs")].notice.clone().unwrap();
    assert!(notice.contains("cloned") && notice.contains("9 changes"), "{notice}");
    assert_ne!(origins()[0], origins()[1]);
    meet(&[(&nodes[0], &engines[0]), (&nodes[1], &engines[1])], &bucket).await;
    let met = all(&engines[0], "docs");
    assert_eq!((met.len(), &met), (8 + 5 + 6, &all(&engines[1], "docs")));
    assert_eq!(fresh(9, &bucket, "docs").await, met);
    // The newer of two changes stays, and the other is kept.
    assert_eq!((n(&met, 9), n(&met, 8), n(&met, 2), n(&met, 20)), (json!(4), json!(2), json!(9), json!(3)));
    for engine in &engines {
        let losers: Vec<_> = lost(engine, "docs").into_iter().map(|state| state.id).collect();
        assert_eq!(losers, [DocId::Uint(9)]);
        assert!(engine.check(3).unwrap().is_whole());
    }
    // It lasts, and is not told again.
    let engine = nodes[1].cut_power(engines[1].clone());
    assert_eq!(engine.origin(&name("docs")).unwrap(), origins()[1]);
    for at in 30..33 {
        put(&engine, "docs", [at], at).await;
        put(&engines[0], "docs", [at + 10], at).await;
        let status = sync(&nodes[1], &engine, &bucket).await.unwrap();
        assert_eq!(status.namespaces[&name("docs")].notice, None);
        sync(&nodes[0], &engines[0], &bucket).await.unwrap();
    }
    sync(&nodes[1], &engine, &bucket).await.unwrap();
    assert_eq!((all(&engine, "docs"), met.len() + 6), (all(&engines[0], "docs"), all(&engine, "docs").len()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clone_that_did_not_write_parts_all_the_same_before_it_does() {
    let (bucket, nodes, engines) = cloned(2).await;
    put(&engines[0], "docs", 10..15, 2).await;
    meet(&[(&nodes[0], &engines[0]), (&nodes[1], &engines[1])], &bucket).await;
    assert_ne!(engines[0].origin(&name("docs")).unwrap(), engines[1].origin(&name("docs")).unwrap());
    put(&engines[0], "docs", [1], 5).await;
    put(&engines[1], "docs", [2], 6).await;
    meet(&[(&nodes[1], &engines[1]), (&nodes[0], &engines[0])], &bucket).await;
    let met = all(&engines[0], "docs");
    assert_eq!((n(&met, 1), n(&met, 2), &met), (json!(5), json!(6), &all(&engines[1], "docs")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_was_cloned_before_it_ever_met_a_bucket_loses_nothing() {
    let (bucket, node) = (bucket(3), Node::new(1));
    let engine = node.open();
    put(&engine, "docs", 0..10, 1).await;
    engine.checkpoint(&name("docs")).await.unwrap();
    engine.shutdown().await.unwrap();
    drop(engine);
    let other = Node { disk: node.disk.duplicate(), ..Node::new(2) };
    let (engine, there) = (node.open(), other.open());
    put(&engine, "docs", 10..13, 2).await;
    other.clock.advance(5_000);
    put(&there, "docs", 20..24, 3).await;
    write(&there, "docs", json!({"deletes": [3]})).await;
    meet(&[(&node, &engine), (&other, &there)], &bucket).await;
    let met = all(&engine, "docs");
    assert_eq!((met.len(), &met), (9 + 3 + 4, &all(&there, "docs")));
    assert_eq!(fresh(9, &bucket, "docs").await, met);
}

#[tokio::test(flavor = "multi_thread")]
async fn clones_whose_name_another_node_has_in_the_bucket_lose_nothing() {
    let (bucket, node, third) = (bucket(8), Node::new(1), Node::new(3));
    let engine = node.open();
    put(&engine, "docs", 0..10, 1).await;
    engine.shutdown().await.unwrap();
    drop(engine);
    let other = Node { disk: node.disk.duplicate(), ..Node::new(2) };
    let (engine, there, first) = (node.open(), other.open(), third.open());
    put(&first, "docs", 100..102, 1).await;
    sync(&third, &first, &bucket).await.unwrap();
    put(&there, "docs", 20..23, 2).await;
    node.clock.advance(5_000);
    put(&engine, "docs", 30..33, 3).await;
    meet(&[(&node, &engine), (&other, &there), (&third, &first)], &bucket).await;
    let met = all(&first, "docs");
    assert_eq!((met.len(), &met, &met), (2 + 10 + 3 + 3, &all(&engine, "docs"), &all(&there, "docs")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_was_put_back_gets_what_the_bucket_has_of_it_and_keeps_what_was_written_since() {
    let (bucket, node) = (bucket(4), Node::new(1));
    let engine = node.open();
    put(&engine, "docs", 0..10, 1).await;
    sync(&node, &engine, &bucket).await.unwrap();
    engine.shutdown().await.unwrap();
    let backup = node.disk.duplicate();
    drop(engine);
    let engine = node.open();
    put(&engine, "docs", 10..20, 2).await;
    sync(&node, &engine, &bucket).await.unwrap();
    drop(engine);
    let restored = Node { disk: backup, ..Node::new(2) };
    let engine = restored.open();
    // By the same clock as what was written before.
    put(&engine, "docs", 15..25, 3).await;
    sync(&restored, &engine, &bucket).await.unwrap();
    assert_eq!((all(&engine, "docs").len(), lost(&engine, "docs").len()), (25, 5));
    assert_eq!(fresh(9, &bucket, "docs").await, all(&engine, "docs"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_clone_wrote_is_not_deleted_by_the_other_ones_deletion() {
    let (bucket, nodes, engines) = cloned(5).await;
    nodes[0].clock.advance(60_000);
    put(&engines[0], "docs", 10..15, 2).await;
    sync(&nodes[0], &engines[0], &bucket).await.unwrap();
    engines[0].delete(&name("docs")).await.unwrap();
    sync(&nodes[0], &engines[0], &bucket).await.unwrap();
    put(&engines[1], "docs", 20..23, 3).await;
    let unsent = all(&engines[1], "docs");
    meet(&[(&nodes[1], &engines[1]), (&nodes[0], &engines[0])], &bucket).await;
    let found: Vec<String> = engines[0].named().into_iter().map(|(name, _)| name.name.to_string()).collect();
    assert!(found.len() == 1 && found[0].starts_with("docs.recovered-"), "{found:?}");
    assert_eq!(all(&engines[0], &found[0]), unsent);
}

#[tokio::test(flavor = "multi_thread")]
async fn clones_give_different_integers_as_ids_once_they_met() {
    let (bucket, node) = (bucket(6), Node::new(1));
    let engine = node.open();
    put(&engine, "docs", 0..10, 1).await;
    engine.allocate_ids(&name("docs"), 5).await.unwrap();
    sync(&node, &engine, &bucket).await.unwrap();
    engine.shutdown().await.unwrap();
    drop(engine);
    let nodes = [Node { disk: node.disk.duplicate(), ..Node::new(2) }, node];
    let engines = [nodes[0].open(), nodes[1].open()];
    let both = engines[0].allocate_ids(&name("docs"), 5).await.unwrap();
    assert_eq!(both, engines[1].allocate_ids(&name("docs"), 5).await.unwrap(), "nobody can know yet");
    put(&engines[0], "docs", [50], 2).await;
    put(&engines[1], "docs", [51], 2).await;
    meet(&[(&nodes[0], &engines[0]), (&nodes[1], &engines[1])], &bucket).await;
    let one = engines[0].allocate_ids(&name("docs"), 100).await.unwrap();
    let other = engines[1].allocate_ids(&name("docs"), 100).await.unwrap();
    assert!(one.iter().all(|id| !other.contains(id)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_of_what_a_clone_wrote_merges_back() {
    let (bucket, nodes, engines) = cloned(7).await;
    put(&engines[0], "docs", 10..12, 2).await;
    nodes[1].clock.advance(1_000);
    put(&engines[1], "docs", 20..22, 3).await;
    branch(&engines[1], "docs", "try").await;
    put(&engines[1], "try", 30..32, 4).await;
    meet(&[(&nodes[0], &engines[0]), (&nodes[1], &engines[1])], &bucket).await;
    for engine in &engines {
        assert_eq!((all(engine, "docs").len(), all(engine, "try").len()), (14, 14));
    }
    let report = engines[0].merge(&name("try"), &name("docs"), Default::default()).await.unwrap();
    assert_eq!((report.inserted, report.conflicts), (2, 0));
    meet(&[(&nodes[0], &engines[0]), (&nodes[1], &engines[1])], &bucket).await;
    assert_eq!(all(&engines[1], "docs").len(), 16);
}

/// A node that is told that its disk was cloned, which it was not, has lost nothing by it, and is told once.
pub async fn assert_nothing_lost(nodes: &[Node; 2], engines: &[Arc<Engine>; 2], bucket: &Bucket, expected: usize) {
    let before = engines[0].origin(&name("docs")).unwrap();
    let known = sync(&nodes[0], &engines[0], bucket).await.unwrap().namespaces.remove(&name("docs")).unwrap();
    assert!(known.notice.is_some_and(|notice| notice.contains("cloned")));
    let after = engines[0].origin(&name("docs")).unwrap();
    assert_ne!(before, after);
    for round in 0..2 {
        meet(&[(&nodes[1], &engines[1]), (&nodes[0], &engines[0])], bucket).await;
        let met = all(&engines[0], "docs");
        assert_eq!((met.len(), &met), (expected + round, &all(&engines[1], "docs")));
        assert_eq!(fresh(9, bucket, "docs").await, met);
        for engine in engines {
            assert_eq!(lost(engine, "docs"), []);
            assert!(engine.check(3).unwrap().is_whole());
        }
        put(&engines[0], "docs", [100 + round as u64], 9).await;
    }
    assert_eq!(engines[0].origin(&name("docs")).unwrap(), after);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_that_was_merged_elsewhere_before_its_parent_was_sent_costs_a_new_origin_and_no_document() {
    let (bucket, nodes) = (bucket(9), [Node::new(1), Node::new(2)]);
    let engines = [nodes[0].open(), nodes[1].open()];
    put(&engines[0], "docs", 0..10, 1).await;
    meet(&[(&nodes[0], &engines[0]), (&nodes[1], &engines[1])], &bucket).await;
    put(&engines[0], "docs", 9..13, 2).await;
    write(&engines[0], "docs", json!({"deletes": [0]})).await;
    branch(&engines[0], "docs", "try").await;
    put(&engines[0], "try", [30], 3).await;
    let link = Sync::new(engines[0].clone(), bucket.clone(), options(Policy::Lww), nodes[0].clock.clone());
    assert!(link.run_for(&Selection::default().only([name("try")].into())).await.failed.is_none());
    sync(&nodes[1], &engines[1], &bucket).await.unwrap();
    let request = MergeRequest { policy: Policy::Lww, ..MergeRequest::default() };
    engines[1].merge(&name("try"), &name("docs"), request).await.unwrap();
    sync(&nodes[1], &engines[1], &bucket).await.unwrap();
    write(&engines[0], "docs", json!({"deletes": [1]})).await;
    put(&engines[0], "docs", [40], 4).await;
    assert_nothing_lost(&nodes, &engines, &bucket, 8 + 3 + 1 + 1).await;
}

/// Clones of a node that has a branch of what it synced.
async fn clones_with_a_branch(seed: u64) -> (Bucket, [Node; 2], [Arc<Engine>; 2]) {
    let (bucket, node) = (bucket(seed), Node::new(1));
    let engine = node.open();
    put(&engine, "docs", 0..10, 1).await;
    branch(&engine, "docs", "try").await;
    put(&engine, "try", [50], 1).await;
    sync(&node, &engine, &bucket).await.unwrap();
    engine.shutdown().await.unwrap();
    drop(engine);
    let nodes = [Node { disk: node.disk.duplicate(), ..Node::new(2) }, node];
    let engines = [nodes[0].open(), nodes[1].open()];
    (bucket, nodes, engines)
}

/// Merges the branch.
async fn merge(engine: &Arc<Engine>) {
    let request = MergeRequest { policy: Policy::Lww, ..MergeRequest::default() };
    engine.merge(&name("try"), &name("docs"), request).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_clones_wrote_into_one_branch_and_merged_reaches_both() {
    for later in [0, 1] {
        let (bucket, nodes, engines) = clones_with_a_branch(10).await;
        nodes[later].clock.advance(60_000);
        for (at, engine) in engines.iter().enumerate() {
            put(engine, "try", [60 + at as u64], 2).await;
            merge(engine).await;
        }
        meet(&[(&nodes[0], &engines[0]), (&nodes[1], &engines[1])], &bucket).await;
        for engine in &engines {
            assert_eq!((all(engine, "docs").len(), all(engine, "try").len()), (13, 13), "{later}");
            assert_eq!((lost(engine, "docs"), lost(engine, "try")), (vec![], vec![]));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_clone_wrote_into_a_branch_is_merged_though_the_other_one_merged_it_first() {
    for later in [0, 1] {
        let (bucket, nodes, engines) = clones_with_a_branch(11).await;
        nodes[later].clock.advance(60_000);
        put(&engines[0], "try", [60], 2).await;
        sync(&nodes[0], &engines[0], &bucket).await.unwrap();
        put(&engines[1], "try", [61], 2).await;
        merge(&engines[1]).await;
        meet(&[(&nodes[1], &engines[1]), (&nodes[0], &engines[0])], &bucket).await;
        merge(&engines[0]).await;
        meet(&[(&nodes[1], &engines[1]), (&nodes[0], &engines[0])], &bucket).await;
        for engine in &engines {
            assert_eq!((all(engine, "docs").len(), all(engine, "try").len()), (13, 13), "{later}");
            assert_eq!((lost(engine, "docs"), lost(engine, "try")), (vec![], vec![]));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_clone_wrote_into_a_branch_is_not_gone_with_the_other_ones_branch() {
    for later in [0, 1] {
        let (bucket, nodes, engines) = clones_with_a_branch(12).await;
        nodes[later].clock.advance(60_000);
        put(&engines[0], "try", [60], 2).await;
        sync(&nodes[0], &engines[0], &bucket).await.unwrap();
        put(&engines[1], "try", [61], 2).await;
        merge(&engines[1]).await;
        engines[1].delete(&name("try")).await.unwrap();
        meet(&[(&nodes[1], &engines[1]), (&nodes[0], &engines[0])], &bucket).await;
        // The deletion had not seen it, and does not hold.
        merge(&engines[0]).await;
        meet(&[(&nodes[1], &engines[1]), (&nodes[0], &engines[0])], &bucket).await;
        for engine in &engines {
            assert_eq!(all(engine, "docs").len(), 13, "{later}");
            assert_eq!((lost(engine, "docs"), lost(engine, "try")), (vec![], vec![]));
        }
        assert_eq!(fresh(9, &bucket, "docs").await, all(&engines[0], "docs"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parting_that_a_power_cut_interrupts_is_begun_anew() {
    for after in (0..).step_by(5) {
        let (bucket, nodes, engines) = clones_with_a_branch(13).await;
        nodes[1].clock.advance(60_000);
        put(&engines[0], "try", [60], 2).await;
        sync(&nodes[0], &engines[0], &bucket).await.unwrap();
        put(&engines[1], "try", [61], 2).await;
        merge(&engines[1]).await;
        let at = nodes[1].disk.operations() + after;
        nodes[1].disk.set_fault(Some(Fault { at, forever: true, kind: std::io::ErrorKind::Other }));
        let is_over = sync(&nodes[1], &engines[1], &bucket).await.is_ok();
        let [first, second] = engines;
        let engines = [first, nodes[1].cut_power(second)];
        meet(&[(&nodes[1], &engines[1]), (&nodes[0], &engines[0])], &bucket).await;
        merge(&engines[0]).await;
        meet(&[(&nodes[1], &engines[1]), (&nodes[0], &engines[0])], &bucket).await;
        for engine in &engines {
            assert_eq!((all(engine, "docs").len(), all(engine, "try").len()), (13, 13), "{after}");
        }
        if is_over {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clones_part_though_another_namespace_is_damaged() {
    let (bucket, nodes, engines) = clones_with_a_branch(14).await;
    for (at, engine) in engines.iter().enumerate() {
        put(engine, "docs", [70 + at as u64], 2).await;
        put(engine, "other", [1], 1).await;
    }
    sync(&nodes[0], &engines[0], &bucket).await.unwrap();
    let nsid = engines[1].nsid_of(&name("try")).unwrap();
    let base = std::path::PathBuf::from(format!("/data/local/{nsid}/bases/{nsid}.json"));
    publish(&nodes[1].disk, &base, b"nonsense").unwrap();
    let failed = sync(&nodes[1], &engines[1], &bucket).await.unwrap_err();
    assert!(failed.to_string().contains("default/try"), "{failed}");
    sync(&nodes[0], &engines[0], &bucket).await.unwrap();
    assert_eq!(all(&engines[0], "docs").len(), 12);
    assert_eq!(all(&engines[0], "docs"), all(&engines[1], "docs"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_branched_off_while_namespaces_part_parts_too() {
    let (_bucket, _nodes, [_, engine]) = clones_with_a_branch(15).await;
    put(&engine, "try", 100..3_000, 2).await;
    let origin = engine.origin(&name("try")).unwrap();
    let sent = engine.common(engine.nsid_of(&name("try")).unwrap()).unwrap().unwrap().version_vector.seen(origin);
    let parting = tokio::spawn({
        let engine = engine.clone();
        async move { engine.part(&name("docs")).await.unwrap() }
    });
    let branching: Vec<_> = (0..8)
        .map(|at| {
            let engine = engine.clone();
            tokio::spawn(async move { branch(&engine, "try", &format!("b{at}")).await })
        })
        .collect();
    for branched in branching {
        branched.await.unwrap();
    }
    parting.await.unwrap();
    assert_eq!(engine.named().len(), 2 + 8);
    for (name, _) in engine.named() {
        assert!(engine.seen(&name).await.unwrap().seen(origin) <= sent, "{name}");
        assert_eq!(all(&engine, &name.name).len() > 1_000, name.name.to_string() != "docs", "{name}");
    }
}
