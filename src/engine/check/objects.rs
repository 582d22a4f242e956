//! Verifies the objects that manifests name: there, of the right size, sound, and in agreement with each other.

use std::collections::BTreeSet;

use roaring::RoaringBitmap;

use super::chain::Chain;
use super::{Remedy, Report, restore};
use crate::engine::Engine;
use crate::engine::journal::first_seq_of;
use crate::engine::layout::log_key;
use crate::engine::missing_logs::{is_gone, missing_logs};
use crate::engine::namespace::head::objects;
use crate::engine::remote::owner_of;
use crate::error::{Error, Result};
use crate::format::conflicts::decode_conflicts;
use crate::format::deletions;
use crate::format::log::decode_log;
use crate::format::manifest::{Manifest, SegmentRef};
use crate::meta::ObjectFact;
use crate::model::ids::{NamespaceName, Nsid};
use crate::platform::disk::if_there;
use crate::segment::Segment;
use crate::segment::merge::Input;
use crate::segment::unique::live_twice;

impl Engine {
    pub(super) fn check_objects(&self, report: &mut Report, label: &str, chain: &mut Chain, level: u8) -> Result<()> {
        let common = chain.head.as_ref().and_then(|head| self.common(head.nsid).ok().flatten());
        let in_bucket: BTreeSet<&str> =
            common.iter().flat_map(|common| &common.segments).map(|segment| segment.key.as_str()).collect();
        for (key, (fact, is_needed)) in &chain.objects {
            // What only states of the past name the bucket may have, too. Where it cannot be asked, that is said.
            let elsewhere = match in_bucket.contains(key.as_str()) {
                true => Ok(!self.context.tier.has(key, 0)),
                false if is_read_in_parts(key) => self.context.tier.is_elsewhere(key, fact.bytes),
                false => Ok(false),
            };
            if let Ok(true) = elsewhere {
                report.objects += 1;
                report.in_bucket += 1;
                continue;
            }
            match elsewhere.and_then(|_| self.verify(fact, level)) {
                Ok(()) => {
                    report.objects += 1;
                    report.bytes += fact.bytes;
                }
                Err(error) => {
                    let remedy = match &chain.head {
                        Some(head) if *is_needed && self.is_recomputable(head, key) => Remedy::Restore,
                        _ if self.in_bucket(key).is_some() => Remedy::ReadAgain,
                        // What a tag or a state of the past names it may have, too, as far as it can be asked.
                        _ if self.context.tier.is_in_bucket(key, fact.bytes).unwrap_or(false) => Remedy::ReadAgain,
                        _ if *is_needed => Remedy::DropDamaged,
                        _ => Remedy::Lost,
                    };
                    let what = lost(chain.head.as_ref(), key, &error);
                    report.add(label, format!("store/{key}"), what, remedy.of(&error));
                }
            }
        }
        if level >= 3
            && let Some(head) = &chain.head
        {
            self.check_documents(report, label, head, level)?;
        }
        Ok(())
    }

