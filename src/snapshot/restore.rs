//! Makes a namespace of a snapshot: the stream goes to objects that nobody sees, is verified whole, and then gets a name.
//!
//! The namespace is a new incarnation with an origin of its own. Segments keep their ids and the version vector stays, so it
//! can be compared and merged with its relatives. Conflicts that nobody resolved come along.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use uuid::Uuid;

use super::foreign::{check_manifest, check_segment, check_versions};
use super::take::conflicts_members;
use crate::engine::Engine;
use crate::engine::namespace::Moment;
use crate::engine::transfer::{HeldConflicts, Newborn};
use crate::error::{Error, Kind, Result};
use crate::format::conflicts::decode_conflicts;
use crate::format::deletions;
use crate::format::manifest::{Manifest, SegmentRef};
use crate::format::snapshot::{Base, Member, ObjectKind, SnapshotKind, SnapshotReader, conflicts_id, members};
use crate::model::ids::NamespaceName;
use crate::segment::Segment;
use crate::segment::merge::Input;
use crate::segment::unique::live_twice;
use crate::tier::Staged;

/// The code of errors about a file that is not a whole snapshot.
pub const DAMAGED: &str = "damaged_snapshot";
/// What errors call the file.
const NAME: &str = "snapshot";

/// What a restore made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    pub documents: u64,
    pub bytes: u64,
    pub kind: SnapshotKind,
    /// The commit that the snapshot is of.
    pub commit_id: String,
}

/// An object on its way to its place, and its key there.
struct Incoming {
    key: String,
    staged: Staged,
}

/// What the base of an incremental snapshot gives.
struct Held {
    moment: Arc<Moment>,
    conflicts: Vec<HeldConflicts>,
    /// Whether its objects are shared, because the new incarnation takes its place; else they are copied.
    shares: bool,
}

/// Makes the namespace `name` of a snapshot. An incremental one goes on from the state of `base`, or of `name` itself, whose
/// incarnation then ends: its labels and its time to live stay, and it is refused where that takes no writes or has tags. Invalid with code [`DAMAGED`] when a byte of it is wrong or missing; nothing is changed then.
pub async fn restore(
    engine: &Arc<Engine>,
    name: &NamespaceName,
    base: Option<&NamespaceName>,
    input: impl Read + Send + 'static,
) -> Result<Restored> {
    let opened = beside(move || SnapshotReader::open(input, NAME).map_err(damaged)).await?;
    let description = opened.description().clone();
    let moment = match (&description.base, base) {
        (None, None) => None,
        (None, Some(_)) => {
            return Err(Error::invalid("the snapshot is not incremental, it takes no base").with_hint("leave it out"));
        }
        (Some(needed), base) => {
            let holder = base.unwrap_or(name);
            let moment = engine.moment_at(holder, None).await.map_err(|error| match error.kind() {
                Kind::NotFound => Error::invalid(format!(
                    "the snapshot is incremental since commit {}, and namespace {holder} is not there",
                    needed.commit_id
                ))
                .with_hint("restore the snapshot of that commit first, or take a full one"),
                _ => error,
            })?;
            if holder == name {
                // Said before all of it is read, and asked again at the end.
                tokio::task::block_in_place(|| engine.check_replaceable(name, &moment.manifest))?;
            }
            check_base(&moment, needed, holder)?;
            let conflicts = tokio::task::block_in_place(|| engine.conflicts_of(&moment.manifest))?;
            if description.knows_conflicts() {
                check_conflicts(&conflicts, needed, holder)?;
            }
            Some((moment, conflicts))
        }
    };
    let succeeds = description.base.is_some() && base.is_none_or(|base| base == name);
    let newborn = if succeeds { engine.successor(name) } else { engine.newborn(name)? };
    let known = moment.as_ref().map(|(moment, _)| moment.manifest.conflicts.clone()).unwrap_or_default();
    let held = moment.map(|(moment, conflicts)| Held { moment, conflicts, shares: succeeds });
    let (newborn, manifest, bytes, commit_id) = beside(move || receive(newborn, opened, held.as_ref())).await?;
    let documents = match (succeeds, description.base) {
        (true, Some(needed)) => {
            let holder = name.clone();
            let check = move |moment: &Moment| {
                check_base(moment, &needed, &holder)?;
                // Objects never change: these are the ones that were looked at.
                if moment.manifest.conflicts == known { Ok(()) } else { Err(other_conflicts(&needed, &holder)) }
            };
            newborn.succeed(manifest, check).await?
        }
        _ => newborn.bind(manifest).await?,
    };
    Ok(Restored { documents, bytes, kind: description.kind, commit_id })
}

/// Runs what reads a stream or the disk in a thread of its own.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| Error::internal(format!("restore: {error}")))?
}

