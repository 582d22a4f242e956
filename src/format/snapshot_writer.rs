//! Writes a snapshot front to back, as [`super::snapshot`] lays it out.

use std::io::{self, Write};

use super::envelope;
use super::manifest::{Manifest, encode_manifest};
use super::snapshot::{
    Description, END_MAGIC, FOOTER_BYTES, HEADER_BYTES, INDEX_ENTRY_BYTES, IndexEntry, MAGIC, METADATA_BYTES_MAX,
    Member, OBJECT_HEADER_BYTES, carried,
};
use crate::error::{Context, Error, Result};

pub(super) fn encode_index(entries: &[IndexEntry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.len() * INDEX_ENTRY_BYTES);
    for IndexEntry { member, offset } in entries {
        out.extend_from_slice(&member.kind.number().to_le_bytes());
        out.extend_from_slice(member.id.as_bytes());
        out.extend_from_slice(&offset.to_le_bytes());
        out.extend_from_slice(&member.bytes.to_le_bytes());
        out.extend_from_slice(&member.crc32c.to_le_bytes());
    }
    out
}

fn encode_header(version: u32, description_bytes: u32, manifest_bytes: u32, objects: u32) -> [u8; HEADER_BYTES] {
    let mut out = [0; HEADER_BYTES];
    out[..8].copy_from_slice(MAGIC);
    out[8..12].copy_from_slice(&version.to_le_bytes());
    out[12..16].copy_from_slice(&description_bytes.to_le_bytes());
    out[16..20].copy_from_slice(&manifest_bytes.to_le_bytes());
    out[20..24].copy_from_slice(&objects.to_le_bytes());
    let checksum = crc32c::crc32c(&out[..60]);
    out[60..].copy_from_slice(&checksum.to_le_bytes());
    out
}

fn encode_object_header(member: &Member) -> [u8; OBJECT_HEADER_BYTES] {
    let mut out = [0; OBJECT_HEADER_BYTES];
    out[..4].copy_from_slice(&member.kind.number().to_le_bytes());
    out[4..20].copy_from_slice(member.id.as_bytes());
    out[20..28].copy_from_slice(&member.bytes.to_le_bytes());
    let checksum = crc32c::crc32c(&out[..36]);
    out[36..].copy_from_slice(&checksum.to_le_bytes());
    out
}

pub(super) fn encode_footer(version: u32, index_offset: u64, index: &[u8], objects: u32) -> [u8; FOOTER_BYTES] {
    let mut out = [0; FOOTER_BYTES];
    out[..8].copy_from_slice(&index_offset.to_le_bytes());
    out[8..16].copy_from_slice(&(index.len() as u64).to_le_bytes());
    out[16..20].copy_from_slice(&crc32c::crc32c(index).to_le_bytes());
    out[20..24].copy_from_slice(&objects.to_le_bytes());
    out[24..28].copy_from_slice(&version.to_le_bytes());
    let checksum = crc32c::crc32c(&out[..52]);
    out[52..56].copy_from_slice(&checksum.to_le_bytes());
    out[56..].copy_from_slice(END_MAGIC);
    out
}

/// Writes a snapshot, object after object.
pub struct SnapshotWriter<'a> {
    out: &'a mut dyn Write,
    version: u32,
    at: u64,
    expected: Vec<Member>,
    written: Vec<IndexEntry>,
}

impl<'a> SnapshotWriter<'a> {
    /// Begins the file. The objects to come are those that [`carried`] gives.
    pub fn begin(out: &'a mut dyn Write, description: &Description, manifest: &Manifest) -> Result<Self> {
        description
            .check(manifest)
            .map_err(|what| Error::internal(format!("write snapshot of {}: {what}", manifest.name)))?;
        let version = description.format;
        let expected = carried(description, manifest);
        let (description, _) = envelope::seal(description)?;
        let (manifest, _) = encode_manifest(manifest)?;
        let header = encode_header(version, length(&description)?, length(&manifest)?, expected.len() as u32);
        let mut writer = SnapshotWriter { out, version, at: 0, expected, written: Vec::new() };
        for part in [header.as_slice(), &description, &manifest] {
            writer.put(part)?;
        }
        Ok(writer)
    }

    /// The next object to write; `None` after the last.
    pub fn next_member(&self) -> Option<Member> {
        self.expected.get(self.written.len()).copied()
    }

    /// Writes the next object by `fill`, which must give exactly its bytes.
    pub fn object(&mut self, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
        let Some(member) = self.next_member() else {
            return Err(Error::internal("write snapshot: an object after the last"));
        };
        self.put(&encode_object_header(&member))?;
        let offset = self.at;
        let mut counted = Counted { out: &mut *self.out, bytes: 0, crc32c: 0 };
        fill(&mut counted)?;
        let (bytes, crc32c) = (counted.bytes, counted.crc32c);
        self.at += bytes;
        if (bytes, crc32c) != (member.bytes, member.crc32c) {
            return Err(Error::corrupt(format!(
                "write snapshot: {} {} has {bytes} bytes with checksum {crc32c:08x}, expected {} with {:08x}",
                member.kind.name(),
                member.id,
                member.bytes,
                member.crc32c
            ))
            .with_hint("run `shoal check`"));
        }
        self.written.push(IndexEntry { member, offset });
        Ok(())
    }

    /// Ends the file; gives its length.
    pub fn finish(mut self) -> Result<u64> {
        if let Some(missing) = self.next_member() {
            return Err(Error::internal(format!(
                "write snapshot: {} {} is missing",
                missing.kind.name(),
                missing.id
            )));
        }
        let index = encode_index(&self.written);
        let footer = encode_footer(self.version, self.at, &index, self.written.len() as u32);
        self.put(&index)?;
        self.put(&footer)?;
        self.out.flush().context(|| "write snapshot")?;
        Ok(self.at)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.out.write_all(bytes).context(|| "write snapshot")?;
        self.at += bytes.len() as u64;
        Ok(())
    }
}

fn length(part: &[u8]) -> Result<u32> {
    u32::try_from(part.len())
        .ok()
        .filter(|bytes| *bytes <= METADATA_BYTES_MAX)
        .ok_or_else(|| Error::invalid(format!("{} bytes of metadata, at most {METADATA_BYTES_MAX} fit", part.len())))
}

struct Counted<'a> {
    out: &'a mut dyn Write,
    bytes: u64,
    crc32c: u32,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write_all(bytes)?;
        self.bytes += bytes.len() as u64;
        self.crc32c = crc32c::crc32c_append(self.crc32c, bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
