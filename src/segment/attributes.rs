//! Reads one filterable column's index: values by ordinal, rows by value, values by row.

use std::ops::{Bound, Range};

use roaring::{MultiOps, RoaringBitmap};

use crate::error::{Error, Result};
use crate::format::attributes::{Key, KeyKind, Posting, Regions, STRIDE, key_kind, key_of, value_of};
use crate::format::bytes::Reader;
use crate::format::varint;
use crate::format::vectors::decode_rows;
use crate::model::schema::AttributeType;
use crate::model::value::Value;

/// Ranges of more values than one for this many rows are answered by walking the rows' ordinals instead of the values'
/// lists of rows.
const ROWS_PER_LIST: usize = 16;

/// One row in so many, or more, are put in order by setting bits.
const ROWS_PER_BIT: usize = 64;

/// The index of one column. Ordinals count its distinct values (of arrays: their elements) in ascending order: false
/// before true, numbers by size, strings and UUIDs bytewise, times by time.
#[derive(Clone, Copy)]
pub struct AttributeReader<'a> {
    regions: Regions<'a>,
    rows: u32,
    /// The type of one element.
    element: AttributeType,
    key_kind: KeyKind,
    name: &'a str,
}

impl<'a> AttributeReader<'a> {
    pub(in crate::segment) fn open(bytes: &'a [u8], rows: u32, kind: AttributeType, name: &'a str) -> Result<Self> {
        let key_kind = key_kind(kind).ok_or_else(|| Error::internal(format!("{name}: {kind} has no index")))?;
        let regions = Regions::new(bytes, rows, kind, name)?;
        Ok(AttributeReader { regions, rows, element: kind.element(), key_kind, name })
    }

    /// How many distinct values there are.
    pub fn values(&self) -> u32 {
        self.regions.values
    }

    pub fn value(&self, ordinal: u32) -> Result<Value> {
        // Keys of a fixed size need no walk.
        let at = ordinal as usize;
        let key = match self.key_kind {
            KeyKind::Number => {
                self.regions.dictionary.as_chunks().0.get(at).map(|n| Key::Number(u64::from_le_bytes(*n)))
            }
            KeyKind::Uuid => self.regions.dictionary.as_chunks().0.get(at).map(|bytes| Key::Uuid(*bytes)),
            KeyKind::Text => None,
        };
        if let Some(key) = key {
            return value_of(self.element, key, self.name);
        }
        let mut keys = self.keys_from(ordinal)?;
        if keys.advance()? { value_of(self.element, keys.key(), self.name) } else { Err(self.outside(ordinal)) }
    }

    /// The ordinal of a value, if a row has it. The value is of the column's element type.
    pub fn ordinal_of(&self, value: &Value) -> Result<Option<u32>> {
        let (ordinal, found) = self.search(value)?;
        Ok(found.then_some(ordinal))
    }

    /// The ordinals of the values within bounds.
    pub fn ordinals(&self, lower: Bound<&Value>, upper: Bound<&Value>) -> Result<Range<u32>> {
        let start = match lower {
            Bound::Unbounded => 0,
            Bound::Included(value) => self.search(value)?.0,
            Bound::Excluded(value) => self.search(value).map(|(at, found)| at + u32::from(found))?,
        };
        let end = match upper {
            Bound::Unbounded => self.values(),
            Bound::Included(value) => self.search(value).map(|(at, found)| at + u32::from(found))?,
            Bound::Excluded(value) => self.search(value)?.0,
        };
        Ok(start..end.max(start))
    }

    /// The first ordinal whose value is not below `value`, and whether it is the same.
    fn search(&self, value: &Value) -> Result<(u32, bool)> {
        let key = key_of(value);
        let found = match (self.key_kind, key) {
            (KeyKind::Number, Some(Key::Number(n))) => {
                let keys: &[[u8; 8]] = self.regions.dictionary.as_chunks().0;
                keys.binary_search_by(|key| u64::from_le_bytes(*key).cmp(&n))
            }
            (KeyKind::Uuid, Some(Key::Uuid(bytes))) => self.regions.dictionary.as_chunks().0.binary_search(&bytes),
            (KeyKind::Text, Some(Key::Text(text))) => return self.search_text(text),
            _ => {
                return Err(Error::internal(format!(
                    "{}: a column of {} is asked for {value:?}",
                    self.name, self.element
                )));
            }
        };
        Ok(found.map_or_else(|at| (at as u32, false), |at| (at as u32, true)))
    }

