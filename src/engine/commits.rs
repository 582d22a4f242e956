//! Who changes what the index is made from, and who needs that nobody does.
//!
//! The index is made anew while writes go on: everything is read while others commit, and what they touched meanwhile is read once more
//! while nobody does. So how long others wait does not depend on how many namespaces there are.
//!
//! Invariants:
//! - Whoever changes manifests, tags, bases of merges, marks, sealed logs or counts of an incarnation says so before, and has its turn
//!   until it is done. What came to be while nobody listed it was done before the listing began.
//! - One at a time lists what is touched.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::model::ids::Nsid;

#[derive(Debug, Default)]
pub struct Commits {
    turn: RwLock<()>,
    /// Incarnations touched since somebody began to list them.
    touched: Mutex<Option<BTreeSet<Nsid>>>,
    listing: Mutex<()>,
}

/// While it is there nobody commits.
pub type Alone<'a> = RwLockWriteGuard<'a, ()>;

/// Incarnations that are touched are listed until it is dropped.
pub struct Listing<'a> {
    commits: &'a Commits,
    _turn: MutexGuard<'a, ()>,
}

impl Commits {
    /// The turn of who changes files or counts of an incarnation, together with others.
    pub fn of(&self, nsid: Nsid) -> RwLockReadGuard<'_, ()> {
        let turn = self.together();
        self.touch(nsid);
        turn
    }

    /// The turn of who changes nothing that belongs to an incarnation.
    pub fn together(&self) -> RwLockReadGuard<'_, ()> {
        self.turn.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The turn of who needs that nobody else has one. Who changes an incarnation in it touches that.
    pub fn alone(&self) -> Alone<'_> {
        self.turn.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// An incarnation is about to change.
    pub fn touch(&self, nsid: Nsid) {
        if let Some(touched) = &mut *self.touched() {
            touched.insert(nsid);
        }
    }

    /// Begins to list what is touched, once whoever has a turn is done with it.
    pub fn list(&self) -> Listing<'_> {
        let turn = self.listing.lock().unwrap_or_else(PoisonError::into_inner);
        let _alone = self.alone();
        *self.touched() = Some(BTreeSet::new());
        Listing { commits: self, _turn: turn }
    }

    fn touched(&self) -> MutexGuard<'_, Option<BTreeSet<Nsid>>> {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'a> Listing<'a> {
    /// Gives what was touched since the listing began, while nobody commits: nothing else was.
    pub fn end(self) -> (Alone<'a>, BTreeSet<Nsid>) {
        let alone = self.commits.alone();
        let touched = self.commits.touched().take();
        (alone, touched.unwrap_or_default())
    }
}

impl Drop for Listing<'_> {
    fn drop(&mut self) {
        *self.commits.touched() = None;
    }
}
