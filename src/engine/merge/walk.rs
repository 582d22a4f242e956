//! Walks over what differs, with what becomes of it: the same every time, for the look before and for the work after.

use std::sync::Arc;

use super::bases::{evidence, newest_common};
use super::changes::{Candidate, Changes};
use super::decide::{Sides, State, Verdict, decide};
use super::diff::is_same;
use super::side::{Found, Side};
use crate::engine::namespace::Moment;
use crate::error::Result;
use crate::model::document::Document;
use crate::model::schema::Schema;

/// What becomes of one document.
pub struct Step {
    pub candidate: Candidate,
    pub verdict: Verdict,
    /// The two states of a conflict.
    pub theirs: Option<Arc<Document>>,
    pub ours: Option<Arc<Document>>,
    /// A conflict of equal content: both made the same change.
    pub is_same: bool,
}

/// What both began with.
pub enum Common<'a> {
    Unknown,
    /// `None`: there was no document.
    Known(Option<Arc<Document>>, &'a Schema),
}

/// A walk.
pub struct Walk<'a> {
    pub changes: Changes<'a>,
    bases: Vec<Side<'a>>,
    theirs_forgot: bool,
    ours_forgot: bool,
}

impl<'a> Walk<'a> {
    pub fn new(theirs: &'a Moment, ours: &'a Moment, bases: &'a [Arc<Moment>]) -> Result<Self> {
        let changes = Changes::between(theirs, ours)?;
        Ok(Walk {
            theirs_forgot: changes.theirs.may_have_forgotten(&changes.ours),
            ours_forgot: changes.ours.may_have_forgotten(&changes.theirs),
            changes,
            bases: bases.iter().map(|base| Side::new(base)).collect(),
        })
    }

    /// Whether any verdict needs what both had in common. Reads no documents.
    pub fn needs_bases(mut self) -> Result<bool> {
        while let Some(candidate) = self.changes.next_candidate()? {
            if matches!(self.first_verdict(&candidate), Verdict::Conflict | Verdict::Vanished) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn first_verdict(&self, candidate: &Candidate) -> Verdict {
        let sides = Sides {
            theirs: &self.changes.theirs.moment.vector,
            ours: &self.changes.ours.moment.vector,
            theirs_forgot: self.theirs_forgot,
            ours_forgot: self.ours_forgot,
        };
        decide(candidate.theirs.state, candidate.ours.state, sides)
    }

    /// The next document that differs.
    pub fn next_step(&mut self) -> Result<Option<Step>> {
        let Some(candidate) = self.changes.next_candidate()? else { return Ok(None) };
        let mut verdict = self.first_verdict(&candidate);
        if verdict == Verdict::Vanished {
            let theirs_live = candidate.theirs.state.is_live();
            let live = if theirs_live {
                self.changes.theirs.live(candidate.theirs)?
            } else {
                self.changes.ours.live(candidate.ours)?
            };
            let patched_on = live.and_then(|live| live.patch.as_ref().map(|patch| State::Live(patch.base)));
            let (theirs, ours) = (self.changes.theirs.moment, self.changes.ours.moment);
            let common = newest_common(&self.bases, &candidate.id, theirs, ours)?;
            let absent = if theirs_live { ours } else { theirs };
            verdict = verdict.with(evidence(common, patched_on, absent), theirs_live);
        }
        let mut step = Step { candidate, verdict, theirs: None, ours: None, is_same: false };
        if verdict == Verdict::Conflict {
            step.theirs = self.changes.theirs.live(step.candidate.theirs)?;
            step.ours = self.changes.ours.live(step.candidate.ours)?;
            if let (Some(theirs), Some(ours)) = (&step.theirs, &step.ours) {
                let schema = |side: &Side<'a>| side.moment.view.schema.clone();
                let (their_schema, our_schema) = (schema(&self.changes.theirs), schema(&self.changes.ours));
                step.is_same = is_same((theirs, &their_schema), (ours, &our_schema));
            }
        }
        Ok(Some(step))
    }

    /// What both sides of a conflict began with.
    pub fn common(&mut self, candidate: &Candidate) -> Result<Common<'a>> {
        let (theirs, ours) = (self.changes.theirs.moment, self.changes.ours.moment);
        let Some((at, found)) = newest_common(&self.bases, &candidate.id, theirs, ours)? else {
            return Ok(Common::Unknown);
        };
        let base = &mut self.bases[at];
        let document = base.live(found)?;
        Ok(Common::Known(document, &base.moment.view.schema))
    }

    /// The document of a state that is taken as it is.
    pub fn theirs(&mut self, found: Found) -> Result<Option<Arc<Document>>> {
        self.changes.theirs.live(found)
    }
}
