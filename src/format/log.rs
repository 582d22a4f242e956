//! The log object: a header and frames, appended to while it is open and never changed once it is sealed.
//!
//! Invariants:
//! - A frame is in the log whole or not at all: its checksum is seeded with the file's salt, so bytes of an older file
//!   that happened to lie in the same disk blocks are never taken for frames of this one.
//! - `synced` in a frame is the length that was durable when the frame was written. A bad frame below a later valid
//!   frame's `synced` was acknowledged and is corruption; any other bad frame is a torn tail, never acknowledged.
//! - A commit of several frames counts only with its last one.
//!
//! A log is read in two passes, both through a small buffer: [`scan_log`] finds where it ends and proves every frame by its
//! checksum, [`each_frame`] gives the frames of whole commits one after another. So reading takes the memory of one frame,
//! however long the log is.

use uuid::Uuid;

use super::bytes::Reader;
use super::log_source::{Cursor, LogSource};
use super::record::{Batch, BatchReader, PAYLOAD_BYTES_MAX, encode_batch};
use crate::error::{Error, Result};
use crate::model::ids::{Hlc, Nsid, Origin};

pub const MAGIC: [u8; 8] = *b"SHOALLOG";
pub const VERSION: u32 = 1;
/// Bytes before the first frame.
pub const HEADER_BYTES: usize = 72;
/// Bytes of a frame before its payload.
pub const FRAME_HEADER_BYTES: usize = 40;
/// The code of an error of a log that was read twice and differs.
pub const MISREAD: &str = "misread";
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

/// What [`scan_log`] found: where the log ends, and what it holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogScan {
    pub header: LogHeader,
    /// Frames and records of whole commits.
    pub frames: u64,
    pub records: u64,
    /// The clock of the first commit.
    pub since: Option<Hlc>,
    /// The clock of the last; 0 where there is none.
    pub newest: Hlc,
    /// Where the last whole commit ends; a torn tail is cut here.
    pub valid_bytes: u64,
    /// Of the bytes up to there.
    pub crc32c: u32,
    /// Bytes follow `valid_bytes` that are no whole commit.
    pub torn: bool,
}

/// One frame whose records are read one after another.
pub struct FrameReader<'a> {
    pub synced: u64,
    pub first_seq: u64,
    pub more: bool,
    pub hlc: Hlc,
    pub batch: BatchReader<'a>,
}

impl FrameReader<'_> {
    /// Everything at once.
    pub fn whole(self) -> Result<Frame> {
        let FrameReader { synced, first_seq, more, hlc, batch } = self;
        Ok(Frame { synced, first_seq, more, hlc, batch: batch.whole()? })
    }
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

/// Reads a log that is in memory, with all its frames.
pub fn decode_log(bytes: &[u8], name: &str) -> Result<LogContents> {
    let scan = scan_log(bytes, name)?;
    let mut frames = Vec::new();
    each_frame(bytes, &scan, name, 0, &mut |frame| {
        frames.push(frame.whole()?);
        Ok(())
    })?;
    Ok(LogContents { header: scan.header, frames, valid_bytes: scan.valid_bytes, torn: scan.torn })
}

/// Finds the end of a log. `Corrupt` when the header or an acknowledged frame is damaged; a torn tail is reported, not an
/// error. Payloads are proved by their checksums and not decoded.
pub fn scan_log(source: &(impl LogSource + ?Sized), name: &str) -> Result<LogScan> {
    let (scan, damage) = scan_beginning(source, name)?;
    damage.map_or(Ok(scan), Err)
}

