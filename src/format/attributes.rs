//! One filterable column's index: its distinct values in order, each row's values as ordinals, and each value's rows.
//!
//! The section is regions one after the other, and a trailer with their lengths: values; the offset of every
//! [`STRIDE`]th value when they are strings; for arrays the end of each row's ordinals; ordinals; lists and bitmaps of
//! rows; one entry per value that says where its rows are; the rows with a value, when not all have one.
//!
//! Numbers, booleans and times are kept as u64 keys that sort as the values do, UUIDs as their bytes, strings with the
//! prefix they share with the string before cut off. Ordinals take 1, 2 or 4 bytes, whichever the number of values needs;
//! the largest number of that size says that a row has none.

use uuid::Uuid;

use super::segment::{Codec, column_section};
use super::segment_writer::SegmentWriter;
use super::varint;
use crate::error::{Error, Result};
use crate::model::schema::{AttributeType, ColumnUid};
use crate::model::value::Value;

pub const SECTION: &str = "attribute";
/// Strings per entry of the index of values; the first of them is whole.
pub const STRIDE: usize = 16;
pub const TRAILER_BYTES: usize = 64;
/// Values with at most this many rows have them as a list, others as a bitmap.
pub const LIST_ROWS_MAX: usize = 256;

/// How a column's values are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    Number,
    Uuid,
    Text,
}

/// One value as the dictionary keeps it. Keys of one kind sort as their values do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key<'a> {
    Number(u64),
    Uuid([u8; 16]),
    Text(&'a [u8]),
}

/// How values of a type are kept; `None` for types that have no index.
pub fn key_kind(kind: AttributeType) -> Option<KeyKind> {
    match kind.element() {
        AttributeType::String => Some(KeyKind::Text),
        AttributeType::Uuid => Some(KeyKind::Uuid),
        AttributeType::Bytes | AttributeType::Sparse => None,
        AttributeType::Vector { .. } | AttributeType::Multivector { .. } => None,
        _ => Some(KeyKind::Number),
    }
}

const SIGN: u64 = 1 << 63;

fn int_key(value: i64) -> u64 {
    value as u64 ^ SIGN
}

/// Negative numbers with all bits turned, others with the sign turned: then they sort as unsigned numbers. -0.0 is 0.0.
fn float_key(value: f64) -> u64 {
    let bits = if value == 0.0 { 0 } else { value.to_bits() };
    if bits & SIGN == 0 { bits | SIGN } else { !bits }
}

/// The key of one element; `None` for arrays and for types that have no index.
pub fn key_of(value: &Value) -> Option<Key<'_>> {
    Some(match value {
        Value::Bool(v) => Key::Number(u64::from(*v)),
        Value::Int(v) | Value::DateTime(v) => Key::Number(int_key(*v)),
        Value::Uint(v) => Key::Number(*v),
        Value::Float(v) => Key::Number(float_key(*v)),
        Value::String(v) => Key::Text(v.as_bytes()),
        Value::Uuid(v) => Key::Uuid(*v.as_bytes()),
        _ => return None,
    })
}

/// Calls `each` with the key of every element of a value, which may be a single one.
pub fn keys_of<'a>(value: &'a Value, mut each: impl FnMut(Key<'a>)) {
    match value {
        Value::Bools(v) => v.iter().for_each(|v| each(Key::Number(u64::from(*v)))),
        Value::Ints(v) | Value::DateTimes(v) => v.iter().for_each(|v| each(Key::Number(int_key(*v)))),
        Value::Uints(v) => v.iter().for_each(|v| each(Key::Number(*v))),
        Value::Floats(v) => v.iter().for_each(|v| each(Key::Number(float_key(*v)))),
        Value::Strings(v) => v.iter().for_each(|v| each(Key::Text(v.as_bytes()))),
        Value::Uuids(v) => v.iter().for_each(|v| each(Key::Uuid(*v.as_bytes()))),
        single => {
            if let Some(key) = key_of(single) {
                each(key);
            }
        }
    }
}

