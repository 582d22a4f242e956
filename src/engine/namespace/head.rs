//! Commits manifests: objects are durable first, references counted next, then the manifest. What it no longer names goes
//! when retention lets go of the manifest before it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::engine::context::Context;
use crate::engine::doubted::Of;
use crate::engine::layout::{number_of, numbered};
use crate::engine::lineage::dates::committed;
use crate::engine::lineage::drop_generations;
use crate::engine::lineage::holdings::past;
use crate::engine::sweep::{owner, remove_empty};
use crate::engine::unnamed::Unnamed;
use crate::error::{Context as _, Error, Result};
use crate::format::manifest::{Manifest, Parent, decode_manifest, encode_manifest};
use crate::meta::{Head as HeadFacts, ObjectFact};
use crate::model::ids::{CommitId, Nsid, Project};
use crate::platform::disk::{Unpublished, create_dirs, if_there, try_publish, unpublish};

/// How often a manifest may be replaced while it is read.
const COMMITS_MEANWHILE_MAX: u32 = 16;

/// The newest manifest of one incarnation on this node.
#[derive(Clone, Debug)]
pub struct Head {
    pub manifest: Manifest,
    pub crc32c: u32,
    /// Of its file.
    pub bytes: u64,
}

impl Head {
    /// Reads the newest manifest; another thread may commit the next one meanwhile. `None` when there is none: the incarnation
    /// never came to be.
    pub fn load(context: &Context, nsid: Nsid) -> Result<Option<Head>> {
        if let Some(head) = Self::cached(context, nsid)? {
            return Ok(Some(head));
        }
        let dir = context.layout.manifests(nsid);
        // A manifest is durable before the index has it, and stays until the next one is: so whatever the index says is older than
        // what is listed after that.
        let cached = context.meta.manifest(nsid).unwrap_or_default();
        let cached = cached.and_then(|bytes| decode_manifest(&bytes, "meta.redb").ok());
        let mut generation = 0;
        for _ in 0..COMMITS_MEANWHILE_MAX {
            let entries = if_there(context.disk.names(&dir))
                .map_err(Error::reading)
                .context(|| format!("list {}", dir.display()))?;
            let entries = entries.unwrap_or_default();
            let Some(newest) = entries.iter().filter_map(|name| number_of(name)).max() else {
                return Ok(None);
            };
            generation = newest;
            if let Some((known, _)) = &cached
                && known.generation > generation
            {
                return Err(Error::corrupt(format!(
                    "{}: the newest manifest is missing, {} is there, expected {}",
                    dir.display(),
                    numbered(generation),
                    numbered(known.generation)
                )));
            }
            let path = dir.join(numbered(generation));
            let bytes = if_there(context.disk.read(&path))
                .map_err(Error::reading)
                .context(|| format!("read {}", path.display()))?;
            // It was replaced, and not retained.
            let Some(bytes) = bytes else { continue };
            let (manifest, crc32c) = decode_manifest(&bytes, &path.display().to_string())?;
            if manifest.nsid != nsid || manifest.generation != generation {
                return Err(Error::corrupt(format!(
                    "{}: is generation {} of {}, expected generation {generation} of {nsid}",
                    path.display(),
                    manifest.generation,
                    manifest.nsid
                )));
            }
            return Ok(Some(Head { manifest, crc32c, bytes: bytes.len() as u64 }));
        }
        let name = numbered(generation);
        Err(Error::busy(format!("{}: {name} was replaced before it was read", dir.display())).with_hint("try again"))
    }

    /// The newest manifest as the index remembers it, while that is what the files say: then opening costs the same however
    /// long the history is.
    fn cached(context: &Context, nsid: Nsid) -> Result<Option<Head>> {
        if !context.meta.is_trusted() {
            return Ok(None);
        }
        let bytes = context.meta.manifest(nsid).unwrap_or_default();
        let length = bytes.as_ref().map_or(0, |bytes| bytes.len() as u64);
        let Some((manifest, crc32c)) = bytes.and_then(|bytes| decode_manifest(&bytes, "meta.redb").ok()) else {
            return Ok(None);
        };
        let is_there = |generation| context.disk.size(&context.layout.manifest(nsid, generation)).is_ok();
        let is_newest = is_there(manifest.generation) && !is_there(manifest.generation + 1);
        Ok((manifest.nsid == nsid && is_newest).then_some(Head { manifest, crc32c, bytes: length }))
    }

