//! A bucket that is put back from an older copy, or begun anew, while nodes run: what they say is in it is in it, under its name.

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use shoal::engine::Engine;
use shoal::engine::merge::decide::Policy;
use shoal::model::ids::NamespaceName;
use shoal::store::{Bucket, Patience};
use shoal::sync::{Selection, Sync};

use crate::fleet::{bucket, directory, fresh, names, options, sync, worker};
use crate::node::{DAY_MS, Node, all, branch, name, put};

const HOUR: Duration = Duration::from_secs(3_600);

/// What a bucket consists of.
type Copy = Vec<(String, Bytes)>;

async fn copy(bucket: &Bucket) -> Copy {
    let mut found = Vec::new();
    for listed in bucket.list_all("", None, 10_000, &Patience::ASKED).await.unwrap() {
        let bytes = bucket.get(&listed.key, &Patience::ASKED).await.unwrap().unwrap();
        found.push((listed.key, bytes));
    }
    found
}

/// As a tool does that knows nothing of Shoal.
async fn put_back(bucket: &Bucket, copy: &Copy) {
    for listed in bucket.list_all("", None, 10_000, &Patience::ASKED).await.unwrap() {
        if listed.key != "_format.json" {
            bucket.delete(&listed.key, &Patience::ASKED).await.unwrap();
        }
    }
    for (key, bytes) in copy {
        bucket.put(key, bytes.clone(), &Patience::ASKED).await.unwrap();
    }
}

fn link(node: &Node, engine: &Arc<Engine>, bucket: &Bucket) -> Sync {
    Sync::new(engine.clone(), bucket.clone(), options(Policy::Lww), node.clock.clone())
}

fn asked() -> Selection {
    Selection::default().only([name("docs")].into())
}

async fn run(link: &Sync, selection: &Selection) {
    let pass = link.run_for(selection).await;
    assert!(pass.failed.is_none(), "{:?}", pass.failed);
}

