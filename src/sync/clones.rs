//! Disks that were cloned, or restored from a copy: two nodes write by one origin, until one of them notices and takes another.
//!
//! A commit of this node's own origin in the bucket that this node did not make shows it. What the two last had in common is
//! still known, and what was written here since becomes the new origin's; then the other's commits are as anybody's.
//!
//! It is a guess on the safe side: what this node wrote may also come back by a branch that was merged elsewhere before its parent was
//! sent, or be in a commit that was never heard of and is reclaimed. That cannot be told from a clone by what a state has seen: it
//! says the newest clock of an origin, and a clone may have written anything below it. Who took that for its own would miss what
//! the clone wrote; who takes its own for a clone's writes it once more under another origin.

use super::Sync;
use crate::error::Result;
use crate::format::manifest::Manifest;
use crate::model::ids::{Hlc, NamespaceName, Nsid, Project};
use crate::model::version_vector::VersionVector;

impl Sync {
    /// Parts where `theirs`, which is not of this node's making, has more of this node's own than `common` had. Says what a
    /// person should know.
    pub(super) async fn part_from_clone(
        &self,
        name: &NamespaceName,
        common: Option<&Manifest>,
        theirs: &VersionVector,
    ) -> Result<Option<String>> {
        let own = self.engine.origin(name)?;
        let sent = common.map_or(Hlc::default(), |common| common.version_vector.seen(own));
        if theirs.seen(own) <= sent {
            return Ok(None);
        }
        self.part(name).await.map(Some)
    }

    /// Parts where the bucket has a clone's writes to something of which `name` has what is not sent yet: sent by the same origin,
    /// those would be taken for seen wherever `name` is merged.
    pub(super) async fn part_from_lenders(&self, name: &NamespaceName, nsid: Nsid) -> Result<Option<String>> {
        for (project, nsid) in tokio::task::block_in_place(|| self.engine.lenders(nsid))? {
            let common = tokio::task::block_in_place(|| self.engine.common(nsid))?;
            if let Some(found) = self.newest_after(&project, nsid, common.as_ref()).await?
                && self.is_of_a_clone(&project, nsid, &found.manifest).await?
            {
                // Where it showed parts last: as long as that did not, this is found again.
                let lender = self.engine.named().into_iter().find(|(_, named)| *named == nsid);
                return self.part(lender.as_ref().map_or(name, |(lender, _)| lender)).await.map(Some);
            }
        }
        Ok(None)
    }

    /// Whether a state in the bucket has more by this node's origin than this node sent.
    pub(super) async fn is_of_a_clone(&self, project: &Project, nsid: Nsid, newest: &Manifest) -> Result<bool> {
        self.settle_own(project, nsid, newest).await?;
        let written = tokio::task::block_in_place(|| self.engine.written(nsid))?;
        Ok(written.is_some_and(|(origin, sent)| newest.version_vector.seen(origin) > sent))
    }

    async fn part(&self, name: &NamespaceName) -> Result<String> {
        let count = self.engine.part(name).await?;
        self.note_id_ranges(self.claim_id_ranges().await);
        let notice = format!(
            "the bucket has commits of {name} by this node that this node did not make: its disk was cloned, or restored from a \
             copy, or a branch was merged elsewhere before this was sent; it has new origins now, and {count} changes that were \
             here only are theirs"
        );
        tracing::warn!(%name, notice);
        Ok(notice)
    }
}
