//! The protocol by which objects in a shared bucket are reclaimed (`src/engine/reclaim.rs` has it in words), walked through in
//! every order in which its steps can meet; and the proof that the walk finds what goes wrong without any one of them.
//!
//! Each namespace has a chain of commits, objects under its own prefix, and the holds of others on these. Nobody here has a
//! clock, and everybody may stop for ever after any step. Commits that are released are removed in the end, with the lists that
//! only they name: then their numbers are free again.

use stateright::{Checker, Model, Property};

/// A set of objects.
type Objects = u16;

/// A step left out, or two of them swapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    DeletesBeforeListingHolds,
    ListsHoldsBeforeTheFence,
    DeletesWithoutAFence,
    FencesBeforeTheListIsWritten,
    HoldsWithoutReadingAgain,
    ReadsBeforeHolding,
    HoldsWithOneOwnerOnly,
    DoesNotCheckFencesOnRebase,
    UploadsAgainUnderTheSameName,
    RemovesAHoldBeforeTheNextIsWritten,
    NarrowsBeforeItsOwnFence,
    CommitsWithoutLookingAtWhatItFollows,
    TakesAListThatIsGoneForEmpty,
    GivesUpAHoldWithoutTakingTheHoldersPlace,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Commit {
    names: Objects,
    /// The list of condemned objects that it names, and the oldest commit it retains.
    fence: Option<(usize, usize)>,
}

/// A revision of what `holder` needs of another namespace's objects.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Hold {
    holder: usize,
    rev: u8,
    names: Objects,
    confirmed: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Space {
    chain: Vec<Commit>,
    /// Commits before this one are removed, and their lists.
    oldest: usize,
    /// Commits that were made where the chain had gone on long before.
    astray: bool,
    /// Objects under this prefix, there or gone.
    own: Objects,
    holds: Vec<Hold>,
}

impl State {
    /// Whether another collector is about to use this list.
    fn is_writing(&self, who: usize, list: usize) -> bool {
        self.actors.iter().enumerate().any(|(other, actor)| match actor {
            Actor::Collector { sweep, at, .. } => other != who && *at > 0 && *sweep == list,
            _ => false,
        })
    }
}

impl Space {
    fn newest(&self) -> usize {
        self.chain.len() - 1
    }

    fn oldest_retained(&self) -> usize {
        self.chain.iter().filter_map(|commit| commit.fence).map(|(_, oldest)| oldest).max().unwrap_or(0)
    }

