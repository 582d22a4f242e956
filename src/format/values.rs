//! One attribute value as bytes in a segment's rows. The column's type says how to read them.

use half::f16;
use uuid::Uuid;

use super::bytes::Reader;
use super::varint;
use crate::error::{Error, Result};
use crate::model::schema::{AttributeType, Element};
use crate::model::value::{Multivector, SparseVector, Value, Vector};

/// Adds the bytes of a value. Dense vectors and multivectors are not in rows.
pub fn encode(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Bool(v) => out.push(u8::from(*v)),
        Value::Int(v) | Value::DateTime(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::Uint(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::Float(v) => out.extend_from_slice(&v.to_le_bytes()),
        Value::String(v) => out.extend_from_slice(v.as_bytes()),
        Value::Uuid(v) => out.extend_from_slice(v.as_bytes()),
        Value::Bytes(v) => out.extend_from_slice(v),
        Value::Bools(v) => out.extend(v.iter().map(|v| u8::from(*v))),
        Value::Ints(v) | Value::DateTimes(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Value::Uints(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Value::Floats(v) => out.extend(v.iter().flat_map(|v| v.to_le_bytes())),
        Value::Uuids(v) => out.extend(v.iter().flat_map(|v| v.as_bytes())),
        Value::Strings(v) => {
            for text in v {
                varint::write(out, text.len() as u64);
                out.extend_from_slice(text.as_bytes());
            }
        }
        Value::Vector(v) => out.extend_from_slice(super::vectors::bytes_of(v)),
        Value::Multivector(v) => out.extend_from_slice(bytemuck::cast_slice(&v.elements)),
        Value::Sparse(v) => {
            for (term, weight) in &v.entries {
                varint::write(out, term.len() as u64);
                out.extend_from_slice(term.as_bytes());
                out.extend_from_slice(&weight.to_le_bytes());
            }
        }
    }
}

/// How many bytes [`encode`] adds, of dense vectors and multivectors, too.
pub fn encoded_bytes(value: &Value) -> u64 {
    let length = |text: &String| u64::from((usize::BITS - (text.len() | 1).leading_zeros()).div_ceil(7));
    let lengths: u64 = match value {
        Value::Strings(texts) => texts.iter().map(length).sum(),
        Value::Sparse(vector) => vector.entries.iter().map(|(term, _)| length(term)).sum(),
        _ => 0,
    };
    value.logical_bytes() + lengths
}

/// Whether a value is one of this type.
pub fn is_of(value: &Value, kind: AttributeType) -> bool {
    match (value, kind) {
        (Value::Bool(_), AttributeType::Bool)
        | (Value::Int(_), AttributeType::Int)
        | (Value::Uint(_), AttributeType::Uint)
        | (Value::Float(_), AttributeType::Float)
        | (Value::String(_), AttributeType::String)
        | (Value::Uuid(_), AttributeType::Uuid)
        | (Value::DateTime(_), AttributeType::DateTime)
        | (Value::Bytes(_), AttributeType::Bytes)
        | (Value::Bools(_), AttributeType::Bools)
        | (Value::Ints(_), AttributeType::Ints)
        | (Value::Uints(_), AttributeType::Uints)
        | (Value::Floats(_), AttributeType::Floats)
        | (Value::Strings(_), AttributeType::Strings)
        | (Value::Uuids(_), AttributeType::Uuids)
        | (Value::DateTimes(_), AttributeType::DateTimes)
        | (Value::Sparse(_), AttributeType::Sparse) => true,
        (Value::Vector(vector), AttributeType::Vector { dims, element }) => {
            let found = match vector {
                Vector::F32(_) => Element::F32,
                Vector::F16(_) => Element::F16,
                Vector::I8(_) => Element::I8,
            };
            found == element && vector.dims() == dims as usize
        }
        (Value::Multivector(v), AttributeType::Multivector { dims }) => {
            v.dims == dims && v.elements.len().is_multiple_of(dims as usize)
        }
        _ => false,
    }
}

/// The value in `bytes`, all of them. `what` names the place in errors.
pub fn decode(kind: AttributeType, bytes: &[u8], what: &str) -> Result<Value> {
    let wrong = || Error::corrupt(format!("{what}: {} bytes are no {kind}", bytes.len()));
    let fixed = || -> Result<[u8; 8]> { bytes.try_into().map_err(|_| wrong()) };
    let eights = || -> Result<&[[u8; 8]]> {
        let (whole, rest) = bytes.as_chunks();
        if rest.is_empty() { Ok(whole) } else { Err(wrong()) }
    };
    let bool_of = |byte: &u8| match byte {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(wrong()),
    };
    let float_of = |bytes: [u8; 8]| Some(f64::from_le_bytes(bytes)).filter(|v| v.is_finite()).ok_or_else(wrong);
    let text_of = |bytes: &[u8]| std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| wrong());
    Ok(match kind {
        AttributeType::Bool => match bytes {
            [byte] => Value::Bool(bool_of(byte)?),
            _ => return Err(wrong()),
        },
        AttributeType::Int => Value::Int(i64::from_le_bytes(fixed()?)),
        AttributeType::Uint => Value::Uint(u64::from_le_bytes(fixed()?)),
        AttributeType::Float => Value::Float(float_of(fixed()?)?),
        AttributeType::DateTime => Value::DateTime(i64::from_le_bytes(fixed()?)),
        AttributeType::String => Value::String(text_of(bytes)?),
        AttributeType::Uuid => Value::Uuid(Uuid::from_slice(bytes).map_err(|_| wrong())?),
        AttributeType::Bytes => Value::Bytes(bytes.to_vec()),
        AttributeType::Bools => Value::Bools(bytes.iter().map(bool_of).collect::<Result<_>>()?),
        AttributeType::Ints => Value::Ints(eights()?.iter().map(|v| i64::from_le_bytes(*v)).collect()),
        AttributeType::Uints => Value::Uints(eights()?.iter().map(|v| u64::from_le_bytes(*v)).collect()),
        AttributeType::Floats => Value::Floats(eights()?.iter().map(|v| float_of(*v)).collect::<Result<_>>()?),
        AttributeType::DateTimes => Value::DateTimes(eights()?.iter().map(|v| i64::from_le_bytes(*v)).collect()),
        AttributeType::Uuids => {
            let (whole, rest) = bytes.as_chunks::<16>();
            if !rest.is_empty() {
                return Err(wrong());
            }
            Value::Uuids(whole.iter().map(|v| Uuid::from_bytes(*v)).collect())
        }
        AttributeType::Strings => {
            let mut reader = Reader::new(bytes, what);
            let mut texts = Vec::new();
            while reader.remaining() > 0 {
                let length = varint::read_length(&mut reader, what)?;
                texts.push(text_of(reader.take(length)?)?);
            }
            Value::Strings(texts)
        }
        AttributeType::Sparse => Value::Sparse(sparse(bytes, what)?),
        AttributeType::Vector { dims, element } => Value::Vector(super::vectors::decode(bytes, dims, element, what)?),
        AttributeType::Multivector { dims } => {
            Value::Multivector(Multivector { dims, elements: super::vectors::decode_tokens(bytes, dims, what)? })
        }
    })
}

fn sparse(bytes: &[u8], what: &str) -> Result<SparseVector> {
    let mut reader = Reader::new(bytes, what);
    let mut entries: Vec<(String, f16)> = Vec::new();
    while reader.remaining() > 0 {
        let length = varint::read_length(&mut reader, what)?;
        let term = std::str::from_utf8(reader.take(length)?)
            .map_err(|_| Error::corrupt(format!("{what}: a sparse vector's term is not UTF-8")))?;
        let weight = f16::from_bits(reader.u16()?);
        if !weight.is_finite() || entries.last().is_some_and(|(last, _)| last.as_str() >= term) {
            return Err(Error::corrupt(format!("{what}: a sparse vector is not finite and in order of terms")));
        }
        entries.push((term.to_owned(), weight));
    }
    Ok(SparseVector { entries })
}
