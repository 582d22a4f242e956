//! Carries out one history on a node and on the model, and checks every promise where it was given for.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Cursor;
use std::sync::Arc;

use shoal::engine::Engine;
use shoal::engine::lineage::BranchRequest;
use shoal::engine::merge::{self, MergeRequest};
use shoal::error::{Error, Kind, Result};
use shoal::model::as_of::AsOf;
use shoal::model::ids::{DocId, Project};
use shoal::platform::clock::{Clock, ManualClock};
use shoal::platform::disk::Disk;
use shoal::platform::memory_disk::MemoryDisk;
use shoal::platform::random::SeededRandom;
use shoal::snapshot::restore::restore;
use shoal::snapshot::take::{Extent, take};
use shoal::sync::{Reclaim, Selection, Sync};

use crate::model::{CLASS_IDS, Can, Documents, Edit, Keyed, Name, Pledge, State, What, allows};
use crate::node::{Node, Place, RETENTION_MS, documents, in_bucket, in_snapshot, name, write};
use crate::steps::{Draft, Draw, HOUR_MS, Ill, NAMES, Step};

/// So many passes of the background heal a node for certain.
const HEALING_PASSES: u32 = 2;
const STEPS: u64 = 24;
/// Keys are tried again while a node remembers them for sure.
const KEY_MS: u64 = 23 * HOUR_MS;
/// More writes with keys than a node once remembered.
const KEYS: u64 = 1_030;
/// So many states a namespace may be in before nothing more is done with it.
const OPEN_MAX: usize = 12;
/// The namespace that another node writes.
const THEIRS: &str = "theirs";

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Became {
    Done,
    /// Nothing happened.
    Refused,
    /// It happened or it did not.
    Open,
}

pub struct Run {
    pub node: Node,
    pub place: Place,
    pub has_bucket: bool,
    engine: Option<Arc<Engine>>,
    link: Option<Arc<Sync>>,
    other: Option<(Node, Arc<Engine>)>,
    /// What the other node had in the bucket, oldest first, and the first of it that may be here.
    theirs: (Vec<Documents>, Option<usize>),
    pub clock: Arc<ManualClock>,
    pub names: BTreeMap<&'static str, Name>,
    event: u64,
    classes: u64,
    keys: u64,
    ids: BTreeSet<DocId>,
    snapshots: Vec<(Vec<u8>, Can)>,
    /// About how many operations and requests a step of each kind takes.
    taken: BTreeMap<String, (u64, u64)>,
    /// Something went wrong in this step.
    is_ill: bool,
    /// Whether the disk is full during this step.
    is_full: bool,
    /// Wrong bytes were read since the node started: what it has in memory may be damaged, and answers say so.
    is_spoiled: bool,
    /// Whose file is damaged for good: it answers rightly or not at all.
    pub victim: Option<&'static str>,
    pub what: String,
    seed: u64,
    says: bool,
}

/// Runs the history of a seed.
pub async fn history(seed: u64, says: bool) {
    let random = SeededRandom::new(seed ^ 0xfa17);
    let draw = Draw(&random);
    let mut run = Run::new(seed, draw.pick(3) > 0, says);
    run.start(true).await;
    let many_keys = seed.is_multiple_of(20).then(|| draw.pick(STEPS));
    let one_in = 1 + draw.pick(4);
    let mut ills = 0;
    for number in 0..STEPS {
        let step = match number {
            0 => Step::Write("a", draw.draft(), true),
            _ if many_keys == Some(number) => Step::ManyKeys("a"),
            _ => draw.step(run.has_bucket),
        };
        let (operations, requests) = run.taken.get(&step.kind()).copied().unwrap_or((40, 12));
        let ill = (draw.pick(one_in) == 0).then(|| draw.ill(&step, operations, requests));
        ills += u64::from(ill.is_some());
        run.what = format!("seed {seed}, step {number}, {step:?}, {ill:?}");
        run.carry_out(&draw, &step, ill).await;
        run.clock.advance(1 + draw.pick(1_000));
        run.is_at("looks");
        run.look().await;
    }
    run.what = format!("seed {seed}, at the end after {ills} faults");
    run.is_at("");
    run.end(&draw).await;
}

impl Run {
    pub fn new(seed: u64, has_bucket: bool, says: bool) -> Self {
        let clock = Arc::new(ManualClock::at(1_700_000_000_000));
        Run {
            node: Node::new(seed, clock.clone()),
            place: Place::new(),
            has_bucket,
            engine: None,
            link: None,
            other: None,
            theirs: (Vec::new(), None),
            clock,
            names: NAMES.into_iter().map(|name| (name, Name::default())).collect(),
            event: 0,
            classes: 0,
            keys: 0,
            ids: BTreeSet::new(),
            snapshots: Vec::new(),
            taken: BTreeMap::new(),
            is_ill: false,
            is_full: false,
            is_spoiled: false,
            victim: None,
            what: format!("seed {seed}, at the start"),
            seed,
            says,
        }
    }

    pub fn engine(&self) -> Arc<Engine> {
        self.engine.clone().unwrap_or_else(|| panic!("{}: the node is down", self.what))
    }

    /// Says where the history is, should it stay there.
    pub fn is_at(&self, place: &str) {
        crate::DOING.lock().unwrap().insert(self.seed, format!("{} {place}", self.what));
    }

    pub fn say(&self, text: impl FnOnce() -> String) {
        if self.says {
            println!("    {}", text());
        }
    }

