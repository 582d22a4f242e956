//! Work that failed and is tried again: when, for how much room it waits, and what operators are told meanwhile.
//!
//! Invariants:
//! - After each failure in a row the next try waits twice as long, from [`WAIT_MIN_MS`] up to [`WAIT_MAX_MS`].
//! - Work that failed for want of room on the disk is tried again only when the disk has the room that it needs: then at once.
//! - A failure is logged at most once in [`SAID_EVERY_MS`] for each code of a warning, and so is each line about the index.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::context::Context;
use super::{Engine, refused::RefusedWrites};
use crate::error::{DISK_FORBIDDEN, DISK_FULL, DISK_READ_ONLY, Error, OUT_OF_MEMORY, Result};
use crate::format::names::parse_name;
use crate::meta::tables::Kin;
use crate::model::ids::{Nsid, Project};

/// How long work waits after its first failure.
pub const WAIT_MIN_MS: u64 = 1_000;
/// How long it waits at most.
pub const WAIT_MAX_MS: u64 = 60_000;
/// A line in the log at most every so often, for each code.
pub const SAID_EVERY_MS: u64 = 60_000;
/// What building a segment leaves free, for the manifest that names it, the index and the log.
pub const COMMIT_BYTES: u64 = 1 << 20;
/// Room that a write needs beside its bytes: a log begins with a header, and files take whole blocks.
const WRITE_BYTES: u64 = 64 << 10;
/// Files that a commit may make: objects, a log, a manifest and their directories. Where fewer may be made, files are what is missing.
pub const COMMIT_FILES: u64 = 16;
const FILES_HINT: &str = "let the data directory's file system have more inodes (`df -i` says how many are free), remove files from it, or \
                          delete namespaces or tags; what waits is done by itself then";
const BYTES_HINT: &str =
    "free space on the data directory's file system, or delete namespaces or tags; what waits is done by itself then";
/// What belongs to no namespace.
pub const NODE: Nsid = Nsid(Uuid::nil());
/// So many namespaces a warning names.
const NAMED_MAX: usize = 16;

/// The codes of all warnings; closed, so that no label set grows.
pub const WARNINGS: [&str; 7] =
    [DISK_FULL, DISK_READ_ONLY, DISK_FORBIDDEN, OUT_OF_MEMORY, "flush_failed", "compaction_failed", "index_failed"];

/// What failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Work {
    /// A write of any namespace.
    Write,
    /// Anything else of any namespace that somebody asked for: that it is made, a branch, a tag, a label.
    Commit,
    Flush,
    Compaction,
    /// That a deleted namespace is let go of for good.
    Removal,
    /// The index's rebuild, and what else is let go of in the background.
    Index,
}

/// Work that failed last time.
struct Setback {
    namespace: String,
    failures: u32,
    since_ms: u64,
    failed_ms: u64,
    /// Bytes that it takes, as far as is known; 0 when nothing is.
    needs: u64,
    /// Whether the disk had that room when it failed.
    had_room: bool,
    error: Error,
}

impl Setback {
    fn code(&self, work: Work) -> &'static str {
        match (self.error.code(), work) {
            (code @ (DISK_FULL | DISK_READ_ONLY | DISK_FORBIDDEN | OUT_OF_MEMORY), _) => code,
            (_, Work::Flush) => "flush_failed",
            (_, Work::Compaction) => "compaction_failed",
            (_, Work::Write | Work::Commit | Work::Removal | Work::Index) => "index_failed",
        }
    }

    /// Whether it is not the node's disk that has to get better.
    fn is_own(&self) -> bool {
        !matches!(self.error.code(), DISK_FULL | DISK_READ_ONLY)
    }

    /// Whether it may be tried again. A clock that was set back does not make anybody wait longer.
    fn is_due(&self, now: u64, free: Option<u64>) -> bool {
        let has_waited = now < self.failed_ms || now - self.failed_ms >= wait_ms(self.failures);
        match free.filter(|_| self.error.code() == DISK_FULL) {
            // Room that was there already does not help: a quota may be used up, or the file system's inodes.
            Some(free) => fits(self.needs, free) && (has_waited || !self.had_room),
            None => has_waited,
        }
    }
}

