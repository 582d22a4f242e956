//! Randomness enters here, so that a test's history can be repeated from its seed.

use std::sync::Mutex;

use uuid::Uuid;

/// Random 64 bit numbers.
pub trait Random: Send + Sync {
    fn next_u64(&self) -> u64;

    /// A time-ordered id (UUIDv7) for an incarnation, commit or object.
    fn uuid_v7(&self, now_millis: u64) -> Uuid {
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&self.next_u64().to_le_bytes());
        bytes[8..].copy_from_slice(&self.next_u64().to_le_bytes()[..2]);
        uuid::Builder::from_unix_timestamp_millis(now_millis, &bytes).into_uuid()
    }
}

/// The operating system's generator.
pub struct SystemRandom;

impl Random for SystemRandom {
    fn next_u64(&self) -> u64 {
        let (high, _) = Uuid::new_v4().as_u64_pair();
        let (_, low) = Uuid::new_v4().as_u64_pair();
        // A version 4 UUID has fixed bits in both halves; two of them leave every bit random.
        high.rotate_left(32) ^ low
    }
}

/// A repeatable sequence (SplitMix64: Steele, Lea and Flood, OOPSLA 2014).
pub struct SeededRandom(Mutex<u64>);

impl SeededRandom {
    pub fn new(seed: u64) -> Self {
        SeededRandom(Mutex::new(seed))
    }
}

impl Random for SeededRandom {
    fn next_u64(&self) -> u64 {
        let mut state = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::{Random, SeededRandom};

    #[test]
    fn the_same_seed_gives_the_same_sequence_and_another_gives_another() {
        let (a, b, c) = (SeededRandom::new(7), SeededRandom::new(7), SeededRandom::new(8));
        for _ in 0..100 {
            let x = a.next_u64();
            assert_eq!(x, b.next_u64());
            assert_ne!(x, c.next_u64());
        }
    }

    #[test]
    fn ids_made_later_sort_later() {
        let random = SeededRandom::new(1);
        assert!(random.uuid_v7(1_000) < random.uuid_v7(1_001));
    }
}
