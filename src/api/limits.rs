//! Every bound of the server, by name.

use std::sync::Arc;

use super::auth::Tokens;

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
    /// The longest pause between two parts of a body.
    pub body_idle_timeout_ms: u64,
    pub request_timeout_ms: u64,
    /// The longest body, decoded.
    pub body_bytes_max: u64,
    /// Decoded bytes per encoded byte of a compressed body.
    pub decompressed_ratio_max: u64,
    /// Decoded bodies held at once by all requests.
    pub ingest_bytes_max: u64,
    pub queries_concurrent_max: usize,
    /// The text of `/metrics`.
    pub metrics: Option<Arc<dyn Fn() -> String + Send + Sync>>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        ServerConfig {
            tokens: None,
            allowed_hosts: vec!["localhost".into(), "127.0.0.1".into(), "[::1]".into()],
            connections_max: 1_024,
            header_timeout_ms: 75_000,
            body_idle_timeout_ms: 30_000,
            request_timeout_ms: 60_000,
            body_bytes_max: 64 << 20,
            decompressed_ratio_max: 200,
            ingest_bytes_max: 128 << 20,
            queries_concurrent_max: 16,
            metrics: None,
        }
    }
}
