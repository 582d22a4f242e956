//! `shoal check` and `shoal repair`: what is wrong at rest, and what can be rebuilt. On a data directory, under its lock.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use serde_json::json;

use super::output;
use crate::engine::{Engine, EngineConfig};
use crate::error::{Error, Result};
use crate::platform::clock::SystemClock;
use crate::platform::disk::Disk;
use crate::platform::random::SystemRandom;
use crate::platform::real_disk::RealDisk;

#[derive(Args)]
pub struct Check {
    /// The data directory; no daemon may be using it
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// 1: names and manifests; 2: every object and its length; 3: every checksum and structure, and all counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=3))]
    level: u8,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct Repair {
    /// The data directory; no daemon may be using it
    #[arg(long, value_name = "DIR")]
    data_dir: PathBuf,
    /// Do it; without this, only say what would be done
    #[arg(long)]
    yes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Check {
    pub(super) fn run(self) -> Result<()> {
        let engine = open(&self.data_dir)?;
        let report = engine.check(self.level)?;
        engine.close_index()?;
        let problems = report.problems.len() as u64 + report.more_problems;
        if self.json {
            let json =
                serde_json::to_value(&report).map_err(|e| Error::internal(format!("print the report: {e}")))?;
            output::print_json(&json)?;
        } else {
            let mut text = format!(
                "level {}: {} namespaces, {} objects of {} bytes",
                report.level, report.namespaces, report.objects, report.bytes
            );
            if report.level >= 3 {
                text.push_str(&format!(", {} documents in segments", report.documents));
            }
            text.push('\n');
            if report.orphans > 0 {
                text.push_str(&format!(
                    "{} objects of {} bytes are left over from a crash, `shoal repair` removes them\n",
                    report.orphans, report.orphan_bytes
                ));
            }
            for problem in &report.problems {
                text.push_str(&format!("{}: {}\n", problem.namespace, problem.what));
            }
            text.push_str(if problems == 0 { "everything is whole\n" } else { "" });
            output::print(&text)?;
        }
        if problems == 0 {
            return Ok(());
        }
        Err(Error::corrupt(format!("{problems} problems found"))
            .with_hint("undamaged namespaces are served; restore the damaged files from a copy"))
    }
}

impl Repair {
    pub(super) fn run(self) -> Result<()> {
        let engine = open(&self.data_dir)?;
        if !self.yes {
            let report = engine.check(2)?;
            engine.close_index()?;
            return output::print(&format!(
                "would rebuild meta.redb from {} namespaces and remove {} objects of {} bytes that nobody references;\n\
                 {} problems cannot be mended here, their namespaces stay set apart\n\
                 run again with --yes to do it\n",
                report.namespaces,
                report.orphans,
                report.orphan_bytes,
                report.problems.len() as u64 + report.more_problems
            ));
        }
        let (objects, bytes) = engine.repair()?;
        engine.close_index()?;
        let done = json!({"rebuilt": "meta.redb", "removed_objects": objects, "removed_bytes": bytes});
        if self.json {
            return output::print_json(&done);
        }
        output::print(&format!("rebuilt meta.redb; removed {objects} objects of {bytes} bytes\n"))
    }
}

/// Opens a data directory that is there, under its lock.
pub(super) fn open(data_dir: &std::path::Path) -> Result<Arc<Engine>> {
    // A mistyped path must not become a new, empty data directory that is found to be whole.
    if RealDisk.list(data_dir).map_or(true, |entries| !entries.iter().any(|entry| entry.name == "node.json")) {
        return Err(Error::not_found(format!("{} is not a Shoal data directory", data_dir.display())));
    }
    Engine::open(EngineConfig::new(data_dir), Arc::new(RealDisk), Arc::new(SystemClock), Arc::new(SystemRandom))
}
