//! Write requests from JSON.

use std::sync::Arc;

use serde_json::{Map, Value as Json};

use super::as_of::{parse_as_of, parse_ttl};
use super::filter::parse_filter;
use super::rows::{self, Names, Parts, is_id};
use super::shape::{self, boolean, map, sequence, string, take, variant, wrong};
use super::unknown::ignored;
use crate::engine::lineage::BranchRequest;
use crate::error::{Error, Result};
use crate::model::schema::Metric;
use crate::model::write::{ByFilter, PatchByFilter, Row, SchemaUpdate, WriteRequest};

/// The names of the distance metrics.
pub const METRICS: [(&str, Metric); 3] = [
    ("cosine_distance", Metric::CosineDistance),
    ("euclidean_squared", Metric::EuclideanSquared),
    ("dot_product", Metric::DotProduct),
];

/// The keys of a write's body.
const WRITE_KEYS: [&str; 18] = [
    "upsert_rows",
    "upsert_columns",
    "patch_rows",
    "patch_columns",
    "deletes",
    "upsert_condition",
    "patch_condition",
    "delete_condition",
    "delete_by_filter",
    "delete_by_filter_allow_partial",
    "patch_by_filter",
    "patch_by_filter_allow_partial",
    "return_affected_ids",
    "disable_backpressure",
    "create_namespace",
    "distance_metric",
    "schema",
    "encryption",
];

/// What a write body asks for: documents and schema, or a whole namespace from another.
#[derive(Clone, Debug)]
pub enum WriteBody {
    Write(Box<WriteRequest>),
    /// The source namespace's name, and what is said of keys that were ignored.
    Copy(String, Vec<String>),
    /// The parent's name, and the same.
    Branch(String, BranchRequest, Vec<String>),
}

/// Reads a write body from its bytes.
pub fn parse_write_bytes(body: &[u8]) -> Result<WriteBody> {
    match rows::parse(body) {
        Some(parts) => from_parts(parts),
        None => parse_write(shape::parse(body)?),
    }
}

/// Reads a write body.
pub fn parse_write(json: Json) -> Result<WriteBody> {
    let mut parts = Parts { rest: map("", json, "struct WriteRequest")?, ..Parts::default() };
    parts.upserts = plain_rows(&mut parts.rest, "upsert_rows", &mut parts.names)?;
    parts.patches = plain_rows(&mut parts.rest, "patch_rows", &mut parts.names)?;
    from_parts(parts)
}

fn from_parts(parts: Parts) -> Result<WriteBody> {
    let Parts { mut upserts, mut patches, rest: mut body, mut names } = parts;
    refuse_unsupported(&mut body)?;
    if let Some(source) = take(&mut body, "branch_from_namespace") {
        let (source, request, ignored) = branch_source(source)?;
        if !upserts.is_empty() || !patches.is_empty() || body.values().any(|json| !json.is_null()) {
            return Err(Error::invalid("💔 branch_from_namespace cannot be used with other write request fields"));
        }
        return Ok(WriteBody::Branch(source, request, ignored));
    }
    if let Some(source) = take(&mut body, "copy_from_namespace") {
        let (source, ignored) = copy_source(source)?;
        if !upserts.is_empty() || !patches.is_empty() || body.values().any(|json| !json.is_null()) {
            return Err(Error::invalid("💔 copy_from_namespace cannot be used with other write request fields"));
        }
        return Ok(WriteBody::Copy(source, ignored));
    }
    if let Some(json) = take(&mut body, "upsert_columns") {
        columns("upsert_columns", json, &mut names, &mut upserts)?;
    }
    if let Some(json) = take(&mut body, "patch_columns") {
        columns("patch_columns", json, &mut names, &mut patches)?;
    }
    let mut request = WriteRequest { upserts, patches, deletes: deletes(&mut body)?, ..WriteRequest::default() };
    let mut condition = |key: &str| take(&mut body, key).map(|json| parse_filter(key, json)).transpose();
    request.upsert_condition = condition("upsert_condition")?;
    request.patch_condition = condition("patch_condition")?;
    request.delete_condition = condition("delete_condition")?;
    let delete_filter = condition("delete_by_filter")?;
    let allow_partial = flag(&mut body, "delete_by_filter_allow_partial")?.unwrap_or(false);
    request.delete_by_filter = delete_filter.map(|filter| ByFilter { filter, allow_partial });
    let allow_partial = flag(&mut body, "patch_by_filter_allow_partial")?.unwrap_or(false);
    let mut inside = Vec::new();
    if let Some(json) = take(&mut body, "patch_by_filter") {
        let (patch, ignored) = patch_by_filter(json, allow_partial, &mut names)?;
        (request.patch_by_filter, inside) = (Some(patch), ignored);
    }
    request.return_affected_ids = flag(&mut body, "return_affected_ids")?.unwrap_or(false);
    request.disable_backpressure = flag(&mut body, "disable_backpressure")?.unwrap_or(false);
    request.create_namespace = flag(&mut body, "create_namespace")?;
    request.metric =
        take(&mut body, "distance_metric").map(|json| variant("distance_metric", &json, &METRICS)).transpose()?;
    request.schema = take(&mut body, "schema").map(|json| parse_schema("schema", json)).transpose()?;
    check_complete(&request)?;
    request.ignored = ignored("", &body, &WRITE_KEYS);
    request.ignored.extend(inside);
    Ok(WriteBody::Write(Box::new(request)))
}

