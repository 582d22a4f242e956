//! The payload of a log frame: one batch of records, bincode 2.0.1 with its standard configuration.
//!
//! The structs here are the layout; the model's types are turned into them and back, and every value is checked again
//! on the way back, because a checksum says that bytes are what was written, not that they make sense.

use bincode::{Decode, Encode};
use half::f16;
use uuid::Uuid;

use super::vectors::decode_tokens;
use crate::error::{Error, Result};
use crate::model::document::Document;
use crate::model::ids::{DocId, Hlc, Origin, STRING_ID_BYTES_MAX, Version};
use crate::model::schema::{ColumnUid, Schema};
use crate::model::value::{Multivector, SparseVector, Value, Vector};

/// The longest payload of one frame, in bytes. A larger commit takes several frames.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 20;
/// What decoding one payload may allocate, in bytes.
const DECODED_BYTES_MAX: usize = 4 * PAYLOAD_BYTES_MAX;

/// What one frame carries: changes that become visible together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Batch {
    pub idempotency: Option<IdempotencyEntry>,
    /// The whole new schema, when this batch changes it.
    pub schema: Option<Schema>,
    /// The next integer id of the writer's newest block; none is left of it at a multiple of 2^32.
    pub ids_reserved: Option<u64>,
    pub records: Vec<Record>,
}

/// One document's change. Its version is the frame's clock and the log's origin.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    Upsert {
        id: DocId,
        fields: Vec<(ColumnUid, Value)>,
    },
    /// The columns set, or cleared with `None`, on top of the version `base`.
    Patch {
        id: DocId,
        base: Version,
        changed: Vec<(ColumnUid, Option<Value>)>,
    },
    Delete {
        id: DocId,
    },
}

/// The answer that a repeated request with the same key gets.
#[derive(Clone, Debug, PartialEq, Encode, Decode)]
pub struct IdempotencyEntry {
    pub key_hash: [u8; 16],
    pub body_hash: [u8; 16],
    pub upserted: u64,
    pub patched: u64,
    pub deleted: u64,
    pub rows_remaining: bool,
    pub filter_matched: Option<u64>,
    pub bytes_written: u64,
}

#[derive(Encode, Decode)]
struct BatchBytes {
    idempotency: Option<IdempotencyEntry>,
    /// JSON, as in the manifest.
    schema: Option<Vec<u8>>,
    ids_reserved: Option<u64>,
    /// Column identities; records name a column by its place here.
    columns: Vec<u64>,
    records: Vec<RecordBytes>,
}

#[derive(Encode, Decode)]
enum RecordBytes {
    Upsert(IdBytes, Vec<(u16, ValueBytes)>),
    Patch(IdBytes, u64, u64, Vec<(u16, Option<ValueBytes>)>),
    Delete(IdBytes),
}

#[derive(Encode, Decode)]
enum IdBytes {
    Uint(u64),
    Uuid([u8; 16]),
    String(String),
}

#[derive(Encode, Decode)]
enum ValueBytes {
    Bool(bool),
    Int(i64),
    Uint(u64),
    Float(f64),
    String(String),
    Uuid([u8; 16]),
    DateTime(i64),
    Bytes(Vec<u8>),
    Bools(Vec<bool>),
    Ints(Vec<i64>),
    Uints(Vec<u64>),
    Floats(Vec<f64>),
    Strings(Vec<String>),
    Uuids(Vec<[u8; 16]>),
    DateTimes(Vec<i64>),
    /// Elements as raw little-endian bytes: a vector is most of a record, and is copied rather than walked.
    VectorF32(Vec<u8>),
    VectorF16(Vec<u8>),
    VectorI8(Vec<u8>),
    /// Terms in order, and each one's f16 weight as its bits.
    Sparse(Vec<(String, u16)>),
    /// Dimensions of each token, and the elements of all as raw little-endian bytes.
    MultivectorF32(u32, Vec<u8>),
}

fn configuration() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<DECODED_BYTES_MAX>()
}

