//! Random histories of writes, branches, merges, flushes, deletions and restarts against a plain model that knows, of every namespace,
//! exactly which versions it has seen, and of every two what they had in common. Values are few, so that rows are often written again
//! as they were, and changed back. `SHOAL_MERGE_SEEDS=n` runs n histories, `SHOAL_MERGE_SEED=s` that of one seed, and prints its steps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::json;
use shoal::engine::Engine;
use shoal::engine::merge::decide::Policy;
use shoal::model::ids::DocId;
use shoal::platform::random::Random;

use crate::node::{Node, all, branch, name, put, write};
use crate::policies::merge;

/// A step of the history, and the namespace that wrote something in it.
type Version = (u64, usize);

/// A namespace: of every id the newest version and its value, `None` when that is a deletion; and of every namespace the newest
/// step that was seen of it.
#[derive(Clone, Default)]
struct Model {
    origin: usize,
    last: BTreeMap<u64, (Version, Option<u64>)>,
    vector: BTreeMap<usize, u64>,
    clock: u64,
}

/// What both sides of a merge began with.
struct Common {
    /// The state that it is from has seen everything that both sides have.
    is_newest: bool,
    version: Option<Version>,
    value: Option<u64>,
}

impl Model {
    fn write(&mut self, id: u64, step: u64, value: Option<u64>) {
        self.last.insert(id, ((step, self.origin), value));
        self.see(self.origin, step);
        self.clock = step;
    }

    fn see(&mut self, origin: usize, step: u64) {
        let seen = self.vector.entry(origin).or_default();
        *seen = step.max(*seen);
    }

    fn seen(&self, origin: usize) -> u64 {
        self.vector.get(&origin).copied().unwrap_or_default()
    }

    fn covers(&self, (step, origin): Version) -> bool {
        self.seen(origin) >= step
    }

    fn covers_all(&self, other: &Model) -> bool {
        other.vector.iter().all(|(origin, step)| self.seen(*origin) >= *step)
    }

    /// Whether it has seen everything that both others have.
    fn covers_common(&self, a: &Model, b: &Model) -> bool {
        a.vector.iter().all(|(origin, step)| self.seen(*origin) >= b.seen(*origin).min(*step))
    }

    fn documents(&self) -> BTreeMap<u64, u64> {
        self.last.iter().filter_map(|(id, (_, value))| Some((*id, (*value)?))).collect()
    }

    fn common(&self, theirs: &Model, id: u64, bases: &[&Model]) -> Option<Common> {
        let of = |base: &&Model| {
            let (version, value) =
                base.last.get(&id).map_or((None, None), |(version, value)| (Some(*version), *value));
            let is_common = version.map_or_else(
                || theirs.covers_all(base) && self.covers_all(base),
                |version| theirs.covers(version) && self.covers(version),
            );
            is_common.then_some(Common { is_newest: base.covers_common(self, theirs), version, value })
        };
        bases.iter().filter_map(of).max_by_key(|common| (common.is_newest, common.version))
    }

    /// Merges `theirs` into this; `None` when the policy decides nothing about a conflict. `bases`: states that both may have had.
    fn merge(&self, theirs: &Model, policy: Policy, step: u64, bases: &[&Model]) -> Option<Model> {
        if self.covers_all(theirs) {
            return Some(self.clone());
        }
        let mut merged = self.clone();
        let mut is_new = false;
        for (id, (s, their_value)) in &theirs.last {
            if self.covers(*s) {
                continue;
            }
            let theirs_is_higher = self.last.get(id).is_none_or(|(t, _)| s > t);
            let mut renew = |merged: &mut Model, value: Option<u64>| {
                is_new = true;
                merged.last.insert(*id, ((step, self.origin), value));
            };
            let take = |merged: &mut Model| {
                merged.last.insert(*id, (*s, *their_value));
            };
            let Some((t, our_value)) = self.last.get(id) else {
                take(&mut merged);
                continue;
            };
            if theirs.covers(*t) {
                take(&mut merged);
                continue;
            }
            if their_value == our_value {
                if theirs_is_higher {
                    take(&mut merged);
                }
                continue;
            }
            let common = self.common(theirs, *id, bases);
            if let Some(Common { is_newest: true, value: value @ Some(_), .. }) = common {
                match (*their_value != value, *our_value != value) {
                    (true, false) if theirs_is_higher => take(&mut merged),
                    (true, false) => renew(&mut merged, *their_value),
                    (false, _) if theirs_is_higher => renew(&mut merged, *our_value),
                    (false, _) => {}
                    (true, true) => {}
                }
                if *their_value == value || *our_value == value {
                    continue;
                }
            }
            match policy {
                Policy::Fail | Policy::FieldsOrFail => return None,
                Policy::Lww if theirs_is_higher => take(&mut merged),
                Policy::Lww => {}
                Policy::Fields => {
                    let before = common.and_then(|common| common.value);
                    let takes_theirs = match (their_value, our_value) {
                        (None, _) => false,
                        (_, None) => true,
                        (s, t) => *s != before && (*t == before || theirs_is_higher),
                    };
                    renew(&mut merged, if takes_theirs { *their_value } else { *our_value });
                }
                Policy::Ours => renew(&mut merged, *our_value),
                Policy::Theirs | Policy::KeepBoth => renew(&mut merged, *their_value),
            }
        }
        let newest = theirs.vector.values().copied().max().unwrap_or_default();
        for (origin, step) in &theirs.vector {
            merged.see(*origin, *step);
        }
        merged.clock = if is_new { step } else { self.clock.max(newest) };
        merged.see(self.origin, merged.clock);
        Some(merged)
    }
}

