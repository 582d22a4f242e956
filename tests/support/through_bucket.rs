//! The same tests with a bucket: with `SHOAL_THROUGH_BUCKET` set, whatever a test reads of a node is sent to a bucket first, and has to
//! be what another node has that follows it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use shoal::engine::Engine;
use shoal::engine::merge::decide::Policy;
use shoal::platform::clock::ManualClock;
use shoal::platform::random::SeededRandom;
use shoal::store::{Backend, Bucket, Patience};
use shoal::sync::{Sync, SyncOptions};

use super::{Documents, Node, documents, name};

/// A node that follows another through a bucket.
struct Follower {
    /// Whose clock it is, that node is followed; kept, so that there is no other one of its address.
    _followed: Arc<ManualClock>,
    bucket: Bucket,
    node: Node,
    engine: Arc<Engine>,
}

/// Engines that are open, with their clocks.
static OPEN: Mutex<Vec<(Weak<Engine>, Arc<ManualClock>)>> = Mutex::new(Vec::new());
/// Of each node, by the address of its clock, who follows it.
static FOLLOWERS: Mutex<BTreeMap<usize, Arc<Follower>>> = Mutex::new(BTreeMap::new());

fn is_wanted() -> bool {
    std::env::var_os("SHOAL_THROUGH_BUCKET").is_some()
}

pub fn opened(engine: &Arc<Engine>, clock: &Arc<ManualClock>) {
    if is_wanted() {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(engine, _)| engine.strong_count() > 0);
        open.push((Arc::downgrade(engine), clock.clone()));
    }
}

/// Brings the node and its follower together, and compares what they have.
pub fn check(engine: &Engine, namespace: &str, expected: &Documents) {
    if !is_wanted() {
        return;
    }
    let found = OPEN.lock().unwrap_or_else(PoisonError::into_inner).iter().find_map(|(open, clock)| {
        let open = open.upgrade().filter(|open| std::ptr::eq(Arc::as_ptr(open), engine))?;
        Some((open, clock.clone()))
    });
    // One that follows is not followed itself.
    let Some((engine, clock)) = found else { return };
    let followed = Arc::as_ptr(&clock) as usize;
    let known = FOLLOWERS.lock().unwrap_or_else(PoisonError::into_inner).get(&followed).cloned();
    let follower = known.unwrap_or_else(|| {
        let node = Node::new(1_000_000);
        let random = Arc::new(SeededRandom::new(5));
        let bucket = Bucket::over(Backend::in_memory(), node.clock.clone(), random);
        let follower = Arc::new(Follower { _followed: clock.clone(), bucket, engine: node.open(), node });
        let mut followers = FOLLOWERS.lock().unwrap_or_else(PoisonError::into_inner);
        followers.insert(followed, follower.clone());
        follower
    });
    let there = tokio::task::block_in_place(|| {
        tokio::runtime::Handle::current().block_on(async {
            for (engine, clock) in [(&engine, &clock), (&follower.engine, &follower.node.clock)] {
                let options = SyncOptions { policy: Policy::Lww, patience: Patience::ASKED };
                let link = Sync::new(engine.clone(), follower.bucket.clone(), options, clock.clone());
                // Twice: who follows a deletion fetches what has the name now with the next pass.
                link.run().await.unwrap();
                link.run().await.unwrap();
            }
        });
        documents(&follower.engine.view(&name(namespace)).unwrap())
    });
    assert_eq!(&there, expected, "{namespace}, as another node has it from the bucket");
}
