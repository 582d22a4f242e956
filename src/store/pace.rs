//! Bounds the bytes per second that go to the bucket or come from it, over all requests together.
//!
//! A token bucket that may go into debt: a piece is let through at once, and whoever comes next waits until its bytes are
//! paid for. So a piece may be larger than what has been saved up, and no request is ever stuck for being too large.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How much of the time in which nothing was sent may be made up for at once. Short, so that a link that others use too does
/// not see bursts.
const SAVED_MAX: Duration = Duration::from_millis(100);

/// Bytes per second, shared by all requests of one direction.
#[derive(Debug)]
pub(super) struct Pace {
    /// 0 for no bound.
    bytes_per_second: u64,
    /// When everything that was let through is paid for.
    paid_at: Mutex<Option<Instant>>,
}

impl Pace {
    pub(super) fn new(bytes_per_second: u64) -> Self {
        Pace { bytes_per_second, paid_at: Mutex::new(None) }
    }

    /// Lets a piece of `bytes` through, and says until when the next piece of the same request is to wait.
    pub(super) fn take(&self, bytes: u64) -> Option<Instant> {
        if self.bytes_per_second == 0 {
            return None;
        }
        let now = Instant::now();
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        let mut paid_at = self.paid_at.lock().unwrap_or_else(PoisonError::into_inner);
        let from = paid_at.unwrap_or(now).max(now.checked_sub(SAVED_MAX).unwrap_or(now));
        // Beyond what a clock can express nobody waits; a deadline ends the request long before.
        let until = from.checked_add(cost).unwrap_or(now);
        *paid_at = Some(until);
        (until > now).then_some(until)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::time::{Instant, sleep_until};

    use super::{Pace, SAVED_MAX};

    async fn send(pace: &Pace, bytes: u64) {
        if let Some(until) = pace.take(bytes) {
            sleep_until(until).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_take_the_time_that_the_bound_gives_them() {
        let pace = Pace::new(1_000);
        let start = Instant::now();
        for _ in 0..10 {
            send(&pace, 500).await;
        }
        assert_eq!(start.elapsed().as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn requests_share_the_bound() {
        let pace = Arc::new(Pace::new(1_000));
        let start = Instant::now();
        let senders: Vec<_> = (0..4)
            .map(|_| {
                let pace = Arc::clone(&pace);
                tokio::spawn(async move {
                    for _ in 0..10 {
                        send(&pace, 100).await;
                    }
                })
            })
            .collect();
        for sender in senders {
            sender.await.unwrap();
        }
        assert_eq!(start.elapsed().as_millis().div_ceil(100), 40);
    }

    #[tokio::test(start_paused = true)]
    async fn idle_time_is_made_up_for_by_a_moments_worth_only() {
        let pace = Pace::new(1_000);
        send(&pace, 1).await;
        tokio::time::advance(Duration::from_secs(3_600)).await;
        let start = Instant::now();
        send(&pace, 2_000).await;
        assert_eq!(start.elapsed().as_millis().div_ceil(100), 19);
        assert_eq!(SAVED_MAX.as_millis(), 100);
    }

    #[test]
    fn no_bound_never_waits() {
        assert!((0..1_000).all(|_| Pace::new(0).take(u64::MAX).is_none()));
    }
}
