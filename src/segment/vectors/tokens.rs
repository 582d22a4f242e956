//! A segment's multivectors of one column: read by row, or compared with the tokens of a query.
//!
//! Late interaction (ColBERT: Khattab and Zaharia, SIGIR 2020): each of the query's tokens finds the nearest token of a document,
//! and the document's distance is the sum of theirs.

use std::ops::Range;

use roaring::RoaringBitmap;

use super::carried::Carried;
use super::top::Top;
use super::{Kept, Measure, QueryVector, VectorReader, clamp, clustering, norm_of, widen_into};
use crate::error::{Error, Result};
use crate::format::clusters::{SECTION as CLUSTERS_SECTION, Table};
use crate::format::vectors::{ENDS_SECTION, SECTION, decode_tokens};
use crate::model::schema::{ColumnUid, Element, Metric};
use crate::model::value::Multivector;
use crate::platform::allowance::Allowance;
use crate::segment::past::{Batch, Past};
use crate::segment::sections::{Ahead, Part, Sections};

/// A query's tokens, at least one.
#[derive(Clone, Debug)]
pub struct QueryTokens {
    tokens: Vec<QueryVector>,
    dims: u32,
}

impl QueryTokens {
    /// Takes as many as there are; `None` without any.
    pub fn new(metric: Metric, tokens: &Multivector) -> Option<Self> {
        let of_query = |token: &[f32]| QueryVector::new(metric, token.to_vec());
        let found: Vec<QueryVector> = tokens.tokens().map(of_query).collect();
        (!found.is_empty()).then_some(QueryTokens { tokens: found, dims: tokens.dims })
    }

    pub fn dims(&self) -> u32 {
        self.dims
    }

    pub fn tokens(&self) -> &[QueryVector] {
        &self.tokens
    }

    pub fn to_value(&self) -> Multivector {
        let elements = self.tokens.iter().flat_map(|token| token.values()).copied().collect();
        Multivector { dims: self.dims, elements }
    }

    /// How far a document's tokens are, the same to the bit as a segment says; `None` where it has no token, or tokens of other
    /// dimensions.
    pub fn distance(&self, tokens: &Multivector) -> Option<f32> {
        if tokens.dims != self.dims {
            return None;
        }
        Interaction::new(self).distance(bytemuck::cast_slice(&tokens.elements))
    }
}

/// A query's tokens made ready for those of many documents.
pub(super) struct Interaction<'q> {
    measures: Vec<Measure<'q>>,
    /// Per token of the query the smallest distance to a token of the document.
    nearest: Vec<f32>,
    /// Room for one token as numbers.
    wide: Vec<f32>,
    has_norms: bool,
}

impl<'q> Interaction<'q> {
    pub(super) fn new(query: &'q QueryTokens) -> Self {
        let measures: Vec<Measure> = query.tokens.iter().map(|token| Measure::new(token, Element::F32)).collect();
        let has_norms = query.tokens.iter().any(|token| token.metric() == Metric::CosineDistance);
        Interaction {
            nearest: Vec::with_capacity(measures.len()),
            measures,
            wide: vec![0.0; query.dims as usize],
            has_norms,
        }
    }

    /// The distance of a document whose tokens are in `bytes`; `None` when there are none.
    pub(super) fn distance(&mut self, bytes: &[u8]) -> Option<f32> {
        self.nearest.clear();
        self.nearest.resize(self.measures.len(), f32::MAX);
        if bytes.is_empty() {
            return None;
        }
        for token in bytes.chunks_exact(self.wide.len() * Element::F32.bytes()) {
            let mut norm = 0.0;
            if self.has_norms {
                widen_into(Element::F32, token, &mut self.wide);
                norm = norm_of(Element::F32, token, &self.wide);
            }
            for (measure, nearest) in self.measures.iter().zip(&mut self.nearest) {
                *nearest = nearest.min(measure.distance(token, || norm));
            }
        }
        Some(clamp(self.nearest.iter().map(|distance| f64::from(*distance)).sum()))
    }
}

