//! What is reclaimed in a shared bucket, and what is kept there and for how long: what nobody needs goes, and nothing else.

use std::sync::Arc;

use serde_json::json;
use shoal::engine::Engine;
use shoal::engine::merge::decide::Policy;
use shoal::store::{Bucket, Patience};
use shoal::sync::{Reclaim, Selection, Sync};

use crate::fleet::{bucket, fresh, meet, options, sync};
use crate::node::{DAY_MS, Node, all, branch, name, put, write};
use crate::upkeep::{contents, delete_late, reclaim, reclaim_to_the_end};

const P: &Patience = &Patience::ASKED;

/// Writes, and merges segments, so that most of what was sent before is needed no more.
pub async fn churn(node: &Node, engine: &Arc<Engine>, bucket: &Bucket, rounds: u64) {
    for round in 0..rounds {
        node.clock.advance(1_000);
        put(engine, "docs", 3 * round..3 * round + 20, round).await;
        write(engine, "docs", json!({"deletes": [round]})).await;
        engine.compact(&name("docs")).await.unwrap();
        sync(node, engine, bucket).await.unwrap();
    }
}

/// A branch that holds two segments and a bitmap of deletions, does `meanwhile`, and needs the segments only from then on; what it
/// came from needs none of them.
pub async fn hold_less(node: &Node, engine: &Arc<Engine>, bucket: &Bucket, meanwhile: impl AsyncFnOnce()) {
    put(engine, "docs", 100..110, 4).await;
    engine.compact(&name("docs")).await.unwrap();
    write(engine, "docs", json!({"deletes": [1]})).await;
    engine.checkpoint(&name("docs")).await.unwrap();
    sync(node, engine, bucket).await.unwrap();
    branch(engine, "docs", "try").await;
    sync(node, engine, bucket).await.unwrap();
    assert_eq!(contents(bucket).await.holds.values().next().unwrap().len(), 3);
    meanwhile().await;
    write(engine, "try", json!({"deletes": [2]})).await;
    engine.checkpoint(&name("try")).await.unwrap();
    engine.compact(&name("docs")).await.unwrap();
    node.clock.advance(1_000);
    sync(node, engine, bucket).await.unwrap();
}

/// What is in the bucket, but for claims of ids, which stay for ever.
pub async fn keys(bucket: &Bucket) -> Vec<String> {
    let listed = bucket.list_all("", None, 100_000, P).await.unwrap().into_iter().map(|listed| listed.key);
    listed.filter(|key| !key.starts_with("_ids/")).collect()
}

