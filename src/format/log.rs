//! The log object: a header and frames, appended to while it is open and never changed once it is sealed.
//!
//! Invariants:
//! - A frame is in the log whole or not at all: its checksum is seeded with the file's salt, so bytes of an older file
//!   that happened to lie in the same disk blocks are never taken for frames of this one.
//! - `synced` in a frame is the length that was durable when the frame was written. A bad frame below a later valid
//!   frame's `synced` was acknowledged and is corruption; any other bad frame is a torn tail, never acknowledged.
//! - A commit of several frames counts only with its last one.

use uuid::Uuid;

use super::bytes::Reader;
use super::record::{Batch, PAYLOAD_BYTES_MAX, decode_batch, encode_batch};
use crate::error::{Error, Result};
use crate::model::ids::{Hlc, Nsid, Origin};

pub const MAGIC: [u8; 8] = *b"SHOALLOG";
pub const VERSION: u32 = 1;
/// Bytes before the first frame.
pub const HEADER_BYTES: usize = 72;
/// Bytes of a frame before its payload.
pub const FRAME_HEADER_BYTES: usize = 40;
/// Set in a frame's flags when its commit goes on in the next frame.
const FLAG_MORE: u32 = 1;

/// What a log says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogHeader {
    /// Random; seeds the checksum of every frame.
    pub salt: u32,
    pub nsid: Nsid,
    pub origin: Origin,
    pub first_seq: u64,
    /// The log before this one, sealed at this length before this header was written.
    pub previous: Option<PreviousLog>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreviousLog {
    pub first_seq: u64,
    pub bytes: u64,
}

/// One frame: a batch, or a part of a large one.
#[derive(Clone, Debug, PartialEq)]
pub struct Frame {
    /// The log's length known durable when this was written.
    pub synced: u64,
    /// The sequence number of the first record.
    pub first_seq: u64,
    pub more: bool,
    /// The version clock of every record in it.
    pub hlc: Hlc,
    pub batch: Batch,
}

/// A log read back: the frames of whole commits, and what follows them.
#[derive(Clone, Debug, PartialEq)]
pub struct LogContents {
    pub header: LogHeader,
    pub frames: Vec<Frame>,
    /// Where the last whole commit ends; a torn tail is cut here.
    pub valid_bytes: u64,
    /// Bytes follow `valid_bytes` that are no whole commit.
    pub torn: bool,
}

/// The bytes of a header.
pub fn encode_header(header: &LogHeader) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER_BYTES);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(&header.salt.to_le_bytes());
    out.extend_from_slice(header.nsid.0.as_bytes());
    out.extend_from_slice(&header.origin.0.to_le_bytes());
    out.extend_from_slice(&header.first_seq.to_le_bytes());
    // No log starts at sequence number 0 with a predecessor, and none is shorter than its header: 0 says "none".
    let previous = header.previous.unwrap_or(PreviousLog { first_seq: 0, bytes: 0 });
    out.extend_from_slice(&previous.first_seq.to_le_bytes());
    out.extend_from_slice(&previous.bytes.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    let checksum = crc32c::crc32c(&out);
    out.extend_from_slice(&checksum.to_le_bytes());
    out
}

/// The bytes of a frame. Fails when its payload is too large.
pub fn encode_frame(salt: u32, frame: &Frame) -> Result<Vec<u8>> {
    let payload = encode_batch(&frame.batch)?;
    let count = u32::try_from(frame.batch.records.len())
        .map_err(|_| Error::internal("a frame has more than 4,294,967,295 records"))?;
    // `encode_batch` bounds the payload far below 4 GiB.
    let length = u32::try_from(payload.len()).map_err(|_| Error::internal("payload length"))?;
    let mut out = Vec::with_capacity(FRAME_HEADER_BYTES + payload.len());
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&frame.synced.to_le_bytes());
    out.extend_from_slice(&frame.first_seq.to_le_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&(if frame.more { FLAG_MORE } else { 0 }).to_le_bytes());
    out.extend_from_slice(&frame.hlc.0.to_le_bytes());
    out.extend_from_slice(&payload);
    let checksum = frame_checksum(salt, &out);
    out[4..8].copy_from_slice(&checksum.to_le_bytes());
    Ok(out)
}

/// Over the salt and everything in the frame but the checksum itself.
fn frame_checksum(salt: u32, frame: &[u8]) -> u32 {
    let seed = crc32c::crc32c(&salt.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(seed, &frame[..4]), &frame[8..])
}

