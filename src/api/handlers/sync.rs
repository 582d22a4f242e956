//! The node and its bucket: how far they are together, and bringing them together.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::json;

use super::{Call, json};
use crate::api::answer::Answer;
use crate::api::body::Received;
use crate::api::wire::shape::{boolean, map, refuse_unknown, strings, take};
use crate::error::{Error, Result};
use crate::model::ids::{NamespaceName, Project, reason};
use crate::sync::{Reclaim, Worker, show_done, show_pass, show_plan};

/// The most namespaces that one request names.
const NAMES_MAX: usize = 1_000;

/// What keeps the node and its bucket together; an error that says how to get one.
pub fn worker<'a>(call: Call<'a>) -> Result<&'a Arc<Worker>> {
    call.server.config.sync.as_ref().ok_or_else(|| {
        Error::invalid("this node has no bucket to sync with").with_code("no_bucket").with_hint(
            "set bucket.url in the configuration, SHOAL_BUCKET__URL, or `shoal serve --bucket s3://BUCKET/PREFIX`",
        )
    })
}

pub async fn status(call: Call<'_>) -> Result<Answer> {
    Ok(Answer::ok(&worker(call)?.show().await?))
}

pub async fn sync(call: Call<'_>, project: &Project, body: &Received) -> Result<Answer> {
    let mut fields = map("", json(body, true)?, "struct SyncRequest")?;
    let mut flag = |key| take(&mut fields, key).map(|given| boolean(key, &given)).transpose();
    let (wait, dry_run) = (flag("wait")?.unwrap_or(false), flag("dry_run")?.unwrap_or(false));
    let metered = flag("metered")?;
    let (reclaim, forced) = (flag("reclaim")?.unwrap_or(false), flag("force")?.unwrap_or(false));
    let names = take(&mut fields, "namespaces").map(|given| strings("namespaces", given)).transpose()?;
    refuse_unknown(&fields, "`wait`, `dry_run`, `reclaim`, `force`, `namespaces`, `metered`")?;
    if let Some(metered) = metered {
        if wait || dry_run || reclaim || names.is_some() {
            return Err(Error::invalid("metered stands alone: it says what the link is, and asks for nothing"));
        }
        worker(call)?.set_metered(metered);
        return Ok(Answer::ok(&json!({"status": "OK", "metered": metered})));
    }
    let names = names.map(|names| named(project, &names)).transpose()?;
    let worker = worker(call)?;
    if reclaim {
        if wait {
            return Err(Error::invalid(
                "wait: a request with `reclaim` is answered when that is done, and asks for no pass",
            ));
        }
        let ask = Reclaim { forced, dry_run, ..worker.reclaim_settings() };
        let run = worker.reclaim(names.as_ref(), &ask).await?;
        if let Some(error) = run.failed {
            return Err(error);
        }
        let mut done = run.to_json();
        (done["status"], done["bucket"]) = (json!("OK"), worker.status().bucket.into());
        return Ok(Answer::ok(&done));
    }
    if forced {
        return Err(Error::invalid("force: goes with `reclaim` only"));
    }
    if dry_run {
        let mut plan = show_plan(&worker.plan(names.as_ref()).await?);
        plan["status"] = json!("OK");
        plan["bucket"] = worker.status().bucket.into();
        return Ok(Answer::ok(&plan));
    }
    let answer = worker.ask(names.as_ref())?;
    if !wait {
        return Answer::json(202, &json!({"status": "ACCEPTED", "message": "a pass of sync begins"}));
    }
    let pass = worker.answer(answer).await?;
    if let Some(error) = &pass.failed {
        return Err(error.duplicate());
    }
    for name in names.iter().flatten() {
        pass.of(name)?;
    }
    let mut done = show_pass(&pass);
    done["status"] = json!("OK");
    done["sync"] = worker.show_node().await?;
    Ok(Answer::ok(&done))
}

/// One namespace, by the same words.
pub async fn sync_one(call: Call<'_>, name: &NamespaceName, body: &Received) -> Result<Answer> {
    let mut fields = map("", json(body, true)?, "struct SyncRequest")?;
    let mut flag = |key| take(&mut fields, key).map(|given| boolean(key, &given)).transpose();
    let (wait, dry_run) = (flag("wait")?.unwrap_or(false), flag("dry_run")?.unwrap_or(false));
    refuse_unknown(&fields, "`wait`, `dry_run`")?;
    let (worker, names) = (worker(call)?, BTreeSet::from([name.clone()]));
    if dry_run {
        let mut plan = show_plan(&worker.plan(Some(&names)).await?);
        plan["status"] = json!("OK");
        return Ok(Answer::ok(&plan));
    }
    let answer = worker.ask(Some(&names))?;
    if !wait {
        return Answer::json(202, &json!({"status": "ACCEPTED", "message": "a pass of sync begins"}));
    }
    let mut done = show_done(&worker.answer(answer).await?.of(name)?);
    done["status"] = json!("OK");
    done["sync"] = worker.show_namespace(name).await?;
    Ok(Answer::ok(&done))
}

/// Names as `name`, of the project, or `org/project/name`.
fn named(project: &Project, names: &[String]) -> Result<BTreeSet<NamespaceName>> {
    if names.is_empty() || names.len() > NAMES_MAX {
        return Err(Error::invalid(format!("namespaces has {} names, expected 1 to {NAMES_MAX}", names.len()))
            .with_hint("leave it out for all namespaces"));
    }
    let read = |text: &String| {
        let parts: Vec<&str> = text.split('/').collect();
        let named = match parts.as_slice() {
            [name] => project.namespace(name),
            [org, project, name] => Project::new(org, project).and_then(|project| project.namespace(name)),
            _ => Err(Error::invalid("expected NAME or ORG/PROJECT/NAME")),
        };
        named.map_err(|error| Error::invalid(format!("namespaces: {text:?}: {}", reason(&error))))
    };
    names.iter().map(read).collect()
}
