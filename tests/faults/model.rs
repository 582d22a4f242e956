//! What a node may hold after steps of which some failed: of each namespace every state that it may be in.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Ids of one class are written by the lives of one name only, so merges never meet what both sides changed.
pub const CLASS_IDS: u64 = 32;

/// A document as it is read back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    pub n: i64,
    pub m: Option<i64>,
    /// How many empty strings it has.
    pub empties: Option<usize>,
}

pub type Documents = BTreeMap<u64, Fields>;

/// The last change of a document, and what it left; `None` when that was a deletion.
#[derive(Clone, Debug, PartialEq)]
struct Entry {
    event: u64,
    fields: Option<Fields>,
}

/// One state of one namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct State {
    /// The tree of branches that it belongs to.
    pub tree: u64,
    entries: BTreeMap<u64, Entry>,
    /// Keys of writes that are in it.
    keys: BTreeSet<u64>,
}

/// Every state that a namespace may be in; `None`: it is not there.
pub type Can = Vec<Option<Arc<State>>>;

/// What a write asks for. What it sets is `value`, whenever it is carried out.
#[derive(Clone, Debug)]
pub struct Edit {
    pub value: i64,
    pub what: What,
}

#[derive(Clone, Debug)]
pub enum What {
    Put {
        ids: Vec<u64>,
        empties: usize,
    },
    Patch {
        id: u64,
    },
    PatchAll {
        class: u64,
    },
    Delete {
        ids: Vec<u64>,
    },
    /// What was put with a value of at least this.
    DeleteSince {
        class: u64,
        since: i64,
    },
}

impl State {
    /// An empty namespace, the root of a tree.
    pub fn first(tree: u64) -> State {
        State { tree, ..State::default() }
    }

    pub fn in_tree(&self, tree: u64) -> State {
        State { tree, ..self.clone() }
    }

    pub fn documents(&self) -> Documents {
        self.entries.iter().filter_map(|(id, entry)| Some((*id, entry.fields.clone()?))).collect()
    }

    pub fn has_key(&self, key: u64) -> bool {
        self.keys.contains(&key)
    }

    /// What a write makes of this state, as change number `event`.
    pub fn after(&self, event: u64, edit: &Edit, key: Option<u64>) -> State {
        let mut next = self.clone();
        if let Some(key) = key
            && !next.keys.insert(key)
        {
            return next;
        }
        let live = |id: &u64| self.entries.get(id).and_then(|entry| entry.fields.clone());
        let of_class = |class: u64| {
            let ids: Vec<u64> =
                self.entries.range(class * CLASS_IDS..(class + 1) * CLASS_IDS).map(|(id, _)| *id).collect();
            ids.into_iter().filter_map(move |id| Some((id, live(&id)?)))
        };
        let mut set = |id: u64, fields: Option<Fields>| next.entries.insert(id, Entry { event, fields });
        match &edit.what {
            What::Put { ids, empties } => {
                for id in ids {
                    let empties = (*empties > 0).then_some(*empties);
                    set(*id, Some(Fields { n: edit.value, m: None, empties }));
                }
            }
            What::Patch { id } => {
                if let Some(fields) = live(id) {
                    set(*id, Some(Fields { m: Some(edit.value), ..fields }));
                }
            }
            What::PatchAll { class } => {
                for (id, fields) in of_class(*class) {
                    set(id, Some(Fields { m: Some(edit.value), ..fields }));
                }
            }
            What::Delete { ids } => {
                for id in ids {
                    set(*id, None);
                }
            }
            What::DeleteSince { class, since } => {
                for (id, fields) in of_class(*class) {
                    if fields.n >= *since {
                        set(id, None);
                    }
                }
            }
        }
        next
    }

    /// Adds keys of writes that are in it.
    pub fn with_keys(&self, keys: impl IntoIterator<Item = u64>) -> State {
        let mut next = self.clone();
        next.keys.extend(keys);
        next
    }

    /// What a merge of `from` makes of it: of every document the newer change, as no document is changed in two places.
    pub fn merged(&self, from: &State) -> State {
        let mut next = self.clone();
        for (id, theirs) in &from.entries {
            if next.entries.get(id).is_none_or(|ours| ours.event < theirs.event) {
                next.entries.insert(*id, theirs.clone());
            }
        }
        next
    }

    /// A namespace that begins with this state: answers to repeated writes are its source's.
    pub fn begun(&self) -> State {
        State { keys: BTreeSet::new(), ..self.clone() }
    }
}

/// A write with a key that was sent.
#[derive(Clone, Debug)]
pub struct Keyed {
    pub key: u64,
    pub edit: Edit,
    pub sent_ms: u64,
}

/// A state that was promised to be there, asked for in this way.
#[derive(Clone, Debug)]
pub struct Pledge {
    pub generation: u64,
    pub since_ms: u64,
    pub can: Can,
}

/// What is known of one name.
#[derive(Clone, Debug)]
pub struct Name {
    pub can: Can,
    /// The outcome of a step is open until another write is acknowledged or the node starts again, whatever is read until then.
    pub is_open: bool,
    /// Lives that may be had back: since when, and their states. True: it was deleted for sure.
    pub deleted: Vec<(u64, Can, bool)>,
    pub tags_maybe: BTreeSet<&'static str>,
    pub tags: BTreeMap<&'static str, Can>,
    pub keyed: Vec<Keyed>,
    pub pledges: Vec<Pledge>,
    /// What the bucket may have, since it was last promised what it has.
    pub in_bucket: Option<Can>,
    /// The class of its present life.
    pub class: u64,
}

impl Default for Name {
    fn default() -> Self {
        Name {
            can: vec![None],
            is_open: false,
            deleted: Vec::new(),
            tags_maybe: BTreeSet::new(),
            tags: BTreeMap::new(),
            keyed: Vec::new(),
            pledges: Vec::new(),
            in_bucket: None,
            class: 0,
        }
    }
}

/// Without what is there twice.
pub fn distinct(can: Can) -> Can {
    let mut found: Can = Vec::new();
    for state in can {
        if !found.contains(&state) {
            found.push(state);
        }
    }
    found
}

/// Whether what was found is one of these.
pub fn allows(can: &Can, found: Option<&Documents>) -> bool {
    can.iter().any(|state| state.as_ref().map(|state| state.documents()).as_ref() == found)
}

impl Name {
    pub fn set(&mut self, can: Can) {
        self.can = distinct(can);
        if let Some(known) = &mut self.in_bucket {
            let more = self.can.iter().filter(|state| !known.contains(state)).cloned().collect::<Vec<_>>();
            known.extend(more);
        }
    }

    /// The outcome is open: it may be as before, or this.
    pub fn may_be(&mut self, can: Can) {
        let mut all = self.can.clone();
        all.extend(can);
        self.set(all);
        self.is_open = true;
    }

    pub fn is_surely_there(&self) -> bool {
        self.can.iter().all(Option::is_some)
    }

    pub fn may_be_there(&self) -> bool {
        self.can.iter().any(Option::is_some)
    }

    /// Another life has the name from now on, or may have.
    pub fn begin_life(&mut self, class: u64) {
        self.class = class;
        self.tags.clear();
        self.keyed.clear();
        self.pledges.clear();
    }

    /// Keeps of what may be what was found.
    pub fn narrow(&mut self, found: Option<&Documents>) {
        if !self.is_open {
            self.can.retain(|state| state.as_ref().map(|state| state.documents()).as_ref() == found);
        }
    }
}
