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
use crate::segment::Segment;
use crate::segment::sparse::BLOCK;

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
    pub(super) fn of_segment(&self, segment: &Segment) -> Result<Vec<f64>> {
        let (mut products, mut rows, mut stored) = (Vec::new(), Vec::new(), Vec::new());
        let Some(reader) = segment.sparse(self.column)? else { return Ok(products) };
        for (term, weight) in &self.weights {
            let Some(dimension) = reader.dimension(term)? else { continue };
            products.resize(segment.rows() as usize, 0.0);
            let blocks = reader.blocks(&dimension)?;
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
        }
        Ok(products)
    }

    pub(super) fn lists_at_most(&self) -> usize {
        self.weights.len()
    }

    /// What a segment's rows add to their products, in the order in which it is added.
    pub(super) fn lists<'a>(&self, segment: &'a Segment) -> Result<Vec<List<'a>>> {
        let mut lists = Vec::with_capacity(self.weights.len());
        let Some(reader) = segment.sparse(self.column)? else { return Ok(lists) };
        for (term, weight) in &self.weights {
            if let Some(dimension) = reader.dimension(term)? {
                lists.push(List::Blocks(Box::new(Blocks::of_dimension(reader.blocks(&dimension)?, *weight))));
            }
        }
        Ok(lists)
    }

    /// The products of all places of the tail.
    pub(super) fn of_tail(&self, tail: &TailView) -> Vec<f64> {
        let mut products = vec![0.0; tail.places() as usize];
        for (place, row) in tail.iter() {
            products[place as usize] = self.of_document(&row.document);
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
