//! How long a call to the bucket may take, and how long it waits between its attempts.
//!
//! The wait before attempt n is drawn evenly from 0 to `wait_first * 2^n`, at most `wait_max` ("full jitter": Brooker, 2015),
//! so that nodes which lost the bucket together do not come back together. A bucket that says how long to wait is obeyed.
//!
//! What counts against a call is silence, not size: the time in which bytes moved is added to it. So a large object passes over
//! a slow link, and a bucket that died in the middle of it is told as soon as one that was never there.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::error::Error;
use crate::platform::random::Random;

/// What the slowest link that is worth waiting for carries: who sends less often a byte than this is as good as silent.
const BYTES_PER_SECOND_MIN: u64 = 1_024;
/// How quickly a slow link takes what the kernel holds of a request: bytes count as moved once they are handed to it.
const KERNEL_BYTES_PER_SECOND: u64 = 10 << 10;
/// The longest that the kernel's send buffer is waited for.
pub(super) const KERNEL_TIME_MAX: Duration = Duration::from_secs(60);
/// The longest that a bucket's `Retry-After` is believed: beyond it a deadline would pass without one more attempt.
pub(super) const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);

/// How long a call may take, beside the time in which bytes move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// The whole call, all attempts and waits together.
    pub whole: Duration,
    /// One attempt without a byte.
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

    /// The same for requests with a body of `bytes`: once all of it is sent nothing moves while the kernel's buffer empties.
    pub(super) fn for_body(self, bytes: u64) -> Self {
        let time = Duration::from_secs(bytes / KERNEL_BYTES_PER_SECOND).min(KERNEL_TIME_MAX);
        let (whole, attempt) = (self.whole.saturating_add(time), self.attempt.saturating_add(time));
        Patience { whole, attempt, ..self }
    }

    /// The same where the store may need all of the time for one attempt.
    pub(super) fn for_long_attempts(self) -> Self {
        Patience { attempt: self.whole, ..self }
    }

    /// The call's clock, which starts now.
    pub(super) fn begin(&self) -> Turns {
        let now = Instant::now();
        // A bound that no clock can express is no bound; a century is.
        let end = now.checked_add(self.whole).unwrap_or(now + Duration::from_secs(3_155_760_000));
        Turns { patience: *self, end, attempts: 0, told: None }
    }
}

/// What moved in one attempt, and when.
#[derive(Debug)]
pub(super) struct Moves {
    began: Instant,
    /// How many bytes moved so far, and when nothing did any more.
    moved: Mutex<(u64, Instant)>,
}

impl Moves {
    pub(super) fn begin() -> Self {
        let began = Instant::now();
        Moves { began, moved: Mutex::new((0, began)) }
    }

    /// Bytes moved, and until then none need to.
    pub(super) fn note(&self, bytes: u64, until: Instant) {
        let mut moved = self.moved.lock().unwrap_or_else(PoisonError::into_inner);
        *moved = (moved.0.saturating_add(bytes), moved.1.max(until));
    }

    fn so_far(&self) -> (u64, Instant) {
        *self.moved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Comes back once nothing moved for so long, or less did than on the slowest link.
    pub(super) async fn stopped(&self, quiet: Duration) {
        loop {
            let (bytes, last) = self.so_far();
            let slowest = self.began + quiet + Duration::from_secs(bytes / BYTES_PER_SECOND_MIN);
            let end = (last + quiet).min(slowest);
            if end <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(end).await;
        }
    }

    /// How long bytes moved.
    pub(super) fn time(&self) -> Duration {
        self.so_far().1.min(Instant::now()).saturating_duration_since(self.began)
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

    /// How long nothing may move in an attempt that begins now.
    pub(super) fn quiet(&self) -> Duration {
        self.patience.attempt.min(self.end.saturating_duration_since(Instant::now()))
    }

    /// Adds to the call the time in which bytes moved in an attempt that failed.
    pub(super) fn moved(&mut self, time: Duration) {
        self.end = self.end.checked_add(time).unwrap_or(self.end);
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

    use tokio::time::Instant;

    use super::{Moves, Patience};
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
    async fn an_attempt_ends_when_nothing_moved_for_its_time_or_what_the_call_has_left() {
        let begun = Instant::now();
        let mut turns = Patience::ASKED.begin();
        Moves::begin().stopped(turns.quiet()).await;
        assert_eq!(begun.elapsed().as_secs(), 10);
        Moves::begin().stopped(turns.quiet()).await;
        assert_eq!(begun.elapsed().as_secs(), 15);
        turns.moved(Duration::from_secs(3));
        assert_eq!(turns.quiet(), Duration::from_secs(3));
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_goes_on_while_bytes_move_but_not_for_a_byte_now_and_then() {
        for (bytes, seconds) in [(100_000, 60), (1, 10)] {
            let (begun, moves) = (Instant::now(), Moves::begin());
            let moving = async {
                for _ in 0..10 {
                    tokio::time::sleep(Duration::from_secs(5)).await;
                    moves.note(bytes, Instant::now());
                }
                std::future::pending().await
            };
            tokio::select! { () = moves.stopped(Duration::from_secs(10)) => {}, () = moving => {} }
            assert_eq!(begun.elapsed().as_secs(), seconds, "{bytes} bytes every five seconds");
        }
    }
}
