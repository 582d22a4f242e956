//! Sparse vectors: the dot product of the query's dimensions with a row's exact weights.

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
use crate::platform::allowance::Allowance;
use crate::segment::Segment;
use crate::segment::sparse::{BLOCK, WeightBlocks};

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

    /// The products of all rows of a segment; empty when none has any of the dimensions.
    pub(super) fn of_segment(&self, segment: &Segment, allowance: &Allowance) -> Result<Vec<f64>> {
        let mut products = Vec::new();
        for (weight, blocks) in self.dimensions(segment)? {
            allowance.check()?;
            products.resize(segment.rows() as usize, 0.0);
            Self::add(&mut products, weight, &blocks)?;
        }
        Ok(products)
    }

    /// The dimensions that a segment has, in order, each with its weight.
    pub(super) fn dimensions<'a>(&self, segment: &'a Segment) -> Result<Vec<(f64, WeightBlocks<'a>)>> {
        let mut found = Vec::with_capacity(self.weights.len());
        let Some(reader) = segment.sparse(self.column)? else { return Ok(found) };
        for (term, weight) in &self.weights {
            if let Some(dimension) = reader.dimension(term)? {
                found.push((*weight, reader.blocks(&dimension)?));
            }
        }
        Ok(found)
    }

    /// Adds to the products of rows what a dimension gives them.
    pub(super) fn add(products: &mut [f64], weight: f64, blocks: &WeightBlocks<'_>) -> Result<()> {
        let (mut rows, mut stored) = (Vec::with_capacity(BLOCK), Vec::with_capacity(BLOCK));
        for block in 0..blocks.count() {
            rows.clear();
            stored.clear();
            blocks.read(block, &mut rows, &mut stored)?;
            let mut weights = [0.0; BLOCK];
            let weights = &mut weights[..stored.len()];
            stored.convert_to_f32_slice(weights);
            for (row, stored) in rows.iter().zip(weights) {
                if let Some(product) = products.get_mut(*row as usize) {
                    *product += weight * f64::from(*stored);
                }
            }
        }
        Ok(())
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
    pub(super) fn of_tail(&self, tail: &TailView) -> Vec<f64> {
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
        products
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
