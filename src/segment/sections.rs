//! The sections of one open segment: found by name, checked once at the first touch of each chunk.
//!
//! Of a file that is here in part, what is touched is brought first. Who knows beforehand what it will touch asks for all of it at
//! once, with [`Ahead`]: one wait instead of many. What has no room is held in memory by a reading that may; see `memory`.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::memory::{Memory, MemoryLeft};
use super::past::Past;
use super::{POSITIONS_SECTION, SPARSE_SECTION, TEXT_SECTION};
use crate::error::{Error, Result};
use crate::format::clusters::LISTS_SECTION;
use crate::format::segment::{CHUNK_BYTES, Codec, SectionEntry, column_section};
use crate::format::{attributes, rows, vectors};
use crate::model::schema::ColumnUid;
use crate::platform::mmap::{Coming, Fill, Mapping, TOO_SMALL, bring, lacks_room};
use crate::platform::reads;

/// All sections of one file, as one reading sees them.
pub(in crate::segment) struct Sections {
    map: Mapping,
    name: Arc<str>,
    /// In order of name.
    sections: Arc<Vec<Section>>,
    /// Where this reading may hold what has no room on the disk.
    memory: Option<Memory>,
}

struct Section {
    entry: SectionEntry,
    /// Bit by bit which chunks were found right. Threads may check a chunk twice; they find the same.
    checked: Vec<AtomicU64>,
    whole: AtomicBool,
}

/// Whether any use of a segment needs a section: ids, versions and tables do not grow with what documents hold.
fn is_needed(section: &str) -> bool {
    let what = section.split(':').next().unwrap_or_default();
    ![
        rows::SECTION,
        vectors::SECTION,
        LISTS_SECTION,
        TEXT_SECTION,
        POSITIONS_SECTION,
        SPARSE_SECTION,
        attributes::SECTION,
    ]
    .contains(&what)
}

/// Whether the begin of a section says where the rest of it is: who has it reads a range less.
fn is_begun(section: &str) -> bool {
    section.split(':').next() == Some(TEXT_SECTION)
}

/// One section.
#[derive(Clone, Copy)]
pub(in crate::segment) struct Part<'a> {
    file: &'a Sections,
    section: &'a Section,
}

impl Sections {
    /// The places of `entries` have been checked to be within the file.
    pub(in crate::segment) fn new(map: Mapping, name: &str, entries: Vec<SectionEntry>) -> Result<Self> {
        let mut sections: Vec<Section> = entries.into_iter().map(Section::new).collect();
        sections.sort_by(|a, b| a.entry.name.cmp(&b.entry.name));
        if let Some(two) = sections.windows(2).find(|two| two[0].entry.name == two[1].entry.name) {
            return Err(Error::corrupt(format!("{name}: section {} is there twice", two[0].entry.name)));
        }
        Ok(Sections { map, name: name.into(), sections: Arc::new(sections), memory: None })
    }

    /// The same, for a reading that may hold in memory what has no room on the disk.
    pub(in crate::segment) fn past(&self, left: &MemoryLeft) -> Self {
        let memory = Some(Memory::new(left));
        Sections { map: self.map.clone(), name: self.name.clone(), sections: self.sections.clone(), memory }
    }

    /// The same file, of which no chunk counts as checked.
    pub(in crate::segment) fn unchecked(&self) -> Self {
        let sections = self.sections.iter().map(|section| Section::new(section.entry.clone())).collect();
        let memory = self.memory.as_ref().map(Memory::beside);
        Sections { map: self.map.clone(), name: self.name.clone(), sections: Arc::new(sections), memory }
    }

    /// An error when a part of the file could not be read. Asked after reading: see [`Mapping::is_lost`].
    pub(in crate::segment) fn check_readable(&self) -> Result<()> {
        self.map.check_readable(&self.name)
    }

    /// The file's name, for errors.
    pub(in crate::segment) fn name(&self) -> &str {
        &self.name
    }

    pub(in crate::segment) fn map(&self) -> &Mapping {
        &self.map
    }

    /// Every section's name and size in bytes.
    pub(in crate::segment) fn sizes(&self) -> impl Iterator<Item = (&str, u64)> {
        self.sections.iter().map(|section| (section.entry.name.as_str(), section.entry.bytes))
    }

