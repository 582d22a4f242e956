//! The log of one namespace on this node: appended, group-committed, sealed into the tier, and read back after a crash.
//!
//! Invariants:
//! - A log file appears under its name with a durable header, so a file whose header does not decode is damaged.
//! - Sequence numbers run on without holes from one log to the next; a hole means that a file is missing.
//! - Recovery seals what it finds: a torn tail is cut, the rest is synced and moved into the tier, and the next write
//!   starts a new file. So no file that a crash or a failed sync touched is ever appended to again.
//! - However long the logs are, recovery holds one frame of them in memory: it proves every log first, and gives the frames one
//!   after another when all logs are in the tier.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::group_commit::{GroupCommit, Ticket};
use super::open_logs::{OpenLogs, open_name};
use crate::error::{Context, Error, Result};
use crate::format::log::{
    Frame, FrameReader, HEADER_BYTES, LogHeader, LogScan, PreviousLog, each_frame, encode_frame, encode_header,
    first_clock, peek_header, scan_log,
};
use crate::format::log_source::LogSource;
use crate::format::record::Batch;
use crate::model::ids::{Hlc, Nsid, Origin};
use crate::platform::disk::{Disk, RandomFile, TEMPORARY_SUFFIX, create_dirs, if_there, publish};
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

/// What recovery found: the logs with every acknowledged commit from the sequence number asked for, in order.
#[derive(Debug, Default)]
pub struct Recovered {
    pub logs: Vec<SealedLog>,
    /// The sequence number asked for.
    pub replay_from: u64,
    pub next_seq: u64,
    /// Bytes of commits that were never acknowledged, cut off.
    pub torn_bytes: u64,
    /// Names of the logs that were open and are in the tier now.
    pub moved: Vec<String>,
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
        publish(&*disk, &path, &bytes).context(|| format!("create log {}", path.display()))?;
        let file = disk.append(&path).context(|| format!("open log {}", path.display()))?;
        let group = Arc::new(GroupCommit::new(file, bytes.len() as u64));
        let crc32c = crc32c::crc32c(&bytes);
        let (newest, bytes) = (Hlc::default(), bytes.len() as u64);
        Ok(Journal { disk, paths, writer, name, salt, first_seq, next_seq: first_seq, newest, crc32c, bytes, group })
    }

    /// Appends one commit, a frame for each batch, and gives what to wait with. It is visible to nobody else until then.
    pub fn append(
        &mut self,
        hlc: Hlc,
        batches: impl IntoIterator<Item = Batch>,
    ) -> Result<(Arc<GroupCommit>, Ticket)> {
        let mut bytes = Vec::new();
        let mut next_seq = self.next_seq;
        let synced = self.group.synced();
        let mut batches = batches.into_iter().peekable();
        while let Some(batch) = batches.next() {
            let count = batch.records.len() as u64;
            let frame = Frame { synced, first_seq: next_seq, more: batches.peek().is_some(), hlc, batch };
            bytes.extend(encode_frame(self.salt, &frame)?);
            next_seq += count;
        }
        let ticket = self.group.append(&bytes)?;
        self.crc32c = crc32c::crc32c_append(self.crc32c, &bytes);
        self.bytes += bytes.len() as u64;
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

    /// Makes the log durable and moves it into the tier. `Busy` while a barrier is under way.
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

/// Finds this node's own logs from the record `replay_from` on, and seals those that are open. `Corrupt` names the file when an
/// acknowledged commit is damaged or missing. Can be interrupted and repeated anywhere.
pub fn recover(
    disk: &dyn Disk,
    paths: &LogPaths,
    writer: Writer,
    replay_from: u64,
    distrust: Option<&Distrust>,
) -> Result<Recovered> {
    let mut logs = find(disk, paths, writer, replay_from)?;
    let ends: Vec<PreviousLog> = logs.iter().filter_map(|log| log.header.previous).collect();
    for at in 0..logs.len() {
        let first_seq = logs[at].first_seq;
        // A successor was started only after its predecessor's end was known; what lies behind was never acknowledged.
        let named = if logs.iter().filter(|log| log.first_seq == first_seq).count() == 1 {
            logs.get(at + 1)
                .and_then(|next| next.header.previous)
                .filter(|p| p.first_seq == first_seq)
                .map(|p| p.bytes)
        } else {
            // Logs without records that start at the same one: who names which is known by the length only, which every
            // one of them had for good before there was another.
            let len = logs[at].len;
            let own = ends.iter().filter(|end| end.first_seq == first_seq);
            let is_named =
                logs[at].since.is_none() || at + 1 == logs.len() || own.clone().any(|end| end.bytes == len);
            if is_named { None } else { own.map(|end| end.bytes).max() }
        };
        let known = distrust.filter(|d| d.name == logs[at].name).map(|d| d.synced);
        if let Some(end) = named.or(known) {
            let log = &mut logs[at];
            if end > log.len {
                return Err(Error::corrupt(format!("log {}: {} bytes, expected {end}", log.name, log.len)));
            }
            log.trusted = end;
        }
    }
    let mut recovered = Recovered { next_seq: replay_from, replay_from, ..Recovered::default() };
    for log in logs {
        let scan = scan_log(&log.open(disk)?, &log.name)?;
        let end = log.first_seq + scan.records;
        if log.is_open {
            recovered.torn_bytes += log.len.saturating_sub(scan.valid_bytes);
            settle(disk, paths, writer.nsid, &log, scan.valid_bytes)?;
            recovered.moved.push(log.name.clone());
        } else if scan.valid_bytes < log.len {
            return Err(Error::corrupt(format!(
                "sealed log {}: damaged at byte {} of {}",
                log.name, scan.valid_bytes, log.len
            )));
        }
        if end <= replay_from && scan.records > 0 {
            continue;
        }
        if log.first_seq > recovered.next_seq {
            return Err(Error::corrupt(format!(
                "log {} starts at record {}, expected {}: the file before it is missing",
                log.name, log.first_seq, recovered.next_seq
            )));
        }
        recovered.next_seq = recovered.next_seq.max(end);
        recovered.logs.push(SealedLog {
            crc32c: scan.crc32c,
            name: log.name,
            first_seq: log.first_seq,
            next_seq: end,
            newest: scan.newest,
            bytes: scan.valid_bytes,
        });
    }
    if recovered.moved.is_empty() && !recovered.logs.is_empty() {
        // A crash may have come between a rename and its sync: what is served must be durable first.
        disk.sync_dir(&paths.sealed).context(|| format!("sync {}", paths.sealed.display()))?;
    }
    Ok(recovered)
}

impl Recovered {
    /// Gives every commit's frames in order to `take`: those without records, and those with a record from `replay_from` on.
    pub fn replay(
        &self,
        disk: &dyn Disk,
        paths: &LogPaths,
        take: &mut dyn FnMut(FrameReader<'_>) -> Result<()>,
    ) -> Result<()> {
        self.logs.iter().try_for_each(|log| {
            let known = (log.bytes, log.crc32c);
            replay_log(disk, &paths.sealed.join(&log.name), &log.name, known, self.replay_from, take)
        })
    }
}

/// Gives the frames of a sealed log of known length and checksum in order to `take`: those without records, and those with a
/// record from `from` on. `Corrupt` when it is not as it was sealed.
pub fn replay_log(
    disk: &dyn Disk,
    path: &Path,
    name: &str,
    (bytes, crc32c): (u64, u32),
    from: u64,
    take: &mut dyn FnMut(FrameReader<'_>) -> Result<()>,
) -> Result<()> {
    let opened = disk.open(path);
    if opened.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
        return Err(Error::corrupt(format!("log {} is missing, expected {bytes} bytes", path.display())));
    }
    let file = LogFile::of(opened, path)?;
    let scan = scan_log(&file, name)?;
    if (scan.valid_bytes, scan.crc32c) != (bytes, crc32c) || scan.torn {
        return Err(Error::corrupt(format!(
            "log {name}: {} bytes with checksum {:08x}, expected {bytes} with {crc32c:08x}",
            file.len, scan.crc32c
        )));
    }
    each_frame(&file, &scan, name, from, take)
}

struct Found {
    name: String,
    first_seq: u64,
    is_open: bool,
    header: LogHeader,
    /// The clock of its first commit.
    since: Option<Hlc>,
    path: PathBuf,
    /// The file's length.
    len: u64,
    /// How much of it may hold acknowledged commits.
    trusted: u64,
}

impl Found {
    /// What of it may hold acknowledged commits.
    fn open(&self, disk: &dyn Disk) -> Result<LogFile> {
        Ok(LogFile { len: self.trusted, ..LogFile::open(disk, &self.path)? })
    }
}

/// A log in a file, up to a length.
struct LogFile {
    file: Box<dyn RandomFile>,
    len: u64,
    path: PathBuf,
}

impl LogFile {
    fn open(disk: &dyn Disk, path: &Path) -> Result<Self> {
        Self::of(disk.open(path), path)
    }

    fn of(opened: io::Result<Box<dyn RandomFile>>, path: &Path) -> Result<Self> {
        let step = || format!("open log {}", path.display());
        let file = opened.context(step)?;
        let len = file.size().context(step)?;
        Ok(LogFile { file, len, path: path.to_owned() })
    }
}

impl LogSource for LogFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, at: u64, out: &mut [u8]) -> Result<()> {
        self.file.read_at(at, out).context(|| format!("read log {} at byte {at}", self.path.display()))
    }
}

