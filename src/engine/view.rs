//! One snapshot of a namespace: segments with their dead rows, and the tail of rows that are in no segment yet.
//!
//! A document is live in at most one place: a segment's row that is not dead, or a row of the tail. Who writes keeps that
//! true: before a row is pushed, the document's earlier row is removed from the tail or marked dead in its segment.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, OnceLock};

use roaring::RoaringBitmap;

use super::tail_terms::TailTerms;
use crate::error::Result;
use crate::model::document::Document;
use crate::model::ids::DocId;
use crate::model::memory::{ARC_BYTES, allocated};
use crate::model::query::Recall;
use crate::model::schema::{ColumnUid, Schema};
use crate::segment::text::terms::DocTerms;
use crate::segment::{MemoryLeft, Segment};

/// Rows of one chunk of the tail: what a write copies at most when a snapshot still holds the chunk.
const CHUNK_ROWS: usize = 256;

/// What a query sees. Cheap to clone; never changes.
#[derive(Clone)]
pub struct View {
    /// The namespace, for errors and explanations.
    pub name: String,
    pub schema: Arc<Schema>,
    pub segments: Vec<SegmentView>,
    pub tail: TailView,
    pub etag: String,
    /// What ANN is to find where a query does not say.
    pub recall: Recall,
}

/// A segment, and which of its rows later writes replaced or deleted.
#[derive(Clone)]
pub struct SegmentView {
    pub segment: Arc<Segment>,
    pub dead: Arc<RoaringBitmap>,
}

impl SegmentView {
    /// How many rows are live.
    pub fn live(&self) -> u64 {
        u64::from(self.segment.rows()).saturating_sub(self.dead.len())
    }

    /// The rows that are live.
    pub fn live_rows(&self) -> RoaringBitmap {
        let mut rows = RoaringBitmap::new();
        rows.insert_range(0..self.segment.rows());
        rows -= self.dead.as_ref();
        rows
    }

    /// The live row that has `id`.
    pub fn live_row_of(&self, id: &DocId) -> Result<Option<u32>> {
        Ok(self.segment.row_of(id)?.filter(|row| !self.dead.contains(*row)))
    }
}

/// A document that is in no segment yet, with its terms in each full-text column it has.
#[derive(Clone, Debug)]
pub struct TailRow {
    pub document: Arc<Document>,
    pub terms: Vec<(ColumnUid, DocTerms)>,
}

impl TailRow {
    /// The document's terms in a column.
    pub fn terms_of(&self, column: ColumnUid) -> Option<&DocTerms> {
        self.terms.iter().find(|(uid, _)| *uid == column).map(|(_, terms)| terms)
    }
}

impl View {
    /// The same, for one reading that holds in memory what of its segments has no room on the disk.
    pub fn past(&self) -> View {
        let left = MemoryLeft::default();
        let past = |SegmentView { segment, dead }: &SegmentView| {
            let segment = if segment.is_full() { segment.clone() } else { Arc::new(segment.past(&left)) };
            SegmentView { segment, dead: dead.clone() }
        };
        View { segments: self.segments.iter().map(past).collect(), ..self.clone() }
    }

    /// The same, for who writes down what it reads: nothing counts as checked.
    pub fn unchecked(&self) -> View {
        let unchecked = |SegmentView { segment, dead }: &SegmentView| SegmentView {
            segment: Arc::new(segment.unchecked()),
            dead: dead.clone(),
        };
        View { segments: self.segments.iter().map(unchecked).collect(), ..self.clone() }
    }

    /// What came of reading the view, unless a part of a segment could not be read: what was read of that is zeros. For whoever gives
    /// an answer, or writes down what it read.
    pub fn believed<T>(&self, read: Result<T>) -> Result<T> {
        self.segments.iter().try_for_each(|segment| segment.segment.believed(Ok(())))?;
        read
    }

    /// How many documents there are.
    pub fn documents(&self) -> u64 {
        self.segments.iter().map(SegmentView::live).sum::<u64>() + self.tail.len()
    }

    pub fn has_documents(&self) -> bool {
        !self.tail.is_empty() || self.segments.iter().any(|segment| segment.live() > 0)
    }

    /// The whole document that has `id`.
    pub fn document(&self, id: &DocId) -> Result<Option<Arc<Document>>> {
        if let Some(row) = self.tail.find(id) {
            return Ok(Some(row.document.clone()));
        }
        for segment in &self.segments {
            if let Some(row) = segment.live_row_of(id)? {
                return segment.segment.document(row, None).map(|document| Some(Arc::new(document)));
            }
        }
        Ok(None)
    }
}

/// The rows that are in no segment yet, as their one writer has them. Slots count up and are never used again.
#[derive(Default)]
pub struct Tail {
    view: TailView,
}

