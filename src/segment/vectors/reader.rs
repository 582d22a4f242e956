//! A segment's dense vectors of one column: read by row, or searched exactly.

use std::ops::Range;
use std::sync::OnceLock;

use roaring::RoaringBitmap;

use super::carried::Carried;
use super::centroids::CodedCentroids;
use super::fastscan::prefetch;
use super::lists::Clusters;
use super::search::{ClusterQuery, ClusterSearch, Probed, Source, Wanted};
use super::top::Top;
use super::{Measure, QueryVector, clustering, norm_of, widen, widen_into};
use crate::error::{Error, Result};
use crate::format::clusters::{LISTS_SECTION, SECTION as CLUSTERS_SECTION, Table};
use crate::format::vectors::{NORMS_SECTION, PRESENT_SECTION, SECTION, decode, decode_rows};
use crate::model::schema::{ColumnUid, Element};
use crate::model::value::Vector;
use crate::platform::allowance::{Allowance, ROWS_PER_CHECK};
use crate::segment::past::Past;
use crate::segment::sections::{Part, Sections};

/// Below one candidate in this many vectors each is looked up by itself; above, present rows are walked beside them.
const SPARSE_CANDIDATES: u64 = 64;

/// What an open segment keeps of a column of vectors, from one reader to the next.
#[derive(Default)]
pub(in crate::segment) struct Kept {
    /// The rows that have a vector, once they were asked for.
    present: OnceLock<RoaringBitmap>,
    /// Once clusters were searched.
    centroids: OnceLock<CodedCentroids>,
}

impl Kept {
    /// The rows that have a value of a column; `None` when all have. `has_any` says whether any has.
    pub(super) fn present<'a>(
        &'a self,
        sections: &'a Sections,
        uid: ColumnUid,
        rows: u32,
        has_any: bool,
    ) -> Result<Option<&'a RoaringBitmap>> {
        Ok(match (sections.of_column(PRESENT_SECTION, uid), self.present.get()) {
            (None, _) if has_any => None,
            (_, Some(known)) => Some(known),
            (part, None) => {
                let name = sections.name();
                let rows = part.map_or(Ok(RoaringBitmap::new()), |part| decode_rows(part.whole()?, rows, name))?;
                Some(self.present.get_or_init(|| rows))
            }
        })
    }
}

/// The vectors of one column.
pub struct VectorReader<'a> {
    dims: u32,
    element: Element,
    rows: u32,
    /// `None` when every row has a vector.
    present: Option<&'a RoaringBitmap>,
    pub(super) matrix: Option<Part<'a>>,
    norms: Option<Part<'a>>,
    /// The table of clusters and their lists, where there are any.
    clusters: Option<(Part<'a>, Part<'a>)>,
    kept: &'a Kept,
    name: &'a str,
}

impl<'a> VectorReader<'a> {
    pub(in crate::segment) fn open(
        sections: &'a Sections,
        kept: &'a Kept,
        uid: ColumnUid,
        (dims, element): (u32, Element),
        rows: u32,
    ) -> Result<Self> {
        let present = kept.present(sections, uid, rows, sections.of_column(SECTION, uid).is_some())?;
        Self::of_rows(sections, kept, uid, (dims, element), rows, present)
    }

    /// The vectors of the rows `present`, or of all `rows`.
    pub(super) fn of_rows(
        sections: &'a Sections,
        kept: &'a Kept,
        uid: ColumnUid,
        (dims, element): (u32, Element),
        rows: u32,
        present: Option<&'a RoaringBitmap>,
    ) -> Result<Self> {
        let name = sections.name();
        let matrix = sections.of_column(SECTION, uid);
        let norms = sections.of_column(NORMS_SECTION, uid);
        let stored = present.map_or(u64::from(rows), RoaringBitmap::len) as usize;
        let bytes = |part: &Option<Part>| part.as_ref().map_or(0, Part::bytes);
        let expected = stored * dims as usize * element.bytes();
        if bytes(&matrix) != expected || norms.is_some() && bytes(&norms) != stored * 4 {
            return Err(Error::corrupt(format!(
                "{name}: {stored} vectors [{dims}]{} have {} bytes and {} bytes of norms, expected {expected} and {}",
                element.name(),
                bytes(&matrix),
                bytes(&norms),
                stored * 4
            )));
        }
        let clusters = sections.of_column(CLUSTERS_SECTION, uid).zip(sections.of_column(LISTS_SECTION, uid));
        Ok(VectorReader { dims, element, rows, present, matrix, norms, clusters, kept, name })
    }

