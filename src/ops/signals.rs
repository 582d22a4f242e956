//! Waits for the signals that ask the daemon to stop, or to read its settings again.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::{Context, Result};

/// Handlers for SIGTERM and SIGINT. From its creation on these signals no longer kill the process.
pub struct Stop {
    terminate: Signal,
    interrupt: Signal,
    hangup: Option<Hangups>,
}

/// A handler for SIGHUP. From its creation on this signal no longer kills the process.
pub struct Hangups(Signal);

impl Stop {
    /// Must be called within a runtime.
    pub fn install() -> Result<Self> {
        Ok(Stop {
            terminate: signal(SignalKind::terminate()).context(|| "handle SIGTERM")?,
            interrupt: signal(SignalKind::interrupt()).context(|| "handle SIGINT")?,
            hangup: None,
        })
    }

    /// The same for a program that ends with its terminal: SIGHUP stops it, too.
    pub fn install_with_hangup() -> Result<Self> {
        Ok(Stop { hangup: Some(Hangups::install()?), ..Stop::install()? })
    }

    /// Returns the name of the signal when one has come.
    pub async fn requested(&mut self) -> &'static str {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.next().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            () = hangup => "SIGHUP",
        }
    }
}

impl Hangups {
    /// Must be called within a runtime.
    pub fn install() -> Result<Self> {
        Ok(Hangups(signal(SignalKind::hangup()).context(|| "handle SIGHUP")?))
    }

    /// Returns when a signal has come since the last one.
    pub async fn next(&mut self) {
        self.0.recv().await;
    }
}
