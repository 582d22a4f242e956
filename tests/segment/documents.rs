//! Documents with every type of value, and segments built from them.

use std::sync::Arc;

use half::f16;
use shoal::model::document::{Document, PatchIntent, Tombstone};
use shoal::model::ids::{DocId, Hlc, Origin, Version};
use shoal::model::schema::{AttributeType, Column, Element, FullText, Metric, Schema};
use shoal::model::value::{Multivector, SparseVector, Value, Vector};
use shoal::platform::mmap::Mapping;
use shoal::segment::builder::{Entry, build};
use shoal::segment::{Segment, Summary};
use uuid::Uuid;

/// One column of each type, named by it.
pub fn schema() -> Schema {
    let kinds = [
        "bool",
        "int",
        "uint",
        "float",
        "string",
        "uuid",
        "datetime",
        "bytes",
        "[]bool",
        "[]int",
        "[]uint",
        "[]float",
        "[]string",
        "[]uuid",
        "[]datetime",
        "[3]f32",
        "[3]f16",
        "[3]i8",
        "{}f16",
    ];
    let mut columns: Vec<Column> =
        kinds.iter().map(|kind| Column::new(*kind, AttributeType::parse(kind).unwrap(), 0)).collect();
    for at in [4, 12] {
        columns[at].full_text = Some(FullText::default());
    }
    Schema { metric: Some(Metric::CosineDistance), columns, ..Schema::default() }
}

/// Columns of several vectors a row: one for late interaction, one stored only.
pub fn token_columns() -> Vec<Column> {
    let column = |kind: &str| Column::new(kind, AttributeType::parse(kind).unwrap(), 0);
    vec![Column { late_interaction: true, ..column("[][2]f32") }, column("[][3]f32")]
}

/// Those of [`schema`], and these.
pub fn schema_with_tokens() -> Schema {
    let mut schema = schema();
    schema.columns.extend(token_columns());
    schema
}

/// [`schema`], and its full-text columns keep positions.
pub fn schema_with_positions() -> Schema {
    let mut schema = schema();
    schema.columns.iter_mut().filter_map(|column| column.full_text.as_mut()).for_each(|text| text.positions = true);
    schema
}

/// A value of a column's type; `n` decides which.
pub fn value(kind: AttributeType, n: u64) -> Value {
    let int = n as i64 - 5;
    let float = n as f64 / 4.0 - 1.0;
    let uuid = Uuid::from_u128(u128::from(n) << 64);
    let text = format!("value-{:03}-{}", n % 40, "x".repeat(n as usize % 30));
    match kind {
        AttributeType::Bool => Value::Bool(n.is_multiple_of(3)),
        AttributeType::Int => Value::Int(int),
        AttributeType::Uint => Value::Uint(n),
        AttributeType::Float => Value::Float(float),
        AttributeType::String => Value::String(text),
        AttributeType::Uuid => Value::Uuid(uuid),
        AttributeType::DateTime => Value::DateTime(int),
        AttributeType::Bytes => Value::Bytes(vec![n as u8; n as usize % 7]),
        AttributeType::Bools => Value::Bools(vec![n.is_multiple_of(2); n as usize % 3]),
        AttributeType::Ints => Value::Ints((0..int % 4).collect()),
        AttributeType::Uints => Value::Uints(vec![n, n / 2, n]),
        AttributeType::Floats => Value::Floats(vec![float, -float]),
        AttributeType::Strings => Value::Strings(vec![text, String::new(), "shared".into()]),
        AttributeType::Uuids => Value::Uuids(vec![uuid; n as usize % 2]),
        AttributeType::DateTimes => Value::DateTimes(vec![int, 0]),
        AttributeType::Sparse => Value::Sparse(SparseVector {
            entries: vec![("a".into(), f16::ONE), (format!("t{n}"), f16::from_f32(0.5))],
        }),
        AttributeType::Multivector { dims } => {
            let elements = (0..n % 4 * u64::from(dims)).map(|at| ((n * 11 + at * 17) % 29) as f32 - 14.0).collect();
            Value::Multivector(Multivector { dims, elements })
        }
        AttributeType::Vector { dims, element } => {
            let numbers = (0..u64::from(dims)).map(|at| ((n * 7 + at * 13) % 31) as f32 - 15.0);
            Value::Vector(match element {
                Element::F32 => Vector::F32(numbers.collect()),
                Element::F16 => Vector::F16(numbers.map(f16::from_f32).collect()),
                Element::I8 => Vector::I8(numbers.map(|x| x as i8).collect()),
            })
        }
    }
}

pub fn id(kind: usize, n: u64) -> DocId {
    match kind {
        0 => DocId::Uint(n * 3),
        1 => DocId::Uuid(Uuid::from_u128(u128::from(n * 3) << 32)),
        _ => DocId::String(format!("{:05}{}", n * 3, "y".repeat(n as usize % 9)).into()),
    }
}

pub fn document(schema: &Schema, id: DocId, n: u64) -> Document {
    let mut fields = Vec::new();
    for (at, column) in schema.columns.iter().enumerate() {
        // Every row lacks some columns; one column nobody has, one all have.
        if at == 6 || at != 7 && !(n + at as u64).is_multiple_of(5) {
            fields.push((column.uid(), value(column.kind, n)));
        }
    }
    fields.sort_by_key(|(uid, _)| *uid);
    let version = Version { hlc: Hlc(1_000 + n), origin: Origin(n % 3) };
    let mut changed = vec![schema.columns[0].uid(), schema.columns[5.min(schema.columns.len() - 1)].uid()];
    changed.sort();
    let patch =
        n.is_multiple_of(4).then_some(PatchIntent { base: Version { hlc: Hlc(n), origin: Origin(9) }, changed });
    Document { id, version, fields, patch }
}

pub fn entries(schema: &Schema, kind: usize, count: u64) -> Vec<Entry> {
    (0..count)
        .map(|n| {
            let document = document(schema, id(kind, n), n);
            match n % 11 {
                7 => Entry::Tombstone(Tombstone { id: document.id, version: document.version }),
                _ => Entry::Row { document: Arc::new(document), terms: Vec::new() },
            }
        })
        .collect()
}

pub fn built(schema: &Schema, entries: &[Entry]) -> (Vec<u8>, Summary) {
    let mut bytes = Vec::new();
    let summary = build(Uuid::from_u128(6), schema, entries, &mut bytes).unwrap();
    assert_eq!((summary.bytes, summary.crc32c), (bytes.len() as u64, crc32c::crc32c(&bytes)));
    open(bytes.clone()).verify().unwrap();
    (bytes, summary)
}

pub fn open(bytes: Vec<u8>) -> Segment {
    Segment::open(Mapping::of_bytes(bytes), "test.seg").unwrap()
}

pub fn documents(entries: &[Entry]) -> Vec<&Document> {
    let rows = entries.iter().filter_map(|entry| match entry {
        Entry::Row { document, .. } => Some(document.as_ref()),
        Entry::Tombstone(_) => None,
    });
    rows.collect()
}
