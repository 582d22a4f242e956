//! The daemon as a process: killed at any moment, starved of disk, cut from power, stopped in order. What it acknowledged
//! is there at its next start, nothing is half there, and its indexes and documents say the same.
//!
//! `SHOAL_KILLS=n` kills n times instead of the few tens that every run has. What a machine does not allow is skipped,
//! and says so on standard error.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod closing;
mod daemon;
#[path = "../support/failing_disk.rs"]
mod failing_disk;
mod full_disk;
mod history;
mod injected;
mod killed;
mod machine;
mod power_cut;
mod room;
mod service;
mod start;
