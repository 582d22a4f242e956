//! Looks at everything at rest and says what is wrong; rebuilds what can be rebuilt.
//!
//! Levels: 1 reads names and manifests; 2 looks for every object they name, with its length; 3 verifies every checksum and
//! every structure, counts documents, and compares the reference counts with the manifests. Level 3 reads the whole store.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Engine;
use super::layout::{log_key, prefix};
use super::namespace::head::{Head, keys};
use crate::error::Result;
use crate::format::deletions;
use crate::format::log::decode_log;
use crate::format::manifest::{Manifest, SegmentRef};
use crate::model::ids::{DocId, NamespaceName, Nsid};
use crate::segment::Segment;

/// The most problems one report lists; more are counted.
const PROBLEMS_MAX: usize = 1_000;

/// What was looked at, and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Report {
    pub level: u8,
    pub namespaces: u64,
    pub objects: u64,
    pub bytes: u64,
    /// Documents in segments; only at level 3.
    pub documents: u64,
    pub problems: Vec<Problem>,
    /// Problems beyond the ones listed.
    pub more_problems: u64,
    /// Objects that no manifest names, and their bytes: what a crash left over. Not a problem.
    pub orphans: u64,
    pub orphan_bytes: u64,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// `org/project/name`, or `store` for what belongs to no namespace.
    pub namespace: String,
    pub what: String,
}

impl Report {
    fn add(&mut self, namespace: &str, what: impl Into<String>) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem { namespace: namespace.to_owned(), what: what.into() });
        } else {
            self.more_problems += 1;
        }
    }

    pub fn is_whole(&self) -> bool {
        self.problems.is_empty()
    }
}

impl Engine {
    /// Checks everything at rest, at a level from 1 to 3. Blocking; writes may go on.
    pub fn check(&self, level: u8) -> Result<Report> {
        let mut report = Report { level, ..Report::default() };
        let mut counted: BTreeMap<String, u64> = BTreeMap::new();
        for (name, nsid) in self.catalog.all() {
            report.namespaces += 1;
            let text = name.to_string();
            match Head::load(&self.context, nsid) {
                Err(error) => report.add(&text, error.message()),
                Ok(None) => report.add(&text, format!("incarnation {nsid} has no manifest")),
                Ok(Some(head)) => {
                    for key in keys(&head.manifest) {
                        *counted.entry(key).or_default() += 1;
                    }
                    if level >= 2 {
                        self.check_objects(&mut report, &text, &head.manifest, level)?;
                        self.check_own_logs(&mut report, &name, &head.manifest, level)?;
                    }
                }
            }
        }
        if level >= 2 {
            self.count_orphans(&mut report, &counted)?;
        }
        if level >= 3 && self.context.meta.is_trusted() {
            self.check_counts(&mut report, &counted)?;
        }
        Ok(report)
    }

    /// Rebuilds the index from the files and removes what nobody needs. Gives how many objects of how many bytes went.
    /// Blocking.
    pub fn repair(&self) -> Result<(u64, u64)> {
        self.recount()?;
        self.sweep()
    }

    fn check_objects(&self, report: &mut Report, name: &str, manifest: &Manifest, level: u8) -> Result<()> {
        let mut seen: Vec<(SegmentRef, Segment, roaring::RoaringBitmap)> = Vec::new();
        for log in &manifest.logs {
            let what = format!("log {}", log.key);
            if let Some(bytes) = self.object(report, name, &what, &log.key, log.bytes, log.crc32c, level)
                && let Err(error) = decode_log(&bytes, &log.key)
            {
                report.add(name, error.message());
            }
        }
        for reference in &manifest.segments {
            let mut dead = roaring::RoaringBitmap::new();
            if let Some(object) = &reference.deletions {
                let what = format!("deletions {}", object.key);
                let bytes = self.object(report, name, &what, &object.key, object.bytes, object.crc32c, level);
                match bytes.map(|bytes| deletions::decode(&bytes, &object.key)) {
                    Some(Ok((_, _, bitmap))) => dead = bitmap,
                    Some(Err(error)) => report.add(name, error.message()),
                    None => {}
                }
            }
            let what = format!("segment {}", reference.key);
            if self.object(report, name, &what, &reference.key, reference.bytes, reference.crc32c, level).is_none() {
                continue;
            }
            let opened = self
                .context
                .tier
                .map(&reference.key, reference.bytes)
                .and_then(|mapping| Segment::open(mapping, &reference.key));
            match opened.and_then(|segment| segment.verify().map(|()| segment)) {
                Ok(segment) => {
                    report.documents += u64::from(segment.rows()).saturating_sub(dead.len());
                    seen.push((reference.clone(), segment, dead));
                }
                Err(error) => report.add(name, error.message()),
            }
        }
        self.check_live_once(report, name, &seen)
    }