impl Tail {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a row and gives its slot. The document's earlier row, if any, must have been removed.
    pub fn push(&mut self, row: Arc<TailRow>) -> u64 {
        let view = &mut self.view;
        if view.chunks.last().is_none_or(|chunk| chunk.rows.len() == CHUNK_ROWS) {
            view.chunks.push(Arc::new(Chunk::default()));
        }
        let at = view.chunks.len() - 1;
        let chunk = Arc::make_mut(&mut view.chunks[at]);
        chunk.hashes.push(hash(&row.document.id));
        chunk.rows.push(Some(row));
        chunk.live += 1;
        view.live += 1;
        view.first_slot + (at * CHUNK_ROWS + chunk.rows.len() - 1) as u64
    }

    /// Removes the row in a slot, and gives it back.
    pub fn remove(&mut self, slot: u64) -> Option<Arc<TailRow>> {
        let view = &mut self.view;
        let (at, place) = view.place(slot)?;
        view.chunks.get(at)?.rows.get(place)?.as_ref()?;
        let chunk = Arc::make_mut(&mut view.chunks[at]);
        let row = chunk.rows[place].take();
        chunk.live -= 1;
        view.live -= 1;
        if chunk.live == 0 {
            self.release();
        }
        row
    }

    /// Removes a document's row, and gives it back.
    pub fn remove_id(&mut self, id: &DocId) -> Option<Arc<TailRow>> {
        let slot = self.view.slot_of(id)?;
        self.remove(slot)
    }

    /// The slot of a document's row.
    pub fn slot_of(&self, id: &DocId) -> Option<u64> {
        self.view.slot_of(id)
    }

    pub fn get(&self, slot: u64) -> Option<&Arc<TailRow>> {
        self.view.get(slot)
    }

    pub fn len(&self) -> u64 {
        self.view.len()
    }

    pub fn is_empty(&self) -> bool {
        self.view.is_empty()
    }

    /// How many places there are, those of rows that went included.
    pub fn places(&self) -> u64 {
        u64::from(self.view.places())
    }

    /// What the places take, without their rows.
    pub fn memory_bytes(&self) -> u64 {
        let place = size_of::<Option<Arc<TailRow>>>() + size_of::<u32>();
        self.view.chunks.len() as u64 * allocated(ARC_BYTES + size_of::<Chunk>() + CHUNK_ROWS * place)
    }

    /// The rows as they are now. Costs one reference per chunk.
    pub fn snapshot(&self) -> TailView {
        self.view.clone()
    }

    /// Forgets full chunks at the front that have no rows left, so that a tail that is flushed again and again stays as
    /// small as what it holds.
    fn release(&mut self) {
        let view = &mut self.view;
        let empty = view.chunks.iter().take_while(|chunk| chunk.live == 0 && chunk.rows.len() == CHUNK_ROWS).count();
        view.chunks.drain(..empty);
        view.first_slot += (empty * CHUNK_ROWS) as u64;
    }
}

/// The tail as it was at one moment. Within a view, rows are counted from 0 by `at`; some places are empty.
#[derive(Clone, Default)]
pub struct TailView {
    chunks: Vec<Arc<Chunk>>,
    /// The slot of the first chunk's first row.
    first_slot: u64,
    live: u64,
}

#[derive(Clone, Default)]
struct Chunk {
    rows: Vec<Option<Arc<TailRow>>>,
    /// Of each row's id, so that a look-up compares few ids.
    hashes: Vec<u32>,
    live: usize,
    /// Of the rows that it had when the first search asked, once it was full. Some may be gone since.
    terms: OnceLock<Arc<TailTerms>>,
}

/// Some of a tail's rows.
pub struct TailPart<'a> {
    /// The place of the first.
    pub first: u32,
    chunk: &'a Chunk,
}

impl<'a> TailPart<'a> {
    /// Every row with its place, in the order they were written.
    pub fn rows(&self) -> impl Iterator<Item = (u32, &'a Arc<TailRow>)> + use<'a> {
        (self.first..).zip(&self.chunk.rows).filter_map(|(place, row)| Some((place, row.as_ref()?)))
    }

    /// Whether a row is there, by its place from the first on.
    pub fn has(&self, place: u8) -> bool {
        self.chunk.rows.get(usize::from(place)).is_some_and(Option::is_some)
    }

    /// The terms of all rows with the rows that have them, some of which may be gone; `None` while rows are added.
    pub fn terms(&self) -> Option<&'a TailTerms> {
        let chunk = self.chunk;
        let is_full = chunk.rows.len() == CHUNK_ROWS;
        is_full.then(|| &**chunk.terms.get_or_init(|| Arc::new(TailTerms::new(&chunk.rows))))
    }
}

impl TailView {
    /// The rows of both, `newer` behind. Places count on from one to the other; slots of `newer` mean nothing in the result.
    pub fn with(mut self, newer: TailView) -> TailView {
        self.live += newer.live;
        self.chunks.extend(newer.chunks);
        self
    }

