//! Puts a snapshot in a file: written beside its place, read again as a restore would, and then shown whole.

use std::io::{BufReader, BufWriter, Read, Write, sink};
use std::path::Path;
use std::sync::Arc;

use crate::error::{Context, Error, Result};
use crate::format::snapshot::SnapshotReader;
use crate::platform::disk::Disk;
use crate::platform::new_file::NewFile;

/// How much is written and read at once.
const BUFFER_BYTES: usize = 256 << 10;

/// A snapshot that is in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The commit that it is of.
    pub commit_id: String,
    pub bytes: u64,
}

/// Makes the file of what `fill` writes. It is under its name, whole and durable, or what was there before is; after an
/// error of the last step it may be whole and not durable yet.
pub fn keep(disk: Arc<dyn Disk>, path: &Path, fill: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<Kept> {
    let write = || format!("write {}", path.display());
    let mut new = NewFile::create(disk, path).context(|| format!("create {}", path.display()))?;
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, &mut new);
    fill(&mut out)?;
    out.flush().context(write)?;
    drop(out);
    let input = new.read().context(|| "read the snapshot again")?;
    let kept = verify(input).map_err(|error| error.context("the snapshot is not kept"))?;
    new.keep().context(write)?;
    Ok(kept)
}

/// Reads the file as a restore would.
fn verify(input: impl Read) -> Result<Kept> {
    let mut reader = SnapshotReader::open(BufReader::with_capacity(BUFFER_BYTES, input), "snapshot")?;
    while reader.next_member().is_some() {
        reader.copy_object(&mut sink())?;
    }
    let commit_id = reader.manifest().commit_id.to_string();
    Ok::<_, Error>(Kept { commit_id, bytes: reader.finish()? })
}
