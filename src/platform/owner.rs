//! Has root act as the user whose directory it works on: what it makes there belongs to that user, who must be able to read it.
//!
//! - Only effective ids change, of all threads, and come back when the work is done: what root was to read or write elsewhere is opened
//!   before, or put in its place afterwards.
//! - A directory of which the owner cannot reach the path (systemd keeps those of services without a user of their own below one that is
//!   root's) is entered first, and is `.` meanwhile.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Uid, getegid, geteuid, setegid, seteuid};

use crate::error::{Context as _, Error, Result};

/// As long as this is there, the process acts as the owner of a directory.
#[derive(Debug)]
pub struct AsOwner {
    /// The group that root had.
    group: Gid,
    /// Where root was, if the directory had to be entered.
    left: Option<PathBuf>,
}

impl AsOwner {
    /// Acts as the owner of `dir` where this is root and that is somebody else: who made the file `made` in it, or the directory
    /// where there is none. Gives the path by which the directory is reached meanwhile.
    pub fn of(dir: &Path, made: &str) -> Result<(PathBuf, Option<Self>)> {
        let step = || format!("act as the owner of {}", dir.display());
        let owner = std::fs::metadata(dir.join(made)).or_else(|_| std::fs::metadata(dir)).context(step)?;
        if !geteuid().is_root() || owner.uid() == 0 {
            return Ok((dir.to_owned(), None));
        }
        let (user, group) = (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid()));
        let refused = |errno: nix::Error| {
            Error::from(io::Error::from(errno)).context(format!("{}, user {user}", step())).with_hint(
                "what root makes there its owner could not read, and root may not act as that user: run this as that user",
            )
        };
        let mut root = AsOwner { group: getegid(), left: None };
        become_user(user, group).map_err(refused)?;
        if std::fs::read_dir(dir).is_ok() {
            return Ok((dir.to_owned(), Some(root)));
        }
        root.be_root();
        let was_at = std::env::current_dir().context(step)?;
        std::env::set_current_dir(dir).context(step)?;
        root.left = Some(was_at);
        become_user(user, group).map_err(refused)?;
        Ok((PathBuf::from("."), Some(root)))
    }

    fn be_root(&self) {
        // The process was root when it began, and may be again.
        if let Err(error) = seteuid(Uid::from_raw(0)).and_then(|()| setegid(self.group)) {
            tracing::error!(%error, "root's own ids do not come back");
        }
    }
}

impl Drop for AsOwner {
    fn drop(&mut self) {
        self.be_root();
        if let Some(left) = &self.left
            && let Err(error) = std::env::set_current_dir(left)
        {
            tracing::error!(%error, "the directory that this began in is not there any more");
        }
    }
}

/// The group first: only root may change it.
fn become_user(user: Uid, group: Gid) -> nix::Result<()> {
    setegid(group).and_then(|()| seteuid(user))
}
