//! A time to live that is changed while what was due before is deleted.

use std::sync::Arc;

use shoal::engine::Engine;
use shoal::platform::clock::Clock as _;
use tokio::runtime::Handle;

use crate::after_faults::hooked;
use crate::node::{Node, all, name, put};

const HOUR_MS: u64 = 3_600_000;
const NAMES: [&str; 2] = ["one", "two"];

fn nsid(engine: &Engine, namespace: &str) -> String {
    engine.status(&name(namespace)).unwrap()["nsid"].as_str().unwrap().to_owned()
}

fn expires_ms(engine: &Engine, namespace: &str) -> Option<u64> {
    let tree = engine.tree(&name(namespace).project).unwrap();
    tree.iter().find(|node| node.name == namespace).unwrap().expires_ms
}

/// Changes the time to live of the other one right before the first of two files is written whose name ends so, in an upkeep for which
/// both are due. Gives which one was changed.
async fn upkeep(node: &Node, file: &'static str, ttl_ms: Option<u64>, then: impl Fn(&Node)) -> (Arc<Engine>, usize) {
    let (disk, engine) = hooked(node);
    for namespace in NAMES {
        put(&engine, namespace, 0..3, 1).await;
        engine.set_ttl(&name(namespace), Some(HOUR_MS)).await.unwrap();
    }
    let nsids = NAMES.map(|namespace| nsid(&engine, namespace));
    let (changed, told) = (Arc::new(std::sync::Mutex::new(None)), engine.clone());
    let kept = changed.clone();
    let runtime = Handle::current();
    then(node);
    disk.before(move |operation, path| {
        let path = path.to_string_lossy();
        let first = nsids.iter().position(|nsid| path.contains(nsid.as_str()));
        let Some(first) = first.filter(|_| operation == "rename" && path.ends_with(file)) else { return false };
        let other = 1 - first;
        let answer = runtime.block_on(told.set_ttl(&name(NAMES[other]), ttl_ms)).unwrap();
        *kept.lock().unwrap() = Some((other, answer));
        true
    });
    engine.tend().await.unwrap();
    let (other, answer) = changed.lock().unwrap().take().unwrap();
    assert_eq!(expires_ms(&engine, NAMES[other]), answer, "what was answered holds");
    assert_eq!(all(&engine, NAMES[other]).len(), 3);
    (engine, other)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_to_live_that_is_changed_while_others_end_counts_as_it_was_answered() {
    for (seed, ttl_ms) in [(91, None), (92, Some(9 * HOUR_MS))] {
        let node = Node::new(seed);
        let (engine, other) = upkeep(&node, "deleted.json", ttl_ms, |node| node.clock.advance(2 * HOUR_MS)).await;
        assert!(engine.view(&name(NAMES[1 - other])).is_err(), "its time was up");
        let engine = node.cut_power(engine);
        engine.tend().await.unwrap();
        assert_eq!(all(&engine, NAMES[other]).len(), 3);
        node.clock.advance(10 * HOUR_MS);
        engine.tend().await.unwrap();
        assert_eq!(engine.view(&name(NAMES[other])).is_ok(), ttl_ms.is_none());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_to_live_that_is_changed_while_others_move_with_the_clock_is_not_moved_back() {
    for (seed, ttl_ms) in [(93, None), (94, Some(9 * HOUR_MS))] {
        // The clock jumps by less than what is left of it, or by so much that it is moved and is due at once.
        for (jump_ms, passed_ms) in [(HOUR_MS / 2, 0), (HOUR_MS / 2, 2 * HOUR_MS)] {
            let node = Node::new(seed);
            let jumped = |node: &Node| {
                node.clock.set(node.clock.now_millis() + jump_ms);
                node.clock.advance(passed_ms);
            };
            let (engine, other) = upkeep(&node, ".json", ttl_ms, jumped).await;
            assert_eq!(engine.view(&name(NAMES[1 - other])).is_err(), passed_ms > 0);
        }
    }
}
