//! What both sides of a merge once had in common: the source's state at the last merge into a target, and the first states of
//! branches.
//!
//! `local/{target}/bases/{source}.json` is a sealed manifest like any other, and holds its objects. Before a merge the source's
//! state is put beside it as `{source}.next.json`, counted while nothing of it can go; after the commit it takes the place. Whichever of
//! the two a crash leaves, a state counts as common only where both sides' vectors cover it. One merge of a pair at a time does this.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::mpsc::channel;
use std::sync::{Arc, PoisonError};

use super::decide::{Evidence, State};
use super::side::{Found, Side};
use crate::engine::Engine;
use crate::engine::context::Context;
use crate::engine::lineage::GONE;
use crate::engine::lineage::holdings::read_manifest;
use crate::engine::namespace::head::{keys, objects, reclaim};
use crate::engine::namespace::{Moment, Namespace};
use crate::error::{Context as _, Error, Kind, Result};
use crate::format::manifest::{Manifest, decode_manifest, encode_manifest};
use crate::model::ids::{DocId, NamespaceName, Nsid};
use crate::model::version_vector::VersionVector;
use crate::platform::disk::{create_dirs, if_there, publish};
use crate::tier::GONE as NOWHERE;

/// The bases of so many incarnations are looked at in one pass of the background: each costs the listing of a directory.
pub const BASES_LOOKS_MAX: usize = 64;

/// What the name of a state that is not merged yet ends in.
const NEXT: &str = ".next.json";

pub fn next_path(context: &Context, target: Nsid, source: Nsid) -> PathBuf {
    context.layout.bases(target).join(format!("{source}{NEXT}"))
}

pub fn read(context: &Context, path: &std::path::Path) -> Result<Option<Manifest>> {
    let bytes =
        if_there(context.disk.read(path)).map_err(Error::reading).context(|| format!("read {}", path.display()))?;
    let manifest = bytes.map(|bytes| decode_manifest(&bytes, &path.display().to_string())).transpose()?;
    Ok(manifest.map(|(manifest, _)| manifest))
}

/// A state that is let go of, whose objects are found by a recount where it cannot be read.
fn read_or_warn(context: &Context, path: &std::path::Path) -> Option<Manifest> {
    read(context, path).unwrap_or_else(|error| {
        tracing::warn!(%error, "what the base of a merge held is counted anew");
        too_high(context);
        None
    })
}

/// The bases that an incarnation keeps, with the incarnations they are of.
pub fn kept_by(context: &Context, target: Nsid) -> Result<Vec<(Nsid, Result<Manifest>)>> {
    Ok(files_of(context, target)?.into_iter().map(|(source, _, base)| (source, base)).collect())
}

/// Those that cannot be read, by their files, and why.
pub fn unreadable(context: &Context, target: Nsid) -> Result<Vec<(Nsid, PathBuf, Error)>> {
    let damaged = |(source, path, base): (Nsid, PathBuf, Result<Manifest>)| Some((source, path, base.err()?));
    Ok(files_of(context, target)?.into_iter().filter_map(damaged).collect())
}

/// The incarnations whose states an incarnation keeps, by the names of the files.
pub(super) fn sources_of(context: &Context, target: Nsid) -> Result<BTreeSet<Nsid>> {
    let dir = context.layout.bases(target);
    let names =
        if_there(context.disk.names(&dir)).map_err(Error::reading).context(|| format!("list {}", dir.display()))?;
    Ok(names.iter().flatten().filter_map(|name| source_in(name)).collect())
}

fn source_in(name: &str) -> Option<Nsid> {
    let stem = name.strip_suffix(NEXT).or_else(|| name.strip_suffix(".json"))?;
    stem.parse().ok().map(Nsid)
}

fn files_of(context: &Context, target: Nsid) -> Result<Vec<(Nsid, PathBuf, Result<Manifest>)>> {
    let dir = context.layout.bases(target);
    let entries =
        if_there(context.disk.list(&dir)).map_err(Error::reading).context(|| format!("list {}", dir.display()))?;
    let mut found = Vec::new();
    for entry in entries.unwrap_or_default() {
        let Some(source) = source_in(&entry.name) else { continue };
        let path = dir.join(&entry.name);
        let manifest = read(context, &path).transpose();
        found.extend(manifest.map(|manifest| (source, path, manifest)));
    }
    Ok(found)
}

