//! How sync is shown: of one namespace, of the node, of a pass, and of a plan.

use serde_json::{Map, Value as Json, json};

use super::plan::Plan;
use super::status::{NamespaceStatus, told};
use super::{Pass, Worker};
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
        let mut shown = self.shown(self.status().namespaces.get(name), &unsent);
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
            .map(|(name, unsent)| (name.to_string(), self.shown(status.namespaces.get(name), unsent)))
            .collect();
        // Those that are only in the bucket, and could not be fetched.
        for (name, known) in &status.namespaces {
            namespaces.entry(name.to_string()).or_insert_with(|| known.to_json());
        }
        let mut shown = self.node(&plan);
        shown["namespaces"] = namespaces.into();
        Ok(shown)
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

    fn node(&self, plan: &Plan) -> Json {
        let (status, totals) = (self.status(), self.totals_of(plan));
        json!({
            "bucket": status.bucket,
            "in_bucket": totals.namespaces_behind == 0,
            "namespaces_behind": totals.namespaces_behind,
            "pending_objects": totals.objects,
            "pending_bytes": totals.bytes,
            "lag_seconds": totals.lag_ms / 1_000,
            "running": self.is_running(),
            "scheduled_now": self.config.schedule.is_open(self.clock.now_millis()),
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
        let status = self.status();
        let mut totals = Totals::default();
        for (name, unsent) in plan {
            let Ok(unsent) = unsent else {
                totals.namespaces_behind += 1;
                continue;
            };
            totals.namespaces_behind += u64::from(!unsent.is_durable);
            totals.objects += unsent.objects;
            totals.bytes += unsent.bytes;
            totals.lag_ms = totals.lag_ms.max(self.lag_ms(status.namespaces.get(name), unsent));
        }
        totals
    }

    fn shown(&self, known: Option<&NamespaceStatus>, unsent: &Result<Unsent>) -> Json {
        let mut shown = known.map_or_else(|| NamespaceStatus::default().to_json(), NamespaceStatus::to_json);
        match unsent {
            Ok(unsent) => {
                shown["in_bucket"] = unsent.is_durable.into();
                shown["bucket_generation"] = unsent.common.map(|(generation, _)| generation).into();
                shown["pending_objects"] = unsent.objects.into();
                shown["pending_bytes"] = unsent.bytes.into();
                shown["pending_rows"] = unsent.rows.into();
                shown["lag_seconds"] = (self.lag_ms(known, unsent) / 1_000).into();
            }
            Err(error) => shown["error"] = told(error).to_json(),
        }
        shown
    }

    /// For how long something may have been here only: since all of it was last there.
    fn lag_ms(&self, known: Option<&NamespaceStatus>, unsent: &Unsent) -> u64 {
        if unsent.is_durable {
            return 0;
        }
        let together = known.and_then(|known| known.succeeded_ms);
        let since = together.or(unsent.common.map(|(_, committed_ms)| committed_ms)).unwrap_or(unsent.created_ms);
        self.clock.now_millis().saturating_sub(since)
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

/// What a pass did.
pub fn show_pass(pass: &Pass) -> Json {
    let carried = |carried: super::Carried| json!({"objects": carried.objects, "bytes": carried.bytes});
    let shown = |done: &Result<super::Done, Error>| match done {
        Ok(done) => json!({
            "sent": carried(done.sent),
            "fetched": carried(done.fetched),
            "bucket_generation": done.generation,
            "conflicts": done.conflicts,
        }),
        Err(error) => json!({"error": told(error).to_json()}),
    };
    let namespaces: Map<String, Json> =
        pass.namespaces.iter().map(|(name, done)| (name.to_string(), shown(done))).collect();
    json!({"namespaces": namespaces})
}
