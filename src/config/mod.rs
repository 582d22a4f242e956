//! What the daemon is told: the settings, their defaults, and where they come from.

mod load;
mod render;
mod sync;
mod validate;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use load::{Overrides, load};
pub use render::render;
pub use sync::{SyncSettings, of_configuration};

use crate::api::limits::ServerConfig;
use crate::engine::EngineConfig;
use crate::error::Error;
use crate::model::query::Recall;
use crate::store::BucketConfig;

/// The port a daemon listens on unless it is told another.
pub const PORT_DEFAULT: u16 = 7345;
/// The stable word of errors that mean "the configuration is wrong"; the process exits with 78 (`EX_CONFIG`).
pub const BAD_CONFIGURATION: &str = "bad_configuration";

/// All settings, after file, environment and flags.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Config {
    pub server: Server,
    pub storage: Storage,
    pub search: Search,
    /// The bucket that this node shares; none while its `url` is empty.
    pub bucket: BucketConfig,
    pub sync: SyncSettings,
    pub auth: Auth,
    pub log: Log,
}

/// Where clients reach the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Server {
    pub listen: SocketAddr,
    /// `Host` values that requests may carry, without port; empty for any. Web pages cannot choose them.
    pub allowed_hosts: Vec<String>,
    pub connections_max: usize,
    /// For the head of a request; also how long an idle connection is kept.
    pub header_timeout_ms: u64,
    /// The longest pause between two parts of a body.
    pub body_idle_timeout_ms: u64,
    pub request_timeout_ms: u64,
    /// The longest body, decoded.
    pub body_bytes_max: u64,
    /// Decoded bodies held at once by all requests.
    pub ingest_bytes_max: u64,
    /// Queries answered at once for one namespace.
    pub queries_concurrent_max: usize,
    /// How long a query may take.
    pub query_timeout_ms: u64,
    /// Memory that one query may take besides its answer.
    pub query_bytes_max: u64,
}

/// Where the data lies.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Storage {
    pub data_dir: PathBuf,
    /// A namespace's newest writes become a segment when they take this much memory.
    pub flush_bytes: u64,
    /// They become one when their logs are this long, too; writes wait at twice as much.
    pub log_bytes_max: u64,
    /// They become one after this many minutes, too.
    pub flush_interval_minutes: u64,
    /// Namespaces that nobody uses are closed while more are open, and opened again when they are asked for.
    pub open_namespaces_max: usize,
    /// Writes to a namespace wait while its newest writes take more memory than this.
    pub tail_bytes_max: u64,
    /// The same for all namespaces together.
    pub tails_bytes_max: u64,
    /// Of the writes to a namespace with an Idempotency-Key so many are remembered for 24 hours; further ones are refused.
    pub idempotency_keys_max: u64,
    /// Bytes a second that merging segments may write; 0 for no bound.
    pub compaction_bytes_per_second: u64,
    /// How long states that were replaced, and deleted namespaces, can be had back; 0 keeps none.
    pub retention_hours: u64,
    /// They may keep so much of the disk, in a hundred; the oldest go first.
    pub retention_disk_percent: u32,
    /// Bytes of the bucket's segments that are kept here, the rest is read when it is wanted; 0 keeps all of them here.
    pub tier_bytes_max: u64,
}

/// How queries are answered.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Search {
    /// The share of the nearest vectors that ANN is to find on average, from 0.5 to 1, or `"exact"`; queries may say another.
    pub recall: Recall,
}

/// Who may ask.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Auth {
    /// A file with one token a line: `TOKEN [read|write|admin] [ORG/PROJECT]`; with it every request must carry one of them
    /// as its bearer token. Without more words a token may do everything everywhere.
    pub tokens_file: Option<PathBuf>,
}

/// What the daemon says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Log {
    /// A level, or directives such as `info,shoal::engine=debug`.
    pub level: String,
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    #[default]
    Human,
    Json,
}

impl Default for Server {
    fn default() -> Self {
        let limits = ServerConfig::default();
        Server {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, PORT_DEFAULT)),
            allowed_hosts: limits.allowed_hosts,
            connections_max: limits.connections_max,
            header_timeout_ms: limits.header_timeout_ms,
            body_idle_timeout_ms: limits.body_idle_timeout_ms,
            request_timeout_ms: limits.request_timeout_ms,
            body_bytes_max: limits.body_bytes_max,
            ingest_bytes_max: limits.ingest_bytes_max,
            queries_concurrent_max: limits.queries_concurrent_max,
            query_timeout_ms: limits.query_timeout_ms,
            query_bytes_max: limits.query_bytes_max,
        }
    }
}

impl Default for Storage {
    fn default() -> Self {
        let data_dir = default_data_dir(|name| std::env::var_os(name).map(PathBuf::from));
        let engine = EngineConfig::new(&data_dir);
        Storage {
            data_dir,
            flush_bytes: engine.flush_bytes,
            log_bytes_max: engine.log_bytes_max,
            flush_interval_minutes: engine.flush_interval_ms / 60_000,
            open_namespaces_max: engine.open_namespaces_max,
            tail_bytes_max: engine.tail_bytes_max,
            tails_bytes_max: engine.tails_bytes_max,
            idempotency_keys_max: engine.idempotency_keys_max,
            compaction_bytes_per_second: engine.compaction_bytes_per_second,
            retention_hours: engine.retention_ms / 3_600_000,
            retention_disk_percent: engine.retention_disk_percent,
            tier_bytes_max: engine.tier_bytes_max,
        }
    }
}

impl Default for Search {
    fn default() -> Self {
        Search { recall: Recall::DEFAULT }
    }
}

impl Default for Log {
    fn default() -> Self {
        Log { level: "info".into(), format: LogFormat::Human }
    }
}

/// systemd's state directory when there is one, then `$XDG_DATA_HOME/shoal`, `~/.local/share/shoal`, `./shoal-data`.
fn default_data_dir(variable: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    let absolute = |name| variable(name).filter(|path| path.is_absolute());
    if let Some(state) = absolute("STATE_DIRECTORY") {
        return state;
    }
    match (absolute("XDG_DATA_HOME"), absolute("HOME")) {
        (Some(data), _) => data.join("shoal"),
        (None, Some(home)) => home.join(".local/share/shoal"),
        (None, None) => PathBuf::from("shoal-data"),
    }
}

/// A configuration error, which ends the process with exit code 78.
pub fn wrong(message: impl Into<String>) -> Error {
    Error::invalid(message).with_code(BAD_CONFIGURATION)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_directory_wins_over_the_users_directories() {
        let found = default_data_dir(|name| match name {
            "STATE_DIRECTORY" => Some("/var/lib/shoal".into()),
            "HOME" => Some("/home/u".into()),
            _ => None,
        });
        assert_eq!(found, PathBuf::from("/var/lib/shoal"));
        let found = default_data_dir(|name| (name == "HOME").then(|| "/home/u".into()));
        assert_eq!(found, PathBuf::from("/home/u/.local/share/shoal"));
    }
}
