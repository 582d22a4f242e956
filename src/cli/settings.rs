//! The flags that say how a daemon is configured, and `shoal config`, which prints the result.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use crate::config::{self, Config, LogFormat, Overrides};
use crate::error::Result;

/// Configuration: the file, then SHOAL_SECTION__KEY variables, then these flags
#[derive(Args)]
pub struct Settings {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory for all data
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Address and port to listen on
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<SocketAddr>,
    /// File with one bearer token a line
    #[arg(long, value_name = "FILE")]
    tokens_file: Option<PathBuf>,
    /// The bucket to share: s3://BUCKET/PREFIX, gs://BUCKET/PREFIX, az://CONTAINER/PREFIX or file:///DIRECTORY
    #[arg(long, value_name = "URL")]
    bucket: Option<String>,
    /// Log level, or directives such as info,shoal::engine=debug
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// Form of the log
    #[arg(long, value_name = "FORM")]
    log_format: Option<LogFormat>,
}

impl Settings {
    /// The settings in force.
    pub(super) fn load(&self) -> Result<Config> {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        let flags = Overrides {
            listen: self.listen,
            data_dir: self.data_dir.clone(),
            tokens_file: self.tokens_file.clone(),
            bucket: self.bucket.clone(),
            log_level: self.log_level.clone(),
            log_format: self.log_format,
        };
        config::load(self.config.as_deref(), environment, flags)
    }

    /// Prints the settings in force as TOML that `--config` accepts. Tokens are never printed, only where they lie.
    pub(super) fn run(self) -> Result<()> {
        let config = self.load()?;
        super::output::print(&config::render(&config)?)
    }
}
