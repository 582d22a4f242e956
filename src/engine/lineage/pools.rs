//! Lets states of the past go until what the others keep is within a budget: each taker has a pool of what its own states keep, and
//! what states of several takers keep together is in one more.
//!
//! Steps: of the fullest pool goes the oldest state, and the next, until something comes free. Those of the pool of all are the states that
//! hold any of it, by their age: so no younger one goes for it before an older one. Those before a past state go with it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::due::{Freed, Kept, WHOLE};
use crate::model::ids::Nsid;

/// What goes of `states`, by incarnation and generation. `takers`: for whom each of them counts, in the order of numbers from 0 on.
pub fn within(
    budget: u64,
    states: &[(Nsid, Kept)],
    takers: &[usize],
    freed: Vec<Freed>,
) -> impl Iterator<Item = (Nsid, u64)> {
    let mut pools = Pools::new(states, takers, freed);
    while pools.kept > budget && pools.let_go() {}
    let gone = states.iter().zip(pools.is_gone).filter(|(_, is_gone)| *is_gone);
    gone.map(|((nsid, state), _)| (*nsid, state.generation))
}

struct Pools<'a> {
    states: &'a [(Nsid, Kept)],
    takers: &'a [usize],
    /// The places of each incarnation's states, the oldest first.
    places: BTreeMap<Nsid, Vec<usize>>,
    freed: Vec<Group>,
    /// Which of `freed` each state is a holder of.
    held: Vec<Vec<usize>>,
    /// The states of each taker, and last those that hold what states of several do, the oldest first; some have gone.
    queues: Vec<VecDeque<usize>>,
    /// What each taker's states keep, and what those of several do.
    takes: Vec<u64>,
    kept: u64,
    is_gone: Vec<bool>,
}

struct Group {
    bytes: u64,
    /// How many holders are left.
    left: usize,
    pool: usize,
}

impl<'a> Pools<'a> {
    fn new(states: &'a [(Nsid, Kept)], takers: &'a [usize], freed: Vec<Freed>) -> Self {
        let together = takers.iter().max().map_or(0, |last| last + 1);
        let mut pools = Pools {
            states,
            takers,
            places: BTreeMap::new(),
            freed: Vec::new(),
            held: vec![Vec::new(); states.len()],
            queues: vec![VecDeque::new(); together + 1],
            takes: vec![0; together + 1],
            kept: 0,
            is_gone: vec![false; states.len()],
        };
        for (place, (nsid, state)) in states.iter().enumerate() {
            pools.places.entry(*nsid).or_default().push(place);
            pools.queues[takers[place]].push_back(place);
            pools.add(takers[place], state.manifest_bytes);
        }
        let mut sharers = BTreeSet::new();
        for Freed { holders, bytes } in freed {
            let Some(first) = holders.first().map(|place| takers[*place]) else { continue };
            let is_of_one = holders.iter().all(|place| takers[*place] == first);
            let pool = if is_of_one { first } else { together };
            pools.add(pool, bytes);
            let number = pools.freed.len();
            holders.iter().for_each(|place| pools.held[*place].push(number));
            if !is_of_one {
                sharers.extend(holders.iter().map(|place| (states[*place].1.replaced_ms, *place)));
            }
            pools.freed.push(Group { left: holders.len(), bytes, pool });
        }
        pools.queues[together].extend(sharers.into_iter().map(|(_, place)| place));
        pools
    }

    fn add(&mut self, pool: usize, bytes: u64) {
        self.takes[pool] = self.takes[pool].saturating_add(bytes);
        self.kept = self.kept.saturating_add(bytes);
    }

    fn take(&mut self, pool: usize, bytes: u64) {
        self.takes[pool] = self.takes[pool].saturating_sub(bytes);
        self.kept = self.kept.saturating_sub(bytes);
    }

    /// Lets the oldest of the fullest pool go that frees something. Whether there is any.
    fn let_go(&mut self) -> bool {
        let fullest = self.takes.iter().copied().enumerate().max_by_key(|(pool, bytes)| (*bytes, Reverse(*pool)));
        let Some((pool, _)) = fullest.filter(|(_, bytes)| *bytes > 0) else { return false };
        let before = self.kept;
        while self.kept == before {
            let Some(next) = self.queues[pool].pop_front() else { return false };
            self.go(next);
        }
        true
    }

