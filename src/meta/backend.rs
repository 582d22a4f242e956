//! redb's file behind the `Disk` seam, so that its faults can be injected too.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use redb::{Database, StorageBackend};

use super::CACHE_BYTES;
use crate::error::{Context, Error, Result};
use crate::platform::disk::{Disk, RandomFile};

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

/// Opens the database in a file, which is made where it is missing. Every page of it is looked at, unless it is as it was sealed.
pub(super) fn open_database(disk: &dyn Disk, path: &Path, is_sealed: bool) -> Result<Database> {
    let (step, is_new) = (|| format!("open {}", path.display()), disk.size(path).is_err());
    let file = disk.random_access(path).context(step)?;
    if is_new {
        disk.sync_dir(path.parent().unwrap_or(Path::new("/"))).context(step)?;
    }
    let opened = catch_unwind(AssertUnwindSafe(|| -> Result<Database, redb::Error> {
        let mut database =
            redb::Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(Backend::new(file))?;
        if !is_sealed {
            database.check_integrity()?;
        }
        Ok(database)
    }));
    match opened {
        Ok(Ok(database)) => Ok(database),
        Ok(Err(error)) => Err(from_redb(error)),
        Err(_) => Err(Error::corrupt(format!("{}: a page does not make sense", path.display()))),
    }
}

pub(super) fn from_redb(error: redb::Error) -> Error {
    match error {
        // The file is shorter than it says.
        redb::Error::Io(error)
            if [io::ErrorKind::UnexpectedEof, io::ErrorKind::InvalidData].contains(&error.kind()) =>
        {
            Error::corrupt(error.to_string())
        }
        redb::Error::Io(error) => error.into(),
        redb::Error::Corrupted(what) => Error::corrupt(what),
        // Its tables are those that were made when it was opened.
        other @ (redb::Error::UpgradeRequired(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableIsMultimap(_)
        | redb::Error::TableIsNotMultimap(_)
        | redb::Error::TypeDefinitionChanged { .. }
        | redb::Error::TableDoesNotExist(_)) => Error::corrupt(other.to_string()),
        other => Error::internal(other.to_string()),
    }
}
