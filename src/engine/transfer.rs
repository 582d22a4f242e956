//! What carries namespaces from place to place asks this of an engine: a settled commit to read, and new incarnations made
//! of given objects.
//!
//! Invariants:
//! - What is read stays readable while it is held, whatever the namespace does meanwhile.
//! - Unresolved conflicts travel as they are, under the tokens that their keys had.
//! - An incarnation that is made of given objects shows itself whole, under its name, or leaves nothing: until its name is
//!   bound it is unborn, and what a crash leaves of it is swept at the next start.

use std::io::Write;
use std::sync::Arc;

use super::Engine;
use super::catalog::UNKNOWN_BINDING;
use super::context::Birth;
use super::layout::{conflicts_key, conflicts_token, deletions_key, segment_key};
use super::lineage::Told;
use super::lineage::holdings::{kin, read_tags};
use super::merge::settings;
use super::namespace::{Moment, read_only, reference};
use super::operations::exists;
use super::sweep::remove_empty;
use crate::error::{Context as _, Error, Kind, Result};
use crate::format::conflicts::decode_conflicts;
use crate::format::manifest::{Manifest, SegmentRef};
use crate::format::marks::TagFile;
use crate::model::ids::{CommitId, Hlc, NamespaceName, Nsid, Origin};
use crate::model::schema::Schema;
use crate::platform::mmap::Mapping;
use crate::segment::Segment;
use crate::segment::builder::{Entry, build};
use crate::tier::{ObjectWriter, Staged};

/// How often a namespace that does not come to rest is looked at again.
const SETTLE_ATTEMPTS: usize = 16;

/// A commit whose documents are all in segments, and its objects.
pub struct Settled {
    /// Names no logs.
    pub manifest: Manifest,
    /// Those of the manifest, in its order.
    pub segments: Vec<SettledSegment>,
    /// Those of the manifest, in its order.
    pub conflicts: Vec<HeldConflicts>,
}

/// A segment, and the file of its dead rows.
pub struct SettledSegment {
    pub segment: Arc<Segment>,
    pub deletions: Option<Vec<u8>>,
}

/// An object of unresolved conflicts: readable for as long as this is held.
pub struct HeldConflicts {
    pub key: String,
    /// What stays of the key wherever the object is carried.
    pub token: u64,
    pub file: Mapping,
}

impl Engine {
    /// Makes a segment of the tail and gives the commit that names it: every write that was acknowledged before is in it.
    pub async fn settled(self: &Arc<Self>, name: &NamespaceName) -> Result<Settled> {
        let namespace = self.namespace(name)?;
        for _ in 0..SETTLE_ATTEMPTS {
            let flushing = namespace.clone();
            let acknowledged = self.to_the_end(|_| async move { flushing.flush().await }).await?;
            let moment = namespace.moment().await?;
            namespace.check_committed(&moment.manifest, acknowledged)?;
            let generation = moment.manifest.generation;
            match tokio::task::block_in_place(|| self.objects_of(moment)) {
                Ok(Some(settled)) => return Ok(settled),
                Ok(None) => {}
                // A bitmap may be replaced and reclaimed between the look at the manifest and the look at its objects.
                Err(error) if error.kind() == Kind::Corrupt && namespace.published().generation != generation => {}
                Err(error) => return Err(error),
            }
        }
        Err(restless(name))
    }

    /// The objects of a moment's manifest; `None` while some of its documents are in logs only.
    fn objects_of(&self, moment: Moment) -> Result<Option<Settled>> {
        let Moment { view, tombstones, mut manifest, .. } = moment;
        if !manifest.logs.is_empty() {
            if !view.tail.is_empty() || !tombstones.is_empty() {
                return Ok(None);
            }
            // Inherited logs without a document: all they may have changed is the schema.
            manifest.logs.clear();
            manifest.schema = (*view.schema).clone();
        }
        let mut segments = Vec::with_capacity(manifest.segments.len());
        for reference in &manifest.segments {
            let known = view.segments.iter().find(|known| known.segment.segment_id() == reference.segment_id);
            let Some(known) = known else { return Ok(None) };
            let deletions = reference.deletions.as_ref().map(|dead| self.context.tier.read(&dead.key)).transpose()?;
            segments.push(SettledSegment { segment: known.segment.clone(), deletions });
        }
        let conflicts = self.conflicts_of(&manifest)?;
        Ok(Some(Settled { manifest, segments, conflicts }))
    }

