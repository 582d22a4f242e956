//! Sparse vectors: the dot product of the query's dimensions with a row's exact weights.

use serde_json::Value as Json;

use super::text::add_up;
use crate::engine::view::TailRow;
use crate::engine::write::typing;
use crate::error::{Error, Result};
use crate::model::schema::{AttributeType, ColumnUid, Schema};
use crate::model::value::Value;
use crate::segment::Segment;

/// A sparse clause bound to its column.
pub struct BoundSparse {
    column: ColumnUid,
    /// Dimensions in bytewise order.
    weights: Vec<(String, f64)>,
}

impl BoundSparse {
    pub fn bind(schema: &Schema, attribute: &str, vector: &Json) -> Result<Self> {
        let Some(column) = schema.column(attribute) else {
            return Err(Error::invalid(format!(
                "💔 attribute \"{attribute}\" not found in schema, cannot be ranked by"
            )));
        };
        if column.kind != AttributeType::Sparse {
            return Err(Error::invalid(format!(
                "💔 attribute \"{attribute}\" has type {}, expected {{}}f16 to rank by SparseKNN",
                column.kind
            )));
        }
        let value = typing::value(AttributeType::Sparse, vector, &mut Vec::new())
            .map_err(|error| error.context(format!("invalid vector for rank_by field \"{attribute}\"")))?;
        let Value::Sparse(vector) = value else {
            return Err(Error::internal(format!("rank_by \"{attribute}\": the vector is not sparse")));
        };
        let weights = vector.entries.into_iter().map(|(term, weight)| (term, f64::from(weight.to_f32())));
        Ok(BoundSparse { column: column.uid(), weights: weights.collect() })
    }

    /// The products of a segment's rows, ascending by row.
    pub fn scores(&self, segment: &Segment) -> Result<Vec<(u32, f64)>> {
        let Some(reader) = segment.sparse(self.column)? else { return Ok(Vec::new()) };
        let mut lists = Vec::new();
        for (term, weight) in &self.weights {
            if let Some(dimension) = reader.dimension(term)? {
                let mut list = Vec::with_capacity(dimension.df as usize);
                reader.for_each(&dimension, |row, found| list.push((row, weight * f64::from(found.to_f32()))))?;
                lists.push(list);
            }
        }
        Ok(add_up(lists, segment.rows()))
    }

    /// The product with a row of the tail.
    pub fn score(&self, row: &TailRow) -> f64 {
        let Some(Value::Sparse(vector)) = row.document.get(self.column) else { return 0.0 };
        let product = |(term, weight): &(String, f64)| {
            let at = vector.entries.binary_search_by(|(known, _)| known.cmp(term)).ok()?;
            Some(weight * f64::from(vector.entries[at].1.to_f32()))
        };
        self.weights.iter().filter_map(product).sum()
    }
}
