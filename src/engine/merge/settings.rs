//! The settings of one namespace after two nodes set them apart: labels, each by itself, whether it is read-only, its time to live.
//!
//! What one side set since the state that both had counts. Of what both set the later counts, whoever says it where: that is when a
//! person set it, and not when the namespace was last changed otherwise. At one time the greater value counts. What a release set that kept
//! no such times is older than what has one, and of two without it that of the state counts that was changed later.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::operations::LABELS_MAX;
use crate::format::manifest::Manifest;
use crate::format::settings::{EXPIRES, LABEL, READ_ONLY, bound_times};

/// What both sides come to.
#[derive(Debug, PartialEq, Eq)]
pub struct Settings {
    pub labels: BTreeMap<String, String>,
    pub read_only: bool,
    pub expires_ms: Option<u64>,
    /// When what was set, as in the manifest.
    pub set_ms: BTreeMap<String, u64>,
    /// What both sides set apart, in words.
    pub apart: BTreeSet<&'static str>,
}

/// What is set of one state.
pub fn of(manifest: &Manifest) -> Settings {
    Settings {
        labels: manifest.labels.clone(),
        read_only: manifest.read_only,
        expires_ms: manifest.expires_ms,
        set_ms: manifest.set_ms.clone(),
        apart: BTreeSet::new(),
    }
}

impl Settings {
    /// Whether a state has just these.
    pub fn are_of(&self, manifest: &Manifest) -> bool {
        self.labels == manifest.labels
            && self.read_only == manifest.read_only
            && self.expires_ms == manifest.expires_ms
            && self.set_ms == manifest.set_ms
    }

    pub fn give_to(self, manifest: &mut Manifest) {
        manifest.labels = self.labels;
        manifest.read_only = self.read_only;
        manifest.expires_ms = self.expires_ms;
        manifest.set_ms = self.set_ms;
        manifest.keep_times();
    }
}

/// Joins what two states of one incarnation say; `common` is the newest that both had.
pub fn join(theirs: &Manifest, ours: &Manifest, common: Option<&Manifest>) -> Settings {
    let mut join = Join { theirs, ours, common, set_ms: BTreeMap::new(), apart: BTreeSet::new() };
    let read_only = join.pick(READ_ONLY, "read-only", |side| side.read_only);
    let expires_ms = join.pick(EXPIRES, "time to live", |side| side.expires_ms);
    let labels = join.labels();
    bound_times(&mut join.set_ms, &labels);
    Settings { labels, read_only, expires_ms, set_ms: join.set_ms, apart: join.apart }
}

/// Whether anybody set anything between two states of one incarnation.
pub fn were_set(since: &Manifest, newest: &Manifest) -> bool {
    let timed = since.set_ms.keys().chain(newest.set_ms.keys());
    // Without a time its value says it. With one it is set to, too, what nobody set: by who finds that a clock jumped.
    let is_timed = |setting: &str| newest.set_ms.contains_key(setting);
    let label = |name: &str| format!("{LABEL}{name}");
    let names = since.labels.keys().chain(newest.labels.keys());
    timed.into_iter().any(|setting| since.set_ms.get(setting) != newest.set_ms.get(setting))
        || names.into_iter().any(|name| !is_timed(&label(name)) && since.labels.get(name) != newest.labels.get(name))
        || !is_timed(READ_ONLY) && since.read_only != newest.read_only
        || !is_timed(EXPIRES) && since.expires_ms != newest.expires_ms
}

struct Join<'a> {
    theirs: &'a Manifest,
    ours: &'a Manifest,
    common: Option<&'a Manifest>,
    set_ms: BTreeMap<String, u64>,
    apart: BTreeSet<&'static str>,
}

impl<'a> Join<'a> {
    /// What becomes of one setting; notes when that was set.
    fn pick<T: Ord>(&mut self, setting: &str, what: &'static str, of: impl Fn(&'a Manifest) -> T) -> T {
        let timed = |side: &'a Manifest| (of(side), side.set_ms.get(setting).copied());
        let (ours, theirs, common) = (timed(self.ours), timed(self.theirs), self.common.map(timed));
        let is_same = ours.0 == theirs.0;
        let is_own = if is_same {
            ours.1 >= theirs.1
        } else if common.as_ref().is_some_and(|common| *common == ours || *common == theirs) {
            common.is_some_and(|common| common == theirs)
        } else {
            self.apart.insert(what);
            (age(ours.1, self.ours), &ours.0) > (age(theirs.1, self.theirs), &theirs.0)
        };
        let (value, ms) = if is_own { ours } else { theirs };
        if let Some(ms) = ms {
            self.set_ms.insert(setting.to_owned(), ms);
        }
        value
    }

    fn labels(&mut self) -> BTreeMap<String, String> {
        let sides = [self.ours, self.theirs];
        let timed = sides.into_iter().flat_map(|side| side.set_ms.keys().filter_map(|at| at.strip_prefix(LABEL)));
        let named = sides.into_iter().flat_map(|side| side.labels.keys().map(String::as_str));
        let names: BTreeSet<&str> = timed.chain(named).collect();
        let mut labels = BTreeMap::new();
        for name in names {
            let value = self.pick(&format!("{LABEL}{name}"), "labels", |side| side.labels.get(name));
            labels.extend(value.map(|value| (name.to_owned(), value.clone())));
        }
        if labels.len() <= LABELS_MAX {
            return labels;
        }
        // There is no room for those of both: those of one side, as it has them.
        let newest = |side: &'a Manifest| labels_of(side).map(|(_, ms)| ms).max();
        let key = |side: &'a Manifest| (age(newest(side), side), &side.labels);
        let side = if key(self.ours) > key(self.theirs) { self.ours } else { self.theirs };
        self.apart.insert("labels");
        self.set_ms.retain(|setting, _| !setting.starts_with(LABEL));
        self.set_ms.extend(labels_of(side).map(|(setting, ms)| (setting.clone(), ms)));
        side.labels.clone()
    }
}

