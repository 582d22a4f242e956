//! A run of reclaim: every namespace that takes part, the deleted ones first; what fails for one is told, and the others go on.
//! Now and then by itself, and on request.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value as Json, json};
use tokio::time::Instant;

use super::collect::{Of, Reclaim, Reclaimed};
use super::names::is_of_one_object;
use super::status::{Told, told};
use super::worker::{SLEEP_MAX, WAIT_MAX};
use super::{Selection, Sync, Worker};
use crate::error::{Error, Result};
use crate::model::ids::{NamespaceName, Nsid};
use crate::store::{Swept, UNREACHABLE};

/// The first run by itself begins within this time of the start.
const FIRST_WAIT_MAX: Duration = Duration::from_secs(3_600);

/// How often one run goes on with a namespace of which more is condemned than one list names.
const ROUNDS_MAX: usize = 10;

/// What a run came to.
#[derive(Debug, Default)]
pub struct Reclaiming {
    /// By name, with the incarnation: a deleted one may have had the same name.
    pub namespaces: BTreeMap<(NamespaceName, Nsid), Result<Reclaimed>>,
    /// What uploads to a directory left that broke off.
    pub staged: Swept,
    /// Why it ended early, or the first error of a namespace.
    pub failed: Option<Error>,
}

impl Reclaiming {
    /// Of all namespaces together.
    fn total(&self) -> Reclaimed {
        let mut total = Reclaimed::default();
        for done in self.namespaces.values().flatten() {
            let (held, is_partial) = (total.held + done.held, total.is_partial || done.is_partial);
            total.add(*done);
            (total.held, total.is_partial) = (held, is_partial);
        }
        total
    }

    /// For a person: what it did, or would do.
    pub fn to_json(&self) -> Json {
        let shown = |((name, nsid), done): (&(NamespaceName, Nsid), &Result<Reclaimed>)| {
            let mut shown = match done {
                Ok(done) => done.to_json(),
                Err(error) => json!({"error": told(error).to_json()}),
            };
            (shown["namespace"], shown["nsid"]) = (name.to_string().into(), nsid.to_string().into());
            shown
        };
        let mut all = self.total().to_json();
        all["broken_uploads"] = json!({"files": self.staged.files, "bytes": self.staged.bytes});
        all["namespaces"] = self.namespaces.iter().map(shown).collect();
        all
    }
}

impl Reclaimed {
    fn to_json(self) -> Json {
        json!({
            "objects": self.objects,
            "bytes": self.bytes,
            "manifests": self.manifests,
            "held_objects": self.held,
            "more_to_do": self.is_partial,
        })
    }
}

/// What the last run came to.
#[derive(Clone, Debug)]
pub struct LastReclaim {
    pub finished_ms: u64,
    pub done: Reclaimed,
    pub error: Option<Told>,
}

impl LastReclaim {
    pub(super) fn to_json(&self) -> Json {
        let mut shown = self.done.to_json();
        shown["finished_ms"] = self.finished_ms.into();
        shown["error"] = self.error.as_ref().map(Told::to_json).into();
        shown
    }
}

impl Worker {
    /// Reclaims what nobody needs of these namespaces, or of all that take part.
    pub async fn reclaim(&self, names: Option<&BTreeSet<NamespaceName>>, ask: &Reclaim) -> Result<Reclaiming> {
        names.into_iter().flatten().try_for_each(|name| self.check_takes(name))?;
        let selection = match names {
            Some(names) => self.config.selection.only(names.clone()),
            None => self.config.selection.clone(),
        };
        Ok(self.sync()?.reclaim(&selection, ask).await)
    }

    /// What a run keeps for how long, as it is configured.
    pub fn reclaim_settings(&self) -> Reclaim {
        let retention_ms = u64::try_from(self.config.retention.as_millis()).unwrap_or(u64::MAX);
        Reclaim { retention_ms, ..Reclaim::default() }
    }