/// The value of a key in a column whose elements are of type `element`.
pub fn value_of(element: AttributeType, key: Key, what: &str) -> Result<Value> {
    Ok(match (element, key) {
        (AttributeType::Bool, Key::Number(n @ (0 | 1))) => Value::Bool(n == 1),
        (AttributeType::Int, Key::Number(n)) => Value::Int((n ^ SIGN) as i64),
        (AttributeType::DateTime, Key::Number(n)) => Value::DateTime((n ^ SIGN) as i64),
        (AttributeType::Uint, Key::Number(n)) => Value::Uint(n),
        (AttributeType::Float, Key::Number(n)) => {
            let value = f64::from_bits(if n & SIGN == 0 { !n } else { n ^ SIGN });
            if !value.is_finite() {
                return Err(Error::corrupt(format!("{what}: a number is not finite")));
            }
            Value::Float(value)
        }
        (AttributeType::Uuid, Key::Uuid(bytes)) => Value::Uuid(Uuid::from_bytes(bytes)),
        (AttributeType::String, Key::Text(text)) => Value::String(
            std::str::from_utf8(text)
                .map_err(|_| Error::corrupt(format!("{what}: a string is not UTF-8")))?
                .to_owned(),
        ),
        (element, _) => return Err(Error::corrupt(format!("{what}: a key is no {element}"))),
    })
}

/// Where the rows of one value are; 8 bytes, the upper two bits say which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Posting {
    /// A bitmap of this many bytes (29 bits) at this offset, a multiple of eight (33 bits of it).
    Bitmap { offset: u64, bytes: u32 },
    /// This row alone.
    One(u32),
    /// This many rows (14 bits), u32 each and ascending, at this offset (48 bits).
    List { offset: u64, rows: u16 },
}

impl Posting {
    pub fn to_bits(self) -> Result<u64> {
        let fits = |offset: u64, bits: u32| {
            if offset >> bits == 0 {
                return Ok(offset);
            }
            Err(Error::invalid("the rows of a column's values take too many bytes in one segment"))
        };
        Ok(match self {
            // A bitmap begins at a multiple of eight bytes, so that 33 bits of offset reach 64 GiB.
            Posting::Bitmap { offset, bytes } => fits(offset / 8, 33)? << 29 | u64::from(bytes) & ((1 << 29) - 1),
            Posting::One(row) => 1 << 62 | u64::from(row),
            Posting::List { offset, rows } => 2 << 62 | u64::from(rows) << 48 | fits(offset, 48)?,
        })
    }

    pub fn from_bits(bits: u64) -> Option<Posting> {
        match bits >> 62 {
            0 => Some(Posting::Bitmap { offset: (bits >> 29) * 8, bytes: (bits & ((1 << 29) - 1)) as u32 }),
            1 => u32::try_from(bits & !(1 << 62)).ok().map(Posting::One),
            2 => Some(Posting::List { offset: bits & ((1 << 48) - 1), rows: (bits >> 48 & ((1 << 14) - 1)) as u16 }),
            _ => None,
        }
    }
}

/// The lengths of an attribute section's regions, in their order, and what is in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trailer {
    pub values: u32,
    /// Bytes per ordinal: 1, 2 or 4.
    pub width: u8,
    pub array: bool,
    pub dictionary: u64,
    pub dictionary_index: u64,
    pub ends: u64,
    pub ordinals: u64,
    pub postings: u64,
    /// 0 when every row has a value.
    pub present: u64,
}

impl Trailer {
    pub fn encode(&self) -> [u8; TRAILER_BYTES] {
        let mut out = [0; TRAILER_BYTES];
        let lengths = [
            self.dictionary,
            self.dictionary_index,
            self.ends,
            self.ordinals,
            self.postings,
            u64::from(self.values) * 8,
            self.present,
        ];
        for (at, length) in lengths.iter().enumerate() {
            out[at * 8..at * 8 + 8].copy_from_slice(&length.to_le_bytes());
        }
        out[56..60].copy_from_slice(&self.values.to_le_bytes());
        out[60] = self.width;
        out[61] = u8::from(self.array);
        out
    }
}

/// Bytes per ordinal for this many values: one number more must fit.
pub fn width_for(values: u32) -> u8 {
    match values {
        0..=0xff => 1,
        0x100..=0xffff => 2,
        _ => 4,
    }
}

