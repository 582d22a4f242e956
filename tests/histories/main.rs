//! Random histories of writes, branches, tags, deletions, merges, retention, restarts and crashes, against a plain model: every
//! namespace equals the model at every generation it can be asked for, and nothing is missing or left over.
//!
//! `SHOAL_HISTORIES=100000 cargo test --release --test histories -- --nocapture` runs more than every change does; a failure says
//! its seed, and `SHOAL_HISTORY=SEED` runs that one alone and prints its steps. `SHOAL_HISTORIES_FROM=SEED` goes on from there.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod model;
mod run;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// Histories that run at the same time.
const WORKERS: usize = 4;
/// With `--nocapture` a long run says how far it is.
const SAID_EVERY: u64 = 1_000;
/// A long run goes on after a failure, until there are so many.
const FAILED_MAX: usize = 10;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|n| n.parse().ok())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_history_leaves_what_the_model_says() {
    if let Some(seed) = number("SHOAL_HISTORY") {
        return run::history(seed, true).await;
    }
    let count = number("SHOAL_HISTORIES").unwrap_or(1_000);
    let next = Arc::new(AtomicU64::new(number("SHOAL_HISTORIES_FROM").unwrap_or(0)));
    let failed = Arc::new(Mutex::new(Vec::new()));
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let (next, failed) = (next.clone(), failed.clone());
            tokio::spawn(async move {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= count {
                        return;
                    }
                    if seed > 0 && seed.is_multiple_of(SAID_EVERY) {
                        println!("{seed} histories so far");
                    }
                    // A task of its own, so that a failure says which seed it was.
                    if tokio::spawn(run::history(seed, false)).await.is_err() {
                        let mut failed = failed.lock().unwrap();
                        failed.push(seed);
                        assert!(failed.len() < FAILED_MAX, "run these alone with SHOAL_HISTORY=SEED: {failed:?}");
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    let failed = failed.lock().unwrap();
    assert!(failed.is_empty(), "run these alone with SHOAL_HISTORY=SEED: {failed:?}");
    println!("{count} histories");
}