    fn search_text(&self, wanted: &[u8]) -> Result<(u32, bool)> {
        // The last block that begins at or before `wanted`.
        let (mut low, mut high) = (0, self.regions.dictionary_index.len());
        while low < high {
            let middle = low + (high - low) / 2;
            let mut block = self.text_block(middle)?;
            varint::read(&mut block, self.name)?;
            let length = varint::read_length(&mut block, self.name)?;
            if block.take(length)? <= wanted { low = middle + 1 } else { high = middle }
        }
        let Some(block) = low.checked_sub(1) else { return Ok((0, false)) };
        let first = (block * STRIDE) as u32;
        let mut keys = self.keys_from(first)?;
        let end = self.values().min(first.saturating_add(STRIDE as u32));
        while keys.next < end && keys.advance()? {
            if keys.key() >= Key::Text(wanted) {
                return Ok((keys.ordinal(), keys.key() == Key::Text(wanted)));
            }
        }
        Ok((end, false))
    }

    fn text_block(&self, block: usize) -> Result<Reader<'a>> {
        let offset = self.regions.dictionary_index.get(block).map(|offset| u64::from_le_bytes(*offset));
        let rest = offset.and_then(|offset| self.regions.dictionary.get(usize::try_from(offset).ok()?..));
        let rest =
            rest.ok_or_else(|| Error::corrupt(format!("{}: block {block} of values is not there", self.name)))?;
        Ok(Reader::new(rest, self.name))
    }

    /// A walk over the keys from an ordinal on.
    pub(in crate::segment) fn keys_from(&self, ordinal: u32) -> Result<Keys<'a>> {
        let at = ordinal as usize;
        if ordinal >= self.values() {
            return Ok(Keys::new(*self, ordinal, Reader::new(&[], self.name)));
        }
        Ok(match self.key_kind {
            KeyKind::Number => Keys::new(*self, ordinal, Reader::new(&self.regions.dictionary[at * 8..], self.name)),
            KeyKind::Uuid => Keys::new(*self, ordinal, Reader::new(&self.regions.dictionary[at * 16..], self.name)),
            KeyKind::Text => {
                let mut keys = Keys::new(*self, (at - at % STRIDE) as u32, self.text_block(at / STRIDE)?);
                while keys.next < ordinal {
                    keys.advance()?;
                }
                keys
            }
        })
    }

    /// Calls `each` with every string from an ordinal on, ascending, until it says false. For columns of other types it is
    /// never called.
    pub fn for_each_text(&self, first: u32, mut each: impl FnMut(u32, &str) -> bool) -> Result<()> {
        let mut keys = self.keys_from(first)?;
        while keys.advance()? {
            let Key::Text(text) = keys.key() else { return Ok(()) };
            let text = std::str::from_utf8(text)
                .map_err(|_| Error::corrupt(format!("{}: value {} is not UTF-8", self.name, keys.ordinal())))?;
            if !each(keys.ordinal(), text) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The rows that have a value.
    pub fn rows_of(&self, ordinal: u32) -> Result<RoaringBitmap> {
        let mut rows = Vec::new();
        match self.posting(ordinal, &mut rows)? {
            Some(bitmap) => Ok(bitmap),
            None => self.sorted(rows),
        }
    }

    /// The rows that have any of these values.
    pub fn rows_in(&self, ordinals: Range<u32>) -> Result<RoaringBitmap> {
        let range = ordinals.start..ordinals.end.min(self.values());
        if range.len() > self.rows as usize / ROWS_PER_LIST {
            return self.rows_by_walk(&range);
        }
        let (mut rows, mut bitmaps) = (Vec::new(), Vec::new());
        for ordinal in range {
            bitmaps.extend(self.posting(ordinal, &mut rows)?);
        }
        if rows.len() < self.rows as usize / ROWS_PER_BIT {
            rows.sort_unstable();
            rows.dedup();
            bitmaps.push(self.sorted(rows)?);
        } else {
            bitmaps.push(self.by_bits(&rows));
        }
        Ok(bitmaps.union())
    }

    /// Rows in any order, each below the number of rows, as bits: for many that is less than sorting them.
    fn by_bits(&self, rows: &[u32]) -> RoaringBitmap {
        let mut bytes = vec![0u8; (self.rows as usize).div_ceil(8)];
        for row in rows {
            bytes[*row as usize / 8] |= 1 << (row % 8);
        }
        RoaringBitmap::from_lsb0_bytes(0, &bytes)
    }

    fn rows_by_walk(&self, range: &Range<u32>) -> Result<RoaringBitmap> {
        let mut rows = Vec::new();
        for row in 0..self.rows {
            if self.regions.places(row).any(|place| self.regions.ordinal(place).is_some_and(|at| range.contains(&at)))
            {
                rows.push(row);
            }
        }
        self.sorted(rows)
    }

    fn sorted(&self, rows: Vec<u32>) -> Result<RoaringBitmap> {
        RoaringBitmap::from_sorted_iter(rows)
            .map_err(|_| Error::corrupt(format!("{}: rows of a value are not in ascending order", self.name)))
    }

    /// The rows of a value: a bitmap, or added to `rows` when they are kept as a list.
    fn posting(&self, ordinal: u32, rows: &mut Vec<u32>) -> Result<Option<RoaringBitmap>> {
        let entry = self.regions.table.get(ordinal as usize).ok_or_else(|| self.outside(ordinal))?;
        let wrong = || Error::corrupt(format!("{}: the rows of value {ordinal} are not in their place", self.name));
        let within = |offset: u64, bytes: usize| {
            let rest = usize::try_from(offset).ok().and_then(|offset| self.regions.postings.get(offset..));
            rest.and_then(|rest| rest.get(..bytes)).ok_or_else(wrong)
        };
        let first = rows.len();
        match Posting::from_bits(u64::from_le_bytes(*entry)).ok_or_else(wrong)? {
            Posting::Bitmap { offset, bytes } => {
                let mut set = decode_rows(within(offset, bytes as usize)?, self.rows, self.name)?;
                // Sets of runs are joined with others row by row.
                set.remove_run_compression();
                return Ok(Some(set));
            }
            Posting::One(row) => rows.push(row),
            Posting::List { offset, rows: count } => {
                let list: &[[u8; 4]] = within(offset, usize::from(count) * 4)?.as_chunks().0;
                rows.extend(list.iter().map(|row| u32::from_le_bytes(*row)));
            }
        }
        if rows[first..].iter().any(|row| *row >= self.rows) {
            return Err(wrong());
        }
        Ok(None)
    }

    /// The rows that have any value, be it an empty array.
    pub fn present(&self) -> Result<RoaringBitmap> {
        if self.regions.present.is_empty() {
            return Ok((0..self.rows).collect());
        }
        decode_rows(self.regions.present, self.rows, self.name)
    }

    /// The ordinals of a row's distinct elements, ascending.
    pub fn row_ordinals(&self, row: u32) -> Result<impl Iterator<Item = u32>> {
        if row >= self.rows {
            return Err(self.outside_rows(row));
        }
        let (regions, values) = (self.regions, self.values());
        Ok(self.regions.places(row).filter_map(move |place| regions.ordinal(place)).filter(move |at| *at < values))
    }

    /// Puts the ordinals of a row's distinct elements, ascending, behind those in `out`.
    pub fn push_row_ordinals(&self, row: u32, out: &mut Vec<u32>) -> Result<()> {
        if row >= self.rows {
            return Err(self.outside_rows(row));
        }
        let ordinals = self.regions.places(row).filter_map(|place| self.regions.ordinal(place));
        out.extend(ordinals.filter(|at| *at < self.values()));
        Ok(())
    }

    /// The ordinal of a row's value; for arrays that of their smallest element. `None` when it has none.
    pub fn scalar_ordinal(&self, row: u32) -> Result<Option<u32>> {
        if row >= self.rows {
            return Err(self.outside_rows(row));
        }
        let place = self.regions.places(row).next();
        Ok(place.and_then(|place| self.regions.ordinal(place)).filter(|at| *at < self.values()))
    }

    #[cold]
    fn outside_rows(&self, row: u32) -> Error {
        Error::internal(format!("{}: row {row} of {}", self.name, self.rows))
    }

    fn outside(&self, ordinal: u32) -> Error {
        Error::internal(format!("{}: value {ordinal} of {}", self.name, self.values()))
    }

    /// Checks that values ascend, that rows' ordinals do and are those of values, and that the rows of each value are
    /// exactly the rows that say they have it.
    pub(in crate::segment) fn verify(&self) -> Result<()> {
        let corrupt = |problem: String| Err(Error::corrupt(format!("{}: {problem}", self.name)));
        let mut keys = self.keys_from(0)?;
        let mut last = None;
        for ordinal in 0..self.values() {
            keys.advance()?;
            let key = keys.key();
            let value = value_of(self.element, key, self.name)?;
            if last.as_ref().is_some_and(|last: &Value| key_of(last) >= Some(key)) {
                return corrupt(format!("value {ordinal} is not above the one before"));
            }
            if self.search(&value)? != (ordinal, true) {
                return corrupt(format!("value {ordinal} is not found by its index"));
            }
            last = Some(value);
        }
        let present = self.present()?;
        let mut held: Vec<(u32, u32)> = Vec::new();
        let mut end = 0;
        for row in 0..self.rows {
            let places = self.regions.places(row);
            if self.regions.array && places.start != end || places.start > places.end {
                return corrupt(format!("the values of row {row} are not in their place"));
            }
            end = places.end;
            let mut before = None;
            for ordinal in places.clone().filter_map(|place| self.regions.ordinal(place)) {
                if ordinal >= self.values() || before >= Some(ordinal) {
                    return corrupt(format!("row {row} has value {ordinal} of {} out of order", self.values()));
                }
                before = Some(ordinal);
                held.push((ordinal, row));
            }
            let all = !self.regions.array || places.clone().all(|place| self.regions.ordinal(place).is_some());
            let has = if self.regions.array {
                before.is_none_or(|_| present.contains(row))
            } else {
                before.is_some() == present.contains(row)
            };
            if !all || !has {
                return corrupt(format!("row {row} does not have the values it is said to have"));
            }
        }
        if self.regions.array && end * usize::from(self.regions.width) != self.regions.ordinals.len() {
            return corrupt(format!("ordinals go on after those of the last row at {end}"));
        }
        held.sort_unstable();
        let mut held = held.chunk_by(|a, b| a.0 == b.0);
        for ordinal in 0..self.values() {
            let expected = held.next().unwrap_or_default();
            let rows = self.rows_of(ordinal)?;
            if expected.first().is_none_or(|first| first.0 != ordinal)
                || rows.len() != expected.len() as u64
                || !rows.iter().eq(expected.iter().map(|(_, row)| *row))
            {
                return corrupt(format!("the rows of value {ordinal} are not those that have it"));
            }
        }
        Ok(())
    }
}

/// A walk over the keys of a column, in ascending order.
pub(in crate::segment) struct Keys<'a> {
    reader: AttributeReader<'a>,
    next: u32,
    rest: Reader<'a>,
    number: u64,
    uuid: [u8; 16],
    text: Vec<u8>,
}

