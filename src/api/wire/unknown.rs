//! Keys of a request that mean nothing: the contract ignores them, and the caller is told, for one may be misspelt.

use serde_json::{Map, Value as Json};

/// So many keys are named.
const NAMED_MAX: usize = 8;
/// So much of each, in characters.
const SHOWN_CHARS: usize = 40;
/// So many letters may be wrong in a key that is taken for a known one.
const WRONG_LETTERS_MAX: usize = 2;

/// What is said of the keys that are left of an object after every known one was taken: printable ASCII, one text a key.
pub fn ignored(path: &str, rest: &Map<String, Json>, known: &[&str]) -> Vec<String> {
    rest.keys().take(NAMED_MAX).map(|key| describe(path, key, known)).collect()
}

/// One line for a header and a log of what [`ignored`] found; `None` when that is nothing.
pub fn warning(ignored: &[String]) -> Option<String> {
    let named = ignored.iter().take(NAMED_MAX).map(String::as_str).collect::<Vec<_>>().join(", ");
    (!named.is_empty()).then(|| format!("ignored unknown keys: {named}"))
}

fn describe(path: &str, key: &str, known: &[&str]) -> String {
    let shown: String = key.chars().take(SHOWN_CHARS).flat_map(char::escape_default).collect();
    let near = known.iter().map(|known| (distance(key, known), known)).min();
    match near.filter(|(wrong, _)| *wrong <= WRONG_LETTERS_MAX) {
        Some((_, meant)) => format!("{path}{shown} (did you mean {meant}?)"),
        None => format!("{path}{shown}"),
    }
}

/// How many letters must be inserted, removed or replaced (Levenshtein, 1966); long keys are far from all.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(SHOWN_CHARS).collect(), b.chars().collect());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (at, x) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], at + 1);
        for (column, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(!x.eq_ignore_ascii_case(y));
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::{ignored, warning};

    fn said(rest: Json) -> Option<String> {
        let Json::Object(rest) = rest else { panic!("expected an object") };
        warning(&ignored("queries[1].", &rest, &["filters", "rank_by", "limit"]))
    }

    #[test]
    fn a_misspelt_key_is_named_with_what_it_may_mean() {
        assert_eq!(said(json!({})), None);
        let filter = "ignored unknown keys: queries[1].filter (did you mean filters?)";
        assert_eq!(said(json!({"filter": []})).as_deref(), Some(filter));
        let both = said(json!({"Rank_By": 1, "zzz": 2})).unwrap();
        assert_eq!(both, "ignored unknown keys: queries[1].Rank_By (did you mean rank_by?), queries[1].zzz");
    }

    #[test]
    fn a_hostile_key_stays_short_and_printable() {
        let keys = (0..100).map(|n| (format!("{n}é\r\n{}", "x".repeat(5_000)), Json::Null)).collect();
        let text = said(Json::Object(keys)).unwrap();
        assert!(text.len() < 2_000 && text.bytes().all(|b| b.is_ascii_graphic() || b == b' '), "{text}");
    }
}