/// Writes values in ascending order of key.
pub struct DictionaryWriter {
    values: u32,
    last: Vec<u8>,
    bytes: Vec<u8>,
    index: Vec<u8>,
}

impl DictionaryWriter {
    /// Begins the column's section.
    pub fn begin(out: &mut SegmentWriter, uid: ColumnUid) -> Result<Self> {
        out.begin(column_section(SECTION, uid), Codec::Plain)?;
        Ok(DictionaryWriter { values: 0, last: Vec::new(), bytes: Vec::new(), index: Vec::new() })
    }

    pub fn push(&mut self, out: &mut SegmentWriter, key: Key) -> Result<()> {
        self.bytes.clear();
        match key {
            Key::Number(n) => self.bytes.extend_from_slice(&n.to_le_bytes()),
            Key::Uuid(bytes) => self.bytes.extend_from_slice(&bytes),
            Key::Text(text) => {
                let whole = (self.values as usize).is_multiple_of(STRIDE);
                if whole {
                    self.index.extend_from_slice(&out.section_bytes().to_le_bytes());
                }
                let shared = if whole { 0 } else { text.iter().zip(&self.last).take_while(|(a, b)| a == b).count() };
                varint::write(&mut self.bytes, shared as u64);
                varint::write(&mut self.bytes, (text.len() - shared) as u64);
                self.bytes.extend_from_slice(&text[shared..]);
                self.last.truncate(shared);
                self.last.extend_from_slice(&text[shared..]);
            }
        }
        self.values += 1;
        out.write(&self.bytes)
    }

    /// Ends the values. The trailer has their number and lengths, and the width of ordinals.
    pub fn finish(self, out: &mut SegmentWriter) -> Result<Trailer> {
        let dictionary = out.section_bytes();
        out.write(&self.index)?;
        Ok(Trailer {
            values: self.values,
            width: width_for(self.values),
            dictionary,
            dictionary_index: self.index.len() as u64,
            ..Trailer::default()
        })
    }
}

/// Adds ordinals as the trailer's width says; [`u32::MAX`] says that a row has none.
pub fn encode_ordinals(width: u8, ordinals: &[u32], out: &mut SegmentWriter) -> Result<u64> {
    let mut bytes = Vec::with_capacity(1 << 12);
    for part in ordinals.chunks(1 << 10) {
        bytes.clear();
        match width {
            1 => bytes.extend(part.iter().map(|ordinal| *ordinal as u8)),
            2 => bytes.extend(part.iter().flat_map(|ordinal| (*ordinal as u16).to_le_bytes())),
            _ => bytes.extend(part.iter().flat_map(|ordinal| ordinal.to_le_bytes())),
        }
        out.write(&bytes)?;
    }
    Ok(ordinals.len() as u64 * u64::from(width))
}

/// The regions of an attribute section, read in place. Lengths are checked; what is in them is when it is read.
#[derive(Clone, Copy)]
pub struct Regions<'a> {
    pub values: u32,
    pub width: u8,
    pub array: bool,
    pub dictionary: &'a [u8],
    pub dictionary_index: &'a [[u8; 8]],
    pub ends: &'a [[u8; 4]],
    pub ordinals: &'a [u8],
    pub postings: &'a [u8],
    pub table: &'a [[u8; 8]],
    pub present: &'a [u8],
}

