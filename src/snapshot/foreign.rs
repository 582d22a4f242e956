//! What comes from elsewhere must be a state that writes and merges here could have made; refused with words before any of it has a
//! name, because nobody could go on from another.

use std::collections::BTreeMap;

use super::check_clock;
use crate::engine::check_labels;
use crate::engine::write::check_schema;
use crate::error::{Error, Result};
use crate::format::manifest::{Manifest, ORIGINS_MAX};
use crate::model::ids::{IdType, Project, Version};
use crate::model::schema::Schema;
use crate::model::version_vector::VersionVector;
use crate::segment::Segment;

/// So many commits nobody makes, and counting goes on from there.
const COMMITS_MAX: u64 = 1 << 62;

/// Checks what a manifest says of a namespace, beside its objects.
pub(super) fn check_manifest(manifest: &Manifest) -> Result<()> {
    check_clock("the snapshot's manifest", manifest.hlc.max(manifest.version_vector.newest()).max(manifest.horizon))?;
    let whose = "the snapshot's manifest is of no state that a namespace can come to";
    check_facts(&manifest.schema, &manifest.labels, &manifest.version_vector, manifest.data_seq)
        .map_err(|error| error.context(whose).with_hint("nothing was changed; take the snapshot again"))?;
    let Some(lineage) = &manifest.lineage else { return Ok(()) };
    check_clock("the snapshot's lineage", lineage.hlc.max(lineage.since))?;
    // Early releases did not say it.
    if !lineage.name.is_empty() && !is_full_name(&lineage.name) {
        let bytes = lineage.name.len();
        return Err(Error::invalid(format!(
            "the parent's name has {bytes} bytes and is none, expected org/project/name"
        )));
    }
    Ok(())
}

fn is_full_name(text: &str) -> bool {
    text.contains('/') && Project::default_project().find(text).is_ok()
}

/// Checks what both snapshots and exports say.
pub(super) fn check_facts(
    schema: &Schema,
    labels: &BTreeMap<String, String>,
    vector: &VersionVector,
    commits: u64,
) -> Result<()> {
    check_schema(schema)?;
    check_labels(labels)?;
    // Whoever writes to it is one more.
    if vector.len() >= ORIGINS_MAX {
        return Err(Error::invalid(format!(
            "it has commits of {} writers, expected less than {ORIGINS_MAX}",
            vector.len()
        )));
    }
    if commits > COMMITS_MAX {
        return Err(Error::invalid(format!("its newest commit is number {commits}, expected at most {COMMITS_MAX}")));
    }
    Ok(())
}

/// Checks that nothing in a segment is newer than the state that names it: what is written after such a state is newer than all that
/// it has, and a deletion from the future would take it away again.
pub(super) fn check_versions(manifest: &Manifest, segment: &Segment) -> Result<()> {
    let newest = manifest.hlc.max(manifest.version_vector.newest());
    let too_new = |what: String, version: Version| {
        Err(Error::invalid(format!(
            "segment {} has {what} of clock {}, and the newest commit of its state is of clock {}",
            segment.segment_id(),
            version.hlc.0,
            newest.0
        )))
    };
    if let Some(row) = segment.rows_by_version(|version| version.hlc > newest)?.min() {
        return too_new(format!("document {}", segment.id_of(row)?), segment.version_of(row)?);
    }
    match segment.tombstones()?.into_iter().find(|tombstone| tombstone.version.hlc > newest) {
        Some(tombstone) => too_new(format!("a deletion of document {}", tombstone.id), tombstone.version),
        None => Ok(()),
    }
}

/// Checks that a segment's documents are ones that a namespace of this schema can have.
pub(super) fn check_segment(schema: &Schema, segment: &Segment) -> Result<()> {
    let id = segment.segment_id();
    if segment.rows() > 0 && segment.id_type().is_some_and(|found| schema.id_type != Some(found)) {
        let name = |id_type: Option<IdType>| id_type.map_or("of no type", |known| known.name());
        return Err(Error::invalid(format!(
            "segment {id} has ids that are {}, the schema says {}",
            name(segment.id_type()),
            name(schema.id_type)
        )));
    }
    if schema.metric.is_some() {
        return Ok(());
    }
    for column in schema.columns.iter().filter(|column| column.has_ann()) {
        let vectors = segment.vectors(column.uid())?.map_or(0, |vectors| vectors.count());
        let tokens = segment.tokens(column.uid())?.map_or(0, |tokens| tokens.count());
        if vectors + tokens > 0 {
            return Err(Error::invalid(format!(
                "segment {id} has vectors of attribute '{}', and the schema says no distance metric",
                column.name
            ))
            .with_attribute(&column.name));
        }
    }
    Ok(())
}