    /// Starts the node; `must`: nothing goes wrong any more.
    pub async fn start(&mut self, must: bool) {
        let mut tries = 0;
        self.is_at("starts");
        let engine = loop {
            tries += 1;
            match self.node.open() {
                Ok(engine) => break engine,
                // What still ran in the background holds the directory for a moment.
                Err(error) if error.code() == "data_dir_locked" && tries < 100_000 => tokio::task::yield_now().await,
                Err(error) if must || !self.has_happened() => panic!("{}: open: {error}", self.what),
                Err(error) => {
                    self.say(|| format!("open: {error}"));
                    return;
                }
            }
        };
        let done = tokio::task::block_in_place(|| engine.rebuild_index());
        if let Err(error) = done {
            self.say(|| format!("rebuild: {error}"));
            assert!(!must, "{}: rebuild: {error}", self.what);
        }
        self.link = self.has_bucket.then(|| self.node.link(&engine, &self.place, false));
        self.engine = Some(engine);
    }

    /// Whether what was planned for this step is over, or goes on until the step ends.
    fn has_happened(&self) -> bool {
        self.is_ill
    }

    pub fn cut(&mut self) {
        (self.link, self.engine) = (None, None);
        self.node.disk.power_cut(&*self.node.random);
        self.restarted();
    }

    fn restarted(&mut self) {
        self.is_spoiled = false;
        for name in self.names.values_mut() {
            name.is_open = false;
        }
    }

    /// Whether something waited in vain for the index, of which a fault kept the last start from making it anew: it is made now, as a
    /// daemon does after a pause.
    fn waits_for_index<T>(&self, done: &Result<T>) -> bool {
        let waits = done.as_ref().is_err_and(|error| error.code() == "index_rebuilding");
        waits && self.engine().rebuild_index().is_ok()
    }

    /// What an answer says of the step. Without a fault nothing is left open, unless memory was spoiled.
    fn became<T>(&self, done: &Result<T>) -> Became {
        match done {
            Ok(_) => Became::Done,
            Err(error) => {
                self.say(|| format!("{error:?}"));
                match error.kind() {
                    Kind::Invalid | Kind::NotFound | Kind::Conflict | Kind::Unsupported => Became::Refused,
                    kind => {
                        assert!(self.is_ill || self.is_spoiled, "{}: {error:?} without a fault", self.what);
                        if kind == Kind::Busy { Became::Refused } else { Became::Open }
                    }
                }
            }
        }
    }

    pub fn of(&mut self, name: &'static str) -> &mut Name {
        self.names.get_mut(name).unwrap()
    }

    pub async fn carry_out(&mut self, draw: &Draw<'_>, step: &Step, ill: Option<Ill>) {
        if self.says {
            println!("{}", self.what);
        }
        self.is_at("");
        // What cannot be read for long may be in too many states to follow.
        let names = if step.whose().is_none() && matches!(step, Step::Merge(..)) { &NAMES[..] } else { &[] };
        if names.iter().copied().chain(step.whose()).any(|at| self.of(at).can.len() > OPEN_MAX) {
            return;
        }
        let (operations, requests) = (self.node.disk.operations(), self.place.requests());
        let is_others = step.whose().is_some_and(|of| self.victim.is_some_and(|victim| of != victim));
        self.is_ill = ill.is_some() || self.victim.is_some() && !is_others;
        self.is_full = matches!(ill, Some(Ill::Full(_)));
        match &ill {
            Some(Ill::Disk(mishap)) => self.node.disk.set_mishap(Some(mishap.clone())),
            Some(Ill::Bucket(from, to, fault)) => self.place.plan(Some((requests + from, requests + to, *fault))),
            Some(Ill::Full(bytes)) => self.node.disk.leave_free(Some(*bytes)),
            None => {}
        }
        self.perform(draw, step).await;
        // It works again from here on.
        self.node.disk.set_mishap(None);
        self.node.disk.leave_free(None);
        self.place.plan(None);
        let happened = self.node.disk.take_happened();
        self.say(|| format!("{happened:?}"));
        self.is_spoiled |= happened.iter().any(|what| what.contains("ReadsWrong"));
        if self.engine.is_none() {
            self.start(self.victim.is_none()).await;
        }
        self.is_ill = false;
        let took = (self.node.disk.operations() - operations, self.place.requests() - requests);
        self.taken.insert(step.kind(), took);
    }

    pub fn edit(&mut self, to: &'static str, draft: Draft) -> Edit {
        self.event += 1;
        let value = self.event as i64;
        let may_be_there = self.of(to).may_be_there();
        if !may_be_there || self.of(to).class == 0 {
            self.classes += 1;
            let class = self.classes;
            self.of(to).begin_life(class);
        }
        let class = self.of(to).class;
        let id = |seed: u64| class * CLASS_IDS + seed % 12;
        let what = match draft {
            Draft::Put { seed, empties } => {
                let ids: BTreeSet<u64> = (0..1 + seed % 4).map(|n| id((seed >> 8).wrapping_add(n * 5))).collect();
                What::Put { ids: ids.into_iter().collect(), empties }
            }
            Draft::Patch { seed } => What::Patch { id: id(seed) },
            Draft::PatchAll => What::PatchAll { class },
            Draft::Delete { seed } => {
                let ids: BTreeSet<u64> = [id(seed), id(seed >> 9)].into();
                What::Delete { ids: ids.into_iter().collect() }
            }
            Draft::DeleteSince { back } => What::DeleteSince { class, since: value - back as i64 },
        };
        Edit { value, what }
    }

