//! Closes namespaces that nobody uses, so that descriptors, maps and memory are those of a bounded number.
//!
//! Invariants:
//! - Only a namespace that nobody else has is closed: it is taken out of the map while the map is held, and whoever opens it anew
//!   waits at its door until its log is sealed. So there are never two that write the same log.
//! - What cannot be closed goes back to where it was.
//! - Whoever makes or opens a namespace while [`WAITED_TIMES`] as many are open as may be waits first until some are closed, so that is the
//!   most there are, however quickly they are asked for. Who waits has no door and no namespace yet, and is on a thread of which others
//!   are left: what closes needs none of those. What it costs to choose those does not grow with the number that is open: they are kept in an order of use.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};

use super::namespace::Namespace;
use super::{Engine, Slot};
use crate::model::ids::NamespaceName;

/// So many namespaces are closed at once at most, or flushed for that: whoever opens one waits for it, and each flush writes a
/// segment, however small.
const CLOSED_AT_ONCE: usize = 8;
/// Who makes or opens one while so many times as many are open as may be waits. Up to there a few flushes at a time follow behind: each costs more
/// than what it is for.
pub(crate) const WAITED_TIMES: usize = 4;
/// So many are closed meanwhile: the number comes down, and is not only kept.
const CLOSED_PER_OPENED: usize = 2;
/// So many threads wait at most: flushes need some, too. Beyond that a namespace is opened without.
pub(super) const WAITING_THREADS_MAX: usize = 8;
/// So often one is looked at, at most, that was flushed and is in use still.
const LOOKS_MAX: u8 = 4;
/// So long after a look another one comes, where somebody had what was flushed: not everybody says when that is let go of.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// So many are looked at, at most, for some that can be closed.
const LOOKED_AT_ONCE: usize = 64;

/// What became of a namespace that is to be closed.
enum Taken {
    /// It is out of the map.
    Out(Arc<Namespace>),
    /// It is closed once that is done.
    Flushes,
    /// It is to be flushed, and others are before.
    Waits,
    /// Somebody has it.
    Used,
    /// It cannot be flushed or closed now.
    Stays,
    /// It is not open any more, or was listed twice.
    Gone,
}

/// What came of a look for namespaces to close.
#[derive(Clone, Copy, Default)]
struct Look {
    closed: usize,
    /// They can be closed once they are flushed.
    flushing: usize,
    /// Those of them that are flushed, and that somebody has.
    used: usize,
}

/// Open namespaces by the time of a use: the last one, or an earlier one.
#[derive(Default)]
pub(super) struct ByUse(Mutex<BTreeMap<u64, Seat>>);

struct Seat {
    name: NamespaceName,
    /// How often it was looked at since a flush of it was begun, after that use: what is not idle then is not flushed for ever.
    looks: u8,
}

impl Seat {
    fn of(name: NamespaceName) -> Self {
        Seat { name, looks: 0 }
    }
}

impl ByUse {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Seat>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// Lists a namespace as open.
    pub(super) fn seat(&self, name: &NamespaceName, namespace: Arc<Namespace>) {
        namespace.touch();
        let used = namespace.last_used();
        // First: who looks for one to close lets go of the seat of one that is not open, which nobody would close then.
        self.slots().insert(name.clone(), Slot::Open(namespace));
        self.by_use.lock().insert(used, Seat::of(name.clone()));
    }

    /// Closes namespaces while more are open than the configuration says, those used longest ago first. Those that have something
    /// in memory only are flushed, and closed later.
    pub(super) fn close_idle(&self) {
        self.close_some(self.excess().min(CLOSED_AT_ONCE), false);
    }

    /// For who is about to make or open one: where very many are open it waits for flushes, for as long as a write waits for room.
    pub(super) async fn make_way(&self) {
        if self.is_crowded() {
            self.close_and_wait(CLOSED_PER_OPENED, CLOSED_PER_OPENED).await;
        }
    }

    /// The same for a name that may be open already, or bound to nothing.
    pub async fn make_way_for(&self, name: &NamespaceName) {
        if self.is_crowded() && self.slots().get(name).is_none() && self.catalog.find(name).is_some() {
            self.make_way().await;
        }
    }

