//! A query bound to a view's schema: names are columns, operands have their types, and what cannot be answered is refused.

use serde_json::Value as Json;

use super::aggregate::Aggregates;
use super::compute::Computes;
use super::diverse::PerValue;
use super::group::{self, KeyColumn};
use super::order::{self, OrderKey};
use super::project::Columns;
use super::score::Scorer;
use crate::engine::filter::bind::bind;
use crate::engine::view::View;
use crate::engine::write::typing;
use crate::error::{Error, Result};
use crate::model::filter::Filter;
use crate::model::query::{Query, Rank, Recall};
use crate::model::schema::{AttributeType, Column, ColumnUid, Element, Schema};
use crate::model::value::{Value, Vector};
use crate::platform::allowance::Allowance;
use crate::segment::vectors::QueryVector;

/// Rows or groups of an answer when the query does not say.
const LIMIT_DEFAULT: u32 = 10_000;

/// A bound query.
pub(super) struct Plan {
    pub(super) filter: Option<Filter>,
    pub(super) output: Output,
    pub(super) projection: Columns,
    pub(super) compute: Computes,
}

/// What the answer consists of.
pub(super) enum Output {
    Rows { ranking: Ranking, limit: usize, offset: usize, per: Option<PerValue> },
    Aggregates(Aggregates),
    Groups { keys: Vec<KeyColumn>, aggregates: Aggregates, limit: usize },
}

/// What rows are ordered by.
pub(super) enum Ranking {
    Nearest(Target),
    Order(Vec<OrderKey>),
    Score(Scorer),
}

/// A query vector and the column it is compared with.
pub(super) struct Target {
    pub(super) column: ColumnUid,
    pub(super) query: QueryVector,
    pub(super) recall: Recall,
}

impl Plan {
    pub(super) fn bind(view: &View, query: &Query, allowance: &Allowance) -> Result<Plan> {
        let schema = &*view.schema;
        check_metric(schema, query)?;
        let filter = query.filter.as_ref().map(|expr| bind(expr, schema, allowance)).transpose()?;
        let limit = query.limit.unwrap_or(LIMIT_DEFAULT) as usize;
        let output = match &query.rank_by {
            Some(rank) => Output::Rows {
                ranking: ranking(view, rank, query, allowance)?,
                limit,
                offset: query.offset as usize,
                per: query.per.as_ref().map(|per| PerValue::bind(schema, per, limit)).transpose()?,
            },
            None => {
                let aggregates = Aggregates::bind(schema, &query.aggregate_by)?;
                if query.group_by.is_empty() {
                    Output::Aggregates(aggregates)
                } else {
                    Output::Groups {
                        keys: group::bind(schema, &query.group_by, &query.aggregate_by)?,
                        aggregates,
                        limit,
                    }
                }
            }
        };
        let (projection, compute) =
            (Columns::bind(schema, &query.projection)?, Computes::bind(schema, query, allowance)?);
        Ok(Plan { filter, output, projection, compute })
    }
}

fn check_metric(schema: &Schema, query: &Query) -> Result<()> {
    match (query.metric, schema.metric) {
        (Some(asked), Some(has)) if asked != has => {
            Err(Error::invalid(format!("💔 distance metric mismatch, expected {}, got {}", has.name(), asked.name())))
        }
        _ => Ok(()),
    }
}

fn ranking(view: &View, rank: &Rank, query: &Query, allowance: &Allowance) -> Result<Ranking> {
    let schema = &*view.schema;
    Ok(match rank {
        Rank::Ann { attribute, vector } => {
            Ranking::Nearest(Target::bind(schema, attribute, vector, query.recall.unwrap_or(view.recall))?)
        }
        Rank::Knn { .. } if query.filter.is_none() => {
            return Err(Error::invalid("💔 rank_by kNN requires filters, use ANN to search the whole namespace"));
        }
        Rank::Knn { attribute, vector } => Ranking::Nearest(Target::bind(schema, attribute, vector, Recall::EXACT)?),
        Rank::Score(clause) => Ranking::Score(Scorer::bind(view, clause, query.recall, allowance)?),
        Rank::Attributes(attributes) => Ranking::Order(order::bind(schema, attributes)?),
    })
}

impl Target {
    /// Binds a vector operand: an array of numbers, or base64 of little-endian f32.
    pub(super) fn bind(schema: &Schema, attribute: &str, operand: &Json, recall: Recall) -> Result<Target> {
        let column = column_to_rank(schema, attribute)?;
        let AttributeType::Vector { dims, .. } = column.kind else {
            return Err(Error::invalid(format!(
                "💔 attribute \"{attribute}\" has type {}, expected a vector to rank by ANN or kNN",
                column.kind
            )));
        };
        // The query keeps full precision, whatever the stored elements are.
        let kind = AttributeType::Vector { dims, element: Element::F32 };
        let value = typing::value(kind, operand, &mut Vec::new())
            .map_err(|error| error.context(format_args!("invalid vector for rank_by field \"{attribute}\"")))?;
        let Value::Vector(Vector::F32(values)) = value else {
            return Err(Error::internal(format!("rank_by \"{attribute}\": the vector has no f32 elements")));
        };
        Target::new(schema, column.uid(), values, recall)
    }

    pub(super) fn new(schema: &Schema, column: ColumnUid, values: Vec<f32>, recall: Recall) -> Result<Target> {
        let metric = schema.metric.ok_or_else(|| Error::internal("a schema with vectors has no distance metric"))?;
        Ok(Target { column, query: QueryVector::new(metric, values), recall })
    }
}

/// A column that `rank_by` names.
pub(super) fn column_to_rank<'s>(schema: &'s Schema, name: &str) -> Result<&'s Column> {
    schema
        .column(name)
        .ok_or_else(|| Error::invalid(format!("💔 attribute \"{name}\" not found in schema, cannot be ranked by")))
}
