//! Namespaces: writes made durable, crashes recovered from, queries answered.

pub mod catalog;
pub mod group_commit;
pub mod journal;
pub mod layout;
