//! Deleted namespaces are there until retention lets go of them, whatever else goes on.

use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use shoal::engine::Engine;
use shoal::platform::clock::{Clock, ManualClock};
use shoal::platform::disk::Disk;
use shoal::platform::memory_disk::Fault;

use crate::node::{DAY_MS, Node, all, name, objects, put};

/// How long something is waited for that may be waiting itself.
const PATIENCE: Duration = Duration::from_millis(300);

/// A clock that does something else once when it is asked for the time.
struct Interrupted {
    clock: Arc<ManualClock>,
    once: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl Clock for Interrupted {
    fn now_millis(&self) -> u64 {
        let once = self.once.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(once) = once {
            once();
        }
        self.clock.now_millis()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_brought_back_while_retention_would_let_go_of_it_is_whole() {
    let node = Node::new(20);
    let clock = Arc::new(Interrupted { clock: node.clock.clone(), once: Mutex::new(None) });
    let disk: Arc<dyn Disk> = Arc::new(node.disk.mounted());
    let engine = Engine::open(node.config.clone(), disk, clock.clone(), node.random.clone()).unwrap();
    engine.rebuild_index().unwrap();
    put(&engine, "main", 0..20, 1).await;
    engine.checkpoint(&name("main")).await.unwrap();
    let before = all(&engine, "main");
    engine.delete(&name("main")).await.unwrap();
    let (other, manual, runtime) = (engine.clone(), node.clock.clone(), tokio::runtime::Handle::current());
    let (sender, tended) = channel();
    *clock.once.lock().unwrap() = Some(Box::new(move || {
        manual.advance(8 * DAY_MS);
        let (begun, ended) = channel();
        runtime.spawn(async move {
            other.tend().await.unwrap();
            let _ = begun.send(());
            sender.send(()).unwrap();
        });
        // It may have to wait for who is interrupted here.
        let _ = ended.recv_timeout(PATIENCE);
    }));
    engine.undelete(&name("main"), None).await.unwrap();
    tokio::task::block_in_place(|| tended.recv()).unwrap();
    assert_eq!(all(&engine, "main"), before);
    assert!(engine.check(4).unwrap().is_whole());
    let engine = node.cut_power(engine);
    assert_eq!(all(&engine, "main"), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_sweep_during_deletions_leaves_what_can_be_had_back() {
    const NAMES: u64 = 16;
    let node = Node::new(21);
    let engine = node.open();
    for n in 0..NAMES {
        put(&engine, &format!("n{n}"), 0..2, n).await;
    }
    let sweeper = engine.clone();
    let (stop, stopped) = channel::<()>();
    let sweeps = std::thread::spawn(move || {
        while stopped.try_recv() != Err(std::sync::mpsc::TryRecvError::Disconnected) {
            sweeper.sweep().unwrap();
        }
    });
    for n in 0..NAMES {
        engine.delete(&name(&format!("n{n}"))).await.unwrap();
    }
    drop(stop);
    tokio::task::block_in_place(|| sweeps.join()).unwrap();
    for n in 0..NAMES {
        engine.undelete(&name(&format!("n{n}")), None).await.unwrap_or_else(|error| panic!("n{n}: {error}"));
        assert_eq!(all(&engine, &format!("n{n}")).len(), 2);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_while_retention_lets_go_brings_back_the_whole_or_nothing() {
    for at in 0..60 {
        let node = Node::new(22 + at);
        let engine = node.open();
        put(&engine, "main", 0..20, 1).await;
        engine.checkpoint(&name("main")).await.unwrap();
        put(&engine, "main", 5..9, 2).await;
        engine.tag(&name("main"), "t", None).await.unwrap();
        let before = all(&engine, "main");
        engine.delete(&name("main")).await.unwrap();
        node.clock.advance(8 * DAY_MS);
        let fault = Fault { at: node.disk.operations() + at, forever: true, kind: std::io::ErrorKind::Other };
        node.disk.set_fault(Some(fault));
        let _ = engine.tend().await;
        drop(engine);
        node.disk.power_cut(&*node.random);
        let engine =
            Engine::open(node.config.clone(), Arc::new(node.disk.mounted()), node.clock.clone(), node.random.clone());
        let engine = engine.unwrap();
        engine.rebuild_index().unwrap();
        let report = engine.check(4).unwrap();
        assert!(report.is_whole(), "operation {at}: {:?}", report.problems);
        if engine.undelete(&name("main"), None).await.is_ok() {
            assert_eq!(all(&engine, "main"), before, "operation {at}");
            let tags = engine.tags(&name("main")).unwrap();
            assert_eq!(tags.iter().map(|tag| tag.name.as_str()).collect::<Vec<_>>(), ["t"], "operation {at}");
            engine.delete(&name("main")).await.unwrap();
            node.clock.advance(8 * DAY_MS);
        }
        engine.tend().await.unwrap();
        assert_eq!(objects(&node), [""; 0], "operation {at}");
    }
}
