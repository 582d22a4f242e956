//! New objects that are durable together, before anybody names one.
//!
//! Where a barrier takes long, as on flash, those that wait at the same time take little longer than one. Where it takes less than waking
//! a thread, one after another is quicker. How long the last ones took decides.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Tier;
use crate::error::{Context, Error, Result};
use crate::platform::disk::DiskFile;

/// So many barriers are waited for at once.
const BARRIERS_AT_ONCE: usize = 8;

/// From this on a barrier is worth a thread that waits for it: several times what it takes to begin a thread and to be woken by it.
const WORTH_A_THREAD: Duration = Duration::from_millis(1);

/// How long the slowest of the barriers took that were waited for last.
#[derive(Debug)]
pub struct Barriers(AtomicU64);

impl Default for Barriers {
    /// Nothing is known: as if they were slow.
    fn default() -> Self {
        Barriers(AtomicU64::new(u64::MAX))
    }
}

impl Barriers {
    /// Whether they are worth threads of their own.
    pub fn are_slow(&self) -> bool {
        u128::from(self.0.load(Ordering::Relaxed)) >= WORTH_A_THREAD.as_nanos()
    }

    fn took(&self, slowest: Duration) {
        self.0.store(u64::try_from(slowest.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// An object under its key that a power cut may take away, all of it or a part: nobody may name it before [`Tier::settle`].
pub struct Placed {
    pub(super) file: Box<dyn DiskFile>,
    pub(super) path: PathBuf,
}

type Barrier<'a> = Box<dyn FnOnce() -> io::Result<()> + Send + 'a>;

impl Tier {
    /// Makes objects durable under their keys. After an error none of them may be named.
    pub fn settle(&self, placed: Vec<Placed>) -> Result<()> {
        let dirs: BTreeSet<PathBuf> =
            placed.iter().filter_map(|object| Some(object.path.parent()?.to_owned())).collect();
        let mut barriers: Vec<(PathBuf, Barrier<'_>)> = Vec::new();
        for dir in dirs {
            barriers.push((dir.clone(), Box::new(move || self.disk.sync_dir(&dir))));
        }
        for Placed { mut file, path } in placed {
            barriers.push((path, Box::new(move || file.sync())));
        }
        if barriers.is_empty() {
            return Ok(());
        }
        let threads = if self.barriers.are_slow() { barriers.len().min(BARRIERS_AT_ONCE) } else { 1 };
        let left = Mutex::new(barriers);
        let slowest = AtomicU64::new(0);
        let next = || left.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let wait = || -> Result<()> {
            while let Some((path, barrier)) = next() {
                let began = Instant::now();
                barrier().context(|| format!("make {} durable", path.display()))?;
                slowest.fetch_max(u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
            Ok(())
        };
        let settled = std::thread::scope(|scope| {
            // Where no thread is to be had, those that there are do more.
            let begin = |_| std::thread::Builder::new().spawn_scoped(scope, wait).ok();
            let others: Vec<_> = (1..threads).map_while(begin).collect();
            let own = wait();
            let panicked = |_| Err(Error::internal("a thread that waited for a barrier panicked"));
            others.into_iter().fold(own, |before, thread| before.and(thread.join().unwrap_or_else(panicked)))
        });
        self.barriers.took(Duration::from_nanos(slowest.into_inner()));
        settled
    }
}
