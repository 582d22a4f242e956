//! What was written under some origins from some time on becomes other origins', by the same clocks.

use std::collections::BTreeMap;

use crate::format::rows::PatchPlaces;
use crate::model::document::Tombstone;
use crate::model::ids::{Hlc, Origin, Version};

/// Per origin from when on what it wrote is whose.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renewal {
    changes: BTreeMap<Origin, (Hlc, Origin)>,
}

impl Renewal {
    /// What `from` wrote later than `since` becomes `to`'s.
    pub fn add(&mut self, from: Origin, since: Hlc, to: Origin) {
        self.changes.insert(from, (since, to));
    }

    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Whether a version changes.
    pub fn is_of(&self, version: Version) -> bool {
        self.changes.get(&version.origin).is_some_and(|(since, _)| version.hlc > *since)
    }

    pub fn of(&self, version: Version) -> Version {
        match self.changes.get(&version.origin) {
            Some((since, to)) if version.hlc > *since => Version { origin: *to, ..version },
            _ => version,
        }
    }

    /// Up to when what an origin wrote stays its own, when that ends.
    pub fn since(&self, origin: Origin) -> Option<Hlc> {
        self.changes.get(&origin).map(|(since, _)| *since)
    }

    pub(super) fn of_tombstones(&self, tombstones: &mut [Tombstone]) {
        tombstones.iter_mut().for_each(|tombstone| tombstone.version = self.of(tombstone.version));
    }

    pub(super) fn of_patch(&self, patch: PatchPlaces) -> PatchPlaces {
        PatchPlaces { base: self.of(patch.base), ..patch }
    }
}
