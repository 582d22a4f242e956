//! Random histories of nodes that write, tag, branch, merge and delete apart, lose requests and answers, lose power, stay away for
//! weeks, are lost whole, and meet: held at every step to what each state has seen, and in the end to everything that was
//! acknowledged.
//!
//! `SHOAL_SYNC_SEEDS=n` runs n histories, `SHOAL_SYNC_FROM=s` from seed s on; a failure says its seed, and `SHOAL_SYNC_SEED=s` runs
//! that one alone and prints its steps.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use object_store::ObjectStore;
use object_store::memory::InMemory;
use serde_json::{Value as Json, json};
use shoal::engine::merge::MergeRequest;
use shoal::engine::merge::decide::Policy;
use shoal::engine::{Engine, EngineConfig};
use shoal::error::{Error, Kind};
use shoal::format::manifest::decode_manifest;
use shoal::model::as_of::AsOf;
use shoal::model::ids::{NamespaceName, Nsid, Origin, Version};
use shoal::platform::clock::{Clock, ManualClock};
use shoal::platform::memory_disk::Fault;
use shoal::platform::random::{Random, SeededRandom};
use shoal::store::{Backend, Bucket, Patience};
use shoal::sync::{Pass, Selection, Sync, SyncOptions};

use crate::node::{DAY_MS, Node, branch, name, write};
use crate::oracle::{Model, Seen, look};
use crate::tag_oracle::{self, Rule, Tags};
use crate::wire::{Late, Wire};

const NODES: usize = 3;
const IDS: u64 = 8;
const STEPS: usize = 48;
const HOUR_MS: u64 = 3_600_000;
const START_MS: u64 = 1_700_000_000_000;
/// How often everybody syncs before everybody has everything.
const ROUNDS_MAX: usize = 8;
/// Histories that run at the same time.
const WORKERS: usize = 2;
/// A long run says how far it is, and goes on after a failure until there are so many.
const SAID_EVERY: u64 = 1_000;
const FAILED_MAX: usize = 10;
/// Faults are told at once, so there is nothing to wait for.
const PATIENCE: Patience = Patience {
    whole: Duration::from_secs(60),
    attempt: Duration::from_secs(60),
    wait_first: Duration::from_micros(10),
    wait_max: Duration::from_micros(100),
};
/// What two nodes may do that somebody has to decide about.
const FOR_A_PERSON: [&str; 3] = ["name_taken", "deleted_and_written", "cloned"];

struct Member {
    node: Node,
    engine: Arc<Engine>,
    wire: Arc<Wire>,
    sync: Arc<Sync>,
    /// The changes of tags that it has seen.
    knows: BTreeSet<usize>,
}

/// What everybody shares.
#[derive(Clone, Default)]
struct Net {
    store: Arc<InMemory>,
    late: Arc<Mutex<Vec<Late>>>,
}

/// What became of a pass; `None`: the node was cut off.
type Passed = Option<Pass>;

struct Fleet {
    seed: u64,
    random: SeededRandom,
    net: Net,
    /// Sees the store as it is.
    bucket: Bucket,
    members: Vec<Member>,
    model: Model,
    tags: Tags,
    /// One request in so many fails; none when 0.
    one_in: u64,
    /// How many engines were opened, so that each draws its own numbers.
    lives: u64,
    is_told: bool,
    what: String,
}

fn over(store: Arc<dyn ObjectStore>, seed: u64) -> Bucket {
    let (clock, random) = (Arc::new(ManualClock::at(START_MS)), Arc::new(SeededRandom::new(seed)));
    Bucket::over(Backend::direct(store, None, "memory"), clock, random)
}

fn mixed(of: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}

impl Member {
    fn open(node: Node, net: &Net, seed: u64) -> Member {
        let (engine, wire) = (node.open(), Wire::new(net.store.clone(), net.late.clone(), seed));
        let options = SyncOptions { policy: Policy::Lww, patience: PATIENCE };
        let sync = Arc::new(Sync::new(engine.clone(), over(wire.clone(), seed), options, node.clock.clone()));
        Member { node, engine, wire, sync, knows: BTreeSet::new() }
    }

    /// One pass, for whoever waits for it.
    fn pass(&self, selection: Selection) -> impl Future<Output = Passed> + Send + use<> {
        let (sync, wire) = (self.sync.clone(), self.wire.clone());
        async move {
            tokio::select! {
                biased;
                pass = sync.run_for(&selection) => Some(pass),
                () = wire.cut() => None,
            }
        }
    }

