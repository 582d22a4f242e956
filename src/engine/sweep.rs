//! Removes what a crash left, while writes go on, and nothing when that would be most of the store.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::Path;
use std::sync::PoisonError;

use super::catalog::directories;
use super::context::Context;
use super::layout::number_of;
use super::lineage::holdings::generations;
use super::namespace::head::{Head, reclaim};
use super::recovery::is_needed;
use super::{Engine, Slot};
use crate::error::{Context as _, Error, Kind, Result};
use crate::format::names::parse_name;
use crate::model::ids::{Hlc, Nsid, Project};
use crate::platform::disk::{if_there, unpublish};

/// The code of a sweep that would have removed most of the store.
pub const SWEEP_REFUSED: &str = "sweep_refused";

/// So often directories of an incarnation that ended are looked at, a pass of the background apart: what was being built for it when it
/// ended has come to nothing by then.
const ENDED_LOOKS: u32 = 8;
/// Of so many incarnations, those that ended last; a start finds the others.
const ENDED_MAX: usize = 1_024;

/// Whatever share of the store it is, so much may go: what one interrupted merge of segments or restore leaves on a small node.
const FREE_BYTES: u64 = 64 << 20;
/// A crash leaves an incarnation or two that have files and no name yet.
const FREE_INCARNATIONS: usize = 2;

/// What a sweep looks at.
struct Listed {
    /// Objects and their bytes.
    objects: Vec<(String, u64)>,
    /// Names in the directory of open logs.
    logs: Vec<String>,
    /// Incarnations that have manifests.
    incarnations: Vec<Nsid>,
    /// Incarnations that have directories of objects.
    stored: Vec<(Project, Nsid)>,
}

/// What nobody needs of that.
struct Leftovers {
    listed: Listed,
    /// Bytes of logs that manifests which are there have in segments: however many, nothing is lost that would need them.
    settled_bytes: u64,
    /// How many incarnations can be named.
    bound: usize,
}

impl Engine {
    /// Removes what a crash left: unfinished files, objects nobody references, logs whose records are in segments, files of
    /// deleted incarnations. Gives how many objects of how many bytes went. Conflict with code [`SWEEP_REFUSED`] when that is
    /// most of the store: then names or manifests are lost rather than objects left over. Blocking; runs while writes go on.
    pub fn sweep(&self) -> Result<(u64, u64)> {
        self.sweep_up(false, false)
    }

    /// The same; `forced`: whatever share of the store it is; `dry_run`: nothing is removed.
    pub(super) fn sweep_up(&self, forced: bool, dry_run: bool) -> Result<(u64, u64)> {
        let context = &self.context;
        if !context.may_reclaim() {
            return Ok((0, 0));
        }
        let listed = self.listed()?;
        let store_bytes = listed.bytes();
        let stored = listed.stored.clone();
        // Most of it is needed. What is not is looked at again while nobody commits, who then waits for little.
        let first = self.leftovers(listed)?;
        let alone = context.commits.alone();
        if context.is_stopping() {
            return Ok((0, 0));
        }
        let left = self.leftovers(first.listed)?;
        if !forced {
            left.check_share(context, store_bytes)?;
        }
        if dry_run {
            return Ok((0, 0));
        }
        let bytes = left.listed.bytes();
        let objects: Vec<String> = left.listed.objects.into_iter().map(|(key, _)| key).collect();
        reclaim(context, &objects);
        let log_dir = context.layout.log();
        for log in &left.listed.logs {
            let _ = context.disk.remove(&log_dir.join(log));
        }
        let mut failed = None;
        for nsid in &left.listed.incarnations {
            context.commits.touch(*nsid);
            // What the disk does not let go of is no concern of the others.
            if let Err(left) = remove_manifests(context, *nsid) {
                failed.get_or_insert(left.error);
            }
        }
        for (project, nsid) in &left.listed.stored {
            remove_empty(context, project, *nsid);
        }
        drop(alone);
        for (project, nsid) in &stored {
            remove_empty_segments(context, project, *nsid);
        }
        failed.map_or(Ok((objects.len() as u64, bytes)), Err)
    }

