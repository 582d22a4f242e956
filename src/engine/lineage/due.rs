//! Decides which past states and deleted namespaces go, and why, from what the index knows of them.
//!
//! - For its age goes what was replaced longer ago than retention says, and what is beyond [`GENERATIONS_MAX`], the oldest first.
//! - A state goes when the one before it says the same and is kept, and [`RECENT_STATES`] younger ones are there: edits of labels and
//!   the like leave one state in the long run, and who asks for a time in between gets the same documents. Younger ones stay,
//!   because somebody may have noted their generation or commit, as the base of an incremental snapshot.
//! - For the budget goes what frees bytes: the oldest of the namespace that takes most, until all together take no more than the
//!   budget. The deleted ones of a project count as one. So a namespace that keeps little loses nothing while another keeps more. States that free nothing stay, unless an older
//!   state's objects can only go with them.
//! - What states of several of them hold takes room as if it were of one more: when that takes most, the oldest of the states goes that hold
//!   any of it, and with a past state those before it.
//! - For the budget of files, where the file system has only so many, states go in the same way.
//! - What others hold, too, is freed by no state, and counts for nothing: before anything goes for the budget it is asked what states
//!   really keep, unless what they name fits.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::pools::within;
use crate::model::ids::{Nsid, Project};

/// Stands for a whole deleted incarnation among generations.
pub const WHOLE: u64 = u64::MAX;

/// The most past states of one namespace.
pub const GENERATIONS_MAX: usize = 1_024;

/// About so many files and directories a deleted incarnation has: its directories, its state, its marks and its log.
const DELETED_FILES: u64 = 8;

/// About so many files come free with a past state: its manifest, and an object.
const STATE_FILES: u64 = 2;

/// So many of the youngest past states of a namespace stay although the one before says the same.
pub const RECENT_STATES: usize = 64;

/// A past state, or a whole deleted incarnation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kept {
    pub generation: u64,
    pub replaced_ms: u64,
    pub data_seq: u64,
    /// Of the objects that it names and the state after it does not; once it is resolved, of those that come free when it goes.
    pub object_bytes: u64,
    /// Of its manifest.
    pub manifest_bytes: u64,
    /// The first state of a branch, which merges compare with: it stays, and counts for nothing.
    pub is_fork: bool,
}

impl Kept {
    /// About how many files and directories it keeps.
    pub fn files(&self) -> u64 {
        match self.generation {
            _ if self.is_fork => 0,
            WHOLE => DELETED_FILES,
            _ => STATE_FILES,
        }
    }
}

/// What states of the past may keep, all together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    pub bytes: u64,
    pub files: u64,
}

/// Bytes of objects that come free when all of some states have gone, by their places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freed {
    pub holders: Vec<usize>,
    pub bytes: u64,
}

/// Whose states are added up when the budget is kept.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Taker {
    Namespace(Nsid),
    /// All deleted namespaces of a project: many small ones are no smaller than one large one.
    Deleted(Project),
}

