//! Index bytes in, answers out: what one immutable segment can be asked.

pub mod sparse;
pub mod text;
