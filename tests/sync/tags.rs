//! Tags travel: what one node names the others can ask for, whatever was merged, reclaimed or interrupted in between.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use object_store::memory::InMemory;
use shoal::engine::Engine;
use shoal::engine::merge::decide::Policy;
use shoal::model::as_of::AsOf;
use shoal::model::name_patterns::NamePatterns;
use shoal::store::{Bucket, Patience};
use shoal::sync::{Selection, Sync};

use crate::fleet::{meet, options, sync};
use crate::meetings::{interrupted, over, silent_from};
use crate::node::{DAY_MS, Documents, Node, all, branch, documents, name, put};
use crate::odd_store::OddStore;
use crate::reclaiming::{churn, keys, two};
use crate::upkeep::{contents, delete_late, reclaim, reclaim_to_the_end};

const P: &Patience = &Patience::ASKED;

/// What a node answers as of a tag.
pub fn at(engine: &Engine, namespace: &str, tag: &str) -> Documents {
    documents(&engine.view_at(&name(namespace), Some(&AsOf::Tag(tag.into()))).unwrap())
}

fn tags(engine: &Engine, namespace: &str) -> Vec<String> {
    engine.tags(&name(namespace)).unwrap().into_iter().map(|tag| tag.name).collect()
}

pub async fn tag(engine: &Arc<Engine>, namespace: &str, tag: &str) {
    engine.tag(&name(namespace), tag, None).await.unwrap();
}

/// What a node that never was there before answers as of a tag.
pub async fn fresh(seed: u64, bucket: &Bucket, namespace: &str, tag: &str) -> Documents {
    let node = Node::new(seed);
    let engine = node.open();
    sync(&node, &engine, bucket).await.unwrap();
    at(&engine, namespace, tag)
}

