//! What a namespace holds in memory: the tail, the tail on its way into a segment, the segments and their dead rows.
//!
//! Invariants:
//! - Only durable commits are here, in the order of the log.
//! - A document is live in at most one place; whoever puts a newer state of it anywhere removes the older one.
//! - A row that died by a record which is still to be replayed after a crash is dead here, and not settled: manifests and
//!   merges keep it, because that record may be a patch of it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use roaring::RoaringBitmap;
use uuid::Uuid;

use super::answers::ANSWER_BYTES;
use super::places::Place;
use super::tombstones::Tombstones;
use crate::engine::view::{SegmentView, Tail, TailRow, View};
use crate::engine::write::{Change, of_terms};
use crate::error::Result;
use crate::format::manifest::SegmentRef;
use crate::model::document::{Document, Tombstone};
use crate::model::ids::{DocId, Hlc, Origin, Version};
use crate::model::memory::{ARC_BYTES, allocated};
use crate::model::query::Recall;
use crate::model::schema::{ColumnUid, Schema};
use crate::model::version_vector::VersionVector;
use crate::segment::Segment;
use crate::segment::builder::Entry;

/// Tails of so few places are not made smaller.
const SPARSE_PLACES_MIN: u64 = 1_024;

/// A segment that the namespace consists of.
#[derive(Clone)]
pub struct Part {
    pub reference: SegmentRef,
    pub segment: Arc<Segment>,
    /// Rows that answers leave out.
    pub dead: Arc<RoaringBitmap>,
    /// Those of them that the manifest calls dead: they died by records before its `replay_from`.
    pub settled: Arc<RoaringBitmap>,
}

/// Documents that were looked up; to read those that are in segments may take a while, and needs no state.
pub struct LookedUp {
    found: Vec<Option<Arc<Document>>>,
    in_segments: Vec<(Arc<Segment>, Places)>,
}

/// Rows of a segment, ascending, and which of the documents that were looked up each is.
type Places = Vec<(u32, usize)>;

impl LookedUp {
    pub fn read(self) -> Result<Vec<Option<Arc<Document>>>> {
        let mut found = self.found;
        for (segment, places) in &self.in_segments {
            let rows = places.iter().map(|(row, _)| *row).collect();
            let mut scan = segment.scan_of(&rows, None)?;
            for (row, at) in places {
                found[*at] = Some(Arc::new(scan.document(*row, None)?));
            }
        }
        Ok(found)
    }
}

/// Documents and tombstones that are not in a segment yet, and how many answers are in no file yet.
#[derive(Default)]
pub struct MemTable {
    rows: Tail,
    slots: HashMap<DocId, u64>,
    tombstones: Tombstones,
    /// Columns that rows may have terms of.
    analysed: HashSet<ColumnUid>,
    /// Of rows.
    bytes: u64,
    /// Commits whose answers are in no file yet.
    pub answers: u64,
}

impl MemTable {
    fn put(&mut self, row: TailRow) {
        self.tombstones.remove(&row.document.id);
        self.bytes += bytes_of(&row);
        self.analysed.extend(row.terms.iter().map(|(uid, _)| *uid));
        let id = row.document.id.clone();
        let slot = self.rows.push(Arc::new(row));
        self.slots.insert(id, slot);
    }

    /// Takes a document's row out.
    fn take(&mut self, id: &DocId) -> Option<Arc<TailRow>> {
        let slot = self.slots.remove(id)?;
        let row = self.rows.get(slot).cloned();
        if let Some(row) = &row {
            self.bytes = self.bytes.saturating_sub(bytes_of(row));
        }
        self.rows.remove(slot);
        self.close_gaps();
        row
    }

    /// Puts the rows close together where most places are empty, so that a few old rows do not make every search walk over the
    /// places of all that came after them. Costs a constant for every row that went since the last time. Snapshots keep theirs.
    fn close_gaps(&mut self) {
        let places = self.rows.places();
        if places < SPARSE_PLACES_MIN || self.rows.len() * 4 > places {
            return;
        }
        let sparse = std::mem::take(&mut self.rows);
        for (_, row) in sparse.snapshot().iter() {
            let slot = self.rows.push(row.clone());
            if let Some(known) = self.slots.get_mut(&row.document.id) {
                *known = slot;
            }
        }
    }

