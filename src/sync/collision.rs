//! What is here and not where the bucket's name leads: two nodes created the name apart, or another node deleted it.
//!
//! Two incarnations of one name are made one where that can be: what is here is merged into the bucket's, by document
//! version, under the policy. Where it cannot, what is here is kept beside, as `{name}.apart-{node}`. Either is one durable
//! step here, and sending comes after it; a pass that is interrupted before finds what it found.

use super::gone::begun_ms;
use super::namespace::{Done, Found};
use super::objects::Carried;
use super::{Attached, Sync, binding, names};
use crate::engine::merge::schemas::SCHEMA_CLASH;
use crate::engine::merge::settings;
use crate::engine::{HandedOver, Handover};
use crate::error::{Error, Result};
use crate::format::manifest::Manifest;
use crate::format::names::Ended;
use crate::model::ids::{NamespaceName, Nsid};
use crate::model::version_vector::VersionVector;

/// How often it is tried again because something was written meanwhile.
const ATTEMPTS: usize = 16;
/// By how much clocks of nodes that named one incarnation may differ.
const SKEW_MS: u64 = 24 * 3_600_000;
/// What is said in the names of what is kept: it could not be made one with the bucket's, or a deletion had not seen it.
const KEPT: [&str; 2] = ["apart", "recovered"];
/// How many names are tried for what is kept.
const NAMES_MAX: u32 = 16;

impl Sync {
    /// The name means `own` here and `other` in the bucket.
    pub(super) async fn settle_collision(
        &self,
        attached: &mut Attached,
        name: &NamespaceName,
        (own, other): (Nsid, Nsid),
        next: names::Bound,
    ) -> Result<Done> {
        if let Some(ended) = self.was_deleted(name, own, next.rev.saturating_sub(1)).await? {
            return self.make_way(name, &ended, Some(other)).await;
        }
        if let Some(ended) = tokio::task::block_in_place(|| self.ended_before(own, other))? {
            return self.tell_deletion(attached, name, (other, ended), (next, Some(own))).await;
        }
        let Some(found) = self.newest(&name.project, other, None).await? else {
            return Err(binding::no_manifest(name, other));
        };
        // What was never under this name in the bucket cannot have come there from here, but from a clone of this disk.
        self.part_from_clone(name, None, &found.manifest.version_vector).await?;
        let tags = self.tags_of(name, own)?;
        let mut fetched = Carried::default();
        let merge = Handover::Merge(self.options.policy);
        let why = if self.engine.follows(name) {
            "this node follows it".to_owned()
        } else {
            match self.hand_over(name, &found.manifest, merge, &mut fetched).await? {
                HandedOver::Done(report) => {
                    let notice = format!(
                        "two nodes created {name} apart: what was here was merged into the bucket's, with {} conflicts{tags}",
                        report.conflicts
                    );
                    tracing::warn!(%name, notice);
                    let mut done =
                        Done { fetched, conflicts: report.conflicts, notice: Some(notice), ..Done::default() };
                    done.add(self.exchange(name, other).await?);
                    return Ok(done);
                }
                HandedOver::Apart(error) => error.to_string(),
                HandedOver::Written => return Err(Error::internal(format!("{name}: a merge was left undone"))),
            }
        };
        for _ in 0..ATTEMPTS {
            let (kept, covered) = self.keep_beside(name, "apart").await?;
            let leave = Handover::Leave(covered.clone());
            let done = match self.hand_over(name, &found.manifest, leave, &mut fetched).await? {
                HandedOver::Done(_) => {
                    Done { fetched, generation: Some(found.manifest.generation), ..Done::default() }
                }
                HandedOver::Apart(_) if self.engine.delete_known(name, &covered).await? => {
                    self.fetch(name, other).await?
                }
                HandedOver::Apart(_) | HandedOver::Written => continue,
            };
            let notice = format!("two nodes created {name} apart: what was here is kept as {kept} ({why}){tags}");
            tracing::warn!(%name, notice);
            return Ok(Done { notice: Some(notice), ..done });
        }
        Err(restless(name))
    }