    /// The origin that it writes each incarnation by.
    fn origins(&self) -> BTreeMap<Nsid, Origin> {
        let named = self.engine.named().into_iter();
        named.filter_map(|(name, nsid)| Some((nsid, self.engine.origin(&name).ok()?))).collect()
    }

    fn names(&self) -> Vec<NamespaceName> {
        self.engine.named().into_iter().map(|(name, _)| name).collect()
    }
}

impl Fleet {
    async fn new(seed: u64, is_told: bool) -> Fleet {
        let (net, random) = (Net::default(), SeededRandom::new(seed));
        let mut fleet = Fleet {
            seed,
            bucket: over(net.store.clone(), seed),
            net,
            members: Vec::new(),
            model: Model::default(),
            tags: Tags::default(),
            one_in: 3 + random.next_u64() % 30,
            random,
            lives: 0,
            is_told,
            what: format!("seed {seed}"),
        };
        for _ in 0..NODES {
            let at_ms = START_MS + fleet.pick(3) * HOUR_MS;
            let node = fleet.node(at_ms);
            let member = fleet.open(node);
            fleet.members.push(member);
        }
        for namespace in ["docs", "logs"] {
            fleet.put(0, &name(namespace), &[0, 1, 2]).await;
        }
        for at in 0..NODES {
            fleet.sync(at, Selection::default()).await;
        }
        fleet.set_faults(fleet.one_in);
        fleet
    }

    fn pick(&self, n: u64) -> u64 {
        self.random.next_u64() % n
    }

    fn life(&mut self) -> u64 {
        self.lives += 1;
        mixed((self.seed, self.lives))
    }

    /// A machine that was never there before. Nothing happens by itself on it, so that a history can be repeated.
    fn node(&mut self, at_ms: u64) -> Node {
        let mut node = Node { clock: Arc::new(ManualClock::at(at_ms)), ..Node::new(self.life()) };
        let (compaction_fan_in, compaction_dead_percent) = (usize::MAX, 101);
        node.config = EngineConfig { compaction_fan_in, compaction_dead_percent, ..node.config };
        node
    }

    fn open(&mut self, node: Node) -> Member {
        let seed = self.life();
        Member::open(node, &self.net, seed)
    }

    fn set_faults(&mut self, one_in: u64) {
        self.one_in = one_in;
        self.members.iter().for_each(|member| member.wire.fail(one_in));
    }

    fn begin(&mut self, step: usize, what: String) {
        self.what = format!("seed {}, step {step}: {what}", self.seed);
        if self.is_told {
            println!("{}", self.what);
        }
    }

    /// Looks at a namespace, and holds it to what it has seen.
    async fn look(&mut self, at: usize, name: &NamespaceName) -> Seen {
        let seen = look(&self.members[at].engine, name).await;
        let what = format!("{}: {} on node {at}", self.what, name.name);
        self.model.check(&what, &seen);
        let Member { engine, knows, .. } = &mut self.members[at];
        self.tags.look(&what, engine, name, knows);
        seen
    }

    async fn look_at_all(&mut self, at: usize) -> BTreeMap<NamespaceName, Seen> {
        let mut found = BTreeMap::new();
        for name in self.members[at].names() {
            let seen = self.look(at, &name).await;
            found.insert(name, seen);
        }
        found
    }

    async fn write(&mut self, at: usize, to: &NamespaceName, body: Json) {
        let engine = self.members[at].engine.clone();
        let is_there = self.members[at].names().contains(to);
        let before = if is_there { Some(look(&engine, to).await) } else { None };
        write(&engine, &to.name, body).await;
        let now = look(&engine, to).await;
        let origin = engine.origin(to).unwrap();
        self.model.wrote(before.as_ref(), &now, Version { hlc: now.vector.seen(origin), origin });
        self.look(at, to).await;
    }

    async fn put(&mut self, at: usize, to: &NamespaceName, ids: &[u64]) {
        let n = self.model.fresh();
        let rows: BTreeMap<u64, Json> =
            ids.iter().map(|id| (*id, json!({"id": id, "n": n, "text": "fish"}))).collect();
        self.write(at, to, json!({"upsert_rows": rows.into_values().collect::<Vec<_>>()})).await;
    }

