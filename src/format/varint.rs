//! Unsigned integers in one to ten bytes: seven bits each, low ones first, the high bit on all bytes but the last.

use super::bytes::Reader;
use crate::error::{Error, Result};

pub fn write(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

#[inline]
pub fn read(reader: &mut Reader, what: &str) -> Result<u64> {
    let first = reader.u8()?;
    if first & 0x80 == 0 { Ok(u64::from(first)) } else { read_longer(reader, first, what) }
}

/// Reads what follows the first of several bytes.
fn read_longer(reader: &mut Reader, first: u8, what: &str) -> Result<u64> {
    let mut value = u64::from(first & 0x7f);
    for shift in (7..64).step_by(7) {
        let byte = reader.u8()?;
        if shift == 63 && byte > 1 {
            break;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Error::corrupt(format!("{what}: a number of more than 64 bits at byte {}", reader.position())))
}

/// A number that must fit 32 bits.
pub fn read_u32(reader: &mut Reader, what: &str) -> Result<u32> {
    let value = read(reader, what)?;
    u32::try_from(value).map_err(|_| {
        Error::corrupt(format!("{what}: a number of {value} before byte {}, expected 32 bits", reader.position()))
    })
}

/// A length, checked to be within the bytes that are left.
pub fn read_length(reader: &mut Reader, what: &str) -> Result<usize> {
    let value = read(reader, what)?;
    usize::try_from(value).ok().filter(|length| *length <= reader.remaining()).ok_or_else(|| {
        Error::corrupt(format!(
            "{what}: a length of {value} at byte {}, {} are left",
            reader.position(),
            reader.remaining()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::{read, write};
    use crate::format::bytes::Reader;

    #[test]
    fn every_size_of_number_is_read_back() {
        for value in (0..64).flat_map(|n| [1u64 << n, (1 << n) - 1, u64::MAX >> n]) {
            let mut bytes = Vec::new();
            write(&mut bytes, value);
            assert_eq!(read(&mut Reader::new(&bytes, "number"), "number").unwrap(), value);
        }
        assert!(read(&mut Reader::new(&[0xff; 11], "number"), "number").is_err());
    }
}
