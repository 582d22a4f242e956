//! A sorted dictionary of terms: groups of 16, front-coded, each term with its number of rows and its bytes of postings.
//!
//! `terms` holds, per term: length shared with the term before (0 for the first of a group), length of the rest, the rest,
//! number of rows, bytes of postings. `groups` holds, per group: its offset in `terms`, and its first postings' offset.
//! Postings lie one behind the other in the dictionary's order.

use std::ops::Range;

use super::bytes::Reader;
use super::varint;
use crate::error::{Error, Result};

/// Terms of one group.
pub const GROUP: usize = 16;
pub const GROUP_ENTRY_BYTES: usize = 16;
/// The longest term, in bytes.
pub const TERM_BYTES_MAX: usize = 64 << 10;

/// A term's place in the postings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// Rows that hold the term.
    pub df: u32,
    pub offset: u64,
    pub bytes: u64,
    /// Which term of the dictionary it is, from 0 on.
    pub ordinal: u32,
}

impl Term {
    /// Where its postings are in a section with a header of so many bytes before them.
    pub fn place(&self, header_bytes: usize) -> Range<usize> {
        let start = header_bytes.saturating_add(self.offset as usize);
        start..start.saturating_add(self.bytes as usize)
    }
}

/// Where the postings end in a section whose header has `header_bytes`, and says from byte `at` on how many bytes they are.
pub(super) fn postings_end(header: &[u8], at: usize, header_bytes: usize, name: &str) -> Result<usize> {
    let mut reader = Reader::new(header, name);
    reader.take(at)?;
    let end = usize::try_from(reader.u64()?).ok().and_then(|bytes| bytes.checked_add(header_bytes));
    end.ok_or_else(|| Error::corrupt(format!("{name}: postings end beyond all bounds")))
}

/// A section's header, its postings, and what comes behind.
pub(super) fn split(
    bytes: &[u8],
    header_bytes: usize,
    end_of: impl FnOnce(&[u8]) -> Result<usize>,
) -> Result<(&[u8], &[u8], &[u8])> {
    let (header, rest) = bytes.split_at_checked(header_bytes).unwrap_or((bytes, &[]));
    let end = end_of(header)?.saturating_sub(header_bytes);
    let (postings, tables) = rest.split_at(end.min(rest.len()));
    Ok((header, postings, tables))
}

/// Writes a dictionary, terms in ascending order.
#[derive(Default)]
pub struct DictionaryWriter {
    pub terms: Vec<u8>,
    pub groups: Vec<u8>,
    pub count: u32,
    last: String,
}

impl DictionaryWriter {
    /// Adds a term of `df` rows, above all before it, whose postings begin at `offset`.
    pub fn add(&mut self, term: &str, df: usize, offset: usize, bytes: usize) -> Result<()> {
        if term.len() > TERM_BYTES_MAX {
            let bytes = term.len();
            return Err(Error::internal(format!("write a term of {bytes} bytes, expected at most {TERM_BYTES_MAX}")));
        }
        if (self.count > 0 && term <= self.last.as_str()) || df == 0 {
            return Err(Error::internal(format!("write term {term:?} after {:?}: out of order", self.last)));
        }
        let shared = if (self.count as usize).is_multiple_of(GROUP) {
            self.groups.extend_from_slice(&(self.terms.len() as u64).to_le_bytes());
            self.groups.extend_from_slice(&(offset as u64).to_le_bytes());
            0
        } else {
            self.last.bytes().zip(term.bytes()).take_while(|(a, b)| a == b).count()
        };
        varint::write(&mut self.terms, shared as u64);
        varint::write(&mut self.terms, (term.len() - shared) as u64);
        self.terms.extend_from_slice(&term.as_bytes()[shared..]);
        varint::write(&mut self.terms, df as u64);
        varint::write(&mut self.terms, bytes as u64);
        self.count += 1;
        self.last.clear();
        self.last.push_str(term);
        Ok(())
    }
}

/// A dictionary at rest.
#[derive(Clone, Copy)]
pub struct Dictionary<'a> {
    pub terms: &'a [u8],
    pub groups: &'a [u8],
    pub name: &'a str,
}

impl<'a> Dictionary<'a> {
    /// How many bytes the groups of so many terms take.
    pub fn groups_bytes(count: u32) -> usize {
        (count as usize).div_ceil(GROUP) * GROUP_ENTRY_BYTES
    }

    /// A term's place; `None` when it is not there.
    pub fn find(&self, term: &str) -> Result<Option<Term>> {
        let Some(group) = self.group_of(term.as_bytes())? else { return Ok(None) };
        let mut terms = self.terms_of_group(group)?;
        for _ in 0..GROUP {
            match terms.step()? {
                Some(found) if terms.text == term.as_bytes() => return Ok(Some(found)),
                Some(_) if terms.text.as_slice() < term.as_bytes() => {}
                _ => break,
            }
        }
        Ok(None)
    }

    /// Calls `each` with the terms that begin with `prefix`, in order, until it says false.
    pub fn for_each_with_prefix(
        &self,
        prefix: &str,
        mut each: impl FnMut(&[u8], Term) -> Result<bool>,
    ) -> Result<()> {
        let mut terms = self.terms_of_group(self.group_of(prefix.as_bytes())?.unwrap_or(0))?;
        while let Some(term) = terms.step()? {
            if terms.text.starts_with(prefix.as_bytes()) {
                if !each(&terms.text, term)? {
                    break;
                }
            } else if terms.text.as_slice() > prefix.as_bytes() {
                break;
            }
        }
        Ok(())
    }

