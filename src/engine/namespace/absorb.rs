//! Takes documents of another namespace in, as one generation.
//!
//! Invariants:
//! - Nothing is decided here, and no segment comes or goes, from the look at what there is to the commit. A compaction goes on
//!   meanwhile, and waits with putting its segment in the place of others (`replacing`); see `compaction`.
//! - Everything is in segments before the commit, so that no record is replayed on top of what was taken in.
//! - The commit names the new segments, the dead rows that they replace, the schema, the vector and the losers at once: a
//!   crash finds all of it or nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use roaring::RoaringBitmap;
use uuid::Uuid;

use super::flush::{place_deletions, reference};
use super::open::open_part;
use super::reuse::Reusable;
use super::state::{Part, etag};
use super::{Decider, Moment, Namespace};
use crate::engine::layout::{conflicts_key, segment_key};
use crate::engine::merge::bases::Staging;
use crate::engine::merge::conflicts;
use crate::engine::unnamed::Unnamed;
use crate::error::{Context as _, Error, Result};
use crate::format::manifest::{CONFLICTS_MAX, DeletionsRef, ORIGINS_MAX, SEGMENTS_MAX};
use crate::model::ids::{CommitId, DocId, Hlc, NamespaceName, Version};
use crate::model::schema::Schema;
use crate::model::version_vector::VersionVector;
use crate::segment::builder::{Entry, build};
use crate::segment::merge::{Input, merge};
use crate::segment::{Segment, Summary};

/// What is taken in: first looked at, then carried out.
pub(in crate::engine) trait Absorb: Send {
    /// Looks at what there is; whether anything is to be committed.
    fn survey(&mut self, ours: &Moment) -> Result<bool>;

    /// Whether nothing is to change, after the look: there are conflicts that nobody may resolve.
    fn is_refused(&self) -> bool;

    /// Whether the oldest conflicts go where there is no room for all: nobody can be asked to resolve some first.
    fn lets_go(&self) -> bool;

    /// How many documents get an id of their own.
    fn fresh_ids(&self) -> u64;

    /// Builds what the commit names. `ours` has the same documents as at the survey, all of them in segments.
    fn carry_out(&mut self, ours: &Moment, site: &mut Site) -> Result<Absorption>;
}

/// What becomes of the namespace.
pub(in crate::engine) struct Absorption {
    /// Rows of the namespace's segments that are replaced.
    pub dead: BTreeMap<Uuid, RoaringBitmap>,
    pub schema: Arc<Schema>,
    /// What is seen from now on, beside the own commits.
    pub vector: VersionVector,
    /// The clock of the commit; not below that of any version taken in.
    pub hlc: Hlc,
    /// Tombstones below this may be gone.
    pub horizon: Hlc,
}

/// What was committed.
pub(in crate::engine) struct Absorbed {
    /// Generation and identity of the commit.
    pub commit: (u64, CommitId),
    /// The state that it made.
    pub etag: String,
}

/// Where new objects are built.
pub(in crate::engine) struct Site<'a> {
    namespace: &'a Namespace,
    /// The version of what is written anew: above everything on both sides.
    pub version: Version,
    /// Ids that nobody else is given, as many as were asked for.
    pub fresh_ids: Vec<DocId>,
    pub(super) ids_reserved: Option<u64>,
    parts: Vec<Part>,
    conflicts: Vec<String>,
    /// States that lost and have no room, as the merge has too many of them.
    pub let_go: u64,
    /// Segments of the other side that may be named as they are.
    reusable: Reusable,
    /// Everything that was begun.
    begun: Unnamed,
}

