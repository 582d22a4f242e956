//! Which namespaces are meant: patterns `org/project/name`, where `*` stands for any characters of its part.

use super::ids::NamespaceName;
use crate::error::{Error, Result};

/// The most patterns of one list, and the longest, in bytes: three components of 128 and two slashes.
const PATTERNS_MAX: usize = 1_000;
const PATTERN_BYTES_MAX: usize = 386;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern([String; 3]);

/// A list of patterns; an empty one matches nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NamePatterns(Vec<Pattern>);

impl NamePatterns {
    /// Reads patterns; `list` is what errors call them.
    pub fn parse(list: &str, texts: &[String]) -> Result<Self> {
        if texts.len() > PATTERNS_MAX {
            return Err(Error::invalid(format!(
                "{list} has {} patterns, expected at most {PATTERNS_MAX}",
                texts.len()
            )));
        }
        let parsed = texts.iter().map(|text| Pattern::parse(text).map_err(|error| error.context(list)));
        parsed.collect::<Result<Vec<Pattern>>>().map(NamePatterns)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn matches(&self, name: &NamespaceName) -> bool {
        if self.is_empty() {
            return false;
        }
        let text = name.to_string();
        let parts: Vec<&str> = text.split('/').collect();
        self.0.iter().any(|pattern| pattern.matches(&parts))
    }
}

impl Pattern {
    fn parse(text: &str) -> Result<Self> {
        let wrong = || {
            Error::invalid(format!("{text:?} is no pattern of namespaces")).with_hint(
                "write ORG/PROJECT/NAME, in which * stands for any characters of its part: acme/search/logs-*",
            )
        };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '*');
        let parts: Vec<&str> = text.split('/').collect();
        let [org, project, name] = parts.as_slice() else { return Err(wrong()) };
        let is_good = |part: &&str| !part.is_empty() && part.chars().all(is_plain);
        if text.len() > PATTERN_BYTES_MAX || !parts.iter().all(is_good) {
            return Err(wrong());
        }
        Ok(Pattern([org, project, name].map(|part| (*part).to_owned())))
    }

    fn matches(&self, parts: &[&str]) -> bool {
        let mut parts = parts.iter();
        self.0.iter().all(|pattern| parts.next().is_some_and(|part| fits(pattern.as_bytes(), part.as_bytes())))
    }
}

/// Whether `text` is `pattern`, with any bytes for each `*`. Goes back to the last `*` only, so it costs their product at most.
fn fits(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut back: Option<(usize, usize)> = None;
    while let Some(byte) = text.get(t) {
        match pattern.get(p) {
            Some(b'*') => {
                back = Some((p, t));
                p += 1;
            }
            Some(wanted) if wanted == byte => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((star, from)) = back else { return false };
                back = Some((star, from + 1));
                (p, t) = (star + 1, from + 1);
            }
        }
    }
    pattern.iter().skip(p).all(|rest| *rest == b'*')
}

#[cfg(test)]
mod tests {
    use super::{NamePatterns, fits};
    use crate::model::ids::Project;

    #[test]
    fn a_star_stands_for_any_characters_of_its_part() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "docs", true),
            ("logs-*", "logs-", true),
            ("logs-*", "log", false),
            ("*-old", "a-old-old", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYbZ", false),
            ("docs", "docs2", false),
            ("", "", true),
        ] {
            assert_eq!(fits(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_list_matches_what_one_of_its_patterns_does_and_an_empty_one_nothing() {
        let name = Project::new("acme", "search").unwrap().namespace("logs-1").unwrap();
        let list = |texts: &[&str]| {
            let owned: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
            NamePatterns::parse("list", &owned).unwrap()
        };
        assert!(list(&["other/*/*", "acme/*/logs-*"]).matches(&name));
        assert!(!list(&["acme/search/logs"]).matches(&name) && !list(&[]).matches(&name));
    }

    #[test]
    fn what_is_no_pattern_is_refused_by_its_list() {
        for wrong in ["", "docs", "a/b", "a/b/c/d", "a//c", "a/b/c?", "a/b/\u{fc}"] {
            let error = NamePatterns::parse("exclude", &[wrong.to_owned()]).unwrap_err();
            assert!(error.message().starts_with("exclude: "), "{error}");
        }
        assert!(NamePatterns::parse("include", &vec!["a/b/c".to_owned(); 1_001]).is_err());
    }
}