    /// What was being built for it may leave directories yet.
    pub(super) fn ended_lately(&self, project: &Project, nsid: Nsid) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.len() >= ENDED_MAX {
            ended.pop_front();
        }
        ended.push_back((project.clone(), nsid, ENDED_LOOKS));
    }

    /// Removes empty directories of incarnations that ended lately.
    pub(super) fn clear_ended(&self) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.retain_mut(|(project, nsid, looks)| {
            // The same incarnation may have come from a bucket again.
            if !self.catalog.is_bound(*nsid) {
                remove_empty(&self.context, project, *nsid);
            }
            *looks -= 1;
            *looks > 0
        });
    }

    fn listed(&self) -> Result<Listed> {
        let context = &self.context;
        // What is listed first and removed last cannot belong to who came later.
        let (objects, unread) = context.tier.list_readable();
        for error in &unread {
            // Of what is there nothing goes.
            let file = context.file_of(error).unwrap_or_else(|| "store".to_owned());
            context.report_damage("store", &file, error);
        }
        let logs = context.disk.names(&context.layout.log()).context(|| "list log")?;
        let locals = context.disk.names(&context.layout.local()).context(|| "list local")?;
        let incarnations = locals.iter().filter_map(|name| name.parse().ok().map(Nsid)).collect();
        Ok(Listed { objects, logs, incarnations, stored: incarnations_of(context)? })
    }

    /// What of the store nobody needs, by the counts and the files that can be read. Only what is asked for while nobody commits stays so.
    fn leftovers(&self, listed: Listed) -> Result<Leftovers> {
        let context = &self.context;
        // Asked after the listing: who made a listed object that no manifest names yet is still at work, or unborn.
        let mut live = self.at_work();
        // What may be that of a damaged name, and whatever of a namespace is unreadable, stays.
        live.extend(context.unreadable().into_iter().filter(|(_, of)| !of.has_head).map(|(nsid, _)| nsid));
        // Which of two manifests says what a namespace needs may be open.
        live.extend(context.doubted.all());
        let mut bound = self.catalog.bound();
        // What was deleted and can be had back keeps its files like what has a name.
        bound.extend(context.kin().iter().filter(|(_, kin)| kin.deleted_ms.is_some()).map(|(nsid, _)| *nsid));
        bound.extend(context.unreadable().into_keys());
        let is_any_named = !self.catalog.damaged().is_empty();
        let may_go = |nsid: Nsid| !live.contains(&nsid) && (bound.contains(&nsid) || !is_any_named);
        let is_gone = |nsid: &Nsid| may_go(*nsid) && !bound.contains(nsid);
        // What of its logs the manifest of an incarnation has; `None` where that is unknown: then all of it stays. What it names of
        // others is counted.
        let mut needs: HashMap<Nsid, Option<(u64, Hlc)>> = HashMap::new();
        let (mut objects, mut settled_bytes) = (Vec::new(), 0);
        for (key, bytes) in listed.objects {
            let Some((nsid, rest)) = parts(&key) else { continue };
            if !may_go(nsid) || context.meta.references(&key)? > 0 {
                continue;
            }
            if bound.contains(&nsid) {
                let read = || Head::load(context, nsid).ok().flatten();
                let read = || read().map(|head| (head.manifest.replay_from, head.manifest.hlc));
                let Some((replay_from, until)) = *needs.entry(nsid).or_insert_with(read) else { continue };
                let path = context.tier.path(&key);
                let sealed = path.parent().unwrap_or(&path);
                let log = rest.strip_prefix("wal/");
                if log.is_some_and(|log| is_needed(&*context.disk, sealed, log, replay_from, until)) {
                    continue;
                }
                settled_bytes += if log.is_some() { bytes } else { 0 };
            }
            objects.push((key, bytes));
        }
        let of_nobody =
            |name: &String| name.get(..36).and_then(|text| text.parse().ok()).map(Nsid).as_ref().is_some_and(is_gone);
        let listed = Listed {
            objects,
            logs: listed.logs.into_iter().filter(of_nobody).collect(),
            incarnations: listed.incarnations.into_iter().filter(is_gone).collect(),
            stored: listed.stored.into_iter().filter(|(_, nsid)| is_gone(nsid)).collect(),
        };
        Ok(Leftovers { listed, settled_bytes, bound: bound.len() })
    }

    /// Incarnations that are writing objects right now, or have no name yet: their new objects are not referenced yet.
    pub(super) fn at_work(&self) -> BTreeSet<Nsid> {
        let building = |slot: &Slot| match slot {
            Slot::Open(namespace) if namespace.is_building() => Some(namespace.nsid),
            _ => None,
        };
        let mut found: BTreeSet<Nsid> = self.slots().all().filter_map(|(_, slot)| building(slot)).collect();
        found.extend(self.context.unborn());
        found
    }
}

