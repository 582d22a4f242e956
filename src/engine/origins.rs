//! Origins that are used again: those of branches that were merged and are gone.
//!
//! A version vector has an entry for every origin of which something was seen, and keeps it: who merges a hundred branches a day
//! would have a hundred more every day. So a branch goes on with the origin of one that ended, where that says the same.
//!
//! What vectors rest on is that the commits of an origin are a line: whoever commits by it has seen all that were made by it
//! before. Then one clock says everything that was seen of it. Two incarnations may have one origin, one after the other, because
//! - the earlier one has ended: it has no name, cannot be had back, and its files are gone, so it commits nothing more;
//! - the first state of the later one has seen the newest commit of the earlier, found in its manifest and in its logs, those
//!   that nobody was answered included; so every commit of the later one has seen all of the earlier one's;
//! - clocks go on: a branch begins above the clocks of everything that its first state has seen;
//! - an origin is given once: it is taken from here under a lock. What is here is in memory only: after a restart less is known,
//!   which costs an entry, and never the line.
//!
//! So a state that has seen one commit of the line, by making it or by merging a state that had, has seen all before it, whichever
//! incarnation made them, and nothing that asks a vector can tell the two from one writer.
//!
//! What a bucket has is left alone: two disks that were cloned are known by what both write to one incarnation, and the branches of
//! the two would have one origin in different ones.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use super::Engine;
use super::lineage::holdings::generations;
use super::merge::bases;
use super::namespace::head::Head;
use super::recovery::scan;
use crate::error::{Context as _, Result};
use crate::format::manifest::Manifest;
use crate::model::ids::{Hlc, Nsid, Origin, Project};
use crate::platform::disk::if_there;

/// So many origins wait for a branch at most; what is above them is not used again.
const FREE_MAX: usize = 4_096;

/// Origins of incarnations that are gone, each with the clock of the newest commit that was ever made by it.
#[derive(Debug, Default)]
pub(in crate::engine) struct Origins {
    free: Mutex<BTreeMap<Origin, Hlc>>,
}

impl Origins {
    fn give(&self, origin: Origin, newest: Hlc) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < FREE_MAX {
            free.insert(origin, newest);
        }
    }

    /// Takes an origin of which a state has seen everything.
    fn take(&self, state: &Manifest) -> Option<(Origin, Hlc)> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        // Logs that a branch inherits are told from its own by their origin.
        let is_inherited = |origin: Origin| state.logs.iter().any(|log| log.origin == origin);
        let is_whole = |(origin, newest): &(&Origin, &Hlc)| state.version_vector.seen(**origin) >= **newest;
        let found = free.iter().filter(is_whole).map(|(origin, _)| *origin).find(|origin| !is_inherited(*origin))?;
        free.remove_entry(&found)
    }
}

impl Engine {
    /// The origin by which a branch of this state will write.
    pub(super) fn origin_after(&self, state: &Manifest) -> Result<Origin> {
        match self.origins.take(state) {
            Some((origin, _)) if !self.is_shared(state.nsid)? => return Ok(origin),
            Some((origin, newest)) => self.origins.give(origin, newest),
            None => {}
        }
        Ok(Origin(self.context.random.next_u64()))
    }

    /// Removes everything of an incarnation that lost its name and was whole until now, for good, and lets its origin be used
    /// again.
    pub(super) fn end(&self, project: &Project, nsid: Nsid) {
        let ended = self.newest_by_origin(project, nsid);
        self.discard(project, nsid);
        let is_gone = generations(&self.context, nsid).is_ok_and(|left| left.is_empty());
        match ended {
            Ok(Some((origin, newest))) if is_gone => self.origins.give(origin, newest),
            Ok(_) => {}
            Err(error) => tracing::debug!(%nsid, %error, "an origin is not used again"),
        }
    }

    /// By which origin an incarnation writes, and the clock of the newest commit that it made or began; `None` where a bucket may
    /// have something of it.
    fn newest_by_origin(&self, project: &Project, nsid: Nsid) -> Result<Option<(Origin, Hlc)>> {
        let Some(Head { manifest, .. }) = Head::load(&self.context, nsid)? else { return Ok(None) };
        if self.is_shared(nsid)? {
            return Ok(None);
        }
        let origin = manifest.origin;
        let (disk, logs) = (&*self.context.disk, self.context.layout.logs(project, nsid));
        let open = logs.names.of(disk, &logs.open, nsid).context(|| format!("list {}", logs.open.display()))?;
        let sealed = if_there(disk.names(&logs.sealed)).context(|| format!("list {}", logs.sealed.display()))?;
        let open = open.iter().map(|name| logs.open.join(name));
        let mut newest = manifest.version_vector.seen(origin);
        for path in open.chain(sealed.iter().flatten().map(|name| logs.sealed.join(name))) {
            let log = scan(disk, &path)?;
            newest = if log.header.origin == origin { newest.max(log.newest) } else { newest };
        }
        Ok(Some((origin, newest)))
    }

    /// Whether a bucket has a state of an incarnation, or one was made for it. Reads small files.
    pub(super) fn is_shared(&self, nsid: Nsid) -> Result<bool> {
        let staged = || bases::read(&self.context, &bases::next_path(&self.context, nsid, nsid));
        Ok(self.common(nsid)?.is_some() || staged()?.is_some())
    }
}