/// Reads a log. `Corrupt` when the header or an acknowledged frame is damaged; a torn tail is reported, not an error.
pub fn decode_log(bytes: &[u8], name: &str) -> Result<LogContents> {
    let header = peek_header(bytes, name)?;
    let mut contents = LogContents { header, frames: Vec::new(), valid_bytes: HEADER_BYTES as u64, torn: false };
    let mut at = HEADER_BYTES;
    let mut next_seq = contents.header.first_seq;
    // How many of `frames` belong to whole commits.
    let mut whole = 0;
    while at < bytes.len() {
        let Some(length) = frame_at(bytes, at, contents.header.salt) else { break };
        let frame = decode_frame(&bytes[at..at + length], name, at)?;
        if frame.first_seq != next_seq {
            return Err(Error::corrupt(format!(
                "{name}: frame at byte {at} starts at sequence number {}, expected {next_seq}",
                frame.first_seq
            )));
        }
        next_seq += frame.batch.records.len() as u64;
        at += length;
        let more = frame.more;
        contents.frames.push(frame);
        if !more {
            whole = contents.frames.len();
            contents.valid_bytes = at as u64;
        }
    }
    contents.frames.truncate(whole);
    contents.torn = contents.valid_bytes < bytes.len() as u64;
    if contents.torn
        && let Some((found, synced)) = later_frame(bytes, at, contents.header.salt)
        && synced > contents.valid_bytes
    {
        return Err(Error::corrupt(format!(
            "{name}: frame at byte {at} is damaged, and the frame at byte {found} says that {synced} bytes were durable"
        ))
        .with_hint("acknowledged writes are damaged: restore this file from a copy, or run `shoal repair`"));
    }
    Ok(contents)
}

/// The header alone. `Corrupt` when it is damaged, `Unsupported` when its version is unknown.
pub fn peek_header(bytes: &[u8], name: &str) -> Result<LogHeader> {
    let mut reader = Reader::new(bytes, name);
    let magic = reader.take(8)?;
    if magic != MAGIC {
        return Err(Error::corrupt(format!("{name}: starts with {magic:02x?}, expected {MAGIC:02x?}")));
    }
    let version = reader.u32()?;
    if version != VERSION {
        return Err(Error::unsupported(format!(
            "{name}: log format version {version}, this release reads version {VERSION}"
        ))
        .with_hint("use a release of Shoal that knows this version"));
    }
    let salt = reader.u32()?;
    let nsid = Nsid(Uuid::from_bytes(reader.bytes16()?));
    let origin = Origin(reader.u64()?);
    let first_seq = reader.u64()?;
    let (previous_seq, previous_bytes) = (reader.u64()?, reader.u64()?);
    let reserved = reader.u32()?;
    let covered = &bytes[..reader.position()];
    let (stored, computed) = (reader.u32()?, crc32c::crc32c(covered));
    if stored != computed {
        return Err(Error::corrupt(format!("{name}: header checksum is {computed:08x}, expected {stored:08x}")));
    }
    if reserved != 0 {
        return Err(Error::corrupt(format!("{name}: reserved header bytes are {reserved:08x}, expected 0")));
    }
    let previous = (previous_bytes != 0).then_some(PreviousLog { first_seq: previous_seq, bytes: previous_bytes });
    Ok(LogHeader { salt, nsid, origin, first_seq, previous })
}

/// The length of the frame at `at`, when a whole one with a right checksum is there.
fn frame_at(bytes: &[u8], at: usize, salt: u32) -> Option<usize> {
    let rest = bytes.get(at..)?;
    let mut reader = Reader::new(rest, "");
    let payload = usize::try_from(reader.u32().ok()?).ok().filter(|n| *n <= PAYLOAD_BYTES_MAX)?;
    let stored = reader.u32().ok()?;
    let frame = rest.get(..FRAME_HEADER_BYTES + payload)?;
    (frame_checksum(salt, frame) == stored).then_some(frame.len())
}

fn decode_frame(frame: &[u8], name: &str, at: usize) -> Result<Frame> {
    let what = format!("{name}: frame at byte {at}");
    let mut reader = Reader::new(frame, &what);
    reader.take(8)?;
    let (synced, first_seq, count, flags, hlc) =
        (reader.u64()?, reader.u64()?, reader.u32()?, reader.u32()?, Hlc(reader.u64()?));
    if flags & !FLAG_MORE != 0 {
        return Err(Error::unsupported(format!("{what}: flags {flags:08x}, this release knows {FLAG_MORE:08x}")));
    }
    let batch = decode_batch(reader.take(reader.remaining())?, &what)?;
    if batch.records.len() as u64 != u64::from(count) {
        return Err(Error::corrupt(format!("{what}: {} records, expected {count}", batch.records.len())));
    }
    Ok(Frame { synced, first_seq, more: flags & FLAG_MORE != 0, hlc, batch })
}

