//! Filters: bound to a schema, and tested against documents.

pub mod bind;
pub mod bitmap;
mod glob;
pub mod matches;
