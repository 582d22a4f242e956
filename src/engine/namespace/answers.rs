//! Answers to writes with an `Idempotency-Key`: given again to whoever repeats the write, for 24 hours.
//!
//! An answer is in the log beside the records of its write. A flush writes the answers of the logs that it makes superfluous to a
//! file, and then commits its manifest; so an answer is found exactly where its write is.
//!
//! Invariants:
//! - A file counts once a manifest of its generation is committed. Until then the log has its answers, so what a crash leaves
//!   between the two says nothing twice and nothing too much.
//! - A file is removed only when a newer one that counts has its answers, or all of them are too old to be repeated.
//! - While a key cannot be looked up, because a file cannot be read, no write with a key is decided.
//!
//! The files of one twenty-fourth of that time join, once there are enough answers to be worth it, so there are few. In memory are
//! four bytes of each key: a key that is not known costs no look at a file, but for one in tens of thousands.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::{Decider, Namespace};
use crate::engine::context::Context;
use crate::engine::group_commit::{GroupCommit, Ticket};
use crate::error::{Context as _, Error, Kind, Result};
use crate::format::answers::{Answer, decode, encode};
use crate::format::manifest::{Manifest, StoredAnswer};
use crate::format::record::IdempotencyEntry;
use crate::model::ids::{Hlc, Nsid};
use crate::model::write::{Idempotency, WriteOutcome};
use crate::platform::disk::{Entry, TEMPORARY_SUFFIX, create_dirs, if_there, publish, unpublish};

/// What an answer that is in no file takes in memory, about; counted with the tail.
pub(super) const ANSWER_BYTES: u64 = 256;
/// What one takes in a file, about.
const STORED_BYTES: u64 = 48;
/// A file is joined with so many times fewer new answers, and left alone by fewer still.
const JOINED_TIMES: u64 = 4;
/// The most files of one namespace; where there are as many the newest is always joined.
const FILES_MAX: usize = 128;
/// Into so many spans the time is divided for which answers are kept; files of different spans do not join.
const SPANS: u64 = 24;

/// The code of a refusal because too many keys were used.
pub const KEYS_FULL: &str = "idempotency_keys_full";

/// The answer to a write with an `Idempotency-Key`.
#[derive(Clone)]
pub(super) struct Kept {
    pub answer: Answer,
    pub at: Hlc,
    /// `None` when it was durable before it was found.
    pub waits_for: Option<(Arc<GroupCommit>, Ticket)>,
}

/// The answers of one namespace.
#[derive(Clone, Default)]
pub(super) struct Answers {
    /// Of commits whose log records no manifest covers.
    unflushed: HashMap<[u8; 16], Kept>,
    /// Those that count, oldest first; `None` until somebody asks.
    files: Option<Vec<AnswersFile>>,
}

/// A file of answers, as its name says.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::engine) struct AnswersFile {
    pub generation: u64,
    /// When the newest of its answers was given, by [`Context::passed_ms`] as all times of answers.
    pub newest_ms: u64,
    bytes: u64,
    /// What begins the hashes of its keys, in order; `None` until somebody asks.
    keys: Option<Vec<u32>>,
}

/// A file that was written for a manifest which is not committed yet.
pub(super) struct Staged {
    file: AnswersFile,
    /// So many of the newest files are in it.
    joined: usize,
}

impl Answers {
    pub fn insert(&mut self, answer: Answer, at: Hlc, waits_for: Option<(Arc<GroupCommit>, Ticket)>) {
        self.unflushed.insert(answer.entry.key_hash, Kept { answer, at, waits_for });
    }

    /// Takes those in that earlier releases put into a manifest; gives how many. The next flush writes them to a file.
    pub fn take_in(&mut self, manifest: &Manifest) -> usize {
        for stored in &manifest.idempotency {
            if let Some(answer) = from_manifest(stored) {
                self.insert(answer, stored.at, None);
            }
        }
        self.unflushed.len()
    }

