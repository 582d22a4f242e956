//! Goes over to a state of the same incarnation that another node committed, with what was written here since on top of it.
//!
//! What holds for `absorb` holds here: nothing is decided meanwhile, everything is in segments before, and one commit names
//! all of it. The difference is which side stays in place: the other state's segments do, so that what has to travel
//! afterwards is what was written here, and nothing of what came from there. Of the own segments those stay that `reuse` says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use uuid::Uuid;

use super::absorb::{Absorb, Absorption, Site};
use super::flush::place_deletions;
use super::state::Part;
use super::{Decider, Moment, Namespace};
use crate::engine::merge::settings;
use crate::engine::merge::side::Side;
use crate::engine::unnamed::Unnamed;
use crate::error::{Context as _, Error, Result};
use crate::format::manifest::{Manifest, SegmentRef};
use crate::model::ids::CommitId;

/// What both sides have of the things that are no documents.
pub(in crate::engine) struct Facts<'a> {
    /// The newest state that both had in common.
    pub common: Option<&'a Manifest>,
    pub theirs: &'a Manifest,
    /// Segments of this node's state that are not read: the other side has seen all that they have, and does without them.
    pub superseded: &'a BTreeSet<String>,
}

impl Facts<'_> {
    /// Whether the other side merged segments, or did anything else by which the same documents lie in others. Who kept its own would
    /// commit those, the other side its own again, and so on without end.
    fn segments_moved(&self, ours: &Manifest) -> bool {
        let theirs = &self.theirs.segments;
        *theirs != ours.segments && self.common.is_none_or(|common| common.segments != *theirs)
    }

    /// Keys of unresolved conflicts: of both sides, without those that one of them let go of.
    fn conflicts(&self, ours: &Manifest, new: Vec<String>) -> Vec<String> {
        let common: BTreeSet<&String> = self.common.into_iter().flat_map(|common| &common.conflicts).collect();
        let (own, other): (BTreeSet<&String>, BTreeSet<&String>) =
            (ours.conflicts.iter().collect(), self.theirs.conflicts.iter().collect());
        let stays = |key: &&String| own.contains(key) && other.contains(key) || !common.contains(key);
        let mut kept: Vec<String> = self.theirs.conflicts.iter().filter(stays).cloned().collect();
        kept.extend(ours.conflicts.iter().filter(|key| !other.contains(key) && !common.contains(key)).cloned());
        kept.extend(new);
        kept
    }
}

impl Namespace {
    /// Goes over to the state `facts.theirs`, whose objects are here. `work` is given what is here, and merges it into that
    /// state. Gives the commit, or `None` when all of it is here, segment by segment, or when the work refuses.
    pub(in crate::engine) async fn rebase<W: Absorb>(
        self: &Arc<Self>,
        facts: Facts<'_>,
        work: impl FnOnce(Arc<Moment>) -> W,
    ) -> Result<(Option<W>, Option<(u64, CommitId)>)> {
        // In the order of `absorb`, whose turns these are.
        let flushing = self.turn(&self.flushing).await;
        let replacing = self.replacing.lock().await;
        let mut decider = self.decider.lock().await;
        self.make_ready(&mut decider).await?;
        self.drain(&mut decider).await?;
        let ours = self.moment().await?;
        let is_known = ours.vector.covers_all(&facts.theirs.version_vector)
            && !self.facts_moved(&facts, &ours.manifest)
            && !facts.segments_moved(&ours.manifest);
        if is_known {
            return Ok((None, None));
        }
        drop(ours);
        self.flush_held(&mut decider).await?;
        let ours = self.moment().await?;
        let theirs = tokio::task::block_in_place(|| self.past(facts.theirs.clone()))?;
        let ours = Arc::new(tokio::task::block_in_place(|| self.but_for(facts.superseded, ours, &theirs))?);
        let seen = theirs.vector.newest().max(theirs.manifest.hlc);
        let mut work = work(ours);
        // Whether there is news is another question here: the other state itself is.
        tokio::task::block_in_place(|| work.survey(&theirs))?;
        if work.is_refused() {
            return Ok((Some(work), None));
        }
        let reusable = tokio::task::block_in_place(|| self.reusable(&facts))?;
        let (site, built) = self.build_on(&theirs, reusable, &decider, &mut work, seen)?;
        let done = self.commit_rebase(&mut decider, site, built, &facts, &theirs).await;
        if done.is_err() {
            self.open_anew(&mut decider).await;
        }
        drop(decider);
        drop(replacing);
        drop(flushing);
        self.start_compaction();
        done.map(|commit| (Some(work), Some(commit)))
    }

