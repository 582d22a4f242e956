//! What a node says of itself without asking the bucket: what is here only, and since when; without opening what is closed.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use shoal::engine::Engine;
use shoal::engine::merge::decide::Policy;
use shoal::platform::disk::Disk;
use shoal::store::{Bucket, Patience};
use shoal::sync::{Selection, Sync, Worker};

use crate::fleet::{bucket, directory, fresh, meet, sync, worker};
use crate::node::{DAY_MS, Node, all, name, put, write};
use crate::unlucky::Place;

const MINUTE: Duration = Duration::from_secs(60);

fn opened(engine: &Engine) -> u64 {
    engine.node_status()["namespaces"]["open"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lag_is_that_of_the_oldest_write_that_is_here_only() {
    let (bucket, node, other) = (bucket(1), Node::new(1), Node::new(2));
    let (engine, there) = (node.open(), other.open());
    let since = async |engine: &Engine| engine.unsent(&name("docs")).await.unwrap().since_ms;
    put(&engine, "docs", 0..10, 1).await;
    meet(&[(&node, &engine), (&other, &there)], &bucket).await;
    assert_eq!(since(&engine).await, None);
    // Long together, then a first write, and more.
    node.clock.advance(10 * 3_600_000);
    let first = engine.now_millis();
    put(&engine, "docs", [20], 2).await;
    assert_eq!(since(&engine).await, Some(first));
    for id in 21..25 {
        node.clock.advance(60_000);
        put(&engine, "docs", [id], 2).await;
        engine.checkpoint(&name("docs")).await.unwrap();
    }
    engine.compact(&name("docs")).await.unwrap();
    assert_eq!(since(&engine).await, Some(first));
    // What others wrote meanwhile is not older than that.
    put(&there, "docs", [30], 3).await;
    sync(&other, &there, &bucket).await.unwrap();
    sync(&node, &engine, &bucket).await.unwrap();
    assert_eq!(since(&engine).await, None);
    node.clock.advance(60_000);
    let second = engine.now_millis();
    write(&engine, "docs", json!({"deletes": [3]})).await;
    node.clock.advance(60_000);
    assert_eq!(since(&engine).await, Some(second));
    // After a restart it is known again once the namespace is open.
    let engine = node.cut_power(engine);
    engine.warm(&name("docs")).unwrap();
    assert_eq!(since(&engine).await, Some(second));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_here_only_is_told_without_opening_a_namespace() {
    let (bucket, node) = (bucket(2), Node::new(1));
    let engine = node.open();
    for n in 0..3 {
        put(&engine, &format!("docs{n}"), 0..10, 1).await;
    }
    sync(&node, &engine, &bucket).await.unwrap();
    put(&engine, "docs1", 10..20, 2).await;
    put(&engine, "docs2", 10..20, 2).await;
    engine.checkpoint(&name("docs2")).await.unwrap();
    let clean = |engine: &std::sync::Arc<Engine>| engine.named().into_iter().map(|(name, _)| name).collect();
    let open = engine.unsent_of(clean(&engine)).await.unwrap();
    // A clean stop, and a power cut.
    engine.shutdown().await.unwrap();
    drop(engine);
    for _ in 0..2 {
        let engine = node.open();
        let closed = engine.unsent_of(clean(&engine)).await.unwrap();
        assert_eq!(opened(&engine), 0);
        for (name, unsent) in &closed {
            let (closed, open) = (unsent.as_ref().unwrap(), open[name].as_ref().unwrap());
            let told = |of: &shoal::engine::Unsent| (of.common, of.is_durable, of.is_nothing, of.objects);
            assert_eq!(told(closed), told(open), "{name}");
            assert_eq!((closed.bytes > 0, closed.since_ms.is_some()), (open.bytes > 0, !open.is_durable), "{name}");
        }
        drop(engine);
        node.disk.power_cut(&*node.random);
    }
    let engine = node.open();
    sync(&node, &engine, &bucket).await.unwrap();
    // Only what had something to send was opened.
    assert_eq!(opened(&engine), 2);
    let sent = engine.unsent_of(clean(&engine)).await.unwrap();
    assert!(sent.values().all(|unsent| unsent.as_ref().unwrap().is_nothing), "{sent:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_that_is_here_only_counts_until_it_is_sent() {
    let (bucket, node) = (bucket(3), Node::new(1));
    let engine = node.open();
    put(&engine, "docs", 0..10, 1).await;
    sync(&node, &engine, &bucket).await.unwrap();
    let unsent = async |engine: &Engine| engine.unsent(&name("docs")).await.unwrap();
    assert!(unsent(&engine).await.is_nothing);
    node.clock.advance(60_000);
    let at = engine.now_millis();
    engine.tag(&name("docs"), "monday", None).await.unwrap();
    let open = unsent(&engine).await;
    assert_eq!((open.is_durable, open.is_nothing, open.objects, open.since_ms), (false, false, 1, Some(at)));
    let engine = node.cut_power(engine);
    assert_eq!(unsent(&engine).await, open, "nor is it forgotten");
    sync(&node, &engine, &bucket).await.unwrap();
    assert!(unsent(&engine).await.is_nothing);
    engine.untag(&name("docs"), "monday").await.unwrap();
    assert!(!unsent(&engine).await.is_durable, "a deletion is news, too");
    sync(&node, &engine, &bucket).await.unwrap();
    assert!(unsent(&engine).await.is_nothing);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn what_was_written_is_told_while_states_follow_each_other() {
    let node = Node::new(4);
    let engine = node.open();
    put(&engine, "docs", 0..2, 1).await;
    let nsid = engine.nsid_of(&name("docs")).unwrap();
    let (asked, done) = (engine.clone(), std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false)));
    let is_done = done.clone();
    let asking = tokio::task::spawn_blocking(move || {
        let mut times = 0;
        while !is_done.load(std::sync::atomic::Ordering::SeqCst) {
            assert!(asked.written(nsid).unwrap().is_some());
            times += 1;
        }
        times
    });
    for at in 0..300 {
        put(&engine, "docs", [at % 7], at).await;
        engine.checkpoint(&name("docs")).await.unwrap();
    }
    done.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(asking.await.unwrap() > 300);
}

/// It may have what was acknowledged, so nobody can say that everything is in the bucket.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_looked_at_is_not_called_sent() {
    let (bucket, node) = (bucket(1), Node::new(5));
    let engine = node.open();
    put(&engine, "docs", 0..10, 1).await;
    sync(&node, &engine, &bucket).await.unwrap();
    put(&engine, "docs", 10..20, 1).await;
    // As a kill leaves it: the log is open.
    let engine = node.cut_power(engine);
    let log = node.disk.list(Path::new("/data/log")).unwrap().into_iter().find(|entry| entry.len > 0).unwrap();
    node.disk.set_unreadable(Some(Path::new("/data/log").join(log.name)));
    sync(&node, &engine, &bucket).await.unwrap_err();
    assert!(!engine.unsent(&name("docs")).await.is_ok_and(|unsent| unsent.is_nothing));
    node.disk.set_unreadable(None);
    sync(&node, &engine, &bucket).await.unwrap();
    let other = Node::new(6);
    let there = other.open();
    sync(&other, &there, &bucket).await.unwrap();
    assert_eq!(all(&there, "docs").len(), 20);
}

/// Whether everything is said to be in the bucket, how many namespaces are not, for how long, and the names of these.
async fn told(worker: &Worker) -> (bool, u64, u64, Vec<String>) {
    let (shown, figures, plan) =
        (worker.show().await.unwrap(), worker.figures().await.unwrap(), worker.plan(None).await.unwrap());
    let named = shown["namespaces"].as_object().unwrap().iter().filter(|(_, of)| of["in_bucket"] == false);
    let named: Vec<String> = named.map(|(name, _)| name.clone()).collect();
    let planned = plan.iter().filter(|(_, unsent)| !unsent.as_ref().unwrap().is_nothing);
    assert_eq!(named, planned.map(|(name, _)| name.to_string()).collect::<Vec<_>>());
    assert_eq!(shown["namespaces_behind"], figures.namespaces_behind);
    assert_eq!(shown["lag_seconds"], figures.lag_seconds);
    (shown["in_bucket"] == true, figures.namespaces_behind, figures.lag_seconds, named)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_the_bucket_was_not_told_of_counts_until_it_is() {
    let ((_dir, config), mut node) = (directory(), Node::new(7));
    node.config.has_bucket = true;
    node.config.retention_ms = DAY_MS;
    let bucket = Bucket::open(&config, node.clock.clone(), node.random.clone()).unwrap();
    let mut engine = node.open();
    for namespace in ["keep", "secret"] {
        put(&engine, namespace, 0..10, 1).await;
    }
    sync(&node, &engine, &bucket).await.unwrap();
    assert_eq!(told(&worker(&node, &engine, &config, MINUTE)).await, (true, 0, 0, vec![]));
    for round in 0..2 {
        for is_back in [false, true] {
            node.clock.advance(1_000);
            match is_back {
                false => engine.delete(&name("secret")).await.unwrap(),
                true => engine.undelete(&name("secret"), None).await.unwrap(),
            }
            node.clock.advance(60_000);
            let expected = (false, 1, 60, vec!["default/default/secret".to_owned()]);
            assert_eq!(told(&worker(&node, &engine, &config, MINUTE)).await, expected, "{round} {is_back}");
            // It does not need to be remembered.
            engine = node.cut_power(engine);
            let (is_in_bucket, behind, _, named) = told(&worker(&node, &engine, &config, MINUTE)).await;
            assert_eq!((is_in_bucket, behind, named), (false, 1, expected.3), "{round} {is_back}");
            sync(&node, &engine, &bucket).await.unwrap();
            assert_eq!(
                told(&worker(&node, &engine, &config, MINUTE)).await,
                (true, 0, 0, vec![]),
                "{round} {is_back}"
            );
            assert_eq!(fresh(9, &bucket, "keep").await.len(), 10);
        }
    }
    // What the bucket never had needs not be told of.
    put(&engine, "other", 0..10, 1).await;
    engine.delete(&name("other")).await.unwrap();
    assert_eq!(told(&worker(&node, &engine, &config, MINUTE)).await, (true, 0, 0, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_of_what_the_bucket_does_not_name_any_more_is_not_told_for_ever() {
    let ((_dir, config), mut node) = (directory(), Node::new(8));
    node.config.retention_ms = DAY_MS;
    let bucket = Bucket::open(&config, node.clock.clone(), node.random.clone()).unwrap();
    let engine = node.open();
    put(&engine, "keep", 0..10, 1).await;
    put(&engine, "secret", 0..10, 1).await;
    let options = crate::fleet::options(Policy::Lww);
    let link = Sync::new(engine.clone(), bucket.clone(), options, node.clock.clone());
    link.run().await.unwrap();
    // The bucket is put back from a copy that is older than the name.
    for listed in bucket.list_all("default/default/names/secret", None, 10, &Patience::ASKED).await.unwrap() {
        bucket.delete(&listed.key, &Patience::ASKED).await.unwrap();
    }
    engine.delete(&name("secret")).await.unwrap();
    assert!(!told(&worker(&node, &engine, &config, MINUTE)).await.0);
    link.run().await.unwrap();
    assert_eq!(told(&worker(&node, &engine, &config, MINUTE)).await, (true, 0, 0, vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_bucket_under_no_name_is_not_called_sent() {
    let place = Place::default();
    let node = Node::new(1);
    let engine = node.open();
    let wire = place.wire();
    let link = place.link(&wire, &node, &engine);
    put(&engine, "docs", 0..10, 1).await;
    wire.delay("/names/docs", true);
    assert!(link.run().await.is_err());
    assert!(!engine.unsent(&name("docs")).await.unwrap().is_durable);
    wire.delay("/names/docs", false);
    assert!(link.run_for(&Selection::default().unasked()).await.failed.is_none());
    assert!(engine.unsent(&name("docs")).await.unwrap().is_durable);
}