/// The payload of one batch. Fails when it is over [`PAYLOAD_BYTES_MAX`].
pub fn encode_batch(batch: &Batch) -> Result<Vec<u8>> {
    let mut columns: Vec<u64> = Vec::new();
    let mut records = Vec::with_capacity(batch.records.len());
    for record in &batch.records {
        records.push(match record {
            Record::Upsert { id, fields } => {
                let mut out = Vec::with_capacity(fields.len());
                for (uid, value) in fields {
                    out.push((place(&mut columns, *uid)?, value_to_bytes(value)));
                }
                RecordBytes::Upsert(id_to_bytes(id), out)
            }
            Record::Patch { id, base, changed } => {
                let mut out = Vec::with_capacity(changed.len());
                for (uid, value) in changed {
                    out.push((place(&mut columns, *uid)?, value.as_ref().map(value_to_bytes)));
                }
                RecordBytes::Patch(id_to_bytes(id), base.hlc.0, base.origin.0, out)
            }
            Record::Delete { id } => RecordBytes::Delete(id_to_bytes(id)),
        });
    }
    let schema = match &batch.schema {
        Some(schema) => Some(serde_json::to_vec(schema).map_err(|e| Error::internal(format!("encode schema: {e}")))?),
        None => None,
    };
    let bytes = BatchBytes {
        idempotency: batch.idempotency.clone(),
        schema,
        ids_reserved: batch.ids_reserved,
        columns,
        records,
    };
    let payload = bincode::encode_to_vec(&bytes, configuration())
        .map_err(|e| Error::internal(format!("encode log payload: {e}")))?;
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(Error::invalid(format!(
            "this write takes {} bytes in the log, at most {PAYLOAD_BYTES_MAX} fit; send it in smaller batches",
            payload.len()
        ))
        .with_code("too_large"));
    }
    Ok(payload)
}

/// The batch in a payload. `what` names the frame in errors.
pub fn decode_batch(payload: &[u8], what: &str) -> Result<Batch> {
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(Error::corrupt(format!(
            "{what}: payload of {} bytes, expected at most {PAYLOAD_BYTES_MAX}",
            payload.len()
        )));
    }
    let (bytes, used): (BatchBytes, usize) = bincode::decode_from_slice(payload, configuration())
        .map_err(|e| Error::corrupt(format!("{what}: payload does not decode: {e}")))?;
    if used != payload.len() {
        return Err(Error::corrupt(format!("{what}: payload ends at byte {used}, expected {}", payload.len())));
    }
    let schema = match bytes.schema {
        Some(json) => Some(
            serde_json::from_slice(&json)
                .map_err(|e| Error::corrupt(format!("{what}: schema does not parse: {e}")))?,
        ),
        None => None,
    };
    let column = |at: u16| {
        bytes
            .columns
            .get(usize::from(at))
            .map(|uid| ColumnUid(*uid))
            .ok_or_else(|| Error::corrupt(format!("{what}: column {at} of a table of {}", bytes.columns.len())))
    };
    let mut records = Vec::with_capacity(bytes.records.len());
    for record in bytes.records {
        records.push(match record {
            RecordBytes::Upsert(id, fields) => {
                let mut out = Vec::with_capacity(fields.len());
                for (at, value) in fields {
                    out.push((column(at)?, value_from_bytes(value, what)?));
                }
                check_sorted(out.iter().map(|(uid, _)| *uid), what)?;
                Record::Upsert { id: id_from_bytes(id, what)?, fields: out }
            }
            RecordBytes::Patch(id, hlc, origin, fields) => {
                let mut changed = Vec::with_capacity(fields.len());
                for (at, value) in fields {
                    let value = value.map(|value| value_from_bytes(value, what)).transpose()?;
                    changed.push((column(at)?, value));
                }
                check_sorted(changed.iter().map(|(uid, _)| *uid), what)?;
                let base = Version { hlc: Hlc(hlc), origin: Origin(origin) };
                Record::Patch { id: id_from_bytes(id, what)?, base, changed }
            }
            RecordBytes::Delete(id) => Record::Delete { id: id_from_bytes(id, what)? },
        });
    }
    Ok(Batch { idempotency: bytes.idempotency, schema, ids_reserved: bytes.ids_reserved, records })
}

impl Record {
    pub fn id(&self) -> &DocId {
        match self {
            Record::Upsert { id, .. } | Record::Patch { id, .. } | Record::Delete { id } => id,
        }
    }

    /// The record that writes this whole document.
    pub fn upsert(document: &Document) -> Record {
        Record::Upsert { id: document.id.clone(), fields: document.fields.clone() }
    }
}

fn place(columns: &mut Vec<u64>, uid: ColumnUid) -> Result<u16> {
    let at = match columns.iter().position(|known| *known == uid.0) {
        Some(at) => at,
        None => {
            columns.push(uid.0);
            columns.len() - 1
        }
    };
    u16::try_from(at).map_err(|_| Error::internal("a batch names more than 65,536 columns"))
}

fn check_sorted(columns: impl Iterator<Item = ColumnUid>, what: &str) -> Result<()> {
    let mut last = None;
    for uid in columns {
        if last >= Some(uid) {
            return Err(Error::corrupt(format!("{what}: columns of a record are not in ascending order")));
        }
        last = Some(uid);
    }
    Ok(())
}

fn id_to_bytes(id: &DocId) -> IdBytes {
    match id {
        DocId::Uint(n) => IdBytes::Uint(*n),
        DocId::Uuid(u) => IdBytes::Uuid(*u.as_bytes()),
        DocId::String(s) => IdBytes::String(s.to_string()),
    }
}

