//! JSON into the types of ids and columns.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use half::f16;
use serde_json::Value as Json;
use uuid::Uuid;

use crate::error::{Context, Error, Result};
use crate::format::dictionary::TERM_BYTES_MAX;
use crate::model::datetime;
use crate::model::ids::{DocId, IdType, STRING_ID_BYTES_MAX};
use crate::model::schema::{AttributeType, Element};
use crate::model::value::{Multivector, SparseVector, Value, Vector};

/// The most terms of one sparse vector.
pub const SPARSE_TERMS_MAX: usize = 1_024;
/// The most tokens of one multivector.
pub const TOKENS_MAX: usize = 8_192;
/// Whole numbers up to here are exact as floats, so `3.0` may stand for `3`.
const WHOLE_FLOAT_MAX: f64 = 9_007_199_254_740_992.0;
/// How much of a value an error shows, in characters.
const SHOWN_CHARS: usize = 120;

/// A scalar, or one element of an array; `None` when the JSON is no such value.
pub fn scalar(kind: AttributeType, json: &Json) -> Option<Value> {
    Some(match kind {
        AttributeType::Bool => Value::Bool(json.as_bool()?),
        AttributeType::Int => Value::Int(int(json)?),
        AttributeType::Uint => Value::Uint(uint(json)?),
        AttributeType::Float => Value::Float(float(json)?),
        AttributeType::String => Value::String(json.as_str()?.to_owned()),
        AttributeType::Uuid => Value::Uuid(uuid(json)?),
        AttributeType::DateTime => Value::DateTime(datetime(json)?),
        _ => return None,
    })
}

/// Whether [`scalar`] reads values of this type.
pub fn is_scalar(kind: AttributeType) -> bool {
    use AttributeType::{Bool, DateTime, Float, Int, String, Uint, Uuid};
    matches!(kind, Bool | Int | Uint | Float | String | Uuid | DateTime)
}

/// A value of a column. `scratch` is room for decoding, kept from one call to the next. Errors say what was expected and
/// what came, not for which document.
pub fn value(kind: AttributeType, json: &Json, scratch: &mut Vec<u8>) -> Result<Value> {
    let converted = match kind {
        AttributeType::Bytes => json.as_str().and_then(|text| STANDARD.decode(text).ok()).map(Value::Bytes),
        AttributeType::Bools => array(kind, json, Json::as_bool)?.map(Value::Bools),
        AttributeType::Ints => array(kind, json, int)?.map(Value::Ints),
        AttributeType::Uints => array(kind, json, uint)?.map(Value::Uints),
        AttributeType::Floats => array(kind, json, float)?.map(Value::Floats),
        AttributeType::Strings => array(kind, json, |json| json.as_str().map(str::to_owned))?.map(Value::Strings),
        AttributeType::Uuids => array(kind, json, uuid)?.map(Value::Uuids),
        AttributeType::DateTimes => array(kind, json, datetime)?.map(Value::DateTimes),
        AttributeType::Vector { dims, element } => return vector(kind, dims, element, json, scratch),
        AttributeType::Multivector { dims } => return multivector(dims, json, scratch).map(Value::Multivector),
        AttributeType::Sparse => return sparse(json),
        _ => scalar(kind, json),
    };
    converted.ok_or_else(|| mismatch(kind, json))
}

/// The element count of a dense vector as the wire has it: an array of numbers, or base64 of little-endian f32. `None`
/// when it is neither, or empty.
pub fn vector_dims(json: &Json) -> Option<usize> {
    let dims = match json {
        Json::Array(items) if items.iter().all(Json::is_number) => items.len(),
        Json::String(text) => {
            let bytes = STANDARD.decode(text).ok()?.len();
            if bytes % 4 != 0 {
                return None;
            }
            bytes / 4
        }
        _ => return None,
    };
    (dims > 0).then_some(dims)
}

