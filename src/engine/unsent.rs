//! What of a namespace is not in the bucket yet, as far as can be said without asking it, and without opening the namespace.

use std::collections::{BTreeMap, BTreeSet};

use super::Engine;
use super::namespace::head::{Head, objects};
use super::namespace::{Moment, Namespace};
use super::remote::{is_same, keys_of};
use crate::engine::journal::first_seq_of;
use crate::engine::layout::log_key;
use crate::engine::namespace::not_found;
use crate::error::{Context as _, Error, Kind, Result};
use crate::format::manifest::Manifest;
use crate::model::ids::{CommitId, Hlc, NamespaceName, Nsid};
use crate::model::version_vector::VersionVector;
use crate::platform::disk::if_there;

/// What the next sync has to send of a namespace.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unsent {
    /// The bucket's generation that this node last had in common with it, and when that was committed.
    pub common: Option<(u64, u64)>,
    /// Whether everything that was acknowledged is in the bucket, whatever the segments that it is in.
    pub is_durable: bool,
    /// Whether there is nothing to send: a merge of segments is sent, too.
    pub is_nothing: bool,
    /// Whether it is deleted, which the bucket does not know.
    pub is_deleted: bool,
    /// Objects that the newest state names and the common one does not, with one for what is in no segment yet, one for the name, and tags.
    pub objects: u64,
    /// Their bytes; of what is in no segment yet, the memory that it takes, or its log.
    pub bytes: u64,
    /// Rows in memory that are in no segment yet.
    pub rows: u64,
    /// When the oldest write was made that is here only; of a namespace that is not open, since when there may be one.
    pub since_ms: Option<u64>,
}

/// The oldest write that the bucket does not have, found against this state of it.
pub(super) type OldestUnsent = (Option<CommitId>, Hlc);

/// A namespace as its files have it.
struct AtRest {
    manifest: Manifest,
    /// Bytes of logs that are in no segment.
    log_bytes: u64,
}

impl Engine {
    /// What the bucket does not have of a namespace. Reads small files.
    pub async fn unsent(&self, name: &NamespaceName) -> Result<Unsent> {
        let open_logs = tokio::task::block_in_place(|| self.open_logs())?;
        self.unsent_beside(name, &open_logs).await
    }

    /// The same for many.
    pub async fn unsent_of(&self, names: BTreeSet<NamespaceName>) -> Result<BTreeMap<NamespaceName, Result<Unsent>>> {
        let open_logs = tokio::task::block_in_place(|| self.open_logs())?;
        let mut found = BTreeMap::new();
        for name in names {
            let unsent = self.unsent_beside(&name, &open_logs).await;
            found.insert(name, unsent);
        }
        Ok(found)
    }

    async fn unsent_beside(&self, name: &NamespaceName, open_logs: &BTreeMap<Nsid, u64>) -> Result<Unsent> {
        if self.catalog.is_unbound(name)
            && let Some(unsent) = tokio::task::block_in_place(|| self.unsent_deletion(name))?
        {
            return Ok(unsent);
        }
        let unsent = self.unsent_documents(name, open_logs).await?;
        tokio::task::block_in_place(|| self.with_name(name, self.with_tags(name, unsent)?))
    }

    /// With the tags that the bucket does not have, room or not, or that changed there and were not taken in; those of a namespace that is followed
    /// stay here.
    fn with_tags(&self, name: &NamespaceName, mut unsent: Unsent) -> Result<Unsent> {
        let Some(nsid) = self.catalog.find(name).filter(|_| !self.follows(name)) else { return Ok(unsent) };
        if let Some(common) = self.known_there(name, nsid)?
            && common.tags > 0
            && common.tags != self.known_tags(nsid)?.changes
        {
            unsent.is_durable = false;
        }
        let due = self.tags_due(nsid)?;
        for tag in due.sent.keys().chain(due.crowded.keys()) {
            let at_ms = match self.tag_file(nsid, tag) {
                Ok(Some(file)) => Some(file.at_ms),
                Ok(None) => continue,
                // Sending it says what is wrong with it.
                Err(error) if error.kind() == Kind::Corrupt => None,
                Err(error) => return Err(error),
            };
            unsent.objects += 1;
            unsent.is_durable = false;
            unsent.is_nothing = false;
            unsent.since_ms = unsent.since_ms.into_iter().chain(at_ms).min();
        }
        Ok(unsent)
    }

