//! A run of reclaim: every namespace that takes part, the deleted ones first; what fails for one is told, and the others go on.

use std::collections::BTreeMap;

use super::collect::{Of, Reclaim, Reclaimed};
use super::{Selection, Sync};
use crate::error::{Error, Result};
use crate::model::ids::{NamespaceName, Nsid};

/// How often one run goes on with a namespace of which more is condemned than one list names.
const ROUNDS_MAX: usize = 10;

/// What a run came to.
#[derive(Debug, Default)]
pub struct Reclaiming {
    /// By name, with the incarnation: a deleted one may have had the same name.
    pub namespaces: BTreeMap<(NamespaceName, Nsid), Result<Reclaimed>>,
    /// Why it ended early, or the first error of a namespace.
    pub failed: Option<Error>,
}

impl Sync {
    /// Reclaims what nobody needs of the namespaces in the bucket that `selection` takes.
    pub async fn reclaim(&self, selection: &Selection, ask: &Reclaim) -> Reclaiming {
        let mut run = Reclaiming::default();
        if let Err(error) = self.reclaim_all(selection, ask, &mut run).await {
            run.failed = Some(error);
        }
        run
    }

    async fn reclaim_all(&self, selection: &Selection, ask: &Reclaim, run: &mut Reclaiming) -> Result<()> {
        let mut attached = self.turn.lock().await;
        self.attach(&mut attached).await?;
        let mut due: Vec<(NamespaceName, Nsid, bool)> = Vec::new();
        for (name, nsid) in self.dead(&mut attached, selection, ask.retention_ms).await? {
            due.push((name, nsid, true));
        }
        let mut live = Vec::new();
        for (name, rev) in self.names(&mut attached, selection).await? {
            if selection.takes(&name)
                && let Some(nsid) = self.bound(&mut attached, &name, rev).await?.and_then(|bound| bound.target)
            {
                live.push((name, nsid, false));
            }
        }
        // Branches before what they came from: what they let go of may go in the same run.
        live.sort_by_key(|(_, nsid, _)| std::cmp::Reverse(*nsid));
        due.extend(live);
        for (name, nsid, is_dead) in due {
            let done = self.reclaim_one(&Of { name: &name, nsid, is_dead }, ask).await;
            if let Err(error) = &done {
                tracing::warn!(%name, %error, "not reclaimed, the next run tries again");
                run.failed.get_or_insert_with(|| error.duplicate().context(format_args!("reclaim {name}")));
            }
            run.namespaces.insert((name, nsid), done);
        }
        run.failed.take().map_or(Ok(()), Err)
    }

    async fn reclaim_one(&self, of: &Of<'_>, ask: &Reclaim) -> Result<Reclaimed> {
        let mut done = Reclaimed::default();
        for _ in 0..ROUNDS_MAX {
            let round = self.collect(of, ask).await?;
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
