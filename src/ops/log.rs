//! Logs on standard error: lines for people, or one JSON object a line for collectors.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::error::{Error, Result};

/// Starts logging. `directives` is a level or a list such as `info,shoal::engine=debug`. Fails when the directives
/// cannot be parsed, or when logging has been started already.
pub fn start(directives: &str, json: bool) -> Result<()> {
    let filter = EnvFilter::try_new(directives)
        .map_err(|error| Error::invalid(format!("log level {directives:?}: {error}")))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = if json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_target(false).with_ansi(std::io::stderr().is_terminal()).try_init()
    };
    started.map_err(|error| Error::internal(format!("start logging: {error}")))
}
