//! Says what can be mended, and mends it: files that something else knows are put back, the index is made anew, what nobody
//! needs is removed, and what is damaged for good is given up where that is asked for by name.
//!
//! Everything here can be interrupted and repeated; what cannot be mended stays set apart, and the others are served.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use tokio::runtime::Handle;

use super::objects::deletions_of;
use super::{DELETED, Problem, Remedy, Report, Scope, restore};
use crate::engine::Engine;
use crate::engine::catalog::put;
use crate::engine::layout::deletions_key;
use crate::engine::merge::unreadable;
use crate::engine::namespace::head::{Head, objects};
use crate::engine::namespace::{Lost, Namespace};
use crate::engine::sweep::SWEEP_REFUSED;
use crate::error::{Context as _, Error, Result};
use crate::format::deletions;
use crate::format::manifest::{DeletionsRef, Manifest};
use crate::format::names::parse_name;
use crate::format::node::{FormatFile, VERSION, encode_format};
use crate::meta::ObjectFact;
use crate::model::ids::{NamespaceName, Nsid};
use crate::platform::disk::{publish, unpublish};

/// What is to be repaired.
#[derive(Clone, Debug, PartialEq)]
pub struct RepairRequest {
    pub scope: Scope,
    /// Only say what would be done.
    pub dry_run: bool,
    /// A namespace whose damaged objects are given up, with the documents in them.
    pub drop_damaged: Option<NamespaceName>,
    /// What nobody needs is removed even where that is most of the store.
    pub force: bool,
}

/// What a repair does, or would do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RepairReport {
    pub dry_run: bool,
    pub actions: Vec<Action>,
    pub removed_objects: u64,
    pub removed_bytes: u64,
    /// What cannot be mended, or not without giving something up.
    pub remaining: Vec<Problem>,
}

/// One step of a repair.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Action {
    pub namespace: String,
    pub what: String,
    /// Why it was not done, when it was tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

impl Engine {
    /// Rebuilds the index from the files and removes what nobody needs. Gives how many objects of how many bytes went.
    /// Blocking.
    pub fn repair(&self) -> Result<(u64, u64)> {
        self.recount()?;
        self.sweep()
    }

    /// Says what a repair would do, or does it. Blocking; the other namespaces are served meanwhile.
    pub fn repair_in(&self, request: &RepairRequest) -> Result<RepairReport> {
        let found = self.check_in(3, &request.scope)?;
        let mut report = RepairReport { dry_run: request.dry_run, ..RepairReport::default() };
        let mut read_again = BTreeSet::new();
        for problem in &found.problems {
            let what = match problem.remedy {
                Remedy::Restore => format!("put {} back", problem.file),
                Remedy::ReadAgain => format!("read {} again from the bucket", problem.file),
                _ => continue,
            };
            let mut action = Action { namespace: problem.namespace.clone(), what, failed: None };
            if !request.dry_run {
                let done = match problem.file.strip_prefix("store/").filter(|_| problem.remedy == Remedy::ReadAgain) {
                    Some(key) => self.read_again(problem, key).inspect(|()| read_again.extend([key.to_owned()])),
                    None => self.put_back(problem),
                };
                action.failed = done.err().map(|error| error.message().to_owned());
            }
            report.actions.push(action);
        }
        if !read_again.is_empty() {
            self.open_anew(&read_again)?;
        }
        self.compare_tags(request, &mut report);
        if let Some(name) = &request.drop_damaged {
            let given_up = self.drop_damaged(name, request)?;
            report.actions.extend(given_up.into_iter().map(|what| Action {
                namespace: name.to_string(),
                what,
                failed: None,
            }));
        }
        if request.scope == Scope::Store {
            for problem in found.problems.iter().filter(|problem| problem.remedy == Remedy::Forget) {
                let what = format!("go on without {}: {}", problem.file, problem.what);
                report.actions.push(Action { namespace: problem.namespace.clone(), what, failed: None });
            }
            let what = format!(
                "make meta.redb anew from {} namespaces, and remove what nobody references, at most {} objects of {} bytes",
                found.namespaces, found.orphans, found.orphan_bytes
            );
            report.actions.push(Action { namespace: "store".to_owned(), what, failed: None });
            if request.dry_run {
                self.sweep_for(request, &mut report)?;
            }
        }
        if request.dry_run {
            report.remaining = remaining(found, request);
            return Ok(report);
        }
        // What is set apart is looked at again by whoever asks for it next.
        self.slots().forget_quarantined(|name| request.scope.has(name));
        if request.scope == Scope::Store {
            self.recount()?;
            self.sweep_for(request, &mut report)?;
        }
        report.remaining = self.check_in(3, &request.scope)?.problems;
        Ok(report)
    }