/// Refuses a namespace that is not exactly the base: what was written to it since would be lost without a word.
fn check_base(moment: &Moment, needed: &Base, holder: &NamespaceName) -> Result<()> {
    if !moment.view.tail.is_empty() || !moment.tombstones.is_empty() || moment.manifest.data_seq != needed.data_seq {
        return Err(not_the_base(needed, holder, "it was written to"));
    }
    let expected = needed.objects.iter().filter(|member| member.kind != ObjectKind::Conflicts);
    if !members(&moment.manifest).iter().eq(expected) {
        let why = "it consists of other segments, it was compacted or is not of this origin";
        return Err(not_the_base(needed, holder, why));
    }
    Ok(())
}

/// The same for unresolved conflicts.
fn check_conflicts(conflicts: &[HeldConflicts], needed: &Base, holder: &NamespaceName) -> Result<()> {
    let expected = needed.objects.iter().filter(|member| member.kind == ObjectKind::Conflicts);
    if conflicts_members(conflicts).iter().eq(expected) { Ok(()) } else { Err(other_conflicts(needed, holder)) }
}

fn other_conflicts(needed: &Base, holder: &NamespaceName) -> Error {
    not_the_base(needed, holder, "its unresolved conflicts are others, some were acknowledged or came by a merge")
}

fn not_the_base(needed: &Base, holder: &NamespaceName, why: &str) -> Error {
    Error::conflict(format!(
        "namespace {holder} is not at commit {} of the snapshot's base any more: {why}",
        needed.commit_id
    ))
    .with_hint("restore the snapshot of that commit under another name and go on from that one, or take a full one")
}

/// A stream that is not what was written is the sender's business, not damage of this store.
fn damaged(error: Error) -> Error {
    if error.kind() != Kind::Corrupt {
        return error;
    }
    let hint = "nothing was changed; take the snapshot again or copy its file again";
    Error::invalid(error.message()).with_code(DAMAGED).with_hint(hint)
}

type Objects = BTreeMap<(ObjectKind, Uuid), Incoming>;

/// Reads everything, verifies everything, and puts it in place below the incarnation.
fn receive<R: Read>(
    mut newborn: Newborn,
    mut reader: SnapshotReader<R>,
    base: Option<&Held>,
) -> Result<(Newborn, Manifest, u64, String)> {
    check_manifest(reader.manifest())?;
    let mut objects = Objects::new();
    while let Some(member) = reader.next_member() {
        let key = key_of(&newborn, member.kind, member.id);
        let mut writer = newborn.create(&key)?;
        reader.copy_object(&mut writer).map_err(damaged)?;
        objects.insert((member.kind, member.id), Incoming { key, staged: writer.stage()? });
    }
    let (manifest, description) = (reader.manifest().clone(), reader.description().clone());
    let bytes = reader.finish().map_err(damaged)?;
    for reference in &manifest.segments {
        verify(reference, &objects).map_err(damaged)?;
    }
    verify_together(&manifest, &objects, base).map_err(damaged)?;
    for member in &description.conflicts {
        verify_conflicts(member.id, &objects).map_err(damaged)?;
    }
    let commit_id = manifest.commit_id.to_string();
    let mut first = newborn.manifest_after(manifest);
    for reference in &mut first.segments {
        let id = reference.segment_id;
        let known =
            base.and_then(|base| Some((base, base.moment.manifest.segments.iter().find(|s| s.segment_id == id)?)));
        let segment = objects.remove(&(ObjectKind::Segment, id));
        let held = known.map(|(base, known)| (base, known.key.as_str()));
        reference.key = place(&mut newborn, ObjectKind::Segment, id, segment, held)?;
        if let Some(dead) = &mut reference.deletions {
            let bitmap = objects.remove(&(ObjectKind::Deletions, id));
            let held = known.and_then(|(base, known)| Some((base, known.deletions.as_ref()?.key.as_str())));
            dead.key = place(&mut newborn, ObjectKind::Deletions, id, bitmap, held)?;
        }
    }
    first.conflicts = if description.knows_conflicts() {
        place_conflicts(&mut newborn, &description.conflicts, &mut objects, base)?
    } else {
        // The snapshot does not say which there are: those of the base stay.
        match base {
            None => Vec::new(),
            Some(base) if base.shares => base.moment.manifest.conflicts.clone(),
            Some(base) => newborn.copy_conflicts(&base.conflicts)?,
        }
    };
    Ok((newborn, first, bytes, commit_id))
}

/// Puts unresolved conflicts in their places, and gives their keys.
fn place_conflicts(
    newborn: &mut Newborn,
    conflicts: &[Member],
    objects: &mut Objects,
    base: Option<&Held>,
) -> Result<Vec<String>> {
    let mut keys = Vec::with_capacity(conflicts.len());
    for Member { kind, id, .. } in conflicts {
        let known = base.and_then(|base| {
            let held = base.conflicts.iter().find(|held| conflicts_id(held.token) == *id)?;
            Some((base, held.key.as_str()))
        });
        keys.push(place(newborn, *kind, *id, objects.remove(&(*kind, *id)), known)?);
    }
    Ok(keys)
}

fn key_of(newborn: &Newborn, kind: ObjectKind, id: Uuid) -> String {
    match kind {
        ObjectKind::Segment => newborn.segment_key(id),
        ObjectKind::Deletions => newborn.deletions_key(id),
        // Its id is the token.
        ObjectKind::Conflicts => newborn.conflicts_key(id.as_u64_pair().1),
    }
}

