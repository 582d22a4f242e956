//! A snapshot: one namespace at one commit in one file, written and read front to back without seeking.
//!
//! ```text
//! header       64 bytes
//! description  metadata envelope: what kind of snapshot, and of an incremental one its base
//! manifest     the commit's manifest, as its own file has it; it names no logs
//! objects      each behind a header of 40 bytes: segments and their dead rows in the order of the manifest, then conflicts
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
use super::conflicts::BYTES_MAX as CONFLICTS_BYTES_MAX;
use super::envelope;
use super::manifest::{Manifest, decode_manifest};
use super::segment::{check_reserved, check_sum};
use super::snapshot_writer::{encode_footer, encode_index};
use crate::error::{Context, Error, Result};
use crate::model::ids::CommitId;

/// The newest version: it holds unresolved conflicts.
pub const VERSION: u32 = 2;
/// The version that knows nothing of conflicts; written still where there are none.
pub const VERSION_WITHOUT_CONFLICTS: u32 = 1;
pub const HEADER_BYTES: usize = 64;
pub const OBJECT_HEADER_BYTES: usize = 40;
pub const INDEX_ENTRY_BYTES: usize = 40;
pub const FOOTER_BYTES: usize = 64;
/// The longest description and manifest, in bytes: twice what the largest ones allowed take.
pub const METADATA_BYTES_MAX: u32 = 16 << 20;
pub(super) const MAGIC: &[u8; 8] = b"SHOALSNP";
pub(super) const END_MAGIC: &[u8; 8] = b"SHOALSNE";
/// How much of an object is in memory at once.
const PIECE_BYTES: usize = 64 << 10;

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ObjectKind {
    Segment,
    /// The dead rows of the segment that has this id.
    Deletions,
    /// States that lost in merges; the id is made of the token in the object's key, see [`conflicts_id`].
    Conflicts,
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
    /// The objects of unresolved conflicts, in the order of the manifest, which has their keys only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conflicts: Vec<Member>,
}

impl Description {
    /// A description of the lowest version that can say this.
    pub fn new(kind: SnapshotKind, taken_ms: u64, base: Option<Base>, conflicts: Vec<Member>) -> Self {
        let mut description = Description { format: VERSION, kind, taken_ms, base, conflicts };
        if !description.names_conflicts() {
            description.format = VERSION_WITHOUT_CONFLICTS;
        }
        description
    }

    /// Whether it says which conflicts there are; of version 1 nobody knows.
    pub fn knows_conflicts(&self) -> bool {
        self.format > VERSION_WITHOUT_CONFLICTS
    }

    fn names_conflicts(&self) -> bool {
        let of_base = self.base.iter().flat_map(|base| &base.objects);
        of_base.chain(&self.conflicts).any(|member| member.kind == ObjectKind::Conflicts)
    }

    /// What must hold of it and the manifest beside it.
    pub(super) fn check(&self, manifest: &Manifest) -> std::result::Result<(), String> {
        if (self.kind == SnapshotKind::Incremental) != self.base.is_some() {
            return Err("must have a base exactly when it is incremental".to_owned());
        }
        if !manifest.logs.is_empty() {
            return Err(format!("manifest names {} logs, expected none", manifest.logs.len()));
        }
        if !self.knows_conflicts() {
            let is_right = self.conflicts.is_empty() && !self.names_conflicts();
            return if is_right { Ok(()) } else { Err("has conflicts, which format version 1 has not".to_owned()) };
        }
        if self.conflicts.len() != manifest.conflicts.len() {
            let (found, expected) = (self.conflicts.len(), manifest.conflicts.len());
            return Err(format!("{found} objects of conflicts, expected the {expected} of its manifest"));
        }
        let is_wrong = |member: &&Member| member.kind != ObjectKind::Conflicts || member.id.as_u64_pair().0 != 0;
        if let Some(member) = self.conflicts.iter().find(is_wrong) {
            return Err(format!("{} {} is listed as conflicts", member.kind.name(), member.id));
        }
        match self.conflicts.iter().find(|member| member.bytes > CONFLICTS_BYTES_MAX) {
            Some(Member { id, bytes, .. }) => {
                Err(format!("conflicts {id} have {bytes} bytes, expected at most {CONFLICTS_BYTES_MAX}"))
            }
            None => Ok(()),
        }
    }
}

/// The id of an object of conflicts whose key has this token: eight bytes of 0, then the token.
pub fn conflicts_id(token: u64) -> Uuid {
    Uuid::from_u64_pair(0, token)
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

/// The segments and dead rows of a manifest that names no logs, in the order in which a full snapshot has them.
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
    let all = members(manifest).into_iter().chain(description.conflicts.iter().copied());
    all.filter(|member| !known.contains(member)).collect()
}

impl ObjectKind {
    pub(super) fn number(self) -> u32 {
        match self {
            ObjectKind::Segment => 1,
            ObjectKind::Deletions => 2,
            ObjectKind::Conflicts => 3,
        }
    }

    fn of(number: u32) -> Option<Self> {
        match number {
            1 => Some(ObjectKind::Segment),
            2 => Some(ObjectKind::Deletions),
            3 => Some(ObjectKind::Conflicts),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            ObjectKind::Segment => "segment",
            ObjectKind::Deletions => "deletions",
            ObjectKind::Conflicts => "conflicts",
        }
    }
}

/// An object's line of the index.
pub(super) struct IndexEntry {
    pub member: Member,
    pub offset: u64,
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
        let (version, [description_bytes, manifest_bytes, objects]) = decode_header(&header, name)?;
        let bytes = take(&mut input, &mut at, u64::from(description_bytes), name)?;
        let (description, _) = envelope::open::<Description>(&bytes, VERSION, &format!("{name}: description"))?;
        if description.format != version {
            let found = description.format;
            return Err(Error::corrupt(format!("{name}: description of version {found}, the header says {version}")));
        }
        let bytes = take(&mut input, &mut at, u64::from(manifest_bytes), name)?;
        let (manifest, _) = decode_manifest(&bytes, &format!("{name}: manifest"))?;
        description.check(&manifest).map_err(|what| Error::corrupt(format!("{name}: {what}")))?;
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
        if footer != encode_footer(self.description.format, index_offset, &index, self.read.len() as u32) {
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

/// The version; the lengths of description and manifest, and the number of objects.
fn decode_header(bytes: &[u8], name: &str) -> Result<(u32, [u32; 3])> {
    if &bytes[..8] != MAGIC {
        return Err(Error::corrupt(format!("{name}: does not begin with SHOALSNP, it is no snapshot")));
    }
    check_sum(&bytes[..60], &bytes[60..], || format!("{name}: header"))?;
    let mut fields = Reader::new(&bytes[8..60], name);
    let version = fields.u32()?;
    check_version(version, name)?;
    let sizes = [fields.u32()?, fields.u32()?, fields.u32()?];
    if sizes[0].max(sizes[1]) > METADATA_BYTES_MAX {
        return Err(Error::corrupt(format!(
            "{name}: {} and {} bytes of metadata, expected at most {METADATA_BYTES_MAX}",
            sizes[0], sizes[1]
        )));
    }
    check_reserved(fields.take(36)?, || format!("{name}: header"))?;
    Ok((version, sizes))
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
        VERSION_WITHOUT_CONFLICTS..=VERSION => Ok(()),
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
