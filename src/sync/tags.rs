//! Tags: what one node sets or deletes the others have after their next pass.
//!
//! - A change is a file of its own, created once; the next commit says that there is news. Who finds the same number of changes asks
//!   for nothing, so tags cost a node without news no request.
//! - Revisions are numbered by the clock of who made them, above all that it knew of. Of two that were made apart the later one
//!   holds, on every node; who finds that its own gave way, or that of another to its own, says so.
//! - A tag goes by a deletion only. One that was in the bucket and is not listed is sent again, unless a fence condemned a deletion of it
//!   since the state that both sides had in common, or may have: lists of long ago are not kept. Where the bucket's state does not go on
//!   from that one, as after a copy was put back, no deletion is read into what is missing.
//! - A bucket has a bounded number of names of tags, deleted ones included until a reclaim removes them. A tag of another name waits here
//!   until there is room, and every pass says so.
//! - What a tag names is safe once a commit follows its file, and no fence came in between: who commits one later finds the file. So it
//!   names what a state names that is retained then, and objects of its own that no fence condemned since they were sent.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::fences::Condemned;
use super::namespace::{Done, Found};
use super::objects::check_objects;
use super::{Sync, keys};
use crate::engine::lineage::{TagsDue, shared};
use crate::engine::remote::{keys_of, objects_of};
use crate::error::{Error, Kind, Result};
use crate::format::manifest::Manifest;
use crate::format::marks::{TAGS_SHARED_MAX, TagFile, TagsFile, VERSION, decode_tag, encode_tag};
use crate::model::ids::{NamespaceName, Nsid, Project};
use crate::store::{Outcome, commit};
use crate::tier::GONE;

/// The most revisions of one namespace's tags that are in a bucket.
const REVISIONS_MAX: usize = 65_536;
/// Past states that are looked at for what a tag names and the newest state does not.
const WALK_MAX: usize = 16;
/// So many tags a notice names.
const NAMED_MAX: usize = 16;

/// Objects that were sent for tags alone, and the generation up to which no fence condemned them.
#[derive(Default)]
pub(super) struct Uploads {
    keys: BTreeSet<String>,
    up_to: Option<u64>,
}

/// What may stay as it is of what tags name: all that retained states name, as far back as it was looked.
struct Kept {
    keys: BTreeSet<String>,
    /// The oldest state that was looked at, and the oldest that is retained.
    oldest: u64,
    retained: u64,
    left: usize,
}

