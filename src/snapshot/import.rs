//! Makes a namespace of an export: documents become segments as they come, and the name is bound when the last line says that
//! all of them are there.

use std::io::{BufRead, BufReader, Read};
use std::sync::Arc;

use super::check_clock;
use super::export::{Begin, End, VERSION};
use super::foreign::{check_facts, check_segment};
use super::rows::Columns;
use crate::engine::Engine;
use crate::engine::transfer::Newborn;
use crate::engine::write::apply_schema_update;
use crate::error::{Context, Error, Result};
use crate::format::manifest::{Manifest, SegmentRef};
use crate::model::document::Document;
use crate::model::ids::{DocId, NamespaceName, Version};
use crate::model::schema::Schema;
use crate::model::write::SchemaUpdate;
use crate::segment::Segment;
use crate::segment::builder::Entry;

/// The longest line: the largest document with its vectors in base64, and room for escapes.
const LINE_BYTES_MAX: u64 = 192 << 20;
/// Documents that count for this much, or as many, become a segment.
const SEGMENT_BYTES: u64 = 16 << 20;
const SEGMENT_ROWS: usize = 200_000;
/// What a document takes in memory beside its values.
const DOCUMENT_OVERHEAD_BYTES: u64 = 160;

/// Whether a first line is that of an export, and not a row of somebody's own.
pub fn is_export(first_line: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Mark {
        #[serde(rename = "shoal_export")]
        _version: u32,
    }
    serde_json::from_slice::<Mark>(first_line).is_ok()
}

/// Makes the namespace `name`, which must be free, of an export. Gives the number of documents. When a line is wrong or missing
/// nothing is changed.
pub async fn import(engine: &Arc<Engine>, name: &NamespaceName, input: impl Read + Send + 'static) -> Result<u64> {
    let newborn = engine.newborn(name)?;
    let read = tokio::task::spawn_blocking(move || receive(newborn, BufReader::new(input))).await;
    let (newborn, manifest) = read.map_err(|error| Error::internal(format!("import: {error}")))??;
    newborn.bind(manifest).await
}

fn receive(newborn: Newborn, input: impl BufRead) -> Result<(Newborn, Manifest)> {
    let mut lines = Lines { input, number: 0, line: Vec::new(), crc32c: 0, before: 0 };
    if !lines.next()? {
        return Err(Error::invalid("the export is empty"));
    }
    let begin = read_begin(&lines.line)?;
    check_clock("line 1", begin.hlc.max(begin.version_vector.newest()))?;
    let mut manifest = first_manifest(&newborn, &begin)?;
    let unversioned = Version { hlc: manifest.hlc, origin: manifest.origin };
    let schema = manifest.schema.clone();
    let columns = Columns::new(&schema);
    let mut scratch = Vec::new();
    let mut incoming = Incoming { newborn, schema: &schema, batch: Vec::new(), bytes: 0, segments: Vec::new() };
    let mut documents = 0;
    let totals = loop {
        if !lines.next()? {
            return Err(Error::invalid(format!(
                "the export is cut short: it ends after {documents} of {} documents, without its last line",
                begin.documents
            ))
            .with_hint("export again; nothing was changed"));
        }
        if let Ok(end) = serde_json::from_slice::<End>(&lines.line) {
            break end.shoal_export_end;
        }
        let read = columns.read(&lines.line, unversioned, &mut scratch);
        let document = read.map_err(|error| error.context(format!("line {}", lines.number)))?;
        documents += 1;
        check_clock(format_args!("line {}", lines.number), document.version.hlc)?;
        manifest.hlc = manifest.hlc.max(document.version.hlc);
        incoming.add(document)?;
    };
    if totals.documents != documents || begin.documents != documents {
        return Err(Error::invalid(format!(
            "the export has {documents} documents, expected {} by its first and {} by its last line",
            begin.documents, totals.documents
        )));
    }
    let found = format!("{:08x}", lines.before);
    if totals.crc32c != found {
        return Err(Error::invalid(format!(
            "the export was altered: checksum is {found}, expected {}",
            totals.crc32c
        ))
        .with_hint("export again; nothing was changed"));
    }
    if lines.next()? {
        return Err(Error::invalid(format!("line {}: the export goes on after its last line", lines.number)));
    }
    incoming.flush()?;
    manifest.segments = incoming.segments.into_iter().map(|(reference, _)| reference).collect();
    Ok((incoming.newborn, manifest))
}

