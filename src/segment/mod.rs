//! Index bytes in, answers out: what one immutable segment can be asked.

mod attribute_builder;
pub mod attributes;
pub mod builder;
mod dead_counts;
pub mod merge;
mod merge_postings;
mod multivectors;
pub mod reader;
pub mod row_bits;
mod sections;
pub mod sparse;
pub mod text;
pub mod unique;
pub mod vectors;
mod verify;

pub use reader::Segment;

use crate::model::ids::Hlc;
use crate::model::schema::{Column, ColumnUid};

/// The sections of full-text and of sparse vector columns.
const TEXT_SECTION: &str = "text";
const SPARSE_SECTION: &str = "sparse";

/// A column of a segment, as the schema had it when the segment was built.
#[derive(Clone, Debug, PartialEq)]
pub struct SegmentColumn {
    pub uid: ColumnUid,
    pub column: Column,
}

/// What a segment file that was written holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    pub bytes: u64,
    /// Over the whole file.
    pub crc32c: u32,
    pub rows: u32,
    pub tombstones: u32,
    /// Of all rows.
    pub logical_bytes: u64,
    /// The clock of the newest tombstone that a merge of segments dropped because of its age; 0 when it dropped none.
    pub forgotten: Hlc,
}
