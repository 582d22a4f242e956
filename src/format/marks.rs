//! Marks beside an incarnation's manifests: its tags, what is known of those in the bucket, and the mark of its deletion.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::envelope;
use super::manifest::{Manifest, check, is_key, upgrade};
use crate::error::{Error, Result};
use crate::model::ids::{Hlc, Nsid};

pub const VERSION: u32 = 1;
/// The most tags of one namespace that are in a bucket, those included that were deleted a while ago.
pub const TAGS_SHARED_MAX: usize = 4_096;

/// A tag's newest revision: one commit by a name, until it is deleted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TagFile {
    pub format: u32,
    pub tag: String,
    /// This revision: when it was made, in milliseconds since 1970, and above those that its maker knew of. The highest holds.
    pub rev: u64,
    pub at_ms: u64,
    /// The tagged state whole, so that it does not depend on what becomes of the chain; `None`: the tag was deleted.
    pub manifest: Option<Manifest>,
}

/// What this node knows of an incarnation's tags in the bucket. Where it is lost all of them are compared anew.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TagsFile {
    pub format: u32,
    /// How often they had been changed, by the manifest there, when they were last compared.
    pub changes: u64,
    /// The newest revision there of each tag.
    pub revisions: BTreeMap<String, u64>,
}

/// Says that an incarnation was deleted, and can be had back for as long as its files are there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeletedFile {
    pub format: u32,
    pub nsid: Nsid,
    /// `org/project/name` when it was deleted.
    pub name: String,
    pub deleted_ms: u64,
    pub hlc: Hlc,
}

pub fn encode_tag(file: &TagFile) -> Result<Vec<u8>> {
    let checked = file.manifest.as_ref().map_or(Ok(()), check);
    checked.map_err(|what| Error::internal(format!("encode tag '{}': {what}", file.tag)))?;
    envelope::seal(file).map(|(bytes, _)| bytes)
}

pub fn decode_tag(bytes: &[u8], name: &str) -> Result<TagFile> {
    let (mut file, _) = envelope::open::<TagFile>(bytes, VERSION, name)?;
    if let Some(manifest) = &mut file.manifest {
        upgrade(manifest, name)?;
        check(manifest).map_err(|what| Error::corrupt(format!("{name}: {what}")))?;
    }
    Ok(file)
}

pub fn encode_tags(file: &TagsFile) -> Result<Vec<u8>> {
    check_tags(file).map_err(|what| Error::internal(format!("encode what is known of tags: {what}")))?;
    envelope::seal(file).map(|(bytes, _)| bytes)
}

pub fn decode_tags(bytes: &[u8], name: &str) -> Result<TagsFile> {
    let (file, _) = envelope::open::<TagsFile>(bytes, VERSION, name)?;
    check_tags(&file).map_err(|what| Error::corrupt(format!("{name}: {what}")))?;
    Ok(file)
}

fn check_tags(file: &TagsFile) -> std::result::Result<(), String> {
    if file.revisions.len() > TAGS_SHARED_MAX {
        return Err(format!("{} tags, expected at most {TAGS_SHARED_MAX}", file.revisions.len()));
    }
    match file.revisions.keys().find(|tag| tag.contains('/') || !is_key(tag)) {
        Some(tag) => Err(format!("{tag:?} is no name of a tag")),
        None => Ok(()),
    }
}

pub fn encode_deleted(file: &DeletedFile) -> Result<Vec<u8>> {
    envelope::seal(file).map(|(bytes, _)| bytes)
}

pub fn decode_deleted(bytes: &[u8], name: &str) -> Result<DeletedFile> {
    envelope::open(bytes, VERSION, name).map(|(file, _)| file)
}