    /// Sweeps, or looks whether it would be refused: then the last action says so.
    fn sweep_for(&self, request: &RepairRequest, report: &mut RepairReport) -> Result<()> {
        match self.sweep_up(request.force, request.dry_run) {
            Ok(removed) => (report.removed_objects, report.removed_bytes) = removed,
            Err(error) if error.code() == SWEEP_REFUSED => {
                if let Some(sweep) = report.actions.last_mut() {
                    let hint = error.hint().unwrap_or_default();
                    sweep.failed = Some(format!("nothing is removed: {}; {hint}", error.message()));
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn put_back(&self, problem: &Problem) -> Result<()> {
        let context = &self.context;
        let file = problem.file.as_str();
        if file == "meta.redb" {
            return self.recount();
        }
        if file == "node.json" {
            return context.edit_node(|_| true);
        }
        if file == "store/_format.json" {
            let path = context.layout.format_file();
            let format = FormatFile { format: VERSION, store: context.node.file().store };
            return publish(&*context.disk, &path, &encode_format(&format)?)
                .context(|| format!("write {}", path.display()));
        }
        let not_any_more = || Error::unavailable(format!("{file}: what it can be made from is not there any more"));
        let label = problem.namespace.trim_end_matches(DELETED);
        if file.starts_with("local/names/") {
            let known = context.meta.names()?.remove(label).ok_or_else(not_any_more)?;
            return put(&*context.disk, &context.layout, &parse_name(label).ok_or_else(not_any_more)?, &known);
        }
        for (_, _, nsid) in self.incarnations_with(problem) {
            let _commits = context.commits.of(nsid);
            let kin = context.kin().get(&nsid).cloned();
            if file.ends_with("/deleted.json")
                && let Some(kin) = kin
            {
                return restore::mark(context, nsid, &kin).map(drop);
            }
            if file.starts_with("local/") && restore::manifest(context, nsid)? {
                return Ok(());
            }
            if let Some(key) = file.strip_prefix("store/")
                && let Some(head) = Head::load(context, nsid)?
                && let Some((segment, object)) = deletions_of(&head.manifest, key)
            {
                let bytes = restore::dead_rows(context, &head.manifest, segment, object).ok_or_else(not_any_more)?;
                return context.tier.put(key, &bytes).map(drop);
            }
        }
        Err(not_any_more())
    }

    /// The incarnations that a problem may be of: several deleted ones may have had one name.
    fn incarnations_with(&self, problem: &Problem) -> impl Iterator<Item = (String, NamespaceName, Nsid)> {
        let scope = parse_name(problem.namespace.trim_end_matches(DELETED)).map(Scope::Namespace);
        let named = scope.map(|scope| self.incarnations(&scope)).unwrap_or_default();
        named.into_iter().filter(|(label, ..)| *label == problem.namespace)
    }

    /// Reads what the bucket has of an object.
    fn read_again(&self, problem: &Problem, key: &str) -> Result<()> {
        let fact = self.in_bucket(key).or_else(|| self.written_down(problem, key));
        let fact = fact.ok_or_else(|| Error::unavailable(format!("{key}: nothing here needs it any more")))?;
        self.context.tier.read_again(key, fact.bytes, fact.crc32c)
    }

    /// What a state or a tag of the namespace with a problem says of an object.
    fn written_down(&self, problem: &Problem, key: &str) -> Option<ObjectFact> {
        let chains = self
            .incarnations_with(problem)
            .flat_map(|(label, name, nsid)| self.check_chain(&mut Report::default(), &label, &name, nsid));
        chains.into_iter().find_map(|mut chain| chain.objects.remove(key)).map(|(fact, _)| fact)
    }

    /// Has the next pass take tags from the bucket again of which the files here are damaged, where it has them as far as is known.
    fn compare_tags(&self, request: &RepairRequest, report: &mut RepairReport) {
        for (label, _, nsid) in self.incarnations(&request.scope) {
            // Of one that is missing nobody here knows whether it was deleted: a reclaim looks into the bucket.
            let Ok(there) = self.tag_revisions(nsid) else { continue };
            let Ok(tags) = self.lost_tags(nsid, &there) else { continue };
            if tags.is_empty() {
                continue;
            }
            let what = format!("take tags from the bucket again in the next pass: {}", tags.join(", "));
            let done = if request.dry_run { Ok(tags) } else { self.take_tags_again(nsid, &there) };
            let failed = done.err().map(|error| error.message().to_owned());
            report.actions.push(Action { namespace: label, what, failed });
        }
    }

    /// Commits a state without the objects that are damaged; says what goes with each.
    fn drop_damaged(&self, name: &NamespaceName, request: &RepairRequest) -> Result<Vec<String>> {
        let dry_run = request.dry_run;
        let context = &self.context;
        let door = self.door(name);
        let _door = tokio::task::block_in_place(|| door.blocking_lock());
        if self.slots().has_open(name) {
            return Err(Error::invalid(format!("{name} is in use, its damaged objects cannot be given up now"))
                .with_hint("stop the daemon and run `shoal repair --data-dir DIR --drop-damaged NAME`"));
        }
        let nsid = self.catalog.find(name).ok_or_else(|| crate::engine::not_found(name))?;
        context.go_by_files(nsid)?;
        let head = Head::load(context, nsid)
            .context(|| format!("give up what is damaged of {name}"))?
            .ok_or_else(|| Error::corrupt(format!("{name} has no manifest; it must be put back from a copy")))?;
        let mut given_up = Vec::new();
        let mut next = head.manifest.clone();
        for fact in objects(&head.manifest) {
            let Err(error) = self.verify(&fact, 3) else { continue };
            if !is_to_go(&fact.key, &error, dry_run)? {
                continue;
            }
            if dry_run && self.is_recomputable(&head.manifest, &fact.key) {
                // It is put back first when this is meant.
                continue;
            }
            if self.in_bucket(&fact.key).is_some() && !request.force {
                if dry_run {
                    continue;
                }
                return Err(Error::invalid(format!("{}: {}, and the bucket has it", fact.key, error.message())).with_hint(
                    "run `shoal repair` while the daemon serves: it reads it again. With --force it is given up all the same, and \
                     its documents go on every node of the bucket",
                ));
            }
            given_up.push(self.give_up(name, &mut next, &fact.key, &error, dry_run)?);
        }
        let is_moved = !given_up.is_empty();
        let answers = self
            .damaged_answers(nsid)?
            .into_iter()
            .map(|(file, error)| (file.path(context, nsid), error, "repeated writes may take effect a second time"));
        let bases = unreadable(context, nsid)?
            .into_iter()
            .map(|(_, path, error)| (path, error, "the next merge compares with an older state"));
        let mut files = Vec::new();
        for (path, error, lost) in answers.chain(bases) {
            let file = self.below_root(&path);
            if is_to_go(&file, &error, dry_run)? {
                given_up.push(format!("give up {file} ({}): {lost}", error.message()));
                files.push(path);
            }
        }
        // What is put back first is not there yet in a dry run: then nobody can say.
        let lost = Namespace::lost(context, name, &next);
        if let Err(error) = &lost {
            is_to_go(&format!("a log of {name}"), error, dry_run)?;
        }
        if !dry_run && !files.is_empty() {
            context.meta.distrust("what was held by files that are given up is counted");
            for path in files {
                unpublish(&*context.disk, &path).context(|| format!("remove {}", path.display()))?;
            }
        }
        if dry_run {
            given_up.extend(lines(&lost.unwrap_or_default()));
            return Ok(given_up);
        }
        let head = match is_moved {
            true => head.commit(context, |manifest| {
                *manifest = next;
                manifest.data_seq += 1;
                manifest.updated_ms = context.clock.now_millis();
            })?,
            false => head,
        };
        given_up.extend(lines(&self.write_what_is_left(name, head)?));
        self.slots().remove(name);
        Ok(given_up)
    }

    /// Where logs lack something, or have changes of what is gone: makes a segment of what is left of them, so that nothing needs them
    /// any more. Until that is committed the next repair finds the same.
    fn write_what_is_left(&self, name: &NamespaceName, head: Head) -> Result<Lost> {
        let (namespace, lost) = Namespace::open_without(&self.context, name, head)?;
        if !lost.is_nothing() {
            tokio::task::block_in_place(|| Handle::current().block_on(namespace.leave_logs()))?;
            self.context.meta.distrust("logs that are given up are counted");
        }
        namespace.close()?;
        Ok(lost)
    }

    /// Takes one damaged object out of a manifest; says what is lost.
    fn give_up(
        &self,
        name: &NamespaceName,
        next: &mut Manifest,
        key: &str,
        error: &Error,
        dry_run: bool,
    ) -> Result<String> {
        let why = error.message();
        if let Some(at) = next.segments.iter().position(|segment| segment.key == key) {
            let segment = next.segments.remove(at);
            let dead = segment.deletions.map_or(0, |object| object.rows);
            let documents = segment.rows.saturating_sub(dead);
            return Ok(format!("give up segment {key} ({why}): {documents} documents are lost"));
        }
        if let Some(at) = next.logs.iter().position(|log| log.key == key) {
            let log = &next.logs[at];
            let lost = format!("records {} to {} are lost", log.first_seq, log.last_seq);
            next.logs.remove(at);
            return Ok(format!("give up log {key} ({why}): {lost}"));
        }
        if let Some(at) = next.conflicts.iter().position(|conflict| conflict == key) {
            next.conflicts.remove(at);
            return Ok(format!("give up {key} ({why}): what merges did not take is lost"));
        }
        let (manifest, nsid) = (next.clone(), next.nsid);
        for segment in &mut next.segments {
            if segment.deletions.as_ref().is_none_or(|object| object.key != key) {
                continue;
            }
            let before = segment.deletions.take().map_or(0, |object| object.rows);
            let dead = restore::superseded(&self.context, &manifest, segment).unwrap_or_default();
            let known = u32::try_from(dead.len()).unwrap_or(segment.rows);
            if known > 0 && !dry_run {
                let bytes = deletions::encode(&segment.segment_id, segment.rows, &dead);
                let token = self.context.random.next_u64();
                let key = deletions_key(&name.project, nsid, segment.segment_id, token);
                let (bytes, crc32c) = self.context.tier.put(&key, &bytes)?;
                segment.deletions = Some(DeletionsRef { key, bytes, crc32c, rows: known });
            }
            return Ok(format!(
                "give up deletions {key} ({why}): {} of {before} deleted documents come back",
                before.saturating_sub(known)
            ));
        }
        // It went with its segment.
        Ok(format!("give up {key} ({why})"))
    }
}

/// What a person is told of it.
fn lines(lost: &Lost) -> Vec<String> {
    let mut lines: Vec<String> = lost.records.iter().map(|records| format!("give up {records}")).collect();
    if lost.patches > 0 {
        lines.push(format!("give up {} changes of documents that are gone", lost.patches));
    }
    lines
}

/// The problems that stay.
fn remaining(found: Report, request: &RepairRequest) -> Vec<Problem> {
    let dropped = request.drop_damaged.as_ref().map(ToString::to_string);
    let stays = |problem: &Problem| match problem.remedy {
        Remedy::Restore | Remedy::ReadAgain => false,
        Remedy::DropDamaged => dropped.as_deref() != Some(problem.namespace.as_str()),
        Remedy::Forget => request.scope != Scope::Store,
        Remedy::Lost | Remedy::FromACopy | Remedy::Unreadable => true,
    };
    found.problems.into_iter().filter(stays).collect()
}

/// Whether something is given up for what is wrong with it. What cannot be read now may be whole: that ends all, unless nothing is to
/// be done.
fn is_to_go(file: &str, error: &Error, dry_run: bool) -> Result<bool> {
    if error.is_unread() && !dry_run {
        return Err(Error::unavailable(format!(
            "nothing is given up: {file} cannot be read now and may be whole: {}",
            error.message()
        ))
        .with_hint(error.hint().unwrap_or("see that it can be read, and run it again")));
    }
    Ok(!error.is_unread())
}