    /// One object is there and sound.
    pub(super) fn verify(&self, fact: &ObjectFact, level: u8) -> Result<()> {
        let key = &fact.key;
        let found = self.context.disk.size(&self.context.tier.path(key)).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Error::corrupt("it is missing"),
            _ => Error::reading(error),
        })?;
        // What a merge did not take lies beside the state: named by its key alone.
        if key.contains("/conflicts/") {
            return if level < 3 { Ok(()) } else { decode_conflicts(&self.context.tier.read(key)?, key).map(drop) };
        }
        if found != fact.bytes {
            return Err(Error::corrupt(format!("{found} bytes, expected {}", fact.bytes)));
        }
        if level < 3 {
            return Ok(());
        }
        let (_, found) = self.context.tier.checksum(key)?;
        if found != fact.crc32c {
            return Err(Error::corrupt(format!("checksum is {found:08x}, expected {:08x}", fact.crc32c)));
        }
        if key.ends_with(".wal") {
            decode_log(&self.context.tier.read(key)?, key).map(drop)
        } else if key.ends_with(".del") {
            deletions::decode(&self.context.tier.read(key)?, key).map(drop)
        } else {
            Segment::open(self.context.tier.map(key, fact.bytes)?, key)?.verify()
        }
    }

    /// An object that the bucket has as far as this node knows: the last state that both had in common names it.
    pub(super) fn in_bucket(&self, key: &str) -> Option<ObjectFact> {
        let common = self.common(owner_of(key)?).ok().flatten()?;
        // The length of what merges did not take is written down nowhere.
        objects(&common).into_iter().find(|fact| fact.key == key && fact.bytes > 0)
    }

    pub(super) fn is_recomputable(&self, head: &Manifest, key: &str) -> bool {
        deletions_of(head, key)
            .is_some_and(|(segment, object)| restore::dead_rows(&self.context, head, segment, object).is_some())
    }

    /// Counts documents; at level 4 also holds segments, bitmaps and the manifest's figures against each other.
    fn check_documents(&self, report: &mut Report, label: &str, head: &Manifest, level: u8) -> Result<()> {
        let mut seen: Vec<(&SegmentRef, Segment, RoaringBitmap)> = Vec::new();
        for reference in &head.segments {
            let opened = self.context.tier.open(&reference.key, reference.bytes);
            let Ok(segment) = opened.and_then(|map| Segment::open(map, &reference.key)) else { continue };
            let dead = match &reference.deletions {
                None => RoaringBitmap::new(),
                Some(object) => {
                    let read = self.context.tier.read(&object.key);
                    match read.and_then(|bytes| deletions::decode(&bytes, &object.key)) {
                        Ok((_, _, dead)) => dead,
                        Err(_) => continue,
                    }
                }
            };
            report.documents += u64::from(segment.rows()).saturating_sub(dead.len());
            seen.push((reference, segment, dead));
        }
        if level < 4 {
            return Ok(());
        }
        for (reference, segment, dead) in &seen {
            let found = (segment.rows(), segment.tombstone_count(), segment.logical_bytes(), dead.len());
            let rows = reference.deletions.as_ref().map_or(0, |object| u64::from(object.rows));
            let expected = (reference.rows, reference.tombstones, reference.logical_bytes, rows);
            if found != expected {
                let what = format!("rows, tombstones, bytes and dead rows are {found:?}, expected {expected:?}");
                report.add(label, format!("store/{}", reference.key), what, Remedy::DropDamaged);
            }
        }
        let inputs: Vec<Input> = seen.iter().map(|(_, segment, dead)| Input { segment, dead }).collect();
        let mut twice = Report::default();
        let found = live_twice(&inputs, |id, first, second| {
            let (first, second) = (seen[first].0, seen[second].0);
            let what = format!("document {id} is live here and in {}", second.key);
            twice.add(label, format!("store/{}", first.key), what, Remedy::FromACopy);
        });
        let is_lost = |(at, part): (usize, &(&SegmentRef, Segment, RoaringBitmap))| {
            part.1.believed(Ok(())).err().map(|error| (at, error))
        };
        let found = match seen.iter().enumerate().find_map(is_lost) {
            // What was read of it says nothing of its documents.
            Some(lost) => Err(lost),
            None => {
                twice.problems.into_iter().for_each(|one| report.add(&one.namespace, one.file, one.what, one.remedy));
                report.more_problems += twice.more_problems;
                found
            }
        };
        if let Err((at, error)) = found {
            report.add(label, format!("store/{}", seen[at].0.key), error.message(), Remedy::DropDamaged.of(&error));
        }
        Ok(())
    }

    /// This writer's logs beyond the manifest belong to the namespace, too.
    pub(super) fn check_own_logs(
        &self,
        report: &mut Report,
        label: &str,
        name: &NamespaceName,
        nsid: Nsid,
        head: Option<&Manifest>,
        level: u8,
    ) -> Result<()> {
        let paths = self.context.layout.logs(&name.project, nsid);
        let disk = &self.context.disk;
        let replay_from = head.map_or(0, |head| head.replay_from);
        if self.context.may_reclaim() {
            // The writer holds its logs until their records are in segments.
            let own = log_key(&name.project, nsid, "");
            let missing = head.map(|head| missing_logs(&self.context, (name, head), replay_from)).unwrap_or_default();
            let missing: BTreeSet<String> = missing.into_iter().map(|(key, _)| key).collect();
            for key in self.context.meta.references_below(&own)? {
                let first = key.strip_prefix(&own).and_then(first_seq_of).unwrap_or(0);
                // Its records are in segments: who counts it still, as after a kill while a file cannot be read, counts too much.
                if first < replay_from {
                    continue;
                }
                if is_gone(&self.context, &key)
                    && !head.is_some_and(|head| head.logs.iter().any(|log| log.key == key))
                {
                    let what = format!("it is missing; it holds records from {first} on");
                    let logs = disk.list(&paths.sealed).unwrap_or_default();
                    // Where a later log is left, the gap before it sets the namespace apart.
                    let is_last = !logs.iter().filter_map(|log| first_seq_of(&log.name)).any(|later| later > first);
                    let remedy = match is_last {
                        true if missing.contains(&key) && self.catalog.is_bound(nsid) => Remedy::DropDamaged,
                        true => Remedy::Forget,
                        false => Remedy::FromACopy,
                    };
                    if is_last || level < 3 {
                        report.add(label, format!("store/{key}"), what, remedy);
                    }
                }
            }
        }
        let mut ranges: Vec<(u64, u64, String)> = Vec::new();
        for (dir, is_open) in [(&paths.sealed, false), (&paths.open, true)] {
            let entries = match is_open {
                true => paths.names.of(&**disk, dir, nsid),
                false => if_there(disk.names(dir)).map(Option::unwrap_or_default),
            };
            let entries = entries.unwrap_or_else(|error| {
                report.add(label, self.below_root(dir), Error::reading(error).message(), Remedy::Unreadable);
                Vec::new()
            });
            for entry in entries {
                let path = dir.join(&entry);
                // A log may be sealed or let go of meanwhile.
                let found = if_there(disk.size(&path)).unwrap_or_else(|error| {
                    report.add(label, self.below_root(&path), Error::reading(error).message(), Remedy::Unreadable);
                    None
                });
                let Some(len) = found else { continue };
                let key = log_key(&name.project, nsid, &entry);
                let is_named = head.is_some_and(|head| head.logs.iter().any(|log| log.key == key));
                if !entry.ends_with(".wal") {
                    continue;
                }
                report.objects += u64::from(!is_named);
                report.bytes += if is_named { 0 } else { len };
                if level < 3 {
                    continue;
                }
                let read = disk.read(&path).map_err(Error::reading).and_then(|bytes| decode_log(&bytes, &entry));
                // A copy of the same incarnation that was here before may have left logs that others still read.
                if let Ok(log) = &read
                    && head.is_none_or(|head| head.origin == log.header.origin)
                {
                    let records = log.frames.iter().map(|frame| frame.batch.records.len() as u64).sum::<u64>();
                    let first = log.header.first_seq;
                    ranges.push((first, first + records, self.below_root(&path)));
                }
                if is_named {
                    continue;
                }
                let over = first_seq_of(&entry).is_some_and(|first| first < replay_from);
                let remedy = if over { Remedy::Lost } else { Remedy::DropDamaged };
                let (what, remedy) = match read {
                    // The end of an open log may be a commit on its way.
                    Ok(log) if log.torn && !is_open => {
                        let first = log
                            .frames
                            .last()
                            .map_or(log.header.first_seq, |frame| frame.first_seq + frame.batch.records.len() as u64);
                        (format!("ends in the middle of a commit: records from {first} on are lost"), remedy)
                    }
                    Ok(_) => continue,
                    Err(error) => (error.message().to_owned(), remedy.of(&error)),
                };
                report.add(label, self.below_root(&path), what, remedy);
            }
        }
        ranges.sort();
        let mut expected = replay_from;
        for (first, end, file) in ranges {
            if first > expected {
                let what = format!("records {expected} to {} before it are missing", first - 1);
                report.add(label, file, what, Remedy::FromACopy);
            }
            expected = expected.max(end);
        }
        Ok(())
    }
}

