//! Keeps the objects of unresolved conflicts as few as one manifest may name: joins small ones, and lets go of the oldest where
//! nobody can be asked to resolve some first.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use super::Namespace;
use crate::engine::layout::conflicts_key;
use crate::engine::unnamed::Unnamed;
use crate::error::Result;
use crate::format::conflicts::{ConflictsFile, JOINED_BYTES_MAX, LOSERS_MAX, decode_conflicts, encode_conflicts};
use crate::format::manifest::CONFLICTS_MAX;

/// Objects are joined where a manifest would name more than this.
const JOINED_FROM: usize = CONFLICTS_MAX / 2;

/// Keys of objects, the oldest first, that fit into one manifest.
pub(super) struct Fitting {
    pub keys: Vec<String>,
    /// How many states are in none of them any more.
    pub let_go: u64,
}

impl Namespace {
    /// Makes the keys of unresolved conflicts fit into a manifest. What is joined is added to `begun`.
    pub(super) fn fit_conflicts(&self, mut keys: Vec<String>, begun: &mut Unnamed) -> Result<Fitting> {
        if keys.len() > JOINED_FROM {
            self.join_newest(&mut keys, begun)?;
        }
        let over = keys.len().saturating_sub(CONFLICTS_MAX);
        let let_go = self.states_in(&keys[..over]);
        keys.drain(..over);
        Ok(Fitting { keys, let_go })
    }

    /// Puts one object in the place of the newest ones that fit into it: every pass of two nodes that write the same documents leaves
    /// one of a few states.
    fn join_newest(&self, keys: &mut Vec<String>, begun: &mut Unnamed) -> Result<()> {
        let mut joined: Option<ConflictsFile> = None;
        let (mut from, mut bytes) = (keys.len(), 0);
        while from > 0 {
            let Some((older, len)) = self.read_conflicts(&keys[from - 1]) else { break };
            bytes += len;
            let Some(next) = join(older, joined.as_ref(), bytes) else { break };
            joined = Some(next);
            from -= 1;
        }
        let Some(joined) = joined.filter(|_| keys.len() - from > 1) else { return Ok(()) };
        let key = conflicts_key(&self.name.project, self.nsid, self.context.random.next_u64());
        begun.add(&key);
        self.context.tier.put(&key, &encode_conflicts(&joined)?)?;
        for old in keys.drain(from..) {
            begun.give_up(&old);
        }
        keys.push(key);
        Ok(())
    }

    /// An object, and its length. One that cannot be read stays as it is: who lists conflicts is told of it.
    fn read_conflicts(&self, key: &str) -> Option<(ConflictsFile, u64)> {
        let bytes = self.context.tier.read(key).ok()?;
        Some((decode_conflicts(&bytes, key).ok()?, bytes.len() as u64))
    }

    /// How many states are in objects; one that cannot be read has one.
    pub(in crate::engine) fn states_in(&self, keys: &[String]) -> u64 {
        keys.iter().map(|key| self.read_conflicts(key).map_or(1, |(file, _)| file.losers.len() as u64)).sum()
    }

    /// Remembers that states were let go of, and says so once.
    pub(in crate::engine) fn has_let_go(&self, states: u64) {
        if states == 0 {
            return;
        }
        self.context.conflicts_let_go.fetch_add(states, Ordering::Relaxed);
        if self.conflicts_let_go.fetch_add(states, Ordering::Relaxed) == 0 {
            tracing::warn!(
                namespace = %self.name,
                states,
                "more conflicts are unresolved than one namespace keeps: the oldest are let go of, its status counts them"
            );
        }
    }

    /// How many states were let go of since this was opened.
    pub(in crate::engine) fn conflicts_let_go(&self) -> u64 {
        self.conflicts_let_go.load(Ordering::Relaxed)
    }
}

/// The states of both, where they are of one kind of merge and fit into one object; of states that are in both one.
fn join(older: ConflictsFile, newer: Option<&ConflictsFile>, bytes: u64) -> Option<ConflictsFile> {
    let Some(newer) = newer else { return Some(older) };
    let is_alike = (older.source.nsid, &older.source.name, &older.policy)
        == (newer.source.nsid, &newer.source.name, &newer.policy);
    let known: BTreeSet<uuid::Uuid> = older.losers.iter().map(|loser| loser.token).collect();
    let mut losers = older.losers;
    losers.extend(newer.losers.iter().filter(|loser| !known.contains(&loser.token)).cloned());
    let fits = is_alike && losers.len() <= LOSERS_MAX && bytes <= JOINED_BYTES_MAX;
    fits.then(|| ConflictsFile { losers, ..newer.clone() })
}
