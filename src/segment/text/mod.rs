//! Full-text search: terms of documents and queries, and their scores.

pub mod score;
pub mod tokens;
