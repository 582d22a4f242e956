//! Whether the wall clock may say how old something is, where what is old goes for good.
//!
//! Boxes start without a battery behind their clock, and clocks are set. Time that passed on the wall and not otherwise is a jump, and
//! the wall is doubted: until a store tells the time, or for a day. What a process before this one saw last is gone on from: a wall that
//! went back since, or on by more than machines are off, jumped, too. A doubt outlasts the process, and so does how long the node has run
//! with it; where nobody knows what a process before this one saw, the wall is doubted as well.
//!
//! The sum of all jumps is kept, of small ones, too: somebody who sets a clock on by half an hour is no reason to doubt it, and no time
//! passed. What the wall shows less that sum moves only as time passes: what is to last so long from now on is measured by it, and
//! need not doubt anything. So is how long ago something was that the wall dated, by what it had jumped by then.

use std::collections::VecDeque;
use std::time::Duration;

/// The wall may move away so far from time that passes before it is doubted.
pub const JUMP_MS: u64 = 3_600 * 1_000;
/// What it moves away by less between two looks is no jump: it may be drift, or a time service that slews, which corrects up to a tenth
/// of the time that passes, and looks are a minute apart where a node has nothing to do.
const DRIFT_MS: u64 = 10 * 1_000;
/// So long after a jump the wall is believed again, whoever confirms it.
const DOUBT_MS: u64 = 24 * 3_600 * 1_000;
/// Between two processes the wall may go on by so much: a machine that was off for longer is taken for one whose clock was wrong.
const OFF_MS_MAX: u64 = 30 * 24 * 3_600 * 1_000;

/// So many jumps are remembered one by one.
const STRETCHES_MAX: usize = 16;
/// So often what was seen is kept durably: a power cut costs as much of the time that passed.
const KEPT_EVERY_MS: u64 = 3_600 * 1_000;

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

/// What outlasts a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Remembered {
    /// What the wall showed last.
    pub wall_ms: u64,
    /// The sum of all jumps.
    pub jumps_ms: i64,
    /// Where the wall is doubted: for how long processes have, and what it showed before it went back, if it did.
    pub doubted: Option<(u64, Option<u64>)>,
}

/// A wall that nobody believes.
#[derive(Debug)]
struct Doubt {
    /// Since when this process does.
    since: u64,
    /// For how long others did before it.
    before_ms: u64,
    /// What the wall showed before it went back, where it did.
    from_ms: Option<u64>,
    /// How often a store had told the time until then, where that was asked.
    said: Option<u64>,
}

impl Doubt {
    fn new(since: u64, before_ms: u64, from_ms: Option<u64>) -> Self {
        Doubt { since, before_ms, from_ms, said: None }
    }

    /// Whether the wall shows what it would if it had never gone back, and the machine had been off since.
    fn is_undone(&self, wall_ms: u64) -> bool {
        self.from_ms.is_some_and(|from| (from..=from.saturating_add(OFF_MS_MAX)).contains(&wall_ms))
    }

    fn ran_ms(&self, steady_ms: u64) -> u64 {
        self.before_ms.saturating_add(steady_ms.saturating_sub(self.since))
    }
}

/// A time between two jumps. By the wall without its jumps, from the last look before the one that noticed the first to the one that
/// noticed the second.
#[derive(Debug)]
struct Stretch {
    from_ms: u64,
    until_ms: u64,
    /// The sum of all jumps then.
    jumps_ms: i64,
}

/// Watches the wall clock.
#[derive(Debug, Default)]
pub struct Wall {
    /// What it showed last and, in this process, when.
    last: Option<(u64, Option<u64>)>,
    jumps_ms: i64,
    /// The sum of all jumps that another process saw, and whether the wall went back between that one and this: for how long the machine
    /// was off is not known then.
    jumps_before_ms: i64,
    went_back: bool,
    /// The stretches before the last jump, oldest first, and where the one since begins.
    before: VecDeque<Stretch>,
    since_ms: u64,
    doubted: Option<Doubt>,
    kept: Option<u64>,
}

impl Wall {
    /// Goes on from what another process saw, where there was one; nobody may know what that was. `steady_ms`: as in [`Wall::look`], now.
    pub fn resume(remembered: Option<Remembered>, steady_ms: u64) -> Self {
        let Some(Remembered { wall_ms, jumps_ms, doubted }) = remembered else {
            tracing::warn!(
                "what the clock showed until the last stop is lost with the index; nothing goes for its age until the bucket tells the time, or for a day"
            );
            return Wall { doubted: Some(Doubt::new(steady_ms, 0, None)), ..Wall::default() };
        };
        let doubted = doubted.map(|(before_ms, from_ms)| Doubt::new(steady_ms, before_ms, from_ms));
        Wall { last: Some((wall_ms, None)), jumps_ms, jumps_before_ms: jumps_ms, doubted, ..Wall::default() }
    }

