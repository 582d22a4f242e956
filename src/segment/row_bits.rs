//! A set of rows as one bit per row, for many questions in a row.

use roaring::RoaringBitmap;

/// Sets of no more rows than this are copied row by row.
const FEW: u64 = 4_096;
/// The serialised form of a bitmap: the cookies without and with containers of runs, and the number of containers from which
/// on the latter says where they are. <https://github.com/RoaringBitmap/RoaringFormatSpec>
const COOKIE: u32 = 12_346;
const COOKIE_OF_RUNS: u16 = 12_347;
const OFFSETS_MIN: usize = 4;
/// Values of one container; those with more than `ARRAY_MAX` are bits, the others sorted numbers.
const CONTAINER: usize = 1 << 16;
const ARRAY_MAX: usize = 4_096;

/// Rows below a number of rows.
pub struct RowBits(Vec<u32>);

impl RowBits {
    /// Those of `set` that are below `rows`.
    pub fn new(set: &RoaringBitmap, rows: u32) -> Self {
        let mut bits = RowBits(vec![0; rows.div_ceil(32) as usize]);
        if set.len() <= FEW || bits.copy(set).is_none() {
            set.iter().for_each(|row| bits.set(row as usize));
        }
        bits
    }

    #[inline]
    pub fn contains(&self, row: u32) -> bool {
        self.0.get(row as usize / 32).is_some_and(|word| word >> (row % 32) & 1 == 1)
    }

    /// Row `r` is bit `r % 32` of word `r / 32`.
    pub fn words(&self) -> &[u32] {
        &self.0
    }

    fn set(&mut self, row: usize) {
        if let Some(word) = self.0.get_mut(row / 32) {
            *word |= 1 << (row % 32);
        }
    }

    /// Copies whole words: a bitmap gives its rows one by one only, but writes its words as they are. `None` if what it
    /// wrote is in another form than expected.
    fn copy(&mut self, set: &RoaringBitmap) -> Option<()> {
        let mut bytes = Vec::with_capacity(set.serialized_size());
        set.serialize_into(&mut bytes).ok()?;
        let mut rest = bytes.as_slice();
        let cookie = u32::from_le_bytes(*rest.split_off(..4)?.first_chunk()?);
        let (containers, runs) = if cookie == COOKIE {
            (u32::from_le_bytes(*rest.split_off(..4)?.first_chunk()?) as usize, None)
        } else if cookie as u16 == COOKIE_OF_RUNS {
            let containers = (cookie >> 16) as usize + 1;
            (containers, Some(rest.split_off(..containers.div_ceil(8))?))
        } else {
            return None;
        };
        let (heads, _) = rest.split_off(..containers * 4)?.as_chunks::<4>();
        if runs.is_none() || containers >= OFFSETS_MIN {
            rest.split_off(..containers * 4)?;
        }
        for (at, [a, b, c, d]) in heads.iter().enumerate() {
            let first = usize::from(u16::from_le_bytes([*a, *b])) * CONTAINER;
            let count = usize::from(u16::from_le_bytes([*c, *d])) + 1;
            if runs.is_some_and(|runs| runs[at / 8] >> (at % 8) & 1 == 1) {
                let count = u16::from_le_bytes(*rest.split_off(..2)?.first_chunk()?);
                for [a, b, c, d] in rest.split_off(..usize::from(count) * 4)?.as_chunks().0 {
                    let from = first + usize::from(u16::from_le_bytes([*a, *b]));
                    (from..=from + usize::from(u16::from_le_bytes([*c, *d]))).for_each(|row| self.set(row));
                }
            } else if count <= ARRAY_MAX {
                let (rows, _) = rest.split_off(..count * 2)?.as_chunks();
                rows.iter().for_each(|row| self.set(first + usize::from(u16::from_le_bytes(*row))));
            } else {
                let (words, _) = rest.split_off(..CONTAINER / 8)?.as_chunks();
                let own = self.0.iter_mut().skip(first / 32);
                own.zip(words).for_each(|(own, word)| *own |= u32::from_le_bytes(*word));
            }
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use roaring::RoaringBitmap;

    use super::RowBits;

    #[test]
    fn bits_are_the_rows_of_the_set() {
        let arrays: RoaringBitmap = (0..400_000).step_by(61).collect();
        let words: RoaringBitmap = (0..400_000).filter(|row| row % 3 != 0).collect();
        let mut runs: RoaringBitmap = (100..90_000).chain(200_000..350_000).collect();
        runs.optimize();
        let mut one_run: RoaringBitmap = (5..60_000).collect();
        one_run.optimize();
        let mixed = &arrays | &runs;
        for (name, set) in [("arrays", arrays), ("words", words), ("runs", runs), ("one", one_run), ("mixed", mixed)]
        {
            for rows in [0, 1, 64, 65_536, 70_001, 400_000] {
                let bits = RowBits::new(&set, rows);
                assert!(RowBits(vec![0; rows.div_ceil(32) as usize]).copy(&set).is_some(), "{name}");
                let wrong = (0..rows).find(|row| bits.contains(*row) != set.contains(*row));
                assert_eq!(wrong, None, "{name}, {rows} rows");
            }
        }
    }
}
