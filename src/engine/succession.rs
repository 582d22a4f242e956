//! Names that go over to another incarnation, or go, because of what the bucket has: nothing that was acknowledged here is lost.
//!
//! Invariants:
//! - A name goes over by one durable binding, so readers and writers find the one incarnation or the other, and a crash does.
//! - Nothing is written between the last look at what is here and the binding.
//! - Everything of the other incarnation is in place before its name is; what a crash leaves of it the next attempt discards.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Engine;
use super::layout::conflicts_key;
use super::lineage::Told;
use super::lineage::holdings::{generations, kin};
use super::merge::bases;
use super::merge::decide::Policy;
use super::merge::{MergeReport, MergeRequest, newest};
use super::namespace::absorb::{Absorb, read_only};
use super::namespace::{Moment, Namespace, not_found};
use super::operations::LABELS_MAX;
use super::transfer::HeldConflicts;
use crate::engine::catalog::UNKNOWN_BINDING;
use crate::error::{Context as _, Error, Kind, Result};
use crate::format::answers::Answer;
use crate::format::manifest::{CONFLICTS_MAX, Manifest};
use crate::model::ids::{Hlc, NamespaceName};
use crate::model::version_vector::VersionVector;

/// What becomes of what is here of a name that goes over to the bucket's incarnation.
#[derive(Clone, Debug)]
pub enum Handover {
    /// It is merged into that, without a base.
    Merge(Policy),
    /// All that this covers is in another namespace already.
    Leave(VersionVector),
}

/// What a handover came to.
#[derive(Debug)]
pub enum HandedOver {
    /// The name means the bucket's incarnation.
    Done(MergeReport),
    /// It cannot go over as it is asked for, and nothing changed.
    Apart(Error),
    /// Something was written that is not covered, and nothing changed.
    Written,
}

impl Engine {
    /// Gives a name from the incarnation that was made here to the one that the bucket has, whose objects are here.
    pub async fn hand_over(
        self: &Arc<Self>,
        name: &NamespaceName,
        theirs: Manifest,
        how: Handover,
    ) -> Result<HandedOver> {
        let name = name.clone();
        let done = self.to_the_end(move |engine| async move { engine.hand_over_now(&name, theirs, &how).await });
        done.await
    }

    async fn hand_over_now(&self, name: &NamespaceName, theirs: Manifest, how: &Handover) -> Result<HandedOver> {
        let own = self.namespace(name)?;
        let door = self.door(name);
        let _door = door.lock().await;
        if self.catalog.find(name) != Some(own.nsid) {
            return Err(not_found(name));
        }
        let nsid = theirs.nsid;
        self.check_free(name, nsid)?;
        if self.is_laid_aside(nsid) {
            // It may hold writes that the bucket never had.
            let why = format!("incarnation {nsid} of {name} was deleted on this node before, and can be had back");
            return Ok(HandedOver::Apart(Error::conflict(why)));
        }
        let _births = self.expect(&theirs);
        tokio::task::block_in_place(|| {
            // What an attempt left that was interrupted.
            if !generations(&self.context, nsid)?.is_empty() {
                self.discard(&name.project, nsid);
            }
            Ok::<_, Error>(())
        })?;
        let after = self.begin(name, self.copy_of(name, &theirs))?;
        let done = self.pass_on(name, &own, &after, &theirs, how).await;
        let is_over = matches!(done, Ok(HandedOver::Done(_)));
        if !is_over && done.as_ref().err().is_none_or(|error| error.code() != UNKNOWN_BINDING) {
            after.retire().await;
            tokio::task::block_in_place(|| self.discard(&name.project, nsid));
        }
        done
    }

    async fn pass_on(
        &self,
        name: &NamespaceName,
        own: &Arc<Namespace>,
        after: &Arc<Namespace>,
        theirs: &Manifest,
        how: &Handover,
    ) -> Result<HandedOver> {
        let mut report = MergeReport::default();
        if let Handover::Merge(policy) = how {
            // Most of it while writes go on.
            match self.merge_into(own, after, *policy, &mut report).await {
                Err(error) if error.kind() == Kind::Invalid => return Ok(HandedOver::Apart(error)),
                merged => merged?,
            }
            // Who writes waits from the next step on, and not for a merge of segments.
            after.come_to_rest().await;
        }
        let mut still = own.stand_still().await?;
        let last = match how {
            Handover::Merge(policy) => match self.merge_into(own, after, *policy, &mut report).await {
                Err(error) if error.kind() == Kind::Invalid => return Ok(HandedOver::Apart(error)),
                merged => {
                    merged?;
                    let last = own.moment().await?;
                    match self.carry_facts(&last, still.answers(own)?, after).await {
                        Err(error) if error.kind() == Kind::Invalid => return Ok(HandedOver::Apart(error)),
                        carried => carried?,
                    }
                    last
                }
            },
            Handover::Leave(covered) => {
                let last = own.moment().await?;
                if !covered.covers_all(&last.vector) {
                    return Ok(HandedOver::Written);
                }
                last
            }
        };
        let hlc = Hlc::from_millis(self.context.clock.now_millis()).max(newest(&last));
        let known = kin(&after.newest_manifest().await, None);
        let deleted = tokio::task::block_in_place(|| {
            bases::stage(&self.context, after.nsid, theirs)?;
            self.settle_common(after.nsid)?;
            self.unseat(name, own.nsid, Some((after.nsid, known)), (hlc, Told::ByThisNode))
        })
        .context(|| format!("give {name} to the bucket's incarnation {}", after.nsid))?;
        self.seat(name, after.clone());
        // The end of the old life is marked before who waits to write to it goes on.
        tokio::join!(biased; own.retire(), async { drop(still) });
        tokio::task::block_in_place(|| self.lay_aside(&name.project, own.nsid, deleted));
        Ok(HandedOver::Done(report))
    }