    /// One pass; then whoever lost power is started again, and what everybody has is looked at.
    async fn sync(&mut self, at: usize, selection: Selection) -> Passed {
        let before = self.members[at].origins();
        let passed = self.members[at].pass(selection).await;
        for (nsid, origin) in self.members[at].origins() {
            if let Some(before) = before.get(&nsid).filter(|before| **before != origin) {
                self.model.parted(*before, origin);
            }
        }
        self.members[at].wire.forget_plans();
        if let (true, Some(Pass { failed: Some(error), .. })) = (self.is_told, &passed) {
            println!("    node {at}: {error}");
        }
        for at in 0..self.members.len() {
            if self.members[at].wire.was_cut() {
                self.cut_power(at, 0);
            }
            self.look_at_all(at).await;
        }
        for (name, error) in passed.iter().flat_map(|pass| &pass.namespaces) {
            if let Err(error) = error {
                assert!(self.is_expected(error), "{}: {name}: {error}", self.what);
            }
        }
        passed
    }

    fn is_expected(&self, error: &Error) -> bool {
        let is_fault = matches!(error.kind(), Kind::Unavailable | Kind::Corrupt) && self.one_in > 0;
        // Another node was quicker.
        let is_race = error.message().contains("another node bound") || error.kind() == Kind::Busy;
        is_fault || is_race || FOR_A_PERSON.contains(&error.code())
    }

    /// Ends a node by a power cut, and starts it with a clock that may be behind.
    fn cut_power(&mut self, at: usize, back_ms: u64) {
        let (lives, seed) = (self.life(), self.life());
        let mut old = self.members.remove(at);
        old.node.random = Arc::new(SeededRandom::new(lives));
        if back_ms > 0 {
            old.node.clock = Arc::new(ManualClock::at(old.node.clock.now_millis() - back_ms));
        }
        drop((old.sync, old.engine));
        old.node.disk.power_cut(&*old.node.random);
        let member = Member { knows: old.knows, ..Member::open(old.node, &self.net, seed) };
        member.wire.fail(self.one_in);
        self.members.insert(at, member);
    }

    /// What a pass that went well has seen outlives the node.
    async fn lose(&mut self, at: usize) {
        let is_ok = self.sync(at, Selection::default()).await.is_some_and(|pass| pass.failed.is_none());
        if !is_ok {
            return;
        }
        let had = self.look_at_all(at).await;
        let node = self.node(self.members[at].node.clock.now_millis());
        self.members[at] = self.open(node);
        assert!(self.sync(at, Selection::default()).await.unwrap().failed.is_none(), "{}", self.what);
        self.members[at].wire.fail(self.one_in);
        let found = self.look_at_all(at).await;
        for (name, had) in had {
            let is_whole = found.get(&name).is_some_and(|found| found.vector.covers_all(&had.vector));
            assert!(is_whole, "{}: {name} was in the bucket, and did not outlive the node", self.what);
        }
    }

    async fn delete(&mut self, at: usize, name: &NamespaceName) {
        let seen = self.look(at, name).await;
        self.model.deleted(seen);
        self.members[at].engine.delete(name).await.unwrap();
    }

    /// Has a tag name a state, or deletes it; see [`Tags::change`].
    async fn tag(&mut self, at: usize, of: &NamespaceName, tag: &str, as_of: Option<Option<AsOf>>) {
        let Member { engine, knows, .. } = &mut self.members[at];
        self.tags.change((engine, of, tag), as_of, knows).await;
        self.look(at, of).await;
    }

    /// Does what the errors say that only a person can decide.
    async fn decide(&mut self, at: usize, passed: &Passed) {
        for (name, done) in passed.iter().flat_map(|pass| &pass.namespaces) {
            // What is kept of a name is told of the name, too, which may be gone here by then.
            let is_here = self.members[at].engine.nsid_of(name).is_some();
            if is_here && done.as_ref().is_err_and(|error| FOR_A_PERSON.contains(&error.code())) {
                let kept = crate::node::name(&format!("kept{}", self.life()));
                self.members[at].engine.copy(name, &kept).await.unwrap();
                self.delete(at, name).await;
            }
        }
    }

