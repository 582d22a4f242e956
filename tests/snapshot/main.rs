//! What carrying a namespace from place to place promises: nothing is lost on the way, nothing that is not whole gets a
//! name, and what comes of it stands on its own.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod copies;
mod damage;
mod exports;
mod faults;
mod node;
mod round_trips;
