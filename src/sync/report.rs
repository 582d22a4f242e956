//! How sync is shown: of one namespace, of the node, of a pass, and of a plan.

use serde_json::{Map, Value as Json, json};

use super::plan::Plan;
use super::status::{NamespaceStatus, told};
use super::{Done, Pass, Worker};
use crate::engine::Unsent;
use crate::error::{Error, Result};
use crate::model::ids::NamespaceName;
use crate::ops::sync_metrics::SyncFigures;
use crate::store::{Ending, Request};

/// What is not in the bucket yet, of all namespaces together.
#[derive(Default)]
struct Totals {
    namespaces_behind: u64,
    objects: u64,
    bytes: u64,
    lag_ms: u64,
}

impl Worker {
    /// How far one namespace is.
    pub async fn show_namespace(&self, name: &NamespaceName) -> Result<Json> {
        let bucket = self.status().bucket;
        if !self.takes(name) {
            return Ok(json!({"bucket": bucket, "selected": false}));
        }
        let unsent = self.engine.unsent(name).await;
        let mut shown = self.shown(name, self.known(name).as_ref(), &unsent);
        shown["bucket"] = bucket.into();
        shown["selected"] = true.into();
        Ok(shown)
    }

    /// How far the node is, without its namespaces.
    pub async fn show_node(&self) -> Result<Json> {
        Ok(self.node(&self.plan(None).await?))
    }

    /// How far the node and each of its namespaces is.
    pub async fn show(&self) -> Result<Json> {
        let plan = self.plan(None).await?;
        let status = self.status();
        let mut namespaces: Map<String, Json> = plan
            .iter()
            .map(|(name, unsent)| (name.to_string(), self.shown(name, status.namespaces.get(name), unsent)))
            .collect();
        for (name, unsent) in self.engine.unsent_of(self.followed().collect()).await? {
            let shown = self.shown(&name, status.namespaces.get(&name), &unsent);
            namespaces.insert(name.to_string(), shown);
        }
        // Those that are only in the bucket, and could not be fetched.
        for (name, known) in &status.namespaces {
            namespaces.entry(name.to_string()).or_insert_with(|| known.to_json());
        }
        let mut shown = self.node(&plan);
        shown["namespaces"] = namespaces.into();
        Ok(shown)
    }

    /// For how long at most what is here of a namespace may have been behind the bucket. `None` when this node never knew, and where
    /// its clock does not tell.
    pub fn staleness_ms(&self, name: &NamespaceName) -> Option<u64> {
        let steady = self.clock.steady_millis();
        let known = self.known(name).and_then(|known| known.fresh_ms);
        if let Some(since) = known {
            return Some(steady.saturating_sub(since));
        }
        // Another process may have met the bucket since, this one did not.
        let since = self.engine.common_since(name)?;
        let age = tokio::task::block_in_place(|| self.engine.age_at_most_ms(since))?;
        Some(age.max(steady.saturating_sub(self.began_ms)))
    }

    /// The most of all that this node follows. `None` without any, and where that of one is not told.
    fn staleness_of_all_ms(&self) -> Option<u64> {
        let mut most = None;
        for name in self.followed() {
            match self.staleness_ms(&name) {
                Some(ms) => most = most.max(Some(ms)),
                None if self.engine.common_since(&name).is_some() => return None,
                None => {}
            }
        }
        most
    }

    /// Numbers for a collector.
    pub async fn figures(&self) -> Result<SyncFigures> {
        let totals = self.totals_of(&self.plan(None).await?);
        let mut figures = SyncFigures {
            lag_seconds: totals.lag_ms / 1_000,
            pending_bytes: totals.bytes,
            namespaces_behind: totals.namespaces_behind,
            last_success_seconds: self.status().succeeded_ms.map(|ms| ms / 1_000),
            failures: self.failures(),
            month_bytes: self.budget().bytes(self.clock.now_millis()).1,
            following: self.followed().count() as u64,
            staleness_seconds: self.staleness_of_all_ms().map(|ms| ms / 1_000),
            ..SyncFigures::default()
        };
        if let Some(traffic) = self.traffic() {
            let named = |(kind, ending, count): &(Request, Ending, u64)| (kind.name(), ending.name(), *count);
            figures.requests = traffic.requests.iter().map(named).collect();
            (figures.bytes_up, figures.bytes_down) = (traffic.bytes_up, traffic.bytes_down);
            figures.clock_skew_seconds = traffic.skew_seconds;
        }
        Ok(figures)
    }

    /// Namespaces here that this node follows.
    fn followed(&self) -> impl Iterator<Item = NamespaceName> {
        self.engine
            .named()
            .into_iter()
            .map(|(name, _)| name)
            .filter(|name| self.engine.follows(name) && self.takes(name))
    }

