//! Every bound of the server, by name.

use std::sync::Arc;

use super::auth::Tokens;
use crate::ops::metrics::Metrics;
use crate::sync::Worker;

/// How the server listens and what it accepts.
#[derive(Clone)]
pub struct ServerConfig {
    /// `None`: open, any request is allowed.
    pub tokens: Option<Tokens>,
    /// Exact `Host` values, without port; empty allows all.
    pub allowed_hosts: Vec<String>,
    pub connections_max: usize,
    /// For a request's head; also how long an idle connection is kept.
    pub header_timeout_ms: u64,
    /// The longest head of a request, in bytes.
    pub header_bytes_max: usize,
    /// The longest pause between two parts of a body, in either direction.
    pub body_idle_timeout_ms: u64,
    /// The slowest body, in bytes a second, once [`BODY_RATE_GRACE_MS`] are over.
    pub body_bytes_per_second_min: u64,
    /// For reading a body, and for everything after it.
    pub request_timeout_ms: u64,
    /// The longest body, decoded.
    pub body_bytes_max: u64,
    /// Decoded bytes per encoded byte of a compressed body, once it is longer than [`RATIO_FREE_BYTES`].
    pub decompressed_ratio_max: u64,
    /// Memory of all bodies together, decoded and taken apart.
    pub ingest_bytes_max: u64,
    /// How long a request waits for its share of `ingest_bytes_max`.
    pub ingest_wait_ms: u64,
    /// Queries answered at once for one namespace.
    pub queries_concurrent_max: usize,
    /// How long a query waits for the ones before it.
    pub query_wait_ms: u64,
    /// How long a query may take from its turn on.
    pub query_timeout_ms: u64,
    /// Memory that one query may take besides its answer.
    pub query_bytes_max: u64,
    /// How long requests under way may take once the server is asked to stop.
    pub stop_grace_ms: u64,
    /// Counts requests, and is shown at `/metrics`.
    pub metrics: Option<Arc<Metrics>>,
    /// Keeps the node and its bucket together; `None` without a bucket.
    pub sync: Option<Arc<Worker>>,
}

/// Bodies may be slower than the slowest rate for this long.
pub const BODY_RATE_GRACE_MS: u64 = 10_000;
/// Compressed bodies may unpack to this much whatever their ratio: a few constant vectors compress beyond any bound.
pub const RATIO_FREE_BYTES: u64 = 1 << 20;
/// Bytes of memory for each value of a JSON document, besides its text.
pub const JSON_VALUE_BYTES: u64 = 32;
/// How many times the longest body's size the values of one body may take in memory.
pub const JSON_AMPLIFICATION_MAX: u64 = 4;

impl Default for ServerConfig {
    fn default() -> Self {
        ServerConfig {
            tokens: None,
            allowed_hosts: vec!["localhost".into(), "127.0.0.1".into(), "[::1]".into()],
            connections_max: 1_024,
            header_timeout_ms: 75_000,
            header_bytes_max: 32 << 10,
            body_idle_timeout_ms: 30_000,
            body_bytes_per_second_min: 1_024,
            request_timeout_ms: 60_000,
            body_bytes_max: 64 << 20,
            decompressed_ratio_max: 200,
            ingest_bytes_max: 128 << 20,
            ingest_wait_ms: 10_000,
            queries_concurrent_max: 16,
            query_wait_ms: 800,
            query_timeout_ms: 30_000,
            query_bytes_max: 64 << 20,
            stop_grace_ms: 30_000,
            metrics: None,
            sync: None,
        }
    }
}
