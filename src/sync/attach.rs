//! Makes sure that the bucket is this node's, and stays so: nothing is carried to or from another's, nor into one that was emptied.
//!
//! - It is asked at the first pass, and then by every pass before it carries anything, after it did, and where names are listed; a directory by
//!   every pass, whose disk may be away by now.
//! - Once it was found to be another's, or none, each pass asks until it is this node's again.
//! - Where nothing says whose it is, it was emptied or begun anew: this node says so again, and looks whether all is there that states name.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use uuid::Uuid;

use super::objects::Carried;
use super::{Attached, Sync, names};
use crate::engine::remote::{objects_of, owner_of};
use crate::error::Result;
use crate::format::manifest::Manifest;
use crate::meta::ObjectFact;
use crate::model::ids::NamespaceName;
use crate::store::{REPLACED, check_identity, claim_identity, probe, read_identity, unclaimed};

/// The most objects of one incarnation and one kind.
const OBJECTS_MAX: usize = 1_000_000;

impl Sync {
    /// Makes sure of it at the beginning of a pass.
    pub(super) async fn attach(&self, attached: &mut Attached) -> Result<()> {
        let (engine, bucket, patience) = (&self.engine, &self.bucket, &self.options.patience);
        self.is_sure.store(false, Ordering::SeqCst);
        self.has_carried.store(false, Ordering::SeqCst);
        if attached.is_known {
            if bucket.is_directory() || attached.is_doubted {
                self.make_sure().await?;
                // What was carried while it was not this node's may have gone elsewhere.
                attached.has_holes |= std::mem::take(&mut attached.is_doubted);
            }
            return Ok(());
        }
        let found = read_identity(bucket, patience).await?;
        // Nothing is written into the bucket of another store, not even to probe it.
        found.iter().try_for_each(|found| self.belong_to(found.store))?;
        // One that has met its bucket knows which store it is, and puts the file back.
        if found.is_none()
            && !tokio::task::block_in_place(|| engine.has_met_bucket())
            && let Some(project) = names::any_project(bucket, patience).await?
            && read_identity(bucket, patience).await?.is_none()
        {
            return Err(unclaimed(bucket.name(), &project.to_string()));
        }
        probe(bucket, patience).await?;
        if found.is_none() {
            attached.was_emptied = tokio::task::block_in_place(|| engine.has_met_bucket());
            attached.has_holes |= attached.was_emptied;
            self.belong_to(claim_identity(bucket, engine.store_id(), patience).await?.store)?;
        }
        attached.is_known = true;
        self.is_sure.store(true, Ordering::SeqCst);
        self.note_id_ranges(self.assert_id_ranges().await);
        Ok(())
    }

    fn belong_to(&self, store: Uuid) -> Result<()> {
        tokio::task::block_in_place(|| self.engine.attach(store, self.bucket.name()))?;
        self.bucket.expect(store);
        Ok(())
    }

    /// Makes sure of it once in a pass.
    async fn make_sure(&self) -> Result<()> {
        if !self.is_sure.load(Ordering::SeqCst) {
            check_identity(&self.bucket, self.engine.store_id(), &self.options.patience).await?;
            self.is_sure.store(true, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Makes sure of it before anything is carried to or from the bucket.
    pub(super) async fn before_carrying(&self) -> Result<()> {
        self.make_sure().await?;
        self.has_carried.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// The end of a pass, which failed or did not: what it carried may have gone into a bucket that is not there any more.
    pub(super) async fn after_carrying(&self, attached: &mut Attached, mut done: Result<()>) -> Result<()> {
        if self.has_carried.load(Ordering::SeqCst)
            && let Err(error) = check_identity(&self.bucket, self.engine.store_id(), &self.options.patience).await
            && error.code() == REPLACED
        {
            // Where it cannot be asked nothing says that it is another.
            done = Err(error);
        }
        attached.is_doubted |= done.as_ref().is_err_and(|error| error.code() == REPLACED);
        done
    }

    /// Where the bucket was begun anew: it has none of the tags that it was told of before.
    pub(super) fn forget_tags_there(&self, attached: &Attached, name: &NamespaceName) -> Result<()> {
        match self.engine.nsid_of(name).filter(|_| attached.was_emptied && !self.engine.follows(name)) {
            Some(nsid) => tokio::task::block_in_place(|| self.engine.forget_sent_tags(nsid)),
            None => Ok(()),
        }
    }

    /// Where the bucket was begun anew, or may have been another's: what of the state of a namespace that was brought together is not
    /// there is sent again.
    pub(super) async fn look_for_holes(&self, attached: &Attached, name: &NamespaceName) -> Result<()> {
        if attached.has_holes
            && !self.engine.follows(name)
            && let Some(nsid) = self.engine.nsid_of(name)
            && let Some(common) = tokio::task::block_in_place(|| self.engine.common(nsid))?
        {
            self.fill_holes(name, objects_of(&common)).await?;
        }
        Ok(())
    }

    /// The same after the first state of a namespace, of what was sent for it just now.
    pub(super) async fn look_behind(&self, name: &NamespaceName, ours: &Manifest) -> Result<Carried> {
        let mut objects = objects_of(ours);
        objects.retain(|object| owner_of(&object.key) == Some(ours.nsid));
        self.fill_holes(name, objects).await
    }

    async fn fill_holes(&self, name: &NamespaceName, mut objects: Vec<ObjectFact>) -> Result<Carried> {
        let kinds: BTreeSet<&str> = objects.iter().filter_map(|object| kind_of(&object.key)).collect();
        let mut there = BTreeSet::new();
        for kind in kinds {
            let listed = self.bucket.list_all(kind, None, OBJECTS_MAX, &self.options.patience).await?;
            there.extend(listed.into_iter().map(|listed| listed.key));
        }
        tokio::task::block_in_place(|| {
            objects
                .retain(|object| !there.contains(&object.key) && self.engine.has_object(&object.key, object.bytes));
        });
        if !objects.is_empty() {
            tracing::warn!(%name, objects = objects.len(), "the bucket was emptied while this was sent, it is sent again");
        }
        self.push(objects, &there).await
    }
}

/// What all objects of a kind of one incarnation lie below: `org/project/namespaces/nsid/kind`.
fn kind_of(key: &str) -> Option<&str> {
    key.match_indices('/').nth(4).map(|(at, _)| &key[..at])
}

#[cfg(test)]
mod tests {
    use super::kind_of;

    #[test]
    fn objects_of_a_kind_lie_below_its_name() {
        assert_eq!(kind_of("o/p/namespaces/n/segments/s/data.seg"), Some("o/p/namespaces/n/segments"));
        assert_eq!(kind_of("o/p/namespaces/n/deletions/d.del"), Some("o/p/namespaces/n/deletions"));
        assert_eq!(kind_of("o/p"), None);
    }
}
