//! Flushes and merges that fail: what is refused meanwhile and how, how often they are tried again, what they leave behind.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use serde_json::{Value as Json, json};
use shoal::api::wire::query::parse_query;
use shoal::api::wire::write::{WriteBody, parse_write};
use shoal::engine::check::{RepairRequest, Scope};
use shoal::engine::lineage::BranchRequest;
use shoal::engine::{CreateRequest, Engine, EngineConfig};
use shoal::error::{Error, Kind, Result};
use shoal::model::ids::{NamespaceName, Project};
use shoal::model::query::Answer;
use shoal::platform::clock::ManualClock;
use shoal::platform::disk::Disk;
use shoal::platform::memory_disk::MemoryDisk;
use shoal::platform::random::SeededRandom;

use crate::failing_disk::FailingDisk;

pub struct Node {
    pub disk: FailingDisk,
    clock: Arc<ManualClock>,
    pub engine: Arc<Engine>,
}

impl Node {
    pub fn new(config: EngineConfig) -> Self {
        let (disk, clock) = (FailingDisk::new(MemoryDisk::default()), Arc::new(ManualClock::at(1_700_000_000_000)));
        let random = Arc::new(SeededRandom::new(1));
        let engine = Engine::open(config, Arc::new(disk.clone()), clock.clone(), random).unwrap();
        engine.rebuild_index().unwrap();
        Node { disk, clock, engine }
    }

    /// Writes a row of about 16 KB that packs badly.
    pub async fn write(&self, namespace: &str, id: u64) -> Result<()> {
        self.write_row(namespace, id, false).await
    }

