//! Looks at everything at rest and says what is wrong.
//!
//! - `again` looks at files that are known to be damaged, and heals what is as it should be;
//! - `chain` reads names, manifests, tags and marks; `objects` verifies what they name; `repair` says what it would do about
//!   it and does it; `restore` puts back single files that something else at rest knows byte for byte.
//!
//! | level | what is looked at, beside the levels below |
//! | --- | --- |
//! | 1 | node, names, chains of manifests, tags |
//! | 2 | every object they name is there with its size, and what nobody names |
//! | 3 | every checksum and every structure; reads the whole store |
//! | 4 | counts of references, rows and documents, made anew |

mod again;
mod chain;
mod objects;
mod repair;
pub mod restore;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use self::repair::{Action, RepairReport, RepairRequest};

use super::Engine;
use super::catalog::stored;
use super::layout::prefix;
use super::lineage::holdings::read_deleted;
use super::namespace::Namespace;
use super::sweep::parts;
use crate::error::{Error, Kind, Result};
use crate::format::names::parse_name;
use crate::format::node::{decode_format, decode_node};
use crate::meta::tables::Kin;
use crate::model::ids::{NamespaceName, Nsid, Project};

/// The most problems one report lists; more are counted.
const PROBLEMS_MAX: usize = 1_000;
/// The deepest level.
pub const LEVEL_MAX: u8 = 4;

/// Behind the name of a namespace that was deleted and can be had back.
const DELETED: &str = " (deleted)";

/// What is looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    Store,
    Project(Project),
    Namespace(NamespaceName),
}

impl Scope {
    /// Reads `store`, `org/project` or `org/project/name`.
    pub fn parse(text: &str) -> Result<Scope> {
        let parts: Vec<&str> = text.split('/').collect();
        match parts.as_slice() {
            ["store"] => Ok(Scope::Store),
            [org, project] => Project::new(org, project).map(Scope::Project),
            [_, _, _] => parse_name(text).map(Scope::Namespace).ok_or_else(|| bad_scope(text)),
            _ => Err(bad_scope(text)),
        }
    }

    fn has(&self, name: &NamespaceName) -> bool {
        match self {
            Scope::Store => true,
            Scope::Project(project) => name.project == *project,
            Scope::Namespace(namespace) => name == namespace,
        }
    }
}

fn bad_scope(text: &str) -> Error {
    Error::invalid(format!("scope {text:?}: expected org/project/name, org/project or store"))
}

/// What was looked at, and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub level: u8,
    pub namespaces: u64,
    /// States of the past and tags that can be asked for.
    pub past: u64,
    pub objects: u64,
    pub bytes: u64,
    /// Of the objects, those that are not all here: the bucket has them.
    #[serde(default)]
    pub in_bucket: u64,
    /// Documents in segments; from level 3 on.
    pub documents: u64,
    pub problems: Vec<Problem>,
    /// Problems beyond the ones listed.
    pub more_problems: u64,
    /// Objects that nothing names, and their bytes: what a crash left over. Not a problem.
    pub orphans: u64,
    pub orphan_bytes: u64,
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `org/project/name`, or `store` for what belongs to no namespace.
    pub namespace: String,
    /// The file, below the data directory.
    pub file: String,
    pub what: String,
    pub remedy: Remedy,
}

/// What can be done about a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Remedy {
    /// `repair` puts the file back as it was.
    Restore,
    /// The bucket has it: `repair` of the running daemon reads it from there again.
    ReadAgain,
    /// The namespace is set apart until the file is put back from a copy, or given up by `repair --drop-damaged`.
    DropDamaged,
    /// Only what this one file is good for is lost: a state of the past, a tag. Nothing needs to be done.
    Lost,
    /// Only the index knows of it: a log of a deleted namespace or one that does without it, or the manifest of a state of the past. Put it
    /// back from a copy, or `repair` forgets it.
    Forget,
    /// The file must be put back from a copy.
    FromACopy,
    /// The operating system does not let it be read. It may be whole, and is never given up.
    Unreadable,
}

impl Remedy {
    /// What can be done about a file of which this error came: one that could not be read is not known to be damaged. Where
    /// something else has its bytes it is put back all the same.
    fn of(self, error: &Error) -> Remedy {
        match self {
            Remedy::Restore | Remedy::ReadAgain => self,
            _ if error.is_unread() => Remedy::Unreadable,
            _ => self,
        }
    }
}

impl Report {
    fn add(&mut self, namespace: &str, file: impl Into<String>, what: impl Into<String>, remedy: Remedy) {
        let problem = Problem { namespace: namespace.to_owned(), file: file.into(), what: what.into(), remedy };
        if self.problems.contains(&problem) {
            return;
        }
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(problem);
        } else {
            self.more_problems += 1;
        }
    }

    pub fn is_whole(&self) -> bool {
        self.problems.is_empty()
    }
}

