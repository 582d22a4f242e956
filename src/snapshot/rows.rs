//! Documents as lines of JSON, and back, without losing a bit.
//!
//! A line is what the wire has for a row: `id` and the attributes by name, vectors as base64 of little-endian f32 (which holds
//! every f16 and i8 exactly). `$version` is beside them: clock and origin of the document. Floats are read from their text,
//! since a JSON reader may round the last bit; instants that the wire's notation cannot hold are milliseconds.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::Value as Json;
use serde_json::value::RawValue;

use crate::engine::write::{DOCUMENT_BYTES_MAX, typing};
use crate::error::{Error, Result};
use crate::model::datetime;
use crate::model::document::Document;
use crate::model::ids::{Hlc, Origin, Version};
use crate::model::schema::{AttributeType, ColumnUid, Schema};
use crate::model::value::Value;
use crate::model::value_render::{id_json, to_json};

/// The field that holds a document's version.
const VERSION_FIELD: &str = "$version";

/// The columns of a schema, by identity and by name.
pub struct Columns<'a> {
    schema: &'a Schema,
    by_uid: BTreeMap<ColumnUid, &'a str>,
    by_name: BTreeMap<&'a str, (ColumnUid, AttributeType)>,
}

impl<'a> Columns<'a> {
    pub fn new(schema: &'a Schema) -> Self {
        let columns = || schema.columns.iter().map(|column| (column.uid(), column));
        Columns {
            schema,
            by_uid: columns().map(|(uid, column)| (uid, column.name.as_str())).collect(),
            by_name: columns().map(|(uid, column)| (column.name.as_str(), (uid, column.kind))).collect(),
        }
    }

    /// Appends a document's line, its line break included. Values of columns that the schema has no more are left out.
    pub fn write(&self, document: &Document, out: &mut Vec<u8>) -> Result<()> {
        out.extend_from_slice(b"{\"id\":");
        put(out, &id_json(&document.id))?;
        let Version { hlc, origin } = document.version;
        out.extend_from_slice(format!(",\"{VERSION_FIELD}\":[{},\"{origin}\"]", hlc.0).as_bytes());
        for (uid, value) in &document.fields {
            let Some(name) = self.by_uid.get(uid) else { continue };
            out.push(b',');
            put(out, name)?;
            out.push(b':');
            match value {
                Value::String(text) => put(out, text)?,
                Value::DateTime(millis) => put(out, &instant(*millis))?,
                Value::DateTimes(all) => put(out, &all.iter().map(|millis| instant(*millis)).collect::<Vec<_>>())?,
                other => put(out, &to_json(other, true))?,
            }
        }
        out.extend_from_slice(b"}\n");
        Ok(())
    }

    /// Reads a line; `unversioned` is the version of a document that has none.
    pub fn read(&self, line: &[u8], unversioned: Version, scratch: &mut Vec<u8>) -> Result<Document> {
        let fields: BTreeMap<Cow<'_, str>, &RawValue> = serde_json::from_slice(line)
            .map_err(|error| Error::invalid(format!("expected a JSON object of a document: {error}")))?;
        let (mut id, mut version) = (None, unversioned);
        let mut values = Vec::with_capacity(fields.len());
        for (name, raw) in &fields {
            match name.as_ref() {
                "id" => id = Some(typing::doc_id(&parse(name, raw)?, self.schema.id_type)?),
                VERSION_FIELD => version = read_version(raw)?,
                name => {
                    let Some((uid, kind)) = self.by_name.get(name) else {
                        return Err(Error::invalid(format!(
                            "attribute {name:?} is not in the schema of the first line"
                        )));
                    };
                    if raw.get() != "null" {
                        let value = read_value(*kind, name, raw, scratch)
                            .map_err(|error| error.context(format!("attribute {name:?}")))?;
                        values.push((*uid, value));
                    }
                }
            }
        }
        let id = id.ok_or_else(|| Error::invalid("missing field `id`"))?;
        values.sort_unstable_by_key(|(uid, _)| *uid);
        let document = Document { id, version, fields: values, patch: None };
        if document.logical_bytes() > DOCUMENT_BYTES_MAX {
            return Err(Error::invalid(format!(
                "document of {} bytes is too large, expected at most {DOCUMENT_BYTES_MAX}",
                document.logical_bytes()
            )));
        }
        Ok(document)
    }
}

fn put(out: &mut Vec<u8>, value: &(impl serde::Serialize + ?Sized)) -> Result<()> {
    serde_json::to_writer(out, value).map_err(|error| Error::internal(format!("write a document: {error}")))
}

/// An instant as the wire has it, or its milliseconds where that has no notation for it.
fn instant(millis: i64) -> Json {
    let text = datetime::format(millis);
    if datetime::parse(&text) == Some(millis) { text.into() } else { millis.into() }
}

