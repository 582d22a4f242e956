//! A segment file's frame: header, sections, the meta block that names them, and the footer that finds it.
//!
//! The file is written once, front to back; meta and footer are last and adjacent, so that one read of the file's end
//! opens it. Sections begin at multiples of [`ALIGNMENT`], with zeros between. Readers ignore sections whose names they
//! do not know.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::bytes::Reader;
use crate::error::{Error, Result};
use crate::model::ids::IdType;
use crate::model::schema::{COLUMNS_MAX, Column, ColumnUid};

pub const VERSION: u32 = 1;
pub const HEADER_BYTES: usize = 64;
pub const FOOTER_BYTES: usize = 64;
/// Sections begin at multiples of this many bytes.
pub const ALIGNMENT: usize = 64;
/// Sections longer than this have a checksum for every chunk of this many bytes.
pub const CHUNK_BYTES: usize = 64 << 10;
/// The longest meta block, in bytes: checksums of 128 GiB, and schemas far over any limit.
pub const META_BYTES_MAX: u64 = 64 << 20;
const MAGIC: &[u8; 8] = b"SHOALSEG";
const END_MAGIC: &[u8; 8] = b"SHOALEND";

/// How the bytes of a section are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    /// As they are.
    Plain,
    /// In blocks, each compressed by itself in the LZ4 block format where that makes it smaller.
    Lz4Blocks,
}

/// One section's place and checksums.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SectionEntry {
    pub name: String,
    pub offset: u64,
    pub bytes: u64,
    pub codec: Codec,
    pub checksum: u32,
    /// One for each chunk of [`CHUNK_BYTES`], the last may be shorter; none when the section is one chunk or less.
    pub chunks: Vec<u32>,
}

/// What a reader must know before it can read a section.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meta {
    /// `None` only in a segment without documents and tombstones.
    pub id_type: Option<IdType>,
    /// In ascending order of identity; sections name a column by identity, rows by its place here.
    pub columns: Vec<Column>,
    pub sections: Vec<SectionEntry>,
}

/// The last bytes of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footer {
    pub meta_offset: u64,
    pub meta_bytes: u64,
    pub meta_checksum: u32,
    pub rows: u32,
    pub tombstones: u32,
    pub logical_bytes: u64,
}

/// The part of [`Meta`] that is JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MetaJson {
    id_type: Option<IdType>,
    columns: Vec<MetaColumn>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MetaColumn {
    /// 16 hexadecimal digits.
    uid: String,
    column: Column,
}

/// The section that holds `what` of one column.
pub fn column_section(what: &str, uid: ColumnUid) -> String {
    format!("{what}:{:016x}", uid.0)
}

