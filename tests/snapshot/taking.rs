//! A disk that fails or loses power while a snapshot is taken leaves the file that was there, or the whole new one, and
//! the namespace as it was.

use std::io;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;
use shoal::engine::Engine;
use shoal::error::Result;
use shoal::model::as_of::AsOf;
use shoal::platform::disk::{Disk, create_dirs};
use shoal::platform::memory_disk::{Fault, MemoryDisk};
use shoal::platform::random::SeededRandom;
use shoal::snapshot::file::{Kept, keep};
use shoal::snapshot::take::{Extent, take};

use super::faults::EVERY_END;
use super::node::{Node, contents, few, files, fill_few, name, restored, row, snapshot, swept, write};

const FILE: &str = "/backups/docs.snapshot";

/// What the directory of backups holds, by name.
fn listed(disk: &MemoryDisk) -> Vec<String> {
    disk.list(Path::new("/backups")).unwrap().into_iter().map(|entry| entry.name).collect()
}

async fn kept(engine: &Arc<Engine>, disk: &MemoryDisk, extent: &Extent) -> Result<Kept> {
    let taken = take(engine, &name("docs"), extent).await?;
    keep(Arc::new(disk.clone()), Path::new(FILE), |out| taken.write(out).map(drop))
}

/// A namespace with a commit that increments can go on from, and writes since then.
async fn filled(engine: &Arc<Engine>) -> Extent {
    fill_few(engine, "docs").await;
    engine.checkpoint(&name("docs")).await.unwrap();
    let commit = engine.moment_at(&name("docs"), None).await.unwrap().manifest.commit_id;
    write(engine, "docs", few(12, 24)).await;
    write(engine, "docs", json!({"deletes": [row(0)["id"], row(21)["id"]]})).await;
    Extent::Since(AsOf::Commit(commit))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_target_that_fails_at_any_operation_has_the_file_of_before_or_the_whole_and_no_other() {
    let node = Node::new(51);
    let engine = node.open().unwrap();
    let since = filled(&engine).await;
    let expected = contents(&engine, &name("docs")).await.unwrap();
    // Makes the checkpoint that all of them are of.
    take(&engine, &name("docs"), &Extent::Full).await.unwrap();
    for extent in [Extent::Full, Extent::Flattened, since] {
        for (earlier, forever) in [(None, false), (None, true), (Some(b"earlier"), false), (Some(b"earlier"), true)] {
            let mut points = 0;
            for at in 0.. {
                let target = MemoryDisk::default();
                create_dirs(&target, Path::new("/backups")).unwrap();
                if let Some(bytes) = earlier {
                    shoal::platform::disk::publish(&target, Path::new(FILE), bytes).unwrap();
                }
                let before = files(&node.disk, Path::new("/data/store"));
                let kind = if at % 2 == 0 { io::ErrorKind::StorageFull } else { io::ErrorKind::Other };
                let fault = Fault { at: target.operations() + at, forever, kind };
                target.set_fault(Some(fault));
                let done = kept(&engine, &target, &extent).await;
                let is_hit = target.operations() > fault.at;
                target.set_fault(None);
                let what = format!("{extent:?}, {fault:?}, operation {at}: {done:?}");
                for is_cut in [false, true] {
                    if is_cut {
                        target.power_cut(&SeededRandom::new(at));
                    }
                    let found = target.read(Path::new(FILE)).ok();
                    let is_whole = found.as_deref() != earlier.map(|bytes| bytes.as_slice());
                    assert!(is_whole || done.is_err(), "{what}: it was acknowledged and is gone, cut: {is_cut}");
                    if let Some(bytes) = found.filter(|_| is_whole) {
                        check_whole(bytes, &what);
                    }
                    if !is_cut && !forever {
                        let there = if is_whole || earlier.is_some() { 1 } else { 0 };
                        assert_eq!(listed(&target).len(), there, "{what}: {:?}", listed(&target));
                    }
                }
                // Nothing of it is on the node.
                assert_eq!(files(&node.disk, Path::new("/data/store")), before, "{what}");
                let again = kept(&engine, &target, &extent).await.unwrap();
                let bytes = target.read(Path::new(FILE)).unwrap();
                assert_eq!((bytes.len() as u64, listed(&target).len()), (again.bytes, 1), "{what}");
                check_whole(bytes, &what);
                points += 1;
                if !is_hit {
                    break;
                }
            }
            assert!(points > 5, "only {points} operations");
        }
    }
    assert_eq!(contents(&engine, &name("docs")).await.unwrap(), expected);
    assert!(tokio::task::block_in_place(|| engine.check(4)).unwrap().is_whole());
}

/// Every byte of it is under a checksum that is right.
fn check_whole(bytes: Vec<u8>, what: &str) {
    let mut reader = shoal::format::snapshot::SnapshotReader::open(bytes.as_slice(), "snapshot")
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    while reader.next_member().is_some() {
        reader.copy_object(&mut io::sink()).unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    reader.finish().unwrap_or_else(|error| panic!("{what}: {error}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_disk_fails_while_a_snapshot_is_taken_keeps_everything_and_gives_it_later() {
    for (turn, then) in EVERY_END.into_iter().enumerate() {
        let is_increment = turn % 2 == 1;
        let mut points = 0;
        for at in 0.. {
            let node = Node::new(200 + at);
            let engine = node.open().unwrap();
            let since = filled(&engine).await;
            let extent = if is_increment { since } else { Extent::Full };
            let expected = contents(&engine, &name("docs")).await.unwrap();
            let kind = if at % 2 == 0 { io::ErrorKind::StorageFull } else { io::ErrorKind::Other };
            let fault = Fault { at: node.disk.operations() + at, forever: at % 3 == 0, kind };
            node.disk.set_fault(Some(fault));
            let done = snapshot(&engine, "docs", extent.clone()).await.map(drop);
            let is_hit = node.disk.operations() > fault.at;
            node.disk.set_fault(None);
            let what = format!("increment: {is_increment}, {fault:?}, operation {at}, then {then:?}: {done:?}");
            assert_eq!(contents(&engine, &name("docs")).await.unwrap(), expected, "{what}");
            let engine = then.reach(&node, engine).await;
            for _ in 0..2 {
                assert_eq!(contents(&engine, &name("docs")).await.unwrap(), expected, "{what}");
                let report = swept(&engine).await;
                assert!(report.is_whole() && report.orphans == 0, "{what}: {report:?}");
                let again = snapshot(&engine, "docs", extent.clone()).await;
                let again = again.unwrap_or_else(|error| panic!("{what}: repeated: {error}"));
                if !is_increment {
                    let there = Node::new(300);
                    let other = there.open().unwrap();
                    restored(&other, "docs", &again).await.unwrap();
                    assert_eq!(contents(&other, &name("docs")).await.unwrap(), expected, "{what}");
                }
            }
            points += 1;
            if !is_hit {
                break;
            }
        }
        assert!(points > 20, "only {points} operations");
    }
}