fn id_from_bytes(id: IdBytes, what: &str) -> Result<DocId> {
    Ok(match id {
        IdBytes::Uint(n) => DocId::Uint(n),
        IdBytes::Uuid(bytes) => DocId::Uuid(Uuid::from_bytes(bytes)),
        IdBytes::String(s) if s.len() <= STRING_ID_BYTES_MAX => DocId::String(s.into()),
        IdBytes::String(s) => {
            return Err(Error::corrupt(format!(
                "{what}: string id of {} bytes, expected at most {STRING_ID_BYTES_MAX}",
                s.len()
            )));
        }
    })
}

fn value_to_bytes(value: &Value) -> ValueBytes {
    match value {
        Value::Bool(v) => ValueBytes::Bool(*v),
        Value::Int(v) => ValueBytes::Int(*v),
        Value::Uint(v) => ValueBytes::Uint(*v),
        Value::Float(v) => ValueBytes::Float(*v),
        Value::String(v) => ValueBytes::String(v.clone()),
        Value::Uuid(v) => ValueBytes::Uuid(*v.as_bytes()),
        Value::DateTime(v) => ValueBytes::DateTime(*v),
        Value::Bytes(v) => ValueBytes::Bytes(v.clone()),
        Value::Bools(v) => ValueBytes::Bools(v.clone()),
        Value::Ints(v) => ValueBytes::Ints(v.clone()),
        Value::Uints(v) => ValueBytes::Uints(v.clone()),
        Value::Floats(v) => ValueBytes::Floats(v.clone()),
        Value::Strings(v) => ValueBytes::Strings(v.clone()),
        Value::Uuids(v) => ValueBytes::Uuids(v.iter().map(|u| *u.as_bytes()).collect()),
        Value::DateTimes(v) => ValueBytes::DateTimes(v.clone()),
        Value::Vector(Vector::F32(v)) => ValueBytes::VectorF32(v.iter().flat_map(|x| x.to_le_bytes()).collect()),
        Value::Vector(Vector::F16(v)) => ValueBytes::VectorF16(v.iter().flat_map(|x| x.to_le_bytes()).collect()),
        Value::Vector(Vector::I8(v)) => ValueBytes::VectorI8(v.iter().flat_map(|x| x.to_le_bytes()).collect()),
        Value::Sparse(v) => {
            ValueBytes::Sparse(v.entries.iter().map(|(term, weight)| (term.clone(), weight.to_bits())).collect())
        }
        Value::Multivector(v) => ValueBytes::MultivectorF32(v.dims, bytemuck::cast_slice(&v.elements).to_vec()),
    }
}

fn value_from_bytes(value: ValueBytes, what: &str) -> Result<Value> {
    let not_finite = || Error::corrupt(format!("{what}: a number is not finite"));
    let ragged = |n: usize| Error::corrupt(format!("{what}: a vector of {n} bytes is not whole elements"));
    Ok(match value {
        ValueBytes::Bool(v) => Value::Bool(v),
        ValueBytes::Int(v) => Value::Int(v),
        ValueBytes::Uint(v) => Value::Uint(v),
        ValueBytes::Float(v) if v.is_finite() => Value::Float(v),
        ValueBytes::Float(_) => return Err(not_finite()),
        ValueBytes::String(v) => Value::String(v),
        ValueBytes::Uuid(v) => Value::Uuid(Uuid::from_bytes(v)),
        ValueBytes::DateTime(v) => Value::DateTime(v),
        ValueBytes::Bytes(v) => Value::Bytes(v),
        ValueBytes::Bools(v) => Value::Bools(v),
        ValueBytes::Ints(v) => Value::Ints(v),
        ValueBytes::Uints(v) => Value::Uints(v),
        ValueBytes::Floats(v) if v.iter().all(|x| x.is_finite()) => Value::Floats(v),
        ValueBytes::Floats(_) => return Err(not_finite()),
        ValueBytes::Strings(v) => Value::Strings(v),
        ValueBytes::Uuids(v) => Value::Uuids(v.into_iter().map(Uuid::from_bytes).collect()),
        ValueBytes::DateTimes(v) => Value::DateTimes(v),
        ValueBytes::VectorF32(v) => {
            let (whole, rest) = v.as_chunks::<4>();
            let out: Vec<f32> = whole.iter().map(|x| f32::from_le_bytes(*x)).collect();
            if !rest.is_empty() {
                return Err(ragged(v.len()));
            }
            if !out.iter().all(|x| x.is_finite()) {
                return Err(not_finite());
            }
            Value::Vector(Vector::F32(out))
        }
        ValueBytes::VectorF16(v) => {
            let (whole, rest) = v.as_chunks::<2>();
            let out: Vec<f16> = whole.iter().map(|x| f16::from_le_bytes(*x)).collect();
            if !rest.is_empty() {
                return Err(ragged(v.len()));
            }
            if !out.iter().all(|x| x.is_finite()) {
                return Err(not_finite());
            }
            Value::Vector(Vector::F16(out))
        }
        ValueBytes::VectorI8(v) => Value::Vector(Vector::I8(v.into_iter().map(u8::cast_signed).collect())),
        ValueBytes::Sparse(v) => {
            let entries: Vec<(String, f16)> = v.into_iter().map(|(t, bits)| (t, f16::from_bits(bits))).collect();
            if !entries.iter().all(|(_, weight)| weight.is_finite()) {
                return Err(not_finite());
            }
            if entries.windows(2).any(|pair| pair[0].0 >= pair[1].0) {
                return Err(Error::corrupt(format!("{what}: terms of a sparse vector are not in ascending order")));
            }
            Value::Sparse(SparseVector { entries })
        }
        ValueBytes::MultivectorF32(0, _) => {
            return Err(Error::corrupt(format!("{what}: a multivector has tokens of no dimensions")));
        }
        ValueBytes::MultivectorF32(dims, v) => {
            Value::Multivector(Multivector { dims, elements: decode_tokens(&v, dims, what)? })
        }
    })
}