async fn notice(node: &Node, engine: &Arc<Engine>, bucket: &Bucket) -> Option<String> {
    sync(node, engine, bucket).await.unwrap().namespaces[&name("docs")].notice.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_travels_and_is_gone_everywhere_once_any_node_deleted_it() {
    let (bucket, nodes, engines) = two(1).await;
    let both = [(&nodes[0], &engines[0]), (&nodes[1], &engines[1])];
    // Rows replaced and deleted, in a segment and in logs; and writes that come after the tag.
    put(&engines[0], "docs", 40..60, 2).await;
    crate::node::write(&engines[0], "docs", serde_json::json!({"deletes": [1, 2, 59]})).await;
    let tagged = all(&engines[0], "docs");
    tag(&engines[0], "docs", "v1").await;
    put(&engines[0], "docs", 0..10, 3).await;
    meet(&both, &bucket).await;
    assert_eq!(at(&engines[0], "docs", "v1"), tagged);
    assert_eq!(at(&engines[1], "docs", "v1"), tagged);
    assert_eq!(fresh(3, &bucket, "docs", "v1").await, tagged);
    let restarted = nodes[1].cut_power(engines[1].clone());
    assert_eq!(at(&restarted, "docs", "v1"), tagged);
    let both = [(&nodes[0], &engines[0]), (&nodes[1], &restarted)];
    nodes[1].clock.advance(1_000);
    restarted.untag(&name("docs"), "v1").await.unwrap();
    meet(&both, &bucket).await;
    assert_eq!((tags(&engines[0], "docs"), tags(&restarted, "docs")), (vec![], vec![]));
    // By a node whose clock is behind that of the deletion.
    tag(&engines[0], "docs", "v1").await;
    let now = all(&engines[0], "docs");
    meet(&both, &bucket).await;
    assert_eq!((at(&engines[0], "docs", "v1"), at(&restarted, "docs", "v1")), (now.clone(), now));
    for engine in [&engines[0], &restarted] {
        assert!(engine.check(4).unwrap().is_whole(), "{:?}", engine.check(4).unwrap());
    }
    reclaim_to_the_end(&nodes[0], &engines[0], &bucket).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_were_set_apart_the_later_one_holds_everywhere_and_it_is_told() {
    for later in [0, 1] {
        let (bucket, nodes, engines) = two(2).await;
        let both = [(&nodes[0], &engines[0]), (&nodes[1], &engines[1])];
        nodes[later].clock.advance(5_000);
        put(&engines[0], "docs", [7], 100).await;
        tag(&engines[0], "docs", "best").await;
        put(&engines[1], "docs", [7], 200).await;
        tag(&engines[1], "docs", "best").await;
        let expected = at(&engines[later], "docs", "best");
        sync(&nodes[0], &engines[0], &bucket).await.unwrap();
        let told = notice(&nodes[1], &engines[1], &bucket).await.unwrap();
        assert!(told.contains("tag 'best' was changed here and by another node"), "{told}");
        meet(&both, &bucket).await;
        assert_eq!(at(&engines[0], "docs", "best"), expected);
        assert_eq!(at(&engines[1], "docs", "best"), expected);
        assert_eq!(fresh(3, &bucket, "docs", "best").await, expected);
        // In the same millisecond who comes first holds.
        nodes[1 - later].clock.advance(5_000);
        for (node, engine) in both {
            tag(engine, "docs", "same").await;
            sync(node, engine, &bucket).await.unwrap();
            put(engine, "docs", [8], 300).await;
        }
        meet(&both, &bucket).await;
        assert_eq!(at(&engines[0], "docs", "same"), at(&engines[1], "docs", "same"));
        reclaim_to_the_end(&nodes[1], &engines[1], &bucket).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_done_to_a_tag_while_a_pass_takes_in_its_deletion_holds_as_it_came_later() {
    for is_set_again in [true, false] {
        let (store, nodes) = (Arc::new(OddStore::default()), [Node::new(1), Node::new(2)]);
        let engines = [nodes[0].open(), nodes[1].open()];
        let both = [(&nodes[0], &engines[0]), (&nodes[1], &engines[1])];
        let bucket = store.bucket(&nodes[0]);
        put(&engines[0], "docs", 0..5, 1).await;
        tag(&engines[0], "docs", "v1").await;
        meet(&both, &bucket).await;
        engines[1].untag(&name("docs"), "v1").await.unwrap();
        sync(&nodes[1], &engines[1], &bucket).await.unwrap();
        *store.waits_at.lock().unwrap() = "/tags/v1/".to_owned();
        let (waiting, (node, engine)) = (store.clone(), both[0]);
        let meanwhile = async {
            waiting.waits.notified().await;
            store.waits_at.lock().unwrap().clear();
            node.clock.advance(60_000);
            engine.untag(&name("docs"), "v1").await.unwrap();
            if is_set_again {
                put(engine, "docs", [9], 2).await;
                tag(engine, "docs", "v1").await;
            }
            store.go_on.notify_one();
        };
        let (done, ()) = tokio::join!(sync(node, engine, &bucket), meanwhile);
        done.unwrap();
        meet(&both, &bucket).await;
        let expected = if is_set_again { vec!["v1".to_owned()] } else { Vec::new() };
        assert_eq!((tags(&engines[0], "docs"), tags(&engines[1], "docs")), (expected.clone(), expected));
        if is_set_again {
            assert_eq!(fresh(3, &bucket, "docs", "v1").await.len(), 6);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_tag_names_outlives_reclaim_until_it_is_deleted() {
    let (bucket, nodes, engines) = two(3).await;
    let both = [(&nodes[0], &engines[0]), (&nodes[1], &engines[1])];
    let tagged = all(&engines[0], "docs");
    tag(&engines[0], "docs", "v1").await;
    meet(&both, &bucket).await;
    churn(&nodes[0], &engines[0], &bucket, 4).await;
    // By the other node, which has nothing to lose.
    reclaim_to_the_end(&nodes[1], &engines[1], &bucket).await;
    assert_eq!(fresh(3, &bucket, "docs", "v1").await, tagged);
    let before = keys(&bucket).await;
    reclaim_to_the_end(&nodes[0], &engines[0], &bucket).await;
    assert_eq!(keys(&bucket).await, before, "nothing is left to do");
    nodes[1].clock.advance(DAY_MS);
    engines[1].untag(&name("docs"), "v1").await.unwrap();
    meet(&[both[1], both[0]], &bucket).await;
    // The deletion is kept for a time, for who is away.
    assert!(reclaim(&nodes[1], &engines[1], &bucket, DAY_MS).await.failed.is_none());
    assert!(keys(&bucket).await.iter().filter(|key| key.contains("/tags/")).count() == 1);
    nodes[0].clock.advance(4 * DAY_MS);
    reclaim_to_the_end(&nodes[0], &engines[0], &bucket).await;
    let left = keys(&bucket).await;
    assert!(!left.iter().any(|key| key.contains("/tags/")), "{left:#?}");
    assert_eq!(left.iter().filter(|key| key.contains("/segments/")).count(), 1, "{left:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_away_when_a_tag_was_deleted_long_ago_lets_go_of_it_and_keeps_its_own() {
    let (bucket, nodes, engines) = two(4).await;
    let both = [(&nodes[0], &engines[0]), (&nodes[1], &engines[1])];
    tag(&engines[0], "docs", "old").await;
    meet(&both, &bucket).await;
    tag(&engines[1], "docs", "own").await;
    nodes[0].clock.advance(DAY_MS);
    engines[0].untag(&name("docs"), "old").await.unwrap();
    sync(&nodes[0], &engines[0], &bucket).await.unwrap();
    reclaim_to_the_end(&nodes[0], &engines[0], &bucket).await;
    assert!(!keys(&bucket).await.iter().any(|key| key.contains("/tags/")));
    meet(&[both[1], both[0]], &bucket).await;
    assert_eq!((tags(&engines[1], "docs"), tags(&engines[0], "docs")), (vec!["own".into()], vec!["own".to_owned()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_on_a_state_that_the_bucket_has_lost_is_sent_from_what_is_here() {
    let (bucket, nodes, engines) = two(5).await;
    let both = [(&nodes[0], &engines[0]), (&nodes[1], &engines[1])];
    let past = all(&engines[1], "docs");
    let before = engines[1].history(&name("docs")).unwrap()[0].generation;
    churn(&nodes[0], &engines[0], &bucket, 3).await;
    reclaim_to_the_end(&nodes[0], &engines[0], &bucket).await;
    engines[1].tag(&name("docs"), "was", Some(&AsOf::Generation(before))).await.unwrap();
    meet(&[both[1], both[0]], &bucket).await;
    delete_late(&bucket).await;
    contents(&bucket).await.assert_whole();
    for found in
        [at(&engines[1], "docs", "was"), at(&engines[0], "docs", "was"), fresh(3, &bucket, "docs", "was").await]
    {
        assert_eq!(found, past);
    }
    reclaim_to_the_end(&nodes[0], &engines[0], &bucket).await;
    assert_eq!(fresh(4, &bucket, "docs", "was").await, past);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_of_a_branch_keeps_what_it_shares_and_lets_go_of_it() {
    let (bucket, nodes, engines) = two(6).await;
    let both = [(&nodes[0], &engines[0]), (&nodes[1], &engines[1])];
    engines[0].checkpoint(&name("docs")).await.unwrap();
    branch(&engines[0], "docs", "try").await;
    put(&engines[0], "try", 100..110, 2).await;
    let tagged = all(&engines[0], "try");
    tag(&engines[0], "try", "v1").await;
    meet(&both, &bucket).await;
    let shared = contents(&bucket).await;
    let tag_of_try = shared.tags.values().flat_map(|tags| tags.values()).next().unwrap();
    assert!(tag_of_try.segments.iter().any(|segment| !segment.key.contains(&tag_of_try.nsid.to_string())));
    // Both rewrite what they shared.
    churn(&nodes[0], &engines[0], &bucket, 3).await;
    put(&engines[1], "try", 1..5, 3).await;
    engines[1].compact(&name("try")).await.unwrap();
    meet(&[both[1], both[0]], &bucket).await;
    reclaim_to_the_end(&nodes[1], &engines[1], &bucket).await;
    assert_eq!(fresh(3, &bucket, "try", "v1").await, tagged);
    assert_eq!(contents(&bucket).await.holds.len(), 1);
    engines[0].untag(&name("try"), "v1").await.unwrap();
    meet(&both, &bucket).await;
    reclaim_to_the_end(&nodes[0], &engines[0], &bucket).await;
    assert!(contents(&bucket).await.holds.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_of_a_deleted_namespace_go_with_it_and_come_back_with_it() {
    for is_buried in [false, true] {
        let (bucket, nodes, engines) = two(7).await;
        let both = [(&nodes[0], &engines[0]), (&nodes[1], &engines[1])];
        let tagged = all(&engines[0], "docs");
        tag(&engines[0], "docs", "v1").await;
        put(&engines[0], "docs", 0..30, 2).await;
        meet(&both, &bucket).await;
        nodes.iter().for_each(|node| node.clock.advance(1_000));
        engines[0].delete(&name("docs")).await.unwrap();
        meet(&both, &bucket).await;
        nodes[0].clock.advance(DAY_MS);
        for _ in 0..if is_buried { 3 } else { 1 } {
            assert!(reclaim(&nodes[0], &engines[0], &bucket, 0).await.failed.is_none());
            nodes[0].clock.advance(DAY_MS);
        }
        let left = keys(&bucket).await;
        assert!(!left.iter().any(|key| key.contains("/tags/")), "{left:#?}");
        nodes[1].clock.advance(5 * DAY_MS);
        engines[1].undelete(&name("docs"), None).await.unwrap();
        meet(&[both[1], both[0]], &bucket).await;
        assert_eq!(at(&engines[0], "docs", "v1"), tagged);
        assert_eq!(fresh(3, &bucket, "docs", "v1").await, tagged);
        delete_late(&bucket).await;
        contents(&bucket).await.assert_whole();
        reclaim_to_the_end(&nodes[0], &engines[0], &bucket).await;
        assert_eq!(fresh(4, &bucket, "docs", "v1").await, tagged);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tags_cost_a_node_without_news_no_request_and_a_change_three_puts() {
    let (bucket, nodes, engines) = two(8).await;
    let both = [(&nodes[0], &engines[0]), (&nodes[1], &engines[1])];
    for n in 0..5 {
        tag(&engines[0], "docs", &format!("v{n}")).await;
        put(&engines[0], "docs", [n], 2).await;
    }
    meet(&both, &bucket).await;
    let links =
        [0, 1].map(|n| Sync::new(engines[n].clone(), bucket.clone(), options(Policy::Lww), nodes[n].clock.clone()));
    let requests = || {
        let requests = bucket.traffic().snapshot().requests;
        let count = |puts: bool| {
            let is_put = |kind: &str| !matches!(kind, "get" | "head" | "list" | "delete");
            requests.iter().filter(|(kind, ..)| !puts || is_put(kind.name())).map(|(_, _, count)| count).sum::<u64>()
        };
        [count(false), count(true)]
    };
    for (link, node) in links.iter().zip(&nodes) {
        link.run().await.unwrap();
        for _ in 0..3 {
            let [before, _] = requests();
            node.clock.advance(60_000);
            assert!(link.run_for(&Selection::default().unasked()).await.failed.is_none());
            assert_eq!(requests()[0] - before, 1);
        }
    }
    // The tag, the manifest that announces it, the hint.
    tag(&engines[0], "docs", "v9").await;
    let [_, before] = requests();
    assert!(links[0].run_for(&Selection::default().unasked()).await.failed.is_none());
    assert_eq!(requests()[1] - before, 3);
    assert!(links[1].run_for(&Selection::default().unasked()).await.failed.is_none());
    assert_eq!(tags(&engines[1], "docs").len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_has_the_tags_of_others_and_keeps_its_own() {
    let (bucket, nodes, engines) = two(9).await;
    tag(&engines[0], "docs", "v1").await;
    sync(&nodes[0], &engines[0], &bucket).await.unwrap();
    let mut node = Node::new(3);
    node.config.followed = NamePatterns::parse("follow", &["*/*/docs".to_owned()]).unwrap();
    let follower = node.open();
    sync(&node, &follower, &bucket).await.unwrap();
    tag(&follower, "docs", "mine").await;
    put(&engines[0], "docs", [5], 5).await;
    tag(&engines[0], "docs", "v2").await;
    sync(&nodes[0], &engines[0], &bucket).await.unwrap();
    sync(&node, &follower, &bucket).await.unwrap();
    sync(&nodes[0], &engines[0], &bucket).await.unwrap();
    assert_eq!(tags(&follower, "docs"), ["mine", "v1", "v2"]);
    assert_eq!(tags(&engines[0], "docs"), ["v1", "v2"]);
    assert_eq!(at(&follower, "docs", "v2"), at(&engines[0], "docs", "v2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_somebody_damaged_is_told_and_keeps_nobody_from_the_documents() {
    let (bucket, nodes, engines) = two(10).await;
    tag(&engines[0], "docs", "bad").await;
    tag(&engines[0], "docs", "good").await;
    put(&engines[0], "docs", 70..80, 2).await;
    sync(&nodes[0], &engines[0], &bucket).await.unwrap();
    let key = keys(&bucket).await.into_iter().find(|key| key.contains("/tags/bad/")).unwrap();
    let sound = bucket.get(&key, P).await.unwrap().unwrap();
    bucket.put(&key, "{".into(), P).await.unwrap();
    let told = notice(&nodes[1], &engines[1], &bucket).await.unwrap();
    assert!(told.contains("'bad'") && told.contains(&key), "{told}");
    assert_eq!(tags(&engines[1], "docs"), ["good"]);
    assert_eq!(all(&engines[1], "docs"), all(&engines[0], "docs"));
    // What it keeps is not known, so nothing is deleted.
    churn(&nodes[0], &engines[0], &bucket, 3).await;
    let objects = |keys: Vec<String>| keys.into_iter().filter(|key| key.contains("/segments/")).count();
    let before = objects(keys(&bucket).await);
    assert!(reclaim(&nodes[1], &engines[1], &bucket, 0).await.failed.unwrap().message().contains(&key));
    assert_eq!(objects(keys(&bucket).await), before);
    bucket.put(&key, sound, P).await.unwrap();
    reclaim_to_the_end(&nodes[1], &engines[1], &bucket).await;
    tag(&engines[0], "docs", "next").await;
    meet(&[(&nodes[0], &engines[0]), (&nodes[1], &engines[1])], &bucket).await;
    assert_eq!(tags(&engines[1], "docs"), ["bad", "good", "next"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_change_leaves_a_tag_as_it_was_and_everybody_at_rest() {
    let (bucket, nodes, engines) = two(12).await;
    let (third, there) = (Node::new(3), Node::new(4));
    let others = [third.open(), there.open()];
    tag(&engines[0], "docs", "v1").await;
    let tagged = at(&engines[0], "docs", "v1");
    meet(&[(&nodes[0], &engines[0]), (&third, &others[0]), (&there, &others[1])], &bucket).await;
    nodes[0].clock.advance(1_000);
    engines[0].untag(&name("docs"), "v1").await.unwrap();
    put(&engines[0], "docs", [3], 3).await;
    tag(&engines[0], "docs", "v1").await;
    sync(&nodes[0], &engines[0], &bucket).await.unwrap();
    let key = keys(&bucket).await.into_iter().rfind(|key| key.contains("/tags/v1/")).unwrap();
    bucket.put(&key, "{".into(), P).await.unwrap();
    let told = notice(&third, &others[0], &bucket).await.unwrap();
    assert!(told.contains(&key), "{told}");
    meet(&[(&there, &others[1])], &bucket).await;
    let before = keys(&bucket).await;
    for _ in 0..2 {
        meet(&[(&third, &others[0]), (&there, &others[1])], &bucket).await;
    }
    assert_eq!(keys(&bucket).await, before);
    assert_eq!([at(&others[0], "docs", "v1"), at(&others[1], "docs", "v1")], [tagged.clone(), tagged]);
}

/// Two nodes of which nothing is merged but on purpose, so that every round has the same requests; the first has a tag to send whose
/// state the bucket had, or never had, and has not among its newest any more.
async fn with_a_tag(direct: &Bucket, was_sent: bool) -> ([Arc<Node>; 2], [Arc<Engine>; 2], Documents) {
    let node = |seed| {
        let mut node = Node::new(seed);
        node.config.compaction_fan_in = 100;
        Arc::new(node)
    };
    let nodes = [node(1), node(2)];
    let engines = [nodes[0].open(), nodes[1].open()];
    put(&engines[0], "docs", 0..50, 1).await;
    meet(&[(&nodes[0], &engines[0]), (&nodes[1], &engines[1])], direct).await;
    put(&engines[0], "docs", 50..60, 2).await;
    if was_sent {
        sync(&nodes[0], &engines[0], direct).await.unwrap();
    }
    let tagged = all(&engines[0], "docs");
    tag(&engines[0], "docs", "v1").await;
    put(&engines[0], "docs", 60..70, 3).await;
    engines[0].compact(&name("docs")).await.unwrap();
    sync(&nodes[1], &engines[1], direct).await.unwrap();
    (nodes, engines, tagged)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_meets_a_collector_at_any_request() {
    for was_sent in [false, true] {
        for step in 0.. {
            let store = Arc::new(InMemory::new());
            let direct = over(store.clone(), 1);
            let (nodes, engines, tagged) = with_a_tag(&direct, was_sent).await;
            let action = {
                let (node, engine, direct) = (nodes[1].clone(), engines[1].clone(), direct.clone());
                Box::pin(async move {
                    put(&engine, "docs", 10..15, 30).await;
                    engine.compact(&name("docs")).await.unwrap();
                    sync(&node, &engine, &direct).await.unwrap();
                    assert!(reclaim(&node, &engine, &direct, 0).await.failed.is_none());
                    delete_late(&direct).await;
                })
            };
            let (link, happened) = interrupted(&store, step, action);
            sync(&nodes[0], &engines[0], &link).await.unwrap();
            delete_late(&direct).await;
            contents(&direct).await.assert_whole();
            meet(&[(&nodes[0], &engines[0]), (&nodes[1], &engines[1])], &direct).await;
            delete_late(&direct).await;
            reclaim_to_the_end(&nodes[1], &engines[1], &direct).await;
            for engine in &engines {
                assert_eq!(at(engine, "docs", "v1"), tagged, "{was_sent} {step}");
            }
            assert_eq!(fresh(9, &direct, "docs", "v1").await, tagged, "{was_sent} {step}");
            if !happened.load(Ordering::SeqCst) {
                assert!(step > 8, "{step} requests");
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_meets_a_tag_at_any_request() {
    for step in 0.. {
        let store = Arc::new(InMemory::new());
        let direct = over(store.clone(), 1);
        let (nodes, engines, tagged) = with_a_tag(&direct, true).await;
        // Something to reclaim: what the tag names is needed by no other state.
        let node = &nodes[1];
        put(&engines[1], "docs", 10..15, 30).await;
        engines[1].compact(&name("docs")).await.unwrap();
        sync(node, &engines[1], &direct).await.unwrap();
        let action = {
            let (node, engine, direct) = (nodes[0].clone(), engines[0].clone(), direct.clone());
            Box::pin(async move { drop(sync(&node, &engine, &direct).await.unwrap()) })
        };
        let (link, happened) = interrupted(&store, step, action);
        assert!(reclaim(node, &engines[1], &link, 0).await.failed.is_none());
        delete_late(&direct).await;
        contents(&direct).await.assert_whole();
        meet(&[(&nodes[0], &engines[0]), (&nodes[1], &engines[1])], &direct).await;
        delete_late(&direct).await;
        reclaim_to_the_end(node, &engines[1], &direct).await;
        assert_eq!(at(&engines[1], "docs", "v1"), tagged, "{step}");
        assert_eq!(fresh(9, &direct, "docs", "v1").await, tagged, "{step}");
        if !happened.load(Ordering::SeqCst) {
            assert!(step > 8, "{step} requests");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_with_tags_may_stop_at_any_request_and_the_next_one_goes_on() {
    for step in 0.. {
        let store = Arc::new(InMemory::new());
        let direct = over(store.clone(), 1);
        let (nodes, engines, tagged) = with_a_tag(&direct, false).await;
        tag(&engines[1], "docs", "old").await;
        meet(&[(&nodes[1], &engines[1])], &direct).await;
        engines[1].untag(&name("docs"), "old").await.unwrap();
        let mut engines = engines;
        for at in [0, 1] {
            let (link, cut) = silent_from(&store, step);
            let is_through = tokio::select! {
                done = sync(&nodes[at], &engines[at], &link) => { done.unwrap(); true }
                () = cut.notified() => false,
            };
            engines[at] = nodes[at].cut_power(engines[at].clone());
            contents(&direct).await.assert_whole();
            if is_through && at == 1 {
                assert!(step > 8, "{step} requests");
                return;
            }
        }
        meet(&[(&nodes[0], &engines[0]), (&nodes[1], &engines[1])], &direct).await;
        for engine in &engines {
            assert_eq!(tags(engine, "docs"), ["v1"], "{step}");
            assert_eq!(at(engine, "docs", "v1"), tagged, "{step}");
            assert!(engine.check(3).unwrap().is_whole(), "{:?}", engine.check(3).unwrap());
        }
        reclaim_to_the_end(&nodes[0], &engines[0], &direct).await;
        assert_eq!(fresh(9, &direct, "docs", "v1").await, tagged, "{step}");
    }
}
