//! Query, multi-query and recall requests from JSON.

use serde_json::{Map, Value as Json};

use super::as_of::parse_as_of;
use super::compute::parse_compute;
use super::filter::parse_filter;
use super::rank::parse_rank;
use super::shape::{boolean, map, number, sequence, string, strings, take, unexpected, unsigned, variant, wrong};
use super::unknown::ignored;
use super::write::METRICS;
use crate::error::{Error, Result};
use crate::model::as_of::AsOf;
use crate::model::query::{
    Aggregate, Direction, Fusion, GroupKey, Per, Projection, Query, QueryRequest, Rank, Recall, RecallRequest,
};

/// The most rows or groups of one answer, and the furthest row that `offset` reaches.
pub const LIMIT_MAX: u32 = 10_000;
/// The most queries of one request.
pub const QUERIES_MAX: usize = 16;

/// How vectors are written in answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum VectorEncoding {
    #[default]
    Float,
    Base64,
}

/// A query body: what to ask the engine, and how to write the answer.
#[derive(Clone, Debug)]
pub struct QueryBody {
    pub request: QueryRequest,
    pub encoding: VectorEncoding,
    /// The body had `queries`, so the answer has `results`.
    pub multi: bool,
    /// The state that is asked; the newest one when `None`.
    pub as_of: Option<AsOf>,
    /// The caller takes an older state, and is told how old it may be.
    pub is_eventual: bool,
    /// What is said of keys that mean nothing.
    pub ignored: Vec<String>,
}

/// The keys of one query.
const QUERY_KEYS: [&str; 13] = [
    "rank_by",
    "limit",
    "top_k",
    "offset",
    "filters",
    "include_attributes",
    "exclude_attributes",
    "compute_attributes",
    "aggregate_by",
    "group_by",
    "distance_metric",
    "recall",
    "rerank_by",
];
/// The keys beside it, or beside several.
const BODY_KEYS: [&str; 5] = ["queries", "consistency", "vector_encoding", "as_of", "rerank_by"];

/// Reads a query or multi-query body.
pub fn parse_query(json: Json) -> Result<QueryBody> {
    let mut body = map("", json, "struct QueryRequest")?;
    let is_eventual = parse_consistency(&mut body)?;
    let encodings = [("float", VectorEncoding::Float), ("base64", VectorEncoding::Base64)];
    let encoding = take(&mut body, "vector_encoding")
        .map(|json| variant("vector_encoding", &json, &encodings))
        .transpose()?
        .unwrap_or_default();
    let as_of = take(&mut body, "as_of").map(|json| parse_as_of("as_of", json)).transpose()?;
    let Some(queries) = take(&mut body, "queries") else {
        if let Some(rerank) = take(&mut body, "rerank_by") {
            return Err(match rerank.get(0).and_then(Json::as_str) {
                Some("RRF") => Error::invalid("rerank_by: RRF fuses the rankings of `queries`, which are not given")
                    .with_hint("put each ranking into `queries`, beside rerank_by"),
                _ => refuse_rerank(),
            });
        }
        let query = parse_one("", &mut body)?;
        let request = QueryRequest { queries: vec![query], fusion: None };
        let ignored = ignored("", &body, &[&QUERY_KEYS[..], &BODY_KEYS[..]].concat());
        return Ok(QueryBody { request, encoding, multi: false, as_of, is_eventual, ignored });
    };
    let queries = sequence("queries", queries)?;
    if queries.is_empty() || queries.len() > QUERIES_MAX {
        return Err(Error::invalid(format!("queries: expected 1 to {QUERIES_MAX} queries, got {}", queries.len())));
    }
    let mut unknown = Vec::new();
    let queries = queries
        .into_iter()
        .enumerate()
        .map(|(at, json)| {
            let path = format!("queries[{at}]");
            let mut query = map(&path, json, "struct Query")?;
            let parsed = parse_one(&format!("{path}."), &mut query)?;
            unknown.extend(ignored(&format!("{path}."), &query, &QUERY_KEYS));
            Ok(parsed)
        })
        .collect::<Result<Vec<_>>>()?;
    let fusion = parse_fusion(&mut body, queries.len())?;
    for key in [
        "rank_by",
        "top_k",
        "filters",
        "include_attributes",
        "exclude_attributes",
        "compute_attributes",
        "aggregate_by",
        "group_by",
    ] {
        if take(&mut body, key).is_some() {
            return Err(Error::invalid(format!("{key} cannot be beside queries, put it into each query")));
        }
    }
    // Beside `queries` these say how many rows their fusion gives.
    for key in ["limit", "offset"] {
        body.remove(key);
    }
    unknown.extend(ignored("", &body, &BODY_KEYS));
    let request = QueryRequest { queries, fusion };
    Ok(QueryBody { request, encoding, multi: true, as_of, is_eventual, ignored: unknown })
}