    /// What a write makes of a state; `None` where it must be refused.
    fn after(&self, state: Option<&Arc<State>>, edit: &Edit, key: Option<u64>) -> Option<Option<Arc<State>>> {
        match (state, &edit.what) {
            (Some(state), _) => Some(Some(Arc::new(state.after(self.event, edit, key)))),
            (None, What::Put { .. }) => {
                let first = State::first(self.event);
                Some(Some(Arc::new(first.after(self.event, edit, key))))
            }
            (None, _) => None,
        }
    }

    /// Follows a write in the model.
    fn follow(&mut self, to: &'static str, edit: &Edit, key: Option<u64>, became: Became, replayed: Option<bool>) {
        let before = self.of(to).can.clone();
        let has_key =
            |state: &Option<Arc<State>>| key.is_some_and(|key| state.as_ref().is_some_and(|s| s.has_key(key)));
        let told: Can =
            before.iter().filter(|state| replayed.is_none_or(|said| said == has_key(state))).cloned().collect();
        let after: Can = told.iter().filter_map(|state| self.after(state.as_ref(), edit, key)).collect();
        match became {
            Became::Done => {
                assert!(
                    !after.is_empty(),
                    "{}: done, replayed {replayed:?}, which no state allows: {before:?}",
                    self.what
                );
                let name = self.of(to);
                name.set(after);
                // A repeated answer says nothing of what else is on its way.
                name.is_open &= replayed == Some(true);
            }
            Became::Refused => {
                let kept: Can =
                    before.iter().filter(|state| self.after(state.as_ref(), edit, key).is_none()).cloned().collect();
                if !(self.is_ill || self.is_spoiled) || !kept.is_empty() {
                    assert!(!kept.is_empty(), "{}: refused, which no state allows: {before:?}", self.what);
                    self.of(to).set(kept);
                }
            }
            Became::Open => self.of(to).may_be(after),
        }
    }

    pub async fn send(&mut self, to: &'static str, edit: &Edit, key: Option<u64>) -> Became {
        let engine = self.engine();
        let done = write(&engine, to, edit, key).await;
        let became = self.became(&done);
        let replayed = done.as_ref().ok().map(|outcome| outcome.replayed);
        self.follow(to, edit, key, became, replayed);
        became
    }

    pub fn new_key(&mut self, to: &'static str, edit: &Edit) -> u64 {
        self.keys += 1;
        let (key, sent_ms) = (self.keys, self.clock.now_millis());
        self.of(to).keyed.push(Keyed { key, edit: edit.clone(), sent_ms });
        key
    }

    /// Several writes at the same time, to documents of their own.
    async fn at_once(&mut self, to: &'static str, count: u64) {
        let mut sent = Vec::new();
        for n in 0..count {
            let mut edit = self.edit(to, Draft::Put { seed: 0, empties: 0 });
            let class = self.of(to).class;
            let ids = vec![class * CLASS_IDS + n, class * CLASS_IDS + 20 + n];
            edit.what = match n {
                1 if self.of(to).is_surely_there() => What::Patch { id: ids[0] },
                _ => What::Put { ids, empties: 0 },
            };
            let key = (n % 2 == 0).then(|| self.new_key(to, &edit));
            sent.push((edit, key));
        }
        let engine = self.engine();
        let writes = sent.iter().map(|(edit, key)| write(&engine, to, edit, *key));
        let done = futures_util::future::join_all(writes).await;
        for ((edit, key), done) in sent.iter().zip(&done) {
            let became = self.became(done);
            let was_open = self.of(to).is_open;
            self.follow(to, edit, *key, became, done.as_ref().ok().map(|outcome| outcome.replayed));
            // They share a barrier: what one was told says nothing of the others.
            self.of(to).is_open |= was_open;
        }
    }

    /// A write with a key whose answer a checkpoint takes from the log, another write, and the first one again.
    async fn again(&mut self, to: &'static str, draw: &Draw<'_>, is_cut: bool) {
        let planned = self.node.disk.planned().filter(|_| is_cut);
        if is_cut {
            self.node.disk.set_mishap(None);
        }
        let first = self.edit(to, Draft::Put { seed: draw.pick(1_000_000), empties: 0 });
        let key = self.new_key(to, &first);
        if self.send(to, &first, Some(key)).await != Became::Done {
            return;
        }
        self.flush(to).await;
        if is_cut {
            self.cut();
            self.node.disk.set_mishap(planned);
            self.start(false).await;
            if self.engine.is_none() {
                return;
            }
        }
        // What the first one wrote is not what is there any more: were it carried out again, it would be seen.
        self.event += 1;
        let second = Edit { value: self.event as i64, what: first.what.clone() };
        self.send(to, &second, None).await;
        self.event += 1;
        self.send(to, &first, Some(key)).await;
    }

    /// Many writes with keys to one document, and a checkpoint; the first and another one again.
    async fn many_keys(&mut self, to: &'static str) {
        let first = self.edit(to, Draft::Put { seed: 0, empties: 0 });
        let key = self.new_key(to, &first);
        if self.send(to, &first, Some(key)).await != Became::Done {
            return;
        }
        let engine = self.engine();
        let mut done = Vec::new();
        let mut last = None;
        for n in 0..KEYS {
            self.event += 1;
            self.keys += 1;
            let edit = Edit { value: self.event as i64, what: first.what.clone() };
            let key = self.keys;
            match write(&engine, to, &edit, Some(key)).await {
                Ok(outcome) => assert!(!outcome.replayed, "{}: key {n} is new", self.what),
                Err(error) => {
                    self.keep_many(to, &last, &mut done);
                    let became = self.became::<()>(&Err(error));
                    self.follow(to, &edit, Some(key), became, None);
                    return;
                }
            }
            done.push(key);
            last = Some(edit);
        }
        self.keep_many(to, &last, &mut done);
        self.flush(to).await;
        self.send(to, &first, Some(key)).await;
    }