    pub fn dims(&self) -> u32 {
        self.dims
    }

    pub fn element(&self) -> Element {
        self.element
    }

    /// The rows that have a vector.
    pub fn present(&self) -> Result<RoaringBitmap> {
        Ok(match self.present {
            Some(present) => present.clone(),
            None => (0..self.rows).collect(),
        })
    }

    /// How many rows have a vector.
    pub fn count(&self) -> u64 {
        self.present.map_or(u64::from(self.rows), RoaringBitmap::len)
    }

    pub fn vector(&self, row: u32) -> Result<Option<Vector>> {
        self.bytes(row)?.map(|bytes| decode(bytes, self.dims, self.element, self.name)).transpose()
    }

    /// Where a row's vector is stored, of a segment that need not be all here.
    pub(super) fn in_matrix(&self, row: u32) -> Option<(&Part<'a>, Range<usize>)> {
        Some((self.matrix.as_ref()?, self.place_bytes(self.place(row)?)))
    }

    /// [`Self::vector`], from `past` where that has it, or where it has no room.
    pub(in crate::segment) fn vector_past(&self, row: u32, past: &mut Past<'a>) -> Result<Option<Vector>> {
        let Some((matrix, bytes)) = self.in_matrix(row) else { return Ok(None) };
        let bytes = past.bytes_of(matrix, bytes)?;
        decode(bytes, self.dims, self.element, self.name).map(Some)
    }

    /// A vector's bytes, and the norm that is stored with it.
    pub(in crate::segment) fn stored(&self, row: u32) -> Result<Option<(&'a [u8], Option<f32>)>> {
        let Some(place) = self.place(row) else { return Ok(None) };
        let norm = self.norm(place)?;
        Ok(self.bytes(row)?.map(|bytes| (bytes, norm)))
    }

    /// The norm that is stored for a place.
    pub(super) fn norm(&self, place: usize) -> Result<Option<f32>> {
        let Some(norms) = &self.norms else { return Ok(None) };
        Ok(norms.whole()?.as_chunks().0.get(place).map(|norm| f32::from_le_bytes(*norm)))
    }

