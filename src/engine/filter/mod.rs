//! Filters: bound to a schema, and tested against documents.

pub mod bind;
pub mod bitmap;
mod fuzzy;
mod glob;
pub mod matches;
mod patterns;
mod sequence;
pub mod texts;
