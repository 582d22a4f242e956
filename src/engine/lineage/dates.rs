//! When states were made and replaced, and namespaces deleted, as told by a clock that may have been wrong for a time.
//!
//! A commit says what the clock showed. A clock is ahead until it shows less than before, so a later commit that says an earlier time
//! is an upper bound for all before it: a state was made at the earliest time that it or any later state says, and not after now.
//! Hence the newest state that says a time not after an instant is the one of that instant. A clock that was never set says nothing: see
//! [`UNSET_BEFORE_MS`]. One that is behind after it was set cannot be told from one that was ahead before.

use std::collections::BTreeMap;

use crate::engine::context::Context;
use crate::meta::tables::Deadline;
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

/// When namespaces were deleted.
///
/// A mark of deletion says what the clock showed. The node that made it also keeps what its clock had jumped by until then, and counts
/// the time that passed since. Where that is lost, or another made the mark, what it says counts, unless no clock that was right showed
/// it: then time passes from now on.
pub struct Deletions {
    set: BTreeMap<Nsid, Deadline>,
    wall_ms: u64,
    jumps_ms: i64,
}

impl Deletions {
    pub fn read(context: &Context) -> Self {
        let set = context.meta.deadlines().unwrap_or_else(|error| {
            tracing::warn!(%error, "when namespaces were deleted is by what the clock showed");
            Vec::new()
        });
        let (wall_ms, jumps_ms) = context.look_at_wall();
        Deletions { set: set.into_iter().collect(), wall_ms, jumps_ms }
    }

    /// The time of a deletion by the wall clock as it is now, where that is known.
    fn moved_ms(&self, nsid: Nsid, deleted_ms: u64) -> Option<u64> {
        let set = self.set.get(&nsid).filter(|set| set.expires_ms == deleted_ms)?;
        Some(deleted_ms.saturating_add_signed(self.jumps_ms.saturating_sub(set.jumps_ms)))
    }

    /// The time of a deletion for who reads it.
    pub fn shown_ms(&self, nsid: Nsid, deleted_ms: u64) -> u64 {
        self.moved_ms(nsid, deleted_ms).unwrap_or(deleted_ms)
    }

    /// When a namespace was deleted by the clock that says `now_ms`. Beside it what to keep, where time is to pass from now on.
    pub fn deleted_ms(&self, nsid: Nsid, deleted_ms: u64, now_ms: u64) -> (u64, Option<Deadline>) {
        if let Some(moved_ms) = self.moved_ms(nsid, deleted_ms) {
            return (now_ms.saturating_sub(self.wall_ms.saturating_sub(moved_ms)), None);
        }
        if (UNSET_BEFORE_MS..=now_ms).contains(&deleted_ms) {
            return (deleted_ms, None);
        }
        let passed_ms = self.wall_ms.cast_signed().saturating_sub(deleted_ms.cast_signed());
        (now_ms, Some(Deadline { expires_ms: deleted_ms, jumps_ms: self.jumps_ms.saturating_sub(passed_ms) }))
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