/// An id of a namespace with this type of ids; the type the JSON suggests where there is none yet.
pub fn doc_id(json: &Json, id_type: Option<IdType>) -> Result<DocId> {
    let sent = id_type_of(json)?;
    let mixed = |have: IdType| {
        Error::invalid(format!(
            "💔 namespace ID type is {}, but you sent {}; you are not allowed to mix ID types in the same namespace",
            have.name(),
            sent.name()
        ))
    };
    match (json, id_type) {
        (Json::Number(n), None | Some(IdType::Uint)) => n.as_u64().map(DocId::Uint).ok_or_else(not_an_id),
        (Json::String(text), Some(IdType::Uuid)) => Uuid::parse_str(text).map(DocId::Uuid).map_err(|_| {
            Error::invalid("💔 namespace ID type is uuid, but a written ID could not be parsed as uuid")
        }),
        (Json::String(text), None | Some(IdType::String)) => {
            if text.len() > STRING_ID_BYTES_MAX {
                return Err(Error::invalid(format!(
                    "💔 ID of {} bytes is too long, expected at most {STRING_ID_BYTES_MAX}: {}",
                    text.len(),
                    show(json)
                )));
            }
            Ok(DocId::String(text.as_str().into()))
        }
        (_, Some(have)) => Err(mixed(have)),
        (_, None) => Err(not_an_id()),
    }
}

/// The type of ids that this one starts in a namespace without any.
pub fn id_type_of(json: &Json) -> Result<IdType> {
    match json {
        Json::Number(n) if n.is_u64() => Ok(IdType::Uint),
        Json::Number(n) if n.is_i64() => Err(Error::invalid("💔 int is not a valid ID type")),
        Json::Number(_) => Err(Error::invalid("💔 float is not a valid ID type")),
        Json::String(_) => Ok(IdType::String),
        _ => Err(not_an_id()),
    }
}

fn not_an_id() -> Error {
    Error::invalid(
        "Failed to deserialize the JSON body into the target type: id: data did not match any variant of untagged enum Id",
    )
    .with_code("unprocessable")
}

/// A value as errors show it: strings bare, arrays as `[a, b]`, cut short.
pub fn show(json: &Json) -> String {
    let text = match json {
        Json::String(text) => text.clone(),
        Json::Array(items) => {
            let shown: Vec<String> = items.iter().take(SHOWN_CHARS).map(show).collect();
            format!("[{}]", shown.join(", "))
        }
        other => other.to_string(),
    };
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text,
    }
}

/// What a JSON value is, in the words of the schema.
pub fn describe(json: &Json) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "bool",
        Json::Number(n) if n.is_i64() || n.is_u64() => "int",
        Json::Number(_) => "float",
        Json::String(_) => "string",
        Json::Array(_) => "array",
        Json::Object(_) => "object",
    }
}

fn mismatch(kind: AttributeType, json: &Json) -> Error {
    let form = match kind {
        AttributeType::Bytes => " as base64",
        AttributeType::DateTime => " such as 2026-01-31 or 2026-01-31T12:00:00Z",
        _ => "",
    };
    Error::invalid(format!("expected {kind}{form}, got {}", got(json)))
}

/// A value and what it is, as errors show it.
fn got(json: &Json) -> String {
    if json.is_null() { "null".to_owned() } else { format!("{} '{}'", describe(json), show(json)) }
}

fn int(json: &Json) -> Option<i64> {
    json.as_i64().or_else(|| whole(json).map(|x| x as i64))
}

fn uint(json: &Json) -> Option<u64> {
    json.as_u64().or_else(|| whole(json).filter(|x| *x >= 0.0).map(|x| x as u64))
}

fn whole(json: &Json) -> Option<f64> {
    let Json::Number(n) = json else { return None };
    if !n.is_f64() {
        return None;
    }
    n.as_f64().filter(|x| x.fract() == 0.0 && x.abs() <= WHOLE_FLOAT_MAX)
}

fn float(json: &Json) -> Option<f64> {
    json.as_f64().filter(|x| x.is_finite())
}

fn uuid(json: &Json) -> Option<Uuid> {
    json.as_str().and_then(|text| Uuid::parse_str(text).ok())
}

fn datetime(json: &Json) -> Option<i64> {
    json.as_str().and_then(datetime::parse)
}

/// `None` when it is no array; an error when an element is not of the type.
fn array<T>(kind: AttributeType, json: &Json, element: impl Fn(&Json) -> Option<T>) -> Result<Option<Vec<T>>> {
    let Json::Array(items) = json else { return Ok(None) };
    let mut out = Vec::with_capacity(items.len());
    for (at, item) in items.iter().enumerate() {
        out.push(element(item).ok_or_else(|| {
            Error::invalid(format!(
                "expected {kind}, got {} as element {at}; all elements must be of one type, none null",
                got(item)
            ))
            .with_code("unprocessable")
        })?);
    }
    Ok(Some(out))
}