impl Listed {
    /// Of all objects.
    fn bytes(&self) -> u64 {
        self.objects.iter().map(|(_, bytes)| bytes).sum()
    }
}

impl Leftovers {
    fn check_share(&self, context: &Context, store_bytes: u64) -> Result<()> {
        let (bytes, mut with_manifest) = (self.listed.bytes().saturating_sub(self.settled_bytes), 0);
        let store_bytes = store_bytes.saturating_sub(self.settled_bytes);
        for nsid in &self.listed.incarnations {
            with_manifest += usize::from(!generations(context, *nsid)?.is_empty());
        }
        let many_bytes = bytes > FREE_BYTES && bytes > store_bytes / 2;
        let many_incarnations = with_manifest > FREE_INCARNATIONS && with_manifest > self.bound;
        if !many_bytes && !many_incarnations {
            return Ok(());
        }
        let what = format!(
            "{} objects of {} bytes, of {} in the store, belong to nobody, and {} incarnations have no name beside {} that have one",
            self.listed.objects.len(),
            bytes,
            store_bytes,
            with_manifest,
            self.bound
        );
        Err(Error::new(Kind::Conflict, what).with_code(SWEEP_REFUSED).with_hint(
            "where files of local/ were lost stop the daemon and put them back from a copy; what is not needed goes with `shoal \
             repair --force`",
        ))
    }
}

/// The incarnation in an object's key, and the rest of the key.
pub(super) fn parts(key: &str) -> Option<(Nsid, &str)> {
    let mut parts = key.splitn(5, '/');
    let (org, project) = (parts.next()?, parts.next()?);
    let (kind, nsid, rest) = (parts.next()?, parts.next()?, parts.next()?);
    parse_name(&format!("{org}/{project}/x"))?;
    let nsid = Nsid(nsid.parse().ok()?);
    (kind == "namespaces").then_some((nsid, rest))
}

/// The incarnations that have directories of objects.
fn incarnations_of(context: &Context) -> Result<Vec<(Project, Nsid)>> {
    let names = |path: &Path| directories(&*context.disk, path);
    let store = context.layout.store();
    let mut found = Vec::new();
    for org in names(&store)? {
        for project in names(&store.join(&org))? {
            let Ok(parsed) = Project::new(&org, &project) else { continue };
            let nsids = names(&store.join(&org).join(&project).join("namespaces"))?;
            found.extend(nsids.iter().filter_map(|nsid| Some((parsed.clone(), Nsid(nsid.parse().ok()?)))));
        }
    }
    Ok(found)
}

/// The project and the incarnation in an object's key.
pub(super) fn owner(key: &str) -> Option<(Project, Nsid)> {
    let (nsid, _) = parts(key)?;
    let mut names = key.splitn(3, '/');
    Some((Project::new(names.next()?, names.next()?).ok()?, nsid))
}

