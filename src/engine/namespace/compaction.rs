//! Merges segments: tiered by size, decided by a pure function, carried out off the write path.
//!
//! Size-tiered merging as in Cassandra and Lucene: segments of one size class are merged when there are `fan_in` of them, so
//! a row is rewritten about once per class, and there are `log_fan_in(rows / rows of a flush)` classes.
//!
//! Where there is a bucket, what is merged has to be sent. So segments that are there are merged among themselves, and so are
//! those that are here only, once there are some: what travels is what changed. Those that others need, too, are left alone: they
//! have to travel as they are, or are there and stay. While a namespace has more than [`SEGMENTS_APART_MAX`] segments, all are
//! merged alike.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use roaring::RoaringBitmap;
use uuid::Uuid;

use super::Namespace;
use super::flush::{reference, write_deletions};
use super::open::open_part;
use super::standing::Standing;
use super::state::{Part, State};
use crate::engine::layout::segment_key;
use crate::engine::setbacks::Work;
use crate::engine::unnamed::Unnamed;
use crate::error::{Error, Result};
use crate::format::manifest::SegmentRef;
use crate::model::ids::Hlc;
use crate::model::schema::Schema;
use crate::segment::merge::{Input, merge};

/// The most rows of one segment.
pub const ROWS_MAX: u64 = 1 << 30;

/// Merges of so few bytes are waited for before a state is sent, and for so long: they take milliseconds.
const SMALL_MERGE_BYTES: u64 = 4 << 20;
const SMALL_MERGE_WAIT: Duration = Duration::from_secs(2);

/// Segments in the bucket are kept apart from others, and those that are shared left alone, up to so many: every query looks into
/// each of them.
pub const SEGMENTS_APART_MAX: usize = 128;

/// A segment in the bucket is rewritten when more than so many of a hundred rows are dead: then fewer are sent again than changed.
const SENT_DEAD_PERCENT: u32 = 50;

/// What the choice is made on: one segment.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    pub id: Uuid,
    pub standing: Standing,
    pub level: u8,
    pub rows: u64,
    pub dead: u64,
    pub bytes: u64,
    /// Those of its tombstones, where a merge drops all of them.
    pub due_bytes: u64,
}

/// Which segments become one, and of which level it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    pub inputs: Vec<Uuid>,
    pub level: u8,
    /// It is given up when others come to need one of them meanwhile.
    pub yields: bool,
}

/// What to merge next; `None` when nothing is worth it. Candidates are in the order of the manifest, oldest first.
pub fn choose(candidates: &[Candidate], fan_in: usize, dead_percent: u32) -> Option<Plan> {
    let of = |some: &[Standing]| -> Vec<&Candidate> {
        candidates.iter().filter(|candidate| some.contains(&candidate.standing)).collect()
    };
    let (own, sent) = (of(&[Standing::Own]), of(&[Standing::Sent]));
    if candidates.len() > SEGMENTS_APART_MAX {
        let all: Vec<&Candidate> = candidates.iter().collect();
        let plan = tiered(&all, fan_in).or_else(|| rotten(&all, dead_percent));
        return plan.map(|plan| Plan { yields: false, ..plan });
    }
    // What comes of merging a single one with those that were sent is sent in its place, and costs no request more.
    let by_size = match own.len() {
        0 | 1 => tiered(&of(&[Standing::Own, Standing::Sent]), fan_in),
        _ => tiered(&own, fan_in).or_else(|| tiered(&sent, fan_in)),
    };
    by_size.or_else(|| rotten(&own, dead_percent)).or_else(|| rotten(&sent, dead_percent.max(SENT_DEAD_PERCENT)))
}