impl<'a> Regions<'a> {
    pub fn new(bytes: &'a [u8], rows: u32, kind: AttributeType, what: &str) -> Result<Self> {
        let wrong = |problem: &str| Error::corrupt(format!("{what}: {problem}"));
        let (mut rest, trailer) =
            bytes.split_last_chunk::<TRAILER_BYTES>().ok_or_else(|| wrong("is shorter than its trailer"))?;
        let number = |at: usize| {
            let mut bytes = [0; 8];
            bytes.copy_from_slice(&trailer[at * 8..at * 8 + 8]);
            u64::from_le_bytes(bytes)
        };
        let mut regions = [&[][..]; 7];
        for (at, region) in regions.iter_mut().enumerate() {
            let length = usize::try_from(number(at)).ok();
            (*region, rest) = length
                .and_then(|length| rest.split_at_checked(length))
                .ok_or_else(|| wrong("a region is longer than the section"))?;
        }
        let values = number(7) as u32;
        let (width, array) = (trailer[60], trailer[61] == 1);
        let [dictionary, index, ends, ordinals, postings, table, present] = regions;
        let count = values as usize;
        let dictionary_is_right = match key_kind(kind) {
            Some(KeyKind::Number) => dictionary.len() == count * 8 && index.is_empty(),
            Some(KeyKind::Uuid) => dictionary.len() == count * 16 && index.is_empty(),
            Some(KeyKind::Text) => index.len() == count.div_ceil(STRIDE) * 8,
            None => false,
        };
        let (ends, uneven) = ends.as_chunks::<4>();
        let is_right = rest.is_empty()
            && dictionary_is_right
            && uneven.is_empty()
            && trailer[61] <= 1
            && trailer[62..] == [0, 0]
            && array == kind.is_array()
            && width == width_for(values)
            && table.len() == count * 8
            && ends.len() == if array { rows as usize } else { 0 }
            && ordinals.len().is_multiple_of(usize::from(width))
            && (array || ordinals.len() == rows as usize * usize::from(width));
        if !is_right {
            return Err(wrong("its regions are not as long as its trailer says"));
        }
        let (dictionary_index, table) = (index.as_chunks().0, table.as_chunks().0);
        Ok(Regions { values, width, array, dictionary, dictionary_index, ends, ordinals, postings, table, present })
    }

    /// The ordinal at a place; `None` when the place says that there is none, or there is no such place.
    pub fn ordinal(&self, at: usize) -> Option<u32> {
        match self.width {
            1 => self.ordinals.get(at).filter(|n| **n != u8::MAX).map(|n| u32::from(*n)),
            2 => {
                let found = self.ordinals.as_chunks().0.get(at).map(|n| u16::from_le_bytes(*n));
                found.filter(|n| *n != u16::MAX).map(u32::from)
            }
            _ => {
                let found = self.ordinals.as_chunks().0.get(at).map(|n| u32::from_le_bytes(*n));
                found.filter(|n| *n != u32::MAX)
            }
        }
    }

    /// Where a row's ordinals are.
    pub fn places(&self, row: u32) -> std::ops::Range<usize> {
        let row = row as usize;
        if !self.array {
            return row..row + 1;
        }
        let end = |row: usize| self.ends.get(row).map_or(0, |end| u32::from_le_bytes(*end) as usize);
        row.checked_sub(1).map_or(0, end)..end(row).min(self.ordinals.len() / usize::from(self.width))
    }
}

#[cfg(test)]
mod tests {
    use super::{Key, Posting, key_of, value_of};
    use crate::model::schema::AttributeType;
    use crate::model::value::Value;

    #[test]
    fn keys_sort_as_their_values_do() {
        let floats = [f64::MIN, -1.5, -f64::MIN_POSITIVE, 0.0, 5e-324, 1.0, f64::MAX];
        let values = floats.map(Value::Float);
        let keys: Vec<Key> = values.iter().map(|value| key_of(value).unwrap()).collect();
        assert!(keys.is_sorted() && keys.windows(2).all(|two| two[0] != two[1]));
        for (value, key) in floats.iter().zip(keys) {
            assert_eq!(value_of(AttributeType::Float, key, "key").unwrap(), Value::Float(*value));
        }
        assert_eq!(key_of(&Value::Float(-0.0)), key_of(&Value::Float(0.0)));
        assert!(key_of(&Value::Int(-1)) < key_of(&Value::Int(0)));
        assert!(key_of(&Value::DateTime(i64::MIN)) < key_of(&Value::DateTime(i64::MAX)));
    }

    #[test]
    fn a_posting_is_read_as_it_was_written() {
        let all = [
            Posting::Bitmap { offset: 8 * ((1 << 33) - 1), bytes: (1 << 29) - 1 },
            Posting::One(u32::MAX),
            Posting::List { offset: (1 << 48) - 1, rows: 256 },
        ];
        for posting in all {
            assert_eq!(Posting::from_bits(posting.to_bits().unwrap()), Some(posting));
        }
        assert!(Posting::Bitmap { offset: 1 << 40, bytes: 1 }.to_bits().is_err());
        assert_eq!(Posting::from_bits(3 << 62), None);
    }
}
