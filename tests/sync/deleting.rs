//! Namespaces deleted, created again and brought back on some nodes: the others follow, and nothing that was written unseen goes.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use shoal::engine::Engine;
use shoal::engine::merge::decide::Policy;
use shoal::model::name_patterns::NamePatterns;
use shoal::platform::memory_disk::{Mishap, MishapKind};
use shoal::store::Bucket;
use shoal::sync::{Selection, Sync};

use crate::fleet::{bucket, fresh, lost, meet, names, options, sync};
use crate::hook_disk::HookDisk;
use crate::node::{DAY_MS, Node, all, name, put};
use crate::unlucky::Place;
use crate::upkeep::{contents, reclaim};

async fn two() -> (Bucket, [Node; 2], [std::sync::Arc<shoal::engine::Engine>; 2]) {
    let (bucket, nodes) = (bucket(1), [Node::new(1), Node::new(2)]);
    let engines = [nodes[0].open(), nodes[1].open()];
    put(&engines[0], "docs", 0..20, 1).await;
    meet(&[(&nodes[0], &engines[0]), (&nodes[1], &engines[1])], &bucket).await;
    (bucket, nodes, engines)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_travels_and_can_be_undone_on_another_node() {
    let (bucket, nodes, engines) = two().await;
    let all_nodes = [(&nodes[0], &engines[0]), (&nodes[1], &engines[1])];
    nodes[0].clock.advance(1_000);
    engines[0].delete(&name("docs")).await.unwrap();
    meet(&all_nodes, &bucket).await;
    assert_eq!((names(&engines[0]), names(&engines[1])), (vec![], vec![]));
    nodes[1].clock.advance(60_000);
    engines[1].undelete(&name("docs"), None).await.unwrap();
    put(&engines[1], "docs", 20..25, 2).await;
    meet(&[all_nodes[1], all_nodes[0]], &bucket).await;
    assert_eq!(all(&engines[0], "docs").len(), 25);
    assert_eq!(all(&engines[0], "docs"), all(&engines[1], "docs"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_came_back_can_be_deleted_again_on_any_node() {
    for (back, again) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
        let (bucket, nodes, engines) = two().await;
        let pair = |first: usize| [first, 1 - first].map(|n| (&nodes[n], &engines[n]));
        for round in 0..2 {
            let first = if round == 0 { 0 } else { again };
            nodes.iter().for_each(|node| node.clock.advance(1_000));
            engines[first].delete(&name("docs")).await.unwrap();
            meet(&pair(first), &bucket).await;
            assert_eq!((names(&engines[0]), names(&engines[1])), (vec![], vec![]), "{back} {again} {round}");
            nodes.iter().for_each(|node| node.clock.advance(1_000));
            engines[back].undelete(&name("docs"), None).await.unwrap();
            meet(&pair(back), &bucket).await;
            for engine in &engines {
                assert_eq!(all(engine, "docs").len(), 20, "{back} {again} {round}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_others_wrote_to_unseen_is_back_after_its_deletion() {
    let (bucket, nodes, engines) = two().await;
    put(&engines[1], "docs", 20..30, 2).await;
    sync(&nodes[1], &engines[1], &bucket).await.unwrap();
    engines[0].delete(&name("docs")).await.unwrap();
    meet(&[(&nodes[0], &engines[0]), (&nodes[1], &engines[1])], &bucket).await;
    assert_eq!(all(&engines[0], "docs").len(), 30);
    assert_eq!(all(&engines[0], "docs"), all(&engines[1], "docs"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_deletion_had_not_seen_is_kept_under_another_name() {
    let (bucket, nodes, engines) = two().await;
    engines[0].delete(&name("docs")).await.unwrap();
    sync(&nodes[0], &engines[0], &bucket).await.unwrap();
    put(&engines[1], "docs", 20..30, 2).await;
    let whole = all(&engines[1], "docs");
    meet(&[(&nodes[1], &engines[1]), (&nodes[0], &engines[0])], &bucket).await;
    let found = names(&engines[0]);
    assert!(found.len() == 1 && found[0].starts_with("docs.recovered-"), "{found:?}");
    assert_eq!((all(&engines[0], &found[0]), names(&engines[1])), (whole, found));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lost_and_nobody_decided_about_is_kept_with_what_a_deletion_had_not_seen() {
    let (bucket, nodes, engines) = two().await;
    for (engine, n) in engines.iter().zip([7, 8]) {
        put(engine, "docs", [1], n).await;
    }
    let all_nodes = [(&nodes[0], &engines[0]), (&nodes[1], &engines[1])];
    meet(&all_nodes, &bucket).await;
    let lost_before: Vec<_> = lost(&engines[1], "docs").into_iter().map(|state| (state.id, state.fields)).collect();
    nodes[0].clock.advance(1_000);
    engines[0].delete(&name("docs")).await.unwrap();
    sync(&nodes[0], &engines[0], &bucket).await.unwrap();
    put(&engines[1], "docs", [30], 2).await;
    meet(&[all_nodes[1], all_nodes[0]], &bucket).await;
    for engine in &engines {
        let kept = names(engine);
        let lost: Vec<_> = lost(engine, &kept[0]).into_iter().map(|state| (state.id, state.fields)).collect();
        assert_eq!((kept.len(), lost.len(), &lost), (1, 1, &lost_before), "{kept:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_was_deleted_and_created_again_takes_the_old_ones_place_everywhere() {
    let (bucket, nodes, engines) = two().await;
    engines[0].delete(&name("docs")).await.unwrap();
    put(&engines[0], "docs", 100..105, 7).await;
    let engine = nodes[0].cut_power(engines[0].clone());
    meet(&[(&nodes[0], &engine), (&nodes[1], &engines[1])], &bucket).await;
    assert_eq!(all(&engines[1], "docs"), all(&engine, "docs"));
    assert_eq!(all(&engines[1], "docs").len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_through_two_lives_of_a_name_does_not_bring_the_first_one_back() {
    let (bucket, nodes, engines) = two().await;
    // Deleted, created again and deleted again, each seen by the bucket; the newest revision knows of the second life only.
    let live = |at: u64| (&nodes[0], &engines[0], at);
    for (node, engine, at) in [live(1), live(2)] {
        node.clock.advance(1_000);
        engine.delete(&name("docs")).await.unwrap();
        sync(node, engine, &bucket).await.unwrap();
        if at == 1 {
            put(engine, "docs", 50..55, 5).await;
            sync(node, engine, &bucket).await.unwrap();
        }
    }
    put(&engines[1], "docs", 20..22, 2).await;
    let unsent = all(&engines[1], "docs");
    meet(&[(&nodes[1], &engines[1]), (&nodes[0], &engines[0])], &bucket).await;
    let found = names(&engines[0]);
    assert!(found.len() == 1 && found[0].starts_with("docs.recovered-"), "{found:?}");
    assert_eq!((all(&engines[0], &found[0]), names(&engines[1])), (unsent, found));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_a_name_leads_to_what_was_buried_meanwhile_takes_it_for_deleted() {
    for (has_it, follows, writes) in
        [(true, false, true), (true, false, false), (false, false, false), (true, true, false), (false, true, false)]
    {
        let what = format!("has it: {has_it}, follows: {follows}, writes: {writes}");
        let (bucket, nodes, engines) = two().await;
        let mut node = Node::new(3);
        let patterns: &[String] = if follows { &["*/*/docs".to_owned()] } else { &[] };
        node.config.followed = NamePatterns::parse("follow", patterns).unwrap();
        let engine = node.open();
        let link = Sync::new(engine.clone(), bucket.clone(), options(Policy::Lww), node.clock.clone());
        // The names are listed, and good for a while.
        let selection = if has_it { Selection::default() } else { Selection::default().only([name("other")].into()) };
        assert!(link.run_for(&selection).await.failed.is_none());
        if writes {
            put(&engine, "docs", 20..25, 2).await;
        }
        nodes[0].clock.advance(1_000);
        engines[0].delete(&name("docs")).await.unwrap();
        sync(&nodes[0], &engines[0], &bucket).await.unwrap();
        for _ in 0..3 {
            nodes[0].clock.advance(DAY_MS);
            assert!(reclaim(&nodes[0], &engines[0], &bucket, 0).await.failed.is_none());
        }
        assert!(contents(&bucket).await.chains.is_empty(), "{what}");
        let pass = link.run_for(&Selection::default().unasked()).await;
        assert!(pass.failed.is_none(), "{what}: {:?}", pass.failed);
        // Who has nothing to send hears of it when the names are listed again.
        node.clock.advance(10 * 60 * 1_000);
        let pass = link.run_for(&Selection::default().unasked()).await;
        assert!(pass.failed.is_none(), "{what}: {:?}", pass.failed);
        let (found, there) = (names(&engine), contents(&bucket).await);
        match writes {
            true => assert!(found.len() == 1 && found[0].starts_with("docs.recovered-"), "{what}: {found:?}"),
            false => assert!(found.is_empty(), "{what}: {found:?}"),
        }
        // Nothing was sent but under a name.
        assert_eq!(there.chains.len(), found.len(), "{what}");
        there.assert_whole();
        assert_eq!(found.iter().map(|name| all(&engine, name).len()).sum::<usize>(), if writes { 25 } else { 0 });
    }
}

/// Ends the life of `docs`, and of `lives` more after it, the last of which goes on.
async fn live_on(lives: u64, node: &Node, engine: &std::sync::Arc<shoal::engine::Engine>, bucket: &Bucket) {
    for life in 0..lives {
        node.clock.advance(60_000);
        engine.delete(&name("docs")).await.unwrap();
        sync(node, engine, bucket).await.unwrap();
        node.clock.advance(60_000);
        put(engine, "docs", [100 + life], life).await;
        sync(node, engine, bucket).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_through_forty_lives_of_a_name_brings_nothing_of_the_first_one_back() {
    let (bucket, nodes, engines) = two().await;
    live_on(40, &nodes[0], &engines[0], &bucket).await;
    meet(&[(&nodes[1], &engines[1]), (&nodes[0], &engines[0])], &bucket).await;
    assert_eq!(names(&engines[1]), ["docs"]);
    assert_eq!((all(&engines[1], "docs").len(), all(&engines[1], "docs")), (1, all(&engines[0], "docs")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_to_a_life_that_was_over_is_kept_though_the_name_had_another_since() {
    let (bucket, nodes, engines) = two().await;
    let link = Sync::new(engines[1].clone(), bucket.clone(), options(Policy::Lww), nodes[1].clock.clone());
    link.run().await.unwrap();
    live_on(2, &nodes[0], &engines[0], &bucket).await;
    put(&engines[1], "docs", 20..22, 2).await;
    let whole = all(&engines[1], "docs");
    // A pass that nobody asked for does not know of it yet.
    assert!(link.run_for(&Selection::default().unasked()).await.failed.is_none());
    link.run().await.unwrap();
    meet(&[(&nodes[1], &engines[1]), (&nodes[0], &engines[0])], &bucket).await;
    for engine in &engines {
        let found = names(engine);
        assert!(found.len() == 2 && found[1].starts_with("docs.recovered-"), "{found:?}");
        assert_eq!((all(engine, "docs").len(), all(engine, &found[1])), (1, whole.clone()));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_costs_no_more_to_be_bound_anew_however_many_lives_it_had() {
    let (bucket, nodes, engines) = two().await;
    let requests = || bucket.traffic().snapshot().requests.iter().map(|(_, _, count)| count).sum::<u64>();
    let mut each = Vec::new();
    for _ in 0..20 {
        nodes[0].clock.advance(2 * DAY_MS);
        let before = requests();
        live_on(1, &nodes[0], &engines[0], &bucket).await;
        each.push(requests() - before);
    }
    assert_eq!(each[2], each[19], "{each:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_that_came_back_is_gone_when_others_delete_it_before_the_next_pass() {
    let (bucket, nodes, engines) = two().await;
    engines[1].delete(&name("docs")).await.unwrap();
    put(&engines[0], "docs", 20..25, 2).await;
    sync(&nodes[0], &engines[0], &bucket).await.unwrap();
    sync(&nodes[1], &engines[1], &bucket).await.unwrap();
    assert_eq!(all(&engines[1], "docs"), all(&engines[0], "docs"), "it had more than its deletion knew of");
    live_on(1, &nodes[0], &engines[0], &bucket).await;
    meet(&[(&nodes[1], &engines[1]), (&nodes[0], &engines[0])], &bucket).await;
    assert_eq!((all(&engines[1], "docs").len(), all(&engines[1], "docs")), (1, all(&engines[0], "docs")));
}

/// A pass may wait for a deletion that is under way, and this test does not wait for it then: as long as a pass takes, and longer.
const PASS_TAKES: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_deletion_that_meets_a_pass_holds_and_what_has_its_name_since_is_sent() {
    for (was_sent, is_anew) in [(true, false), (true, true), (false, false), (false, true)] {
        let (bucket, node) = (bucket(1), Node::new(1));
        let disk = HookDisk::new(node.disk.mounted());
        let engine =
            Engine::open(node.config.clone(), Arc::new(disk.clone()), node.clock.clone(), node.random.clone())
                .unwrap();
        engine.rebuild_index().unwrap();
        put(&engine, "docs", 0..5, 1).await;
        if was_sent {
            sync(&node, &engine, &bucket).await.unwrap();
        }
        put(&engine, "docs", 5..10, 2).await;
        engine.checkpoint(&name("docs")).await.unwrap();
        // The pass begins when the deletion has looked at what the bucket has, and is about to mark what it deletes.
        let (began, begins) = tokio::sync::oneshot::channel::<()>();
        let (ended, ends) = mpsc::channel::<()>();
        let mut began = Some(began);
        disk.before(move |_, path| {
            let marks = path.to_string_lossy().contains("deleted.json");
            if marks {
                began.take().unwrap().send(()).unwrap();
                let _ = ends.recv_timeout(PASS_TAKES);
            }
            marks
        });
        let link = Sync::new(engine.clone(), bucket.clone(), options(Policy::Lww), node.clock.clone());
        let pass = tokio::spawn(async move {
            begins.await.unwrap();
            // Whether it comes to an end or finds that it has to look again.
            let _ = link.run().await;
            let _ = ended.send(());
        });
        engine.delete(&name("docs")).await.unwrap();
        pass.await.unwrap();
        if is_anew {
            put(&engine, "docs", 20..23, 3).await;
        }
        for _ in 0..2 {
            node.clock.advance(1_000);
            sync(&node, &engine, &bucket).await.unwrap();
        }
        let expected = if is_anew { vec![("docs", 3)] } else { vec![] };
        let found: Vec<(String, usize)> =
            names(&engine).into_iter().map(|name| (name.clone(), all(&engine, &name).len())).collect();
        let expected: Vec<(String, usize)> = expected.into_iter().map(|(name, n)| (name.to_owned(), n)).collect();
        assert_eq!(found, expected, "was sent: {was_sent}, made anew: {is_anew}");
        if is_anew {
            assert_eq!(fresh(9, &bucket, "docs").await.len(), 3);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_deleted_and_made_anew_while_it_is_sent_is_the_new_one_at_any_write() {
    for (was_sent, is_anew) in [(false, true), (false, false), (true, true), (true, false)] {
        for writes in 0..14 {
            let (place, node) = (Place::default(), Node::new(1));
            let engine = node.open();
            put(&engine, "docs", 0..5, 1).await;
            if was_sent {
                sync(&node, &engine, &place.bucket(&node)).await.unwrap();
                put(&engine, "docs", 5..10, 2).await;
            }
            let wire = place.wire();
            let link = place.link(&wire, &node, &engine);
            let (there, clock) = (engine.clone(), node.clock.clone());
            let happened = Arc::new(AtomicBool::new(false));
            let happens = happened.clone();
            wire.meanwhile(
                writes,
                Box::pin(async move {
                    happens.store(true, Ordering::SeqCst);
                    clock.advance(1_000);
                    there.delete(&name("docs")).await.unwrap();
                    if is_anew {
                        put(&there, "docs", 20..23, 3).await;
                    }
                }),
            );
            let _ = link.run().await;
            wire.forget_plans();
            if !happened.load(Ordering::SeqCst) {
                // The pass makes fewer writes.
                break;
            }
            for _ in 0..2 {
                node.clock.advance(1_000);
                sync(&node, &engine, &place.bucket(&node)).await.unwrap();
            }
            let expected: Vec<&str> = if is_anew { vec!["docs"] } else { vec![] };
            let what = format!("was sent: {was_sent}, made anew: {is_anew}, at write {writes}");
            assert_eq!(names(&engine), expected, "{what}");
            if is_anew {
                assert_eq!(all(&engine, "docs").len(), 3, "{what}");
                assert_eq!(fresh(9, &place.bucket(&node), "docs").await.len(), 3, "{what}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_cannot_tell_what_it_had_seen_is_refused() {
    let mut refused = 0;
    for times in 1..12 {
        let (bucket, node) = (bucket(1), Node::new(1));
        let engine = node.open();
        put(&engine, "docs", 0..5, 1).await;
        sync(&node, &engine, &bucket).await.unwrap();
        node.clock.advance(1_000);
        let within = Some(engine.nsid_of(&name("docs")).unwrap().to_string());
        node.disk.set_mishap(Some(Mishap { after: 0, within, kind: MishapKind::StaysAway(ErrorKind::Other, times) }));
        let deleted = engine.delete(&name("docs")).await.is_ok();
        node.disk.set_mishap(None);
        refused += u32::from(!deleted);
        node.clock.advance(1_000);
        sync(&node, &engine, &bucket).await.unwrap();
        let expected: Vec<&str> = if deleted { vec![] } else { vec!["docs"] };
        assert_eq!(names(&engine), expected, "{times} operations failed");
    }
    assert!(refused > 0);
}
