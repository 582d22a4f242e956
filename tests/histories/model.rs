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

/// What a merge leaves to the store: ids that it hands out, and attributes of which nobody knows who changed them.
#[derive(Clone, Debug, Default)]
pub struct Open {
    event: u64,
    /// Documents that are kept under ids of their own, in the order of the ids that they had.
    beside: Vec<Fields>,
    /// Both states of a document whose common state is not known any more.
    either: BTreeMap<u64, [Fields; 2]>,
}

/// The whole store.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub names: BTreeMap<String, Life>,
    /// Deleted lives that can be had back: name, when, and the life.
    pub deleted: Vec<(String, u64, Life)>,
    pub events: u64,
    pub trees: u64,
    pub open: Open,
    /// Every state that a document ever had, by id and event.
    versions: BTreeMap<(u64, u64), Option<Fields>>,
    /// Ids that were ever handed out.
    handed_out: BTreeSet<u64>,
}

/// How a merge decides where both sides changed a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    Fail,
    Lww,
    Fields,
    FieldsOrFail,
    Ours,
    Theirs,
    KeepBoth,
}

/// What a dry run says of a merge.
#[derive(Clone, Debug, Default)]
pub struct Bases {
    /// The documents that the policy has to decide about.
    pub conflicts: BTreeSet<u64>,
    /// The states that both sides began with, of those of which the store knows.
    pub of: BTreeMap<u64, Fields>,
    pub is_refused: bool,
}

