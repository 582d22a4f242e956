//! Frames in memory that are on their way to a log, in pieces as they were made: no large one is copied, or moved as more come.

use std::io;

use super::made::{Counted, Made};
use crate::platform::disk::DiskFile;

/// Frames are put together up to so many bytes, so that many small commits are written at once.
const PIECE_BYTES: usize = 1 << 20;

/// Whole commits, one behind the other.
#[derive(Default)]
pub struct LogFrames {
    pieces: Vec<Vec<u8>>,
    bytes: usize,
    /// Where they are counted for as long as they are in memory.
    counted: Vec<Counted>,
}

impl LogFrames {
    /// None yet; those that come are counted there.
    pub fn counted(made: &Made) -> Self {
        LogFrames { counted: vec![made.counted()], ..LogFrames::default() }
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Puts a frame behind the others.
    pub fn push(&mut self, frame: Vec<u8>) {
        if let Some(counted) = self.counted.last_mut() {
            counted.add(frame.len() as u64);
        }
        self.put(frame);
    }

    fn put(&mut self, piece: Vec<u8>) {
        self.bytes += piece.len();
        match self.pieces.last_mut() {
            Some(last) if last.len() + piece.len() <= PIECE_BYTES => last.extend_from_slice(&piece),
            _ => self.pieces.push(piece),
        }
    }

    /// Puts other commits behind these.
    pub fn append(&mut self, others: LogFrames) {
        others.pieces.into_iter().for_each(|piece| self.put(piece));
        self.counted.extend(others.counted);
    }

    /// Writes all, and has none in memory any more.
    pub fn write_to(self, file: &mut dyn DiskFile) -> io::Result<()> {
        self.pieces.into_iter().try_for_each(|piece| file.write(&piece))
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::Ordering;

    use super::{LogFrames, Made, PIECE_BYTES};
    use crate::platform::disk::DiskFile;

    /// What was written at once, each time.
    #[derive(Default)]
    struct Writes(Vec<Vec<u8>>);

    impl DiskFile for Writes {
        fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
            self.0.push(bytes.to_vec());
            Ok(())
        }

        fn sync(&mut self) -> io::Result<()> {
            Ok(())
        }

        fn truncate(&mut self, _: u64) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn frames_are_written_in_their_order_large_ones_as_they_are_and_counted_until_then() {
        let made = Made::default();
        let (large, small) = (2 * PIECE_BYTES, 100);
        let commits = [vec![small, small], vec![small, large, small], vec![large, large], vec![], vec![small; 3]];
        let (mut all, mut expected, mut n) = (LogFrames::default(), Vec::new(), 0);
        for lengths in commits {
            let mut commit = LogFrames::counted(&made);
            for length in lengths {
                n += 1;
                commit.push(vec![n; length]);
                expected.extend(vec![n; length]);
            }
            all.append(commit);
        }
        assert_eq!(all.bytes(), expected.len());
        assert_eq!(made.bytes.load(Ordering::Relaxed), expected.len() as u64);
        let mut file = Writes::default();
        all.write_to(&mut file).unwrap();
        let lengths: Vec<usize> = file.0.iter().map(Vec::len).collect();
        assert_eq!(lengths, [3 * small, large, small, large, large, 3 * small]);
        assert!(file.0.concat() == expected, "the order of frames");
        assert_eq!(made.bytes.load(Ordering::Relaxed), 0);
    }
}
