//! The bucket: what every store must do, commits under every fault, refusals over real HTTP, and real servers when there are any.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod commits;
mod conformance;
#[path = "../support/faulty_store.rs"]
mod faulty_store;
mod google;
mod http;
mod reads;
mod servers;
mod slow;
#[path = "../support/servers.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod started;

use std::sync::Arc;

use shoal::platform::clock::{Clock, SystemClock};
use shoal::platform::random::{Random, SeededRandom};
use shoal::store::{Backend, Bucket, BucketConfig};

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

fn random(seed: u64) -> Arc<dyn Random> {
    Arc::new(SeededRandom::new(seed))
}

fn over(backend: Backend, seed: u64) -> Bucket {
    Bucket::over(backend, clock(), random(seed))
}

fn open(config: &BucketConfig, seed: u64) -> Bucket {
    Bucket::open(config, clock(), random(seed)).unwrap()
}

fn directory(dir: &tempfile::TempDir) -> BucketConfig {
    BucketConfig { url: format!("file://{}", dir.path().display()), ..BucketConfig::default() }
}
