//! Manifests and revisions of tags whose writing failed and that may be in place all the same: the disk neither made them durable nor
//! let go of them.
//!
//! Invariants:
//! - While a manifest is in doubt, its namespace goes by the one before it, and the next start may go by either. Tags are read from
//!   their files, and the next start may find the revision before. So nothing goes that one of the two needs: not by retention, by a
//!   sweep, or by references that are counted anew.
//! - Who reads a namespace's newest manifest from its files, to go by it from then on, makes sure of it first.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::context::Context;
use crate::error::{Context as _, Result};
use crate::model::ids::Nsid;
use crate::platform::disk::unpublish;

/// What is in doubt, by path.
#[derive(Debug, Default)]
pub struct Doubted(Mutex<BTreeMap<PathBuf, Attempt>>);

#[derive(Debug)]
struct Attempt {
    nsid: Nsid,
    of: Of,
    /// What the file may name, or the one before it, and the other does not.
    objects: Vec<String>,
}

/// What a file in doubt is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    /// Nobody goes by it: it is taken back.
    Manifest,
    /// Whoever reads it goes by it: it is made sure of.
    Tag,
}

impl Doubted {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<PathBuf, Attempt>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on it is unknown what the next start finds of a file of an incarnation.
    pub fn add(&self, (nsid, of): (Nsid, Of), path: PathBuf, objects: Vec<String>) {
        self.lock().insert(path, Attempt { nsid, of, objects });
    }

    /// The incarnation is gone.
    pub fn forget(&self, nsid: Nsid) {
        self.lock().retain(|_, attempt| attempt.nsid != nsid);
    }

    pub fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    /// The incarnations of which nothing may go.
    pub fn all(&self) -> BTreeSet<Nsid> {
        self.lock().values().map(|attempt| attempt.nsid).collect()
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
        self.settle_those(|attempt| attempt.nsid == nsid && attempt.of == Of::Manifest)
    }

    /// Ends all doubts that can be ended: the first error is given when all had their turn.
    pub fn settle_files(&self) -> Result<()> {
        let settle = |nsid| {
            let _commits = self.commits.of(nsid);
            self.settle_those(|attempt| attempt.nsid == nsid)
        };
        self.doubted.all().into_iter().map(settle).fold(Ok(()), Result::and)
    }

    fn settle_those(&self, are_meant: impl Fn(&Attempt) -> bool) -> Result<()> {
        let (mut doubted, mut done) = (self.doubted.lock(), Ok(()));
        doubted.retain(|path, attempt| {
            let settled = if are_meant(attempt) { self.settle_one(path, attempt) } else { return true };
            let is_left = settled.is_err();
            done = std::mem::replace(&mut done, Ok(())).and(settled);
            is_left
        });
        done
    }

    fn settle_one(&self, path: &Path, attempt: &Attempt) -> Result<()> {
        let dir = path.parent().unwrap_or(path);
        let settled = match attempt.of {
            Of::Manifest => unpublish(&*self.disk, path),
            Of::Tag => self.disk.sync_dir(dir),
        };
        match settled {
            // With all that the incarnation had.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            settled => settled.context(|| format!("make sure of {}, whose writing failed", path.display()))?,
        }
        self.meta.overcount("a file whose writing had failed is made sure of");
        if attempt.of == Of::Manifest {
            // Who counted anew meanwhile took it for the newest.
            self.meta.settle(attempt.nsid, None, &[])?;
        }
        Ok(())
    }

    /// For who is about to go by the newest manifest in the files: whether the one in doubt is there does not change any more.
    pub fn go_by_files(&self, nsid: Nsid) -> Result<()> {
        if !self.doubted.all().contains(&nsid) {
            return Ok(());
        }
        let _commits = self.commits.of(nsid);
        let mut doubted = self.doubted.lock();
        let dir = self.layout.manifests(nsid);
        self.disk.sync_dir(&dir).context(|| format!("sync {}", dir.display()))?;
        doubted.retain(|_, attempt| attempt.nsid != nsid || attempt.of != Of::Manifest);
        self.meta.overcount("a manifest whose commit had failed is gone by");
        Ok(())
    }

    /// The same for who has made sure of the manifests of an incarnation.
    pub fn has_made_sure(&self, nsid: Nsid) {
        self.doubted.lock().retain(|_, attempt| attempt.nsid != nsid || attempt.of != Of::Manifest);
    }
}