/// When labels of a state were set.
fn labels_of(side: &Manifest) -> impl Iterator<Item = (&String, u64)> {
    side.set_ms.iter().filter(|(setting, _)| setting.starts_with(LABEL)).map(|(setting, ms)| (setting, *ms))
}

/// Orders what was set at a known time behind what was set before that was noted, which the state's own time orders.
fn age(set_ms: Option<u64>, side: &Manifest) -> (bool, u64) {
    set_ms.map_or((false, side.updated_ms), |ms| (true, ms))
}

#[cfg(test)]
mod tests {
    use super::{join, were_set};
    use crate::format::manifest::Manifest;
    use crate::format::manifest::tests::a_manifest;

    fn labelled(before: &Manifest, value: &str, ms: u64) -> Manifest {
        let mut next = before.clone();
        next.set_labels([("v".to_owned(), value.to_owned())].into(), ms);
        next
    }

    #[test]
    fn what_was_set_last_holds_on_either_side_whatever_changed_later() {
        let common = labelled(&a_manifest(), "both", 1);
        let older = Manifest { updated_ms: 99, ..labelled(&common, "older", 5) };
        let newer = Manifest { updated_ms: 6, ..labelled(&common, "newer", 6) };
        for common in [None, Some(&common)] {
            let [one, other] = [join(&older, &newer, common), join(&newer, &older, common)];
            assert_eq!(one, other);
            assert!(one.are_of(&newer) && one.apart.contains("labels"));
        }
    }

    #[test]
    fn what_was_set_shows_by_its_time_and_without_one_by_its_value() {
        let plain = a_manifest();
        assert!(!were_set(&plain, &Manifest { updated_ms: 99, generation: 7, ..plain.clone() }));
        assert!(were_set(&plain, &labelled(&plain, "x", 5)));
        assert!(were_set(&plain, &Manifest { read_only: !plain.read_only, ..plain.clone() }));
        assert!(were_set(&plain, &Manifest { expires_ms: Some(9), ..plain.clone() }));
        let mut timed = plain.clone();
        timed.set_expiry(Some(9), 5);
        assert!(were_set(&plain, &timed));
        assert!(!were_set(&timed, &Manifest { expires_ms: Some(1_000), ..timed.clone() }), "a clock jumped");
        let mut lifted = timed.clone();
        lifted.set_expiry(None, 1);
        assert!(were_set(&timed, &lifted));
    }

    #[test]
    fn once_joined_both_sides_say_the_same_however_many_labels_were_taken_away() {
        let many = |what: &str| {
            let mut state = a_manifest();
            for at in 0..3 {
                let labels = (0..50).map(|n| (format!("{what}-{at}-{n}"), String::new())).collect();
                state.set_labels(labels, at);
            }
            state.set_labels([("kept".to_owned(), what.to_owned())].into(), 9);
            state
        };
        let (ours, theirs) = (many("ours"), many("theirs"));
        let mut joined = ours.clone();
        join(&theirs, &ours, None).give_to(&mut joined);
        for side in [&ours, &theirs] {
            assert!(join(side, &joined, None).are_of(&joined) && join(&joined, side, None).are_of(&joined));
        }
        assert_eq!(joined.labels["kept"], "theirs");
    }

    #[test]
    fn what_is_set_back_counts_as_set() {
        let common = labelled(&a_manifest(), "both", 1);
        let back = labelled(&labelled(&common, "once", 5), "both", 9);
        let other = labelled(&common, "other", 7);
        assert!(join(&other, &back, Some(&common)).are_of(&back) && join(&back, &other, Some(&common)).are_of(&back));
    }

    #[test]
    fn states_without_times_are_joined_by_when_they_were_changed_and_before_those_with_them() {
        let common = a_manifest();
        let state = |read_only, updated_ms| Manifest {
            read_only,
            expires_ms: Some(updated_ms),
            updated_ms,
            ..common.clone()
        };
        let (older, newer) = (state(false, 5), state(true, 9));
        assert!(join(&older, &newer, None).are_of(&newer) && join(&newer, &older, None).are_of(&newer));
        let mut timed = Manifest { updated_ms: 2, ..common.clone() };
        timed.set_expiry(Some(77), 2);
        let joined = join(&newer, &timed, Some(&common));
        assert_eq!((joined.expires_ms, joined.read_only), (Some(77), true));
        // Only one side has it otherwise than both had.
        assert!(join(&common, &older, Some(&common)).apart.is_empty());
    }

    #[test]
    fn a_time_that_moved_with_a_clock_gives_way_to_one_that_was_set() {
        let mut common = a_manifest();
        common.set_expiry(Some(100), 1);
        let moved = Manifest { expires_ms: Some(900), ..common.clone() };
        assert!(join(&common, &moved, Some(&common)).are_of(&moved));
        let mut set = common.clone();
        set.set_expiry(None, 2);
        assert!(join(&moved, &set, Some(&common)).are_of(&set) && join(&set, &moved, Some(&common)).are_of(&set));
    }
}