    fn keep_many(&mut self, to: &'static str, last: &Option<Edit>, done: &mut Vec<u64>) {
        let Some(edit) = last else { return };
        let event = self.event;
        let after: Can = self
            .of(to)
            .can
            .iter()
            .flatten()
            .map(|state| Some(Arc::new(state.after(event, edit, None).with_keys(done.drain(..)))))
            .collect();
        let name = self.of(to);
        name.set(after);
        name.is_open = false;
    }

    pub async fn flush(&mut self, at: &'static str) -> Became {
        let engine = self.engine();
        let done = engine.checkpoint(&name(at)).await;
        let became = self.became(&done);
        self.expect(at, became);
        if became == Became::Done && !self.is_ill {
            self.pledge(at).await;
        }
        became
    }

    /// What is done with a namespace that has to be there.
    fn expect(&mut self, at: &'static str, became: Became) {
        let known = self.of(at).clone();
        match became {
            Became::Done => {
                assert!(known.may_be_there(), "{}: done with what is not there", self.what);
                self.of(at).can.retain(Option::is_some);
            }
            Became::Refused if !self.is_ill && !self.is_spoiled => {
                assert!(!known.is_surely_there(), "{}: refused", self.what);
            }
            _ => {}
        }
    }

    /// A checkpoint was done: all that was acknowledged before is in the manifest.
    async fn pledge(&mut self, at: &'static str) {
        let engine = self.engine();
        let status = match engine.status(&name(at)) {
            Ok(status) => status,
            Err(error) if self.is_spoiled => return self.say(|| format!("{error}")),
            Err(error) => panic!("{}: status: {error}", self.what),
        };
        assert_eq!(status["tail"]["rows"], 0, "{}: rows are left in the tail", self.what);
        let generation = status["generation"].as_u64().unwrap();
        let since_ms = self.clock.now_millis();
        let can = self.of(at).can.clone();
        self.of(at).pledges.push(Pledge { generation, since_ms, can });
    }

