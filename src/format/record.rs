//! The payload of a log frame: one batch of records, bincode 2.0.1 with its standard configuration.
//!
//! The structs of `record_bytes` are the layout; the model's types are turned into them and back, and every value is checked
//! again on the way back, because a checksum says that bytes are what was written, not that they make sense.
//!
//! The payload's length is the only bound, so whatever is encoded decodes. A payload is read record by record: it takes the
//! memory of one record.

use bincode::{BorrowDecode, Decode, Encode};

pub use super::record_bytes::encoded_bytes;
use super::record_bytes::{
    HeadBytes, List, RecordBytes, count_bytes, id_from_bytes, id_to_bytes, value_from_bytes, value_to_bytes,
};
use crate::error::{Error, Result};
use crate::model::document::Document;
use crate::model::ids::{DocId, Hlc, Origin, Version};
use crate::model::schema::{ColumnUid, Schema};
use crate::model::value::Value;

/// The longest payload of one frame, in bytes. A larger commit takes several frames.
pub const PAYLOAD_BYTES_MAX: usize = 64 << 20;

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

fn configuration() -> impl bincode::config::Config {
    bincode::config::standard()
}

/// The payload of one batch. Fails when it is over [`PAYLOAD_BYTES_MAX`].
pub fn encode_batch(batch: &Batch) -> Result<Vec<u8>> {
    let mut columns = Columns::default();
    for record in &batch.records {
        match record {
            Record::Upsert { fields, .. } => fields.iter().try_for_each(|(uid, _)| columns.place(*uid).map(drop))?,
            Record::Patch { changed, .. } => changed.iter().try_for_each(|(uid, _)| columns.place(*uid).map(drop))?,
            Record::Delete { .. } => {}
        }
    }
    let schema = match &batch.schema {
        Some(schema) => Some(serde_json::to_vec(schema).map_err(|e| Error::internal(format!("encode schema: {e}")))?),
        None => None,
    };
    let head = HeadBytes {
        idempotency: batch.idempotency.clone(),
        schema: schema.as_deref(),
        ids_reserved: batch.ids_reserved,
        columns: List::of(&columns.uids),
    };
    // At once: what grows takes up to twice as much.
    let mut payload = Vec::with_capacity(batch.records.iter().map(Record::encoded_bytes).sum::<usize>());
    put(&mut payload, &head)?;
    put(&mut payload, batch.records.len() as u64)?;
    columns.last = 0;
    for record in &batch.records {
        match record {
            Record::Upsert { id, fields } => {
                let fields = fields.iter().map(|(uid, value)| Ok((columns.place(*uid)?, value_to_bytes(value))));
                put(&mut payload, RecordBytes::Upsert(id_to_bytes(id), fields.collect::<Result<_>>()?))?;
            }
            Record::Patch { id, base, changed } => {
                let changed =
                    changed.iter().map(|(uid, value)| Ok((columns.place(*uid)?, value.as_ref().map(value_to_bytes))));
                let changed = changed.collect::<Result<_>>()?;
                put(&mut payload, RecordBytes::Patch(id_to_bytes(id), base.hlc.0, base.origin.0, changed))?;
            }
            Record::Delete { id } => put(&mut payload, RecordBytes::Delete(id_to_bytes(id)))?,
        }
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(too_large(batch, record.id(), payload.len()));
        }
    }
    Ok(payload)
}

fn put(payload: &mut Vec<u8>, bytes: impl Encode) -> Result<()> {
    bincode::encode_into_std_write(bytes, payload, configuration())
        .map(drop)
        .map_err(|e| Error::internal(format!("encode log payload: {e}")))
}

fn too_large(batch: &Batch, id: &DocId, bytes: usize) -> Error {
    let error = if batch.records.len() == 1 {
        Error::invalid(format!("document {id} takes {bytes} bytes in the log, at most {PAYLOAD_BYTES_MAX} fit"))
            .with_hint("split the document, or leave out what is not searched")
    } else {
        Error::invalid(format!("this write takes more than {PAYLOAD_BYTES_MAX} bytes in one frame of the log"))
            .with_hint("send it in smaller batches")
    };
    error.with_code("too_large")
}

/// The columns that a batch names.
#[derive(Default)]
struct Columns {
    uids: Vec<u64>,
    /// Where the column was found that was asked for last: records mostly have the same ones in the same order.
    last: usize,
}

impl Columns {
    fn place(&mut self, uid: ColumnUid) -> Result<u16> {
        let next = self.last + 1;
        self.last = match self.uids.get(next) == Some(&uid.0) {
            true => next,
            false => self.uids.iter().position(|known| *known == uid.0).unwrap_or_else(|| {
                self.uids.push(uid.0);
                self.uids.len() - 1
            }),
        };
        u16::try_from(self.last).map_err(|_| Error::internal("a batch names more than 65,536 columns"))
    }
}

