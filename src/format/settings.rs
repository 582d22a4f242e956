//! What a manifest says of a namespace besides its documents and their schema, and when each of it was set: labels, whether it is
//! read-only, its time to live.
//!
//! Invariant: who sets something that it saw another value of sets it later than that one was, whatever its clock shows.

use std::collections::{BTreeMap, BTreeSet};

use super::manifest::Manifest;

/// The most settings whose times one manifest keeps: all that there are, and the labels that were taken away last.
pub const SET_TIMES_MAX: usize = 128;
/// How [`Manifest::set_ms`] calls them; a label by its name behind this.
pub const LABEL: &str = "labels/";
pub const READ_ONLY: &str = "read_only";
pub const EXPIRES: &str = "expires_ms";

impl Manifest {
    /// Sets all labels. Those that stay as they are were set before.
    pub fn set_labels(&mut self, labels: BTreeMap<String, String>, now_ms: u64) {
        let names: BTreeSet<&String> = self.labels.keys().chain(labels.keys()).collect();
        let changed = names.into_iter().filter(|name| self.labels.get(*name) != labels.get(*name));
        let changed: Vec<String> = changed.map(|name| format!("{LABEL}{name}")).collect();
        self.labels = labels;
        changed.into_iter().for_each(|label| self.was_set(label, now_ms));
        self.keep_times();
    }

    /// Takes the labels of another namespace beside its own, which stay as they are, as set when they were set there.
    pub fn add_labels_of(&mut self, other: &Manifest) {
        for (name, value) in &other.labels {
            if self.labels.contains_key(name) {
                continue;
            }
            self.labels.insert(name.clone(), value.clone());
            let label = format!("{LABEL}{name}");
            match other.set_ms.get(&label) {
                Some(ms) => self.was_set(label, *ms),
                None => drop(self.set_ms.remove(&label)),
            }
        }
        self.keep_times();
    }

    pub fn set_read_only(&mut self, read_only: bool, now_ms: u64) {
        self.read_only = read_only;
        self.was_set(READ_ONLY.to_owned(), now_ms);
        self.keep_times();
    }

    /// Sets when the namespace is deleted by itself.
    pub fn set_expiry(&mut self, expires_ms: Option<u64>, now_ms: u64) {
        self.expires_ms = expires_ms;
        self.was_set(EXPIRES.to_owned(), now_ms);
        self.keep_times();
    }

    /// When the namespace is deleted by itself, and when that was set.
    pub fn expiry(&self) -> (Option<u64>, Option<u64>) {
        (self.expires_ms, self.set_ms.get(EXPIRES).copied())
    }

    /// Takes the time to live of another state, as set when it was set there.
    pub fn take_expiry_of(&mut self, other: &Manifest) {
        let (expires_ms, set_ms) = other.expiry();
        self.expires_ms = expires_ms;
        match set_ms {
            Some(ms) => drop(self.set_ms.insert(EXPIRES.to_owned(), ms)),
            None => drop(self.set_ms.remove(EXPIRES)),
        }
        self.keep_times();
    }

    fn was_set(&mut self, setting: String, now_ms: u64) {
        let at = self.set_ms.entry(setting).or_default();
        *at = now_ms.max(at.saturating_add(1));
    }

    /// Keeps the times that there is room for, and takes the version that can say them.
    pub fn keep_times(&mut self) {
        bound_times(&mut self.set_ms, &self.labels);
        self.take_version();
    }
}

/// Forgets when labels were taken away that there is no room for, the first ones first.
pub fn bound_times(set_ms: &mut BTreeMap<String, u64>, labels: &BTreeMap<String, String>) {
    let over = set_ms.len().saturating_sub(SET_TIMES_MAX);
    if over == 0 {
        return;
    }
    let is_gone = |setting: &str| setting.strip_prefix(LABEL).is_some_and(|name| !labels.contains_key(name));
    let gone = set_ms.iter().filter(|(setting, _)| is_gone(setting));
    let mut gone: Vec<(u64, String)> = gone.map(|(setting, ms)| (*ms, setting.clone())).collect();
    gone.sort_unstable();
    for (_, setting) in gone.iter().take(over) {
        set_ms.remove(setting);
    }
}

#[cfg(test)]
mod tests {
    use super::{LABEL, SET_TIMES_MAX};
    use crate::format::manifest::tests::a_manifest;
    use crate::format::manifest::{SET_VERSION, VERSION, decode_manifest, encode_manifest};

    #[test]
    fn what_is_set_again_is_set_later_by_any_clock_and_takes_its_version() {
        let mut manifest = a_manifest();
        manifest.set_expiry(Some(7), 50);
        manifest.set_expiry(None, 40);
        manifest.set_read_only(true, 9);
        assert_eq!(manifest.set_ms, [("expires_ms".to_owned(), 51), ("read_only".to_owned(), 9)].into());
        assert_eq!((manifest.format, a_manifest().format), (SET_VERSION, VERSION));
        let (bytes, checksum) = encode_manifest(&manifest).unwrap();
        assert_eq!(decode_manifest(&bytes, "manifest").unwrap(), (manifest.clone(), checksum));
        manifest.format = VERSION;
        assert!(encode_manifest(&manifest).is_err());
    }

    #[test]
    fn labels_are_set_one_by_one_and_times_of_those_that_are_gone_are_bounded() {
        let mut manifest = a_manifest();
        for at in 0..200 {
            let own = (at..at + 64).map(|n| (format!("{n:03}"), "x".to_owned())).collect();
            manifest.set_labels(own, 1_000 + at);
            assert!(manifest.set_ms.len() <= SET_TIMES_MAX);
            encode_manifest(&manifest).unwrap();
        }
        let set = |n: u64| manifest.set_ms.get(&format!("{LABEL}{n:03}")).copied();
        assert_eq!((set(199), set(198), set(200), set(262)), (Some(1_136), Some(1_199), Some(1_137), Some(1_199)));
        assert_eq!((set(0), manifest.set_ms.len()), (None, SET_TIMES_MAX));
    }

    #[test]
    fn labels_of_another_keep_their_times_and_replace_none() {
        let (mut ours, mut theirs) = (a_manifest(), a_manifest());
        ours.set_labels([("a".to_owned(), "1".to_owned())].into(), 10);
        theirs.set_labels([("a", "2"), ("b", "2")].map(|(n, v)| (n.to_owned(), v.to_owned())).into(), 20);
        ours.add_labels_of(&theirs);
        assert_eq!((ours.labels["a"].as_str(), ours.labels["b"].as_str()), ("1", "2"));
        assert_eq!(ours.set_ms, [("labels/a".to_owned(), 10), ("labels/b".to_owned(), 20)].into());
    }
}
