//! The words everything else speaks: plain data, no I/O, no bytes.

pub mod as_of;
pub mod compute;
pub mod datetime;
pub mod document;
pub mod filter;
pub mod ids;
pub mod matcher;
pub mod memory;
pub mod name_patterns;
pub mod query;
pub mod schema;
pub mod schema_render;
pub mod shown;
pub mod value;
pub mod value_render;
pub mod version_vector;
pub mod write;
