//! Read-only bytes of a whole file: mapped from the disk, or held in memory by a test's disk; and of a file that is filled range
//! by range while it is mapped.
//!
//! Invariants:
//! - A mapped file is immutable. Objects are written once, synced and renamed into place before anything maps them, and are
//!   removed by unlink, never truncated; so the map stays valid for as long as it lives.
//! - Where the disk or an operator breaks that, the map is lost: all of it reads as zeros from then on, and [`Mapping::is_lost`] says
//!   so to who asks after having read. See `lost_pages`.
//! - A file that is filled has its full length before it is mapped. A range of it is written before anybody is told that it is
//!   there, nobody reads it before, and it never changes afterwards.

use std::cell::UnsafeCell;
use std::fmt;
use std::fs::File;
use std::io;
use std::ops::{Deref, Range};
use std::sync::Arc;

use bytes::Bytes;

use super::lost_pages::Watch;
use super::reads;
use crate::error::{DISK_FULL, Error, Result};

/// The code of errors about bytes for which there is no room: what is open has to be begun anew first.
pub const FULL: &str = "tier_full";
/// The code of errors about bytes for which room cannot be made.
pub const TOO_SMALL: &str = "tier_too_small";

/// Whether bytes did not come because there is no room for them here: they can be read past the file.
pub fn lacks_room(error: &Error) -> bool {
    [FULL, TOO_SMALL, DISK_FULL].contains(&error.code())
}

/// Bytes that are being read: called, it waits for them, and gives those of each range.
pub type Coming = Box<dyn FnOnce() -> Result<Vec<Bytes>> + Send>;

/// Brings ranges of a file that is not all here.
pub trait Fill: Send + Sync + fmt::Debug {
    /// How many bytes have to be brought for these ranges.
    fn missing(&self, ranges: &[Range<u64>]) -> u64;
    /// Begins to bring what of these ranges is not here; nobody waits.
    fn ask(&self, ranges: &[Range<u64>]);
    /// Returns when all of these ranges are here; an error by [`lacks_room`] when they do not fit. Blocks.
    fn fill(&self, ranges: &[Range<u64>]) -> Result<()>;
    /// Whether there is room for so many bytes that are wanted once, with room left for what every query needs.
    fn has_room(&self, bytes: u64) -> bool;
    /// Whether so many bytes are more than room can be made for where there is none.
    fn is_wide(&self, bytes: u64) -> bool;
    /// Begins to read ranges into memory, past the file.
    fn read(&self, ranges: Vec<Range<u64>>) -> Result<Coming>;
    /// Forgets a range whose bytes are wrong: the next time it is wanted it is brought again.
    fn forget(&self, range: Range<u64>);
    /// Says that these ranges are needed whatever is asked, so they are the last to go.
    fn keep(&self, ranges: &[Range<u64>]);
    /// Whether all of the file is here.
    fn is_full(&self) -> bool;
    /// Whether another file has taken its place: who opens it anew uses that one.
    fn is_replaced(&self) -> bool;
}

/// Waits until ranges of several files are here, brought side by side; what is here costs nothing.
pub fn bring(wanted: &[(&Mapping, Vec<Range<u64>>)]) -> Result<()> {
    let filled = || wanted.iter().filter_map(|(map, ranges)| Some((map.fill.as_ref()?, ranges)));
    let missing = filled().map(|(fill, ranges)| fill.missing(ranges)).sum();
    if missing > 0 {
        reads::brought(missing);
        filled().for_each(|(fill, ranges)| fill.ask(ranges));
    }
    // Also where nothing is missing: what is used is remembered as such.
    filled().try_for_each(|(fill, ranges)| fill.fill(ranges))
}

/// The bytes of one file. Cloning shares them.
#[derive(Clone, Debug)]
pub struct Mapping {
    source: Source,
    fill: Option<Arc<dyn Fill>>,
}

#[derive(Clone, Debug)]
enum Source {
    Mapped(Arc<Watched>),
    Memory(Arc<[u8]>),
    Live(Arc<LiveBytes>),
}

/// A map that is watched over. The watch is dropped first: fields are, in their order.
struct Watched {
    watch: Watch,
    map: memmap2::Mmap,
}

impl fmt::Debug for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.map, f)
    }
}

