//! Past states: found by generation, commit, tag or instant, and read as they were.

use std::sync::Arc;

use super::dates::was_there;
use super::gone;
use super::holdings::{beside_the_chain, read_manifest, read_tag};
use super::tags::check_name;
use crate::engine::Engine;
use crate::engine::namespace::head::{Head, objects};
use crate::engine::namespace::{Moment, Namespace};
use crate::engine::view::View;
use crate::error::{Error, Result};
use crate::format::manifest::Manifest;
use crate::model::as_of::AsOf;
use crate::model::ids::{CommitId, NamespaceName};
use uuid::Uuid;

/// Past states that are kept open for who asks again.
const OPEN_MAX: usize = 8;
/// The tails of all that are kept open take no more memory than this share of what all tails may take, but for the last one.
const OPEN_TAILS_SHARE: u64 = 4;

/// One state of a namespace that can be asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastState {
    pub generation: u64,
    pub commit_id: CommitId,
    pub committed_ms: u64,
    pub data_seq: u64,
    /// In segments; those of logs that were not in a segment yet come on top.
    pub documents: u64,
    /// Bytes that are kept for this state alone, its manifest included; 0 for the newest one.
    pub kept_bytes: u64,
}

/// Bytes of the objects that a namespace needs, by who else needs them, and how far back its past reaches.
#[derive(Clone, Debug, Default)]
pub(in crate::engine) struct Kept {
    /// Of objects that the newest state has for itself, and of its manifest.
    pub own_bytes: u64,
    /// Of objects that other namespaces have, too.
    pub shared_bytes: u64,
    /// Of objects that only past states have, and of their manifests.
    pub past_bytes: u64,
    pub states: u64,
    pub oldest_generation: u64,
    pub oldest_ms: u64,
}

impl Engine {
    /// The states of a namespace that can be asked for, newest first.
    pub fn history(&self, name: &NamespaceName) -> Result<Vec<PastState>> {
        let namespace = self.namespace(name)?;
        let head = namespace.published();
        let mut states = vec![PastState {
            generation: head.generation,
            commit_id: head.commit_id.parse().map(CommitId).unwrap_or(CommitId(Uuid::nil())),
            committed_ms: head.committed_ms,
            data_seq: head.data_seq,
            documents: head.rows,
            kept_bytes: 0,
        }];
        for (generation, past) in self.context.meta.history(namespace.nsid)?.into_iter().rev() {
            states.push(PastState {
                generation,
                commit_id: CommitId(Uuid::from_bytes(past.commit_id)),
                committed_ms: past.committed_ms,
                data_seq: past.data_seq,
                documents: past.documents,
                kept_bytes: past.bytes + past.manifest_bytes,
            });
        }
        Ok(states)
    }

    /// What a namespace's newest state and its past keep on the disk. Blocking.
    pub(in crate::engine) fn kept(&self, namespace: &Namespace) -> Result<Kept> {
        let context = &self.context;
        let past = context.meta.history(namespace.nsid)?;
        let head = namespace.published();
        let mut kept = Kept {
            states: past.len() as u64 + 1,
            oldest_generation: past.first().map_or(head.generation, |(generation, _)| *generation),
            oldest_ms: past.first().map_or(head.committed_ms, |(_, past)| past.committed_ms),
            past_bytes: past.iter().map(|(_, past)| past.bytes + past.manifest_bytes).sum(),
            ..Kept::default()
        };
        // Read are the newest state, tags and bases of merges: past states cost the same however many there are.
        if let Some(head) = Head::load(context, namespace.nsid)? {
            let beside = beside_the_chain(context, &head)?;
            kept.own_bytes = head.bytes;
            for object in objects(&head.manifest) {
                let own = 1 + beside.get(&object.key).copied().unwrap_or_default();
                let is_shared = context.meta.references(&object.key)? > own;
                *(if is_shared { &mut kept.shared_bytes } else { &mut kept.own_bytes }) += object.bytes;
            }
        }
        Ok(kept)
    }

    /// A namespace as it is or was. NotFound with code `gone` when that state is not kept any more.
    pub async fn moment_at(&self, name: &NamespaceName, as_of: Option<&AsOf>) -> Result<Arc<Moment>> {
        let namespace = self.namespace(name)?;
        match as_of {
            Some(as_of) if !self.is_now(&namespace, as_of) => {
                tokio::task::block_in_place(|| self.past_moment(&namespace, as_of))
            }
            _ => namespace.moment().await.map(Arc::new),
        }
    }

