//! Objects that a state on its way here needs, and the incarnations that own them: nothing takes them away before it is in place.
//!
//! Invariant: an object that was found to be here after [`Expected::add`] stays until that is ended. What is let go of meanwhile goes
//! then, unless something names it by then.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::context::{Birth, Context};
use super::layout::prefix;
use super::namespace::head::reclaim;
use super::remote::keys_of;
use super::{Engine, sweep};
use crate::format::manifest::Manifest;
use crate::model::ids::{Nsid, Project};

/// How many expect each object, and whether it was let go of since.
#[derive(Debug, Default)]
pub struct Expected {
    objects: Mutex<BTreeMap<String, (usize, bool)>>,
    /// Objects that came from the bucket since the newest state of their incarnation was expected, or for that: it may not come to be.
    came: Mutex<BTreeSet<String>>,
}

impl Expected {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, (usize, bool)>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, keys: &[String]) {
        let mut objects = self.lock();
        for key in keys {
            objects.entry(key.clone()).or_default().0 += 1;
        }
    }

    /// Gives those that were let go of and that nobody expects any more.
    fn end(&self, keys: &[String]) -> Vec<String> {
        let mut objects = self.lock();
        let mut free = Vec::new();
        for key in keys {
            if let Entry::Occupied(mut entry) = objects.entry(key.clone()) {
                entry.get_mut().0 -= 1;
                if entry.get().0 == 0 && entry.remove().1 {
                    free.push(key.clone());
                }
            }
        }
        free
    }

    fn came(&self) -> MutexGuard<'_, BTreeSet<String>> {
        self.came.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what came for other states below a prefix than one that needs `keys`.
    fn outlived(&self, below: &str, keys: &BTreeSet<String>) -> Vec<String> {
        let mut came = self.came();
        let below = came.range(below.to_owned()..).take_while(|key| key.starts_with(below));
        let outlived: Vec<String> = below.filter(|key| !keys.contains(*key)).cloned().collect();
        for key in &outlived {
            came.remove(key);
        }
        outlived
    }

    /// Lets go of an object by `remove`, which runs before anybody comes to expect it; later where somebody does already.
    pub fn unless_expected<T>(&self, key: &str, remove: impl FnOnce() -> T) -> Option<T> {
        let mut objects = self.lock();
        match objects.get_mut(key) {
            Some((_, is_due)) => {
                *is_due = true;
                None
            }
            None => Some(remove()),
        }
    }
}

/// What a state needs, kept until this is dropped.
pub struct Expectation {
    context: Arc<Context>,
    keys: Vec<String>,
    _owners: Vec<Birth>,
}

impl Expectation {
    pub fn new(context: &Arc<Context>, keys: Vec<String>, owners: Vec<Birth>) -> Self {
        context.expected.add(&keys);
        Expectation { context: context.clone(), keys, _owners: owners }
    }
}

impl Engine {
    /// [`Engine::expect`] of the newest state of an incarnation: what came for earlier ones that were never taken in goes.
    pub fn expect_newest(&self, project: &Project, manifest: &Manifest) -> Expectation {
        let expected = self.expect(manifest);
        let below = format!("{}/", prefix(project, manifest.nsid));
        let outlived = self.context.expected.outlived(&below, &keys_of(manifest));
        if !outlived.is_empty() {
            reclaim(&self.context, &outlived);
        }
        expected
    }

    /// An object came from the bucket. As long as no state names it, the next pass may go on with it.
    pub fn came(&self, key: &str) {
        self.context.expected.came().insert(key.to_owned());
    }

    /// Keeps objects that a state needs, those that come in for it and those that are here, until the result is dropped.
    pub fn expect(&self, manifest: &Manifest) -> Expectation {
        let keys: Vec<String> = keys_of(manifest).into_iter().collect();
        let mut owners: Vec<Nsid> = keys.iter().filter_map(|key| sweep::parts(key)).map(|(nsid, _)| nsid).collect();
        owners.push(manifest.nsid);
        owners.sort_unstable();
        owners.dedup();
        Expectation::new(&self.context, keys, owners.into_iter().map(|nsid| self.context.birth(nsid)).collect())
    }
}

impl Drop for Expectation {
    fn drop(&mut self) {
        let free = self.context.expected.end(&self.keys);
        if !free.is_empty() {
            reclaim(&self.context, &free);
        }
    }
}