    pub(in crate::segment) fn find(&self, name: &str) -> Option<Part<'_>> {
        let at = self.sections.binary_search_by(|section| section.entry.name.as_str().cmp(name)).ok()?;
        Some(Part { file: self, section: &self.sections[at] })
    }

    /// A section that every segment has.
    pub(in crate::segment) fn required(&self, name: &str) -> Result<Part<'_>> {
        self.find(name).ok_or_else(|| Error::corrupt(format!("{}: has no section {name}", self.name)))
    }

    /// The section that holds `what` of a column.
    pub(in crate::segment) fn of_column(&self, what: &str, uid: ColumnUid) -> Option<Part<'_>> {
        self.find(&column_section(what, uid))
    }

    /// Brings the sections that are needed whatever is asked of the segment, which it says to what keeps the file, and where there is
    /// room the first chunk of those that begin with a table. Nothing to do for a file that is all here.
    pub(in crate::segment) fn bring_needed(&self) -> Result<()> {
        let Some(fill) = self.map.filling() else { return Ok(()) };
        let (mut ranges, mut begins) = (Vec::new(), Vec::new());
        for SectionEntry { name, offset, bytes, .. } in self.sections.iter().map(|section| &section.entry) {
            if is_needed(name) {
                ranges.push(*offset..offset + bytes);
            } else if is_begun(name) {
                begins.push(*offset..offset + bytes.min(&(CHUNK_BYTES as u64)));
            }
        }
        fill.keep(&ranges);
        if fill.has_room(fill.missing(&ranges) + fill.missing(&begins)) {
            ranges.extend(begins);
        }
        bring(&[(&self.map, ranges)])
    }

    /// Checks every checksum, and that the bytes between sections are 0.
    pub(in crate::segment) fn verify(&self, end: u64) -> Result<()> {
        self.map.bring(0..self.map.len() as u64)?;
        let mut places: Vec<(u64, u64)> = Vec::with_capacity(self.sections.len() + 1);
        for section in self.sections.iter() {
            let entry = &section.entry;
            let part = Part { file: self, section };
            let found = crc32c::crc32c(part.raw(0..part.bytes())?);
            if found != entry.checksum {
                return Err(Error::corrupt(format!(
                    "{}: section {}: checksum is {found:08x}, expected {:08x}",
                    self.name, entry.name, entry.checksum
                )));
            }
            part.whole()?;
            places.push((entry.offset, entry.offset + entry.bytes));
        }
        places.push((end, end));
        places.sort_unstable();
        for two in places.windows(2) {
            let gap = self.map.get(two[0].1 as usize..two[1].0 as usize).unwrap_or_default();
            if gap.iter().any(|byte| *byte != 0) {
                return Err(Error::corrupt(format!("{}: the gap at byte {} is not 0", self.name, two[0].1)));
            }
        }
        Ok(())
    }
}

impl Section {
    fn new(entry: SectionEntry) -> Self {
        let words = entry.chunks.len().max(1).div_ceil(64);
        Section { entry, checked: (0..words).map(|_| AtomicU64::new(0)).collect(), whole: AtomicBool::new(false) }
    }
}

impl<'a> Part<'a> {
    pub(in crate::segment) fn bytes(&self) -> usize {
        self.section.entry.bytes as usize
    }

