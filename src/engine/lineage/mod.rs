//! Where namespaces come from, and what stays of them: branches, past states, tags, deleted incarnations.
//!
//! - `branch` makes a namespace of another's state without copying data;
//! - `holdings` says which objects an incarnation keeps alive, and why: the counts of the index are made of it;
//! - `history` finds past states, `tags` names them for good, `shared_tags` beside those of a bucket, `retention` lets go of them,
//!   `due` decides of which, `share` says what would come free, and `pools` keeps that within a budget;
//! - `undelete` brings a deleted namespace back, `revert` a past state, `names` forgets names that nothing has;
//! - `dates` says when states were made, whatever the clock showed, and `ttl` deletes namespaces whose time is up.
//!
//! An object is held once by every run of consecutive retained manifests of an incarnation that name it, once by every tag, and
//! once by the writer of a log whose records are in no segment yet. A commit therefore counts only the objects it adds, and
//! letting go of the oldest manifest releases only what the next one does not name.

mod branch;
pub mod dates;
mod due;
mod history;
pub mod holdings;
mod names;
mod pools;
mod retention;
mod revert;
mod share;
mod shared_tags;
mod tags;
mod ttl;
mod undelete;

pub use branch::{BranchRequest, TreeNode};
pub use history::PastState;
pub use names::There;
pub use retention::drop_generations;
pub use revert::Reverted;
pub use shared_tags::{TagsDue, shared};
pub use tags::{TAGS_MAX, Tag, TagTurns, UNTOLD_MAX};
pub use undelete::DeletedNamespace;
pub(in crate::engine) use undelete::Told;

use crate::error::Error;

/// The code of errors about states that retention has let go of.
pub const GONE: &str = "gone";

fn gone(what: impl Into<String>) -> Error {
    Error::not_found(what.into()).with_code(GONE)
}
