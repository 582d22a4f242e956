//! What both sides of a merge had in common by what was merged into their ancestors: a branch begins with that, and has no bases of its
//! own.
//!
//! Looked at are the first states of the ancestors of both sides, and the bases of merges among all of these; and where none of them is it,
//! the bases that the sides keep of others, as of a branch of the one that was merged into the other, and what those others began with. Of
//! them any state will do that has seen all that both sides have: where both have seen its version of a document, that is the newest that
//! both had. One that has not says less than is known without it, and is left alone. What an ancestor let go of is unknown.

use std::collections::BTreeSet;
use std::sync::Arc;

use uuid::Uuid;

use super::bases::{is_common, next_path, read, sources_of, unread};
use crate::engine::Engine;
use crate::engine::namespace::{Moment, Namespace};
use crate::error::{Error, Kind, Result};
use crate::format::manifest::Manifest;
use crate::model::ids::Nsid;

/// So far up the lines of both sides it is looked: each ancestor costs the listing of a directory, and the reading of a manifest.
pub const ANCESTORS_MAX: usize = 16;

/// So many others, those that were made last, are asked what a side took from them: each costs the reading of two manifests.
pub const OTHERS_MAX: usize = 32;

/// So many states are opened: each costs the replaying of its logs.
pub const OPENED_MAX: usize = 8;

impl Engine {
    /// The states that relatives of both sides keep and that both may have had in common. An error where one of a namespace that is there
    /// cannot be read, unless nobody could do anything about it.
    pub(super) fn states_of_relatives(
        &self,
        (source, target): (&Namespace, &Namespace),
        (theirs, ours): (&Moment, &Moment),
    ) -> Result<Vec<Arc<Moment>>> {
        let sides = [source.nsid, target.nsid];
        let family: BTreeSet<Nsid> = sides.into_iter().flat_map(|side| self.line_of(side)).collect();
        let mut known = Vec::new();
        let may_be = |state: &Manifest| state.version_vector.covers_common(&theirs.vector, &ours.vector);
        let look = |known: &mut Vec<_>, by: Nsid, kept: Result<Vec<Manifest>>| match kept {
            Ok(kept) => {
                known.extend(kept.into_iter().filter(may_be).map(|state| (by, state)));
                Ok(())
            }
            Err(error) => self.miss(by, error),
        };
        for by in &family {
            look(&mut known, *by, self.states_kept_by(*by, &family, sides))?;
        }
        let newest = |known: &[(Nsid, Manifest)]| {
            known.iter().position(|(_, state)| is_common(&state.version_vector, theirs, ours))
        };
        if newest(&known).is_none() {
            for by in sides {
                look(&mut known, by, self.states_taken_by(by, &family))?;
            }
        }
        // One that has seen just what both have knows of every document what the others can only know of some.
        if let Some(at) = newest(&known) {
            known = vec![known.swap_remove(at)];
        }
        known.truncate(OPENED_MAX);
        let mut found = Vec::new();
        for (by, state) in known {
            // A merge may have put another in its place meanwhile: then what only this one named is missing.
            match or_lost(by, target.past(state)) {
                Ok(moment) => found.extend(moment.map(Arc::new)),
                Err(error) => self.miss(by, error)?,
            }
        }
        Ok(found)
    }

    /// An incarnation and its ancestors, as far as they are there.
    fn line_of(&self, side: Nsid) -> Vec<Nsid> {
        let kin = self.context.kin();
        let parent = |of: &Nsid| Some(Nsid(Uuid::from_bytes(kin.get(of)?.lineage.as_ref()?.parent)));
        std::iter::successors(Some(side), parent).take(1 + ANCESTORS_MAX).collect()
    }

    /// What a member of the family keeps of the others and of its own beginning, but for what the two sides keep of each other and of
    /// themselves: that is known already.
    fn states_kept_by(&self, by: Nsid, family: &BTreeSet<Nsid>, sides: [Nsid; 2]) -> Result<Vec<Manifest>> {
        let context = &self.context;
        let is_known = |of: &Nsid| sides.contains(&by) && sides.contains(of);
        let mut kept = Vec::new();
        for of in sources_of(context, by)?.iter().filter(|of| **of != by && family.contains(of) && !is_known(of)) {
            kept.extend(self.bases_of(by, *of)?);
        }
        if !is_known(&by) {
            kept.extend(self.beginning_of(by)?);
        }
        Ok(kept)
    }

    /// What a branch began with, where it is kept: a state of its parent's.
    fn beginning_of(&self, branch: Nsid) -> Result<Option<Manifest>> {
        let context = &self.context;
        if context.kin().get(&branch).is_none_or(|kin| kin.lineage.is_none()) {
            return Ok(None);
        }
        Ok(or_lost(branch, read(context, &context.layout.manifest(branch, 0)))?.flatten())
    }

    /// What a side keeps of those outside the family that were merged into it.
    fn states_taken_by(&self, by: Nsid, family: &BTreeSet<Nsid>) -> Result<Vec<Manifest>> {
        let mut taken = Vec::new();
        let sources = sources_of(&self.context, by)?;
        for of in sources.iter().rev().filter(|of| !family.contains(of)).take(OTHERS_MAX) {
            taken.extend(self.bases_of(by, *of)?);
            taken.extend(self.beginning_of(*of)?);
        }
        Ok(taken)
    }

    fn bases_of(&self, by: Nsid, of: Nsid) -> Result<impl Iterator<Item = Manifest>> {
        let context = &self.context;
        let newest = read(context, &context.layout.base(by, of))?;
        Ok(newest.into_iter().chain(read(context, &next_path(context, by, of))?))
    }

    /// What cannot be read of a namespace that is there is an error, as of the sides themselves. Of one that is deleted it is unknown:
    /// nobody could give it up.
    fn miss(&self, by: Nsid, error: Error) -> Result<()> {
        match self.catalog.all().into_iter().find(|(_, nsid)| *nsid == by) {
            Some((name, _)) => Err(unread(error, &name)),
            None => {
                say_lost(by, &error);
                Ok(())
            }
        }
    }
}

/// A state of which something is damaged or missing is unknown: only files of bases can be given up.
pub(super) fn or_lost<T>(by: Nsid, read: Result<T>) -> Result<Option<T>> {
    match read {
        Err(error) if error.kind() == Kind::Corrupt => {
            say_lost(by, &error);
            Ok(None)
        }
        read => read.map(Some),
    }
}

fn say_lost(by: Nsid, error: &Error) {
    tracing::warn!(nsid = %by, %error, "a merge does not compare with a state that is kept of this incarnation");
}
