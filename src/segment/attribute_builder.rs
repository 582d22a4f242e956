//! Builds one filterable column's index, from values or from the indexes of the segments that are merged.

use roaring::RoaringBitmap;

use super::attributes::{AttributeReader, Keys};
use crate::error::{Error, Result};
use crate::format::attributes::{DictionaryWriter, Key, LIST_ROWS_MAX, Posting, Trailer, encode_ordinals, keys_of};
use crate::format::segment_writer::SegmentWriter;
use crate::format::vectors::encode_rows;
use crate::model::schema::ColumnUid;
use crate::model::value::Value;

/// Says that a row has no value.
const NONE: u32 = u32::MAX;

/// Keys are collected before those that are there twice go, at least so many.
const KEYS_AT_ONCE: usize = 4_096;

/// Collects one column's values. Holds 48 bytes per value that differs from the others and 16 per row, and borrows the values; writing
/// them takes 4 bytes, twice, per element that differs from the others of its row.
pub(in crate::segment) struct AttributeBuilder<'v> {
    uid: ColumnUid,
    array: bool,
    rows: Vec<(u32, &'v Value)>,
    keys: Vec<Key<'v>>,
    /// So many of the keys ascend, each once.
    distinct: usize,
}

impl<'v> AttributeBuilder<'v> {
    pub(in crate::segment) fn new(uid: ColumnUid, array: bool) -> Self {
        AttributeBuilder { uid, array, rows: Vec::new(), keys: Vec::new(), distinct: 0 }
    }

    /// Takes a row's value.
    pub(in crate::segment) fn add(&mut self, row: u32, value: &'v Value) {
        self.rows.push((row, value));
        keys_of(value, |key| {
            if self.keys.len() >= KEYS_AT_ONCE.max(2 * self.distinct) {
                self.settle();
            }
            self.keys.push(key);
        });
    }

    fn settle(&mut self) {
        self.keys.sort_unstable();
        self.keys.dedup();
        self.distinct = self.keys.len();
    }

    /// Writes the column's section.
    pub(in crate::segment) fn finish(mut self, rows: u32, out: &mut SegmentWriter) -> Result<()> {
        self.settle();
        self.rows.sort_unstable_by_key(|(row, _)| *row);
        let mut dictionary = DictionaryWriter::begin(out, self.uid)?;
        for key in &self.keys {
            dictionary.push(out, *key)?;
        }
        let trailer = dictionary.finish(out)?;
        let mut forward = Forward::new(self.array, rows);
        let mut present = RoaringBitmap::new();
        let (mut of_row, mut found) = (Vec::new(), Ok(()));
        for (row, value) in &self.rows {
            present.insert(*row);
            of_row.clear();
            keys_of(value, |key| match self.keys.binary_search(&key) {
                Ok(ordinal) => of_row.push(ordinal as u32),
                Err(_) => found = Err(Error::internal("a value that was collected is gone")),
            });
            of_row.sort_unstable();
            of_row.dedup();
            forward.set(*row, &of_row)?;
        }
        found?;
        forward.end(rows)?;
        forward.write(trailer, &present, rows, out)
    }
}

/// Each row's ordinals.
struct Forward {
    /// For arrays where the ordinals of each row end.
    ends: Option<Vec<u32>>,
    ordinals: Vec<u32>,
}

impl Forward {
    fn new(array: bool, rows: u32) -> Self {
        if array {
            return Forward { ends: Some(Vec::with_capacity(rows as usize)), ordinals: Vec::new() };
        }
        Forward { ends: None, ordinals: vec![NONE; rows as usize] }
    }

    /// Takes the ordinals of a row, ascending; those of rows that are left out are none.
    fn set(&mut self, row: u32, of_row: &[u32]) -> Result<()> {
        if self.ends.is_some() {
            self.end(row)?;
            self.ordinals.extend_from_slice(of_row);
            return self.end(row + 1);
        }
        if let Some(ordinal) = of_row.last() {
            self.ordinals[row as usize] = *ordinal;
        }
        Ok(())
    }