    fn count(&self) -> u64 {
        let in_files = |file: &AnswersFile| file.keys.as_ref().map_or(0, Vec::len);
        let flushed: usize = self.files.iter().flatten().map(in_files).sum();
        (self.unflushed.len() + flushed) as u64
    }
}

impl AnswersFile {
    /// Reads a name in the directory of answers; `None` for what is none.
    fn of(entry: &Entry) -> Option<AnswersFile> {
        let (generation, newest) = entry.name.strip_suffix(".ans")?.split_once('-')?;
        let number = |digits: &str| if digits.len() == 20 { digits.parse().ok() } else { None };
        let (generation, newest_ms) = (number(generation)?, number(newest)?);
        Some(AnswersFile { generation, newest_ms, bytes: entry.len, keys: None })
    }

    pub fn path(&self, context: &Context, nsid: Nsid) -> PathBuf {
        context.layout.answers(nsid).join(format!("{:020}-{:020}.ans", self.generation, self.newest_ms))
    }

    pub fn read(&self, context: &Context, nsid: Nsid) -> Result<Vec<Answer>> {
        let path = self.path(context, nsid);
        let name = path.display().to_string();
        let bytes = context.disk.read(&path).map_err(Error::reading).context(|| format!("read {name}"))?;
        let (found, answers) = decode(&bytes, &name)?;
        if found != nsid {
            return Err(Error::corrupt(format!("{name}: is of incarnation {found}, expected {nsid}")));
        }
        Ok(answers)
    }

    /// Whether none of its answers is repeated any more.
    pub fn is_over(&self, context: &Context) -> bool {
        is_over(context, self.newest_ms)
    }

    fn may_have(&self, key: &Idempotency) -> bool {
        self.keys.as_ref().is_none_or(|keys| keys.binary_search(&beginning(&key.key_hash)).is_ok())
    }
}

/// Whether an answer of this time is too old to be repeated.
fn is_over(context: &Context, at_ms: u64) -> bool {
    context.passed_ms().saturating_sub(at_ms) > context.config.idempotency_ms
}

/// In the order of the hashes.
fn beginning(key_hash: &[u8; 16]) -> u32 {
    key_hash[..4].iter().fold(0, |number, byte| number << 8 | u32::from(*byte))
}

/// The files of answers of an incarnation up to a generation, oldest first.
pub(in crate::engine) fn answer_files(context: &Context, nsid: Nsid, generation: u64) -> Result<Vec<AnswersFile>> {
    let dir = context.layout.answers(nsid);
    let entries =
        if_there(context.disk.list(&dir)).map_err(Error::reading).context(|| format!("list {}", dir.display()))?;
    let found = entries.iter().flatten().filter_map(AnswersFile::of);
    let mut files: Vec<AnswersFile> = found.filter(|file| file.generation <= generation).collect();
    files.sort_by_key(|file| (file.generation, file.newest_ms));
    Ok(files)
}

impl Namespace {
    /// The answer of an earlier write with this key. `Corrupt` while a file cannot be read that may have it.
    pub(super) fn find_answer(&self, decider: &mut Decider, key: &Idempotency) -> Result<Option<Kept>> {
        if let Some(kept) = decider.answers.unflushed.get(&key.key_hash) {
            return Ok(Some(kept.clone()).filter(|kept| !is_over(&self.context, kept.answer.at_ms)));
        }
        self.read_keys(decider)?;
        for file in self.files(decider)?.iter().rev().filter(|file| file.may_have(key)) {
            let answers = tokio::task::block_in_place(|| self.read_answers(file)).map_err(lost)?;
            if let Ok(at) = answers.binary_search_by(|answer| answer.entry.key_hash.cmp(&key.key_hash)) {
                let answer = answers[at].clone();
                let kept = Kept { at: Hlc::from_millis(answer.at_ms), answer, waits_for: None };
                return Ok(Some(kept).filter(|kept| !is_over(&self.context, kept.answer.at_ms)));
            }
        }
        Ok(None)
    }