impl Engine {
    /// Checks everything at rest, at a level from 1 to 4. Blocking; writes may go on.
    pub fn check(&self, level: u8) -> Result<Report> {
        self.check_in(level, &Scope::Store)
    }

    /// Checks what belongs to a scope. Blocking; writes may go on: what seems wrong is looked at again while nothing is
    /// committed, and is wrong only when it still is.
    pub fn check_in(&self, level: u8, scope: &Scope) -> Result<Report> {
        let report = self.look_twice(level, scope)?;
        self.list_damage(&report, scope);
        Ok(report)
    }

    fn look_twice(&self, level: u8, scope: &Scope) -> Result<Report> {
        let mut report = self.look(level, scope)?;
        if report.is_whole() {
            return Ok(report);
        }
        let mut confirmed = Report::default();
        if *scope == Scope::Store {
            let alone = self.context.commits.alone();
            self.check_node(&mut confirmed);
            if level >= 2 {
                self.count_orphans(&mut confirmed, &BTreeSet::new());
            }
            drop(alone);
            if level >= 4 && self.context.meta.is_trusted() {
                self.check_counts(&mut confirmed)?;
            }
        }
        let names =
            report.problems.iter().filter_map(|problem| parse_name(problem.namespace.trim_end_matches(DELETED)));
        for name in names.collect::<BTreeSet<NamespaceName>>() {
            let _commits = self.context.commits.alone();
            match self.look(level, &Scope::Namespace(name)) {
                Ok(again) => confirmed.problems.extend(again.problems),
                // It was deleted meanwhile.
                Err(error) if error.kind() == Kind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        report.problems.retain(|problem| {
            confirmed.problems.iter().any(|known| {
                (&known.namespace, &known.file, &known.what) == (&problem.namespace, &problem.file, &problem.what)
            })
        });
        Ok(report)
    }

    fn look(&self, level: u8, scope: &Scope) -> Result<Report> {
        if !(1..=LEVEL_MAX).contains(&level) {
            return Err(Error::invalid(format!("level: expected 1 to {LEVEL_MAX}, got {level}")));
        }
        let mut report = Report { level, ..Report::default() };
        let mut named = BTreeSet::new();
        for (name, damage) in self.catalog.damaged() {
            if scope.has(&name) {
                let file = self.below_root(&self.context.layout.bindings(&name));
                report.add(&name.to_string(), file, damage.message(), Remedy::FromACopy.of(&damage));
            }
        }
        let mut is_all_known = true;
        for (label, name, nsid) in self.incarnations(scope) {
            report.namespaces += 1;
            if let Err(error) = self.look_at_one(&mut report, &mut named, (&label, &name, nsid), level) {
                let file = self.context.file_of(&error).unwrap_or_else(|| format!("local/{nsid}"));
                report.add(&label, file, error.message(), Remedy::FromACopy.of(&error));
                is_all_known = false;
            }
        }
        for problem in &mut report.problems {
            // Others name it, so it stays known.
            if problem.remedy == Remedy::Forget
                && problem.file.strip_prefix("store/").is_some_and(|key| named.contains(key))
            {
                problem.remedy = Remedy::FromACopy;
            }
        }
        if *scope == Scope::Store {
            self.check_node(&mut report);
            // Whether what nobody names is a leftover is known once all who name something were read.
            if level >= 2 && is_all_known {
                self.count_orphans(&mut report, &named);
            }
            if level >= 4 && self.context.meta.is_trusted() {
                self.check_counts(&mut report)?;
            }
        } else if let Scope::Namespace(name) = scope
            && report.namespaces == 0
            && report.is_whole()
        {
            return Err(super::not_found(name));
        }
        Ok(report)
    }

    /// One incarnation, and what it names. An error where one of its directories cannot be read.
    fn look_at_one(
        &self,
        report: &mut Report,
        named: &mut BTreeSet<String>,
        (label, name, nsid): (&str, &NamespaceName, Nsid),
        level: u8,
    ) -> Result<()> {
        let before = report.problems.len() as u64 + report.more_problems;
        let mut chain = self.check_chain(report, label, name, nsid)?;
        if level >= 2 {
            self.check_objects(report, label, &mut chain, level)?;
            self.check_own_logs(report, label, name, nsid, chain.head.as_ref(), level)?;
        }
        if level >= 3 {
            self.check_answers(report, label, nsid)?;
        }
        let is_whole = report.problems.len() as u64 + report.more_problems == before;
        // One that is open was opened by them.
        if level >= 3
            && is_whole
            && !self.slots().has_open(name)
            && let Some(head) = &chain.head
            && let Err(error) = Namespace::check_logs(&self.context, name, head)
        {
            let file = self.context.file_of(&error).unwrap_or_else(|| format!("log of {nsid}"));
            report.add(label, file, error.message(), Remedy::DropDamaged.of(&error));
        }
        named.extend(chain.objects.into_keys());
        Ok(())
    }

    /// What has a name, and what was deleted and can be had back.
    fn incarnations(&self, scope: &Scope) -> Vec<(String, NamespaceName, Nsid)> {
        let bound = self.catalog.all().into_iter().map(|(name, nsid)| (name.to_string(), name, nsid));
        let deleted = self.ended().into_iter();
        let deleted = deleted.filter_map(|(nsid, name)| Some((format!("{name}{DELETED}"), parse_name(&name)?, nsid)));
        bound.chain(deleted).filter(|(_, name, _)| scope.has(name)).collect()
    }

    /// The incarnations that were deleted and can be had back, with their names. After a kill, and of what is damaged, only marks say so.
    fn ended(&self) -> BTreeMap<Nsid, String> {
        let context = &self.context;
        let mut deleted: BTreeMap<Nsid, String> =
            context.deleted().into_iter().map(|(nsid, kin)| (nsid, kin.name)).collect();
        let known: BTreeMap<Nsid, Kin> = context.meta.all_kin().unwrap_or_default().into_iter().collect();
        for name in context.disk.names(&context.layout.local()).unwrap_or_default() {
            let Some(nsid) = name.parse().ok().map(Nsid).filter(|nsid| !self.catalog.is_bound(*nsid)) else {
                continue;
            };
            let name = match read_deleted(context, nsid) {
                Ok(mark) => mark.map(|mark| mark.name),
                Err(_) => known.get(&nsid).map(|kin| kin.name.clone()),
            };
            if let Some(name) = name {
                deleted.entry(nsid).or_insert(name);
            }
        }
        deleted
    }

    /// An error where the file that says which store this is cannot be read.
    fn check_format(&self) -> Result<()> {
        let format = self.context.disk.read(&self.context.layout.format_file()).map_err(Error::from);
        format.and_then(|bytes| decode_format(&bytes, "_format.json")).map(|_| ())
    }

    fn check_node(&self, report: &mut Report) {
        let layout = &self.context.layout;
        let disk = &self.context.disk;
        // Both files are known in memory, so they can be written again.
        let node = disk.read(&layout.node_file()).map_err(Error::from);
        if let Err(error) = node.and_then(|bytes| decode_node(&bytes, "node.json")) {
            report.add("store", "node.json", error.message(), Remedy::Restore);
        }
        if let Err(error) = self.check_format() {
            report.add("store", self.below_root(&layout.format_file()), error.message(), Remedy::Restore);
        }
        if let Ok(names) = self.context.meta.names() {
            for (name, bound) in names {
                let Some(name) = parse_name(&name) else { continue };
                let dir = layout.bindings(&name);
                let file = self.below_root(&dir.join(super::layout::numbered(bound.rev)));
                match stored(&**disk, &dir) {
                    Ok(Some(found)) if found.rev >= bound.rev => {}
                    Err(error) if error.is_unread() => {
                        report.add(&name.to_string(), file, error.message(), Remedy::Unreadable);
                    }
                    Ok(_) => report.add(&name.to_string(), file, "the binding is missing", Remedy::Restore),
                    Err(error) => report.add(&name.to_string(), file, error.message(), Remedy::Restore),
                }
            }
        }
    }

    fn count_orphans(&self, report: &mut Report, named: &BTreeSet<String>) {
        let own: BTreeSet<String> =
            self.incarnations(&Scope::Store).iter().map(|(_, name, nsid)| prefix(&name.project, *nsid)).collect();
        let (listed, unread) = self.context.tier.list_readable();
        for error in unread {
            let file = self.context.file_of(&error).unwrap_or_else(|| "store".to_owned());
            report.add("store", file, error.message(), Remedy::Unreadable);
        }
        // Asked after the listing, as a sweep does: what is on its way to a manifest is no leftover.
        let at_work = self.at_work();
        for (key, bytes) in listed {
            if parts(&key).is_some_and(|(nsid, _)| at_work.contains(&nsid)) {
                continue;
            }
            let is_own_log = key.split_once("/wal/").is_some_and(|(prefix, _)| own.contains(prefix));
            if key.contains("/namespaces/") && !named.contains(&key) && !is_own_log {
                report.orphans += 1;
                report.orphan_bytes += bytes;
            }
        }
    }

    /// No count may be below what the files say.
    fn check_counts(&self, report: &mut Report) -> Result<()> {
        let ((facts, _), _alone) = self.gather()?;
        let stored = self.context.meta.all_references()?;
        for (key, count) in &facts.references {
            let found = stored.get(key).copied().unwrap_or(0);
            if found < *count {
                let what = format!("object {key}: {found} references counted, expected {count}");
                report.add("store", "meta.redb", what, Remedy::Restore);
            }
        }
        Ok(())
    }

    /// A path as reports give it.
    fn below_root(&self, path: &std::path::Path) -> String {
        path.strip_prefix(self.context.layout.root()).unwrap_or(path).display().to_string()
    }
}
