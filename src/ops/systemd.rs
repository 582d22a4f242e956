//! Tells the service manager how the daemon is: ready, alive, stopping. Without a service manager it does nothing.

use std::time::Duration;

use sd_notify::NotifyState;

/// Says that requests are answered from now on.
pub fn ready(listening: &str) {
    let status = format!("listening on {listening}");
    say(&[NotifyState::Ready, NotifyState::Status(&status)]);
}

/// Says that the daemon is on its way out.
pub fn stopping() {
    say(&[NotifyState::Stopping]);
}

/// Feeds the watchdog, twice in each of its periods, for as long as `alive` answers. `alive` runs on the blocking pool
/// and must touch what could hang, so that a daemon that accepts connections but cannot work is restarted. Never
/// returns; returns at once when no watchdog is asked for.
pub async fn feed_watchdog(alive: impl Fn() -> bool + Clone + Send + 'static) {
    let Some(period) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = tokio::time::interval((period / 2).max(Duration::from_millis(10)));
    loop {
        ticks.tick().await;
        let probe = alive.clone();
        if tokio::task::spawn_blocking(probe).await.unwrap_or(false) {
            say(&[NotifyState::Watchdog]);
        }
    }
}

fn say(states: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot tell the service manager");
    }
}
