//! Carries a merge out: looks at everything first, then builds what the commit names.
//!
//! Rows that are most of a segment are copied as bytes; few rows go by way of documents, since what copying costs is the
//! segment. Held in memory are sets of rows, and documents of at most [`CHUNK_BYTES`] that wait to be written.

use std::collections::BTreeMap;
use std::sync::Arc;

use roaring::RoaringBitmap;
use uuid::Uuid;

use super::decide::{Policy, Resolution, State, Verdict, resolve};
use super::fields::{Ground, Seen, join};
use super::losers::{Losers, Lost};
use super::report::{Conflict, LISTED_MAX, MergeReport, MergeRequest, word};
use super::side::{Place, root};
use super::walk::{Common, Step, Walk};
use crate::engine::namespace::Moment;
use crate::engine::namespace::absorb::{Absorb, Absorption, Site, full_of_conflicts};
use crate::error::{Error, Result};
use crate::format::conflicts::{LOSERS_MAX, Side};
use crate::format::manifest::CONFLICTS_MAX;
use crate::model::document::{Document, Tombstone};
use crate::model::ids::{DocId, Hlc, Version};
use crate::model::schema::{ColumnUid, Schema};
use crate::model::value_render::document_json;
use crate::segment::builder::Entry;
use crate::segment::merge::Input;

/// Documents that wait to be written count for at most so many logical bytes, before the last one.
const CHUNK_BYTES: u64 = 8 << 20;
const CHUNK_ENTRIES: usize = 65_536;
/// A segment is copied when at least one in so many of its rows is taken.
const COPIED_SHARE: u64 = 8;

/// Gives the states that both may have had in common. Asked for only when something depends on it.
pub type OpenBases<'a> = Box<dyn Fn() -> Vec<Arc<Moment>> + Send + 'a>;

/// One merge, of one state of the source.
pub struct Work<'a> {
    pub request: &'a MergeRequest,
    pub theirs: Arc<Moment>,
    pub open_bases: OpenBases<'a>,
    pub losers: Losers,
    pub report: MergeReport,
    pub bases: Option<Vec<Arc<Moment>>>,
    pub fresh: u64,
    /// Of each segment of theirs, how many of its rows are taken as they are.
    pub taken: Vec<u64>,
}

