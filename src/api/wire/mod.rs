//! JSON as the wire has it, to and from the words of the model.

pub mod answers;
pub mod as_of;
pub mod compute;
pub mod filter;
pub mod query;
pub mod rank;
pub mod response;
pub mod rows;
pub mod shape;
pub mod unknown;
pub mod write;