/// A base that is being put in place while the merge goes on.
pub struct Staging(std::thread::JoinHandle<Result<()>>);

impl Staging {
    /// Returns when it is in place.
    pub fn wait(self) -> Result<()> {
        self.0.join().unwrap_or_else(|_| Err(Error::internal("the base of a merge: its thread panicked")))
    }
}

/// [`stage`] beside the merge, which waits for it before it commits. When this returns the state's objects are counted: they cannot
/// go any more. `None` where barriers are not worth a thread or none is to be had, and all of it is done.
pub fn stage_beside(context: &Arc<Context>, target: Nsid, manifest: &Manifest) -> Result<Option<Staging>> {
    if !context.tier.barriers().are_slow() {
        return stage(context, target, manifest).map(|()| None);
    }
    let (counted, is_counted) = channel();
    let (of, state) = (context.clone(), manifest.clone());
    let work = move || stage_and_tell(&of, target, &state, || counted.send(()).unwrap_or_default());
    let Ok(thread) = std::thread::Builder::new().name("base of a merge".to_owned()).spawn(work) else {
        return stage(context, target, manifest).map(|()| None);
    };
    // Without an answer it failed, and says so when it is waited for.
    let _ = is_counted.recv();
    Ok(Some(Staging(thread)))
}

/// Puts the source's state in place for the merge that is to come. Its objects cannot go meanwhile.
pub fn stage(context: &Context, target: Nsid, manifest: &Manifest) -> Result<()> {
    stage_and_tell(context, target, manifest, || ())
}

fn stage_and_tell(context: &Context, target: Nsid, manifest: &Manifest, counted: impl FnOnce()) -> Result<()> {
    let dir = context.layout.bases(target);
    create_dirs(&*context.disk, &dir).context(|| format!("create {}", dir.display()))?;
    let path = next_path(context, target, manifest.nsid);
    // A state with a parent of its own chain is what the envelope expects.
    let (bytes, _) = encode_manifest(manifest)?;
    let _commits = context.commits.of(target);
    let before = read_or_warn(context, &path);
    // Lazily: a crash has all counted anew from the files, and until the commit is counted nothing waits for a barrier twice.
    context.meta.keep(&objects(manifest))?;
    counted();
    if let Err(error) = publish(&*context.disk, &path, &bytes) {
        match read(context, &path) {
            // Whatever failed came before it was in place, as on a full disk: it is as if nothing had been counted.
            Ok(now) if now == before => release(context, Some(manifest.clone())),
            _ => too_high(context),
        }
        return Err(Error::from(error).context(format!("write {}", path.display())));
    }
    release(context, before);
    Ok(())
}

/// The merge is committed: what was staged is what both have in common.
pub fn settle(context: &Context, target: Nsid, source: Nsid) -> Result<()> {
    let (next, path) = (next_path(context, target, source), context.layout.base(target, source));
    let _commits = context.commits.of(target);
    let before = read_or_warn(context, &path);
    // Of a first merge, what a power cut brings back under the other name is as good. It is not where a state is replaced that may go
    // then, nor for the bucket's own state, by which objects that are there are let go of here.
    let dir = (before.is_some() || source == target).then(|| context.layout.bases(target));
    let moved = context.disk.rename(&next, &path).context(|| format!("rename {}", next.display()));
    let moved = moved.and_then(|()| match &dir {
        Some(dir) => context.disk.sync_dir(dir).context(|| format!("sync {}", dir.display())),
        None => Ok(()),
    });
    match moved {
        Ok(()) => release(context, before),
        // The state before is gone, or may be, and is counted.
        Err(_) if before.is_some() && context.disk.size(&next).is_err() => too_high(context),
        Err(_) => {}
    }
    moved
}