    /// Writes the first manifest of an incarnation.
    pub fn create(context: &Context, manifest: Manifest) -> Result<Head> {
        let dir = context.layout.manifests(manifest.nsid);
        create_dirs(&*context.disk, &dir).context(|| format!("create {}", dir.display()))?;
        write(context, None, manifest).map_err(|failed| failed.error)
    }

    /// Commits the manifest that `edit` makes of this one. Its objects must be durable. This one is kept for as long as
    /// retention says.
    pub fn commit(&self, context: &Context, edit: impl FnOnce(&mut Manifest)) -> Result<Head> {
        self.try_commit(context, edit).map_err(|failed| failed.error)
    }

    /// The same of a manifest that names new objects: they are durable before, and go where it is certain that it did not come to be.
    pub fn commit_new(
        &self,
        context: &Context,
        mut objects: Unnamed,
        edit: impl FnOnce(&mut Manifest),
    ) -> Result<Head> {
        objects.settle()?;
        let done = self.try_commit(context, edit);
        if done.as_ref().err().is_none_or(|failed| failed.is_unknown) {
            objects.keep();
        }
        done.map_err(|failed| failed.error)
    }

    fn try_commit(&self, context: &Context, edit: impl FnOnce(&mut Manifest)) -> Result<Head, Failed> {
        let mut manifest = self.manifest.clone();
        edit(&mut manifest);
        manifest.generation = self.manifest.generation + 1;
        manifest.parent = Some(Parent { commit_id: self.manifest.commit_id, crc32c: self.crc32c });
        let now = context.clock.now_millis();
        manifest.commit_id = CommitId(context.random.uuid_v7(now));
        manifest.committed_ms = committed(now, self.manifest.committed_ms);
        let head = write(context, Some(self), manifest)?;
        if context.config.retention_ms == 0 && context.meta.is_trusted() {
            let (nsid, due) = (self.manifest.nsid, [self.manifest.generation].into());
            if let Err(error) = drop_generations(context, nsid, &due) {
                tracing::warn!(%error, "a past state is not let go of, it is tried again");
            }
        }
        Ok(head)
    }
}

/// Why a manifest was not committed.
struct Failed {
    error: Error,
    /// It may be in place all the same.
    is_unknown: bool,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Failed { error, is_unknown: false }
    }
}

fn write(context: &Context, before: Option<&Head>, manifest: Manifest) -> Result<Head, Failed> {
    let _commits = context.commits.of(manifest.nsid);
    let old: BTreeSet<String> = before.map(|head| keys(&head.manifest)).unwrap_or_default().into_iter().collect();
    let new: BTreeMap<String, ObjectFact> =
        objects(&manifest).into_iter().map(|object| (object.key.clone(), object)).collect();
    let added: Vec<ObjectFact> = new.into_values().filter(|object| !old.contains(&object.key)).collect();
    let (bytes, crc32c) = encode_manifest(&manifest)?;
    let path = context.layout.manifest(manifest.nsid, manifest.generation);
    context.settle_manifest(manifest.nsid)?;
    if context.disk.size(&path).is_ok() {
        // An attempt that failed left it, and it may have been counted since.
        unpublish(&*context.disk, &path).context(|| format!("remove manifest {}", path.display()))?;
        context.meta.overcount("a manifest was written after all, and is replaced");
    }
    context.meta.hold(&added)?;
    if let Err(failed) = try_publish(&*context.disk, &path, &bytes) {
        let added: Vec<String> = added.into_iter().map(|object| object.key).collect();
        let is_unknown = !take_back(context, &path, &failed, &added);
        if is_unknown {
            context.doubted.add((manifest.nsid, Of::Manifest), path.clone(), added);
        }
        let mut error = Error::from(failed.error).context(format!("write manifest {}", path.display()));
        if is_unknown {
            error = error.or_hint(
                "it is taken back as soon as the disk lets go of the file, which is tried every half minute; should the daemon stop \
                 before that, it may have been done after all: look at the disk and the kernel's log, then send the same again",
            );
        }
        return Err(Failed { error, is_unknown });
    }
    let length = bytes.len() as u64;
    let facts = facts(&manifest, bytes);
    let followed = context.meta.settle(manifest.nsid, Some(&facts), &[]).and_then(|_| match before {
        None => Ok(()),
        Some(before) => {
            let past = past(&before.manifest, before.bytes, &manifest);
            context.meta.remember(manifest.nsid, before.manifest.generation, &past)
        }
    });
    if let Err(error) = followed {
        context.say_index_fails(&error);
    }
    Ok(Head { manifest, crc32c, bytes: length })
}