    async fn perform(&mut self, draw: &Draw<'_>, step: &Step) {
        let engine = self.engine();
        match step {
            Step::Write(to, draft, is_keyed) => {
                let draft = match draft {
                    Draft::Put { .. } => *draft,
                    _ if self.of(to).may_be_there() => *draft,
                    _ => Draft::Put { seed: draw.pick(1_000), empties: 0 },
                };
                let edit = self.edit(to, draft);
                let key = is_keyed.then(|| self.new_key(to, &edit));
                if self.send(to, &edit, key).await == Became::Open && key.is_some() && draw.pick(2) == 0 {
                    // As a client does.
                    self.event += 1;
                    self.send(to, &edit, key).await;
                }
            }
            Step::Retry(to, seed) => {
                let now = self.clock.now_millis();
                let known = self.of(to).clone();
                let young: Vec<&Keyed> = known.keyed.iter().filter(|keyed| now - keyed.sent_ms < KEY_MS).collect();
                if !young.is_empty() && known.is_surely_there() {
                    let Keyed { key, edit, .. } = young[*seed as usize % young.len()].clone();
                    self.event += 1;
                    self.send(to, &edit, Some(key)).await;
                }
            }
            Step::Again(to) => self.again(to, draw, false).await,
            Step::AgainAfterCut(to) => {
                drop(engine);
                self.again(to, draw, true).await;
            }
            Step::AtOnce(to, count) => self.at_once(to, *count).await,
            Step::ManyKeys(to) => self.many_keys(to).await,
            Step::Flush(at) => {
                self.flush(at).await;
            }
            Step::Compact(at) => {
                let done = engine.compact(&name(at)).await;
                let became = self.became(&done);
                self.expect(at, became);
            }
            Step::Branch(from, to) => self.branch(from, to, None).await,
            Step::BranchTag(from, to, tag) => {
                if self.of(from).tags.contains_key(tag) {
                    self.branch(from, to, Some(tag)).await;
                }
            }
            Step::Copy(from, to) => {
                let done = engine.copy(&name(from), &name(to)).await.map(drop);
                let can = self.of(from).can.clone();
                let became = self.became(&done);
                self.follow_birth(to, Some(from), can, became);
            }
            Step::Merge(from, to) => self.merge(from, to).await,
            Step::Drop(at) => self.delete(at).await,
            Step::Undelete(at) => self.undelete(at).await,
            Step::Tag(at, tag) => {
                let done = engine.tag(&name(at), tag, None).await.map(drop);
                let became = self.became(&done);
                let (ill, what) = (self.is_ill || self.is_spoiled, self.what.clone());
                let name = self.of(at);
                match became {
                    Became::Done => {
                        assert!(name.may_be_there() && !name.tags.contains_key(tag), "{what}: tagged");
                        name.can.retain(Option::is_some);
                        let can = name.can.clone();
                        name.tags.insert(tag, can);
                        name.tags_maybe.insert(tag);
                    }
                    Became::Refused => {
                        let may = !name.is_surely_there() || name.tags_maybe.contains(tag) || ill;
                        assert!(may, "{what}: not tagged");
                    }
                    Became::Open => {
                        name.tags_maybe.insert(tag);
                    }
                }
            }
            Step::Untag(at, tag) => {
                let done = engine.untag(&name(at), tag).await;
                let became = self.became(&done);
                let (ill, what) = (self.is_ill || self.is_spoiled, self.what.clone());
                let name = self.of(at);
                match became {
                    Became::Done => {
                        assert!(name.tags_maybe.contains(tag), "{what}: untagged");
                        name.tags.remove(tag);
                    }
                    Became::Refused => assert!(ill || !name.tags.contains_key(tag), "{what}: not untagged"),
                    Became::Open => {
                        name.tags.remove(tag);
                    }
                }
            }
            Step::Label(at, label) => {
                let labels: BTreeMap<String, String> = [("l".to_owned(), label.to_string())].into();
                let done = engine.set_labels(&name(at), labels.clone()).await;
                let became = self.became(&done);
                self.expect(at, became);
                if became == Became::Done && !self.is_ill && !self.is_spoiled {
                    let status = engine.status(&name(at)).unwrap_or_else(|error| panic!("{}: {error}", self.what));
                    assert_eq!(status["labels"]["l"], label.to_string(), "{}", self.what);
                }
            }
            Step::Ids(at) => {
                let done = engine.allocate_ids(&name(at), 3).await;
                let became = self.became(&done);
                self.expect(at, became);
                for id in done.unwrap_or_default() {
                    assert!(self.ids.insert(id.clone()), "{}: {id} was handed out before", self.what);
                }
            }
            Step::Snapshot(of, is_flat) => self.snapshot(of, *is_flat).await,
            Step::Restore(to) => {
                let Some((bytes, can)) = self.snapshots.last().cloned() else { return };
                let done = restore(&engine, &name(to), None, Cursor::new(bytes)).await.map(drop);
                let became = self.became(&done);
                // A life of its own.
                self.event += 1;
                let tree = self.event;
                let begun = |state: &Arc<State>| Arc::new(state.in_tree(tree));
                let can = can.iter().map(|state| state.as_ref().map(begun)).collect();
                self.follow_birth(to, None, can, became);
            }
            Step::Sync => self.sync_all().await,
            Step::WaitBucket(at) => {
                self.wait_bucket(at, draw).await;
            }
            Step::ReadBucket => self.read_bucket(draw).await,
            Step::Reclaim => {
                let Some(link) = self.link.clone() else { return };
                let ask = Reclaim { retention_ms: HOUR_MS, ..Reclaim::default() };
                let run = link.reclaim(&Selection::default(), &ask).await;
                if let Some(error) = run.failed {
                    self.sync_failed(&error);
                }
            }
            Step::Hours(hours) => {
                self.clock.advance(hours * HOUR_MS);
                self.tend().await;
            }
            Step::Tend => self.tend().await,
            Step::Rebuild => {
                let done = tokio::task::block_in_place(|| engine.rebuild_index());
                self.became(&done);
            }
            Step::Recount => {
                let done = tokio::task::block_in_place(|| engine.repair());
                self.became(&done);
            }
            Step::Look => {
                for at in NAMES {
                    let found = engine.view(&name(at)).and_then(|view| documents(&view));
                    let became = self.became(&found);
                    if became != Became::Open {
                        let what = self.what.clone();
                        assert!(
                            allows(&self.of(at).can, found.as_ref().ok()),
                            "{what}: {at} is {found:?}, expected one of {:?}",
                            self.of(at).can
                        );
                    }
                }
            }
            Step::Restart => {
                drop(engine);
                self.restart().await;
            }
            Step::Cut => {
                drop(engine);
                // What was planned is for the recovery.
                let planned = self.node.disk.planned();
                self.cut();
                self.node.disk.set_mishap(planned);
                self.start(false).await;
            }
        }
    }

    pub async fn restart(&mut self) {
        self.link = None;
        if let Some(engine) = self.engine.take() {
            let done = engine.shutdown().await;
            self.became(&done);
        }
        self.restarted();
        self.start(false).await;
    }

    pub async fn tend(&mut self) {
        let engine = self.engine();
        if !engine.is_index_trusted() {
            let done = tokio::task::block_in_place(|| engine.rebuild_index());
            self.became(&done);
        }
        let done = engine.tend().await;
        self.became(&done);
    }

    /// A namespace begins with one of these states, if it does.
    fn follow_birth(&mut self, to: &'static str, from: Option<&'static str>, can: Can, became: Became) {
        let born: Can = can.iter().flatten().map(|state| Some(Arc::new(state.begun()))).collect();
        let ill = self.is_ill || self.is_spoiled;
        let before = self.of(to).clone();
        if before.is_surely_there() {
            assert!(became != Became::Done, "{}: in the place of what was there", self.what);
            return;
        }
        if became == Became::Refused {
            let may = ill || before.may_be_there() || born.len() < can.len();
            assert!(may, "{}: refused", self.what);
            return;
        }
        self.classes += 1;
        let mut class = self.classes;
        if let Some(from) = from
            && became == Became::Done
            && class.is_multiple_of(2)
        {
            // The branch goes on with the documents that it began with, and its source with new ones.
            class = std::mem::replace(&mut self.of(from).class, class);
        }
        assert!(became == Became::Open || !born.is_empty(), "{}: of what is not there", self.what);
        let name = self.of(to);
        name.begin_life(class);
        match became {
            Became::Done => {
                name.set(born);
                name.is_open = false;
            }
            _ => name.may_be(born),
        }
    }

    async fn branch(&mut self, from: &'static str, to: &'static str, tag: Option<&'static str>) {
        let engine = self.engine();
        let as_of = tag.map(|tag| AsOf::Tag(tag.to_owned()));
        let done = engine.branch(&name(from), &name(to), BranchRequest { as_of, ..BranchRequest::default() }).await;
        let became = self.became(&done);
        let can = match tag {
            Some(tag) => self.of(from).tags[tag].clone(),
            None => self.of(from).can.clone(),
        };
        self.follow_birth(to, if tag.is_some() { None } else { Some(from) }, can, became);
    }

