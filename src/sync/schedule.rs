//! When sync runs unattended: windows of the day in UTC.

use std::time::Duration;

use crate::error::{Error, Result};

/// The most windows of a schedule: one a quarter of an hour.
const WINDOWS_MAX: usize = 96;
const MINUTES_A_DAY: u64 = 24 * 60;

/// Windows `HH:MM-HH:MM`, from the first minute up to the second; over midnight where the second is the earlier one. None means
/// always.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Schedule(Vec<(u64, u64)>);

impl Schedule {
    pub fn parse(windows: &[String]) -> Result<Self> {
        if windows.len() > WINDOWS_MAX {
            return Err(Error::invalid(format!(
                "schedule has {} windows, expected at most {WINDOWS_MAX}",
                windows.len()
            )));
        }
        let parsed: Result<Vec<(u64, u64)>> = windows
            .iter()
            .map(|text| {
                window(text).ok_or_else(|| {
                    Error::invalid(format!("schedule: {text:?} is no window of the day"))
                        .with_hint("write HH:MM-HH:MM in UTC, such as 22:00-06:00; an empty list means always")
                })
            })
            .collect();
        Ok(Schedule(parsed?))
    }

    pub fn is_open(&self, now_ms: u64) -> bool {
        let minute = now_ms / 60_000 % MINUTES_A_DAY;
        self.0.is_empty()
            || self.0.iter().any(|&(from, to)| match from < to {
                true => (from..to).contains(&minute),
                false => minute >= from || minute < to,
            })
    }

    /// How long until it opens; nothing when it is open.
    pub fn until_open(&self, now_ms: u64) -> Duration {
        if self.is_open(now_ms) {
            return Duration::ZERO;
        }
        let of_day = now_ms % (MINUTES_A_DAY * 60_000);
        let ahead = |from: u64| (from * 60_000 + MINUTES_A_DAY * 60_000 - of_day) % (MINUTES_A_DAY * 60_000);
        Duration::from_millis(self.0.iter().map(|&(from, _)| ahead(from)).min().unwrap_or(0))
    }
}

fn window(text: &str) -> Option<(u64, u64)> {
    let (from, to) = text.split_once('-')?;
    let (from, to) = (minute(from)?, minute(to)?);
    (from != to && from < MINUTES_A_DAY).then_some((from, to))
}

/// The minute of the day; 24:00 is its end.
fn minute(text: &str) -> Option<u64> {
    let (hours, minutes) = text.split_once(':')?;
    let number = |text: &str| {
        (text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse::<u64>().ok()).flatten()
    };
    let minute = number(hours)? * 60 + number(minutes).filter(|minutes| *minutes < 60)?;
    (minute <= MINUTES_A_DAY).then_some(minute)
}

#[cfg(test)]
mod tests {
    use super::Schedule;

    fn at(hours: u64, minutes: u64) -> u64 {
        1_700_006_400_000 / 86_400_000 * 86_400_000 + (hours * 60 + minutes) * 60_000
    }

    fn schedule(windows: &[&str]) -> Schedule {
        Schedule::parse(&windows.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn a_window_is_open_from_its_first_minute_up_to_its_last_and_may_go_over_midnight() {
        let night = schedule(&["22:00-06:00", "12:00-12:30"]);
        for (hours, minutes, open) in [
            (22, 0, true),
            (23, 59, true),
            (0, 0, true),
            (5, 59, true),
            (6, 0, false),
            (12, 29, true),
            (12, 30, false),
        ] {
            assert_eq!(night.is_open(at(hours, minutes)), open, "{hours}:{minutes}");
        }
        assert!(Schedule::default().is_open(at(3, 0)) && schedule(&["00:00-24:00"]).is_open(at(23, 59)));
    }

    #[test]
    fn it_says_how_long_until_it_opens() {
        let night = schedule(&["22:00-06:00", "12:00-12:30"]);
        let minutes = |hours, minutes| night.until_open(at(hours, minutes)).as_secs() / 60;
        assert_eq!((minutes(6, 0), minutes(13, 0), minutes(23, 0)), (360, 540, 0));
        assert_eq!(schedule(&["01:00-02:00"]).until_open(at(2, 0)).as_secs(), 23 * 3_600);
    }

    #[test]
    fn what_is_no_window_is_refused() {
        for wrong in ["", "22:00", "22-06", "25:00-26:00", "1:00-2:00", "10:60-11:00", "10:00-10:00", "24:00-01:00"] {
            assert!(Schedule::parse(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }
}
