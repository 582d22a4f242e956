//! Sparse vectors: the dot product of the query's dimensions with a row's exact weights.

use serde_json::Value as Json;

use super::plan::column_to_rank;
use crate::engine::view::TailView;
use crate::engine::write::typing;
use crate::error::{Error, Result};
use crate::model::document::Document;
use crate::model::schema::{AttributeType, ColumnUid, Schema};
use crate::model::value::Value;
use crate::segment::Segment;

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
        let mut products = Vec::new();
        let Some(reader) = segment.sparse(self.column)? else { return Ok(products) };
        for (term, weight) in &self.weights {
            let Some(dimension) = reader.dimension(term)? else { continue };
            products.resize(segment.rows() as usize, 0.0);
            reader.for_each(&dimension, |row, stored| {
                if let Some(product) = products.get_mut(row as usize) {
                    *product += weight * stored.to_f64();
                }
            })?;
        }
        Ok(products)
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