    async fn merge(&mut self, from: &'static str, to: &'static str) {
        let (source, target) = (self.of(from).can.clone(), self.of(to).can.clone());
        let trees: BTreeSet<Option<u64>> =
            source.iter().chain(&target).map(|state| state.as_ref().map(|state| state.tree)).collect();
        if trees.len() != 1 || trees.contains(&None) {
            return;
        }
        let request = MergeRequest { policy: merge::decide::Policy::Lww, ..MergeRequest::default() };
        let mut done = self.engine().merge(&name(from), &name(to), request.clone()).await;
        if self.waits_for_index(&done) {
            done = self.engine().merge(&name(from), &name(to), request).await;
        }
        let became = self.became(&done);
        let pairs = source.iter().flatten().flat_map(|s| target.iter().flatten().map(move |t| (s, t)));
        let merged: Can = pairs.map(|(s, t)| Some(Arc::new(t.merged(s)))).collect();
        match became {
            Became::Done => {
                assert!(!done.unwrap().refused, "{}: refused", self.what);
                self.of(to).set(merged);
            }
            Became::Refused => assert!(self.is_ill || self.is_spoiled, "{}: refused", self.what),
            Became::Open => self.of(to).may_be(merged),
        }
    }

    async fn delete(&mut self, at: &'static str) {
        let done = self.engine().delete(&name(at)).await;
        let became = self.became(&done);
        let is_full = self.is_full;
        let now = self.clock.now_millis();
        let name = self.of(at);
        let there: Can = name.can.iter().filter(|state| state.is_some()).cloned().collect();
        match became {
            Became::Done => {
                assert!(!there.is_empty(), "deleted what is not there");
                name.deleted.push((now, there, true));
                name.set(vec![None]);
                name.begin_life(0);
                name.is_open = false;
                if is_full {
                    // What is deleted then is deleted for its room, with what was deleted before.
                    self.names.values_mut().flat_map(|name| &mut name.deleted).for_each(|(since, ..)| *since = 0);
                }
            }
            Became::Refused => {
                let is_there = name.is_surely_there();
                assert!(!is_there || self.is_ill || self.is_spoiled, "{}: not deleted", self.what);
            }
            Became::Open => {
                name.deleted.push((now, there, false));
                name.may_be(vec![None]);
                name.tags.clear();
                name.keyed.clear();
                name.pledges.clear();
            }
        }
    }

    async fn undelete(&mut self, at: &'static str) {
        let mut done = self.engine().undelete(&name(at), None).await;
        if self.waits_for_index(&done) {
            done = self.engine().undelete(&name(at), None).await;
        }
        let became = self.became(&done);
        let now = self.clock.now_millis();
        let ill = self.is_ill || self.is_spoiled;
        let known = self.of(at).clone();
        // The newest that was deleted for sure, or one of those that may have been since.
        let from = known.deleted.iter().rposition(|(.., is_sure)| *is_sure).unwrap_or(0);
        let can: Can =
            known.deleted[from.min(known.deleted.len())..].iter().flat_map(|(_, can, _)| can.clone()).collect();
        match became {
            Became::Done => {
                assert!(!can.is_empty() && !known.is_surely_there(), "{}: brought back", self.what);
                self.classes += 1;
                let class = self.classes;
                let name = self.of(at);
                name.begin_life(class);
                name.set(can);
                name.is_open = false;
                if name.deleted.last().is_some_and(|(.., is_sure)| *is_sure) {
                    name.deleted.pop();
                }
            }
            Became::Refused => {
                let is_kept =
                    known.deleted.last().is_some_and(|(since, _, is_sure)| *is_sure && now - since < RETENTION_MS);
                assert!(ill || known.may_be_there() || !is_kept, "{}: not brought back", self.what);
            }
            Became::Open => {
                self.classes += 1;
                let class = self.classes;
                let name = self.of(at);
                name.begin_life(class);
                name.may_be(can);
            }
        }
    }

    async fn snapshot(&mut self, of: &'static str, is_flat: bool) {
        let extent = if is_flat { Extent::Flattened } else { Extent::Full };
        let engine = self.engine();
        let mut bytes = Vec::new();
        let done = async {
            let snapshot = take(&engine, &name(of), &extent).await?;
            tokio::task::block_in_place(|| snapshot.write(&mut bytes))
        };
        let done = done.await;
        let became = self.became(&done);
        self.expect(of, became);
        if became != Became::Done {
            return;
        }
        let found = in_snapshot(self.seed, &self.clock, &bytes).await;
        let found = found.unwrap_or_else(|error| panic!("{}: restore: {error}", self.what));
        let can = self.of(of).can.clone();
        assert!(allows(&can, Some(&found)), "{}: the snapshot has {found:?}, expected one of {can:?}", self.what);
        self.of(of).narrow(Some(&found));
        let can = self.of(of).can.clone();
        self.snapshots.push((bytes, can));
    }

    fn sync_failed(&self, error: &Error) {
        self.say(|| format!("sync: {error:?}"));
        // A machine that is busy may take longer than the patience of these tests.
        let is_slow = error.code() == "bucket_unreachable";
        // Where the index was lost nobody knows what the clock showed before.
        let is_doubted = error.code() == "clock_doubted" && self.engine().believed_time(None).is_none();
        assert!(self.is_ill || self.is_spoiled || is_slow || is_doubted, "{}: sync: {error:?}", self.what);
    }

