//! Names of namespaces and what they are bound to.
//!
//! Invariants:
//! - A binding is durable as a file before it counts; the map here and the index in redb follow.
//! - While a binding that failed may be in place, no document is written under its name, and what it binds counts as bound: the next
//!   start may find it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound as Edge;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::layout::{Layout, number_of, numbered};
use crate::error::{Context, Error, Result};
use crate::format::names::{Ended, NameBinding, decode_binding, encode_binding, parse_name};
use crate::meta::tables::Bound;
use crate::model::ids::{Hlc, NamespaceName, Nsid, Project};
use crate::platform::disk::{Disk, create_dirs, if_there, publish, try_publish, unpublish};

/// The code of errors after which a binding may be durable or not.
pub const UNKNOWN_BINDING: &str = "binding_unknown";

/// All names of this node.
#[derive(Debug, Default)]
pub struct Catalog {
    names: Mutex<BTreeMap<NamespaceName, Bound>>,
    /// Names whose newest binding cannot be read, and why. What they are bound to is unknown.
    damaged: Mutex<BTreeMap<NamespaceName, Error>>,
    /// Bindings that failed and may be in place all the same.
    doubts: Mutex<BTreeMap<NamespaceName, Doubt>>,
    /// One of them was taken back: what it was to bind may be nobody's.
    took_back: AtomicBool,
}

/// A binding that failed and may be in place all the same.
#[derive(Debug)]
struct Doubt {
    path: PathBuf,
    /// What the next start may find the name bound to.
    target: Option<Nsid>,
}

impl Catalog {
    /// Takes what the index remembers of a clean stop.
    pub fn from_index(names: BTreeMap<String, Bound>) -> Self {
        let names = names.into_iter().filter_map(|(name, bound)| Some((parse_name(&name)?, bound))).collect();
        Catalog { names: Mutex::new(names), ..Catalog::default() }
    }

    /// Reads every binding from its files. A binding that is damaged or missing is put back where `index` has it; else it is
    /// reported and left out: its namespace is quarantined, the others are served.
    pub fn scan(disk: &dyn Disk, layout: &Layout, mut index: BTreeMap<String, Bound>) -> Result<(Self, Vec<Error>)> {
        let mut names = BTreeMap::new();
        let mut errors = Vec::new();
        let mut damaged = BTreeMap::new();
        for org in directories(disk, &layout.names())? {
            for project in directories(disk, &layout.names().join(&org))? {
                let Ok(parsed) = Project::new(&org, &project) else { continue };
                for name in directories(disk, &layout.names().join(&org).join(&project))? {
                    let Ok(name) = parsed.namespace(&name) else { continue };
                    // The index follows the files: what it has and they have not is lost there.
                    let known = index.remove(&name.to_string());
                    let dir = layout.bindings(&name);
                    match read_again(|| stored(disk, &dir)) {
                        Ok(Some(bound)) if known.as_ref().is_none_or(|known| known.rev <= bound.rev) => {
                            names.insert(name, bound);
                        }
                        // A crash left it empty.
                        Ok(None) if known.is_none() => drop(disk.remove_dir(&dir)),
                        found => match put_back(disk, layout, (&name, &dir), known, found) {
                            Ok(bound) => drop(names.insert(name, bound)),
                            Err(error) => {
                                let error = error.context(format!("name {name}"));
                                errors.push(error.duplicate());
                                damaged.insert(name, error);
                            }
                        },
                    }
                }
            }
        }
        for (name, known) in index {
            if let Some(name) = parse_name(&name) {
                tracing::warn!(%name, rev = known.rev, "the name's binding is put back from the index");
                put(disk, layout, &name, &known)?;
                names.insert(name, known);
            }
        }
        Ok((Catalog { names: Mutex::new(names), damaged: Mutex::new(damaged), ..Catalog::default() }, errors))
    }