/// Puts what a crash left beside the last base in its place, if `ours` has seen it: then it was merged, and is not to give way to
/// the next one before that is.
pub fn settle_left(context: &Context, target: Nsid, source: Nsid, ours: &VersionVector) -> Result<()> {
    match read(context, &next_path(context, target, source))? {
        Some(left) if ours.covers_all(&left.version_vector) => settle(context, target, source),
        _ => Ok(()),
    }
}

/// Nothing was merged.
pub fn withdraw(context: &Context, target: Nsid, source: Nsid) {
    remove(context, target, &next_path(context, target, source));
}

fn remove(context: &Context, target: Nsid, path: &std::path::Path) {
    let _commits = context.commits.of(target);
    let Some(before) = read_or_warn(context, path) else { return };
    let removed = context.disk.remove(path).and_then(|()| context.disk.sync_dir(&context.layout.bases(target)));
    match removed {
        Ok(()) => release(context, Some(before)),
        Err(error) => {
            tracing::warn!(%error, path = %path.display(), "the base of a merge is not removed");
            too_high(context);
        }
    }
}

/// What is counted too high would keep its objects for good, also after a clean stop.
fn too_high(context: &Context) {
    context.meta.overcount("the base of a merge may be counted too often");
}

fn release(context: &Context, manifest: Option<Manifest>) {
    let Some(manifest) = manifest else { return };
    match context.meta.release(&keys(&manifest)) {
        Ok(free) => reclaim(context, &free),
        Err(error) => tracing::warn!(%error, "the base of a merge is not released, a later sweep finds it"),
    }
}

impl Engine {
    /// Removes bases of sources that are gone for good.
    pub(super) fn forget_bases(&self, target: Nsid) -> Result<()> {
        let context = &self.context;
        for source in sources_of(context, target)? {
            if self.catalog.is_bound(source) || context.kin().contains_key(&source) {
                continue;
            }
            // Who merges it right now does this itself, or leaves it for later.
            let pair = self.pair(target, source);
            let Ok(_pair) = pair.try_lock() else { continue };
            let paths = [context.layout.base(target, source), next_path(context, target, source)];
            // What cannot be read would have everything counted anew each time.
            if paths.iter().all(|path| read(context, path).is_ok()) {
                paths.iter().for_each(|path| remove(context, target, path));
            }
        }
        Ok(())
    }

    /// The same for some incarnations in turn: for those that nothing is merged into any more, too. Blocking.
    pub(in crate::engine) fn forget_bases_in_turn(&self) {
        // What a damaged name is bound to may be any of the sources.
        if !self.catalog.damaged().is_empty() {
            return;
        }
        let mut targets: Vec<Nsid> = self.catalog.all().into_iter().map(|(_, nsid)| nsid).collect();
        targets.sort_unstable();
        let mut last = self.bases_seen.lock().unwrap_or_else(PoisonError::into_inner);
        let from = targets.partition_point(|nsid| Some(*nsid) <= *last);
        let turn = &targets[from..targets.len().min(from + BASES_LOOKS_MAX)];
        *last = turn.last().copied();
        for target in turn {
            if let Err(error) = self.forget_bases(*target) {
                tracing::warn!(nsid = %target, %error, "bases of merges with who is gone are kept");
            }
        }
    }

    /// The states that source and target may have had in common. An error where one that is there cannot be read: without it the
    /// merge would take what one side has undone or deleted for new.
    pub(super) fn common_states(
        &self,
        (source, target): (&Namespace, &Namespace),
        (theirs, ours): (&Moment, &Moment),
    ) -> Result<Vec<Arc<Moment>>> {
        let context = &self.context;
        let (s, t) = (source.nsid, target.nsid);
        let mut found = Vec::new();
        for (at, of, namespace) in [(t, s, target), (s, t, source)] {
            for path in [context.layout.base(at, of), next_path(context, at, of)] {
                let base = read(context, &path).and_then(|base| self.open_base(target, base));
                found.extend(base.map_err(|error| unread(error, &namespace.name))?);
            }
        }
        for side in [source, target].into_iter().filter(|side| side.published().lineage.is_some()) {
            let first = match read_manifest(context, side.nsid, 0) {
                Err(error) if error.code() == GONE => None,
                first => Some(first.map_err(|error| error.context(in_common(&side.name)))?),
            };
            found.extend(self.open_base(target, first).map_err(|error| error.context(in_common(&side.name)))?);
        }
        let is_all = |state: &Arc<Moment>| {
            state.vector.covers_common(&theirs.vector, &ours.vector) && is_common(&state.vector, theirs, ours)
        };
        // Two states of one incarnation are brought together by what they had in common themselves.
        if s != t && !found.iter().any(is_all) {
            found.extend(self.states_of_relatives((source, target), (theirs, ours))?);
            if !found.iter().any(is_all) {
                found.extend(self.states_of_own_past((source, target), (theirs, ours))?);
            }
        }
        Ok(found)
    }