/// Joins two states attribute by attribute against the one that both began with.
fn join(base: &Fields, theirs: &Fields, ours: &Fields, theirs_is_newer: bool) -> Fields {
    let attributes: BTreeSet<&'static str> = theirs.keys().chain(ours.keys()).copied().collect();
    let decided = |name: &'static str| {
        let (b, s, t) = (base.get(name), theirs.get(name), ours.get(name));
        let takes_theirs = s != b && (t == b || theirs_is_newer);
        Some((name, *if takes_theirs { s } else { t }?))
    };
    attributes.into_iter().filter_map(decided).collect()
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
            self.versions.insert((id, self.events), fields.clone());
            life.state.entries.insert(id, Entry { event: self.events, fields });
        }
        life.state.seen.insert(self.events);
        life.state.data_seq += 1;
        life.keep();
    }

    /// Merges `from` into `to`; false when the policy refuses, and nothing changes. What depends on the store is then open.
    pub fn merge(&mut self, from: &str, to: &str, policy: Policy, bases: &Bases) -> bool {
        let source = self.names[from].state.clone();
        let target = self.names[to].state.clone();
        let mut next = target.clone();
        self.events += 1;
        let event = self.events;
        self.open = Open { event, ..Open::default() };
        for (id, theirs) in &source.entries {
            let ours = target.entries.get(id);
            if target.seen.contains(&theirs.event) || ours == Some(theirs) {
                continue;
            }
            let Some(ours) = ours.filter(|ours| !source.seen.contains(&ours.event)) else {
                next.entries.insert(*id, theirs.clone());
                continue;
            };
            let theirs_is_newer = theirs.event > ours.event;
            let renewed = |fields: &Option<Fields>| Entry { event, fields: fields.clone() };
            let settled = match (policy, &theirs.fields, &ours.fields) {
                // Both made the same of it, or deleted it: the later one stays.
                (_, s, t) if s == t && theirs_is_newer => theirs.clone(),
                (_, s, t) if s == t => ours.clone(),
                // The store knows what both began with, and that one of them has made nothing else of it.
                (_, s, t) if !bases.conflicts.contains(id) => {
                    let base = self.newest_common(*id, &source, &target);
                    match (*s != base, *t != base) {
                        (true, false) if theirs_is_newer => theirs.clone(),
                        (true, false) => renewed(s),
                        (false, true) if theirs_is_newer => renewed(t),
                        (false, true) => ours.clone(),
                        _ => panic!("{id} is no conflict: both began with {base:?}, {s:?} and {t:?} are there now"),
                    }
                }
                (Policy::Fail, ..) => return false,
                (Policy::FieldsOrFail, ..) if bases.is_refused => return false,
                (Policy::FieldsOrFail, s, t) => {
                    let base = self.newest_common(*id, &source, &target).unwrap_or_default();
                    let (Some(s), Some(t)) = (s, t) else { panic!("{id} is {s:?} and {t:?}, and that is no clash") };
                    let (one, other) = (join(&base, s, t, true), join(&base, s, t, false));
                    assert!(one == other, "{id} is joined of {s:?} and {t:?}, which clash over {base:?}");
                    renewed(&Some(one))
                }
                (Policy::Lww, ..) if theirs_is_newer => theirs.clone(),
                (Policy::Lww, ..) => ours.clone(),
                (Policy::Ours, ..) | (Policy::Fields | Policy::KeepBoth, None, _) => renewed(&ours.fields),
                (Policy::Theirs, ..) | (Policy::Fields | Policy::KeepBoth, _, None) => renewed(&theirs.fields),
                (Policy::KeepBoth, Some(s), Some(t)) => {
                    let (kept, beside) = if theirs_is_newer { (s, t) } else { (t, s) };
                    self.open.beside.push(beside.clone());
                    renewed(&Some(kept.clone()))
                }
                (Policy::Fields, Some(s), Some(t)) => match bases.of.get(id) {
                    Some(base) => {
                        assert!(self.is_common(*id, base, &source, &target), "{id} never was {base:?} on both sides");
                        renewed(&Some(join(base, s, t, theirs_is_newer)))
                    }
                    None => {
                        self.open.either.insert(*id, [s.clone(), t.clone()]);
                        renewed(&ours.fields)
                    }
                },
            };
            next.entries.insert(*id, settled);
        }
        next.seen.extend(&source.seen);
        next.seen.insert(event);
        for (id, entry) in &next.entries {
            self.versions.entry((*id, entry.event)).or_insert_with(|| entry.fields.clone());
        }
        if let Some(life) = self.names.get_mut(to) {
            life.state = next;
        }
        true
    }

    /// The newest state of a document that both sides have seen.
    fn newest_common(&self, id: u64, source: &State, target: &State) -> Option<Fields> {
        let both = |event: &u64| source.seen.contains(event) && target.seen.contains(event);
        let states = self.versions.range((id, 0)..=(id, u64::MAX)).rev();
        states.filter(|((_, event), _)| both(event)).map(|(_, had)| had.clone()).next().flatten()
    }

    /// Whether both sides have seen a document in this state.
    fn is_common(&self, id: u64, fields: &Fields, source: &State, target: &State) -> bool {
        let both = |event: &u64| source.seen.contains(event) && target.seen.contains(event);
        self.versions
            .range((id, 0)..=(id, u64::MAX))
            .any(|((_, event), had)| both(event) && had.as_ref() == Some(fields))
    }

    /// Takes from the store what the last merge into a namespace left open; false when it is not what may be.
    pub fn adopt(&mut self, to: &str, found: &Documents) -> bool {
        let open = std::mem::take(&mut self.open);
        let Some(life) = self.names.get_mut(to) else { return false };
        for (id, [theirs, ours]) in open.either {
            let Some(fields) = found.get(&id) else { return false };
            let is_of_one = |name| [theirs.get(name), ours.get(name)].contains(&fields.get(name));
            if !theirs.keys().chain(ours.keys()).chain(fields.keys()).all(is_of_one) {
                return false;
            }
            self.versions.insert((id, open.event), Some(fields.clone()));
            life.state.entries.insert(id, Entry { event: open.event, fields: Some(fields.clone()) });
        }
        let new: Vec<u64> = found.keys().filter(|id| !life.state.entries.contains_key(id)).copied().collect();
        let kept: Vec<&Fields> = new.iter().map(|id| &found[id]).collect();
        if !kept.into_iter().eq(&open.beside) {
            return false;
        }
        for (id, fields) in new.into_iter().zip(open.beside) {
            if !self.handed_out.insert(id) {
                return false;
            }
            self.versions.insert((id, open.event), Some(fields.clone()));
            life.state.entries.insert(id, Entry { event: open.event, fields: Some(fields) });
        }
        true
    }
}