impl Site<'_> {
    /// The segments, the keys of losers, and all new objects.
    pub(super) fn into_objects(self) -> (Vec<Part>, Vec<String>, Unnamed) {
        (self.parts, self.conflicts, self.begun)
    }

    /// Adds a segment of the inputs' rows that are not dead; their tombstones stay behind.
    pub fn copy_rows(&mut self, schema: &Schema, inputs: &[Input]) -> Result<()> {
        let bytes = inputs.iter().map(Input::live_bytes).sum();
        self.namespace.context.check_space(bytes, || format!("rows that are copied to {}", self.namespace.name))?;
        self.add(|segment_id, out| merge(segment_id, schema, inputs, Hlc(u64::MAX), out))
    }

    /// Adds a segment of documents and tombstones, in the order of their ids.
    pub fn write(&mut self, schema: &Schema, entries: &[Entry]) -> Result<()> {
        self.add(|segment_id, out| build(segment_id, schema, entries, out))
    }

    fn add(&mut self, fill: impl FnOnce(Uuid, &mut dyn std::io::Write) -> Result<Summary>) -> Result<()> {
        let Namespace { context, name, nsid, .. } = self.namespace;
        let segment_id = context.random.uuid_v7(context.clock.now_millis());
        let key = segment_key(&name.project, *nsid, segment_id);
        self.begun.add(&key);
        let mut writer = context.tier.create(&key)?;
        let summary = fill(segment_id, &mut writer)?;
        if (summary.rows, summary.tombstones) == (0, 0) {
            return Ok(());
        }
        self.begun.place(writer.place()?.2);
        self.parts.push(open_part(context, &reference(key, segment_id, 0, &summary))?);
        Ok(())
    }

    /// Whether to name a segment of the other side again, rather than to copy `rows` of its rows.
    pub fn reuses(&self, segment: &Segment, rows: u64, schema: &Schema) -> bool {
        self.reusable.is_worth_it(segment, rows, schema)
    }

    /// Adds a segment of the other side of which `rows` are live.
    pub fn reuse(&mut self, segment: &Segment, rows: &RoaringBitmap) -> Result<()> {
        let Namespace { context, name, nsid, .. } = self.namespace;
        let mut part = self.reusable.take(segment)?;
        let mut dead = RoaringBitmap::new();
        dead.insert_range(0..segment.rows());
        dead -= rows;
        if dead != *part.settled {
            let object = place_deletions(context, (&name.project, *nsid), &part.reference, &dead, &mut self.begun)?;
            part.reference.deletions = Some(object);
        }
        (part.dead, part.settled) = (Arc::new(dead.clone()), Arc::new(dead));
        self.parts.push(part);
        Ok(())
    }

    /// Adds an object of losers.
    pub fn keep_losers(&mut self, bytes: &[u8]) -> Result<()> {
        let Namespace { context, name, nsid, .. } = self.namespace;
        let key = conflicts_key(&name.project, *nsid, context.random.next_u64());
        self.begun.add(&key);
        context.tier.put(&key, bytes)?;
        self.conflicts.push(key);
        Ok(())
    }

    /// Whether it has as many objects of losers as one manifest may name.
    pub fn is_full_of_losers(&self) -> bool {
        self.conflicts.len() >= CONFLICTS_MAX
    }

    /// Something else that is to be in place before the commit.
    pub fn wait_for(&mut self, staging: Staging) {
        self.begun.wait_for(staging);
    }

    pub fn random(&self) -> u64 {
        self.namespace.context.random.next_u64()
    }
}

impl Namespace {
    /// Takes documents in. Gives the commit, or `None` when nothing was to be committed. `seen`: the newest clock of the other
    /// side.
    pub(in crate::engine) async fn absorb(
        self: &Arc<Self>,
        work: &mut impl Absorb,
        seen: Hlc,
    ) -> Result<Option<Absorbed>> {
        // Segments must neither come nor go meanwhile. In this order: who waits for `replacing` holds nothing that is needed here.
        let flushing = self.turn(&self.flushing).await;
        let replacing = self.replacing.lock().await;
        let mut decider = self.decider.lock().await;
        self.make_ready(&mut decider).await?;
        if decider.read_only {
            return Err(read_only(&self.name));
        }
        self.drain(&mut decider).await?;
        let ours = self.moment().await?;
        if !tokio::task::block_in_place(|| work.survey(&ours))? {
            return Ok(None);
        }
        drop(ours);
        self.flush_held(&mut decider).await?;
        let (site, built) = self.build_on(&self.moment().await?, Reusable::default(), &decider, work, seen)?;
        let done = self.commit_absorption(&mut decider, site, built).await;
        if done.is_err() {
            self.open_anew(&mut decider).await;
        }
        // Before anybody else writes.
        let etag = etag(decider.data_seq, decider.hlc, decider.origin);
        drop(decider);
        drop(replacing);
        drop(flushing);
        self.start_compaction();
        done.map(|commit| Some(Absorbed { commit, etag }))
    }

