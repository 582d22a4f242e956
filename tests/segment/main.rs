//! Segments: built, read, merged, and damaged.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod clusters;
mod damage;
mod documents;
mod format;
mod late;
mod merging;
mod positions;
mod postings;
mod reading;