    /// Merges what `own` has and `after` has not seen into `after`. Invalid when that cannot be.
    async fn merge_into(
        &self,
        own: &Arc<Namespace>,
        after: &Arc<Namespace>,
        policy: Policy,
        report: &mut MergeReport,
    ) -> Result<()> {
        let moment = Arc::new(own.moment().await?);
        if after.published().read_only {
            return Err(read_only(&after.name));
        }
        let request = MergeRequest { policy, allow_unrelated: true, ..MergeRequest::default() };
        let mut work = self.lasting_work(own, after, moment.clone(), &request);
        let committed = after.absorb(&mut work, newest(&moment)).await?;
        if work.is_refused() {
            return Err(Error::invalid(format!(
                "{} documents differ, and the policy `{policy}` decides nothing",
                work.report.conflicts
            )));
        }
        report.conflicts += work.report.conflicts;
        report.inserted += work.report.inserted;
        report.updated += work.report.updated;
        report.commit = committed.map(|absorbed| absorbed.commit).or(report.commit);
        Ok(())
    }

    /// Gives `after` what of a state is no document: unresolved conflicts, labels that it does not have, and the answers that
    /// are repeated to who sends a write again.
    async fn carry_facts(&self, last: &Moment, answers: Vec<Answer>, after: &Arc<Namespace>) -> Result<()> {
        let known = after.published().conflicts;
        let key_of = |held: &HeldConflicts| conflicts_key(&after.name.project, after.nsid, held.token);
        let conflicts = tokio::task::block_in_place(|| {
            let mut held = self.conflicts_of(&last.manifest)?;
            held.retain(|held| !known.contains(&key_of(held)));
            let copy = |held: &HeldConflicts| {
                let bytes = held.file.to_vec();
                held.file.check_readable(&held.key)?;
                self.context.tier.put(&key_of(held), &bytes).map(|_| key_of(held))
            };
            held.iter().map(copy).collect::<Result<Vec<String>>>()
        })?;
        // The oldest go where there is no room for all, as everywhere where nobody can be asked.
        let over = (known.len() + conflicts.len()).saturating_sub(CONFLICTS_MAX).min(known.len());
        let let_go = tokio::task::block_in_place(|| after.states_in(&known[..over]));
        after
            .edit_head_with_answers(answers, |manifest| {
                manifest.conflicts.extend(conflicts);
                let over = manifest.conflicts.len().saturating_sub(CONFLICTS_MAX);
                manifest.conflicts.drain(..over);
                let names: BTreeSet<&String> = manifest.labels.keys().chain(last.manifest.labels.keys()).collect();
                if names.len() <= LABELS_MAX {
                    manifest.add_labels_of(&last.manifest);
                }
            })
            .await
            .inspect(|()| after.has_let_go(let_go))
    }

    /// Gives a copy of a namespace what does not come along with its documents: unresolved conflicts, above all. Once is enough.
    pub async fn complete_copy(self: &Arc<Self>, from: &NamespaceName, copy: &NamespaceName) -> Result<()> {
        let (from, copy) = (self.namespace(from)?, self.namespace(copy)?);
        self.to_the_end(|engine| async move {
            let _birth = engine.context.birth(copy.nsid);
            let answers = from.answers().await?;
            engine.carry_facts(&from.moment().await?, answers, &copy).await
        })
        .await
    }

    /// Deletes a namespace of which everything is covered by `known`. False, and nothing is done, when something was written
    /// since.
    pub async fn delete_known(self: &Arc<Self>, name: &NamespaceName, known: &VersionVector) -> Result<bool> {
        let (name, known) = (name.clone(), known.clone());
        self.to_the_end(move |engine| async move { engine.delete_known_now(&name, &known, Told::ByThisNode).await })
            .await
    }

    /// The same where another node deleted it and the bucket knows: nobody is told that this one did.
    pub async fn follow_deletion(self: &Arc<Self>, name: &NamespaceName, known: &VersionVector) -> Result<bool> {
        let (name, known) = (name.clone(), known.clone());
        self.to_the_end(move |engine| async move { engine.delete_known_now(&name, &known, Told::Already).await })
            .await
    }

    async fn delete_known_now(&self, name: &NamespaceName, known: &VersionVector, told: Told) -> Result<bool> {
        let own = self.namespace(name)?;
        let door = self.door(name);
        let _door = door.lock().await;
        if self.catalog.find(name) != Some(own.nsid) {
            return Err(not_found(name));
        }
        let held = own.hold_writes().await?;
        if !known.covers_all(&own.moment().await?.vector) {
            return Ok(false);
        }
        let hlc = Hlc::from_millis(self.context.clock.now_millis());
        let deleted = tokio::task::block_in_place(|| self.unseat(name, own.nsid, None, (hlc, told)))?;
        self.slots().remove(name);
        tokio::join!(biased; own.retire(), async { drop(held) });
        self.unpin(name)?;
        tokio::task::block_in_place(|| self.lay_aside(&name.project, own.nsid, deleted));
        Ok(true)
    }
}