    /// The objects of unresolved conflicts that a manifest names, in its order; all of them are sound. Blocking.
    pub fn conflicts_of(&self, manifest: &Manifest) -> Result<Vec<HeldConflicts>> {
        let held = |key: &String| {
            let token = conflicts_token(key).ok_or_else(|| {
                Error::corrupt(format!("namespace {}: {key} is not the key of conflicts", manifest.name))
            })?;
            let file = self.context.tier.map_all(key)?;
            decode_conflicts(&file, key).map_err(|error| error.with_hint("run `shoal check`"))?;
            Ok(HeldConflicts { key: key.clone(), token, file })
        };
        manifest.conflicts.iter().map(held).collect()
    }

    /// The newest state of a namespace, and its unresolved conflicts.
    pub(super) async fn moment_with_conflicts(
        &self,
        name: &NamespaceName,
    ) -> Result<(Arc<Moment>, Vec<HeldConflicts>)> {
        for _ in 0..SETTLE_ATTEMPTS {
            let moment = self.moment_at(name, None).await?;
            match tokio::task::block_in_place(|| self.conflicts_of(&moment.manifest)) {
                // What is resolved meanwhile may be reclaimed at once.
                Err(error) if error.kind() == Kind::Corrupt && self.is_past(name, &moment) => {}
                conflicts => return Ok((moment, conflicts?)),
            }
        }
        Err(restless(name))
    }

    /// Whether the namespace has moved on from this state.
    fn is_past(&self, name: &NamespaceName, moment: &Moment) -> bool {
        self.namespace(name).is_ok_and(|namespace| namespace.published().generation != moment.manifest.generation)
    }

    /// Begins an incarnation that is to be bound to `name`. Invalid with code `exists` when the name is taken already.
    pub fn newborn(self: &Arc<Self>, name: &NamespaceName) -> Result<Newborn> {
        if self.catalog.find(name).is_some() {
            return Err(exists(name));
        }
        self.context.check_space(0, || format!("namespace {name}"))?;
        Ok(self.successor(name))
    }

    /// Begins an incarnation that is to take the place of the one that `name` is bound to, see [`Newborn::succeed`].
    pub fn successor(self: &Arc<Self>, name: &NamespaceName) -> Newborn {
        let context = &self.context;
        let nsid = Nsid(context.random.uuid_v7(context.clock.now_millis()));
        let birth = context.birth(nsid);
        let name = name.clone();
        Newborn { engine: self.clone(), name, nsid, published: Vec::new(), may_be_bound: false, _birth: birth }
    }

    pub fn now_millis(&self) -> u64 {
        self.context.clock.now_millis()
    }

    /// A name for a new object.
    pub fn new_id(&self) -> uuid::Uuid {
        self.context.random.uuid_v7(self.context.clock.now_millis())
    }

    /// The key that a segment of a namespace would have.
    pub fn segment_key(&self, name: &NamespaceName, nsid: Nsid, segment: uuid::Uuid) -> String {
        segment_key(&name.project, nsid, segment)
    }
}

fn restless(name: &NamespaceName) -> Error {
    Error::busy(format!("namespace {name} does not come to rest")).with_hint("try again a little later")
}

/// An incarnation on its way. Dropped before its name is bound it leaves nothing.
pub struct Newborn {
    engine: Arc<Engine>,
    name: NamespaceName,
    nsid: Nsid,
    /// Keys of objects that are in place.
    published: Vec<String>,
    may_be_bound: bool,
    _birth: Birth,
}

impl Newborn {
    pub fn name(&self) -> &NamespaceName {
        &self.name
    }

    pub fn segment_key(&self, segment: uuid::Uuid) -> String {
        segment_key(&self.name.project, self.nsid, segment)
    }

    pub fn deletions_key(&self, segment: uuid::Uuid) -> String {
        deletions_key(&self.name.project, self.nsid, segment, self.engine.context.random.next_u64())
    }

    pub fn conflicts_key(&self, token: u64) -> String {
        conflicts_key(&self.name.project, self.nsid, token)
    }

    /// A name for a new object.
    pub fn new_id(&self) -> uuid::Uuid {
        self.engine.new_id()
    }

