//! `shoal inspect`: any object of a data directory or bucket, in words.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde_json::{Value as Json, json};

use super::output;
use crate::error::{Context, Error, Result};
use crate::format::log::decode_log;
use crate::format::manifest::decode_manifest;
use crate::format::names::decode_binding;
use crate::format::node::{decode_format, decode_node};
use crate::format::record::Record;
use crate::format::{answers, deletions, ranges};
use crate::platform::disk::{Disk, if_there};
use crate::platform::real_disk::RealDisk;
use crate::segment::Segment;

/// The most records of a log that are listed.
const RECORDS_MAX: usize = 100;

#[derive(Args)]
pub struct Inspect {
    /// A log (.wal), segment (.seg), deletion bitmap (.del), answers to repeat (.ans), manifest, name binding, node.json or _format.json
    file: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Inspect {
    pub(super) fn run(self) -> Result<()> {
        let found = describe(&self.file)?;
        if self.json { output::print_json(&found) } else { output::print(&words(&found)) }
    }
}

fn describe(path: &Path) -> Result<Json> {
    let name = path.display().to_string();
    let disk = RealDisk;
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("wal") => log(&disk.read(path).context(|| format!("read {name}"))?, &name),
        Some("seg") => {
            let segment = Segment::open(disk.map(path).context(|| format!("map {name}"))?, &name)?;
            let checksums = checksums(&segment, &path.with_extension("seg.here"))?;
            let columns: Vec<Json> = segment
                .columns()
                .iter()
                .map(|c| json!({"uid": format!("{:016x}", c.uid.0), "name": c.column.name, "type": c.column.kind}))
                .collect();
            Ok(json!({
                "kind": "segment",
                "segment_id": segment.segment_id().to_string(),
                "rows": segment.rows(),
                "tombstones": segment.tombstone_count(),
                "columns": columns,
                "sections": segment.sections().map(|(name, bytes)| json!({"name": name, "bytes": bytes})).collect::<Vec<_>>(),
                "checksums": checksums,
            }))
        }
        Some("del") => {
            let bytes = disk.read(path).context(|| format!("read {name}"))?;
            let (segment, rows, dead) = deletions::decode(&bytes, &name)?;
            Ok(json!({
                "kind": "deletion bitmap",
                "segment_id": segment.to_string(),
                "rows": rows,
                "dead_rows": dead.len(),
            }))
        }
        Some("ans") => {
            let bytes = disk.read(path).context(|| format!("read {name}"))?;
            let (nsid, found) = answers::decode(&bytes, &name)?;
            let times = || found.iter().map(|answer| answer.at_ms);
            Ok(json!({
                "kind": "answers to repeat",
                "nsid": nsid.to_string(),
                "answers": found.len(),
                "oldest_ms": times().min(),
                "newest_ms": times().max(),
            }))
        }
        Some("here") => {
            let bytes = disk.read(path).context(|| format!("read {name}"))?;
            let (bytes, here) = ranges::decode(&bytes, &name)?;
            Ok(json!({"kind": "blocks of an object", "bytes": bytes, "bytes_here": here.len() * ranges::BLOCK_BYTES}))
        }
        Some("json") => metadata(&disk.read(path).context(|| format!("read {name}"))?, &name),
        _ => Err(Error::invalid(format!(
            "{name}: expected a .wal, .seg, .del, .ans, .here or .json file of a data directory"
        ))),
    }
}

/// Checks a segment, unless a map of blocks beside it says that it is not all here.
fn checksums(segment: &Segment, map: &Path) -> Result<String> {
    let name = map.display().to_string();
    if let Some(map) = if_there(RealDisk.read(map)).context(|| format!("read {name}"))? {
        let (bytes, here) = ranges::decode(&map, &name)?;
        let bytes_here = (here.len() * ranges::BLOCK_BYTES).min(bytes);
        if bytes_here < bytes {
            return Ok(format!("not checked: {bytes_here} of {bytes} bytes are here, the rest is in the bucket"));
        }
    }
    segment.verify()?;
    Ok("all right".to_owned())
}

fn log(bytes: &[u8], name: &str) -> Result<Json> {
    let log = decode_log(bytes, name)?;
    let mut records = Vec::new();
    let mut total = 0;
    for frame in &log.frames {
        for (at, record) in frame.batch.records.iter().enumerate() {
            total += 1;
            if records.len() < RECORDS_MAX {
                let (verb, fields) = match record {
                    Record::Upsert { fields, .. } => ("upsert", fields.len()),
                    Record::Patch { changed, .. } => ("patch", changed.len()),
                    Record::Delete { .. } => ("delete", 0),
                };
                let seq = frame.first_seq + at as u64;
                records.push(format!("{seq}: {verb} {} ({fields} fields, clock {})", record.id(), frame.hlc.0));
            }
        }
    }
    Ok(json!({
        "kind": "log",
        "nsid": log.header.nsid.to_string(),
        "origin": log.header.origin.to_string(),
        "first_seq": log.header.first_seq,
        "frames": log.frames.len(),
        "records": total,
        "first_records": records,
        "valid_bytes": log.valid_bytes,
        "torn": log.torn,
    }))
}

/// Which of the small files it is, its body says.
fn metadata(bytes: &[u8], name: &str) -> Result<Json> {
    let encode = |kind: &str, body: serde_json::Result<Json>| {
        let mut body = body.map_err(|error| Error::internal(format!("print {name}: {error}")))?;
        body["kind"] = kind.into();
        Ok(body)
    };
    let manifest = match decode_manifest(bytes, name) {
        Ok((manifest, _)) => return encode("manifest", serde_json::to_value(manifest)),
        Err(error) => error,
    };
    if let Ok(binding) = decode_binding(bytes, name) {
        return encode("name binding", serde_json::to_value(binding));
    }
    if let Ok(node) = decode_node(bytes, name) {
        return encode("node", serde_json::to_value(node));
    }
    match decode_format(bytes, name) {
        Ok(format) => encode("format", serde_json::to_value(format)),
        Err(_) => Err(manifest),
    }
}

/// One line a fact, nested ones indented.
fn words(json: &Json) -> String {
    fn put(out: &mut String, depth: usize, name: &str, json: &Json) {
        let indent = "  ".repeat(depth);
        match json {
            Json::Object(fields) => {
                if !name.is_empty() {
                    let _ = writeln!(out, "{indent}{name}");
                }
                let deeper = depth + usize::from(!name.is_empty());
                for (name, json) in fields {
                    put(out, deeper, name, json);
                }
            }
            Json::Array(items) if !items.is_empty() => {
                let _ = writeln!(out, "{indent}{name}");
                for item in items {
                    match item {
                        Json::Object(_) => {
                            let _ = writeln!(out, "{indent}  -");
                            put(out, depth + 2, "", item);
                        }
                        other => {
                            let _ = writeln!(out, "{indent}  {}", scalar(other));
                        }
                    }
                }
            }
            other => {
                let _ = writeln!(out, "{indent}{name}: {}", scalar(other));
            }
        }
    }
    let mut out = String::new();
    put(&mut out, 0, "", json);
    out
}

fn scalar(json: &Json) -> String {
    match json {
        Json::String(text) => text.clone(),
        Json::Array(_) => "none".to_owned(),
        Json::Null => "none".to_owned(),
        other => other.to_string(),
    }
}