/// The commits at the beginning of a log that are whole, and what is wrong after them. `Corrupt` when the header is damaged.
pub fn scan_beginning(source: &(impl LogSource + ?Sized), name: &str) -> Result<(LogScan, Option<Error>)> {
    let mut log = Cursor::new(source);
    let header = log.up_to(0, HEADER_BYTES)?;
    let mut crc32c = crc32c::crc32c(header);
    let header = peek_header(header, name)?;
    let salt = header.salt;
    let mut next_seq = header.first_seq;
    let mut at = HEADER_BYTES as u64;
    let mut scan = LogScan {
        header,
        frames: 0,
        records: 0,
        since: None,
        newest: Hlc::default(),
        valid_bytes: at,
        crc32c,
        torn: false,
    };
    // Of the commit that has begun: its frames and its clock.
    let mut open: Option<(u64, Hlc)> = None;
    while at < source.len() {
        let Some(frame) = frame_at(&mut log, at, salt, &mut crc32c)? else { break };
        let more = frame.more(name, at)?;
        if frame.first_seq != next_seq {
            let error = Error::corrupt(format!(
                "{name}: frame at byte {at} starts at sequence number {}, expected {next_seq}",
                frame.first_seq
            ));
            return Ok((LogScan { torn: true, ..scan }, Some(error)));
        }
        next_seq += u64::from(frame.count);
        at += frame.length as u64;
        let (frames, since) = open.take().unwrap_or((0, frame.hlc));
        if more {
            open = Some((frames + 1, since));
        } else {
            scan.frames += frames + 1;
            scan.records = next_seq - scan.header.first_seq;
            scan.since = scan.since.or(Some(since));
            scan.newest = frame.hlc;
            scan.valid_bytes = at;
            scan.crc32c = crc32c;
        }
    }
    scan.torn = scan.valid_bytes < source.len();
    if scan.torn
        && let Some((found, synced)) = later_frame(&mut log, at, salt)?
        && synced > scan.valid_bytes
    {
        let error = Error::corrupt(format!(
            "{name}: frame at byte {at} is damaged, and the frame at byte {found} says that {synced} bytes were durable"
        ))
        .with_hint("acknowledged writes are damaged: restore this file from a copy, or run `shoal repair`");
        return Ok((scan, Some(error)));
    }
    Ok((scan, None))
}

/// What the first frame says of its clock, which nothing proves; `None` where there is no frame.
pub fn first_clock(source: &(impl LogSource + ?Sized)) -> Result<Option<Hlc>> {
    let mut log = Cursor::new(source);
    let head = log.up_to(HEADER_BYTES as u64, FRAME_HEADER_BYTES)?;
    if head.len() < FRAME_HEADER_BYTES { Ok(None) } else { Ok(Some(FrameHead::read(head)?.hlc)) }
}

