//! Which objects an incarnation keeps alive, read from its files.

use std::collections::{BTreeMap, BTreeSet};

use crate::engine::context::Context;
use crate::engine::layout::{log_key, number_of, numbered};
use crate::engine::merge::kept_by;
use crate::engine::namespace::head::{Head, keys, objects};
use crate::engine::recovery::sealed_from;
use crate::error::{Context as _, Error, Result};
use crate::format::manifest::{Manifest, decode_manifest, encode_manifest};
use crate::format::marks::{DeletedFile, TagFile, decode_deleted, decode_tag};
use crate::format::names::parse_name;
use crate::meta::ObjectFact;
use crate::meta::tables::{Kin, KinLineage, Past};
use crate::model::ids::Nsid;
use crate::platform::disk::if_there;

/// What an incarnation's small files and its log take at least.
const FILES_BYTES: u64 = 16 << 10;
/// A manifest is in its file and in the index.
const MANIFEST_COPIES: u64 = 2;

/// What one incarnation keeps alive.
pub struct Holdings {
    pub head: Head,
    /// How often it holds each object.
    pub keys: BTreeMap<String, u64>,
    /// Of the objects that only its past states hold, the last one that does.
    pub until: BTreeMap<String, u64>,
    /// Objects that only past states, tags or bases of merges name.
    pub beside_head: BTreeMap<String, ObjectFact>,
    /// Its manifests of the past, oldest first.
    pub past: Vec<(u64, Past)>,
    pub deleted: Option<DeletedFile>,
    /// Past states, tags or bases of merges could not be read.
    pub missed: Option<Missed>,
}

/// What could not be read of an incarnation.
#[derive(Debug, Default)]
pub struct Missed {
    /// The sources of bases of merges.
    pub sources: Vec<Nsid>,
    errors: Vec<Error>,
}

impl Holdings {
    /// Reads everything of an incarnation; `None` when it never came to be. Past manifests, tags and bases that cannot be read are
    /// left out, and missed: nobody can ask for them until they are back.
    pub fn read(context: &Context, nsid: Nsid) -> Result<Option<Holdings>> {
        let Some(head) = Head::load(context, nsid)? else { return Ok(None) };
        let mut found = Holdings::of(head);
        let head_ms = found.head.manifest.committed_ms;
        let mut before: Option<(Manifest, u64)> = None;
        let mut unread = Vec::new();
        for generation in generations(context, nsid)? {
            if generation >= found.head.manifest.generation {
                break;
            }
            match read_stored(context, nsid, generation) {
                Ok(stored) => found.follow(&mut before, stored),
                Err(error) if error.code() == super::GONE => {}
                Err(error) => {
                    found.miss(None, error);
                    let past = unread_past(context, nsid, generation, before.as_ref().map(|(before, _)| before));
                    unread.push((generation, past));
                }
            }
        }
        found.follow(&mut before, (found.head.manifest.clone(), found.head.bytes));
        for (generation, mut past) in unread {
            // Whatever came next replaced it at the latest.
            let next = found.past.iter().find(|(later, _)| *later > generation);
            past.replaced_ms = past.replaced_ms.min(next.map_or(head_ms, |(_, next)| next.committed_ms));
            found.past.push((generation, past));
        }
        found.past.sort_by_key(|(generation, _)| *generation);
        found.add_beside(context)?;
        match read_deleted(context, nsid) {
            Ok(deleted) => found.deleted = deleted,
            Err(error) => found.miss(None, error),
        }
        Ok(Some(found))
    }

    fn of(head: Head) -> Self {
        let (keys, until, beside_head) = Default::default();
        Holdings { head, keys, until, beside_head, past: Vec::new(), deleted: None, missed: None }
    }

    /// A past state, a tag or a base, with its source, cannot be read: it cannot be asked for until it is back.
    fn miss(&mut self, source: Option<Nsid>, error: Error) {
        // Retention has just let go of it.
        if error.code() == super::GONE {
            return;
        }
        let missed = self.missed.get_or_insert_default();
        missed.sources.extend(source);
        missed.errors.push(error);
    }

