//! What is left of damaged logs, for who gives up the rest.

use std::path::PathBuf;

use super::{LogFile, Recovered};
use crate::engine::journal::{LogPaths, SealedLog, Writer, first_seq_of};
use crate::engine::open_logs::open_name;
use crate::error::{Context, Error, Result};
use crate::format::log::scan_beginning;
use crate::platform::disk::{Disk, TEMPORARY_SUFFIX, if_there};

/// Finds the commits from the record `replay_from` on that are whole in a writer's own logs, and says what else was in these. There is
/// nothing to settle: who gives up the rest writes what was found into a segment, and numbers records from `next_seq` on, above all
/// of these logs. No file changes. An error where one cannot be read now.
pub fn salvage(
    disk: &dyn Disk,
    paths: &LogPaths,
    writer: Writer,
    replay_from: u64,
) -> Result<(Recovered, Vec<String>)> {
    let mut recovered = Recovered { next_seq: replay_from, replay_from, ..Recovered::default() };
    let mut lost = Vec::new();
    for (first, is_open, name, path) in files(disk, paths, writer, replay_from)? {
        let file = LogFile::open(disk, &path)?;
        let found = file.header(&name).and_then(|header| Ok((header, scan_beginning(&file, &name)?)));
        let (header, (scan, damage)) = match found {
            Err(error) if error.is_unread() => return Err(error),
            Err(error) => {
                lost.push(format!("records from {first} on of log {name} ({})", error.message()));
                recovered.next_seq = recovered.next_seq.max(first + 1);
                continue;
            }
            Ok(found) => found,
        };
        if (header.nsid, header.origin) != (writer.nsid, writer.origin) {
            continue;
        }
        if first > recovered.next_seq {
            lost.push(format!("records {} to {}, whose log is missing or damaged", recovered.next_seq, first - 1));
        }
        let end = first + scan.records;
        match damage {
            Some(error) => lost.push(format!("records from {end} on of log {name} ({})", error.message())),
            // The end of an open log may be a commit that was never acknowledged.
            None if scan.torn && !is_open => {
                lost.push(format!("records from {end} on of log {name}, which ends in the middle of a commit"));
            }
            None => {}
        }
        recovered.next_seq = recovered.next_seq.max(end).max(first + 1);
        recovered.logs.push(SealedLog {
            crc32c: scan.crc32c,
            name,
            first_seq: first,
            next_seq: end,
            newest: scan.newest,
            bytes: scan.valid_bytes,
        });
        recovered.scans.push((path, scan));
    }
    Ok((recovered, lost))
}

/// The logs that may have records from `replay_from` on, by their first ones: whether each is open, its name and its path.
fn files(
    disk: &dyn Disk,
    paths: &LogPaths,
    writer: Writer,
    replay_from: u64,
) -> Result<Vec<(u64, bool, String, PathBuf)>> {
    let prefix = open_name(writer.nsid, "");
    let mut found: Vec<(u64, bool, String, PathBuf)> = Vec::new();
    for (dir, is_open) in [(&paths.sealed, false), (&paths.open, true)] {
        let entries = match is_open {
            true => paths.names.of(disk, dir, writer.nsid),
            false => if_there(disk.names(dir)).map(Option::unwrap_or_default),
        };
        for entry in entries.map_err(Error::reading).context(|| format!("list {}", dir.display()))? {
            let name = if is_open { entry.strip_prefix(&prefix) } else { Some(entry.as_str()) };
            let Some((name, first)) = name.and_then(|name| Some((name, first_seq_of(name)?))) else { continue };
            let is_there = found.iter().any(|(_, _, known, _)| known == name);
            if first >= replay_from && !is_there && !name.ends_with(TEMPORARY_SUFFIX) {
                found.push((first, is_open, name.to_owned(), dir.join(&entry)));
            }
        }
    }
    found.sort();
    Ok(found)
}