/// The elements of a vector, to the end of `out`.
fn elements(kind: AttributeType, dims: u32, json: &Json, scratch: &mut Vec<u8>, out: &mut Vec<f32>) -> Result<()> {
    let dims = dims as usize;
    match json {
        Json::String(text) => {
            scratch.clear();
            let decoded = STANDARD.decode_vec(text, scratch);
            decoded.map_err(|_| Error::invalid(format!("expected {kind}, got a string that is not base64")))?;
            let (whole, rest) = scratch.as_chunks::<4>();
            if whole.len() != dims || !rest.is_empty() {
                return Err(Error::invalid(format!(
                    "expected {kind} as base64 of {} bytes of f32, got {} bytes",
                    dims * 4,
                    scratch.len()
                )));
            }
            if !whole.iter().all(|x| f32::from_le_bytes(*x).is_finite()) {
                return Err(Error::invalid(format!("expected {kind}, got an element that is not finite")));
            }
            out.extend(whole.iter().map(|x| f32::from_le_bytes(*x)));
        }
        Json::Array(items) => {
            if items.len() != dims {
                return Err(Error::invalid(format!("expected {kind}, got an array of {} elements", items.len())));
            }
            for (at, item) in items.iter().enumerate() {
                let Some(x) = item.as_f64().map(|x| x as f32).filter(|x| x.is_finite()) else {
                    return Err(Error::invalid(format!("expected {kind}, got {} as element {at}", got(item))));
                };
                out.push(x);
            }
        }
        _ => return Err(mismatch(kind, json)),
    }
    Ok(())
}

/// Vectors one after the other, each as a vector of its own would be given.
fn multivector(dims: u32, json: &Json, scratch: &mut Vec<u8>) -> Result<Multivector> {
    let kind = AttributeType::Multivector { dims };
    let Json::Array(tokens) = json else { return Err(mismatch(kind, json)) };
    if tokens.len() > TOKENS_MAX {
        let message = format!("expected {kind} of at most {TOKENS_MAX} vectors, got {}", tokens.len());
        return Err(Error::invalid(message).with_hint("split the document, or pool vectors that are alike"));
    }
    let of_token = AttributeType::Vector { dims, element: Element::F32 };
    let mut all = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        elements(of_token, dims, token, scratch, &mut all).context(|| format!("vector {at} of {kind}"))?;
    }
    Ok(Multivector { dims, elements: all })
}

fn vector(kind: AttributeType, dims: u32, element: Element, json: &Json, scratch: &mut Vec<u8>) -> Result<Value> {
    let mut found = Vec::with_capacity(dims as usize);
    elements(kind, dims, json, scratch, &mut found)?;
    let elements = found;
    Ok(Value::Vector(match element {
        Element::F32 => Vector::F32(elements),
        Element::F16 => {
            let out: Vec<f16> = elements.into_iter().map(f16::from_f32).collect();
            if !out.iter().all(|x| x.is_finite()) {
                return Err(Error::invalid(format!("expected {kind}, got an element beyond ±65504")));
            }
            Vector::F16(out)
        }
        Element::I8 => {
            if !elements.iter().all(|x| x.fract() == 0.0 && (-128.0..=127.0).contains(x)) {
                return Err(Error::invalid(format!(
                    "expected {kind}, got an element that is not a whole number from -128 to 127"
                )));
            }
            Vector::I8(elements.into_iter().map(|x| x as i8).collect())
        }
    }))
}

fn sparse(json: &Json) -> Result<Value> {
    let Json::Object(map) = json else { return Err(mismatch(AttributeType::Sparse, json)) };
    if map.len() > SPARSE_TERMS_MAX {
        return Err(Error::invalid(format!(
            "expected a sparse vector of at most {SPARSE_TERMS_MAX} terms, got {}",
            map.len()
        )));
    }
    let mut entries = Vec::with_capacity(map.len());
    for (term, weight) in map {
        if term.len() > TERM_BYTES_MAX {
            return Err(Error::invalid(format!(
                "expected terms of a sparse vector of at most {TERM_BYTES_MAX} bytes, got {} bytes: '{}'",
                term.len(),
                term.chars().take(SHOWN_CHARS).collect::<String>()
            )));
        }
        let rounded = weight.as_f64().map(f16::from_f64).filter(|x| x.is_finite());
        let Some(rounded) = rounded else {
            return Err(Error::invalid(format!(
                "expected {{}}f16, got {} as the weight of '{}'",
                got(weight),
                term.chars().take(SHOWN_CHARS).collect::<String>()
            )));
        };
        entries.push((term.clone(), rounded));
    }
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(Value::Sparse(SparseVector { entries }))
}

