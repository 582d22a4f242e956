//! Closes namespaces that nobody uses, so that descriptors, maps and memory are those of a bounded number.
//!
//! Invariants:
//! - Only a namespace that nobody else has is closed: it is taken out of the map while the map is held, and whoever opens it anew
//!   waits at its door until its log is sealed. So there are never two that write the same log.
//! - What cannot be closed goes back to where it was.

use std::sync::{Arc, PoisonError};

use super::namespace::Namespace;
use super::{Engine, Slot};
use crate::model::ids::NamespaceName;

/// So many namespaces are closed at once at most, or flushed for that: whoever opens one waits for it, and each flush writes a
/// segment, however small.
const CLOSED_AT_ONCE: usize = 8;

/// What became of a namespace that is to be closed.
enum Taken {
    /// It is out of the map.
    Out(Arc<Namespace>),
    /// It is closed the next time.
    Flushes,
    /// It is used, or cannot be flushed now.
    Stays,
}

impl Engine {
    /// Closes namespaces while more are open than the configuration says, those used longest ago first. Those that have something
    /// in memory only are flushed, and closed the next time.
    pub(super) fn close_idle(&self) {
        let max = self.context.config.open_namespaces_max.max(1);
        let mut open: Vec<(u64, NamespaceName)> = {
            let slots = self.slots();
            if slots.len() <= max {
                return;
            }
            let used = |(name, slot): (&NamespaceName, &Slot)| match slot {
                Slot::Open(namespace) => Some((namespace.last_used(), name.clone())),
                Slot::Quarantined(_) => None,
            };
            slots.iter().filter_map(used).collect()
        };
        let excess = open.len().saturating_sub(max).min(CLOSED_AT_ONCE);
        if excess == 0 || self.context.is_stopping() {
            return;
        }
        open.sort_unstable();
        let mut begun = 0;
        for (_, name) in open {
            begun += usize::from(self.close(&name));
            if begun == excess {
                break;
            }
        }
    }

    /// Closes a namespace that nobody uses, or begins to flush it; whether it did either.
    fn close(&self, name: &NamespaceName) -> bool {
        let door = self.door(name);
        // Who is in the door uses it.
        let Ok(_door) = door.try_lock() else { return false };
        let namespace = match self.take_unused(name) {
            Taken::Out(namespace) => namespace,
            Taken::Flushes => return true,
            Taken::Stays => return false,
        };
        if let Err(error) = namespace.close() {
            tracing::debug!(namespace = %name, %error, "it stays open");
            self.context.has_opened(&namespace);
            self.slots().insert(name.clone(), Slot::Open(namespace));
            return false;
        }
        true
    }

    /// Takes a namespace that nobody else has out of the map. One that has something in memory or in its log only stays, and is flushed.
    fn take_unused(&self, name: &NamespaceName) -> Taken {
        let mut slots = self.slots();
        // Nobody comes to have it by this list, either.
        let mut listed = self.context.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Slot::Open(namespace)) = slots.get(name) else { return Taken::Stays };
        if Arc::strong_count(namespace) > 1 {
            // Who flushes it has it.
            return if namespace.is_flushing() { Taken::Flushes } else { Taken::Stays };
        }
        if !namespace.is_idle() {
            let may_flush = namespace.has_unflushed() && tokio::runtime::Handle::try_current().is_ok();
            return if may_flush && namespace.start_flush() { Taken::Flushes } else { Taken::Stays };
        }
        listed.retain(|one| !std::ptr::eq(one.as_ptr(), Arc::as_ptr(namespace)));
        match slots.remove(name) {
            Some(Slot::Open(namespace)) => Taken::Out(namespace),
            _ => Taken::Stays,
        }
    }

    /// How many namespaces are open.
    pub fn open_count(&self) -> usize {
        self.slots().values().filter(|slot| matches!(slot, Slot::Open(_))).count()
    }
}
