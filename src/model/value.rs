//! Attribute values as they are stored and answered.

use half::f16;
use uuid::Uuid;

/// One attribute's value. Absent attributes are absent from the document: there is no null here.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Bool(bool),
    Int(i64),
    Uint(u64),
    /// Never NaN or infinite.
    Float(f64),
    String(String),
    Uuid(Uuid),
    /// Milliseconds since 1970-01-01 UTC.
    DateTime(i64),
    Bytes(Vec<u8>),
    Bools(Vec<bool>),
    Ints(Vec<i64>),
    Uints(Vec<u64>),
    Floats(Vec<f64>),
    Strings(Vec<String>),
    Uuids(Vec<Uuid>),
    DateTimes(Vec<i64>),
    Vector(Vector),
    Sparse(SparseVector),
    Multivector(Multivector),
}

/// A dense vector in its column's element type. All elements are finite.
#[derive(Clone, Debug, PartialEq)]
pub enum Vector {
    F32(Vec<f32>),
    F16(Vec<f16>),
    I8(Vec<i8>),
}

/// The vectors of one document's tokens, in their order; there may be none. All elements are finite.
#[derive(Clone, Debug, PartialEq)]
pub struct Multivector {
    /// Of each token; never 0.
    pub dims: u32,
    /// Token after token.
    pub elements: Vec<f32>,
}

/// A sparse vector: terms in bytewise order, each once, with its weight (finite).
#[derive(Clone, Debug, PartialEq, Default)]
pub struct SparseVector {
    pub entries: Vec<(String, f16)>,
}

impl Vector {
    pub fn dims(&self) -> usize {
        match self {
            Vector::F32(v) => v.len(),
            Vector::F16(v) => v.len(),
            Vector::I8(v) => v.len(),
        }
    }

    /// The elements widened to f32, as they go over the wire.
    pub fn to_f32(&self) -> Vec<f32> {
        match self {
            Vector::F32(v) => v.clone(),
            Vector::F16(v) => v.iter().map(|x| x.to_f32()).collect(),
            Vector::I8(v) => v.iter().map(|&x| f32::from(x)).collect(),
        }
    }
}

impl Multivector {
    pub fn tokens(&self) -> impl ExactSizeIterator<Item = &[f32]> {
        self.elements.chunks_exact(self.dims as usize)
    }
}

impl Value {
    /// Logical size in bytes, as billing and metadata count it: text as UTF-8, vectors by element width.
    pub fn logical_bytes(&self) -> u64 {
        let n = match self {
            Value::Bool(_) => 1,
            Value::Int(_) | Value::Uint(_) | Value::Float(_) | Value::DateTime(_) => 8,
            Value::Uuid(_) => 16,
            Value::String(s) => s.len(),
            Value::Bytes(b) => b.len(),
            Value::Bools(v) => v.len(),
            Value::Ints(v) => 8 * v.len(),
            Value::Uints(v) => 8 * v.len(),
            Value::Floats(v) => 8 * v.len(),
            Value::DateTimes(v) => 8 * v.len(),
            Value::Uuids(v) => 16 * v.len(),
            Value::Strings(v) => v.iter().map(String::len).sum(),
            Value::Vector(Vector::F32(v)) => 4 * v.len(),
            Value::Vector(Vector::F16(v)) => 2 * v.len(),
            Value::Vector(Vector::I8(v)) => v.len(),
            Value::Multivector(v) => 4 * v.elements.len(),
            Value::Sparse(s) => s.entries.iter().map(|(term, _)| term.len() + 2).sum(),
        };
        n as u64
    }
}
