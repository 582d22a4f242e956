//! The numbers a collector scrapes, with closed label sets.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use super::sync_metrics::{self, SyncFigures};
use crate::error::{Error, Result};

/// What kind of request it was; closed, so that no client can grow the label set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    class: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    version: &'static str,
}

/// What a damaged file is; one of a closed set.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FileLabels {
    kind: &'static str,
}

/// What operators are to know of; codes are those of `engine::setbacks`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WarningLabels {
    code: &'static str,
}

/// What a node holds, asked for when a collector comes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFigures {
    pub namespaces: u64,
    pub namespaces_quarantined: u64,
    /// Of every kind of file how many are damaged.
    pub damaged_files: Vec<(&'static str, u64)>,
    pub objects: u64,
    pub object_bytes: u64,
    pub tail_bytes: u64,
    pub tier_bytes: u64,
    pub tier_bytes_read: u64,
    pub conflicts_let_go: u64,
    /// Absent when the file system does not say.
    pub disk_free_bytes: Option<u64>,
    pub ready: bool,
}

/// All metrics of one daemon. Cheap to share behind an `Arc`.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    query_seconds: Histogram,
    write_seconds: Histogram,
    request_body_bytes: Counter,
    response_body_bytes: Counter,
    in_flight: Gauge,
    searches: Gauge,
    searches_abandoned: Counter,
    namespaces: Gauge,
    quarantined: Gauge,
    damaged_files: Family<FileLabels, Gauge>,
    objects: Gauge,
    object_bytes: Gauge,
    tail_bytes: Gauge,
    tier_bytes: Gauge,
    tier_bytes_read: Gauge,
    conflicts_let_go: Gauge,
    disk_free_bytes: Gauge,
    ready: Gauge,
    warnings: Family<WarningLabels, Gauge>,
}

/// A request or search under way, for as long as this lives.
pub struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn gauge(registry: &mut Registry, name: &str, help: &str) -> Gauge {
    let gauge = Gauge::default();
    registry.register(name, help, gauge.clone());
    gauge
}

fn counter(registry: &mut Registry, name: &str, help: &str) -> Counter {
    let counter = Counter::default();
    registry.register(name, help, counter.clone());
    counter
}

