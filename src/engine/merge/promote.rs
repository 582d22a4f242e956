//! Merges one namespace into another, from the caller's request to the report.

use std::sync::Arc;

use super::bases::{Staging, settle, settle_left, stage_beside, unrelated, withdraw};
use super::losers::Losers;
use super::report::{MergeReport, MergeRequest};
use super::work::{Work, newest};
use crate::engine::Engine;
use crate::engine::namespace::absorb::{Absorb, read_only};
use crate::engine::namespace::{Moment, Namespace};
use crate::error::{Error, Result};
use crate::format::conflicts::MergeSource;
use crate::model::ids::NamespaceName;
use crate::platform::allowance::Allowance;

impl Engine {
    /// Merges what `source` has that `target` has not seen into `target`, as one commit. `Invalid` when the two cannot be
    /// merged; a report that is `refused` when conflicts are not to be resolved. Nothing changes in both cases.
    pub async fn merge(
        self: &Arc<Self>,
        source: &NamespaceName,
        target: &NamespaceName,
        request: MergeRequest,
    ) -> Result<MergeReport> {
        self.merge_within(source, target, request, Arc::new(Allowance::unlimited())).await
    }

    /// The same, whose look ends where the allowance does: nothing changes then.
    pub async fn merge_within(
        self: &Arc<Self>,
        source: &NamespaceName,
        target: &NamespaceName,
        request: MergeRequest,
        allowance: Arc<Allowance>,
    ) -> Result<MergeReport> {
        self.kin_known().await?;
        let (source, target) = (source.clone(), target.clone());
        self.to_the_end(|engine| async move { engine.merge_now(&source, &target, &request, allowance).await }).await
    }

    async fn merge_now(
        &self,
        from: &NamespaceName,
        into: &NamespaceName,
        request: &MergeRequest,
        allowance: Arc<Allowance>,
    ) -> Result<MergeReport> {
        if from == into {
            return Err(Error::invalid(format!("'{}' cannot be merged into itself", from.name))
                .with_hint("name another source"));
        }
        self.context.check_space(0, || format!("a merge into {into}"))?;
        let (source, target) = (self.namespace(from)?, self.namespace_to_change(into)?);
        if target.published().read_only {
            return Err(read_only(into));
        }
        let theirs = self.moment_at(from, request.as_of.as_ref()).await?;
        let ours = target.moment().await?;
        let needs_no_base = request.allow_unrelated && request.policy.needs_no_base();
        if !theirs.vector.is_related(&ours.vector) && !needs_no_base {
            return Err(unrelated(&from.name, &into.name));
        }
        super::schemas::join(&theirs.view.schema, &ours.view.schema)?;
        let mut work = self.work(&source, &target, theirs.clone(), request);
        (work.compares, work.allowance) = (true, allowance);
        if request.dry_run || ours.vector.covers_all(&theirs.vector) {
            tokio::task::block_in_place(|| work.survey(&ours))?;
            return Ok(work.report);
        }
        let seen_here = ours.vector.clone();
        drop(ours);
        // From the staging of a base to its settling: two of one pair would write one file, and take each other's away.
        let pair = self.pair(target.nsid, source.nsid);
        let _pair = pair.lock().await;
        let mut has_base = false;
        if request.as_of.is_none() {
            // The head is held until the state's objects are counted: nothing it names can go meanwhile.
            let share = source.share().await?;
            work.theirs = Arc::new(source.moment_beside(&share));
            tokio::task::block_in_place(|| {
                settle_left(&self.context, target.nsid, source.nsid, &seen_here)?;
                work.staging = stage_beside(&self.context, target.nsid, &share.manifest)?;
                Ok::<_, Error>(())
            })?;
            has_base = true;
        }
        let seen = newest(&work.theirs);
        let done = target.absorb(&mut work, seen).await;
        tokio::task::block_in_place(|| {
            // Nothing was built: then what came of it does not matter.
            if let Some(Err(error)) = work.staging.take().map(Staging::wait) {
                tracing::debug!(%error, "the base of a merge that is not made is not in place");
            }
            if has_base && !matches!(done, Ok(Some(_))) {
                withdraw(&self.context, target.nsid, source.nsid);
            } else if has_base {
                // The merge is done: without its base, later conflicts show less.
                let kept =
                    settle(&self.context, target.nsid, source.nsid).and_then(|()| self.forget_bases(target.nsid));
                if let Err(error) = kept {
                    tracing::warn!(namespace = %into, %error, "the base of a merge is not kept");
                }
            }
        });
        let mut report = work.report;
        if let Some(absorbed) = done? {
            (report.commit, report.etag) = (Some(absorbed.commit), absorbed.etag);
        }
        Ok(report)
    }

    /// A merge that no number of conflicts ends: nobody asked for it who could resolve some first.
    pub(in crate::engine) fn lasting_work<'a>(
        &'a self,
        source: &'a Arc<Namespace>,
        target: &'a Arc<Namespace>,
        theirs: Arc<Moment>,
        request: &'a MergeRequest,
    ) -> Work<'a> {
        let mut work = self.work(source, target, theirs, request);
        work.losers.lets_go = true;
        work
    }

    fn work<'a>(
        &'a self,
        source: &'a Arc<Namespace>,
        target: &'a Arc<Namespace>,
        theirs: Arc<Moment>,
        request: &'a MergeRequest,
    ) -> Work<'a> {
        let losers = Losers {
            nsid: target.nsid,
            source: MergeSource {
                nsid: source.nsid,
                name: source.name.to_string(),
                commit_id: theirs.manifest.commit_id,
            },
            policy: request.policy.name(),
            at_ms: self.context.clock.now_millis(),
            waiting: Vec::new(),
            bytes: 0,
            lets_go: false,
        };
        Work {
            request,
            theirs,
            open_bases: Box::new(move |theirs, ours| self.common_states((source, target), (theirs, ours))),
            losers,
            report: MergeReport::default(),
            listed_bytes: 0,
            bases: None,
            staging: None,
            fresh: 0,
            compares: false,
            of_one: None,
            allowance: Arc::new(Allowance::unlimited()),
            taken: Vec::new(),
        }
    }
}
