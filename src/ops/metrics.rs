//! The numbers a collector scrapes, with closed label sets.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

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

/// All metrics of one daemon. Cheap to share behind an `Arc`.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    query_seconds: Histogram,
    write_seconds: Histogram,
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
        Metrics { registry, requests, query_seconds, write_seconds }
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

    /// The OpenMetrics text.
    pub fn text(&self) -> Result<String> {
        let mut out = String::new();
        encode(&mut out, &self.registry).map_err(|error| Error::internal(format!("encode metrics: {error}")))?;
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
        let text = metrics.text().unwrap();
        assert!(text.contains("shoal_http_requests_total{route=\"query\",class=\"4xx\"} 1"), "{text}");
        assert!(text.contains("shoal_query_seconds_count 2"), "{text}");
    }
}