/// What the log at `path` has.
pub fn scan(disk: &dyn Disk, path: &Path) -> Result<LogScan> {
    scan_log(&LogFile::open(disk, path)?, &path.display().to_string())
}

/// Names of the sealed logs that have what a manifest lacks that is up to `replay_from` and `until`.
pub fn sealed_from(disk: &dyn Disk, paths: &LogPaths, replay_from: u64, until: Hlc) -> Result<Vec<String>> {
    let entries = if_there(disk.names(&paths.sealed)).context(|| format!("list {}", paths.sealed.display()))?;
    let mut entries = entries.unwrap_or_default();
    entries.retain(|name| first_seq_of(name).is_some() && is_needed(disk, &paths.sealed, name, replay_from, until));
    Ok(entries)
}

/// Whether a sealed log may have what a manifest lacks that is up to `replay_from` and `until`. A log without records begins where
/// the one after it does, so its number does not tell: the clock of its commits does. What cannot be read may be needed.
pub fn is_needed(disk: &dyn Disk, sealed: &Path, name: &str, replay_from: u64, until: Hlc) -> bool {
    match first_seq_of(name) {
        Some(first) if first == replay_from => !is_answered(disk, &sealed.join(name), name, until).unwrap_or(false),
        first => first.is_none_or(|first| first > replay_from),
    }
}

