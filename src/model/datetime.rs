//! Instants as the wire writes them: ISO 8601 in, UTC with a `Z` out, milliseconds.

/// Milliseconds of one day.
const DAY_MS: i64 = 86_400_000;
/// The days, counted from 1970, of the instants that have a notation: the years 0 to 9999 of UTC.
const NOTED_DAYS: std::ops::Range<i64> = -719_528..2_932_897;

/// Reads `YYYY-MM-DD`, or `YYYY-MM-DDTHH:MM:SS` with an optional fraction and an optional `Z` or `±hh:mm`; without a zone
/// it is UTC. Milliseconds since 1970-01-01 UTC, finer digits cut off; `None` when it is no such instant, or when it has no such notation
/// in UTC: what is written can be read, and written again.
pub fn parse(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    let day = days_from_civil(number(bytes, 0, 4)?, number(bytes, 5, 2)?, number(bytes, 8, 2)?)?;
    if bytes.get(4) != Some(&b'-') || bytes.get(7) != Some(&b'-') {
        return None;
    }
    if bytes.len() == 10 {
        return Some(day * DAY_MS);
    }
    let (hour, minute, second) = (number(bytes, 11, 2)?, number(bytes, 14, 2)?, number(bytes, 17, 2)?);
    let separated = matches!(bytes[10], b'T' | b't' | b' ') && bytes[13] == b':' && bytes[16] == b':';
    if !separated || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let (millis, zone) = fraction(&bytes[19..])?;
    let local = ((hour * 60 + minute) * 60 + second) * 1_000 + millis;
    let millis = day * DAY_MS + local - offset_ms(zone)?;
    NOTED_DAYS.contains(&millis.div_euclid(DAY_MS)).then_some(millis)
}

/// Writes an instant as `YYYY-MM-DDTHH:MM:SSZ`, with `.mmm` before the `Z` where it is not a whole second.
pub fn format(millis: i64) -> String {
    let (day, time) = (millis.div_euclid(DAY_MS), millis.rem_euclid(DAY_MS));
    let (year, month, date) = civil_from_days(day);
    let (hour, minute, second) = (time / 3_600_000, time / 60_000 % 60, time / 1_000 % 60);
    let year = match year {
        0..=9_999 => format!("{year:04}"),
        // Such instants are not taken, but files may hold any number, and earlier releases took some.
        _ => format!("{year:+07}"),
    };
    let fraction = match time % 1_000 {
        0 => String::new(),
        rest => format!(".{rest:03}"),
    };
    format!("{year}-{month:02}-{date:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z")
}

/// `count` digits at `at`.
fn number(bytes: &[u8], at: usize, count: usize) -> Option<i64> {
    bytes.get(at..at + count)?.iter().try_fold(0, |n, digit| match digit {
        b'0'..=b'9' => Some(n * 10 + i64::from(digit - b'0')),
        _ => None,
    })
}

/// The milliseconds of a leading fraction, and what follows it.
fn fraction(rest: &[u8]) -> Option<(i64, &[u8])> {
    let Some(digits) = rest.strip_prefix(b".") else { return Some((0, rest)) };
    let count = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if count == 0 || count > 9 {
        return None;
    }
    let millis = (0..3).fold(0, |n, at| n * 10 + if at < count { i64::from(digits[at] - b'0') } else { 0 });
    Some((millis, &digits[count..]))
}

fn offset_ms(zone: &[u8]) -> Option<i64> {
    let (sign, hours, minutes) = match zone {
        [] | b"Z" | b"z" => return Some(0),
        [sign, _, _, b':', _, _] => (sign, number(zone, 1, 2)?, number(zone, 4, 2)?),
        [sign, _, _, _, _] => (sign, number(zone, 1, 2)?, number(zone, 3, 2)?),
        _ => return None,
    };
    if hours > 23 || minutes > 59 {
        return None;
    }
    let millis = (hours * 60 + minutes) * 60_000;
    match sign {
        b'+' => Some(millis),
        b'-' => Some(-millis),
        _ => None,
    }
}

/// Days since 1970-01-01 of a date that exists. After Howard Hinnant, "chrono-compatible low-level date algorithms".
fn days_from_civil(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(leap),
        _ => return None,
    };
    if !(1..=days).contains(&day) {
        return None;
    }
    // Years begin in March, so that the leap day is a year's last.
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
}

/// Year, month and day of a number of days since 1970-01-01; the inverse of [`days_from_civil`].
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::{format, parse};

    #[test]
    fn dates_times_fractions_and_zones_are_read() {
        assert_eq!(parse("1970-01-01"), Some(0));
        assert_eq!(parse("2024-02-29T12:30:45.678Z"), Some(1_709_209_845_678));
        assert_eq!(parse("2026-01-01T01:00:00+01:00"), parse("2026-01-01"));
        assert_eq!(parse("2026-01-01T00:00:00"), parse("2025-12-31T18:30:00-0530"));
        assert_eq!(parse("2026-01-01 00:00:00.123456789"), parse("2026-01-01T00:00:00.123Z"));
        assert_eq!(parse("2026-01-01T00:00:00.5Z"), parse("2026-01-01T00:00:00.500Z"));
        assert_eq!(parse("1969-12-31T23:59:59.999Z"), Some(-1));
    }

    #[test]
    fn what_is_no_instant_is_refused() {
        for text in [
            "",
            "2026",
            "2026-13-01",
            "2026-02-29",
            "2026-00-01",
            "2026-01-32",
            "2026/01/01",
            "2026-01-01T24:00:00",
            "2026-01-01T00:60:00",
            "2026-01-01T00:00:00.",
            "2026-01-01T00:00:00X",
            "2026-01-01T00:00:00+1",
            "2026-01-01T00:00:00+24:00",
            "2026-01-01T00:00",
            "2026-01-01T",
            "+2026-01-01",
            "2026-01-0é",
            "20é6-01-01",
            // What it is in UTC has no notation.
            "9999-12-31T23:59:59-00:01",
            "9999-12-31T23:59:59-23:59",
            "0000-01-01T00:00:00+00:01",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn every_day_comes_back_as_it_was_written() {
        for day in (-719_528..2_932_896_i64).step_by(17) {
            let millis = day * 86_400_000 + 45_296_007;
            assert_eq!(parse(&format(millis)), Some(millis), "{day}");
        }
        for edge in ["0000-01-01T00:00:00Z", "9999-12-31T23:59:59.999Z"] {
            assert_eq!(parse(edge).map(format).as_deref(), Some(edge));
        }
        assert_eq!(parse("9999-12-31T23:59:59+00:01").map(format).as_deref(), Some("9999-12-31T23:58:59Z"));
        assert_eq!(format(0), "1970-01-01T00:00:00Z");
        assert_eq!(format(-1), "1969-12-31T23:59:59.999Z");
        let _ = (format(i64::MIN), format(i64::MAX));
    }
}