fn wait_ms(failures: u32) -> u64 {
    let times = 1_u64.checked_shl(failures.saturating_sub(1)).unwrap_or(u64::MAX);
    WAIT_MIN_MS.saturating_mul(times).min(WAIT_MAX_MS)
}

fn fits(needs: u64, free: u64) -> bool {
    needs.saturating_add(COMMIT_BYTES) <= free
}

/// What failed, by incarnation and work; what belongs to no namespace is under [`NODE`].
#[derive(Default)]
pub struct Setbacks {
    table: Mutex<Table>,
    refused: RefusedWrites,
    /// How many entries there are, so that nobody waits for a lock when there are none.
    count: AtomicUsize,
}

#[derive(Default)]
struct Table {
    failed: BTreeMap<(Nsid, Work), Setback>,
    /// Bytes that work which the disk had no room for takes, as far as is known.
    needs: BTreeMap<(Nsid, Work), u64>,
    /// When each code, or line about the index, was logged last.
    said: BTreeMap<&'static str, u64>,
}

impl Table {
    fn is_full(&self) -> bool {
        self.failed.values().any(|setback| setback.error.code() == DISK_FULL)
    }

    /// Whether a failure with this code is to be logged now.
    fn is_to_be_said(&mut self, code: &'static str, now: u64) -> bool {
        let is_due = self.said.get(code).is_none_or(|last| now < *last || now - last >= SAID_EVERY_MS);
        if is_due {
            self.said.insert(code, now);
        }
        is_due
    }
}

impl Setbacks {
    pub fn is_empty(&self) -> bool {
        self.count.load(Ordering::SeqCst) == 0
    }

    fn change<T>(&self, change: impl FnOnce(&mut Table) -> T) -> T {
        let mut table = self.lock();
        let done = change(&mut table);
        self.count.store(table.failed.len() + table.needs.len(), Ordering::SeqCst);
        done
    }

    /// How many bytes the largest takes of what found the disk full, of writes, commits and flushes. A merge may be larger than the disk.
    pub(super) fn waits_for_bytes(&self) -> Option<u64> {
        self.needs_of(|_, _| true).into_iter().max()
    }

    /// The same of one project: its last write that was refused a moment ago, and what its namespaces try again.
    pub(super) fn waits_for_bytes_of(&self, project: &Project, now: u64) -> Option<u64> {
        let is_of = |nsid: Nsid, setback: &Setback| {
            nsid != NODE && parse_name(&setback.namespace).is_some_and(|name| name.project == *project)
        };
        self.needs_of(is_of).into_iter().chain(self.refused.of(project, now)).max()
    }

