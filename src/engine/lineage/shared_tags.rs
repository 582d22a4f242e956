//! Tags that travel by a bucket: what of them is here and there, taking in what another node set, and copies that name only what
//! the bucket keeps.
//!
//! Invariants:
//! - Of a tag the highest revision holds, here as there. What is made here is above all that was known here then.
//! - A revision of this node's is in the bucket, and announced, when `tags.json` says so; where that is lost, all of them are
//!   compared anew.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

use super::holdings::{list, newest_revision, read_tag};
use super::tags::next_rev;
use crate::engine::Engine;
use crate::engine::context::Context;
use crate::engine::layout::{conflicts_key, segment_key};
use crate::engine::namespace::{Moment, Namespace, reference, write_deletions};
use crate::engine::remote::keys_of;
use crate::engine::view::SegmentView;
use crate::error::{Context as _, Error, Kind, Result};
use crate::format::manifest::{Manifest, SegmentRef};
use crate::format::marks::{TAGS_SHARED_MAX, TagFile, TagsFile, VERSION, decode_tags, encode_tags};
use crate::model::ids::{Hlc, NamespaceName, Nsid};
use crate::platform::disk::{if_there, publish};
use crate::segment::Summary;
use crate::segment::builder::{Entry, build};
use crate::segment::merge::{Input, merge};

/// Revisions of tags that the bucket does not have.
#[derive(Debug, Default)]
pub struct TagsDue {
    /// Those to be sent.
    pub sent: BTreeMap<String, u64>,
    /// Those of tags whose names the bucket does not have, and has no room for.
    pub crowded: BTreeMap<String, u64>,
    /// Deletions of such tags: where the bucket really has none of that name nobody needs to be told.
    pub needless: BTreeMap<String, u64>,
}

impl Engine {
    /// The newest revision of every tag of an incarnation, deleted ones included. Lists directories only. Blocking.
    pub fn tag_revisions(&self, nsid: Nsid) -> Result<BTreeMap<String, u64>> {
        let dir = self.context.layout.tags(nsid);
        let mut found = BTreeMap::new();
        for tag in list(&self.context, &dir)? {
            let newest = newest_revision(&self.context, &dir.join(&tag))?;
            found.extend(newest.map(|rev| (tag, rev)));
        }
        Ok(found)
    }

    /// Revisions of this node's tags that the bucket does not have, by what is to become of them. Blocking.
    pub fn tags_due(&self, nsid: Nsid) -> Result<TagsDue> {
        let (all, mut found) = (self.tag_revisions(nsid)?, TagsDue::default());
        if all.is_empty() {
            return Ok(found);
        }
        let known = self.known_tags(nsid)?.revisions;
        let mut room = TAGS_SHARED_MAX.saturating_sub(known.len());
        for (tag, rev) in all {
            let there = known.get(&tag);
            if there.is_some_and(|there| *there >= rev) {
                continue;
            }
            if there.is_some() || room > 0 {
                room -= usize::from(there.is_none());
                found.sent.insert(tag, rev);
            } else if matches!(self.tag_file(nsid, &tag), Ok(Some(file)) if file.manifest.is_none()) {
                found.needless.insert(tag, rev);
            } else {
                found.crowded.insert(tag, rev);
            }
        }
        Ok(found)
    }

    /// Whether the bucket has as many names of tags, as far as is known here and with `others` that are here and that it is to be told of, as it may
    /// have, so that a tag of a name that it does not have would find no room. Blocking.
    pub(super) fn is_crowded_for(&self, (nsid, tag): (Nsid, &str), others: &[String]) -> Result<bool> {
        let known = self.known_tags(nsid)?.revisions;
        let is_new = |name: &&String| !known.contains_key(*name);
        Ok(!known.contains_key(tag) && known.len() + others.iter().filter(is_new).count() >= TAGS_SHARED_MAX)
    }

    /// A tag's newest revision. Blocking.
    pub fn tag_file(&self, nsid: Nsid, tag: &str) -> Result<Option<TagFile>> {
        read_tag(&self.context, nsid, tag)
    }

