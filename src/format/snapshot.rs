//! A snapshot: one namespace at one commit in one file, written and read front to back without seeking.
//!
//! ```text
//! header       64 bytes
//! description  metadata envelope: what kind of snapshot, and of an incremental one its base
//! manifest     the commit's manifest, as its own file has it; it names no logs
//! objects      each behind a header of 40 bytes, in the order of the manifest
//! index        40 bytes for each object: where it is, and its checksum
//! footer       64 bytes: where the index is
//! ```
//!
//! Every byte is under a checksum. An object is checked against the manifest as soon as its last byte is read; that the
//! file is whole is known at its end, so a reader must publish nothing before [`SnapshotReader::finish`].

use std::collections::BTreeSet;
use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::bytes::Reader;
use super::envelope;
use super::manifest::{Manifest, decode_manifest, encode_manifest};
use super::segment::{check_reserved, check_sum};
use crate::error::{Context, Error, Result};
use crate::model::ids::CommitId;

pub const VERSION: u32 = 1;
pub const HEADER_BYTES: usize = 64;
pub const OBJECT_HEADER_BYTES: usize = 40;
pub const INDEX_ENTRY_BYTES: usize = 40;
pub const FOOTER_BYTES: usize = 64;
/// The longest description and manifest, in bytes: twice what the largest ones allowed take.
pub const METADATA_BYTES_MAX: u32 = 16 << 20;
const MAGIC: &[u8; 8] = b"SHOALSNP";
const END_MAGIC: &[u8; 8] = b"SHOALSNE";
/// How much of an object is in memory at once.
const PIECE_BYTES: usize = 64 << 10;

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectKind {
    Segment,
    /// The dead rows of the segment that has this id.
    Deletions,
}

/// One object of a commit, by what it is and what it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Member {
    pub kind: ObjectKind,
    pub id: Uuid,
    pub bytes: u64,
    pub crc32c: u32,
}

/// What a snapshot holds of its namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SnapshotKind {
    /// Every object of the commit.
    Full,
    /// Every document in one segment, without lineage and tombstones.
    Flattened,
    /// The objects that the base has not.
    Incremental,
}

/// What a snapshot is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    pub format: u32,
    pub kind: SnapshotKind,
    pub taken_ms: u64,
    /// Of an incremental snapshot: the commit that it goes on from.
    pub base: Option<Base>,
}

/// The commit that an incremental snapshot goes on from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    pub commit_id: CommitId,
    pub data_seq: u64,
    /// Everything that the base consists of, in the order of its manifest.
    pub objects: Vec<Member>,
}

/// Every object of a manifest that names no logs, in the order in which a full snapshot has them.
pub fn members(manifest: &Manifest) -> Vec<Member> {
    let mut members = Vec::with_capacity(manifest.segments.len());
    for segment in &manifest.segments {
        let id = segment.segment_id;
        members.push(Member { kind: ObjectKind::Segment, id, bytes: segment.bytes, crc32c: segment.crc32c });
        if let Some(dead) = &segment.deletions {
            members.push(Member { kind: ObjectKind::Deletions, id, bytes: dead.bytes, crc32c: dead.crc32c });
        }
    }
    members
}

/// The objects that a snapshot of this description and manifest holds, in their order.
pub fn carried(description: &Description, manifest: &Manifest) -> Vec<Member> {
    let known: BTreeSet<Member> = description.base.iter().flat_map(|base| base.objects.iter().copied()).collect();
    members(manifest).into_iter().filter(|member| !known.contains(member)).collect()
}

impl ObjectKind {
    fn number(self) -> u32 {
        match self {
            ObjectKind::Segment => 1,
            ObjectKind::Deletions => 2,
        }
    }

    fn of(number: u32) -> Option<Self> {
        match number {
            1 => Some(ObjectKind::Segment),
            2 => Some(ObjectKind::Deletions),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            ObjectKind::Segment => "segment",
            ObjectKind::Deletions => "deletions",
        }
    }
}

/// An object's line of the index.
struct IndexEntry {
    member: Member,
    offset: u64,
}

