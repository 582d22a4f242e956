//! Walks over what differs, with what becomes of it: the same every time, for the look before and for the work after.

use std::sync::Arc;

use super::bases::{Base, evidence, newest_common};
use super::changes::{Candidate, Changes};
use super::decide::{Evidence, Resolution, Sides, State, Verdict, by_content, decide};
use super::side::Found;
use crate::engine::namespace::Moment;
use crate::error::Result;
use crate::model::document::Document;
use crate::model::shown::{Shown, is_same};
use crate::platform::allowance::{Allowance, ROWS_PER_CHECK};

/// What becomes of one document.
pub struct Step {
    pub candidate: Candidate,
    pub verdict: Verdict,
    /// The two states of a conflict.
    pub theirs: Option<Arc<Document>>,
    pub ours: Option<Arc<Document>>,
    /// Both wrote it apart, and made the same of it: only the version may change.
    pub is_same: bool,
    /// Of a conflict: nobody knows whether the side that has no such document deleted it or never had it.
    pub is_doubted: bool,
    /// What both sides of a conflict began with: in which base, and where.
    common: Option<(usize, Found)>,
}

/// What both began with.
pub enum Common<'a> {
    Unknown,
    Known {
        /// `None`: there was no document.
        document: Option<Arc<Document>>,
        shown: Arc<Shown<'a>>,
        /// Neither side has seen anything newer that the other has seen, too.
        is_newest: bool,
    },
}

/// A walk.
pub struct Walk<'a> {
    pub changes: Changes<'a>,
    bases: Vec<Base<'a>>,
    /// A deletion that ours has not seen may have left no trace on their side.
    pub theirs_forgot: bool,
    ours_forgot: bool,
    /// Something of a base could not be read.
    pub has_lost_base: bool,
}

impl<'a> Walk<'a> {
    pub fn new(theirs: &'a Moment, ours: &'a Moment, bases: &'a [Arc<Moment>]) -> Result<Self> {
        let changes = Changes::between(theirs, ours)?;
        Ok(Walk {
            theirs_forgot: changes.theirs.may_have_forgotten(&changes.ours),
            ours_forgot: changes.ours.may_have_forgotten(&changes.theirs),
            changes,
            bases: bases.iter().map(|base| Base::new(base, theirs, ours)).collect(),
            has_lost_base: false,
        })
    }

    /// Whether any verdict needs what both had in common. Reads no documents.
    pub fn needs_bases(mut self, allowance: &Allowance) -> Result<bool> {
        let mut looked_at = 0_u32;
        while let Some(candidate) = self.changes.next_candidate()? {
            allowance.check_at(looked_at, ROWS_PER_CHECK)?;
            looked_at = looked_at.wrapping_add(1);
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
        let mut is_doubted = false;
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
            let evidence = evidence(common, patched_on, absent);
            is_doubted = evidence == Evidence::Unknown;
            verdict = verdict.with(evidence, theirs_live);
        }
        let (theirs, ours) = (None, None);
        let mut step = Step { candidate, verdict, theirs, ours, is_same: false, is_doubted, common: None };
        if verdict == Verdict::Conflict {
            step.theirs = self.changes.theirs.live(step.candidate.theirs)?;
            step.ours = self.changes.ours.live(step.candidate.ours)?;
            if let (Some(theirs), Some(ours)) = (&step.theirs, &step.ours) {
                step.is_same = is_same((theirs, &self.changes.theirs.shown), (ours, &self.changes.ours.shown));
            }
            if step.is_same {
                let (theirs, ours) = (step.candidate.theirs.state, step.candidate.ours.state);
                step.verdict = by_content(theirs, ours, false, false).map_or(verdict, Verdict::ByContent);
            } else {
                let (theirs, ours) = (self.changes.theirs.moment, self.changes.ours.moment);
                step.common = newest_common(&self.bases, &step.candidate.id, theirs, ours)?;
                step.verdict = self.compared(&step)?.map_or(verdict, Verdict::ByContent);
            }
        }
        Ok(Some(step))
    }

    /// What becomes of a conflict of which one side has what both began with. Nothing is asked of a base that may not be the
    /// newest state that both had, and nothing is brought from the bucket for it.
    fn compared(&mut self, step: &Step) -> Result<Option<Resolution>> {
        if !self.common_is_here(step) {
            return Ok(None);
        }
        let Common::Known { document: base, shown, is_newest: true } = self.common(step)? else { return Ok(None) };
        // Where nothing was in common both wrote: who deleted what it had seen of the other did something, and is heard.
        let Some(base) = base.as_deref() else { return Ok(None) };
        let base = Some((base, &*shown));
        let changed = |side: Option<&Document>, shown: &Shown| is_changed(side.map(|side| (side, shown)), base);
        let theirs_changed = changed(step.theirs.as_deref(), &self.changes.theirs.shown);
        let ours_changed = changed(step.ours.as_deref(), &self.changes.ours.shown);
        Ok(by_content(step.candidate.theirs.state, step.candidate.ours.state, theirs_changed, ours_changed))
    }

    /// Whether nothing has to be brought from the bucket to know what both sides of a conflict began with.
    pub fn common_is_here(&self, step: &Step) -> bool {
        step.common.is_none_or(|(at, found)| found.place.is_none_or(|place| self.bases[at].side.is_here(place)))
    }

    /// What both sides of a conflict began with.
    pub fn common(&mut self, step: &Step) -> Result<Common<'a>> {
        let Some((at, found)) = step.common else { return Ok(Common::Unknown) };
        let base = &mut self.bases[at];
        let read = base.side.live(found);
        self.has_lost_base |= read.is_err();
        Ok(Common::Known { document: read?, shown: base.side.shown.clone(), is_newest: base.is_newest })
    }

    /// Whether a document that only theirs wrote has the content that it has here. What would have to be brought from the bucket
    /// is not compared.
    pub fn is_rewritten(&mut self, step: &Step) -> Result<bool> {
        let (theirs, ours) = (&mut self.changes.theirs, &mut self.changes.ours);
        let (Some(s), Some(t)) = (step.candidate.theirs.place, step.candidate.ours.place) else { return Ok(false) };
        if !theirs.is_here(s) || !ours.is_here(t) {
            return Ok(false);
        }
        let (new, old) = (theirs.document(s)?, ours.document(t)?);
        Ok(is_same((&new, &theirs.shown), (&old, &ours.shown)))
    }

    /// The document of a state that is taken as it is.
    pub fn theirs(&mut self, found: Found) -> Result<Option<Arc<Document>>> {
        self.changes.theirs.live(found)
    }
}

/// Whether a side has made something else of what both began with. A column that only one of the two states shows counts where
/// the side has a value in it: what it dropped it has not changed.
fn is_changed(side: Option<(&Document, &Shown)>, base: Option<(&Document, &Shown)>) -> bool {
    let (Some((side, shown)), Some((base, before))) = (side, base) else { return side.is_some() != base.is_some() };
    shown.uids().any(|uid| side.get(uid) != before.get(base, uid))
}
