//! One side of a comparison: the state of a document in one moment of a namespace, and the document itself.

use std::cell::OnceCell;
use std::sync::Arc;

use super::decide::State;
use crate::engine::namespace::Moment;
use crate::error::{Error, Result};
use crate::format::manifest::Manifest;
use crate::model::document::{Document, Tombstone};
use crate::model::ids::{DocId, Hlc, Nsid, Version};
use crate::model::shown::Shown;
use crate::segment::documents::RowScan;

/// Where the live state of a document is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// A place of the view's tail.
    Tail(u32),
    /// A segment of the view by its index, and the row.
    Segment(usize, u32),
}

/// What one side knows of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    pub state: State,
    /// `Some` exactly when it is live.
    pub place: Option<Place>,
}

/// A moment that documents are looked up in.
pub struct Side<'a> {
    pub moment: &'a Moment,
    pub shown: Arc<Shown<'a>>,
    /// The rows of the tail in the order of their ids.
    pub(super) tail: Vec<(&'a DocId, u32)>,
    /// Of each segment, read when first asked for.
    tombstones: Vec<OnceCell<Vec<Tombstone>>>,
    scans: Vec<Option<RowScan<'a>>>,
}

impl<'a> Side<'a> {
    pub fn new(moment: &'a Moment) -> Self {
        let mut tail: Vec<(&DocId, u32)> =
            moment.view.tail.iter().map(|(place, row)| (&row.document.id, place)).collect();
        tail.sort_unstable();
        let segments = moment.view.segments.len();
        Side {
            moment,
            shown: Arc::new(Shown::new(&moment.view.schema)),
            tail,
            tombstones: (0..segments).map(|_| OnceCell::new()).collect(),
            scans: (0..segments).map(|_| None).collect(),
        }
    }

    /// The state of a document.
    pub fn find(&self, id: &DocId) -> Result<Found> {
        let view = &self.moment.view;
        if let Ok(at) = self.tail.binary_search_by(|(known, _)| (*known).cmp(id)) {
            let place = self.tail[at].1;
            let row = view.tail.at(place).ok_or_else(|| Error::internal("a row of the tail is not in its place"))?;
            return Ok(Found { state: State::Live(row.document.version), place: Some(Place::Tail(place)) });
        }
        for (at, part) in view.segments.iter().enumerate().rev() {
            if let Some(row) = part.live_row_of(id)? {
                let version = part.segment.version_of(row)?;
                return Ok(Found { state: State::Live(version), place: Some(Place::Segment(at, row)) });
            }
        }
        let state = self.deletion(id)?.map_or(State::Absent, State::Deleted);
        Ok(Found { state, place: None })
    }

    /// The newest deletion of a document that is still known.
    fn deletion(&self, id: &DocId) -> Result<Option<Version>> {
        let mut newest = version_in(&self.moment.tombstones, id);
        for at in 0..self.tombstones.len() {
            newest = newest.max(version_in(self.tombstones_of(at)?, id));
        }
        Ok(newest)
    }

    /// The tombstones of a segment, in the order of their ids.
    pub(super) fn tombstones_of(&self, at: usize) -> Result<&[Tombstone]> {
        let cell = &self.tombstones[at];
        if let Some(known) = cell.get() {
            return Ok(known);
        }
        let read = self.moment.view.segments[at].segment.tombstones()?;
        Ok(cell.get_or_init(|| read))
    }

    /// The document at a place that `find` named.
    pub fn document(&mut self, place: Place) -> Result<Arc<Document>> {
        let view = &self.moment.view;
        match place {
            Place::Tail(place) => {
                let row = view.tail.at(place);
                row.map(|row| row.document.clone()).ok_or_else(|| Error::internal("a row of the tail is gone"))
            }
            Place::Segment(at, row) => {
                let scan = match &mut self.scans[at] {
                    Some(scan) => scan,
                    empty => empty.insert(view.segments[at].segment.scan()?),
                };
                scan.document(row, None).map(Arc::new)
            }
        }
    }

    /// Whether a document at this place can be read without asking the bucket for it.
    pub fn is_here(&self, place: Place) -> bool {
        match place {
            Place::Tail(_) => true,
            Place::Segment(at, _) => self.moment.view.segments[at].segment.is_full(),
        }
    }

    /// The live document of an id.
    pub fn live(&mut self, found: Found) -> Result<Option<Arc<Document>>> {
        found.place.map(|place| self.document(place)).transpose()
    }

    /// Whether a deletion that `other` has not seen may have left no trace here: its tombstone was due to go.
    pub fn may_have_forgotten(&self, other: &Side) -> bool {
        let manifest = &self.moment.manifest;
        let horizon = manifest.horizon;
        // In a tree of branches everybody has seen what was deleted before the first of them began; deletions that came in
        // from elsewhere raise the horizon beyond that (see `Work::build`).
        if since(manifest, &other.moment.manifest).is_some_and(|since| horizon <= since) {
            return false;
        }
        self.moment.vector.iter().any(|(origin, seen)| {
            // A writer deletes nothing before it is there. The origin of a branch may have been another's before.
            let is_younger = manifest.lineage.is_none()
                && origin == manifest.origin
                && horizon <= Hlc::from_millis(manifest.created_ms);
            !is_younger && other.moment.vector.seen(origin) < seen.min(horizon)
        })
    }
}

/// When the first branch on the way to either of two relatives began.
fn since(a: &Manifest, b: &Manifest) -> Option<Hlc> {
    let lineages = [a, b].into_iter().filter_map(|manifest| manifest.lineage.as_ref());
    lineages.map(|lineage| lineage.since).min().filter(|_| root(a) == root(b))
}

/// The incarnation that a tree of branches began with.
pub fn root(manifest: &Manifest) -> Nsid {
    manifest.lineage.as_ref().map_or(manifest.nsid, |lineage| lineage.root.unwrap_or(lineage.nsid))
}

fn version_in(tombstones: &[Tombstone], id: &DocId) -> Option<Version> {
    tombstones.binary_search_by(|tombstone| tombstone.id.cmp(id)).ok().map(|at| tombstones[at].version)
}