    /// Fails where the disk has no room for so many bytes.
    pub fn check_space(&self, bytes: u64) -> Result<()> {
        self.engine.context.check_space(bytes, || format!("a segment of {}", self.name))
    }

    /// Begins an object below this incarnation's prefix.
    pub fn create(&self, key: &str) -> Result<ObjectWriter<'_>> {
        self.engine.context.tier.create_paced(key, self.engine.context.config.compaction_bytes_per_second)
    }

    /// Puts a staged object in its place.
    pub fn publish(&mut self, key: &str, staged: Staged) -> Result<()> {
        // Listed first: where the publishing fails the object may be in place all the same.
        self.published.push(key.to_owned());
        staged.publish()
    }

    /// Makes a segment of entries in ascending order of id; `None` when there are none.
    pub fn build(&mut self, schema: &Schema, entries: &[Entry]) -> Result<Option<SegmentRef>> {
        if entries.is_empty() {
            return Ok(None);
        }
        let segment_id = self.engine.new_id();
        let key = self.segment_key(segment_id);
        let mut writer = self.create(&key)?;
        let summary = build(segment_id, schema, entries, &mut writer)?;
        let staged = writer.stage()?;
        self.publish(&key, staged)?;
        Ok(Some(reference(key, segment_id, 0, &summary)))
    }

    /// Opens an object of this incarnation.
    pub fn open(&self, reference: &SegmentRef) -> Result<Segment> {
        Segment::open(self.engine.context.tier.map(&reference.key, reference.bytes)?, &reference.key)
    }

    /// The first manifest of an empty incarnation.
    pub fn empty_manifest(&self, schema: Schema) -> Manifest {
        let manifest = self.engine.first_manifest(&self.name, schema, Default::default());
        Manifest { nsid: self.nsid, ..manifest }
    }

    /// The first manifest of an incarnation that goes on from another's state: its segments and conflicts have to be replaced
    /// by this one's own.
    pub fn manifest_after(&self, manifest: Manifest) -> Manifest {
        let context = &self.engine.context;
        let now = context.clock.now_millis();
        Manifest {
            nsid: self.nsid,
            name: self.name.to_string(),
            generation: 0,
            parent: None,
            commit_id: CommitId(context.random.uuid_v7(now)),
            origin: Origin(context.random.next_u64()),
            // What is written here from now on is above everything that came along.
            hlc: manifest.hlc.max(manifest.version_vector.newest()),
            next_seq: 0,
            replay_from: 0,
            expires_ms: None,
            logs: Vec::new(),
            // A block of its own: what the other hands out next must not meet what this one does.
            ids_reserved: 0,
            idempotency: Vec::new(),
            created_ms: now,
            updated_ms: now,
            committed_ms: now,
            ..manifest
        }
    }

    /// Copies an object of another incarnation to a key of this one.
    pub fn copy_object(&mut self, from: &str, to: &str) -> Result<()> {
        let bytes = self.engine.context.tier.map_all(from)?;
        self.write_object(from, &bytes, to)
    }

    /// Copies conflicts of another incarnation; gives their keys here, in the same order.
    pub fn copy_conflicts(&mut self, conflicts: &[HeldConflicts]) -> Result<Vec<String>> {
        let mut keys = Vec::with_capacity(conflicts.len());
        for held in conflicts {
            let key = self.conflicts_key(held.token);
            self.write_object(&held.key, &held.file, &key)?;
            keys.push(key);
        }
        Ok(keys)
    }

    fn write_object(&mut self, from: &str, bytes: &Mapping, to: &str) -> Result<()> {
        let mut writer = self.engine.context.tier.create(to)?;
        writer.write_all(bytes).context(|| format!("write object {to}"))?;
        bytes.check_readable(from)?;
        let staged = writer.stage()?;
        self.publish(to, staged)
    }

    /// Commits the first manifest and binds the name, which must be free still. Gives the number of documents.
    pub async fn bind(self, manifest: Manifest) -> Result<u64> {
        let engine = self.engine.clone();
        engine
            .to_the_end(|engine| async move {
                let mut newborn = self;
                let (nsid, kin) = (newborn.nsid, kin(&manifest, None));
                match engine.give_birth(&newborn.name, manifest, None).await {
                    Ok((namespace, _)) => {
                        newborn.may_be_bound = true;
                        engine.context.set_kin(nsid, kin);
                        // Many small segments become few.
                        namespace.start_flush();
                        Ok(namespace.view().documents())
                    }
                    Err(error) => {
                        newborn.may_be_bound = error.code() == UNKNOWN_BINDING;
                        Err(error)
                    }
                }
            })
            .await
    }

    /// Commits the first manifest and takes over the name from the incarnation it is bound to, which ends, and what is set of that one:
    /// labels and the time to live. `check` has the last word on that one's state; nothing is written to it in between. Gives the number
    /// of documents.
    pub async fn succeed(
        self,
        manifest: Manifest,
        check: impl FnOnce(&Moment) -> Result<()> + Send + 'static,
    ) -> Result<u64> {
        let engine = self.engine.clone();
        engine
            .to_the_end(|engine| async move {
                let mut newborn = self;
                let done = engine.take_over(&newborn.name, manifest, check).await;
                newborn.may_be_bound = done.as_ref().err().is_none_or(|error| error.code() == UNKNOWN_BINDING);
                done
            })
            .await
    }
}

