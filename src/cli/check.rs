//! `shoal check` and `shoal repair`: what is wrong at rest, and what can be mended. By the daemon, while it serves, or on a data
//! directory, under its lock.

use std::path::PathBuf;

use clap::Args;
use hyper::Method;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::http::{Client, Target};
use super::offline::offline;
use super::output;
use crate::engine::Engine;
use crate::engine::check::{Problem, Remedy, RepairReport, RepairRequest, Report, Scope};
use crate::error::{Error, Result};
use crate::format::names::parse_name;

#[derive(Args)]
pub struct Check {
    /// This data directory instead of the daemon's; no daemon may be using it
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
    /// 1: names, chains of manifests, tags; 2: every object and its length; 3: every checksum and structure; 4: all counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=4))]
    level: u8,
    /// What to look at: org/project/name, org/project, or store
    #[arg(long, default_value = "store")]
    scope: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct Repair {
    /// This data directory instead of the daemon's; no daemon may be using it
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    target: Target,
    /// What to mend: org/project/name, org/project, or store
    #[arg(long, default_value = "store")]
    scope: String,
    /// Give up the damaged objects of this namespace, org/project/name, with the documents in them
    #[arg(long, value_name = "NAMESPACE")]
    drop_damaged: Option<String>,
    /// Remove what nobody needs even where that is most of the store: then names or manifests may be lost instead
    #[arg(long)]
    force: bool,
    /// Do it; without this, only say what would be done
    #[arg(long)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(super) fn run(self) -> Result<()> {
        let scope = Scope::parse(&self.scope)?;
        let report: Report = match &self.data_dir {
            Some(dir) => offline(dir, async |engine| looking(engine, || engine.check_in(self.level, &scope)))?,
            None => ask(&self.target, "/v1/check", &json!({"level": self.level, "scope": self.scope}))?,
        };
        let problems = report.problems.len() as u64 + report.more_problems;
        if self.json {
            output::print_json(&json_of(&report)?)?;
        } else {
            let mut text = format!(
                "level {}: {} namespaces, {} past states, {} objects of {} bytes",
                report.level, report.namespaces, report.past, report.objects, report.bytes
            );
            if report.level >= 3 {
                text.push_str(&format!(", {} documents in segments", report.documents));
            }
            text.push('\n');
            if report.in_bucket > 0 {
                text.push_str(&format!(
                    "{} of the objects are not all here, the bucket has them; what is read of them is verified then\n",
                    report.in_bucket
                ));
            }
            if report.orphans > 0 {
                text.push_str(&format!(
                    "{} objects of {} bytes are left over from a crash, `shoal repair` removes them\n",
                    report.orphans, report.orphan_bytes
                ));
            }
            text.extend(report.problems.iter().map(line));
            text.push_str(if problems == 0 { "everything is whole\n" } else { "" });
            output::print(&text)?;
        }
        if problems == 0 {
            return Ok(());
        }
        Err(Error::corrupt(format!("{problems} problems found"))
            .with_hint("see what `shoal repair` offers; undamaged namespaces are served"))
    }
}

impl Repair {
    pub(super) fn run(self) -> Result<()> {
        let bad = |text: &str| Error::invalid(format!("--drop-damaged {text:?}: expected org/project/name"));
        let drop_damaged =
            self.drop_damaged.as_deref().map(|text| parse_name(text).ok_or_else(|| bad(text))).transpose()?;
        // What is given up belongs to one namespace: the others are left alone unless they are named.
        let scope_text = match &drop_damaged {
            Some(name) if self.scope == "store" => name.to_string(),
            _ => self.scope.clone(),
        };
        let scope = Scope::parse(&scope_text)?;
        let report: RepairReport = match &self.data_dir {
            Some(dir) => {
                let (dry_run, force) = (!self.yes, self.force);
                let request = RepairRequest { scope, dry_run, drop_damaged, force };
                offline(dir, async |engine| looking(engine, || engine.repair_in(&request)))?
            }
            None => {
                let body = json!({
                    "scope": scope_text,
                    "dry_run": !self.yes,
                    "drop_damaged": drop_damaged.map(|name| name.to_string()),
                    "force": self.force,
                });
                ask(&self.target, "/v1/repair", &body)?
            }
        };
        self.say(&report)?;
        outcome(&report)
    }

