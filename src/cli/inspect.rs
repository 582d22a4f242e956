//! `shoal inspect`: any object of a data directory or bucket, in words.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::Serialize;
use serde_json::{Value as Json, json};
use uuid::Uuid;

use super::output;
use crate::error::{Context, Error, Result};
use crate::format::claims::{decode_claim, decode_told};
use crate::format::conflicts::decode_conflicts;
use crate::format::log::decode_log;
use crate::format::manifest::decode_manifest;
use crate::format::marks::{decode_deleted, decode_tag, decode_tags};
use crate::format::names::decode_binding;
use crate::format::node::{decode_format, decode_node};
use crate::format::reclaim::{decode_hold, decode_sweep};
use crate::format::record::Record;
use crate::format::traffic::decode_traffic;
use crate::format::uploads::decode_upload;
use crate::format::{answers, deletions, ranges};
use crate::platform::disk::{Disk, if_there};
use crate::platform::real_disk::RealDisk;
use crate::segment::Segment;

/// The code of the error of a file that is none of Shoal's.
pub(super) const UNKNOWN_KIND: &str = "unknown_kind";
/// The most records of a log that are listed.
const RECORDS_MAX: usize = 100;

#[derive(Args)]
pub struct Inspect {
    /// Any file of a data directory or a bucket, in its place; a small one elsewhere is known by what is in it
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
    let placed = std::path::absolute(path).context(|| format!("find {name}"))?;
    // Whatever it is, it has to be there.
    let bytes = disk.size(path).context(|| format!("read {name}"))?;
    if let Some(kind) = other(&placed) {
        return Ok(json!({"kind": kind, "bytes": bytes}));
    }
    if area(&placed) == Some("going") {
        return small(&disk.read(path).context(|| format!("read {name}"))?, &name, Some(UPLOAD));
    }
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
        Some("json") => small(&disk.read(path).context(|| format!("read {name}"))?, &name, small_at(&placed)),
        None if path.file_name().is_some_and(|file| file == "CURRENT") => {
            let bytes = disk.read(path).context(|| format!("read {name}"))?;
            let newest = String::from_utf8_lossy(&bytes).trim().parse::<u64>().ok();
            Ok(json!({"kind": "hint at the newest generation", "generation": newest}))
        }
        _ => Err(unknown(&name)),
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

/// What a small file is called, and what it says.
type Small = (&'static str, fn(&[u8], &str) -> Result<Json>);

const MANIFEST: Small = ("manifest", |bytes, name| body(decode_manifest(bytes, name)?.0));
const BINDING: Small = ("name binding", |bytes, name| body(decode_binding(bytes, name)?));
const CONFLICTS: Small = ("conflicts", |bytes, name| body(decode_conflicts(bytes, name)?));
const TAG: Small = ("tag", |bytes, name| body(decode_tag(bytes, name)?));
const TAGS: Small = ("tags in the bucket", |bytes, name| body(decode_tags(bytes, name)?));
const DELETED: Small = ("mark of deletion", |bytes, name| body(decode_deleted(bytes, name)?));
const SWEEP: Small = ("sweep", |bytes, name| body(decode_sweep(bytes, name)?));
const HOLD: Small = ("hold", |bytes, name| body(decode_hold(bytes, name)?));
const CLAIM: Small = ("claim of ids", |bytes, name| body(decode_claim(bytes, name)?));
const TOLD: Small = ("ids given", |bytes, name| body(decode_told(bytes, name)?));
const NODE: Small = ("node", |bytes, name| body(decode_node(bytes, name)?));
const FORMAT: Small = ("format", |bytes, name| body(decode_format(bytes, name)?));
const TRAFFIC: Small = ("traffic", |bytes, name| body(decode_traffic(bytes, name)?));
const UPLOAD: Small = ("upload that broke off", |bytes, name| body(decode_upload(bytes, name)?));
const ALL: [Small; 14] =
    [MANIFEST, BINDING, CONFLICTS, TAG, TAGS, DELETED, SWEEP, HOLD, CLAIM, TOLD, NODE, FORMAT, TRAFFIC, UPLOAD];

fn body(read: impl Serialize) -> Result<Json> {
    serde_json::to_value(read).map_err(|error| Error::internal(format!("print what was read: {error}")))
}

/// Which of the small files a path is, if it lies where storage-format.md says that one does.
fn small_at(path: &Path) -> Option<Small> {
    // From the file up.
    let mut above = path.iter().rev().map(|part| part.to_str().unwrap_or_default());
    let mut next = || above.next().unwrap_or_default();
    let (file, parent, second, third, fourth) = (next(), next(), next(), next(), next());
    let is_nsid = |text: &str| Uuid::parse_str(text).is_ok();
    match file {
        "node.json" => return Some(NODE),
        "_format.json" => return Some(FORMAT),
        "traffic.json" => return Some(TRAFFIC),
        "tags.json" if is_nsid(parent) => return Some(TAGS),
        "deleted.json" if is_nsid(parent) => return Some(DELETED),
        _ => {}
    }
    match (parent, second) {
        ("_ids", _) => Some(CLAIM),
        (_, "_ids") => Some(TOLD),
        (_, "names") => Some(BINDING),
        _ if fourth == "names" => Some(BINDING),
        ("manifests" | "bases", nsid) if is_nsid(nsid) => Some(MANIFEST),
        ("conflicts", nsid) if is_nsid(nsid) => Some(CONFLICTS),
        ("sweeps", nsid) if is_nsid(nsid) => Some(SWEEP),
        (_, "tags") if is_nsid(third) => Some(TAG),
        (_, "holds") if is_nsid(third) => Some(HOLD),
        (nsid, "local") if is_nsid(nsid) => Some(MANIFEST),
        _ => None,
    }
}

/// The directory of a data directory that an object lies below, by its key: `{org}/{project}/namespaces/{nsid}/...`.
fn area(path: &Path) -> Option<&str> {
    let parts: Vec<&str> = path.iter().filter_map(|part| part.to_str()).collect();
    let at = parts.iter().rposition(|part| *part == "namespaces")?;
    at.checked_sub(3).and_then(|at| parts.get(at).copied())
}

/// A file of which nothing is to be read but that it is there.
fn other(path: &Path) -> Option<&'static str> {
    let file = path.file_name()?.to_str()?;
    match file {
        "meta.redb" => Some("index"),
        "meta.sum" => Some("sum of the index"),
        _ if file.ends_with(".tmp") => Some("file that was not put in place"),
        _ if path.iter().any(|part| part == "_probe") => Some("what a probe left"),
        // How a directory that is a bucket has what is not whole yet.
        _ if file.contains('#') => Some("upload into a directory"),
        _ if path.iter().rev().nth(1).is_some_and(|dir| dir == "reserve") => Some("reserve for a full disk"),
        _ if area(path) == Some("coming") => Some("object on its way"),
        _ => None,
    }
}

/// One of the small files. Where it was taken elsewhere what is in it says which one; what is wrong with it is said of what belongs there.
fn small(bytes: &[u8], name: &str, place: Option<Small>) -> Result<Json> {
    let read = |(kind, read): Small| read(bytes, name).map(|body| (kind, body));
    let (kind, mut body) = match place.map(read) {
        Some(Ok(found)) => found,
        error => ALL.iter().find_map(|kind| read(*kind).ok()).ok_or_else(|| match error {
            Some(Err(error)) => error,
            _ => unknown(name),
        })?,
    };
    body["kind"] = kind.into();
    Ok(body)
}

fn unknown(name: &str) -> Error {
    Error::invalid(format!("{name}: is of no known kind, by its place, its name and what is in it"))
        .with_code(UNKNOWN_KIND)
        .with_hint("expected a file of a data directory or a bucket, in its place; storage-format.md lists them")
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
