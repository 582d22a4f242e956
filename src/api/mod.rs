//! Speaks HTTP: the wire contract's requests and answers over an engine.

pub mod auth;
pub mod body;
pub mod error;
pub mod limits;
pub mod router;
pub mod wire;