    /// Ends all rows before this one.
    fn end(&mut self, row: u32) -> Result<()> {
        if let Some(ends) = &mut self.ends {
            ends.resize(row as usize, u32::try_from(self.ordinals.len()).map_err(|_| too_many())?);
        }
        Ok(())
    }

    /// Writes what follows the dictionary.
    fn write(self, mut trailer: Trailer, present: &RoaringBitmap, rows: u32, out: &mut SegmentWriter) -> Result<()> {
        trailer.array = self.ends.is_some();
        for end in self.ends.iter().flatten() {
            out.write(&end.to_le_bytes())?;
        }
        trailer.ends = self.ends.as_ref().map_or(0, |ends| ends.len() as u64 * 4);
        trailer.ordinals = encode_ordinals(trailer.width, &self.ordinals, out)?;
        let table = self.write_postings(&mut trailer, rows, out)?;
        out.write(&table)?;
        if present.len() < u64::from(rows) {
            let bytes = encode_rows(present)?;
            out.write(&bytes)?;
            trailer.present = bytes.len() as u64;
        }
        out.write(&trailer.encode())
    }

    /// Writes the rows of every value, and gives the table that says where they are.
    fn write_postings(&self, trailer: &mut Trailer, rows: u32, out: &mut SegmentWriter) -> Result<Vec<u8>> {
        // The rows by ordinal: count, sum, place.
        let mut starts = vec![0u32; trailer.values as usize + 1];
        for ordinal in self.ordinals.iter().filter(|ordinal| **ordinal != NONE) {
            starts[*ordinal as usize + 1] += 1;
        }
        for at in 1..starts.len() {
            starts[at] += starts[at - 1];
        }
        let mut next = starts.clone();
        let mut by_value = vec![0u32; starts.last().map_or(0, |end| *end as usize)];
        let mut start = 0;
        for row in 0..rows {
            let places = match &self.ends {
                None => row as usize..row as usize + 1,
                Some(ends) => start..ends[row as usize] as usize,
            };
            start = places.end;
            for ordinal in self.ordinals[places].iter().filter(|ordinal| **ordinal != NONE) {
                let place = &mut next[*ordinal as usize];
                by_value[*place as usize] = row;
                *place += 1;
            }
        }
        let mut table = Vec::with_capacity(trailer.values as usize * 8);
        let mut bytes = Vec::new();
        for two in starts.windows(2) {
            let list = &by_value[two[0] as usize..two[1] as usize];
            bytes.clear();
            let posting = match list {
                [row] => Posting::One(*row),
                list if list.len() <= LIST_ROWS_MAX => {
                    bytes.extend(list.iter().flat_map(|row| row.to_le_bytes()));
                    Posting::List { offset: trailer.postings, rows: list.len() as u16 }
                }
                list => {
                    let mut bitmap = RoaringBitmap::from_sorted_iter(list.iter().copied())
                        .map_err(|e| Error::internal(format!("rows of a value: {e}")))?;
                    bitmap.optimize();
                    let gap = trailer.postings.next_multiple_of(8) - trailer.postings;
                    out.write(&[0; 8][..gap as usize])?;
                    trailer.postings += gap;
                    bytes = encode_rows(&bitmap)?;
                    Posting::Bitmap { offset: trailer.postings, bytes: bytes.len() as u32 }
                }
            };
            out.write(&bytes)?;
            trailer.postings += bytes.len() as u64;
            table.extend_from_slice(&posting.to_bits()?.to_le_bytes());
        }
        Ok(table)
    }
}

fn too_many() -> Error {
    Error::invalid("a column has more than 4,294,967,295 array elements in one segment")
}