impl Sync {
    /// Takes in what changed of the tags in the bucket by its manifest `newest`, before that becomes what both sides have in common in
    /// the place of `common`: it says what changed since. A tag that cannot be had keeps nobody from the documents: it is told, and
    /// looked at again at the next change; one that is read wrong is read again, by later passes, too. Whether none is left that was
    /// read wrong.
    pub(super) async fn take_in_tags(
        &self,
        name: &NamespaceName,
        (common, newest): (Option<&Manifest>, &Manifest),
        done: &mut Done,
    ) -> Result<bool> {
        let (engine, nsid) = (&self.engine, newest.nsid);
        let mut known = tokio::task::block_in_place(|| engine.known_tags(nsid))?;
        if (known.changes, newest.tags) == (0, 0) {
            return Ok(true);
        }
        let goes_on = self.goes_on(name, (common, newest), &known).await?;
        let is_full = known.revisions.len() >= TAGS_SHARED_MAX;
        let needless = match is_full {
            true => tokio::task::block_in_place(|| engine.tags_due(nsid))?.needless,
            false => BTreeMap::new(),
        };
        let looks_for_room = is_full && (!needless.is_empty() || self.is_room_due(newest));
        if goes_on && known.changes == newest.tags && !looks_for_room {
            return Ok(true);
        }
        if !goes_on {
            // Another bucket's count says nothing; where nobody announced any tag, those that are there count as never sent, too.
            known.changes = 0;
            known.revisions.retain(|_, _| newest.tags > 0);
        }
        let (now, in_bucket) = (self.clock.now_millis(), (nsid, None));
        if goes_on && !self.tag_waits.is_due(&in_bucket, newest.tags, now) {
            return Ok(false);
        }
        let mut is_compared = true;
        let here = tokio::task::block_in_place(|| engine.tag_revisions(nsid))?;
        let listed = self.listed_tags(&name.project, nsid).await?;
        let mut next = TagsFile { format: VERSION, changes: newest.tags, revisions: BTreeMap::new() };
        // Nodes that send at once may be too many together: what is here counts first, as it may be deleted here.
        let (first, others): (Vec<_>, Vec<_>) = listed.iter().partition(|(tag, _)| here.contains_key(*tag));
        if let more @ 1.. = listed.len().saturating_sub(TAGS_SHARED_MAX) {
            done.tell(format!("the bucket has {more} tags more than {TAGS_SHARED_MAX}, which are not looked at"));
        }
        for (tag, revs) in first.into_iter().chain(others).take(TAGS_SHARED_MAX) {
            let Some(rev) = revs.last().copied() else { continue };
            let (own, was) = (here.get(tag).copied(), known.revisions.get(tag).copied());
            if was != Some(rev) && own == Some(rev) {
                // Sent by a pass that may not have come to the commit that says so: it is due until one has.
                next.revisions.extend(was.map(|was| (tag.clone(), was)));
                continue;
            }
            if was != Some(rev) && own > Some(rev) {
                // One that was sent before is of a bucket that is not there any more.
                if own != was {
                    done.tell(format!(
                        "tag '{tag}' was changed here and by another node, and what was done here later holds"
                    ));
                }
            } else if was != Some(rev)
                && let Err(error) =
                    self.take_in_twice(name, (nsid, tag, rev), own.filter(|own| Some(*own) != was), done).await
            {
                if !is_of_one_tag(&error) {
                    return Err(error);
                }
                is_compared &= !is_misread(&error);
                done.tell(format!("tag '{tag}' is not taken from the bucket: {error}"));
                // What is here of it was sent before, and is no news.
                next.revisions.extend(was.map(|was| (tag.clone(), was)));
                continue;
            }
            next.revisions.insert(tag.clone(), rev);
        }
        known.revisions.retain(|tag, _| !listed.contains_key(tag));
        if !known.revisions.is_empty() {
            let since = common.filter(|_| goes_on);
            let there = self.look_for_missing(name, (since, newest), (known.revisions, &here), done).await?;
            let room = TAGS_SHARED_MAX.saturating_sub(next.revisions.len());
            next.revisions.extend(there.into_iter().take(room));
        }
        for (tag, rev) in needless.iter().filter(|(tag, _)| !listed.contains_key(*tag)) {
            tokio::task::block_in_place(|| engine.forget_tag(nsid, tag, *rev))?;
        }
        self.note_room(newest, next.revisions.len() < TAGS_SHARED_MAX, done);
        if is_compared {
            self.tag_waits.succeeded(&in_bucket);
        } else {
            // As long as this is not what the bucket says, a later pass compares them anew.
            next.changes = known.changes;
            self.tag_waits.failed(in_bucket, newest.tags, now);
        }
        tokio::task::block_in_place(|| engine.note_tags(nsid, &next))?;
        Ok(is_compared)
    }

    /// Whether a pass lists a full bucket's tags to see whether there is room again: a reclaim changes no tag, and deletes some time after
    /// its fence.
    fn is_room_due(&self, newest: &Manifest) -> bool {
        let fence = newest.fence.as_ref().map_or(0, |fence| fence.generation);
        self.tag_waits.is_due(&room_of(newest.nsid), fence, self.clock.now_millis())
    }

    /// What a list of the bucket's tags says of their room.
    fn note_room(&self, newest: &Manifest, has_room: bool, done: &mut Done) {
        let fence = newest.fence.as_ref().map_or(0, |fence| fence.generation);
        if !has_room {
            self.tag_waits.failed(room_of(newest.nsid), fence, self.clock.now_millis());
        } else if self.tag_waits.succeeded(&room_of(newest.nsid)) {
            let notice = "the bucket has room for new names of tags again".to_owned();
            done.add(Done { notice: Some(notice), ..Done::default() });
        }
    }

    /// Whether the bucket's state `newest` comes after `common`, and after what is `known` of its tags.
    async fn goes_on(
        &self,
        name: &NamespaceName,
        (common, newest): (Option<&Manifest>, &Manifest),
        known: &TagsFile,
    ) -> Result<bool> {
        let Some(common) = common.filter(|common| common.generation <= newest.generation) else { return Ok(false) };
        if known.changes > newest.tags {
            return Ok(false);
        }
        if common.generation == newest.generation {
            return Ok(common.commit_id == newest.commit_id);
        }
        if newest.parent.is_some_and(|parent| parent.commit_id == common.commit_id) {
            return Ok(true);
        }
        match self.read_generation(&name.project, newest.nsid, common.generation).await? {
            Some(there) => Ok(there.commit_id == common.commit_id),
            // Reclaimed since. Where that was the end of all, somebody began anew.
            None => Ok(newest.fence.as_ref().is_some_and(|fence| {
                (common.generation + 1..=fence.generation).contains(&fence.retained)
                    && newest.version_vector.covers_all(&common.version_vector)
            })),
        }
    }

