//! Counts and sums, of everything that matches or by groups.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::place::Place;
use super::scope::Scope;
use crate::engine::filter::matches::order_values;
use crate::error::{Error, Result};
use crate::model::document::Document;
use crate::model::query::{Aggregate, Answer, Group, GroupKey, Number, Query, QueryStats};
use crate::model::schema::{AttributeType, ColumnUid, Schema};
use crate::model::value::Value;

/// The most groups that one query may have before its limit.
const GROUPS_MAX: usize = 100_000;

enum BoundAggregate {
    Count,
    Sum(ColumnUid, AttributeType),
}

struct BoundKey {
    label: String,
    column: ColumnUid,
    each: bool,
}

/// A group's key, in the order of its values; absent ones first.
#[derive(Clone, PartialEq)]
struct Key(Vec<Option<Value>>);

impl Eq for Key {}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> Ordering {
        for (a, b) in self.0.iter().zip(&other.0) {
            let ordered = match (a, b) {
                (Some(a), Some(b)) => order_values(a, b),
                (a, b) => a.is_some().cmp(&b.is_some()),
            };
            if ordered != Ordering::Equal {
                return ordered;
            }
        }
        Ordering::Equal
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[derive(Clone, Copy)]
enum Total {
    Int(i128),
    Float(f64),
}

/// The aggregates of a query.
pub fn run(scope: &Scope<'_>, query: &Query, stats: &mut QueryStats) -> Result<Answer> {
    let schema = &scope.view.schema;
    let aggregates =
        query.aggregate_by.iter().map(|(_, aggregate)| bind(schema, aggregate)).collect::<Result<Vec<_>>>()?;
    let keys = query.group_by.iter().map(|key| bind_key(schema, key)).collect::<Result<Vec<_>>>()?;
    stats.bytes_queried += scope.count() * 8 * (aggregates.len() + keys.len()) as u64;
    stats.exhaustive += scope.tail.len() as u64;
    let zero: Vec<Total> = aggregates.iter().map(zero_of).collect();
    if keys.is_empty() && aggregates.iter().all(|aggregate| matches!(aggregate, BoundAggregate::Count)) {
        // Counting needs no row.
        let totals = vec![Total::Int(i128::from(scope.count())); aggregates.len()];
        return Ok(Answer::Aggregations(label(query, &aggregates, &totals)));
    }
    let mut groups: BTreeMap<Key, Vec<Total>> = BTreeMap::new();
    visit(scope, &columns(&aggregates, &keys), |document| {
        for key in keys_of(document, &keys) {
            if groups.len() >= GROUPS_MAX && !groups.contains_key(&key) {
                return Err(Error::invalid(format!("group_by: more than {GROUPS_MAX} groups, filter more narrowly")));
            }
            let totals = groups.entry(key).or_insert_with(|| zero.clone());
            for (total, aggregate) in totals.iter_mut().zip(&aggregates) {
                add(total, aggregate, document);
            }
        }
        Ok(())
    })?;
    if keys.is_empty() {
        let totals = groups.into_values().next().unwrap_or(zero);
        return Ok(Answer::Aggregations(label(query, &aggregates, &totals)));
    }
    let limit = query.limit.unwrap_or(super::LIMIT_DEFAULT) as usize;
    let groups = groups.into_iter().take(limit).map(|(key, totals)| Group {
        key: keys.iter().map(|key| key.label.clone()).zip(key.0).collect(),
        aggregates: label(query, &aggregates, &totals),
    });
    Ok(Answer::Groups(groups.collect()))
}

fn bind(schema: &Schema, aggregate: &Aggregate) -> Result<BoundAggregate> {
    let Aggregate::Sum(name) = aggregate else { return Ok(BoundAggregate::Count) };
    let column = schema.column(name).ok_or_else(|| unknown("aggregate_by", name))?;
    match column.kind {
        AttributeType::Int | AttributeType::Uint | AttributeType::Float => {
            Ok(BoundAggregate::Sum(column.uid(), column.kind))
        }
        other => Err(Error::invalid(format!("💔 attribute \"{name}\" has type {other}, only numbers can be summed"))),
    }
}

fn bind_key(schema: &Schema, key: &GroupKey) -> Result<BoundKey> {
    let (label, name, each) = match key {
        GroupKey::Attribute(name) => (name, name, false),
        GroupKey::ForEachUnique { label, attribute } => (label, attribute, true),
    };
    if name == "id" {
        return Err(Error::invalid("💔 group_by: documents cannot be grouped by id"));
    }
    let column = schema.column(name).ok_or_else(|| unknown("group_by", name))?;
    let scalar = !matches!(column.kind, AttributeType::Vector { .. } | AttributeType::Sparse | AttributeType::Bytes);
    match (scalar, each, column.kind.is_array()) {
        (true, true, true) | (true, false, false) => {
            Ok(BoundKey { label: label.clone(), column: column.uid(), each })
        }
        (true, true, false) => Err(Error::invalid(format!(
            "💔 group_by: ForEachUnique expects an array, attribute \"{name}\" has type {}",
            column.kind
        ))),
        (true, false, true) => Err(Error::invalid(format!(
            "💔 group_by: attribute \"{name}\" has type {}, group by its elements with ForEachUnique",
            column.kind
        ))),
        (false, ..) => Err(Error::invalid(format!(
            "💔 group_by: attribute \"{name}\" has type {}, which cannot be grouped by",
            column.kind
        ))),
    }
}

fn unknown(what: &str, name: &str) -> Error {
    Error::invalid(format!("💔 {what}: attribute \"{name}\" not found in schema"))
}

fn columns(aggregates: &[BoundAggregate], keys: &[BoundKey]) -> Vec<ColumnUid> {
    let mut columns: Vec<ColumnUid> = keys.iter().map(|key| key.column).collect();
    columns.extend(aggregates.iter().filter_map(|aggregate| match aggregate {
        BoundAggregate::Sum(column, _) => Some(*column),
        BoundAggregate::Count => None,
    }));
    columns.sort_unstable();
    columns.dedup();
    columns
}

/// Calls `each` with every matching document, with these columns: from their indexes where all have one.
fn visit(scope: &Scope<'_>, columns: &[ColumnUid], mut each: impl FnMut(&Document) -> Result<()>) -> Result<()> {
    for (at, (view, _)) in scope.segments.iter().enumerate() {
        let mut readers = Vec::with_capacity(columns.len());
        let mut indexed = true;
        for column in columns {
            let reader = view.segment.attribute(*column)?;
            indexed &= reader.is_some() || view.segment.column(*column).is_none();
            readers.push((*column, reader));
        }
        for row in scope.rows(at) {
            let place = Place::Segment { segment: at, row };
            if !indexed {
                each(&*scope.document(&place, Some(columns))?)?;
                continue;
            }
            let mut fields = Vec::with_capacity(columns.len());
            for (column, reader) in &readers {
                let Some(reader) = reader else { continue };
                let array = view.segment.column(*column).is_some_and(|c| c.column.kind.is_array());
                let mut values = Vec::new();
                for ordinal in reader.row_ordinals(row)? {
                    values.push(reader.value(ordinal)?);
                }
                if array {
                    if let Some(value) = array_of(values) {
                        fields.push((*column, value));
                    }
                } else if let Some(value) = values.pop() {
                    fields.push((*column, value));
                }
            }
            let id = crate::model::ids::DocId::Uint(0);
            let version = crate::model::ids::Version::default();
            each(&Document { id, version, fields, patch: None })?;
        }
    }
    for row in &scope.tail {
        each(&row.document)?;
    }
    Ok(())
}

/// The distinct elements of an array as one value.
fn array_of(values: Vec<Value>) -> Option<Value> {
    macro_rules! gather {
        ($element:ident, $array:ident) => {{
            let elements = values.into_iter().filter_map(|v| match v {
                Value::$element(x) => Some(x),
                _ => None,
            });
            Value::$array(elements.collect())
        }};
    }
    Some(match values.first()? {
        Value::Bool(_) => gather!(Bool, Bools),
        Value::Int(_) => gather!(Int, Ints),
        Value::Uint(_) => gather!(Uint, Uints),
        Value::Float(_) => gather!(Float, Floats),
        Value::String(_) => gather!(String, Strings),
        Value::Uuid(_) => gather!(Uuid, Uuids),
        Value::DateTime(_) => gather!(DateTime, DateTimes),
        _ => return None,
    })
}

/// The groups that a document counts in: one, or one for each distinct element of its arrays.
fn keys_of(document: &Document, keys: &[BoundKey]) -> Vec<Key> {
    let mut found = vec![Key(Vec::with_capacity(keys.len()))];
    for key in keys {
        let value = document.get(key.column);
        if !key.each {
            for Key(values) in &mut found {
                values.push(value.cloned());
            }
            continue;
        }
        let elements = distinct(value);
        let mut next = Vec::with_capacity(found.len() * elements.len());
        for Key(values) in &found {
            for element in &elements {
                let mut values = values.clone();
                values.push(Some(element.clone()));
                next.push(Key(values));
            }
        }
        found = next;
    }
    found
}

/// The distinct elements of an array, in order.
fn distinct(value: Option<&Value>) -> Vec<Value> {
    let mut elements: Vec<Value> = match value {
        Some(Value::Bools(v)) => v.iter().map(|x| Value::Bool(*x)).collect(),
        Some(Value::Ints(v)) => v.iter().map(|x| Value::Int(*x)).collect(),
        Some(Value::Uints(v)) => v.iter().map(|x| Value::Uint(*x)).collect(),
        Some(Value::Floats(v)) => v.iter().map(|x| Value::Float(*x)).collect(),
        Some(Value::Strings(v)) => v.iter().map(|x| Value::String(x.clone())).collect(),
        Some(Value::Uuids(v)) => v.iter().map(|x| Value::Uuid(*x)).collect(),
        Some(Value::DateTimes(v)) => v.iter().map(|x| Value::DateTime(*x)).collect(),
        _ => Vec::new(),
    };
    elements.sort_unstable_by(order_values);
    elements.dedup();
    elements
}

fn zero_of(aggregate: &BoundAggregate) -> Total {
    match aggregate {
        BoundAggregate::Sum(_, AttributeType::Float) => Total::Float(0.0),
        _ => Total::Int(0),
    }
}

fn add(total: &mut Total, aggregate: &BoundAggregate, document: &Document) {
    let value = match aggregate {
        BoundAggregate::Count => {
            if let Total::Int(n) = total {
                *n += 1;
            }
            return;
        }
        BoundAggregate::Sum(column, _) => document.get(*column),
    };
    match (total, value) {
        (Total::Int(sum), Some(Value::Int(n))) => *sum += i128::from(*n),
        (Total::Int(sum), Some(Value::Uint(n))) => *sum += i128::from(*n),
        (Total::Float(sum), Some(Value::Float(x))) => *sum += x,
        _ => {}
    }
}

fn label(query: &Query, aggregates: &[BoundAggregate], totals: &[Total]) -> Vec<(String, Number)> {
    let number = |aggregate: &BoundAggregate, total: &Total| match (aggregate, total) {
        (BoundAggregate::Sum(_, AttributeType::Int), Total::Int(n)) => {
            i64::try_from(*n).map_or(Number::Float(*n as f64), Number::Int)
        }
        (_, Total::Int(n)) => u64::try_from(*n).map_or(Number::Float(*n as f64), Number::Uint),
        (_, Total::Float(x)) => Number::Float(*x),
    };
    let named = query.aggregate_by.iter().zip(aggregates).zip(totals);
    named.map(|(((label, _), aggregate), total)| (label.clone(), number(aggregate, total))).collect()
}