    /// What is kept of the answer of the first write with this key, once that is durable: its counts.
    pub(super) async fn repeat(&self, kept: Kept, key: &Idempotency) -> Result<WriteOutcome> {
        let entry = kept.answer.entry;
        if entry.body_hash != key.body_hash {
            return Err(Error::invalid("this Idempotency-Key was used for a write with another body")
                .with_code("idempotency_key_reused")
                .with_hint("use a new key for every new write"));
        }
        if let Some((group, ticket)) = kept.waits_for {
            self.finish(&group, ticket).await?;
        }
        Ok(WriteOutcome {
            upserted: entry.upserted,
            patched: entry.patched,
            deleted: entry.deleted,
            rows_remaining: entry.rows_remaining,
            filter_matched: entry.filter_matched,
            bytes_written: entry.bytes_written,
            replayed: true,
            // No state is named: the one that the first answer named is not kept, and by the one of now, which others may have made since,
            // a conditional write would replace what they wrote. Nor are ids kept.
            ..WriteOutcome::default()
        })
    }

    /// `Busy` when as many answers are kept as may be: one that was promised is never let go of for a new one.
    pub(super) fn check_keys(&self, decider: &mut Decider) -> Result<()> {
        let max = self.context.config.idempotency_keys_max;
        if decider.answers.count() < max {
            return Ok(());
        }
        self.drop_old_answers(decider)?;
        decider.answers.unflushed.retain(|_, kept| !is_over(&self.context, kept.answer.at_ms));
        let count = decider.answers.count();
        if count < max {
            return Ok(());
        }
        let hours = self.context.config.idempotency_ms / 3_600_000;
        Err(Error::busy(format!(
            "namespace {} keeps the answers of {count} writes with an Idempotency-Key of the last {hours} hours, at most {max} may be",
            self.name
        ))
        .with_code(KEYS_FULL)
        .with_hint("send writes without a key, or larger ones less often, or raise storage.idempotency_keys_max"))
    }

    /// Removes files whose answers are all too old.
    pub(super) fn drop_old_answers(&self, decider: &mut Decider) -> Result<()> {
        let (context, nsid) = (&self.context, self.nsid);
        self.files(decider)?.retain(|file| {
            let is_over = file.is_over(context);
            if is_over {
                // Best effort: what stays is removed the next time it is listed.
                let _ = context.disk.remove(&file.path(context, nsid));
            }
            !is_over
        });
        Ok(())
    }

    /// The same, for who looks now and then; not while somebody writes.
    pub(in crate::engine) fn tend_answers(&self) -> Result<()> {
        let Ok(mut decider) = self.decider.try_lock() else { return Ok(()) };
        self.check_alive()?;
        self.drop_old_answers(&mut decider)
    }

    /// Reads a file; damage is listed.
    fn read_answers(&self, file: &AnswersFile) -> Result<Vec<Answer>> {
        let read = file.read(&self.context, self.nsid);
        read.inspect_err(|error| self.context.report_error(&self.name.to_string(), error))
    }

