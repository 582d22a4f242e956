//! The same tests with a bucket: with `SHOAL_THROUGH_BUCKET` set, whatever a test reads of a node is sent to a bucket first, and has to
//! be what another node has that follows it. `1` stands for a bucket in memory, anything else is a bucket's configuration as JSON.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use shoal::engine::Engine;
use shoal::engine::merge::decide::Policy;
use shoal::error::Kind;
use shoal::platform::clock::ManualClock;
use shoal::platform::random::SeededRandom;
use shoal::store::{Backend, Bucket, BucketConfig, Patience};
use shoal::sync::{Selection, Sync, SyncOptions};

use super::{Node, name};

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

fn wanted() -> Option<String> {
    std::env::var("SHOAL_THROUGH_BUCKET").ok()
}

pub fn opened(engine: &Arc<Engine>, clock: &Arc<ManualClock>) {
    if wanted().is_some() {
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|(engine, _)| engine.strong_count() > 0);
        open.push((Arc::downgrade(engine), clock.clone()));
    }
}

/// A bucket of its own for the node whose clock has this address.
fn bucket(wanted: &str, followed: usize, clock: Arc<ManualClock>) -> Bucket {
    let random = Arc::new(SeededRandom::new(5));
    if wanted == "1" {
        return Bucket::over(Backend::in_memory(), clock, random);
    }
    let mut config: BucketConfig = serde_json::from_str(wanted).unwrap();
    config.url = format!("{}/{followed:x}", config.url);
    if let Some(dir) = config.url.strip_prefix("file://") {
        std::fs::create_dir(dir).unwrap();
    }
    Bucket::open(&config, clock, random).unwrap()
}

/// Brings the node and its follower together, and compares what they have of a namespace, as `read` gives it.
pub fn check<T: Debug + PartialEq>(engine: &Engine, namespace: &str, expected: &T, read: impl Fn(&Engine) -> T) {
    let Some(wanted) = wanted() else { return };
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
        let bucket = bucket(&wanted, followed, node.clock.clone());
        let follower = Arc::new(Follower { _followed: clock.clone(), bucket, engine: node.open(), node });
        let mut followers = FOLLOWERS.lock().unwrap_or_else(PoisonError::into_inner);
        followers.insert(followed, follower.clone());
        follower
    });
    tokio::task::block_in_place(|| {
        tokio::runtime::Handle::current().block_on(async {
            for (engine, clock) in [(&engine, &clock), (&follower.engine, &follower.node.clock)] {
                let options = SyncOptions { policy: Policy::Lww, patience: Patience::ASKED };
                let link = Sync::new(engine.clone(), follower.bucket.clone(), options, clock.clone());
                // Twice: who follows a deletion fetches what has the name now with the next pass.
                for _ in 0..2 {
                    let pass = link.run_for(&Selection::default()).await;
                    pass.of(&name(namespace)).unwrap();
                    // Others may be damaged on purpose.
                    let failed = pass.namespaces.values().filter_map(|done| done.as_ref().err());
                    failed.for_each(|error| assert_eq!(error.kind(), Kind::Corrupt, "{error}"));
                }
            }
        });
    });
    assert_eq!(&read(&follower.engine), expected, "{namespace}, as another node has it from the bucket");
}
