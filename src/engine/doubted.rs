//! Manifests whose commit failed and that may be in place all the same: the disk neither made them durable nor let go of them.
//!
//! Invariants:
//! - While one of them is in doubt, its namespace goes by the manifest before it, and the next start may go by either. So nothing goes
//!   that one of the two needs: not by retention, by a sweep, or by references that are counted anew.
//! - Who reads a namespace's newest manifest from its files, to go by it from then on, makes sure of it first.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::context::Context;
use crate::error::{Context as _, Result};
use crate::model::ids::Nsid;
use crate::platform::disk::unpublish;

/// The manifests in doubt, by incarnation.
#[derive(Debug, Default)]
pub struct Doubted(Mutex<BTreeMap<Nsid, Attempt>>);

#[derive(Debug)]
struct Attempt {
    path: PathBuf,
    /// What it names and the manifest before it does not.
    objects: Vec<String>,
}

impl Doubted {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Nsid, Attempt>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on it is unknown which of two manifests the next start goes by.
    pub fn add(&self, nsid: Nsid, path: PathBuf, objects: Vec<String>) {
        self.lock().insert(nsid, Attempt { path, objects });
    }

    /// The incarnation is gone, or its files were made sure of.
    pub fn forget(&self, nsid: Nsid) {
        self.lock().remove(&nsid);
    }

    /// The incarnations of which nothing may go.
    pub fn all(&self) -> BTreeSet<Nsid> {
        self.lock().keys().copied().collect()
    }

    /// What they may hold besides what their files say.
    pub fn objects(&self) -> Vec<String> {
        self.lock().values().flat_map(|attempt| attempt.objects.iter().cloned()).collect()
    }
}

impl Context {
    /// Takes back the manifest of an incarnation that is in doubt, if one is: it is not there then, and no crash brings it back. The
    /// caller has a turn of [`Context::commits`].
    pub fn settle_manifest(&self, nsid: Nsid) -> Result<()> {
        let mut doubted = self.doubted.lock();
        let Some(attempt) = doubted.get(&nsid) else { return Ok(()) };
        match unpublish(&*self.disk, &attempt.path) {
            // With all that the incarnation had.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            taken_back => taken_back.context(|| format!("take back manifest {}", attempt.path.display()))?,
        }
        doubted.remove(&nsid);
        self.meta.overcount("a manifest that had failed was there, and is not any more");
        // Who counted anew meanwhile took it for the newest.
        self.meta.settle(nsid, None, &[]).map(drop)
    }

    /// The same of all of them: the first error is given when all had their turn.
    pub fn settle_manifests(&self) -> Result<()> {
        let all = self.doubted.all();
        let settle = |nsid| {
            let _commits = self.commits.of(nsid);
            self.settle_manifest(nsid)
        };
        all.into_iter().map(settle).fold(Ok(()), Result::and)
    }

    /// For who is about to go by the newest manifest in the files: whether the one in doubt is there does not change any more.
    pub fn go_by_files(&self, nsid: Nsid) -> Result<()> {
        if !self.doubted.lock().contains_key(&nsid) {
            return Ok(());
        }
        let _commits = self.commits.of(nsid);
        let mut doubted = self.doubted.lock();
        let dir = self.layout.manifests(nsid);
        self.disk.sync_dir(&dir).context(|| format!("sync {}", dir.display()))?;
        doubted.remove(&nsid);
        self.meta.overcount("a manifest that had failed is gone by after all");
        Ok(())
    }
}
