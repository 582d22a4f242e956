//! Namespaces carried between places: snapshots and bundles, out and in.
//!
//! - `take` writes a snapshot of one commit, `restore` makes a namespace of one.
//!
//! Invariant: what comes in is verified whole before any of it has a name. An interrupted transfer leaves nothing visible and
//! can be repeated.

pub mod restore;
pub mod take;
