//! What moving history between this node and a bucket asks of the engine: states to send, and states to take in.
//!
//! `local/{nsid}/bases/{nsid}.json` is the bucket's state that was last brought together with this node's. As the base of any
//! merge it is a sealed manifest, and holds its objects here. `{nsid}.next.json` beside it is a state on its way: to the bucket,
//! or from there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};

use uuid::Uuid;

use super::lineage::holdings::{generations, kin};
use super::merge::decide::Policy;
use super::merge::schemas::SCHEMA_CLASH;
use super::merge::{MergeReport, MergeRequest, Work, bases, settings};
use super::namespace::head::{Head, keys, objects};
use super::namespace::rebase::Facts;
use super::start::put_format;
use super::{Engine, not_found, sweep};
use crate::error::{Context as _, Error, Kind, Result};
use crate::format::manifest::{Manifest, Parent};
use crate::format::names::{NameBinding, parse_name};
use crate::meta::ObjectFact;
use crate::model::ids::{CommitId, NamespaceName, Nsid, Origin};
use crate::model::schema::Schema;
use crate::model::version_vector::VersionVector;
use crate::platform::mmap::{Mapping, lacks_room};
use crate::store::OTHER_STORE;
use crate::tier::{Going, Incoming};

/// What becomes of a state that was taken in.
#[derive(Debug)]
pub enum TakenIn {
    /// All of it was here.
    Known,
    /// It is what the namespace consists of now, beside what was written here since.
    Committed(MergeReport),
    /// Both sides changed the same documents, and the policy lets nobody decide.
    Refused(MergeReport),
}

impl Engine {
    /// All names, and the incarnations they are bound to.
    pub fn named(&self) -> Vec<(NamespaceName, Nsid)> {
        self.catalog.all()
    }

    /// The incarnation that a name is bound to.
    pub fn nsid_of(&self, name: &NamespaceName) -> Option<Nsid> {
        self.catalog.find(name)
    }

    /// The store that this node belongs to: its own invention until a bucket is attached.
    pub fn store_id(&self) -> Uuid {
        self.context.node.file().store
    }

    pub fn node_id(&self) -> Uuid {
        self.context.node.file().node
    }

    /// Whether this node has exchanged anything with a bucket, or claimed anything there. Reads small files, until one says so. Blocking.
    pub fn has_met_bucket(&self) -> bool {
        let has_common = |(_, nsid): &(NamespaceName, Nsid)| !matches!(self.common(*nsid), Ok(None));
        !self.id_ranges().is_empty() || self.named().iter().any(has_common)
    }

    /// Makes this node one of the store `store`, whose bucket is called `bucket`. Invalid with code `other_store` when it has
    /// exchanged anything with another store already.
    pub fn attach(&self, store: Uuid, bucket: &str) -> Result<()> {
        let own = self.store_id();
        if own == store {
            return Ok(());
        }
        for (name, nsid) in self.named() {
            if self.common(nsid)?.is_some() {
                return Err(Error::invalid(format!(
                    "{bucket} is store {store}, and this node's {name} was exchanged with store {own}"
                ))
                .with_code(OTHER_STORE)
                .with_hint(
                    "nothing was sent; name the bucket that this node belongs to, or use another data directory; where its _format.json \
                     was lost and another node made one anew, stop that node and copy store/_format.json of this data directory over it",
                ));
            }
        }
        self.context.edit_node(|node| {
            node.store = store;
            true
        })?;
        put_format(&*self.context.disk, &self.context.layout, &self.context.node.file())
    }

    /// Whether other nodes write a namespace, and this one only takes it from the bucket.
    pub fn follows(&self, name: &NamespaceName) -> bool {
        self.context.config.followed.matches(name)
    }

    /// What a name means here, newest revision; `ended` is who lost it last, of those that the bucket has. Blocking.
    pub fn binding(&self, name: &NamespaceName) -> Result<Option<NameBinding>> {
        self.catalog.newest(&*self.context.disk, &self.context.layout, name)
    }