    fn needs_of(&self, is_of: impl Fn(Nsid, &Setback) -> bool) -> Vec<u64> {
        let table = self.lock();
        let is_asked = |work| matches!(work, Work::Write | Work::Commit | Work::Flush);
        let waits = |((of, work), setback): &(&(Nsid, Work), &Setback)| {
            is_asked(*work) && setback.error.code() == DISK_FULL && is_of(*of, setback)
        };
        table.failed.iter().filter(waits).map(|(_, setback)| setback.needs).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Context {
    /// Remembers that work failed, and logs it unless that was done a moment ago.
    pub fn set_back(&self, key: (Nsid, Work), namespace: &str, error: &Error) {
        let error = &self.name_missing(error.duplicate());
        let (now, free, work) = (self.clock.now_millis(), self.free_bytes(), key.1);
        let (code, failures, is_to_be_said) = self.setbacks.change(|table| {
            let needs = table.needs.get(&key).copied().unwrap_or(0);
            let before = table.failed.remove(&key);
            let setback = Setback {
                namespace: namespace.to_owned(),
                failures: before.as_ref().map_or(0, |before| before.failures).saturating_add(1),
                since_ms: before.map_or(now, |before| before.since_ms),
                failed_ms: now,
                needs,
                had_room: free.is_some_and(|free| fits(needs, free)),
                error: error.duplicate(),
            };
            let (code, failures) = (setback.code(work), setback.failures);
            table.failed.insert(key, setback);
            (code, failures, table.is_to_be_said(code, now))
        });
        if is_to_be_said {
            tracing::warn!(namespace, %error, code, failures, "{}", failed(work));
        } else {
            tracing::debug!(namespace, %error, code, failures, "{}", failed(work));
        }
    }

    /// The index could not be told of something that is in the files.
    pub fn say_index_fails(&self, error: &Error) {
        self.say_now_and_then("the index does not follow, it will be rebuilt", error);
    }

    /// Logs what may come with every request, unless that was done a moment ago.
    pub fn say_now_and_then(&self, what: &'static str, error: &Error) {
        let now = self.clock.now_millis();
        if self.setbacks.change(|table| table.is_to_be_said(what, now)) {
            tracing::warn!(%error, "{what}");
        } else {
            tracing::debug!(%error, "{what}");
        }
    }

    /// Forgets what failed: it was done, or needs not be done any more.
    pub fn set_right(&self, nsid: Nsid, work: Work) {
        if self.setbacks.is_empty() {
            return;
        }
        let (was_full, is_full) = self.setbacks.change(|table| {
            let was_full = table.is_full();
            table.failed.remove(&(nsid, work));
            table.needs.remove(&(nsid, work));
            (was_full, table.is_full())
        });
        if was_full && !is_full {
            tracing::info!("the disk has room again, what waited for it is done");
        }
    }

    /// Remembers what became of work.
    pub fn note<T>(&self, key: (Nsid, Work), namespace: &str, done: &Result<T>) {
        match done {
            Ok(_) => self.set_right(key.0, key.1),
            Err(error) => self.set_back(key, namespace, error),
        }
    }

    /// Why work is not to be tried again yet.
    pub fn why_not_yet(&self, nsid: Nsid, work: Work) -> Option<Error> {
        if self.setbacks.is_empty() {
            return None;
        }
        let (now, free) = (self.clock.now_millis(), self.free_bytes());
        let table = self.setbacks.lock();
        let setback = table.failed.get(&(nsid, work)).filter(|setback| !setback.is_due(now, free))?;
        Some(setback.error.duplicate())
    }

    /// Whether the tail of an incarnation cannot become a segment, for another reason than the node's disk.
    pub fn is_failing(&self, nsid: Nsid) -> bool {
        !self.setbacks.is_empty()
            && self.setbacks.lock().failed.get(&(nsid, Work::Flush)).is_some_and(Setback::is_own)
    }

    /// Whose tails cannot become segments, for another reason than the node's disk.
    pub fn failing(&self) -> BTreeSet<Nsid> {
        if self.setbacks.is_empty() {
            return BTreeSet::new();
        }
        let table = self.setbacks.lock();
        let flushes = table.failed.iter().filter(|((_, work), setback)| *work == Work::Flush && setback.is_own());
        flushes.map(|((nsid, _), _)| *nsid).collect()
    }

    /// What failed and is due again.
    pub fn due_again(&self) -> Vec<(Nsid, Work)> {
        if self.setbacks.is_empty() {
            return Vec::new();
        }
        let (now, free) = (self.clock.now_millis(), self.free_bytes());
        let table = self.setbacks.lock();
        let is_due = |work: Work, setback: &Setback| {
            // A write is tried again by whoever sent it, or never.
            let is_asked_for = matches!(work, Work::Write | Work::Commit);
            let is_over = is_asked_for && now.saturating_sub(setback.failed_ms) >= WAIT_MAX_MS;
            is_over || setback.is_due(now, free)
        };
        table.failed.iter().filter(|((_, work), setback)| is_due(*work, setback)).map(|(key, _)| *key).collect()
    }

    /// Fails where the disk has no room for so many bytes and what their commit takes. Nothing is written then.
    pub fn check_space(&self, bytes: u64, what: impl FnOnce() -> String) -> Result<()> {
        let Some(free) = self.free_bytes().filter(|free| !fits(bytes, *free)) else {
            return match self.missing_files() {
                Some(free) => Err(Error::unavailable(format!(
                    "no room for {}: its commit takes up to {COMMIT_FILES} files, and the file system has {free} inodes free",
                    what()
                ))
                .with_code(DISK_FULL)
                .with_hint(FILES_HINT)),
                None => Ok(()),
            };
        };
        Err(Error::unavailable(format!(
            "no room for {}: it takes about {bytes} bytes and {COMMIT_BYTES} for its commit, and the disk has {free} bytes free",
            what()
        ))
        .with_code(DISK_FULL)
        .with_hint(BYTES_HINT))
    }

    /// The same for work that is tried again, which takes what it took before where that was more.
    pub fn check_space_for(&self, key: (Nsid, Work), bytes: u64, what: impl FnOnce() -> String) -> Result<()> {
        let bytes = bytes.max(self.setbacks.lock().needs.get(&key).copied().unwrap_or(0));
        self.check_space(bytes, what).inspect_err(|_| self.takes(key, bytes))
    }

    /// Remembers that work which failed takes so many bytes at least.
    pub fn takes(&self, key: (Nsid, Work), bytes: u64) {
        self.setbacks.change(|table| {
            let needs = table.needs.entry(key).or_default();
            *needs = bytes.max(*needs);
        });
    }

    /// Refuses a write that the disk had no room for a moment ago, and still has none for. Nothing is tried then.
    pub fn check_room_for_write(&self, bytes: u64) -> Result<()> {
        if self.setbacks.is_empty() {
            return Ok(());
        }
        let has_room = |free: u64| bytes.saturating_add(WRITE_BYTES) <= free;
        if self.free_bytes().is_none_or(has_room) {
            return Ok(());
        }
        let mut table = self.setbacks.lock();
        let Some(setback) = table.failed.get_mut(&(NODE, Work::Write)) else { return Ok(()) };
        setback.failed_ms = self.clock.now_millis();
        Err(setback.error.duplicate())
    }

    /// Remembers what became of the log's part of a write of so many bytes.
    pub fn note_write<T>(&self, namespace: &str, bytes: u64, done: Result<T>) -> Result<T> {
        let done = done.map_err(|error| self.name_missing(error));
        let (key, needs) = ((NODE, Work::Write), bytes.saturating_add(WRITE_BYTES));
        match &done {
            Err(error) if matches!(error.code(), DISK_FULL | DISK_READ_ONLY | DISK_FORBIDDEN) => {
                if error.code() == DISK_FULL {
                    self.setbacks.refused.note(namespace, needs, self.clock.now_millis());
                }
                self.takes(key, needs);
                self.set_back(key, namespace, error);
            }
            Ok(_) if !self.setbacks.is_empty() => {
                self.setbacks.refused.forget(namespace, needs);
                let takes = self.setbacks.lock().needs.get(&key).copied().unwrap_or(0);
                if takes <= needs {
                    self.set_right(NODE, Work::Write);
                }
            }
            _ => {}
        }
        done
    }

    /// Remembers where something that somebody asked for found no room on the disk, and where it found some again.
    pub fn note_commit<T>(&self, done: Result<T>) -> Result<T> {
        let key = (NODE, Work::Commit);
        let done = done.map_err(|error| self.name_missing(error));
        match &done {
            Err(error) if matches!(error.code(), DISK_FULL | DISK_READ_ONLY | DISK_FORBIDDEN) => {
                let is_said = |((_, work), setback): (&(Nsid, Work), &Setback)| {
                    *work != key.1 && setback.code(*work) == error.code()
                };
                // What is tried again by itself says when there is room.
                if !self.setbacks.lock().failed.iter().any(is_said) {
                    self.takes(key, COMMIT_BYTES);
                    self.set_back(key, "", error);
                }
            }
            Ok(_) if !self.setbacks.is_empty() => self.set_right(key.0, key.1),
            _ => {}
        }
        done
    }

    /// What operators are to know: one entry for each code.
    pub fn warnings(&self) -> Vec<Json> {
        if self.setbacks.is_empty() {
            return Vec::new();
        }
        let free = (self.free_bytes(), self.free_files());
        let table = self.setbacks.lock();
        WARNINGS.iter().filter_map(|code| warning(&table, code, free)).collect()
    }

    pub(super) fn free_bytes(&self) -> Option<u64> {
        self.disk.free_bytes(self.layout.root()).ok()
    }

    /// How many files may still be made, where the file system bounds them.
    pub(super) fn free_files(&self) -> Option<u64> {
        self.disk.free_files(self.layout.root()).ok().flatten()
    }

    /// The same where they are too few, and bytes are not.
    fn missing_files(&self) -> Option<u64> {
        let has_bytes = || self.free_bytes().is_none_or(|free| fits(0, free));
        self.free_files().filter(|free| *free < COMMIT_FILES && has_bytes())
    }

    /// The error, saying so where it is inodes that the disk has not enough of: what the operating system says of them is what it says
    /// of bytes.
    fn name_missing(&self, error: Error) -> Error {
        let is_told = error.code() != DISK_FULL || error.hint() == Some(FILES_HINT);
        match self.missing_files().filter(|_| !is_told) {
            Some(free) => error.context(format!("the file system has {free} inodes free")).with_hint(FILES_HINT),
            None => error,
        }
    }
}

impl Engine {
    /// Tries again what failed and is due: its wait is over, or the disk has the room that it needs. For a task that runs every
    /// second; looks at nothing while nothing failed.
    pub async fn try_again(self: &Arc<Self>) {
        let context = &self.context;
        if context.is_room_wanted() {
            tokio::task::block_in_place(|| self.drop_deleted_for_room());
        }
        for (nsid, work) in context.due_again() {
            let namespace = context.open_namespaces().into_iter().find(|namespace| namespace.nsid == nsid);
            match (work, namespace) {
                // The next one tries.
                (Work::Write | Work::Commit, _) => context.set_right(nsid, work),
                // Who counts anew tries by itself, and so does retention.
                (Work::Index, _) => {}
                (Work::Removal, _) => {
                    let is_deleted = |kin: &Kin| kin.deleted_ms.is_some();
                    if !context.kin().get(&nsid).is_some_and(is_deleted) {
                        context.set_right(nsid, work);
                    }
                }
                (Work::Flush, Some(namespace)) => {
                    // What became of it is remembered.
                    let _ = namespace.flush().await;
                }
                (Work::Compaction, Some(namespace)) => namespace.start_compaction(),
                // Nobody has it open; who opens it finds the same to do.
                (Work::Flush | Work::Compaction, None) => context.set_right(nsid, work),
            }
        }
    }

    /// Remembers what became of the upkeep of the index and of the past, and logs it where it failed. While the index is not trusted most
    /// of it is not tried: that nothing failed says nothing then.
    pub fn note_upkeep(&self, done: &Result<()>) {
        if done.is_ok() && !self.context.may_reclaim() {
            return;
        }
        self.context.note((NODE, Work::Index), "", done);
    }

    /// The codes of what operators are to know.
    pub fn warning_codes(&self) -> Vec<String> {
        let code = |warning: &Json| warning["code"].as_str().map(str::to_owned);
        self.context.warnings().iter().filter_map(code).collect()
    }
}

fn warning(table: &Table, code: &str, (free, free_files): (Option<u64>, Option<u64>)) -> Option<Json> {
    let of_code = table.failed.iter().filter(|((_, work), setback)| setback.code(*work) == code);
    let all: Vec<&Setback> = of_code.map(|(_, setback)| setback).collect();
    let newest = all.iter().max_by_key(|setback| setback.failed_ms)?;
    let named = all.iter().map(|setback| setback.namespace.as_str()).filter(|name| !name.is_empty());
    let namespaces: BTreeSet<&str> = named.collect();
    let needs = all.iter().map(|setback| setback.needs).max().unwrap_or(0);
    Some(json!({
        "code": code,
        "message": newest.error.message(),
        "hint": newest.error.hint().unwrap_or("it is tried again by itself; the log says more"),
        "since_ms": all.iter().map(|setback| setback.since_ms).min(),
        "failures": all.iter().map(|setback| u64::from(setback.failures)).sum::<u64>(),
        "namespaces": namespaces.iter().take(NAMED_MAX).collect::<Vec<_>>(),
        "namespaces_total": namespaces.len(),
        "needs_bytes": (needs > 0).then_some(needs),
        "disk_free_bytes": free,
        "disk_free_files": free_files,
    }))
}

fn failed(work: Work) -> &'static str {
    match work {
        Work::Write | Work::Commit => "a write is refused",
        Work::Flush => "flush failed, it is tried again",
        Work::Compaction => "merge failed, it is tried again",
        Work::Removal => "a deleted namespace is not removed, it is tried again",
        Work::Index => "the index does not follow, it is tried again",
    }
}

#[cfg(test)]
mod tests {
    use super::{WAIT_MAX_MS, WAIT_MIN_MS, wait_ms};

    #[test]
    fn waits_double_up_to_a_bound() {
        let waits: Vec<u64> = (1..=8).map(wait_ms).collect();
        assert_eq!(waits, [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
        assert_eq!((wait_ms(0), wait_ms(u32::MAX)), (WAIT_MIN_MS, WAIT_MAX_MS));
    }
}