impl Drop for Newborn {
    fn drop(&mut self) {
        if self.may_be_bound {
            return;
        }
        // Nobody else can know of them: no name was ever bound to this incarnation.
        for key in &self.published {
            let _ = self.engine.context.tier.remove(key);
        }
        // Those of objects that came to nothing, too.
        remove_empty(&self.engine.context, &self.name.project, self.nsid);
    }
}

impl Engine {
    /// Refuses to put another incarnation in the place of one that takes no writes, or has tags, which stay with their incarnation.
    /// Blocking.
    pub fn check_replaceable(&self, name: &NamespaceName, manifest: &Manifest) -> Result<()> {
        if manifest.read_only {
            return Err(read_only());
        }
        let is_there = |file: &Result<TagFile>| file.as_ref().map_or(true, |file| file.manifest.is_some());
        match read_tags(&self.context, manifest.nsid)?.iter().filter(|file| is_there(file)).count() {
            0 => Ok(()),
            count => Err(Error::conflict(format!(
                "namespace {name} has {count} tag{}, which would be lost with the incarnation whose place is to be taken",
                if count == 1 { "" } else { "s" }
            ))
            .with_code("has_tags")
            .with_hint("delete its tags first, or restore under another name and give this one as the base")),
        }
    }

    async fn take_over(
        self: &Arc<Self>,
        name: &NamespaceName,
        mut manifest: Manifest,
        check: impl FnOnce(&Moment) -> Result<()>,
    ) -> Result<u64> {
        let before = self.namespace(name)?;
        let door = self.door(name);
        let _door = door.lock().await;
        if self.catalog.find(name) != Some(before.nsid) {
            return Err(Error::conflict(format!("namespace {name} was deleted meanwhile")));
        }
        let held = before.hold_writes().await?;
        // Until it has ended: nothing is set of it or named of it that its successor does not have, and nothing that it names goes.
        let last = before.hold_head().await?;
        let moment = before.moment_beside(&last);
        tokio::task::block_in_place(|| {
            self.check_replaceable(name, &moment.manifest)?;
            check(&moment)?;
            settings::of(&moment.manifest).give_to(&mut manifest);
            self.context.carry_deadline(moment.nsid, manifest.nsid)
        })?;
        let context = &self.context;
        let (nsid, old) = (manifest.nsid, before.nsid);
        let hlc = Hlc::from_millis(context.clock.now_millis()).max(manifest.hlc);
        let kin_after = kin(&manifest, None);
        let after = self.begin(name, manifest)?;
        let bound =
            tokio::task::block_in_place(|| self.unseat(name, old, Some((nsid, kin_after)), (hlc, Told::ByThisNode)));
        let deleted = match bound {
            Ok(deleted) => deleted,
            Err(error) => {
                if error.code() != UNKNOWN_BINDING {
                    after.retire().await;
                    tokio::task::block_in_place(|| self.discard(&name.project, nsid));
                }
                return Err(error);
            }
        };
        self.seat(name, after.clone());
        // The end of the old life is marked before who waits to write to it goes on.
        tokio::join!(biased; before.retire(), async { drop((last, held)) });
        tokio::task::block_in_place(|| self.lay_aside(&name.project, old, deleted));
        Ok(after.view().documents())
    }
}