/// Reads the body of `_debug/recall`.
pub fn parse_recall(json: Json) -> Result<RecallRequest> {
    let mut body = map("", json, "struct RecallRequest")?;
    let rank_by = take(&mut body, "rank_by").map(|json| parse_rank("rank_by", json, &mut 0)).transpose()?;
    let num = take(&mut body, "num").map(|json| unsigned("num", &json)).transpose()?;
    let top_k = take(&mut body, "top_k").map(|json| unsigned("top_k", &json)).transpose()?.unwrap_or(10);
    let num = num.unwrap_or(if rank_by.is_some() { 1 } else { 25 });
    if !(1..=1_000).contains(&num) || !(1..=LIMIT_MAX).contains(&top_k) {
        return Err(Error::invalid(format!("recall: num must be 1 to 1000 and top_k 1 to {LIMIT_MAX}")));
    }
    Ok(RecallRequest {
        num,
        top_k,
        filter: take(&mut body, "filters").map(|json| parse_filter("filters", json)).transpose()?,
        include_ground_truth: take(&mut body, "include_ground_truth")
            .map(|json| boolean("include_ground_truth", &json))
            .transpose()?
            .unwrap_or(false),
        rank_by,
        recall: parse_recall_wanted("recall", &mut body)?,
    })
}

fn refuse_rerank() -> Error {
    Error::unsupported("rerank_by with a model is not offered: this daemon runs no models")
        .with_hint("use [\"RRF\"] over `queries`, or rerank in the application")
}

/// Both levels are answered from the newest state that is here. Whether the level is `eventual`.
fn parse_consistency(body: &mut Map<String, Json>) -> Result<bool> {
    let Some(json) = take(body, "consistency") else { return Ok(false) };
    let mut consistency = match json {
        Json::Object(map) => map,
        other => {
            let got = unexpected(&other);
            return Err(wrong("consistency", format!("invalid type: {got}, expected struct Consistency")));
        }
    };
    let level = take(&mut consistency, "level").ok_or_else(|| wrong("consistency", "missing field `level`"))?;
    variant("consistency.level", &level, &[("strong", false), ("eventual", true)])
}

fn parse_one(path: &str, body: &mut Map<String, Json>) -> Result<Query> {
    let at = |key: &str| format!("{path}{key}");
    let rank_by = take(body, "rank_by").map(|json| parse_rank(&at("rank_by"), json, &mut 0)).transpose()?;
    let compute = take(body, "compute_attributes").map(|json| parse_compute(&at("compute_attributes"), json));
    let compute = compute.transpose()?.unwrap_or_default();
    let (limit, per) = parse_limit(&at("limit"), body)?;
    let offset = take(body, "offset").map(|json| unsigned(&at("offset"), &json)).transpose()?.unwrap_or(0);
    let aggregate_by = parse_aggregates(&at("aggregate_by"), body)?;
    let group_by = parse_groups(&at("group_by"), body)?;
    if rank_by.is_some() && !aggregate_by.is_empty() {
        return Err(Error::invalid("💔 cannot specify both rank_by and aggregate_by"));
    }
    if !compute.is_empty() && !aggregate_by.is_empty() {
        return Err(Error::invalid("💔 cannot specify both compute_attributes and aggregate_by"));
    }
    if !group_by.is_empty() && aggregate_by.is_empty() {
        return Err(Error::invalid("💔 group_by requires aggregate_by"));
    }
    let rank_by = match rank_by {
        None if aggregate_by.is_empty() => Some(Rank::Attributes(vec![("id".into(), Direction::Asc)])),
        other => other,
    };
    if rank_by.is_some() && limit.is_none() {
        return Err(Error::invalid("💔 rank_by queries must specify top_k or limit"));
    }
    if limit.unwrap_or(0).saturating_add(offset) > LIMIT_MAX {
        return Err(Error::invalid(format!("💔 offset + limit must be at most {LIMIT_MAX}")));
    }
    Ok(Query {
        rank_by,
        limit,
        per,
        offset,
        filter: take(body, "filters").map(|json| parse_filter(&at("filters"), json)).transpose()?,
        projection: parse_projection(path, body)?,
        compute,
        aggregate_by,
        group_by,
        metric: take(body, "distance_metric")
            .map(|json| variant(&at("distance_metric"), &json, &METRICS))
            .transpose()?,
        recall: parse_recall_wanted(&at("recall"), body)?,
    })
}