/// Reads a bare schema map.
pub fn parse_schema(path: &str, json: Json) -> Result<SchemaUpdate> {
    let attributes = map(path, json, "a map")?;
    for (name, config) in &attributes {
        if !config.is_string() && !config.is_object() {
            let at = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            return Err(wrong(&at, "data did not match any variant of untagged enum AttributeSchema"));
        }
    }
    Ok(SchemaUpdate { attributes: attributes.into_iter().collect() })
}

fn refuse_unsupported(body: &mut Map<String, Json>) -> Result<()> {
    if let Some(encryption) = take(body, "encryption") {
        check_encryption(&encryption)?;
    }
    if take(body, "sharding").is_some() {
        return Err(Error::unsupported("sharding is not offered: a namespace lives whole on its node")
            .with_hint("leave out `sharding`"));
    }
    Ok(())
}

/// Accepts the default mode; refuses customer-managed keys.
fn check_encryption(encryption: &Json) -> Result<()> {
    if encryption.get("mode").and_then(Json::as_str) == Some("default") {
        return Ok(());
    }
    let key = encryption.get("key_name").or_else(|| encryption.pointer("/cmek/key_name")).and_then(Json::as_str);
    let Some(key) = key else {
        return Err(Error::invalid("encryption: expected {\"mode\":\"default\"}"));
    };
    if !key.starts_with("projects/") && !key.starts_with("arn:") {
        return Err(Error::invalid(format!("Malformed Cloud KMS crypto key: {key}")));
    }
    Err(Error::unsupported("encryption with customer-managed keys is not offered")
        .with_hint("leave out `encryption`, and encrypt the data directory's file system"))
}

/// The parent, what is ours beside the contract: `as_of` and `ttl`, and what is said of other keys.
fn branch_source(json: Json) -> Result<(String, BranchRequest, Vec<String>)> {
    let path = "branch_from_namespace";
    let mut config = match json {
        Json::String(source) => return Ok((source, BranchRequest::default(), Vec::new())),
        other => map(path, other, "a string or a map")?,
    };
    let as_of =
        take(&mut config, "as_of").map(|json| parse_as_of("branch_from_namespace.as_of", json)).transpose()?;
    let ttl_ms = take(&mut config, "ttl").map(|json| parse_ttl("branch_from_namespace.ttl", &json)).transpose()?;
    match take(&mut config, "source_namespace") {
        Some(source) => {
            let source = string("branch_from_namespace.source_namespace", source)?;
            let ignored = ignored("branch_from_namespace.", &config, &["source_namespace", "as_of", "ttl"]);
            Ok((source, BranchRequest { as_of, ttl_ms }, ignored))
        }
        None => Err(wrong(path, "missing field `source_namespace`")),
    }
}

/// The source, and what is said of keys that mean nothing.
fn copy_source(json: Json) -> Result<(String, Vec<String>)> {
    let path = "copy_from_namespace";
    let mut config = match json {
        Json::String(source) => return Ok((source, Vec::new())),
        other => map(path, other, "a string or a map")?,
    };
    if take(&mut config, "source_region").is_some() {
        return Err(Error::unsupported("cross-region copy_from_namespace is not offered")
            .with_hint("leave out `source_region`; the source must be on this node"));
    }
    if let Some(encryption) = take(&mut config, "dest_encryption") {
        check_encryption(&encryption)?;
    }
    match take(&mut config, "source_namespace") {
        Some(source) => {
            let source = string("copy_from_namespace.source_namespace", source)?;
            let known = ["source_namespace", "source_region", "dest_encryption"];
            Ok((source, ignored("copy_from_namespace.", &config, &known)))
        }
        None => Err(wrong(path, "missing field `source_namespace`")),
    }
}

fn flag(body: &mut Map<String, Json>, key: &str) -> Result<Option<bool>> {
    take(body, key).map(|json| boolean(key, &json)).transpose()
}