    /// The snapshot of a namespace as it is or was, for queries. Blocking.
    pub fn view_at(&self, name: &NamespaceName, as_of: Option<&AsOf>) -> Result<Arc<View>> {
        let namespace = self.namespace(name)?;
        match as_of {
            Some(as_of) if !self.is_now(&namespace, as_of) => {
                self.past_moment(&namespace, as_of).map(|moment| moment.view.clone())
            }
            _ => Ok(namespace.view()),
        }
    }

    fn past_moment(&self, namespace: &Namespace, as_of: &AsOf) -> Result<Arc<Moment>> {
        let manifest = self.past_manifest(namespace, as_of)?;
        let is_it = |(known, _): &(Arc<Moment>, u64)| {
            let known = &known.manifest;
            (known.nsid, known.commit_id, known.data_seq) == (manifest.nsid, manifest.commit_id, manifest.data_seq)
        };
        let open = || self.past.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        {
            let mut open = open();
            let found = open.iter().position(is_it).and_then(|at| open.remove(at));
            if let Some((moment, bytes)) = found {
                open.push_back((moment.clone(), bytes));
                return Ok(moment);
            }
        }
        let (moment, bytes) = namespace.past_and_tail(manifest)?;
        let moment = Arc::new(moment);
        let mut open = open();
        open.push_back((moment.clone(), bytes));
        let bytes_max = self.context.config.tails_bytes_max / OPEN_TAILS_SHARE;
        let mut taken: u64 = open.iter().map(|(_, bytes)| bytes).sum();
        while open.len() > OPEN_MAX || taken > bytes_max && open.len() > 1 {
            taken -= open.pop_front().map_or(0, |(_, bytes)| bytes);
        }
        Ok(moment)
    }

    /// How many past states are kept open for who asks again, and the memory that their tails take.
    pub(in crate::engine) fn past_open(&self) -> (usize, u64) {
        let open = self.past.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        (open.len(), open.iter().map(|(_, bytes)| bytes).sum())
    }

    /// The manifest of a past state.
    pub(super) fn past_manifest(&self, namespace: &Namespace, as_of: &AsOf) -> Result<Manifest> {
        let (context, nsid) = (&self.context, namespace.nsid);
        let head = namespace.published();
        let past = || context.meta.history(nsid);
        let generation = match as_of {
            AsOf::Tag(tag) => return self.tagged(namespace, tag),
            AsOf::Generation(generation) if *generation > head.generation => {
                return Err(Error::invalid(format!(
                    "as_of: generation {generation} is not there yet, the newest is {}",
                    head.generation
                )));
            }
            AsOf::Generation(generation) => *generation,
            AsOf::Commit(commit) if commit.to_string() == head.commit_id => head.generation,
            AsOf::Commit(commit) => {
                let found = past()?.into_iter().find(|(_, past)| past.commit_id == *commit.0.as_bytes());
                found
                    .ok_or_else(|| gone(format!("as_of: commit {commit} is not kept, or is of another namespace")))?
                    .0
            }
            AsOf::Instant(at) if was_there(head.committed_ms, *at) || *at >= context.clock.now_millis() => {
                head.generation
            }
            AsOf::Instant(at) => {
                let found = past()?.into_iter().rfind(|(_, past)| was_there(past.committed_ms, *at));
                found.ok_or_else(|| gone("as_of: no state of that time is kept any more"))?.0
            }
        };
        read_manifest(context, nsid, generation).map_err(|error| {
            let oldest = past().ok().and_then(|past| past.first().map(|(generation, _)| *generation));
            let oldest = oldest.unwrap_or(head.generation);
            error.with_hint(format!("generations {oldest} to {} of this namespace are kept", head.generation))
        })
    }

    fn tagged(&self, namespace: &Namespace, tag: &str) -> Result<Manifest> {
        check_name(tag)?;
        let file = read_tag(&self.context, namespace.nsid, tag)?;
        let file = file.ok_or_else(|| Error::not_found(format!("there is no tag '{tag}'")))?;
        file.manifest.ok_or_else(|| Error::not_found(format!("tag '{tag}' was deleted")))
    }

    /// Whether the newest state is the answer, writes that no manifest has included. Nothing was written after now, whatever clocks showed.
    fn is_now(&self, namespace: &Namespace, as_of: &AsOf) -> bool {
        let AsOf::Instant(at) = as_of else { return false };
        let (_, hlc) = namespace.progress();
        let is_after = was_there(hlc.millis(), *at) && was_there(namespace.published().committed_ms, *at);
        is_after || *at >= self.context.clock.now_millis()
    }
}