    /// What became of tags that are `known` to have been in the bucket and are not listed: those of which a deletion was condemned after
    /// `since`, or may have been, are forgotten; gives those that are there all the same. The others are to be sent again.
    async fn look_for_missing(
        &self,
        name: &NamespaceName,
        (since, newest): (Option<&Manifest>, &Manifest),
        (known, here): (BTreeMap<String, u64>, &BTreeMap<String, u64>),
        done: &mut Done,
    ) -> Result<BTreeMap<String, u64>> {
        let (project, nsid, mut there) = (&name.project, newest.nsid, BTreeMap::new());
        let condemned = match since {
            Some(since) => self.condemned_since(Some(since.generation), newest).await,
            // Nothing that this node knew of was deleted in this bucket.
            None => Condemned::Listed(BTreeSet::new()),
        };
        let below = keys::tags(project, nsid);
        for (tag, rev) in known {
            // Listings may be behind.
            if self.bucket.size(&keys::tag(project, nsid, &tag, rev), &self.options.patience).await?.is_some() {
                there.insert(tag, rev);
                continue;
            }
            let is_deletion =
                |key: &str| keys::tag_of(project, &below, key).is_some_and(|(of, higher)| of == tag && higher >= rev);
            if condemned.may_have_any(is_deletion) {
                tokio::task::block_in_place(|| self.engine.forget_tag(nsid, &tag, rev))?;
            } else if here.get(&tag) == Some(&rev) {
                done.tell(format!("tag '{tag}' is not in the bucket any more, and nobody deleted it: it is kept"));
            }
        }
        Ok(there)
    }

    /// Takes in one revision of a tag. A wrong read is believed only when it is wrong twice.
    async fn take_in_twice(
        &self,
        name: &NamespaceName,
        revision: (Nsid, &str, u64),
        unsent: Option<u64>,
        done: &mut Done,
    ) -> Result<()> {
        match Box::pin(self.take_in_tag(name, revision, unsent, done)).await {
            Err(error) if is_misread(&error) => Box::pin(self.take_in_tag(name, revision, unsent, done)).await,
            taken => taken,
        }
    }

    /// Revisions of tags to send now: all that the bucket does not have, and has room for, and that can be read. Blocking.
    pub(super) fn tags_due(&self, nsid: Nsid, done: &mut Done) -> Result<BTreeMap<String, u64>> {
        let (engine, now) = (&self.engine, self.clock.now_millis());
        let TagsDue { sent: mut due, crowded, .. } = engine.tags_due(nsid)?;
        if !crowded.is_empty() {
            done.add(Done { notice: Some(without_room(&crowded)), ..Done::default() });
        }
        due.retain(|tag, rev| self.tag_waits.is_due(&(nsid, Some(tag.clone())), *rev, now));
        let mut unreadable = Vec::new();
        for (tag, rev) in &due {
            match engine.tag_file(nsid, tag).or_else(|_| engine.tag_file(nsid, tag)) {
                Ok(_) => {}
                Err(error) if is_of_one_tag(&error) => unreadable.push((tag.clone(), *rev, error)),
                Err(error) => return Err(error),
            }
        }
        for (tag, rev, error) in unreadable {
            due.remove(&tag);
            self.keep_tag_here(nsid, (tag, rev), &error, done);
        }
        Ok(due)
    }

    /// Says that a tag cannot be sent now.
    fn keep_tag_here(&self, nsid: Nsid, (tag, rev): (String, u64), error: &Error, done: &mut Done) {
        done.tell(format!("tag '{tag}' stays on this node, it cannot be sent: {error}"));
        self.tag_waits.failed((nsid, Some(tag)), rev, self.clock.now_millis());
    }

    /// Takes in one revision of a tag. `unsent`: what is here of it, if the bucket never had that.
    async fn take_in_tag(
        &self,
        name: &NamespaceName,
        (nsid, tag, rev): (Nsid, &str, u64),
        unsent: Option<u64>,
        done: &mut Done,
    ) -> Result<()> {
        let key = keys::tag(&name.project, nsid, tag, rev);
        let Some(bytes) = self.bucket.get(&key, &self.options.patience).await? else { return Ok(()) };
        let file = decode_tag(&bytes, &key)?;
        check(&file, nsid, (tag, rev), &key)?;
        file.manifest.as_ref().map_or(Ok(()), |state| check_objects(&name.project, state, &key))?;
        let own = tokio::task::block_in_place(|| self.engine.tag_file(nsid, tag));
        if let (Some(_), Ok(Some(own))) = (unsent, &own)
            && state_of(own) != state_of(&file)
        {
            done.tell(format!("tag '{tag}' was changed here and by another node, and what that one did later holds"));
        }
        match &file.manifest {
            Some(manifest) => {
                let _expected = self.engine.expect(manifest);
                done.fetched += self.fetch_objects(name, manifest).await?;
                tokio::task::block_in_place(|| self.engine.take_tag(nsid, &file)).map(drop)
            }
            None => match own? {
                // What was done here since the pass began is later, and is sent.
                Some(own) if own.rev <= rev => {
                    tokio::task::block_in_place(|| self.engine.forget_tag(nsid, tag, own.rev))
                }
                Some(_) => Ok(()),
                None => Ok(()),
            },
        }
    }

