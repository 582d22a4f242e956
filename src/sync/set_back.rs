//! Notices that the bucket does not have what it had: it was put back from an older copy while this node runs, or begun anew.
//!
//! - Numbers of revisions and generations are used again then: all that was known of the bucket is forgotten, and read anew.
//! - A pass that somebody asked for looks at what it is about, its name's revision and the newest manifest; one that nobody asked for does
//!   so where a look costs nothing, else when it lists names, and when it finds a manifest gone.
//! - What the bucket was not asked about anew counts as not sent until it is, by a pass over everything that is due at once.

use std::sync::atomic::Ordering;

use super::binding::Choice;
use super::names::{self, Bound, Newest};
use super::namespace::Found;
use super::{Attached, Sync};
use crate::error::{Kind, Result};
use crate::format::manifest::Manifest;
use crate::format::names::Ended;
use crate::model::ids::{CommitId, NamespaceName, Nsid, Project};

impl Attached {
    /// Whether names that are listed anew are older than what was read of them. What could not be listed says nothing.
    pub(super) fn is_ahead_of(&self, listed: &Newest) -> bool {
        let is_gone = |name, rev| listed.of(name).is_ok_and(|newest| newest.is_none_or(|newest| newest < rev));
        self.bound.keys().any(|(name, rev)| is_gone(name, *rev))
    }
}

impl Sync {
    /// Notes what a choice says of what the bucket knows. `own` is what the name means here.
    pub(super) fn note_choice(&self, name: &NamespaceName, choice: &Choice, own: Option<&Bound>) {
        match choice {
            Choice::Bind(nsid) => {
                self.engine.lacks_name(name);
                // No name is bound to what was not seen to be there.
                self.forget_head(*nsid);
            }
            Choice::Nothing | Choice::Exchange(_) => {
                if let Some(own) = own.filter(|own| own.ended.is_some() && !self.engine.follows(name)) {
                    self.engine.is_told(name, own.rev);
                }
            }
            _ => {}
        }
    }

    /// What was deleted here before `own` had the name in the bucket, too: the bucket is older than that. Blocking.
    pub(super) fn ended_before(&self, own: Nsid, other: Nsid) -> Result<Option<Ended>> {
        if !self.engine.is_laid_aside(other) || self.engine.common(own)?.is_none() {
            return Ok(None);
        }
        let common = self.engine.common(other)?;
        Ok(common.map(|common| Ended { nsid: other, seen: common.version_vector }))
    }

    /// Whether this pass looks at what it knows, too.
    pub(super) fn looks_again(&self) -> bool {
        !self.is_unasked.load(Ordering::SeqCst) || self.bucket.is_directory()
    }

    /// The newest revision of a name, after one that was listed: that one, as long as it says what it said.
    pub(super) async fn as_it_is(
        &self,
        attached: &mut Attached,
        name: &NamespaceName,
        listed: Option<u64>,
    ) -> Result<Option<u64>> {
        let Some(rev) = listed else { return Ok(None) };
        let patience = &self.options.patience;
        let known = attached.bound.get(&(name.clone(), rev));
        let is_as_known = match known {
            Some(_) if !self.looks_again() => true,
            Some(known) => names::read(&self.bucket, name, rev, patience).await?.as_ref() == Some(known),
            None => self.bound(attached, name, rev).await?.is_some(),
        };
        if is_as_known {
            return Ok(listed);
        }
        self.forget_bucket(attached).await;
        names::newest(&self.bucket, name, patience).await
    }

    /// Whether a state is the bucket's by its number: numbers of a bucket that was put back are used again.
    pub(super) async fn has(&self, project: &Project, state: (Nsid, u64, CommitId)) -> Result<bool> {
        Ok(self.is_at_its_number(project, state).await? == Some(true))
    }

    /// The same, and `None` where there is no state of that number. One that cannot be read is taken for this one.
    async fn is_at_its_number(
        &self,
        project: &Project,
        (nsid, generation, commit_id): (Nsid, u64, CommitId),
    ) -> Result<Option<bool>> {
        match self.read_generation(project, nsid, generation).await {
            Ok(there) => Ok(there.map(|there| there.commit_id == commit_id)),
            Err(error) if error.kind() == Kind::Corrupt => Ok(Some(true)),
            Err(error) => Err(error),
        }
    }

    /// Notes where the newest manifest in the bucket is not the one that this node knew, nor goes on from it.
    pub(super) async fn compare(&self, project: &Project, known: &Manifest, found: Option<&Found>) -> Result<()> {
        let state = (known.nsid, known.generation, known.commit_id);
        let is_behind = match found.map(|found| &found.manifest) {
            None => true,
            Some(newest) if newest.generation <= known.generation => newest.commit_id != known.commit_id,
            Some(newest) if newest.generation == known.generation + 1 => {
                newest.parent.is_some_and(|parent| parent.commit_id != known.commit_id)
            }
            // What was reclaimed says nothing.
            Some(_) => self.is_at_its_number(project, state).await? == Some(false),
        };
        if is_behind {
            self.is_set_back.store(true, Ordering::SeqCst);
        }
        Ok(())
    }

    /// Forgets what is known of the bucket, where a manifest was found to be gone since this was asked last. Whether it was.
    pub(super) async fn was_set_back(&self, attached: &mut Attached) -> bool {
        let was_set_back = self.is_set_back.swap(false, Ordering::SeqCst);
        if was_set_back {
            self.forget_bucket(attached).await;
        }
        was_set_back
    }

    /// Forgets what is known of the bucket, but whose it is. What is settled from now on is settled anew.
    pub(super) async fn forget_bucket(&self, attached: &mut Attached) {
        tracing::info!(bucket = self.bucket.name(), "the bucket does not have what it had, and is looked at anew");
        if !attached.is_to_be_read {
            // Once a pass: of what it settled since it found out that is so.
            self.engine.lacks_names();
        }
        let Attached { is_known, is_doubted, has_holes, was_emptied, .. } = *attached;
        let known = Attached { is_known, is_doubted, has_holes, was_emptied, ..Attached::default() };
        *attached = Attached { is_to_be_read: true, ..known };
        self.forget_heads();
        // Those that were claimed may be others' next.
        self.note_id_ranges(self.assert_id_ranges().await);
    }
}
