//! redb's file behind the `Disk` seam, so that its faults can be injected too.

use std::io;

use redb::StorageBackend;

use crate::platform::disk::RandomFile;

#[derive(Debug)]
pub(super) struct Backend(Box<dyn RandomFile>);

impl Backend {
    pub(super) fn new(file: Box<dyn RandomFile>) -> Self {
        Backend(file)
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        self.0.size()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read_at(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, data)
    }
}