    /// Is told what the wall shows now and then, and how much time has passed since some moment. Whether that is to be kept durably:
    /// where it jumped, and now and then.
    pub fn look(&mut self, wall_ms: u64, steady_ms: u64) -> bool {
        let is_due = self.kept.is_none_or(|kept| steady_ms.saturating_sub(kept) >= KEPT_EVERY_MS);
        let is_kept = self.jumped(wall_ms, steady_ms) || is_due;
        if is_kept {
            self.kept = Some(steady_ms);
        }
        is_kept
    }

    fn jumped(&mut self, wall_ms: u64, steady_ms: u64) -> bool {
        let last = self.last.replace((wall_ms, Some(steady_ms)));
        if last.is_some_and(|(_, seen)| seen.is_none()) {
            // It was wrong for one start, and is set again.
            self.doubted.take_if(|doubt| doubt.is_undone(wall_ms));
        }
        let expected = match last {
            None => wall_ms,
            Some((before_ms, Some(before))) => before_ms.saturating_add(steady_ms.saturating_sub(before)),
            Some((before_ms, None)) if wall_ms > before_ms && wall_ms - before_ms <= OFF_MS_MAX => wall_ms,
            Some((before_ms, None)) => before_ms,
        };
        let away = wall_ms.abs_diff(expected);
        if away <= DRIFT_MS {
            return false;
        }
        self.went_back |= wall_ms < expected && last.is_some_and(|(_, seen)| seen.is_none());
        let by = i64::try_from(away).unwrap_or(i64::MAX);
        let (jumps_ms, last_ms) = (self.jumps_ms, last.map_or(wall_ms, |(last_ms, _)| last_ms));
        self.jumps_ms = jumps_ms.saturating_add(if wall_ms > expected { by } else { -by });
        let until_ms = without(wall_ms, self.jumps_ms);
        self.before.push_back(Stretch { from_ms: self.since_ms, until_ms, jumps_ms });
        self.since_ms = without(last_ms, jumps_ms);
        if self.before.len() > STRETCHES_MAX {
            self.before.pop_front();
        }
        if away <= JUMP_MS {
            return true;
        }
        self.doubted = Some(Doubt::new(steady_ms, 0, Some(last_ms).filter(|_| wall_ms < expected)));
        tracing::warn!(
            minutes = Duration::from_millis(away).as_secs() / 60,
            "the clock jumped; nothing goes for its age until the bucket tells the time, or for a day"
        );
        true
    }

    /// The time in milliseconds by which something may be called old, or none while the clock is doubted.
    pub fn believed(&mut self, wall_ms: u64, steady_ms: u64, store: Option<StoreClock>) -> Option<u64> {
        self.jumped(wall_ms, steady_ms);
        let said = store.map_or(0, |store| store.said);
        if let Some(doubt) = &mut self.doubted {
            let before = *doubt.said.get_or_insert(said);
            if said > before || doubt.ran_ms(steady_ms) >= DOUBT_MS {
                self.doubted = None;
            }
        }
        if self.doubted.is_some() {
            return None;
        }
        Some(store.map_or(wall_ms, |store| store.at(wall_ms)))
    }

    /// What the next process is to go on from; none before the first look.
    pub fn remembered(&self) -> Option<Remembered> {
        let (wall_ms, seen) = self.last?;
        let doubted = self.doubted.as_ref().map(|doubt| (doubt.ran_ms(seen.unwrap_or(doubt.since)), doubt.from_ms));
        Some(Remembered { wall_ms, jumps_ms: self.jumps_ms, doubted })
    }

    /// How long ago it was that the wall showed `since_ms`, when it shows `wall_ms`: at least, where it showed that several times.
    pub fn age_ms(&self, since_ms: u64, wall_ms: u64) -> u64 {
        let now_ms = without(wall_ms, self.jumps_ms);
        let newest = Stretch { from_ms: self.since_ms, until_ms: now_ms, jumps_ms: self.jumps_ms };
        let mut all = std::iter::once(&newest).chain(self.before.iter().rev());
        let found = all.find_map(|stretch| {
            let at_ms = without(since_ms, stretch.jumps_ms);
            (stretch.from_ms..=stretch.until_ms.min(now_ms)).contains(&at_ms).then(|| now_ms - at_ms)
        });
        found.unwrap_or_else(|| wall_ms.saturating_sub(since_ms))
    }

