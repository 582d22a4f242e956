//! Nearest neighbours, exactly: filter first, then every matching vector is compared.

use serde_json::Value as Json;

use super::place::{Place, Ranked, merge};
use super::scope::Scope;
use crate::engine::write::typing;
use crate::error::{Error, Result};
use crate::model::query::QueryStats;
use crate::model::schema::{AttributeType, ColumnUid, Element, Schema};
use crate::model::value::{Value, Vector};
use crate::segment::vectors::{QueryVector, distance};

/// A query vector bound to its column.
pub struct Target {
    pub column: ColumnUid,
    pub element: Element,
    pub query: QueryVector,
}

/// Binds a vector operand: a JSON array, or base64 of little-endian f32.
pub fn bind(schema: &Schema, attribute: &str, operand: &Json) -> Result<Target> {
    let Some(column) = schema.column(attribute) else {
        return Err(Error::invalid(format!("💔 attribute \"{attribute}\" not found in schema, cannot be ranked by")));
    };
    let AttributeType::Vector { dims, element } = column.kind else {
        return Err(Error::invalid(format!(
            "💔 attribute \"{attribute}\" has type {}, expected a vector to rank by ANN or kNN",
            column.kind
        )));
    };
    let kind = AttributeType::Vector { dims, element: Element::F32 };
    let value = typing::value(kind, operand, &mut Vec::new())
        .map_err(|error| error.context(format!("invalid vector for rank_by field \"{attribute}\"")))?;
    let Value::Vector(Vector::F32(values)) = value else {
        return Err(Error::internal(format!("rank_by \"{attribute}\": the vector has no f32 elements")));
    };
    let metric = schema.metric.ok_or_else(|| Error::internal("a schema with vectors has no distance metric"))?;
    Ok(Target { column: column.uid(), element, query: QueryVector::new(metric, values) })
}

/// The `count` nearest rows.
pub fn nearest(
    scope: &Scope<'_>,
    attribute: &str,
    operand: &Json,
    count: usize,
    stats: &mut QueryStats,
) -> Result<Vec<Ranked>> {
    let target = bind(&scope.view.schema, attribute, operand)?;
    nearest_to(scope, &target, count, stats)
}

/// The `count` rows nearest to a bound vector.
pub fn nearest_to(scope: &Scope<'_>, target: &Target, count: usize, stats: &mut QueryStats) -> Result<Vec<Ranked>> {
    let mut all = Vec::new();
    let mut compared = 0;
    for (at, (view, rows)) in scope.segments.iter().enumerate() {
        let Some(reader) = view.segment.vectors(target.column)? else { continue };
        compared += rows.as_ref().map_or_else(|| view.live(), |rows| rows.len());
        for (dist, row) in reader.nearest(&target.query, rows.as_ref(), &view.dead, count)? {
            let place = Place::Segment { segment: at, row };
            all.push(Ranked { id: scope.id(&place)?, place, dist: Some(dist) });
        }
    }
    for (at, row) in scope.tail.iter().enumerate() {
        if let Some(Value::Vector(vector)) = row.document.get(target.column) {
            let dist = Some(distance(&target.query, vector));
            all.push(Ranked { id: row.document.id.clone(), place: Place::Tail(at), dist });
        }
    }
    compared += scope.tail.len() as u64;
    let width = target.query.dims() as u64 * target.element.bytes() as u64;
    stats.exhaustive += compared;
    stats.bytes_queried += compared * width;
    Ok(merge(all, false, count))
}
