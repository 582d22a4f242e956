//! Random lives of a namespace, and of a branch of it that is written to and merged both ways, whose disks are cloned and put back, that are tagged,
//! branched and reclaimed, while requests and answers are lost and power is cut: against a model that knows which write was made
//! knowing of which. `SHOAL_LIVES=n` runs n, `SHOAL_LIFE=s` one alone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::time::Duration;

use object_store::memory::InMemory;
use serde_json::json;
use shoal::engine::Engine;
use shoal::engine::merge::MergeRequest;
use shoal::engine::merge::decide::Policy;
use shoal::error::Result;
use shoal::format::manifest::decode_manifest;
use shoal::format::names::decode_binding;
use shoal::model::ids::{DocId, Nsid};
use shoal::platform::clock::{Clock, ManualClock};
use shoal::platform::memory_disk::MemoryDisk;
use shoal::platform::random::{Random, SeededRandom};
use shoal::store::{Backend, Bucket, Patience};
use shoal::sync::{Reclaim, Selection, Status, Sync, SyncOptions};
use tokio::sync::Notify;

use crate::faulty_store::{Fault, FaultyStore, Lie};
use crate::fleet::lost;
use crate::node::{Documents, Node, all, branch, name, put, write};
use crate::tag_oracle::{self, Rule, Tags};
use crate::upkeep::{contents, delete_late, reclaim_to_the_end};

const NODES: usize = 3;
/// The namespaces that are written to, the first of which is always there.
const WRITTEN: [&str; 2] = ["docs", "side"];
const IDS: u64 = 12;
const STEPS: usize = 40;
/// The most disks that are cloned in one history, and the share of histories in which any is.
const CLONES: usize = 2;
const CLONED_IN: u64 = 3;
/// The most branches of one history.
const BRANCHES_MAX: usize = 4;
/// What is known of either namespace: writes.
type Knows = [BTreeSet<usize>; WRITTEN.len()];
/// Faults are told at once, so there is nothing to wait for.
const PATIENCE: Patience = Patience {
    whole: Duration::from_secs(5),
    attempt: Duration::from_secs(5),
    wait_first: Duration::from_micros(10),
    wait_max: Duration::from_micros(100),
};
const FAULTS: [Fault; 7] = [
    Fault::Before(Lie::Failed),
    Fault::Before(Lie::Conflict),
    Fault::After(Lie::Failed),
    Fault::After(Lie::Conflict),
    Fault::After(Lie::Precondition),
    Fault::Twice,
    Fault::Short,
];

/// One write of one document.
struct Written {
    id: u64,
    /// What `n` is from then on; `None` for a deletion.
    value: Option<u64>,
    /// Earlier writes of the same document that the node knew of.
    after: BTreeSet<usize>,
}

struct Member {
    node: Node,
    engine: Arc<Engine>,
    knows: Knows,
    /// The changes of tags that it has seen.
    knows_tags: BTreeSet<usize>,
}

struct Fleet {
    /// Sees the store as it is.
    bucket: Bucket,
    /// Fails as planned while `is_faulty`.
    link: Bucket,
    is_faulty: Arc<AtomicBool>,
    /// How many more requests the link carries before the node that syncs is cut off for good; less than 0 for any number.
    requests_left: Arc<AtomicI64>,
    is_cut: Arc<Notify>,
    members: Vec<Member>,
    writes: Vec<Written>,
    tags: Tags,
    /// What each commit in the bucket knows of.
    commits: BTreeMap<String, BTreeSet<usize>>,
    /// Branches that nobody deleted, which nobody writes to.
    branches: BTreeMap<String, Documents>,
    branched: usize,
}

fn over(store: Arc<dyn object_store::ObjectStore>, seed: u64) -> Bucket {
    let (clock, random) = (Arc::new(ManualClock::at(1_700_000_000_000)), Arc::new(SeededRandom::new(seed)));
    Bucket::over(Backend::direct(store, None, "memory"), clock, random)
}

async fn sync(member: &Member, bucket: &Bucket) -> Result<Status> {
    let options = SyncOptions { policy: Policy::Lww, patience: PATIENCE };
    Sync::new(member.engine.clone(), bucket.clone(), options, member.node.clock.clone()).run().await
}

