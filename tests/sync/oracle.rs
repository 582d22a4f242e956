//! What must be true of any state of a namespace, wherever it lies: it is what the writes that it has seen come to.
//!
//! Of every document the writes count that a state has seen and that no other of them was made knowing of. One of those is the
//! document; the others lost, and are kept as conflicts. Which writes a state has seen, its version vector says; that this is
//! true is what is shown, since a write that it claims and that is in none of both is missed at once.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value as Json;
use shoal::engine::Engine;
use shoal::model::ids::{DocId, NamespaceName, Nsid, Origin, Version};
use shoal::model::version_vector::VersionVector;

use crate::fleet::lost;
use crate::node::all;

/// What a document says: `n`, and `m` where it was patched. `None`: it is not there.
pub type Value = Option<(u64, Option<u64>)>;
/// A document's id and what it says.
type State = (u64, Value);

/// One write of one document.
struct Written {
    nsid: Nsid,
    id: u64,
    value: Value,
    /// What it is known by: one version, and another one for every time that its node took a new origin.
    versions: Vec<Version>,
    /// Earlier writes of the same document that it was made knowing of.
    after: BTreeSet<usize>,
}

/// What a node has of one namespace.
pub struct Seen {
    pub nsid: Nsid,
    pub vector: VersionVector,
    pub documents: BTreeMap<u64, Value>,
    pub conflicts: BTreeSet<State>,
}

impl Written {
    fn is_in(&self, vector: &VersionVector) -> bool {
        self.versions.iter().any(|version| vector.covers(*version))
    }
}

#[derive(Default)]
pub struct Model {
    writes: Vec<Written>,
    /// Every state that was seen to be kept as a conflict, anywhere.
    kept: BTreeSet<State>,
    /// The same of each incarnation, where it has to stay.
    kept_in: BTreeMap<Nsid, BTreeSet<State>>,
    /// What each deletion of a namespace knew of.
    deletions: Vec<(Nsid, VersionVector)>,
}

fn value(fields: &BTreeMap<String, Json>) -> (u64, Option<u64>) {
    (fields["n"].as_u64().unwrap(), fields.get("m").and_then(Json::as_u64))
}

fn number(id: &DocId) -> u64 {
    match id {
        DocId::Uint(id) => *id,
        other => panic!("expected an integer, got {other}"),
    }
}

/// Looks at a namespace of a node.
pub async fn look(engine: &Engine, name: &NamespaceName) -> Seen {
    let nsid = engine.named().into_iter().find(|(named, _)| named == name).unwrap().1;
    let vector = engine.seen(name).await.unwrap();
    let documents = all(engine, &name.name).iter().map(|(id, row)| (number(id), Some(value(row)))).collect();
    let conflicts = lost(engine, &name.name).into_iter();
    let conflicts = conflicts.map(|state| (number(&state.id), state.fields.as_ref().map(value))).collect();
    Seen { nsid, vector, documents, conflicts }
}

impl Model {
    /// A number that no write had so far.
    pub fn fresh(&self) -> u64 {
        self.writes.len() as u64
    }

    /// Takes note of what a write changed, from how it was before to how it is now.
    pub fn wrote(&mut self, before: Option<&Seen>, now: &Seen, version: Version) {
        let (nothing, none) = (VersionVector::default(), BTreeMap::new());
        let (vector, documents) = before.map_or((&nothing, &none), |before| (&before.vector, &before.documents));
        let ids: BTreeSet<u64> = documents.keys().chain(now.documents.keys()).copied().collect();
        for id in ids {
            let is = now.documents.get(&id).copied().flatten();
            if documents.get(&id).copied().flatten() != is {
                let after = self.known(vector).filter(|(_, write)| write.id == id).map(|(at, _)| at).collect();
                self.writes.push(Written { nsid: now.nsid, id, value: is, versions: vec![version], after });
            }
        }
    }

    /// Takes note of a node that took a new origin: what it wrote may be known by either from then on.
    pub fn parted(&mut self, from: Origin, to: Origin) {
        for write in &mut self.writes {
            let known = write.versions.iter().find(|version| version.origin == from);
            let renewed = known.map(|version| Version { origin: to, ..*version });
            write.versions.extend(renewed);
        }
    }

