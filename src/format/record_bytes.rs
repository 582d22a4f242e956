//! The layout of a log's payload, and the model's values in it.
//!
//! What is borrowed is not copied before it is checked, and a list or text that claims more bytes than are left is refused before
//! anything is allocated.

use std::borrow::Cow;

use bincode::de::read::Reader;
use bincode::de::{BorrowDecoder, Decode as _};
use bincode::enc::Encoder;
use bincode::error::{DecodeError, EncodeError};
use bincode::{BorrowDecode, Encode};
use half::f16;
use uuid::Uuid;

use super::record::IdempotencyEntry;
use super::vectors::{bytes_of, decode_tokens};
use crate::error::{Error, Result};
use crate::model::ids::{DocId, STRING_ID_BYTES_MAX};
use crate::model::value::{Multivector, SparseVector, Value, Vector};

/// Room for so many bytes is made for a list before any of its elements was read.
const RESERVED_BYTES: usize = 16 << 10;

/// What comes before the records; a `u64` count and so many [`RecordBytes`] follow.
#[derive(Encode, BorrowDecode)]
pub(super) struct HeadBytes<'a> {
    pub(super) idempotency: Option<IdempotencyEntry>,
    /// JSON, as in the manifest.
    pub(super) schema: Option<&'a [u8]>,
    pub(super) ids_reserved: Option<u64>,
    /// Column identities; records name a column by its place here.
    pub(super) columns: List<'a, u64>,
}