    /// All bytes of a section that is stored as it is.
    pub(in crate::segment) fn whole(&self) -> Result<&'a [u8]> {
        let all = 0..self.bytes();
        if self.section.whole.load(Ordering::Acquire) {
            self.file.check_readable()?;
            return self.raw(all);
        }
        let bytes = self.range(all.clone())?;
        // What only this reading holds in memory is not here for others.
        if all.is_empty() || self.are_checked(&all) {
            self.section.whole.store(true, Ordering::Release);
        }
        Ok(bytes)
    }

    /// Some bytes; the chunks they are in are checked.
    pub(in crate::segment) fn range(&self, range: Range<usize>) -> Result<&'a [u8]> {
        self.range_in(range, self.file.memory.as_ref())
    }

    /// [`Self::range`] of what is not to be held in memory: an error by [`lacks_room`] where it has no room on the disk.
    pub(in crate::segment) fn range_here(&self, range: Range<usize>) -> Result<&'a [u8]> {
        self.range_in(range, None)
    }

    fn range_in(&self, range: Range<usize>, memory: Option<&'a Memory>) -> Result<&'a [u8]> {
        let bytes = self.raw(range.clone())?;
        self.file.check_readable()?;
        if !range.is_empty() && self.file.map.filling().is_some() {
            reads::looked_at(range.len() as u64);
        }
        if !self.section.whole.load(Ordering::Acquire) && !range.is_empty() && !self.are_checked(&range) {
            match memory {
                None => self.bring(&range)?,
                Some(memory) => {
                    if let Some(held) = self.bring_or_hold(&range, memory)? {
                        return Ok(held);
                    }
                }
            }
            for chunk in range.start / CHUNK_BYTES..=(range.end - 1) / CHUNK_BYTES {
                // What is lost reads as zeros, which no checksum is right for.
                self.check(chunk).or_else(|wrong| self.file.check_readable().and(Err(wrong)))?;
            }
        }
        Ok(bytes)
    }

    /// All bytes of a section, if they are here or have room; none where it is to be read in parts.
    pub(in crate::segment) fn whole_if_room(&self) -> Result<Option<&'a [u8]>> {
        match self.range_here(0..self.bytes()) {
            Err(full) if lacks_room(&full) && (full.code() == TOO_SMALL || self.file.memory.is_some()) => Ok(None),
            found => found.map(Some),
        }
    }

    pub(in crate::segment) fn codec(&self) -> Codec {
        self.section.entry.codec
    }

    /// Whether all bytes of the file are here.
    pub(in crate::segment) fn is_full(&self) -> bool {
        self.file.map.is_full()
    }

    /// Whether some of a range is not here.
    pub(in crate::segment) fn is_missing(&self, range: &Range<usize>) -> bool {
        let missing = |fill: &dyn Fill| fill.missing(&[self.place(range)]) > 0;
        let is_within = !range.is_empty() && range.end <= self.bytes();
        is_within && !self.are_checked(range) && self.file.map.filling().is_some_and(missing)
    }

    /// Whether there is room for so many bytes that are not here and wanted once.
    pub(in crate::segment) fn has_room(&self, bytes: u64) -> bool {
        self.file.map.filling().is_none_or(|fill| fill.has_room(bytes))
    }

    /// Whether it is the same section of the same open file.
    pub(in crate::segment) fn is_same(&self, other: &Part) -> bool {
        std::ptr::eq(self.section, other.section)
    }

    /// Begins to read ranges into memory that are not to be kept.
    pub(in crate::segment) fn read_past(&self, ranges: &[Range<usize>]) -> Result<Coming> {
        let fill = self.file.map.filling().ok_or_else(|| Error::internal("a file that is all here has no past"))?;
        fill.read(ranges.iter().map(|range| self.place(range)).collect())
    }

    /// Checks bytes that were read of a range, which begins and ends where chunks do.
    pub(in crate::segment) fn check_past(&self, range: &Range<usize>, bytes: &[u8]) -> Result<()> {
        let chunks = (range.start / CHUNK_BYTES..).zip(bytes.chunks(CHUNK_BYTES));
        chunks.into_iter().try_for_each(|(chunk, bytes)| self.check_bytes(chunk, bytes))
    }

    /// The chunks that a range is in, as a range of the section.
    pub(in crate::segment) fn chunks_of(&self, range: &Range<usize>) -> Range<usize> {
        let start = range.start / CHUNK_BYTES * CHUNK_BYTES;
        start..range.end.next_multiple_of(CHUNK_BYTES).min(self.bytes()).max(start)
    }

    /// The chunks of a range, as bytes of the file.
    fn place(&self, range: &Range<usize>) -> Range<u64> {
        let chunks = self.chunks_of(range);
        self.section.entry.offset + chunks.start as u64..self.section.entry.offset + chunks.end as u64
    }

    /// Brings the chunks of a range, or gives it from memory where it has no room on the disk.
    fn bring_or_hold(&self, range: &Range<usize>, memory: &'a Memory) -> Result<Option<&'a [u8]>> {
        if self.are_checked(range) {
            return Ok(None);
        }
        let start = self.section.entry.offset;
        let place = start + range.start as u64..start + range.end as u64;
        if memory.get(&place).is_none() {
            match self.bring(range) {
                Err(full) if lacks_room(&full) => {
                    Ahead { wanted: vec![(*self, self.chunks_of(range))] }.hold(memory)?;
                }
                brought => return brought.map(|()| None),
            }
        }
        let lost = || Error::internal("a section that was read past the disk is not there");
        memory.get(&place).map(Some).ok_or_else(lost)
    }

    /// A section's header, what is in its middle, and what comes behind that. The middle ends where the header says to `end_of`, and
    /// is not brought.
    pub(in crate::segment) fn around(
        &self,
        header_bytes: usize,
        end_of: impl FnOnce(&[u8]) -> Result<usize>,
    ) -> Result<(&'a [u8], &'a [u8], &'a [u8])> {
        let all = self.bytes();
        let begin = header_bytes.min(all);
        let header = self.range(0..begin)?;
        let end = end_of(header)?.clamp(begin, all);
        Ok((header, self.raw(begin..end)?, self.range(end..all)?))
    }

    /// Its name, for errors.
    fn what(&self) -> String {
        format!("section {} of {}", self.section.entry.name, self.file.name)
    }

    /// Brings the chunks of a range that are not known to be right.
    fn bring(&self, range: &Range<usize>) -> Result<()> {
        let map = &self.file.map;
        if map.filling().is_none() || self.are_checked(range) {
            return Ok(());
        }
        map.bring(self.place(range))
    }

    /// Whether all chunks of a range, which is not empty, were found right: so they are here.
    fn are_checked(&self, range: &Range<usize>) -> bool {
        let (first, last) = (range.start / CHUNK_BYTES, (range.end - 1) / CHUNK_BYTES);
        (first / 64..=last / 64).all(|word| {
            let from = if word == first / 64 { first % 64 } else { 0 };
            let to = if word == last / 64 { last % 64 } else { 63 };
            let wanted = (u64::MAX << from) & (u64::MAX >> (63 - to));
            self.section.checked.get(word).is_some_and(|word| word.load(Ordering::Acquire) & wanted == wanted)
        })
    }

    fn is_checked(&self, chunk: usize) -> bool {
        self.section
            .checked
            .get(chunk / 64)
            .is_some_and(|word| word.load(Ordering::Acquire) & (1 << (chunk % 64)) != 0)
    }

    fn check(&self, chunk: usize) -> Result<()> {
        let Some(word) = self.section.checked.get(chunk / 64) else { return Err(self.outside()) };
        if self.is_checked(chunk) {
            return Ok(());
        }
        let start = chunk * CHUNK_BYTES;
        let range = start..(start + CHUNK_BYTES).min(self.bytes());
        if let Err(wrong) = self.check_sum(chunk, &range) {
            // What is only a copy is read once more from where it came.
            let Some(fill) = self.file.map.filling() else { return Err(wrong) };
            tracing::warn!(error = %wrong, "the bytes here are wrong, they are read again from the bucket");
            fill.forget(self.place(&range));
            self.file.map.bring(self.place(&range))?;
            self.check_sum(chunk, &range)?;
        }
        word.fetch_or(1 << (chunk % 64), Ordering::Release);
        Ok(())
    }

    fn check_sum(&self, chunk: usize, range: &Range<usize>) -> Result<()> {
        self.check_bytes(chunk, self.raw(range.clone())?)
    }

    /// Checks the bytes of a chunk, wherever they are.
    fn check_bytes(&self, chunk: usize, bytes: &[u8]) -> Result<()> {
        let entry = &self.section.entry;
        let found = crc32c::crc32c(bytes);
        let expected = if entry.chunks.is_empty() { Some(&entry.checksum) } else { entry.chunks.get(chunk) };
        if expected == Some(&found) {
            return Ok(());
        }
        Err(Error::corrupt(format!(
            "{}: section {}: checksum is {found:08x}, expected {:08x} (byte {})",
            self.file.name,
            entry.name,
            expected.copied().unwrap_or_default(),
            entry.offset + (chunk * CHUNK_BYTES) as u64
        )))
    }

    pub(in crate::segment) fn raw(&self, range: Range<usize>) -> Result<&'a [u8]> {
        let start = self.section.entry.offset as usize;
        let within = range.start <= range.end && range.end <= self.bytes();
        let bytes = within.then(|| self.file.map.part(start + range.start..start + range.end)).flatten();
        bytes.ok_or_else(|| self.outside())
    }

    fn outside(&self) -> Error {
        Error::corrupt(format!("{}: section {}: a place outside it", self.file.name, self.section.entry.name))
    }
}

