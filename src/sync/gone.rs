//! Reclaims deleted namespaces: found by the revisions of names, ended by a last fence, removed when nobody holds any of them.
//!
//! - One that has its name again is not touched: who gives a name looks for the end afterwards, who ends one looks at the name
//!   afterwards. One of the two always sees the other; what was ended in spite of that is sent anew by who has it.
//! - Its last manifest goes when no object is left, and not before retention has passed once more: until then who was away is told
//!   that it ended.

use std::collections::{BTreeMap, BTreeSet};

use super::collect::{Of, Reclaim, Reclaimed};
use super::{Attached, Selection, Sync, names};
use crate::engine::layout::{number_of, prefix};
use crate::error::Result;
use crate::format::manifest::Manifest;
use crate::model::ids::{NamespaceName, Nsid};

/// The most keys that are left of a namespace of which every object is gone: manifests, lists, the hint.
const LEFT_MAX: usize = 100_000;

impl Sync {
    /// Incarnations that were deleted at least `retention_ms` ago, with the names they had.
    pub(super) async fn dead(
        &self,
        attached: &mut Attached,
        selection: &Selection,
        retention_ms: u64,
    ) -> Result<Vec<(NamespaceName, Nsid)>> {
        let revisions = names::revisions(&self.bucket, &self.options.patience).await?;
        let (mut alive, mut ended) = (BTreeSet::new(), BTreeMap::new());
        for (name, revs) in revisions {
            let mut later: Option<names::Bound> = None;
            for rev in revs.into_iter().rev() {
                let Some(bound) = self.bound(attached, &name, rev).await? else { continue };
                if later.is_none() {
                    alive.extend(bound.target);
                    let before = bound.ended.iter().map(|ended| ended.nsid);
                    before.for_each(|nsid| keep_latest(&mut ended, &name, nsid, bound.hlc.millis()));
                }
                // It lost the name when the next one came.
                if let (Some(nsid), Some(later)) = (bound.target, &later)
                    && later.target != Some(nsid)
                {
                    keep_latest(&mut ended, &name, nsid, later.hlc.millis());
                }
                later = Some(bound);
            }
        }
        let until = self.clock.now_millis().saturating_sub(retention_ms);
        let is_due = |(nsid, (name, at_ms)): &(Nsid, (NamespaceName, u64))| {
            !alive.contains(nsid) && *at_ms <= until && selection.takes(name)
        };
        let mut dead: Vec<(NamespaceName, Nsid)> =
            ended.into_iter().filter(is_due).map(|(nsid, (name, _))| (name, nsid)).collect();
        // Branches are younger than what they came from, which they hold.
        dead.reverse();
        Ok(dead)
    }

    /// Whether a name's newest revision in the bucket is not of this incarnation.
    pub(super) async fn is_dead(&self, name: &NamespaceName, nsid: Nsid) -> Result<bool> {
        let Some(rev) = names::newest(&self.bucket, name, &self.options.patience).await? else { return Ok(true) };
        let bound = names::read(&self.bucket, name, rev, &self.options.patience).await?;
        Ok(bound.is_none_or(|bound| bound.target != Some(nsid)))
    }

    /// Removes what is left of a deleted namespace when all objects are gone and nobody holds any.
    pub(super) async fn bury(&self, of: &Of<'_>, ask: &Reclaim) -> Result<Reclaimed> {
        let (patience, mut done) = (&self.options.patience, Reclaimed::default());
        let newest = self.newest(of.project(), of.nsid, None).await?;
        let until = self.clock.now_millis().saturating_sub(ask.retention_ms);
        let is_due = |last: &Manifest| last.is_end() && last.fence.as_ref().is_some_and(|fence| fence.at_ms <= until);
        if ask.dry_run || !newest.is_none_or(|found| is_due(&found.manifest)) {
            return Ok(done);
        }
        let below = prefix(of.project(), of.nsid);
        let (mut generations, mut rest) = (Vec::new(), Vec::new());
        for listed in self.bucket.list_all(&below, None, LEFT_MAX, patience).await? {
            let left = listed.key.strip_prefix(&below).unwrap_or_default();
            match left.strip_prefix("/manifests/").and_then(number_of) {
                Some(generation) => generations.push(generation),
                None if left == "/CURRENT" || left.starts_with("/sweeps/") => rest.push(listed.key),
                // Somebody holds it, or a later release knows what it is.
                None => return Ok(done),
            }
        }
        if generations.is_empty() && rest.is_empty() || !self.is_dead(of.name, of.nsid).await? {
            return Ok(done);
        }
        done.manifests = self.drop_generations(of, &generations, u64::MAX).await?;
        // Who brought it back meanwhile names them.
        if self.newest(of.project(), of.nsid, None).await?.is_none() {
            for key in rest {
                self.bucket.delete(&key, patience).await?;
            }
        }
        Ok(done)
    }
}

fn keep_latest(ended: &mut BTreeMap<Nsid, (NamespaceName, u64)>, name: &NamespaceName, nsid: Nsid, at_ms: u64) {
    let known = ended.entry(nsid).or_insert_with(|| (name.clone(), at_ms));
    known.1 = known.1.max(at_ms);
}
