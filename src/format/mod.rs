//! Bytes at rest: made and read here and nowhere else, little-endian, as `storage-format.md` says.

pub mod attributes;
pub mod bytes;
pub mod clusters;
pub mod conflicts;
pub mod deletions;
pub mod dictionary;
pub mod envelope;
pub mod ids;
pub mod log;
pub mod manifest;
pub mod marks;
pub mod names;
pub mod node;
pub mod positions;
pub mod record;
pub mod rows;
pub mod segment;
pub mod segment_writer;
pub mod snapshot;
pub mod snapshot_writer;
pub mod sparse;
pub mod text;
pub mod values;
pub mod varint;
pub mod vectors;
pub mod versions;
