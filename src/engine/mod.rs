//! Namespaces: durable writes, and what recovery makes of them.

pub mod group_commit;
pub mod journal;
