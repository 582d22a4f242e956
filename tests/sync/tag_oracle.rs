//! What must be true of tags, wherever they lie: each names the documents that were there when it was set, and of changes that were
//! made apart the one with the highest revision holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use shoal::engine::Engine;
use shoal::format::marks::TagFile;
use shoal::model::as_of::AsOf;
use shoal::model::ids::{NamespaceName, Nsid};
use uuid::Uuid;

use crate::node::{Documents, documents};

pub const NAMES: [&str; 3] = ["v0", "v1", "v2"];

/// A state by its commit, and the newest record in it.
type State = (Uuid, u64);

/// A tag set or deleted by one node.
struct Change {
    nsid: Nsid,
    tag: String,
    made_rev: u64,
    /// The highest revision that it was seen under: who sends it may have to make another one.
    rev: u64,
    /// `None`: it was deleted.
    state: Option<State>,
    /// Earlier changes of the same tag that it was made knowing of.
    after: BTreeSet<usize>,
}

/// Which of several changes may hold in the end.
#[derive(Clone, Copy, PartialEq)]
pub enum Rule {
    /// The highest revision.
    Highest,
    /// The same, but that deletions are forgotten after a time, so that what nobody deleted knowingly may come back.
    HighestOfSet,
    /// Any: a disk that is put back brings back what it had.
    Any,
}

#[derive(Default)]
pub struct Tags {
    changes: Vec<Change>,
    /// What each tagged state is; several where disks were cloned, which go on from one commit by as many records.
    named: BTreeMap<State, Vec<Documents>>,
}

fn nsid_of(engine: &Engine, name: &NamespaceName) -> Nsid {
    engine.nsid_of(name).unwrap()
}

fn state_of(file: &TagFile) -> Option<State> {
    file.manifest.as_ref().map(|manifest| (manifest.commit_id.0, manifest.data_seq))
}

fn at(engine: &Engine, name: &NamespaceName, as_of: Option<&AsOf>) -> Documents {
    documents(&engine.view_at(name, as_of).unwrap())
}

/// The state that each tag of a node names.
fn set(engine: &Engine, name: &NamespaceName) -> BTreeMap<String, State> {
    let tags = engine.tags(name).unwrap().into_iter();
    tags.map(|tag| (tag.name, (tag.commit_id.0, tag.data_seq))).collect()
}

impl Tags {
    /// A node deletes a tag where it is there; or has it name a state, the newest one when `as_of` is `None`, whatever it named before.
    /// `knows`: the changes that this node has seen.
    pub async fn change(
        &mut self,
        (engine, name, tag): (&Arc<Engine>, &NamespaceName, &str),
        as_of: Option<Option<AsOf>>,
        knows: &mut BTreeSet<usize>,
    ) {
        if set(engine, name).contains_key(tag) {
            engine.untag(name, tag).await.unwrap();
            self.changed(engine, (name, tag), None, knows);
        }
        if let Some(as_of) = as_of {
            let expected = at(engine, name, as_of.as_ref());
            engine.tag(name, tag, as_of.as_ref()).await.unwrap();
            self.changed(engine, (name, tag), Some(expected), knows);
        }
    }

    fn changed(
        &mut self,
        engine: &Engine,
        (name, tag): (&NamespaceName, &str),
        expected: Option<Documents>,
        knows: &mut BTreeSet<usize>,
    ) {
        let nsid = nsid_of(engine, name);
        let file = engine.tag_file(nsid, tag).unwrap().unwrap();
        let state = state_of(&file);
        assert_eq!(state.is_some(), expected.is_some());
        if let Some((state, expected)) = state.zip(expected) {
            self.named.entry(state).or_default().push(expected);
        }
        let of_it = |at: &usize| (self.changes[*at].nsid, self.changes[*at].tag.as_str()) == (nsid, tag);
        let after: BTreeSet<usize> = knows.iter().copied().filter(of_it).collect();
        knows.insert(self.changes.len());
        self.changes.push(Change { nsid, tag: tag.to_owned(), made_rev: file.rev, rev: file.rev, state, after });
    }

    /// Holds what a node has of a namespace's tags to what was tagged.
    pub fn look(&mut self, what: &str, engine: &Engine, name: &NamespaceName, knows: &mut BTreeSet<usize>) {
        let nsid = nsid_of(engine, name);
        for (tag, state) in set(engine, name) {
            let rev = engine.tag_file(nsid, &tag).unwrap().unwrap().rev;
            let is_it = |change: &Change| {
                (change.nsid, &change.tag, change.state) == (nsid, &tag, Some(state)) && change.made_rev <= rev
            };
            // The same state may have been tagged, deleted and tagged once more.
            let made = (0..self.changes.len()).filter(|at| is_it(&self.changes[*at]));
            let made = made.max_by_key(|at| self.changes[*at].made_rev);
            let made = made.unwrap_or_else(|| panic!("{what}: nobody tagged {state:?} as {tag}, revision {rev}"));
            self.changes[made].rev = self.changes[made].rev.max(rev);
            knows.insert(made);
            self.assert_named(&format!("{what}: documents as of tag {tag}"), (engine, name, &tag), &state);
        }
    }

    fn assert_named(&self, what: &str, (engine, name, tag): (&Engine, &NamespaceName, &str), state: &State) {
        let (found, named) = (at(engine, name, Some(&AsOf::Tag(tag.to_owned()))), &self.named[state]);
        assert!(named.contains(&found), "{what}: {found:?} is none of {named:?}");
    }

    /// Holds the tags that everybody has in the end to all changes that were made.
    pub fn check_all(&self, what: &str, engines: &[&Engine], name: &NamespaceName, rule: Rule) {
        let found = set(engines[0], name);
        for engine in engines {
            assert_eq!(set(engine, name), found, "{what}: tags of {name} are not the same everywhere");
            for (tag, state) in &found {
                self.assert_named(&format!("{what}: tag {tag}"), (engine, name, tag), state);
            }
        }
        let nsid = nsid_of(engines[0], name);
        for tag in NAMES.into_iter().filter(|_| rule != Rule::Any) {
            let is_it = |change: &&Change| change.nsid == nsid && change.tag == tag;
            let of: Vec<&Change> = self.changes.iter().filter(is_it).collect();
            let replaced: BTreeSet<usize> = of.iter().flat_map(|change| change.after.iter().copied()).collect();
            let is_last = |(at, change): &(usize, &Change)| is_it(change) && !replaced.contains(at);
            let last: Vec<&Change> =
                self.changes.iter().enumerate().filter(is_last).map(|(_, change)| change).collect();
            let told: Vec<_> = of.iter().map(|change| (change.rev, change.state, &change.after)).collect();
            let is = found.get(tag).copied();
            // One that a deletion beat which is forgotten does not come back by itself.
            let is_beaten = |rev| last.iter().any(|change| change.state.is_none() && change.rev > rev);
            let is_above = |change: &&&Change, rev| {
                change.rev > rev && (rule == Rule::Highest || change.state.is_some() && !is_beaten(change.rev))
            };
            let may_be = |held: &&Change| held.state == is && !last.iter().any(|change| is_above(&change, held.rev));
            let is_right = last.iter().any(may_be) || last.is_empty() && is.is_none();
            assert!(is_right, "{what}: tag {tag} of {name} names {is:?}, of these changes: {told:#?}");
        }
    }
}