    /// Builds what the commit of `work` on top of a state names; what fails leaves nothing. `seen`: the newest clock of the other
    /// side.
    pub(super) fn build_on(
        &self,
        state: &Moment,
        reusable: Reusable,
        decider: &Decider,
        work: &mut impl Absorb,
        seen: Hlc,
    ) -> Result<(Site<'_>, Absorption)> {
        let (fresh_ids, ids_reserved) = match work.fresh_ids() {
            0 => (Vec::new(), None),
            count => self.give_ids(decider, count)?,
        };
        let hlc = super::open::next_clock(decider.hlc.max(seen), self.context.clock.now_millis());
        let version = Version { hlc, origin: decider.origin };
        let (parts, conflicts, begun) = (Vec::new(), Vec::new(), Unnamed::new(&self.context));
        let mut site =
            Site { namespace: self, version, fresh_ids, ids_reserved, parts, conflicts, let_go: 0, reusable, begun };
        let built = tokio::task::block_in_place(|| {
            let built = work.carry_out(&state.unchecked(), &mut site)?;
            check_room(state, &site, &built, work.lets_go())?;
            Ok::<_, Error>(built)
        })?;
        Ok((site, built))
    }

    /// After a commit that failed: its manifest may be there all the same, and what was read before must not be written on.
    pub(super) async fn open_anew(&self, decider: &mut Decider) {
        decider.broken = true;
        if let Err(error) = self.make_ready(decider).await {
            tracing::warn!(namespace = %self.name, %error, "not opened anew, the next write tries again");
        }
    }

    async fn commit_absorption(
        &self,
        decider: &mut Decider,
        site: Site<'_>,
        built: Absorption,
    ) -> Result<(u64, CommitId)> {
        let Site { version, parts: new, conflicts, let_go, ids_reserved, mut begun, .. } = site;
        let mut head = self.head.lock().await;
        tokio::task::block_in_place(|| {
            let parts: Vec<Part> = self.shared().state.parts.clone();
            let mut replaced: BTreeMap<Uuid, (DeletionsRef, Arc<RoaringBitmap>)> = BTreeMap::new();
            for part in &parts {
                let id = part.reference.segment_id;
                let Some(rows) = built.dead.get(&id).filter(|rows| !rows.is_empty()) else { continue };
                let dead = part.dead.as_ref() | rows;
                let of = (&self.name.project, self.nsid);
                let object = place_deletions(&self.context, of, &part.reference, &dead, &mut begun)?;
                replaced.insert(id, (object, Arc::new(dead)));
            }
            let now = self.context.clock.now_millis();
            let mut vector = built.vector.clone();
            vector.see(version.origin, built.hlc);
            let changes = !new.is_empty() || !replaced.is_empty() || built.schema != decider.schema;
            let data_seq = decider.data_seq + u64::from(changes);
            // A later block may be below the one before.
            let reserved = ids_reserved.unwrap_or(decider.ids_reserved);
            let all = head.manifest.conflicts.iter().cloned().chain(conflicts).collect();
            let conflicts = self.fit_conflicts(all, &mut begun)?;
            let next = head.commit_new(&self.context, begun, |manifest| {
                for segment in &mut manifest.segments {
                    if let Some((object, _)) = replaced.get(&segment.segment_id) {
                        segment.deletions = Some(object.clone());
                    }
                }
                manifest.segments.extend(new.iter().map(|part| part.reference.clone()));
                manifest.conflicts = conflicts.keys;
                manifest.schema = (*built.schema).clone();
                manifest.version_vector = vector.clone();
                manifest.horizon = manifest.horizon.max(built.horizon);
                manifest.hlc = built.hlc;
                manifest.data_seq = data_seq;
                manifest.ids_reserved = reserved;
                manifest.updated_ms = now;
                if changes {
                    manifest.written_ms = now;
                }
            })?;
            decider.schema = built.schema.clone();
            decider.hlc = built.hlc;
            decider.data_seq = data_seq;
            decider.ids_reserved = reserved;
            let mut shared = self.shared();
            let state = &mut shared.state;
            for part in &mut state.parts {
                if let Some((object, dead)) = replaced.remove(&part.reference.segment_id) {
                    part.reference.deletions = Some(object);
                    part.settled = dead.clone();
                    part.dead = dead;
                }
            }
            state.parts.extend(new);
            state.change_schema(built.schema.clone());
            state.vector = vector;
            state.hlc = built.hlc;
            state.own = built.hlc;
            state.data_seq = data_seq;
            state.ids_reserved = reserved;
            self.publish_view(state);
            drop(shared);
            *head = next;
            self.publish_head(&head);
            self.has_let_go(conflicts.let_go + let_go);
            Ok::<_, Error>((head.manifest.generation, head.manifest.commit_id))
        })
        .context(|| format!("merge into {}", self.name))
    }
}