    pub(super) fn bytes(&self, row: u32) -> Result<Option<&'a [u8]>> {
        let (Some(place), Some(matrix)) = (self.place(row), &self.matrix) else { return Ok(None) };
        matrix.range(self.place_bytes(place)).map(Some)
    }

    /// The bytes of the vectors of some rows, all of which have one.
    pub(super) fn bytes_of(&self, rows: Range<u32>) -> Result<&'a [u8]> {
        let Some(matrix) = &self.matrix else { return Ok(&[]) };
        matrix.range(self.places_bytes(rows))
    }

    /// Where the vectors of places that follow each other are.
    pub(super) fn places_bytes(&self, places: Range<u32>) -> Range<usize> {
        places.start as usize * self.stride()..places.end as usize * self.stride()
    }

    /// The bytes of one vector.
    pub fn vector_bytes(&self) -> u64 {
        self.stride() as u64
    }

    fn stride(&self) -> usize {
        self.dims as usize * self.element.bytes()
    }

    /// The place of a row's vector in the matrix.
    pub(super) fn place(&self, row: u32) -> Option<usize> {
        match self.present {
            None => (row < self.rows).then_some(row as usize),
            Some(present) => present.contains(row).then(|| present.rank(row) as usize - 1),
        }
    }

    /// How far a row's vector is from the query; `None` when the row has none.
    pub fn distance(&self, row: u32, query: &QueryVector) -> Result<Option<f32>> {
        self.check(query)?;
        let measure = Measure::new(query, self.element);
        Ok(self.stored(row)?.map(|(bytes, norm)| measure.distance(bytes, || self.norm_or(norm, bytes))))
    }

    /// The norm that is stored, or else computed.
    pub(in crate::segment) fn norm_or(&self, norm: Option<f32>, bytes: &[u8]) -> f32 {
        norm.unwrap_or_else(|| norm_of(self.element, bytes, &widen(self.element, bytes)))
    }

    pub(super) fn check(&self, query: &QueryVector) -> Result<()> {
        if query.dims() == self.dims {
            return Ok(());
        }
        Err(Error::invalid(format!("the query has {} dimensions, the vectors {}", query.dims(), self.dims)))
    }

    /// How many clusters the vectors are in; `None` where they are in none.
    pub fn clusters(&self) -> Result<Option<usize>> {
        Ok(self.open_clusters()?.map(|clusters| clusters.table.header().clusters))
    }

    fn open_clusters(&self) -> Result<Option<Clusters<'a>>> {
        let Some((table, lists)) = self.clusters else { return Ok(None) };
        let (table, name) = (Table::decode(table.whole()?, self.name)?, self.name);
        if table.header().rows != self.rows as usize || table.header().vectors as u64 != self.count() {
            return Err(Error::corrupt(format!(
                "{name}: clusters of {} vectors of {} rows, expected {} of {}",
                table.header().vectors,
                table.header().rows,
                self.count(),
                self.rows
            )));
        }
        let centroids = self.kept.centroids.get_or_init(|| CodedCentroids::new(&table));
        Ok(Some(Clusters { table, centroids, lists, name }))
    }

    /// The clusters, for a merge whose result has each row's vector at one of `places`.
    pub(in crate::segment) fn carried(&self, places: Vec<u32>) -> Result<Option<Carried<'a>>> {
        Ok(self.open_clusters()?.map(|clusters| Carried::of_lists(clusters, places)))
    }

    /// Checks that clusters are those of the vectors.
    pub(in crate::segment) fn verify_clusters(&self) -> Result<()> {
        let Some(clusters) = self.open_clusters()? else { return Ok(()) };
        clustering::verify(&clusters.table, Some(clusters.lists.whole()?), &self.all()?, self.name)
    }

    /// All vectors, for their clusters.
    pub(super) fn all(&self) -> Result<StoredVectors<'_, 'a>> {
        Ok(StoredVectors { reader: self, rows: self.present()?.iter().collect() })
    }

    /// What a search of its clusters looks at, for `rows` or all that are not `dead`. `None` where there are no clusters.
    pub fn source(
        &self,
        query: &QueryVector,
        by_codes: &ClusterQuery,
        rows: Option<&RoaringBitmap>,
        dead: &'a RoaringBitmap,
    ) -> Result<Option<Source<'a>>> {
        self.check(query)?;
        self.open_clusters()?.map(|clusters| Source::new(clusters, by_codes, rows, dead)).transpose()
    }

    /// The `k` nearest as [`nearest`](Self::nearest) gives them, but for what the wanted recall allows to be missed. `None` where
    /// clusters cannot tell: there are none, or the query is at one distance from everything.
    pub fn nearest_in_clusters(
        &self,
        query: &QueryVector,
        by_codes: &ClusterQuery,
        wanted: &Wanted,
        rows: Option<&RoaringBitmap>,
        dead: &'a RoaringBitmap,
        allowance: &Allowance,
    ) -> Result<Option<Probed>> {
        let source = self.source(query, by_codes, rows, dead)?.filter(|_| by_codes.is_telling());
        let Some(source) = source else { return Ok(None) };
        let (near, mut probed) = ClusterSearch::new(by_codes, vec![source]).run(wanted, allowance)?;
        let near: Vec<u32> = near.into_iter().map(|near| near.row).collect();
        probed.nearest = self.nearest_of(query, &near, wanted.k)?;
        Ok(Some(probed))
    }

    /// The `k` nearest of some rows: distance and row, nearest first, ties by row.
    pub fn nearest_of(&self, query: &QueryVector, near: &[u32], k: usize) -> Result<Vec<(f32, u32)>> {
        self.check(query)?;
        let mut best = Top::new(k);
        let measure = Measure::new(query, self.element);
        for row in near {
            self.bytes(*row)?.into_iter().for_each(prefetch);
        }
        for row in near {
            if let Some((bytes, norm)) = self.stored(*row)? {
                best.offer(measure.distance(bytes, || self.norm_or(norm, bytes)), *row);
            }
        }
        Ok(best.into_sorted())
    }

    /// The bytes of the vector at a place of the matrix.
    pub(super) fn place_bytes(&self, place: usize) -> Range<usize> {
        place * self.stride()..(place + 1) * self.stride()
    }

    /// The `k` nearest of `rows` (all with `None`) that are not dead: distance and row, nearest first, ties by row. Exact.
    pub fn nearest(
        &self,
        query: &QueryVector,
        rows: Option<&RoaringBitmap>,
        dead: &RoaringBitmap,
        k: usize,
        allowance: &Allowance,
    ) -> Result<Vec<(f32, u32)>> {
        self.check(query)?;
        let Some(matrix) = &self.matrix else { return Ok(Vec::new()) };
        let mut best = Top::new(k);
        let candidates = match (rows, self.present) {
            (Some(rows), Some(present)) => Some(rows & present),
            (Some(rows), None) => Some(rows.clone()),
            (None, Some(present)) => Some(present.clone()),
            (None, None) => None,
        };
        let candidates = match candidates {
            Some(mut candidates) => {
                candidates -= dead;
                candidates.remove_range(self.rows..);
                Some(candidates)
            }
            None if dead.is_empty() => None,
            None => {
                let mut live: RoaringBitmap = (0..self.rows).collect();
                live -= dead;
                Some(live)
            }
        };
        let count = candidates.as_ref().map_or(u64::from(self.rows), RoaringBitmap::len);
        if k == 0 || count == 0 {
            return Ok(Vec::new());
        }
        if self.is_past(candidates.as_ref()) {
            let all = || self.present().map(RoaringBitmap::into_iter);
            return match candidates {
                Some(candidates) => self.nearest_past(query, candidates.into_iter(), k, allowance),
                None => self.nearest_past(query, all()?, k, allowance),
            };
        }
        let scan = Scan {
            measure: Measure::new(query, self.element),
            norms: self.norms.as_ref().map(Part::whole).transpose()?.map(|norms| norms.as_chunks().0),
            stride: self.stride(),
            reader: self,
        };
        let ask = |count: u32| allowance.check_at(count, ROWS_PER_CHECK);
        match (candidates, self.present) {
            (None, _) => {
                let all = matrix.whole()?;
                for (row, bytes) in (0..).zip(all.chunks_exact(scan.stride)) {
                    ask(row)?;
                    best.offer(scan.distance(row as usize, bytes), row);
                }
            }
            // Few of many: only their own chunks are read and checked.
            (Some(few), _) if few.len() < self.count() / SPARSE_CANDIDATES => {
                for (count, row) in (0..).zip(&few) {
                    ask(count)?;
                    if let (Some(place), Some(bytes)) = (self.place(row), self.bytes(row)?) {
                        best.offer(scan.distance(place, bytes), row);
                    }
                }
            }
            (Some(many), None) => {
                let all = matrix.whole()?;
                for (count, row) in (0..).zip(&many) {
                    ask(count)?;
                    best.offer(scan.distance_at(all, row as usize), row);
                }
            }
            (Some(many), Some(present)) => {
                let all = matrix.whole()?;
                let mut wanted = many.iter().peekable();
                for (place, row) in (0..).zip(present) {
                    ask(place)?;
                    if wanted.next_if_eq(&row).is_some() {
                        best.offer(scan.distance_at(all, place as usize), row);
                    }
                }
            }
        }
        Ok(best.into_sorted())
    }
}