/// What of each incarnation goes. `deleted`: the projects of those that are. `old`: what was replaced up to then is due for its age; `None` where nobody knows the time. The
/// states of an incarnation are in the order of their generations. `resolve` says of states what they really keep.
pub fn choose(
    all: &BTreeMap<Nsid, Vec<Kept>>,
    deleted: &BTreeMap<Nsid, Project>,
    old: Option<u64>,
    budget: Budget,
    resolve: impl FnOnce(&[(Nsid, Kept)]) -> Vec<Freed>,
) -> BTreeMap<Nsid, BTreeSet<u64>> {
    let mut due: BTreeMap<Nsid, BTreeSet<u64>> = BTreeMap::new();
    // What stays of each, oldest first.
    let mut stays: BTreeMap<Taker, VecDeque<(Nsid, Kept)>> = BTreeMap::new();
    for (nsid, states) in all {
        let taker = deleted.get(nsid).cloned().map_or(Taker::Namespace(*nsid), Taker::Deleted);
        let excess = states.iter().filter(|state| !state.is_fork).count().saturating_sub(GENERATIONS_MAX);
        let mut of_age = 0;
        // What the last state that stays says; `None` where the next one lacks objects of it, as after a merge of segments.
        let mut said: Option<u64> = None;
        for (at, state) in states.iter().enumerate() {
            let is_recent = states.len() - at <= RECENT_STATES;
            let is_old = old.is_some_and(|old| state.replaced_ms <= old);
            let says_the_same = said == Some(state.data_seq) && !is_recent;
            if !state.is_fork && (is_old || of_age < excess) {
                of_age += 1;
                due.entry(*nsid).or_default().insert(state.generation);
                continue;
            }
            said = Some(state.data_seq).filter(|_| state.object_bytes == 0);
            if !state.is_fork && state.generation != WHOLE && says_the_same {
                due.entry(*nsid).or_default().insert(state.generation);
            } else if !state.is_fork {
                stays.entry(taker.clone()).or_default().push_back((*nsid, state.clone()));
            }
        }
    }
    for (_, states) in stays.iter_mut().filter(|(taker, _)| matches!(taker, Taker::Deleted(_))) {
        states.make_contiguous().sort_by_key(|(_, state)| state.replaced_ms);
    }
    let (mut states, mut takers) = (Vec::new(), Vec::new());
    for (taker, of_one) in stays.into_values().enumerate() {
        takers.extend(std::iter::repeat_n(taker, of_one.len()));
        states.extend(of_one);
    }
    let named = states.iter().map(|(_, state)| state.object_bytes.saturating_add(state.manifest_bytes));
    if named.fold(0, u64::saturating_add) > budget.bytes {
        let freed = resolve(&states);
        for (nsid, generation) in within(budget.bytes, &states, &takers, freed) {
            due.entry(nsid).or_default().insert(generation);
        }
    }
    let is_due = |nsid: &Nsid, generation| due.get(nsid).is_some_and(|gone| gone.contains(&generation));
    // With a whole incarnation goes its past.
    let stays = |nsid: &Nsid, state: &Kept| !is_due(nsid, WHOLE) && !is_due(nsid, state.generation);
    let left = states.into_iter().zip(takers).filter(|((nsid, state), _)| stays(nsid, state));
    let (mut left, takers): (Vec<(Nsid, Kept)>, Vec<usize>) = left.unzip();
    if left.iter().map(|(_, state)| state.files()).sum::<u64>() > budget.files {
        // Files are counted in the place of bytes, and none is held by several.
        left.iter_mut().for_each(|(_, state)| state.manifest_bytes = state.files());
        for (nsid, generation) in within(budget.files, &left, &takers, Vec::new()) {
            due.entry(nsid).or_default().insert(generation);
        }
    }
    due
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::collections::{BTreeMap, BTreeSet};

    use uuid::Uuid;

    use super::{Budget, Freed, GENERATIONS_MAX, Kept, RECENT_STATES, WHOLE, choose};
    use crate::model::ids::{Nsid, Project};

    /// Incarnations from here on are deleted.
    const FIRST_DELETED: u128 = 1_000;

    fn nsid(n: u128) -> Nsid {
        Nsid(Uuid::from_u128(n))
    }

    /// States by the bytes of their objects, each replaced at its number, with documents of its own.
    fn states(bytes: &[u64]) -> Vec<Kept> {
        let state = |(n, bytes): (usize, &u64)| Kept {
            generation: n as u64,
            replaced_ms: n as u64,
            data_seq: n as u64,
            object_bytes: *bytes,
            ..Kept::default()
        };
        bytes.iter().enumerate().map(state).collect()
    }

    fn due(all: &[(u128, Vec<Kept>)], old: Option<u64>, budget: u64) -> BTreeMap<u128, Vec<u64>> {
        due_where(all, old, budget, |_, state| state.object_bytes)
    }

    fn due_where(
        all: &[(u128, Vec<Kept>)],
        old: Option<u64>,
        budget: u64,
        alone: impl Fn(u128, &Kept) -> u64,
    ) -> BTreeMap<u128, Vec<u64>> {
        let deleted = all.iter().filter(|(n, _)| *n >= FIRST_DELETED);
        let deleted = deleted.map(|(n, _)| (nsid(*n), Project::default_project())).collect();
        let all = all.iter().map(|(n, states)| (nsid(*n), states.clone())).collect();
        let resolve = |states: &[(Nsid, Kept)]| {
            let freed = |(place, (nsid, state)): (usize, &(Nsid, Kept))| Freed {
                holders: vec![place],
                bytes: alone(nsid.0.as_u128(), state),
            };
            states.iter().enumerate().map(freed).collect()
        };
        let budget = Budget { bytes: budget, files: u64::MAX };
        let due = choose(&all, &deleted, old, budget, resolve).into_iter();
        due.map(|(nsid, generations)| (nsid.0.as_u128(), generations.into_iter().collect())).collect()
    }

    #[test]
    fn a_namespace_that_keeps_little_loses_nothing_for_one_that_keeps_much() {
        let (large, small) = (states(&[100; 10]), states(&[0; 11]));
        assert_eq!(due(&[(1, small.clone()), (2, large.clone())], None, 300), [(2, (0..7).collect())].into());
        // Nothing is freed by them, whatever the budget.
        assert_eq!(due(&[(1, small.clone()), (2, large)], None, 0), [(2, (0..10).collect())].into());
        assert_eq!(due(&[(1, small)], None, 0), BTreeMap::new());
    }

    #[test]
    fn of_two_that_keep_the_same_both_give() {
        let due = due(&[(1, states(&[10; 10])), (2, states(&[10; 10]))], None, 100);
        assert_eq!(due, [(1, (0..5).collect()), (2, (0..5).collect())].into());
    }

    #[test]
    fn older_states_go_with_the_one_whose_objects_they_share_and_younger_ones_stay() {
        assert_eq!(due(&[(1, states(&[0, 0, 50, 0, 0]))], None, 10), [(1, vec![0, 1, 2])].into());
    }

    #[test]
    fn what_others_hold_is_freed_by_no_state() {
        let (shared, own) = (states(&[100; 10]), states(&[10; 10]));
        let alone = |nsid, state: &Kept| if nsid == 1 { 0 } else { state.object_bytes };
        let all = [(1, shared.clone()), (2, own)];
        assert_eq!(due_where(&all, None, 100, alone), BTreeMap::new());
        assert_eq!(due_where(&all, None, 60, alone), [(2, (0..4).collect())].into());
        // A part of them frees something.
        let young = |_, state: &Kept| if state.generation < 5 { 0 } else { 100 };
        assert_eq!(due_where(&[(1, shared)], None, 400, young), [(1, (0..6).collect())].into());
    }

    #[test]
    fn states_that_free_nothing_cost_nobody_any_however_many_they_are() {
        let mut all: Vec<(u128, Vec<Kept>)> = (2..82).map(|n| (n, states(&[2]))).collect();
        all.push((1, states(&[2; 12])));
        let alone = |nsid, state: &Kept| if nsid == 1 { state.object_bytes } else { 0 };
        assert_eq!(due_where(&all, None, 24, alone), BTreeMap::new());
        assert_eq!(due_where(&all, None, 20, alone), [(1, vec![0, 1])].into());
    }

    #[test]
    fn nobody_is_asked_while_all_fit_by_what_they_name() {
        let all = [(1, states(&[100])), (2, states(&[50])), (3, states(&[10]))];
        let asked = RefCell::new(Vec::new());
        let alone = |nsid, state: &Kept| {
            asked.borrow_mut().push(nsid);
            if nsid == 1 { 20 } else { state.object_bytes }
        };
        assert_eq!(due_where(&all, None, 160, alone), BTreeMap::new());
        assert_eq!(*asked.borrow(), [0; 0]);
        assert_eq!(due_where(&all, None, 80, alone), BTreeMap::new());
        assert_eq!(*asked.borrow(), [1, 2, 3]);
        // The largest of what is really kept gives.
        assert_eq!(due_where(&all, None, 79, alone), [(2, vec![0])].into());
        assert_eq!(*asked.borrow(), [1, 2, 3, 1, 2, 3]);
    }

    #[test]
    fn many_small_deleted_namespaces_of_a_project_go_before_the_states_of_one_that_is_larger_than_each() {
        let whole = |at: u64| {
            let of_one = Kept { generation: WHOLE, replaced_ms: at, object_bytes: 20, ..Kept::default() };
            (FIRST_DELETED + u128::from(100 - at), vec![of_one])
        };
        let mut all: Vec<(u128, Vec<Kept>)> = (0..100).map(whole).collect();
        all.push((1, states(&[50; 4])));
        let found = due(&all, None, 1_000);
        // The oldest of them, whatever their numbers.
        let expected: BTreeSet<u128> = (0..60).map(|at| FIRST_DELETED + 100 - at).collect();
        assert_eq!(found.keys().copied().collect::<BTreeSet<u128>>(), expected);
    }

    #[test]
    fn manifests_count() {
        let mut states = states(&[0; 10]);
        states.iter_mut().for_each(|state| state.manifest_bytes = 7);
        assert_eq!(due(&[(1, states)], None, 40), [(1, vec![0, 1, 2, 3, 4])].into());
    }

    #[test]
    fn what_is_old_goes_and_where_nobody_knows_the_time_only_what_is_too_many() {
        assert_eq!(due(&[(1, states(&[0; 6]))], Some(3), 100), [(1, vec![0, 1, 2, 3])].into());
        assert_eq!(due(&[(1, states(&[0; 6]))], None, 100), BTreeMap::new());
        let many = states(&vec![0; GENERATIONS_MAX + 2]);
        assert_eq!(due(&[(1, many)], None, 100), [(1, vec![0, 1])].into());
    }

    #[test]
    fn of_states_that_say_the_same_the_first_stays() {
        let mut bytes = vec![0, 0, 0, 9, 0];
        bytes.extend([0; RECENT_STATES]);
        let mut states = states(&bytes);
        for state in &mut states {
            state.data_seq = 5;
        }
        // The fifth lacks objects of the fourth; those behind it are recent.
        assert_eq!(due(&[(1, states.clone())], None, 100), [(1, vec![1, 2, 3])].into());
        states[0].object_bytes = 1;
        assert_eq!(due(&[(1, states.clone())], None, 100), [(1, vec![2, 3])].into());
        assert_eq!(due(&[(1, states.split_off(5))], None, 100), BTreeMap::new());
    }

    #[test]
    fn the_first_state_of_a_branch_stays_and_a_deleted_namespace_goes_as_a_whole() {
        let mut branch = states(&[100, 1]);
        branch[0].is_fork = true;
        assert_eq!(due(&[(1, branch)], Some(9), 0), [(1, vec![1])].into());
        let whole = Kept { generation: WHOLE, replaced_ms: 1, object_bytes: 70, ..Kept::default() };
        let mut deleted = states(&[10, 10]);
        deleted.push(whole);
        let other = states(&[5, 5]);
        let gone: BTreeSet<u64> = [0, 1, WHOLE].into();
        let found = due(&[(1, deleted), (2, other)], None, 20);
        assert_eq!(found, [(1, gone.into_iter().collect())].into());
    }

    #[test]
    fn for_files_go_the_oldest_of_who_has_most_of_them_beside_what_goes_for_bytes() {
        let whole = |at: u64| Kept { generation: WHOLE, replaced_ms: at, object_bytes: 1, ..Kept::default() };
        let deleted: Vec<u128> = (FIRST_DELETED..FIRST_DELETED + 10).collect();
        let mut all: BTreeMap<Nsid, Vec<Kept>> =
            deleted.iter().zip(0..).map(|(n, at)| (nsid(*n), vec![whole(at)])).collect();
        all.insert(nsid(1), states(&[100, 100, 0, 0]));
        let projects = deleted.iter().map(|n| (nsid(*n), Project::default_project())).collect();
        let gone = |bytes, files| {
            let freed = |states: &[(Nsid, Kept)]| {
                let of_one = |(place, (_, state)): (usize, &(Nsid, Kept))| Freed {
                    holders: vec![place],
                    bytes: state.object_bytes,
                };
                states.iter().enumerate().map(of_one).collect()
            };
            let due = choose(&all, &projects, None, Budget { bytes, files }, freed).into_iter();
            due.map(|(nsid, gone)| (nsid.0.as_u128(), gone.len())).collect::<Vec<(u128, usize)>>()
        };
        // Ten deleted ones of 8, and four states of 2.
        assert!(gone(u64::MAX, 88).is_empty());
        assert_eq!(gone(u64::MAX, 87), [(FIRST_DELETED, 1)]);
        assert_eq!(gone(u64::MAX, 72), [(FIRST_DELETED, 1), (FIRST_DELETED + 1, 1)]);
        // What went for bytes needs not go again.
        assert_eq!(gone(150, 86), [(1, 1)]);
        assert_eq!(gone(150, 85), [(1, 1), (FIRST_DELETED, 1)]);
        assert_eq!(gone(u64::MAX, 0).len(), 11);
    }
}
