//! Index bytes in, answers out: what one immutable segment can be asked.

mod attribute_builder;
pub mod attributes;
pub mod builder;
mod dead_counts;
pub mod documents;
mod memory;
pub mod merge;
mod merge_postings;
mod multivectors;
mod past;
pub mod reader;
pub mod renewal;
pub mod row_bits;
mod sections;
pub mod sparse;
pub mod text;
pub mod unique;
pub mod vectors;
mod verify;

pub use memory::MemoryLeft;
pub use reader::Segment;
pub use sections::Ahead;

use crate::model::ids::Hlc;
use crate::model::schema::{Column, ColumnUid, FullText};

/// The sections of full-text and of sparse vector columns.
const TEXT_SECTION: &str = "text";
const POSITIONS_SECTION: &str = "positions";
const SPARSE_SECTION: &str = "sparse";

/// A column of a segment, as the schema had it when the segment was built.
#[derive(Clone, Debug, PartialEq)]
pub struct SegmentColumn {
    pub uid: ColumnUid,
    pub column: Column,
}

impl SegmentColumn {
    /// Whether there is a section of positions.
    fn keeps_positions(&self) -> bool {
        self.column.full_text.as_ref().is_some_and(|options| options.positions)
    }

    /// Whether there are terms as these options make them, with positions if they say so.
    fn has_text_of(&self, options: &FullText) -> bool {
        let had = self.column.full_text.as_ref();
        had.is_some_and(|had| had.same_terms(options) && (had.positions || !options.positions))
    }
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
