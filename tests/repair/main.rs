//! Damage to every kind of file in turn: what the report says is true, what can be restored is restored, and nothing else
//! suffers.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod commands;
#[path = "../support/daemon.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod daemon;
mod damaged;
mod drops;
mod every_file;
mod killed;
mod limits;
mod lost_logs;
mod lost_pages;
mod meanwhile;
mod node;
mod real;
mod rotten;
mod unreadable;