    /// This node's origin in a namespace.
    pub fn origin(&self, name: &NamespaceName) -> Result<Origin> {
        Ok(self.namespace(name)?.origin())
    }

    /// What a namespace has seen: everything that was acknowledged.
    pub async fn seen(&self, name: &NamespaceName) -> Result<VersionVector> {
        Ok(self.namespace(name)?.moment().await?.vector)
    }

    /// Who a name means, and what was acknowledged there.
    pub fn acknowledged(&self, name: &NamespaceName) -> Result<(Nsid, VersionVector)> {
        let namespace = self.namespace(name)?;
        Ok((namespace.nsid, namespace.acknowledged()))
    }

    /// The newest state of a namespace that is in objects.
    pub async fn newest(&self, name: &NamespaceName) -> Result<Manifest> {
        Ok(self.namespace(name)?.newest_manifest().await)
    }

    /// Writes objects of a namespace's newest state anew, under names of its own that were never used; what it says stays as it is.
    pub async fn renew(self: &Arc<Self>, name: &NamespaceName, keys: &BTreeSet<String>) -> Result<()> {
        let (namespace, keys) = (self.namespace(name)?, keys.clone());
        self.to_the_end(|_| async move { namespace.renew(&keys).await }).await
    }

    /// The manifest of a namespace of which nothing is known.
    pub fn blank(&self, name: &NamespaceName) -> Manifest {
        self.first_manifest(name, Schema::default(), BTreeMap::new())
    }

    /// A commit id that nobody else has.
    pub fn new_commit_id(&self) -> CommitId {
        CommitId(self.context.random.uuid_v7(self.context.clock.now_millis()))
    }

    /// For a name that is used once.
    pub fn new_token(&self) -> u64 {
        self.context.random.next_u64()
    }

    /// The bucket's state of an incarnation that was last brought together with this node's. Blocking.
    pub fn common(&self, nsid: Nsid) -> Result<Option<Manifest>> {
        bases::read(&self.context, &self.context.layout.base(nsid, nsid)).map_err(|error| match error.kind() {
            Kind::Corrupt => error.with_hint(
                "put the file back from a copy, or stop the daemon and run `shoal repair --data-dir DIR --drop-damaged NS`: the \
                 next pass compares with an older state then, and may show conflicts",
            ),
            _ => error,
        })
    }

    /// When the bucket's state that is here was its newest for certain: when it was committed there. `None` when nothing of the
    /// bucket's is here. Reads one small file.
    pub fn common_since(&self, name: &NamespaceName) -> Option<u64> {
        let nsid = self.catalog.find(name)?;
        tokio::task::block_in_place(|| self.common(nsid)).ok()?.map(|common| common.committed_ms)
    }

    /// The state that this node made for the bucket and does not know to be there. One that came from there, and was on its way in
    /// when this node stopped, is none: what is here does not have all of it. Blocking.
    pub fn unsettled(&self, nsid: Nsid) -> Result<Option<Manifest>> {
        let Some(staged) = bases::read(&self.context, &bases::next_path(&self.context, nsid, nsid))? else {
            return Ok(None);
        };
        let head = Head::load(&self.context, nsid)?;
        let is_own = head.is_some_and(|Head { manifest, .. }| {
            manifest.origin == staged.origin && manifest.version_vector.covers_all(&staged.version_vector)
        });
        Ok(is_own.then_some(staged))
    }