    fn forget_terms(&mut self, columns: &[ColumnUid]) {
        if columns.iter().filter(|uid| self.analysed.remove(uid)).count() == 0 {
            return;
        }
        for slot in self.slots.values_mut() {
            let Some(row) = self.rows.get(*slot) else { continue };
            if !row.terms.iter().any(|(uid, _)| columns.contains(uid)) {
                continue;
            }
            let terms = row.terms.iter().filter(|(uid, _)| !columns.contains(uid)).cloned().collect();
            let fresh = TailRow { document: row.document.clone(), terms };
            self.bytes = self.bytes.saturating_sub(bytes_of(row)) + bytes_of(&fresh);
            self.rows.remove(*slot);
            *slot = self.rows.push(Arc::new(fresh));
        }
    }

    fn get(&self, id: &DocId) -> Option<&Arc<TailRow>> {
        self.slots.get(id).and_then(|slot| self.rows.get(*slot))
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.tombstones.is_empty() && self.answers == 0
    }

    /// Rows and tombstones.
    pub fn len(&self) -> usize {
        self.slots.len() + self.tombstones.len()
    }

    /// Memory in bytes, about.
    pub fn bytes(&self) -> u64 {
        self.bytes
            + self.rows.memory_bytes()
            + of_map(&self.slots)
            + self.tombstones.bytes()
            + self.answers * ANSWER_BYTES
    }

    /// Everything, and the `superseded`, in the order of ids, for a segment.
    fn entries(&self, superseded: &HashMap<DocId, Arc<TailRow>>) -> Vec<Entry> {
        let mut entries: Vec<Entry> = Vec::with_capacity(self.len() + superseded.len());
        let live = self.slots.values().filter_map(|slot| self.rows.get(*slot));
        for row in live.chain(superseded.values()) {
            entries.push(Entry::Row { document: row.document.clone(), terms: row.terms.clone() });
        }
        entries.extend(self.tombstones.iter().map(Entry::Tombstone));
        entries.sort_unstable_by(|one, other| one.id().cmp(other.id()));
        entries
    }
}

fn bytes_of(row: &TailRow) -> u64 {
    // The id is a key, too.
    let shared = allocated(ARC_BYTES + size_of::<TailRow>()) + row.document.id.heap_bytes();
    shared + row.document.memory_bytes() + of_terms(&row.terms)
}

/// What a hash map's table takes: a power of two of places, an eighth of them empty, with a byte for each.
pub(super) fn of_map<K, V>(map: &HashMap<K, V>) -> u64 {
    match map.capacity() {
        0 => 0,
        capacity => allocated((capacity * 8 / 7).next_power_of_two() * (size_of::<(K, V)>() + 1)),
    }
}

/// A tail on its way into a segment, and what the namespace was when it stopped growing.
pub struct Frozen {
    pub table: MemTable,
    /// Documents that were replaced or deleted since; dead rows of the segment that comes of this. They go into it all the
    /// same: after a crash the records that did it are replayed on top of them.
    pub superseded: HashMap<DocId, Arc<TailRow>>,
    /// What those take.
    superseded_bytes: u64,
    /// The dead rows of each segment when the tail stopped growing.
    pub dead: BTreeMap<Uuid, Arc<RoaringBitmap>>,
    pub replay_from: u64,
    pub data_seq: u64,
    pub hlc: Hlc,
    pub own: Hlc,
    pub schema: Arc<Schema>,
    pub ids_reserved: u64,
}

impl Frozen {
    fn bytes(&self) -> u64 {
        self.table.bytes() + self.superseded_bytes + of_map(&self.superseded)
    }

    /// Everything in the order of ids, for a segment; the same whenever it is asked for.
    pub fn entries(&self) -> Vec<Entry> {
        self.table.entries(&self.superseded)
    }
}

/// The durable state of a namespace.
pub struct State {
    pub origin: Origin,
    pub schema: Arc<Schema>,
    pub tail: MemTable,
    pub frozen: Option<Frozen>,
    pub parts: Vec<Part>,
    /// Counts commits.
    pub data_seq: u64,
    /// Not below that of anything that is here, whoever wrote it.
    pub hlc: Hlc,
    /// The clock of this writer's newest commit that changed something; 0 before its first.
    pub own: Hlc,
    pub ids_reserved: u64,
    /// What the newest manifest has seen. The writer's own newest commit is at `own`.
    pub vector: VersionVector,
}

