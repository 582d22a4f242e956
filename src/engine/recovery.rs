//! Reads a namespace's logs back when it is opened, and seals those that are open before the next write.
//!
//! Two steps, because who only reads is to write nothing: [`look`] finds every commit and changes no file, [`settle`] cuts torn tails,
//! moves open logs into the tier and removes what was left over.
//!
//! Invariants:
//! - What was found is durable: an open log is synced once before anything of it is served, as its last commits may have been written
//!   and never synced. Nothing else has to be: of a rename that no sync followed, a power cut leaves one of the two names, and
//!   the log is found by either.
//! - A torn tail is cut before anything is written behind it, so no file that a crash or a failed sync touched is ever appended to again.
//! - What seems torn or damaged is read a second time before it is believed, and what is to be cut once more before it is: by its bytes,
//!   an acknowledged commit at the end of a log that is read wrongly once does not differ from one that was never acknowledged. What
//!   two reads tell apart is refused until two agree. What is whole is believed at once, because every byte of it is proved by a
//!   checksum.
//! - However long the logs are, one frame of them is in memory: every log is proved first, and then gives its frames one after another.

mod salvage;

use std::io;
use std::path::{Path, PathBuf};

use super::journal::{Distrust, LogPaths, SealedLog, Writer, first_seq_of, move_to_tier};
use super::open_logs::open_name;
use crate::error::{Context, Error, Result};
use crate::format::log::{
    FrameReader, HEADER_BYTES, LogHeader, LogScan, MISREAD, PreviousLog, each_frame, first_clock, peek_header,
    scan_log,
};
use crate::format::log_source::LogSource;
use crate::model::ids::{Hlc, Nsid};
use crate::platform::disk::{Disk, RandomFile, TEMPORARY_SUFFIX, create_dirs, if_there};

pub use salvage::salvage;

/// The logs with every acknowledged commit from the sequence number asked for, in order.
#[derive(Debug, Default)]
pub struct Recovered {
    pub logs: Vec<SealedLog>,
    /// Where each of them is, and what it holds.
    scans: Vec<(PathBuf, LogScan)>,
    /// The sequence number asked for.
    replay_from: u64,
    pub next_seq: u64,
    pub unsettled: Unsettled,
}

/// What is to be done before the next write.
#[derive(Debug, Default)]
pub struct Unsettled {
    open: Vec<OpenLog>,
    /// Files that nobody needs.
    leftovers: Vec<PathBuf>,
    /// The rename of the last sealed log may not be durable.
    has_sealed: bool,
}

/// A log that is not in the tier yet.
#[derive(Debug)]
struct OpenLog {
    name: String,
    len: u64,
    /// How much of it may hold acknowledged commits.
    trusted: u64,
    scan: LogScan,
}

/// What became of open logs.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Names of those that are in the tier now.
    pub moved: Vec<String>,
    /// Bytes of commits that were never acknowledged, cut off.
    pub torn_bytes: u64,
}

