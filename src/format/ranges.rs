//! Which blocks of an object are in a file that is filled range by range.

use roaring::RoaringBitmap;

use super::bytes::Reader;
use super::segment::{check_sum, check_version};
use super::vectors::decode_rows;
use crate::error::{Error, Result};

pub const VERSION: u32 = 1;
/// A block is this long; an object's last one may be shorter.
pub const BLOCK_BYTES: u64 = 4_096;
/// Magic, version, the object's length, checksum over these and the bitmap.
pub const HEADER_BYTES: usize = 24;
const MAGIC: &[u8; 8] = b"SHOALRNG";
/// The bytes before the checksum.
const CHECKED: usize = 20;

/// How many blocks an object of so many bytes has; none when it is longer than can be said.
pub fn blocks_of(bytes: u64) -> Option<u32> {
    u32::try_from(bytes.div_ceil(BLOCK_BYTES)).ok()
}

pub fn encode(bytes: u64, here: &RoaringBitmap) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES + here.serialized_size());
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&bytes.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    // Writing to memory does not fail; were it to, the bytes would be short and refused when they are read.
    let _ = here.serialize_into(&mut out);
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&out[..CHECKED]), &out[HEADER_BYTES..]);
    out[CHECKED..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    out
}

/// The object's length, and the blocks of it that are here.
pub fn decode(bytes: &[u8], name: &str) -> Result<(u64, RoaringBitmap)> {
    let mut reader = Reader::new(bytes, name);
    if reader.take(8)? != MAGIC {
        return Err(Error::corrupt(format!("{name}: does not begin with SHOALRNG")));
    }
    let version = reader.u32()?;
    let object_bytes = reader.u64()?;
    let stored = reader.take(4)?;
    let bitmap = reader.take(reader.remaining())?;
    check_sum(&[&bytes[..CHECKED], bitmap].concat(), stored, || name.to_owned())?;
    check_version(version, name)?;
    let blocks = blocks_of(object_bytes)
        .ok_or_else(|| Error::corrupt(format!("{name}: an object of {object_bytes} bytes is too long")))?;
    Ok((object_bytes, decode_rows(bitmap, blocks, name)?))
}

#[cfg(test)]
mod tests {
    use roaring::RoaringBitmap;

    use super::{decode, encode};

    #[test]
    fn blocks_are_read_as_they_were_written_and_others_than_there_are_refused() {
        let here: RoaringBitmap = (3..90).chain(100..101).collect();
        assert_eq!(decode(&encode(101 * 4_096, &here), "map").unwrap(), (101 * 4_096, here.clone()));
        assert_eq!(decode(&encode(100 * 4_096, &here), "map").unwrap_err().message(), "map: row 100 of 100");
        let mut bytes = encode(101 * 4_096, &here);
        bytes[12] ^= 1;
        assert!(decode(&bytes, "map").unwrap_err().message().contains("checksum"));
        assert!(decode(&encode(u64::MAX, &here), "map").unwrap_err().message().contains("too long"));
    }
}