    fn say(&self, report: &RepairReport) -> Result<()> {
        if self.json {
            return output::print_json(&json_of(report)?);
        }
        let mut text = String::new();
        for action in &report.actions {
            let done = match (&action.failed, report.dry_run) {
                (Some(why), _) => format!("failed: {why}"),
                (None, true) => "would be done".to_owned(),
                (None, false) => "done".to_owned(),
            };
            text.push_str(&format!("{}: {} ({done})\n", action.namespace, action.what));
        }
        if !report.dry_run {
            text.push_str(&format!(
                "removed {} objects of {} bytes that nobody referenced\n",
                report.removed_objects, report.removed_bytes
            ));
        }
        if !report.remaining.is_empty() {
            text.push_str(&format!("{} problems stay:\n", report.remaining.len()));
            text.extend(report.remaining.iter().map(line));
        }
        if report.dry_run {
            text.push_str("run again with --yes to do it\n");
        }
        output::print(&text)
    }
}

/// An error where a step of a repair failed, so that scripts see it.
fn outcome(report: &RepairReport) -> Result<()> {
    match report.actions.iter().filter(|action| action.failed.is_some()).count() {
        0 => Ok(()),
        failed => Err(Error::internal(format!("{failed} of {} repairs failed", report.actions.len()))
            .with_hint("mend what they say, and run it again; what is done stays done")),
    }
}

fn line(problem: &Problem) -> String {
    let remedy = match problem.remedy {
        Remedy::Restore => "`shoal repair` puts it back",
        Remedy::ReadAgain => "`shoal repair` reads it again from the bucket, by the daemon while it serves",
        Remedy::DropDamaged => "put it back from a copy, or give it up with `shoal repair --drop-damaged`",
        Remedy::Forget => "put it back from a copy; `shoal repair` goes on without it",
        Remedy::Lost => "nothing else needs it",
        Remedy::FromACopy => "put it back from a copy",
        Remedy::Unreadable => {
            "it cannot be read now and may be whole: look at its owner and mode, those of the directories above it, and the disk"
        }
    };
    format!("{}: {}: {} ({remedy})\n", problem.namespace, problem.file, problem.what)
}

/// Has the daemon do it.
fn ask<T: DeserializeOwned>(target: &Target, path: &str, body: &Value) -> Result<T> {
    let answer =
        super::block_on(async { Client::new(target)?.patient(Method::POST, path, body.to_string().into()).await })?;
    serde_json::from_value(answer).map_err(|error| {
        Error::invalid(format!("the daemon's report is of another version: {error}"))
            .with_hint("use the `shoal` that the daemon runs")
    })
}

/// Looks at everything, and marks the index as whole. Where the disk is full that cannot be, and the next start makes it anew.
fn looking<T>(engine: &Engine, look: impl FnOnce() -> Result<T>) -> Result<T> {
    tokio::task::block_in_place(|| {
        let found = look();
        if let Err(error) = engine.close_index() {
            tracing::warn!(%error, "meta.redb is not closed as whole, the next start makes it anew");
        }
        found
    })
}

fn json_of<T: serde::Serialize>(report: &T) -> Result<Value> {
    serde_json::to_value(report).map_err(|e| Error::internal(format!("print the report: {e}")))
}

#[cfg(test)]
mod tests {
    use super::{RepairReport, outcome};
    use crate::engine::check::Action;

    #[test]
    fn a_repair_whose_step_failed_is_an_error() {
        let action = |failed: Option<&str>| Action {
            namespace: "a/b/c".into(),
            what: "put back node.json".into(),
            failed: failed.map(str::to_owned),
        };
        let report = |actions| RepairReport { actions, ..RepairReport::default() };
        assert!(outcome(&report(vec![])).is_ok());
        assert!(outcome(&report(vec![action(None)])).is_ok());
        let error = outcome(&report(vec![action(None), action(Some("the disk is full"))])).unwrap_err();
        assert_eq!(error.message(), "1 of 2 repairs failed");
    }
}