/// The segment whose deletion bitmap has this key.
pub(super) fn deletions_of<'a>(
    head: &'a Manifest,
    key: &str,
) -> Option<(&'a SegmentRef, &'a crate::format::manifest::DeletionsRef)> {
    head.segments.iter().find_map(|segment| {
        segment.deletions.as_ref().filter(|object| object.key == key).map(|object| (segment, object))
    })
}

/// What is wrong with an object of the newest state, and what goes with it.
fn lost(head: Option<&Manifest>, key: &str, error: &Error) -> String {
    let what = error.message();
    let Some(head) = head else { return what.to_owned() };
    if let Some(log) = head.logs.iter().find(|log| log.key == key) {
        return format!("{what}; it holds records {} to {} of {}", log.first_seq, log.last_seq, log.origin);
    }
    if let Some(segment) = head.segments.iter().find(|segment| segment.key == key) {
        let dead = segment.deletions.as_ref().map_or(0, |object| object.rows);
        return format!("{what}; it holds {} documents", segment.rows.saturating_sub(dead));
    }
    if let Some((segment, object)) = deletions_of(head, key) {
        return format!("{what}; it says which {} of {} rows of {} are dead", object.rows, segment.rows, segment.key);
    }
    format!("{what}; a state of the past or a tag needs it")
}

/// Whether parts of an object are brought as they are wanted; all others are wanted here whole.
fn is_read_in_parts(key: &str) -> bool {
    key.contains("/segments/")
}
