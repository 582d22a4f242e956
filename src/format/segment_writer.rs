//! Writes a segment file front to back: callers give sections in order, checksums and the meta block follow by themselves.

use std::io::Write;

use uuid::Uuid;

use super::segment::{
    ALIGNMENT, CHUNK_BYTES, Codec, Footer, HEADER_BYTES, Meta, SectionEntry, encode_footer, encode_header,
    encode_meta,
};
use crate::error::{Context, Error, Result};
use crate::model::ids::IdType;
use crate::model::schema::Column;

/// A segment being written. Holds at most one chunk of what it was given.
pub struct SegmentWriter<'a> {
    out: &'a mut dyn Write,
    /// Bytes handed to `out`.
    written: u64,
    /// Over all of them.
    checksum: u32,
    /// The open section's bytes that are not handed on yet; less than a chunk between calls.
    pending: Vec<u8>,
    sections: Vec<SectionEntry>,
    open: bool,
}

/// What was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    pub bytes: u64,
    /// Over the whole file.
    pub checksum: u32,
}

impl<'a> SegmentWriter<'a> {
    pub fn new(segment_id: &Uuid, out: &'a mut dyn Write) -> Result<Self> {
        let pending = Vec::with_capacity(CHUNK_BYTES);
        let mut writer = SegmentWriter { out, written: 0, checksum: 0, pending, sections: Vec::new(), open: false };
        let header = encode_header(segment_id);
        writer.emit(&header)?;
        debug_assert_eq!(writer.written, HEADER_BYTES as u64);
        Ok(writer)
    }

    /// Ends the section before and begins the next.
    pub fn begin(&mut self, name: impl Into<String>, codec: Codec) -> Result<()> {
        self.end()?;
        self.pad()?;
        let entry = SectionEntry {
            name: name.into(),
            offset: self.written,
            bytes: 0,
            codec,
            checksum: 0,
            chunks: Vec::new(),
        };
        self.sections.push(entry);
        self.open = true;
        Ok(())
    }

    /// Adds bytes to the section that was begun last.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<()> {
        while self.pending.len() + bytes.len() >= CHUNK_BYTES {
            if self.pending.is_empty() {
                let (chunk, rest) = bytes.split_at(CHUNK_BYTES);
                self.chunk(chunk)?;
                bytes = rest;
            } else {
                let (head, rest) = bytes.split_at(CHUNK_BYTES - self.pending.len());
                self.pending.extend_from_slice(head);
                self.flush()?;
                bytes = rest;
            }
        }
        self.pending.extend_from_slice(bytes);
        Ok(())
    }

    /// How many bytes the section that was begun last has so far.
    pub fn section_bytes(&self) -> u64 {
        self.sections.last().map_or(0, |section| section.bytes) + self.pending.len() as u64
    }

    /// A whole section.
    pub fn section(&mut self, name: impl Into<String>, bytes: &[u8]) -> Result<()> {
        self.begin(name, Codec::Plain)?;
        self.write(bytes)
    }

    /// Ends the file.
    pub fn finish(
        mut self,
        id_type: Option<IdType>,
        columns: Vec<Column>,
        rows: u32,
        tombstones: u32,
        logical_bytes: u64,
    ) -> Result<Written> {
        self.end()?;
        self.pad()?;
        let sections = std::mem::take(&mut self.sections);
        let meta = encode_meta(&Meta { id_type, columns, sections })?;
        let footer = Footer {
            meta_offset: self.written,
            meta_bytes: meta.len() as u64,
            meta_checksum: crc32c::crc32c(&meta),
            rows,
            tombstones,
            logical_bytes,
        };
        self.emit(&meta)?;
        self.emit(&encode_footer(&footer))?;
        self.out.flush().context(|| "write segment")?;
        Ok(Written { bytes: self.written, checksum: self.checksum })
    }

    fn flush(&mut self) -> Result<()> {
        let mut pending = std::mem::take(&mut self.pending);
        let result = self.chunk(&pending);
        pending.clear();
        self.pending = pending;
        result
    }

    /// One chunk of the open section. Its bytes are summed three times, for chunk, section and file: while they are in the
    /// processor's cache that costs a fifth of putting the sums together.
    fn chunk(&mut self, bytes: &[u8]) -> Result<()> {
        let Some(section) = self.sections.last_mut().filter(|_| self.open) else {
            return Err(Error::internal("bytes of a segment outside its sections"));
        };
        section.checksum = crc32c::crc32c_append(section.checksum, bytes);
        section.bytes += bytes.len() as u64;
        section.chunks.push(crc32c::crc32c(bytes));
        self.emit(bytes)
    }

    fn end(&mut self) -> Result<()> {
        if !self.pending.is_empty() {
            self.flush()?;
        }
        if let Some(section) = self.sections.last_mut()
            && section.bytes <= CHUNK_BYTES as u64
        {
            section.chunks.clear();
        }
        self.open = false;
        Ok(())
    }

    fn pad(&mut self) -> Result<()> {
        let gap = self.written.next_multiple_of(ALIGNMENT as u64) - self.written;
        self.emit(&[0; ALIGNMENT][..gap as usize])
    }

    fn emit(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).context(|| "write segment")?;
        self.checksum = crc32c::crc32c_append(self.checksum, bytes);
        self.written += bytes.len() as u64;
        Ok(())
    }
}