impl Absorb for Work<'_> {
    fn survey(&mut self, ours: &Moment) -> Result<bool> {
        let (schema, left_out) = super::schemas::join(&self.theirs.view.schema, &ours.view.schema)?;
        let theirs = self.theirs.clone();
        self.fresh = 0;
        self.taken = vec![0; theirs.view.segments.len()];
        self.report = MergeReport { left_out, ..self.empty_report() };
        let bases = self.bases(&theirs, ours)?;
        let mut walk = Walk::new(&theirs, ours, &bases)?;
        while let Some(step) = walk.next_step()? {
            self.count(&step);
            if step.verdict == Verdict::Conflict && !step.is_same {
                self.note(&step, &mut walk)?;
            }
            if step.verdict == Verdict::Take
                && let Some(Place::Segment(at, _)) = step.candidate.theirs.place
            {
                self.taken[at] += 1;
            }
        }
        self.report.refused = self.report.conflicts > 0 && self.request.policy == Policy::Fail;
        let objects = ours.manifest.conflicts.len() as u64 + self.report.conflicts / LOSERS_MAX as u64;
        if !self.report.refused && objects > CONFLICTS_MAX as u64 {
            return Err(full_of_conflicts(objects as usize));
        }
        // Where no document changes, what theirs has seen is to be committed all the same: what is written here from now on is
        // on top of it, and conflicts that it settled are settled.
        let is_news = schema != *ours.view.schema || !ours.vector.covers_all(&theirs.vector);
        Ok(is_news && !self.report.refused)
    }

    fn is_refused(&self) -> bool {
        self.report.refused
    }

    fn fresh_ids(&self) -> u64 {
        self.fresh
    }

    fn carry_out(&mut self, ours: &Moment, site: &mut Site) -> Result<Absorption> {
        let (schema, _) = super::schemas::join(&self.theirs.view.schema, &ours.view.schema)?;
        let theirs = self.theirs.clone();
        let bases = self.bases(&theirs, ours)?;
        let mut walk = Walk::new(&theirs, ours, &bases)?;
        let shown = visible(&schema, &theirs.view.schema);
        let segments = || theirs.view.segments.iter().map(|part| &*part.segment);
        let reused: Vec<bool> =
            segments().zip(&self.taken).map(|(segment, rows)| site.reuses(segment, *rows, &shown)).collect();
        let mut build = Build {
            schema: &schema,
            their_schema: &theirs.view.schema,
            our_schema: &ours.view.schema,
            dead: BTreeMap::new(),
            rows: vec![RoaringBitmap::new(); theirs.view.segments.len()],
            whole: reused.iter().enumerate().map(|(at, reused)| *reused || self.is_copied(at)).collect(),
            entries: Vec::new(),
            extras: Vec::new(),
            bytes: 0,
            is_new: false,
        };
        let mut ids = std::mem::take(&mut site.fresh_ids).into_iter();
        let mut conflict = 0;
        while let Some(step) = walk.next_step()? {
            let id = step.candidate.id.clone();
            match step.verdict {
                Verdict::Nothing | Verdict::Vanished => {}
                Verdict::Take => build.take(&step, &mut walk, ours, site)?,
                Verdict::Delete(version) => build.delete(&step, version, ours, site)?,
                Verdict::Remember(version) => build.add(tombstone(id, version), site)?,
                Verdict::Conflict if step.is_same => {}
                Verdict::Conflict => {
                    let kept_as = self.settle(&step, &mut walk, &mut build, ours, site, &mut ids)?;
                    if let Some(listed) = self.report.listed.get_mut(conflict) {
                        (listed.kept_as, listed.token) = kept_as;
                    }
                    conflict += 1;
                }
            }
        }
        build.finish(site)?;
        for ((segment, reused), rows) in segments().zip(reused).zip(&build.rows) {
            if reused {
                site.reuse(segment, rows)?;
                continue;
            }
            if rows.is_empty() {
                continue;
            }
            let mut others = RoaringBitmap::new();
            others.insert_range(0..segment.rows());
            others -= rows;
            site.copy_rows(&shown, &[Input { segment, dead: &others }])?;
        }
        self.losers.write(site)?;
        let mut vector = ours.vector.clone();
        vector.merge(&theirs.vector);
        let seen = ours.manifest.hlc.max(theirs.vector.newest());
        let schema = if schema == *ours.view.schema { ours.view.schema.clone() } else { Arc::new(schema.clone()) };
        let mut horizon = ours.manifest.horizon.max(theirs.manifest.horizon);
        if root(&ours.manifest) != root(&theirs.manifest) {
            // Deletions of a stranger may be older than the branches that keep tombstones from being dropped here.
            horizon = horizon.max(theirs.vector.newest());
        }
        Ok(Absorption {
            schema,
            vector,
            horizon,
            hlc: if build.is_new { site.version.hlc } else { seen },
            dead: build.dead,
        })
    }
}

/// What a conflict left behind: the id of the loser's document, or its name among the losers.
type Left = (Option<DocId>, Option<Uuid>);

