//! Writes a namespace's documents as NDJSON, at one state, one document in memory at a time.
//!
//! - The first line says what is needed to make an equal namespace: `{"shoal_export":1,...}`.
//! - Then come the documents, see [`super::rows`].
//! - The last line, `{"shoal_export_end":{...}}`, has their number and the CRC-32C of all bytes before it. Without it an
//!   export is cut short.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::rows::Columns;
use crate::engine::namespace::Moment;
use crate::error::{Context, Error, Result};
use crate::model::ids::{CommitId, Hlc, IdType};
use crate::model::schema::Metric;
use crate::model::schema_render;
use crate::model::version_vector::VersionVector;

/// The format of the lines.
pub const VERSION: u32 = 1;

/// The first line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Begin {
    /// The format of the lines.
    pub shoal_export: u32,
    /// `org/project/name` of what was exported.
    pub namespace: String,
    pub id_type: Option<IdType>,
    pub distance_metric: Option<Metric>,
    /// As the API takes it.
    pub schema: BTreeMap<String, Json>,
    /// Attributes that were dropped, and how often: an attribute that is declared again must not be taken for the old one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dropped: Vec<(String, u32)>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    pub documents: u64,
    pub commit: CommitId,
    pub data_seq: u64,
    pub hlc: Hlc,
    /// What the state has seen, so that the copy can be compared with its relatives.
    pub version_vector: VersionVector,
}

/// The last line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct End {
    pub shoal_export_end: Totals,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Totals {
    pub documents: u64,
    /// Of all bytes before this line: 8 hexadecimal digits.
    pub crc32c: String,
}

/// Writes the documents of `moment`; gives their number. Blocking.
pub fn export(moment: &Arc<Moment>, out: &mut dyn Write) -> Result<u64> {
    let mut out = Summed { out, crc32c: 0 };
    // It may be read when nothing else is left: nothing is believed for having been right before.
    let view = &moment.view.unchecked();
    let expected = view.documents();
    let begin = begin(moment, expected);
    let mut line = Vec::new();
    serde_json::to_writer(&mut line, &begin).map_err(|error| Error::internal(format!("write an export: {error}")))?;
    line.push(b'\n');
    out.put(&mut line)?;
    let columns = Columns::new(&view.schema);
    let mut written = 0;
    for part in &view.segments {
        let rows = part.live_rows();
        let mut scan = part.segment.scan_of(&rows, None)?;
        for row in rows {
            columns.write(&scan.document(row, None)?, &mut line)?;
            out.put(&mut line)?;
            written += 1;
        }
    }
    for (_, row) in view.tail.iter() {
        columns.write(&row.document, &mut line)?;
        out.put(&mut line)?;
        written += 1;
    }
    if written != expected {
        return Err(Error::internal(format!("export {}: {written} documents, expected {expected}", view.name)));
    }
    let end = End { shoal_export_end: Totals { documents: written, crc32c: format!("{:08x}", out.crc32c) } };
    serde_json::to_writer(&mut line, &end).map_err(|error| Error::internal(format!("write an export: {error}")))?;
    line.push(b'\n');
    out.put(&mut line)?;
    out.out.flush().context(|| "write an export")?;
    Ok(written)
}

fn begin(moment: &Moment, documents: u64) -> Begin {
    let (manifest, schema) = (&moment.manifest, &moment.view.schema);
    let attributes = match schema_render::metadata(schema) {
        Json::Object(attributes) => attributes.into_iter().filter(|(name, _)| name != "id").collect(),
        _ => BTreeMap::new(),
    };
    Begin {
        shoal_export: VERSION,
        namespace: moment.view.name.clone(),
        id_type: schema.id_type,
        distance_metric: schema.metric,
        schema: attributes,
        dropped: schema.dropped.clone(),
        labels: manifest.labels.clone(),
        documents,
        commit: manifest.commit_id,
        data_seq: manifest.data_seq,
        hlc: manifest.hlc.max(moment.vector.newest()),
        version_vector: moment.vector.clone(),
    }
}

struct Summed<'a> {
    out: &'a mut dyn Write,
    crc32c: u32,
}

impl Summed<'_> {
    /// Writes a line and empties it.
    fn put(&mut self, line: &mut Vec<u8>) -> Result<()> {
        self.crc32c = crc32c::crc32c_append(self.crc32c, line);
        self.out.write_all(line).context(|| "write an export")?;
        line.clear();
        Ok(())
    }
}