    async fn unsent_documents(&self, name: &NamespaceName, open_logs: &BTreeMap<Nsid, u64>) -> Result<Unsent> {
        if let Some(found) = tokio::task::block_in_place(|| self.unsent_at_rest(name, open_logs))? {
            return Ok(found);
        }
        let namespace = tokio::task::block_in_place(|| self.namespace(name))?;
        let moment = namespace.moment().await?;
        // After the manifest: what becomes a segment in between is counted twice, and not left out.
        let (bytes, rows) = namespace.unflushed();
        // A change of the schema is no row.
        let is_ahead = rows > 0 || namespace.progress().0 != moment.manifest.data_seq;
        let common = tokio::task::block_in_place(|| self.known_there(name, namespace.nsid))?;
        let mut unsent = compare(common.as_ref(), &moment.manifest, is_ahead.then_some((bytes, rows)));
        if !unsent.is_durable {
            let oldest = tokio::task::block_in_place(|| namespace.oldest_unsent(&moment, common.as_ref()))?;
            unsent.since_ms = Some(oldest.millis());
        }
        Ok(unsent)
    }

    /// Whether the bucket's newest state is all that there is of a namespace, which is not open and need not be to say so.
    pub(super) fn is_sent_at_rest(&self, name: &NamespaceName, bucket: &Manifest) -> Result<bool> {
        let open_logs = self.open_logs()?;
        let found = self.at_rest(name, &open_logs)?;
        Ok(found.is_some_and(|found| found.log_bytes == 0 && is_same(bucket, &found.manifest)))
    }

    fn unsent_at_rest(&self, name: &NamespaceName, open_logs: &BTreeMap<Nsid, u64>) -> Result<Option<Unsent>> {
        let Some(AtRest { manifest, log_bytes }) = self.at_rest(name, open_logs)? else { return Ok(None) };
        let common = self.known_there(name, manifest.nsid)?;
        let unsent = compare(common.as_ref(), &manifest, (log_bytes > 0).then_some((log_bytes, 0)));
        let since = common.as_ref().map_or(manifest.created_ms, |common| common.committed_ms);
        Ok(Some(Unsent { since_ms: (!unsent.is_durable).then_some(since), ..unsent }))
    }

    /// `None` for one that is open. `open_logs` was read before: what is written since is not asked for.
    fn at_rest(&self, name: &NamespaceName, open_logs: &BTreeMap<Nsid, u64>) -> Result<Option<AtRest>> {
        if self.slots().get(name).is_some() {
            return Ok(None);
        }
        let (context, nsid) = (&self.context, self.catalog.find(name).ok_or_else(|| not_found(name))?);
        let paths = context.layout.logs(&name.project, nsid);
        let sealed =
            if_there(context.disk.list(&paths.sealed)).context(|| format!("list {}", paths.sealed.display()))?;
        let Some(Head { manifest, .. }) = Head::load(context, nsid)? else {
            return Err(Error::corrupt(format!("incarnation {nsid} of {name} has no manifest")));
        };
        let mut log_bytes = open_logs.get(&nsid).copied().unwrap_or(0);
        for entry in sealed.unwrap_or_default() {
            if first_seq_of(&entry.name).is_some_and(|first| first >= manifest.replay_from) {
                let path = context.tier.path(&log_key(&name.project, nsid, &entry.name));
                log_bytes += if_there(context.disk.size(&path)).context(|| path.display().to_string())?.unwrap_or(0);
            }
        }
        Ok(Some(AtRest { manifest, log_bytes }))
    }