/// Lets go of what a manifest or a tag was to name that could not be written. Where it may be in place all the same, its objects stay
/// counted until all is counted anew: whoever reads it next needs them. Gives whether it is certain that it is not in place.
pub fn take_back(context: &Context, path: &Path, failed: &Unpublished, added: &[String]) -> bool {
    let gone = if failed.may_be_there { unpublish(&*context.disk, path) } else { Ok(()) };
    let is_gone = gone.is_ok();
    match gone.map_err(Error::from).and_then(|()| context.meta.release(added)) {
        // A full disk needs the space back at once.
        Ok(free) => reclaim(context, &free),
        Err(_) => context.meta.overcount("it is not known whether a manifest or a tag was written"),
    }
    is_gone
}

/// Removes objects that nobody references, while counts are known to be right.
pub fn reclaim(context: &Context, free: &[String]) {
    if !context.may_reclaim() {
        return;
    }
    for key in free {
        let remove = || match context.meta.is_free(key) {
            Ok(true) => context.tier.remove(key),
            // The counts that said so may be of an index that was begun anew just then.
            _ => Ok(()),
        };
        if let Some(Err(error)) = context.expected.unless_expected(key, remove) {
            tracing::warn!(%error, key, "object is not reclaimed, a later sweep tries again");
        }
    }
    // What a branch needed of an incarnation that is gone may have been the last of it.
    let owners: BTreeSet<(Project, Nsid)> = free.iter().filter_map(|key| owner(key)).collect();
    for (project, nsid) in owners {
        if !context.disk.is_filled(&context.layout.manifests(nsid)) {
            remove_empty(context, &project, nsid);
        }
    }
}

/// Keys of every object a manifest names.
pub fn keys(manifest: &Manifest) -> Vec<String> {
    objects(manifest).into_iter().map(|object| object.key).collect()
}

/// Every object a manifest names.
pub fn objects(manifest: &Manifest) -> Vec<ObjectFact> {
    let mut objects = Vec::new();
    for log in &manifest.logs {
        objects.push(ObjectFact { key: log.key.clone(), bytes: log.bytes, crc32c: log.crc32c });
    }
    for key in &manifest.conflicts {
        // Its envelope has the checksum.
        objects.push(ObjectFact { key: key.clone(), bytes: 0, crc32c: 0 });
    }
    for segment in &manifest.segments {
        objects.push(ObjectFact { key: segment.key.clone(), bytes: segment.bytes, crc32c: segment.crc32c });
        if let Some(deletions) = &segment.deletions {
            objects.push(ObjectFact { key: deletions.key.clone(), bytes: deletions.bytes, crc32c: deletions.crc32c });
        }
    }
    objects
}

/// What the index keeps of a manifest whose file has these bytes.
pub fn facts(manifest: &Manifest, bytes: Vec<u8>) -> HeadFacts {
    HeadFacts { manifest: bytes, objects: objects(manifest) }
}
