//! What tags in the bucket keep from being reclaimed, and what is left there of those that were replaced or deleted.
//!
//! They are read after the newest manifest and before the fence that follows it: one that is set meanwhile is announced by a commit, which
//! overtakes the fence, or is overtaken by it and looks at what the fence condemned.

use std::collections::{BTreeMap, BTreeSet};

use super::collect::Of;
use super::holds::foreign;
use super::{Sync, keys, tags};
use crate::engine::remote::keys_of;
use crate::error::Result;
use crate::format::manifest::Manifest;
use crate::format::marks::{TagsFile, decode_tag};

/// So many deletions of tags go at once: a fence names them beside what it condemns.
pub(super) const DELETIONS_MAX: usize = 1_024;

/// The tags of one namespace.
#[derive(Default)]
pub(super) struct Tagged {
    /// What those need that hold.
    pub named: BTreeSet<String>,
    /// Those, with their newest revisions.
    set: BTreeMap<String, u64>,
    /// What the others named.
    pub past: BTreeSet<String>,
    /// Keys of revisions that nobody needs.
    stale: Vec<String>,
    /// Those of them that say that a tag was deleted, and go last of it: a fence names them first, for who still has the tag.
    pub deleted: Vec<String>,
}

impl Sync {
    /// Reads the tags of a namespace; of one that was deleted none hold. Deletions of tags are kept until `until_ms`, so that who
    /// was away hears of them.
    pub(super) async fn tagged(&self, of: &Of<'_>, newest: &Manifest, until_ms: u64) -> Result<Tagged> {
        let mut found = Tagged::default();
        if newest.tags == 0 && !of.is_dead {
            // Nobody ever announced one.
            return Ok(found);
        }
        let listed = self.listed_tags(of.project(), of.nsid).await?;
        tokio::task::block_in_place(|| self.look_for_lost_tags(of, newest, &listed))?;
        for (tag, revs) in listed {
            for rev in &revs {
                let is_newest = Some(rev) == revs.last() && !of.is_dead;
                let key = keys::tag(of.project(), of.nsid, &tag, *rev);
                let Some(bytes) = self.bucket.get(&key, &self.options.patience).await? else { continue };
                let file = decode_tag(&bytes, &key)?;
                tags::check(&file, of.nsid, (&tag, *rev), &key)?;
                match &file.manifest {
                    Some(manifest) if is_newest => {
                        found.named.extend(keys_of(manifest));
                        found.set.insert(tag.clone(), *rev);
                    }
                    None if is_newest && file.at_ms > until_ms => {}
                    None if is_newest && found.deleted.len() == DELETIONS_MAX => {}
                    gone => {
                        if is_newest {
                            found.deleted.push(key.clone());
                        }
                        found.past.extend(gone.iter().flat_map(keys_of));
                        found.stale.push(key);
                    }
                }
            }
        }
        Ok(found)
    }

    /// Has the next pass take tags from the bucket again of which the files here are lost.
    pub(super) fn take_lost_tags(&self, of: &Of<'_>, tagged: &Tagged) -> Result<()> {
        let again = tokio::task::block_in_place(|| self.engine.take_tags_again(of.nsid, &tagged.set))?;
        if !again.is_empty() {
            tracing::warn!(namespace = %of.name, tags = ?again, "tags of which the files here are lost are taken from the bucket again");
        }
        Ok(())
    }

    /// Has the next pass compare all tags where one was lost that the bucket had and nobody says to have changed since.
    fn look_for_lost_tags(&self, of: &Of<'_>, newest: &Manifest, listed: &BTreeMap<String, Vec<u64>>) -> Result<()> {
        let known = self.engine.known_tags(of.nsid)?;
        let (here, mut there) = (self.engine.tag_revisions(of.nsid)?, known.revisions.iter());
        let is_lost = |(tag, rev): (&String, &u64)| !listed.contains_key(tag) && here.get(tag) == Some(rev);
        if known.changes == newest.tags && !of.is_dead && there.any(is_lost) {
            return self.engine.note_tags(of.nsid, &TagsFile { changes: 0, ..known });
        }
        Ok(())
    }

    /// Says that of others' objects only those in `needed` are held any more, where `past` named some.
    pub(super) async fn narrow_holds(
        &self,
        of: &Of<'_>,
        past: &BTreeSet<String>,
        needed: &BTreeSet<String>,
    ) -> Result<()> {
        let mut needed = foreign(of.nsid, needed);
        for owner in foreign(of.nsid, past).into_keys() {
            let objects = needed.remove(&owner).unwrap_or_default();
            self.narrow_hold(of.project(), &of.name.to_string(), of.nsid, owner, &objects).await?;
        }
        Ok(())
    }

    /// Removes what is left of tags that were replaced or deleted, once nothing is held for them.
    pub(super) async fn drop_tags(&self, of: &Of<'_>, tagged: &Tagged, needed: &BTreeSet<String>) -> Result<()> {
        if tagged.stale.is_empty() || of.is_dead && !self.is_dead(of.name, of.nsid).await? {
            return Ok(());
        }
        self.narrow_holds(of, &tagged.past, needed).await?;
        for key in &tagged.stale {
            self.bucket.delete(key, &self.options.patience).await?;
        }
        Ok(())
    }
}
