//! What a committer heeds: the fences since the state that this node and the bucket last had in common.
//!
//! Invariant: no object that this node's newest state names was condemned by a fence up to the common state. So it is looked at
//! before the common state moves on: objects that were condemned meanwhile get new names here, and are sent under these; under the
//! old ones anybody may delete them at any time.

use std::collections::BTreeSet;

use super::Sync;
use super::namespace::Found;
use crate::engine::remote::{keys_of, owner_of};
use crate::error::Result;
use crate::format::manifest::Manifest;
use crate::format::reclaim::{Fence, decode_sweep};
use crate::model::ids::{NamespaceName, Nsid};

/// The most fences that are read one after another; who was away for more sends what it has under new names.
const FENCES_MAX: usize = 64;

/// What fences condemned.
pub(super) enum Condemned {
    Listed(BTreeSet<String>),
    /// Some of the lists are not kept any more.
    Unknown,
}

impl Condemned {
    pub(super) fn may_have(&self, key: &str) -> bool {
        match self {
            Condemned::Listed(keys) => keys.contains(key),
            Condemned::Unknown => true,
        }
    }

    pub(super) fn may_have_any(&self, is_it: impl Fn(&str) -> bool) -> bool {
        match self {
            Condemned::Listed(keys) => keys.iter().any(|key| is_it(key)),
            Condemned::Unknown => true,
        }
    }
}

impl Sync {
    /// Gives what is here new names where the bucket's state `found` may have lost it. `None`: the bucket had the namespace, and
    /// has nothing of it any more.
    pub(super) async fn heed_fences(
        &self,
        name: &NamespaceName,
        nsid: Nsid,
        common: Option<&Manifest>,
        found: Option<&Found>,
    ) -> Result<()> {
        let ours = keys_of(&self.engine.newest(name).await?);
        let due = match found.filter(|found| !found.manifest.is_end()) {
            None => ours,
            Some(Found { manifest, .. }) => {
                let condemned = self.condemned_since(common.map(|common| common.generation), manifest).await;
                let mut named = keys_of(manifest);
                named.extend(self.engine.superseded(name, common, manifest).await?);
                // Conflicts that others settled go when their state is taken in.
                named.extend(common.into_iter().flat_map(|common| common.conflicts.iter().cloned()));
                // What others own is held for a first state only.
                let is_due = |key: &String| owner_of(key) != Some(nsid) || condemned.may_have(key);
                ours.into_iter().filter(|key| !named.contains(key) && is_due(key)).collect()
            }
        };
        self.renew(name, &due).await
    }

    /// Gives objects of this node's newest state new names, below the namespace's own prefix.
    pub(super) async fn renew(&self, name: &NamespaceName, due: &BTreeSet<String>) -> Result<()> {
        if due.is_empty() {
            return Ok(());
        }
        tracing::info!(%name, objects = due.len(), "sent under new names: the bucket may have reclaimed the old ones");
        self.engine.renew(name, due).await
    }

    /// What the fences up to `newest` condemned, after generation `base`, or ever.
    pub(super) async fn condemned_since(&self, base: Option<u64>, newest: &Manifest) -> Condemned {
        let mut all = BTreeSet::new();
        let mut next = newest.fence.clone();
        for _ in 0..FENCES_MAX {
            let is_later = |fence: &Fence| fence.generation > base.unwrap_or(0);
            let Some(fence) = next.filter(is_later) else {
                return Condemned::Listed(all);
            };
            let list = match self.bucket.get(&fence.sweep, &self.options.patience).await {
                Ok(Some(bytes)) => decode_sweep(&bytes, &fence.sweep),
                Ok(None) => return Condemned::Unknown,
                Err(error) => Err(error),
            };
            match list {
                Ok(list) if (list.nsid, list.generation) == (newest.nsid, fence.generation) => {
                    all.extend(list.condemned);
                    next = list.before;
                }
                Ok(_) => return Condemned::Unknown,
                Err(error) => {
                    tracing::warn!(%error, "a fence's list is not read, so all that it may have condemned is sent anew");
                    return Condemned::Unknown;
                }
            }
        }
        Condemned::Unknown
    }
}
