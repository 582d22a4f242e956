//! Whether the wall clock may say how old something is, where what is old goes for good.
//!
//! Boxes start without a battery behind their clock, and clocks are set. Time that passed on the wall and not otherwise is doubted:
//! until a store tells the time, or for a day.

use std::time::Duration;

use tokio::time::Instant;

/// The wall may move away so far from time that passes before it is doubted.
const JUMP: Duration = Duration::from_secs(3_600);
/// So long after a jump the wall is believed again, whoever confirms it.
const DOUBT: Duration = Duration::from_secs(24 * 3_600);

/// What a store says of this machine's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreClock {
    /// By how many seconds this machine's clock is ahead.
    pub ahead_seconds: i64,
    /// How often a store has said so.
    pub said: u64,
}

impl StoreClock {
    /// The store's time, in milliseconds, when this machine's clock shows `wall_ms`.
    pub fn at(&self, wall_ms: u64) -> u64 {
        wall_ms.saturating_add_signed(self.ahead_seconds.saturating_mul(1_000).saturating_neg())
    }
}

/// Watches the wall clock.
#[derive(Debug, Default)]
pub struct Wall {
    last: Option<(u64, Instant)>,
    /// When it jumped, and how often a store had told the time until then.
    doubted: Option<(Instant, u64)>,
}

impl Wall {
    /// The time in milliseconds by which something may be called old, or none while the clock is doubted. Told what the wall shows
    /// now and then, by its own measure of `now`.
    pub fn believed(&mut self, wall_ms: u64, now: Instant, store: Option<StoreClock>) -> Option<u64> {
        let said = store.map_or(0, |store| store.said);
        if let Some((before_ms, before)) = self.last.replace((wall_ms, now)) {
            let passed = u64::try_from(now.duration_since(before).as_millis()).unwrap_or(u64::MAX);
            let away = wall_ms.abs_diff(before_ms.saturating_add(passed));
            if u128::from(away) > JUMP.as_millis() {
                tracing::warn!(
                    minutes = away / 60_000,
                    "the clock jumped; nothing goes for its age until the bucket tells the time, for a day, or until the next start"
                );
                self.doubted = Some((now, said));
            }
        }
        self.doubted = self.doubted.filter(|(since, before)| now.duration_since(*since) < DOUBT && said <= *before);
        if self.doubted.is_some() {
            return None;
        }
        Some(store.map_or(wall_ms, |store| store.at(wall_ms)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::Instant;

    use super::{StoreClock, Wall};

    const MINUTE: u64 = 60_000;
    const DAY: u64 = 24 * 60 * MINUTE;

    #[test]
    fn time_that_passes_is_believed_and_a_jump_for_a_day_is_not() {
        let (mut wall, start) = (Wall::default(), Instant::now());
        let at = |minutes: u64| start + Duration::from_secs(60 * minutes);
        assert_eq!(wall.believed(30 * DAY, at(0), None), Some(30 * DAY));
        assert_eq!(wall.believed(30 * DAY + MINUTE, at(1), None), Some(30 * DAY + MINUTE));
        for minute in [2, 700, 1_441] {
            assert_eq!(wall.believed(90 * DAY + minute * MINUTE, at(minute), None), None, "minute {minute}");
        }
        let later = 90 * DAY + 1_442 * MINUTE;
        assert_eq!(wall.believed(later, at(1_442), None), Some(later));
        assert_eq!(wall.believed(30 * DAY, at(1_443), None), None, "and back");
    }

    #[test]
    fn a_store_that_tells_the_time_after_a_jump_ends_the_doubt_and_is_right() {
        let (mut wall, start) = (Wall::default(), Instant::now());
        let store = |ahead_seconds, said| Some(StoreClock { ahead_seconds, said });
        assert_eq!(wall.believed(30 * DAY, start, store(60, 1)), Some(30 * DAY - MINUTE));
        assert_eq!(wall.believed(90 * DAY, start, store(60, 1)), None, "it said so before the jump");
        let ahead = 60 * 24 * 3_600;
        assert_eq!(wall.believed(90 * DAY, start, store(ahead, 2)), Some(30 * DAY));
    }
}