    /// Fails where something was not read for want of descriptors or memory.
    pub fn check_limits(&self) -> Result<()> {
        let mut errors = self.missed.iter().flat_map(|missed| &missed.errors);
        errors.find(|error| error.is_of_limits()).map_or(Ok(()), |error| Err(error.duplicate()))
    }

    /// Lists what could not be read as damaged. For who knows that nobody was changing it.
    pub fn report(&self, context: &Context) {
        let manifest = &self.head.manifest;
        for error in self.missed.iter().flat_map(|missed| &missed.errors) {
            context.report_unreadable(&manifest.name, manifest.nsid, error);
        }
    }

    /// Counts what an incarnation holds beside its chain of manifests, where that can be read: what tags and bases name, and its logs.
    fn add_beside(&mut self, context: &Context) -> Result<()> {
        let nsid = self.head.manifest.nsid;
        for tag in read_tags(context, nsid)? {
            match tag {
                Ok(tag) => tag.manifest.iter().for_each(|manifest| self.hold_all(manifest)),
                Err(error) => self.miss(None, error),
            }
        }
        for (source, base) in kept_by(context, nsid)? {
            match base {
                Ok(base) => self.hold_all(&base),
                Err(error) => self.miss(Some(source), error),
            }
        }
        for key in own_logs(context, &self.head.manifest)? {
            self.hold(key);
        }
        for object in objects(&self.head.manifest) {
            self.beside_head.remove(&object.key);
        }
        Ok(())
    }

    fn hold_all(&mut self, manifest: &Manifest) {
        for object in objects(manifest) {
            self.hold(object.key.clone());
            self.beside_head.insert(object.key.clone(), object);
        }
    }

    fn hold(&mut self, key: String) {
        self.until.remove(&key);
        *self.keys.entry(key).or_default() += 1;
    }

    /// Takes the next manifest of the chain.
    fn follow(&mut self, before: &mut Option<(Manifest, u64)>, (manifest, bytes): (Manifest, u64)) {
        let earlier: BTreeSet<String> = before.as_ref().map(|(before, _)| key_set(before)).unwrap_or_default();
        let named = key_set(&manifest);
        for key in named.difference(&earlier) {
            self.hold(key.clone());
        }
        if let Some((before, length)) = before.take() {
            for object in objects(&before).into_iter().filter(|object| !named.contains(&object.key)) {
                self.until.insert(object.key.clone(), before.generation);
                self.beside_head.insert(object.key.clone(), object);
            }
            self.past.push((before.generation, past(&before, length, &manifest)));
        }
        *before = Some((manifest, bytes));
    }

    /// Each object as often as it is held.
    pub fn released(&self) -> Vec<String> {
        self.keys.iter().flat_map(|(key, count)| std::iter::repeat_n(key.clone(), *count as usize)).collect()
    }

    /// What the index knows of this incarnation beside its manifest.
    pub fn kin(&self) -> Kin {
        kin(&self.head.manifest, self.deleted.as_ref())
    }
}

/// How often an incarnation holds each object beside its chain of manifests.
pub(super) fn beside_the_chain(context: &Context, head: &Head) -> Result<BTreeMap<String, u64>> {
    let mut found = Holdings::of(head.clone());
    found.add_beside(context)?;
    found.report(context);
    Ok(found.keys)
}

pub fn kin(manifest: &Manifest, deleted: Option<&DeletedFile>) -> Kin {
    let lineage = manifest.lineage.as_ref().map(|lineage| KinLineage {
        parent: *lineage.nsid.0.as_bytes(),
        root: *lineage.root.unwrap_or(lineage.nsid).0.as_bytes(),
        hlc: lineage.hlc.0,
        since: lineage.since.0,
    });
    Kin {
        name: deleted.map_or_else(|| manifest.name.clone(), |deleted| deleted.name.clone()),
        lineage,
        expires_ms: manifest.expires_ms,
        deleted_ms: deleted.map(|deleted| deleted.deleted_ms),
        bytes: deleted.map_or(0, |_| bytes_of(manifest)),
        files_bytes: deleted.map_or(0, |_| FILES_BYTES + MANIFEST_COPIES * manifest_bytes(manifest)),
    }
}

