//! The registry of damaged files: each is logged once when it is found and once when it is healed, and listed for status and
//! metrics in between.
//!
//! Invariants:
//! - A file is listed once, with all the namespaces that met it; the list has at most [`DAMAGES_MAX`] files.
//! - Nothing here decides what may be reclaimed or served: a file that is listed by mistake costs nothing but a look.
//! - A listed file is looked at again after 1, 2, 4 and so on passes of the background, at most every [`PAUSE_MAX`], and no more
//!   than [`LOOKS_MAX`] files in one pass.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::context::Context;
use super::sweep::parts;
use crate::error::{Error, Kind, UNREADABLE};
use crate::model::ids::Nsid;

/// The most files that are listed; of others only the number is known.
pub const DAMAGES_MAX: usize = 1_024;
/// The most namespaces that are listed for one file.
const NAMESPACES_MAX: usize = 16;
/// The most files that one pass looks at again: each may be a whole segment to read.
pub const LOOKS_MAX: usize = 8;
/// A damaged file is looked at again at least after so many passes; 30 seconds apart that is about an hour.
const PAUSE_MAX: u32 = 128;

/// What a damaged file is; closed, so that metrics have a bounded set of labels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DamagedKind {
    Name,
    Manifest,
    Tag,
    Base,
    Mark,
    Answers,
    Log,
    Segment,
    Deletions,
    Conflicts,
    Other,
}

impl DamagedKind {
    pub const ALL: [DamagedKind; 11] = [
        DamagedKind::Name,
        DamagedKind::Manifest,
        DamagedKind::Tag,
        DamagedKind::Base,
        DamagedKind::Mark,
        DamagedKind::Answers,
        DamagedKind::Log,
        DamagedKind::Segment,
        DamagedKind::Deletions,
        DamagedKind::Conflicts,
        DamagedKind::Other,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            DamagedKind::Name => "name",
            DamagedKind::Manifest => "manifest",
            DamagedKind::Tag => "tag",
            DamagedKind::Base => "base",
            DamagedKind::Mark => "mark",
            DamagedKind::Answers => "answers",
            DamagedKind::Log => "log",
            DamagedKind::Segment => "segment",
            DamagedKind::Deletions => "deletions",
            DamagedKind::Conflicts => "conflicts",
            DamagedKind::Other => "other",
        }
    }

    /// What the file at a path below the data directory is.
    fn of(file: &str) -> Self {
        match () {
            () if file.starts_with("local/names/") => DamagedKind::Name,
            () if has_dir(file, "/tags") => DamagedKind::Tag,
            () if has_dir(file, "/bases") => DamagedKind::Base,
            () if file.ends_with("/deleted.json") => DamagedKind::Mark,
            () if has_dir(file, "/answers") => DamagedKind::Answers,
            () if file.starts_with("local/") => DamagedKind::Manifest,
            () if file.ends_with(".wal") => DamagedKind::Log,
            () if file.ends_with(".seg") => DamagedKind::Segment,
            () if file.ends_with(".del") => DamagedKind::Deletions,
            () if file.contains("/conflicts/") => DamagedKind::Conflicts,
            () => DamagedKind::Other,
        }
    }
}

/// One damaged file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Below the data directory.
    pub file: String,
    pub kind: DamagedKind,
    /// `org/project/name` of those that met it, or the incarnation where the name is not known.
    pub namespaces: BTreeSet<String>,
    pub what: String,
    /// When it was found.
    pub since_ms: u64,
}

/// All damaged files that are known.
#[derive(Debug, Default)]
pub struct Damages(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    files: BTreeMap<String, Entry>,
    /// There were more than are listed, which was said.
    is_full: bool,
    pass: u64,
}

#[derive(Debug)]
struct Entry {
    damage: Damage,
    /// The pass that looks at it again, and how many passes it waits for the one after that.
    due: u64,
    pause: u32,
}