    /// How many rows there are.
    pub fn len(&self) -> u64 {
        self.live
    }

    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// Every row with its place, in the order they were written.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &Arc<TailRow>)> {
        self.parts().flat_map(|part| part.rows())
    }

    /// The same rows in parts.
    pub fn parts(&self) -> impl Iterator<Item = TailPart<'_>> {
        let part = |(at, chunk)| TailPart { first: (at * CHUNK_ROWS) as u32, chunk };
        self.chunks.iter().map(Arc::as_ref).enumerate().map(part)
    }

    /// The places of all rows.
    pub fn all(&self) -> RoaringBitmap {
        let mut all = RoaringBitmap::new();
        for part in self.parts() {
            if part.chunk.live == part.chunk.rows.len() {
                all.insert_range(part.first..part.first + part.chunk.rows.len() as u32);
            } else {
                all.extend(part.rows().map(|(place, _)| place));
            }
        }
        all
    }

    /// Every place is below this.
    pub fn places(&self) -> u32 {
        (self.chunks.len() * CHUNK_ROWS) as u32
    }

    /// The row at a place that [`iter`](Self::iter) named.
    pub fn at(&self, place: u32) -> Option<&Arc<TailRow>> {
        let place = place as usize;
        self.chunks.get(place / CHUNK_ROWS)?.rows.get(place % CHUNK_ROWS)?.as_ref()
    }

    /// The slot that [`Tail::push`] gave for the row at a place.
    pub fn slot_at(&self, place: u32) -> u64 {
        self.first_slot + u64::from(place)
    }

    pub fn get(&self, slot: u64) -> Option<&Arc<TailRow>> {
        let (at, place) = self.place(slot)?;
        self.chunks.get(at)?.rows.get(place)?.as_ref()
    }

    /// A document's row.
    pub fn find(&self, id: &DocId) -> Option<&Arc<TailRow>> {
        self.get(self.slot_of(id)?)
    }

    /// The slot of a document's row.
    pub fn slot_of(&self, id: &DocId) -> Option<u64> {
        let wanted = hash(id);
        // Newest first: a document that is written often is near the end.
        for (at, chunk) in self.chunks.iter().enumerate().rev().filter(|(_, chunk)| chunk.live > 0) {
            for (place, _) in chunk.hashes.iter().enumerate().filter(|(_, hash)| **hash == wanted) {
                if chunk.rows[place].as_ref().is_some_and(|row| row.document.id == *id) {
                    return Some(self.first_slot + (at * CHUNK_ROWS + place) as u64);
                }
            }
        }
        None
    }

    /// The chunk and the place in it of a slot.
    fn place(&self, slot: u64) -> Option<(usize, usize)> {
        let from_first = usize::try_from(slot.checked_sub(self.first_slot)?).ok()?;
        Some((from_first / CHUNK_ROWS, from_first % CHUNK_ROWS))
    }
}

fn hash(id: &DocId) -> u32 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    hasher.finish() as u32
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{Tail, TailRow};
    use crate::model::document::Document;
    use crate::model::ids::{DocId, Version};

    fn row(id: u64) -> Arc<TailRow> {
        let document = Document { id: DocId::Uint(id), version: Version::default(), fields: Vec::new(), patch: None };
        Arc::new(TailRow { document: Arc::new(document), terms: Vec::new() })
    }

    fn ids(tail: &super::TailView) -> Vec<DocId> {
        tail.iter().map(|(_, row)| row.document.id.clone()).collect()
    }

    #[test]
    fn a_snapshot_keeps_what_it_saw() {
        let mut tail = Tail::new();
        let slots: Vec<u64> = (0..1_000).map(|id| tail.push(row(id))).collect();
        let before = tail.snapshot();
        for slot in &slots[..700] {
            assert!(tail.remove(*slot).is_some());
            assert!(tail.remove(*slot).is_none());
        }
        tail.push(row(5));
        assert_eq!((before.len(), tail.len()), (1_000, 301));
        assert_eq!(ids(&before), (0..1_000).map(DocId::Uint).collect::<Vec<_>>());
        assert_eq!(ids(&tail.snapshot()), (700..1_000).chain([5]).map(DocId::Uint).collect::<Vec<_>>());
        assert_eq!(tail.slot_of(&DocId::Uint(5)), Some(1_000));
        assert_eq!(tail.slot_of(&DocId::Uint(6)), None);
        assert_eq!(before.slot_of(&DocId::Uint(6)), Some(6));
    }

    #[test]
    fn slots_stay_valid_when_the_front_is_flushed_away() {
        let mut tail = Tail::new();
        for id in 0..10_000 {
            tail.push(row(id));
            if id >= 300 {
                let oldest = tail.slot_of(&DocId::Uint(id - 300)).unwrap();
                assert_eq!(oldest, id - 300);
                assert_eq!(tail.remove(oldest).unwrap().document.id, DocId::Uint(id - 300));
            }
        }
        assert_eq!(tail.len(), 300);
        let view = tail.snapshot();
        assert!(view.chunks.len() <= 3, "{} chunks", view.chunks.len());
        let (place, found) = view.iter().next().unwrap();
        assert_eq!(view.get(view.slot_at(place)).unwrap().document.id, found.document.id);
        assert_eq!(view.at(place).unwrap().document.id, DocId::Uint(9_700));
    }
}
