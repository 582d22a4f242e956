//! How long a call to the bucket may take, and how long it waits between its attempts.
//!
//! The wait before attempt n is drawn evenly from 0 to `wait_first * 2^n`, at most `wait_max` ("full jitter": Brooker, 2015),
//! so that nodes which lost the bucket together do not come back together. A bucket that says how long to wait is obeyed.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::Error;
use crate::platform::random::Random;

/// What the slowest link that is worth waiting for carries. An attempt gets, beside its fixed time, the time that its bytes
/// take at this rate, so that a large object is not given up for its size.
const BYTES_PER_SECOND_MIN: u64 = 1_024;
/// The longest that a bucket's `Retry-After` is believed: beyond it a deadline would pass without one more attempt.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// How long a call may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// The whole call, all attempts and waits together.
    pub whole: Duration,
    /// One attempt, beside the time that its bytes take.
    pub attempt: Duration,
    /// Bound of the wait before the second attempt; it doubles with each.
    pub wait_first: Duration,
    /// What it doubles up to.
    pub wait_max: Duration,
}

impl Patience {
    /// For calls that a person or a query waits for.
    pub const ASKED: Patience = Patience {
        whole: Duration::from_secs(15),
        attempt: Duration::from_secs(10),
        wait_first: Duration::from_millis(100),
        wait_max: Duration::from_secs(2),
    };
    /// For work that nobody waits for: uploads over slow links, reclaim.
    pub const BACKGROUND: Patience = Patience {
        whole: Duration::from_secs(600),
        attempt: Duration::from_secs(30),
        wait_first: Duration::from_millis(250),
        wait_max: Duration::from_secs(30),
    };

    /// The same with another bound on the whole call.
    pub const fn within(self, whole: Duration) -> Self {
        Patience { whole, ..self }
    }

    /// The same with the time in addition that `bytes` take on the slowest link that is worth waiting for.
    pub(super) fn for_bytes(self, bytes: u64) -> Self {
        self.within(self.whole.saturating_add(Duration::from_secs(bytes / BYTES_PER_SECOND_MIN)))
    }

    /// The call's clock, which starts now.
    pub(super) fn begin(&self) -> Turns {
        let now = Instant::now();
        // A bound that no clock can express is no bound; a century is.
        let end = now.checked_add(self.whole).unwrap_or(now + Duration::from_secs(3_155_760_000));
        Turns { patience: *self, end, attempts: 0, told: None }
    }
}

/// The attempts of one call.
#[derive(Debug)]
pub(super) struct Turns {
    patience: Patience,
    end: Instant,
    attempts: u32,
    /// The failure that says most of what is wrong.
    told: Option<Error>,
}

impl Turns {
    /// When the call ends.
    pub(super) fn end(&self) -> Instant {
        self.end
    }

    pub(super) fn attempts(&self) -> u32 {
        self.attempts
    }

    pub(super) fn whole(&self) -> Duration {
        self.patience.whole
    }

    /// Which error to report: that of the last attempt, unless only its time ran out and an earlier one said more.
    pub(super) fn telling(&mut self, error: Error, silent: bool) -> Error {
        let error = self.told.take().filter(|_| silent).unwrap_or(error);
        self.told = Some(error.duplicate());
        error
    }

    /// When an attempt that moves `bytes` ends, if it began now.
    pub(super) fn attempt_end(&self, bytes: u64) -> Instant {
        let time = self.patience.attempt.saturating_add(Duration::from_secs(bytes / BYTES_PER_SECOND_MIN));
        Instant::now().checked_add(time).map_or(self.end, |end| end.min(self.end))
    }

    /// Counts an attempt that failed, and says how long to wait before the next; none when the call would be over by then.
    pub(super) fn next_wait(&mut self, random: &dyn Random, retry_after: Option<Duration>) -> Option<Duration> {
        let most = self
            .patience
            .wait_first
            .saturating_mul(2u32.saturating_pow(self.attempts.min(30)))
            .min(self.patience.wait_max);
        self.attempts = self.attempts.saturating_add(1);
        let nanos = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
        // Drawn by the high bits of a product: even, but for a share of 2^-64.
        let drawn = (u128::from(random.next_u64()) * u128::from(nanos)) >> 64;
        let wait = Duration::from_nanos(drawn as u64).max(retry_after.unwrap_or_default().min(RETRY_AFTER_MAX));
        Instant::now().checked_add(wait).filter(|next| *next < self.end).map(|_| wait)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::Patience;
    use crate::error::Error;
    use crate::platform::random::SeededRandom;

    #[tokio::test(start_paused = true)]
    async fn waits_double_up_to_their_bound_and_are_drawn_from_all_of_it() {
        let random = SeededRandom::new(1);
        let mut most = [Duration::ZERO; 8];
        for _ in 0..1_000 {
            let mut turns = Patience::ASKED.within(Duration::from_secs(1_000)).begin();
            for most in &mut most {
                *most = (*most).max(turns.next_wait(&random, None).unwrap());
            }
        }
        let bounds = [100, 200, 400, 800, 1_600, 2_000, 2_000, 2_000].map(Duration::from_millis);
        for (most, bound) in most.into_iter().zip(bounds) {
            assert!(most <= bound && most > bound.mul_f64(0.98), "{most:?} of {bound:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_the_bucket_asks_for_is_obeyed_if_the_deadline_leaves_time_for_it() {
        let random = SeededRandom::new(1);
        let mut turns = Patience::ASKED.begin();
        assert_eq!(turns.next_wait(&random, Some(Duration::from_secs(9))), Some(Duration::from_secs(9)));
        assert_eq!(turns.next_wait(&random, Some(Duration::from_secs(15))), None);
        assert_eq!(turns.attempts(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_that_ran_out_of_time_does_not_hide_what_an_earlier_one_said() {
        let mut turns = Patience::ASKED.begin();
        let mut tell = |text: &str, silent| turns.telling(Error::unavailable(text), silent).message().to_owned();
        let told = [("late", true), ("refused", false), ("late", true), ("gone", false), ("late", true)];
        let heard = told.map(|(text, silent)| tell(text, silent));
        assert_eq!(heard, ["late", "refused", "refused", "gone", "gone"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_gets_time_for_its_bytes_but_not_more_than_the_call_has() {
        let turns = Patience::BACKGROUND.begin();
        let now = tokio::time::Instant::now();
        assert_eq!(turns.attempt_end(0) - now, Duration::from_secs(30));
        assert_eq!(turns.attempt_end(102_400) - now, Duration::from_secs(130));
        assert_eq!(turns.attempt_end(u64::MAX), turns.end());
    }
}