    /// What becomes of the tags of an incarnation that gives way, in words: they name states of that one, and of no other.
    fn tags_of(&self, name: &NamespaceName, own: Nsid) -> Result<String> {
        Ok(match tokio::task::block_in_place(|| self.engine.tags(name))?.len() {
            0 => String::new(),
            count => format!(
                "; its tags ({count}) stay with incarnation {own}, which is among the deleted ones here and can be had back"
            ),
        })
    }

    /// Gives the name to the bucket's state. What an attempt fetched that came to nothing is not kept.
    async fn hand_over(
        &self,
        name: &NamespaceName,
        theirs: &Manifest,
        how: Handover,
        fetched: &mut Carried,
    ) -> Result<HandedOver> {
        let _expected = self.engine.expect(theirs);
        *fetched += self.fetch_objects(name, theirs).await?;
        self.engine.hand_over(name, theirs.clone(), how).await
    }

    /// Takes the name from an incarnation that was deleted here, and gives it to `here`. What others committed to it that the deletion
    /// had not seen was not meant: then it has its name as before, unless its time was up.
    pub(super) async fn tell_deletion(
        &self,
        attached: &mut Attached,
        name: &NamespaceName,
        (nsid, ended): (Nsid, Ended),
        (next, here): (names::Bound, Option<Nsid>),
    ) -> Result<Done> {
        let mut done = Done::default();
        let mut meant = self.meant(name, nsid, &ended).await?;
        if let (true, Some(here)) = (meant.is_some(), here) {
            done = self.exchange(name, here).await?;
            // That takes as long as it takes.
            meant = self.meant(name, nsid, &ended).await?;
        }
        let mut back = None;
        if let Some(meant) = meant {
            let hlc = next.hlc.max(meant.seen.newest());
            let told = self.bind(attached, name, names::Bound { ended: Some(meant), hlc, ..next }, here).await?;
            // Who commits from now on finds the name gone; who committed before looked at the name before that, too.
            if self.meant(name, nsid, &ended).await?.is_some() {
                // Else what comes back from now on would be taken for what was not told yet.
                self.engine.binding_beside(name, &told.as_met()).await?;
                return Ok(done);
            }
            back = Some(binding::next(None, Some(&told)));
        }
        if here.is_some() {
            if let Some(back) = back {
                self.bind(attached, name, back, Some(nsid)).await?;
            }
            return Err(binding::written_elsewhere(name));
        }
        tracing::warn!(%name, "deleted here, and written to by other nodes since: it is back");
        let done = self.fetch(name, nsid).await?;
        if let Some(back) = back {
            self.bind(attached, name, back, Some(nsid)).await?;
        }
        Ok(done)
    }

    /// What a deletion is of that knew of everything that the bucket has of the incarnation: documents, and what somebody set. One whose
    /// time was up ends with all that the bucket has.
    async fn meant(&self, name: &NamespaceName, nsid: Nsid, ended: &Ended) -> Result<Option<Ended>> {
        let Some(Found { manifest: newest, .. }) = self.newest(&name.project, nsid, None).await? else {
            return Ok(Some(ended.clone()));
        };
        // It may be of a commit of this node's whose answer it never heard.
        self.settle_own(&name.project, nsid, &newest).await?;
        if self.is_over(&newest)? {
            let mut all = ended.clone();
            all.seen.merge(&newest.version_vector);
            return Ok(Some(all));
        }
        if !ended.seen.covers_all(&newest.version_vector) || self.is_of_a_clone(&name.project, nsid, &newest).await? {
            return Ok(None);
        }
        // Once it is let go of here, nothing says what it knew.
        let common = tokio::task::block_in_place(|| self.engine.common(nsid))?;
        Ok(common.is_none_or(|common| !settings::were_set(&common, &newest)).then(|| ended.clone()))
    }

    /// Whether the time of an incarnation of which somebody has this state is up.
    fn is_over(&self, state: &Manifest) -> Result<bool> {
        tokio::task::block_in_place(|| {
            let now = self.engine.believed_time(self.bucket.traffic().clock());
            self.engine.is_over(state, now)
        })
    }

