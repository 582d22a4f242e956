//! Objects that a state on its way here needs, and the incarnations that own them: nothing takes them away before it is in place.
//!
//! Invariant: an object that was found to be here after [`Expected::add`] stays until that is ended. What is let go of meanwhile goes
//! then, unless something names it by then.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::context::{Birth, Context};
use super::namespace::head::reclaim;

/// How many expect each object, and whether it was let go of since.
#[derive(Debug, Default)]
pub struct Expected {
    objects: Mutex<BTreeMap<String, (usize, bool)>>,
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

impl Drop for Expectation {
    fn drop(&mut self) {
        let free = self.context.expected.end(&self.keys);
        if !free.is_empty() {
            reclaim(&self.context, &free);
        }
    }
}