fn parse(name: &str, raw: &RawValue) -> Result<Json> {
    serde_json::from_str(raw.get()).map_err(|error| Error::invalid(format!("{name}: {error}")))
}

fn read_version(raw: &RawValue) -> Result<Version> {
    let (hlc, origin): (u64, Origin) = serde_json::from_str(raw.get())
        .map_err(|error| Error::invalid(format!("{VERSION_FIELD}: expected a clock and an origin: {error}")))?;
    Ok(Version { hlc: Hlc(hlc), origin })
}

fn read_value(kind: AttributeType, name: &str, raw: &RawValue, scratch: &mut Vec<u8>) -> Result<Value> {
    match kind {
        AttributeType::Float => float(raw).map(Value::Float),
        AttributeType::Floats => {
            let items: Vec<&RawValue> = serde_json::from_str(raw.get())
                .map_err(|error| Error::invalid(format!("expected {kind}: {error}")))?;
            items.into_iter().map(float).collect::<Result<_>>().map(Value::Floats)
        }
        AttributeType::DateTime => match parse(name, raw)? {
            Json::Number(n) if n.is_i64() => Ok(Value::DateTime(n.as_i64().unwrap_or_default())),
            json => typing::value(kind, &json, scratch),
        },
        AttributeType::DateTimes => match parse(name, raw)? {
            Json::Array(items) => {
                let read = |json: Json| match (&json, json.as_i64()) {
                    (_, Some(millis)) => Ok(millis),
                    (Json::String(text), _) => datetime::parse(text).ok_or_else(|| unreadable(kind, text)),
                    _ => Err(unreadable(kind, &typing::show(&json))),
                };
                items.into_iter().map(read).collect::<Result<_>>().map(Value::DateTimes)
            }
            json => typing::value(kind, &json, scratch),
        },
        _ => typing::value(kind, &parse(name, raw)?, scratch),
    }
}

fn unreadable(kind: AttributeType, got: &str) -> Error {
    Error::invalid(format!("expected {kind}, got '{got}'"))
}

fn float(raw: &RawValue) -> Result<f64> {
    // Rust reads a few texts as floats that JSON does not have; `RawValue` has let none of them through but strings.
    let text = raw.get();
    let read = text.parse().ok().filter(|value: &f64| value.is_finite() && !text.starts_with('"'));
    read.ok_or_else(|| unreadable(AttributeType::Float, text))
}

#[cfg(test)]
mod tests {
    use super::{Columns, Version};
    use crate::model::document::Document;
    use crate::model::ids::{DocId, Hlc, IdType, Origin};
    use crate::model::schema::{AttributeType, Column, Schema};
    use crate::model::value::Value;

    fn back(kind: &str, value: Value) -> Value {
        let column = Column::new("a \"name\"", AttributeType::parse(kind).unwrap(), 0);
        let uid = column.uid();
        let schema = Schema { id_type: Some(IdType::String), columns: vec![column], ..Schema::default() };
        let columns = Columns::new(&schema);
        let version = Version { hlc: Hlc(u64::MAX), origin: Origin(3) };
        let document =
            Document { id: DocId::String("i\"d".into()), version, fields: vec![(uid, value)], patch: None };
        let mut line = Vec::new();
        columns.write(&document, &mut line).unwrap();
        let read = columns.read(&line, Version::default(), &mut Vec::new()).unwrap();
        assert_eq!((&read.id, read.version), (&document.id, version));
        read.fields.into_iter().next().unwrap().1
    }

    #[test]
    fn every_bit_of_a_float_comes_back() {
        let mut bits = 0x1234_5678_9abc_def1_u64;
        for _ in 0..20_000 {
            bits = bits.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            let value = f64::from_bits(bits);
            if value.is_finite() {
                let Value::Float(read) = back("float", Value::Float(value)) else { panic!("expected a float") };
                assert_eq!(read.to_bits(), bits);
            }
        }
        for value in [0.0, -0.0, 1e23, 5e-324, f64::MAX, 3.0] {
            let Value::Floats(read) = back("[]float", Value::Floats(vec![value])) else { panic!("expected floats") };
            assert_eq!(read[0].to_bits(), f64::to_bits(value));
        }
    }

    #[test]
    fn instants_beyond_the_wires_notation_come_back() {
        for millis in [i64::MIN, -62_135_596_800_001, 0, 253_402_300_800_000, i64::MAX] {
            assert_eq!(back("datetime", Value::DateTime(millis)), Value::DateTime(millis));
            assert_eq!(back("[]datetime", Value::DateTimes(vec![millis, 7])), Value::DateTimes(vec![millis, 7]));
        }
    }
}