/// From half a millisecond to about eight seconds.
fn seconds() -> Histogram {
    Histogram::new((0..15).map(|power| 0.0005 * f64::from(1_u32 << power)))
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    pub fn new() -> Self {
        let mut registry = Registry::with_prefix("shoal");
        let requests = Family::default();
        registry.register("http_requests", "Requests answered, by route and status class", requests.clone());
        let query_seconds = seconds();
        registry.register("query_seconds", "Time to answer a query", query_seconds.clone());
        let write_seconds = seconds();
        registry.register("write_seconds", "Time to make a write durable", write_seconds.clone());
        let build: Family<BuildLabels, Gauge> = Family::default();
        build.get_or_create(&BuildLabels { version: env!("CARGO_PKG_VERSION") }).set(1);
        registry.register("build", "The running version", build);
        let damaged_files = Family::default();
        registry.register("damaged_files", "Files that are known to be damaged, by kind", damaged_files.clone());
        let warnings = Family::default();
        registry.register("warnings", "1 while /v1/status warns of this", warnings.clone());
        let r = &mut registry;
        Metrics {
            request_body_bytes: counter(r, "http_request_body_bytes", "Bytes of request bodies, decoded"),
            response_body_bytes: counter(r, "http_response_body_bytes", "Bytes of answers, before packing"),
            in_flight: gauge(r, "http_requests_in_flight", "Requests being answered"),
            searches: gauge(r, "searches", "Searches running"),
            searches_abandoned: counter(r, "searches_abandoned", "Searches ended because their client went away"),
            namespaces: gauge(r, "namespaces", "Namespaces on this node"),
            quarantined: gauge(r, "namespaces_quarantined", "Namespaces whose files are damaged"),
            damaged_files,
            objects: gauge(r, "objects", "Objects in the data directory"),
            object_bytes: gauge(r, "object_bytes", "Bytes of these objects"),
            tail_bytes: gauge(r, "tail_bytes", "Memory of writes that are in no segment yet"),
            tier_bytes: gauge(r, "tier_bytes", "Bytes here of the bucket's objects that are here in part"),
            tier_bytes_read: gauge(r, "tier_bytes_read", "Bytes read of them from the bucket since the start"),
            conflicts_let_go: gauge(r, "conflicts_let_go", "States of conflicts that had no room since the start"),
            disk_free_bytes: gauge(r, "disk_free_bytes", "Free bytes on the data directory's file system"),
            ready: gauge(r, "ready", "1 when requests are taken"),
            registry,
            requests,
            query_seconds,
            write_seconds,
            warnings,
        }
    }

    /// Counts a request as under way until the result is dropped.
    pub fn begin(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// Counts a search as running until the result is dropped.
    pub fn begin_search(&self) -> InFlight {
        self.searches.inc();
        InFlight(self.searches.clone())
    }

    /// Counts a search that ended because nobody waited for it.
    pub fn count_abandoned(&self) {
        self.searches_abandoned.inc();
    }

    /// Counts the bytes of one request and its answer.
    pub fn observe_bytes(&self, request: u64, response: u64) {
        self.request_body_bytes.inc_by(request);
        self.response_body_bytes.inc_by(response);
    }

    /// Takes over what the node holds.
    pub fn set_node(&self, figures: &NodeFigures) {
        let set = |gauge: &Gauge, value: u64| {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        };
        set(&self.namespaces, figures.namespaces);
        set(&self.quarantined, figures.namespaces_quarantined);
        for (kind, files) in &figures.damaged_files {
            set(&self.damaged_files.get_or_create(&FileLabels { kind }), *files);
        }
        set(&self.objects, figures.objects);
        set(&self.object_bytes, figures.object_bytes);
        set(&self.tail_bytes, figures.tail_bytes);
        set(&self.tier_bytes, figures.tier_bytes);
        set(&self.tier_bytes_read, figures.tier_bytes_read);
        set(&self.conflicts_let_go, figures.conflicts_let_go);
        if let Some(free) = figures.disk_free_bytes {
            set(&self.disk_free_bytes, free);
        }
        self.ready.set(i64::from(figures.ready));
    }

    /// Takes over which warnings there are, of all codes.
    pub fn set_warnings(&self, all: impl Iterator<Item = (&'static str, bool)>) {
        for (code, is_there) in all {
            self.warnings.get_or_create(&WarningLabels { code }).set(i64::from(is_there));
        }
    }

    /// Counts one answered request. `route` is the name of a handler, never part of a URL; the handlers `query` and
    /// `write` are timed.
    pub fn observe(&self, route: &'static str, status: u16, took: Duration) {
        let class = match status {
            100..200 => "1xx",
            200..300 => "2xx",
            300..400 => "3xx",
            400..500 => "4xx",
            _ => "5xx",
        };
        self.requests.get_or_create(&RequestLabels { route, class }).inc();
        match route {
            "query" => self.query_seconds.observe(took.as_secs_f64()),
            "write" => self.write_seconds.observe(took.as_secs_f64()),
            _ => {}
        }
    }

    /// The OpenMetrics text, with what is known of sync where there is a bucket.
    pub fn text(&self, sync: Option<&SyncFigures>) -> Result<String> {
        let mut out = String::new();
        let sync = sync.map(sync_metrics::registry);
        encode_registry(&mut out, &self.registry)
            .and_then(|()| sync.map_or(Ok(()), |sync| encode_registry(&mut out, &sync)))
            .and_then(|()| encode_eof(&mut out))
            .map_err(|error| Error::internal(format!("encode metrics: {error}")))?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_counted_by_its_route_and_class() {
        let metrics = Metrics::new();
        metrics.observe("query", 200, Duration::from_millis(3));
        metrics.observe("query", 404, Duration::from_millis(1));
        let text = metrics.text(None).unwrap();
        assert!(text.contains("shoal_http_requests_total{route=\"query\",class=\"4xx\"} 1"), "{text}");
        assert!(text.contains("shoal_query_seconds_count 2"), "{text}");
    }

    #[test]
    fn sync_is_shown_where_there_is_a_bucket() {
        let metrics = Metrics::new();
        assert!(!metrics.text(None).unwrap().contains("shoal_sync"));
        let requests = vec![("get", "done", 3), ("create", "lost", 1)];
        let figures = SyncFigures { lag_seconds: 7, failures: 2, requests, bytes_up: 9, ..SyncFigures::default() };
        let text = metrics.text(Some(&figures)).unwrap();
        for line in [
            "shoal_sync_lag_seconds 7",
            "shoal_sync_failures_total 2",
            "shoal_bucket_requests_total{kind=\"get\",outcome=\"done\"} 3",
            "shoal_bucket_bytes_total{direction=\"up\"} 9",
        ] {
            assert!(text.contains(line), "{line}: {text}");
        }
        // What is not known is not there.
        assert!(!text.contains("clock_skew") && !text.contains("last_success"), "{text}");
        assert_eq!(text.matches("# EOF").count(), 1);
    }

    #[test]
    fn requests_under_way_and_the_nodes_figures_are_shown() {
        let metrics = Metrics::new();
        let under_way = metrics.begin();
        metrics.set_node(&NodeFigures { tail_bytes: 7, ready: true, ..NodeFigures::default() });
        let text = metrics.text(None).unwrap();
        assert!(text.contains("shoal_http_requests_in_flight 1"), "{text}");
        assert!(text.contains("shoal_tail_bytes 7") && text.contains("shoal_ready 1"), "{text}");
        drop(under_way);
        assert!(metrics.text(None).unwrap().contains("shoal_http_requests_in_flight 0"));
    }
}