    /// Reclaims every so often, when passes may begin that nobody asks for, until [`Worker::stop`]. What another node reclaimed shortly before is
    /// left alone.
    pub async fn keep_clean(self: Arc<Self>) {
        let Some(interval) = self.config.reclaim_interval else { return };
        let rest_ms = u64::try_from(interval.as_millis() / 2).unwrap_or(u64::MAX);
        let ask = Reclaim { rest_ms, ..self.reclaim_settings() };
        let mut stop = self.stopping();
        let mut due = Instant::now() + self.draw(FIRST_WAIT_MAX.min(interval));
        loop {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                () = tokio::time::sleep_until(due.min(Instant::now() + SLEEP_MAX)) => {}
            }
            let now = self.clock.now_millis();
            if due > Instant::now() {
                continue;
            }
            if let Some(wait) = self.closed_for(now) {
                due = Instant::now() + wait;
                continue;
            }
            // Whatever it is at, it may be the last step that is ever taken.
            let run = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                run = self.reclaim(None, &ask) => run,
            };
            let error = run.map_or_else(Some, |run| run.failed);
            due = Instant::now()
                + match error.filter(|error| error.code() == UNREACHABLE) {
                    Some(_) => WAIT_MAX.min(interval),
                    None => interval.mul_f64(0.75) + self.draw(interval / 2),
                };
        }
    }
}

impl Sync {
    /// Reclaims what nobody needs of the namespaces in the bucket that `selection` takes.
    pub async fn reclaim(&self, selection: &Selection, ask: &Reclaim) -> Reclaiming {
        let mut run = Reclaiming::default();
        if let Err(error) = self.reclaim_all(selection, ask, &mut run).await {
            run.failed = Some(error);
        }
        if !ask.dry_run {
            let (finished_ms, error) = (self.clock.now_millis(), run.failed.as_ref().map(told));
            self.edit(|status| status.reclaim = Some(LastReclaim { finished_ms, done: run.total(), error }));
        }
        run
    }

    async fn reclaim_all(&self, selection: &Selection, ask: &Reclaim, run: &mut Reclaiming) -> Result<()> {
        let mut attached = self.turn.lock().await;
        self.attach(&mut attached).await?;
        self.check_clock(ask)?;
        let mut due: Vec<(NamespaceName, Nsid, bool)> = Vec::new();
        for (name, nsid) in self.dead(&mut attached, selection, ask, &mut run.failed).await? {
            due.push((name, nsid, true));
        }
        // What this node only follows others look after.
        due.retain(|(name, ..)| !self.engine.follows(name));
        let mut live = Vec::new();
        for (name, rev) in self.names(&mut attached, selection).await?.known {
            if !selection.takes(&name) || self.engine.follows(&name) {
                continue;
            }
            match self.bound(&mut attached, &name, rev).await {
                Ok(bound) => live.extend(bound.and_then(|bound| bound.target).map(|nsid| (name, nsid, false))),
                Err(error) if is_of_one_object(&self.bucket, &error) => {
                    tracing::warn!(%name, %error, "not reclaimed, the others are");
                    run.failed.get_or_insert(error);
                }
                Err(error) => return Err(error),
            }
        }
        // Branches before what they came from: what they let go of may go in the same run.
        live.sort_by_key(|(_, nsid, _)| std::cmp::Reverse(*nsid));
        due.extend(live);
        // Passes need not wait: to them it is one more node.
        drop(attached);
        for (name, nsid, is_dead) in due {
            let done = self.reclaim_one(&Of { name: &name, nsid, is_dead }, ask).await;
            if let Err(error) = &done {
                tracing::warn!(%name, %error, "not reclaimed, the next run tries again");
                run.failed.get_or_insert_with(|| error.duplicate().context(format_args!("reclaim {name}")));
            }
            run.namespaces.insert((name, nsid), done);
        }
        if !ask.dry_run && selection.is_whole() {
            run.staged = self.bucket.sweep_staged().await?;
            if run.staged.files > 0 {
                tracing::info!(
                    files = run.staged.files,
                    bytes = run.staged.bytes,
                    "what broken uploads left is removed"
                );
            }
        }
        run.failed.take().map_or(Ok(()), Err)
    }

    async fn reclaim_one(&self, of: &Of<'_>, ask: &Reclaim) -> Result<Reclaimed> {
        let mut done = Reclaimed::default();
        for round in 0..ROUNDS_MAX {
            let round = self.collect(of, ask, round > 0).await?;
            done.add(round);
            if !round.is_partial || ask.dry_run {
                break;
            }
        }
        if of.is_dead {
            done.add(Reclaimed { held: done.held, is_partial: done.is_partial, ..self.bury(of, ask).await? });
        }
        if done != Reclaimed::default() && !ask.dry_run {
            let Reclaimed { objects, bytes, manifests, held, .. } = done;
            tracing::info!(namespace = %of.name, nsid = %of.nsid, objects, bytes, manifests, held, "reclaimed in the bucket");
        }
        Ok(done)
    }
}
