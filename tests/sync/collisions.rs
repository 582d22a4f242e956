//! Names that two nodes created apart: made one where that can be, kept under two names where not, and nothing is lost.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::json;
use shoal::api::wire::write::{WriteBody, parse_write};
use shoal::engine::Engine;
use shoal::engine::merge::MergeRequest;
use shoal::engine::merge::decide::Policy;
use shoal::model::ids::DocId;
use shoal::model::write::Idempotency;
use shoal::platform::memory_disk::Fault;
use shoal::store::Bucket;
use shoal::sync::Sync;

use crate::fleet::{bucket, fresh, lost, meet, names, options, sync, sync_by};
use crate::node::{Node, all, branch, name, put, write};

/// Two nodes that never met.
fn two(seed: u64) -> (Bucket, [Node; 2], [Arc<Engine>; 2]) {
    let nodes = [Node::new(1), Node::new(2)];
    let engines = [nodes[0].open(), nodes[1].open()];
    (bucket(seed), nodes, engines)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_namespaces_of_one_name_become_one_with_everything_of_both() {
    let (bucket, nodes, engines) = two(1);
    put(&engines[0], "docs", 0..10, 1).await;
    nodes[1].clock.advance(1_000);
    put(&engines[1], "docs", 5..15, 2).await;
    write(&engines[1], "docs", json!({"deletes": [14]})).await;
    engines[1].set_labels(&name("docs"), [("of".into(), "two".into())].into()).await.unwrap();
    engines[1].tag(&name("docs"), "monday", None).await.unwrap();
    let gave_way = engines[1].nsid_of(&name("docs")).unwrap();
    sync(&nodes[0], &engines[0], &bucket).await.unwrap();
    let status = sync(&nodes[1], &engines[1], &bucket).await.unwrap();
    let known = &status.namespaces[&name("docs")];
    let notice = known.notice.as_ref().unwrap();
    assert!(notice.contains("created default/default/docs apart"), "{notice}");
    assert!(notice.contains(&format!("its tags (1) stay with incarnation {gave_way}")), "{notice}");
    assert_eq!(known.conflicts, 5);
    meet(&[(&nodes[0], &engines[0]), (&nodes[1], &engines[1])], &bucket).await;
    let met = all(&engines[0], "docs");
    assert_eq!((met.len(), &met), (14, &all(&engines[1], "docs")));
    assert_eq!(fresh(9, &bucket, "docs").await, met);
    let n = |id: u64| met[&DocId::Uint(id)]["n"].clone();
    assert_eq!((n(0), n(5), n(9), n(13)), (json!(1), json!(2), json!(2), json!(2)));
    for engine in &engines {
        assert_eq!((names(engine), lost(engine, "docs").len()), (vec!["docs".to_owned()], 5));
        assert!(engine.check(3).unwrap().is_whole());
    }
    // From then on it is one namespace as any other.
    put(&engines[1], "docs", [20], 3).await;
    write(&engines[0], "docs", json!({"deletes": [0]})).await;
    meet(&[(&nodes[0], &engines[0]), (&nodes[1], &engines[1])], &bucket).await;
    assert_eq!((all(&engines[0], "docs"), all(&engines[0], "docs").len()), (all(&engines[1], "docs"), 14));
    // It is told once, and lasts.
    let engine = nodes[1].cut_power(engines[1].clone());
    assert_eq!(all(&engine, "docs"), all(&engines[0], "docs"));
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_that_cannot_be_one_are_kept_under_two_names() {
    let (bucket, nodes, engines) = two(2);
    put(&engines[0], "docs", 0..10, 1).await;
    write(&engines[1], "docs", json!({"upsert_rows": [{"id": "a", "n": "text"}, {"id": "b", "n": "more"}]})).await;
    let apart = all(&engines[1], "docs");
    sync(&nodes[0], &engines[0], &bucket).await.unwrap();
    let status = sync(&nodes[1], &engines[1], &bucket).await.unwrap();
    let notice = status.namespaces[&name("docs")].notice.clone().unwrap();
    meet(&[(&nodes[1], &engines[1]), (&nodes[0], &engines[0])], &bucket).await;
    let found = names(&engines[0]);
    assert!(
        found.len() == 2 && found[1].starts_with("docs.apart-") && notice.contains(&found[1]),
        "{found:?} {notice}"
    );
    for engine in &engines {
        assert_eq!((all(engine, "docs").len(), all(engine, &found[1])), (10, apart.clone()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_decides_nothing_keeps_both() {
    let (bucket, nodes, engines) = two(3);
    put(&engines[0], "docs", 0..3, 1).await;
    put(&engines[1], "docs", 2..5, 2).await;
    put(&engines[0], "other", 0..3, 1).await;
    put(&engines[1], "other", 5..8, 2).await;
    for (node, engine) in nodes.iter().zip(&engines) {
        sync_by(node, engine, &bucket, Policy::Fail).await.unwrap();
    }
    let found = names(&engines[1]);
    assert!(found.len() == 3 && found[1].starts_with("docs.apart-"), "{found:?}");
    assert_eq!((all(&engines[1], "docs").len(), all(&engines[1], &found[1]).len()), (3, 3));
    // Where nothing is in conflict nothing has to be decided.
    assert_eq!(all(&engines[1], "other").len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_lost_side_had_beside_its_documents_comes_along() {
    let (bucket, nodes, engines) = two(4);
    put(&engines[0], "docs", 0..3, 1).await;
    put(&engines[1], "docs", 3..6, 2).await;
    // A conflict that nobody resolved.
    crate::node::branch(&engines[1], "docs", "try").await;
    put(&engines[1], "docs", [4], 7).await;
    nodes[1].clock.advance(1_000);
    put(&engines[1], "try", [4], 8).await;
    let request = shoal::engine::merge::MergeRequest { policy: Policy::Lww, ..Default::default() };
    engines[1].merge(&name("try"), &name("docs"), request).await.unwrap();
    assert_eq!(lost(&engines[1], "docs").len(), 1);
    let tokens = || lost(&engines[1], "docs").into_iter().map(|state| state.token).collect::<Vec<_>>();
    let before = tokens();
    meet(&[(&nodes[0], &engines[0]), (&nodes[1], &engines[1])], &bucket).await;
    assert_eq!((tokens(), lost(&engines[0], "docs").len()), (before, 1));
    // The branch still knows what it was branched from.
    put(&engines[1], "try", [9], 9).await;
    let report = engines[1].merge(&name("try"), &name("docs"), Default::default()).await.unwrap();
    assert_eq!((report.inserted, report.conflicts), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_the_side_that_gave_way_is_known_afterwards() {
    let (bucket, nodes, engines) = two(6);
    put(&engines[0], "docs", 0..3, 1).await;
    let add = async |engine: &Arc<Engine>, key: u8| {
        let body = json!({"upsert_rows": [{"id": key, "n": 1}]});
        let WriteBody::Write(mut request) = parse_write(body).unwrap() else { panic!("expected a write") };
        request.idempotency = Some(Idempotency { key_hash: [key; 16], body_hash: [1; 16] });
        engine.write(&name("docs"), *request).await.unwrap().replayed
    };
    assert!(!add(&engines[1], 50).await);
    engines[1].checkpoint(&name("docs")).await.unwrap();
    assert!(!add(&engines[1], 51).await);
    sync(&nodes[0], &engines[0], &bucket).await.unwrap();
    sync(&nodes[1], &engines[1], &bucket).await.unwrap();
    write(&engines[1], "docs", json!({"deletes": [50, 51]})).await;
    assert!(add(&engines[1], 50).await && add(&engines[1], 51).await);
    let engine = nodes[1].cut_power(engines[1].clone());
    assert!(add(&engine, 50).await && add(&engine, 51).await);
    assert_eq!(all(&engine, "docs").len(), 3);
    // The other node never saw the request.
    assert!(!add(&engines[0], 50).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_written_while_a_name_goes_over_is_there_afterwards() {
    let (bucket, nodes, engines) = two(5);
    put(&engines[0], "docs", 0..10, 1).await;
    put(&engines[1], "docs", 10..20, 1).await;
    sync(&nodes[0], &engines[0], &bucket).await.unwrap();
    let is_over = AtomicBool::new(false);
    let writing = async {
        let mut count = 0;
        while !is_over.load(Ordering::SeqCst) || count < 30 {
            put(&engines[1], "docs", [100 + count], 5).await;
            count += 1;
            tokio::task::yield_now().await;
        }
        count
    };
    let syncing = async {
        let link = Sync::new(engines[1].clone(), bucket.clone(), options(Policy::Lww), nodes[1].clock.clone());
        let done = link.run().await;
        is_over.store(true, Ordering::SeqCst);
        done.unwrap();
    };
    let (count, ()) = tokio::join!(writing, syncing);
    assert_eq!(all(&engines[1], "docs").len() as u64, 20 + count);
    meet(&[(&nodes[1], &engines[1]), (&nodes[0], &engines[0])], &bucket).await;
    assert_eq!(all(&engines[0], "docs").len() as u64, 20 + count);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_may_have_gone_over_when_the_disk_failed_loses_nothing_that_is_written_then() {
    let (mut at, mut doubted) = (0, 0);
    loop {
        let (bucket, nodes, engines) = two(7);
        put(&engines[0], "docs", [1], 1).await;
        put(&engines[1], "docs", [2], 1).await;
        sync(&nodes[1], &engines[1], &bucket).await.unwrap();
        // From some operation of its pass on the disk does nothing any more.
        let disk = &nodes[0].disk;
        disk.set_fault(Some(Fault { at: disk.operations() + at, forever: true, kind: ErrorKind::Other }));
        let Err(error) = sync(&nodes[0], &engines[0], &bucket).await else { break };
        doubted += u32::from(error.code() == "binding_unknown");
        // The bucket's clock of the name goes on meanwhile.
        engines[1].delete(&name("docs")).await.unwrap();
        sync(&nodes[1], &engines[1], &bucket).await.unwrap();
        nodes[1].clock.advance(10);
        // What the first one had sent by then is not deleted with it, and has the name.
        let _ = engines[1].undelete(&name("docs"), None).await;
        sync(&nodes[1], &engines[1], &bucket).await.unwrap();
        disk.set_fault(None);
        let _ = sync(&nodes[0], &engines[0], &bucket).await;
        put(&engines[0], "docs", [3], 2).await;
        let [first, second] = &nodes;
        let engine = first.cut_power(engines[0].clone());
        meet(&[(first, &engine), (second, &engines[1])], &bucket).await;
        for engine in [&engine, &engines[1]] {
            let found: Vec<_> = names(engine).iter().flat_map(|named| all(engine, named).into_keys()).collect();
            for id in [1, 2, 3] {
                assert!(found.contains(&DocId::Uint(id)), "operation {at}: {id} of {found:?}");
            }
        }
        at += 1;
    }
    assert!(doubted > 0, "in {at} operations");
}

/// A node that made no branch has no state that both had: what it knows of deletions is all that it can go by.
#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_branch_has_stays_in_it_when_its_parent_met_one_of_its_name() {
    for deletes in [false, true] {
        let (bucket, nodes, engines) = two(12);
        put(&engines[0], "docs", [0], 1).await;
        for policy in Policy::ALL {
            branch(&engines[0], "docs", policy.name()).await;
            put(&engines[0], policy.name(), [2, 4], 2).await;
        }
        nodes[1].clock.advance(1_000);
        put(&engines[1], "docs", [8, 9], 3).await;
        if deletes {
            write(&engines[1], "docs", json!({"deletes": [8]})).await;
        } else {
            put(&engines[1], "docs", [8], 4).await;
        }
        meet(&[(&nodes[0], &engines[0]), (&nodes[1], &engines[1])], &bucket).await;
        put(&engines[0], "docs", [5], 5).await;
        sync(&nodes[0], &engines[0], &bucket).await.unwrap();
        let node = Node::new(3);
        let engine = node.open();
        sync(&node, &engine, &bucket).await.unwrap();
        let merge = async |from: &str, into: &str, policy| {
            let request = MergeRequest { policy, ..MergeRequest::default() };
            engine.merge(&name(from), &name(into), request).await.unwrap()
        };
        let ids = |namespace: &str| all(&engine, namespace).into_keys().collect::<Vec<_>>();
        let expected: &[u64] = if deletes { &[0, 2, 4, 5, 9] } else { &[0, 2, 4, 5, 8, 9] };
        let expected: Vec<DocId> = expected.iter().copied().map(DocId::Uint).collect();
        for policy in Policy::ALL {
            let report = merge("docs", policy.name(), policy).await;
            let what = format!("{policy}, the other deleted: {deletes}: {report:?}");
            // Of a deletion of somebody whom the branch never met nobody can say that it was none of its rows.
            assert_eq!(report.conflicts, if deletes { 2 } else { 0 }, "{what}");
            assert_eq!(
                (report.refused, report.deleted),
                (deletes && matches!(policy, Policy::Fail | Policy::FieldsOrFail), 0),
                "{what}"
            );
            if !report.refused {
                assert_eq!(ids(policy.name()), expected, "{what}");
            }
        }
        // And what is new in a branch goes the other way.
        let report = merge("ours", "docs", Policy::Ours).await;
        assert_eq!((report.deleted, ids("docs")), (0, expected), "{report:?}");
    }
}