fn manifest_bytes(manifest: &Manifest) -> u64 {
    encode_manifest(manifest).map_or(0, |(bytes, _)| bytes.len() as u64)
}

fn bytes_of(manifest: &Manifest) -> u64 {
    objects(manifest).iter().map(|object| object.bytes).sum()
}

/// What the index remembers of a manifest, of so many bytes, that `next` replaced.
pub fn past(manifest: &Manifest, manifest_bytes: u64, next: &Manifest) -> Past {
    let kept = key_set(next);
    let live =
        manifest.segments.iter().map(|s| u64::from(s.rows) - s.deletions.as_ref().map_or(0, |d| u64::from(d.rows)));
    Past {
        commit_id: *manifest.commit_id.0.as_bytes(),
        committed_ms: manifest.committed_ms,
        replaced_ms: next.committed_ms,
        data_seq: manifest.data_seq,
        documents: live.sum(),
        bytes: objects(manifest).iter().filter(|object| !kept.contains(&object.key)).map(|object| object.bytes).sum(),
        manifest_bytes,
    }
}

/// What is known of a past manifest that cannot be read: by the index, else that it may have been committed right after the one
/// before it. So who asks for a time at which it may have been the newest is told that it is damaged, and is not given another state.
fn unread_past(context: &Context, nsid: Nsid, generation: u64, before: Option<&Manifest>) -> Past {
    let known = context.meta.history(nsid).unwrap_or_default();
    let known = known.into_iter().find(|(known, _)| *known == generation).map(|(_, past)| past);
    known.unwrap_or_else(|| Past {
        committed_ms: before.map_or(0, |before| before.committed_ms),
        replaced_ms: u64::MAX,
        // Nobody says the same.
        data_seq: u64::MAX - generation,
        ..Past::default()
    })
}

/// The objects that letting go of a manifest releases: it lies between `before`, when that is retained, and `after`.
pub fn released_between(before: Option<&Manifest>, gone: &Manifest, after: &Manifest) -> Vec<String> {
    let (before, gone, after) = (before.map(key_set).unwrap_or_default(), key_set(gone), key_set(after));
    let runs = |key: &String| {
        let (p, g, n) = (before.contains(key), gone.contains(key), after.contains(key));
        u8::from(g && !p) + u8::from(n && !g) - u8::from(n && !p)
    };
    gone.union(&after).filter(|key| runs(key) > 0).cloned().collect()
}

fn key_set(manifest: &Manifest) -> BTreeSet<String> {
    keys(manifest).into_iter().collect()
}

/// The generations that have a file, ascending.
pub fn generations(context: &Context, nsid: Nsid) -> Result<Vec<u64>> {
    let dir = context.layout.manifests(nsid);
    Ok(list(context, &dir)?.iter().filter_map(|name| number_of(name)).collect())
}

/// A manifest of an incarnation's chain. `NotFound` with code `gone` when it is there no more.
pub fn read_manifest(context: &Context, nsid: Nsid, generation: u64) -> Result<Manifest> {
    read_stored(context, nsid, generation).map(|(manifest, _)| manifest)
}

