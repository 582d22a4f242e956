//! The sections of one open segment: found by name, checked once at the first touch of each chunk.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::format::segment::{CHUNK_BYTES, Codec, SectionEntry, column_section};
use crate::model::schema::ColumnUid;
use crate::platform::mmap::Mapping;

/// All sections of one file.
pub(in crate::segment) struct Sections {
    map: Mapping,
    name: String,
    /// In order of name.
    sections: Vec<Section>,
}

struct Section {
    entry: SectionEntry,
    /// Bit by bit which chunks were found right. Threads may check a chunk twice; they find the same.
    checked: Vec<AtomicU64>,
    whole: AtomicBool,
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
        Ok(Sections { map, name: name.to_owned(), sections })
    }

    /// The file's name, for errors.
    pub(in crate::segment) fn name(&self) -> &str {
        &self.name
    }

    pub(in crate::segment) fn map(&self) -> &Mapping {
        &self.map
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

    /// Checks every checksum, and that the bytes between sections are 0.
    pub(in crate::segment) fn verify(&self, end: u64) -> Result<()> {
        let mut places: Vec<(u64, u64)> = Vec::with_capacity(self.sections.len() + 1);
        for section in &self.sections {
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
            return self.raw(all);
        }
        let bytes = self.range(all)?;
        self.section.whole.store(true, Ordering::Release);
        Ok(bytes)
    }

    /// Some bytes; the chunks they are in are checked.
    pub(in crate::segment) fn range(&self, range: Range<usize>) -> Result<&'a [u8]> {
        let bytes = self.raw(range.clone())?;
        if !self.section.whole.load(Ordering::Acquire) && !range.is_empty() {
            for chunk in range.start / CHUNK_BYTES..=(range.end - 1) / CHUNK_BYTES {
                self.check(chunk)?;
            }
        }
        Ok(bytes)
    }

    pub(in crate::segment) fn codec(&self) -> Codec {
        self.section.entry.codec
    }

    fn check(&self, chunk: usize) -> Result<()> {
        let entry = &self.section.entry;
        let bit = 1 << (chunk % 64);
        let Some(word) = self.section.checked.get(chunk / 64) else { return Err(self.outside()) };
        if word.load(Ordering::Acquire) & bit != 0 {
            return Ok(());
        }
        let start = chunk * CHUNK_BYTES;
        let found = crc32c::crc32c(self.raw(start..(start + CHUNK_BYTES).min(self.bytes()))?);
        let expected = if entry.chunks.is_empty() { Some(&entry.checksum) } else { entry.chunks.get(chunk) };
        if expected != Some(&found) {
            return Err(Error::corrupt(format!(
                "{}: section {}: checksum is {found:08x}, expected {:08x} (byte {})",
                self.file.name,
                entry.name,
                expected.copied().unwrap_or_default(),
                entry.offset + start as u64
            )));
        }
        word.fetch_or(bit, Ordering::Release);
        Ok(())
    }

    pub(in crate::segment) fn raw(&self, range: Range<usize>) -> Result<&'a [u8]> {
        let start = self.section.entry.offset as usize;
        let bytes = self.file.map.get(start..start + self.bytes()).and_then(|bytes| bytes.get(range));
        bytes.ok_or_else(|| self.outside())
    }

    fn outside(&self) -> Error {
        Error::corrupt(format!("{}: section {}: a place outside it", self.file.name, self.section.entry.name))
    }
}