impl Fleet {
    async fn new(seed: u64) -> Fleet {
        let store = Arc::new(InMemory::new());
        let is_faulty = Arc::new(AtomicBool::new(false));
        let (planned, random) = (is_faulty.clone(), SeededRandom::new(seed));
        let (requests_left, is_cut) = (Arc::new(AtomicI64::new(-1)), Arc::new(Notify::new()));
        let (left, cut) = (requests_left.clone(), is_cut.clone());
        let rate = 3 + random.next_u64() % 30;
        let faulty = FaultyStore::new(store.clone(), move |_| {
            // Whatever else was under way when it was cut off is not heard of any more, either.
            if left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| (left > 0).then(|| left - 1)) == Err(0) {
                cut.notify_waiters();
                return Some(Fault::Silence);
            }
            let drawn = random.next_u64();
            let due = planned.load(Ordering::SeqCst) && drawn % rate == 0;
            due.then(|| FAULTS[(drawn / rate) as usize % FAULTS.len()])
        });
        let members = (0..NODES as u64).map(|n| {
            let node = Node::new(seed * 100 + n);
            Member { engine: node.open(), node, knows: Knows::default(), knows_tags: BTreeSet::new() }
        });
        let mut fleet = Fleet {
            bucket: over(store, seed),
            link: over(Arc::new(faulty), seed + 1),
            is_faulty,
            requests_left,
            is_cut,
            members: members.collect(),
            writes: Vec::new(),
            tags: Tags::default(),
            commits: BTreeMap::new(),
            branches: BTreeMap::new(),
            branched: 0,
        };
        fleet.put(0, 0, &[0, 1, 2]).await;
        if seed.is_multiple_of(3) {
            // Everybody creates the namespace for itself.
            for at in 1..NODES {
                fleet.put(at, 0, &[at as u64, at as u64 + 1]).await;
            }
            return fleet;
        }
        for at in 0..NODES {
            fleet.sync(at).await;
        }
        fleet
    }

    /// Makes the branch that is written to, and tells everybody.
    async fn begin_side(&mut self) {
        branch(&self.members[0].engine, WRITTEN[0], WRITTEN[1]).await;
        let [docs, side] = &mut self.members[0].knows;
        side.clone_from(docs);
        for at in 0..NODES {
            self.sync(at).await;
        }
    }

    /// Whether a member has a namespace.
    fn has(&self, at: usize, of: usize) -> bool {
        self.members[at].engine.nsid_of(&name(WRITTEN[of])).is_some()
    }

    async fn put(&mut self, at: usize, of: usize, ids: &[u64]) {
        for id in ids {
            let value = self.writes.len() as u64;
            put(&self.members[at].engine, WRITTEN[of], [*id], value).await;
            self.wrote(at, of, *id, Some(value));
        }
    }

    async fn delete(&mut self, at: usize, of: usize, id: u64) {
        if !all(&self.members[at].engine, WRITTEN[of]).contains_key(&DocId::Uint(id)) {
            return;
        }
        write(&self.members[at].engine, WRITTEN[of], json!({"deletes": [id]})).await;
        self.wrote(at, of, id, None);
    }

    fn wrote(&mut self, at: usize, of: usize, id: u64, value: Option<u64>) {
        let knows = &mut self.members[at].knows[of];
        let after = knows.iter().copied().filter(|known| self.writes[*known].id == id).collect();
        knows.insert(self.writes.len());
        self.writes.push(Written { id, value, after });
    }

    /// Merges one of the two into the other.
    async fn merge(&mut self, at: usize, into: usize) {
        let (from, Member { engine, knows, .. }) = (1 - into, &mut self.members[at]);
        let request = MergeRequest { policy: Policy::Lww, ..MergeRequest::default() };
        engine.merge(&name(WRITTEN[from]), &name(WRITTEN[into]), request).await.unwrap();
        let merged = knows[from].clone();
        knows[into].extend(merged);
    }

    /// Has a tag name the newest state, or deletes it.
    async fn tag(&mut self, at: usize, tag: &str, is_set: bool) {
        let Member { engine, knows_tags, .. } = &mut self.members[at];
        if engine.nsid_of(&name("docs")).is_some() {
            self.tags.change((engine, &name("docs"), tag), is_set.then_some(None), knows_tags).await;
        }
    }

    fn look_at_tags(&mut self) {
        for (at, Member { engine, knows_tags, .. }) in self.members.iter_mut().enumerate() {
            if engine.nsid_of(&name("docs")).is_some() {
                self.tags.look(&format!("node {at}"), engine, &name("docs"), knows_tags);
            }
        }
    }

    /// A member more, on a copy of this one's disk.
    fn clone_disk(&mut self, at: usize, seed: u64) {
        let from = &self.members[at];
        let node = Node { disk: from.node.disk.duplicate(), ..Node::new(seed) };
        node.clock.advance(from.node.clock.now_millis().saturating_sub(node.clock.now_millis()));
        let (knows, knows_tags) = (from.knows.clone(), from.knows_tags.clone());
        self.members.push(Member { engine: node.open(), node, knows, knows_tags });
    }

    /// A member's disk is lost, and what was copied of it is put in its place.
    fn put_back(&mut self, at: usize, (disk, knows): &(MemoryDisk, Knows), seed: u64) {
        let clock = self.members[at].node.clock.clone();
        let node = Node { disk: disk.duplicate(), clock, ..Node::new(seed) };
        self.members[at].knows = knows.clone();
        self.members[at].engine = node.open();
        self.members[at].node = node;
    }

    /// The last of all keys with this in them.
    async fn last_key(&self, part: &str) -> Option<String> {
        let keys = self.bucket.list_all("", None, 100_000, &PATIENCE).await.unwrap();
        keys.into_iter().map(|listed| listed.key).filter(|key| key.contains(part)).max()
    }

    /// The incarnation that a name means in the bucket.
    async fn bound(&self, of: usize) -> Option<Nsid> {
        let key = self.last_key(&format!("/names/{}/", WRITTEN[of])).await?;
        let bytes = self.bucket.get(&key, &PATIENCE).await.unwrap().unwrap();
        decode_binding(&bytes, &key).unwrap().target
    }

    /// The newest commit of a namespace in the bucket.
    async fn newest_of(&self, of: usize) -> Option<String> {
        let nsid = self.bound(of).await?;
        let key = self.last_key(&format!("{nsid}/manifests/")).await?;
        let bytes = self.bucket.get(&key, &PATIENCE).await.unwrap().unwrap();
        Some(decode_manifest(&bytes, &key).unwrap().0.commit_id.to_string())
    }

    async fn newest(&self) -> [Option<String>; WRITTEN.len()] {
        [self.newest_of(0).await, self.newest_of(1).await]
    }

    async fn branch(&mut self, at: usize) {
        if self.branched == BRANCHES_MAX {
            return;
        }
        let to = format!("try-{}", self.branched);
        branch(&self.members[at].engine, "docs", &to).await;
        self.branched += 1;
        self.branches.insert(to.clone(), all(&self.members[at].engine, &to));
    }

    async fn delete_branch(&mut self, at: usize) {
        let engine = &self.members[at].engine;
        let here = |branch: &&String| engine.named().iter().any(|(name, _)| *name.name == **branch);
        let Some(gone) = self.branches.keys().find(here).cloned() else { return };
        engine.delete(&name(&gone)).await.unwrap();
        self.branches.remove(&gone);
    }

    /// One run of reclaim, which the link fails, and cuts off where it carries no more than so many requests.
    async fn reclaim(&mut self, at: usize, retention_ms: u64, requests: i64) {
        let before = self.newest().await;
        self.requests_left.store(requests, Ordering::SeqCst);
        let is_cut = self.is_cut.clone();
        let cut = is_cut.notified();
        let Member { node, engine, .. } = &self.members[at];
        let options = SyncOptions { policy: Policy::Lww, patience: PATIENCE };
        let link = Sync::new(engine.clone(), self.link.clone(), options, node.clock.clone());
        let (all, ask) = (Selection::default(), Reclaim { retention_ms, ..Reclaim::default() });
        tokio::select! {
            run = link.reclaim(&all, &ask) => {
                let is_ok = run.failed.is_none() || self.is_faulty.load(Ordering::SeqCst);
                assert!(is_ok, "{:?}", run.failed);
            }
            () = cut => {}
        }
        drop(link);
        if self.requests_left.load(Ordering::SeqCst) == 0 {
            let Member { node, engine, .. } = &mut self.members[at];
            *engine = node.cut_power(engine.clone());
        }
        self.requests_left.store(-1, Ordering::SeqCst);
        // A fence knows what the commit before it knew.
        for (before, after) in before.into_iter().zip(self.newest().await) {
            if let (Some(before), Some(after)) = (before, after) {
                self.commits.insert(after, self.commits[&before].clone());
            }
        }
        contents(&self.bucket).await.assert_whole();
    }

    /// One pass that loses power at some request.
    async fn sync_and_die(&mut self, at: usize, requests: i64) {
        self.requests_left.store(requests, Ordering::SeqCst);
        self.sync(at).await;
        self.requests_left.store(-1, Ordering::SeqCst);
    }

    /// One pass, and what everybody knows afterwards, whatever it was told.
    async fn sync(&mut self, at: usize) -> bool {
        let before = self.newest().await;
        let is_cut = self.is_cut.clone();
        let cut = is_cut.notified();
        let done = tokio::select! {
            done = sync(&self.members[at], &self.link) => {
                let is_ok = done.is_ok() || self.is_faulty.load(Ordering::SeqCst);
                assert!(is_ok, "{:?}", done.err());
                done.is_ok()
            }
            () = cut => false,
        };
        if self.requests_left.load(Ordering::SeqCst) == 0 {
            let Member { node, engine, .. } = &mut self.members[at];
            *engine = node.cut_power(engine.clone());
        }
        let after = self.newest().await;
        for (of, (before, after)) in before.into_iter().zip(after).enumerate() {
            let bound = self.bound(of).await;
            let Member { engine, knows, .. } = &mut self.members[at];
            let common = bound.filter(|nsid| engine.nsid_of(&name(WRITTEN[of])) == Some(*nsid));
            let common = common.and_then(|nsid| engine.common(nsid).unwrap());
            let common = common.map(|manifest| manifest.commit_id.to_string());
            // Who committed on a state has taken it in before.
            let moved = before != after;
            if let Some(before) = before
                && (moved || common.as_ref() == Some(&before))
            {
                knows[of].extend(&self.commits[&before]);
            }
            if let (true, Some(after)) = (moved, after) {
                self.commits.insert(after, knows[of].clone());
            }
        }
        done
    }

    /// Everybody meets without faults; then what everybody has is looked at.
    async fn check(&mut self, rule: Rule) {
        self.is_faulty.store(false, Ordering::SeqCst);
        for _ in 0..2 {
            for at in 0..self.members.len() {
                assert!(self.sync(at).await);
            }
        }
        delete_late(&self.bucket).await;
        reclaim_to_the_end(&self.members[0].node, &self.members[0].engine, &self.bucket).await;
        let node = Node::new(77);
        self.members.push(Member { engine: node.open(), node, knows: Knows::default(), knows_tags: BTreeSet::new() });
        sync(&self.members[self.members.len() - 1], &self.bucket).await.unwrap();
        for member in &self.members {
            for of in (0..WRITTEN.len()).filter(|of| self.has(0, *of)) {
                let (one, other) = (&self.members[0].engine, &member.engine);
                assert_eq!(all(other, WRITTEN[of]), all(one, WRITTEN[of]));
                assert_eq!(lost(other, WRITTEN[of]).len(), lost(one, WRITTEN[of]).len());
            }
            let report = member.engine.check(3).unwrap();
            assert!(report.is_whole(), "{report:?}");
            let named = member.engine.named().into_iter().map(|(name, _)| name.name.to_string());
            let branches: BTreeMap<String, Documents> = named
                .filter(|name| !WRITTEN.contains(&name.as_str()))
                .map(|name| {
                    let found = all(&member.engine, &name);
                    (name, found)
                })
                .collect();
            assert_eq!(branches, self.branches);
        }
        self.look_at_tags();
        let engines: Vec<&Engine> = self.members.iter().map(|member| &*member.engine).collect();
        self.tags.check_all("in the end", &engines, &name("docs"), rule);
        let here: Vec<usize> = (0..WRITTEN.len()).filter(|of| self.has(0, *of)).collect();
        let engine = &self.members[0].engine;
        let losers: BTreeSet<(DocId, Option<u64>)> = here
            .iter()
            .flat_map(|of| lost(engine, WRITTEN[*of]))
            .map(|state| (state.id, state.fields.map(|fields| fields["n"].as_u64().unwrap())))
            .collect();
        for of in here {
            let (found, arrived) = (all(engine, WRITTEN[of]), &self.members[0].knows[of]);
            let replaced: BTreeSet<usize> =
                arrived.iter().flat_map(|at| self.writes[*at].after.iter().copied()).collect();
            for id in 0..IDS {
                let newest: Vec<usize> =
                    arrived.difference(&replaced).copied().filter(|at| self.writes[*at].id == id).collect();
                let value = found.get(&DocId::Uint(id)).map(|row| row["n"].as_u64().unwrap());
                let is_one = newest.iter().any(|at| self.writes[*at].value == value);
                let what = WRITTEN[of];
                assert!(
                    is_one || newest.is_empty() && value.is_none(),
                    "{what} {id}: {value:?} is of none of {newest:?}"
                );
                for at in newest.into_iter().filter(|at| self.writes[*at].value != value) {
                    let state = (DocId::Uint(id), self.writes[at].value);
                    let is_kept = losers.contains(&state) || self.is_merged_deletion(at);
                    assert!(is_kept, "{what} {id} has {value:?}, write {at} is gone without a word");
                }
            }
        }
    }

    /// Whether another node deleted the same document not knowing of this deletion: the two are one.
    fn is_merged_deletion(&self, at: usize) -> bool {
        let own = &self.writes[at];
        let is_other = |(other, write): (usize, &Written)| {
            let is_apart = other != at && !write.after.contains(&at) && !own.after.contains(&other);
            write.id == own.id && write.value.is_none() && is_apart
        };
        own.value.is_none() && self.writes.iter().enumerate().any(is_other)
    }
}