    /// Names whose newest binding cannot be read, and why.
    pub fn damaged(&self) -> BTreeMap<NamespaceName, Error> {
        let damaged = self.damaged.lock().unwrap_or_else(PoisonError::into_inner);
        damaged.iter().map(|(name, error)| (name.clone(), error.duplicate())).collect()
    }

    /// Reads the binding of a name that was damaged again. Whether it is known what the name is bound to.
    pub fn look_again(&self, disk: &dyn Disk, layout: &Layout, name: &NamespaceName) -> Result<bool> {
        let is_damaged = || self.damaged.lock().unwrap_or_else(PoisonError::into_inner).contains_key(name);
        if !is_damaged() {
            return Ok(true);
        }
        let Some(bound) = stored(disk, &layout.bindings(name))? else { return Ok(false) };
        self.lock().insert(name.clone(), bound);
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        Ok(true)
    }

    /// `Corrupt` when it is unknown what the name is bound to.
    pub fn check_name(&self, name: &NamespaceName) -> Result<()> {
        match self.damaged.lock().unwrap_or_else(PoisonError::into_inner).get(name) {
            None => Ok(()),
            Some(error) if error.is_unread() => Err(error.duplicate()),
            Some(error) => {
                Err(error.duplicate().with_hint("the other namespaces are served; put the binding back from a copy"))
            }
        }
    }

    /// The incarnation that a name is bound to.
    pub fn find(&self, name: &NamespaceName) -> Option<Nsid> {
        self.lock().get(name).and_then(|bound| bound.target)
    }

    /// Binds a name, or unbinds it with `None`, durably; gives the new revision for the index. `ended`: who loses the name, if
    /// others are to be told; that is kept by later revisions, but where who lost the name has it and is bound once more. Whether
    /// the bucket knows of those that lost it before is unknown, so these are kept as well, until [`Self::bind_as`] says otherwise.
    pub fn bind(
        &self,
        disk: &dyn Disk,
        layout: &Layout,
        name: &NamespaceName,
        target: Option<Nsid>,
        hlc: Hlc,
        ended: Option<Ended>,
    ) -> Result<Bound> {
        self.check_name(name)?;
        self.settle(disk, name)?;
        let known = self.lock().get(name).cloned();
        let had = known.as_ref().and_then(|bound| bound.target);
        let kept = match read_again(|| newest(disk, &layout.bindings(name))) {
            Ok(kept) => kept,
            // What is damaged says nothing, and is replaced.
            Err(error) if ended.is_some() && !error.is_unread() => None,
            Err(error) => return Err(error),
        };
        // Files that could not be removed when the name was forgotten must not hide this revision.
        let last = known.map(|bound| bound.rev).or(kept.as_ref().map(|(rev, _)| *rev));
        let kept = kept.map(|(_, binding)| binding);
        // Clocks of revisions ascend, whatever this machine's shows.
        let hlc = kept.as_ref().map_or(hlc, |kept| hlc.max(Hlc(kept.hlc.0.saturating_add(1))));
        let lost = kept.iter().flat_map(NameBinding::lost_by);
        let mut lost: Vec<Ended> = lost.filter(|lost| had != target || Some(lost.nsid) != target).cloned().collect();
        if let Some(ended) = ended {
            lost.retain(|lost| lost.nsid != ended.nsid);
            lost.push(ended);
        }
        self.put_next(disk, layout, name, last, target, (hlc, lost))
    }

    /// Binds a name to what `known`, its newest binding, binds it to, where it is known who of those that `lost` the name others are to
    /// be told of, the last one last.
    pub fn bind_as(
        &self,
        disk: &dyn Disk,
        layout: &Layout,
        name: &NamespaceName,
        known: &NameBinding,
        (hlc, lost): (Hlc, Vec<Ended>),
    ) -> Result<Bound> {
        self.check_name(name)?;
        self.settle(disk, name)?;
        let last = self.lock().get(name).map_or(known.rev, |bound| bound.rev);
        self.put_next(disk, layout, name, Some(last), known.target, (hlc, lost))
    }

