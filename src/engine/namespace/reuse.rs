//! Segments that a rebase names again as they are, rather than to write their rows anew.
//!
//! What was written here lies in segments that branches name, too. Named again, with their other rows dead, they are sent once for
//! all of these, even where no row is live any more: a branch can hold what its parent names, and sends the rest as its own.
//!
//! A segment's tombstones come with it: they are of this namespace, so none of them is newer than a live row of its document.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::Namespace;
use super::rebase::Facts;
use super::standing::Standing;
use super::state::Part;
use crate::engine::remote::{keys_of, owner_of};
use crate::error::{Error, Result};
use crate::format::manifest::SegmentRef;
use crate::model::schema::Schema;
use crate::segment::Segment;

/// A segment that nobody else needs is named again when at least one in so many of its rows is live.
const LIVE_SHARE: u64 = 2;

/// What may be named again, and where it stands.
#[derive(Default)]
pub(super) struct Reusable(BTreeMap<Uuid, (Part, Standing)>);

impl Reusable {
    /// Whether naming a segment again for `rows` of its rows costs less than writing these. `schema` has the columns that they
    /// may show.
    pub(super) fn is_worth_it(&self, segment: &Segment, rows: u64, schema: &Schema) -> bool {
        let shows = |column: &crate::segment::SegmentColumn| schema.column_by_uid(column.uid).is_some();
        match self.0.get(&segment.segment_id()) {
            None => false,
            Some(_) if !segment.columns().iter().all(shows) => false,
            Some((_, Standing::Shared)) => true,
            Some(_) => rows > 0 && rows * LIVE_SHARE >= u64::from(segment.rows()),
        }
    }

    pub(super) fn take(&mut self, segment: &Segment) -> Result<Part> {
        let found = self.0.remove(&segment.segment_id()).map(|(part, _)| part);
        found.ok_or_else(|| Error::internal(format!("{} is not there to be named again", segment.name())))
    }
}

impl Namespace {
    /// The namespace's own segments that the bucket does not have. Fences were heeded before: none of them is condemned. Blocking.
    pub(super) fn reusable(&self, facts: &Facts<'_>) -> Result<Reusable> {
        let (theirs, common) = (keys_of(facts.theirs), facts.common.map(keys_of).unwrap_or_default());
        let is_own = |reference: &SegmentRef| {
            let key = &reference.key;
            owner_of(key) == Some(self.nsid) && !theirs.contains(key) && !common.contains(key)
        };
        let parts: Vec<Part> =
            self.shared().state.parts.iter().filter(|part| is_own(&part.reference)).cloned().collect();
        let standings = self.standings(parts.iter().map(|part| &part.reference))?;
        let by_id = |(part, standing): (Part, Standing)| (part.reference.segment_id, (part, standing));
        Ok(Reusable(parts.into_iter().zip(standings).map(by_id).collect()))
    }
}