async fn history(seed: u64) {
    let random = SeededRandom::new(seed);
    let pick = |n: u64| random.next_u64() % n;
    let mut fleet = Fleet::new(seed).await;
    let is_cloned = pick(CLONED_IN) == 0;
    if !seed.is_multiple_of(3) && pick(2) == 0 {
        fleet.begin_side().await;
    }
    fleet.is_faulty.store(true, Ordering::SeqCst);
    let mut backup = None;
    for step in 0..STEPS as u64 {
        let at = pick(fleet.members.len() as u64) as usize;
        if is_cloned && pick(8) == 0 {
            match (&backup, pick(3)) {
                (None, _) => {
                    backup = Some((at, (fleet.members[at].node.disk.duplicate(), fleet.members[at].knows.clone())));
                }
                (Some((of, copy)), 0) => fleet.put_back(*of, copy, seed * 100 + 50 + step),
                _ if fleet.members.len() < NODES + CLONES => fleet.clone_disk(at, seed * 100 + 10 + step),
                _ => {}
            }
        }
        fleet.members[at].node.clock.advance(pick(5_000));
        let of = if fleet.has(at, 1) { pick(2) as usize } else { 0 };
        if fleet.has(at, 1) && pick(8) == 0 {
            fleet.merge(at, of).await;
        }
        match pick(20) {
            0..5 => {
                let ids: Vec<u64> = (0..1 + pick(3)).map(|_| pick(IDS)).collect();
                fleet.put(at, of, &ids).await;
            }
            5 => fleet.delete(at, of, pick(IDS)).await,
            6 => fleet.members[at].engine.checkpoint(&name(WRITTEN[of])).await.unwrap(),
            7 => fleet.members[at].engine.compact(&name(WRITTEN[of])).await.unwrap(),
            8 => {
                let Member { node, engine, .. } = &mut fleet.members[at];
                *engine = node.cut_power(engine.clone());
            }
            9 => fleet.sync_and_die(at, pick(25) as i64).await,
            // A backup that is put back knows of no branch that was made or deleted since.
            10 if !is_cloned => fleet.branch(at).await,
            11 if !is_cloned => fleet.delete_branch(at).await,
            12 => fleet.reclaim(at, [0, 10_000][pick(2) as usize], -1).await,
            13 => fleet.reclaim(at, 0, pick(60) as i64).await,
            14 => delete_late(&fleet.bucket).await,
            15 => fleet.tag(at, tag_oracle::NAMES[pick(3) as usize], true).await,
            16 => fleet.tag(at, tag_oracle::NAMES[pick(3) as usize], pick(3) == 0).await,
            _ => {
                fleet.sync(at).await;
            }
        }
        fleet.look_at_tags();
    }
    fleet.check(if is_cloned { Rule::Any } else { Rule::HighestOfSet }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_any_life_everybody_has_everything_and_what_lost_is_kept() {
    let number = |name: &str, default: u64| std::env::var(name).map_or(default, |text| text.parse().unwrap());
    if std::env::var("SHOAL_LIFE").is_ok() {
        return history(number("SHOAL_LIFE", 0)).await;
    }
    for seed in 0..number("SHOAL_LIVES", 100) {
        println!("SHOAL_LIFE={seed}");
        history(seed).await;
    }
}
