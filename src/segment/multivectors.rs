//! Writes a column of multivectors, of documents or of the segments that are merged: tokens one after the other, where each row's
//! end, and which clusters they are in.

use roaring::RoaringBitmap;

use super::SegmentColumn;
use super::merge::{GONE, Input, Plan};
use super::vectors::carried::Carried;
use super::vectors::clustering::{self, Extent};
use super::vectors::{TokenReader, widen_into};
use crate::error::{Error, Result};
use crate::format::segment::{Codec, column_section};
use crate::format::segment_writer::SegmentWriter;
use crate::format::vectors::{ENDS_SECTION, PRESENT_SECTION, SECTION, encode_rows};
use crate::model::document::Document;
use crate::model::schema::{AttributeType, ColumnUid, Element, Metric};
use crate::model::value::Value;

/// Writes the multivectors of documents.
pub(in crate::segment) fn write(
    column: &SegmentColumn,
    metric: Option<Metric>,
    documents: &[&Document],
    out: &mut SegmentWriter,
) -> Result<()> {
    let mut writer = Writer::new(column.uid, documents.len());
    let tokens: Vec<Option<&[u8]>> = documents
        .iter()
        .map(|document| match document.get(column.uid) {
            Some(Value::Multivector(tokens)) => Some(bytemuck::cast_slice(&tokens.elements)),
            _ => None,
        })
        .collect();
    for tokens in &tokens {
        writer.add(column, *tokens, out)?;
    }
    let ends = writer.finish(out)?;
    let of_row = |row: usize| Ok(tokens.get(row).copied().flatten().unwrap_or_default());
    write_clusters(column, metric, &ends, of_row, None, out)
}

/// Writes those of a merge's result.
pub(in crate::segment) fn merge(
    inputs: &[Input],
    column: &SegmentColumn,
    metric: Option<Metric>,
    plan: &Plan,
    out: &mut SegmentWriter,
) -> Result<()> {
    let readers = inputs.iter().map(|input| input.segment.tokens(column.uid)).collect::<Result<Vec<_>>>()?;
    let mut writer = Writer::new(column.uid, plan.rows.len());
    let tokens_of = |(input, row): (u32, u32)| match &readers[input as usize] {
        Some(reader) => reader.stored(row),
        None => Ok(None),
    };
    for row in &plan.rows {
        writer.add(column, tokens_of(*row)?, out)?;
    }
    let ends = writer.finish(out)?;
    let carried = carried(&readers, plan, &ends)?;
    let of_row = |row: usize| Ok(tokens_of(plan.rows[row])?.unwrap_or_default());
    write_clusters(column, metric, &ends, of_row, carried.as_ref(), out)
}

/// The clusters of the input that has most of the result's tokens, which end at `ends`.
fn carried<'a>(readers: &[Option<TokenReader<'a>>], plan: &Plan, ends: &[u32]) -> Result<Option<Carried<'a>>> {
    let starts = || std::iter::once(0).chain(ends.iter().copied());
    let mut counts = vec![0; readers.len()];
    for ((start, end), (input, _)) in starts().zip(ends).zip(&plan.rows) {
        counts[*input as usize] += end - start;
    }
    let Some((input, _)) = (0..).zip(counts).max_by_key(|(_, count)| *count) else { return Ok(None) };
    let Some(reader) = readers.get(input as usize).and_then(Option::as_ref) else { return Ok(None) };
    let mut places = vec![GONE; reader.token_count() as usize];
    for (start, (_, row)) in starts().zip(&plan.rows).filter(|(_, (from, _))| *from == input) {
        let tokens = reader.tokens_of(*row)?;
        let own = places.get_mut(tokens.start as usize..tokens.end as usize).unwrap_or_default();
        own.iter_mut().zip(start..).for_each(|(own, place)| *own = place);
    }
    reader.carried(places)
}

/// Writes which clusters tokens are in, where they are searched; those of a row are in the bytes that `of_row` gives.
fn write_clusters<'a>(
    SegmentColumn { uid, column }: &SegmentColumn,
    metric: Option<Metric>,
    ends: &[u32],
    of_row: impl Fn(usize) -> Result<&'a [u8]>,
    carried: Option<&Carried>,
    out: &mut SegmentWriter,
) -> Result<()> {
    let (true, AttributeType::Multivector { dims }, Some(metric)) = (column.late_interaction, column.kind, metric)
    else {
        return Ok(());
    };
    let tokens = Tokens { ends, of_row, bytes: dims as usize * Element::F32.bytes() };
    let count = ends.last().copied().unwrap_or(0);
    clustering::write(*uid, (metric, dims, Extent::Table), (&tokens, count), carried, out)
}

/// Tokens by their places among those of all rows.
struct Tokens<'e, F> {
    ends: &'e [u32],
    of_row: F,
    /// Of one.
    bytes: usize,
}

impl<'a, F: Fn(usize) -> Result<&'a [u8]>> clustering::Vectors for Tokens<'_, F> {
    fn count(&self) -> usize {
        self.ends.last().map_or(0, |end| *end as usize)
    }

    fn row(&self, place: usize) -> u32 {
        place as u32
    }

    fn read(&self, place: usize, out: &mut [f32]) -> Result<()> {
        let row = self.ends.partition_point(|end| *end as usize <= place);
        let start = row.checked_sub(1).map_or(0, |before| self.ends[before]) as usize;
        let token = (self.of_row)(row)?.chunks_exact(self.bytes).nth(place - start);
        widen_into(Element::F32, token.ok_or_else(|| Error::internal("a token that was written is gone"))?, out);
        Ok(())
    }
}

/// Writes tokens as they come; holds where they end.
struct Writer {
    uid: ColumnUid,
    present: RoaringBitmap,
    ends: Vec<u32>,
}

impl Writer {
    fn new(uid: ColumnUid, rows: usize) -> Self {
        Writer { uid, present: RoaringBitmap::new(), ends: Vec::with_capacity(rows) }
    }

    /// Adds the next row: the bytes of its tokens.
    fn add(
        &mut self,
        SegmentColumn { column, .. }: &SegmentColumn,
        tokens: Option<&[u8]>,
        out: &mut SegmentWriter,
    ) -> Result<()> {
        let AttributeType::Multivector { dims } = column.kind else { return Ok(()) };
        let before = self.ends.last().copied().unwrap_or(0);
        let mut end = before;
        if let Some(bytes) = tokens {
            self.present.insert(self.ends.len() as u32);
            let count = bytes.len() / (dims as usize * Element::F32.bytes());
            if before == 0 && count > 0 {
                out.begin(column_section(SECTION, self.uid), Codec::Plain)?;
            }
            // The largest number is kept free, as among rows.
            let all = u32::try_from(count).ok().and_then(|count| before.checked_add(count));
            end = all.filter(|all| *all < u32::MAX).ok_or_else(|| {
                Error::invalid(format!("attribute {:?}: its tokens are too many for one segment", column.name))
            })?;
            out.write(bytes)?;
        }
        self.ends.push(end);
        Ok(())
    }

    /// Writes the other sections, and gives where each row's tokens end.
    fn finish(self, out: &mut SegmentWriter) -> Result<Vec<u32>> {
        if self.present.is_empty() {
            return Ok(self.ends);
        }
        out.section(column_section(ENDS_SECTION, self.uid), bytemuck::cast_slice(&self.ends))?;
        if self.present.len() < self.ends.len() as u64 {
            let mut present = self.present;
            present.optimize();
            out.section(column_section(PRESENT_SECTION, self.uid), &encode_rows(&present)?)?;
        }
        Ok(self.ends)
    }
}
