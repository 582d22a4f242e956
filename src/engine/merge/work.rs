//! Carries a merge out: looks at everything first, then builds what the commit names.
//!
//! `survey` is the look, `build` what the commit names.

use std::sync::Arc;

use roaring::RoaringBitmap;
use uuid::Uuid;

use super::bases::Staging;
use super::build::{Build, tombstone, visible};
use super::decide::{Resolution, State, Verdict};
use super::losers::{Losers, Lost};
use super::report::{MergeReport, MergeRequest};
use super::schemas::{join, join_changes};
use super::side::root;
use super::survey::{End, names};
use super::walk::{Step, Walk};
use crate::engine::namespace::Moment;
use crate::engine::namespace::absorb::{Absorb, Absorption, Site, full_of_conflicts};
use crate::error::{Error, Result};
use crate::format::conflicts::{LOSERS_MAX, Side};
use crate::format::manifest::CONFLICTS_MAX;
use crate::model::document::Document;
use crate::model::ids::{DocId, Hlc};
use crate::model::schema::Schema;
use crate::platform::allowance::Allowance;
use crate::segment::builder::Entry;
use crate::segment::merge::Input;

/// A segment is copied when at least one in so many of its rows is taken.
const COPIED_SHARE: u64 = 8;

/// Gives the states that both, theirs and ours, may have had in common. Asked for only when something depends on it.
pub type OpenBases<'a> = Box<dyn Fn(&Moment, &Moment) -> Result<Vec<Arc<Moment>>> + Send + 'a>;

/// One merge, of one state of the source.
pub struct Work<'a> {
    pub request: &'a MergeRequest,
    pub theirs: Arc<Moment>,
    pub open_bases: OpenBases<'a>,
    pub losers: Losers,
    pub report: MergeReport,
    /// Logical bytes of the rows that the report shows, and of the first that it does not.
    pub listed_bytes: u64,
    pub bases: Option<Vec<Arc<Moment>>>,
    /// What is to be in place before the commit.
    pub staging: Option<Staging>,
    pub fresh: u64,
    /// Documents that only theirs wrote count as changed only where they differ from ours; they are taken all the same.
    pub compares: bool,
    /// Both are states of one namespace that two nodes changed apart: its schema in the newest state that both had, if there is one.
    pub of_one: Option<Option<Schema>>,
    /// Ends the look.
    pub allowance: Arc<Allowance>,
    /// Of each segment of theirs, how many of its rows are taken as they are.
    pub taken: Vec<u64>,
}

impl Absorb for Work<'_> {
    fn survey(&mut self, ours: &Moment) -> Result<bool> {
        let theirs = self.theirs.clone();
        let looked = self.look_over(ours);
        self.report.etag.clone_from(&ours.view.etag);
        theirs.view.believed(ours.view.believed(looked))
    }

    fn is_refused(&self) -> bool {
        self.report.refused
    }

    fn lets_go(&self) -> bool {
        self.losers.lets_go
    }

    fn fresh_ids(&self) -> u64 {
        self.fresh
    }

    fn carry_out(&mut self, ours: &Moment, site: &mut Site) -> Result<Absorption> {
        // What the survey read may have changed on the disk since, and what is written now stays.
        let bases = self.bases(&self.theirs.clone(), ours)?;
        let bases: Vec<Arc<Moment>> = bases.iter().map(|base| Arc::new(base.unchecked())).collect();
        let theirs = self.theirs.unchecked();
        let built = self.build(&theirs, ours, &bases, site);
        theirs.view.believed(ours.view.believed(built))
    }
}

/// What a conflict left behind: the id of the loser's document, or its name among the losers.
type Left = (Option<DocId>, Option<Uuid>);

