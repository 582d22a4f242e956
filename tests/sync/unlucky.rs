//! Passes that are cut off, overtaken or answered late, at the worst moment: what was acknowledged is there, and nobody is told what is
//! not so.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use object_store::memory::InMemory;
use serde_json::json;
use shoal::engine::Engine;
use shoal::engine::merge::MergeRequest;
use shoal::engine::merge::decide::Policy;
use shoal::platform::memory_disk::Fault;
use shoal::store::{Backend, Bucket, Patience};
use shoal::sync::{Selection, Sync, SyncOptions};

use crate::clones::assert_nothing_lost;
use crate::fleet::{fresh, lost, meet, sync};
use crate::node::{DAY_MS, Node, all, branch, name, put, write};
use crate::upkeep::{contents, delete_late, reclaim, reclaim_to_the_end};
use crate::wire::{Late, Wire};

/// Nothing is waited for: faults are told at once.
const PATIENCE: Patience = Patience {
    whole: Duration::from_millis(200),
    attempt: Duration::from_millis(200),
    wait_first: Duration::from_micros(10),
    wait_max: Duration::from_micros(100),
};

/// A store, and the ways to it.
#[derive(Default)]
pub struct Place {
    store: Arc<InMemory>,
    late: Arc<Mutex<Vec<Late>>>,
}

impl Place {
    pub fn wire(&self) -> Arc<Wire> {
        Wire::new(self.store.clone(), self.late.clone(), 1)
    }

    pub fn bucket(&self, node: &Node) -> Bucket {
        self.over(self.store.clone(), node)
    }

    fn over(&self, store: Arc<dyn object_store::ObjectStore>, node: &Node) -> Bucket {
        Bucket::over(Backend::direct(store, None, "memory"), node.clock.clone(), node.random.clone())
    }

    pub fn link(&self, wire: &Arc<Wire>, node: &Node, engine: &Arc<Engine>) -> Arc<Sync> {
        let options = SyncOptions { policy: Policy::Lww, patience: PATIENCE };
        Arc::new(Sync::new(engine.clone(), self.over(wire.clone(), node), options, node.clock.clone()))
    }
}

async fn run(link: &Sync) -> shoal::error::Result<()> {
    link.run_for(&Selection::default()).await.failed.map_or(Ok(()), Err)
}