impl Damages {
    /// Lists a file. Whether it was not listed.
    fn report(&self, namespace: &str, file: &str, what: &str, now_ms: u64) -> bool {
        let mut known = self.lock();
        let pass = known.pass;
        if let Some(entry) = known.files.get_mut(file) {
            if entry.damage.namespaces.len() < NAMESPACES_MAX {
                entry.damage.namespaces.insert(namespace.to_owned());
            }
            return false;
        }
        if known.files.len() >= DAMAGES_MAX {
            if !std::mem::replace(&mut known.is_full, true) {
                tracing::error!(files = DAMAGES_MAX, "more files are damaged than are listed");
            }
            return false;
        }
        let damage = Damage {
            file: file.to_owned(),
            kind: DamagedKind::of(file),
            namespaces: [namespace.to_owned()].into(),
            what: what.to_owned(),
            since_ms: now_ms,
        };
        known.files.insert(file.to_owned(), Entry { damage, due: pass + 1, pause: 1 });
        true
    }

    fn remove(&self, file: &str) -> Option<Damage> {
        let mut known = self.lock();
        let gone = known.files.remove(file);
        known.is_full &= gone.is_none();
        gone.map(|entry| entry.damage)
    }

    /// Every damaged file, in order of its path.
    pub fn list(&self) -> Vec<Damage> {
        self.lock().files.values().map(|entry| entry.damage.clone()).collect()
    }

    /// The damaged files that a namespace met.
    pub fn of(&self, namespace: &str) -> Vec<Damage> {
        self.list().into_iter().filter(|damage| damage.namespaces.contains(namespace)).collect()
    }