    async fn sync_all(&mut self) {
        let Some(link) = self.link.clone() else { return };
        match link.run().await {
            Ok(_) => {
                for name in self.names.values_mut() {
                    name.in_bucket = Some(name.can.clone());
                }
                self.check_bucket().await;
            }
            Err(error) => self.sync_failed(&error),
        }
    }

    /// A write, mostly, and a pass that somebody waits for.
    async fn wait_bucket(&mut self, at: &'static str, draw: &Draw<'_>) -> bool {
        if draw.pick(3) > 0 {
            let draft = Draft::Put { seed: draw.pick(1_000_000), empties: 0 };
            let edit = self.edit(at, draft);
            let key = (draw.pick(2) == 0).then(|| self.new_key(at, &edit));
            if self.send(at, &edit, key).await != Became::Done {
                return false;
            }
        }
        let Some(link) = self.link.clone() else { return false };
        match link.run_for(&Selection::default().only([name(at)].into())).await.of(&name(at)) {
            Ok(_) => {
                let can = self.of(at).can.clone();
                self.of(at).in_bucket = Some(can);
                self.check_bucket().await;
                true
            }
            Err(error) if error.kind() == Kind::NotFound => {
                assert!(!self.of(at).is_surely_there() || self.is_ill, "{}: {error:?}", self.what);
                false
            }
            Err(error) => {
                self.sync_failed(&error);
                false
            }
        }
    }

    /// What was promised to be in the bucket is found there by a node that never was there before.
    async fn check_bucket(&mut self) {
        if self.names.values().all(|name| name.in_bucket.is_none()) {
            return;
        }
        let found = in_bucket(self.seed, &self.clock, &self.place).await;
        let found = found.unwrap_or_else(|error| panic!("{}: a fresh node: {error}", self.what));
        for (at, name) in &self.names {
            if let Some(can) = &name.in_bucket {
                let found = found.get(*at);
                assert!(
                    allows(can, found),
                    "{}: the bucket has {found:?} of {at}, expected one of {can:?}",
                    self.what
                );
            }
        }
        let strange: Vec<&String> =
            found.keys().filter(|at| !NAMES.contains(&at.as_str()) && *at != THEIRS).collect();
        assert!(strange.is_empty(), "{}: the bucket has {strange:?}", self.what);
    }

    /// Another node writes, and this one reads what the bucket has.
    async fn read_bucket(&mut self, draw: &Draw<'_>) {
        let Some(link) = self.link.clone() else { return };
        if self.other.is_none() {
            let node = Node::new(self.seed ^ 0x07e2, self.clock.clone());
            let engine = node.open().unwrap();
            self.other = Some((node, engine));
        }
        let Some((node, engine)) = &self.other else { return };
        self.event += 1;
        let what = What::Put { ids: vec![1 + draw.pick(6)], empties: 0 };
        write(engine, THEIRS, &Edit { value: self.event as i64, what }, None).await.unwrap();
        let mut tries = 0;
        while let Err(error) = node.link(engine, &self.place, true).run().await {
            tries += 1;
            assert!(tries < 20, "{}: the other node: {error}", self.what);
        }
        let theirs = documents(&engine.view(&name(THEIRS)).unwrap()).unwrap();
        self.theirs.0.push(theirs);
        match link.run_for(&Selection::default().only([name(THEIRS)].into())).await.of(&name(THEIRS)) {
            Ok(_) => self.theirs.1 = Some(self.theirs.0.len() - 1),
            Err(error) => self.sync_failed(&error),
        }
    }

    /// What is here is what may be.
    pub async fn look(&mut self) {
        let engine = self.engine();
        let (named, more) = engine.list(&Project::default_project(), "", None, 100).unwrap();
        assert!(more.is_none());
        let known = |at: &String| NAMES.contains(&at.as_str()) || *at == THEIRS;
        let strange: Vec<&String> = named.iter().filter(|at| !known(at)).collect();
        assert!(strange.is_empty(), "{}: there is {strange:?}", self.what);
        for at in NAMES {
            let found = match named.iter().any(|named| named == at) {
                false => None,
                true => match engine.view(&name(at)).and_then(|view| documents(&view)) {
                    Ok(found) => Some(found),
                    Err(error) => {
                        let may = self.is_spoiled || self.victim == Some(at);
                        assert!(may, "{}: {at} cannot be read: {error:?}", self.what);
                        self.say(|| format!("{at}: {error:?}"));
                        continue;
                    }
                },
            };
            let what = self.what.clone();
            let known = self.of(at);
            let can = &known.can;
            assert!(allows(can, found.as_ref()), "{what}: {at} is {found:?}, expected one of {can:?}");
            known.narrow(found.as_ref());
            if !self.is_spoiled && self.victim != Some(at) {
                self.look_back(at);
            }
        }
        if self.theirs.1.is_some() || named.iter().any(|at| at == THEIRS) {
            let from = self.theirs.1.unwrap_or(0);
            match engine.view(&name(THEIRS)).and_then(|view| documents(&view)) {
                Ok(found) => {
                    let may = &self.theirs.0[from..];
                    assert!(may.contains(&found), "{}: {THEIRS} is {found:?}, expected one of {may:?}", self.what);
                }
                Err(error) => assert!(self.is_spoiled, "{}: {THEIRS}: {error:?}", self.what),
            }
        }
    }

