//! Namespaces carried between places: snapshots and bundles out and in, documents as NDJSON out and in.
//!
//! - `take` writes a snapshot of one commit, `file` puts it in a file, `restore` makes a namespace of one;
//! - `export` writes documents, `import` makes a namespace of them, `rows` is how they are written;
//! - `foreign` says which states from elsewhere are taken.
//!
//! Invariant: what comes in is verified whole before any of it has a name. An interrupted transfer leaves nothing visible and
//! can be repeated.

pub mod export;
pub mod file;
mod foreign;
pub mod import;
pub mod restore;
mod rows;
pub mod take;

use crate::error::{Error, Result};
use crate::model::ids::Hlc;

/// Refuses a clock from elsewhere that nobody could go on from. `whose` says where it is.
fn check_clock(whose: impl std::fmt::Display, clock: Hlc) -> Result<()> {
    if clock <= Hlc::FOREIGN_MAX {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{whose}: clock {} is beyond the year 9999, expected at most {}",
        clock.0,
        Hlc::FOREIGN_MAX.0
    ))
    .with_hint(
        "what wrote it had a broken clock or was altered; write the rows of the export anew with `shoal import`",
    ))
}
