//! Names of which the bucket does not know what they mean here: their namespace was deleted since, or is back, or has no name there yet.
//!
//! A binding says who lost the name for as long as the bucket is to be told of it, so that is known after a start, too. Of what the bucket
//! never had under the name nobody is told, and it stays in the file: that a pass found nothing to tell is known until the next start.
//!
//! While another store, or none, is where the bucket was, nothing of what was exchanged is known to be there.

use std::collections::{BTreeMap, BTreeSet};

use super::{Engine, Unsent};
use crate::error::Result;
use crate::format::manifest::Manifest;
use crate::model::ids::{NamespaceName, Nsid};

/// What passes found of names.
#[derive(Debug, Default)]
pub(super) struct Telling {
    /// Revisions here of which there is nothing to tell, though they say who lost the name.
    told: BTreeMap<NamespaceName, u64>,
    /// Those that the bucket is being told of.
    nameless: BTreeSet<NamespaceName>,
    /// Whether the bucket was found not to be this node's.
    is_foreign: bool,
}

impl Engine {
    /// The bucket does not have the name, or not of this incarnation. Until [`Self::has_name`] it counts as not sent.
    pub fn lacks_name(&self, name: &NamespaceName) {
        self.telling().nameless.insert(name.clone());
    }

    /// The bucket and this node mean the same by the name.
    pub fn has_name(&self, name: &NamespaceName) {
        self.telling().nameless.remove(name);
    }

    /// Whether the bucket has any name is not known any more, nor what it was told of them.
    pub fn lacks_names(&self) {
        let named: Vec<NamespaceName> = self.named().into_iter().map(|(name, _)| name).collect();
        let mut telling = self.telling();
        telling.told.clear();
        telling.nameless.extend(named);
    }

    /// Whether the bucket is not the one that this node exchanged with: then all that is here counts as not sent.
    pub fn note_bucket(&self, is_foreign: bool) {
        self.telling().is_foreign = is_foreign;
    }

    /// What the bucket has of a namespace. What is followed came from there, and is not sent anyway.
    pub(super) fn known_there(&self, name: &NamespaceName, nsid: Nsid) -> Result<Option<Manifest>> {
        if self.telling().is_foreign && !self.follows(name) {
            return Ok(None);
        }
        self.common(nsid)
    }

    /// Of this revision of a name the bucket needs not be told.
    pub fn is_told(&self, name: &NamespaceName, rev: u64) {
        self.telling().told.insert(name.clone(), rev);
    }

    /// Names that are bound to nothing, of which the bucket was not told, or of which that cannot be said. Blocking.
    pub fn untold(&self) -> Vec<NamespaceName> {
        let is_untold = |name: &NamespaceName| self.untold_since(name).map_or(true, |since| since.is_some());
        self.catalog.unbound().into_iter().filter(is_untold).collect()
    }

    /// Since when a name means something that the bucket was not told. Reads a small file.
    fn untold_since(&self, name: &NamespaceName) -> Result<Option<u64>> {
        let Some(binding) = self.binding(name)? else { return Ok(None) };
        let telling = self.telling();
        let is_told = binding.ended.is_none() || telling.told.get(name) == Some(&binding.rev);
        let is_untold = !is_told || binding.target.is_some() && telling.nameless.contains(name);
        Ok(is_untold.then_some(binding.hlc.millis()))
    }

    /// What there is to send of a name that is bound to nothing.
    pub(super) fn unsent_deletion(&self, name: &NamespaceName) -> Result<Option<Unsent>> {
        let nothing = Unsent { is_deleted: true, ..Unsent::default() };
        Ok(self.untold_since(name)?.map(|since| nothing.and_name(since)))
    }

    /// With the name, where the bucket does not know of it; those that are followed stay here.
    pub(super) fn with_name(&self, name: &NamespaceName, unsent: Unsent) -> Result<Unsent> {
        let since = if self.follows(name) { None } else { self.untold_since(name)? };
        Ok(since.map_or(unsent, |since| unsent.and_name(since)))
    }
}

impl Unsent {
    fn and_name(self, since_ms: u64) -> Self {
        Unsent {
            is_durable: false,
            is_nothing: false,
            objects: self.objects + 1,
            since_ms: self.since_ms.into_iter().chain([since_ms]).min(),
            ..self
        }
    }
}