    /// What is known here of the tags in the bucket: nothing where that is damaged. Blocking.
    pub fn known_tags(&self, nsid: Nsid) -> Result<TagsFile> {
        let path = self.context.layout.known_tags(nsid);
        let bytes = if_there(self.context.disk.read(&path)).context(|| format!("read {}", path.display()))?;
        let nothing = TagsFile { format: VERSION, ..TagsFile::default() };
        let Some(bytes) = bytes else { return Ok(nothing) };
        Ok(decode_tags(&bytes, &path.display().to_string()).unwrap_or_else(|error| {
            tracing::warn!(%error, "the tags in the bucket are compared anew");
            nothing
        }))
    }

    /// Writes down what is known of the tags in the bucket. Blocking.
    pub fn note_tags(&self, nsid: Nsid, known: &TagsFile) -> Result<()> {
        let path = self.context.layout.known_tags(nsid);
        publish(&*self.context.disk, &path, &encode_tags(known)?).context(|| format!("write {}", path.display()))
    }

    /// Puts the bucket's revision of a tag, whose objects are here, in the place of what is here of it. False, and nothing changes,
    /// when that is newer. Blocking.
    pub fn take_tag(&self, nsid: Nsid, file: &TagFile) -> Result<bool> {
        let turn = self.context.tags.of(nsid);
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let before = read_tag(&self.context, nsid, &file.tag)?;
        if before.as_ref().is_some_and(|before| before.rev > file.rev) {
            return Ok(false);
        }
        self.put_tag(nsid, file, before.as_ref(), || Ok(()))?;
        Ok(true)
    }

    /// Those of the tags `there` in the bucket of which the same revision was here and is missing or damaged now. Blocking.
    pub fn lost_tags(&self, nsid: Nsid, there: &BTreeMap<String, u64>) -> Result<Vec<String>> {
        let (known, here) = (self.known_tags(nsid)?.revisions, self.tag_revisions(nsid)?);
        let is_lost = |tag: &str, rev: u64| match here.get(tag) {
            None => true,
            Some(own) => *own == rev && self.is_damaged_tag(nsid, tag),
        };
        let was_here = there.iter().filter(|(tag, rev)| known.get(*tag) == Some(*rev));
        Ok(was_here.filter(|(tag, rev)| is_lost(tag, **rev)).map(|(tag, _)| tag.clone()).collect())
    }

    /// Has the next pass take the lost ones of the tags `there` from the bucket again; one that is damaged goes first. Gives their names.
    /// Blocking.
    pub fn take_tags_again(&self, nsid: Nsid, there: &BTreeMap<String, u64>) -> Result<Vec<String>> {
        let turn = self.context.tags.of(nsid);
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let lost = self.lost_tags(nsid, there)?;
        for tag in &lost {
            self.drop_damaged_tag(nsid, tag)?;
        }
        if !lost.is_empty() {
            let mut known = self.known_tags(nsid)?;
            known.revisions.retain(|tag, _| !lost.contains(tag));
            known.changes = 0;
            self.note_tags(nsid, &known)?;
        }
        Ok(lost)
    }

    /// Whether a tag's file is not what was written; one that cannot be read may be whole.
    fn is_damaged_tag(&self, nsid: Nsid, tag: &str) -> bool {
        let is_damaged = || {
            read_tag(&self.context, nsid, tag).is_err_and(|error| error.kind() == Kind::Corrupt && !error.is_unread())
        };
        is_damaged() && is_damaged()
    }

    /// Removes a tag of which nobody can read what it holds, where it is there.
    fn drop_damaged_tag(&self, nsid: Nsid, tag: &str) -> Result<()> {
        let context = &self.context;
        let _commits = context.commits.of(nsid);
        let Some(rev) = newest_revision(context, &context.layout.tags(nsid).join(tag))? else { return Ok(()) };
        context.meta.distrust("what a damaged tag held is counted");
        self.remove_tag_files(nsid, tag, rev)
    }