    /// What is here without segments that `theirs` supersedes: documents that only these have are not known there then, and are what
    /// they are in `theirs`. Where a deletion may have left no trace here, what is not known might be deleted, and all is read.
    fn but_for(&self, superseded: &BTreeSet<String>, ours: Moment, theirs: &Moment) -> Result<Moment> {
        if superseded.is_empty() || Side::new(&ours).may_have_forgotten(&Side::new(theirs)) {
            return Ok(ours);
        }
        let mut manifest = ours.manifest.clone();
        manifest.segments.retain(|segment| !superseded.contains(&segment.key));
        Ok(Moment { vector: ours.vector, ..self.past(manifest)? })
    }

    /// Whether the other state has something that is no document and that is not here.
    fn facts_moved(&self, facts: &Facts, ours: &Manifest) -> bool {
        !settings::join(facts.theirs, ours, facts.common).are_of(ours)
            || facts.conflicts(ours, Vec::new()).iter().collect::<BTreeSet<_>>()
                != ours.conflicts.iter().collect::<BTreeSet<_>>()
    }

    async fn commit_rebase(
        &self,
        decider: &mut Decider,
        site: Site<'_>,
        built: Absorption,
        facts: &Facts<'_>,
        theirs: &Moment,
    ) -> Result<(u64, CommitId)> {
        let (version, ids_reserved) = (site.version, site.ids_reserved);
        let let_go = site.let_go;
        let (new, losers, mut begun) = site.into_objects();
        let mut head = self.head.lock().await;
        tokio::task::block_in_place(|| {
            let mut parts = Vec::with_capacity(facts.theirs.segments.len() + new.len());
            for (reference, open) in facts.theirs.segments.iter().zip(&theirs.view.segments) {
                let (segment, dead) = (open.segment.clone(), open.dead.clone());
                let part = Part { reference: reference.clone(), segment, settled: dead.clone(), dead };
                parts.push(self.with_dead(part, &built.dead, &mut begun)?);
            }
            parts.extend(new);
            let now = self.context.clock.now_millis();
            let mut vector = built.vector.clone();
            // Where nothing was written anew this node has made no commit that others would have to see.
            if built.hlc == version.hlc {
                vector.see(version.origin, built.hlc);
            }
            let hlc = built.hlc.max(decider.hlc);
            let data_seq = decider.data_seq.max(facts.theirs.data_seq) + 1;
            let reserved = ids_reserved.unwrap_or(decider.ids_reserved);
            let conflicts = self.fit_conflicts(facts.conflicts(&head.manifest, losers), &mut begun)?;
            let next = head.commit_new(&self.context, begun, |manifest| {
                settings::join(facts.theirs, manifest, facts.common).give_to(manifest);
                manifest.conflicts = conflicts.keys;
                manifest.segments = parts.iter().map(|part| part.reference.clone()).collect();
                manifest.logs.clear();
                manifest.schema = (*built.schema).clone();
                manifest.version_vector = vector.clone();
                manifest.horizon = manifest.horizon.max(built.horizon);
                manifest.hlc = hlc;
                manifest.data_seq = data_seq;
                manifest.ids_reserved = reserved;
                manifest.created_ms = manifest.created_ms.min(facts.theirs.created_ms);
                manifest.updated_ms = manifest.updated_ms.max(facts.theirs.updated_ms).min(now);
                manifest.written_ms = manifest.written_ms.max(facts.theirs.written_ms);
            })?;
            decider.schema = built.schema.clone();
            decider.hlc = hlc;
            decider.data_seq = data_seq;
            decider.ids_reserved = reserved;
            decider.read_only = next.manifest.read_only;
            let mut shared = self.shared();
            let state = &mut shared.state;
            state.parts = parts;
            state.change_schema(built.schema.clone());
            state.own = vector.seen(version.origin);
            state.vector = vector;
            state.hlc = hlc;
            state.data_seq = data_seq;
            state.ids_reserved = reserved;
            self.publish_view(state);
            drop(shared);
            *head = next;
            self.publish_head(&head);
            self.has_let_go(conflicts.let_go + let_go);
            Ok::<_, Error>((head.manifest.generation, head.manifest.commit_id))
        })
        .context(|| format!("bring {} together with the bucket", self.name))
    }

    /// A part with more dead rows.
    fn with_dead(
        &self,
        part: Part,
        dead: &BTreeMap<Uuid, roaring::RoaringBitmap>,
        begun: &mut Unnamed,
    ) -> Result<Part> {
        let Some(rows) = dead.get(&part.reference.segment_id).filter(|rows| !rows.is_empty()) else {
            return Ok(part);
        };
        let dead = Arc::new(part.dead.as_ref() | rows);
        let of = (&self.name.project, self.nsid);
        let object = place_deletions(&self.context, of, &part.reference, &dead, begun)?;
        let reference = SegmentRef { deletions: Some(object), ..part.reference };
        Ok(Part { reference, segment: part.segment, settled: dead.clone(), dead })
    }
}