/// Gives the frames of whole commits in order to `take`: those without records, and those with a record from `from` on. `Unavailable`
/// with code [`MISREAD`] where they are not what the scan proved.
pub fn each_frame(
    source: &(impl LogSource + ?Sized),
    scan: &LogScan,
    name: &str,
    from: u64,
    take: &mut dyn FnMut(FrameReader<'_>) -> Result<()>,
) -> Result<()> {
    let mut log = Cursor::new(source);
    let changed = |at: u64| {
        Error::unavailable(format!("{name}: frame at byte {at} was read twice, and differs"))
            .with_code(MISREAD)
            .with_hint("send the same again; look at the disk's health if it does not pass")
    };
    let mut at = HEADER_BYTES as u64;
    let mut next_seq = scan.header.first_seq;
    while at < scan.valid_bytes {
        let head = FrameHead::read(log.up_to(at, FRAME_HEADER_BYTES)?)?;
        let next = at.saturating_add(head.length as u64);
        // What is passed over is not proved again: the numbers of all frames together are.
        if head.first_seq != next_seq || next > scan.valid_bytes {
            return Err(changed(at));
        }
        next_seq += u64::from(head.count);
        if head.count > 0 && next_seq <= from {
            at = next;
            continue;
        }
        let bytes = log.up_to(at, head.length)?;
        if bytes.len() != head.length || frame_checksum(scan.header.salt, bytes) != head.checksum {
            return Err(changed(at));
        }
        let what = format!("{name}: frame at byte {at}");
        let batch = BatchReader::new(&bytes[FRAME_HEADER_BYTES..], &what)?;
        if batch.records() != u64::from(head.count) {
            return Err(Error::corrupt(format!("{what}: {} records, expected {}", batch.records(), head.count)));
        }
        let more = head.more(name, at)?;
        take(FrameReader { synced: head.synced, first_seq: head.first_seq, more, hlc: head.hlc, batch })?;
        at = next;
    }
    if next_seq - scan.header.first_seq == scan.records { Ok(()) } else { Err(changed(at)) }
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

/// What a frame says before its payload.
struct FrameHead {
    /// The whole frame's, in bytes.
    length: usize,
    checksum: u32,
    synced: u64,
    first_seq: u64,
    count: u32,
    flags: u32,
    hlc: Hlc,
}

impl FrameHead {
    fn read(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes, "frame");
        Ok(FrameHead {
            length: FRAME_HEADER_BYTES + usize::try_from(reader.u32()?).unwrap_or(usize::MAX),
            checksum: reader.u32()?,
            synced: reader.u64()?,
            first_seq: reader.u64()?,
            count: reader.u32()?,
            flags: reader.u32()?,
            hlc: Hlc(reader.u64()?),
        })
    }

    fn more(&self, name: &str, at: u64) -> Result<bool> {
        if self.flags & !FLAG_MORE != 0 {
            return Err(Error::unsupported(format!(
                "{name}: frame at byte {at}: flags {:08x}, this release knows {FLAG_MORE:08x}",
                self.flags
            )));
        }
        Ok(self.flags & FLAG_MORE != 0)
    }
}

/// The frame at `at`, when a whole one with a right checksum is there; `all` goes on over its bytes.
fn frame_at<S: LogSource + ?Sized>(
    log: &mut Cursor<'_, S>,
    at: u64,
    salt: u32,
    all: &mut u32,
) -> Result<Option<FrameHead>> {
    let left = log.len() - at;
    let bytes = log.up_to(at, FRAME_HEADER_BYTES)?;
    let Ok(head) = FrameHead::read(bytes) else { return Ok(None) };
    let payload = head.length - FRAME_HEADER_BYTES;
    if payload > PAYLOAD_BYTES_MAX || head.length as u64 > left {
        return Ok(None);
    }
    let mut computed = frame_checksum(salt, bytes);
    let mut after = crc32c::crc32c_append(*all, bytes);
    let mut done = FRAME_HEADER_BYTES;
    while done < head.length {
        let piece = log.up_to(at + done as u64, (head.length - done).min(Cursor::<S>::PIECE_BYTES))?;
        computed = crc32c::crc32c_append(computed, piece);
        after = crc32c::crc32c_append(after, piece);
        done += piece.len();
    }
    if computed != head.checksum {
        return Ok(None);
    }
    *all = after;
    Ok(Some(head))
}

/// The last valid frame after the damage at `from`, wherever it starts, and what it says was durable. Frames have no
/// alignment, so every byte is tried; this runs only on a damaged log, and a length over the rest fails at once.
fn later_frame<S: LogSource + ?Sized>(log: &mut Cursor<'_, S>, from: u64, salt: u32) -> Result<Option<(u64, u64)>> {
    let mut found = None;
    let mut at = from + 1;
    while at + FRAME_HEADER_BYTES as u64 <= log.len() {
        // The declared durable length can never be beyond the frame itself: a cheap test before the checksum.
        let synced = FrameHead::read(log.up_to(at, FRAME_HEADER_BYTES)?)?.synced;
        let is_likely = synced >= HEADER_BYTES as u64 && synced <= at;
        match if is_likely { frame_at(log, at, salt, &mut 0)? } else { None } {
            Some(frame) => {
                found = Some((at, synced));
                at += frame.length as u64;
            }
            None => at += 1,
        }
    }
    Ok(found)
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