    /// The same on this thread. Where no runtime is nothing is flushed, and nothing is waited for. Blocking.
    pub(super) fn make_way_here(&self) {
        if !self.is_crowded() {
            return;
        }
        let (Ok(runtime), Ok(_way)) = (Handle::try_current(), self.ways.try_acquire()) else { return };
        tokio::task::block_in_place(|| runtime.block_on(self.make_way()));
    }

    fn is_crowded(&self) -> bool {
        self.open_count() >= WAITED_TIMES * self.open_max() && !self.context.is_stopping()
    }

    fn open_max(&self) -> usize {
        self.context.config.open_namespaces_max.max(1)
    }

    /// Closes until no more are open than may be, or nothing more can be closed.
    pub(super) async fn close_all_idle(&self) {
        self.close_and_wait(self.excess(), CLOSED_AT_ONCE).await;
    }

    /// Closes so many in all, and a few at a time.
    async fn close_and_wait(&self, mut wanted: usize, at_once: usize) {
        let patience = Duration::from_millis(self.context.config.backpressure_wait_ms);
        let mut until = Instant::now() + patience;
        while wanted > 0 && self.excess() > 0 {
            // Made before the look, so that no end of a flush is missed.
            let changed = self.context.made.room.notified();
            let look = self.close_some(wanted.min(at_once), true);
            if look.closed > 0 {
                wanted -= look.closed.min(wanted);
                until = Instant::now() + patience;
                continue;
            }
            let again = if look.used > 0 { until.min(Instant::now() + LOOK_AGAIN) } else { until };
            if look.flushing == 0 || (timeout_at(again, changed).await.is_err() && again == until) {
                return;
            }
        }
    }

    /// How many more are open than may be.
    fn excess(&self) -> usize {
        if self.context.is_stopping() { 0 } else { self.open_count().saturating_sub(self.open_max()) }
    }

    /// Closes so many at most, and begins as many flushes for that at most. Who `waits` for these looks no further.
    fn close_some(&self, wanted: usize, waits: bool) -> Look {
        let (mut look, mut later) = (Look::default(), Vec::new());
        for _ in 0..LOOKED_AT_ONCE {
            if look.closed >= wanted || (waits && look.closed + look.flushing >= wanted) {
                break;
            }
            let Some((used, Seat { name, looks })) = self.least_used() else { break };
            match self.close(&name, looks == 0 && look.flushing < wanted) {
                Taken::Out(_) => look.closed += 1,
                Taken::Flushes => {
                    look.flushing += 1;
                    later.push((used, Seat { name, looks: 1 }));
                }
                // Who flushed it lets go of it in a moment.
                Taken::Used if (1..LOOKS_MAX).contains(&looks) => {
                    look.flushing += 1;
                    look.used += 1;
                    later.push((used, Seat { name, looks: looks + 1 }));
                }
                Taken::Waits if looks == 0 => later.push((used, Seat::of(name))),
                // As if it had just been used, so that the others come before it.
                Taken::Waits | Taken::Used | Taken::Stays => {
                    later.push((self.context.uses.fetch_add(1, Ordering::Relaxed), Seat::of(name)));
                }
                Taken::Gone => {}
            }
        }
        self.by_use.lock().extend(later);
        look
    }

    /// Takes the one that was used longest ago out of the order.
    fn least_used(&self) -> Option<(u64, Seat)> {
        let mut by_use = self.by_use.lock();
        loop {
            let (used, seat) = by_use.pop_first()?;
            // Each of these steps is paid for by a use.
            match self.slots().get(&seat.name) {
                Some(Slot::Open(namespace)) if namespace.last_used() > used => {
                    by_use.insert(namespace.last_used(), Seat::of(seat.name));
                }
                Some(Slot::Open(_)) => return Some((used, seat)),
                _ => {}
            }
        }
    }

    /// Closes a namespace that nobody uses, or begins to flush it where that is allowed.
    fn close(&self, name: &NamespaceName, may_flush: bool) -> Taken {
        let door = self.door(name);
        // Who is in the door uses it.
        let Ok(_door) = door.try_lock() else { return Taken::Stays };
        let taken = self.take_unused(name, may_flush);
        if let Taken::Out(namespace) = &taken
            && let Err(error) = namespace.close()
        {
            tracing::debug!(namespace = %name, %error, "it stays open");
            self.context.has_opened(namespace);
            self.slots().insert(name.clone(), Slot::Open(namespace.clone()));
            return Taken::Stays;
        }
        taken
    }

