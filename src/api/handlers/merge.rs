//! Namespaces compared and merged, and what merges did not take.

use std::io::Write;

use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::transfer::named;
use super::{Call, json};
use crate::api::answer::Answer;
use crate::api::auth::Scope;
use crate::api::body::Received;
use crate::api::door::check_scope;
use crate::api::router::Merging;
use crate::api::search;
use crate::api::wire::as_of::parse_as_of;
use crate::api::wire::query::parse_projection;
use crate::api::wire::response::{id_json, millis, time, write_json};
use crate::api::wire::shape::{boolean, map, refuse_unknown, string, take, wrong};
use crate::engine::merge::decide::Policy;
use crate::engine::merge::{LostState, MergeRequest, TooLarge};
use crate::engine::write::DOCUMENT_BYTES_MAX;
use crate::error::{Error, Result};
use crate::model::ids::NamespaceName;
use crate::model::query::Projection;
use crate::model::value_render::document_json;

pub async fn carry_out(call: Call<'_>, name: &NamespaceName, what: Merging, body: &Received) -> Result<Answer> {
    match what {
        Merging::Diff => diff(call, name, body).await,
        Merging::Merge => merge(call, name, body).await,
        Merging::Conflicts => conflicts(call, name).await,
        Merging::Acknowledge(token) => {
            let token = token.map(|token| parse_token(&token)).transpose()?;
            let dropped = call.server.engine.acknowledge(name, token).await?;
            Ok(Answer::ok(&json!({"status": "OK", "acknowledged": dropped})))
        }
        Merging::Replay(token) => replay(call, name, &token, body).await,
    }
}

/// What must happen to `against` to become this namespace, a document a line.
async fn diff(call: Call<'_>, name: &NamespaceName, body: &Received) -> Result<Answer> {
    let mut fields = map("", json(body, false)?, "struct DiffRequest")?;
    let against = take(&mut fields, "against").ok_or_else(|| wrong("", "missing field `against`"))?;
    let against = named(name, "against", &string("against", against)?)?;
    let mut state = |field: &str| take(&mut fields, field).map(|json| parse_as_of(field, json)).transpose();
    let (as_of, against_as_of) = (state("as_of")?, state("against_as_of")?);
    let projection =
        match ["include_attributes", "exclude_attributes"].iter().any(|field| fields.contains_key(*field)) {
            true => parse_projection("", &mut fields)?,
            false => Projection::All,
        };
    refuse_unknown(&fields, "`against`, `as_of`, `against_as_of`, `include_attributes`, `exclude_attributes`")?;
    check_scope(call.head, &call.server.config, Scope::Read, &against.project)?;
    let turn = call.server.turn(name).await?;
    let diff = call.server.engine.diff((&against, against_as_of.as_ref()), (name, as_of.as_ref())).await?;
    let (old_shown, new_shown) = diff.shown(&projection)?;
    let (engine, name) = (call.server.engine.clone(), name.clone());
    Answer::lines(move |pipe| {
        let _turn = turn;
        let compared = diff.for_each(|entry| {
            let old = entry.old.map(|document| document_json(&document, &old_shown));
            let new = entry.new.map(|document| document_json(&document, &new_shown));
            let line = json!({"id": id_json(&entry.id), "op": entry.change.name(), "old": old, "new": new});
            writeln!(pipe, "{line}").map_err(Error::from)
        });
        compared.inspect_err(|error| engine.note_damage(&name, error))
    })
    .await
}