/// The rows under a key, each with its `id`.
fn plain_rows(body: &mut Map<String, Json>, key: &str, names: &mut Names) -> Result<Vec<Row>> {
    let Some(json) = take(body, key) else { return Ok(Vec::new()) };
    let mut rows = Vec::new();
    for (at, json) in sequence(key, json)?.into_iter().enumerate() {
        let path = || format!("{key}[{at}]");
        let mut fields = map_at(path, json)?;
        let Some(id) = fields.remove("id") else { return Err(wrong(&path(), "missing field `id`")) };
        check_id(|| format!("{}.id", path()), &id)?;
        let fields = fields.into_iter().map(|(name, value)| (names.intern(&name), value)).collect();
        rows.push(Row { id, fields });
    }
    Ok(rows)
}

/// As [`map`], with a path that is made only when it is needed.
fn map_at(path: impl Fn() -> String, json: Json) -> Result<Map<String, Json>> {
    match json {
        Json::Object(map) => Ok(map),
        other => map(&path(), other, "a map"),
    }
}

fn columns(path: &str, json: Json, names: &mut Names, rows: &mut Vec<Row>) -> Result<()> {
    let mut columns = map(path, json, "a map")?;
    let ids = columns.remove("id").ok_or_else(|| wrong(path, "missing field `id`"))?;
    let ids = sequence(&format!("{path}.id"), ids)?;
    let count = ids.len();
    // Counted before rows get room for so many columns: a body of many ids and of many empty columns is small.
    let mut taken: Vec<(Arc<str>, Vec<Json>)> = Vec::with_capacity(columns.len());
    for (name, values) in columns {
        let values = sequence(&format!("{path}.{name}"), values)?;
        if values.len() != count {
            return Err(Error::invalid(format!(
                "{path}.{name}: has {} values, expected {count} as `id` has",
                values.len()
            )));
        }
        taken.push((names.intern(&name), values));
    }
    let first = rows.len();
    for (at, id) in ids.into_iter().enumerate() {
        check_id(|| format!("{path}.id[{at}]"), &id)?;
        rows.push(Row { id, fields: Vec::with_capacity(taken.len()) });
    }
    for (name, values) in taken {
        for (row, value) in rows[first..].iter_mut().zip(values) {
            row.fields.push((Arc::clone(&name), value));
        }
    }
    Ok(())
}

fn check_id(path: impl Fn() -> String, id: &Json) -> Result<()> {
    if is_id(id) { Ok(()) } else { Err(wrong(&path(), "data did not match any variant of untagged enum Id")) }
}

fn deletes(body: &mut Map<String, Json>) -> Result<Vec<Json>> {
    let mismatch = || wrong("deletes", "data did not match any variant of untagged enum IdVec");
    match take(body, "deletes") {
        None => Ok(Vec::new()),
        Some(Json::Array(ids)) => {
            for id in &ids {
                check_id(|| "deletes".into(), id).map_err(|_| mismatch())?;
            }
            Ok(ids)
        }
        Some(_) => Err(mismatch()),
    }
}

/// The patch, and what is said of keys that mean nothing.
fn patch_by_filter(json: Json, allow_partial: bool, names: &mut Names) -> Result<(PatchByFilter, Vec<String>)> {
    let path = "patch_by_filter";
    let mut config = map(path, json, "struct PatchByFilter")?;
    let filter = config.remove("filters").ok_or_else(|| wrong(path, "missing field `filters`"))?;
    let patch = config.remove("patch").ok_or_else(|| wrong(path, "missing field `patch`"))?;
    let fields = map("patch_by_filter.patch", patch, "a map")?;
    let fields = fields.into_iter().map(|(name, value)| (names.intern(&name), value)).collect();
    let filter = parse_filter("patch_by_filter.filters", filter)?;
    let ignored = ignored("patch_by_filter.", &config, &["filters", "patch"]);
    Ok((PatchByFilter { by: ByFilter { filter, allow_partial }, fields }, ignored))
}