#[derive(Encode, BorrowDecode)]
pub(super) enum RecordBytes<'a> {
    Upsert(IdBytes<'a>, List<'a, (u16, ValueBytes<'a>)>),
    Patch(IdBytes<'a>, u64, u64, List<'a, (u16, Option<ValueBytes<'a>>)>),
    Delete(IdBytes<'a>),
}

#[derive(Encode, BorrowDecode)]
pub(super) enum IdBytes<'a> {
    Uint(u64),
    Uuid([u8; 16]),
    String(&'a str),
}

#[derive(Clone, Encode, BorrowDecode)]
pub(super) enum ValueBytes<'a> {
    Bool(bool),
    Int(i64),
    Uint(u64),
    Float(f64),
    String(&'a str),
    Uuid([u8; 16]),
    DateTime(i64),
    Bytes(&'a [u8]),
    Bools(List<'a, bool>),
    Ints(List<'a, i64>),
    Uints(List<'a, u64>),
    Floats(List<'a, f64>),
    Strings(List<'a, &'a str>),
    Uuids(List<'a, [u8; 16]>),
    DateTimes(List<'a, i64>),
    /// Elements as raw little-endian bytes: a vector is most of a record, and is copied rather than walked.
    VectorF32(&'a [u8]),
    VectorF16(&'a [u8]),
    VectorI8(&'a [u8]),
    /// Terms in order, and each one's f16 weight as its bits.
    Sparse(List<'a, (&'a str, u16)>),
    /// Dimensions of each token, and the elements of all as raw little-endian bytes.
    MultivectorF32(u32, &'a [u8]),
}

/// Elements after their number, as a `Vec` of bincode has them.
#[derive(Clone)]
pub(super) struct List<'a, T: Clone>(pub(super) Cow<'a, [T]>);

impl<'a, T: Clone> List<'a, T> {
    pub(super) fn of(elements: &'a [T]) -> Self {
        List(Cow::Borrowed(elements))
    }
}

impl<T: Clone> List<'_, T> {
    /// The elements in memory of just their size.
    fn exact(self) -> Vec<T> {
        let mut elements = self.0.into_owned();
        elements.shrink_to_fit();
        elements
    }
}

impl<T: Clone> FromIterator<T> for List<'_, T> {
    fn from_iter<I: IntoIterator<Item = T>>(elements: I) -> Self {
        List(Cow::Owned(elements.into_iter().collect()))
    }
}

impl<T: Clone + Encode> Encode for List<'_, T> {
    fn encode<E: Encoder>(&self, encoder: &mut E) -> std::result::Result<(), EncodeError> {
        self.0.encode(encoder)
    }
}

impl<'a, 'de: 'a, T, Context> BorrowDecode<'de, Context> for List<'a, T>
where
    T: Clone + BorrowDecode<'de, Context>,
{
    fn borrow_decode<D: BorrowDecoder<'de, Context = Context>>(
        decoder: &mut D,
    ) -> std::result::Result<Self, DecodeError> {
        let claimed = u64::decode(decoder)?;
        let length = usize::try_from(claimed).map_err(|_| DecodeError::OutsideUsizeRange(claimed))?;
        // No element takes less than a byte.
        if decoder.borrow_reader().peek_read(length).is_none() {
            return Err(DecodeError::UnexpectedEnd { additional: length });
        }
        let mut elements = Vec::with_capacity(length.min(RESERVED_BYTES / size_of::<T>().max(1)));
        for _ in 0..length {
            elements.push(T::borrow_decode(decoder)?);
        }
        Ok(List(Cow::Owned(elements)))
    }
}

/// What the number of elements of a list or text takes, in bytes.
pub(super) fn count_bytes(count: usize) -> usize {
    match count {
        0..=250 => 1,
        251..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        _ => 9,
    }
}

/// What a value takes in a payload, at most, in bytes.
pub fn encoded_bytes(value: &Value) -> usize {
    let list = |count: usize, each: usize| count_bytes(count) + count * each;
    let text = |text: &str| list(text.len(), 1);
    1 + match value {
        Value::Bool(_) => 1,
        Value::Int(_) | Value::Uint(_) | Value::Float(_) | Value::DateTime(_) => 9,
        Value::Uuid(_) => 16,
        Value::String(v) => text(v),
        Value::Bytes(v) => list(v.len(), 1),
        Value::Bools(v) => list(v.len(), 1),
        Value::Ints(v) => list(v.len(), 9),
        Value::Uints(v) => list(v.len(), 9),
        Value::Floats(v) => list(v.len(), 8),
        Value::DateTimes(v) => list(v.len(), 9),
        Value::Uuids(v) => list(v.len(), 16),
        Value::Strings(v) => list(v.len(), 0) + v.iter().map(|v| text(v)).sum::<usize>(),
        Value::Vector(v) => list(bytes_of(v).len(), 1),
        Value::Sparse(v) => list(v.entries.len(), 3) + v.entries.iter().map(|(term, _)| text(term)).sum::<usize>(),
        Value::Multivector(v) => 5 + list(4 * v.elements.len(), 1),
    }
}

pub(super) fn id_to_bytes(id: &DocId) -> IdBytes<'_> {
    match id {
        DocId::Uint(n) => IdBytes::Uint(*n),
        DocId::Uuid(u) => IdBytes::Uuid(*u.as_bytes()),
        DocId::String(s) => IdBytes::String(s),
    }
}

pub(super) fn id_from_bytes(id: IdBytes<'_>, what: &str) -> Result<DocId> {
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

pub(super) fn value_to_bytes(value: &Value) -> ValueBytes<'_> {
    match value {
        Value::Bool(v) => ValueBytes::Bool(*v),
        Value::Int(v) => ValueBytes::Int(*v),
        Value::Uint(v) => ValueBytes::Uint(*v),
        Value::Float(v) => ValueBytes::Float(*v),
        Value::String(v) => ValueBytes::String(v),
        Value::Uuid(v) => ValueBytes::Uuid(*v.as_bytes()),
        Value::DateTime(v) => ValueBytes::DateTime(*v),
        Value::Bytes(v) => ValueBytes::Bytes(v),
        Value::Bools(v) => ValueBytes::Bools(List::of(v)),
        Value::Ints(v) => ValueBytes::Ints(List::of(v)),
        Value::Uints(v) => ValueBytes::Uints(List::of(v)),
        Value::Floats(v) => ValueBytes::Floats(List::of(v)),
        Value::Strings(v) => ValueBytes::Strings(v.iter().map(String::as_str).collect()),
        Value::Uuids(v) => ValueBytes::Uuids(v.iter().map(|u| *u.as_bytes()).collect()),
        Value::DateTimes(v) => ValueBytes::DateTimes(List::of(v)),
        Value::Vector(vector) => match vector {
            Vector::F32(_) => ValueBytes::VectorF32(bytes_of(vector)),
            Vector::F16(_) => ValueBytes::VectorF16(bytes_of(vector)),
            Vector::I8(_) => ValueBytes::VectorI8(bytes_of(vector)),
        },
        Value::Sparse(v) => {
            ValueBytes::Sparse(v.entries.iter().map(|(term, weight)| (term.as_str(), weight.to_bits())).collect())
        }
        Value::Multivector(v) => ValueBytes::MultivectorF32(v.dims, bytemuck::cast_slice(&v.elements)),
    }
}

pub(super) fn value_from_bytes(value: ValueBytes<'_>, what: &str) -> Result<Value> {
    let not_finite = || Error::corrupt(format!("{what}: a number is not finite"));
    let ragged = |n: usize| Error::corrupt(format!("{what}: a vector of {n} bytes is not whole elements"));
    Ok(match value {
        ValueBytes::Bool(v) => Value::Bool(v),
        ValueBytes::Int(v) => Value::Int(v),
        ValueBytes::Uint(v) => Value::Uint(v),
        ValueBytes::Float(v) if v.is_finite() => Value::Float(v),
        ValueBytes::Float(_) => return Err(not_finite()),
        ValueBytes::String(v) => Value::String(v.to_owned()),
        ValueBytes::Uuid(v) => Value::Uuid(Uuid::from_bytes(v)),
        ValueBytes::DateTime(v) => Value::DateTime(v),
        ValueBytes::Bytes(v) => Value::Bytes(v.to_owned()),
        ValueBytes::Bools(v) => Value::Bools(v.exact()),
        ValueBytes::Ints(v) => Value::Ints(v.exact()),
        ValueBytes::Uints(v) => Value::Uints(v.exact()),
        ValueBytes::Floats(v) if v.0.iter().all(|x| x.is_finite()) => Value::Floats(v.exact()),
        ValueBytes::Floats(_) => return Err(not_finite()),
        ValueBytes::Strings(v) => Value::Strings(v.0.iter().map(|text| (*text).to_owned()).collect()),
        ValueBytes::Uuids(v) => Value::Uuids(v.0.iter().map(|bytes| Uuid::from_bytes(*bytes)).collect()),
        ValueBytes::DateTimes(v) => Value::DateTimes(v.exact()),
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
        ValueBytes::VectorI8(v) => Value::Vector(Vector::I8(v.iter().map(|x| x.cast_signed()).collect())),
        ValueBytes::Sparse(v) => {
            let entries: Vec<(String, f16)> =
                v.0.iter().map(|(term, bits)| ((*term).to_owned(), f16::from_bits(*bits))).collect();
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
            Value::Multivector(Multivector { dims, elements: decode_tokens(v, dims, what)? })
        }
    })
}