    /// Forgets a tag, unless it was changed after revision `rev`: the bucket has forgotten it, or never knew of it. Blocking.
    pub fn forget_tag(&self, nsid: Nsid, tag: &str, rev: u64) -> Result<()> {
        let turn = self.context.tags.of(nsid);
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        match read_tag(&self.context, nsid, tag)?.filter(|known| known.rev == rev) {
            Some(known) => self.remove_tag(nsid, &known),
            None => Ok(()),
        }
    }

    /// The bucket has nothing of an incarnation any more: every tag becomes one that it never knew of, under a number that none of
    /// its own had. Blocking.
    pub fn forget_sent_tags(&self, nsid: Nsid) -> Result<()> {
        let path = self.context.layout.known_tags(nsid);
        if if_there(self.context.disk.size(&path)).context(|| format!("read {}", path.display()))?.is_none() {
            return Ok(());
        }
        let turn = self.context.tags.of(nsid);
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        for tag in self.tag_revisions(nsid)?.keys() {
            match read_tag(&self.context, nsid, tag)? {
                Some(known) if known.manifest.is_some() => {
                    let next = TagFile { rev: next_rev(0, Some(known.rev)), ..known.clone() };
                    self.put_tag(nsid, &next, Some(&known), || Ok(()))?;
                }
                Some(deleted) => self.remove_tag(nsid, &deleted)?,
                None => {}
            }
        }
        crate::platform::disk::unpublish(&*self.context.disk, &path).context(|| format!("remove {}", path.display()))
    }

    /// Revision `rev` of a tag, or the next one, which says the same: it names no logs, and no objects but those in `kept` and some
    /// that never had a name before. `None` when the tag was changed since.
    pub async fn detach_tag(
        self: &Arc<Self>,
        name: &NamespaceName,
        (tag, rev): (&str, u64),
        kept: &BTreeSet<String>,
    ) -> Result<Option<TagFile>> {
        let namespace = self.namespace(name)?;
        let file = tokio::task::block_in_place(|| read_tag(&self.context, namespace.nsid, tag))?;
        let Some(file) = file.filter(|file| file.rev == rev) else { return Ok(None) };
        let Some(manifest) = file.manifest.as_ref() else { return Ok(Some(file)) };
        if manifest.logs.is_empty() && keys_of(manifest).is_subset(kept) {
            return Ok(Some(file));
        }
        // As a merge of segments: one at a time, so that memory stays bounded.
        let turn = self.context.compacting.acquire().await.map_err(|_| Error::unavailable("stopping"))?;
        let (engine, manifest, kept) = (self.clone(), manifest.clone(), kept.clone());
        let step = format!("copy what tag '{tag}' of {name} needs");
        let copied = tokio::task::spawn_blocking(move || {
            let _birth = engine.context.birth(namespace.nsid);
            let mut copy = Copy { namespace: &namespace, context: &engine.context, kept: &kept, begun: Vec::new() };
            let done = copy.all_of(manifest).and_then(|copied| engine.put_detached(namespace.nsid, file, copied));
            if !matches!(done, Ok(Some(_))) {
                copy.take_back();
            }
            done
        });
        let done = copied.await.map_err(|error| Error::internal(format!("{step}: {error}")))?;
        drop(turn);
        done.context(|| step)
    }

    fn put_detached(&self, nsid: Nsid, file: TagFile, copied: Manifest) -> Result<Option<TagFile>> {
        let turn = self.context.tags.of(nsid);
        let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
        let known = read_tag(&self.context, nsid, &file.tag)?;
        if known.as_ref().map(|known| known.rev) != Some(file.rev) {
            return Ok(None);
        }
        let next = TagFile { rev: next_rev(0, Some(file.rev)), manifest: Some(copied), ..file };
        self.put_tag(nsid, &next, known.as_ref(), || Ok(()))?;
        Ok(Some(next))
    }
}

/// What a bucket is told of a tag: nothing that is one node's own.
pub fn shared(file: &TagFile) -> TagFile {
    TagFile { manifest: file.manifest.clone().map(Manifest::of_all), ..file.clone() }
}

/// Copies what a state needs to names that nobody ever used.
struct Copy<'a> {
    namespace: &'a Namespace,
    context: &'a Context,
    /// Keys of what may stay as it is.
    kept: &'a BTreeSet<String>,
    /// Keys of what was begun, to be taken back.
    begun: Vec<String>,
}