    /// Takes note of a namespace that is deleted in this state.
    pub fn deleted(&mut self, seen: Seen) {
        self.deletions.push((seen.nsid, seen.vector));
    }

    /// Whether anybody ever deleted this incarnation.
    pub fn was_deleted(&self, nsid: Nsid) -> bool {
        self.deletions.iter().any(|(deleted, _)| *deleted == nsid)
    }

    fn known(&self, vector: &VersionVector) -> impl Iterator<Item = (usize, &Written)> {
        self.writes.iter().enumerate().filter(|(_, write)| write.is_in(vector))
    }

    /// Holds a state to what it has seen.
    pub fn check(&mut self, what: &str, seen: &Seen) {
        self.kept.extend(&seen.conflicts);
        let kept_here = self.kept_in.entry(seen.nsid).or_default();
        kept_here.extend(&seen.conflicts);
        let known: BTreeMap<usize, &Written> = self.known(&seen.vector).collect();
        let replaced: BTreeSet<usize> = known.values().flat_map(|write| write.after.iter().copied()).collect();
        let newest: Vec<(usize, &Written)> =
            known.iter().filter(|(at, _)| !replaced.contains(at)).map(|(at, write)| (*at, *write)).collect();
        let ids: BTreeSet<u64> =
            newest.iter().map(|(_, write)| write.id).chain(seen.documents.keys().copied()).collect();
        for id in ids {
            let of: Vec<(usize, &Written)> = newest.iter().filter(|(_, write)| write.id == id).copied().collect();
            let is = seen.documents.get(&id).copied().flatten();
            let said: Vec<(usize, Value)> = of.iter().map(|(at, write)| (*at, write.value)).collect();
            assert!(
                said.iter().any(|(_, value)| *value == is) || said.is_empty() && is.is_none(),
                "{what}: document {id} is {is:?}, which is none of the newest writes {said:?}"
            );
            for (at, write) in of.iter().filter(|(_, write)| write.value != is) {
                // Two deletions that did not know of each other are one.
                let is_twin = |(other, twin): (&usize, &&Written)| {
                    let is_apart = other != at && !twin.after.contains(at) && !write.after.contains(other);
                    twin.id == id && twin.value.is_none() && is_apart
                };
                let is_merged = write.value.is_none() && known.iter().any(is_twin);
                // What was changed back to what both had is no change.
                let is_undone = of.iter().filter(|(_, other)| other.value == is).any(|(_, other)| {
                    let common = write.after.intersection(&other.after).max();
                    common.and_then(|at| self.writes[*at].value) == write.value
                });
                assert!(
                    self.kept.contains(&(id, write.value)) || is_merged || is_undone,
                    "{what}: document {id} is {is:?}, and write {at} of {:?} is gone without a word",
                    write.value
                );
            }
        }
    }

    /// Holds what everybody has in the end to everything that was acknowledged.
    pub fn check_all(&self, what: &str, found: &BTreeMap<NamespaceName, Seen>) {
        // One that was deleted somewhere comes back as others have it.
        for (name, seen) in found.iter().filter(|(_, seen)| !self.was_deleted(seen.nsid)) {
            let missing: Vec<_> = self.kept_in[&seen.nsid].difference(&seen.conflicts).collect();
            assert!(missing.is_empty(), "{what}: {name} does not keep {missing:?} any more, which lost");
        }
        for (at, write) in self.writes.iter().enumerate() {
            let is_in = |seen: &Seen| write.is_in(&seen.vector);
            // What a deletion had not seen may be kept under another name, and so is what gave way where two were created apart.
            let gave_way = !found.values().any(|seen| seen.nsid == write.nsid);
            let is_here = match self.was_deleted(write.nsid) || gave_way {
                true => found.values().any(is_in),
                false => found.values().any(|seen| seen.nsid == write.nsid && is_in(seen)),
            };
            // Who deleted a namespace that others bring back meant what was in it then.
            let was_meant = self.deletions.iter().any(|(_, vector)| write.is_in(vector));
            assert!(
                is_here || was_meant,
                "{what}: write {at}, of document {} in {}, is gone, and nobody who deleted a namespace knew of it",
                write.id,
                write.nsid
            );
        }
    }
}
