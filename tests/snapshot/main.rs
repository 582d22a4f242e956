//! What carrying a namespace from place to place promises: nothing is lost on the way, nothing that is not whole gets a
//! name, and what comes of it stands on its own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "../api/client.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod client;
mod commands;
mod conflicts;
mod copies;
mod damage;
mod exports;
mod faults;
mod foreign;
mod node;
mod round_trips;
mod taking;
