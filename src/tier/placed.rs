//! New objects that are durable together, before anybody names one: barriers that wait at the same time take little longer than one.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::Tier;
use crate::error::{Context, Error, Result};
use crate::platform::disk::DiskFile;

/// So many barriers are waited for at once.
const BARRIERS_AT_ONCE: usize = 8;

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
        let threads = barriers.len().min(BARRIERS_AT_ONCE);
        let left = Mutex::new(barriers);
        let next = || left.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let wait = || -> Result<()> {
            while let Some((path, barrier)) = next() {
                barrier().context(|| format!("make {} durable", path.display()))?;
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            // Where no thread is to be had, those that there are do more.
            let begin = |_| std::thread::Builder::new().spawn_scoped(scope, wait).ok();
            let others: Vec<_> = (1..threads).map_while(begin).collect();
            let own = wait();
            let panicked = |_| Err(Error::internal("a thread that waited for a barrier panicked"));
            others.into_iter().fold(own, |before, thread| before.and(thread.join().unwrap_or_else(panicked)))
        })
    }
}
