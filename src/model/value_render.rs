//! Ids and values as the wire has them.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value as Json};

use super::datetime;
use super::document::Document;
use super::ids::DocId;
use super::schema::Schema;
use super::value::{Value, Vector};

/// An id: integers as numbers, UUIDs in lower case.
pub fn id_json(id: &DocId) -> Json {
    match id {
        DocId::Uint(n) => (*n).into(),
        DocId::Uuid(uuid) => uuid.to_string().into(),
        DocId::String(text) => text.as_ref().into(),
    }
}

/// An f32 with the fewest decimals that read back as the same f32.
pub fn f32_json(value: f32) -> Json {
    // Whole numbers of up to 24 bits have the same fewest decimals as an f64; most others do not.
    if value.fract() == 0.0 && value.abs() < 16_777_216.0 {
        return f64::from(value).into();
    }
    let mut text = Digits::default();
    let _ = write!(text, "{value:e}");
    text.as_str().parse::<f64>().map_or(Json::Null, Json::from)
}

/// A value. Dense vectors are arrays of numbers or base64 of little-endian f32, whatever the element type, and multivectors
/// arrays of either; bytes are base64.
pub fn to_json(value: &Value, base64_vectors: bool) -> Json {
    match value {
        Value::Bool(v) => (*v).into(),
        Value::Int(v) => (*v).into(),
        Value::Uint(v) => (*v).into(),
        Value::Float(v) => (*v).into(),
        Value::String(v) => v.as_str().into(),
        Value::Uuid(v) => v.to_string().into(),
        Value::DateTime(v) => datetime::format(*v).into(),
        Value::Bytes(v) => STANDARD.encode(v).into(),
        Value::Bools(v) => v.iter().copied().collect(),
        Value::Ints(v) => v.iter().copied().collect(),
        Value::Uints(v) => v.iter().copied().collect(),
        Value::Floats(v) => v.iter().copied().collect(),
        Value::Strings(v) => v.iter().map(String::as_str).collect(),
        Value::Uuids(v) => v.iter().map(ToString::to_string).collect(),
        Value::DateTimes(v) => v.iter().map(|millis| datetime::format(*millis)).collect(),
        Value::Vector(v) if base64_vectors => base64(&v.to_f32()),
        Value::Vector(Vector::F32(v)) => numbers(v),
        Value::Vector(Vector::F16(v)) => v.iter().map(|x| f32_json(x.to_f32())).collect(),
        Value::Vector(Vector::I8(v)) => v.iter().copied().collect(),
        Value::Multivector(v) => v.tokens().map(if base64_vectors { base64 } else { numbers }).collect(),
        Value::Sparse(v) => {
            let entries = v.entries.iter().map(|(term, weight)| (term.clone(), f32_json(weight.to_f32())));
            Json::Object(entries.collect::<Map<String, Json>>())
        }
    }
}

/// A document as a row: its id and its values by name. Values of columns that the schema does not have are left out.
pub fn document_json(document: &Document, schema: &Schema) -> Json {
    let mut row = Map::new();
    row.insert("id".into(), id_json(&document.id));
    for column in &schema.columns {
        if let Some(value) = document.get(column.uid()) {
            row.insert(column.name.clone(), to_json(value, false));
        }
    }
    Json::Object(row)
}

fn numbers(elements: &[f32]) -> Json {
    elements.iter().map(|x| f32_json(*x)).collect()
}

fn base64(elements: &[f32]) -> Json {
    let bytes: Vec<u8> = elements.iter().flat_map(|x| x.to_le_bytes()).collect();
    STANDARD.encode(bytes).into()
}

/// Text of one number, without the heap.
#[derive(Default)]
struct Digits {
    bytes: [u8; 24],
    len: usize,
}

impl Digits {
    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).unwrap_or_default()
    }
}

impl std::fmt::Write for Digits {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let end = self.len + text.len();
        self.bytes.get_mut(self.len..end).ok_or(std::fmt::Error)?.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{f32_json, id_json, to_json};
    use crate::model::ids::DocId;
    use crate::model::value::{Multivector, SparseVector, Value, Vector};
    use half::f16;
    use serde_json::json;
    use uuid::Uuid;

    #[test]
    fn floats_have_the_fewest_decimals() {
        for (value, text) in [
            (0.7, "0.7"),
            (0.258_030_24, "0.25803024"),
            (2.0, "2.0"),
            (-0.1, "-0.1"),
            (16_777_216.0, "16777216.0"),
            (f32::MAX, "3.4028235e+38"),
            (f32::MIN_POSITIVE, "1.1754944e-38"),
            (1.0e-45, "1e-45"),
        ] {
            assert_eq!(f32_json(value).to_string(), text);
        }
    }

    #[test]
    fn every_f32_reads_back_as_itself() {
        for n in 0..200_000_u32 {
            let value = f32::from_bits(n.wrapping_mul(2_654_435_761));
            if value.is_finite() {
                assert_eq!(f32_json(value).as_f64().map(|x| x as f32), Some(value));
            }
        }
    }

    #[test]
    fn values_are_written_as_the_contract_has_them() {
        let vector = Value::Vector(Vector::F32(vec![0.1, 0.2, 0.3]));
        assert_eq!(to_json(&vector, false), json!([0.1, 0.2, 0.3]));
        assert_eq!(to_json(&vector, true), json!("zczMPc3MTD6amZk+"));
        let bytes = Value::Vector(Vector::I8(vec![-1, 2]));
        assert_eq!(to_json(&bytes, false), json!([-1, 2]));
        assert_eq!(to_json(&bytes, true), json!("AACAvwAAAEA="));
        let tokens = Value::Multivector(Multivector { dims: 3, elements: vec![0.1, 0.2, 0.3, 1.0, 0.5, -1.0] });
        assert_eq!(to_json(&tokens, false), json!([[0.1, 0.2, 0.3], [1.0, 0.5, -1.0]]));
        assert_eq!(to_json(&tokens, true), json!(["zczMPc3MTD6amZk+", "AACAPwAAAD8AAIC/"]));
        let sparse = Value::Sparse(SparseVector { entries: vec![("fugu".into(), f16::from_f32(0.5))] });
        assert_eq!(to_json(&sparse, true), json!({"fugu": 0.5}));
        assert_eq!(to_json(&Value::DateTimes(vec![0]), false), json!(["1970-01-01T00:00:00Z"]));
        assert_eq!(to_json(&Value::Bytes(vec![0, 255]), false), json!("AP8="));
        assert_eq!(to_json(&Value::Uint(u64::MAX), false), json!(u64::MAX));
        assert_eq!(id_json(&DocId::Uuid(Uuid::from_u128(10))), json!("00000000-0000-0000-0000-00000000000a"));
    }
}
