//! Logs on standard error: lines for people, or one JSON object a line for collectors.

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt};

use crate::error::{Error, Result};

/// What is logged of the process's log, once that is started.
static FILTER: OnceLock<Handle<EnvFilter, Registry>> = OnceLock::new();

/// Starts logging. `directives` is a level or a list such as `info,shoal::engine=debug`. Fails when the directives
/// cannot be parsed, or when logging has been started already.
pub fn start(directives: &str, json: bool) -> Result<()> {
    let (filter, handle) = reload::Layer::new(filter(directives)?);
    let registry = tracing_subscriber::registry().with(filter);
    let lines = fmt::layer().with_writer(std::io::stderr);
    let started = if json {
        registry.with(lines.json().flatten_event(true)).try_init()
    } else {
        registry.with(lines.with_target(false).with_ansi(std::io::stderr().is_terminal())).try_init()
    };
    started.map_err(|error| Error::internal(format!("start logging: {error}")))?;
    let _ = FILTER.set(handle);
    Ok(())
}

/// Logs by other directives from now on.
pub fn change(directives: &str) -> Result<()> {
    let filter = filter(directives)?;
    let Some(handle) = FILTER.get() else { return Err(Error::internal("logging is not started")) };
    handle.reload(filter).map_err(|error| Error::internal(format!("change the log level: {error}")))
}

/// Refuses directives that would log nothing by mistake: a word that is no level would count as the name of a module.
pub fn check(directives: &str) -> Result<()> {
    filter(directives).map(drop)
}

fn filter(directives: &str) -> Result<EnvFilter> {
    let wrong = |what: &str| {
        Error::invalid(format!(
            "log level {directives:?}: {what}, expected off, error, warn, info, debug or trace, or directives such as \
             info,shoal::engine=debug"
        ))
    };
    for directive in directives.split(',').map(str::trim) {
        let (target, level) = match directive.rsplit_once('=') {
            Some((target, level)) => (Some(target), level),
            None => (None, directive),
        };
        let is_module = directive.contains("::") || directive.contains('[');
        let is_level = !level.is_empty() && level.parse::<LevelFilter>().is_ok();
        if !is_level && (target.is_some() || !is_module) {
            return Err(wrong(&format!("{level:?} is no level")));
        }
    }
    // The library takes no spaces.
    let plain = directives.split(',').map(str::trim).collect::<Vec<_>>().join(",");
    EnvFilter::try_new(plain).map_err(|error| wrong(&error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn a_word_that_is_no_level_is_refused() {
        for wrong in ["verbose", "", "info,", "warn,shoal::engine=loud", "info,verbose", "shoal"] {
            let error = check(wrong).unwrap_err();
            assert!(error.message().contains("expected off, error, warn"), "{wrong}: {error}");
        }
        for right in ["info", "WARN", "off", "info,shoal::engine=debug", "error, shoal::sync=trace", "shoal::engine"]
        {
            check(right).unwrap();
        }
    }
}
