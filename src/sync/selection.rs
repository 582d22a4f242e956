//! Which namespaces take part: by patterns, and by name when only some are asked for.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Error, Result};
use crate::model::ids::NamespaceName;

/// The most patterns of one list, and the longest, in bytes: three components of 128 and two slashes.
const PATTERNS_MAX: usize = 1_000;
const PATTERN_BYTES_MAX: usize = 386;

/// `org/project/name`, where `*` stands for any characters of its part.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Pattern([String; 3]);

/// Which namespaces a pass is about; all of them unless said otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Empty: every namespace that `exclude` does not name.
    include: Vec<Pattern>,
    exclude: Vec<Pattern>,
    only: Option<BTreeSet<NamespaceName>>,
    unasked: bool,
}

impl Selection {
    /// Reads lists of patterns `org/project/name`; an empty `include` means all.
    pub fn parse(include: &[String], exclude: &[String]) -> Result<Self> {
        let (include, exclude) = (patterns("include", include)?, patterns("exclude", exclude)?);
        Ok(Selection { include, exclude, ..Selection::default() })
    }

    /// Those of `names` that this selection takes.
    pub fn only(&self, names: BTreeSet<NamespaceName>) -> Self {
        Selection { only: Some(names), ..self.clone() }
    }

    /// The same, for a pass that is due and that nobody asked for.
    pub fn unasked(&self) -> Self {
        Selection { unasked: true, ..self.clone() }
    }

    /// Whether it is about some names, all of which are among these.
    pub fn is_among<T>(&self, names: &BTreeMap<NamespaceName, T>) -> bool {
        self.only.as_ref().is_some_and(|only| only.iter().all(|name| names.contains_key(name)))
    }

    pub fn is_unasked(&self) -> bool {
        self.unasked
    }

    pub fn takes(&self, name: &NamespaceName) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(name))
            && (self.include.is_empty() || self.include.iter().any(|pattern| pattern.matches(name)))
            && !self.exclude.iter().any(|pattern| pattern.matches(name))
    }

    /// Whether it is everything that this node takes part in.
    pub fn is_whole(&self) -> bool {
        self.only.is_none()
    }
}

fn patterns(list: &str, texts: &[String]) -> Result<Vec<Pattern>> {
    if texts.len() > PATTERNS_MAX {
        return Err(Error::invalid(format!("{list} has {} patterns, expected at most {PATTERNS_MAX}", texts.len())));
    }
    texts.iter().map(|text| Pattern::parse(text).map_err(|error| error.context(list))).collect()
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

    fn matches(&self, name: &NamespaceName) -> bool {
        let text = name.to_string();
        let mut parts = text.split('/');
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
    use super::{Selection, fits};
    use crate::model::ids::{NamespaceName, Project};

    fn name(text: &str) -> NamespaceName {
        let parts: Vec<&str> = text.split('/').collect();
        Project::new(parts[0], parts[1]).unwrap().namespace(parts[2]).unwrap()
    }

    fn selection(include: &[&str], exclude: &[&str]) -> Selection {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        Selection::parse(&owned(include), &owned(exclude)).unwrap()
    }

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
    fn what_is_excluded_is_left_out_and_nothing_said_means_all() {
        assert!(Selection::default().takes(&name("a/b/c")));
        let some = selection(&["acme/*/logs-*", "acme/search/docs"], &["*/*/*-tmp"]);
        assert!(some.takes(&name("acme/any/logs-1")) && some.takes(&name("acme/search/docs")));
        for other in ["acme/search/other", "other/search/docs", "acme/any/logs-1-tmp"] {
            assert!(!some.takes(&name(other)), "{other}");
        }
        let only = some.only([name("acme/search/docs"), name("acme/x/logs-tmp")].into());
        assert!(only.takes(&name("acme/search/docs")) && !only.takes(&name("acme/any/logs-1")));
        assert!(!only.takes(&name("acme/x/logs-tmp")) && !only.is_whole());
    }

    #[test]
    fn what_is_no_pattern_is_refused_by_its_list() {
        for wrong in ["", "docs", "a/b", "a/b/c/d", "a//c", "a/b/c?", "a/b/ü"] {
            let error = Selection::parse(&[], &[wrong.to_owned()]).unwrap_err();
            assert!(error.message().starts_with("exclude: "), "{error}");
        }
        assert!(Selection::parse(&vec!["a/b/c".to_owned(); 1_001], &[]).is_err());
    }
}
