//! How much a disk in memory has room for: bytes, and files and directories.

use std::io;

use super::{MemoryDisk, Node, State};

impl MemoryDisk {
    /// Lets all files together grow by so many bytes; writes beyond that fail. A file takes as much as its length.
    pub fn leave_free(&self, bytes: Option<u64>) {
        let mut state = self.state();
        state.capacity = bytes.map(|bytes| state.used_bytes() + bytes);
    }

    /// Lets so many more files and directories be made; making more fails, until some are removed.
    pub fn leave_free_files(&self, files: Option<u64>) {
        let mut state = self.state();
        state.names_max = files.map(|files| state.names.len() as u64 + files);
    }
}

impl State {
    pub(super) fn free_bytes(&self) -> u64 {
        self.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.used_bytes()))
    }

    fn used_bytes(&self) -> u64 {
        let length = |node: &Node| match node {
            Node::File(file) => self.files[*file].now.len() as u64,
            Node::Dir => 0,
        };
        self.names.values().map(length).sum()
    }

    pub(super) fn free_names(&self) -> Option<u64> {
        self.names_max.map(|max| max.saturating_sub(self.names.len() as u64))
    }

    /// Fails where no file or directory may be made.
    pub(super) fn check_names(&self) -> io::Result<()> {
        match self.free_names() {
            Some(0) => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(()),
        }
    }
}
