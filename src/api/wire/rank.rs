//! What rows are ordered by, from JSON.

use serde_json::Value as Json;

use super::filter::parse_filter;
use super::shape::{boolean, brief, map, number, refuse_unknown, take, wrong};
use crate::engine::filter::bind::is_operator;
use crate::error::{Error, Result};
use crate::model::query::{Clause, Curve, Direction, Rank};

/// The most attributes rows may be ordered by.
pub const ORDER_ATTRIBUTES_MAX: usize = 8;
/// The most clauses one score may have, and how deep they may nest.
pub const CLAUSES_MAX: usize = 1_024;
pub const CLAUSE_DEPTH_MAX: usize = 16;

/// The operators behind an attribute's name.
const OPERATORS: [&str; 6] = ["ANN", "kNN", "BM25", "SparseKNN", "asc", "desc"];

/// Reads `rank_by`; errors carry `path`. `clauses` counts those read so far, which share a bound.
pub fn parse_rank(path: &str, json: Json, clauses: &mut usize) -> Result<Rank> {
    let items = match json {
        Json::Array(items) => items,
        other => return Err(no_rank(path, &other)),
    };
    match items.as_slice() {
        [] => Err(Error::invalid("💔 rank_by cannot be empty")),
        [Json::Array(_), ..] => {
            if items.len() > ORDER_ATTRIBUTES_MAX {
                return Err(Error::invalid(format!(
                    "{path}: at most {ORDER_ATTRIBUTES_MAX} attributes to order by, got {}",
                    items.len()
                )));
            }
            items.iter().map(|item| order(path, item)).collect::<Result<_>>().map(Rank::Attributes)
        }
        [Json::String(_), Json::String(direction)] if matches!(direction.as_str(), "asc" | "desc") => {
            Ok(Rank::Attributes(vec![order(path, &Json::Array(items))?]))
        }
        [Json::String(attribute), Json::String(op), vector] if matches!(op.as_str(), "ANN" | "kNN") => {
            refuse_embed(vector)?;
            let (attribute, vector) = (attribute.clone(), vector.clone());
            Ok(if op == "ANN" { Rank::Ann { attribute, vector } } else { Rank::Knn { attribute, vector } })
        }
        _ => parse_clause(path, Json::Array(items), clauses).map(Rank::Score),
    }
}

/// Reads a score.
pub fn parse_clause(path: &str, json: Json, clauses: &mut usize) -> Result<Clause> {
    clause(path, json, 0, clauses)
}

/// Refuses to embed the text that stands for a vector.
pub fn refuse_embed(vector: &Json) -> Result<()> {
    if vector.get(0).and_then(Json::as_str) == Some("Embed") {
        return Err(Error::unsupported("Embed is not offered: this daemon runs no models")
            .with_hint("embed the text in the application and pass the vector"));
    }
    Ok(())
}

fn order(path: &str, json: &Json) -> Result<(String, Direction)> {
    let pair = json.as_array().map(Vec::as_slice);
    let Some([Json::String(attribute), Json::String(direction)]) = pair else { return Err(no_rank(path, json)) };
    let direction = match direction.as_str() {
        "asc" => Direction::Asc,
        "desc" => Direction::Desc,
        other => return Err(wrong(path, format!("unknown variant `{other}`, expected `asc` or `desc`"))),
    };
    Ok((attribute.clone(), direction))
}

