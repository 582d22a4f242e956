//! Namespaces: created, described, changed, deleted.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::{Call, beside, json};
use crate::api::answer::Answer;
use crate::api::body::Received;
use crate::api::following;
use crate::api::wire::as_of::parse_ttl;
use crate::api::wire::response::{id_json, time};
use crate::api::wire::shape::{boolean, map, refuse_unknown, string, take, unsigned, variant, wrong};
use crate::api::wire::write::{METRICS, parse_schema};
use crate::engine::{CreateRequest, Metadata};
use crate::error::{Error, Result};
use crate::model::ids::NamespaceName;
use crate::model::schema_render;

fn done(message: &str) -> Answer {
    Answer::ok(&json!({"status": "OK", "message": message}))
}

pub async fn create(call: Call<'_>, name: &NamespaceName, body: &Received) -> Result<Answer> {
    let mut fields = map("", json(body, true)?, "struct CreateRequest")?;
    let request = CreateRequest {
        schema: take(&mut fields, "schema").map(|json| parse_schema("schema", json)).transpose()?,
        metric: take(&mut fields, "distance_metric")
            .map(|json| variant("distance_metric", &json, &METRICS))
            .transpose()?,
        labels: take(&mut fields, "labels").map(|json| parse_labels("labels", json)).transpose()?.unwrap_or_default(),
        ttl_ms: take(&mut fields, "ttl").map(|json| parse_ttl("ttl", &json)).transpose()?,
    };
    refuse_unknown(&fields, "`schema`, `distance_metric`, `labels`, `ttl`")?;
    let etag = call.server.engine.create(name, request).await?;
    Ok(done("namespace created").with_etag(&etag))
}

pub fn metadata(call: Call<'_>, name: &NamespaceName, first_version: bool) -> Result<Answer> {
    beside(|| {
        let etag = call.server.engine.etag(name)?;
        let metadata = call.server.engine.metadata(name)?;
        Ok(Answer::ok(&metadata_json(&metadata, first_version)).with_etag(&etag))
    })
}

/// Exactly the contract's fields: SDKs compare the whole answer.
fn metadata_json(metadata: &Metadata, first_version: bool) -> Json {
    let encryption = if first_version { json!({"sse": true, "mode": "default"}) } else { json!({"mode": "default"}) };
    let index = if metadata.unindexed_bytes == 0 && metadata.unindexed_rows == 0 {
        json!({"status": "up-to-date"})
    } else {
        json!({
            "status": "updating",
            "unindexed_bytes": metadata.unindexed_bytes,
            "unindexed_rows": metadata.unindexed_rows,
        })
    };
    let mut body = json!({
        "schema": schema_render::metadata(&metadata.schema),
        "approx_logical_bytes": metadata.approx_logical_bytes,
        "approx_row_count": metadata.approx_row_count,
        "created_at": time(metadata.created_ms),
        "updated_at": time(metadata.updated_ms),
        "last_write_at": time(metadata.written_ms),
        "encryption": encryption,
        "index": index,
    });
    if metadata.read_only {
        body["read_only"] = true.into();
    }
    if let Some(since_ms) = metadata.pinned_ms {
        body["pinning"] = json!({
            "replicas": 1,
            "status": {"ready_replicas": 1, "replicas": 1, "updated_at": time(since_ms), "utilization": 0.0},
        });
    }
    body
}

pub async fn update_metadata(call: Call<'_>, name: &NamespaceName, body: &Received) -> Result<Answer> {
    let mut fields = map("", json(body, false)?, "struct UpdateMetadata")?;
    // Here null is an answer: it removes the pin.
    let pinned = fields.remove("pinning").map(|json| parse_pinning(&json)).transpose()?;
    let read_only = take(&mut fields, "read_only").map(|json| boolean("read_only", &json)).transpose()?;
    if read_only.is_some() {
        following::check(call, name)?;
    }
    call.server.engine.update_metadata(name, read_only, pinned).await?;
    metadata(call, name, false)
}

fn parse_pinning(json: &Json) -> Result<bool> {
    match json {
        Json::Null => Ok(false),
        Json::Bool(pinned) => Ok(*pinned),
        Json::Object(config) => match config.get("replicas").map(|json| unsigned("pinning.replicas", json)) {
            None | Some(Ok(1)) => Ok(true),
            Some(Ok(0)) => Err(Error::invalid("pinning.replicas: expected at least 1, got 0")),
            Some(Ok(n)) => Err(Error::unsupported(format!("pinning.replicas: {n} are asked for, this node is one"))
                .with_hint("ask for 1 replica")),
            Some(Err(error)) => Err(error),
        },
        _ => Err(wrong("pinning", "data did not match any variant of untagged enum Pinning")),
    }
}

pub fn schema(call: Call<'_>, name: &NamespaceName) -> Result<Answer> {
    beside(|| {
        let view = call.server.engine.view(name)?;
        Ok(Answer::ok(&schema_render::v1(&view.schema)).with_etag(&view.etag))
    })
}

