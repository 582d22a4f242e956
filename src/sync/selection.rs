//! Which namespaces take part: by patterns, and by name when only some are asked for.

use std::collections::{BTreeMap, BTreeSet};

use crate::error::Result;
use crate::model::ids::NamespaceName;
use crate::model::name_patterns::NamePatterns;

/// Which namespaces a pass is about; all of them unless said otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Empty: every namespace that `exclude` does not name.
    include: NamePatterns,
    exclude: NamePatterns,
    /// Take part whatever `include` says.
    follow: NamePatterns,
    only: Option<BTreeSet<NamespaceName>>,
    /// Not looked at this time.
    resting: BTreeSet<NamespaceName>,
    unasked: bool,
}

impl Selection {
    /// Reads lists of patterns `org/project/name`; an empty `include` means all.
    pub fn parse(include: &[String], exclude: &[String]) -> Result<Self> {
        let include = NamePatterns::parse("include", include)?;
        let exclude = NamePatterns::parse("exclude", exclude)?;
        Ok(Selection { include, exclude, ..Selection::default() })
    }

    /// The same, and what these patterns name beside `include`.
    pub fn and_follow(self, follow: NamePatterns) -> Self {
        Selection { follow, ..self }
    }

    /// Those of `names` that this selection takes.
    pub fn only(&self, names: BTreeSet<NamespaceName>) -> Self {
        Selection { only: Some(names), ..self.clone() }
    }

    /// The same, for a pass that is due and that nobody asked for.
    pub fn unasked(&self) -> Self {
        Selection { unasked: true, ..self.clone() }
    }

    /// The same without some names, which are looked at another time.
    pub fn without(self, resting: BTreeSet<NamespaceName>) -> Self {
        Selection { resting, ..self }
    }

    /// Whether it is about some names, all of which are among these.
    pub fn is_among<T>(&self, names: &BTreeMap<NamespaceName, T>) -> bool {
        self.only.as_ref().is_some_and(|only| only.iter().all(|name| names.contains_key(name)))
    }

    /// Whether it is about all, or about one of which this is so.
    pub fn is_about(&self, is_so: impl Fn(&NamespaceName) -> bool) -> bool {
        self.only.as_ref().is_none_or(|only| only.iter().any(is_so))
    }

    pub fn is_unasked(&self) -> bool {
        self.unasked
    }

    pub fn takes(&self, name: &NamespaceName) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(name))
            && (self.include.is_empty() || self.include.matches(name) || self.follow.matches(name))
            && !self.exclude.matches(name)
            && !self.resting.contains(name)
    }

    /// Whether it is looked at another time.
    pub fn rests(&self, name: &NamespaceName) -> bool {
        self.resting.contains(name)
    }

    /// Whether a name takes no part whatever it comes from.
    pub fn excludes(&self, name: &NamespaceName) -> bool {
        self.exclude.matches(name)
    }

    /// Whether it is everything that this node takes part in.
    pub fn is_whole(&self) -> bool {
        self.only.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::Selection;
    use crate::model::ids::{NamespaceName, Project};
    use crate::model::name_patterns::NamePatterns;

    fn name(text: &str) -> NamespaceName {
        let parts: Vec<&str> = text.split('/').collect();
        Project::new(parts[0], parts[1]).unwrap().namespace(parts[2]).unwrap()
    }

    fn selection(include: &[&str], exclude: &[&str]) -> Selection {
        let owned = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        Selection::parse(&owned(include), &owned(exclude)).unwrap()
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
    fn what_is_followed_takes_part_unless_it_is_excluded_or_rests() {
        let follow = NamePatterns::parse("follow", &["other/*/*".to_owned()]).unwrap();
        let some = selection(&["acme/*/*"], &["*/*/*-tmp"]).and_follow(follow);
        assert!(some.takes(&name("acme/x/docs")) && some.takes(&name("other/x/docs")));
        assert!(!some.takes(&name("other/x/docs-tmp")) && !some.takes(&name("third/x/docs")));
        let rested = some.without([name("other/x/docs")].into());
        assert!(!rested.takes(&name("other/x/docs")) && rested.takes(&name("other/x/more")) && rested.is_whole());
    }
}
