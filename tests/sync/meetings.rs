//! Reclaim in whatever order the requests of several nodes meet, and wherever one of them stops: nothing that is needed goes, and
//! nothing that was said to be in the bucket is missing there.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use object_store::memory::InMemory;
use shoal::engine::Engine;
use shoal::engine::merge::decide::Policy;
use shoal::model::ids::DocId;
use shoal::platform::clock::ManualClock;
use shoal::platform::random::SeededRandom;
use shoal::store::{Backend, Bucket, Patience};
use shoal::sync::{Reclaim, Selection, Sync};
use tokio::sync::Notify;

use crate::faulty_store::{Fault, FaultyStore, Lie};
use crate::fleet::{fresh, meet, options, sync};
use crate::node::{DAY_MS, Node, all, branch, name, put};
use crate::reclaiming::{churn, hold_less, keys};
use crate::upkeep::{contents, delete_late, reclaim, reclaim_to_the_end};

pub fn over(store: Arc<dyn object_store::ObjectStore>, seed: u64) -> Bucket {
    let (clock, random) = (Arc::new(ManualClock::at(1_700_000_000_000)), Arc::new(SeededRandom::new(seed)));
    Bucket::over(Backend::direct(store, None, "memory"), clock, random)
}

/// A link that is silent from request `at` on, and says so.
pub fn silent_from(store: &Arc<InMemory>, at: u64) -> (Bucket, Arc<Notify>) {
    let cut = Arc::new(Notify::new());
    let said = cut.clone();
    let faulty = FaultyStore::new(store.clone(), move |step| {
        (step >= at).then(|| {
            said.notify_one();
            Fault::Silence
        })
    });
    (over(Arc::new(faulty), 2), cut)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_node_left_half_sent_goes_and_comes_back_with_the_node() {
    // The requests of the branch's first pass after which the node is away: with a hold and no state, with a state and no name.
    let mut seen = [false; 2];
    for at in 0.. {
        let store = Arc::new(InMemory::new());
        let direct = over(store.clone(), 1);
        let nodes = [Node::new(1), Node::new(2)];
        let engines = [nodes[0].open(), nodes[1].open()];
        put(&engines[0], "docs", 0..50, 1).await;
        engines[0].checkpoint(&name("docs")).await.unwrap();
        meet(&[(&nodes[0], &engines[0]), (&nodes[1], &engines[1])], &direct).await;
        branch(&engines[0], "docs", "try").await;
        put(&engines[0], "try", 100..110, 2).await;
        let (link, cut) = silent_from(&store, at);
        let is_through = tokio::select! {
            done = sync(&nodes[0], &engines[0], &link) => { done.unwrap(); true }
            () = cut.notified() => false,
        };
        let found = contents(&direct).await;
        let is_named = found.keys.iter().any(|key| key.contains("/names/try/"));
        seen[0] |= !found.holds.is_empty() && found.chains.len() == 1;
        seen[1] |= found.chains.len() == 2 && !is_named;
        churn(&nodes[1], &engines[1], &direct, 3).await;
        // Not while it may be on its way.
        assert!(reclaim(&nodes[1], &engines[1], &direct, 1_000_000_000).await.failed.is_none());
        assert_eq!(contents(&direct).await.holds, found.holds);
        nodes[1].clock.advance(DAY_MS);
        reclaim_to_the_end(&nodes[1], &engines[1], &direct).await;
        let left = contents(&direct).await;
        assert_eq!(left.holds.is_empty(), !is_named);
        assert!(
            is_named
                || left.chains.values().filter(|chain| !chain.values().next_back().unwrap().is_end()).count() == 1
        );
        let engine = nodes[0].cut_power(engines[0].clone());
        let tried = all(&engine, "try");
        meet(&[(&nodes[0], &engine), (&nodes[1], &engines[1])], &direct).await;
        delete_late(&direct).await;
        contents(&direct).await.assert_whole();
        assert_eq!(all(&engines[1], "try"), tried);
        assert_eq!(fresh(3, &direct, "try").await, tried);
        reclaim_to_the_end(&nodes[1], &engines[1], &direct).await;
        assert_eq!(fresh(4, &direct, "try").await, tried);
        if is_through {
            assert_eq!(seen, [true; 2]);
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_may_stop_at_any_request_and_the_next_one_goes_on() {
    for at in 0.. {
        let store = Arc::new(InMemory::new());
        let direct = over(store.clone(), 1);
        let node = Node::new(1);
        let mut engine = node.open();
        put(&engine, "docs", 0..50, 1).await;
        branch(&engine, "docs", "try").await;
        put(&engine, "gone", 0..20, 1).await;
        sync(&node, &engine, &direct).await.unwrap();
        churn(&node, &engine, &direct, 3).await;
        engine.compact(&name("try")).await.unwrap();
        node.clock.advance(1_000);
        engine.delete(&name("gone")).await.unwrap();
        sync(&node, &engine, &direct).await.unwrap();
        node.clock.advance(1_000);
        let (link, cut) = silent_from(&store, at);
        let is_through = tokio::select! {
            done = reclaim(&node, &engine, &link, 0) => { assert!(done.failed.is_none()); true }
            () = cut.notified() => false,
        };
        engine = node.cut_power(engine);
        contents(&direct).await.assert_whole();
        put(&engine, "docs", 400..405, 1).await;
        sync(&node, &engine, &direct).await.unwrap();
        reclaim_to_the_end(&node, &engine, &direct).await;
        assert_eq!(fresh(2, &direct, "docs").await, all(&engine, "docs"));
        assert_eq!(fresh(3, &direct, "try").await, all(&engine, "try"));
        if is_through {
            assert!(at > 30, "{at} requests");
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_collector_released_before_it_stopped_is_not_kept_again_by_one_that_keeps_more() {
    for at in 0.. {
        let store = Arc::new(InMemory::new());
        let direct = over(store.clone(), 1);
        let node = Node::new(1);
        let engine = node.open();
        put(&engine, "docs", 0..50, 1).await;
        sync(&node, &engine, &direct).await.unwrap();
        churn(&node, &engine, &direct, 3).await;
        let (link, cut) = silent_from(&store, at);
        let is_through = tokio::select! {
            done = reclaim(&node, &engine, &link, 0) => { assert!(done.failed.is_none()); true }
            () = cut.notified() => false,
        };
        // Something to reclaim, whatever is kept.
        let nsid = engine.named()[0].1;
        let left = format!("default/default/namespaces/{nsid}/segments/{}/data.seg", uuid::Uuid::from_u128(7));
        direct.put(&left, "x".into(), &Patience::ASKED).await.unwrap();
        assert!(reclaim(&node, &engine, &direct, 100 * DAY_MS).await.failed.is_none());
        let found = contents(&direct).await;
        assert!(!found.keys.contains(&left));
        // All that may still be asked for is there.
        found.assert_whole();
        if is_through {
            assert!(at > 20, "{at} requests");
            return;
        }
    }
}

pub type Action = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A link on which `action` happens as a whole before request `at`.
pub fn interrupted(store: &Arc<InMemory>, at: u64, action: Action) -> (Bucket, Arc<AtomicBool>) {
    let (slot, happened) = (Mutex::new(Some(action)), Arc::new(AtomicBool::new(false)));
    let said = happened.clone();
    let faulty = FaultyStore::new(store.clone(), move |step| {
        let action = if step == at { slot.lock().unwrap().take() } else { None };
        if let Some(action) = action {
            said.store(true, Ordering::SeqCst);
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(action));
        }
        None
    });
    (over(Arc::new(faulty), 5), happened)
}

/// What the first node does, and what the second does meanwhile.
#[derive(Clone, Copy, Debug)]
enum Meeting {
    /// Sends what it wrote | merges, commits and reclaims.
    CommitterMeetsCollector,
    /// Sends what it wrote | goes on so far that the numbers of then are free again.
    SleeperMeetsCollector,
    /// Sends what an interrupted pass sent before | reclaims all that it left.
    ResumedMeetsCollector,
    /// Sends a branch | merges its parent, commits and reclaims.
    BranchMeetsCollector,
    /// Reclaims | sends what it wrote.
    CollectorMeetsCommitter,
    /// Reclaims | reclaims, too.
    CollectorMeetsCollector,
    /// Reclaims | sends a branch of the newest state.
    CollectorMeetsBranch,
    /// Reclaims | sends a branch of a state that the next fence releases.
    CollectorMeetsPast,
    /// Sends a branch of a state that the next fence releases | reclaims.
    PastMeetsCollector,
    /// Reclaims a deleted namespace | brings it back.
    CollectorMeetsReturn,
    /// Brings a namespace back | reclaims what was deleted.
    ReturnMeetsCollector,
    /// Lets go of what a branch needs no more | reclaims what it held, and sends a branch of the branch's state before.
    HolderMeetsCollector,
}

async fn run(node: &Arc<Node>, engine: Arc<Engine>, bucket: Bucket, what: &'static [&'static str]) {
    for step in what {
        match *step {
            "write" => put(&engine, "docs", 300..310, 5).await,
            "merge" => engine.compact(&name("docs")).await.unwrap(),
            "branch" => {
                engine.checkpoint(&name("docs")).await.unwrap();
                branch(&engine, "docs", "try").await;
            }
            "undelete" => engine.undelete(&name("docs"), None).await.unwrap(),
            "sync" => drop(sync(node, &engine, &bucket).await.unwrap()),
            "reclaim" => {
                let done = reclaim(node, &engine, &bucket, 0).await;
                assert!(done.failed.is_none(), "{:?}", done.failed);
            }
            "reclaim docs" => {
                let link = Sync::new(engine.clone(), bucket.clone(), options(Policy::Lww), node.clock.clone());
                let only = Selection::default().only([name("docs")].into());
                let done = link.reclaim(&only, &Reclaim::default()).await;
                assert!(done.failed.is_none(), "{:?}", done.failed);
            }
            "late" => delete_late(&bucket).await,
            other => panic!("{other}"),
        }
    }
}

/// Every pair of actions, the second as a whole before each request of the first. Afterwards everything is where it belongs.
async fn every_meeting(meeting: Meeting) -> u64 {
    use Meeting::*;
    let (before, first, second): (&[&str], &'static [&str], &'static [&str]) = match meeting {
        CommitterMeetsCollector => (&["write"], &["sync"], &["merge", "sync", "reclaim", "late"]),
        SleeperMeetsCollector => {
            (&["write"], &["sync"], &["write", "sync", "reclaim", "write", "sync", "reclaim", "late"])
        }
        ResumedMeetsCollector => (&["write", "cut"], &["sync"], &["reclaim", "late"]),
        BranchMeetsCollector => (&["branch"], &["sync"], &["merge", "sync", "reclaim", "late"]),
        CollectorMeetsCommitter => (&[], &["reclaim"], &["write", "sync"]),
        CollectorMeetsCollector => (&[], &["reclaim"], &["write", "sync", "reclaim", "late"]),
        CollectorMeetsBranch => (&[], &["reclaim"], &["branch", "write", "sync"]),
        CollectorMeetsPast => (&["past of 1"], &["reclaim"], &["sync"]),
        PastMeetsCollector => (&["past of 0"], &["sync"], &["reclaim", "late"]),
        CollectorMeetsReturn => (&["delete"], &["reclaim"], &["undelete", "sync"]),
        ReturnMeetsCollector => (&["delete"], &["undelete", "sync"], &["reclaim"]),
        HolderMeetsCollector => (&["held"], &["reclaim"], &["reclaim docs", "sync"]),
    };
    for at in 0.. {
        let store = Arc::new(InMemory::new());
        let direct = over(store.clone(), 1);
        // Nothing is merged but on purpose, so that every round has the same requests.
        let node = |seed| {
            let mut node = Node::new(seed);
            node.config.compaction_fan_in = 100;
            Arc::new(node)
        };
        let nodes = [node(1), node(2)];
        let mut engines = [nodes[0].open(), nodes[1].open()];
        put(&engines[0], "docs", 0..50, 1).await;
        meet(&[(&nodes[0], &engines[0]), (&nodes[1], &engines[1])], &direct).await;
        for step in before {
            match *step {
                "write" => put(&engines[0], "docs", 100..110, 4).await,
                "branch" => {
                    put(&engines[0], "docs", 100..110, 4).await;
                    sync(&nodes[0], &engines[0], &direct).await.unwrap();
                    branch(&engines[0], "docs", "try").await;
                    sync(&nodes[1], &engines[1], &direct).await.unwrap();
                }
                "past of 0" | "past of 1" => {
                    let at = usize::from(*step == "past of 1");
                    let (node, engine) = (&nodes[at], &engines[at]);
                    put(engine, "docs", 100..110, 4).await;
                    sync(node, engine, &direct).await.unwrap();
                    branch(engine, "docs", "try").await;
                    engine.compact(&name("docs")).await.unwrap();
                    let only = Selection::default().only([name("docs")].into());
                    let options = options(Policy::Lww);
                    let link = Sync::new(engine.clone(), direct.clone(), options, node.clock.clone());
                    assert!(link.run_for(&only).await.failed.is_none());
                }
                "held" => {
                    hold_less(&nodes[0], &engines[0], &direct, async || {
                        // Of the state in which it needs all that it holds.
                        sync(&nodes[1], &engines[1], &direct).await.unwrap();
                        branch(&engines[1], "try", "late").await;
                    })
                    .await;
                }
                "delete" => {
                    nodes.iter().for_each(|node| node.clock.advance(1_000));
                    engines[0].delete(&name("docs")).await.unwrap();
                    meet(&[(&nodes[0], &engines[0]), (&nodes[1], &engines[1])], &direct).await;
                    nodes.iter().for_each(|node| node.clock.advance(60_000));
                }
                "cut" => {
                    let (silent, cut) = silenced(&store);
                    tokio::select! {
                        _ = sync(&nodes[0], &engines[0], &silent) => panic!("it was to be cut off"),
                        () = cut.notified() => {}
                    }
                    let [engine, _] = &mut engines;
                    *engine = nodes[0].cut_power(engine.clone());
                }
                other => panic!("{other}"),
            }
        }
        // Something to reclaim.
        if !before.iter().any(|step| matches!(*step, "delete" | "held" | "past of 0" | "past of 1")) {
            for round in 0..2 {
                put(&engines[1], "docs", 10 * round..10 * round + 5, 30).await;
                engines[1].compact(&name("docs")).await.unwrap();
                sync(&nodes[1], &engines[1], &direct).await.unwrap();
            }
        }
        let action = {
            let (node, engine, direct) = (nodes[1].clone(), engines[1].clone(), direct.clone());
            Box::pin(async move { run(&node, engine, direct, second).await })
        };
        println!("{meeting:?} at {at}");
        let (link, happened) = interrupted(&store, at, action);
        run(&nodes[0], engines[0].clone(), link, first).await;
        let over = !happened.load(Ordering::SeqCst);
        if matches!(meeting, CommitterMeetsCollector | SleeperMeetsCollector | ResumedMeetsCollector) {
            let there = fresh(8, &direct, "docs").await;
            let is_own = |id: &&DocId| matches!(id, DocId::Uint(100..200));
            let mut own = all(&engines[0], "docs").into_iter().filter(|(id, _)| is_own(&id));
            let missing = own.find(|(id, fields)| there.get(id) != Some(fields));
            assert_eq!(missing, None, "{meeting:?} at {at}: a pass went well, and it is not in the bucket");
        }
        delete_late(&direct).await;
        contents(&direct).await.assert_whole();
        let both = [(&*nodes[0], &engines[0]), (&*nodes[1], &engines[1])];
        meet(&both, &direct).await;
        delete_late(&direct).await;
        contents(&direct).await.assert_whole();
        reclaim_to_the_end(&nodes[0], &engines[0], &direct).await;
        for namespace in engines[0].named().iter().map(|(name, _)| name.name.to_string()) {
            let found = all(&engines[0], &namespace);
            assert_eq!(found, all(&engines[1], &namespace), "{meeting:?} at {at}: {namespace}");
            assert_eq!(found, fresh(9, &direct, &namespace).await, "{meeting:?} at {at}: {namespace}");
            assert!(found.len() >= 50, "{meeting:?} at {at}: {namespace} has {}", found.len());
        }
        if matches!(meeting, CollectorMeetsReturn | ReturnMeetsCollector) {
            assert_eq!(engines[0].named().len(), if over { engines[0].named().len() } else { 1 });
        }
        if over {
            return at;
        }
    }
    unreachable!()
}

/// A link that carries everything up to the manifest of the next commit, and is silent from then on.
fn silenced(store: &Arc<InMemory>) -> (Bucket, Arc<Notify>) {
    let cut = Arc::new(Notify::new());
    let (said, seen) = (cut.clone(), store.clone());
    let objects = move || tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(segments(&seen)));
    let before = objects();
    let faulty = FaultyStore::new(store.clone(), move |_| {
        // The segment is there: what follows is the manifest.
        if objects() > before {
            said.notify_one();
            return Some(Fault::Before(Lie::Failed));
        }
        None
    });
    (over(Arc::new(faulty), 6), cut)
}

async fn segments(store: &Arc<InMemory>) -> usize {
    keys(&over(store.clone(), 7)).await.iter().filter(|key| key.contains("/segments/")).count()
}

macro_rules! meetings {
    ($($test:ident: $meeting:ident, $requests_min:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $test() {
            let requests = every_meeting(Meeting::$meeting).await;
            assert!(requests >= $requests_min, "{requests} requests");
        }
    )*};
}

meetings! {
    a_committer_meets_a_collector_at_any_request: CommitterMeetsCollector, 8;
    a_committer_sleeps_at_any_request_while_its_number_is_reclaimed: SleeperMeetsCollector, 8;
    a_committer_that_goes_on_meets_a_collector_at_any_request: ResumedMeetsCollector, 8;
    a_branch_meets_a_collector_at_any_request: BranchMeetsCollector, 12;
    a_collector_meets_a_committer_at_any_request: CollectorMeetsCommitter, 12;
    two_collectors_meet_at_any_request: CollectorMeetsCollector, 12;
    a_collector_meets_a_branch_at_any_request: CollectorMeetsBranch, 12;
    a_collector_meets_a_branch_of_the_past_at_any_request: CollectorMeetsPast, 12;
    a_branch_of_the_past_meets_a_collector_at_any_request: PastMeetsCollector, 12;
    a_collector_meets_a_return_at_any_request: CollectorMeetsReturn, 12;
    a_return_meets_a_collector_at_any_request: ReturnMeetsCollector, 8;
    a_holder_meets_a_collector_at_any_request: HolderMeetsCollector, 12;
}