pub async fn update_schema(call: Call<'_>, name: &NamespaceName, body: &Received) -> Result<Answer> {
    let update = parse_schema("", json(body, false)?)?;
    let schema = call.server.engine.update_schema(name, update).await?;
    Ok(Answer::ok(&schema_render::v1(&schema)))
}

/// Reads the namespace in the background. Hints that come while one is followed are dropped: they are hints.
pub fn hint_cache_warm(call: Call<'_>, name: &NamespaceName) -> Result<Answer> {
    beside(|| call.server.engine.etag(name))?;
    let accepted = |message: &str| Answer::json(202, &json!({"status": "ACCEPTED", "message": message}));
    let Ok(permit) = Arc::clone(&call.server.warming).try_acquire_owned() else {
        return accepted("the cache of another namespace is being warmed, this one is read on demand");
    };
    let (engine, name) = (Arc::clone(&call.server.engine), name.clone());
    tokio::task::spawn_blocking(move || {
        if let Err(error) = engine.warm(&name) {
            tracing::warn!(namespace = %name, %error, "the cache is not warmed");
        }
        drop(permit);
    });
    accepted("the cache is being warmed")
}

pub fn warm_cache(call: Call<'_>, name: &NamespaceName) -> Result<Answer> {
    beside(|| call.server.engine.warm(name))?;
    Ok(Answer::ok(&json!({})))
}

/// There is no cache of ours to empty: files are mapped, and the system keeps what it has room for.
pub fn purge_cache(call: Call<'_>, name: &NamespaceName) -> Result<Answer> {
    beside(|| call.server.engine.etag(name))?;
    Ok(Answer::ok(&json!({})))
}

pub async fn status(call: Call<'_>, name: &NamespaceName) -> Result<Answer> {
    let (etag, mut status) = beside(|| {
        let engine = &call.server.engine;
        Ok((engine.etag(name)?, engine.status(name)?))
    })?;
    status["sync"] = match &call.server.config.sync {
        Some(worker) => worker.show_namespace(name).await?,
        None => Json::Null,
    };
    Ok(Answer::ok(&status).with_etag(&etag))
}

pub async fn labels(call: Call<'_>, name: &NamespaceName, body: &Received) -> Result<Answer> {
    let labels = parse_labels("", json(body, false)?)?;
    let shown = json!({"status": "OK", "labels": labels});
    call.server.engine.set_labels(name, labels).await?;
    Ok(Answer::ok(&shown))
}

fn parse_labels(path: &str, json: Json) -> Result<BTreeMap<String, String>> {
    map(path, json, "a map of strings")?
        .into_iter()
        .map(|(label, value)| {
            let at = if path.is_empty() { label.clone() } else { format!("{path}.{label}") };
            Ok((label, string(&at, value)?))
        })
        .collect()
}

pub async fn pin(call: Call<'_>, name: &NamespaceName, pinned: bool) -> Result<Answer> {
    call.server.engine.update_metadata(name, None, Some(pinned)).await?;
    Ok(done(if pinned { "namespace pinned" } else { "namespace unpinned" }))
}

pub async fn checkpoint(call: Call<'_>, name: &NamespaceName) -> Result<Answer> {
    call.server.engine.checkpoint(name).await?;
    Ok(done("the tail is a segment"))
}

pub async fn compact(call: Call<'_>, name: &NamespaceName) -> Result<Answer> {
    call.server.engine.compact(name).await?;
    Ok(done("all segments are one"))
}

pub async fn ids(call: Call<'_>, name: &NamespaceName, body: &Received) -> Result<Answer> {
    let mut fields = map("", json(body, false)?, "struct IdsRequest")?;
    let count = take(&mut fields, "count").ok_or_else(|| wrong("", "missing field `count`"))?;
    refuse_unknown(&fields, "`count`")?;
    let ids = call.server.engine.allocate_ids(name, unsigned("count", &count)?).await?;
    Ok(Answer::ok(&json!({"ids": ids.iter().map(id_json).collect::<Vec<Json>>()})))
}

pub async fn delete(call: Call<'_>, name: &NamespaceName) -> Result<Answer> {
    call.server.engine.delete(name).await?;
    Ok(Answer::ok(&json!({"status": "OK"})))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::parse_pinning;

    #[test]
    fn pinning_is_on_off_or_one_replica() {
        assert!(!parse_pinning(&json!(null)).unwrap());
        assert!(!parse_pinning(&json!(false)).unwrap());
        assert!(parse_pinning(&json!({"replicas": 1})).unwrap());
        assert!(parse_pinning(&json!({"replicas": 2})).unwrap_err().message().contains("this node is one"));
        assert!(parse_pinning(&json!({"replicas": 0})).is_err());
        assert!(parse_pinning(&json!("yes")).is_err());
    }
}
