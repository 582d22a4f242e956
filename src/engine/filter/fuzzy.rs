//! Whether a text holds something close to a query: a part of it that so few edits make of the query.
//!
//! Edits are insertions, deletions and substitutions of characters. Two steps:
//! 1. The query is cut into one piece more than edits are allowed, so one of them is whole in whatever matches; most texts
//!    have none and are done.
//! 2. Else the table of edits is filled text character by text character, from any beginning in the text (Sellers, "The Theory
//!    and Computation of Evolutionary Distances", J. Algorithms 1980), and only as deep as it stays within the edits that are
//!    allowed (Ukkonen, "Finding Approximate Patterns in Strings", J. Algorithms 1985).

use serde_json::Value as Json;

use super::bind::Leaf;
use crate::engine::write::typing;
use crate::error::{Error, Result};
use crate::model::filter::Fuzzy;
use crate::platform::allowance::Allowance;

/// The most edits.
const DISTANCE_MAX: u64 = 2;
/// Query characters for each edit, and for none: shorter pieces would be in nearly every text.
const CHARS_PER_EDIT: u64 = 3;
/// The most thresholds of one filter.
const THRESHOLDS_MAX: usize = 16;
/// How many edits of the table are counted before the allowance is asked: about a millisecond.
const EDITS_PER_CHECK: usize = 1 << 19;

/// Binds a query and its options; `None` when it is too short for any of them, so that nothing matches.
pub(super) fn bind(at: &Leaf<'_>, query: &str, options: Option<&Json>) -> Result<Option<Fuzzy>> {
    let mismatch = || {
        at.error(format!(
            "Fuzzy expects options {{\"max_edit_distance\": [{{\"min_query_chars\": int, \"distance\": int}}], \
             \"case_sensitive\": bool}}, but got '{}'",
            options.map_or_else(|| "nothing".to_owned(), typing::show)
        ))
    };
    let known = |key: &str| matches!(key, "max_edit_distance" | "case_sensitive");
    let map =
        options.and_then(Json::as_object).filter(|map| map.keys().all(|key| known(key))).ok_or_else(mismatch)?;
    let case_sensitive = match map.get("case_sensitive") {
        None | Some(Json::Null) => true,
        Some(flag) => flag.as_bool().ok_or_else(mismatch)?,
    };
    let thresholds = map.get("max_edit_distance").and_then(Json::as_array).ok_or_else(mismatch)?;
    if thresholds.is_empty() || thresholds.len() > THRESHOLDS_MAX {
        return Err(at.error(format!(
            "max_edit_distance has {} thresholds, expected 1 to {THRESHOLDS_MAX}",
            thresholds.len()
        )));
    }
    let chars = fold(query, case_sensitive);
    let length = query.chars().count() as u64;
    let mut distance = None;
    for threshold in thresholds {
        let number = |key: &str| threshold.get(key).and_then(Json::as_u64).ok_or_else(mismatch);
        let (least, edits) = (number("min_query_chars")?, number("distance")?);
        check(at, least, edits)?;
        if length >= least {
            distance = distance.max(Some(edits));
        }
    }
    let Some(distance) = distance else { return Ok(None) };
    let distance = distance as usize;
    let each = chars.len().div_ceil(distance + 1).max(1);
    let pieces = chars.chunks(each).map(|piece| piece.iter().collect()).collect();
    Ok(Some(Fuzzy { query: chars, pieces, distance, case_sensitive }))
}

fn check(at: &Leaf<'_>, least: u64, edits: u64) -> Result<(), Error> {
    if edits > DISTANCE_MAX {
        return Err(at.error(format!("distance of max_edit_distance is {edits}, expected 0 to {DISTANCE_MAX}")));
    }
    let needed = CHARS_PER_EDIT * (edits + 1);
    if least < needed {
        return Err(at.error(format!(
            "min_query_chars of max_edit_distance is {least}, expected at least {needed} for a distance of {edits}"
        )));
    }
    Ok(())
}

/// The characters of a text, each by itself in lower case where case does not count.
fn fold(text: &str, case_sensitive: bool) -> Vec<char> {
    if case_sensitive { text.chars().collect() } else { text.chars().flat_map(char::to_lowercase).collect() }
}

/// Whether some part of `text` is close enough.
pub(super) fn matches(fuzzy: &Fuzzy, text: &str, allowance: &Allowance) -> Result<bool> {
    allowance.look_at(text.len())?;
    if fuzzy.case_sensitive {
        return Ok(has_piece(fuzzy, text) && is_close(fuzzy, text.chars(), allowance)?);
    }
    let folded: String = text.chars().flat_map(char::to_lowercase).collect();
    Ok(has_piece(fuzzy, &folded) && is_close(fuzzy, folded.chars(), allowance)?)
}

fn has_piece(fuzzy: &Fuzzy, text: &str) -> bool {
    fuzzy.pieces.len() <= fuzzy.distance || fuzzy.pieces.iter().any(|piece| text.contains(piece.as_str()))
}