    /// Terms that begin with `prefix`, in order; at most `max`.
    pub fn with_prefix(&self, prefix: &str, max: usize) -> Result<Vec<(String, Term)>> {
        let mut found = Vec::new();
        self.for_each_with_prefix(prefix, |text, term| {
            if found.len() < max {
                found.push((string(text, self.name)?, term));
            }
            Ok(found.len() < max)
        })?;
        Ok(found)
    }

    /// Reads everything and calls `each` with every term; the first thing that does not make sense is the error.
    pub fn verify(&self, count: u32, postings_bytes: usize, mut each: impl FnMut(&Term) -> Result<()>) -> Result<()> {
        let wrong = |problem: String| Err(Error::corrupt(format!("{}: {problem}", self.name)));
        let (mut terms, mut found, mut last) = (self.all()?, 0usize, None::<Vec<u8>>);
        loop {
            let begin = terms.reader.position();
            if found.is_multiple_of(GROUP) && terms.reader.remaining() > 0 {
                let mut entry =
                    Reader::new(self.groups.get(found / GROUP * GROUP_ENTRY_BYTES..).unwrap_or_default(), self.name);
                if (entry.u64()?, entry.u64()?) != (begin as u64, terms.offset) {
                    return wrong(format!("the group of term {found} does not begin where it is said to"));
                }
                // The first term of a group shares nothing.
                terms.text.clear();
            }
            let Some(term) = terms.step()? else { break };
            found += 1;
            terms.string()?;
            if last.as_ref().is_some_and(|last| *last >= terms.text) {
                return wrong(format!("term {found} is not above the one before"));
            }
            last = Some(terms.text.clone());
            if term.df == 0 {
                return wrong(format!("term {found} has no rows"));
            }
            each(&term)?;
        }
        if found != count as usize || terms.offset != postings_bytes as u64 {
            let expected = format!("expected {count} with {postings_bytes}");
            return wrong(format!("{found} terms with {} bytes of postings, {expected}", terms.offset));
        }
        Ok(())
    }

    /// All terms in order.
    pub fn all(&self) -> Result<Terms<'a>> {
        self.terms_of_group(0)
    }

    /// The last group whose first term is not above `term`.
    fn group_of(&self, term: &[u8]) -> Result<Option<usize>> {
        let (mut low, mut high) = (0, self.groups.len() / GROUP_ENTRY_BYTES);
        while low < high {
            let middle = low.midpoint(high);
            let mut terms = self.terms_of_group(middle)?;
            terms.step()?;
            if terms.text.as_slice() <= term {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        Ok(low.checked_sub(1))
    }

    fn terms_of_group(&self, group: usize) -> Result<Terms<'a>> {
        let empty =
            Terms { reader: Reader::new(&[], self.name), text: Vec::new(), offset: 0, ordinal: 0, name: self.name };
        let Some(entry) = self.groups.get(group * GROUP_ENTRY_BYTES..).filter(|entry| !entry.is_empty()) else {
            return Ok(empty);
        };
        let mut entry = Reader::new(entry, self.name);
        let (begin, offset) = (entry.u64()?, entry.u64()?);
        let rest = usize::try_from(begin).ok().and_then(|begin| self.terms.get(begin..));
        let rest = rest.ok_or_else(|| Error::corrupt(format!("{}: group {group} begins too far", self.name)))?;
        let ordinal = (group * GROUP) as u32;
        Ok(Terms { reader: Reader::new(rest, self.name), offset, ordinal, ..empty })
    }
}

/// Walks over a dictionary.
pub struct Terms<'a> {
    reader: Reader<'a>,
    text: Vec<u8>,
    offset: u64,
    ordinal: u32,
    name: &'a str,
}

impl Terms<'_> {
    /// The next term's text and place.
    pub fn next_term(&mut self) -> Result<Option<(String, Term)>> {
        match self.step()? {
            None => Ok(None),
            Some(term) => Ok(Some((self.string()?, term))),
        }
    }

    fn step(&mut self) -> Result<Option<Term>> {
        if self.reader.remaining() == 0 {
            return Ok(None);
        }
        let shared = varint::read(&mut self.reader, self.name)?;
        let rest = varint::read_length(&mut self.reader, self.name)?;
        let shared = usize::try_from(shared).ok().filter(|shared| *shared <= self.text.len());
        let Some(shared) = shared.filter(|shared| shared + rest <= TERM_BYTES_MAX) else {
            let at = self.reader.position();
            return Err(Error::corrupt(format!("{}: a term before byte {at} is malformed", self.name)));
        };
        self.text.truncate(shared);
        self.text.extend_from_slice(self.reader.take(rest)?);
        let df = varint::read_u32(&mut self.reader, self.name)?;
        let bytes = varint::read(&mut self.reader, self.name)?;
        let term = Term { df, offset: self.offset, bytes, ordinal: self.ordinal };
        self.offset = self.offset.saturating_add(bytes);
        self.ordinal = self.ordinal.saturating_add(1);
        Ok(Some(term))
    }

    fn string(&self) -> Result<String> {
        string(&self.text, self.name)
    }
}

fn string(text: &[u8], name: &str) -> Result<String> {
    let text = std::str::from_utf8(text).map(str::to_owned);
    text.map_err(|_| Error::corrupt(format!("{name}: a term is not UTF-8")))
}

/// The bytes of a term's postings.
pub fn postings_of<'a>(postings: &'a [u8], term: &Term, name: &str) -> Result<&'a [u8]> {
    let start = usize::try_from(term.offset).ok();
    let len = usize::try_from(term.bytes).ok();
    start
        .zip(len)
        .and_then(|(start, len)| postings.get(start..)?.get(..len))
        .ok_or_else(|| Error::corrupt(format!("{name}: postings at {} of {} bytes", term.offset, term.bytes)))
}
