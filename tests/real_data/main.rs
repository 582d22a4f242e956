//! The daemon held to real data over HTTP: rows, exact vector results, and the quality of ranking.
//!
//! `SHOAL_DATA` names the folder of the data sets; without it these tests print SKIPPED. `SHOAL_BIN` names the daemon.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod daemon;
mod data;
mod debpkg;
mod measure;
mod quality;