/// The last valid frame after the damage at `from`, wherever it starts, and what it says was durable. Frames have no
/// alignment, so every byte is tried; this runs only on a damaged log, and a length over the rest fails at once.
fn later_frame(bytes: &[u8], from: usize, salt: u32) -> Option<(usize, u64)> {
    let mut found = None;
    let mut at = from + 1;
    while at + FRAME_HEADER_BYTES <= bytes.len() {
        // The declared durable length can never be beyond the frame itself: a cheap test before the checksum.
        let synced = Reader::new(&bytes[at + 8..], "").u64().ok()?;
        if synced >= HEADER_BYTES as u64
            && synced <= at as u64
            && let Some(length) = frame_at(bytes, at, salt)
        {
            found = Some((at, synced));
            at += length;
        } else {
            at += 1;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::{Frame, HEADER_BYTES, LogHeader, PreviousLog, decode_log, encode_frame, encode_header};
    use crate::error::Kind;
    use crate::format::record::{Batch, Record};
    use crate::model::ids::{DocId, Hlc, Nsid, Origin};
    use uuid::Uuid;

    fn header() -> LogHeader {
        LogHeader {
            salt: 0x5eed,
            nsid: Nsid(Uuid::from_u128(1)),
            origin: Origin(2),
            first_seq: 10,
            previous: Some(PreviousLog { first_seq: 1, bytes: 100 }),
        }
    }

    fn frame(first_seq: u64, synced: usize, more: bool) -> Frame {
        let records = vec![Record::Delete { id: DocId::Uint(first_seq) }, Record::Delete { id: DocId::Uint(99) }];
        let batch = Batch { records, ..Batch::default() };
        Frame { synced: synced as u64, first_seq, more, hlc: Hlc(first_seq), batch }
    }

    /// Four frames, each written after the one before it was synced; the ends of the frames.
    fn log() -> (Vec<u8>, Vec<usize>) {
        let mut bytes = encode_header(&header());
        assert_eq!(bytes.len(), HEADER_BYTES);
        let mut ends = vec![bytes.len()];
        for n in 0..4 {
            let frame = frame(10 + 2 * n, bytes.len(), false);
            bytes.extend(encode_frame(header().salt, &frame).unwrap());
            ends.push(bytes.len());
        }
        (bytes, ends)
    }

    #[test]
    fn a_log_comes_back_as_it_was_written() {
        let (bytes, _) = log();
        let contents = decode_log(&bytes, "log").unwrap();
        assert_eq!(contents.header, header());
        assert_eq!(contents.frames.len(), 4);
        assert_eq!(contents.valid_bytes, bytes.len() as u64);
        assert!(!contents.torn);
    }

    #[test]
    fn a_log_cut_anywhere_gives_the_whole_frames_before_the_cut() {
        let (bytes, ends) = log();
        for cut in HEADER_BYTES..bytes.len() {
            let contents = decode_log(&bytes[..cut], "log").unwrap();
            let whole = ends.iter().filter(|end| **end <= cut).count() - 1;
            assert_eq!(contents.frames.len(), whole, "cut at {cut}");
            assert_eq!(contents.valid_bytes, ends[whole] as u64);
            assert_eq!(contents.torn, cut != ends[whole]);
        }
        for cut in 0..HEADER_BYTES {
            assert_eq!(decode_log(&bytes[..cut], "log").unwrap_err().kind(), Kind::Corrupt);
        }
    }

    #[test]
    fn a_flipped_bit_is_corruption_where_a_later_frame_proves_it_durable_and_a_torn_tail_elsewhere() {
        let (bytes, ends) = log();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                let result = decode_log(&damaged, "log");
                if at < ends[3] {
                    assert!(result.is_err(), "byte {at} bit {bit}");
                } else {
                    assert_eq!(result.unwrap().frames.len(), 3, "byte {at} bit {bit}");
                }
            }
        }
    }

    #[test]
    fn a_commit_without_its_last_frame_is_cut_whole() {
        let (mut bytes, _) = log();
        let before = bytes.len();
        for (n, more) in [(0, true), (1, true), (2, false)] {
            assert_eq!(decode_log(&bytes, "log").unwrap().frames.len(), 4);
            bytes.extend(encode_frame(header().salt, &frame(18 + 2 * n, before, more)).unwrap());
        }
        assert_eq!(decode_log(&bytes, "log").unwrap().frames.len(), 7);
        bytes.pop();
        let contents = decode_log(&bytes, "log").unwrap();
        assert_eq!((contents.frames.len(), contents.valid_bytes), (4, before as u64));
    }

    #[test]
    fn frames_of_another_file_are_not_taken_for_ours() {
        let (mut bytes, _) = log();
        let before = bytes.len();
        bytes.extend(encode_frame(header().salt + 1, &frame(18, before, false)).unwrap());
        let contents = decode_log(&bytes, "log").unwrap();
        assert_eq!((contents.frames.len(), contents.torn), (4, true));
    }
}
