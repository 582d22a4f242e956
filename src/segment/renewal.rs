//! What was written under one origin from some time on becomes another origin's, by the same clocks.

use crate::format::rows::PatchPlaces;
use crate::model::document::Tombstone;
use crate::model::ids::{Hlc, Origin, Version};

/// A change of origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewal {
    pub from: Origin,
    /// What is newer than this.
    pub since: Hlc,
    pub to: Origin,
}

impl Renewal {
    /// Whether a version changes.
    pub fn is_of(&self, version: Version) -> bool {
        version.origin == self.from && version.hlc > self.since
    }

    pub fn of(&self, version: Version) -> Version {
        if self.is_of(version) { Version { origin: self.to, ..version } } else { version }
    }

    pub(super) fn of_tombstones(&self, tombstones: &mut [Tombstone]) {
        tombstones.iter_mut().for_each(|tombstone| tombstone.version = self.of(tombstone.version));
    }

    pub(super) fn of_patch(&self, patch: PatchPlaces) -> PatchPlaces {
        PatchPlaces { base: self.of(patch.base), ..patch }
    }
}