fn clause(path: &str, json: Json, depth: usize, clauses: &mut usize) -> Result<Clause> {
    *clauses += 1;
    if depth > CLAUSE_DEPTH_MAX || *clauses > CLAUSES_MAX {
        return Err(Error::invalid(format!(
            "{path}: score is too large, at most {CLAUSES_MAX} clauses nested {CLAUSE_DEPTH_MAX} deep"
        )));
    }
    let items = match &json {
        Json::Array(items) => items.as_slice(),
        _ => return Err(no_rank(path, &json)),
    };
    let mut inner = |json: &Json| clause(path, json.clone(), depth + 1, clauses);
    match items {
        [Json::String(op), Json::Array(parts)] if op == "Sum" => {
            parts.iter().map(inner).collect::<Result<_>>().map(Clause::Sum)
        }
        [Json::String(op), Json::Array(parts)] if op == "Max" => parts
            .iter()
            .map(|part| if part.is_number() { constant(path, part).map(Clause::Constant) } else { inner(part) })
            .collect::<Result<_>>()
            .map(Clause::Max),
        [Json::String(op), a, b] if op == "Product" && (a.is_number() || b.is_number()) => {
            let (weight, of) = if a.is_number() { (a, b) } else { (b, a) };
            Ok(Clause::Product(constant(path, weight)?, Box::new(inner(of)?)))
        }
        [Json::String(op), Json::String(attribute)] if op == "Attribute" => Ok(Clause::Attribute(attribute.clone())),
        [Json::String(op), Json::Array(of), origin] if op == "Dist" => match of.as_slice() {
            [Json::String(op), Json::String(attribute)] if op == "Attribute" => {
                Ok(Clause::Dist { attribute: attribute.clone(), origin: origin.clone() })
            }
            _ => {
                Err(Error::invalid(format!("{path}: Dist measures [\"Attribute\", name], got {}", brief(&items[1]))))
            }
        },
        [Json::String(op), of, options] if of.is_array() && matches!(op.as_str(), "Saturate" | "Decay") => {
            let curve = curve(path, op, options)?;
            let of = Box::new(inner(of)?);
            Ok(if op == "Decay" { Clause::Decay(of, curve) } else { Clause::Saturate(of, curve) })
        }
        [Json::String(_), Json::String(op), ..] if matches!(op.as_str(), "ANN" | "kNN") => {
            Err(Error::invalid(format!("{path}: {op} cannot be part of a score, distances and scores do not add up"))
                .with_hint("give it a query of its own in `queries`, and fuse them with rerank_by [\"RRF\"]"))
        }
        [Json::String(attribute), Json::String(op), query, params @ ..] if op == "BM25" && params.len() <= 1 => {
            let last_as_prefix = params.first().and_then(|params| params.get("last_as_prefix"));
            let last_as_prefix = last_as_prefix.map(|json| boolean(path, json)).transpose()?.unwrap_or(false);
            Ok(Clause::Bm25 { attribute: attribute.clone(), query: query.clone(), last_as_prefix })
        }
        [Json::String(attribute), Json::String(op), vector] if op == "SparseKNN" => {
            refuse_embed(vector)?;
            Ok(Clause::SparseKnn { attribute: attribute.clone(), vector: vector.clone() })
        }
        [Json::String(attribute), Json::String(op), ..] if misspelt(op).is_some() => {
            let expected = misspelt(op).unwrap_or_default();
            Err(Error::invalid(format!("{path}: unknown operator {op} behind \"{attribute}\", expected {expected}")))
        }
        [Json::String(attribute), Json::String(op), _] | [Json::String(attribute), Json::String(op), _, _]
            if !is_operator(op) =>
        {
            Err(Error::invalid(format!(
                "{path}: unknown operator {op} behind \"{attribute}\", expected {}, or a filter's operator such as Eq",
                OPERATORS.join(", ")
            )))
        }
        [Json::String(_), _, _] | [Json::String(_), _, _, _] | [Json::String(_), Json::Array(_)] => {
            parse_filter(path, json).map(Clause::Filter)
        }
        _ => Err(no_rank(path, &json)),
    }
}

/// Reads the options of `Saturate` and `Decay`.
fn curve(path: &str, op: &str, json: &Json) -> Result<Curve> {
    let mut options = map(path, json.clone(), "a map")?;
    let Some(midpoint) = take(&mut options, "midpoint") else {
        return Err(Error::invalid(format!("{path}: {op} has no `midpoint`, where its result is one half")));
    };
    let duration = midpoint.as_str().and_then(milliseconds);
    let exponent = take(&mut options, "exponent").map(|json| number(path, &json)).transpose()?.unwrap_or(1.0);
    refuse_unknown(&options, "`midpoint`, `exponent`")?;
    let is_positive = |x: &f64| x.is_finite() && *x > 0.0;
    let Some(value) = duration.or(midpoint.as_f64()).filter(is_positive) else {
        return Err(Error::invalid(format!(
            "{path}: midpoint of {op} is {}, expected a positive number, or a duration such as \"12h\"",
            brief(&midpoint)
        )));
    };
    if !is_positive(&exponent) {
        return Err(Error::invalid(format!("{path}: exponent of {op} is {exponent}, expected a positive number")));
    }
    Ok(Curve { midpoint: value, is_duration: duration.is_some(), exponent })
}

/// A duration such as `90s`, in milliseconds.
fn milliseconds(text: &str) -> Option<f64> {
    let (number, unit) = text.split_at(text.find(|c: char| c.is_ascii_alphabetic())?);
    let unit = match unit {
        "ms" => 1.0,
        "s" => 1_000.0,
        "m" => 60_000.0,
        "h" => 3_600_000.0,
        "d" => 86_400_000.0,
        "w" => 604_800_000.0,
        _ => return None,
    };
    number.parse::<f64>().ok().map(|number| number * unit)
}

/// The operator that was meant, where only its case is wrong.
fn misspelt(op: &str) -> Option<&'static str> {
    OPERATORS.into_iter().find(|known| known.eq_ignore_ascii_case(op) && *known != op)
}

fn no_rank(path: &str, got: &Json) -> Error {
    wrong(path, "data did not match any variant of untagged enum RankBy").with_hint(format!(
        "expected [\"attribute\", \"ANN\", vector], [\"attribute\", \"BM25\", text], [\"attribute\", \"asc\"] or a score, \
         got {}",
        brief(got)
    ))
}

/// A weight or floor: finite and not negative.
fn constant(path: &str, json: &Json) -> Result<f64> {
    let value = number(path, json)?;
    if value.is_finite() && value >= 0.0 {
        return Ok(value);
    }
    Err(Error::invalid(format!("{path}: constants in rank_by must not be negative, got {json}")))
}