    /// Sends tags, and what they need beyond `ours`, which is committed next. Gives the revisions that are there then.
    pub(super) async fn send_tags(
        &self,
        name: &NamespaceName,
        (ours, found): (&Manifest, Option<&Found>),
        due: BTreeMap<String, u64>,
        uploads: &mut Uploads,
        done: &mut Done,
    ) -> Result<BTreeMap<String, u64>> {
        let mut sent = BTreeMap::new();
        if due.is_empty() {
            return Ok(sent);
        }
        let nsid = ours.nsid;
        if let Some(found) = found.filter(|_| !uploads.keys.is_empty()) {
            let condemned = self.condemned_since(uploads.up_to, &found.manifest).await;
            uploads.keys.retain(|key| !condemned.may_have(key));
        }
        uploads.up_to = found.map(|found| found.manifest.generation);
        let mut kept = Kept::new(ours, found.map(|found| &found.manifest).filter(|found| !found.is_end()));
        for (tag, rev) in due {
            let mut result = Box::pin(self.send_tag(name, nsid, (&tag, rev), (&mut kept, uploads), done)).await;
            if result.as_ref().is_err_and(is_misread) {
                result = Box::pin(self.send_tag(name, nsid, (&tag, rev), (&mut kept, uploads), done)).await;
            }
            match result {
                Ok(Some(rev)) => {
                    if self.tag_waits.succeeded(&(nsid, Some(tag.clone()))) {
                        done.add(Done { notice: Some(format!("tag '{tag}' was sent after all")), ..Done::default() });
                    }
                    sent.insert(tag, rev);
                }
                Ok(None) => {}
                Err(error) if is_of_one_tag(&error) => self.keep_tag_here(nsid, (tag, rev), &error, done),
                Err(error) => return Err(error),
            }
        }
        Ok(sent)
    }

    /// Sends one tag; gives the revision by which it is in the bucket, if it is.
    async fn send_tag(
        &self,
        name: &NamespaceName,
        nsid: Nsid,
        (tag, rev): (&str, u64),
        (kept, uploads): (&mut Kept, &mut Uploads),
        done: &mut Done,
    ) -> Result<Option<u64>> {
        let (engine, patience) = (&self.engine, &self.options.patience);
        let file = tokio::task::block_in_place(|| engine.tag_file(nsid, tag))?;
        let Some(file) = file.filter(|file| file.rev == rev) else { return Ok(None) };
        if let Some(manifest) = &file.manifest {
            self.look_back(&name.project, manifest, kept, uploads).await?;
        }
        let all = kept.keys.union(&uploads.keys).cloned().collect();
        let Some(file) = engine.detach_tag(name, (tag, rev), &all).await? else { return Ok(None) };
        if let Some(manifest) = &file.manifest {
            done.sent += self.push(objects_of(manifest), &kept.keys).await?;
            uploads.keys.extend(keys_of(manifest).difference(&kept.keys).cloned());
        }
        let (file, key_of) = (shared(&file), |rev| keys::tag(&name.project, nsid, tag, rev));
        let is_mine = |found: &[u8]| Ok(decode_tag(found, tag).is_ok_and(|found| found == file));
        let bytes = Bytes::from(encode_tag(&file)?);
        match commit(&self.bucket, &key_of, file.rev, bytes, &is_mine, patience).await? {
            Outcome::Won => Ok(Some(file.rev)),
            Outcome::Lost(_) => {
                // Made in the same millisecond: who was first holds.
                self.take_in_tag(name, (nsid, tag, file.rev), Some(file.rev), done).await?;
                Ok(None)
            }
        }
    }

