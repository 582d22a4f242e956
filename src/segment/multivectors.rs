//! Writes a column of multivectors, of documents or of the segments that are merged: tokens one after the other, and where each
//! row's end.

use roaring::RoaringBitmap;

use super::SegmentColumn;
use super::merge::{Input, Plan};
use crate::error::{Error, Result};
use crate::format::segment::{Codec, column_section};
use crate::format::segment_writer::SegmentWriter;
use crate::format::vectors::{ENDS_SECTION, PRESENT_SECTION, SECTION, encode_rows};
use crate::model::document::Document;
use crate::model::schema::ColumnUid;
use crate::model::value::Value;

/// Writes the multivectors of documents.
pub(in crate::segment) fn write(
    SegmentColumn { uid, column }: &SegmentColumn,
    documents: &[&Document],
    out: &mut SegmentWriter,
) -> Result<()> {
    let mut writer = Writer::new(*uid, documents.len());
    for document in documents {
        let tokens = match document.get(*uid) {
            Some(Value::Multivector(tokens)) => Some((bytemuck::cast_slice(&tokens.elements), tokens.tokens().len())),
            _ => None,
        };
        writer.add(&column.name, tokens, out)?;
    }
    writer.finish(out)
}

/// Writes those of a merge's result.
pub(in crate::segment) fn merge(
    inputs: &[Input],
    SegmentColumn { uid, column }: &SegmentColumn,
    plan: &Plan,
    out: &mut SegmentWriter,
) -> Result<()> {
    let readers = inputs.iter().map(|input| input.segment.tokens(*uid)).collect::<Result<Vec<_>>>()?;
    let mut writer = Writer::new(*uid, plan.rows.len());
    for (input, row) in &plan.rows {
        let reader = readers[*input as usize].as_ref();
        let tokens = reader.map(|reader| reader.stored(*row)).transpose()?.flatten();
        let count = reader.map(|reader| reader.tokens_of(*row)).transpose()?.map_or(0, |tokens| tokens.len());
        writer.add(&column.name, tokens.map(|tokens| (tokens, count)), out)?;
    }
    writer.finish(out)
}

/// Writes tokens as they come; holds where they end.
struct Writer {
    uid: ColumnUid,
    present: RoaringBitmap,
    ends: Vec<u8>,
    tokens: u32,
    rows: u32,
}

impl Writer {
    fn new(uid: ColumnUid, rows: usize) -> Self {
        Writer { uid, present: RoaringBitmap::new(), ends: Vec::with_capacity(rows * 4), tokens: 0, rows: 0 }
    }

    /// Adds the next row: the bytes of its tokens, and how many they are.
    fn add(&mut self, name: &str, tokens: Option<(&[u8], usize)>, out: &mut SegmentWriter) -> Result<()> {
        if let Some((bytes, count)) = tokens {
            self.present.insert(self.rows);
            if self.tokens == 0 && count > 0 {
                out.begin(column_section(SECTION, self.uid), Codec::Plain)?;
            }
            let all = u32::try_from(count).ok().and_then(|count| self.tokens.checked_add(count));
            // The largest number is kept free, as among rows.
            self.tokens = all.filter(|all| *all < u32::MAX).ok_or_else(|| {
                Error::invalid(format!("attribute {name:?}: its tokens are too many for one segment"))
            })?;
            out.write(bytes)?;
        }
        self.ends.extend_from_slice(&self.tokens.to_le_bytes());
        self.rows += 1;
        Ok(())
    }

    fn finish(self, out: &mut SegmentWriter) -> Result<()> {
        if self.present.is_empty() {
            return Ok(());
        }
        out.section(column_section(ENDS_SECTION, self.uid), &self.ends)?;
        if self.present.len() < u64::from(self.rows) {
            let mut present = self.present;
            present.optimize();
            out.section(column_section(PRESENT_SECTION, self.uid), &encode_rows(&present)?)?;
        }
        Ok(())
    }
}
