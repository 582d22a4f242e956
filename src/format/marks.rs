//! Marks beside an incarnation's manifests: its tags, and the mark of its deletion.

use serde::{Deserialize, Serialize};

use super::envelope;
use super::manifest::{Manifest, check, upgrade};
use crate::error::{Error, Result};
use crate::model::ids::{Hlc, Nsid};

pub const VERSION: u32 = 1;

/// A tag's newest revision: one commit by a name, until it is deleted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TagFile {
    pub format: u32,
    pub tag: String,
    /// This revision, from 0.
    pub rev: u64,
    pub at_ms: u64,
    /// The tagged state whole, so that it does not depend on what becomes of the chain; `None`: the tag was deleted.
    pub manifest: Option<Manifest>,
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

pub fn encode_deleted(file: &DeletedFile) -> Result<Vec<u8>> {
    envelope::seal(file).map(|(bytes, _)| bytes)
}

pub fn decode_deleted(bytes: &[u8], name: &str) -> Result<DeletedFile> {
    envelope::open(bytes, VERSION, name).map(|(file, _)| file)
}
