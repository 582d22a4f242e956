//! Takes a new origin: another disk writes by this one's, so its clocks do not say any more what others have seen of it.
//!
//! What the bucket does not have becomes new origins', by the same clocks: of two changes of a document the newer one
//! still is. One commit names all of it; what holds for `absorb` while that is made holds here.

use std::collections::BTreeMap;
use std::sync::Arc;

use uuid::Uuid;

use super::flush::reference;
use super::open::open_part;
use super::state::Part;
use super::{Decider, Namespace};
use crate::engine::layout::{log_key, segment_key};
use crate::engine::merge::bases;
use crate::engine::namespace::head::reclaim;
use crate::engine::parting::Parting;
use crate::engine::unnamed::Unnamed;
use crate::error::{Context as _, Error, Result};
use crate::model::ids::{Hlc, Origin, Version};
use crate::model::version_vector::VersionVector;
use crate::segment::merge::{Input, merge_renewed};
use crate::segment::renewal::Renewal;

impl Namespace {
    /// Takes a new origin, and gives what is here and nowhere else to new ones, as `parting` says. Gives how many documents and
    /// deletions that is; `None` when it has done so before.
    pub(in crate::engine) async fn take_new_origin(self: &Arc<Self>, parting: &mut Parting) -> Result<Option<u64>> {
        // In the order of `absorb`, whose turns these are.
        let _compacting = self.turn(&self.compacting).await;
        let _flushing = self.turn(&self.flushing).await;
        let mut decider = self.decider.lock().await;
        self.make_ready(&mut decider).await?;
        self.drain(&mut decider).await?;
        self.flush_held(&mut decider).await?;
        let common = tokio::task::block_in_place(|| {
            bases::read(&self.context, &self.context.layout.base(self.nsid, self.nsid))
        })?;
        let vector = self.shared().state.vector();
        let common = common.map(|common| common.version_vector);
        let (renewal, to) = parting.of(decider.origin, &vector, common.as_ref(), &*self.context.random);
        if renewal.is_empty() && to == decider.origin {
            return Ok(None);
        }
        let mut begun = Unnamed::new(&self.context);
        let (parts, count) = tokio::task::block_in_place(|| self.renew_parts(&renewal, &mut begun))?;
        let done = self.commit_renewal(&mut decider, (&renewal, to), parts, begun).await;
        if done.is_err() {
            self.open_anew(&mut decider).await;
        }
        done.map(|()| Some(count))
    }

    /// The segments anew that have something of the old origin, by the ids of those; and how many rows and tombstones those are.
    fn renew_parts(&self, renewal: &Renewal, begun: &mut Unnamed) -> Result<(BTreeMap<Uuid, Part>, u64)> {
        let parts: Vec<Part> = self.shared().state.parts.clone();
        let (context, mut renewed, mut count) = (&self.context, BTreeMap::new(), 0);
        for part in &parts {
            let rows = part.segment.rows_by_version(|version| renewal.is_of(version))? - part.dead.as_ref();
            let tombstones = part.segment.tombstones()?;
            let affected = rows.len() + tombstones.iter().filter(|t| renewal.is_of(t.version)).count() as u64;
            if affected == 0 {
                continue;
            }
            count += affected;
            let segment_id = context.random.uuid_v7(context.clock.now_millis());
            let key = segment_key(&self.name.project, self.nsid, segment_id);
            begun.add(&key);
            let mut writer = context.tier.create_paced(&key, context.config.compaction_bytes_per_second)?;
            let input = [Input { segment: &part.segment, dead: &part.dead }];
            let schema = self.shared().state.schema.clone();
            let summary = merge_renewed(segment_id, &schema, &input, Hlc(0), Some(renewal), &mut writer)?;
            writer.publish()?;
            let new = open_part(context, &reference(key, segment_id, part.reference.level, &summary))?;
            renewed.insert(part.reference.segment_id, new);
        }
        Ok((renewed, count))
    }

    async fn commit_renewal(
        &self,
        decider: &mut Decider,
        (renewal, to): (&Renewal, Origin),
        mut renewed: BTreeMap<Uuid, Part>,
        begun: Unnamed,
    ) -> Result<()> {
        let mut head = self.head.lock().await;
        tokio::task::block_in_place(|| {
            let state_vector = self.shared().state.vector();
            let vector = renewed_vector(&state_vector, renewal);
            let now = self.context.clock.now_millis();
            let next = head.commit_new(&self.context, begun, |manifest| {
                for segment in &mut manifest.segments {
                    if let Some(part) = renewed.get(&segment.segment_id) {
                        *segment = part.reference.clone();
                    }
                }
                manifest.origin = to;
                manifest.version_vector = vector.clone();
                // The other disk goes on with this block.
                manifest.ids_reserved = 0;
                manifest.updated_ms = now;
            })?;
            let sealed = std::mem::take(&mut decider.sealed);
            decider.origin = to;
            decider.ids_reserved = 0;
            let mut shared = self.shared();
            let state = &mut shared.state;
            for part in &mut state.parts {
                if let Some(new) = renewed.remove(&part.reference.segment_id) {
                    *part = new;
                }
            }
            state.origin = to;
            state.own = vector.seen(to);
            state.vector = vector;
            state.ids_reserved = 0;
            self.publish_view(state);
            drop(shared);
            *head = next;
            self.publish_head(&head);
            // Logs without a record; those of the old origin are read no more.
            let keys: Vec<String> =
                sealed.iter().map(|log| log_key(&self.name.project, self.nsid, &log.name)).collect();
            match self.context.meta.release(&keys) {
                Ok(free) => reclaim(&self.context, &free),
                Err(error) => tracing::warn!(%error, "logs are not released, a later sweep finds them"),
            }
            Ok::<_, Error>(())
        })
        .context(|| format!("take a new origin for {}", self.name))
    }
}

/// What has been seen, where some origins' commits after some time are others'.
fn renewed_vector(vector: &VersionVector, renewal: &Renewal) -> VersionVector {
    let mut renewed = VersionVector::default();
    for (origin, hlc) in vector.iter() {
        renewed.see(renewal.of(Version { origin, hlc }).origin, hlc);
        let stays = renewal.since(origin).unwrap_or_default().min(hlc);
        if stays > Hlc::default() {
            renewed.see(origin, stays);
        }
    }
    renewed
}
