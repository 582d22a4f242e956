//! Commits of racing nodes under every fault: each generation has one winner, who alone knows it, and nothing acknowledged is lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt};
use shoal::platform::random::{Random, SeededRandom};
use shoal::store::{Backend, COMMIT_UNKNOWN, Outcome, Patience, commit, newest};

use crate::faulty_store::{FAULTS, Fault, FaultyStore, Lie};
use crate::over;

const PATIENCE: Patience = Patience::ASKED;
const GENERATIONS: u64 = 3;

fn key_of(generation: u64) -> String {
    format!("m/{generation:020}.json")
}

/// Who was told to have won a generation.
type Claims = BTreeMap<u64, Vec<u64>>;

/// Nodes commit one generation after another, each the next after what it knows. A commit whose outcome is unknown is asked for
/// again with the same bytes, as its error says, until there is an answer; how often, comes back too.
async fn race<S: ObjectStore>(
    store: Arc<S>,
    plan: impl Fn(u64) -> Option<Fault> + Send + Sync + 'static,
    nodes: u64,
) -> (Claims, u64, u64) {
    let faulty = Arc::new(FaultyStore::new(Arc::clone(&store), plan));
    let bucket = over(Backend::direct(Arc::clone(&faulty) as Arc<dyn ObjectStore>, None, "faulty"), 7);
    let told = Arc::new(Mutex::new((Claims::new(), 0)));
    let tasks: Vec<_> = (0..nodes)
        .map(|node| {
            let (bucket, told) = (bucket.clone(), Arc::clone(&told));
            tokio::spawn(async move {
                let mut generation = 0;
                while generation < GENERATIONS {
                    let bytes = Bytes::from(format!("node {node} generation {generation}"));
                    let mine = bytes.clone();
                    let is_mine = move |found: &[u8]| Ok(found == mine);
                    match commit(&bucket, &key_of, generation, bytes, &is_mine, &PATIENCE).await {
                        Ok(Outcome::Won) => {
                            told.lock().unwrap().0.entry(generation).or_default().push(node);
                            generation += 1;
                        }
                        Ok(Outcome::Lost(found)) => {
                            assert!(
                                !found.starts_with(format!("node {node} ").as_bytes()),
                                "its own commit was lost to it"
                            );
                            assert!(found.ends_with(format!("generation {generation}").as_bytes()));
                            generation += 1;
                        }
                        Err(error) => {
                            assert_eq!(error.code(), COMMIT_UNKNOWN, "{error}");
                            told.lock().unwrap().1 += 1;
                        }
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let (claims, unknown) = std::mem::take(&mut *told.lock().unwrap());
    (claims, unknown, faulty.steps())
}

/// What the store holds is what was claimed: each generation, by its one winner.
async fn settle<S: ObjectStore>(store: &S, claims: &Claims, what: &dyn std::fmt::Debug) {
    assert_eq!(claims.len() as u64, GENERATIONS, "{what:?}: {claims:?}");
    for (generation, winners) in claims {
        assert_eq!(winners.len(), 1, "{what:?}: generation {generation} was won by {winners:?}");
        let held = store.get(&key_of(*generation).into()).await.unwrap().bytes().await.unwrap();
        assert_eq!(held, format!("node {} generation {generation}", winners[0]), "{what:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_fault_at_any_step_leaves_one_winner_who_knows_it() {
    for nodes in 1..=4 {
        for fault in FAULTS {
            for step in 0.. {
                let store = Arc::new(InMemory::new());
                let (claims, _, steps) =
                    race(Arc::clone(&store), move |at| (at == step).then_some(fault), nodes).await;
                settle(&*store, &claims, &(nodes, fault, step)).await;
                if step > steps {
                    break;
                }
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn two_faults_at_any_steps_leave_one_winner_who_knows_it() {
    for first in FAULTS {
        for second in FAULTS {
            for (a, b) in (0..6).flat_map(|a| (a + 1..7).map(move |b| (a, b))) {
                let store = Arc::new(InMemory::new());
                let plan = move |at| if at == a { Some(first) } else { (at == b).then_some(second) };
                let (claims, _, _) = race(Arc::clone(&store), plan, 2).await;
                settle(&*store, &claims, &(first, a, second, b)).await;
            }
        }
    }
}

/// A fault at every third request or so, and at every second one.
fn storm(seed: u64) -> impl Fn(u64) -> Option<Fault> + Send + Sync + 'static {
    let random = SeededRandom::new(seed);
    let chosen: Vec<Option<Fault>> = (0..200)
        .map(|_| {
            let drawn = random.next_u64();
            let sides = 2 + seed % 2;
            drawn.is_multiple_of(sides).then(|| match drawn >> 32 {
                // Times of all lengths make all orders.
                n if n % 16 < 4 => Fault::Late(Duration::from_millis(n % 997)),
                n if n % 16 < 8 => Fault::Slow(Duration::from_millis(n % 997)),
                n => FAULTS[n as usize % FAULTS.len()],
            })
        })
        .collect();
    move |at| chosen.get(at as usize).copied().flatten()
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_faults_leaves_one_winner_who_knows_it() {
    let mut unknown = 0;
    for seed in 0..2_000 {
        let store = Arc::new(InMemory::new());
        let (claims, times, _) = race(Arc::clone(&store), storm(seed), 2 + seed % 3).await;
        settle(&*store, &claims, &seed).await;
        unknown += times;
    }
    assert!(unknown > 0, "no storm was long enough to leave an outcome unknown");
}

#[tokio::test(start_paused = true)]
async fn a_storm_over_a_directory_leaves_one_winner_who_knows_it() {
    for seed in 0..60 {
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(LocalFileSystem::new_with_prefix(dir.path()).unwrap().with_fsync(true));
        let (claims, _, _) = race(Arc::clone(&store), storm(seed), 2 + seed % 3).await;
        settle(&*store, &claims, &seed).await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_fault_at_any_step_over_a_directory_leaves_one_winner_who_knows_it() {
    for nodes in 2..=4 {
        for fault in FAULTS {
            for step in 0..12 {
                let dir = tempfile::tempdir().unwrap();
                let store = Arc::new(LocalFileSystem::new_with_prefix(dir.path()).unwrap());
                let (claims, _, _) = race(Arc::clone(&store), move |at| (at == step).then_some(fault), nodes).await;
                settle(&*store, &claims, &(nodes, fault, step)).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_nobody_answers_is_unknown_at_its_deadline_and_not_before() {
    for (fault, committed) in [
        (Fault::Before(Lie::Failed), false),
        (Fault::Before(Lie::Conflict), false),
        (Fault::Silence, true),
        (Fault::After(Lie::Failed), true),
    ] {
        let store = Arc::new(InMemory::new());
        let faulty = Arc::new(FaultyStore::new(Arc::clone(&store), move |_| Some(fault)));
        let bucket = over(Backend::direct(faulty, None, "faulty"), 1);
        let start = tokio::time::Instant::now();
        let error =
            commit(&bucket, &key_of, 0, Bytes::from_static(b"x"), &|_| Ok(true), &PATIENCE).await.unwrap_err();
        let took = start.elapsed();
        assert_eq!((error.code(), error.kind()), (COMMIT_UNKNOWN, shoal::error::Kind::Unavailable), "{error}");
        assert!(took <= PATIENCE.whole && took + PATIENCE.wait_max >= PATIENCE.whole, "{fault:?}: {took:?}");
        assert_eq!(store.get(&key_of(0).into()).await.is_ok(), committed, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_newest_is_found_whatever_the_listing_leaves_out_or_fails() {
    let store = Arc::new(InMemory::new());
    for generation in 0..30 {
        store.put(&key_of(generation).into(), format!("{generation}").into()).await.unwrap();
    }
    for from in [None, Some(0), Some(12), Some(29), Some(31), Some(99)] {
        for fault in FAULTS {
            for step in 0..30 {
                let faulty = FaultyStore::new(Arc::clone(&store), move |at| (at == step).then_some(fault));
                let bucket = over(Backend::direct(Arc::new(faulty), None, "faulty"), 1);
                let found = newest(&bucket, &key_of, from, "m", &PATIENCE.within(Duration::from_secs(60))).await;
                assert_eq!(
                    found.unwrap(),
                    Some((29, Bytes::from_static(b"29"))),
                    "from {from:?}: {fault:?} at {step}"
                );
            }
        }
    }
}
