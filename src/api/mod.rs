//! Speaks HTTP: the wire contract's requests and answers over an engine.

pub mod answer;
pub mod auth;
pub mod body;
pub mod connections;
pub mod door;
pub mod error;
mod following;
pub mod gates;
pub mod handlers;
pub mod limits;
pub mod patience;
mod prefer;
mod refusals;
pub mod request;
pub mod router;
mod search;
pub mod server;
pub mod stream;
pub mod wire;
