//! What the index's file was at a clean stop: its length and checksum, in a small file beside it.
//!
//! redb does not look at a page's checksum when it reads it, and its own check of a whole file takes a hundred times as long as
//! summing it up. While the sum is right nothing happened to the file since it was closed; where it is not, or is not there,
//! redb's check decides, and everything is counted anew: where the last writes of a stop were not made durable, a later power cut may bring
//! back an older state that says of itself that the stop was clean.

use std::path::{Path, PathBuf};

use crate::error::{Context, Result};
use crate::platform::disk::{Disk, publish, unpublish};

const BLOCK_BYTES: u64 = 256 << 10;

/// The file beside an index.
fn beside(path: &Path) -> PathBuf {
    path.with_extension("sum")
}

/// Writes down what a closed file is. Nothing is lost without it.
pub(super) fn seal(disk: &dyn Disk, path: &Path) {
    let sealed = sum(disk, path).and_then(|sum| {
        let beside = beside(path);
        publish(disk, &beside, &sum).context(|| format!("write {}", beside.display()))
    });
    if let Err(error) = sealed {
        tracing::info!(%error, "the next start looks at every page of the index");
    }
}

/// Whether a file is what it was when it was sealed. It is not any more from now on, whatever a power cut brings back of it: where that
/// cannot be made durable, it was not.
pub(super) fn break_seal(disk: &dyn Disk, path: &Path) -> bool {
    let Ok(expected) = disk.read(&beside(path)) else { return false };
    let is_sealed = sum(disk, path).is_ok_and(|found| found == expected);
    is_sealed && unpublish(disk, &beside(path)).is_ok()
}

/// The length and the CRC-32C of a file.
fn sum(disk: &dyn Disk, path: &Path) -> Result<Vec<u8>> {
    let step = || format!("read {}", path.display());
    // Opening a file for random access makes it.
    let bytes = disk.size(path).context(step)?;
    let file = disk.random_access(path).context(step)?;
    let mut block = vec![0; BLOCK_BYTES.min(bytes) as usize];
    let (mut crc, mut at) = (0, 0);
    while at < bytes {
        let length = BLOCK_BYTES.min(bytes - at) as usize;
        file.read_at(at, &mut block[..length]).context(step)?;
        crc = crc32c::crc32c_append(crc, &block[..length]);
        at += length as u64;
    }
    let mut sum = bytes.to_le_bytes().to_vec();
    sum.extend(crc.to_le_bytes());
    Ok(sum)
}