fn encode_index(entries: &[IndexEntry]) -> Vec<u8> {
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

fn encode_header(description_bytes: u32, manifest_bytes: u32, objects: u32) -> [u8; HEADER_BYTES] {
    let mut out = [0; HEADER_BYTES];
    out[..8].copy_from_slice(MAGIC);
    out[8..12].copy_from_slice(&VERSION.to_le_bytes());
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

fn encode_footer(index_offset: u64, index: &[u8], objects: u32) -> [u8; FOOTER_BYTES] {
    let mut out = [0; FOOTER_BYTES];
    out[..8].copy_from_slice(&index_offset.to_le_bytes());
    out[8..16].copy_from_slice(&(index.len() as u64).to_le_bytes());
    out[16..20].copy_from_slice(&crc32c::crc32c(index).to_le_bytes());
    out[20..24].copy_from_slice(&objects.to_le_bytes());
    out[24..28].copy_from_slice(&VERSION.to_le_bytes());
    let checksum = crc32c::crc32c(&out[..52]);
    out[52..56].copy_from_slice(&checksum.to_le_bytes());
    out[56..].copy_from_slice(END_MAGIC);
    out
}

/// Writes a snapshot, object after object.
pub struct SnapshotWriter<'a> {
    out: &'a mut dyn Write,
    at: u64,
    expected: Vec<Member>,
    written: Vec<IndexEntry>,
}

impl<'a> SnapshotWriter<'a> {
    /// Begins the file. The objects to come are those that [`carried`] gives.
    pub fn begin(out: &'a mut dyn Write, description: &Description, manifest: &Manifest) -> Result<Self> {
        if !manifest.logs.is_empty() {
            return Err(Error::internal(format!(
                "write snapshot of {}: its manifest names {} logs, expected none",
                manifest.name,
                manifest.logs.len()
            )));
        }
        let expected = carried(description, manifest);
        let (description, _) = envelope::seal(description)?;
        let (manifest, _) = encode_manifest(manifest)?;
        let header = encode_header(length(&description)?, length(&manifest)?, expected.len() as u32);
        let mut writer = SnapshotWriter { out, at: 0, expected, written: Vec::new() };
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
        let footer = encode_footer(self.at, &index, self.written.len() as u32);
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

/// Reads a snapshot, object after object.
pub struct SnapshotReader<R> {
    input: R,
    name: String,
    at: u64,
    description: Description,
    manifest: Manifest,
    expected: Vec<Member>,
    read: Vec<IndexEntry>,
}

impl<R: Read> SnapshotReader<R> {
    /// Reads what is in front of the objects; `name` is the file's name in errors.
    pub fn open(mut input: R, name: &str) -> Result<Self> {
        let mut at = 0;
        let header = take(&mut input, &mut at, HEADER_BYTES as u64, name)?;
        let (description_bytes, manifest_bytes, objects) = decode_header(&header, name)?;
        let bytes = take(&mut input, &mut at, u64::from(description_bytes), name)?;
        let (description, _) = envelope::open::<Description>(&bytes, VERSION, &format!("{name}: description"))?;
        if (description.kind == SnapshotKind::Incremental) != description.base.is_some() {
            return Err(Error::corrupt(format!("{name}: must have a base exactly when it is incremental")));
        }
        let bytes = take(&mut input, &mut at, u64::from(manifest_bytes), name)?;
        let (manifest, _) = decode_manifest(&bytes, &format!("{name}: manifest"))?;
        if !manifest.logs.is_empty() {
            return Err(Error::corrupt(format!(
                "{name}: manifest names {} logs, expected none",
                manifest.logs.len()
            )));
        }
        let expected = carried(&description, &manifest);
        let distinct: BTreeSet<(ObjectKind, Uuid)> = expected.iter().map(|member| (member.kind, member.id)).collect();
        if expected.len() != objects as usize || distinct.len() != expected.len() {
            return Err(Error::corrupt(format!(
                "{name}: {objects} objects, expected the {} of its manifest, each once",
                expected.len()
            )));
        }
        Ok(SnapshotReader { input, name: name.to_owned(), at, description, manifest, expected, read: Vec::new() })
    }

    pub fn description(&self) -> &Description {
        &self.description
    }

    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The next object; `None` after the last.
    pub fn next_member(&self) -> Option<Member> {
        self.expected.get(self.read.len()).copied()
    }

    /// Copies the next object to `out`, and checks it.
    pub fn copy_object(&mut self, out: &mut dyn Write) -> Result<()> {
        let Some(member) = self.next_member() else {
            return Err(Error::internal(format!("{}: read an object after the last", self.name)));
        };
        let what = format!("{}: {} {}", self.name, member.kind.name(), member.id);
        let header = take(&mut self.input, &mut self.at, OBJECT_HEADER_BYTES as u64, &self.name)?;
        let found = decode_object_header(&header, &what)?;
        if found != (member.kind, member.id, member.bytes) {
            return Err(Error::corrupt(format!(
                "{what}: {} {} of {} bytes is in its place, expected {} bytes of it",
                found.0.name(),
                found.1,
                found.2,
                member.bytes
            )));
        }
        let (offset, mut left, mut crc32c) = (self.at, member.bytes, 0);
        let mut piece = vec![0; PIECE_BYTES];
        while left > 0 {
            let size = usize::try_from(left).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
            fill(&mut self.input, &mut self.at, &mut piece[..size], &self.name)?;
            crc32c = crc32c::crc32c_append(crc32c, &piece[..size]);
            out.write_all(&piece[..size]).context(|| format!("copy {what}"))?;
            left -= size as u64;
        }
        if crc32c != member.crc32c {
            return Err(Error::corrupt(format!("{what}: checksum is {crc32c:08x}, expected {:08x}", member.crc32c)));
        }
        self.read.push(IndexEntry { member, offset });
        Ok(())
    }

    /// Reads what is behind the objects: afterwards the whole file is known to be right. Gives its length.
    pub fn finish(mut self) -> Result<u64> {
        if let Some(missing) = self.next_member() {
            let what = missing.kind.name();
            return Err(Error::internal(format!("{}: {what} {} was not read", self.name, missing.id)));
        }
        let index_offset = self.at;
        let expected = encode_index(&self.read);
        let index = take(&mut self.input, &mut self.at, expected.len() as u64, &self.name)?;
        let footer = take(&mut self.input, &mut self.at, FOOTER_BYTES as u64, &self.name)?;
        if footer != encode_footer(index_offset, &index, self.read.len() as u32) {
            // It is known by now what the footer must be; why it is not is for the reader of the error.
            decode_footer(&footer, &self.name)?;
            check_sum(&index, &footer[16..20], || format!("{}: index", self.name))?;
            return Err(Error::corrupt(format!("{}: the footer is not of these objects", self.name)));
        }
        if index != expected {
            return Err(Error::corrupt(format!("{}: the index is not of these objects", self.name)));
        }
        let mut more = [0];
        match read_some(&mut self.input, &mut more).context(|| format!("read {}", self.name))? {
            0 => Ok(self.at),
            _ => Err(Error::corrupt(format!("{}: goes on after its end at byte {}", self.name, self.at))),
        }
    }
}

fn decode_header(bytes: &[u8], name: &str) -> Result<(u32, u32, u32)> {
    if &bytes[..8] != MAGIC {
        return Err(Error::corrupt(format!("{name}: does not begin with SHOALSNP, it is no snapshot")));
    }
    check_sum(&bytes[..60], &bytes[60..], || format!("{name}: header"))?;
    let mut fields = Reader::new(&bytes[8..60], name);
    check_version(fields.u32()?, name)?;
    let sizes = (fields.u32()?, fields.u32()?, fields.u32()?);
    if sizes.0.max(sizes.1) > METADATA_BYTES_MAX {
        return Err(Error::corrupt(format!(
            "{name}: {} and {} bytes of metadata, expected at most {METADATA_BYTES_MAX}",
            sizes.0, sizes.1
        )));
    }
    check_reserved(fields.take(36)?, || format!("{name}: header"))?;
    Ok(sizes)
}

fn decode_object_header(bytes: &[u8], what: &str) -> Result<(ObjectKind, Uuid, u64)> {
    check_sum(&bytes[..36], &bytes[36..], || format!("{what}: header"))?;
    let mut fields = Reader::new(&bytes[..36], what);
    let number = fields.u32()?;
    let kind = ObjectKind::of(number)
        .ok_or_else(|| Error::unsupported(format!("{what}: unknown kind of object {number}")))?;
    let (id, size) = (Uuid::from_bytes(fields.bytes16()?), fields.u64()?);
    check_reserved(fields.take(8)?, || format!("{what}: header"))?;
    Ok((kind, id, size))
}

fn decode_footer(bytes: &[u8], name: &str) -> Result<()> {
    if &bytes[56..] != END_MAGIC {
        return Err(Error::corrupt(format!("{name}: does not end with SHOALSNE")));
    }
    check_sum(&bytes[..52], &bytes[52..56], || format!("{name}: footer"))?;
    check_version(Reader::new(&bytes[24..28], name).u32()?, name)?;
    check_reserved(&bytes[28..52], || format!("{name}: footer"))
}

fn check_version(found: u32, name: &str) -> Result<()> {
    match found {
        VERSION => Ok(()),
        0 => Err(Error::corrupt(format!("{name}: format version 0"))),
        _ => Err(Error::unsupported(format!(
            "{name}: snapshot of format version {found}, this release reads up to {VERSION}"
        ))
        .with_hint("use a release of Shoal that knows this version")),
    }
}

/// The next `bytes` bytes. Memory grows with what is there, not with what a length says.
fn take(input: &mut impl Read, at: &mut u64, bytes: u64, name: &str) -> Result<Vec<u8>> {
    let mut taken = Vec::new();
    let read = input.by_ref().take(bytes).read_to_end(&mut taken).context(|| format!("read {name}"))?;
    if read as u64 != bytes {
        return Err(cut_short(name, *at + read as u64, bytes - read as u64));
    }
    *at += bytes;
    Ok(taken)
}

fn fill(input: &mut impl Read, at: &mut u64, piece: &mut [u8], name: &str) -> Result<()> {
    let mut filled = 0;
    while filled < piece.len() {
        match read_some(input, &mut piece[filled..]).context(|| format!("read {name}"))? {
            0 => return Err(cut_short(name, *at + filled as u64, (piece.len() - filled) as u64)),
            n => filled += n,
        }
    }
    *at += filled as u64;
    Ok(())
}

fn read_some(input: &mut impl Read, piece: &mut [u8]) -> io::Result<usize> {
    loop {
        match input.read(piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

fn cut_short(name: &str, at: u64, missing: u64) -> Error {
    Error::corrupt(format!("{name}: ends at byte {at}, expected {missing} more bytes: it is cut short"))
}