fn parse_recall_wanted(path: &str, body: &mut Map<String, Json>) -> Result<Option<Recall>> {
    let wanted = take(body, "recall").map(serde_json::from_value).transpose();
    wanted.map_err(|_| wrong(path, "expected a number from 0.5 to 1, or \"exact\""))
}

fn parse_limit(path: &str, body: &mut Map<String, Json>) -> Result<(Option<u32>, Option<Per>)> {
    let mut per = None;
    let limit = match (take(body, "limit"), take(body, "top_k")) {
        (Some(Json::Object(mut limit)), _) => {
            let total = take(&mut limit, "total").ok_or_else(|| wrong(path, "missing field `total`"))?;
            if let Some(json) = take(&mut limit, "per") {
                let path = format!("{path}.per");
                let mut config = map(&path, json, "struct LimitPer")?;
                let attributes = take(&mut config, "attributes").unwrap_or(Json::Null);
                let limit = take(&mut config, "limit").ok_or_else(|| wrong(&path, "missing field `limit`"))?;
                per = Some(Per { attributes: strings(&path, attributes)?, limit: unsigned(&path, &limit)? });
            }
            Some(total)
        }
        (Some(limit), _) => Some(limit),
        (None, top_k) => top_k,
    };
    let limit = limit.map(|json| unsigned(path, &json)).transpose()?;
    if limit.is_some_and(|limit| !(1..=LIMIT_MAX).contains(&limit)) {
        return Err(Error::invalid(format!("💔 top_k must be between 1 and {LIMIT_MAX}")));
    }
    Ok((limit, per))
}

/// The attributes that are asked for; none where nothing says so.
pub fn parse_projection(path: &str, body: &mut Map<String, Json>) -> Result<Projection> {
    let include = take(body, "include_attributes");
    let exclude = take(body, "exclude_attributes");
    match (include, exclude) {
        (Some(_), Some(_)) => Err(Error::invalid("💔 cannot specify both include_attributes and exclude_attributes")),
        (Some(Json::Bool(all)), None) => Ok(if all { Projection::All } else { Projection::None }),
        (Some(json), None) => strings(&format!("{path}include_attributes"), json).map(Projection::Include),
        (None, Some(json)) => strings(&format!("{path}exclude_attributes"), json).map(Projection::Exclude),
        (None, None) => Ok(Projection::None),
    }
}

fn parse_aggregates(path: &str, body: &mut Map<String, Json>) -> Result<Vec<(String, Aggregate)>> {
    let Some(json) = take(body, "aggregate_by") else { return Ok(Vec::new()) };
    map(path, json, "a map")?
        .into_iter()
        .map(|(label, json)| {
            let words: Option<Vec<&str>> = json.as_array().and_then(|a| a.iter().map(Json::as_str).collect());
            match words.as_deref() {
                Some(["Count"] | ["Count", "id"]) => Ok((label, Aggregate::Count)),
                Some(["Sum", attribute]) => Ok((label, Aggregate::Sum((*attribute).to_owned()))),
                _ => Err(wrong(
                    &format!("{path}.{label}"),
                    "data did not match any variant of untagged enum AggregateBy",
                )),
            }
        })
        .collect()
}

fn parse_groups(path: &str, body: &mut Map<String, Json>) -> Result<Vec<GroupKey>> {
    let Some(json) = take(body, "group_by") else { return Ok(Vec::new()) };
    let mismatch = || wrong(path, "data did not match any variant of untagged enum GroupBy");
    let mut keys = Vec::new();
    for json in sequence(path, json)? {
        match json {
            Json::String(attribute) => keys.push(GroupKey::Attribute(attribute)),
            Json::Object(labels) => {
                for (label, json) in labels {
                    let mut pair = sequence(path, json)?;
                    let (Some(attribute), Some(op), None) = (pair.pop(), pair.pop(), pair.pop()) else {
                        return Err(mismatch());
                    };
                    if op.as_str() != Some("ForEachUnique") {
                        return Err(mismatch());
                    }
                    keys.push(GroupKey::ForEachUnique { label, attribute: string(path, attribute)? });
                }
            }
            _ => return Err(mismatch()),
        }
    }
    Ok(keys)
}