/// The oldest segments of the lowest level that has enough of them.
fn tiered(candidates: &[&Candidate], fan_in: usize) -> Option<Plan> {
    let levels = candidates.iter().map(|candidate| candidate.level).max()?;
    (0..=levels).find_map(|level| {
        let of_level = candidates.iter().filter(|c| c.level == level);
        let inputs: Vec<&&Candidate> = of_level.take(fan_in.max(2)).collect();
        let rows: u64 = inputs.iter().map(|c| c.rows - c.dead.min(c.rows)).sum();
        let is_worth_it = inputs.len() == fan_in.max(2) && rows <= ROWS_MAX;
        let inputs = inputs.iter().map(|c| c.id).collect();
        is_worth_it.then(|| Plan { inputs, level: level.saturating_add(1), yields: true })
    })
}

/// The segment with most dead rows of those that have too many; else the one with most bytes of tombstones that are to go, of those
/// that are so much of tombstones.
fn rotten(candidates: &[&Candidate], dead_percent: u32) -> Option<Plan> {
    let is_rotten = |c: &&&Candidate| c.rows > 0 && c.dead * 100 > c.rows * u64::from(dead_percent);
    let is_outlived = |c: &&&Candidate| c.due_bytes * 100 > c.bytes * u64::from(dead_percent);
    let worst = candidates.iter().filter(is_rotten).max_by_key(|c| c.dead);
    let worst = worst.or_else(|| candidates.iter().filter(is_outlived).max_by_key(|c| c.due_bytes))?;
    Some(Plan { inputs: vec![worst.id], level: worst.level, yields: true })
}

/// A merged segment, if anything is left, that no manifest names yet.
struct Merged {
    part: Option<Part>,
    /// The clock of the newest tombstone that was dropped for its age.
    horizon: Hlc,
    new: Unnamed,
}

impl Namespace {
    /// Begins merging in the background when something is worth it and no merge is under way.
    pub(in crate::engine) fn start_compaction(self: &Arc<Self>) {
        if self.context.is_stopping() || self.context.config.followed.matches(&self.name) {
            return;
        }
        if self.context.why_not_yet(self.nsid, Work::Compaction).is_some()
            || self.compacting.swap(true, Ordering::SeqCst)
        {
            return;
        }
        let namespace = self.clone();
        tokio::spawn(async move {
            let done = loop {
                let plan = match namespace.next_merge() {
                    Ok(Some(plan)) => plan,
                    nothing => break nothing.map(drop),
                };
                if let Err(error) = namespace.merge(plan).await {
                    break Err(error);
                }
                if namespace.context.is_stopping() {
                    break Ok(());
                }
            };
            namespace.compacting.store(false, Ordering::SeqCst);
            namespace.context.made.room.notify_waiters();
            if let Err(error) = &done {
                namespace.context.report_error(&namespace.name.to_string(), error);
            }
            namespace.note(Work::Compaction, &done);
            namespace.let_go();
        });
    }

    /// The same where tombstones may be reason enough: time alone makes them so, and no flush comes.
    pub(in crate::engine) fn compact_outlived(self: &Arc<Self>) {
        let (_, candidates) = self.candidates();
        if candidates.iter().any(|candidate| candidate.due_bytes > 0) {
            self.start_compaction();
        }
    }

    /// Merges all segments into one, the tail included. A single one is written anew where rows of it are dead, where tombstones of it
    /// are no longer kept, and where it lacks indexes that the schema says by now.
    pub async fn compact(self: &Arc<Self>) -> Result<()> {
        self.flush().await?;
        let _turn = self.turn(&self.compacting).await;
        let (parts, candidates) = self.candidates();
        let is_rotten = candidates.len() > 1 || candidates.iter().any(|c| c.dead > 0) || self.lacks_indexes();
        if is_rotten || tokio::task::block_in_place(|| self.has_outlived(&parts))? {
            let level = candidates.iter().map(|c| c.level).max().unwrap_or(0);
            self.merge(Plan { inputs: candidates.iter().map(|c| c.id).collect(), level, yields: false }).await
        } else {
            Ok(())
        }
    }