/// What one manifest can name is bounded; said before the commit, with what to do.
fn check_room(ours: &Moment, site: &Site, built: &Absorption, lets_go: bool) -> Result<()> {
    let segments = ours.manifest.segments.len() + site.parts.len();
    if segments > SEGMENTS_MAX {
        return Err(Error::unavailable(format!("{segments} segments, a namespace has at most {SEGMENTS_MAX}"))
            .with_hint("compact the namespace, then merge again"));
    }
    let (kept, new) = (ours.manifest.conflicts.len(), site.conflicts.len());
    if kept + new > CONFLICTS_MAX && !lets_go {
        return Err(full_of_conflicts(kept, new));
    }
    if built.vector.len() >= ORIGINS_MAX {
        return Err(Error::invalid(format!(
            "{} would have commits of {} writers, at most {ORIGINS_MAX} may be in one namespace",
            site.namespace.name,
            built.vector.len()
        ))
        .with_code("too_many_origins")
        .with_hint(
            "write its rows into a new namespace and branch from that: an export and its import keep what was seen of them all",
        ));
    }
    Ok(())
}

/// The refusal of a merge whose losers have no room beside those that are kept already.
pub(in crate::engine) fn full_of_conflicts(kept: usize, new: usize) -> Error {
    let hint = match new > CONFLICTS_MAX {
        false => "acknowledge or replay conflicts, then merge again",
        true => {
            "one merge has no room for so many rows that lose: merge an earlier state of the source first (`as_of`), and so on"
        }
    };
    Error::invalid(format!(
        "the merge would leave {new} objects of rows that lost beside {kept} of unresolved conflicts, a namespace has at most \
         {CONFLICTS_MAX}"
    ))
    .with_code("conflicts_full")
    .with_hint(hint)
}

/// The refusal of a merge into a namespace that takes no writes.
pub(in crate::engine) fn read_only(name: &NamespaceName) -> Error {
    Error::invalid(format!("💔 Merges not permitted. Namespace '{}' is read-only.", name.name))
}

impl Namespace {
    /// Lets go of one state that lost in a merge, or of all. Gives how many went.
    pub(in crate::engine) async fn drop_losers(self: &Arc<Self>, token: Option<Uuid>) -> Result<u64> {
        // What is written here is not named yet; a sweep leaves those alone who have a turn.
        let _turn = self.turn(&self.flushing).await;
        let mut head = self.head.lock().await;
        self.check_alive()?;
        tokio::task::block_in_place(|| {
            let mut new = Unnamed::new(&self.context);
            let mut kept = Vec::with_capacity(head.manifest.conflicts.len());
            let mut dropped = 0;
            for key in &head.manifest.conflicts {
                let file = conflicts::read(&self.context, key)?;
                let Some(token) = token else {
                    dropped += file.losers.len() as u64;
                    continue;
                };
                let Some(rest) = conflicts::without(&file, token) else {
                    kept.push(key.clone());
                    continue;
                };
                dropped += 1;
                if let Some(bytes) = conflicts::bytes_of(&rest)? {
                    let key = conflicts_key(&self.name.project, self.nsid, self.context.random.next_u64());
                    new.add(&key);
                    self.context.tier.put(&key, &bytes)?;
                    kept.push(key);
                }
            }
            match token {
                Some(token) if dropped == 0 => return Err(conflicts::no_such(&self.name.to_string(), token)),
                None if dropped == 0 => return Ok(0),
                _ => {}
            }
            let now = self.context.clock.now_millis();
            *head = head.commit_new(&self.context, new, |manifest| {
                manifest.conflicts = kept;
                manifest.updated_ms = now;
            })?;
            self.publish_head(&head);
            // Two nodes that joined the same objects have one state in two of them.
            Ok(if token.is_some() { 1 } else { dropped })
        })
    }
}
