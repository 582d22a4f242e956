//! A bucket without room: it is said to be full, not written to over and over, and goes on when there is room.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use shoal::engine::merge::decide::Policy;
use shoal::error::{Error, Kind, Result};
use shoal::platform::random::{Random, SeededRandom};
use shoal::store::{Bucket, BucketConfig, Patience, Source, probe};
use shoal::sync::{Selection, Sync, SyncOptions};

use crate::fleet::{fresh, options};
use crate::machine::{Mounted, skipped};
use crate::node::{Node, all, name, put, write};
use crate::odd_store::OddStore;
use crate::upkeep::reclaim;

/// Longer than any file system.
struct Huge(Arc<AtomicU64>);

impl Source for Huge {
    fn size(&self) -> u64 {
        1 << 60
    }

    fn read(&self, _: Range<u64>) -> Result<Bytes> {
        self.0.fetch_add(1, SeqCst);
        Err(Error::internal("nothing is there to be read"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written_into_a_directory_that_has_no_room_for_it() {
    let (dir, node) = (tempfile::tempdir().unwrap(), Node::new(1));
    let config = BucketConfig { url: format!("file://{}", dir.path().display()), ..BucketConfig::default() };
    let bucket = Bucket::open(&config, node.clock.clone(), node.random.clone()).unwrap();
    let reads = Arc::new(AtomicU64::new(0));
    let error = bucket.upload("a/b", Arc::new(Huge(reads.clone())), None, &Patience::ASKED).await.unwrap_err();
    assert_eq!((error.kind(), error.code()), (Kind::Unavailable, "bucket_full"), "{error}");
    assert!(error.message().contains("are free") && error.hint().is_some(), "{error}");
    assert_eq!((reads.load(SeqCst), std::fs::read_dir(dir.path()).unwrap().count()), (0, 0));
    bucket.put("a/c", Bytes::from_static(b"1"), &Patience::ASKED).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_finds_no_room_is_written_twice_at_most_in_five_minutes_and_once_more_when_there_is_room() {
    let (store, node) = (Arc::new(OddStore::default()), Node::new(1));
    let (bucket, engine) = (store.bucket(&node), node.open());
    let patience = Patience {
        whole: Duration::from_millis(300),
        wait_first: Duration::from_millis(10),
        wait_max: Duration::from_millis(50),
        ..Patience::ASKED
    };
    let options = SyncOptions { policy: Policy::Lww, patience };
    let link = Sync::new(engine.clone(), bucket.clone(), options, node.clock.clone());
    put(&engine, "docs", 0..10, 1).await;
    link.run().await.unwrap();
    let random = SeededRandom::new(1);
    let text: String = (0..20_000).map(|_| format!("{:016x}", random.next_u64())).collect();
    write(&engine, "docs", json!({"upsert_rows": [{"id": 20, "text": text}]})).await;
    store.room.store(50_000, SeqCst);
    for _ in 0..30 {
        let failed = link.run_for(&Selection::default().unasked()).await.failed.unwrap();
        assert_eq!((failed.kind(), failed.code()), (Kind::Unavailable, "bucket_full"), "{failed}");
        let warnings = link.status().warnings();
        assert_eq!(
            (&warnings[0]["code"], &warnings[0]["namespaces"][0]),
            (&"bucket_full".into(), &"default/default/docs".into())
        );
        assert!(!engine.unsent(&name("docs")).await.unwrap().is_durable);
        node.clock.advance(10_000);
    }
    // What is small has room.
    put(&engine, "other", 0..5, 1).await;
    assert!(link.run().await.is_err());
    assert!(engine.unsent(&name("other")).await.unwrap().is_durable);
    let (written, largest) = (store.written.load(SeqCst), store.largest.load(SeqCst));
    assert!(largest > 50_000 && written <= 2 * largest, "{written} bytes written of {largest}");
    store.room.store(0, SeqCst);
    node.clock.advance(600_000);
    link.run().await.unwrap();
    assert!(link.status().warnings().is_empty() && engine.unsent(&name("docs")).await.unwrap().is_durable);
    assert_eq!(fresh(2, &bucket, "docs").await, all(&engine, "docs"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_nodes_filled_has_room_again_after_a_reclaim() {
    const BYTES: u64 = 12 << 20;
    let mounted = match Mounted::tmpfs(BYTES) {
        Ok(mounted) => mounted,
        Err(why) => return skipped("a directory that is full", &why),
    };
    let node = Node::new(1);
    let config = BucketConfig { url: format!("file://{}", mounted.path.display()), ..BucketConfig::default() };
    let bucket = Bucket::open(&config, node.clock.clone(), node.random.clone()).unwrap();
    let engine = node.open();
    let link = Sync::new(engine.clone(), bucket.clone(), options(Policy::Lww), node.clock.clone());
    let random = SeededRandom::new(1);
    let text = |numbers: usize| (0..numbers).map(|_| format!("{:016x}", random.next_u64())).collect::<String>();
    let schema = json!({"text": {"type": "string", "filterable": false}});
    let mut failed = None;
    // Each state takes the place of the one before, which nobody needs.
    for _ in 0..100 {
        write(&engine, "docs", json!({"upsert_rows": [{"id": 1, "text": text(60_000)}], "schema": schema})).await;
        engine.compact(&name("docs")).await.unwrap();
        failed = link.run_for(&Selection::default().unasked()).await.failed;
        if failed.is_some() {
            break;
        }
    }
    assert_eq!(failed.unwrap().code(), "bucket_full");
    // What is small goes on, for long.
    for n in 0..3_000 {
        put(&engine, "small", [n], n).await;
        node.clock.advance(1_000);
        link.run_for(&Selection::default().unasked()).await;
        if !engine.unsent(&name("small")).await.unwrap().is_durable {
            break;
        }
    }
    assert!(!engine.unsent(&name("small")).await.unwrap().is_durable, "there is room for all of it");
    probe(&bucket, &Patience::ASKED).await.unwrap();
    let run = reclaim(&node, &engine, &bucket, 0).await;
    let freed: u64 = run.namespaces.values().flatten().map(|done| done.bytes).sum();
    assert!(run.failed.is_none() && freed > BYTES / 2, "{run:?}");
    node.clock.advance(600_000);
    link.run().await.unwrap();
    for namespace in ["docs", "small"] {
        assert_eq!(fresh(2, &bucket, namespace).await, all(&engine, namespace));
    }
}
