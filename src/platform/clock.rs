//! Time enters here, so that tests own it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The beginning of 2020. A clock that shows less was never set: machines without a battery behind their clock begin in 1970, 2000 or
/// when their firmware was made.
pub const UNSET_BEFORE_MS: u64 = 1_577_836_800_000;

/// Wall-clock time. It may jump in both directions; nothing may rely on it being monotonic.
pub trait Clock: Send + Sync {
    /// Milliseconds since 1970-01-01 UTC.
    fn now_millis(&self) -> u64;

    /// Milliseconds since some moment, which pass as time does whoever sets the clock, sleep of the machine included.
    fn steady_millis(&self) -> u64 {
        self.now_millis()
    }
}

/// The machine's clock.
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the place where time enters")]
    fn now_millis(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn steady_millis(&self) -> u64 {
        static START: OnceLock<Instant> = OnceLock::new();
        // `Instant` stands still while a machine sleeps.
        boot_millis().unwrap_or_else(|| {
            let passed = START.get_or_init(Instant::now).elapsed();
            u64::try_from(passed.as_millis()).unwrap_or(u64::MAX)
        })
    }
}

/// Milliseconds since the machine started, its sleep included. Not from `/proc/uptime`: where a service manager hides what is not about
/// processes there is no such file.
#[cfg(target_os = "linux")]
fn boot_millis() -> Option<u64> {
    let passed = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Some(u64::try_from(passed.tv_sec).ok()? * 1_000 + u64::try_from(passed.tv_nsec).ok()? / 1_000_000)
}

#[cfg(not(target_os = "linux"))]
fn boot_millis() -> Option<u64> {
    None
}

/// A clock that stands still until it is set.
#[derive(Default)]
pub struct ManualClock {
    wall: AtomicU64,
    steady: AtomicU64,
}

impl ManualClock {
    pub fn at(millis: u64) -> Self {
        ManualClock { wall: AtomicU64::new(millis), steady: AtomicU64::new(0) }
    }

    /// Time passes.
    pub fn advance(&self, millis: u64) {
        self.steady.fetch_add(millis, Ordering::SeqCst);
        self.wall.fetch_add(millis, Ordering::SeqCst);
    }

    /// Somebody sets the clock, and no time passes.
    pub fn set(&self, millis: u64) {
        self.wall.store(millis, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_millis(&self) -> u64 {
        self.wall.load(Ordering::SeqCst)
    }

    fn steady_millis(&self) -> u64 {
        self.steady.load(Ordering::SeqCst)
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::{Clock as _, SystemClock};

    /// By what Linux calls its uptime, which does not stand still while the machine sleeps, as `Instant` does.
    #[test]
    fn steady_time_is_the_time_since_the_machine_started() {
        let text = std::fs::read_to_string("/proc/uptime").unwrap();
        let seconds: f64 = text.split_whitespace().next().unwrap().parse().unwrap();
        let passed = SystemClock.steady_millis() as f64 / 1_000.0 - seconds;
        assert!((-1.0..60.0).contains(&passed), "{passed} seconds apart");
    }
}
