//! The rows of one segment that are dead: written once for each change, beside a segment that never changes.

use roaring::RoaringBitmap;
use uuid::Uuid;

use super::bytes::Reader;
use super::segment::{check_sum, check_version};
use super::vectors::decode_rows;
use crate::error::{Error, Result};

pub const VERSION: u32 = 1;
/// Magic, version, segment, rows of the segment, checksum over these and the bitmap.
pub const HEADER_BYTES: usize = 36;
const MAGIC: &[u8; 8] = b"SHOALDEL";
/// The bytes before the checksum.
const CHECKED: usize = 32;

/// A deletions file for a segment of `rows` rows.
pub fn encode(segment_id: &Uuid, rows: u32, dead: &RoaringBitmap) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + dead.serialized_size());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(segment_id.as_bytes());
    out.extend_from_slice(&rows.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    // Writing to memory does not fail; were it to, the bytes would be short and refused when they are read.
    let _ = dead.serialize_into(&mut out);
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&out[..CHECKED]), &out[HEADER_BYTES..]);
    out[CHECKED..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    out
}

/// The segment, its number of rows, and the dead ones.
pub fn decode(bytes: &[u8], name: &str) -> Result<(Uuid, u32, RoaringBitmap)> {
    let mut reader = Reader::new(bytes, name);
    if reader.take(8)? != MAGIC {
        return Err(Error::corrupt(format!("{name}: does not begin with SHOALDEL")));
    }
    let version = reader.u32()?;
    let segment_id = Uuid::from_bytes(reader.bytes16()?);
    let rows = reader.u32()?;
    let stored = reader.take(4)?;
    let bitmap = reader.take(reader.remaining())?;
    check_sum(&[&bytes[..CHECKED], bitmap].concat(), stored, || name.to_owned())?;
    check_version(version, name)?;
    Ok((segment_id, rows, decode_rows(bitmap, rows, name)?))
}

#[cfg(test)]
mod tests {
    use super::{decode, encode};
    use roaring::RoaringBitmap;
    use uuid::Uuid;

    fn dead() -> RoaringBitmap {
        (0..70_000).step_by(7).collect()
    }

    #[test]
    fn dead_rows_are_read_as_they_were_written() {
        let bytes = encode(&Uuid::from_u128(6), 70_000, &dead());
        assert_eq!(decode(&bytes, "deletions").unwrap(), (Uuid::from_u128(6), 70_000, dead()));
        let none = encode(&Uuid::nil(), 0, &RoaringBitmap::new());
        assert_eq!(decode(&none, "deletions").unwrap(), (Uuid::nil(), 0, RoaringBitmap::new()));
    }

    #[test]
    fn a_row_that_the_segment_does_not_have_is_an_error() {
        let bytes = encode(&Uuid::nil(), 7, &[7].into_iter().collect());
        assert_eq!(decode(&bytes, "deletions").unwrap_err().message(), "deletions: row 7 of 7");
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_an_error() {
        let bytes = encode(&Uuid::from_u128(6), 100, &[1, 5, 99].into_iter().collect());
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end], "deletions").is_err());
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&damaged, "deletions").is_err(), "bit {bit}");
        }
    }
}