    /// How long ago at most it was that some other clock, which was right, showed `since_ms`, when this one shows `wall_ms`. `None` where
    /// it does not tell: while it is doubted, where it went back since a process before this one, and where it is not that late yet.
    pub fn age_at_most_ms(&self, since_ms: u64, wall_ms: u64) -> Option<u64> {
        let back = self.jumps_before_ms.saturating_sub(self.jumps_ms).max(0);
        if self.doubted.is_some() || (self.went_back && back > 0) {
            return None;
        }
        // By what it would show if it had not been set back since the start.
        wall_ms.saturating_add_signed(back).checked_sub(since_ms)
    }

    /// The sum of all jumps up to the last look.
    pub fn jumps_ms(&self) -> i64 {
        self.jumps_ms
    }
}

/// What the wall shows without its jumps.
fn without(wall_ms: u64, jumps_ms: i64) -> u64 {
    wall_ms.saturating_add_signed(jumps_ms.saturating_neg())
}

#[cfg(test)]
mod tests {
    use super::{Remembered, StoreClock, Wall};

    const MINUTE: u64 = 60_000;
    const DAY: u64 = 24 * 60 * MINUTE;

    #[test]
    fn time_that_passes_is_believed_and_a_jump_for_a_day_is_not() {
        let mut wall = Wall::default();
        let at = |minutes: u64| 7 + minutes * MINUTE;
        assert_eq!(wall.believed(30 * DAY, at(0), None), Some(30 * DAY));
        assert_eq!(wall.believed(30 * DAY + MINUTE, at(1), None), Some(30 * DAY + MINUTE));
        for minute in [2, 700, 1_441] {
            assert_eq!(wall.believed(90 * DAY + minute * MINUTE, at(minute), None), None, "minute {minute}");
        }
        let later = 90 * DAY + 1_442 * MINUTE;
        assert_eq!(wall.believed(later, at(1_442), None), Some(later));
        assert_eq!(wall.jumps_ms(), (60 * DAY) as i64);
        assert_eq!(wall.believed(30 * DAY, at(1_443), None), None, "and back");
        assert_eq!(wall.jumps_ms(), -(1_443 * MINUTE as i64));
    }

    #[test]
    fn a_store_that_tells_the_time_after_a_jump_ends_the_doubt_and_is_right() {
        let mut wall = Wall::default();
        let store = |ahead_seconds, said| Some(StoreClock { ahead_seconds, said });
        assert_eq!(wall.believed(30 * DAY, 0, store(60, 1)), Some(30 * DAY - MINUTE));
        assert_eq!(wall.believed(90 * DAY, 0, store(60, 1)), None, "it said so before the jump");
        let ahead = 60 * 24 * 3_600;
        assert_eq!(wall.believed(90 * DAY, 0, store(ahead, 2)), Some(30 * DAY));
    }

    #[test]
    fn a_jump_between_two_processes_is_doubted_and_counted_and_a_night_is_not() {
        let resumed = |wall_ms| Wall::resume(Some(Remembered { wall_ms, jumps_ms: 5, doubted: None }), 3);
        for (now, jump) in [(100, 0), (130, 0), (131, 31), (1_000, 900), (99, -1), (0, -100)] {
            let mut wall = resumed(100 * DAY);
            let believed = wall.believed(now * DAY, 3, None);
            assert_eq!(believed, Some(now * DAY).filter(|_| jump == 0), "day {now}");
            assert_eq!(wall.jumps_ms(), 5 + jump * DAY as i64, "day {now}");
            let passed = DAY + MINUTE;
            assert_eq!(wall.believed(now * DAY + passed, 3 + passed, None), Some(now * DAY + passed), "day {now}");
            let remembered = Remembered { wall_ms: now * DAY + passed, jumps_ms: wall.jumps_ms(), doubted: None };
            assert_eq!(wall.remembered(), Some(remembered));
        }
    }

    #[test]
    fn a_doubt_outlasts_processes_until_they_have_run_for_a_day_together() {
        let mut shown = 30 * DAY;
        let mut wall = Wall::default();
        wall.look(shown, 0);
        shown += 60 * DAY;
        assert_eq!(wall.believed(shown, 0, None), None);
        for boot in 0..4 {
            shown += DAY / 4 - MINUTE;
            assert_eq!(wall.believed(shown, 5 + DAY / 4 - MINUTE, None), None, "boot {boot}");
            // Nobody knows for how long it is off.
            shown += DAY;
            wall = Wall::resume(wall.remembered(), 5);
            assert_eq!(wall.believed(shown, 5, None), None, "boot {boot}");
        }
        shown += 4 * MINUTE;
        assert_eq!(wall.believed(shown, 5 + 4 * MINUTE, None), Some(shown));
        assert_eq!(Wall::resume(wall.remembered(), 9).believed(shown, 9, None), Some(shown));
    }

