//! The bucket: what every store must do, commits under every fault, refusals over real HTTP, and real servers when there are any.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod commits;
mod conformance;
mod directories;
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

use std::sync::{Arc, Mutex};

use shoal::error::Error;
use shoal::format::uploads::UploadFile;
use shoal::platform::clock::{Clock, SystemClock};
use shoal::platform::random::{Random, SeededRandom};
use shoal::store::{Backend, Bucket, BucketConfig, Ledger};
use tokio::sync::Notify;

/// What is remembered of one upload.
#[derive(Default)]
struct Remembered {
    upload: Mutex<Option<UploadFile>>,
    /// Told when the bucket has another part.
    grown: Notify,
}

impl Ledger for Remembered {
    fn read(&self) -> Option<UploadFile> {
        self.upload.lock().unwrap().clone()
    }

    fn keep(&self, upload: &UploadFile) -> Result<(), Error> {
        *self.upload.lock().unwrap() = Some(upload.clone());
        self.grown.notify_one();
        Ok(())
    }

    fn forget(&self) -> Result<(), Error> {
        *self.upload.lock().unwrap() = None;
        Ok(())
    }
}

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