impl Copy<'_> {
    fn take_back(&self) {
        for key in &self.begun {
            let _ = self.context.tier.remove(key);
        }
    }

    fn all_of(&mut self, manifest: Manifest) -> Result<Manifest> {
        let moment = self.namespace.past(manifest)?;
        let mut segments = Vec::with_capacity(moment.manifest.segments.len() + 1);
        for (known, part) in moment.manifest.segments.iter().zip(&moment.view.segments) {
            segments.extend(self.segment(&moment, known, part)?);
        }
        let entries = moment.tail_entries();
        if !entries.is_empty() {
            segments.extend(self.add(0, |id, out| build(id, &moment.view.schema, &entries, out))?);
        }
        let mut conflicts = Vec::with_capacity(moment.manifest.conflicts.len());
        for key in &moment.manifest.conflicts {
            conflicts.push(if self.kept.contains(key) { key.clone() } else { self.conflicts(key)? });
        }
        let schema = (*moment.view.schema).clone();
        Ok(Manifest { schema, segments, conflicts, logs: Vec::new(), ..moment.manifest })
    }

    /// `None` when nothing of it is left.
    fn segment(&mut self, moment: &Moment, known: &SegmentRef, part: &SegmentView) -> Result<Option<SegmentRef>> {
        if !self.kept.contains(&known.key) {
            let input = Input { segment: &part.segment, dead: &part.dead };
            let (schema, horizon): (_, Hlc) = (&moment.view.schema, moment.manifest.horizon);
            return self.add(known.level, |id, out| merge(id, schema, &[input], horizon, out));
        }
        // Records in logs may have replaced rows of it.
        let settled = known.deletions.as_ref().map_or(0, |dead| u64::from(dead.rows));
        let is_kept = known.deletions.as_ref().is_none_or(|dead| self.kept.contains(&dead.key));
        if is_kept && settled == part.dead.len() {
            return Ok(Some(known.clone()));
        }
        let Namespace { name, nsid, .. } = self.namespace;
        let object = write_deletions(self.context, &name.project, *nsid, known, &part.dead)?;
        self.begun.push(object.key.clone());
        Ok(Some(SegmentRef { deletions: Some(object), ..known.clone() }))
    }

    fn add(
        &mut self,
        level: u8,
        fill: impl FnOnce(uuid::Uuid, &mut dyn std::io::Write) -> Result<Summary>,
    ) -> Result<Option<SegmentRef>> {
        let segment_id = self.context.random.uuid_v7(self.context.clock.now_millis());
        let key = segment_key(&self.namespace.name.project, self.namespace.nsid, segment_id);
        let pace = self.context.config.compaction_bytes_per_second;
        let mut writer = self.context.tier.create_paced(&key, pace)?;
        let summary = fill(segment_id, &mut writer)?;
        if (summary.rows, summary.tombstones) == (0, 0) {
            return Ok(None);
        }
        self.begun.push(key.clone());
        writer.publish()?;
        Ok(Some(reference(key, segment_id, level, &summary)))
    }

    fn conflicts(&mut self, key: &str) -> Result<String> {
        let Namespace { name, nsid, .. } = self.namespace;
        let next = conflicts_key(&name.project, *nsid, self.context.random.next_u64());
        self.begun.push(next.clone());
        let file = self.context.tier.map_all(key)?;
        let bytes = file.to_vec();
        file.check_readable(key)?;
        self.context.tier.put(&next, &bytes)?;
        Ok(next)
    }
}

impl Moment {
    /// The documents and tombstones that are in no segment, in the order of their ids.
    pub(in crate::engine) fn tail_entries(&self) -> Vec<Entry> {
        let rows = self.view.tail.iter();
        let mut entries: Vec<Entry> =
            rows.map(|(_, row)| Entry::Row { document: row.document.clone(), terms: row.terms.clone() }).collect();
        entries.extend(self.tombstones.iter().cloned().map(Entry::Tombstone));
        entries.sort_by(|a, b| a.id().cmp(b.id()));
        entries
    }
}
