//! Shoal: a search store for edge nodes.

pub mod error;
pub mod model;
pub mod platform;
