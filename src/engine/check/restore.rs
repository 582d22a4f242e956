//! Puts back single files that something else at rest knows byte for byte. Nothing is guessed: where the bytes cannot be
//! proven to be the ones that were lost, the file stays as it is.

use roaring::RoaringBitmap;

use crate::engine::context::Context;
use crate::engine::lineage::holdings::{generations, read_deleted};
use crate::error::{Context as _, Result};
use crate::format::deletions;
use crate::format::manifest::{DeletionsRef, Manifest, SegmentRef, decode_manifest};
use crate::format::marks::{DeletedFile, VERSION, encode_deleted};
use crate::meta::tables::Kin;
use crate::model::ids::{Hlc, Nsid};
use crate::platform::disk::{create_dirs, publish};
use crate::segment::Segment;

/// The newest manifest that the index remembers, and its bytes. A manifest is durable before the index has it, so one that
/// is newer than every file says that a file is missing.
pub fn cached_head(context: &Context, nsid: Nsid) -> Option<(Manifest, Vec<u8>)> {
    let bytes = context.meta.manifest(nsid).ok()??;
    let (manifest, _) = decode_manifest(&bytes, "meta.redb").ok()?;
    (manifest.nsid == nsid).then_some((manifest, bytes))
}

/// Writes the newest manifest back when its file is damaged or missing and the index has it. Whether it did.
pub fn manifest(context: &Context, nsid: Nsid) -> Result<bool> {
    let Some((known, bytes)) = cached_head(context, nsid) else { return Ok(false) };
    let newest = generations(context, nsid)?.into_iter().max();
    if newest.is_some_and(|newest| newest > known.generation) {
        return Ok(false);
    }
    let path = context.layout.manifest(nsid, known.generation);
    if context.disk.read(&path).is_ok_and(|found| found == bytes) {
        return Ok(false);
    }
    let dir = context.layout.manifests(nsid);
    create_dirs(&*context.disk, &dir).context(|| format!("create {}", dir.display()))?;
    publish(&*context.disk, &path, &bytes).context(|| format!("write manifest {}", path.display()))?;
    Ok(true)
}

/// Writes the mark of a deleted incarnation back when its file is damaged or missing. Whether it did.
pub fn mark(context: &Context, nsid: Nsid, kin: &Kin) -> Result<bool> {
    let Some(deleted_ms) = kin.deleted_ms else { return Ok(false) };
    let there = generations(context, nsid)?;
    if matches!(read_deleted(context, nsid), Ok(Some(_))) || there.is_empty() {
        return Ok(false);
    }
    // The mark goes before the chain: where the newest manifest is gone, too, the incarnation was going for good, and what a power
    // cut brought back of it must not be taken for a namespace to be had back.
    if cached_head(context, nsid).is_some_and(|(known, _)| there.last() != Some(&known.generation)) {
        return Ok(false);
    }
    let hlc = Hlc::from_millis(deleted_ms);
    let file = DeletedFile { format: VERSION, nsid, name: kin.name.clone(), deleted_ms, hlc };
    let path = context.layout.deleted_mark(nsid);
    publish(&*context.disk, &path, &encode_deleted(&file)?).context(|| format!("write {}", path.display()))?;
    Ok(true)
}

/// The bitmap of a segment's dead rows, made anew: rows whose document another segment has in a higher version, or deleted.
/// `None` where that is not to the byte what the manifest names.
pub fn dead_rows(context: &Context, manifest: &Manifest, of: &SegmentRef, lost: &DeletionsRef) -> Option<Vec<u8>> {
    let dead = superseded(context, manifest, of).ok()?;
    let bytes = deletions::encode(&of.segment_id, of.rows, &dead);
    (bytes.len() as u64 == lost.bytes && crc32c::crc32c(&bytes) == lost.crc32c).then_some(bytes)
}

/// Rows of a segment that other segments of the manifest replace or delete.
pub fn superseded(context: &Context, manifest: &Manifest, of: &SegmentRef) -> Result<RoaringBitmap> {
    let open = |reference: &SegmentRef| -> Result<Segment> {
        Segment::open(context.tier.map(&reference.key, reference.bytes)?, &reference.key)
    };
    let segment = open(of)?;
    let mut dead = RoaringBitmap::new();
    for other in manifest.segments.iter().filter(|other| other.segment_id != of.segment_id) {
        let other = open(other)?;
        for tombstone in other.tombstones()? {
            if let Some(row) = segment.row_of(&tombstone.id)?
                && segment.version_of(row)? < tombstone.version
            {
                dead.insert(row);
            }
        }
        for row in 0..segment.rows() {
            if let Some(newer) = other.row_of(&segment.id_of(row)?)?
                && segment.version_of(row)? < other.version_of(newer)?
            {
                dead.insert(row);
            }
        }
    }
    Ok(dead)
}
