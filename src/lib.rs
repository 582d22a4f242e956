//! Shoal: a search store for edge nodes.

pub mod error;
pub mod format;
pub mod model;
pub mod platform;