    /// A document may be live in one segment only.
    fn check_live_once(
        &self,
        report: &mut Report,
        name: &str,
        seen: &[(SegmentRef, Segment, roaring::RoaringBitmap)],
    ) -> Result<()> {
        for (at, (reference, segment, dead)) in seen.iter().enumerate() {
            for row in (0..segment.rows()).filter(|row| !dead.contains(*row)) {
                let id: DocId = match segment.id_of(row) {
                    Ok(id) => id,
                    Err(error) => {
                        report.add(name, error.message());
                        break;
                    }
                };
                for (other, later, gone) in &seen[at + 1..] {
                    if later.row_of(&id)?.is_some_and(|row| !gone.contains(row)) {
                        report.add(name, format!("document {id} is live in {} and in {}", reference.key, other.key));
                    }
                }
            }
        }
        Ok(())
    }

    /// This writer's sealed logs beyond the manifest belong to the namespace, too.
    fn check_own_logs(
        &self,
        report: &mut Report,
        name: &NamespaceName,
        manifest: &Manifest,
        level: u8,
    ) -> Result<()> {
        let paths = self.context.layout.logs(&name.project, manifest.nsid);
        for entry in self.context.disk.list(&paths.sealed).unwrap_or_default() {
            report.objects += 1;
            report.bytes += entry.len;
            if level >= 3 {
                let key = log_key(&name.project, manifest.nsid, &entry.name);
                match self.context.tier.read(&key).and_then(|bytes| decode_log(&bytes, &key)) {
                    Ok(log) if log.torn => {
                        report.add(&name.to_string(), format!("log {key}: ends in the middle of a commit"));
                    }
                    Ok(_) => {}
                    Err(error) => report.add(&name.to_string(), error.message()),
                }
            }
        }
        Ok(())
    }

    /// Looks for one object; its bytes where its checksum has to be verified and is right, none of them otherwise.
    #[expect(clippy::too_many_arguments, reason = "one object's whole description")]
    fn object(
        &self,
        report: &mut Report,
        name: &str,
        what: &str,
        key: &str,
        bytes: u64,
        crc32c: u32,
        level: u8,
    ) -> Option<Vec<u8>> {
        let path = self.context.tier.path(key);
        match self.context.disk.size(&path) {
            Err(error) => {
                report.add(name, format!("{what}: {error}"));
                return None;
            }
            Ok(found) if found != bytes => {
                report.add(name, format!("{what}: {found} bytes, expected {bytes}"));
                return None;
            }
            Ok(_) => {}
        }
        report.objects += 1;
        report.bytes += bytes;
        if level < 3 {
            return None;
        }
        match self.context.tier.read(key) {
            Err(error) => {
                report.add(name, error.message());
                None
            }
            Ok(content) => {
                let found = crc32c::crc32c(&content);
                if found != crc32c {
                    report.add(name, format!("{what}: checksum is {found:08x}, expected {crc32c:08x}"));
                    return None;
                }
                Some(content)
            }
        }
    }

    fn count_orphans(&self, report: &mut Report, counted: &BTreeMap<String, u64>) -> Result<()> {
        let own: BTreeMap<String, Nsid> =
            self.catalog.all().into_iter().map(|(name, nsid)| (prefix(&name.project, nsid), nsid)).collect();
        for (key, bytes) in self.context.tier.list("")? {
            if !key.contains("/namespaces/") || counted.contains_key(&key) {
                continue;
            }
            let own_log = key.split_once("/wal/").is_some_and(|(prefix, _)| own.contains_key(prefix));
            if !own_log {
                report.orphans += 1;
                report.orphan_bytes += bytes;
            }
        }
        Ok(())
    }

    fn check_counts(&self, report: &mut Report, counted: &BTreeMap<String, u64>) -> Result<()> {
        let stored = self.context.meta.all_references()?;
        for (key, count) in counted {
            let found = stored.get(key).copied().unwrap_or(0);
            if found < *count {
                report.add("store", format!("object {key}: {found} references counted, expected {count}"));
            }
        }
        Ok(())
    }
}
