//! Writes objects of the newest state anew, under names of the namespace's own that were never used; what it says stays as it is.
//!
//! A bucket may reclaim an object at any time once it was condemned there, so what is still needed is sent under another name.
//! Segments are merged one by one, bitmaps and conflicts are copied. Interrupted anywhere, it begins anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Namespace;
use super::compaction::Plan;
use super::flush::write_deletions;
use crate::engine::layout::conflicts_key;
use crate::engine::merge::conflicts;
use crate::engine::unnamed::Unnamed;
use crate::error::{Context as _, Result};
use crate::format::conflicts::encode_conflicts;

impl Namespace {
    /// Renews those of these objects that the newest state names.
    pub(in crate::engine) async fn renew(self: &Arc<Self>, keys: &BTreeSet<String>) -> Result<()> {
        let compacting = self.turn(&self.compacting).await;
        self.renew_segments(keys).await.context(|| format!("renew objects of {}", self.name))?;
        drop(compacting);
        self.renew_rest(keys).await.context(|| format!("renew objects of {}", self.name))?;
        self.start_compaction();
        Ok(())
    }

    async fn renew_segments(self: &Arc<Self>, keys: &BTreeSet<String>) -> Result<()> {
        let due: Vec<Plan> = {
            let shared = self.shared();
            let parts = shared.state.parts.iter().map(|part| &part.reference);
            let due = parts.filter(|reference| keys.contains(&reference.key));
            due.map(|reference| Plan { inputs: vec![reference.segment_id], level: reference.level, yields: false })
                .collect()
        };
        for plan in due {
            self.merge(plan).await?;
        }
        Ok(())
    }

    /// Bitmaps of segments that stay, and conflicts.
    async fn renew_rest(self: &Arc<Self>, keys: &BTreeSet<String>) -> Result<()> {
        // What is written here is not named yet; a sweep leaves those alone who have a turn. And no segment settles rows meanwhile.
        let _flushing = self.turn(&self.flushing).await;
        let mut head = self.head.lock().await;
        self.check_alive()?;
        tokio::task::block_in_place(|| {
            let parts = self.shared().state.parts.clone();
            let mut new = Unnamed::new(&self.context);
            let mut bitmaps = BTreeMap::new();
            for part in &parts {
                if part.reference.deletions.as_ref().is_some_and(|object| keys.contains(&object.key)) {
                    let (context, project) = (&self.context, &self.name.project);
                    let object = write_deletions(context, project, self.nsid, &part.reference, &part.settled)?;
                    new.add(&object.key);
                    bitmaps.insert(part.reference.segment_id, object);
                }
            }
            let mut renamed = BTreeMap::new();
            for key in head.manifest.conflicts.iter().filter(|key| keys.contains(*key)) {
                let bytes = encode_conflicts(&conflicts::read(&self.context, key)?)?;
                let next = conflicts_key(&self.name.project, self.nsid, self.context.random.next_u64());
                new.add(&next);
                self.context.tier.put(&next, &bytes)?;
                renamed.insert(key.clone(), next);
            }
            if bitmaps.is_empty() && renamed.is_empty() {
                return Ok(());
            }
            let next = head.commit_new(&self.context, new, |manifest| {
                for segment in &mut manifest.segments {
                    if let Some(object) = bitmaps.get(&segment.segment_id) {
                        segment.deletions = Some(object.clone());
                    }
                }
                for key in &mut manifest.conflicts {
                    if let Some(next) = renamed.get(key) {
                        key.clone_from(next);
                    }
                }
            })?;
            let mut shared = self.shared();
            for part in &mut shared.state.parts {
                if let Some(object) = bitmaps.remove(&part.reference.segment_id) {
                    part.reference.deletions = Some(object);
                }
            }
            drop(shared);
            *head = next;
            self.publish_head(&head);
            Ok(())
        })
    }
}