/// A namespace and its ancestors, up to the first that is gone.
fn line_of(parents: &[Option<usize>], alive: &[usize], at: usize) -> Vec<usize> {
    std::iter::successors(Some(at), |at| parents[*at].filter(|_| alive.contains(at))).collect()
}

fn found(engine: &Engine, namespace: &str) -> BTreeMap<u64, u64> {
    let documents = all(engine, namespace);
    let document = |(id, row): (DocId, BTreeMap<String, serde_json::Value>)| match id {
        DocId::Uint(id) => (id, row["n"].as_u64().unwrap()),
        other => panic!("expected an integer, got {other}"),
    };
    documents.into_iter().map(document).collect()
}

/// How many commits a namespace has.
fn commits(engine: &Engine, namespace: &str) -> u64 {
    engine.status(&name(namespace)).unwrap()["data_seq"].as_u64().unwrap()
}

async fn history(seed: u64, is_told: bool) {
    let mut node = Node::new(seed);
    // Who is deleted is gone at once, and its origin another's.
    node.config.retention_ms = 0;
    let mut engine: Arc<Engine> = node.open();
    let mut models: Vec<(String, Model)> = vec![("main".into(), Model::default())];
    // Of every namespace the state that it began with, and of every merge the source's last state.
    let mut first: Vec<Option<Model>> = vec![None];
    let mut merged: BTreeMap<(usize, usize), Model> = BTreeMap::new();
    // Of every namespace the states that it was in, by the commits that they have.
    let mut been: Vec<BTreeMap<u64, Model>> = vec![BTreeMap::from([(0, Model::default())])];
    let mut parents: Vec<Option<usize>> = vec![None];
    let mut alive: Vec<usize> = vec![0];
    let mut version = 0;
    let pick = |n: u64| node.random.next_u64() % n;
    for step in 0..90 {
        node.clock.advance(1);
        version += 1;
        let at = alive[pick(alive.len() as u64) as usize];
        let what = format!("seed {seed}, step {step}");
        if is_told {
            println!("{what}");
            for (namespace, model) in &models {
                println!("    {namespace} {:?} {:?}", model.vector, model.last);
            }
        }
        match if step == 0 { 0 } else { pick(18) } {
            0..5 => {
                let ids: BTreeSet<u64> = (0..1 + pick(5)).map(|_| pick(25)).collect();
                let value = pick(4);
                put(&engine, &models[at].0, ids.iter().copied(), value).await;
                ids.iter().for_each(|id| models[at].1.write(*id, version, Some(value)));
            }
            5 | 6 => {
                let id = pick(25);
                write(&engine, &models[at].0, json!({"deletes": [id]})).await;
                models[at].1.write(id, version, None);
            }
            7 => engine.checkpoint(&name(&models[at].0)).await.unwrap(),
            8 => engine.compact(&name(&models[at].0)).await.unwrap(),
            9 | 17 if alive.len() < 5 => {
                alive.push(models.len());
                let to = format!("b{step}");
                branch(&engine, &models[at].0, &to).await;
                let model = models[at].1.clone();
                first.push(Some(model.clone()));
                been.push(BTreeMap::new());
                parents.push(Some(at));
                models.push((to, Model { origin: models.len(), ..model }));
            }
            10 if pick(2) == 0 => engine = node.cut_power(engine),
            16 if at > 0 => {
                engine.delete(&name(&models[at].0)).await.unwrap();
                alive.retain(|other| *other != at);
                first[at] = None;
                merged.retain(|(_, into), _| *into != at);
            }
            _ if alive.len() > 1 => {
                let others: Vec<usize> = alive.iter().copied().filter(|other| *other != at).collect();
                let from = others[pick(others.len() as u64) as usize];
                let policies =
                    [Policy::Fail, Policy::Lww, Policy::Fields, Policy::FieldsOrFail, Policy::Ours, Policy::Theirs];
                let policy = policies[pick(6) as usize];
                let kept = [from, at].map(|of| (of, engine.history(&name(&models[of].0)).unwrap()));
                let report = merge(&engine, &models[from].0, &models[at].0, policy).await.unwrap();
                let own =
                    [merged.get(&(from, at)), merged.get(&(at, from)), first[from].as_ref(), first[at].as_ref()];
                let mut bases: Vec<&Model> = own.into_iter().flatten().collect();
                // What their ancestors knew counts where it is all that both have in common.
                let family: BTreeSet<usize> =
                    [from, at].into_iter().flat_map(|side| line_of(&parents, &alive, side)).collect();
                let is_of_family = |pair: &(usize, usize)| family.contains(&pair.0) && family.contains(&pair.1);
                let among = merged.iter().filter(|(pair, _)| is_of_family(pair)).map(|(_, base)| base);
                let relatives = among.chain(family.iter().filter_map(|of| first[*of].as_ref()));
                let has_all = |base: &&Model| base.covers_common(&models[from].1, &models[at].1);
                let is_all =
                    |base: &&Model| has_all(base) && models[from].1.covers_all(base) && models[at].1.covers_all(base);
                bases.extend(relatives.filter(has_all));
                if !bases.iter().any(is_all) {
                    // So does what either took from others, and what those began with.
                    let is_others = |(of, by): &(usize, usize)| [from, at].contains(by) && !family.contains(of);
                    let others = merged.iter().filter(|(pair, _)| is_others(pair));
                    let taken = others.flat_map(|((of, _), base)| [Some(base), first[*of].as_ref()]).flatten();
                    bases.extend(taken.filter(has_all));
                }
                // So does what they were themselves, as far as it is kept: of either the oldest state.
                let own = kept.iter().filter_map(|(of, kept)| {
                    let mut states = kept.iter().rev().filter_map(|state| been[*of].get(&state.data_seq));
                    states.find(has_all)
                });
                if !bases.iter().any(is_all) {
                    let own: Vec<&Model> = own.collect();
                    match own.iter().find(|base| is_all(base)) {
                        Some(base) => bases.push(base),
                        None => bases.extend(own),
                    }
                }
                let expected = models[at].1.merge(&models[from].1, policy, version, &bases);
                if is_told {
                    println!("    merged {from} into {at} by {policy}: {report:?}");
                }
                assert_eq!(report.refused, expected.is_none(), "{what}: {policy}: {report:?}");
                if let Some(expected) = expected {
                    models[at].1 = expected;
                    if report.commit.is_some() {
                        merged.insert((from, at), models[from].1.clone());
                        // Those of who is gone go with that.
                        merged.retain(|(from, into), _| *into != at || alive.contains(from));
                    }
                }
                let again = merge(&engine, &models[from].0, &models[at].0, policy).await.unwrap();
                assert_eq!(again.commit, None, "{what}: a second {policy} merge: {again:?}");
            }
            _ => {}
        }
        for at in &alive {
            let (namespace, model) = &models[*at];
            assert_eq!(found(&engine, namespace), model.documents(), "{what}: {namespace}");
            been[*at].insert(commits(&engine, namespace), model.clone());
        }
    }
    let report = engine.check(3).unwrap();
    assert!(report.is_whole(), "seed {seed}: {report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_namespace_is_what_a_model_of_seen_versions_says() {
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse().ok());
    if let Some(seed) = number("SHOAL_MERGE_SEED") {
        return history(seed, true).await;
    }
    for seed in 1..=number("SHOAL_MERGE_SEEDS").unwrap_or(12) {
        history(seed, false).await;
    }
}
