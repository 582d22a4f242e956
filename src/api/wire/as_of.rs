//! Past states and times to live, as requests name them.

use serde_json::Value as Json;

use super::shape::{map, string, take, wrong};
use crate::error::{Error, Result};
use crate::model::as_of::AsOf;
use crate::model::datetime;
use crate::model::ids::CommitId;

/// The longest time to live: a hundred years.
const TTL_SECONDS_MAX: u64 = 100 * 366 * 86_400;

/// Reads a state: a generation's number; a date and time; `{"generation"|"commit"|"tag"|"instant": ...}`.
pub fn parse_as_of(path: &str, json: Json) -> Result<AsOf> {
    match json {
        Json::Number(number) => number.as_u64().map(AsOf::Generation).ok_or_else(|| expected(path, &number)),
        Json::String(text) => parse_as_of_text(path, &text),
        other => {
            let mut fields = map(path, other, "a generation, a time or a map")?;
            let found = if let Some(generation) = take(&mut fields, "generation") {
                AsOf::Generation(generation.as_u64().ok_or_else(|| expected(path, &generation))?)
            } else if let Some(commit) = take(&mut fields, "commit") {
                let text = string(&format!("{path}.commit"), commit)?;
                AsOf::Commit(text.parse().map(CommitId).map_err(|_| expected(path, &text))?)
            } else if let Some(tag) = take(&mut fields, "tag") {
                AsOf::Tag(string(&format!("{path}.tag"), tag)?)
            } else if let Some(instant) = take(&mut fields, "instant") {
                instant_of(path, &string(&format!("{path}.instant"), instant)?)?
            } else {
                return Err(wrong(path, "expected one of `generation`, `commit`, `tag`, `instant`"));
            };
            match fields.keys().next() {
                None => Ok(found),
                Some(field) => Err(wrong(path, format!("unknown or second field `{field}`"))),
            }
        }
    }
}

/// Reads a state from one word: a generation, a commit's UUID, a date and time, else a tag.
pub fn parse_as_of_text(path: &str, text: &str) -> Result<AsOf> {
    if let Ok(generation) = text.parse() {
        return Ok(AsOf::Generation(generation));
    }
    if let Ok(commit) = text.parse() {
        return Ok(AsOf::Commit(CommitId(commit)));
    }
    match datetime::parse(text) {
        Some(_) => instant_of(path, text),
        None if text.is_empty() => Err(expected(path, &text)),
        None => Ok(AsOf::Tag(text.to_owned())),
    }
}

fn instant_of(path: &str, text: &str) -> Result<AsOf> {
    let millis = datetime::parse(text).and_then(|millis| u64::try_from(millis).ok());
    millis.map(AsOf::Instant).ok_or_else(|| expected(path, &text))
}

fn expected(path: &str, got: &dyn std::fmt::Display) -> Error {
    Error::invalid(format!(
        "{path}: expected a generation's number, a commit's UUID, a tag, or a time such as 2026-01-31T12:00:00Z, got {got}"
    ))
}

/// Reads how long something lives, in milliseconds: seconds as a number, or a number with s, m, h or d behind it.
pub fn parse_ttl(path: &str, json: &Json) -> Result<u64> {
    let seconds = match json {
        Json::Number(number) => number.as_u64(),
        Json::String(text) => {
            let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
            let unit = match unit {
                "" | "s" => Some(1),
                "m" => Some(60),
                "h" => Some(3_600),
                "d" => Some(86_400),
                _ => None,
            };
            unit.and_then(|unit: u64| digits.parse::<u64>().ok()?.checked_mul(unit))
        }
        _ => None,
    };
    match seconds {
        Some(seconds @ 1..=TTL_SECONDS_MAX) => Ok(seconds * 1_000),
        _ => Err(Error::invalid(format!(
            "{path}: expected 1 second to 100 years, as seconds or as 90s, 15m, 2h, 7d; got {json}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::{parse_as_of, parse_ttl};
    use crate::model::as_of::AsOf;
    use crate::model::ids::CommitId;
    use serde_json::{Value as Json, json};
    use uuid::Uuid;

    #[test]
    fn states_are_named_by_number_commit_tag_and_time() {
        let of = |json: Json| parse_as_of("as_of", json).unwrap();
        let commit = "0198d3c0-0000-7000-8000-000000000001";
        let is_commit = AsOf::Commit(CommitId(commit.parse::<Uuid>().unwrap()));
        assert_eq!(of(json!(7)), AsOf::Generation(7));
        assert_eq!(of(json!("7")), AsOf::Generation(7));
        assert_eq!(of(json!({"generation": 7})), AsOf::Generation(7));
        assert_eq!(of(json!(commit)), is_commit);
        assert_eq!(of(json!({"commit": commit})), is_commit);
        assert_eq!(of(json!("release-7")), AsOf::Tag("release-7".into()));
        assert_eq!(of(json!({"tag": "7"})), AsOf::Tag("7".into()));
        assert_eq!(of(json!("1970-01-01T00:00:01Z")), AsOf::Instant(1_000));
        for bad in [json!(-1), json!(1.5), json!(""), json!({}), json!({"tag": "a", "commit": "b"}), json!([1])] {
            assert!(parse_as_of("as_of", bad.clone()).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_to_live_have_units_and_bounds() {
        for (text, ms) in [(json!(90), 90_000), (json!("15m"), 900_000), (json!("2h"), 7_200_000)] {
            assert_eq!(parse_ttl("ttl", &text).unwrap(), ms);
        }
        for bad in [json!(0), json!("0s"), json!("2w"), json!("h"), json!(-3), json!("99999999999d"), json!(null)] {
            assert!(parse_ttl("ttl", &bad).is_err(), "{bad}");
        }
    }
}
