//! Random histories in which faults pass and the node goes on: an operation of the disk, the index or the bucket fails once, or some of
//! the disk's in a row, in the middle of a step, and everything works again right after, without a restart.
//!
//! Every promise that was given is checked where it was given for: what waited for the bucket by a node that never was there
//! before, a snapshot by restoring it, a checkpoint by the state that its manifest is, a key by sending the write again, an
//! acknowledged write by reading it here, after restarts and after power cuts. What failed happened or did not, as a whole.
//!
//! `SHOAL_FAULTS=20000 cargo test --release --test faults` runs more than every change does; a failure says its seed, and
//! `SHOAL_FAULT=SEED` runs that one alone and prints its steps. `SHOAL_FAULTS_FROM=SEED` goes on from there.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod damage;
#[path = "../support/faulty_store.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod faulty_store;
mod model;
mod node;
mod run;
mod steps;
mod wide;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Histories that every change runs.
const COUNT: u64 = 200;
/// Histories that run at the same time, each on threads of its own.
const WORKERS: usize = 2;
/// No history takes as long, on any machine: something waits for ever.
const LONGEST: Duration = Duration::from_secs(120);
/// Of a thousand seeds the one whose history takes 2 GB for a moment; not among those of every change.
const WIDE: u64 = 501;
/// Of long runs those that failed and were mended, which every change runs as well: the index was misread, and had a past state that never was.
const ONCE_FAILED: [u64; 1] = [3_456];
/// A long run goes on after a failure, until there are so many.
const FAILED_MAX: usize = 40;

/// What histories are about to do, by seed, for one that does not come to an end.
static DOING: Mutex<BTreeMap<u64, String>> = Mutex::new(BTreeMap::new());

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().and_then(|n| n.parse().ok())
}

/// What a history is about, which its seed says.
#[derive(Clone, Copy, Debug, PartialEq)]
enum About {
    Faults,
    Damage,
}

fn about(seed: u64) -> About {
    if seed % 5 == 4 { About::Damage } else { About::Faults }
}

fn history(seed: u64, says: bool) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    // In a task of its own: who waits in `block_on` may miss that it is woken while something that it runs waits for a lock on the same
    // thread, as opening a namespace does.
    let run = runtime.spawn(async move {
        match about(seed) {
            About::Damage => damage::history(seed, says).await,
            About::Faults if seed % 1_000 == WIDE => wide::history(seed, says).await,
            About::Faults => run::history(seed, says).await,
        }
    });
    let done = runtime.block_on(async { tokio::time::timeout(LONGEST, run).await });
    let doing = DOING.lock().unwrap().remove(&seed);
    let ended = done.unwrap_or_else(|_| panic!("seed {seed} does not come to an end: {doing:?}"));
    ended.unwrap_or_else(|failed| resume_unwind(failed.into_panic()));
}

/// Runs the histories of one kind among all.
fn histories(of: About) {
    if let Some(seed) = number("SHOAL_FAULT") {
        if about(seed) == of {
            history(seed, true);
        }
        return;
    }
    let next = AtomicU64::new(number("SHOAL_FAULTS_FROM").unwrap_or(0));
    let count = number("SHOAL_FAULTS").unwrap_or(COUNT);
    let failed = Mutex::new(Vec::new());
    for seed in ONCE_FAILED.into_iter().filter(|seed| *seed >= count && about(*seed) == of) {
        history(seed, false);
    }
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= count || failed.lock().unwrap().len() >= FAILED_MAX {
                        return;
                    }
                    if about(seed) == of && catch_unwind(AssertUnwindSafe(|| history(seed, false))).is_err() {
                        failed.lock().unwrap().push(seed);
                    }
                }
            });
        }
    });
    let failed = failed.lock().unwrap();
    assert!(failed.is_empty(), "run these alone with SHOAL_FAULT=SEED: {failed:?}");
}

#[test]
fn what_was_promised_holds_when_a_fault_passed_and_the_node_went_on() {
    histories(About::Faults);
}

#[test]
fn a_file_that_is_damaged_for_good_costs_its_own_namespace_only() {
    histories(About::Damage);
}
