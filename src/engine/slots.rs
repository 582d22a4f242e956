//! Which namespaces are open, or set apart; how many are open is counted as they come and go, as every opening asks for it.

use std::collections::HashMap;
use std::sync::Arc;

use super::namespace::Namespace;
use crate::error::{Error, Result};
use crate::model::ids::NamespaceName;

/// What became of the opening of a namespace.
#[derive(Clone)]
pub(super) enum Slot {
    Open(Arc<Namespace>),
    /// Its files are damaged; the others are served.
    Quarantined(Arc<Error>),
}

impl Slot {
    pub(super) fn namespace(&self) -> Result<Arc<Namespace>> {
        match self {
            Slot::Open(namespace) => Ok(namespace.clone()),
            Slot::Quarantined(error) => Err(error.duplicate()),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        matches!(self, Slot::Open(_))
    }
}

/// A slot for each namespace that was opened and not closed since.
#[derive(Default)]
pub(super) struct Slots {
    by_name: HashMap<NamespaceName, Slot>,
    open: usize,
}

impl Slots {
    pub(super) fn get(&self, name: &NamespaceName) -> Option<&Slot> {
        self.by_name.get(name)
    }

    pub(super) fn has_open(&self, name: &NamespaceName) -> bool {
        self.get(name).is_some_and(Slot::is_open)
    }

    pub(super) fn all(&self) -> impl Iterator<Item = (&NamespaceName, &Slot)> {
        self.by_name.iter()
    }

    /// How many are open.
    pub(super) fn open(&self) -> usize {
        self.open
    }

    pub(super) fn insert(&mut self, name: NamespaceName, slot: Slot) {
        self.open += usize::from(slot.is_open());
        let before = self.by_name.insert(name, slot);
        self.open -= usize::from(before.is_some_and(|before| before.is_open()));
    }

    pub(super) fn remove(&mut self, name: &NamespaceName) -> Option<Slot> {
        let slot = self.by_name.remove(name)?;
        self.open -= usize::from(slot.is_open());
        Some(slot)
    }

    /// Forgets of those that are set apart the ones that are `meant`.
    pub(super) fn forget_quarantined(&mut self, meant: impl Fn(&NamespaceName) -> bool) {
        self.by_name.retain(|name, slot| slot.is_open() || !meant(name));
    }

    /// A namespace that was set apart since it was opened is as one that could not be.
    pub(super) fn follow(&mut self, name: &NamespaceName) {
        let Some(Slot::Open(namespace)) = self.by_name.get(name) else { return };
        let Some(error) = namespace.apart().cloned() else { return };
        namespace.give_up();
        self.insert(name.clone(), Slot::Quarantined(error));
    }

    /// The same of all.
    pub(super) fn follow_all(&mut self) {
        let is_apart = |slot: &Slot| matches!(slot, Slot::Open(namespace) if namespace.apart().is_some());
        let apart: Vec<_> = self.all().filter(|(_, slot)| is_apart(slot)).map(|(name, _)| name.clone()).collect();
        apart.iter().for_each(|name| self.follow(name));
    }
}