#[cfg(test)]
mod tests {
    use super::{Batch, IdempotencyEntry, Record, decode_batch, encode_batch};
    use crate::model::ids::{DocId, Hlc, Origin, Version};
    use crate::model::schema::{AttributeType, Column, ColumnUid, Schema};
    use crate::model::value::{Multivector, SparseVector, Value, Vector};
    use half::f16;
    use uuid::Uuid;

    fn every_value() -> Vec<Value> {
        vec![
            Value::Bool(true),
            Value::Int(i64::MIN),
            Value::Uint(u64::MAX),
            Value::Float(0.1),
            Value::String("0 A.D.".into()),
            Value::Uuid(Uuid::from_u128(7)),
            Value::DateTime(-1),
            Value::Bytes(vec![0, 255]),
            Value::Bools(vec![true, false]),
            Value::Ints(vec![-1, 1]),
            Value::Uints(vec![]),
            Value::Floats(vec![1.5]),
            Value::Strings(vec!["a".into(), String::new()]),
            Value::Uuids(vec![Uuid::nil()]),
            Value::DateTimes(vec![0]),
            Value::Vector(Vector::F32(vec![0.1, -2.0])),
            Value::Vector(Vector::F16(vec![f16::from_f32(0.5)])),
            Value::Vector(Vector::I8(vec![-128, 127])),
            Value::Sparse(SparseVector { entries: vec![("fugu".into(), f16::from_f32(0.654_321))] }),
            Value::Multivector(Multivector { dims: 2, elements: vec![0.1, -2.0, 3.0, 4.0] }),
            Value::Multivector(Multivector { dims: 2, elements: vec![] }),
        ]
    }

    fn a_batch() -> Batch {
        let fields: Vec<_> =
            every_value().into_iter().enumerate().map(|(n, value)| (ColumnUid(n as u64), value)).collect();
        Batch {
            idempotency: Some(IdempotencyEntry {
                key_hash: [1; 16],
                body_hash: [2; 16],
                upserted: 1,
                patched: 1,
                deleted: 1,
                rows_remaining: false,
                filter_matched: Some(0),
                bytes_written: 9,
            }),
            schema: Some(Schema {
                columns: vec![Column::new("title", AttributeType::String, 0)],
                ..Schema::default()
            }),
            ids_reserved: Some(1 << 32),
            records: vec![
                Record::Upsert { id: DocId::Uint(7), fields },
                Record::Patch {
                    id: DocId::String("seven".into()),
                    base: Version { hlc: Hlc(5), origin: Origin(6) },
                    changed: vec![(ColumnUid(3), None), (ColumnUid(9), Some(Value::Ints(vec![4])))],
                },
                Record::Delete { id: DocId::Uuid(Uuid::from_u128(1)) },
            ],
        }
    }

    #[test]
    fn a_batch_of_every_value_comes_back_as_it_was() {
        let batch = a_batch();
        assert_eq!(decode_batch(&encode_batch(&batch).unwrap(), "test").unwrap(), batch);
    }

    #[test]
    fn a_shortened_payload_is_an_error_and_damaged_ones_never_panic() {
        let payload = encode_batch(&a_batch()).unwrap();
        for end in 0..payload.len() {
            assert!(decode_batch(&payload[..end], "test").is_err(), "cut at {end}");
        }
        for at in 0..payload.len() {
            for bit in 0..8 {
                let mut damaged = payload.clone();
                damaged[at] ^= 1 << bit;
                let _ = decode_batch(&damaged, "test");
            }
        }
    }
}
