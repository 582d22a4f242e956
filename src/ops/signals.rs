//! Waits for the signals that ask the daemon to stop.

use tokio::signal::unix::{SignalKind, signal};

use crate::error::{Context, Result};

/// Handlers for SIGTERM and SIGINT. From its creation on these signals no longer kill the process.
pub struct Stop {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl Stop {
    /// Must be called within a runtime.
    pub fn install() -> Result<Self> {
        Ok(Stop {
            terminate: signal(SignalKind::terminate()).context(|| "handle SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context(|| "handle SIGINT")?,
        })
    }

    /// Returns the name of the signal when one has come.
    pub async fn requested(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
