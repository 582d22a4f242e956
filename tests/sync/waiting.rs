//! What somebody waits for: what was acknowledged before is in the bucket then, under whatever name, and what is read is what the bucket has.

use std::sync::Arc;

use serde_json::json;
use shoal::api::wire::write::{WriteBody, parse_write};
use shoal::engine::Engine;

use shoal::error::Result;
use shoal::model::ids::{Nsid, Version};
use shoal::model::write::Idempotency;
use shoal::platform::memory_disk::Fault;
use shoal::sync::{Awaited, Done, RETAINED_MAX, Reclaim, Selection, Sync};

use crate::fleet::{fresh, sync};
use crate::node::{DAY_MS, Documents, Node, all, name, put, write};
use crate::unlucky::{Place, two};

/// One pass that somebody waits for, who named `docs`.
async fn together(link: &Sync) -> Result<Done> {
    link.run_for(&docs(&Selection::default())).await.of(&name("docs"))
}

fn docs(selection: &Selection) -> Selection {
    selection.only([name("docs")].into())
}

/// Everything that a node has which was never there before, under any name.
async fn anywhere(place: &Place) -> Vec<(String, Documents)> {
    let node = Node::new(99);
    let engine = node.open();
    sync(&node, &engine, &place.bucket(&node)).await.unwrap();
    engine.named().into_iter().map(|(name, _)| (name.name.to_string(), all(&engine, &name.name))).collect()
}

/// Whether any of them has a document with this id.
fn has(found: &[(String, Documents)], id: u64) -> bool {
    found.iter().any(|(_, documents)| documents.contains_key(&shoal::model::ids::DocId::Uint(id)))
}

