//! The look before a merge: what will become of every document that differs, counted and partly listed.

use std::sync::Arc;

use super::decide::{Policy, Resolution, Verdict, resolve};
use super::fields::{Ground, Joined, Seen, join};
use super::report::{Conflict, LISTED_BYTES_MAX, LISTED_MAX, MergeReport, TooLarge, word};
use super::side::Place;
use super::walk::{Common, Step, Walk};
use super::work::Work;
use crate::engine::namespace::Moment;
use crate::engine::write::DOCUMENT_BYTES_MAX;
use crate::error::Result;
use crate::format::record::encoded_bytes;
use crate::model::document::Document;
use crate::model::schema::{ColumnUid, Schema};
use crate::model::value_render::document_json;
use crate::platform::allowance::DOCUMENTS_PER_CHECK;

/// How a conflict ends under the policy that was asked for.
pub(super) struct End {
    /// Both states, attribute by attribute; `None` where one side has no document.
    pub joined: Option<Joined>,
    /// Both changed one attribute, or one deleted what the other changed, or no document could be what both are together.
    is_clash: bool,
    /// What the joined document would take, in bytes, where no document may take so much.
    too_large: Option<u64>,
    /// `None`: the policy refuses to end it.
    pub resolution: Option<Resolution>,
}

impl Work<'_> {
    /// Goes over everything that differs, and counts what becomes of it.
    pub(super) fn look(&mut self, walk: &mut Walk, schema: &Schema) -> Result<()> {
        self.fresh = 0;
        self.taken = vec![0; self.theirs.view.segments.len()];
        self.report = self.empty_report();
        self.listed_bytes = 0;
        let mut looked_at = 0_u32;
        while let Some(step) = walk.next_step()? {
            self.allowance.check_at(looked_at, DOCUMENTS_PER_CHECK)?;
            looked_at = looked_at.wrapping_add(1);
            let is_same =
                step.is_same || self.compares && step.verdict == Verdict::Take && walk.is_rewritten(&step)?;
            match step.verdict {
                _ if is_same => self.report.skipped += 1,
                Verdict::Conflict => self.note(&step, walk, schema)?,
                _ => self.count(&step),
            }
            if matches!(step.verdict, Verdict::Take | Verdict::ByContent(Resolution::TakeTheirs))
                && let Some(Place::Segment(at, _)) = step.candidate.theirs.place
            {
                self.taken[at] += 1;
            }
        }
        self.report.refused = self.report.resolutions.contains_key(word(None));
        Ok(())
    }

    fn empty_report(&self) -> MergeReport {
        MergeReport { policy: self.request.policy, dry_run: self.request.dry_run, ..MergeReport::default() }
    }

    /// Counts what needs nobody to decide.
    fn count(&mut self, step: &Step) {
        let was_live = step.candidate.ours.state.is_live();
        let is_live = step.candidate.theirs.state.is_live();
        let report = &mut self.report;
        match step.verdict {
            Verdict::Take if was_live => report.updated += 1,
            Verdict::Take => report.inserted += 1,
            Verdict::Delete(_) => report.deleted += 1,
            Verdict::Remember(_) | Verdict::Vanished => {}
            Verdict::ByContent(Resolution::TakeTheirs | Resolution::RenewTheirs) => match (was_live, is_live) {
                (true, true) => report.updated += 1,
                (true, false) => report.deleted += 1,
                (false, true) => report.inserted += 1,
                (false, false) => {}
            },
            Verdict::Nothing | Verdict::ByContent(_) | Verdict::Conflict => report.skipped += 1,
        }
    }

    /// Counts a conflict, and lists it while there is room.
    fn note(&mut self, step: &Step, walk: &mut Walk, schema: &Schema) -> Result<()> {
        let (theirs_state, ours_state) = (step.candidate.theirs.state, step.candidate.ours.state);
        let End { joined, is_clash, too_large, resolution } = self.end(step, walk, schema)?;
        let clashes: Vec<String> = joined.map(|joined| names(&joined.clashes, schema)).unwrap_or_default();
        let report = &mut self.report;
        if let Some(bytes) = too_large {
            let first = || TooLarge { id: step.candidate.id.clone(), bytes, count: 0 };
            report.too_large.get_or_insert_with(first).count += 1;
        }
        report.conflicts += 1;
        *(if is_clash { &mut report.clashing } else { &mut report.disjoint }) += 1;
        for name in &clashes {
            *report.clashes.entry(name.clone()).or_default() += 1;
        }
        *report.resolutions.entry(word(resolution)).or_default() += 1;
        match resolution {
            None | Some(Resolution::KeepOurs | Resolution::RenewOurs) => {}
            Some(Resolution::TakeTheirs | Resolution::RenewTheirs) => {
                match (ours_state.is_live(), theirs_state.is_live()) {
                    (true, true) => report.updated += 1,
                    (true, false) => report.deleted += 1,
                    (false, true) => report.inserted += 1,
                    (false, false) => {}
                }
            }
            Some(Resolution::Join) => report.updated += 1,
            Some(Resolution::OursAndTheirs) => report.inserted += 1,
            Some(Resolution::TheirsAndOurs) => {
                report.updated += 1;
                report.inserted += 1;
            }
        }
        let is_kept = matches!(resolution, Some(Resolution::OursAndTheirs | Resolution::TheirsAndOurs));
        self.fresh += u64::from(is_kept);
        if self.report.listed.len() >= LISTED_MAX || self.listed_bytes > LISTED_BYTES_MAX {
            return Ok(());
        }
        let (base, shown) = match walk.common(step)? {
            Common::Known { document: Some(document), shown, .. } => (Some(document), Some(shown)),
            Common::Known { document: None, .. } | Common::Unknown => (None, None),
        };
        let rows = [&base, &step.ours, &step.theirs];
        self.listed_bytes += rows.into_iter().flatten().map(|document| document.logical_bytes()).sum::<u64>();
        if self.listed_bytes > LISTED_BYTES_MAX {
            return Ok(());
        }
        let base = base.zip(shown).map(|(document, shown)| document_json(&document, shown.schema));
        let row = |document: &Option<Arc<Document>>, schema: &Schema| {
            document.as_ref().map(|document| document_json(document, schema))
        };
        self.report.listed.push(Conflict {
            id: step.candidate.id.clone(),
            base,
            ours: row(&step.ours, &walk.changes.ours.moment.view.schema),
            theirs: row(&step.theirs, &walk.changes.theirs.moment.view.schema),
            clashes,
            resolution: word(resolution),
            kept_as: None,
            token: None,
        });
        Ok(())
    }

    /// How a conflict ends. Two states that would be too large together are not joined: each is whole, and the newer one stays.
    pub(super) fn end(&self, step: &Step, walk: &mut Walk, schema: &Schema) -> Result<End> {
        let policy = self.request.policy;
        let joined = self.joined(step, walk, schema)?;
        let bytes = |joined: &Joined| joined.fields.iter().map(|(_, value)| encoded_bytes(value) as u64).sum::<u64>();
        // No merge may make a document that a write could not have made: no block of a segment would hold it.
        let too_large = match policy {
            Policy::Fields | Policy::FieldsOrFail => joined.as_ref().map(bytes).filter(|n| *n > DOCUMENT_BYTES_MAX),
            _ => None,
        };
        let is_clash = too_large.is_some() || joined.as_ref().is_none_or(|joined| !joined.clashes.is_empty());
        let (theirs, ours) = (step.candidate.theirs.state, step.candidate.ours.state);
        let by = match policy {
            Policy::Fields if too_large.is_some() => Policy::Lww,
            // Whoever chose a side did not choose that the rows go which only the other one ever had.
            Policy::Ours | Policy::Theirs if step.is_doubted => Policy::KeepBoth,
            policy => policy,
        };
        Ok(End { joined, is_clash, too_large, resolution: resolve(by, theirs, ours, is_clash) })
    }

    /// Both states of a conflict joined attribute by attribute, as far as it is known what both began with; `None` where one side
    /// has no document.
    fn joined(&self, step: &Step, walk: &mut Walk, schema: &Schema) -> Result<Option<Joined>> {
        let (Some(theirs), Some(ours)) = (&step.theirs, &step.ours) else { return Ok(None) };
        let is_union = self.request.policy == Policy::Fields;
        let joins = matches!(self.request.policy, Policy::Fields | Policy::FieldsOrFail);
        // What is only counted is not brought from the bucket.
        let common = if joins || walk.common_is_here(step) { walk.common(step)? } else { Common::Unknown };
        let (their_moment, our_moment) = (walk.changes.theirs.moment, walk.changes.ours.moment);
        let ground = match &common {
            // An older state that both had shows who changed what, too, unless something was changed back.
            Common::Known { document, is_newest, .. } if *is_newest || is_union => Ground::Base(document.as_deref()),
            _ => Ground::Changes { theirs: intent(theirs, our_moment), ours: intent(ours, their_moment), is_union },
        };
        let theirs_is_newer = step.candidate.theirs.state.version() > step.candidate.ours.state.version();
        let (their_shown, our_shown) = (walk.changes.theirs.shown.clone(), walk.changes.ours.shown.clone());
        let theirs = Seen { document: theirs, shown: &their_shown };
        let ours = Seen { document: ours, shown: &our_shown };
        Ok(Some(join(schema, ground, theirs, ours, theirs_is_newer)))
    }
}

/// The names of columns.
pub(super) fn names(columns: &[ColumnUid], schema: &Schema) -> Vec<String> {
    columns.iter().filter_map(|uid| schema.column_by_uid(*uid).map(|column| column.name.clone())).collect()
}

/// What a state says it changed, when the other side has what it was patched on.
fn intent<'a>(document: &'a Document, other: &Moment) -> Option<&'a [ColumnUid]> {
    document.patch.as_ref().filter(|patch| other.vector.covers(patch.base)).map(|patch| patch.changed.as_slice())
}
