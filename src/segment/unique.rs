//! Finds documents that are live in more than one segment: one pass over all ids in their order, which holds one id of each
//! segment in memory.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::merge::Input;
use crate::error::{Error, Result};
use crate::model::ids::DocId;

/// Gives `each` every id that is live in several of `inputs`, with the places of two of them, the lower first. An error comes
/// with the place of the segment whose ids cannot be read.
pub fn live_twice(
    inputs: &[Input],
    mut each: impl FnMut(&DocId, usize, usize),
) -> std::result::Result<(), (usize, Error)> {
    if inputs.len() < 2 {
        return Ok(());
    }
    let next = |at: usize, row: u32| match next_live(&inputs[at], row) {
        Ok(found) => Ok(found.map(|(id, row)| Reverse((id, at, row)))),
        Err(error) => Err((at, error)),
    };
    let mut heads = BinaryHeap::with_capacity(inputs.len());
    for at in 0..inputs.len() {
        heads.extend(next(at, 0)?);
    }
    let mut last: Option<(DocId, usize)> = None;
    while let Some(Reverse((id, at, row))) = heads.pop() {
        heads.extend(next(at, row + 1)?);
        match &last {
            Some((known, first)) if *known == id => each(&id, *first, at),
            _ => last = Some((id, at)),
        }
    }
    Ok(())
}

/// The first live row from `row` on, and its id.
fn next_live(Input { segment, dead }: &Input, row: u32) -> Result<Option<(DocId, u32)>> {
    let next = (row..segment.rows()).find(|row| !dead.contains(*row));
    next.map(|row| Ok((segment.id_of(row)?, row))).transpose()
}
