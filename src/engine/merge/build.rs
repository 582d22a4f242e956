//! What the commit of a merge will name, as it grows.
//!
//! Rows that are most of a segment are copied as bytes; few rows go by way of documents, since what copying costs is the
//! segment. Held in memory are sets of rows, and documents of at most [`CHUNK_BYTES`] that wait to be written.

use std::collections::BTreeMap;
use std::sync::Arc;

use roaring::RoaringBitmap;
use uuid::Uuid;

use super::decide::{Resolution, State};
use super::side::Place;
use super::walk::{Step, Walk};
use crate::engine::namespace::Moment;
use crate::engine::namespace::absorb::Site;
use crate::error::{Error, Result};
use crate::model::document::{Document, Tombstone};
use crate::model::ids::{DocId, Version};
use crate::model::schema::{ColumnUid, Schema};
use crate::model::shown::Shown;
use crate::segment::builder::Entry;
use crate::segment::text::terms::DocTerms;

/// Documents that wait to be written count for at most so many logical bytes, before the last one.
const CHUNK_BYTES: u64 = 8 << 20;
const CHUNK_ENTRIES: usize = 65_536;

/// The columns of `schema` that `side` shows: what a side dropped does not come with its rows.
pub fn visible(schema: &Schema, side: &Schema) -> Schema {
    let mut shown = schema.clone();
    let side = Shown::new(side);
    shown.columns.retain(|column| side.shows(column.uid()));
    shown
}

pub fn tombstone(id: DocId, version: Version) -> Entry {
    Entry::Tombstone(Tombstone { id, version })
}

/// What the commit will name, as it grows.
pub struct Build<'a> {
    pub schema: &'a Schema,
    pub theirs: Arc<Shown<'a>>,
    pub ours: Arc<Shown<'a>>,
    pub dead: BTreeMap<Uuid, RoaringBitmap>,
    /// Rows of their segments that are copied, or stay where they are.
    pub rows: Vec<RoaringBitmap>,
    /// Segments whose rows do not go by way of documents.
    pub whole: Vec<bool>,
    /// In the order of ids.
    entries: Vec<Entry>,
    /// Documents under ids of their own, in no order.
    pub extras: Vec<Entry>,
    bytes: u64,
    /// Whether anything was given a new version.
    pub is_new: bool,
}

impl<'a> Build<'a> {
    /// `whole`: the segments of theirs whose rows are copied, or stay where they are.
    pub fn new(schema: &'a Schema, theirs: Arc<Shown<'a>>, ours: Arc<Shown<'a>>, whole: Vec<bool>) -> Self {
        Build {
            schema,
            theirs,
            ours,
            dead: BTreeMap::new(),
            rows: vec![RoaringBitmap::new(); whole.len()],
            whole,
            entries: Vec::new(),
            extras: Vec::new(),
            bytes: 0,
            is_new: false,
        }
    }

    /// Ends what needs nobody to decide: one side stays, and nothing is lost.
    pub fn settle(
        &mut self,
        step: &Step,
        resolution: Resolution,
        walk: &mut Walk,
        ours: &Moment,
        site: &mut Site,
    ) -> Result<()> {
        match (resolution, step.candidate.theirs.state, &step.theirs) {
            (Resolution::KeepOurs, ..) => Ok(()),
            (Resolution::TakeTheirs, State::Deleted(version), _) => self.delete(step, Some(version), ours, site),
            (Resolution::TakeTheirs, _, Some(_)) => self.take(step, walk, ours, site),
            (Resolution::TakeTheirs, _, None) => self.delete(step, None, ours, site),
            (Resolution::RenewOurs, ..) => self.renew(step, step.ours.as_deref(), &self.ours.clone(), ours, site),
            (Resolution::RenewTheirs, ..) => {
                self.renew(step, step.theirs.as_deref(), &self.theirs.clone(), ours, site)
            }
            (Resolution::Join | Resolution::OursAndTheirs | Resolution::TheirsAndOurs, ..) => {
                Err(Error::internal("two states are kept, expected one"))
            }
        }
    }

