//! The versions of a segment's rows, the logical sizes of its rows, and its tombstones.
//!
//! A version is a clock and an origin; a segment has few origins, so rows name theirs by its place in a table.

use std::collections::BTreeSet;

use super::bytes::Reader;
use super::ids::{decode_id, encode_id};
use super::segment::Codec;
use super::segment_writer::SegmentWriter;
use crate::error::{Error, Result};
use crate::model::document::Tombstone;
use crate::model::ids::{Hlc, IdType, Origin, Version};

pub const SECTION: &str = "versions";
/// Logical bytes of each row, a u32 each.
pub const SIZES_SECTION: &str = "sizes";
pub const TOMBSTONES_SECTION: &str = "tombstones";

/// Writes the section of versions; `versions` gives those of all rows in row order, as often as it is asked.
pub fn write<I: Iterator<Item = Result<Version>>>(out: &mut SegmentWriter, versions: impl Fn() -> I) -> Result<()> {
    let mut origins = BTreeSet::new();
    for version in versions() {
        origins.insert(version?.origin);
    }
    let origins: Vec<Origin> = origins.into_iter().collect();
    out.begin(SECTION, Codec::Plain)?;
    out.write(&(origins.len() as u64).to_le_bytes())?;
    for origin in &origins {
        out.write(&origin.0.to_le_bytes())?;
    }
    for version in versions() {
        out.write(&version?.hlc.0.to_le_bytes())?;
    }
    if origins.len() > 1 {
        for version in versions() {
            let place = origins.binary_search(&version?.origin).unwrap_or_default();
            out.write(&(place as u32).to_le_bytes())?;
        }
    }
    Ok(())
}

/// The versions of a segment's rows, read in place.
#[derive(Clone, Copy)]
pub struct Versions<'a> {
    origins: &'a [[u8; 8]],
    clocks: &'a [[u8; 8]],
    /// Empty when there is one origin.
    places: &'a [[u8; 4]],
    name: &'a str,
}

impl<'a> Versions<'a> {
    pub fn new(bytes: &'a [u8], rows: u32, name: &'a str) -> Result<Self> {
        let mut reader = Reader::new(bytes, name);
        let count = reader.u64()?;
        if count > u64::from(rows) || (count == 0) != (rows == 0) {
            return Err(Error::corrupt(format!("{name}: {count} origins for {rows} rows")));
        }
        let (origins, _) = reader.take(count as usize * 8)?.as_chunks();
        let (clocks, _) = reader.take(rows as usize * 8)?.as_chunks();
        let (places, _) = reader.take(if count > 1 { rows as usize * 4 } else { 0 })?.as_chunks();
        reader.finish()?;
        Ok(Versions { origins, clocks, places, name })
    }

    pub fn get(&self, row: u32) -> Result<Version> {
        let at = row as usize;
        let place = self.places.get(at).map_or(0, |place| u32::from_le_bytes(*place) as usize);
        match (self.clocks.get(at), self.origins.get(place)) {
            (Some(clock), Some(origin)) => {
                Ok(Version { hlc: Hlc(u64::from_le_bytes(*clock)), origin: Origin(u64::from_le_bytes(*origin)) })
            }
            (None, _) => Err(Error::internal(format!("{}: row {row} of {}", self.name, self.clocks.len()))),
            (_, None) => {
                Err(Error::corrupt(format!("{}: row {row} has origin {place} of {}", self.name, self.origins.len())))
            }
        }
    }

    /// Checks that origins are strictly ascending and that every row has one.
    pub fn verify(&self) -> Result<()> {
        let ascending = self.origins.windows(2).all(|two| u64::from_le_bytes(two[0]) < u64::from_le_bytes(two[1]));
        if !ascending {
            return Err(Error::corrupt(format!("{}: origins are not in ascending order", self.name)));
        }
        (0..self.clocks.len()).try_for_each(|row| self.get(row as u32).map(drop))
    }
}

/// One of the section of tombstones, where they are in strictly ascending order of id.
pub fn encode_tombstone(tombstone: &Tombstone, out: &mut Vec<u8>) -> Result<()> {
    encode_id(&tombstone.id, out)?;
    out.extend_from_slice(&tombstone.version.hlc.0.to_le_bytes());
    out.extend_from_slice(&tombstone.version.origin.0.to_le_bytes());
    Ok(())
}

/// The tombstones of a segment of `count`.
pub fn decode_tombstones(bytes: &[u8], kind: IdType, count: u32, name: &str) -> Result<Vec<Tombstone>> {
    let mut reader = Reader::new(bytes, name);
    let mut out: Vec<Tombstone> = Vec::new();
    for _ in 0..count {
        let id = decode_id(kind, &mut reader, name)?;
        let version = Version { hlc: Hlc(reader.u64()?), origin: Origin(reader.u64()?) };
        if out.last().is_some_and(|last| last.id >= id) {
            return Err(Error::corrupt(format!("{name}: tombstones are not in ascending order of id")));
        }
        out.push(Tombstone { id, version });
    }
    reader.finish()?;
    Ok(out)
}