impl State {
    /// Follows a durable commit in all but its documents. `counts`: it changed documents or schema.
    pub fn follow_commit(
        &mut self,
        version: Version,
        schema: Option<Arc<Schema>>,
        ids_reserved: Option<u64>,
        counts: bool,
    ) {
        if let Some(schema) = schema {
            self.change_schema(schema);
        }
        if let Some(reserved) = ids_reserved {
            // A later block may be below the one before.
            self.ids_reserved = reserved;
        }
        self.hlc = self.hlc.max(version.hlc);
        // Of answers and of ids that were given out nobody else has to know.
        if counts && version.origin == self.origin {
            self.own = self.own.max(version.hlc);
        }
        self.data_seq += u64::from(counts);
    }

    /// Puts a change in the place of the document's live state; `place` is where a segment has that. What was deleted is named in
    /// `deleted`, for [`State::deleted`] to take in when all of the commit is put.
    pub(super) fn put(&mut self, change: Change, place: Option<Place>, deleted: &mut Vec<DocId>) {
        self.bury(change.id(), place);
        match change {
            Change::Put { document, terms, .. } => self.tail.put(TailRow { document, terms }),
            Change::Delete { id } => deleted.push(id),
        }
    }

    /// Remembers what a commit deleted.
    pub(super) fn deleted(&mut self, ids: Vec<DocId>, version: Version) {
        self.tail.tombstones.insert_all(ids, version);
    }

    /// Takes a new schema. Terms that were analysed under other options of their column go: who needs them analyses anew.
    pub fn change_schema(&mut self, schema: Arc<Schema>) {
        let changed = self.schema.analysed_otherwise(&schema);
        if !changed.is_empty() {
            self.tail.forget_terms(&changed);
            if let Some(frozen) = &mut self.frozen {
                frozen.table.forget_terms(&changed);
            }
        }
        self.schema = schema;
    }

    /// Removes the live state of a document, wherever it is.
    fn bury(&mut self, id: &DocId, place: Option<Place>) {
        if self.tail.take(id).is_some() {
            return;
        }
        if let Some(frozen) = &mut self.frozen
            && let Some(row) = frozen.table.take(id)
        {
            frozen.superseded_bytes += bytes_of(&row);
            frozen.superseded.insert(id.clone(), row);
            return;
        }
        if let Some((part, row)) = place
            && let Some(part) = self.parts.get_mut(part as usize).filter(|part| !part.dead.contains(row))
        {
            Arc::make_mut(&mut part.dead).insert(row);
        }
    }

    /// The live state of a document.
    pub fn document(&self, id: &DocId) -> Result<Option<Arc<Document>>> {
        if let Some(document) = self.unflushed(id) {
            return Ok(Some(document));
        }
        let Some((part, row)) = self.place_of(id)? else { return Ok(None) };
        self.parts[part as usize].segment.document(row, None).map(|document| Some(Arc::new(document)))
    }

    /// Where the live states of several documents are, in the order of `ids`.
    pub fn look_up(&self, ids: &[&DocId]) -> Result<LookedUp> {
        let found: Vec<Option<Arc<Document>>> = ids.iter().map(|id| self.unflushed(id)).collect();
        let mut places = Vec::new();
        for (at, id) in ids.iter().enumerate().filter(|(at, _)| found[*at].is_none()) {
            places.extend(self.place_of(id)?.map(|(part, row)| (part, row, at)));
        }
        places.sort_unstable();
        let in_segments = places.chunk_by(|a, b| a.0 == b.0).map(|of_part| {
            let rows = of_part.iter().map(|(_, row, at)| (*row, *at)).collect();
            (self.parts[of_part[0].0 as usize].segment.clone(), rows)
        });
        Ok(LookedUp { in_segments: in_segments.collect(), found })
    }

    /// A document's state, if it is in no segment yet.
    fn unflushed(&self, id: &DocId) -> Option<Arc<Document>> {
        self.unflushed_row(id).map(|row| row.document.clone())
    }

    fn unflushed_row(&self, id: &DocId) -> Option<&Arc<TailRow>> {
        self.tail.get(id).or_else(|| self.frozen.as_ref().and_then(|f| f.table.get(id)))
    }

