//! What goes wrong once, or for a moment, with a disk in memory: the operations before it and after it go well.

use std::io;
use std::path::{Path, PathBuf};

use super::{MemoryDisk, Node, State};

/// One operation that goes wrong, or some in a row.
#[derive(Clone, Debug)]
pub struct Mishap {
    /// How many operations that it could happen to go well before.
    pub after: u64,
    /// Only files and directories whose path has this in it.
    pub within: Option<String>,
    pub kind: MishapKind,
}

/// What goes wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MishapKind {
    /// It fails and has no effect.
    Fails(io::ErrorKind),
    /// What changes something has its effect, and fails all the same.
    FailsAfter(io::ErrorKind),
    /// Half of what is written comes into the file, and the write fails.
    WritesHalf(io::ErrorKind),
    /// One bit of what is read is wrong: this one, counted round.
    ReadsWrong(u64),
    /// The disk goes away: what changes something has its effect, and fails, and so many of the next operations fail without one.
    GoesAway(io::ErrorKind, u32),
    /// So many operations in a row fail and have no effect.
    StaysAway(io::ErrorKind, u32),
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Look,
    Read,
    Change,
    Write,
}

/// What it does that with.
#[derive(Clone, Copy)]
pub(super) enum On<'a> {
    Path(&'a Path),
    File(usize),
}

/// What happens to an operation that does not fail before it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Harm {
    None,
    FailsAfter(io::ErrorKind),
    WritesHalf(io::ErrorKind),
    ReadsWrong(u64),
}

impl MishapKind {
    fn can_happen_to(self, act: Act) -> bool {
        match self {
            MishapKind::Fails(_) | MishapKind::StaysAway(..) => true,
            MishapKind::FailsAfter(_) | MishapKind::GoesAway(..) => matches!(act, Act::Change | Act::Write),
            MishapKind::WritesHalf(_) => act == Act::Write,
            MishapKind::ReadsWrong(_) => act == Act::Read,
        }
    }
}

impl Harm {
    /// What comes into the file of what is written.
    pub(super) fn kept(self, bytes: &[u8]) -> &[u8] {
        match self {
            Harm::WritesHalf(_) => &bytes[..bytes.len() / 2],
            _ => bytes,
        }
    }

    /// What is told of an operation that had its effect.
    pub(super) fn told<T>(self, done: T) -> io::Result<T> {
        match self {
            Harm::FailsAfter(kind) | Harm::WritesHalf(kind) => Err(injected(kind)),
            Harm::None | Harm::ReadsWrong(_) => Ok(done),
        }
    }

    pub(super) fn spoil(self, bytes: &mut [u8]) {
        if let (Harm::ReadsWrong(bit), false) = (self, bytes.is_empty()) {
            let bit = bit % (bytes.len() as u64 * 8);
            bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
        }
    }
}

impl MemoryDisk {
    /// Changes a file where it lies, durably. Who has it mapped keeps what was there.
    pub fn rot(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) -> io::Result<()> {
        let mut state = self.state();
        let file = state.file(path)?;
        let content = &mut state.files[file];
        change(&mut content.now);
        content.durable.clone_from(&content.now);
        content.changed = None;
        Ok(())
    }

    /// Makes everything fail that is done with a file, for good; with `None` no file any more.
    pub fn set_unreadable(&self, path: Option<PathBuf>) {
        self.state().unreadable = path;
    }
}

impl State {
    /// What is planned for this operation. An error when it is to fail before it begins.
    pub(super) fn harm(&mut self, act: Act, on: On<'_>, number: u64) -> io::Result<Harm> {
        if self.mishap.is_none() && self.unreadable.is_none() {
            return Ok(Harm::None);
        }
        let path = match on {
            On::Path(path) => Some(path),
            On::File(file) => {
                let known = self.names.iter().find(|(_, node)| **node == Node::File(file));
                known.map(|(path, _)| path.as_path())
            }
        };
        if path.is_some() && path == self.unreadable.as_deref() {
            return Err(io::Error::other("injected, for good"));
        }
        let Some(mishap) = &self.mishap else { return Ok(Harm::None) };
        let path = path.map(|path| path.display().to_string()).unwrap_or_default();
        let is_meant = mishap.within.as_ref().is_none_or(|within| path.contains(within));
        if !is_meant || !mishap.kind.can_happen_to(act) {
            return Ok(Harm::None);
        }
        let kind = mishap.kind;
        if let Some(mishap) = self.mishap.as_mut().filter(|mishap| mishap.after > 0) {
            mishap.after -= 1;
            return Ok(Harm::None);
        }
        let rest = match kind {
            MishapKind::GoesAway(error, times) | MishapKind::StaysAway(error, times @ 2..) => {
                Some(MishapKind::StaysAway(error, times - u32::from(matches!(kind, MishapKind::StaysAway(..)))))
            }
            _ => None,
        };
        self.mishap = self.mishap.take().zip(rest).map(|(mishap, kind)| Mishap { kind, ..mishap });
        self.happened.push(format!("operation {number}, {act:?} of {path}: {kind:?}"));
        match kind {
            MishapKind::Fails(kind) | MishapKind::StaysAway(kind, _) => Err(injected(kind)),
            MishapKind::FailsAfter(kind) | MishapKind::GoesAway(kind, _) => Ok(Harm::FailsAfter(kind)),
            MishapKind::WritesHalf(kind) => Ok(Harm::WritesHalf(kind)),
            MishapKind::ReadsWrong(bit) => Ok(Harm::ReadsWrong(bit)),
        }
    }
}

fn injected(kind: io::ErrorKind) -> io::Error {
    io::Error::new(kind, "injected, once")
}