    /// Waits for merges that are due, while they are small: what is sent then is not replaced at once by what comes of them.
    pub(in crate::engine) async fn settle_small_merges(self: &Arc<Self>) -> Result<()> {
        let Some(plan) = self.next_merge()? else { return Ok(()) };
        let bytes: u64 = {
            let shared = self.shared();
            let inputs = shared.state.parts.iter().filter(|part| plan.inputs.contains(&part.reference.segment_id));
            inputs.map(|part| part.reference.bytes).sum()
        };
        if bytes <= SMALL_MERGE_BYTES {
            // Whatever else is merged meanwhile is not waited for.
            let _ = tokio::time::timeout(SMALL_MERGE_WAIT, self.turn(&self.compacting)).await;
        }
        Ok(())
    }

    fn next_merge(&self) -> Result<Option<Plan>> {
        let config = &self.context.config;
        let (fan_in, dead_percent) = (config.compaction_fan_in, config.compaction_dead_percent);
        let (parts, mut candidates) = self.candidates();
        let all: Vec<&Candidate> = candidates.iter().collect();
        // Most often nothing is due, whoever needs it.
        if tiered(&all, fan_in).or_else(|| rotten(&all, dead_percent)).is_none() {
            return Ok(None);
        }
        let standings = tokio::task::block_in_place(|| self.standings(parts.iter().map(|part| &part.reference)))?;
        for (candidate, standing) in candidates.iter_mut().zip(standings) {
            candidate.standing = standing;
        }
        Ok(choose(&candidates, fan_in, dead_percent))
    }

    /// The segments that may be merged, as if nobody else needed them.
    fn candidates(&self) -> (Vec<Part>, Vec<Candidate>) {
        let shared = self.shared();
        // To merge what is not here would mean to read all of it; nodes that have it do that.
        let here: Vec<Part> = shared.state.parts.iter().filter(|part| part.segment.is_full()).cloned().collect();
        drop(shared);
        let has_tombstones = here.iter().any(|part| part.reference.tombstones > 0);
        let horizon = if has_tombstones { self.horizon() } else { Hlc(0) };
        let candidate = |part: &Part| Candidate {
            id: part.reference.segment_id,
            standing: Standing::Own,
            level: part.reference.level,
            rows: u64::from(part.reference.rows),
            // A merge drops no others.
            dead: part.settled.len(),
            bytes: part.reference.bytes,
            due_bytes: if made_before(part, horizon) { part.segment.tombstone_bytes() } else { 0 },
        };
        let candidates = here.iter().map(candidate).collect();
        (here, candidates)
    }

    /// Tombstones below this are not kept by a merge.
    fn horizon(&self) -> Hlc {
        self.context.horizon(&self.name.project, self.root())
    }