/// Whether a whole log has no record, and no commit after `until`.
fn is_answered(disk: &dyn Disk, path: &Path, name: &str, until: Hlc) -> Result<bool> {
    let log = LogFile::open(disk, path)?;
    if first_clock(&log)?.is_some_and(|since| since > until) {
        return Ok(false);
    }
    let scan = scan_log(&log, name)?;
    Ok(scan.records == 0 && scan.newest <= until && !scan.torn)
}

/// The number in a log's name, of its first record.
pub fn first_seq_of(name: &str) -> Option<u64> {
    name.split('-').next().and_then(|digits| digits.parse().ok())
}

/// Whether all records of the sealed log `name` come before `replay_from`: a flush seals the log before it sets that number, so
/// it lies between two logs. An open one of that kind was never written to.
fn is_over(name: &str, replay_from: u64) -> bool {
    first_seq_of(name).is_some_and(|first| first < replay_from)
}

/// The writer's own logs that may have records from `replay_from` on, in order; leftovers of creations that never finished
/// are removed.
fn find(disk: &dyn Disk, paths: &LogPaths, writer: Writer, replay_from: u64) -> Result<Vec<Found>> {
    let prefix = open_name(writer.nsid, "");
    let mut found: Vec<Found> = Vec::new();
    for (dir, is_open) in [(&paths.sealed, false), (&paths.open, true)] {
        let entries = match is_open {
            true => paths.names.of(disk, dir, writer.nsid),
            false => if_there(disk.names(dir)).map(Option::unwrap_or_default),
        };
        for entry in &entries.context(|| format!("list {}", dir.display()))? {
            let name = if is_open { entry.strip_prefix(&prefix) } else { Some(entry.as_str()) };
            let Some(name) = name else { continue };
            let path = dir.join(entry);
            if name.ends_with(TEMPORARY_SUFFIX) {
                if_there(disk.remove(&path)).context(|| format!("remove {}", path.display()))?;
                paths.names.end(entry);
                continue;
            }
            if !is_open && is_over(name, replay_from) {
                continue;
            }
            if is_open && (is_over(name, replay_from) || found.iter().any(|log| log.name == name)) {
                // Its creation failed, so nothing was acknowledged in it; or it was sealed, and its old name came back with a
                // power cut.
                if_there(disk.remove(&path)).context(|| format!("remove {}", path.display()))?;
                paths.names.end(entry);
                continue;
            }
            let file = match disk.open(&path) {
                // Its creation failed, and it was never there.
                Err(error) if is_open && error.kind() == io::ErrorKind::NotFound => {
                    paths.names.end(entry);
                    continue;
                }
                opened => LogFile::of(opened, &path)?,
            };
            let mut start = [0; HEADER_BYTES];
            let start = &mut start[..usize::try_from(file.len).unwrap_or(HEADER_BYTES).min(HEADER_BYTES)];
            file.read_at(0, start)?;
            let header = peek_header(start, name)?;
            if header.nsid != writer.nsid {
                return Err(Error::corrupt(format!(
                    "log {}: belongs to namespace {}, expected {}",
                    path.display(),
                    header.nsid,
                    writer.nsid
                )));
            }
            if header.origin != writer.origin {
                continue;
            }
            let (first_seq, len) = (header.first_seq, file.len);
            found.push(Found {
                name: name.to_owned(),
                first_seq,
                is_open,
                header,
                since: None,
                path,
                len,
                trusted: len,
            });
        }
    }
    // Logs without records start where the next one does; the clocks of their commits tell them apart.
    let starts: Vec<u64> = found.iter().map(|log| log.first_seq).collect();
    for log in &mut found {
        if starts.iter().filter(|first| **first == log.first_seq).count() > 1 {
            log.since = scan_log(&log.open(disk)?, &log.name).ok().and_then(|scan| scan.since);
        }
    }
    found.sort_by_key(|log| (log.first_seq, log.since));
    Ok(found)
}

/// Cuts an open log, makes it durable and moves it into the tier.
fn settle(disk: &dyn Disk, paths: &LogPaths, nsid: Nsid, log: &Found, valid: u64) -> Result<()> {
    let path = paths.open.join(open_name(nsid, &log.name));
    let step = || format!("cut log {} at byte {valid}", path.display());
    let mut file = disk.append(&path).context(step)?;
    if valid < log.len {
        file.truncate(valid).context(step)?;
    }
    file.sync().context(step)?;
    create_dirs(disk, &paths.sealed).context(|| format!("create {}", paths.sealed.display()))?;
    move_to_tier(disk, paths, nsid, &log.name)
}

/// The directory for sealed logs is there.
fn move_to_tier(disk: &dyn Disk, paths: &LogPaths, nsid: Nsid, name: &str) -> Result<()> {
    let (from, to) = (paths.open.join(open_name(nsid, name)), paths.sealed.join(name));
    let step = || format!("seal log {}", from.display());
    disk.rename(&from, &to).context(step)?;
    paths.names.end(&open_name(nsid, name));
    // The old name may come back with a power cut: recovery takes the new one then.
    disk.sync_dir(&paths.sealed).context(step)
}