    /// A state goes, with those of its incarnation that cannot stay then.
    fn go(&mut self, place: usize) {
        let (nsid, Kept { generation, .. }) = &self.states[place];
        for at in self.places.get(nsid).cloned().unwrap_or_default() {
            let other = &self.states[at].1;
            let goes_along = *generation == WHOLE || other.generation <= *generation;
            if !goes_along || std::mem::replace(&mut self.is_gone[at], true) {
                continue;
            }
            self.take(self.takers[at], other.manifest_bytes);
            for number in std::mem::take(&mut self.held[at]) {
                let group = &mut self.freed[number];
                group.left -= 1;
                if group.left == 0 {
                    let (pool, bytes) = (group.pool, group.bytes);
                    self.take(pool, bytes);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::within;
    use crate::engine::lineage::due::{Freed, Kept, WHOLE};
    use crate::model::ids::Nsid;

    /// A state of an incarnation, and for whom it counts.
    fn state(nsid: u128, generation: u64, replaced_ms: u64, taker: usize) -> ((Nsid, Kept), usize) {
        ((Nsid(Uuid::from_u128(nsid)), Kept { generation, replaced_ms, ..Kept::default() }), taker)
    }

    fn gone(budget: u64, states: &[((Nsid, Kept), usize)], freed: &[(&[usize], u64)]) -> Vec<usize> {
        let (states, takers): (Vec<_>, Vec<_>) = states.iter().cloned().unzip();
        let freed = freed.iter().map(|(holders, bytes)| Freed { holders: holders.to_vec(), bytes: *bytes }).collect();
        let gone: Vec<_> = within(budget, &states, &takers, freed).collect();
        let is_gone = |(_, (nsid, state)): &(usize, (Nsid, Kept))| gone.contains(&(*nsid, state.generation));
        states.into_iter().enumerate().filter(is_gone).map(|(place, _)| place).collect()
    }

    /// Four past states of one, and three deleted ones of the same age that hold some of theirs.
    fn states() -> Vec<((Nsid, Kept), usize)> {
        let past = (0..4).map(|n| state(1, n, n * 10, 0));
        past.chain((0..3).map(|n| state(2 + u128::from(n), WHOLE, n * 10 + 5, 1))).collect()
    }

    #[test]
    fn what_is_held_together_comes_free_as_its_holders_go_by_their_age() {
        let freed: [(&[usize], u64); 3] = [(&[2, 6], 10), (&[0, 4], 10), (&[1, 5], 10)];
        assert_eq!(gone(30, &states(), &freed), [0; 0]);
        assert_eq!(gone(29, &states(), &freed), [0, 4]);
        assert_eq!(gone(15, &states(), &freed), [0, 1, 4, 5]);
        assert_eq!(gone(0, &states(), &freed), [0, 1, 2, 4, 5, 6]);
    }

    #[test]
    fn deleted_ones_that_hold_nothing_of_it_stay_and_past_states_before_it_do_not() {
        let freed: [(&[usize], u64); 2] = [(&[2, 6], 10), (&[3, 5], 9)];
        // The fifth is older than the sixth.
        assert_eq!(gone(10, &states(), &freed), [0, 1, 2, 5, 6]);
        assert_eq!(gone(0, &states(), &freed), [0, 1, 2, 3, 5, 6]);
    }

    #[test]
    fn a_state_goes_for_nothing_younger_than_it_is() {
        let freed: [(&[usize], u64); 2] = [(&[0, 6], 10), (&[1, 4], 10)];
        assert_eq!(gone(10, &states(), &freed), [0, 1, 4]);
        assert_eq!(gone(9, &states(), &freed), [0, 1, 4, 6]);
    }

    #[test]
    fn who_takes_more_alone_gives_first() {
        let freed: [(&[usize], u64); 3] = [(&[0, 4], 10), (&[3], 20), (&[5], 5)];
        assert_eq!(gone(20, &states(), &freed), [0, 1, 2, 3]);
        assert_eq!(gone(14, &states(), &freed), [0, 1, 2, 3, 4]);
    }
}
