//! Namespaces compared and merged: what differs, what becomes of conflicts under every policy, what a crash leaves.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod costs;
mod crashes;
mod differences;
mod dropped;
mod gate;
mod histories;
mod losers;
mod meanwhile;
#[path = "../support/node.rs"]
mod node;
mod origins;
mod phrases;
mod policies;
mod relatives;
mod unread;
