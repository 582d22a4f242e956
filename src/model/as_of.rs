//! Which past state of a namespace a caller asks for.

use super::ids::CommitId;

/// A state that retention still reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AsOf {
    /// A manifest by its number in this node's chain.
    Generation(u64),
    Commit(CommitId),
    Tag(String),
    /// The newest commit not after so many milliseconds since 1970.
    Instant(u64),
}