fn parse_fusion(body: &mut Map<String, Json>, queries: usize) -> Result<Option<Fusion>> {
    let path = "rerank_by";
    let (limit, _) = parse_limit("limit", body)?;
    let offset = take(body, "offset").map(|json| unsigned("offset", &json)).transpose()?.unwrap_or(0);
    let Some(json) = take(body, path) else { return Ok(None) };
    if json.is_object() {
        return Err(refuse_rerank());
    }
    let items = sequence(path, json)?;
    if items.first().and_then(Json::as_str) != Some("RRF") || items.len() > 2 {
        return Err(wrong(path, "data did not match any variant of untagged enum RerankBy"));
    }
    let options = items.get(1);
    let rank_constant = options.and_then(|o| o.get("rank_constant")).map(|json| number(path, json)).transpose()?;
    let rank_constant = rank_constant.unwrap_or(60.0);
    let weights = match options.and_then(|o| o.get("weights")).filter(|json| !json.is_null()) {
        Some(json) => sequence(path, json.clone())?.iter().map(|w| number(path, w)).collect::<Result<Vec<_>>>()?,
        None => Vec::new(),
    };
    if !(rank_constant.is_finite() && rank_constant > 0.0) || weights.iter().any(|w| !(w.is_finite() && *w >= 0.0)) {
        return Err(Error::invalid("rerank_by: rank_constant must be positive and weights not negative"));
    }
    if !weights.is_empty() && weights.len() != queries {
        return Err(Error::invalid(format!("rerank_by: {} weights for {queries} queries", weights.len())));
    }
    Ok(Some(Fusion { rank_constant, weights, limit, offset }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{Rank, VectorEncoding, parse_query};

    fn error(body: serde_json::Value) -> String {
        parse_query(body).unwrap_err().to_string()
    }

    #[test]
    fn shapes_are_refused_in_the_contracts_words() {
        let query = json!({"rank_by": ["id", "asc"], "top_k": 1, "consistency": "eventual"});
        assert!(error(query).contains("invalid type: string \"eventual\", expected struct Consistency"));
        let query = json!({"rank_by": ["id", "asc"], "top_k": 1, "consistency": {"level": "nonexistentvalue"}});
        assert!(error(query).contains("unknown variant `nonexistentvalue`, expected `strong` or `eventual`"));
        assert_eq!(error(json!({"rank_by": [], "top_k": 1})), "💔 rank_by cannot be empty");
        assert!(error(json!({"rank_by": ["id", "asc"]})).contains("must specify top_k or limit"));
        assert!(error(json!({"rank_by": ["id", "asc"], "top_k": 0})).contains("between 1 and 10000"));
    }

    #[test]
    fn every_offered_rank_is_read() {
        for rank in [
            json!(["vector", "ANN", [0.1, 0.2]]),
            json!(["text", "BM25", "fish", {"last_as_prefix": true}]),
            json!(["Sum", [["text", "BM25", "fish"], ["Product", 2, ["tag", "Eq", "x"]]]]),
            json!(["Max", [0, ["Attribute", "n"]]]),
            json!(["Decay", ["Dist", ["Attribute", "t"], "2026-01-01"], {"midpoint": "1.5w", "exponent": 2}]),
            json!(["Saturate", ["text", "BM25", "fish"], {"midpoint": 3}]),
            json!([["a", "asc"], ["id", "desc"]]),
        ] {
            assert!(parse_query(json!({"rank_by": rank, "top_k": 3})).is_ok(), "{rank}");
        }
        assert!(error(json!({"rank_by": ["v", "ANN", ["Embed", "text"]], "top_k": 3})).contains("Embed"));
    }

    #[test]
    fn a_query_without_rank_is_ordered_by_id() {
        let body = parse_query(json!({"limit": 3, "vector_encoding": "base64"})).unwrap();
        assert!(matches!(body.request.queries[0].rank_by, Some(Rank::Attributes(_))));
        assert_eq!(body.encoding, VectorEncoding::Base64);
    }
}
