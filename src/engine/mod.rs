//! Namespaces: writes made durable, crashes recovered from, queries answered.

pub mod analyzers;
pub mod catalog;
pub mod filter;
pub mod group_commit;
pub mod journal;
pub mod layout;
pub mod view;
pub mod write;
