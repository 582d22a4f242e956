//! Takes snapshots: one commit of a namespace, whole, flattened or as what is new since an earlier commit.
//!
//! What is taken is the commit that a checkpoint makes, so a snapshot needs no logs and its commit can be named later as
//! the base of an incremental one. Conflicts that nobody resolved are part of every kind. A flattened segment is merged
//! twice: the first time only to learn its length, so that nothing has to be kept on the disk or in memory.

use std::io::{Write, sink};
use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::engine::Engine;
use crate::engine::namespace::Moment;
use crate::engine::transfer::{HeldConflicts, Settled, SettledSegment};
use crate::error::{Context, Error, Result};
use crate::format::deletions;
use crate::format::manifest::{Manifest, SegmentRef};
use crate::format::snapshot::{Base, Description, Member, ObjectKind, SnapshotKind, conflicts_id, members};
use crate::format::snapshot_writer::SnapshotWriter;
use crate::model::as_of::AsOf;
use crate::model::ids::{Hlc, NamespaceName};
use crate::segment::merge::{Input, merge};
use crate::segment::{MemoryLeft, Segment, Summary};

/// How much of an object is written at once.
const PIECE_BYTES: usize = 64 << 10;

/// What a snapshot is to hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Extent {
    Full,
    Flattened,
    /// Only what an earlier state has not.
    Since(AsOf),
}

/// A snapshot that can be written at once.
pub struct Snapshot {
    description: Description,
    manifest: Manifest,
    segments: Vec<SettledSegment>,
    conflicts: Vec<HeldConflicts>,
}

/// Looks up everything that goes into a snapshot of the newest state. Errors are told here, before the first byte.
pub async fn take(engine: &Arc<Engine>, name: &NamespaceName, extent: &Extent) -> Result<Snapshot> {
    let base = match extent {
        // Looked up before the checkpoint, which may be the last straw for what retention keeps.
        Extent::Since(as_of) => Some(base(engine, name, as_of).await?),
        Extent::Full | Extent::Flattened => None,
    };
    let Settled { mut manifest, segments, conflicts } = engine.settled(name).await?;
    // Answers to repeat are this node's business.
    manifest.idempotency.clear();
    let kind = match extent {
        Extent::Full => SnapshotKind::Full,
        Extent::Flattened => SnapshotKind::Flattened,
        Extent::Since(_) => SnapshotKind::Incremental,
    };
    if kind == SnapshotKind::Flattened {
        flatten(&mut manifest, &segments, engine, name)?;
    }
    let described = tokio::task::block_in_place(|| conflicts_members(&conflicts));
    let description = Description::new(kind, engine.now_millis(), base, described);
    Ok(Snapshot { description, manifest, segments, conflicts })
}

/// The state that an incremental snapshot goes on from.
async fn base(engine: &Arc<Engine>, name: &NamespaceName, as_of: &AsOf) -> Result<Base> {
    let moment = engine.moment_at(name, Some(as_of)).await?;
    let Moment { manifest, .. } = &*moment;
    let has_tail = !moment.view.tail.is_empty() || !moment.tombstones.is_empty();
    if has_tail && !manifest.logs.is_empty() {
        return Err(Error::invalid(format!(
            "since: generation {} of namespace {name} has records that were in no segment yet, so no snapshot is of it",
            manifest.generation
        ))
        .with_hint("name the commit of an earlier snapshot, or a tag that was put on right after it"));
    }
    let mut objects = members(manifest);
    let conflicts =
        tokio::task::block_in_place(|| engine.conflicts_of(manifest).map(|held| conflicts_members(&held)));
    objects.extend(conflicts.context(|| format!("since: generation {} of namespace {name}", manifest.generation))?);
    Ok(Base { commit_id: manifest.commit_id, data_seq: manifest.data_seq, objects })
}

