//! The log of one namespace on this node: appended, group-committed, and sealed into the tier; `recovery` reads it back.
//!
//! Invariants:
//! - A log file appears under its name with a durable header, so a file whose header does not decode is damaged.
//! - Sequence numbers run on without holes from one log to the next; a hole means that a file is missing.
//! - An open log that another process or a failed sync left is never appended to: the next write starts a new file.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::group_commit::{GroupCommit, Ticket};
use super::log_frames::LogFrames;
use super::made::Made;
use super::open_logs::{OpenLogs, open_name};
use crate::error::{Context, Result};
use crate::format::log::{Frame, LogHeader, PreviousLog, encode_frame, encode_header};
use crate::format::record::Batch;
use crate::model::ids::{Hlc, Nsid, Origin};
use crate::platform::disk::{Disk, create_dirs, try_publish};
use crate::platform::random::Random;

/// Where a namespace's logs are. All directories may be absent until the first write.
#[derive(Clone, Debug)]
pub struct LogPaths {
    /// Open logs of all namespaces: `{nsid}-{name}`.
    pub open: PathBuf,
    /// Sealed logs of this namespace: `{name}`.
    pub sealed: PathBuf,
    /// Files in `open`.
    pub names: OpenLogs,
}

/// Whose log this is.
#[derive(Clone, Copy, Debug)]
pub struct Writer {
    pub nsid: Nsid,
    pub origin: Origin,
}

/// An open log.
pub struct Journal {
    disk: Arc<dyn Disk>,
    paths: LogPaths,
    writer: Writer,
    /// `{first_seq:020}-{token}.wal`
    name: String,
    salt: u32,
    first_seq: u64,
    next_seq: u64,
    /// The clock of the newest commit.
    newest: Hlc,
    /// Of everything appended so far.
    crc32c: u32,
    /// The length of it.
    bytes: u64,
    group: Arc<GroupCommit>,
    /// Where what waits for the disk is counted.
    made: Made,
}

/// A log that never changes again, in the tier under `paths.sealed`.
#[derive(Clone, Debug, PartialEq)]
pub struct SealedLog {
    pub name: String,
    pub first_seq: u64,
    /// Behind the last record; `first_seq` when the log has none.
    pub next_seq: u64,
    /// The clock of its newest commit; 0 when it has none.
    pub newest: Hlc,
    pub bytes: u64,
    pub crc32c: u32,
}

/// A log that failed in this process, and how much of it may be trusted.
#[derive(Clone, Debug)]
pub struct Distrust {
    pub name: String,
    pub synced: u64,
}

impl Journal {
    /// Starts a log whose first record will be `first_seq`, after `previous`; it is durable, and empty, on return.
    pub fn create(
        disk: Arc<dyn Disk>,
        paths: LogPaths,
        writer: Writer,
        first_seq: u64,
        previous: Option<&SealedLog>,
        random: &dyn Random,
    ) -> Result<Journal> {
        let salt = (random.next_u64() >> 32) as u32;
        let name = format!("{first_seq:020}-{:016x}.wal", random.next_u64());
        let header = LogHeader {
            salt,
            nsid: writer.nsid,
            origin: writer.origin,
            first_seq,
            previous: previous.map(|log| PreviousLog { first_seq: log.first_seq, bytes: log.bytes }),
        };
        let bytes = encode_header(&header);
        let path = paths.open.join(open_name(writer.nsid, &name));
        // The one for sealed logs, too, so that sealing costs the same every time.
        for dir in [&paths.open, &paths.sealed] {
            create_dirs(&*disk, dir).context(|| format!("create {}", dir.display()))?;
        }
        paths.names.begin(&open_name(writer.nsid, &name));
        try_publish(&*disk, &path, &bytes)
            .map_err(|failed| {
                // Best effort: whoever tries again has a file of another name.
                let _ = disk.remove(&path);
                failed.error
            })
            .context(|| format!("create log {}", path.display()))?;
        let file = disk.append(&path).context(|| format!("open log {}", path.display()))?;
        let group = Arc::new(GroupCommit::new(file, bytes.len() as u64));
        let crc32c = crc32c::crc32c(&bytes);
        let (newest, bytes) = (Hlc::default(), bytes.len() as u64);
        Ok(Journal {
            disk,
            paths,
            writer,
            name,
            salt,
            first_seq,
            next_seq: first_seq,
            newest,
            crc32c,
            bytes,
            group,
            made: Made::default(),
        })
    }

    /// The same, with what waits for the disk counted there.
    pub(super) fn counted(self, made: &Made) -> Journal {
        Journal { made: made.clone(), ..self }
    }

    /// Appends one commit, a frame for each batch, and gives what to wait with. It is visible to nobody else until then.
    pub fn append(
        &mut self,
        hlc: Hlc,
        batches: impl IntoIterator<Item = Batch>,
    ) -> Result<(Arc<GroupCommit>, Ticket)> {
        // All of it before the first of it is handed over: what fails to be encoded leaves nothing in the log.
        let mut frames = LogFrames::counted(&self.made);
        let mut crc32c = self.crc32c;
        let mut next_seq = self.next_seq;
        let synced = self.group.synced();
        let mut batches = batches.into_iter().peekable();
        while let Some(batch) = batches.next() {
            let count = batch.records.len() as u64;
            let frame = Frame { synced, first_seq: next_seq, more: batches.peek().is_some(), hlc, batch };
            let bytes = encode_frame(self.salt, &frame)?;
            crc32c = crc32c::crc32c_append(crc32c, &bytes);
            frames.push(bytes);
            next_seq += count;
        }
        let bytes = frames.bytes() as u64;
        let ticket = self.group.append(frames)?;
        self.crc32c = crc32c;
        self.bytes += bytes;
        self.next_seq = next_seq;
        self.newest = hlc;
        Ok((self.group.clone(), ticket))
    }

    pub fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// The log's length with everything appended so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether a write or barrier failed; then everything is to be recovered from the files.
    pub fn is_failed(&self) -> bool {
        self.group.is_failed()
    }

    /// What recovery needs to know when a barrier of this log failed.
    pub fn distrust(&self) -> Distrust {
        Distrust { name: self.name.clone(), synced: self.group.synced() }
    }

    /// Makes the log durable and moves it into the tier. Blocking.
    pub fn seal(self) -> Result<SealedLog> {
        let bytes = self.group.flush()?;
        let sealed = SealedLog {
            name: self.name.clone(),
            first_seq: self.first_seq,
            next_seq: self.next_seq,
            newest: self.newest,
            bytes,
            crc32c: self.crc32c,
        };
        move_to_tier(&*self.disk, &self.paths, self.writer.nsid, &self.name)?;
        Ok(sealed)
    }
}

/// The number in a log's name, of its first record.
pub fn first_seq_of(name: &str) -> Option<u64> {
    name.split('-').next().and_then(|digits| digits.parse().ok())
}

/// Where the directory for sealed logs was empty a sweep may have taken it away: one that could not read of whom it is.
pub(super) fn move_to_tier(disk: &dyn Disk, paths: &LogPaths, nsid: Nsid, name: &str) -> Result<()> {
    let (from, to) = (paths.open.join(open_name(nsid, name)), paths.sealed.join(name));
    let step = || format!("seal log {}", from.display());
    match disk.rename(&from, &to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            create_dirs(disk, &paths.sealed).context(step)?;
            disk.rename(&from, &to).context(step)?;
        }
        renamed => renamed.context(step)?,
    }
    paths.names.end(&open_name(nsid, name));
    // The old name may come back with a power cut: recovery takes the new one then.
    disk.sync_dir(&paths.sealed).context(step)
}
