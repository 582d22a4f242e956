//! Answers to writes, and the billing and performance blocks of queries, with every field the contract requires.

use serde_json::{Map, Value as Json, json};

use crate::model::datetime;
use crate::model::query::{Number, QueryStats};
pub use crate::model::value_render::{f32_json, id_json};
use crate::model::write::WriteOutcome;

/// An aggregate's value.
pub fn number_json(number: Number) -> Json {
    match number {
        Number::Int(n) => n.into(),
        Number::Uint(n) => n.into(),
        Number::Float(x) => x.into(),
    }
}

/// An instant, from milliseconds since 1970.
pub fn time(ms: u64) -> String {
    datetime::format(i64::try_from(ms).unwrap_or(i64::MAX))
}

/// Whole milliseconds, rounded up, at least 1.
pub fn millis(micros: u64) -> u64 {
    micros.div_ceil(1_000).max(1)
}

/// The answer to a write that took `micros`.
pub fn write_json(outcome: &WriteOutcome, micros: u64) -> Json {
    let documents = outcome.upserted + outcome.patched + outcome.deleted;
    let mut messages = Vec::new();
    if outcome.filter_matched == Some(0) && documents == 0 {
        messages.push("filter matched 0 documents");
    } else if documents > 0 || !outcome.schema_updated {
        messages.push("documents committed successfully");
    }
    if outcome.schema_updated {
        messages.push("schema updated successfully");
    }
    let mut body = Map::new();
    body.insert("status".into(), "OK".into());
    body.insert("message".into(), messages.join(", ").into());
    body.insert("rows_affected".into(), documents.into());
    let counts = [("upserted", outcome.upserted), ("patched", outcome.patched), ("deleted", outcome.deleted)];
    for (verb, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
        body.insert(format!("rows_{verb}"), count.into());
    }
    if outcome.rows_remaining {
        body.insert("rows_remaining".into(), true.into());
    }
    let lists =
        [("upserted", &outcome.upserted_ids), ("patched", &outcome.patched_ids), ("deleted", &outcome.deleted_ids)];
    for (verb, ids) in lists.into_iter().filter(|(_, ids)| !ids.is_empty()) {
        body.insert(format!("{verb}_ids"), ids.iter().map(id_json).collect());
    }
    let mut billing = json!({"billable_logical_bytes_written": outcome.bytes_written});
    if let Some(queried) = outcome.bytes_queried {
        billing["query"] = json!({"billable_logical_bytes_queried": queried, "billable_logical_bytes_returned": 0});
    }
    body.insert("billing".into(), billing);
    body.insert("performance".into(), json!({"server_total_ms": millis(micros)}));
    Json::Object(body)
}

/// The `billing` block of a query's answer: true logical bytes.
pub fn billing_json(stats: &QueryStats) -> Json {
    json!({
        "billable_logical_bytes_queried": stats.bytes_queried,
        "billable_logical_bytes_returned": stats.bytes_returned,
    })
}

/// The `performance` block of a query's answer: true times.
pub fn performance_json(stats: &QueryStats, total_micros: u64) -> Json {
    let temperature = match stats.cache_hit_ratio {
        ratio if ratio >= 0.99 => "hot",
        ratio if ratio > 0.0 => "warm",
        _ => "cold",
    };
    json!({
        "approx_namespace_size": stats.documents,
        "cache_hit_ratio": stats.cache_hit_ratio,
        "cache_temperature": temperature,
        "exhaustive_search_count": stats.exhaustive,
        "query_execution_ms": millis(stats.execution_micros),
        "server_total_ms": millis(total_micros),
    })
}

#[cfg(test)]
mod tests {
    use super::{WriteOutcome, write_json};

    #[test]
    fn counts_of_zero_are_left_out() {
        let outcome = WriteOutcome { upserted: 2, bytes_written: 9, ..WriteOutcome::default() };
        let body = write_json(&outcome, 10);
        assert_eq!(body["rows_affected"], 2);
        assert_eq!(body["performance"]["server_total_ms"], 1);
        assert!(body.get("rows_patched").is_none());
    }
}