    /// The files that count, oldest first.
    fn files<'a>(&self, decider: &'a mut Decider) -> Result<&'a mut Vec<AnswersFile>> {
        if decider.answers.files.is_none() {
            clear(&self.context, self.nsid);
            let files = answer_files(&self.context, self.nsid, self.published().generation)?;
            decider.answers.files = Some(files);
        }
        Ok(decider.answers.files.get_or_insert_default())
    }

    /// Has what begins every key in memory.
    fn read_keys(&self, decider: &mut Decider) -> Result<()> {
        if decider.answers.files.as_ref().is_some_and(|files| files.iter().all(|file| file.keys.is_some())) {
            return Ok(());
        }
        self.drop_old_answers(decider)?;
        let (context, nsid) = (&self.context, self.nsid);
        let files = self.files(decider)?;
        if files.is_empty() {
            return Ok(());
        }
        tokio::task::block_in_place(|| {
            let mut seen = HashSet::new();
            for file in files.iter_mut().rev() {
                let answers = self.read_answers(file).map_err(lost)?;
                let keys = answers.iter().map(|answer| answer.entry.key_hash).filter(|key| seen.insert(*key));
                file.keys = Some(keys.map(|key| beginning(&key)).collect());
            }
            // What a crash left when they had been joined to a newer one.
            files.retain(|file| {
                let is_superseded = file.keys.as_ref().is_some_and(Vec::is_empty);
                if is_superseded {
                    let _ = context.disk.remove(&file.path(context, nsid));
                }
                !is_superseded
            });
            Ok(())
        })
    }

    /// Writes the answers up to a clock to a file for the manifest `generation`, which lets their logs go; `None` when there are
    /// none. Nothing counts before [`Namespace::settle_answers`].
    pub(super) fn stage_answers(&self, decider: &mut Decider, generation: u64, until: Hlc) -> Result<Option<Staged>> {
        let now = self.context.passed_ms();
        let due = decider.answers.unflushed.values().filter(|kept| kept.at <= until);
        // Of those that earlier releases kept, a clock that was ahead may have dated some.
        let answers = due.map(|kept| Answer { at_ms: kept.answer.at_ms.min(now), ..kept.answer.clone() });
        let answers = answers.collect();
        self.stage(decider, generation, answers)
    }

    fn stage(&self, decider: &mut Decider, generation: u64, mut answers: Vec<Answer>) -> Result<Option<Staged>> {
        let (context, nsid) = (&self.context, self.nsid);
        self.drop_old_answers(decider)?;
        answers.retain(|answer| !is_over(context, answer.at_ms));
        let Some(newest_ms) = answers.iter().map(|answer| answer.at_ms).max() else { return Ok(None) };
        let span = |at_ms: u64| at_ms / (context.config.idempotency_ms / SPANS).max(1);
        let files = self.files(decider)?;
        let mut joined = 0;
        while let Some(file) = files.len().checked_sub(joined + 1).and_then(|at| files.get(at)) {
            let is_worth_it = file.bytes <= JOINED_TIMES * STORED_BYTES * answers.len() as u64;
            let is_due = is_worth_it && span(file.newest_ms) == span(newest_ms);
            if !is_due && files.len() - joined < FILES_MAX {
                break;
            }
            // One that cannot be read stays as it is: a damaged file does not keep others from being written.
            let Ok(older) = self.read_answers(file) else { break };
            answers.extend(older.into_iter().filter(|answer| !is_over(context, answer.at_ms)));
            joined += 1;
        }
        // Of equal keys the first one stays, which is of the newest file.
        answers.sort_by_key(|answer| answer.entry.key_hash);
        answers.dedup_by_key(|answer| answer.entry.key_hash);
        let newest_ms = answers.iter().map(|answer| answer.at_ms).max().unwrap_or(newest_ms);
        let bytes = encode(nsid, &answers)?;
        let keys = answers.iter().map(|answer| beginning(&answer.entry.key_hash)).collect();
        let file = AnswersFile { generation, newest_ms, bytes: bytes.len() as u64, keys: Some(keys) };
        let (dir, path) = (context.layout.answers(nsid), file.path(context, nsid));
        create_dirs(&*context.disk, &dir).context(|| format!("create {}", dir.display()))?;
        publish(&*context.disk, &path, &bytes).context(|| format!("write {}", path.display()))?;
        Ok(Some(Staged { file, joined }))
    }

    /// The manifest is committed that the answers were staged for: the file counts, and what was joined goes.
    pub(super) fn settle_answers(&self, decider: &mut Decider, staged: Option<Staged>, until: Hlc) {
        decider.answers.unflushed.retain(|_, kept| kept.at > until);
        let (Some(Staged { file, joined }), Some(files)) = (staged, &mut decider.answers.files) else { return };
        for old in files.drain(files.len().saturating_sub(joined)..) {
            // Best effort: its answers are in the new one, and count once.
            let _ = self.context.disk.remove(&old.path(&self.context, self.nsid));
        }
        files.push(file);
    }

    /// The commit failed that answers were staged for. Where its manifest may be in place all the same they stay.
    pub(super) fn withdraw_answers(&self, staged: Option<Staged>) {
        let Some(Staged { file, .. }) = staged else { return };
        let manifest = self.context.layout.manifest(self.nsid, file.generation);
        if unpublish(&*self.context.disk, &manifest).is_ok() {
            let _ = self.context.disk.remove(&file.path(&self.context, self.nsid));
        }
    }

    /// Every answer that is repeated, for another incarnation that takes the place of this one.
    pub(super) fn all_answers(&self, decider: &mut Decider) -> Result<Vec<Answer>> {
        let mut answers: Vec<Answer> = decider.answers.unflushed.values().map(|kept| kept.answer.clone()).collect();
        for file in self.files(decider)?.iter().rev() {
            // What cannot be read does not keep the namespace from its new place; it is told as damage.
            answers.extend(self.read_answers(file).unwrap_or_default());
        }
        answers.sort_by_key(|answer| answer.entry.key_hash);
        answers.dedup_by_key(|answer| answer.entry.key_hash);
        Ok(answers)
    }

    /// Every answer that is repeated.
    pub(in crate::engine) async fn answers(&self) -> Result<Vec<Answer>> {
        let mut decider = self.decider.lock().await;
        tokio::task::block_in_place(|| self.all_answers(&mut decider))
    }

    /// Edits the manifest, and repeats these answers from then on, too.
    pub(in crate::engine) async fn edit_head_with_answers(
        &self,
        answers: Vec<Answer>,
        edit: impl FnOnce(&mut Manifest),
    ) -> Result<()> {
        self.check_alive()?;
        let mut decider = self.decider.lock().await;
        let mut head = self.head.lock().await;
        let now = self.context.clock.now_millis();
        tokio::task::block_in_place(|| {
            let staged = self.stage(&mut decider, head.manifest.generation + 1, answers)?;
            let next = head.commit(&self.context, |manifest| {
                edit(manifest);
                manifest.updated_ms = now;
            });
            match next {
                Ok(next) => *head = next,
                Err(error) => {
                    self.withdraw_answers(staged);
                    return Err(error);
                }
            }
            self.publish_head(&head);
            self.settle_answers(&mut decider, staged, Hlc::default());
            Ok(())
        })
    }
}

