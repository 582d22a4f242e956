//! Rows that have tokens one after another, by the positions that their segment keeps.
//!
//! 1. Of the rows of the rarest token, some thousand at a time, it is noted where the sequence would have to begin.
//! 2. Of every other token's rows and positions only those beginnings are kept that have the token at its place, rarest first:
//!    both sides go on to the other's next row, so that whole blocks of rows are passed over.
//! 3. A prefix is any of its terms.

use roaring::RoaringBitmap;

use crate::error::Result;
use crate::model::filter::TokenTest;
use crate::platform::allowance::Allowance;
use crate::segment::text::positions::{Places, PositionsReader};
use crate::segment::text::reader::Term;

/// Beginnings that are looked at together; one row more may go beyond.
const STARTS: usize = 16 << 10;
/// How often the terms of a prefix ask for the time.
const TERMS_PER_CHECK: u32 = 64;

/// Where a sequence may begin: a row, and a position in it. Ascending.
type Start = (u32, u32);

/// Those of the rows `within` that pass a test of two tokens or more.
pub fn rows(
    positions: &PositionsReader<'_>,
    test: &TokenTest,
    within: &RoaringBitmap,
    allowance: &Allowance,
) -> Result<RoaringBitmap> {
    let mut found = RoaringBitmap::new();
    let whole = test.tokens.len() - usize::from(test.last_as_prefix);
    let (whole, prefix) = test.tokens.split_at(whole);
    let mut terms: Vec<(u32, Term)> = Vec::with_capacity(whole.len());
    for (offset, token) in (0..).zip(whole) {
        let Some(term) = positions.text().term(token)? else { return Ok(found) };
        terms.push((offset, term));
    }
    terms.sort_by_key(|(_, term)| term.df);
    let Some(((first_offset, rarest), others)) = terms.split_first() else { return Ok(found) };
    let prefix = prefix.first().map(|prefix| ends(positions, prefix, allowance)).transpose()?;
    let (mut first, mut walks) = (positions.places(rarest)?, Vec::with_capacity(others.len()));
    for (offset, term) in others {
        walks.push((*offset, positions.places(term)?));
    }
    let mut candidates = (positions.text().rows_with(rarest)? & within).into_iter();
    let (mut starts, mut kept): (Vec<Start>, Vec<Start>) = (Vec::new(), Vec::new());
    let mut memory = (0, allowance.take(0)?);
    loop {
        allowance.check()?;
        starts.clear();
        while starts.len() < STARTS
            && let Some(row) = candidates.next()
        {
            if first.seek(row)? == Some(row) {
                let begins = first.positions()?.iter().filter_map(|position| position.checked_sub(*first_offset));
                starts.extend(begins.map(|start| (row, start)));
            }
        }
        if starts.is_empty() {
            return Ok(found);
        }
        let needed = 2 * starts.capacity() * size_of::<Start>();
        if needed > memory.0 {
            memory.1.grow(needed - memory.0)?;
            memory.0 = needed;
        }
        for (offset, walk) in &mut walks {
            // One row alone may have the tokens a million times.
            allowance.check()?;
            kept.clear();
            meet(&starts, walk, *offset, |start| kept.push(start))?;
            std::mem::swap(&mut starts, &mut kept);
        }
        match &prefix {
            None => found.extend(starts.iter().map(|(row, _)| *row)),
            Some(ends) => {
                let offset = whole.len() as u32;
                for (count, term) in (1..).zip(ends) {
                    allowance.check_at(count, TERMS_PER_CHECK)?;
                    meet(&starts, &mut positions.places(term)?, offset, |(row, _)| {
                        found.insert(row);
                    })?;
                }
            }
        }
    }
}

/// The terms that begin with a prefix.
fn ends(positions: &PositionsReader<'_>, prefix: &str, allowance: &Allowance) -> Result<Vec<Term>> {
    let mut terms: Vec<Term> = Vec::new();
    positions.text().for_each_with_prefix(prefix, |term| {
        terms.push(*term);
        Ok(())
    })?;
    allowance.keep(terms.capacity() * size_of::<Term>())?;
    Ok(terms)
}

/// Calls `each` with the starts that have a term `offset` positions further on.
fn meet(starts: &[Start], walk: &mut Places<'_>, offset: u32, mut each: impl FnMut(Start)) -> Result<()> {
    let mut rest = starts;
    while let Some((row, _)) = rest.first() {
        let Some(next) = walk.seek(*row)? else { break };
        if next > *row {
            rest = &rest[first_at_least(rest, next)..];
            continue;
        }
        let (of_row, after) = rest.split_at(first_at_least(rest, next.saturating_add(1)));
        let mut positions = walk.positions()?;
        for (row, start) in of_row {
            let Some(wanted) = start.checked_add(offset) else { break };
            let below = positions.iter().take_while(|position| **position < wanted).count();
            positions = &positions[below..];
            if positions.first() == Some(&wanted) {
                each((*row, *start));
            }
        }
        rest = after;
    }
    Ok(())
}

/// How many starts are of rows below `row`, in steps that double.
fn first_at_least(starts: &[Start], row: u32) -> usize {
    let mut bound = 1;
    while starts.get(bound).is_some_and(|(found, _)| *found < row) {
        bound *= 2;
    }
    let below = bound / 2;
    below + starts[below..starts.len().min(bound + 1)].partition_point(|(found, _)| *found < row)
}