/// Deletes `docs`, and tells the bucket.
async fn delete(node: &Node, engine: &Arc<Engine>, place: &Place) {
    node.clock.advance(1_000);
    engine.delete(&name("docs")).await.unwrap();
    sync(node, engine, &place.bucket(node)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_somebody_waited_for_outlives_its_node_though_the_namespace_was_deleted_meanwhile() {
    // Shortly after names were listed, and when they are listed again.
    for after_ms in [0, 3_600_000] {
        let place = Place::default();
        let (nodes, engines) = two(&place).await;
        let link = place.link(&place.wire(), &nodes[0], &engines[0]);
        link.run().await.unwrap();
        delete(&nodes[1], &engines[1], &place).await;
        nodes[0].clock.advance(after_ms);
        put(&engines[0], "docs", [10], 2).await;
        let done = together(&link).await.unwrap();
        assert!(done.notice.is_some_and(|notice| notice.contains("docs.recovered-")));
        drop((link, engines));
        let found = anywhere(&place).await;
        assert!(has(&found, 10), "{after_ms}: {found:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_comes_while_a_waited_for_write_is_sent_does_not_take_it_along() {
    let place = Place::default();
    let (nodes, engines) = two(&place).await;
    let wire = place.wire();
    let link = place.link(&wire, &nodes[0], &engines[0]);
    link.run().await.unwrap();
    put(&engines[0], "docs", [10], 2).await;
    let (node, other, there) =
        (nodes[1].clock.clone(), place.link(&place.wire(), &nodes[1], &engines[1]), engines[1].clone());
    wire.meanwhile_at(
        "/manifests/",
        Box::pin(async move {
            node.advance(1_000);
            there.delete(&name("docs")).await.unwrap();
            other.run().await.unwrap();
        }),
    );
    together(&link).await.unwrap();
    assert_eq!(engines[1].named(), [], "the deletion was through before");
    drop((link, engines));
    let found = anywhere(&place).await;
    assert!(has(&found, 10), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_under_another_name_is_waited_for_until_it_is_in_the_bucket() {
    let place = Place::default();
    let (nodes, engines) = two(&place).await;
    let wire = place.wire();
    let link = place.link(&wire, &nodes[0], &engines[0]);
    link.run().await.unwrap();
    delete(&nodes[1], &engines[1], &place).await;
    put(&engines[0], "docs", [10], 2).await;
    wire.delay("/names/docs.recovered", true);
    for _ in 0..3 {
        assert_eq!(together(&link).await.unwrap_err().code(), "commit_unknown");
        assert!(!has(&anywhere(&place).await, 10));
    }
    wire.delay("/names/docs.recovered", false);
    together(&link).await.unwrap();
    let found = anywhere(&place).await;
    assert!(has(&found, 10), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_cannot_be_one_with_the_buckets_is_in_the_bucket_beside_it_once_it_was_waited_for() {
    let place = Place::default();
    let nodes = [Node::new(1), Node::new(2)];
    let engines = [nodes[0].open(), nodes[1].open()];
    put(&engines[1], "docs", 0..3, 1).await;
    sync(&nodes[1], &engines[1], &place.bucket(&nodes[1])).await.unwrap();
    write(&engines[0], "docs", json!({"upsert_rows": [{"id": 10, "n": "text"}]})).await;
    together(&place.link(&place.wire(), &nodes[0], &engines[0])).await.unwrap();
    drop(engines);
    let found = anywhere(&place).await;
    assert!(has(&found, 0) && has(&found, 10), "{found:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_of_a_namespace_is_sent_with_it_unless_it_is_excluded() {
    for (patterns, is_sent) in
        [((vec!["*/*/docs".to_owned()], vec![]), true), ((vec![], vec!["*/*/docs.*".to_owned()]), false)]
    {
        let selection = Selection::parse(&patterns.0, &patterns.1).unwrap();
        let place = Place::default();
        let (nodes, engines) = two(&place).await;
        put(&engines[0], "docs", [10], 2).await;
        delete(&nodes[1], &engines[1], &place).await;
        let link = place.link(&place.wire(), &nodes[0], &engines[0]);
        link.run_for(&docs(&selection)).await.of(&name("docs")).unwrap();
        assert_eq!(has(&anywhere(&place).await, 10), is_sent, "{patterns:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_from_the_bucket_is_of_the_life_that_has_the_name_there() {
    let place = Place::default();
    let (nodes, engines) = two(&place).await;
    let link = place.link(&place.wire(), &nodes[0], &engines[0]);
    link.run().await.unwrap();
    for life in 0..3 {
        delete(&nodes[1], &engines[1], &place).await;
        put(&engines[1], "docs", 10 * life..10 * life + 2, life).await;
        sync(&nodes[1], &engines[1], &place.bucket(&nodes[1])).await.unwrap();
        together(&link).await.unwrap();
        assert_eq!(all(&engines[0], "docs"), all(&engines[1], "docs"), "{life}");
    }
    delete(&nodes[1], &engines[1], &place).await;
    together(&link).await.unwrap();
    assert_eq!(engines[0].named(), []);
}

/// Commits more states than are retained, and reclaims what can be.
async fn commit_and_reclaim(states: usize, place: &Place, node: &Node, engine: &Arc<Engine>, retention_ms: u64) {
    let link = place.link(&place.wire(), node, engine);
    for n in 0..states as u64 {
        node.clock.advance(1_000);
        put(engine, "docs", [100 + n % 7], n).await;
        together(&link).await.unwrap();
    }
    let ask = Reclaim { retention_ms, ..Reclaim::default() };
    assert!(link.reclaim(&Selection::default(), &ask).await.failed.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_read_from_the_bucket_is_its_newest_state_though_the_one_after_the_known_was_reclaimed() {
    let place = Place::default();
    let (nodes, engines) = two(&place).await;
    let link = place.link(&place.wire(), &nodes[0], &engines[0]);
    together(&link).await.unwrap();
    for _ in 0..3 {
        for _ in 0..2 {
            commit_and_reclaim(2, &place, &nodes[1], &engines[1], 0).await;
        }
        together(&link).await.unwrap();
        assert_eq!(all(&engines[0], "docs"), all(&engines[1], "docs"));
    }
    assert_eq!(fresh(9, &place.bucket(&nodes[0]), "docs").await, all(&engines[0], "docs"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_that_nobody_asked_for_finds_what_came_however_many_states_did() {
    let place = Place::default();
    let (nodes, engines) = two(&place).await;
    let link = place.link(&place.wire(), &nodes[0], &engines[0]);
    link.run().await.unwrap();
    commit_and_reclaim(RETAINED_MAX + 40, &place, &nodes[1], &engines[1], DAY_MS).await;
    nodes[0].clock.advance(300_000);
    assert!(link.run_for(&Selection::default().unasked()).await.failed.is_none());
    assert_eq!(all(&engines[0], "docs"), all(&engines[1], "docs"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_without_news_costs_five_requests() {
    let place = Place::default();
    let (nodes, engines) = two(&place).await;
    let bucket = place.bucket(&nodes[0]);
    let options = crate::fleet::options(shoal::engine::merge::decide::Policy::Lww);
    let link = Sync::new(engines[0].clone(), bucket.clone(), options, nodes[0].clock.clone());
    link.run().await.unwrap();
    let requests = || bucket.traffic().snapshot().requests.iter().map(|(_, _, count)| count).sum::<u64>();
    for _ in 0..3 {
        let before = requests();
        together(&link).await.unwrap();
        // What the name means, whether it means something else by now, the next state, the one that is known, and the name once more.
        assert_eq!(requests() - before, 5);
    }
}

/// What another node does to `docs`, which is told that it is in the bucket, and is lost then.
fn write_and_be_lost(place: &Place, node: &Node, engine: &Arc<Engine>) -> crate::wire::Meanwhile {
    let (link, engine) = (place.link(&place.wire(), node, engine), engine.clone());
    Box::pin(async move {
        put(&engine, "docs", [10], 2).await;
        together(&link).await.unwrap();
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_is_taken_back_when_somebody_wrote_right_before_it() {
    let place = Place::default();
    let (nodes, engines) = two(&place).await;
    let wire = place.wire();
    let link = place.link(&wire, &nodes[0], &engines[0]);
    nodes[0].clock.advance(1_000);
    engines[0].delete(&name("docs")).await.unwrap();
    wire.meanwhile_at("/names/docs/", write_and_be_lost(&place, &nodes[1], &engines[1]));
    link.run().await.unwrap();
    assert_eq!(all(&engines[0], "docs").len(), 6);
    assert_eq!(fresh(9, &place.bucket(&nodes[0]), "docs").await, all(&engines[0], "docs"));
    // It can be deleted again, and is gone then.
    delete(&nodes[0], &engines[0], &place).await;
    assert_eq!(anywhere(&place).await, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_does_not_take_the_place_of_one_that_somebody_wrote_to_meanwhile() {
    // While the new one is sent, and when all of it is there.
    for part in ["/manifests/", "/names/docs/"] {
        let place = Place::default();
        let (nodes, engines) = two(&place).await;
        let wire = place.wire();
        let link = place.link(&wire, &nodes[0], &engines[0]);
        nodes[0].clock.advance(1_000);
        engines[0].delete(&name("docs")).await.unwrap();
        put(&engines[0], "docs", [77], 3).await;
        wire.meanwhile_at(part, write_and_be_lost(&place, &nodes[1], &engines[1]));
        for _ in 0..2 {
            assert_eq!(link.run().await.unwrap_err().code(), "deleted_and_written", "{part}");
            assert_eq!(fresh(9, &place.bucket(&nodes[0]), "docs").await.len(), 6, "{part}");
        }
        let warnings = link.status().warnings();
        assert_eq!((warnings.len(), &warnings[0]["code"]), (1, &"deleted_and_written".into()), "{warnings:?}");
        assert_eq!(warnings[0]["namespaces"], serde_json::json!(["default/default/docs"]));
        // As it is said: the new one is deleted here, and had back beside the old one.
        nodes[0].clock.advance(1_000);
        engines[0].delete(&name("docs")).await.unwrap();
        link.run().await.unwrap();
        assert!(link.status().warnings().is_empty(), "{part}");
        assert_eq!(all(&engines[0], "docs").len(), 6, "{part}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_written_after_a_flush_that_failed_is_in_the_bucket_once_it_was_waited_for() {
    let mut failed = 0;
    for at in 0.. {
        let (place, node) = (Place::default(), Node::new(1));
        let engine = node.open();
        let link = place.link(&place.wire(), &node, &engine);
        put(&engine, "docs", 0..4, 1).await;
        together(&link).await.unwrap();
        put(&engine, "docs", [4], 1).await;
        let at = node.disk.operations() + at;
        node.disk.set_fault(Some(Fault { at, forever: false, kind: std::io::ErrorKind::StorageFull }));
        failed += u64::from(engine.checkpoint(&name("docs")).await.is_err());
        let is_hit = node.disk.operations() > at;
        node.disk.set_fault(None);
        put(&engine, "docs", [10], 2).await;
        together(&link).await.unwrap();
        // The node is lost right after it was told so.
        drop((link, engine));
        assert_eq!(fresh(9, &place.bucket(&node), "docs").await.len(), 6, "operation {at}");
        if !is_hit {
            break;
        }
    }
    assert!(failed > 10, "only {failed} flushes failed");
}

/// Writes a document, and says what commit that was.
async fn write_one(engine: &Arc<Engine>, id: u64) -> (Nsid, Version) {
    let body = json!({"upsert_rows": [{"id": id, "n": 1}]});
    let WriteBody::Write(request) = parse_write(body).unwrap() else { panic!("expected a write") };
    engine.write(&name("docs"), *request).await.unwrap().commit.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_is_said_to_be_in_the_bucket_only_once_a_manifest_there_covers_it() {
    let place = Place::default();
    let (nodes, engines) = two(&place).await;
    let wire = place.wire();
    let link = place.link(&wire, &nodes[0], &engines[0]);
    let has = async |awaited: &Awaited| link.has_in_bucket(&name("docs"), &mut awaited.clone()).await.unwrap();
    let all_of = || {
        let (nsid, seen) = engines[0].acknowledged(&name("docs")).unwrap();
        Awaited::all(nsid, seen)
    };
    link.run().await.unwrap();
    assert!(has(&all_of()).await);
    let (nsid, version) = write_one(&engines[0], 10).await;
    let written = Awaited::commit(nsid, version);
    assert!(!has(&written).await && !has(&all_of()).await);
    // A segment is not in the bucket, either.
    engines[0].checkpoint(&name("docs")).await.unwrap();
    assert!(!has(&written).await);
    together(&link).await.unwrap();
    assert!(has(&written).await && has(&all_of()).await);
    // What is kept under another name is, once that is there.
    sync(&nodes[1], &engines[1], &place.bucket(&nodes[1])).await.unwrap();
    delete(&nodes[1], &engines[1], &place).await;
    let (nsid, version) = write_one(&engines[0], 11).await;
    let written = Awaited::commit(nsid, version);
    wire.delay("/names/docs.recovered", true);
    together(&link).await.unwrap_err();
    wire.delay("/names/docs.recovered", false);
    together(&link).await.unwrap();
    assert!(has(&written).await);
    assert_ne!(engines[0].nsid_of(&name("docs")), Some(nsid));
}

/// What a write that changes nothing has to leave is an answer under its key, for who sends it again here.
#[tokio::test(flavor = "multi_thread")]
async fn a_keyed_write_that_changes_nothing_is_not_waited_for_and_survives_no_deletion() {
    let place = Place::default();
    let (nodes, engines) = two(&place).await;
    let wires = [place.wire(), place.wire()];
    let links = [0, 1].map(|at| place.link(&wires[at], &nodes[at], &engines[at]));
    for link in &links {
        link.run().await.unwrap();
    }
    let nothing = [json!({"delete_by_filter": ["n", "Lt", 0]}), json!({"patch_rows": [{"id": 99, "n": 1}]})];
    for (key, body) in nothing.into_iter().enumerate() {
        let WriteBody::Write(mut request) = parse_write(body).unwrap() else { panic!("expected a write") };
        request.idempotency = Some(Idempotency { key_hash: [key as u8; 16], body_hash: [1; 16] });
        let outcome = engines[0].write(&name("docs"), *request).await.unwrap();
        assert_eq!((outcome.commit, outcome.deleted + outcome.patched), (None, 0));
        let (nsid, seen) = engines[0].acknowledged(&name("docs")).unwrap();
        let has = links[0].has_in_bucket(&name("docs"), &mut Awaited::all(nsid, seen)).await.unwrap();
        assert!(has, "what there is to wait for is there already");
    }
    engines[0].allocate_ids(&name("docs"), 3).await.unwrap();
    links[0].run().await.unwrap();
    nodes[1].clock.advance(1_000);
    engines[1].delete(&name("docs")).await.unwrap();
    for at in [1, 0, 1] {
        links[at].run().await.unwrap();
    }
    for engine in &engines {
        assert_eq!(engine.named(), [], "nobody wrote what the deletion had not seen");
    }
}
