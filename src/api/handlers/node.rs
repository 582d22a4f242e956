//! The node: whether it lives, what it holds, which namespaces there are.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value as Json, json};

use super::{Call, beside};
use crate::api::answer::Answer;
use crate::api::router::decode;
use crate::engine::damage::DamagedKind;
use crate::engine::setbacks::WARNINGS;
use crate::error::{Error, Result};
use crate::model::ids::Project;
use crate::ops::metrics::NodeFigures;
use crate::sync;

/// Names on one page of a listing, at most and when the request does not say.
const PAGE_SIZE_MAX: usize = 1_000;
const PAGE_SIZE_DEFAULT: usize = 100;

pub fn live() -> Answer {
    Answer::ok(&json!({"status": "ok"}))
}

pub fn ready(call: Call<'_>) -> Result<Answer> {
    // What cannot be written for now can be read: who takes the node away for a warning takes its answers, too.
    if call.server.engine.is_ready() {
        // Those to other namespaces than the damaged ones are answered, too.
        let engine = &call.server.engine;
        let (damaged, mut warnings) = (engine.damaged_files(), engine.warning_codes());
        warnings.extend(codes(&bucket_warnings(call, &warnings)));
        return Ok(Answer::ok(&json!({"status": "ok", "damaged": damaged, "warnings": warnings})));
    }
    Answer::json(503, &json!({"status": "stopping"}))
}

pub async fn metrics(call: Call<'_>) -> Result<Answer> {
    let status = beside(|| Ok(call.server.engine.node_status()))?;
    let metrics = &call.server.metrics;
    metrics.set_node(&figures(&status));
    let mut warned = codes(status["warnings"].as_array().map_or(&[], Vec::as_slice));
    warned.extend(codes(&bucket_warnings(call, &warned)));
    let all = WARNINGS.iter().chain(&sync::WARNINGS);
    metrics.set_warnings(all.map(|code| (*code, warned.iter().any(|warned| warned == code))));
    let sync = match &call.server.config.sync {
        Some(worker) => Some(worker.figures().await?),
        None => None,
    };
    metrics.text(sync.as_ref()).map(Answer::metrics)
}

/// What operators are to know of the bucket, beside what they are told of the node: nothing is told twice.
fn bucket_warnings(call: Call<'_>, told: &[impl AsRef<str>]) -> Vec<Json> {
    let Some(worker) = &call.server.config.sync else { return Vec::new() };
    let mut warnings = worker.status().warnings();
    warnings.retain(|warning| told.iter().all(|told| warning["code"] != told.as_ref()));
    warnings
}

fn codes(warnings: &[Json]) -> Vec<String> {
    warnings.iter().filter_map(|warning| Some(warning["code"].as_str()?.to_owned())).collect()
}

fn figures(status: &Json) -> NodeFigures {
    let number = |pointer: &str| status.pointer(pointer).and_then(Json::as_u64);
    let files = status.get("damaged").and_then(Json::as_array).map(Vec::as_slice).unwrap_or_default();
    let damaged = |kind: &str| files.iter().filter(|file| file["kind"] == kind).count() as u64;
    NodeFigures {
        namespaces: number("/namespaces/total").unwrap_or(0),
        namespaces_quarantined: status
            .pointer("/namespaces/quarantined")
            .and_then(Json::as_array)
            .map_or(0, |list| list.len() as u64),
        damaged_files: DamagedKind::ALL.map(|kind| (kind.as_str(), damaged(kind.as_str()))).into(),
        objects: number("/objects/total").unwrap_or(0),
        object_bytes: number("/objects/bytes").unwrap_or(0),
        tail_bytes: number("/tails_bytes").unwrap_or(0),
        tier_bytes: number("/tier/bytes").unwrap_or(0),
        tier_bytes_read: number("/tier/bytes_read").unwrap_or(0),
        conflicts_let_go: number("/conflicts_let_go").unwrap_or(0),
        disk_free_bytes: number("/disk_free_bytes"),
        ready: status.get("ready").and_then(Json::as_bool).unwrap_or(false),
    }
}

pub async fn status(call: Call<'_>) -> Result<Answer> {
    let mut status = beside(|| Ok(call.server.engine.node_status()))?;
    if let Some(warnings) = status["warnings"].as_array_mut() {
        let told = codes(warnings);
        warnings.extend(bucket_warnings(call, &told));
    }
    status["sync"] = match &call.server.config.sync {
        Some(worker) => worker.show_node().await?,
        None => Json::Null,
    };
    Ok(Answer::ok(&status))
}

/// One page of a project's namespaces, in order of their names.
pub fn list(call: Call<'_>, project: &Project) -> Result<Answer> {
    let page = Page::parse(call.head.uri.query().unwrap_or(""))?;
    let (names, next) = beside(|| call.server.engine.list(project, &page.prefix, page.cursor.as_deref(), page.size))?;
    let namespaces: Vec<Json> = names.into_iter().map(|name| json!({ "id": name })).collect();
    let next = next.map(|name| URL_SAFE_NO_PAD.encode(name));
    Ok(Answer::ok(&json!({"namespaces": namespaces, "next_cursor": next})))
}

/// Which page of a listing is asked for.
#[derive(Debug, PartialEq)]
struct Page {
    prefix: String,
    /// The last name of the page before.
    cursor: Option<String>,
    size: usize,
}

impl Page {
    /// Reads a query string; parameters that are not known are ignored.
    fn parse(query: &str) -> Result<Self> {
        let mut page = Page { prefix: String::new(), cursor: None, size: PAGE_SIZE_DEFAULT };
        for pair in query.split('&') {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if !matches!(key, "prefix" | "cursor" | "page_size") {
                continue;
            }
            let value = decode(value).map_err(|_| Error::invalid(format!("{key}: percent-encoding is malformed")))?;
            match key {
                "prefix" => page.prefix = value,
                "cursor" if value.is_empty() => page.cursor = None,
                "cursor" => {
                    let name = URL_SAFE_NO_PAD.decode(&value).ok().and_then(|name| String::from_utf8(name).ok());
                    page.cursor = Some(name.ok_or_else(|| {
                        Error::invalid(format!("cursor {value:?} is none that this server gave out"))
                    })?);
                }
                _ => {
                    page.size = value.parse().ok().filter(|n| (1..=PAGE_SIZE_MAX).contains(n)).ok_or_else(|| {
                        Error::invalid(format!("page_size must be between 1 and {PAGE_SIZE_MAX}, got {value:?}"))
                    })?;
                }
            }
        }
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;

    use super::{Page, URL_SAFE_NO_PAD};

    #[test]
    fn pages_are_bounded_and_other_parameters_ignored() {
        let page = Page::parse("stainless_overload=x&prefix=a%2Db&page_size=7").unwrap();
        assert_eq!(page, Page { prefix: "a-b".into(), cursor: None, size: 7 });
        assert_eq!(Page::parse("").unwrap().size, 100);
        for bad in ["page_size=0", "page_size=1001", "page_size=-1", "page_size=x", "cursor=%21", "prefix=%zz"] {
            assert!(Page::parse(bad).is_err(), "{bad}");
        }
        let cursor = URL_SAFE_NO_PAD.encode("docs");
        assert_eq!(Page::parse(&format!("cursor={cursor}")).unwrap().cursor.as_deref(), Some("docs"));
    }
}
