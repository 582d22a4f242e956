//! What both sides of a merge had in common by what either of them once was: another node that merged the two kept what they had in
//! common for itself, and what it merged came here by the bucket.
//!
//! What an incarnation has seen only grows, so the oldest of its states that has seen all that both sides have is found by halving.
//! Where both sides have seen its version of a document, that is the newest that both had. What is not kept any more is unknown.

use std::sync::Arc;

use super::bases::is_common;
use super::relatives::or_lost;
use crate::engine::Engine;
use crate::engine::lineage::GONE;
use crate::engine::lineage::holdings::read_manifest;
use crate::engine::namespace::{Moment, Namespace};
use crate::error::{Error, Result};
use crate::format::manifest::Manifest;
use crate::model::ids::Nsid;

impl Engine {
    /// The states that the sides have been in, or are in, and that both may have had in common.
    pub(super) fn states_of_own_past(
        &self,
        (source, target): (&Namespace, &Namespace),
        (theirs, ours): (&Moment, &Moment),
    ) -> Result<Vec<Arc<Moment>>> {
        let mut known = Vec::new();
        for side in [source, target] {
            known.extend(self.oldest_with_all(side, (theirs, ours))?);
        }
        // One that has seen just what both have knows of every document what the other can only know of some.
        if let Some(at) = known.iter().position(|state| is_common(&state.version_vector, theirs, ours)) {
            known = vec![known.swap_remove(at)];
        }
        let mut found = Vec::new();
        for state in known {
            let by = state.nsid;
            found.extend(unless_gone(by, target.past(state))?.map(Arc::new));
        }
        Ok(found)
    }

    /// The oldest kept state of an incarnation that has seen all that both sides have.
    fn oldest_with_all(&self, of: &Namespace, (theirs, ours): (&Moment, &Moment)) -> Result<Option<Manifest>> {
        let mut generations: Vec<u64> =
            self.context.meta.history(of.nsid)?.into_iter().map(|(generation, _)| generation).collect();
        generations.push(of.published().generation);
        let mut oldest = None;
        while !generations.is_empty() {
            let at = generations.len() / 2;
            let state = unless_gone(of.nsid, read_manifest(&self.context, of.nsid, generations[at]))?;
            match state.filter(|state| state.version_vector.covers_common(&theirs.vector, &ours.vector)) {
                Some(state) => {
                    oldest = Some(state);
                    generations.truncate(at);
                }
                None => drop(generations.drain(..=at)),
            }
        }
        Ok(oldest)
    }
}

/// A past state may go at any time, and a damaged one cannot be given up.
fn unless_gone<T>(by: Nsid, read: Result<T>) -> Result<Option<T>> {
    let gone = |error: &Error| error.code() == GONE;
    match read {
        Err(error) if gone(&error) => Ok(None),
        read => or_lost(by, read),
    }
}