pub fn encode_header(segment_id: &Uuid) -> [u8; HEADER_BYTES] {
    let mut out = [0; HEADER_BYTES];
    out[..8].copy_from_slice(MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
    out[12..28].copy_from_slice(segment_id.as_bytes());
    let checksum = crc32c::crc32c(&out[..60]);
    out[60..].copy_from_slice(&checksum.to_le_bytes());
    out
}

/// The segment's identity, from the first bytes of the file `name`.
pub fn decode_header(bytes: &[u8], name: &str) -> Result<Uuid> {
    let mut reader = Reader::new(bytes, name);
    let header = reader.take(HEADER_BYTES)?;
    if &header[..8] != MAGIC {
        return Err(Error::corrupt(format!("{name}: does not begin with SHOALSEG")));
    }
    check_sum(&header[..60], &header[60..], || format!("{name}: header"))?;
    let mut fields = Reader::new(&header[8..60], name);
    check_version(fields.u32()?, name)?;
    let segment_id = Uuid::from_bytes(fields.bytes16()?);
    check_reserved(fields.take(32)?, || format!("{name}: header"))?;
    Ok(segment_id)
}

pub fn encode_footer(footer: &Footer) -> [u8; FOOTER_BYTES] {
    let mut out = [0; FOOTER_BYTES];
    out[..8].copy_from_slice(&footer.meta_offset.to_le_bytes());
    out[8..16].copy_from_slice(&footer.meta_bytes.to_le_bytes());
    out[16..20].copy_from_slice(&footer.meta_checksum.to_le_bytes());
    out[20..24].copy_from_slice(&footer.rows.to_le_bytes());
    out[24..28].copy_from_slice(&footer.tombstones.to_le_bytes());
    out[28..32].copy_from_slice(&VERSION.to_le_bytes());
    out[32..40].copy_from_slice(&footer.logical_bytes.to_le_bytes());
    let checksum = crc32c::crc32c(&out[..52]);
    out[52..56].copy_from_slice(&checksum.to_le_bytes());
    out[56..].copy_from_slice(END_MAGIC);
    out
}

/// The footer of the file `name`, whose whole bytes these are: they are also checked to be as many as the footer says.
pub fn decode_footer(file: &[u8], name: &str) -> Result<Footer> {
    let Some(bytes) = file.last_chunk::<FOOTER_BYTES>() else {
        return Err(Error::corrupt(format!("{name}: {} bytes, too few for a segment", file.len())));
    };
    if &bytes[56..] != END_MAGIC {
        return Err(Error::corrupt(format!("{name}: does not end with SHOALEND, it may be cut short")));
    }
    check_sum(&bytes[..52], &bytes[52..56], || format!("{name}: footer"))?;
    let mut fields = Reader::new(&bytes[..52], name);
    let (meta_offset, meta_bytes, meta_checksum) = (fields.u64()?, fields.u64()?, fields.u32()?);
    let (rows, tombstones) = (fields.u32()?, fields.u32()?);
    check_version(fields.u32()?, name)?;
    let logical_bytes = fields.u64()?;
    check_reserved(fields.take(12)?, || format!("{name}: footer"))?;
    let end = meta_offset.checked_add(meta_bytes).and_then(|end| end.checked_add(FOOTER_BYTES as u64));
    if end != Some(file.len() as u64) || meta_offset < HEADER_BYTES as u64 || meta_bytes > META_BYTES_MAX {
        return Err(Error::corrupt(format!(
            "{name}: {} bytes, expected {meta_offset} before meta, {meta_bytes} of meta and {FOOTER_BYTES} of footer",
            file.len()
        )));
    }
    Ok(Footer { meta_offset, meta_bytes, meta_checksum, rows, tombstones, logical_bytes })
}

pub fn encode_meta(meta: &Meta) -> Result<Vec<u8>> {
    let columns = meta
        .columns
        .iter()
        .map(|column| MetaColumn { uid: format!("{:016x}", column.uid().0), column: column.clone() })
        .collect();
    let json = serde_json::to_vec(&MetaJson { id_type: meta.id_type, columns })
        .map_err(|e| Error::internal(format!("encode segment meta: {e}")))?;
    let mut out = Vec::with_capacity(json.len() + 1_024);
    out.extend_from_slice(&(json.len() as u32).to_le_bytes());
    out.extend_from_slice(&json);
    out.extend_from_slice(&(meta.sections.len() as u32).to_le_bytes());
    for section in &meta.sections {
        let name_bytes = u8::try_from(section.name.len())
            .map_err(|_| Error::internal(format!("section name {:?} is over 255 bytes", section.name)))?;
        out.push(name_bytes);
        out.extend_from_slice(section.name.as_bytes());
        out.extend_from_slice(&section.offset.to_le_bytes());
        out.extend_from_slice(&section.bytes.to_le_bytes());
        out.push(match section.codec {
            Codec::Plain => 0,
            Codec::Lz4Blocks => 1,
        });
        out.extend_from_slice(&section.checksum.to_le_bytes());
        for chunk in &section.chunks {
            out.extend_from_slice(&chunk.to_le_bytes());
        }
    }
    if out.len() as u64 > META_BYTES_MAX {
        return Err(Error::invalid(format!(
            "a segment's meta block takes {} bytes, at most {META_BYTES_MAX} fit",
            out.len()
        )));
    }
    Ok(out)
}

/// The meta block of the file `name`: checksum, columns and the places of all sections are checked.
pub fn decode_meta(file: &[u8], footer: &Footer, name: &str) -> Result<Meta> {
    let bytes = usize::try_from(footer.meta_offset).ok().and_then(|from| file.get(from..));
    let bytes = bytes.and_then(|rest| rest.get(..footer.meta_bytes as usize));
    let bytes = bytes.ok_or_else(|| Error::corrupt(format!("{name}: meta is outside the file")))?;
    check_sum(bytes, &footer.meta_checksum.to_le_bytes(), || format!("{name}: meta"))?;
    let mut reader = Reader::new(bytes, name);
    let json_bytes = reader.u32()? as usize;
    let json: MetaJson = serde_json::from_slice(reader.take(json_bytes)?)
        .map_err(|e| Error::corrupt(format!("{name}: meta does not parse: {e}")))?;
    let columns = check_columns(json.columns, name)?;
    let count = reader.u32()?;
    let mut sections: Vec<SectionEntry> = Vec::new();
    let mut end = HEADER_BYTES as u64;
    for _ in 0..count {
        let section = decode_entry(&mut reader, name)?;
        let gap = section.offset.checked_sub(end).filter(|gap| *gap < ALIGNMENT as u64);
        let next = section.offset.checked_add(section.bytes).filter(|next| *next <= footer.meta_offset);
        let (Some(_), Some(next), true) = (gap, next, section.offset.is_multiple_of(ALIGNMENT as u64)) else {
            return Err(Error::corrupt(format!(
                "{name}: section {} of {} bytes at {} is not in its place after byte {end}",
                section.name, section.bytes, section.offset
            )));
        };
        end = next;
        sections.push(section);
    }
    if footer.meta_offset - end >= ALIGNMENT as u64 {
        return Err(Error::corrupt(format!("{name}: bytes {end} to {} are in no section", footer.meta_offset)));
    }
    reader.finish()?;
    Ok(Meta { id_type: json.id_type, columns, sections })
}

fn decode_entry(reader: &mut Reader, file: &str) -> Result<SectionEntry> {
    let name_bytes = usize::from(reader.u8()?);
    let name = std::str::from_utf8(reader.take(name_bytes)?)
        .map_err(|_| Error::corrupt(format!("{file}: a section's name is not UTF-8")))?
        .to_owned();
    let (offset, bytes) = (reader.u64()?, reader.u64()?);
    let codec = match reader.u8()? {
        0 => Codec::Plain,
        1 => Codec::Lz4Blocks,
        other => return Err(Error::unsupported(format!("{file}: section {name}: unknown codec {other}"))),
    };
    let checksum = reader.u32()?;
    let count = if bytes > CHUNK_BYTES as u64 { bytes.div_ceil(CHUNK_BYTES as u64) } else { 0 };
    let (raw, _) = usize::try_from(count)
        .ok()
        .and_then(|count| count.checked_mul(4))
        .ok_or_else(|| Error::corrupt(format!("{file}: section {name}: {bytes} bytes")))
        .and_then(|n| reader.take(n))?
        .as_chunks::<4>();
    let chunks = raw.iter().map(|sum| u32::from_le_bytes(*sum)).collect();
    Ok(SectionEntry { name, offset, bytes, codec, checksum, chunks })
}

fn check_columns(columns: Vec<MetaColumn>, name: &str) -> Result<Vec<Column>> {
    if columns.len() > COLUMNS_MAX {
        return Err(Error::corrupt(format!("{name}: {} columns, expected at most {COLUMNS_MAX}", columns.len())));
    }
    let mut last = None;
    for MetaColumn { uid, column } in &columns {
        let found = column.uid();
        if format!("{:016x}", found.0) != *uid {
            return Err(Error::corrupt(format!(
                "{name}: column {:?} is {uid}, expected {:016x}",
                column.name, found.0
            )));
        }
        if last >= Some(found) {
            return Err(Error::corrupt(format!("{name}: columns are not in ascending order of identity")));
        }
        last = Some(found);
    }
    Ok(columns.into_iter().map(|column| column.column).collect())
}

pub(super) fn check_sum(covered: &[u8], stored: &[u8], what: impl Fn() -> String) -> Result<()> {
    let found = crc32c::crc32c(covered);
    if found.to_le_bytes() == stored {
        return Ok(());
    }
    let stored = stored.iter().rev().fold(0u32, |sum, byte| sum << 8 | u32::from(*byte));
    Err(Error::corrupt(format!("{}: checksum is {found:08x}, expected {stored:08x}", what())))
}

pub(super) fn check_version(found: u32, name: &str) -> Result<()> {
    match found {
        VERSION => Ok(()),
        0 => Err(Error::corrupt(format!("{name}: format version 0"))),
        _ => Err(Error::unsupported(format!("{name}: format version {found}, this release reads up to {VERSION}"))
            .with_hint("use a release of Shoal that knows this version")),
    }
}

pub(super) fn check_reserved(bytes: &[u8], what: impl Fn() -> String) -> Result<()> {
    if bytes.iter().all(|byte| *byte == 0) {
        return Ok(());
    }
    Err(Error::corrupt(format!("{}: reserved bytes are not 0", what())))
}
