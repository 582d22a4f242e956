//! Ids made here are given once: among namespaces, their copies and their next lives, across restarts, a lost index and
//! crashes at every operation of the disk.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use shoal::api::wire::write::{WriteBody, parse_write};
use shoal::engine::lineage::BranchRequest;
use shoal::engine::merge::MergeRequest;
use shoal::engine::merge::decide::Policy;
use shoal::engine::{Engine, EngineConfig};
use shoal::error::{Error, Kind, Result};
use shoal::format::manifest::{decode_manifest, encode_manifest};
use shoal::format::node::{BLOCKS, IdBlocks, decode_node, encode_node};
use shoal::model::ids::{DocId, NamespaceName, Project};
use shoal::platform::clock::ManualClock;
use shoal::platform::disk::{Disk, publish};
use shoal::platform::memory_disk::{Fault, MemoryDisk};
use shoal::platform::random::SeededRandom;

fn name(text: &str) -> NamespaceName {
    Project::default_project().namespace(text).unwrap()
}

struct Node {
    disk: MemoryDisk,
    random: Arc<SeededRandom>,
    engine: Option<Arc<Engine>>,
    given: BTreeSet<u64>,
    what: String,
}

impl Node {
    fn new(seed: u64) -> Self {
        Node {
            disk: MemoryDisk::default(),
            random: Arc::new(SeededRandom::new(seed)),
            engine: None,
            given: BTreeSet::new(),
            what: String::new(),
        }
    }

    fn engine(&mut self) -> Result<Arc<Engine>> {
        if self.engine.is_none() {
            let config = EngineConfig { flush_bytes: 1 << 30, ..EngineConfig::new("/data") };
            let disk: Arc<dyn Disk> = Arc::new(self.disk.mounted());
            let clock = Arc::new(ManualClock::at(1_700_000_000_000));
            let engine = Engine::open(config, disk, clock, self.random.clone())?;
            engine.rebuild_index()?;
            self.engine = Some(engine);
        }
        Ok(self.engine.clone().unwrap())
    }

    async fn write(&mut self, to: &str) -> Result<()> {
        let body = json!({"upsert_rows": [{"id": 1, "n": self.given.len(), "by": to}]});
        let WriteBody::Write(request) = parse_write(body).unwrap() else { panic!("expected a write") };
        self.engine()?.write(&name(to), *request).await.map(drop)
    }

    /// Takes ids and holds them against all that were ever given.
    async fn take(&mut self, from: &str, count: u32) -> Result<Vec<u64>> {
        let ids = self.engine()?.allocate_ids(&name(from), count).await?;
        assert_eq!(ids.len(), count as usize);
        let ids: Vec<u64> = ids.into_iter().map(integer).collect();
        for id in &ids {
            assert!((1 << 32..1 << 53).contains(id), "{id}");
            assert!(self.given.insert(*id), "{}: {id} of {from} was given before", self.what);
        }
        Ok(ids)
    }

    async fn stop(&mut self) -> Result<()> {
        let Some(engine) = self.engine.take() else { return Ok(()) };
        engine.shutdown().await
    }

    fn lose_index(&mut self) {
        self.engine = None;
        let _ = self.disk.remove(Path::new("/data/meta.redb"));
    }

    /// Rewrites the only manifest of a stopped node.
    fn edit_manifest(&self, edit: impl FnOnce(&mut shoal::format::manifest::Manifest)) {
        let local = Path::new("/data/local");
        let nsid = self.disk.list(local).unwrap().into_iter().find(|entry| entry.name != "names").unwrap();
        let dir = local.join(nsid.name);
        let path = dir.join(&self.disk.list(&dir).unwrap().into_iter().rfind(|entry| !entry.is_dir).unwrap().name);
        let (mut manifest, _) = decode_manifest(&self.disk.read(&path).unwrap(), "manifest").unwrap();
        edit(&mut manifest);
        publish(&self.disk, &path, &encode_manifest(&manifest).unwrap().0).unwrap();
    }
}