/// Objects of conflicts, as a snapshot's description has them.
pub(super) fn conflicts_members(conflicts: &[HeldConflicts]) -> Vec<Member> {
    let member = |held: &HeldConflicts| Member {
        kind: ObjectKind::Conflicts,
        id: conflicts_id(held.token),
        bytes: held.file.len() as u64,
        crc32c: crc32c::crc32c(&held.file),
    };
    conflicts.iter().map(member).collect()
}

/// Makes the manifest one of all documents in a single segment.
fn flatten(
    manifest: &mut Manifest,
    segments: &[SettledSegment],
    engine: &Engine,
    name: &NamespaceName,
) -> Result<()> {
    let segment_id = engine.new_id();
    manifest.segments.clear();
    manifest.lineage = None;
    // Every tombstone is dropped, and relatives must know that.
    manifest.horizon = manifest.horizon.max(manifest.hlc).max(manifest.version_vector.newest());
    let summary = tokio::task::block_in_place(|| merge_all(segment_id, manifest, segments, &mut sink()))?;
    if summary.rows > 0 {
        manifest.segments.push(SegmentRef {
            key: engine.segment_key(name, manifest.nsid, segment_id),
            segment_id,
            level: 0,
            bytes: summary.bytes,
            crc32c: summary.crc32c,
            rows: summary.rows,
            tombstones: 0,
            logical_bytes: summary.logical_bytes,
            deletions: None,
        });
    }
    Ok(())
}

/// The same bytes whenever it is asked for.
fn merge_all(
    segment_id: uuid::Uuid,
    manifest: &Manifest,
    segments: &[SettledSegment],
    out: &mut dyn Write,
) -> Result<Summary> {
    let mut dead = Vec::with_capacity(segments.len());
    for SettledSegment { segment, deletions } in segments {
        dead.push(match deletions {
            None => RoaringBitmap::new(),
            Some(bytes) => deletions::decode(bytes, segment.name())?.2,
        });
    }
    let left = MemoryLeft::default();
    let past: Vec<Segment> = segments.iter().map(|part| part.segment.past(&left)).collect();
    let inputs: Vec<Input> = past.iter().zip(&dead).map(|(segment, dead)| Input { segment, dead }).collect();
    merge(segment_id, &manifest.schema, &inputs, Hlc(u64::MAX), out)
}

impl Snapshot {
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Writes the file; gives its length. Blocking; memory is bounded.
    pub fn write(&self, out: &mut dyn Write) -> Result<u64> {
        let mut writer = SnapshotWriter::begin(out, &self.description, &self.manifest)?;
        while let Some(member) = writer.next_member() {
            let known = self.segments.iter().find(|known| known.segment.segment_id() == member.id);
            match (self.description.kind, member.kind) {
                (_, ObjectKind::Conflicts) => {
                    let held = self.conflicts.iter().find(|held| conflicts_id(held.token) == member.id);
                    let held = held.ok_or_else(|| lost(member))?;
                    writer.object(|out| copy(&held.file, out).and_then(|()| held.file.check_readable(&held.key)))?;
                }
                (SnapshotKind::Flattened, _) => {
                    writer.object(|out| merge_all(member.id, &self.manifest, &self.segments, out).map(|_| ()))?
                }
                (_, ObjectKind::Segment) => {
                    let part = known.ok_or_else(|| lost(member))?;
                    writer.object(|out| part.segment.for_each_piece(|piece| copy(piece, out)))?;
                }
                (_, ObjectKind::Deletions) => {
                    let bytes = known.and_then(|part| part.deletions.as_ref()).ok_or_else(|| lost(member))?;
                    writer.object(|out| copy(bytes, out))?;
                }
            }
        }
        writer.finish()
    }
}

/// In pieces: who takes them may keep each of them in memory.
fn copy(bytes: &[u8], out: &mut dyn Write) -> Result<()> {
    bytes.chunks(PIECE_BYTES).try_for_each(|piece| out.write_all(piece)).context(|| "write snapshot")
}

fn lost(member: Member) -> Error {
    Error::internal(format!("write snapshot: {} {} is not held", member.kind.name(), member.id))
}