/// The same, with the length of its file.
pub fn read_stored(context: &Context, nsid: Nsid, generation: u64) -> Result<(Manifest, u64)> {
    let path = context.layout.manifest(nsid, generation);
    let bytes =
        if_there(context.disk.read(&path)).map_err(Error::reading).context(|| format!("read {}", path.display()))?;
    let bytes = bytes.ok_or_else(|| super::gone(format!("generation {generation} is not kept any more")))?;
    let (manifest, _) = decode_manifest(&bytes, &path.display().to_string())?;
    if manifest.nsid != nsid || manifest.generation != generation {
        return Err(Error::corrupt(format!(
            "{}: is generation {} of {}, expected generation {generation} of {nsid}",
            path.display(),
            manifest.generation,
            manifest.nsid
        )));
    }
    Ok((manifest, bytes.len() as u64))
}

/// The newest revision of every tag of an incarnation, deleted ones included.
pub fn read_tags(context: &Context, nsid: Nsid) -> Result<Vec<Result<TagFile>>> {
    let mut found = Vec::new();
    for tag in list(context, &context.layout.tags(nsid))? {
        found.extend(read_tag(context, nsid, &tag).transpose());
    }
    Ok(found)
}

/// The newest revision of one tag.
pub fn read_tag(context: &Context, nsid: Nsid, tag: &str) -> Result<Option<TagFile>> {
    let dir = context.layout.tags(nsid).join(tag);
    let Some(rev) = newest_revision(context, &dir)? else { return Ok(None) };
    let path = dir.join(numbered(rev));
    let bytes = context.disk.read(&path).map_err(Error::reading).context(|| format!("read {}", path.display()))?;
    decode_tag(&bytes, &path.display().to_string()).map(Some)
}

/// The highest number of a file in a tag's directory.
pub(super) fn newest_revision(context: &Context, dir: &std::path::Path) -> Result<Option<u64>> {
    Ok(list(context, dir)?.iter().filter_map(|name| number_of(name)).max())
}

/// The mark of an incarnation's deletion.
pub fn read_deleted(context: &Context, nsid: Nsid) -> Result<Option<DeletedFile>> {
    let path = context.layout.deleted_mark(nsid);
    let bytes =
        if_there(context.disk.read(&path)).map_err(Error::reading).context(|| format!("read {}", path.display()))?;
    bytes.map(|bytes| decode_deleted(&bytes, &path.display().to_string())).transpose()
}

/// Keys of the sealed logs that the writer holds itself: what they have is not in the manifest.
pub fn own_logs(context: &Context, manifest: &Manifest) -> Result<Vec<String>> {
    let Some(name) = parse_name(&manifest.name) else { return Ok(Vec::new()) };
    let paths = context.layout.logs(&name.project, manifest.nsid);
    let names = sealed_from(&*context.disk, &paths, manifest.replay_from, manifest.hlc)?;
    Ok(names.into_iter().map(|log| log_key(&name.project, manifest.nsid, &log)).collect())
}

pub(super) fn list(context: &Context, dir: &std::path::Path) -> Result<Vec<String>> {
    let names =
        if_there(context.disk.names(dir)).map_err(Error::reading).context(|| format!("list {}", dir.display()))?;
    Ok(names.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::released_between;
    use crate::format::manifest::tests::a_manifest;
    use crate::format::manifest::{LogRef, Manifest};

    fn naming(keys: &str) -> Manifest {
        let manifest = a_manifest();
        let log = |key: char| LogRef { key: key.to_string(), ..manifest.logs[0].clone() };
        Manifest { logs: keys.chars().map(log).collect(), ..manifest.clone() }
    }

    #[test]
    fn letting_go_of_a_manifest_releases_what_no_neighbour_names() {
        let released = |before: Option<&str>, gone: &str, after: &str| {
            let before = before.map(naming);
            released_between(before.as_ref(), &naming(gone), &naming(after)).concat()
        };
        assert_eq!(released(None, "ab", "bc"), "a");
        assert_eq!(released(Some("a"), "ab", "bc"), "");
        assert_eq!(released(Some("x"), "ab", "bc"), "a");
        // Named on both sides of it and not by it: two runs become one.
        assert_eq!(released(Some("a"), "b", "a"), "ab");
        assert_eq!(released(None, "ab", "ab"), "");
    }
}