/// What will be touched of segments that are not all here, to be brought at once.
#[derive(Default)]
pub struct Ahead<'a> {
    /// Chunks, by section.
    wanted: Vec<(Part<'a>, Range<usize>)>,
}

impl<'a> Ahead<'a> {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds some bytes of a section, unless the file is all here.
    pub(in crate::segment) fn add(&mut self, part: &Part<'a>, range: Range<usize>) {
        // What was found right is here, and known to be used.
        let is_file_here = part.file.map.filling().is_none();
        if range.is_empty() || is_file_here || range.end > part.bytes() || part.are_checked(&range) {
            return;
        }
        let chunks = part.chunks_of(&range);
        match self.wanted.last_mut() {
            Some((last, range)) if last.is_same(part) && range.start <= chunks.start && chunks.start <= range.end => {
                range.end = range.end.max(chunks.end);
            }
            _ => self.wanted.push((*part, chunks)),
        }
    }

    /// Adds what another has.
    pub fn append(&mut self, other: Ahead<'a>) {
        self.wanted.extend(other.wanted);
    }

    /// The ranges of each file, in the order they were added.
    fn files(&self) -> Vec<(&'a Mapping, Vec<Range<u64>>)> {
        let mut files: Vec<(&Mapping, Vec<Range<u64>>)> = Vec::new();
        for (part, range) in &self.wanted {
            let (map, place) = (&part.file.map, part.place(range));
            match files.last_mut() {
                Some((last, ranges)) if std::ptr::eq(*last, map) => ranges.push(place),
                _ => files.push((map, vec![place])),
            }
        }
        files
    }

