//! A bounds-checked reader of little-endian bytes: what is missing is an error that says where, never a panic.

use crate::error::{Error, Result};

/// Reads `bytes` from the front. Errors name `what` and the offset.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    what: &'a str,
}

impl<'a> Reader<'a> {
    pub fn new(bytes: &'a [u8], what: &'a str) -> Self {
        Reader { bytes, at: 0, what }
    }

    /// The next `n` bytes.
    pub fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        match self.bytes.get(self.at..).and_then(|rest| rest.get(..n)) {
            Some(taken) => {
                self.at += n;
                Ok(taken)
            }
            None => Err(Error::corrupt(format!(
                "{}: ends at byte {}, expected {n} more bytes from byte {}",
                self.what,
                self.bytes.len(),
                self.at
            ))),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    #[inline]
    pub fn u8(&mut self) -> Result<u8> {
        match self.bytes.get(self.at) {
            Some(byte) => {
                self.at += 1;
                Ok(*byte)
            }
            None => Ok(self.array::<1>()?[0]),
        }
    }

    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub fn bytes16(&mut self) -> Result<[u8; 16]> {
        self.array()
    }

    /// The offset of the next byte.
    pub fn position(&self) -> usize {
        self.at
    }

    pub fn remaining(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// Checks that nothing is left over.
    pub fn finish(self) -> Result<()> {
        if self.remaining() == 0 {
            return Ok(());
        }
        Err(Error::corrupt(format!("{}: {} bytes after its end at byte {}", self.what, self.remaining(), self.at)))
    }
}
