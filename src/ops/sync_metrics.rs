//! The numbers of sync and of the bucket, which are shown only where there is a bucket; with closed label sets.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    kind: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DirectionLabels {
    direction: &'static str,
}

/// How far a node and its bucket are, and what that took, asked for when a collector comes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SyncFigures {
    pub lag_seconds: u64,
    pub pending_bytes: u64,
    pub namespaces_behind: u64,
    /// Absent before the first pass that went well.
    pub last_success_seconds: Option<u64>,
    pub failures: u64,
    /// Of bodies to and from the bucket in this month, UTC.
    pub month_bytes: u64,
    /// Namespaces that this node follows, and for how long at most one of them may have been behind the bucket.
    pub following: u64,
    pub staleness_seconds: Option<u64>,
    /// Attempts by kind and outcome, both from closed sets.
    pub requests: Vec<(&'static str, &'static str, u64)>,
    pub bytes_up: u64,
    pub bytes_down: u64,
    /// By how many seconds this machine's clock is ahead of the bucket's, where it told the time.
    pub clock_skew_seconds: Option<i64>,
}

/// These figures, ready to be encoded.
pub fn registry(figures: &SyncFigures) -> Registry {
    let mut registry = Registry::with_prefix("shoal");
    let mut gauge = |name: &str, help: &str, value: Option<i64>| {
        let Some(value) = value else { return };
        let gauge: Gauge = Gauge::default();
        gauge.set(value);
        registry.register(name, help, gauge);
    };
    let number = |value: u64| Some(i64::try_from(value).unwrap_or(i64::MAX));
    gauge("sync_lag_seconds", "How long a write may have been on this node only", number(figures.lag_seconds));
    gauge("sync_pending_bytes", "Bytes that are not in the bucket yet", number(figures.pending_bytes));
    gauge(
        "sync_namespaces_behind",
        "Namespaces with writes that are not in the bucket yet",
        number(figures.namespaces_behind),
    );
    gauge(
        "sync_last_success_timestamp_seconds",
        "When everything was last brought together",
        figures.last_success_seconds.and_then(number),
    );
    gauge("sync_month_bytes", "Bytes of bodies to and from the bucket in this month", number(figures.month_bytes));
    gauge(
        "sync_following",
        "Namespaces that this node takes from the bucket and never writes",
        number(figures.following),
    );
    gauge(
        "sync_staleness_seconds",
        "For how long at most a namespace that this node follows may have been behind the bucket",
        figures.staleness_seconds.and_then(number),
    );
    gauge("clock_skew_seconds", "How far this clock is ahead of the bucket's", figures.clock_skew_seconds);
    let failures: Counter = Counter::default();
    failures.inc_by(figures.failures);
    registry.register("sync_failures", "Passes of sync that did not end well", failures);
    let requests: Family<RequestLabels, Counter> = Family::default();
    for (kind, outcome, count) in &figures.requests {
        requests.get_or_create(&RequestLabels { kind, outcome }).inc_by(*count);
    }
    registry.register("bucket_requests", "Requests to the bucket, by kind and outcome", requests);
    let bytes: Family<DirectionLabels, Counter> = Family::default();
    for (direction, count) in [("up", figures.bytes_up), ("down", figures.bytes_down)] {
        bytes.get_or_create(&DirectionLabels { direction }).inc_by(count);
    }
    registry.register("bucket_bytes", "Bytes of bodies to and from the bucket", bytes);
    registry
}