/// The multivectors of one column.
pub struct TokenReader<'a> {
    /// The vectors of all tokens: its rows are tokens.
    tokens: VectorReader<'a>,
    /// Where each row's tokens end.
    ends: &'a [[u8; 4]],
    /// The rows that have a value; `None` when all have.
    present: Option<&'a RoaringBitmap>,
    /// Which clusters tokens are in, where they are in any.
    clusters: Option<Part<'a>>,
    rows: u32,
    name: &'a str,
}

impl<'a> TokenReader<'a> {
    pub(in crate::segment) fn open(
        sections: &'a Sections,
        kept: &'a Kept,
        uid: ColumnUid,
        dims: u32,
        rows: u32,
    ) -> Result<Self> {
        let name = sections.name();
        let ends = sections.of_column(ENDS_SECTION, uid);
        let present = kept.present(sections, uid, rows, ends.is_some())?;
        let bytes = ends.map_or(Ok(&[][..]), |ends| ends.whole())?;
        let (ends, _) = bytes.as_chunks();
        let count = ends.last().map_or(0, |end| u32::from_le_bytes(*end));
        let expected = if present.is_some_and(RoaringBitmap::is_empty) { 0 } else { rows as usize * 4 };
        if bytes.len() != expected {
            return Err(Error::corrupt(format!(
                "{name}: ends of the tokens of {rows} rows have {} bytes, expected {expected}",
                bytes.len()
            )));
        }
        let has_tokens = sections.of_column(SECTION, uid).is_some();
        if has_tokens != (count > 0) {
            return Err(Error::corrupt(format!("{name}: {count} tokens, whose section is there: {has_tokens}")));
        }
        let tokens = VectorReader::of_rows(sections, kept, uid, (dims, Element::F32), count, None)?;
        let clusters = sections.of_column(CLUSTERS_SECTION, uid);
        Ok(TokenReader { tokens, ends, present, clusters, rows, name })
    }

    pub fn dims(&self) -> u32 {
        self.tokens.dims()
    }

    /// The rows that have a value, of no tokens maybe.
    pub fn present(&self) -> RoaringBitmap {
        self.present.map_or_else(|| (0..self.rows).collect(), RoaringBitmap::clone)
    }

    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// How many rows have a value.
    pub fn count(&self) -> u64 {
        self.present.map_or(u64::from(self.rows), RoaringBitmap::len)
    }

    /// How many tokens some rows have together.
    pub fn tokens_in(&self, rows: &RoaringBitmap) -> Result<u64> {
        if rows.len() >= u64::from(self.rows) {
            return Ok(self.token_count());
        }
        rows.iter().map(|row| Ok(self.tokens_of(row)?.len() as u64)).sum()
    }

    /// How many tokens all rows have together.
    pub fn token_count(&self) -> u64 {
        self.tokens.count()
    }

    /// The bytes of one token.
    pub fn token_bytes(&self) -> u64 {
        self.tokens.vector_bytes()
    }

    /// A row's tokens, by their places among those of all rows; none for a row without a value.
    pub fn tokens_of(&self, row: u32) -> Result<Range<u32>> {
        let end = |row: usize| self.ends.get(row).map_or(0, |end| u32::from_le_bytes(*end));
        let row = row as usize;
        let tokens = row.checked_sub(1).map_or(0, end)..end(row);
        if tokens.start > tokens.end || u64::from(tokens.end) > self.token_count() {
            return Err(Error::corrupt(format!("{}: row {row} has tokens {tokens:?}", self.name)));
        }
        Ok(tokens)
    }