fn check_complete(request: &WriteRequest) -> Result<()> {
    for (condition, empty, verb) in [
        (&request.upsert_condition, request.upserts.is_empty(), "upsert"),
        (&request.patch_condition, request.patches.is_empty(), "patch"),
        (&request.delete_condition, request.deletes.is_empty(), "delete"),
    ] {
        if condition.is_some() && empty {
            return Err(Error::invalid(format!(
                "💔 cannot set {verb}_condition without corresponding {verb} writes"
            )));
        }
    }
    let writes = !request.upserts.is_empty()
        || !request.patches.is_empty()
        || !request.deletes.is_empty()
        || request.delete_by_filter.is_some()
        || request.patch_by_filter.is_some()
        || request.schema.is_some()
        || request.create_namespace == Some(true);
    if writes { Ok(()) } else { Err(Error::invalid("💔 no writes provided")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{WriteBody, parse_write, parse_write_bytes};

    fn error(body: serde_json::Value) -> String {
        parse_write(body).unwrap_err().to_string()
    }

    #[test]
    fn shapes_are_refused_in_the_contracts_words() {
        assert!(error(json!({"upsert_rows": {"id": 1}})).contains("invalid type: map, expected a sequence"));
        assert!(error(json!({"upsert_rows": [{"a": 1}]})).contains("upsert_rows[0]: missing field `id`"));
        assert!(error(json!({"upsert_rows": [{"id": true}]})).contains("upsert_rows[0].id: data did not match"));
        assert!(
            error(json!({"deletes": 7})).contains("deletes: data did not match any variant of untagged enum IdVec")
        );
        assert_eq!(error(json!({"upsert_rows": []})), "💔 no writes provided");
        let cmek = json!({"deletes": [1], "encryption": {"mode": "customer-managed", "key_name": "mykey"}});
        assert_eq!(error(cmek), "Malformed Cloud KMS crypto key: mykey");
    }

    #[test]
    fn columns_become_rows() {
        let body = json!({"upsert_columns": {"id": [1, 2], "a": ["x", null]}});
        let WriteBody::Write(request) = parse_write(body).unwrap() else { panic!("expected a write") };
        assert_eq!(request.upserts.len(), 2);
        assert_eq!(request.upserts[0].fields[0].1, json!("x"));
    }

    #[test]
    fn the_quick_way_and_the_careful_way_agree() {
        for body in [
            r#"{"upsert_rows":[{"id":1,"a":"x","b":[1,2.5]},{"a":null,"id":"s"}],"patch_rows":[{"id":2,"c":{"t":1}}]}"#,
            r#"{"upsert_rows":null,"patch_rows":[],"deletes":[1]}"#,
            r#"{"upsert_rows":[{"id":1,"a":1,"a":2}]}"#,
            r#"{"upsert_rows":[{"id":1}],"upsert_rows":[{"id":2}]}"#,
            r#"{"upsert_rows":[{"id":1.5}]}"#,
            r#"{"upsert_rows":[{"a":1}]}"#,
            r#"{"upsert_rows":[3]}"#,
            r#"{"upsert_rows":{"id":1}}"#,
            r#"{"upsert_rows":[{"id":1}],"distance_metric":"no"}"#,
            r#"{"upsert_rows":[{"id":1}],"copy_from_namespace":"a"}"#,
            r#"{"upsert_rows":[{"id":1,"a":"\u00e9\ud83d\ude00","\u0062":1e3}]}"#,
            r#"[]"#,
        ] {
            let sorted = |mut request: crate::model::write::WriteRequest| {
                for row in request.upserts.iter_mut().chain(&mut request.patches) {
                    row.fields.sort_by(|a, b| a.0.cmp(&b.0));
                }
                format!("{request:?}")
            };
            let text = |result: crate::error::Result<WriteBody>| match result {
                Ok(WriteBody::Write(request)) => sorted(*request),
                other => format!("{other:?}"),
            };
            let careful = text(parse_write(serde_json::from_str(body).unwrap()));
            assert_eq!(text(parse_write_bytes(body.as_bytes())), careful, "{body}");
        }
    }

    #[test]
    fn what_is_not_json_is_said_in_the_contracts_words() {
        for body in [
            "",
            "{",
            "{\"upsert_rows\":[{\"id\":1}]",
            "{\"upsert_rows\":[{\"id\":1}]} x",
            "{\"deletes\":[NaN]}",
            "{\"upsert_rows\":[{\"id\":1,\"a\":1e999}]}",
        ] {
            let error = parse_write_bytes(body.as_bytes()).unwrap_err();
            assert!(error.message().starts_with("Failed to parse the request body as JSON: "), "{body}: {error}");
        }
        let deep = format!("{{\"upsert_rows\":[{{\"id\":1,\"a\":{}1{}}}]}}", "[".repeat(200), "]".repeat(200));
        assert!(parse_write_bytes(deep.as_bytes()).unwrap_err().message().contains("recursion limit"));
    }

    #[test]
    fn a_copy_stands_alone() {
        assert!(matches!(parse_write(json!({"copy_from_namespace": "a"})), Ok(WriteBody::Copy(s, _)) if s == "a"));
        assert!(error(json!({"copy_from_namespace": "a", "deletes": [1]})).contains("cannot be used with other"));
    }
}