    /// Looks at states that are retained until they name all that a tag does, or there are no more.
    async fn look_back(
        &self,
        project: &Project,
        tagged: &Manifest,
        kept: &mut Kept,
        uploads: &Uploads,
    ) -> Result<()> {
        let needed = keys_of(tagged);
        let is_there = |kept: &Kept| needed.iter().all(|key| kept.keys.contains(key) || uploads.keys.contains(key));
        while !is_there(kept) && kept.left > 0 && kept.oldest > kept.retained {
            kept.left -= 1;
            match self.read_generation(project, tagged.nsid, kept.oldest - 1).await? {
                Some(state) => {
                    kept.keys.extend(keys_of(&state));
                    kept.oldest = state.generation;
                }
                None => kept.left = 0,
            }
        }
        Ok(())
    }

    /// A commit says that these revisions are there, and that `changes` were made so far; none where not all of them are known here.
    pub(super) fn tags_sent(&self, nsid: Nsid, changes: Option<u64>, sent: BTreeMap<String, u64>) -> Result<()> {
        tokio::task::block_in_place(|| {
            let mut known = self.engine.known_tags(nsid)?;
            let changes = changes.unwrap_or(known.changes);
            if known.changes == changes && sent.is_empty() {
                return Ok(());
            }
            for (tag, rev) in &sent {
                let is_deleted = self.engine.tag_file(nsid, tag)?.is_some_and(|file| file.manifest.is_none());
                if is_deleted {
                    self.engine.forget_tag(nsid, tag, *rev)?;
                }
            }
            known.changes = changes;
            known.revisions.extend(sent);
            self.engine.note_tags(nsid, &known)
        })
    }

    /// The revisions of every tag in the bucket, ascending.
    pub(super) async fn listed_tags(&self, project: &Project, nsid: Nsid) -> Result<BTreeMap<String, Vec<u64>>> {
        let below = keys::tags(project, nsid);
        let listed = self.bucket.list_all(&below, None, REVISIONS_MAX, &self.options.patience).await?;
        let mut found: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for (tag, rev) in listed.iter().filter_map(|listed| keys::tag_of(project, &below, &listed.key)) {
            found.entry(tag).or_default().push(rev);
        }
        found.values_mut().for_each(|revs| revs.sort_unstable());
        Ok(found)
    }
}

impl Kept {
    fn new(ours: &Manifest, before: Option<&Manifest>) -> Self {
        let mut keys = keys_of(ours);
        keys.extend(before.into_iter().flat_map(keys_of));
        let retained = before.and_then(|before| before.fence.as_ref()).map_or(0, |fence| fence.retained);
        Kept { keys, oldest: before.map_or(0, |before| before.generation), retained, left: WALK_MAX }
    }
}

/// What waits until there is room for tags: no tag has this name.
fn room_of(nsid: Nsid) -> (Nsid, Option<String>) {
    (nsid, Some(String::new()))
}

/// Says that tags stay on this node, as a bucket has too many names of others.
fn without_room(crowded: &BTreeMap<String, u64>) -> String {
    let named: Vec<String> = crowded.keys().take(NAMED_MAX).map(|tag| format!("'{tag}'")).collect();
    let more = match crowded.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "tags that find no room in the bucket stay on this node: {}{more}; it has {TAGS_SHARED_MAX} names of tags of this namespace, which is \
         the most, and deleted ones count until a reclaim, `sync.retention_days` after their deletion",
        named.join(", ")
    )
}

/// Whether nothing but one tag is wrong.
fn is_of_one_tag(error: &Error) -> bool {
    error.code() == GONE || matches!(error.kind(), Kind::Corrupt | Kind::NotFound | Kind::Unsupported)
}

/// Whether bytes were not what they should be, when they were read.
fn is_misread(error: &Error) -> bool {
    error.kind() == Kind::Corrupt
}

/// What a revision says.
fn state_of(file: &TagFile) -> Option<(crate::model::ids::CommitId, u64)> {
    file.manifest.as_ref().map(|manifest| (manifest.commit_id, manifest.data_seq))
}

/// Refuses a file that is not what its key says.
pub(super) fn check(file: &TagFile, nsid: Nsid, (tag, rev): (&str, u64), key: &str) -> Result<()> {
    let of = file.manifest.as_ref().map_or(nsid, |manifest| manifest.nsid);
    if (file.tag.as_str(), file.rev, of) != (tag, rev, nsid) {
        let what = format!("{key}: is revision {} of tag '{}' of {of}", file.rev, file.tag);
        return Err(Error::corrupt(format!("{what}, expected revision {rev} of '{tag}' of {nsid}")));
    }
    match file.manifest.as_ref().is_some_and(|manifest| !manifest.logs.is_empty()) {
        true => Err(Error::corrupt(format!("{key}: names logs, expected none in a bucket"))),
        false => Ok(()),
    }
}