    /// The bytes of a row's value; `None` when it has none.
    pub(in crate::segment) fn stored(&self, row: u32) -> Result<Option<&'a [u8]>> {
        if !self.has_value(row) {
            return Ok(None);
        }
        self.tokens.bytes_of(self.tokens_of(row)?).map(Some)
    }

    pub fn value(&self, row: u32) -> Result<Option<Multivector>> {
        self.value_past(row, &mut Past::default())
    }

    /// [`Self::value`], from `past` where that has it, or where it has no room.
    pub(in crate::segment) fn value_past(&self, row: u32, past: &mut Past<'a>) -> Result<Option<Multivector>> {
        let Some(bytes) = self.stored_past(row, past)? else { return Ok(None) };
        let dims = self.dims();
        Ok(Some(Multivector { dims, elements: decode_tokens(bytes, dims, self.name)? }))
    }

    /// Where a row's tokens are stored, of a segment that need not be all here.
    fn in_matrix(&self, row: u32) -> Result<Option<(&Part<'a>, Range<usize>)>> {
        let Some(matrix) = self.tokens.matrix.as_ref().filter(|_| self.has_value(row)) else { return Ok(None) };
        Ok(Some((matrix, self.tokens.places_bytes(self.tokens_of(row)?))))
    }

    /// [`Self::stored`], from `past` where that has it, or where it has no room.
    pub(super) fn stored_past<'p>(&self, row: u32, past: &'p mut Past<'a>) -> Result<Option<&'p [u8]>> {
        match self.in_matrix(row)? {
            Some((matrix, bytes)) => past.bytes_of(matrix, bytes).map(Some),
            None => self.stored(row),
        }
    }

    /// Adds a row's tokens to what is brought.
    pub(in crate::segment) fn add(&self, row: u32, ahead: &mut Ahead<'a>) -> Result<()> {
        if let Some((matrix, bytes)) = self.in_matrix(row)? {
            ahead.add(matrix, bytes);
        }
        Ok(())
    }

    /// Adds a row's tokens to what is read past the disk.
    pub(in crate::segment) fn add_past(&self, row: u32, batch: &mut Batch<'a>) -> Result<()> {
        if let Some((matrix, bytes)) = self.in_matrix(row)? {
            batch.add(matrix, bytes);
        }
        Ok(())
    }

    /// Brings the tokens of rows, the first of them at least, or reads them past the disk where that has no room. Gives of how many.
    pub(super) fn read_some(&self, rows: impl ExactSizeIterator<Item = u32>) -> Result<(Past<'a>, usize)> {
        if self.tokens.is_full() {
            return Ok((Past::default(), rows.len()));
        }
        let (mut batch, mut count) = (Batch::default(), 0);
        for row in rows {
            self.add_past(row, &mut batch)?;
            count += 1;
            if batch.is_full() {
                break;
            }
        }
        Ok((batch.bring_or_read()?, count))
    }

    fn has_value(&self, row: u32) -> bool {
        row < self.rows && self.present.is_none_or(|present| present.contains(row))
    }

    pub(super) fn check(&self, query: &QueryTokens) -> Result<()> {
        if query.dims() == self.dims() {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "the query has tokens of {} dimensions, the rows of {}",
            query.dims(),
            self.dims()
        )))
    }

    /// How far a row's tokens are from those of a query; `None` when it has none.
    pub fn distance(&self, row: u32, query: &QueryTokens) -> Result<Option<f32>> {
        self.check(query)?;
        Ok(self.stored(row)?.and_then(|bytes| Interaction::new(query).distance(bytes)))
    }

    /// The `k` nearest of `rows` (all with `None`) that are not dead and have a token: distance and row, nearest first, ties by row.
    /// Exact.
    pub fn nearest(
        &self,
        query: &QueryTokens,
        rows: Option<&RoaringBitmap>,
        dead: &RoaringBitmap,
        k: usize,
        allowance: &Allowance,
    ) -> Result<Vec<(f32, u32)>> {
        self.check(query)?;
        let mut best = Top::new(k);
        let mut interaction = Interaction::new(query);
        let is_wanted = |row: &u32| k > 0 && *row < self.rows && !dead.contains(*row);
        let rows: Vec<u32> = match rows {
            Some(rows) => rows.iter().filter(is_wanted).collect(),
            None => (0..self.rows).filter(is_wanted).collect(),
        };
        let mut rest = rows.as_slice();
        while !rest.is_empty() {
            let (mut past, count) = self.read_some(rest.iter().copied())?;
            for row in rest.split_off(..count).unwrap_or_default() {
                // A document of many tokens takes long.
                allowance.check()?;
                if let Some(distance) =
                    self.stored_past(*row, &mut past)?.and_then(|bytes| interaction.distance(bytes))
                {
                    best.offer(distance, *row);
                }
            }
        }
        Ok(best.into_sorted())
    }

    /// How many clusters the tokens are in; `None` where they are in none.
    pub fn clusters(&self) -> Result<Option<usize>> {
        Ok(self.table()?.map(|table| table.header().clusters))
    }

    pub(super) fn table(&self) -> Result<Option<Table<'a>>> {
        let Some(part) = &self.clusters else { return Ok(None) };
        let table = Table::decode(part.whole()?, self.name)?;
        let (rows, vectors) = (table.header().rows as u64, table.header().vectors as u64);
        if (rows, vectors) != (self.token_count(), self.token_count()) {
            return Err(Error::corrupt(format!(
                "{}: clusters of {vectors} tokens of {rows}, expected {}",
                self.name,
                self.token_count()
            )));
        }
        Ok(Some(table))
    }

    /// The clusters, for a merge whose result has each token at one of `places`.
    pub(in crate::segment) fn carried(&self, places: Vec<u32>) -> Result<Option<Carried<'a>>> {
        Ok(self.table()?.map(|table| Carried::of_table(table, places, self.name)))
    }

    /// Checks that rows' tokens follow each other, and are only those of rows that have a value.
    pub(in crate::segment) fn verify(&self) -> Result<()> {
        for row in 0..self.rows {
            if !self.tokens_of(row)?.is_empty() && self.stored(row)?.is_none() {
                return Err(Error::corrupt(format!("{}: row {row} has tokens and no value", self.name)));
            }
        }
        match self.table()? {
            Some(table) => clustering::verify(&table, None, &self.tokens.all()?, self.name),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::QueryTokens;
    use crate::model::schema::Metric;
    use crate::model::value::Multivector;

    fn between(metric: Metric, query: &[f32], document: &[f32]) -> Option<f32> {
        let tokens = |elements: &[f32]| Multivector { dims: 2, elements: elements.to_vec() };
        QueryTokens::new(metric, &tokens(query))?.distance(&tokens(document))
    }

    #[test]
    fn every_token_of_the_query_finds_the_nearest_of_the_document() {
        let document = [0.0, 1.0, 3.0, 0.0];
        assert_eq!(between(Metric::EuclideanSquared, &[0.0, 3.0, 3.0, 1.0, 0.0, 1.0], &document), Some(4.0 + 1.0));
        assert_eq!(between(Metric::DotProduct, &[1.0, 0.0, 1.0, 1.0], &document), Some(-3.0 - 3.0));
        assert_eq!(between(Metric::CosineDistance, &[1.0, 0.0, 0.0, 9.0], &document), Some(0.0));
        assert_eq!(between(Metric::CosineDistance, &[-1.0, 0.0], &document), Some(1.0));
    }

    #[test]
    fn a_zero_token_is_at_distance_one() {
        assert_eq!(between(Metric::CosineDistance, &[0.0, 0.0, 1.0, 0.0], &[1.0, 0.0]), Some(1.0));
        assert_eq!(between(Metric::CosineDistance, &[1.0, 0.0], &[0.0, 0.0, -1.0, 0.0]), Some(1.0));
    }

    #[test]
    fn without_a_token_there_is_no_distance_and_the_largest_stay_finite() {
        assert_eq!(between(Metric::CosineDistance, &[1.0, 0.0], &[]), None);
        assert!(between(Metric::CosineDistance, &[], &[1.0, 0.0]).is_none());
        let far = between(Metric::EuclideanSquared, &[3e38, 0.0, 3e38, 0.0], &[-3e38, 0.0]);
        assert_eq!(far, Some(f32::MAX));
    }
}