impl Work<'_> {
    /// The schema afterwards, and what of theirs is left out.
    fn joined_schema(&self, theirs: &Schema, ours: &Schema) -> Result<(Schema, Vec<String>)> {
        match &self.of_one {
            None => join(theirs, ours),
            Some(common) => join_changes(theirs, ours, common.as_ref()),
        }
    }

    /// Looks at everything that differs. Whether there is anything to commit.
    fn look_over(&mut self, ours: &Moment) -> Result<bool> {
        let (schema, left_out) = self.joined_schema(&self.theirs.view.schema, &ours.view.schema)?;
        let theirs = self.theirs.clone();
        let bases = self.bases(&theirs, ours)?;
        let mut walk = Walk::new(&theirs, ours, &bases)?;
        match self.look(&mut walk, &schema) {
            Err(error) if walk.has_lost_base => {
                tracing::warn!(%error, "the bases of a merge are not compared with");
                self.bases = Some(Vec::new());
                self.look(&mut Walk::new(&theirs, ours, &[])?, &schema)?;
            }
            looked => looked?,
        }
        self.report.left_out = left_out;
        let (kept, new) = (ours.manifest.conflicts.len(), self.report.conflicts as usize / LOSERS_MAX);
        if !self.lets_go() && !self.report.refused && kept + new > CONFLICTS_MAX {
            return Err(full_of_conflicts(kept, new));
        }
        // Where no document changes, what theirs has seen is to be committed all the same: what is written here from now on is
        // on top of it, and conflicts that it settled are settled.
        let is_news = schema != *ours.view.schema || !ours.vector.covers_all(&theirs.vector);
        Ok(is_news && !self.report.refused)
    }

    /// Builds what the commit names, of states of which nothing was read yet.
    fn build(
        &mut self,
        theirs: &Moment,
        ours: &Moment,
        bases: &[Arc<Moment>],
        site: &mut Site,
    ) -> Result<Absorption> {
        let (schema, _) = self.joined_schema(&theirs.view.schema, &ours.view.schema)?;
        let mut walk = Walk::new(theirs, ours, bases)?;
        let shown = visible(&schema, &theirs.view.schema);
        let segments = || theirs.view.segments.iter().map(|part| &*part.segment);
        let reused: Vec<bool> =
            segments().zip(&self.taken).map(|(segment, rows)| site.reuses(segment, *rows, &shown)).collect();
        let whole = reused.iter().enumerate().map(|(at, reused)| *reused || self.is_copied(at)).collect();
        let (their_shown, our_shown) = (walk.changes.theirs.shown.clone(), walk.changes.ours.shown.clone());
        let mut build = Build::new(&schema, their_shown, our_shown, whole);
        let mut ids = std::mem::take(&mut site.fresh_ids).into_iter();
        let mut conflict = 0;
        // What theirs forgot itself is not found among what differs.
        let mut has_news_of_deletions = walk.theirs_forgot;
        while let Some(step) = walk.next_step()? {
            let id = step.candidate.id.clone();
            has_news_of_deletions |=
                matches!(step.candidate.theirs.state, State::Deleted(version) if !ours.vector.covers(version));
            match step.verdict {
                Verdict::Nothing | Verdict::Vanished | Verdict::ByContent(Resolution::KeepOurs) => {}
                Verdict::ByContent(resolution) => build.settle(&step, resolution, &mut walk, ours, site)?,
                Verdict::Take => build.take(&step, &mut walk, ours, site)?,
                Verdict::Delete(version) => build.delete(&step, version, ours, site)?,
                Verdict::Remember(version) => build.add(tombstone(id, version), site)?,
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
        if let Some(staging) = self.staging.take() {
            site.wait_for(staging);
        }
        let mut vector = ours.vector.clone();
        vector.merge(&theirs.vector);
        let seen = ours.manifest.hlc.max(theirs.vector.newest());
        let schema = if schema == *ours.view.schema { ours.view.schema.clone() } else { Arc::new(schema.clone()) };
        let mut horizon = ours.manifest.horizon.max(theirs.manifest.horizon);
        if has_news_of_deletions && root(&ours.manifest) != root(&theirs.manifest) {
            // Deletions of a stranger may be older than the branches that keep tombstones from being dropped here: no branch that
            // is there by now has seen all that will be forgotten. Of a stranger without any there is nothing to forget.
            horizon = horizon.max(site.version.hlc);
        }
        Ok(Absorption {
            schema,
            vector,
            horizon,
            hlc: if build.is_new { site.version.hlc } else { seen },
            dead: build.dead,
        })
    }

    /// What both may have had in common, opened when a verdict depends on it.
    fn bases(&mut self, theirs: &Moment, ours: &Moment) -> Result<Vec<Arc<Moment>>> {
        let known = match self.bases.take() {
            Some(known) => known,
            None if Walk::new(theirs, ours, &[])?.needs_bases(&self.allowance)? => (self.open_bases)(theirs, ours)?,
            None => Vec::new(),
        };
        self.bases = Some(known.clone());
        Ok(known)
    }

    fn is_copied(&self, at: usize) -> bool {
        let rows = u64::from(self.theirs.view.segments[at].segment.rows());
        self.taken[at] * COPIED_SHARE >= rows
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
        let End { joined, resolution, .. } = self.end(step, walk, build.schema)?;
        let Some(resolution) = resolution else {
            return Err(Error::internal("a merge that refuses conflicts meets one"));
        };
        let id = &step.candidate.id;
        let (their_shown, our_shown) = (build.theirs.clone(), build.ours.clone());
        let lost = |side: Side, attributes: Vec<String>| {
            let (state, document, schema) = match side {
                Side::Ours => (ours_state, &step.ours, our_shown.schema),
                Side::Theirs => (theirs_state, &step.theirs, their_shown.schema),
            };
            Lost { side, version: state.version(), document: document.as_deref(), schema, attributes }
        };
        let mut fresh = || ids.next().ok_or_else(|| Error::internal("a merge has fewer ids than it asked for"));
        match resolution {
            Resolution::KeepOurs | Resolution::RenewOurs => {
                let token = self.losers.keep(id, lost(Side::Theirs, Vec::new()), site)?;
                build.settle(step, resolution, walk, ours, site)?;
                Ok((None, Some(token)))
            }
            Resolution::TakeTheirs | Resolution::RenewTheirs => {
                let token = self.losers.keep(id, lost(Side::Ours, Vec::new()), site)?;
                build.settle(step, resolution, walk, ours, site)?;
                Ok((None, Some(token)))
            }
            Resolution::OursAndTheirs | Resolution::TheirsAndOurs => {
                let (Some(theirs), Some(own)) = (&step.theirs, &step.ours) else {
                    return Err(Error::internal("both states are kept of a document that has one"));
                };
                let another = fresh()?;
                let (kept, beside) = match resolution {
                    Resolution::OursAndTheirs => ((own, &our_shown), (theirs, &their_shown)),
                    _ => ((theirs, &their_shown), (own, &our_shown)),
                };
                build.renew(step, Some(kept.0), kept.1, ours, site)?;
                let version = site.version;
                build.extras.push(build.row(beside.0, beside.1, Some(version), Some(another.clone())));
                Ok((Some(another), None))
            }
            Resolution::Join => {
                let Some(joined) = joined else {
                    return Err(Error::internal("two states are joined of a document that has one"));
                };
                let token = match joined.clashes.as_slice() {
                    [] => None,
                    clashes => {
                        let theirs_is_newer = theirs_state.version() > ours_state.version();
                        let side = if theirs_is_newer { Side::Ours } else { Side::Theirs };
                        Some(self.losers.keep(id, lost(side, names(clashes, build.schema)), site)?)
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

/// The newest clock that a side has seen.
pub fn newest(moment: &Moment) -> Hlc {
    moment.manifest.hlc.max(moment.vector.newest())
}
