//! Which directories of a store on a disk are known to be durable.
//!
//! The crate makes every file that it writes and the directory that it is in durable, and with them the directories that it made. Where
//! one of these steps fails the next attempt finds directories and perhaps the file in place, and takes them for durable. So what came
//! after a failure is made sure of here: the directories above what is written, once in a process, and again after each failure; and
//! those above what is read after writing it failed.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use object_store::path::Path as StorePath;

/// So many directories, and so many keys, are remembered. What is forgotten of directories is made sure of once more.
const KNOWN_MAX: usize = 4_096;

#[derive(Debug, Default)]
pub(super) struct Sure(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Directories that are durable with all above them.
    dirs: BTreeSet<String>,
    /// Keys whose writing failed.
    failed: BTreeSet<String>,
}

impl Sure {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writing a key failed: what of it and above it is durable is unknown.
    pub(super) fn has_failed(&self, key: &StorePath) {
        let mut known = self.lock();
        for dir in above(key) {
            known.dirs.remove(&dir);
        }
        if known.failed.len() >= KNOWN_MAX {
            known.failed.pop_first();
        }
        known.failed.insert(key.to_string());
    }

    /// Whether what is there of a key may not be durable.
    pub(super) fn is_doubted(&self, key: &StorePath) -> bool {
        self.lock().failed.contains(key.as_ref())
    }

    /// A key is in its place below `root`: makes every directory above it durable that is not known to be. Blocking.
    pub(super) fn make_sure(&self, root: &Path, key: &StorePath) -> io::Result<()> {
        self.make_sure_by(key, |dir| std::fs::File::open(root.join(dir))?.sync_all())
    }

    fn make_sure_by(&self, key: &StorePath, sync: impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
        let unknown: Vec<String> = {
            let known = self.lock();
            above(key).filter(|dir| !known.dirs.contains(dir)).collect()
        };
        // From the outermost on: one that is there is so with all above it.
        for dir in unknown.iter().rev() {
            match sync(&PathBuf::from(dir)) {
                // It was not made, and so the key is not there.
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                synced => synced?,
            }
        }
        let mut known = self.lock();
        known.failed.remove(key.as_ref());
        if known.dirs.len() + unknown.len() > KNOWN_MAX {
            known.dirs.clear();
        }
        known.dirs.extend(unknown);
        Ok(())
    }
}

/// The directories above a key, the one that it is in first, the store's own last.
fn above(key: &StorePath) -> impl Iterator<Item = String> + use<> {
    let parts: Vec<String> = key.parts().map(|part| part.as_ref().to_owned()).collect();
    (0..parts.len()).rev().map(move |count| parts[..count].join("/"))
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io;

    use object_store::path::Path as StorePath;

    use super::Sure;

    #[test]
    fn directories_are_made_sure_of_once_and_again_after_a_failure() {
        let (sure, synced) = (Sure::default(), RefCell::new(Vec::new()));
        let key = |key: &str| StorePath::parse(key).unwrap();
        let make_sure = |of: &str| {
            let sync = |dir: &std::path::Path| {
                synced.borrow_mut().push(dir.display().to_string());
                Ok(())
            };
            sure.make_sure_by(&key(of), sync).unwrap();
            std::mem::take(&mut *synced.borrow_mut())
        };
        assert_eq!(make_sure("a/b/1"), ["", "a", "a/b"]);
        assert_eq!(make_sure("a/b/2"), [""; 0]);
        assert_eq!(make_sure("a/c/1"), ["a/c"]);
        // Another key below the same directories makes sure of them, too.
        sure.has_failed(&key("a/c/d/2"));
        assert!(sure.is_doubted(&key("a/c/d/2")) && !sure.is_doubted(&key("a/c/1")));
        assert_eq!(make_sure("a/c/3"), ["", "a", "a/c"]);
        assert!(sure.is_doubted(&key("a/c/d/2")));
        assert_eq!(make_sure("a/c/d/2"), ["a/c/d"]);
        assert!(!sure.is_doubted(&key("a/c/d/2")));
    }

    #[test]
    fn what_cannot_be_made_sure_of_stays_in_doubt() {
        let (sure, key) = (Sure::default(), StorePath::parse("a/1").unwrap());
        sure.has_failed(&key);
        let fails = |_: &std::path::Path| Err(io::Error::other("injected"));
        assert!(sure.make_sure_by(&key, fails).is_err() && sure.is_doubted(&key));
        let synced = RefCell::new(0);
        let counts = |_: &std::path::Path| {
            *synced.borrow_mut() += 1;
            Ok(())
        };
        let is_absent = |_: &std::path::Path| Err(io::ErrorKind::NotFound.into());
        sure.make_sure_by(&key, is_absent).unwrap();
        assert!(sure.is_doubted(&key));
        sure.make_sure_by(&key, counts).unwrap();
        assert_eq!((synced.into_inner(), sure.is_doubted(&key)), (2, false));
    }
}
