//! Counts what goes over the link by the month, across restarts, and says when a monthly budget is used up.
//!
//! Bodies are counted, those of failed attempts included; heads, TLS and the network's own come on top. Only passes that nobody
//! asked for stop at the budget. Months are those of the wall clock, in UTC; in a later one counting begins anew. An earlier one is by a
//! clock that is not set, or was ahead before: what was counted goes on counting, for the earlier month once its clock is believed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::format::traffic::{TrafficFile, VERSION, parse_month};
use crate::model::datetime::format;
use crate::platform::clock::UNSET_BEFORE_MS;

/// The code of the error that says that passes which nobody asked for wait for the next month.
pub const USED_UP: &str = "budget_used_up";

/// The bytes of this month.
pub struct Budget {
    engine: Arc<Engine>,
    /// 0 for no bound.
    bytes_max: u64,
    counted: Mutex<Counted>,
}

struct Counted {
    file: TrafficFile,
    /// The link's counters when they were last looked at: up and down, since the start.
    seen: (u64, u64),
    /// The last time it was kept.
    is_kept: bool,
}

impl Budget {
    pub fn new(engine: Arc<Engine>, bytes_max: u64, now_ms: u64) -> Self {
        let month = month_of(now_ms);
        let fresh = TrafficFile { format: VERSION, month, bytes_up: 0, bytes_down: 0 };
        let file = engine.traffic().filter(|kept| kept.month >= fresh.month).unwrap_or(fresh);
        Budget { engine, bytes_max, counted: Mutex::new(Counted { file, seen: (0, 0), is_kept: true }) }
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Follows the link's counters, durably. Blocking.
    pub fn follow(&self, (up, down): (u64, u64), now_ms: u64) {
        let mut counted = self.counted();
        let (more_up, more_down) = (up.saturating_sub(counted.seen.0), down.saturating_sub(counted.seen.1));
        counted.seen = (up, down);
        let month = month_of(now_ms);
        if (more_up, more_down) == (0, 0) {
            return;
        }
        let file = &mut counted.file;
        if file.month < month {
            *file = TrafficFile { format: VERSION, month, bytes_up: 0, bytes_down: 0 };
        }
        file.bytes_up = file.bytes_up.saturating_add(more_up);
        file.bytes_down = file.bytes_down.saturating_add(more_down);
        self.keep(&mut counted);
    }

    /// Is told the time that is believed: what was counted for a month after that was of this one. Blocking.
    pub fn believe(&self, now_ms: u64) {
        let (mut counted, month) = (self.counted(), month_of(now_ms));
        if now_ms >= UNSET_BEFORE_MS && counted.file.month > month {
            counted.file.month = month;
            self.keep(&mut counted);
        }
    }

    /// Says once that it is not kept, until it is again: it is tried at every look at the link.
    fn keep(&self, counted: &mut Counted) {
        let kept = self.engine.keep_traffic(&counted.file);
        if let Err(error) = &kept
            && counted.is_kept
        {
            tracing::warn!(%error, "the bytes of this month are known until the next start only");
        }
        counted.is_kept = kept.is_ok();
    }

    /// What may go over the link in a month, if that is bounded, and what did in this one.
    pub fn bytes(&self, now_ms: u64) -> (Option<u64>, u64) {
        let counted = self.counted();
        let is_current = counted.file.month >= month_of(now_ms);
        let used = if is_current { counted.file.bytes_up.saturating_add(counted.file.bytes_down) } else { 0 };
        ((self.bytes_max > 0).then_some(self.bytes_max), used)
    }

    /// An error while nothing may go over the link that nobody asked for.
    pub fn check(&self, now_ms: u64) -> Result<()> {
        let seen = self.counted().seen;
        self.check_with(seen, now_ms)
    }

    /// The same, by the link's counters as they are now.
    pub fn check_with(&self, (up, down): (u64, u64), now_ms: u64) -> Result<()> {
        let (bytes_max, used) = self.bytes(now_ms);
        let seen = self.counted().seen;
        let used = used.saturating_add(up.saturating_sub(seen.0)).saturating_add(down.saturating_sub(seen.1));
        let Some(bytes_max) = bytes_max.filter(|bytes_max| used >= *bytes_max) else { return Ok(()) };
        let month = month_of(now_ms).max(self.counted().file.month.clone());
        let day = next_month(&month);
        Err(Error::unavailable(format!(
            "{used} bytes went to and from the bucket this month, and sync.monthly_bytes is {bytes_max}: passes that nobody asks \
             for begin again on {day} (UTC)"
        ))
        .with_code(USED_UP)
        .with_hint("`shoal sync` goes on, and is counted; a larger sync.monthly_bytes lets the others go on, too"))
    }
}

fn month_of(now_ms: u64) -> String {
    let text = format(i64::try_from(now_ms).unwrap_or(i64::MAX));
    let month = text.get(..7).unwrap_or_default();
    // Beyond the year 9999 no month can be told from another.
    if parse_month(month).is_some() { month.to_owned() } else { "9999-12".to_owned() }
}

/// The first day of the month after this one.
fn next_month(month: &str) -> String {
    match parse_month(month) {
        Some((year, 12)) => format!("{:04}-01-01", year + 1),
        Some((year, month)) => format!("{year:04}-{:02}-01", month + 1),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::{month_of, next_month};

    #[test]
    fn months_follow_each_other_over_the_end_of_the_year() {
        assert_eq!(month_of(1_796_083_199_999), "2026-11");
        assert_eq!(next_month("2026-11"), "2026-12-01");
        assert_eq!(next_month("2026-12"), "2027-01-01");
        assert_eq!(month_of(u64::MAX), "9999-12");
    }
}
