//! A stop in the middle of upkeep: what is on the disk then is what the index says, and the next start trusts it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::Duration;

use serde_json::json;
use shoal::engine::Engine;
use shoal::engine::merge::MergeRequest;
use shoal::engine::merge::decide::Policy;
use shoal::platform::random::SeededRandom;
use tokio::runtime::Handle;

use crate::after_faults::hooked;
use crate::node::{Node, all, branch, name, put, write};

/// So long a stop may go on beside the upkeep where that does not hold it up.
const BESIDE: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_while_what_was_deleted_goes_leaves_none_of_it_half_gone() {
    let node = Node::new(61);
    let (disk, engine) = hooked(&node);
    put(&engine, "docs", 0..5, 1).await;
    for n in 0..12 {
        let of = format!("n{n}");
        put(&engine, &of, 0..5, 1).await;
        engine.checkpoint(&name(&of)).await.unwrap();
        put(&engine, &of, 5..8, 1).await;
        engine.delete(&name(&of)).await.unwrap();
    }
    node.clock.advance(node.config.retention_ms + 1);
    // The third file that goes begins the stop, and waits for it a little.
    let (removed, stopping) = (AtomicU64::new(0), Arc::new(OnceLock::new()));
    let (runtime, stopped) = (Handle::current(), Arc::new((Mutex::new(false), Condvar::new())));
    let (of, begun, is_over) = (engine.clone(), stopping.clone(), stopped.clone());
    disk.each(move |operation, path| {
        let is_it = operation == "remove" && path.starts_with("/data/local");
        if !is_it || removed.fetch_add(1, Ordering::SeqCst) != 2 {
            return;
        }
        let (engine, runtime, done) = (of.clone(), runtime.clone(), is_over.clone());
        let _ = begun.set(std::thread::spawn(move || {
            runtime.block_on(engine.shutdown()).unwrap();
            *done.0.lock().unwrap() = true;
            done.1.notify_all();
        }));
        let over = is_over.0.lock().unwrap();
        drop(is_over.1.wait_timeout_while(over, BESIDE, |over| !*over).unwrap());
    });
    // It may say that the node is stopping.
    let _ = engine.tend().await;
    disk.each(|_, _| {});
    let over = stopped.0.lock().unwrap();
    assert!(!stopped.1.wait_timeout_while(over, Duration::from_secs(20), |over| !*over).unwrap().1.timed_out());
    assert!(stopping.get().is_some());
    drop(engine);
    let engine = node.open();
    assert!(engine.is_index_trusted() && engine.check(4).unwrap().is_whole());
    let deleted = engine.deleted(&name("x").project);
    assert!((1..12).contains(&deleted.len()), "{} are left", deleted.len());
    for left in deleted {
        let of = left.name.rsplit('/').next().unwrap();
        engine.undelete(&name(of), None).await.unwrap();
        assert_eq!(all(&engine, of).len(), 8);
    }
    assert_eq!(all(&engine, "docs").len(), 5);
}

/// After a power cut it is read while requests are answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_start_has_not_read_yet_is_waited_for() {
    let node = Node::new(62);
    let engine = node.open();
    write(&engine, "main", json!({"upsert_rows": [{"id": 1, "a": 1, "b": 1}]})).await;
    for (of, patch) in [("x", json!({"id": 1, "a": 9})), ("y", json!({"id": 1, "b": 7}))] {
        branch(&engine, "main", of).await;
        write(&engine, of, json!({"patch_rows": [patch]})).await;
    }
    put(&engine, "gone", 0..5, 1).await;
    engine.delete(&name("gone")).await.unwrap();
    drop(engine);
    node.disk.power_cut(&SeededRandom::new(62));
    let disk = Arc::new(node.disk.mounted());
    let engine = Engine::open(node.config.clone(), disk, node.clock.clone(), node.random.clone()).unwrap();
    assert!(!engine.is_index_trusted());
    let (merges, undeletes) = (engine.clone(), engine.clone());
    let mut merge = tokio::spawn(async move {
        let request = MergeRequest { policy: Policy::FieldsOrFail, ..MergeRequest::default() };
        merges.merge(&name("x"), &name("y"), request).await.unwrap()
    });
    let mut undelete = tokio::spawn(async move { undeletes.undelete(&name("gone"), None).await });
    let soon = Duration::from_millis(100);
    assert!(tokio::time::timeout(soon, &mut merge).await.is_err());
    assert!(tokio::time::timeout(soon, &mut undelete).await.is_err());
    tokio::task::block_in_place(|| engine.rebuild_index()).unwrap();
    undelete.await.unwrap().unwrap();
    assert_eq!(merge.await.unwrap().clashing, 0);
    assert_eq!(all(&engine, "gone").len(), 5);
    assert_eq!(
        all(&engine, "y").values().next().unwrap(),
        &[("a".to_owned(), json!(9)), ("b".to_owned(), json!(7))].into()
    );
}