/// Finds this node's own logs from the record `replay_from` on; what they hold is durable on return, and no file has changed. Of a sealed
/// one that a manifest up to `until` has all of nothing is expected: its removal failed, and logs that were begun later do not know of it.
/// `Corrupt` names the file when an acknowledged commit is damaged or missing; `Unavailable` with code [`MISREAD`] when a second look
/// at one says something else than the first.
pub fn look(
    disk: &dyn Disk,
    paths: &LogPaths,
    writer: Writer,
    (replay_from, until): (u64, Hlc),
    distrust: Option<&Distrust>,
) -> Result<Recovered> {
    let (logs, leftovers) = find(disk, paths, writer, replay_from)?;
    let is_over = |log: &Found| !log.is_open && !is_needed(disk, &paths.sealed, &log.name, replay_from, until);
    let (over, mut logs): (Vec<Found>, Vec<Found>) = logs.into_iter().partition(is_over);
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
    let unsettled = Unsettled { leftovers, ..Unsettled::default() };
    let mut recovered = Recovered { next_seq: replay_from, replay_from, unsettled, ..Recovered::default() };
    // They begin where the first of the others does, or before.
    for log in over.into_iter().chain(logs) {
        let scan = log.scan(disk)?;
        let end = log.first_seq + scan.records;
        if log.is_open {
            if scan.frames > 0 && log.trusted == log.len {
                let file = LogFile::open(disk, &log.path)?;
                file.file.sync().context(|| format!("sync log {}", log.path.display()))?;
            }
            let (name, scan) = (log.name.clone(), scan.clone());
            recovered.unsettled.open.push(OpenLog { name, len: log.len, trusted: log.trusted, scan });
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
        recovered.unsettled.has_sealed |= !log.is_open;
        recovered.logs.push(SealedLog {
            crc32c: scan.crc32c,
            name: log.name,
            first_seq: log.first_seq,
            next_seq: end,
            newest: scan.newest,
            bytes: scan.valid_bytes,
        });
        recovered.scans.push((log.path, scan));
    }
    Ok(recovered)
}

/// Seals what [`look`] found open, and makes durable where sealed logs are. After an error everything is to be looked at anew; it can
/// be interrupted and repeated anywhere. `Unavailable` with code [`MISREAD`] when what is to be cut is not torn after all.
pub fn settle(disk: &dyn Disk, paths: &LogPaths, nsid: Nsid, unsettled: &Unsettled) -> Result<Settled> {
    for path in &unsettled.leftovers {
        if_there(disk.remove(path)).context(|| format!("remove {}", path.display()))?;
        paths.names.end(&path.file_name().unwrap_or_default().to_string_lossy());
    }
    let mut settled = Settled::default();
    for log in &unsettled.open {
        let path = paths.open.join(open_name(nsid, &log.name));
        if log.scan.torn && scan_surely(disk, &path, &log.name, log.trusted)? != log.scan {
            return Err(misread(&log.name));
        }
        let valid = log.scan.valid_bytes;
        let step = || format!("cut log {} at byte {valid}", path.display());
        let mut file = disk.append(&path).context(step)?;
        if valid < log.len {
            file.truncate(valid).context(step)?;
        }
        file.sync().context(step)?;
        settled.torn_bytes += log.len.saturating_sub(valid);
        create_dirs(disk, &paths.sealed).context(|| format!("create {}", paths.sealed.display()))?;
        move_to_tier(disk, paths, nsid, &log.name)?;
        settled.moved.push(log.name.clone());
    }
    if settled.moved.is_empty() && unsettled.has_sealed {
        // A crash may have come between a rename and its sync: what is written next is about logs that are in the tier.
        disk.sync_dir(&paths.sealed).context(|| format!("sync {}", paths.sealed.display()))?;
    }
    Ok(settled)
}

impl Unsettled {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty() && self.leftovers.is_empty() && !self.has_sealed
    }

    /// Whether every log that is to be moved is surely still where it was.
    pub fn is_in_place(&self, disk: &dyn Disk, paths: &LogPaths, nsid: Nsid) -> bool {
        let there = disk.names(&paths.open).unwrap_or_default();
        self.open.iter().all(|log| there.contains(&open_name(nsid, &log.name)))
    }
}

