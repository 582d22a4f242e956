//! Tags: a name for one commit, kept until it is deleted.
//!
//! A deleted tag leaves a file that says so, for a bucket and for other nodes that have the tag. Where they may, that stays until the
//! bucket is told; else as long as past states are kept, and of too many the oldest go.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::holdings::{list, read_manifest, read_tag, read_tags};
use crate::engine::Engine;
use crate::engine::doubted::Of;
use crate::engine::layout::numbered;
use crate::engine::namespace::head::{keys, objects, reclaim, take_back};
use crate::error::{Context as _, Error, Result};
use crate::format::manifest::Manifest;
use crate::format::marks::{TAGS_SHARED_MAX, TagFile, VERSION, encode_tag};
use crate::model::as_of::AsOf;
use crate::model::ids::{CommitId, NamespaceName, Nsid, Project};
use crate::platform::disk::{create_dirs, if_there, try_publish, unpublish};

/// So many of the deletions that were left behind are looked for, and go, with one tag that is set: each costs two barriers.
const DELETED_AT_ONCE: usize = 32;
/// The most tags of one namespace. Where nobody needs to be told of deletions, those that are kept count, too.
pub const TAGS_MAX: usize = 1_024;
/// The most deleted tags of one namespace that a bucket is still to be told of, beside the others.
pub const UNTOLD_MAX: usize = TAGS_MAX;

/// Turns of who changes tags: one at a time of each incarnation.
#[derive(Debug, Default)]
pub struct TagTurns(Mutex<BTreeMap<Nsid, Arc<Mutex<()>>>>);

impl TagTurns {
    /// Held by who changes a tag of an incarnation.
    pub fn of(&self, nsid: Nsid) -> Arc<Mutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        turns.entry(nsid).or_default().clone()
    }
}

/// A tag and what it names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    pub name: String,
    pub at_ms: u64,
    pub generation: u64,
    pub commit_id: CommitId,
    pub data_seq: u64,
}

impl Engine {
    /// Names a state; the newest one when `as_of` is `None`. Refused with `exists` when the tag is there.
    pub async fn tag(&self, name: &NamespaceName, tag: &str, as_of: Option<&AsOf>) -> Result<Tag> {
        let _turn = self.turn_to_change(name).await?;
        self.context.note_commit(self.tag_now(name, tag, as_of).await)
    }

    async fn tag_now(&self, name: &NamespaceName, tag: &str, as_of: Option<&AsOf>) -> Result<Tag> {
        check_name(tag)?;
        self.context.check_space(0, || format!("tag '{tag}' of {name}"))?;
        let namespace = self.namespace_to_change(name)?;
        let shared = namespace.share_at(as_of).await?;
        tokio::task::block_in_place(|| {
            let turn = self.context.tags.of(namespace.nsid);
            // Held while a tag is read that this one is made of, too.
            let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
            let manifest = match as_of {
                None => shared.manifest.clone(),
                Some(as_of) => self.past_manifest(&namespace, as_of)?,
            };
            // One whose file is damaged is there all the same, and may be back any time.
            let known = read_tag(&self.context, namespace.nsid, tag)?;
            if known.as_ref().is_some_and(|file| file.manifest.is_some()) {
                return Err(Error::invalid(format!("tag '{tag}' of {name} is there already"))
                    .with_code("exists")
                    .with_hint("delete it first, or choose another name"));
            }
            self.make_room(name, (namespace.nsid, tag), known.is_some())?;
            let at_ms = self.context.clock.now_millis();
            // One that another node deleted is forgotten here, and has a number in the bucket all the same.
            let there = self.known_tags(namespace.nsid)?.revisions.get(tag).copied();
            let (rev, tag) = (next_rev(at_ms, known.as_ref().map(|known| known.rev).max(there)), tag.to_owned());
            let generation = manifest.generation;
            let file = TagFile { format: VERSION, tag, rev, at_ms, manifest: Some(manifest) };
            self.put_tag(namespace.nsid, &file, known.as_ref(), || match as_of {
                None | Some(AsOf::Tag(_)) => Ok(()),
                // Retention may have let go of it before its objects were counted.
                Some(_) => read_manifest(&self.context, namespace.nsid, generation).map(drop),
            })?;
            describe(&file).ok_or_else(|| Error::internal("a tag without a state"))
        })
    }

