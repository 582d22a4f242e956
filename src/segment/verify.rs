//! Checks a whole segment: every checksum, every structure, and that all indexes say what the documents say.

use half::f16;
use roaring::RoaringBitmap;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::attributes::AttributeReader;
use super::sparse::SparseReader;
use super::text::reader::TextReader;
use super::vectors::{VectorReader, norm};
use super::{Segment, SegmentColumn};
use crate::error::{Error, Result};
use crate::format::attributes::{Key, key_of, keys_of};
use crate::model::document::Document;
use crate::model::value::Value;

/// The indexes of one column, and what the documents have said of it so far.
struct Column<'a> {
    column: &'a SegmentColumn,
    attribute: Option<AttributeReader<'a>>,
    text: Option<TextReader<'a>>,
    vectors: Option<VectorReader<'a>>,
    sparse: Option<SparseReader<'a>>,
    present: RoaringBitmap,
    weights: Weights,
}

/// How many weights there are, and a sum that says which, whatever order they come in.
#[derive(Debug, Default, PartialEq, Eq)]
struct Weights {
    count: u64,
    sum: u64,
}

impl Weights {
    fn add(&mut self, row: u32, term: &str, weight: f16) {
        let seed = u64::from(row) << 16 | u64::from(weight.to_bits());
        self.count += 1;
        self.sum = self.sum.wrapping_add(xxh3_64_with_seed(term.as_bytes(), seed));
    }
}

impl Segment {
    /// Reads and checks everything. The first thing that is wrong is the error.
    pub fn verify(&self) -> Result<()> {
        self.believed(self.verify_all())
    }

    fn verify_all(&self) -> Result<()> {
        self.sections.verify(self.footer().meta_offset)?;
        self.ids()?.verify(&self.bloom()?)?;
        self.versions()?.verify()?;
        for tombstone in self.tombstones()? {
            if self.row_of(&tombstone.id)?.is_some() {
                return Err(self.wrong(format!("id {} has a row and a tombstone", tombstone.id)));
            }
        }
        let mut columns = Vec::with_capacity(self.columns().len());
        for column in self.columns() {
            let column = Column {
                column,
                attribute: self.attribute(column.uid)?,
                text: self.text(column.uid)?,
                vectors: self.vectors(column.uid)?,
                sparse: self.sparse(column.uid)?,
                present: RoaringBitmap::new(),
                weights: Weights::default(),
            };
            if let Some(attribute) = &column.attribute {
                attribute.verify()?;
            }
            if let Some(text) = &column.text {
                text.verify()?;
            }
            if let Some(positions) = self.positions(column.column.uid)? {
                positions.verify()?;
            }
            if let Some(vectors) = &column.vectors {
                vectors.verify_clusters()?;
            }
            if let Some(tokens) = self.tokens(column.column.uid)? {
                tokens.verify()?;
            }
            columns.push(column);
        }
        let mut scan = self.scan()?;
        let mut logical_bytes = 0;
        for row in 0..self.rows() {
            let document = scan.document(row, None)?;
            if !scan.block_is_whole() {
                return Err(self.wrong(format!("the block of row {row} goes on after its last record")));
            }
            logical_bytes += document.logical_bytes();
            if document.logical_bytes().min(u64::from(u32::MAX)) != self.logical_bytes_of(row)? {
                return Err(self.wrong(format!("row {row} does not have the size it is said to have")));
            }
            for column in &mut columns {
                column.compare(row, &document).map_err(|problem| problem.context(self.name()))?;
            }
        }
        if logical_bytes != self.logical_bytes() {
            return Err(self.wrong(format!("{logical_bytes} logical bytes, expected {}", self.logical_bytes())));
        }
        columns.iter().try_for_each(|column| column.finish().map_err(|problem| problem.context(self.name())))
    }

    fn wrong(&self, problem: String) -> Error {
        Error::corrupt(format!("{}: {problem}", self.name()))
    }
}

impl Column<'_> {
    fn wrong(&self, problem: &str) -> Error {
        Error::corrupt(format!("attribute {:?}: {problem}", self.column.column.name))
    }

    /// Compares the indexes with one document.
    fn compare(&mut self, row: u32, document: &Document) -> Result<()> {
        let value = document.get(self.column.uid);
        if value.is_some() {
            self.present.insert(row);
        }
        if let Some(attribute) = &self.attribute {
            let mut expected: Vec<Key> = Vec::new();
            if let Some(value) = value {
                keys_of(value, |key| expected.push(key));
            }
            expected.sort_unstable();
            expected.dedup();
            let mut found = attribute.row_ordinals(row)?;
            for key in expected {
                let value = found.next().map(|ordinal| attribute.value(ordinal)).transpose()?;
                if value.as_ref().and_then(key_of) != Some(key) {
                    return Err(self.wrong(&format!("row {row} has other values in the index than in its document")));
                }
            }
            if found.next().is_some() {
                return Err(self.wrong(&format!("row {row} has more values in the index than in its document")));
            }
        }
        if let (Some(vectors), Some(Value::Vector(vector))) = (&self.vectors, value)
            && let Some((_, Some(stored))) = vectors.stored(row)?
            && stored.to_bits() != norm(vector).to_bits()
        {
            return Err(self.wrong(&format!("row {row} has a norm of {stored}, expected {}", norm(vector))));
        }
        if let Some(Value::Sparse(sparse)) = value {
            sparse.entries.iter().for_each(|(term, weight)| self.weights.add(row, term, *weight));
        }
        Ok(())
    }

    /// Compares what is known only after the last document.
    fn finish(&self) -> Result<()> {
        let differs = "other rows have a value in the index than among the documents";
        if let Some(attribute) = &self.attribute
            && attribute.present()? != self.present
        {
            return Err(self.wrong(differs));
        }
        if let Some(text) = &self.text
            && text.present()? != self.present
        {
            return Err(self.wrong(differs));
        }
        if let Some(sparse) = &self.sparse {
            sparse.verify()?;
            let (mut dimensions, mut found) = (sparse.dimensions()?, Weights::default());
            while let Some((text, term)) = dimensions.next_term()? {
                sparse.for_each(&term, |row, weight| found.add(row, &text, weight))?;
            }
            if found.count != self.weights.count {
                return Err(
                    self.wrong(&format!("{} weights in the index, {} in documents", found.count, self.weights.count))
                );
            }
            if found != self.weights {
                return Err(self.wrong("rows have other weights in the index than in their documents"));
            }
        }
        Ok(())
    }
}