    /// What its retained commits need, from `from` on.
    fn needs(&self, from: usize) -> Objects {
        self.chain.iter().skip(from).fold(0, |all, commit| all | commit.names)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    /// Objects that are there.
    store: Objects,
    made: u16,
    spaces: Vec<Space>,
    /// Condemned objects by sweep; `None` while the list is not written.
    sweeps: Vec<Option<Objects>>,
    actors: Vec<Actor>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Actor {
    Collector {
        of: usize,
        cycles: u8,
        at: usize,
        base: usize,
        sweep: usize,
        condemned: Objects,
        spared: Objects,
    },
    Committer {
        of: usize,
        drops: Objects,
        uploads: bool,
        at: CommitStep,
        base: usize,
        since: usize,
        upload: Objects,
    },
    /// Makes namespace `to`, a branch or a tag, of some commit of `from`.
    Holder {
        to: usize,
        from: usize,
        at: usize,
        commit: usize,
        names: Objects,
        over: bool,
    },
    /// Gives up the holds of `holder`, which seems to be lost, on `of`'s objects.
    Releaser {
        of: usize,
        holder: usize,
        at: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum CommitStep {
    Read,
    Upload,
    Commit,
    Done,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CollectStep {
    Read,
    WriteList,
    Fence,
    ListHolds,
    Delete,
    WriteNextHold,
    RemoveLastHold,
    RemoveCommits,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum HoldStep {
    Choose,
    HoldAt(usize),
    ReadNewest,
    Publish,
}

/// One actor's next step, with its choice where it has one: of a commit to hold, of an object to delete.
type Step = (usize, u8);

struct Protocol {
    flaw: Option<Flaw>,
    start: State,
}

impl Protocol {
    fn collecting(&self) -> &'static [CollectStep] {
        use CollectStep::{Delete, Fence, ListHolds, Read, RemoveCommits, RemoveLastHold, WriteList, WriteNextHold};
        match self.flaw {
            Some(Flaw::DeletesBeforeListingHolds) => &[Read, WriteList, Fence, Delete, ListHolds],
            Some(Flaw::ListsHoldsBeforeTheFence) => &[Read, WriteList, ListHolds, Fence, Delete],
            Some(Flaw::DeletesWithoutAFence) => &[Read, WriteList, ListHolds, Delete],
            Some(Flaw::FencesBeforeTheListIsWritten) => &[Read, Fence, WriteList, ListHolds, Delete],
            Some(Flaw::RemovesAHoldBeforeTheNextIsWritten) => {
                &[Read, WriteList, Fence, ListHolds, Delete, RemoveLastHold, WriteNextHold]
            }
            Some(Flaw::NarrowsBeforeItsOwnFence) => {
                &[Read, WriteNextHold, RemoveLastHold, WriteList, Fence, ListHolds, Delete]
            }
            _ => &[Read, WriteList, Fence, ListHolds, Delete, WriteNextHold, RemoveLastHold, RemoveCommits],
        }
    }

    fn holding(&self) -> &'static [HoldStep] {
        use HoldStep::{Choose, HoldAt, Publish, ReadNewest};
        match self.flaw {
            Some(Flaw::HoldsWithoutReadingAgain) => &[Choose, HoldAt(0), HoldAt(1), Publish],
            Some(Flaw::ReadsBeforeHolding) => &[Choose, ReadNewest, HoldAt(0), HoldAt(1), Publish],
            _ => &[Choose, HoldAt(0), HoldAt(1), ReadNewest, Publish],
        }
    }

    fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![self.start.clone()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Step>) {
        for (who, actor) in state.actors.iter().enumerate() {
            match actor {
                Actor::Collector { of, cycles, at, condemned, spared, .. } => {
                    if *cycles == 0 || state.spaces[*of].chain.is_empty() {
                        continue;
                    }
                    match self.collecting()[*at] {
                        // One at a time, and 16 for the end of it.
                        CollectStep::Delete => {
                            let due = condemned & !spared & state.store;
                            actions
                                .extend((0..16).filter(|object| due >> object & 1 == 1).map(|object| (who, object)));
                            if due == 0 {
                                actions.push((who, 16));
                            }
                        }
                        _ => actions.push((who, 0)),
                    }
                }
                Actor::Committer { at: CommitStep::Done, .. } => {}
                Actor::Committer { of, .. } => {
                    if !state.spaces[*of].chain.is_empty() {
                        actions.push((who, 0));
                    }
                }
                Actor::Releaser { at, .. } => actions.extend((*at < 2).then_some((who, 0))),
                Actor::Holder { from, at, over, .. } => {
                    if *over {
                        continue;
                    }
                    match self.holding()[*at] {
                        HoldStep::Choose => {
                            let from = &state.spaces[*from];
                            actions.extend((from.oldest..from.chain.len()).map(|c| (who, c as u8)))
                        }
                        _ => actions.push((who, 0)),
                    }
                }
            }
        }
    }

    fn next_state(&self, last: &State, (who, choice): Step) -> Option<State> {
        let mut next = last.clone();
        let mut actor = last.actors[who].clone();
        match &mut actor {
            Actor::Collector { of, cycles, at, base, sweep, condemned, spared } => {
                let space = *of;
                let step = self.collecting()[*at];
                *at += 1;
                match step {
                    CollectStep::Read => {
                        *base = last.spaces[space].newest();
                        (*condemned, *spared) = (0, 0);
                        // A list that no fence names means nothing: the next one may stand for it here.
                        let chains = last.spaces.iter().flat_map(|space| &space.chain);
                        let named = chains.filter_map(|commit| commit.fence).map(|(list, _)| list);
                        *sweep =
                            (0..).find(|n| !named.clone().any(|m| m == *n) && !last.is_writing(who, *n)).unwrap_or(0);
                        next.sweeps.resize(next.sweeps.len().max(*sweep + 1), None);
                        next.sweeps[*sweep] = None;
                    }
                    CollectStep::WriteList => {
                        // Objects on their way to a commit are in it, too: nobody can tell them from leftovers.
                        let own = &last.spaces[space];
                        *condemned = last.store & own.own & !own.needs(*base);
                        next.sweeps[*sweep] = Some(*condemned);
                    }
                    CollectStep::Fence => {
                        let chain = &mut next.spaces[space].chain;
                        if chain.len() == *base + 1 {
                            chain.push(Commit { names: chain[*base].names, fence: Some((*sweep, *base)) });
                        } else {
                            *at = 0;
                        }
                    }
                    CollectStep::ListHolds => {
                        *spared = last.spaces[space].holds.iter().fold(0, |all, hold| all | hold.names);
                    }
                    CollectStep::Delete if choice < 16 => {
                        next.store &= !(1 << choice);
                        *at -= 1;
                    }
                    CollectStep::Delete => {}
                    CollectStep::WriteNextHold => {
                        let needs = last.spaces[space].needs(*base);
                        for owner in (0..last.spaces.len()).filter(|owner| *owner != space) {
                            let there = &mut next.spaces[owner];
                            let known =
                                there.holds.iter().filter(|hold| hold.holder == space).map(|hold| hold.rev).max();
                            if known.is_some() || needs & there.own != 0 {
                                let (rev, names) = (known.unwrap_or(0) + 1, needs & there.own);
                                there.holds.push(Hold { holder: space, rev, names, confirmed: true });
                            }
                        }
                    }
                    CollectStep::RemoveLastHold => {
                        let written = self.collecting()[..*at].contains(&CollectStep::WriteNextHold);
                        for there in &mut next.spaces {
                            let own = || there.holds.iter().filter(|hold| hold.holder == space).map(|hold| hold.rev);
                            let newest = own().max().unwrap_or(0);
                            there.holds.retain(|hold| hold.holder != space || (written && hold.rev == newest));
                        }
                    }
                    CollectStep::RemoveCommits => {
                        let own = &mut next.spaces[space];
                        own.oldest = own.oldest.max(own.oldest_retained().min(own.newest()));
                    }
                }
                if *at == self.collecting().len() {
                    // What it has done with is forgotten, so that states that differ in nothing else are one.
                    (*cycles, *at, *base, *sweep, *condemned, *spared) = (*cycles - 1, 0, 0, 0, 0, 0);
                }
            }
            Actor::Committer { of, drops, uploads, at, base, since, upload } => {
                let space = &mut next.spaces[*of];
                match *at {
                    CommitStep::Read => {
                        *base = space.newest();
                        *at = if *uploads { CommitStep::Upload } else { CommitStep::Commit };
                    }
                    CommitStep::Upload => {
                        if *upload == 0 || !self.has(Flaw::UploadsAgainUnderTheSameName) {
                            *upload = 1 << next.made;
                            next.made += 1;
                        }
                        space.own |= *upload;
                        next.store |= *upload;
                        (*since, *at) = (*base, CommitStep::Commit);
                    }
                    CommitStep::Commit if *base + 1 < space.oldest => {
                        // The number is free again. What it follows is not there any more.
                        if self.has(Flaw::CommitsWithoutLookingAtWhatItFollows) {
                            space.astray = true;
                            *at = CommitStep::Done;
                        } else {
                            *base = space.newest();
                            // Lists are gone, too, so anything may have been condemned.
                            let is_anew = *uploads && !self.has(Flaw::TakesAListThatIsGoneForEmpty);
                            *at = if is_anew { CommitStep::Upload } else { CommitStep::Commit };
                        }
                    }
                    CommitStep::Commit if space.newest() == *base => {
                        space.chain.push(Commit { names: space.chain[*base].names & !*drops | *upload, fence: None });
                        (*at, *base, *since, *upload) = (CommitStep::Done, 0, 0, 0);
                    }
                    CommitStep::Commit => {
                        *base = space.newest();
                        let fences = space.chain[*since + 1..].iter().filter_map(|commit| commit.fence);
                        let condemned = fences.fold(0, |all, (sweep, _)| all | last.sweeps[sweep].unwrap_or(0));
                        if condemned & *upload != 0 && !self.has(Flaw::DoesNotCheckFencesOnRebase) {
                            *at = CommitStep::Upload;
                        }
                    }
                    CommitStep::Done => return None,
                }
            }
            Actor::Releaser { of, holder, at } => {
                *at += 1;
                match *at {
                    1 => {
                        let is_lost = next.spaces[*holder].chain.is_empty();
                        if is_lost && !self.has(Flaw::GivesUpAHoldWithoutTakingTheHoldersPlace) {
                            next.spaces[*holder].chain.push(Commit { names: 0, fence: None });
                        }
                        if !is_lost {
                            *at = 2;
                        }
                    }
                    _ => next.spaces[*of].holds.retain(|hold| hold.holder != *holder),
                }
            }
            Actor::Holder { to, from, at, commit, names, over } => {
                let step = self.holding()[*at];
                *at += 1;
                match step {
                    HoldStep::Choose => {
                        *commit = usize::from(choice);
                        *names = last.spaces[*from].chain[*commit].names;
                    }
                    HoldStep::HoldAt(owner) => {
                        let there = &mut next.spaces[owner];
                        let skipped = self.has(Flaw::HoldsWithOneOwnerOnly) && owner != *from;
                        if *names & there.own != 0 && !skipped {
                            let names = *names & there.own;
                            there.holds.push(Hold { holder: *to, rev: 0, names, confirmed: false });
                        }
                    }
                    HoldStep::ReadNewest => {
                        if last.spaces[*from].oldest_retained() > *commit {
                            // Withdrawn; who starts over is the same as who comes later.
                            for there in &mut next.spaces {
                                there.holds.retain(|hold| hold.holder != *to);
                            }
                            *over = true;
                        }
                    }
                    // It was taken for lost, and has its end for a first state: what is here is sent as its own.
                    HoldStep::Publish if !next.spaces[*to].chain.is_empty() => {
                        for there in &mut next.spaces {
                            there.holds.retain(|hold| hold.holder != *to);
                        }
                        *over = true;
                    }
                    HoldStep::Publish => {
                        for hold in next.spaces.iter_mut().flat_map(|there| &mut there.holds) {
                            hold.confirmed |= hold.holder == *to;
                        }
                        next.spaces[*to].chain.push(Commit { names: *names, fence: None });
                        *over = true;
                    }
                }
            }
        }
        next.actors[who] = actor;
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(WHOLE, |_, state: &State| {
                state.spaces.iter().all(|space| space.needs(space.oldest_retained()) & !state.store == 0)
            }),
            Property::always(CHAINED, |_, state: &State| !state.spaces.iter().any(|space| space.astray)),
            Property::always(HELD, |_, state: &State| {
                let mut holds = state.spaces.iter().flat_map(|space| &space.holds);
                holds.all(|hold| !hold.confirmed || hold.names & !state.store == 0)
            }),
            Property::sometimes(CLEAN, |_, state: &State| {
                let over = state.actors.iter().all(|actor| match actor {
                    Actor::Collector { cycles, .. } => *cycles == 0,
                    Actor::Committer { at, .. } => *at == CommitStep::Done,
                    Actor::Holder { to, .. } => !state.spaces[*to].chain.is_empty(),
                    Actor::Releaser { at, .. } => *at == 2,
                });
                let needed = state.spaces.iter().fold(0, |all, space| all | space.needs(space.oldest_retained()));
                over && state.store == needed
            }),
            Property::sometimes(WITHDRAWN, |_, state: &State| {
                let given_up = |actor: &Actor| match actor {
                    Actor::Holder { to, over, .. } => *over && state.spaces[*to].chain.is_empty(),
                    _ => false,
                };
                !state.actors.iter().any(|actor| matches!(actor, Actor::Holder { .. }))
                    || state.actors.iter().any(given_up)
            }),
        ]
    }
}

const WHOLE: &str = "no retained commit of a namespace, branch or tag names an object that is gone";
const CHAINED: &str = "who is told that a commit happened finds it in the chain";
const HELD: &str = "no confirmed hold loses an object";
const CLEAN: &str = "when all have done what they wanted, nothing is left that nobody needs";
const WITHDRAWN: &str = "a holder that comes too late withdraws";

fn collector(of: usize, cycles: u8) -> Actor {
    Actor::Collector { of, cycles, at: 0, base: 0, sweep: 0, condemned: 0, spared: 0 }
}

fn committer(of: usize, drops: Objects, uploads: bool) -> Actor {
    Actor::Committer { of, drops, uploads, at: CommitStep::Read, base: 0, since: 0, upload: 0 }
}

fn holder(to: usize, from: usize) -> Actor {
    Actor::Holder { to, from, at: 0, commit: 0, names: 0, over: false }
}

fn space(own: Objects, names: Objects) -> Space {
    Space { chain: vec![Commit { names, fence: None }], own, ..Space::default() }
}

/// A namespace is written to, collected twice, and branched or tagged meanwhile.
fn branching() -> State {
    State {
        store: 0b11,
        made: 2,
        spaces: vec![space(0b11, 0b11), Space::default()],
        sweeps: Vec::new(),
        actors: vec![committer(0, 0b01, true), collector(0, 2), holder(1, 0)],
    }
}

/// The branch is written to and collected, too, and a tag is made; its parent is collected once.
fn living() -> State {
    let mut branching = branching();
    branching.actors[1] = collector(0, 1);
    let more = [committer(1, 0b10, false), collector(1, 1), holder(2, 0)];
    State {
        spaces: [branching.spaces, vec![Space::default()]].concat(),
        actors: [branching.actors, more.to_vec()].concat(),
        ..branching
    }
}

/// A namespace with two writers is collected.
fn writing() -> State {
    State {
        store: 0b11,
        made: 2,
        spaces: vec![space(0b11, 0b11)],
        sweeps: Vec::new(),
        actors: vec![committer(0, 0b01, true), committer(0, 0b10, true), collector(0, 2)],
    }
}

/// A namespace is collected by two nodes at once.
fn collecting() -> State {
    State {
        store: 0b111,
        made: 3,
        spaces: vec![space(0b111, 0b011)],
        sweeps: Vec::new(),
        actors: vec![committer(0, 0b01, true), collector(0, 1), collector(0, 1)],
    }
}

/// A branch lets go of part of its parent's objects while it is branched itself. Its parent needs none of them any more.
fn letting_go() -> State {
    let mut parent = space(0b011, 0);
    parent.holds.push(Hold { holder: 1, rev: 0, names: 0b011, confirmed: true });
    State {
        store: 0b111,
        made: 3,
        spaces: vec![parent, space(0b100, 0b111), Space::default()],
        sweeps: Vec::new(),
        actors: vec![committer(1, 0b101, false), collector(1, 1), collector(0, 1), holder(2, 1)],
    }
}

/// A committer sleeps through what another one and a collector do.
fn sleeping() -> State {
    State { actors: vec![committer(0, 0b01, true), committer(0, 0b10, true), collector(0, 3)], ..writing() }
}

/// A branch is taken for lost while it is made.
fn giving_up() -> State {
    let mut start = branching();
    start.actors[1] = collector(0, 1);
    start.actors.push(Actor::Releaser { of: 0, holder: 1, at: 0 });
    start
}

#[test]
fn no_object_is_lost_in_any_order_of_the_steps() {
    for (what, start) in [
        ("branching", branching()),
        ("living", living()),
        ("writing", writing()),
        ("collecting", collecting()),
        ("letting go", letting_go()),
        ("sleeping", sleeping()),
        ("giving up", giving_up()),
    ] {
        let checker = Protocol { flaw: None, start }.checker().threads(2).spawn_bfs().join();
        println!("{what}: {} states", checker.unique_state_count());
        checker.assert_no_discovery(WHOLE);
        checker.assert_no_discovery(HELD);
        checker.assert_no_discovery(CHAINED);
        checker.assert_any_discovery(CLEAN);
        checker.assert_any_discovery(WITHDRAWN);
    }
}

#[test]
fn without_any_one_step_an_object_is_lost() {
    let flaws = [
        (Flaw::DeletesBeforeListingHolds, branching()),
        (Flaw::ListsHoldsBeforeTheFence, branching()),
        (Flaw::DeletesWithoutAFence, branching()),
        (Flaw::FencesBeforeTheListIsWritten, collecting()),
        (Flaw::HoldsWithoutReadingAgain, branching()),
        (Flaw::ReadsBeforeHolding, branching()),
        (Flaw::HoldsWithOneOwnerOnly, letting_go()),
        (Flaw::DoesNotCheckFencesOnRebase, writing()),
        (Flaw::UploadsAgainUnderTheSameName, writing()),
        (Flaw::RemovesAHoldBeforeTheNextIsWritten, letting_go()),
        (Flaw::NarrowsBeforeItsOwnFence, letting_go()),
        (Flaw::CommitsWithoutLookingAtWhatItFollows, sleeping()),
        (Flaw::TakesAListThatIsGoneForEmpty, sleeping()),
        (Flaw::GivesUpAHoldWithoutTakingTheHoldersPlace, giving_up()),
    ];
    for (flaw, start) in flaws {
        let checker = Protocol { flaw: Some(flaw), start }.checker().threads(2).spawn_bfs().join();
        let path = checker.discovery(WHOLE).or_else(|| checker.discovery(CHAINED));
        let Some(path) = path else { panic!("{flaw:?} is not found") };
        println!("{flaw:?}: lost after {} steps", path.into_actions().len());
    }
}