/// Checks a segment and its dead rows, as far as they came with the stream, against each other and the manifest. What the
/// base holds was found to be the same to its checksum.
fn verify(reference: &SegmentRef, objects: &Objects) -> Result<()> {
    let id = reference.segment_id;
    if let Some(incoming) = objects.get(&(ObjectKind::Segment, id)) {
        let segment = Segment::open(incoming.staged.map()?, &format!("{NAME}: segment {id}"))?;
        let found = (segment.segment_id(), segment.rows(), segment.tombstone_count(), segment.logical_bytes());
        let expected = (id, reference.rows, reference.tombstones, reference.logical_bytes);
        if found != expected {
            return Err(Error::corrupt(format!("{NAME}: segment {id} is {found:?}, the manifest says {expected:?}")));
        }
        segment.verify()?;
    }
    let (Some(dead), Some(incoming)) = (&reference.deletions, objects.get(&(ObjectKind::Deletions, id))) else {
        return Ok(());
    };
    let (of, rows, bitmap) = deletions::decode(&incoming.staged.map()?, &format!("{NAME}: deletions {id}"))?;
    let found = (of, rows, bitmap.len());
    let expected = (id, reference.rows, u64::from(dead.rows));
    if found != expected {
        return Err(Error::corrupt(format!("{NAME}: deletions {id} are {found:?}, the manifest says {expected:?}")));
    }
    Ok(())
}

/// Checks that no document is live in two segments, whether they came with the stream or the base holds them.
fn verify_together(manifest: &Manifest, objects: &Objects, base: Option<&Held>) -> Result<()> {
    let mut parts = Vec::with_capacity(manifest.segments.len());
    for reference in &manifest.segments {
        let id = reference.segment_id;
        let held = base.and_then(|base| base.moment.view.segments.iter().find(|s| s.segment.segment_id() == id));
        let segment = match (objects.get(&(ObjectKind::Segment, id)), held) {
            (Some(incoming), _) => Arc::new(Segment::open(incoming.staged.map()?, &format!("{NAME}: segment {id}"))?),
            (None, Some(held)) => held.segment.clone(),
            (None, None) => return Err(nowhere(ObjectKind::Segment, id)),
        };
        let dead = match (&reference.deletions, objects.get(&(ObjectKind::Deletions, id)), held) {
            (None, ..) => Arc::default(),
            (_, Some(incoming), _) => Arc::new(deletions::decode(&incoming.staged.map()?, NAME)?.2),
            // Nothing was written to the base since, so these are the rows that its object names.
            (_, None, Some(held)) => held.dead.clone(),
            (_, None, None) => return Err(nowhere(ObjectKind::Deletions, id)),
        };
        check_segment(&manifest.schema, &segment)
            .and_then(|()| check_versions(manifest, &segment))
            .map_err(|error| Error::corrupt(format!("{NAME}: {}", error.message())))?;
        parts.push((segment, dead));
    }
    let inputs: Vec<Input> = parts.iter().map(|(segment, dead)| Input { segment, dead }).collect();
    let mut twice = None;
    let segment_id = |at: usize| manifest.segments[at].segment_id;
    live_twice(&inputs, |id, first, second| {
        twice.get_or_insert_with(|| {
            let (first, second) = (segment_id(first), segment_id(second));
            format!("{NAME}: document {id} is live in segment {first} and in {second}, expected one state of it")
        });
    })
    .map_err(|(_, error)| error)?;
    parts.iter().try_for_each(|(segment, _)| segment.believed(Ok(())))?;
    twice.map_or(Ok(()), |what| Err(Error::corrupt(what)))
}

fn nowhere(kind: ObjectKind, id: Uuid) -> Error {
    Error::internal(format!("restore: {} {id} is nowhere", kind.name()))
}

/// Checks that every state of an object of conflicts that came with the stream can be read.
fn verify_conflicts(id: Uuid, objects: &Objects) -> Result<()> {
    let Some(incoming) = objects.get(&(ObjectKind::Conflicts, id)) else { return Ok(()) };
    decode_conflicts(&incoming.staged.map()?, &format!("{NAME}: conflicts {id}")).map(drop)
}

/// Puts an object in its place, and gives its key: one that came with the stream, or one that the base holds.
fn place(
    newborn: &mut Newborn,
    kind: ObjectKind,
    id: Uuid,
    incoming: Option<Incoming>,
    held: Option<(&Held, &str)>,
) -> Result<String> {
    match (incoming, held) {
        (Some(Incoming { key, staged }), _) => {
            newborn.publish(&key, staged)?;
            Ok(key)
        }
        (None, Some((base, key))) if base.shares => Ok(key.to_owned()),
        (None, Some((_, held_key))) => {
            let key = key_of(newborn, kind, id);
            newborn.copy_object(held_key, &key)?;
            Ok(key)
        }
        (None, None) => Err(nowhere(kind, id)),
    }
}