impl Work<'_> {
    fn empty_report(&self) -> MergeReport {
        MergeReport { policy: self.request.policy, dry_run: self.request.dry_run, ..MergeReport::default() }
    }

    /// What both may have had in common, opened when a verdict depends on it.
    fn bases(&mut self, theirs: &Moment, ours: &Moment) -> Result<Vec<Arc<Moment>>> {
        let known = match self.bases.take() {
            Some(known) => known,
            None if Walk::new(theirs, ours, &[])?.needs_bases()? => (self.open_bases)(),
            None => Vec::new(),
        };
        self.bases = Some(known.clone());
        Ok(known)
    }

    fn is_copied(&self, at: usize) -> bool {
        let rows = u64::from(self.theirs.view.segments[at].segment.rows());
        self.taken[at] * COPIED_SHARE >= rows
    }

    fn count(&mut self, step: &Step) {
        let was_live = step.candidate.ours.state.is_live();
        let is_live = step.candidate.theirs.state.is_live();
        let report = &mut self.report;
        match step.verdict {
            Verdict::Nothing => report.skipped += 1,
            Verdict::Take if was_live => report.updated += 1,
            Verdict::Take => report.inserted += 1,
            Verdict::Delete(_) => report.deleted += 1,
            Verdict::Remember(_) | Verdict::Vanished => {}
            Verdict::Conflict if step.is_same => report.skipped += 1,
            Verdict::Conflict => {
                report.conflicts += 1;
                let resolution = resolve(self.request.policy, step.candidate.theirs.state, step.candidate.ours.state);
                *report.resolutions.entry(word(resolution)).or_default() += 1;
                match resolution {
                    None | Some(Resolution::KeepOurs | Resolution::RenewOurs) => {}
                    Some(Resolution::TakeTheirs | Resolution::RenewTheirs) => match (was_live, is_live) {
                        (true, true) => report.updated += 1,
                        (true, false) => report.deleted += 1,
                        (false, true) => report.inserted += 1,
                        (false, false) => {}
                    },
                    Some(Resolution::Join) => report.updated += 1,
                    Some(Resolution::OursAndTheirs) => report.inserted += 1,
                    Some(Resolution::TheirsAndOurs) => {
                        report.updated += 1;
                        report.inserted += 1;
                    }
                }
                let is_kept = matches!(resolution, Some(Resolution::OursAndTheirs | Resolution::TheirsAndOurs));
                self.fresh += u64::from(is_kept);
            }
        }
    }

    /// Lists a conflict while there is room.
    fn note(&mut self, step: &Step, walk: &mut Walk) -> Result<()> {
        if self.report.listed.len() >= LISTED_MAX {
            return Ok(());
        }
        let base = match walk.common(&step.candidate)? {
            Common::Unknown | Common::Known(None, _) => None,
            Common::Known(Some(document), schema) => Some(document_json(&document, schema)),
        };
        let row = |document: &Option<Arc<Document>>, schema: &Schema| {
            document.as_ref().map(|document| document_json(document, schema))
        };
        let resolution = resolve(self.request.policy, step.candidate.theirs.state, step.candidate.ours.state);
        self.report.listed.push(Conflict {
            id: step.candidate.id.clone(),
            base,
            ours: row(&step.ours, &walk.changes.ours.moment.view.schema),
            theirs: row(&step.theirs, &walk.changes.theirs.moment.view.schema),
            resolution: word(resolution),
            kept_as: None,
            token: None,
        });
        Ok(())
    }

    /// Ends a conflict as the policy says.
    fn settle(
        &mut self,
        step: &Step,
        walk: &mut Walk,
        build: &mut Build,
        ours: &Moment,
        site: &mut Site,
        ids: &mut impl Iterator<Item = DocId>,
    ) -> Result<Left> {
        let (theirs_state, ours_state) = (step.candidate.theirs.state, step.candidate.ours.state);
        let Some(resolution) = resolve(self.request.policy, theirs_state, ours_state) else {
            return Err(Error::internal("a merge that refuses conflicts meets one"));
        };
        let id = &step.candidate.id;
        let lost = |side: Side, attributes: Vec<String>| {
            let (state, document, schema) = match side {
                Side::Ours => (ours_state, &step.ours, build.our_schema),
                Side::Theirs => (theirs_state, &step.theirs, build.their_schema),
            };
            Lost { side, version: state.version(), document: document.as_deref(), schema, attributes }
        };
        let mut fresh = || ids.next().ok_or_else(|| Error::internal("a merge has fewer ids than it asked for"));
        match resolution {
            Resolution::KeepOurs => Ok((None, Some(self.losers.keep(id, lost(Side::Theirs, Vec::new()), site)?))),
            Resolution::TakeTheirs => {
                let token = self.losers.keep(id, lost(Side::Ours, Vec::new()), site)?;
                match (theirs_state, &step.theirs) {
                    (State::Deleted(version), _) => build.delete(step, Some(version), ours, site)?,
                    (_, Some(_)) => build.take(step, walk, ours, site)?,
                    (_, None) => build.delete(step, None, ours, site)?,
                }
                Ok((None, Some(token)))
            }
            Resolution::RenewOurs => {
                let token = self.losers.keep(id, lost(Side::Theirs, Vec::new()), site)?;
                build.renew(step, step.ours.as_deref(), build.our_schema, ours, site)?;
                Ok((None, Some(token)))
            }
            Resolution::RenewTheirs => {
                let token = self.losers.keep(id, lost(Side::Ours, Vec::new()), site)?;
                build.renew(step, step.theirs.as_deref(), build.their_schema, ours, site)?;
                Ok((None, Some(token)))
            }
            Resolution::OursAndTheirs | Resolution::TheirsAndOurs => {
                let (Some(theirs), Some(own)) = (&step.theirs, &step.ours) else {
                    return Err(Error::internal("both states are kept of a document that has one"));
                };
                let another = fresh()?;
                let (kept, beside) = match resolution {
                    Resolution::OursAndTheirs => ((own, build.our_schema), (theirs, build.their_schema)),
                    _ => ((theirs, build.their_schema), (own, build.our_schema)),
                };
                build.renew(step, Some(kept.0), kept.1, ours, site)?;
                let version = site.version;
                build.extras.push(build.row(beside.0, beside.1, Some(version), Some(another.clone())));
                Ok((Some(another), None))
            }
            Resolution::Join => {
                let (Some(theirs), Some(own)) = (&step.theirs, &step.ours) else {
                    return Err(Error::internal("two states are joined of a document that has one"));
                };
                let common = walk.common(&step.candidate)?;
                let moments = (walk.changes.theirs.moment, walk.changes.ours.moment);
                let ground = match &common {
                    Common::Known(base, _) => Ground::Base(base.as_deref()),
                    Common::Unknown => {
                        Ground::Changes { theirs: intent(theirs, moments.1), ours: intent(own, moments.0) }
                    }
                };
                let theirs_is_newer = theirs_state.version() > ours_state.version();
                let seen = Seen { document: theirs, schema: build.their_schema };
                let own_seen = Seen { document: own, schema: build.our_schema };
                let joined = join(build.schema, ground, seen, own_seen, theirs_is_newer);
                let token = match joined.clashes.as_slice() {
                    [] => None,
                    clashes => {
                        let name = |uid: &ColumnUid| build.schema.column_by_uid(*uid).map(|c| c.name.clone());
                        let side = if theirs_is_newer { Side::Ours } else { Side::Theirs };
                        Some(self.losers.keep(id, lost(side, clashes.iter().filter_map(name).collect()), site)?)
                    }
                };
                build.bury(step, ours)?;
                build.is_new = true;
                let document = Document { id: id.clone(), version: site.version, fields: joined.fields, patch: None };
                build.add(Entry::Row { document: Arc::new(document), terms: Vec::new() }, site)?;
                Ok((None, token))
            }
        }
    }
}