fn read_begin(line: &[u8]) -> Result<Begin> {
    #[derive(serde::Deserialize)]
    struct Mark {
        shoal_export: u32,
    }
    let no_export = |error: serde_json::Error| {
        Error::invalid(format!(
            "line 1: expected the first line of an export, {{\"shoal_export\":{VERSION},...}}: {error}"
        ))
        .with_hint("rows of your own go through the write route, or `shoal import`")
    };
    let Mark { shoal_export } = serde_json::from_slice(line).map_err(no_export)?;
    if shoal_export > VERSION {
        return Err(Error::unsupported(format!(
            "export of format version {shoal_export}, this release reads up to {VERSION}"
        ))
        .with_hint("use a release of Shoal that knows this version"));
    }
    serde_json::from_slice(line).map_err(no_export)
}

fn first_manifest(newborn: &Newborn, begin: &Begin) -> Result<Manifest> {
    let empty = Schema {
        id_type: begin.id_type,
        metric: begin.distance_metric,
        dropped: begin.dropped.clone(),
        ..Schema::default()
    };
    let update = SchemaUpdate { attributes: begin.schema.clone() };
    let schema = apply_schema_update(&empty, &update, false)?;
    check_facts(&schema, &begin.labels, &begin.version_vector, begin.data_seq)
        .map_err(|error| error.context("line 1"))?;
    let mut manifest = newborn.empty_manifest(schema);
    manifest.labels = begin.labels.clone();
    manifest.data_seq = begin.data_seq;
    manifest.hlc = manifest.hlc.max(begin.hlc);
    manifest.version_vector = begin.version_vector.clone();
    // An export has no tombstones; relatives must know that.
    manifest.horizon = begin.hlc;
    Ok(manifest)
}

/// Documents on their way into segments.
struct Incoming<'a> {
    newborn: Newborn,
    schema: &'a Schema,
    batch: Vec<Document>,
    bytes: u64,
    segments: Vec<(SegmentRef, Segment)>,
}

impl Incoming<'_> {
    fn add(&mut self, document: Document) -> Result<()> {
        self.bytes += document.logical_bytes() + DOCUMENT_OVERHEAD_BYTES;
        self.batch.push(document);
        if self.bytes >= SEGMENT_BYTES || self.batch.len() >= SEGMENT_ROWS {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.bytes = 0;
        let mut batch = std::mem::take(&mut self.batch);
        batch.sort_by(|a, b| a.id.cmp(&b.id));
        self.check_new(&batch)?;
        let entry = |document| Entry::Row { document: Arc::new(document), terms: Vec::new() };
        let entries: Vec<Entry> = batch.into_iter().map(entry).collect();
        if let Some(reference) = self.newborn.build(self.schema, &entries)? {
            let segment = self.newborn.open(&reference)?;
            check_segment(self.schema, &segment)?;
            self.segments.push((reference, segment));
        }
        Ok(())
    }

    /// A document may be there once only.
    fn check_new(&self, batch: &[Document]) -> Result<()> {
        let twice = |id: &DocId| Error::invalid(format!("the export has document {id} twice"));
        if let Some(two) = batch.windows(2).find(|two| two[0].id == two[1].id) {
            return Err(twice(&two[0].id));
        }
        for document in batch {
            for (_, segment) in &self.segments {
                if segment.row_of(&document.id)?.is_some() {
                    return Err(twice(&document.id));
                }
            }
        }
        Ok(())
    }
}

/// Lines of bounded length, with the checksum of what was read.
struct Lines<I> {
    input: I,
    number: u64,
    line: Vec<u8>,
    crc32c: u32,
    /// The checksum before the line that was read last.
    before: u32,
}

impl<I: BufRead> Lines<I> {
    /// Reads the next line that is not blank; `false` after the last.
    fn next(&mut self) -> Result<bool> {
        loop {
            self.line.clear();
            self.number += 1;
            let mut bounded = self.input.by_ref().take(LINE_BYTES_MAX);
            let read = bounded.read_until(b'\n', &mut self.line).context(|| format!("read line {}", self.number))?;
            if read as u64 == LINE_BYTES_MAX {
                return Err(Error::invalid(format!(
                    "line {}: longer than {LINE_BYTES_MAX} bytes, no document is",
                    self.number
                )));
            }
            self.before = self.crc32c;
            self.crc32c = crc32c::crc32c_append(self.crc32c, &self.line);
            if read == 0 {
                return Ok(false);
            }
            if !self.line.trim_ascii().is_empty() {
                return Ok(true);
            }
        }
    }
}
