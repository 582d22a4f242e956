//! Clocks that were not set, run ahead, and are put right: states are found by the time they were made at, go when they are old, and times
//! to live count what passed.

use std::sync::Arc;

use shoal::engine::Engine;
use shoal::model::as_of::AsOf;
use shoal::platform::clock::{Clock, ManualClock};
use shoal::platform::disk::Disk;

use crate::node::{DAY_MS, Documents, HOUR_MS, Node, all, at, name, put};

const YEARS_20: u64 = 20 * 365 * DAY_MS;

/// Puts one document, and commits that.
async fn commit(engine: &Arc<Engine>, n: u64) -> Documents {
    put(engine, "main", n..n + 1, n).await;
    engine.checkpoint(&name("main")).await.unwrap();
    all(engine, "main")
}

fn shows(node: &Node) -> u64 {
    node.clock.now_millis()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instants_find_the_right_states_after_a_clock_was_20_years_ahead() {
    let node = Node::new(60);
    let mut engine = node.open();
    let first = commit(&engine, 1).await;
    node.clock.advance(HOUR_MS);
    let right = shows(&node);
    node.clock.set(right + YEARS_20);
    commit(&engine, 2).await;
    node.clock.advance(HOUR_MS);
    commit(&engine, 3).await;
    node.clock.set(right + 2 * HOUR_MS);
    let fourth = commit(&engine, 4).await;
    node.clock.advance(HOUR_MS);
    for cut in [false, true] {
        if cut {
            engine = node.cut_power(engine);
        }
        let then = |ms| at(&engine, "main", AsOf::Instant(ms)).unwrap();
        assert_eq!(then(right - 1), first);
        assert_eq!(then(right + 2 * HOUR_MS), fourth);
        assert_eq!(then(shows(&node)), fourth);
    }
    // What is in no segment yet is of now.
    put(&engine, "main", 5..6, 5).await;
    assert_eq!(at(&engine, "main", AsOf::Instant(shows(&node))).unwrap(), all(&engine, "main"));
    assert_eq!(at(&engine, "main", AsOf::Instant(right - 1)).unwrap(), first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tails_become_segments_and_old_states_go_after_a_clock_was_20_years_ahead() {
    let node = Node::new(61);
    let engine = node.open();
    commit(&engine, 1).await;
    let right = shows(&node);
    node.clock.set(right + YEARS_20);
    commit(&engine, 2).await;
    node.clock.set(right);
    put(&engine, "main", 3..4, 3).await;
    let newest = |engine: &Engine| engine.history(&name("main")).unwrap()[0].generation;
    engine.tend_at(None).await.unwrap();
    let before = newest(&engine);
    node.clock.advance(2 * HOUR_MS);
    engine.tend_at(None).await.unwrap();
    assert!(newest(&engine) > before, "the tail waits for a segment");
    node.clock.advance(8 * DAY_MS);
    engine.tend().await.unwrap();
    assert_eq!(engine.history(&name("main")).unwrap().len(), 1, "all were replaced a week ago");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_state_that_nothing_follows_is_dated_when_the_clock_is_right_again() {
    let node = Node::new(62);
    let engine = node.open();
    commit(&engine, 1).await;
    let right = shows(&node);
    node.clock.set(right + YEARS_20);
    let second = commit(&engine, 2).await;
    node.clock.set(right + HOUR_MS);
    engine.tend().await.unwrap();
    let then = shows(&node);
    for _ in 0..3 {
        node.clock.advance(DAY_MS);
        engine.tend().await.unwrap();
    }
    assert_eq!(at(&engine, "main", AsOf::Instant(then)).unwrap(), second);
    assert_eq!(engine.history(&name("main")).unwrap().len(), 4, "one commit dates it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_committed_before_the_clock_was_set_hides_no_state_before_it() {
    let mut node = Node::new(63);
    let mut engine = node.open();
    let right = shows(&node);
    let first = commit(&engine, 1).await;
    node.clock.advance(HOUR_MS);
    node.clock = Arc::new(ManualClock::at(5_000));
    engine = node.cut_power(engine);
    commit(&engine, 2).await;
    engine.tend().await.unwrap();
    node.clock.set(right + DAY_MS);
    let third = commit(&engine, 3).await;
    assert_eq!(at(&engine, "main", AsOf::Instant(right - 1)).unwrap_err().code(), "gone");
    assert_eq!(at(&engine, "main", AsOf::Instant(shows(&node))).unwrap(), third);
    let then = at(&engine, "main", AsOf::Instant(right + HOUR_MS)).unwrap();
    assert!(then.len() <= 2 && first.keys().all(|id| then.contains_key(id)), "{then:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_to_live_that_was_set_before_the_clock_counts_from_then_on() {
    const NOW: u64 = 1_790_000_000_000;
    for (seed, is_cut) in [(64, false), (65, true)] {
        let mut node = Node::new(seed);
        node.clock = Arc::new(ManualClock::at(5_000));
        let mut engine = node.open();
        put(&engine, "main", 0..3, 1).await;
        engine.set_ttl(&name("main"), Some(3 * HOUR_MS)).await.unwrap();
        let before = all(&engine, "main");
        node.clock.advance(HOUR_MS);
        engine.tend().await.unwrap();
        if is_cut {
            // The next start finds the clock set.
            node.clock.set(NOW);
            engine = node.cut_power(engine);
        } else {
            node.clock.set(NOW);
        }
        engine.tend().await.unwrap();
        assert_eq!(all(&engine, "main"), before);
        let tree = engine.tree(&name("main").project).unwrap();
        assert_eq!(tree[0].expires_ms, Some(NOW + 2 * HOUR_MS), "by the clock as it is now");
        node.clock.advance(2 * HOUR_MS - 1);
        engine.tend().await.unwrap();
        assert_eq!(all(&engine, "main"), before);
        node.clock.advance(1);
        engine.tend().await.unwrap();
        assert!(engine.view(&name("main")).is_err(), "its time is up");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_to_live_counts_through_starts_with_a_clock_that_is_not_set_and_one_that_is_ahead() {
    let mut node = Node::new(66);
    let mut engine = node.open();
    put(&engine, "main", 0..3, 1).await;
    engine.set_ttl(&name("main"), Some(10 * HOUR_MS)).await.unwrap();
    let right = shows(&node);
    node.clock.advance(HOUR_MS);
    node.clock = Arc::new(ManualClock::at(5_000));
    engine = node.cut_power(engine);
    engine.tend().await.unwrap();
    for shown in [right + YEARS_20, right + 3 * HOUR_MS, 0, right + 4 * HOUR_MS] {
        node.clock.set(shown);
        engine.tend_at(None).await.unwrap();
        assert_eq!(all(&engine, "main").len(), 3, "at {shown}");
        node.clock.advance(HOUR_MS);
        engine.tend().await.unwrap();
        assert_eq!(all(&engine, "main").len(), 3, "an hour after {shown}");
    }
    node.clock.advance(6 * HOUR_MS);
    engine.tend_at(None).await.unwrap();
    assert!(engine.view(&name("main")).is_err(), "11 hours passed while it ran");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_jumped_while_the_node_was_off_is_doubted_for_a_day() {
    let node = Node::new(67);
    let engine = node.open();
    put(&engine, "main", 0..3, 1).await;
    engine.delete(&name("main")).await.unwrap();
    engine.tend().await.unwrap();
    node.clock.set(shows(&node) + YEARS_20);
    let engine = node.cut_power(engine);
    for _ in 0..2 {
        engine.tend_at(engine.believed_time(None)).await.unwrap();
        assert_eq!(engine.deleted(&name("main").project).len(), 1);
        node.clock.advance(12 * HOUR_MS - 1);
    }
    engine.undelete(&name("main"), None).await.unwrap();
    node.clock.advance(DAY_MS);
    assert_eq!(engine.believed_time(None), Some(shows(&node)));
    // A week off is no jump.
    engine.tend().await.unwrap();
    node.clock.set(shows(&node) + 7 * DAY_MS);
    let engine = node.cut_power(engine);
    assert_eq!(engine.believed_time(None), Some(shows(&node)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_expired_and_is_brought_back_stays() {
    let node = Node::new(68);
    let engine = node.open();
    put(&engine, "main", 0..3, 1).await;
    let before = all(&engine, "main");
    engine.set_ttl(&name("main"), Some(HOUR_MS)).await.unwrap();
    node.clock.advance(2 * HOUR_MS);
    engine.tend().await.unwrap();
    assert!(engine.view(&name("main")).is_err());
    engine.undelete(&name("main"), None).await.unwrap();
    for _ in 0..2 {
        engine.tend().await.unwrap();
        assert_eq!(all(&engine, "main"), before);
        node.clock.advance(DAY_MS);
    }
    let engine = node.cut_power(engine);
    engine.tend().await.unwrap();
    assert_eq!(all(&engine, "main"), before);
    assert_eq!(engine.tree(&name("main").project).unwrap()[0].expires_ms, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_to_live_counts_what_passed_when_somebody_sets_the_clock_by_less_than_an_hour() {
    let node = Node::new(70);
    let engine = node.open();
    put(&engine, "main", 0..3, 1).await;
    engine.set_ttl(&name("main"), Some(HOUR_MS / 2)).await.unwrap();
    let minute = HOUR_MS / 60;
    for by in [55, -40, 59] {
        node.clock.set(shows(&node).saturating_add_signed(by * minute as i64));
        engine.tend().await.unwrap();
        assert_eq!(all(&engine, "main").len(), 3, "by {by} minutes");
        node.clock.advance(9 * minute);
    }
    engine.tend().await.unwrap();
    assert_eq!(all(&engine, "main").len(), 3, "27 minutes passed");
    node.clock.advance(3 * minute);
    engine.tend().await.unwrap();
    assert!(engine.view(&name("main")).is_err(), "its time is up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deleted_namespaces_are_kept_for_as_long_as_time_passes_whatever_the_clock_showed() {
    let mut node = Node::new(69);
    let engine = node.open();
    let right = shows(&node);
    for deleted in ["in-1970", "in-2043", "right"] {
        put(&engine, deleted, 0..3, 1).await;
    }
    node.clock = Arc::new(ManualClock::at(5_000));
    let mut engine = node.cut_power(engine);
    engine.delete(&name("in-1970")).await.unwrap();
    node.clock.set(right + YEARS_20);
    engine.delete(&name("in-2043")).await.unwrap();
    node.clock.set(right + HOUR_MS);
    engine.delete(&name("right")).await.unwrap();
    let project = &name("right").project;
    for day in 0..7 {
        engine.tend().await.unwrap();
        let kept = engine.deleted(project);
        assert_eq!(kept.len(), 3, "day {day}: {kept:?}");
        assert!(kept.iter().all(|kept| kept.deleted_ms == right + HOUR_MS), "day {day}: {kept:?}");
        node.clock.advance(DAY_MS - 1);
        engine = node.cut_power(engine);
    }
    node.clock.advance(7);
    engine.tend().await.unwrap();
    assert_eq!(engine.deleted(project), vec![]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_long_ago_something_was_does_not_change_with_the_clock() {
    let node = Node::new(71);
    let engine = node.open();
    let since = shows(&node);
    for set in [since + 6 * HOUR_MS, since - 6 * HOUR_MS, since + YEARS_20, since - HOUR_MS / 6] {
        node.clock.advance(HOUR_MS / 60);
        let before = engine.age_ms(since);
        node.clock.set(set);
        assert_eq!(engine.age_ms(since), before, "set to {set}");
    }
    let engine = node.cut_power(engine);
    node.clock.advance(HOUR_MS / 60);
    assert_eq!(engine.age_ms(shows(&node) - HOUR_MS / 60), HOUR_MS / 60);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_jump_is_doubted_for_a_day_of_running_whatever_restarts_and_however_the_index_is_lost() {
    let node = Node::new(71);
    let mut engine = node.open();
    put(&engine, "main", 0..3, 1).await;
    engine.checkpoint(&name("main")).await.unwrap();
    put(&engine, "main", 0..3, 2).await;
    engine.checkpoint(&name("main")).await.unwrap();
    engine.tend_at(engine.believed_time(None)).await.unwrap();
    let kept = engine.history(&name("main")).unwrap().len();
    node.clock.set(shows(&node) + 400 * DAY_MS);
    for n in 0..4 {
        if n == 2 {
            drop(engine);
            node.disk.remove(&node.config.data_dir.join("meta.redb")).unwrap();
            engine = node.open();
        } else {
            engine = node.cut_power(engine);
        }
        engine.tend_at(engine.believed_time(None)).await.unwrap();
        assert_eq!(engine.history(&name("main")).unwrap().len(), kept, "start {n}");
        node.clock.advance(HOUR_MS);
        engine.tend_at(engine.believed_time(None)).await.unwrap();
        assert_eq!(engine.history(&name("main")).unwrap().len(), kept, "an hour after start {n}");
    }
    node.clock.advance(DAY_MS);
    engine.tend_at(engine.believed_time(None)).await.unwrap();
    assert!(engine.history(&name("main")).unwrap().len() < kept, "by the time that it shows for a day they are old");
}