/// Merges the indexes of one column. `sources` has one per input, `None` where the input has no such column; `rows` says
/// for each row of the result which input's row it was.
pub(in crate::segment) fn merge(
    uid: ColumnUid,
    array: bool,
    sources: &[Option<AttributeReader>],
    rows: &[(u32, u32)],
    out: &mut SegmentWriter,
) -> Result<()> {
    let mut renumbered = used(sources, rows)?;
    let mut dictionary = DictionaryWriter::begin(out, uid)?;
    merge_keys(sources, &mut renumbered, &mut dictionary, out)?;
    let trailer = dictionary.finish(out)?;
    let count = u32::try_from(rows.len()).map_err(|_| Error::internal("a merge of more than 2^32 rows"))?;
    let mut forward = Forward::new(array, 0);
    let mut present = RoaringBitmap::new();
    let mut present_in = Vec::with_capacity(sources.len());
    for source in sources {
        present_in.push(source.as_ref().map(AttributeReader::present).transpose()?);
    }
    for (row, (input, old)) in (0..count).zip(rows) {
        let input = *input as usize;
        let before = forward.ordinals.len();
        if let (Some(source), Some(present_in)) = (&sources[input], &present_in[input]) {
            if present_in.contains(*old) {
                present.insert(row);
            }
            forward.ordinals.extend(source.row_ordinals(*old)?.map(|ordinal| renumbered[input][ordinal as usize]));
        }
        match &mut forward.ends {
            Some(ends) => ends.push(u32::try_from(forward.ordinals.len()).map_err(|_| too_many())?),
            None if forward.ordinals.len() == before => forward.ordinals.push(NONE),
            None => {}
        }
    }
    forward.write(trailer, &present, count, out)
}

/// Per input, per value: 0 where a row of the result has it, [`NONE`] where none has.
fn used(sources: &[Option<AttributeReader>], rows: &[(u32, u32)]) -> Result<Vec<Vec<u32>>> {
    let none = |source: &Option<AttributeReader>| vec![NONE; source.as_ref().map_or(0, |s| s.values() as usize)];
    let mut used: Vec<Vec<u32>> = sources.iter().map(none).collect();
    for (input, row) in rows {
        if let Some(source) = &sources[*input as usize] {
            for ordinal in source.row_ordinals(*row)? {
                used[*input as usize][ordinal as usize] = 0;
            }
        }
    }
    Ok(used)
}

/// Writes the union of the used values in order, and replaces each by its new ordinal.
fn merge_keys(
    sources: &[Option<AttributeReader>],
    renumbered: &mut [Vec<u32>],
    dictionary: &mut DictionaryWriter,
    out: &mut SegmentWriter,
) -> Result<()> {
    let mut heads = Vec::with_capacity(sources.len());
    for (input, source) in sources.iter().enumerate() {
        if let Some(source) = source {
            let mut keys = source.keys_from(0)?;
            if next_used(&mut keys, &renumbered[input])? {
                heads.push((input, keys));
            }
        }
    }
    let (mut ordinal, mut least) = (0, Vec::new());
    while let Some((_, first)) = heads.first() {
        let mut key = first.key();
        least.clear();
        for (at, (_, keys)) in heads.iter().enumerate() {
            if keys.key() < key {
                key = keys.key();
                least.clear();
            }
            if keys.key() == key {
                least.push(at);
            }
        }
        dictionary.push(out, key)?;
        // From the back, so that taking one away does not move those still to come.
        for at in least.iter().rev() {
            let (input, keys) = &mut heads[*at];
            let renumbered = &mut renumbered[*input];
            renumbered[keys.ordinal() as usize] = ordinal;
            if !next_used(keys, renumbered)? {
                heads.swap_remove(*at);
            }
        }
        ordinal += 1;
    }
    Ok(())
}

/// Steps to the next key that is used; false when there is none.
fn next_used(keys: &mut Keys, used: &[u32]) -> Result<bool> {
    while keys.advance()? {
        if used[keys.ordinal() as usize] != NONE {
            return Ok(true);
        }
    }
    Ok(false)
}
