//! A stop in the middle of upkeep: what is on the disk then is what the index says, and the next start trusts it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::Duration;

use tokio::runtime::Handle;

use crate::after_faults::hooked;
use crate::node::{Node, all, name, put};

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
