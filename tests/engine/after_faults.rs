//! A fault passes and the node goes on: what is promised afterwards is so, and nobody else pays for it.

use std::collections::BTreeSet;
use std::future::Future as _;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, mpsc};
use std::task::Poll;
use std::time::{Duration, Instant};

use serde_json::json;
use shoal::engine::merge::MergeRequest;
use shoal::engine::{CreateRequest, Engine};
use shoal::error::Kind;
use shoal::format::ids;
use shoal::format::segment::{decode_footer, decode_meta};
use shoal::model::as_of::AsOf;
use shoal::model::ids::DocId;
use shoal::platform::disk::Disk;
use shoal::platform::memory_disk::{Fault, MemoryDisk, Mishap, MishapKind};
use tokio::runtime::Handle;

use crate::files;
use crate::hook_disk::HookDisk;
use crate::node::{DAY_MS, Documents, Node, branch, documents, name, put};

/// A test that waits longer than this for what must not wait has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// A node on a disk with a hook.
pub fn hooked(node: &Node) -> (HookDisk, Arc<Engine>) {
    let disk = HookDisk::new(node.disk.mounted());
    let engine =
        Engine::open(node.config.clone(), Arc::new(disk.clone()), node.clock.clone(), node.random.clone()).unwrap();
    engine.rebuild_index().unwrap();
    (disk, engine)
}

fn look(engine: &Engine) -> Documents {
    documents(&engine.view(&name("docs")).unwrap())
}

fn tail_rows(engine: &Engine) -> u64 {
    engine.status(&name("docs")).unwrap()["tail"]["rows"].as_u64().unwrap()
}

/// Changes a byte of the ids in a segment, or changes it back.
fn damage_ids(disk: &MemoryDisk, path: &Path) {
    let bytes = disk.read(path).unwrap();
    let footer = decode_footer(&bytes, "segment").unwrap();
    let meta = decode_meta(&bytes, &footer, "segment").unwrap();
    let section = meta.sections.iter().find(|section| section.name == ids::SECTION).unwrap();
    let byte = bytes[section.offset as usize];
    let file = disk.random_access(path).unwrap();
    file.write_at(section.offset, &[!byte]).unwrap();
    // A power cut must not undo it.
    file.sync().unwrap();
}

fn segments(disk: &MemoryDisk) -> Vec<PathBuf> {
    let all = files(disk, Path::new("/data")).into_iter().map(PathBuf::from);
    all.filter(|path| path.extension().is_some() && path.to_string_lossy().contains("/segments/")).collect()
}

