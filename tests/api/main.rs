//! The HTTP interface, through a real socket: what SDKs do, what it refuses, and what it costs a stranger to try.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod bad_input;
mod cancel;
mod client;
mod computed;
mod conditions;
mod door;
mod limits;
mod lineage;
mod merging;
mod namespaces;
mod patterns;
mod phrases;
mod ranking;
mod sdk;
mod tokens;
mod warnings;
