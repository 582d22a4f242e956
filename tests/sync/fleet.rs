//! Nodes that share one bucket.

use std::sync::Arc;
use std::time::Duration;

use shoal::engine::Engine;
use shoal::engine::merge::LostState;
use shoal::engine::merge::decide::Policy;
use shoal::error::Result;
use shoal::platform::clock::ManualClock;
use shoal::platform::random::SeededRandom;
use shoal::store::{Backend, Bucket, BucketConfig, Patience};
use shoal::sync::{PollWaits, Schedule, Selection, Status, Sync, SyncOptions, Worker, WorkerConfig};

use crate::node::{Documents, Node, all, name};

pub fn options(policy: Policy) -> SyncOptions {
    SyncOptions { policy, patience: Patience::ASKED }
}

/// A bucket in memory.
pub fn bucket(seed: u64) -> Bucket {
    let (clock, random) = (Arc::new(ManualClock::at(1_700_000_000_000)), Arc::new(SeededRandom::new(seed)));
    Bucket::over(Backend::in_memory(), clock, random)
}

/// A directory to be a bucket.
pub fn directory() -> (tempfile::TempDir, BucketConfig) {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("file://{}", dir.path().display());
    (dir, BucketConfig { url, ..BucketConfig::default() })
}

pub async fn sync(node: &Node, engine: &Arc<Engine>, bucket: &Bucket) -> Result<Status> {
    sync_by(node, engine, bucket, Policy::Lww).await
}

pub async fn sync_by(node: &Node, engine: &Arc<Engine>, bucket: &Bucket, policy: Policy) -> Result<Status> {
    Sync::new(engine.clone(), bucket.clone(), options(policy), node.clock.clone()).run().await
}

/// Syncs each twice: afterwards everybody has seen what everybody had.
pub async fn meet(nodes: &[(&Node, &Arc<Engine>)], bucket: &Bucket) {
    for _ in 0..2 {
        for (node, engine) in nodes {
            sync(node, engine, bucket).await.unwrap();
        }
    }
}

/// What a node that never was there before has after one sync.
pub async fn fresh(seed: u64, bucket: &Bucket, namespace: &str) -> Documents {
    let node = Node::new(seed);
    let engine = node.open();
    sync(&node, &engine, bucket).await.unwrap();
    all(&engine, namespace)
}

/// What a node has, by name.
pub fn names(engine: &Engine) -> Vec<String> {
    engine.named().into_iter().map(|(name, _)| name.name.to_string()).collect()
}

/// States that lost, as a node lists them.
pub fn lost(engine: &Engine, namespace: &str) -> Vec<LostState> {
    let mut found = Vec::new();
    engine
        .conflicts(&name(namespace), |state| {
            found.push(state);
            Ok(())
        })
        .unwrap();
    found
}

/// Sync of a node as a daemon has it.
pub fn worker(node: &Node, engine: &Arc<Engine>, config: &BucketConfig, interval: Duration) -> Worker {
    let config = WorkerConfig {
        bucket: config.clone(),
        interval,
        poll_waits: PollWaits { first: Duration::from_secs(8), max: Duration::from_secs(60) },
        policy: Policy::Lww,
        selection: Selection::default(),
        schedule: Schedule::default(),
        is_metered: false,
        monthly_bytes: 0,
        retention: Duration::from_secs(7 * 24 * 3_600),
        reclaim_interval: None,
    };
    Worker::new(engine.clone(), config, node.clock.clone(), node.random.clone()).unwrap()
}