/// Every operation of a checkpoint fails once; a write comes before it and a hundred after it.
async fn after_each_failed_checkpoint(check: impl AsyncFn(&Arc<Engine>, &str)) {
    let mut failed = 0;
    for at in 0.. {
        let node = Node::new(at);
        let engine = node.open();
        put(&engine, "docs", [0], 1).await;
        let at = node.disk.operations() + at;
        let kind = if at.is_multiple_of(2) { ErrorKind::Other } else { ErrorKind::StorageFull };
        node.disk.set_fault(Some(Fault { at, forever: false, kind }));
        failed += u64::from(engine.checkpoint(&name("docs")).await.is_err());
        let is_hit = node.disk.operations() > at;
        node.disk.set_fault(None);
        for id in 1..101 {
            put(&engine, "docs", [id], 1).await;
        }
        check(&engine, &format!("operation {at}")).await;
        assert_eq!(look(&node.cut_power(engine)).len(), 101, "operation {at}");
        if !is_hit {
            break;
        }
    }
    assert!(failed > 10, "only {failed} checkpoints failed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_after_one_that_failed_leaves_no_row_in_the_tail_wherever_that_fails() {
    after_each_failed_checkpoint(async |engine, what| {
        engine.checkpoint(&name("docs")).await.unwrap();
        assert_eq!(tail_rows(engine), 0, "{what}");
        let newest = engine.newest(&name("docs")).await.unwrap();
        assert_eq!(newest.segments.iter().map(|segment| segment.rows).sum::<u32>(), 101, "{what}");
        assert_eq!(look(engine).len(), 101, "{what}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_carried_elsewhere_after_a_checkpoint_has_every_write_wherever_that_fails() {
    after_each_failed_checkpoint(async |engine, what| {
        let settled = engine.settled(&name("docs")).await.unwrap();
        assert_eq!(settled.segments.iter().map(|part| part.segment.rows()).sum::<u32>(), 101, "{what}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_that_is_damaged_before_it_is_named_costs_no_row() {
    let node = Node::new(1);
    let (disk, engine) = hooked(&node);
    put(&engine, "docs", 0..10, 1).await;
    let (runtime, writer, below) = (Handle::current(), engine.clone(), node.disk.clone());
    disk.before(move |operation, path| {
        let is_segment = path.to_string_lossy().contains("/segments/");
        if operation == "create" && path.extension().is_some() && is_segment {
            // Replaces a row that is on its way into the segment.
            runtime.block_on(put(&writer, "docs", [3], 2));
        }
        let is_mapped = operation == "map" && is_segment;
        if is_mapped {
            damage_ids(&below, path);
        }
        is_mapped
    });
    let failed = engine.checkpoint(&name("docs")).await.unwrap_err();
    assert_eq!(failed.kind(), Kind::Corrupt, "{failed}");
    let expected = look(&engine);
    assert_eq!((expected.len(), &expected[&DocId::Uint(3)]["n"]), (10, &json!(2)));
    assert_eq!(segments(&node.disk), Vec::<PathBuf>::new());
    put(&engine, "docs", [20], 1).await;
    engine.checkpoint(&name("docs")).await.unwrap();
    assert_eq!((look(&engine).len(), tail_rows(&engine)), (11, 0));
    assert_eq!(look(&node.cut_power(engine)).len(), 11);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_over_a_damaged_segment_is_refused_before_it_is_in_the_log_and_no_other_write_is() {
    let node = Node::new(2);
    let engine = node.open();
    put(&engine, "docs", 0..200, 1).await;
    engine.checkpoint(&name("docs")).await.unwrap();
    drop(node.cut_power(engine));
    let path = segments(&node.disk).pop().unwrap();
    damage_ids(&node.disk, &path);

    let engine = node.open();
    let writes = (100..500u64).map(|id| {
        let engine = engine.clone();
        tokio::spawn(async move {
            let body = json!({"upsert_rows": [{"id": id, "n": 2}]});
            (id, crate::write(&engine, "docs", body).await.map(drop))
        })
    });
    let mut accepted = BTreeSet::new();
    let mut refused = Vec::new();
    for write in writes.collect::<Vec<_>>() {
        match write.await.unwrap() {
            (id, Ok(())) => drop(accepted.insert(id)),
            (id, Err(error)) => {
                assert_eq!(error.kind(), Kind::Corrupt, "{id}: {error}");
                refused.push(id);
            }
        }
    }
    assert!((100..200).all(|id| !accepted.contains(&id)), "{accepted:?}");
    // A few others cannot be told from them without the ids. Whoever is refused is for what it writes, not for others.
    assert!(accepted.len() > 250, "only {} of 300 were accepted", accepted.len());
    for id in &refused {
        let again = crate::write(&engine, "docs", json!({"upsert_rows": [{"id": id, "n": 2}]})).await;
        assert!(again.is_err(), "{id} was refused for another write");
    }
    assert_eq!(tail_rows(&engine), accepted.len() as u64);

    // It opens all the same, and once the file is back all that was accepted is there and nothing else.
    let engine = node.cut_power(engine);
    assert_eq!(tail_rows(&engine), accepted.len() as u64);
    drop(node.cut_power(engine));
    damage_ids(&node.disk, &path);
    let found = look(&node.open());
    let twos = found.iter().filter(|(_, row)| row["n"] == json!(2)).map(|(id, _)| id.clone());
    assert_eq!(twos.collect::<Vec<_>>(), accepted.iter().map(|id| DocId::Uint(*id)).collect::<Vec<_>>());
    assert_eq!(found.len(), 200 + accepted.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waited_for_a_namespace_that_was_deleted_meanwhile_does_not_commit_to_its_next_life() {
    let node = Node::new(3);
    let (disk, engine) = hooked(&node);
    put(&engine, "docs", 0..10, 1).await;
    let (waits, is_held) = mpsc::channel();
    let (go_on, goes_on) = mpsc::channel();
    disk.before(move |operation, path| {
        let is_segment = operation == "create" && path.extension().is_some();
        if is_segment && path.to_string_lossy().contains("/segments/") {
            waits.send(()).unwrap();
            goes_on.recv().unwrap();
            return true;
        }
        false
    });
    let checkpoint = tokio::spawn({
        let engine = engine.clone();
        async move { engine.checkpoint(&name("docs")).await }
    });
    tokio::task::block_in_place(|| is_held.recv()).unwrap();
    let waiting = engine.clone();
    let mut acknowledged = Box::pin(async move { waiting.acknowledge(&name("docs"), None).await });
    // It comes as far as to wait for the turn that the checkpoint has.
    let waits = std::future::poll_fn(|cx| Poll::Ready(acknowledged.as_mut().poll(cx).is_pending())).await;
    assert!(waits);
    engine.delete(&name("docs")).await.unwrap();
    engine.undelete(&name("docs"), None).await.unwrap();
    let generation = engine.newest(&name("docs")).await.unwrap().generation;
    go_on.send(()).unwrap();
    let refused = acknowledged.await.map(drop).unwrap_err();
    assert_eq!(refused.kind(), Kind::NotFound, "{refused}");
    assert_eq!(checkpoint.await.unwrap().unwrap_err().kind(), Kind::NotFound);
    assert_eq!(engine.newest(&name("docs")).await.unwrap().generation, generation);
    assert_eq!(look(&node.cut_power(engine)).len(), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_nothing_because_of_another_commit_waits_until_that_is_durable() {
    let node = Node::new(6);
    let (disk, engine) = hooked(&node);
    put(&engine, "docs", 0..3, 1).await;
    let (waits, is_held) = mpsc::channel();
    let (go_on, goes_on) = mpsc::channel();
    disk.before(move |operation, path| {
        let is_log = operation == "barrier" && path.to_string_lossy().contains("/log/");
        if is_log {
            waits.send(()).unwrap();
            goes_on.recv().unwrap();
        }
        is_log
    });
    let send = |body: serde_json::Value| {
        let engine = engine.clone();
        Box::pin(async move { super::write(&engine, "docs", body).await.map(drop) })
    };
    let schema = json!({"late": {"type": "string"}});
    let first = tokio::spawn(send(json!({"deletes": [1], "schema": schema})));
    tokio::task::block_in_place(|| is_held.recv()).unwrap();
    let mut others: Vec<_> = [
        json!({"patch_rows": [{"id": 1, "n": 7}]}),
        json!({"deletes": [1], "delete_condition": ["n", "Eq", 1]}),
        json!({"upsert_rows": [{"id": 0, "n": 2}], "upsert_condition": ["n", "Gt", 1]}),
        json!({"schema": schema}),
    ]
    .map(send)
    .into();
    for (at, other) in others.iter_mut().enumerate() {
        let waits = std::future::poll_fn(|cx| Poll::Ready(other.as_mut().poll(cx).is_pending())).await;
        assert!(waits, "write {at} is answered before what it depends on is durable");
    }
    go_on.send(()).unwrap();
    first.await.unwrap().unwrap();
    for other in others {
        other.await.unwrap();
    }
    assert_eq!(look(&node.cut_power(engine)).len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tag_whose_file_cannot_be_read_is_there_all_the_same() {
    let node = Node::new(7);
    let engine = node.open();
    let docs = name("docs");
    put(&engine, "docs", 0..3, 1).await;
    let tagged = engine.tag(&docs, "then", None).await.unwrap();
    put(&engine, "docs", 0..3, 2).await;
    let file = files(&node.disk, Path::new("/data/local")).into_iter().find(|file| file.contains("/tags/then/"));
    node.disk.set_unreadable(Some(file.unwrap().into()));
    let at_tag = || engine.view_at(&docs, Some(&AsOf::Tag("then".into()))).err().map(|error| error.kind());
    assert!(at_tag().is_some_and(|kind| kind != Kind::NotFound), "{:?}", at_tag());
    assert!(engine.tags(&docs).is_err());
    assert!(engine.tag(&docs, "then", None).await.is_err());
    assert!(engine.untag(&docs, "then").await.is_err_and(|error| error.kind() != Kind::NotFound));
    engine.tag(&docs, "other", None).await.unwrap();
    node.disk.set_unreadable(None);
    assert_eq!(at_tag(), None);
    let there = engine.tags(&docs).unwrap();
    assert_eq!(there.iter().find(|tag| tag.name == "then"), Some(&tagged));
    for odd in ["../../x", "..", "a/b", ""] {
        assert_eq!(engine.untag(&docs, odd).await.unwrap_err().kind(), Kind::Invalid, "{odd}");
        assert!(engine.view_at(&docs, Some(&AsOf::Tag(odd.into()))).is_err(), "{odd}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_past_state_that_goes_while_it_is_tagged_gets_no_tag() {
    let mut node = Node::new(4);
    // Nothing but the tag comes to the hook: what it waits for must not wait for it.
    (node.config.compaction_fan_in, node.config.compaction_dead_percent) = (1_000, 1_000);
    let (disk, engine) = hooked(&node);
    for n in 0..3 {
        put(&engine, "docs", 0..10, n).await;
        engine.compact(&name("docs")).await.unwrap();
    }
    let oldest = engine.history(&name("docs")).unwrap().last().unwrap().generation;
    node.clock.advance(30 * DAY_MS);
    let (runtime, tending) = (Handle::current(), engine.clone());
    disk.before(move |_, path| {
        let is_tags = path.to_string_lossy().contains("/tags");
        if is_tags {
            runtime.block_on(tending.tend()).unwrap();
        }
        is_tags
    });
    let gone = engine.tag(&name("docs"), "then", Some(&AsOf::Generation(oldest))).await.unwrap_err();
    assert_eq!(gone.kind(), Kind::NotFound, "{gone}");
    assert_eq!(engine.tags(&name("docs")).unwrap(), []);
    let engine = node.cut_power(engine);
    assert_eq!(engine.check(3).unwrap().problems.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_past_states_held_goes_though_one_of_their_files_could_not_be_removed() {
    let (mut at, mut operations) = (0, 0);
    while at <= operations {
        let mut node = Node::new(at);
        (node.config.compaction_fan_in, node.config.compaction_dead_percent) = (1_000, 1_000);
        let engine = node.open();
        for n in 0..4 {
            put(&engine, "docs", 0..10, n).await;
            engine.compact(&name("docs")).await.unwrap();
        }
        node.clock.advance(30 * DAY_MS);
        let before = node.disk.operations();
        if at > 0 {
            node.disk.set_fault(Some(Fault { at: before + at - 1, forever: false, kind: ErrorKind::Other }));
        }
        let _ = engine.tend().await;
        if at == 0 {
            operations = node.disk.operations() - before;
        }
        node.disk.set_fault(None);
        engine.tend().await.unwrap();
        if !engine.is_index_trusted() {
            engine.rebuild_index().unwrap();
            engine.tend().await.unwrap();
        }
        // Objects that could not be removed are nobody's now.
        engine.sweep().unwrap();
        assert_eq!(
            (segments(&node.disk).len(), engine.history(&name("docs")).unwrap().len()),
            (1, 1),
            "operation {at}"
        );
        assert_eq!(look(&engine).len(), 10);
        at += 1;
    }
    assert!(operations > 20, "{operations} operations");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_tails_take_is_counted_exactly_while_they_are_written_and_flushed() {
    let mut node = Node::new(5);
    node.config.flush_bytes = 4_000;
    let engine = node.open();
    let writers = (0..8u64).map(|writer| {
        let engine = engine.clone();
        tokio::spawn(async move {
            for n in 0..150 {
                put(&engine, "docs", [writer * 1_000 + n % 20], n).await;
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    engine.checkpoint(&name("docs")).await.unwrap();
    assert_eq!((tail_rows(&engine), &engine.node_status()["tails_bytes"]), (0, &json!(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_cannot_be_read_keeps_nobody_else_from_reclaiming() {
    let node = Node::new(42);
    let engine = node.open();
    for to in ["docs", "other"] {
        put(&engine, to, [1], 1).await;
    }
    let nsid = engine.status(&name("docs")).unwrap()["nsid"].as_str().unwrap().to_owned();
    drop(engine);
    let is_its = |file: &String| file.starts_with(&format!("/data/log/{nsid}"));
    let log = files(&node.disk, Path::new("/data")).into_iter().find(is_its).unwrap();
    node.disk.set_unreadable(Some(log.into()));
    let engine = node.open();
    assert!(engine.is_index_trusted());
    assert!(engine.view(&name("docs")).is_err() && engine.view(&name("other")).is_ok());
    // Nothing of it was moved, so what is counted is right all the same.
    assert!(engine.is_index_trusted());
    node.disk.set_unreadable(None);
    let engine = node.cut_power(engine);
    assert_eq!(documents(&engine.view(&name("docs")).unwrap()).len(), 1);
}

/// Barriers that wait until they may go on.
struct Stall {
    count: Arc<AtomicU64>,
    is_over: Arc<(Mutex<bool>, Condvar)>,
}

impl Stall {
    /// From now on those of paths below `prefix`.
    fn of(disk: &HookDisk, prefix: &'static str) -> Self {
        let stall = Stall { count: Arc::default(), is_over: Arc::default() };
        let (count, is_over) = (stall.count.clone(), stall.is_over.clone());
        disk.each(move |operation, path| {
            if operation == "barrier" && path.starts_with(prefix) {
                count.fetch_add(1, Ordering::SeqCst);
                let over = is_over.0.lock().unwrap();
                drop(is_over.1.wait_while(over, |over| !*over).unwrap());
            }
        });
        stall
    }

    /// How many have come.
    fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    fn end(&self) {
        *self.is_over.0.lock().unwrap() = true;
        self.is_over.1.notify_all();
    }
}

/// As many barriers take long as there are threads: what needs no barrier waits for none of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn barriers_that_stall_leave_threads_for_everything_else() {
    let node = Node::new(43);
    let (disk, engine) = hooked(&node);
    for to in ["docs", "other", "third"] {
        put(&engine, to, 0..5, 1).await;
    }
    let stall = Stall::of(&disk, "/data/log");
    let writers = ["docs", "other", "third"].map(|to| {
        let engine = engine.clone();
        tokio::spawn(async move { put(&engine, to, 5..10, 2).await })
    });
    let began = Instant::now();
    while stall.count() < 3 && began.elapsed() < PATIENCE {
        let served = tokio::time::timeout(PATIENCE, tokio::spawn(async {})).await;
        assert!(served.is_ok(), "nothing is served while barriers stall");
    }
    stall.end();
    for writer in writers {
        writer.await.unwrap();
    }
    assert_eq!(stall.count(), 3, "some writer never came to its barrier");
}

/// A sweep that cannot read of whom a directory is takes it away where nothing is in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_is_sealed_though_the_directory_for_it_was_taken_away() {
    let node = Node::new(45);
    let engine = node.open();
    put(&engine, "docs", 0..10, 0).await;
    engine.checkpoint(&name("docs")).await.unwrap();
    put(&engine, "docs", 10..12, 1).await;
    let nsid = engine.status(&name("docs")).unwrap()["nsid"].as_str().unwrap().to_owned();
    let dir = format!("/data/store/default/default/namespaces/{nsid}/wal");
    node.disk.remove_dir(Path::new(&dir)).unwrap();
    engine.checkpoint(&name("docs")).await.unwrap();
    assert_eq!((look(&engine).len(), tail_rows(&engine)), (12, 0));
}

/// More of them than there are threads wait for the disk: queries of others go on meanwhile.
#[test]
fn changes_of_names_and_tags_that_stall_leave_threads_for_everything_else() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).max_blocking_threads(32).build().unwrap();
    let node = Node::new(44);
    let (disk, engine) = hooked(&node);
    let names = |what: &str| (0..40).map(|n| name(&format!("{what}{n}"))).collect::<Vec<_>>();
    runtime.block_on(async {
        put(&engine, "docs", 0..5, 1).await;
        for name in names("old") {
            engine.create(&name, CreateRequest::default()).await.unwrap();
        }
    });
    let stall = Stall::of(&disk, "/data/local");
    let mut changes = Vec::new();
    for (old, new) in names("old").into_iter().zip(names("new")) {
        let (tags, creates) = (engine.clone(), engine.clone());
        changes.push(runtime.spawn(async move { tags.tag(&old, "v1", None).await.map(drop) }));
        changes.push(runtime.spawn(async move { creates.create(&new, CreateRequest::default()).await.map(drop) }));
    }
    let began = Instant::now();
    while stall.count() == 0 && began.elapsed() < PATIENCE {
        std::thread::yield_now();
    }
    let (done, is_done) = mpsc::channel();
    for _ in 0..8 {
        let (done, engine) = (done.clone(), engine.clone());
        runtime.spawn(async move {
            let found = tokio::task::spawn_blocking(move || look(&engine).len()).await.unwrap();
            done.send(found).unwrap();
        });
    }
    let answers: Vec<_> = (0..8).map(|_| is_done.recv_timeout(PATIENCE)).collect();
    stall.end();
    runtime.block_on(async {
        for change in changes {
            change.await.unwrap().unwrap();
        }
    });
    assert_eq!(answers, vec![Ok(5); 8]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_base_of_a_merge_held_goes_though_putting_the_next_in_its_place_failed_at_any_operation() {
    let (mut after, mut is_through) = (0, false);
    while !is_through {
        let node = Node::new(after);
        let engine = node.open();
        put(&engine, "docs", 0..10, 0).await;
        branch(&engine, "docs", "work").await;
        let merge = async |n: u64| {
            put(&engine, "work", n..n + 5, n).await;
            engine.merge(&name("work"), &name("docs"), MergeRequest::default()).await.map(drop)
        };
        merge(1).await.unwrap();
        node.disk.take_happened();
        let mishap =
            Mishap { after, within: Some("/bases/".to_owned()), kind: MishapKind::FailsAfter(ErrorKind::Other) };
        node.disk.set_mishap(Some(mishap));
        let _ = merge(2).await;
        node.disk.set_mishap(None);
        is_through = node.disk.take_happened().is_empty();
        merge(3).await.unwrap();
        if !engine.is_index_trusted() {
            engine.rebuild_index().unwrap();
        }
        // Nothing is in the making when they are deleted: it would come to nothing, but later than this looks.
        for namespace in ["work", "docs"] {
            engine.compact(&name(namespace)).await.unwrap();
        }
        for namespace in ["work", "docs"] {
            engine.delete(&name(namespace)).await.unwrap();
        }
        node.clock.advance(60 * DAY_MS);
        for _ in 0..2 {
            engine.tend().await.unwrap();
        }
        assert_eq!(segments(&node.disk), Vec::<PathBuf>::new(), "operation {after}");
        assert_eq!(engine.repair().unwrap(), (0, 0), "operation {after}");
        after += 1;
    }
    assert!(after > 3, "{after} operations");
}