    /// Takes their state as it is.
    pub fn take(&mut self, step: &Step, walk: &mut Walk, ours: &Moment, site: &mut Site) -> Result<()> {
        self.bury(step, ours)?;
        if let Some(Place::Segment(at, row)) = step.candidate.theirs.place
            && self.whole[at]
        {
            self.rows[at].insert(row);
            return Ok(());
        }
        match walk.theirs(step.candidate.theirs)? {
            Some(document) => {
                let mut row = self.row(&document, &self.theirs, None, None);
                if let (Entry::Row { terms, .. }, Some(Place::Tail(place))) = (&mut row, step.candidate.theirs.place)
                {
                    *terms = self.terms_of(walk, place);
                }
                self.add(row, site)
            }
            None => Err(Error::internal(format!("document {} is taken and not there", step.candidate.id))),
        }
    }

    /// The terms of a row of their tail, of columns that are analysed alike here: what is known need not be analysed again.
    fn terms_of(&self, walk: &Walk, place: u32) -> Vec<(ColumnUid, DocTerms)> {
        let full_text =
            |schema: &Schema, uid: ColumnUid| schema.column_by_uid(uid).map(|column| column.full_text.clone());
        let is_alike = |uid: ColumnUid| full_text(self.schema, uid) == full_text(self.theirs.schema, uid);
        let row = walk.changes.theirs.moment.view.tail.at(place);
        let terms = row.into_iter().flat_map(|row| &row.terms);
        terms.filter(|(uid, _)| is_alike(*uid)).cloned().collect()
    }

    pub fn delete(&mut self, step: &Step, version: Option<Version>, ours: &Moment, site: &mut Site) -> Result<()> {
        self.bury(step, ours)?;
        self.is_new |= version.is_none();
        self.add(tombstone(step.candidate.id.clone(), version.unwrap_or(site.version)), site)
    }

    /// Writes a state, or a deletion, above both sides.
    pub fn renew(
        &mut self,
        step: &Step,
        document: Option<&Document>,
        side: &Shown,
        ours: &Moment,
        site: &mut Site,
    ) -> Result<()> {
        self.is_new = true;
        match document {
            None => self.delete(step, Some(site.version), ours, site),
            Some(document) => {
                self.bury(step, ours)?;
                let row = self.row(document, side, Some(site.version), None);
                self.add(row, site)
            }
        }
    }

    /// A document as a row: what its side does not show is left out.
    pub fn row(&self, document: &Document, side: &Shown, renewed: Option<Version>, id: Option<DocId>) -> Entry {
        let mut document = document.clone();
        document.fields.retain(|(uid, _)| side.shows(*uid));
        if let Some(version) = renewed {
            document.version = version;
            document.patch = None;
        }
        if let Some(id) = id {
            document.id = id;
        }
        Entry::Row { document: Arc::new(document), terms: Vec::new() }
    }

    /// Marks our row, if there is one, as replaced.
    pub fn bury(&mut self, step: &Step, ours: &Moment) -> Result<()> {
        match step.candidate.ours.place {
            None => Ok(()),
            Some(Place::Segment(at, row)) => {
                let segment = ours.view.segments[at].segment.segment_id();
                self.dead.entry(segment).or_default().insert(row);
                Ok(())
            }
            Some(Place::Tail(_)) => {
                Err(Error::internal(format!("document {} is in the tail during a merge", step.candidate.id)))
            }
        }
    }

    pub fn add(&mut self, entry: Entry, site: &mut Site) -> Result<()> {
        self.bytes += match &entry {
            Entry::Row { document, .. } => document.logical_bytes(),
            Entry::Tombstone(_) => 0,
        };
        self.entries.push(entry);
        if self.bytes >= CHUNK_BYTES || self.entries.len() + self.extras.len() >= CHUNK_ENTRIES {
            self.finish(site)?;
        }
        Ok(())
    }

    /// Writes what waits.
    pub fn finish(&mut self, site: &mut Site) -> Result<()> {
        self.entries.append(&mut self.extras);
        if self.entries.is_empty() {
            return Ok(());
        }
        self.entries.sort_by(|a, b| a.id().cmp(b.id()));
        site.write(self.schema, &self.entries)?;
        self.entries.clear();
        self.bytes = 0;
        Ok(())
    }
}