/// The batch in a payload. `what` names the frame in errors.
pub fn decode_batch(payload: &[u8], what: &str) -> Result<Batch> {
    BatchReader::new(payload, what)?.whole()
}

/// A batch that is read record by record: an iterator over its records. The last one is followed by nothing.
pub struct BatchReader<'a> {
    pub idempotency: Option<IdempotencyEntry>,
    pub schema: Option<Schema>,
    pub ids_reserved: Option<u64>,
    columns: Vec<u64>,
    /// How many records are to come.
    left: u64,
    payload: &'a [u8],
    at: usize,
    what: &'a str,
}

impl<'a> BatchReader<'a> {
    /// Reads what comes before the records.
    pub fn new(payload: &'a [u8], what: &'a str) -> Result<Self> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            return Err(Error::corrupt(format!(
                "{what}: payload of {} bytes, expected at most {PAYLOAD_BYTES_MAX}",
                payload.len()
            )));
        }
        let mut at = 0;
        let head: HeadBytes = take(payload, &mut at, what)?;
        let schema = match head.schema {
            Some(json) => Some(
                serde_json::from_slice(json)
                    .map_err(|e| Error::corrupt(format!("{what}: schema does not parse: {e}")))?,
            ),
            None => None,
        };
        let left = take(payload, &mut at, what)?;
        let mut reader = BatchReader {
            idempotency: head.idempotency,
            schema,
            ids_reserved: head.ids_reserved,
            columns: head.columns.0.into_owned(),
            left,
            payload,
            at,
            what,
        };
        reader.check_end()?;
        Ok(reader)
    }

    /// How many records are to come.
    pub fn records(&self) -> u64 {
        self.left
    }

    /// Everything at once.
    pub fn whole(mut self) -> Result<Batch> {
        let records = self.by_ref().collect::<Result<Vec<Record>>>()?;
        Ok(Batch { idempotency: self.idempotency, schema: self.schema, ids_reserved: self.ids_reserved, records })
    }

    fn check_end(&mut self) -> Result<()> {
        if self.left == 0 && self.at != self.payload.len() {
            let (what, at, length) = (self.what, self.at, self.payload.len());
            return Err(Error::corrupt(format!("{what}: payload ends at byte {at}, expected {length}")));
        }
        Ok(())
    }

    fn record(&mut self) -> Result<Record> {
        let what = self.what;
        let bytes: RecordBytes = take(self.payload, &mut self.at, what)?;
        let column = |at: u16| {
            self.columns
                .get(usize::from(at))
                .map(|uid| ColumnUid(*uid))
                .ok_or_else(|| Error::corrupt(format!("{what}: column {at} of a table of {}", self.columns.len())))
        };
        let record = match bytes {
            RecordBytes::Upsert(id, fields) => {
                let fields = fields.0.into_owned();
                let mut out = Vec::with_capacity(fields.len());
                for (at, value) in fields {
                    out.push((column(at)?, value_from_bytes(value, what)?));
                }
                check_sorted(out.iter().map(|(uid, _)| *uid), what)?;
                Record::Upsert { id: id_from_bytes(id, what)?, fields: out }
            }
            RecordBytes::Patch(id, hlc, origin, fields) => {
                let fields = fields.0.into_owned();
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
        };
        self.check_end()?;
        Ok(record)
    }
}

impl Iterator for BatchReader<'_> {
    type Item = Result<Record>;

    fn next(&mut self) -> Option<Result<Record>> {
        self.left = self.left.checked_sub(1)?;
        let record = self.record();
        if record.is_err() {
            self.left = 0;
        }
        Some(record)
    }
}

fn take<'a, T: BorrowDecode<'a, ()>>(payload: &'a [u8], at: &mut usize, what: &str) -> Result<T> {
    let (bytes, used) = bincode::borrow_decode_from_slice(&payload[*at..], configuration())
        .map_err(|e| Error::corrupt(format!("{what}: payload does not decode at byte {at}: {e}")))?;
    *at += used;
    Ok(bytes)
}

impl Record {
    pub fn id(&self) -> &DocId {
        match self {
            Record::Upsert { id, .. } | Record::Patch { id, .. } | Record::Delete { id } => id,
        }
    }