    fn node(&self, plan: &Plan) -> Json {
        let (status, totals, now) = (self.status(), self.totals_of(plan), self.clock.now_millis());
        let (monthly_bytes, month_bytes) = self.budget().bytes(now);
        json!({
            "metered": self.is_metered(),
            "month_bytes": month_bytes,
            "monthly_bytes": monthly_bytes,
            "budget": self.budget().check(now).err().map(|error| error.message().to_owned()),
            "bucket": status.bucket,
            "in_bucket": totals.namespaces_behind == 0,
            "namespaces_behind": totals.namespaces_behind,
            "pending_objects": totals.objects,
            "pending_bytes": totals.bytes,
            "lag_seconds": totals.lag_ms / 1_000,
            "following": self.followed().count(),
            "running": self.is_running(),
            "scheduled_now": self.closed_for(now).is_none(),
            "interval_seconds": self.config.interval.as_secs(),
            "policy": self.config.policy.name(),
            "last_start_ms": status.started_ms,
            "last_end_ms": status.finished_ms,
            "last_success_ms": status.succeeded_ms,
            "error": status.error.as_ref().map(super::status::Told::to_json),
            "reclaim": status.reclaim.as_ref().map(super::LastReclaim::to_json),
        })
    }

    fn totals_of(&self, plan: &Plan) -> Totals {
        let mut totals = Totals::default();
        for unsent in plan.values() {
            let Ok(unsent) = unsent else {
                totals.namespaces_behind += 1;
                continue;
            };
            totals.namespaces_behind += u64::from(!unsent.is_durable);
            totals.objects += unsent.objects;
            totals.bytes += unsent.bytes;
            totals.lag_ms = totals.lag_ms.max(self.lag_ms(unsent));
        }
        totals
    }

    fn shown(&self, name: &NamespaceName, known: Option<&NamespaceStatus>, unsent: &Result<Unsent>) -> Json {
        let mut shown = known.map_or_else(|| NamespaceStatus::default().to_json(), NamespaceStatus::to_json);
        shown["following"] = self.engine.follows(name).into();
        shown["staleness_seconds"] = self.staleness_ms(name).map(|ms| ms / 1_000).into();
        match unsent {
            Ok(unsent) => {
                shown["in_bucket"] = unsent.is_durable.into();
                shown["deleted"] = unsent.is_deleted.into();
                shown["bucket_generation"] = unsent.common.map(|(generation, _)| generation).into();
                shown["pending_objects"] = unsent.objects.into();
                shown["pending_bytes"] = unsent.bytes.into();
                shown["pending_rows"] = unsent.rows.into();
                shown["lag_seconds"] = (self.lag_ms(unsent) / 1_000).into();
            }
            Err(error) => shown["error"] = told(error).to_json(),
        }
        shown
    }

    /// For how long the oldest of what is here only has been.
    fn lag_ms(&self, unsent: &Unsent) -> u64 {
        unsent.since_ms.map_or(0, |since| tokio::task::block_in_place(|| self.engine.age_ms(since)))
    }
}

/// What a plan would send.
pub fn show_plan(plan: &Plan) -> Json {
    let namespaces: Map<String, Json> = plan
        .iter()
        .map(|(name, unsent)| {
            let shown = match unsent {
                Ok(unsent) => json!({
                    "objects": unsent.objects,
                    "bytes": unsent.bytes,
                    "rows_in_memory": unsent.rows,
                    "nothing_to_send": unsent.is_nothing,
                    "in_bucket": unsent.is_durable,
                    "deleted": unsent.is_deleted,
                    "bucket_generation": unsent.common.map(|(generation, _)| generation),
                    "bucket_committed_ms": unsent.common.map(|(_, committed_ms)| committed_ms),
                }),
                Err(error) => json!({"error": told(error).to_json()}),
            };
            (name.to_string(), shown)
        })
        .collect();
    let sum = |of: fn(&Unsent) -> u64| plan.values().filter_map(|unsent| unsent.as_ref().ok()).map(of).sum::<u64>();
    json!({"objects": sum(|u| u.objects), "bytes": sum(|u| u.bytes), "namespaces": namespaces})
}

/// What a pass did for one namespace.
pub fn show_done(done: &Done) -> Json {
    let carried = |carried: super::Carried| json!({"objects": carried.objects, "bytes": carried.bytes});
    json!({
        "sent": carried(done.sent),
        "fetched": carried(done.fetched),
        "bucket_generation": done.generation,
        "conflicts": done.conflicts,
        "notice": done.notice,
    })
}

/// What a pass did.
pub fn show_pass(pass: &Pass) -> Json {
    let shown = |done: &Result<Done, Error>| match done {
        Ok(done) => show_done(done),
        Err(error) => json!({"error": told(error).to_json()}),
    };
    let namespaces: Map<String, Json> =
        pass.namespaces.iter().map(|(name, done)| (name.to_string(), shown(done))).collect();
    json!({"namespaces": namespaces})
}