    /// Whether a merge would drop a tombstone for its age.
    fn has_outlived(&self, parts: &[Part]) -> Result<bool> {
        let horizon = self.horizon();
        for part in parts.iter().filter(|part| part.reference.tombstones > 0) {
            if part.segment.tombstones()?.iter().any(|tombstone| tombstone.version.hlc < horizon) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn lacks_indexes(&self) -> bool {
        let shared = self.shared();
        shared.state.parts.iter().any(|part| part.segment.lacks_indexes(&shared.state.schema))
    }

    pub(super) async fn merge(self: &Arc<Self>, plan: Plan) -> Result<()> {
        let _turn = self.context.compacting.acquire().await.map_err(|_| Error::unavailable("stopping"))?;
        let (inputs, schema): (Vec<Part>, Arc<Schema>) = {
            let shared = self.shared();
            let chosen = |part: &&Part| plan.inputs.contains(&part.reference.segment_id);
            (shared.state.parts.iter().filter(chosen).cloned().collect(), shared.state.schema.clone())
        };
        if inputs.len() != plan.inputs.len() {
            return Ok(());
        }
        // What is written down of them is checked again, what becomes of rows that die meanwhile as well.
        let unchecked = |part: Part| Part { segment: Arc::new(part.segment.unchecked()), ..part };
        let inputs: Vec<Part> = inputs.into_iter().map(unchecked).collect();
        let namespace = self.clone();
        let (level, yields) = (plan.level, plan.yields);
        let built = tokio::task::spawn_blocking(move || {
            namespace.build_merged(&inputs, &schema, level).map(|built| (inputs, built))
        });
        let (inputs, built) = built.await.map_err(|error| Error::internal(format!("merge segments: {error}")))??;
        self.replace(inputs, built, yields).await
    }

    /// Merges segments into a new one. Nothing is written where the disk has no room for it.
    fn build_merged(&self, inputs: &[Part], schema: &Schema, level: u8) -> Result<Merged> {
        let (context, key_of_work) = (&self.context, (self.nsid, Work::Compaction));
        let sources: Vec<Input> =
            inputs.iter().map(|part| Input { segment: &part.segment, dead: &part.settled }).collect();
        let bytes = sources.iter().map(Input::live_bytes).sum();
        context.check_space_for(key_of_work, bytes, || format!("merged segments of {}", self.name))?;
        let mut new = Unnamed::new(context);
        let now = context.clock.now_millis();
        let segment_id = context.random.uuid_v7(now);
        let key = segment_key(&self.name.project, self.nsid, segment_id);
        let due = self.horizon();
        let mut writer = context.tier.create_paced(&key, context.config.compaction_bytes_per_second)?;
        let summary = merge(segment_id, schema, &sources, due, &mut writer)
            .inspect_err(|_| context.takes(key_of_work, bytes.max(writer.bytes())))?;
        let horizon = summary.forgotten;
        if summary.rows == 0 && summary.tombstones == 0 {
            return Ok(Merged { part: None, horizon, new });
        }
        new.add(&key);
        writer.publish()?;
        let part = open_part(context, &reference(key, segment_id, level, &summary))?;
        // Rows are found in it once it is committed, where nothing may fail any more.
        part.segment.check_ids()?;
        Ok(Merged { part: Some(part), horizon, new })
    }

    /// Puts the merged segment in the place of its inputs. Rows that died meanwhile are dead in it, too.
    async fn replace(self: &Arc<Self>, inputs: Vec<Part>, merged: Merged, yields: bool) -> Result<()> {
        let Merged { part, horizon, mut new } = merged;
        // Who takes documents in meanwhile is not to wait for a compaction: it has put them in place when this is here.
        let _replacing = self.replacing.lock().await;
        // Who comes to share what is here waits for this.
        let mut head = self.head.lock().await;
        self.check_alive()?;
        let ids: Vec<Uuid> = inputs.iter().map(|part| part.reference.segment_id).collect();
        let present = |reference: &&SegmentRef| ids.contains(&reference.segment_id);
        if head.manifest.segments.iter().filter(present).count() != ids.len() {
            return Ok(());
        }
        // Another node's state may have rows that were dead here when this was begun: the merged segment lacks them.
        let came_back = {
            let shared = self.shared();
            inputs.iter().any(|input| {
                let now = settled_of(&shared.state.parts, input.reference.segment_id);
                now.is_none_or(|now| !input.settled.is_subset(now))
            })
        };
        if came_back {
            return Ok(());
        }
        let standings = || self.standings(inputs.iter().map(|part| &part.reference));
        if yields && tokio::task::block_in_place(standings).is_ok_and(|found| found.contains(&Standing::Shared)) {
            return Ok(());
        }
        tokio::task::block_in_place(|| -> Result<_> {
            let mut part = part;
            if let Some(part) = &mut part {
                // A flush may have settled rows meanwhile.
                let now: Vec<Part> = self.shared().state.parts.clone();
                let settled = since(&inputs, part, |id| settled_of(&now, id))?;
                if !settled.is_empty() {
                    let project = &self.name.project;
                    let object = write_deletions(&self.context, project, self.nsid, &part.reference, &settled)?;
                    new.add(&object.key);
                    part.reference.deletions = Some(object);
                }
                part.settled = Arc::new(settled);
            }
            let now = self.context.clock.now_millis();
            let next = head.commit_new(&self.context, new, |manifest| {
                let at = manifest.segments.iter().position(|s| ids.contains(&s.segment_id)).unwrap_or(0);
                manifest.segments.retain(|s| !ids.contains(&s.segment_id));
                if let Some(part) = &part {
                    manifest.segments.insert(at.min(manifest.segments.len()), part.reference.clone());
                }
                manifest.horizon = manifest.horizon.max(horizon);
                manifest.updated_ms = now;
            })?;
            *head = next;
            self.publish_head(&head);
            let mut shared = self.shared();
            // The manifest is committed: where what is in memory cannot follow, nothing may go on from it.
            put_in_place(&mut shared.state, &inputs, part).map_err(|error| {
                self.set_apart(error.context(format!("namespace {}: follow a merge of segments", self.name)))
            })?;
            self.publish_view(&shared.state);
            Ok(())
        })
    }
}

/// Puts a merged segment in the place of its inputs; rows that died meanwhile are dead in it. Nothing changes with an error.
fn put_in_place(state: &mut State, inputs: &[Part], mut part: Option<Part>) -> Result<()> {
    let is_input = |part: &Part| inputs.iter().any(|input| input.reference.segment_id == part.reference.segment_id);
    if let Some(part) = &mut part {
        part.dead = Arc::new(since(inputs, part, |id| dead_of(&state.parts, id))?);
        if let Some(frozen) = &mut state.frozen {
            let dead = since(inputs, part, |id| frozen.dead.get(&id).map(Arc::as_ref))?;
            frozen.dead.insert(part.reference.segment_id, Arc::new(dead));
        }
    }
    let at = state.parts.iter().position(is_input).unwrap_or(0);
    state.parts.retain(|part| !is_input(part));
    if let Some(part) = part {
        state.parts.insert(at.min(state.parts.len()), part);
    }
    Ok(())
}

/// Whether a segment was made before a clock. What it has was written before that, so one with tombstones is rewritten for them once.
fn made_before(part: &Part, horizon: Hlc) -> bool {
    let made = part.reference.segment_id.get_timestamp();
    made.is_some_and(|made| made.to_unix().0.saturating_add(1).saturating_mul(1_000) <= horizon.millis())
}

fn dead_of(parts: &[Part], id: Uuid) -> Option<&RoaringBitmap> {
    parts.iter().find(|part| part.reference.segment_id == id).map(|part| part.dead.as_ref())
}

fn settled_of(parts: &[Part], id: Uuid) -> Option<&RoaringBitmap> {
    parts.iter().find(|part| part.reference.segment_id == id).map(|part| part.settled.as_ref())
}

/// The rows of the merged `part` whose rows in its inputs are in the bitmap that `now` gives for their segment.
fn since<'a>(inputs: &[Part], part: &Part, now: impl Fn(Uuid) -> Option<&'a RoaringBitmap>) -> Result<RoaringBitmap> {
    let mut dead = RoaringBitmap::new();
    for input in inputs {
        let Some(current) = now(input.reference.segment_id) else { continue };
        for row in current - &*input.settled {
            if let Some(row) = part.segment.row_of(&input.segment.id_of(row)?)? {
                dead.insert(row);
            }
        }
    }
    Ok(dead)
}

#[cfg(test)]
mod tests {
    use super::{Candidate, Plan, SEGMENTS_APART_MAX, Standing, choose};
    use uuid::Uuid;

