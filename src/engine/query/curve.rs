//! Distances of attributes from an origin, and the curves that make scores of them.

use serde_json::Value as Json;

use super::plan::column_to_rank;
use crate::engine::write::typing;
use crate::error::{Error, Result};
use crate::model::query::{Clause, Curve};
use crate::model::schema::{AttributeType, ColumnUid, Schema};
use crate::model::value::Value;

/// Binds a `Dist`: the column, and the origin as one of its values.
pub(super) fn bind_origin(schema: &Schema, attribute: &str, origin: &Json) -> Result<(ColumnUid, Value)> {
    use AttributeType::{DateTime, Float, Int, Uint};
    let column = column_to_rank(schema, attribute)?;
    if !matches!(column.kind, Int | Uint | Float | DateTime) {
        return Err(Error::invalid(format!(
            "💔 attribute \"{attribute}\" has type {}, only numbers and datetimes have a Dist",
            column.kind
        )));
    }
    let value = typing::value(column.kind, origin, &mut Vec::new())
        .map_err(|error| error.context(format_args!("invalid origin of Dist for rank_by field \"{attribute}\"")))?;
    Ok((column.uid(), value))
}

/// Checks that a midpoint and what it is compared with are of one kind.
pub(super) fn check(schema: &Schema, curve: &Curve, of: &Clause) -> Result<()> {
    let is_time = match of {
        Clause::Dist { attribute, .. } => {
            schema.column(attribute).is_some_and(|column| column.kind == AttributeType::DateTime)
        }
        _ => false,
    };
    if curve.is_duration && !is_time {
        return Err(Error::invalid(
            "💔 rank_by: a midpoint is a duration, but what it is for is no Dist of a datetime",
        )
        .with_hint("give the midpoint as a number"));
    }
    Ok(())
}

/// How far a value is from an origin of its type; of datetimes in milliseconds.
pub(super) fn distance(value: &Value, origin: &Value) -> f64 {
    match (value, origin) {
        (Value::Int(a), Value::Int(b)) | (Value::DateTime(a), Value::DateTime(b)) => a.abs_diff(*b) as f64,
        (Value::Uint(a), Value::Uint(b)) => a.abs_diff(*b) as f64,
        (Value::Float(a), Value::Float(b)) => (a - b).abs().min(f64::MAX),
        _ => f64::NAN,
    }
}

/// From 0 at 0 over one half at the midpoint to 1. What is negative counts as 0; NaN stays NaN.
pub(super) fn saturate(curve: &Curve, x: f64) -> f64 {
    1.0 / (1.0 + (curve.midpoint / not_negative(x)).powf(curve.exponent))
}

/// From 1 at 0 over one half at the midpoint to 0.
pub(super) fn decay(curve: &Curve, x: f64) -> f64 {
    1.0 / (1.0 + (not_negative(x) / curve.midpoint).powf(curve.exponent))
}

fn not_negative(x: f64) -> f64 {
    // Adding 0 turns -0 into 0, which must not divide to minus infinity.
    if x < 0.0 { 0.0 } else { x + 0.0 }
}

#[cfg(test)]
mod tests {
    use super::{Curve, Value, decay, distance, saturate};

    #[test]
    fn the_contract_s_golden_value_is_reproduced() {
        let half = Curve { midpoint: 0.5, is_duration: false, exponent: 1.0 };
        assert_eq!(saturate(&half, 1.234_567_891_234) as f32, 0.711_743_8);
    }

    #[test]
    fn curves_go_from_end_to_end() {
        for exponent in [0.5, 1.0, 7.0, 1e300] {
            let curve = Curve { midpoint: 3.0, is_duration: false, exponent };
            for (x, high) in [(-5.0, 0.0), (-0.0, 0.0), (0.0, 0.0), (3.0, 0.5), (f64::MAX, 1.0)] {
                let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
                assert!(near(saturate(&curve, x), high) && near(decay(&curve, x), 1.0 - high), "{exponent} {x}");
            }
            assert!(saturate(&curve, f64::NAN).is_nan() && decay(&curve, f64::NAN).is_nan());
        }
    }

    #[test]
    fn distances_are_exact_where_numbers_are_far_apart() {
        assert_eq!(distance(&Value::Int(i64::MIN), &Value::Int(i64::MAX)), u64::MAX as f64);
        assert_eq!(distance(&Value::Uint(3), &Value::Uint(7)), 4.0);
        assert_eq!(distance(&Value::Float(f64::MAX), &Value::Float(-f64::MAX)), f64::MAX);
        assert_eq!(distance(&Value::DateTime(5), &Value::DateTime(-5)), 10.0);
    }
}
