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
use crate::error::{Context, Error, Result};
use crate::model::filter::Filter;
use crate::model::query::{Query, Rank, Recall};
use crate::model::schema::{AttributeType, Column, ColumnUid, Element, Schema};
use crate::model::value::{Value, Vector};
use crate::platform::allowance::Allowance;
use crate::segment::vectors::{QueryTokens, QueryVector, distance};

/// Rows or groups of an answer when the query does not say.
const LIMIT_DEFAULT: u32 = 10_000;

/// The most tokens of one query: each is compared with every token that is looked at.
pub(super) const QUERY_TOKENS_MAX: usize = 1_024;

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

/// What is looked for, and the column it is compared with.
pub(super) struct Target {
    pub(super) column: ColumnUid,
    pub(super) operand: Operand,
    pub(super) recall: Recall,
}

/// What a column's values are compared with.
pub(super) enum Operand {
    Vector(QueryVector),
    Tokens(QueryTokens),
}

impl Operand {
    /// What it was made of.
    pub(super) fn value(&self) -> Value {
        match self {
            Operand::Vector(query) => Value::Vector(Vector::F32(query.values().to_vec())),
            Operand::Tokens(query) => Value::Multivector(query.to_value()),
        }
    }

    /// How far a value is; `None` where it has no distance.
    pub(super) fn distance(&self, value: &Value) -> Option<f32> {
        match (self, value) {
            (Operand::Vector(query), Value::Vector(vector)) if vector.dims() == query.values().len() => {
                Some(distance(query, vector))
            }
            (Operand::Tokens(query), Value::Multivector(tokens)) => query.distance(tokens),
            _ => None,
        }
    }
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
    /// Binds a vector operand, an array of numbers or base64 of little-endian f32; or for late interaction an array of those.
    pub(super) fn bind(schema: &Schema, attribute: &str, operand: &Json, recall: Recall) -> Result<Target> {
        let column = column_to_rank(schema, attribute)?;
        // The query keeps full precision, whatever the stored elements are.
        let kind = match column.kind {
            AttributeType::Vector { dims, .. } => AttributeType::Vector { dims, element: Element::F32 },
            AttributeType::Multivector { .. } if column.late_interaction => column.kind,
            AttributeType::Multivector { .. } => {
                return Err(Error::invalid(format!(
                    "💔 attribute \"{attribute}\" is stored only, multivector ANN needs late_interaction:true"
                ))
                .with_hint("declare another with `ann: {\"late_interaction\": true}` in a new namespace"));
            }
            kind => {
                return Err(Error::invalid(format!(
                    "💔 attribute \"{attribute}\" has type {kind}, expected a vector to rank by ANN or kNN"
                )));
            }
        };
        let invalid = || format!("invalid vector for rank_by field \"{attribute}\"");
        Target::new(schema, column, typing::value(kind, operand, &mut Vec::new()).context(invalid)?, recall)
            .context(invalid)
    }

    /// `value` is one of the column's type, in full precision.
    pub(super) fn new(schema: &Schema, column: &Column, value: Value, recall: Recall) -> Result<Target> {
        let metric = schema.metric.ok_or_else(|| Error::internal("a schema with vectors has no distance metric"))?;
        let operand = match value {
            Value::Vector(Vector::F32(values)) => Operand::Vector(QueryVector::new(metric, values)),
            Value::Multivector(tokens) => {
                let count = tokens.tokens().len();
                let query = QueryTokens::new(metric, &tokens).filter(|_| count <= QUERY_TOKENS_MAX);
                Operand::Tokens(query.ok_or_else(|| {
                    Error::invalid(format!("expected 1 to {QUERY_TOKENS_MAX} vectors, got {count}"))
                })?)
            }
            _ => return Err(Error::internal(format!("the vector for \"{}\" is of no type to search", column.name))),
        };
        Ok(Target { column: column.uid(), operand, recall })
    }
}

/// A column that `rank_by` names.
pub(super) fn column_to_rank<'s>(schema: &'s Schema, name: &str) -> Result<&'s Column> {
    schema
        .column(name)
        .ok_or_else(|| Error::invalid(format!("💔 attribute \"{name}\" not found in schema, cannot be ranked by")))
}
