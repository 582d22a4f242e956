//! What nodes that share a bucket are promised: after they met, everybody has what anybody wrote.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod fleet;
mod meeting;
#[path = "../support/node.rs"]
mod node;