    /// What it takes in a payload, at most, in bytes.
    pub fn encoded_bytes(&self) -> usize {
        // A field is its column, and whether there is a value; a patch also has its base.
        let field = |value: Option<&Value>| 4 + value.map_or(0, encoded_bytes);
        let id = match self.id() {
            DocId::Uint(_) => 9,
            DocId::Uuid(_) => 16,
            DocId::String(s) => count_bytes(s.len()) + s.len(),
        };
        2 + id
            + match self {
                Record::Upsert { fields, .. } => {
                    count_bytes(fields.len()) + fields.iter().map(|(_, value)| field(Some(value))).sum::<usize>()
                }
                Record::Patch { changed, .. } => {
                    18 + count_bytes(changed.len())
                        + changed.iter().map(|(_, value)| field(value.as_ref())).sum::<usize>()
                }
                Record::Delete { .. } => 0,
            }
    }

    /// The record that writes this whole document.
    pub fn upsert(document: &Document) -> Record {
        Record::Upsert { id: document.id.clone(), fields: document.fields.clone() }
    }
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

#[cfg(test)]
mod tests {
    use super::{Batch, BatchReader, IdempotencyEntry, PAYLOAD_BYTES_MAX, Record, decode_batch, encode_batch};
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

    #[test]
    fn what_a_record_takes_is_never_more_than_was_reckoned() {
        let ids = [DocId::Uint(u64::MAX), DocId::Uuid(Uuid::max()), DocId::String("x".repeat(64).into())];
        let long = [
            Value::Ints(vec![i64::MIN; 300]),
            Value::Strings(vec![String::new(); 70_000]),
            Value::Bytes(vec![7; 70_000]),
            Value::Sparse(SparseVector { entries: vec![(String::new(), f16::MAX)] }),
        ];
        for (id, value) in
            ids.iter().flat_map(|id| every_value().into_iter().chain(long.clone()).map(move |v| (id, v)))
        {
            let fields = vec![(ColumnUid(u64::MAX - 1), value.clone())];
            let changed = vec![(ColumnUid(u64::MAX - 1), Some(value)), (ColumnUid(u64::MAX), None)];
            let base = Version { hlc: Hlc(u64::MAX), origin: Origin(u64::MAX) };
            let records = [
                Record::Upsert { id: id.clone(), fields },
                Record::Patch { id: id.clone(), base, changed },
                Record::Delete { id: id.clone() },
            ];
            for record in records {
                let reckoned = record.encoded_bytes();
                let two = encode_batch(&Batch { records: vec![record.clone(); 2], ..Batch::default() }).unwrap();
                let one = encode_batch(&Batch { records: vec![record], ..Batch::default() }).unwrap();
                assert!(two.len() - one.len() <= reckoned, "{} bytes, {reckoned} reckoned", two.len() - one.len());
            }
        }
    }

    /// A decoder that counted 8 bytes for each of these strings refused payloads which the encoder had taken.
    #[test]
    fn a_payload_of_values_without_a_size_decodes_record_by_record() {
        let fields = vec![(ColumnUid(7), Value::Strings(vec![String::new(); 20_000]))];
        let record = Record::Upsert { id: DocId::Uint(1), fields };
        let one = encode_batch(&Batch { records: vec![record.clone()], ..Batch::default() }).unwrap();
        let two = encode_batch(&Batch { records: vec![record.clone(); 2], ..Batch::default() }).unwrap();
        let (head, bytes) = two.split_at(2 * one.len() - two.len());
        // The number of records, which is the last byte of the head.
        let mut payload = [&head[..head.len() - 1], &[251], &1_700u16.to_le_bytes()].concat();
        let each = two.len() - one.len();
        (0..1_700).for_each(|_| payload.extend_from_slice(&bytes[..each]));
        assert!(payload.len() < PAYLOAD_BYTES_MAX && 8 * 1_700 * 20_000 > 4 * PAYLOAD_BYTES_MAX);
        let mut found = 0;
        for decoded in BatchReader::new(&payload, "frame").unwrap() {
            assert!(decoded.unwrap() == record);
            found += 1;
        }
        assert_eq!(found, 1_700);
    }

    #[test]
    fn a_claimed_length_is_held_against_the_bytes_that_are_left() {
        let record = Record::Upsert { id: DocId::Uint(1), fields: vec![(ColumnUid(7), Value::Ints(vec![1]))] };
        let good = encode_batch(&Batch { records: vec![record], ..Batch::default() }).unwrap();
        let at = good.len() - 2;
        for claim in [&[253, 255, 255, 255, 255, 255, 255, 255, 255][..], &[252, 255, 255, 255, 255], &[3]] {
            let damaged = [&good[..at], claim, &good[at + 1..]].concat();
            assert_eq!(decode_batch(&damaged, "frame").unwrap_err().kind(), crate::error::Kind::Corrupt);
        }
    }
}
