//! What the daemon is told: the settings, their defaults, and where they come from.

mod load;
mod validate;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use load::{Overrides, load};

use crate::error::Error;

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
    pub auth: Auth,
    pub log: Log,
}

/// Where clients reach the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Server {
    pub listen: SocketAddr,
}

/// Where the data lies.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Storage {
    pub data_dir: PathBuf,
}

/// Who may ask.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Auth {
    /// A file with one bearer token a line; with it every request must carry one of them.
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
        Server { listen: SocketAddr::from((Ipv4Addr::LOCALHOST, PORT_DEFAULT)) }
    }
}

impl Default for Storage {
    fn default() -> Self {
        Storage { data_dir: default_data_dir(|name| std::env::var_os(name).map(PathBuf::from)) }
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