    /// Deletes a tag. What it alone kept is reclaimed.
    pub async fn untag(&self, name: &NamespaceName, tag: &str) -> Result<()> {
        check_name(tag)?;
        let _turn = self.turn_to_change(name).await?;
        let namespace = self.namespace_to_change(name)?;
        // Nothing is committed meanwhile, and nothing of the newest state is needed.
        let _head = namespace.hold_head().await?;
        tokio::task::block_in_place(|| {
            let turn = self.context.tags.of(namespace.nsid);
            let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
            let known = read_tag(&self.context, namespace.nsid, tag)?;
            let Some(known) = known.filter(|known| known.manifest.is_some()) else {
                return Err(Error::not_found(format!("{name} has no tag '{tag}'")));
            };
            let at_ms = self.context.clock.now_millis();
            let (rev, tag) = (next_rev(at_ms, Some(known.rev)), tag.to_owned());
            let file = TagFile { format: VERSION, tag, rev, at_ms, manifest: None };
            self.context.freeing(|| self.put_tag(namespace.nsid, &file, Some(&known), || Ok(())))
        })
    }

    /// The tags of a namespace, in order of name. An error where one of them cannot be read.
    pub fn tags(&self, name: &NamespaceName) -> Result<Vec<Tag>> {
        let namespace = self.namespace(name)?;
        let files = read_tags(&self.context, namespace.nsid)?.into_iter().collect::<Result<Vec<TagFile>>>()?;
        Ok(files.iter().filter_map(describe).collect())
    }

    /// Whether no bucket knows of this incarnation and none is there to be told of it: then nobody else has its tags, and a deleted one
    /// needs no file that says so.
    fn is_here_only(&self, nsid: Nsid) -> Result<bool> {
        let path = self.context.layout.known_tags(nsid);
        let known = if_there(self.context.disk.size(&path)).context(|| format!("read {}", path.display()))?;
        Ok(known.is_none() && !self.context.tier.cache().is_attached() && !self.is_shared(nsid)?)
    }

    /// Refuses one more tag where a namespace has the most, and one of a new name where its bucket has the most names of them. Removes what
    /// says of others that they were deleted, where nobody needs to be told: as long after that as past states are kept (a bucket may be
    /// there by then, and another node of a copied directory), and the oldest where there are too many. Others are read only where their
    /// number says that there may be too many, but for a few. The caller has the turn.
    fn make_room(&self, name: &NamespaceName, (nsid, tag): (Nsid, &str), is_known: bool) -> Result<()> {
        // Where it is not known, nothing is forgotten.
        let (context, is_here_only) = (&self.context, self.is_here_only(nsid).unwrap_or(false));
        let mut others = list(context, &context.layout.tags(nsid))?;
        others.retain(|other| other != tag);
        if !self.follows(name) && self.is_crowded_for((nsid, tag), &others)? {
            return Err(Error::invalid(format!(
                "{name} has {TAGS_SHARED_MAX} names of tags in its bucket or on their way there, which is the most, and '{tag}' is none of them"
            ))
            .with_hint("use a name again; a deleted tag counts until a reclaim, `sync.retention_days` after its deletion"));
        }
        let now = context.clock.now_millis();
        if others.len() < TAGS_MAX {
            // All have their turn: the clock says where it begins.
            let first = usize::try_from(now).unwrap_or_default() % others.len().max(1);
            others.rotate_left(first);
            others.truncate(if is_here_only { DELETED_AT_ONCE } else { 0 });
        }
        let files: Vec<_> = others.iter().filter_map(|other| read_tag(context, nsid, other).transpose()).collect();
        // One whose file is damaged is there all the same.
        let mut deleted: Vec<&TagFile> = files.iter().flatten().filter(|file| file.manifest.is_none()).collect();
        if files.len() - deleted.len() >= TAGS_MAX {
            return Err(Error::invalid(format!("{name} has {TAGS_MAX} tags, which is the most; delete one first")));
        }
        if !is_here_only {
            return match deleted.len() {
                UNTOLD_MAX.. if !is_known => Err(Error::invalid(format!(
                    "{name} has {} deleted tags that its bucket was not told of, expected fewer than {UNTOLD_MAX} for a new one",
                    deleted.len()
                ))
                .with_hint("let a pass tell the bucket; where none does, go on in a branch, which has tags of its own")),
                _ => Ok(()),
            };
        }
        // Some more than one, so that not all are read for the next one again.
        let spare = (files.len() + DELETED_AT_ONCE).saturating_sub(TAGS_MAX);
        let old = now.saturating_sub(context.config.retention_ms);
        deleted.sort_by_key(|file| file.at_ms);
        let goes = |(at, file): &(usize, &TagFile)| *at < spare || file.at_ms <= old;
        let gone = deleted.into_iter().enumerate().take_while(goes).take(DELETED_AT_ONCE);
        gone.map(|(_, file)| file).try_for_each(|file| self.remove_tag(nsid, file))
    }

