//! A small node lives for a year: simulated time, real code, real files. It overwrites, merges branches, labels, tags, lets
//! namespaces expire, takes snapshots, fails and heals, and is restarted now and then. Nothing that was acknowledged is
//! lost, and nothing grows: bytes on the disk, memory, manifests, directories, descriptors and maps.
//!
//! `SHOAL_SOAK_DAYS=365 cargo test --release --test soak -- --nocapture` runs a year in minutes; every change runs some days.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod node;
mod worn_disk;

use node::{Figures, Life};

/// What one process may have of anonymous memory: half of a small box.
const DATA_BYTES_MAX: u64 = 256 << 20;

fn days() -> u64 {
    std::env::var("SHOAL_SOAK_DAYS").ok().and_then(|days| days.parse().ok()).unwrap_or(12)
}

/// Bounds this process's memory; false where that is not possible.
fn bound_memory() -> bool {
    let mut prlimit = std::process::Command::new("prlimit");
    prlimit.args([format!("--pid={}", std::process::id()), format!("--data={DATA_BYTES_MAX}")]);
    prlimit.status().is_ok_and(|status| status.success())
}

#[test]
fn a_node_that_lives_long_loses_nothing_and_does_not_grow() {
    if !bound_memory() {
        println!("SKIPPED the bound of memory: there is no prlimit");
    }
    let days = days();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let figures = runtime.block_on(async {
        // A task of its own: the engine hands blocking work from worker threads.
        tokio::spawn(async move {
            let mut life = Life::begin(days);
            let mut figures = Vec::new();
            for day in 0..days {
                life.live(day).await;
                let found = life.measure();
                println!("day {day}: {found:?}");
                figures.push(found);
            }
            figures
        })
        .await
        .unwrap()
    });
    check(&figures);
}

/// Every day is within the bounds, and the last quarter takes no more than the one before it.
fn check(figures: &[Figures]) {
    for (day, found) in figures.iter().enumerate() {
        let bound = 2 * found.live_bytes + found.promised_bytes + node::WORKING_BYTES;
        assert!(found.disk_bytes <= bound, "day {day}: {found:?}, at most {bound} bytes on the disk");
        assert!(found.anonymous_bytes <= node::ANONYMOUS_BYTES_MAX, "day {day}: {found:?}");
    }
    let half = figures.len() / 2;
    let (before, after) = figures[half..].split_at((figures.len() - half) / 2);
    for (what, figure, slack) in node::FLAT {
        let most = |some: &[Figures]| some.iter().map(figure).max().unwrap();
        let (before, after) = (most(before), most(after));
        println!("{what}: at most {before}, then at most {after}");
        assert!(after <= before + before / 10 + slack, "{what}: at most {before}, then {after}");
    }
}
