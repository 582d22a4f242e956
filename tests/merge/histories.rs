//! Random histories of writes, branches, merges, flushes and restarts against a plain model that knows, of every namespace,
//! exactly which versions it has seen. `SHOAL_MERGE_SEEDS=n` runs n histories.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::json;
use shoal::engine::Engine;
use shoal::engine::merge::decide::Policy;
use shoal::model::ids::DocId;
use shoal::platform::random::Random;

use crate::node::{Node, all, branch, name, put, write};
use crate::policies::merge;

/// A namespace: of every id the newest version and its value, `None` when that is a deletion.
#[derive(Clone, Default)]
struct Model {
    last: BTreeMap<u64, (u64, Option<u64>)>,
    seen: BTreeSet<u64>,
}

impl Model {
    fn set(&mut self, id: u64, version: u64, value: Option<u64>) {
        self.last.insert(id, (version, value));
        self.seen.insert(version);
    }

    fn documents(&self) -> BTreeMap<u64, u64> {
        self.last.iter().filter_map(|(id, (_, value))| Some((*id, (*value)?))).collect()
    }

    /// Merges `theirs` into this; `None` when the policy is to fail and there are conflicts.
    fn merge(&self, theirs: &Model, policy: Policy, version: u64) -> Option<Model> {
        let mut merged = self.clone();
        for (id, (s, their_value)) in &theirs.last {
            if self.seen.contains(s) {
                continue;
            }
            let Some((t, our_value)) = self.last.get(id) else {
                merged.set(*id, *s, *their_value);
                continue;
            };
            if theirs.seen.contains(t) {
                merged.set(*id, *s, *their_value);
            } else if their_value.is_none() && our_value.is_none() {
                merged.set(*id, *s.max(t), None);
            } else if their_value != our_value {
                match policy {
                    Policy::Fail => return None,
                    Policy::Lww if s > t => merged.set(*id, *s, *their_value),
                    Policy::Lww => {}
                    Policy::Ours => merged.set(*id, version, *our_value),
                    _ => merged.set(*id, version, *their_value),
                }
            }
        }
        merged.seen.extend(&theirs.seen);
        Some(merged)
    }
}

fn found(engine: &Engine, namespace: &str) -> BTreeMap<u64, u64> {
    let documents = all(engine, namespace);
    let document = |(id, row): (DocId, BTreeMap<String, serde_json::Value>)| match id {
        DocId::Uint(id) => (id, row["n"].as_u64().unwrap()),
        other => panic!("expected an integer, got {other}"),
    };
    documents.into_iter().map(document).collect()
}

async fn history(seed: u64) {
    let node = Node::new(seed);
    let mut engine: Arc<Engine> = node.open();
    let mut models: Vec<(String, Model)> = vec![("main".into(), Model::default())];
    let mut version = 0;
    let pick = |n: u64| node.random.next_u64() % n;
    for step in 0..90 {
        node.clock.advance(1);
        version += 1;
        let at = pick(models.len() as u64) as usize;
        let what = format!("seed {seed}, step {step}");
        match if step == 0 { 0 } else { pick(16) } {
            0..5 => {
                let ids: BTreeSet<u64> = (0..1 + pick(5)).map(|_| pick(25)).collect();
                let value = pick(4);
                put(&engine, &models[at].0, ids.iter().copied(), value).await;
                ids.iter().for_each(|id| models[at].1.set(*id, version, Some(value)));
            }
            5 | 6 => {
                let id = pick(25);
                write(&engine, &models[at].0, json!({"deletes": [id]})).await;
                models[at].1.set(id, version, None);
            }
            7 => engine.checkpoint(&name(&models[at].0)).await.unwrap(),
            8 => engine.compact(&name(&models[at].0)).await.unwrap(),
            9 if models.len() < 5 => {
                let to = format!("b{step}");
                branch(&engine, &models[at].0, &to).await;
                let model = models[at].1.clone();
                models.push((to, model));
            }
            10 => engine = node.cut_power(engine),
            _ if models.len() > 1 => {
                let from = (at + 1 + pick(models.len() as u64 - 1) as usize) % models.len();
                let policies = [Policy::Fail, Policy::Lww, Policy::Ours, Policy::Theirs];
                let policy = policies[pick(4) as usize];
                let report = merge(&engine, &models[from].0, &models[at].0, policy).await.unwrap();
                let expected = models[at].1.merge(&models[from].1, policy, version);
                assert_eq!(report.refused, expected.is_none(), "{what}: {policy}: {report:?}");
                if let Some(expected) = expected {
                    models[at].1 = expected;
                }
                let again = merge(&engine, &models[from].0, &models[at].0, policy).await.unwrap();
                assert_eq!(again.commit, None, "{what}: a second {policy} merge: {again:?}");
            }
            _ => {}
        }
        for (namespace, model) in &models {
            assert_eq!(found(&engine, namespace), model.documents(), "{what}: {namespace}");
        }
    }
    let report = engine.check(3).unwrap();
    assert!(report.is_whole(), "seed {seed}: {report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_namespace_is_what_a_model_of_seen_versions_says() {
    let seeds = std::env::var("SHOAL_MERGE_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(12);
    for seed in 1..=seeds {
        history(seed).await;
    }
}
