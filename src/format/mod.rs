//! Bytes at rest: made and read here and nowhere else, little-endian, as `storage-format.md` says.

pub mod bytes;
pub mod dictionary;
pub mod envelope;
pub mod log;
pub mod manifest;
pub mod names;
pub mod node;
pub mod record;
pub mod sparse;
pub mod text;
pub mod varint;