/// The vectors of a column, for its clusters.
pub(super) struct StoredVectors<'r, 'a> {
    reader: &'r VectorReader<'a>,
    /// Those that have one.
    rows: Vec<u32>,
}

impl clustering::Vectors for StoredVectors<'_, '_> {
    fn count(&self) -> usize {
        self.rows.len()
    }

    fn row(&self, place: usize) -> u32 {
        self.rows[place]
    }

    fn read(&self, place: usize, out: &mut [f32]) -> Result<()> {
        if let Some(bytes) = self.reader.bytes(self.rows[place])? {
            widen_into(self.reader.element, bytes, out);
        }
        Ok(())
    }
}

/// What one search needs for each vector.
struct Scan<'r, 'a, 'q> {
    measure: Measure<'q>,
    norms: Option<&'a [[u8; 4]]>,
    stride: usize,
    reader: &'r VectorReader<'a>,
}

impl Scan<'_, '_, '_> {
    #[inline]
    fn distance_at(&self, matrix: &[u8], place: usize) -> f32 {
        self.distance(place, &matrix[place * self.stride..(place + 1) * self.stride])
    }

    #[inline]
    fn distance(&self, place: usize, bytes: &[u8]) -> f32 {
        self.measure.distance(bytes, || {
            let norm = self.norms.and_then(|norms| norms.get(place)).map(|norm| f32::from_le_bytes(*norm));
            self.reader.norm_or(norm, bytes)
        })
    }
}