    /// The state of an incarnation that has its name as the bucket's next commit after `after` (its newest manifest and that one's
    /// checksum); every write acknowledged before is in it. Its objects stay until [`Engine::settle_common`] or [`Engine::withdraw_staged`].
    /// `tags`: how often tags were changed there then; `at_ms`: the time, by the bucket's clock where it has one. `None` when the bucket has all of it.
    pub async fn stage_outgoing(
        self: &Arc<Self>,
        name: &NamespaceName,
        nsid: Nsid,
        after: Option<(&Manifest, u32)>,
        tags: u64,
        at_ms: u64,
    ) -> Result<Option<Manifest>> {
        if let Some((before, _)) = after
            && before.tags == tags
            && tokio::task::block_in_place(|| self.is_sent_at_rest(name, before))?
        {
            return Ok(None);
        }
        let namespace = self.namespace(name)?;
        if namespace.nsid != nsid {
            return Err(not_found(name));
        }
        if let Some((before, _)) = after
            && before.tags == tags
            && !before.is_end()
            && namespace.is_at_rest_as(|newest| is_same(before, newest)).await
        {
            // Segments that the bucket has by now are not merged for a pass that has nothing to send.
            return Ok(None);
        }
        let flushing = namespace.clone();
        let acknowledged = self.to_the_end(|_| async move { flushing.flush().await }).await?;
        namespace.settle_small_merges().await?;
        let share = namespace.committed(acknowledged).await?;
        if let Some((before, _)) = after
            && is_same(before, &share.manifest)
            && before.tags == tags
            && !before.is_end()
        {
            return Ok(None);
        }
        let now = self.context.clock.now_millis();
        let manifest = Manifest {
            generation: after.map_or(0, |(before, _)| before.generation + 1),
            parent: after.map(|(before, crc32c)| Parent { commit_id: before.commit_id, crc32c }),
            commit_id: CommitId(self.context.random.uuid_v7(now)),
            committed_ms: at_ms,
            ..share.manifest.clone().of_all()
        };
        let manifest = manifest.fenced(after.and_then(|(before, _)| before.fence.clone())).tagged(tags);
        tokio::task::block_in_place(|| {
            let _outgoing = self.context.outgoing.lock().unwrap_or_else(PoisonError::into_inner);
            // Others would be told of a deletion that had not seen it, and take it for somebody else's.
            if self.catalog.find(name) != Some(nsid) {
                return Err(not_found(name));
            }
            bases::stage(&self.context, nsid, &manifest)
        })?;
        drop(share);
        Ok(Some(manifest))
    }

    /// What was staged is in the bucket, and here.
    pub fn settle_common(&self, nsid: Nsid) -> Result<()> {
        bases::settle(&self.context, nsid, nsid)
    }

    /// What was staged did not come to be.
    pub fn withdraw_staged(&self, nsid: Nsid) {
        bases::withdraw(&self.context, nsid, nsid);
    }

    /// An object's bytes, mapped. An object whose length nobody wrote down is here whole.
    pub fn object(&self, object: &ObjectFact) -> Result<Mapping> {
        match object.bytes {
            0 => self.context.tier.map_all(&object.key),
            bytes => self.context.tier.map(&object.key, bytes),
        }
    }

    /// Whether an object is here with this length; any length when `bytes` is 0.
    pub fn has_object(&self, key: &str, bytes: u64) -> bool {
        self.context.tier.has(key, bytes)
    }

