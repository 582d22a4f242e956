//! The documents in which two moments may differ, in the order of their ids.
//!
//! Candidates come from sources that are each in the order of ids, and are merged by a heap, so memory is that of one id per
//! source, of row sets, and of the tails' and tombstones' ids:
//! - a segment on both sides: the rows that are live on exactly one of them;
//! - a segment on one side: its live rows, and its tombstones, that the other's vector does not cover;
//! - a tail: its rows and tombstones that the other's vector does not cover.
//!
//! What is covered is known on the other side, or what replaced it is, and that is then a candidate from there. The exception
//! is a deletion whose tombstone is gone: where the other side may have forgotten one, covered rows are looked up, too.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use roaring::RoaringBitmap;
use uuid::Uuid;

use super::side::{Found, Side};
use crate::engine::namespace::Moment;
use crate::engine::view::SegmentView;
use crate::error::Result;
use crate::model::ids::{DocId, Version};
use crate::segment::Segment;

/// A document that the two sides may have different states of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub id: DocId,
    pub theirs: Found,
    pub ours: Found,
}

/// Walks the documents in which two moments may differ.
pub struct Changes<'a> {
    pub theirs: Side<'a>,
    pub ours: Side<'a>,
    sources: Vec<Source<'a>>,
    /// The next id of each source that has one.
    next: BinaryHeap<Reverse<(DocId, usize)>>,
}

enum Source<'a> {
    Rows(&'a Segment, roaring::bitmap::IntoIter),
    Ids(std::vec::IntoIter<DocId>),
}

impl Source<'_> {
    fn next(&mut self) -> Result<Option<DocId>> {
        match self {
            Source::Rows(segment, rows) => rows.next().map(|row| segment.id_of(row)).transpose(),
            Source::Ids(ids) => Ok(ids.next()),
        }
    }
}

impl<'a> Changes<'a> {
    pub fn between(theirs: &'a Moment, ours: &'a Moment) -> Result<Self> {
        let (theirs, ours) = (Side::new(theirs), Side::new(ours));
        let mut sources = Vec::new();
        let other: BTreeMap<Uuid, &SegmentView> =
            ours.moment.view.segments.iter().map(|part| (part.segment.segment_id(), part)).collect();
        let mut shared = Vec::new();
        for part in &theirs.moment.view.segments {
            if let Some(same) = other.get(&part.segment.segment_id()) {
                shared.push(part.segment.segment_id());
                let rows = part.dead.as_ref() ^ same.dead.as_ref();
                if !rows.is_empty() {
                    sources.push(Source::Rows(&part.segment, rows.into_iter()));
                }
            }
        }
        gather(&theirs, &ours, &shared, &mut sources)?;
        gather(&ours, &theirs, &shared, &mut sources)?;
        let mut next = BinaryHeap::with_capacity(sources.len());
        for (at, source) in sources.iter_mut().enumerate() {
            next.extend(source.next()?.map(|id| Reverse((id, at))));
        }
        Ok(Changes { theirs, ours, sources, next })
    }

    /// The next candidate.
    pub fn next_candidate(&mut self) -> Result<Option<Candidate>> {
        let Some(Reverse((id, at))) = self.next.pop() else { return Ok(None) };
        self.advance(at)?;
        while let Some(Reverse((same, _))) = self.next.peek()
            && *same == id
            && let Some(Reverse((_, at))) = self.next.pop()
        {
            self.advance(at)?;
        }
        let (theirs, ours) = (self.theirs.find(&id)?, self.ours.find(&id)?);
        Ok(Some(Candidate { id, theirs, ours }))
    }

    fn advance(&mut self, at: usize) -> Result<()> {
        let id = self.sources[at].next()?;
        self.next.extend(id.map(|id| Reverse((id, at))));
        Ok(())
    }
}

/// The sources of one side: what it has and the other does not.
fn gather<'a>(side: &Side<'a>, other: &Side, shared: &[Uuid], sources: &mut Vec<Source<'a>>) -> Result<()> {
    let covered = |version: Version| other.moment.vector.covers(version);
    let forgot = other.may_have_forgotten(side);
    for (at, part) in side.moment.view.segments.iter().enumerate() {
        if shared.contains(&part.segment.segment_id()) {
            continue;
        }
        let mut rows = part.segment.rows_by_version(|version| !covered(version))?;
        rows -= part.dead.as_ref();
        if forgot {
            rows |= unknown(part, &rows, other)?;
        }
        if !rows.is_empty() {
            sources.push(Source::Rows(&part.segment, rows.into_iter()));
        }
        let news: Vec<DocId> = side
            .tombstones_of(at)?
            .iter()
            .filter(|tombstone| !covered(tombstone.version))
            .map(|tombstone| tombstone.id.clone())
            .collect();
        sources.push(Source::Ids(news.into_iter()));
    }
    let mut rows = Vec::new();
    for (id, place) in &side.tail {
        let is_new = side.moment.view.tail.at(*place).is_some_and(|row| !covered(row.document.version));
        if is_new || forgot && other.find(id)?.place.is_none() {
            rows.push((*id).clone());
        }
    }
    sources.push(Source::Ids(rows.into_iter()));
    let tombstones = side.moment.tombstones.iter().filter(|tombstone| !covered(tombstone.version));
    let news: Vec<DocId> = tombstones.map(|tombstone| tombstone.id.clone()).collect();
    sources.push(Source::Ids(news.into_iter()));
    Ok(())
}

/// The live rows of a segment beside `found` whose documents are not live on the other side.
fn unknown(part: &SegmentView, found: &RoaringBitmap, other: &Side) -> Result<RoaringBitmap> {
    let mut rows = RoaringBitmap::new();
    for row in part.live_rows() - found {
        if other.find(&part.segment.id_of(row)?)?.place.is_none() {
            rows.insert(row);
        }
    }
    Ok(rows)
}