/// Two nodes that have the same namespace.
pub async fn two(seed: u64) -> (Bucket, [Node; 2], [Arc<Engine>; 2]) {
    let (bucket, nodes) = (bucket(seed), [Node::new(1), Node::new(2)]);
    let engines = [nodes[0].open(), nodes[1].open()];
    put(&engines[0], "docs", 0..50, 1).await;
    meet(&[(&nodes[0], &engines[0]), (&nodes[1], &engines[1])], &bucket).await;
    (bucket, nodes, engines)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_kept_state_needs_goes_and_everybody_goes_on() {
    let (bucket, nodes, engines) = two(1).await;
    churn(&nodes[0], &engines[0], &bucket, 6).await;
    // What an upload left that came to nothing.
    let prefix = format!("default/default/namespaces/{}", engines[0].named()[0].1);
    bucket.put(&format!("{prefix}/segments/{}/data.seg", uuid::Uuid::from_u128(7)), "x".into(), P).await.unwrap();
    let before = keys(&bucket).await.len();
    let run = reclaim(&nodes[1], &engines[1], &bucket, 0).await;
    let done = run.namespaces.values().next().unwrap().as_ref().unwrap();
    assert!(run.failed.is_none() && done.objects >= 7 && done.bytes > 10_000 && done.manifests >= 6, "{done:?}");
    let after = keys(&bucket).await.len();
    assert!(after < 9 && before > 15, "{before} keys before, {after} after");
    contents(&bucket).await.assert_exact();
    // Nothing more is to be done, and no further fence is written for it.
    let keys_then = keys(&bucket).await;
    assert!(reclaim(&nodes[0], &engines[0], &bucket, 0).await.failed.is_none());
    assert_eq!(keys(&bucket).await, keys_then);
    assert_eq!(fresh(3, &bucket, "docs").await, all(&engines[0], "docs"));
    put(&engines[1], "docs", 200..210, 9).await;
    meet(&[(&nodes[1], &engines[1]), (&nodes[0], &engines[0])], &bucket).await;
    assert_eq!(all(&engines[0], "docs"), all(&engines[1], "docs"));
    assert_eq!(all(&engines[0], "docs").len(), 50 - 6 + 10);
    reclaim_to_the_end(&nodes[0], &engines[0], &bucket).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn states_are_kept_whole_for_as_long_as_retention_says() {
    let (bucket, nodes, engines) = two(2).await;
    for _ in 0..10 {
        nodes[0].clock.advance(DAY_MS);
        churn(&nodes[0], &engines[0], &bucket, 1).await;
    }
    let newest = contents(&bucket).await.chains.into_values().next().unwrap();
    assert!(reclaim(&nodes[0], &engines[0], &bucket, 4 * DAY_MS).await.failed.is_none());
    let found = contents(&bucket).await;
    found.assert_exact();
    let kept = found.chains.values().next().unwrap();
    // Of ten days the last four, the one before them that held when they began, and the fence.
    let (before, last) = (newest.keys().next_back().unwrap(), kept.keys().next_back().unwrap());
    assert_eq!((kept.keys().next().unwrap(), last), (&(before - 4), &(before + 1)));
    assert_eq!(kept[&(before - 4)], newest[&(before - 4)]);
    // A clock that goes wrong, once, keeps or releases: nothing that is needed goes.
    nodes[0].clock.advance(400 * DAY_MS);
    assert!(reclaim(&nodes[0], &engines[0], &bucket, 4 * DAY_MS).await.failed.is_none());
    contents(&bucket).await.assert_exact();
    assert_eq!(fresh(3, &bucket, "docs").await, all(&engines[0], "docs"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_what_would_go_and_changes_nothing() {
    let (bucket, nodes, engines) = two(3).await;
    churn(&nodes[0], &engines[0], &bucket, 4).await;
    let before = keys(&bucket).await;
    let link = Sync::new(engines[0].clone(), bucket.clone(), options(Policy::Lww), nodes[0].clock.clone());
    let ask = Reclaim { dry_run: true, ..Reclaim::default() };
    let planned = link.reclaim(&Selection::default(), &ask).await;
    assert_eq!(keys(&bucket).await, before);
    let done = reclaim(&nodes[0], &engines[0], &bucket, 0).await;
    let of = |run: &shoal::sync::Reclaiming| *run.namespaces.values().next().unwrap().as_ref().unwrap();
    assert_eq!(of(&planned), of(&done));
    assert!(of(&done).objects > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_deleted_while_anything_is_unreadable() {
    let (bucket, nodes, engines) = two(4).await;
    branch(&engines[0], "docs", "try").await;
    meet(&[(&nodes[0], &engines[0]), (&nodes[1], &engines[1])], &bucket).await;
    churn(&nodes[0], &engines[0], &bucket, 4).await;
    let hold = keys(&bucket).await.into_iter().find(|key| key.contains("/holds/")).unwrap();
    let objects = |keys: Vec<String>| keys.into_iter().filter(|key| key.contains("/segments/")).collect::<Vec<_>>();
    let before = objects(keys(&bucket).await);
    let sound = bucket.get(&hold, P).await.unwrap().unwrap();
    bucket.put(&hold, "{".into(), P).await.unwrap();
    let run = reclaim(&nodes[0], &engines[0], &bucket, 0).await;
    let error = run.failed.unwrap();
    assert!(error.message().contains(&hold), "{error}");
    assert_eq!(objects(keys(&bucket).await), before);
    bucket.put(&hold, sound, P).await.unwrap();
    reclaim_to_the_end(&nodes[0], &engines[0], &bucket).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_while_its_base_was_reclaimed_comes_back_with_everything() {
    for others_write in [true, false] {
        let (bucket, nodes, engines) = two(5).await;
        put(&engines[1], "docs", 500..510, 7).await;
        engines[1].checkpoint(&name("docs")).await.unwrap();
        write(&engines[1], "docs", json!({"deletes": [45, 46]})).await;
        for day in 0..40 {
            nodes[0].clock.advance(DAY_MS);
            if others_write {
                put(&engines[0], "docs", day..day + 3, 100 + day).await;
                write(&engines[0], "docs", json!({"deletes": [day + 1]})).await;
            } else {
                engines[0].set_labels(&name("docs"), [("day".into(), day.to_string())].into()).await.unwrap();
            }
            engines[0].compact(&name("docs")).await.unwrap();
            sync(&nodes[0], &engines[0], &bucket).await.unwrap();
            assert!(reclaim(&nodes[0], &engines[0], &bucket, DAY_MS).await.failed.is_none());
        }
        nodes[1].clock.advance(40 * DAY_MS);
        let common = engines[1].common(engines[1].named()[0].1).unwrap().unwrap();
        let chain = contents(&bucket).await.chains.into_values().next().unwrap();
        assert!(*chain.keys().next().unwrap() > common.generation + 1, "its base is there yet");
        let away = Node::cut_power(&nodes[1], engines[1].clone());
        meet(&[(&nodes[1], &away), (&nodes[0], &engines[0])], &bucket).await;
        let met = all(&away, "docs");
        assert_eq!(met, all(&engines[0], "docs"));
        assert_eq!(met, fresh(3, &bucket, "docs").await);
        for id in 500..510 {
            assert_eq!(met[&shoal::model::ids::DocId::Uint(id)]["n"], json!(7));
        }
        assert!(!met.contains_key(&shoal::model::ids::DocId::Uint(45)));
        delete_late(&bucket).await;
        contents(&bucket).await.assert_whole();
        reclaim_to_the_end(&nodes[0], &engines[0], &bucket).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_keeps_what_it_shares_until_it_is_gone() {
    let (bucket, nodes, engines) = two(6).await;
    engines[0].checkpoint(&name("docs")).await.unwrap();
    branch(&engines[0], "docs", "try").await;
    branch(&engines[0], "try", "trial").await;
    put(&engines[0], "try", 100..110, 2).await;
    let all_nodes = [(&nodes[0], &engines[0]), (&nodes[1], &engines[1])];
    meet(&all_nodes, &bucket).await;
    let tried = all(&engines[0], "try");
    churn(&nodes[0], &engines[0], &bucket, 4).await;
    reclaim_to_the_end(&nodes[0], &engines[0], &bucket).await;
    assert_eq!(contents(&bucket).await.holds.len(), 2);
    assert_eq!(fresh(3, &bucket, "try").await, tried);
    // Its parent goes, and it stays.
    nodes[0].clock.advance(1_000);
    engines[0].delete(&name("docs")).await.unwrap();
    meet(&all_nodes, &bucket).await;
    nodes[0].clock.advance(1_000);
    reclaim_to_the_end(&nodes[0], &engines[0], &bucket).await;
    assert_eq!(fresh(4, &bucket, "try").await, tried);
    // It rewrites what it shared, and lets go of it.
    engines[1].compact(&name("try")).await.unwrap();
    put(&engines[1], "try", 1..5, 3).await;
    engines[1].compact(&name("try")).await.unwrap();
    meet(&all_nodes, &bucket).await;
    reclaim_to_the_end(&nodes[1], &engines[1], &bucket).await;
    assert_eq!(contents(&bucket).await.holds.len(), 1);
    for gone in ["trial", "try"] {
        nodes[1].clock.advance(10_000);
        engines[1].delete(&name(gone)).await.unwrap();
    }
    meet(&[all_nodes[1], all_nodes[0]], &bucket).await;
    nodes[1].clock.advance(10_000);
    reclaim_to_the_end(&nodes[1], &engines[1], &bucket).await;
    let left = keys(&bucket).await;
    assert!(left.iter().all(|key| key == "_format.json" || key.contains("/names/")), "{left:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_holds_what_its_kept_states_need_and_less_once_they_are_released() {
    let (bucket, nodes, engines) = two(12).await;
    hold_less(&nodes[0], &engines[0], &bucket, async || {}).await;
    // Something to reclaim of it, whatever is kept.
    let nsid = engines[0].named().iter().find(|(name, _)| &*name.name == "try").unwrap().1;
    let left = format!("default/default/namespaces/{nsid}/segments/{}/data.seg", uuid::Uuid::from_u128(7));
    bucket.put(&left, "x".into(), P).await.unwrap();
    for (retention_ms, held) in [(DAY_MS, 3), (0, 2)] {
        // Which of the two comes first is left to their ids: what the branch releases may go the next time only.
        for _ in 0..2 {
            assert!(reclaim(&nodes[0], &engines[0], &bucket, retention_ms).await.failed.is_none());
        }
        let found = contents(&bucket).await;
        found.assert_exact();
        assert_eq!(found.holds.values().next().unwrap().len(), held, "kept for {retention_ms} ms");
    }
    assert_eq!(fresh(3, &bucket, "try").await, all(&engines[0], "try"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_branch_of_what_the_bucket_has_not_or_no_more_is_sent_as_its_own() {
    let (bucket, nodes, engines) = two(7).await;
    // Of a state that was never sent, as its parent has merged it away before.
    put(&engines[0], "docs", 50..60, 2).await;
    branch(&engines[0], "docs", "unsent").await;
    put(&engines[0], "docs", 60..70, 2).await;
    // Of one that is reclaimed before the branch is sent.
    put(&engines[1], "docs", 70..80, 3).await;
    engines[1].checkpoint(&name("docs")).await.unwrap();
    branch(&engines[1], "docs", "late").await;
    engines[0].compact(&name("docs")).await.unwrap();
    sync(&nodes[0], &engines[0], &bucket).await.unwrap();
    churn(&nodes[0], &engines[0], &bucket, 3).await;
    reclaim_to_the_end(&nodes[0], &engines[0], &bucket).await;
    let expected = [("unsent", all(&engines[0], "unsent")), ("late", all(&engines[1], "late"))];
    meet(&[(&nodes[1], &engines[1]), (&nodes[0], &engines[0])], &bucket).await;
    delete_late(&bucket).await;
    reclaim_to_the_end(&nodes[1], &engines[1], &bucket).await;
    for (branch, expected) in expected {
        assert_eq!(fresh(3, &bucket, branch).await, expected, "{branch}");
        assert_eq!(all(&engines[0], branch), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_namespace_is_kept_for_a_time_and_comes_back_from_whoever_has_it() {
    for is_buried in [false, true] {
        let (bucket, nodes, engines) = two(8).await;
        let nsid = engines[0].named()[0].1;
        let whole = all(&engines[0], "docs");
        let all_nodes = [(&nodes[0], &engines[0]), (&nodes[1], &engines[1])];
        nodes.iter().for_each(|node| node.clock.advance(1_000));
        engines[0].delete(&name("docs")).await.unwrap();
        meet(&all_nodes, &bucket).await;
        let before = keys(&bucket).await;
        nodes[0].clock.advance(3 * DAY_MS);
        assert!(reclaim(&nodes[0], &engines[0], &bucket, 4 * DAY_MS).await.failed.is_none());
        assert_eq!(keys(&bucket).await, before);
        nodes[0].clock.advance(2 * DAY_MS);
        assert!(reclaim(&nodes[0], &engines[0], &bucket, 4 * DAY_MS).await.failed.is_none());
        let ended = contents(&bucket).await;
        assert!(ended.chains[&nsid].values().next_back().unwrap().is_end());
        assert!(!ended.keys.iter().any(|key| key.contains("/segments/")));
        if is_buried {
            nodes[0].clock.advance(4 * DAY_MS);
            assert!(reclaim(&nodes[0], &engines[0], &bucket, 4 * DAY_MS).await.failed.is_none());
            let found = keys(&bucket).await;
            let left: Vec<&String> = found.iter().filter(|key| key.contains("/namespaces/")).collect();
            assert!(left.is_empty(), "{left:#?}");
        }
        nodes[1].clock.advance(20 * DAY_MS);
        engines[1].undelete(&name("docs"), None).await.unwrap();
        meet(&[all_nodes[1], all_nodes[0]], &bucket).await;
        assert_eq!(all(&engines[0], "docs"), whole);
        delete_late(&bucket).await;
        contents(&bucket).await.assert_whole();
        assert_eq!(fresh(3, &bucket, "docs").await, whole);
        reclaim_to_the_end(&nodes[0], &engines[0], &bucket).await;
        assert_eq!(fresh(4, &bucket, "docs").await, whole);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_that_comes_after_its_time_is_none_of_the_chain() {
    let (bucket, nodes, engines) = two(9).await;
    let nsid = engines[0].named()[0].1;
    let late = contents(&bucket).await.keys.into_iter().rfind(|key| key.contains("/manifests/")).unwrap();
    let bytes = bucket.get(&late, P).await.unwrap().unwrap();
    churn(&nodes[0], &engines[0], &bucket, 5).await;
    reclaim_to_the_end(&nodes[0], &engines[0], &bucket).await;
    bucket.put(&late, bytes, P).await.unwrap();
    // The other node's base is this very manifest.
    put(&engines[1], "docs", 700..705, 1).await;
    meet(&[(&nodes[1], &engines[1]), (&nodes[0], &engines[0])], &bucket).await;
    assert_eq!(all(&engines[0], "docs"), all(&engines[1], "docs"));
    assert_eq!(all(&engines[0], "docs"), fresh(3, &bucket, "docs").await);
    reclaim_to_the_end(&nodes[0], &engines[0], &bucket).await;
    assert!(contents(&bucket).await.chains[&nsid].len() == 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nodes_that_write_branch_and_reclaim_at_once_lose_nothing() {
    let bucket = bucket(11);
    let nodes: Vec<Arc<Node>> = (0..3).map(|n| Arc::new(Node::new(n))).collect();
    let engines: Vec<_> = nodes.iter().map(|node| node.open()).collect();
    put(&engines[0], "docs", 0..10, 0).await;
    for (node, engine) in nodes.iter().zip(&engines) {
        sync(node, engine, &bucket).await.unwrap();
    }
    let mut working = Vec::new();
    for at in 0..3_u64 {
        let (node, engine, link) = (nodes[at as usize].clone(), engines[at as usize].clone(), bucket.clone());
        working.push(tokio::spawn(async move {
            for n in 0..12 {
                put(&engine, "docs", [1_000 * (at + 1) + n, n % 10], 100 * at + n).await;
                node.clock.advance(3);
                if n % 5 == at {
                    branch(&engine, "docs", &format!("try-{at}-{n}")).await;
                }
                if n % 4 == at {
                    engine.compact(&name("docs")).await.unwrap();
                }
                // Others may be quicker for as long as they like: then it goes on with the next.
                let _ = sync(&node, &engine, &link).await;
                let _ = reclaim(&node, &engine, &link, 0).await;
            }
        }));
    }
    for task in working {
        task.await.unwrap();
    }
    let all_nodes: Vec<_> = nodes.iter().map(|node| &**node).zip(&engines).collect();
    meet(&all_nodes, &bucket).await;
    delete_late(&bucket).await;
    reclaim_to_the_end(&nodes[0], &engines[0], &bucket).await;
    let met = all(&engines[0], "docs");
    assert_eq!(met.len(), 10 + 3 * 12);
    let names: Vec<String> = engines[0].named().iter().map(|(name, _)| name.name.to_string()).collect();
    assert!(names.len() > 6);
    for namespace in names {
        let found = all(&engines[0], &namespace);
        for engine in &engines {
            assert_eq!(all(engine, &namespace), found, "{namespace}");
        }
        assert_eq!(fresh(20, &bucket, &namespace).await, found, "{namespace}");
    }
}