    fn candidate(id: u128, level: u8, rows: u64, dead: u64) -> Candidate {
        Candidate { id: Uuid::from_u128(id), standing: Standing::Own, level, rows, dead, bytes: 100, due_bytes: 0 }
    }

    fn plan(inputs: &[u128], level: u8) -> Option<Plan> {
        Some(Plan { inputs: inputs.iter().map(|id| Uuid::from_u128(*id)).collect(), level, yields: true })
    }

    #[test]
    fn segments_of_one_level_are_merged_when_there_are_enough() {
        let some: Vec<Candidate> = (0..3).map(|id| candidate(id, 0, 10, 0)).collect();
        assert_eq!(choose(&some, 4, 30), None);
        let enough: Vec<Candidate> = (0..5).map(|id| candidate(id, 0, 10, 0)).collect();
        assert_eq!(choose(&enough, 4, 30), plan(&[0, 1, 2, 3], 1));
        let mixed = [candidate(0, 1, 40, 0), candidate(1, 0, 10, 0), candidate(2, 1, 40, 0)];
        assert_eq!(choose(&mixed, 2, 30), plan(&[0, 2], 2));
    }

    #[test]
    fn a_segment_of_mostly_dead_rows_is_rewritten_alone() {
        let segments = [candidate(0, 2, 100, 31), candidate(1, 0, 100, 30), candidate(2, 0, 0, 0)];
        assert_eq!(choose(&segments, 4, 30), plan(&[0], 2));
        assert_eq!(choose(&segments[1..], 4, 30), None);
        assert_eq!(choose(&[], 4, 30), None);
    }

