//! Sparse vectors: the dot product of the query's dimensions with a row's exact weights.

use half::f16;
use half::slice::HalfFloatSliceExt;
use serde_json::Value as Json;

use super::lists::{Blocks, List};
use super::plan::column_to_rank;
use crate::engine::view::TailView;
use crate::engine::write::typing;
use crate::error::{Error, Result};
use crate::model::document::Document;
use crate::model::schema::{AttributeType, ColumnUid, Schema};
use crate::model::value::Value;
use crate::segment::sparse::{BLOCK, WeightBlocks};
use crate::segment::{Ahead, Segment};

/// A sparse clause bound to its column.
pub(super) struct SparseScorer {
    column: ColumnUid,
    /// Dimensions in bytewise order, weights rounded to f16 as stored ones are.
    weights: Vec<(String, f64)>,
}

impl SparseScorer {
    pub(super) fn bind(schema: &Schema, attribute: &str, vector: &Json) -> Result<Self> {
        let column = column_to_rank(schema, attribute)?;
        if column.kind != AttributeType::Sparse {
            return Err(Error::invalid(format!(
                "💔 attribute \"{attribute}\" has type {}, expected {} to rank by SparseKNN",
                column.kind,
                AttributeType::Sparse
            )));
        }
        let value = typing::value(AttributeType::Sparse, vector, &mut Vec::new())
            .map_err(|error| error.context(format_args!("invalid vector for rank_by field \"{attribute}\"")))?;
        let Value::Sparse(vector) = value else {
            return Err(Error::internal(format!("rank_by \"{attribute}\": the vector is not sparse")));
        };
        let weights = vector.entries.into_iter().map(|(term, weight)| (term, weight.to_f64()));
        Ok(SparseScorer { column: column.uid(), weights: weights.collect() })
    }

    /// The products of a segment's rows, to be asked for in ascending order.
    pub(super) fn of_segment<'a>(&self, segment: &'a Segment) -> Result<Products<'a>> {
        let dimensions = self.dimensions(segment)?.into_iter();
        Ok(Products::Segment(dimensions.map(|(weight, blocks)| Dimension::new(weight, blocks)).collect()))
    }

    /// The dimensions that a segment has, in order, each with its weight.
    pub(super) fn dimensions<'a>(&self, segment: &'a Segment) -> Result<Vec<(f64, WeightBlocks<'a>)>> {
        let mut found = Vec::with_capacity(self.weights.len());
        let Some(reader) = segment.sparse(self.column)? else { return Ok(found) };
        let (mut dimensions, mut ahead) = (Vec::with_capacity(self.weights.len()), Ahead::new());
        for (term, weight) in &self.weights {
            if let Some(dimension) = reader.dimension(term)? {
                reader.add_blocks(&dimension, &mut ahead);
                dimensions.push((*weight, dimension));
            }
        }
        ahead.bring()?;
        for (weight, dimension) in dimensions {
            found.push((weight, reader.blocks(&dimension)?));
        }
        Ok(found)
    }

    pub(super) fn lists_at_most(&self) -> usize {
        self.weights.len()
    }

    /// What a segment's rows add to their products, in the order in which it is added.
    pub(super) fn lists<'a>(&self, segment: &'a Segment) -> Result<Vec<List<'a>>> {
        let dimensions = self.dimensions(segment)?.into_iter();
        Ok(dimensions.map(|(weight, blocks)| List::Blocks(Box::new(Blocks::of_dimension(blocks, weight)))).collect())
    }

    /// The products of all places of the tail.
    pub(super) fn of_tail<'a>(&self, tail: &TailView) -> Products<'a> {
        let mut products = vec![0.0; tail.places() as usize];
        for part in tail.parts() {
            let Some(terms) = part.terms() else {
                for (place, row) in part.rows() {
                    products[place as usize] = self.of_document(&row.document);
                }
                continue;
            };
            // In the order in which a document's are added up.
            for (dimension, weight) in &self.weights {
                for (place, own) in terms.weights(self.column).into_iter().flat_map(|lists| lists.rows_of(dimension))
                {
                    products[part.first as usize + usize::from(place)] += weight * own.to_f64();
                }
            }
        }
        Products::Tail(products)
    }

    /// The product of one document.
    pub(super) fn of_document(&self, document: &Document) -> f64 {
        let Some(Value::Sparse(vector)) = document.get(self.column) else { return 0.0 };
        let mut product = 0.0;
        for (term, weight) in &self.weights {
            if let Ok(at) = vector.entries.binary_search_by(|(known, _)| known.as_str().cmp(term)) {
                product += weight * vector.entries[at].1.to_f64();
            }
        }
        product
    }
}