/// Removes directories of an incarnation's objects that have nothing in them. Those in which something is being made are not empty, or
/// who makes it makes them again.
pub(super) fn remove_empty(context: &Context, project: &Project, nsid: Nsid) {
    let dir = context.layout.objects(project, nsid);
    let disk = &*context.disk;
    remove_empty_segments(context, project, nsid);
    for kind in ["segments", "deletions", "conflicts", "wal"] {
        let _ = disk.remove_dir(&dir.join(kind));
    }
    let _ = disk.remove_dir(&dir);
}

/// Directories of segments that were removed, which a power cut brought back.
fn remove_empty_segments(context: &Context, project: &Project, nsid: Nsid) {
    let segments = context.layout.objects(project, nsid).join("segments");
    for segment in context.disk.names(&segments).unwrap_or_default() {
        let _ = context.disk.remove_dir(&segments.join(segment));
    }
}

/// Why an incarnation is still there, or a part of it.
pub(super) struct Left {
    pub error: Error,
    /// Everything is where it was, but the mark of its deletion, which may be gone.
    pub is_whole: bool,
}

/// Removes the chain of an incarnation, and the mark of its deletion, durably: what it named may go afterwards. Where that fails
/// nothing of it may, and a later sweep finds what is left.
pub(super) fn remove_manifests(context: &Context, nsid: Nsid) -> Result<(), Left> {
    let mut is_whole = true;
    let removed = remove_chain(context, nsid, &mut is_whole);
    removed.map_err(|error| {
        let dir = context.layout.manifests(nsid);
        Left { error: Error::from(error).context(format!("remove the manifests in {}", dir.display())), is_whole }
    })
}

fn remove_chain(context: &Context, nsid: Nsid, is_whole: &mut bool) -> io::Result<()> {
    let dir = context.layout.manifests(nsid);
    let Some(entries) = if_there(context.disk.list(&dir))? else { return Ok(()) };
    // The mark goes first, durably: what a crash leaves of the chain is never taken for a namespace to be had back.
    let mark = context.layout.deleted_mark(nsid);
    unpublish(&*context.disk, &mark)?;
    // The newest manifest next, durably: while the index still knows both, the mark is put back only beside it, and then all is there.
    let newest = entries.iter().filter_map(|entry| number_of(&entry.name)).max();
    let newest = newest.map(|newest| context.layout.manifest(nsid, newest));
    if let Some(newest) = &newest {
        remove_one(context, newest, is_whole)?;
        context.disk.sync_dir(&dir)?;
    }
    // Before the chain, durably: the same incarnation may come from the bucket again, and nothing of this life counts in that.
    let tags = context.layout.tags(nsid);
    for tag in context.disk.list(&tags).unwrap_or_default() {
        remove_files_of(context, &tags.join(&tag.name), is_whole)?;
    }
    let _ = context.disk.remove_dir(&tags);
    remove_files_of(context, &context.layout.bases(nsid), is_whole)?;
    remove_files_of(context, &context.layout.answers(nsid), is_whole)?;
    for path in entries.iter().filter(|entry| !entry.is_dir).map(|entry| dir.join(&entry.name)) {
        if path != mark && Some(&path) != newest.as_ref() {
            remove_one(context, &path, is_whole)?;
        }
    }
    context.disk.sync_dir(&dir)?;
    let _ = context.disk.remove_dir(&dir);
    Ok(())
}

/// Removes a directory of files, which are gone for good afterwards; an empty one may stay.
fn remove_files_of(context: &Context, dir: &Path, is_whole: &mut bool) -> io::Result<()> {
    let Some(entries) = if_there(context.disk.list(dir))? else { return Ok(()) };
    for entry in entries {
        remove_one(context, &dir.join(&entry.name), is_whole)?;
    }
    context.disk.sync_dir(dir)?;
    let _ = context.disk.remove_dir(dir);
    Ok(())
}

/// Removes a file; one that is known to be there after an error is where it was.
fn remove_one(context: &Context, path: &Path, is_whole: &mut bool) -> io::Result<()> {
    let removed = context.disk.remove(path);
    if removed.is_ok() || context.disk.size(path).is_err() {
        *is_whole = false;
    }
    removed
}
