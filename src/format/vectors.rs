//! Dense vectors and multivectors as bytes: a column's matrix, row after row, and the sets, ends and norms beside it.

use half::f16;
use roaring::RoaringBitmap;

use crate::error::{Error, Result};
use crate::model::schema::Element;
use crate::model::value::Vector;

/// Vectors of the rows that have one, in row order, without gaps.
pub const SECTION: &str = "vectors";
/// Of multivectors: where each row's tokens end (u32, counted in tokens), which are in [`SECTION`] one after the other.
pub const ENDS_SECTION: &str = "vectors.ends";
/// The rows that have one, as a bitmap; no such section when all have.
pub const PRESENT_SECTION: &str = "vectors.present";
/// The Euclidean norm (f32) of each vector; only where vectors are compared by their angle.
pub const NORMS_SECTION: &str = "vectors.norms";

/// A vector's elements, little-endian. Targets are little-endian, which this file's tests assert.
pub fn bytes_of(vector: &Vector) -> &[u8] {
    match vector {
        Vector::F32(v) => bytemuck::cast_slice(v),
        Vector::F16(v) => bytemuck::cast_slice(v),
        Vector::I8(v) => bytemuck::cast_slice(v),
    }
}

/// The vector in `bytes`, checked to have `dims` finite elements.
pub fn decode(bytes: &[u8], dims: u32, element: Element, what: &str) -> Result<Vector> {
    if bytes.len() != dims as usize * element.bytes() {
        return Err(Error::corrupt(format!("{what}: {} bytes are no [{dims}]{}", bytes.len(), element.name())));
    }
    let vector = match element {
        Element::F32 => Vector::F32(bytes.as_chunks().0.iter().map(|x| f32::from_le_bytes(*x)).collect()),
        Element::F16 => Vector::F16(bytes.as_chunks().0.iter().map(|x| f16::from_le_bytes(*x)).collect()),
        Element::I8 => Vector::I8(bytes.iter().map(|x| *x as i8).collect()),
    };
    let finite = match &vector {
        Vector::F32(v) => v.iter().all(|x| x.is_finite()),
        Vector::F16(v) => v.iter().all(|x| x.is_finite()),
        Vector::I8(_) => true,
    };
    if !finite {
        return Err(Error::corrupt(format!("{what}: a vector has an element that is not finite")));
    }
    Ok(vector)
}

/// The elements of tokens of `dims` dimensions each in `bytes`, checked to be finite.
pub fn decode_tokens(bytes: &[u8], dims: u32, what: &str) -> Result<Vec<f32>> {
    let (elements, rest) = bytes.as_chunks();
    if !rest.is_empty() || !elements.len().is_multiple_of(dims.max(1) as usize) {
        return Err(Error::corrupt(format!("{what}: {} bytes are no tokens of [{dims}]f32", bytes.len())));
    }
    let elements: Vec<f32> = elements.iter().map(|x| f32::from_le_bytes(*x)).collect();
    if !elements.iter().all(|x| x.is_finite()) {
        return Err(Error::corrupt(format!("{what}: a token has an element that is not finite")));
    }
    Ok(elements)
}

/// A set of rows as bytes: the portable Roaring format.
pub fn encode_rows(rows: &RoaringBitmap) -> Result<Vec<u8>> {
    let mut out = Vec::with_capacity(rows.serialized_size());
    rows.serialize_into(&mut out).map_err(|e| Error::internal(format!("encode set of rows: {e}")))?;
    Ok(out)
}

/// The set of rows in `bytes`, all below `rows`.
pub fn decode_rows(mut bytes: &[u8], rows: u32, what: &str) -> Result<RoaringBitmap> {
    let set = RoaringBitmap::deserialize_from(&mut bytes)
        .map_err(|e| Error::corrupt(format!("{what}: set of rows does not decode: {e}")))?;
    if !bytes.is_empty() {
        return Err(Error::corrupt(format!("{what}: {} bytes after a set of rows", bytes.len())));
    }
    if let Some(last) = set.max().filter(|last| *last >= rows) {
        return Err(Error::corrupt(format!("{what}: row {last} of {rows}")));
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::{bytes_of, decode};
    use crate::model::schema::Element;
    use crate::model::value::Vector;

    #[test]
    fn elements_are_little_endian_here_as_at_rest() {
        let vector = Vector::F32(vec![1.5, -2.25]);
        assert_eq!(bytes_of(&vector), [1.5f32.to_le_bytes(), (-2.25f32).to_le_bytes()].concat());
        assert_eq!(decode(bytes_of(&vector), 2, Element::F32, "vector").unwrap(), vector);
        assert!(decode(bytes_of(&Vector::F32(vec![f32::NAN])), 1, Element::F32, "vector").is_err());
    }
}
