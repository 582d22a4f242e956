//! Lets what is in memory follow what is durable: commits are applied in their order, once their barrier is done.
//!
//! Invariants:
//! - Who waits for a commit is told that it is done only when that very commit is applied.
//! - A commit that cannot be applied stays the first of those that wait, and nothing more is logged before it is. Where that is
//!   for damage the namespace is set apart: the others are served, and the next opening has all of its log.

use std::sync::Arc;

use super::state::of_map;
use super::{Decider, Namespace, Shared, State};
use crate::engine::group_commit::{GroupCommit, Ticket};
use crate::engine::is_damage;
use crate::error::{Error, Result};

/// A commit's log, and its place in it.
pub(super) type Wait = (Arc<GroupCommit>, Ticket);

impl Shared {
    pub(super) fn new(state: State) -> Self {
        Shared { state, pending: Default::default(), overlay: Default::default(), pending_bytes: 0, is_stuck: false }
    }

    /// Memory of everything that is not in a segment.
    pub(super) fn bytes(&self) -> u64 {
        self.state.unflushed_bytes() + self.pending_bytes + of_map(&self.overlay)
    }

    /// Applies the commits whose barrier is done. Gives how many, and the error of the one that could not be applied.
    fn apply_synced(&mut self) -> (usize, Result<()>) {
        let Shared { state, pending, overlay, pending_bytes, is_stuck } = self;
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
            *pending_bytes = pending_bytes.saturating_sub(commit.bytes);
            for id in commit.changes.iter().map(|change| change.id()) {
                if overlay.get(id).is_some_and(|(number, _)| *number == commit.number) {
                    overlay.remove(id);
                }
            }
            // The schema first: rows of this commit have their terms by it.
            state.follow_commit(commit.version, commit.schema, commit.ids_reserved, commit.counts);
            state.tail.answers += u64::from(commit.is_keyed);
            state.put_all(commit.changes, commit.version, &commit.places);
            applied += 1;
        }
        if overlay.is_empty() {
            // Its table is counted for as long as it is there.
            *overlay = Default::default();
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

    /// The newest of the commits on their way.
    pub(super) fn newest_wait(&self) -> Option<Wait> {
        self.shared().pending.back().map(|commit| (commit.group.clone(), commit.ticket))
    }

    /// Waits until nothing is on its way. The decider is held, so nothing new comes.
    pub(super) async fn drain(&self, _decider: &mut Decider) -> Result<()> {
        if let Some((group, ticket)) = self.newest_wait() {
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
        let before = shared.bytes();
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
            self.context.report_unreadable(&self.name.to_string(), self.nsid, &error);
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
    pub(super) fn end(mut self) {
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use uuid::Uuid;

    use super::super::frames::Extras;
    use super::super::open::next_clock;
    use crate::engine::write::Change;
    use crate::engine::{Engine, EngineConfig};
    use crate::error::Kind;
    use crate::format::ids::SECTION;
    use crate::format::segment::{decode_footer, decode_meta};
    use crate::model::document::Document;
    use crate::model::ids::{DocId, Project, Version};
    use crate::model::write::{Row, WriteRequest};
    use crate::platform::clock::ManualClock;
    use crate::platform::memory_disk::MemoryDisk;
    use crate::platform::mmap::Mapping;
    use crate::platform::random::SeededRandom;
    use crate::segment::Segment;

    fn open(disk: &MemoryDisk) -> Arc<Engine> {
        let (clock, random) = (Arc::new(ManualClock::at(1_700_000_000_000)), Arc::new(SeededRandom::new(1)));
        let engine = Engine::open(EngineConfig::new("/data"), Arc::new(disk.mounted()), clock, random).unwrap();
        engine.rebuild_index().unwrap();
        engine
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_commit_that_cannot_be_applied_is_nobody_elses_and_sets_the_namespace_apart() {
        let disk = MemoryDisk::default();
        let engine = open(&disk);
        let name = Project::default_project().namespace("docs").unwrap();
        let upserts = (0..10).map(|id| Row { id: json!(id), fields: Vec::new() }).collect();
        engine.write(&name, WriteRequest { upserts, ..WriteRequest::default() }).await.unwrap();
        engine.checkpoint(&name).await.unwrap();
        let namespace = engine.namespace(&name).unwrap();
        let mut waits = Vec::new();
        let mut decider = namespace.decider.lock().await;
        for id in [100, 3, 200] {
            let version = Version { hlc: next_clock(decider.hlc, 0), origin: decider.origin };
            let document = Document { id: DocId::Uint(id), version, fields: Vec::new(), patch: None };
            let change = Change::Put { document: Arc::new(document), terms: Vec::new(), patch: None };
            waits.push(namespace.append(&mut decider, version.hlc, vec![change], Extras::default()).unwrap());
        }
        drop(decider);
        {
            // Segments are merged before these are applied, and what comes of it is damaged after it was checked.
            let mut shared = namespace.shared();
            let part = &mut shared.state.parts[0];
            let mut bytes = engine.context.tier.read(&part.reference.key).unwrap();
            let meta = decode_meta(&bytes, &decode_footer(&bytes, "merged").unwrap(), "merged").unwrap();
            let ids = meta.sections.iter().find(|section| section.name == SECTION).unwrap().offset as usize;
            bytes[ids] ^= 1;
            part.segment = Arc::new(Segment::open(Mapping::of_bytes(bytes), "merged").unwrap());
            part.reference.segment_id = Uuid::from_u128(1);
        }
        let mut told = Vec::new();
        for (group, ticket) in waits.iter().rev() {
            told.push(namespace.finish(group, *ticket).await.map_err(|error| error.kind()));
        }
        assert_eq!(told, [Err(Kind::Corrupt), Err(Kind::Corrupt), Ok(())]);
        // Nothing is written on top of it, and it is named.
        let (error, status) = (namespace.hold_writes().await.map(drop).unwrap_err(), engine.node_status());
        assert!(error.message().contains("merged"), "{error}");
        assert_eq!(status["namespaces"]["quarantined"][0]["name"], json!(name.to_string()));
        assert_eq!(engine.view(&name).err().map(|error| error.kind()), Some(Kind::Corrupt));
        drop((engine, namespace));
        // All of it is in the log.
        disk.power_cut(&SeededRandom::new(2));
        assert_eq!(open(&disk).view(&name).unwrap().documents(), 12);
    }
}