fn is_close(fuzzy: &Fuzzy, text: impl Iterator<Item = char>, allowance: &Allowance) -> Result<bool> {
    let (query, allowed) = (&fuzzy.query, fuzzy.distance);
    if query.len() <= allowed {
        return Ok(true);
    }
    // Per length of the query's beginning the fewest edits that make it of a part of the text that ends here.
    let mut edits: Vec<usize> = (0..=query.len()).collect();
    // Beginnings up to this one are within what is allowed or in between.
    let mut deepest = allowed;
    let mut counted = 0;
    for character in text {
        let mut diagonal = 0;
        let depth = (deepest + 1).min(query.len());
        counted += depth;
        if counted >= EDITS_PER_CHECK {
            allowance.check()?;
            counted = 0;
        }
        for at in 1..=depth {
            let before = if at <= deepest { edits[at] } else { allowed + 1 };
            let substituted = diagonal + usize::from(query[at - 1] != character);
            edits[at] = substituted.min(before.min(edits[at - 1]) + 1);
            diagonal = before;
        }
        deepest = depth;
        while edits[deepest] > allowed {
            deepest -= 1;
        }
        if deepest == query.len() {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Allowance, Leaf, bind, matches};

    fn fuzzy(query: &str, distance: u64, case_sensitive: bool, text: &str) -> bool {
        let threshold = json!({"min_query_chars": 3 * (distance + 1), "distance": distance});
        let options = json!({"max_edit_distance": [threshold], "case_sensitive": case_sensitive});
        bind(&Leaf { key: "s", op: "Fuzzy" }, query, Some(&options))
            .unwrap()
            .is_some_and(|fuzzy| matches(&fuzzy, text, &Allowance::unlimited()).unwrap())
    }

    #[test]
    fn a_part_within_the_edits_matches() {
        for (query, distance, text, found) in [
            ("turbopuffer", 0, "a turbopuffer!", true),
            ("turbopuffer", 0, "turbopufer", false),
            ("turbopuffer", 1, "the turbopufer inc", true),
            ("turbopuffer", 1, "turboXpuffer", true),
            ("turbopuffer", 1, "turbopuXfer", true),
            ("turbopuffer", 1, "turbpufer", false),
            ("turbopuffer", 2, "turbpufer", true),
            ("turbopuffer", 2, "trbpufer", false),
            ("turbopuffer", 2, "", false),
            ("smörgås", 1, "smorgås", true),
            ("smörgås", 1, "smorgas", false),
        ] {
            assert_eq!(fuzzy(query, distance, true, text), found, "{query} {distance} {text}");
        }
        assert!(!fuzzy("STRASSE", 0, true, "strasse") && fuzzy("STRASSE", 0, false, "Die Strasse"));
        assert!(fuzzy("ΣΟΦΟΣ", 0, false, "σοφοσ"));
    }

    /// The fewest edits of every part of a text, the long way.
    fn fewest(query: &[char], text: &[char]) -> usize {
        let mut row: Vec<usize> = vec![0; text.len() + 1];
        for (at, wanted) in query.iter().enumerate() {
            let mut next = vec![at + 1];
            for (place, found) in text.iter().enumerate() {
                let substituted = row[place] + usize::from(wanted != found);
                next.push(substituted.min(row[place + 1] + 1).min(next[place] + 1));
            }
            row = next;
        }
        row.into_iter().min().unwrap()
    }

    #[test]
    fn every_short_text_matches_as_the_whole_table_says() {
        let mut state = 7u64;
        let mut text = |least: u64, most: u64| -> Vec<char> {
            let mut next = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                state >> 33
            };
            let length = least + next() % (most - least + 1);
            (0..length).map(|_| ['a', 'ß'][(next() % 2) as usize]).collect()
        };
        let mut found = [0, 0];
        for round in 0..4_000 {
            let distance = round % 3;
            let (query, text) = (text(3 * (distance + 1), 12), text(0, 24));
            let expected = fewest(&query, &text) <= distance as usize;
            let (query, text): (String, String) = (query.iter().collect(), text.iter().collect());
            assert_eq!(fuzzy(&query, distance, true, &text), expected, "{query} {distance} {text}");
            found[usize::from(expected)] += 1;
        }
        assert!(found[0] > 300 && found[1] > 300, "{found:?}");
    }

    #[test]
    fn the_query_s_length_chooses_the_distance() {
        let options = json!({"max_edit_distance": [{"min_query_chars": 4, "distance": 0}, {"min_query_chars": 6, "distance": 1}]});
        let close = |query: &str, text: &str| {
            let leaf = Leaf { key: "s", op: "Fuzzy" };
            bind(&leaf, query, Some(&options))
                .unwrap()
                .is_some_and(|fuzzy| matches(&fuzzy, text, &Allowance::unlimited()).unwrap())
        };
        assert!(!close("fis", "fis") && close("fish", "fish") && !close("fish", "fush"));
        assert!(!close("fishe", "fushe") && close("fishes", "fushes"));
    }
}