    /// Tags and states that were promised are as they were.
    fn look_back(&mut self, at: &'static str) {
        let engine = self.engine();
        let now = self.clock.now_millis();
        let known = self.of(at).clone();
        if !known.is_surely_there() {
            return;
        }
        let tags = engine.tags(&name(at)).unwrap_or_else(|error| panic!("{}: tags: {error}", self.what));
        let found: BTreeSet<&str> = tags.iter().map(|tag| tag.name.as_str()).collect();
        let sure: BTreeSet<&str> = known.tags.keys().copied().collect();
        let maybe: BTreeSet<&str> = known.tags_maybe.iter().copied().collect();
        assert!(sure.is_subset(&found) && found.is_subset(&maybe), "{}: {at} has tags {found:?}", self.what);
        let read = |as_of: AsOf| {
            let view = engine.view_at(&name(at), Some(&as_of));
            view.and_then(|view| documents(&view))
        };
        for (tag, can) in &known.tags {
            match read(AsOf::Tag((*tag).to_owned())) {
                Ok(found) => {
                    assert!(allows(can, Some(&found)), "{}: tag {tag} of {at}: {found:?}, {can:?}", self.what)
                }
                Err(error) => panic!("{}: tag {tag} of {at}: {error:?}", self.what),
            }
        }
        for pledge in known.pledges.iter().rev().take(3) {
            match read(AsOf::Generation(pledge.generation)) {
                Ok(found) => assert!(
                    allows(&pledge.can, Some(&found)),
                    "{}: {at} as of {}: {found:?}, expected one of {:?}",
                    self.what,
                    pledge.generation,
                    pledge.can
                ),
                Err(error) => {
                    let is_over = error.kind() == Kind::NotFound && now - pledge.since_ms >= RETENTION_MS;
                    assert!(is_over, "{}: {at} as of {}: {error:?}", self.what, pledge.generation);
                }
            }
        }
    }

    /// Nothing goes wrong any more: everything works, and what nobody names is gone.
    pub async fn end(&mut self, draw: &Draw<'_>) {
        if self.is_spoiled {
            // What was read wrong is in memory only.
            self.restart().await;
            self.look().await;
        }
        let what = self.what.clone();
        let engine = self.engine();
        // As the daemon does it: where upkeep itself meets what a fault left, the index is made anew once more.
        for _ in 0..HEALING_PASSES {
            sure(&what, "rebuild", tokio::task::block_in_place(|| engine.rebuild_index()));
            sure(&what, "tend", engine.tend().await);
        }
        assert!(engine.is_index_trusted(), "{what}: the index is not trusted");
        let status = engine.node_status();
        assert_eq!(status["namespaces"]["quarantined"], serde_json::json!([]), "{what}");
        for at in NAMES {
            let edit = self.edit(at, Draft::Put { seed: draw.pick(1_000_000), empties: 0 });
            let key = self.new_key(at, &edit);
            assert_eq!(self.send(at, &edit, Some(key)).await, Became::Done, "{what}");
            assert_eq!(self.flush(at).await, Became::Done, "{what}");
            self.event += 1;
            assert_eq!(self.send(at, &edit, Some(key)).await, Became::Done, "{what}");
            sure(&what, "compact", engine.compact(&name(at)).await);
            self.snapshot(at, false).await;
        }
        self.look().await;
        if self.has_bucket {
            let mut tries = 0;
            while self.names.values().any(|name| name.in_bucket.is_none()) || tries == 0 {
                self.sync_all().await;
                tries += 1;
                assert!(tries < 20, "{what}: the bucket is not reached");
            }
        }
        let report = sure(&what, "check", tokio::task::block_in_place(|| engine.check(3)));
        assert!(report.is_whole(), "{what}: {:?}", report.problems);
        drop(engine);
        if draw.pick(2) == 0 {
            self.cut();
            self.start(true).await;
        } else {
            self.restart().await;
        }
        self.look().await;
        if self.has_bucket {
            self.check_bucket().await;
        }
        self.clear().await;
    }

    /// Everything is deleted and its time is up: nothing is left.
    async fn clear(&mut self) {
        let what = self.what.clone();
        let engine = self.engine();
        self.clock.advance(2 * RETENTION_MS);
        sure(&what, "tend", engine.tend().await);
        sure(&what, "rebuild", tokio::task::block_in_place(|| engine.rebuild_index()));
        let before = left(&self.node.disk, "/data/store");
        let removed = sure(&what, "repair", tokio::task::block_in_place(|| engine.repair()));
        let after = left(&self.node.disk, "/data/store");
        let over: Vec<&String> = before.iter().filter(|file| !after.contains(file)).collect();
        assert_eq!(removed, (0, 0), "{what}: {over:?} were left over");
        self.look().await;
        let named = engine.list(&Project::default_project(), "", None, 100).unwrap().0;
        for at in named {
            sure(&what, "delete", engine.delete(&name(&at)).await);
        }
        self.clock.advance(2 * RETENTION_MS);
        sure(&what, "tend", engine.tend().await);
        let left = left(&self.node.disk, "/data/store");
        assert!(left == ["/data/store/_format.json"], "{what}: {left:?}");
    }
}

/// What has to go well.
fn sure<T>(what: &str, step: &str, done: Result<T>) -> T {
    done.unwrap_or_else(|error| panic!("{what}: {step}: {error:?}"))
}

/// Every file below a directory.
pub fn left(disk: &MemoryDisk, dir: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in disk.list(std::path::Path::new(dir)).unwrap() {
        let path = format!("{dir}/{}", entry.name);
        if entry.is_dir { found.extend(left(disk, &path)) } else { found.push(path) }
    }
    found
}
