//! The last room of a disk: kept for what frees some, so that a full disk never refuses what would make it less full.
//!
//! Three things are let go in turn:
//! - what [`Context::check_space`] leaves free: nothing new is begun that would take of it. What frees room at once may take all of it, what
//!   frees some later (deleted rows, a time to live) leaves [`LAST_BYTES`] to that;
//! - the reserve, for where others took that too: files that are there for their room only. They are made again when there is much more
//!   room than they take, so that they never take the room of a disk that is full;
//! - the index's file, where there is no reserve (yet): the index goes on in memory until the disk has room for it.
//!
//! What is deleted while the disk is full is deleted for its room: then deleted namespaces of its project go for good, the oldest first,
//! until there is as much as what waits takes.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::context::Context;
use super::setbacks::{COMMIT_BYTES, COMMIT_FILES};
use crate::error::{DISK_FULL, Error, Result};
use crate::model::ids::Project;
use crate::platform::disk::{create_dirs, take_away};
use crate::platform::random::{Random, SeededRandom};

/// The reserve: as many files as a commit may make, with the bytes that one may take.
const FILES: u64 = COMMIT_FILES;
const FILE_BYTES: usize = 64 << 10;
const RESERVE_BYTES: u64 = FILES * FILE_BYTES as u64;
/// Who frees room later leaves so much to who does at once.
const LAST_BYTES: u64 = COMMIT_BYTES / 2;
const LAST_FILES: u64 = COMMIT_FILES / 2;
/// What one deletion may take.
const STEP_BYTES: u64 = 64 << 10;
const STEP_FILES: u64 = 4;

/// What is known of the reserve.
#[derive(Default)]
pub struct Reserve {
    /// How many of its files are there; `None` while nobody looked since the start.
    files: Mutex<Option<u64>>,
    /// Projects in which something was deleted while the disk was full, which has not had its room yet.
    wanted_by: Mutex<BTreeSet<Project>>,
}

impl Reserve {
    fn files(&self) -> MutexGuard<'_, Option<u64>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wanted_by(&self) -> MutexGuard<'_, BTreeSet<Project>> {
        self.wanted_by.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it has of the disk.
    pub fn bytes(&self) -> u64 {
        self.files().unwrap_or_default() * FILE_BYTES as u64
    }

    fn is_whole(&self) -> bool {
        *self.files() == Some(FILES)
    }
}

impl Context {
    fn has(&self, bytes: u64, files: u64) -> bool {
        self.free_bytes().is_none_or(|free| free >= bytes) && self.free_files().is_none_or(|free| free >= files)
    }

    /// Does what frees room at once. On a full disk it has the room of the reserve, of which it takes no more than it needs, or of the index.
    pub fn freeing<T>(&self, work: impl Fn() -> Result<T>) -> Result<T> {
        if !self.let_reserve_go_until(STEP_BYTES, STEP_FILES) {
            self.let_index_go();
        }
        loop {
            match work() {
                // A quota may be used up where the disk is not, and others may take what was let go.
                Err(error) if error.code() == DISK_FULL && (self.let_one_go() || self.let_index_go()) => {}
                done => return done,
            }
        }
    }

    /// Fails where what frees room later would take the last of what frees some at once. The reserve goes first.
    pub fn check_last_room(&self, what: impl FnOnce() -> String) -> Result<()> {
        if self.let_reserve_go_until(LAST_BYTES, LAST_FILES) {
            return Ok(());
        }
        Err(Error::unavailable(format!(
            "no room for {}: it frees some later only, and the last {LAST_BYTES} bytes and {LAST_FILES} inodes are for what does at once",
            what()
        ))
        .with_code(DISK_FULL)
        .with_hint("delete namespaces or tags first, or free space on the data directory's file system"))
    }

    /// Lets files of the reserve go until so much is free; whether it is.
    fn let_reserve_go_until(&self, bytes: u64, files: u64) -> bool {
        while !self.has(bytes, files) {
            if !self.let_one_go() {
                return false;
            }
        }
        true
    }

    /// Lets a file of the reserve go; whether there was one.
    fn let_one_go(&self) -> bool {
        let mut files = self.reserve.files();
        if *files == Some(0) {
            return false;
        }
        let dir = self.layout.reserve();
        let mut left = self.disk.names(&dir).unwrap_or_default();
        let gone = left.pop().is_some_and(|name| self.disk.remove(&dir.join(name)).is_ok());
        *files = Some(if gone { left.len() as u64 } else { 0 });
        if gone {
            // Some file systems give the room to others not before that.
            let _ = self.disk.sync_dir(&dir);
            let error = Error::unavailable(format!("{} files of {} are left", left.len(), dir.display()));
            self.say_now_and_then("the disk is full, the reserve is let go for what frees room", &error);
        }
        gone
    }