    /// Makes the revision of a name that comes after `last` durable.
    fn put_next(
        &self,
        disk: &dyn Disk,
        layout: &Layout,
        name: &NamespaceName,
        last: Option<u64>,
        target: Option<Nsid>,
        (hlc, mut lost): (Hlc, Vec<Ended>),
    ) -> Result<Bound> {
        let dir = layout.bindings(name);
        let rev = last.map_or(0, |rev| rev + 1);
        let ended = lost.pop();
        let binding = NameBinding::new(name, rev, target, hlc, ended).after(lost);
        create_dirs(disk, &dir).context(|| format!("create {}", dir.display()))?;
        let path = dir.join(numbered(rev));
        if let Err(failed) = try_publish(disk, &path, &encode_binding(&binding)?) {
            // Where it may be in place it may not be durable: the next start must not find what readers do not see now.
            let is_gone = !failed.may_be_there || unpublish(disk, &path).is_ok();
            let error = Error::from(failed.error).context(format!("bind name {name}"));
            if is_gone {
                return Err(error);
            }
            self.doubts().insert(name.clone(), Doubt { path, target });
            return Err(error.with_code(UNKNOWN_BINDING).with_hint(
                "whether it was done is not known until the disk lets go of the file, which is tried every half minute, or the daemon \
                 starts anew; look at the disk and the kernel's log, then send the same again",
            ));
        }
        let bound = Bound { rev, target };
        self.lock().insert(name.clone(), bound.clone());
        if let Some(last) = last {
            // Best effort: the newest revision is what counts.
            let _ = disk.remove(&dir.join(numbered(last)));
        }
        Ok(bound)
    }

    /// Whether a name is known, bound to nothing, and nobody doubts that.
    pub fn is_unbound(&self, name: &NamespaceName) -> bool {
        let is_unbound = self.lock().get(name).is_some_and(|bound| bound.target.is_none());
        is_unbound && self.check_name(name).is_ok() && !self.doubts().contains_key(name)
    }

    /// Every name that is bound to nothing.
    pub fn unbound(&self) -> Vec<NamespaceName> {
        let names = self.lock();
        names.iter().filter(|(_, bound)| bound.target.is_none()).map(|(name, _)| name.clone()).collect()
    }

    /// Removes all that is known of a name that is bound to nothing, durably. The index has forgotten it already.
    pub fn forget(&self, disk: &dyn Disk, layout: &Layout, name: &NamespaceName) -> Result<()> {
        let dir = layout.bindings(name);
        let step = || format!("remove the bindings in {}", dir.display());
        let mut files = if_there(disk.names(&dir)).context(step)?.unwrap_or_default();
        files.sort_unstable_by_key(|file| number_of(file));
        if let Some(newest) = files.pop() {
            for file in files {
                if_there(disk.remove(&dir.join(file))).context(step)?;
            }
            // Those before it first, and for good: one that is left, or comes back with a power cut, must not be the newest.
            if_there(disk.sync_dir(&dir)).context(step)?;
            if_there(disk.remove(&dir.join(newest))).context(step)?;
        }
        if_there(disk.sync_dir(&dir)).context(step)?;
        self.lock().remove(name);
        // Best effort: an empty directory binds nothing.
        let _ = disk.remove_dir(&dir);
        Ok(())
    }

    /// The newest binding of a name, as its file has it, and never one that failed: that is taken back before.
    pub fn newest(&self, disk: &dyn Disk, layout: &Layout, name: &NamespaceName) -> Result<Option<NameBinding>> {
        self.settle(disk, name)?;
        Ok(newest(disk, &layout.bindings(name))?.map(|(_, binding)| binding))
    }

    /// Whether it is not known of some name what the next start would find it bound to.
    pub fn is_in_doubt(&self) -> bool {
        !self.doubts().is_empty()
    }

