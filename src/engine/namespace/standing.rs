//! Who needs a segment beside this namespace: the bucket, which has it, or another namespace.
//!
//! What comes of merging segments is sent beside those that others need, and the same rows travel twice.

use std::collections::BTreeSet;

use super::Namespace;
use crate::engine::merge::bases;
use crate::engine::remote::owner_of;
use crate::error::Result;
use crate::format::manifest::SegmentRef;
use crate::model::ids::Nsid;

/// Where a segment stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// This namespace alone names it, or there is no bucket that anything is sent to.
    Own,
    /// Others need it, too: a branch or a tag, with which it has to be sent as it is; or who owns it and has it in the bucket.
    Shared,
    /// The bucket has it, and its owner has let go of it or is this namespace.
    Sent,
}

impl Namespace {
    /// Where each of these segments stands. Blocking.
    pub(super) fn standings<'a>(&self, segments: impl Iterator<Item = &'a SegmentRef>) -> Result<Vec<Standing>> {
        let context = &self.context;
        if !context.tier.cache().is_attached() {
            return Ok(segments.map(|_| Standing::Own).collect());
        }
        let segments: Vec<&SegmentRef> = segments.collect();
        let sent_by = |nsid| -> Result<BTreeSet<String>> {
            let common = bases::read(context, &context.layout.base(nsid, nsid))?;
            Ok(common.into_iter().flat_map(|common| common.segments).map(|segment| segment.key).collect())
        };
        let owners: BTreeSet<Nsid> = segments.iter().filter_map(|segment| owner_of(&segment.key)).collect();
        let kept = owners.into_iter().filter(|owner| *owner != self.nsid).map(sent_by);
        let kept: BTreeSet<String> = kept.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect();
        let sent = sent_by(self.nsid)?;
        // Counted once for this namespace's chain of states. Where counts are not known, nobody else is assumed.
        let is_counted = context.meta.is_trusted();
        let standing = |SegmentRef { key, .. }: &SegmentRef| match () {
            () if kept.contains(key) => Ok(Standing::Shared),
            () if sent.contains(key) => Ok(Standing::Sent),
            () if is_counted && context.meta.references(key)? > 1 => Ok(Standing::Shared),
            () => Ok(Standing::Own),
        };
        segments.into_iter().map(standing).collect()
    }
}