    /// Deletes what another node deleted, and fetches who has the name there since.
    pub(super) async fn make_way(&self, name: &NamespaceName, ended: &Ended, next: Option<Nsid>) -> Result<Done> {
        let mut done = self.follow_deletion(name, ended).await?;
        if let Some(next) = next {
            done.add(self.fetch(name, next).await?);
        }
        Ok(done)
    }

    /// Deletes what another node deleted. What it had not seen stays, under another name, unless its time is up here as well.
    pub(super) async fn follow_deletion(&self, name: &NamespaceName, ended: &Ended) -> Result<Done> {
        // A deletion by who writes by this node's origin has not seen what this node wrote.
        let common = match self.engine.nsid_of(name) {
            Some(nsid) => self.common_by_now(name, nsid).await?,
            None => None,
        };
        self.part_from_clone(name, common.as_ref(), &ended.seen).await?;
        for _ in 0..ATTEMPTS {
            let ours = self.engine.newest(name).await?;
            let is_known = common.as_ref().is_none_or(|common| !settings::were_set(common, &ours))
                && ended.seen.covers_all(&self.engine.seen(name).await?);
            let (known, notice) = if is_known {
                (ended.seen.clone(), None)
            } else if self.is_over(&ours)? {
                (self.engine.seen(name).await?, None)
            } else {
                let tags = self.tags_of(name, ended.nsid)?;
                let (kept, covered) = self.keep_beside(name, "recovered").await?;
                let notice = format!(
                    "another node deleted {name}, and had not seen what was written or set here: that is kept as {kept}{tags}"
                );
                (covered, Some(notice))
            };
            if self.engine.follow_deletion(name, &known).await? {
                // One of before that was taken back.
                self.engine.forget_end(name, ended.nsid).await?;
                if let Some(notice) = &notice {
                    tracing::warn!(%name, notice);
                }
                return Ok(Done { notice, ..Done::default() });
            }
        }
        Err(restless(name))
    }

    /// What leads on where the schemas of one incarnation contradict each other here and in the bucket: [`Self::set_aside`].
    pub(super) fn with_way_out(&self, name: &NamespaceName, error: Error) -> Error {
        let kept = binding::beside(name, KEPT[0], self.engine.node_id(), 1);
        let kept = kept.ok().filter(|_| error.code() == SCHEMA_CLASH);
        match kept {
            None => error,
            Some(kept) => error.with_hint(format!(
                "delete {name} on this node, and sync: then it has the bucket's documents, and those that are here now are in {kept}, \
                 or under that name and a number where it is taken"
            )),
        }
    }

    /// Puts what was deleted here, and cannot be brought together with what others have of the same incarnation, under another name,
    /// so that theirs can have its place. Gives what a person should know.
    pub(super) async fn set_aside(&self, name: &NamespaceName, nsid: Nsid, why: &Error) -> Result<String> {
        for _ in 0..ATTEMPTS {
            let tags = match tokio::task::block_in_place(|| self.engine.tags(name))?.len() {
                0 => String::new(),
                count => format!("; of its tags ({count}) and past states here those stay that the bucket has"),
            };
            let (kept, covered) = self.keep_beside(name, KEPT[0]).await?;
            if self.engine.delete_known(name, &covered).await? {
                self.engine.clear_deleted(name, nsid).await;
                let notice = format!("what was here of {name} is kept as {kept} ({}){tags}", why.message());
                tracing::warn!(%name, notice);
                return Ok(notice);
            }
        }
        Err(restless(name))
    }

    /// What this node and the bucket have in common, a commit of this node's counted whose answer it never heard.
    async fn common_by_now(&self, name: &NamespaceName, nsid: Nsid) -> Result<Option<Manifest>> {
        if tokio::task::block_in_place(|| self.engine.unsettled(nsid))?.is_some()
            && let Some(newest) = self.newest(&name.project, nsid, None).await?
        {
            self.settle_own(&name.project, nsid, &newest.manifest).await?;
        }
        tokio::task::block_in_place(|| self.engine.common(nsid))
    }

