//! A file of a disk in memory, open for appending or at offsets.

use std::io;

use super::mishap::{Act, Harm, On};
use super::{Content, MemoryDisk};
use crate::platform::disk::{DiskFile, RandomFile};

#[derive(Debug)]
pub(super) struct OpenFile {
    pub(super) disk: MemoryDisk,
    pub(super) file: usize,
    pub(super) life: u64,
}

impl OpenFile {
    fn with<T>(&self, act: Act, work: impl FnOnce(&mut Content, Harm) -> io::Result<T>) -> io::Result<T> {
        let (mut state, harm) = self.disk.operation(act, On::File(self.file))?;
        if state.life != self.life {
            return Err(io::Error::other("opened before the power was cut"));
        }
        work(&mut state.files[self.file], harm)
    }

    fn check_room(&self, bytes: usize) -> io::Result<()> {
        match bytes as u64 > self.disk.state().free_bytes() {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }

    fn barrier(&self) -> io::Result<()> {
        self.disk.state().barriers += 1;
        self.with(Act::Change, |content, harm| {
            content.make_durable();
            harm.told(())
        })
    }
}

impl DiskFile for OpenFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.check_room(bytes.len())?;
        self.disk.state().written_bytes += bytes.len() as u64;
        self.with(Act::Write, |content, harm| {
            let bytes = harm.kept(bytes);
            content.change(content.now.len(), content.now.len() + bytes.len());
            content.now.extend_from_slice(bytes);
            harm.told(())
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        self.barrier()
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        RandomFile::set_len(self, len)
    }
}

impl RandomFile for OpenFile {
    fn size(&self) -> io::Result<u64> {
        self.with(Act::Look, |content, _| Ok(content.now.len() as u64))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        let size = self.disk.state().files[self.file].now.len();
        self.check_room(len.saturating_sub(size))?;
        self.with(Act::Change, |content, harm| {
            content.resize(len);
            harm.told(())
        })
    }

    fn read_at(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        self.with(Act::Read, |content, harm| {
            let bytes = content.now.get(start..).and_then(|rest| rest.get(..out.len()));
            out.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
            harm.spoil(out);
            Ok(())
        })
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let start = usize::try_from(offset).map_err(io::Error::other)?;
        let size = self.disk.state().files[self.file].now.len();
        self.check_room((start + bytes.len()).saturating_sub(size))?;
        self.disk.state().written_bytes += bytes.len() as u64;
        self.with(Act::Write, |content, harm| {
            let bytes = harm.kept(bytes);
            let end = start + bytes.len();
            content.resize(end.max(content.now.len()));
            content.change(start, end);
            content.now[start..end].copy_from_slice(bytes);
            content.live.upgrade().inspect(|live| live.write(start, bytes));
            harm.told(())
        })
    }

    fn sync(&self) -> io::Result<()> {
        self.barrier()
    }
}
