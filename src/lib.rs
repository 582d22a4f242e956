//! Shoal: a search store for edge nodes.

pub mod api;
pub mod cli;
pub mod config;
pub mod engine;
pub mod error;
pub mod format;
pub mod model;
pub mod ops;
pub mod platform;