    /// Makes a revision durable, its objects counted first, and lets go of the one before. The caller has the turn. `is_there` is asked
    /// once they are counted: nothing that is there then can go any more.
    pub(super) fn put_tag(
        &self,
        nsid: Nsid,
        file: &TagFile,
        before: Option<&TagFile>,
        is_there: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let context = &self.context;
        let dir = context.layout.tags(nsid).join(&file.tag);
        create_dirs(&*context.disk, &dir).context(|| format!("create {}", dir.display()))?;
        let path = dir.join(numbered(file.rev));
        // Until the one before is released: who counts in between does not see it any more.
        let _commits = context.commits.of(nsid);
        let (named, bytes) = (keys_named(Some(file)), encode_tag(file)?);
        context.meta.hold(&file.manifest.as_ref().map(objects).unwrap_or_default())?;
        if let Err(gone) = is_there() {
            self.release_tag(Some(file))?;
            return Err(gone);
        }
        if let Err(failed) = try_publish(&*context.disk, &path, &bytes) {
            if !take_back(context, &path, &failed, &named) {
                let objects = named.into_iter().chain(keys_named(before)).collect();
                context.doubted.add((nsid, Of::Tag), path.clone(), objects);
            }
            return Err(Error::from(failed.error).context(format!("write {}", path.display())));
        }
        if let Some(last) = before.map(|before| before.rev).filter(|last| *last != file.rev) {
            // Best effort: the newest revision is what counts.
            let _ = context.disk.remove(&dir.join(numbered(last)));
        }
        self.release_tag(before)
    }

    /// Removes what is here of a tag, durably. The caller has the turn.
    pub(super) fn remove_tag(&self, nsid: Nsid, known: &TagFile) -> Result<()> {
        let _commits = self.context.commits.of(nsid);
        self.remove_tag_files(nsid, &known.tag, known.rev)?;
        self.release_tag(Some(known))
    }

    /// Removes a tag's files. The caller commits, and counts what they named.
    pub(super) fn remove_tag_files(&self, nsid: Nsid, tag: &str, newest: u64) -> Result<()> {
        let context = &self.context;
        let (disk, dir) = (&*context.disk, context.layout.tags(nsid).join(tag));
        let step = || format!("remove the tag in {}", dir.display());
        let newest = numbered(newest);
        for name in disk.names(&dir).context(step)?.into_iter().filter(|name| *name != newest) {
            disk.remove(&dir.join(name)).context(step)?;
        }
        // Those before it first, and for good: one that comes back with a power cut must not be the newest.
        disk.sync_dir(&dir).context(step)?;
        if let Err(error) = unpublish(disk, &dir.join(newest)) {
            context.meta.overcount("it is not known whether a tag was removed");
            return Err(Error::from(error).context(step()));
        }
        let _ = disk.remove_dir(&dir);
        Ok(())
    }

    fn release_tag(&self, gone: Option<&TagFile>) -> Result<()> {
        let free = self.context.meta.release(&keys_named(gone))?;
        reclaim(&self.context, &free);
        Ok(())
    }
}

/// Checks what becomes a part of a path.
pub(super) fn check_name(tag: &str) -> Result<()> {
    Project::default_project()
        .namespace(tag)
        .map(drop)
        .map_err(|_| Error::invalid(format!("tag '{tag}': expected 1 to 128 of A-Za-z0-9-_., begun with A-Za-z0-9")))
}

/// A revision above `known`, as late as the clock says: of two that were made apart the later one is higher.
pub(super) fn next_rev(at_ms: u64, known: Option<u64>) -> u64 {
    known.map_or(at_ms, |known| at_ms.max(known.saturating_add(1)))
}

fn keys_named(file: Option<&TagFile>) -> Vec<String> {
    file.and_then(|file| file.manifest.as_ref()).map(keys).unwrap_or_default()
}

fn describe(file: &TagFile) -> Option<Tag> {
    let Manifest { generation, commit_id, data_seq, .. } = file.manifest.as_ref()?;
    Some(Tag {
        name: file.tag.clone(),
        at_ms: file.at_ms,
        generation: *generation,
        commit_id: *commit_id,
        data_seq: *data_seq,
    })
}
