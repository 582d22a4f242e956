//! Branches, past states, tags, deleted namespaces: through the engine's public operations, on a disk whose power can be cut.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod branches;
mod clocks;
mod damaged;
mod deleted;
mod full;
#[path = "../engine/hook_disk.rs"]
#[expect(dead_code, reason = "other tests need the rest")]
mod hook_disk;
mod last_room;
mod many;
mod many_tags;
mod node;
mod past;
mod share;
#[path = "../support/node.rs"]
mod support;
mod upkeep;