/// Removes what a crash left of files of answers that were never finished.
fn clear(context: &Context, nsid: Nsid) {
    let dir = context.layout.answers(nsid);
    let entries = context.disk.list(&dir).unwrap_or_default();
    for entry in entries.iter().filter(|entry| entry.name.ends_with(TEMPORARY_SUFFIX)) {
        let _ = context.disk.remove(&dir.join(&entry.name));
    }
}

/// What a write with a key is refused with while it is not known whether it was made before.
fn lost(error: Error) -> Error {
    let error = error.context("look for the answer of an earlier write with this Idempotency-Key");
    if error.kind() != Kind::Corrupt {
        return error;
    }
    error.with_hint(
        "put the file back from a copy, or give it up with `shoal repair --drop-damaged`; writes without a key go on",
    )
}

fn from_manifest(stored: &StoredAnswer) -> Option<Answer> {
    let entry = IdempotencyEntry {
        key_hash: hash(&stored.key_hash)?,
        body_hash: hash(&stored.body_hash)?,
        upserted: stored.upserted,
        patched: stored.patched,
        deleted: stored.deleted,
        rows_remaining: stored.rows_remaining,
        filter_matched: stored.filter_matched,
        bytes_written: stored.bytes_written,
    };
    Some(Answer { entry, at_ms: stored.at.millis() })
}

/// 32 hexadecimal digits as 16 bytes.
fn hash(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}