/// Two nodes that have `docs` in common.
pub async fn two(place: &Place) -> ([Node; 2], [Arc<Engine>; 2]) {
    let nodes = [Node::new(1), Node::new(2)];
    let engines = [nodes[0].open(), nodes[1].open()];
    put(&engines[0], "docs", 0..5, 1).await;
    meet(&[(&nodes[0], &engines[0]), (&nodes[1], &engines[1])], &place.bucket(&nodes[0])).await;
    (nodes, engines)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_overtaken_in_the_middle_of_a_commit_has_it_in_the_bucket_all_the_same() {
    let place = Place::default();
    let (nodes, engines) = two(&place).await;
    put(&engines[0], "docs", [10], 2).await;
    put(&engines[1], "docs", [20], 3).await;
    let (wire, other) = (place.wire(), place.link(&place.wire(), &nodes[1], &engines[1]));
    let link = place.link(&wire, &nodes[0], &engines[0]);
    wire.meanwhile_at("/manifests/", Box::pin(async move { run(&other).await.unwrap() }));
    run(&link).await.unwrap();
    // The node is lost right after it was told so.
    drop((link, engines));
    let found = fresh(9, &place.bucket(&nodes[0]), "docs").await;
    assert_eq!(found.len(), 7, "{:?}", found.keys());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_arrives_when_nobody_thinks_of_it_any_more_is_the_nodes_own() {
    let place = Place::default();
    let (nodes, engines) = two(&place).await;
    let wire = place.wire();
    let link = place.link(&wire, &nodes[0], &engines[0]);
    run(&link).await.unwrap();
    put(&engines[0], "docs", [10], 2).await;
    wire.delay("/manifests/", true);
    assert_eq!(run(&link).await.unwrap_err().code(), "commit_unknown");
    wire.delay("/manifests/", false);
    put(&engines[0], "docs", [11], 3).await;
    let late = wire.clone();
    // Before the first manifest that is sent then.
    wire.meanwhile_at("/manifests/", Box::pin(async move { late.arrive().await }));
    run(&link).await.unwrap();
    assert_eq!(fresh(9, &place.bucket(&nodes[0]), "docs").await, all(&engines[0], "docs"));
    assert_eq!(all(&engines[0], "docs").len(), 7);
}

/// A node writes document 10, and loses power after so many requests of a pass, when one more arrives, or after all of it: then it was
/// not cut off.
pub async fn put_and_lose_power(
    place: &Place,
    node: &Node,
    engine: Arc<Engine>,
    (requests, arrives): (u64, bool),
) -> (Arc<Engine>, bool) {
    put(&engine, "docs", [10], 2).await;
    let wire = place.wire();
    let link = place.link(&wire, node, &engine);
    wire.cut_after(requests, arrives);
    let is_cut = tokio::select! {
        biased;
        done = run(&link) => { done.unwrap(); false }
        () = wire.cut() => true,
    };
    drop(link);
    (node.cut_power(engine), is_cut)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_cut_off_at_any_request_goes_on_from_what_others_made_of_it() {
    for (requests, arrives) in (0..30).flat_map(|requests| [(requests, true), (requests, false)]) {
        let place = Place::default();
        let (nodes, [engine, other]) = two(&place).await;
        let (engine, _) = put_and_lose_power(&place, &nodes[0], engine, (requests, arrives)).await;
        // The other one goes on from whatever there is, and this one does not hear of it before it writes again.
        put(&other, "docs", [20], 3).await;
        sync(&nodes[1], &other, &place.bucket(&nodes[1])).await.unwrap();
        put(&engine, "docs", [11], 4).await;
        meet(&[(&nodes[0], &engine), (&nodes[1], &other)], &place.bucket(&nodes[0])).await;
        let what = format!("cut off after {requests} requests, one more arrived: {arrives}");
        assert_eq!((all(&engine, "docs").len(), all(&engine, "docs")), (8, all(&other, "docs")), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_sent_and_never_heard_of_is_its_own_when_somebody_deletes_the_name() {
    let mut never_heard = 0;
    for (requests, arrives) in (0..30).flat_map(|requests| [(requests, true), (requests, false)]) {
        let place = Place::default();
        let (nodes, [engine, other]) = two(&place).await;
        let (engine, is_cut) = put_and_lose_power(&place, &nodes[0], engine, (requests, arrives)).await;
        sync(&nodes[1], &other, &place.bucket(&nodes[1])).await.unwrap();
        let was_seen = all(&other, "docs").len() == 6;
        never_heard += u32::from(is_cut && was_seen);
        nodes[1].clock.advance(1_000);
        other.delete(&name("docs")).await.unwrap();
        sync(&nodes[1], &other, &place.bucket(&nodes[1])).await.unwrap();
        let status = sync(&nodes[0], &engine, &place.bucket(&nodes[0])).await.unwrap();
        let what = format!("cut off after {requests} requests, one more arrived: {arrives}: {status:?}");
        assert!(!what.contains("cloned"), "{what}");
        let kept: Vec<String> = engine.named().into_iter().map(|(name, _)| name.name.to_string()).collect();
        match kept.as_slice() {
            [] => assert!(was_seen, "{what}"),
            [name] => assert_eq!((was_seen, all(&engine, name).len()), (false, 6), "{what}"),
            more => panic!("{more:?}, {what}"),
        }
    }
    assert!(never_heard > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn power_lost_anywhere_while_a_state_is_taken_in_loses_nothing_of_it() {
    let mut at = 0;
    loop {
        let place = Place::default();
        let (nodes, [engine, other]) = two(&place).await;
        put(&other, "docs", [20, 1], 3).await;
        sync(&nodes[1], &other, &place.bucket(&nodes[1])).await.unwrap();
        put(&engine, "docs", [10], 2).await;
        let from = nodes[0].disk.operations();
        nodes[0].disk.set_fault(Some(Fault { at: from + at, forever: true, kind: std::io::ErrorKind::Other }));
        let is_done = sync(&nodes[0], &engine, &place.bucket(&nodes[0])).await.is_ok();
        let is_over = is_done && nodes[0].disk.operations() <= from + at;
        let engine = nodes[0].cut_power(engine);
        sync(&nodes[0], &engine, &place.bucket(&nodes[0])).await.unwrap();
        // The other one may be gone by now.
        assert_eq!(fresh(9, &place.bucket(&nodes[1]), "docs").await.len(), 7, "power lost at operation {at}");
        meet(&[(&nodes[0], &engine), (&nodes[1], &other)], &place.bucket(&nodes[0])).await;
        assert_eq!(all(&engine, "docs"), all(&other, "docs"), "power lost at operation {at}");
        assert!(engine.check(3).unwrap().is_whole(), "power lost at operation {at}");
        if is_over {
            assert!(at > 30, "only {at} operations");
            return;
        }
        at += 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_merged_segments_apart_agree_on_one_form_of_them() {
    let place = Place::default();
    let (nodes, engines) = two(&place).await;
    let bucket = place.bucket(&nodes[0]);
    let both = [(&nodes[0], &engines[0]), (&nodes[1], &engines[1])];
    for n in 0..3 {
        put(&engines[n % 2], "docs", [n as u64, 10 + n as u64], 2).await;
        meet(&both, &bucket).await;
    }
    engines[0].compact(&name("docs")).await.unwrap();
    meet(&both, &bucket).await;
    // Merged into one by one of them, and once more by the other, each not knowing of the other.
    put(&engines[1], "docs", [30], 3).await;
    meet(&both, &bucket).await;
    for engine in &engines {
        engine.compact(&name("docs")).await.unwrap();
    }
    meet(&both, &bucket).await;
    let objects = bucket.list_all("", None, 10_000, &Patience::ASKED).await.unwrap();
    meet(&both, &bucket).await;
    assert_eq!(bucket.list_all("", None, 10_000, &Patience::ASKED).await.unwrap(), objects);
    assert_eq!(all(&engines[0], "docs"), all(&engines[1], "docs"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_deletion_had_not_seen_is_in_the_bucket_once_the_pass_is_over() {
    let place = Place::default();
    let (nodes, engines) = two(&place).await;
    let bucket = place.bucket(&nodes[0]);
    for time in 1..=2_u64 {
        put(&engines[1], "docs", 20..25, time).await;
        let whole = all(&engines[1], "docs");
        nodes[0].clock.advance(1_000);
        engines[0].delete(&name("docs")).await.unwrap();
        sync(&nodes[0], &engines[0], &bucket).await.unwrap();
        sync(&nodes[1], &engines[1], &bucket).await.unwrap();
        // The node may be lost now.
        let there = Node::new(90 + time);
        let engine = there.open();
        sync(&there, &engine, &bucket).await.unwrap();
        let kept: Vec<_> = engine.named().into_iter().filter(|(name, _)| name.name.contains("recovered")).collect();
        assert_eq!(kept.len() as u64, time, "{kept:?}");
        assert!(kept.iter().any(|(name, _)| all(&engine, &name.name) == whole));
        // And once more, under the same name.
        put(&engines[0], "docs", 0..3, 7).await;
        meet(&[(&nodes[0], &engines[0]), (&nodes[1], &engines[1])], &bucket).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn states_that_lost_in_a_merge_here_are_kept_when_the_buckets_state_is_taken_in() {
    let place = Place::default();
    let (nodes, engines) = two(&place).await;
    branch(&engines[0], "docs", "try").await;
    put(&engines[0], "docs", [1], 2).await;
    nodes[0].clock.advance(1_000);
    put(&engines[0], "try", [1], 3).await;
    let request = MergeRequest { policy: Policy::Lww, ..MergeRequest::default() };
    engines[0].merge(&name("try"), &name("docs"), request).await.unwrap();
    put(&engines[1], "docs", [20], 4).await;
    meet(&[(&nodes[1], &engines[1]), (&nodes[0], &engines[0])], &place.bucket(&nodes[0])).await;
    for engine in &engines {
        let kept = lost(engine, "docs");
        assert_eq!((kept.len(), &kept[0].fields.as_ref().unwrap()["n"]), (1, &json!(2)), "{kept:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn states_that_lost_on_either_side_are_kept_when_a_third_one_is_taken_in() {
    let place = Place::default();
    let (nodes, engines) = two(&place).await;
    let bucket = place.bucket(&nodes[0]);
    let third = Node::new(3);
    let engine = third.open();
    sync(&third, &engine, &bucket).await.unwrap();
    // One conflict in the bucket, another here, and a third when both meet.
    for (id, n) in [(1, 10), (2, 20), (3, 30)] {
        for (at, engine) in [&engines[0], &engines[1], &engine].into_iter().enumerate() {
            put(engine, "docs", [id], n + at as u64).await;
        }
    }
    for (node, engine) in [(&nodes[0], &engines[0]), (&nodes[1], &engines[1]), (&third, &engine)] {
        sync(node, engine, &bucket).await.unwrap();
    }
    for (node, engine) in [(&nodes[0], &engines[0]), (&nodes[1], &engines[1]), (&third, &engine)] {
        sync(node, engine, &bucket).await.unwrap();
        let kept: Vec<u64> =
            lost(engine, "docs").iter().map(|state| state.fields.as_ref().unwrap()["n"].as_u64().unwrap()).collect();
        assert_eq!(kept.len(), 6, "{kept:?}");
    }
}

/// The tags of `docs` that a node has.
fn tags(engine: &Engine) -> Vec<String> {
    engine.tags(&name("docs")).unwrap().into_iter().map(|tag| tag.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_whose_commit_was_overtaken_by_that_of_another_tag_is_announced_by_the_next() {
    let place = Place::default();
    let (nodes, engines) = two(&place).await;
    engines[0].tag(&name("docs"), "one", None).await.unwrap();
    engines[1].tag(&name("docs"), "other", None).await.unwrap();
    let (wire, other) = (place.wire(), place.link(&place.wire(), &nodes[1], &engines[1]));
    let link = place.link(&wire, &nodes[0], &engines[0]);
    wire.meanwhile_at("/manifests/", Box::pin(async move { run(&other).await.unwrap() }));
    run(&link).await.unwrap();
    // Each announced one change, and only one of them was the first.
    sync(&nodes[1], &engines[1], &place.bucket(&nodes[1])).await.unwrap();
    assert_eq!([tags(&engines[0]), tags(&engines[1])], [["one", "other"], ["one", "other"]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_deleted_after_a_pass_cut_off_anywhere_is_gone_for_good() {
    let mut was_left = 0;
    for requests in 0..30 {
        let place = Place::default();
        let (nodes, [engine, other]) = two(&place).await;
        engine.tag(&name("docs"), "gone", None).await.unwrap();
        let (engine, is_cut) = put_and_lose_power(&place, &nodes[0], engine, (requests, true)).await;
        let listed = place.bucket(&nodes[1]).list_all("", None, 10_000, &Patience::ASKED).await.unwrap();
        was_left += u32::from(is_cut && listed.iter().any(|listed| listed.key.contains("/tags/gone/")));
        engine.untag(&name("docs"), "gone").await.unwrap();
        // Another one's commit takes the place of that which was to announce it.
        put(&other, "docs", [20], 3).await;
        let both = [(&nodes[1], &other), (&nodes[0], &engine)];
        meet(&both, &place.bucket(&nodes[0])).await;
        other.tag(&name("docs"), "next", None).await.unwrap();
        meet(&both, &place.bucket(&nodes[0])).await;
        assert_eq!([tags(&engine), tags(&other)], [["next"], ["next"]], "cut off after {requests} requests");
    }
    assert!(was_left > 1, "{was_left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_made_for_a_chain_that_ended_is_not_put_into_the_one_that_began_after_it() {
    let place = Place::default();
    let (nodes, engines) = two(&place).await;
    let bucket = place.bucket(&nodes[0]);
    put(&engines[0], "docs", [10], 2).await;
    meet(&[(&nodes[0], &engines[0]), (&nodes[1], &engines[1])], &bucket).await;
    let newest = async || {
        let found = contents(&bucket).await;
        found.chains.into_values().next().and_then(|chain| chain.into_values().next_back())
    };
    let before = newest().await.unwrap();
    // All of the next state is there but its manifest.
    put(&engines[0], "docs", [11], 3).await;
    let wire = place.wire();
    wire.delay("/manifests/", true);
    run(&place.link(&wire, &nodes[0], &engines[0])).await.unwrap_err();
    // The chain ends and is buried, begins anew, and ends where the other one was.
    let mut condemned = Vec::new();
    for is_first in [true, false] {
        nodes[1].clock.advance(1_000);
        engines[1].delete(&name("docs")).await.unwrap();
        sync(&nodes[1], &engines[1], &bucket).await.unwrap();
        while newest().await.is_some_and(|newest| is_first || !newest.is_end()) {
            nodes[1].clock.advance(DAY_MS);
            condemned.extend(contents(&bucket).await.keys.into_iter().filter(|key| key.contains("/segments/")));
            assert!(reclaim(&nodes[1], &engines[1], &bucket, u64::from(!is_first)).await.failed.is_none());
        }
        if is_first {
            engines[1].undelete(&name("docs"), None).await.unwrap();
            sync(&nodes[1], &engines[1], &bucket).await.unwrap();
        }
    }
    assert_eq!(newest().await.unwrap().generation, before.generation);
    engines[0].delete(&name("docs")).await.unwrap();
    engines[0].undelete(&name("docs"), None).await.unwrap();
    sync(&nodes[0], &engines[0], &bucket).await.unwrap();
    // By a collector that was slow.
    for key in condemned {
        bucket.delete(&key, &Patience::ASKED).await.unwrap();
    }
    contents(&bucket).await.assert_whole();
    assert_eq!(fresh(9, &bucket, "docs").await, all(&engines[0], "docs"));
    assert_eq!(all(&engines[0], "docs").len(), 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_state_that_lost_what_it_holds_and_comes_late_is_whole_and_the_nodes_own() {
    let place = Place::default();
    let (nodes, engines) = two(&place).await;
    let bucket = place.bucket(&nodes[0]);
    engines[0].checkpoint(&name("docs")).await.unwrap();
    // Too young for anybody to give up what it holds.
    nodes[0].clock.advance(DAY_MS);
    branch(&engines[0], "docs", "try").await;
    let wire = place.wire();
    let link = place.link(&wire, &nodes[0], &engines[0]);
    wire.delay("/manifests/", true);
    assert_eq!(run(&link).await.unwrap_err().code(), "commit_unknown");
    wire.delay("/manifests/", false);
    assert_eq!(contents(&bucket).await.holds.len(), 1);
    // No state of the parent's that is kept names what the branch needs.
    put(&engines[1], "docs", 0..5, 3).await;
    engines[1].compact(&name("docs")).await.unwrap();
    sync(&nodes[1], &engines[1], &bucket).await.unwrap();
    nodes[1].clock.advance(1_000);
    assert!(reclaim(&nodes[1], &engines[1], &bucket, 100).await.failed.is_none());
    let late = wire.clone();
    wire.meanwhile_at("/manifests/", Box::pin(async move { late.arrive().await }));
    run(&link).await.unwrap();
    let notices: Vec<_> = link.status().namespaces.into_values().filter_map(|known| known.notice).collect();
    assert!(notices.is_empty(), "{notices:?}");
    delete_late(&bucket).await;
    contents(&bucket).await.assert_whole();
    let tried = all(&engines[0], "try");
    assert_eq!((tried.len(), fresh(8, &bucket, "try").await), (5, tried.clone()));
    reclaim_to_the_end(&nodes[1], &engines[1], &bucket).await;
    assert_eq!(fresh(9, &bucket, "try").await, tried);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_was_reclaimed_before_it_was_heard_of_costs_a_new_origin_and_no_document() {
    let place = Place::default();
    let (nodes, engines) = two(&place).await;
    let (bucket, wire) = (place.bucket(&nodes[0]), place.wire());
    put(&engines[0], "docs", [4, 10], 2).await;
    write(&engines[0], "docs", json!({"deletes": [0]})).await;
    wire.delay("/manifests/", true);
    assert_eq!(run(&place.link(&wire, &nodes[0], &engines[0])).await.unwrap_err().code(), "commit_unknown");
    wire.arrive().await;
    // Others go on from it, until nothing tells of it any more.
    for n in 0..3 {
        put(&engines[1], "docs", [20 + n], 3).await;
        engines[1].compact(&name("docs")).await.unwrap();
        sync(&nodes[1], &engines[1], &bucket).await.unwrap();
    }
    reclaim_to_the_end(&nodes[1], &engines[1], &bucket).await;
    write(&engines[0], "docs", json!({"deletes": [1]})).await;
    put(&engines[0], "docs", [11], 4).await;
    assert_nothing_lost(&nodes, &engines, &bucket, 5 - 2 + 2 + 3).await;
}

/// Three that are not reached end a pass: the others are come to before them the next time.
#[tokio::test(flavor = "multi_thread")]
async fn namespaces_that_are_never_reached_keep_no_other_from_the_bucket() {
    let (place, node) = (Place::default(), Node::new(1));
    let engine = node.open();
    let all_names = ["a", "b", "c", "d", "e"];
    for namespace in all_names {
        node.clock.advance(1);
        put(&engine, namespace, 0..5, 1).await;
    }
    let wire = place.wire();
    let bad = ["a", "b", "c"].map(|namespace| format!("{}/segments/", engine.nsid_of(&name(namespace)).unwrap()));
    wire.refuse(bad.to_vec());
    let link = place.link(&wire, &node, &engine);
    for _ in 0..2 {
        assert_eq!(run(&link).await.unwrap_err().code(), "bucket_unreachable");
    }
    for namespace in all_names {
        let is_there = engine.unsent(&name(namespace)).await.unwrap().is_durable;
        assert_eq!(is_there, ["d", "e"].contains(&namespace), "{namespace}");
    }
    wire.refuse(Vec::new());
    run(&link).await.unwrap();
    assert_eq!(fresh(9, &place.bucket(&node), "a").await, all(&engine, "a"));
}
