//! Lets what is in memory follow what is durable: commits are applied in their order, once their barrier is done.
//!
//! Invariants:
//! - Who waits for a commit is told that it is done only when that very commit is applied.
//! - A commit that cannot be applied stays the first of those that wait, and nothing more is logged before it is. Where that is
//!   for damage the namespace is set apart: the others are served, and the next opening has all of its log.

use std::sync::Arc;

use super::{Decider, Namespace, Shared, State};
use crate::engine::group_commit::{GroupCommit, Ticket};
use crate::engine::is_damage;
use crate::error::{Error, Result};

/// A commit's log, and its place in it.
pub(super) type Wait = (Arc<GroupCommit>, Ticket);

impl Shared {
    pub(super) fn new(state: State) -> Self {
        Shared { state, pending: Default::default(), overlay: Default::default(), is_stuck: false }
    }

    /// Applies the commits whose barrier is done. Gives how many, and the error of the one that could not be applied.
    fn apply_synced(&mut self) -> (usize, Result<()>) {
        let Shared { state, pending, overlay, is_stuck } = self;
        let mut applied = 0;
        while let Some(commit) = pending.front_mut()
            && commit.group.is_synced(commit.ticket)
        {
            let found = commit.places.refresh(state, &commit.changes);
            *is_stuck = found.is_err();
            if found.is_err() {
                return (applied, found);
            }
            let Some(commit) = pending.pop_front() else { break };
            for id in commit.changes.iter().map(|change| change.id()) {
                if overlay.get(id).is_some_and(|(number, _)| *number == commit.number) {
                    overlay.remove(id);
                }
            }
            // The schema first: rows of this commit have their terms by it.
            state.follow_commit(commit.version, commit.schema, commit.ids_reserved, commit.counts);
            state.put_all(&commit.changes, commit.version, &commit.places);
            applied += 1;
        }
        (applied, Ok(()))
    }
}

impl Namespace {
    /// Waits for a commit's barrier and makes it visible.
    pub(super) async fn finish(&self, group: &GroupCommit, ticket: Ticket) -> Result<()> {
        group.wait(ticket).await?;
        let Err(stuck) = self.advance() else { return Ok(()) };
        let waits = |commit: &super::Pending| std::ptr::eq(&*commit.group, group) && commit.ticket <= ticket;
        // What stops others is no concern of who is through.
        if self.shared().pending.iter().any(waits) { Err(stuck) } else { Ok(()) }
    }

    /// Waits until nothing is on its way. The decider is held, so nothing new comes.
    pub(super) async fn drain(&self, _decider: &mut Decider) -> Result<()> {
        let last = self.shared().pending.back().map(|commit| (commit.group.clone(), commit.ticket));
        if let Some((group, ticket)) = last {
            self.finish(&group, ticket).await?;
        }
        Ok(())
    }

    /// An error while there is a durable commit that cannot be applied.
    pub(super) fn check_applied(&self) -> Result<()> {
        if self.shared().is_stuck { self.advance() } else { Ok(()) }
    }

    /// Applies every commit whose barrier is done, and shows the result to readers. An error when one of them could not be.
    fn advance(&self) -> Result<()> {
        let mut shared = self.shared();
        if let Some(error) = self.apart() {
            return Err(error.duplicate());
        }
        let before = shared.state.unflushed_bytes();
        let (applied, done) = shared.apply_synced();
        if applied > 0 {
            self.publish_view(&shared.state);
        }
        self.follow_tail(&shared, before);
        done.map_err(|error| {
            let error = error.context(format!("namespace {}: apply a commit that is in its log", self.name));
            if is_damage(&error) { self.set_apart(error) } else { error }
        })
    }

    /// Ends the use of what is in memory, which does not follow what is durable any more. Gives what is told from now on.
    pub(super) fn set_apart(&self, error: Error) -> Error {
        let hint = "the other namespaces are served; run `shoal check` and see what `shoal repair` offers: nothing of the log is lost";
        let error = Arc::new(if error.hint().is_none() { error.with_hint(hint) } else { error });
        if self.apart.set(error.clone()).is_ok() {
            tracing::error!(namespace = %self.name, %error, "quarantined, the others are served");
        }
        self.apart().unwrap_or(&error).duplicate()
    }

    /// Why the namespace was set apart, if it was.
    pub(in crate::engine) fn apart(&self) -> Option<&Arc<Error>> {
        self.apart.get()
    }

    /// Lets go of the log and the memory of a namespace that was set apart, for who opens it anew.
    pub(in crate::engine) fn give_up(self: &Arc<Self>) {
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let namespace = self.clone();
            runtime.spawn(async move { namespace.retire().await });
        }
    }
}

/// A commit on its way, whose writer may stop waiting for it.
pub(super) struct Unfinished {
    namespace: Arc<Namespace>,
    wait: Option<Wait>,
}

impl Unfinished {
    pub(super) fn new(namespace: &Arc<Namespace>, wait: &Wait) -> Self {
        Unfinished { namespace: namespace.clone(), wait: Some(wait.clone()) }
    }

    /// The writer waited to the end.
    pub(super) fn is_done(mut self) {
        self.wait = None;
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some((group, ticket)) = self.wait.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let namespace = self.namespace.clone();
            runtime.spawn(async move {
                let _ = namespace.finish(&group, ticket).await;
            });
        }
    }
}