    pub fn len(&self) -> usize {
        self.lock().files.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Begins a pass: the files that are due to be looked at again, those that have waited longest first.
    pub(super) fn due(&self) -> Vec<Damage> {
        let mut known = self.lock();
        known.pass += 1;
        let pass = known.pass;
        let mut due: Vec<&mut Entry> = known.files.values_mut().filter(|entry| entry.due <= pass).collect();
        due.sort_by_key(|entry| entry.due);
        due.truncate(LOOKS_MAX);
        for entry in &mut due {
            entry.pause = entry.pause.saturating_mul(2).min(PAUSE_MAX);
            entry.due = pass + u64::from(entry.pause);
        }
        due.into_iter().map(|entry| entry.damage.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Context {
    /// Lists a damaged file, below the data directory, with a namespace that met it. It is logged when it is new. One that was not read
    /// for want of descriptors or memory is none.
    pub fn report_damage(&self, namespace: &str, file: &str, error: &Error) {
        if error.is_of_limits() {
            tracing::warn!(namespace, file, %error, "a file is not read now");
            return;
        }
        if self.damages.report(namespace, file, error.message(), self.clock.now_millis()) {
            let what = match error.is_unread() {
                true => "a file cannot be read, the rest of the node is served",
                false => "a file is damaged, the rest of the node is served",
            };
            tracing::error!(namespace, file, %error, "{what}");
        }
    }

    /// The same for an error that a request met, where it is about stored bytes, or about a file that cannot be read, and names a file
    /// of this node: what a request sent or a bucket has may be damaged, too.
    pub fn report_error(&self, namespace: &str, error: &Error) {
        if error.kind() != Kind::Corrupt && error.code() != UNREADABLE {
            return;
        }
        let is_here = |key: &str| !self.meta.is_trusted() || self.meta.references(key).is_ok_and(|count| count > 0);
        match self.file_of(error) {
            Some(file) if file.strip_prefix("store/").is_none_or(is_here) => {
                self.report_damage(namespace, &file, error)
            }
            _ => {}
        }
    }

    /// The same for any error that came of reading a namespace's files; where it names none it is about its manifests.
    pub fn report_unreadable(&self, namespace: &str, nsid: Nsid, error: &Error) {
        let file = self.file_of(error).unwrap_or_else(|| format!("local/{nsid}"));
        self.report_damage(namespace, &file, error);
    }

    /// The file that an error names, below the data directory.
    pub(super) fn file_of(&self, error: &Error) -> Option<String> {
        if let Some(key) = object_in(error.message()) {
            return Some(format!("store/{key}"));
        }
        let root = format!("{}/", self.layout.root().display());
        let path = error.message().split_once(&root).map(|(_, rest)| rest.split([':', ' ']).next().unwrap_or(rest));
        path.map(str::to_owned)
    }

    /// A file is as it should be, or needed by nobody any more. It is logged when it was listed.
    pub fn healed(&self, file: &str) {
        if let Some(damage) = self.damages.remove(file) {
            tracing::info!(file, namespaces = ?damage.namespaces, "a file is damaged no more");
        }
    }
}

/// Whether a path leads to this directory of a namespace's, or below it.
fn has_dir(file: &str, dir: &str) -> bool {
    file.ends_with(dir) || file.contains(&format!("{dir}/"))
}

/// The first key of an object in a message.
fn object_in(message: &str) -> Option<&str> {
    let word = |c: char| c.is_whitespace() || matches!(c, ',' | ';' | '"' | '\'' | '(' | ')');
    message.split(word).map(|word| word.trim_end_matches([':', '.'])).find(|word| parts(word).is_some())
}

#[cfg(test)]
mod tests {
    use super::{DAMAGES_MAX, DamagedKind, Damages, LOOKS_MAX, object_in};

    const KEY: &str = "default/default/namespaces/00000000-0000-7000-8000-000000000001/segments/x/data.seg";

    #[test]
    fn a_file_is_new_once_and_lists_all_who_met_it() {
        let damages = Damages::default();
        assert!(damages.report("a/b/c", "store/x.seg", "torn", 7));
        assert!(!damages.report("a/b/d", "store/x.seg", "torn again", 8));
        let listed = damages.list();
        assert_eq!((listed.len(), listed[0].namespaces.len(), listed[0].since_ms), (1, 2, 7));
        assert_eq!((damages.of("a/b/d").len(), damages.of("a/b").len()), (1, 0));
        assert!(damages.remove("store/x.seg").is_some() && damages.remove("store/x.seg").is_none());
        assert!(damages.report("a/b/c", "store/x.seg", "torn", 9));
    }

    #[test]
    fn the_list_is_bounded_and_has_room_again_once_something_is_healed() {
        let damages = Damages::default();
        let listed =
            (0..DAMAGES_MAX + 5).filter(|n| damages.report("a/b/c", &format!("local/{n}"), "torn", 1)).count();
        assert_eq!((listed, damages.len()), (DAMAGES_MAX, DAMAGES_MAX));
        damages.remove("local/0");
        assert!(damages.report("a/b/c", "local/new", "torn", 1));
    }

    #[test]
    fn a_file_is_looked_at_again_ever_more_seldom_and_few_in_one_pass() {
        let damages = Damages::default();
        damages.report("a/b/c", "local/x", "torn", 1);
        let passes: Vec<u32> = (1..=400).filter(|_| !damages.due().is_empty()).collect();
        assert_eq!(passes, [1, 3, 7, 15, 31, 63, 127, 255, 383]);
        for n in 0..30 {
            damages.report("a/b/c", &format!("local/{n}"), "torn", 1);
        }
        let looked: Vec<usize> = (0..4).map(|_| damages.due().len()).collect();
        assert_eq!(looked[..3], [LOOKS_MAX; 3], "{looked:?}");
    }

    #[test]
    fn the_object_is_found_in_what_errors_say() {
        for message in [
            format!("query: {KEY}: section rows: chunk 3: checksum is 1, expected 2"),
            format!("segment {KEY}: is x with 3 rows"),
            format!("object {KEY} is missing"),
            format!("open namespace a/b/c: {KEY}"),
        ] {
            assert_eq!(object_in(&message), Some(KEY), "{message}");
        }
        assert_eq!(object_in("records 3 to 7 of the log are missing: a/b/c"), None);
    }

    #[test]
    fn every_kind_has_a_label_of_its_own_and_files_have_the_right_one() {
        let labels: std::collections::BTreeSet<&str> = DamagedKind::ALL.iter().map(|kind| kind.as_str()).collect();
        assert_eq!(labels.len(), DamagedKind::ALL.len());
        for (file, kind) in [
            ("local/names/a/b/c/00000000000000000001.json", "name"),
            ("local/x/00000000000000000001.json", "manifest"),
            ("local/x/tags/t/00000000000000000001.json", "tag"),
            ("local/x/tags", "tag"),
            ("local/x/bases/y.json", "base"),
            ("local/x/deleted.json", "mark"),
            ("local/x/answers/00000000000000000001-00000000000000000002.ans", "answers"),
            ("log/x-1.wal", "log"),
            ("store/a/b/namespaces/x/segments/y/data.seg", "segment"),
            ("store/a/b/namespaces/x/deletions/y-1.del", "deletions"),
            ("store/a/b/namespaces/x/conflicts/1.json", "conflicts"),
            ("meta.redb", "other"),
        ] {
            assert_eq!(DamagedKind::of(file).as_str(), kind, "{file}");
        }
    }
}