/// The products of a part's rows.
pub(super) enum Products<'a> {
    Segment(Vec<Dimension<'a>>),
    /// By place.
    Tail(Vec<f64>),
}

impl Products<'_> {
    /// What it holds in memory, at most.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Products::Segment(dimensions) => dimensions.len() * DIMENSION_BYTES,
            Products::Tail(products) => size_of_val(products.as_slice()),
        }
    }

    /// Adds the products of the rows from `base` on to as many as there are; false when there are none.
    pub(super) fn add(&mut self, base: u32, out: &mut [f64]) -> Result<bool> {
        match self {
            Products::Segment(dimensions) => {
                dimensions.iter_mut().try_for_each(|dimension| dimension.add(base, out))?;
                Ok(!dimensions.is_empty())
            }
            Products::Tail(products) => {
                let products = products.get(base as usize..).unwrap_or_default();
                out.iter_mut().zip(products).for_each(|(out, product)| *out += product);
                Ok(!products.is_empty())
            }
        }
    }
}

/// What a [`Dimension`] holds in memory.
pub(super) const DIMENSION_BYTES: usize = size_of::<Dimension<'_>>() + BLOCK * (size_of::<u32>() + size_of::<f16>());

/// A query's dimension in a segment, block by block: its rows are asked for in ascending order.
pub(super) struct Dimension<'a> {
    weight: f64,
    blocks: WeightBlocks<'a>,
    /// The block that is read next.
    next: usize,
    /// Of the block that was read last, and what of it lies ahead.
    rows: Vec<u32>,
    stored: Vec<f16>,
    weights: [f32; BLOCK],
    at: usize,
}

impl<'a> Dimension<'a> {
    pub(super) fn new(weight: f64, blocks: WeightBlocks<'a>) -> Self {
        let (rows, stored) = (Vec::with_capacity(BLOCK), Vec::with_capacity(BLOCK));
        Dimension { weight, blocks, next: 0, rows, stored, weights: [0.0; BLOCK], at: 0 }
    }

    /// Adds what the rows from `base` on have to as many as there are.
    pub(super) fn add(&mut self, base: u32, out: &mut [f64]) -> Result<()> {
        loop {
            self.at += self.rows[self.at..].partition_point(|row| *row < base);
            let ahead = self.rows[self.at..].iter().zip(&self.weights[self.at..]);
            for (row, own) in ahead {
                let Some(out) = out.get_mut((row - base) as usize) else { return Ok(()) };
                *out += self.weight * f64::from(*own);
                self.at += 1;
            }
            if !self.read_next(base)? {
                return Ok(());
            }
        }
    }

    /// What a row has.
    pub(super) fn at(&mut self, row: u32) -> Result<f64> {
        if self.rows.last().is_none_or(|last| *last < row) && !self.read_next(row)? {
            return Ok(0.0);
        }
        self.at += self.rows[self.at..].partition_point(|known| *known < row);
        Ok(match self.rows.get(self.at) {
            Some(known) if *known == row => self.weight * f64::from(self.weights[self.at]),
            _ => 0.0,
        })
    }

    /// Reads the next block that has a row from `least` on; false when there is none.
    fn read_next(&mut self, least: u32) -> Result<bool> {
        self.rows.clear();
        self.stored.clear();
        self.at = 0;
        while self.blocks.bounds(self.next).is_some_and(|block| block.last_row < least) {
            self.next += 1;
        }
        self.blocks.read(self.next, &mut self.rows, &mut self.stored)?;
        self.stored.convert_to_f32_slice(&mut self.weights[..self.stored.len()]);
        self.next += 1;
        Ok(!self.rows.is_empty())
    }
}