    /// Takes a namespace that nobody else has out of the map. One that has something in memory or in its log only stays, and is flushed.
    fn take_unused(&self, name: &NamespaceName, may_flush: bool) -> Taken {
        let mut slots = self.slots();
        // Nobody comes to have it by this list, either.
        let mut listed = self.context.namespaces.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Slot::Open(namespace)) = slots.get(name) else { return Taken::Gone };
        if Arc::strong_count(namespace) > 1 {
            // Who flushes it has it.
            return if namespace.is_flushing() { Taken::Flushes } else { Taken::Used };
        }
        if !namespace.is_idle() {
            let is_due = namespace.has_unflushed() && Handle::try_current().is_ok();
            if is_due && !may_flush {
                return Taken::Waits;
            }
            return if is_due && namespace.start_flush() { Taken::Flushes } else { Taken::Stays };
        }
        listed.retain(|one| !std::ptr::eq(one.as_ptr(), Arc::as_ptr(namespace)));
        match slots.remove(name) {
            Some(Slot::Open(namespace)) => Taken::Out(namespace),
            _ => Taken::Stays,
        }
    }

    /// How many namespaces are open.
    pub fn open_count(&self) -> usize {
        self.slots().open()
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::Poll;
    use std::time::Duration;

    use serde_json::json;

    use crate::engine::{Engine, EngineConfig};
    use crate::model::ids::{NamespaceName, Project};
    use crate::model::write::{Row, WriteRequest};
    use crate::platform::clock::ManualClock;
    use crate::platform::memory_disk::MemoryDisk;
    use crate::platform::random::SeededRandom;

    /// A test that waits longer than this for what is under way has failed.
    const PATIENCE: Duration = Duration::from_secs(20);

    fn name(text: &str) -> NamespaceName {
        Project::default_project().namespace(text).unwrap()
    }

    fn row() -> WriteRequest {
        WriteRequest { upserts: vec![Row { id: json!(1), fields: Vec::new() }], ..WriteRequest::default() }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn who_makes_way_closes_what_is_flushed_soon_after_somebody_silent_lets_go_of_it() {
        let config =
            EngineConfig { open_namespaces_max: 1, backpressure_wait_ms: 3_600_000, ..EngineConfig::new("/data") };
        let (clock, random) = (Arc::new(ManualClock::at(1_700_000_000_000)), Arc::new(SeededRandom::new(1)));
        let engine = Engine::open(config, Arc::new(MemoryDisk::default()), clock, random).unwrap();
        engine.rebuild_index().unwrap();
        // The first is flushed when the second is made, and that flush waits; the others are in use.
        let flushes = engine.context.flushing.acquire().await.unwrap();
        let mut used = Vec::new();
        for n in 0..super::WAITED_TIMES {
            let of_it = name(&format!("docs-{n}"));
            engine.write(&of_it, row()).await.unwrap();
            if n > 0 {
                used.push(engine.namespace(&of_it).unwrap());
            }
        }
        let more = name("more");
        let mut client = pin!(engine.write(&more, row()));
        let is_pending = poll_fn(|cx| Poll::Ready(client.as_mut().poll(cx).is_pending())).await;
        assert!(is_pending, "it waits for the flush");
        let is_first = |namespace: &Arc<_>| used.iter().all(|other| !Arc::ptr_eq(other, namespace));
        let first = engine.context.open_namespaces().into_iter().find(is_first).unwrap();
        drop(flushes);
        let is_done = async {
            while Arc::strong_count(&first) > 2 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, is_done).await.unwrap();
        let is_pending = poll_fn(|cx| Poll::Ready(client.as_mut().poll(cx).is_pending())).await;
        assert!(is_pending, "somebody has it");
        // Nobody is told of this.
        drop(first);
        tokio::time::timeout(PATIENCE, client).await.unwrap().unwrap();
        assert!(!engine.context.open_namespaces().iter().any(|namespace| namespace.name == name("docs-0")));
    }
}