fn integer(id: DocId) -> u64 {
    let DocId::Uint(id) = id else { panic!("expected an integer, got {id}") };
    id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relatives_never_give_the_same_id_whatever_lies_between() {
    let mut node = Node::new(1);
    node.write("docs").await.unwrap();
    // Reserved in a log that the copies inherit, and before there is any.
    node.take("docs", 3).await.unwrap();
    for child in ["a", "b", "c"] {
        node.engine().unwrap().copy(&name("docs"), &name(child)).await.unwrap();
        node.take(child, 2).await.unwrap();
        node.take("docs", 2).await.unwrap();
    }
    node.engine().unwrap().copy(&name("a"), &name("aa")).await.unwrap();
    for turn in 0..4 {
        for namespace in ["docs", "a", "b", "c", "aa"] {
            node.take(namespace, 3).await.unwrap();
        }
        match turn {
            0 => node.stop().await.unwrap(),
            1 => {
                for namespace in ["docs", "a"] {
                    node.engine().unwrap().checkpoint(&name(namespace)).await.unwrap();
                }
                node.lose_index();
            }
            2 => {
                node.engine().unwrap().delete(&name("docs")).await.unwrap();
                node.write("docs").await.unwrap();
            }
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_that_a_merge_makes_are_given_to_nobody_else() {
    let mut node = Node::new(5);
    node.write("docs").await.unwrap();
    node.engine().unwrap().checkpoint(&name("docs")).await.unwrap();
    // A log with nothing but a reservation, which no flush makes superfluous.
    node.take("docs", 2).await.unwrap();
    node.engine().unwrap().checkpoint(&name("docs")).await.unwrap();
    node.engine().unwrap().branch(&name("docs"), &name("child"), BranchRequest::default()).await.unwrap();
    node.take("child", 2).await.unwrap();
    for _ in 0..3 {
        for namespace in ["child", "docs"] {
            node.write(namespace).await.unwrap();
        }
        let request = MergeRequest { policy: Policy::KeepBoth, ..MergeRequest::default() };
        let engine = node.engine().unwrap();
        engine.merge(&name("child"), &name("docs"), request).await.unwrap();
        for row in engine.view(&name("docs")).unwrap().segments.iter() {
            for at in 0..row.segment.rows() {
                if let DocId::Uint(id @ 0x1_0000_0000..) = row.segment.id_of(at).unwrap() {
                    node.given.insert(id);
                }
            }
        }
        assert!(node.given.len() > 4, "no document was kept beside the other");
        drop(engine);
        node.stop().await.unwrap();
        for namespace in ["docs", "child"] {
            node.take(namespace, 2).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_id_is_given_twice_whatever_operation_fails_and_whenever_the_power_goes() {
    let mut points = 0;
    for at in 0.. {
        let mut node = Node::new(at);
        node.what = format!("operation {at}");
        node.write("docs").await.unwrap();
        let kind = if at.is_multiple_of(2) { io::ErrorKind::Other } else { io::ErrorKind::StorageFull };
        let fault = Fault { at: node.disk.operations() + at, forever: at.is_multiple_of(3), kind };
        node.disk.set_fault(Some(fault));
        // Errors are the fault's; ids count where they were given.
        let _ = node.take("docs", 2).await;
        if let Ok(engine) = node.engine() {
            let _ = engine.copy(&name("docs"), &name("copy")).await;
        }
        let _ = node.take("copy", 2).await;
        let _ = node.take("docs", 2).await;
        let met = node.disk.operations() > fault.at;
        if at.is_multiple_of(5) {
            // The process lives on.
            node.disk.set_fault(None);
            let _ = node.take("docs", 2).await;
        }
        node.engine = None;
        node.disk.power_cut(&*node.random.clone());
        node.disk.set_fault(None);
        for namespace in ["docs", "copy"] {
            let gone = |error: &Error| error.kind() == Kind::NotFound;
            assert!(node.take(namespace, 2).await.map_or_else(|error| gone(&error), |_| true), "operation {at}");
        }
        points += 1;
        if !met {
            break;
        }
    }
    assert!(points > 30, "only {points} crash points");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_taken_at_the_same_time_are_all_different() {
    let mut node = Node::new(2);
    let names = ["a", "b", "c"];
    for namespace in names {
        node.write(namespace).await.unwrap();
    }
    let engine = node.engine().unwrap();
    let tasks: Vec<_> = (0..30)
        .map(|n| {
            let engine = engine.clone();
            tokio::spawn(async move { engine.allocate_ids(&name(names[n % 3]), 7).await.unwrap() })
        })
        .collect();
    let mut seen = BTreeSet::new();
    for task in tasks {
        seen.extend(task.await.unwrap().into_iter().map(integer));
    }
    assert_eq!(seen.len(), 210);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_whose_block_is_used_up_takes_another() {
    let mut node = Node::new(3);
    node.write("docs").await.unwrap();
    let first = node.take("docs", 1).await.unwrap()[0];
    node.engine().unwrap().checkpoint(&name("docs")).await.unwrap();
    node.stop().await.unwrap();
    node.edit_manifest(|manifest| manifest.ids_reserved = (first >> 32 << 32) + (1 << 32) - 2);
    node.lose_index();
    let ids = node.take("docs", 5).await.unwrap();
    let blocks: Vec<u64> = ids.iter().map(|id| id >> 32).collect();
    assert_eq!(blocks, [vec![first >> 32; 2], vec![(first >> 32) % u64::from(BLOCKS) + 1; 3]].concat());
    assert_eq!(ids[1] & 0xffff_ffff, 0xffff_ffff);
    node.lose_index();
    let next = node.take("docs", 1).await.unwrap()[0];
    assert_eq!(next, ids[4] + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_blocks_are_all_given_out_says_so() {
    let mut node = Node::new(4);
    for namespace in ["docs", "more"] {
        node.write(namespace).await.unwrap();
    }
    node.stop().await.unwrap();
    let path = PathBuf::from("/data/node.json");
    let mut file = decode_node(&node.disk.read(&path).unwrap(), "node.json").unwrap();
    file.id_blocks = Some(IdBlocks { first: 2, taken: BLOCKS - 1 });
    publish(&node.disk, &path, &encode_node(&file).unwrap()).unwrap();
    let last = node.take("docs", 1).await.unwrap()[0];
    assert_eq!(last >> 32, 1, "on from block 1 after the last");
    let error = node.take("more", 1).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (Kind::Invalid, "ids_used_up"));
    // Writes go on, and so do ids of blocks that are not used up.
    node.write("more").await.unwrap();
    node.take("docs", 1).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_that_hold_nothing_but_reservations_are_told_apart() {
    for seed in 0..8 {
        let mut node = Node::new(seed);
        node.write("docs").await.unwrap();
        let mut last = node.take("docs", 1).await.unwrap()[0];
        for turn in 0..6 {
            match turn % 3 {
                0 => node.stop().await.unwrap(),
                1 => node.lose_index(),
                // A log that nothing was written to.
                _ => {
                    node.disk.set_fault(None);
                    node.engine = None;
                    node.disk.power_cut(&*node.random.clone());
                }
            }
            let ids = node.take("docs", 2).await.unwrap();
            assert_eq!(ids, [last + 1, last + 2], "seed {seed}, turn {turn}");
            last = ids[1];
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_without_records_counts_once_and_is_in_no_merges_way() {
    let mut node = Node::new(6);
    node.write("docs").await.unwrap();
    let counted = |node: &mut Node| node.engine().unwrap().status(&name("docs")).unwrap()["data_seq"].clone();
    node.engine().unwrap().branch(&name("docs"), &name("child"), BranchRequest::default()).await.unwrap();
    node.engine().unwrap().checkpoint(&name("docs")).await.unwrap();
    // A column and no document: a commit that no number of a record tells from the flushed ones.
    let WriteBody::Write(request) = parse_write(json!({"patch_rows": [{"id": 9, "new": 1}]})).unwrap() else {
        panic!("expected a write")
    };
    node.engine().unwrap().write(&name("docs"), *request).await.unwrap();
    let expected = counted(&mut node);
    for _ in 0..2 {
        node.stop().await.unwrap();
        assert_eq!(counted(&mut node), expected);
        node.engine().unwrap().checkpoint(&name("docs")).await.unwrap();
    }
    node.write("child").await.unwrap();
    let report = node.engine().unwrap().merge(&name("child"), &name("docs"), MergeRequest::default()).await.unwrap();
    assert!(report.commit.is_some(), "{report:?}");
}