/// What a state says it changed, when the other side has what it was patched on.
fn intent<'a>(document: &'a Document, other: &Moment) -> Option<&'a [ColumnUid]> {
    document.patch.as_ref().filter(|patch| other.vector.covers(patch.base)).map(|patch| patch.changed.as_slice())
}

/// The columns of `schema` that `side` shows: what a side dropped does not come with its rows.
fn visible(schema: &Schema, side: &Schema) -> Schema {
    let mut shown = schema.clone();
    shown.columns.retain(|column| side.column_by_uid(column.uid()).is_some());
    shown
}

fn tombstone(id: DocId, version: Version) -> Entry {
    Entry::Tombstone(Tombstone { id, version })
}

/// What the commit will name, as it grows.
struct Build<'a> {
    schema: &'a Schema,
    their_schema: &'a Schema,
    our_schema: &'a Schema,
    dead: BTreeMap<Uuid, RoaringBitmap>,
    /// Rows of their segments that are copied, or stay where they are.
    rows: Vec<RoaringBitmap>,
    /// Segments whose rows do not go by way of documents.
    whole: Vec<bool>,
    /// In the order of ids.
    entries: Vec<Entry>,
    /// Documents under ids of their own, in no order.
    extras: Vec<Entry>,
    bytes: u64,
    /// Whether anything was given a new version.
    is_new: bool,
}

impl Build<'_> {
    /// Takes their state as it is.
    fn take(&mut self, step: &Step, walk: &mut Walk, ours: &Moment, site: &mut Site) -> Result<()> {
        self.bury(step, ours)?;
        if let Some(Place::Segment(at, row)) = step.candidate.theirs.place
            && self.whole[at]
        {
            self.rows[at].insert(row);
            return Ok(());
        }
        match walk.theirs(step.candidate.theirs)? {
            Some(document) => self.add(self.row(&document, self.their_schema, None, None), site),
            None => Err(Error::internal(format!("document {} is taken and not there", step.candidate.id))),
        }
    }

    fn delete(&mut self, step: &Step, version: Option<Version>, ours: &Moment, site: &mut Site) -> Result<()> {
        self.bury(step, ours)?;
        self.is_new |= version.is_none();
        self.add(tombstone(step.candidate.id.clone(), version.unwrap_or(site.version)), site)
    }

    /// Writes a state, or a deletion, above both sides.
    fn renew(
        &mut self,
        step: &Step,
        document: Option<&Document>,
        schema: &Schema,
        ours: &Moment,
        site: &mut Site,
    ) -> Result<()> {
        self.is_new = true;
        match document {
            None => self.delete(step, Some(site.version), ours, site),
            Some(document) => {
                self.bury(step, ours)?;
                let row = self.row(document, schema, Some(site.version), None);
                self.add(row, site)
            }
        }
    }

    /// A document as a row: what its side does not show is left out.
    fn row(&self, document: &Document, side: &Schema, renewed: Option<Version>, id: Option<DocId>) -> Entry {
        let mut document = document.clone();
        document.fields.retain(|(uid, _)| side.column_by_uid(*uid).is_some());
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
    fn bury(&mut self, step: &Step, ours: &Moment) -> Result<()> {
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

    fn add(&mut self, entry: Entry, site: &mut Site) -> Result<()> {
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
    fn finish(&mut self, site: &mut Site) -> Result<()> {
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

/// The newest clock that a side has seen.
pub fn newest(moment: &Moment) -> Hlc {
    moment.manifest.hlc.max(moment.vector.newest())
}