impl Mapping {
    /// Maps a whole file. An empty file gives no bytes rather than an error.
    pub fn of_file(file: &File) -> io::Result<Self> {
        if file.metadata()?.len() == 0 {
            return Ok(Self::of_bytes(Vec::new()));
        }
        // SAFETY: the file is immutable and only ever unlinked, or filled as the invariants say, kept true by the callers of
        // `Disk::map` and `Disk::map_live`, who map objects of the tier and nothing else.
        let map = unsafe { memmap2::Mmap::map(file)? };
        let watch = Watch::over(&map)?;
        Ok(Mapping { source: Source::Mapped(Arc::new(Watched { watch, map })), fill: None })
    }

    pub fn of_bytes(bytes: Vec<u8>) -> Self {
        Mapping { source: Source::Memory(bytes.into()), fill: None }
    }

    /// Bytes in memory that are written range by range, as a test's disk has them.
    pub fn of_live(bytes: Arc<LiveBytes>) -> Self {
        Mapping { source: Source::Live(bytes), fill: None }
    }

    /// The same bytes, of which `fill` brings those that are not here.
    pub fn filled_by(self, fill: Arc<dyn Fill>) -> Self {
        Mapping { fill: Some(fill), ..self }
    }

    /// What brings missing bytes; none where every byte is here.
    pub fn filling(&self) -> Option<&dyn Fill> {
        self.fill.as_deref()
    }

    /// Whether every byte is here.
    pub fn is_full(&self) -> bool {
        self.fill.as_ref().is_none_or(|fill| fill.is_full())
    }

    /// Whether a part of the file could not be read: then nothing that was read from this map so far is to be believed.
    pub fn is_lost(&self) -> bool {
        match &self.source {
            Source::Mapped(map) => map.watch.is_lost(),
            Source::Memory(_) | Source::Live(_) => false,
        }
    }

    /// An error with code `unreadable` when a part of the file, `name`, could not be read. For who has read, and is about to believe it.
    pub fn check_readable(&self, name: &str) -> Result<()> {
        if !self.is_lost() {
            return Ok(());
        }
        let lost =
            io::Error::other("a part of the file cannot be read: the disk does not give it, or the file was cut");
        Err(Error::reading(lost).context(name))
    }

    /// Waits until a range is here.
    pub fn bring(&self, range: Range<u64>) -> Result<()> {
        bring(&[(self, std::iter::once(range).collect())])
    }

    /// Some of the bytes, which are here.
    pub fn part(&self, range: Range<usize>) -> Option<&[u8]> {
        let (start, len) = match &self.source {
            Source::Mapped(map) => (map.map.as_ptr(), map.map.len()),
            Source::Memory(bytes) => (bytes.as_ptr(), bytes.len()),
            Source::Live(bytes) => (bytes.start(), bytes.len()),
        };
        if range.start > range.end || range.end > len {
            return None;
        }
        // SAFETY: the range lies within `len` bytes from `start`, which live as long as `self`, and no byte of it changes any
        // more: it is here.
        Some(unsafe { std::slice::from_raw_parts(start.add(range.start), range.end - range.start) })
    }
}

/// Of a file that is filled only the ranges that are here may be read.
impl Deref for Mapping {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.source {
            Source::Mapped(map) => &map.map,
            Source::Memory(bytes) => bytes,
            // SAFETY: as many bytes as there are, from their start; those that are read do not change any more.
            Source::Live(bytes) => unsafe { std::slice::from_raw_parts(bytes.start(), bytes.len()) },
        }
    }
}

/// Bytes in memory that are written while others read what was written before.
pub struct LiveBytes(Box<[UnsafeCell<u8>]>);

// SAFETY: who writes a range does so before anybody is told that it is there, and nobody reads it before; both sides are kept
// apart by the lock of what remembers which ranges are there.
unsafe impl Sync for LiveBytes {}

impl fmt::Debug for LiveBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} live bytes", self.0.len())
    }
}

impl LiveBytes {
    pub fn new(bytes: &[u8]) -> Self {
        LiveBytes(bytes.iter().map(|byte| UnsafeCell::new(*byte)).collect())
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn start(&self) -> *const u8 {
        UnsafeCell::raw_get(self.0.as_ptr())
    }

    /// Writes a range that nobody reads yet; what lies beyond the end is left out.
    pub fn write(&self, at: usize, bytes: &[u8]) {
        for (cell, byte) in self.0.iter().skip(at).zip(bytes) {
            // SAFETY: nobody reads this byte yet, and a range has one writer.
            unsafe { *cell.get() = *byte };
        }
    }
}