/// A node whose `docs` is in the bucket, the way there, and copies of the bucket from before: with another namespace, and with none.
async fn begun(bucket: &Bucket) -> (Node, Arc<Engine>, Sync, [Copy; 2]) {
    let node = Node::new(1);
    let engine = node.open();
    let link = link(&node, &engine, bucket);
    put(&engine, "old", 0..3, 1).await;
    run(&link, &Selection::default()).await;
    let older = copy(bucket).await;
    let anew = older.iter().filter(|(key, _)| key == "_format.json").cloned().collect();
    put(&engine, "docs", 0..5, 1).await;
    run(&link, &Selection::default()).await;
    (node, engine, link, [older, anew])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_somebody_waits_for_is_there_under_its_name_after_the_bucket_was_put_back() {
    for (at, selection) in [(0, asked()), (1, asked()), (0, Selection::default()), (1, Selection::default())] {
        let bucket = bucket(1);
        let (_, engine, link, copies) = begun(&bucket).await;
        put_back(&bucket, &copies[at]).await;
        put(&engine, "docs", [10], 2).await;
        run(&link, &selection).await;
        assert!(engine.unsent(&name("docs")).await.unwrap().is_durable, "copy {at}");
        assert_eq!(fresh(9, &bucket, "docs").await, all(&engine, "docs"), "copy {at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_bound_to_what_is_there_once_names_are_listed_again() {
    for at in 0..2 {
        let bucket = bucket(2);
        let (node, engine, link, copies) = begun(&bucket).await;
        put_back(&bucket, &copies[at]).await;
        // Nobody asks, and nothing is written.
        for _ in 0..2 {
            node.clock.advance(11 * 60_000);
            run(&link, &Selection::default().unasked()).await;
        }
        assert_eq!(fresh(9, &bucket, "docs").await, all(&engine, "docs"), "copy {at}");
        assert_eq!(fresh(9, &bucket, "old").await.len(), 3, "copy {at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_nobody_waits_for_finds_its_name_gone() {
    for at in 0..2 {
        let bucket = bucket(3);
        let (_, engine, link, copies) = begun(&bucket).await;
        put_back(&bucket, &copies[at]).await;
        put(&engine, "docs", [10], 2).await;
        run(&link, &Selection::default().unasked()).await;
        assert_eq!(fresh(9, &bucket, "docs").await, all(&engine, "docs"), "copy {at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_was_put_back_is_filled_again_by_the_next_pass() {
    for at in 0..2 {
        let (dir, config) = directory();
        let clocks = Node::new(3);
        let bucket = Bucket::open(&config, clocks.clock.clone(), clocks.random.clone()).unwrap();
        let (_, engine, link, copies) = begun(&bucket).await;
        put_back(&bucket, &copies[at]).await;
        run(&link, &Selection::default().unasked()).await;
        assert_eq!(fresh(9, &bucket, "docs").await, all(&engine, "docs"), "copy {at}");
        assert_eq!(fresh(9, &bucket, "old").await.len(), 3, "copy {at}");
        assert!(fs::exists(dir.path().join("default/default/names/docs")).unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_means_something_else_since_is_read_anew() {
    let (bucket, other) = (bucket(4), Node::new(2));
    let (node, engine, link, _) = begun(&bucket).await;
    let older = copy(&bucket).await;
    let again = async |node: &Node, engine: &Arc<Engine>, ids: std::ops::Range<u64>| {
        node.clock.advance(1_000);
        engine.delete(&name("docs")).await.unwrap();
        put(engine, "docs", ids, 3).await;
    };
    again(&node, &engine, 100..103).await;
    run(&link, &Selection::default()).await;
    put_back(&bucket, &older).await;
    // The other one gives the name to another life, by the same number.
    let there = other.open();
    sync(&other, &there, &bucket).await.unwrap();
    again(&other, &there, 200..203).await;
    sync(&other, &there, &bucket).await.unwrap();
    run(&link, &asked()).await;
    assert_eq!(all(&engine, "docs").len(), 6);
    assert_eq!(fresh(9, &bucket, "docs").await, all(&engine, "docs"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_lacks_of_others_is_said_and_sent_once_one_was_asked_for() {
    for at in 0..2 {
        let (_dir, config) = directory();
        let clocks = Node::new(5);
        let bucket = Bucket::open(&config, clocks.clock.clone(), clocks.random.clone()).unwrap();
        let (node, engine, _, copies) = begun(&bucket).await;
        put(&engine, "secret", 0..3, 1).await;
        // No pass is due for long.
        let worker = Arc::new(worker(&node, &engine, &config, HOUR));
        let running = tokio::spawn(Arc::clone(&worker).run());
        let pass = async |names: Option<&BTreeSet<NamespaceName>>| {
            let pass = worker.answer(worker.ask(names).unwrap()).await.unwrap();
            assert!(pass.failed.is_none(), "{:?}", pass.failed);
        };
        pass(None).await;
        node.clock.advance(1_000);
        engine.delete(&name("secret")).await.unwrap();
        pass(None).await;
        assert_eq!(worker.show().await.unwrap()["in_bucket"], true);
        put_back(&bucket, &copies[at]).await;
        pass(Some(&[name("docs")].into())).await;
        let all_is_said_to_be_there = async {
            while worker.show().await.unwrap()["in_bucket"] != true {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(HOUR / 60, all_is_said_to_be_there).await.unwrap();
        for (namespace, count) in [("old", 3), ("docs", 5)] {
            assert_eq!(fresh(9, &bucket, namespace).await.len(), count, "copy {at}: {namespace}");
        }
        worker.stop();
        running.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_node_sent_anew_is_not_taken_for_what_was_there_by_the_same_number() {
    for (at, selection) in [(0, asked()), (1, asked()), (0, Selection::default()), (1, Selection::default())] {
        for (is_unasked, writes) in [(false, 1), (true, 1), (false, 4), (true, 4)] {
            let (bucket, nodes) = (bucket(7), [Node::new(1), Node::new(2)]);
            let engines = [nodes[0].open(), nodes[1].open()];
            let links = [link(&nodes[0], &engines[0], &bucket), link(&nodes[1], &engines[1], &bucket)];
            let anew = copy(&bucket).await;
            put(&engines[0], "docs", [1], 1).await;
            run(&links[0], &Selection::default()).await;
            run(&links[1], &Selection::default()).await;
            let older = copy(&bucket).await;
            put(&engines[0], "docs", [2], 2).await;
            run(&links[0], &Selection::default()).await;
            run(&links[1], &Selection::default()).await;
            put_back(&bucket, [&older, &anew][at]).await;
            // The first notices, and sends what makes the same number of states, or more.
            for n in 0..writes {
                put(&engines[0], "docs", [10 + n], 3).await;
                run(&links[0], &asked()).await;
            }
            put(&engines[1], "docs", [20], 4).await;
            let selection = if is_unasked { selection.unasked() } else { selection.clone() };
            run(&links[1], &selection).await;
            let found = fresh(9, &bucket, "docs").await;
            assert_eq!(found, all(&engines[1], "docs"), "copy {at}, {selection:?}, {writes} writes");
            assert_eq!(found.len() as u64, 3 + writes, "copy {at}, {selection:?}, {writes} writes");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_branch_has_of_others_is_there_too_though_another_node_sent_the_branch_anew() {
    let (bucket, nodes) = (bucket(8), [Node::new(1), Node::new(2)]);
    let engines = [nodes[0].open(), nodes[1].open()];
    let links = [link(&nodes[0], &engines[0], &bucket), link(&nodes[1], &engines[1], &bucket)];
    let anew = copy(&bucket).await;
    put(&engines[0], "main", 0..50, 1).await;
    engines[0].checkpoint(&name("main")).await.unwrap();
    branch(&engines[0], "main", "docs").await;
    for link in &links {
        run(link, &Selection::default()).await;
    }
    put_back(&bucket, &anew).await;
    // What the branch shares with it is in none of its states any more.
    put(&engines[0], "main", 0..50, 2).await;
    engines[0].compact(&name("main")).await.unwrap();
    run(&links[0], &Selection::default()).await;
    put(&engines[1], "docs", [100], 3).await;
    run(&links[1], &asked()).await;
    assert_eq!(fresh(9, &bucket, "docs").await, all(&engines[1], "docs"));
    assert_eq!(all(&engines[1], "docs").len(), 51);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_a_name_keeps_it_where_the_bucket_knows_only_what_was_deleted_before() {
    for selection in [Selection::default(), asked(), Selection::default().unasked()] {
        let (bucket, mut node) = (bucket(10), Node::new(1));
        (node.config.retention_ms, node.config.has_bucket) = (DAY_MS, true);
        let engine = node.open();
        let link = link(&node, &engine, &bucket);
        put(&engine, "docs", [1], 1).await;
        run(&link, &Selection::default()).await;
        let older = copy(&bucket).await;
        node.clock.advance(1_000);
        engine.delete(&name("docs")).await.unwrap();
        run(&link, &Selection::default()).await;
        put(&engine, "docs", [2, 3], 2).await;
        run(&link, &Selection::default()).await;
        let expected = all(&engine, "docs");
        put_back(&bucket, &older).await;
        node.clock.advance(11 * 60_000);
        run(&link, &selection).await;
        assert_eq!(all(&engine, "docs"), expected);
        assert_eq!(names(&engine), ["docs"]);
        assert_eq!(fresh(9, &bucket, "docs").await, expected);
    }
}