    /// Takes back the binding of a name that failed and may be in place all the same, where there is one. While that fails
    /// nothing may be written that the next start would not find.
    pub fn settle(&self, disk: &dyn Disk, name: &NamespaceName) -> Result<()> {
        let mut doubts = self.doubts();
        let Some(doubt) = doubts.get(name) else { return Ok(()) };
        unpublish(disk, &doubt.path).context(|| format!("take back a binding of name {name} that failed")).map_err(
            |error| {
                error.or_hint(
                    "it is tried every half minute: look at the disk and the kernel's log, then send the same again",
                )
            },
        )?;
        doubts.remove(name);
        self.took_back.store(true, Ordering::SeqCst);
        Ok(())
    }

    /// The same for all names: the first error is given when all had their turn. Whether any was taken back since this was asked last.
    pub fn settle_all(&self, disk: &dyn Disk) -> (bool, Result<()>) {
        let names: Vec<NamespaceName> = self.doubts().keys().cloned().collect();
        let settled = names.iter().map(|name| self.settle(disk, name)).fold(Ok(()), Result::and);
        (self.took_back.swap(false, Ordering::SeqCst), settled)
    }

    fn doubts(&self) -> MutexGuard<'_, BTreeMap<NamespaceName, Doubt>> {
        self.doubts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bound names of a project with this prefix, after `after`, in order.
    pub fn list(&self, project: &Project, prefix: &str, after: Option<&str>, max: usize) -> Vec<NamespaceName> {
        let from = after.filter(|after| *after >= prefix);
        let edge = NamespaceName { project: project.clone(), name: from.unwrap_or(prefix).into() };
        let start = if from.is_some() { Edge::Excluded(edge) } else { Edge::Included(edge) };
        self.lock()
            .range((start, Edge::Unbounded))
            .take_while(|(name, _)| name.project == *project && name.name.starts_with(prefix))
            .filter(|(_, bound)| bound.target.is_some())
            .take(max)
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// Whether some name is bound to this incarnation, or the next start may find it so.
    pub fn is_bound(&self, nsid: Nsid) -> bool {
        let is_bound = self.lock().values().any(|bound| bound.target == Some(nsid));
        is_bound || self.doubts().values().any(|doubt| doubt.target == Some(nsid))
    }

    /// Every incarnation that a name is bound to, or that the next start may find so.
    pub fn bound(&self) -> BTreeSet<Nsid> {
        let mut found: BTreeSet<Nsid> = self.lock().values().filter_map(|bound| bound.target).collect();
        found.extend(self.doubts().values().filter_map(|doubt| doubt.target));
        found
    }

    /// Every bound name and its incarnation.
    pub fn all(&self) -> Vec<(NamespaceName, Nsid)> {
        self.lock().iter().filter_map(|(name, bound)| Some((name.clone(), bound.target?))).collect()
    }

    /// Every binding, tombstones included, for the index.
    pub fn for_index(&self) -> BTreeMap<String, Bound> {
        self.lock().iter().map(|(name, bound)| (name.to_string(), bound.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NamespaceName, Bound>> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The binding that the index has, put back where it is not behind the files. What cannot be read may be whole: nothing is put in its
/// place, and the index is believed where it knows that very revision.
fn put_back(
    disk: &dyn Disk,
    layout: &Layout,
    (name, dir): (&NamespaceName, &Path),
    known: Option<Bound>,
    found: Result<Option<Bound>>,
) -> Result<Bound> {
    let newest = newest_rev(disk, dir)?;
    match (known, found) {
        (Some(known), Err(error)) if error.is_unread() => {
            if newest == Some(known.rev) {
                Ok(known)
            } else {
                Err(error)
            }
        }
        (Some(known), _) if newest.is_none_or(|rev| known.rev >= rev) => {
            tracing::warn!(%name, rev = known.rev, "the name's binding is put back from the index");
            put(disk, layout, name, &known)?;
            Ok(known)
        }
        (_, Err(error)) => Err(error),
        (_, Ok(_)) => Err(Error::corrupt(format!("{}: is not what it was a moment ago", dir.display()))),
    }
}

/// Names of the directories in a directory, which may not be there.
pub fn directories(disk: &dyn Disk, path: &Path) -> Result<Vec<String>> {
    let entries = if_there(disk.list(path)).context(|| format!("list {}", path.display()))?.unwrap_or_default();
    Ok(entries.into_iter().filter(|entry| entry.is_dir).map(|entry| entry.name).collect())
}

/// Reads, and once more where that fails: a disk may err once, and not the second time.
pub fn read_again<T>(read: impl Fn() -> Result<T>) -> Result<T> {
    read().or_else(|_| read())
}

/// The newest revision in a name's directory; `None` while there is none.
pub fn stored(disk: &dyn Disk, dir: &Path) -> Result<Option<Bound>> {
    Ok(newest(disk, dir)?.map(|(rev, binding)| Bound { rev, target: binding.target }))
}

/// The newest revision in a name's directory, and what it says.
fn newest(disk: &dyn Disk, dir: &Path) -> Result<Option<(u64, NameBinding)>> {
    let Some(rev) = newest_rev(disk, dir)? else { return Ok(None) };
    let path = dir.join(numbered(rev));
    let bytes = disk.read(&path).map_err(Error::reading).context(|| format!("read {}", path.display()))?;
    Ok(Some((rev, decode_binding(&bytes, &path.display().to_string())?)))
}

fn newest_rev(disk: &dyn Disk, dir: &Path) -> Result<Option<u64>> {
    let names = if_there(disk.names(dir)).map_err(Error::reading).context(|| format!("list {}", dir.display()))?;
    let names = names.unwrap_or_default();
    Ok(names.iter().filter_map(|name| number_of(name)).max())
}

/// Writes a binding that is known already, in the place of a file that was lost.
pub fn put(disk: &dyn Disk, layout: &Layout, name: &NamespaceName, known: &Bound) -> Result<()> {
    let dir = layout.bindings(name);
    create_dirs(disk, &dir).context(|| format!("create {}", dir.display()))?;
    // The clock of the binding is known to nobody any more; nothing is decided by it on this node.
    let binding = NameBinding::new(name, known.rev, known.target, Hlc(0), None);
    let path = dir.join(numbered(known.rev));
    publish(disk, &path, &encode_binding(&binding)?).context(|| format!("write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::path::Path;

    use super::{Catalog, Layout};
    use crate::model::ids::{Hlc, NamespaceName, Nsid, Project};
    use crate::platform::disk::create_dirs;
    use crate::platform::memory_disk::{Fault, MemoryDisk};
    use uuid::Uuid;

    /// A catalog on an empty disk, and a name that is bound to an incarnation.
    fn bound() -> (MemoryDisk, Layout, Catalog, NamespaceName) {
        let (disk, layout, catalog) = (MemoryDisk::default(), Layout::new("/data"), Catalog::default());
        create_dirs(&disk, Path::new("/data")).unwrap();
        let name = Project::default_project().namespace("docs").unwrap();
        catalog.bind(&disk, &layout, &name, Some(Nsid(Uuid::from_u128(1))), Hlc(1), None).unwrap();
        (disk, layout, catalog, name)
    }

    #[test]
    fn a_recreated_name_is_bound_to_its_new_life_only() {
        let (disk, layout, catalog, name) = bound();
        let second = Nsid(Uuid::from_u128(2));
        catalog.bind(&disk, &layout, &name, None, Hlc(2), None).unwrap();
        assert_eq!(catalog.find(&name), None);
        assert_eq!(catalog.bind(&disk, &layout, &name, Some(second), Hlc(3), None).unwrap().rev, 2);
        let (again, damaged) = Catalog::scan(&disk, &layout, Default::default()).unwrap();
        assert_eq!((again.find(&name), damaged.len()), (Some(second), 0));
        assert_eq!(Catalog::from_index(again.for_index()).find(&name), Some(second));
    }

    #[test]
    fn a_binding_that_failed_is_not_found_at_the_next_start() {
        for at in 0..20 {
            let (disk, layout, catalog, name) = bound();
            disk.set_fault(Some(Fault { at: disk.operations() + at, forever: false, kind: ErrorKind::Other }));
            let unbound = catalog.bind(&disk, &layout, &name, None, Hlc(2), None).is_ok();
            disk.set_fault(None);
            let (again, _) = Catalog::scan(&disk, &layout, Default::default()).unwrap();
            assert_eq!(again.find(&name), catalog.find(&name), "operation {at}");
            assert_eq!(again.find(&name).is_none(), unbound, "operation {at}");
        }
    }

    #[test]
    fn a_binding_that_is_not_read_at_once_is_no_damaged_one() {
        let mut scanned = 0;
        for at in 0..20 {
            let (disk, layout, _, name) = bound();
            disk.set_fault(Some(Fault { at: disk.operations() + at, forever: false, kind: ErrorKind::Other }));
            // A start that fails is tried again.
            let Ok((again, damaged)) = Catalog::scan(&disk, &layout, Default::default()) else { continue };
            assert_eq!((again.find(&name).is_some(), damaged.len()), (true, 0), "operation {at}");
            scanned += 1;
        }
        assert!(scanned > 10, "{scanned}");
    }

    #[test]
    fn a_binding_that_cannot_be_taken_back_is_in_doubt_until_it_is() {
        let mut doubted = 0;
        for at in 0..20 {
            let (disk, layout, catalog, name) = bound();
            disk.set_fault(Some(Fault { at: disk.operations() + at, forever: true, kind: ErrorKind::Other }));
            let unbound = catalog.bind(&disk, &layout, &name, None, Hlc(2), None);
            let is_unknown = unbound.as_ref().is_err_and(|error| error.code() == super::UNKNOWN_BINDING);
            assert_eq!(catalog.is_in_doubt(), is_unknown, "operation {at}");
            doubted += u64::from(is_unknown);
            if is_unknown {
                assert!(catalog.settle(&disk, &name).is_err() && catalog.settle_all(&disk).1.is_err());
            }
            disk.set_fault(None);
            let (took_back, settled) = catalog.settle_all(&disk);
            assert_eq!((took_back, settled.is_ok()), (is_unknown, true), "operation {at}");
            assert!(!catalog.is_in_doubt());
            let (again, _) = Catalog::scan(&disk, &layout, Default::default()).unwrap();
            assert_eq!(again.find(&name), catalog.find(&name), "operation {at}");
        }
        assert!(doubted > 0);
    }

    #[test]
    fn names_are_listed_in_order_by_project_prefix_and_page() {
        let disk = MemoryDisk::default();
        let layout = Layout::new("/data");
        create_dirs(&disk, Path::new("/data")).unwrap();
        let (ours, other) = (Project::default_project(), Project::new("acme", "search").unwrap());
        let catalog = Catalog::default();
        for (n, text) in ["b2", "a", "b1", "b3", "c"].iter().enumerate() {
            let target = Some(Nsid(Uuid::from_u128(n as u128 + 1)));
            catalog.bind(&disk, &layout, &ours.namespace(text).unwrap(), target, Hlc(1), None).unwrap();
            catalog.bind(&disk, &layout, &other.namespace(text).unwrap(), target, Hlc(1), None).unwrap();
        }
        let list = |prefix, after, max| -> Vec<String> {
            catalog.list(&ours, prefix, after, max).iter().map(|name| name.name.to_string()).collect()
        };
        assert_eq!(list("", None, 10), ["a", "b1", "b2", "b3", "c"]);
        assert_eq!(list("b", None, 2), ["b1", "b2"]);
        assert_eq!(list("b", Some("b2"), 2), ["b3"]);
        assert_eq!(list("", Some("b"), 2), ["b1", "b2"]);
    }
}
