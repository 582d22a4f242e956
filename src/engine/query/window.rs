//! The candidates among some rows that are scored at a time.

use roaring::RoaringBitmap;

/// Rows that are scored at a time.
pub(super) const WINDOW: usize = 4_096;

/// The candidates among [`WINDOW`] rows.
pub(super) struct Window {
    pub(super) base: u32,
    pub(super) bits: [u64; WINDOW / 64],
}

impl Default for Window {
    fn default() -> Self {
        Window { base: 0, bits: [0; WINDOW / 64] }
    }
}

impl Window {
    pub(super) fn load(&mut self, rows: &RoaringBitmap, base: u32, end: u32) {
        self.base = base;
        self.bits.fill(0);
        for row in rows.range(base..end) {
            let place = (row - base) as usize;
            self.bits[place / 64] |= 1 << (place % 64);
        }
    }

    pub(super) fn load_all_but(&mut self, dead: &RoaringBitmap, base: u32, end: u32) {
        self.base = base;
        let rows = (end - base) as usize;
        for (word, bits) in self.bits.iter_mut().enumerate() {
            *bits = match rows.saturating_sub(word * 64) {
                0 => 0,
                left @ 1..64 => (1 << left) - 1,
                _ => u64::MAX,
            };
        }
        for row in dead.range(base..end) {
            let place = (row - base) as usize;
            self.bits[place / 64] &= !(1 << (place % 64));
        }
    }

    pub(super) fn count(&self) -> usize {
        self.bits.iter().map(|bits| bits.count_ones() as usize).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bits.iter().all(|bits| *bits == 0)
    }

    /// Calls `each` with every candidate and its place in the window.
    #[inline]
    pub(super) fn for_each(&self, mut each: impl FnMut(u32, usize)) {
        for_each_bit(&self.bits, |place| each(self.base + place as u32, place));
    }
}

/// Calls `each` with the place of every bit that is set.
#[inline]
pub(super) fn for_each_bit(words: &[u64], mut each: impl FnMut(usize)) {
    for (word, bits) in words.iter().enumerate() {
        let mut left = *bits;
        while left != 0 {
            each(word * 64 + left.trailing_zeros() as usize);
            left &= left - 1;
        }
    }
}