    #[test]
    fn a_segment_that_is_mostly_tombstones_to_go_is_rewritten_alone() {
        let of = |id, due_bytes| Candidate { due_bytes, ..candidate(id, 1, 10, 0) };
        assert_eq!(choose(&[of(0, 30), of(1, 0)], 4, 30), None);
        assert_eq!(choose(&[of(0, 31), of(1, 90), of(2, 40)], 4, 30), plan(&[1], 1));
        // What the bucket has is sent again only where more than half of it goes.
        let sent = |due_bytes| Candidate { standing: Standing::Sent, ..of(0, due_bytes) };
        assert_eq!((choose(&[sent(50)], 4, 30), choose(&[sent(51)], 4, 30)), (None, plan(&[0], 1)));
    }

    #[test]
    fn what_the_bucket_has_and_what_is_here_only_are_merged_apart_and_what_others_need_is_left_alone() {
        let at = |id, standing| Candidate { standing, ..candidate(id, 0, 10, 0) };
        let (own, sent, shared) = (Standing::Own, Standing::Sent, Standing::Shared);
        let mixed = [at(0, shared), at(1, sent), at(2, own), at(3, own), at(4, shared), at(5, sent), at(6, own)];
        assert_eq!(choose(&mixed[..5], 3, 30), None);
        assert_eq!(choose(&mixed[..6], 2, 30), plan(&[2, 3], 1));
        assert_eq!(choose(&mixed, 3, 30), plan(&[2, 3, 6], 1));
        let after = [at(0, shared), at(1, sent), Candidate { level: 1, ..at(7, own) }, at(5, sent), at(8, own)];
        assert_eq!(choose(&after, 2, 30), plan(&[1, 5], 1));
    }

    #[test]
    fn the_only_one_that_is_here_only_is_merged_with_those_in_the_bucket() {
        let at = |id, standing| Candidate { standing, ..candidate(id, 0, 10, 0) };
        let (own, sent) = (Standing::Own, Standing::Sent);
        assert_eq!(choose(&[at(0, sent), at(1, sent), at(2, own)], 3, 30), plan(&[0, 1, 2], 1));
        assert_eq!(choose(&[at(0, sent), at(1, sent), at(2, own), at(3, own)], 3, 30), None);
    }

    #[test]
    fn rows_in_the_bucket_are_sent_again_only_where_more_than_as_many_changed() {
        let rotten = |standing, dead| [Candidate { standing, ..candidate(0, 1, 100, dead) }];
        assert_eq!(choose(&rotten(Standing::Sent, 50), 4, 30), None);
        assert_eq!(choose(&rotten(Standing::Sent, 51), 4, 30), plan(&[0], 1));
        assert_eq!(choose(&rotten(Standing::Sent, 51), 4, 60), None);
        assert_eq!(choose(&rotten(Standing::Shared, 100), 4, 30), None);
    }

    #[test]
    fn too_many_segments_are_merged_whoever_needs_them() {
        let shared = |id| Candidate { standing: Standing::Shared, ..candidate(id, 0, 10, 0) };
        let many: Vec<Candidate> = (0..=SEGMENTS_APART_MAX as u128).map(shared).collect();
        assert_eq!(choose(&many[1..], 4, 30), None);
        let some = plan(&[0, 1, 2, 3], 1).map(|plan| Plan { yields: false, ..plan });
        assert_eq!(choose(&many, 4, 30), some);
    }
}
