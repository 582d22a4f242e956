//! What is wrong at rest, and what can be mended, while the daemon serves.

use serde_json::json;

use super::{Call, beside, json};
use crate::api::answer::Answer;
use crate::api::body::Received;
use crate::api::wire::shape::{boolean, map, refuse_unknown, string, take, wrong};
use crate::engine::check::{LEVEL_MAX, RepairRequest, Scope};
use crate::error::{Error, Result};

/// How deep a check looks that does not say so: what costs little beside serving.
const LEVEL: u8 = 2;

pub fn check(call: Call<'_>, body: &Received) -> Result<Answer> {
    let mut fields = map("", json(body, true)?, "struct CheckRequest")?;
    let level = match take(&mut fields, "level") {
        None => LEVEL,
        Some(given) => given
            .as_u64()
            .and_then(|level| u8::try_from(level).ok())
            .ok_or_else(|| wrong("level", format!("expected a level from 1 to {LEVEL_MAX}, got {given}")))?,
    };
    let scope = scope(&mut fields)?;
    refuse_unknown(&fields, "`level`, `scope`")?;
    let report = beside(|| call.server.engine.check_in(level, &scope))?;
    answer(&report, report.is_whole())
}

pub fn repair(call: Call<'_>, body: &Received) -> Result<Answer> {
    let mut fields = map("", json(body, true)?, "struct RepairRequest")?;
    let scope = scope(&mut fields)?;
    let dry_run = take(&mut fields, "dry_run").map(|given| boolean("dry_run", &given)).transpose()?.unwrap_or(true);
    let drop_damaged = take(&mut fields, "drop_damaged").map(|given| string("drop_damaged", given)).transpose()?;
    let expected = |text: String| match Scope::parse(&text) {
        Ok(Scope::Namespace(name)) => Ok(name),
        _ => Err(Error::invalid(format!("drop_damaged {text:?}: expected org/project/name"))),
    };
    let drop_damaged = drop_damaged.map(expected).transpose()?;
    let force = take(&mut fields, "force").map(|given| boolean("force", &given)).transpose()?.unwrap_or(false);
    refuse_unknown(&fields, "`scope`, `dry_run`, `drop_damaged`, `force`")?;
    let request = RepairRequest { scope, dry_run, drop_damaged, force };
    let report = beside(|| call.server.engine.repair_in(&request))?;
    answer(&report, report.remaining.is_empty())
}

fn scope(fields: &mut serde_json::Map<String, serde_json::Value>) -> Result<Scope> {
    take(fields, "scope").map_or(Ok(Scope::Store), |given| Scope::parse(&string("scope", given)?))
}

fn answer(report: &impl serde::Serialize, is_whole: bool) -> Result<Answer> {
    let mut answer = serde_json::to_value(report).map_err(|e| Error::internal(format!("print the report: {e}")))?;
    answer["status"] = json!("OK");
    answer["whole"] = json!(is_whole);
    Ok(Answer::ok(&answer))
}