impl Recovered {
    /// Gives every commit's frames in order to `take`: those without records, and those with a record from the one asked for on. Before
    /// anything is settled.
    pub fn replay(&self, disk: &dyn Disk, take: &mut dyn FnMut(FrameReader<'_>) -> Result<()>) -> Result<()> {
        self.logs.iter().zip(&self.scans).try_for_each(|(log, (path, scan))| {
            let file = LogFile { len: log.bytes, ..LogFile::open(disk, path)? };
            each_frame(&file, scan, &log.name, self.replay_from, take)
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
    let scan = surely(name, |scan: &LogScan| !scan.torn, || scan_log(&file, name))?;
    if (scan.valid_bytes, scan.crc32c) != (bytes, crc32c) || scan.torn {
        return Err(Error::corrupt(format!(
            "log {name}: {} bytes with checksum {:08x}, expected {bytes} with {crc32c:08x}",
            file.len, scan.crc32c
        )));
    }
    each_frame(&file, &scan, name, from, take)
}

/// What the log at `path` has.
pub fn scan(disk: &dyn Disk, path: &Path) -> Result<LogScan> {
    scan_surely(disk, path, &path.display().to_string(), LogFile::open(disk, path)?.len)
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

/// Whether a whole log has commits, none of them with a record or after `until`.
fn is_answered(disk: &dyn Disk, path: &Path, name: &str, until: Hlc) -> Result<bool> {
    let log = LogFile::open(disk, path)?;
    if first_clock(&log)?.is_some_and(|since| since > until) {
        return Ok(false);
    }
    let scan = scan_log(&log, name)?;
    Ok(scan.frames > 0 && scan.records == 0 && scan.newest <= until && !scan.torn)
}

/// What a look says; a second one where the first proves nothing. Two that prove nothing have to say the same.
fn surely<T: PartialEq>(name: &str, is_proved: impl Fn(&T) -> bool, look: impl Fn() -> Result<T>) -> Result<T> {
    let first = look();
    if first.as_ref().is_ok_and(&is_proved) {
        return first;
    }
    let again = look();
    let agree = match (&first, &again) {
        (_, Ok(again)) if is_proved(again) => true,
        (Ok(first), Ok(again)) => first == again,
        (Err(first), Err(again)) => first.message() == again.message(),
        _ => false,
    };
    if agree { again } else { Err(misread(name)) }
}

fn misread(name: &str) -> Error {
    Error::unavailable(format!("log {name}: two reads of it differ, nothing is decided by either"))
        .with_code(MISREAD)
        .with_hint("send the same again; look at the disk's health if it does not pass")
}

/// Finds the end of what may hold acknowledged commits of a log.
fn scan_surely(disk: &dyn Disk, path: &Path, name: &str, trusted: u64) -> Result<LogScan> {
    // Opened for each look: nothing of the first is kept.
    let look = || scan_log(&LogFile { len: trusted, ..LogFile::open(disk, path)? }, name);
    surely(name, |scan: &LogScan| !scan.torn, look)
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
    fn scan(&self, disk: &dyn Disk) -> Result<LogScan> {
        scan_surely(disk, &self.path, &self.name, self.trusted)
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
        let file = opened.map_err(Error::reading).context(step)?;
        let len = file.size().map_err(Error::reading).context(step)?;
        Ok(LogFile { file, len, path: path.to_owned() })
    }

    fn header(&self, name: &str) -> Result<LogHeader> {
        let mut start = [0; HEADER_BYTES];
        let start = &mut start[..usize::try_from(self.len).unwrap_or(HEADER_BYTES).min(HEADER_BYTES)];
        self.read_at(0, start)?;
        peek_header(start, name)
    }
}

impl LogSource for LogFile {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, at: u64, out: &mut [u8]) -> Result<()> {
        let read = self.file.read_at(at, out).map_err(Error::reading);
        read.context(|| format!("read log {} at byte {at}", self.path.display()))
    }
}

/// Whether all records of the sealed log `name` come before `replay_from`: a flush seals the log before it sets that number, so
/// it lies between two logs. An open one of that kind was never written to.
fn is_over(name: &str, replay_from: u64) -> bool {
    first_seq_of(name).is_some_and(|first| first < replay_from)
}

/// The writer's own logs that may have records from `replay_from` on, in order, and files that nobody needs.
fn find(disk: &dyn Disk, paths: &LogPaths, writer: Writer, replay_from: u64) -> Result<(Vec<Found>, Vec<PathBuf>)> {
    let prefix = open_name(writer.nsid, "");
    let (mut found, mut leftovers): (Vec<Found>, Vec<PathBuf>) = (Vec::new(), Vec::new());
    for (dir, is_open) in [(&paths.sealed, false), (&paths.open, true)] {
        let entries = match is_open {
            true => paths.names.of(disk, dir, writer.nsid),
            false => if_there(disk.names(dir)).map(Option::unwrap_or_default),
        };
        for entry in &entries.map_err(Error::reading).context(|| format!("list {}", dir.display()))? {
            let name = if is_open { entry.strip_prefix(&prefix) } else { Some(entry.as_str()) };
            let Some(name) = name else { continue };
            let path = dir.join(entry);
            let is_over = is_over(name, replay_from);
            // Its creation failed, so nothing was acknowledged in it; or it was sealed, and its old name came back with a power cut.
            let is_open_again = is_open && (is_over || found.iter().any(|log| log.name == name));
            if name.ends_with(TEMPORARY_SUFFIX) || is_open_again {
                leftovers.push(path);
                continue;
            }
            if is_over {
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
            let header = surely(name, |_| true, || file.header(name))?;
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
            log.since = match log.scan(disk) {
                Err(error) if error.code() == MISREAD => return Err(error),
                scan => scan.ok().and_then(|scan| scan.since),
            };
        }
    }
    found.sort_by_key(|log| (log.first_seq, log.since));
    Ok((found, leftovers))
}
