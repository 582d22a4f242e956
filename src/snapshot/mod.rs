//! Namespaces carried between places: snapshots and bundles out and in, documents as NDJSON out and in.
//!
//! - `take` writes a snapshot of one commit, `file` puts it in a file, `restore` makes a namespace of one;
//! - `export` writes documents, `import` makes a namespace of them, `rows` is how they are written.
//!
//! Invariant: what comes in is verified whole before any of it has a name. An interrupted transfer leaves nothing visible and
//! can be repeated.

pub mod export;
pub mod file;
pub mod import;
pub mod restore;
mod rows;
pub mod take;