    fn open_base(&self, target: &Namespace, manifest: Option<Manifest>) -> Result<Option<Arc<Moment>>> {
        match manifest.map(|manifest| target.past(manifest)).transpose() {
            // Of what nobody has any more nobody knows anything.
            Err(error) if error.code() == NOWHERE => {
                tracing::warn!(namespace = %target.name, %error, "a merge does not compare with a state that was in common");
                Ok(None)
            }
            opened => Ok(opened?.map(Arc::new)),
        }
    }
}

fn in_common(keeps: &NamespaceName) -> String {
    format!("read the state that both sides of the merge had in common, kept by {keeps}")
}

pub(super) fn unread(error: Error, keeps: &NamespaceName) -> Error {
    let error = error.context(in_common(keeps));
    match error.kind() {
        Kind::Corrupt => error.with_hint(format!(
            "put the file back from a copy, or stop the daemon and run `shoal repair --data-dir DIR --drop-damaged {keeps}`: \
             the next merge compares with an older state then, and may show more conflicts"
        )),
        _ => error,
    }
}

/// A state that both sides of a merge may have had in common.
pub struct Base<'a> {
    pub side: Side<'a>,
    /// It has seen everything that both sides have: what they have in common of a document is what it has, and nothing newer.
    pub is_newest: bool,
}

impl<'a> Base<'a> {
    pub fn new(base: &'a Moment, theirs: &Moment, ours: &Moment) -> Self {
        Base { side: Side::new(base), is_newest: base.vector.covers_common(&theirs.vector, &ours.vector) }
    }
}

/// The newest common state of a document: of which base, and what it was there. `None` when nobody knows.
pub fn newest_common(bases: &[Base], id: &DocId, theirs: &Moment, ours: &Moment) -> Result<Option<(usize, Found)>> {
    let mut newest: Option<(usize, Found)> = None;
    let rank = |at: usize, found: Found| (bases[at].is_newest, found.state.version());
    for (at, base) in bases.iter().enumerate() {
        let found = base.side.find(id)?;
        let is_common = match found.state.version() {
            Some(version) => theirs.vector.covers(version) && ours.vector.covers(version),
            None => is_common(&base.side.moment.vector, theirs, ours),
        };
        if is_common && newest.is_none_or(|(known_at, known)| rank(known_at, known) < rank(at, found)) {
            newest = Some((at, found));
        }
    }
    Ok(newest)
}

/// Whether both sides have seen all that a state has.
pub(super) fn is_common(base: &VersionVector, theirs: &Moment, ours: &Moment) -> bool {
    theirs.vector.covers_all(base) && ours.vector.covers_all(base)
}

/// Whether the side that does not know a document once had it.
pub fn evidence(common: Option<(usize, Found)>, patched_on: Option<State>, absent: &Moment) -> Evidence {
    let had = |state: State| state.version().is_some_and(|version| absent.vector.covers(version));
    match common {
        _ if patched_on.is_some_and(had) => Evidence::Had,
        Some((_, found)) if found.state.is_live() => Evidence::Had,
        Some(_) => Evidence::New,
        None => Evidence::Unknown,
    }
}

/// The refusal of a namespace that is merged with nothing it knows.
pub fn unrelated(source: &str, target: &str) -> Error {
    Error::invalid(format!("'{source}' and '{target}' have no common origin, so there is no base to merge on"))
        .with_code("unrelated")
        .with_hint(
            "set allow_unrelated with the policy lww, ours, theirs or keep-both, which need no base; documents of equal id \
             are then one document",
        )
}
