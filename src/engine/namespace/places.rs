//! Where the documents that a commit changes are in segments: looked up when it is decided, used when it is applied.
//!
//! Invariants:
//! - A segment is read before the commit is in the log, so a damaged one refuses the write, and applying it cannot fail.
//! - Places hold for the segments they were looked up in. Where a merge of segments came in between, they are looked up anew,
//!   before anything of the commit is applied: all of it is, or nothing.

use uuid::Uuid;

use super::state::State;
use crate::engine::write::Change;
use crate::error::Result;
use crate::model::ids::{DocId, Version};

/// Which of the segments, in their order, has a document live, and in which row.
pub(super) type Place = (u32, u32);

/// The places of the documents that one commit changes, in the order of its changes; `None` for those that no segment has live.
pub(super) struct Places {
    segments: Vec<Uuid>,
    of: Vec<Option<Place>>,
}

impl Places {
    /// Looks up anew where other segments are there by now.
    pub(super) fn refresh(&mut self, state: &State, changes: &[Change]) -> Result<()> {
        if !state.parts.iter().map(|part| &part.reference.segment_id).eq(&self.segments) {
            *self = state.places_of(changes)?;
        }
        Ok(())
    }
}

impl State {
    /// Looks up where the documents of these changes are. Nobody has to look for those that are in no segment yet.
    pub(super) fn places_of(&self, changes: &[Change]) -> Result<Places> {
        let segments = self.parts.iter().map(|part| part.reference.segment_id).collect();
        let of = changes.iter().map(|change| self.place_beside_tail(change.id())).collect::<Result<_>>()?;
        Ok(Places { segments, of })
    }

    /// Applies the changes of a durable commit. `places` are of the segments that are there.
    pub(super) fn put_all(&mut self, changes: Vec<Change>, version: Version, places: &Places) {
        let mut deleted = Vec::new();
        for (change, place) in changes.into_iter().zip(&places.of) {
            self.put(change, *place, &mut deleted);
        }
        self.deleted(deleted, version);
    }

    /// Applies one change that is read back from a log, but for what was deleted, as [`State::put`] does.
    pub(super) fn replay_change(&mut self, change: Change, deleted: &mut Vec<DocId>) -> Result<()> {
        let place = self.place_beside_tail(change.id())?;
        self.put(change, place, deleted);
        Ok(())
    }

    fn place_beside_tail(&self, id: &DocId) -> Result<Option<Place>> {
        if self.is_unflushed(id) { Ok(None) } else { self.place_of(id) }
    }
}