    /// Begins an object that comes from the bucket, or goes on with what is here of it.
    pub fn receive(&self, key: &str, bytes: u64) -> Result<Incoming<'_>> {
        self.context.tier.receive(key, bytes)
    }

    /// What is known of the upload of an object.
    pub fn going(&self, key: &str) -> Going {
        self.context.tier.going(key)
    }

    /// The objects whose upload broke off.
    pub fn all_going(&self) -> Result<Vec<String>> {
        self.context.tier.all_going()
    }

    /// Says that everything that was to come from the bucket is here: what came of other objects is let go of.
    pub fn has_received_all(&self) -> Result<()> {
        self.context.tier.forget_coming()
    }

    /// Takes in the bucket's state of a namespace, whose objects are here, with what was written here since on top of it. By
    /// the higher version, or another policy, where both changed a document; what lost is kept as a conflict.
    pub async fn take_in(
        self: &Arc<Self>,
        name: &NamespaceName,
        theirs: Manifest,
        policy: Policy,
    ) -> Result<TakenIn> {
        let once = || {
            let (name, theirs) = (name.clone(), theirs.clone());
            self.to_the_end(move |engine| async move { engine.take_in_now(&name, theirs, policy).await })
        };
        match once().await {
            // For a while what is here of two states is open side by side.
            Err(error) if lacks_room(&error) => {
                tokio::task::block_in_place(|| self.empty_parts())?;
                once().await
            }
            done => done,
        }
    }

    /// What of labels, the mark of being read-only and the time to live was set here and in the bucket's state apart, in words.
    /// `common` is the newest state that both had.
    pub async fn set_apart(
        &self,
        name: &NamespaceName,
        theirs: &Manifest,
        common: Option<&Manifest>,
    ) -> Result<BTreeSet<&'static str>> {
        let ours = self.namespace(name)?.newest_manifest().await;
        Ok(settings::join(theirs, &ours, common).apart)
    }

    async fn take_in_now(&self, name: &NamespaceName, theirs: Manifest, policy: Policy) -> Result<TakenIn> {
        let namespace = self.namespace(name)?;
        let nsid = namespace.nsid;
        if theirs.nsid != nsid {
            return Err(Error::internal(format!("{name} is incarnation {nsid}, the state is of {}", theirs.nsid)));
        }
        let common = tokio::task::block_in_place(|| {
            bases::stage(&self.context, nsid, &theirs)?;
            self.common(nsid)
        })?;
        let request = MergeRequest { policy, allow_unrelated: true, ..MergeRequest::default() };
        let superseded = self.superseded(name, common.as_ref(), &theirs).await?;
        let facts = Facts { common: common.as_ref(), theirs: &theirs, superseded: &superseded };
        let schema = common.as_ref().map(|common| common.schema.clone());
        let work = |ours| {
            let work = self.lasting_work(&namespace, &namespace, ours, &request);
            Work { of_one: Some(schema), ..work }
        };
        let done = namespace.rebase(facts, work).await;
        let (work, commit) = match done {
            Ok(done) => done,
            Err(error) => {
                // What contradicts stays staged: by that a deletion of what is here is known to wait for sync.
                if error.code() != SCHEMA_CLASH {
                    tokio::task::block_in_place(|| self.withdraw_staged(nsid));
                }
                return Err(error);
            }
        };
        if let (Some(work), None) = (&work, &commit) {
            tokio::task::block_in_place(|| self.withdraw_staged(nsid));
            return Ok(TakenIn::Refused(work.report.clone()));
        }
        tokio::task::block_in_place(|| self.settle_common(nsid))?;
        let Some(work) = work else { return Ok(TakenIn::Known) };
        let known = kin(&namespace.newest_manifest().await, None);
        self.context.set_kin(nsid, known);
        Ok(TakenIn::Committed(MergeReport { commit, ..work.report }))
    }

    /// Brings a namespace back that was deleted here and is kept, to be brought together with the bucket's state of it; gives
    /// whether there was one. Conflict when the incarnation has another name here.
    pub async fn revive(self: &Arc<Self>, name: &NamespaceName, theirs: &Manifest) -> Result<bool> {
        let (context, nsid) = (&self.context, theirs.nsid);
        self.check_free(name, nsid)?;
        let kept = tokio::task::block_in_place(|| {
            if generations(context, nsid)?.is_empty() {
                return Ok(false);
            }
            let is_kept = self.is_laid_aside(nsid);
            if !is_kept {
                self.discard(&name.project, nsid);
            }
            Ok::<_, Error>(is_kept)
        })?;
        if kept {
            self.undelete_for(name, theirs).await?;
        }
        Ok(kept)
    }

    /// Conflict when an incarnation that a name is to mean has another name here, or was of another project.
    pub(super) fn check_free(&self, name: &NamespaceName, nsid: Nsid) -> Result<()> {
        if self.catalog.is_bound(nsid) {
            let what = format!("incarnation {nsid} of {name} has another name on this node");
            return Err(Error::conflict(what).with_hint("delete one of the two names"));
        }
        // What is damaged of it is read again, or said, where it is needed.
        match tokio::task::block_in_place(|| self.project_of(nsid)) {
            Ok(Some(project)) if project != name.project => {
                let what = format!("incarnation {nsid} of {name} is of project {project} on this node");
                Err(Error::conflict(what).with_hint(
                    "some node binds a name in the bucket to what another project has: find out which it is",
                ))
            }
            _ => Ok(()),
        }
    }

    /// Whether the bucket's state of an incarnation is staged that could not be taken in: when it is deleted, sync puts what is here under
    /// another name, or finds that nobody needs it. Until then it is kept, whatever it takes of the disk, and however long that is. Reads
    /// small files; what cannot be read is kept as any other.
    pub(super) fn waits_for_sync(&self, nsid: Nsid) -> bool {
        let context = &self.context;
        if !context.config.has_bucket {
            return false;
        }
        let path = bases::next_path(context, nsid, nsid);
        let Some(staged) = bases::read(context, &path).ok().flatten() else { return false };
        let head = Head::load(context, nsid).ok().flatten();
        head.is_some_and(|head| !head.manifest.version_vector.covers_all(&staged.version_vector))
    }

    /// Sync has looked at these names: what was deleted of them waits for it no more. Blocking.
    pub fn looked_at(&self, is_one: impl Fn(&NamespaceName) -> bool) {
        for (nsid, kin) in self.context.deleted() {
            if parse_name(&kin.name).is_some_and(|name| is_one(&name)) && self.waits_for_sync(nsid) {
                self.withdraw_staged(nsid);
            }
        }
    }

    /// Lets go of a deleted incarnation before its time, of which the bucket's state is to take the place.
    pub async fn clear_deleted(&self, name: &NamespaceName, nsid: Nsid) {
        let door = self.door(name);
        let _door = door.lock().await;
        tokio::task::block_in_place(|| self.discard(&name.project, nsid));
    }

    /// Makes a namespace of the bucket's state, whose objects are here: this node's own copy of that incarnation. Invalid
    /// with code `exists` when the name is taken.
    pub async fn adopt(self: &Arc<Self>, name: &NamespaceName, theirs: Manifest) -> Result<()> {
        let name = name.clone();
        self.to_the_end(move |engine| async move { engine.adopt_now(&name, theirs).await }).await
    }

    async fn adopt_now(&self, name: &NamespaceName, theirs: Manifest) -> Result<()> {
        let (context, nsid) = (&self.context, theirs.nsid);
        let _births = self.expect(&theirs);
        let first = self.copy_of(name, &theirs);
        let known = kin(&first, None);
        self.give_birth(name, first, None).await.context(|| format!("take {name} from the bucket"))?;
        context.set_kin(nsid, known);
        tokio::task::block_in_place(|| {
            bases::stage(context, nsid, &theirs)?;
            self.settle_common(nsid)
        })
    }

    /// The first manifest of this node's own copy of the bucket's state.
    pub(super) fn copy_of(&self, name: &NamespaceName, theirs: &Manifest) -> Manifest {
        let context = &self.context;
        let now = context.clock.now_millis();
        Manifest {
            name: name.to_string(),
            generation: 0,
            parent: None,
            commit_id: CommitId(context.random.uuid_v7(now)),
            origin: Origin(context.random.next_u64()),
            // What is written here from now on is above everything that came along.
            hlc: theirs.hlc.max(theirs.version_vector.newest()),
            committed_ms: now,
            ..theirs.clone().of_all().fenced(None).tagged(0)
        }
    }
}

/// The incarnation below whose prefix an object lies.
pub fn owner_of(key: &str) -> Option<Nsid> {
    sweep::parts(key).map(|(nsid, _)| nsid)
}

/// Every object a state consists of.
pub fn objects_of(manifest: &Manifest) -> Vec<ObjectFact> {
    objects(manifest)
}

/// Their keys.
pub fn keys_of(manifest: &Manifest) -> BTreeSet<String> {
    keys(manifest).into_iter().collect()
}

/// Whether the bucket's state says all that this node's does.
pub(super) fn is_same(bucket: &Manifest, ours: &Manifest) -> bool {
    bucket.version_vector == ours.version_vector
        && bucket.segments == ours.segments
        && bucket.schema == ours.schema
        && bucket.labels == ours.labels
        && bucket.read_only == ours.read_only
        && bucket.expires_ms == ours.expires_ms
        && bucket.set_ms == ours.set_ms
        && bucket.conflicts == ours.conflicts
}