    async fn step(&mut self, step: usize) {
        let at = self.pick(NODES as u64) as usize;
        self.members[at].node.clock.advance(self.pick(5_000));
        let names = self.members[at].names();
        let own = [format!("b{at}0"), format!("b{at}1")].map(|text| name(&text));
        let one = |fleet: &Fleet| names.get(fleet.pick(names.len().max(1) as u64) as usize).cloned();
        let Some(of) = one(self) else {
            self.begin(step, format!("node {at} is empty and syncs"));
            self.sync(at, Selection::default()).await;
            return;
        };
        let id = self.pick(IDS);
        let is_there = look(&self.members[at].engine, &of).await.documents.contains_key(&id);
        let n = self.model.fresh();
        let engine = self.members[at].engine.clone();
        match self.pick(110) {
            0..26 => {
                let ids: Vec<u64> = (0..1 + self.pick(3)).map(|_| self.pick(IDS)).collect();
                self.begin(step, format!("node {at} puts {ids:?} into {of}"));
                self.put(at, &of, &ids).await;
            }
            26..32 if is_there => {
                self.begin(step, format!("node {at} patches {id} of {of}"));
                self.write(at, &of, json!({"patch_rows": [{"id": id, "m": n}]})).await;
            }
            32..38 if is_there => {
                self.begin(step, format!("node {at} deletes {id} of {of}"));
                self.write(at, &of, json!({"deletes": [id]})).await;
            }
            38..41 => {
                self.begin(step, format!("node {at} patches some of {of}"));
                let body = json!({"filters": ["n", "Lt", n / 2], "patch": {"m": n}});
                self.write(at, &of, json!({"patch_by_filter": body})).await;
            }
            41..43 => {
                self.begin(step, format!("node {at} deletes some of {of}"));
                self.write(at, &of, json!({"delete_by_filter": ["n", "Lt", n / 4]})).await;
            }
            43..46 => {
                self.begin(step, format!("node {at} puts {id} into {of} if it is old"));
                let rows = json!([{"id": id, "n": n, "text": "fish"}]);
                self.write(at, &of, json!({"upsert_rows": rows, "upsert_condition": ["n", "Lt", n / 2]})).await;
            }
            46..48 => {
                let attribute = format!("x{}", self.pick(3));
                self.begin(step, format!("node {at} adds {attribute} to {of}"));
                let row = json!({"id": id, "n": n, "text": "fish", attribute: n});
                self.write(at, &of, json!({"upsert_rows": [row]})).await;
            }
            48..52 => {
                self.begin(step, format!("node {at} flushes {of}"));
                engine.checkpoint(&of).await.unwrap();
                self.look(at, &of).await;
            }
            52..56 => {
                self.begin(step, format!("node {at} compacts {of}"));
                engine.compact(&of).await.unwrap();
                self.look(at, &of).await;
            }
            56..60 => {
                let to = &own[self.pick(2) as usize];
                self.begin(step, format!("node {at} branches {of} to {to}"));
                if !names.contains(to) {
                    branch(&engine, &of.name, &to.name).await;
                    self.look(at, to).await;
                }
            }
            60..66 => {
                let (Some(from), is_lww) = (one(self), self.pick(3) > 0) else { return };
                self.begin(step, format!("node {at} merges {from} into {of}, lww: {is_lww}"));
                let policy = if is_lww { Policy::Lww } else { Policy::Fail };
                match engine.merge(&from, &of, MergeRequest { policy, ..MergeRequest::default() }).await {
                    Err(error) => assert!(from == of || error.code() == "unrelated", "{}: {error}", self.what),
                    Ok(_) => drop(self.look(at, &of).await),
                }
            }
            66..69 => {
                self.begin(step, format!("node {at} deletes {of}"));
                self.delete(at, &of).await;
                if self.pick(3) == 0 && (at == 0 || own.contains(&of)) {
                    self.put(at, &of, &[id]).await;
                }
            }
            69..71 => {
                let deleted = engine.deleted(&of.project);
                self.begin(step, format!("node {at} undeletes one of {}", deleted.len()));
                if let Some(deleted) = deleted.get(self.pick(deleted.len().max(1) as u64) as usize) {
                    let text = deleted.name.rsplit('/').next().unwrap();
                    if !names.contains(&name(text)) {
                        engine.undelete(&name(text), Some(deleted.nsid)).await.unwrap();
                        self.look(at, &name(text)).await;
                    }
                }
            }
            71..74 => {
                let back_ms = self.pick(4) / 3 * HOUR_MS;
                self.begin(step, format!("node {at} loses power, its clock goes back by {back_ms} ms"));
                self.cut_power(at, back_ms);
                self.look_at_all(at).await;
            }
            74..77 => {
                let ms = [HOUR_MS, DAY_MS, 10 * DAY_MS, 40 * DAY_MS][self.pick(4) as usize];
                self.begin(step, format!("node {at} is {ms} ms further"));
                self.members[at].node.clock.advance(ms);
                engine.tend().await.unwrap();
                self.look_at_all(at).await;
            }
            77..82 => {
                let (requests, arrives) = (self.pick(25), self.pick(2) == 0);
                self.begin(
                    step,
                    format!("node {at} syncs and loses power after {requests} requests, one more arrives: {arrives}"),
                );
                self.members[at].wire.cut_after(requests, arrives);
                self.sync(at, Selection::default()).await;
            }
            82..84 => {
                let operations = self.pick(200);
                self.begin(step, format!("node {at} syncs and loses power after {operations} disk operations"));
                let from = self.members[at].node.disk.operations();
                let fault = Fault { at: from + operations, forever: true, kind: std::io::ErrorKind::Other };
                self.members[at].node.disk.set_fault(Some(fault));
                drop(self.members[at].pass(Selection::default()).await);
                self.cut_power(at, 0);
                self.look_at_all(at).await;
            }
            84..87 => {
                let (other, writes) = ((at + 1 + self.pick(NODES as u64 - 1) as usize) % NODES, self.pick(6));
                self.begin(step, format!("node {at} syncs, and {other} before its write {writes}"));
                if self.members[other].names().contains(&of) {
                    self.put(other, &of, &[id]).await;
                }
                let pass = self.members[other].pass(Selection::default());
                self.members[at].wire.meanwhile(writes, Box::pin(async move { drop(pass.await) }));
                self.sync(at, Selection::default()).await;
            }
            87..89 => {
                self.begin(step, format!("node {at} syncs and is lost"));
                self.lose(at).await;
            }
            89..92 => {
                self.begin(step, format!("node {at} syncs, and what only a person decides is decided"));
                let passed = self.sync(at, Selection::default()).await;
                self.decide(at, &passed).await;
            }
            100..105 => {
                let tag = tag_oracle::NAMES[self.pick(3) as usize];
                self.begin(step, format!("node {at} tags {of} as {tag}"));
                self.tag(at, &of, tag, Some(None)).await;
            }
            105..107 => {
                let (tag, states) = (tag_oracle::NAMES[self.pick(3) as usize], engine.history(&of).unwrap());
                let generation = states[self.pick(states.len() as u64) as usize].generation;
                self.begin(step, format!("node {at} tags generation {generation} of {of} as {tag}"));
                self.tag(at, &of, tag, Some(Some(AsOf::Generation(generation)))).await;
            }
            107..110 => {
                let tag = tag_oracle::NAMES[self.pick(3) as usize];
                self.begin(step, format!("node {at} deletes tag {tag} of {of}"));
                self.tag(at, &of, tag, None).await;
            }
            number => {
                let is_asked = number % 2 == 0;
                self.begin(step, format!("node {at} syncs, asked: {is_asked}"));
                let selection = if is_asked { Selection::default() } else { Selection::default().unasked() };
                self.sync(at, selection).await;
            }
        }
    }