    /// Bytes of the logs that are appended to, or were when the node last stopped, by incarnation.
    fn open_logs(&self) -> Result<BTreeMap<Nsid, u64>> {
        let dir = self.context.layout.root().join("log");
        let entries = if_there(self.context.disk.list(&dir)).context(|| format!("list {}", dir.display()))?;
        let mut found = BTreeMap::new();
        for entry in entries.unwrap_or_default() {
            let Some(nsid) = entry.name.get(..36).and_then(|text| text.parse().ok()).map(Nsid) else { continue };
            // What cannot be looked at may have something.
            let bytes = if_there(self.context.disk.size(&dir.join(&entry.name))).map_or(1, |size| size.unwrap_or(0));
            *found.entry(nsid).or_default() += bytes;
        }
        Ok(found)
    }
}

impl Namespace {
    /// The clock of the oldest write that `common` does not have. Found once for each state of the bucket.
    fn oldest_unsent(&self, moment: &Moment, common: Option<&Manifest>) -> Result<Hlc> {
        let of = common.map(|common| common.commit_id);
        if let Some((known_of, oldest)) = *self.oldest_unsent_known()
            && known_of == of
        {
            return Ok(oldest);
        }
        // What is neither document nor deletion changed when the newest of all was written, at the latest.
        let newest = self.progress().1.max(Hlc::from_millis(moment.manifest.updated_ms));
        let oldest = oldest_beside(moment, common)?.unwrap_or(newest);
        *self.oldest_unsent_known() = Some((of, oldest));
        Ok(oldest)
    }
}

fn oldest_beside(moment: &Moment, common: Option<&Manifest>) -> Result<Option<Hlc>> {
    let nothing = VersionVector::default();
    let seen = common.map_or(&nothing, |common| &common.version_vector);
    let there: BTreeSet<_> = common.iter().flat_map(|common| &common.segments).map(|s| s.segment_id).collect();
    let tail = moment.view.tail.iter().map(|(_, row)| row.document.version);
    let deletions = moment.tombstones.iter().map(|tombstone| tombstone.version);
    let mut oldest = tail.chain(deletions).filter(|version| !seen.covers(*version)).map(|version| version.hlc).min();
    for part in moment.view.segments.iter().filter(|part| !there.contains(&part.segment.segment_id())) {
        let rows = part.segment.oldest(|version| !seen.covers(version))?;
        let tombstones = part.segment.tombstones()?;
        let deleted = tombstones.iter().map(|t| t.version).filter(|v| !seen.covers(*v)).map(|v| v.hlc).min();
        oldest = oldest.into_iter().chain(rows).chain(deleted).min();
    }
    Ok(oldest)
}

/// `tail` is the bytes and the rows of what is in no segment yet, if anything is.
fn compare(common: Option<&Manifest>, ours: &Manifest, tail: Option<(u64, u64)>) -> Unsent {
    let there = common.map(keys_of).unwrap_or_default();
    // Logs are not sent: what they hold is sent as segments.
    let travels = Manifest { logs: Vec::new(), ..ours.clone() };
    let missing: Vec<u64> = objects(&travels)
        .into_iter()
        .filter(|object| !there.contains(&object.key))
        .map(|object| object.bytes)
        .collect();
    let (tail_bytes, rows) = tail.unwrap_or_default();
    let says_the_same = |common: &Manifest| {
        is_same(common, &Manifest { segments: common.segments.clone(), ..ours.clone() }) && tail.is_none()
    };
    Unsent {
        common: common.map(|common| (common.generation, common.committed_ms)),
        is_durable: common.is_some_and(says_the_same),
        is_deleted: false,
        is_nothing: tail.is_none() && common.is_some_and(|common| is_same(common, ours)),
        objects: missing.len() as u64 + u64::from(tail.is_some()),
        bytes: missing.iter().sum::<u64>() + tail_bytes,
        rows,
        since_ms: None,
    }
}