    async fn write_row(&self, namespace: &str, id: u64, disable_backpressure: bool) -> Result<()> {
        let filling: String =
            (0..900_u64).map(|n| format!("{:x} ", (id * 900 + n).wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
        let body = json!({"upsert_rows": [{"id": id, "filling": filling}],
            "schema": {"filling": {"type": "string", "filterable": false}}});
        let WriteBody::Write(mut request) = parse_write(body).unwrap() else { panic!("expected a write") };
        request.body_bytes = 16 << 10;
        request.disable_backpressure = disable_backpressure;
        self.engine.write(&name(namespace), *request).await.map(drop)
    }

    pub fn count(&self, namespace: &str) -> usize {
        let body = json!({"rank_by": ["id", "asc"], "limit": 10_000});
        let request = parse_query(body).unwrap().request;
        let Answer::Rows(rows) = self.engine.query(&name(namespace), &request).unwrap().answers.remove(0) else {
            panic!("expected rows")
        };
        rows.len()
    }

    pub fn tail_bytes(&self, namespace: &str) -> u64 {
        self.engine.status(&name(namespace)).unwrap()["tail"]["bytes"].as_u64().unwrap()
    }

    fn warnings(&self) -> Vec<String> {
        let status = self.engine.node_status();
        let warnings = status["warnings"].as_array().unwrap().iter();
        warnings.map(|warning| warning["code"].as_str().unwrap().to_owned()).collect()
    }

    /// Files of segments, unfinished ones included, and their bytes.
    pub fn segments(&self) -> (usize, u64) {
        let (mut open, mut found) = (vec![Path::new("/data/store").to_owned()], (0, 0));
        while let Some(dir) = open.pop() {
            for entry in self.disk.list(&dir).unwrap() {
                let path = dir.join(&entry.name);
                if entry.is_dir {
                    open.push(path);
                } else if path.to_string_lossy().contains("/segments/") {
                    found = (found.0 + 1, found.1 + entry.len);
                }
            }
        }
        found
    }

    /// Five minutes in which the node tries again what failed, and a client writes every second. Gives the refusals.
    async fn five_minutes(&self, namespace: &str, next: &mut u64, written: &mut usize) -> Vec<Error> {
        let mut refusals = Vec::new();
        for _ in 0..300 {
            self.clock.advance(1_000);
            self.engine.try_again().await;
            *next += 1;
            match self.write(namespace, *next).await {
                Ok(()) => *written += 1,
                Err(error) => refusals.push(error),
            }
        }
        refusals
    }
}

pub fn name(text: &str) -> NamespaceName {
    Project::default_project().namespace(text).unwrap()
}

pub fn config() -> EngineConfig {
    EngineConfig { flush_bytes: 256 << 10, tail_bytes_max: 512 << 10, ..EngineConfig::new("/data") }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_without_room_for_a_segment_is_called_full_and_little_is_written_until_there_is_room() {
    let node = Node::new(config());
    node.write("docs", 0).await.unwrap();
    node.disk.disk.leave_free(Some(1_500 << 10));
    let (mut next, mut written) = (0, 1);
    let refusal = loop {
        next += 1;
        assert!(next < 1_000, "the tail has no end");
        match node.write("docs", next).await {
            Ok(()) => written += 1,
            Err(error) => break error,
        }
    };
    assert_eq!((refusal.kind(), refusal.code()), (Kind::Unavailable, "disk_full"), "{refusal}");
    assert!(refusal.hint().is_some_and(|hint| hint.contains("free space")), "{refusal}");
    assert_eq!(node.warnings(), ["disk_full"]);
    assert_eq!(node.engine.warning_codes(), ["disk_full"]);
    let before = node.disk.disk.written_bytes();
    let data = 16 * 1_024 * written as u64;
    let refusals = node.five_minutes("docs", &mut next, &mut written).await;
    assert!(refusals.len() >= 250, "{}", refusals.len());
    for refusal in &refusals {
        assert_eq!((refusal.kind(), refusal.code()), (Kind::Unavailable, "disk_full"), "{refusal}");
    }
    let since = node.disk.disk.written_bytes() - before;
    assert!(since <= 2 * data, "{since} bytes written in five minutes for {data} bytes of data");
    assert_eq!(node.count("docs"), written, "reads are served");
    assert!(node.engine.is_ready());
    // Whoever asks for it is told the same, and nothing is written.
    let before = node.disk.disk.written_bytes();
    let asked = node.engine.checkpoint(&name("docs")).await.unwrap_err();
    assert_eq!((asked.kind(), asked.code()), (Kind::Unavailable, "disk_full"), "{asked}");
    assert!(node.disk.disk.written_bytes() - before < 64 << 10);
    // Room is used without a wait.
    node.disk.disk.leave_free(None);
    node.engine.try_again().await;
    assert_eq!(node.warnings(), Vec::<String>::new());
    next += 1;
    node.write("docs", next).await.unwrap();
    assert_eq!(node.count("docs"), written + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_that_fills_the_disk_leaves_no_part_of_it_and_is_not_begun_again_without_more_room() {
    let node = Node::new(EngineConfig { flush_bytes: 1 << 30, tail_bytes_max: 1 << 30, ..config() });
    // Small numbers take more in indexes than they count for.
    let rows = |batch: u64| (batch * 20_000..(batch + 1) * 20_000).collect::<Vec<u64>>();
    let numbers = |batch: u64, by: u64| rows(batch).iter().map(|n| n.wrapping_mul(by)).collect::<Vec<u64>>();
    for batch in 0..3 {
        let (a, b) = (numbers(batch, 0x9e37_79b9_7f4a_7c15), numbers(batch, 0xbf58_476d_1ce4_e5b9));
        let body = json!({"upsert_columns": {"id": rows(batch), "a": a, "b": b},
            "schema": {"a": {"type": "uint"}, "b": {"type": "uint"}}});
        let WriteBody::Write(request) = parse_write(body).unwrap() else { panic!("expected a write") };
        node.engine.write(&name("docs"), *request).await.unwrap();
    }
    let logical: u64 = 3 * 20_000 * 24;
    node.disk.disk.leave_free(Some(logical + (1 << 20) + (64 << 10)));
    let mut written = Vec::new();
    for _ in 0..10 {
        let before = node.disk.disk.written_bytes();
        let full = node.engine.checkpoint(&name("docs")).await.unwrap_err();
        assert_eq!((full.kind(), full.code()), (Kind::Unavailable, "disk_full"), "{full}");
        written.push(node.disk.disk.written_bytes() - before);
        assert_eq!(node.segments(), (0, 0));
    }
    assert!(written[0] > 1 << 20 && written[1..].iter().all(|bytes| *bytes < 64 << 10), "{written:?}");
    node.disk.disk.leave_free(Some(16 << 20));
    node.engine.try_again().await;
    assert_eq!((node.tail_bytes("docs"), node.segments().0, node.warnings().len()), (0, 1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_that_cannot_be_opened_is_removed_and_built_again_after_longer_and_longer_waits() {
    let node = Node::new(config());
    node.write("docs", 0).await.unwrap();
    node.disk.fail(Some(("map", "/segments/", ErrorKind::OutOfMemory)));
    // One row is frozen: a flush beside the writes that begin it may come so late that it freezes all that there is room for.
    assert_eq!(node.engine.checkpoint(&name("docs")).await.unwrap_err().code(), "out_of_memory");
    let (mut next, mut written) = (0, 1);
    let refusals = node.five_minutes("docs", &mut next, &mut written).await;
    assert!(refusals.len() >= 200, "{}", refusals.len());
    for refusal in &refusals {
        assert_eq!((refusal.kind(), refusal.code()), (Kind::Unavailable, "out_of_memory"), "{refusal}");
    }
    // 1, 2, 4, 8, 16, 32 and then 60 seconds apart.
    assert!((5..=12).contains(&node.disk.failed()), "{} tries in five minutes", node.disk.failed());
    assert_eq!((node.segments(), node.warnings()), ((0, 0), vec!["out_of_memory".to_owned()]));
    assert_eq!(node.count("docs"), written);
    // Waits for one that the last write may have begun.
    assert_eq!(node.engine.checkpoint(&name("docs")).await.unwrap_err().code(), "out_of_memory");
    node.disk.fail(None);
    node.clock.advance(60_000);
    node.engine.try_again().await;
    // One of what was frozen when it failed first, and one of what was written since.
    assert_eq!((node.segments().0, node.warnings().len()), (2, 0));
    node.write("docs", 100_000).await.unwrap();
    assert_eq!(node.count("docs"), written + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merged_segment_that_cannot_be_opened_or_named_is_removed() {
    let node = Node::new(EngineConfig { flush_bytes: 1 << 30, tail_bytes_max: 1 << 30, ..config() });
    for id in 0..3 {
        node.write("docs", id).await.unwrap();
        node.engine.checkpoint(&name("docs")).await.unwrap();
    }
    for failing in [("map", "/segments/", ErrorKind::OutOfMemory), ("rename", "/00000", ErrorKind::Other)] {
        let before = node.segments();
        assert_eq!(before.0, 3);
        node.disk.fail(Some(failing));
        for _ in 0..3 {
            node.engine.compact(&name("docs")).await.unwrap_err();
            assert_eq!(node.segments(), before, "{failing:?}");
        }
        node.disk.fail(None);
    }
    node.engine.compact(&name("docs")).await.unwrap();
    assert_eq!(node.count("docs"), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_flush_or_a_merge_of_branches_built_goes_where_its_manifest_cannot_be_written() {
    let node = Node::new(EngineConfig { flush_bytes: 1 << 30, tail_bytes_max: 1 << 30, ..config() });
    for id in 0..3 {
        node.write("docs", id).await.unwrap();
    }
    node.engine.checkpoint(&name("docs")).await.unwrap();
    node.engine.branch(&name("docs"), &name("side"), Default::default()).await.unwrap();
    node.write("side", 7).await.unwrap();
    node.engine.checkpoint(&name("side")).await.unwrap();
    node.write("docs", 8).await.unwrap();
    let before = node.segments();
    node.disk.fail(Some(("rename", "/00000", ErrorKind::Other)));
    for _ in 0..3 {
        node.engine.checkpoint(&name("docs")).await.unwrap_err();
        assert_eq!(node.segments(), before);
        node.engine.merge(&name("side"), &name("docs"), Default::default()).await.unwrap_err();
        assert_eq!(node.segments(), before);
    }
    node.disk.fail(None);
    node.engine.checkpoint(&name("docs")).await.unwrap();
    node.engine.merge(&name("side"), &name("docs"), Default::default()).await.unwrap();
    assert_eq!(node.count("docs"), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_meets_the_bound_of_all_tails_makes_room_by_the_largest_of_the_node() {
    let (flush_bytes, tail_bytes_max) = (64 << 20, 64 << 20);
    let node = Node::new(EngineConfig { flush_bytes, tail_bytes_max, tails_bytes_max: 1 << 20, ..config() });
    for n in 0..20 {
        node.write(&format!("small-{n}"), 1).await.unwrap();
    }
    let mut id = 0;
    while node.engine.node_status()["tails_bytes"].as_u64().unwrap() <= 1 << 20 {
        id += 1;
        node.write("large", id).await.unwrap();
    }
    let large = node.tail_bytes("large");
    node.write("another", 1).await.unwrap();
    assert!(node.tail_bytes("large") < large, "the largest tail became a segment");
    assert!(node.tail_bytes("small-0") > 0, "the others are left as they are");
    assert_eq!((node.count("large") as u64, node.count("another")), (id, 1));
    assert_eq!(json!(node.warnings()), Json::Array(Vec::new()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_of_every_byte_and_a_repair_hold_no_segment_in_memory() {
    let node = Node::new(config());
    for id in 0..3 {
        node.write("docs", id).await.unwrap();
        node.engine.checkpoint(&name("docs")).await.unwrap();
    }
    // A segment that is read whole is not read at all.
    node.disk.fail(Some(("read", "/segments/", ErrorKind::OutOfMemory)));
    let report = node.engine.check(4).unwrap();
    assert!(report.is_whole() && report.documents == 3, "{report:?}");
    for dry_run in [true, false] {
        let request = RepairRequest { scope: Scope::Store, dry_run, drop_damaged: None, force: false };
        let report = node.engine.repair_in(&request).unwrap();
        assert!(report.remaining.is_empty(), "{report:?}");
    }
    assert_eq!(node.disk.failed(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_does_not_wait_is_refused_at_twice_its_own_bounds_and_at_the_one_of_all() {
    let (flush_bytes, row) = (1 << 30, 64 << 10);
    // The namespace's tail, all tails, the log.
    for bounds in [(512 << 10, 1 << 30, 1 << 30), (1 << 30, 512 << 10, 1 << 30), (1 << 30, 1 << 30, 256 << 10)] {
        let (tail_bytes_max, tails_bytes_max, log_bytes_max) = bounds;
        let node =
            Node::new(EngineConfig { flush_bytes, tail_bytes_max, tails_bytes_max, log_bytes_max, ..config() });
        // Nothing becomes a segment, so nothing makes room meanwhile; a full disk is no namespace's own.
        node.disk.fail(Some(("create", "/segments/", ErrorKind::StorageFull)));
        let (mut id, mut refused) = (0, None);
        while refused.is_none() {
            id += 1;
            assert!(id < 500, "the tail has no end: {bounds:?}");
            // The log has them all, the tail the newest of each.
            let written = if log_bytes_max < 1 << 30 { id % 4 } else { id };
            refused = node.write_row("docs", written, true).await.err();
        }
        let refused = refused.unwrap();
        assert!(matches!(refused.kind(), Kind::Busy | Kind::Unavailable), "{refused}");
        let tail = node.tail_bytes("docs");
        if log_bytes_max == 1 << 30 {
            // What others wait for is not taken from them by who does not.
            let most = if tails_bytes_max < 1 << 30 { tails_bytes_max } else { 2 * tail_bytes_max };
            assert!(tail > most && tail <= most + row, "{tail} bytes in the tail, {bounds:?}");
        } else {
            // Each takes 16 KB of it.
            assert!((60..=80).contains(&id), "{id} writes in the log");
        }
        node.disk.fail(None);
        node.engine.checkpoint(&name("docs")).await.unwrap();
        node.write_row("docs", 1_000, true).await.unwrap();
    }
    // It is refused at once where others wait, as what makes room goes on beside it.
    let node = Node::new(EngineConfig { flush_bytes, ..config() });
    let mut id = 0;
    let refused = loop {
        id += 1;
        assert!(id < 500, "the tail has no end");
        if let Err(refused) = node.write_row("docs", id, true).await {
            break refused;
        }
    };
    assert_eq!(refused.kind(), Kind::Busy, "{refused}");
    assert!(refused.message().contains("at most 1048576 and 50331648 may"), "{refused}");
    node.write("docs", 1_000).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_whose_flushes_fail_costs_itself_only() {
    let (flush_bytes, bounds) = (64 << 10, 1 << 20);
    let (tail_bytes_max, tails_bytes_max) = (bounds, bounds);
    let node = Node::new(EngineConfig { flush_bytes, tail_bytes_max, tails_bytes_max, ..config() });
    node.write("well", 0).await.unwrap();
    node.write("broken", 0).await.unwrap();
    let nsid = node.engine.moment_at(&name("broken"), None).await.unwrap().manifest.nsid;
    let segments: &'static str = Box::leak(format!("/{nsid}/segments/").into_boxed_str());
    node.disk.fail(Some(("create", segments, ErrorKind::Other)));
    let (mut written, mut last) = (1, None);
    for id in 1..200 {
        match node.write("broken", id).await {
            Ok(()) => written += 1,
            Err(error) => last = Some(error),
        }
        node.write("well", id).await.unwrap();
    }
    let refused = last.unwrap();
    assert_eq!((refused.kind(), refused.code()), (Kind::Unavailable, "flush_failed"), "{refused}");
    assert!(refused.message().contains("/broken wait for a place in a segment"), "{refused}");
    assert_eq!((node.count("broken"), node.count("well")), (written, 200));
    assert_eq!(node.warnings(), ["flush_failed"]);
    // One that became large before it was known to fail leaves room, too.
    node.disk.fail(None);
    node.clock.advance(60_000);
    node.engine.try_again().await;
    node.write("broken", 1_000).await.unwrap();
    assert_eq!(node.warnings(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_full_is_called_so_whatever_met_it() {
    let labels = || [("a".to_owned(), "b".to_owned())].into();
    for what in ["a namespace", "a branch", "a tag", "labels", "a first write"] {
        let node = Node::new(config());
        node.write("docs", 0).await.unwrap();
        node.engine.checkpoint(&name("docs")).await.unwrap();
        let ask = || async {
            let (engine, docs, other) = (&node.engine, name("docs"), name("other"));
            match what {
                "a namespace" => engine.create(&other, CreateRequest::default()).await.map(drop),
                "a branch" => engine.branch(&docs, &other, BranchRequest::default()).await,
                "a tag" => engine.tag(&docs, "then", None).await.map(drop),
                "labels" => engine.set_labels(&docs, labels()).await,
                _ => node.write("other", 0).await,
            }
        };
        node.disk.disk.leave_free(Some(0));
        let refusal = ask().await.unwrap_err();
        assert_eq!((refusal.kind(), refusal.code()), (Kind::Unavailable, "disk_full"), "{what}: {refusal}");
        assert_eq!(node.warnings(), ["disk_full"], "{what}");
        node.engine.try_again().await;
        assert_eq!(node.warnings(), ["disk_full"], "{what}, while it is full");
        node.disk.disk.leave_free(None);
        node.engine.try_again().await;
        assert_eq!(node.warnings(), Vec::<String>::new(), "{what}, with room");
        ask().await.unwrap();
    }
}
