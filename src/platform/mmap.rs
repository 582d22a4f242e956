//! Read-only bytes of a whole file: mapped from the disk, or held in memory by a test's disk.
//!
//! Invariant: a mapped file is immutable. Objects are written once, synced and renamed into place before anything maps
//! them, and are removed by unlink, never truncated; so the map stays valid for as long as it lives.

use std::fs::File;
use std::ops::Deref;
use std::sync::Arc;

/// The bytes of one immutable file. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Mapping(Source);

#[derive(Clone, Debug)]
enum Source {
    Mapped(Arc<memmap2::Mmap>),
    Memory(Arc<[u8]>),
}

impl Mapping {
    /// Maps a whole file. An empty file gives no bytes rather than an error.
    pub fn of_file(file: &File) -> std::io::Result<Self> {
        if file.metadata()?.len() == 0 {
            return Ok(Self::of_bytes(Vec::new()));
        }
        // SAFETY: the file is immutable and only ever unlinked (invariant above), kept true by `Disk::map`'s callers,
        // who map objects of the tier and nothing else.
        let map = unsafe { memmap2::Mmap::map(file)? };
        Ok(Mapping(Source::Mapped(Arc::new(map))))
    }

    pub fn of_bytes(bytes: Vec<u8>) -> Self {
        Mapping(Source::Memory(bytes.into()))
    }
}

impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Source::Mapped(map) => map,
            Source::Memory(bytes) => bytes,
        }
    }
}