    pub(super) fn is_unflushed(&self, id: &DocId) -> bool {
        self.unflushed_row(id).is_some()
    }

    /// The part that has a document live, and its row there.
    pub(super) fn place_of(&self, id: &DocId) -> Result<Option<Place>> {
        for (at, part) in self.parts.iter().enumerate().rev() {
            if let Some(row) = part.segment.row_of(id)?.filter(|row| !part.dead.contains(*row)) {
                return Ok(Some((at as u32, row)));
            }
        }
        Ok(None)
    }

    pub fn has_documents(&self) -> bool {
        !self.tail.slots.is_empty()
            || self.frozen.as_ref().is_some_and(|frozen| !frozen.table.slots.is_empty())
            || self.parts.iter().any(|part| u64::from(part.segment.rows()) > part.dead.len())
    }

    /// Memory of everything that is not in a segment.
    pub fn unflushed_bytes(&self) -> u64 {
        self.tail.bytes() + self.frozen.as_ref().map_or(0, Frozen::bytes)
    }

    pub fn unflushed_rows(&self) -> u64 {
        (self.tail.len() + self.frozen.as_ref().map_or(0, |frozen| frozen.table.len())) as u64
    }

    /// The snapshot that queries run on.
    pub fn view(&self, name: &str, recall: Recall) -> View {
        let tail = match &self.frozen {
            Some(frozen) => frozen.table.rows.snapshot().with(self.tail.rows.snapshot()),
            None => self.tail.rows.snapshot(),
        };
        let segments =
            self.parts.iter().map(|p| SegmentView { segment: p.segment.clone(), dead: p.dead.clone() }).collect();
        View {
            name: name.to_owned(),
            schema: self.schema.clone(),
            segments,
            tail,
            etag: etag(self.data_seq, self.hlc, self.origin),
            recall,
        }
    }

    /// What this state has seen.
    pub fn vector(&self) -> VersionVector {
        let mut vector = self.vector.clone();
        // Who never wrote has made no commit that others would have to see.
        if self.own > Hlc::default() {
            vector.see(self.origin, self.own);
        }
        vector
    }

    /// Documents deleted by records that are in no segment yet, in the order of their ids.
    pub fn tombstones(&self) -> Vec<Tombstone> {
        let frozen = self.frozen.iter().flat_map(|frozen| frozen.table.tombstones.iter());
        let frozen = frozen.filter(|one| self.tail.get(&one.id).is_none());
        // The newer of two comes first.
        let mut all: Vec<Tombstone> = self.tail.tombstones.iter().chain(frozen).collect();
        all.sort_by(|one, other| one.id.cmp(&other.id));
        all.dedup_by(|later, earlier| later.id == earlier.id);
        all
    }

    /// Ends the tail and begins a new one. `replay_from` is the first record that will not be in the segment.
    pub fn freeze(&mut self, replay_from: u64) {
        self.frozen = Some(Frozen {
            table: std::mem::take(&mut self.tail),
            superseded: HashMap::new(),
            superseded_bytes: 0,
            dead: self.parts.iter().map(|part| (part.reference.segment_id, part.dead.clone())).collect(),
            replay_from,
            data_seq: self.data_seq,
            hlc: self.hlc,
            own: self.own,
            schema: self.schema.clone(),
            ids_reserved: self.ids_reserved,
        });
    }

    /// Puts a segment in the place of the frozen tail, whose manifest is committed, so nothing here may fail; `None` when nothing of
    /// it was left to store. `superseded`: its rows that were replaced since. What was dead when the tail stopped growing is settled.
    pub fn thaw(&mut self, part: Option<Part>, superseded: &RoaringBitmap) {
        let Some(frozen) = self.frozen.take() else { return };
        for part in &mut self.parts {
            if let Some(dead) = frozen.dead.get(&part.reference.segment_id) {
                part.settled = dead.clone();
            }
        }
        if let Some(mut part) = part {
            *Arc::make_mut(&mut part.dead) |= superseded;
            self.parts.push(part);
        }
    }
}

/// Changes whenever documents or schema do, and is compared whole. Quoted, as an entity tag is in HTTP.
pub fn etag(data_seq: u64, hlc: Hlc, origin: Origin) -> String {
    format!("\"{data_seq:x}-{:x}-{origin}\"", hlc.0)
}