    fn remove_reserve(&self) {
        let dir = self.layout.reserve();
        for name in self.disk.names(&dir).unwrap_or_default() {
            // It is in the way of nothing, and made anew.
            let _ = self.disk.remove(&dir.join(name));
        }
    }

    fn let_index_go(&self) -> bool {
        match self.meta.give_way() {
            Ok(has_gone) => {
                if has_gone {
                    tracing::warn!("the disk is full, the index is kept in memory until there is room for it");
                }
                has_gone
            }
            Err(error) => {
                self.say_index_fails(&error);
                false
            }
        }
    }

    /// So many bytes are to be free, for what found the disk full of a project, or of all, and for the reserve where that is not there.
    fn wanted_bytes(&self, project: Option<&Project>, has_reserve: bool) -> u64 {
        let reserve = if has_reserve { 0 } else { RESERVE_BYTES + COMMIT_BYTES };
        let waits = match project {
            Some(project) => self.setbacks.waits_for_bytes_of(project, self.clock.now_millis()),
            None => self.setbacks.waits_for_bytes(),
        };
        let waits = waits.unwrap_or(0);
        waits.saturating_add(COMMIT_BYTES).saturating_add(reserve)
    }

    fn wanted_files(has_reserve: bool) -> u64 {
        if has_reserve { COMMIT_FILES } else { FILES + 2 * COMMIT_FILES }
    }

    /// Makes the reserve where it is not there and the disk has room for it and for everything that waits.
    pub fn make_reserve(&self) {
        let mut files = self.reserve.files();
        if files.is_none() {
            *files = Some(self.reserve_files());
        }
        if *files == Some(FILES) || !self.has(self.wanted_bytes(None, false), Self::wanted_files(false)) {
            return;
        }
        match self.fill_reserve() {
            Ok(()) => *files = Some(FILES),
            Err(error) => {
                self.remove_reserve();
                *files = Some(0);
                self.say_now_and_then("no reserve is made for a full disk, it is tried again", &error.into());
            }
        }
    }

    /// How many files of it are there; all only where none lacks a byte.
    fn reserve_files(&self) -> u64 {
        let there = self.disk.list(&self.layout.reserve()).unwrap_or_default();
        let is_whole = there.len() as u64 == FILES && there.iter().all(|file| file.len == FILE_BYTES as u64);
        if is_whole { FILES } else { (there.len() as u64).min(FILES - 1) }
    }

    fn fill_reserve(&self) -> std::io::Result<()> {
        let dir = self.layout.reserve();
        create_dirs(&*self.disk, &dir)?;
        for number in 0..FILES {
            let path = dir.join(format!("{number:02}"));
            take_away(&*self.disk, &path)?;
            let mut file = self.disk.create(&path)?;
            file.write(&filling(number))?;
            file.sync()?;
        }
        self.disk.sync_dir(&dir)
    }

    /// Remembers that something of a project was deleted, where the disk is full, or too full for something of that project.
    pub fn note_deletion(&self, project: &Project) {
        if self.setbacks.waits_for_bytes_of(project, self.clock.now_millis()).is_some()
            || !self.has(COMMIT_BYTES, COMMIT_FILES)
        {
            self.reserve.wanted_by().insert(project.clone());
        }
    }

    /// Whether something was deleted for its room.
    pub fn is_room_wanted(&self) -> bool {
        !self.reserve.wanted_by().is_empty()
    }

    /// The projects in which something was deleted on a full disk, and that have not enough room yet.
    pub fn room_wanted_by(&self) -> BTreeSet<Project> {
        let has_reserve = self.reserve.is_whole();
        let wants = |project: &Project| {
            !self.has(self.wanted_bytes(Some(project), has_reserve), Self::wanted_files(has_reserve))
        };
        let mut wanted_by = self.reserve.wanted_by();
        wanted_by.retain(wants);
        wanted_by.clone()
    }
}

/// What is in a file of the reserve: nothing that a file system could pack, or leave out as it does zeros.
fn filling(number: u64) -> Vec<u8> {
    let random = SeededRandom::new(number << 32);
    (0..FILE_BYTES / 8).flat_map(|_| random.next_u64().to_le_bytes()).collect()
}
