//! Ids made here: integers from blocks that this node gives to one incarnation each, and UUIDv7.
//!
//! Invariants:
//! - An integer is given once its block is this incarnation's alone, and the log has it durably as given. Forks, copies and
//!   restored namespaces begin without a block.
//! - A UUID is above every other that this process made, so no two are the same whatever the clock and the generator do;
//!   74 random bits keep those of other processes apart.

use std::sync::{Mutex, PoisonError};

use uuid::Uuid;

use crate::platform::random::Random;

/// Ids of one block differ in so many low bits.
pub const COUNTER_BITS: u32 = 32;
/// Integers that readers of JSON keep apart are below this.
const INTEGERS_END: u64 = 1 << 53;

/// How many ids are left of the block that `next` counts in. `next` is never the first id of a block: where a block begins,
/// the one before is used up.
pub fn left_of_block(next: u64) -> u64 {
    let used = next & ((1 << COUNTER_BITS) - 1);
    if used == 0 || next >= INTEGERS_END { 0 } else { (1 << COUNTER_BITS) - used }
}

/// Makes UUIDv7, each above the one before (RFC 9562, section 6.2, method 2).
#[derive(Debug, Default)]
pub struct Uuids {
    last: Mutex<u128>,
}

impl Uuids {
    pub fn next(&self, random: &dyn Random, now_millis: u64) -> Uuid {
        let made = random.uuid_v7(now_millis);
        let step = u128::from(random.next_u64() >> 32) + 1;
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let value = value_of(made);
        *last = if value > *last { value } else { *last + step };
        uuid_of(*last)
    }
}

/// The bits of a UUIDv7 that are neither version nor variant: 48 of time, 12 and 62 random ones.
fn value_of(uuid: Uuid) -> u128 {
    let bits = uuid.as_u128();
    (bits >> 80) << 74 | (bits >> 64 & 0xfff) << 62 | bits & ((1 << 62) - 1)
}

fn uuid_of(value: u128) -> Uuid {
    let (time, high, low) = (value >> 74, value >> 62 & 0xfff, value & ((1 << 62) - 1));
    Uuid::from_u128(time << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low)
}

#[cfg(test)]
mod tests {
    use super::{Uuids, left_of_block};
    use crate::platform::random::{Random, SeededRandom};

    /// A generator that is worth nothing.
    struct Stuck;

    impl Random for Stuck {
        fn next_u64(&self) -> u64 {
            u64::MAX
        }
    }

    #[test]
    fn uuids_ascend_whatever_the_clock_and_the_generator_do() {
        let clocks = [5, 5, 9, 2, 9, 0, 10];
        let seeded = SeededRandom::new(3);
        for random in [&Stuck as &dyn Random, &seeded] {
            let uuids = Uuids::default();
            let made: Vec<_> = clocks.iter().cycle().take(10_000).map(|now| uuids.next(random, *now)).collect();
            assert!(made.is_sorted_by(|a, b| a < b));
            for uuid in made {
                assert_eq!((uuid.get_version_num(), uuid.get_variant()), (7, uuid::Variant::RFC4122));
            }
        }
    }

    #[test]
    fn a_uuid_has_the_time_and_the_bits_that_were_drawn_for_it() {
        let made = Uuids::default().next(&SeededRandom::new(3), 1_763_700_000_000);
        assert_eq!(made, SeededRandom::new(3).uuid_v7(1_763_700_000_000));
    }

    #[test]
    fn a_block_is_used_up_where_the_next_one_begins() {
        let block: u64 = 7 << 32;
        assert_eq!(left_of_block(block | 1), (1 << 32) - 1);
        assert_eq!(left_of_block(block | 0xffff_ffff), 1);
        for none in [0, 8 << 32, 1 << 53, u64::MAX] {
            assert_eq!(left_of_block(none), 0, "{none}");
        }
    }
}