#[cfg(test)]
mod tests {
    use super::{doc_id, scalar, show, value, vector_dims};
    use crate::error::Result;
    use crate::model::ids::{DocId, IdType};
    use crate::model::schema::AttributeType;
    use crate::model::value::{Multivector, Value, Vector};
    use half::f16;
    use serde_json::{Value as Json, json};

    fn typed(kind: &str, json: Json) -> Result<Value> {
        value(AttributeType::parse(kind).unwrap(), &json, &mut Vec::new())
    }

    fn refused(kind: &str, json: Json) -> String {
        typed(kind, json).unwrap_err().to_string()
    }

    #[test]
    fn scalars_take_the_columns_type() {
        assert_eq!(typed("int", json!(-3)).unwrap(), Value::Int(-3));
        assert_eq!(typed("int", json!(3.0)).unwrap(), Value::Int(3));
        assert_eq!(typed("uint", json!(u64::MAX)).unwrap(), Value::Uint(u64::MAX));
        assert_eq!(typed("float", json!(3)).unwrap(), Value::Float(3.0));
        assert_eq!(typed("datetime", json!("1970-01-02")).unwrap(), Value::DateTime(86_400_000));
        assert_eq!(typed("bytes", json!("AP8=")).unwrap(), Value::Bytes(vec![0, 255]));
        assert!(refused("int", json!(u64::MAX)).contains("expected int, got int '18446744073709551615'"));
        assert!(refused("uint", json!(-1)).contains("expected uint"));
        assert!(refused("int", json!(1.5)).contains("got float '1.5'"));
        assert!(refused("uuid", json!("x")).contains("expected uuid"));
        assert!(refused("bytes", json!("*")).contains("expected bytes"));
        assert!(scalar(AttributeType::Strings, &json!("a")).is_none());
    }

    #[test]
    fn arrays_have_elements_of_one_type_and_no_null() {
        assert_eq!(typed("[]string", json!(["a", ""])).unwrap(), Value::Strings(vec!["a".into(), String::new()]));
        assert_eq!(typed("[]float", json!([1, 2.5])).unwrap(), Value::Floats(vec![1.0, 2.5]));
        assert_eq!(typed("[]int", json!([])).unwrap(), Value::Ints(vec![]));
        let error = typed("[]string", json!(["a", null])).unwrap_err();
        assert_eq!(error.code(), "unprocessable");
        assert!(refused("[]int", json!(7)).contains("expected []int, got int '7'"));
    }

    #[test]
    fn vectors_come_as_numbers_or_base64_of_f32() {
        let expected = Value::Vector(Vector::F32(vec![0.1, 0.2, 0.3]));
        assert_eq!(typed("[3]f32", json!([0.1, 0.2, 0.3])).unwrap(), expected);
        assert_eq!(typed("[3]f32", json!("zczMPc3MTD6amZk+")).unwrap(), expected);
        let halves = Value::Vector(Vector::F16([0.1, 0.2, 0.3].map(f16::from_f32).to_vec()));
        assert_eq!(typed("[3]f16", json!("zczMPc3MTD6amZk+")).unwrap(), halves);
        assert_eq!(typed("[2]i8", json!([-128, 127.0])).unwrap(), Value::Vector(Vector::I8(vec![-128, 127])));
        assert!(refused("[2]f32", json!([1])).contains("expected [2]f32, got an array of 1 elements"));
        assert!(refused("[2]f32", json!("zczMPc3MTD6amZk+")).contains("8 bytes of f32, got 12 bytes"));
        assert!(refused("[1]f32", json!([1e39])).contains("element 0"));
        assert!(refused("[1]f32", json!("AADAfw==")).contains("not finite"));
        assert!(refused("[1]f16", json!([70_000])).contains("65504"));
        assert!(refused("[1]i8", json!([128])).contains("from -128 to 127"));
        assert!(refused("[1]f32", json!({"a": 1})).contains("got object"));
        assert_eq!(vector_dims(&json!("zczMPc3MTD6amZk+")), Some(3));
        assert_eq!(vector_dims(&json!([])), None);
        assert_eq!(vector_dims(&json!("zczM")), None);
    }

