//! Where namespaces come from, and their past: history, tags, what was deleted.

use serde_json::{Value as Json, json};

use super::{Call, beside, json};
use crate::api::answer::Answer;
use crate::api::body::Received;
use crate::api::wire::as_of::{parse_as_of, parse_ttl};
use crate::api::wire::response::{millis, time};
use crate::api::wire::shape::{map, refuse_unknown, string, take, wrong};
use crate::engine::lineage::{BranchRequest, Tag};
use crate::error::{Error, Result};
use crate::model::ids::{NamespaceName, Nsid, Project};

pub async fn branch(
    call: Call<'_>,
    to: &NamespaceName,
    from: &NamespaceName,
    request: BranchRequest,
) -> Result<Answer> {
    call.server.engine.branch(from, to, request).await?;
    Ok(Answer::ok(&json!({
        "status": "OK",
        "message": "namespace branch successful",
        "rows_affected": 0,
        "billing": {"billable_logical_bytes_written": 0},
        "performance": {"server_total_ms": millis(call.micros())},
    })))
}

pub fn history(call: Call<'_>, name: &NamespaceName) -> Result<Answer> {
    let states = beside(|| call.server.engine.history(name))?;
    let states: Vec<Json> = states
        .iter()
        .map(|state| {
            json!({
                "generation": state.generation,
                "commit": state.commit_id.to_string(),
                "committed_at": time(state.committed_ms),
                "data_seq": state.data_seq,
                "documents_in_segments": state.documents,
                "kept_bytes": state.kept_bytes,
            })
        })
        .collect();
    Ok(Answer::ok(&json!({ "history": states })))
}

fn tag_json(tag: &Tag) -> Json {
    json!({
        "tag": tag.name,
        "tagged_at": time(tag.at_ms),
        "generation": tag.generation,
        "commit": tag.commit_id.to_string(),
        "data_seq": tag.data_seq,
    })
}

pub fn tags(call: Call<'_>, name: &NamespaceName) -> Result<Answer> {
    let tags = beside(|| call.server.engine.tags(name))?;
    Ok(Answer::ok(&json!({"tags": tags.iter().map(tag_json).collect::<Vec<Json>>()})))
}

pub fn tag(call: Call<'_>, name: &NamespaceName, tag: &str) -> Result<Answer> {
    let tags = beside(|| call.server.engine.tags(name))?;
    match tags.iter().find(|known| known.name == tag) {
        Some(tag) => Ok(Answer::ok(&tag_json(tag))),
        None => Err(Error::not_found(format!("{name} has no tag '{tag}'"))),
    }
}

pub async fn put_tag(call: Call<'_>, name: &NamespaceName, tag: &str, body: &Received) -> Result<Answer> {
    let mut fields = map("", json(body, true)?, "struct TagRequest")?;
    let as_of = take(&mut fields, "as_of").map(|json| parse_as_of("as_of", json)).transpose()?;
    refuse_unknown(&fields, "`as_of`")?;
    let tag = call.server.engine.tag(name, tag, as_of.as_ref()).await?;
    Ok(Answer::ok(&tag_json(&tag)))
}

pub async fn delete_tag(call: Call<'_>, name: &NamespaceName, tag: &str) -> Result<Answer> {
    call.server.engine.untag(name, tag).await?;
    Ok(Answer::ok(&json!({"status": "OK"})))
}

/// Sets or removes the time at which a namespace is deleted by itself.
pub async fn put_ttl(call: Call<'_>, name: &NamespaceName, body: &Received) -> Result<Answer> {
    let mut fields = map("", json(body, false)?, "struct TtlRequest")?;
    let ttl = fields.remove("ttl").ok_or_else(|| wrong("", "missing field `ttl`"))?;
    refuse_unknown(&fields, "`ttl`")?;
    let ttl_ms = if ttl.is_null() { None } else { Some(parse_ttl("ttl", &ttl)?) };
    let expires_ms = call.server.engine.set_ttl(name, ttl_ms).await?;
    Ok(Answer::ok(&json!({"status": "OK", "expires_at": expires_ms.map(time)})))
}

pub async fn deleted(call: Call<'_>, project: &Project) -> Result<Answer> {
    call.server.engine.kin_known().await?;
    let found: Vec<Json> = call
        .server
        .engine
        .deleted(project)
        .iter()
        .map(|deleted| {
            let name = deleted.name.rsplit('/').next().unwrap_or(&deleted.name);
            json!({"name": name, "nsid": deleted.nsid.to_string(), "deleted_at": time(deleted.deleted_ms)})
        })
        .collect();
    Ok(Answer::ok(&json!({ "deleted": found })))
}

pub async fn undelete(call: Call<'_>, name: &NamespaceName, body: &Received) -> Result<Answer> {
    let mut fields = map("", json(body, true)?, "struct UndeleteRequest")?;
    let nsid = match take(&mut fields, "nsid") {
        None => None,
        Some(json) => {
            let text = string("nsid", json)?;
            let nsid = text.parse().map(Nsid);
            Some(nsid.map_err(|_| Error::invalid(format!("nsid: expected a UUID, got {text:?}")))?)
        }
    };
    refuse_unknown(&fields, "`nsid`")?;
    call.server.engine.undelete(name, nsid).await?;
    Ok(Answer::ok(&json!({"status": "OK", "message": "namespace is back"})))
}

/// Makes the documents what they were, by one more commit.
pub async fn revert(call: Call<'_>, name: &NamespaceName, body: &Received) -> Result<Answer> {
    let mut fields = map("", json(body, false)?, "struct RevertRequest")?;
    let as_of = take(&mut fields, "as_of").ok_or_else(|| wrong("", "missing field `as_of`"))?;
    refuse_unknown(&fields, "`as_of`")?;
    let done = call.server.engine.revert(name, &parse_as_of("as_of", as_of)?).await?;
    Ok(Answer::ok(&json!({"status": "OK", "documents_written": done.written, "documents_deleted": done.deleted})))
}

/// Every namespace of a project and what it was branched from.
pub async fn tree(call: Call<'_>, project: &Project) -> Result<Answer> {
    call.server.engine.kin_known().await?;
    let nodes: Vec<Json> = beside(|| call.server.engine.tree(project))?
        .into_iter()
        .map(|node| {
            json!({
                "name": node.name,
                "parent": node.parent,
                "parent_deleted": node.is_parent_deleted,
                "expires_at": node.expires_ms.map(time),
            })
        })
        .collect();
    Ok(Answer::ok(&json!({ "namespaces": nodes })))
}