    #[test]
    fn a_clock_that_was_wrong_for_one_start_is_believed_again_when_it_is_right() {
        for (back, off, is_believed) in [(29 * DAY, DAY, true), (2 * 60 * MINUTE, 0, true), (DAY, 31 * DAY, false)] {
            let mut wall = Wall::default();
            wall.look(100 * DAY, 0);
            let mut wall = Wall::resume(wall.remembered(), 5);
            assert_eq!(wall.believed(100 * DAY - back, 5, None), None);
            let mut wall = Wall::resume(wall.remembered(), 5);
            let shown = 100 * DAY + off;
            assert_eq!(wall.believed(shown, 5, None).is_some(), is_believed, "{back} back, {off} off");
        }
        let mut wall = Wall::default();
        wall.look(100 * DAY, 0);
        wall.look(120 * DAY, 0);
        let mut wall = Wall::resume(wall.remembered(), 5);
        assert_eq!(wall.believed(120 * DAY, 5, None), None, "it went on, and nothing says that it was off");
    }

    #[test]
    fn a_clock_of_which_nobody_knows_what_it_showed_is_doubted() {
        let mut wall = Wall::resume(None, 7);
        assert_eq!(wall.believed(30 * DAY, 7, None), None);
        assert_eq!(wall.believed(31 * DAY, 7 + DAY, None), Some(31 * DAY));
    }

    #[test]
    fn a_clock_that_is_set_by_minutes_is_believed_and_counted_and_drift_is_not() {
        let (mut wall, mut shown) = (Wall::default(), 30 * DAY);
        wall.look(shown, 0);
        for (minute, by, jumps) in [(1, 55, 55), (2, -60, -5), (3, 1, -4)] {
            shown = (shown + MINUTE).saturating_add_signed(by * MINUTE as i64);
            assert_eq!(wall.believed(shown, minute * MINUTE, None), Some(shown), "minute {minute}");
            assert_eq!(wall.jumps_ms(), jumps * MINUTE as i64, "minute {minute}");
        }
        for minute in 4..1_000 {
            shown += MINUTE + 5_000;
            assert!(wall.believed(shown, minute * MINUTE, None).is_some());
        }
        assert_eq!(wall.jumps_ms(), -4 * MINUTE as i64);
    }

    #[test]
    fn what_another_clock_dated_is_never_called_younger_than_it_is() {
        // An hour passes, and another one in which the machine is off or not; what is asked for was a day before.
        for (off, by, told) in [
            (true, 0, Some(0)),
            (true, -1, None),
            (true, -61, None),
            (true, 60, Some(60)),
            (false, 0, Some(0)),
            (false, -1, Some(0)),
            (false, -60, Some(0)),
            (false, 60, Some(60)),
            (false, -61, None),
            (false, 61, None),
        ] {
            let mut wall = Wall::resume(Some(Remembered { wall_ms: 30 * DAY, jumps_ms: -7, doubted: None }), 0);
            wall.look(30 * DAY + 60 * MINUTE, 0);
            if off {
                wall = Wall::resume(wall.remembered(), 0);
            }
            let passed = if off && by < 0 { 0 } else { 60 };
            let shown = (30 * DAY + (60 + passed) * MINUTE).saturating_add_signed(by * MINUTE as i64);
            wall.look(shown, 60 * MINUTE);
            let age = wall.age_at_most_ms(29 * DAY, shown);
            let expected = told.map(|more: u64| DAY + (120 + more) * MINUTE);
            assert_eq!(age, expected, "off {off}, set by {by} minutes");
            assert_eq!(wall.age_at_most_ms(shown + 121 * MINUTE, shown), None, "nobody saw that");
        }
    }

    #[test]
    fn how_long_ago_something_was_is_told_whatever_the_clock_was_set_to() {
        let mut wall = Wall::resume(Some(Remembered { wall_ms: 30 * DAY, jumps_ms: 7, doubted: None }), 0);
        let (mut seen, mut shown) = (Vec::new(), 0_u64);
        for (minute, by) in [(0, 0), (10, 360), (20, -720), (30, 20 * 525_600), (40, -5)] {
            shown = 30 * DAY + minute * MINUTE;
            shown = shown.saturating_add_signed(by * MINUTE as i64);
            wall.look(shown, minute * MINUTE);
            seen.push((minute, shown));
            for (then, since) in &seen {
                assert_eq!(wall.age_ms(*since, shown), (minute - then) * MINUTE, "of minute {then} at {minute}");
            }
        }
        assert_eq!(wall.age_at_most_ms(shown - DAY, shown), None, "it is doubted");
        assert_eq!(wall.age_ms(shown + DAY, shown), 0, "nobody saw that");
        assert_eq!(wall.age_ms(shown - 20 * DAY, shown), 20 * DAY + 5 * MINUTE, "by what it had jumped by before");
    }
}
