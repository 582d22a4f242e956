//! What carrying a namespace from place to place promises: nothing is lost on the way, nothing that is not whole gets a
//! name, and what comes of it stands on its own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../api/client.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod client;
mod commands;
mod conflicts;
mod copies;
mod crowded;
mod damage;
mod exports;
mod faults;
mod foreign;
#[path = "../engine/hook_disk.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod hook_disk;
mod node;
mod round_trips;
mod taking;