    async fn keys(&self) -> Vec<String> {
        let listed = self.bucket.list_all("", None, 100_000, &PATIENCE).await.unwrap();
        listed.into_iter().map(|listed| listed.key).collect()
    }

    /// What the bucket has, and what everybody has names for.
    async fn state(&self) -> (Vec<String>, Vec<Vec<(NamespaceName, Nsid)>>) {
        (self.keys().await, self.members.iter().map(|member| member.engine.named()).collect())
    }

    /// Everybody meets without faults; then what everybody has is looked at. Gives what the bucket has in the end.
    async fn meet(&mut self) -> Vec<String> {
        self.set_faults(0);
        self.begin(STEPS, "all meet".to_owned());
        self.members[0].wire.arrive().await;
        let mut is_quiet = false;
        for _ in 0..ROUNDS_MAX {
            let (before, mut is_ok) = (self.state().await, true);
            for at in 0..NODES {
                let passed = self.sync(at, Selection::default()).await;
                is_ok &= passed.as_ref().unwrap().failed.is_none();
                self.decide(at, &passed).await;
            }
            let after = self.state().await;
            if self.is_told {
                after.0.iter().filter(|key| !before.0.contains(key)).for_each(|key| println!("    new: {key}"));
            }
            is_quiet = is_ok && before == after;
            if is_quiet {
                break;
            }
        }
        assert!(is_quiet, "{}: not together after {ROUNDS_MAX} rounds", self.what);
        let node = self.node(START_MS);
        let fresh = self.open(node);
        self.members.push(fresh);
        assert!(self.sync(NODES, Selection::default()).await.unwrap().failed.is_none());
        let found = self.look_at_all(0).await;
        self.model.check_all(&self.what, &found);
        for at in 0..self.members.len() {
            let engine = &self.members[at].engine;
            let report = engine.check(3).unwrap();
            assert!(report.is_whole(), "{}: node {at}: {report:?}", self.what);
            assert_eq!(engine.named(), self.members[0].engine.named(), "{}: node {at}", self.what);
            for (name, seen) in &found {
                let theirs = look(engine, name).await;
                let documents = (crate::node::all(engine, &name.name), theirs.conflicts);
                let expected = (crate::node::all(&self.members[0].engine, &name.name), seen.conflicts.clone());
                assert_eq!(documents, expected, "{}: {name} on node {at}", self.what);
            }
        }
        let engines: Vec<&Engine> = self.members.iter().map(|member| &*member.engine).collect();
        for (name, seen) in &found {
            // Who deletes a namespace deletes its tags, of which others may not have heard.
            let rule = if self.model.was_deleted(seen.nsid) { Rule::Any } else { Rule::Highest };
            self.tags.check_all(&self.what, &engines, name, rule);
        }
        let keys = self.keys().await;
        let there: BTreeSet<&String> = keys.iter().collect();
        for (name, seen) in &found {
            let of_chain = |key: &&String| key.contains(&format!("{}/manifests/", seen.nsid));
            let key = keys.iter().filter(of_chain).max().unwrap();
            let bytes = self.bucket.get(key, &PATIENCE).await.unwrap().unwrap();
            for object in shoal::engine::remote::objects_of(&decode_manifest(&bytes, key).unwrap().0) {
                assert!(there.contains(&object.key), "{}: {} of {name} is missing", self.what, object.key);
            }
        }
        keys
    }
}

