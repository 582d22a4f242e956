//! `shoal serve`: the daemon.

use clap::Args;

use super::settings::Settings;
use crate::daemon::{self, Reload};
use crate::error::{Context, Error, Result};
use crate::ops::signals::{Hangups, Stop};

/// Blocking work of requests runs beside the two kinds of workers; more threads than this only cost memory.
const BLOCKING_THREADS_MAX: usize = 32;

#[derive(Args)]
pub struct Serve {
    #[command(flatten)]
    settings: Settings,
}

impl Serve {
    pub(super) fn run(self) -> Result<()> {
        let settings = self.settings;
        let config = settings.load()?;
        daemon::start_log(&config)?;
        runtime()?.block_on(async {
            let mut stop = Stop::install()?;
            let reload = Reload { asked: Hangups::install()?, read: Box::new(move || settings.load()) };
            let stop = async move {
                let signal = stop.requested().await;
                tracing::info!(signal, "asked to stop");
            };
            // A task of its own: the daemon hands blocking work from worker threads, which this thread is not.
            let ended = tokio::spawn(daemon::run(config, Some(reload), stop, |_| ())).await;
            ended.map_err(|error| Error::internal(format!("run the daemon: {error}")))?
        })
    }
}

/// The daemon's runtime.
pub(super) fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(std::thread::available_parallelism().map_or(2, |n| n.get().max(2)))
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .enable_all()
        .build()
        .context(|| "start the runtime")
}