async fn merge(call: Call<'_>, name: &NamespaceName, body: &Received) -> Result<Answer> {
    let mut fields = map("", json(body, false)?, "struct MergeRequest")?;
    let source = take(&mut fields, "source").ok_or_else(|| wrong("", "missing field `source`"))?;
    let source = named(name, "source", &string("source", source)?)?;
    let policy = take(&mut fields, "policy").map(|json| string("policy", json)).transpose()?;
    let mut flag = |field: &str| -> Result<bool> {
        Ok(take(&mut fields, field).map(|json| boolean(field, &json)).transpose()?.unwrap_or_default())
    };
    let request = MergeRequest {
        policy: policy.map_or(Ok(Policy::default()), |text| Policy::parse(&text))?,
        dry_run: flag("dry_run")?,
        allow_unrelated: flag("allow_unrelated")?,
        as_of: take(&mut fields, "as_of").map(|json| parse_as_of("as_of", json)).transpose()?,
    };
    refuse_unknown(&fields, "`source`, `policy`, `dry_run`, `allow_unrelated`, `as_of`")?;
    check_scope(call.head, &call.server.config, Scope::Read, &source.project)?;
    let (into, looks) = (name.clone(), request.dry_run);
    let report = search::take_turn(call.server, name, looks, |server, allowance| async move {
        server.engine.merge_within(&source, &into, request, allowance).await
    })
    .await?;
    let mut answer = report.to_json();
    answer["performance"] = json!({"server_total_ms": millis(call.micros())});
    if report.refused {
        answer["status"] = "error".into();
        answer["code"] = "conflicts".into();
        answer["retryable"] = false.into();
        let (count, how) = match report.policy {
            Policy::FieldsOrFail => (report.clashing, "in the same attributes, or deleted on one"),
            _ => (report.conflicts, "since they last had them in common"),
        };
        let policy = report.policy;
        answer["error"] = format!(
            "{count} documents were changed on both sides {how}, and the policy is {policy}: nothing is merged"
        )
        .into();
        answer["hint"] = match &report.too_large {
            Some(TooLarge { id, bytes, .. }) => format!(
                "document {id} would be of {bytes} bytes with the attributes of both, at most {DOCUMENT_BYTES_MAX} may be in \
                 one: make it smaller on one side, or choose a policy that keeps one state whole: lww, fields, ours, theirs \
                 or keep-both"
            ),
            None => {
                "choose a policy: lww, fields, fields-or-fail, ours, theirs or keep-both; dry_run shows what it does".into()
            }
        }
        .into();
        return Answer::json(412, &answer);
    }
    answer["status"] = "OK".into();
    Ok(Answer::ok(&answer).with_etag(&report.etag))
}

async fn conflicts(call: Call<'_>, name: &NamespaceName) -> Result<Answer> {
    let turn = call.server.turn(name).await?;
    let (engine, name) = (call.server.engine.clone(), name.clone());
    Answer::lines(move |pipe| {
        let _turn = turn;
        engine.conflicts(&name, |lost| writeln!(pipe, "{}", lost_json(&lost)).map_err(Error::from))
    })
    .await
}

fn lost_json(lost: &LostState) -> Json {
    let mut line = json!({
        "token": lost.token.to_string(),
        "id": id_json(&lost.id),
        "lost": if lost.was_ours { "ours" } else { "theirs" },
        "source": lost.source,
        "policy": lost.policy,
        "merged_at": time(lost.at_ms),
        "row": lost.fields,
    });
    if !lost.attributes.is_empty() {
        line["attributes"] = lost.attributes.clone().into();
    }
    line
}

async fn replay(call: Call<'_>, name: &NamespaceName, token: &str, body: &Received) -> Result<Answer> {
    let mut fields = map("", json(body, true)?, "struct ReplayRequest")?;
    let id = take(&mut fields, "id");
    refuse_unknown(&fields, "`id`")?;
    let outcome = call.server.engine.replay(name, parse_token(token)?, id).await?;
    Ok(Answer::ok(&write_json(&outcome, call.micros())).with_etag(&outcome.etag))
}

fn parse_token(text: &str) -> Result<Uuid> {
    text.parse().map_err(|_| {
        Error::invalid(format!("conflict {text:?}: expected a token as the list of conflicts has it, a UUID"))
    })
}