/// Runs a history. Gives what the bucket has in the end, by which two courses can be compared.
async fn history(seed: u64, is_told: bool) -> Vec<String> {
    let mut fleet = Fleet::new(seed, is_told).await;
    for step in 0..STEPS {
        fleet.step(step).await;
        // What is repeated alone is looked at more closely, since that changes nothing.
        for (at, member) in fleet.members.iter().enumerate().filter(|_| is_told) {
            let report = member.engine.check(3).unwrap();
            assert!(report.is_whole(), "{}: node {at}: {report:?}", fleet.what);
        }
    }
    fleet.meet().await
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_any_history_everybody_has_everything_and_what_lost_is_kept() {
    if let Some(seed) = number("SHOAL_SYNC_SEED") {
        history(seed, true).await;
        return;
    }
    let from = number("SHOAL_SYNC_FROM").unwrap_or(0);
    let (end, next) = (from + number("SHOAL_SYNC_SEEDS").unwrap_or(200), Arc::new(AtomicU64::new(from)));
    let failed: Arc<Mutex<Vec<u64>>> = Arc::default();
    let workers: Vec<_> = (0..WORKERS)
        .map(|_| {
            let (next, failed) = (next.clone(), failed.clone());
            tokio::spawn(async move {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end || failed.lock().unwrap().len() >= FAILED_MAX {
                        return;
                    }
                    if seed > from && seed.is_multiple_of(SAID_EVERY) {
                        println!("{} histories so far", seed - from);
                    }
                    // A task of its own, so that a failure says which seed it was.
                    if tokio::spawn(history(seed, false)).await.is_err() {
                        failed.lock().unwrap().push(seed);
                    }
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.unwrap();
    }
    let failed = failed.lock().unwrap();
    assert!(failed.is_empty(), "run these alone with SHOAL_SYNC_SEED=SEED: {failed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_history_takes_the_same_course_every_time() {
    for seed in 0..5 {
        assert_eq!(history(seed, false).await, history(seed, false).await, "seed {seed}");
    }
}
