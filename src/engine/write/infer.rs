//! Types of attributes that nobody declared, from the values a write has for them.

use serde_json::Value as Json;

use super::typing;
use crate::error::{Error, Result};
use crate::model::schema::{ATTRIBUTE_NAME_BYTES_MAX, AttributeType, DIMS_MAX, Element};

/// The name under which a dense vector need not be declared.
pub const VECTOR_NAME: &str = "vector";

/// The type that `json` suggests for the attribute `name`; `None` when it suggests none: null, or an empty array. UUIDs,
/// datetimes, unsigned integers, bytes and sparse vectors are never inferred.
pub fn infer(name: &str, json: &Json) -> Result<Option<AttributeType>> {
    if name == VECTOR_NAME {
        return vector(json);
    }
    let undeclared = |what: &str| {
        Error::invalid(format!("attribute '{name}' is not in the schema, and its type cannot be told from {what}"))
            .with_attribute(name)
            .with_hint("declare its type in `schema`")
    };
    Ok(match json {
        Json::Null => None,
        Json::Array(items) => {
            let mut all = None;
            for item in items {
                let Some(one) = element(item) else {
                    let error = undeclared(&format!("an array with {}", typing::describe(item)));
                    return Err(error.with_code("unprocessable"));
                };
                all = match join(all, one) {
                    Some(joined) => Some(joined),
                    None => return Err(undeclared("an array of several types").with_code("unprocessable")),
                };
            }
            all.map(array_of)
        }
        Json::Object(_) => return Err(undeclared("an object")),
        scalar => element(scalar),
    })
}

/// The type for values of both types: whole numbers are floats among floats. `None` when there is no such type.
pub fn join(known: Option<AttributeType>, other: AttributeType) -> Option<AttributeType> {
    use AttributeType::{Float, Floats, Int, Ints};
    match (known, other) {
        (None, other) => Some(other),
        (Some(known), other) if known == other => Some(known),
        (Some(Int | Float), Int | Float) => Some(Float),
        (Some(Ints | Floats), Ints | Floats) => Some(Floats),
        _ => None,
    }
}

/// Checks the name of a new attribute.
pub fn check_name(name: &str) -> Result<()> {
    let wrong = |what: String| Err(Error::invalid(format!("attribute name {name:?} {what}")));
    match name {
        "" => wrong("is empty".into()),
        "id" => wrong("is reserved for the document's id".into()),
        _ if name.len() > ATTRIBUTE_NAME_BYTES_MAX => {
            wrong(format!("has {} bytes, expected at most {ATTRIBUTE_NAME_BYTES_MAX}", name.len()))
        }
        _ if name.starts_with('$') => wrong("starts with '$', which is reserved".into()),
        _ => Ok(()),
    }
}

fn vector(json: &Json) -> Result<Option<AttributeType>> {
    if json.is_null() {
        return Ok(None);
    }
    let dims = typing::vector_dims(json).and_then(|dims| u32::try_from(dims).ok()).filter(|dims| *dims <= DIMS_MAX);
    let Some(dims) = dims else {
        return Err(Error::invalid(format!(
            "attribute '{VECTOR_NAME}': expected 1 to {DIMS_MAX} numbers, as an array or as base64 of little-endian f32, \
             got {} '{}'",
            typing::describe(json),
            typing::show(json)
        ))
        .with_attribute(VECTOR_NAME));
    };
    Ok(Some(AttributeType::Vector { dims, element: Element::F32 }))
}

fn element(json: &Json) -> Option<AttributeType> {
    match json {
        Json::Bool(_) => Some(AttributeType::Bool),
        Json::Number(n) if n.is_i64() || n.is_u64() => Some(AttributeType::Int),
        Json::Number(_) => Some(AttributeType::Float),
        Json::String(_) => Some(AttributeType::String),
        _ => None,
    }
}

fn array_of(element: AttributeType) -> AttributeType {
    match element {
        AttributeType::Bool => AttributeType::Bools,
        AttributeType::Int => AttributeType::Ints,
        AttributeType::Float => AttributeType::Floats,
        _ => AttributeType::Strings,
    }
}

#[cfg(test)]
mod tests {
    use super::{check_name, infer, join};
    use crate::model::schema::AttributeType;
    use serde_json::{Value as Json, json};

    fn inferred(json: Json) -> Option<String> {
        infer("a", &json).unwrap().map(|kind| kind.to_string())
    }

    #[test]
    fn types_follow_the_values() {
        for (json, kind) in [
            (json!("x"), "string"),
            (json!(1), "int"),
            (json!(u64::MAX), "int"),
            (json!(1.5), "float"),
            (json!(true), "bool"),
            (json!(["x"]), "[]string"),
            (json!([1, 2]), "[]int"),
            (json!([1, 2.5]), "[]float"),
            (json!([false]), "[]bool"),
            (json!("2024-01-01T00:00:00Z"), "string"),
        ] {
            assert_eq!(inferred(json).as_deref(), Some(kind));
        }
        assert_eq!(inferred(json!(null)), None);
        assert_eq!(inferred(json!([])), None);
    }

    #[test]
    fn mixed_and_null_elements_are_of_the_wrong_shape() {
        for json in [json!([1, "x"]), json!([1, null]), json!([[1]])] {
            assert_eq!(infer("a", &json).unwrap_err().code(), "unprocessable");
        }
        assert!(infer("a", &json!({"b": 1})).unwrap_err().to_string().contains("cannot be told from an object"));
    }

    #[test]
    fn vector_is_a_vector_whatever_its_encoding() {
        let kind = |json: Json| infer("vector", &json).unwrap().map(|kind| kind.to_string());
        assert_eq!(kind(json!([1, 2.5])).as_deref(), Some("[2]f32"));
        assert_eq!(kind(json!("zczMPc3MTD6amZk+")).as_deref(), Some("[3]f32"));
        assert_eq!(kind(json!(null)), None);
        for json in [json!([]), json!("no vector"), json!(7), json!(["a"]), json!(vec![0; 10_753])] {
            assert!(infer("vector", &json).unwrap_err().to_string().contains("expected 1 to 10752 numbers"));
        }
    }

    #[test]
    fn whole_numbers_are_floats_among_floats() {
        assert_eq!(join(Some(AttributeType::Int), AttributeType::Float), Some(AttributeType::Float));
        assert_eq!(join(Some(AttributeType::Floats), AttributeType::Ints), Some(AttributeType::Floats));
        assert_eq!(join(Some(AttributeType::Int), AttributeType::String), None);
    }

    #[test]
    fn names_have_rules() {
        assert!(check_name("a.b c-ü").is_ok());
        for name in ["", "id", "$dist", &"x".repeat(129)] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