impl<'a> Keys<'a> {
    /// A walk that has not begun, and that would begin with the first key in `rest`.
    fn new(reader: AttributeReader<'a>, next: u32, rest: Reader<'a>) -> Self {
        Keys { reader, next, rest, number: 0, uuid: [0; 16], text: Vec::new() }
    }

    /// Steps to the next key; false after the last.
    pub(in crate::segment) fn advance(&mut self) -> Result<bool> {
        if self.next >= self.reader.values() {
            return Ok(false);
        }
        let name = self.reader.name;
        match self.reader.key_kind {
            KeyKind::Number => self.number = self.rest.u64()?,
            KeyKind::Uuid => self.uuid = self.rest.bytes16()?,
            KeyKind::Text => {
                let shared = varint::read(&mut self.rest, name)?;
                let shared = usize::try_from(shared).ok().filter(|shared| *shared <= self.text.len());
                let shared =
                    shared.ok_or_else(|| Error::corrupt(format!("{name}: value {} has no beginning", self.next)))?;
                let length = varint::read_length(&mut self.rest, name)?;
                self.text.truncate(shared);
                self.text.extend_from_slice(self.rest.take(length)?);
            }
        }
        self.next += 1;
        Ok(true)
    }

    /// The ordinal of the key stepped to.
    pub(in crate::segment) fn ordinal(&self) -> u32 {
        self.next.saturating_sub(1)
    }

    /// The key stepped to.
    pub(in crate::segment) fn key(&self) -> Key<'_> {
        match self.reader.key_kind {
            KeyKind::Number => Key::Number(self.number),
            KeyKind::Uuid => Key::Uuid(self.uuid),
            KeyKind::Text => Key::Text(&self.text),
        }
    }
}
