//! What opening a namespace costs, and what it believes: a read that opens one writes nothing, waits for no other namespace, and
//! loses nothing to a disk that reads wrongly once.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use shoal::engine::Engine;
use shoal::error::Result;
use shoal::platform::disk::Disk;
use shoal::platform::memory_disk::{Fault, Mishap, MishapKind};
use shoal::platform::random::{Random, SeededRandom};

use crate::hook_disk::HookDisk;
use crate::node::{Documents, Node, all, documents, name, put};
use crate::{files, request};

/// A test that waits longer than this for what must not wait has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// The node's process ends and another one begins; what the index needs is not done yet.
fn started(node: &Node, disk: impl Disk + 'static) -> Arc<Engine> {
    Engine::open(node.config.clone(), Arc::new(disk), node.clock.clone(), node.random.clone()).unwrap()
}

fn read(engine: &Engine, namespace: &str) -> Result<Documents> {
    engine.view(&name(namespace)).map(|view| documents(&view))
}

fn everything(node: &Node) -> Vec<(String, u64)> {
    let found = files(&node.disk, Path::new("/data")).into_iter().map(|path| {
        let bytes = node.disk.size(Path::new(&path)).unwrap();
        (path, bytes)
    });
    found.collect()
}

/// Reads `docs` of a node that was just started; gives what that wrote: bytes, and barriers. No file may be another.
fn read_costs(node: &Node, expected: usize) -> (u64, u64) {
    let engine = started(node, node.disk.mounted());
    let before = (node.disk.written_bytes(), node.disk.barriers(), everything(node));
    assert_eq!(read(&engine, "docs").unwrap().len(), expected);
    let costs = (node.disk.written_bytes() - before.0, node.disk.barriers() - before.1);
    assert_eq!(everything(node), before.2);
    costs
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_opens_a_namespace_writes_nothing_and_makes_durable_what_it_serves() {
    let node = Node::new(31);
    let engine = node.open();
    put(&engine, "docs", 0..5, 1).await;
    engine.checkpoint(&name("docs")).await.unwrap();
    put(&engine, "docs", 5..8, 1).await;
    engine.shutdown().await.unwrap();
    drop(engine);
    // A sealed log.
    assert_eq!(read_costs(&node, 8), (0, 0));
    let engine = node.open();
    put(&engine, "docs", 8..10, 1).await;
    drop(engine);
    // An open one, whose last commits may have been written and never synced: it is synced, and stays where it is.
    assert_eq!(read_costs(&node, 10), (0, 1));
    let is_open = |path: &String| path.starts_with("/data/log/");
    assert_eq!(files(&node.disk, Path::new("/data")).iter().filter(|path| is_open(path)).count(), 1);
    // What was served is there after a power cut, and the next write seals it.
    let engine = started(&node, node.disk.mounted());
    assert_eq!(read(&engine, "docs").unwrap().len(), 10);
    let engine = node.cut_power(engine);
    put(&engine, "docs", [10], 1).await;
    assert_eq!(all(&engine, "docs").len(), 11);
    assert_eq!(all(&node.cut_power(engine), "docs").len(), 11);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_is_read_wrongly_once_is_not_taken_for_one_that_was_never_acknowledged() {
    let (mut reads, mut refused) = (0, 0);
    for bit in [7, 400, 100_003] {
        for after in 0.. {
            let node = Node::new(32);
            let engine = node.open();
            for n in 0..3 {
                put(&engine, "docs", n * 4..n * 4 + 4, 1).await;
            }
            drop(engine);
            let within = Some("/log/".to_owned());
            node.disk.set_mishap(Some(Mishap { after, within, kind: MishapKind::ReadsWrong(bit) }));
            let engine = started(&node, node.disk.mounted());
            let what = format!("bit {bit} of read {after}");
            // A read, and then a write, which would cut what seems torn.
            for _ in 0..2 {
                match read(&engine, "docs") {
                    Ok(found) => assert_eq!(found.len(), 12, "{what}"),
                    Err(_) => refused += 1,
                }
            }
            let rows = serde_json::json!({"upsert_rows": [{"id": 100, "n": 1}]});
            while let Err(error) = engine.write(&name("docs"), request(rows.clone())).await {
                assert_eq!(error.code(), "misread", "{what}: {error}");
                refused += 1;
            }
            assert_eq!(read(&engine, "docs").unwrap().len(), 13, "{what}");
            let is_over = node.disk.planned().is_some();
            node.disk.set_mishap(None);
            assert_eq!(all(&node.cut_power(engine), "docs").len(), 13, "{what}");
            if is_over {
                break;
            }
            reads += 1;
        }
    }
    assert!(reads >= 9, "only {reads} reads went wrong, {refused} requests were refused");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_all_is_counted_anew_any_namespace_is_read_and_written_without_a_look_at_others() {
    const MANY: u64 = 30;
    let node = Node::new(33);
    let engine = node.open();
    for n in 0..MANY {
        put(&engine, &format!("n{n}"), 0..2, n).await;
    }
    let nsid = |of: &str| engine.status(&name(of)).unwrap()["nsid"].as_str().unwrap().to_owned();
    let (own, last) = (nsid("n7"), nsid("n29"));
    drop(engine);
    let disk = HookDisk::new(node.disk.mounted());
    let engine = started(&node, disk.clone());
    // Who counts is held up at a manifest.
    let (reached, is_there) = mpsc::channel();
    let (go_on, may_go_on) = mpsc::channel::<()>();
    let held_up = Mutex::new(Some((reached, may_go_on)));
    let looked_at: Arc<Mutex<Vec<String>>> = Arc::default();
    let (seen, by_others) = (looked_at.clone(), Arc::new(Mutex::new(None)));
    let counter = by_others.clone();
    disk.each(move |operation, path| {
        let path = path.display().to_string();
        let is_counter = *counter.lock().unwrap() == Some(std::thread::current().id());
        if is_counter && operation == "read" && path.contains(&last) {
            let held_up = held_up.lock().unwrap().take();
            if let Some((reached, may_go_on)) = held_up {
                reached.send(()).unwrap();
                let _ = may_go_on.recv_timeout(PATIENCE);
            }
        } else if !is_counter && path.contains("/local/") {
            seen.lock().unwrap().push(path);
        }
    });
    let counting = engine.clone();
    let counted = std::thread::spawn(move || {
        *by_others.lock().unwrap() = Some(std::thread::current().id());
        counting.rebuild_index()
    });
    is_there.recv_timeout(PATIENCE).unwrap();
    looked_at.lock().unwrap().clear();
    // In a thread of its own, so that one that waits for ever fails.
    let (tell, told) = mpsc::channel();
    let (one, runtime) = (engine.clone(), tokio::runtime::Handle::current());
    std::thread::spawn(move || {
        let found = read(&one, "n7").unwrap().len();
        runtime.block_on(put(&one, "n7", 5..6, 1));
        runtime.block_on(one.checkpoint(&name("n7"))).unwrap();
        tell.send((found, read(&one, "n7").unwrap().len()))
    });
    let done = tokio::task::block_in_place(|| told.recv_timeout(PATIENCE / 2));
    assert_eq!(done, Ok((2, 3)), "it waits for who counts");
    let mut others = looked_at.lock().unwrap().clone();
    others.retain(|path| !path.contains(&own));
    assert_eq!(others, [""; 0], "looked at by who opens n7");
    put(&engine, "new", 0..1, 1).await;
    engine.delete(&name("n8")).await.unwrap();
    drop(go_on);
    tokio::task::block_in_place(|| counted.join()).unwrap().unwrap();
    assert!(engine.is_index_trusted() && engine.check(4).unwrap().is_whole());
    let engine = node.cut_power(engine);
    assert_eq!((all(&engine, "n7").len(), all(&engine, "new").len(), all(&engine, "n9").len()), (3, 1, 2));
    assert!(read(&engine, "n8").is_err());
}

/// What happens while all is counted anew.
async fn act(engine: &Arc<Engine>, what: u64, round: u64) {
    match what {
        0 => put(engine, "a", 0..3, round).await,
        1 => {
            put(engine, "b", 3..6, round).await;
            engine.checkpoint(&name("b")).await.unwrap();
        }
        2 => engine.compact(&name("a")).await.unwrap(),
        3 => drop(engine.tag(&name("b"), &format!("t{round}"), None).await.unwrap()),
        4 => crate::node::branch(engine, "a", &format!("branch{round}")).await,
        5 => {
            put(engine, "gone", 0..2, round).await;
            engine.checkpoint(&name("gone")).await.unwrap();
            engine.delete(&name("gone")).await.unwrap();
        }
        6 => {
            crate::node::branch(engine, "b", &format!("side{round}")).await;
            put(engine, &format!("side{round}"), 10..12, round).await;
            let merge = shoal::engine::merge::MergeRequest::default();
            engine.merge(&name(&format!("side{round}")), &name("b"), merge).await.unwrap();
        }
        _ => put(engine, &format!("new{round}"), 0..1, round).await,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn whatever_happens_while_all_is_counted_anew_is_counted() {
    for round in 0..32u64 {
        let node = Node::new(1_000 + round);
        let engine = node.open();
        for namespace in ["a", "b"] {
            for n in 0..3 {
                put(&engine, namespace, n..n + 4, n).await;
                engine.checkpoint(&name(namespace)).await.unwrap();
            }
            put(&engine, namespace, 20..22, 1).await;
        }
        drop(engine);
        // What the process before still does must not go on.
        node.disk.power_cut(&*node.random);
        let disk = HookDisk::new(node.disk.mounted());
        let engine = started(&node, disk.clone());
        let by = std::thread::current().id();
        let counter = Arc::new(Mutex::new(by));
        let (mark, runtime, acting) = (counter.clone(), tokio::runtime::Handle::current(), engine.clone());
        let at = SeededRandom::new(round).next_u64() % 60;
        let seen = AtomicU64::new(0);
        let (told, acted) = mpsc::channel();
        disk.each(move |_, path| {
            let is_meant = *mark.lock().unwrap() == std::thread::current().id() && path.starts_with("/data/local");
            if is_meant && seen.fetch_add(1, Ordering::SeqCst) == at {
                let (acting, told) = (acting.clone(), told.clone());
                let (tell, done) = mpsc::channel();
                runtime.spawn(async move {
                    act(&acting, round % 8, round).await;
                    let _ = tell.send(());
                    let _ = told.send(());
                });
                // Where nobody may commit it comes right after.
                let _ = done.recv_timeout(Duration::from_millis(300));
            }
        });
        let (counting, mark) = (engine.clone(), counter.clone());
        let counted = std::thread::spawn(move || {
            *mark.lock().unwrap() = std::thread::current().id();
            counting.rebuild_index()
        });
        tokio::task::block_in_place(|| counted.join()).unwrap().unwrap();
        disk.each(|_, _| {});
        tokio::task::block_in_place(|| acted.recv_timeout(PATIENCE)).ok();
        assert!(engine.is_index_trusted(), "round {round}");
        let report = engine.check(4).unwrap();
        assert!(report.is_whole(), "round {round}: {:?}", report.problems);
        let expected = (read(&engine, "a").unwrap(), read(&engine, "b").unwrap());
        let engine = node.cut_power(engine);
        assert_eq!((all(&engine, "a"), all(&engine, "b")), expected, "round {round}");
        assert_eq!(engine.check(4).unwrap().orphans, 0, "round {round}");
    }
}

/// A name that was given to a file no barrier had made durable yet, and that came back with a power cut.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_in_place_yet_of_the_files_of_the_node_is_gone_after_a_start() {
    let node = Node::new(39);
    drop(node.open());
    let before = everything(&node);
    for path in ["/data/node.json.tmp", "/data/store/_format.json.tmp"] {
        node.disk.create(Path::new(path)).unwrap().write(b"half").unwrap();
    }
    drop(started(&node, node.disk.mounted()));
    let paths = |all: Vec<(String, u64)>| all.into_iter().map(|(path, _)| path).collect::<Vec<String>>();
    assert_eq!(paths(everything(&node)), paths(before));
}

/// The index says of itself that a stop was clean, and is an older one after a power cut: what it counts then must not decide.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_whose_last_writes_were_never_durable_is_not_believed() {
    for after in 0..40 {
        let node = Node::new(40 + after);
        let engine = node.open();
        put(&engine, "docs", 0..5, 1).await;
        let kind = MishapKind::FailsAfter(std::io::ErrorKind::StorageFull);
        node.disk.set_mishap(Some(Mishap { after, within: Some("meta.redb".to_owned()), kind }));
        let _ = engine.shutdown().await;
        drop(engine);
        node.disk.set_mishap(None);
        let engine = node.open();
        put(&engine, "docs", 5..9, 1).await;
        engine.checkpoint(&name("docs")).await.unwrap();
        let engine = node.cut_power(engine);
        engine.tend().await.unwrap();
        assert_eq!(all(&engine, "docs").len(), 9, "operation {after}");
        assert!(engine.check(3).unwrap().is_whole(), "operation {after}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_the_disk_refuses_or_that_finds_a_directory_as_its_index_says_what_to_do() {
    let node = Node::new(39);
    let engine = node.open();
    put(&engine, "docs", 0..5, 1).await;
    drop(engine);
    let start = || {
        let disk = Arc::new(node.disk.mounted());
        Engine::open(node.config.clone(), disk, node.clock.clone(), node.random.clone()).err()
    };
    let mut failed = 0;
    for kind in [ErrorKind::StorageFull, ErrorKind::ReadOnlyFilesystem] {
        for at in 0..40 {
            node.disk.set_fault(Some(Fault { at: node.disk.operations() + at, forever: true, kind }));
            let error = start();
            node.disk.set_fault(None);
            let Some(error) = error else { continue };
            failed += 1;
            let hint = error.hint().unwrap_or_default();
            // Nothing resumes by itself in a process that ends.
            assert!(hint.ends_with("start again") && !hint.contains("themselves"), "{kind:?} {at}: {error}: {hint}");
        }
    }
    assert!(failed > 0);
    let index = Path::new("/data/meta.redb");
    node.disk.remove(index).unwrap();
    node.disk.create_dir(index).unwrap();
    let error = start().unwrap();
    assert!(error.message().contains("/data/meta.redb"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("move what is in its place away")), "{error}");
    node.disk.remove_dir(index).unwrap();
    assert!(start().is_none());
}