    #[test]
    fn multivectors_are_arrays_of_vectors_of_one_length() {
        let expected = Value::Multivector(Multivector { dims: 3, elements: vec![0.1, 0.2, 0.3, 1.0, 2.0, 3.0] });
        assert_eq!(typed("[][3]f32", json!([[0.1, 0.2, 0.3], [1, 2, 3]])).unwrap(), expected);
        assert_eq!(typed("[][3]f32", json!(["zczMPc3MTD6amZk+", [1, 2, 3]])).unwrap(), expected);
        let none = Value::Multivector(Multivector { dims: 3, elements: vec![] });
        assert_eq!(typed("[][3]f32", json!([])).unwrap(), none);
        let ragged = refused("[][2]f32", json!([[1, 2], [1, 2, 3]]));
        assert!(ragged.contains("vector 1 of [][2]f32: expected [2]f32, got an array of 3 elements"), "{ragged}");
        assert!(refused("[][2]f32", json!([1, 2])).contains("vector 0 of [][2]f32: expected [2]f32, got int '1'"));
        assert!(refused("[][2]f32", json!([[1, null]])).contains("got null as element 1"));
        assert!(refused("[][2]f32", json!("zczMPQ==")).contains("expected [][2]f32, got string"));
        assert!(refused("[][1]f32", json!(vec![[1]; 8_193])).contains("at most 8192 vectors, got 8193"));
    }

    #[test]
    fn sparse_weights_are_rounded_to_f16_in_term_order() {
        let Value::Sparse(sparse) = typed("{}f16", json!({"whale": 0.5, "fugu": 0.654_321})).unwrap() else {
            panic!("expected a sparse vector")
        };
        assert_eq!(sparse.entries[0], ("fugu".into(), f16::from_f32(0.654_321)));
        assert_eq!(sparse.entries[1].0, "whale");
        assert!(refused("{}f16", json!({"a": "b"})).contains("as the weight of 'a'"));
        assert!(refused("{}f16", json!({"a": 1e6})).contains("as the weight of 'a'"));
        let long = "a".repeat(super::TERM_BYTES_MAX + 1);
        assert!(refused("{}f16", json!({ long: 1 })).contains("at most 65536 bytes, got 65537 bytes: 'aaa"));
        assert!(refused("{}f16", json!([1])).contains("expected {}f16"));
    }

    #[test]
    fn ids_are_of_one_type() {
        assert_eq!(doc_id(&json!(7), None).unwrap(), DocId::Uint(7));
        assert_eq!(doc_id(&json!("7"), None).unwrap(), DocId::String("7".into()));
        let braced = doc_id(&json!("{769C134D-07B8-4225-954A-B6CC5FFC320C}"), Some(IdType::Uuid)).unwrap();
        assert_eq!(braced.to_string(), "769c134d-07b8-4225-954a-b6cc5ffc320c");
        let error = |json: Json, id_type| doc_id(&json, id_type).unwrap_err().to_string();
        assert_eq!(
            error(json!("a"), Some(IdType::Uint)),
            "💔 namespace ID type is uint, but you sent string; you are not allowed to mix ID types in the same \
             namespace"
        );
        assert_eq!(
            error(json!("a"), Some(IdType::Uuid)),
            "💔 namespace ID type is uuid, but a written ID could not be parsed as uuid"
        );
        assert_eq!(error(json!(-1), None), "💔 int is not a valid ID type");
        assert!(error(json!("a".repeat(65)), None).contains("65 bytes is too long"));
        assert!(error(json!(null), None).contains("data did not match any variant of untagged enum Id"));
    }

    #[test]
    fn shown_values_are_cut_short() {
        assert_eq!(show(&json!(["python", 1])), "[python, 1]");
        assert!(show(&json!("é".repeat(1_000))).chars().count() < 130);
    }
}