    /// Whether it is more than the disk has room for, and more than room can be made for: then it is better read past the disk.
    pub fn is_wide(&self) -> bool {
        let files = self.files();
        let filled = || files.iter().filter_map(|(map, ranges)| Some((map.filling()?, ranges)));
        let missing = filled().map(|(fill, ranges)| fill.missing(ranges)).sum();
        missing > 0 && filled().next().is_some_and(|(fill, _)| fill.is_wide(missing) && !fill.has_room(missing))
    }

    /// Waits until everything that was added is here, or in memory where it has no room and the reading may hold it.
    pub fn bring(self) -> Result<()> {
        let Some((part, _)) = self.wanted.first() else { return Ok(()) };
        match (bring(&self.files()), &part.file.memory) {
            (Err(full), Some(_)) if lacks_room(&full) => {
                let mut files: Vec<(&Memory, Ahead)> = Vec::new();
                for (part, range) in self.wanted.into_iter().filter(|(part, range)| part.is_missing(range)) {
                    let Some(memory) = &part.file.memory else { continue };
                    if memory.get(&part.place(&range)).is_some() {
                        continue;
                    }
                    match files.iter_mut().find(|(other, _)| std::ptr::eq(*other, memory)) {
                        Some((_, ahead)) => ahead.wanted.push((part, range)),
                        None => files.push((memory, Ahead { wanted: vec![(part, range)] })),
                    }
                }
                files.into_iter().try_for_each(|(memory, ahead)| ahead.hold(memory))
            }
            (brought, _) => brought,
        }
    }

    /// Reads everything that was added, which is of one file, into the memory of a reading.
    fn hold(self, memory: &Memory) -> Result<()> {
        let Some((part, _)) = self.wanted.first() else { return Ok(()) };
        let what = part.what();
        memory.take(self.wanted.iter().map(|(_, range)| range.len()).sum(), &what)?;
        Past::read(self.wanted)?.into_pieces().into_iter().try_for_each(|(part, start, bytes)| {
            memory.hold(part.section.entry.offset + start as u64, bytes, &what).map(drop)
        })
    }
}
