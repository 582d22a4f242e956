//! Keeps a namespace as it is for somebody who is about to put another in its place.

use std::sync::Arc;

use tokio::sync::MutexGuard;

use super::flush::Turn;
use super::{Decider, Namespace};
use crate::error::Result;
use crate::format::answers::Answer;

/// A namespace that nobody writes to, flushes or compacts until this is dropped.
pub(in crate::engine) struct Still<'a> {
    // In this order: who waits for a turn holds no decider.
    decider: MutexGuard<'a, Decider>,
    _flushing: Turn<'a>,
    _compacting: Turn<'a>,
}

impl Still<'_> {
    /// Every answer of the namespace, which is this one's, that is repeated.
    pub(in crate::engine) fn answers(&mut self, of: &Namespace) -> Result<Vec<Answer>> {
        tokio::task::block_in_place(|| of.all_answers(&mut self.decider))
    }
}

impl Namespace {
    /// Waits until segments that are being made are there.
    pub(in crate::engine) async fn come_to_rest(&self) {
        drop(self.turn(&self.compacting).await);
        drop(self.turn(&self.flushing).await);
    }

    /// Lets nobody write any more. What was acknowledged before is in segments, and the newest manifest names them.
    pub(in crate::engine) async fn stand_still(self: &Arc<Self>) -> Result<Still<'_>> {
        // In the order of `absorb`.
        let compacting = self.turn(&self.compacting).await;
        let flushing = self.turn(&self.flushing).await;
        let mut decider = self.decider.lock().await;
        self.make_ready(&mut decider).await?;
        self.drain(&mut decider).await?;
        self.flush_held(&mut decider).await?;
        Ok(Still { decider, _flushing: flushing, _compacting: compacting })
    }

    /// Puts everything into segments, and lets no log of before count any more.
    pub(in crate::engine) async fn leave_logs(self: &Arc<Self>) -> Result<()> {
        let still = self.stand_still().await?;
        let next_seq = still.decider.next_seq;
        if self.newest_manifest().await.replay_from < next_seq {
            self.edit_head(|manifest| (manifest.replay_from, manifest.next_seq) = (next_seq, next_seq)).await?;
        }
        Ok(())
    }
}
