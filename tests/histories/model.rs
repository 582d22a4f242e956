//! What a store should hold: plain maps, with one number per event in place of clocks and origins.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A document's two fields.
pub type Fields = BTreeMap<&'static str, i64>;
/// Documents by id.
pub type Documents = BTreeMap<u64, Fields>;

/// The last event of a document, and what it left; `None` when that was a deletion.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    pub event: u64,
    pub fields: Option<Fields>,
}

/// One state of one namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    pub entries: BTreeMap<u64, Entry>,
    /// Every event that led here.
    pub seen: BTreeSet<u64>,
    pub data_seq: u64,
}

impl State {
    pub fn documents(&self) -> Documents {
        self.entries.iter().filter_map(|(id, entry)| Some((*id, entry.fields.clone()?))).collect()
    }
}

/// One life of a namespace.
#[derive(Clone, Debug, Default)]
pub struct Life {
    pub state: State,
    /// Every state it was in, by the counter of its changes.
    pub past: BTreeMap<u64, Arc<State>>,
    pub tags: BTreeMap<String, Arc<State>>,
    /// The tree of branches that it belongs to.
    pub tree: u64,
}

impl Life {
    pub fn begin(state: State, tree: u64) -> Self {
        let mut life = Life { state, tree, ..Life::default() };
        life.keep();
        life
    }

    /// Remembers the present state.
    pub fn keep(&mut self) {
        self.past.insert(self.state.data_seq, Arc::new(self.state.clone()));
    }
}

/// The whole store.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub names: BTreeMap<String, Life>,
    /// Deleted lives that can be had back: name, when, and the life.
    pub deleted: Vec<(String, u64, Life)>,
    pub events: u64,
    pub trees: u64,
}

/// How a merge decides where both sides changed a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    Fail,
    Lww,
    Ours,
    Theirs,
}

impl Model {
    /// The documents of every namespace.
    pub fn documents(&self) -> BTreeMap<String, Documents> {
        self.names.iter().map(|(name, life)| (name.clone(), life.state.documents())).collect()
    }

    /// The last event of every document of a namespace.
    pub fn entries(&self, name: &str) -> Option<&BTreeMap<u64, Entry>> {
        self.names.get(name).map(|life| &life.state.entries)
    }

    /// Writes: `edit` gives what becomes of each document; creates the namespace when it is not there.
    pub fn write(&mut self, name: &str, edit: impl FnOnce(&Documents) -> Vec<(u64, Option<Fields>)>) {
        self.events += 1;
        if !self.names.contains_key(name) {
            self.trees += 1;
            self.names.insert(name.to_owned(), Life::begin(State::default(), self.trees));
        }
        let Some(life) = self.names.get_mut(name) else { return };
        let changes = edit(&life.state.documents());
        if changes.is_empty() {
            return;
        }
        for (id, fields) in changes {
            life.state.entries.insert(id, Entry { event: self.events, fields });
        }
        life.state.seen.insert(self.events);
        life.state.data_seq += 1;
        life.keep();
    }

    /// Merges `from` into `to`; false when the policy refuses, and nothing changes.
    pub fn merge(&mut self, from: &str, to: &str, policy: Policy) -> bool {
        let source = self.names[from].state.clone();
        let target = self.names[to].state.clone();
        let mut next = target.clone();
        self.events += 1;
        let resolution = self.events;
        let ids: BTreeSet<u64> = source.entries.keys().chain(target.entries.keys()).copied().collect();
        for id in ids {
            let (theirs, ours) = (source.entries.get(&id), target.entries.get(&id));
            let Some(theirs) = theirs else { continue };
            if target.seen.contains(&theirs.event) || ours == Some(theirs) {
                continue;
            }
            let Some(ours) = ours.filter(|ours| !source.seen.contains(&ours.event)) else {
                next.entries.insert(id, theirs.clone());
                continue;
            };
            if ours.fields == theirs.fields && ours.fields.is_none() {
                // Both deleted it: the later deletion stays.
                next.entries.insert(id, if theirs.event > ours.event { theirs.clone() } else { ours.clone() });
                continue;
            }
            match policy {
                Policy::Fail => return false,
                Policy::Lww if theirs.event > ours.event => {
                    next.entries.insert(id, theirs.clone());
                }
                Policy::Lww => {}
                Policy::Ours => {
                    next.entries.insert(id, Entry { event: resolution, fields: ours.fields.clone() });
                }
                Policy::Theirs => {
                    next.entries.insert(id, Entry { event: resolution, fields: theirs.fields.clone() });
                }
            }
        }
        let seen: BTreeSet<u64> = target.seen.union(&source.seen).copied().collect();
        next.seen = seen;
        if matches!(policy, Policy::Ours | Policy::Theirs) {
            next.seen.insert(resolution);
        }
        if let Some(life) = self.names.get_mut(to) {
            life.state = next;
        }
        true
    }
}
