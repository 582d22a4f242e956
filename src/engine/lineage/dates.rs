//! When states were made and replaced, as told by a clock that may have been wrong for a time.
//!
//! A commit says what the clock showed. A clock is ahead until it shows less than before, so a later commit that says an earlier time
//! is an upper bound for all before it: a state was made at the earliest time that it or any later state says, and not after now.
//! Hence the newest state that says a time not after an instant is the one of that instant. A clock that was never set says nothing: see
//! [`UNSET_BEFORE_MS`]. One that is behind after it was set cannot be told from one that was ahead before.

use crate::model::ids::Nsid;
use crate::platform::clock::UNSET_BEFORE_MS;

/// What a commit says: what the clock shows; that of the commit before while the clock is not set.
pub fn committed(now_ms: u64, before_ms: u64) -> u64 {
    if now_ms < UNSET_BEFORE_MS { now_ms.max(before_ms) } else { now_ms }
}

/// Whether a state that says `committed_ms` was there at an instant.
pub fn was_there(committed_ms: u64, at_ms: u64) -> bool {
    committed_ms <= at_ms && (committed_ms >= UNSET_BEFORE_MS || at_ms < UNSET_BEFORE_MS)
}

/// Dates states of the past: when each was replaced, whose it is, its generation and more. Given as their commits say it, those of an
/// incarnation one after another, oldest first.
pub fn date_replacements<T>(past: &mut [(u64, Nsid, u64, T)], now_ms: u64) {
    let mut earliest = (None, now_ms);
    for (replaced_ms, nsid, ..) in past.iter_mut().rev() {
        if earliest.0 != Some(*nsid) {
            earliest = (Some(*nsid), now_ms);
        }
        if *replaced_ms >= UNSET_BEFORE_MS || now_ms < UNSET_BEFORE_MS {
            earliest.1 = earliest.1.min(*replaced_ms);
        }
        *replaced_ms = earliest.1;
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::{committed, date_replacements, was_there};
    use crate::model::ids::Nsid;
    use crate::platform::clock::UNSET_BEFORE_MS;

    const T: u64 = UNSET_BEFORE_MS + 1_000_000;

    #[test]
    fn a_commit_says_what_the_clock_shows_unless_that_was_never_set() {
        assert_eq!(committed(T, T + 9), T);
        assert_eq!(committed(T + 9, T), T + 9);
        assert_eq!(committed(5, T), T);
        assert_eq!(committed(5, 3), 5);
    }

    #[test]
    fn a_state_that_was_made_before_the_clock_was_set_is_of_no_instant_after() {
        assert!(was_there(T, T) && was_there(5, 5) && was_there(5, 9));
        assert!(!was_there(T + 1, T) && !was_there(5, T));
    }

    #[test]
    fn a_state_was_replaced_before_everything_that_came_after_it() {
        let dated = |says: &[u64], now| {
            let of = |n| Nsid(Uuid::from_u128(n));
            let mut past: Vec<_> = says.iter().enumerate().map(|(n, says)| (*says, of(1), n as u64, ())).collect();
            past.push((T + 7, of(2), 0, ()));
            date_replacements(&mut past, now);
            assert_eq!(past.pop().unwrap().0, (T + 7).min(now));
            past.into_iter().map(|(at, ..)| at).collect::<Vec<u64>>()
        };
        assert_eq!(dated(&[T, T + 2], T + 9), [T, T + 2]);
        // Ahead by far, then right.
        assert_eq!(dated(&[T, T * 2, T * 2 + 1, T + 3], T + 9), [T, T + 3, T + 3, T + 3]);
        assert_eq!(dated(&[T, T * 2], T + 9), [T, T + 9]);
        // Not set, then right: not before the next that is known.
        assert_eq!(dated(&[3, 4, T + 3, 9], T + 9), [T + 3, T + 3, T + 3, T + 9]);
        assert_eq!(dated(&[3, 9], 10), [3, 9]);
    }
}