    /// Whether the bucket once had this incarnation under the name, and does not any more, and what the deletion had seen of it
    /// then. One that came back here was not deleted.
    pub(super) async fn was_deleted(&self, name: &NamespaceName, own: Nsid, rev: u64) -> Result<Option<Ended>> {
        let here = tokio::task::block_in_place(|| self.engine.binding(name))?;
        if here.is_some_and(|here| here.lost(own).is_some()) {
            return Ok(None);
        }
        let begun_ms = begun_ms(own).saturating_sub(SKEW_MS);
        for rev in (0..rev).rev() {
            let Some(bound) = names::read(&self.bucket, name, rev, &self.options.patience).await? else { break };
            if let Some(ended) = bound.ended.filter(|ended| ended.nsid == own) {
                return Ok(Some(ended));
            }
            if bound.target == Some(own) {
                // Earlier releases did not say what a deletion had seen: that is what both had in common last.
                let common = tokio::task::block_in_place(|| self.engine.common(own))?;
                let seen = common.map(|common| common.version_vector).unwrap_or_default();
                return Ok(Some(Ended { nsid: own, seen }));
            }
            // Clocks of revisions ascend: those before are of what is older.
            if bound.hlc.millis() < begun_ms {
                break;
            }
        }
        Ok(None)
    }

    /// An error where an incarnation of which nothing is left was deleted after the names were listed: what is here of it would be sent
    /// for nobody.
    pub(super) async fn check_name(&self, name: &NamespaceName, nsid: Nsid) -> Result<()> {
        let patience = &self.options.patience;
        let Some(rev) = names::newest(&self.bucket, name, patience).await? else { return Ok(()) };
        let bound = names::read(&self.bucket, name, rev, patience).await?;
        let has_it = bound.is_none_or(|bound| bound.target == Some(nsid));
        match !has_it && self.was_deleted(name, nsid, rev).await?.is_some() {
            true => Err(binding::moved(name)),
            false => Ok(()),
        }
    }

    /// The names under which something is kept here of what had this name.
    pub(super) fn kept_of(&self, name: &NamespaceName) -> Result<Vec<NamespaceName>> {
        let all = KEPT.iter().flat_map(|what| (1..=NAMES_MAX).map(move |attempt| (what, attempt)));
        let named = all.map(|(what, attempt)| binding::beside(name, what, self.engine.node_id(), attempt));
        let is_here = |kept: &NamespaceName| self.engine.nsid_of(kept).is_some();
        named.filter(|kept| kept.as_ref().map_or(true, is_here)).collect()
    }

    /// A copy of what is here under a name of its own, and what it has of it: one that an interrupted pass made, or a new one.
    async fn keep_beside(&self, name: &NamespaceName, what: &str) -> Result<(NamespaceName, VersionVector)> {
        for attempt in 1..=NAMES_MAX {
            let kept = binding::beside(name, what, self.engine.node_id(), attempt)?;
            let is_kept = match self.engine.copy(name, &kept).await {
                Ok(_) => true,
                Err(error) if error.code() == "exists" => {
                    let (seen, own) = (self.engine.seen(&kept).await?, self.engine.seen(name).await?);
                    let is_whole = seen.covers_all(&own);
                    // Of an interrupted pass, and nothing that is not here as well.
                    let is_less = !is_whole && own.covers_all(&seen) && self.engine.delete_known(&kept, &own).await?;
                    if is_less {
                        self.engine.copy(name, &kept).await?;
                    }
                    is_whole || is_less
                }
                Err(error) => return Err(error.context(format_args!("keep what is here of {name} as {kept}"))),
            };
            if is_kept {
                self.engine.complete_copy(name, &kept).await?;
                return Ok((kept.clone(), self.engine.seen(&kept).await?));
            }
        }
        Err(Error::conflict(format!(
            "what is here of {name} cannot be kept beside: {NAMES_MAX} names for it are taken"
        ))
        .with_hint("delete or merge the namespaces that were kept before"))
    }
}

fn restless(name: &NamespaceName) -> Error {
    Error::busy(format!("{name} was written to {ATTEMPTS} times while it was to give way to what the bucket has"))
        .with_hint("nothing is lost, the next sync goes on")
}
