//! Answers to writes with an `Idempotency-Key`, in the order of the hashes of their keys: written once, at a flush.

use super::bytes::Reader;
use super::record::IdempotencyEntry;
use super::segment::check_version;
use super::varint;
use crate::error::{Error, Result};
use crate::model::ids::Nsid;

pub const VERSION: u32 = 1;
/// Magic, version, incarnation, count, checksum over these and the answers.
pub const HEADER_BYTES: usize = 36;
const MAGIC: &[u8; 8] = b"SHOALANS";
/// The bytes before the checksum.
const CHECKED: usize = 32;
/// The least that one answer takes: two hashes, a time, flags, and four numbers of a byte each.
pub const ANSWER_BYTES_MIN: usize = 45;

const ROWS_REMAINING: u8 = 1;
const FILTER_MATCHED: u8 = 2;

/// What a write did, and when.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    pub entry: IdempotencyEntry,
    /// Milliseconds since 1970.
    pub at_ms: u64,
}

/// A file of answers. They must be in the order of their keys, one for each.
pub fn encode(nsid: Nsid, answers: &[Answer]) -> Result<Vec<u8>> {
    check_order(answers).map_err(|what| Error::internal(format!("encode answers of {nsid}: {what}")))?;
    let count = u32::try_from(answers.len())
        .map_err(|_| Error::internal(format!("encode answers of {nsid}: {} of them", answers.len())))?;
    let mut out = Vec::with_capacity(HEADER_BYTES + answers.len() * (ANSWER_BYTES_MIN + 4));
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&VERSION.to_le_bytes());
    out.extend_from_slice(nsid.0.as_bytes());
    out.extend_from_slice(&count.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    for Answer { entry, at_ms } in answers {
        out.extend_from_slice(&entry.key_hash);
        out.extend_from_slice(&entry.body_hash);
        out.extend_from_slice(&at_ms.to_le_bytes());
        let matched = entry.filter_matched.map_or(0, |_| FILTER_MATCHED);
        out.push(matched | if entry.rows_remaining { ROWS_REMAINING } else { 0 });
        let numbers = [entry.upserted, entry.patched, entry.deleted, entry.bytes_written];
        numbers.into_iter().chain(entry.filter_matched).for_each(|number| varint::write(&mut out, number));
    }
    let checksum = checksum(&out);
    out[CHECKED..HEADER_BYTES].copy_from_slice(&checksum.to_le_bytes());
    Ok(out)
}

/// The incarnation, and its answers in the order of their keys.
pub fn decode(bytes: &[u8], name: &str) -> Result<(Nsid, Vec<Answer>)> {
    let mut reader = Reader::new(bytes, name);
    if reader.take(8)? != MAGIC {
        return Err(Error::corrupt(format!("{name}: does not begin with SHOALANS")));
    }
    let version = reader.u32()?;
    let nsid = Nsid(uuid::Uuid::from_bytes(reader.bytes16()?));
    let count = reader.u32()? as usize;
    let stored = reader.u32()?;
    let found = checksum(bytes);
    if found != stored {
        return Err(Error::corrupt(format!("{name}: checksum is {found:08x}, expected {stored:08x}")));
    }
    check_version(version, name)?;
    if count > reader.remaining() / ANSWER_BYTES_MIN {
        let bytes = reader.remaining();
        return Err(Error::corrupt(format!("{name}: {count} answers in {bytes} bytes, which is too few")));
    }
    let mut answers = Vec::with_capacity(count);
    for _ in 0..count {
        answers.push(answer(&mut reader, name)?);
    }
    reader.finish()?;
    check_order(&answers).map_err(|what| Error::corrupt(format!("{name}: {what}")))?;
    Ok((nsid, answers))
}

fn answer(reader: &mut Reader, name: &str) -> Result<Answer> {
    let (key_hash, body_hash) = (reader.bytes16()?, reader.bytes16()?);
    let at_ms = reader.u64()?;
    let flags = reader.u8()?;
    if flags & !(ROWS_REMAINING | FILTER_MATCHED) != 0 {
        return Err(Error::corrupt(format!("{name}: unknown flags {flags:#04x} before byte {}", reader.position())));
    }
    let mut number = || varint::read(reader, name);
    let (upserted, patched, deleted, bytes_written) = (number()?, number()?, number()?, number()?);
    let filter_matched = if flags & FILTER_MATCHED == 0 { None } else { Some(number()?) };
    let rows_remaining = flags & ROWS_REMAINING != 0;
    let entry = IdempotencyEntry {
        key_hash,
        body_hash,
        upserted,
        patched,
        deleted,
        rows_remaining,
        filter_matched,
        bytes_written,
    };
    Ok(Answer { entry, at_ms })
}

/// Of everything but the checksum itself; the header is there.
fn checksum(bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&bytes[..CHECKED]), &bytes[HEADER_BYTES..])
}

fn check_order(answers: &[Answer]) -> std::result::Result<(), String> {
    match answers.windows(2).position(|pair| pair[0].entry.key_hash >= pair[1].entry.key_hash) {
        Some(at) => Err(format!("answer {} does not come after the one before it", at + 1)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::{ANSWER_BYTES_MIN, Answer, HEADER_BYTES, decode, encode};
    use crate::format::record::IdempotencyEntry;
    use crate::model::ids::Nsid;
    use uuid::Uuid;

    const NSID: Nsid = Nsid(Uuid::from_u128(6));

    fn answer(key: u8, n: u64) -> Answer {
        let entry = IdempotencyEntry {
            key_hash: [key; 16],
            body_hash: [!key; 16],
            upserted: n,
            patched: n / 2,
            deleted: n / 3,
            rows_remaining: n % 2 == 1,
            filter_matched: n.is_multiple_of(3).then_some(n),
            bytes_written: n,
        };
        Answer { entry, at_ms: n }
    }

    #[test]
    fn answers_are_read_as_they_were_written() {
        for answers in [vec![], vec![answer(1, 0)], vec![answer(1, u64::MAX), answer(2, 1), answer(9, 300)]] {
            let bytes = encode(NSID, &answers).unwrap();
            assert_eq!(decode(&bytes, "answers").unwrap(), (NSID, answers));
        }
        let smallest = Answer { entry: IdempotencyEntry { filter_matched: None, ..answer(1, 0).entry }, at_ms: 0 };
        assert_eq!(encode(NSID, &[smallest]).unwrap().len(), HEADER_BYTES + ANSWER_BYTES_MIN);
    }

    #[test]
    fn answers_out_of_order_are_never_written() {
        assert!(encode(NSID, &[answer(2, 1), answer(1, 1)]).is_err());
        assert!(encode(NSID, &[answer(2, 1), answer(2, 2)]).is_err());
    }

    #[test]
    fn every_truncation_and_every_flipped_bit_is_an_error() {
        let bytes = encode(NSID, &[answer(1, 1), answer(2, 300)]).unwrap();
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end], "answers").is_err());
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&damaged, "answers").is_err(), "bit {bit}");
        }
    }
}
