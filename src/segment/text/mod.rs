//! Full-text search: terms of documents and queries, and their scores.

pub mod positions;
pub mod reader;
pub mod score;
pub mod terms;
pub mod tokens;
